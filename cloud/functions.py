"""The functions at this cloud: what rules and subscriptions give them, and what they may say here.

Events are kept by the transaction that takes the message out of the inbox, so each message gives a function one event.
What handlers publish goes the way of what a client publishes here.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence

from cloud.config import CloudConfig
from core.commits import Barrier, Commits
from core.errors import TidegateError
from core.http.publishing import Publisher
from core.message import Message
from core.mqtt.broker import Broker
from core.mqtt.listener import now_ms
from core.receipts import Batch
from core.telemetry import Counters, get_logger
from functions.destinations import Notify, promised
from functions.events import Event
from functions.names import FunctionName
from functions.service import Functions, Site
from functions.subscriptions import Subscriptions, subject
from rules.errors import ActionFailed
from rules.event import NO_ACCOUNT

log = get_logger("cloud.functions")


class Calling:
    """How a step of the worker calls functions: room is held first, and given back unless the step is committed."""

    def __init__(self, functions: Functions, subscriptions: Subscriptions, counters: Counters) -> None:
        self._asynchronous = functions.asynchronous
        self._subscriptions = subscriptions
        self._counters = counters

    def reserve(self, function: str, payload: bytes, client_context: bytes = b"") -> Event:
        """An event for a function. Raises ActionFailed."""
        try:
            return self._asynchronous.reserve(FunctionName.parse(function), payload, client_context)
        except TidegateError as error:
            raise ActionFailed(str(error)) from None

    def heard(self, message: Message) -> Iterator[Event]:
        """The events of functions that subscribed to a message's topic; what cannot be taken is counted and logged."""
        for function in self._subscriptions.match(message.topic):
            try:
                yield self.reserve(str(function), message.payload, subject(message.topic))
            except ActionFailed as error:
                self._counters.dropped("function cannot be called", function=function.name)
                log.warning("an event was not taken", function=str(function), topic=message.topic, error=error)

    def insert(self, connection: sqlite3.Connection, events: Sequence[Event]) -> None:
        """Keep events, in the step's transaction. Raises StorageError."""
        self._asynchronous.insert(connection, events)

    def settle(self, events: Sequence[Event], *, kept: bool) -> None:
        """The step is committed, or not."""
        if kept:
            self._asynchronous.inserted(events)
        else:
            self._asynchronous.dropped(events)


def make(
    config: CloudConfig,
    broker: Broker,
    accept: Callable[[Batch], None],
    commits: Commits,
    notify: Notify,
    counters: Counters,
) -> tuple[Functions, Subscriptions] | None:
    """The functions that the configuration names; None when it names none. Raises ConfigurationError."""
    if config.functions is None:
        return None

    def publish(topic: str, payload: bytes) -> Barrier:
        batch, barrier = promised(Message(topic, payload, 1, received_at=now_ms()))
        accept(batch)
        return barrier

    def reply(client_id: str, message: Message) -> None:
        connection = broker.connection(client_id)
        if connection is None or not broker.reply(connection, message):
            counters.dropped("nobody waits for the result")

    account = config.rules.account if config.rules is not None else NO_ACCOUNT
    site = Site(publish, Publisher(broker).publish, notify=notify, account=account)
    functions = Functions(config.functions, config.cloud.data_dir, commits, counters, site)
    subscriptions = Subscriptions(functions.call, functions.request, reply, counters)
    functions.exchange = subscriptions.replace
    return functions, subscriptions
