"""Lanes, pure: which lane keeps a message, what gives way when a lane is full, which lane the uplink drains next.

A lane is a part of the buffer with its own numbers, bounds and urgency. A message belongs to the first lane, in the
order of the configuration, that has a filter for its topic; a message that no lane wants is not kept. Sizes are those
of encoded blocks, in bytes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf

from core.message import CLOCK_PLAUSIBLE_MS
from core.topics import TopicTree


class WhenFull(StrEnum):
    """What a full lane does with more."""

    DROP_OLDEST = "drop-oldest"  # fresh data is worth more: delete from the far end, and count it
    DROP_NEWEST = "drop-newest"  # the beginning is worth more: acknowledge and count, keep nothing
    REJECT = "reject"  # the device decides: no PUBACK, or one with "quota exceeded"


class Order(StrEnum):
    """Which end of a lane the uplink takes first."""

    OLDEST_FIRST = "oldest-first"
    NEWEST_FIRST = "newest-first"


@dataclass(frozen=True, slots=True)
class Lane:
    """One lane as configured; `max_bytes` in bytes, `max_age` in seconds, None for no bound of that kind."""

    name: str
    topics: tuple[str, ...]
    priority: int = 1
    order: Order = Order.OLDEST_FIRST
    max_bytes: int | None = None
    max_age: float | None = None
    when_full: WhenFull = WhenFull.REJECT

    @property
    def closes_at(self) -> float:
        """How many bytes may be there before a message is left out; a lane that drops its oldest never closes."""
        return inf if self.max_bytes is None or self.when_full is WhenFull.DROP_OLDEST else self.max_bytes

    def expired_before(self, now_ms: int) -> int | None:
        """The time before which messages of this lane are too old, None when that cannot be told."""
        if self.max_age is None or now_ms < CLOCK_PLAUSIBLE_MS:
            return None
        return now_ms - int(self.max_age * 1_000)


class LaneIndex:
    """Finds the lane of a topic."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._tree: TopicTree[tuple[int, Lane]] = TopicTree()
        for position, lane in enumerate(lanes):
            for pattern in lane.topics:
                self._tree.add(pattern, (position, lane))

    def find(self, topic: str) -> Lane | None:
        """The first configured lane with a filter that matches, or None."""
        found = self._tree.match(topic)
        if not found:
            return None
        return found[0][1] if len(found) == 1 else min(found, key=lambda entry: entry[0])[1]


def overflow(stored: Iterable[tuple[int, int, int]], excess: int) -> tuple[list[int], int, int]:
    """The oldest chunks that must go so that `excess` bytes become free.

    `stored` gives (chunk id, messages, bytes), oldest first; the result is (chunk ids, messages, bytes).
    """
    gone: list[int] = []
    messages = size = 0
    for chunk, count, length in stored:
        if size >= excess:
            break
        gone.append(chunk)
        messages += count
        size += length
    return gone, messages, size
