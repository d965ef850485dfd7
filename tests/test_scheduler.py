"""A schedule fires once for each time that comes: not twice after a restart, not for years when a clock is set."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import core.commits
import core.store
from functions.manifest import Schedule
from functions.names import FunctionName
from functions.scheduler import BACK_MS, LOOK_SECONDS, MISSED_MAX, SCHEMA, Entry, Scheduler, salvage
from tests.invoking import NOON_MS, Box, F, G, box, manifest

DAY_MS = 86_400_000
HOURLY = Schedule(name="hourly", expression="cron(0 * * * ? *)")
MORNING = Schedule(name="morning", expression="cron(30 2 * * ? *)", timezone="Europe/Berlin")
EVERY = Schedule(name="every", expression="rate(10 minutes)")
ONCE = Schedule(name="once", expression="at(2026-11-21T13:00:00)")


@dataclass
class Bell:
    """A scheduler over a box; its workers are done at once."""

    box: Box
    wanted: list[tuple[FunctionName, Schedule]] = field(default_factory=list)

    async def start(self, *schedules: Schedule) -> "Bell":
        self.wanted = [(F, schedule) for schedule in schedules] or self.wanted
        box = self.box
        self.scheduler = Scheduler(box.commits, box.functions.call, box.counters, box.queue.timeline)
        await self.scheduler.load(self.wanted)
        self.scheduler.look()
        await self.box.commit()
        return self

    def look(self, seconds: float = 0) -> list[str]:
        """Time passes; returns the times of what fired, as hour and minute, with the day where it is another."""
        self.box.clock.go(seconds)
        self.scheduler.look()
        return [told["time"][11:16] for told in self.events()]

    def events(self) -> list[Any]:
        """The scheduled events that workers were given since the last time."""
        found = [json.loads(payload) for payload in self.box.in_hand]
        while self.box.given:
            self.box.answer()
        return found

    async def restart(self, *, boot: bool = False) -> list[str]:
        await self.box.commit()
        await self.box.restart(boot=boot)
        await self.start()
        return [told["time"][11:16] for told in self.events()]

    def entry(self) -> Entry:
        return self.scheduler.status()[0]

    async def stored(self) -> list[Any]:
        await self.box.commit()
        return await self.box.store.run(lambda c: c.execute("SELECT * FROM function_schedules").fetchall())


@pytest.fixture
async def bell(tmp_path: Path) -> AsyncIterator[Bell]:
    async with box(tmp_path / "x.db") as made:
        yield Bell(made)


# -- in time -----------------------------------------------------------------------------------------------------------


async def test_a_time_that_comes_fires_once(bell: Bell) -> None:
    await bell.start(HOURLY)
    assert bell.look(3_599) == []
    assert bell.look(1) == ["13:00"]
    assert bell.look(10) == []
    assert bell.look(3_600) == ["14:00"]
    assert (bell.entry().fired, bell.entry().missed) == (2, 0)
    assert bell.box.counters.value("functions_schedules_fired_total", function="f") == 2


async def test_the_time_at_which_a_schedule_is_made_does_not_fire(bell: Bell) -> None:
    assert bell.box.clock.wall_ms % 3_600_000 == 0
    await bell.start(HOURLY, EVERY, ONCE)
    assert bell.look() == []


async def test_a_rate_keeps_its_beat_when_it_is_late(bell: Bell) -> None:
    await bell.start(EVERY)
    assert len(bell.look(603)) == 1
    assert len(bell.look(596)) == 0
    assert len(bell.look(1)) == 1


async def test_a_time_of_its_own_fires_once_and_never_again(bell: Bell) -> None:
    await bell.start(ONCE)
    assert bell.look(3_600) == ["13:00"]
    assert bell.look(100_000) == await bell.restart() == bell.look(100_000) == []
    assert bell.entry().next is None


async def test_the_event_is_eventbridges_and_its_id_follows_from_its_time(bell: Bell) -> None:
    await bell.start(HOURLY)
    bell.box.clock.go(3_600)
    bell.scheduler.look()
    (told,) = bell.events()
    assert UUID(told.pop("id"))
    assert told == {
        "version": "0", "detail-type": "Scheduled Event", "source": "aws.events", "account": "000000000000",
        "time": "2026-11-21T13:00:00Z", "region": "us-east-1", "detail": {},
        "resources": ["arn:aws:events:us-east-1:000000000000:rule/hourly"],
    }  # fmt: skip


async def test_a_schedules_own_input_is_the_event(bell: Bell) -> None:
    await bell.start(HOURLY.model_copy(update={"input": '{"check": ["all"]}'}))
    bell.box.clock.go(3_600)
    bell.scheduler.look()
    assert bell.events() == [{"check": ["all"]}]


async def test_it_says_when_to_look_again_and_looks_in_between_for_the_clock_may_be_set(bell: Bell) -> None:
    await bell.start(HOURLY)
    assert bell.scheduler.look() == LOOK_SECONDS
    bell.box.clock.go(3_598)
    assert bell.scheduler.look() == 2.0
    bell.box.clock.go(1.995)
    assert 0 < bell.scheduler.look() <= 0.01


async def test_by_itself_it_fires_in_time(tmp_path: Path) -> None:
    async with box(tmp_path / "x.db") as made:
        bell = await Bell(made).start(HOURLY)
        made.clock.go(3_599.99)

        async def advance() -> None:
            while not made.given:
                made.clock.go(0.001)
                await asyncio.sleep(0.001)

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            task = group.create_task(bell.scheduler.run())
            await advance()
            task.cancel()
        assert [told["time"] for told in bell.events()] == ["2026-11-21T13:00:00Z"]


# -- clocks that jump, and a box that is off ---------------------------------------------------------------------------


async def test_after_a_restart_nothing_fires_twice_and_what_was_missed_fires_once(bell: Bell) -> None:
    await bell.start(HOURLY)
    bell.look(3_600)
    await bell.box.commit()
    assert await bell.restart(boot=True) == []
    bell.box.clock.go(5 * 3_600 + 60)
    assert await bell.restart(boot=True) == ["18:00"]
    assert (bell.entry().fired, bell.entry().missed) == (2, 4)
    assert bell.box.counters.value("functions_schedules_missed_total", function="f") == 4
    assert await bell.restart(boot=True) == []


async def test_a_clock_that_jumps_ahead_fires_once(bell: Bell) -> None:
    await bell.start(HOURLY)
    bell.box.clock.step(10 * 365 * DAY_MS + 60_000)
    assert bell.look() == ["12:00"]
    assert bell.entry().missed == MISSED_MAX
    assert bell.look(3_600) == ["13:00"]


async def test_a_clock_that_is_put_back_an_hour_fires_nothing_twice(bell: Bell) -> None:
    await bell.start(HOURLY)
    assert bell.look(3_600) == ["13:00"]
    bell.box.clock.step(-3_600_000)
    assert bell.look(60) == []
    assert bell.look(3_600) == []
    assert bell.look(3_600) == ["14:00"]


async def test_a_clock_that_was_years_ahead_silences_nothing(bell: Bell) -> None:
    bell.box.clock.step(4 * 365 * DAY_MS)
    await bell.start(HOURLY)
    assert len(bell.look(3_600)) == 1
    bell.box.clock.step(-4 * 365 * DAY_MS)
    assert bell.look() == []
    assert bell.look(3_600) == ["14:00"]


async def test_just_less_than_a_day_back_is_waited_for(bell: Bell) -> None:
    await bell.start(HOURLY)
    bell.look(3_600)
    bell.box.clock.step(1 - BACK_MS)
    assert bell.look(BACK_MS // 1_000 - 60) == []
    assert bell.look(3_660) == ["14:00"]


async def test_a_box_that_boots_in_1970_fires_nothing_until_its_clock_is_set_and_then_once(bell: Bell) -> None:
    await bell.start(HOURLY)
    await bell.box.commit()
    bell.box.clock.wall_ms = 0
    assert await bell.restart(boot=True) == []
    assert bell.look(7_200) == []
    bell.box.clock.wall_ms = NOON_MS + 3 * DAY_MS + 60_000
    assert bell.look() == ["12:00"]
    assert bell.entry().missed == 71


async def test_a_box_that_was_installed_in_1970_fires_nothing_for_the_years_before(bell: Bell) -> None:
    bell.box.clock.wall_ms = 0
    await bell.start(HOURLY, ONCE)
    assert bell.look(86_400) == []
    bell.box.clock.wall_ms = NOON_MS + 1
    assert bell.look() == []
    assert bell.look(3_600) == ["13:00", "13:00"]


@pytest.mark.parametrize("step", [-50 * 365 * DAY_MS, 5 * 365 * DAY_MS])
async def test_a_rate_does_not_notice_that_the_clock_is_set(bell: Bell, step: int) -> None:
    await bell.start(EVERY)
    bell.look(590)
    bell.box.clock.step(step)
    assert bell.look() == []
    await bell.box.commit()
    bell.box.clock.seconds += 5
    assert await bell.restart() == []
    assert len(bell.look(10)) == 1
    assert len(bell.look(599)) == 0
    assert bell.entry().missed == 0


async def test_for_the_time_that_the_box_was_off_a_rate_fires_once(bell: Bell) -> None:
    await bell.start(EVERY)
    bell.box.clock.go(3_600)
    assert len(await bell.restart(boot=True)) == 1
    assert (bell.entry().fired, bell.entry().missed) == (1, 5)
    assert len(bell.look(599)) == 0
    assert len(bell.look(1)) == 1


async def test_where_no_clock_can_be_believed_a_rate_loses_no_more_than_minutes_by_each_crash(bell: Bell) -> None:
    daily = Schedule(name="daily", expression="rate(1 day)")
    bell.box.clock.wall_ms = 0
    await bell.start(daily)
    fired = 0
    for _ in range(10):  # ten days of power that goes away every noon
        for _ in range(12 * 24):
            fired += len(bell.look(300))
            if bell.scheduler._wants_mark:
                await bell.box.commit()
        bell.box.clock.wall_ms = 0
        fired += len(await bell.restart(boot=True))
    assert 9 <= fired <= 10


async def test_a_local_time_that_comes_twice_fires_once(bell: Bell) -> None:
    bell.box.clock.wall_ms = int(datetime(2026, 10, 24, 22, tzinfo=UTC).timestamp() * 1_000)
    await bell.start(MORNING)
    fired = [time for _ in range(24 * 60) for time in bell.look(60)]
    assert fired == ["00:30"]


# -- the queue and the disk --------------------------------------------------------------------------------------------


async def test_what_fired_last_and_its_event_are_on_disk_together(bell: Bell) -> None:
    await bell.start(HOURLY)
    bell.box.clock.go(3_600)
    bell.scheduler.look()
    await bell.box.crash()
    await bell.box.start()
    assert bell.box.given == []
    await bell.start()
    assert len(bell.box.given) == 1  # the commit had not happened: it fires now
    await bell.box.commit()
    await bell.box.restart()
    assert len(bell.box.given) == 1  # it had: the event is in the queue
    await bell.start()
    assert len(bell.box.given) == 1


async def test_on_a_full_disk_it_fires_in_memory_and_is_written_when_there_is_room(
    bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core.commits, "RETRY_SECONDS", 0.01)
    await bell.start(HOURLY)
    monkeypatch.setattr(core.store, "DISK_RESERVE_BYTES", 1 << 62)
    bell.box.clock.go(3_600)
    bell.scheduler.look()
    await bell.box.commit()
    assert (await bell.stored())[0][3] == NOON_MS
    assert bell.look(1) == ["13:00"]
    assert bell.look(1) == []
    monkeypatch.setattr(core.store, "DISK_RESERVE_BYTES", 0)
    assert (await bell.stored())[0][3] == NOON_MS + 3_600_000


async def test_a_full_queue_delays_a_schedule_and_loses_nothing(bell: Bell) -> None:
    bell.box.manifests["f"] = manifest(queue_events=1)
    await bell.start(HOURLY)
    bell.box.call(b'{"time": "T--:--:--xxxxx other"}')
    bell.box.clock.go(3_600)
    bell.scheduler.look()
    assert len(bell.box.given) == 1
    bell.box.answer()
    bell.box.clock.go(3_600)
    assert bell.look(5) == ["14:00"]
    assert (bell.entry().fired, bell.entry().missed) == (1, 1)


async def test_a_function_that_is_gone_is_missed_and_harms_no_other_schedule(bell: Bell) -> None:
    bell.wanted = [(FunctionName("gone"), HOURLY), (G, HOURLY)]
    await bell.start()
    assert bell.look(3_600) == ["13:00"]
    assert [(entry.fired, entry.missed) for entry in bell.scheduler.status()] == [(1, 0), (0, 1)]


# -- reloads -----------------------------------------------------------------------------------------------------------


async def test_a_reload_goes_on_with_what_has_not_changed(bell: Bell) -> None:
    await bell.start(HOURLY)
    bell.look(3_600)
    bell.box.clock.go(3_600)
    bell.scheduler.replace([(FunctionName("f", "live"), HOURLY.model_copy(update={"input": "{}"}))])
    bell.scheduler.look()
    assert bell.box.in_hand == [b"{}"]
    assert bell.entry().fired == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"expression": "cron(0/30 * * * ? *)"},
        {"timezone": "Asia/Kolkata"},
        {"name": "other"},
    ],
)
async def test_a_changed_schedule_begins_anew(bell: Bell, changed: dict[str, str]) -> None:
    await bell.start(HOURLY)
    bell.box.clock.go(86_400)
    bell.scheduler.replace([(F, HOURLY.model_copy(update=changed))])
    assert bell.look() == []
    assert len(bell.look(3_600)) >= 1
    assert len(await bell.stored()) == 1


async def test_a_schedule_that_is_disabled_or_gone_fires_nothing_and_begins_anew(bell: Bell) -> None:
    await bell.start(HOURLY)
    for off in ([(F, HOURLY.model_copy(update={"enabled": False}))], []):
        bell.scheduler.replace(off)
        assert bell.look(86_400) == []
        assert await bell.stored() == []
        bell.scheduler.replace([(F, HOURLY)])
        assert bell.look() == []
        assert len(bell.look(3_600)) == 1


async def test_what_was_removed_while_the_daemon_was_off_is_forgotten(bell: Bell) -> None:
    await bell.start(HOURLY, EVERY)
    bell.wanted = [(F, HOURLY)]
    await bell.restart()
    assert [row[1] for row in await bell.stored()] == ["hourly"]


@pytest.mark.parametrize("bad", [{"expression": "cron(x)"}, {"timezone": "Mars/Olympus"}])
async def test_a_schedule_that_cannot_be_read_harms_no_other(bell: Bell, bad: dict[str, str]) -> None:
    await bell.start(HOURLY.model_copy(update={"name": "bad", **bad}), HOURLY)
    assert [entry.schedule.name for entry in bell.scheduler.status()] == ["hourly"]
    assert bell.look(3_600) == ["13:00"]


async def test_what_fired_last_is_saved_from_a_damaged_file(bell: Bell, tmp_path: Path) -> None:
    await bell.start(HOURLY)
    rows = await bell.stored()
    async with box(tmp_path / "new.db") as other:

        def copy(source: Any) -> Iterable[Any]:
            with closing(sqlite3.connect(other.path, isolation_level=None)) as target:
                assert salvage(source, target)
                return target.execute("SELECT * FROM function_schedules").fetchall()

        assert await bell.box.store.run(copy) == rows
    assert "function_schedules" in SCHEMA
