"""A rule end to end: MQTT in, a decision, MQTT out, at QoS 0, through an edge, or Mosquitto with a paho script.

Ten machines publish readings; for each the rule publishes three of its fields to the machine's alarm topic, which one
client has subscribed to. Both rules do the same: look at `temperature`, take three fields, build the topic.

A broker may drop QoS 0 when somebody does not keep up. To measure a rate without loss, a reading is sent only when all
but `window` of those before it have come out again as alarms. Every alarm is compared with what it must say; those
that have not come `SETTLE_SECONDS` after the last one are lost, and counted.
"""

import select
import selectors
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson
from mqtt5 import PublishPacket

from bench import load, peers
from bench.fanout import READ_BYTES, Subscriber
from bench.load import LoadFailed, Sensor
from bench.peers import Peer, PeerFailed
from bench.tls import TlsSocket
from bench.turns import scratch
from core.mqtt import v311

MACHINES = 10
WINDOW = 1_000  # readings under way, of all machines together, as many as in the ingest comparison
SETTLE_SECONDS = 3.0  # what has not come so long after the last alarm is lost
TOPIC, ALARMS = "floor/line/{}/telemetry", "floor/alarm/{}"  # in no lane of the edge: nothing is stored
RULE = """
Alarm:
  awsIotSqlVersion: "2016-03-23"
  sql: SELECT reading, time, temperature AS value FROM 'floor/line/+/telemetry' WHERE temperature > 0
  actions: [republish: {topic: "floor/alarm/${topic(3)}"}]
"""

Starter = Callable[[Path], Peer]


@dataclass(frozen=True, slots=True)
class Run:
    """One side once; `per_second` counts alarms, the microseconds are processor time for each."""

    broker: str
    per_second: float
    broker_us: float  # of the broker, and of the script
    generator_us: float
    alarms: int
    lost: int


class Listener(Subscriber):
    """The one that hears the alarms, and keeps how many came of each."""

    def __init__(self, port: int) -> None:
        super().__init__(port, "listener", ALARMS.format("+"), 311, 0)
        self.heard = Counter[bytes]()

    def take(self) -> None:
        """Take what has come. Raises LoadFailed when the broker closes."""
        try:
            more = self.socket.recv(READ_BYTES)
        except OSError as error:
            raise LoadFailed(f"the broker closed a connection: {error}") from None
        if not more:
            raise LoadFailed("the broker closed a connection")
        data = self._tail + more
        packets, start, size = [], 0, len(data)
        while start + 1 < size and (end := start + 2 + data[start + 1]) <= size:  # no alarm has 128 bytes
            packets.append(data[start:end])
            start = end
        self._tail = data[start:]
        self.heard.update(packets)
        self.received += len(packets)


def expected(machine: str, sent: int) -> Counter[bytes]:
    """The alarms that the first `sent` readings of a machine must give."""
    rounds, rest = divmod(sent, load.RING_PACKETS)
    alarms = Counter[bytes]()
    for number, packet in enumerate(load.publishes(TOPIC.format(machine), 311, 0, load.RING_PACKETS)):
        reading = orjson.loads(packet[-load.PAYLOAD_BYTES :])
        output = {"reading": reading["reading"], "time": reading["time"], "value": reading["temperature"]}
        alarm = v311.encode(PublishPacket(ALARMS.format(machine), orjson.dumps(output)))
        alarms[alarm] += rounds + (number < rest)
    return alarms


def drive(sensors: list[Sensor], listener: Listener, seconds: float, window: int) -> tuple[int, float]:
    """Publish for so long, and wait for what is still to come.

    Returns how many readings each machine has sent, and the seconds up to the last alarm.
    """
    selector = selectors.DefaultSelector()
    selector.register(listener.socket, selectors.EVENT_READ, listener)
    for sensor in sensors:
        selector.register(sensor.socket, selectors.EVENT_READ, sensor)
    started = last = time.perf_counter()
    each = 0
    while True:
        if time.perf_counter() < started + seconds:
            each = (listener.received + window) // len(sensors)
        elif listener.received >= each * len(sensors):
            break
        for sensor in sensors:
            if sensor.sent < each * sensor.size:
                sensor.send(each)
        ready = selector.select(SETTLE_SECONDS)
        if not ready:
            break
        time.sleep(load.PAUSE_SECONDS)
        for key, _ in ready:
            if key.data is listener:
                listener.take()
                last = time.perf_counter()
            else:
                key.data.receive()  # which says that the broker has closed, for it sends nothing there
    return each, last - started


def measure(start: Starter, seconds: float, base: Path, window: int = WINDOW) -> Run:
    """Start one side in a fresh directory and send readings through it.

    Raises LoadFailed when an alarm is wrong, or none comes.
    """
    sockets = list[socket.socket | TlsSocket]()
    with scratch(base) as name, start(Path(name)) as peer:
        try:
            listener = Listener(peer.port)
            sockets.append(listener.socket)
            sensors = []
            for machine in load.names(MACHINES):
                sensors.append(Sensor(peer.port, machine, TOPIC.format(machine), qos=0))
                sockets.append(sensors[-1].socket)
            before, cpu = peer.cpu_seconds(), time.process_time()
            each, took = drive(sensors, listener, seconds, window)
            used, cpu = peer.cpu_seconds() - before, time.process_time() - cpu
        finally:
            for one in sockets:
                one.close()
    due = Counter[bytes]()
    for machine in load.names(MACHINES):
        due += expected(machine, each)
    if wrong := listener.heard - due:
        raise LoadFailed(f"{wrong.total():,} alarms are wrong or came twice, {next(iter(wrong))!r} among them")
    if not listener.received:
        raise LoadFailed("no alarm has come")
    lost = (due - listener.heard).total()
    per = 1e6 / listener.received
    return Run(peer.name, listener.received / took, used * per, cpu * per, listener.received, lost)


# -- the two sides -----------------------------------------------------------------------------------------------------


def edge(directory: Path) -> Peer:
    """An edge with the rule."""
    rules = directory / "rules"
    rules.mkdir()
    (rules / "alarm.yaml").write_text(RULE)
    return peers.edge(directory, rules=rules)


class Scripted(Peer):
    """Mosquitto and the script, whose processor time is counted together."""

    def __init__(self, directory: Path) -> None:
        self._broker = peers.mosquitto(directory)
        self.name, self.port, self.directory = self._broker.name, self._broker.port, directory
        command = [sys.executable, "-m", "bench.paho_script", str(self.port)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        with self._process.stdout as said:
            if not select.select([said], [], [], peers.READY_SECONDS)[0] or said.readline() != b"ready\n":
                self.stop()
                raise PeerFailed("the paho script did not start")

    def cpu_seconds(self) -> float:
        """Of both."""
        return super().cpu_seconds() + self._broker.cpu_seconds()

    def stop(self) -> None:
        """End both."""
        try:
            super().stop()
        finally:
            self._broker.stop()

    def __exit__(self, *_: object) -> None:
        self.stop()
