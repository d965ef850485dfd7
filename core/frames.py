"""A frame is what travels up: consecutive messages of one lane, numbered, compressed, checked.

Layout, little-endian, version 1:

    2s  magic "TG"      u8 version      u8 codec (1: zstd)
    u64 epoch           which start of the edge numbered these messages
    u64 first           sequence number of the first message; the others follow without a gap
    u32 count           of messages
    u64 floor           the lowest number of this lane and epoch that may still be sent
    i64 oldest, newest  when the edge heard the first and the last message, milliseconds since the epoch
    u32 size            of the block before compression
    u32 crc             CRC-32 of everything but this field
    u8 length + edge    u8 length + lane, both UTF-8
    body                one block (`core.blocks`), compressed

At most FRAME_MAX_BYTES, unless a single message does not fit: then that message alone.
"""

import struct
import zlib
from dataclasses import dataclass

import zstandard

from core import blocks
from core.errors import TidegateError
from core.message import Message

MAGIC = b"TG"
VERSION = 1
ZSTD = 1
ZSTD_LEVEL = 6  # on telemetry, 8 % smaller than level 3 for twice its time, which is still far above any uplink
FRAME_MAX_BYTES = 128 << 10  # what AWS IoT takes in one message, and a mobile link in well under a minute
BLOCK_MAX_BYTES = 16 << 20  # what a body may grow to; a frame that claims more is not one of ours
_HEAD = struct.Struct("<2sBBQQIQqqI")
_CRC = struct.Struct("<I")

_compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=False, write_checksum=False)
_decompressor = zstandard.ZstdDecompressor()

TOPIC_ROOT = "$tidegate/frames/"


class MalformedFrame(TidegateError):
    """Bytes that are no frame, or one that was damaged on its way."""


@dataclass(frozen=True, slots=True)
class Header:
    """Everything about a frame but its messages."""

    edge: str
    lane: str
    epoch: int
    first: int
    count: int
    floor: int
    oldest: int
    newest: int

    @property
    def last(self) -> int:
        """The sequence number of the last message."""
        return self.first + self.count - 1


def client_id(edge: str) -> str:
    """The MQTT client identifier of an edge at its cloud."""
    return f"tidegate-edge-{edge}"


def topic(edge: str, lane: str) -> str:
    """The MQTT topic on which an edge publishes the frames of a lane."""
    return f"{TOPIC_ROOT}{edge}/{lane}"


def encode(edge: str, lane: str, epoch: int, first: int, floor: int, messages: list[Message]) -> bytes:
    """One frame of consecutive messages."""
    block = blocks.encode(messages)
    head = _HEAD.pack(
        MAGIC, VERSION, ZSTD, epoch, first, len(messages), floor,
        messages[0].received_at, messages[-1].received_at, len(block),
    )  # fmt: skip
    rest = _text(edge) + _text(lane) + _compressor.compress(block)
    return head + _CRC.pack(zlib.crc32(rest, zlib.crc32(head))) + rest


def read_header(frame: bytes) -> Header:
    """Check a frame and read its header; raises MalformedFrame. The body is not decompressed."""
    return _open(frame)[0]


def decode(frame: bytes) -> tuple[Header, list[Message]]:
    """A frame's header and messages; raises MalformedFrame."""
    header, size, body = _open(frame)
    try:
        # A body that states its own size would be given that much memory, whatever limit stands here. Ours do not.
        if zstandard.get_frame_parameters(body).content_size != zstandard.CONTENTSIZE_UNKNOWN:
            raise MalformedFrame("the frame's body states a size of its own")
        block = _decompressor.decompress(body, max_output_size=size)
        messages = blocks.decode(block)
    except (zstandard.ZstdError, blocks.MalformedBlock) as error:
        raise MalformedFrame(f"the frame's body cannot be read: {error}") from None
    if len(messages) != header.count:
        raise MalformedFrame(f"the frame holds {len(messages)} messages and says {header.count}")
    return header, messages


def _open(frame: bytes) -> tuple[Header, int, bytes]:
    try:
        magic, version, codec, epoch, first, count, floor, oldest, newest, size = _HEAD.unpack_from(frame)
        (crc,) = _CRC.unpack_from(frame, _HEAD.size)
    except struct.error:
        raise MalformedFrame("too short for a frame") from None
    if magic != MAGIC:
        raise MalformedFrame("not a frame")
    if version != VERSION or codec != ZSTD:
        raise MalformedFrame(f"frame version {version}, codec {codec}: this cloud is older than that edge")
    rest = frame[_HEAD.size + _CRC.size :]
    if zlib.crc32(rest, zlib.crc32(frame[: _HEAD.size])) != crc:
        raise MalformedFrame("the frame's checksum is wrong")
    if not 0 < size <= BLOCK_MAX_BYTES or count == 0 or first == 0:
        raise MalformedFrame("the frame's header makes no sense")
    edge, offset = _take_text(rest, 0)
    lane, offset = _take_text(rest, offset)
    return Header(edge, lane, epoch, first, count, floor, oldest, newest), size, rest[offset:]


def _text(value: str) -> bytes:
    encoded = value.encode()
    return bytes([len(encoded)]) + encoded


def _take_text(data: bytes, offset: int) -> tuple[str, int]:
    try:
        end = offset + 1 + data[offset]
        return data[offset + 1 : end].decode(), end
    except (IndexError, UnicodeDecodeError):
        raise MalformedFrame("the frame's names cannot be read") from None
