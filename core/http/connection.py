"""One connection of the HTTP server: reads a request, has it answered, writes the response, and begins again.

The task of a connection is made by asyncio's stream protocol, and is waited for by the server's `close`. Bytes that a
client sends ahead wait in the stream's buffer, which stops reading from the socket when it has `READ_BYTES` twice.

Will not decide what a response says (the handler does), nor which bounds hold (`HttpLimits`).
"""

import asyncio
import math
import time
import uuid
from contextlib import suppress
from email.utils import formatdate
from enum import Enum
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol, cast
from urllib.parse import urlsplit

import h11

from core.http.limits import Bodies, Handler, HttpLimits
from core.http.messages import HttpError, Request, Response, problem, refusal
from core.mqtt.access import Certificate
from core.mqtt.doors import certificate_of
from core.telemetry import get_logger

READ_BYTES = 128 << 10  # of one read
PIECES_FREE, PIECE_BYTES = 1_000, 64  # of a body: so many, and one more for each of so many bytes; each costs 30 µs
TURN_PIECES = 64  # that are looked at before others have their turn: 2 ms
LINGER_SECONDS = 3.0  # how long a refused client may go on sending: a reset would cost it the reason
REASONS = {status.value: status.phrase for status in HTTPStatus}
BODILESS = frozenset((204, 304))
REQUEST_ID = "x-amzn-requestid"  # AWS gives one to every answer; boto3 shows it as ResponseMetadata["RequestId"]

log = get_logger("core.http")


class Host(Protocol):
    """The server, as a connection sees it."""

    handler: Handler
    limits: HttpLimits
    bodies: Bodies

    def enter(self, connection: "Connection") -> bool:
        """A connection is open; whether it may stay."""
        ...

    def leave(self, connection: "Connection") -> None:
        """A connection has ended."""
        ...


class Stage(Enum):
    """What a connection is doing, and so what it means when its deadline comes."""

    IDLE = "between two requests"
    READING = "in the middle of a request"
    HANDLING = "waiting for the handler"
    WRITING = "waiting for the client to read"
    ENDING = "after the last response"


class Connection(asyncio.StreamReaderProtocol):
    """One socket under an HttpServer. `deadline` is monotonic seconds; the server calls `expire` after it."""

    def __init__(self, host: Host) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(asyncio.StreamReader(READ_BYTES, loop), self._serve, loop)
        self.task: asyncio.Task[None] | None = None
        self.deadline = math.inf
        self._host = host
        self._stage = Stage.IDLE
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=host.limits.head_bytes)
        self._held = 0
        self._pieces = 0
        self._bodiless = False  # the request was HEAD
        self._admitted = False
        self._gone = False
        self._retired = False
        self._peer = ""
        self._certificate: Certificate | None = None
        self._encrypted = False
        self._socket: asyncio.Transport
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    # -- what the socket and the server tell --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast(asyncio.Transport, transport)
        self._admitted = self._host.enter(self)
        super().connection_made(transport)

    def eof_received(self) -> bool | None:
        self._leave_alone()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._host.leave(self)
        self._leave_alone()
        super().connection_lost(exc)

    def _leave_alone(self) -> None:
        """Nobody waits for an answer any more."""
        if not self._gone and self._stage is Stage.HANDLING and self.task is not None:
            self.task.cancel()
        self._gone = True

    def expire(self) -> None:
        """The deadline has passed."""
        if self._stage is Stage.READING:
            self._retired = True
            limit = self._host.limits.request
            self._write(problem(408, "RequestTimeout", f"no whole request within {limit:g} s"))
            self._end()
        elif self._stage is Stage.IDLE:
            self._end()
        else:
            self.abort()

    def retire(self) -> None:
        """Take no further request; what is under way may end."""
        self._retired = True
        if self._stage is not Stage.HANDLING and self._stage is not Stage.WRITING:
            self.abort()

    def abort(self) -> None:
        """Drop the connection without a word."""
        self._socket.abort()

    def _end(self) -> None:
        """Close once what was written is taken; the server ends it after the deadline."""
        self._enter(Stage.ENDING, LINGER_SECONDS)
        self._writer.close()

    def _enter(self, stage: Stage, seconds: float = math.inf) -> None:
        self._stage = stage
        self.deadline = time.monotonic() + seconds

    # -- the connection's task ----------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.task = asyncio.current_task()
        if not self._admitted:
            self._retired = True
            self._write(problem(503, "ServiceUnavailable", "too many connections; try again", {"retry-after": "1"}))
            writer.close()
            return
        name = writer.get_extra_info("peername")
        self._peer = name[0] if isinstance(name, tuple) else ""
        self._certificate = certificate_of(self._socket)
        self._encrypted = writer.get_extra_info("ssl_object") is not None
        try:
            while await self._exchange():
                self._http.start_next_cycle()
                await asyncio.sleep(0)  # the next may have come already
        except (ConnectionError, asyncio.CancelledError):  # by us; asyncio.streams would log it as a fault
            log.debug("a client went away", peer=self._peer)
        except h11.LocalProtocolError as error:
            log.fault("a handler's response is no HTTP", error)
        finally:
            self._release()
            self._end()

    async def _exchange(self) -> bool:
        """One request and its response; whether another may follow."""
        self._enter(Stage.IDLE, self._host.limits.idle)
        try:
            request = await self._read()
        except HttpError as error:
            if not self._gone:
                await self._refuse(error)
            return False
        if request is None or self._gone or self._retired:
            return False
        self._enter(Stage.HANDLING)
        response = await self._answer(request)
        self._release()
        self._enter(Stage.WRITING, self._host.limits.request)
        self._write(response)
        if self._socket.get_write_buffer_size():
            await self._writer.drain()
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE and not self._retired

    async def _answer(self, request: Request) -> Response:
        try:
            return await self._host.handler(request)
        except HttpError as error:
            return refusal(error)
        except Exception as error:  # noqa: BLE001 - the server's invariant 2
            log.fault("an HTTP request failed", error, method=request.method, path=request.raw_path)
            return problem(500, "ServiceException", "the request failed inside the daemon; its log says why")

    async def _refuse(self, error: HttpError) -> None:
        """Answer what cannot be read to its end, and let the client come to its answer before the socket is closed."""
        self._release()
        self._enter(Stage.ENDING, LINGER_SECONDS)
        self._write(refusal(error))
        if self._writer.can_write_eof():
            with suppress(OSError):
                self._writer.write_eof()
        while await self._reader.read(READ_BYTES):
            pass

    # -- requests -----------------------------------------------------------------------------------------------------

    async def _read(self) -> Request | None:
        """The next request, None when the client has gone. Raises HttpError for what is none, or too large."""
        http = self._http
        head: h11.Request | None = None
        body = bytearray()
        self._pieces = 0
        while True:
            try:
                event = http.next_event()
            except h11.RemoteProtocolError as error:
                raise HttpError(error.error_status_hint, "BadRequest", f"no HTTP/1.1 request: {error}") from None
            if event is h11.NEED_DATA:
                await self._receive()
            elif type(event) is h11.Request:
                head = event
                self._bodiless = head.method == b"HEAD"
                self._check_head(head)
            elif type(event) is h11.Data:
                body += event.data
                self._hold(len(event.data))
                if self._pieces % TURN_PIECES == 0:
                    await asyncio.sleep(0)
            elif type(event) is h11.EndOfMessage and head is not None:
                return self._request(head, bytes(body))
            else:
                return None

    async def _receive(self) -> None:
        http = self._http
        if http.they_are_waiting_for_100_continue:
            self._writer.write(http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        data = await self._reader.read(READ_BYTES)
        if self._stage is Stage.IDLE and data:
            self._enter(Stage.READING, self._host.limits.request)
        http.receive_data(data)

    def _check_head(self, head: h11.Request) -> None:
        """Refuse a head beyond its bound, of which h11 sees only what is late, and a body before it is sent."""
        limit = self._host.limits.head_bytes
        if len(head.target) + sum(len(name) + len(value) + 4 for name, value in head.headers) > limit:
            raise HttpError(431, "RequestHeaderFieldsTooLarge", f"path and headers have more than {limit:,} bytes")
        length = next((value for name, value in head.headers if name == b"content-length"), b"0")
        self._check_size(int(length))

    def _check_size(self, size: int) -> None:
        limit = self._host.limits.body_bytes
        if size > limit:
            raise HttpError(413, "RequestTooLargeException", f"the body has more than {limit:,} bytes")

    def _hold(self, size: int) -> None:
        self._held += size
        self._pieces += 1
        self._host.bodies.held += size
        self._check_size(self._held)
        if self._pieces > PIECES_FREE + self._held // PIECE_BYTES:
            raise HttpError(400, "BadRequest", "the body comes in too small pieces")
        if self._host.bodies.held > self._host.limits.bodies_bytes:
            raise HttpError(503, "ServiceUnavailable", "too many large requests; try again", {"retry-after": "1"})

    def _release(self) -> None:
        self._host.bodies.held -= self._held
        self._held = 0

    def _request(self, head: h11.Request, body: bytes) -> Request:
        headers: dict[str, str] = {}
        for raw, value in head.headers:
            name, text = raw.decode("ascii"), value.decode("latin-1")
            headers[name] = f"{headers[name]},{text}" if name in headers else text
        method = head.method.decode("ascii")
        if method == "CONNECT":
            raise HttpError(501, "NotImplemented", "this is no proxy")
        target = _origin_form(head.target.decode("ascii"))
        return Request(method, target, headers, body, self._peer, self._certificate, self._encrypted)

    # -- responses ----------------------------------------------------------------------------------------------------

    def _write(self, response: Response) -> None:
        http, body = self._http, response.body
        if http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        if self._socket.is_closing():
            raise ConnectionResetError
        headers = list(response.headers.items())
        headers.append(("date", _date(int(time.time()))))
        if REQUEST_ID not in response.headers:
            headers.append((REQUEST_ID, str(uuid.uuid4())))
        if response.status not in BODILESS:
            headers.append(("content-length", str(len(body))))
        if self._retired or http.their_state is not h11.DONE:
            headers.append(("connection", "close"))
        reason = REASONS.get(response.status, "")
        head = http.send(h11.Response(status_code=response.status, reason=reason, headers=headers)) or b""
        if body and response.status not in BODILESS and not self._bodiless:
            self._writer.writelines((head, http.send(h11.Data(data=body)) or b""))
        else:
            self._writer.write(head)
        http.send(h11.EndOfMessage())


def _origin_form(target: str) -> str:
    """The path and query of a request's target; proxies and old clients send a whole URL (RFC 9112 section 3.2)."""
    if target.startswith("/") or target == "*":
        return target
    try:
        parts = urlsplit(target)
    except ValueError:  # an IPv6 address that is none
        raise HttpError(400, "BadRequest", "the target of a request is no URL") from None
    if parts.scheme not in ("http", "https"):
        raise HttpError(400, "BadRequest", "the target of a request is a path that begins with /")
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


@lru_cache(2)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
