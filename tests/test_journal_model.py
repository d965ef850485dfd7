"""The broker and its disk against correct clients that remember everything: whatever is cut or killed between any two
commits, QoS 1 comes at least once, QoS 2 exactly once, in order, and what was retained stays.
"""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from mqtt5 import (
    ConnAckPacket,
    ConnectPacket,
    Packet,
    PubAckPacket,
    PubCompPacket,
    PublishPacket,
    PubRecPacket,
    PubRelPacket,
    QoS,
    SubAckPacket,
    SubscribePacket,
    UnsubscribePacket,
)

from core.mqtt.limits import Limits
from tests.durable import HOUR, Durable, turn
from tests.mqtt_peers import Peer, wanted

T = TypeVar("T")

TOPICS = ("a", "b")
RETAINED_TOPIC = "kept"
NAMES = {"one": 1, "two": 2}  # clients, and the QoS with which they subscribe
WINDOW = 3  # messages that a client may be sent at a time
ROUNDS_MAX = 10_000  # until everything has come to rest


class Client:
    """A client that forgets nothing, and does what MQTT asks of it."""

    def __init__(self, name: str, bench: Durable) -> None:
        self.name = name
        self.bench = bench
        self.peer: Peer | None = None
        self.welcomed = False  # on the connection that it has
        self.inbox: list[Packet] = []
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.unanswered: dict[int, PublishPacket | PubRelPacket] = {}
        self.incomplete: set[int] = set()
        self.got: list[PublishPacket] = []
        self.subscribed: dict[str, bool] = {}  # by topic: whether the broker has confirmed it
        self.known = False  # whether the broker has confirmed the session

    def knock(self, *, clean: bool) -> None:
        if clean:
            self.forget()
        self.peer, self.welcomed = self.bench.open(), False
        self.peer.send(ConnectPacket(self.name, clean_start=clean, session_expiry_interval=HOUR))

    def send(self, packet: Packet) -> None:
        assert self.peer is not None
        self.peer.send(packet)

    def lose_connection(self) -> None:
        self.peer = None
        self.inbox.clear()

    def read(self, count: int) -> list[bytes]:
        """Look at what has come; returns the payloads that the broker has confirmed."""
        confirmed: list[bytes] = []
        while count and self.peer is not None and (self.inbox or self._listen()):
            count -= 1
            packet = self.inbox.pop(0)
            if isinstance(packet, PubAckPacket | PubRecPacket):
                sent = self.unanswered.get(packet.packet_id)
                if isinstance(sent, PublishPacket):
                    confirmed.append(sent.payload)
            self._react(packet)
        return confirmed

    def _listen(self) -> bool:
        assert self.peer is not None
        self.inbox += self.peer.heard()
        return bool(self.inbox)

    def _react(self, packet: Packet) -> None:
        match packet:
            case ConnAckPacket():
                assert packet.session_present or not self.known
                self.known = self.welcomed = True
                for sent in self.unanswered.values():
                    self.send(again(sent) if isinstance(sent, PublishPacket) else sent)
            case PublishPacket(packet_id=int(packet_id)):
                if packet.qos is QoS.AT_LEAST_ONCE:
                    self.got.append(packet)
                    self.send(PubAckPacket(packet_id))
                    return
                if packet_id not in self.incomplete:
                    self.incomplete.add(packet_id)
                    self.got.append(packet)
                self.send(PubRecPacket(packet_id))
            case PubRelPacket():
                self.incomplete.discard(packet.packet_id)
                self.send(PubCompPacket(packet.packet_id))
            case PubAckPacket() | PubCompPacket():
                self.unanswered.pop(packet.packet_id, None)
            case PubRecPacket():
                del self.unanswered[packet.packet_id]  # the order of what is sent again is that of the last packets
                release = self.unanswered[packet.packet_id] = PubRelPacket(packet.packet_id)
                self.send(release)
            case SubAckPacket():
                self.subscribed[TOPICS[packet.packet_id - 1]] = True


def again(packet: PublishPacket) -> PublishPacket:
    return PublishPacket(
        packet.topic, packet.payload, qos=packet.qos, retain=packet.retain, packet_id=packet.packet_id, duplicate=True
    )


class JournalMachine(RuleBasedStateMachine):
    """Two clients that publish and subscribe; `owed` has who must get what, `kept` what was retained in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = Path(tempfile.mkdtemp(prefix="journal-model-"))
        (self.directory / "0").mkdir()
        self.serial = 0
        self.qos: dict[bytes, int] = {}
        self.publisher: dict[bytes, str] = {}
        self.confirmed: set[bytes] = set()
        self.owed: dict[tuple[str, bytes], str] = {}  # with the topic
        self.kept: list[bytes] = [b""]
        self.kept_surely = 0  # index into `kept`: this one, or a later one, is there

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize(qos=st.sampled_from([1, 2]))
    def begin(self, qos: int) -> None:
        self.retained_qos = qos  # of all: between messages of different QoS there is no order (MQTT 5 section 4.6)

        async def work() -> None:
            self.bench = Durable(self.directory, Limits(inflight=WINDOW))
            await self.bench.start()
            self.bench.disk.hold()

        self.run(work())
        self.clients = {name: Client(name, self.bench) for name in NAMES}

    def teardown(self) -> None:
        async def work() -> None:
            await self.come_to_rest()
            await self.bench.close()

        try:
            self.run(work())
            self.everyone_has_what_is_owed()
        finally:
            self.runner.close()
            shutil.rmtree(self.directory)

    # -- what can happen ----------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(sorted(NAMES)), clean=st.sampled_from([False] * 7 + [True]))
    def connect(self, name: str, clean: bool) -> None:
        client = self.clients[name]
        if client.peer is None:
            if clean:
                self.owed = {key: topic for key, topic in self.owed.items() if key[0] != name}
            client.knock(clean=clean)
            self.run(turn())

    @rule(name=st.sampled_from(sorted(NAMES)), topic=st.sampled_from(TOPICS))
    def subscribe(self, name: str, topic: str) -> None:
        client = self.clients[name]
        if self.talks(client) and topic not in client.subscribed:
            client.subscribed[topic] = False
            client.send(SubscribePacket(1 + TOPICS.index(topic), [wanted(topic, NAMES[name])]))

    @rule(name=st.sampled_from(sorted(NAMES)), topic=st.sampled_from(TOPICS))
    def unsubscribe(self, name: str, topic: str) -> None:
        client = self.clients[name]
        if self.talks(client) and client.subscribed.pop(topic, None):
            self.owed = {
                key: other for key, other in self.owed.items()
                if key[0] != name or other != topic or key[1] in self.confirmed
            }  # fmt: skip
            client.send(UnsubscribePacket(9, [topic]))

    @rule(name=st.sampled_from(sorted(NAMES)), topic=st.sampled_from(TOPICS), qos=st.sampled_from([1, 2]))
    def publish(self, name: str, topic: str, qos: int) -> None:
        client = self.clients[name]
        if self.talks(client):
            payload = self._send_publish(client, topic, qos, retain=False)
            for other in self.clients.values():
                if other.subscribed.get(topic):
                    self.owed[other.name, payload] = topic

    @rule()
    def retain(self) -> None:
        client = self.clients["one"]
        if self.talks(client):
            self.kept.append(self._send_publish(client, RETAINED_TOPIC, self.retained_qos, retain=True))

    @rule(name=st.sampled_from(sorted(NAMES)), count=st.sampled_from([1, 2, 5, 100]))
    def read(self, name: str, count: int) -> None:
        self._note(self.clients[name].read(count))
        self.run(turn())

    @rule(name=st.sampled_from(sorted(NAMES)))
    def cut(self, name: str) -> None:
        client = self.clients[name]
        if client.peer is not None:
            client.peer.cut()
            client.lose_connection()

    @rule(count=st.sampled_from([1, 2, 100]))
    def commit(self, count: int) -> None:
        async def work() -> None:
            await turn()
            for _ in range(count):
                if self.bench.disk.outstanding:
                    await self.bench.disk.step()
                    await turn()

        self.run(work())

    @rule()
    def what_nobody_waits_for_is_due(self) -> None:
        async def work() -> None:
            self.bench.commits.soon()
            await turn()

        self.run(work())

    @precondition(lambda self: self.serial)
    @rule()
    def crash(self) -> None:
        for client in self.clients.values():
            client.lose_connection()
        self.run(self._crash())
        found = self.bench.broker.retained.get(RETAINED_TOPIC)
        assert (found.payload if found is not None else b"") in self.kept[self.kept_surely :]

    async def _crash(self) -> None:
        await self.bench.crash()
        self.bench.disk.hold()

    # -- bookkeeping --------------------------------------------------------------------------------------------------

    def talks(self, client: Client) -> bool:
        """Whether a client has been welcomed on the connection it has."""
        return client.peer is not None and client.welcomed

    def _send_publish(self, client: Client, topic: str, qos: int, *, retain: bool) -> bytes:
        self.serial += 1
        payload = b"%d" % self.serial
        self.qos[payload], self.publisher[payload] = qos, client.name
        packet = PublishPacket(topic, payload, qos=QoS(qos), retain=retain, packet_id=self.serial)
        client.unanswered[self.serial] = packet
        client.send(packet)
        return payload

    def _note(self, confirmed: list[bytes]) -> None:
        self.confirmed.update(confirmed)
        indexes = [self.kept.index(payload) for payload in confirmed if payload in self.kept]
        self.kept_surely = max([self.kept_surely, *indexes])

    async def come_to_rest(self) -> None:
        """The network holds, the disk writes, and everyone reads until nobody has anything to say."""
        for _ in range(ROUNDS_MAX):
            for client in self.clients.values():
                if client.peer is None:
                    client.knock(clean=False)
            await self.bench.sync()
            before = [(list(c.unanswered), len(c.got), len(c.incomplete)) for c in self.clients.values()]
            for client in self.clients.values():
                self._note(client.read(1_000))
            await self.bench.sync()
            after = [(list(c.unanswered), len(c.got), len(c.incomplete)) for c in self.clients.values()]
            if before == after and not any(c.unanswered or c.incomplete for c in self.clients.values()):
                return
        raise AssertionError("it does not come to rest")

    def everyone_has_what_is_owed(self) -> None:
        for name, client in self.clients.items():
            counts = Counter(packet.payload for packet in client.got)
            for owner, payload in self.owed:
                if owner == name and payload in self.confirmed:
                    assert counts[payload], (name, payload)
            for payload, count in counts.items():
                assert count == 1 or min(self.qos[payload], NAMES[name]) == 1, (name, payload)
            for publisher in self.clients:
                # Sent again after a crash, a message may also come to whoever subscribed only after the first time.
                theirs = [p.payload for p in client.got if self.publisher[p.payload] == publisher]
                mine = [int(payload) for payload in dict.fromkeys(theirs) if (name, payload) in self.owed]
                assert all(earlier < later for earlier, later in pairwise(mine)), (name, mine)
        found = self.bench.broker.retained.get(RETAINED_TOPIC)
        assert (found.payload if found is not None else b"") in self.kept[self.kept_surely :]


JournalMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
TestJournalModel = JournalMachine.TestCase
