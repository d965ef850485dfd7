"""One connection of either version: who is let in, what may come when, and what is answered."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mqtt5 import (
    AuthPacket,
    ConnAckPacket,
    ConnAckReasonCode,
    ConnectPacket,
    DisconnectPacket,
    DisconnectReasonCode,
    Packet,
    PingReqPacket,
    PingRespPacket,
    PubAckPacket,
    PubCompPacket,
    PublishPacket,
    PubRecPacket,
    PubRelPacket,
    QoS,
    RetainHandling,
    SubAckPacket,
    SubAckReasonCode,
    SubscribePacket,
    UnsubAckPacket,
    UnsubscribePacket,
    Will,
)

from core.message import Message
from core.mqtt.access import Identity
from core.mqtt.limits import Limits
from core.mqtt.session import SUBSCRIPTIONS_MAX
from core.receipts import DELIVERED
from tests.mqtt_peers import Bench, Peer, forged, only, publish, wanted

# The library writes to the log of lost exceptions before it panics at a string that is not UTF-8.
may_panic = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
QOS_2 = QoS.EXACTLY_ONCE
GRANTED = SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE
both_versions = pytest.mark.parametrize("version", [5, 4])


def answer_to(peer: Peer, packet: Packet) -> Packet:
    peer.send(packet)
    (answer,) = peer.heard()
    return answer


def assert_disconnected(peer: Peer, reason: DisconnectReasonCode) -> None:
    """Closed, and an MQTT 5 client was told why as the last thing it heard."""
    assert peer.closed
    heard = peer.heard()
    if peer.connection.version == 5:
        assert isinstance(heard[-1], DisconnectPacket)
        assert heard[-1].reason_code == reason
        heard.pop()
    assert only(heard, DisconnectPacket) == []


class Guarded:
    """Lets in whom it is told to, and nobody near `secret`."""

    def __init__(self, answer: ConnAckReasonCode = ConnAckReasonCode.SUCCESS) -> None:
        self.seen: list[Identity] = []
        self._answer = answer

    def connect(self, identity: Identity, packet: ConnectPacket) -> ConnAckReasonCode:
        self.seen.append(identity)
        return self._answer

    def publish(self, identity: Identity, topic: str) -> bool:
        return not topic.startswith("secret")

    def subscribe(self, identity: Identity, pattern: str) -> bool:
        return not pattern.startswith("secret")


# -- CONNECT -----------------------------------------------------------------------------------------------------------


def test_both_versions_live_on_one_broker_and_hear_each_other() -> None:
    bench = Bench()
    new, old = bench.connect("new", 5), bench.connect("old", 4)
    assert (new.connection.version, old.connection.version) == (5, 4)
    for peer in (new, old):
        assert peer.subscribe("t") == [1]
    new.send(publish("t", b"from new", 1))
    old.send(publish("t", b"from old", 1))
    for peer in (new, old):
        heard = only(peer.heard(), PublishPacket)
        assert [packet.payload for packet in heard] == [b"from new", b"from old"]
        assert [packet.qos for packet in heard] == [QoS.AT_LEAST_ONCE] * 2


def test_an_mqtt_5_client_is_told_what_the_broker_can_do() -> None:
    answer = answer_to(Bench(Limits(packet_bytes=9_999, receive_max=17)).open(), ConnectPacket("a"))
    assert answer == ConnAckPacket(
        receive_max=17,
        max_qos=QoS.AT_LEAST_ONCE,
        max_packet_size=9_999,
        subscription_id_available=False,
        shared_subscription_available=False,
    )


def test_a_client_that_wants_its_session_kept_is_told_that_it_is_not() -> None:
    answer = answer_to(Bench().open(), ConnectPacket("a", session_expiry_interval=3_600))
    assert isinstance(answer, ConnAckPacket)
    assert answer.session_expiry_interval == 0
    assert not answer.session_present


def test_an_empty_client_id_is_answered_with_one_that_is_unique() -> None:
    bench, names = Bench(), set()
    for _ in range(3):
        answer = answer_to(bench.open(), ConnectPacket("", clean_start=True))
        assert isinstance(answer, ConnAckPacket)
        names.add(answer.assigned_client_id)
    assert len(names) == 3
    assert names == {presence.client_id for presence in bench.broker.clients()}


def test_an_empty_client_id_in_3_1_1_needs_a_clean_session() -> None:
    bench = Bench()
    assert answer_to(bench.open(4), ConnectPacket("", clean_start=True)) == ConnAckPacket()
    peer = bench.open(4)
    assert answer_to(peer, ConnectPacket("", clean_start=False)) == ConnAckPacket(
        reason_code=ConnAckReasonCode.CLIENT_ID_NOT_VALID
    )
    assert peer.closed
    assert len(bench.broker.clients()) == 1


@pytest.mark.parametrize(
    ("start", "answer"),
    [
        (b"\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x00\x00\x00", b"\x20\x02\x00\x01"),  # MQTT 3.1
        (b"\x10\x0c\x00\x04MQTT\x03\x02\x00\x00\x00\x00", b"\x20\x02\x00\x01"),
        (b"\x10\x0d\x00\x04MQTT\x06\x02\x00\x00\x00\x00\x00", b"\x20\x02\x00\x01"),
        (b"\x10\x0c\x00\x04MQTX\x04\x02\x00\x00\x00\x00", b""),
        (b"\x10\x0c\x00\x05MQTT\x04\x02\x00\x00\x00\x00", b""),
        (b"\x11\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00", b""),
        (b"\x10\xff\xff\xff\xff\x01", b""),
        (b"GET / HTTP/1.1\r\n\r\n", b""),
        (b"\x16\x03\x01\x02\x00\x01\x00", b""),  # TLS on a plain port
        (b"\x00", b""),
    ],
)
def test_a_stranger_that_does_not_speak_our_mqtt_is_closed_however_its_bytes_arrive(
    start: bytes, answer: bytes
) -> None:
    for size in (1, 3, len(start)):
        bench = Bench()
        peer = bench.open()
        for offset in range(0, len(start), size):
            peer.feed(start[offset : offset + size])
        assert peer.closed
        assert peer.connection.take() == answer
        assert bench.counters.value("mqtt_refused_total") == 1


@both_versions
def test_connect_may_arrive_byte_by_byte_and_with_packets_behind_it(version: int) -> None:
    bench = Bench()
    peer = bench.open(version)
    stream = b"".join(map(peer.codec.encode, [ConnectPacket("a", clean_start=True), publish("t", b"1", 1)]))
    for index in range(len(stream)):
        peer.feed(stream[index : index + 1])
    assert [type(packet) for packet in peer.heard()] == [ConnAckPacket, PubAckPacket]
    peer = bench.open(version)
    peer.feed(stream)
    assert [type(packet) for packet in peer.heard()] == [ConnAckPacket, PubAckPacket]
    assert bench.topics == ["t", "t"]


@both_versions
@pytest.mark.parametrize(
    "packet",
    [publish("t", b"1", 1), PingReqPacket(), SubscribePacket(1, [wanted("t")]), DisconnectPacket(), ConnAckPacket()],
    ids=lambda packet: type(packet).__name__,
)
def test_nothing_is_handled_before_connect(version: int, packet: Packet) -> None:
    bench = Bench()
    peer = bench.open(version)
    peer.send(packet, ConnectPacket("a", clean_start=True))
    assert peer.closed
    assert peer.connection.take() == b""
    assert bench.batches == []
    assert bench.broker.clients() == []


@both_versions
def test_a_second_connect_ends_the_connection(version: int) -> None:
    bench = Bench()
    peer = bench.connect("a", version)
    peer.send(ConnectPacket("a", clean_start=True), publish("t"))
    assert_disconnected(peer, DisconnectReasonCode.PROTOCOL_ERROR)
    assert bench.batches == []


def test_a_connect_above_the_strangers_limit_is_not_waited_for() -> None:
    bench = Bench(Limits(connect_bytes=100))
    peer = bench.open()
    data = peer.codec.encode(ConnectPacket("a", username="u" * 200))
    peer.feed(data[:12])
    assert peer.closed
    assert bench.counters.value("mqtt_refused_total", reason="0x95") == 1


def test_packets_behind_connect_may_be_larger_than_the_strangers_limit() -> None:
    bench = Bench(Limits(connect_bytes=100))
    peer = bench.open()
    peer.send(ConnectPacket("a"), publish("t", bytes(5_000)))
    assert not peer.closed
    assert [len(message.payload) for message in bench.accepted] == [5_000]


@both_versions
def test_who_is_refused_is_told_why_and_counted(version: int) -> None:
    bench = Bench(access=Guarded(ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD))
    peer = bench.open(version)
    answer = answer_to(peer, ConnectPacket("a", clean_start=True))
    assert answer == ConnAckPacket(reason_code=ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD)
    assert peer.closed
    assert bench.broker.clients() == []
    assert bench.counters.value("mqtt_connects_refused_total", reason="bad_user_name_or_password") == 1
    peer.send(publish("t"))
    assert bench.batches == []


def test_access_is_asked_with_everything_known_about_a_client() -> None:
    guard = Guarded()
    bench = Bench(access=guard)
    bench.open(5, "press-1.example").send(ConnectPacket("press"))
    assert guard.seen == [Identity("press", "10.0.0.7:50000", "press-1.example")]


def test_extended_authentication_is_refused_by_its_name() -> None:
    answer = answer_to(Bench().open(), ConnectPacket("a", authentication_method="SCRAM", authentication_data=b"x"))
    assert answer == ConnAckPacket(reason_code=ConnAckReasonCode.BAD_AUTHENTICATION_METHOD)


@both_versions
@pytest.mark.parametrize(
    ("will", "reason", "in_3_1_1"),  # which has five words for "no"
    [
        (Will("secret/x"), ConnAckReasonCode.NOT_AUTHORIZED, ConnAckReasonCode.NOT_AUTHORIZED),
        (Will("t", qos=QOS_2), ConnAckReasonCode.QUALITY_NOT_SUPPORTED, ConnAckReasonCode.SERVER_UNAVAILABLE),
    ],
)
def test_a_will_that_could_never_be_published_is_refused_at_once(
    version: int, will: Will, reason: ConnAckReasonCode, in_3_1_1: ConnAckReasonCode
) -> None:
    bench = Bench(access=Guarded())
    peer = bench.open(version)
    answer = answer_to(peer, ConnectPacket("a", clean_start=True, will=will))
    assert answer == ConnAckPacket(reason_code=reason if version == 5 else in_3_1_1)
    peer.cut()
    assert bench.batches == []


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


# -- time --------------------------------------------------------------------------------------------------------------


def test_a_stranger_has_ten_seconds_to_say_connect() -> None:
    bench = Bench()
    silent, half = bench.open(), bench.open()
    half.feed(b"\x10\x20\x00\x04MQ")
    bench.wait(9.75)
    assert not silent.closed
    half.feed(b"TT\x05")  # a trickle does not buy time
    bench.wait(0.25)
    assert silent.closed
    assert half.closed
    assert silent.connection.take() == b""


@both_versions
def test_silence_for_one_and_a_half_keep_alive_intervals_ends_a_connection(version: int) -> None:
    bench = Bench()
    peer = bench.connect("a", version, keep_alive=10)
    bench.wait(14.75)
    assert answer_to(peer, PingReqPacket()) == PingRespPacket()
    bench.wait(14.75)
    assert not peer.closed
    bench.wait(0.25)
    assert_disconnected(peer, DisconnectReasonCode.KEEP_ALIVE_TIMEOUT)
    assert bench.broker.clients() == []


def test_any_packet_counts_as_a_sign_of_life_and_half_a_packet_does_not() -> None:
    bench = Bench()
    peer = bench.connect("a", keep_alive=10)
    bench.wait(14)
    peer.send(publish("t"))
    bench.wait(14)
    peer.feed(b"\x30\x05\x00")
    bench.wait(1)
    assert peer.closed


def test_keep_alive_0_means_that_silence_is_allowed() -> None:
    bench = Bench()
    peer = bench.connect("a", keep_alive=0)
    bench.wait(1_000_000)
    assert not peer.closed


def test_a_client_that_we_do_not_read_from_is_not_called_silent() -> None:
    bench = Bench(settle=False)
    peer = bench.connect("a", keep_alive=10)
    peer.send(publish("t", b"", 1))
    bench.wait(60)
    assert not peer.closed
    bench.batches[0].receipt.settle(DELIVERED)
    bench.wait(0)
    assert peer.closed


# -- what may come when ------------------------------------------------------------------------------------------------


@both_versions
@pytest.mark.parametrize(
    "packet",
    [ConnAckPacket(), SubAckPacket(1, [GRANTED]), PingRespPacket(), PubRecPacket(1), PubRelPacket(1), PubCompPacket(1)],
    ids=lambda packet: type(packet).__name__,
)
def test_packets_that_only_a_server_sends_and_those_of_qos_2_end_the_connection(version: int, packet: Packet) -> None:
    peer = Bench().connect("a", version)
    peer.send(packet)
    assert_disconnected(peer, DisconnectReasonCode.PROTOCOL_ERROR)


def test_auth_without_extended_authentication_ends_the_connection() -> None:
    peer = Bench().connect("a")
    peer.send(AuthPacket())
    assert_disconnected(peer, DisconnectReasonCode.PROTOCOL_ERROR)


@may_panic
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x36\x06\x00\x01a\x00\x01\x00", DisconnectReasonCode.MALFORMED_PACKET),
        (b"\x30\x05\x00\x02\xff\xfe\x00", DisconnectReasonCode.MALFORMED_PACKET),
        (b"\x82\x03\x00\x01\x00", DisconnectReasonCode.PROTOCOL_ERROR),  # SUBSCRIBE without a filter
        (b"\xa2\x03\x00\x01\x00", DisconnectReasonCode.PROTOCOL_ERROR),  # UNSUBSCRIBE without one
        (b"\x30\xff\xff\x7f", DisconnectReasonCode.PACKET_TOO_LARGE),
    ],
)
def test_malformed_bytes_end_only_this_connection_after_what_came_before(
    data: bytes, reason: DisconnectReasonCode
) -> None:
    bench = Bench()
    peer, other = bench.connect("a"), bench.connect("b")
    peer.feed(peer.codec.encode(publish("t", b"1", 1)) + data + peer.codec.encode(publish("t", b"2", 2)))
    assert [message.payload for message in bench.accepted] == [b"1"]
    assert_disconnected(peer, reason)
    assert not other.closed
    assert bench.counters.value("mqtt_refused_total", reason=f"0x{int(reason):02x}") == 1


@both_versions
def test_a_packet_above_the_limit_ends_the_connection_as_soon_as_it_says_its_length(version: int) -> None:
    bench = Bench(Limits(packet_bytes=1_000))
    peer = bench.connect("a", version)
    peer.feed(peer.codec.encode(publish("t", bytes(1_000)))[:4])
    assert_disconnected(peer, DisconnectReasonCode.PACKET_TOO_LARGE)


@both_versions
def test_after_the_end_nothing_is_read_and_nothing_is_sent(version: int) -> None:
    bench = Bench(settle=False)
    peer, other = bench.connect("a", version), bench.connect("b")
    peer.subscribe("t")
    peer.send(publish("u", b"", 1), ConnectPacket("a", clean_start=True))
    assert_disconnected(peer, DisconnectReasonCode.PROTOCOL_ERROR)
    bench.batches[0].receipt.settle(DELIVERED)
    other.send(publish("t"))  # before the shell has noticed that the socket is gone
    peer.send(publish("u", b"", 2), PingReqPacket())
    peer.connection.congested = False
    peer.connection.taken()
    assert peer.heard() == []
    assert bench.topics == ["u", "t"]


@may_panic
@given(st.lists(st.binary(max_size=12), max_size=4), st.sampled_from([4, 5]), st.booleans())
@settings(max_examples=200)
def test_whatever_a_peer_sends_only_its_own_connection_ends(reads: list[bytes], version: int, admitted: bool) -> None:
    bench = Bench()
    other = bench.connect("other")
    peer = bench.connect("a", version) if admitted else bench.open(version)
    for data in filter(None, reads):
        peer.feed(data)
    bench.wait(11)
    assert admitted or peer.closed
    assert answer_to(other, PingReqPacket()) == PingRespPacket()


# -- subscriptions -----------------------------------------------------------------------------------------------------


@both_versions
def test_subscribing_answers_each_filter_in_order(version: int) -> None:
    bench = Bench(access=Guarded())
    peer = bench.connect("a", version)
    codes = peer.subscribe(wanted("a", 0), wanted("b", 1), wanted("c", 2), "secret/#", "$share/group/t")
    assert codes == [0, 1, 1, *([0x87, 0x9E] if version == 5 else [0x80, 0x80])]
    assert bench.broker.router.subscriptions == 3


@pytest.mark.parametrize("pattern", ["a/#/b", "a+", "#a", "a\0b", "/" * 200])
def test_an_invalid_filter_is_refused_alone_in_mqtt_5_and_malformed_in_3_1_1(pattern: str) -> None:
    bench = Bench()
    new, old = bench.connect("a", 5), bench.connect("b", 4)
    for version, peer in [(5, new), (4, old)]:
        peer.feed(forged(version, lambda f: SubscribePacket(1, [wanted("x"), wanted(f), wanted("y")]), pattern))
    (answer,) = new.heard()
    assert isinstance(answer, SubAckPacket)
    assert [int(code) for code in answer.reason_codes] == [1, 0x8F, 1]
    assert_disconnected(old, DisconnectReasonCode.TOPIC_FILTER_INVALID)
    assert bench.broker.router.subscriptions == 2


def test_a_subscription_identifier_was_not_offered() -> None:
    peer = Bench().connect("a")
    peer.send(SubscribePacket(1, [wanted("t")], subscription_id=5))
    assert_disconnected(peer, DisconnectReasonCode.SUBSCRIPTION_IDS_NOT_SUPPORTED)


def test_one_client_has_a_bounded_number_of_subscriptions() -> None:
    bench = Bench()
    peer = bench.connect("a")
    for start in range(0, SUBSCRIPTIONS_MAX, 100):
        assert peer.subscribe(*[f"t/{n}" for n in range(start, start + 100)]) == [1] * 100
    assert peer.subscribe("one too many") == [0x97]
    assert peer.subscribe("t/5") == [1]  # an old one again
    assert bench.connect("b").subscribe("t") == [1]
    assert bench.broker.router.subscriptions == SUBSCRIPTIONS_MAX + 1


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


def test_a_filter_that_was_refused_gets_no_retained_messages() -> None:
    bench = Bench(access=Guarded())
    bench.broker.publish([Message("secret/key", b"42", retain=True)])
    peer = bench.connect("a")
    assert peer.subscribe("secret/#") == [0x87]
    assert peer.published() == []


def test_retain_as_published_and_no_local_are_options_of_mqtt_5() -> None:
    bench = Bench()
    peer = bench.connect("a")
    assert peer.subscribe(wanted("own/#", no_local=True), wanted("kept", retain_as_published=True)) == [1, 1]
    peer.send(publish("own/1"), publish("kept", retain=True))
    bench.connect("b").send(publish("own/2"), publish("kept"))
    assert [(p.topic, p.retain) for p in peer.published()] == [("kept", True), ("own/2", False), ("kept", False)]


# -- what a client can take --------------------------------------------------------------------------------------------


def test_the_receive_maximum_of_the_client_is_honoured_and_pubacks_make_room() -> None:
    bench = Bench()
    peer, other = bench.connect("a", receive_max=2), bench.connect("b")
    peer.subscribe("t")
    other.send(*[publish("t", b"%d" % n, n) for n in range(1, 6)])
    first = peer.published()
    assert [p.payload for p in first] == [b"1", b"2"]
    peer.send(PubAckPacket(first[0].packet_id or 0))
    assert [p.payload for p in peer.published()] == [b"3"]
    peer.send(PubAckPacket(first[0].packet_id or 0))
    assert peer.published() == []
    assert bench.counters.value("mqtt_unknown_acknowledgements_total") == 1


def test_the_maximum_packet_size_of_the_client_is_honoured_and_the_loss_counted() -> None:
    bench = Bench()
    peer, other = bench.connect("a", receive_max=1, max_packet_size=200), bench.connect("b")
    peer.subscribe("t")
    other.send(*[publish("t", bytes(300), n) for n in range(1, 4)], publish("t", b"small", 9))
    assert [p.payload for p in peer.published()] == [b"small"]
    assert bench.counters.value("dropped_total", reason="larger than the client accepts") == 3


def test_a_congested_client_gets_what_waited_when_it_reads_again_and_the_shell_is_woken() -> None:
    bench = Bench()
    peer, other = bench.connect("a"), bench.connect("b")
    peer.subscribe("t")
    peer.connection.congested = True
    other.send(publish("t", b"1"), publish("t", b"2", 1))
    assert peer.heard() == []
    woken = peer.woken
    peer.connection.congested = False
    peer.connection.taken()
    assert [p.payload for p in peer.published()] == [b"1", b"2"]
    assert peer.woken > woken


def test_a_disconnect_ends_the_connection_without_an_answer() -> None:
    bench = Bench()
    for version in (5, 4):
        peer = bench.connect("a", version)
        peer.subscribe("t")
        peer.send(DisconnectPacket(), publish("t"))
        assert peer.closed
        assert peer.heard() == []
    assert bench.broker.clients() == []
    assert bench.broker.router.subscriptions == 0
    assert bench.batches == []
