"""EventBridge's schedule expressions: `rate(5 minutes)`, `cron(0 8 ? * MON-FRI *)`, `at(2026-11-20T13:00:00)`.

`parse` reads one, `next_after` tells its next time. A cron expression has six fields: minutes, hours, day of month,
month, day of week (1-7 or SUN-SAT), year (1970-2199); either day field is `?`. Wildcards are AWS's: `, - * / ? L W #`.

Daylight saving is EventBridge Scheduler's: a local time that does not exist is skipped, one that comes twice fires the
first time only; `at` a time that does not exist is as much later as the clock was put forward. Rates count hours that
went by, whatever the clock shows.

Values in, values out. Will not keep what has fired, nor watch a clock (`scheduler` does).
"""

import re
from bisect import bisect_left
from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TypeAlias
from zoneinfo import ZoneInfo

from functions.errors import InvalidParameter

EXPRESSION_MAX = 256  # characters (EventBridge)
YEAR_MIN, YEAR_MAX = 1970, 2199  # (EventBridge)
RATE_MAX_MS = 10 * 366 * 86_400_000  # ten years; a number beyond is a mistake

_RATE = re.compile(r"rate\(\s*(\d{1,9})\s+(minutes?|hours?|days?)\s*\)", re.ASCII)
_AT = re.compile(r"at\(\s*(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\s*\)", re.ASCII)
_UNIT_MS = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_EPOCH = datetime(1970, 1, 1)
SATURDAY = 7


class ScheduleError(InvalidParameter):
    """What is wrong with an expression, and at which character of it, counted from 0."""

    def __init__(self, text: str, position: int, message: str) -> None:
        super().__init__(f"{text[:EXPRESSION_MAX]!r}, character {position + 1}: {message}")
        self.position = position


@dataclass(frozen=True, slots=True)
class Rate:
    """Every so many milliseconds."""

    interval: int


@dataclass(frozen=True, slots=True)
class At:
    """Once, at a local time."""

    local: datetime


@dataclass(frozen=True, slots=True)
class Days:
    """Which days of a month: a set of days of the month or of weekdays (SUN is 1), or one of the special ones.

    `special` is "" for a set, "L" the last day, "LW" the last weekday, "W" the weekday nearest to `day`, "L" with a
    weekday its last one, "#" its `nth`.
    """

    month_days: tuple[int, ...] = ()
    weekdays: tuple[int, ...] = ()
    special: str = ""
    day: int = 0
    weekday: int = 0
    nth: int = 0

    def of(self, year: int, month: int) -> list[int]:
        """The days of that month, ascending."""
        last = monthrange(year, month)[1]
        match self.special:
            case "":
                if self.month_days:
                    return [day for day in self.month_days if day <= last]
                return [day for day in range(1, last + 1) if _weekday(year, month, day) in self.weekdays]
            case "W":
                return [_nearest_weekday(year, month, self.day, last)] if self.day <= last else []
            case "LW":
                return [_nearest_weekday(year, month, last, last)]
            case "L" if not self.weekday:
                return [last]
        found = [day for day in range(1, last + 1) if _weekday(year, month, day) == self.weekday]
        if self.special == "L":
            return found[-1:]
        return found[self.nth - 1 : self.nth]


@dataclass(frozen=True, slots=True)
class Cron:
    """At local times."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: Days
    months: tuple[int, ...]
    years: tuple[int, ...]

    def local_times(self, start: datetime) -> Iterator[datetime]:
        """Every local time that it names, from `start` on."""
        for year in self.years[bisect_left(self.years, start.year) :]:
            for month in self.months:
                if (year, month) < (start.year, start.month):
                    continue
                for day in self.days.of(year, month):
                    if date(year, month, day) >= start.date():
                        yield from (moment for moment in self._times(year, month, day) if moment >= start)

    def _times(self, year: int, month: int, day: int) -> Iterator[datetime]:
        return (datetime(year, month, day, hour, minute) for hour in self.hours for minute in self.minutes)


Expression: TypeAlias = Rate | Cron | At


def parse(text: str) -> Expression:
    """Read an expression. Raises ScheduleError."""
    if len(text) > EXPRESSION_MAX:
        raise ScheduleError(text, EXPRESSION_MAX, f"an expression has at most {EXPRESSION_MAX} characters")
    if text.startswith("rate("):
        return _rate(text)
    if text.startswith("at("):
        return _at(text)
    if not text.startswith("cron("):
        raise ScheduleError(text, 0, "write rate(…), cron(…) or at(…)")
    if not text.endswith(")"):
        raise ScheduleError(text, len(text), "the closing parenthesis is missing")
    return _cron(text)


def zone(name: str) -> ZoneInfo:
    """A time zone by its IANA name. Raises InvalidParameter."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError; a directory is an OSError
        raise InvalidParameter(f"{name[:100]!r} is no time zone; write one as in Europe/Berlin") from None


def next_after(expression: Expression, after_ms: int, zone: ZoneInfo, anchor_ms: int = 0) -> int | None:
    """The first time after `after_ms` (ms since the epoch); None when there is none any more.

    A rate counts from `anchor_ms`, and the two may be of any clock.
    """
    match expression:
        case Rate(interval):
            return anchor_ms + ((after_ms - anchor_ms) // interval + 1) * interval
        case At(local):
            at = _instant(local, zone)
            return at if at > after_ms else None
    try:
        start = (_EPOCH.replace(tzinfo=UTC) + timedelta(milliseconds=after_ms)).astimezone(zone).replace(tzinfo=None)
    except OverflowError:
        return None
    for local in expression.local_times(start.replace(second=0, microsecond=0)):
        at = _instant(local, zone)
        if at > after_ms and _exists(local, at, zone):
            return at
    return None


def _instant(local: datetime, zone: ZoneInfo) -> int:
    """When a local time is, the first time if it comes twice."""
    return (local.replace(tzinfo=zone) - _EPOCH.replace(tzinfo=UTC)) // timedelta(milliseconds=1)


def _exists(local: datetime, at: int, zone: ZoneInfo) -> bool:
    there = (_EPOCH.replace(tzinfo=UTC) + timedelta(milliseconds=at)).astimezone(zone)
    return there.replace(tzinfo=None, fold=0) == local


def _weekday(year: int, month: int, day: int) -> int:
    """1 for Sunday to 7 for Saturday."""
    return date(year, month, day).isoweekday() % 7 + 1


def _nearest_weekday(year: int, month: int, day: int, last: int) -> int:
    """The day from Monday to Friday nearest to a day, in the same month."""
    match _weekday(year, month, day):
        case 1:  # Sunday
            return day + 1 if day < last else day - 2
        case 7:  # Saturday
            return day - 1 if day > 1 else day + 2
    return day


# -- reading -----------------------------------------------------------------------------------------------------------


def _rate(text: str) -> Rate:
    found = _RATE.fullmatch(text)
    if found is None:
        raise ScheduleError(text, 5, "write a rate as in rate(5 minutes): a number, and minutes, hours or days")
    interval = int(found[1]) * _UNIT_MS[found[2].removesuffix("s")]
    if not 0 < interval <= RATE_MAX_MS:
        raise ScheduleError(text, found.start(1), "a rate is at least one minute and at most ten years")
    return Rate(interval)


def _at(text: str) -> At:
    found = _AT.fullmatch(text)
    if found is None:
        raise ScheduleError(text, 3, "write a time as in at(2026-11-20T13:00:00)")
    try:
        local = datetime(*map(int, found.groups()))  # type: ignore[arg-type] # six numbers, no zone
    except ValueError as error:
        raise ScheduleError(text, 3, str(error)) from None
    if not YEAR_MIN < local.year <= YEAR_MAX:
        raise ScheduleError(text, 3, f"the year is one of {YEAR_MIN + 1}-{YEAR_MAX}")
    return At(local)


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a cron expression: what it is called, its values, and where it stands."""

    text: str
    position: int
    whole: str
    title: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    def fail(self, message: str, offset: int = 0) -> ScheduleError:
        return ScheduleError(self.whole, self.position + offset, f"{self.title}: {message}")

    def values(self) -> tuple[int, ...]:
        """The set that a field without a special character means. Raises ScheduleError."""
        found: set[int] = set()
        offset = 0
        for item in self.text.split(","):
            found.update(self._item(item, offset))
            offset += len(item) + 1
        return tuple(sorted(found))

    def _item(self, item: str, offset: int) -> list[int]:
        base, slash, step_text = item.partition("/")
        step = 1
        if slash:
            if not step_text.isascii() or not step_text.isdecimal() or not 0 < int(step_text[:6]) <= self.high:
                raise self.fail(f"after a slash stands a number from 1 to {self.high}", offset + len(base) + 1)
            step = int(step_text[:6])
        if base == "*":
            return list(range(self.low, self.high + 1, step))
        first_text, dash, last_text = base.partition("-")
        first = self.value(first_text, offset)
        if not dash:
            return list(range(first, self.high + 1, step)) if slash else [first]
        last = self.value(last_text, offset + len(first_text) + 1)
        if first <= last:
            return list(range(first, last + 1, step))
        if self.title == "year":
            raise self.fail(f"{base} ends before it begins", offset)
        size = self.high - self.low + 1  # FRI-MON and 22-2 go round
        return [(value - self.low) % size + self.low for value in range(first, last + size + 1, step)]

    def value(self, text: str, offset: int = 0) -> int:
        """One value, by number or name. Raises ScheduleError."""
        if text.upper() in self.names:
            return self.names.index(text.upper()) + 1
        if text.isascii() and text.isdecimal() and self.low <= int(text[:6]) <= self.high:
            return int(text[:6])
        names = f" or {self.names[0]}-{self.names[-1]}" if self.names else ""
        raise self.fail(f"{text!r} is not one of {self.low}-{self.high}{names}", offset)


def _cron(text: str) -> Cron:
    fields = [(found[0], found.start() + 5) for found in re.finditer(r"\S+", text[5:-1])]
    titles = (
        ("minutes", 0, 59, ()), ("hours", 0, 23, ()), ("day of month", 1, 31, ()), ("month", 1, 12, _MONTHS),
        ("day of week", 1, 7, _WEEKDAYS), ("year", YEAR_MIN, YEAR_MAX, ()),
    )  # fmt: skip
    if len(fields) != len(titles):
        raise ScheduleError(
            text, 5, f"{len(fields)} fields where six belong: minutes hours day-of-month month day-of-week year"
        )
    read = [_Field(field, position, text, *title) for (field, position), title in zip(fields, titles, strict=True)]
    minutes, hours, month_day, months, weekday, years = read
    return Cron(minutes.values(), hours.values(), _days(month_day, weekday), months.values(), years.values())


def _days(month_day: _Field, weekday: _Field) -> Days:
    if month_day.text == "?":
        if weekday.text == "?":
            raise weekday.fail("only one of day of month and day of week is a ?")
        return _weekday_of(weekday)
    if weekday.text != "?":
        raise weekday.fail("one of day of month and day of week must be a ?")
    text = month_day.text.upper()
    if text in {"L", "LW"}:
        return Days(special=text)
    if text.endswith("W"):
        return Days(special="W", day=month_day.value(text[:-1]))
    return Days(month_days=month_day.values())


def _weekday_of(field: _Field) -> Days:
    text = field.text.upper()
    if text == "L":
        return Days(weekdays=(SATURDAY,))
    if text.endswith("L"):
        return Days(special="L", weekday=field.value(text[:-1]))
    name, hash_sign, nth = text.partition("#")
    if hash_sign:
        if nth not in {"1", "2", "3", "4", "5"}:
            raise field.fail("after a # stands a number from 1 to 5", len(name) + 1)
        return Days(special="#", weekday=field.value(name), nth=int(nth))
    return Days(weekdays=field.values())
