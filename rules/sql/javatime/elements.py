"""What a java.time pattern is made of when text is read by it: numbers, names, literals, offsets, zones.

Each element reads at one place and says where the next one begins, or -1: as a `DateTimeFormatter` that is strict
about numbers and about upper and lower case, which is what `ofPattern` makes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, timedelta, tzinfo
from enum import Enum, auto
from typing import Protocol

from rules.sql.javatime.zones import MEANT, NAME_CHARS_MAX, fixed, region


class Field(Enum):
    """What a number or a name in a text is about; the names are java.time's, shortened."""

    ERA = auto()
    YEAR = auto()
    YEAR_OF_ERA = auto()
    MONTH = auto()
    DAY = auto()
    DAY_OF_YEAR = auto()
    QUARTER = auto()
    DAY_OF_WEEK = auto()  # 1 is Monday
    LOCAL_DAY_OF_WEEK = auto()  # 1 is Sunday
    WEEK_YEAR = auto()  # weeks begin on Sunday, and the first has 1 January in it: those of the United States
    WEEK_OF_YEAR = auto()
    WEEK_OF_MONTH = auto()
    ALIGNED_DAY_OF_WEEK = auto()  # 1 is the first day of the month, and the eighth, …
    MODIFIED_JULIAN_DAY = auto()
    HALF = auto()
    HOUR = auto()
    CLOCK_HOUR = auto()
    HOUR_OF_HALF = auto()
    CLOCK_HOUR_OF_HALF = auto()
    MINUTE = auto()
    SECOND = auto()
    NANO = auto()
    MILLI_OF_DAY = auto()
    NANO_OF_DAY = auto()


@dataclass(slots=True)
class Found:
    """What a text has said so far."""

    fields: dict[Field, int] = field(default_factory=dict)
    offset: timedelta | None = None
    zone: tzinfo | None = None

    def says(self, about: Field, value: int) -> bool:
        """Takes note of a value; False if the text has said another one before."""
        return self.fields.setdefault(about, value) == value

    def copy(self) -> "Found":
        """As it is now, for an optional part to add to."""
        return replace(self, fields=dict(self.fields))


class Element(Protocol):
    """Reads at `at`; returns the place behind it, or -1."""

    def read(self, text: str, at: int, found: Found) -> int: ...


class Sign(Enum):
    """When a number may have one: never, `-` only, or also `+` where it has more digits than it must have."""

    NEVER = auto()
    NORMAL = auto()
    EXCEEDS = auto()


_DIGITS = re.compile(r"[0-9]*")


@dataclass(frozen=True, slots=True)
class Number:
    """`least` to `most` digits. `reserved` of those that are there belong to the numbers that follow at once."""

    about: Field
    least: int
    most: int
    sign: Sign = Sign.NEVER
    base: int = 0  # of a year with two digits
    reserved: int = 0

    def read(self, text: str, at: int, found: Found) -> int:
        sign = text[at : at + 1] if text[at : at + 1] in {"+", "-"} else ""
        if sign:
            if self.sign is Sign.NEVER or (sign == "+" and self.sign is not Sign.EXCEEDS):
                return -1
            at += 1
        run = len((_DIGITS.match(text, at) or [""])[0])
        count = max(min(run, self.most + self.reserved) - self.reserved, self.least)
        if not self.least <= count <= run or (sign == "-" and not int(text[at : at + count])):
            return -1
        if self.sign is Sign.EXCEEDS and sign != "-" and (count > self.least) is not (sign == "+"):
            return -1
        value = self.base + int(text[at : at + count])
        return at + count if found.says(self.about, -value if sign == "-" else value) else -1

    def is_fixed(self) -> bool:
        """Whether it always has as many digits, so that it can follow another number at once."""
        return self.least == self.most and self.sign is Sign.NEVER


@dataclass(frozen=True, slots=True)
class Fraction:
    """Exactly `digits` digits behind the decimal point of a second."""

    digits: int

    def read(self, text: str, at: int, found: Found) -> int:
        piece = text[at : at + self.digits]
        if len(piece) < self.digits or not (piece.isascii() and piece.isdigit()):
            return -1
        return at + self.digits if found.says(Field.NANO, int(piece.ljust(9, "0"))) else -1


@dataclass(frozen=True, slots=True)
class Names:
    """One of the names, which have values from `first` on."""

    about: Field
    names: Sequence[str]
    first: int = 1

    def read(self, text: str, at: int, found: Found) -> int:
        for value, name in enumerate(self.names, self.first):
            if text.startswith(name, at):
                return at + len(name) if found.says(self.about, value) else -1
        return -1


@dataclass(frozen=True, slots=True)
class Literal:
    """Exactly this."""

    text: str

    def read(self, text: str, at: int, found: Found) -> int:
        return at + len(self.text) if text.startswith(self.text, at) else -1


@dataclass(frozen=True, slots=True)
class Offset:
    """An offset as `form` has it, or `zero`."""

    form: re.Pattern[str]
    zero: str | None = None

    def read(self, text: str, at: int, found: Found) -> int:
        if self.zero is not None and text.startswith(self.zero, at):
            return _set_offset(found, timedelta(), at + len(self.zero))
        shape = self.form.match(text, at)
        return -1 if shape is None else _set_offset(found, _amount(shape), shape.end())


OFFSETS = {
    "+HHmm": re.compile(r"([+-])(\d\d)(\d\d)?", re.ASCII),
    "+HHMM": re.compile(r"([+-])(\d\d)(\d\d)", re.ASCII),
    "+HH:MM": re.compile(r"([+-])(\d\d):(\d\d)", re.ASCII),
    "+HHMMss": re.compile(r"([+-])(\d\d)(\d\d)(\d\d)?", re.ASCII),
    "+HH:MM:ss": re.compile(r"([+-])(\d\d):(\d\d)(?::(\d\d))?", re.ASCII),
    "GMT+H": re.compile(r"GMT(?:([+-])(\d\d?)(?::(\d\d)(?::(\d\d))?)?)?", re.ASCII),
    "GMT+HH:MM": re.compile(r"GMT(?:([+-])(\d\d):(\d\d)(?::(\d\d))?)?", re.ASCII),
}
OFFSET_MAX = timedelta(hours=18)  # of java.time.ZoneOffset


def _amount(shape: re.Match[str]) -> timedelta | None:
    sign, *numbers = shape.groups()
    hours, minutes, seconds = [int(number or 0) for number in numbers + [None] * (3 - len(numbers))]
    amount = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    if minutes > 59 or seconds > 59 or amount > OFFSET_MAX:
        return None
    return -amount if sign == "-" else amount


def _set_offset(found: Found, amount: timedelta | None, behind: int) -> int:
    if amount is None or found.offset not in (None, amount):
        return -1
    found.offset = amount
    return behind


_REGION = re.compile(r"[A-Za-z][A-Za-z0-9_+/-]*")


@dataclass(frozen=True, slots=True)
class ZoneName:
    """A region, `Z`, or an offset, perhaps behind UTC, UT or GMT; with `names` also `PST` and the like."""

    names: bool

    def read(self, text: str, at: int, found: Found) -> int:
        prefix = next((name for name in ("UTC", "GMT", "UT", "") if text.startswith(name, at)), "")
        shape = OFFSETS["+HH:MM:ss"].match(text, at + len(prefix))
        if shape is not None:
            amount = _amount(shape)
            return -1 if amount is None else _set_zone(found, fixed(amount), shape.end())
        for name in MEANT if self.names else ():
            if text.startswith(name, at) and not text[at + len(name) : at + len(name) + 1].isalnum():
                return _set_zone(found, region(MEANT[name]), at + len(name))
        shown = _REGION.match(text[at : at + NAME_CHARS_MAX])
        for length in range(shown.end() if shown else 0, 0, -1):
            if (zone := region(text[at : at + length])) is not None:
                return _set_zone(found, zone, at + length)
        letters = next((len(name) for name in ("UT", "Z") if text.startswith(name, at)), 0)
        return _set_zone(found, UTC, at + letters) if letters else -1


def _set_zone(found: Found, zone: tzinfo | None, behind: int) -> int:
    if zone is None or found.zone not in (None, zone):
        return -1
    found.zone = zone
    return behind


@dataclass(frozen=True, slots=True)
class Optional:
    """`[ ]`: what is in it, or nothing."""

    elements: tuple[Element, ...]

    def read(self, text: str, at: int, found: Found) -> int:
        attempt = found.copy()
        behind = read_all(self.elements, text, at, attempt)
        if behind < 0:
            return at
        found.fields, found.offset, found.zone = attempt.fields, attempt.offset, attempt.zone
        return behind


@dataclass(frozen=True, slots=True)
class Padded:
    """`ppM`: the element with spaces before it, `width` characters together."""

    element: Element
    width: int

    def read(self, text: str, at: int, found: Found) -> int:
        end = at + self.width
        padding = len(text[at:end]) - len(text[at:end].lstrip(" "))
        if end > len(text):
            return -1
        return end if self.element.read(text[:end], at + padding, found) == end else -1


def read_all(elements: tuple[Element, ...], text: str, at: int, found: Found) -> int:
    """The place behind the last of the elements, or -1."""
    for element in elements:
        at = element.read(text, at, found)
        if at < 0:
            break
    return at
