"""Who is on a connection, and the questions that the broker asks about what they may do.

A listener says whom it lets in (`Peer`), `Access` decides about each CONNECT, and its answer, a `Grant`, about every
topic after that. The broker remembers the answers of a grant per topic, until `Broker.recheck`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mqtt5 import ConnAckReasonCode, ConnectPacket

from core.message import Origin


@dataclass(frozen=True, slots=True)
class Certificate:
    """A client certificate that the TLS handshake has verified against an authority of its listener.

    `id` is the SHA-256 of its DER bytes in lower-case hexadecimal, which AWS IoT calls the certificate's ID. `subject`
    and `issuer` are by OpenSSL's long names (commonName, organizationName, …); `serial` is hexadecimal, upper-case.
    `authorities` are the ids of the certificates above it in the chain that was verified, the nearest first; there are
    none when that is not known. `vouched` says that the chain ends at the `client_ca` of the listener, and nowhere on
    the way passes an authority that is there for other reasons; names in other certificates must not be believed.
    """

    id: str
    subject: Mapping[str, str]
    issuer: Mapping[str, str]
    serial: str
    der: bytes = field(repr=False)
    authorities: tuple[str, ...] = ()
    vouched: bool = False


@dataclass(frozen=True, slots=True)
class Peer:
    """What is known of whoever connected before it said CONNECT, and what its listener lets in.

    `address` is "host:port", or "local" on a Unix socket.
    """

    address: str
    certificate: Certificate | None = None
    anonymous: bool = False
    passwords: bool = False

    def origin(self, grant: "Grant") -> Origin:
        """Who sends what comes from this peer, now that it has a grant: its certificate before its name."""
        principal = self.certificate.id if self.certificate is not None else grant.principal
        return Origin(principal or "", self.address.rpartition(":")[0].strip("[]"))


class Grant(Protocol):
    """What one admitted client may do. Topics and filters are valid when asked about.

    `principal` is the name of the device or user, None for an anonymous client. A session belongs to the principal that
    began it, and no other may take it over; one that an anonymous client began, to the first who has a name.
    """

    @property
    def principal(self) -> str | None:
        """The name of the device or user."""
        ...

    def publish(self, topic: str, *, retain: bool) -> bool:
        """Whether it may publish to a topic, as a retained message or not."""
        ...

    def subscribe(self, pattern: str) -> bool:
        """Whether it may subscribe with a filter, given without `$share/group/`."""
        ...

    def receive(self, topic: str) -> bool:
        """Whether it may be sent what is published to a topic."""
        ...

    def refresh(self) -> bool:
        """Look at changed policies and identities from now on; whether this client may stay connected."""
        ...


Answer = Callable[[Grant | ConnAckReasonCode], None]


class Access(Protocol):
    """Who may connect."""

    def connect(self, peer: Peer, client_id: str, packet: ConnectPacket, answer: Answer) -> None:
        """Call `answer` exactly once, now or later, with a grant or with the reason to refuse the connection."""
        ...
