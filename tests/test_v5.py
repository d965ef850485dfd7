"""MQTT 5 bytes become packets and back; what the library gets wrong about bad bytes is put right."""

from itertools import pairwise

import mqtt5
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mqtt5 import (
    AuthPacket,
    ConnAckPacket,
    ConnectPacket,
    DisconnectPacket,
    DisconnectReasonCode,
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
    RetainHandling,
    SubAckPacket,
    SubAckReasonCode,
    SubscribePacket,
    TopicFilter,
    UnsubAckPacket,
    UnsubAckReasonCode,
    UnsubscribePacket,
    Will,
)

from core.mqtt import v5
from core.mqtt.errors import MalformedPacket

LIMIT = 1 << 20
WILL = Will("gone", payload=b"bye", qos=QoS.AT_LEAST_ONCE, retain=True, will_delay_interval=5, content_type="t")
PACKETS: list[Packet] = [
    ConnectPacket("press", username="ada", password=b"\0\xff", clean_start=True, will=WILL, keep_alive=60,
                  receive_max=7, max_packet_size=900, user_properties=[("a", "b"), ("a", "c")]),
    ConnAckPacket(session_present=True, assigned_client_id="auto-1", receive_max=9, max_qos=QoS.AT_LEAST_ONCE),
    PublishPacket("a/b", b"x"),
    PublishPacket("a", b"", retain=True),
    PublishPacket("ü", b"\0\xff", qos=QoS.AT_LEAST_ONCE, packet_id=258, duplicate=True, message_expiry_interval=5,
                  content_type="t", response_topic="r", correlation_data=b"c", user_properties=[("k", "v")]),
    PubAckPacket(258),
    PubAckPacket(1, reason_code=PubAckReasonCode.QUOTA_EXCEEDED, reason_str="full"),
    PubRecPacket(2),
    PubRelPacket(3),
    PubCompPacket(4),
    SubscribePacket(5, [TopicFilter("a/#", max_qos=QoS.AT_LEAST_ONCE, no_local=True,
                                    retain_handling=RetainHandling.SEND_NEVER), TopicFilter("+")], subscription_id=3),
    SubAckPacket(5, [SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE, SubAckReasonCode.TOPIC_FILTER_INVALID]),
    UnsubscribePacket(6, ["a/#", "+"]),
    UnsubAckPacket(6, [UnsubAckReasonCode.SUCCESS, UnsubAckReasonCode.NO_SUBSCRIPTION_EXISTED]),
    PingReqPacket(),
    PingRespPacket(),
    DisconnectPacket(),
    DisconnectPacket(reason_code=DisconnectReasonCode.SERVER_SHUTTING_DOWN, reason_str="bye"),
    AuthPacket(),
]  # fmt: skip
FULL = PubAckReasonCode.QUOTA_EXCEEDED
WELCOME = ConnAckPacket(response_info="tttt")
each_packet = pytest.mark.parametrize("packet", PACKETS, ids=[type(packet).__name__ for packet in PACKETS])


def refusal(data: bytes, limit: int = LIMIT) -> MalformedPacket:
    with pytest.raises(MalformedPacket) as caught:
        v5.decode(data, [], limit)
    return caught.value


def test_every_packet_type_is_in_the_list() -> None:
    assert {type(packet) for packet in PACKETS} == set(mqtt5.Packet.__args__)


@each_packet
def test_a_packet_survives_the_round_trip(packet: Packet) -> None:
    data, packets = v5.encode(packet), list[Packet]()
    assert v5.decode(data, packets, LIMIT) == len(data)
    assert packets == [packet]


@each_packet
def test_every_prefix_is_incomplete(packet: Packet) -> None:
    data = v5.encode(packet)
    for size in range(len(data)):
        packets: list[Packet] = []
        assert v5.decode(data[:size], packets, LIMIT) == 0
        assert packets == []


@each_packet
def test_the_size_is_known_as_soon_as_the_length_is(packet: Packet) -> None:
    data = b"\0\0" + v5.encode(packet)
    assert v5.packet_size(data, 2) == len(data) - 2
    assert v5.packet_size(data[:4], 2) == len(data) - 2
    assert v5.packet_size(data[:3], 2) is None


def test_a_read_of_many_packets_gives_all_whole_ones_and_where_the_rest_begins() -> None:
    stream, packets = b"".join(map(v5.encode, PACKETS)), list[Packet]()
    assert v5.decode(stream + b"\x30\x05\x00", packets, LIMIT) == len(stream)
    assert packets == PACKETS


@given(st.lists(st.integers(0, 400), max_size=6))
@settings(max_examples=50)
def test_however_a_stream_is_cut_the_packets_are_the_same(cuts: list[int]) -> None:
    stream = b"".join(map(v5.encode, PACKETS))
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    packets: list[Packet] = []
    buffer = b""
    for start, end in pairwise(edges):
        buffer += stream[start:end]
        buffer = buffer[v5.decode(buffer, packets, LIMIT) :]
    assert packets == PACKETS
    assert buffer == b""


@pytest.mark.parametrize(
    "data",
    [
        v5.encode(PublishPacket("aaaa", b"x")).replace(b"aaaa", b"a\xff\xfea"),
        v5.encode(PublishPacket("a", b"x", content_type="cccc")).replace(b"cccc", b"\xed\xa0\x80c"),
        v5.encode(PublishPacket("a", b"x", user_properties=[("kkkk", "v")])).replace(b"kkkk", b"\xc0\xafkk"),
        v5.encode(ConnectPacket("iiii")).replace(b"iiii", b"\xf5\x80\x80\x80"),
        v5.encode(SubscribePacket(1, [TopicFilter("ffff")])).replace(b"ffff", b"ff\xe2\x82"),
        v5.encode(UnsubscribePacket(1, ["ffff"])).replace(b"ffff", b"\x80fff"),
        v5.encode(DisconnectPacket(reason_str="rrrr")).replace(b"rrrr", b"\xffrrr"),
        v5.encode(ConnectPacket("i", username="uuuu")).replace(b"uuuu", b"u\xffuu"),
        v5.encode(ConnectPacket("i", will=Will("wwww"))).replace(b"wwww", b"w\xffww"),
        v5.encode(ConnectPacket("i", will=Will("w", content_type="cccc"))).replace(b"cccc", b"c\xffcc"),
        v5.encode(WELCOME).replace(b"tttt", b"t\xfftt"),
        v5.encode(PubAckPacket(1, reason_code=FULL, reason_str="rrrr")).replace(b"rrrr", b"\xffrrr"),
        v5.encode(UnsubAckPacket(1, [], user_properties=[("k", "vvvv")])).replace(b"vvvv", b"\xffvvv"),
    ],
    ids=["topic", "property with surrogate", "overlong", "client id", "filter", "unsubscribe", "reason", "user name",
         "will topic", "will property", "welcome", "acknowledgement", "user property"],
)  # fmt: skip
def test_a_string_that_is_not_utf_8_is_malformed(data: bytes) -> None:
    v5.be_wary()
    packets: list[Packet] = []
    before = v5.encode(PingReqPacket())
    with pytest.raises(MalformedPacket, match="UTF-8") as caught:
        v5.decode(before + data, packets, LIMIT)
    assert caught.value.reason == 0x81
    assert packets == [PingReqPacket()]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what the library says of its panic
def test_publishes_that_are_not_utf_8_make_the_library_panic_once_in_a_long_while(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(v5, "_wary", 0)
    monkeypatch.setattr(v5, "WARY_BYTES", 1_000)
    bad = v5.encode(PublishPacket("aaaa", b"x")).replace(b"aaaa", b"a\xff\xfea")
    panics = []
    for _ in range(3):
        for _ in range(50):
            assert refusal(bad).reason == 0x81
        v5.decode(v5.encode(PublishPacket("a", bytes(1_000))), [], LIMIT)
        panics.append(capfd.readouterr().err.count("panicked"))
    assert panics == [1, 1, 1]


def test_only_a_publish_can_make_the_library_panic(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(v5, "_wary", 0)
    connect = v5.encode(ConnectPacket("iiii")).replace(b"iiii", b"\xf5\x80\x80\x80")
    subscribe = v5.encode(SubscribePacket(1, [TopicFilter("ffff")])).replace(b"ffff", b"ff\xe2\x82")
    for data in (connect, subscribe):
        assert refusal(data).reason == 0x81
    assert capfd.readouterr().err == ""


def connect(flags: int, rest: bytes = b"\x00\x01a") -> bytes:
    body = b"\x00\x04MQTT\x05" + bytes((flags, 0, 60, 0)) + rest
    return bytes((0x10, len(body))) + body


@pytest.mark.parametrize(
    "data",
    [
        connect(0x03),
        connect(0x0A),
        connect(0x22),
        b"\x82\x07\x00\x00\x00\x00\x01a\x01",
        b"\x82\x07\x00\x01\x00\x00\x01a\x41",
        b"\x82\x07\x00\x01\x00\x00\x01a\x81",
        b"\xa2\x06\x00\x00\x00\x00\x01a",
    ],
    ids=["CONNECT with its reserved flag", "will QoS without a will", "will retain without a will",
         "SUBSCRIBE with identifier 0", "option bit 6", "option bit 7", "UNSUBSCRIBE with identifier 0"],
)  # fmt: skip
def test_what_the_library_takes_though_it_is_malformed_is_refused(data: bytes) -> None:
    """MQTT 5 sections 3.1.2.3, 3.1.2.6, 3.1.2.7, 2.2.1 and 3.8.3.1."""
    packets: list[Packet] = []
    mqtt5.read(memoryview(data))
    with pytest.raises(MalformedPacket) as caught:
        v5.decode(v5.encode(PingReqPacket()) + data, packets, LIMIT)
    assert caught.value.reason == 0x81
    assert packets == [PingReqPacket()]


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00",  # type 0
        b"\x36\x06\x00\x01a\x00\x01\x00",  # QoS 3
        b"\x80\x07\x00\x01\x00\x00\x01a\x00",  # SUBSCRIBE with the wrong header flags
        b"\x82\x07\x00\x01\x00\x00\x01a\x03",  # SUBSCRIBE with QoS 3
        b"\xc0\x01\x00",  # PINGREQ with a body
        b"\x30\x03\x00\x20a",  # a topic beyond its packet
        b"\x30\x08\x00\x01a\x04\x01\x01\x01\x00",  # a property twice
        b"\x30\x06\x00\x01a\x02\x7f\x01",  # a property that does not exist
        b"\x40\x03\x00\x01\x77",  # a reason code that does not exist
        b"\x10\x10\x00\x04MQTT\x05\x02\x00\x00\x03\x21\x00\x00\x00\x00",  # Receive Maximum 0
        b"\x30\x04\x00\x00\x00x",  # no topic, no alias
        b"\x30\xff\xff\xff\xff\x01",  # a length of five bytes
    ],
)
def test_a_malformed_packet_is_refused_as_malformed_after_those_before_it(data: bytes) -> None:
    assert refusal(data).reason == 0x81
    packets: list[Packet] = []
    with pytest.raises(MalformedPacket):
        v5.decode(v5.encode(PublishPacket("a", b"1")) + data, packets, LIMIT)
    assert packets == [PublishPacket("a", b"1")]


def test_a_packet_above_the_limit_is_refused_as_soon_as_its_length_is_there() -> None:
    data = v5.encode(PublishPacket("a", bytes(1_000)))
    assert v5.decode(data, [], len(data)) == len(data)
    assert refusal(data, len(data) - 1).reason == 0x95
    assert refusal(data[:3], len(data) - 1).reason == 0x95
    assert v5.decode(data[:2], [], len(data) - 1) == 0


def test_a_packet_above_the_limit_does_not_cost_those_before_it() -> None:
    packets: list[Packet] = []
    with pytest.raises(MalformedPacket) as caught:
        v5.decode(v5.encode(PublishPacket("a", b"1")) + v5.encode(PublishPacket("a", bytes(300))), packets, 100)
    assert caught.value.reason == 0x95
    assert packets == [PublishPacket("a", b"1")]


@given(st.data())
@settings(max_examples=400)
def test_whatever_the_bytes_only_malformed_packet_leaves_and_whole_packets_are_never_waited_for(
    data: st.DataObject,
) -> None:
    v5.be_wary()
    stream = bytearray(v5.encode(data.draw(st.sampled_from(PACKETS))))
    for _ in range(data.draw(st.integers(1, 3))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    try:
        consumed = v5.decode(bytes(stream), [], LIMIT)
    except MalformedPacket:
        return
    if consumed < len(stream):
        size = v5.packet_size(bytes(stream), consumed)
        assert size is None or size > len(stream) - consumed
