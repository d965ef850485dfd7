"""The uplink's side of an MQTT 5 connection: publish with QoS 1, many in flight, and know what each PUBACK said.

The reason code matters here: a negative PUBACK means "keep it", so nothing that hides it will do. Nothing is resent
from here: a connection that ends fails what was in flight, and whoever owns the messages sends them again.
"""

import asyncio
import ssl
from typing import cast

from mqtt5 import (
    ConnAckPacket,
    ConnAckReasonCode,
    ConnectPacket,
    DisconnectPacket,
    Packet,
    PingReqPacket,
    PingRespPacket,
    PubAckPacket,
    PublishPacket,
    QoS,
)

from core.errors import TidegateError
from core.mqtt import v5
from core.mqtt.errors import MalformedPacket

CONNECT_SECONDS = 15.0  # TCP, TLS and CONNACK together, over a slow mobile link
PACKET_MAX_BYTES = 64 << 10  # what a server may send us; it has only acknowledgements to say


class ConnectionFailed(TidegateError):
    """There is no connection (any more); the message says why."""


class PublishRefused(TidegateError):
    """The server answered a publish with a failure; `code` is the MQTT 5 reason code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Client(asyncio.Protocol):
    """One connection; made by `connect`. `lost` is done when it has ended, with the reason as its result."""

    def __init__(self, hello: ConnectPacket) -> None:
        self._loop = asyncio.get_running_loop()
        self.connected: asyncio.Future[ConnAckPacket] = self._loop.create_future()
        self.lost: asyncio.Future[str] = self._loop.create_future()
        self.bytes_sent = 0
        self._hello = hello
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._inflight: dict[int, asyncio.Future[None]] = {}
        self._last_packet_id = 0
        self._timer: asyncio.TimerHandle | None = None
        self._heard = True

    @property
    def receive_max(self) -> int:
        """How many publishes the server takes before it acknowledges the first."""
        return self.connected.result().receive_max

    def publish(self, topic: str, payload: bytes) -> asyncio.Future[None]:
        """Send one QoS 1 message; the future is done with its PUBACK.

        It fails with PublishRefused for a negative PUBACK, with ConnectionFailed when the connection ends first.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        if self.lost.done() or self._transport is None:
            future.set_exception(ConnectionFailed("not connected"))
            return future
        packet_id = self._last_packet_id = self._last_packet_id % 65_535 + 1
        self._inflight[packet_id] = future
        self._write(PublishPacket(topic, payload, qos=QoS.AT_LEAST_ONCE, packet_id=packet_id))
        return future

    def close(self) -> None:
        """Say goodbye and close."""
        if self._transport is not None and not self.lost.done():
            self._write(DisconnectPacket())
            self._end("closed")

    def _write(self, packet: Packet) -> None:
        assert self._transport is not None
        data = v5.encode(packet)
        self.bytes_sent += len(data)
        self._transport.write(data)

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._write(self._hello)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        data = self._buffer + data
        packets: list[Packet] = []
        try:
            self._buffer = data[v5.decode(data, packets, PACKET_MAX_BYTES) :]
        except MalformedPacket as error:
            self._end(f"the server sent a malformed packet: {error}")
        for packet in packets:
            self._handle(packet)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(str(exc) if exc else "the server closed the connection")

    def _handle(self, packet: Packet) -> None:
        match packet:
            case PubAckPacket():
                self._acknowledged(packet)
            case ConnAckPacket() if not self.connected.done():
                self._accepted(packet)
            case DisconnectPacket():
                self._end(f"disconnected by the server: {packet.reason_str or packet.reason_code.name.lower()}")
            case PingRespPacket():
                pass
            case _:
                self._end(f"unexpected {type(packet).__name__} from the server")

    def _accepted(self, packet: ConnAckPacket) -> None:
        if packet.reason_code is not ConnAckReasonCode.SUCCESS:
            self._end(f"refused by the server: {packet.reason_code.name.lower()}")
            return
        self.connected.set_result(packet)
        seconds = self._hello.keep_alive if packet.server_keep_alive is None else packet.server_keep_alive
        if seconds:  # 0 turns keep-alive off (MQTT 5 section 3.1.2.10)
            self._ping_every(float(seconds))

    def _acknowledged(self, packet: PubAckPacket) -> None:
        future = self._inflight.pop(packet.packet_id, None)
        if future is None or future.done():
            return
        if int(packet.reason_code) >= 0x80:
            text = packet.reason_str or packet.reason_code.name.lower()
            future.set_exception(PublishRefused(int(packet.reason_code), text))
        else:
            future.set_result(None)

    def _ping_every(self, seconds: float) -> None:
        if self.lost.done():
            return
        if not self._heard:
            self._end("the server went silent")
            return
        self._heard = False
        self._write(PingReqPacket())
        self._timer = self._loop.call_later(seconds, self._ping_every, seconds)

    def _end(self, reason: str) -> None:
        if self.lost.done():
            return
        self.lost.set_result(reason)
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()
        error = ConnectionFailed(reason)
        if not self.connected.done():
            self.connected.set_exception(error)
            self.connected.exception()  # read here, so that nobody has to when the attempt was given up
        for future in self._inflight.values():
            if not future.done():
                future.set_exception(error)
                future.exception()
        self._inflight.clear()


async def connect(host: str, port: int, hello: ConnectPacket, context: ssl.SSLContext | None) -> Client:
    """Connect, send `hello`, and return the client once the server has accepted it; raise ConnectionFailed."""
    loop = asyncio.get_running_loop()
    client = Client(hello)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await loop.create_connection(lambda: client, host, port, ssl=context)
            await client.connected
    except BaseException as error:
        client.close()
        if isinstance(error, TimeoutError):
            raise ConnectionFailed(f"no answer within {CONNECT_SECONDS:.0f} s") from None
        if isinstance(error, OSError):
            raise ConnectionFailed(error.strerror or str(error)) from None
        raise
    return client
