"""One MQTT message as every part of Tidegate sees it, whichever protocol version brought it.

Keeps what a device said and when it was heard. Will not parse the payload: that is bytes until a rule or a shadow asks.
"""

from dataclasses import dataclass

# Boxes without a battery clock start in 1970 or at the image's build date; an age measured from there means nothing.
CLOCK_PLAUSIBLE_MS = 1_704_067_200_000  # 2024-01-01


@dataclass(frozen=True, slots=True)
class Origin:
    """Who brought messages and how: one object for everything that comes over a connection, kept beside the messages.

    `principal` is the id of the client's certificate (`core.mqtt.access.Certificate`) or the name of its user;
    `source_ip` an address without port; both empty when nobody knows. `protocol` is "mqtt", "http", or empty for
    what Tidegate says itself.
    """

    principal: str = ""
    source_ip: str = ""
    protocol: str = "mqtt"


OURSELVES = Origin(protocol="")


@dataclass(frozen=True, slots=True)
class Properties:
    """What MQTT 5 lets a publisher say beside topic and payload (MQTT 5.0 section 3.3.2.3); `None` is absent."""

    payload_format_indicator: int = 0
    message_expiry_interval: int | None = None  # seconds
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    user_properties: tuple[tuple[str, str], ...] = ()

    @property
    def size(self) -> int:
        """About how many bytes they take on a connection or a disk."""
        texts = (self.content_type, self.response_topic, *(part for pair in self.user_properties for part in pair))
        return sum(len(text) + 3 for text in texts if text is not None) + len(self.correlation_data or b"")


@dataclass(slots=True)
class Message:
    """A message on its way: created once where it is heard, then only read.

    `received_at` is milliseconds since the Unix epoch by the clock of the machine that heard it. `client_id` is the
    MQTT client identifier of the publisher, empty when Tidegate itself published.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    client_id: str = ""
    received_at: int = 0
    properties: Properties | None = None

    @property
    def size(self) -> int:
        """Bytes of topic, payload and properties: what holding it costs, for bounds."""
        return len(self.topic) + len(self.payload) + (self.properties.size if self.properties is not None else 0)
