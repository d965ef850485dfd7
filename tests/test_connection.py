"""One connection of either version: who is let in, what may come when, and what a client can take."""

from typing import Any

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
    PublishPacket,
    QoS,
    SubAckPacket,
    SubAckReasonCode,
    SubscribePacket,
    UnsubscribePacket,
    Will,
)

from core.mqtt import v5
from core.mqtt.limits import Limits
from core.receipts import DELIVERED
from tests.mqtt_peers import Bench, Guard, Peer, only, publish, publish_2, wanted

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
    """Everything there is: what is not said is "yes" (MQTT 5 section 3.2.2.3)."""
    limits = Limits(packet_bytes=9_999, receive_max=17, topic_aliases=5, keep_alive=60)
    answer = answer_to(Bench(limits).open(), ConnectPacket("a", keep_alive=60))
    assert answer == ConnAckPacket(receive_max=17, topic_alias_max=5, max_packet_size=9_999)


def test_a_client_is_told_of_the_times_that_it_gets_instead_of_those_it_asked_for() -> None:
    limits = Limits(keep_alive=60, session_expiry=1_000)
    answer = answer_to(Bench(limits).open(), ConnectPacket("a", keep_alive=600, session_expiry_interval=1_001))
    assert isinstance(answer, ConnAckPacket)
    assert (answer.server_keep_alive, answer.session_expiry_interval) == (60, 1_000)


@pytest.mark.parametrize(("asked", "told"), [(True, "responses/a"), (False, None)])
def test_response_information_is_for_who_asks_for_it(asked: bool, told: str | None) -> None:
    """MQTT 5 section 3.1.2.11.6."""
    assert Bench().connect("a", request_response_info=asked).welcome.response_info == told


def test_an_empty_client_id_is_answered_with_one_that_is_unique() -> None:
    bench = Bench()
    names = {bench.connect("").welcome.assigned_client_id for _ in range(3)}
    assert len(names) == 3
    assert names == {presence.client_id for presence in bench.broker.clients()}
    assert bench.connect("a").welcome.assigned_client_id is None


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
    bench = Bench(access=Guard(ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD))
    peer = bench.open(version)
    answer = answer_to(peer, ConnectPacket("a", clean_start=True))
    assert answer == ConnAckPacket(reason_code=ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD)
    assert peer.closed
    assert bench.broker.clients() == []
    assert bench.counters.value("mqtt_connects_refused_total", reason="bad_user_name_or_password") == 1
    peer.send(publish("t"))
    assert bench.batches == []


@pytest.mark.parametrize("reason", [ConnAckReasonCode.SERVER_BUSY, ConnAckReasonCode.NOT_AUTHORIZED])
def test_the_reason_of_a_refusal_has_the_word_that_3_1_1_has_for_it(reason: ConnAckReasonCode) -> None:
    peer = Bench(access=Guard(reason)).open(4)
    peer.send(ConnectPacket("a", clean_start=True))
    codes = {ConnAckReasonCode.SERVER_BUSY.name: 3, ConnAckReasonCode.NOT_AUTHORIZED.name: 5}  # its section 3.2.2.3
    assert peer.connection.take() == bytes((0x20, 2, 0, codes[reason.name]))


def test_access_is_asked_with_everything_known_about_a_client() -> None:
    guard = Guard()
    bench = Bench(access=guard)
    bench.connect("press", principal="press-1.example")
    ((who, client_id),) = guard.seen
    assert (who.address, client_id) == ("10.0.0.7:50000", "press")
    assert who.certificate is not None
    assert who.certificate.subject == {"commonName": "press-1.example"}


def test_extended_authentication_is_refused_by_its_name() -> None:
    answer = answer_to(Bench().open(), ConnectPacket("a", authentication_method="SCRAM", authentication_data=b"x"))
    assert answer == ConnAckPacket(reason_code=ConnAckReasonCode.BAD_AUTHENTICATION_METHOD)


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


def test_keep_alive_0_means_that_silence_is_allowed_in_3_1_1_and_a_minute_in_mqtt_5() -> None:
    bench = Bench()
    new, old = bench.connect("new", 5, keep_alive=0), bench.connect("old", 4, keep_alive=0)
    assert new.welcome.server_keep_alive == 60
    bench.wait(89.75)
    assert not new.closed
    bench.wait(0.25)
    assert_disconnected(new, DisconnectReasonCode.KEEP_ALIVE_TIMEOUT)
    bench.wait(1_000_000)
    assert not old.closed


def test_a_keep_alive_above_the_limit_counts_as_the_limit_in_mqtt_5_only() -> None:
    bench = Bench(Limits(keep_alive=60))
    new, old = bench.connect("new", 5, keep_alive=600), bench.connect("old", 4, keep_alive=600)
    bench.wait(90)
    assert (new.closed, old.closed) == (True, False)
    bench.wait(810)
    assert old.closed


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
    [ConnAckPacket(), SubAckPacket(1, [GRANTED]), PingRespPacket()],
    ids=lambda packet: type(packet).__name__,
)
def test_packets_that_only_a_server_sends_end_the_connection(version: int, packet: Packet) -> None:
    peer = Bench().connect("a", version)
    peer.send(packet)
    assert_disconnected(peer, DisconnectReasonCode.PROTOCOL_ERROR)


def test_auth_without_extended_authentication_ends_the_connection() -> None:
    peer = Bench().connect("a")
    peer.send(AuthPacket())
    assert_disconnected(peer, DisconnectReasonCode.PROTOCOL_ERROR)


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
    v5.be_wary()
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
def test_a_large_packet_in_small_pieces_is_looked_at_once(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    peer = bench.connect("a", version)
    looks: list[int] = []
    decode = peer.codec.decode
    monkeypatch.setattr(peer.codec, "decode", lambda data, *more: looks.append(len(data)) or decode(data, *more))
    data = peer.codec.encode(publish("t", bytes(100_000), 1)) + peer.codec.encode(publish("t", b"x", 2))
    for start in range(0, len(data), 10):
        peer.feed(data[start : start + 10])
    assert [len(message.payload) for message in bench.accepted] == [100_000, 1]
    assert len(looks) < 10


@both_versions
def test_a_read_is_not_copied_for_each_acknowledgement_in_it(version: int) -> None:
    class Read(list[Packet]):
        copied = 0

        def __getitem__(self, index: Any) -> Any:
            found = super().__getitem__(index)
            self.copied += len(found) if isinstance(index, slice) else 0
            return found

    bench = Bench()
    peer = bench.connect("a", version)
    read = Read([PubAckPacket(7), PingReqPacket(), PubAckPacket(8), PubAckPacket(9)] * 100)
    peer.connection._handle(read, 1_000)
    assert bench.counters.value("mqtt_unknown_acknowledgements_total") == 300
    assert peer.heard() == [PingRespPacket()] * 100
    assert read.copied == 0


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


@given(st.lists(st.binary(max_size=12), max_size=4), st.sampled_from([4, 5]), st.booleans())
@settings(max_examples=200)
def test_whatever_a_peer_sends_only_its_own_connection_ends(reads: list[bytes], version: int, admitted: bool) -> None:
    v5.be_wary()
    bench = Bench()
    other = bench.connect("other")
    peer = bench.connect("a", version) if admitted else bench.open(version)
    for data in filter(None, reads):
        peer.feed(data)
    bench.wait(11)
    assert admitted or peer.closed
    assert answer_to(other, PingReqPacket()) == PingRespPacket()


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
    """MQTT 5 section 3.1.2.11.4: what is too large is treated as sent."""
    bench = Bench()
    peer, other = bench.connect("a", receive_max=1, max_packet_size=200), bench.connect("b")
    peer.subscribe(wanted("t", 2))
    large = [publish("t", bytes(300)), publish("t", bytes(300), 1), publish_2("t", bytes(300), 2)]
    other.send(*large, publish("t", b"small", 9))
    assert peer.payloads() == [b"small"]
    assert bench.dropped("larger than the client accepts") == 3


@pytest.mark.parametrize(
    "packet", [SubscribePacket(1, [wanted("t")] * 50), UnsubscribePacket(1, ["t"] * 50)], ids=["SUBACK", "UNSUBACK"]
)
def test_a_client_that_cannot_be_told_what_it_waits_for_is_disconnected(packet: Packet) -> None:
    peer = Bench().connect("a", max_packet_size=40)
    peer.send(packet, PingReqPacket())
    peer.assert_ended(DisconnectReasonCode.PACKET_TOO_LARGE)


@pytest.mark.parametrize(
    ("largest", "answer"), [(12, [ConnAckPacket(reason_code=ConnAckReasonCode.PACKET_TOO_LARGE)]), (3, [])]
)
def test_a_client_that_cannot_be_told_that_it_is_welcome_is_turned_away(largest: int, answer: list[Packet]) -> None:
    bench = Bench()
    peer = bench.open()
    peer.send(
        ConnectPacket("a", max_packet_size=largest, will=Will("gone"), session_expiry_interval=60), publish("t")
    )
    assert peer.heard() == answer
    assert peer.closed
    peer.cut()
    assert (bench.broker.clients(), bench.broker.sessions, bench.events, bench.batches) == ([], 0, [], [])


def test_a_session_outlives_a_connection_whose_client_could_not_be_welcomed() -> None:
    bench = Bench()
    bench.resume("a").cut()
    peer = bench.open()
    peer.send(ConnectPacket("a", max_packet_size=12, session_expiry_interval=3_600))
    assert peer.closed
    peer.cut()
    assert bench.resume("a").welcome.session_present


def test_a_farewell_that_is_too_large_is_said_without_its_text() -> None:
    """MQTT 5 section 3.14.2.2.3."""
    peer = Bench().connect("a", max_packet_size=30)
    peer.feed(b"\x30\x05\x00\x01#\x00x")
    assert peer.heard() == [DisconnectPacket(reason_code=DisconnectReasonCode.TOPIC_NAME_INVALID)]
    assert peer.closed


@pytest.mark.parametrize("topic_alias_max", [0, 1])
def test_a_message_may_be_as_large_as_the_client_says_to_the_byte(topic_alias_max: int) -> None:
    bench = Bench()
    sent = publish("t", bytes(80), topic_alias=1 if topic_alias_max else None)
    size = len(sent.write())
    takes = bench.connect("a", max_packet_size=size, topic_alias_max=topic_alias_max)
    refuses = bench.connect("b", max_packet_size=size - 1, topic_alias_max=topic_alias_max)
    for peer in (takes, refuses):
        peer.subscribe("t")
    bench.connect("c").send(publish("t", bytes(80)))
    assert takes.published() == [sent]
    assert refuses.published() == []


def test_a_client_that_allows_it_is_sent_each_topic_once_and_its_alias_after_that() -> None:
    """MQTT 5 section 3.3.2.3.4; topics beyond its maximum are sent in full."""
    bench = Bench()
    peer, other = bench.connect("a", topic_alias_max=2), bench.connect("b")
    peer.subscribe("#")
    other.send(*[publish(topic, b"", n) for n, topic in enumerate(["x", "y", "x", "z", "y", "z"], 1)])
    assert [(packet.topic, packet.topic_alias) for packet in peer.published()] == [
        ("x", 1), ("y", 2), ("", 1), ("z", None), ("", 2), ("z", None),
    ]  # fmt: skip


def test_aliases_end_with_the_connection() -> None:
    bench = Bench()
    peer, other = bench.resume("a", topic_alias_max=5), bench.connect("b")
    peer.subscribe("t")
    other.send(publish("t", b"1", 1), publish("t", b"2", 2))
    assert [(packet.topic, packet.topic_alias) for packet in peer.published()] == [("t", 1), ("", 1)]
    peer.cut()
    again = bench.resume("a", topic_alias_max=5)
    assert [(packet.topic, packet.topic_alias) for packet in again.published()] == [("t", 1), ("", 1)]
    again.cut()
    assert [packet.topic_alias for packet in bench.resume("a").published()] == [None, None]


def test_a_topic_that_was_too_large_to_send_has_no_alias() -> None:
    bench = Bench()
    peer, other = bench.connect("a", topic_alias_max=5, max_packet_size=100), bench.connect("b")
    peer.subscribe("t")
    other.send(publish("t", bytes(200)), publish("t", b"1"), publish("t", b"2"))
    assert [(packet.topic, packet.topic_alias) for packet in peer.published()] == [("t", 1), ("", 1)]


def test_a_message_that_expires_says_to_each_client_what_remains() -> None:
    bench = Bench()
    peers = [bench.connect("a"), bench.connect("b", 4), bench.resume("c", topic_alias_max=3)]
    for peer in peers:
        peer.subscribe("t")
    peers[2].cut()
    bench.connect("p").send(publish("t", b"x", 1, message_expiry_interval=30))
    bench.wait(12)
    assert peers[0].published()[0].message_expiry_interval == 30
    assert peers[1].published()[0].message_expiry_interval is None
    assert bench.resume("c").published()[0].message_expiry_interval == 18


def test_a_flood_for_one_client_leaves_in_bounded_portions_and_none_is_lost() -> None:
    bench = Bench()
    peer, other = bench.connect("a"), bench.connect("b")
    peer.subscribe(wanted("t", 0))
    payloads = [b"%d" % n + bytes(50_000) for n in range(20)]
    for payload in payloads:
        other.send(publish("t", payload))
    assert len(peer.connection.take()) < 400_000
    peer.connection.taken()
    assert peer.payloads() == payloads[6:]


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
