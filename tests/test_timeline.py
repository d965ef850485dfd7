"""Ages and waits are measured by a clock that no step of the wall clock can move."""

import sqlite3
from contextlib import closing

from core import timeline
from core.message import CLOCK_PLAUSIBLE_MS
from core.timeline import Mark, Timeline
from tests.invoking import NOON_MS, Clock

DAY_MS = 86_400_000


def test_it_runs_as_the_monotonic_clock_does_whatever_the_wall_clock_is_set_to() -> None:
    clock = Clock()
    line = clock.timeline()
    began = line.now
    clock.go(10)
    clock.step(-400 * DAY_MS)
    clock.go(5)
    clock.step(9_000 * DAY_MS)
    assert line.now - began == 15_000


def test_a_restart_adds_the_time_that_the_box_was_off() -> None:
    clock = Clock()
    mark = clock.timeline().mark()
    clock.go(3_600)
    clock.boot()
    line = clock.timeline()
    line.start(mark)
    assert line.now - mark.now == 3_600_000


def test_a_restart_adds_nothing_that_the_wall_clock_cannot_know() -> None:
    for before, after in [
        (NOON_MS, NOON_MS - 1),
        (NOON_MS, 0),
        (1_000, NOON_MS),
        (CLOCK_PLAUSIBLE_MS - 1, NOON_MS),
    ]:
        clock = Clock(wall_ms=after)
        line = clock.timeline()
        line.start(Mark(500, before))
        assert line.now == 500


def test_a_step_is_seen_once_and_drift_is_none() -> None:
    clock = Clock()
    line = clock.timeline()
    clock.go(1_000)
    clock.step(timeline.JUMP_MS)
    assert not line.has_jumped
    clock.step(1)
    assert line.has_jumped
    line.mark()
    assert not line.has_jumped


def test_after_a_step_that_was_written_down_a_restart_invents_no_age() -> None:
    clock = Clock(wall_ms=CLOCK_PLAUSIBLE_MS)  # as an image's build date
    line = clock.timeline()
    clock.step(NOON_MS - CLOCK_PLAUSIBLE_MS)
    assert line.has_jumped
    mark = line.mark()
    clock.boot()
    again = clock.timeline()
    again.start(mark)
    assert again.now == mark.now


def test_a_mark_is_read_as_it_was_written_and_the_last_one_counts() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(timeline.SCHEMA)
        assert timeline.load(connection) == Mark(0, 0)
        timeline.write(connection, Mark(1, 2))
        timeline.write(connection, Mark(3, 4))
        assert timeline.load(connection) == Mark(3, 4)


def test_the_real_clocks_go_on() -> None:
    line = Timeline()
    assert line.wall > CLOCK_PLAUSIBLE_MS
    assert line.now >= 0
