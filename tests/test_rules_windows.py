"""When windows close, what is late, and what a restart finds again."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from core.message import Message
from rules.errors import EvaluationError
from rules.event import Event
from rules.sql.parser import parse_statement
from rules.sql.payloads import json_bytes
from rules.sql.values import SqlVersion
from rules.windows.grouping import compile_window
from rules.windows.state import BACK_MAX_MS, FORGET_MS, LATE, OPEN_MAX, Row, Windows

NOON = 1_760_011_200_000
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000


def plan(window: str = "'60 seconds', 'at'", where: str = "") -> Any:
    select = "k, count(*) AS n, sum(v) AS total, window_start() AS start"
    sql = f"SELECT {select} FROM 't' {where} GROUP BY k, TUMBLING({window})"
    return compile_window(parse_statement(sql), SqlVersion.V2016)


def event_windows(**bounds: Any) -> Windows:
    """Windows of a minute by event time, that wait a minute for what is late."""
    return Windows(plan(), **bounds)


def arrival_windows(*, own_clock: bool = True) -> Windows:
    return Windows(plan("'60 seconds'"), own_clock=own_clock)


def event(at: int, group: str = "a", value: Any = 1, heard: int | None = None) -> Event:
    heard = at if heard is None else heard
    return Event(Message("t", json_bytes({"k": group, "v": value, "at": at}), received_at=heard), heard)


def send(
    windows: Windows, at: int, group: str = "a", value: Any = 1, *, source: str = "", heard: int | None = None
) -> bytes:
    """One message, written down and applied."""
    entry = windows.hear(event(at, group, value, heard), source)
    assert entry is not None
    record = windows.record([entry], [], windows.take_ended())
    windows.apply([entry])
    return record


def due(windows: Windows) -> list[Any]:
    """What the rows that are due say; they are done."""
    rows = windows.due()
    windows.done(rows)
    return [windows.output(row) for row in rows]


def act(windows: Windows, most: int = OPEN_MAX) -> tuple[bytes, list[Any]]:
    """At most so many rows that are due, written down and done; the record, and what they say."""
    rows = windows.due(most)
    record = windows.record([], rows, windows.take_ended())
    windows.done(rows)
    return record, [windows.output(row) for row in rows]


def row(start: int, n: int, group: str = "a", total: int | None = None) -> dict[str, Any]:
    return {"k": group, "n": n, "total": n if total is None else total, "start": start}


# -- event time --------------------------------------------------------------------------------------------------------


def test_a_window_closes_when_the_group_has_told_a_time_so_late_that_nothing_can_come() -> None:
    windows = event_windows()
    send(windows, NOON + 10 * SECOND)
    send(windows, NOON + 119 * SECOND)
    assert due(windows) == []
    send(windows, NOON + 120 * SECOND)  # a minute after the first window's end
    assert due(windows) == [row(NOON, 1)]
    assert due(windows) == []


def test_windows_are_aligned_to_the_epoch() -> None:
    windows = event_windows()
    send(windows, NOON + MINUTE - 1)
    send(windows, NOON + MINUTE)
    assert [found["start"] for found in map(windows.output, windows.finish())] == [NOON, NOON + MINUTE]


def test_messages_out_of_order_are_counted_in_their_own_windows() -> None:
    windows = event_windows()
    for at in (70, 20, 95, 59, 60, 130):
        send(windows, NOON + at * SECOND)
    assert due(windows) == [row(NOON, 2)]
    assert [windows.output(found)["n"] for found in windows.finish()] == [3, 1]


def test_what_is_late_is_counted_as_lost_and_changes_no_row() -> None:
    windows = event_windows()
    send(windows, NOON + 10 * SECOND)
    send(windows, NOON + 130 * SECOND)
    send(windows, NOON + 59 * SECOND)
    assert windows.lost == {LATE: 1}
    assert due(windows) == [row(NOON, 1)]
    send(windows, NOON)
    assert windows.lost == {LATE: 2}
    assert due(windows) == []


def test_what_is_older_than_the_wait_is_late_even_where_no_window_was() -> None:
    windows = event_windows()
    send(windows, NOON + HOUR)
    send(windows, NOON)
    assert windows.lost == {LATE: 1}


def test_each_group_has_a_clock_of_its_own() -> None:
    windows = event_windows()
    send(windows, NOON, "slow")
    send(windows, NOON + HOUR, "fast")
    send(windows, NOON + 20 * HOUR, "wrong", heard=NOON)
    send(windows, NOON + 30 * SECOND, "slow")
    assert due(windows) == []
    assert windows.lost == {}
    assert [windows.output(found)["n"] for found in windows.finish()] == [2, 1, 1]


def test_a_sensor_that_falls_silent_closes_its_last_window_as_if_it_went_on() -> None:
    windows = event_windows()
    send(windows, NOON + 45 * SECOND)
    assert windows.wait() == 75 * SECOND
    windows.elapse(75 * SECOND - 1)
    assert due(windows) == []
    assert windows.wait() == 1
    windows.elapse(1)
    assert due(windows) == [row(NOON, 1)]
    assert windows.wait() is None


def test_what_comes_after_a_silence_belongs_to_later_windows() -> None:
    windows = event_windows()
    send(windows, NOON)
    windows.elapse(HOUR)
    assert due(windows) == [row(NOON, 1)]
    send(windows, NOON + 59 * SECOND)
    send(windows, NOON + MINUTE)
    assert windows.lost == {LATE: 1}
    assert [windows.output(found)["start"] for found in windows.finish()] == [NOON + MINUTE]


def test_a_stream_that_stands_still_closes_nothing() -> None:
    windows = event_windows()
    send(windows, NOON, "near", source="near/telemetry")
    send(windows, NOON, "far", source="far/telemetry")
    windows.elapse(HOUR, "near/telemetry")
    assert [found["k"] for found in due(windows)] == ["near"]
    send(windows, NOON + 30 * SECOND, "far", source="far/telemetry")
    windows.elapse(HOUR, "far/telemetry")
    assert due(windows) == [row(NOON, 2, "far")]


def test_a_group_that_moves_to_another_stream_goes_by_that_ones_time() -> None:
    windows = event_windows()
    send(windows, NOON, source="one")
    windows.elapse(HOUR, "two")
    send(windows, NOON + SECOND, source="two")
    windows.elapse(HOUR, "one")
    assert due(windows) == []
    windows.elapse(HOUR, "two")
    assert due(windows) == [row(NOON, 2)]


def test_a_group_that_was_a_day_ahead_begins_again_after_a_day() -> None:
    windows = event_windows()
    send(windows, NOON + DAY, heard=NOON)
    windows.elapse(HOUR)
    assert due(windows) == [row(NOON + DAY, 1)]
    send(windows, NOON + HOUR)
    assert windows.lost == {LATE: 1}
    windows.elapse(FORGET_MS)
    assert due(windows) == []
    send(windows, NOON + DAY + HOUR)
    assert [windows.output(found)["start"] for found in windows.finish()] == [NOON + DAY + HOUR]


# -- the time of arrival -----------------------------------------------------------------------------------------------


def test_by_arrival_a_window_closes_at_its_end() -> None:
    windows = arrival_windows()
    send(windows, NOON + 10 * SECOND)
    windows.elapse(50 * SECOND - 1)
    assert due(windows) == []
    windows.elapse(1)
    assert due(windows) == [row(NOON, 1)]


def test_a_clock_that_is_corrected_loses_nothing_and_counts_nothing_twice() -> None:
    windows = arrival_windows()
    send(windows, NOON + 59 * SECOND)
    send(windows, NOON + 61 * SECOND)
    send(windows, NOON + 58 * SECOND)  # the clock was set back by three seconds, and waits
    send(windows, NOON + 62 * SECOND)
    rows = [windows.output(found) for found in windows.finish()]
    assert rows == [row(NOON, 1), row(NOON + MINUTE, 3)]
    assert windows.lost == {}


def test_a_clock_that_was_wrong_and_jumps_back_begins_again() -> None:
    windows = arrival_windows()
    send(windows, NOON + 80 * 365 * DAY)
    send(windows, NOON)
    send(windows, NOON + SECOND)
    assert [found["n"] for found in due(windows)] == [1]
    windows.elapse(MINUTE)
    assert due(windows) == [row(NOON, 2)]
    assert windows.lost == {}


def test_a_box_that_wakes_up_in_1970_closes_windows_all_the_same_and_tells_no_time() -> None:
    windows = arrival_windows()
    for at in (5_000, 6_000):
        entry = windows.hear(Event(Message("t", b'{"k":"a","v":1}', received_at=at), at))
        assert entry is not None
        windows.apply([entry])
    windows.elapse(MINUTE)
    assert due(windows) == [{"k": "a", "n": 2, "total": 2}]
    send(windows, NOON)  # the clock is set
    send(windows, 7_000, heard=7_000)  # power goes, and the next start is in 1970 again
    assert due(windows) == [row(NOON, 1)]
    assert [windows.output(found)["n"] for found in windows.finish()] == [1]


def test_a_clock_set_back_within_the_bound_stands_still_and_beyond_begins_again() -> None:
    still, again = [NOON, NOON + HOUR], [NOON, NOON + HOUR, NOON + 58 * MINUTE]
    for back, starts in ((BACK_MAX_MS, still), (BACK_MAX_MS + 1, again)):
        windows = arrival_windows()
        send(windows, NOON)
        send(windows, NOON + HOUR)
        send(windows, NOON + HOUR - back)
        assert [found.start for found in windows.finish()] == starts
        assert windows.lost == {}


def test_in_a_cloud_arrival_is_what_the_edge_said_and_may_be_late() -> None:
    windows = arrival_windows(own_clock=False)
    send(windows, NOON + 10 * SECOND)
    send(windows, NOON + 70 * SECOND)
    send(windows, NOON + 50 * SECOND)  # another edge, a little behind
    assert due(windows) == []
    send(windows, NOON + 120 * SECOND)
    assert due(windows) == [row(NOON, 2)]


def test_an_edge_whose_clock_is_years_ahead_closes_no_windows_of_the_others() -> None:
    windows = arrival_windows(own_clock=False)
    for lane, heard in (("A", NOON + 3_650 * DAY), ("B", NOON + SECOND), ("B", NOON + 61 * SECOND)):
        entry = windows.hear(Event(Message("t", b'{"k":"a","v":1}', received_at=heard), NOON + SECOND), lane)
        assert entry is not None
        windows.apply([entry])
    assert windows.lost == {}
    assert [windows.output(found) for found in windows.finish()] == [row(NOON, 2), row(NOON + MINUTE, 1)]


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_a_group_beyond_the_bound_is_refused_and_the_others_go_on() -> None:
    windows = event_windows(groups_max=2)
    send(windows, NOON, "a")
    send(windows, NOON, "b")
    with pytest.raises(EvaluationError, match="more than 2 groups"):
        windows.hear(event(NOON, "c"))
    send(windows, NOON + SECOND, "b")
    assert [windows.output(found)["n"] for found in windows.finish()] == [1, 2]


def test_a_group_without_windows_makes_room_for_a_new_one() -> None:
    windows = event_windows(groups_max=2)
    for group in ("a", "b"):
        send(windows, NOON, group)
    windows.elapse(HOUR)
    assert len(due(windows)) == 2
    record = send(windows, NOON, "c")
    assert windows.groups == 2
    assert json.loads(record)["forgotten"] == ['[["a"]]']


def test_windows_beyond_the_bound_are_refused() -> None:
    windows = event_windows(open_max=2)
    send(windows, NOON)
    send(windows, NOON + MINUTE)
    with pytest.raises(EvaluationError, match="more than 2 windows"):
        windows.hear(event(NOON + 90 * SECOND, "b"))
    send(windows, NOON + 30 * SECOND)


def test_messages_on_their_way_to_the_disk_count_against_the_bounds() -> None:
    windows = event_windows(groups_max=2)
    heard = [windows.hear(event(NOON, group)) for group in ("a", "b")]
    with pytest.raises(EvaluationError):
        windows.hear(event(NOON, "c"))
    windows.discard([entry for entry in heard if entry])
    assert windows.hear(event(NOON, "c")) is not None


def test_messages_on_their_way_to_the_disk_count_as_the_windows_that_they_open() -> None:
    windows = event_windows(open_max=2)
    heard = [windows.hear(event(NOON + at * SECOND)) for at in (0, 10, 20, 70, 80)]
    with pytest.raises(EvaluationError, match="more than 2 windows"):
        windows.hear(event(NOON + 130 * SECOND))
    windows.apply([entry for entry in heard if entry])
    assert windows.open == 2
    with pytest.raises(EvaluationError, match="more than 2 windows"):
        windows.hear(event(NOON + 130 * SECOND))
    assert windows.hear(event(NOON + 75 * SECOND)) is not None


def test_a_message_of_a_group_that_has_windows_takes_no_other_groups_place() -> None:
    windows = event_windows(groups_max=3)
    for group in ("a", "b"):
        send(windows, NOON, group)
    for group in ("a", "b"):
        assert windows.hear(event(NOON + SECOND, group)) is not None
    assert windows.hear(event(NOON, "c")) is not None
    with pytest.raises(EvaluationError, match="more than 3 groups"):
        windows.hear(event(NOON, "d"))


def test_what_a_rule_keeps_is_bounded_in_bytes_and_what_it_has_goes_on() -> None:
    keeping = compile_window(
        parse_statement("SELECT k, last(v) AS v FROM 't' GROUP BY k, TUMBLING('60 seconds', 'at')"), SqlVersion.V2016
    )
    windows = Windows(keeping, state_max=10_000)
    for group in "abcd":
        send(windows, NOON, group, "x" * 2_000)
    with pytest.raises(EvaluationError, match="keep more than 10,000 bytes"):
        windows.hear(event(NOON, "e", "x" * 2_000))
    with pytest.raises(EvaluationError, match="keep more than 10,000 bytes"):
        windows.hear(event(NOON, "a", "x" * 4_000))
    send(windows, NOON, "d", "x" * 3_600)  # until there is no room at all
    assert 9_980 < windows.size <= 10_000
    send(windows, NOON, "a", "y" * 2_000)  # in the place of what was there
    assert len(windows.snapshot()) < 10_100
    windows.elapse(HOUR)
    assert [found["v"][0] for found in due(windows)] == ["y", "x", "x", "x"]
    send(windows, NOON, "e", "x" * 4_000)


def test_what_is_on_its_way_to_the_disk_counts_against_the_bound_of_bytes() -> None:
    keeping = compile_window(
        parse_statement("SELECT first(v) AS v FROM 't' GROUP BY TUMBLING('60 seconds', 'at')"), SqlVersion.V2016
    )
    windows = Windows(keeping, state_max=5_000)
    entries = [windows.hear(event(NOON, value="x" * 2_000)) for _ in range(2)]
    with pytest.raises(EvaluationError, match="keep more than"):
        windows.hear(event(NOON, value="x" * 2_000))
    windows.discard([entry for entry in entries if entry])
    assert windows.size == 0
    assert windows.hear(event(NOON, value="x" * 2_000)) is not None


def test_groups_that_are_remembered_make_room_for_what_is_open() -> None:
    windows = event_windows(state_max=2_000)
    for number in range(20):
        send(windows, NOON, f"group {number} {'x' * 500}")
        windows.elapse(HOUR)
        assert len(due(windows)) == 1
    assert 0 < windows.groups < 4


def test_a_percentile_counts_with_all_numbers_that_it_keeps() -> None:
    sketching = compile_window(
        parse_statement("SELECT percentile(v, 50) AS p FROM 't' GROUP BY k, TUMBLING('60 seconds', 'at')"),
        SqlVersion.V2016,
    )
    windows = Windows(sketching, state_max=5_000)
    number = 0
    while windows.size + 20 <= 5_000:
        number += 1
        send(windows, NOON, value=number + 0.123456789012345)
    with pytest.raises(EvaluationError, match="keep more than"):
        windows.hear(event(NOON))
    assert 3_000 < len(windows.snapshot()) < 5_000


def test_a_restart_finds_the_size_of_what_is_kept() -> None:
    windows = event_windows()
    written = [windows.snapshot()]
    written += [send(windows, NOON + at * SECOND, group) for at, group in ((0, "a"), (1, "b"), (200, "a"), (2, "b"))]
    by_records, by_snapshot = event_windows(), event_windows()
    by_records.restore(written)
    by_snapshot.restore([windows.snapshot()])
    assert windows.size == by_records.size == by_snapshot.size > 0
    written.append(act(windows)[0])
    after = event_windows()
    after.restore(written)
    assert after.size == windows.size < by_records.size


def test_what_does_not_pass_where_is_not_heard() -> None:
    windows = Windows(plan(where="WHERE v > 5"))
    assert windows.hear(event(NOON, value=5)) is None
    assert windows.hear(event(NOON, value=6)) is not None


# -- rows and the disk -------------------------------------------------------------------------------------------------


def test_a_row_is_due_again_until_it_is_done() -> None:
    windows = event_windows()
    send(windows, NOON)
    send(windows, NOON + 5 * MINUTE)
    rows = windows.due()
    assert windows.due() == []
    send(windows, NOON)  # late, though the row is not done yet
    windows.again(rows)
    assert windows.due() == rows
    assert windows.output(rows[0]) == row(NOON, 1)
    windows.done(rows)
    assert windows.due() == []


def test_a_message_that_could_not_be_written_was_never_there() -> None:
    windows = event_windows()
    entry = windows.hear(event(NOON))
    assert entry is not None
    windows.discard([entry])
    assert windows.finish() == []
    assert windows.groups == 0


def test_a_group_is_not_silent_while_its_message_is_on_its_way_to_the_disk() -> None:
    windows = event_windows()
    send(windows, NOON)
    entry = windows.hear(event(NOON + SECOND))
    assert entry is not None
    windows.elapse(HOUR)
    assert due(windows) == []
    windows.apply([entry])
    windows.elapse(HOUR)
    assert due(windows) == [row(NOON, 2)]


def test_a_restart_finds_what_was_written_and_nothing_else() -> None:
    windows = event_windows()
    written = [send(windows, NOON + at * SECOND, group) for at, group in ((0, "a"), (1, "b"), (200, "a"), (2, "b"))]
    windows.hear(event(NOON + 3 * SECOND, "b"))  # the power goes before it is written
    again = event_windows()
    again.restore(written)
    assert [again.output(found) for found in again.due()] == [row(NOON, 1)]
    send(again, NOON + 5 * SECOND, "a")
    assert again.lost == {LATE: 1}
    again.elapse(DAY)
    assert [(found["k"], found["n"]) for found in due(again)] == [("a", 1), ("b", 2)]


def test_a_row_that_was_done_does_not_come_back() -> None:
    windows = event_windows()
    written = [send(windows, NOON), send(windows, NOON + 5 * MINUTE)]
    written.append(act(windows)[0])
    again = event_windows()
    again.restore(written)
    assert again.due() == []
    assert [again.output(found)["start"] for found in again.finish()] == [NOON + 5 * MINUTE]


def test_what_comes_after_a_window_closed_in_silence_is_not_in_it_after_a_restart() -> None:
    windows = arrival_windows()
    written = [send(windows, NOON, group) for group in ("a", "b")]
    windows.elapse(MINUTE)  # both are over, and one row is acted on
    record, rows = act(windows, 1)
    assert rows == [row(NOON, 1, "a")]
    written += [record, send(windows, NOON + MINUTE - 1, "b")]  # the clock is a little behind
    record, rows = act(windows)
    assert rows == [row(NOON, 1, "b")]
    again = arrival_windows()
    again.restore([*written, record])
    assert [again.output(found) for found in again.finish()] == [row(NOON + MINUTE, 1, "b")]


def test_what_ended_while_a_commit_was_refused_is_in_the_next_record() -> None:
    windows = arrival_windows()
    written = [send(windows, NOON)]
    windows.elapse(MINUTE)
    rows = windows.due()
    ended = windows.take_ended()
    assert ended
    windows.return_ended(ended)
    windows.again(rows)
    written += [send(windows, NOON + 1), act(windows)[0]]
    again = arrival_windows()
    again.restore(written)
    assert [again.output(found) for found in again.finish()] == [row(NOON + MINUTE, 1)]


def test_a_row_has_one_number_which_a_restart_does_not_change() -> None:
    windows = event_windows(log="its name")
    written = [windows.snapshot()]
    written += [send(windows, NOON + at * MINUTE, group) for at, group in ((0, "a"), (0, "b"), (1, "a"), (1, "b"))]
    by_records, by_snapshot = event_windows(), event_windows()
    by_records.restore(written)
    by_snapshot.restore([windows.snapshot()])
    assert by_records.log == by_snapshot.log == "its name"
    for each in (by_records, by_snapshot):
        send(each, NOON + 2 * MINUTE, "c")
        assert sorted((found.number, windows.output(found)["k"], found.start) for found in each.finish()) == [
            (1, "a", NOON),
            (2, "b", NOON),
            (3, "a", NOON + MINUTE),
            (4, "b", NOON + MINUTE),
            (5, "c", NOON + 2 * MINUTE),
        ]


def test_a_window_of_a_group_that_was_forgotten_has_another_number() -> None:
    windows = event_windows()
    numbers = []
    for _ in range(2):
        send(windows, NOON)
        windows.elapse(HOUR)
        rows = windows.due()
        numbers += [(found.start, found.number) for found in rows]
        windows.done(rows)
        windows.elapse(FORGET_MS)
        assert windows.due() == []
    assert numbers == [(NOON, 1), (NOON, 2)]


def test_silence_counts_from_the_restart() -> None:
    windows = event_windows()
    written = [send(windows, NOON + 45 * SECOND)]
    windows.elapse(70 * SECOND)
    again = event_windows()
    again.restore(written)
    assert again.wait() == 75 * SECOND


def test_a_snapshot_is_worth_all_records_before_it() -> None:
    windows = event_windows()
    written = [send(windows, NOON + at * SECOND, group) for at, group in ((0, "a"), (1, "b"), (200, "a"), (2, "b"))]
    windows.due()  # under way, and not done
    by_records, by_snapshot = event_windows(), event_windows()
    by_records.restore(written)
    by_snapshot.restore([windows.snapshot()])
    outputs = [[w.output(found) for found in (*w.due(), *w.finish())] for w in (by_records, by_snapshot)]
    assert outputs[0] == outputs[1] != []


def test_a_group_that_was_forgotten_stays_forgotten() -> None:
    windows = event_windows(groups_max=1)
    written = [send(windows, NOON, "a"), send(windows, NOON + 5 * MINUTE, "a")]
    windows.elapse(DAY)
    written.append(act(windows)[0])
    written.append(send(windows, NOON, "b"))
    again = event_windows(groups_max=1)
    again.restore(written)
    assert again.groups == 1
    assert [again.output(found)["k"] for found in again.finish()] == ["b"]


@pytest.mark.parametrize("written", [b"{", b"[]", b'{"heard":[[1]]}', b'{"done":[["x",5]]}', b'{"groups":[["a"]]}',
                                     b'{"log":"","number":1,"groups":[],"rows":[["a",0,"t",[1]]]}',
                                     b'{"heard":[["","t","[]","x",1]]}'])  # fmt: skip
def test_what_cannot_have_been_written_here_is_refused(written: bytes) -> None:
    with pytest.raises(ValueError):
        event_windows().restore([written])


def test_the_topic_of_a_row_is_that_of_its_last_message() -> None:
    windows = event_windows()
    for topic in ("t/1", "t/2"):
        entry = windows.hear(Event(Message(topic, json_bytes({"k": 1, "at": NOON})), NOON))
        assert entry is not None
        windows.apply([entry])
    rows: list[Row] = windows.finish()
    assert [found.topic for found in rows] == ["t/2"]


def test_a_device_whose_clock_runs_fast_costs_no_more_memory_with_each_message() -> None:
    windows = event_windows()
    for step in range(5_000):
        send(windows, NOON + step, heard=NOON)
    assert len(windows._alarms[""]) < 100
    windows.elapse(2 * MINUTE)
    assert due(windows) == [row(NOON, 5_000)]


# -- the examples of the documentation ---------------------------------------------------------------------------------

PAGE = Path(__file__).parent.parent / "docs" / "rules" / "windows.md"
FIELD = re.compile(r"(?:^|\n)(sql|messages|rows|late):\s*(.*?)(?=\n\w+:|\Z)", re.DOTALL)


def examples() -> list[dict[str, str]]:
    blocks = re.findall(r"```window\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [dict(FIELD.findall(block.rstrip())) for block in blocks]


def values(lines: str) -> list[Any]:
    """JSON values one after the other."""
    found, at = [], 0
    while at < len(lines):
        value, at = json.JSONDecoder().raw_decode(lines, at)
        found.append(value)
        at += len(lines[at:]) - len(lines[at:].lstrip())
    return found


@pytest.mark.parametrize("example", examples())
def test_an_example_of_the_page_gives_the_rows_that_it_shows(example: dict[str, str]) -> None:
    windows = Windows(compile_window(parse_statement(example["sql"]), SqlVersion.V2016))
    for payload in values(example["messages"]):
        entry = windows.hear(Event(Message("plant/l1/oven/telemetry", json_bytes(payload)), NOON + 365 * DAY))
        assert entry is not None
        windows.apply([entry])
    rows = [windows.output(found) for found in sorted(windows.finish(), key=lambda r: (r.group, r.start))]
    assert json.loads(json_bytes(rows)) == values(example["rows"])
    assert windows.lost[LATE] == int(example.get("late", "0"))


def test_the_page_has_examples() -> None:
    assert len(examples()) == 3
