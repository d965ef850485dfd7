"""One network connection, from its first byte to its last: bytes and the time in, bytes and a deadline out.

Theory of operation. The first bytes say which version of MQTT a peer speaks. A read may hold many packets; they are
decoded together and handled in order: runs of PUBLISH go to `inbound`, subscriptions to `subscribing`,
acknowledgements to the session. What must be written gathers in `outgoing`, whoever caused it, and `wake` is called so
that the shell comes and takes it.

Invariants:
1. Nothing is handled before CONNECT is answered, and only one CONNECT is. While it is being decided (`holding`), what
   came behind it waits, and the shell stops reading.
2. After `closed`, no byte of this peer is looked at, and `outgoing` ends with what it must still be told.
"""

from collections.abc import Callable
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
    PubCompPacket,
    PublishPacket,
    PubRecPacket,
    PubRelPacket,
    PubRelReasonCode,
    SubscribePacket,
    UnsubscribePacket,
)

from core.commits import Barrier
from core.message import Message
from core.mqtt import admission, v5, v311
from core.mqtt.access import Access, Grant, Peer
from core.mqtt.admission import Wish
from core.mqtt.errors import MalformedPacket
from core.mqtt.inbound import Inbound, Receiver
from core.mqtt.limits import Limits
from core.mqtt.parcels import Parcel
from core.mqtt.session import Session
from core.mqtt.subscribing import Desk, Subscribing

OUTGOING_MAX_BYTES = 256 << 10  # gathered in one turn of the loop for one peer; what is beyond it waits in its session
HELD_MAX_BYTES = 256 << 10  # sent behind a CONNECT that is being decided; the shell stops reading long before
ALIASES_MAX = 32  # topics of a client that are sent to it as numbers, when it allows more


class Hub(Receiver, Desk, Protocol):
    """What a connection needs of the broker it belongs to; `now` is monotonic seconds, `at` ms since the epoch."""

    now: float
    access: Access
    limits: Limits

    def admit(self, connection: "Connection", wish: Wish, grant: Grant) -> tuple[Barrier, bool] | ConnAckReasonCode:
        """Give the connection its session: when it is on disk, so that the client may be told; whether it is old."""
        ...

    def admitted(self, connection: "Connection") -> None:
        """The client has been told."""
        ...

    def detach(self, connection: "Connection", at: int) -> None:
        """The connection has ended."""
        ...


class Connection:
    """The state machine of one network connection; made by `Broker.open`."""

    __slots__ = (
        "_aliases", "_aliases_max", "_buffer", "_codec", "_held", "_hub", "_keep_alive",
        "_outgoing_bytes", "_peer_packet_max", "_subscribing", "_wake", "_wanted_bytes", "closed", "congested",
        "deadline", "drain", "grant", "holding", "inbound", "number", "outgoing", "peer", "reason", "session", "will",
        "will_delay", "window",
    )  # fmt: skip

    def __init__(self, hub: Hub, peer: Peer, wake: Callable[[], None], now: float) -> None:
        self.peer = peer
        self.session: Session | None = None
        self.grant: Grant | None = None
        self.inbound: Inbound | None = None
        self.will: Message | None = None
        self.will_delay = 0
        self.outgoing: list[bytes] = []
        self.closed = self.congested = self.holding = False
        self.window = 0
        self.number = 0  # of this connection among all that were admitted
        self.reason = "CONNECTION_LOST"  # why it ended, in the words of AWS IoT's lifecycle events
        self.deadline = now + hub.limits.connect_seconds
        self._outgoing_bytes = 0
        self._hub = hub
        self._wake = wake
        self.drain: Callable[[], None] = lambda: None  # writes `outgoing` at once; the shell's
        self._buffer: bytes | bytearray = b""  # the beginning of a packet
        self._wanted_bytes = 0  # the least that may be the whole of it
        self._held: tuple[list[Packet], int] = [], 0  # and how many bytes they were
        self._codec: ModuleType | None = None
        self._keep_alive = 0.0
        self._peer_packet_max: int | None = None
        self._subscribing: Subscribing | None = None
        self._aliases: dict[str, int] = {}
        self._aliases_max = 0

    @property
    def version(self) -> int:
        """5 or 4 (MQTT 3.1.1), as in CONNECT; 0 before that."""
        return 5 if self._codec is v5 else 4 if self._codec is v311 else 0

    @property
    def unsettled(self) -> int:
        """Bytes of messages taken from this peer that are not stored yet."""
        return self.inbound.unsettled if self.inbound else 0

    # -- bytes in -----------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float, at: int) -> None:
        """Take what was read; `now` is monotonic seconds, `at` milliseconds since the epoch."""
        if self.closed:
            return
        hub = self._hub
        hub.now, hub.at = now, at
        if self._buffer:
            # A packet that comes in a thousand pieces is put together once.
            self._buffer += data
            if len(self._buffer) < self._wanted_bytes:
                return
            data = bytes(self._buffer)
        if self.holding:
            self._buffer = data
            if len(data) > HELD_MAX_BYTES:
                self.refuse(0x95, "too much before CONNACK")
            return
        packets: list[Packet] = []
        try:
            consumed = self._decode(data, packets)
        except MalformedPacket as error:
            self._handle(packets, len(data))
            self.refuse(error.reason, str(error))
            return
        self._buffer = b""
        if consumed < len(data):
            self._buffer = bytearray(data[consumed:])
            if self.inbound is not None:  # a stranger's word about its size is not waited for
                self._wanted_bytes = v5.packet_size(data, consumed) or 0
        if packets:
            self._handle(packets, consumed)
            if self._keep_alive:
                self.deadline = now + self._keep_alive

    def _decode(self, data: bytes, packets: list[Packet]) -> int:
        limits = self._hub.limits
        if self._codec is None:
            self._codec = admission.codec_for(data) if data else None
            if self._codec is None:
                return 0
        if self.inbound is not None:
            return int(self._codec.decode(data, packets, limits.packet_bytes))
        # Packets may follow CONNECT in the same read; only CONNECT itself has the strangers' limit.
        size = v5.packet_size(data, 0)
        if size is not None and size > limits.connect_bytes:
            raise MalformedPacket(0x95, f"a CONNECT of {size:,} bytes")
        return int(self._codec.decode(data, packets, limits.packet_bytes))

    def _handle(self, packets: list[Packet], size: int) -> None:
        index, count = 0, len(packets)
        while index < count and not self.closed:
            packet = packets[index]
            kind = type(packet)
            if self.inbound is None:
                if self.holding:
                    self._held = packets[index:], size
                    return
                self._on_first(packet)
                index += 1
            elif kind is PublishPacket:
                index = self.inbound.take(packets, index, self._hub.at, size // count + 1)
            elif kind is PubAckPacket:
                index = self._take_pubacks(packets, index)
            elif kind in _HANDLERS:
                _HANDLERS[kind](self, packet)
                index += 1
            else:
                self.refuse(0x82, f"{kind.__name__} may not come from a client now")

    # -- CONNECT ------------------------------------------------------------------------------------------------------

    def _on_first(self, packet: Packet) -> None:
        if not isinstance(packet, ConnectPacket):
            self.refuse(0x82, f"{type(packet).__name__} before CONNECT")
            return
        wish = admission.examine(packet, self.version, self._hub.limits)
        if isinstance(wish, ConnAckReasonCode):
            self._turn_away(wish)
            return
        self.holding = True
        self._peer_packet_max = packet.max_packet_size
        self._hub.access.connect(self.peer, wish.client_id, packet, lambda answer: self._decided(packet, wish, answer))

    def _decided(self, packet: ConnectPacket, wish: Wish, answer: Grant | ConnAckReasonCode) -> None:
        """Access has answered, perhaps much later."""
        if self.closed:
            return
        if isinstance(answer, ConnAckReasonCode):
            self._turn_away(answer)
            return
        if wish.will is not None and not answer.publish(wish.will.topic, retain=wish.will.retain):
            self._turn_away(ConnAckReasonCode.NOT_AUTHORIZED)
            return
        self.grant = answer
        admitted = self._hub.admit(self, wish, answer)
        if isinstance(admitted, ConnAckReasonCode):
            self._turn_away(admitted)
            return
        barrier, present = admitted
        barrier.then(lambda kept: self._welcome(packet, wish, answer, present=present, kept=kept))

    def _turn_away(self, reason: ConnAckReasonCode) -> None:
        self._hub.counters.add("mqtt_connects_refused_total", reason=reason.name.lower())
        self.send(ConnAckPacket(reason_code=reason))
        self._end("FORBIDDEN_ACCESS")

    def _welcome(self, packet: ConnectPacket, wish: Wish, grant: Grant, *, present: bool, kept: bool) -> None:
        """The session is on disk where it has to be, so the client may rely on it."""
        session = self.session
        if self.closed or session is None:
            return
        if not kept and session.stored_expiry < wish.expiry:
            session.expiry = max(0, session.stored_expiry)  # nobody was told of more
            self._turn_away(ConnAckReasonCode.SERVER_UNAVAILABLE)
            return
        limits = self._hub.limits
        if not self.send(admission.welcome(packet, wish, limits, present=present)):
            if not present:
                session.expiry = 0  # nobody was told of it
            return
        self.will, self.will_delay = wish.will, wish.will_delay
        self.window = min(packet.receive_max, limits.inflight)
        self._aliases_max = min(packet.topic_alias_max, ALIASES_MAX)
        self._keep_alive = wish.keep_alive * 1.5
        self.deadline = self._hub.now + self._keep_alive if self._keep_alive else float("inf")
        self.inbound = Inbound(self._hub, self, session, grant, self.peer.origin(grant))
        self._subscribing = Subscribing(self._hub, self, session, grant)
        session.attach(self, grant)
        self._hub.admitted(self)
        session.send_again()
        self.holding = False
        held, self._held = self._held, ([], 0)
        self._handle(*held)
        if self._buffer:
            self.receive(b"", self._hub.now, self._hub.at)
        self._wake()

    # -- the other packets --------------------------------------------------------------------------------------------

    def _take_pubacks(self, packets: list[Packet], index: int) -> int:
        """Handle the run of PUBACKs that begins at `index`; returns the index of the first packet behind it."""
        assert self.session is not None
        packet_ids: list[int] = []
        for position in range(index, len(packets)):  # a slice would copy the rest of the read for every run
            packet = packets[position]
            if type(packet) is not PubAckPacket:
                break
            packet_ids.append(packet.packet_id)
        self._unknown(len(packet_ids) - self.session.acknowledge(*packet_ids))
        return index + len(packet_ids)

    def _on_pubrec(self, packet: PubRecPacket) -> None:
        assert self.session is not None
        failed = int(packet.reason_code) >= 0x80
        if not self.session.take_received(packet.packet_id, failed=failed):
            self._unknown()
            if not failed:
                reason = PubRelReasonCode.PACKET_ID_NOT_FOUND
                self.send(PubRelPacket(packet.packet_id, reason_code=reason))

    def _on_pubrel(self, packet: PubRelPacket) -> None:
        assert self.inbound is not None
        self.inbound.release(packet)

    def _on_pubcomp(self, packet: PubCompPacket) -> None:
        assert self.session is not None
        if not self.session.take_completed(packet.packet_id):
            self._unknown()

    def _unknown(self, count: int = 1) -> None:
        if count:
            self._hub.counters.add("mqtt_unknown_acknowledgements_total", count)

    def _on_subscribe(self, packet: SubscribePacket) -> None:
        assert self._subscribing is not None
        self._subscribing.subscribe(packet)

    def _on_unsubscribe(self, packet: UnsubscribePacket) -> None:
        assert self._subscribing is not None
        self._subscribing.unsubscribe(packet)

    def _on_pingreq(self, _packet: PingReqPacket) -> None:
        self.send(PingRespPacket())

    def _on_disconnect(self, packet: DisconnectPacket) -> None:
        assert self.session is not None
        expiry = packet.session_expiry_interval
        if expiry is not None:
            if expiry and not self.session.expiry:
                self.refuse(0x82, "a session that was to end with its connection cannot be prolonged at its end")
                return
            self.session.expiry = min(expiry, self._hub.limits.session_expiry)
        if packet.reason_code is DisconnectReasonCode.NORMAL_DISCONNECTION:  # only that (MQTT 5 section 3.14.4)
            self.will = None
        self._end("CLIENT_INITIATED_DISCONNECT")
        self._hub.detach(self, self._hub.at)

    # -- bytes out, and the end ---------------------------------------------------------------------------------------

    def put(self, parcel: Parcel, packet_id: int, *, duplicate: bool) -> bool:
        """Send a PUBLISH; False when it is larger than the client takes (MQTT 5 section 3.1.2-24)."""
        if duplicate or self._aliases_max or parcel.expires_at is not None:
            return self._put_of_its_own(parcel, packet_id, duplicate)
        assert self._codec is not None
        head, tail = parcel.encoded(self._codec)
        if packet_id:
            head = b"%b%b%b" % (head, packet_id.to_bytes(2, "big"), tail)
        if self._peer_packet_max is not None and len(head) > self._peer_packet_max:
            self._hub.counters.dropped("larger than the client accepts")
            return False
        self.send_bytes(head)
        return True

    def _put_of_its_own(self, parcel: Parcel, packet_id: int, duplicate: bool) -> bool:
        """Send a PUBLISH that no other client gets in the same bytes."""
        topic = parcel.message.topic
        fields: dict[str, Any] = {"duplicate": duplicate and parcel.qos > 0}
        alias = self._aliases.get(topic)
        if alias is not None:
            fields |= {"topic": "", "topic_alias": alias}
        elif len(self._aliases) < self._aliases_max:
            fields["topic_alias"] = len(self._aliases) + 1
        sent = self.send(parcel.packet(packet_id or None, at=self._hub.at, **fields))
        if not sent:
            self._hub.counters.dropped("larger than the client accepts")
        elif "topic_alias" in fields:
            self._aliases[topic] = fields["topic_alias"]
        return sent

    def release(self, packet_id: int) -> None:
        """Send a PUBREL."""
        self.send(PubRelPacket(packet_id))

    def is_congested(self) -> bool:
        """Whether nothing more should be added to the buffers of this connection now."""
        if self._outgoing_bytes >= OUTGOING_MAX_BYTES and not (self.congested or self.closed):
            self.drain()  # the turn of the loop may hold more for a peer that reads than its session may keep
        return self.congested or self._outgoing_bytes >= OUTGOING_MAX_BYTES

    def take(self) -> bytes:
        """The bytes to write now, all that gathered since the last call; call `taken` when they are written."""
        data = b"".join(self.outgoing)
        self.outgoing.clear()
        self._outgoing_bytes = 0
        return data

    def taken(self) -> None:
        """There is room again: in `outgoing`, or because the peer reads."""
        if self.inbound is not None and self.session is not None and not self.congested:
            self.session.resume()

    def expire(self, at: int) -> None:
        """The deadline has passed: no CONNECT in time, or silence for one and a half keep-alive intervals."""
        text = "silent for too long" if self.inbound is not None else "no CONNECT in time"
        self.reason = "MQTT_KEEP_ALIVE_TIMEOUT"
        self.refuse(int(DisconnectReasonCode.KEEP_ALIVE_TIMEOUT), text)
        self._hub.detach(self, at)

    def refuse(self, reason: int, text: str) -> None:
        """Close this one connection for what its peer did, saying why if its version of MQTT can."""
        if self.closed:
            return
        self._hub.counters.add("mqtt_refused_total", reason=f"0x{reason:02x}")
        if self.inbound is not None and self.version == 5:
            self.send(DisconnectPacket(reason_code=DisconnectReasonCode(reason), reason_str=text[:200]))
        elif self._codec is None and reason == int(ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION):
            self.send_bytes(b"\x20\x02\x00\x01")  # CONNACK of MQTT 3.1.1, which older clients understand
        self._end("CLIENT_ERROR")

    def disk_refuses(self) -> None:
        """Close, because what the client must be told cannot be stored."""
        self.close(DisconnectReasonCode.QUOTA_EXCEEDED)

    def close(self, reason: DisconnectReasonCode, word: str = "SERVER_ERROR") -> None:
        """Close for a reason of ours; `word` is that of the lifecycle event."""
        if self.closed:
            return
        if self.inbound is not None and self.version == 5:
            self.send(DisconnectPacket(reason_code=reason))
        self._end(word)

    def _end(self, word: str) -> None:
        if self.reason == "CONNECTION_LOST":
            self.reason = word
        self.closed = True
        self.holding = False
        if self.inbound is not None:
            self.inbound.ended = True
        self._wake()

    def send(self, packet: Packet) -> bool:
        """Queue a packet; False when the client would not take one so large (MQTT 5 section 3.1.2-24).

        Then a PUBLISH is the caller's to drop; a client without any other packet cannot go on, and is disconnected.
        """
        assert self._codec is not None
        data: bytes = self._codec.encode(packet)
        if self._peer_packet_max is not None and len(data) > self._peer_packet_max:
            self._cannot_say(packet)
            return False
        self.send_bytes(data)
        return True

    def _cannot_say(self, packet: Packet) -> None:
        match packet:
            case ConnAckPacket(reason_code=ConnAckReasonCode.SUCCESS):
                self._turn_away(ConnAckReasonCode.PACKET_TOO_LARGE)
            case DisconnectPacket(reason_str=str()):  # that may be left out (MQTT 5 section 3.14.2.2.3)
                self.send(DisconnectPacket(reason_code=packet.reason_code))
            case PublishPacket() | ConnAckPacket() | DisconnectPacket():
                pass
            case _:
                self.refuse(0x95, "an answer is larger than the client accepts")

    def send_bytes(self, data: bytes) -> None:
        """Queue bytes."""
        if self.closed:
            return
        self.outgoing.append(data)
        self._outgoing_bytes += len(data)
        self._wake()


_HANDLERS: dict[type, Callable[[Connection, Any], None]] = {
    PubRecPacket: Connection._on_pubrec,
    PubRelPacket: Connection._on_pubrel,
    PubCompPacket: Connection._on_pubcomp,
    SubscribePacket: Connection._on_subscribe,
    UnsubscribePacket: Connection._on_unsubscribe,
    PingReqPacket: Connection._on_pingreq,
    DisconnectPacket: Connection._on_disconnect,
}
