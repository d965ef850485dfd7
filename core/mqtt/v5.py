"""MQTT 5 bytes to packets and back, by the mqtt5 library, with the library's gaps closed here.

The library reads one packet from the start of a buffer. It knows no size limit, takes some of what the standard calls
malformed in CONNECT, SUBSCRIBE and UNSUBSCRIBE, and a string that is not UTF-8 makes it panic: a `BaseException`, and
400 bytes on standard error, past the log. All of that becomes MalformedPacket.

So the fields of each packet are looked at before the library sees it, except those of PUBLISH, which would take more
than twice as long. Once a PUBLISH has made it panic, every PUBLISH of every connection is looked at for the next
`WARY_BYTES`, so that nobody can flood standard error. Topic names are checked by the connection.
"""

from collections.abc import Callable
from functools import partial

import mqtt5
from mqtt5 import Packet

from core.mqtt.errors import MalformedPacket
from core.mqtt.fields import MALFORMED, Body

WARY_BYTES = 16 << 20  # to read after a panic with every PUBLISH looked at: a thousand panics for 16 GB of attack

_PANIC = "PanicException"  # pyo3 makes this class at run time, so it can be told by name only
_ALL = frozenset(range(256))
_ALL_BUT_PUBLISH = _ALL - frozenset(range(0x30, 0x40))  # by first byte

_wary = 0  # bytes that are still to be read warily, of all connections


# -- bytes to packets --------------------------------------------------------------------------------------------------


def decode(data: bytes, packets: list[Packet], packet_max_bytes: int) -> int:
    """Append every whole packet in `data` to `packets` and return how many bytes they took.

    Raises MalformedPacket at the first bad one; the packets before it have been appended.
    """
    view = memoryview(data)
    read = mqtt5.read
    append = packets.append
    offset, end = 0, len(data)
    examined = _examined_warily(end) if _wary else _ALL_BUT_PUBLISH
    try:
        while offset < end:
            if data[offset] in examined and data[offset + 1] > 2:  # two bytes hold no string
                examine(data, offset)
            packet, size = read(view[offset:])
            if size > packet_max_bytes:
                raise MalformedPacket(0x95, f"a packet of {size:,} bytes; the limit is {packet_max_bytes:,}")
            append(packet)
            offset += size
    except IndexError:  # the library's word for "not enough bytes yet"
        _check_size(data, offset, packet_max_bytes)
    except (ValueError, UnicodeDecodeError) as error:
        raise MalformedPacket(MALFORMED, str(error)) from None
    except BaseException as error:
        if type(error).__name__ != _PANIC:
            raise
        be_wary()
        raise MalformedPacket(MALFORMED, "a string is not UTF-8") from None
    return offset


def be_wary() -> None:
    """Look at every PUBLISH for a while."""
    global _wary
    _wary = WARY_BYTES


def _examined_warily(size: int) -> frozenset[int]:
    """The first bytes of the packets to look at in a read of `size` bytes, which is taken off what is read warily."""
    global _wary
    _wary = max(0, _wary - size)
    return _ALL


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
    raise MalformedPacket(MALFORMED, "the remaining length takes more than four bytes")


# -- what the library does not see -------------------------------------------------------------------------------------


def examine(data: bytes, offset: int) -> None:
    """Raise MalformedPacket when the library would panic at the packet at `offset`, or take it though it is malformed.

    What it refuses by itself is left to it, and so is a packet that is not whole yet.
    """
    size = packet_size(data, offset)
    fields = _FIELDS.get(data[offset] >> 4)
    if size is None or offset + size > len(data) or fields is None:
        return
    start = offset + 1
    while data[start] > 0x7F:
        start += 1
    fields(Body(data[start + 1 : offset + size]), data[offset])


def _connect(body: Body, _: int) -> None:
    body.binary()  # the protocol's name
    body.byte()
    flags = body.byte()
    if flags & 0x01:
        raise MalformedPacket(MALFORMED, "CONNECT with its reserved flag set")  # section 3.1.2.3
    if not flags & 0x04 and flags & 0x38:
        raise MalformedPacket(MALFORMED, "CONNECT with a will QoS or will retain, but no will")  # 3.1.2.6 and 3.1.2.7
    body.short()
    _properties(body)
    body.text()
    if flags & 0x04:
        _properties(body)
        body.text()
        body.binary()
    if flags & 0x80:
        body.text()


def _publish(body: Body, first: int) -> None:
    body.text()
    if first & 0x06:
        body.short()
    _properties(body)


def _subscribe(body: Body, _: int) -> None:
    body.packet_id()
    _properties(body)
    while body.left():
        body.text()
        if body.byte() & 0xC0:
            raise MalformedPacket(MALFORMED, "SUBSCRIBE with reserved options set")  # section 3.8.3.1


def _unsubscribe(body: Body, _: int) -> None:
    body.packet_id()
    _properties(body)
    while body.left():
        body.text()


def _other(body: Body, _: int, *, head: int) -> None:
    """`head` bytes, then properties; both may be left out from where they say nothing."""
    if body.left() > head:
        body.take(head)
        _properties(body)


def _properties(body: Body) -> None:
    """Section 2.2.2.2."""
    size = body.variable()
    end = body.left() - size
    while body.left() > end:
        kind = body.byte()
        read = _PROPERTIES.get(kind)
        if read is None:
            raise MalformedPacket(MALFORMED, f"there is no property 0x{kind:02x}")
        read(body)


def _pair(body: Body) -> None:
    body.text()
    body.text()


def _take(count: int) -> Callable[[Body], object]:
    return lambda body: body.take(count)


_PROPERTIES: dict[int, Callable[[Body], object]] = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), _take(1)),
    **dict.fromkeys((0x13, 0x21, 0x22, 0x23), _take(2)),
    **dict.fromkeys((0x02, 0x11, 0x18, 0x27), _take(4)),
    **dict.fromkeys((0x03, 0x08, 0x12, 0x15, 0x1A, 0x1C, 0x1F), Body.text),
    **dict.fromkeys((0x09, 0x16), Body.binary),
    0x0B: Body.variable,
    0x26: _pair,
}

# By packet type; PINGREQ and PINGRESP have no fields.
_FIELDS: dict[int, Callable[[Body, int], None]] = {
    1: _connect,
    3: _publish,
    8: _subscribe,
    10: _unsubscribe,
    **dict.fromkeys((14, 15), partial(_other, head=1)),  # DISCONNECT, AUTH: a reason
    **dict.fromkeys((2, 9, 11), partial(_other, head=2)),  # CONNACK: flags, a reason; SUBACK, UNSUBACK: an identifier
    **dict.fromkeys((4, 5, 6, 7), partial(_other, head=3)),  # PUBACK to PUBCOMP: an identifier and a reason
}


# -- packets to bytes --------------------------------------------------------------------------------------------------


def encode(packet: Packet) -> bytes:
    """The MQTT 5 bytes of `packet`."""
    return packet.write()
