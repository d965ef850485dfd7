"""Windows against a list of all messages: in whatever order they come, across failed commits, crashes and restarts, a
message that was acknowledged is in exactly one row or was late, and every row is what its messages make."""

import statistics
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core.message import Message
from rules.errors import EvaluationError
from rules.event import Event
from rules.sql.parser import parse_statement
from rules.sql.payloads import json_bytes
from rules.sql.values import SqlVersion
from rules.windows.grouping import Entry, compile_window
from rules.windows.state import BACK_MAX_MS, LATE, Row, Windows

NOON = 1_760_011_200_000
SIZE, LATENESS = 10_000, 5_000
DAY = 86_400_000
SELECT = """SELECT k, count(*) AS n, count(v) AS with_v, sum(v) AS s, avg(v) AS mean, min(v) AS low, max(v) AS high,
    first(id) AS f, last(id) AS l, stddev(v) AS d, percentile(v, 50) AS p, sum(bit) AS bits, window_start() AS start
    FROM 't' GROUP BY k, """
BY_EVENT = SELECT + "TUMBLING('10 seconds', 'at', '5 seconds')"
BY_ARRIVAL = SELECT + "TUMBLING('10 seconds')"

GROUPS = st.sampled_from(["a", "b", "c"])
READINGS = st.none() | st.integers(-100, 100) | st.floats(-5, 5, width=16)


class Sent:
    """A message as the model knows it: which window it belongs to, and its place among all."""

    def __init__(self, number: int, group: str, at: int, value: Any) -> None:
        self.number, self.group, self.at, self.value = number, group, at, value
        self.start = at - at % SIZE

    def event(self) -> Event:
        # `bit` tells the messages of a sum apart; 100 of them stay exact in 34 digits.
        payload = {"k": self.group, "v": self.value, "at": self.at, "id": self.number, "bit": 2**self.number}
        return Event(Message("t", json_bytes(payload), received_at=self.at), self.at)


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row with doubles for its Decimals, which pytest.approx does not compare with each other."""
    return {key: float(value) if isinstance(value, Decimal) else value for key, value in row.items()}


def naive_row(group: str, start: int, messages: list[Sent]) -> dict[str, Any]:
    """The row that these messages make, computed the long way."""
    by_time = sorted(messages, key=lambda m: m.at)
    values = [m.value for m in messages if m.value is not None]
    row = {"k": group, "n": len(messages), "with_v": len(values), "f": by_time[0].number, "start": start,
           "bits": sum(2**m.number for m in messages),
           "l": [m.number for m in by_time if m.at == by_time[-1].at][-1]}  # fmt: skip
    if values:
        row |= {"s": pytest.approx(sum(values)), "mean": pytest.approx(statistics.fmean(values)), "low": min(values),
                "high": max(values), "p": sorted(values)[(len(values) + 1) // 2 - 1]}  # fmt: skip
    if len(values) > 1:
        row["d"] = pytest.approx(statistics.stdev(values), abs=1e-9)
    return row


def members(output: dict[str, Any], sent: list[Sent]) -> list[Sent]:
    """Which messages a row is made of."""
    return [message for message in sent if int(output["bits"]) >> message.number & 1]


class Machine(RuleBasedStateMachine):
    """A daemon with one windowed rule by event time, its disk, and the model beside it."""

    @initialize()
    def start(self) -> None:
        self.plan = compile_window(parse_statement(BY_EVENT), SqlVersion.V2016)
        self.windows = Windows(self.plan)
        self.log: list[bytes] = []
        self.pending: list[tuple[Sent, Entry]] = []
        self.acted: list[Row] = []
        self.sent: list[Sent] = []
        self.number = 0
        self.kept: list[Sent] = []  # written down, in that order
        self.rows: list[dict[str, Any]] = []  # done
        self.lost = 0
        self.handed: set[tuple[str, int]] = set()

    @precondition(lambda self: self.number < 100)
    @rule(group=GROUPS, at=st.integers(0, 60), value=READINGS)
    def hear(self, group: str, at: int, value: Any) -> None:
        sent = Sent(self.number, group, NOON + at * 1_000, value)
        entry = self.windows.hear(sent.event(), "lane")
        assert entry is not None
        self.number += 1
        self.sent.append(sent)
        self.pending.append((sent, entry))

    @rule()
    def take_rows(self) -> None:
        found = self.windows.due()
        self.acted += found
        for row in found:
            self.handed.add((row.group, row.start))

    @rule(ms=st.integers(0, 20_000))
    def elapse(self, ms: int) -> None:
        self.windows.elapse(ms, "lane")

    def write(self) -> None:
        entries = [entry for _, entry in self.pending]
        self.log.append(self.windows.record(entries, self.acted, self.windows.take_ended()))
        self.kept += [sent for sent, _ in self.pending]
        self.rows += map(self.windows.output, self.acted)

    @rule()
    def commit(self) -> None:
        self.write()
        before = self.windows.lost[LATE]
        for sent, entry in self.pending:
            lost = self.windows.lost[LATE]
            self.windows.apply([entry])
            if self.windows.lost[LATE] > lost:
                self.check_late(sent)
        self.lost += self.windows.lost[LATE] - before
        self.windows.done(self.acted)
        self.pending, self.acted = [], []

    def check_late(self, late: Sent) -> None:
        told = max(m.at for m in self.kept if m.group == late.group)
        group = f'[["{late.group}"]]'
        closed = any(name == group and start >= late.start for name, start in self.handed)
        assert closed or late.start + SIZE + LATENESS <= told

    @rule()
    def fail_to_commit(self) -> None:
        self.windows.return_ended(self.windows.take_ended())
        self.windows.discard([entry for _, entry in self.pending])
        self.windows.again(self.acted)
        self.pending, self.acted = [], []

    def restart(self) -> None:
        self.windows = Windows(self.plan)
        self.windows.restore(self.log)
        self.pending, self.acted = [], []

    @rule()
    def crash(self) -> None:
        self.restart()

    @rule()
    def crash_after_the_commit(self) -> None:
        self.write()
        self.restart()

    @rule()
    def compact(self) -> None:
        self.log = [self.windows.snapshot()]

    @invariant()
    def no_message_is_in_two_rows_and_each_row_is_what_its_messages_make(self) -> None:
        seen: set[int] = set()
        for output in getattr(self, "rows", []):
            made_of = members(output, self.kept)
            assert plain(output) == naive_row(output["k"], output["start"], made_of)
            assert all((m.group, m.start) == (output["k"], output["start"]) for m in made_of)
            numbers = {m.number for m in made_of}
            assert len(numbers) == output["n"]
            assert not seen & numbers
            seen |= numbers

    def teardown(self) -> None:
        if not hasattr(self, "rows"):
            return
        self.commit()
        self.acted = self.windows.finish()
        self.commit()
        self.no_message_is_in_two_rows_and_each_row_is_what_its_messages_make()
        windows = [(output["k"], output["start"]) for output in self.rows]
        assert len(windows) == len(set(windows))  # a window has one row
        counted = {m.number for output in self.rows for m in members(output, self.kept)}
        uncounted = [m for m in self.kept if m.number not in counted]
        for message in uncounted:  # late: its window has a row, or later messages of the group closed it
            told = max(m.at for m in self.kept if m.group == message.group)
            has_row = any(k == message.group and start >= message.start for k, start in windows)
            assert has_row or message.start + SIZE + LATENESS <= told


TestWindows = Machine.TestCase
TestWindows.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


STEPS = st.lists(st.tuples(GROUPS, st.integers(0, 60_000), READINGS) | st.integers(0, 30_000), max_size=40)


@given(STEPS)
def test_without_restarts_every_row_comes_exactly_when_the_rules_say(steps: list[Any]) -> None:
    windows = Windows(compile_window(parse_statement(BY_EVENT), SqlVersion.V2016))
    heard: dict[str, list[Sent]] = {}  # of a group, all that was not late
    told: dict[str, int] = {}
    silence: dict[str, int] = {}
    closed: dict[str, int] = {}
    late = 0
    for number, step in enumerate(steps):
        if isinstance(step, int):
            windows.elapse(step)
            silence = {group: ms + step for group, ms in silence.items()}
        else:
            group, at, value = step
            sent = Sent(number, group, NOON + at, value)
            entry = windows.hear(sent.event())
            assert entry is not None
            windows.apply([entry])
            if sent.start < closed.get(group, 0) or sent.start + SIZE + LATENESS <= told.get(group, 0):
                late += 1
            else:
                heard.setdefault(group, []).append(sent)
                told[group] = max(told.get(group, 0), sent.at)
                silence[group] = 0
        expected = []
        for group, messages in heard.items():
            clock = told[group] + silence[group]
            ended = {m.start for m in messages if m.start + SIZE + LATENESS <= clock}
            expected += [naive_row(group, s, [m for m in messages if m.start == s]) for s in sorted(ended)]
            heard[group] = [m for m in messages if m.start not in ended]
            closed[group] = max([closed.get(group, 0), *(start + SIZE for start in ended)])
        rows = windows.due()
        windows.done(rows)
        outputs = [plain(windows.output(row)) for row in rows]
        assert sorted(outputs, key=lambda o: (o["k"], o["start"])) == sorted(
            expected, key=lambda o: (o["k"], o["start"])
        )
    assert windows.lost[LATE] == late


CLOCKS = st.lists(
    st.integers(0, 15_000)  # time passes
    | st.integers(-BACK_MAX_MS, -1)  # a correction
    | st.sampled_from([-50 * 365 * DAY, 50 * 365 * DAY, -DAY, DAY])  # a clock that was wrong, or is now
    | GROUPS,
    max_size=60,
)


@given(CLOCKS, st.integers(0, 60))
def test_by_a_clock_that_jumps_no_message_is_lost_or_counted_twice(steps: list[Any], restart_at: int) -> None:
    plan = compile_window(parse_statement(BY_ARRIVAL), SqlVersion.V2016)
    windows = Windows(plan, own_clock=True)
    clock = NOON
    sent: list[Sent] = []
    outputs: list[Any] = []
    log: list[bytes] = []
    for number, step in enumerate(steps):
        if number == restart_at:
            windows = Windows(plan, own_clock=True)
            windows.restore(log)
        if isinstance(step, int):
            clock += step
            windows.elapse(max(0, step) if step < DAY else 0)
        else:
            sent.append(Sent(len(sent), step, clock, 1))
            entry = windows.hear(sent[-1].event())
            assert entry is not None
            log.append(windows.record([entry], [], windows.take_ended()))
            windows.apply([entry])
        rows = windows.due()
        log.append(windows.record([], rows, windows.take_ended()))
        windows.done(rows)
        outputs += map(windows.output, rows)
    outputs += map(windows.output, windows.finish())
    assert windows.lost == {}
    counted = [message.number for output in outputs for message in members(output, sent)]
    assert sorted(counted) == list(range(len(sent)))
    assert all(message.group == output["k"] for output in outputs for message in members(output, sent))


class ByArrival(RuleBasedStateMachine):
    """A daemon whose rule is by its own clock, with few rows at a time and few groups: nothing is ever late here, so
    all that was acknowledged is in exactly one row that is done."""

    GROUPS_MAX = 4

    @initialize()
    def start(self) -> None:
        self.plan = compile_window(parse_statement(BY_ARRIVAL), SqlVersion.V2016)
        self.windows = self.made()
        self.log = [self.windows.snapshot()]
        self.clock = NOON
        self.sent: list[Sent] = []
        self.pending: list[tuple[Sent, Entry]] = []
        self.kept: list[int] = []
        self.counted: list[int] = []
        self.names: dict[int, tuple[str, int]] = {}  # by number of the row

    def made(self) -> Windows:
        return Windows(self.plan, own_clock=True, groups_max=self.GROUPS_MAX, open_max=20)

    @precondition(lambda self: len(self.sent) < 100)
    @rule(group=st.sampled_from("abcdef"))
    def hear(self, group: str) -> None:
        sent = Sent(len(self.sent), group, self.clock, 1)
        try:
            entry = self.windows.hear(sent.event())
        except EvaluationError:
            return
        assert entry is not None
        self.sent.append(sent)
        self.pending.append((sent, entry))

    @rule(ms=st.integers(1, 15_000))
    def elapse(self, ms: int) -> None:
        self.clock += ms
        self.windows.elapse(ms)

    @rule(ms=st.sampled_from([-100_000, -20_000, -5_000, -100, 30_000]))
    def set_the_clock(self, ms: int) -> None:
        self.clock += ms

    @rule(most=st.sampled_from([0, 1, 500]), refused=st.booleans())
    def commit(self, most: int, refused: bool) -> None:
        rows, ended, entries = self.windows.due(most), self.windows.take_ended(), [entry for _, entry in self.pending]
        record = self.windows.record(entries, rows, ended)
        for row in rows:  # handed out again, or after a restart: it is the same
            assert self.names.setdefault(row.number, (row.group, row.start)) == (row.group, row.start)
        if refused:
            self.windows.discard(entries)
            self.windows.again(rows)
            self.windows.return_ended(ended)
        else:
            self.log.append(record)
            self.kept += [sent.number for sent, _ in self.pending]
            self.counted += [m.number for row in rows for m in members(self.windows.output(row), self.sent)]
            self.windows.apply(entries)
            self.windows.done(rows)
        self.pending = []

    @rule(compact=st.booleans())
    def crash(self, compact: bool) -> None:
        if compact:
            self.log = [self.windows.snapshot()]
        self.windows = self.made()
        self.windows.restore(self.log)
        self.pending = []

    @invariant()
    def the_bounds_hold(self) -> None:
        if hasattr(self, "windows"):
            assert self.windows.groups <= self.GROUPS_MAX

    def teardown(self) -> None:
        if not hasattr(self, "windows"):
            return
        self.commit(500, refused=False)
        rows = self.windows.finish()
        self.counted += [m.number for row in rows for m in members(self.windows.output(row), self.sent)]
        self.windows.done(rows)
        assert self.windows.lost == {}
        again = self.made()
        again.restore([self.windows.snapshot()])
        assert (again.size, again.groups, again.open) == (self.windows.size, self.windows.groups, 0)
        assert sorted(self.counted) == self.kept


TestByArrival = ByArrival.TestCase
TestByArrival.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
