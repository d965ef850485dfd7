"""Joda-Time's `DateTimeFormat` patterns, printed: `yyyy.MM.dd G 'at' HH:mm:ss z`.

A run of one letter is an element, text in quotes and everything that is no letter is printed as it is, and two quotes
are one. A letter without a meaning makes the pattern invalid.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime, tzinfo
from functools import lru_cache

from rules.sql.javatime.names import HALVES, MONTHS, WEEKDAYS
from rules.sql.javatime.zones import EPOCH, MILLISECOND, identity, long_name, short_name

KEPT = 256  # patterns
PATTERN_CHARS_MAX = 256  # a run of letters is a number padded to as many digits

_PIECE = re.compile(r"([A-Za-z])\1*|((?:[^A-Za-z']|'(?:[^']|'')*(?:'|\Z))+)")
_QUOTED = re.compile(r"''|'((?:[^']|'')*)(?:'|\Z)")

# Of a moment in its zone, and the number of letters.
Element = Callable[[datetime, int], str]


def printed(pattern: str, milliseconds: int, zone: tzinfo) -> str | None:
    """The moment in the words of the pattern; None for an invalid pattern or a year outside of 1 to 9999."""
    elements = None if len(pattern) > PATTERN_CHARS_MAX else _elements(pattern)
    if elements is None:
        return None
    try:
        moment = (EPOCH + milliseconds * MILLISECOND).astimezone(zone)
    except OverflowError:
        return None
    return "".join(element(moment, count) for element, count in elements)


@lru_cache(maxsize=KEPT)
def _elements(pattern: str) -> tuple[tuple[Element, int], ...] | None:
    if pattern in {"", "'"}:
        return None
    pieces = list(_PIECE.finditer(pattern))
    if any(piece[1] and piece[1] not in LETTERS for piece in pieces):
        return None
    return tuple((LETTERS[piece[1]], len(piece[0])) if piece[1] else (_literal(piece[0]), 0) for piece in pieces)


def _literal(quoted: str) -> Element:
    text = _QUOTED.sub(lambda found: "'" if found[1] is None else found[1].replace("''", "'"), quoted)
    return lambda _moment, _count: text


def _number(value: Callable[[datetime], int]) -> Element:
    return lambda moment, count: f"{value(moment):0{count}}"


def _year(value: Callable[[datetime], int]) -> Element:
    """Two letters are the last two digits."""
    return lambda moment, count: f"{value(moment) % 100:02}" if count == 2 else f"{value(moment):0{count}}"


def _month(moment: datetime, count: int) -> str:
    name = MONTHS[moment.month - 1]
    return f"{moment.month:0{count}}" if count < 3 else name[:3] if count == 3 else name


def _weekday(moment: datetime, count: int) -> str:
    name = WEEKDAYS[moment.weekday()]
    return name[:3] if count < 4 else name


def _fraction(moment: datetime, count: int) -> str:
    return f"{moment.microsecond // 1000:03}".ljust(count, "0")[:count]


def _zone(moment: datetime, count: int) -> str:
    return short_name(moment) if count < 4 else long_name(moment)


def _offset(moment: datetime, count: int) -> str:
    if count > 2:
        return identity(moment)
    text = moment.strftime("%z")[:5]
    return text if count == 1 else f"{text[:3]}:{text[3:]}"


LETTERS: Mapping[str, Element] = {
    "G": lambda _moment, _count: "AD",
    "C": _number(lambda moment: moment.year // 100),
    "Y": _year(lambda moment: moment.year),
    "x": _year(lambda moment: moment.isocalendar().year),
    "w": _number(lambda moment: moment.isocalendar().week),
    "e": _number(datetime.isoweekday),
    "E": _weekday,
    "y": _year(lambda moment: moment.year),
    "D": _number(lambda moment: moment.timetuple().tm_yday),
    "M": _month,
    "d": _number(lambda moment: moment.day),
    "a": lambda moment, _count: HALVES[moment.hour // 12],
    "K": _number(lambda moment: moment.hour % 12),
    "h": _number(lambda moment: moment.hour % 12 or 12),
    "H": _number(lambda moment: moment.hour),
    "k": _number(lambda moment: moment.hour or 24),
    "m": _number(lambda moment: moment.minute),
    "s": _number(lambda moment: moment.second),
    "S": _fraction,
    "z": _zone,
    "Z": _offset,
}
