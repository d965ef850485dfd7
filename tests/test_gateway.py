"""The way of a message through the edge: local reactions at once, the acknowledgement when it is on the disk."""

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mqtt5 import ConnectPacket, Packet, PubAckPacket, PublishPacket, QoS, SubscribePacket, TopicFilter

from core import blocks
from core.message import Message
from core.mqtt import records, v5
from core.mqtt.access import Peer
from core.mqtt.broker import Broker
from core.mqtt.connection import Connection
from core.mqtt.journal import Journal
from core.receipts import DELIVERED, STORED, Batch, Kind, Receipt
from core.telemetry import Counters
from devices.access import OpenAccess
from edge.buffer import QUOTA_EXCEEDED, Buffer
from edge.chunks import Chunk
from edge.gateway import Gateway
from edge.lanes import CLOCK_PLAUSIBLE_MS, Lane, LaneIndex, WhenFull
from edge.reactions import Reactions
from rules import files
from rules.engine import RuleSet
from rules.republishing import REPUBLISH_DEPTH_MAX, REPUBLISHED_MAX
from tests.killing import before_every_statement
from tests.mqtt_peers import until

NOW = CLOCK_PLAUSIBLE_MS + 10**9
ALARMS = Lane("alarms", ("alarm/#",))
PLANT = Lane("plant", ("plant/#",))
LANES = (ALARMS, PLANT)


def rules(text: str) -> RuleSet:
    return files.parse({"rules.yaml": text}, supported=frozenset({"republish"}))


def republish(name: str, source: str, topic: str, sql: str = "SELECT *", where: str = "") -> str:
    return (
        f"{name}:\n"
        f"  awsIotSqlVersion: '2016-03-23'\n"
        f'  sql: "{sql} FROM \'{source}\'{where}"\n'
        f'  actions: [{{ republish: {{ topic: "{topic}", qos: 1 }} }}]\n'
    )


OVERHEAT = republish("Overheat", "plant/+/t", "alarm/${topic(2)}", where=" WHERE t > 100")


class Site:
    """A gateway with its broker and buffer, without sockets, that can be killed and started again."""

    def __init__(self, path: Path, lanes: tuple[Lane, ...], text: str) -> None:
        self.counters = Counters()
        self.lanes = lanes
        self._path = path
        self._text = text
        self.buffer: Buffer | None = None

    async def start(self) -> None:
        self.buffer = await Buffer.open(self._path / "buffer.db", self.lanes, self.counters) if self.lanes else None
        reactions = Reactions(rules(self._text), self.counters)
        self.gateway = Gateway(reactions, LaneIndex(self.lanes), self.buffer, self.counters)
        journal = Journal(self.buffer.commits) if self.buffer is not None else None
        self.broker = Broker(OpenAccess(), self.gateway.accept, self.counters, journal=journal)
        self.gateway.broker = self.broker
        if self.buffer is not None:
            self.broker.restore(await self.buffer.commits.store.run(records.load), 0.0, NOW)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def stop(self) -> None:
        if self.buffer is not None:
            await self.buffer.close()

    def connect(self, client_id: str, *filters: str) -> Connection:
        connection = self.broker.open(Peer("here", None, True), lambda: None, 0.0)
        connection.receive(ConnectPacket(client_id).write(), 0.0, NOW)
        if filters:
            wanted = [TopicFilter(pattern, max_qos=QoS.AT_MOST_ONCE) for pattern in filters]
            connection.receive(SubscribePacket(1, wanted).write(), 0.0, NOW)
        connection.take()
        return connection

    def offer(
        self, *messages: Message, client: str = "press", first_id: int = 101, resent: bool = False
    ) -> "asyncio.Future[Receipt]":
        settled: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        ids = list(range(first_id, first_id + len(messages)))
        again = list(range(len(messages))) if resent else []
        self.gateway.accept(Batch(list(messages), Receipt(settled.set_result), client, ids, again))
        return settled

    async def held(self, lane: Lane) -> list[tuple[str, bytes]]:
        """Topic and payload of everything in a lane."""
        assert self.buffer is not None
        found: list[Chunk] = []
        while more := (await self.buffer.read(lane, [chunk.id for chunk in found], 1 << 24))[0]:
            found += more
        return [(m.topic, m.payload) for chunk in found for m in blocks.decode(chunk.block)]


def said(topic: str, payload: bytes) -> Message:
    return Message(topic, payload, 1, False, "press", NOW)


def heard(connection: Connection) -> list[tuple[str, bytes]]:
    packets: list[Packet] = []
    v5.decode(connection.take(), packets, 1 << 20)
    return [(packet.topic, packet.payload) for packet in packets if isinstance(packet, PublishPacket)]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path, LANES, OVERHEAT)
    await site.start()
    yield site
    await site.stop()


# -- react first, acknowledge last -------------------------------------------------------------------------------------


async def test_subscribers_hear_before_the_disk_has_it_and_the_device_is_told_after(site: Site, tmp_path: Path) -> None:
    watch, press = site.connect("watch", "#"), site.connect("press")
    other = sqlite3.connect(tmp_path / "buffer.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # nothing can be committed now
    packet = PublishPacket("plant/1/t", b'{"t":101}', qos=QoS.AT_LEAST_ONCE, packet_id=7)
    press.receive(packet.write(), 0.0, NOW)
    assert heard(watch) == [("plant/1/t", b'{"t":101}'), ("alarm/1", b'{"t":101}')]
    later = asyncio.Event()
    asyncio.get_running_loop().call_later(0.2, later.set)
    await later.wait()
    assert press.take() == b""
    other.execute("ROLLBACK")
    other.close()
    assert site.buffer is not None
    await site.buffer.close()  # which ends with everything settled
    packets: list[Packet] = []
    v5.decode(press.take(), packets, 1 << 20)
    assert [type(packet) for packet in packets] == [PubAckPacket]


async def test_a_message_and_what_rules_make_of_it_are_stored_together(site: Site) -> None:
    receipt = await site.offer(said("plant/1/t", b'{"t":101}'), said("plant/2/t", b'{"t":99}'))
    assert (receipt.outcome, receipt.exceptions) == (STORED, {})
    assert await site.held(PLANT) == [("plant/1/t", b'{"t":101}'), ("plant/2/t", b'{"t":99}')]
    assert await site.held(ALARMS) == [("alarm/1", b'{"t":101}')]


async def test_what_no_lane_wants_is_delivered_and_not_stored(site: Site) -> None:
    watch = site.connect("watch", "#")
    receipt = site.offer(said("office/door", b"open")).result()  # settled at once: there is no disk to wait for
    assert receipt.outcome == DELIVERED
    assert heard(watch) == [("office/door", b"open")]
    assert await site.held(PLANT) == await site.held(ALARMS) == []


async def test_what_only_a_rule_sends_to_a_lane_is_stored_before_the_acknowledgement(tmp_path: Path) -> None:
    site = Site(tmp_path, (ALARMS,), OVERHEAT)
    await site.start()
    receipt = await site.offer(said("plant/1/t", b'{"t":101}'))
    assert receipt.outcome == STORED
    assert await site.held(ALARMS) == [("alarm/1", b'{"t":101}')]
    await site.stop()


async def test_without_an_uplink_everything_is_delivered(tmp_path: Path) -> None:
    site = Site(tmp_path, (), OVERHEAT)
    await site.start()
    watch = site.connect("watch", "alarm/#")
    assert site.offer(said("plant/1/t", b'{"t":101}')).result().outcome == DELIVERED
    assert heard(watch) == [("alarm/1", b'{"t":101}')]


async def test_a_batch_that_lanes_share_has_one_receipt_with_exceptions(tmp_path: Path) -> None:
    full = Lane("full", ("plant/#",), max_bytes=1, when_full=WhenFull.REJECT)
    site = Site(tmp_path, (full, ALARMS), "")
    await site.start()
    await site.offer(said("plant/1", b"fills the lane"))
    receipt = await site.offer(said("alarm/1", b"a"), said("plant/1", b"too much"), said("office", b"unwanted"))
    assert receipt.outcome == STORED
    assert {index: (o.kind, o.code) for index, o in receipt.exceptions.items()} == {
        1: (Kind.REJECTED, QUOTA_EXCEEDED)
    }
    assert await site.held(ALARMS) == [("alarm/1", b"a")]
    assert await site.held(full) == [("plant/1", b"fills the lane")]
    await site.stop()


# -- resends -----------------------------------------------------------------------------------------------------------


async def test_what_was_stored_before_a_crash_and_comes_again_is_acknowledged_and_not_taken_twice(site: Site) -> None:
    message = said("plant/1/t", b'{"t":101}')
    await site.offer(message)
    await site.restart()
    watch = site.connect("watch", "#")
    receipt = await site.offer(message, said("plant/1/t", b'{"t":1}'), resent=True)
    assert receipt.outcome == STORED
    assert {outcome.kind for outcome in receipt.exceptions.values()} <= {Kind.STORED}
    assert heard(watch) == [("plant/1/t", b'{"t":1}')]  # only the one that is new
    assert await site.held(PLANT) == [("plant/1/t", b'{"t":101}'), ("plant/1/t", b'{"t":1}')]
    assert await site.held(ALARMS) == [("alarm/1", b'{"t":101}')]
    assert site.counters.value("messages_resent_total") == 1


async def test_a_batch_of_nothing_but_resends_is_acknowledged(site: Site) -> None:
    messages = [said("plant/1/t", b"1"), said("plant/1/t", b"2")]
    await site.offer(*messages)
    await site.restart()
    receipt = await site.offer(*messages, resent=True)
    assert all(receipt.exceptions.get(index, receipt.outcome) == STORED for index in range(2))
    assert len(await site.held(PLANT)) == 2


async def test_a_resend_is_known_once(site: Site) -> None:
    message = said("plant/1/t", b"on")
    await site.offer(message)
    await site.restart()
    await site.offer(message, resent=True)
    await site.offer(message, resent=True)
    assert len(await site.held(PLANT)) == 2


async def test_a_message_without_the_dup_flag_is_new_though_it_looks_the_same(site: Site) -> None:
    message = said("plant/1/t", b"on")
    await site.offer(message)
    await site.restart()
    await site.offer(message)
    assert len(await site.held(PLANT)) == 2


async def test_a_message_that_comes_twice_without_a_restart_is_stored_twice(site: Site) -> None:
    message = said("plant/1/t", b"on")
    await site.offer(message)
    await site.offer(message, resent=True)
    assert len(await site.held(PLANT)) == 2


async def test_a_resend_of_another_client_is_new(site: Site) -> None:
    message = said("plant/1/t", b"on")
    await site.offer(message)
    await site.restart()
    await site.offer(message, client="mill", resent=True)
    assert len(await site.held(PLANT)) == 2


async def test_a_message_that_a_full_lane_rejected_is_taken_when_it_comes_again_after_a_restart(tmp_path: Path) -> None:
    lane = Lane("small", ("#",), max_bytes=10, when_full=WhenFull.REJECT)
    site = Site(tmp_path, (lane,), "")
    await site.start()
    await site.offer(said("a", b"fills the lane"))
    receipt = await site.offer(said("a", b"rejected"), first_id=2)
    assert receipt.exceptions[0].kind is Kind.REJECTED
    await site.restart()
    assert site.buffer is not None
    [chunk], _ = await site.buffer.read(lane, [], 1)
    await site.buffer.remove("small", [chunk.id])
    receipt = await site.offer(said("a", b"rejected"), first_id=2, resent=True)
    assert (receipt.outcome, receipt.exceptions) == (STORED, {})
    assert await site.held(lane) == [("a", b"rejected")]
    await site.stop()


# -- one transaction ---------------------------------------------------------------------------------------------------


async def test_lane_sessions_and_what_tells_resends_are_on_disk_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are copied before every SQL statement, as a kill at that moment would leave them."""
    images: list[Path] = []
    recording = False

    def take() -> None:
        if recording:
            images.append(tmp_path / f"image {len(images)}")
            images[-1].mkdir()
            for name in ("buffer.db", "buffer.db-wal"):
                shutil.copy(tmp_path / name, images[-1])

    monkeypatch.setattr(sqlite3, "connect", sqlite3.connect)  # so that it is put back
    before_every_statement(take)
    site = Site(tmp_path, LANES, "")
    await site.start()
    assert site.buffer is not None
    reader = site.broker.open(Peer("here", None, True), lambda: None, 0.0)
    reader.receive(ConnectPacket("reader", session_expiry_interval=60).write(), 0.0, NOW)
    await until(lambda: reader.inbound is not None)
    reader.receive(SubscribePacket(1, [TopicFilter("#", max_qos=QoS.AT_LEAST_ONCE)]).write(), 0.0, NOW)
    await site.buffer.commits.drain()
    messages = [said("plant/1/t", b"%d" % number) for number in range(3)]
    recording = True
    for number, message in enumerate(messages):
        assert (await site.offer(message, first_id=101 + number)).outcome == STORED
    recording = False
    await site.stop()
    seen = [await what_is_there(image, messages) for image in images]
    assert set(seen) == {(count, count, count) for count in range(3)}
    assert seen == sorted(seen)


async def what_is_there(image: Path, messages: list[Message]) -> tuple[int, int, int]:
    """How many of the messages are in the lane, are owed to the session, and would be recognised."""
    site = Site(image, LANES, "")
    await site.start()
    assert site.buffer is not None
    in_lane = await site.held(PLANT)
    stored = await site.buffer.commits.store.run(records.load)
    owed = [queued.messages[delivery.index] for queued in stored.queued for delivery in queued.deliveries]
    known = [m for n, m in enumerate(messages) if site.buffer.resends.recognise("press", 101 + n, m)]
    assert [m.payload for m in owed] == [m.payload for m in known] == [payload for _, payload in in_lane]
    await site.stop()
    return len(in_lane), len(owed), len(known)


# -- rules -------------------------------------------------------------------------------------------------------------


async def test_rules_that_set_each_other_off_are_stopped_and_counted(tmp_path: Path) -> None:
    loop = republish("There", "a/#", "b/1") + republish("Back", "b/#", "a/1")
    site = Site(tmp_path, (Lane("all", ("#",)),), loop)
    await site.start()
    watch = site.connect("watch", "#")
    receipt = await site.offer(said("a/1", b"x"))
    assert receipt.outcome == STORED
    assert len(heard(watch)) == REPUBLISH_DEPTH_MAX + 1
    assert site.counters.value("rules_loops_total") == 1
    await site.stop()


async def test_rules_that_multiply_each_other_are_stopped(tmp_path: Path) -> None:
    actions = ", ".join(["{ republish: { topic: a/b } }"] * 10)
    site = Site(tmp_path, (Lane("all", ("#",)),), f"Many: {{ sql: \"SELECT * FROM 'a/#'\", actions: [{actions}] }}")
    await site.start()
    receipt = await site.offer(said("a/b", b"1"), said("c", b"2"))
    assert receipt.outcome == STORED
    assert len(await site.held(site.lanes[0])) < 2 + 2 * REPUBLISHED_MAX * 10
    assert site.counters.value("rules_loops_total") == 1
    await site.stop()


@pytest.mark.parametrize("level", ["#", "+", "a/#/b", "\\u0000", "x" * 70_000, "/" * 200])
async def test_a_payload_cannot_make_a_rule_publish_to_a_topic_that_mqtt_forbids(tmp_path: Path, level: str) -> None:
    text = republish("By name", "plant/#", "alarm/${name}").replace("By name", "ByName")
    site = Site(tmp_path, LANES, text)
    await site.start()
    watch = site.connect("watch", "#")
    bad = said("plant/1", f'{{"name":"{level}"}}'.encode())
    good = said("plant/2", b'{"name":"fire"}')
    receipt = await site.offer(bad, good)
    assert (receipt.outcome, receipt.exceptions) == (STORED, {})
    assert [topic for topic, _ in heard(watch)] == ["plant/1", "plant/2", "alarm/fire"]
    assert await site.held(ALARMS) == [("alarm/fire", good.payload)]
    assert site.counters.value("rules_failed_total", rule="ByName") == 1
    await site.stop()


async def test_a_rule_that_fails_for_one_message_costs_only_its_own_effect(tmp_path: Path) -> None:
    nine_times = " + ".join(["x"] * 9)
    site = Site(tmp_path, LANES, republish("Grow", "plant/#", "alarm/1", sql=f"SELECT {nine_times} AS y"))
    await site.start()
    receipt = await site.offer(said("plant/1", b'{"x":"%s"}' % (b"x" * 130_000)), said("plant/1", b'{"x":"ab"}'))
    assert (receipt.outcome, receipt.exceptions) == (STORED, {})
    assert len(await site.held(PLANT)) == 2
    assert await site.held(ALARMS) == [("alarm/1", b'{"y":"%s"}' % (b"ab" * 9))]
    assert site.counters.value("rules_failed_total", rule="Grow") == 1
    await site.stop()


async def test_an_action_that_fails_leaves_the_others_of_its_rule_alone(tmp_path: Path) -> None:
    topics = ["alarm/1", "alarm/${name}", "alarm/2"]
    actions = ", ".join(f'{{ republish: {{ topic: "{topic}" }} }}' for topic in topics)
    site = Site(tmp_path, LANES, f"Many: {{ sql: \"SELECT * FROM 'plant/#'\", actions: [{actions}] }}")
    await site.start()
    await site.offer(said("plant/1", b'{"name":"#"}'))
    assert [topic for topic, _ in await site.held(ALARMS)] == ["alarm/1", "alarm/2"]
    assert site.counters.value("rules_failed_total", rule="Many") == 1
    await site.stop()


# -- Basic Ingest ------------------------------------------------------------------------------------------------------


async def test_what_is_for_one_rule_is_heard_by_that_alone_and_by_no_subscriber(tmp_path: Path) -> None:
    text = OVERHEAT + republish("Office", "office/#", "alarm/all")
    site = Site(tmp_path, (Lane("all", ("#",)),), text)
    await site.start()
    watch = site.connect("watch", "#", "$aws/#")
    heard(watch)  # that it has subscribed
    receipt = site.offer(said("$aws/rules/Overheat/office/7/t", b'{"t":101}'))
    assert (await receipt).outcome == STORED  # the alarm is kept, so it is waited for
    assert heard(watch) == await site.held(site.lanes[0]) == [("alarm/7", b'{"t":101}')]
    cold = site.offer(said("$aws/rules/Overheat/office/7/t", b'{"t":1}'), said("$aws/rules/Gone/x", b""), first_id=9)
    assert cold.result().outcome == DELIVERED
    assert site.counters.value("rules_not_found_total") == 1
    await site.stop()


async def test_a_lane_that_names_basic_ingest_keeps_it_for_the_cloud(tmp_path: Path) -> None:
    lane = Lane("ingest", ("$aws/rules/#",))
    site = Site(tmp_path, (lane, PLANT), OVERHEAT)
    await site.start()
    receipt = await site.offer(said("$aws/rules/Overheat/plant/1/t", b'{"t":1}'), said("$aws/rules/Gone/x", b"2"))
    assert receipt.outcome == STORED
    assert await site.held(lane) == [("$aws/rules/Overheat/plant/1/t", b'{"t":1}'), ("$aws/rules/Gone/x", b"2")]
    assert await site.held(PLANT) == []
    assert site.counters.value("rules_not_found_total") == 0  # it may be there
    await site.stop()


async def test_a_rule_can_call_another_one_by_name(tmp_path: Path) -> None:
    first = republish("First", "plant/#", "$$aws/rules/Then/${topic()}/more")
    text = first + republish("Then", "none", "alarm/${topic()}")
    site = Site(tmp_path, (ALARMS,), text)
    await site.start()
    watch = site.connect("watch", "#")
    assert (await site.offer(said("plant/1", b"{}"))).outcome == STORED
    assert heard(watch) == [("plant/1", b"{}"), ("alarm/plant/1/more", b"{}")]
    assert await site.held(ALARMS) == [("alarm/plant/1/more", b"{}")]
    await site.stop()


async def test_the_rules_are_told_who_published(tmp_path: Path) -> None:
    site = Site(tmp_path, (), republish("Who", "plant/#", "alarm/${sourceip()}", sql="SELECT sourceip() AS ip"))
    await site.start()
    watch = site.connect("watch", "#")
    press = site.broker.open(Peer("[2001:db8::7]:5000", None, True), lambda: None, 0.0)
    press.receive(ConnectPacket("press").write(), 0.0, NOW)
    press.receive(PublishPacket("plant/1", b"{}").write(), 0.0, NOW)
    assert heard(watch) == [("plant/1", b"{}"), ("alarm/2001:db8::7", b'{"ip":"2001:db8::7"}')]


async def test_what_a_rule_made_comes_from_nobody(tmp_path: Path) -> None:
    text = republish("First", "plant/#", "alarm/1") + republish(
        "Then", "alarm/#", "end/${sourceip()}", sql="SELECT sourceip() AS ip, clientid() AS c"
    )
    site = Site(tmp_path, (), text)
    await site.start()
    watch = site.connect("watch", "end/#")
    press = site.broker.open(Peer("10.0.0.7:5000", None, True), lambda: None, 0.0)
    press.receive(ConnectPacket("press").write() + PublishPacket("plant/1", b"{}").write(), 0.0, NOW)
    assert heard(watch) == [("end/", b'{"c":"n/a"}')]


async def test_rules_can_be_replaced_while_messages_come(site: Site) -> None:
    await site.offer(said("plant/1/t", b'{"t":101}'))
    site.gateway.reactions.replace(rules(republish("Any", "plant/+/t", "alarm/any")))
    await site.offer(said("plant/1/t", b'{"t":1}'), first_id=2)
    site.gateway.reactions.replace(rules(""))
    await site.offer(said("plant/1/t", b'{"t":102}'), first_id=3)
    assert [topic for topic, _ in await site.held(ALARMS)] == ["alarm/1", "alarm/any"]
