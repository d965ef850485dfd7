"""The workers of one version of a function: how many there are, and which event goes to which.

An event is handed to an idle worker in the turn of the loop in which it comes. Else it waits here, in memory, and a
worker with room takes it, many in one write; whoever must not lose an event keeps it on disk until `done` is called.
`functions.workers.worker` has the life of one worker, `functions.workers.budget` the places of all functions.

A worker is given what it can do in 20 ms, by what events have taken so far, and nothing behind an event that takes
longer; another is started when those that wait are worth it (`functions.workers.pacing`). Idle workers stop after a
while, the one used last as the last.

When starts fail, they wait (`functions.workers.starts`). Events that waited for a handler that cannot be loaded end
with its error, as in Lambda; those that come in the meantime wait for the next start, unless somebody waits for them.
What keeps the machine from starting processes ends only the latter.

Invariants:
1. `done` of each submitted event is called exactly once, whatever dies, with THROTTLED for what no handler had when
   the pool closed; or the event goes to another pool (`withdraw`).
2. There are at most `concurrency` workers; at most WAITING_EVENTS_MAX events wait, and with more than HELD_BYTES_MAX
   of payload here and with workers none does.
3. A pinned function has one worker from `run` on, which never stops for idleness.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from math import ceil
from socket import socket
from typing import Any

from core.errors import TidegateError
from core.telemetry import Counters, get_logger
from functions.invocations import Ending, Invocation, Result
from functions.launcher.client import Launcher
from functions.logs import Logs
from functions.packages.library import Package
from functions.workers import outcomes, runtimes
from functions.workers.budget import Budget
from functions.workers.channels import open_channel
from functions.workers.numbers import Numbers
from functions.workers.pacing import WINDOW_SECONDS, Pace
from functions.workers.starts import Starts
from functions.workers.worker import Departure, Equipment, State, Work, Worker, refused

log = get_logger("functions.pool")

WAITING_EVENTS_MAX = 10_000  # the durable queue keeps the others
HELD_BYTES_MAX = 32 << 20  # of payload that waits or is with workers; one event more is always taken
LOOK_SECONDS = 0.05  # between two looks at events that wait behind slow ones
CLOSE_SECONDS = 2.0  # for events in hand, when the daemon stops; systemd gives it 15 in all

Closer = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class PoolSurroundings:
    """What the pools of a daemon share.

    `environment(package)` gives the variables of a new worker beyond those that its runtime has: region, credentials
    for the endpoint, secrets; it may raise FunctionsError. `serve_endpoint(listening socket, package, environment,
    depth)` serves the AWS endpoint to one worker until what it returned is called; `depth()` is that of the event in
    hand. `idle` is seconds.
    """

    environment: Callable[[Package], Mapping[str, str]]
    serve_endpoint: Callable[[socket, Package, Mapping[str, str], Callable[[], int]], Awaitable[Closer]]
    budget: Budget
    logs: Logs
    idle: float = 300.0
    arn_of: Callable[[Invocation], str] = lambda invocation: invocation.function.arn()
    labels: set[str] = field(default_factory=set)  # functions that have counters of their own


class Pool:
    """The workers of `package`; made on a running loop. `run` is its life; before it nothing is started."""

    def __init__(
        self, package: Package, launcher: Launcher, surroundings: PoolSurroundings, counters: Counters
    ) -> None:
        manifest = package.manifest
        self.package = package
        self.numbers = Numbers(manifest.name, counters, surroundings.labels)
        self._launcher = launcher
        self._surroundings = surroundings
        self._budget = surroundings.budget
        self._most = min(1, manifest.concurrency) if manifest.pinned else manifest.concurrency
        self._loop = asyncio.get_running_loop()
        self._group: asyncio.TaskGroup | None = None
        self._ending = asyncio.Event()
        self._settled = asyncio.Event()  # no worker has anything
        self._closed = False
        self._waiting: deque[Work] = deque()
        self._held_bytes = 0
        self._workers: list[Worker] = []
        self._idle: list[Worker] = []  # of them, the one used last at the end
        self._turned: list[Worker] = []  # those that ended events in this turn
        self._names = count(1)
        self._pace = Pace()
        self._starts = Starts()
        self._planned = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    # What callers ask.

    def submit(
        self, invocation: Invocation, done: Callable[[Result], None], *, wants_tail: bool = False, urgent: bool = False
    ) -> None:
        """Have an event handled; `done(result)` is called on the loop, perhaps before this returns.

        `wants_tail` asks for the end of its log in the result. `urgent` says that somebody waits for the result, who
        would rather be told at once that the function cannot be started.
        """
        work = Work(invocation, done, wants_tail, urgent)
        while self._idle and self._idle[-1].state is not State.READY:  # it is about to be gone
            self._idle.pop()
        if self._closed or self._most == 0:
            self._throttle(work)
        elif self._idle and not self._waiting:
            self._idle.pop().give((work,))
        elif urgent and not self._is_served() and (refusal := self._starts.refusal(time.monotonic())) is not None:
            self._settle(work, refused(work, refusal, self._surroundings.logs, self.package.manifest))
        elif len(self._waiting) >= WAITING_EVENTS_MAX or self._held_bytes > HELD_BYTES_MAX:
            self._throttle(work)
        else:
            self._waiting.append(work)
            self._plan()
        self._held_bytes += len(invocation.payload)

    def withdraw(self) -> list[Work]:
        """Give back the events that no worker has yet, for another pool."""
        waiting, self._waiting = self._waiting, deque()
        self._held_bytes -= sum(len(work.invocation.payload) for work in waiting)
        return list(waiting)

    @property
    def waiting(self) -> int:
        """Events that no worker has yet."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """Events that workers have."""
        return sum(worker.in_flight for worker in self._workers)

    @property
    def workers(self) -> int:
        """Processes, those that start and stop included."""
        return len(self._workers)

    def status(self) -> dict[str, Any]:
        """For an operator: what it is, what it does now, and its numbers."""
        manifest = self.package.manifest
        launched = [worker.launched for worker in self._workers if worker.launched is not None]
        return {
            "function": manifest.name,
            "version": manifest.version,
            "pinned": manifest.pinned,
            "concurrency": self._most,
            "workers": self.workers,
            "ready": sum(worker.state is State.READY for worker in self._workers),
            "in_flight": self.in_flight,
            "waiting": self.waiting,
            "memory_bytes": sum(worker.resident() for worker in self._workers),
            "layers": sorted(frozenset.intersection(*(each.layers for each in launched))) if launched else [],
            **self._starts.status(time.monotonic()),
            **self.numbers.status(),
        }

    async def run(self) -> None:
        """Have workers, until `close` has ended them, or until cancelled."""
        self._budget.join(self)
        try:
            async with asyncio.TaskGroup() as group:
                try:
                    self._group = group
                    self._plan()
                    await self._ending.wait()
                finally:
                    self._abandon()
        finally:
            self._group = None
            self._budget.leave(self)

    async def close(self) -> None:
        """Take nothing more, let events in hand end for a moment, and end the workers; `run` returns then."""
        self._closed = True
        self._throttle_all()
        if self.in_flight:
            try:
                await asyncio.wait_for(self._settled.wait(), CLOSE_SECONDS)
            except TimeoutError:
                log.info("events are given up", function=self._name, events=self.in_flight)
        self._ending.set()

    # What workers tell.

    def became_ready(self, worker: Worker) -> None:
        """It may be given work."""
        self.numbers.started(worker.init)
        self._starts.ready(time.monotonic())
        self._idle.append(worker)
        self._turn()

    def ended(self, worker: Worker, work: Work, result: Result) -> None:
        """An attempt has ended."""
        if not worker.turn_events:
            self._turned.append(worker)
        worker.turn_events += 1
        worker.turn_seconds += result.duration
        if worker.in_flight == 0 and worker.state is State.READY and not worker.retiring:
            self._idle.append(worker)
        self._settle(work, result)
        self._plan()

    def gone(self, worker: Worker, rest: Sequence[Work], why: Departure) -> None:
        """The process has ended; `rest` was never in hand."""
        self._workers.remove(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        self._waiting.extendleft(reversed(rest))
        if not why.asked:
            self._lost(worker, why)
        self._budget.give_back()
        if self._closed:
            self._throttle_all()
        self._plan()

    # What the budget asks.

    @property
    def places(self) -> int:
        """How many workers it has."""
        return len(self._workers)

    @property
    def spare(self) -> int:
        """How many of them may be asked to go."""
        return 0 if self.package.manifest.pinned else sum(not worker.retiring for worker in self._workers)

    @property
    def idle_since(self) -> float | None:
        """Since when its longest idle worker has had nothing to do."""
        return None if self.package.manifest.pinned or not self._idle else self._idle[0].idle_since

    def stop_idle(self) -> None:
        """Stop that worker."""
        self._stop(self._idle[0])

    def let_one_go(self) -> None:
        """Stop a worker as soon as it has finished what it has."""
        worker = min((worker for worker in self._workers if not worker.retiring), key=lambda each: each.in_flight)
        worker.retiring = True
        self._plan()

    def has_place(self) -> None:
        """There is a place."""
        self._scale(time.monotonic())

    # Turns.

    @property
    def _name(self) -> str:
        return f"{self.package.manifest.name}:{self.package.manifest.version}"

    def _plan(self) -> None:
        if not self._planned:
            self._planned = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Once in a turn of the loop in which anything happened."""
        self._planned = False
        if self._turned:
            self._learn()
        self.numbers.tell()
        now = time.monotonic()
        if self._waiting:
            self._hand_out(now)
        for worker in self._workers:
            if worker.retiring and worker.in_flight == 0:
                self._stop(worker)
        self._scale(now)
        self._let_idle_go(now)
        if self._closed and not self.in_flight:
            self._settled.set()
        self._look_again(now)

    def _let_idle_go(self, now: float) -> None:
        if self._waiting or self.package.manifest.pinned:
            return
        while self._idle and (
            now >= self._idle[0].idle_since + self._surroundings.idle or self._budget.asks_for_room(self)
        ):
            self._stop(self._idle[0])

    def _learn(self) -> None:
        """How long events take: those that a worker answered in one turn are taken to be alike."""
        for worker in self._turned:
            events, mean = worker.turn_events, worker.turn_seconds / worker.turn_events
            worker.turn_events, worker.turn_seconds = 0, 0.0
            self.numbers.durations.add(mean, events)
            self._pace.learn(mean, events)
        self._turned.clear()

    def _hand_out(self, now: float) -> None:
        window = self._pace.window()
        takers = [(worker, room) for worker in self._workers if (room := worker.room(window, now, WINDOW_SECONDS)) > 0]
        takers.sort(key=lambda taker: taker[0].in_flight)
        for left, (worker, room) in zip(range(len(takers), 0, -1), takers, strict=True):
            share = min(room, ceil(len(self._waiting) / left))
            if share == 0:
                break
            work = [self._waiting.popleft() for _ in range(share)]
            if worker.in_flight == 0:
                self._idle.remove(worker)
            worker.give(work)

    def _scale(self, now: float) -> None:
        """Start what is worth starting."""
        if self._group is None or self._closed:
            return
        missing = self._missing(now)
        if missing <= 0:
            self._budget.withdraw(self)
        elif now >= self._starts.not_before:
            for _ in range(1 if self._starts.problem is not None else missing):
                if not self._budget.take(self):
                    break
                self._start()

    def _missing(self, now: float) -> int:
        """How many workers more there should be."""
        free = self._most - len(self._workers)
        if self.package.manifest.pinned:
            return free
        if not self._waiting:
            return 0
        staying = [worker for worker in self._workers if worker.is_staying]
        starting = sum(worker.state is State.STARTING for worker in staying)
        wanted = self._pace.worth(len(self._waiting), max((worker.age(now) for worker in staying), default=0.0))
        return min(free, max(wanted - starting, 0 if staying else 1))

    def _start(self) -> None:
        """Start a worker, in the place that was taken for it."""
        assert self._group is not None
        manifest = self.package.manifest
        try:
            environment = self._surroundings.environment(self.package)
            spec = runtimes.spec(self.package, f"{manifest.name}-{next(self._names)}", environment)
        except TidegateError as error:
            self._budget.give_back()
            self._refuse(outcomes.unavailable(str(error)), time.monotonic())
            return
        equipment = Equipment(
            launcher=self._launcher,
            channel=partial(open_channel, fast=not spec.argv, manifest=manifest, arn_of=self._surroundings.arn_of),
            endpoint=self._serve_endpoint,
            log=self._surroundings.logs.of(manifest.name),
            version=str(manifest.version),
            memory_mb=manifest.memory_mb,
            timeout=manifest.timeout,
        )
        worker = Worker(spec, equipment, self)
        self._workers.append(worker)
        self._group.create_task(worker.live(), name=spec.name)

    async def _serve_endpoint(self, sock: socket, environment: Mapping[str, str], depth: Callable[[], int]) -> Closer:
        return await self._surroundings.serve_endpoint(sock, self.package, environment, depth)

    def _stop(self, worker: Worker) -> None:
        if worker in self._idle:
            self._idle.remove(worker)
        worker.stop()

    def _look_again(self, now: float) -> None:
        """Have a turn when time alone changes something."""
        times = []
        if self._idle and not self.package.manifest.pinned:
            times.append(self._idle[0].idle_since + self._surroundings.idle)
        if now < self._starts.not_before:
            times.append(self._starts.not_before)
        elif self._waiting or (self.package.manifest.pinned and not self._workers and self._most):
            times.append(now + LOOK_SECONDS)
        if times and (self._timer is None or min(times) < self._timer_at):
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = min(times)
            self._timer = self._loop.call_later(max(0.0, self._timer_at - now), self._look)

    def _look(self) -> None:
        self._timer = None
        self._turn()

    # Ends.

    def _lost(self, worker: Worker, why: Departure) -> None:
        """A worker ended that nobody had asked to: decide when the next may start, and what that means for others."""
        now, version = time.monotonic(), str(self.package.manifest.version)
        if why.start_error:
            self._refuse(outcomes.unavailable(why.start_error), now)
        elif why.init_error and why.killed and self._starts.forgives(now):
            pass
        elif why.init_error:
            self._refuse(Result(Ending.CRASH, why.init_error, version), now)
        elif not why.timed_out:
            self._starts.ended(Result(Ending.CRASH, why.exit_error, version), now, fruitful=worker.served > 0)
        log.warning("a worker ended", function=self._name, worker=worker.spec.name, code=why.code,
                    error=why.start_error or why.init_error or None)  # fmt: skip

    def _refuse(self, refusal: Result, now: float) -> None:
        """Workers cannot be started: starts wait, and those who cannot wait are told."""
        self._starts.failed(refusal, now)
        if self._is_served():
            return
        waiting, self._waiting = self._waiting, deque()
        for work in waiting:
            if work.urgent or refusal.ending is Ending.CRASH:
                self._settle(work, refused(work, refusal, self._surroundings.logs, self.package.manifest))
            else:
                self._waiting.append(work)

    def _is_served(self) -> bool:
        """Whether there is a worker, or one that starts, for those that wait."""
        return any(worker.is_staying for worker in self._workers)

    def _settle(self, work: Work, result: Result) -> None:
        self.numbers.count(result)
        self._held_bytes -= len(work.invocation.payload)
        done, work.done = work.done, None
        if done is not None:
            try:
                done(result)
            except Exception as fault:  # noqa: BLE001 - of one caller; the others wait for the same worker
                log.fault("who waited for a function failed", fault, function=self._name)

    def _throttle(self, work: Work) -> None:
        self._settle(work, Result(Ending.THROTTLED))
        self._plan()

    def _throttle_all(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for work in waiting:
            self._throttle(work)

    def _abandon(self) -> None:
        """The end: nobody waits any more, and every worker is told to go."""
        self._closed = True
        self._throttle_all()
        if self._timer is not None:
            self._timer.cancel()
        for worker in list(self._workers):
            self._stop(worker)
