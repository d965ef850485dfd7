"""The asynchronous side of functions on a real store, for tests: they are the worker, and they move the clocks.

`Box.start` again after `crash` is what a daemon finds that was killed between two commits.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from core import queues
from core.commits import Barrier, Commits
from core.store import Store
from core.telemetry import Counters
from core.timeline import Timeline
from functions import dead_letters, queue, scheduler
from functions.asynchronous import Asynchronous
from functions.destinations import Notify
from functions.errors import FunctionNotFound
from functions.invocations import Ending, Invocation, Result
from functions.manifest import Manifest
from functions.names import FunctionName
from functions.queue import InvocationQueue

SCHEMA = queue.SCHEMA + dead_letters.SCHEMA + queues.SCHEMA + scheduler.SCHEMA
NOON_MS = 1_795_262_400_000  # 2026-11-21 12:00 UTC
F, G = FunctionName("f"), FunctionName("g")
ERROR = b'{"errorMessage": "no", "errorType": "ValueError"}'


def manifest(name: str = "f", **options: Any) -> Manifest:
    """A version of a function."""
    return Manifest(**{"name": name, "version": 1, "runtime": "python3.11", "handler": "a.b", **options})


@dataclass
class Clock:
    """Both clocks of a machine; `step` moves the wall clock alone."""

    seconds: float = 1_000.0
    wall_ms: int = NOON_MS

    def go(self, seconds: float) -> None:
        """Time passes."""
        self.seconds += seconds
        self.wall_ms += round(seconds * 1_000)

    def step(self, ms: int) -> None:
        """Somebody sets the clock."""
        self.wall_ms += ms

    def boot(self) -> None:
        """The monotonic clock of a machine that was off begins anew."""
        self.seconds = 5.0

    def timeline(self) -> Timeline:
        """A timeline on these clocks."""
        return Timeline(None, lambda: self.seconds, lambda: self.wall_ms)


@dataclass
class Box:
    """One daemon's queue. `given` are the attempts that a worker has in hand, oldest first."""

    path: Path
    manifests: dict[str, Manifest] = field(default_factory=lambda: {"f": manifest(), "g": manifest("g")})
    clock: Clock = field(default_factory=Clock)
    bytes_max: int = 64 << 20
    notify: Notify | None = None
    fault: Exception | None = None  # of whoever publishes
    kept: Barrier | None = None  # what whoever publishes waits for
    given: list[tuple[Invocation, Callable[[Result], None]]] = field(default_factory=list)
    published: list[tuple[str, Any]] = field(default_factory=list)

    async def start(self) -> None:
        """Start with what is on disk."""
        self.given = []
        self.counters = Counters()
        self.store = Store(self.path, SCHEMA)
        self.commits = Commits(self.store)
        self.queue = InvocationQueue(self.commits, self.counters, self.bytes_max, self.clock.timeline())
        self.functions = Asynchronous(
            self.queue, self.commits, self._submit, self.manifest, self._publish, self.counters, self.notify
        )
        await self.functions.load()

    def manifest(self, name: FunctionName) -> Manifest:
        """The version that a name means."""
        if name.name not in self.manifests:
            raise FunctionNotFound(f"Function not found: {name}")
        return self.manifests[name.name]

    def _submit(self, invocation: Invocation, done: Callable[[Result], None]) -> None:
        self.given.append((invocation, done))

    def _publish(self, topic: str, payload: bytes) -> Barrier | None:
        if self.fault is not None:
            raise self.fault
        self.published.append((topic, orjson.loads(payload)))
        return self.kept

    async def crash(self) -> None:
        """Lose what is in memory alone."""
        self.functions.close()
        self.commits._ending = True
        if self.commits._timer is not None:
            self.commits._timer.cancel()
        await self.store.close()

    async def restart(self, *, boot: bool = False) -> None:
        """Crash and start again."""
        await self.crash()
        if boot:
            self.clock.boot()
        await self.start()

    async def stop(self) -> None:
        """End in an orderly manner."""
        self.functions.close()
        await self.commits.drain()
        await self.store.close()

    async def commit(self) -> None:
        """Write everything that has gathered, and what follows from that."""
        for _ in range(3):
            self.commits.soon()
            await asyncio.sleep(0)
            await self.store.run(lambda _: None)

    def call(self, payload: bytes = b'{"n":1}', function: FunctionName = F, **options: Any) -> str:
        """Accept an event."""
        return self.functions.call(function, payload, **options)

    @property
    def in_hand(self) -> list[bytes]:
        """The events that the worker has."""
        return [invocation.payload for invocation, _ in self.given]

    def answer(self, ending: Ending = Ending.SUCCESS, payload: bytes = b"null", place: int = 0) -> Invocation:
        """The worker is done with an attempt."""
        invocation, done = self.given.pop(place)
        done(Result(ending, payload, "1"))
        return invocation

    def fail(self, ending: Ending = Ending.ERROR) -> Invocation:
        """The worker fails."""
        return self.answer(ending, ERROR)

    def look(self, seconds: float) -> None:
        """Time passes, and the timer sees it."""
        self.clock.go(seconds)
        self.functions._look()

    async def rows(self, table: str) -> int:
        """How many rows a table has on disk."""
        count = await self.store.run(lambda c: c.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
        return int(count)

    async def execute(self, statement: str) -> None:
        """Do something to the database behind everybody's back."""
        await self.store.run(lambda c: c.execute(statement))


@asynccontextmanager
async def box(path: Path, **options: Any) -> AsyncIterator[Box]:
    """A box that runs."""
    made = Box(path, **options)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
