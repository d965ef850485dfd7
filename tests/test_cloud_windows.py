"""How time goes on in the lanes of edges: by what they send, by our clock when silent, and not at all when cut off."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cloud import windows
from cloud.windows import ABANDONED_SECONDS, QUIET_SECONDS, CloudWindows, source
from core import ledger
from core.message import Message
from core.store import Store
from core.telemetry import Counters
from rules.engine import Rule, RuleSet
from rules.event import Event
from rules.sql.parser import parse_statement
from rules.sql.payloads import json_bytes
from rules.sql.values import SqlVersion

NOON = 1_760_011_200_000
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
NEAR, FAR, OTHER = source("near", "telemetry"), source("far", "telemetry"), source("near", "other")
SQL = "SELECT k, count(*) AS n, window_start() AS start FROM 't' GROUP BY k, TUMBLING('60 seconds', 'at')"


class Cloud:
    """A cloud of which only the windows matter; `at` is its monotonic clock, which shows 0 at NOON."""

    def __init__(self, sql: str = SQL) -> None:
        self.at = 0.0
        self.rule = Rule("mean", parse_statement(sql), SqlVersion.V2016)
        self.counters = Counters()
        self.windows = CloudWindows(self.counters, 0.0)
        self.windows.replace(RuleSet([self.rule]))
        self.connected = {"near", "far"}

    def send(self, lane: str, received: int, *groups: str, told: int | None = None) -> list[Any]:
        """A frame of a lane with a message for each group; returns the rows that are due then."""
        for group in groups:
            payload = json_bytes({"k": group, "at": received if told is None else told})
            event = Event(Message("t", payload, received_at=received), NOON + int(self.at * 1_000))
            self.windows.aggregation.hear(self.rule, event, lane)
        self.windows.written(self.windows.gather(), {lane: received}, self.at)
        return self.rows()

    def rows(self) -> list[Any]:
        """The rows that are due; a step acts on them."""
        rows = self.windows.due()
        self.windows.aggregation.acted(rows)
        self.windows.written(self.windows.gather(), {}, self.at)
        return [self.windows.aggregation.output(due)[0] for due in rows]

    def run(self, seconds: float) -> list[Any]:
        """Time passes second by second; returns the rows that came meanwhile."""
        outputs = []
        for _ in range(int(seconds)):
            self.at += 1
            if self.windows.run_on(self.at, NOON + int(self.at * 1_000), self.connected.__contains__):
                outputs += self.rows()
        return outputs


def row(start: int, n: int, group: str = "a") -> dict[str, Any]:
    return {"k": group, "n": n, "start": start}


def test_a_lane_that_sends_something_else_closes_the_windows_of_a_silent_sensor() -> None:
    cloud = Cloud()
    cloud.send(NEAR, NOON, "a")
    assert cloud.send(NEAR, NOON + 119 * SECOND, "b") == []
    assert cloud.send(NEAR, NOON + 120 * SECOND) == [row(NOON, 1)]


def test_an_edge_that_is_cut_off_for_days_loses_nothing() -> None:
    cloud = Cloud()
    cloud.send(FAR, NOON, "a")
    cloud.connected.discard("far")
    assert cloud.run(3 * HOUR / 1_000) == []
    assert cloud.send(NEAR, NOON + 3 * HOUR, "b") == []
    cloud.connected.add("far")
    assert cloud.run(60) == []  # it is connected, and its backlog is on the way
    rows = [found for minute in range(1, 5) for found in cloud.send(FAR, NOON + minute * 30 * SECOND, "a")]
    assert rows == [row(NOON, 2)]
    assert cloud.windows.aggregation.status()["mean"]["lost"] == {}


def test_where_an_edge_is_connected_and_silent_our_clock_closes_windows() -> None:
    cloud = Cloud()
    cloud.send(NEAR, NOON + 30 * SECOND, "a")
    assert cloud.run(QUIET_SECONDS - 1) == []
    assert cloud.run(1) == [row(NOON, 1)]


def test_time_that_ran_by_our_clock_does_not_run_again_when_the_lane_tells_it() -> None:
    cloud = Cloud(SQL.replace("60 seconds", "1 hour"))
    cloud.send(NEAR, NOON, "a")
    assert cloud.run(2_400) == []
    assert cloud.send(NEAR, NOON + 40 * MINUTE, "b") == []
    assert cloud.send(NEAR, NOON + 61 * MINUTE - 1) == []
    assert cloud.send(NEAR, NOON + 61 * MINUTE) == [row(NOON, 1), row(NOON, 1, "b")]


def test_a_lane_waits_while_its_edge_sends_the_past_in_another() -> None:
    cloud = Cloud()
    cloud.send(NEAR, NOON, "a")
    cloud.connected.clear()
    assert cloud.run(1_000) == []
    cloud.connected.add("near")
    for second in range(0, 400, 10):  # the backlog of the other lane goes first
        cloud.send(OTHER, NOON + second * SECOND)
        assert cloud.run(10) == []
    cloud.send(OTHER, NOON + int(cloud.at) * SECOND)
    assert cloud.run(1) == [row(NOON, 1)]


def test_an_edge_that_nobody_hears_of_any_more_does_not_hold_windows_for_ever() -> None:
    cloud = Cloud()
    cloud.send(FAR, NOON, "a")
    cloud.connected.clear()
    cloud.at = ABANDONED_SECONDS - 1
    assert cloud.run(1) == [row(NOON, 1)]


def test_what_is_published_here_goes_by_our_clock() -> None:
    cloud = Cloud()
    cloud.send(source("", "direct"), NOON, "a")
    assert cloud.run(119) == []
    assert cloud.run(1) == [row(NOON, 1)]


def test_an_edge_whose_clock_is_wrong_does_not_let_time_pass_by_it() -> None:
    cloud = Cloud()
    cloud.send(NEAR, NOON, "a")
    assert cloud.send(NEAR, 5_000) == []
    assert cloud.send(NEAR, NOON + HOUR) == []  # its clock is set: how long it was wrong is not known
    assert cloud.run(QUIET_SECONDS) == [row(NOON, 1)]


def test_after_a_start_an_edge_has_time_to_come_back() -> None:
    cloud = Cloud()
    cloud.send(FAR, NOON, "a")
    written = cloud.windows.gather()
    assert written is None
    again = Cloud()
    again.send(FAR, NOON, "a")
    again.windows._lanes.clear()  # what a start does not know
    again.connected.clear()
    assert again.run(1_000) == []
    again.connected.add("far")
    assert again.run(QUIET_SECONDS) == []
    assert again.run(1) == [row(NOON, 1)]


def test_lanes_that_nothing_waits_for_are_forgotten_in_time() -> None:
    cloud = Cloud()
    cloud.send(FAR, NOON, "a")
    cloud.send(OTHER, NOON)
    cloud.connected.clear()
    cloud.at = ABANDONED_SECONDS - 2
    cloud.run(1)
    assert cloud.windows._lanes.keys() == {FAR, OTHER}
    assert cloud.run(1) == [row(NOON, 1)]
    cloud.run(1)
    assert cloud.windows._lanes == {}


def test_no_more_lanes_are_remembered_than_the_bound_besides_those_that_something_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(windows, "LANES_MAX", 2)
    cloud = Cloud()
    cloud.send(NEAR, NOON, "a")
    for lane in ("one", "two", "three", "one"):
        cloud.at += 1
        cloud.send(source("far", lane), NOON)
    cloud.run(1)
    assert cloud.windows._lanes.keys() == {NEAR, source("far", "three"), source("far", "one")}


def test_of_a_lane_that_is_known_from_disk_only_the_others_of_its_edge_tell_whether_it_has_caught_up() -> None:
    cloud = Cloud()
    cloud.send(NEAR, NOON, "a")
    cloud.windows._lanes.clear()  # what a start does not know
    for second in range(0, 400, 10):
        cloud.send(OTHER, NOON - HOUR + second * SECOND)
        assert cloud.run(10) == []


def test_what_an_operator_is_shown_is_told_for_all_rules_at_once() -> None:
    cloud = Cloud()
    cloud.send(NEAR, NOON, "a", "b")
    assert cloud.windows.status() == {"mean": {"groups": 2, "windows": 2, "lost": {}}}


async def test_what_was_written_is_taken_up_by_the_next_run(tmp_path: Path) -> None:
    store = Store(tmp_path / "cloud.db", ledger.SCHEMA)
    cloud = Cloud()
    cloud.windows.aggregation.hear(cloud.rule, Event(Message("t", json_bytes({"k": "a", "at": NOON})), NOON), NEAR)
    writes = cloud.windows.gather()
    await store.run(lambda connection: cloud.windows.write(connection, writes))
    again = Cloud()
    await again.windows.load(store, RuleSet([again.rule]))
    await store.close()
    assert again.windows.aggregation.sources == {NEAR}
    assert again.run(QUIET_SECONDS + 1) == [row(NOON, 1)]


async def test_a_step_that_could_not_be_written_is_taken_back() -> None:
    await asyncio.sleep(0)
    cloud = Cloud()
    cloud.windows.aggregation.hear(cloud.rule, Event(Message("t", json_bytes({"k": "a", "at": NOON})), NOON), NEAR)
    cloud.windows.refused(cloud.windows.gather())
    assert cloud.windows.aggregation.status()["mean"]["groups"] == 0


def test_late_messages_are_counted_as_dropped() -> None:
    cloud = Cloud()
    for at in (NOON, NOON + DAY, NOON):
        cloud.send(NEAR, at, "a")
    assert cloud.counters.value("dropped_total", reason="late", rule="mean") == 1


@pytest.mark.parametrize("edge", ["near", "far"])
def test_each_edge_has_its_own_time(edge: str) -> None:
    cloud = Cloud()
    other = "far" if edge == "near" else "near"
    cloud.send(source(edge, "telemetry"), NOON, "a")
    cloud.connected.discard(edge)
    cloud.send(source(other, "telemetry"), NOON + DAY, "b")
    assert [found["k"] for found in cloud.run(1_000)] == ["b"]
