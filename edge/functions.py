"""The functions at this edge: what they hear and what they may say here.

Events from rules and subscriptions are kept by the commit that keeps the message they came with. What handlers publish
goes the way of a device's message.
"""

from functools import lru_cache

from core.commits import Barrier
from core.http.iotdata import Shadows
from core.http.publishing import Publisher
from core.message import Message
from core.mqtt.broker import Broker
from core.mqtt.listener import now_ms
from core.telemetry import Counters
from edge.buffer import Buffer
from edge.config import EdgeConfig
from edge.gateway import Gateway
from functions.destinations import promised
from functions.names import FunctionName
from functions.service import Functions, Site
from functions.subscriptions import Subscriptions
from rules.event import NO_ACCOUNT

NAMES_CACHED = 256  # of functions, as rules say them; a rule says the same with every message


def make(
    config: EdgeConfig, gateway: Gateway, broker: Broker, buffer: Buffer, shadows: Shadows, counters: Counters
) -> Functions | None:
    """The functions that the configuration names, joined to the way of a message; None when it names none.

    Raises ConfigurationError.
    """
    if config.functions is None:
        return None

    def publish(topic: str, payload: bytes) -> Barrier:
        batch, barrier = promised(Message(topic, payload, 1, received_at=now_ms()))
        gateway.accept(batch)
        return barrier

    def reply(client_id: str, message: Message) -> None:
        connection = broker.connection(client_id)
        if connection is None or not broker.reply(connection, message):
            counters.dropped("nobody waits for the result")

    account = config.rules.account if config.rules is not None else NO_ACCOUNT
    site = Site(publish, Publisher(broker).publish, shadows, account=account, name=config.edge.name)
    functions = Functions(config.functions, config.edge.data_dir, buffer.commits, counters, site)
    subscriptions = Subscriptions(functions.call, functions.request, reply, counters)
    functions.exchange = subscriptions.replace

    def hear(messages: list[Message]) -> None:
        subscriptions.hear(messages)
        subscriptions.serve(messages)

    gateway.hear = hear
    gateway.called = lambda: functions.queue.has_gathered
    parse = lru_cache(NAMES_CACHED)(FunctionName.parse)
    gateway.reactions.call = lambda name, event: functions.call(parse(name), event)
    return functions
