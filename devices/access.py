"""Who may connect, as what, and what they may do then: certificates, passwords and policies, asked by the broker.

A CONNECT is judged in this order; the first that applies decides:

1. A certificate. One that is registered must be active and belong to a thing. One of the local authority that is not
   registered was removed. Of any other the common name is the device, where the listener's `client_ca` vouches for it.
2. A user name, where the listener takes passwords: the name of a thing.
3. Nobody in particular, where the listener says `anonymous`: the policy of that name holds.

Then `iot:Connect` must be allowed. Whatever policies say, topics of the server are closed to clients (`Reserved`); what
is open there without a policy, a policy that denies it closes.

Will not verify certificates (TLS does), keep identities (`devices.registry`), nor read policies (`policy_files`).

Invariants:
1. A refusal is counted every time, and logged once for each cause and client.
2. What a grant remembers is bounded, and forgotten when it refreshes.
3. A grant whose identity or right to connect is gone says so at the next refresh, and stays refused.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from mqtt5 import ConnAckReasonCode, ConnectPacket

from core.mqtt.access import Answer, Certificate, Peer
from core.telemetry import Counters, get_logger
from core.topics import BASIC_INGEST
from devices.conditions import Context
from devices.logins import Logins
from devices.policies import Decision, Permissions, PolicySet, select
from devices.registry import UPLINK, Registered, Status, Thing

CHECKS_MAX = 1_000  # answers that a grant remembers per question; a device uses tens of topics
CHECKED_CHARS_MAX = 256  # longer topics are decided each time, so that a flood of them costs no memory
CAUSES_MAX = 1_000  # refusals that were logged, by cause and client
USER_CHARS_MAX = 128  # of a thing's name
PASSWORD_BYTES_MAX = 1_024  # as `devices.passwords`

ANONYMOUS = "anonymous"

# A thing's name, or a host name: common names of an operator's own authority are often that.
_COMMON_NAME = re.compile(r"[a-zA-Z0-9:_-][a-zA-Z0-9:_.-]{0,127}")
_RESERVED = frozenset(("$SYS", "$share", "$tidegate", "$aws"))

# What a client does: the action and the type of its resource.
VERBS = {
    "connect": ("iot:Connect", "client"),
    "publish": ("iot:Publish", "topic"),
    "retain": ("iot:RetainPublish", "topic"),
    "subscribe": ("iot:Subscribe", "topicfilter"),
    "receive": ("iot:Receive", "topic"),
}

NOT_AUTHORIZED = ConnAckReasonCode.NOT_AUTHORIZED
BAD_LOGIN = ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD

Register = Callable[[Peer, Callable[[], None]], bool]
"""Whether a certificate that is not registered is taken for registration; then calls back once it is, or is not."""

Revoked = Callable[[Certificate], bool]
"""Whether a certificate is on a revocation list."""

log = get_logger("devices.access")


def _nothing(_: Certificate) -> bool:
    return False


class Identities(Protocol):
    """What is asked of `devices.registry.Registry`."""

    @property
    def things(self) -> Mapping[str, Thing]:
        """Every thing by its name."""
        ...

    @property
    def certificates(self) -> Mapping[str, Registered]:
        """Every certificate by its id."""
        ...


@dataclass(frozen=True, slots=True)
class Reserved:
    """Topics of the server. Clients publish to `$aws/…` only below the prefixes that are `served`.

    Below `frames_under` each edge publishes under its own name; without a name only where a listener is anonymous.
    """

    served: tuple[str, ...] = ()
    frames_under: str | None = None

    def decide(self, topic: str, principal: str | None, *, retain: bool) -> Decision | None:
        """Whether a client may publish; None when that is for policies to decide."""
        if not topic.startswith("$") or topic.split("/", 1)[0] not in _RESERVED or topic.startswith(self.served):
            return None
        if self.frames_under is not None and topic.startswith(self.frames_under):
            edge, _, lane = topic.removeprefix(self.frames_under).partition("/")
            if edge and lane and principal in (None, edge) and not retain:
                return Decision(True, "frames of this edge")
        return Decision(False, "the topic is reserved for the server")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is: the name of a device, or None; and the names of its policies."""

    name: str | None
    policies: tuple[str, ...]
    attributes: Mapping[str, str] = field(default_factory=dict)
    attached: bool = False


class Refused(Exception):
    """Why somebody may not connect: `cause` is one of our words, `code` for the client, `detail` for the log."""

    def __init__(self, cause: str, code: ConnAckReasonCode = NOT_AUTHORIZED, detail: str = "") -> None:
        super().__init__(detail or cause)
        self.cause = cause
        self.code = code
        self.detail = detail


class DeviceAccess:
    """Decides about connections; see above. Run `logins.run()` beside it where a listener takes passwords.

    `local_issuer` is the common name of the local authority, `revoked` says what is on a revocation list.
    """

    def __init__(
        self,
        registry: Identities,
        policies: PolicySet,
        counters: Counters,
        *,
        default_policies: tuple[str, ...] = ("default",),
        reserved: Reserved | None = None,
        local_issuer: str | None = None,
        logins: Logins | None = None,
        register: Register | None = None,
        revoked: Revoked = _nothing,
    ) -> None:
        self.registry = registry
        self.policies = policies
        self.reserved = reserved or Reserved()
        self.logins = logins or Logins()
        self.register = register
        self._counters = counters
        self._default_policies = default_policies
        self.local_issuer = local_issuer
        self._revoked = revoked
        self._logged: set[tuple[str, str]] = set()

    def replace(self, policies: PolicySet, revoked: Revoked = _nothing) -> None:
        """Decide by these from now on; grants follow when the broker asks them to refresh."""
        self.policies = policies
        self._revoked = revoked
        self._logged.clear()

    # -- CONNECT ------------------------------------------------------------------------------------------------------

    def connect(self, peer: Peer, client_id: str, packet: ConnectPacket, answer: Answer) -> None:
        """Call `answer` once, now or later, with a DeviceGrant or the reason code of a refusal."""
        attempt = _Attempt(self, peer, client_id, answer)
        if peer.certificate is not None:
            if self._may_register(peer.certificate) and self.register and self.register(peer, attempt.registered):
                return
            attempt.end(partial(self.by_certificate, peer.certificate))
        elif peer.passwords and packet.username is not None:
            self._log_in(attempt, packet.username, packet.password or b"")
        elif peer.anonymous:
            attempt.end(lambda: Identity(None, (ANONYMOUS,)))
        else:
            attempt.refuse(Refused("no certificate, user name or password"))

    def _log_in(self, attempt: "_Attempt", user: str, password: bytes) -> None:
        if len(user) > USER_CHARS_MAX or not 0 < len(password) <= PASSWORD_BYTES_MAX:
            attempt.refuse(Refused("wrong user name or password", BAD_LOGIN))
            return
        thing = self.registry.things.get(user)
        phc = thing.password if thing is not None else None

        def checked(right: bool | None) -> None:
            if right is None:
                attempt.refuse(Refused("too many passwords to check", ConnAckReasonCode.SERVER_BUSY))
            elif right and phc is not None:
                attempt.end(partial(self.by_password, user, phc))
            else:
                attempt.refuse(Refused("wrong user name or password", BAD_LOGIN))

        self.logins.check(user, phc, password, _host(attempt.peer.address), checked)

    def _may_register(self, certificate: Certificate) -> bool:
        unknown = certificate.id not in self.registry.certificates
        return unknown and not self._is_local(certificate) and not self._revoked(certificate)

    # -- who is who ---------------------------------------------------------------------------------------------------

    def by_certificate(self, certificate: Certificate, *, registered: bool = False) -> Identity:
        """Whose certificate this is; `registered` when it must be in the registry. Raises Refused."""
        if self._revoked(certificate):
            raise Refused("certificate on a revocation list")
        entry = self.registry.certificates.get(certificate.id)
        if entry is None:
            if registered or self._is_local(certificate):
                raise Refused("certificate removed from the registry")
            if not certificate.vouched:
                raise Refused("certificate that is not registered, and that no client_ca vouches for")
            return self.by_name(certificate.subject.get("commonName", ""))
        if entry.status is not Status.ACTIVE:
            raise Refused(f"certificate {entry.status.lower().replace('_', ' ')}")
        thing = self.registry.things.get(entry.thing) if entry.thing is not None else None
        if thing is None:
            raise Refused("certificate of no thing")
        return self._identity(thing)

    def by_name(self, name: str) -> Identity:
        """The device of this name, for whose certificate the operator's own authority vouches. Raises Refused."""
        if not _COMMON_NAME.fullmatch(name) or name.startswith(UPLINK):
            raise Refused("certificate whose common name is no name of a thing")
        thing = self.registry.things.get(name)
        policies = thing.policies if thing is not None else ()
        return Identity(name, policies or self._default_policies, thing.attributes if thing is not None else {})

    def by_password(self, user: str, phc: str) -> Identity:
        """The thing whose password was checked against `phc`. Raises Refused when it has another one now."""
        thing = self.registry.things.get(user)
        if thing is None or thing.password != phc:
            raise Refused("password changed", BAD_LOGIN)
        return self._identity(thing)

    def _identity(self, thing: Thing) -> Identity:
        return Identity(thing.name, thing.policies or self._default_policies, thing.attributes, attached=True)

    def is_anothers(self, client_id: str, name: str | None) -> bool:
        """Whether a client identifier belongs to another device than `name`: its name, or that of its uplink."""
        edge = client_id.removeprefix(UPLINK)
        if edge != client_id and name is not None and edge != name:
            return True  # also when that edge is not registered: a client_ca may vouch for it
        return any(each in self.registry.things and each != name for each in (client_id, edge))

    def _is_local(self, certificate: Certificate) -> bool:
        return self.local_issuer is not None and certificate.issuer.get("commonName") == self.local_issuer

    # -- refusals -----------------------------------------------------------------------------------------------------

    def note(self, refused: Refused, peer: Peer, client_id: str) -> None:
        """Count a refusal, and log it unless this client was refused for this before."""
        self._counters.add("access_refused_total", cause=refused.cause)
        who = peer.certificate.id if peer.certificate is not None else f"{_host(peer.address)} {client_id}"
        if (refused.cause, who) in self._logged:
            return
        if len(self._logged) >= CAUSES_MAX:
            self._logged.clear()
        self._logged.add((refused.cause, who))
        facts = {"detail": refused.detail} if refused.detail else {}
        if peer.certificate is not None:
            facts["certificate"] = peer.certificate.id
        log.warning("client refused", cause=refused.cause, client=client_id, address=peer.address, **facts)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One CONNECT that waits for its answer."""

    access: DeviceAccess
    peer: Peer
    client_id: str
    answer: Answer

    def end(self, identify: Callable[[], Identity]) -> None:
        """Admit who `identify` finds, if the policies let it connect."""
        grant = DeviceGrant(self.access, self.peer, self.client_id, identify)
        try:
            grant.check()
        except Refused as refused:
            self.refuse(refused)
        else:
            self.answer(grant)

    def registered(self) -> None:
        """The certificate was registered, or will not be."""
        assert self.peer.certificate is not None
        self.end(partial(self.access.by_certificate, self.peer.certificate, registered=True))

    def refuse(self, refused: Refused) -> None:
        """Say no."""
        self.access.note(refused, self.peer, self.client_id)
        self.answer(refused.code)


class DeviceGrant:
    """What one admitted client may do, by its policies and the rules about reserved topics."""

    __slots__ = (
        "_access", "_client_id", "_identify", "_peer", "_permissions", "_published", "_received", "_refused",
        "_retained", "_subscribed", "principal",
    )  # fmt: skip

    def __init__(self, access: DeviceAccess, peer: Peer, client_id: str, identify: Callable[[], Identity]) -> None:
        self.principal: str | None = None
        self._access = access
        self._peer = peer
        self._client_id = client_id
        self._identify = identify
        self._refused = False
        self._permissions = Permissions((), Context(client_id))
        self._forget()

    def check(self) -> None:
        """Look up who the client is and what its policies say now. Raises Refused when it may not be connected."""
        decision = self.admission()
        if not decision.allowed:
            raise Refused("policies do not let it connect", detail=decision.reason)

    def admission(self) -> Decision:
        """Look up who the client is; whether its policies let it connect. Raises Refused when it is nobody."""
        identity = self._identify()
        certificate = self._peer.certificate
        if certificate is not None and certificate.id in self._access.registry.certificates:
            # From now on it has to stay there: one that is removed is not the operator's authority's again.
            self._identify = partial(self._access.by_certificate, certificate, registered=True)
        self.principal = identity.name
        self._permissions = self._permissions_of(identity)
        self._forget()
        return self.decide("connect", self._client_id)

    def _permissions_of(self, identity: Identity) -> Permissions:
        access = self._access
        context = Context(
            self._client_id,
            identity.name,
            identity.attributes,
            self._peer.certificate,
            self._peer.address,
            attached=identity.attached,
            client_is_thing=access.is_anothers(self._client_id, identity.name),
        )
        return Permissions(select(access.policies, identity.policies), context)

    def _forget(self) -> None:
        self._published: dict[str, bool] = {}
        self._retained: dict[str, bool] = {}
        self._subscribed: dict[str, bool] = {}
        self._received: dict[str, bool] = {}

    # -- what the broker asks -----------------------------------------------------------------------------------------

    def publish(self, topic: str, *, retain: bool) -> bool:
        """Whether it may publish to a topic, as a retained message or not."""
        known = self._retained if retain else self._published
        allowed = known.get(topic)
        return self._ask(known, "retain" if retain else "publish", topic) if allowed is None else allowed

    def subscribe(self, pattern: str) -> bool:
        """Whether it may subscribe with a filter, given without `$share/group/`."""
        allowed = self._subscribed.get(pattern)
        return self._ask(self._subscribed, "subscribe", pattern) if allowed is None else allowed

    def receive(self, topic: str) -> bool:
        """Whether it may be sent what is published to a topic."""
        allowed = self._received.get(topic)
        return self._ask(self._received, "receive", topic) if allowed is None else allowed

    def refresh(self) -> bool:
        """Look at changed policies and identities from now on; whether this client may stay connected."""
        before = self.principal
        if not self._refused:
            try:
                self.check()
                self._refused = self.principal != before  # its session is another's now
            except Refused as refused:
                self._access.note(refused, self._peer, self._client_id)
                self._refused = True
        if self._refused:
            self._permissions = Permissions((), Context(self._client_id))
            self._forget()
        return not self._refused

    # -- what others ask ----------------------------------------------------------------------------------------------

    def allows(self, action: str, resource: str) -> bool:
        """Whether an action is allowed, by AWS's names: "iot:GetThingShadow" on "thing/press/settings"."""
        return self._permissions.decide(action, resource).allowed

    def decide(self, verb: str, topic: str) -> Decision:
        """Whether the client may do one of VERBS to a topic, filter or client identifier, and why."""
        action, kind = VERBS[verb]
        told = self._permissions.decide(action, f"{kind}/{topic}")
        if verb in ("publish", "retain") and not self._refused:
            reserved = self._access.reserved.decide(topic, self.principal, retain=verb == "retain")
            denied = told.statement is not None and not told.allowed
            if reserved is not None and not (reserved.allowed and denied):
                return reserved
        if verb == "retain":  # needs both
            plain = self.decide("publish", topic)
            if not plain.allowed:
                return plain
        return told

    def _ask(self, known: dict[str, bool], verb: str, topic: str) -> bool:
        allowed = self.decide(verb, topic).allowed
        if len(topic) <= CHECKED_CHARS_MAX:
            if len(known) >= CHECKS_MAX:
                known.clear()
            known[topic] = allowed
        return allowed


def explain(
    access: DeviceAccess, name: str, verb: str, topic: str, *, client_id: str | None = None, peer: Peer | None = None
) -> Decision:
    """What would be decided about the device `name`, connected as `client_id` (its name) from `peer`, and why.

    Raises Refused for a name that no device can have.
    """
    identity = access.by_name(name)
    if thing := access.registry.things.get(name):
        identity = Identity(name, identity.policies, thing.attributes, attached=True)
    grant = DeviceGrant(access, peer or Peer("local"), name if client_id is None else client_id, lambda: identity)
    admission = grant.admission()
    return admission if verb == "connect" else grant.decide(verb, topic)


def _host(address: str) -> str:
    return address.rpartition(":")[0] or address


# -- without identities -----------------------------------------------------------------------------------------------


class OpenAccess:
    """Everyone who may reach the listener may do everything, but to reserved topics; for tests and simple sites."""

    def __init__(self, frames_under: str | None = None) -> None:
        self._reserved = Reserved((BASIC_INGEST,), frames_under)

    def connect(self, peer: Peer, client_id: str, packet: ConnectPacket, answer: Answer) -> None:
        """Everyone the listener let in; a certificate's common name is the principal."""
        name = peer.certificate.subject.get("commonName", "") if peer.certificate is not None else None
        answer(OpenGrant(name, self._reserved))


@dataclass(slots=True)
class OpenGrant:
    """May do everything, but publish to reserved topics."""

    principal: str | None
    reserved: Reserved

    def publish(self, topic: str, *, retain: bool) -> bool:
        """Everything but topics of the server."""
        decision = self.reserved.decide(topic, self.principal, retain=retain)
        return decision is None or decision.allowed

    def subscribe(self, pattern: str) -> bool:
        """Everything."""
        return True

    def receive(self, topic: str) -> bool:
        """Everything."""
        return True

    def refresh(self) -> bool:
        """Nothing changes."""
        return True
