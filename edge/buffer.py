"""The durable buffer: what devices were told is stored, until the cloud has acknowledged it.

Messages gather per lane while the previous commit is on its way to the disk; then they are cut into chunks, and all
chunks of all lanes are committed with the records that tell resends, in one transaction with what the broker keeps of
the same messages. Then the receipts are settled.

Invariants:
1. A receipt is settled as stored only after the commit of its messages.
2. A number (epoch, sequence) belongs to one message for ever. Sequences go on after a restart, because `lanes.next` is
   committed with the chunk that used it up; and each start has an epoch of its own, because a card that lied about a
   sync, or was restored from an image, may have forgotten that.
3. A chunk leaves as a whole: acknowledged by the cloud, dropped by its lane's policy, or found damaged. The last two
   are counted, with the reason.
4. Memory holds what gathered during one commit, bounded by the listener's back-pressure.

Will not decide what to send when (`uplink` does), nor mend a damaged file (`recovery` does, at start).
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from secrets import randbits
from typing import Any, TypeVar

from core import ledger
from core.commits import Commits, Work
from core.errors import DamagedStore, StorageError
from core.message import Message
from core.mqtt import records
from core.receipts import STORED, Batch, Outcome, dropped, rejected
from core.store import Store, ensure_room
from core.telemetry import Counters, get_logger
from edge import chunks, shadows
from edge.chunks import Chunk, Removed
from edge.lanes import Lane, WhenFull
from edge.resends import REMEMBERED_MS, Records, Resends
from functions import stored

T = TypeVar("T")

SCHEMA = chunks.SCHEMA + records.SCHEMA + ledger.SCHEMA + stored.SCHEMA + shadows.SCHEMA

log = get_logger("edge.buffer")

IMPLEMENTATION_SPECIFIC, QUOTA_EXCEEDED = 0x83, 0x97  # MQTT 5 reason codes of a negative PUBACK
EPOCH_BITS = 62  # random: two starts in a thousand years of restarts do not share one, and SQLite's integers hold it


@dataclass(slots=True)
class LaneState:
    """What a lane holds (messages, bytes of blocks), its next number, and what gathers for the next commit."""

    lane: Lane
    epoch: int
    next: int
    count: int = 0
    bytes: int = 0
    pending: list[Message] = field(default_factory=list)
    pending_bytes: int = 0
    closes_at: float = field(init=False)  # bytes from which on messages are left out

    def __post_init__(self) -> None:
        self.closes_at = self.lane.closes_at


@dataclass(frozen=True, slots=True)
class Flush:
    """One commit: what is written, and who waits for it."""

    chunks: list[Chunk]
    room: list[tuple[str, int]]  # lanes that drop their oldest, and by how many bytes
    records: bytes
    at: int
    waiting: list[tuple[Batch, dict[int, Outcome]]]


class Buffer:
    """The lanes of one edge; made on a running loop by `Buffer.open`.

    `damaged` is failed with DamagedStore when the file turns out malformed while in use: the daemon must end, and start
    again with a recovery.
    """

    def __init__(self, commits: Commits, lanes: Sequence[Lane], counters: Counters) -> None:
        self.commits = commits
        self.lanes: dict[str, LaneState] = {}
        self.resends = Resends(())
        self.changed: Callable[[], None] = lambda: None  # called after each commit that added messages
        self.damaged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._store = commits.store
        self._configured = lanes
        self._counters = counters
        self._waiting: list[tuple[Batch, dict[int, Outcome]]] = []
        self._records = Records()
        commits.refused = self._notice_damage
        commits.join(self)

    @classmethod
    async def open(cls, path: Path, lanes: Sequence[Lane], counters: Counters) -> "Buffer":
        """Open or create the database.

        Raises DamagedStore when the file is malformed, StorageError when the disk refuses.
        """
        store = Store(path, SCHEMA)
        buffer = cls(Commits(store), lanes, counters)
        try:
            await buffer._load()
        except BaseException:
            await store.close()
            raise
        return buffer

    @property
    def alive(self) -> bool:
        """Whether the writer's thread is there to do its work."""
        return self._store.alive

    async def close(self) -> None:
        """Commit what gathered, settle its receipts, and close the file."""
        await self.commits.drain()
        await self._store.close()

    async def _load(self) -> None:
        def load(connection: sqlite3.Connection) -> tuple[list[Any], list[Any], list[bytes]]:
            known = connection.execute("SELECT name, next FROM lanes").fetchall()
            held = connection.execute("SELECT lane, sum(count), sum(bytes) FROM chunks GROUP BY lane").fetchall()
            return known, held, chunks.recent_resends(connection, REMEMBERED_MS)

        known, held, blobs = await self._store.run(load)
        following = dict(known)
        totals = {lane: (count, size) for lane, count, size in held}
        epoch = randbits(EPOCH_BITS)
        self.resends = Resends(blobs)
        for lane in self._configured:
            total = totals.pop(lane.name, (0, 0))
            self.lanes[lane.name] = LaneState(lane, epoch, following.get(lane.name, 1), *total)
        for name, (count, size) in totals.items():
            # The operator removed this lane while it held messages: it takes no more, and is drained like the others.
            log.warning("a lane is no longer configured; draining it", lane=name, messages=count)
            self.lanes[name] = LaneState(Lane(name, ()), epoch, following.get(name, 1), count, size)

    # -- adding -------------------------------------------------------------------------------------------------------

    def add(self, lane: Lane, message: Message) -> Outcome | None:
        """Take one message for the next commit; or give the outcome when the lane's policy leaves it out."""
        state = self.lanes[lane.name]
        if state.bytes + state.pending_bytes >= state.closes_at:
            if lane.when_full is WhenFull.REJECT:
                self._counters.add("messages_rejected_total", reason="lane full", lane=lane.name)
                return rejected("lane full", QUOTA_EXCEEDED)
            self._counters.dropped("lane full", lane=lane.name)
            return dropped("lane full")
        state.pending.append(message)
        state.pending_bytes += len(message.payload)
        return None

    def commit(self, batch: Batch, exceptions: dict[int, Outcome]) -> None:
        """Settle the batch's receipt, with `exceptions` by index, once everything added so far is on disk."""
        self._records.add(batch, exceptions)
        self._waiting.append((batch, exceptions))
        self.commits.soon()

    def gather(self) -> Work | None:
        """What is to be committed now, None when nobody waits."""
        if not self._waiting:
            return None
        try:
            flush = self._cut()
        except Exception as fault:  # noqa: BLE001 - whatever cannot be encoded must not stop the buffer for good
            self._give_up_gathering(fault)
            return None
        path = self._store.path
        return Work(lambda c: _write(c, flush, path), lambda gone, error: self._flushed(flush, gone, error))

    def _cut(self) -> Flush:
        cut: list[Chunk] = []
        room: list[tuple[str, int]] = []
        for state in self.lanes.values():
            if not state.pending:
                continue
            lane = state.lane
            more = chunks.cut(lane.name, state.epoch, state.next, state.pending)
            state.pending, state.pending_bytes = [], 0
            cut += more
            if lane.max_bytes is not None and lane.when_full is WhenFull.DROP_OLDEST:
                excess = state.bytes + sum(len(c.block) for c in more) - lane.max_bytes
                if excess > 0:
                    room.append((lane.name, excess))
        flush = Flush(cut, room, self._records.encode(), time.time_ns() // 1_000_000, self._waiting)
        self._records, self._waiting = Records(), []
        return flush

    def _give_up_gathering(self, fault: Exception) -> None:
        for state in self.lanes.values():
            state.pending, state.pending_bytes = [], 0
        waiting, self._waiting, self._records = self._waiting, [], Records()
        log.fault("messages could not be encoded; devices are not acknowledged", fault)
        self._reject(waiting, rejected("cannot be encoded", IMPLEMENTATION_SPECIFIC))

    def _flushed(self, flush: Flush, removed: list[Removed] | None, error: Exception | None) -> None:
        if error is None:
            self._account(flush.chunks, removed or [])
            for batch, exceptions in flush.waiting:
                batch.receipt.settle(STORED, exceptions)
            if flush.chunks:
                self.changed()
        else:
            log.error("nothing can be stored; devices are not acknowledged", error=error)
            self._reject(flush.waiting, rejected("the disk refuses", QUOTA_EXCEEDED))

    def _account(self, stored: list[Chunk], removed: list[Removed]) -> None:
        for chunk in stored:
            state = self.lanes[chunk.lane]
            state.next = chunk.first + chunk.count
            state.count += chunk.count
            state.bytes += len(chunk.block)
            self._counters.add("messages_stored_total", chunk.count, lane=chunk.lane)
        for lost in removed:
            self._removed(lost, "lane full")

    def _reject(self, waiting: list[tuple[Batch, dict[int, Outcome]]], outcome: Outcome) -> None:
        count = sum(len(batch.messages) - len(exceptions) for batch, exceptions in waiting)
        self._counters.add("messages_rejected_total", count, reason=outcome.reason)
        for batch, exceptions in waiting:
            batch.receipt.settle(outcome, exceptions)  # what the disk held before is still known to be there

    def _notice_damage(self, error: Exception) -> None:
        if isinstance(error, DamagedStore) and not self.damaged.done():
            self.damaged.set_exception(error)

    def _removed(self, lost: Removed, reason: str | None) -> None:
        state = self.lanes[lost.lane]
        state.count -= lost.count
        state.bytes -= lost.bytes
        if reason is not None and lost.count:
            self._counters.dropped(reason, lost.count, lane=lost.lane)
            log.warning("messages dropped from the buffer", lane=lost.lane, reason=reason, messages=lost.count)

    # -- taking out ---------------------------------------------------------------------------------------------------

    async def read(self, lane: Lane, skip: Iterable[int], bytes_max: int) -> tuple[list[Chunk], int]:
        """The next chunks to send, and the floor of their lane and epoch; damaged ones are dropped on the way.

        Raises StorageError.
        """

        def job(connection: sqlite3.Connection) -> tuple[list[Chunk], int]:
            found = chunks.read(connection, lane.name, lane.order, skip, bytes_max)
            lowest = chunks.floor(connection, lane.name, found[0].epoch) if found else None
            return found, lowest or 0

        while True:
            found, lowest = await self._run(job)
            bad = [chunk for chunk in found if not chunk.intact]
            if not bad:
                return found, lowest
            await self.remove(lane.name, [chunk.id for chunk in bad], "damaged on disk")

    async def remove(self, lane: str, ids: Sequence[int], reason: str | None = None) -> None:
        """Delete chunks: acknowledged ones, or with a reason those that are lost. Raises StorageError."""
        await self._run(lambda connection: chunks.delete(connection, lane, ids), lambda r: self._removed(r, reason))

    async def tidy(self, now_ms: int) -> None:
        """Drop what is older than its lane allows, forget old records, give disk space back. Raises StorageError."""
        for state in list(self.lanes.values()):
            before = state.lane.expired_before(now_ms)
            if before is not None and state.count:
                await self._run(partial(chunks.expire, lane=state.lane.name, before_ms=before), self._expired)
        await self._run(partial(chunks.forget_resends, now_ms=now_ms, remembered_ms=REMEMBERED_MS))
        idle = not any(state.count for state in self.lanes.values())
        while await self._run(lambda connection: chunks.reclaim(connection, idle=idle)):
            pass
        if idle:
            await self._store.checkpoint()

    def _expired(self, lost: Removed) -> None:
        self._removed(lost, "too old")

    async def _run(self, job: Callable[[sqlite3.Connection], T], then: Callable[[T], None] | None = None) -> T:
        try:
            return await self._store.run(job, then)
        except StorageError as error:
            self._notice_damage(error)
            raise


def _write(connection: sqlite3.Connection, flush: Flush, path: Path) -> list[Removed]:
    if flush.chunks:
        ensure_room(connection, path)
    removed = [chunks.make_room(connection, lane, excess) for lane, excess in flush.room]
    chunks.insert(connection, flush.chunks)
    if flush.records:
        chunks.remember_resends(connection, flush.at, flush.records)
    return removed
