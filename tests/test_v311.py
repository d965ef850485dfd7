"""The MQTT 3.1.1 codec: the standard's bytes, every packet type, every malformation by its name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqtt5 import (
    AuthPacket,
    ConnAckPacket,
    ConnAckReasonCode,
    ConnectPacket,
    DisconnectPacket,
    Packet,
    PingReqPacket,
    PingRespPacket,
    PubAckPacket,
    PubAckReasonCode,
    PubCompPacket,
    PublishPacket,
    PubRecPacket,
    PubRelPacket,
    QoS,
    SubAckPacket,
    SubAckReasonCode,
    SubscribePacket,
    TopicFilter,
    UnsubAckPacket,
    UnsubAckReasonCode,
    UnsubscribePacket,
    Will,
)

from core.mqtt import v311
from core.mqtt.errors import MalformedPacket

LIMIT = 1 << 20


def decode_all(data: bytes, limit: int = LIMIT) -> list[Packet]:
    packets: list[Packet] = []
    assert v311.decode(data, packets, limit) == len(data)
    return packets


def wanted(pattern: str, qos: int) -> TopicFilter:
    return TopicFilter(pattern, max_qos=QoS(qos), retain_as_published=False)


CONNECT_HEAD = b"\x00\x04MQTT\x04"
FULL_CONNECT = ConnectPacket(
    "press",
    username="ada",
    password=b"\x00\xff",
    clean_start=False,
    will=Will("gone", payload=b"bye", qos=QoS.AT_LEAST_ONCE, retain=True),
    keep_alive=60,
    session_expiry_interval=0xFFFF_FFFF,
)

# What each packet looks like on the wire, written by hand from the standard's tables.
VECTORS: list[tuple[str, Packet, bytes]] = [
    ("connect", ConnectPacket("a", clean_start=True), b"\x10\x0d" + CONNECT_HEAD + b"\x02\x00\x00\x00\x01a"),
    (
        "connect with everything",
        FULL_CONNECT,
        b"\x10\x25"
        + CONNECT_HEAD
        + b"\xec\x00\x3c\x00\x05press\x00\x04gone\x00\x03bye\x00\x03ada\x00\x02\x00\xff",
    ),
    ("connack", ConnAckPacket(session_present=True), b"\x20\x02\x01\x00"),
    ("publish QoS 0", PublishPacket("a/b", b"x"), b"\x30\x06\x00\x03a/bx"),
    ("publish without payload", PublishPacket("a", b"", retain=True), b"\x31\x03\x00\x01a"),
    (
        "publish QoS 1",
        PublishPacket("a/b", b"x", qos=QoS.AT_LEAST_ONCE, packet_id=258),
        b"\x32\x08\x00\x03a/b\x01\x02x",
    ),
    (
        "publish QoS 2 again",
        PublishPacket("ü", b"", qos=QoS.EXACTLY_ONCE, packet_id=1, duplicate=True, retain=True),
        b"\x3d\x06\x00\x02\xc3\xbc\x00\x01",
    ),
    ("puback", PubAckPacket(258), b"\x40\x02\x01\x02"),
    ("pubrec", PubRecPacket(258), b"\x50\x02\x01\x02"),
    ("pubrel", PubRelPacket(258), b"\x62\x02\x01\x02"),
    ("pubcomp", PubCompPacket(258), b"\x70\x02\x01\x02"),
    (
        "subscribe",
        SubscribePacket(10, [wanted("a/b", 1), wanted("#", 2)]),
        b"\x82\x0c\x00\x0a\x00\x03a/b\x01\x00\x01#\x02",
    ),
    (
        "suback",
        SubAckPacket(10, [SubAckReasonCode(code) for code in (0, 1, 2, 128)]),
        b"\x90\x06\x00\x0a\x00\x01\x02\x80",
    ),
    ("unsubscribe", UnsubscribePacket(10, ["a/b", "#"]), b"\xa2\x0a\x00\x0a\x00\x03a/b\x00\x01#"),
    ("unsuback", UnsubAckPacket(10, []), b"\xb0\x02\x00\x0a"),
    ("pingreq", PingReqPacket(), b"\xc0\x00"),
    ("pingresp", PingRespPacket(), b"\xd0\x00"),
    ("disconnect", DisconnectPacket(), b"\xe0\x00"),
]
each_vector = pytest.mark.parametrize(
    ("packet", "data"), [(packet, data) for _, packet, data in VECTORS], ids=[name for name, _, _ in VECTORS]
)


@each_vector
def test_a_packet_encodes_to_the_bytes_of_the_standard(packet: Packet, data: bytes) -> None:
    assert v311.encode(packet) == data


@each_vector
def test_the_bytes_of_the_standard_decode_to_the_packet(packet: Packet, data: bytes) -> None:
    assert decode_all(data) == [packet]


@each_vector
def test_no_prefix_of_a_packet_yields_anything(packet: Packet, data: bytes) -> None:
    for size in range(len(data)):
        packets: list[Packet] = []
        assert v311.decode(data[:size], packets, LIMIT) == 0
        assert packets == []


def test_all_packets_of_one_buffer_come_in_order_and_the_tail_is_left() -> None:
    data = b"".join(encoded for _, _, encoded in VECTORS)
    tail = v311.encode(PublishPacket("a", b"tail"))[:-1]
    packets: list[Packet] = []
    assert v311.decode(data + tail, packets, LIMIT) == len(data)
    assert packets == [packet for _, packet, _ in VECTORS]


@pytest.mark.parametrize("size", [121, 122, 123, 16_377, 16_378, 16_379, 2_097_145, 2_097_146, 2_097_147])
def test_lengths_around_each_size_of_the_length_field_come_back(size: int) -> None:
    """The remaining length grows a byte above 127, 16,383 and 2,097,151 (section 2.2.3)."""
    packet = PublishPacket("a", bytes(size), qos=QoS.AT_LEAST_ONCE, packet_id=7)
    assert decode_all(v311.encode(packet), 1 << 22) == [packet]


def test_the_largest_remaining_length_fits_four_bytes() -> None:
    head = v311.encode(PublishPacket("a", bytes(v311.LENGTH_MAX - 3)))[:5]
    assert head == b"\x30\xff\xff\xff\x7f"


# -- round trips ---------------------------------------------------------------------------------------------

packet_ids = st.integers(1, 65_535)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
topic_names = st.text(
    st.characters(exclude_characters="\0+#", exclude_categories=["Cs"]), min_size=1, max_size=300
).filter(lambda topic: topic.count("/") < 128)
level = st.text("ab$ü", max_size=9) | st.just("+")
patterns = st.lists(level, min_size=1, max_size=9).map("/".join).filter(bool)
qualities = st.sampled_from([0, 1, 2])
payloads = st.binary(max_size=300)


@st.composite
def publishes(draw: st.DrawFn) -> PublishPacket:
    qos = draw(qualities)
    return PublishPacket(
        draw(topic_names),
        draw(payloads),
        qos=QoS(qos),
        retain=draw(st.booleans()),
        packet_id=draw(packet_ids) if qos else None,
        duplicate=bool(qos) and draw(st.booleans()),
    )


@st.composite
def connects(draw: st.DrawFn) -> ConnectPacket:
    clean, username = draw(st.booleans()), draw(st.none() | texts)
    will = Will(
        draw(topic_names), payload=draw(payloads), qos=QoS(draw(qualities)), retain=draw(st.booleans())
    )
    return ConnectPacket(
        draw(texts),
        username=username,
        password=None if username is None else draw(st.none() | payloads),
        clean_start=clean,
        will=draw(st.sampled_from([None, will])),
        keep_alive=draw(st.integers(0, 65_535)),
        session_expiry_interval=0 if clean else v311.SESSION_FOR_EVER,
    )


filters = st.lists(st.builds(wanted, patterns, qualities), min_size=1, max_size=5)
granted = st.lists(st.sampled_from([0, 1, 2, 128]).map(SubAckReasonCode), min_size=1, max_size=5)
any_packet: st.SearchStrategy[Packet] = st.one_of(
    publishes(),
    connects(),
    packet_ids.map(PubAckPacket),
    packet_ids.map(PubRelPacket),
    st.builds(SubscribePacket, packet_ids, filters),
    st.builds(SubAckPacket, packet_ids, granted),
    st.builds(UnsubscribePacket, packet_ids, st.lists(patterns, min_size=1, max_size=5)),
)


@given(st.lists(any_packet, min_size=1, max_size=6), st.integers(0))
def test_packets_come_back_however_the_stream_is_cut(packets: list[Packet], cut: int) -> None:
    data = b"".join(v311.encode(packet) for packet in packets)
    found: list[Packet] = []
    consumed = v311.decode(data[: cut % len(data)], found, LIMIT)
    assert v311.decode(data[consumed:], found, LIMIT) == len(data) - consumed
    assert found == packets


REASONS = {0x81, 0x82, 0x84, 0x8F, 0x90, 0x95}


def consumed_or_refused(data: bytes) -> bool:
    try:
        return 0 <= v311.decode(data, [], LIMIT) <= len(data)
    except MalformedPacket as error:
        return error.reason in REASONS


@given(st.binary(max_size=60))
def test_random_bytes_never_raise_another_error(data: bytes) -> None:
    assert consumed_or_refused(data)


@given(any_packet, st.data())
def test_a_flipped_byte_never_raises_another_error(packet: Packet, data: st.DataObject) -> None:
    damaged = bytearray(v311.encode(packet))
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    assert consumed_or_refused(bytes(damaged))


# -- malformations -------------------------------------------------------------------------------------------


def connect(flags: int, rest: bytes = b"\x00\x01a", *, head: bytes = CONNECT_HEAD) -> bytes:
    body = head + bytes((flags, 0, 0)) + rest
    return bytes((0x10, len(body))) + body


MALFORMED: list[tuple[str, int, bytes]] = [
    ("packet type 0", 0x81, b"\x00\x00"),
    ("packet type 15", 0x81, b"\xf0\x00"),
    ("remaining length of five bytes", 0x81, b"\x30\xff\xff\xff\xff\x01"),
    ("connect with flags", 0x81, b"\x11\x00"),
    ("connect of MQTT 3.1", 0x84, connect(2, head=b"\x00\x06MQIsdp\x03")),
    ("connect of MQTT 5", 0x84, connect(2, head=b"\x00\x04MQTT\x05")),
    ("connect of another protocol", 0x84, connect(2, head=b"\x00\x04AMQP\x04")),
    ("connect with the reserved flag", 0x81, connect(0x03)),
    ("connect with will QoS and no will", 0x81, connect(0x0A)),
    ("connect with will retain and no will", 0x81, connect(0x22)),
    ("connect with will QoS 3", 0x81, connect(0x1E, b"\x00\x01a\x00\x01w\x00\x00")),
    ("connect with a wildcard in the will topic", 0x90, connect(0x06, b"\x00\x01a\x00\x01#\x00\x00")),
    ("connect with a password and no user name", 0x81, connect(0x42, b"\x00\x01a\x00\x01p")),
    ("connect without the promised user name", 0x81, connect(0x82)),
    ("connect with trailing bytes", 0x81, connect(0x02, b"\x00\x01a!")),
    ("connect that ends in its client identifier", 0x81, connect(0x02, b"\x00\x05a")),
    ("connect with a NUL in the client identifier", 0x81, connect(0x02, b"\x00\x01\x00")),
    ("connect with a surrogate in the client identifier", 0x81, connect(0x02, b"\x00\x03\xed\xa0\x80")),
    ("connack with reserved flags", 0x81, b"\x20\x02\x02\x00"),
    ("connack refusing a present session", 0x81, b"\x20\x02\x01\x05"),
    ("connack with return code 6", 0x81, b"\x20\x02\x00\x06"),
    ("publish with QoS 3", 0x81, b"\x36\x06\x00\x01a\x00\x01x"),
    ("publish with DUP and QoS 0", 0x81, b"\x38\x03\x00\x01a"),
    ("publish with packet identifier 0", 0x81, b"\x32\x06\x00\x01a\x00\x00x"),
    ("publish QoS 2 with packet identifier 0", 0x81, b"\x34\x06\x00\x01a\x00\x00x"),
    ("publish without a topic", 0x90, b"\x30\x03\x00\x00x"),
    ("publish QoS 1 without a topic", 0x90, b"\x32\x05\x00\x00\x00\x01x"),
    ("publish to a + wildcard", 0x90, b"\x30\x05\x00\x03a/+"),
    ("publish to a # wildcard", 0x90, b"\x32\x07\x00\x03a/#\x00\x01"),
    ("publish with a NUL in the topic", 0x81, b"\x30\x05\x00\x03a\x00b"),
    ("publish to a topic that is not UTF-8", 0x81, b"\x30\x04\x00\x02\xc3\x28"),
    ("publish whose topic is longer than the packet", 0x81, b"\x32\x06\x00\x05a\x00\x01x"),
    ("publish that ends before its packet identifier", 0x81, b"\x32\x04\x00\x01a\x01"),
    ("publish of one byte", 0x81, b"\x32\x01\x00"),
    ("puback with flags", 0x81, b"\x42\x02\x00\x01"),
    ("puback with packet identifier 0", 0x81, b"\x40\x02\x00\x00"),
    ("puback of one byte", 0x81, b"\x40\x01\x00"),
    ("puback with trailing bytes", 0x81, b"\x40\x03\x00\x01\x00"),
    ("pubrel without its flags", 0x81, b"\x60\x02\x00\x01"),
    ("subscribe without its flags", 0x81, b"\x80\x06\x00\x01\x00\x01a\x00"),
    ("subscribe without filters", 0x82, b"\x82\x02\x00\x01"),
    ("subscribe with QoS 3", 0x81, b"\x82\x06\x00\x01\x00\x01a\x03"),
    ("subscribe without the last QoS", 0x81, b"\x82\x05\x00\x01\x00\x01a"),
    ("subscribe with a reserved bit beside its QoS", 0x81, b"\x82\x06\x00\x01\x00\x01a\x41"),
    ("unsubscribe with packet identifier 0", 0x81, b"\xa2\x05\x00\x00\x00\x01a"),
    ("subscribe with packet identifier 0", 0x81, b"\x82\x06\x00\x00\x00\x01a\x00"),
    ("subscribe to an empty filter", 0x8F, b"\x82\x05\x00\x01\x00\x00\x00"),
    ("subscribe with + inside a level", 0x8F, b"\x82\x07\x00\x01\x00\x02a+\x00"),
    ("unsubscribe with # before the end", 0x8F, b"\xa2\x07\x00\x01\x00\x03#/a"),
    ("suback with return code 3", 0x81, b"\x90\x03\x00\x01\x03"),
    ("suback without return codes", 0x82, b"\x90\x02\x00\x01"),
    ("unsubscribe without its flags", 0x81, b"\xa0\x05\x00\x01\x00\x01a"),
    ("unsubscribe without filters", 0x82, b"\xa2\x02\x00\x01"),
    ("unsubscribe with a filter that is not UTF-8", 0x81, b"\xa2\x05\x00\x01\x00\x01\xff"),
    ("pingreq with a body", 0x81, b"\xc0\x01\x00"),
    ("disconnect with a body", 0x81, b"\xe0\x01\x00"),
    ("disconnect with flags", 0x81, b"\xe1\x00"),
]


@pytest.mark.parametrize(
    ("reason", "data"), [(r, d) for _, r, d in MALFORMED], ids=[name for name, _, _ in MALFORMED]
)
def test_a_malformed_packet_is_named_and_those_before_it_are_kept(reason: int, data: bytes) -> None:
    before = PublishPacket("a", b"x", qos=QoS.AT_LEAST_ONCE, packet_id=7)
    packets: list[Packet] = []
    with pytest.raises(MalformedPacket) as caught:
        v311.decode(v311.encode(before) + data, packets, LIMIT)
    assert caught.value.reason == reason
    assert packets == [before]


def test_enumeration_members_that_come_back_are_the_library_s_own_objects() -> None:
    """Calling an enumeration of mqtt5 makes an object that is equal, but not identical."""
    publish = PublishPacket("a", b"", qos=QoS.EXACTLY_ONCE, packet_id=1)
    packets = decode_all(v311.encode(publish) + b"\x90\x03\x00\x01\x80" + b"\x82\x06\x00\x01\x00\x01a\x01")
    assert isinstance(packets[0], PublishPacket)
    assert packets[0].qos is QoS.EXACTLY_ONCE
    assert isinstance(packets[1], SubAckPacket)
    assert packets[1].reason_codes[0] is SubAckReasonCode.UNSPECIFIED_ERROR
    assert isinstance(packets[2], SubscribePacket)
    assert packets[2].topic_filters[0].max_qos is QoS.AT_LEAST_ONCE


def test_the_longest_strings_of_the_standard_come_back() -> None:
    longest = "a" * 65_535
    packets: list[Packet] = [
        PublishPacket(longest, b"x", qos=QoS.AT_LEAST_ONCE, packet_id=1),
        ConnectPacket(longest, clean_start=True, username=longest, password=bytes(65_535)),
        UnsubscribePacket(1, [longest, longest]),
    ]
    assert decode_all(b"".join(v311.encode(packet) for packet in packets)) == packets


def test_a_topic_refused_once_is_refused_again() -> None:
    """The cache remembers good topics only, also where a good one starts with the same bytes."""
    for _ in range(2):
        assert decode_all(b"\x32\x06\x00\x01a\x00\x01x")
        with pytest.raises(MalformedPacket):
            decode_all(b"\x32\x06\x00\x01#\x00\x01x")


@pytest.mark.parametrize("payload", [50, 120, 5_000])
def test_a_packet_too_large_is_refused_as_soon_as_its_length_is_visible(payload: int) -> None:
    data = v311.encode(PublishPacket("a", bytes(payload), qos=QoS.AT_LEAST_ONCE, packet_id=1))
    head = len(data) - payload - 5
    assert decode_all(data, len(data))
    with pytest.raises(MalformedPacket) as caught:
        v311.decode(data[:head], [], len(data) - 1)
    assert caught.value.reason == 0x95


def test_a_flood_of_topics_does_not_grow_the_cache() -> None:
    for number in range(v311.CACHED_TOPICS_MAX + 10):
        decode_all(v311.encode(PublishPacket(f"flood/{number}", b"")))
    decode_all(v311.encode(PublishPacket("long/" + "x" * v311.CACHED_TOPIC_BYTES_MAX, b"")))
    assert 0 < len(v311._topics) <= v311.CACHED_TOPICS_MAX
    assert max(map(len, v311._topics)) <= v311.CACHED_TOPIC_BYTES_MAX


# -- what MQTT 5 can say and 3.1.1 cannot --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (ConnAckReasonCode.SUCCESS, 0),
        (ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION, 1),
        (ConnAckReasonCode.CLIENT_ID_NOT_VALID, 2),
        (ConnAckReasonCode.SERVER_UNAVAILABLE, 3),
        (ConnAckReasonCode.QUOTA_EXCEEDED, 3),
        (ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD, 4),
        (ConnAckReasonCode.BAD_AUTHENTICATION_METHOD, 4),
        (ConnAckReasonCode.NOT_AUTHORIZED, 5),
        (ConnAckReasonCode.BANNED, 5),
    ],
)
def test_a_connack_reason_becomes_the_nearest_return_code(reason: ConnAckReasonCode, code: int) -> None:
    """And a refusal never reports a session (section 3.2.2.2)."""
    encoded = v311.encode(ConnAckPacket(session_present=True, reason_code=reason))
    assert encoded == bytes((0x20, 2, 0 if code else 1, code))


def test_every_refused_subscription_is_return_code_128() -> None:
    refused = SubAckPacket(1, [SubAckReasonCode.NOT_AUTHORIZED, SubAckReasonCode.TOPIC_FILTER_INVALID])
    assert v311.encode(refused) == b"\x90\x04\x00\x01\x80\x80"


def test_properties_and_reasons_have_no_bytes() -> None:
    assert v311.encode(PublishPacket("a", b"x", user_properties=[("k", "v")])) == b"\x30\x04\x00\x01ax"
    assert v311.encode(PubAckPacket(1, reason_code=PubAckReasonCode.QUOTA_EXCEEDED)) == b"\x40\x02\x00\x01"
    assert v311.encode(UnsubAckPacket(1, [UnsubAckReasonCode.SUCCESS])) == b"\xb0\x02\x00\x01"


@pytest.mark.parametrize(
    "packet",
    [
        AuthPacket(),
        PubAckPacket(0),
        ConnectPacket("a", password=b"without a user name"),
    ],
    ids=["auth", "packet identifier 0", "password alone"],
)
def test_what_the_standard_cannot_say_is_refused_when_encoding(packet: Packet) -> None:
    with pytest.raises(MalformedPacket):
        v311.encode(packet)
