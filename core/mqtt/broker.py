"""The broker of one site: every connection, session and subscription, and no I/O.

Bytes and the time come in through `Connection.receive` and `Broker.expire`; packets leave through each connection's
outgoing list. What a device publishes, its will too, goes to `accept` with a receipt: the PUBACK leaves when that is
settled, not before. Whoever accepts gives the messages to subscribers by `publish`, when it thinks that right.

Will not store messages (`accept` does), nor decide who may do what (`access` does), nor open sockets (`listener` does).
"""

from collections.abc import Callable
from dataclasses import dataclass

from mqtt5 import DisconnectReasonCode

from core.message import Message
from core.mqtt.access import Access
from core.mqtt.connection import Connection
from core.mqtt.limits import Limits
from core.mqtt.router import Router
from core.mqtt.session import Session
from core.receipts import Batch, Receipt
from core.telemetry import Counters


@dataclass(slots=True)
class Presence:
    """One connected client, for the operator."""

    client_id: str
    address: str
    mqtt: str
    subscriptions: int
    unsettled_bytes: int


class Broker:
    """All connections of one daemon. `accept(batch)` takes what devices publish and settles the batch's receipt."""

    def __init__(
        self, access: Access, accept: Callable[[Batch], None], counters: Counters, limits: Limits | None = None
    ) -> None:
        self.access = access
        self.accept = accept
        self.counters = counters
        self.limits = limits or Limits()
        self.router = Router()
        self.unsettled = 0  # bytes read from all connections and not yet stored
        self._connections: set[Connection] = set()
        self._clients: dict[str, Connection] = {}

    def open(self, address: str, principal: str | None, wake: Callable[[], None], now: float) -> Connection:
        """A peer connected; `wake` is called when bytes for it are waiting outside of `receive`."""
        connection = Connection(self, address, principal, wake, now)
        self._connections.add(connection)
        self.counters.add("mqtt_connections_total")
        return connection

    def clients(self) -> list[Presence]:
        """Who is connected now."""
        return [
            Presence(
                c.identity.client_id,
                c.identity.address,
                "5" if c.version == 5 else "3.1.1",
                len(c.session.subscriptions),
                c.unsettled,
            )
            for c in self._clients.values()
            if c.session is not None
        ]

    def publish(self, messages: list[Message]) -> None:
        """Give messages to local subscribers and to the retained store; react first, whoever stores comes after."""
        for message in messages:
            if message.retain and not self.router.retain(message):
                self.counters.dropped("retained store full")
        if self.router.subscriptions:
            for session in self.router.route(messages):
                self._disconnect_slow(session)

    def expire(self, now: float, at: int) -> None:
        """Close what has been silent for too long; call it about once a second."""
        # While messages of a peer are unsettled it may be us who do not listen, so its silence says nothing.
        for connection in [c for c in self._connections if now >= c.deadline and not c.unsettled]:
            connection.expire(at)

    def shut_down(self) -> None:
        """Tell every client that the server goes away."""
        for connection in list(self._connections):
            connection.close(DisconnectReasonCode.SERVER_SHUTTING_DOWN)

    def attach(self, connection: Connection, at: int) -> None:
        """A client is admitted; whoever had its identifier is disconnected (MQTT 5 section 3.1.4-3)."""
        client_id = connection.identity.client_id
        former = self._clients.get(client_id)
        if former is not None:
            former.close(DisconnectReasonCode.SESSION_TAKEN_OVER)
            self.detach(former, at)
        self._clients[client_id] = connection

    def detach(self, connection: Connection, at: int) -> None:
        """A connection has ended: forget it, and publish its will unless it said goodbye. May be called twice."""
        self._connections.discard(connection)
        session = connection.session
        if session is None:
            return
        connection.session = None
        self.router.forget(session)
        if self._clients.get(session.client_id) is connection:
            del self._clients[session.client_id]
        if connection.will is not None:
            will, connection.will = connection.will, None
            will.received_at = at
            self.accept(Batch([will], Receipt(), session.client_id))

    def _disconnect_slow(self, session: Session) -> None:
        connection = self._clients.get(session.client_id)
        if connection is not None and connection.session is session:
            self.counters.add("mqtt_slow_consumers_total")
            connection.close(DisconnectReasonCode.QUOTA_EXCEEDED)
