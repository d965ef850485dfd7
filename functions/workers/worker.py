"""One worker: a process in its sandbox, from its start to its end, and the events that it has in hand.

Keeps what was sent and is not done, in order; the first of it is the one that the handler works on. Enforces the limit
of initialization and the function's time-out, by killing. Will not decide which events it gets, nor whether another
worker follows: that is `functions.workers.pool`.

Invariants:
1. Every piece of work that was given ends here exactly once (`Owner.ended`), or goes back untouched (`Owner.gone`).
2. One timer, whatever the number of events. `gone` is told once, last, when the process has ended.
3. An event is out of time only after the loop has looked once more for its result: a daemon that was held up itself
   kills nobody for it.
"""

import asyncio
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from socket import socket
from typing import Protocol

from core.errors import TidegateError
from core.telemetry import get_logger
from functions.invocations import EVENT_BYTES_MAX, Ending, Invocation, Result
from functions.launcher.client import Launched, Launcher, WorkerSpec
from functions.logs import FunctionLog, Logs
from functions.manifest import Manifest
from functions.workers import memory, outcomes
from functions.workers.channel import Channel, Listener
from functions.workers.pipes import Pipe
from functions.workers.transcript import Transcript, unbegun

log = get_logger("functions.worker")

INIT_SECONDS = 60.0  # Lambda has 10 s; a Raspberry Pi imports a large library from its SD card in 20
GRACE_SECONDS = 0.05  # between the end of an event's time and the kill, for a result that is on its way
STOP_SECONDS = 1.0  # for a worker that is asked to end, until it is killed
LAST_WORDS_SECONDS = 0.2  # for what a process wrote to its channel before it ended
KILL_SECONDS = 10.0  # for a killed process to end; one that hangs in the kernel is given up
MEMORY_SECONDS = 1.0  # between two looks at a worker's memory


@dataclass(slots=True, eq=False)
class Work:
    """An event that waits for its end. `urgent`: somebody waits for it, and would rather hear of a failure soon."""

    invocation: Invocation
    done: Callable[[Result], None] | None  # None when it has been called
    wants_tail: bool = False
    urgent: bool = False


def refused(work: Work, refusal: Result, logs: Logs, manifest: Manifest) -> Result:
    """What an event ends with that no worker could take; when the handler is why, the log has lines of it too."""
    if refusal.ending is not Ending.CRASH:
        return replace(refusal)
    written = logs.of(manifest.name)
    tail = unbegun(written, refusal.version, manifest.memory_mb, work.invocation.id, refusal.payload)
    return replace(refusal, log_tail=tail if work.wants_tail else b"")


class State(Enum):
    """Where in its life a worker is."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"  # asked to end, or killed
    GONE = "gone"


@dataclass(slots=True)
class Departure:
    """Why a worker is gone. `init_error` is Lambda's error object, when the handler could not even be loaded;
    `start_error` what kept the process from being started; neither is set for one that had been ready. `exit_error`
    is the error object for how the process ended."""

    code: int = 0
    exit_error: bytes = b""
    init_error: bytes = b""
    start_error: str = ""
    asked: bool = False  # by us: idle, replaced, or the pool ends
    timed_out: bool = False  # killed for an event that took too long
    killed: bool = False  # by others: the machine has no memory left, or the launcher ended


class Owner(Protocol):
    """The pool, as its workers know it."""

    def became_ready(self, worker: "Worker") -> None:
        """It may be given work."""

    def ended(self, worker: "Worker", work: Work, result: Result) -> None:
        """An attempt has ended."""

    def gone(self, worker: "Worker", rest: Sequence[Work], why: Departure) -> None:
        """The process has ended; `rest` was never in hand."""


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a worker is made with. `channel` opens the way to a process, with a parent for its tasks; `endpoint` serves
    the API that handlers call, until what it returned is called and awaited."""

    launcher: Launcher
    channel: Callable[[Launched, Listener, asyncio.TaskGroup], Channel]
    endpoint: Callable[[socket, Mapping[str, str], Callable[[], int]], Awaitable[Callable[[], Awaitable[None]]]]
    log: FunctionLog
    version: str
    memory_mb: int
    timeout: float


class Worker:
    """One process; `live` is its life, a task of the pool's. The methods of `Listener` are for its channel."""

    def __init__(self, spec: WorkerSpec, equipment: Equipment, owner: Owner) -> None:
        self.spec = spec
        self.state = State.STARTING
        self.retiring = False  # gets no more work, and stops when it has none
        self.idle_since = 0.0  # monotonic
        self.init = 0.0  # seconds
        self.served = 0  # events that ended well
        self.turn_events = 0  # that ended in this turn of the loop, and how long they took
        self.turn_seconds = 0.0
        self.launched: Launched | None = None
        self._equipment = equipment
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transcript = Transcript(equipment.log, equipment.version, equipment.memory_mb)
        self._in_flight: deque[Work] = deque()
        self._channel: Channel | None = None
        self._pipes: list[Pipe] = []
        self._timer: asyncio.TimerHandle | None = None
        self._begun = time.monotonic()  # of the event in hand, or of the start
        self._born = self._begun
        self._was_said = False  # the runtime wrote itself why the handler could not be loaded
        self._cold = 0.0  # seconds that the next event has waited for the start
        self._late = False
        self._why = Departure()
        self._exited: asyncio.Future[int] = self._loop.create_future()
        self._closed = asyncio.Event()
        self._memory = 0
        self._memory_at = 0.0

    @property
    def in_flight(self) -> int:
        """How many events it has."""
        return len(self._in_flight)

    @property
    def is_staying(self) -> bool:
        """Whether it has work, or may have some."""
        return self.state in {State.STARTING, State.READY} and not self.retiring

    def depth(self) -> int:
        """That of the event in hand."""
        return self._in_flight[0].invocation.depth if self._in_flight else 0

    def room(self, window: int, now: float, patience: float) -> int:
        """How many more it may be given, of `window` in all; none while it holds one for longer than `patience`."""
        if self.state is not State.READY or self.retiring or self._channel is None:
            return 0
        if self._in_flight and now - self._begun > patience:
            return 0
        return min(window, self._channel.capacity) - len(self._in_flight)

    def age(self, now: float) -> float:
        """For how many seconds the event in hand has been there."""
        return now - self._begun if self._in_flight else 0.0

    def give(self, work: Sequence[Work]) -> None:
        """Hand over events; there must be room."""
        assert self._channel is not None
        idle = not self._in_flight
        self._in_flight.extend(work)
        if idle:
            self._begin(time.monotonic())
            if self._timer is None:
                self._timer = self._loop.call_later(self._equipment.timeout, self._look)
        self._channel.send([each.invocation for each in work])

    def stop(self) -> None:
        """End it: it is idle, or what it has in hand is given up and goes back."""
        if self.state in {State.STOPPING, State.GONE}:
            return
        self._why.asked = True
        self.state = State.STOPPING
        if self._channel is not None:
            self._channel.close()
        self._rearm(STOP_SECONDS if self.launched is not None and not self._in_flight else 0.0, self._kill)

    def memory(self) -> int:
        """Its peak in bytes, as far as it can be seen; 0 when it cannot."""
        now = time.monotonic()
        if self.launched is not None and now - self._memory_at >= MEMORY_SECONDS:
            self._memory_at = now
            self._memory = max(self._memory, memory.peak(self.launched.pid))
        if self.launched is not None:
            self._memory = max(self._memory, self.launched.peak_bytes)
        return self._memory

    def resident(self) -> int:
        """What it has in memory now, in bytes, as far as it can be seen."""
        return memory.resident(self.launched.pid) if self.launched is not None else 0

    # The process.

    async def live(self) -> None:
        """Start it and stay until it has ended; what goes wrong is told to the owner and never raised."""
        try:
            async with asyncio.TaskGroup() as group:
                launched = self.launched = await self._equipment.launcher.start(self.spec)
                await self._accompany(launched, group)
        except* (TidegateError, OSError) as errors:
            self._why.start_error = "; ".join(str(error) or repr(error) for error in errors.exceptions)
        except* Exception as errors:  # noqa: BLE001 - a fault in one worker's life must not end the daemon
            log.fault("a worker could not be started", errors, worker=self.spec.name)
            self._why.start_error = repr(errors)
        finally:
            self._leave()

    async def _accompany(self, launched: Launched, group: asyncio.TaskGroup) -> None:
        close_endpoint = None
        try:
            for stream, fd in (("stdout", launched.stdout), ("stderr", launched.stderr)):
                self._pipes.append(Pipe(fd, partial(self._transcript.said, stream), self._loop))
            if self.state is State.STARTING:
                self._rearm(INIT_SECONDS, self._init_is_late)
                close_endpoint = await self._equipment.endpoint(launched.endpoint, self.spec.environment, self.depth)
                self._channel = self._equipment.channel(launched, self, group)
            else:  # stopped before it was born
                launched.kill()
            launched.exited.add_done_callback(self._has_exited)
            self._why.code = await self._exited
            await self._hear_the_last()
        finally:
            launched.kill()
            if self._channel is not None:
                self._channel.close()
            else:
                launched.runtime_api.close()
            launched.channel.close()
            for pipe in self._pipes:
                pipe.close()
            if close_endpoint is not None:
                await close_endpoint()
            else:
                launched.endpoint.close()

    async def _hear_the_last(self) -> None:
        """Take what the process said before it ended, while there is news."""
        left = 0
        while self._in_flight and len(self._in_flight) != left and not self._closed.is_set():
            left = len(self._in_flight)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), LAST_WORDS_SECONDS)

    def _leave(self) -> None:
        """Tell the owner, with what was never in hand; what was is ended here."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        asked, was_ready = self._why.asked, self.state is not State.STARTING and not self._why.init_error
        self.state = State.GONE
        self.memory()
        self._why.exit_error = self._failure("").payload
        rest = list(self._in_flight)
        self._in_flight.clear()
        if rest and not asked:
            first = rest.pop(0)
            if first.done is not None:
                failure, seconds = self._failure(first.invocation.id), time.monotonic() - self._begun
                self._end(first, Ending.CRASH, failure.payload, seconds, "error", failure.message)
        if not was_ready and not asked and not self._why.start_error and not self._why.init_error:
            self._why.init_error = self._why.exit_error
            of_memory = self._failure("").kind == outcomes.OUT_OF_MEMORY
            self._why.killed = self._why.code == -signal.SIGKILL and not of_memory
        if self._why.init_error:
            self._transcript.tell(self._why.init_error, time.monotonic() - self._born, was_said=self._was_said)
        self._transcript.close()
        self._owner.gone(self, [work for work in rest if work.done is not None], self._why)

    def _failure(self, request_id: str) -> outcomes.Failure:
        return outcomes.exited(request_id, self._why.code, self._memory, self.spec.memory_bytes)

    # Its channel tells.

    def ready(self) -> None:
        """The handler is loaded."""
        if self.state is not State.STARTING:
            return
        self.state = State.READY
        self._rearm(None)
        now = time.monotonic()
        self.init = self._cold = now - self._begun
        self.idle_since = now
        self._owner.became_ready(self)
        if not self._in_flight:
            self._cold = 0.0

    def init_failed(self, error: bytes) -> None:
        """The handler could not be loaded; the process has nothing to live for."""
        if self.state is State.STARTING:
            self._why.init_error = error
            self._was_said = True
            self.state = State.STOPPING
            self._rearm(STOP_SECONDS, self._kill)  # its last words may still come

    def done(self, request_id: str, payload: bytes, *, error: bool) -> None:
        """The event in hand has ended."""
        if not self._in_flight or self._in_flight[0].invocation.id != request_id:
            log.warning("a worker answered what it was not asked", worker=self.spec.name)
            self._kill()
            return
        work = self._in_flight[0]
        now = time.monotonic()
        seconds = now - self._begun
        if len(self._in_flight) == 1:  # in a batch, what was written below Python's level may be told a little late
            for pipe in self._pipes:
                pipe.drain()
        self._in_flight.popleft()
        if work.done is None:  # out of time before
            self._transcript.end()
            self._begin(now)
        elif len(payload) > EVENT_BYTES_MAX:
            self._end(work, Ending.ERROR, outcomes.too_large(len(payload), EVENT_BYTES_MAX).payload, seconds, "error")
        elif error:
            self._end(work, Ending.ERROR, payload, seconds, "error")
        else:
            self.served += 1
            self._end(work, Ending.SUCCESS, payload, seconds)

    def said(self, stream: str, data: bytes) -> None:
        """The handler wrote something."""
        self._transcript.said(stream, data)

    def closed(self, reason: str) -> None:
        """The process has ended, or cannot be reached any more and must end."""
        self._closed.set()
        if self.state in {State.STARTING, State.READY}:
            self._rearm(LAST_WORDS_SECONDS, self._kill)  # unless it has ended by itself, with a better reason
            if self.state is State.READY:
                self.state = State.STOPPING

    # Its time.

    def _begin(self, now: float) -> None:
        """The first that is not done is in hand from now on."""
        self._begun = now
        if not self._in_flight:
            self.idle_since = now
        elif (work := self._in_flight[0]).done is not None:
            self._transcript.begin(work.invocation.id, wants_tail=work.wants_tail)

    def _end(
        self, work: Work, ending: Ending, payload: bytes, seconds: float, status: str = "", message: str = ""
    ) -> None:
        """The event in hand has ended one way or the other; the next is in hand."""
        init, self._cold = self._cold, 0.0
        now = time.monotonic()
        remarkable = ending is not Ending.SUCCESS or init > 0
        tail = b""
        if self._transcript.is_worth_a_report(seconds, remarkable=remarkable, now=now):
            tail = self._transcript.report(seconds, init, self.memory(), status, message)
        else:
            self._transcript.end()
        result = Result(ending, payload, self._equipment.version, tail, seconds, init, self._memory)
        if self.state is not State.GONE:
            self._begin(now)
        self._owner.ended(self, work, result)

    def _look(self) -> None:
        """Whether the event in hand is out of time; looks again when that may be."""
        self._timer = None
        if not self._in_flight or self.state is not State.READY:
            return
        now = time.monotonic()
        due = self._begun + self._equipment.timeout
        if now < due:
            self._late = False
            self._timer = self._loop.call_later(due - now, self._look)
        elif not self._late:
            self._late = True
            self._timer = self._loop.call_later(GRACE_SECONDS, self._look)
        else:
            self._run_out()

    def _run_out(self) -> None:
        """The event in hand has run out of time: its worker dies, and what is behind it waits for another."""
        work, seconds = self._in_flight[0], self._equipment.timeout  # Lambda reports its limit, not our grace
        self.state = State.STOPPING
        self._why.timed_out = True
        self._kill()
        self._in_flight[0] = Work(work.invocation, None)  # a result that comes now is nobody's
        failure = outcomes.timed_out(work.invocation.id, self._equipment.timeout, time.time())
        self._end(work, Ending.TIMEOUT, failure.payload, seconds, "timeout", failure.message)

    def _init_is_late(self) -> None:
        self._why.init_error = outcomes.init_timed_out(INIT_SECONDS).payload
        self.state = State.STOPPING
        self._kill()

    def _kill(self) -> None:
        if self.launched is not None:
            self.launched.kill()
            self._rearm(KILL_SECONDS, self._give_up)

    def _give_up(self) -> None:
        log.error("a worker was killed and does not end", worker=self.spec.name)
        if not self._exited.done():
            self._exited.set_result(-signal.SIGKILL)

    def _has_exited(self, exited: "asyncio.Future[int]") -> None:
        if not self._exited.done():
            self._exited.set_result(-signal.SIGKILL if exited.cancelled() else exited.result())

    def _rearm(self, seconds: float | None, call: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, call) if seconds is not None and call is not None else None
