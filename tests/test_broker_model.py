"""A broker and clients that do everything right, back to back, over connections that break at any moment.

Whatever is lost on the way, and whenever the acceptor settles: what is published with QoS 1 comes to every subscriber
at least once, with QoS 2 exactly once, each publisher's messages in order, and no client is sent more than it allows.
"""

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mqtt5 import (
    Packet,
    PubAckPacket,
    PubCompPacket,
    PubCompReasonCode,
    PublishPacket,
    PubRecPacket,
    PubRelPacket,
    QoS,
    SubAckPacket,
)

from core.mqtt.limits import Limits
from core.receipts import STORED
from tests.mqtt_peers import Bench, wanted

RECEIVE_MAX = 4  # of the broker; a client keeps to it
FORGOTTEN = PubCompReasonCode.PACKET_ID_NOT_FOUND
LIMITS = Limits(receive_max=RECEIVE_MAX)
CLIENTS = [("a", 5), ("b", 4), ("c", 5)]


class Client:
    """Publishes and receives with a session of its own, as MQTT 5 sections 4.3 and 4.4 say.

    What it has to say waits in `saying` until `flush`; `taken` is what it handed to its application.
    """

    def __init__(self, bench: Bench, name: str, version: int, window: int) -> None:
        self.taken: list[bytes] = []
        self.published: list[tuple[int, bytes]] = []
        self.saying: list[Packet] = []
        self.open: dict[int, Packet] = {}  # what it has published, PUBLISH or PUBREL, until it is completed
        self._bench = bench
        self._name = name
        self._version = version
        self._window = window if version == 5 else LIMITS.inflight
        self._known: set[int] = set()  # identifiers of QoS 2 that were handed on and not released
        self._outstanding: set[int] = set()  # what this connection brought and was not completed
        self.here = False
        self.returns = -1
        self.come()
        self.peer.subscribe(wanted("t", 2))

    def come(self) -> None:
        """Connect, perhaps over a connection that still seems to be there, and say again what was not completed."""
        more = {"receive_max": self._window, "keep_alive": 60} if self._version == 5 else {}
        known = self.here or bool(self.published or self.taken)
        self.peer = self._bench.resume(self._name, self._version, **more)
        assert self.peer.welcome.session_present or not known
        self.here = True
        self.returns += 1
        self._outstanding.clear()
        self.saying = [_again(packet) for packet in self.open.values()]

    def cut(self) -> None:
        """The connection is lost, with everything that is on its way in both directions."""
        self.peer.connection.take()
        self.peer.cut()
        self.saying.clear()
        self.here = False

    def publish(self, qos: int) -> None:
        """Publish one message, if the broker's receive maximum allows it now."""
        payload = b"%s %d" % (self._name.encode(), len(self.published))
        if not qos:
            if self.here:
                self.published.append((qos, payload))
                self.saying.append(PublishPacket("t", payload))
            return
        if len(self.open) >= RECEIVE_MAX:
            return
        packet_id = next(n for n in range(1, 10) if n not in self.open)
        self.published.append((qos, payload))
        self.open[packet_id] = PublishPacket("t", payload, qos=QoS(qos), packet_id=packet_id)
        if self.here:
            self.saying.append(self.open[packet_id])

    def flush(self, count: int) -> None:
        """So many packets reach the broker in one read."""
        said, self.saying = self.saying[:count], self.saying[count:]
        if said and self.here:
            self.peer.send(*said)

    def hear(self, count: int) -> None:
        """Read so many packets of what the broker has said."""
        if self.here:
            packets = self.peer.heard()
            for packet in packets[:count]:
                self._take(packet)
            self.peer.put_back(packets[count:])
            assert not self.peer.closed

    def _take(self, packet: Packet) -> None:
        match packet:
            case PublishPacket():
                self._receive(packet)
            case PubRelPacket(packet_id=packet_id):
                self._known.discard(packet_id)
                self._outstanding.discard(packet_id)
                self.saying.append(PubCompPacket(packet_id))
            case PubAckPacket(packet_id=packet_id) | PubCompPacket(packet_id=packet_id):
                # A PUBREL that is said again, because the PUBCOMP was lost, is for an identifier that is free by now.
                assert int(packet.reason_code) == 0 or (self.returns and packet.reason_code == FORGOTTEN)
                del self.open[packet_id]
            case PubRecPacket(packet_id=packet_id):
                assert int(packet.reason_code) == 0
                self.open.pop(packet_id)  # a PUBREL has its place in the order of PUBRECs (section 4.6)
                self.open[packet_id] = PubRelPacket(packet_id)
                self.saying.append(self.open[packet_id])
            case _:
                assert isinstance(packet, SubAckPacket)

    def _receive(self, packet: PublishPacket) -> None:
        qos, packet_id = int(packet.qos), packet.packet_id or 0
        if not qos:
            self.taken.append(packet.payload)
            return
        assert packet_id not in self._outstanding
        self._outstanding.add(packet_id)
        assert len(self._outstanding) <= self._window
        if qos == 1:
            self.taken.append(packet.payload)
            self._outstanding.discard(packet_id)
            self.saying.append(PubAckPacket(packet_id))
            return
        if packet_id not in self._known:
            self._known.add(packet_id)
            self.taken.append(packet.payload)
        self.saying.append(PubRecPacket(packet_id))


def _again(packet: Packet) -> Packet:
    if not isinstance(packet, PublishPacket):
        return packet
    return PublishPacket("t", packet.payload, qos=packet.qos, packet_id=packet.packet_id, duplicate=True)


def settle(bench: Bench, place: int) -> None:
    """The acceptor has stored one of the batches that wait for it."""
    waiting = [batch for batch in bench.batches if batch.receipt.outcome is None]
    if waiting:
        waiting[place % len(waiting)].receipt.settle(STORED)


def drain(bench: Bench, clients: list[Client]) -> None:
    """Everybody is there until nobody has anything to say."""
    for client in clients:
        if not client.here:
            client.come()
    for _ in range(10_000):
        before = [(len(client.taken), len(client.saying), len(client.open)) for client in clients]
        for client in clients:
            client.flush(1_000)
            client.hear(1_000)
        settle(bench, 0)
        if not any(client.saying or client.open for client in clients) and before == [
            (len(client.taken), 0, 0) for client in clients
        ]:
            return
    pytest.fail("the exchange does not come to an end")


def check(bench: Bench, clients: list[Client]) -> None:
    """Every promise, for every publisher and every subscriber."""
    accepted = Counter(message.payload for message in bench.accepted)
    for publisher in clients:
        for qos in (0, 1, 2):
            payloads = [payload for level, payload in publisher.published if level == qos]
            for receiver in clients:
                taken = Counter(receiver.taken)
                assert all(taken[p] <= 1 for p in payloads) or qos == 1
                assert all(taken[p] >= 1 for p in payloads) or qos == 0
                first = list(dict.fromkeys(p for p in receiver.taken if p in set(payloads)))
                assert first == [p for p in payloads if taken[p]]
            assert all(accepted[p] == 1 for p in payloads) or qos < 2
    assert all(presence.waiting == 0 for presence in bench.broker.clients())
    assert bench.broker.queued_bytes == 0
    assert bench.broker.unsettled == 0
    assert not any(session.received or session.arriving for session in bench.broker._sessions.values())
    if not any(client.returns for client in clients):
        assert bench.counters.value("mqtt_unknown_acknowledgements_total") == 0


# As often as it takes to keep messages flowing, and connections breaking in the middle of it.
ACTIONS = ["publish"] * 5 + ["flush"] * 5 + ["hear"] * 5 + ["settle"] * 3 + ["cut", "come"]
steps = st.tuples(st.sampled_from(ACTIONS), st.integers(0, 2), st.integers(0, 5))


@given(st.lists(steps, min_size=200, max_size=300), st.integers(1, 3))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.large_base_example])
def test_qos_1_comes_at_least_once_qos_2_exactly_once_and_all_in_order(
    plan: list[tuple[str, int, int]], window: int
) -> None:
    bench = Bench(LIMITS, settle=False)
    clients = [Client(bench, name, version, window) for name, version in CLIENTS]
    for action, place, number in plan:
        client = clients[place]
        match action:
            case "publish":
                client.publish(number % 3)
            case "flush":
                client.flush(number)
            case "hear":
                client.hear(number)
            case "settle":
                settle(bench, number)
            case "cut" if client.here:
                client.cut()
            case "come":
                client.come()
    drain(bench, clients)
    check(bench, clients)
