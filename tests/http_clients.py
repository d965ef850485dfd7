"""HTTP from the outside: bytes on a socket where a test says exactly what is sent, http.client where it does not."""

import asyncio
import http.client
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from core.config import HostPort, UnixSocket
from core.http.limits import Handler, HttpLimits
from core.http.messages import Response
from core.http.server import HttpServer

PATIENCE_SECONDS = 10.0
ANYWHERE = HostPort("127.0.0.1", 0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return orjson.loads(self.body)


class Wire:
    """A connection on which a test writes bytes and reads answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        self.writer.write(data)

    async def answer(self, *, head: bool = False) -> Answer:
        """The next answer; of a `head` request, which has no body."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            top = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = top.decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
            body = b"" if head else await self.reader.readexactly(int(headers.get("content-length", 0)))
            return Answer(int(first.split()[1]), headers, body)

    async def is_closed(self) -> bool:
        """Whether the server has nothing more to say and closes; waits for it."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    def close(self) -> None:
        """Go away."""
        self.writer.transport.abort()


@asynccontextmanager
async def wire(
    address: HostPort | UnixSocket | None, context: ssl.SSLContext | None = None
) -> AsyncIterator[Wire]:
    """A connection to a server on this machine, over TLS with a context."""
    if isinstance(address, UnixSocket):
        streams = await asyncio.open_unix_connection(address.path)
    else:
        assert address is not None
        name = "localhost" if context is not None else None
        streams = await asyncio.open_connection(address.host, address.port, ssl=context, server_hostname=name)
    found = Wire(*streams)
    try:
        yield found
    finally:
        found.close()


@asynccontextmanager
async def serving(handler: Handler, limits: HttpLimits | None = None) -> AsyncIterator[tuple[HttpServer, HostPort]]:
    """A server on a free port."""
    server = HttpServer(handler, limits)
    address = await server.open(ANYWHERE)
    assert isinstance(address, HostPort)
    try:
        yield server, address
    finally:
        await server.close()


async def echo(request: Any) -> Response:
    """A handler that gives back what it was sent."""
    return Response(200, request.body, {"x-method": request.method, "x-target": request.target})


async def ask(
    address: HostPort, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Answer:
    """One request by Python's own client."""

    def talk() -> Answer:
        connection = http.client.HTTPConnection(address.host, address.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, target, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    return await asyncio.to_thread(talk)
