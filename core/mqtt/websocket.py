"""MQTT over WebSocket (RFC 6455; MQTT 5 section 6): a protocol on the socket that is a transport to what is above it.

What is above speaks MQTT and sees a stream of bytes, as on any socket: its packets may span frames and share them. The
frames are those of the `websockets` library, which does no I/O; here are the socket, the bounds, and who may come in.

Will not look at MQTT, nor at the path of the request (AWS uses /mqtt). Compression is never negotiated: telemetry in
small frames gains little, and each connection would pay with a window of its own.

Invariants:
1. What is above is told of a connection when it is accepted, so its deadline runs during the handshake too.
2. The head of the request has at most `HEAD_BYTES_MAX`, a message at most `message_bytes` and `FRAMING_BYTES`, and all
   that a stranger sends together at most `stranger_bytes` more than the head.
3. A web page comes in only from an origin that is configured, or from the address that it was itself loaded from.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, Protocol, cast
from urllib.parse import SplitResult, urlsplit

from websockets.datastructures import MultipleValuesError
from websockets.exceptions import InvalidMessage
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import SEND_EOF, State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

HEAD_BYTES_MAX = 8 << 10  # what HTTP servers allow; a client's is a few hundred bytes
FRAMING_BYTES = 1 << 10  # for headers of frames, and for small packets that share a message with a large one
SUBPROTOCOLS = [Subprotocol("mqtt"), Subprotocol("mqttv3.1")]  # the second is the name before MQTT 3.1.1

_quiet = logging.getLogger("core.mqtt.websocket")
_quiet.setLevel(logging.ERROR)  # the library reports every connection at INFO


class Stream(Protocol):
    """What stands above: an asyncio.Protocol that says whether it still does not know who its peer is."""

    stranger: bool

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As in asyncio.Protocol."""
        ...

    def data_received(self, data: bytes) -> None:
        """As in asyncio.Protocol."""
        ...

    def pause_writing(self) -> None:
        """As in asyncio.Protocol."""
        ...

    def resume_writing(self) -> None:
        """As in asyncio.Protocol."""
        ...

    def connection_lost(self, exc: Exception | None) -> None:
        """As in asyncio.Protocol."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """What a WebSocket listener allows; `rebindable` is a name that any web page could claim for us (see `_admits`)."""

    message_bytes: int
    stranger_bytes: int
    origins: Sequence[str] = ()
    rebindable: bool = False


class WebSocket(asyncio.Transport, asyncio.Protocol):
    """One socket under one `Stream`."""

    __slots__ = ("_above", "_closing", "_frames", "_received", "_rules", "_transport")

    def __init__(self, above: Stream, rules: Rules) -> None:
        super().__init__()
        self._above = above
        self._rules = rules
        self._received = 0  # bytes since the head of the request, while the peer is a stranger
        self._closing = False
        self._transport: asyncio.Transport
        self._frames = ServerProtocol(
            subprotocols=SUBPROTOCOLS, max_size=rules.message_bytes + FRAMING_BYTES, logger=_quiet
        )

    # -- the socket's protocol ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._above.connection_made(self)

    def data_received(self, data: bytes) -> None:
        frames = self._frames
        if frames.eof_sent:
            return
        self._received += len(data)
        if frames.state is State.CONNECTING and self._received > HEAD_BYTES_MAX:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {HEAD_BYTES_MAX:,} bytes of headers")
        else:
            frames.receive_data(data)
            stream = [cast(Frame, event).data for event in frames.events_received() if self._is_data(event)]
            if isinstance(frames.handshake_exc, InvalidMessage):
                self._refuse(HTTPStatus.BAD_REQUEST, "this is a listener for MQTT over WebSocket; that is no request")
            if stream and not self._closing:
                self._above.data_received(b"".join(stream))
            if self._above.stranger and self._received > self._rules.stranger_bytes and frames.state is State.OPEN:
                frames.fail(CloseCode.MESSAGE_TOO_BIG, "too much before CONNECT")
        self._flush()

    def _is_data(self, event: object) -> bool:
        """Handle a request and what is no data; whether it is bytes for the stream."""
        if isinstance(event, Request):
            self._answer(event)
            return False
        assert isinstance(event, Frame)
        if event.opcode is Opcode.TEXT and self._frames.state is State.OPEN:
            self._frames.fail(CloseCode.UNSUPPORTED_DATA, "MQTT is sent in binary frames")
        return event.opcode in {Opcode.BINARY, Opcode.CONT} and not self._frames.eof_sent

    def _answer(self, request: Request) -> None:
        if _admits(self._rules, request):
            self._frames.send_response(self._frames.accept(request))
            self._received = 0
        else:
            self._refuse(HTTPStatus.FORBIDDEN, "pages of this origin may not connect: origins of the listener lacks it")

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        if not self._frames.eof_sent:
            self._frames.send_response(self._frames.reject(status, f"{text}\n"))
        else:  # the library could not read the request and has closed its end without a word
            self._transport.write(self._frames.reject(status, f"{text}\n").serialize())

    def _flush(self) -> None:
        writes = self._frames.data_to_send()
        if writes:
            self._transport.write(b"".join(writes))
            if SEND_EOF in writes:
                self._end()

    def _end(self) -> None:
        self._closing = True
        self._transport.close()

    def pause_writing(self) -> None:
        self._above.pause_writing()

    def resume_writing(self) -> None:
        self._above.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._above.connection_lost(exc)

    # -- the transport of what is above -------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        if self._frames.state is State.OPEN:
            self._frames.send_binary(data)
            self._flush()

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        """Say goodbye and wait for the peer's goodbye; whoever closes has to abort when that does not come."""
        if self._closing:
            return
        if self._frames.state is State.OPEN:
            self._closing = True
            self._frames.send_close(CloseCode.NORMAL_CLOSURE)
            self._flush()
            self._transport.resume_reading()
        else:
            if self._frames.state is State.CONNECTING:
                self._refuse(HTTPStatus.REQUEST_TIMEOUT, "no handshake in time")
                self._flush()
            self._end()

    def abort(self) -> None:
        self._closing = True
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def is_reading(self) -> bool:
        return self._transport.is_reading()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)


def _admits(rules: Rules, request: Request) -> bool:
    """Whether a request comes from a program, from a configured origin, or from a page of this very host and port.

    Browsers send `Origin`, and so do some programs (paho). The same host is no proof when anybody may come in unnamed
    and without TLS: a page of evil.example whose name is then pointed at this machine is of the same host too (DNS
    rebinding). A page cannot do that to an address or to localhost, which the name server of no one else answers for.
    """
    try:
        origin, host = request.headers.get("Origin"), request.headers.get("Host")
    except MultipleValuesError:
        return False
    if origin is None or origin.lower() in rules.origins:
        return True
    try:
        page, here = urlsplit(origin.lower()), urlsplit(f"//{(host or '').lower()}")
        same = page.scheme in {"http", "https"} and bool(page.hostname) and _place(page) == _place(here, page.scheme)
    except ValueError:  # a port or an IPv6 address that is none
        return False
    return same and not (rules.rebindable and _is_name(page.hostname or ""))


def _place(url: SplitResult, scheme: str = "") -> tuple[str | None, int]:
    return url.hostname, url.port or (443 if (scheme or url.scheme) == "https" else 80)


def _is_name(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return host != "localhost"
    return False
