"""The buffer's tables and every statement on them; functions of an open connection, inside a transaction of the caller.

A chunk is an immutable row: consecutive messages of a lane as one block, with a checksum of its own, because a flipped
bit inside a blob is nothing that SQLite would notice. Everything that is asked at start is answered from the covering
index `chunk_order`, so a million stored messages cost no reading of blobs.
"""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from core import blocks
from core.message import CLOCK_PLAUSIBLE_MS, Message
from edge.lanes import Order, overflow

CHUNK_MAX_BYTES = 64 << 10  # half a frame even when nothing compresses, so that a chunk never has to be split
CHUNK_MAX_MESSAGES = 2_048  # what decoding one at a time may cost in memory
READ_MAX_CHUNKS = 512  # for one frame, when devices are slow and chunks hold a message each
RECLAIM_PAGES = 1_024  # give disk space back from 4 MB of free pages on: less is reused soon enough
RECLAIM_PAGES_IDLE = 64  # unless nothing is stored at all
RECLAIM_STEP_PAGES = 2_000  # per transaction, so that a commit never waits long behind it

SCHEMA = """
CREATE TABLE IF NOT EXISTS lanes(name TEXT PRIMARY KEY, epoch INTEGER NOT NULL, next INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS chunks(
    id INTEGER PRIMARY KEY AUTOINCREMENT, lane TEXT NOT NULL, epoch INTEGER NOT NULL, first INTEGER NOT NULL,
    count INTEGER NOT NULL, bytes INTEGER NOT NULL, newest INTEGER NOT NULL, crc INTEGER NOT NULL, block BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS chunk_order ON chunks(lane, id, epoch, first, count, bytes, newest);
CREATE TABLE IF NOT EXISTS resends(id INTEGER PRIMARY KEY, at INTEGER NOT NULL, records BLOB NOT NULL);
PRAGMA journal_size_limit=4194304;
"""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A row of `chunks`; `id` is 0 before it is stored; `newest`: when its last message was heard, epoch ms."""

    id: int
    lane: str
    epoch: int
    first: int
    count: int
    newest: int
    crc: int
    block: bytes

    @property
    def intact(self) -> bool:
        """Whether the block is what was written."""
        return zlib.crc32(self.block) == self.crc


@dataclass(frozen=True, slots=True)
class Removed:
    """What a lane has lost: messages and bytes of blocks."""

    lane: str
    count: int = 0
    bytes: int = 0


def cut(lane: str, epoch: int, first: int, messages: Sequence[Message]) -> list[Chunk]:
    """Consecutive messages as chunks, numbered from `first`."""
    chunks: list[Chunk] = []
    start = size = 0
    for index, message in enumerate(messages):
        length = len(message.payload) + len(message.topic)
        if index > start and (size + length > CHUNK_MAX_BYTES or index - start >= CHUNK_MAX_MESSAGES):
            chunks.append(_chunk(lane, epoch, first + start, messages[start:index]))
            start, size = index, 0
        size += length
    chunks.append(_chunk(lane, epoch, first + start, messages[start:]))
    return chunks


def _chunk(lane: str, epoch: int, first: int, messages: Sequence[Message]) -> Chunk:
    block = blocks.encode(messages)
    return Chunk(0, lane, epoch, first, len(messages), messages[-1].received_at, zlib.crc32(block), block)


def insert(connection: sqlite3.Connection, chunks: Iterable[Chunk]) -> None:
    """Store chunks, and that their numbers are used up."""
    following: dict[str, tuple[int, int]] = {}
    for c in chunks:
        connection.execute(
            "INSERT INTO chunks(lane, epoch, first, count, bytes, newest, crc, block) VALUES (?,?,?,?,?,?,?,?)",
            (c.lane, c.epoch, c.first, c.count, len(c.block), c.newest, c.crc, c.block),
        )
        following[c.lane] = (c.epoch, c.first + c.count)
    for lane, (epoch, number) in following.items():
        connection.execute("INSERT OR REPLACE INTO lanes VALUES (?,?,?)", (lane, epoch, number))


def make_room(connection: sqlite3.Connection, lane: str, excess: int) -> Removed:
    """Delete the oldest chunks of a lane until `excess` bytes are free."""
    rows = connection.execute("SELECT id, count, bytes FROM chunks WHERE lane = ? ORDER BY id", (lane,))
    ids, count, size = overflow(rows, excess)
    rows.close()
    connection.execute(
        "DELETE FROM chunks WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(ids),)
    )
    return Removed(lane, count, size)


def read(
    connection: sqlite3.Connection, lane: str, order: Order, skip: Iterable[int], bytes_max: int
) -> list[Chunk]:
    """Consecutive chunks of one epoch, in the order of their numbers, that make a frame of at most `bytes_max`.

    The chunks in `skip` (ids: those in flight) are passed over. At least one chunk, when there is any.
    """
    step = 1 if order is Order.OLDEST_FIRST else -1
    cursor = connection.execute(
        "SELECT id, lane, epoch, first, count, bytes FROM chunks"
        " WHERE lane = ? AND id NOT IN (SELECT value FROM json_each(?))"
        f" ORDER BY id {'ASC' if step == 1 else 'DESC'} LIMIT {READ_MAX_CHUNKS}",
        (lane, json.dumps(list(skip))),
    )
    chosen: list[tuple[int, int, int, int]] = []
    size = messages = 0
    for identity, _, epoch, first, count, length in cursor:
        if chosen:
            _, last_epoch, last_first, last_count = chosen[-1]
            adjoins = first == last_first + last_count if step == 1 else first + count == last_first
            too_much = size + length > bytes_max or messages + count > blocks.MESSAGES_MAX
            if epoch != last_epoch or not adjoins or too_much:
                break
        chosen.append((identity, epoch, first, count))
        size += length
        messages += count
    cursor.close()
    return [chunk for identity, *_ in sorted(chosen) if (chunk := load(connection, identity)) is not None]


def load(connection: sqlite3.Connection, identity: int) -> Chunk | None:
    """One chunk by its id."""
    row = connection.execute(
        "SELECT id, lane, epoch, first, count, newest, crc, block FROM chunks WHERE id = ?", (identity,)
    ).fetchone()
    return None if row is None else Chunk(*row)


def floor(connection: sqlite3.Connection, lane: str, epoch: int) -> int | None:
    """The lowest number of this lane and epoch that is still stored. Within an epoch, ids rise with the numbers."""
    row = connection.execute(
        "SELECT first FROM chunks WHERE lane = ? AND epoch = ? ORDER BY id LIMIT 1", (lane, epoch)
    ).fetchone()
    return None if row is None else int(row[0])


def delete(connection: sqlite3.Connection, lane: str, ids: Iterable[int]) -> Removed:
    """Delete chunks by id; those that are gone already do not count."""
    listed = json.dumps(list(ids))
    where = "WHERE id IN (SELECT value FROM json_each(?))"
    count, size = connection.execute(f"SELECT total(count), total(bytes) FROM chunks {where}", (listed,)).fetchone()
    connection.execute(f"DELETE FROM chunks {where}", (listed,))
    return Removed(lane, int(count), int(size))


def expire(connection: sqlite3.Connection, lane: str, before_ms: int) -> Removed:
    """Delete the chunks of a lane whose newest message is older than `before_ms`.

    What was heard before the clock was set stays: nobody knows how old it is.
    """
    rows = connection.execute(
        "SELECT id FROM chunks WHERE lane = ? AND newest >= ? AND newest < ?", (lane, CLOCK_PLAUSIBLE_MS, before_ms)
    ).fetchall()
    return delete(connection, lane, [identity for (identity,) in rows])


def remember_resends(connection: sqlite3.Connection, at: int, records: bytes) -> None:
    """Store what a commit acknowledges."""
    connection.execute("INSERT INTO resends(at, records) VALUES (?,?)", (at, records))


def recent_resends(connection: sqlite3.Connection, remembered_ms: int) -> list[bytes]:
    """What the last commit and those within `remembered_ms` before it acknowledged, in their order."""
    rows = connection.execute(
        "SELECT records FROM resends"
        " WHERE abs(at - (SELECT at FROM resends ORDER BY id DESC LIMIT 1)) <= ? ORDER BY id",
        (remembered_ms,),
    )
    return [records for (records,) in rows]


def forget_resends(connection: sqlite3.Connection, now_ms: int, remembered_ms: int) -> None:
    """Delete what is too old to be sent again, and what a clock that was wrong has dated into the future."""
    connection.execute("DELETE FROM resends WHERE abs(at - ?) > ?", (now_ms, remembered_ms))


def reclaim(connection: sqlite3.Connection, *, idle: bool) -> bool:
    """Give free pages back to the file system, a step of them; whether there is more to do.

    As long as something is stored, only once half of the file is free: pages that move are written again.
    """
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    if free < (RECLAIM_PAGES_IDLE if idle else RECLAIM_PAGES) or free * 2 < pages:
        return False
    for _ in range(min(free, RECLAIM_STEP_PAGES)):
        # One page each: the module frees one per call, however many it is asked for, because the pragma has no rows.
        connection.execute("PRAGMA incremental_vacuum(1)")
    return bool(free > RECLAIM_STEP_PAGES)


def totals(connection: sqlite3.Connection) -> list[dict[str, str | int]]:
    """What each lane holds, for people: messages, bytes of blocks, the first and the last number."""
    rows = connection.execute(
        "SELECT name, coalesce(sum(count), 0), coalesce(sum(bytes), 0), coalesce(next, 1)"
        " FROM (SELECT name FROM lanes UNION SELECT lane FROM chunks)"  # a recovered buffer has no numbers yet
        " LEFT JOIN lanes USING (name) LEFT JOIN chunks ON lane = name GROUP BY name ORDER BY name"
    )
    return [
        {"lane": lane, "messages": count, "bytes": size, "next_sequence": following}
        for lane, count, size, following in rows
    ]


def peek(connection: sqlite3.Connection, lane: str, messages_max: int) -> list[Chunk]:
    """The oldest chunks of a lane that together hold at least `messages_max` messages, or all."""
    found: list[Chunk] = []
    cursor = connection.execute(
        "SELECT id, lane, epoch, first, count, newest, crc, block FROM chunks WHERE lane = ? ORDER BY id", (lane,)
    )
    for row in cursor:
        found.append(Chunk(*row))
        if sum(chunk.count for chunk in found) >= messages_max:
            break
    cursor.close()
    return found
