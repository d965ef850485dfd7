"""What a worker writes, as lines of the event that it has in hand, and Lambda's lines around."""

import re
from pathlib import Path

import pytest

from core.telemetry import Counters
from functions.logs import LINE_BYTES_MAX, TAIL_BYTES, Logs, read
from functions.workers.transcript import Transcript, unbegun

MB = 1 << 20

REPORT = (
    "REPORT RequestId: 5f0c\tDuration: 1.23 ms\tBilled Duration: 2 ms\tMemory Size: 128 MB\tMax Memory Used: 14 MB\t"
    "Init Duration: 34.56 ms"
)


class Kept:
    """A transcript over a real log."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.counters = Counters()
        self.logs = Logs(directory, 16 * MB, self.counters)
        self.transcript = Transcript(self.logs.of("alarm"), "7", 128)

    async def lines(self) -> list[tuple[str, str, str]]:
        self.transcript.close()
        await self.logs.close()
        return [(line["requestId"], line["stream"], line["message"]) for line in read(self.directory, "alarm")]


@pytest.fixture
async def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


async def test_an_event_that_wrote_something_stands_between_its_lines(kept: Kept) -> None:
    kept.transcript.begin("5f0c", wants_tail=False)
    kept.transcript.said("stdout", b"hel")
    kept.transcript.said("stderr", b"other\n")
    kept.transcript.said("stdout", b"lo\r\nwor")
    kept.transcript.said("stdout", b"ld")
    assert kept.transcript.is_worth_a_report(0.001, remarkable=False, now=100.0)
    kept.transcript.report(0.00123, 0.03456, 14 * MB)
    assert await kept.lines() == [
        ("5f0c", "platform", "START RequestId: 5f0c Version: 7"),
        ("5f0c", "stderr", "other"),
        ("5f0c", "stdout", "hello"),
        ("5f0c", "stdout", "world"),
        ("5f0c", "platform", "END RequestId: 5f0c"),
        ("5f0c", "platform", REPORT),
    ]


async def test_of_events_that_did_nothing_remarkable_one_each_second_is_told(kept: Kept) -> None:
    told = 0
    for number in range(1_000):  # in two seconds
        kept.transcript.begin(str(number), wants_tail=False)
        if kept.transcript.is_worth_a_report(0.001, remarkable=False, now=100.0 + number / 500):
            kept.transcript.report(0.001, 0, 0)
            told += 1
        else:
            kept.transcript.end()
    assert told == 2
    assert len(await kept.lines()) == 6


@pytest.mark.parametrize(("seconds", "remarkable"), [(1.5, False), (0.001, True)])
async def test_a_slow_or_failed_event_is_always_told(kept: Kept, seconds: float, *, remarkable: bool) -> None:
    for number in range(3):
        kept.transcript.begin(str(number), wants_tail=False)
        assert kept.transcript.is_worth_a_report(seconds, remarkable=remarkable, now=100.0)
        kept.transcript.report(seconds, 0, 0, "error")
    lines = [line for line in await kept.lines() if line[2].startswith("REPORT")]
    assert len(lines) == 3
    assert all(line[2].endswith("\tStatus: error") for line in lines)


async def test_what_is_written_between_events_belongs_to_none(kept: Kept) -> None:
    kept.transcript.said("stdout", b"loading\nhalf")
    kept.transcript.begin("1", wants_tail=False)
    kept.transcript.said("stdout", b"mine\n")
    kept.transcript.report(0.1, 0, 0)
    kept.transcript.said("stdout", b"background\n")
    lines = [line for line in await kept.lines() if line[1] == "stdout"]
    assert lines == [("", "stdout", "loading"), ("", "stdout", "half"), ("1", "stdout", "mine"),
                     ("", "stdout", "background")]  # fmt: skip


async def test_a_tail_is_the_log_of_the_event_and_nothing_else(kept: Kept) -> None:
    kept.transcript.begin("1", wants_tail=False)
    kept.transcript.said("stdout", b"before\n")
    kept.transcript.report(0.1, 0, 0)
    kept.transcript.begin("2", wants_tail=True)
    kept.transcript.said("stderr", b"mine\nhalf")
    tail = kept.transcript.report(0.1, 0, 0).decode()
    assert re.fullmatch(
        r"START RequestId: 2 Version: 7\nmine\nhalf\nEND RequestId: 2\nREPORT RequestId: 2\t[^\n]*\n", tail
    )
    kept.transcript.begin("3", wants_tail=False)
    assert kept.transcript.report(0.1, 0, 0) == b""


async def test_a_tail_of_much_is_its_end(kept: Kept) -> None:
    kept.transcript.begin("1", wants_tail=True)
    for number in range(10_000):
        kept.transcript.said("stdout", b"%d\n" % number)
    kept.transcript.said("stdout", b"z" * 2_000_000)
    tail = kept.transcript.report(0.1, 0, 0)
    assert len(tail) == TAIL_BYTES
    assert b"zzz\nEND RequestId: 1\nREPORT" in tail


async def test_a_quiet_event_has_a_tail_too(kept: Kept) -> None:
    kept.transcript.begin("1", wants_tail=True)
    assert kept.transcript.is_worth_a_report(0.0001, remarkable=False, now=0.0)
    tail = kept.transcript.report(0.0001, 0, 0)
    assert tail.startswith(b"START RequestId: 1 Version: 7\nEND RequestId: 1\nREPORT RequestId: 1\t")


async def test_a_line_that_never_ends_is_cut(kept: Kept) -> None:
    kept.transcript.begin("1", wants_tail=False)
    for _ in range(10):
        kept.transcript.said("stdout", b"x" * 20_000)
    kept.transcript.report(0.1, 0, 0)
    lines = [line[2] for line in await kept.lines() if line[1] == "stdout"]
    assert "".join(lines) == "x" * 200_000
    assert max(map(len, lines)) == LINE_BYTES_MAX


async def test_a_flood_of_lines_is_counted_and_not_looked_at(kept: Kept) -> None:
    kept.transcript.begin("1", wants_tail=False)
    said = b"\n" * 1_000_000 + b"the end"
    kept.transcript.said("stdout", said)
    kept.transcript.said("stdout", b" of it\n")
    lines = await kept.lines()
    written = sum(line[1] == "stdout" for line in lines)
    assert written < 10_000
    assert written + kept.counters.value("function_log_lines_dropped_total") == 1_000_001


async def test_why_a_handler_was_not_loaded_is_told_once_in_words(kept: Kept) -> None:
    error = b'{"errorType":"Runtime.ExitError","errorMessage":"Error: exit status 7"}'
    kept.transcript.said("stdout", b"half a line")
    kept.transcript.tell(error, 0.0123, was_said=False)
    kept.transcript.tell(error, 1.0, was_said=True)  # the runtime wrote it itself
    kept.transcript.tell(b'{"errorType":"Sandbox.Timedout","errorMessage":"Init timed out"}', 60.0, was_said=False)
    kept.transcript.tell(b"no JSON", 1.0, was_said=True)
    report = "INIT_REPORT Init Duration: {} ms\tPhase: init\tStatus: {}\tError Type: {}"
    lines = await kept.lines()
    assert {request for request, _, _ in lines} == {""}
    assert [message for _, _, message in lines] == [
        "half a line",
        "[ERROR] Runtime.ExitError: Error: exit status 7",
        report.format("12.30", "error", "Runtime.ExitError"),
        report.format("1000.00", "error", "Runtime.ExitError"),
        "[ERROR] Sandbox.Timedout: Init timed out",
        report.format("60000.00", "timeout", "Sandbox.Timedout"),
        report.format("1000.00", "error", "Runtime.Unknown"),
    ]


async def test_an_event_whose_handler_was_not_loaded_has_its_lines_and_the_error_once(kept: Kept) -> None:
    error = b'{"errorType":"Runtime.ImportModuleError","errorMessage":"no module"}'
    tail = unbegun(kept.logs.of("alarm"), "7", 128, "5f0c", error).decode()
    assert await kept.lines() == [("5f0c", "platform", line) for line in tail.splitlines()]
    start, told, end, report = tail.splitlines()
    assert (start, told, end) == ("START RequestId: 5f0c Version: 7", error.decode(), "END RequestId: 5f0c")
    assert report.startswith("REPORT RequestId: 5f0c\tDuration: 0.00 ms\t")
    assert report.endswith("\tStatus: error\tError Type: Runtime.ImportModuleError")
