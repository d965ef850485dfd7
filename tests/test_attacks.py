"""Hostile clients on an edge: each costs nothing but its own connection.

Beside every attack a healthy publisher and its subscriber exchange messages, without a pause, a loss or a repeat, and
the memory of the edge stays bounded. Attacks on TLS and on policies are not here.
"""

import random
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from mqtt5 import (
    ConnAckPacket,
    ConnectPacket,
    DisconnectPacket,
    Packet,
    PingReqPacket,
    PubAckPacket,
    PubCompPacket,
    PublishPacket,
    PubRecPacket,
    PubRelPacket,
    QoS,
    SubAckPacket,
    SubscribePacket,
    UnsubscribePacket,
    Will,
)

from tests import brokers
from tests.wire import CODECS, PATIENCE_SECONDS, Clients, Refused, Wire, a_filter

pytestmark = pytest.mark.processes
both_versions = pytest.mark.parametrize("version", [5, 4])
FOR_EVER = 0xFFFF_FFFF
ONE, TWO = QoS.AT_LEAST_ONCE, QoS.EXACTLY_ONCE
GROWTH_MAX_BYTES = 96 << 20  # of the edge during one attack; an unbounded one would pass it many times over
STRANGERS = 100
ENDED = (EOFError, ConnectionResetError, BrokenPipeError)


class Healthy:
    """A publisher and its subscriber, who exchange messages for as long as an attack lasts."""

    def __init__(self, edge: brokers.Edge, clients: Clients) -> None:
        self.exchanged = 0
        self.peak_bytes = 0
        self.error: BaseException | None = None
        self._edge = edge
        self._topic = f"{clients.root}/healthy"
        self._subscriber, self._publisher = clients.wire("healthy-s"), clients.wire("healthy-p", 4)
        self._subscriber.subscribe(self._topic)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        """Stop, and raise what went wrong."""
        self._ending.set()
        self._thread.join()
        if self.error is not None:
            raise self.error
        assert self.exchanged > 0
        assert self._subscriber.heard() == []

    def _run(self) -> None:
        try:
            while not self._ending.is_set() or self.exchanged == 0:
                payload = b"%d" % self.exchanged
                assert self._publisher.publish(self._topic, payload, 1 + self.exchanged % 2) in {0, 0x10}
                (message,) = self._subscriber.take(1)
                assert message.payload == payload
                self.exchanged += 1
                self.peak_bytes = max(self.peak_bytes, self._edge.resident_bytes)
                self._ending.wait(0.005)
        except BaseException as error:  # noqa: BLE001  raised in `end`, in the test's own thread
            self.error = error


def trickle(wire: Wire, data: bytes, ending: threading.Event) -> None:
    """Send a byte a time, each long before anybody loses patience."""
    with suppress(OSError):
        for position in range(len(data)):
            wire.send(data[position : position + 1])
            if ending.wait(0.2):
                return


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[brokers.Edge]:
    with brokers.running(tmp_path_factory.mktemp("edge")) as started:
        yield started


@pytest.fixture(scope="module", autouse=True)
def strangers(edge: brokers.Edge) -> Iterator[list[Wire]]:
    """Connections that never get to the end of their CONNECT, from the first test to the last."""
    silent, half, slow = ([Wire(edge.address) for _ in range(STRANGERS)] for _ in range(3))
    greeting = ConnectPacket("stranger", clean_start=True, will=Will("t", payload=bytes(1000))).write()
    ending = threading.Event()
    for wire in half:
        wire.send(greeting[:-1])
    threads = [threading.Thread(target=trickle, args=(wire, greeting, ending)) for wire in slow]
    for thread in threads:
        thread.start()
    yield silent + half + slow
    ending.set()
    for thread in threads:
        thread.join()
    for wire in silent + half + slow:
        wire.close()


@pytest.fixture
def clients(edge: brokers.Edge) -> Iterator[Clients]:
    """Clients for the attacker; the healthy pair works until the test ends, and then everything is looked at."""
    made, own = Clients(edge.address), Clients(edge.address)
    before = edge.resident_bytes
    pair = Healthy(edge, own)
    try:
        yield made
    finally:
        made.close()
        try:
            pair.end()
        finally:
            own.close()
    assert pair.peak_bytes - before < GROWTH_MAX_BYTES


def push(wire: Wire, data: bytes, seconds: float = 1.0) -> bool:
    """Send what the broker takes: False when it has closed, or has not taken more for some time."""
    wire.patience(seconds)
    try:
        wire.send(data)
        return True
    except (TimeoutError, *ENDED):
        return False
    finally:
        wire.patience(PATIENCE_SECONDS)


def ended(wire: Wire) -> bool:
    """Whether the broker closes, whatever it says before that."""
    with suppress(*ENDED):
        while True:
            wire.next()
    return True


# -- before CONNECT ----------------------------------------------------------------------------------------------------


@both_versions
def test_a_connect_that_claims_256_megabytes_is_refused_at_its_length(clients: Clients, version: int) -> None:
    for _ in range(20):
        wire = clients.open(version)
        push(wire, b"\x10\xff\xff\xff\x7f\x00\x04MQTT" + bytes([version, 2, 0, 0]))
        assert ended(wire)


@both_versions
@pytest.mark.parametrize(
    "packet",
    [
        PublishPacket("t", b"x"), PublishPacket("t", b"x", qos=TWO, packet_id=1), PubAckPacket(1), PubRecPacket(1),
        PubRelPacket(1), PubCompPacket(1), SubscribePacket(1, [a_filter("#")]), UnsubscribePacket(1, ["#"]),
        PingReqPacket(), DisconnectPacket(), ConnAckPacket(), SubAckPacket(1, []),
    ],
    ids=lambda packet: type(packet).__name__,
)  # fmt: skip
def test_whoever_does_not_begin_with_connect_is_not_answered(clients: Clients, version: int, packet: Packet) -> None:
    wire = clients.open(version)
    wire.send(packet, ConnectPacket("late", clean_start=True))
    assert not any(isinstance(answer, ConnAckPacket) for answer in wire.rest())


def test_noise_ends_the_connection_that_makes_it(clients: Clients) -> None:
    randomness = random.Random(7)
    for number in range(100):
        version = 4 + number % 2
        noise = randomness.randbytes(2_000)
        strange = clients.open(version)
        push(strange, noise)
        admitted = clients.wire(f"noise-{number}", version)
        push(admitted, noise)
        strange.cut()
        admitted.cut()


# -- after it ----------------------------------------------------------------------------------------------------------


@both_versions
def test_acknowledgements_for_nothing_cost_nothing(clients: Clients, version: int) -> None:
    wire = clients.wire("a", version)
    flood = [kind(n) for n in range(1, 20_000) for kind in (PubAckPacket, PubRecPacket, PubRelPacket, PubCompPacket)]
    push(wire, b"".join(CODECS[version].encode(packet) for packet in flood))


@both_versions
def test_topics_of_65_000_levels_are_only_topics(clients: Clients, version: int) -> None:
    deep = "/" * 65_000
    wire = clients.wire("a", version)
    with suppress(*ENDED):
        wire.subscribe(deep, "+/" * 30_000 + "#")
        for number in range(50):
            wire.publish(deep[: 65_000 - number], b"x", number % 3, retain=number % 2 == 0)
    other = clients.wire("b", version)
    with suppress(*ENDED):
        other.subscribe("/" * 1_000 + "#", "+/" * 1_000 + "#")
    other = clients.wire("c", version)
    with suppress(*ENDED):
        for number in range(50):
            other.publish(deep[: 65_000 - number], b"", 0, retain=True)
        other.heard()


def test_10_000_user_properties_are_delivered_whole_or_refused(clients: Clients) -> None:
    (topic,) = clients.topics("t")
    pairs = [("k", str(number)) for number in range(10_000)]
    with suppress(Refused, *ENDED):
        clients.wire("connecting", user_properties=pairs)
    subscriber, publisher = clients.wire("s"), clients.wire("p")
    subscriber.subscribe(topic)
    for _ in range(20):
        with suppress(*ENDED):
            publisher.publish(topic, b"x", user_properties=pairs)
    for message in subscriber.published():
        assert message.user_properties == pairs


@both_versions
def test_exchanges_of_qos_2_that_are_never_completed_are_bounded(clients: Clients, version: int) -> None:
    for client in range(5):
        wire = clients.wire(f"a{client}", version, clean_start=False, session_expiry_interval=3600 * (version == 5))
        codec = CODECS[version]
        flood = [PublishPacket("never", bytes(100), qos=TWO, packet_id=number) for number in range(1, 65_536)]
        push(wire, b"".join(codec.encode(packet) for packet in flood), 0.2)
        wire.cut()


@both_versions
def test_a_packet_identifier_that_is_used_twice_harms_its_user_only(clients: Clients, version: int) -> None:
    (topic,) = clients.topics("t")
    wire = clients.wire("a", version)
    with suppress(*ENDED):
        wire.subscribe(topic)
        twice = [PublishPacket(topic, b"x", qos=qos, packet_id=5) for qos in (ONE, TWO, TWO, ONE)]
        wire.send(*twice, SubscribePacket(5, [a_filter("u")]), UnsubscribePacket(5, ["u"]), *twice, PubRelPacket(5))
        wire.heard()
    nothing = clients.wire("b", version)
    packet = CODECS[version].encode(PublishPacket(topic, b"x", qos=ONE, packet_id=0x7777))
    nothing.send(packet.replace(b"\x77\x77", b"\x00\x00"))
    assert ended(nothing)


@both_versions
@pytest.mark.parametrize(
    "name",
    ["#", "+", "a/b", "$share/g/t", "__class__", "../..", "/etc/passwd", "'; DROP TABLE sessions; --", "%s{0}", " ",
     "é🌊", "\ufeff", "x" * 20_000],
)  # fmt: skip
def test_a_client_identifier_is_only_a_name(clients: Clients, version: int, name: str) -> None:
    (topic,) = clients.topics("t")
    expiry = {"session_expiry_interval": 60} if version == 5 else {}
    try:
        wire = clients.open(version).connect(name, clean_start=False, **expiry)
    except (Refused, *ENDED):
        assert len(name) > 256  # too much before anybody is admitted, or too much to keep
        return
    wire.subscribe(topic)
    wire.cut()
    clients.wire("p").publish(topic, b"for it alone")
    back = clients.open(version).connect(name, clean_start=False, **expiry)
    assert back.connack.session_present
    assert [message.payload for message in back.exactly(1)] == [b"for it alone"]
    back.disconnect()
    clients.open(version).connect(name).disconnect()


def test_10_000_subscriptions_of_one_client_are_granted_or_refused_one_by_one(clients: Clients) -> None:
    wire = clients.wire("a", session_expiry_interval=3600)
    codes = []
    for start in range(0, 10_000, 500):
        codes += wire.subscribe(*[f"{clients.root}/{number}/+/#" for number in range(start, start + 500)])
    assert len(codes) == 10_000
    assert set(codes) <= {2, 0x97}
    assert codes[0] == 2
    clients.wire("p").publish(f"{clients.root}/0/x", b"x")
    assert len(wire.take(1)) == 1
    clients.wire("a").disconnect()


@both_versions
def test_a_flood_of_retained_messages_is_bounded(clients: Clients, version: int) -> None:
    wire = clients.wire("a", version)
    codec = CODECS[version]
    topics = [f"{clients.root}/{number}" for number in range(30_000)]
    flood = [PublishPacket(topic, bytes(500), retain=True) for topic in topics]
    push(wire, b"".join(codec.encode(packet) for packet in flood), PATIENCE_SECONDS)
    with suppress(*ENDED):
        wire.heard()
    cleaning = clients.wire("b", version)
    push(cleaning, b"".join(codec.encode(PublishPacket(topic, b"", retain=True)) for topic in topics), PATIENCE_SECONDS)
    cleaning.heard()
    new = clients.wire("c", version)
    new.subscribe(f"{clients.root}/#")
    assert new.heard() == []


@both_versions
def test_a_subscriber_that_never_reads_is_alone_with_its_loss(clients: Clients, version: int) -> None:
    (topic,) = clients.topics("t")
    deaf = [clients.wire(f"deaf-{number}", version) for number in range(5)]
    for wire in deaf:
        wire.subscribe(a_filter(topic, 0), f"{topic}/one")
    publisher = clients.wire("p", version)
    for number in range(600):
        publisher.publish(topic, bytes(50_000), 0)
        publisher.publish(f"{topic}/one", bytes(10_000), 1 + number % 2)


def test_two_clients_that_fight_for_one_identifier_hurt_each_other_only(clients: Clients) -> None:
    def fight(name: str) -> None:
        for _ in range(100):
            with suppress(OSError, *ENDED), Wire(clients.address).connect(name, session_expiry_interval=60) as wire:
                wire.subscribe("mine")

    name = f"{clients.root}-prize"
    fighters = [threading.Thread(target=fight, args=(name,)) for _ in range(2)]
    for fighter in fighters:
        fighter.start()
    for fighter in fighters:
        fighter.join()
    with Wire(clients.address).connect(name) as last:
        assert last.heard() == []


def test_thousands_of_sessions_that_nobody_comes_back_to_are_bounded(clients: Clients) -> None:
    refused = 0
    for number in range(2_000):
        try:
            with Wire(clients.address).connect(f"{clients.root}-{number}", session_expiry_interval=FOR_EVER) as wire:
                wire.send(SubscribePacket(1, [a_filter(f"{clients.root}/lonely")]))
        except (Refused, *ENDED):
            refused += 1
    assert refused < 2_000
    publisher = clients.wire("p")
    for _ in range(20):
        publisher.publish(f"{clients.root}/lonely", bytes(1_000))


# -- the last test: what the first began -------------------------------------------------------------------------------


def test_whoever_does_not_get_to_the_end_of_connect_is_closed(clients: Clients, strangers: list[Wire]) -> None:
    for wire in strangers:
        assert wire.rest() == []
