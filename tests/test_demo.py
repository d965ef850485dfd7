"""`tidegate demo` shows what it says, on the real thing: one run with everything it promises."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

pytestmark = pytest.mark.processes

LOOK = r"^  tidegate ((?:edge|cloud|tables|streams|alerts|functions) .*)$"
FACTS = [
    *("published", "acked", "stored", "lost", "duplicates", "link_cuts", "edge_kills", "alerts"),
    *("alarms", "alarms_wrong"),
    *("raw_bytes_per_message", "uplink_bytes_per_message", "seconds"),
]


def _tidegate(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tidegate.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_demo_loses_and_doubles_nothing_and_leaves_a_site_to_look_around_in(tmp_path: Path) -> None:
    site = tmp_path / "site"
    ended = _tidegate("demo", "--json", "--keep", "--dir", str(site))
    stop = re.search(r"kill (\d+) (\d+)", ended.stderr)
    assert stop is not None, ended.stderr
    try:
        assert ended.returncode == 0, ended.stderr
        report = orjson.loads(ended.stdout)
        assert list(report) == FACTS
        assert report["published"] == report["acked"] == report["stored"] == 29_962
        assert (report["lost"], report["duplicates"]) == (0, 0)
        assert (report["link_cuts"], report["edge_kills"], report["alerts"]) == (2, 1, 40)
        assert (report["alarms"], report["alarms_wrong"]) == (40, 0)
        assert report["uplink_bytes_per_message"] * 6 <= report["raw_bytes_per_message"]
        assert str(site) in ended.stderr
        for line in re.findall(LOOK, ended.stderr, re.MULTILINE):
            looked = _tidegate(*line.split())
            assert looked.returncode == 0, (line, looked.stderr)
            assert looked.stdout.strip()
    finally:
        for pid in stop.groups():
            os.kill(int(pid), signal.SIGTERM)


def test_the_demo_does_not_write_into_a_directory_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    ended = _tidegate("demo", "--dir", str(tmp_path))
    assert ended.returncode == 1
    assert "is not empty" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
