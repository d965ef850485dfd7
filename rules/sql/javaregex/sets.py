"""Sets of characters, as the classes of a pattern describe them: `[a-z&&[^aeiou]]`, `\\p{L}`, `.`.

A set is made by `chars`, `union`, `intersection` and `complement` and nothing else. They compute with ranges
wherever the ranges are known, and otherwise push complements down to the properties, so what comes out is

    Chars         known ranges: sorted, apart from each other, neither overlapping nor touching
    Property      a Unicode property that only an engine knows, or everything else (`negative`)
    AnyOf         a union of the other three; at most one Chars in it
    AllOf         an intersection of the other three; at most one Chars in it

Invariant: at most TERMS_MAX members are below a set, which keeps a writer's work small.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

LAST = 0x10FFFF
CASED_LAST = 0x1E943  # the last character of Unicode that has another case
TERMS_MAX = 1_000  # a pattern has no more characters than about that; stops a product of unions

Ranges: TypeAlias = tuple[tuple[int, int], ...]


class TooManyTerms(ValueError):
    """A class is made of more than TERMS_MAX unions and intersections."""


@dataclass(frozen=True, slots=True)
class Chars:
    """The characters of `ranges`, both ends included."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Property:
    """`linear` is the name RE2 has for it in \\p{…}, if it has one; `backtracking` the one `regex` has."""

    linear: str | None
    backtracking: str
    negative: bool = False


@dataclass(frozen=True, slots=True)
class AnyOf:
    """In at least one of the parts."""

    parts: tuple["CharSet", ...]


@dataclass(frozen=True, slots=True)
class AllOf:
    """In each of the parts."""

    parts: tuple["CharSet", ...]


CharSet: TypeAlias = Chars | Property | AnyOf | AllOf


def chars(*ranges: tuple[int, int]) -> Chars:
    """The set of these ranges, in any order, overlapping or not."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return Chars(tuple(joined))


def letters(text: str) -> Chars:
    """The set of the characters of `text`."""
    return chars(*((ord(char), ord(char)) for char in text))


NONE = Chars(())
EVERY = Chars(((0, LAST),))


def complement(given: CharSet) -> CharSet:
    """Every other character."""
    match given:
        case Chars(ranges):
            edges = [-1, *(edge for first, last in ranges for edge in (first, last)), LAST + 1]
            gaps = zip(edges[::2], edges[1::2], strict=True)
            return Chars(tuple((before + 1, after - 1) for before, after in gaps if before + 1 < after))
        case Property():
            return replace(given, negative=not given.negative)
        case AnyOf(parts):
            return intersection(*map(complement, parts))
        case AllOf(parts):
            return union(*map(complement, parts))


def union(*sets: CharSet) -> CharSet:
    """The characters of any of the sets."""
    parts = _parts(sets, AnyOf)
    known = chars(*(span for part in parts if isinstance(part, Chars) for span in part.ranges))
    return _gathered(AnyOf, known, NONE, EVERY, parts)


def intersection(*sets: CharSet) -> CharSet:
    """The characters that all of the sets have."""
    parts = _parts(sets, AllOf)
    missing = (complement(part) for part in parts if isinstance(part, Chars))
    known = complement(chars(*(span for part in missing if isinstance(part, Chars) for span in part.ranges)))
    return _gathered(AllOf, known, EVERY, NONE, parts)


def _parts(sets: Iterable[CharSet], kind: type[AnyOf] | type[AllOf]) -> list[CharSet]:
    parts: list[CharSet] = []
    for given in sets:
        parts += given.parts if isinstance(given, AnyOf | AllOf) and isinstance(given, kind) else (given,)
    return parts


def _gathered(
    kind: type[AnyOf] | type[AllOf], known: CharSet, neutral: Chars, deciding: Chars, parts: list[CharSet]
) -> CharSet:
    """Known and other parts as one set; `neutral` adds nothing to it, `deciding` makes the others irrelevant."""
    if known == deciding:
        return deciding
    others = list(dict.fromkeys(part for part in parts if not isinstance(part, Chars)))
    if any(complement(part) in others for part in others if isinstance(part, Property)):
        return deciding
    if sum(map(terms, others)) > TERMS_MAX:
        raise TooManyTerms
    kept = others if known == neutral else [known, *others]
    return kept[0] if len(kept) == 1 else kind(tuple(kept)) if kept else neutral


def terms(given: CharSet) -> int:
    """How many sets it is made of."""
    return 1 + sum(map(terms, given.parts)) if isinstance(given, AnyOf | AllOf) else 1


# ── case ────────────────────────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=256)
def either_case(given: Chars, beyond_ascii: bool) -> Chars:
    """The set with the other case of each of its letters; without `beyond_ascii`, of A to Z and a to z only."""
    if not beyond_ascii:
        return chars(*given.ranges, *_moved(given, 65, 90, 32), *_moved(given, 97, 122, -32))
    cases = _cases()
    few = sum(last - first + 1 for first, last in given.ranges) < len(cases)
    codes = [code for first, last in given.ranges for code in range(first, last + 1)] if few else cases
    inside = (code for code in codes if code in cases and any(first <= code <= last for first, last in given.ranges))
    return chars(*given.ranges, *((other, other) for code in inside for other in cases[code]))


def _moved(given: Chars, first: int, last: int, by: int) -> list[tuple[int, int]]:
    cut = [(max(first, start), min(last, end)) for start, end in given.ranges]
    return [(start + by, end + by) for start, end in cut if start <= end]


@lru_cache(maxsize=1)
def _cases() -> dict[int, tuple[int, ...]]:
    """Each letter that has a case, and all letters that Java takes for the same under UNICODE_CASE."""
    same: dict[str, set[str]] = {}
    for code in range(CASED_LAST + 1):
        char = chr(code)
        if char.lower() != char or char.upper() != char:
            same.setdefault(_folded(char), {_folded(char)}).add(char)
    return {ord(char): tuple(map(ord, others)) for others in same.values() for char in others}


def _folded(char: str) -> str:
    upper = char.upper() if len(char.upper()) == 1 else char
    return upper.lower() if len(upper.lower()) == 1 else upper
