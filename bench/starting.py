"""What a worker costs: the time from a request to the result of a worker that has to be started, and its memory.

Requests come over HTTP, by Lambda's own Invoke, one at a time, and each finds no worker: the edge keeps idle ones for
`IDLE` only, and the next request waits until the last is gone. Files are in the page cache, as they are on a box whose
functions are in use.
"""

import http.client
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import peers, processes
from bench.asking import client
from bench.handlers import ALARM, IMPORTS, STARTING, TELEMETRY, Handler
from bench.load import HOST, LoadFailed
from bench.peers import Peer
from bench.processes import Own
from bench.turns import scratch
from tidegate.processes import free_port

IDLE = "50ms"
SETTLE_SECONDS = 1.0  # after the first CONNACK a daemon may still be at its start
END_SECONDS = 10.0
POLL_SECONDS = 0.02
WARM = 500  # events after which a worker's memory is looked at
EVENT = b'{"temperature": 73.96732207, "reading": 1, "time": "2013-12-02T21:15:00", "machine": "m0"}'
RESULT = b'{"value": "73.96732207"}'
INVOKE = "/2015-03-31/functions/{}/invocations"


@dataclass(frozen=True, slots=True)
class Start:
    """So many starts in one way; milliseconds."""

    way: str
    starts: int
    p50: float
    most: float


@dataclass(frozen=True, slots=True)
class Cost:
    """Memory of a warm worker: `own` is the process, `around` what keeps it in its sandbox."""

    handler: str
    own: Own
    around: Own
    launcher: Own


def starts(functions: Path, python: str, count: int, base: Path) -> list[Start]:
    """Cold starts in and without the sandbox, and of a bare Python. Raises LoadFailed."""
    found = [_start("in the sandbox, the first of a daemon", [_first(functions, base) for _ in range(count // 4 + 1)])]
    for way, sandbox in (("in the sandbox", "default"), ('sandbox = "off"', "off")):
        with _edge(functions, base, f'sandbox = "{sandbox}"\nidle = "{IDLE}"') as (peer, http_port):
            found.append(_start(way, [_cold(peer, http_port) for _ in range(count)]))
    bare = (f"import {IMPORTS}", "pass")
    return found + [_start(f'python3 -c "{code}"', [_bare(python, code) for _ in range(count)]) for code in bare]


def costs(functions: Path, handlers: list[Handler], base: Path) -> list[Cost]:
    """Each handler's worker after `WARM` events. Raises PermissionError unless we are root."""
    found = []
    for handler in handlers:
        with _edge(functions, base) as (peer, http_port):
            _warm(peer, http_port, handler)
            *around, worker = map(processes.own, processes.sandboxed(peer.pid))
            launcher = processes.own(processes.launcher(peer.pid))
            found.append(Cost(handler.name, worker, sum(around, Own(0, 0)), launcher))
    return found


def bare_cost(python: str) -> Own:
    """The memory of a Python that has imported what the handler imports, and waits."""
    with _waiting(python, f"import {IMPORTS}") as process:
        return processes.own(process.pid)


@contextmanager
def _edge(functions: Path, base: Path, options: str = "") -> Iterator[tuple[Peer, int]]:
    """An edge, and where it answers HTTP."""
    port = free_port()
    tables = f'{peers.functions(functions, options)}\n[http]\naddress = "{HOST}:{port}"\nanonymous = true\n'
    with scratch(base) as name, peers.edge(Path(name), tables=tables) as peer:
        yield peer, port


def _start(way: str, seconds: list[float]) -> Start:
    return Start(way, len(seconds), statistics.median(seconds) * 1e3, max(seconds) * 1e3)


def _first(functions: Path, base: Path) -> float:
    """The first request of a daemon that has just started; seconds."""
    with _edge(functions, base) as (_, http_port):
        time.sleep(SETTLE_SECONDS)
        return _invoke(http_port)


def _cold(peer: Peer, http_port: int) -> float:
    """One request that has to wait for a start; seconds."""
    end = time.perf_counter() + END_SECONDS
    while any(pool["workers"] for pool in peer.ask("functions-status")["functions"]):
        if time.perf_counter() > end:
            raise LoadFailed(f"an idle worker has not ended within {END_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)
    return _invoke(http_port)


def _invoke(http_port: int) -> float:
    connection = http.client.HTTPConnection(HOST, http_port)
    connection.connect()
    began = time.perf_counter()
    connection.request("POST", INVOKE.format(STARTING.name), EVENT)
    response = connection.getresponse()
    said = response.read()
    took = time.perf_counter() - began
    connection.close()
    if (response.status, said) != (200, RESULT):
        raise LoadFailed(f"the result is wrong: {response.status}, {said!r}")
    return took


def _bare(python: str, code: str) -> float:
    started = time.perf_counter()
    subprocess.run([python, "-c", code], check=True)
    return time.perf_counter() - started


def _warm(peer: Peer, http_port: int, handler: Handler) -> None:
    """Give one handler events, by the way by which it has them."""
    if not handler.hears:
        for _ in range(WARM):
            _invoke(http_port)
        return
    with client(peer.port, ALARM.format(handler.name)) as asking:
        for _ in range(WARM):
            asking.ask(TELEMETRY.format(handler.name), EVENT)


@contextmanager
def _waiting(python: str, code: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [python, "-c", f"{code}\nprint(flush=True)\ninput()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.stdin.write(b"\n")
