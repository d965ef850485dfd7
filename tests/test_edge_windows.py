"""Windows on the disk of an edge: written before a device is acknowledged, closed in time, and none lost by a crash."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import core.commits
import core.store
from core import ledger
from core.commits import Commits, Work
from core.message import Message
from core.store import Store
from core.telemetry import Counters
from edge.windows import EdgeWindows
from rules.engine import Rule, RuleSet
from rules.event import Event
from rules.sql.parser import parse_statement
from rules.sql.payloads import json_bytes
from rules.sql.values import SqlVersion
from rules.windows.aggregation import Due
from tests.mqtt_peers import until

NOON = 1_760_011_200_000
MINUTE = 60_000
SQL = "SELECT k, count(*) AS n FROM 't' GROUP BY k, TUMBLING('60 seconds', 'at')"
BY_ARRIVAL = "SELECT k, count(*) AS n FROM 't' GROUP BY k, TUMBLING('1 second')"


class Outbox:
    """What the rules' actions have stored, as a lane of the buffer would: in the same commit or not at all."""

    def __init__(self, commits: Commits) -> None:
        self.rows: list[Any] = []
        self._gathered: list[Any] = []
        commits.join(self)

    def add(self, row: Any) -> None:
        self._gathered.append(row)

    def gather(self) -> Work | None:
        rows, self._gathered = self._gathered, []

        def written(_: Any, error: Exception | None) -> None:
            if error is None:
                self.rows += rows

        return Work(lambda _: None, written) if rows else None


class Marker:
    """Tells when the next commit is over."""

    def __init__(self, done: asyncio.Event) -> None:
        self._done = done

    def gather(self) -> Work | None:
        return None if self._done.is_set() else Work(lambda _: None, lambda *_: self._done.set())


class Box:
    """An edge of which only the windows matter; `clock` is its monotonic clock in seconds."""

    def __init__(self, path: Path) -> None:
        self.clock = 0.0
        self.counters = Counters()
        self.path = path

    async def start(self, sql: str = SQL) -> None:
        self.rule = Rule("mean", parse_statement(sql), SqlVersion.V2016)
        self.store = Store(self.path, ledger.SCHEMA)
        self.commits = Commits(self.store)
        self.outbox = Outbox(self.commits)
        self.fired: list[Any] = []
        self.windows = EdgeWindows(self.commits, self.counters, lambda: self.clock)
        self.windows.fire = self.fire
        await self.windows.load(RuleSet([self.rule]))

    def fire(self, rows: list[Due]) -> None:
        for due in rows:
            output, _ = self.windows.aggregation.output(due)
            self.fired.append(output)
            self.outbox.add(output)
        self.windows.aggregation.acted(rows)
        self.commits.soon()

    async def stop(self) -> None:
        await self.commits.drain()
        await self.store.close()

    def hear(self, at: int = NOON, group: str = "a") -> None:
        message = Message("t", json_bytes({"k": group, "at": at}), received_at=at)
        self.windows.hear(self.rule, Event(message, at))

    async def commit(self) -> None:
        """Everything gathered so far is on disk, or refused."""
        done = asyncio.Event()
        self.commits.join(Marker(done))
        self.commits.soon()
        await done.wait()

    def look(self, seconds: float) -> None:
        """Time passes, and the timer sees it."""
        self.clock += seconds
        self.windows._look()


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    box = Box(tmp_path / "edge.db")
    await box.start()
    yield box
    await box.stop()


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, reserve: int) -> None:
    """Make a disk full, because it has less than `reserve` bytes."""
    monkeypatch.setattr(core.store, "DISK_RESERVE_BYTES", reserve)


async def test_a_row_comes_when_its_window_is_over_and_is_stored_with_what_it_made(box: Box) -> None:
    box.hear()
    box.hear(NOON + 1)
    await box.commit()
    box.look(119)
    assert box.fired == []
    box.look(2)
    await until(lambda: box.outbox.rows == [{"k": "a", "n": 2}])
    await box.commit()
    assert box.windows.aggregation.gather() is None


async def test_messages_that_nobody_waits_for_are_written_soon_all_the_same(box: Box) -> None:
    box.hear()
    await until(lambda: box.windows.aggregation.status()["mean"]["windows"] == 1)


async def test_a_start_goes_on_where_the_last_run_was_killed(tmp_path: Path) -> None:
    box = Box(tmp_path / "edge.db")
    await box.start()
    box.hear()
    await box.commit()
    box.hear(NOON + 1)  # not written: the device was not told that it is kept, and sends it again
    await box.store.close()
    await box.start()
    box.hear(NOON + 1)
    await box.commit()
    box.look(200)
    await until(lambda: box.outbox.rows == [{"k": "a", "n": 2}])
    await box.commit()
    await box.stop()
    await box.start()
    box.look(1_000)
    assert box.fired == []
    await box.stop()


async def test_a_row_that_was_handed_out_and_not_stored_comes_again_after_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(tmp_path / "edge.db")
    await box.start()
    box.hear()
    await box.commit()
    monkeypatch.setattr(box.commits, "soon", lambda: None)  # the power goes right after the reaction
    box.look(200)
    assert box.fired == [{"k": "a", "n": 1}]
    await box.store.close()
    await box.start()
    box.look(200)
    await until(lambda: box.outbox.rows == [{"k": "a", "n": 1}])
    await box.stop()


async def test_what_a_full_disk_refuses_was_never_heard_and_rows_wait_for_room(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core.commits, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(core.commits, "LATER_SECONDS", 0.01)
    box.hear()
    await box.commit()
    fill_the_disk(monkeypatch, 1 << 62)
    box.hear(NOON + 1)
    await box.commit()
    box.look(200)
    assert box.fired == []
    fill_the_disk(monkeypatch, 0)
    box.look(1)
    await until(lambda: box.outbox.rows == [{"k": "a", "n": 1}])


async def test_asking_for_room_keeps_nobody_else_from_writing(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.commits, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(core.commits, "LATER_SECONDS", 0.01)
    fill_the_disk(monkeypatch, 1 << 62)
    box.hear()
    await box.commit()
    box.outbox.add("an acknowledgement, which frees room")
    box.commits.soon()
    await until(lambda: bool(box.outbox.rows))


async def test_by_the_clock_of_the_box_windows_close_at_their_end(tmp_path: Path) -> None:
    box = Box(tmp_path / "edge.db")
    await box.start(BY_ARRIVAL)
    box.hear(NOON + 400)
    await box.commit()
    box.look(0.599)
    assert box.fired == []
    box.look(0.002)
    assert box.fired == [{"k": "a", "n": 1}]
    await box.commit()
    await box.stop()


async def test_the_timer_closes_windows_by_itself(tmp_path: Path) -> None:
    box = Box(tmp_path / "edge.db")
    await box.start(BY_ARRIVAL)
    timer = asyncio.ensure_future(box.windows.run())
    box.hear(NOON + 900)
    await box.commit()
    box.clock += 1
    await until(lambda: box.outbox.rows == [{"k": "a", "n": 1}])
    timer.cancel()
    await asyncio.wait([timer])
    await box.stop()


async def test_late_messages_are_counted_as_dropped(box: Box) -> None:
    for at in (NOON, NOON + 10 * MINUTE, NOON):
        box.hear(at)
    await box.commit()
    assert box.counters.value("dropped_total", reason="late", rule="mean") == 1


async def test_a_reload_that_changes_the_statement_deletes_what_was_written(box: Box) -> None:
    box.hear()
    await box.commit()
    box.windows.replace(RuleSet([]))
    await box.commit()
    rows = await box.store.run(lambda c: c.execute("SELECT count(*) FROM ledger").fetchone())
    assert rows == (0,)


async def test_a_damaged_log_begins_afresh(tmp_path: Path) -> None:
    box = Box(tmp_path / "edge.db")
    await box.start()
    box.hear()
    await box.commit()
    await box.stop()
    with sqlite3.connect(box.path) as connection:
        connection.execute("UPDATE ledger SET data = ?", (b"{}",))
    connection.close()
    await box.start()
    box.hear(NOON + 1)
    await box.commit()
    box.look(200)
    await until(lambda: box.outbox.rows == [{"k": "a", "n": 1}])
    await box.stop()
