"""What a CONNECT asks for, and whether it can be had, before anybody asks who the client is.

Values in, values out. Who may connect is for `access`, whose session it becomes for `broker`.
"""

from dataclasses import dataclass
from secrets import token_hex
from types import ModuleType

from mqtt5 import ConnAckPacket, ConnAckReasonCode, ConnectPacket

from core import topics
from core.message import Message
from core.mqtt import v5, v311
from core.mqtt.errors import MalformedPacket
from core.mqtt.inbound import is_request
from core.mqtt.limits import Limits
from core.mqtt.properties import properties_of

CLIENT_ID_BYTES_MAX = 256  # AWS IoT allows 128; every session, log line and event carries it


@dataclass(frozen=True, slots=True)
class Wish:
    """A CONNECT that makes sense: `assigned` when the client gave no identifier; times in seconds.

    `expiry` and `keep_alive` are what the client gets; `expiry_told` and `keep_alive_told` say that it asked for
    something else and is to be told (MQTT 5 sections 3.2.2.3.2 and 3.2.2.3.14).
    """

    client_id: str
    assigned: bool
    clean_start: bool
    expiry: int
    expiry_told: bool
    keep_alive: int
    keep_alive_told: bool
    will: Message | None
    will_delay: int


def examine(packet: ConnectPacket, version: int, limits: Limits) -> Wish | ConnAckReasonCode:
    """What the client wishes, or the reason why no server could grant it."""
    client_id = packet.client_id
    if len(client_id.encode()) > CLIENT_ID_BYTES_MAX or any(ord(c) < 32 or ord(c) == 127 for c in client_id):
        return ConnAckReasonCode.CLIENT_ID_NOT_VALID
    if not client_id and version == 4 and not packet.clean_start:
        return ConnAckReasonCode.CLIENT_ID_NOT_VALID  # MQTT 3.1.1 section 3.1.3-8
    if packet.authentication_method is not None:
        return ConnAckReasonCode.BAD_AUTHENTICATION_METHOD
    if packet.authentication_data is not None:
        return ConnAckReasonCode.PROTOCOL_ERROR  # MQTT 5 section 3.1.2.11.10
    will = packet.will
    if will is not None:
        if is_request(will.topic):  # where a publish is a request, and a will would be a message
            return ConnAckReasonCode.NOT_AUTHORIZED
        try:
            topics.check_name(will.topic)
            if will.response_topic is not None:
                topics.check_name(will.response_topic)
        except topics.InvalidTopic:
            return ConnAckReasonCode.TOPIC_NAME_INVALID
    assigned = client_id or f"auto-{token_hex(8)}"
    message = None
    if will is not None:
        message = Message(
            will.topic, will.payload or b"", int(will.qos), will.retain, assigned, 0, properties_of(will)
        )
    expiry = min(packet.session_expiry_interval, limits.session_expiry)
    keep_alive = packet.keep_alive
    if version == 5 and not 0 < keep_alive <= limits.keep_alive:
        keep_alive = limits.keep_alive  # MQTT 3.1.1 has no word for it, so there the client decides
    return Wish(
        assigned, not client_id, packet.clean_start, expiry, expiry != packet.session_expiry_interval, keep_alive,
        keep_alive != packet.keep_alive, message, will.will_delay_interval if will is not None else 0,
    )  # fmt: skip


def welcome(packet: ConnectPacket, wish: Wish, limits: Limits, *, present: bool) -> ConnAckPacket:
    """What a client is told that gets its wish; `present`: its session is an old one."""
    return ConnAckPacket(
        session_present=present,
        session_expiry_interval=wish.expiry if wish.expiry_told else None,
        assigned_client_id=wish.client_id if wish.assigned else None,
        server_keep_alive=wish.keep_alive if wish.keep_alive_told else None,
        response_info=f"responses/{wish.client_id}" if packet.request_response_info else None,
        receive_max=limits.receive_max,
        topic_alias_max=limits.topic_aliases,
        max_packet_size=limits.packet_bytes,
    )


def codec_for(data: bytes) -> ModuleType | None:
    """The codec that the CONNECT at the start of `data` asks for; None while its version is not there yet."""
    if data[0] != 0x10:
        raise MalformedPacket(0x82, "the first packet is not CONNECT")
    if v5.packet_size(data, 0) is None:
        return None
    start = next(i for i in range(1, 5) if data[i] < 0x80) + 1
    name = data[start : start + 6]
    if name != b"\x00\x04MQTT"[: len(name)]:
        if name[:2] == b"\x00\x06":
            raise MalformedPacket(int(ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION), "MQTT 3.1 is not supported")
        raise MalformedPacket(0x81, "not an MQTT CONNECT")
    if len(data) < start + 7:
        return None
    match data[start + 6]:
        case 5:
            return v5
        case 4:
            return v311
        case level:
            unsupported = int(ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION)
            raise MalformedPacket(unsupported, f"protocol level {level} is not supported")
