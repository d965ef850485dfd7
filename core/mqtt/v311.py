"""MQTT 3.1.1 bytes to packets and back (OASIS, 29 October 2014), in the packet classes of the mqtt5 library.

Keeps one thing: a bounded cache of topic bytes that were found valid, for a sensor says one topic all day.
Will not decide what a packet means: the order of packets, sessions and permissions are for `connection` and
`session`. MQTT 5 properties have no bytes here and are dropped on encoding; so are reason codes that 3.1.1
has no word for, a negative PUBACK among them (the connection must not send one).

The library's enumerations are not integers, whatever its stub says: they convert by `int()`, compare by `==`
only, and are all true, QoS 0 included. Calling one makes a new object each time, so `decode` takes its members
by name: what it yields may be compared with `is`, as what the library itself reads may.

Invariants:
1. `decode` consumes whole packets only, and appends every packet that stands before the first malformed one.
2. A packet longer than the limit is refused as soon as its length is visible, at most 5 bytes in.
3. Whatever the bytes, the only error that leaves `decode` is MalformedPacket.
"""

from collections.abc import Callable
from struct import pack
from typing import Any

from mqtt5 import (
    ConnAckPacket,
    ConnAckReasonCode,
    ConnectPacket,
    DisconnectPacket,
    Packet,
    PingReqPacket,
    PingRespPacket,
    PubAckPacket,
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
    UnsubscribePacket,
    Will,
)

from core import topics
from core.mqtt.errors import MalformedPacket
from core.mqtt.fields import MALFORMED, Body, utf8

PROTOCOL_ERROR, UNSUPPORTED_VERSION = 0x82, 0x84
FILTER_INVALID, TOPIC_INVALID, TOO_LARGE = 0x8F, 0x90, 0x95

LENGTH_MAX = 268_435_455  # what four bytes of remaining length can say (section 2.2.3)
SESSION_FOR_EVER = 0xFFFF_FFFF  # MQTT 5 for "never expires", which is what clean session 0 asks for
CACHED_TOPICS_MAX = 4_096  # a site has a few thousand topics; a flood of names must not grow memory
CACHED_TOPIC_BYTES_MAX = 256  # so the cache stays below about 2 MB; longer topics are checked each time

_QOS = (QoS.AT_MOST_ONCE, QoS.AT_LEAST_ONCE, QoS.EXACTLY_ONCE)
_GRANTED = {  # section 3.9.3
    0x00: SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE,
    0x01: SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE,
    0x02: SubAckReasonCode.GRANTED_QOS_EXACTLY_ONCE,
    0x80: SubAckReasonCode.UNSPECIFIED_ERROR,
}

_topics: dict[bytes, str] = {}


# -- bytes to packets ----------------------------------------------------------------------------------------


def decode(data: bytes, packets: list[Packet], packet_max_bytes: int) -> int:
    """Append every whole packet in `data` to `packets` and return how many bytes they took.

    Raises MalformedPacket at the first bad one; the packets before it have been appended.
    """
    # The one loop of the message path: names are bound here because each look-up is paid per PUBLISH.
    append, cached, publish = packets.append, _topics.get, PublishPacket
    at_most_once, at_least_once = QoS.AT_MOST_ONCE, QoS.AT_LEAST_ONCE
    start, size = 0, len(data)
    while start + 1 < size:
        first, length = data[start], data[start + 1]
        if length < 128:
            body = start + 2
        elif start + 2 < size and (high := data[start + 2]) < 128:
            body = start + 3
            length += (high - 1) << 7
        else:
            length, body = _length(data, start)
            if body == 0:
                break
        end = body + length
        if end - start > packet_max_bytes:
            raise MalformedPacket(TOO_LARGE, _too_long(end - start, packet_max_bytes))
        if end > size:
            break
        if first == 0x32 and length > 3:  # QoS 1, neither DUP nor RETAIN: what sensors send
            payload = body + 4 + (data[body] << 8 | data[body + 1])
            packet_id = data[payload - 2] << 8 | data[payload - 1] if payload <= end else 0
            topic = cached(data[body + 2 : payload - 2])
            if topic is not None and packet_id:
                append(publish(topic, data[payload:end], qos=at_least_once, packet_id=packet_id))
            else:
                append(_publish(first, data[body:end]))
        elif first == 0x30 and length > 1:
            payload = body + 2 + (data[body] << 8 | data[body + 1])
            topic = cached(data[body + 2 : payload]) if payload <= end else None
            if topic is not None:
                append(publish(topic, data[payload:end], qos=at_most_once))
            else:
                append(_publish(first, data[body:end]))
        elif first == 0x40 and length == 2 and (packet_id := data[body] << 8 | data[body + 1]):
            append(PubAckPacket(packet_id))  # what subscribers send
        elif first & 0xF0 == 0x30:
            append(_publish(first, data[body:end]))
        else:
            append(_other(first, data[body:end]))
        start = end
    return start


def _length(data: bytes, start: int) -> tuple[int, int]:
    """The remaining length of the packet at `start` and where its body begins; (0, 0) while incomplete."""
    length = 0
    for position in range(4):
        index = start + 1 + position
        if index >= len(data):
            return 0, 0
        length |= (data[index] & 0x7F) << (7 * position)
        if data[index] < 0x80:
            return length, index + 1
    raise MalformedPacket(MALFORMED, "the remaining length takes more than four bytes")


def _too_long(size: int, most: int) -> str:
    return f"a packet of {size:,} bytes; the most is {most:,}"


def _string(data: bytes) -> str:
    """A string by section 1.5.3."""
    text = utf8(data)
    if "\0" in text:
        raise MalformedPacket(MALFORMED, "a string holds a NUL character")
    return text


def _topic(data: bytes) -> str:
    """The topic name that `data` spells, checked and remembered."""
    topic = _string(data)
    try:
        topics.check_name(topic)
    except topics.InvalidTopic as error:
        raise MalformedPacket(TOPIC_INVALID, str(error)) from None
    if len(data) <= CACHED_TOPIC_BYTES_MAX:
        if len(_topics) >= CACHED_TOPICS_MAX:
            _topics.clear()
        _topics[data] = topic
    return topic


def _filter(body: Body) -> str:
    pattern = _string(body.binary())
    try:
        topics.check_filter(pattern)
    except topics.InvalidTopic as error:
        raise MalformedPacket(FILTER_INVALID, str(error)) from None
    return pattern


def _publish(first: int, data: bytes) -> PublishPacket:
    duplicate, qos, retain = bool(first & 8), first >> 1 & 3, bool(first & 1)
    if qos == 3:
        raise MalformedPacket(MALFORMED, "PUBLISH with QoS 3")
    if duplicate and not qos:
        raise MalformedPacket(MALFORMED, "PUBLISH with DUP and QoS 0")
    body = Body(data)
    topic = _topic(body.binary())
    packet_id = body.packet_id() if qos else None
    return PublishPacket(
        topic, body.rest(), qos=_QOS[qos], retain=retain, packet_id=packet_id, duplicate=duplicate
    )


def _other(first: int, data: bytes) -> Packet:
    reader = _READERS.get(first >> 4)
    if reader is None:
        raise MalformedPacket(MALFORMED, f"packet type {first >> 4} is reserved")
    kind, flags, read = reader
    if first & 0x0F != flags:
        raise MalformedPacket(MALFORMED, f"{kind} with header flags {first & 0x0F:04b}, not {flags:04b}")
    body = Body(data)
    packet = read(body)
    body.done()
    return packet


def _connect(body: Body) -> ConnectPacket:
    name, level = body.binary(), body.byte()
    if name != b"MQTT" or level != 4:
        raise MalformedPacket(UNSUPPORTED_VERSION, f"protocol {name[:10]!r} level {level} is not MQTT 3.1.1")
    flags = body.byte()
    _check_connect_flags(flags)
    keep_alive, client_id = body.short(), _string(body.binary())
    will = _will(body, flags) if flags & 0x04 else None
    username = _string(body.binary()) if flags & 0x80 else None
    password = body.binary() if flags & 0x40 else None
    clean = bool(flags & 0x02)
    return ConnectPacket(
        client_id,
        username=username,
        password=password,
        clean_start=clean,
        will=will,
        keep_alive=keep_alive,
        session_expiry_interval=0 if clean else SESSION_FOR_EVER,
    )


def _check_connect_flags(flags: int) -> None:
    """Section 3.1.2.3 and following."""
    if flags & 0x01:
        raise MalformedPacket(MALFORMED, "CONNECT with its reserved flag set")
    if not flags & 0x04 and flags & 0x38:
        raise MalformedPacket(MALFORMED, "CONNECT with a will QoS or will retain, but no will")
    if flags & 0x18 == 0x18:
        raise MalformedPacket(MALFORMED, "CONNECT with will QoS 3")
    if flags & 0x40 and not flags & 0x80:
        raise MalformedPacket(MALFORMED, "CONNECT with a password, but no user name")


def _will(body: Body, flags: int) -> Will:
    topic = _topic(body.binary())
    return Will(topic, payload=body.binary(), qos=_QOS[flags >> 3 & 3], retain=bool(flags & 0x20))


def _connack(body: Body) -> ConnAckPacket:
    flags, code = body.byte(), body.byte()
    if flags > 1 or (flags and code):
        raise MalformedPacket(MALFORMED, f"CONNACK with flags {flags:08b} and return code {code}")
    if code >= len(_RETURN_CODES):
        raise MalformedPacket(MALFORMED, f"CONNACK with return code {code}")
    return ConnAckPacket(session_present=bool(flags), reason_code=_RETURN_CODES[code])


def _subscribe(body: Body) -> SubscribePacket:
    packet_id, filters = body.packet_id(), []
    while body.left():
        pattern, qos = _filter(body), body.byte()
        if qos > 2:
            raise MalformedPacket(MALFORMED, f"SUBSCRIBE with requested QoS byte {qos}")
        # RETAIN is cleared when a message goes to an established subscription (section 3.3.1.3).
        filters.append(TopicFilter(pattern, max_qos=_QOS[qos], retain_as_published=False))
    if not filters:
        raise MalformedPacket(PROTOCOL_ERROR, "SUBSCRIBE without a topic filter")
    return SubscribePacket(packet_id, filters)


def _suback(body: Body) -> SubAckPacket:
    packet_id, codes = body.packet_id(), body.rest()
    if not codes:
        raise MalformedPacket(PROTOCOL_ERROR, "SUBACK without a return code")
    if bad := set(codes) - _GRANTED.keys():
        raise MalformedPacket(MALFORMED, f"SUBACK with return code {min(bad)}")
    return SubAckPacket(packet_id, [_GRANTED[code] for code in codes])


def _unsubscribe(body: Body) -> UnsubscribePacket:
    packet_id, patterns = body.packet_id(), []
    while body.left():
        patterns.append(_filter(body))
    if not patterns:
        raise MalformedPacket(PROTOCOL_ERROR, "UNSUBSCRIBE without a topic filter")
    return UnsubscribePacket(packet_id, patterns)


# By packet type: name, the fixed-header flags that section 2.2.2 fixes, and the reader of the body.
_READERS: dict[int, tuple[str, int, Callable[[Body], Packet]]] = {
    1: ("CONNECT", 0, _connect),
    2: ("CONNACK", 0, _connack),
    4: ("PUBACK", 0, lambda body: PubAckPacket(body.packet_id())),
    5: ("PUBREC", 0, lambda body: PubRecPacket(body.packet_id())),
    6: ("PUBREL", 2, lambda body: PubRelPacket(body.packet_id())),
    7: ("PUBCOMP", 0, lambda body: PubCompPacket(body.packet_id())),
    8: ("SUBSCRIBE", 2, _subscribe),
    9: ("SUBACK", 0, _suback),
    10: ("UNSUBSCRIBE", 2, _unsubscribe),
    11: ("UNSUBACK", 0, lambda body: UnsubAckPacket(body.packet_id(), [])),
    12: ("PINGREQ", 0, lambda _: PingReqPacket()),
    13: ("PINGRESP", 0, lambda _: PingRespPacket()),
    14: ("DISCONNECT", 0, lambda _: DisconnectPacket()),
}

_RETURN_CODES = (  # section 3.2.2.3, by return code
    ConnAckReasonCode.SUCCESS,
    ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION,
    ConnAckReasonCode.CLIENT_ID_NOT_VALID,
    ConnAckReasonCode.SERVER_UNAVAILABLE,
    ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD,
    ConnAckReasonCode.NOT_AUTHORIZED,
)


# -- packets to bytes ----------------------------------------------------------------------------------------


def encode(packet: Packet) -> bytes:
    """The MQTT 3.1.1 bytes of `packet`.

    Raises MalformedPacket for what 3.1.1 cannot say: AUTH, packet identifier 0, a password without a user
    name, more than 256 MiB.
    """
    writer = _WRITERS.get(type(packet))
    if writer is None:
        raise MalformedPacket(PROTOCOL_ERROR, f"MQTT 3.1.1 has no {type(packet).__name__}")
    return writer(packet)


def _packet(first: int, body: bytes) -> bytes:
    length = len(body)
    if length < 128:
        return bytes((first, length)) + body
    if length > LENGTH_MAX:
        raise MalformedPacket(TOO_LARGE, _too_long(length, LENGTH_MAX))
    head = bytearray((first,))
    while length > 127:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + body


def _field(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value  # the classes refuse more than 65,535 bytes
    return len(data).to_bytes(2, "big") + data


def _id(packet_id: int | None) -> bytes:
    if not packet_id:
        raise MalformedPacket(MALFORMED, "a packet that needs a packet identifier has none")
    return packet_id.to_bytes(2, "big")


def _write_publish(packet: PublishPacket) -> bytes:
    qos = int(packet.qos)
    first = 0x30 | packet.duplicate << 3 | qos << 1 | packet.retain
    if qos:
        return _packet(first, b"".join((_field(packet.topic), _id(packet.packet_id), packet.payload)))
    return _packet(first, _field(packet.topic) + packet.payload)


def _write_connect(packet: ConnectPacket) -> bytes:
    flags = packet.clean_start << 1
    fields = [_field(packet.client_id)]
    if packet.will is not None:
        flags |= 0x04 | int(packet.will.qos) << 3 | packet.will.retain << 5
        fields += [_field(packet.will.topic), _field(packet.will.payload or b"")]
    if packet.username is not None:
        flags |= 0x80
        fields.append(_field(packet.username))
    if packet.password is not None:
        if packet.username is None:
            raise MalformedPacket(PROTOCOL_ERROR, "MQTT 3.1.1 has no password without a user name")
        flags |= 0x40
        fields.append(_field(packet.password))
    return _packet(0x10, b"\x00\x04MQTT\x04" + pack(">BH", flags, packet.keep_alive) + b"".join(fields))


def _write_connack(packet: ConnAckPacket) -> bytes:
    code = _return_code(packet.reason_code)
    return bytes((0x20, 2, packet.session_present and not code, code))


def _return_code(reason: ConnAckReasonCode) -> int:
    """The nearest of the six return codes of 3.1.1; whatever it cannot say is "server unavailable"."""
    match reason:
        case ConnAckReasonCode.BAD_AUTHENTICATION_METHOD:
            return 4
        case ConnAckReasonCode.BANNED:
            return 5
        case _ if reason in _RETURN_CODES:
            return _RETURN_CODES.index(reason)
        case _:
            return 3


def _write_subscribe(packet: SubscribePacket) -> bytes:
    filters = [_field(wanted.pattern) + bytes((int(wanted.max_qos),)) for wanted in packet.topic_filters]
    return _packet(0x82, _id(packet.packet_id) + b"".join(filters))


def _write_suback(packet: SubAckPacket) -> bytes:
    return _packet(0x90, _id(packet.packet_id) + bytes(min(int(code), 0x80) for code in packet.reason_codes))


def _write_unsubscribe(packet: UnsubscribePacket) -> bytes:
    return _packet(0xA2, _id(packet.packet_id) + b"".join(_field(pattern) for pattern in packet.patterns))


_WRITERS: dict[type, Callable[[Any], bytes]] = {
    ConnectPacket: _write_connect,
    ConnAckPacket: _write_connack,
    PublishPacket: _write_publish,
    PubAckPacket: lambda packet: b"\x40\x02" + _id(packet.packet_id),
    PubRecPacket: lambda packet: b"\x50\x02" + _id(packet.packet_id),
    PubRelPacket: lambda packet: b"\x62\x02" + _id(packet.packet_id),
    PubCompPacket: lambda packet: b"\x70\x02" + _id(packet.packet_id),
    SubscribePacket: _write_subscribe,
    SubAckPacket: _write_suback,
    UnsubscribePacket: _write_unsubscribe,
    UnsubAckPacket: lambda packet: b"\xb0\x02" + _id(packet.packet_id),
    PingReqPacket: lambda _: b"\xc0\x00",
    PingRespPacket: lambda _: b"\xd0\x00",
    DisconnectPacket: lambda _: b"\xe0\x00",
}
