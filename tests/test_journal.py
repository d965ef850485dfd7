"""Nothing is told before it is on disk; what is not owed any more goes; a full disk costs time and no message."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from mqtt5 import (
    ConnAckPacket,
    ConnAckReasonCode,
    DisconnectPacket,
    DisconnectReasonCode,
    Packet,
    PubAckPacket,
    PubAckReasonCode,
    PubCompPacket,
    PubCompReasonCode,
    PublishPacket,
    PubRecPacket,
    PubRecReasonCode,
    PubRelPacket,
    SubAckPacket,
    SubscribePacket,
    UnsubAckPacket,
    UnsubscribePacket,
)

from core.mqtt import journal, records
from core.mqtt.limits import Limits
from tests.durable import HOUR, Durable, durable, turn, turn_until
from tests.mqtt_peers import Peer, only, publish, publish_2, wanted


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Durable]:
    async with durable(tmp_path) as bench:
        yield bench


async def subscriber(bench: Durable, client_id: str = "reader", pattern: str = "#", qos: int = 2) -> Peer:
    peer = await bench.arrive(client_id)
    await bench.ask(peer, SubscribePacket(1, [wanted(pattern, qos)]))
    return peer


async def told_after(bench: Durable, peer: Peer, *packets: Packet) -> list[Packet]:
    """What a peer hears of these packets when the disk has them, and insist that it hears nothing before."""
    bench.disk.hold()
    peer.send(*packets)
    await turn()
    assert peer.heard() == []
    assert bench.disk.outstanding
    await bench.sync()
    bench.disk.let_go()
    return peer.heard()


# -- nothing is told before it is on disk ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "answer"),
    [(publish("a", b"x", 7), PubAckPacket(7)), (publish_2("a", b"x", 7), PubRecPacket(7))],
    ids=["QoS 1", "QoS 2"],
)
@pytest.mark.parametrize("there", [True, False])
async def test_a_publisher_is_told_when_what_sessions_are_owed_is_on_disk(
    bench: Durable, packet: PublishPacket, answer: Packet, there: bool
) -> None:
    reader, writer = await subscriber(bench, qos=1), await bench.arrive("writer", session_expiry_interval=0)
    if not there:
        reader.cut()
        await bench.sync()
    assert await told_after(bench, writer, packet) == [answer]
    await bench.crash()
    assert [p.payload for p in only((await bench.arrive("reader")).heard(), PublishPacket)] == [b"x"]


async def test_a_publisher_of_what_nobody_keeps_does_not_wait(bench: Durable) -> None:
    writer = await bench.arrive("writer")
    guest = await bench.arrive("guest", session_expiry_interval=0)
    assert await bench.ask(guest, SubscribePacket(1, [wanted("#", 0)]))
    bench.disk.hold()
    writer.send(publish("a", b"x", 7))
    assert writer.heard() == [PubAckPacket(7)]


async def test_a_publisher_of_qos_2_is_told_when_its_identifier_is_on_disk(bench: Durable) -> None:
    writer = await bench.arrive("writer")
    assert await told_after(bench, writer, publish_2("a", b"x", 7)) == [PubRecPacket(7)]
    await bench.crash()
    writer = await bench.arrive("writer")
    assert await bench.ask(writer, publish_2("a", b"x", 7, duplicate=True)) == [PubRecPacket(7)]
    assert bench.accepted == []  # it was taken already


async def test_pubcomp_comes_when_the_end_of_the_identifier_is_on_disk(bench: Durable) -> None:
    writer = await bench.arrive("writer")
    await bench.ask(writer, publish_2("a", b"x", 7))
    assert await told_after(bench, writer, PubRelPacket(7)) == [PubCompPacket(7)]
    await bench.crash()
    writer = await bench.arrive("writer")
    await bench.ask(writer, publish_2("a", b"another", 7))
    assert [message.payload for message in bench.accepted] == [b"another"]


async def test_a_new_session_is_confirmed_when_it_is_on_disk(bench: Durable) -> None:
    bench.disk.hold()
    peer = bench.knock("reader")
    await turn()
    assert peer.heard() == []
    await bench.sync()
    (answer,) = peer.heard()
    assert isinstance(answer, ConnAckPacket)
    assert not answer.session_present
    await bench.crash()
    assert (await bench.arrive("reader")).welcome.session_present


async def test_a_session_that_ends_with_its_connection_needs_no_disk(bench: Durable) -> None:
    bench.disk.hold()
    peer = bench.knock("guest", session_expiry_interval=0)
    peer.send(SubscribePacket(1, [wanted("#")]), UnsubscribePacket(2, ["#"]))
    assert [type(packet) for packet in peer.heard()] == [ConnAckPacket, SubAckPacket, UnsubAckPacket]
    assert not bench.disk.outstanding


async def test_subscriptions_and_their_end_are_confirmed_when_they_are_on_disk(bench: Durable) -> None:
    reader = await bench.arrive("reader")
    (answer,) = await told_after(bench, reader, SubscribePacket(1, [wanted("a", 1), wanted("b", 2)]))
    assert isinstance(answer, SubAckPacket)
    await bench.crash()
    assert bench.broker.router.subscriptions == 2
    reader = await bench.arrive("reader")
    (answer,) = await told_after(bench, reader, UnsubscribePacket(2, ["a"]))
    assert isinstance(answer, UnsubAckPacket)
    await bench.crash()
    assert bench.broker.router.subscriptions == 1


async def test_a_subscriber_is_owed_the_retained_messages_when_it_is_told_that_it_subscribed(bench: Durable) -> None:
    writer, reader = await bench.arrive("writer"), await bench.arrive("reader")
    await bench.ask(writer, publish("a", b"kept", 7, retain=True))
    bench.disk.hold()
    reader.send(SubscribePacket(1, [wanted("a", 1)]))
    await turn()
    assert only(reader.heard(), SubAckPacket) == []
    await bench.sync()
    assert len(only(reader.heard(), SubAckPacket)) == 1
    await bench.crash()
    [packet] = only((await bench.arrive("reader")).heard(), PublishPacket)
    assert (packet.payload, packet.retain, packet.duplicate) == (b"kept", True, True)


async def test_qos_2_is_sent_when_its_delivery_is_on_disk_and_released_when_pubrec_is(bench: Durable) -> None:
    reader, writer = await subscriber(bench), await bench.arrive("writer", session_expiry_interval=0)
    bench.disk.hold()
    writer.send(publish_2("a", b"x", 7))
    await turn()
    assert reader.heard() == []
    await bench.sync()
    bench.disk.let_go()
    [packet] = reader.published()
    assert packet.packet_id is not None
    assert await told_after(bench, reader, PubRecPacket(packet.packet_id)) == [PubRelPacket(packet.packet_id)]
    await bench.crash()
    assert (await bench.arrive("reader")).heard() == [PubRelPacket(packet.packet_id)]


async def test_what_was_received_is_not_released_before_it_is_on_disk_on_another_connection_either(
    bench: Durable,
) -> None:
    reader, writer = await subscriber(bench), await bench.arrive("writer", session_expiry_interval=0)
    await bench.ask(writer, publish_2("a", b"x", 7))
    [packet] = reader.published()
    assert packet.packet_id is not None
    bench.disk.hold()
    reader.send(PubRecPacket(packet.packet_id), PubRecPacket(packet.packet_id))
    await turn()
    assert reader.heard() == []
    reader.cut()
    again = bench.knock("reader")
    await turn()
    assert only(again.heard(), PubRelPacket) == []
    await bench.sync()
    assert only(again.heard(), PubRelPacket)[0] == PubRelPacket(packet.packet_id)


async def test_qos_1_goes_to_whoever_is_there_before_the_disk_has_it(bench: Durable) -> None:
    reader, writer = await subscriber(bench, qos=1), await bench.arrive("writer")
    bench.disk.hold()
    writer.send(publish("a", b"x", 7))
    assert reader.payloads() == [b"x"]
    assert writer.heard() == []


async def test_a_retained_message_is_confirmed_when_it_is_on_disk_and_so_is_its_end(bench: Durable) -> None:
    writer = await bench.arrive("writer", session_expiry_interval=0)
    assert await told_after(bench, writer, publish("a", b"kept", 7, retain=True)) == [PubAckPacket(7)]
    await bench.crash()
    found = bench.broker.retained.get("a")
    assert found is not None
    assert (found.payload, found.qos, found.retain, found.client_id) == (b"kept", 1, True, "writer")
    writer = await bench.arrive("writer", session_expiry_interval=0)
    assert await told_after(bench, writer, publish("a", b"", 8, retain=True)) == [PubAckPacket(8)]
    await bench.crash()
    assert bench.broker.retained.get("a") is None


# -- what is not owed any more goes ------------------------------------------------------------------------------------


async def test_messages_leave_the_disk_when_the_last_of_those_who_are_owed_them_has_them(bench: Durable) -> None:
    readers = [await subscriber(bench, name) for name in ("first", "second")]
    writer = await bench.arrive("writer", session_expiry_interval=0)
    await bench.ask(writer, publish("a", b"1", 1), publish_2("a", b"2", 2))
    for reader in readers:
        assert bench.rows("mqtt_queued") == 1
        one, two = (packet.packet_id for packet in reader.published())
        assert one is not None
        assert two is not None
        await bench.ask(reader, PubAckPacket(one), PubRecPacket(two))
        assert bench.rows("mqtt_queued") == 1
        await bench.ask(reader, PubCompPacket(two))
    assert bench.rows("mqtt_queued") == 0


async def test_what_a_client_acknowledges_is_on_disk_without_anyone_asking(bench: Durable) -> None:
    reader, writer = await subscriber(bench), await bench.arrive("writer", session_expiry_interval=0)
    await bench.ask(writer, publish("a", b"1", 1))
    [packet] = reader.published()
    assert packet.packet_id is not None
    reader.send(PubAckPacket(packet.packet_id))
    await turn_until(lambda: bench.rows("mqtt_queued") == 0)


async def test_what_was_acknowledged_before_the_disk_had_it_never_stays_there(bench: Durable) -> None:
    reader, writer = await subscriber(bench, qos=1), await bench.arrive("writer", session_expiry_interval=0)
    for early in (True, False):  # before its commit begins, and while that is under way
        bench.disk.hold()
        writer.send(publish("a", b"1", 1))
        if not early:
            await turn()
        [packet] = reader.published()
        assert packet.packet_id is not None
        reader.send(PubAckPacket(packet.packet_id))
        await bench.sync()
        bench.disk.let_go()
        await bench.sync()
        assert bench.rows("mqtt_queued") == 0
    await bench.crash()
    assert (await bench.arrive("reader")).heard() == []


async def test_a_session_that_ended_leaves_nothing_behind(bench: Durable) -> None:
    reader, writer = await subscriber(bench), await bench.arrive("writer", session_expiry_interval=0)
    reader.cut()
    await bench.ask(writer, publish("a", b"1", 1), publish_2("a", b"2", 2))
    bench.wait(HOUR + 1)
    await turn_until(lambda: not any(bench.rows(table) for table in records.TABLES))


async def test_a_session_that_ends_in_the_turn_in_which_it_subscribed_leaves_nothing_behind(bench: Durable) -> None:
    bench.disk.hold()
    peer = bench.knock("reader")
    await bench.sync()
    peer.send(SubscribePacket(1, [wanted("a")]), DisconnectPacket(session_expiry_interval=0))
    await bench.sync()
    bench.disk.let_go()
    assert [bench.rows(table) for table in records.TABLES] == [0, 0, 0, 0]


async def test_a_clean_start_ends_the_session_on_disk(bench: Durable) -> None:
    (await subscriber(bench)).cut()
    guest = await bench.arrive("reader", clean_start=True, session_expiry_interval=0)
    await bench.sync()
    assert [bench.rows(table) for table in records.TABLES] == [0, 0, 0, 0]
    assert not guest.welcome.session_present


async def test_messages_of_many_commits_are_not_kept_from_going_by_one_slow_client(
    bench: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "ROW_MAX_MESSAGES", 3)
    fast, slow = await subscriber(bench, "fast", qos=1), await subscriber(bench, "slow", "slow", qos=1)
    writer = await bench.arrive("writer", session_expiry_interval=0)
    await bench.ask(writer, publish("slow", b"s", 1), *[publish("fast", b"%d" % n, n) for n in range(2, 12)])
    assert bench.rows("mqtt_queued") == 4
    slow.heard()
    numbers = [packet.packet_id for packet in fast.published()]
    await bench.ask(fast, *[PubAckPacket(number) for number in numbers if number is not None])
    assert bench.rows("mqtt_queued") == 1


# -- a full disk -------------------------------------------------------------------------------------------------------


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the file system has free; set `free` to fill it."""
    disk = SimpleNamespace(free=1 << 40)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    return disk


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Durable]:
    """A bench whose clients may be sent two messages at a time."""
    async with durable(tmp_path, Limits(inflight=2)) as bench:
        yield bench


async def test_on_a_full_disk_publishers_are_told_and_may_send_again(small: Durable, room: SimpleNamespace) -> None:
    reader, writer = await subscriber(small), await small.arrive("writer")
    old = await small.arrive("old", version=4)
    reader.cut()
    await small.sync()
    room.free = 0
    heard = await small.ask(writer, publish("a", b"1", 1), publish_2("a", b"2", 2))
    assert heard == [
        PubAckPacket(1, reason_code=PubAckReasonCode.QUOTA_EXCEEDED),
        PubRecPacket(2, reason_code=PubRecReasonCode.QUOTA_EXCEEDED),
    ]
    assert await small.ask(old, publish("a", b"3", 1)) == []
    assert old.closed
    room.free = 1 << 40
    assert await small.ask(writer, publish("a", b"1", 1), publish_2("a", b"2", 2)) == [PubAckPacket(1), PubRecPacket(2)]
    await small.crash()
    payloads = [packet.payload for packet in await small.take_all(await small.arrive("reader"))]
    assert payloads == [b"1", b"2", b"3", b"1", b"2"]  # the first three were refused, and nothing was lost of them


async def test_on_a_full_disk_nothing_is_confirmed_that_would_have_to_be_kept(
    small: Durable, room: SimpleNamespace
) -> None:
    reader, writer = await subscriber(small), await small.arrive("writer")
    await small.ask(writer, publish_2("a", b"1", 1))
    [packet] = reader.published()
    assert packet.packet_id is not None
    room.free = 0
    quota = DisconnectPacket(reason_code=DisconnectReasonCode.QUOTA_EXCEEDED)
    assert await small.ask(reader, PubRecPacket(packet.packet_id)) == [quota]
    assert await small.ask(writer, PubRelPacket(1)) == [quota]
    for peer in (reader, writer):
        assert peer.closed
        peer.cut()
    writer = await small.arrive("writer")  # sessions that are on disk can be resumed
    assert await small.ask(writer, SubscribePacket(1, [wanted("new")])) == [quota]
    newcomer = small.knock("newcomer")
    await small.sync()
    (answer,) = newcomer.heard()
    assert isinstance(answer, ConnAckPacket)
    assert answer.reason_code == ConnAckReasonCode.SERVER_UNAVAILABLE
    guest = await small.arrive("guest", session_expiry_interval=0)  # nothing of it is kept
    assert len(await small.ask(guest, SubscribePacket(1, [wanted("a")]))) == 1


async def test_on_a_full_disk_what_clients_acknowledge_makes_room(bench: Durable, room: SimpleNamespace) -> None:
    reader, writer = await subscriber(bench, qos=1), await bench.arrive("writer")
    await bench.ask(writer, publish("a", b"1", 1), publish("a", b"2", 2))
    room.free = 0
    await bench.ask(writer, publish("a", b"3", 3))
    first, second, third = (packet.packet_id for packet in reader.published())
    for packet_id in (first, second):
        assert packet_id is not None
        await bench.ask(reader, PubAckPacket(packet_id))
    assert bench.rows("mqtt_queued") == 0
    await bench.crash()
    assert [p.payload for p in only((await bench.arrive("reader")).heard(), PublishPacket)] == []
    assert third is not None


async def test_everything_is_written_when_there_is_room_again_though_nobody_asks(
    bench: Durable, room: SimpleNamespace
) -> None:
    reader, writer = await subscriber(bench), await bench.arrive("writer")
    room.free = 0
    await bench.ask(writer, publish_2("a", b"1", 1), publish("b", b"kept", 2, retain=True))
    assert reader.heard() == []  # QoS 2 is not sent before its delivery is on disk
    reader.send(SubscribePacket(2, [wanted("other")]))
    room.free = 1 << 40
    await turn_until(lambda: bench.rows("mqtt_queued") == 1)
    await bench.crash()
    assert bench.broker.router.subscriptions == 2
    kept = bench.broker.retained.get("b")
    assert kept is not None
    reader = await bench.arrive("reader")
    assert [packet.payload for packet in only(reader.heard(), PublishPacket)] == [b"1", b"kept"]


async def test_an_end_is_written_with_what_the_disk_refused_before(bench: Durable, room: SimpleNamespace) -> None:
    reader, writer = await subscriber(bench), await bench.arrive("writer")
    room.free = 0
    reader.send(SubscribePacket(2, [wanted("other")]))
    await bench.ask(writer, publish("a", b"1", 1))
    reader.cut()
    bench.wait(HOUR + 1)
    await bench.sync()
    room.free = 1 << 40
    await turn_until(lambda: not (bench.rows("mqtt_subscriptions") or bench.rows("mqtt_queued")))


# -- what memory could answer already ----------------------------------------------------------------------------------


async def test_a_second_pubrel_is_answered_no_sooner_than_the_first(bench: Durable, room: SimpleNamespace) -> None:
    writer = await bench.arrive("writer")
    await bench.ask(writer, publish_2("a", b"1", 5))
    bench.disk.hold()
    writer.send(PubRelPacket(5))
    await turn()
    writer.send(PubRelPacket(5))
    await turn()
    assert writer.heard() == []
    bench.disk.let_go()
    await bench.sync()
    first, second = writer.heard()
    assert first == PubCompPacket(5)
    assert second == PubCompPacket(5, reason_code=PubCompReasonCode.PACKET_ID_NOT_FOUND)


async def test_an_identifier_is_not_free_while_the_disk_refuses_its_end(bench: Durable, room: SimpleNamespace) -> None:
    """Else the next message under it is taken for the same one after a crash, acknowledged and lost."""
    writer = await bench.arrive("writer")
    await bench.ask(writer, publish_2("a", b"1", 5))
    room.free = 0
    await bench.ask(writer, PubRelPacket(5))
    writer.cut()
    writer = await bench.arrive("writer")
    answers = await bench.ask(writer, PubRelPacket(5))
    assert only(answers, PubCompPacket) == []
    assert writer.closed


async def test_a_session_that_is_not_on_disk_yet_is_confirmed_to_nobody(bench: Durable) -> None:
    bench.disk.hold()
    first = bench.knock("a")
    await turn()
    second = bench.knock("a")
    await turn()
    assert only([*first.heard(), *second.heard()], ConnAckPacket) == []
    await bench.crash()
    assert not (await bench.arrive("a")).welcome.session_present


async def test_a_session_is_confirmed_with_the_time_that_it_has_on_disk(bench: Durable) -> None:
    first = await bench.arrive("a", session_expiry_interval=10)
    first.cut()
    bench.wait(5)
    await bench.sync()
    await bench.arrive("a", session_expiry_interval=3_600)
    await bench.crash()
    bench.wait(6)
    assert (await bench.arrive("a")).welcome.session_present


async def test_on_a_full_disk_a_session_is_resumed_as_long_as_it_is_to_live_no_longer(
    bench: Durable, room: SimpleNamespace
) -> None:
    (await bench.arrive("a", session_expiry_interval=10)).cut()
    await bench.sync()
    room.free = 0
    longer = bench.knock("a", session_expiry_interval=20)
    await bench.sync()
    (answer,) = only(longer.heard(), ConnAckPacket)
    assert answer.reason_code == ConnAckReasonCode.SERVER_UNAVAILABLE
    longer.cut()
    assert (await bench.arrive("a", session_expiry_interval=10)).welcome.session_present


async def test_a_clean_start_is_not_confirmed_while_the_disk_has_the_session(
    bench: Durable, room: SimpleNamespace
) -> None:
    (await subscriber(bench, "a")).cut()
    other = await bench.arrive("other")
    await bench.sync()
    room.free = 0
    for _ in range(2):
        other.send(SubscribePacket(1, [wanted("x")]))  # shares the commit, which the disk refuses for it
        peer = bench.knock("a", clean_start=True, session_expiry_interval=0)
        await bench.sync()
        (answer,) = only(peer.heard(), ConnAckPacket)
        assert answer.reason_code == ConnAckReasonCode.SERVER_UNAVAILABLE
        peer.cut()
        other = await bench.arrive("other")


async def test_the_end_of_a_subscription_is_not_confirmed_while_the_disk_has_it(
    bench: Durable, room: SimpleNamespace
) -> None:
    peer, other = await subscriber(bench, "a", "t"), await bench.arrive("other")
    room.free = 0
    other.send(SubscribePacket(1, [wanted("x")]))
    await bench.ask(peer, UnsubscribePacket(2, ["t"]))
    peer.cut()
    peer = await bench.arrive("a")
    assert only(await bench.ask(peer, UnsubscribePacket(3, ["t"])), UnsubAckPacket) == []
    await bench.crash()
    assert bench.broker.router.subscriptions == 1


async def test_the_end_of_a_retained_message_is_not_confirmed_while_the_disk_has_it(
    bench: Durable, room: SimpleNamespace
) -> None:
    writer, other = await bench.arrive("writer"), await bench.arrive("other")
    await bench.ask(writer, publish("r", b"kept", 1, retain=True))
    room.free = 0
    for packet_id in (2, 3):
        other.send(SubscribePacket(packet_id, [wanted("x")]))
        (answer,) = only(await bench.ask(writer, publish("r", b"", packet_id, retain=True)), PubAckPacket)
        assert answer.reason_code == PubAckReasonCode.QUOTA_EXCEEDED
        other = await bench.arrive("other")


# -- what little is owed takes little room -----------------------------------------------------------------------------


async def test_a_small_message_that_waits_does_not_keep_large_ones_on_disk(bench: Durable) -> None:
    large, small = await subscriber(bench, "large", "large", 1), await subscriber(bench, "small", "small", 1)
    small.cut()
    writer = await bench.arrive("writer", session_expiry_interval=0)
    for number in range(5):
        packets = [publish("small", b"%d" % number, 100), *[publish("large", bytes(40_000), n) for n in range(1, 9)]]
        await bench.ask(writer, *packets)
        await bench.take_all(large)
    await turn_until(lambda: bench.queued_bytes_on_disk() < 10_000)
    await bench.crash()
    assert [p.payload for p in await bench.take_all(await bench.arrive("small"))] == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_message_that_is_never_acknowledged_does_not_make_the_row_of_its_session_grow(bench: Durable) -> None:
    stuck = await subscriber(bench, "stuck", "own", 1)
    await bench.ask(stuck, SubscribePacket(2, [wanted("$share/g/t", 1)]))
    other = await subscriber(bench, "other", "$share/g/t", 1)
    writer = await bench.arrive("writer", session_expiry_interval=0)
    await bench.ask(writer, publish("own", b"x", 1))
    for _ in range(3):
        await bench.ask(writer, *[publish("t", b"y", n) for n in range(1, 201)])
        stuck.cut()
        await bench.take_all(other)
        stuck = await bench.arrive("stuck")
        await bench.sync()
    (session,) = [s for s in bench.broker._sessions.values() if s.client_id == "stuck"]
    record = journal._record(session)
    assert record.last_number - record.floor > 200
    assert len(record.done) == 1
