"""A message as it goes to subscribers: once per message and kind of subscription, shared by all who get the same.

Keeps its bytes, so that a hundred subscribers cost one encoding; only the packet identifier is put in for each.
"""

from types import ModuleType
from typing import Any

from mqtt5 import PublishPacket, QoS

from core.message import CLOCK_PLAUSIBLE_MS, Message
from core.mqtt import v311
from core.mqtt.properties import arguments
from core.topics import CACHED_TOPIC_CHARS_MAX

FIELDS_MAX = 4_096  # topics whose bytes are remembered: about 1 MB

_QOS = (QoS.AT_MOST_ONCE, QoS.AT_LEAST_ONCE, QoS.EXACTLY_ONCE)
_fields: dict[str, bytes] = {}


class Parcel:
    """One message with the QoS, the RETAIN flag and the subscription identifiers that its receivers share.

    `group` is the shared subscription that it was sent for ("$share/name/filter"), or empty. `holders` counts the
    waiting lines that it stands in.
    """

    __slots__ = ("_encoded", "expires_at", "group", "holders", "ids", "message", "qos", "retain")

    def __init__(
        self, message: Message, qos: int, *, retain: bool = False, ids: tuple[int, ...] = (), group: str = ""
    ) -> None:
        self.message = message
        self.qos = qos
        self.retain = retain
        self.ids = ids
        self.group = group
        self.holders = 0
        self.expires_at = expires_at(message)
        self._encoded: dict[ModuleType, tuple[bytes, bytes]] = {}

    def encoded(self, codec: ModuleType) -> tuple[bytes, bytes]:
        """The PUBLISH without its packet identifier, which belongs between the two parts when the QoS is not 0."""
        found = self._encoded.get(codec)
        if found is None and not (self.qos or self.ids or self.message.properties):
            found = self._encoded[codec] = self._plain(codec), b""
        elif found is None:
            data: bytes = codec.encode(self.packet(1 if self.qos else None))
            cut = len(data)
            if self.qos:
                start = next(i for i in range(1, 5) if data[i] < 0x80) + 1
                cut = start + 2 + int.from_bytes(data[start : start + 2], "big")
            found = self._encoded[codec] = data[:cut], data[cut + 2 :]
        return found

    def _plain(self, codec: ModuleType) -> bytes:
        """QoS 0 with topic and payload only, as most messages are: without the library's object, and much faster."""
        topic, payload = self.message.topic, self.message.payload
        field = _fields.get(topic) or _field(topic)
        head = field if codec is v311 else field + b"\0"  # MQTT 5: no properties
        first, size = 0x31 if self.retain else 0x30, len(head) + len(payload)
        if size < 128:
            return b"%c%c%b%b" % (first, size, head, payload)
        if size < 16_384:
            return b"%c%c%c%b%b" % (first, size & 127 | 128, size >> 7, head, payload)
        data: bytes = codec.encode(self.packet(None))
        return data

    def packet(self, packet_id: int | None, *, at: int = 0, **more: Any) -> PublishPacket:
        """The PUBLISH for one receiver; `at` (ms) is now, for a message that expires (MQTT 5 section 3.3.2.3.3)."""
        fields = arguments(self.message.properties)
        if self.expires_at is not None and at:
            fields["message_expiry_interval"] = max(1, -(-(self.expires_at - at) // 1_000))
        if self.ids:
            fields["subscription_ids"] = list(self.ids)
        fields |= more
        topic = fields.pop("topic", self.message.topic)
        qos = _QOS[self.qos]
        return PublishPacket(topic, self.message.payload, qos=qos, retain=self.retain, packet_id=packet_id, **fields)


def _field(topic: str) -> bytes:
    """A topic behind its length (section 1.5.4 of both versions)."""
    data = topic.encode()
    field = len(data).to_bytes(2, "big") + data
    if len(topic) <= CACHED_TOPIC_CHARS_MAX:
        if len(_fields) >= FIELDS_MAX:
            _fields.clear()
        _fields[topic] = field
    return field


def expires_at(message: Message) -> int | None:
    """When a message has lost its worth to whoever it was not sent to yet, in ms since the epoch; None is never."""
    interval = message.properties.message_expiry_interval if message.properties is not None else None
    if interval is None or message.received_at < CLOCK_PLAUSIBLE_MS:
        return None
    return message.received_at + interval * 1_000
