"""A will is published once, when its client goes without a goodbye: at once, after its delay or with its session."""

import pytest
from mqtt5 import ConnAckPacket, ConnAckReasonCode, ConnectPacket, DisconnectPacket, DisconnectReasonCode, QoS, Will

from core.message import Message, Properties
from core.mqtt.wills import Wills
from tests.mqtt_peers import Bench, Guard, forged, publish, wanted

both_versions = pytest.mark.parametrize("version", [5, 4])
WILL = Will("gone/a", payload=b"bye", qos=QoS.AT_LEAST_ONCE)


def delayed(seconds: int, topic: str = "gone/a") -> Will:
    return Will(topic, payload=b"bye", will_delay_interval=seconds)


# -- wills that wait ---------------------------------------------------------------------------------------------------


def test_a_will_is_due_once() -> None:
    wills, first, second = Wills(), Message("1", b""), Message("2", b"")
    wills.put("a", first, None, 10.0)
    wills.put("b", second, None, 20.0)
    assert wills.due(9.9) == []
    assert wills.due(10.0) == [(first, None)]
    assert wills.due(30.0) == [(second, None)]
    assert wills.due(40.0) == []


def test_a_cancelled_will_is_never_due() -> None:
    wills, message = Wills(), Message("1", b"")
    wills.put("a", message, None, 10.0)
    assert wills.cancel("a") == (message, None)
    assert wills.cancel("a") is None
    assert wills.due(10.0) == []


# -- when a will is published ------------------------------------------------------------------------------------------


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
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_will_has_the_quality_of_service_that_it_was_given(version: int, qos: int) -> None:
    bench = Bench()
    witness = bench.connect("w")
    witness.subscribe(wanted("gone", 2))
    bench.connect("a", version, will=Will("gone", payload=b"x", qos=QoS(qos))).cut()
    assert [int(packet.qos) for packet in witness.published()] == [qos]


@both_versions
def test_a_goodbye_takes_the_will_back(version: int) -> None:
    """MQTT 5 section 3.14.4, MQTT 3.1.1 section 3.14.4."""
    bench = Bench()
    peer = bench.connect("a", version, will=WILL)
    peer.send(DisconnectPacket())
    peer.cut()
    assert bench.batches == []


@pytest.mark.parametrize(
    "reason",
    [DisconnectReasonCode.DISCONNECT_WITH_WILL_MESSAGE, DisconnectReasonCode.UNSPECIFIED_ERROR],
    ids=["0x04", "0x80"],
)
def test_a_goodbye_with_a_reason_other_than_normal_publishes_the_will(reason: DisconnectReasonCode) -> None:
    """MQTT 5 sections 3.1.2.5 and 3.14.4: only reason 0x00 removes it."""
    bench = Bench()
    peer = bench.connect("a", will=WILL)
    peer.send(DisconnectPacket(reason_code=reason))
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


@both_versions
@pytest.mark.parametrize("clean", [True, False])
def test_a_take_over_publishes_the_will_once(version: int, clean: bool) -> None:
    bench = Bench()
    former = bench.resume("a", version, will=WILL)
    bench.connect("a", version, clean_start=clean)
    former.cut()
    assert bench.topics == ["gone/a"]


def test_a_will_may_be_retained_and_carries_its_properties() -> None:
    bench = Bench()
    will = Will(
        "gone", payload=b"x", retain=True, content_type="text/plain", user_properties=[("k", "v")],
        payload_format_indicator=1, response_topic="r", correlation_data=b"c", message_expiry_interval=60,
    )  # fmt: skip
    bench.connect("a", will=will).cut()
    witness = bench.connect("w")
    witness.subscribe("gone")
    (kept,) = witness.published()
    assert (kept.payload, kept.retain) == (b"x", True)
    assert (kept.content_type, kept.user_properties) == ("text/plain", [("k", "v")])
    assert bench.accepted[0].properties == Properties(1, 60, "text/plain", "r", b"c", (("k", "v"),))


def test_a_will_expires_after_it_was_published_not_after_it_was_said() -> None:
    """MQTT 5 section 3.1.3.2.4."""
    bench = Bench()
    peer = bench.connect("a", will=Will("gone", payload=b"x", retain=True, message_expiry_interval=10))
    for _ in range(3):
        bench.wait(50)
        peer.send(publish("alive"))
    peer.cut()
    bench.wait(4)
    witness = bench.connect("w")
    witness.subscribe("gone")
    assert [packet.message_expiry_interval for packet in witness.published()] == [6]


def test_a_will_without_a_payload_is_an_empty_message() -> None:
    bench = Bench()
    bench.connect("a", will=Will("gone")).cut()
    assert [message.payload for message in bench.accepted] == [b""]


# -- the delay of MQTT 5 section 3.1.3.2.2 -----------------------------------------------------------------------------


def test_a_will_waits_for_its_delay() -> None:
    bench = Bench()
    bench.resume("a", will=delayed(30)).cut()
    bench.wait(29.9)
    assert bench.topics == []
    bench.wait(0.1)
    assert bench.accepted == [Message("gone/a", b"bye", 0, False, "a", bench.at)]
    bench.wait(4_000)
    assert bench.topics == ["gone/a"]


def test_a_client_that_comes_back_in_time_takes_its_will_back() -> None:
    bench = Bench()
    bench.resume("a", will=delayed(30)).cut()
    bench.wait(29)
    bench.resume("a").send(DisconnectPacket())
    bench.wait(4_000)
    assert bench.topics == []


def test_a_will_is_published_when_its_session_ends_whatever_its_delay() -> None:
    bench = Bench()
    bench.resume("a", will=delayed(600), session_expiry_interval=20).cut()
    bench.wait(19.9)
    assert bench.topics == []
    bench.wait(0.1)
    assert bench.topics == ["gone/a"]


def test_a_delay_counts_for_nothing_when_the_session_ends_with_the_connection() -> None:
    bench = Bench()
    bench.connect("a", will=delayed(600)).cut()
    assert bench.topics == ["gone/a"]


def test_a_new_session_publishes_the_will_that_waited_for_the_old_one() -> None:
    bench = Bench()
    bench.resume("a", will=delayed(600)).cut()
    bench.connect("a", will=delayed(5, "gone/again"))
    assert bench.topics == ["gone/a"]


def test_a_take_over_that_goes_on_with_the_session_takes_a_delayed_will_back() -> None:
    bench = Bench()
    former = bench.resume("a", will=delayed(30))
    bench.resume("a")
    former.cut()
    bench.wait(60)
    assert bench.topics == []


def test_a_take_over_that_begins_anew_publishes_a_delayed_will() -> None:
    bench = Bench()
    former = bench.resume("a", will=delayed(30))
    bench.connect("a")
    former.cut()
    assert bench.topics == ["gone/a"]


def test_a_disconnect_that_ends_the_session_publishes_the_will_it_asks_for_at_once() -> None:
    bench = Bench()
    peer = bench.resume("a", will=delayed(30))
    with_will = DisconnectReasonCode.DISCONNECT_WITH_WILL_MESSAGE
    peer.send(DisconnectPacket(reason_code=with_will, session_expiry_interval=0))
    assert bench.topics == ["gone/a"]


def test_wills_come_in_the_order_in_which_they_are_due() -> None:
    bench = Bench()
    for seconds in (30, 10, 20):
        bench.resume(f"a{seconds}", will=delayed(seconds, f"gone/{seconds}")).cut()
    for _ in range(6):
        bench.wait(5)
    assert bench.topics == ["gone/10", "gone/20", "gone/30"]


# -- permission --------------------------------------------------------------------------------------------------------


@both_versions
@pytest.mark.parametrize(("verb", "retain"), [("publish", False), ("publish", True), ("retain", True)])
def test_a_will_to_a_forbidden_topic_is_refused_at_connect(version: int, verb: str, retain: bool) -> None:
    guard = Guard()
    guard.forbid(verb, "secret")
    bench = Bench(access=guard)
    peer = bench.open(version)
    peer.send(ConnectPacket("a", clean_start=True, will=Will("secret/x", retain=retain)))
    assert peer.heard() == [ConnAckPacket(reason_code=ConnAckReasonCode.NOT_AUTHORIZED)]
    peer.cut()
    assert bench.batches == []
    assert bench.broker.sessions == 0


@pytest.mark.parametrize("topic", ["a/+", "#", "a\0"])
def test_a_will_topic_with_a_wildcard_or_nul_is_refused(topic: str) -> None:
    bench = Bench()
    new, old = bench.open(5), bench.open(4)
    for version, peer in [(5, new), (4, old)]:
        peer.feed(forged(version, lambda topic: ConnectPacket("a", clean_start=True, will=Will(topic)), topic))
        assert peer.closed
    assert new.heard() == [ConnAckPacket(reason_code=ConnAckReasonCode.TOPIC_NAME_INVALID)]
    assert old.heard() == []
    assert bench.broker.clients() == []


def test_a_will_whose_permission_is_gone_when_it_is_due_is_dropped_and_counted() -> None:
    guard = Guard()
    bench = Bench(access=guard)
    bench.resume("a", will=delayed(30, "secret/a")).cut()
    bench.resume("b", will=delayed(30, "open/b")).cut()
    guard.forbid("publish", "secret")
    bench.wait(30)
    assert bench.topics == ["open/b"]
    assert bench.dropped("not authorized") == 1


def test_a_client_whose_access_was_revoked_leaves_no_will() -> None:
    guard = Guard()
    bench = Bench(access=guard)
    peer = bench.connect("a", will=WILL)
    guard.revoked.add("a")
    bench.broker.recheck()
    peer.cut()
    assert bench.topics == []
    assert bench.dropped("not authorized") == 1
