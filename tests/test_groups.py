"""Of a shared subscription each message goes to one member: in turn, to whoever is ready, on when a member leaves."""

from collections import Counter

import pytest
from mqtt5 import (
    DisconnectPacket,
    DisconnectReasonCode,
    PubAckPacket,
    PublishPacket,
    PubRecPacket,
    SubscribePacket,
    UnsubscribePacket,
)

from core.message import Message
from core.mqtt.groups import Group, split
from core.mqtt.limits import Limits
from tests.mqtt_peers import Bench, Guard, GuardedGrant, Peer, Reader, only, publish, publish_2, wanted

SHARED = "$share/g/t"


def members(*readers: Reader) -> Group:
    group = Group(SHARED)
    group.members += [reader.wants(SHARED) for reader in readers]
    return group


def picked(group: Group, count: int) -> list[str | None]:
    found = [group.pick("t", ()) for _ in range(count)]
    return [member.session.client_id if member is not None else None for member in found]


def flood(bench: Bench, count: int, qos: int = 1, first: int = 1) -> None:
    """As many messages to "t", with the payloads 1, 2, …"""
    source = bench.connect("source")
    for n in range(first, first + count):
        source.send(publish("t", b"%d" % n, n) if qos == 1 else publish_2("t", b"%d" % n, n))


def acknowledge(peer: Peer) -> list[bytes]:
    """Take and acknowledge what came with QoS 1."""
    packets = peer.published()
    peer.send(*[PubAckPacket(packet.packet_id or 0) for packet in packets])
    return [packet.payload for packet in packets]


# -- whose turn it is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "group", "topic_filter"),
    [
        ("$share/g/t", "g", "t"),
        ("$share/g/a/+/#", "g", "a/+/#"),
        ("$share/g//t", "g", "/t"),
        ("$share//t", "", "t"),
        ("$share/g", "g", ""),
        ("a/b", "", "a/b"),
        ("$share", "", "$share"),
        ("$shared/g/t", "", "$shared/g/t"),
    ],
)
def test_a_shared_subscription_names_its_group_and_its_filter(pattern: str, group: str, topic_filter: str) -> None:
    assert split(pattern) == (group, topic_filter)


def test_members_take_turns() -> None:
    assert picked(members(Reader("a"), Reader("b"), Reader("c")), 7) == ["a", "b", "c", "a", "b", "c", "a"]


def test_a_member_that_does_not_keep_up_or_is_away_is_passed_over_while_another_is_ready() -> None:
    a, b, c = Reader("a"), Reader("b", window=1), Reader("c")
    group = members(a, b, c)
    a.leave()
    b.deliver(b"1")
    b.deliver(b"2")
    assert picked(group, 2) == ["c", "c"]
    c.congested = True
    assert set(picked(group, 3)) == {"b", "c"}  # who is there, before who is away
    b.leave()
    c.leave()
    assert set(picked(group, 3)) == {"a", "b", "c"}


def test_nobody_is_picked_who_may_not_receive_the_topic_or_was_asked_already() -> None:
    a, b, guard = Reader("a"), Reader("b"), Guard()
    guard.forbid("receive", "t")
    group = members(a, b)
    a.come(GuardedGrant(guard, "a", None))
    assert picked(group, 3) == ["b", "b", "b"]
    assert group.pick("t", {b.session}) is None
    assert group.pick("u", {b.session}) is group.members[0]


def test_who_is_there_beside_a_member() -> None:
    a, b = Reader("a"), Reader("b")
    group = members(a, b)
    assert group.others_present(a.session)
    b.leave()
    assert not group.others_present(a.session)
    assert group.others_present(b.session)


# -- through the broker ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [5, 4])
@pytest.mark.parametrize("qos", [0, 1])
def test_each_message_reaches_one_member_and_the_load_is_balanced(version: int, qos: int) -> None:
    bench = Bench()
    peers = [bench.connect(f"m{n}", version) for n in range(3)]
    for peer in peers:
        assert peer.subscribe(wanted(SHARED, qos)) == [qos]
    flood(bench, 150)
    heard = [acknowledge(peer) if qos else peer.payloads() for peer in peers]
    assert Counter(payload for payloads in heard for payload in payloads) == {b"%d" % n: 1 for n in range(1, 151)}
    assert [len(payloads) for payloads in heard] == [50, 50, 50]


def test_ordinary_subscriptions_and_other_groups_get_their_own_copies() -> None:
    """MQTT 5 section 4.8.2: shared subscriptions are apart from each other and from the ordinary ones."""
    bench = Bench()
    both, one, other = bench.connect("both"), bench.connect("one"), bench.connect("other")
    both.subscribe(wanted("t", 1), subscription_id=1)
    both.subscribe(wanted(SHARED, 1), subscription_id=2)
    one.subscribe(wanted("$share/other/+", 0), subscription_id=3)
    other.subscribe(wanted("$share/g/#", 0))  # the same name with another filter is another subscription
    flood(bench, 2)
    assert [(int(p.qos), p.subscription_ids) for p in both.published()] == [(1, [1]), (1, [2])] * 2
    assert [(p.payload, p.subscription_ids) for p in one.published()] == [(b"1", [3]), (b"2", [3])]
    assert other.payloads() == [b"1", b"2"]


def test_a_publisher_that_is_a_member_may_get_its_own_message() -> None:
    bench = Bench()
    peer = bench.connect("a")
    peer.subscribe(SHARED)
    peer.send(publish("t", b"own"))
    assert peer.payloads() == [b"own"]


def test_retained_messages_do_not_come_with_a_shared_subscription() -> None:
    """MQTT 5 section 3.8.4."""
    bench = Bench()
    bench.connect("source").send(publish("t", b"kept", retain=True))
    peer = bench.connect("a")
    assert peer.subscribe(SHARED) == [1]
    assert peer.published() == []


def test_retain_as_published_is_an_option_of_each_member() -> None:
    bench = Bench()
    peer = bench.connect("a")
    peer.subscribe(wanted(SHARED, retain_as_published=True))
    bench.connect("source").send(publish("t", retain=True), publish("t"))
    assert [packet.retain for packet in peer.published()] == [True, False]


@pytest.mark.parametrize("pattern", ["$share/", "$share/g", "$share/g/", "$share//t", "$share/+/t", "$share/#"])
def test_a_malformed_shared_subscription_is_refused_alone(pattern: str) -> None:
    """MQTT 5 section 4.8.2."""
    peer = Bench().connect("a")
    assert peer.subscribe("x", pattern, SHARED) == [1, 0x8F, 1]


def test_no_local_on_a_shared_subscription_is_a_protocol_error() -> None:
    """MQTT 5 section 3.8.3.1."""
    bench = Bench()
    peer = bench.connect("a")
    peer.send(SubscribePacket(1, [wanted("x"), wanted(SHARED, no_local=True)]))
    (farewell,) = peer.heard()
    assert isinstance(farewell, DisconnectPacket)
    assert farewell.reason_code == DisconnectReasonCode.PROTOCOL_ERROR
    assert bench.broker.router.subscriptions == 0


def test_permission_is_asked_for_the_filter_without_the_group() -> None:
    guard = Guard()
    guard.forbid("subscribe", "t")
    peer = Bench(access=guard).connect("a")
    assert peer.subscribe(SHARED, "$share/t/u") == [0x87, 1]


# -- members that leave ------------------------------------------------------------------------------------------------


def test_what_an_ended_member_leaves_unacknowledged_goes_to_the_others() -> None:
    bench = Bench()
    leaver, stayer = bench.connect("leaver", receive_max=2), bench.connect("stayer")
    leaver.subscribe(SHARED)
    flood(bench, 5)
    assert leaver.payloads() == [b"1", b"2"]  # and three wait
    stayer.subscribe(SHARED)
    leaver.cut()
    assert acknowledge(stayer) == [b"1", b"2", b"3", b"4", b"5"]
    assert not any(packet.duplicate for packet in stayer.published())


def test_what_a_member_that_went_away_has_not_acknowledged_goes_to_who_is_there() -> None:
    bench = Bench()
    leaver, stayer = bench.resume("leaver", receive_max=2), bench.connect("stayer")
    leaver.subscribe(SHARED)
    flood(bench, 4)
    stayer.subscribe(SHARED)
    leaver.cut()
    assert stayer.payloads() == [b"1", b"2", b"3", b"4"]
    assert leaver.payloads() == [b"1", b"2"]
    assert bench.resume("leaver").published() == []


def test_what_nobody_else_may_receive_stays_with_its_member() -> None:
    guard = Guard()
    bench = Bench(access=guard)
    leaver, other = bench.resume("leaver"), bench.connect("other")
    leaver.subscribe(SHARED)
    flood(bench, 2)
    other.subscribe(SHARED)
    guard.forbid("receive", "t", "other")
    leaver.cut()
    assert other.published() == []
    assert bench.resume("leaver").payloads() == [b"1", b"2"]


def test_what_came_of_a_group_that_is_gone_stays_with_who_was_sent_it() -> None:
    """MQTT 5 section 3.10.4: what was begun is completed."""
    bench = Bench()
    peer, other = bench.resume("a"), bench.connect("other")
    for each in (peer, other):
        each.subscribe("$share/other/t")
    peer.subscribe(SHARED)
    flood(bench, 1)
    peer.send(UnsubscribePacket(2, [SHARED]))
    peer.heard()
    peer.cut()
    assert b"1" in bench.resume("a").payloads()


def test_a_member_alone_keeps_what_is_its_own_while_it_is_away() -> None:
    bench = Bench()
    peer = bench.resume("a")
    peer.subscribe(SHARED)
    flood(bench, 2)
    peer.cut()
    flood(bench, 2, first=3)
    again = bench.resume("a")
    assert [(p.payload, p.duplicate) for p in again.published()] == [
        (b"1", True), (b"2", True), (b"3", False), (b"4", False),
    ]  # fmt: skip


def test_while_a_member_is_away_the_others_get_everything() -> None:
    bench = Bench()
    away, here = bench.resume("away"), bench.connect("here")
    for peer in (away, here):
        peer.subscribe(SHARED)
    away.cut()
    flood(bench, 4)
    assert acknowledge(here) == [b"1", b"2", b"3", b"4"]
    assert bench.resume("away").published() == []


def test_qos_2_that_was_sent_stays_with_its_member_and_what_waits_does_not() -> None:
    """MQTT 5 section 4.8.2: it is completed when the client reconnects, or never."""
    bench = Bench()
    leaver, stayer = bench.resume("leaver", receive_max=2), bench.connect("stayer")
    leaver.subscribe(wanted(SHARED, 2))
    flood(bench, 3, qos=2)
    leaver.send(PubRecPacket(1))
    stayer.subscribe(wanted(SHARED, 2))
    leaver.cut()
    assert stayer.payloads() == [b"3"]
    again = only(bench.resume("leaver").heard(), PublishPacket)
    assert [(packet.payload, packet.duplicate) for packet in again] == [(b"2", True)]


def test_what_a_session_is_owed_goes_to_the_others_when_its_time_is_over() -> None:
    bench = Bench()
    first, second = bench.resume("first"), bench.resume("second", session_expiry_interval=7_200)
    for peer in (first, second):
        peer.subscribe(SHARED)
        peer.cut()
    flood(bench, 4)
    bench.wait(3_600)
    assert bench.broker.sessions == 1
    assert sorted(bench.resume("second").payloads()) == [b"1", b"2", b"3", b"4"]


def test_a_member_too_slow_for_what_another_leaves_is_disconnected_and_the_rest_goes_on() -> None:
    bench = Bench(Limits(queue_messages=2))
    leaver, slow = bench.connect("leaver", receive_max=4), bench.connect("slow", receive_max=1)
    leaver.subscribe(SHARED)
    flood(bench, 6)
    slow.subscribe(SHARED)
    leaver.cut()
    assert slow.closed
    heard = slow.heard()
    assert [packet.payload for packet in only(heard, PublishPacket)] == [b"1"]
    assert only(heard, DisconnectPacket)[0].reason_code == DisconnectReasonCode.QUOTA_EXCEEDED


def test_a_member_whose_line_is_full_leaves_the_message_to_another() -> None:
    bench = Bench(Limits(queue_messages=1))
    slow, quick = bench.connect("slow", receive_max=1), bench.connect("quick", receive_max=1)
    for peer in (slow, quick):
        peer.subscribe(SHARED)
    flood(bench, 4)
    assert (slow.payloads(), quick.payloads()) == ([b"1"], [b"2"])
    quick.send(PubAckPacket(1))
    assert quick.payloads() == [b"4"]
    slow.send(PubAckPacket(1))
    assert slow.payloads() == [b"3"]


def test_nothing_is_left_of_a_group_without_members() -> None:
    bench = Bench()
    peers = [bench.connect("a"), bench.connect("b")]
    for peer in peers:
        peer.subscribe(SHARED, "$share/other/t")
        peer.cut()
    router = bench.broker.router
    assert (router.subscriptions, router._groups, len(router._tree)) == (0, {}, 0)


def test_a_group_is_found_again_after_it_was_empty() -> None:
    bench = Bench()
    for number in range(2):
        peer = bench.connect("a")
        peer.subscribe(SHARED)
        bench.broker.publish([Message("t", b"%d" % number)])
        assert peer.payloads() == [b"%d" % number]
