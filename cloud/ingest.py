"""What comes in at the cloud's listeners: frames from edges, and plain messages from clients; both go to the inbox.

A PUBACK leaves after the commit. A frame that cannot be read is refused with "payload format invalid" (0x99), a full
disk with "quota exceeded" (0x97); either way the edge keeps it. Messages published here directly become a frame of
the lane `direct`, numbered by this process.

Will not apply rules: the worker does, from the inbox.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from secrets import randbits

from cloud import inbox
from core import blocks, frames
from core.errors import TidegateError
from core.message import Message, Origin
from core.mqtt.listener import now_ms
from core.receipts import STORED, Batch, Outcome, rejected
from core.store import Store, ensure_room
from core.telemetry import Counters, get_logger

log = get_logger("cloud.ingest")

DIRECT = "direct"  # the lane, and edge "", of what clients publish here themselves
QUOTA_EXCEEDED = 0x97
PAYLOAD_FORMAT_INVALID = 0x99
IMPLEMENTATION_SPECIFIC = 0x83
NUMBER_MAX = 2**63 - 1  # what SQLite's integers hold


@dataclass(frozen=True, slots=True)
class Arrival:
    """A frame on its way into the inbox; `origin` of what came directly."""

    header: frames.Header
    frame: bytes
    origin: Origin | None = None


class Ingest:
    """Commits batches to the inbox; `arrived()` is called after each commit."""

    def __init__(self, store: Store, counters: Counters, arrived: Callable[[], None]) -> None:
        self._store = store
        self._counters = counters
        self._arrived = arrived
        self._epoch = randbits(62)
        self._next = 1

    def accept(self, batch: Batch) -> None:
        """Take what a client published; settles the batch's receipt after the commit."""
        arrivals: list[Arrival] = []
        exceptions: dict[int, Outcome] = {}
        direct = [m for m in batch.messages if not m.topic.startswith(frames.TOPIC_ROOT)]
        for index, message in enumerate(batch.messages):
            if message.topic.startswith(frames.TOPIC_ROOT):
                outcome = self._open(message.topic, message.payload, arrivals)
                if outcome is not None:
                    exceptions[index] = outcome
        starts = range(0, len(direct), blocks.MESSAGES_MAX)
        arrivals += [self._wrap(direct[start : start + blocks.MESSAGES_MAX], batch.origin) for start in starts]
        self._store.submit(
            lambda connection: _put(connection, self._store.path, arrivals, now_ms()),
            lambda counts, error: self._committed(batch, arrivals, exceptions, counts, error),
        )

    def _open(self, topic: str, frame: bytes, arrivals: list[Arrival]) -> Outcome | None:
        try:
            # Decoded here to be sure that the worker can, and left encoded: the inbox holds a twelfth of the bytes.
            header, _ = frames.decode(frame)
            if topic != frames.topic(header.edge, header.lane):
                raise frames.MalformedFrame("the frame is from another edge or lane than its topic says")
            if max(header.epoch, header.last) > NUMBER_MAX or header.floor > header.first:
                raise frames.MalformedFrame("the frame's numbers make no sense")
        except TidegateError as error:
            self._counters.add("frames_refused_total")
            log.warning("a frame was refused", topic=topic, reason=error)
            return rejected(str(error), PAYLOAD_FORMAT_INVALID)
        arrivals.append(Arrival(header, frame))
        return None

    def _wrap(self, messages: list[Message], origin: Origin) -> Arrival:
        first = self._next
        self._next += len(messages)
        frame = frames.encode("", DIRECT, self._epoch, first, first, messages)  # what failed before is not sent again
        return Arrival(frames.read_header(frame), frame, origin)

    def _committed(
        self, batch: Batch, arrivals: list[Arrival], exceptions: dict[int, Outcome],
        counts: list[int] | None, error: Exception | None,
    ) -> None:  # fmt: skip
        if counts is None:
            log.error("nothing can be stored; edges are not acknowledged", error=error)
            code = IMPLEMENTATION_SPECIFIC if isinstance(error, inbox.TooManyGaps) else QUOTA_EXCEEDED
            batch.receipt.settle(rejected("not stored", code), exceptions)
            return
        for arrival, count in zip(arrivals, counts, strict=True):
            self._counters.add("frames_received_total")
            self._counters.add("messages_stored_total", count)
            self._counters.add("messages_repeated_total", arrival.header.count - count)
        batch.receipt.settle(STORED, exceptions)
        self._arrived()


def _put(connection: sqlite3.Connection, path: Path, arrivals: list[Arrival], at: int) -> list[int]:
    ensure_room(connection, path)
    return [inbox.put(connection, arrival.header, arrival.frame, at, arrival.origin) for arrival in arrivals]
