"""Logs that are kept in a database: pieces of bytes, each of an owner, that are read again in the order of writing.

Functions of an open connection, inside a transaction of the caller. What the pieces say is the owner's business; each
has a checksum, because a flipped bit inside a blob is nothing that SQLite would notice.
"""

import sqlite3
from collections.abc import Iterable
from zlib import crc32

SCHEMA = """
CREATE TABLE IF NOT EXISTS ledger(
    id INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL, kind TEXT NOT NULL, crc INTEGER NOT NULL,
    data BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS ledger_owner ON ledger(owner);
"""


def write(connection: sqlite3.Connection, delete: Iterable[str], append: Iterable[tuple[str, str, bytes]]) -> None:
    """Delete all pieces of some owners, then append pieces of (owner, kind, data)."""
    connection.executemany("DELETE FROM ledger WHERE owner = ?", [(owner,) for owner in delete])
    rows = [(owner, kind, crc32(data), data) for owner, kind, data in append]
    connection.executemany("INSERT INTO ledger(owner, kind, crc, data) VALUES (?,?,?,?)", rows)


def load(connection: sqlite3.Connection) -> list[tuple[str, str, bytes | None]]:
    """All pieces, in the order in which they were appended; None for one that is not what was written."""
    rows = connection.execute("SELECT owner, kind, crc, data FROM ledger ORDER BY id")
    return [(owner, kind, data if crc32(data) == crc else None) for owner, kind, crc, data in rows]


def salvage(source: sqlite3.Connection, target: sqlite3.Connection) -> bool:
    """Copy everything out of a damaged database, or nothing: a log with gaps would be told as if it had none.

    Returns whether it could be read.
    """
    try:
        pieces = source.execute("SELECT id, owner, kind, crc, data FROM ledger ORDER BY id").fetchall()
    except sqlite3.Error:
        return False
    target.executemany("INSERT INTO ledger VALUES (?,?,?,?,?)", pieces)
    return True
