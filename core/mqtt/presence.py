"""What the broker says about its clients and itself: AWS IoT's lifecycle events, and `$SYS/broker/…`.

Events are published for every client and subscription, as AWS IoT does it ("Lifecycle events" in its developer guide),
except for client identifiers that no topic can hold. `$SYS` topics are those of Mosquitto that have a meaning here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from core import topics
from core.message import Message
from core.telemetry import Counters

EVENTS = "$aws/events/"
SYS = "$SYS/broker/"
SYS_SECONDS = 10.0  # Mosquitto's sys_interval


@dataclass(slots=True)
class Presence:
    """One connected client, for the operator."""

    client_id: str
    principal: str
    address: str
    mqtt: str
    subscriptions: int
    unsettled_bytes: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Client:
    """Of whom an event tells; `number` is that of the connection, `session` an identifier of it."""

    client_id: str
    principal: str | None
    address: str
    number: int

    def event(self, kind: str, name: str, at: int, **more: object) -> Message | None:
        """A lifecycle event, None when the client's identifier makes no topic."""
        topic = f"{EVENTS}{kind}/{name}/{self.client_id}"
        try:
            topics.check_name(topic)
        except topics.InvalidTopic:
            return None
        fields = {
            "clientId": self.client_id,
            "timestamp": at,
            "eventType": name,
            "sessionIdentifier": f"{self.client_id}-{self.number}",
            "principalIdentifier": self.principal or "",
            **more,
        }
        return Message(topic, orjson.dumps(fields), 1, received_at=at)


def connected(client: Client, at: int) -> Message | None:
    """`$aws/events/presence/connected/{clientId}`."""
    host = client.address.rpartition(":")[0].strip("[]") or client.address
    return client.event("presence", "connected", at, ipAddress=host, versionNumber=client.number)


def disconnected(client: Client, at: int, reason: str) -> Message | None:
    """`$aws/events/presence/disconnected/{clientId}`; `reason` is one of AWS's words."""
    own = reason == "CLIENT_INITIATED_DISCONNECT"
    return client.event(
        "presence", "disconnected", at, versionNumber=client.number, clientInitiatedDisconnect=own,
        disconnectReason=reason,
    )  # fmt: skip


def subscribed(client: Client, at: int, patterns: list[str], *, ended: bool) -> Message | None:
    """`$aws/events/subscriptions/subscribed|unsubscribed/{clientId}`."""
    return client.event("subscriptions", "unsubscribed" if ended else "subscribed", at, topics=patterns)


def broker_topics(facts: dict[str, int], counters: Counters, at: int) -> Iterator[Message]:
    """The `$SYS/broker/…` messages of now: `facts` by topic, and the broker's counters."""
    counted = {
        "messages/received": counters.value("messages_received_total"),
        "messages/stored": counters.value("messages_stored_total"),
        "publish/messages/dropped": counters.value("dropped_total"),
        "connections/total": counters.value("mqtt_connections_total"),
        "connections/refused": counters.value("mqtt_connects_refused_total"),
    }
    for name, value in {**facts, **counted}.items():
        yield Message(SYS + name, str(value).encode(), retain=True, received_at=at)
