"""Sets of characters: whatever they are made of, a character is in one exactly when it should be."""

from collections.abc import Callable
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.sql.javaregex.sets import (
    EVERY,
    NONE,
    TERMS_MAX,
    AllOf,
    AnyOf,
    Chars,
    CharSet,
    Property,
    TooManyTerms,
    chars,
    complement,
    either_case,
    intersection,
    letters,
    terms,
    union,
)

Inside: TypeAlias = Callable[[str], bool]

# A small world: properties are made up, and "known" to nobody but this test.
PROPERTIES: dict[str, Inside] = {"Digit": str.isdigit, "Upper": str.isupper, "Alpha": str.isalpha}
PROBES = "\0\x7f09:@AZ[azäÄßé\u017f\u212ak\u2028\ud7ff\ue000\U0001f600\U0010ffff"


def holds(given_set: CharSet, char: str) -> bool:
    match given_set:
        case Chars(ranges):
            return any(first <= ord(char) <= last for first, last in ranges)
        case Property(_, name, negative):
            return PROPERTIES[name](char) is not negative
        case AnyOf(parts):
            return any(holds(part, char) for part in parts)
        case AllOf(parts):
            return all(holds(part, char) for part in parts)


CODES = st.integers(0, 0x10FFFF) | st.sampled_from([ord(char) for char in PROBES])
RANGES = st.lists(st.tuples(CODES, CODES).map(lambda pair: (min(pair), max(pair))), max_size=4)
NAMED = st.sampled_from(sorted(PROPERTIES)).map(lambda name: Property(None, name))
BASIC = RANGES.map(lambda ranges: chars(*ranges)) | NAMED
SETS = st.recursive(
    BASIC,
    lambda inner: st.one_of(
        inner.map(complement),
        st.lists(inner, max_size=3).map(lambda sets: union(*sets)),
        st.lists(inner, max_size=3).map(lambda sets: intersection(*sets)),
    ),
    max_leaves=12,
)


@given(sets=st.lists(SETS, max_size=4), char=st.sampled_from(PROBES) | st.characters())
def test_union_intersection_and_complement_are_what_they_say(sets: list[CharSet], char: str) -> None:
    inside = [holds(one, char) for one in sets]
    assert holds(union(*sets), char) is any(inside)
    assert holds(intersection(*sets), char) is all(inside)
    assert [holds(complement(one), char) for one in sets] == [not one for one in inside]


@given(RANGES)
def test_ranges_are_sorted_and_apart(ranges: list[tuple[int, int]]) -> None:
    for known in (chars(*ranges), complement(chars(*ranges))):
        assert isinstance(known, Chars)
        assert all(first <= last for first, last in known.ranges)
        assert all(left[1] + 1 < right[0] for left, right in zip(known.ranges, known.ranges[1:], strict=False))


def test_what_is_known_is_computed() -> None:
    upper = Property("Lu", "Lu")
    assert intersection(letters("abc"), complement(letters("b"))) == letters("ac")
    assert union(letters("ab"), complement(letters("bc"))) == complement(letters("c"))
    assert complement(complement(upper)) == upper
    assert union() == NONE == intersection(letters("a"), letters("b"), upper)
    assert intersection() == EVERY == union(upper, complement(upper))
    assert intersection(upper, complement(upper)) == NONE
    assert union(upper, upper) == upper == intersection(upper, EVERY)


def test_a_set_of_too_many_terms_is_refused() -> None:
    many = [Property(None, f"P{number}") for number in range(TERMS_MAX - 1)]
    whole = union(*many)
    assert terms(whole) == TERMS_MAX
    with pytest.raises(TooManyTerms):
        intersection(whole, Property(None, "Q"))


@pytest.mark.parametrize(
    ("given_set", "beyond_ascii", "result"),
    [
        ("a", False, "aA"),
        ("Z", False, "Zz"),
        ("k-", False, "kK-"),
        ("ä", False, "ä"),
        ("\u017f", False, "\u017f"),
        ("ä", True, "äÄ"),
        ("k", True, "kK\u212a"),
        ("\u212a", True, "kK\u212a"),
        ("s", True, "sS\u017f"),
        ("\u03c3", True, "\u03c3\u03c2\u03a3"),
        ("1", True, "1"),
    ],
)
def test_either_case_is_that_of_java(given_set: str, beyond_ascii: bool, result: str) -> None:
    assert either_case(letters(given_set), beyond_ascii) == letters(result)


def test_either_case_of_a_range_is_that_of_its_letters() -> None:
    from_x_to_c = chars((ord("X"), ord("c")))
    assert either_case(from_x_to_c, beyond_ascii=False) == union(from_x_to_c, letters("xyzABC"))
    assert either_case(EVERY, beyond_ascii=True) == EVERY
    large = either_case(chars((0x370, 0xFFFF)), beyond_ascii=True)
    assert holds(large, "k")  # U+212A is in the range
    assert not holds(large, "a")
