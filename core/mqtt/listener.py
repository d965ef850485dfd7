"""The asyncio shell of the broker: sockets, a clock, and one write for everything that a turn of the loop produced.

Decides nothing about MQTT. A whole read is given to the connection at once; what it wants written, acknowledgements of
many messages as a rule, leaves in one write. Reading stops while a peer has more unsettled bytes than `Limits` allows,
while all peers together have more than `UNSETTLED_MAX_BYTES`, and while its CONNECT is being decided: back-pressure is
TCP's, nothing is dropped.

Decides how many may come. Of `CONNECTIONS_MAX` connections at most a tenth are strangers, who have not said CONNECT:
when one more comes, the one that has been silent for longest goes. So half-open connections cannot lock out devices.
"""

import asyncio
import resource
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import cast
from weakref import WeakSet

from core.config import HostPort, Listener, UnixSocket
from core.errors import ConfigurationError
from core.mqtt.access import Peer
from core.mqtt.broker import Broker
from core.mqtt.connection import Connection
from core.mqtt.doors import Door, certificate_of, unix_socket

UNSETTLED_MAX_BYTES = 32 << 20  # read but not yet stored, over all connections: what a slow disk may cost in memory
WRITE_HIGH_BYTES = 256 << 10  # written but not taken by a peer; beyond it the peer counts as congested
SETTLE_SECONDS = 5.0  # how long a shutdown waits for commits, so that devices need not send again
POLL_SECONDS = 0.005
LINGER_SECONDS = 2.0  # how long a closing connection may take to read what it is still told
CONNECTIONS_MAX = 10_000  # of one daemon; idle ones at 60 KB each are the memory of the smallest box
STRANGERS_PART = 10  # one in so many may be a stranger; a reconnecting fleet says CONNECT within a round trip
DESCRIPTORS_KEPT = 256  # for databases, the uplink, the control socket and whatever else a daemon opens
BACKLOG = 1_024  # connections that the kernel completes while the loop is busy


class Channel(asyncio.Protocol):
    """One socket under one Connection."""

    __slots__ = (
        *("_accepted", "_broker", "_closing", "_connection", "_flushing", "_listeners", "_loop", "_paused", "_section"),
        *("_stopping", "_transport", "stranger", "__weakref__"),
    )

    def __init__(self, listeners: "Listeners", section: Listener) -> None:
        self.stranger = True
        self._listeners = listeners
        self._section = section
        self._broker = listeners.broker
        self._loop = asyncio.get_running_loop()
        self._accepted = time.monotonic()  # a TLS handshake comes after this
        self._transport: asyncio.Transport
        self._connection: Connection
        self._flushing = False
        self._paused = False
        self._stopping = False
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._listeners.enter(self):
            self.abort()
            return
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._connection = self._broker.open(_peer(transport, self._section), self._wake, self._accepted)
        self._connection.drain = self._drain

    def data_received(self, data: bytes) -> None:
        connection, broker = self._connection, self._broker
        connection.receive(data, time.monotonic(), now_ms())
        if connection.outgoing or connection.closed:
            self._flush()
        if self.stranger and (connection.holding or connection.session is not None):
            self.stranger = False
            self._listeners.met(self)
        if (
            connection.holding
            or connection.unsettled > broker.limits.unsettled_bytes
            or (connection.unsettled and broker.unsettled > UNSETTLED_MAX_BYTES)
        ):
            self._paused = True
            self._transport.pause_reading()

    def abort(self) -> None:
        """Drop the connection without a word."""
        self._transport.abort()

    def stop_reading(self) -> None:
        """Take nothing more from this peer."""
        self._stopping = True
        if not self._closing:
            self._transport.pause_reading()

    def _wake(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _drain(self) -> None:
        # From within a session that is being served: it must not be told that there is room, nor be closed.
        if not self._transport.is_closing():
            self._transport.write(self._connection.take())

    def _flush(self) -> None:
        self._flushing = False
        if self._transport.is_closing():  # the peer went after this was asked for
            return
        connection = self._connection
        if connection.outgoing:
            self._transport.write(connection.take())
            connection.taken()
        if connection.closed:
            self._close()
        elif self._paused and not (connection.unsettled or connection.holding):
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
        if self._listeners.leave(self):
            self._connection.closed = True
            self._broker.detach(self._connection, now_ms())


class Listeners:
    """The listening sockets of one broker, and the channels under them.

    At most `connections_max` connections are open at once, or fewer where the process may not have so many descriptors.
    """

    def __init__(self, broker: Broker, connections_max: int = CONNECTIONS_MAX) -> None:
        self.broker = broker
        self.channels: set[Channel] = set()
        self.addresses: list[HostPort | UnixSocket] = []
        descriptors = raise_descriptor_limit(connections_max + DESCRIPTORS_KEPT)
        self._connections_max = min(connections_max, descriptors - min(DESCRIPTORS_KEPT, descriptors // 2))
        self._strangers_max = max(1, self._connections_max // STRANGERS_PART)
        self._strangers: dict[Channel, None] = {}  # those that have not said CONNECT, the oldest first
        self._handshaking: WeakSet[Channel] = WeakSet()  # in TLS; a loop that gives one up says nothing but forgets it
        self._doors: list[Door | None] = []
        self._servers: list[asyncio.Server] = []
        self._files = ExitStack()
        self._timer: asyncio.TimerHandle | None = None
        self._left = asyncio.Event()

    # -- who may come -------------------------------------------------------------------------------------------------

    def enter(self, channel: Channel) -> bool:
        """A socket is open, its TLS handshake done; whether it may stay."""
        self._handshaking.discard(channel)
        if len(self.channels) + len(self._handshaking) >= self._connections_max:
            self._turned_away("too many connections")
            return False
        if len(self._strangers) >= self._strangers_max:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.abort()
            self._turned_away("too many before CONNECT")
        self._strangers[channel] = None
        self.channels.add(channel)
        return True

    def met(self, channel: Channel) -> None:
        """A stranger has said CONNECT."""
        self._strangers.pop(channel, None)

    def leave(self, channel: Channel) -> bool:
        """A socket is gone; whether it had been let in."""
        known = channel in self.channels
        self.channels.discard(channel)
        self._strangers.pop(channel, None)
        self._left.set()
        return known

    def _may_shake_hands(self) -> bool:
        # The connection that asks is among them already.
        shaking = len(self._handshaking)
        if shaking <= self._strangers_max and shaking + len(self.channels) <= self._connections_max:
            return True
        self._turned_away("too many handshakes")
        return False

    def _turned_away(self, reason: str) -> None:
        self.broker.counters.add("mqtt_connections_turned_away_total", reason=reason)

    # -- the sockets --------------------------------------------------------------------------------------------------

    async def open(self, section: Listener, context: ssl.SSLContext | None = None) -> HostPort | UnixSocket:
        """Listen at one address and return it with the port that was bound (port 0 takes any free one).

        Raises ConfigurationError when that cannot be done.
        """
        address = section.address
        door = Door.around(context, self._may_shake_hands) if context is not None else None
        try:
            server = await self._listen(section, door)
        except OSError as error:
            raise ConfigurationError(f"listener {address}", [error.strerror or str(error)]) from None
        self._doors.append(door)
        self._servers.append(server)
        if isinstance(address, HostPort):
            address = HostPort(address.host, server.sockets[0].getsockname()[1])
        self.addresses.append(address)
        if self._timer is None:
            self._tick()
        return address

    async def _listen(self, section: Listener, door: Door | None) -> asyncio.Server:
        loop, address = asyncio.get_running_loop(), section.address
        factory = self._factory(section, encrypted=door is not None)
        if isinstance(address, UnixSocket):
            listening = self._files.enter_context(unix_socket(address.path, section.mode))
            return await loop.create_unix_server(factory, sock=listening, backlog=BACKLOG)
        return await loop.create_server(
            factory,
            address.host,
            address.port,
            ssl=door,
            ssl_handshake_timeout=self.broker.limits.connect_seconds if door else None,
            backlog=BACKLOG,
            reuse_address=True,
        )

    def _factory(self, section: Listener, *, encrypted: bool) -> Callable[[], asyncio.Protocol]:
        """What makes the protocol of a connection, at the moment when it is accepted."""

        def channel() -> Channel:
            made = Channel(self, section)
            if encrypted:
                self._handshaking.add(made)
            return made

        if section.protocol == "mqtt":
            return channel
        from core.mqtt.websocket import Rules, WebSocket  # most daemons never need it

        limits, rebindable = self.broker.limits, section.anonymous and not encrypted
        rules = Rules(limits.packet_bytes, limits.connect_bytes, section.origins, rebindable)
        return lambda: WebSocket(channel(), rules)

    def renew(self, contexts: Sequence[ssl.SSLContext | None]) -> None:
        """From now on, shake hands with these contexts, one for each `open` in its order; nobody is disconnected."""
        for door, context in zip(self._doors, contexts, strict=True):
            if door is not None and context is not None:
                door.current = context

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
        self._files.close()


def now_ms() -> int:
    """Milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


def raise_descriptor_limit(wanted: int) -> int:
    """Let this process open `wanted` descriptors, if its hard limit allows; how many it may have open then.

    Daemons start with a soft limit of 1,024, which protects programs that use select(2), and are expected to raise it.
    """
    soft, hard = (
        wanted if limit == resource.RLIM_INFINITY else limit for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    if soft < wanted:
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return soft


def _peer(transport: asyncio.BaseTransport, section: Listener) -> Peer:
    name = transport.get_extra_info("peername")
    address = str(HostPort(name[0], name[1])) if isinstance(name, tuple) else "local"
    return Peer(address, certificate_of(transport), section.anonymous, section.passwords)
