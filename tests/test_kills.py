"""SIGKILL on an edge at random moments: what it acknowledged to MQTT clients is there again, QoS 2 exactly once.

Publishers and subscribers are threads that lose their connections with the edge and resume their sessions, as devices
do: they resend what was not acknowledged, with the same packet identifiers, and remember what they have taken.
"""

import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mqtt5 import (
    Packet,
    PubAckPacket,
    PubCompPacket,
    PublishPacket,
    PubRecPacket,
    PubRelPacket,
    QoS,
)

from core.config import HostPort
from tests import brokers
from tests.site import wait_until
from tests.wire import Refused, Wire

pytestmark = pytest.mark.processes
FOR_EVER = 0xFFFF_FFFF
IN_FLIGHT = 20  # of a publisher, so that a kill finds exchanges in every state
BEHIND_MAX = 500  # of a subscriber that was absent, before it goes again: what an edge keeps for one has a bound
RETRY_SECONDS = 0.02
BREAKS = (OSError, EOFError, Refused)


class Resuming:
    """A thread with a session that survives its connections; `run_once` drives one connection until it breaks."""

    def __init__(self, address: HostPort, client_id: str, version: int) -> None:
        self.address, self.client_id, self.version = address, client_id, version
        self.stopping = threading.Event()
        self.resting = threading.Event()  # stay away until it is cleared
        self._thread = threading.Thread(target=self._run, name=client_id)

    def connect(self) -> Wire:
        expiry = {"session_expiry_interval": FOR_EVER} if self.version == 5 else {}
        return Wire(self.address, self.version).connect(self.client_id, clean_start=False, **expiry)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self._thread.join()

    @property
    def done(self) -> bool:
        """Whether it has nothing left to do."""
        return False

    def run_once(self, wire: Wire) -> None:
        raise NotImplementedError

    def _run(self) -> None:
        while not self.stopping.is_set() and not self.done:
            if not self.resting.is_set():
                try:
                    with self.connect() as wire:
                        self.run_once(wire)
                except BREAKS:
                    pass
            self.stopping.wait(RETRY_SECONDS)


class Publisher(Resuming):
    """Publishes 0, 1, 2, … to one topic; `acknowledged` counts what the edge has promised."""

    def __init__(self, address: HostPort, topic: str, qos: int, version: int) -> None:
        super().__init__(address, f"publisher-{topic}", version)
        self.topic, self.qos = topic, qos
        self.acknowledged = self.sent = 0
        self.finish = threading.Event()  # nothing new from now on
        self._open: dict[int, int | None] = {}  # packet identifier to number, None once it was received: PUBREL is due

    @property
    def done(self) -> bool:
        return self.finish.is_set() and not self._open

    def run_once(self, wire: Wire) -> None:
        for packet_id, number in self._open.items():
            wire.send(PubRelPacket(packet_id) if number is None else self._message(packet_id, number, again=True))
        while not (self.stopping.is_set() or self.resting.is_set()):
            self._send_more(wire)
            if not self._open:
                return
            self._take(wire, wire.next())

    def _send_more(self, wire: Wire) -> None:
        while len(self._open) < IN_FLIGHT and not self.finish.is_set():
            packet_id = self.sent % 60_000 + 1
            self._open[packet_id] = self.sent
            self.sent += 1
            wire.send(self._message(packet_id, self.sent - 1, again=False))

    def _take(self, wire: Wire, packet: Packet) -> None:
        match packet:
            case PubAckPacket(packet_id=packet_id) | PubCompPacket(packet_id=packet_id):
                del self._open[packet_id]
                self.acknowledged += 1
            case PubRecPacket(packet_id=packet_id):
                self._open[packet_id] = None
                wire.send(PubRelPacket(packet_id))

    def _message(self, packet_id: int, number: int, *, again: bool) -> PublishPacket:
        qos = QoS(self.qos)
        return PublishPacket(self.topic, b"%d" % number, qos=qos, packet_id=packet_id, duplicate=again)


class Subscriber(Resuming):
    """Takes what comes; `taken` has the numbers of every topic in order of arrival, `distinct` is how many differ."""

    def __init__(self, address: HostPort, name: str, version: int) -> None:
        super().__init__(address, f"subscriber-{name}", version)
        self.taken: dict[str, list[int]] = defaultdict(list)
        self.distinct = 0
        self._seen: set[tuple[str, int]] = set()
        self._received: set[int] = set()  # identifiers of QoS 2 that wait for their PUBREL

    def subscribe(self, *topics: str) -> None:
        with self.connect() as wire:
            assert wire.subscribe(*topics) == [2] * len(topics)

    def run_once(self, wire: Wire) -> None:
        while not (self.stopping.is_set() or self.resting.is_set()):
            packet = wire.next()
            match packet:
                case PublishPacket(packet_id=int(packet_id)) if packet.qos == QoS.EXACTLY_ONCE:
                    if packet_id not in self._received:
                        self._received.add(packet_id)
                        self._take(packet)
                    wire.send(PubRecPacket(packet_id))
                case PublishPacket(packet_id=int(packet_id)):
                    self._take(packet)
                    wire.send(PubAckPacket(packet_id))
                case PubRelPacket(packet_id=packet_id):
                    self._received.discard(packet_id)
                    wire.send(PubCompPacket(packet_id))

    def _take(self, packet: PublishPacket) -> None:
        number = int(packet.payload)
        self.taken[packet.topic].append(number)
        self._seen.add((packet.topic, number))
        self.distinct = len(self._seen)


class Field:
    """An edge with publishers of both qualities of service in both versions, and subscribers near and absent."""

    def __init__(self, edge: brokers.Edge) -> None:
        self.edge = edge
        address = edge.address
        self.publishers = [Publisher(address, f"{version}/{qos}", qos, version) for version in (4, 5) for qos in (1, 2)]
        topics = [publisher.topic for publisher in self.publishers]
        self.near = [Subscriber(address, f"near-{version}", version) for version in (4, 5)]
        self.absent = [Subscriber(address, f"absent-{version}", version) for version in (4, 5)]
        for subscriber in self.near + self.absent:
            subscriber.subscribe(*topics)
        for absent in self.absent:
            absent.resting.set()
        self.all: list[Resuming] = [*self.publishers, *self.near, *self.absent]

    def behind(self) -> int:
        """How many messages the one who is farthest behind has not taken, at least."""
        sent = sum(publisher.sent for publisher in self.publishers)
        return max(sent - subscriber.distinct for subscriber in self.near + self.absent)

    def is_quiet(self) -> bool:
        """Whether everything that was sent has reached everybody."""
        return all(publisher.done for publisher in self.publishers) and self.behind() == 0


@contextmanager
def field(tmp: Path) -> Iterator[Field]:
    with brokers.running(tmp) as edge:
        made = Field(edge)
        try:
            for client in made.all:
                client.start()
            yield made
        finally:
            edge.kill()
            for client in made.all:
                client.stopping.set()
            for client in made.all:
                client.stop()


def kill_at_random_moments(made: Field, kills: int, randomness: random.Random) -> None:
    """Each time after some work, so that every kill finds something under way; who is absent comes and goes."""
    for kill in range(kills):
        before = sum(publisher.acknowledged for publisher in made.publishers)
        wanted = before + randomness.randrange(1, 200)
        wait_until(lambda wanted=wanted: sum(p.acknowledged for p in made.publishers) >= wanted)  # type: ignore[misc]
        time.sleep(randomness.uniform(0, 0.02))  # not always right behind an acknowledgement
        made.edge.kill()
        made.edge.start()
        if kill % 4 == 3:
            for absent in made.absent:
                absent.resting.clear()
            wait_until(lambda: made.behind() < BEHIND_MAX, 60)
        elif kill % 4 == 0:
            for absent in made.absent:
                absent.resting.set()


def check(made: Field) -> None:
    """Nothing lost, QoS 2 exactly once, and the first arrivals in the order of sending."""
    for publisher in made.publishers:
        everything = list(range(publisher.sent))
        for subscriber in made.near + made.absent:
            taken = subscriber.taken[publisher.topic]
            if publisher.qos == 2:
                assert taken == everything, (publisher.topic, subscriber.client_id)
            assert list(dict.fromkeys(taken)) == everything, (publisher.topic, subscriber.client_id)


def campaign(tmp: Path, kills: int, seed: int) -> None:
    with field(tmp) as made:
        kill_at_random_moments(made, kills, random.Random(seed))
        for absent in made.absent:
            absent.resting.clear()
        for publisher in made.publishers:
            publisher.finish.set()
        wait_until(made.is_quiet, 60)
        check(made)


def test_nothing_acknowledged_is_lost_and_qos_2_comes_exactly_once_whenever_the_edge_is_killed(tmp_path: Path) -> None:
    campaign(tmp_path, 20, 1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_hundreds_of_kills_lose_nothing_and_repeat_nothing(tmp_path: Path, seed: int) -> None:
    campaign(tmp_path, 200, seed)


def test_subscriptions_retained_messages_and_what_waits_survive_a_kill(tmp_path: Path) -> None:
    with brokers.running(tmp_path) as edge:
        with Wire(edge.address).connect("s", clean_start=False, session_expiry_interval=FOR_EVER) as subscriber:
            assert subscriber.subscribe("plant/+/t", subscription_id=7) == [2]
            assert subscriber.subscribe("$share/group/jobs") == [2]
        with Wire(edge.address).connect("p") as publisher:
            for qos in (1, 2):
                publisher.publish(f"plant/{qos}/t", b"kept", qos, retain=True, content_type="text/plain")
                publisher.publish("jobs", b"job", qos)
            publisher.publish("plant/1/t", b"newer", retain=True)
            publisher.publish("gone", b"x", retain=True)
            publisher.publish("gone", b"", retain=True)
        edge.kill()
        edge.start()
        with Wire(edge.address).connect("s", clean_start=False, session_expiry_interval=FOR_EVER) as subscriber:
            assert subscriber.connack.session_present
            waiting = subscriber.exactly(5)
            assert [(message.topic, message.payload, int(message.qos)) for message in waiting] == [
                ("plant/1/t", b"kept", 1), ("jobs", b"job", 1), ("plant/2/t", b"kept", 2), ("jobs", b"job", 2),
                ("plant/1/t", b"newer", 1),
            ]  # fmt: skip
            assert [message.subscription_ids for message in waiting] == [[7], [], [7], [], [7]]
            assert not any(message.retain for message in waiting)
            subscriber.publish("plant/3/t", b"live", 0)
            assert [message.payload for message in subscriber.exactly(1)] == [b"live"]
        with Wire(edge.address).connect("n") as new:
            new.subscribe("#")
            retained = sorted((message.topic, message.payload, message.content_type) for message in new.exactly(2))
            assert retained == [("plant/1/t", b"newer", None), ("plant/2/t", b"kept", "text/plain")]


def test_a_session_that_a_clean_start_ended_stays_ended_after_a_kill(tmp_path: Path) -> None:
    with brokers.running(tmp_path) as edge:
        with Wire(edge.address).connect("a", clean_start=False, session_expiry_interval=FOR_EVER) as wire:
            wire.subscribe("t", "u")
            wire.unsubscribe("u")
        with Wire(edge.address).connect("b", clean_start=False, session_expiry_interval=FOR_EVER) as wire:
            wire.subscribe("t")
        with Wire(edge.address).connect("b"):  # a clean start: its CONNACK says that the session is gone
            edge.kill()
        edge.start()
        with Wire(edge.address).connect("a", clean_start=False) as kept, Wire(edge.address) as ended:
            ended.connect("b", clean_start=False)
            assert (kept.connack.session_present, ended.connack.session_present) == (True, False)
            for topic in ("t", "u"):
                ended.publish(topic, topic.encode())
            assert [message.payload for message in kept.exactly(1)] == [b"t"]
            assert ended.heard() == []
