"""After a kill, everything that was promised is there again: sessions, who is owed what, under which identifiers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mqtt5 import (
    DisconnectPacket,
    PubAckPacket,
    PubCompPacket,
    PublishPacket,
    PubRecPacket,
    PubRelPacket,
    SubscribePacket,
    UnsubscribePacket,
)

from core.mqtt.limits import Limits
from tests.durable import HOUR, Durable, durable, turn, turn_until
from tests.mqtt_peers import NOON_MS, Peer, only, publish, publish_2, wanted

MANY = 100_000  # messages that a client may be sent at a time


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Durable]:
    async with durable(tmp_path, Limits(inflight=MANY)) as bench:
        yield bench


async def subscriber(bench: Durable, client_id: str = "reader", pattern: str = "#", qos: int = 2) -> Peer:
    peer = await bench.arrive(client_id)
    await bench.ask(peer, SubscribePacket(1, [wanted(pattern, qos)]))
    return peer


async def writer_of(bench: Durable) -> Peer:
    return await bench.arrive("writer", session_expiry_interval=0)


def marks(packets: list[PublishPacket]) -> list[tuple[bytes, int, int | None, bool]]:
    return [(p.payload, p.qos.value, p.packet_id, p.duplicate) for p in packets]


async def test_sessions_are_there_again_with_the_options_of_their_subscriptions(bench: Durable) -> None:
    reader = await bench.arrive("reader")
    plain, special = wanted("plain", 1), wanted("special/+", 2, no_local=True, retain_as_published=True)
    await bench.ask(reader, SubscribePacket(1, [plain]), SubscribePacket(2, [special], subscription_id=5))
    await bench.ask(reader, SubscribePacket(3, [wanted("gone")]), UnsubscribePacket(4, ["gone"]))
    for _ in range(2):
        await bench.crash()
        reader = await bench.arrive("reader")
        assert reader.welcome.session_present
        writer = await writer_of(bench)
        await bench.ask(reader, publish("special/x", b"mine", 1))
        await bench.ask(writer, publish_2("plain", b"1", 2), publish("gone", b"2", 3))
        await bench.ask(writer, publish_2("special/x", b"3", 4, retain=True))
        taken = await bench.take_all(reader)
        assert [(p.payload, p.qos.value, p.retain, list(p.subscription_ids)) for p in taken] == [
            (b"1", 1, False, []),
            (b"3", 2, True, [5]),
        ]


async def test_what_was_owed_comes_again_in_order_under_the_identifiers_it_had(bench: Durable) -> None:
    reader, writer = await subscriber(bench), await writer_of(bench)
    for number in range(1, 5):
        make = publish if number % 2 else publish_2
        await bench.ask(writer, make("a", b"%d" % number, number))
    sent = marks(reader.published())
    assert [payload for payload, *_ in sent] == [b"1", b"2", b"3", b"4"]
    await bench.crash()
    again = marks((await bench.arrive("reader")).published())
    assert again == [(payload, qos, packet_id, True) for payload, qos, packet_id, _ in sent]


async def test_what_was_acknowledged_does_not_come_again_wherever_it_stood(bench: Durable) -> None:
    reader, writer = await subscriber(bench, qos=1), await writer_of(bench)
    await bench.ask(writer, *[publish("a", b"%d" % number, number) for number in range(1, 7)])
    ids = {packet.payload: packet.packet_id for packet in reader.published()}
    await bench.ask(reader, *[PubAckPacket(ids[payload] or 0) for payload in (b"1", b"3", b"4", b"6")])
    for _ in range(2):
        await bench.crash()
        reader = await bench.arrive("reader")
        assert [(p.payload, p.packet_id) for p in reader.published()] == [(b"2", ids[b"2"]), (b"5", ids[b"5"])]
    await bench.ask(await writer_of(bench), publish("a", b"new", 1))
    [packet] = reader.published()
    assert packet.packet_id not in ids.values()
    assert not packet.duplicate


async def test_each_half_of_qos_2_goes_on_where_it_was(bench: Durable) -> None:
    reader, writer = await subscriber(bench), await writer_of(bench)
    await bench.ask(writer, *[publish_2("a", b"%d" % number, number) for number in range(1, 4)])
    sent, received, complete = (packet.packet_id or 0 for packet in reader.published())
    await bench.ask(reader, PubRecPacket(received), PubRecPacket(complete))
    await bench.ask(reader, PubCompPacket(complete))
    await bench.crash()
    reader = await bench.arrive("reader")
    packets = reader.heard()
    assert only(packets, PubRelPacket) == [PubRelPacket(received)]
    assert marks(only(packets, PublishPacket)) == [(b"1", 2, sent, True)]
    await bench.ask(reader, PubCompPacket(received), PubRecPacket(sent))
    await bench.ask(reader, PubCompPacket(sent))
    await bench.crash()
    assert (await bench.arrive("reader")).heard() == []
    assert bench.rows("mqtt_queued") == 0


async def test_a_clients_own_qos_2_publishes_are_known_until_it_releases_them(bench: Durable) -> None:
    writer = await bench.arrive("writer")
    await bench.ask(writer, publish_2("a", b"1", 1), publish_2("a", b"2", 2))
    await bench.ask(writer, PubRelPacket(1))
    for _ in range(2):
        await bench.crash()
        writer = await bench.arrive("writer")
        resent = publish_2("a", b"2", 2, duplicate=True)
        assert await bench.ask(writer, resent) == [PubRecPacket(2)]
        assert bench.accepted == []
    assert await bench.ask(writer, PubRelPacket(2)) == [PubCompPacket(2)]


async def test_a_message_of_a_shared_subscription_stays_with_its_group(bench: Durable) -> None:
    for name in ("first", "second"):
        await subscriber(bench, name, "$share/group/a", qos=1)
    await bench.ask(await writer_of(bench), publish("a", b"1", 1))
    await bench.crash()
    members = [await bench.arrive(name) for name in ("first", "second")]
    owed = [member.payloads() for member in members]
    assert sorted(owed) == [[], [b"1"]]
    members[owed.index([b"1"])].cut()
    assert members[owed.index([])].payloads() == [b"1"]


@pytest.mark.parametrize("transactions", range(6))
async def test_what_one_member_leaves_to_another_is_owed_by_one_of_them_at_every_moment(
    bench: Durable, transactions: int
) -> None:
    first = await subscriber(bench, "first", "$share/group/a", qos=1)
    await bench.ask(await writer_of(bench), publish("a", b"1", 1))
    assert first.payloads() == [b"1"]
    await subscriber(bench, "second", "$share/group/a", qos=1)
    bench.disk.hold()
    first.send(DisconnectPacket(session_expiry_interval=0 if transactions % 2 else None))
    await bench.sync_at_most(transactions // 2)
    await bench.crash()
    members = [await bench.arrive(name) for name in ("first", "second")]
    assert {payload for member in members for payload in member.payloads()} == {b"1"}


async def test_a_session_ends_when_its_time_is_over_though_the_broker_was_down_meanwhile(bench: Durable) -> None:
    (await subscriber(bench)).cut()
    await bench.sync()
    bench.clock += (HOUR - 10) * 1_000
    await bench.crash()
    assert bench.broker.sessions == 1
    bench.wait(9)
    assert bench.broker.sessions == 1
    bench.wait(2)
    assert bench.broker.sessions == 0
    await turn_until(lambda: bench.rows("mqtt_sessions") == 0)


async def test_a_client_that_was_there_when_the_broker_was_killed_has_all_its_time_from_the_start(
    bench: Durable,
) -> None:
    await subscriber(bench)
    bench.clock += 2 * HOUR * 1_000
    await bench.crash()
    bench.wait(HOUR - 1)
    assert bench.broker.sessions == 1
    bench.clock += HOUR * 1_000
    await bench.crash()  # by now it is known when it went
    bench.wait(1)
    assert bench.broker.sessions == 0


@pytest.mark.parametrize("clocks", [(0, NOON_MS), (NOON_MS, 0), (NOON_MS, NOON_MS - 10**8)])
async def test_a_clock_that_was_not_set_ends_no_session(bench: Durable, clocks: tuple[int, int]) -> None:
    peer = await subscriber(bench)
    bench.clock = clocks[0]
    peer.cut()
    await turn()
    bench.wait(0)
    await bench.sync()
    bench.clock = clocks[1]
    await bench.crash()
    bench.wait(HOUR - 1)
    assert bench.broker.sessions == 1
    bench.wait(2)
    assert bench.broker.sessions == 0


async def test_messages_expire_while_the_broker_is_down(bench: Durable) -> None:
    (await subscriber(bench)).cut()
    writer = await writer_of(bench)
    soon, late = {"message_expiry_interval": 60}, {"message_expiry_interval": 600}
    await bench.ask(writer, publish("a", b"soon", 1, **soon), publish("a", b"late", 2, **late))
    await bench.ask(writer, publish("r", b"soon", 3, retain=True, **soon))
    bench.clock += 100_000
    await bench.crash()
    [packet] = await bench.take_all(await bench.arrive("reader"))
    assert (packet.payload, packet.message_expiry_interval) == (b"late", 500)
    assert bench.broker.retained.get("r") is None
    assert bench.rows("mqtt_retained") == 0
    await turn_until(lambda: bench.rows("mqtt_queued") == 0)


async def test_nobody_is_given_what_was_owed_to_a_session_that_ended(bench: Durable) -> None:
    slow = await subscriber(bench, "slow", qos=1)
    (await subscriber(bench, "short", qos=1)).cut()
    await bench.ask(await writer_of(bench), publish("a", b"old", 1))
    await bench.arrive("short", clean_start=True, session_expiry_interval=0)
    await bench.sync()
    assert slow.payloads() == [b"old"]
    for life in range(2):  # the row still names the session that ended
        await bench.crash()
        assert bench.rows("mqtt_queued") == 1
        newcomer = await bench.arrive(f"newcomer {life}")
        assert newcomer.heard() == []
    await bench.crash()
    for life in range(2):
        assert (await bench.arrive(f"newcomer {life}")).heard() == []
    assert [p.payload for p in await bench.take_all(await bench.arrive("slow"))] == [b"old"]


async def test_rows_of_which_nothing_is_owed_are_deleted_at_the_start(bench: Durable) -> None:
    reader, writer = await subscriber(bench, qos=1), await writer_of(bench)
    bench.disk.hold()
    writer.send(publish("a", b"1", 1))
    [packet] = reader.published()
    await bench.sync_at_most(1)
    reader.cut()
    bench.wait(HOUR + 1)
    await bench.sync_at_most(1)  # the session has ended, its row has not gone
    await bench.crash()
    assert packet.payload == b"1"
    await turn_until(lambda: bench.rows("mqtt_queued") == 0)
