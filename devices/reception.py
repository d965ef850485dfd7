"""The HTTP side of a daemon: its address, its local socket, who comes in, and what devices may do there.

`http.sock` in the data directory serves the same API without asking who is there: like the control socket, it is a
file that only the daemon's user may open. At the address of `[http]`, whoever has an access key or a token may do
everything, and so may anybody where it is `anonymous`; a device, which comes with its certificate, may do what its
policies allow, and anonymous publishing is what the policy `anonymous` allows, as over MQTT.

Will not answer anything itself: routes do. Certificates are verified by TLS, identities are the registry's.
"""

import ssl
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from core.config import HostPort, UnixSocket
from core.http.config import HttpSection
from core.http.credentials import read_access_keys, read_tokens
from core.http.entrance import LOCAL, Caller, Entrance, Kind
from core.http.limits import HttpLimits
from core.http.messages import HttpError, Request, Response
from core.http.routes import Routes
from core.http.server import HttpServer
from core.mqtt.access import Peer
from core.telemetry import Counters, get_logger
from devices.access import ANONYMOUS, DeviceAccess, DeviceGrant, Identity, Refused
from devices.gatekeeper import Gatekeeper

SOCKET_FILE = "http.sock"
PATIENCE_SECONDS = 2.0  # for handlers at work when the daemon stops; its own limit is ten

log = get_logger("devices.reception")


class Api(Protocol):
    """Something that answers requests."""

    def add_to(self, routes: Routes) -> None:
        """Take the requests that are for it."""
        ...


def check(section: HttpSection | None) -> None:
    """Raise ConfigurationError for a file of credentials or tokens that a daemon would not start with."""
    if section is not None:
        _entrance(section)


def warnings(section: HttpSection | None) -> list[str]:
    """What an operator should know of the section."""
    exposed = section is not None and section.exposed
    return [f"http {section.address}: everyone on the network may ask for everything"] if section and exposed else []


class Reception:
    """Serves `apis`; made on a running loop, before the gatekeeper closes. Raises ConfigurationError."""

    def __init__(
        self,
        section: HttpSection | None,
        data_dir: Path,
        gatekeeper: Gatekeeper,
        counters: Counters,
        apis: Sequence[Api],
    ) -> None:
        self.addresses: list[HostPort | UnixSocket] = []
        self._section = section
        self._socket = UnixSocket(data_dir / SOCKET_FILE)
        self._gatekeeper = gatekeeper
        self._counters = counters
        self._entrance = _entrance(section) if section is not None else Entrance()
        self._routes = Routes()
        for api in apis:
            api.add_to(self._routes)
        self._local = HttpServer(partial(self._handle, self._admit_local))
        self._public = HttpServer(partial(self._handle, self._admit), HttpLimits())

    async def open(self) -> None:
        """Begin to answer. Raises ConfigurationError, also for TLS files that are missing or bad."""
        await self._local.open(self._socket)
        section = self._section
        if section is None:
            return
        context: ssl.SSLContext | None = None
        if section.listener is not None:
            context = self._gatekeeper.door(section.listener, self._public.renew)
        await self._public.open(section.address, context)
        self.addresses = self._public.addresses
        for warning in warnings(section):
            log.warning("anonymous callers from the network", text=warning)

    def reload(self) -> None:
        """Read keys and tokens again. Raises ConfigurationError, and then changes nothing."""
        if self._section is not None:
            self._entrance = _entrance(self._section)

    async def close(self) -> None:
        """Take no more requests; those under way have `PATIENCE_SECONDS`."""
        await self._public.close(PATIENCE_SECONDS)
        await self._local.close(PATIENCE_SECONDS)

    # -- requests -----------------------------------------------------------------------------------------------------

    async def _handle(self, admit: "Admit", request: Request) -> Response:
        self._counters.add("http_requests_total")
        try:
            return await self._routes.answer(admit(request), request)
        except HttpError as error:
            self._counters.add("http_requests_refused_total", status=str(error.status))
            raise

    def _admit_local(self, request: Request) -> Caller:
        return LOCAL

    def _admit(self, request: Request) -> Caller:
        caller = self._entrance.admit(request, time.time_ns() // 1_000_000)
        if caller.kind not in (Kind.CERTIFICATE, Kind.ANONYMOUS):
            return caller
        return replace(caller, grant=_grant(self._gatekeeper.access, caller, request))


class Admit(Protocol):
    """How a socket finds out who asks."""

    def __call__(self, request: Request) -> Caller:
        """Raises HttpError for nobody who may."""
        ...


def _entrance(section: HttpSection) -> Entrance:
    keys = read_access_keys(section.credentials) if section.credentials is not None else {}
    tokens = read_tokens(section.tokens) if section.tokens is not None else {}
    return Entrance(keys, tokens, anonymous=section.anonymous)


def _grant(access: DeviceAccess, caller: Caller, request: Request) -> DeviceGrant:
    """What policies let a device do, or somebody who has not said who it is. Raises HttpError.

    There is no CONNECT over HTTP, so nothing is asked about iot:Connect, as at AWS; the client identifier is the name
    of the thing.
    """
    certificate = caller.certificate
    peer = Peer(str(HostPort(request.peer, 0)), certificate, anonymous=certificate is None)
    name = ""
    try:
        if certificate is None:
            grant = DeviceGrant(access, peer, name, lambda: Identity(None, (ANONYMOUS,)))
        else:
            name = access.by_certificate(certificate).name or ""
            grant = DeviceGrant(access, peer, name, partial(access.by_certificate, certificate))
        grant.admission()
    except Refused as refused:
        access.note(refused, peer, name)
        raise HttpError(403, "ForbiddenException", refused.cause) from None
    return grant
