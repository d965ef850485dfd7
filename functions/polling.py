"""Queues as event sources: a function is given batches of messages, as Lambda's event source mapping for SQS does.

A batch is invoked synchronously. When the handler is content its messages are deleted; otherwise they become visible
again after the visibility time-out, and after too many receptions the queue gives them to its dead-letter queue
(`core.queues`). With `report_failures` a handler says which messages failed, and the others are deleted. The retries
of asynchronous invocation do not apply.

Each source has as many pollers as the function has workers, up to POLLERS_MAX; they wait for a message to be sent, and
look by themselves when one becomes visible again. Queues are those of this machine.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import orjson

from core import queues
from core.chance import Randomness
from core.commits import Commits
from core.errors import StorageError
from core.queues import Message, QueueError
from core.telemetry import Counters, get_logger
from core.timeline import Timeline
from functions.errors import FunctionsError
from functions.invocations import EVENT_BYTES_MAX, Ending, Invocation, Result
from functions.manifest import Manifest, QueueSource
from functions.names import ACCOUNT_ID, REGION, FunctionName

T = TypeVar("T")
Submit = Callable[[Invocation, Callable[[Result], None]], None]

log = get_logger("functions.polling")

POLLERS_MAX = 5  # of one source: what Lambda begins with
BATCH_WITHOUT_WINDOW_MAX = 10  # (Lambda)
LOOK_SECONDS = 20.0  # at most, as SQS's long poll
RETRY_SECONDS = 1.0  # after a disk that refused, or workers that were not to be had
RETRY_SECONDS_MAX = 60.0
VISIBILITY_TIMES = 6  # the function's time-out, as AWS advises, where the queue's own is shorter
BATCH_BYTES_MAX = EVENT_BYTES_MAX // 2  # of messages: quoting may double them


@dataclass(frozen=True, slots=True)
class Source:
    """One event source of a function, as the current version has it."""

    function: FunctionName
    manifest: Manifest
    source: QueueSource

    @property
    def queue(self) -> str:
        """The queue's name. Raises QueueError."""
        return queues.queue_name(self.source.queue)

    @property
    def arn(self) -> str:
        """The queue's ARN, as messages tell it."""
        if self.source.queue.startswith("arn:"):
            return self.source.queue
        return f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:{self.queue}"

    @property
    def batch(self) -> int:
        """How many messages an event has at most."""
        size = self.source.batch_size
        return size if self.source.window >= 1 else min(size, BATCH_WITHOUT_WINDOW_MAX)


def configure(connection: sqlite3.Connection, wanted: Iterable[Source]) -> None:
    """Give queues the settings that their templates have. Raises QueueError."""
    for source in wanted:
        if (written := source.source.settings) is not None:
            dead_letter = queues.queue_name(written.dead_letter) if written.dead_letter else ""
            settings = replace(
                queues.settings(connection, source.queue),
                visibility=written.visibility * 1_000,
                max_receives=written.max_receives,
                dead_letter=dead_letter,
            )
            queues.configure(connection, source.queue, settings)


def sources(function: FunctionName, manifest: Manifest) -> Iterable[Source]:
    """The enabled sources of a version."""
    return (Source(function, manifest, each) for each in manifest.queues if each.enabled)


def event(messages: Iterable[Message], arn: str) -> bytes:
    """The event document of a batch."""
    return orjson.dumps({"Records": [_record(message, arn) for message in messages]})


def _record(message: Message, arn: str) -> dict[str, Any]:
    parts = arn.split(":")
    return {
        "messageId": message.id,
        "receiptHandle": message.receipt,
        "body": message.body.decode(errors="replace"),
        "attributes": {
            "ApproximateReceiveCount": str(message.receives),
            "SentTimestamp": str(message.sent_ms),
            "SenderId": ACCOUNT_ID,
            "ApproximateFirstReceiveTimestamp": str(message.first_received_ms),
        },
        "messageAttributes": {
            name: {
                "binaryValue" if kind.startswith("Binary") else "stringValue": value,
                "stringListValues": [],
                "binaryListValues": [],
                "dataType": kind,
            }
            for name, (kind, value) in message.attributes.items()
        },
        "md5OfBody": message.md5,
        "eventSource": "aws:sqs",
        "eventSourceARN": arn,
        "awsRegion": parts[3] if len(parts) > 3 and parts[3] else REGION,
    }


def failures(messages: list[Message], result: Result, *, reported: bool) -> set[str]:
    """The ids of the messages that stay in the queue after an attempt (Lambda developer guide, "Reporting batch item
    failures": an answer that cannot be read means all of them, one without failures none)."""
    everything = {message.id for message in messages}
    if result.ending is not Ending.SUCCESS:
        return everything
    if not reported:
        return set()
    try:
        told = orjson.loads(result.payload or b"null")
        if told is None:
            return set()
        failed = {item["itemIdentifier"] for item in told.get("batchItemFailures") or []}
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        return everything
    return everything if failed - everything else failed


class Polling:
    """The pollers of one daemon. `submit(invocation, done)` gives a batch to a worker, as in
    `asynchronous.Asynchronous`."""

    def __init__(self, commits: Commits, submit: Submit, counters: Counters, clock: Timeline) -> None:
        self._commits = commits
        self._submit = submit
        self._counters = counters
        self._clock = clock
        self._uuid = Randomness().uuid
        self._sources: list[Source] = []
        self._replaced = asyncio.Event()
        self._sent: dict[str, asyncio.Event] = {}

    def replace(self, wanted: Iterable[Source]) -> None:
        """Poll these sources from now on; a batch that is in hand is finished by its poller. Faulty ones are logged."""
        self._sources = []
        for source in wanted:
            try:
                self._sent.setdefault(source.queue, asyncio.Event())
            except QueueError as error:
                log.error("an event source cannot be used", function=str(source.function), error=error)
            else:
                self._sources.append(source)
        current = list(self._sources)
        self._commits.store.submit(lambda connection: configure(connection, current), _configured)
        self._replaced.set()
        for waiting in self._sent.values():
            waiting.set()

    def sent(self, queue: str) -> None:
        """A queue has a new message on disk."""
        if queue in self._sent:
            self._sent[queue].set()

    async def run(self) -> None:
        """Poll until cancelled. Raises StorageError when the disk refuses at start."""
        now = self._clock.now
        await self._store(lambda connection: queues.forget_receptions(connection, now))
        running: list[Source] = []
        async with asyncio.TaskGroup() as group:
            while True:
                self._replaced.clear()
                for source in self._sources:
                    if not any(source is known for known in running):
                        for _ in range(min(source.manifest.concurrency, POLLERS_MAX)):
                            group.create_task(self._poll(source), name=f"queue {source.queue}")
                running = list(self._sources)
                await self._replaced.wait()

    def _is_current(self, source: Source) -> bool:
        return any(source is known for known in self._sources)

    async def _poll(self, source: Source) -> None:
        wait = RETRY_SECONDS
        while self._is_current(source):
            try:
                messages = await self._receive(source)
                if not messages or await self._handle(source, messages):
                    wait = RETRY_SECONDS
                    continue
            except StorageError as error:
                log.warning("a queue cannot be read", queue=source.queue, error=error)
            await asyncio.sleep(wait)
            wait = min(2 * wait, RETRY_SECONDS_MAX)

    async def _receive(self, source: Source) -> list[Message]:
        """The next batch, once there is one; nothing when something may have changed."""
        sent = self._sent[source.queue]
        sent.clear()
        messages, visible_at = await self._take(source, source.batch, BATCH_BYTES_MAX)
        if not messages:
            await self._wait_for(sent, self._seconds(visible_at))
            return []
        loop = asyncio.get_running_loop()
        ends = loop.time() + source.source.window
        left = BATCH_BYTES_MAX - sum(len(message.body) for message in messages)
        while len(messages) < source.batch and left > 0 and loop.time() < ends and self._is_current(source):
            sent.clear()
            more, _ = await self._take(source, source.batch - len(messages), left)
            messages += more
            left -= sum(len(message.body) for message in more)
            if not more:
                await self._wait_for(sent, ends - loop.time())
        return messages

    async def _take(self, source: Source, most: int, size: int) -> tuple[list[Message], int | None]:
        """Some messages, or when the next will be visible."""
        now, wall, queue = self._clock.now, self._clock.wall, source.queue

        def take(connection: sqlite3.Connection) -> tuple[list[Message], int, int | None]:
            visibility = queues.settings(connection, queue).visibility
            visibility = max(visibility, VISIBILITY_TIMES * source.manifest.timeout * 1_000)
            found, damaged = queues.receive(connection, queue, now, wall, most, visibility, size)
            return found, damaged, None if found else queues.next_visible(connection, queue)

        found, damaged, visible_at = await self._store(take)
        if damaged:
            self._counters.dropped("damaged on disk", damaged, target="queues")
            log.error("messages of a queue are damaged and lost", queue=queue, messages=damaged)
        return found, visible_at

    async def _handle(self, source: Source, messages: list[Message]) -> bool:
        """Invoke the function with a batch; False when no worker was to be had. Raises StorageError."""
        body = event(messages, source.arn)
        while len(body) > EVENT_BYTES_MAX and len(messages) > 1:  # characters that JSON writes as six
            half = len(messages) // 2
            await self._show(source, messages[half:])
            messages = messages[:half]
            body = event(messages, source.arn)
        result = await self._invoke(source.function, body)
        if result.ending is Ending.THROTTLED:
            await self._show(source, messages)
            return False
        failed = failures(messages, result, reported=source.source.report_failures)
        done = [message.receipt for message in messages if message.id not in failed]
        await self._store(lambda connection: queues.delete(connection, source.queue, done))
        if failed:
            self._counters.add("functions_messages_failed_total", len(failed), function=source.function.name)
        return True

    async def _show(self, source: Source, messages: list[Message]) -> None:
        """Make messages visible at once."""
        now, receipts = self._clock.now, [message.receipt for message in messages]
        await self._store(lambda connection: queues.change_visibility(connection, source.queue, receipts, now, 0))

    async def _invoke(self, function: FunctionName, body: bytes) -> Result:
        ended: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def done(result: Result) -> None:
            if not ended.done():
                ended.set_result(result)

        try:
            self._submit(Invocation(self._uuid(), function, body, enqueued_ms=self._clock.wall), done)
        except FunctionsError as error:
            log.warning("a queue's messages wait for workers", function=str(function), error=error)
            return Result(Ending.THROTTLED)
        return await ended

    async def _store(self, job: Callable[[sqlite3.Connection], T]) -> T:
        return await self._commits.store.run(job)

    def _seconds(self, visible_at: int | None) -> float:
        """Until a message will be visible that nobody sees now; one that was just taken by another counts as that."""
        if visible_at is None:
            return LOOK_SECONDS
        return min(max(0.0, (visible_at - self._clock.now) / 1_000), LOOK_SECONDS)

    async def _wait_for(self, sent: asyncio.Event, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await sent.wait()


def _configured(_: object, error: Exception | None) -> None:
    if error is not None:
        log.error("queues keep the settings that they had", error=error)
