"""Where the results of asynchronous invocations go: another function, a queue, an MQTT topic, an SNS topic.

What is delivered is in the same commit as the end of the event that it is about, or before it. What cannot be delivered
(a function that is not there, a full queue, a document that is too large, a loop of functions, a kind of destination
that this side does not have) goes to the dead-letter store with the reason: counted, logged, and never lost.

Will not decide whether an event has ended (`retries` does).
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import orjson

from core import queues
from core.commits import Barrier
from core.errors import TidegateError
from core.message import Message
from core.receipts import Batch, Receipt
from core.receipts import Kind as Outcomes
from core.telemetry import Counters, get_logger
from core.timeline import Timeline
from functions import dead_letters, records
from functions.errors import FunctionsError
from functions.events import Event
from functions.invocations import ASYNC_EVENT_BYTES_MAX
from functions.names import FunctionName
from functions.queue import Told, Write
from functions.records import Attributes, Outcome

log = get_logger("functions.destinations")

TOPIC_BYTES_MAX = 1 << 20  # of a message that we publish
SNS_BYTES_MAX = 256 << 10  # (SNS quotas)

Publish = Callable[[str, bytes], Barrier | None]
Notify = Callable[[sqlite3.Connection, str, bytes, Attributes], None]


class Kind(Enum):
    """What a destination is."""

    FUNCTION = "lambda"
    QUEUE = "sqs"
    SNS = "sns"
    BUS = "events"
    TOPIC = "iot"


@dataclass(frozen=True, slots=True)
class Destination:
    """An ARN, understood: `name` is the function, queue or MQTT topic."""

    kind: Kind
    name: str
    arn: str


def parse(text: str) -> Destination:
    """Read an ARN, a queue's URL, or the bare name of a function. Raises FunctionsError, QueueError."""
    if text.startswith(("https://", "http://")):
        return Destination(Kind.QUEUE, queues.queue_name(text), text)
    parts = text.split(":", 5)
    if parts[0] != "arn" or len(parts) < 6:
        return Destination(Kind.FUNCTION, str(FunctionName.parse(text)), text)
    match parts[2]:
        case "lambda":
            return Destination(Kind.FUNCTION, str(FunctionName.parse(text)), text)
        case "sqs":
            return Destination(Kind.QUEUE, queues.queue_name(text), text)
        case "sns":
            return Destination(Kind.SNS, parts[5], text)
        case "events":
            return Destination(Kind.BUS, parts[5], text)
        case "iot" if parts[5].startswith("topic/") and len(parts[5]) > len("topic/"):
            return Destination(Kind.TOPIC, parts[5].removeprefix("topic/"), text)
    raise FunctionsError(f"{text[:200]!r} is no destination: an ARN of lambda, sqs, sns, events or iot (topic/NAME)")


@dataclass(frozen=True, slots=True)
class Ways:
    """How the side delivers.

    `call(function, payload, depth)` puts an event into the queue and raises FunctionsError. `publish(topic, payload)`
    gives a message to the broker, the rules and the lanes, and returns what is settled when that is kept, or None when
    it is by the next commit. `notify(connection, arn, body, attributes)` writes to an SNS topic inside a transaction
    and raises TidegateError; None where there are no such topics.
    """

    call: Callable[[FunctionName, bytes, int], object]
    publish: Publish
    notify: Notify | None = None


@dataclass(slots=True)
class Delivery:
    """What the end of an event needs: rows that are written with it, and messages, by their topic, to wait for."""

    writes: list[Write] = field(default_factory=list)
    messages: list[tuple[str, Barrier]] = field(default_factory=list)


class Undeliverable(TidegateError):
    """Why a destination does not get what it should."""


class Destinations:
    """Delivers; `sent` is told of each queue that has a new message on disk."""

    def __init__(self, ways: Ways, counters: Counters, clock: Timeline) -> None:
        self.sent: Callable[[str], None] = lambda _: None
        self._ways = ways
        self._counters = counters
        self._clock = clock

    def deliver(self, event: Event, outcome: Outcome, arn: str, delivery: Delivery) -> None:
        """Tell a destination how an event ended; what has to happen for that goes into `delivery`."""
        try:
            destination = parse(arn)
            made = records.record(event, outcome, self._clock.wall)
            match destination.kind:
                case Kind.FUNCTION:
                    body = bounded(orjson.dumps(made), ASYNC_EVENT_BYTES_MAX)
                    self._ways.call(FunctionName.parse(destination.name), body, event.depth + 1)
                case Kind.TOPIC:
                    self._publish(destination, bounded(orjson.dumps(made), TOPIC_BYTES_MAX), delivery)
                case Kind.QUEUE:
                    body = bounded(orjson.dumps(made), queues.MESSAGE_BYTES_MAX)
                    delivery.writes.append(self._sending(event, outcome, destination, body, {}))
                case Kind.SNS:
                    body = bounded(orjson.dumps(made), SNS_BYTES_MAX)
                    delivery.writes.append(self._notifying(event, outcome, destination, body, {}))
                case Kind.BUS:
                    raise Undeliverable(f"there is no event bus here: {arn}")
        except TidegateError as error:
            delivery.writes.append(self.burying(event, outcome, f"{arn}: {error}"))

    def bury(self, event: Event, outcome: Outcome, arn: str, delivery: Delivery) -> None:
        """Give a dead-letter queue the event as it was; it may also be an MQTT topic."""
        try:
            destination = parse(arn)
            attributes = records.dead_letter_attributes(event, outcome)
            match destination.kind:
                case Kind.QUEUE:
                    delivery.writes.append(self._sending(event, outcome, destination, event.payload, attributes))
                case Kind.SNS:
                    delivery.writes.append(self._notifying(event, outcome, destination, event.payload, attributes))
                case Kind.TOPIC:
                    self._publish(destination, event.payload, delivery)
                case _:
                    raise Undeliverable(f"a {destination.kind.value} is no dead-letter queue")
        except TidegateError as error:
            delivery.writes.append(self.burying(event, outcome, f"{arn}: {error}"))

    def _publish(self, destination: Destination, payload: bytes, delivery: Delivery) -> None:
        try:
            kept = self._ways.publish(destination.name, payload)
        except TidegateError:
            raise
        except Exception as fault:  # the event would be lost with it
            log.fault("a destination's message could not be published", fault, topic=destination.name)
            raise Undeliverable(f"it could not be published: {fault}") from fault
        if kept is not None:
            delivery.messages.append((destination.arn, kept))

    def burying(self, event: Event, outcome: Outcome, reason: str) -> Write:
        """The writing of an event into the dead-letter store."""
        response = outcome.result.payload if outcome.result is not None else b""
        condition, at = outcome.condition.value, self._clock.wall

        def write(connection: sqlite3.Connection) -> Told:
            lost = dead_letters.add(connection, event, condition, reason, response, at)
            return lambda: self._buried(event, condition, reason, lost)

        return write

    def _buried(self, event: Event, condition: str, reason: str, lost: int) -> None:
        function = event.function.name
        self._counters.add("functions_dead_letters_total", function=function)
        log.warning("an event is in the dead-letter store", function=str(event.function), request=event.id,
                    condition=condition, reason=reason or "no destination")  # fmt: skip
        if lost:
            self._counters.dropped("dead letters full", lost, target="functions")
            log.error("the dead-letter store is full; its oldest events are lost", events=lost)

    def _sending(
        self, event: Event, outcome: Outcome, destination: Destination, body: bytes, attributes: Attributes
    ) -> Write:
        now, wall = self._clock.now, self._clock.wall

        def write(connection: sqlite3.Connection) -> Told | None:
            try:
                queues.send(connection, destination.name, body, now, wall, attributes)
            except queues.QueueError as error:
                return self.burying(event, outcome, f"{destination.arn}: {error}")(connection)
            return lambda: self.sent(destination.name)

        return write

    def _notifying(
        self, event: Event, outcome: Outcome, destination: Destination, body: bytes, attributes: Attributes
    ) -> Write:
        notify = self._ways.notify
        if notify is None:
            raise Undeliverable("there are no SNS topics here")

        def write(connection: sqlite3.Connection) -> Told | None:
            connection.execute("SAVEPOINT notification")
            try:
                notify(connection, destination.arn, body, attributes)
            except (TidegateError, ValueError) as error:
                connection.execute("ROLLBACK TO notification")
                return self.burying(event, outcome, f"{destination.arn}: {error}")(connection)
            finally:
                connection.execute("RELEASE notification")
            return None

        return write


def bounded(body: bytes, most: int) -> bytes:
    """A document as it is; raises Undeliverable when it is too large."""
    if len(body) > most:
        raise Undeliverable(f"a document of {len(body):,} bytes; it takes {most:,}")
    return body


def promised(message: Message) -> tuple[Batch, Barrier]:
    """A message on its way to whoever accepts messages, and the promise that it is kept."""
    barrier = Barrier()

    def settled(receipt: Receipt) -> None:
        outcome = receipt.exceptions.get(0, receipt.outcome)
        barrier.settle(kept=outcome is not None and outcome.kind is not Outcomes.REJECTED)

    return Batch([message], Receipt(settled)), barrier
