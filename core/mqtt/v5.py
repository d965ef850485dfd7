"""MQTT 5 bytes to packets and back, by the mqtt5 library, with the library's gaps closed here.

The library reads one packet from the start of a buffer. It knows no size limit, and a string that is not UTF-8 makes it
panic (a `BaseException`); both become MalformedPacket. Topic names are checked by the connection, which caches them.
"""

import mqtt5
from mqtt5 import Packet

from core.mqtt.errors import MalformedPacket

_PANIC = "PanicException"  # pyo3 makes this class at run time, so it can be told by name only


def decode(data: bytes, packets: list[Packet], packet_max_bytes: int) -> int:
    """Append every whole packet in `data` to `packets` and return how many bytes they took.

    Raises MalformedPacket at the first bad one; the packets before it have been appended.
    """
    view = memoryview(data)
    read = mqtt5.read
    append = packets.append
    offset, end = 0, len(data)
    try:
        while offset < end:
            packet, size = read(view[offset:])
            if size > packet_max_bytes:
                raise MalformedPacket(0x95, f"a packet of {size:,} bytes; the limit is {packet_max_bytes:,}")
            append(packet)
            offset += size
    except IndexError:  # the library's word for "not enough bytes yet"
        _check_size(data, offset, packet_max_bytes)
    except (ValueError, UnicodeDecodeError) as error:
        raise MalformedPacket(0x81, str(error)) from None
    except BaseException as error:
        if type(error).__name__ != _PANIC:
            raise
        raise MalformedPacket(0x81, "a string is not UTF-8") from None
    return offset


def _check_size(data: bytes, offset: int, packet_max_bytes: int) -> None:
    size = packet_size(data, offset)
    if size is not None and size > packet_max_bytes:
        raise MalformedPacket(0x95, f"a packet of {size:,} bytes; the limit is {packet_max_bytes:,}")


def packet_size(data: bytes, offset: int) -> int | None:
    """The length of the packet at `offset` with its fixed header, None while the length itself is incomplete."""
    remaining = 0
    for position in range(4):
        index = offset + 1 + position
        if index >= len(data):
            return None
        remaining |= (data[index] & 0x7F) << (7 * position)
        if data[index] < 0x80:
            return remaining + 2 + position
    raise MalformedPacket(0x81, "the remaining length takes more than four bytes")


def encode(packet: Packet) -> bytes:
    """The MQTT 5 bytes of `packet`."""
    return packet.write()
