"""Which windowed statements make sense, what they take of a message, and the row they make of a window."""

from contextlib import suppress
from typing import Any

import pytest

from core.message import Message
from rules.errors import EvaluationError, SqlError
from rules.event import Event
from rules.sql.parser import parse_statement
from rules.sql.payloads import json_bytes
from rules.sql.values import SqlVersion
from rules.windows.grouping import AHEAD_MAX_MS, VALUE_BYTES_MAX, WindowPlan, compile_window

NOW = 1_760_000_000_000
HOUR = 3_600_000


def plan(select: str, group: str = "machine", rest: str = "", *, version: SqlVersion = SqlVersion.V2016,
         where: str = "", before: str = "", window: str = "'60 seconds'") -> WindowPlan:  # fmt: skip
    group = f"{group}, " if group else ""
    sql = f"{before} SELECT {select} FROM 'plant/#' {where} GROUP BY {group}TUMBLING({window}) {rest}"
    return compile_window(parse_statement(sql), version)


def event(payload: Any, *, topic: str = "plant/a", heard: int = NOW, now: int = NOW) -> Event:
    data = payload if isinstance(payload, bytes) else json_bytes(payload)
    return Event(Message(topic, data, client_id="c", received_at=heard), now)


def row(made: WindowPlan, payloads: list[Any], *, start: int = NOW) -> Any:
    """The row of one window with these messages in it."""
    found = made.accumulators()
    group = "[]"
    for at, payload in enumerate(payloads):
        entry = made.entry(event(payload))
        assert entry is not None
        group = entry.group
        for slot, accumulator in zip(made.slots, found, strict=True):
            value = True if slot.argument is None else entry.values[slot.argument]
            if value is not None:
                accumulator.add(value, at)
    return made.output(group, start, found)


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(SqlError) as caught:
        plan(*arguments, **options)
    return str(caught.value)


READINGS = [{"machine": "m1", "t": 20}, {"machine": "m1", "t": 30.5}, {"machine": "m1", "t": 25}]


# -- rows --------------------------------------------------------------------------------------------------------------


def test_a_row_has_keys_aggregates_and_expressions_over_both() -> None:
    made = plan(
        "machine, avg(t) AS mean, max(t) - min(t) AS swing, count(*) AS n, 'C' AS unit, upper(machine) AS name,"
        " CASE count(*) WHEN 3 THEN 'all' ELSE 'some' END AS how, [min(t), max(t)] AS range, {'n': count(t)} AS o,"
        " round(avg(t)) AS rounded, NOT count(*) > 5 AND true AS few, 3 IN [count(*)] AS three"
    )
    assert row(made, READINGS) == {
        "machine": "m1", "mean": pytest.approx(25.1666666666), "swing": 10.5, "n": 3, "unit": "C", "name": "M1",
        "how": "all", "range": [20, 30.5], "o": {"n": 3}, "rounded": 25, "few": True, "three": True,
    }  # fmt: skip


def test_a_row_knows_its_window() -> None:
    made = plan("window_start() AS since, window_end() AS until, (window_end() - window_start()) / 1000 AS seconds")
    assert row(made, READINGS) == {"since": NOW, "until": NOW + 60_000, "seconds": 60}


def test_a_window_by_a_clock_that_was_wrong_says_nothing_of_its_time() -> None:
    made = plan("count(*) AS n, window_start() AS since")
    assert row(made, READINGS, start=120_000) == {"n": 3}


def test_any_expression_may_be_a_key() -> None:
    made = plan("topic(1) + '/' + upper(machine) AS place, topic(1) AS site, count(*) AS n",
                "topic(1), topic(1) + '/' + upper(machine)")  # fmt: skip
    assert row(made, READINGS) == {"place": "plant/M1", "site": "plant", "n": 3}


def test_a_key_is_known_inside_larger_expressions_whatever_the_spaces() -> None:
    made = plan("(a+b) * 2 AS double, count(*) AS n", "a + b")
    assert row(made, [{"a": 1, "b": 2}]) == {"double": 6, "n": 1}


def test_without_keys_all_messages_are_one_group() -> None:
    assert row(plan("count(*) AS n", ""), READINGS) == {"n": 3}


def test_a_missing_key_is_a_group_whose_rows_lack_it() -> None:
    made = plan("machine, count(*) AS n")
    assert row(made, [{"t": 1}]) == {"n": 1}
    assert row(made, [{"machine": None}]) == {"machine": None, "n": 1}


def test_whole_numbers_are_one_key_however_they_are_written() -> None:
    made = plan("line, count(*) AS n", "line", version=SqlVersion.V2015)
    assert row(made, [{"line": 1.0}, {"line": 1}]) == {"line": 1, "n": 2}
    entries = [made.entry(event(payload)) for payload in (b'{"line":1.0}', b'{"line":1}', b'{"line":"1"}')]
    assert len({entry.group for entry in entries if entry}) == 2


def test_where_and_set_see_each_message() -> None:
    made = plan("avg(@c) AS mean, count(*) AS n", where="WHERE @c > 0", before="SET @c = (f - 32) * 5 / 9")
    assert made.entry(event({"f": 32})) is None
    assert row(made, [{"f": 212}, {"f": 50}]) == {"mean": 55, "n": 2}


def test_a_variable_may_be_a_key() -> None:
    made = plan("@line AS line, count(*) AS n", "@line", before="SET @line = topic(2)")
    assert row(made, READINGS) == {"line": "a", "n": 3}


def test_aggregates_take_any_expression_even_a_nested_select() -> None:
    made = plan("sum(t * 2) AS twice, max(ceil(t)) AS top, last(*) AS reading,"
                " last((SELECT VALUE v FROM parts WHERE v > 1)) AS large, first(timestamp()) AS at")  # fmt: skip
    payload = {"machine": "m1", "t": 2, "parts": [{"v": 1}, {"v": 2}]}
    assert row(made, [payload]) == {"twice": 4, "top": 2, "reading": payload, "large": [2], "at": NOW}


def test_aggregates_without_anything_to_count_are_left_out() -> None:
    made = plan("count(*) AS n, count(v) AS with_v, sum(v) AS s, stddev(t) AS d, percentile(t, 50) AS p, last(v) AS l")
    assert row(made, [{"t": 1, "v": None}, {"v": None}]) == {"n": 2, "with_v": 0, "p": 1}


def test_the_same_aggregate_twice_is_kept_once() -> None:
    made = plan("avg(t) AS a, sum(t) AS s, avg(t) * 2 AS b, percentile(t, 5) AS low, percentile(t, 95) AS high")
    assert len(made.slots) == 2


def test_select_value_and_dotted_names_work_as_anywhere() -> None:
    assert row(plan("VALUE count(*)"), READINGS) == 3
    assert row(plan("min(t) AS t.low, max(t) AS t.high"), READINGS) == {"t": {"low": 20, "high": 30.5}}


def test_an_aggregate_without_a_name_has_its_text_as_key() -> None:
    assert row(plan("count(*), avg(t)"), READINGS[:1]) == {"count(*)": 1, "avg(t)": 20}


def test_the_number_rule_of_the_version_holds_for_rows() -> None:
    for version, ten in ((SqlVersion.V2016, b"10"), (SqlVersion.V2015, b"10.0")):
        made = plan("avg(t) AS mean, max(t) AS top", version=version)
        assert json_bytes(row(made, [b'{"t":10.0}'])) == b'{"mean":%s,"top":%s}' % (ten, ten)


# -- the time of a message ---------------------------------------------------------------------------------------------


def time_of(payload: Any, *, field: str = "at", **options: Any) -> int:
    entry = plan("count(*) AS n", window=f"'60 seconds', '{field}'").entry(event(payload, **options))
    assert entry is not None
    return entry.time


def test_event_time_is_milliseconds_or_iso_8601() -> None:
    assert time_of({"at": NOW}) == NOW
    assert time_of({"at": NOW + 0.75}) == NOW
    assert time_of({"at": str(NOW)}) == NOW
    assert time_of({"at": "2025-10-09T08:53:20Z"}) == NOW
    assert time_of({"at": "2025-10-09T10:53:20.250+02:00"}) == NOW + 250
    assert time_of({"at": "2025-10-09T08:53:20"}) == NOW  # UTC, where nothing else is said
    assert time_of({"meta": {"at": NOW}}, field="meta.at") == NOW


@pytest.mark.parametrize("payload", [{}, {"at": None}, {"at": "noon"}, {"at": [NOW]}, {"at": True}, b"\xff", 5])
def test_a_message_without_a_time_is_refused(payload: Any) -> None:
    with pytest.raises(EvaluationError, match="at tells no time"):
        time_of(payload)


@pytest.mark.parametrize("time", [0, -5, NOW // 1000, NOW * 1000, "1970-01-01T00:00:00Z", 10**30])
def test_a_time_in_seconds_or_microseconds_is_refused_with_the_unit(time: Any) -> None:
    with pytest.raises(EvaluationError, match="milliseconds since 1970"):
        time_of({"at": time})


def test_a_clock_more_than_a_day_ahead_is_refused() -> None:
    assert time_of({"at": NOW + AHEAD_MAX_MS}) == NOW + AHEAD_MAX_MS
    with pytest.raises(EvaluationError, match="more than a day ahead"):
        time_of({"at": NOW + AHEAD_MAX_MS + 1})
    # Where the clock of the box itself is wrong there is nothing to compare with.
    assert time_of({"at": NOW}, heard=5_000, now=5_000) == NOW


def test_the_time_of_arrival_is_that_of_the_machine_that_heard_it() -> None:
    made = plan("count(*) AS n")
    clocks = ((NOW - HOUR, NOW), (5_000, NOW), (0, 7_000))
    entries = [made.entry(event({}, heard=heard, now=now)) for heard, now in clocks]
    assert [entry.time for entry in entries if entry] == [NOW - HOUR, NOW, 7_000]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_what_has_many_values_in_a_window_is_refused_with_what_to_write() -> None:
    assert "write last(t), or another aggregate of it, or add it to GROUP BY" in refusal("t")
    assert "last(*) AS name" in refusal("*")
    assert "write last(topic(3))" in refusal("topic(3) AS line, count(*)")
    assert "write last(@c)" in refusal("@c", before="SET @c = t")
    assert "has a value for each message" in refusal("avg(t) + t AS x")
    assert "has a value for each message" in refusal("(SELECT VALUE v FROM parts) AS p")
    assert "has a value for each message" in refusal("EXISTS (SELECT VALUE v FROM parts) AS p")
    assert "has a value for each message" in refusal("CASE count(*) WHEN 1 THEN t ELSE 0 END AS x")


def test_a_refusal_says_where() -> None:
    assert refusal("count(*) AS n, t").startswith("1:24: ")


@pytest.mark.parametrize("options", [{"where": "WHERE avg(t) > 5"}, {"before": "SET @a = avg(t)"}, {"group": "max(t)"},
                                     {"where": "WHERE window_start() > 5"}])  # fmt: skip
def test_aggregates_stand_only_in_select(options: dict[str, str]) -> None:
    assert "stands in SELECT" in refusal("count(*)", **options)


@pytest.mark.parametrize(
    ("select", "why"),
    [
        ("sum(avg(t))", "is over messages"),
        ("sum()", r"write sum(value)"),
        ("sum(t, 1)", r"write sum(value)"),
        ("percentile(t)", r"write percentile(value, 95)"),
        ("percentile(t, 101)", "from 0 to 100"),
        ("percentile(t, -1)", "from 0 to 100"),
        ("percentile(t, p)", "constant"),
        ("percentile(t, '95')", "constant"),
        ("percentile(t, true)", "constant"),
        ("percentile(t, 0.95)", "write 95 for 0.95"),
        ("sum(*)", "needs a number"),
        ("window_start(1)", "takes nothing"),
        ("average(t)", "there is no function average()"),
        ("avg(nosuch(t))", "there is no function nosuch()"),
        (",".join(f"sum(a{n})" for n in range(65)), "more than 64"),
    ],
)
def test_an_aggregate_that_makes_no_sense_is_refused(select: str, why: str) -> None:
    assert why in refusal(select)


@pytest.mark.parametrize(
    ("window", "why"),
    [
        ("'999 milliseconds'", "from one second to one day"),
        ("'25 hours'", "from one second to one day"),
        ("'1 hour', 'at', '2 days'", "at most one day"),
    ],
)
def test_a_window_has_a_sensible_size(window: str, why: str) -> None:
    assert why in refusal("count(*)", window=window)


def test_a_statement_has_a_bounded_number_of_keys_and_no_star_among_them() -> None:
    assert "more than 16 keys" in refusal("count(*)", ",".join(f"k{n}" for n in range(17)))


def test_an_expression_of_thousands_of_parts_is_compiled_or_refused_but_no_crash() -> None:
    chain = " + ".join(["max(t)"] * 900)
    assert row(plan(f"{chain} AS x"), [{"t": 1}]) == {"x": 900}
    keys = " + ".join(["t"] * 900)
    with suppress(SqlError):  # how deep two keys can be compared is Python's affair
        assert row(plan(f"{keys} AS x", keys), [{"t": 1}]) == {"x": 900}


def test_what_would_not_fit_into_a_window_fails_for_the_message() -> None:
    made = plan("last(v) AS v", "k")
    with pytest.raises(EvaluationError, match=r"first\(\) and last\(\) keep values of at most"):
        made.entry(event({"k": 1, "v": "x" * VALUE_BYTES_MAX}))
    with pytest.raises(EvaluationError, match="keys of GROUP BY have more than"):
        made.entry(event({"k": "x" * 2_000}))
    with pytest.raises(EvaluationError, match="a key of GROUP BY is an Array or Object"):
        made.entry(event({"k": {"a": 1}}))
    counted = plan("count(v) AS n", "k").entry(event({"k": 1, "v": "x" * VALUE_BYTES_MAX}))
    assert counted is not None
    assert counted.values == (True,)  # what is only counted is not kept


def test_lateness_is_a_minute_or_the_size_unless_the_statement_says_otherwise() -> None:
    assert plan("count(*)", window="'10 seconds'").late_ms == 10_000
    assert plan("count(*)", window="'5 minutes', 'at'").late_ms == 60_000
    assert plan("count(*)", window="'5 minutes', 'at', '1 hour'").late_ms == HOUR


def test_another_statement_or_version_has_another_identity() -> None:
    plans = [plan("count(*)"), plan("count(*) AS n"), plan("count(*)", version=SqlVersion.V2015)]
    assert len({made.identity for made in plans}) == 3
    assert plan("count(*)").identity == plans[0].identity
