"""Many clients on one broker: take-over, wills, retained messages, slow consumers, and the farewell."""

import pytest
from mqtt5 import (
    ConnectPacket,
    DisconnectPacket,
    DisconnectReasonCode,
    PubAckPacket,
    PublishPacket,
    QoS,
    Will,
)

from core.message import Message, Properties
from core.mqtt import router as router_module
from core.mqtt.broker import Presence
from core.mqtt.session import INFLIGHT_MAX, WAITING_MAX
from tests.mqtt_peers import Bench, only, publish, wanted

both_versions = pytest.mark.parametrize("version", [5, 4])
WILL = Will("gone/a", payload=b"bye", qos=QoS.AT_LEAST_ONCE)


# -- take-over ---------------------------------------------------------------------------------------------------------


@both_versions
def test_whoever_connects_with_an_identifier_in_use_takes_it_over(version: int) -> None:
    bench = Bench()
    former, witness = bench.connect("a", version), bench.connect("w")
    former.subscribe("t")
    successor = bench.connect("a")
    assert former.closed
    farewell = [DisconnectPacket(reason_code=DisconnectReasonCode.SESSION_TAKEN_OVER)]
    assert former.heard() == (farewell if version == 5 else [])
    witness.send(publish("t"))
    assert former.heard() == []
    assert successor.published() == []  # subscriptions were the former's
    former.cut()  # the former's socket closes later: that must not touch the successor
    assert [presence.client_id for presence in bench.broker.clients()] == ["w", "a"]
    assert successor.subscribe("t") == [1]
    witness.send(publish("t"))
    assert len(successor.published()) == 1


def test_a_take_over_publishes_the_will_once() -> None:
    bench = Bench()
    former = bench.connect("a", will=WILL)
    bench.connect("a")
    former.cut()
    assert bench.topics == ["gone/a"]


def test_who_is_refused_takes_nothing_over() -> None:
    bench = Bench()
    peer = bench.connect("a")
    bench.open().send(ConnectPacket("a", authentication_method="x"))
    assert not peer.closed


# -- wills -------------------------------------------------------------------------------------------------------------


@both_versions
def test_a_will_reaches_subscribers_and_the_acceptor_once_when_a_connection_is_lost(version: int) -> None:
    bench = Bench()
    witness = bench.connect("w")
    witness.subscribe("gone/#")
    peer = bench.connect("a", version, will=WILL)
    bench.wait(7)
    peer.cut()
    peer.cut()
    assert bench.accepted == [Message("gone/a", b"bye", 1, False, "a", bench.at)]
    assert [(p.topic, p.payload) for p in witness.published()] == [("gone/a", b"bye")]


@both_versions
def test_a_goodbye_takes_the_will_back(version: int) -> None:
    bench = Bench()
    peer = bench.connect("a", version, will=WILL)
    peer.send(DisconnectPacket())
    peer.cut()
    assert bench.batches == []


def test_a_goodbye_may_ask_for_the_will() -> None:
    bench = Bench()
    peer = bench.connect("a", will=WILL)
    peer.send(DisconnectPacket(reason_code=DisconnectReasonCode.DISCONNECT_WITH_WILL_MESSAGE))
    peer.cut()
    assert bench.topics == ["gone/a"]


@both_versions
def test_silence_publishes_the_will(version: int) -> None:
    bench = Bench()
    bench.connect("a", version, will=WILL, keep_alive=10)
    bench.wait(15)
    assert bench.topics == ["gone/a"]


@both_versions
def test_a_protocol_error_publishes_the_will(version: int) -> None:
    bench = Bench()
    peer = bench.connect("a", version, will=WILL)
    peer.feed(b"\xf0\xff\xff\xff\xff")
    assert peer.closed
    peer.cut()
    assert bench.topics == ["gone/a"]


def test_a_will_may_be_retained_and_carries_its_properties() -> None:
    bench = Bench()
    will = Will("gone", payload=b"x", retain=True, content_type="text/plain", user_properties=[("k", "v")])
    bench.connect("a", will=will).cut()
    witness = bench.connect("w")
    witness.subscribe("gone")
    (kept,) = witness.published()
    assert (kept.payload, kept.retain) == (b"x", True)
    assert (kept.content_type, kept.user_properties) == ("text/plain", [("k", "v")])
    assert bench.accepted[0].properties == Properties(content_type="text/plain", user_properties=(("k", "v"),))


def test_a_will_without_a_payload_is_an_empty_message() -> None:
    bench = Bench()
    bench.connect("a", will=Will("gone")).cut()
    assert [message.payload for message in bench.accepted] == [b""]


# -- delivery ----------------------------------------------------------------------------------------------------------


def test_subscribers_hear_messages_before_anyone_has_stored_them() -> None:
    bench = Bench(settle=False)
    peer, witness = bench.connect("a"), bench.connect("w")
    witness.subscribe("t")
    peer.send(publish("t", b"x", 1))
    assert len(witness.published()) == 1
    assert peer.heard() == []


def test_a_retained_message_is_replaced_and_cleared_by_whoever_publishes() -> None:
    bench = Bench()
    peer = bench.connect("a")
    for payload, expected in [(b"1", [b"1"]), (b"2", [b"2"]), (b"", [])]:
        peer.send(publish("t", payload, retain=True))
        witness = bench.connect("w")
        witness.subscribe("#")
        assert [packet.payload for packet in witness.published()] == expected


def test_a_retained_message_that_finds_no_room_is_delivered_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "RETAINED_MAX", 1)
    bench = Bench()
    peer = bench.connect("a")
    peer.subscribe("#")
    peer.send(publish("kept", retain=True), publish("too many", retain=True))
    assert [packet.topic for packet in peer.published()] == ["kept", "too many"]
    assert bench.counters.value("dropped_total", reason="retained store full") == 1
    assert bench.broker.router.retained == 1


def test_a_client_that_never_acknowledges_is_disconnected_and_the_others_are_not() -> None:
    bench = Bench()
    slow, quick, source = bench.connect("slow"), bench.connect("quick"), bench.connect("source")
    slow.subscribe("t")
    quick.subscribe(wanted("t", 0))
    total = INFLIGHT_MAX + WAITING_MAX + 5
    source.send(*[publish("t", b"%d" % n, n) for n in range(1, total + 1)])
    heard = slow.heard()
    assert [type(packet) for packet in heard] == [PublishPacket] * INFLIGHT_MAX + [DisconnectPacket]
    assert only(heard, DisconnectPacket)[0].reason_code == DisconnectReasonCode.QUOTA_EXCEEDED
    assert slow.closed
    assert len(quick.published()) == total
    assert len(only(source.heard(), PubAckPacket)) == total
    assert bench.counters.value("mqtt_slow_consumers_total") == 1


def test_a_slow_client_loses_qos_0_first_and_that_is_counted() -> None:
    bench = Bench()
    slow, source = bench.connect("slow", receive_max=1), bench.connect("source")
    slow.subscribe("t")
    source.send(publish("t", b"", 1))
    source.send(*[publish("t") for _ in range(WAITING_MAX)], publish("t", b"", 2))
    assert len(slow.heard()) == 1 + WAITING_MAX  # QoS 0 does not wait for a PUBACK
    slow.connection.congested = True
    source.send(*[publish("t") for _ in range(WAITING_MAX)], publish("t", b"", 3))
    assert not slow.closed
    assert bench.counters.value("dropped_total", reason="slow subscriber") == 2


def test_no_topic_that_begins_with_a_dollar_reaches_a_wildcard() -> None:
    bench = Bench()
    peer = bench.connect("a")
    peer.subscribe("#", "$SYS/#")
    bench.broker.publish([Message("$SYS/x", b""), Message("$other", b"")])
    assert [packet.topic for packet in peer.published()] == ["$SYS/x"]


# -- the operator's view, and the end ----------------------------------------------------------------------------------


def test_the_operator_sees_who_is_connected() -> None:
    bench = Bench(settle=False)
    new, _old = bench.connect("new", 5), bench.connect("old", 4)
    bench.open()  # not admitted, so not there
    new.subscribe("a", "b")
    new.send(publish("t", bytes(100)))
    assert bench.broker.clients() == [
        Presence("new", "10.0.0.7:50000", "5", 2, new.connection.unsettled),
        Presence("old", "10.0.0.7:50000", "3.1.1", 0, 0),
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


def test_nothing_is_left_of_a_client_that_is_gone() -> None:
    bench = Bench()
    for version in (5, 4):
        peer = bench.connect("a", version)
        peer.subscribe("t", "#")
        peer.cut()
    stranger = bench.open()
    stranger.cut()
    assert bench.broker.clients() == []
    assert bench.broker.router.subscriptions == 0
    assert bench.broker._connections == set()
    assert bench.broker._clients == {}
