"""What a CONNECT may ask for, what its client gets instead, and what no server could grant."""

from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
from mqtt5 import (
    ConnAckPacket,
    ConnAckReasonCode,
    ConnectPacket,
    DisconnectPacket,
    DisconnectReasonCode,
    PingReqPacket,
    PingRespPacket,
    PubAckPacket,
    PublishPacket,
    QoS,
    SubAckPacket,
    SubscribePacket,
    Will,
)

from core.message import Message, Properties
from core.mqtt import v5, v311
from core.mqtt.admission import CLIENT_ID_BYTES_MAX, Wish, codec_for, examine
from core.mqtt.errors import MalformedPacket
from core.mqtt.limits import Limits
from tests.mqtt_peers import Bench, Guard, publish, wanted

both_versions = pytest.mark.parametrize("version", [5, 4])
LIMITS = Limits(keep_alive=60, session_expiry=86_400)
FOR_EVER = 0xFFFF_FFFF


def wish(version: int = 5, client_id: str = "a", **options: Any) -> Wish:
    found = examine(ConnectPacket(client_id, **{"clean_start": True, **options}), version, LIMITS)
    assert isinstance(found, Wish)
    return found


# -- the client identifier ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client_id", ["a", "press 1/hall#+", "ü" * (CLIENT_ID_BYTES_MAX // 2), "x" * 256])
@pytest.mark.parametrize("version", [5, 4])
def test_a_client_identifier_is_taken_as_it_is(version: int, client_id: str) -> None:
    found = wish(version, client_id)
    assert (found.client_id, found.assigned) == (client_id, False)


@pytest.mark.parametrize("client_id", ["x" * 257, "ü" * 129, "a\nb", "\x1b[2J", "a\x7f"])
@pytest.mark.parametrize("version", [5, 4])
def test_a_client_identifier_too_long_or_with_control_characters_is_refused(version: int, client_id: str) -> None:
    packet = ConnectPacket(client_id, clean_start=True)
    assert examine(packet, version, LIMITS) == ConnAckReasonCode.CLIENT_ID_NOT_VALID


@pytest.mark.parametrize(("version", "clean"), [(5, True), (5, False), (4, True)])
def test_a_client_without_an_identifier_is_given_one_that_is_its_own(version: int, clean: bool) -> None:
    """MQTT 5 section 3.1.3.1, MQTT 3.1.1 section 3.1.3.1."""
    found = [wish(version, "", clean_start=clean) for _ in range(20)]
    assert len({each.client_id for each in found}) == 20
    assert all(each.assigned and each.client_id.startswith("auto-") for each in found)


def test_in_3_1_1_a_client_without_an_identifier_must_begin_anew() -> None:
    packet = ConnectPacket("", clean_start=False)
    assert examine(packet, 4, LIMITS) == ConnAckReasonCode.CLIENT_ID_NOT_VALID


# -- times -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "asked", "granted", "told"),
    [
        (5, 10, 10, False), (5, 60, 60, False), (5, 61, 60, True), (5, 65_535, 60, True), (5, 0, 60, True),
        (4, 10, 10, False), (4, 65_535, 65_535, False), (4, 0, 0, False),
    ],
)  # fmt: skip
def test_an_mqtt_5_client_is_told_of_a_shorter_keep_alive_and_a_3_1_1_client_decides(
    version: int, asked: int, granted: int, told: bool
) -> None:
    """MQTT 5 section 3.2.2.3.14."""
    found = wish(version, keep_alive=asked)
    assert (found.keep_alive, found.keep_alive_told) == (granted, told)


@pytest.mark.parametrize(
    ("asked", "granted", "told"),
    [(0, 0, False), (1, 1, False), (86_400, 86_400, False), (86_401, 86_400, True), (FOR_EVER, 86_400, True)],
)
def test_a_session_lasts_as_long_as_asked_for_within_the_limit(asked: int, granted: int, told: bool) -> None:
    """MQTT 5 section 3.2.2.3.2."""
    found = wish(session_expiry_interval=asked)
    assert (found.expiry, found.expiry_told) == (granted, told)


# -- wills and the rest ------------------------------------------------------------------------------------------------


def test_a_will_is_a_message_of_its_client() -> None:
    will = Will("gone", payload=b"x", qos=QoS.EXACTLY_ONCE, retain=True, will_delay_interval=7, content_type="t")
    found = wish(will=will)
    assert found.will == Message("gone", b"x", 2, True, "a", 0, Properties(content_type="t"))
    assert found.will_delay == 7
    nothing = wish()
    assert (nothing.will, nothing.will_delay) == (None, 0)


def test_the_will_of_a_client_without_an_identifier_names_the_one_that_it_is_given() -> None:
    found = wish(client_id="", will=Will("gone"))
    assert found.will is not None
    assert found.will.client_id == found.client_id


def test_a_will_whose_response_topic_has_a_wildcard_is_refused() -> None:
    packet = ConnectPacket("a", will=Will("gone", response_topic="ok"))
    assert isinstance(examine(packet, 5, LIMITS), Wish)
    data, packets = v5.encode(packet).replace(b"\x00\x02ok", b"\x00\x02a#"), list[Any]()
    v5.decode(data, packets, 1 << 20)
    assert examine(packets[0], 5, LIMITS) == ConnAckReasonCode.TOPIC_NAME_INVALID


def test_extended_authentication_is_refused_by_its_name() -> None:
    packet = ConnectPacket("a", authentication_method="SCRAM", authentication_data=b"x")
    assert examine(packet, 5, LIMITS) == ConnAckReasonCode.BAD_AUTHENTICATION_METHOD


def test_authentication_data_without_a_method_is_a_protocol_error() -> None:
    """MQTT 5 section 3.1.2.11.10."""
    packet = ConnectPacket("a", authentication_data=b"x")
    assert examine(packet, 5, LIMITS) == ConnAckReasonCode.PROTOCOL_ERROR


# -- which MQTT a peer speaks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [v5, v311])
def test_the_version_is_known_from_the_first_bytes_and_not_before(codec: ModuleType) -> None:
    data = codec.encode(ConnectPacket("a", clean_start=True))
    assert [codec_for(data[:size]) for size in range(1, 9)] == [None] * 8
    assert codec_for(data[:9]) is codec
    assert codec_for(data) is codec


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x00", 0x82),
        (b"\x30\x04\x00\x01ax", 0x82),
        (b"GET / HTTP/1.1\r\n\r\n", 0x82),
        (b"\x10\xff\xff\xff\xff\x01", 0x81),
        (b"\x10\x0c\x00\x04MQTX\x04", 0x81),
        (b"\x10\x0c\x00\x05MQTT\x04", 0x81),
        (b"\x10\x0c\x00\x06MQIsdp\x03", 0x84),
        (b"\x10\x0c\x00\x04MQTT\x03", 0x84),
        (b"\x10\x0c\x00\x04MQTT\x06", 0x84),
    ],
)
def test_whatever_is_no_mqtt_of_ours_is_named(data: bytes, reason: int) -> None:
    with pytest.raises(MalformedPacket) as caught:
        codec_for(data)
    assert caught.value.reason == reason


# -- an answer that comes later ----------------------------------------------------------------------------------------


@both_versions
def test_packets_behind_connect_wait_for_the_answer_and_are_then_handled_in_order(version: int) -> None:
    guard = Guard(later=True)
    bench = Bench(access=guard)
    peer = bench.open(version)
    stream = b"".join(
        map(
            peer.codec.encode,
            [ConnectPacket("a", clean_start=True), publish("t", b"1", 1), SubscribePacket(2, [wanted("t")]),
             publish("t", b"2"), publish("t", b"3", 3), PingReqPacket()],
        )
    )  # fmt: skip
    for start, end in pairwise([0, 20, 25, 31, len(stream) - 3, len(stream)]):
        peer.feed(stream[start:end])
    assert peer.heard() == []
    assert bench.batches == []
    assert peer.connection.holding
    (decide,) = guard.waiting
    decide()
    assert not peer.connection.holding
    assert [message.payload for message in bench.accepted] == [b"1", b"2", b"3"]
    heard = peer.heard()
    assert [type(packet) for packet in heard] == [
        ConnAckPacket, PubAckPacket, SubAckPacket, PublishPacket, PublishPacket, PubAckPacket, PingRespPacket,
    ]  # fmt: skip
    assert len(guard.seen) == 1


@both_versions
def test_the_shell_is_woken_by_an_answer_that_comes_later(version: int) -> None:
    guard = Guard(later=True)
    peer = Bench(access=guard).open(version)
    peer.send(ConnectPacket("a", clean_start=True))
    woken = peer.woken
    guard.waiting[0]()
    assert peer.woken > woken


@both_versions
def test_a_refusal_that_comes_later_handles_nothing_of_what_waited(version: int) -> None:
    guard = Guard(ConnAckReasonCode.NOT_AUTHORIZED, later=True)
    bench = Bench(access=guard)
    peer = bench.open(version)
    peer.send(ConnectPacket("a", clean_start=True), publish("t"))
    guard.waiting[0]()
    assert peer.heard() == [ConnAckPacket(reason_code=ConnAckReasonCode.NOT_AUTHORIZED)]
    assert peer.closed
    assert bench.batches == []


def test_an_answer_for_a_connection_that_is_gone_admits_nobody() -> None:
    guard = Guard(later=True)
    bench = Bench(access=guard)
    peer = bench.open()
    peer.send(ConnectPacket("a", session_expiry_interval=60))
    peer.cut()
    guard.waiting[0]()
    assert peer.heard() == []
    assert (bench.broker.clients(), bench.broker.sessions, bench.events) == ([], 0, [])


def test_whoever_waits_for_an_answer_has_its_ten_seconds_and_no_more() -> None:
    guard = Guard(later=True)
    bench = Bench(access=guard)
    peer = bench.open()
    peer.send(ConnectPacket("a"))
    bench.wait(10)
    assert peer.closed
    guard.waiting[0]()
    assert bench.broker.clients() == []


def test_what_waits_behind_connect_counts_as_unsettled_with_its_size() -> None:
    guard = Guard(later=True)
    bench = Bench(access=guard, settle=False)
    peer = bench.open()
    peer.send(ConnectPacket("a"), publish("t", bytes(100_000)))
    guard.waiting[0]()
    assert peer.connection.unsettled > 40_000  # packets of one read count alike


def test_what_waits_behind_connect_is_bounded() -> None:
    guard = Guard(later=True)
    bench = Bench(access=guard)
    peer = bench.open()
    peer.send(ConnectPacket("a"))
    for _ in range(3):
        peer.send(publish("t", bytes(100_000)))
    assert peer.closed
    assert bench.counters.value("mqtt_refused_total", reason="0x95") == 1
    guard.waiting[0]()
    assert bench.broker.clients() == []


def test_a_second_connect_while_the_first_is_being_decided_ends_the_connection() -> None:
    guard = Guard(later=True)
    bench = Bench(access=guard)
    peer = bench.open()
    peer.send(ConnectPacket("a"), ConnectPacket("b"), publish("t"))
    assert len(guard.waiting) == 1
    guard.waiting[0]()
    (_, farewell) = peer.heard()
    assert isinstance(farewell, DisconnectPacket)
    assert farewell.reason_code == DisconnectReasonCode.PROTOCOL_ERROR
    assert (len(guard.seen), bench.batches) == (1, [])


def test_of_two_that_wait_with_one_identifier_the_later_answer_takes_over() -> None:
    guard = Guard(later=True)
    bench = Bench(access=guard)
    peers = [bench.open(), bench.open()]
    for peer in peers:
        peer.send(ConnectPacket("a", keep_alive=60))
    guard.waiting[1]()
    guard.waiting[0]()
    assert peers[1].closed
    assert [type(packet) for packet in peers[1].heard()] == [ConnAckPacket, DisconnectPacket]
    assert [type(packet) for packet in peers[0].heard()] == [ConnAckPacket]
    peers[1].cut()
    assert len(bench.broker.clients()) == 1


@pytest.mark.parametrize("version", [5, 4])
def test_a_will_may_be_for_a_rule_and_not_for_the_daemon(version: int) -> None:
    found = wish(version, will=Will(topic="$aws/rules/Offline/press", payload=b"gone"))
    assert found.will is not None
    assert found.will.topic == "$aws/rules/Offline/press"
    packet = ConnectPacket("a", clean_start=True, will=Will(topic="$aws/certificates/create/json", payload=b"{}"))
    assert examine(packet, version, LIMITS) == ConnAckReasonCode.NOT_AUTHORIZED
