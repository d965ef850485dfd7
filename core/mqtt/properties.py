"""What MQTT 5 says beside topic and payload: from a packet of the library to `Properties`, and back."""

from typing import Any

from mqtt5 import PublishPacket, Will

from core.message import Properties


def properties_of(packet: PublishPacket | Will) -> Properties | None:
    """The properties of a packet, None when it has none."""
    if not (
        packet.user_properties
        or packet.content_type is not None
        or packet.response_topic is not None
        or packet.correlation_data is not None
        or packet.message_expiry_interval is not None
        or packet.payload_format_indicator
    ):
        return None
    return Properties(
        packet.payload_format_indicator,
        packet.message_expiry_interval,
        packet.content_type,
        packet.response_topic,
        packet.correlation_data,
        tuple(packet.user_properties),
    )


def arguments(properties: Properties | None) -> dict[str, Any]:
    """The arguments of PublishPacket that carry `properties`."""
    if properties is None:
        return {}
    return {
        "payload_format_indicator": properties.payload_format_indicator,
        "message_expiry_interval": properties.message_expiry_interval,
        "content_type": properties.content_type,
        "response_topic": properties.response_topic,
        "correlation_data": properties.correlation_data,
        "user_properties": list(properties.user_properties),
    }
