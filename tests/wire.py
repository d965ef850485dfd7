"""Clients over real sockets: `Wire` says and hears packets and does only what it is told, `Device` is paho.

`Clients` makes both, under names of one test's own, and closes them. Nothing here waits for luck: what must come is
waited for, and that nothing more comes is known by a fence, an answer that the broker can only give afterwards.
"""

import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import ModuleType, TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

import paho.mqtt.client as paho
from mqtt5 import (
    ConnAckPacket,
    ConnAckReasonCode,
    ConnectPacket,
    DisconnectPacket,
    Packet,
    PingReqPacket,
    PingRespPacket,
    PubAckPacket,
    PubCompPacket,
    PublishPacket,
    PubRecPacket,
    PubRelPacket,
    QoS,
    SubAckPacket,
    SubscribePacket,
    TopicFilter,
    UnsubAckPacket,
    UnsubscribePacket,
)
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from core.config import HostPort
from core.mqtt import v5, v311

P = TypeVar("P", bound=Packet)
PATIENCE_SECONDS = 20.0  # for what must come; no test passes or fails by how fast it came
PACKET_BYTES_MAX = 1 << 20
READ_BYTES = 1 << 16
CODECS: dict[int, ModuleType] = {4: v311, 5: v5}


class Refused(Exception):
    """The broker did not admit a client; `code` says why."""

    def __init__(self, code: ConnAckReasonCode) -> None:
        super().__init__(repr(code))
        self.code = code


def a_filter(pattern: str, qos: int = 2, **options: Any) -> TopicFilter:
    """RETAIN is cleared on what it brings unless asked for, as in 3.1.1."""
    return TopicFilter(pattern, **{"max_qos": QoS(qos), "retain_as_published": False, **options})


class Wire:
    """One connection. `connack` is the broker's welcome; packets that came before the awaited one wait in `inbox`."""

    def __init__(self, address: HostPort, version: int = 5) -> None:
        self.connack = ConnAckPacket()
        self.inbox: list[Packet] = []
        self._codec = CODECS[version]
        self._bytes = b""
        self._decoded: list[Packet] = []
        self._packet_id = 0
        self._socket = socket.create_connection((address.host, address.port), PATIENCE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def connect(self, client_id: str, **options: Any) -> Self:
        """Be admitted; a clean start unless asked for another. Raises Refused, and has closed then."""
        try:
            self.send(ConnectPacket(client_id, **{"clean_start": True, **options}))
            self.connack = self.expect(ConnAckPacket)
            if self.connack.reason_code != ConnAckReasonCode.SUCCESS:
                raise Refused(self.connack.reason_code)
        except BaseException:
            self.close()
            raise
        return self

    def send(self, *packets: Packet | bytes) -> None:
        """One write."""
        self._socket.sendall(b"".join(p if isinstance(p, bytes) else self._codec.encode(p) for p in packets))

    def patience(self, seconds: float) -> None:
        """How long to wait for the broker to take or say something, before TimeoutError."""
        self._socket.settimeout(seconds)

    def next(self) -> Packet:
        """The next packet; EOFError when the broker has closed."""
        return self.inbox.pop(0) if self.inbox else self._read()

    def expect(self, kind: type[P]) -> P:
        """The next packet, which must be of this kind."""
        packet = self.next()
        assert isinstance(packet, kind), packet
        return packet

    def rest(self) -> list[Packet]:
        """Everything up to the end of the connection, which the broker must bring about."""
        packets: list[Packet] = []
        try:
            while True:
                packets.append(self.next())
        except (EOFError, ConnectionResetError):
            return packets

    def rest_bytes(self) -> bytes:
        """The bytes of everything up to the end of the connection, which need not be packets."""
        data = self._bytes
        with suppress(ConnectionResetError):
            while more := self._socket.recv(READ_BYTES):
                data += more
        return data

    def heard(self) -> list[Packet]:
        """Everything that the broker has sent up to now."""
        self.send(PingReqPacket())
        self._until(lambda packet: isinstance(packet, PingRespPacket))
        packets, self.inbox = self.inbox, []
        return packets

    def published(self) -> list[PublishPacket]:
        """Everything that the broker has sent up to now, which must be messages only; none is acknowledged."""
        packets = self.heard()
        assert all(isinstance(packet, PublishPacket) for packet in packets), packets
        return [packet for packet in packets if isinstance(packet, PublishPacket)]

    def take(self, count: int) -> list[PublishPacket]:
        """The next messages, acknowledged as their QoS asks."""
        return [self._taken() for _ in range(count)]

    def exactly(self, count: int) -> list[PublishPacket]:
        """The next messages, acknowledged; there must not be one more."""
        messages = self.take(count)
        assert self.heard() == []
        return messages

    def drained(self) -> list[PublishPacket]:
        """Every message that the broker has for us now, acknowledged, and those that waited for that."""
        messages: list[PublishPacket] = []
        while packets := self.heard():
            self.inbox[:0] = packets
            while self.inbox:
                messages.append(self._taken())
        return messages

    def subscribe(self, *filters: TopicFilter | str, **more: Any) -> list[int]:
        """Subscribe and return the codes of the SUBACK."""
        packet_id = self._next_packet_id()
        wanted = [a_filter(each) if isinstance(each, str) else each for each in filters]
        self.send(SubscribePacket(packet_id, wanted, **more))
        return [int(code) for code in self.answer(SubAckPacket, packet_id).reason_codes]

    def unsubscribe(self, *patterns: str) -> list[int]:
        """Unsubscribe and return the codes of the UNSUBACK."""
        packet_id = self._next_packet_id()
        self.send(UnsubscribePacket(packet_id, list(patterns)))
        return [int(code) for code in self.answer(UnsubAckPacket, packet_id).reason_codes]

    def publish(self, topic: str, payload: bytes = b"x", qos: int = 1, **more: Any) -> int:
        """Publish, finish the exchange, and return the code that the broker answered with; 0 for QoS 0."""
        packet_id = self._next_packet_id() if qos else None
        self.send(PublishPacket(topic, payload, qos=QoS(qos), packet_id=packet_id, **more))
        if packet_id is None:
            return 0
        if qos == 1:
            return int(self.answer(PubAckPacket, packet_id).reason_code)
        code = int(self.answer(PubRecPacket, packet_id).reason_code)
        if code < 0x80:
            self.send(PubRelPacket(packet_id))
            self.answer(PubCompPacket, packet_id)
        return code

    def disconnect(self, **options: Any) -> None:
        """Say DISCONNECT and wait until the broker has closed."""
        self.send(DisconnectPacket(**options))
        self.rest()
        self.close()

    def cut(self) -> None:
        """End the connection with a reset, in mid-sentence if need be."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Close the socket without a word."""
        self._socket.close()

    def answer(self, kind: type[P], packet_id: int) -> P:
        """The answer to the packet of this identifier; what comes before it waits in the inbox."""
        packet = self._until(lambda p: isinstance(p, kind) and getattr(p, "packet_id", None) == packet_id)
        assert isinstance(packet, kind)
        return packet

    def _taken(self) -> PublishPacket:
        packet = self.expect(PublishPacket)
        if packet.qos == QoS.AT_LEAST_ONCE:
            self.send(PubAckPacket(packet.packet_id or 0))
        elif packet.qos == QoS.EXACTLY_ONCE:
            self.send(PubRecPacket(packet.packet_id or 0))
            self.answer(PubRelPacket, packet.packet_id or 0)
            self.send(PubCompPacket(packet.packet_id or 0))
        return packet

    def _next_packet_id(self) -> int:
        self._packet_id = self._packet_id % 0xFFFF + 1
        return self._packet_id

    def _until(self, wanted: Callable[[Packet], bool]) -> Packet:
        while not wanted(packet := self._read()):
            self.inbox.append(packet)
        return packet

    def _read(self) -> Packet:
        while not self._decoded:
            data = self._socket.recv(READ_BYTES)
            if not data:
                raise EOFError
            self._bytes += data
            self._bytes = self._bytes[self._codec.decode(self._bytes, self._decoded, PACKET_BYTES_MAX) :]
        return self._decoded.pop(0)


class Device:
    """A paho client, connected at most once (paho leaks sockets otherwise); what reaches it stands in `messages`."""

    def __init__(self, address: HostPort, client_id: str, version: int, *, clean: bool, expiry: int) -> None:
        self.messages: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self.session_present = False
        self.codes: list[int] = []
        self._address, self._version, self._clean, self._expiry = address, version, clean, expiry
        self._answered = threading.Event()
        more: dict[str, Any] = {} if version == 5 else {"clean_session": clean}
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion(version), reconnect_on_failure=False,
            **more,
        )  # fmt: skip
        self.client.on_message = lambda _client, _userdata, message: self.messages.put(message)
        self.client.on_connect = self._connected
        self.client.on_subscribe = self.client.on_unsubscribe = self._granted

    def connect(self, **more: Any) -> Self:
        """Connect, and wait until admitted."""
        if self._version == 5:
            expiry = properties("CONNECT", SessionExpiryInterval=self._expiry)
            more |= {"clean_start": self._clean, "properties": expiry}
        self._answered.clear()
        self.client.connect(self._address.host, self._address.port, **more)
        self.client.loop_start()
        assert self._answered.wait(PATIENCE_SECONDS)
        return self

    def subscribe(self, *pairs: tuple[str, Any], **more: Any) -> list[int]:
        """Subscribe to (filter, QoS or options) and wait for the codes."""
        self._answered.clear()
        self.client.subscribe(list(pairs), **more)
        assert self._answered.wait(PATIENCE_SECONDS)
        return self.codes

    def unsubscribe(self, pattern: str) -> None:
        """Unsubscribe and wait for the answer."""
        self._answered.clear()
        self.client.unsubscribe(pattern)
        assert self._answered.wait(PATIENCE_SECONDS)

    def publish(self, topic: str, payload: bytes, qos: int = 1, **more: Any) -> None:
        """Publish and wait until the exchange is over."""
        info = self.client.publish(topic, payload, qos, **more)
        info.wait_for_publish(PATIENCE_SECONDS)
        assert info.is_published()

    def take(self, count: int) -> list[paho.MQTTMessage]:
        """The next messages."""
        return [self.messages.get(timeout=PATIENCE_SECONDS) for _ in range(count)]

    def heard(self) -> list[paho.MQTTMessage]:
        """Everything that the broker has sent up to now: a message to ourselves of QoS 2 can only come after it."""
        fence = f"fence/{uuid4().hex}"
        self.subscribe((fence, 2))
        self.publish(fence, b"", 2)
        heard: list[paho.MQTTMessage] = []
        while (message := self.messages.get(timeout=PATIENCE_SECONDS)).topic != fence:
            heard.append(message)
        self.unsubscribe(fence)
        return heard

    def disconnect(self) -> None:
        """Say DISCONNECT and end paho's thread."""
        self.client.disconnect()
        self.client.loop_stop()

    def _connected(self, _client: Any, _userdata: Any, flags: Any, reason: Any, _properties: Any) -> None:
        assert not reason.is_failure, reason
        self.session_present = flags.session_present
        self._answered.set()

    def _granted(self, _client: Any, _userdata: Any, _packet_id: Any, reasons: Any, _properties: Any) -> None:
        self.codes = [reason.value for reason in reasons]
        self._answered.set()


def properties(packet: str, **values: Any) -> Properties:
    """Paho's MQTT 5 properties for a kind of packet, such as "PUBLISH"."""
    made = Properties(getattr(PacketTypes, packet))
    for name, value in values.items():
        setattr(made, name, value)
    return made


class Clients:
    """Makes clients of one broker, under client identifiers and topics that no other test has."""

    def __init__(self, address: HostPort) -> None:
        self.address = address
        self.root = f"t{uuid4().hex[:8]}"
        self._wires: list[Wire] = []
        self._devices: list[Device] = []

    def open(self, version: int = 5) -> Wire:
        """A connection that has not said CONNECT yet."""
        self._wires.append(Wire(self.address, version))
        return self._wires[-1]

    def wire(self, name: str, version: int = 5, **options: Any) -> Wire:
        """A connection that was admitted. Raises Refused."""
        return self.open(version).connect(f"{self.root}-{name}", **options)

    def device(self, name: str, version: int = 5, *, clean: bool = True, expiry: int = 0) -> Device:
        """A paho client, not connected yet."""
        self._devices.append(Device(self.address, f"{self.root}-{name}", version, clean=clean, expiry=expiry))
        return self._devices[-1]

    def topics(self, *names: str) -> Iterable[str]:
        """Topics or filters below the test's own."""
        return (f"{self.root}/{name}" for name in names)

    def close(self) -> None:
        """Close every connection."""
        for wire in self._wires:
            wire.close()
        for device in self._devices:
            device.disconnect()
