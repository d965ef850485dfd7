"""The English names of what a calendar counts, and how Java shortens them: to three letters."""

MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December")  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")  # ISO: Monday is 1
HALVES = ("AM", "PM")
