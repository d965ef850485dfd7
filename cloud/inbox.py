"""The inbox: every message that an edge was told is here, until the rules have been applied to it.

A frame is one row, kept as it came, with the numbers of its messages that were new. Rows and the ranges of numbers seen
are written in one transaction, before the edge is acknowledged; rows are deleted in the transaction that commits the
rules' effects, so a row that is there has had no effect yet.

Functions of an open connection, inside a transaction of the caller. Will not apply rules (`worker` does).
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from cloud.ranges import Range, claim
from core.errors import TidegateError
from core.frames import Header
from core.message import Origin

RANGES_MAX = 10_000  # gaps per lane; each is an outage of a lane drained newest first, or a drop

SCHEMA = """
CREATE TABLE IF NOT EXISTS inbox(
    id INTEGER PRIMARY KEY AUTOINCREMENT, fresh TEXT NOT NULL, messages INTEGER NOT NULL, frame BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS origins(
    id INTEGER PRIMARY KEY, principal TEXT NOT NULL, source_ip TEXT NOT NULL, protocol TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS seen(
    edge TEXT NOT NULL, lane TEXT NOT NULL, epoch INTEGER NOT NULL, ranges TEXT NOT NULL,
    PRIMARY KEY (edge, lane, epoch)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS edges(
    edge TEXT PRIMARY KEY, messages INTEGER NOT NULL, repeated INTEGER NOT NULL, heard_ms INTEGER NOT NULL) WITHOUT
    ROWID;
PRAGMA journal_size_limit=16777216;
"""


class TooManyGaps(TidegateError):
    """The ranges of a lane have become more than can be kept; something is wrong with that edge."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row: a frame, and which ranges of its sequence numbers are new.

    `origin` is that of a client that published here itself; of clients of an edge nobody here saw the connection.
    """

    id: int
    fresh: list[Range]
    frame: bytes
    origin: Origin | None = None


def put(
    connection: sqlite3.Connection, header: Header, frame: bytes, now_ms: int, origin: Origin | None = None
) -> int:
    """Take what is new of a frame; returns how many messages that is, 0 for a repeat. Raises TooManyGaps."""
    key = (header.edge, header.lane, header.epoch)
    row = connection.execute("SELECT ranges FROM seen WHERE edge = ? AND lane = ? AND epoch = ?", key).fetchone()
    before = [(first, last) for first, last in orjson.loads(row[0])] if row else []
    fresh, after = claim(before, header.first, header.last, header.floor)
    if len(after) > RANGES_MAX:
        raise TooManyGaps
    count = sum(last - first + 1 for first, last in fresh)
    if after != before:
        connection.execute("INSERT OR REPLACE INTO seen VALUES (?,?,?,?)", (*key, orjson.dumps(after).decode()))
    if fresh:
        row = (orjson.dumps(fresh).decode(), count, frame)
        added = connection.execute("INSERT INTO inbox(fresh, messages, frame) VALUES (?,?,?)", row)
        if origin is not None:
            whence = (added.lastrowid, origin.principal, origin.source_ip, origin.protocol)
            connection.execute("INSERT INTO origins VALUES (?,?,?,?)", whence)
    connection.execute(
        "INSERT INTO edges VALUES (?,?,?,?) ON CONFLICT (edge) DO UPDATE SET"
        " messages = messages + excluded.messages, repeated = repeated + excluded.repeated,"
        " heard_ms = excluded.heard_ms",
        (header.edge, count, header.count - count, now_ms),
    )
    return count


def read(connection: sqlite3.Connection, messages_max: int) -> list[Entry]:
    """The oldest entries, together at most `messages_max` messages, but at least one entry if there is any."""
    entries: list[Entry] = []
    total = 0
    cursor = connection.execute(
        "SELECT i.id, fresh, messages, frame, principal, source_ip, protocol"
        " FROM inbox i LEFT JOIN origins o ON o.id = i.id ORDER BY i.id"
    )
    for identity, fresh, messages, frame, *whence in cursor:
        total += messages
        if entries and total > messages_max:
            break
        origin = Origin(*whence) if whence[0] is not None else None
        entries.append(Entry(identity, [(first, last) for first, last in orjson.loads(fresh)], frame, origin))
    cursor.close()
    return entries


def done(connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    """The effects of these entries are in this transaction."""
    connection.executemany("DELETE FROM inbox WHERE id = ?", [(entry.id,) for entry in entries])
    connection.executemany("DELETE FROM origins WHERE id = ?", [(entry.id,) for entry in entries if entry.origin])


def waiting(connection: sqlite3.Connection) -> tuple[int, int]:
    """Frames and messages that the rules have not seen yet."""
    frames, messages = connection.execute("SELECT count(*), coalesce(sum(messages), 0) FROM inbox").fetchone()
    return int(frames), int(messages)


def edges(connection: sqlite3.Connection) -> list[dict[str, str | int]]:
    """Every edge that has sent something: messages taken, messages that were repeats, and when it was last heard."""
    rows = connection.execute("SELECT edge, messages, repeated, heard_ms FROM edges ORDER BY edge")
    return [
        {
            "edge": edge or "(direct)",
            "messages": messages,
            "repeated": repeated,
            "last_heard": datetime.fromtimestamp(heard // 1_000, UTC).isoformat(),
        }
        for edge, messages, repeated, heard in rows
    ]
