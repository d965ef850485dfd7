"""What a text has said about a moment, put together as java.time does (`ResolverStyle.SMART`).

A date must come out of it; without a time it is midnight; without an offset or zone it is in UTC. 31 February is the
last day of February, 24:00 is midnight of the next day. What is said twice must agree: `Fri` must be a Friday.

Time fields that do not make a time, such as an hour of the half day without AM or PM, make the text invalid, and so
does a year outside of 1 to 9999.
"""

from calendar import monthrange
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta

from rules.sql.javatime.elements import Field, Found, read_all
from rules.sql.javatime.patterns import TEXT_CHARS_MAX, elements
from rules.sql.javatime.zones import EPOCH, MILLISECOND

JULIAN_DAY_ZERO = date(1858, 11, 17)
NANOS_PER_DAY = 86_400_000_000_000

# What is left of the fields when some have been used must be what the date says.
IN_DATE: dict[Field, Callable[[date], int]] = {
    Field.ERA: lambda _: 1,
    Field.YEAR: lambda day: day.year,
    Field.YEAR_OF_ERA: lambda day: day.year,
    Field.MONTH: lambda day: day.month,
    Field.DAY: lambda day: day.day,
    Field.DAY_OF_YEAR: lambda day: day.timetuple().tm_yday,
    Field.QUARTER: lambda day: (day.month + 2) // 3,
    Field.DAY_OF_WEEK: date.isoweekday,
    Field.LOCAL_DAY_OF_WEEK: lambda day: day.isoweekday() % 7 + 1,
    Field.WEEK_YEAR: lambda day: _saturday(day).year,
    Field.WEEK_OF_YEAR: lambda day: (_saturday(day).timetuple().tm_yday + 6) // 7,
    Field.WEEK_OF_MONTH: lambda day: (day.day + date(day.year, day.month, 1).isoweekday() % 7 + 6) // 7,
    Field.ALIGNED_DAY_OF_WEEK: lambda day: (day.day - 1) % 7 + 1,
    Field.MODIFIED_JULIAN_DAY: lambda day: (day - JULIAN_DAY_ZERO).days,
}
# The least and the most of a field that is used as it is.
LIMITS = {
    Field.MONTH: (1, 12),
    Field.DAY: (1, 31),
    Field.DAY_OF_YEAR: (1, 366),
    Field.WEEK_OF_YEAR: (1, 53),
    Field.LOCAL_DAY_OF_WEEK: (1, 7),
    Field.HALF: (0, 1),
    Field.HOUR: (0, 24),
    Field.CLOCK_HOUR: (0, 24),
    Field.HOUR_OF_HALF: (0, 11),
    Field.CLOCK_HOUR_OF_HALF: (0, 12),
    Field.MINUTE: (0, 59),
    Field.SECOND: (0, 59),
    Field.NANO: (0, 999_999_999),
    Field.MILLI_OF_DAY: (0, NANOS_PER_DAY // 1_000_000 - 1),
    Field.NANO_OF_DAY: (0, NANOS_PER_DAY - 1),
}


class Unresolvable(ValueError):
    """The fields contradict each other, or do not make a moment."""


def milliseconds(text: str, pattern: str) -> int | None:
    """The moment that the text means, read by the pattern; None if it does not say one."""
    wanted = elements(pattern)
    found = Found()
    if wanted is None or len(text) > TEXT_CHARS_MAX or read_all(wanted, text, 0, found) != len(text):
        return None
    try:
        return _moment(found)
    except (Unresolvable, OverflowError, ValueError):  # ValueError: a year that `date` does not have
        return None


def _moment(found: Found) -> int:
    fields = dict(found.fields)
    for about, (least, most) in LIMITS.items():
        if not least <= fields.get(about, least) <= most:
            raise Unresolvable
    nanos, days = _time(fields)
    day = _date(fields) + timedelta(days=days)
    _agree(fields, day - timedelta(days=days))
    local = datetime.combine(day, time()) + timedelta(microseconds=nanos // 1_000)
    if found.offset is not None:
        return (local.replace(tzinfo=UTC) - found.offset - EPOCH) // MILLISECOND
    return (local.replace(tzinfo=found.zone or UTC) - EPOCH) // MILLISECOND


def _agree(fields: dict[Field, int], day: date) -> None:
    if any(IN_DATE[about](day) != value for about, value in fields.items() if about in IN_DATE):
        raise Unresolvable


# ── the date; fields that have been used are taken out ──────────────────────────────────────────────────────


def _date(fields: dict[Field, int]) -> date:
    if (days := fields.pop(Field.MODIFIED_JULIAN_DAY, None)) is not None:
        return JULIAN_DAY_ZERO + timedelta(days=days)
    year = _year(fields)
    if year is not None and {Field.MONTH, Field.DAY} <= fields.keys():
        month = fields.pop(Field.MONTH)
        return date(year, month, min(fields.pop(Field.DAY), monthrange(year, month)[1]))
    if year is not None and Field.DAY_OF_YEAR in fields:
        day = date(year, 1, 1) + timedelta(days=fields.pop(Field.DAY_OF_YEAR) - 1)
        if day.year == year:
            return day
    if {Field.WEEK_YEAR, Field.WEEK_OF_YEAR} <= fields.keys():
        return _of_week(fields)
    raise Unresolvable


def _year(fields: dict[Field, int]) -> int | None:
    """The year: a year of the era is one of our era, unless the text says otherwise."""
    of_era = fields.pop(Field.YEAR_OF_ERA, None)
    if of_era is None:
        return fields.get(Field.YEAR)
    if fields.pop(Field.ERA, 1) != 1 or fields.setdefault(Field.YEAR, of_era) != of_era:
        raise Unresolvable
    return of_era


def _of_week(fields: dict[Field, int]) -> date:
    if (weekday := fields.pop(Field.DAY_OF_WEEK, None)) is not None:
        from_sunday = weekday % 7
    elif (local := fields.pop(Field.LOCAL_DAY_OF_WEEK, None)) is not None:
        from_sunday = local - 1
    else:
        raise Unresolvable
    year, week = fields.pop(Field.WEEK_YEAR), fields.pop(Field.WEEK_OF_YEAR)
    first = date(year, 1, 1)
    sunday = first - timedelta(days=first.isoweekday() % 7)
    if week == 53 and _saturday(date(year, 12, 31)).year != year:
        week = 52
    return sunday + timedelta(days=7 * (week - 1) + from_sunday)


def _saturday(day: date) -> date:
    """The last day of its week, whose year is the week's."""
    return day + timedelta(days=6 - day.isoweekday() % 7)


# ── the time ────────────────────────────────────────────────────────────────────────────────────────────────

TIMES = (Field.HOUR, Field.MINUTE, Field.SECOND, Field.NANO)
IN_DAY = {Field.MILLI_OF_DAY: 1_000_000, Field.NANO_OF_DAY: 1}  # nanoseconds in one of them
IN_HOUR: dict[Field, Callable[[int], int]] = {
    Field.HALF: lambda hour: hour // 12,
    Field.CLOCK_HOUR: lambda hour: hour or 24,
    Field.HOUR_OF_HALF: lambda hour: hour % 12,
    Field.CLOCK_HOUR_OF_HALF: lambda hour: hour % 12 or 12,
}


def _time(fields: dict[Field, int]) -> tuple[int, int]:
    """Nanoseconds since midnight, and how many days later."""
    if not fields.keys() & {*TIMES, *IN_DAY, *IN_HOUR}:
        return 0, 0
    _split_days(fields)
    hour, minute, second, nano = _hour(fields), *map(fields.get, TIMES[1:])
    if hour is None or (minute is None and (second, nano) != (None, None)) or (second is None and nano is not None):
        raise Unresolvable
    if hour == 24 and not (minute or second or nano):
        return 0, 1
    if hour == 24 or any(IN_HOUR[about](hour) != fields.get(about, IN_HOUR[about](hour)) for about in IN_HOUR):
        raise Unresolvable
    return ((hour * 60 + (minute or 0)) * 60 + (second or 0)) * 1_000_000_000 + (nano or 0), 0


def _split_days(fields: dict[Field, int]) -> None:
    """What a count since midnight says about hours, minutes, seconds and nanoseconds."""
    for about, size in IN_DAY.items():
        if about in fields:
            seconds, nano = divmod(fields[about] * size, 1_000_000_000)
            parts = (seconds // 3600, seconds // 60 % 60, seconds % 60, nano)
            if any(fields.setdefault(part, value) != value for part, value in zip(TIMES, parts, strict=True)):
                raise Unresolvable


def _hour(fields: dict[Field, int]) -> int | None:
    """The hour of the day, from whatever says it; the clock hours may be 0 where they should be 24 and 12."""
    if fields.get(Field.CLOCK_HOUR) == 0:
        fields[Field.CLOCK_HOUR] = 24
    if fields.get(Field.CLOCK_HOUR_OF_HALF) == 0:
        fields[Field.CLOCK_HOUR_OF_HALF] = 12
    if Field.HOUR in fields:
        return fields[Field.HOUR]
    if Field.CLOCK_HOUR in fields:
        return fields[Field.CLOCK_HOUR] % 24
    of_half = fields.get(Field.HOUR_OF_HALF, fields.get(Field.CLOCK_HOUR_OF_HALF))
    return None if of_half is None or Field.HALF not in fields else fields[Field.HALF] * 12 + of_half % 12
