"""Messages of a record, as they are written: what is the same as in the message before is a 0."""

from collections.abc import Iterable
from typing import Any

from rules.windows.grouping import Entry


def packed(entries: Iterable[Entry]) -> list[list[Any]]:
    """Source, topic and group are often those of the message before, and then 0."""
    lines = []
    before: tuple[Any, ...] = ("", "", "")
    for source, topic, group, time, values, _ in entries:
        now = (source, topic, group)
        lines.append([*(0 if new == old else new for new, old in zip(now, before, strict=True)), time, *values])
        before = now
    return lines


def unpacked(lines: Iterable[list[Any]]) -> Iterable[Entry]:
    """The entries again, without their `size`. Raises ValueError or TypeError for what `packed` did not make."""
    before = ["", "", ""]
    for source, topic, group, time, *values in lines:
        before = [old if new == 0 else new for new, old in zip((source, topic, group), before, strict=True)]
        yield Entry(before[0], before[1], before[2], time, tuple(values))
