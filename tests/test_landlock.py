"""Landlock alone, on a process that has nothing else around it."""

import json
import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from functions.worker import landlock

pytestmark = pytest.mark.skipif(landlock.version() < 1, reason="the kernel has no Landlock")
ROOT = Path(__file__).parent.parent
RESTRICTED = f"""
import ctypes, json, os, socket, subprocess, sys
sys.path.insert(0, {str(ROOT)!r})
from functions.worker import landlock
read, write, ports = json.loads(sys.argv[1])
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
why_not = landlock.restrict(read, write, ports)
def attempt(what, *arguments):
    try:
        what(*arguments)
    except OSError as error:
        return type(error).__name__
    return "ok"
print(json.dumps([why_not, eval(sys.argv[2])]))
"""


def told(read: list[str], write: list[str], code: str, ports: list[int] | None = None) -> object:
    command = [sys.executable, "-c", RESTRICTED, json.dumps([read, write, ports]), code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    why_not, result = json.loads(done.stdout)
    assert why_not == "", why_not
    return result


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("open", "shut", "own"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    return tmp_path


SYSTEM = ["/usr", "/lib", "/lib64", "/etc", "/proc", str(Path(os.path.realpath(sys.executable)).parent.parent)]
READ_ONLY = [*SYSTEM, *{sys.prefix, str(ROOT)}]


def test_what_is_not_named_cannot_be_read_or_written(tree: Path) -> None:
    code = f"""[attempt(open, f"{tree}/{{name}}/file", mode) for name in ("open", "shut", "own") for mode in "rw"]"""
    assert told([*READ_ONLY, f"{tree}/open"], [f"{tree}/own"], code) == [
        "ok", "PermissionError", "PermissionError", "PermissionError", "ok", "ok",
    ]  # fmt: skip
    assert (tree / "open" / "file").read_text() == "open"


def test_a_path_that_does_not_exist_is_left_out(tree: Path) -> None:
    code = f'attempt(open, "{tree}/open/file")'
    assert told([*READ_ONLY, f"{tree}/absent", f"{tree}/open/file"], [], code) == "ok"


def test_what_is_started_is_held_too(tree: Path) -> None:
    code = f"""subprocess.run(["/bin/cat", "{tree}/shut/file"], capture_output=True).returncode"""
    assert told(READ_ONLY, ["/dev/null"], code) == 1


@pytest.mark.skipif(landlock.version() < 4, reason="needs Linux 6.7")
def test_only_the_named_ports_can_be_connected_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        ports = [sock.getsockname()[1] for sock in (first, second)]
        code = f"""[attempt(socket.create_connection, ("127.0.0.1", port)) for port in {ports}]"""
        assert told(READ_ONLY, [], code, ports[:1]) == ["ok", "PermissionError"]
        assert told(READ_ONLY, [], code) == ["ok", "ok"]


@pytest.mark.skipif(landlock.version() < 6, reason="needs Linux 6.12")
def test_processes_and_abstract_sockets_outside_are_out_of_reach() -> None:
    name = uuid.uuid4().hex
    victim = subprocess.Popen(["sleep", "60"])
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"\0{name}")
            listening.listen()
            connect = f"attempt(socket.socket(socket.AF_UNIX).connect, chr(0) + {name!r})"
            assert told(READ_ONLY, [], f"[attempt(os.kill, {victim.pid}, 15), {connect}]") == ["PermissionError"] * 2
            assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()
