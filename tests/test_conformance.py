"""MQTT 3.1.1 and 5 on an edge, packet by packet over a real socket: what the standards ask of a server.

The sections named are those of MQTT Version 5.0 (OASIS, 7 March 2019).
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mqtt5 import (
    ConnAckPacket,
    ConnAckReasonCode,
    ConnectPacket,
    DisconnectPacket,
    DisconnectReasonCode,
    PubAckPacket,
    PubCompPacket,
    PublishPacket,
    PubRecPacket,
    PubRecReasonCode,
    PubRelPacket,
    QoS,
    RetainHandling,
    Will,
)

from tests import brokers
from tests.wire import CODECS, Clients, Refused, Wire, a_filter

pytestmark = pytest.mark.processes
both_versions = pytest.mark.parametrize("version", [5, 4])
FOR_EVER = 0xFFFF_FFFF
ONE, TWO = QoS.AT_LEAST_ONCE, QoS.EXACTLY_ONCE


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[brokers.Edge]:
    with brokers.running(tmp_path_factory.mktemp("edge")) as started:
        yield started


@pytest.fixture
def clients(edge: brokers.Edge) -> Iterator[Clients]:
    made = Clients(edge.address)
    yield made
    made.close()


def payloads(messages: list[PublishPacket]) -> list[bytes]:
    return [message.payload for message in messages]


def farewell(wire: Wire) -> DisconnectReasonCode:
    """The reason in the DISCONNECT that must be the broker's last packet."""
    last = wire.rest()[-1]
    assert isinstance(last, DisconnectPacket), last
    return last.reason_code


def kept(version: int) -> dict[str, Any]:
    """CONNECT options for a session that outlives its connection; 3.1.1 knows no other kind without a clean start."""
    return {"clean_start": False, "session_expiry_interval": FOR_EVER if version == 5 else 0}


# -- connections -------------------------------------------------------------------------------------------------------


@both_versions
def test_a_second_connect_ends_the_connection(clients: Clients, version: int) -> None:
    wire = clients.wire("a", version)
    wire.send(ConnectPacket(f"{clients.root}-a", clean_start=True))
    last = wire.rest()
    assert not any(isinstance(packet, ConnAckPacket) for packet in last)
    if version == 5:
        assert isinstance(last[-1], DisconnectPacket)
        assert last[-1].reason_code == DisconnectReasonCode.PROTOCOL_ERROR


@both_versions
def test_an_unknown_protocol_is_not_admitted(clients: Clients, version: int) -> None:
    greeting: bytes = CODECS[version].encode(ConnectPacket(f"{clients.root}-a", clean_start=True))
    for wrong in (b"MQTU" + bytes([version]), b"MQTT\x09"):
        wire = clients.open(version)
        wire.send(greeting.replace(b"MQTT" + bytes([version]), wrong))
        answer = wire.rest_bytes()  # in whichever version the broker prefers, or none
        assert answer == b"" or (answer[0] == 0x20 and answer[3] != 0)


def test_without_a_client_identifier_mqtt_3_asks_for_a_clean_session(clients: Clients) -> None:
    with clients.open(4).connect("") as one, clients.open(4).connect("") as two:
        assert (one.heard(), two.heard()) == ([], [])
    nameless = clients.open(4)
    nameless.send(ConnectPacket("", clean_start=False))
    refusal = nameless.expect(ConnAckPacket)
    assert refusal.reason_code == ConnAckReasonCode.CLIENT_ID_NOT_VALID  # 2 on the wire
    assert nameless.rest() == []


@pytest.mark.parametrize("clean", [True, False])
def test_without_a_client_identifier_mqtt_5_is_given_one_to_come_back_with(clients: Clients, clean: bool) -> None:
    one, two = (clients.open().connect("", clean_start=clean, session_expiry_interval=60) for _ in range(2))
    assert not one.connack.session_present
    given = one.connack.assigned_client_id
    assert given
    assert given != two.connack.assigned_client_id
    one.disconnect()
    back = clients.open().connect(given, clean_start=False)
    assert back.connack.session_present
    assert back.connack.assigned_client_id is None


def test_a_longer_keep_alive_than_a_minute_is_cut_to_a_minute(clients: Clients) -> None:
    assert clients.wire("a", keep_alive=120).connack.server_keep_alive == 60
    assert clients.wire("b", keep_alive=30).connack.server_keep_alive in {None, 30}


def test_the_client_that_has_gone_silent_is_told_why_it_is_given_up(clients: Clients) -> None:
    assert farewell(clients.wire("a", keep_alive=1)) == DisconnectReasonCode.KEEP_ALIVE_TIMEOUT


@both_versions
def test_the_newer_of_two_connections_takes_the_session_over(clients: Clients, version: int) -> None:
    (topic,) = clients.topics("t")
    old = clients.wire("a", version, **kept(version))
    old.subscribe(topic)
    new = clients.wire("a", version, **kept(version))
    assert new.connack.session_present
    if version == 5:
        assert farewell(old) == DisconnectReasonCode.SESSION_TAKEN_OVER
    else:
        assert old.rest() == []
    new.publish(topic, b"for the newer")
    assert payloads(new.exactly(1)) == [b"for the newer"]


def test_whoever_is_connected_is_told_that_the_server_shuts_down(tmp_path: Path) -> None:
    with (
        brokers.running(tmp_path) as own,
        Wire(own.address).connect("five") as five,
        Wire(own.address, 4).connect("four") as four,
    ):
        assert own.stop() == 0
        assert farewell(five) == DisconnectReasonCode.SERVER_SHUTTING_DOWN
        assert four.rest() == []


def test_response_information_is_for_who_asks_for_it(clients: Clients) -> None:
    assert clients.wire("a").connack.response_info is None
    offered = clients.wire("b", request_response_info=True)
    if offered.connack.response_info is not None:  # section 3.1.2.11.7: a server need not offer any
        offered.subscribe(f"{offered.connack.response_info}/answers")


# -- sessions ----------------------------------------------------------------------------------------------------------


def test_a_session_without_an_expiry_ends_with_its_connection(clients: Clients) -> None:
    (topic,) = clients.topics("t")
    first = clients.wire("a", session_expiry_interval=0)
    first.subscribe(topic)
    first.disconnect()
    second = clients.wire("a", clean_start=False)
    assert not second.connack.session_present
    second.publish(topic)
    assert second.heard() == []


def test_a_session_with_an_expiry_is_there_before_it_and_not_after_it(clients: Clients) -> None:
    (will,) = clients.topics("will")
    watching = clients.wire("w")
    watching.subscribe(will)
    last_words = Will(will, payload=b"the end", will_delay_interval=3600)  # comes when the session ends, if earlier
    clients.wire("a", session_expiry_interval=1, will=last_words).cut()
    back = clients.wire("a", clean_start=False, session_expiry_interval=1, will=last_words)
    assert back.connack.session_present
    back.cut()
    assert payloads(watching.exactly(1)) == [b"the end"]
    assert not clients.wire("a", clean_start=False).connack.session_present


def test_a_disconnect_changes_the_expiry_of_its_session(clients: Clients) -> None:
    def come_back() -> tuple[Wire, bool]:
        wire = clients.wire("a", clean_start=False, session_expiry_interval=60)
        return wire, wire.connack.session_present

    wire, there = come_back()
    assert not there
    wire.disconnect()
    wire, there = come_back()
    assert there
    wire.disconnect(session_expiry_interval=0)
    wire, there = come_back()
    assert not there
    wire.disconnect(session_expiry_interval=FOR_EVER)
    assert come_back()[1]


def test_a_session_that_was_to_end_with_its_connection_cannot_be_kept_by_a_disconnect(clients: Clients) -> None:
    wire = clients.wire("a", session_expiry_interval=0)
    wire.send(DisconnectPacket(session_expiry_interval=60))
    wire.rest()
    assert not clients.wire("a", clean_start=False).connack.session_present


@both_versions
def test_what_was_not_acknowledged_comes_again_in_order_and_marked(clients: Clients, version: int) -> None:
    (topic,) = clients.topics("t")
    first = clients.wire("a", version, **kept(version))
    first.subscribe(topic)
    sent = [(str(number).encode(), 1 + number % 2) for number in range(8)]
    publisher = clients.wire("p", version)
    for payload, qos in sent:
        publisher.publish(topic, payload, qos)
    before = first.published()
    assert [(message.payload, int(message.qos)) for message in before] == sent
    assert not any(message.duplicate for message in before)
    first.cut()
    again = clients.wire("a", version, **kept(version))
    after = again.take(8)
    assert [(message.payload, int(message.qos), message.packet_id) for message in after] == [
        (message.payload, int(message.qos), message.packet_id) for message in before
    ]
    assert all(message.duplicate for message in after)
    assert again.heard() == []
    again.cut()
    assert clients.wire("a", version, **kept(version)).heard() == []


@both_versions
def test_an_exchange_of_qos_2_goes_on_where_the_connection_broke(clients: Clients, version: int) -> None:
    (topic,) = clients.topics("t")
    subscriber = clients.wire("a", version, **kept(version))
    subscriber.subscribe(topic)
    publisher = clients.wire("p", version, **kept(version))
    publisher.send(PublishPacket(topic, b"once", qos=TWO, packet_id=9))
    publisher.expect(PubRecPacket)
    publisher.cut()

    publisher = clients.wire("p", version, **kept(version))
    publisher.send(PublishPacket(topic, b"once", qos=TWO, packet_id=9, duplicate=True))
    publisher.expect(PubRecPacket)
    publisher.send(PubRelPacket(9))
    assert publisher.expect(PubCompPacket).packet_id == 9

    (message,) = [subscriber.expect(PublishPacket)]
    assert message.packet_id is not None
    subscriber.send(PubRecPacket(message.packet_id))
    assert subscriber.expect(PubRelPacket).packet_id == message.packet_id
    subscriber.cut()

    subscriber = clients.wire("a", version, **kept(version))
    assert subscriber.expect(PubRelPacket).packet_id == message.packet_id  # and not the message once more
    subscriber.send(PubCompPacket(message.packet_id))
    assert subscriber.heard() == []


def test_messages_wait_with_what_remains_of_their_expiry_and_not_beyond_it(clients: Clients) -> None:
    topic, clock = clients.topics("t", "clock")
    absent = clients.wire("a", **kept(5))
    absent.subscribe(topic)
    absent.disconnect()
    publisher = clients.wire("p")
    publisher.subscribe(clock)
    for qos in (1, 2):
        publisher.publish(topic, b"short", qos, message_expiry_interval=1)
        publisher.publish(topic, b"long", qos, message_expiry_interval=60)
    publisher.publish(topic, b"endless")
    with_delay = Will(clock, payload=b"two seconds later", will_delay_interval=2)
    clients.wire("clock", session_expiry_interval=60, will=with_delay).cut()
    publisher.exactly(1)
    heard = clients.wire("a", **kept(5)).exactly(3)
    assert payloads(heard) == [b"long", b"long", b"endless"]
    assert [message.message_expiry_interval for message in heard[:2]] in ([58, 58], [57, 57], [57, 58])
    assert heard[2].message_expiry_interval is None


# -- wills -------------------------------------------------------------------------------------------------------------


@both_versions
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_broken_connection_publishes_the_will_and_a_normal_end_does_not(
    clients: Clients, version: int, qos: int
) -> None:
    (topic,) = clients.topics("will")
    watching = clients.wire("w", version)
    watching.subscribe(topic)
    will = Will(topic, payload=b"gone", qos=QoS(qos), retain=True)
    clients.wire("a", version, will=will).disconnect()
    assert watching.heard() == []
    clients.wire("a", version, will=will).cut()
    (message,) = watching.exactly(1)
    assert (message.payload, int(message.qos), message.retain) == (b"gone", qos, False)
    late = clients.wire("late", version)
    late.subscribe(topic)
    (message,) = late.exactly(1)
    assert (message.payload, message.retain) == (b"gone", True)


def test_a_disconnect_can_ask_for_the_will(clients: Clients) -> None:
    (topic,) = clients.topics("will")
    watching = clients.wire("w")
    watching.subscribe(topic)
    will = Will(topic, payload=b"gone", qos=ONE)
    clients.wire("a", will=will).disconnect(reason_code=DisconnectReasonCode.DISCONNECT_WITH_WILL_MESSAGE)
    assert payloads(watching.exactly(1)) == [b"gone"]


def test_a_will_carries_its_properties(clients: Clients) -> None:
    (topic,) = clients.topics("will")
    watching = clients.wire("w")
    watching.subscribe(topic)
    pairs = [("a", "2"), ("c", "3"), ("a", "2")]
    named = {"content_type": "text/plain", "response_topic": "answers", "correlation_data": b"1"}
    clients.wire("a", will=Will(topic, payload=b"gone", user_properties=pairs, **named)).cut()
    (message,) = watching.exactly(1)
    assert message.user_properties == pairs
    assert {name: getattr(message, name) for name in named} == named


def test_a_delayed_will_is_not_published_when_the_client_comes_back_in_time(clients: Clients) -> None:
    topic, clock = clients.topics("will", "clock")
    watching = clients.wire("w")
    watching.subscribe(topic, clock)
    delayed = Will(topic, payload=b"gone", will_delay_interval=1)
    clients.wire("a", session_expiry_interval=60, will=delayed).cut()
    clients.wire("a", clean_start=False, session_expiry_interval=60)
    clients.wire("clock", session_expiry_interval=60, will=Will(clock, payload=b"tick", will_delay_interval=2)).cut()
    assert payloads(watching.exactly(1)) == [b"tick"]


def test_wills_come_in_the_order_of_their_delays_and_not_later_than_their_session_ends(clients: Clients) -> None:
    (topic,) = clients.topics("will")
    watching = clients.wire("w")
    watching.subscribe(topic)
    for name, delay, expiry in [("third", 2, 60), ("second", 60, 1), ("first", 60, 0)]:
        delayed = Will(topic, payload=name.encode(), will_delay_interval=delay)
        clients.wire(name, session_expiry_interval=expiry, will=delayed).cut()
    assert payloads(watching.exactly(3)) == [b"first", b"second", b"third"]


@both_versions
def test_a_take_over_publishes_the_will_of_the_connection_that_it_ends(clients: Clients, version: int) -> None:
    (topic,) = clients.topics("will")
    watching = clients.wire("w", version)
    watching.subscribe(topic)
    old = clients.wire("a", version, will=Will(topic, payload=b"taken over"))
    clients.wire("a", version)
    assert payloads(watching.exactly(1)) == [b"taken over"]
    old.rest()


# -- publishing --------------------------------------------------------------------------------------------------------


def test_a_message_of_qos_2_that_is_sent_twice_is_published_once(clients: Clients) -> None:
    (topic,) = clients.topics("t")
    wire = clients.wire("a")
    wire.subscribe(topic)
    for duplicate in (False, True, True):
        wire.send(PublishPacket(topic, b"once", qos=TWO, packet_id=100, duplicate=duplicate))
        assert wire.answer(PubRecPacket, 100).reason_code == PubRecReasonCode.SUCCESS
    wire.send(PubRelPacket(100))
    wire.answer(PubCompPacket, 100)
    wire.send(PublishPacket(topic, b"another", qos=TWO, packet_id=100))
    wire.answer(PubRecPacket, 100)
    wire.send(PubRelPacket(100))
    wire.answer(PubCompPacket, 100)
    assert payloads(wire.exactly(2)) == [b"once", b"another"]


@both_versions
def test_acknowledgements_of_what_was_never_sent_disturb_nothing(clients: Clients, version: int) -> None:
    (topic,) = clients.topics("t")
    wire = clients.wire("a", version)
    wire.subscribe(topic)
    wire.send(PubAckPacket(700), PubCompPacket(701))
    wire.send(PubRelPacket(702))
    assert wire.answer(PubCompPacket, 702).packet_id == 702
    wire.publish(topic, b"still here", 2)
    assert payloads(wire.exactly(1)) == [b"still here"]


def test_a_pubrec_with_an_error_ends_the_exchange(clients: Clients) -> None:
    (topic,) = clients.topics("t")
    wire = clients.wire("a", receive_max=1, **kept(5))
    wire.subscribe(topic)
    clients.wire("p").publish(topic, b"refused", 2)
    message = wire.expect(PublishPacket)
    assert message.packet_id is not None
    wire.send(PubRecPacket(message.packet_id, reason_code=PubRecReasonCode.QUOTA_EXCEEDED))
    wire.publish(topic, b"next", 2)
    assert payloads(wire.exactly(1)) == [b"next"]
    wire.cut()
    assert clients.wire("a", **kept(5)).heard() == []


def test_a_topic_alias_of_a_client_stands_for_its_topic_on_that_connection_only(clients: Clients) -> None:
    one, two = clients.topics("one", "two")
    wire = clients.wire("a")
    assert wire.connack.topic_alias_max >= 2
    wire.subscribe(one, two)
    for topic, alias, payload in [(one, 1, b"1"), (two, 2, b"2"), ("", 1, b"3"), ("", 2, b"4"), (two, 1, b"5")]:
        wire.publish(topic, payload, topic_alias=alias)
    wire.publish("", b"6", 2, topic_alias=1)
    heard = wire.exactly(6)
    assert [message.topic for message in heard] == [one, two, one, two, two, two]
    assert all(message.topic_alias is None for message in heard)
    wire.disconnect()
    other = clients.wire("a")
    other.send(PublishPacket("", b"x", topic_alias=1))
    assert farewell(other) == DisconnectReasonCode.PROTOCOL_ERROR  # section 3.3.4


@pytest.mark.parametrize("beyond", [True, False])
def test_an_alias_of_0_or_beyond_the_maximum_ends_the_connection(clients: Clients, beyond: bool) -> None:
    wire = clients.wire("a")
    alias = wire.connack.topic_alias_max + 1 if beyond else 0
    packet = PublishPacket("t", b"x", qos=ONE, packet_id=1, topic_alias=0x7777).write()
    wire.send(packet.replace(b"\x23\x77\x77", b"\x23" + alias.to_bytes(2, "big")))
    assert farewell(wire) in (DisconnectReasonCode.TOPIC_ALIAS_INVALID, DisconnectReasonCode.MALFORMED_PACKET)


def test_a_client_that_allows_it_is_sent_each_topic_once_and_its_alias_after_that(clients: Clients) -> None:
    topic, other = clients.topics("TopicA", "other")
    wire = clients.wire("a", topic_alias_max=1)
    wire.subscribe(topic, other)
    publisher = clients.wire("p")
    for qos in (0, 1, 2):
        publisher.publish(topic, b"x", qos)
    publisher.publish(other)
    heard = [(message.topic, message.topic_alias) for message in wire.exactly(4)]
    assert heard == [(topic, 1), ("", 1), ("", 1), (other, None)]


def test_a_packet_beyond_the_servers_maximum_ends_the_connection(clients: Clients) -> None:
    (topic,) = clients.topics("t")
    wire = clients.wire("a")
    size_max = wire.connack.max_packet_size
    assert size_max is not None
    assert size_max >= 128 << 10
    around = len(PublishPacket(topic, bytes(size_max - 100), qos=ONE, packet_id=1).write()) - (size_max - 100)
    wire.publish(topic, bytes(size_max - around))
    wire.send(PublishPacket(topic, bytes(size_max - around + 1), qos=ONE, packet_id=1))
    assert farewell(wire) == DisconnectReasonCode.PACKET_TOO_LARGE


def test_a_client_is_never_sent_a_packet_beyond_its_own_maximum(clients: Clients) -> None:
    (topic,) = clients.topics("t")
    wire = clients.wire("a", max_packet_size=64, session_expiry_interval=60)
    wire.subscribe(topic)
    for qos in (0, 1, 2):
        wire.publish(topic, b"." * 32, qos)
        wire.publish(topic, b"." * 64, qos)
    assert payloads(wire.exactly(3)) == [b"." * 32] * 3


def test_a_client_never_holds_more_unacknowledged_messages_than_it_allows(clients: Clients) -> None:
    (topic,) = clients.topics("t")
    wire = clients.wire("a", receive_max=2)
    wire.subscribe(topic)
    for number in range(6):
        wire.publish(topic, str(number).encode(), 1 + number % 2)
    wire.publish(topic, b"QoS 0 is not counted", 0)
    held = [message for message in wire.published() if message.qos != QoS.AT_MOST_ONCE]
    assert payloads(held) == [b"0", b"1"]
    numbers = [message.packet_id or 0 for message in held]
    wire.send(PubRecPacket(numbers[1]))
    wire.answer(PubRelPacket, numbers[1])
    assert [packet for packet in wire.heard() if isinstance(packet, PublishPacket) and packet.packet_id] == []
    wire.send(PubCompPacket(numbers[1]))
    assert wire.expect(PublishPacket).payload == b"2"
    assert wire.heard() == []


def test_a_client_that_exceeds_the_servers_receive_maximum_is_told_so(clients: Clients) -> None:
    (topic,) = clients.topics("t")
    wire = clients.wire("a")
    allowed = wire.connack.receive_max
    wire.send(*[PublishPacket(topic, b"x", qos=TWO, packet_id=number) for number in range(1, allowed + 1)])
    for number in range(1, allowed + 1):
        wire.answer(PubRecPacket, number)
    wire.send(PublishPacket(topic, b"x", qos=TWO, packet_id=allowed + 1), *[PubRelPacket(n) for n in range(1, 20)])
    assert farewell(wire) == DisconnectReasonCode.RECEIVE_MAX_EXCEEDED


# -- subscribing -------------------------------------------------------------------------------------------------------


def test_every_filter_has_a_code_of_its_own(clients: Clients) -> None:
    zero, one, two, missing = clients.topics("0", "1", "2", "missing")
    wire = clients.wire("a")
    assert wire.subscribe(a_filter(two, 2), a_filter(zero, 0), a_filter(one, 1)) == [2, 0, 1]
    assert wire.unsubscribe(one, missing, zero, one) == [0x00, 0x11, 0x00, 0x11]


@both_versions
def test_a_message_comes_with_the_lower_of_both_qualities_of_service(clients: Clients, version: int) -> None:
    topics = list(clients.topics("0", "1", "2"))
    wire = clients.wire("a", version)
    wire.subscribe(*[a_filter(topic, qos) for qos, topic in enumerate(topics)])
    for topic in topics:
        for qos in (0, 1, 2):
            wire.publish(topic, b"x", qos)
    assert [int(message.qos) for message in wire.exactly(9)] == [0, 0, 0, 0, 1, 1, 0, 1, 2]


def test_a_client_may_choose_not_to_hear_itself(clients: Clients) -> None:
    (topic,) = clients.topics("t")
    one, two = clients.wire("a"), clients.wire("b")
    for wire in (one, two):
        wire.subscribe(a_filter(topic, no_local=True))
    one.publish(topic, b"from one")
    assert one.heard() == []
    assert payloads(two.exactly(1)) == [b"from one"]


def test_retain_is_kept_as_published_for_who_asks(clients: Clients) -> None:
    (topic,) = clients.topics("t")
    as_published, cleared = clients.wire("a"), clients.wire("b")
    as_published.subscribe(a_filter(topic, retain_as_published=True))
    cleared.subscribe(a_filter(topic))
    for retain in (False, True):
        clients.wire("p").publish(topic, b"x", retain=retain)
    assert [message.retain for message in as_published.exactly(2)] == [False, True]
    assert [message.retain for message in cleared.exactly(2)] == [False, False]


@pytest.mark.parametrize(
    ("handling", "first", "second"),
    [
        (RetainHandling.SEND_ALWAYS, 3, 3),
        (RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS, 3, 0),
        (RetainHandling.SEND_NEVER, 0, 0),
    ],
)
def test_retained_messages_are_sent_when_the_subscription_says_so(
    clients: Clients, handling: RetainHandling, first: int, second: int
) -> None:
    everything, *topics = clients.topics("#", "TopicA/B", "Topic/C", "TopicA/C")
    publisher = clients.wire("p")
    for qos, topic in enumerate(topics):
        publisher.publish(topic, b"x", qos, retain=True)
    wire = clients.wire("a")
    for expected in (first, second):
        wire.subscribe(a_filter(everything, retain_handling=handling))
        heard = wire.exactly(expected)
        assert sorted(int(message.qos) for message in heard) == list(range(expected))
        assert all(message.retain for message in heard)


def test_a_retained_message_expires(clients: Clients) -> None:
    topic, clock = clients.topics("t", "clock")
    wire = clients.wire("a")
    wire.subscribe(clock)
    wire.publish(topic, b"short", retain=True, message_expiry_interval=1)
    clients.wire("c", session_expiry_interval=60, will=Will(clock, payload=b"tick", will_delay_interval=2)).cut()
    wire.exactly(1)
    wire.subscribe(topic)
    assert wire.heard() == []


def test_a_message_says_which_of_the_clients_subscriptions_it_matched(clients: Clients) -> None:
    topic, everything, unnamed = clients.topics("TopicA", "TopicA/#", "+")
    one, two = clients.wire("a"), clients.wire("b")
    one.subscribe(topic, subscription_id=456_789)
    two.subscribe(topic, subscription_id=2)
    two.subscribe(everything, subscription_id=3)
    two.subscribe(unnamed)
    two.publish(topic, b"x")
    assert one.exactly(1)[0].subscription_ids == [456_789]
    heard = two.take(1) + two.published()
    assert sorted(number for message in heard for number in message.subscription_ids) == [2, 3]
    two.subscribe(topic, subscription_id=4)  # the same filter again: replaced
    two.unsubscribe(everything, unnamed)
    two.publish(topic, b"y")
    assert [message.subscription_ids for message in two.take(1)] == [[4]]


def test_members_of_a_shared_subscription_carry_about_the_same_load(clients: Clients) -> None:
    (topic,) = clients.topics("t")
    members = [clients.wire(name) for name in "abcd"]
    for member in members:
        member.subscribe(f"$share/group/{topic}")
    members[0].subscribe(topic)
    other_group = clients.wire("other")
    other_group.subscribe(f"$share/other/{topic}")
    publisher = clients.wire("p")
    for number in range(100):
        publisher.publish(topic, str(number).encode())
    heard = [payloads(member.drained()) for member in members]
    twice = [payload for payload, times in Counter(heard[0]).items() if times == 2]
    assert len(set(heard[0])) == 100  # it subscribed by itself as well
    shares = [twice, *heard[1:]]
    assert sorted(int(payload) for share in shares for payload in share) == list(range(100))
    assert all(10 <= len(share) <= 40 for share in shares)
    assert payloads(other_group.drained()) == [str(number).encode() for number in range(100)]


def test_what_a_member_leaves_unacknowledged_goes_to_the_others(clients: Clients) -> None:
    (topic,) = clients.topics("t")
    leaving, staying = clients.wire("leaving"), clients.wire("staying")
    for member in (leaving, staying):
        member.subscribe(f"$share/group/{topic}")
    publisher = clients.wire("p")
    for number in range(20):
        publisher.publish(topic, str(number).encode())
    unacknowledged = payloads(leaving.published())
    assert unacknowledged
    leaving.cut()
    assert sorted(int(payload) for payload in payloads(staying.exactly(20))) == list(range(20))


def test_retained_messages_do_not_come_to_shared_subscriptions(clients: Clients) -> None:
    (topic,) = clients.topics("t")
    wire = clients.wire("a")
    wire.publish(topic, b"x", retain=True)
    wire.subscribe(f"$share/group/{topic}")
    assert wire.heard() == []


def test_a_shared_subscription_cannot_be_asked_not_to_hear_itself(clients: Clients) -> None:
    (topic,) = clients.topics("t")
    wire = clients.wire("a")
    with pytest.raises(EOFError):
        wire.subscribe(a_filter(f"$share/group/{topic}", no_local=True))
    assert isinstance(wire.inbox[-1], DisconnectPacket)
    assert wire.inbox[-1].reason_code == DisconnectReasonCode.PROTOCOL_ERROR


def test_a_client_that_was_refused_is_told_why(clients: Clients) -> None:
    with pytest.raises(Refused) as refused:
        clients.wire("a", authentication_method="SCRAM-SHA-1")
    assert refused.value.code == ConnAckReasonCode.BAD_AUTHENTICATION_METHOD
