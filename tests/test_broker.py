"""Many clients on one broker: delivery, messages to one, changed permissions, slow consumers, and the farewell."""

import pytest
from mqtt5 import (
    ConnAckPacket,
    ConnAckReasonCode,
    ConnectPacket,
    DisconnectPacket,
    DisconnectReasonCode,
    PubAckPacket,
    PublishPacket,
    Will,
)

from core.message import Message, Properties
from core.mqtt import broker as broker_module
from core.mqtt import retained as retained_module
from core.mqtt.limits import Limits
from core.mqtt.presence import Presence
from tests.mqtt_peers import Bench, Guard, Peer, only, publish, publish_2, wanted

both_versions = pytest.mark.parametrize("version", [5, 4])


def farewell(peer: Peer) -> DisconnectReasonCode:
    """The reason in the DISCONNECT that is the last thing a closed client heard."""
    assert peer.closed
    packet = peer.heard()[-1]
    assert isinstance(packet, DisconnectPacket)
    return packet.reason_code


# -- take-over ---------------------------------------------------------------------------------------------------------


@both_versions
def test_whoever_connects_with_an_identifier_in_use_takes_it_over(version: int) -> None:
    bench = Bench()
    former, witness = bench.connect("a", version), bench.connect("w")
    former.subscribe("t")
    successor = bench.connect("a")
    assert former.closed
    said = [DisconnectPacket(reason_code=DisconnectReasonCode.SESSION_TAKEN_OVER)]
    assert former.heard() == (said if version == 5 else [])
    witness.send(publish("t"))
    assert former.heard() == []
    assert successor.published() == []  # subscriptions were the former's
    former.cut()  # the former's socket closes later: that must not touch the successor
    assert [presence.client_id for presence in bench.broker.clients()] == ["w", "a"]
    assert successor.subscribe("t") == [1]
    witness.send(publish("t"))
    assert len(successor.published()) == 1


def test_who_is_refused_takes_nothing_over() -> None:
    bench = Bench()
    peer = bench.connect("a")
    bench.open().send(ConnectPacket("a", authentication_method="x"))
    assert not peer.closed


def test_a_client_that_is_taken_over_again_and_again_leaves_nothing_behind() -> None:
    bench = Bench()
    peers = [bench.resume("a") for _ in range(20)]
    assert [peer.closed for peer in peers] == [True] * 19 + [False]
    for peer in peers:
        peer.cut()
    assert (bench.broker.sessions, len(bench.broker._connections), bench.broker._clients) == (1, 0, {})


# -- delivery ----------------------------------------------------------------------------------------------------------


def test_subscribers_hear_messages_before_anyone_has_stored_them() -> None:
    bench = Bench(settle=False)
    peer, witness = bench.connect("a"), bench.connect("w")
    witness.subscribe("t")
    peer.send(publish("t", b"x", 1))
    assert len(witness.published()) == 1
    assert peer.heard() == []


@pytest.mark.parametrize("sender", [5, 4])
@pytest.mark.parametrize("receiver", [5, 4])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_every_message_comes_over_in_every_pair_of_versions(sender: int, receiver: int, qos: int) -> None:
    bench = Bench()
    peer, source = bench.connect("a", receiver), bench.connect("b", sender)
    peer.subscribe(wanted("t/#", 2))
    payloads = [b"", b"\0\xff", bytes(100_000)]
    for number, payload in enumerate(payloads, 1):
        packet = [publish("t", payload), publish("t", payload, number), publish_2("t", payload, number)][qos]
        source.send(packet)
    assert [(p.payload, int(p.qos)) for p in peer.published()] == [(payload, qos) for payload in payloads]


def test_properties_come_over_to_an_mqtt_5_subscriber_as_they_were_said() -> None:
    bench = Bench()
    new, old = bench.connect("new"), bench.connect("old", 4)
    for peer in (new, old):
        peer.subscribe(wanted("t", 0))
    said = publish(
        "t", b"x", payload_format_indicator=1, content_type="c", response_topic="r", correlation_data=b"d",
        user_properties=[("k", "1"), ("j", ""), ("k", "2")], message_expiry_interval=9,
    )  # fmt: skip
    bench.connect("b").send(said)
    assert new.published() == [said]
    assert old.published() == [publish("t", b"x")]


def test_no_topic_that_begins_with_a_dollar_reaches_a_wildcard() -> None:
    bench = Bench()
    peer = bench.connect("a")
    peer.subscribe("#", "+/x", wanted("$mine/#", 0))
    bench.broker.publish([Message("$mine/x", b""), Message("$other/x", b"")])
    assert [packet.topic for packet in peer.published()] == ["$mine/x"]


# -- retained messages -------------------------------------------------------------------------------------------------


def test_a_retained_message_is_replaced_and_cleared_by_whoever_publishes() -> None:
    bench = Bench()
    peer = bench.connect("a")
    for payload, expected in [(b"1", [b"1"]), (b"2", [b"2"]), (b"", [])]:
        peer.send(publish("t", payload, retain=True))
        witness = bench.connect("w")
        witness.subscribe("#")
        assert witness.payloads() == expected


def test_a_retained_message_that_finds_no_room_is_delivered_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    monkeypatch.setattr(retained_module, "RETAINED_MAX", len(bench.broker.retained) + 1)
    peer = bench.connect("a")
    peer.subscribe("#")
    peer.send(publish("kept", retain=True), publish("too many", retain=True))
    assert [packet.topic for packet in peer.published()] == ["kept", "too many"]
    assert bench.dropped("retained store full") == 1
    assert bench.broker.retained.get("too many") is None


def test_a_retained_message_expires_for_who_comes_later_and_is_then_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broker_module, "RETAINED_SECONDS", 5.0)
    bench = Bench()
    bench.connect("b").send(publish("t", b"kept", retain=True, message_expiry_interval=30))
    for waited, expected in [(0, [30]), (29, [1]), (1, [])]:
        bench.wait(waited)
        peer = bench.connect("a")
        peer.subscribe("t")
        assert [packet.message_expiry_interval for packet in peer.published()] == expected
    bench.wait(5)
    assert bench.broker.retained.get("t") is None


# -- to one client -----------------------------------------------------------------------------------------------------


def test_a_message_may_be_sent_to_one_client_alone_as_its_subscriptions_say() -> None:
    bench = Bench()
    one, other = bench.connect("one"), bench.connect("other")
    one.subscribe(wanted("$aws/things/+/x", 1), subscription_id=4)
    other.subscribe(wanted("$aws/things/#", 1))
    message = Message("$aws/things/t/x", b"for one", properties=Properties(correlation_data=b"c"))
    assert bench.broker.reply(one.connection, message)
    (packet,) = one.published()
    assert (packet.payload, int(packet.qos), packet.subscription_ids) == (b"for one", 0, [4])
    assert packet.correlation_data == b"c"
    assert other.published() == []


def test_nothing_is_sent_to_a_client_that_has_not_subscribed_or_is_not_known_or_may_not_receive() -> None:
    guard = Guard()
    guard.forbid("receive", "secret")
    bench = Bench(access=guard)
    peer = bench.connect("a")
    peer.subscribe("t", "$share/g/u", "secret")
    assert not bench.broker.reply(peer.connection, Message("u", b""))
    assert not bench.broker.reply(peer.connection, Message("secret", b""))
    assert peer.published() == []


def test_a_reply_is_for_the_connection_that_asked_and_not_for_who_goes_on_with_its_session() -> None:
    bench = Bench()
    asked = bench.resume("a")
    asked.subscribe("t")
    asked.connection.congested = True
    assert bench.broker.reply(asked.connection, Message("t", b"for it alone"))
    asked.cut()
    other = bench.resume("a")
    assert not bench.broker.reply(asked.connection, Message("t", b"too late"))
    assert (asked.payloads(), other.payloads()) == ([], [])


# -- permissions that change -------------------------------------------------------------------------------------------


def test_what_waits_for_a_live_client_is_not_sent_when_it_is_forbidden_meanwhile() -> None:
    guard = Guard()
    bench = Bench(access=guard)
    peer = bench.connect("a", receive_max=1)
    peer.subscribe("#")
    bench.connect("b").send(publish("t", b"1", 1), publish("secret", b"2", 2), publish("t", b"3", 3))
    (first,) = peer.published()
    guard.forbid("receive", "secret")
    bench.broker.recheck()
    peer.send(PubAckPacket(first.packet_id or 0))
    assert peer.payloads() == [b"3"]
    assert bench.dropped("not authorized") == 1


@pytest.mark.parametrize("version", [5, 4])
def test_no_will_is_left_where_a_publish_is_a_request(version: int) -> None:
    bench = Bench()
    peer = bench.open(version)
    peer.send(ConnectPacket("a", clean_start=True, will=Will("$aws/certificates/create/json/accepted", payload=b"x")))
    (answer,) = only(peer.heard(), ConnAckPacket)
    assert answer.reason_code == ConnAckReasonCode.NOT_AUTHORIZED
    assert peer.closed


@both_versions
def test_a_recheck_ends_the_connections_of_those_whose_access_was_revoked(version: int) -> None:
    guard = Guard()
    bench = Bench(access=guard)
    revoked, other = bench.connect("revoked", version), bench.connect("other", version)
    guard.revoked.add("revoked")
    bench.broker.recheck()
    assert revoked.closed
    said = [DisconnectPacket(reason_code=DisconnectReasonCode.NOT_AUTHORIZED)]
    assert revoked.heard() == (said if version == 5 else [])
    assert not other.closed


@pytest.mark.parametrize("pattern", ["secret/+", "$share/g/secret/+"])
def test_a_recheck_ends_the_connections_of_those_whose_subscriptions_are_not_allowed_any_more(pattern: str) -> None:
    guard = Guard()
    bench = Bench(access=guard)
    subscriber, other = bench.connect("subscriber"), bench.connect("other")
    subscriber.subscribe("t", pattern)
    other.subscribe("t")
    guard.forbid("subscribe", "secret")
    bench.broker.recheck()
    assert farewell(subscriber) == DisconnectReasonCode.NOT_AUTHORIZED
    assert not other.closed


def test_what_may_be_received_is_asked_anew_after_a_recheck() -> None:
    guard = Guard()
    bench = Bench(access=guard)
    peer = bench.connect("a")
    peer.subscribe("#")
    bench.broker.publish([Message("secret", b"1")])
    guard.forbid("receive", "secret")
    bench.broker.recheck()
    bench.broker.publish([Message("secret", b"2"), Message("t", b"3")])
    assert peer.payloads() == [b"1", b"3"]


def test_a_recheck_leaves_alone_who_is_not_admitted_yet() -> None:
    guard = Guard(later=True)
    bench = Bench(access=guard)
    stranger, waiting = bench.open(), bench.open()
    waiting.send(ConnectPacket("a"))
    bench.broker.recheck()
    guard.waiting[0]()
    assert (stranger.closed, waiting.closed) == (False, False)


# -- slow consumers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [1, 2])
def test_a_client_that_never_acknowledges_is_disconnected_and_the_others_are_not(qos: int) -> None:
    bench = Bench(Limits(inflight=10, queue_messages=50))
    slow, quick, source = bench.connect("slow"), bench.connect("quick"), bench.connect("source")
    slow.subscribe(wanted("t", qos))
    quick.subscribe(wanted("t", 0))
    total = 65
    source.send(*[publish_2("t", b"%d" % n, n) for n in range(1, total + 1)])
    heard = slow.heard()
    assert [type(packet) for packet in heard] == [PublishPacket] * 10 + [DisconnectPacket]
    assert only(heard, DisconnectPacket)[0].reason_code == DisconnectReasonCode.QUOTA_EXCEEDED
    assert slow.closed
    assert len(quick.published()) == total
    assert len(source.heard()) == total
    assert bench.counters.value("mqtt_slow_consumers_total") == 1


def test_a_slow_client_with_a_session_finds_what_had_room_when_it_comes_back() -> None:
    bench = Bench(Limits(queue_messages=3))
    slow = bench.resume("slow", receive_max=1)
    slow.subscribe("t")
    source = bench.connect("source")
    source.send(*[publish("t", b"%d" % n, n) for n in range(1, 7)])
    assert farewell(slow) == DisconnectReasonCode.QUOTA_EXCEEDED
    slow.cut()
    assert bench.resume("slow").payloads() == [b"1", b"2", b"3", b"4"]
    assert bench.dropped("slow subscriber") == 2


def test_a_slow_client_loses_qos_0_first_and_that_is_counted() -> None:
    bench = Bench(Limits(queue_messages=100))
    slow, source = bench.connect("slow", receive_max=1), bench.connect("source")
    slow.subscribe("t")
    source.send(publish("t", b"", 1))
    source.send(*[publish("t") for _ in range(100)], publish("t", b"", 2))
    assert len(slow.heard()) == 1 + 100  # QoS 0 does not wait for a PUBACK
    slow.connection.congested = True
    source.send(*[publish("t") for _ in range(100)], publish("t", b"", 3))
    assert not slow.closed
    assert bench.dropped("slow subscriber") == 2


# -- attacks on the state machine --------------------------------------------------------------------------------------


def test_a_client_that_subscribes_to_everything_and_to_events_hears_no_echo_without_end() -> None:
    bench = Bench()
    peer = bench.connect("a")
    peer.subscribe("#", "$aws/#", "$SYS/#")
    peer.send(publish("t"))
    bench.wait(10)
    assert [packet.topic for packet in peer.published()].count("t") == 1
    assert len(bench.batches) == 1


def test_a_will_that_a_take_over_publishes_may_reach_the_one_who_takes_over() -> None:
    bench = Bench()
    former = bench.resume("a", will=Will("gone/a", payload=b"bye"))
    former.subscribe(wanted("gone/#", 0), wanted("$aws/events/presence/#", 1))
    successor = bench.resume("a", will=Will("gone/a", payload=b"bye again"))
    former.cut()
    assert "$aws/events/presence/disconnected/a" in [packet.topic for packet in successor.published()]
    assert [message.payload for message in bench.accepted] == [b"bye"]


def test_acknowledgements_of_everything_that_was_never_sent_are_counted_and_cost_nothing() -> None:
    bench = Bench()
    peer = bench.connect("a")
    peer.send(*[PubAckPacket(n) for n in range(1, 1_001)])
    assert peer.heard() == []
    assert bench.counters.value("mqtt_unknown_acknowledgements_total") == 1_000
    assert not peer.closed


# -- the operator's view, and the end ----------------------------------------------------------------------------------


def test_the_operator_sees_who_is_connected() -> None:
    bench = Bench(settle=False)
    new, _old = bench.connect("new", 5, principal="press-1"), bench.connect("old", 4)
    bench.open()  # not admitted, so not there
    new.subscribe("a", "b")
    bench.broker.publish([Message("a", b"", 1)])
    new.send(publish("t", bytes(100)))
    assert bench.broker.clients() == [
        Presence("new", "press-1", "10.0.0.7:50000", "5", 2, new.connection.unsettled, 1),
        Presence("old", "anonymous", "10.0.0.7:50000", "3.1.1", 0, 0, 0),
    ]
    assert new.connection.unsettled >= 100
    assert bench.counters.value("mqtt_connections_total") == 3


def test_a_shutdown_tells_every_mqtt_5_client_and_closes_all() -> None:
    bench = Bench()
    new, old, stranger = bench.connect("new", 5), bench.connect("old", 4), bench.open()
    bench.broker.shut_down()
    assert all(peer.closed for peer in (new, old, stranger))
    assert new.heard() == [DisconnectPacket(reason_code=DisconnectReasonCode.SERVER_SHUTTING_DOWN)]
    assert old.heard() == stranger.heard() == []


@pytest.mark.parametrize("clean", [True, False])
def test_nothing_is_left_of_a_client_that_is_gone_for_good(clean: bool) -> None:
    bench = Bench()
    for version in (5, 4):
        peer = bench.connect("a", version, clean_start=clean, session_expiry_interval=0 if clean else 60,
                             will=Will("gone", will_delay_interval=9))  # fmt: skip
        peer.subscribe("t", "#", "$share/g/t")
        peer.send(publish_2("t", b"", 1))
        peer.cut()
        bench.wait(31 * 86_400)
    stranger = bench.open()
    stranger.cut()
    broker = bench.broker
    assert (broker.clients(), broker.sessions, broker.queued_bytes, broker.unsettled) == ([], 0, 0, 0)
    assert (broker._connections, broker._clients, broker._away, broker._wills._waiting) == (set(), {}, {}, {})
    assert (broker.router.subscriptions, broker.router._groups, len(broker.router._tree)) == (0, {}, 0)
