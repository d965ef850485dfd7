"""One SQLite database with one writer: jobs from the event loop, committed together, in the order they came.

Keeps: WAL with `synchronous=FULL`, so that a commit that was reported survives a power cut. All jobs that gathered
while the previous commit was on its way to the disk share the next transaction (the group commit). A job that raises
takes only itself back: the others are run again without it.

Will not decide what is written (jobs do), nor retry after a full disk (callers know whether that is worth it), nor
repair a damaged file (`core.salvage` does).

Invariants:
1. `submit` calls `done` exactly once, on the event loop, after the commit or with the error that prevented it.
2. Jobs run one at a time on the writer's thread, in the order of submission; nobody else writes to the file.
3. At most `GROUP_MAX` jobs share a transaction, so one commit's latency has a bound.
"""

import asyncio
import queue
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from core.errors import DamagedStore, StorageError
from core.telemetry import get_logger

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], Any]
Done = Callable[[Any, Exception | None], None]

log = get_logger("core.store")

GROUP_MAX = 256
CACHE_KIB = 4_096  # pages kept in memory; writes are sequential, so more buys nothing on a small box
WAL_PAGES = 1_000  # SQLite's own default: checkpoint after about 4 MB of log

# Deleting needs room in the log, and the log room in the file: a disk filled to the last byte could not be drained.
DISK_RESERVE_BYTES = 16 << 20

_CORRUPT = ("malformed", "not a database", "corrupt")


def connect(path: Path, schema: str) -> sqlite3.Connection:
    """Open or create the database at `path` and run `schema` (idempotent DDL).

    Raises DamagedStore when the file is no database of ours any more, StorageError when the disk refuses.
    """
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # takes effect at creation; space can be given back later
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
        connection.execute("PRAGMA busy_timeout=5000")
        connection.executescript(schema)
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise translate(error, path) from error
    return connection


def translate(error: sqlite3.Error, path: Path | str) -> StorageError:
    """Our error for SQLite's: DamagedStore for a malformed file, StorageError for the rest."""
    text = str(error)
    if any(word in text for word in _CORRUPT):
        return DamagedStore(f"{path}: {text}")
    return StorageError(f"{path}: {text}")


def reusable(connection: sqlite3.Connection) -> int:
    """Bytes of the file that nothing uses, so that storing them takes no more of the disk."""
    (pages,) = connection.execute("PRAGMA freelist_count").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    return int(pages * size)


def ensure_room(connection: sqlite3.Connection, path: Path) -> None:
    """Raise StorageError unless the disk has room for more than what makes room: ask before taking in anything new."""
    free = shutil.disk_usage(path).free
    if free < DISK_RESERVE_BYTES and free + reusable(connection) < DISK_RESERVE_BYTES:
        raise StorageError(f"{path}: less than {DISK_RESERVE_BYTES >> 20} MiB are free on the disk")


def readable(connection: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...]]:
    """What can be read of a table of a damaged database: the rows before a damaged page, and those behind it.

    The first column is the row's id. That rows are missing is logged.
    """
    front = 0
    try:
        for row in connection.execute(f"SELECT * FROM {table} ORDER BY rowid"):
            front = row[0]
            yield row
        return
    except sqlite3.Error as error:
        log.error("a table is damaged; rows of it are lost", table=table, after=front, error=error)
    with suppress(sqlite3.Error):
        yield from connection.execute(f"SELECT * FROM {table} WHERE rowid > ? ORDER BY rowid DESC", (front,))


class Store:
    """The writer of one database file; made and used on a running event loop.

    Raises what `connect` raises.
    """

    def __init__(self, path: Path, schema: str) -> None:
        self.path = path
        self._connection = connect(path, schema)
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._queue: queue.SimpleQueue[tuple[Job, Done] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name=f"store {path.name}", daemon=True)
        self._thread.start()

    def submit(self, job: Job, done: Done) -> None:
        """Run `job(connection)` in the next transaction; then `done(result, error)` on the event loop."""
        if self._closed:
            self._loop.call_soon(done, None, StorageError(f"{self.path}: closed"))
        else:
            self._queue.put((job, done))

    async def run(self, job: Callable[[sqlite3.Connection], T], then: Callable[[T], None] | None = None) -> T:
        """Run `job(connection)` in the next transaction and return its result once that is committed.

        `then(result)` is called with the commit, also when the caller was cancelled while it was on its way: the place
        for what memory must know of it. Raises StorageError when the commit failed, or whatever the job raised.
        """
        future: asyncio.Future[T] = self._loop.create_future()

        def done(result: T, error: Exception | None) -> None:
            if error is None and then is not None:
                then(result)
            _finish(future, result, error)

        self.submit(job, done)
        return await future

    @property
    def alive(self) -> bool:
        """Whether the writer's thread is there to do its work."""
        return self._thread.is_alive()

    async def checkpoint(self) -> None:
        """Move the write-ahead log into the database file and give the log's disk space back."""
        future: asyncio.Future[None] = self._loop.create_future()
        self.submit(_checkpoint, lambda _, error: _finish(future, None, error))
        await future

    async def close(self) -> None:
        """Commit what was submitted, then close the file; whatever is submitted later fails with StorageError."""
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._connection.close()

    def _write(self) -> None:
        stopping = False
        while not stopping:
            group: list[tuple[Job, Done]] = []
            entry = self._queue.get()
            while entry is not None and entry[0] is not _checkpoint:
                group.append(entry)
                if len(group) == GROUP_MAX or self._queue.empty():
                    break
                entry = self._queue.get()
            if group:
                self._report(group, self._commit(group))
            if entry is not None and entry[0] is _checkpoint:
                self._report([entry], [self._checkpointed()])
            stopping = entry is None

    def _checkpointed(self) -> tuple[Any, Exception | None]:
        try:
            _checkpoint(self._connection)
            return None, None
        except sqlite3.Error as error:
            return None, translate(error, self.path)

    def _commit(self, group: list[tuple[Job, Done]]) -> list[tuple[Any, Exception | None]]:
        try:
            results = self._transaction([job for job, _ in group])
        except BaseException as error:  # noqa: BLE001 - a job's error, a library's panic too, is its submitter's to handle
            if len(group) == 1:
                return [(None, self._translated(error))]
            return [outcome for entry in group for outcome in self._commit([entry])]
        return [(result, None) for result in results]

    def _transaction(self, jobs: list[Job]) -> list[Any]:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            results = [job(connection) for job in jobs]
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return results

    def _translated(self, error: BaseException) -> Exception:
        if isinstance(error, sqlite3.Error):
            return translate(error, self.path)
        return error if isinstance(error, Exception) else StorageError(f"{self.path}: a job failed: {error!r}")

    def _report(self, group: list[tuple[Job, Done]], outcomes: list[tuple[Any, Exception | None]]) -> None:
        def report() -> None:
            for (_, done), (result, error) in zip(group, outcomes, strict=True):
                try:
                    done(result, error)
                except Exception as fault:  # noqa: BLE001 - one submitter's fault must not starve the others
                    message = "what a job's submitter does with its result failed"
                    self._loop.call_exception_handler({"message": message, "exception": fault})

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(report)


def _checkpoint(connection: sqlite3.Connection) -> None:
    """No job like others: it must not run inside a transaction, so the writer ends the group before it."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _finish(future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
