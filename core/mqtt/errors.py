"""What can be wrong with what a peer sends."""

from core.errors import TidegateError


class MqttError(TidegateError):
    """The root of MQTT's own errors."""


class MalformedPacket(MqttError):
    """Bytes that are no packet, or a packet that may not come now; `reason` is the MQTT 5 reason code to answer."""

    def __init__(self, reason: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason
