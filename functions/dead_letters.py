"""The dead-letter store: events that failed for good and have nowhere else to go, to be looked at and tried again.

What is here left the queue in the same transaction. The newest LETTERS_MAX, of LETTERS_BYTES_MAX together, are kept
(looked at with every LOOK_EVERY-th); what has to go for them is told, so that it can be counted.

Functions of an open connection, inside a transaction of the caller.
"""

import sqlite3
from dataclasses import dataclass
from zlib import crc32

from core.store import readable
from functions.invocations import Invocation
from functions.names import FunctionName

LETTERS_MAX = 10_000  # more than anybody looks through; as many as a queue holds by default
LETTERS_BYTES_MAX = 64 << 20
LOOK_EVERY = 64  # counting them all takes a fraction of a millisecond
RESPONSE_BYTES_MAX = 16 << 10  # of what the handler said last, which is for people here

SCHEMA = """
CREATE TABLE IF NOT EXISTS function_dead_letters(
    id INTEGER PRIMARY KEY AUTOINCREMENT, request TEXT, function TEXT, at INTEGER,
    enqueued INTEGER, attempts INTEGER, condition TEXT, reason TEXT,
    bytes INTEGER, crc INTEGER, payload BLOB, context BLOB, response BLOB);
CREATE INDEX IF NOT EXISTS function_dead_letters_size ON function_dead_letters(id, bytes);
"""
_COLUMNS = "id, request, function, at, enqueued, attempts, condition, reason, bytes"


@dataclass(frozen=True, slots=True)
class Letter:
    """What is known of a dead letter; `id` is its number here. `at` and `enqueued` are ms since the epoch.

    `reason` says why it is here and not at a destination, `bytes` how long the event is.
    """

    id: int
    request: str
    function: str
    at: int
    enqueued: int
    attempts: int
    condition: str
    reason: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Contents:
    """A dead letter whole; None for `payload` means that it is damaged."""

    letter: Letter
    payload: bytes | None
    client_context: bytes
    response: bytes

    @property
    def function(self) -> FunctionName:
        """What it was for."""
        return FunctionName.parse(self.letter.function)


def add(
    connection: sqlite3.Connection, invocation: Invocation, condition: str, reason: str, response: bytes, now_ms: int
) -> int:
    """Keep an event; returns how many older ones had to go for it."""
    i = invocation
    added = connection.execute(
        "INSERT INTO function_dead_letters(request, function, at, enqueued, attempts, condition, reason, bytes, crc,"
        " payload, context, response) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
        (i.id, str(i.function), now_ms, i.enqueued_ms, i.attempts, condition, reason, len(i.payload),
         crc32(i.payload), i.payload, i.client_context, response[:RESPONSE_BYTES_MAX]),
    )  # fmt: skip
    return 0 if (added.lastrowid or 0) % LOOK_EVERY else _make_room(connection)


def _make_room(connection: sqlite3.Connection) -> int:
    count, size = connection.execute("SELECT count(*), total(bytes) FROM function_dead_letters").fetchone()
    gone: list[tuple[int]] = []
    for identity, length in connection.execute("SELECT id, bytes FROM function_dead_letters ORDER BY id"):
        if count - len(gone) <= LETTERS_MAX and size <= LETTERS_BYTES_MAX:
            break
        gone.append((identity,))
        size -= length
    connection.executemany("DELETE FROM function_dead_letters WHERE id = ?", gone)
    return len(gone)


def count(connection: sqlite3.Connection) -> int:
    """How many there are."""
    return int(connection.execute("SELECT count(*) FROM function_dead_letters").fetchone()[0])


def letters(connection: sqlite3.Connection, function: str = "", after: int = 0, most: int = 100) -> list[Letter]:
    """The oldest ones with numbers above `after`, of one function or of all."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM function_dead_letters"
        " WHERE id > ? AND (? = '' OR function = ? OR function LIKE ? || ':%') ORDER BY id LIMIT ?",
        (after, function, function, function, most),
    )
    return [Letter(*row) for row in rows]


def get(connection: sqlite3.Connection, identity: int) -> Contents | None:
    """One of them whole."""
    row = connection.execute(
        f"SELECT {_COLUMNS}, crc, payload, context, response FROM function_dead_letters WHERE id = ?", (identity,)
    ).fetchone()
    if row is None:
        return None
    *known, crc, payload, context, response = row
    return Contents(Letter(*known), payload if crc32(payload) == crc else None, context, response)


def drop(connection: sqlite3.Connection, identity: int) -> bool:
    """Delete one; whether it was there."""
    return connection.execute("DELETE FROM function_dead_letters WHERE id = ?", (identity,)).rowcount > 0


def salvage(source: sqlite3.Connection, target: sqlite3.Connection) -> int:
    """Copy what can be read out of a damaged database; returns how many letters that are."""
    copied = 0
    for row in readable(source, "function_dead_letters"):
        target.execute(f"INSERT INTO function_dead_letters VALUES ({','.join('?' * len(row))})", row)
        copied += 1
    return copied
