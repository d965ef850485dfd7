"""Who may do what on a listener, for now: everyone who may connect, everything but the reserved topics.

Topics that begin with `$` belong to the server (MQTT 5 section 4.7.2). A cloud lets an edge publish frames under its
own name, and only under that where a certificate says who it is. Policies per device take this module's place in the
broker when they come; the broker asks the same three questions.
"""

from mqtt5 import ConnAckReasonCode, ConnectPacket

from core.mqtt.access import Identity


class OpenAccess:
    """Answers for a listener whose clients are all trusted alike; `frames_under` is the root topic of uplink frames."""

    def __init__(self, frames_under: str | None = None) -> None:
        self._frames_under = frames_under

    def connect(self, identity: Identity, packet: ConnectPacket) -> ConnAckReasonCode:
        """Everyone the listener let in."""
        return ConnAckReasonCode.SUCCESS

    def publish(self, identity: Identity, topic: str) -> bool:
        """Everything but `$` topics; frames, where they are expected, by the edge that they are from."""
        if not topic.startswith("$"):
            return True
        if self._frames_under is None or not topic.startswith(self._frames_under):
            return False
        edge = topic.removeprefix(self._frames_under).split("/")[0]
        return identity.principal is None or identity.principal == edge

    def subscribe(self, identity: Identity, pattern: str) -> bool:
        """Everything; nothing is published under `$` that is not for everyone."""
        return True
