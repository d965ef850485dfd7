"""What one worker can ask of the daemon: AWS's APIs on its own loopback, signed with the keys in its environment.

The keys are random and of this worker alone, and no others are taken; so a function cannot speak for another. What it
publishes has its name as client and principal. It may invoke every function of this machine, and read the secrets
that its manifest names, and those below a directory of its own name.

Will not ask policies: whoever deploys a function decides what it does.
"""

import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from core.http.credentials import AccessKey
from core.http.entrance import Entrance, Kind
from core.http.iotdata import IotData, Publish, Shadows
from core.http.limits import Bodies, HttpLimits
from core.http.messages import Request, Response
from core.http.routes import Routes
from core.http.secretsmanager import SecretsManager
from core.http.server import HttpServer
from core.secret_files import SecretFiles
from functions.api import Catalogue, Invoker, LambdaApi
from functions.invocations import Result
from functions.manifest import Manifest
from functions.names import FunctionName

# A worker handles one event at a time; its SDKs keep ten connections each, and bodies are invocations at most. They are
# read before it is known who sent them, so those of all workers together have a bound: half of what queued events have.
LIMITS = HttpLimits(connections=32, bodies_bytes=32 << 20)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """The access key of one worker; `environment` is how it is told."""

    key_id: str = field(default_factory=lambda: f"AKTG{secrets.token_hex(8).upper()}")
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(30), repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that every AWS SDK reads."""
        return {"AWS_ACCESS_KEY_ID": self.key_id, "AWS_SECRET_ACCESS_KEY": self.secret}


@dataclass(frozen=True, slots=True)
class Services:
    """What is behind the endpoints of all workers. `now_ms` is milliseconds since the Unix epoch."""

    invoker: Invoker
    catalogue: Catalogue
    publish: Publish
    shadows: Shadows | None = None
    secrets: SecretFiles | None = None
    bodies: Bodies = field(default_factory=Bodies)
    now_ms: Callable[[], int] = field(default=lambda: time.time_ns() // 1_000_000)


class Endpoint:
    """The HTTP server of one worker, on a listening socket that the worker made."""

    def __init__(
        self, manifest: Manifest, keys: KeyPair, services: Services, depth: Callable[[], int] = lambda: 0
    ) -> None:
        self._entrance = Entrance({keys.key_id: AccessKey(manifest.name, keys.secret)}, kind=Kind.FUNCTION)
        self._now_ms = services.now_ms
        self._routes = Routes()
        LambdaApi(_Deeper(services.invoker, depth), services.catalogue).add_to(self._routes)
        IotData(services.publish, services.shadows, services.now_ms).add_to(self._routes)
        SecretsManager(services.secrets, lambda name: may_read(manifest, name)).add_to(self._routes)
        self._server = HttpServer(self._answer, LIMITS, services.bodies)

    async def open(self, listening: socket.socket) -> None:
        """Begin to answer on a socket, which is closed with the endpoint."""
        await self._server.open(listening)

    async def close(self) -> None:
        """Answer nothing more; what is under way is cancelled."""
        await self._server.close()

    async def _answer(self, request: Request) -> Response:
        return await self._routes.answer(self._entrance.admit(request, self._now_ms()), request)


class _Deeper:
    """Invokes in the name of the event that a worker has in hand, whose `depth()` is one less."""

    def __init__(self, invoker: Invoker, depth: Callable[[], int]) -> None:
        self._invoker = invoker
        self._depth = depth

    async def accept(self, name: FunctionName, payload: bytes, client_context: bytes = b"", *, depth: int = 0) -> str:
        """Take an event for later."""
        return await self._invoker.accept(name, payload, client_context, depth=self._depth() + 1)

    async def invoke(
        self,
        name: FunctionName,
        payload: bytes,
        client_context: bytes = b"",
        *,
        wants_tail: bool = False,
        depth: int = 0,
    ) -> Result:
        """Have an event handled now."""
        deeper = self._depth() + 1
        return await self._invoker.invoke(name, payload, client_context, wants_tail=wants_tail, depth=deeper)


def may_read(manifest: Manifest, secret: str) -> bool:
    """Whether a function may read a secret by this name."""
    return secret in manifest.environment_secrets.values() or secret.startswith(f"{manifest.name}/")
