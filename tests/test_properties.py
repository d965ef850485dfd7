"""MQTT 5 properties: the same after the way through a packet, and nothing where there is nothing."""

import mqtt5
import pytest

from core.message import Properties
from core.mqtt import v5
from core.mqtt.properties import arguments, properties_of


@pytest.mark.parametrize(
    "properties",
    [
        None,
        Properties(payload_format_indicator=1),
        Properties(message_expiry_interval=0),
        Properties(content_type=""),
        Properties(correlation_data=b""),
        Properties(1, 60, "text/plain", "answer/here", b"\x00\xff", (("a", "1"), ("a", "2"))),
    ],
)
def test_properties_are_the_same_behind_a_packet(properties: Properties | None) -> None:
    packets: list[mqtt5.Packet] = []
    data = v5.encode(mqtt5.PublishPacket("a", b"", **arguments(properties)))
    v5.decode(data, packets, len(data))
    assert isinstance(packets[0], mqtt5.PublishPacket)
    assert properties_of(packets[0]) == properties
