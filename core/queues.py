"""Local queues with the manners of SQS: a message that is received stays, invisible for a while, until it is deleted.

Functions of an open connection, inside a transaction of the caller; so a message is sent, or deleted, in the same
commit as whatever caused it. A queue is there once something is sent to it, or once it is configured. A message that
was received `max_receives` times and never deleted goes to the queue's dead-letter queue, or, without one, stays.

Times are milliseconds of a clock that does not jump (core.timeline), except `sent_ms` and `first_received_ms`, which
are for people. Bounds: QUEUES_MAX queues, per queue `messages_max` and `bytes_max`; a message MESSAGE_BYTES_MAX.

Will not wait for messages (`functions.polling` does), and knows no order beyond that of sending: whoever comes back
after its time-out is in its old place again.
"""

import hashlib
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import uuid4
from zlib import crc32

import orjson

from core.errors import TidegateError
from core.store import readable

MESSAGE_BYTES_MAX = 1 << 20  # body and attributes (SQS quotas)
ATTRIBUTES_MAX = 10  # of a message (SQS quotas)
DELAY_MAX_MS = 900_000  # 15 minutes (SQS quotas)
VISIBILITY_MAX_MS = 43_200_000  # 12 hours (SQS quotas)
VISIBILITY_MS = 30_000  # SQS's default
RECEIVE_MAX = 10_000  # messages at a time: the largest batch of an event source
RECEIVE_BYTES_MAX = 8 << 20  # at a time
QUEUES_MAX = 1_000
MESSAGES_MAX = 100_000  # in a queue, unless configured
BYTES_MAX = 256 << 20
NAME_MAX = 80  # characters (SQS)

SCHEMA = """
CREATE TABLE IF NOT EXISTS local_queues(
    name TEXT PRIMARY KEY, visibility INTEGER, max_receives INTEGER, dead_letter TEXT,
    messages_max INTEGER, bytes_max INTEGER,
    messages INTEGER, bytes INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS local_messages(
    number INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT, id TEXT, sent_ms INTEGER,
    visible_at INTEGER, receives INTEGER, first_received_ms INTEGER, bytes INTEGER,
    crc INTEGER, body BLOB, attributes BLOB);
CREATE INDEX IF NOT EXISTS local_messages_order ON local_messages(queue, number, visible_at, bytes);
"""

Attributes = Mapping[str, tuple[str, str]]  # name → type ("String", "Number", "Binary" in base64) and value


class QueueError(TidegateError):
    """A queue does not take this."""


class QueueFull(QueueError):
    """A queue holds as much as it may."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is configured of a queue; times in milliseconds. `max_receives` 0 is for ever."""

    visibility: int = VISIBILITY_MS
    max_receives: int = 0
    dead_letter: str = ""
    messages_max: int = MESSAGES_MAX
    bytes_max: int = BYTES_MAX


@dataclass(frozen=True, slots=True)
class Message:
    """A message that was received: `receipt` deletes it. `receives` counts this time too."""

    number: int
    queue: str
    id: str
    sent_ms: int
    receives: int
    first_received_ms: int
    body: bytes
    attributes: dict[str, tuple[str, str]]

    @property
    def receipt(self) -> str:
        """Its receipt handle, good until it is received again."""
        return f"{self.number}-{self.receives}"

    @property
    def md5(self) -> str:
        """Of the body, as SQS tells it."""
        return hashlib.md5(self.body, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Totals:
    """What a queue holds: messages in all, those that nobody sees now, and bytes."""

    queue: str
    messages: int
    invisible: int
    bytes: int


def queue_name(text: str) -> str:
    """The name in a queue's ARN, its URL, or itself; raises QueueError."""
    name = text.rstrip("/").rpartition("/")[2] if "://" in text else text.rpartition(":")[2]
    plain = name.removesuffix(".fifo").replace("-", "").replace("_", "")
    if not name or len(name) > NAME_MAX or not plain.isalnum() or not plain.isascii():
        raise QueueError(f"{text[:200]!r} names no queue: up to {NAME_MAX} letters, digits, hyphens and underscores")
    return name


def configure(connection: sqlite3.Connection, queue: str, settings: Settings) -> None:
    """Make a queue, or change it. Raises QueueError."""
    _ensure(connection, queue)
    s = settings
    connection.execute(
        "UPDATE local_queues SET visibility=?, max_receives=?, dead_letter=?, messages_max=?, bytes_max=? WHERE name=?",
        (s.visibility, s.max_receives, s.dead_letter, s.messages_max, s.bytes_max, queue),
    )


def settings(connection: sqlite3.Connection, queue: str) -> Settings:
    """What is configured of a queue; the defaults of one that is not there."""
    row = connection.execute(
        "SELECT visibility, max_receives, dead_letter, messages_max, bytes_max FROM local_queues WHERE name = ?",
        (queue,),
    ).fetchone()
    return Settings() if row is None else Settings(*row)


def send(
    connection: sqlite3.Connection,
    queue: str,
    body: bytes,
    now: int,
    wall_ms: int,
    attributes: Attributes | None = None,
    delay: int = 0,
    identity: str = "",
) -> str:
    """Put a message into a queue and return its id. Raises QueueFull, QueueError."""
    attributes = attributes or {}
    said = orjson.dumps(attributes) if attributes else b""
    size = len(body) + sum(len(name) + len(kind) + len(value) for name, (kind, value) in attributes.items())
    if size > MESSAGE_BYTES_MAX:
        raise QueueError(f"a message of {size:,} bytes; a queue takes {MESSAGE_BYTES_MAX:,}")
    if len(attributes) > ATTRIBUTES_MAX:
        raise QueueError(f"{len(attributes)} attributes; a message has at most {ATTRIBUTES_MAX}")
    _ensure(connection, queue)
    held, most, used, room = connection.execute(
        "SELECT messages, messages_max, bytes, bytes_max FROM local_queues WHERE name = ?", (queue,)
    ).fetchone()
    if held >= most or used + size > room:
        raise QueueFull(f"the queue {queue} is full: {held:,} messages, {used:,} bytes")
    identity = identity or str(uuid4())
    connection.execute(
        "INSERT INTO local_messages(queue, id, sent_ms, visible_at, receives, first_received_ms, bytes, crc, body,"
        " attributes) VALUES (?,?,?,?,0,0,?,?,?,?)",
        (queue, identity, wall_ms, now + min(delay, DELAY_MAX_MS), size, crc32(body + said), body, said),
    )
    _account(connection, queue, 1, size)
    return identity


def receive(
    connection: sqlite3.Connection,
    queue: str,
    now: int,
    wall_ms: int,
    most: int = 10,
    visibility: int | None = None,
    bytes_max: int = RECEIVE_BYTES_MAX,
) -> tuple[list[Message], int]:
    """Take the oldest visible messages, and make them invisible; also returns how many were damaged and deleted.

    At least one, when there is any. Those that were received too often go to the dead-letter queue instead, where there
    is one with room.
    """
    known = settings(connection, queue)
    until = now + min(known.visibility if visibility is None else visibility, VISIBILITY_MAX_MS)
    rows = _visible(connection, queue, now, min(most, RECEIVE_MAX), bytes_max)
    found: list[Message] = []
    damaged: list[int] = []
    for number, identity, sent_ms, receives, first_ms, crc, body, said in rows:
        if crc32(body + said) != crc:
            damaged.append(number)
        elif known.max_receives and receives >= known.max_receives and _redrive(connection, number, known, now):
            continue
        else:
            first_ms = first_ms or wall_ms
            found.append(
                Message(number, queue, identity, sent_ms, receives + 1, first_ms, body, _attributes(said))
            )
    connection.executemany(
        "UPDATE local_messages SET visible_at = ?, receives = ?, first_received_ms = ? WHERE number = ?",
        [(until, message.receives, message.first_received_ms, message.number) for message in found],
    )
    _remove(connection, queue, damaged)
    return found, len(damaged)


def delete(connection: sqlite3.Connection, queue: str, receipts: Sequence[str]) -> int:
    """Delete messages by the receipts of their last reception; returns how many."""
    return _remove(connection, queue, _current(connection, queue, receipts))


def change_visibility(
    connection: sqlite3.Connection, queue: str, receipts: Sequence[str], now: int, visibility: int
) -> int:
    """Make received messages visible so many milliseconds from now; returns how many."""
    numbers = _current(connection, queue, receipts)
    until = now + min(visibility, VISIBILITY_MAX_MS)
    connection.executemany("UPDATE local_messages SET visible_at = ? WHERE number = ?", [(until, n) for n in numbers])
    return len(numbers)


def forget_receptions(connection: sqlite3.Connection, now: int) -> None:
    """At start: whoever had received messages is gone, so they are visible; those that were delayed stay so."""
    connection.execute("UPDATE local_messages SET visible_at = ? WHERE receives > 0 AND visible_at > ?", (now, now))


def next_visible(connection: sqlite3.Connection, queue: str) -> int | None:
    """When the next message will be visible; in the past when one is, None when there is none."""
    row = connection.execute("SELECT min(visible_at) FROM local_messages WHERE queue = ?", (queue,)).fetchone()
    return None if row[0] is None else int(row[0])


def totals(connection: sqlite3.Connection, now: int) -> list[Totals]:
    """What each queue holds, by name."""
    rows = connection.execute(
        "SELECT name, messages, (SELECT count(*) FROM local_messages WHERE queue = name AND visible_at > ?), bytes"
        " FROM local_queues ORDER BY name",
        (now,),
    )
    return [Totals(*row) for row in rows]


def peek(connection: sqlite3.Connection, queue: str, most: int = 10, after: int = 0) -> list[Message]:
    """The oldest messages with numbers above `after`, for people: nothing changes."""
    rows = connection.execute(
        "SELECT number, queue, id, sent_ms, receives, first_received_ms, body, attributes FROM local_messages"
        " WHERE queue = ? AND number > ? ORDER BY number LIMIT ?",
        (queue, after, most),
    )
    return [
        Message(number, name, identity, sent_ms, receives, first_ms, body, _attributes(said))
        for number, name, identity, sent_ms, receives, first_ms, body, said in rows
    ]


def purge(connection: sqlite3.Connection, queue: str) -> int:
    """Delete every message of a queue; returns how many."""
    numbers = connection.execute("SELECT number FROM local_messages WHERE queue = ?", (queue,)).fetchall()
    return _remove(connection, queue, [number for (number,) in numbers])


def salvage(source: sqlite3.Connection, target: sqlite3.Connection) -> int:
    """Copy what can be read out of a damaged database; returns how many messages that are."""
    copied = 0
    with suppress(sqlite3.Error):
        for row in source.execute("SELECT * FROM local_queues"):
            target.execute("INSERT INTO local_queues VALUES (?,?,?,?,?,?,0,0)", row[:6])
    for row in readable(source, "local_messages"):
        _ensure(target, row[1])
        target.execute("INSERT INTO local_messages VALUES (?,?,?,?,?,?,?,?,?,?,?)", row)
        _account(target, row[1], 1, row[7])
        copied += 1
    return copied


def _visible(
    connection: sqlite3.Connection, queue: str, now: int, most: int, bytes_max: int
) -> list[tuple[int, str, int, int, int, int, bytes, bytes]]:
    """The oldest visible messages as rows."""
    chosen: list[int] = []
    cursor = connection.execute(
        "SELECT number, bytes FROM local_messages WHERE queue = ? AND visible_at <= ? ORDER BY number LIMIT ?",
        (queue, now, most),
    )
    for number, size in cursor:
        bytes_max -= size
        if chosen and bytes_max < 0:
            break
        chosen.append(number)
    cursor.close()
    return connection.execute(
        "SELECT number, id, sent_ms, receives, first_received_ms, crc, body, attributes FROM local_messages"
        " WHERE number IN (SELECT value FROM json_each(?)) ORDER BY number",
        (orjson.dumps(chosen).decode(),),
    ).fetchall()


def _attributes(said: bytes) -> dict[str, tuple[str, str]]:
    return {name: (kind, value) for name, (kind, value) in orjson.loads(said).items()} if said else {}


def _ensure(connection: sqlite3.Connection, queue: str) -> None:
    if connection.execute("SELECT 1 FROM local_queues WHERE name = ?", (queue,)).fetchone() is not None:
        return
    (count,) = connection.execute("SELECT count(*) FROM local_queues").fetchone()
    if count >= QUEUES_MAX:
        raise QueueError(f"there are {count:,} queues already; no {queue}")
    s = Settings()
    connection.execute(
        "INSERT INTO local_queues VALUES (?,?,?,?,?,?,0,0)",
        (queue_name(queue), s.visibility, s.max_receives, s.dead_letter, s.messages_max, s.bytes_max),
    )


def _account(connection: sqlite3.Connection, queue: str, messages: int, size: int) -> None:
    connection.execute(
        "UPDATE local_queues SET messages = messages + ?, bytes = bytes + ? WHERE name = ?", (messages, size, queue)
    )


def _redrive(connection: sqlite3.Connection, number: int, known: Settings, now: int) -> bool:
    """Move a message to the dead-letter queue, under its id; whether there is one that takes it."""
    if not known.dead_letter:
        return False
    queue, size = connection.execute("SELECT queue, bytes FROM local_messages WHERE number = ?", (number,)).fetchone()
    try:
        _ensure(connection, known.dead_letter)
    except QueueError:
        return False
    held, most, used, room = connection.execute(
        "SELECT messages, messages_max, bytes, bytes_max FROM local_queues WHERE name = ?", (known.dead_letter,)
    ).fetchone()
    if queue == known.dead_letter or held >= most or used + size > room:
        return False
    connection.execute(
        "INSERT INTO local_messages(queue, id, sent_ms, visible_at, receives, first_received_ms, bytes, crc, body,"
        " attributes) SELECT ?, id, sent_ms, ?, 0, 0, bytes, crc, body, attributes FROM local_messages"
        " WHERE number = ?",
        (known.dead_letter, now, number),
    )
    _account(connection, known.dead_letter, 1, size)
    _remove(connection, queue, [number])
    return True


def _current(connection: sqlite3.Connection, queue: str, receipts: Sequence[str]) -> list[int]:
    """The numbers of the messages whose last receipts these are."""
    found = []
    for receipt in receipts:
        number, _, receives = receipt.partition("-")
        if number.isdecimal() and receives.isdecimal() and len(receipt) < 40:
            row = connection.execute(
                "SELECT 1 FROM local_messages WHERE number = ? AND queue = ? AND receives = ?",
                (int(number), queue, int(receives)),
            ).fetchone()
            if row is not None:
                found.append(int(number))
    return found


def _remove(connection: sqlite3.Connection, queue: str, numbers: Sequence[int]) -> int:
    size = 0
    for number in numbers:
        (length,) = connection.execute("SELECT bytes FROM local_messages WHERE number = ?", (number,)).fetchone()
        connection.execute("DELETE FROM local_messages WHERE number = ?", (number,))
        size += length
    if numbers:
        _account(connection, queue, -len(numbers), -size)
    return len(numbers)
