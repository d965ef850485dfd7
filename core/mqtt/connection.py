"""One network connection, from its first byte to its last: bytes and the time in, bytes and a deadline out.

Theory of operation. The first bytes say which version of MQTT a peer speaks. A read may hold many packets; they are
decoded together and handled in order: runs of PUBLISH go to `inbound`, everything else to a handler. What must be
written gathers in `outgoing`, whoever caused it, and `wake` is called so that the shell comes and takes it.

Invariants:
1. Nothing is handled before CONNECT, and only one CONNECT is.
2. After `closed`, no byte of this peer is looked at, and `outgoing` ends with what it must still be told.
"""

from collections.abc import Callable
from secrets import token_hex
from types import ModuleType
from typing import Any, Protocol

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
    PublishPacket,
    QoS,
    RetainHandling,
    SubAckPacket,
    SubAckReasonCode,
    SubscribePacket,
    TopicFilter,
    UnsubAckPacket,
    UnsubAckReasonCode,
    UnsubscribePacket,
)

from core import topics
from core.message import Message
from core.mqtt import v5, v311
from core.mqtt.access import Identity
from core.mqtt.errors import MalformedPacket
from core.mqtt.inbound import Inbound, Receiver
from core.mqtt.limits import Limits
from core.mqtt.properties import properties_of
from core.mqtt.router import Router
from core.mqtt.session import SUBSCRIPTIONS_MAX, Session, Subscription

OUTGOING_MAX_BYTES = 256 << 10  # gathered in one turn of the loop for one peer; what is beyond it waits in its session
GRANTED = SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE


class Hub(Receiver, Protocol):
    """What a connection needs of the broker it belongs to."""

    limits: Limits
    router: Router

    def attach(self, connection: "Connection", at: int) -> None:
        """The connection's client is admitted."""
        ...

    def detach(self, connection: "Connection", at: int) -> None:
        """The connection has ended."""
        ...


class Connection:
    """The state machine of one network connection; made by `Broker.open`."""

    def __init__(self, hub: Hub, address: str, principal: str | None, wake: Callable[[], None], now: float) -> None:
        self.identity = Identity("", address, principal)
        self.session: Session | None = None
        self.inbound: Inbound | None = None
        self.will: Message | None = None
        self.outgoing: list[bytes] = []
        self.closed = False
        self.congested = False
        self.deadline = now + hub.limits.connect_seconds
        self._outgoing_bytes = 0
        self._hub = hub
        self._wake = wake
        self._buffer = b""
        self._codec: ModuleType | None = None
        self._keep_alive = 0.0
        self._peer_packet_max: int | None = None
        self._handlers: dict[type, Callable[[Any, int], None]] = {
            PubAckPacket: self._on_puback,
            SubscribePacket: self._on_subscribe,
            UnsubscribePacket: self._on_unsubscribe,
            PingReqPacket: self._on_pingreq,
            DisconnectPacket: self._on_disconnect,
        }

    @property
    def version(self) -> int:
        """5 or 4 (MQTT 3.1.1), as in CONNECT; 0 before that."""
        return {v5: 5, v311: 4}.get(self._codec, 0) if self._codec else 0

    @property
    def unsettled(self) -> int:
        """Bytes of messages taken from this peer that are not stored yet."""
        return self.inbound.unsettled if self.inbound else 0

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
            self._handle(packets, at, len(data))
            self.refuse(error.reason, str(error))
            return
        self._buffer = data[consumed:] if consumed < len(data) else b""
        if packets:
            self._handle(packets, at, consumed)
            if self._keep_alive:
                self.deadline = now + self._keep_alive

    def _decode(self, data: bytes, packets: list[Packet]) -> int:
        limits = self._hub.limits
        if self._codec is None:
            self._codec = _codec_for(data)
            if self._codec is None:
                return 0
        if self.session is not None:
            return int(self._codec.decode(data, packets, limits.packet_bytes))
        # Packets may follow CONNECT in the same read; only CONNECT itself has the strangers' limit.
        size = v5.packet_size(data, 0)
        if size is not None and size > limits.connect_bytes:
            raise MalformedPacket(0x95, f"a CONNECT of {size:,} bytes")
        return int(self._codec.decode(data, packets, limits.packet_bytes))

    def _handle(self, packets: list[Packet], at: int, size: int) -> None:
        index, count = 0, len(packets)
        while index < count and not self.closed:
            packet = packets[index]
            kind = type(packet)
            if self.inbound is None:
                self._on_first(packet, at)
                index += 1
            elif kind is PublishPacket:
                index = self.inbound.take(packets, index, at, size // count + 1)
            elif kind in self._handlers:
                self._handlers[kind](packet, at)
                index += 1
            else:
                self.refuse(0x82, f"{kind.__name__} may not come from a client now")

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
            self._hub.counters.add("mqtt_connects_refused_total", reason=reason.name.lower())
            self._send(ConnAckPacket(reason_code=reason))
            self._end()
            return
        dropped = self._hub.counters.dropped
        self.session = Session(client_id, self._send, self._is_congested, dropped, packet.receive_max)
        self.inbound = Inbound(self._hub, self.identity, self.version, self._send_bytes, self.refuse)
        if packet.will is not None:
            will, qos = packet.will, int(packet.will.qos)
            self.will = Message(will.topic, will.payload or b"", qos, will.retain, client_id, at, properties_of(will))
        self._peer_packet_max = packet.max_packet_size
        self._keep_alive = packet.keep_alive * 1.5
        self.deadline = float("inf")
        self._hub.attach(self, at)
        limits = self._hub.limits
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
        if not packet.client_id and self.version == 4 and not packet.clean_start:
            return ConnAckReasonCode.CLIENT_ID_NOT_VALID  # MQTT 3.1.1 section 3.1.3-8
        if packet.authentication_method is not None:
            return ConnAckReasonCode.BAD_AUTHENTICATION_METHOD
        reason = self._hub.access.connect(self.identity, packet)
        if reason is not ConnAckReasonCode.SUCCESS or packet.will is None:
            return reason
        try:
            topics.check_name(packet.will.topic)
        except topics.InvalidTopic:
            return ConnAckReasonCode.TOPIC_NAME_INVALID
        if packet.will.qos is QoS.EXACTLY_ONCE:
            return ConnAckReasonCode.QUALITY_NOT_SUPPORTED
        if not self._hub.access.publish(self.identity, packet.will.topic):
            return ConnAckReasonCode.NOT_AUTHORIZED
        return ConnAckReasonCode.SUCCESS

    # -- the other packets --------------------------------------------------------------------------------------------

    def _on_puback(self, packet: PubAckPacket, _at: int) -> None:
        assert self.session is not None
        if not self.session.acknowledge(packet.packet_id):
            self._hub.counters.add("mqtt_unknown_acknowledgements_total")

    def _on_subscribe(self, packet: SubscribePacket, _at: int) -> None:
        if packet.subscription_id is not None:
            self.refuse(0xA1, "subscription identifiers were not offered")
            return
        if not packet.topic_filters:
            self.refuse(0x82, "SUBSCRIBE without a topic filter")
            return
        codes: list[SubAckReasonCode] = []
        retained: list[tuple[Message, int]] = []
        for wanted in packet.topic_filters:
            code = self._may_subscribe(wanted.pattern)
            if code is GRANTED:
                code = SubAckReasonCode(min(int(wanted.max_qos), 1))
                retained += self._subscribe(wanted, int(code))
            codes.append(code)
        self._send(SubAckPacket(packet.packet_id, codes))
        self._send_retained(retained)

    def _may_subscribe(self, pattern: str) -> SubAckReasonCode:
        """GRANTED, or the reason why not."""
        assert self.session is not None
        if pattern.startswith("$share/"):
            return SubAckReasonCode.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED
        try:
            topics.check_filter(pattern)
        except topics.InvalidTopic:
            return SubAckReasonCode.TOPIC_FILTER_INVALID
        if len(self.session.subscriptions) >= SUBSCRIPTIONS_MAX and pattern not in self.session.subscriptions:
            return SubAckReasonCode.QUOTA_EXCEEDED
        allowed = self._hub.access.subscribe(self.identity, pattern)
        return GRANTED if allowed else SubAckReasonCode.NOT_AUTHORIZED

    def _subscribe(self, wanted: TopicFilter, qos: int) -> list[tuple[Message, int]]:
        """Add one subscription; returns the retained messages that it is owed now, with their QoS."""
        assert self.session is not None
        router = self._hub.router
        as_published = wanted.retain_as_published and self.version == 5
        new = router.subscribe(Subscription(self.session, wanted.pattern, qos, wanted.no_local, as_published))
        handling = wanted.retain_handling
        if handling is RetainHandling.SEND_NEVER or (handling is not RetainHandling.SEND_ALWAYS and not new):
            return []
        return [(message, min(message.qos, qos)) for message in router.retained_for(wanted.pattern)]

    def _send_retained(self, retained: list[tuple[Message, int]]) -> None:
        assert self.session is not None
        for message, qos in retained:
            self.session.deliver(message, qos, True, bounded=False)

    def _on_unsubscribe(self, packet: UnsubscribePacket, _at: int) -> None:
        assert self.session is not None
        if not packet.patterns:
            self.refuse(0x82, "UNSUBSCRIBE without a topic filter")
            return
        codes = [
            UnsubAckReasonCode.SUCCESS
            if self._hub.router.unsubscribe(self.session, pattern)
            else UnsubAckReasonCode.NO_SUBSCRIPTION_EXISTED
            for pattern in packet.patterns
        ]
        self._send(UnsubAckPacket(packet.packet_id, codes))

    def _on_pingreq(self, _packet: PingReqPacket, _at: int) -> None:
        self._send(PingRespPacket())

    def _on_disconnect(self, packet: DisconnectPacket, at: int) -> None:
        if packet.reason_code is not DisconnectReasonCode.DISCONNECT_WITH_WILL_MESSAGE:
            self.will = None
        self._end()
        self._hub.detach(self, at)

    # -- bytes out, and the end ---------------------------------------------------------------------------------------

    def take(self) -> bytes:
        """The bytes to write now, all that gathered since the last call; call `taken` when they are written."""
        data = b"".join(self.outgoing)
        self.outgoing.clear()
        self._outgoing_bytes = 0
        return data

    def taken(self) -> None:
        """There is room again: in `outgoing`, or because the peer reads."""
        if self.session is not None and not self.congested:
            self.session.resume()

    def _is_congested(self) -> bool:
        return self.congested or self._outgoing_bytes >= OUTGOING_MAX_BYTES

    def expire(self, at: int) -> None:
        """The deadline has passed: no CONNECT in time, or silence for one and a half keep-alive intervals."""
        text = "silent for too long" if self.session is not None else "no CONNECT in time"
        self.refuse(int(DisconnectReasonCode.KEEP_ALIVE_TIMEOUT), text)
        self._hub.detach(self, at)

    def refuse(self, reason: int, text: str) -> None:
        """Close this one connection for what its peer did, saying why if its version of MQTT can."""
        if self.closed:
            return
        self._hub.counters.add("mqtt_refused_total", reason=f"0x{reason:02x}")
        if self.session is not None and self.version == 5:
            self._send(DisconnectPacket(reason_code=DisconnectReasonCode(reason), reason_str=text[:200]))
        elif self._codec is None and reason == int(ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION):
            self._send_bytes(b"\x20\x02\x00\x01")  # CONNACK of MQTT 3.1.1, which older clients understand
        self._end()

    def close(self, reason: DisconnectReasonCode) -> None:
        """Close for a reason of ours."""
        if self.closed:
            return
        if self.session is not None and self.version == 5:
            self._send(DisconnectPacket(reason_code=reason))
        self._end()

    def _end(self) -> None:
        self.closed = True
        if self.inbound is not None:
            self.inbound.ended = True
        self._wake()

    def _send(self, packet: Packet) -> bool:
        """Queue a packet; False when the client would not take one so large (MQTT 5 section 3.1.2-24)."""
        assert self._codec is not None
        data: bytes = self._codec.encode(packet)
        if self._peer_packet_max is not None and len(data) > self._peer_packet_max:
            self._hub.counters.dropped("larger than the client accepts")
            return False
        self._send_bytes(data)
        return True

    def _send_bytes(self, data: bytes) -> None:
        if self.closed:
            return
        self.outgoing.append(data)
        self._outgoing_bytes += len(data)
        self._wake()


def _codec_for(data: bytes) -> ModuleType | None:
    """The codec that the CONNECT at the start of `data` asks for; None while its version is not there yet."""
    if data[0] != 0x10:
        raise MalformedPacket(0x82, "the first packet is not CONNECT")
    if v5.packet_size(data, 0) is None:
        return None
    start = next(i for i in range(1, 5) if data[i] < 0x80) + 1
    name = data[start : start + 6]
    if name != b"\x00\x04MQTT"[: len(name)]:
        if name[:2] == b"\x00\x06":
            raise MalformedPacket(int(ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION), "MQTT 3.1 is not supported")
        raise MalformedPacket(0x81, "not an MQTT CONNECT")
    if len(data) < start + 7:
        return None
    match data[start + 6]:
        case 5:
            return v5
        case 4:
            return v311
        case level:
            unsupported = int(ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION)
            raise MalformedPacket(unsupported, f"protocol level {level} is not supported")
