"""Many messages as one block of bytes, column by column.

Columns are cheap to build (each is one call for the whole batch) and compress far better than rows: topics and client
identifiers are written once and referred to by number, times are differences, payloads stand next to each other.

Layout, little-endian, version 1:

    u8  version
    u32 count
    table of topics, table of clients:  u16 entries, then per entry u16 length + UTF-8
    u16 x count  topic number          (left out when the table has one entry)
    u16 x count  client number         (left out likewise)
    u8  x count  flags                 bits 0-1 QoS, bit 2 retain, bit 3 has properties
    i64          time of the first message, milliseconds since the epoch
    i64 x count-1  differences between the times of neighbours (clocks jump by years on boxes without a battery)
    u32 x count  payload lengths
    payloads
    per message with properties:  u32 length + an MQTT 5 PUBLISH that carries them

Will not compress, number or check itself: `frames` and the buffer's rows do. But whatever is read here is a message
that could have been published: its topic is valid, its QoS exists, its time fits in 64 bits.
"""

import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise

import mqtt5

from core.errors import TidegateError
from core.message import Message, Properties
from core.mqtt import v5
from core.mqtt.errors import MalformedPacket
from core.mqtt.properties import arguments, properties_of
from core.topics import check_name

VERSION = 1
TABLE_MAX = 65_535  # distinct topics or clients in one block: the numbers have two bytes
MESSAGES_MAX = 65_535  # in one block, which also bounds what its table can hold
TIME_MAX = 2**63 - 1  # milliseconds; also what SQLite can hold
_FLAGS = frozenset(flag for flag in range(16) if flag & 3 != 3)  # there is no QoS 3, and no fifth flag yet


class MalformedBlock(TidegateError):
    """Bytes that are not a block of a version known here."""


def encode(messages: Sequence[Message]) -> bytes:
    """One block of 1 to MESSAGES_MAX messages."""
    count = len(messages)
    if not 0 < count <= MESSAGES_MAX:
        raise ValueError(f"a block holds 1 to {MESSAGES_MAX:,} messages, not {count:,}")
    payloads = [message.payload for message in messages]
    times = [message.received_at for message in messages]
    extras = [_encode_properties(m.properties) for m in messages if m.properties is not None]
    flags = bytes(
        [m.qos | (4 if m.retain else 0) | (8 if m.properties is not None else 0) for m in messages]
    )
    topics, topic_numbers = _table([message.topic for message in messages])
    clients, client_numbers = _table([message.client_id for message in messages])
    return b"".join(
        [
            struct.pack("<BI", VERSION, count),
            topics,
            clients,
            topic_numbers,
            client_numbers,
            flags,
            struct.pack(f"<{count}q", times[0], *[later - earlier for earlier, later in pairwise(times)]),
            struct.pack(f"<{count}I", *map(len, payloads)),
            *payloads,
            *extras,
        ]
    )


def decode(block: bytes) -> list[Message]:
    """The messages of a block, in order; raises MalformedBlock."""
    try:
        return _Reader(block).messages()
    except (struct.error, IndexError, ValueError, MalformedPacket) as error:
        raise MalformedBlock(f"not a block of messages: {error}") from None


def _table(values: list[str]) -> tuple[bytes, bytes]:
    """The distinct values as a table, and the number of each value in it."""
    numbers: dict[str, int] = {}
    for value in values:
        if value not in numbers:
            numbers[value] = len(numbers)
    entries = [value.encode() for value in numbers]
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<H", len(e)) + e for e in entries)
    if len(entries) == 1:
        return table, b""
    return table, struct.pack(f"<{len(values)}H", *[numbers[value] for value in values])


def _encode_properties(properties: Properties) -> bytes:
    packet = v5.encode(mqtt5.PublishPacket("-", b"", **arguments(properties)))
    return struct.pack("<I", len(packet)) + packet


class _Reader:
    """A block and how far it has been read."""

    def __init__(self, block: bytes) -> None:
        self._block = block
        self._offset = 0

    def messages(self) -> list[Message]:
        version, count = self._unpack("<BI")
        if version != VERSION:
            raise MalformedBlock(f"block version {version} is not known here")
        if not 0 < count <= MESSAGES_MAX:
            raise MalformedBlock(f"a block of {count:,} messages")
        topic_table, client_table = self._table(), self._table()
        for topic in topic_table:
            check_name(topic)
        topics = self._column(topic_table, count)
        clients = self._column(client_table, count)
        flags = self._take(count)
        if not _FLAGS.issuperset(flags):
            raise MalformedBlock("a flag that is not known here")
        times = list(accumulate(self._unpack(f"<{count}q")))
        if max(times) > TIME_MAX or min(times) < -TIME_MAX:
            raise MalformedBlock("a time beyond what 64 bits can say")
        lengths = self._unpack(f"<{count}I")
        payloads = [self._take(length) for length in lengths]
        messages = [
            Message(topic, payload, flag & 3, bool(flag & 4), client, at)
            for topic, payload, flag, client, at in zip(topics, payloads, flags, clients, times, strict=True)
        ]
        for message, flag in zip(messages, flags, strict=True):
            if flag & 8:
                message.properties = self._properties()
        if self._offset != len(self._block):
            raise MalformedBlock(f"{len(self._block) - self._offset} bytes behind the last message")
        return messages

    def _unpack(self, form: str) -> tuple[int, ...]:
        values = struct.unpack_from(form, self._block, self._offset)
        self._offset += struct.calcsize(form)
        return values

    def _take(self, length: int) -> bytes:
        end = self._offset + length
        if end > len(self._block):
            raise MalformedBlock("the block ends too early")
        taken = self._block[self._offset : end]
        self._offset = end
        return taken

    def _table(self) -> list[str]:
        (entries,) = self._unpack("<H")
        return [self._take(self._unpack("<H")[0]).decode() for _ in range(entries)]

    def _column(self, table: list[str], count: int) -> list[str]:
        if len(table) == 1:
            return table * count
        return [table[number] for number in self._unpack(f"<{count}H")]

    def _properties(self) -> Properties | None:
        (length,) = self._unpack("<I")
        data, packets = self._take(length), list[mqtt5.Packet]()
        if data:
            v5.examine(data, 0)
        v5.decode(data, packets, length)
        if len(packets) != 1 or not isinstance(packet := packets[0], mqtt5.PublishPacket):
            raise MalformedBlock("properties are not where they should be")
        return properties_of(packet)
