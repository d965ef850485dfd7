"""One network connection, from its first byte to its last: bytes and the time in, bytes and a deadline out.

Theory of operation. A read may hold many packets; they are decoded together. The PUBLISH packets between two others form
one batch with one receipt. Batches are settled in any order, but their acknowledgements leave in the order in which the
messages came (MQTT 5 section 4.6), so acknowledgements wait in a line of (packet ids, receipt).

Invariants:
1. Nothing is handled before CONNECT, and only one CONNECT is.
2. No PUBACK leaves before the receipt of its batch is settled as kept.
3. After `closed`, no byte of this peer is looked at, and `outgoing` ends with what it must still be told.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_hex
from struct import pack
from typing import TYPE_CHECKING, Any

from mqtt5 import (
    ConnAckPacket,
    ConnAckReasonCode,
    ConnectPacket,
    DisconnectPacket,
    DisconnectReasonCode,
    Packet,
    PingReqPacket,
    PingRespPacket,
    PubAckPacket,
    PubAckReasonCode,
    PublishPacket,
    QoS,
    RetainHandling,
    SubAckPacket,
    SubAckReasonCode,
    SubscribePacket,
    UnsubAckPacket,
    UnsubAckReasonCode,
    UnsubscribePacket,
    Will,
)

from core import topics
from core.message import Message, Properties
from core.mqtt import v5, v311
from core.mqtt.errors import MalformedPacket
from core.mqtt.session import Session, Subscription
from core.receipts import Batch, Kind, Receipt, rejected

if TYPE_CHECKING:
    from core.mqtt.broker import Broker

_EXACTLY_ONCE = QoS.EXACTLY_ONCE
_TOPICS_REMEMBERED = 4_096  # per connection; a sensor has a handful, and a flood of names must not grow memory


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of every connection."""

    packet_bytes: int = 132 << 10  # a payload of 128 KiB (what AWS IoT allows), its topic and properties
    connect_bytes: int = 20 << 10  # before CONNECT a stranger may make us hold this much
    connect_seconds: float = 10.0  # and this long
    receive_max: int = 1_024  # unacknowledged publishes a client may have; MQTT 5 clients are told
    unsettled_bytes: int = 1 << 20  # read but not yet stored; beyond it we stop reading from this peer


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is on a connection: the client identifier it chose, and the certificate's common name, where there is one."""

    client_id: str
    address: str
    principal: str | None


class Connection:
    """The state machine of one network connection; made by `Broker.open`."""

    def __init__(
        self, broker: "Broker", address: str, principal: str | None, wake: Callable[[], None], now: float
    ) -> None:
        self.identity = Identity("", address, principal)
        self.session: Session | None = None
        self.will: Message | None = None
        self.outgoing: list[bytes] = []
        self.closed = False
        self.congested = False
        self.unsettled = 0
        self.deadline = now + broker.limits.connect_seconds
        self.protocol = ""
        self._broker = broker
        self._wake = wake
        self._buffer = b""
        self._codec: Any = None
        self._allowed: set[str] = set()
        self._acks: deque[tuple[list[int], Receipt]] = deque()
        self._keep_alive = 0.0
        self._peer_packet_max: int | None = None
        self._handlers: dict[type, Callable[[Any, int], None]] = {
            PubAckPacket: self._on_puback,
            SubscribePacket: self._on_subscribe,
            UnsubscribePacket: self._on_unsubscribe,
            PingReqPacket: self._on_pingreq,
            DisconnectPacket: self._on_disconnect,
        }

    # -- bytes in -----------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float, at: int) -> None:
        """Take what was read; `now` is monotonic seconds, `at` milliseconds since the epoch."""
        if self.closed:
            return
        if self._buffer:
            data = self._buffer + data
        packets: list[Packet] = []
        try:
            consumed = self._decode(data, packets)
        except MalformedPacket as error:
            self._handle(packets, at, 0)
            self.refuse(error.reason, str(error))
            return
        self._buffer = data[consumed:] if consumed < len(data) else b""
        if packets:
            self._handle(packets, at, consumed)
            if self._keep_alive:
                self.deadline = now + self._keep_alive

    def _decode(self, data: bytes, packets: list[Packet]) -> int:
        limits = self._broker.limits
        if self._codec is None:
            self._codec = _codec_for(data)
            if self._codec is None:
                return 0
        limit = limits.packet_bytes if self.session else limits.connect_bytes
        consumed: int = self._codec.decode(data, packets, limit)
        return consumed

    def _handle(self, packets: list[Packet], at: int, size: int) -> None:
        index, count = 0, len(packets)
        while index < count and not self.closed:
            packet = packets[index]
            if self.session is None:
                self._on_first(packet, at)
                index += 1
            elif type(packet) is PublishPacket:
                index = self._on_publishes(packets, index, at, size)
            elif (handler := self._handlers.get(type(packet))) is not None:
                handler(packet, at)
                index += 1
            else:
                self.refuse(0x82, f"{type(packet).__name__} may not come from a client now")

    def _on_first(self, packet: Packet, at: int) -> None:
        if isinstance(packet, ConnectPacket):
            self._on_connect(packet, at)
        else:
            self.refuse(0x82, f"{type(packet).__name__} before CONNECT")

    # -- CONNECT ------------------------------------------------------------------------------------------------------

    def _on_connect(self, packet: ConnectPacket, at: int) -> None:
        client_id = packet.client_id or f"auto-{token_hex(8)}"
        self.identity = Identity(client_id, self.identity.address, self.identity.principal)
        reason = self._admit(packet)
        if reason is not ConnAckReasonCode.SUCCESS:
            self._send(ConnAckPacket(reason_code=reason))
            self._end(f"connect refused: {reason.name.lower()}")
            return
        self._broker.attach(self, client_id, at)
        self.session = Session(client_id, self._send, lambda: self.congested, packet.receive_max)
        self.protocol = "MQTT 5" if self._codec is v5 else "MQTT 3.1.1"
        self.will = _will_message(packet.will, client_id) if packet.will else None
        self._peer_packet_max = packet.max_packet_size
        self._keep_alive = packet.keep_alive * 1.5
        self.deadline = float("inf")
        limits = self._broker.limits
        self._send(
            ConnAckPacket(
                session_expiry_interval=0 if packet.session_expiry_interval else None,
                assigned_client_id=None if packet.client_id else client_id,
                receive_max=limits.receive_max,
                max_qos=QoS.AT_LEAST_ONCE,
                max_packet_size=limits.packet_bytes,
                subscription_id_available=False,
                shared_subscription_available=False,
            )
        )

    def _admit(self, packet: ConnectPacket) -> ConnAckReasonCode:
        if not packet.client_id and self._codec is v311 and not packet.clean_start:
            return ConnAckReasonCode.CLIENT_ID_NOT_VALID  # MQTT 3.1.1 section 3.1.3-8
        if packet.authentication_method is not None:
            return ConnAckReasonCode.BAD_AUTHENTICATION_METHOD
        reason = self._broker.access.connect(self.identity, packet)
        if reason is not ConnAckReasonCode.SUCCESS or packet.will is None:
            return reason
        try:
            topics.check_name(packet.will.topic)
        except topics.InvalidTopic:
            return ConnAckReasonCode.TOPIC_NAME_INVALID
        if packet.will.qos is _EXACTLY_ONCE:
            return ConnAckReasonCode.QUALITY_NOT_SUPPORTED
        if not self._broker.access.publish(self.identity, packet.will.topic):
            return ConnAckReasonCode.NOT_AUTHORIZED
        return ConnAckReasonCode.SUCCESS

    # -- PUBLISH and its acknowledgements -----------------------------------------------------------------------------

    def _on_publishes(self, packets: list[Packet], index: int, at: int, size: int) -> int:
        """Make one batch of the publishes from `index` on; return the index of the first packet behind them."""
        messages: list[Message] = []
        packet_ids: list[int] = []
        resent: list[int] = []
        client_id, allowed, is_v5 = self.identity.client_id, self._allowed, self._codec is v5
        end = len(packets)
        while index < end:
            packet = packets[index]
            if type(packet) is not PublishPacket:
                break
            topic, packet_id = packet.topic, packet.packet_id or 0
            if (topic not in allowed or packet.qos is _EXACTLY_ONCE) and not self._may_publish(packet):
                break
            if packet.duplicate:
                resent.append(len(messages))
            extra = _properties(packet) if is_v5 else None
            qos = 1 if packet_id else 0
            messages.append(Message(topic, packet.payload, qos, packet.retain, client_id, at, extra))
            packet_ids.append(packet_id)
            index += 1
        if messages:
            self._hand_over(messages, packet_ids, resent, min(size, sum(len(m.payload) for m in messages) + 1))
        if index < end and not self.closed and type(packets[index]) is PublishPacket:
            self._deny(packets[index])
            index += 1
        return index

    def _may_publish(self, packet: PublishPacket) -> bool:
        """Check a topic not seen before; close the connection when it could never be right."""
        if packet.qos is _EXACTLY_ONCE:
            self.refuse(DisconnectReasonCode.QOS_NOT_SUPPORTED, "QoS 2 is not supported")
            return False
        if packet.topic_alias is not None:
            self.refuse(DisconnectReasonCode.TOPIC_ALIAS_INVALID, "topic aliases were not offered")
            return False
        try:
            topics.check_name(packet.topic)
        except topics.InvalidTopic as error:
            self.refuse(DisconnectReasonCode.TOPIC_NAME_INVALID, str(error))
            return False
        if not self._broker.access.publish(self.identity, packet.topic):
            return False
        if len(self._allowed) >= _TOPICS_REMEMBERED:
            self._allowed.clear()
        self._allowed.add(packet.topic)
        return True

    def _deny(self, packet: PublishPacket) -> None:
        """This client may not publish there: MQTT 5 is told, MQTT 3.1.1 has no word for it but closing (3.3.5-2)."""
        self._broker.counters.dropped("not authorized")
        if self._codec is v311:
            self.refuse(0x87, f"not authorized to publish to {packet.topic[:80]!r}")
        elif packet.packet_id is not None:
            receipt = Receipt()
            receipt.settle(rejected("not authorized", PubAckReasonCode.NOT_AUTHORIZED))
            self._acks.append(([packet.packet_id], receipt))
            self._flush_acks()

    def _hand_over(self, messages: list[Message], packet_ids: list[int], resent: list[int], size: int) -> None:
        broker = self._broker
        broker.counters.add("messages_received_total", len(messages))
        self.unsettled += size
        broker.unsettled += size

        def settled(_: Receipt) -> None:
            self.unsettled -= size
            broker.unsettled -= size
            self._flush_acks()

        receipt = Receipt(settled)
        self._acks.append((packet_ids, receipt))
        broker.accept(Batch(messages, receipt, self.identity.client_id, packet_ids, resent))

    def _flush_acks(self) -> None:
        while self._acks and self._acks[0][1].outcome is not None:
            packet_ids, receipt = self._acks.popleft()
            if not self.closed:
                self._acknowledge(packet_ids, receipt)
        self._wake()

    def _acknowledge(self, packet_ids: list[int], receipt: Receipt) -> None:
        assert receipt.outcome is not None
        if receipt.outcome.kind is Kind.REJECTED or receipt.exceptions:
            self._acknowledge_one_by_one(packet_ids, receipt)
            return
        # A PUBACK of either version that reports success is the same four bytes.
        words = [0x4002_0000 | packet_id for packet_id in packet_ids if packet_id]
        self.outgoing.append(pack(f">{len(words)}I", *words))

    def _acknowledge_one_by_one(self, packet_ids: list[int], receipt: Receipt) -> None:
        assert receipt.outcome is not None
        for index, packet_id in enumerate(packet_ids):
            outcome = receipt.exceptions.get(index, receipt.outcome)
            if packet_id == 0:
                continue
            if outcome.kind is not Kind.REJECTED:
                self._send(PubAckPacket(packet_id))
            elif self._codec is v5:
                self._send(PubAckPacket(packet_id, reason_code=PubAckReasonCode(outcome.code)))
            else:
                # MQTT 3.1.1 has no negative PUBACK; a client resends when it connects again, so that is its way out.
                self.refuse(outcome.code, outcome.reason)
                return

    # -- the other packets --------------------------------------------------------------------------------------------

    def _on_puback(self, packet: PubAckPacket, _at: int) -> None:
        assert self.session is not None
        if not self.session.acknowledge(packet.packet_id):
            self._broker.counters.add("mqtt_unknown_acknowledgements_total")

    def _on_subscribe(self, packet: SubscribePacket, _at: int) -> None:
        assert self.session is not None
        if packet.subscription_id is not None:
            self.refuse(DisconnectReasonCode.SUBSCRIPTION_IDS_NOT_SUPPORTED, "subscription identifiers were not offered")
            return
        codes: list[SubAckReasonCode] = []
        retained: list[tuple[Message, int]] = []
        for wanted in packet.topic_filters:
            code = self._may_subscribe(wanted.pattern)
            if code is SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE:
                qos = min(int(wanted.max_qos), 1)
                code = SubAckReasonCode(qos)
                as_published = wanted.retain_as_published and self._codec is v5
                entry = Subscription(self.session, wanted.pattern, qos, wanted.no_local, as_published)
                new = self._broker.router.subscribe(entry)
                if wanted.retain_handling is RetainHandling.SEND_ALWAYS or (
                    new and wanted.retain_handling is RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS
                ):
                    retained += [(m, min(m.qos, qos)) for m in self._broker.router.retained_for(wanted.pattern)]
            codes.append(code)
        self._send(SubAckPacket(packet.packet_id, codes))
        for message, qos in retained:
            self.session.deliver(message, qos, True)

    def _may_subscribe(self, pattern: str) -> SubAckReasonCode:
        """GRANTED_QOS_AT_MOST_ONCE, standing for yes, or the reason why not."""
        if pattern.startswith("$share/"):
            return SubAckReasonCode.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED
        try:
            topics.check_filter(pattern)
        except topics.InvalidTopic:
            return SubAckReasonCode.TOPIC_FILTER_INVALID
        if not self._broker.access.subscribe(self.identity, pattern):
            return SubAckReasonCode.NOT_AUTHORIZED
        return SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE

    def _on_unsubscribe(self, packet: UnsubscribePacket, _at: int) -> None:
        assert self.session is not None
        codes = [
            UnsubAckReasonCode.SUCCESS
            if self._broker.router.unsubscribe(self.session, pattern)
            else UnsubAckReasonCode.NO_SUBSCRIPTION_EXISTED
            for pattern in packet.patterns
        ]
        self._send(UnsubAckPacket(packet.packet_id, codes))

    def _on_pingreq(self, _packet: PingReqPacket, _at: int) -> None:
        self._send(PingRespPacket())

    def _on_disconnect(self, packet: DisconnectPacket, at: int) -> None:
        if packet.reason_code is not DisconnectReasonCode.DISCONNECT_WITH_WILL_MESSAGE:
            self.will = None
        self.closed = True
        self._broker.detach(self, at)
        self._wake()

    # -- bytes out, and the end ---------------------------------------------------------------------------------------

    def take(self) -> bytes:
        """The bytes to write now, all that gathered since the last call."""
        data = b"".join(self.outgoing)
        self.outgoing.clear()
        return data

    def uncongested(self) -> None:
        """The peer reads again."""
        self.congested = False
        if self.session is not None:
            self.session.resume()

    def expire(self, at: int) -> None:
        """The deadline has passed: no CONNECT in time, or silence for one and a half keep-alive intervals."""
        connected = self.session is not None
        self.refuse(DisconnectReasonCode.KEEP_ALIVE_TIMEOUT, "silent for too long" if connected else "no CONNECT in time")
        self._broker.detach(self, at)

    def refuse(self, reason: int, text: str) -> None:
        """Close this one connection for what its peer did, saying why if its protocol version can."""
        if self.closed:
            return
        self._broker.counters.add("mqtt_refused_total", reason=f"0x{reason:02x}")
        if self._codec is v5 and self.session is not None:
            self._send(DisconnectPacket(reason_code=DisconnectReasonCode(reason), reason_str=text[:200]))
        elif self._codec is None and reason == ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION:
            self.outgoing.append(b"\x20\x02\x00\x01")  # CONNACK of MQTT 3.1.1, which older clients understand
        self._end(text)

    def close(self, reason: DisconnectReasonCode) -> None:
        """Close for a reason of ours."""
        if self.closed:
            return
        if self._codec is v5 and self.session is not None:
            self._send(DisconnectPacket(reason_code=reason))
        self._end(reason.name.lower())

    def _end(self, _text: str) -> None:
        self.closed = True
        self._wake()

    def _send(self, packet: Packet) -> None:
        data: bytes = self._codec.encode(packet)
        if self._peer_packet_max is not None and len(data) > self._peer_packet_max:
            self._broker.counters.dropped("larger than the client accepts")
            return
        self.outgoing.append(data)
        self._wake()


def _codec_for(data: bytes) -> Any:
    """The codec that the CONNECT at the start of `data` asks for; None while its version is not there yet."""
    if data[0] != 0x10:
        raise MalformedPacket(0x82, "the first packet is not CONNECT")
    if len(data) < 2 or v5.packet_size(data, 0) is None:
        return None
    start = next(i for i in range(1, 5) if data[i] < 0x80) + 1
    if len(data) < start + 7:
        return None
    if data[start : start + 6] != b"\x00\x04MQTT":
        if data[start : start + 2] == b"\x00\x06":
            raise MalformedPacket(ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION, "MQTT 3.1 is not supported")
        raise MalformedPacket(0x81, "not an MQTT CONNECT")
    match data[start + 6]:
        case 5:
            return v5
        case 4:
            return v311
        case level:
            raise MalformedPacket(ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION, f"unknown protocol level {level}")


def _will_message(will: Will, client_id: str) -> Message:
    return Message(will.topic, will.payload or b"", int(will.qos), will.retain, client_id, 0, _properties(will))


def _properties(packet: PublishPacket | Will) -> Properties | None:
    if not (
        packet.user_properties
        or packet.content_type is not None
        or packet.response_topic is not None
        or packet.correlation_data is not None
        or packet.message_expiry_interval is not None
        or packet.payload_format_indicator
    ):
        return None
    return Properties(
        packet.payload_format_indicator,
        packet.message_expiry_interval,
        packet.content_type,
        packet.response_topic,
        packet.correlation_data,
        tuple(packet.user_properties),
    )
