"""Peers for the tests of the broker: `Bench` wires clients to it back to back, `RawPeer` speaks over a real socket.

Both send and hear packets, not bytes, in MQTT 5 or 3.1.1 (version 5 or 4). Time stands still on a bench until told.
"""

import asyncio
import inspect
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

import pytest
import uvloop
from mqtt5 import (
    ConnAckPacket,
    ConnAckReasonCode,
    ConnectPacket,
    DisconnectPacket,
    DisconnectReasonCode,
    Packet,
    PublishPacket,
    QoS,
    SubAckPacket,
    SubscribePacket,
    TopicFilter,
)

from core.config import HostPort, Listener
from core.message import Message
from core.mqtt import v5, v311
from core.mqtt.access import Access, Answer, Certificate
from core.mqtt.access import Peer as Who
from core.mqtt.broker import Broker
from core.mqtt.journal import Journal
from core.mqtt.limits import Limits
from core.mqtt.listener import Listeners
from core.mqtt.parcels import Parcel
from core.mqtt.presence import EVENTS
from core.mqtt.session import Session, Subscription
from core.receipts import DELIVERED, Batch
from core.telemetry import Counters
from devices.access import OpenAccess

P = TypeVar("P")
PATIENCE_SECONDS = 20.0  # for what must come; no test passes or fails by how fast it came
CLIENT_PACKET_BYTES = 1 << 20
NOON_MS = 1_750_000_000_000  # when time begins on a bench; later than CLOCK_PLAUSIBLE_MS

CODECS: dict[int, ModuleType] = {4: v311, 5: v5}


def publish(topic: str, payload: bytes = b"x", packet_id: int | None = None, **more: Any) -> PublishPacket:
    """QoS 1 with a packet identifier, else QoS 0."""
    qos = QoS.AT_MOST_ONCE if packet_id is None else QoS.AT_LEAST_ONCE
    return PublishPacket(topic, payload, **{"qos": qos, "packet_id": packet_id, **more})


def publish_2(topic: str, payload: bytes, packet_id: int, **more: Any) -> PublishPacket:
    """QoS 2."""
    return PublishPacket(topic, payload, qos=QoS.EXACTLY_ONCE, packet_id=packet_id, **more)


def wanted(pattern: str, qos: int = 1, **options: Any) -> TopicFilter:
    """A filter with its options; RETAIN is cleared unless asked for, as in 3.1.1."""
    return TopicFilter(pattern, **{"max_qos": QoS(qos), "retain_as_published": False, **options})


def forged(version: int, make: Callable[[str], Packet], topic: str) -> bytes:
    """The bytes of `make(topic)` for a topic or filter that is invalid, which the packet classes refuse to hold."""
    stand_in = "~" * len(topic.encode())
    return bytes(CODECS[version].encode(make(stand_in)).replace(stand_in.encode(), topic.encode()))


def only(packets: list[Packet], kind: type[P]) -> list[P]:
    """Those of one type."""
    return [packet for packet in packets if isinstance(packet, kind)]


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test on asyncio's own loop and on uvloop, which the daemons use."""

    def run(*, loop_factory: Callable[[], asyncio.AbstractEventLoop], **arguments: Any) -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(test(**arguments))

    loop = inspect.Parameter("loop_factory", inspect.Parameter.KEYWORD_ONLY)
    signature = inspect.Signature([*inspect.signature(test).parameters.values(), loop])
    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    run.__signature__ = signature  # type: ignore[attr-defined]
    factories = [asyncio.new_event_loop, uvloop.new_event_loop]
    marked: Callable[..., None] = pytest.mark.parametrize("loop_factory", factories, ids=["asyncio", "uvloop"])(run)
    return marked


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in code that knows nothing of tests
            await asyncio.sleep(0.005)


class Bench:
    """A broker whose acceptor reacts first, as the gateway does, and settles at once or (settle=False) when told.

    The broker's own lifecycle events are kept apart (`events`): they reach subscribers, but are no device's messages.
    """

    def __init__(self, limits: Limits | None = None, access: Access | None = None, *, settle: bool = True) -> None:
        self.counters = Counters()
        self.batches: list[Batch] = []
        self.events: list[Message] = []
        self.settle = settle
        self.now = 1_000.0  # monotonic seconds
        self.broker = Broker(access or OpenAccess(), self._accept, self.counters, limits)
        self.wait(0)

    def _accept(self, batch: Batch) -> None:
        own = batch.messages[0].topic.startswith(EVENTS)
        if own:
            self.events += batch.messages
        else:
            self.batches.append(batch)
        self.broker.publish(batch.messages)
        if self.settle or own:
            batch.receipt.settle(DELIVERED)

    @property
    def at(self) -> int:
        """Milliseconds since the epoch."""
        return NOON_MS + round((self.now - 1_000) * 1_000)

    @property
    def accepted(self) -> list[Message]:
        return [message for batch in self.batches for message in batch.messages]

    @property
    def topics(self) -> list[str]:
        return [message.topic for message in self.accepted]

    def dropped(self, reason: str) -> int:
        """How many messages were counted as lost for a reason."""
        return self.counters.value("dropped_total", reason=reason)

    def wait(self, seconds: float) -> None:
        """Time passes, and the broker looks at its clock."""
        self.now += seconds
        self.broker.expire(self.now, self.at)

    def open(self, version: int = 5, principal: str | None = None) -> "Peer":
        """A peer that has not said CONNECT yet."""
        return Peer(self, version, principal)

    def connect(self, client_id: str, version: int = 5, *, principal: str | None = None, **options: Any) -> "Peer":
        """A peer that was admitted; `welcome` is its CONNACK, and what came behind that stays for `heard`."""
        peer = self.open(version, principal)
        peer.send(ConnectPacket(client_id, **{"clean_start": True, **options}))
        return peer.admitted()

    def resume(self, client_id: str, version: int = 5, **options: Any) -> "Peer":
        """A peer whose session is kept for an hour (for ever in MQTT 3.1.1), and was perhaps kept before."""
        return self.connect(client_id, version, **{"clean_start": False, "session_expiry_interval": 3_600, **options})


class Peer:
    """The client's end of a connection without a socket."""

    def __init__(self, bench: Bench, version: int, principal: str | None) -> None:
        self.codec = CODECS[version]
        self.woken = 0
        self.welcome = ConnAckPacket()
        self._bench = bench
        certificate = Certificate("00" * 32, {"commonName": principal}, {}, "01", b"") if principal else None
        self.connection = bench.broker.open(Who("10.0.0.7:50000", certificate, True), self._wake, bench.now)

    def _wake(self) -> None:
        self.woken += 1

    @property
    def closed(self) -> bool:
        return self.connection.closed

    def admitted(self) -> "Peer":
        """It has been, with `welcome`."""
        answer, *rest = self.heard()
        assert isinstance(answer, ConnAckPacket)
        assert answer.reason_code == ConnAckReasonCode.SUCCESS
        self.welcome = answer
        self.put_back(rest)
        return self

    def assert_ended(self, reason: DisconnectReasonCode) -> None:
        """Closed, and an MQTT 5 client was told why and nothing else."""
        assert self.closed
        heard = self.heard()
        if self.connection.version == 5:
            (farewell,) = heard
            assert isinstance(farewell, DisconnectPacket)
            assert farewell.reason_code == reason
        else:
            assert heard == []

    def feed(self, data: bytes) -> None:
        """Bytes reach the broker in one read."""
        self.connection.receive(data, self._bench.now, self._bench.at)

    def send(self, *packets: Packet) -> None:
        """Packets reach the broker in one read."""
        self.feed(b"".join(self.codec.encode(packet) for packet in packets))

    def heard(self) -> list[Packet]:
        """What the broker has for this client since the last call."""
        packets: list[Packet] = []
        while data := self.connection.take():
            assert self.codec.decode(data, packets, CLIENT_PACKET_BYTES) == len(data)
            if not self.closed:
                self.connection.taken()
        return packets

    def published(self) -> list[PublishPacket]:
        """What the broker has for this client, which must be messages only."""
        packets = self.heard()
        messages = only(packets, PublishPacket)
        assert len(messages) == len(packets), packets
        return messages

    def payloads(self) -> list[bytes]:
        """The payloads of `published`."""
        return [packet.payload for packet in self.published()]

    def subscribe(self, *filters: TopicFilter | str, **more: Any) -> list[int]:
        """Subscribe and return the codes of the SUBACK; what comes before and behind it stays for `published`."""
        before = self.heard()
        self.send(SubscribePacket(77, [wanted(f) if isinstance(f, str) else f for f in filters], **more))
        heard = self.heard()
        (answer,) = only(heard, SubAckPacket)
        assert answer.packet_id == 77
        self.put_back([*before, *(packet for packet in heard if packet is not answer)])
        return [int(code) for code in answer.reason_codes]

    def put_back(self, packets: list[Packet]) -> None:
        """Hear these packets again, before what came since."""
        self.connection.outgoing[:0] = [self.codec.encode(packet) for packet in packets]

    def cut(self) -> None:
        """The network is gone, and the shell has noticed."""
        self.connection.closed = True
        self._bench.broker.detach(self.connection, self._bench.at)


class Guard:
    """Access by the will of a test: `answer` to every CONNECT (at once, or `later` from `waiting`), topics below a
    prefix closed to everyone (`forbid`), and clients whose access was `revoked`.
    """

    def __init__(self, answer: ConnAckReasonCode | None = None, *, later: bool = False) -> None:
        self.seen: list[tuple[Who, str]] = []
        self.waiting: list[Callable[[], None]] = []
        self.revoked: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self._answer = answer
        self._later = later
        self._forbidden: set[tuple[str, str, str]] = set()

    def forbid(self, verb: str, prefix: str, client_id: str = "") -> None:
        """Close topics or filters to "publish", "retain", "subscribe" or "receive", for one client or for all."""
        self._forbidden.add((verb, prefix, client_id))

    def connect(self, peer: Who, client_id: str, packet: ConnectPacket, answer: Answer) -> None:
        self.seen.append((peer, client_id))
        name = peer.certificate.subject["commonName"] if peer.certificate is not None else None
        grant = GuardedGrant(self, client_id, name)
        if self._later:
            self.waiting.append(lambda: answer(grant if self._answer is None else self._answer))
        else:
            answer(grant if self._answer is None else self._answer)

    def allows(self, client_id: str, verb: str, topic: str) -> bool:
        self.asked.append((verb, topic))
        return not any(
            topic.startswith(prefix)
            for forbidden, prefix, whose in self._forbidden
            if forbidden == verb and whose in ("", client_id)
        )


@dataclass
class GuardedGrant:
    """What a Guard has granted."""

    guard: Guard
    client_id: str
    principal: str | None

    def publish(self, topic: str, *, retain: bool) -> bool:
        return self._may("publish", topic) and not (retain and not self._may("retain", topic))

    def subscribe(self, pattern: str) -> bool:
        return self._may("subscribe", pattern)

    def receive(self, topic: str) -> bool:
        return self._may("receive", topic)

    def refresh(self) -> bool:
        return self.client_id not in self.guard.revoked

    def _may(self, verb: str, topic: str) -> bool:
        return self.guard.allows(self.client_id, verb, topic)


class Home:
    """What all sessions of a broker share, for tests of a session without one."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.at = NOON_MS
        self.queued_bytes = 0
        self.limits = limits or Limits()
        self.counters = Counters()
        self.journal = Journal()


class Reader:
    """A session and its client: what it was sent, without a connection between them."""

    def __init__(self, client_id: str = "c", home: Home | None = None, *, window: int = 64, largest: int = 1 << 30):
        self.home = home or Home()
        self.session = Session(client_id, None, self.home)
        self.sent: list[PublishPacket] = []
        self.released: list[int] = []
        self.window = window
        self.congested = False
        self._largest = largest
        self.come()

    def come(self, grant: GuardedGrant | None = None) -> None:
        """Connect, and be sent what is owed."""
        self.session.attach(self, grant or GuardedGrant(Guard(), self.session.client_id, None))
        self.session.send_again()

    def leave(self) -> None:
        """The connection is lost."""
        self.session.detach()

    def wants(self, pattern: str, qos: int = 1, **options: Any) -> Subscription:
        """A subscription of this client."""
        return Subscription(self.session, pattern, qos, **options)

    def deliver(self, payload: bytes = b"", qos: int = 1, **more: Any) -> None:
        """A message with this payload is published to "t"."""
        self.session.deliver(Parcel(Message("t", payload, qos, received_at=self.home.at, **more), qos))

    @property
    def payloads(self) -> list[bytes]:
        return [packet.payload for packet in self.sent]

    def hear(self) -> list[PublishPacket]:
        """What was sent since the last call."""
        sent, self.sent = self.sent, []
        return sent

    # What a session asks of its client's connection.

    def put(self, parcel: Parcel, packet_id: int, *, duplicate: bool) -> bool:
        packet = parcel.packet(packet_id or None, at=self.home.at, duplicate=duplicate)
        if len(packet.write()) > self._largest:
            return False
        self.sent.append(packet)
        return True

    def release(self, packet_id: int) -> None:
        self.released.append(packet_id)

    def is_congested(self) -> bool:
        return self.congested

    def disk_refuses(self) -> None:
        raise AssertionError("nothing is on disk here")


class RawPeer:
    """A client over a socket that does only what it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: int) -> None:
        self.writer = writer
        self._reader = reader
        self._codec = CODECS[version]
        self._buffer = b""
        self._packets: list[Packet] = []

    @classmethod
    async def open(cls, address: HostPort, version: int = 5, context: ssl.SSLContext | None = None) -> "RawPeer":
        """Connect the socket."""
        reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
        return cls(reader, writer, version)

    @classmethod
    async def connect(
        cls, address: HostPort, client_id: str, version: int = 5, context: ssl.SSLContext | None = None, **options: Any
    ) -> "RawPeer":
        """Connect and be admitted."""
        peer = await cls.open(address, version, context)
        peer.send(ConnectPacket(client_id, **{"clean_start": True, **options}))
        try:
            answer = await peer.next()
        except (OSError, EOFError):
            await peer.close()
            raise
        assert isinstance(answer, ConnAckPacket)
        assert answer.reason_code == ConnAckReasonCode.SUCCESS
        return peer

    def send(self, *packets: Packet) -> None:
        """One write."""
        self.writer.write(b"".join(self._codec.encode(packet) for packet in packets))

    async def next(self) -> Packet:
        """The next packet; EOFError when the broker has closed."""
        while not self._packets:
            async with asyncio.timeout(PATIENCE_SECONDS):
                data = await self._reader.read(1 << 16)
            if not data:
                raise EOFError
            self._take(data)
        return self._packets.pop(0)

    async def take(self, count: int) -> list[Packet]:
        """The next packets."""
        return [await self.next() for _ in range(count)]

    async def rest(self) -> list[Packet]:
        """Everything up to the end of the connection."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            self._take(await self._reader.read())
        packets, self._packets = self._packets, []
        return packets

    async def close(self) -> None:
        """Close the socket without a word."""
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()

    def _take(self, data: bytes) -> None:
        self._buffer += data
        self._buffer = self._buffer[self._codec.decode(self._buffer, self._packets, CLIENT_PACKET_BYTES) :]


@asynccontextmanager
async def listening(bench: Bench, context: ssl.SSLContext | None = None) -> AsyncIterator[HostPort]:
    """The bench's broker behind a real socket on a free port."""
    listeners = Listeners(bench.broker)
    try:
        address = await listeners.open(Listener(address=HostPort("127.0.0.1", 0), anonymous=True), context)
        assert isinstance(address, HostPort)
        yield address
    finally:
        await listeners.close()
