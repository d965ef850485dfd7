"""The logs of functions on disk: bounded, readable after any end, and followed across rotation."""

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from core.telemetry import Counters
from functions import logs
from functions.errors import FunctionNotFound
from functions.logs import BURST_BYTES, LINE_BYTES_MAX, PLATFORM_BURST_BYTES, Logs, read

MB = 1 << 20


def messages(directory: Path, name: str = "alarm", **options: Any) -> list[str]:
    return [line["message"] for line in read(directory, name, **options)]


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        await asyncio.sleep(0.01)


async def test_a_line_says_when_for_what_and_how_bad(tmp_path: Path) -> None:
    kept = Logs(tmp_path, MB, Counters())
    kept.of("alarm").write("5f0c", "stdout", b"[ERROR]\tno pressure", "7")
    await kept.close()
    (line,) = read(tmp_path, "alarm")
    assert {**line, "time": ""} == {
        "time": "", "requestId": "5f0c", "stream": "stdout", "level": "ERROR", "message": "[ERROR]\tno pressure",
        "version": "7",
    }  # fmt: skip
    assert abs(time.time() - time.mktime(time.strptime(line["time"][:19], "%Y-%m-%dT%H:%M:%S")) + time.timezone) < 60


@pytest.mark.parametrize(
    ("message", "level"),
    [
        (b"[INFO]\t2026-05-09T07:29:33.186Z\t5f0c\tstarted", "INFO"),  # Python's logging, as Lambda sets it up
        (b"2026-05-09T07:29:33.186Z\t5f0c\tWARN\tlow", "WARN"),  # Node's console
        (b'{"level":"ERROR","location":"handler:7","message":"x"}', "ERROR"),  # Powertools
        (b'{"level": "DEBUG", "message":"x"}', "DEBUG"),
        (b"WARNING: low", "WARNING"),
        (b"INFORMATION", None),
        (b"an ERROR", None),
        (b"", None),
    ],
)
async def test_a_level_is_read_where_it_is_written(tmp_path: Path, message: bytes, level: str | None) -> None:
    kept = Logs(tmp_path, MB, Counters())
    kept.of("alarm").write("", "stdout", message, "7")
    await kept.close()
    (line,) = read(tmp_path, "alarm")
    assert line.get("level") == level


async def test_bytes_that_are_no_text_are_kept_as_far_as_they_can_be(tmp_path: Path) -> None:
    kept = Logs(tmp_path, MB, Counters())
    for message in (b"\xff\xfe\x00", b"\x1b[31mred\r\x07", "grün".encode(), b"\xed\xa0\x80"):
        kept.of("alarm").write("", "stderr", message, "7")
    await kept.close()
    assert messages(tmp_path) == ["��\x00", "\x1b[31mred\r\x07", "grün", "���"]
    assert (tmp_path / "alarm.jsonl").read_bytes().count(b"\n") == 4


async def test_lines_of_many_events_are_one_write_away_from_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    original = Logs._write

    def noted(self: Logs, pieces: dict[str, bytes]) -> None:
        threads.append(threading.current_thread().name)
        original(self, pieces)

    monkeypatch.setattr(Logs, "_write", noted)
    kept = Logs(tmp_path, MB, Counters())
    for number in range(500):
        kept.of("alarm").write("", "stdout", b"%d" % number, "7")
    await until(lambda: threads)
    await kept.close()
    assert messages(tmp_path) == [str(number) for number in range(500)]
    assert len(threads) == 1
    assert threads[0] != threading.main_thread().name


def size_of(directory: Path) -> int:
    total = 0
    for path in directory.iterdir():
        with suppress(FileNotFoundError):  # renamed at this moment
            total += path.stat().st_size
    return total


async def test_two_files_together_keep_to_their_bound_and_hold_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "BURST_BYTES", 100 * MB)
    monkeypatch.setattr(logs, "FLUSH_SECONDS", 0.0)
    kept = Logs(tmp_path, MB, Counters())
    alarm = kept.of("alarm")
    for number in range(4_000):
        alarm.write("", "stdout", b"%06d" % number + b"x" * 1_000, "7")
        if number % 50 == 0:
            await asyncio.sleep(0)
            assert size_of(tmp_path) <= MB
    await kept.close()
    assert sorted(os.listdir(tmp_path)) == ["alarm.1.jsonl", "alarm.jsonl"]
    assert size_of(tmp_path) <= MB
    numbers = [int(message[:6]) for message in messages(tmp_path)]
    assert numbers[-1] == 3_999
    assert len(numbers) > 400
    assert all(b == a + 1 for a, b in pairwise(numbers))


async def test_a_flood_is_cut_off_counted_and_told_of(tmp_path: Path) -> None:
    counters = Counters()
    kept = Logs(tmp_path, 8 * MB, counters)
    alarm = kept.of("alarm")
    for _ in range(20_000):
        alarm.write("", "stdout", b"x" * 200, "7")
    alarm.drop(7, 7_000)
    assert kept.pending <= BURST_BYTES + LINE_BYTES_MAX
    await until(lambda: counters.value("function_log_lines_dropped_total"))
    await kept.close()
    lines = messages(tmp_path)
    kept_lines = sum(line.startswith("xxx") for line in lines)
    assert kept_lines + counters.value("function_log_lines_dropped_total") == 20_007
    assert any("lines" in line and "were not kept" in line for line in lines)


async def test_a_flood_does_not_hide_the_platforms_lines_which_have_a_bound_of_their_own(tmp_path: Path) -> None:
    kept = Logs(tmp_path, 8 * MB, Counters())
    alarm = kept.of("alarm")
    for _ in range(20_000):
        alarm.write("", "stdout", b"x" * 200, "7")
    for number in range(30):
        alarm.write("5f0c", "platform", b"REPORT %d" % number, "7")
    for _ in range(20_000):
        alarm.write("5f0c", "platform", b"y" * 200, "7")
    assert kept.pending <= BURST_BYTES + PLATFORM_BURST_BYTES + 2 * LINE_BYTES_MAX
    await kept.close()
    reports = [line for line in messages(tmp_path) if line.startswith("REPORT ")]
    assert reports == [f"REPORT {number}" for number in range(30)]


async def test_a_quiet_time_gives_room_again(tmp_path: Path) -> None:
    alarm = Logs(tmp_path, 8 * MB, Counters()).of("alarm")
    while alarm.has_room():
        alarm.write("", "stdout", b"x" * 60_000, "7")
    await until(alarm.has_room)


async def test_a_function_that_floods_leaves_room_for_others(tmp_path: Path) -> None:
    kept = Logs(tmp_path, 8 * MB, Counters())
    for _ in range(20_000):
        kept.of("loud").write("", "stdout", b"x" * 200, "7")
    kept.of("quiet").write("", "stdout", b"here", "7")
    await kept.close()
    assert messages(tmp_path, "quiet") == ["here"]


async def test_while_the_disk_takes_nothing_memory_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "BURST_BYTES", 100 * MB)
    gate = threading.Event()
    original = Logs._write

    def slow(self: Logs, pieces: dict[str, bytes]) -> None:
        assert gate.wait(20)
        original(self, pieces)

    monkeypatch.setattr(Logs, "_write", slow)
    kept = Logs(tmp_path, 64 * MB, Counters())
    alarm = kept.of("alarm")
    for _ in range(3):
        for _ in range(1_000):
            alarm.write("", "stdout", b"x" * 10_000, "7")
        assert kept.pending <= logs.PENDING_BYTES_MAX + LINE_BYTES_MAX
        await asyncio.sleep(logs.FLUSH_SECONDS)
    gate.set()
    await kept.close()
    assert messages(tmp_path)


async def test_a_disk_that_refuses_costs_the_lines_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "logs"
    path.write_text("in the way")
    kept = Logs(path, MB, Counters())
    kept.of("alarm").write("", "stdout", b"lost", "7")
    await until(lambda: kept.pending == 0)
    await asyncio.sleep(0)
    path.unlink()
    kept.of("alarm").write("", "stdout", b"kept", "7")
    await kept.close()
    assert messages(path)[-1] == "kept"


async def test_half_a_line_that_a_power_cut_left_costs_only_itself(tmp_path: Path) -> None:
    (tmp_path / "alarm.jsonl").write_bytes(b'{"time":"2026-01-01T00:00:00.000Z","message":"whole"}\n{"time":"20')
    kept = Logs(tmp_path, MB, Counters())
    kept.of("alarm").write("", "stdout", b"next", "7")
    await kept.close()
    assert messages(tmp_path) == ["whole", "next"]


async def test_a_run_goes_on_in_the_file_of_the_last(tmp_path: Path) -> None:
    for text in (b"one", b"two"):
        kept = Logs(tmp_path, MB, Counters())
        kept.of("alarm").write("", "stdout", text, "7")
        await kept.close()
    assert messages(tmp_path) == ["one", "two"]
    assert b"\n\n" not in (tmp_path / "alarm.jsonl").read_bytes()


async def test_others_cannot_read_what_functions_write(tmp_path: Path) -> None:
    kept = Logs(tmp_path / "logs", MB, Counters())
    kept.of("alarm").write("", "stdout", b"secret", "7")
    await kept.close()
    assert (tmp_path / "logs").stat().st_mode & 0o007 == 0
    assert (tmp_path / "logs" / "alarm.jsonl").stat().st_mode & 0o007 == 0


def written(*lines: dict[str, str]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def test_lines_are_chosen_by_time_and_by_request(tmp_path: Path) -> None:
    (tmp_path / "alarm.1.jsonl").write_bytes(
        written({"time": "2026-01-01T00:00:00.000Z", "requestId": "aa-1", "message": "old"})
    )
    (tmp_path / "alarm.jsonl").write_bytes(
        written(
            {"time": "2026-01-01T00:00:10.000Z", "requestId": "aa-2", "message": "new"},
            {"time": "2026-01-01T00:00:11.000Z", "requestId": "bb-1", "message": "other"},
        )
        + b"no json\n[1]\n"
    )
    assert messages(tmp_path) == ["old", "new", "other"]
    assert messages(tmp_path, since=1_767_225_605.0) == ["new", "other"]
    assert messages(tmp_path, request_id="aa") == ["old", "new"]
    assert messages(tmp_path, request_id="bb-1") == ["other"]


@pytest.mark.parametrize("name", ["never-ran", "../alarm", "", "a/b", "alarm.1"])
def test_a_function_that_never_logged_is_said_to_be_unknown(tmp_path: Path, name: str) -> None:
    (tmp_path / "alarm.jsonl").write_bytes(written({"time": "2026", "message": "x"}))
    with pytest.raises(FunctionNotFound):
        list(read(tmp_path / "logs" if "/" in name else tmp_path, name))


def test_a_log_is_followed_from_before_it_is_there_across_rotations(tmp_path: Path) -> None:
    path, older = tmp_path / "alarm.jsonl", tmp_path / "alarm.1.jsonl"
    heard: list[str] = []
    enough = threading.Event()

    def listen() -> None:
        for line in read(tmp_path, "alarm", follow=True):
            heard.append(line["message"])
            if len(heard) == 40:
                break
        enough.set()

    reader = threading.Thread(target=listen)
    reader.start()
    for number in range(40):
        if number % 10 == 9:
            os.replace(path, older)
        half = written({"time": "2026", "message": str(number)})
        with path.open("ab") as file:
            file.write(half[:7])
            file.flush()
            file.write(half[7:])
        deadline = time.monotonic() + 20  # a reader may miss a whole file only when two rotations fall between looks
        while number % 10 == 8 and len(heard) <= number:
            assert time.monotonic() < deadline, heard
            time.sleep(0.005)
    assert enough.wait(20)
    reader.join()
    assert heard == [str(number) for number in range(40)]


async def test_the_files_of_a_removed_function_go(tmp_path: Path) -> None:
    kept = Logs(tmp_path, MB, Counters())
    kept.of("alarm").write("", "stdout", b"x", "7")
    await kept.close()
    kept.remove("alarm")
    assert os.listdir(tmp_path) == []
