"""What several parts want on disk is there together or not at all, and each is told when it is."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import core.commits
from core.commits import Barrier, Commits, Work
from core.errors import StorageError
from core.store import Store
from tests.mqtt_peers import until

SCHEMA = "CREATE TABLE IF NOT EXISTS lines(part TEXT, line TEXT)"


class Notebook:
    """A part that writes lines; `told` has what it heard of each commit, `broken` may be told to raise."""

    def __init__(self, commits: Commits, name: str) -> None:
        self.told: list[tuple[list[str], Exception | None]] = []
        self.lines: list[str] = []
        self.broken = False
        self.on_written: Callable[[], None] = lambda: None
        self._name = name
        commits.join(self)

    def gather(self) -> Work | None:
        lines, self.lines = self.lines, []
        if not lines:
            return None

        def write(connection: sqlite3.Connection) -> list[str]:
            connection.executemany("INSERT INTO lines VALUES (?, ?)", [(self._name, line) for line in lines])
            if self.broken:
                raise StorageError("the pen is broken")
            return lines

        def written(result: Any, error: Exception | None) -> None:
            self.told.append((result if error is None else lines, error))
            if error is not None:
                self.lines = lines + self.lines
            self.on_written()

        return Work(write, written)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(tmp_path / "lines.db", SCHEMA)
    yield store
    await store.close()


def on_disk(store: Store) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(store.path)) as connection:
        return connection.execute("SELECT part, line FROM lines ORDER BY rowid").fetchall()


async def test_all_parts_are_written_in_the_order_in_which_they_joined(store: Store) -> None:
    commits = Commits(store)
    first, second = Notebook(commits, "first"), Notebook(commits, "second")
    second.lines.append("b")
    first.lines.append("a")
    commits.soon()
    await until(lambda: bool(second.told))
    assert on_disk(store) == [("first", "a"), ("second", "b")]
    assert (first.told, second.told) == ([(["a"], None)], [(["b"], None)])


async def test_when_one_part_cannot_be_written_none_is(store: Store) -> None:
    commits = Commits(store)
    good, bad = Notebook(commits, "good"), Notebook(commits, "bad")
    refusals: list[Exception] = []
    commits.refused = refusals.append
    good.lines, bad.lines, bad.broken = ["a"], ["b"], True
    commits.soon()
    await until(lambda: bool(bad.told))
    assert on_disk(store) == []
    assert [isinstance(part.told[0][1], StorageError) for part in (good, bad)] == [True, True]
    assert [str(error) for error in refusals] == ["the pen is broken"]
    await commits.drain()


async def test_a_refused_commit_is_tried_again_though_nobody_asks(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core.commits, "RETRY_SECONDS", 0.01)
    commits = Commits(store)
    part = Notebook(commits, "part")
    part.lines, part.broken = ["a"], True
    commits.soon()
    await until(lambda: len(part.told) >= 2)
    part.broken = False
    await until(lambda: part.told[-1][1] is None)
    assert on_disk(store) == [("part", "a")]


async def test_what_comes_during_a_commit_gathers_for_the_next_one(store: Store) -> None:
    commits = Commits(store)
    part = Notebook(commits, "part")
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # as long as this is open, nobody else can write
    for number in range(5):
        part.lines.append(str(number))
        commits.soon()
        await asyncio.sleep(0)
    other.execute("ROLLBACK")
    other.close()
    await until(lambda: len(part.told) == 2)
    await commits.drain()
    assert part.told == [(["0"], None), (["1", "2", "3", "4"], None)]


async def test_a_turn_of_the_loop_is_one_commit_however_many_ask(store: Store) -> None:
    commits = Commits(store)
    part = Notebook(commits, "part")
    for number in range(5):
        part.lines.append(str(number))
        commits.soon()
    await until(lambda: bool(part.told))
    assert part.told == [(["0", "1", "2", "3", "4"], None)]


async def test_what_nobody_waits_for_is_written_all_the_same(store: Store) -> None:
    commits = Commits(store)
    part = Notebook(commits, "part")
    part.lines.append("a")
    commits.later()
    commits.later()
    await until(lambda: bool(part.told))
    part.lines.append("b")
    commits.later()
    await until(lambda: len(part.told) == 2)
    assert on_disk(store) == [("part", "a"), ("part", "b")]


async def test_draining_commits_what_the_end_of_a_commit_brings(store: Store) -> None:
    commits = Commits(store)
    part = Notebook(commits, "part")

    def more() -> None:
        if len(part.told) < 3:
            part.lines.append(f"after {len(part.told)}")

    part.on_written = more
    part.lines.append("a")
    commits.soon()
    await commits.drain()
    assert [line for _, line in on_disk(store)] == ["a", "after 1", "after 2"]


async def test_draining_ends_though_the_disk_refuses(store: Store) -> None:
    commits = Commits(store)
    part = Notebook(commits, "part")
    part.lines, part.broken = ["a"], True
    commits.soon()
    async with asyncio.timeout(20):
        await commits.drain()
    assert len(part.told) == 1


async def test_a_part_that_fails_over_its_result_does_not_keep_it_from_the_others(store: Store) -> None:
    commits = Commits(store)
    bad, good = Notebook(commits, "bad"), Notebook(commits, "good")

    def fail() -> None:
        raise RuntimeError("a fault")

    bad.on_written = fail
    for line in ("a", "b"):
        bad.lines.append(line)
        good.lines.append(line)
        commits.soon()
        await until(lambda line=line: good.told[-1:] == [([line], None)])  # type: ignore[misc]
    assert len(on_disk(store)) == 4


@pytest.mark.parametrize("kept", [True, False])
def test_everyone_who_waits_at_a_barrier_is_told_in_turn(kept: bool) -> None:
    barrier = Barrier()
    told: list[tuple[int, bool]] = []

    def fail(_: bool) -> None:
        raise RuntimeError("a fault of one client")

    barrier.then(lambda kept: told.append((1, kept)))
    barrier.then(fail)
    barrier.then(lambda kept: told.append((2, kept)))
    assert (told, barrier.kept) == ([], None)
    barrier.settle(kept=kept)
    barrier.then(lambda kept: told.append((3, kept)))
    assert told == [(1, kept), (2, kept), (3, kept)]
    assert barrier.kept is kept
