"""A frame arrives as it was sent or not at all, and costs no more than it says."""

import struct
import tracemalloc
import zlib

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from core import blocks, frames
from core.frames import BLOCK_MAX_BYTES, Header, MalformedFrame, decode, encode, read_header
from core.message import Message

SAMPLE = [
    Message(f"plant/{n % 3}/press", b'{"temperature":%d}' % n, 1, False, f"press-{n % 2}", 1_700_000_000_000 + n)
    for n in range(20)
]
FRAME = encode("hall", "telemetry", 9, 100, 90, SAMPLE)
HEADER = Header("hall", "telemetry", 9, 100, 20, 90, 1_700_000_000_000, 1_700_000_000_019)


def forged(
    body: bytes, *, magic: bytes = b"TG", version: int = 1, codec: int = 1, first: int = 1, count: int = 1,
    size: int = 1_000, names: bytes = b"\x01e\x01l",
) -> bytes:  # fmt: skip
    """A frame with a right checksum around whatever a hostile edge might put in."""
    head = struct.pack("<2sBBQQIQqqI", magic, version, codec, 1, first, count, 1, 0, 0, size)
    rest = names + body
    return head + struct.pack("<I", zlib.crc32(head + rest)) + rest


def compressed(block: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(block)


def test_a_frame_gives_back_its_header_and_messages() -> None:
    assert decode(FRAME) == (HEADER, SAMPLE)
    assert read_header(FRAME) == HEADER
    assert HEADER.last == 119


@given(
    st.lists(st.tuples(st.binary(max_size=30), st.integers(0, 2**45)), min_size=1, max_size=10),
    st.integers(0, 2**64 - 1),
    st.integers(1, 2**63),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)
@settings(max_examples=100)
def test_any_messages_and_names_survive_the_round_trip(
    parts: list[tuple[bytes, int]], epoch: int, first: int, edge: str
) -> None:
    some = [Message("t", payload, received_at=at) for payload, at in parts]
    expected = Header(edge, "lane", epoch, first, len(some), first, some[0].received_at, some[-1].received_at)
    assert decode(encode(edge, "lane", epoch, first, first, some)) == (expected, some)


def test_every_prefix_is_malformed() -> None:
    for size in range(len(FRAME)):
        with pytest.raises(MalformedFrame):
            decode(FRAME[:size])
        with pytest.raises(MalformedFrame):
            read_header(FRAME[:size])


def test_every_flipped_bit_is_noticed() -> None:
    for position in range(len(FRAME)):
        for bit in range(8):
            damaged = bytearray(FRAME)
            damaged[position] ^= 1 << bit
            with pytest.raises(MalformedFrame):
                read_header(bytes(damaged))


def test_bytes_behind_a_frame_are_noticed() -> None:
    with pytest.raises(MalformedFrame, match="checksum"):
        decode(FRAME + b"\0")


@given(st.binary(max_size=60))
@settings(max_examples=100)
def test_a_hostile_body_behind_a_right_checksum_is_malformed(data: bytes) -> None:
    for body in (data, compressed(data)):
        with pytest.raises(MalformedFrame):
            decode(forged(body))


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "too short"),
        (b"TG", "too short"),
        (forged(b"", magic=b"XX"), "not a frame"),
        (forged(b"", version=2), "older"),
        (forged(b"", codec=7), "older"),
        (forged(b"", first=0), "no sense"),
        (forged(b"", count=0), "no sense"),
        (forged(b"", size=0), "no sense"),
        (forged(b"", size=BLOCK_MAX_BYTES + 1), "no sense"),
        (forged(b"", names=b""), "names"),
        (forged(b"", names=b"\x02\xff\xff\x00"), "names"),
        (forged(b""), "body"),
        (forged(compressed(blocks.encode(SAMPLE)), count=19), "holds 20 messages and says 19"),
        (forged(compressed(blocks.encode(SAMPLE)), size=10, count=20), "body"),
    ],
)
def test_a_malformed_frame_says_what_is_wrong(frame: bytes, reason: str) -> None:
    with pytest.raises(MalformedFrame, match=reason):
        decode(frame)


@pytest.mark.parametrize("states_its_size", [True, False])
def test_a_bomb_is_refused_before_it_takes_memory(states_its_size: bool) -> None:
    bomb = zstandard.ZstdCompressor(level=1, write_content_size=states_its_size).compress(bytes(256 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(MalformedFrame):
            decode(forged(bomb, size=BLOCK_MAX_BYTES))
        assert tracemalloc.get_traced_memory()[1] < 2 * BLOCK_MAX_BYTES
    finally:
        tracemalloc.stop()


def test_a_bomb_in_disguise_is_bounded_by_the_size_it_claims() -> None:
    with pytest.raises(MalformedFrame):
        decode(forged(compressed(bytes(64 << 20)), size=100))


def test_telemetry_takes_a_fraction_of_its_size() -> None:
    thousand = [
        Message("plant/1/press-7/telemetry", b'{"temperature":%d.5,"pressure":%d}' % (80 + n % 9, 100 + n % 7),
                1, False, "press-7", 1_700_000_000_000 + 20 * n)
        for n in range(1_000)
    ]  # fmt: skip
    frame = encode("hall", "telemetry", 1, 1, 1, thousand)
    assert len(frame) < sum(len(m.topic) + len(m.payload) for m in thousand) / 5


def test_frames_of_an_edge_and_lane_have_a_topic_of_their_own() -> None:
    assert frames.topic("hall", "alarms") == "$tidegate/frames/hall/alarms"
