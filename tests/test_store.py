"""The store commits in order and in groups, tells each job its own fate, and keeps what it said it keeps."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from core import store as store_module
from core.errors import DamagedStore, StorageError
from core.store import GROUP_MAX, Job, Store, connect, translate

SCHEMA = "CREATE TABLE IF NOT EXISTS row (number INTEGER PRIMARY KEY, data BLOB)"


def insert(number: int, size: int = 10) -> Job:
    return lambda connection: connection.execute("INSERT INTO row VALUES (?, zeroblob(?))", (number, size)).lastrowid


def numbers(connection: sqlite3.Connection) -> list[int]:
    return [number for (number,) in connection.execute("SELECT number FROM row ORDER BY rowid")]


def in_file(path: Path) -> list[int]:
    """What another process would read."""
    reader = sqlite3.connect(path)
    try:
        return numbers(reader)
    finally:
        reader.close()


class Gate:
    """Holds the writer's thread inside a job of its own, so that whatever is submitted meanwhile forms one group."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._opened = threading.Event()

    def _job(self, _: sqlite3.Connection) -> None:
        self._entered.set()
        assert self._opened.wait(30)

    async def close(self, store: Store) -> None:
        store.submit(self._job, lambda result, error: None)
        assert await asyncio.to_thread(self._entered.wait, 30)

    def open(self) -> None:
        self._opened.set()


class Results:
    """Collects what `done` is told; `wait(n)` until there are that many."""

    def __init__(self) -> None:
        self.all: list[tuple[Any, Any, Exception | None]] = []
        self._more = asyncio.Event()

    def of(self, name: Any) -> store_module.Done:
        def done(result: Any, error: Exception | None) -> None:
            self.all.append((name, result, error))
            self._more.set()

        return done

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.all) < count:
                self._more.clear()
                await self._more.wait()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Store]:
    opened = Store(path, SCHEMA)
    yield opened
    await opened.close()


async def test_a_job_returns_its_result_once_it_is_committed(store: Store) -> None:
    assert await store.run(insert(7)) == 7
    assert in_file(store.path) == [7]
    assert await store.run(numbers) == [7]


async def test_jobs_run_and_are_reported_in_the_order_of_submission(store: Store) -> None:
    results = Results()
    order: list[int] = []
    for number in range(1_000):
        store.submit(lambda _, number=number: order.append(number), results.of(number))  # type: ignore[misc]
    await results.wait(1_000)
    assert order == list(range(1_000))
    assert [name for name, _, _ in results.all] == order


async def test_what_gathers_during_a_commit_shares_the_next_up_to_a_bound(store: Store) -> None:
    begun: list[str] = []
    await store.run(lambda connection: connection.set_trace_callback(begun.append))
    gate, results = Gate(), Results()
    await gate.close(store)
    for number in range(GROUP_MAX + 10):
        store.submit(insert(number), results.of(number))
    begun.clear()
    gate.open()
    await results.wait(GROUP_MAX + 10)
    assert [line for line in begun if not line.startswith("INSERT")] == ["COMMIT", *["BEGIN IMMEDIATE", "COMMIT"] * 2]
    assert len(in_file(store.path)) == GROUP_MAX + 10


async def test_a_failing_job_takes_only_itself_back(store: Store) -> None:
    def fails_half_way(connection: sqlite3.Connection) -> None:
        insert(100)(connection)
        raise ValueError("half way")

    gate, results = Gate(), Results()
    await gate.close(store)
    store.submit(insert(1), results.of("first"))
    store.submit(fails_half_way, results.of("bad"))
    store.submit(insert(1), results.of("again"))
    store.submit(insert(2), results.of("last"))
    gate.open()
    await results.wait(4)
    outcomes = {name: (result, error) for name, result, error in results.all}
    assert [name for name, _, _ in results.all] == ["first", "bad", "again", "last"]
    assert outcomes["first"] == (1, None)
    assert outcomes["last"] == (2, None)
    assert isinstance(outcomes["bad"][1], ValueError)
    assert isinstance(outcomes["again"][1], StorageError)
    assert in_file(store.path) == [1, 2]


async def test_each_job_is_reported_exactly_once(store: Store) -> None:
    results = Results()
    for number in range(300):
        store.submit(insert(number % 150), results.of(number))
    await results.wait(300)
    await store.run(numbers)
    assert len(results.all) == 300
    assert [name for name, _, error in results.all if error] == list(range(150, 300))


async def test_run_raises_what_the_job_raised_and_ours_for_the_databases(store: Store) -> None:
    def bad(_: sqlite3.Connection) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await store.run(bad)
    with pytest.raises(StorageError, match=r"test\.db: no such table: nowhere"):
        await store.run(lambda connection: connection.execute("SELECT * FROM nowhere"))
    assert await store.run(insert(1)) == 1


async def test_a_full_database_refuses_and_works_again_when_there_is_room(store: Store) -> None:
    await store.run(insert(1))
    # Pragmas of the connection, outside of any row: SQLite refuses to grow the file as a full disk would.
    await store.run(lambda connection: connection.execute("PRAGMA max_page_count=40").fetchall())
    gate, results = Gate(), Results()
    await gate.close(store)
    store.submit(insert(2), results.of("small"))
    store.submit(insert(3, 1 << 20), results.of("large"))
    store.submit(insert(4), results.of("small too"))
    gate.open()
    await results.wait(3)
    errors = {name: error for name, _, error in results.all if error}
    assert list(errors) == ["large"]
    assert type(errors["large"]) is StorageError
    assert "full" in str(errors["large"])
    await store.run(lambda connection: connection.execute("PRAGMA max_page_count=100000").fetchall())
    assert await store.run(insert(3, 1 << 20)) == 3
    assert in_file(store.path) == [1, 2, 3, 4]


IN_A_PROCESS = """
import asyncio, os, resource, signal, sys
from pathlib import Path
from core.errors import StorageError
from core.store import Store

def insert(number, size):
    return lambda connection: connection.execute("INSERT INTO row VALUES (?, zeroblob(?))", (number, size))

async def main(mode, path):
    store = Store(Path(path), "CREATE TABLE IF NOT EXISTS row (number INTEGER PRIMARY KEY, data BLOB)")
    if mode == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    def done(number):
        def report(_, error):
            word = "kept" if error is None else type(error).__name__
            os.write(1, f"{word} {number}\\n".encode())
            if mode == "kill" and number == 700:
                os.kill(os.getpid(), signal.SIGKILL)
        return report
    for number in range(2_000 if mode == "kill" else 400):
        store.submit(insert(number, 20 if mode == "kill" else 2_000), done(number))
        if number % 50 == 0:
            await asyncio.sleep(0)
    await store.run(lambda connection: None)
    if mode == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await store.run(insert(10_000, 2_000))
        os.write(1, b"kept 10000\\n")
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""


def reported_by(mode: str, path: Path) -> tuple[int, list[tuple[str, int]]]:
    """Runs a store in a process of its own; returns how that ended, and (word, number) for each `done`."""
    root = Path(__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS, mode, str(path)], cwd=root, stdout=subprocess.PIPE, timeout=60, check=False
    )
    words = [line.split() for line in run.stdout.decode().splitlines()]
    return run.returncode, [(word, int(number)) for word, number in words]


def test_what_was_reported_survives_a_kill(path: Path) -> None:
    code, reported = reported_by("kill", path)
    assert code == -signal.SIGKILL
    assert reported == [("kept", number) for number in range(701)]
    kept = in_file(path)
    assert kept == list(range(len(kept)))
    assert len(kept) >= 701


def test_a_real_file_size_limit_loses_nothing_that_was_reported_and_heals(path: Path) -> None:
    code, reported = reported_by("full", path)
    assert code == 0
    assert {word for word, _ in reported} == {"kept", "StorageError"}
    assert len(reported) == 401
    assert in_file(path) == [number for word, number in reported if word == "kept"]


async def test_a_checkpoint_empties_the_log(store: Store) -> None:
    log = store.path.with_name("test.db-wal")
    for number in range(20):
        await store.run(insert(number, 5_000))
    assert log.stat().st_size > 0
    await store.checkpoint()
    assert log.stat().st_size == 0
    assert in_file(store.path) == list(range(20))


async def test_a_checkpoint_keeps_its_place_in_the_line(store: Store) -> None:
    gate, results = Gate(), Results()
    await gate.close(store)
    store.submit(insert(1), results.of("before"))
    checkpoint = asyncio.create_task(store.checkpoint())
    await asyncio.sleep(0)
    store.submit(insert(2), results.of("after"))
    gate.open()
    await checkpoint
    assert [name for name, _, _ in results.all][:1] == ["before"]
    await results.wait(2)
    assert in_file(store.path) == [1, 2]


async def test_closing_commits_what_was_submitted_and_reports_it(path: Path) -> None:
    store, results = Store(path, SCHEMA), Results()
    for number in range(500):
        store.submit(insert(number), results.of(number))
    await store.close()
    assert [name for name, _, error in results.all if error is None] == list(range(500))
    assert in_file(path) == list(range(500))


async def test_what_is_submitted_to_a_closed_store_fails_and_does_not_hang(path: Path) -> None:
    store, results = Store(path, SCHEMA), Results()
    await store.close()
    store.submit(insert(1), results.of("late"))
    await results.wait(1)
    assert isinstance(results.all[0][2], StorageError)
    for late in (store.run(insert(2)), store.checkpoint()):
        with pytest.raises(StorageError, match="closed"):
            await late


async def test_a_caller_that_gave_up_does_not_hurt_the_others(store: Store) -> None:
    gate = Gate()
    await gate.close(store)
    first = asyncio.create_task(store.run(insert(1)))
    second = asyncio.create_task(store.run(insert(2)))
    await asyncio.sleep(0)
    first.cancel()
    gate.open()
    assert await second == 2
    assert in_file(store.path) == [1, 2]
    with pytest.raises(asyncio.CancelledError):
        await first


def test_commits_are_synced_and_the_log_is_a_write_ahead_log(path: Path) -> None:
    connection = connect(path, SCHEMA)
    pragmas = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}
    connection.close()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2}


def test_a_file_that_is_no_database_is_a_damaged_store(path: Path) -> None:
    path.write_bytes(b"no database, but long enough to have a header" * 100)
    with pytest.raises(DamagedStore, match=r"test\.db: file is not a database"):
        connect(path, SCHEMA)


def test_a_directory_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="unable to open") as caught:
        connect(tmp_path / "nowhere" / "test.db", SCHEMA)
    assert not isinstance(caught.value, DamagedStore)


async def test_a_page_that_was_overwritten_is_a_damaged_store(path: Path) -> None:
    store = Store(path, SCHEMA)
    for number in range(200):
        await store.run(insert(number, 500))
    await store.checkpoint()
    await store.close()
    with path.open("r+b") as file:
        for page in range(2, 12):
            file.seek(page * 4_096)
            file.write(b"\xff" * 4_096)
    store = Store(path, SCHEMA)
    with pytest.raises(DamagedStore):
        await store.run(lambda connection: connection.execute("SELECT sum(length(data)) FROM row").fetchall())
    await store.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("database disk image is malformed", DamagedStore),
        ("file is not a database", DamagedStore),
        ("database or disk is full", StorageError),
        ("disk I/O error", StorageError),
    ],
)
def test_errors_are_translated(text: str, expected: type[StorageError]) -> None:
    assert type(translate(sqlite3.OperationalError(text), "x")) is expected
