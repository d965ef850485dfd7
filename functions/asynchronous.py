"""Asynchronous invocation: accepted events go to workers, are tried again as Lambda would, and end at a destination.

An event is given to the pool in the turn in which it is accepted, unless IN_FLIGHT_MAX of its function are there
already: the others wait here in their order, so that a pool never has ten thousand of them in hand. For all retries and
waiting functions there is one timer, on a clock that does not jump.

Will not keep anything (`queue` does), decide about retries (`retries` does), deliver (`destinations` does) or run
handlers (`workers` do).

Invariants:
1. What was accepted ends by success, or at the destinations of its version, or in the dead-letter store.
2. One function holds at most its `queue_events` here; beyond that callers are told Throttled.
3. An event is given to the version that its name means at that moment, so that it goes to the newest after a deploy.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import count

from core.chance import Randomness
from core.commits import Commits
from core.errors import TidegateError
from core.telemetry import Counters, get_logger
from functions import dead_letters
from functions.dead_letters import Contents, Letter
from functions.destinations import Delivery, Destinations, Notify, Publish, Ways
from functions.errors import (
    FunctionNotFound,
    InvalidParameter,
    RecursiveInvocation,
    Throttled,
    TooLarge,
)
from functions.events import Event
from functions.invocations import ASYNC_EVENT_BYTES_MAX, Ending, Invocation, Result, refused
from functions.manifest import Manifest
from functions.names import FunctionName
from functions.queue import InvocationQueue
from functions.records import Outcome
from functions.retries import (
    DEPTH_MAX,
    ERROR_WAIT_MS,
    Condition,
    GiveUp,
    Retry,
    Verdict,
    decide,
    is_too_old,
    throttled_wait,
)

log = get_logger("functions.asynchronous")

IN_FLIGHT_MAX = 512  # of one function: a few batches of a fast worker, so that none of them waits for us
IN_FLIGHT_LOW = 256  # from here on more are given, many at a time
IN_FLIGHT_BYTES_MAX = 8 << 20  # of one function; one event more is always given. A pool holds four times that
CONTEXT_BYTES_MAX = 64 << 10  # JSON; Lambda takes 3,583 bytes of a client context, and only in synchronous calls
TRACE_MAX = 512  # characters
RETRY_WAIT_MAX_MS = ERROR_WAIT_MS << 1  # nothing on disk makes an event wait longer

Submit = Callable[[Invocation, Callable[[Result], None]], None]


@dataclass(slots=True, eq=False)
class Lane:
    """The events of one function (or alias, or version), in their order; times are of the queue's timeline."""

    function: FunctionName
    waiting: deque[Event] = field(default_factory=deque)
    in_flight: int = 0
    bytes: int = 0  # of payload in flight
    held: int = 0
    throttles: int = 0
    paused: bool = False
    returned: list[Event] = field(default_factory=list)  # reached no handler; they go back to the front
    feeding: bool = False
    manifest: Manifest | None = None  # as it was seen last

    @property
    def has_room(self) -> bool:
        """Whether workers may have another event."""
        return self.in_flight < IN_FLIGHT_MAX and self.bytes < IN_FLIGHT_BYTES_MAX


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """What an operator is shown of a function's queue; `oldest_ms` is the age of the oldest event that waits."""

    function: str
    held: int
    in_flight: int
    waiting: int
    retrying: int
    paused: bool
    oldest_ms: int


class Asynchronous:
    """Drives `queue`; made on a running loop.

    `submit(invocation, done)` gives an event to a worker, and `done(result)` is told on the loop, perhaps at once.
    `manifest(name)` is the version that a name means now; it raises FunctionNotFound. Both are called for each event.
    `publish` and `notify` are the side's ways to MQTT and SNS topics (`destinations.Ways`).
    """

    def __init__(
        self,
        queue: InvocationQueue,
        commits: Commits,
        submit: Submit,
        manifest: Callable[[FunctionName], Manifest],
        publish: Publish,
        counters: Counters,
        notify: Notify | None = None,
    ) -> None:
        self.queue = queue
        self.timeline = queue.timeline
        self.destinations = Destinations(Ways(self._chain, publish, notify), counters, queue.timeline)
        self._commits = commits
        self._submit = submit
        self._manifest = manifest
        self._counters = counters
        self._uuid = Randomness().uuid
        self._random = Randomness().random
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[FunctionName, Lane] = {}
        self._due: list[tuple[int, int, Event | Lane]] = []
        self._number = count()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        queue.released = self._released

    async def load(self) -> None:
        """Take up what the last run left. Raises StorageError."""
        now = 0
        for event in await self.queue.load():
            now = now or self.timeline.now
            lane = self._lane(event.function)
            event.lane = lane
            lane.held += 1
            if event.due > now:
                self._later(min(event.due, now + RETRY_WAIT_MAX_MS), event)
            else:
                lane.waiting.append(event)
        self.wake()

    def wake(self) -> None:
        """Functions were deployed or removed, or workers may be had again: whatever waits for that is tried now."""
        for lane in list(self._lanes.values()):
            if lane.held:
                self._resume(lane)
            else:
                del self._lanes[lane.function]

    def close(self) -> None:
        """Start nothing more; what has not ended is tried again by the next run, whatever workers say of it."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    # -- accepting ----------------------------------------------------------------------------------------------------

    def call(
        self, function: FunctionName, payload: bytes, client_context: bytes = b"", *, depth: int = 0, trace_id: str = ""
    ) -> str:
        """Accept an event, for a commit that keeps it; returns the request id.

        Whoever promises somebody that it is kept asks for that commit: `queue.has_gathered`, `queue.kept()`. `depth` is
        one more than that of the event whose handler calls. Raises FunctionNotFound, Throttled, TooLarge and
        RecursiveInvocation; then nothing was accepted.
        """
        event = self.reserve(function, payload, client_context, depth=depth, trace_id=trace_id)
        self.queue.put(event)
        self._start(event)
        return event.id

    def reserve(
        self, function: FunctionName, payload: bytes, client_context: bytes = b"", *, depth: int = 0, trace_id: str = ""
    ) -> Event:
        """Hold room for an event that somebody else's transaction keeps: `insert` it there, and tell `inserted` after
        the commit, or `dropped`. Raises as `call` does."""
        manifest = self._manifest(function)
        lane = self._lanes.get(function) or self._lane(function)
        if lane.held >= manifest.queue_events:
            raise Throttled(f"the queue of {function} is full: {lane.held:,} events")
        if len(payload) > ASYNC_EVENT_BYTES_MAX or len(client_context) > CONTEXT_BYTES_MAX:
            raise TooLarge(f"an event of {len(payload):,} bytes; asynchronous ones have {ASYNC_EVENT_BYTES_MAX:,}")
        if depth > DEPTH_MAX:
            raise RecursiveInvocation(f"{function}: functions have called each other {DEPTH_MAX} times")
        if trace_id and (len(trace_id) > TRACE_MAX or not trace_id.isascii()):
            trace_id = ""
        now, wall = self.timeline.now, self.timeline.wall
        event = Event(self._uuid(), function, payload, client_context, wall, 0, trace_id, depth, now)
        event.lane = lane
        self.queue.reserve(event)
        lane.held += 1
        return event

    def insert(self, connection: sqlite3.Connection, events: Sequence[Event]) -> None:
        """Keep reserved events; on the store's thread, in a transaction. Raises StorageError when the disk is full."""
        self.queue.insert(connection, events)

    def inserted(self, events: Iterable[Event]) -> None:
        """The transaction with these events is on disk: they go to workers."""
        for event in events:
            self._start(event)

    def dropped(self, events: Iterable[Event]) -> None:
        """There will be no transaction with these events."""
        for event in events:
            self.queue.release(event)

    def _chain(self, function: FunctionName, payload: bytes, depth: int) -> None:
        self.call(function, payload, depth=depth)

    def _lane(self, function: FunctionName) -> Lane:
        return self._lanes.setdefault(function, Lane(function))

    def _released(self, event: Event) -> None:
        event.lane.held -= 1

    # -- giving to workers --------------------------------------------------------------------------------------------

    def _start(self, event: Event) -> None:
        lane: Lane = event.lane
        if lane.has_room and not lane.paused and not self._closed and not lane.waiting:
            self._give(lane, event)
        else:
            lane.waiting.append(event)

    def _give(self, lane: Lane, event: Event) -> None:
        lane.in_flight += 1
        lane.bytes += len(event.payload)
        try:
            self._submit(event, partial(self._done, event))
        except FunctionNotFound as error:
            self._done(event, refused(error))
        except TidegateError as error:
            log.warning("events wait for workers", function=str(lane.function), error=error)
            self._done(event, Result(Ending.THROTTLED))

    def _feed(self, lane: Lane) -> None:
        """Give a lane's oldest events to workers; those that are too old go where failures go.

        After IN_FLIGHT_MAX of them it goes on when they are on disk, so that a full queue that ends holds nobody up.
        """
        manifest, now = self._find(lane), self.timeline.now
        lane.feeding = True
        left = IN_FLIGHT_MAX
        while lane.waiting and lane.has_room and not lane.paused:
            if left == 0:
                lane.paused = True
                self.queue.barrier.then(partial(self._resume_soon, lane))
                break
            left -= 1
            event = lane.waiting.popleft()
            if manifest is not None and is_too_old(now - event.born, manifest):
                self._end(event, Outcome(Condition.AGE_EXCEEDED), manifest)
            else:
                self._give(lane, event)
        lane.feeding = False

    def _find(self, lane: Lane) -> Manifest | None:
        """What is known of its version; of one that cannot be read now, what was known last."""
        try:
            lane.manifest = self._manifest(lane.function)
        except FunctionNotFound:
            lane.manifest = None
        except TidegateError as error:
            log.error("what is known of a function cannot be read", function=str(lane.function), error=error)
        return lane.manifest

    # -- what became of an attempt ------------------------------------------------------------------------------------

    def _done(self, event: Event, result: Result) -> None:
        lane: Lane = event.lane
        lane.in_flight -= 1
        lane.bytes -= len(event.payload)
        if result.ending is Ending.SUCCESS:
            event.attempts += 1
            lane.throttles = 0
            manifest = self._find(lane)
            if manifest is None or manifest.on_success is None:
                self.queue.finish(event)
            else:
                self._end(event, Outcome(Condition.SUCCESS, result), manifest)
        elif not self._closed:
            self._failed(lane, event, result)
        if lane.waiting and lane.in_flight <= IN_FLIGHT_LOW and not (lane.paused or lane.feeding or self._closed):
            self._feed(lane)

    def _failed(self, lane: Lane, event: Event, result: Result) -> None:
        manifest, now = self._find(lane), self.timeline.now
        if manifest is None:
            self._end(event, Outcome(Condition.RETRIES_EXHAUSTED, result), None)
            return
        if result.ending not in {Ending.THROTTLED, Ending.REFUSED}:
            event.attempts += 1
            lane.throttles = 0
        match decide(result.ending, event.attempts, now - event.born, manifest):
            case GiveUp(condition):
                self._end(event, Outcome(condition, result), manifest)
            case Retry(wait):
                event.due = now + wait
                self.queue.retry(event)
                self._counters.add("functions_retries_total", function=lane.function.name)
                self._later(event.due, event)
            case Verdict.THROTTLED:
                lane.returned.append(event)
                if not lane.paused:
                    lane.throttles += 1
                    left = event.born + manifest.max_age * 1_000 - now
                    lane.paused = True
                    self._later(now + min(throttled_wait(lane.throttles, self._random()), left + 1), lane)

    def _end(self, event: Event, outcome: Outcome, manifest: Manifest | None) -> None:
        """Tell the destinations of an event that has ended; a failure without any is a dead letter."""
        delivery = Delivery()
        if outcome.succeeded:
            assert manifest is not None
            assert manifest.on_success is not None
            self.destinations.deliver(event, outcome, manifest.on_success, delivery)
        else:
            self._counters.add("functions_failed_total", function=event.function.name, reason=outcome.condition.value)
            if manifest is not None and manifest.on_failure is not None:
                self.destinations.deliver(event, outcome, manifest.on_failure, delivery)
            if manifest is not None and manifest.dead_letter is not None:
                self.destinations.bury(event, outcome, manifest.dead_letter, delivery)
            if manifest is None or (manifest.on_failure is None and manifest.dead_letter is None):
                delivery.writes.append(self.destinations.burying(event, outcome, ""))
        self._settle(event, outcome, delivery)

    def _settle(self, event: Event, outcome: Outcome, delivery: Delivery) -> None:
        """End an event once every message that it made is kept; one that is not kept is a dead letter."""
        if not delivery.messages:
            self.queue.settle(event, delivery.writes)
            return
        arn, barrier = delivery.messages.pop()

        def told(kept: bool) -> None:
            if not kept:
                delivery.writes.append(self.destinations.burying(event, outcome, f"{arn}: nobody keeps the message"))
            self._settle(event, outcome, delivery)

        barrier.then(told)

    # -- time ---------------------------------------------------------------------------------------------------------

    def _later(self, due: int, what: Event | Lane) -> None:
        heappush(self._due, (due, next(self._number), what))
        if self._due[0][2] is what:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._due and not self._closed:
            seconds = max(0, self._due[0][0] - self.timeline.now) / 1_000
            self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        now, self._timer = self.timeline.now, None
        retries: dict[Lane, list[Event]] = {}
        while self._due and self._due[0][0] <= now:
            what = heappop(self._due)[2]
            if isinstance(what, Lane):
                self._resume(what)
            else:
                retries.setdefault(what.lane, []).append(what)
        for lane, due in retries.items():
            lane.waiting.extendleft(reversed(due))
            if not lane.paused and not self._closed:
                self._feed(lane)
        self._arm()

    def _resume_soon(self, lane: Lane, _kept: bool) -> None:
        self._loop.call_soon(self._resume, lane)

    def _resume(self, lane: Lane) -> None:
        returned, lane.returned = sorted(lane.returned, key=lambda event: event.born), []
        lane.waiting.extendleft(reversed(returned))
        lane.paused = False
        if not self._closed:
            self._feed(lane)

    # -- for people ---------------------------------------------------------------------------------------------------

    def status(self) -> list[LaneStatus]:
        """Every function that has events, or had some lately."""
        now = self.timeline.now
        found = []
        for lane in self._lanes.values():
            waiting = len(lane.waiting) + len(lane.returned)
            oldest = min((event.born for event in (*list(lane.waiting)[:1], *lane.returned)), default=now)
            retrying = lane.held - lane.in_flight - waiting
            found.append(
                LaneStatus(str(lane.function), lane.held, lane.in_flight, waiting, retrying, lane.paused, now - oldest)
            )
        return found

    async def dead_letters(self, function: str = "", after: int = 0, most: int = 100) -> list[Letter]:
        """The oldest dead letters, of one function or of all. Raises StorageError."""
        return await self._commits.store.run(lambda c: dead_letters.letters(c, function, after, most))

    async def dead_letter(self, identity: int) -> Contents:
        """One of them whole. Raises InvalidParameter when there is none, StorageError."""
        found = await self._commits.store.run(lambda connection: dead_letters.get(connection, identity))
        if found is None:
            raise InvalidParameter(f"there is no dead letter {identity}")
        return found

    async def replay(self, identity: int) -> str:
        """Accept a dead letter as a new event, and take it out of the store; returns the request id.

        Raises as `call` does, InvalidParameter and StorageError.
        """
        found = await self.dead_letter(identity)
        if found.payload is None:
            raise InvalidParameter(f"the dead letter {identity} is damaged on disk; it can only be dropped")
        event = self.reserve(found.function, found.payload, found.client_context)
        self.queue.put(event)
        self.queue.write([lambda connection: _drop(connection, identity)])
        self._start(event)
        await self.queue.kept()
        return event.id

    async def drop(self, identity: int) -> None:
        """Delete a dead letter. Raises InvalidParameter, StorageError."""
        if not await self._commits.store.run(lambda connection: dead_letters.drop(connection, identity)):
            raise InvalidParameter(f"there is no dead letter {identity}")


def _drop(connection: sqlite3.Connection, identity: int) -> None:
    dead_letters.drop(connection, identity)
