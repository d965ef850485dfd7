"""A block gives back the messages it was made of, and nothing but MalformedBlock for anything else."""

import struct

import mqtt5
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import blocks
from core.blocks import MESSAGES_MAX, MalformedBlock, decode, encode
from core.message import Message, Properties

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
topic_names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0+#"), min_size=1, max_size=6
)
properties = st.builds(
    Properties,
    payload_format_indicator=st.sampled_from([0, 1]),
    message_expiry_interval=st.none() | st.integers(0, 2**32 - 1),
    content_type=st.none() | text,
    response_topic=st.none() | topic_names,
    correlation_data=st.none() | st.binary(max_size=6),
    user_properties=st.lists(st.tuples(text, text), max_size=3).map(tuple),
)
messages = st.builds(
    Message,
    topic=topic_names,
    payload=st.binary(max_size=20),
    qos=st.sampled_from([0, 1, 2]),
    retain=st.booleans(),
    client_id=text,
    received_at=st.integers(-(2**61), 2**61),
    properties=st.none() | properties.filter(lambda said: said != Properties()),
)
FULL = Properties(1, 60, "text/plain", "r", b"c", (("k", "v"),))
SAMPLE = [
    Message("plant/1/press", b'{"t":81.5}', 1, False, "press-1", 1_700_000_000_000),
    Message("plant/1/press", b"", 0, True, "press-1", 1_700_000_000_020),
    Message("plant/2/press", b"\xff", 1, False, "press-2", 0, FULL),
]


def handmade(
    *, version: int = 1, count: int = 1, topic: bytes = b"a", flags: int = 0, at: int = 0, size: int = 0,
    rest: bytes = b"",
) -> bytes:  # fmt: skip
    """A block of one message as the layout says, with one thing wrong at a time."""
    tables = struct.pack("<HH", 1, len(topic)) + topic + struct.pack("<HH", 1, 0)
    return struct.pack("<BI", version, count) + tables + bytes([flags]) + struct.pack("<qI", at, size) + rest


@given(st.lists(messages, min_size=1, max_size=12))
@settings(max_examples=150)
def test_messages_survive_the_round_trip(some: list[Message]) -> None:
    assert decode(encode(some)) == some


def test_the_layout_is_the_one_in_the_docstring() -> None:
    assert encode([Message("a", b"xy", 1, True, "c", 7)]) == bytes.fromhex(
        "01 01000000  0100 0100 61  0100 0100 63  05  0700000000000000  02000000 7879"
    )
    assert decode(handmade()) == [Message("a", b"")]


def test_a_clock_that_jumps_by_years_in_both_directions_keeps_its_times() -> None:
    times = [1_700_000_000_000, 0, 4_102_444_800_000, 1_700_000_000_001, 1_700_000_000_001, -86_400_000]
    some = [Message("a", b"", received_at=at) for at in times]
    assert [message.received_at for message in decode(encode(some))] == times


def test_the_most_messages_with_a_topic_and_a_client_each_fit() -> None:
    some = [Message(f"t/{n}", b"", client_id=f"c{n}", received_at=n) for n in range(MESSAGES_MAX)]
    assert decode(encode(some)) == some


@pytest.mark.parametrize("count", [0, MESSAGES_MAX + 1])
def test_a_block_of_no_messages_or_too_many_is_a_programming_error(count: int) -> None:
    with pytest.raises(ValueError, match="65,535"):
        encode([Message("a", b"")] * count)


def test_topics_and_clients_are_written_once() -> None:
    one = len(encode([Message("a" * 200, b"", client_id="b" * 200)]))
    thousand = len(encode([Message("a" * 200, b"", client_id="b" * 200)] * 1_000))
    assert thousand - one == 999 * (1 + 8 + 4)


def test_every_prefix_is_malformed() -> None:
    block = encode(SAMPLE)
    for size in range(len(block)):
        with pytest.raises(MalformedBlock):
            decode(block[:size])


@given(st.data())
@settings(max_examples=300)
def test_a_changed_byte_gives_messages_that_could_have_been_published_or_malformed(data: st.DataObject) -> None:
    block = bytearray(encode(SAMPLE))
    block[data.draw(st.integers(0, len(block) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = decode(bytes(block))
    except MalformedBlock:
        return
    assert decode(encode(found)) == found


@given(st.binary(max_size=80))
@settings(max_examples=200)
def test_arbitrary_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedBlock):
        decode(b"\x01" + data[:3] + b"\xff" + data)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (b"", "not a block"),
        (handmade(version=2), "version 2"),
        (handmade(count=0), "0 messages"),
        (handmade(count=MESSAGES_MAX + 1), "65,536 messages"),
        (handmade(count=MESSAGES_MAX), "too early"),
        (handmade(topic=b""), "empty"),
        (handmade(topic=b"a/#"), "wildcard"),
        (handmade(topic=b"a\0"), "NUL"),
        (handmade(topic=b"\xff"), "utf-8"),
        (handmade(flags=3), "flag"),
        (handmade(flags=16), "flag"),
        (handmade(at=-(2**63)), "64 bits"),
        (handmade(size=0xFFFF_FFFF), "too early"),
        (handmade(rest=b"x"), "1 bytes behind"),
        (handmade(flags=8), "not a block"),
        (handmade(flags=8, rest=struct.pack("<I", 2) + b"\xc0\x00"), "properties"),
        (handmade(flags=8, rest=struct.pack("<I", 4) + b"\xc0\x00" * 2), "properties"),
        (handmade(flags=8, rest=struct.pack("<I", 0)), "properties"),
    ],
)
def test_a_malformed_block_says_what_is_wrong(block: bytes, reason: str) -> None:
    with pytest.raises(MalformedBlock, match=reason):
        decode(block)


def test_times_that_add_up_beyond_64_bits_are_malformed() -> None:
    block = encode([Message("a", b"", received_at=2**62), Message("a", b"", received_at=2**62)])
    offset = block.index(struct.pack("<q", 2**62)) + 8
    forged = block[:offset] + struct.pack("<q", 2**62) + block[offset + 8 :]
    with pytest.raises(MalformedBlock, match="64 bits"):
        decode(forged)


def test_properties_that_are_not_utf_8_are_malformed() -> None:
    packet = mqtt5.PublishPacket("-", b"", content_type="abcd").write().replace(b"abcd", b"\xff\xfe\xff\xfe")
    with pytest.raises(MalformedBlock, match="UTF-8"):
        decode(handmade(flags=8, rest=struct.pack("<I", len(packet)) + packet))


def test_properties_that_say_nothing_are_none() -> None:
    bare, empty = Message("a", b""), Message("a", b"", properties=Properties())
    assert decode(encode([bare, empty])) == [bare, bare]


def test_a_number_beyond_a_table_is_malformed() -> None:
    block = encode([Message("a", b""), Message("b", b"")])
    numbers = struct.pack("<2H", 0, 1)
    assert block.count(numbers) == 1
    with pytest.raises(MalformedBlock):
        decode(block.replace(numbers, struct.pack("<2H", 0, blocks.TABLE_MAX)))
