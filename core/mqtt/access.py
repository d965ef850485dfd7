"""Who is on a connection, and the three questions that the broker asks about what they may do."""

from dataclasses import dataclass
from typing import Protocol

from mqtt5 import ConnAckReasonCode, ConnectPacket


@dataclass(frozen=True, slots=True)
class Identity:
    """The client identifier that a client chose, where it connects from, and its certificate's common name, if any."""

    client_id: str
    address: str
    principal: str | None


class Access(Protocol):
    """Who may do what. Topics and filters are valid when asked about; a connection remembers the answers."""

    def connect(self, identity: Identity, packet: ConnectPacket) -> ConnAckReasonCode:
        """SUCCESS, or the reason to refuse the connection."""
        ...

    def publish(self, identity: Identity, topic: str) -> bool:
        """Whether this client may publish to a topic."""
        ...

    def subscribe(self, identity: Identity, pattern: str) -> bool:
        """Whether this client may subscribe with a filter."""
        ...
