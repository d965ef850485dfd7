"""The HTTP/1.1 server of the daemons: sockets and bounds around h11, which reads and writes the protocol, sans-I/O.

A request is read whole and given to the one handler; requests of a connection are answered one after the other. Serves
TCP, TLS and Unix sockets, and sockets that are listening already, as those of a worker in a network of its own.

Will not route (`core.http.routes` does) nor ask who is there (`core.http.entrance` does). Speaks no HTTP/2, and sends
no response in pieces.

Invariants:
1. A head, a body, all bodies together, connections, and the time to say a request are bounded by `HttpLimits`; a
   handler may take as long as it likes.
2. A handler that raises costs its own response: status 500, and a line in the log.
3. A client that goes away, or closes its side, while a handler works for it has that handler cancelled.
4. Nothing of a connection is left when `close` returns.
"""

import asyncio
import socket
import ssl
import time
from contextlib import ExitStack

from core.config import HostPort, UnixSocket
from core.errors import ConfigurationError
from core.http.connection import Connection
from core.http.limits import Bodies, Handler, HttpLimits
from core.mqtt.doors import Door, unix_socket

BACKLOG = 128  # connections that the kernel completes while the loop is busy
TICK_SECONDS = 1.0  # how often deadlines are looked at; none is shorter than a few seconds
HANDSHAKE_SECONDS = 10.0
SOCKET_MODE = 0o600  # of a Unix socket: who can open it may ask for everything


class HttpServer:
    """Listening sockets that share a handler and limits, and the connections under them."""

    def __init__(self, handler: Handler, limits: HttpLimits | None = None, bodies: Bodies | None = None) -> None:
        """`bodies` is what this server shares its `bodies_bytes` with; by default nothing."""
        self.handler = handler
        self.limits = limits or HttpLimits()
        self.bodies = bodies or Bodies()
        self.addresses: list[HostPort | UnixSocket] = []
        self.closed = False
        self._connections: set[Connection] = set()
        self._doors: list[Door | None] = []
        self._servers: list[asyncio.Server] = []
        self._files = ExitStack()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def held(self) -> int:
        """Bytes of bodies in memory."""
        return self.bodies.held

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def open(
        self, where: HostPort | UnixSocket | socket.socket, context: ssl.SSLContext | None = None
    ) -> HostPort | UnixSocket | None:
        """Listen, and return the address with the port that was bound (port 0 takes any free one).

        A socket is taken over, bound and perhaps listening, and has no address to return. The file of a Unix socket
        has mode 0600. Raises ConfigurationError when that cannot be done.
        """
        door = Door.around(context, self._may_enter) if context is not None else None
        try:
            server = await self._listen(where, door)
        except OSError as error:
            raise ConfigurationError(f"http {where}", [error.strerror or str(error)]) from None
        self._doors.append(door)
        self._servers.append(server)
        if self._timer is None:
            self._tick()
        if isinstance(where, socket.socket):
            return None
        address = HostPort(where.host, server.sockets[0].getsockname()[1]) if isinstance(where, HostPort) else where
        self.addresses.append(address)
        return address

    async def _listen(self, where: HostPort | UnixSocket | socket.socket, door: Door | None) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        if isinstance(where, UnixSocket):
            where = self._files.enter_context(unix_socket(where.path, SOCKET_MODE))
        if isinstance(where, socket.socket):
            listen = loop.create_unix_server if where.family == socket.AF_UNIX else loop.create_server
            return await listen(self._connection, sock=where, backlog=BACKLOG)
        return await loop.create_server(
            self._connection,
            where.host,
            where.port,
            ssl=door,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if door else None,
            backlog=BACKLOG,
            reuse_address=True,
        )

    def _connection(self) -> Connection:
        return Connection(self)

    def renew(self, context: ssl.SSLContext) -> None:
        """From now on, shake hands with this context wherever there is TLS; nobody is disconnected."""
        for door in self._doors:
            if door is not None:
                door.current = context

    async def close(self, patience: float = 0.0) -> None:
        """Stop listening, let handlers that are at work finish for `patience` seconds, and end every connection."""
        self.closed = True
        for server in self._servers:
            server.close()
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._connections):
            connection.retire()
        tasks = [connection.task for connection in self._connections if connection.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=patience)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for connection in list(self._connections):
            connection.abort()
        while self._connections:  # noqa: ASYNC110 - the loop tells each of them in its next turns
            await asyncio.sleep(0)
        self._files.close()

    # -- what connections ask and tell --------------------------------------------------------------------------------

    def enter(self, connection: Connection) -> bool:
        """A connection is open; whether it may stay."""
        if not self._may_enter():
            return False
        self._connections.add(connection)
        return True

    def leave(self, connection: Connection) -> None:
        """A connection has ended."""
        self._connections.discard(connection)

    def _may_enter(self) -> bool:
        return not self.closed and len(self._connections) < self.limits.connections

    def _tick(self) -> None:
        now = time.monotonic()
        for connection in [each for each in self._connections if now >= each.deadline]:
            connection.expire()
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
