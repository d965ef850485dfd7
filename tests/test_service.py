"""A daemon's life, seen from outside as systemd sees it: real processes, real signals, a real notify socket."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import service

ROOT = Path(__file__).parent.parent
PATIENCE_S = 20.0  # a bound for a machine under load; nothing here waits that long

PRELUDE = """
import asyncio, os, signal, sys, threading, time
from core.errors import ConfigurationError, TidegateError
from core.service import Life, run
"""
IDLE = """
async def serve(life):
    life.ready("waiting")
    await life.stop_requested()
sys.exit(run(serve))
"""


class Manager:
    """What systemd does for a service: gives it a socket to speak to, sends signals, takes its exit code."""

    def __init__(self, directory: Path) -> None:
        self.address = str(directory / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(PATIENCE_S)
        self.errors = directory / "stderr"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, script: str, **environment: str) -> None:
        address = environment.setdefault("NOTIFY_SOCKET", self.address)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        inherited = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        with self.errors.open("wb") as stderr:
            command = [sys.executable, "-c", PRELUDE + script]
            self.process = subprocess.Popen(command, stderr=stderr, env=inherited | environment, cwd=ROOT)

    def heard(self) -> dict[str, str]:
        """The next message of the service."""
        lines = self.socket.recv(4_096).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def heard_until_exit(self) -> list[dict[str, str]]:
        """Everything said that was not yet taken, once the process has ended."""
        self.exit_code()
        self.socket.settimeout(0)
        messages = []
        while True:
            try:
                messages.append(self.heard())
            except BlockingIOError:
                return messages

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def exit_code(self) -> int:
        assert self.process is not None
        return self.process.wait(PATIENCE_S)

    def said(self) -> str:
        """Standard error of the service so far."""
        return self.errors.read_text()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    if manager.process is not None and manager.process.poll() is None:
        manager.process.kill()
        manager.process.wait()
    manager.socket.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_says_when_it_is_ready_and_stops_when_asked(
    manager: Manager, number: signal.Signals
) -> None:
    manager.start(IDLE)
    assert manager.heard() == {"READY": "1", "STATUS": "waiting"}
    manager.signal(number)
    assert manager.heard() == {"STOPPING": "1"}
    assert manager.exit_code() == 0
    assert manager.said() == ""


def test_an_abstract_socket_is_spoken_to(manager: Manager) -> None:
    manager.start(IDLE, NOTIFY_SOCKET=f"@tidegate-test-{os.getpid()}")
    assert manager.heard()["READY"] == "1"


def test_a_daemon_runs_without_a_service_manager() -> None:
    script = PRELUDE + "async def serve(life): life.ready('up')\nsys.exit(run(serve))"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_service_manager_that_went_away_does_not_end_the_daemon(manager: Manager) -> None:
    manager.start(IDLE)
    manager.heard()
    Path(manager.address).unlink()
    manager.signal(signal.SIGTERM)
    assert manager.exit_code() == 0
    assert "the service manager does not listen" in manager.said()


def test_children_do_not_inherit_the_right_to_speak_for_the_daemon(manager: Manager) -> None:
    manager.start("""
async def serve(life):
    child = await asyncio.create_subprocess_exec("env", stdout=-1)
    output, _ = await child.communicate()
    life.status(repr([line for line in output.split() if b"NOTIFY" in line or b"WATCHDOG" in line]))
sys.exit(run(serve))
""", WATCHDOG_USEC="60000000")
    assert {"STATUS": "[]"} in manager.heard_until_exit()


def test_a_reload_is_announced_before_and_ended_after_the_callbacks(manager: Manager) -> None:
    manager.start("""
async def serve(life):
    async def first(): life.status("first")
    async def second(): life.status("second")
    life.on_reload(first)
    life.on_reload(second)
    life.ready("waiting")
    await life.stop_requested()
sys.exit(run(serve))
""")
    manager.heard()
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    manager.signal(signal.SIGHUP)
    started = manager.heard()
    assert started["RELOADING"] == "1"
    assert before <= int(started["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert [manager.heard()["STATUS"] for _ in range(2)] == ["first", "second"]
    assert manager.heard() == {"READY": "1", "STATUS": "second"}


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ('ConfigurationError("rules.yaml", ["Overheat: bad", "Flood: bad"])', "rules.yaml: Overheat: bad"),
        ("ZeroDivisionError('oops')", "ZeroDivisionError('oops')"),
    ],
)
def test_a_reload_that_fails_is_shown_and_the_daemon_goes_on(manager: Manager, error: str, shown: str) -> None:
    manager.start(f"""
async def serve(life):
    errors = [{error}]
    async def reload():
        if errors: raise errors.pop()
    life.on_reload(reload)
    life.ready("waiting")
    await life.stop_requested()
sys.exit(run(serve))
""")
    manager.heard()
    manager.signal(signal.SIGHUP)
    manager.heard()
    assert manager.heard() == {"READY": "1", "STATUS": f"waiting; reload failed: {shown}"}
    manager.signal(signal.SIGHUP)
    manager.heard()
    assert manager.heard() == {"READY": "1", "STATUS": "waiting"}
    manager.signal(signal.SIGTERM)
    assert manager.exit_code() == 0
    assert "error reload failed" in manager.said()
    assert ("Traceback" in manager.said()) == ("ZeroDivisionError" in error)


def test_a_reload_that_comes_before_readiness_waits_for_it(manager: Manager) -> None:
    manager.start("""
async def serve(life):
    os.kill(os.getpid(), signal.SIGHUP)
    reloaded = asyncio.Event()
    async def reload(): reloaded.set()
    life.on_reload(reload)
    while not life._reload.is_set(): await asyncio.sleep(0)
    for _ in range(100): await asyncio.sleep(0)
    life.ready("waiting")
    await reloaded.wait()
sys.exit(run(serve))
""")
    assert [next(iter(message)) for message in manager.heard_until_exit()][:2] == ["READY", "RELOADING"]
    assert manager.exit_code() == 0


def test_the_watchdog_is_fed_only_while_every_watch_is_healthy(manager: Manager) -> None:
    manager.start("""
answers = [True, True, False, ZeroDivisionError(), True]
async def serve(life):
    def healthy():
        if not answers:
            life.request_stop()
            return False
        answer = answers.pop(0)
        if isinstance(answer, Exception): raise answer
        return answer
    life.watch("idle", lambda: True)
    life.watch("uplink", healthy)
    await life.stop_requested()
sys.exit(run(serve))
""", WATCHDOG_USEC="20000")
    messages = manager.heard_until_exit()
    assert manager.exit_code() == 0
    assert messages.count({"WATCHDOG": "1"}) == 3
    assert "not healthy, the watchdog will restart the daemon watches=uplink" in manager.said()


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_watchdog_is_fed_only_by_the_process_it_watches(
    environment: dict[str, str], seconds: float
) -> None:
    assert service._watchdog_interval(environment) == seconds


def test_a_configuration_error_exits_with_78_and_its_own_words(manager: Manager) -> None:
    manager.start("""
async def serve(life):
    raise ConfigurationError("edge.toml", ["edge.name: is missing", "edge.nam: unknown key"])
sys.exit(run(serve))
""")
    assert manager.exit_code() == 78
    assert manager.said() == "edge.toml: edge.name: is missing\nedge.toml: edge.nam: unknown key\n"


def test_a_task_that_fails_takes_the_daemon_down_with_a_line_of_log(manager: Manager) -> None:
    manager.start("""
async def uplink(): raise TidegateError("the disk is gone")
async def serve(life):
    async with asyncio.TaskGroup() as group:
        group.create_task(uplink())
        await life.stop_requested()
sys.exit(run(serve))
""")
    assert manager.exit_code() == 1
    assert 'error the daemon failed error="the disk is gone"' in manager.said()
    assert "Traceback" not in manager.said()


def test_a_fault_of_ours_takes_the_daemon_down_with_its_traceback(manager: Manager) -> None:
    manager.start("async def serve(life): {}['missing']\nsys.exit(run(serve))")
    assert manager.exit_code() == 1
    assert "error the daemon failed" in manager.said()
    assert "KeyError: 'missing'" in manager.said()


def test_a_callback_that_raises_is_logged_and_costs_nothing_else(manager: Manager) -> None:
    manager.start("""
async def serve(life):
    asyncio.get_running_loop().call_soon({}.__getitem__, "missing")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
sys.exit(run(serve))
""")
    assert manager.exit_code() == 0
    assert "nobody waited for this error" in manager.said()
    assert "KeyError: 'missing'" in manager.said()


@pytest.mark.parametrize(
    ("hang", "evidence"),
    [
        ("await asyncio.create_task(asyncio.Event().wait(), name='lazy task')", "lazy task"),
        ("time.sleep(600)", "in serve"),  # an event loop that is blocked
        ("threading.Thread(target=time.sleep, args=[600], name='lazy thread').start()", "lazy thread"),
    ],
)
def test_a_daemon_that_does_not_stop_is_ended_and_says_what_hung(
    manager: Manager, hang: str, evidence: str
) -> None:
    manager.start(f"""
async def serve(life):
    life.ready("waiting")
    await life.stop_requested()
    {hang}
sys.exit(run(serve, stop_limit_s=0.2))
""")
    manager.heard()
    manager.signal(signal.SIGTERM)
    assert manager.exit_code() == 1
    assert "error still running after the stop limit" in manager.said()
    assert evidence in manager.said()


def test_the_second_request_to_stop_ends_the_daemon_at_once(manager: Manager) -> None:
    manager.start("""
async def serve(life):
    life.ready("waiting")
    await life.stop_requested()
    await asyncio.Event().wait()
sys.exit(run(serve, stop_limit_s=600))
""")
    manager.heard()
    manager.signal(signal.SIGTERM)
    manager.heard()
    manager.signal(signal.SIGINT)
    assert manager.exit_code() == 1
    assert "asked twice to stop" in manager.said()


def test_a_hang_that_the_watchdog_ends_leaves_a_traceback(manager: Manager) -> None:
    manager.start("""
def stuck(life):
    life.ready("waiting")
    time.sleep(600)
async def serve(life): stuck(life)
sys.exit(run(serve))
""")
    manager.heard()
    manager.signal(signal.SIGABRT)  # WatchdogSignal= of systemd.service(5)
    assert manager.exit_code() == -signal.SIGABRT
    assert "in stuck" in manager.said()


@pytest.mark.parametrize(("level", "lines"), [("debug", 2), ("info", 1), ("error", 0)])
def test_the_log_level_chosen_before_the_start_stays(manager: Manager, level: str, lines: int) -> None:
    manager.start(f"""
from core.telemetry import configure_logging, get_logger
configure_logging("{level}")
async def serve(life):
    get_logger("x").debug("detail")
    get_logger("x").info("news")
sys.exit(run(serve))
""")
    assert manager.exit_code() == 0
    assert len([line for line in manager.said().splitlines() if "part=x" in line]) == lines


def test_what_every_daemon_imports_stays_lean() -> None:
    script = "import sys, core.config, core.service, core.telemetry, core.control, core.backoff; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"typer", "click", "rich", "structlog", "prometheus_client", "starlette", "boto3", "yaml"}


async def test_a_task_that_swallows_a_cancellation_is_ended_all_the_same() -> None:
    # Found by stopping an edge and its cloud in one moment: the uplink's task group failed and was cancelled together,
    # raised the failure only, and the uplink went on until the stop limit.
    fail = asyncio.Event()
    rounds = 0

    async def child() -> None:
        await fail.wait()
        raise ValueError

    async def stubborn() -> None:
        nonlocal rounds
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(child())
            except* ValueError:
                rounds += 1
                fail.clear()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(stubborn())
        await asyncio.sleep(0.01)
        fail.set()
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await service.end([task])
    assert task.cancelled()
    assert rounds == 1  # the first cancellation was indeed swallowed
