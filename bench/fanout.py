"""How fast an edge delivers to subscribers, beside Mosquitto.

    python -m bench.fanout [--runs 3] [--seconds 1.5] [--mqtt 311|5] [--json]

runs each broker fresh, by turns, at QoS 0 and 1, in three shapes: one publisher whose topic a hundred subscribers
hear; a hundred publishers, each on a topic of its own, and a hundred subscribers who each hear all of them; the same
in pairs, each subscriber hearing one. For each run it prints the deliveries per second, and the broker's and the
generator's processor time per delivery; for each shape and QoS the median and the best run of both, and the ratio
of the medians, edge to Mosquitto.

A broker may drop QoS 0 when a subscriber does not keep up. Here it has no reason to: a message is sent only when all
but `WINDOW` of those before it have reached all who hear them. When the time is over, every subscriber must have
every message, at both QoS, or the program fails.

The generator stays cheaper than a broker as in `bench.load`: all packets of a run have one size, so that what a read
holds is known by its length; one slice checks the first byte of every packet in it, two more take the packet
identifiers over into the PUBACKs.
"""

import argparse
import json
import selectors
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from mqtt5 import QoS, SubscribePacket, TopicFilter

from bench import load
from bench.load import LoadFailed, Sensor, Version
from bench.tls import TlsSocket
from bench.turns import Starter, compare, scratch, summary, turns
from core.errors import TidegateError
from core.mqtt import v5, v311

WINDOW = 400  # messages of a group that not all have: 60 KB on each socket, which any socket buffer takes
RING = 512  # publishes made beforehand per topic; more than are ever unacknowledged
READ_BYTES = 1 << 18
SETTLE_SECONDS = 10.0  # without a delivery for so long, what is missing will not come


@dataclass(frozen=True, slots=True)
class Shape:
    """Groups in which all subscribers hear all publishers, each of which has a topic of its own."""

    label: str
    groups: int
    publishers: int
    subscribers: int


SHAPES = (
    Shape("1 to 100", 1, 1, 100),
    Shape("100 to 100, each hears all", 1, 100, 100),
    Shape("100 to 100, in pairs", 100, 1, 1),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One broker in one shape once; the microseconds are processor time per delivery."""

    broker: str
    shape: str
    qos: int
    per_second: float
    broker_us: float
    generator_us: float


class Subscriber:
    """One connection with one subscription, which counts what it gets and acknowledges it at QoS 1."""

    def __init__(self, port: int, name: str, pattern: str, version: Version, qos: int) -> None:
        self.received = 0  # packets
        self._head = bytes((0x30 | qos << 1,))
        self._qos = qos
        self._tail = b""
        connection, _ = load.connect(port, name, version)
        assert isinstance(connection, socket.socket)
        self.socket = connection
        wanted = TopicFilter(pattern, max_qos=QoS.AT_LEAST_ONCE if qos else QoS.AT_MOST_ONCE)
        self.socket.sendall((v5 if version == 5 else v311).encode(SubscribePacket(1, [wanted])))
        answer = self.socket.recv(READ_BYTES)
        if answer[:1] != b"\x90" or answer[-1] != qos:
            raise LoadFailed(f"the broker refuses a subscription: {answer.hex()}")
        self.socket.setblocking(False)

    def receive(self, size: int, id_at: int) -> None:
        """Take what the broker has sent: packets of `size` bytes, their identifiers at `id_at`."""
        try:
            data = self._tail + self.socket.recv(READ_BYTES)
        except OSError as error:
            raise LoadFailed(f"the broker closed a connection: {error}") from None
        if len(data) == len(self._tail):
            raise LoadFailed("the broker closed a connection")
        count = len(data) // size
        whole = count * size
        if data[:whole:size] != self._head * count:
            raise LoadFailed("a subscriber got something else than what was published")
        if self._qos and count:
            acknowledgements = bytearray(b"\x40\x02\0\0" * count)
            acknowledgements[2::4] = data[id_at:whole:size]
            acknowledgements[3::4] = data[id_at + 1 : whole : size]
            if self.socket.send(acknowledgements) != len(acknowledgements):
                raise LoadFailed("the broker does not read a subscriber's acknowledgements")
        self.received += count
        self._tail = data[whole:]


class Group:
    """Publishers, and the subscribers who hear all of them."""

    def __init__(self, port: int, number: int, shape: Shape, version: Version, qos: int) -> None:
        self.subscribers = list[Subscriber]()
        self.publishers = list[Sensor]()
        self._sent = 0  # messages
        for one in range(shape.subscribers):
            name, pattern = f"s{number:03}-{one:03}", f"fan/{number:03}/+"
            self.subscribers.append(Subscriber(port, name, pattern, version, qos))
        for one in range(shape.publishers):
            # No lane of the edge wants these topics: they are delivered, and not kept.
            name, topic = f"p{number:03}-{one:03}", f"fan/{number:03}/m{one:03}"
            sensor = Sensor(port, name, topic, window=RING, version=version, qos=qos, ring=RING)
            self.publishers.append(sensor)
        self.size = self.publishers[0].size
        self.id_at = self.size - load.PAYLOAD_BYTES - (3 if version == 5 else 2)

    @property
    def sockets(self) -> list[socket.socket | TlsSocket]:
        """All of them."""
        return [*(one.socket for one in self.subscribers), *(one.socket for one in self.publishers)]

    @property
    def complete(self) -> bool:
        """Whether every subscriber has all that was sent."""
        return all(one.received == self._sent for one in self.subscribers)

    def publish(self) -> None:
        """Send what the window allows, the same number of messages by each publisher."""
        reached = min(one.received for one in self.subscribers)
        each = (reached + WINDOW) // len(self.publishers)
        self._sent = each * len(self.publishers)
        self.flush()

    def flush(self) -> None:
        """Send what a socket or the publishers' own windows have held up."""
        each = self._sent // len(self.publishers)
        for publisher in self.publishers:
            if publisher.sent < each * self.size:
                publisher.send(each)


def deliver(groups: list[Group], seconds: float) -> float:
    """Publish for so long, and wait for the rest; returns the seconds it took all. Raises LoadFailed."""
    selector = selectors.DefaultSelector()
    for group in groups:
        for subscriber in group.subscribers:
            selector.register(subscriber.socket, selectors.EVENT_READ, (group, subscriber))
        for publisher in group.publishers:
            selector.register(publisher.socket, selectors.EVENT_READ, (group, publisher))
    started = time.perf_counter()
    for group in groups:
        group.publish()
    while (publishing := time.perf_counter() < started + seconds) or not all(group.complete for group in groups):
        ready = selector.select(SETTLE_SECONDS)
        if not ready:
            raise LoadFailed(f"a message has not reached everyone after {SETTLE_SECONDS:.0f} s")
        time.sleep(load.PAUSE_SECONDS)
        touched = {}
        for key, _ in ready:
            group, member = key.data
            touched[id(group)] = group
            if isinstance(member, Subscriber):
                member.receive(group.size, group.id_at)
            else:
                member.receive()
        for group in touched.values():
            if publishing:
                group.publish()
            else:
                group.flush()
    return time.perf_counter() - started


def measure(start: Starter, shape: Shape, qos: int, seconds: float, version: Version, base: Path) -> Run:
    """Start a broker in a fresh directory, and publish to subscribers through it."""
    groups = list[Group]()
    with scratch(base) as name, start(Path(name)) as peer:
        try:
            for number in range(shape.groups):
                groups.append(Group(peer.port, number, shape, version, qos))
            before, cpu = peer.cpu_seconds(), time.process_time()
            took = deliver(groups, seconds)
            used, cpu = peer.cpu_seconds() - before, time.process_time() - cpu
        finally:
            for group in groups:
                for one in group.sockets:
                    one.close()
    deliveries = sum(one.received for group in groups for one in group.subscribers)
    each = 1e6 / deliveries
    return Run(peer.name, shape.label, qos, deliveries / took, used * each, cpu * each)


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="of each broker, per shape and QoS")
    parser.add_argument("--seconds", type=float, default=1.5, help="of load per run")
    parser.add_argument("--mqtt", type=int, choices=[311, 5], default=311)
    parser.add_argument("--dir", type=Path, default=Path(), help="a directory in it is made and removed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs, results = list[Run](), list[tuple[str, dict[str, float]]]()
    try:
        for shape in SHAPES:
            for qos in (0, 1):
                some = []
                for start in turns(options.runs):
                    some.append(measure(start, shape, qos, options.seconds, options.mqtt, options.dir))
                    if not options.json:
                        _print(some[-1])
                runs += some
                results.append((f"{shape.label}, QoS {qos}", compare(some)))
    except (TidegateError, OSError) as error:
        raise SystemExit(f"bench.fanout: {error}") from None
    if options.json:
        facts = [{"shape": label, **row} for label, row in results]
        print(json.dumps({"runs": [asdict(run) for run in runs], "results": facts}, indent=2))
        return
    for label, row in results:
        print(summary(label, row))


def _print(run: Run) -> None:
    print(
        f"{run.broker:>10} {run.shape:>26}, QoS {run.qos} {run.per_second:>10,.0f}/s"
        f" {run.broker_us:>6.2f} us in the broker, {run.generator_us:.2f} us in the generator",
        flush=True,
    )


if __name__ == "__main__":
    main()
