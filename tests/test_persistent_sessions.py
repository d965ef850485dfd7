"""Sessions that outlive their connections: how long, for whom, and what waits in them (MQTT 5 section 4.1)."""

import pytest
from mqtt5 import (
    ConnAckPacket,
    ConnAckReasonCode,
    ConnectPacket,
    DisconnectPacket,
    DisconnectReasonCode,
    PingReqPacket,
    PubAckPacket,
    PubCompPacket,
    PublishPacket,
    PubRecPacket,
    PubRelPacket,
    QoS,
    UnsubscribePacket,
)

from core.message import Message
from core.mqtt.limits import Limits
from core.mqtt.session import ENTRY_BYTES
from tests.mqtt_peers import Bench, Guard, Peer, only, publish, publish_2, wanted

both_versions = pytest.mark.parametrize("version", [5, 4])
MONTH = 30 * 86_400


def flood(bench: Bench, *payloads: bytes, qos: int = 1) -> None:
    """These messages to "t", from a client without a session of its own."""
    source = bench.connect("source")
    for number, payload in enumerate(payloads, 1):
        packet_id = number if qos else None
        source.send(PublishPacket("t", payload, qos=QoS(qos), packet_id=packet_id))
    source.send(DisconnectPacket())


def away(bench: Bench, client_id: str = "a", version: int = 5, **options: int) -> None:
    """A client that subscribed to "t", with a session that is kept, and is gone."""
    peer = bench.resume(client_id, version, **options)
    peer.subscribe(wanted("t", 2))
    peer.cut()


def complete(peer: Peer, packets: list[PublishPacket]) -> None:
    """Acknowledge everything, and leave what comes after it to be heard."""
    for packet in packets:
        assert packet.packet_id is not None
        peer.send(PubAckPacket(packet.packet_id) if packet.qos == QoS.AT_LEAST_ONCE else PubRecPacket(packet.packet_id))
    rest = peer.heard()
    peer.send(*[PubCompPacket(packet.packet_id) for packet in only(rest, PubRelPacket)])
    peer.put_back(only(rest, PublishPacket))


def silence(bench: Bench, seconds: float) -> None:
    """Time passes, and nobody is connected."""
    assert bench.broker.clients() == []
    bench.wait(seconds)


# -- how long ----------------------------------------------------------------------------------------------------------


@both_versions
def test_a_session_that_is_kept_is_there_with_its_subscriptions_when_its_client_comes_back(version: int) -> None:
    bench = Bench()
    peer = bench.resume("a", version)
    assert not peer.welcome.session_present
    peer.subscribe("t", "u")
    peer.send(UnsubscribePacket(1, ["u"]))
    peer.cut()
    again = bench.resume("a", version)
    assert again.welcome.session_present
    flood(bench, b"1")
    bench.broker.publish([Message("u", b"2", 1)])
    assert again.payloads() == [b"1"]


@both_versions
def test_a_session_that_is_not_to_be_kept_ends_with_its_connection(version: int) -> None:
    bench = Bench()
    peer = bench.connect("a", version)
    peer.subscribe("t")
    peer.cut()
    assert bench.broker.sessions == 0
    again = bench.resume("a", version)
    assert not again.welcome.session_present
    flood(bench, b"1")
    assert again.published() == []


def test_in_mqtt_5_a_session_may_be_kept_though_it_begins_anew_and_end_though_it_does_not() -> None:
    """Clean Start and Session Expiry Interval are two things (MQTT 5 sections 3.1.2.4 and 3.1.2.11.2)."""
    bench = Bench()
    bench.connect("kept", clean_start=True, session_expiry_interval=60).cut()
    bench.connect("ended", clean_start=False).cut()
    assert bench.resume("kept").welcome.session_present
    assert not bench.resume("ended").welcome.session_present


@both_versions
def test_a_clean_start_ends_what_was_kept(version: int) -> None:
    bench = Bench()
    away(bench, version=version)
    flood(bench, b"1")
    peer = bench.connect("a", version)
    assert not peer.welcome.session_present
    flood(bench, b"2")
    assert peer.published() == []
    assert bench.broker.router.subscriptions == 0


def test_a_session_lasts_until_its_interval_is_over_and_begins_anew_with_each_connection() -> None:
    bench = Bench()
    away(bench, session_expiry_interval=100)
    silence(bench, 99)
    away(bench, session_expiry_interval=100)
    silence(bench, 99.9)
    assert bench.broker.sessions == 1
    silence(bench, 0.1)
    assert (bench.broker.sessions, bench.broker.router.subscriptions) == (0, 0)
    assert not bench.resume("a").welcome.session_present


def test_while_its_client_is_there_no_session_ends() -> None:
    bench = Bench()
    peer = bench.resume("a", session_expiry_interval=5)
    for _ in range(10):
        bench.wait(59)
        peer.send(PingReqPacket())
    assert bench.broker.sessions == 1
    peer.cut()
    bench.wait(5)
    assert bench.broker.sessions == 0


def test_a_client_that_comes_back_may_ask_for_another_interval() -> None:
    bench = Bench()
    away(bench, session_expiry_interval=1_000)
    away(bench, session_expiry_interval=10)
    silence(bench, 10)
    assert bench.broker.sessions == 0


@pytest.mark.parametrize(("version", "asked"), [(5, 0xFFFF_FFFF), (5, MONTH + 1), (4, 0)])
def test_no_session_lasts_longer_than_the_limit(version: int, asked: int) -> None:
    bench = Bench()
    peer = bench.resume("a", version, session_expiry_interval=asked)
    assert peer.welcome.session_expiry_interval == (MONTH if version == 5 else None)
    peer.cut()
    silence(bench, MONTH - 0.5)
    assert bench.broker.sessions == 1
    silence(bench, 0.5)
    assert bench.broker.sessions == 0


@pytest.mark.parametrize(("asked", "lasts"), [(10, 10), (5_000, 5_000), (0xFFFF_FFFF, MONTH)])
def test_a_disconnect_may_change_how_long_the_session_lasts(asked: int, lasts: int) -> None:
    """MQTT 5 section 3.14.2.2.2."""
    bench = Bench()
    bench.resume("a", session_expiry_interval=100).send(DisconnectPacket(session_expiry_interval=asked))
    silence(bench, lasts - 0.5)
    assert bench.broker.sessions == 1
    silence(bench, 0.5)
    assert bench.broker.sessions == 0


def test_a_disconnect_may_end_the_session() -> None:
    bench = Bench()
    bench.resume("a").send(DisconnectPacket(session_expiry_interval=0))
    assert bench.broker.sessions == 0


def test_a_session_that_was_to_end_with_its_connection_cannot_be_kept_by_a_disconnect() -> None:
    bench = Bench()
    peer = bench.connect("a")
    peer.send(DisconnectPacket(session_expiry_interval=10))
    (farewell,) = peer.heard()
    assert isinstance(farewell, DisconnectPacket)
    assert farewell.reason_code == DisconnectReasonCode.PROTOCOL_ERROR
    peer.cut()
    assert bench.broker.sessions == 0


# -- for whom ----------------------------------------------------------------------------------------------------------


@both_versions
def test_the_newer_connection_takes_the_session_over_and_goes_on_with_it(version: int) -> None:
    """MQTT 5 section 3.1.4."""
    bench = Bench()
    former = bench.resume("a", version)
    former.subscribe("t")
    flood(bench, b"1")
    assert former.payloads() == [b"1"]
    successor = bench.resume("a", version)
    assert former.closed
    farewell = [DisconnectPacket(reason_code=DisconnectReasonCode.SESSION_TAKEN_OVER)]
    assert former.heard() == (farewell if version == 5 else [])
    assert successor.welcome.session_present
    former.cut()
    former.send(PubAckPacket(1))
    flood(bench, b"2")
    assert [(p.payload, p.duplicate) for p in successor.published()] == [(b"1", True), (b"2", False)]
    assert bench.broker.sessions == 1


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("other", ["mallory", None])
def test_nobody_takes_over_the_session_of_another_principal(clean: bool, connected: bool, other: str | None) -> None:
    bench = Bench()
    owner = bench.resume("a", principal="press-1")
    owner.subscribe("t")
    if not connected:
        owner.cut()
    thief = bench.open(5, other)
    thief.send(ConnectPacket("a", clean_start=clean))
    assert thief.heard() == [ConnAckPacket(reason_code=ConnAckReasonCode.NOT_AUTHORIZED)]
    thief.cut()
    assert owner.closed is not connected
    flood(bench, b"1")
    again = bench.resume("a", principal="press-1")
    assert again.welcome.session_present
    assert again.payloads() == [b"1"]


def test_an_identifier_is_free_again_when_the_session_has_ended() -> None:
    bench = Bench()
    bench.resume("a", principal="press-1", session_expiry_interval=10).cut()
    silence(bench, 10)
    assert not bench.resume("a", principal="press-2").welcome.session_present


def test_a_session_that_nobody_owned_belongs_to_the_first_who_has_a_name() -> None:
    bench = Bench()
    away(bench)
    assert bench.resume("a", principal="press-1").welcome.session_present
    thief = bench.open(5)
    thief.send(ConnectPacket("a"))
    assert thief.heard() == [ConnAckPacket(reason_code=ConnAckReasonCode.NOT_AUTHORIZED)]


def test_subscriptions_that_are_not_allowed_any_more_end_when_the_client_comes_back() -> None:
    guard = Guard()
    bench = Bench(access=guard)
    peer = bench.resume("a")
    peer.subscribe("t", "u", "$share/g/t")
    peer.cut()
    guard.forbid("subscribe", "t")
    again = bench.resume("a")
    assert again.welcome.session_present
    bench.broker.publish([Message("t", b"1"), Message("u", b"2")])
    assert again.payloads() == [b"2"]
    assert bench.broker.router.subscriptions == 1


def test_sessions_whose_clients_are_away_are_bounded_and_those_that_are_there_are_not_touched() -> None:
    bench = Bench(Limits(sessions=3))
    for number in range(3):
        away(bench, f"a{number}")
    late = bench.open()
    late.send(ConnectPacket("late", session_expiry_interval=10))
    assert late.heard() == [ConnAckPacket(reason_code=ConnAckReasonCode.QUOTA_EXCEEDED)]
    assert bench.counters.value("mqtt_connects_refused_total", reason="quota_exceeded") == 1
    bench.connect("without a session")
    assert bench.resume("a1").welcome.session_present
    bench.resume("late")


# -- what waits --------------------------------------------------------------------------------------------------------


@both_versions
def test_messages_wait_in_order_and_those_of_qos_0_do_not(version: int) -> None:
    bench = Bench()
    away(bench, version=version)
    payloads = [b"%d" % number for number in range(200)]
    source = bench.connect("source")
    for number, payload in enumerate(payloads):
        qos = number % 3
        source.send(PublishPacket("t", payload, qos=QoS(qos), packet_id=number if qos else None))
    peer, heard = bench.resume("a", version), list[bytes]()
    while packets := peer.published():
        heard += [packet.payload for packet in packets]
        assert not any(packet.duplicate for packet in packets)
        complete(peer, packets)
    assert heard == [payload for number, payload in enumerate(payloads) if number % 3]


@both_versions
def test_what_was_not_acknowledged_comes_again_until_it_is(version: int) -> None:
    bench = Bench()
    peer = bench.resume("a", version)
    peer.subscribe("t")
    flood(bench, b"1", b"2", b"3")
    for _ in range(3):
        first = peer.published()
        assert [(p.packet_id, p.payload) for p in first] == [(1, b"1"), (2, b"2"), (3, b"3")]
        peer.cut()
        peer = bench.resume("a", version)
    peer.send(PubAckPacket(1), PubAckPacket(3))
    peer.cut()
    assert [(p.packet_id, p.payload, p.duplicate) for p in bench.resume("a", version).published()] == [(2, b"2", True)]


def test_a_client_that_is_away_loses_only_what_its_queue_has_no_room_for_and_that_is_counted() -> None:
    bench = Bench(Limits(queue_messages=5))
    away(bench)
    flood(bench, *[b"%d" % n for n in range(8)])
    assert bench.dropped("session queue full") == 3
    assert bench.resume("a").payloads() == [b"%d" % n for n in range(5)]


def test_all_queues_together_are_bounded_in_bytes_and_what_many_wait_for_counts_once() -> None:
    bench = Bench(Limits(queues_bytes=10 * (10_001 + 10 * ENTRY_BYTES)))
    for number in range(10):
        away(bench, f"a{number}")
    flood(bench, *[bytes(10_000)] * 9)
    assert bench.broker.queued_bytes == 9 * (10_001 + 10 * ENTRY_BYTES)
    assert bench.dropped("session queue full") == 0
    flood(bench, *[bytes(10_000)] * 9)
    assert bench.broker.queued_bytes == 10 * (10_001 + 10 * ENTRY_BYTES)
    received = sum(len(bench.resume(f"a{number}").published()) for number in range(10))
    assert received + bench.dropped("session queue full") == 10 * 18


def test_a_message_that_expires_while_its_receiver_is_away_is_dropped_and_counted() -> None:
    """MQTT 5 section 3.3.2.3.3."""
    bench = Bench()
    away(bench)
    bench.connect("source").send(
        publish("t", b"short", 1, message_expiry_interval=10),
        publish_2("t", b"long", 2, message_expiry_interval=60),
        publish("t", b"for ever", 3),
    )
    bench.wait(25)
    peer = bench.resume("a")
    assert [(p.payload, p.message_expiry_interval) for p in peer.published()] == [(b"long", 35), (b"for ever", None)]
    assert bench.dropped("expired") == 1


def test_a_message_in_flight_that_expires_is_sent_again_all_the_same() -> None:
    """MQTT 5 section 4.4; its expiry is for what has not begun to be delivered (section 3.3.2.3.3)."""
    bench = Bench()
    peer = bench.resume("a")
    peer.subscribe("t")
    bench.connect("source").send(publish("t", b"1", 1, message_expiry_interval=10), publish("t", b"2", 2))
    assert peer.payloads() == [b"1", b"2"]
    peer.cut()
    bench.wait(10)
    again = bench.resume("a")
    assert [(p.packet_id, p.payload, p.duplicate) for p in again.published()] == [(1, b"1", True), (2, b"2", True)]
    assert bench.dropped("expired") == 0


def test_what_a_client_may_not_receive_any_more_does_not_wait_for_it() -> None:
    guard = Guard()
    bench = Bench(access=guard)
    peer = bench.resume("a")
    peer.subscribe("#")
    peer.cut()
    bench.broker.publish([Message("secret/1", b"1", 1), Message("t", b"2", 1)])
    guard.forbid("receive", "secret")
    again = bench.resume("a")
    bench.broker.publish([Message("secret/2", b"3", 1), Message("t", b"4", 1)])
    assert again.payloads() == [b"2", b"4"]
    assert bench.dropped("not authorized") == 1


@both_versions
def test_a_session_may_go_on_in_the_other_version(version: int) -> None:
    bench = Bench()
    away(bench, version=version)
    flood(bench, b"1", qos=2)
    again = bench.resume("a", 9 - version)
    assert again.welcome.session_present
    assert [(packet.payload, int(packet.qos)) for packet in again.published()] == [(b"1", 2)]


def test_retained_messages_come_with_subscribing_and_not_with_coming_back() -> None:
    """MQTT 5 section 3.8.4."""
    bench = Bench()
    peer = bench.resume("a")
    peer.send(publish("t", b"kept", retain=True))
    peer.subscribe("t")
    assert peer.payloads() == [b"kept"]
    peer.send(PubAckPacket(1))
    peer.cut()
    assert bench.resume("a").published() == []


def test_the_operator_sees_what_waits_and_the_broker_holds_nothing_of_an_ended_session() -> None:
    bench = Bench()
    peer = bench.resume("a", receive_max=1)
    peer.subscribe("t")
    flood(bench, b"1", b"2", b"3")
    assert bench.broker.clients()[0].waiting == 3
    peer.cut()
    assert bench.broker.queued_bytes > 0
    silence(bench, 3_600)
    assert (bench.broker.sessions, bench.broker.queued_bytes, bench.broker._away) == (0, 0, {})
