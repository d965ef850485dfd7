"""One load generator for every broker: raw sockets, QoS 1, a window of unacknowledged publishes per connection.

    python -m bench.load --port 1883 --connections 10 --seconds 5

prints how many publishes the broker on that loopback port acknowledged, in how many seconds, how many that is per
second, and how much processor time the generator itself took.

How it stays far cheaper than a broker: each connection's packets are made once, as one ring of bytes in which the
packet identifiers count from 1; what may be sent is then a slice of that ring, and since MQTT wants PUBACKs in the
order of the publishes (3.1.1 section 4.6), what must come back is a slice of another ring, so one comparison checks a
whole read. Acknowledgements of another form (MQTT 5 has several) are decoded one by one.
A short pause between rounds lets acknowledgements gather, also from a broker that writes each PUBACK alone.

It stops by itself, and fails when the broker answers wrongly, closes a connection or stands still.
"""

import argparse
import json
import selectors
import socket
import ssl
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import mqtt5
import orjson
from mqtt5 import ConnAckPacket, ConnAckReasonCode, ConnectPacket, Packet, PublishPacket, QoS

from bench.tls import TlsSocket
from core.errors import TidegateError
from core.mqtt import v5, v311
from devices import recordings
from devices.recordings import Reading

HOST = "127.0.0.1"
TOPICS = "plant/line/{}/telemetry"  # of a client by its name
SERVER_NAME = "localhost"  # what a broker's certificate says
WINDOW = 100  # publishes in flight per connection: enough that no broker waits for us
PAYLOAD_BYTES = 100
RING_PACKETS = 4_096  # distinct packets per connection: about 0.6 MB, and enough variety for a compressor
READ_BYTES = 1 << 16
PAUSE_SECONDS = 50e-6  # less than a broker needs for a window, so none is idle; Mosquitto is fastest with it
STALL_SECONDS = 30.0  # a broker that acknowledges nothing for so long has failed
PACKET_BYTES_MAX = 1 << 16  # no answer to a publisher is longer
UNBOUNDED = 1 << 62

Version = Literal[5, 311]
Credentials = Callable[[str], ssl.SSLContext]  # by client identifier, which the certificate says too


class LoadFailed(TidegateError):
    """The broker refused, answered wrongly, closed a connection or stood still."""


@dataclass(frozen=True, slots=True)
class Load:
    """What was acknowledged. `cpu_seconds` is the generator's own processor time."""

    connections: int
    acknowledged: int
    seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        """Acknowledged publishes per second."""
        return self.acknowledged / self.seconds


class Sensor:
    """One connection: a ring of publishes, a ring of the acknowledgements they must get, and how far both are.

    At QoS 0 nothing is acknowledged, and whoever calls `send` says how much may be under way. All packets have one
    size when the topics have; a socket is closed by whoever made the sensor.
    """

    def __init__(
        self,
        port: int,
        name: str,
        topic: str,
        *,
        window: int = WINDOW,
        version: Version = 311,
        qos: int = 1,
        ring: int = RING_PACKETS,
        credentials: Credentials | None = None,
    ) -> None:
        packets = publishes(topic, version, qos, ring)
        self.sent = 0  # bytes since the beginning, as if the ring were endless
        self.acknowledged = 0  # packets
        self.size = len(packets[0])
        self._ring = ring
        self._publishes = memoryview(b"".join(packets))
        self._acks = b"".join(b"\x40\x02" + identifier.to_bytes(2) for identifier in range(1, ring + 1)) * 2
        self._tail = b""
        self.socket, answer = connect(port, name, version, credentials)
        self.window = min(window, answer.receive_max) if qos else UNBOUNDED
        if isinstance(self.socket, socket.socket):  # TLS sends all of a window, which the kernel has room for
            self.socket.setblocking(False)

    def send(self, packets_max: int) -> bool:
        """Send what the window allows, up to the packet `packets_max`; whether the socket took all of it."""
        allowed = min(self.acknowledged + self.window, packets_max) * self.size
        while self.sent < allowed:
            start = self.sent % len(self._publishes)
            try:
                count = self.socket.send(self._publishes[start : start + allowed - self.sent])
            except BlockingIOError:
                return False
            except OSError as error:
                raise LoadFailed(f"the broker closed a connection: {error}") from None
            self.sent += count
        return True

    def receive(self) -> int:
        """Take what the broker has sent; how many publishes that acknowledges."""
        try:
            data = self._tail + self.socket.recv(READ_BYTES)
        except OSError as error:
            raise LoadFailed(f"the broker closed a connection: {error}") from None
        if len(data) == len(self._tail):
            raise LoadFailed("the broker closed a connection")
        start = self.acknowledged % self._ring * 4
        whole = len(data) & ~3
        if whole and self._acks[start : start + whole] == data[:whole]:
            self._tail = data[whole:]
            count = whole // 4
        else:
            count = self._receive_others(data)
        self.acknowledged += count
        return count

    def _receive_others(self, data: bytes) -> int:
        """Decode acknowledgements that are not the plain four bytes, each in its place."""
        packets: list[Packet] = []
        self._tail = data[v5.decode(data, packets, PACKET_BYTES_MAX) :]
        for offset, packet in enumerate(packets):
            expected = (self.acknowledged + offset) % self._ring + 1
            if not isinstance(packet, mqtt5.PubAckPacket) or packet.packet_id != expected:
                raise LoadFailed(f"expected the acknowledgement of packet {expected}, not {packet}")
            if int(packet.reason_code) >= 0x80:
                raise LoadFailed(f"the broker refuses a publish: {packet.reason_code}")
        return len(packets)


def connect(
    port: int, client_id: str, version: Version, credentials: Credentials | None = None
) -> tuple[socket.socket | TlsSocket, ConnAckPacket]:
    """An accepted connection, still blocking, and the broker's answer. Raises LoadFailed, or OSError of the socket."""
    codec = v5 if version == 5 else v311
    plain = socket.create_connection((HOST, port), timeout=STALL_SECONDS)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = TlsSocket(plain, credentials(client_id), SERVER_NAME) if credentials else plain
        connection.sendall(codec.encode(ConnectPacket(client_id, clean_start=True)))
        answer = connack(connection, version)
        if answer.reason_code != ConnAckReasonCode.SUCCESS:
            raise LoadFailed(f"the broker refuses the connection: {answer.reason_code}")
    except BaseException:
        plain.close()
        raise
    return connection, answer


def connack(connection: socket.socket | TlsSocket, version: Version) -> ConnAckPacket:
    """Read the broker's answer to CONNECT. Raises LoadFailed when there is none, OSError when the socket fails."""
    codec = v5 if version == 5 else v311
    data, packets = b"", list[Packet]()
    while not packets:
        more = connection.recv(READ_BYTES)
        if not more:
            raise LoadFailed("the broker closed the connection instead of answering CONNECT")
        data += more
        codec.decode(data, packets, PACKET_BYTES_MAX)
    if not isinstance(packets[0], ConnAckPacket):
        raise LoadFailed(f"the broker answers CONNECT with {packets[0]}")
    return packets[0]


def publishes(topic: str, version: Version, qos: int, count: int) -> list[bytes]:
    """Publishes with real readings, each payload of exactly PAYLOAD_BYTES; identifiers, at QoS 1, are 1 to `count`."""
    codec = v5 if version == 5 else v311
    readings = recordings.load("machine").readings
    first = zlib.crc32(topic.encode()) % len(readings)  # other readings on each topic, and the same in each run
    packets = []
    for number in range(1, count + 1):
        payload = _payload(readings[(first + number) % len(readings)])
        level, packet_id = (QoS.AT_LEAST_ONCE, number) if qos else (QoS.AT_MOST_ONCE, None)
        packets.append(codec.encode(PublishPacket(topic, payload, qos=level, packet_id=packet_id)))
    return packets


def _payload(reading: Reading) -> bytes:
    fields = {"reading": reading.number, "time": reading.time, "temperature": reading.value, "pad": ""}
    bare = len(orjson.dumps(fields))
    return orjson.dumps({**fields, "pad": "x" * (PAYLOAD_BYTES - bare)})


def run(
    port: int,
    *,
    connections: int = 10,
    seconds: float | None = None,
    messages: int | None = None,
    window: int = WINDOW,
    version: Version = 311,
    credentials: Credentials | None = None,
    topics: str = TOPICS,
) -> Load:
    """Publish to the broker on loopback `port` for `seconds`, or `messages` publishes; give one of the two.

    The clients are named by `names`, and each publishes to the topic that `topics` makes of its name. With `messages`,
    every one of them has been acknowledged on return. Raises LoadFailed.
    """
    shares = _shares(messages, connections)
    sensors = list[Sensor]()
    try:
        for name in names(connections):
            sensor = Sensor(
                port, name, topics.format(name), window=window, version=version, credentials=credentials
            )
            sensors.append(sensor)
        started, cpu = time.perf_counter(), time.process_time()
        _drive(list(zip(sensors, shares, strict=True)), started + seconds if seconds else float("inf"))
        took, cpu = time.perf_counter() - started, time.process_time() - cpu
    finally:
        for sensor in sensors:
            sensor.socket.close()
    return Load(connections, sum(sensor.acknowledged for sensor in sensors), took, cpu)


def names(connections: int) -> list[str]:
    """The client identifiers on so many connections."""
    return [f"m{number}" for number in range(connections)]


def _shares(messages: int | None, connections: int) -> list[int]:
    if messages is None:
        return [UNBOUNDED] * connections
    each, rest = divmod(messages, connections)
    return [each + (number < rest) for number in range(connections)]


def _drive(work: list[tuple[Sensor, int]], deadline: float) -> None:
    """Keep every sensor's window full until its share is acknowledged or the deadline has passed."""
    selector = selectors.DefaultSelector()
    unfinished = len(work)
    for sensor, share in work:
        selector.register(sensor.socket, selectors.EVENT_READ, (sensor, share))
        _send(selector, sensor, share)
    while unfinished and (left := deadline - time.perf_counter()) > 0:
        ready = selector.select(min(left, STALL_SECONDS))
        if not ready and left > STALL_SECONDS:
            raise LoadFailed(f"the broker acknowledged nothing for {STALL_SECONDS:.0f} seconds")
        time.sleep(PAUSE_SECONDS)
        for key, events in ready:
            sensor, share = key.data
            if events & selectors.EVENT_READ and sensor.receive() and sensor.acknowledged == share:
                unfinished -= 1
                selector.unregister(sensor.socket)
            else:
                _send(selector, sensor, share)


def _send(selector: selectors.BaseSelector, sensor: Sensor, share: int) -> None:
    wanted = selectors.EVENT_READ | (0 if sensor.send(share) else selectors.EVENT_WRITE)
    if selector.get_key(sensor.socket).events != wanted:
        selector.modify(sensor.socket, wanted, (sensor, share))


def main() -> None:
    """Load one broker that already runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=1883, help="loopback port of the broker")
    parser.add_argument("--connections", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--messages", type=int, help="publish so many, instead of for --seconds")
    parser.add_argument("--window", type=int, default=WINDOW, help="publishes in flight per connection")
    parser.add_argument("--mqtt", type=int, choices=[311, 5], default=311)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        load = run(
            options.port,
            connections=options.connections,
            seconds=None if options.messages else options.seconds,
            messages=options.messages,
            window=options.window,
            version=options.mqtt,
        )
    except (TidegateError, OSError) as error:
        raise SystemExit(f"bench.load: {error}") from None
    if options.json:
        print(json.dumps({**asdict(load), "per_second": load.per_second}, indent=2))
        return
    print(f"{load.acknowledged:,} acknowledged in {load.seconds:.2f} s on {load.connections} connections")
    print(f"{load.per_second:,.0f} per second; the generator took {load.cpu_seconds:.2f} s of processor time")


if __name__ == "__main__":
    main()
