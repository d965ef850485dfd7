"""A buffer file that cannot be read any more: set aside, saved as far as possible, and the loss put into a number.

The file is moved (never deleted) and read row by row: first through the table, then one id at a time around whatever
page is damaged. A first page that is gone is replaced by that of an empty buffer, because the roots of our tables
stand on the same pages in each. What was saved is written to a new database with a new epoch for new messages; saved
messages keep their numbers, so the cloud still recognises those it has. Of the broker's sessions and retained
messages everything that can be read is copied; of the windows of rules everything or nothing.

The new file takes the old one's place when it is complete, and the mark goes last: a recovery that is killed, or that
finds the disk full, is begun again by the next start. Memory holds `COPY_CHUNKS` at a time, however large the file is.
"""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from core import ledger
from core.errors import StorageError
from core.mqtt import records
from core.store import connect
from edge import chunks, shadows
from edge.buffer import SCHEMA
from edge.chunks import Chunk
from functions import stored

PAGE_BYTES = 4_096  # SQLite's default, and the buffer's
PROBES_MAX = 5_000_000  # ids tried one by one around damage; about 20 s, and more rows than a full SD card holds
COPY_CHUNKS = 64  # in memory at a time, and in one transaction: about 4 MB
DAMAGED_MARK = "buffer.damaged"  # written by a daemon that found damage while running; the next start recovers
PARTS = ("", "-wal", "-shm")  # the files of a database

Oldest = dict[tuple[str, int], int]  # the lowest number saved, by lane and epoch


@dataclass(slots=True)
class Salvage:
    """What became of a damaged file: where it is now, how many messages were saved, and how many are known to be lost.

    `lost` is counted from the file's own index and numbers; None when not even those can be read. `windows` says
    whether what rules with windows had gathered was saved.
    """

    aside: Path
    saved: int = 0
    lost: int | None = None
    windows: bool = False


def mark_damaged(path: Path) -> None:
    """Make the next start recover the buffer at `path`."""
    with suppress(OSError):
        path.with_name(DAMAGED_MARK).touch()


def is_marked(path: Path) -> bool:
    """Whether the buffer at `path` was found damaged, or has been cut to nothing."""
    return (path.exists() and path.stat().st_size == 0) or path.with_name(DAMAGED_MARK).exists()


def recover(path: Path) -> Salvage:
    """Set the buffer at `path` aside and put a new one with everything readable in its place.

    Raises StorageError when the disk refuses; then it can be called again.
    """
    fresh = path.with_name(path.name + ".recovered")
    complete = fresh.exists() and not path.exists()  # the last recovery was killed between the two moves below
    salvage = Salvage(_name_aside(path, again=complete))
    try:
        mark_damaged(path)
        if complete:
            salvage.saved, salvage.windows = _count(fresh), True
        else:
            _salvage(path, fresh, salvage)
        _move(path, salvage.aside)
        _move(fresh, path)
        path.with_name(DAMAGED_MARK).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path} cannot be recovered: {error}") from error
    except sqlite3.Error as error:
        raise StorageError(f"{fresh}: {error}") from error
    return salvage


def _name_aside(path: Path, *, again: bool) -> Path:
    """A name that is not taken, or `again` the one that was taken last."""
    number = 1
    while path.with_name(f"{path.name}.damaged-{number}").exists():
        number += 1
    return path.with_name(f"{path.name}.damaged-{number - again}")


def _count(path: Path) -> int:
    connection = connect(path, SCHEMA)
    try:
        return int(connection.execute("SELECT coalesce(sum(count), 0) FROM chunks").fetchone()[0])
    finally:
        connection.close()


def _move(path: Path, target: Path) -> None:
    """Rename a database, and make that durable."""
    for part in PARTS:
        with suppress(FileNotFoundError):
            os.replace(f"{path}{part}", f"{target}{part}")
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _salvage(path: Path, fresh: Path, salvage: Salvage) -> None:
    """Make the database `fresh` of everything in `path` that can be read."""
    for part in PARTS:
        Path(f"{fresh}{part}").unlink(missing_ok=True)
    target = connect(fresh, SCHEMA)
    try:
        expected = _copy(path, target, salvage)
        if not salvage.saved and expected is None and _graft_first_page(path, salvage.aside):
            expected = _copy(path, target, salvage)
    finally:
        target.close()
    salvage.lost = None if expected is None else max(0, expected - salvage.saved)


def _copy(path: Path, target: sqlite3.Connection, salvage: Salvage) -> int | None:
    """Copy what is intact; returns how many messages the file should have held, None when that cannot be told.

    No lane's numbers are copied: they may be older than what was used, so new messages get a new epoch.
    """
    if not path.exists() or path.stat().st_size == 0:
        return None  # SQLite would delete the log beside an empty file
    source = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    oldest: Oldest = {}
    try:
        rows = _rows(source)
        while batch := list(islice(rows, COPY_CHUNKS)):
            target.execute("BEGIN")
            for chunk in batch:
                if chunk.intact:
                    _insert(target, chunk)
                    key = chunk.lane, chunk.epoch
                    oldest[key] = min(chunk.first, oldest.get(key, chunk.first))
                    salvage.saved += chunk.count
            target.execute("COMMIT")
        target.execute("BEGIN")
        records.salvage(source, target)
        salvage.windows = ledger.salvage(source, target)
        stored.salvage(source, target)
        shadows.salvage(source, target)
        target.execute("COMMIT")
        return _expected(source, oldest)
    finally:
        source.close()


def _insert(target: sqlite3.Connection, c: Chunk) -> None:
    """Store a chunk under the id it had: rows come from both ends of the file."""
    row = (c.id, c.lane, c.epoch, c.first, c.count, len(c.block), c.newest, c.crc, c.block)
    target.execute("INSERT INTO chunks VALUES (?,?,?,?,?,?,?,?,?)", row)


def _rows(connection: sqlite3.Connection) -> Iterator[Chunk]:
    """Every row that can be read: from the front, from the back, and what lies between one by one."""
    front = back = None
    for chunk in _scan(connection, "ASC"):
        front = chunk.id
        yield chunk
    for chunk in _scan(connection, "DESC"):
        back = chunk.id
        if front is not None and back <= front:
            return
        yield chunk
    first = 1 if front is None else front + 1
    last = _highest(connection) if back is None else back - 1
    for identity in range(first, min(last, first + PROBES_MAX) + 1):
        with suppress(sqlite3.Error):
            chunk_or_none = chunks.load(connection, identity)
            if chunk_or_none is not None:
                yield chunk_or_none


def _scan(connection: sqlite3.Connection, direction: str) -> Iterator[Chunk]:
    with suppress(sqlite3.Error):
        for row in connection.execute(
            f"SELECT id, lane, epoch, first, count, newest, crc, block FROM chunks ORDER BY id {direction}"
        ):
            yield Chunk(*row)


def _highest(connection: sqlite3.Connection) -> int:
    for question in ("SELECT seq FROM sqlite_sequence WHERE name = 'chunks'", "SELECT max(id) FROM chunk_order"):
        with suppress(sqlite3.Error):
            row = connection.execute(question).fetchone()
            if row is not None and row[0] is not None:
                return int(row[0])
    return 0


def _expected(connection: sqlite3.Connection, oldest: Oldest) -> int | None:
    """How many messages were stored: by the index, or else by the numbers used up since the oldest one saved."""
    with suppress(sqlite3.Error):
        (count,) = connection.execute("SELECT sum(count) FROM chunks INDEXED BY chunk_order WHERE lane > ''").fetchone()
        return int(count or 0)
    with suppress(sqlite3.Error):
        following = {(lane, epoch): n for lane, epoch, n in connection.execute("SELECT name, epoch, next FROM lanes")}
        return sum(following.get(key, first) - first for key, first in oldest.items()) if oldest else None
    return None


def _graft_first_page(path: Path, aside: Path) -> bool:
    """Give a file without a readable first page that of an empty buffer; whether there was anything to graft onto.

    The page that was there is kept beside the place that the file will have.
    """
    if not path.exists() or path.stat().st_size < 2 * PAGE_BYTES:
        return False
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        template = Path(directory, "template.db")
        connect(template, SCHEMA).close()
        page = bytearray(template.read_bytes()[:PAGE_BYTES])
    page[28:32] = (path.stat().st_size // PAGE_BYTES).to_bytes(4, "big")  # size of the file in pages
    with path.open("r+b") as file:
        aside.with_name(aside.name + ".first-page").write_bytes(file.read(PAGE_BYTES))
        file.seek(0)
        file.write(page)
    return True
