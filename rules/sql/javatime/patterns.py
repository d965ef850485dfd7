"""java.time patterns, `DateTimeFormatter.ofPattern` of JDK 11 in English, as the elements that read a text.

Numbers that stand next to each other share out their digits: each but the first must have a fixed number of them, and
the first leaves them theirs (`yyyyMMdd`). What prints well but cannot be read back is taken for an invalid pattern:
narrow names (five letters), which are several months at once, and generic zone names (`v`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias

from rules.sql.javatime.elements import (
    OFFSETS,
    Element,
    Field,
    Fraction,
    Literal,
    Names,
    Number,
    Offset,
    Optional,
    Padded,
    Sign,
    ZoneName,
)
from rules.sql.javatime.names import HALVES, MONTHS, WEEKDAYS
from rules.sql.javatime.zones import NAME_CHARS_MAX

KEPT = 256  # patterns
PATTERN_CHARS_MAX = 256
TEXT_CHARS_MAX = PATTERN_CHARS_MAX * NAME_CHARS_MAX  # no letter of a pattern reads more than the name of a zone
DIGITS_MAX = 19  # java.time counts in 64 bits


Maker: TypeAlias = Callable[[int], Element]  # of a number of letters


class InvalidPattern(ValueError):
    """java.time refuses the pattern, or cannot read by it."""


def elements(pattern: str) -> tuple[Element, ...] | None:
    """What to read, one after the other; None for an invalid pattern."""
    return None if len(pattern) > PATTERN_CHARS_MAX else _elements(pattern)


@lru_cache(maxsize=KEPT)
def _elements(pattern: str) -> tuple[Element, ...] | None:
    try:
        return _Reader(pattern).whole()
    except InvalidPattern:
        return None


class _Reader:
    """A pattern on its way to elements."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._open: list[list[Element]] = [[]]  # the whole, and each [ in it that has no ] yet
        self._adjacent: int | None = None  # where the number stands that gives digits away to the next ones

    def whole(self) -> tuple[Element, ...]:
        while self._at < len(self._pattern):
            self._next()
        while len(self._open) > 1:  # java.time closes what was left open
            self._close()
        return tuple(self._open[0])

    def _next(self) -> None:
        char = self._pattern[self._at]
        if char == "p":
            width = self._run()
            if not self._pattern[self._at : self._at + 1].isalpha():
                raise InvalidPattern("nothing to pad")
            letter = self._pattern[self._at]
            self._add(Padded(_element(letter, self._run()), width))
        elif char.isascii() and char.isalpha():
            self._add(_element(char, self._run()))
        elif char == "'":
            self._add(Literal(self._quoted()))
        elif char in "{}#":
            raise InvalidPattern(f"{char} is reserved")
        elif char == "[":
            self._at += 1
            self._adjacent = None
            self._open.append([])
        elif char == "]":
            self._at += 1
            if len(self._open) == 1:
                raise InvalidPattern("] without [")
            self._close()
        else:
            self._at += 1
            self._add(Literal(char))

    def _run(self) -> int:
        start, char = self._at, self._pattern[self._at]
        while self._pattern[self._at : self._at + 1] == char:
            self._at += 1
        return self._at - start

    def _quoted(self) -> str:
        """The text of the quotation that begins here; '' is a quote, inside and outside of one."""
        end = self._at + 1
        while True:
            end = self._pattern.find("'", end)
            if end < 0:
                raise InvalidPattern("a quotation without its end")
            if self._pattern[end + 1 : end + 2] != "'" or end == self._at + 1:
                break
            end += 2
        text = self._pattern[self._at + 1 : end].replace("''", "'") or "'"
        self._at = end + 1
        return text

    def _close(self) -> None:
        inside = self._open.pop()
        self._adjacent = None
        if inside:
            self._open[-1].append(Optional(tuple(inside)))

    def _add(self, element: Element) -> None:
        """Appends it; a number with a fixed width behind another number takes its digits from that one's."""
        last = self._open[-1]
        width = element.digits if isinstance(element, Fraction) else 0
        if isinstance(element, Number) and element.is_fixed():
            width = element.most
        if self._adjacent is not None and width:
            first = last[self._adjacent]
            assert isinstance(first, Number)
            last[self._adjacent] = replace(first, reserved=first.reserved + width)
        elif isinstance(element, Number):
            self._adjacent = len(last)
        else:
            self._adjacent = None
        last.append(element)


# ── letters ─────────────────────────────────────────────────────────────────────────────────────────────────

def _element(letter: str, count: int) -> Element:
    make = LETTERS.get(letter)
    if make is None:
        raise InvalidPattern(f"{letter} means nothing")
    return make(count)


def _within(count: int, most: int) -> None:
    if count > most:
        raise InvalidPattern("too many letters")


def _year(about: Field) -> Maker:
    def make(count: int) -> Element:
        if count == 2:
            return Number(about, 2, 2, base=2000)
        _within(count, DIGITS_MAX)
        return Number(about, count, DIGITS_MAX, Sign.NORMAL if count < 4 else Sign.EXCEEDS)

    return make


def _plain(about: Field, most: int = 2) -> Maker:
    """One letter is any number, two are two digits."""

    def make(count: int) -> Element:
        _within(count, most)
        return Number(about, 1, DIGITS_MAX, Sign.NORMAL) if count == 1 else Number(about, count, count)

    return make


def _julian(count: int) -> Element:
    _within(count, DIGITS_MAX)
    return Number(Field.MODIFIED_JULIAN_DAY, count, DIGITS_MAX, Sign.NORMAL)


def _digits(about: Field, most_letters: int, most: int) -> Maker:
    """As many digits as letters, up to `most`."""

    def make(count: int) -> Element:
        _within(count, most_letters)
        return Number(about, count, most)

    return make


def _named(
    about: Field, numbers: Maker, short: Sequence[str], full: Sequence[str]
) -> Maker:
    """One or two letters are a number, three a short name, four a full one."""

    def make(count: int) -> Element:
        _within(count, 4)
        return numbers(count) if count < 3 else Names(about, short if count == 3 else full)

    return make


def _weekday(letter: str) -> Maker:
    def make(count: int) -> Element:
        _within(count, 4)
        if letter == "E" or count > 2:
            return Names(Field.DAY_OF_WEEK, WEEKDAYS if count == 4 else [name[:3] for name in WEEKDAYS])
        if letter == "c":
            _within(count, 1)
        return Number(Field.LOCAL_DAY_OF_WEEK, count, count)

    return make


def _era(count: int) -> Element:
    _within(count, 4)
    return Names(Field.ERA, ("Before Christ", "Anno Domini") if count == 4 else ("BC", "AD"), first=0)


def _half(count: int) -> Element:
    _within(count, 1)
    return Names(Field.HALF, HALVES, first=0)


def _fraction(count: int) -> Element:
    _within(count, 9)
    return Fraction(count)


def _offset(forms: Sequence[str], zeros: Sequence[str | None]) -> Maker:
    """The form and the text for no offset, by the number of letters."""

    def make(count: int) -> Element:
        _within(count, len(forms))
        if not forms[count - 1]:
            raise InvalidPattern("so many letters mean nothing")
        return Offset(OFFSETS[forms[count - 1]], zeros[count - 1])

    return make


def _zone(least: int, most: int, names: bool) -> Maker:
    def make(count: int) -> Element:
        if count < least:
            raise InvalidPattern("too few letters")
        _within(count, most)
        return ZoneName(names)

    return make


def _day_of_year(count: int) -> Element:
    return _plain(Field.DAY_OF_YEAR)(1) if count == 1 else _digits(Field.DAY_OF_YEAR, 3, 3)(count)


_MONTH = _named(Field.MONTH, _plain(Field.MONTH), [name[:3] for name in MONTHS], MONTHS)
_QUARTERS = ("1st quarter", "2nd quarter", "3rd quarter", "4th quarter")
_QUARTER = _named(Field.QUARTER, _plain(Field.QUARTER), ("Q1", "Q2", "Q3", "Q4"), _QUARTERS)
_FORMS = ("+HHmm", "+HHMM", "+HH:MM", "+HHMMss", "+HH:MM:ss")

LETTERS: dict[str, Maker] = {
    "G": _era,
    "u": _year(Field.YEAR),
    "y": _year(Field.YEAR_OF_ERA),
    "Y": _year(Field.WEEK_YEAR),
    "M": _MONTH,
    "L": _MONTH,
    "Q": _QUARTER,
    "q": _QUARTER,
    "w": _digits(Field.WEEK_OF_YEAR, 2, 2),
    "W": _digits(Field.WEEK_OF_MONTH, 1, 1),
    "d": _plain(Field.DAY),
    "D": _day_of_year,
    "F": _plain(Field.ALIGNED_DAY_OF_WEEK, most=1),
    "E": _weekday("E"),
    "e": _weekday("e"),
    "c": _weekday("c"),
    "a": _half,
    "h": _plain(Field.CLOCK_HOUR_OF_HALF),
    "H": _plain(Field.HOUR),
    "K": _plain(Field.HOUR_OF_HALF),
    "k": _plain(Field.CLOCK_HOUR),
    "m": _plain(Field.MINUTE),
    "s": _plain(Field.SECOND),
    "S": _fraction,
    "n": _digits(Field.NANO, DIGITS_MAX, DIGITS_MAX),
    "A": _digits(Field.MILLI_OF_DAY, DIGITS_MAX, DIGITS_MAX),
    "N": _digits(Field.NANO_OF_DAY, DIGITS_MAX, DIGITS_MAX),
    "g": _julian,
    "V": _zone(2, 2, names=False),
    "z": _zone(1, 4, names=True),
    "O": _offset(("GMT+H", "", "", "GMT+HH:MM"), (None,) * 4),
    "X": _offset(_FORMS, ("Z",) * 5),
    "x": _offset(_FORMS, ("+00", "+0000", "+00:00", "+0000", "+00:00")),
    "Z": _offset(("+HHMM", "+HHMM", "+HHMM", "GMT+HH:MM", "+HH:MM:ss"), ("+0000", "+0000", "+0000", None, "Z")),
}
