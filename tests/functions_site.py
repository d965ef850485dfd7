"""Functions made on the spot, and pools of them with real workers, for tests of their life."""

import asyncio
import itertools
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from socket import socket
from typing import Any

import orjson

from core.telemetry import Counters
from functions import logs
from functions.config import FunctionsSection
from functions.invocations import Ending, Invocation, Result
from functions.launcher.client import Launcher
from functions.logs import Logs
from functions.manifest import Manifest
from functions.names import FunctionName
from functions.packages.library import Package
from functions.workers.budget import Budget
from functions.workers.pool import Pool, PoolSurroundings

PYTHON = f"python3.{sys.version_info.minor}"

# A handler that does as it is told, and tells which process it is and how many events that has seen.
OBEDIENT = """
import os, signal, subprocess, sys, time

seen = 0
ballast = []

def handler(event, context):
    global seen
    seen += 1
    match event.get("do"):
        case "sleep":
            time.sleep(event["seconds"])
        case "raise":
            raise ValueError("told to")
        case "exit":
            os._exit(event["code"])
        case "sys.exit":
            sys.exit(event["code"])
        case "kill":
            os.kill(os.getpid(), getattr(signal, event["signal"]))
            time.sleep(30)
        case "print":
            print(event["text"])
        case "shout":
            for _ in range(event["times"]):
                print(event["text"], end="")
        case "shell":
            subprocess.run(event["command"], shell=True, check=False)
        case "close everything":
            os.closerange(3, 100)
            time.sleep(30)
        case "hold":
            ballast.append(bytearray(os.urandom(1 << 20)) * event["mb"])
        case "result":
            return "x" * event["size"]
    return {"n": event.get("n"), "seen": seen, "instance": context.log_stream_name}
"""


class Answers:
    """What came back, by request id; a `done` that is called twice is a failure at once."""

    def __init__(self) -> None:
        self.results: dict[str, Result] = {}

    def to(self, request_id: str) -> Callable[[Result], None]:
        def done(result: Result) -> None:
            assert request_id not in self.results, "done was called twice"
            self.results[request_id] = result

        return done


class Site:
    """Pools with a launcher, a budget, logs and counters of their own."""

    def __init__(
        self, directory: Path, launcher: Launcher, group: asyncio.TaskGroup, workers: int, idle: float
    ) -> None:
        self.directory = directory
        self.launcher = launcher
        self.counters = Counters()
        self.logs = Logs(directory / "logs", 4 << 20, self.counters)
        self.budget = Budget(workers)
        self.environment: dict[str, str] = {}
        self.failing: Exception | None = None
        self.refused = 0  # starts
        self.endpoints: list[tuple[Mapping[str, str], socket]] = []  # that are served now
        self.surroundings = PoolSurroundings(self._environment, self._serve, self.budget, self.logs, idle)
        self.answers = Answers()
        self.pools: list[Pool] = []
        self._group = group
        self._starts = itertools.count(1)

    def pool(self, source: str = OBEDIENT, name: str = "obedient", **options: Any) -> Pool:
        """The pool of a function of this source text, already running."""
        pool = Pool(package(self.directory, source, name, **options), self.launcher, self.surroundings, self.counters)
        self.pools.append(pool)
        self._group.create_task(pool.run())
        return pool

    def submit(self, pool: Pool, event: object, **options: bool) -> str:
        """Submit an event (bytes as they are, else as JSON) and return its request id."""
        request_id = str(uuid.uuid4())
        payload = event if isinstance(event, bytes) else orjson.dumps(event)
        function = FunctionName(pool.package.manifest.name)
        pool.submit(Invocation(request_id, function, payload), self.answers.to(request_id), **options)
        return request_id

    async def result(self, request_id: str) -> Result:
        """What became of an event."""
        await until(lambda: request_id in self.answers.results)
        return self.answers.results[request_id]

    async def results(self, request_ids: Sequence[str]) -> list[Result]:
        """What became of events, in their order."""
        return [await self.result(request_id) for request_id in request_ids]

    async def call(self, pool: Pool, event: object, **options: bool) -> Result:
        """Submit an event and wait for it."""
        return await self.result(self.submit(pool, event, **options))

    def kill_launcher(self) -> None:
        """As a user could by mistake, or the kernel for memory."""
        assert self.launcher._process is not None
        self.launcher._process.kill()

    async def written(self, name: str = "obedient") -> list[dict[str, Any]]:
        """The log of a function so far."""
        await self.logs.close()
        return list(logs.read(self.directory / "logs", name))

    def _environment(self, package: Package) -> dict[str, str]:
        if self.failing is not None:
            self.refused += 1
            raise self.failing
        return {**self.environment, "AWS_REGION": "eu-west-1", "START": str(next(self._starts))}

    async def _serve(
        self, sock: socket, package: Package, environment: Mapping[str, str], depth: Callable[[], int]
    ) -> Callable[[], Any]:
        served = (environment, sock)
        self.endpoints.append(served)

        async def close() -> None:
            sock.close()
            self.endpoints.remove(served)

        return close


@asynccontextmanager
async def site(directory: Path, *, workers: int = 8, idle: float = 300.0) -> AsyncIterator[Site]:
    """A launcher and what pools need around them; everything has ended afterwards."""
    launcher = Launcher(FunctionsSection(directory=directory / "functions"))
    try:
        async with asyncio.TaskGroup() as group:
            made = Site(directory, launcher, group, workers, idle)
            try:
                yield made
            finally:
                for pool in made.pools:
                    await pool.close()
        assert made.budget.taken == 0
        assert made.endpoints == []
        await made.logs.close()
    finally:
        await launcher.close()


def package(directory: Path, source: str, name: str, **options: Any) -> Package:
    """A version on disk, as a deployment would leave it; a source that begins with #! is a bootstrap."""
    path = directory / "functions" / name / "versions" / "1"
    (path / "code").mkdir(parents=True)
    (path / "layers").mkdir()
    if source.startswith("#!"):
        (path / "code" / "bootstrap").write_text(source)
        (path / "code" / "bootstrap").chmod(0o755)
        options = {"runtime": "provided.al2023", "handler": "bootstrap", **options}
    else:
        (path / "code" / "app.py").write_text(source)
        options = {"runtime": PYTHON, "handler": "app.handler", "python": sys.executable, **options}
    for parent in (*path.parents, path):
        if parent.is_relative_to(directory) and parent != directory:
            parent.chmod(0o755)
    return Package(Manifest(name=name, version=1, **options), path)


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        await asyncio.sleep(0.005)


def value(result: Result) -> Any:
    """What the handler returned."""
    assert result.ending is Ending.SUCCESS, result
    return orjson.loads(result.payload)


def error(result: Result) -> dict[str, Any]:
    """Lambda's error object."""
    assert result.ending is not Ending.SUCCESS, result
    found = orjson.loads(result.payload)
    assert isinstance(found, dict)
    return found


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
