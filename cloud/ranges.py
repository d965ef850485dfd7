"""Which sequence numbers have been seen, pure: a sorted list of ranges that neither overlap nor touch.

Frames of a lane may come again (a PUBACK was lost), cut differently, or newest first; each number counts once. Numbers
below the floor that a frame carries will never be sent again, so the ranges below it collapse into one, and the list
stays as short as the number of gaps that can still be filled.
"""

from collections.abc import Sequence

Range = tuple[int, int]  # first and last, both included


def unseen(seen: Sequence[Range], first: int, last: int) -> list[Range]:
    """The parts of `first..last` that are not in `seen`."""
    missing: list[Range] = []
    for start, end in seen:
        if end < first:
            continue
        if start > last:
            break
        if start > first:
            missing.append((first, start - 1))
        first = max(first, end + 1)
    if first <= last:
        missing.append((first, last))
    return missing


def merge(seen: Sequence[Range], *more: Range) -> list[Range]:
    """`seen` with more ranges in it."""
    merged: list[Range] = []
    for start, end in sorted([*seen, *more]):
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def claim(seen: Sequence[Range], first: int, last: int, floor: int) -> tuple[list[Range], list[Range]]:
    """A frame with `first..last` came: (what of it is new, what has been seen after it)."""
    below = [(1, floor - 1)] if floor > 1 else []
    known = merge(seen, *below)
    return unseen(known, first, last), merge(known, (first, last))
