"""Peers for the tests of the broker: `Bench` wires clients to it back to back, `RawPeer` speaks over a real socket.

Both send and hear packets, not bytes, in MQTT 5 or 3.1.1 (version 5 or 4). Time stands still on a bench until told.
"""

import asyncio
import inspect
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from types import ModuleType
from typing import Any, TypeVar

import pytest
import uvloop
from mqtt5 import (
    ConnAckPacket,
    ConnAckReasonCode,
    ConnectPacket,
    Packet,
    PublishPacket,
    QoS,
    SubAckPacket,
    SubscribePacket,
    TopicFilter,
)

from core.config import HostPort
from core.message import Message
from core.mqtt import v5, v311
from core.mqtt.access import Access
from core.mqtt.broker import Broker
from core.mqtt.limits import Limits
from core.mqtt.listener import Listeners
from core.receipts import DELIVERED, Batch
from core.telemetry import Counters
from devices.access import OpenAccess

P = TypeVar("P")
PATIENCE_SECONDS = 20.0  # for what must come; no test passes or fails by how fast it came
CLIENT_PACKET_BYTES = 1 << 20

CODECS: dict[int, ModuleType] = {4: v311, 5: v5}


def publish(topic: str, payload: bytes = b"x", packet_id: int | None = None, **more: Any) -> PublishPacket:
    """QoS 1 with a packet identifier, else QoS 0."""
    qos = QoS.AT_MOST_ONCE if packet_id is None else QoS.AT_LEAST_ONCE
    return PublishPacket(topic, payload, **{"qos": qos, "packet_id": packet_id, **more})


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
    """A broker whose acceptor reacts first, as the gateway does, and settles at once or (settle=False) when told."""

    def __init__(self, limits: Limits | None = None, access: Access | None = None, *, settle: bool = True) -> None:
        self.counters = Counters()
        self.batches: list[Batch] = []
        self.settle = settle
        self.now = 1_000.0  # monotonic seconds
        self.broker = Broker(access or OpenAccess(), self._accept, self.counters, limits)

    def _accept(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.broker.publish(batch.messages)
        if self.settle:
            batch.receipt.settle(DELIVERED)

    @property
    def at(self) -> int:
        """Milliseconds since the epoch."""
        return 1_700_000_000_000 + round(self.now * 1_000)

    @property
    def accepted(self) -> list[Message]:
        return [message for batch in self.batches for message in batch.messages]

    @property
    def topics(self) -> list[str]:
        return [message.topic for message in self.accepted]

    def wait(self, seconds: float) -> None:
        """Time passes, and the broker looks at its clock."""
        self.now += seconds
        self.broker.expire(self.now, self.at)

    def open(self, version: int = 5, principal: str | None = None) -> "Peer":
        """A peer that has not said CONNECT yet."""
        return Peer(self, version, principal)

    def connect(self, client_id: str, version: int = 5, **options: Any) -> "Peer":
        """A peer that was admitted."""
        peer = self.open(version)
        peer.send(ConnectPacket(client_id, **{"clean_start": True, **options}))
        (answer,) = peer.heard()
        assert isinstance(answer, ConnAckPacket)
        assert answer.reason_code == ConnAckReasonCode.SUCCESS
        return peer


class Peer:
    """The client's end of a connection without a socket."""

    def __init__(self, bench: Bench, version: int, principal: str | None) -> None:
        self.codec = CODECS[version]
        self.woken = 0
        self._bench = bench
        self.connection = bench.broker.open("10.0.0.7:50000", principal, self._wake, bench.now)

    def _wake(self) -> None:
        self.woken += 1

    @property
    def closed(self) -> bool:
        return self.connection.closed

    def feed(self, data: bytes) -> None:
        """Bytes reach the broker in one read."""
        self.connection.receive(data, self._bench.now, self._bench.at)

    def send(self, *packets: Packet) -> None:
        """Packets reach the broker in one read."""
        self.feed(b"".join(self.codec.encode(packet) for packet in packets))

    def heard(self) -> list[Packet]:
        """What the broker has for this client since the last call."""
        data, packets = self.connection.take(), list[Packet]()
        assert self.codec.decode(data, packets, CLIENT_PACKET_BYTES) == len(data)
        return packets

    def published(self) -> list[PublishPacket]:
        """What the broker has for this client, which must be messages only."""
        packets = self.heard()
        messages = only(packets, PublishPacket)
        assert len(messages) == len(packets), packets
        return messages

    def subscribe(self, *filters: TopicFilter | str, **more: Any) -> list[int]:
        """Subscribe and return the codes of the SUBACK; what comes behind it stays for `published`."""
        self.send(SubscribePacket(77, [wanted(f) if isinstance(f, str) else f for f in filters], **more))
        answer, *rest = self.heard()
        assert isinstance(answer, SubAckPacket)
        assert answer.packet_id == 77
        self.connection.outgoing += [self.codec.encode(packet) for packet in rest]
        return [int(code) for code in answer.reason_codes]

    def cut(self) -> None:
        """The network is gone, and the shell has noticed."""
        self.connection.closed = True
        self._bench.broker.detach(self.connection, self._bench.at)


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
        yield await listeners.open(HostPort("127.0.0.1", 0), context)
    finally:
        await listeners.close()
