"""Ranges of sequence numbers behave as the sets of numbers that they stand for."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.ranges import Range, claim, merge, unseen

NUMBERS = st.integers(1, 60)
SETS = st.sets(NUMBERS)
RANGES = st.tuples(NUMBERS, NUMBERS).map(lambda pair: (min(pair), max(pair)))


def numbers(ranges: list[Range]) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}


def ranges(wanted: set[int]) -> list[Range]:
    """The shortest list of ranges that stands for a set."""
    found: list[Range] = []
    for number in sorted(wanted):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def is_shortest(found: list[Range]) -> bool:
    """Whether the ranges are sorted and neither overlap nor touch."""
    ordered = all(first <= last for first, last in found)
    return ordered and all(here[1] + 1 < following[0] for here, following in pairwise(found))


@given(SETS, RANGES)
def test_unseen_is_what_a_set_would_not_have(seen: set[int], asked: Range) -> None:
    found = unseen(ranges(seen), *asked)
    assert numbers(found) == set(range(asked[0], asked[1] + 1)) - seen
    assert is_shortest(found)


@given(SETS, st.lists(RANGES, max_size=5))
def test_merging_is_a_union_and_as_short_as_can_be(seen: set[int], more: list[Range]) -> None:
    found = merge(ranges(seen), *more)
    assert numbers(found) == seen | numbers(more)
    assert is_shortest(found)


@given(SETS, RANGES, st.integers(0, 60))
def test_a_claim_gives_each_number_once_and_collapses_what_lies_below_the_floor(
    seen: set[int], frame: Range, floor: int
) -> None:
    fresh, after = claim(ranges(seen), *frame, floor)
    below = set(range(1, floor))
    assert numbers(fresh) == set(range(frame[0], frame[1] + 1)) - seen - below
    assert numbers(after) == seen | set(range(frame[0], frame[1] + 1)) | below
    assert is_shortest(after)
    assert len([one for one in after if one[0] < floor]) <= 1


@given(st.lists(RANGES, max_size=20))
def test_however_frames_come_each_number_counts_once(frames: list[Range]) -> None:
    seen: list[Range] = []
    taken: list[int] = []
    for frame in frames:
        fresh, seen = claim(seen, *frame, 1)
        taken += sorted(numbers(fresh))
    assert len(taken) == len(set(taken))
    assert set(taken) == numbers(frames)


@pytest.mark.parametrize(
    ("seen", "frame", "floor", "fresh", "after"),
    [
        ([], (1, 5), 1, [(1, 5)], [(1, 5)]),
        ([], (6, 9), 6, [(6, 9)], [(1, 9)]),  # what was before will never be sent
        ([(1, 5)], (1, 5), 1, [], [(1, 5)]),
        ([(1, 5)], (4, 8), 1, [(6, 8)], [(1, 8)]),
        ([(1, 2), (5, 6)], (1, 9), 1, [(3, 4), (7, 9)], [(1, 9)]),
        ([(90, 99)], (80, 89), 1, [(80, 89)], [(80, 99)]),  # newest first
        ([(1, 2), (5, 6), (9, 9)], (12, 13), 8, [(12, 13)], [(1, 7), (9, 9), (12, 13)]),
        ([(1, 2**62)], (2**62 + 1, 2**62 + 1), 2**62, [(2**62 + 1, 2**62 + 1)], [(1, 2**62 + 1)]),
    ],
)
def test_claims(seen: list[Range], frame: Range, floor: int, fresh: list[Range], after: list[Range]) -> None:
    before = list(seen)
    assert claim(seen, *frame, floor) == (fresh, after)
    assert seen == before
