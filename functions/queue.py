"""The durable queue of asynchronous invocations: what was accepted is on disk until it has ended.

On the edge an event is given to a worker at once and gathers for the commit that the device's PUBACK waits for; if it
ends before that commit begins, it never touches the disk. In the cloud events are written inside the transaction of
the rules' other effects (`insert`), and given to workers after it (`inserted`).

Kept: blocks of events, one row for what a commit took in (`functions.events`). That events have ended is written later,
when nobody waits; that one ended by way of something else that must be kept (an event for another function, a message
in a queue, a dead letter) is in the same transaction as that (`settle`).

Invariants:
1. An event leaves the disk when it has ended, and by no other way but damage, which is counted and logged.
2. After a crash everything that had not ended is there again, in the order in which it came, with its attempts; what
   ended within `core.commits.LATER_SECONDS` before may be there too: at least once, as Lambda has it.
3. When the disk refuses, what was accepted stays in memory and is tried again; what is held counts against `bytes_max`.

Will not decide what is tried when, nor what becomes of a failure (`asynchronous` does).
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core import timeline
from core.commits import Barrier, Commits, Work
from core.errors import StorageError
from core.store import ensure_room, readable
from core.telemetry import Counters, get_logger
from core.timeline import Mark, Timeline
from functions import events
from functions.errors import Throttled
from functions.events import Block, Event, MalformedEvents

log = get_logger("functions.queue")

SCHEMA = (
    timeline.SCHEMA
    + """
CREATE TABLE IF NOT EXISTS function_events(
    id INTEGER PRIMARY KEY AUTOINCREMENT, count INTEGER, block BLOB);
CREATE TABLE IF NOT EXISTS function_progress(block INTEGER PRIMARY KEY, state BLOB);
"""
)

KEPT = Barrier(kept=True)
Told = Callable[[], None]
Write = Callable[[sqlite3.Connection], Told | None]
"""Something to be written in a commit; what it returns is called on the loop once that is on disk."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a transaction writes of blocks that are on disk: their states, and those that are not needed any more."""

    states: list[tuple[int, bytes]]
    emptied: list[int]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Flush:
    """One commit: events to keep, what is written beside, the events that end by that, and blocks written anew."""

    events: list[Event]
    blocks: list[Block]
    writes: list[Write]
    settled: list[Event]
    moved: list[Block]
    progress: Progress
    barrier: Barrier


class InvocationQueue:
    """The events of one daemon; a part of its commits. `bytes_max` bounds what it holds, in memory and on disk."""

    def __init__(
        self, commits: Commits, counters: Counters, bytes_max: int = 256 << 20, clock: Timeline | None = None
    ) -> None:
        self.timeline = clock or Timeline()
        self.bytes = 0
        self.count = 0
        self.released: Callable[[Event], None] = lambda _: None  # told of each event that is not held any more
        self._bytes_max = bytes_max
        self._commits = commits
        self._counters = counters
        self._gathering = 0  # of `_put`, those that have not ended
        self._put: list[Event] = []
        self._writes: list[Write] = []
        self._settled: list[Event] = []
        self._ended: list[Event] = []
        self._dirty: dict[Block, None] = {}
        self._emptied: list[Block] = []
        self._barrier = Barrier()
        self._flying = KEPT
        self._refused = False  # the last commit
        commits.join(self)

    async def load(self) -> list[Event]:
        """Take up what the last run left, in its order. Raises StorageError."""
        mark, blocks, damaged = await self._commits.store.run(_load)
        self.timeline.start(mark)
        if damaged:
            self._counters.dropped("damaged on disk", damaged, target="functions")
            log.error("queued events are damaged and lost", events=damaged)
        found = [event for block in blocks for event in block.events if event is not None]
        for event in found:
            self._hold(event)
        return found

    # -- taking in ----------------------------------------------------------------------------------------------------

    @property
    def has_gathered(self) -> bool:
        """Whether something is to be committed before anybody is told that it is kept."""
        return self._gathering > 0 or bool(self._settled or self._writes)

    @property
    def barrier(self) -> Barrier:
        """Settled when everything that was put until now is on disk; asks for the commit."""
        if self.has_gathered:
            self._commits.soon()
            return self._barrier
        return self._flying

    async def kept(self) -> None:
        """Return once everything that was put until now is on disk. Raises StorageError when that refuses."""
        settled: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.barrier.then(lambda kept: None if settled.cancelled() else settled.set_result(kept))
        if not await settled:
            raise StorageError("the disk refuses; the event may run, but a crash would lose it")

    def reserve(self, event: Event) -> None:
        """Hold room for an event. Raises Throttled."""
        if self.bytes + event.size > self._bytes_max:
            raise Throttled(f"the queue of functions is full: {self._bytes_max:,} bytes")
        self._hold(event)

    def put(self, event: Event) -> None:
        """Keep a reserved event from the next commit on."""
        event.gathering = True
        self._gathering += 1
        self._put.append(event)
        self._commits.later()

    def insert(self, connection: sqlite3.Connection, found: Sequence[Event]) -> None:
        """Keep reserved events within somebody else's transaction; called on the store's thread, perhaps again.

        Raises StorageError when the disk has no room.
        """
        if found:
            ensure_room(connection, self._commits.store.path)
            for block in events.cut(found):
                _insert(connection, block)
                block.place()

    def release(self, event: Event) -> None:
        """Forget a reserved event that was never put, or that has ended."""
        self.bytes -= event.size
        self.count -= 1
        self.released(event)

    def _hold(self, event: Event) -> None:
        self.bytes += event.size
        self.count += 1

    # -- letting go ---------------------------------------------------------------------------------------------------

    def finish(self, event: Event) -> None:
        """An event has ended, and nothing follows from it."""
        self._end(event)
        if event.block is not None:
            self._ended.append(event)
            self._commits.later()
        self.release(event)

    def settle(self, event: Event, writes: Sequence[Write] = ()) -> None:
        """An event has ended by what was put just before, and by `writes`: all of it in one commit, or none.

        It is held until then.
        """
        self._end(event)
        self._settled.append(event)
        self.write(writes)

    def write(self, writes: Sequence[Write]) -> None:
        """Write something with the next commit."""
        self._writes += writes
        self._commits.soon()

    def retry(self, event: Event) -> None:
        """An event was tried, and is to be tried again."""
        if event.block is not None:
            self._dirty[event.block] = None
            self._commits.later()

    def _end(self, event: Event) -> None:
        event.finished = True
        if event.gathering:
            event.gathering = False
            self._gathering -= 1

    # -- commits ------------------------------------------------------------------------------------------------------

    def gather(self) -> Work | None:
        """What must be kept together; that events ended is submitted beside it, where a full disk does not stop it.

        Rows that are mostly empty are written anew, unless the disk has just refused something.
        """
        ended, self._ended = self._ended, []
        for block in _end_in_blocks(ended):
            self._dirty[block] = None
            if not block.live:
                del self._dirty[block]
                self._emptied.append(block)
        moved = [] if self._refused else [block for block in self._dirty if block.is_sparse]
        for block in moved:
            del self._dirty[block]
        self._submit_progress()
        new = [event for event in self._put if not event.finished]
        self._put = []
        if not (new or moved or self._writes or self._settled):
            barrier, self._barrier = self._barrier, Barrier()
            barrier.settle(kept=True)  # whatever it was for has ended before it could be written
            return None
        flush = self._flush(new, moved)
        self._flying = flush.barrier
        path = self._commits.store.path
        return Work(lambda connection: _write(connection, flush, path), lambda told, e: self._written(flush, told, e))

    def _flush(self, new: list[Event], moved: list[Block]) -> Flush:
        barrier, self._barrier = self._barrier, Barrier()
        writes, self._writes = self._writes, []
        settled, self._settled = self._settled, []
        self._gathering = 0
        for event in new:
            event.gathering = False
        touched = _end_in_blocks([event for event in settled if event.block is not None])
        rests = [block.rest() for block in moved]
        for block in moved:
            touched.pop(block, None)
        progress = Progress(
            [(block.id, block.state()) for block in touched if block.live],
            [block.id for block in touched if not block.live],
            self.timeline.mark(),
        )
        together = [event for rest in rests for event in rest.events if event is not None] + new
        return Flush(together, rests + events.cut(new), writes, settled, moved, progress, barrier)

    def _submit_progress(self) -> None:
        dirty, self._dirty = [block for block in self._dirty if not block.gone], {}
        emptied, self._emptied = [block for block in self._emptied if not block.gone], []
        if not (dirty or emptied):
            return
        states, ids = [(block.id, block.state()) for block in dirty], [block.id for block in emptied]
        progress = Progress(states, ids, self.timeline.mark())

        def written(_: object, error: Exception | None) -> None:
            if error is not None:
                log.warning("ends of events cannot be stored; a crash would have them run again", error=error)
                self._dirty = dict.fromkeys(block for block in (*dirty, *self._dirty) if block.live)
                self._emptied = emptied + self._emptied
                self._commits.refused(error)
                self._commits.later()

        self._commits.store.submit(lambda connection: _progress(connection, progress), written)

    def _written(self, flush: Flush, told: list[Told] | None, error: Exception | None) -> None:
        self._flying, self._refused = KEPT, error is not None
        if error is None:
            self._kept(flush)
            for call in told or ():
                call()
        else:
            log.error("events of functions cannot be stored; trying again", error=error)
            self._gather_again(flush)
        flush.barrier.settle(kept=error is None)

    def _kept(self, flush: Flush) -> None:
        for block in flush.moved:
            block.gone = True
        settling = set(map(id, self._settled))  # while they were on their way: the next commit notes their end
        self._ended += [e for e in flush.events if e.finished and e.block is None and id(e) not in settling]
        for block in flush.blocks:
            if any(event.attempts for event in block.place()):
                self._dirty[block] = None
        if self._ended or self._dirty:
            self._commits.later()
        for event in flush.settled:
            self.release(event)

    def _gather_again(self, flush: Flush) -> None:
        again = [event for event in flush.events if event.block is None and not event.finished]
        for event in again:
            event.gathering = True
        self._gathering += len(again)
        self._put = again + self._put
        for event in flush.settled:
            if event.block is not None:
                event.block.revive(event)
        self._writes = flush.writes + self._writes
        self._settled = flush.settled + self._settled
        self._dirty |= dict.fromkeys(flush.moved)


def _end_in_blocks(ended: Iterable[Event]) -> dict[Block, None]:
    """Note in their blocks that events have ended; returns the blocks."""
    touched: dict[Block, None] = {}
    for event in ended:
        assert event.block is not None
        event.block.end(event)
        touched[event.block] = None
    return touched


def _insert(connection: sqlite3.Connection, block: Block) -> None:
    found = [event for event in block.events if event is not None]
    row = (len(found), events.sealed(events.encode(found)))
    if block.id:  # it was there, and stays in its place, because that is the order in which events came
        connection.execute("UPDATE function_events SET count = ?, block = ? WHERE id = ?", (*row, block.id))
        connection.execute("DELETE FROM function_progress WHERE block = ?", (block.id,))
        return
    block.id = connection.execute("INSERT INTO function_events(count, block) VALUES (?,?)", row).lastrowid or 0


def _write(connection: sqlite3.Connection, flush: Flush, path: Path) -> list[Told]:
    if flush.blocks or flush.writes:
        ensure_room(connection, path)
    for block in flush.blocks:
        _insert(connection, block)
    told = [call for write in flush.writes if (call := write(connection)) is not None]
    _progress(connection, flush.progress)
    return told


def _progress(connection: sqlite3.Connection, progress: Progress) -> None:
    connection.executemany("INSERT OR REPLACE INTO function_progress VALUES (?,?)", progress.states)
    gone = [(identity,) for identity in progress.emptied]
    connection.executemany("DELETE FROM function_events WHERE id = ?", gone)
    connection.executemany("DELETE FROM function_progress WHERE block = ?", gone)
    timeline.write(connection, progress.mark)


def _load(connection: sqlite3.Connection) -> tuple[Mark, list[Block], int]:
    """The last mark, every block that has events left, and how many events are damaged; those rows are deleted."""
    blocks: list[Block] = []
    damaged, bad = 0, []
    states = dict(connection.execute("SELECT block, state FROM function_progress").fetchall())
    for identity, count, data in connection.execute("SELECT id, count, block FROM function_events ORDER BY id"):
        try:
            block = Block(events.decode(events.opened(data)))
        except MalformedEvents:
            damaged += count
            bad.append((identity,))
            continue
        block.id = identity
        block.place()
        _take_state(block, states.get(identity))
        if block.live:
            blocks.append(block)
        else:
            bad.append((identity,))
    connection.executemany("DELETE FROM function_events WHERE id = ?", bad)
    connection.execute("DELETE FROM function_progress WHERE block NOT IN (SELECT id FROM function_events)")
    return timeline.load(connection), blocks, damaged


def _take_state(block: Block, state: bytes | None) -> None:
    if state is not None:
        try:
            block.take_state(state)
        except MalformedEvents as error:
            log.error("what has ended of some queued events is damaged; they are run again", error=error)


def salvage(source: sqlite3.Connection, target: sqlite3.Connection) -> int:
    """Copy every row that can be read out of a damaged database; returns how many events those hold."""
    count = 0
    for table, columns in (("function_events", 3), ("function_progress", 2), ("timeline", 3)):
        for row in readable(source, table):
            marks = ",".join("?" * columns)
            target.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", row)
            count += row[1] if table == "function_events" else 0
    return count
