"""A parcel is encoded once for all who get the same, and says what remains of its message's expiry."""

from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqtt5 import Packet, PublishPacket, QoS

from core.message import CLOCK_PLAUSIBLE_MS, Message, Properties
from core.mqtt import v5, v311
from core.mqtt.parcels import Parcel, expires_at
from tests.mqtt_peers import CODECS, NOON_MS

both_codecs = pytest.mark.parametrize("codec", [v311, v5])
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=200)
topics = texts.filter(lambda text: not set("+#") & set(text) and text.count("/") < 128)
all_properties = st.builds(
    Properties,
    st.sampled_from([0, 1]),
    st.none(),
    st.none() | texts,
    st.none() | topics,
    st.none() | st.binary(max_size=20),
    st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
)


def expiring(seconds: int, received_at: int = NOON_MS) -> Message:
    return Message("t", b"x", received_at=received_at, properties=Properties(message_expiry_interval=seconds))


def with_identifier(parcel: Parcel, codec: ModuleType, packet_id: int) -> Packet:
    """What a client reads when its packet identifier is put between the two parts."""
    head, tail = parcel.encoded(codec)
    packets: list[Packet] = []
    codec.decode(head + (packet_id.to_bytes(2, "big") if parcel.qos else b"") + tail, packets, 1 << 20)
    (packet,) = packets
    return packet


@given(
    topics, st.binary(max_size=20_000), st.none() | all_properties, st.sampled_from([0, 1, 2]), st.booleans(),
    st.sampled_from([(), (1,), (7, 268_435_455)]), st.integers(1, 65_535), st.sampled_from([4, 5]),
)  # fmt: skip
def test_the_shared_bytes_and_a_packet_identifier_are_the_packet(
    topic: str, payload: bytes, properties: Properties | None, qos: int, retain: bool, ids: tuple[int, ...],
    packet_id: int, version: int,
) -> None:  # fmt: skip
    parcel = Parcel(Message(topic, payload, properties=properties), qos, retain=retain, ids=ids)
    sent = parcel.packet(packet_id if qos else None)
    plain = PublishPacket(topic, payload, qos=QoS(qos), retain=retain, packet_id=packet_id if qos else None)
    assert with_identifier(parcel, CODECS[version], packet_id) == (sent if version == 5 else plain)


@both_codecs
def test_a_parcel_is_encoded_once_per_version(codec: ModuleType) -> None:
    parcel = Parcel(Message("t", b"x"), 1)
    assert parcel.encoded(codec) is parcel.encoded(codec)


def test_a_packet_says_everything_that_its_publisher_said() -> None:
    said: dict[str, Any] = {
        "payload_format_indicator": 1,
        "content_type": "text/plain",
        "response_topic": "r",
        "correlation_data": b"c",
        "message_expiry_interval": 60,
    }
    message = Message("t", b"x", properties=Properties(**said, user_properties=(("k", "v"), ("k", "w"))))
    assert Parcel(message, 2, ids=(3, 9)).packet(17, duplicate=True) == PublishPacket(
        "t", b"x", qos=QoS.EXACTLY_ONCE, packet_id=17, duplicate=True, subscription_ids=[3, 9],
        user_properties=[("k", "v"), ("k", "w")], **said,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("waited_ms", "remaining"), [(0, 60), (1, 60), (1_000, 59), (59_000, 1), (59_999, 1), (70_000, 1)]
)
def test_a_subscriber_is_told_what_remains_of_the_expiry_and_never_nothing(waited_ms: int, remaining: int) -> None:
    """MQTT 5 section 3.3.2.3.3; a part of a second counts as one, for 0 would say that it has expired."""
    packet = Parcel(expiring(60), 0).packet(None, at=NOON_MS + waited_ms)
    assert packet.message_expiry_interval == remaining


def test_a_message_expires_its_interval_after_it_was_received() -> None:
    assert expires_at(expiring(60)) == NOON_MS + 60_000
    assert expires_at(expiring(0)) == NOON_MS
    assert expires_at(Message("t", b"", received_at=NOON_MS)) is None
    assert expires_at(Message("t", b"", received_at=NOON_MS, properties=Properties(content_type="x"))) is None


def test_a_message_heard_by_a_clock_that_was_not_set_does_not_expire_and_keeps_its_interval() -> None:
    message = expiring(60, CLOCK_PLAUSIBLE_MS - 1)
    assert expires_at(message) is None
    assert Parcel(message, 0).packet(None, at=NOON_MS).message_expiry_interval == 60
