"""Events of asynchronous invocations as the queue keeps them: objects in memory, blocks of bytes on disk.

A block is what one commit took in, column by column: a line of JSON with everything but the bytes of the events, then
those. It is written once; which of its events have ended, and which have been tried, stands beside it in a state that
is written anew as it changes. Both have a checksum, because a flipped bit is nothing that SQLite would notice.

Will not write anything to disk (`queue` does).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import orjson

from core.errors import TidegateError
from functions.invocations import Invocation
from functions.names import FunctionName

BLOCK_BYTES_MAX = 1 << 20  # of events in a block, so that one slow function does not keep more than that from going
BLOCK_EVENTS_MAX = 2_048
SPARSE_BYTES = 16 << 10  # a block of this size of which a quarter is left is written anew, so that the rest can go
EVENT_BYTES = 480  # what an event costs in memory beside its own bytes, for bounds (CPython, with its block and lane)
VERSION = 1


class MalformedEvents(TidegateError):
    """Bytes that are no block of events of a version known here."""


@dataclass(slots=True, eq=False)
class Event(Invocation):
    """An asynchronous invocation.

    `born` and `due` are of the queue's timeline (core.timeline) in milliseconds: when it was taken in, and when it is
    to be tried again, 0 for at once. `lane` belongs to `asynchronous`; `block` and `index` say where it is on disk.
    """

    born: int = 0
    due: int = 0
    lane: Any = None
    block: "Block | None" = None
    index: int = 0
    finished: bool = False
    gathering: bool = False  # for the next commit

    @property
    def size(self) -> int:
        """What it costs, for bounds."""
        return len(self.payload) + len(self.client_context) + EVENT_BYTES


class Block:
    """A row on disk: its events, None for one that has ended, and how many are left."""

    __slots__ = ("done", "events", "gone", "id", "live", "size", "whole")

    def __init__(self, events: Sequence[Event]) -> None:
        self.id = 0
        self.events: list[Event | None] = list(events)
        self.whole = self.live = len(events)
        self.size = sum(event.size for event in events)
        self.done = 0  # a bit for each event that has ended
        self.gone = False

    @property
    def is_sparse(self) -> bool:
        """Whether most of what it holds on disk is not needed any more."""
        return self.size >= SPARSE_BYTES and 0 < self.live * 4 <= self.whole

    def rest(self) -> "Block":
        """The same row anew, with what is left."""
        rest = Block([event for event in self.events if event is not None])
        rest.id = self.id
        return rest

    def place(self) -> list[Event]:
        """Tell its events where they are; returns them."""
        found = [event for event in self.events if event is not None]
        for index, event in enumerate(found):
            event.block, event.index = self, index
        return found

    def end(self, event: Event) -> None:
        """An event of it has ended."""
        self.done |= 1 << event.index
        self.live -= 1
        self.events[event.index] = None

    def revive(self, event: Event) -> None:
        """It has not, because that could not be written."""
        self.done &= ~(1 << event.index)
        self.live += 1
        self.events[event.index] = event

    def state(self) -> bytes:
        """Which events have ended, and what is known of those that were tried."""
        tried = [(e.index, e.attempts, e.due) for e in self.events if e is not None and e.attempts]
        return sealed(orjson.dumps([f"{self.done:x}", tried]))

    def take_state(self, state: bytes) -> None:
        """Become what a state says. Raises MalformedEvents."""
        try:
            done, tried = orjson.loads(opened(state))
            for index in range(self.whole):
                event = self.events[index]
                if int(done, 16) >> index & 1 and event is not None:
                    self.end(event)
            for index, attempts, due in tried:
                if (event := self.events[index]) is not None:
                    event.attempts, event.due = attempts, due
        except (ValueError, TypeError, IndexError) as error:
            raise MalformedEvents(f"no state of a block: {error}") from None


def cut(events: Sequence[Event]) -> list[Block]:
    """Events as blocks, in their order."""
    blocks: list[Block] = []
    start = size = 0
    for index, event in enumerate(events):
        length = event.size
        if index > start and (size + length > BLOCK_BYTES_MAX or index - start >= BLOCK_EVENTS_MAX):
            blocks.append(Block(events[start:index]))
            start, size = index, 0
        size += length
    if events:
        blocks.append(Block(events[start:]))
    return blocks


def encode(events: Sequence[Event]) -> bytes:
    """The bytes of a block."""
    names: dict[FunctionName, int] = {}
    functions = [names.setdefault(event.function, len(names)) for event in events]
    head = orjson.dumps(
        {
            "version": VERSION,
            "names": [[name.name, name.qualifier] for name in names],
            "functions": functions,
            "ids": [event.id for event in events],
            "enqueued": [event.enqueued_ms for event in events],
            "born": [event.born for event in events],
            "payloads": [len(event.payload) for event in events],
            "contexts": [len(event.client_context) for event in events],
            # what most events do not have
            "traces": {str(i): event.trace_id for i, event in enumerate(events) if event.trace_id},
            "depths": {str(i): event.depth for i, event in enumerate(events) if event.depth},
            "tried": {str(i): [event.attempts, event.due] for i, event in enumerate(events) if event.attempts},
        }
    )
    return b"".join([head, b"\n", *[e.payload for e in events], *[e.client_context for e in events]])


def decode(data: bytes) -> list[Event]:
    """The events of a block; raises MalformedEvents."""
    line, _, body = data.partition(b"\n")
    try:
        head = orjson.loads(line)
        if head["version"] != VERSION:
            raise MalformedEvents(f"events of version {head['version']} are not known here")
        names = [FunctionName(*pair) for pair in head["names"]]
        pieces, start = [], 0
        for length in head["payloads"] + head["contexts"]:
            pieces.append(body[start : start + length])
            start += length
        if start != len(body):
            raise MalformedEvents(f"{len(body):,} bytes of events where {start:,} were written")
        count = len(head["ids"])
        columns = zip(head["ids"], head["functions"], pieces[:count], pieces[count:], head["enqueued"], head["born"],
                      strict=True)  # fmt: skip
        found = [
            Event(identity, names[number], payload, context, enqueued, born=born)
            for identity, number, payload, context, enqueued, born in columns
        ]
        for index, trace in head["traces"].items():
            found[int(index)].trace_id = trace
        for index, depth in head["depths"].items():
            found[int(index)].depth = depth
        for index, (attempts, due) in head["tried"].items():
            found[int(index)].attempts, found[int(index)].due = attempts, due
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise MalformedEvents(f"no block of events: {error}") from None
    return found


def sealed(data: bytes) -> bytes:
    """Data with its checksum before it."""
    return crc32(data).to_bytes(4, "big") + data


def opened(data: bytes) -> bytes:
    """Data without its checksum; raises MalformedEvents when that is another's."""
    if not isinstance(data, bytes) or crc32(data[4:]) != int.from_bytes(data[:4], "big"):
        raise MalformedEvents("not what was written")
    return data[4:]
