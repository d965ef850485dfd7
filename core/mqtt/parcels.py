"""A message as it goes to subscribers: once per message and kind of subscription, shared by all who get the same.

Keeps its bytes, so that a hundred subscribers cost one encoding; only the packet identifier is put in for each.
"""

from types import ModuleType
from typing import Any

from mqtt5 import PublishPacket, QoS

from core.message import CLOCK_PLAUSIBLE_MS, Message
from core.mqtt.properties import arguments

_QOS = (QoS.AT_MOST_ONCE, QoS.AT_LEAST_ONCE, QoS.EXACTLY_ONCE)


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
        if found is None:
            data: bytes = codec.encode(self.packet(1 if self.qos else None))
            cut = len(data)
            if self.qos:
                start = next(i for i in range(1, 5) if data[i] < 0x80) + 1
                cut = start + 2 + int.from_bytes(data[start : start + 2], "big")
            found = self._encoded[codec] = data[:cut], data[cut + 2 :]
        return found

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


def expires_at(message: Message) -> int | None:
    """When a message has lost its worth to whoever it was not sent to yet, in ms since the epoch; None is never."""
    interval = message.properties.message_expiry_interval if message.properties is not None else None
    if interval is None or message.received_at < CLOCK_PLAUSIBLE_MS:
        return None
    return message.received_at + interval * 1_000
