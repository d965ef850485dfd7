"""What one client publishes: batches with receipts, and acknowledgements in the order of the messages.

The PUBLISH packets between two others of a read form one batch with one receipt. Batches may be settled in any order,
but acknowledgements leave in the order in which the messages came (MQTT 5 section 4.6), so they wait in a line of
(packet identifiers, receipt, barrier). A QoS 2 message is handed on when it comes, and its identifier remembered until
the client releases it: whatever comes under it meanwhile is the same message again (MQTT 5 section 4.3.3, method B).

Invariant: no PUBACK and no PUBREC leaves before the receipt of its batch is settled as kept and its barrier has passed;
no PUBCOMP before the identifier's end is on disk, where it was.
"""

from collections import deque
from collections.abc import Callable
from struct import pack
from typing import Protocol

from mqtt5 import (
    DisconnectReasonCode,
    Packet,
    PubAckPacket,
    PubAckReasonCode,
    PubCompPacket,
    PubCompReasonCode,
    PublishPacket,
    PubRecPacket,
    PubRecReasonCode,
    PubRelPacket,
    QoS,
)

from core import topics
from core.commits import Barrier
from core.message import Message, Origin, Properties
from core.mqtt.access import Grant
from core.mqtt.journal import KEPT, Journal
from core.mqtt.limits import Limits
from core.mqtt.properties import properties_of
from core.mqtt.retained import Retained
from core.mqtt.session import Session
from core.receipts import DELIVERED, STORED, Batch, Kind, Outcome, Receipt, rejected
from core.telemetry import Counters

SERVICES = "$aws/"  # below it, what a client may publish is a request to the daemon, except by Basic Ingest
TOPICS_REMEMBERED = 4_096  # per connection; a sensor has a handful, and a flood of names must not grow memory
TOPIC_CHARS_REMEMBERED = 256  # longer ones are checked each time
USER_PROPERTIES_MAX = 100  # of one message; the thousands that fit into a packet cost a hundred times their bytes
PUBACK, PUBREC = 0x4002_0000, 0x5002_0000  # with the packet identifier: the same four bytes in both versions
IDENTIFIER = 0xFFFF
_EXACTLY_ONCE = QoS.EXACTLY_ONCE  # the library's enumerations are singletons, and neither ordered nor hashable
_NOT_AUTHORIZED = rejected("not authorized", int(PubAckReasonCode.NOT_AUTHORIZED))
_REFUSED_BY_DISK = rejected("the disk refuses", int(PubAckReasonCode.QUOTA_EXCEEDED))


def is_request(topic: str) -> bool:
    """Whether what is published to a topic is for the daemon itself to answer."""
    return topic.startswith(SERVICES) and not topic.startswith(topics.BASIC_INGEST)


class Receiver(Protocol):
    """What takes the messages: the broker."""

    accept: Callable[[Batch], None]
    counters: Counters
    journal: Journal
    limits: Limits
    retained: Retained
    serve: Callable[[str, Message], None]
    unsettled: int


class Client(Protocol):
    """The connection that the messages come from."""

    @property
    def version(self) -> int:
        """5, or 4 for MQTT 3.1.1."""
        ...

    def send(self, packet: Packet) -> bool:
        """Queue a packet for the client."""
        ...

    def send_bytes(self, data: bytes) -> None:
        """Queue bytes for the client."""
        ...

    def refuse(self, reason: int, text: str) -> None:
        """Close the connection."""
        ...

    def disk_refuses(self) -> None:
        """Close the connection, because what the client must be told cannot be stored."""
        ...


class Inbound:
    """The publishing side of one connected client; nothing is told to `client` after `ended`."""

    def __init__(self, receiver: Receiver, client: Client, session: Session, grant: Grant, origin: Origin) -> None:
        self.unsettled = 0  # bytes read of batches whose receipts are open
        self.ended = False
        self._receiver = receiver
        self._client = client
        self._session = session
        self._grant = grant
        self._origin = origin
        self._is_v5 = client.version == 5
        self._open_max = receiver.limits.receive_max if self._is_v5 else receiver.limits.incomplete_max
        self._open = 0  # QoS 1 publishes that are not acknowledged; those of QoS 2 are in `session.received`
        self._allowed: set[str] = set()
        self._may_retain: set[str] = set()
        self._aliases: dict[int, str] = {}
        self._pending: set[int] = set()  # packet identifiers of QoS 2 publishes that PUBREC has not answered yet
        self._verdict: tuple[int, int, Outcome, Message | None] | None = None  # packet id, QoS, a request
        self._line: deque[tuple[list[int], list[int], Receipt, Barrier]] = deque()  # packet ids, indexes of QoS 2

    def forget_permissions(self) -> None:
        """Ask the grant again for every topic."""
        self._allowed.clear()
        self._may_retain.clear()

    def take(self, packets: list[Packet], index: int, at: int, packet_bytes: int) -> int:
        """Hand over the run of publishes that begins at `index`; returns the index of the first packet behind it.

        `packet_bytes` is the mean size of a packet of this read: what a message counts for until it is settled.
        """
        messages: list[Message] = []
        packet_ids: list[int] = []
        twos: list[int] = []
        resent: list[int] = []
        client_id, allowed, is_v5 = self._session.client_id, self._allowed, self._is_v5
        end = len(packets)
        while index < end:
            packet = packets[index]
            if type(packet) is not PublishPacket:
                break
            topic, packet_id, qos, retain = packet.topic, packet.packet_id, packet.qos, packet.retain
            extra = properties_of(packet) if is_v5 else None
            level = 1 if packet_id else 0
            usual = not (retain or packet_id == 0 or qos is _EXACTLY_ONCE or extra)
            if usual and is_v5:
                usual = not (packet.topic_alias or packet.subscription_ids)
            if not usual or topic not in allowed:  # anything but what sensors do all day
                known = self._examine(packet, extra)
                if known is None:
                    break
                topic = known
                if qos is _EXACTLY_ONCE:
                    twos.append(len(messages))
                    level = 2
            if packet.duplicate:
                resent.append(len(messages))
            messages.append(Message(topic, packet.payload, level, retain, client_id, at, extra))
            packet_ids.append(packet_id or 0)
            index += 1
        if messages:
            batch = Batch(messages, Receipt(), client_id, packet_ids, resent, self._origin)
            # The mean says nothing of a large message that came among many small packets of other kinds.
            is_all = len(messages) == end
            size = len(messages) * packet_bytes if is_all else sum(message.size for message in messages)
            self._hand_over(batch, twos, size)
        if self._verdict is not None:
            verdict, self._verdict = self._verdict, None
            if not self.ended:
                self._answer(*verdict)
            index += 1
        return index

    def _is_beyond_bounds(self) -> bool:
        """Whether the client has too much unacknowledged, so that it had to be disconnected."""
        received, pending = self._session.received, self._pending
        # MQTT 3.1.1 cannot tell a client how much QoS 1 it may have open; there the listener's back-pressure bounds it.
        count = (self._open if self._is_v5 else 0) + len(received) + len(pending - received)
        if count <= self._open_max:
            return False
        text = f"more than {self._open_max:,} publishes unacknowledged"
        self._client.refuse(int(DisconnectReasonCode.RECEIVE_MAX_EXCEEDED), text)
        return True

    def _hand_over(self, batch: Batch, twos: list[int], size: int) -> None:
        receiver, session, journal = self._receiver, self._session, self._receiver.journal
        packet_ids = batch.packet_ids or []
        self._open += len(packet_ids) - packet_ids.count(0) - len(twos)
        if self._is_beyond_bounds():
            return
        self.unsettled += size
        receiver.unsettled += size
        receiver.counters.add("messages_received_total", len(packet_ids))

        def settled(_: Receipt) -> None:
            self.unsettled -= size
            receiver.unsettled -= size
            self._advance()

        batch.receipt.on_settled = settled
        promises = journal.promises
        if self._pending:
            session.received |= self._pending
            journal.promise(session)
        receiver.accept(batch)
        barrier = journal.barrier if journal.promises != promises else KEPT
        for index in twos:
            session.arriving[packet_ids[index]] = batch.receipt, index, barrier
        self._line.append((packet_ids, twos, batch.receipt, barrier))
        if barrier is not KEPT:
            barrier.then(lambda _: self._advance())
        self._advance()

    # -- what may be published ----------------------------------------------------------------------------------------

    def _examine(self, packet: PublishPacket, extra: Properties | None) -> str | None:
        """The topic of a publish that may be taken; None when the run ends here, with a verdict or for good."""
        topic = self._topic(packet)
        if topic is None:
            return None
        packet_id = packet.packet_id or 0
        if packet.qos is _EXACTLY_ONCE and (packet_id in self._pending or packet_id in self._session.received):
            # The same message again. Its PUBREC was lost, or is on its way.
            self._verdict = (0, 0, STORED, None) if packet_id in self._pending else (packet_id, 2, STORED, None)
            return None
        outcome, request = self._refusal(topic, packet, extra), None
        if outcome is None and is_request(topic):
            outcome, request = DELIVERED, Message(topic, packet.payload, properties=extra)
        if outcome is not None:
            self._verdict = packet_id, packet.qos.value, outcome, request
            return None
        if packet.qos is _EXACTLY_ONCE:
            self._pending.add(packet_id)
        return topic

    def _topic(self, packet: PublishPacket) -> str | None:
        """The topic, from its alias if need be; None when the connection had to be ended."""
        topic, alias = packet.topic, packet.topic_alias
        if packet.packet_id == 0:
            return self._end(DisconnectReasonCode.MALFORMED_PACKET, "packet identifier 0")
        if packet.subscription_ids:
            return self._end(DisconnectReasonCode.PROTOCOL_ERROR, "a client's publish has no subscription identifier")
        if alias is not None and not 0 < alias <= self._receiver.limits.topic_aliases:
            return self._end(DisconnectReasonCode.TOPIC_ALIAS_INVALID, f"topic alias {alias}")
        if alias is not None and not topic:
            known = self._aliases.get(alias)
            if known is None:
                return self._end(DisconnectReasonCode.PROTOCOL_ERROR, f"topic alias {alias} was not set")
            return known
        if topic not in self._allowed:
            try:
                topics.check_name(topic)
            except topics.InvalidTopic as error:
                return self._end(DisconnectReasonCode.TOPIC_NAME_INVALID, str(error))
        if alias is not None:
            self._aliases[alias] = topic
        return topic

    def _refusal(self, topic: str, packet: PublishPacket, extra: Properties | None) -> Outcome | None:
        """Why a publish is not taken, though the connection goes on; None when it is."""
        remembered = self._may_retain if packet.retain else self._allowed
        if topic not in remembered:
            if not self._grant.publish(topic, retain=packet.retain):
                return _NOT_AUTHORIZED
            if len(topic) <= TOPIC_CHARS_REMEMBERED and not is_request(topic):
                if len(remembered) >= TOPICS_REMEMBERED:
                    remembered.clear()
                remembered.add(topic)
        if extra is not None:
            if len(extra.user_properties) > USER_PROPERTIES_MAX:
                return rejected("too many user properties", int(PubAckReasonCode.QUOTA_EXCEEDED))
            if extra.response_topic is not None:
                try:
                    topics.check_name(extra.response_topic)
                except topics.InvalidTopic:
                    return rejected("response topic invalid", int(PubAckReasonCode.TOPIC_NAME_INVALID))
        if packet.retain and packet.packet_id and self._is_v5:
            message = Message(topic, packet.payload, properties=extra)
            if not self._receiver.retained.has_room(message):
                return rejected("retained store full", int(PubAckReasonCode.QUOTA_EXCEEDED))
        return None

    def _end(self, reason: DisconnectReasonCode, text: str) -> str | None:
        self._client.refuse(int(reason), text)
        return None

    def _answer(self, packet_id: int, qos: int, outcome: Outcome, request: Message | None) -> None:
        """Serve a request, and say what became of a single publish, in its turn."""
        barrier = KEPT
        if request is not None:
            if qos == 2:
                self._session.received.add(packet_id)
                if self._is_beyond_bounds():
                    return
                barrier = self._receiver.journal.promise(self._session)
            self._receiver.serve(self._session.client_id, request)
        if outcome.kind is Kind.REJECTED:
            self._receiver.counters.dropped(outcome.reason)
            if not self._is_v5 and outcome is _NOT_AUTHORIZED:
                # MQTT 3.1.1 has no word for it but closing (its section 3.3.5).
                self._client.refuse(0x87, "not authorized to publish")
                return
        self._open += qos == 1
        receipt = Receipt()
        arriving = self._session.arriving.get(packet_id) if qos == 2 else None
        if arriving is None:
            receipt.settle(outcome)
        else:
            # It came on an earlier connection and is not kept yet; what becomes of it will be said on this one.
            self._pending.add(packet_id)
            former, index, barrier = arriving
            receipt = self._follow(former, index)
        self._line.append(([packet_id], [0] if qos == 2 else [], receipt, barrier))
        if barrier is not KEPT:
            barrier.then(lambda _: self._advance())
        self._advance()

    def _follow(self, former: Receipt, index: int) -> Receipt:
        """A receipt that is settled as one message of an earlier batch is."""
        receipt, first = Receipt(), former.on_settled

        def settle(_: Receipt) -> None:
            assert former.outcome is not None
            receipt.settle(former.exceptions.get(index, former.outcome))

        def settle_both(_: Receipt) -> None:
            if first is not None:
                first(former)
            settle(former)
            self._advance()

        if former.outcome is None:
            former.on_settled = settle_both
        else:
            settle(former)
        return receipt

    # -- acknowledgements ---------------------------------------------------------------------------------------------

    def release(self, packet: PubRelPacket) -> None:
        """A PUBREL came: the identifier may be used for another message."""
        session, packet_id = self._session, packet.packet_id
        if packet_id not in session.received:
            # It may have been released on an earlier connection, and that may not be on disk yet.
            self._receiver.counters.add("mqtt_unknown_acknowledgements_total")
            barrier = self._receiver.journal.caught_up if session.key else KEPT
            reason = PubCompReasonCode.PACKET_ID_NOT_FOUND
        else:
            session.received.discard(packet_id)
            barrier, reason = self._receiver.journal.promise(session), PubCompReasonCode.SUCCESS
        barrier.then(lambda kept: self._complete(PubCompPacket(packet_id, reason_code=reason), kept))

    def _complete(self, packet: PubCompPacket, kept: bool) -> None:
        if self.ended:
            return
        if kept:
            self._client.send(packet)
        else:
            self._client.disk_refuses()

    def _advance(self) -> None:
        line = self._line
        while line and line[0][2].outcome is not None and line[0][3].kept is not None:
            packet_ids, twos, receipt, barrier = line.popleft()
            self._acknowledge(packet_ids, twos, receipt, kept=barrier.kept is True)

    def _acknowledge(self, packet_ids: list[int], twos: list[int], receipt: Receipt, *, kept: bool) -> None:
        assert receipt.outcome is not None
        self._open -= len(packet_ids) - packet_ids.count(0) - len(twos)
        # Success is the same four bytes in both versions.
        words = [PUBACK | packet_id for packet_id in packet_ids]
        for index in twos:
            words[index] = PUBREC | packet_ids[index]
            self._pending.discard(packet_ids[index])
            self._session.arriving.pop(packet_ids[index], None)
        if receipt.outcome.kind is Kind.REJECTED or receipt.exceptions or not kept:
            self._acknowledge_one_by_one(words, receipt, kept)
        elif not self.ended:
            # Nothing to say is sent as well: it wakes the shell, which may be waiting to read on.
            said = [word for word in words if word & IDENTIFIER]
            self._client.send_bytes(pack(f">{len(said)}I", *said))

    def _acknowledge_one_by_one(self, words: list[int], receipt: Receipt, kept: bool) -> None:
        assert receipt.outcome is not None
        said: list[bytes] = []
        refusal = None
        for index, word in enumerate(words):
            outcome = receipt.exceptions.get(index, receipt.outcome)
            if outcome.kind is not Kind.REJECTED and not kept:
                outcome = _REFUSED_BY_DISK
            if not word & IDENTIFIER:
                continue
            if outcome.kind is not Kind.REJECTED:
                if refusal is None:  # acknowledgements have the order of the messages, and end with the connection
                    said.append(pack(">I", word))
                continue
            if word >= PUBREC:
                # Refusing ends the exchange (MQTT 5 section 4.3.3): the client may send it as a new message.
                self._session.received.discard(word & IDENTIFIER)
                self._receiver.journal.promise(self._session)
            if self._is_v5:
                said.append(_refused(word, outcome.code))
            elif refusal is None:
                # MQTT 3.1.1 has no negative PUBACK; a client resends when it connects again, so that is its way out.
                refusal = outcome
        if self.ended:
            return
        self._client.send_bytes(b"".join(said))  # sent even if empty: the shell may wait for this to read on
        if refusal is not None:
            self._client.refuse(refusal.code, refusal.reason)


def _refused(word: int, code: int) -> bytes:
    packet_id = word & IDENTIFIER
    if word >= PUBREC:
        return PubRecPacket(packet_id, reason_code=PubRecReasonCode(code)).write()
    return PubAckPacket(packet_id, reason_code=PubAckReasonCode(code)).write()
