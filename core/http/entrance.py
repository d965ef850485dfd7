"""Who sends a request: by access key, bearer token or certificate, or nobody in particular where that is allowed.

The first that applies decides: a signature (`core.http.sigv4`), a bearer token, the client certificate of the
connection, `anonymous`. Where anybody may come in unnamed, a signature by a key that is not known and a token likewise
count as nothing: SDKs cannot be told not to sign.

Will not decide what a caller may do: whoever has a key or a token may do everything, and of a device its policies say
(`devices`).

Web pages: a browser sends requests to this machine for any page that asks it to. With a key, a token or over TLS it
has to have been told a secret; where callers are anonymous, requests that come from a page, or to a name that its
owner may have pointed here (DNS rebinding), are refused.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from typing import Protocol
from urllib.parse import urlsplit

from core.http import sigv4
from core.http.credentials import AccessKey, token_hash
from core.http.messages import HttpError, Request
from core.message import Origin
from core.mqtt.access import Certificate

BEARER = "bearer "
LOCAL_SUFFIXES = (".local", ".localhost", ".internal", ".lan", ".home.arpa")  # RFC 6761, 6762, 8375, ICANN, and custom


class Kind(Enum):
    """How a caller said who it is."""

    KEY = "access key"
    TOKEN = "bearer token"
    CERTIFICATE = "certificate"
    ANONYMOUS = "anonymous"
    LOCAL = "local"  # through a socket that only the daemon's user may open
    FUNCTION = "function"


class Grant(Protocol):
    """What a device may do, as `devices.access.DeviceGrant` knows it."""

    def publish(self, topic: str, *, retain: bool) -> bool:
        """Whether it may publish to a topic, as a retained message or not."""
        ...

    def allows(self, action: str, resource: str) -> bool:
        """Whether an action is allowed, by AWS's names: "iot:GetThingShadow" on "thing/press"."""
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request; `name` is "" for nobody in particular.

    A device comes with its `certificate`. Of messages and shadows `grant` says what a caller may do; without a grant it
    may do everything.
    """

    kind: Kind
    name: str = ""
    certificate: Certificate | None = field(default=None, repr=False)
    grant: Grant | None = field(default=None, repr=False)

    def origin(self, request: Request) -> Origin:
        """Who sends what comes in this request."""
        return Origin(self.name, request.peer, "http")


LOCAL = Caller(Kind.LOCAL)
ANONYMOUS = Caller(Kind.ANONYMOUS)


class Entrance:
    """Decides for one listener. `keys` are by key id, `tokens` as `credentials.read_tokens` gives them."""

    def __init__(
        self,
        keys: Mapping[str, AccessKey] | None = None,
        tokens: Mapping[bytes, str] | None = None,
        *,
        anonymous: bool = False,
        kind: Kind = Kind.KEY,
    ) -> None:
        self.keys = keys or {}
        self.tokens = tokens or {}
        self._anonymous = anonymous
        self._kind = kind

    def admit(self, request: Request, now_ms: int) -> Caller:
        """Who sends this; raises HttpError for nobody who may."""
        caller = self._by_signature(request, now_ms) or self._by_token(request)
        if caller is not None:
            return caller
        if request.certificate is not None:
            return Caller(Kind.CERTIFICATE, request.certificate.id, request.certificate)
        if not self._anonymous:
            raise HttpError(403, "MissingAuthenticationTokenException", "Missing Authentication Token")
        if not request.encrypted:
            _check_page(request)
        return ANONYMOUS

    def _by_signature(self, request: Request, now_ms: int) -> Caller | None:
        if self._anonymous and not self.keys:
            return None
        signature = sigv4.read(request)
        if signature is None:
            return None
        key = self.keys.get(signature.key_id)
        if key is None:
            if self._anonymous:
                return None
            raise HttpError(
                403, "UnrecognizedClientException", "The security token included in the request is invalid."
            )
        sigv4.verify(request, signature, key.secret, now_ms)
        return Caller(self._kind, key.name)

    def _by_token(self, request: Request) -> Caller | None:
        authorization = request.headers.get("authorization", "")
        if not authorization.lower().startswith(BEARER):
            return None
        hashed = token_hash(authorization[len(BEARER) :].strip())
        for known, name in self.tokens.items():
            if hmac.compare_digest(known, hashed):
                return Caller(Kind.TOKEN, name)
        if self._anonymous:
            return None
        raise HttpError(401, "InvalidToken", "this bearer token is not known", {"www-authenticate": "Bearer"})


def _check_page(request: Request) -> None:
    """Refuse what a web page has sent, and what came to a name."""
    if "origin" in request.headers or request.headers.get("sec-fetch-site", "none") != "none":
        raise HttpError(403, "AccessDeniedException", "web pages may not ask here without saying who they are")
    host = request.headers.get("host", "").lower()
    if not _is_ours(host):
        raise HttpError(
            403, "AccessDeniedException", f"{host[:80]!r} could be anybody's name; ask by address, or by a local name"
        )


def _is_ours(host: str) -> bool:
    """Whether a Host header is an address or a name that no name server on the Internet answers for."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:  # an IPv6 address that is none
        return False
    if "." not in name and ":" not in name:
        return True
    try:
        ip_address(name)
    except ValueError:
        return name.endswith(LOCAL_SUFFIXES)
    return True
