"""The broker of one site: every connection, session and subscription, and no I/O.

Bytes and the time come in through `Connection.receive` and `Broker.expire`; packets leave through each connection's
outgoing list. What a device publishes, its will and its coming and going too, goes to `accept` with a receipt: the
PUBACK leaves when that is settled, and when `journal` has on disk what sessions are owed of it. Whoever accepts gives
the messages to subscribers by `publish`, when it thinks that right.

Will not store messages for others (`accept` does), nor decide who may do what (`access` does), nor open sockets
(`listener` does).
"""

from collections.abc import Callable

from mqtt5 import ConnAckReasonCode, DisconnectReasonCode

from core.commits import Barrier
from core.message import CLOCK_PLAUSIBLE_MS, Message
from core.mqtt import presence
from core.mqtt.access import Access, Grant, Peer
from core.mqtt.admission import Wish
from core.mqtt.connection import Connection
from core.mqtt.groups import split
from core.mqtt.journal import KEPT, Journal
from core.mqtt.limits import Limits
from core.mqtt.parcels import Parcel
from core.mqtt.presence import Presence
from core.mqtt.records import Stored
from core.mqtt.restoring import restore
from core.mqtt.retained import RETAINED_MAX, Retained
from core.mqtt.router import Router
from core.mqtt.session import Session
from core.mqtt.wills import Wills
from core.receipts import Batch, Receipt
from core.telemetry import Counters
from core.topics import BASIC_INGEST

RETAINED_SECONDS = 60.0  # how often expired retained messages are looked for; nobody is sent one anyway


class Broker:
    """All connections of one daemon. `accept(batch)` takes what devices publish and settles the batch's receipt."""

    def __init__(
        self,
        access: Access,
        accept: Callable[[Batch], None],
        counters: Counters,
        limits: Limits | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.access = access
        self.accept = accept
        self.counters = counters
        self.limits = limits or Limits()
        self.journal = journal or Journal()
        self.router = Router()
        self.retained = Retained()
        self.serve: Callable[[str, Message], None] = lambda _client_id, _message: None  # takes requests, see `Inbound`
        self.now = 0.0  # monotonic seconds and ms since the epoch, as of the last call from the shell
        self.at = 0
        self.unsettled = 0  # bytes read from all connections and not yet stored
        self.queued_bytes = 0  # waiting for all clients
        self._connections: set[Connection] = set()
        self._clients: dict[str, Connection] = {}
        self._sessions: dict[str, Session] = {}
        self._away: dict[Session, None] = {}  # those whose clients are gone
        self._wills = Wills()
        self._numbers = 0
        self._sys_due = 0.0
        self._retained_due = 0.0

    def open(self, peer: Peer, wake: Callable[[], None], now: float) -> Connection:
        """A peer connected; `wake` is called when bytes for it are waiting outside of `receive`."""
        connection = Connection(self, peer, wake, now)
        self._connections.add(connection)
        self.counters.add("mqtt_connections_total")
        return connection

    def clients(self) -> list[Presence]:
        """Who is connected now."""
        return [
            Presence(
                session.client_id,
                session.owner or "anonymous",
                c.peer.address,
                "5" if c.version == 5 else "3.1.1",
                len(session.subscriptions),
                c.unsettled,
                session.waiting,
            )
            for c in self._clients.values()
            if (session := c.session) is not None
        ]

    @property
    def sessions(self) -> int:
        """How many sessions there are, with those whose clients are away."""
        return len(self._sessions)

    # -- messages -----------------------------------------------------------------------------------------------------

    def publish(self, messages: list[Message]) -> None:
        """Give messages to local subscribers and to the retained store; react first, whoever stores comes after."""
        for message in messages:
            if message.retain:
                self._retain(message)
        if self.router.subscriptions:
            for session in self.router.route(messages):
                self._disconnect_slow(session)

    def reply(self, connection: Connection, message: Message) -> bool:
        """Answer a request on the connection that it came on, if that has subscribed to the topic; with QoS 0.

        So nobody else gets it who goes on with the session later, and it is never on the disk. Returns whether the
        client is there and has subscribed.
        """
        session = connection.session
        kind = self.router.kind(session, message.topic) if session is not None else None
        if session is None or kind is None:
            return False
        session.deliver(Parcel(message, 0, ids=kind[2]))
        return True

    def _retain(self, message: Message) -> None:
        topic = message.topic
        if topic.startswith(BASIC_INGEST):  # it is for a rule, and for nobody who comes later
            return
        if not message.payload and self.retained.get(topic) is None and not self.journal.still_retains(topic):
            return
        # While the disk refuses, topics that are set and cleared gather in the journal.
        if (not message.payload or self.journal.retained_changes < RETAINED_MAX) and self.retained.put(message):
            self.journal.retained(message.topic, message if message.payload else None)
        else:
            self.counters.dropped("retained store full")

    def connection(self, client_id: str) -> Connection | None:
        """The live connection of a client."""
        return self._clients.get(client_id)

    def announce(self, message: Message | None) -> None:
        """Take in what the broker itself has to say, like a message of a device; nobody waits for its receipt."""
        if message is not None:
            self.accept(Batch([message], Receipt(), message.client_id))

    # -- the shell's clock --------------------------------------------------------------------------------------------

    def expire(self, now: float, at: int) -> None:
        """Do what is due: close silent connections, end sessions, publish wills; call it about once a second."""
        self.now, self.at = now, at
        # While messages of a peer are unsettled it may be us who do not listen, so its silence says nothing.
        for connection in [c for c in self._connections if now >= c.deadline and not c.unsettled]:
            connection.expire(at)
        for session in [s for s in self._away if s.expires is not None and now >= s.expires]:
            self._end(session)
        for will in self._wills.due(now):
            self._publish_will(will)
        if now >= self._retained_due:
            self._retained_due = now + RETAINED_SECONDS
            for topic in self.retained.expire(at):
                self.journal.retained(topic, None)
        if now >= self._sys_due:
            self._sys_due = now + presence.SYS_SECONDS
            self._publish_sys()

    def shut_down(self) -> None:
        """Tell every client that the server goes away."""
        for connection in list(self._connections):
            connection.close(DisconnectReasonCode.SERVER_SHUTTING_DOWN, "SERVER_INITIATED_DISCONNECT")

    def restore(self, stored: Stored, now: float, at: int) -> None:
        """Take over what was on disk at the start, before any connection is opened."""
        self.now, self.at = now, at
        self.journal.continue_from(stored)
        for message in stored.retained:
            self.retained.put(message)
        for session in restore(stored, self, self.router):
            self._sessions[session.client_id] = session
            self._away[session] = None
            if session.away_since is None:
                session.away_since = at
                self.journal.promise(session)
            # A clock that was not set, then or now, says nothing about how long a client has been away.
            plausible = CLOCK_PLAUSIBLE_MS <= session.away_since <= at
            session.expires = now + session.expiry - ((at - session.away_since) / 1_000 if plausible else 0)

    def recheck(self) -> None:
        """Policies or identities have changed: look at every live connection again."""
        self.router.forget_plans()
        for connection in list(self._clients.values()):
            grant, session, inbound = connection.grant, connection.session, connection.inbound
            if grant is None or session is None:
                continue
            if inbound is not None:
                inbound.forget_permissions()
            session.drop_forbidden()
            if not grant.refresh() or not all(grant.subscribe(split(pattern)[1]) for pattern in session.subscriptions):
                connection.close(DisconnectReasonCode.NOT_AUTHORIZED, "FORBIDDEN_ACCESS")

    # -- connections and their sessions -------------------------------------------------------------------------------

    def admit(self, connection: Connection, wish: Wish, grant: Grant) -> tuple[Barrier, bool] | ConnAckReasonCode:
        """Give a connection its session, taking it over from whoever has it (MQTT 5 section 3.1.4)."""
        client_id = wish.client_id
        session = self._sessions.get(client_id)
        if session is not None and session.owner is not None and session.owner != grant.principal:
            return ConnAckReasonCode.NOT_AUTHORIZED
        if wish.expiry and (session is None or wish.clean_start) and len(self._away) >= self.limits.sessions:
            return ConnAckReasonCode.QUOTA_EXCEEDED
        former = self._clients.get(client_id)
        if former is not None:
            former.close(DisconnectReasonCode.SESSION_TAKEN_OVER, "DUPLICATE_CLIENTID")
            self.detach(former, self.at, resumed=not wish.clean_start)
            session = self._sessions.get(client_id)
        if session is not None and wish.clean_start:
            self._end(session)
            session = None
        present = session is not None
        if session is None:
            session = self._sessions[client_id] = Session(client_id, grant.principal, self)
        self._wills.cancel(client_id)
        self._away.pop(session, None)
        session.owner, session.expiry, session.expires = grant.principal, wish.expiry, None
        for pattern in [pattern for pattern in session.subscriptions if not grant.subscribe(split(pattern)[1])]:
            self.router.unsubscribe(session, pattern)
            self.journal.unsubscribed(session, pattern)
        barrier = self.journal.caught_up if self.journal.still_has(client_id) else KEPT
        if wish.expiry or session.key:
            barrier = self.journal.begin(session)
        connection.session = session
        self._clients[client_id] = connection
        return barrier, present

    def admitted(self, connection: Connection) -> None:
        """The client has been told that it is connected."""
        if connection.session is not None and connection.session.subscriptions:
            self.router.forget_plans()  # another connection may have other permissions
        self._numbers += 1
        connection.number = self._numbers
        self.announce(presence.connected(_client(connection), self.at))

    def detach(self, connection: Connection, at: int, *, resumed: bool = False) -> None:
        """A connection has ended: forget it, and publish its will unless it said goodbye. May be called twice.

        `resumed`: another connection goes on with the session at once.
        """
        self._connections.discard(connection)
        session = connection.session
        if session is None:
            return
        self.at = at
        event = presence.disconnected(_client(connection), at, connection.reason) if connection.number else None
        will, connection.will, connection.session = connection.will, None, None
        if connection.inbound is not None:
            connection.inbound.ended = True
        if self._clients.get(session.client_id) is connection:
            del self._clients[session.client_id]
        session.detach()
        delay = min(connection.will_delay, session.expiry)
        if will is not None and delay and not resumed:
            self._wills.put(session.client_id, will, connection.grant, self.now + delay)
        if session.expiry:
            self._leave(session, at)
        else:
            self._end(session)
        self.announce(event)
        if will is not None and not delay:
            self._publish_will((will, connection.grant))

    def subscriptions_changed(self, session: Session, patterns: list[str], *, subscribed: bool) -> None:
        """A client has subscribed, or unsubscribed."""
        connection = self._clients.get(session.client_id)
        if connection is not None:
            client = _client(connection)
            self.announce(presence.subscribed(client, self.at, patterns, ended=not subscribed))

    def _leave(self, session: Session, at: int) -> None:
        for slow in self.router.hand_over(session, ended=False):
            self._disconnect_slow(slow)
        session.expires = self.now + session.expiry
        session.away_since = at
        self._away[session] = None
        self.journal.promise(session)

    def _end(self, session: Session) -> None:
        """The session is over, and with it everything that it was owed."""
        self._sessions.pop(session.client_id, None)
        self._away.pop(session, None)
        for slow in self.router.hand_over(session, ended=True):
            self._disconnect_slow(slow)
        self.router.forget(session)
        self.journal.end(session)
        will = self._wills.cancel(session.client_id)
        if will is not None:
            self._publish_will(will)  # at the latest when the session ends (MQTT 5 section 3.1.3.2.2)

    def _publish_will(self, will: tuple[Message, Grant | None]) -> None:
        message, grant = will
        message.received_at = self.at
        if grant is None or (grant.refresh() and grant.publish(message.topic, retain=message.retain)):
            self.announce(message)
        else:
            self.counters.dropped("not authorized")

    def _disconnect_slow(self, session: Session) -> None:
        connection = self._clients.get(session.client_id)
        if connection is not None and connection.session is session and not connection.closed:
            self.counters.add("mqtt_slow_consumers_total")
            connection.close(DisconnectReasonCode.QUOTA_EXCEEDED, "THROTTLED")

    def _publish_sys(self) -> None:
        facts = {
            "clients/connected": len(self._clients),
            "clients/total": len(self._sessions),
            "clients/disconnected": len(self._away),
            "subscriptions/count": self.router.subscriptions,
            "retained messages/count": self.retained.published,
            "messages/sent": self.router.delivered,
        }
        for message in presence.broker_topics(facts, self.counters, self.at):
            former = self.retained.get(message.topic)
            if former is None or former.payload != message.payload:
                self.retained.put(message)
                self.router.route([message])


def _client(connection: Connection) -> presence.Client:
    session = connection.session
    assert session is not None
    return presence.Client(session.client_id, session.owner, connection.peer.address, connection.number)

