"""Counters keep their grammar and their bounds; log lines stay one line, readable, and few."""

import io
import logging
import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import telemetry
from core.telemetry import LINES_PER_MINUTE, Counters, RateLimit, configure_logging, get_logger


@pytest.fixture(autouse=True)
def _root_logger_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def lines() -> Callable[[], list[str]]:
    stream = io.StringIO()
    configure_logging("info", stream)
    return lambda: stream.getvalue().splitlines()


def test_a_snapshot_lists_every_series_sorted_with_its_labels() -> None:
    counters = Counters()
    counters.add("messages_received_total", 3, listener="127.0.0.1:1883")
    counters.add("messages_received_total", 2, listener="127.0.0.1:1883")
    counters.add("commits_total")
    counters.dropped("lane full", 7, lane="telemetry")
    assert list(counters.snapshot().items()) == [
        ("commits_total", 1),
        ('dropped_total{lane="telemetry",reason="lane full"}', 7),
        ('messages_received_total{listener="127.0.0.1:1883"}', 5),
    ]


def test_the_order_in_which_labels_are_given_makes_no_difference() -> None:
    counters = Counters()
    counters.add("x_total", a="1", b="2")
    counters.add("x_total", b="2", a="1")
    assert counters.snapshot() == {'x_total{a="1",b="2"}': 2}


def test_value_sums_the_series_that_carry_the_labels() -> None:
    counters = Counters()
    counters.dropped("lane full", 7, lane="a")
    counters.dropped("lane full", 1, lane="b")
    counters.dropped("too large", 4, lane="b")
    assert counters.value("dropped_total") == 12
    assert counters.value("dropped_total", reason="lane full") == 8
    assert counters.value("dropped_total", lane="c") == 0


@pytest.mark.parametrize("name", ["messages", "Messages_total", "messages-total", "1_total", "x y_total"])
def test_a_name_outside_the_grammar_is_refused(name: str) -> None:
    counters = Counters()
    with pytest.raises(ValueError, match="no counter's name"):
        counters.add(name)
    assert counters.snapshot() == {}


def test_a_counter_never_falls() -> None:
    counters = Counters()
    counters.add("x_total", 5)
    with pytest.raises(ValueError, match="never falls"):
        counters.add("x_total", -1)
    assert counters.snapshot() == {"x_total": 5}


def test_a_flood_of_labels_costs_bounded_memory_and_loses_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "SERIES_MAX", 10)
    counters = Counters()
    for number in range(1_000):
        counters.add("x_total", client=str(number))
    assert len(counters.snapshot()) == 11
    assert sum(counters.snapshot().values()) == 1_000
    assert counters.value("counters_refused_total") == 990


def test_a_line_has_time_level_event_and_facts(lines: Callable[[], list[str]]) -> None:
    get_logger("edge.uplink").info("connected", host="cloud", after_s=0.25, resumed=True, lane=None)
    stamp, rest = lines()[0].split(" ", 1)
    assert rest == "info connected host=cloud after_s=0.25 resumed=true lane=none part=edge.uplink"
    assert len(stamp) == len("2026-01-01T00:00:00.000Z")
    assert stamp.endswith("Z")


def test_a_level_below_the_configured_one_is_silent(lines: Callable[[], list[str]]) -> None:
    get_logger("x").debug("detail")
    assert lines() == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("two words", '"two words"'),
        ("", '""'),
        ('a"b', '"a\\"b"'),
        ("a=b", '"a=b"'),
        ("line\nbreak", '"line\\nbreak"'),
        ("\x1b[2J", '"\\u001b[2J"'),
        ("\x7f", '"\\u007f"'),
        ("Grüße", "Grüße"),
        (b"\xff/a", '"\\\\xff/a"'),
        ("x" * 600, "x" * 500 + "…"),
    ],
)
def test_values_are_quoted_when_they_must_be(
    value: object, shown: str, lines: Callable[[], list[str]]
) -> None:
    get_logger("x").info("event", value=value)
    assert lines()[0].endswith(f" event value={shown} part=x")


@given(st.text())
def test_no_value_starts_a_new_line_or_moves_the_cursor(value: str) -> None:
    stream = io.StringIO()
    configure_logging("info", stream)
    get_logger("x").info("event", value=value)
    assert stream.getvalue().endswith("\n")
    assert stream.getvalue()[:-1].isprintable()


def test_a_fault_carries_its_traceback_indented(lines: Callable[[], list[str]]) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 // 0
    get_logger("x").fault("broke", caught.value, where="here")
    first, *rest = lines()
    assert first.endswith(" error broke where=here part=x")
    assert all(line.startswith("    ") for line in rest)
    assert rest[-1] == "    ZeroDivisionError: integer division or modulo by zero"
    assert any("test_telemetry.py" in line for line in rest)


def test_lines_of_libraries_take_the_same_form(lines: Callable[[], list[str]]) -> None:
    logging.getLogger("asyncio").warning("socket.send() raised %s", "exception")
    assert lines()[0].endswith(" warning socket.send() raised exception part=asyncio")


def test_the_journal_gets_a_priority_on_every_line_and_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as journal, os.fdopen(writing, "w") as stream:
        status = os.fstat(writing)
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        configure_logging("info", stream)
        get_logger("x").warning("refused", client="c1")
        get_logger("x").fault("broke", RuntimeError("why"))
        stream.close()
        received = journal.read().splitlines()
    assert received[0] == "<4>warning refused client=c1 part=x"
    assert received[1:] == ["<3>error broke part=x", "<3>    RuntimeError: why"]


def test_a_stream_that_is_not_the_journal_keeps_its_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    stream = io.StringIO()
    configure_logging("info", stream)
    get_logger("x").info("event")
    assert not stream.getvalue().startswith("<")


def test_one_event_writes_a_bounded_number_of_lines_and_says_that_more_are_left_out(
    lines: Callable[[], list[str]],
) -> None:
    log = get_logger("x")
    for number in range(10_000):
        log.warning("client refused", client=number)
    log.warning("disk full")
    refused = [line for line in lines() if "client refused" in line]
    assert len(refused) == LINES_PER_MINUTE
    assert "further=suppressed" in refused[-1]
    assert "disk full" in lines()[-1]


def test_debug_lines_are_not_limited() -> None:
    stream = io.StringIO()
    configure_logging("debug", stream)
    for _ in range(100):
        get_logger("x").debug("step")
    assert len(stream.getvalue().splitlines()) == 100


def test_the_first_line_of_a_new_minute_says_how_many_were_suppressed() -> None:
    limit = RateLimit()
    admitted = [limit.admit("e", 100.0)[0] for _ in range(50)]
    assert admitted == [True] * LINES_PER_MINUTE + [False] * (50 - LINES_PER_MINUTE)
    assert limit.admit("e", 159.9) == (False, {})
    assert limit.admit("e", 160.0) == (True, {"suppressed": 51 - LINES_PER_MINUTE})
    assert limit.admit("e", 160.1) == (True, {})


def test_an_event_that_stayed_below_its_limit_suppressed_nothing() -> None:
    limit = RateLimit()
    assert limit.admit("e", 0.0) == (True, {})
    assert limit.admit("e", 1_000.0) == (True, {})


def test_the_limit_of_one_event_does_not_touch_another() -> None:
    limit = RateLimit()
    for _ in range(100):
        limit.admit("loud", 0.0)
    assert limit.admit("quiet", 0.0) == (True, {})


def test_a_flood_of_event_names_costs_bounded_memory() -> None:
    limit = RateLimit()
    for number in range(10 * telemetry.EVENTS_MAX):
        limit.admit(str(number), 0.0)
    assert len(limit._windows) <= telemetry.EVENTS_MAX
