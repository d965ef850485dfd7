"""One thing at a time: a client that publishes a message at QoS 1, and waits for what comes of it before the next.

Each answer is timed twice: when the message came that the question gave rise to, and when the PUBACK did, which says
that the question is kept. The two come on connections of their own, as with a machine and whoever looks after it: on
one, what Mosquitto writes second would wait for the TCP acknowledgement of the first (Nagle's algorithm).
"""

import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import mqtt5
from mqtt5 import Packet, PublishPacket, QoS, SubscribePacket, TopicFilter

from bench import load
from bench.load import LoadFailed
from core.mqtt import v311

ANSWER_SECONDS = 30.0
PACKET_IDS = 1_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one message; seconds from before it was sent."""

    payload: bytes
    seconds: float
    acknowledged: float


class Connection:
    """One socket, and what it has read of a packet."""

    def __init__(self, plain: socket.socket) -> None:
        self.socket = plain
        self._rest = b""

    def send(self, packet: Packet) -> None:
        """Send it whole."""
        self.socket.sendall(v311.encode(packet))

    def receive(self) -> list[Packet]:
        """Read once; the packets that are whole. Raises LoadFailed."""
        packets: list[Packet] = []
        try:
            data = self.socket.recv(load.READ_BYTES)
        except OSError as error:
            raise LoadFailed(f"no answer: {error}") from None
        if not data:
            raise LoadFailed("the broker closed a connection")
        data = self._rest + data
        self._rest = data[v311.decode(data, packets, load.PACKET_BYTES_MAX) :]
        return packets


class Client:
    """One connection to ask, and one that hears the topic of the answers."""

    def __init__(self, asking: Connection, hearing: Connection, topic: str) -> None:
        self._asking, self._hearing = asking, hearing
        self._number = 0
        hearing.send(SubscribePacket(1, [TopicFilter(topic, max_qos=QoS.AT_MOST_ONCE)]))
        answer = next(iter(hearing.receive()), None)
        if not isinstance(answer, mqtt5.SubAckPacket) or int(answer.reason_codes[0]) >= 0x80:
            raise LoadFailed(f"the broker refuses a subscription: {answer}")

    def ask(self, topic: str, payload: bytes) -> Answer:
        """Publish, and wait for both. Raises LoadFailed."""
        self._number = self._number % PACKET_IDS + 1
        packet = PublishPacket(topic, payload, qos=QoS.AT_LEAST_ONCE, packet_id=self._number)
        sockets = {connection.socket: connection for connection in (self._asking, self._hearing)}
        told, acknowledged, said = 0.0, 0.0, b""
        began = time.perf_counter()
        self._asking.send(packet)
        while not (told and acknowledged):
            ready, _, _ = select.select(sockets, [], [], ANSWER_SECONDS)
            now = time.perf_counter()
            if not ready:
                raise LoadFailed(f"no answer on {topic} within {ANSWER_SECONDS:.0f} s")
            for one in (packet for each in ready for packet in sockets[each].receive()):
                if isinstance(one, PublishPacket):
                    told, said = now, one.payload
                elif isinstance(one, mqtt5.PubAckPacket) and one.packet_id == self._number:
                    acknowledged = now
                else:
                    raise LoadFailed(f"the broker sends what nobody asked for: {one}")
        return Answer(said, told - began, acknowledged - began)


@contextmanager
def client(port: int, topic: str) -> Iterator[Client]:
    """Connect, and subscribe to where answers come."""
    with _connected(port, "asking") as asking, _connected(port, "hearing") as hearing:
        yield Client(asking, hearing, topic)


@contextmanager
def _connected(port: int, name: str) -> Iterator[Connection]:
    plain, _ = load.connect(port, name, 311)
    assert isinstance(plain, socket.socket)
    with plain:
        plain.settimeout(ANSWER_SECONDS)
        yield Connection(plain)


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which `part` of them are; they are sorted."""
    return values[min(len(values) - 1, int(len(values) * part))]
