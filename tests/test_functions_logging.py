"""`tidegate functions logs`: the newest lines, since when, of which request, and what comes; safe for a terminal."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from functions.config import LOGS
from tests.functions_command import Box, function

ROOT = Path(__file__).parent.parent
FIRST, SECOND = "11111111-0000-4000-8000-000000000000", "22222222-0000-4000-8000-000000000000"


def line(at: str, message: str, request: str = FIRST, **more: str) -> str:
    written = {"time": at, "requestId": request, "stream": "stdout", "message": message, "version": "1"}
    return json.dumps(written | more) + "\n"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    made = Box.make(tmp_path)
    directory = made.path / "data" / LOGS
    directory.mkdir(parents=True)
    (directory / "press.1.jsonl").write_text(line("2026-05-09T07:00:00.000Z", "older"))
    (directory / "press.jsonl").write_text(
        line("2026-05-09T07:29:33.186Z", "START", stream="platform")
        + line("2026-05-09T07:29:33.187Z", "hot", level="ERROR")
        + line("2026-05-09T07:30:00.000Z", "\x1b[31mred", SECOND)
    )
    return made


def messages(printed: str) -> list[str]:
    return [words.split(" ", 2)[2] for words in printed.splitlines()]


def test_lines_of_both_files_come_oldest_first_with_time_and_request(box: Box) -> None:
    printed = box.ok("logs", "press")
    assert printed.splitlines()[0] == "2026-05-09T07:00:00.000Z 11111111 older"
    assert messages(printed) == ["older", "START", "hot", "\\x1b[31mred"]


def test_a_traceback_is_indented_as_python_does_it(box: Box) -> None:
    text = '[ERROR] ValueError: bad\rTraceback (most recent call last):\r\u00a0\u00a0File "app.py", line 1'
    (box.path / "data" / LOGS / "press.jsonl").write_text(line("2026-05-09T07:30:00.000Z", text))
    assert messages(box.ok("logs", "press", "-n", 1)) == [
        "[ERROR] ValueError: bad", "Traceback (most recent call last):", '  File "app.py", line 1',
    ]  # fmt: skip


def test_the_newest_lines_are_shown_and_not_all(box: Box) -> None:
    assert messages(box.ok("logs", "press", "-n", 2)) == ["hot", "\\x1b[31mred"]


@pytest.mark.parametrize("since", ["2026-05-09T07:29:33.187Z", "2026-05-09T09:29:33.187+02:00"])
def test_lines_since_a_time_are_shown(box: Box, since: str) -> None:
    assert messages(box.ok("logs", "press", "--since", since)) == ["hot", "\\x1b[31mred"]


def test_lines_of_the_last_minutes_are_shown(box: Box) -> None:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() - 300))
    with (box.path / "data" / LOGS / "press.jsonl").open("a") as file:
        file.write(line(stamp, "just now"))
    assert messages(box.ok("logs", "press", "--since", "10m")) == ["just now"]
    assert messages(box.ok("logs", "press", "--since", "2m")) == []
    assert "write 10m, 2h, 3d" in box.fails("logs", "press", "--since", "yesterday", code=2)


def test_lines_of_one_request_are_shown(box: Box) -> None:
    assert messages(box.ok("logs", "press", "--request", SECOND[:8])) == ["\\x1b[31mred"]


def test_lines_of_one_version_are_shown_by_its_number_or_its_alias(box: Box) -> None:
    template = box.template({"press": function(AutoPublishAlias="live")})
    box.ok("deploy", template)
    box.ok("deploy", template)
    with (box.path / "data" / LOGS / "press.jsonl").open("a") as file:
        file.write(line("2026-05-09T07:31:00.000Z", "of the second", SECOND, version="2"))
    assert messages(box.ok("logs", "press:2")) == messages(box.ok("logs", "press:live")) == ["of the second"]
    assert messages(box.ok("logs", "press:1")) == ["older", "START", "hot", "\\x1b[31mred"]
    assert len(messages(box.ok("logs", "press"))) == 5
    assert "Function not found" in box.fails("logs", "press:nobody")


def test_as_json_lines_are_as_they_were_written(box: Box) -> None:
    written = (box.path / "data" / LOGS / "press.jsonl").read_text().splitlines()
    assert [json.loads(each) for each in box.ok("logs", "press", "--json", "-n", 3).splitlines()] == [
        json.loads(each) for each in written
    ]


def test_a_function_that_wrote_nothing_and_one_that_is_not_there_are_told_apart(box: Box) -> None:
    box.ok("deploy", box.template({"quiet": function()}))
    assert box.ok("logs", "quiet") == ""
    assert "Function not found" in box.fails("logs", "nobody")


def test_what_comes_is_followed_and_nothing_is_shown_twice(box: Box) -> None:
    command = [sys.executable, "-m", "tidegate.main", "functions", "logs", "press", "-f", "-n", "1"]
    command += ["--config", str(box.path / "edge.toml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        late = threading.Timer(30, process.kill)  # so that a reader who waits in vain is told
        late.start()
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "2026-05-09T07:30:00.000Z 22222222 \\x1b[31mred\n"
            with (box.path / "data" / LOGS / "press.jsonl").open("a") as file:
                file.write(line("2026-05-09T07:30:00.000Z", "next", SECOND))
            assert process.stdout.readline() == "2026-05-09T07:30:00.000Z 22222222 next\n"
        finally:
            late.cancel()
            process.terminate()
