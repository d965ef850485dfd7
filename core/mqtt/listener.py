"""The asyncio shell of the broker: sockets, a clock, and one write for everything that a turn of the loop produced.

Decides nothing about MQTT. A whole read is given to the connection at once; what it wants written, acknowledgements of
many messages as a rule, leaves in one write. Reading stops while a peer has more unsettled bytes than `Limits` allows,
and while all peers together have more than `UNSETTLED_MAX_BYTES`: back-pressure is TCP's, nothing is dropped.
"""

import asyncio
import ssl
import time
from contextlib import suppress
from typing import cast

from core.config import HostPort
from core.errors import ConfigurationError
from core.mqtt.broker import Broker
from core.mqtt.connection import Connection

UNSETTLED_MAX_BYTES = 32 << 20  # read but not yet stored, over all connections: what a slow disk may cost in memory
WRITE_HIGH_BYTES = 256 << 10  # written but not taken by a peer; beyond it the peer counts as congested
SETTLE_SECONDS = 5.0  # how long a shutdown waits for commits, so that devices need not send again
POLL_SECONDS = 0.005
LINGER_SECONDS = 2.0  # how long a closing connection may take to read what it is still told


class Channel(asyncio.Protocol):
    """One socket under one Connection."""

    def __init__(self, listeners: "Listeners") -> None:
        self._listeners = listeners
        self._broker = listeners.broker
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._connection: Connection
        self._flushing = False
        self._paused = False
        self._stopping = False
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        peer = transport.get_extra_info("peername")
        address = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "local"
        self._connection = self._broker.open(address, _common_name(transport), self._wake, time.monotonic())
        self._listeners.channels.add(self)

    def data_received(self, data: bytes) -> None:
        connection, broker = self._connection, self._broker
        connection.receive(data, time.monotonic(), now_ms())
        if connection.outgoing or connection.closed:
            self._flush()
        if connection.unsettled > broker.limits.unsettled_bytes or (
            connection.unsettled and broker.unsettled > UNSETTLED_MAX_BYTES
        ):
            self._paused = True
            self._transport.pause_reading()

    def stop_reading(self) -> None:
        """Take nothing more from this peer."""
        self._stopping = True
        if not self._closing:
            self._transport.pause_reading()

    def _wake(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        connection = self._connection
        if connection.outgoing:
            self._transport.write(connection.take())
            connection.taken()
        if connection.closed:
            self._close()
        elif self._paused and not connection.unsettled:
            self._paused = False
            self._read_on()

    def _close(self) -> None:
        if self._closing or self._transport.is_closing():
            return
        self._closing = True
        self._loop.call_later(LINGER_SECONDS, self._transport.abort)
        if self._transport.can_write_eof():
            # Closing a socket that still has bytes to read resets it, and a reset may cost the peer our last words.
            with suppress(OSError):  # the peer may have gone already
                self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def pause_writing(self) -> None:
        # A peer that takes nothing may say nothing more: what it is owed, acknowledgements too, must stay bounded.
        self._connection.congested = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._connection.congested = False
        self._connection.taken()
        self._read_on()

    def _read_on(self) -> None:
        if not (self._paused or self._connection.congested or self._stopping or self._closing):
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.closed = True
        self._listeners.leave(self)
        self._broker.detach(self._connection, now_ms())


class Listeners:
    """The listening sockets of one broker, and the channels under them."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.channels: set[Channel] = set()
        self.addresses: list[HostPort] = []
        self._servers: list[asyncio.Server] = []
        self._timer: asyncio.TimerHandle | None = None
        self._left = asyncio.Event()

    def leave(self, channel: Channel) -> None:
        """A socket is gone."""
        self.channels.discard(channel)
        self._left.set()

    async def open(self, address: HostPort, context: ssl.SSLContext | None = None) -> HostPort:
        """Listen on one address and return it with the port that was bound (port 0 takes any free one).

        Raises ConfigurationError when the address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(
                lambda: Channel(self),
                address.host,
                address.port,
                ssl=context,
                ssl_handshake_timeout=self.broker.limits.connect_seconds if context else None,
                backlog=1_024,
                reuse_address=True,
            )
        except OSError as error:
            raise ConfigurationError(f"listener {address}", [error.strerror or str(error)]) from None
        self._servers.append(server)
        bound = HostPort(address.host, server.sockets[0].getsockname()[1])
        self.addresses.append(bound)
        if self._timer is None:
            self._tick()
        return bound

    def _tick(self) -> None:
        self.broker.expire(time.monotonic(), now_ms())
        self._timer = asyncio.get_running_loop().call_later(1.0, self._tick)

    async def close(self) -> None:
        """Stop listening and reading, acknowledge what was read, and tell every client that the server shuts down."""
        for server in self._servers:
            server.close()
        if self._timer is not None:
            self._timer.cancel()
        for channel in self.channels:
            channel.stop_reading()
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                while self.broker.unsettled:  # noqa: ASYNC110 - it falls with every commit; only its end matters
                    await asyncio.sleep(POLL_SECONDS)
        self.broker.shut_down()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while self.channels:
                    self._left.clear()
                    await self._left.wait()


def now_ms() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


def _common_name(transport: asyncio.BaseTransport) -> str | None:
    certificate = transport.get_extra_info("peercert") or {}
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return None
