"""SUBSCRIBE and UNSUBSCRIBE: each filter is answered for itself, and retained messages follow as asked for."""

import pytest
from mqtt5 import (
    DisconnectPacket,
    DisconnectReasonCode,
    Packet,
    PubAckPacket,
    RetainHandling,
    SubAckPacket,
    SubscribePacket,
    UnsubAckPacket,
    UnsubscribePacket,
)

from core import topics
from core.message import Message
from core.mqtt import subscribing
from core.mqtt.limits import Limits
from tests.mqtt_peers import Bench, Guard, Peer, forged, only, publish, publish_2, wanted

both_versions = pytest.mark.parametrize("version", [5, 4])


def secretive() -> Guard:
    """Nobody may subscribe to `secret`."""
    guard = Guard()
    guard.forbid("subscribe", "secret")
    return guard


def answer_to(peer: Peer, packet: Packet) -> Packet:
    peer.send(packet)
    (answer,) = peer.heard()
    return answer


# -- what is granted ---------------------------------------------------------------------------------------------------


@both_versions
def test_nobody_subscribes_to_what_is_for_rules_alone(version: int) -> None:
    bench = Bench()
    peer = bench.connect("a", version)
    closed = 0x87 if version == 5 else 0x80
    filters = ("$aws/rules/#", "$aws/rules/Hot/t", "$aws/rules/+/t", "$share/g/$aws/rules/#", "$aws/events/#")
    assert peer.subscribe(*filters) == [closed] * 4 + [1]
    assert bench.broker.router.subscriptions == 1


@both_versions
def test_subscribing_answers_each_filter_in_order(version: int) -> None:
    bench = Bench(access=secretive())
    peer = bench.connect("a", version)
    codes = peer.subscribe(wanted("a", 0), wanted("b", 1), wanted("c", 2), "secret/#", "$share/group/t")
    assert codes == [0, 1, 2, 0x87 if version == 5 else 0x80, 1]
    assert bench.broker.router.subscriptions == 4


@pytest.mark.parametrize("pattern", ["a/#/b", "a+", "#a", "a\0b", "/" * 200])
def test_an_invalid_filter_is_refused_alone_in_mqtt_5_and_malformed_in_3_1_1(pattern: str) -> None:
    bench = Bench()
    new, old = bench.connect("a", 5), bench.connect("b", 4)
    for version, peer in [(5, new), (4, old)]:
        peer.feed(forged(version, lambda f: SubscribePacket(1, [wanted("x"), wanted(f), wanted("y")]), pattern))
    (answer,) = new.heard()
    assert isinstance(answer, SubAckPacket)
    assert [int(code) for code in answer.reason_codes] == [1, 0x8F, 1]
    old.assert_ended(DisconnectReasonCode.TOPIC_FILTER_INVALID)
    assert bench.broker.router.subscriptions == 2


def test_a_filter_of_the_right_kind_beside_a_malformed_packet_is_not_granted() -> None:
    peer = (bench := Bench()).connect("a")
    peer.feed(SubscribePacket(1, [wanted("t")], subscription_id=1).write().replace(b"\x0b\x01", b"\x0b\x00"))
    peer.assert_ended(DisconnectReasonCode.MALFORMED_PACKET)  # identifier 0 (MQTT 5 section 3.8.2.1.2)
    assert bench.broker.router.subscriptions == 0


def test_one_client_has_a_bounded_number_of_subscriptions() -> None:
    bench = Bench(Limits(subscriptions=250))
    peer = bench.connect("a")
    for start in range(0, 250, 50):
        assert peer.subscribe(*[f"t/{n}" for n in range(start, start + 50)]) == [1] * 50
    assert peer.subscribe("one too many", "$share/g/t") == [0x97, 0x97]
    assert peer.subscribe("t/5") == [1]  # an old one again
    assert bench.connect("b").subscribe("t") == [1]
    assert bench.broker.router.subscriptions == 251
    peer.send(UnsubscribePacket(1, ["t/7"]))
    peer.heard()
    assert peer.subscribe("room again") == [1]


# -- identifiers and overlaps ------------------------------------------------------------------------------------------


def test_a_message_names_every_subscription_of_its_client_that_it_matched_in_one_copy() -> None:
    """MQTT 5 sections 3.3.2.3.8 and 3.3.4."""
    bench = Bench()
    peer = bench.connect("a")
    for pattern, identifier, qos in [("#", 1, 0), ("t/+", 268_435_455, 2), ("t/x", 7, 1)]:
        assert peer.subscribe(wanted(pattern, qos), subscription_id=identifier) == [qos]
    peer.subscribe("t/x/#")
    bench.connect("b").send(publish_2("t/x", b"", 1), publish("u", b"", 2))
    assert [(p.topic, int(p.qos), sorted(p.subscription_ids)) for p in peer.published()] == [
        ("t/x", 2, [1, 7, 268_435_455]),
        ("u", 0, [1]),
    ]


def test_subscribing_again_replaces_the_identifier_and_the_options() -> None:
    """MQTT 5 section 3.8.4."""
    bench = Bench()
    peer = bench.connect("a")
    peer.subscribe(wanted("t", 1), subscription_id=5)
    bench.connect("b").send(publish("t", b"1", 1))
    peer.subscribe(wanted("t", 0), subscription_id=6)
    bench.connect("b").send(publish("t", b"2", 1))
    peer.subscribe(wanted("t", 0))
    bench.connect("b").send(publish("t", b"3", 1))
    assert [(int(p.qos), p.subscription_ids) for p in peer.published()] == [(1, [5]), (0, [6]), (0, [])]
    assert bench.broker.router.subscriptions == 1


def test_retained_messages_carry_the_identifier_of_their_subscription_only() -> None:
    bench = Bench()
    bench.connect("b").send(publish("t", b"kept", retain=True))
    peer = bench.connect("a")
    for identifier, pattern in [(1, "#"), (2, "t")]:
        peer.subscribe(pattern, subscription_id=identifier)
    assert [packet.subscription_ids for packet in peer.published()] == [[1], [2]]


def test_filters_of_one_packet_share_its_identifier() -> None:
    peer = (bench := Bench()).connect("a")
    peer.subscribe("x", "y", subscription_id=9)
    bench.connect("b").send(publish("x"), publish("y"))
    assert [(packet.topic, packet.subscription_ids) for packet in peer.published()] == [("x", [9]), ("y", [9])]


# -- ends --------------------------------------------------------------------------------------------------------------


@both_versions
def test_unsubscribing_ends_delivery(version: int) -> None:
    bench = Bench()
    peer, other = bench.connect("a", version), bench.connect("b")
    peer.subscribe("t", "u")
    answer = answer_to(peer, UnsubscribePacket(9, ["t", "never"]))
    assert isinstance(answer, UnsubAckPacket)
    assert answer.packet_id == 9
    assert [int(code) for code in answer.reason_codes] == ([0, 17] if version == 5 else [])
    other.send(publish("t"), publish("u"))
    assert [packet.topic for packet in peer.published()] == ["u"]


# -- retained messages -------------------------------------------------------------------------------------------------


def test_retained_messages_follow_the_suback() -> None:
    bench = Bench()
    bench.connect("b").send(publish("t/1", b"kept", 1, retain=True), publish("t/2", b"kept", retain=True))
    for version in (5, 4):
        peer = bench.connect("a", version)
        peer.send(SubscribePacket(3, [wanted("t/+", 1)]))
        suback, *messages = peer.heard()
        assert isinstance(suback, SubAckPacket)
        assert messages == [
            publish("t/1", b"kept", 1, retain=True),
            publish("t/2", b"kept", retain=True),
        ]


@pytest.mark.parametrize(
    ("handling", "first", "again"),
    [
        (RetainHandling.SEND_ALWAYS, 1, 1),
        (RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS, 1, 0),
        (RetainHandling.SEND_NEVER, 0, 0),
    ],
)
def test_retain_handling_decides_whether_retained_messages_come(
    handling: RetainHandling, first: int, again: int
) -> None:
    bench = Bench()
    bench.connect("b").send(publish("t", b"kept", retain=True))
    peer = bench.connect("a")
    for expected in (first, again):
        assert peer.subscribe(wanted("t", retain_handling=handling)) == [1]
        assert [packet.retain for packet in peer.published()] == [True] * expected


@pytest.mark.parametrize("verb", ["subscribe", "receive"])
def test_nobody_gets_retained_messages_that_it_may_not_have(verb: str) -> None:
    guard = Guard()
    guard.forbid(verb, "secret")
    bench = Bench(access=guard)
    bench.broker.publish([Message("secret/key", b"42", retain=True)])
    peer = bench.connect("a")
    assert peer.subscribe("secret/#") == [0x87 if verb == "subscribe" else 1]
    assert peer.published() == []


def test_a_client_that_does_not_want_to_hear_itself_does_not_hear_what_it_retained() -> None:
    """MQTT 5 section 3.8.3.1."""
    bench = Bench()
    one, other = bench.connect("one"), bench.connect("other")
    one.send(publish("t", b"kept", retain=True))
    for peer in (one, other):
        peer.subscribe(wanted("t", no_local=True))
    assert (one.payloads(), other.payloads()) == ([], [b"kept"])


@pytest.mark.parametrize("asked", [0, 1, 2])
def test_a_retained_message_comes_with_the_lower_quality_of_service(asked: int) -> None:
    bench = Bench()
    bench.connect("b").send(publish_2("t/2", b"2", 2, retain=True), publish("t/1", b"1", 1, retain=True))
    peer = bench.connect("a")
    peer.subscribe(wanted("t/+", asked))
    assert {p.payload: int(p.qos) for p in peer.published()} == {b"2": min(2, asked), b"1": min(1, asked)}


def test_retained_messages_wait_for_a_client_that_takes_few_at_once_however_many_they_are() -> None:
    bench = Bench(Limits(queue_messages=5))
    source = bench.connect("b")
    for n in range(1, 51):
        source.send(publish(f"t/{n}", b"%d" % n, n, retain=True))
    peer = bench.connect("a", receive_max=1)
    peer.subscribe("t/+")
    heard: list[bytes] = []
    while packets := peer.published():
        assert len(packets) == 1
        heard.append(packets[0].payload)
        peer.send(PubAckPacket(packets[0].packet_id or 0))
    assert sorted(heard) == sorted(b"%d" % n for n in range(1, 51))
    assert not peer.closed


def test_a_filter_that_stands_in_a_packet_many_times_brings_its_retained_messages_once() -> None:
    bench = Bench()
    bench.connect("b").send(publish("t", b"kept", 1, retain=True))
    peer = bench.connect("a")
    assert peer.subscribe(*[wanted("t", qos) for qos in (0, 1, 2, 1)]) == [0, 1, 2, 1]
    assert [(p.payload, int(p.qos)) for p in peer.published()] == [(b"kept", 1)]


def test_subscribing_again_and_again_without_taking_what_comes_ends_like_any_slowness() -> None:
    bench = Bench(Limits(queue_messages=100))
    source = bench.connect("b")
    for n in range(1, 51):
        source.send(publish(f"t/{n}", b"x", n, retain=True))
    peer = bench.connect("a", receive_max=1)
    for packet_id in range(1, 10):
        peer.send(SubscribePacket(packet_id, [wanted("t/+")]))
        assert bench.broker._sessions["a"].in_line <= 100
        if peer.closed:
            break
    assert only(peer.heard(), DisconnectPacket)[0].reason_code == DisconnectReasonCode.QUOTA_EXCEEDED


def test_nobody_is_owed_more_retained_messages_at_once_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscribing, "RETAINED_MAX", 20)
    bench = Bench()
    source = bench.connect("b")
    for n in range(1, 11):
        source.send(publish(f"t/{n}", b"x", n, retain=True))
    peer = bench.connect("a")
    peer.send(SubscribePacket(1, [wanted(pattern) for pattern in ("t/+", "t/#", "+/+")]))
    peer.assert_ended(DisconnectReasonCode.QUOTA_EXCEEDED)


def test_what_the_filters_of_a_client_may_cost_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscribing, "FILTERS_BYTES_MAX", 3 * topics.footprint("a/b"))
    bench = Bench()
    peer = bench.connect("a")
    assert peer.subscribe("a/1", "a/2", "a/3", "a/4", "a/1") == [1, 1, 1, 0x97, 1]
    peer.send(UnsubscribePacket(2, ["a/2"]))
    peer.heard()
    assert peer.subscribe("a/4") == [1]


def test_retain_as_published_and_no_local_are_options_of_mqtt_5() -> None:
    bench = Bench()
    peer = bench.connect("a")
    assert peer.subscribe(wanted("own/#", no_local=True), wanted("kept", retain_as_published=True)) == [1, 1]
    peer.send(publish("own/1"), publish("kept", retain=True))
    bench.connect("b").send(publish("own/2"), publish("kept"))
    assert [(p.topic, p.retain) for p in peer.published()] == [("kept", True), ("own/2", False), ("kept", False)]
