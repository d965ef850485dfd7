"""The control socket: how the command line asks a running daemon, one JSON line each way.

A request is `{"command": "status", …arguments}`, the reply is the handler's document or `{"error": "…"}`. The
socket is a file in the data directory that only the daemon's user (and root) may open; that is the whole
access control.

Will not decide what a command does (handlers do), nor stream: whoever wants a feed subscribes over MQTT.

Invariants:
1. A request has at most `REQUEST_BYTES_MAX`; a connection lives at most `CONNECTION_LIMIT_S`, the handler's
   work included; at most `CONNECTIONS_MAX` are served at a time.
2. A handler that raises costs its own reply, never the daemon.
3. Paths of any length work: the socket is reached through its directory's descriptor, for `sun_path` has 108
   bytes.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from core.errors import TidegateError
from core.files import short_path
from core.telemetry import get_logger

REQUEST_BYTES_MAX = 64 * 1024  # a command and its arguments; payloads travel over MQTT
REPLY_BYTES_MAX = 16 * 1024 * 1024  # what the client takes: a page of buffered messages at their largest
CONNECTION_LIMIT_S = 60.0  # most answers come from memory; a flush writes objects to a slow card
REPLY_LIMIT_S = CONNECTION_LIMIT_S + 2.0  # the client waits a little longer, to hear the daemon's own words
CONNECTIONS_MAX = 16  # people at terminals and a monitoring script

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

log = get_logger("core.control")


class ControlServer:
    """The daemon's end. The caller holds the data directory's lock, so a socket found at `path` is dead."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self.path = path
        self._handlers = handlers
        self._connections: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None
        self._closed = False
        self._closing = contextlib.ExitStack()

    async def __aenter__(self) -> "ControlServer":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Begin to answer. Raises TidegateError when the socket cannot be made."""
        try:
            listening = self._bind()
        except OSError as error:
            raise TidegateError(f"{self.path}: cannot be the control socket: {error.strerror}") from error
        self._server = await asyncio.start_unix_server(self._serve, sock=listening, limit=REQUEST_BYTES_MAX)

    async def close(self) -> None:
        """Stop answering, end the connections that are open, and remove the socket."""
        if self._server is None:
            return
        self._closed = True
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._server = None
        self.path.unlink(missing_ok=True)
        self._closing.close()

    def _bind(self) -> socket.socket:
        if self.path.is_socket():
            self.path.unlink()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            os.fchmod(listening.fileno(), 0o600)  # before bind: Linux gives these bits to the file it makes
            listening.bind(self._closing.enter_context(short_path(self.path)))  # asyncio looks the name up again
            listening.listen(CONNECTIONS_MAX)
        except OSError:
            listening.close()
            self._closing.close()
            raise
        return listening

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or self._closed:  # accepted in the same turn as `close`: what handlers use may be gone
            writer.close()
            return
        self._connections.add(task)
        try:
            async with asyncio.timeout(CONNECTION_LIMIT_S):
                writer.write(await self._reply(reader))
                await writer.drain()
        except TimeoutError:
            if writer.transport.get_write_buffer_size():  # the client does not read: nothing more for it
                writer.transport.abort()
            else:
                writer.write(_line({"error": f"no answer within {CONNECTION_LIMIT_S:g} s"}))
        except ConnectionError:
            log.debug("a control client went away")
        finally:
            self._connections.discard(task)
            writer.close()

    async def _reply(self, reader: asyncio.StreamReader) -> bytes:
        if len(self._connections) > CONNECTIONS_MAX:
            return _line({"error": f"busy with {CONNECTIONS_MAX} other requests, try again"})
        try:
            line = await reader.readline()
        except ValueError:  # what asyncio makes of a line beyond the limit
            return _line({"error": f"the request is longer than {REQUEST_BYTES_MAX} bytes"})
        try:
            return _line(await self._answer(line))
        except TidegateError as error:
            return _line({"error": str(error)})
        except Exception as error:  # noqa: BLE001 - invariant 2
            log.fault("a control command failed", error)
            return _line({"error": "the command failed inside the daemon; its log says why"})

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise TidegateError(f"the request is not JSON: {error}") from None
        if not isinstance(request, dict) or not isinstance(command := request.pop("command", None), str):
            raise TidegateError('the request must be an object with a "command"')
        if (handler := self._handlers.get(command)) is None:
            raise TidegateError(f"unknown command {command!r}; known are {', '.join(sorted(self._handlers))}")
        return await handler(request)


def request(path: Path, command: str, **arguments: Any) -> dict[str, Any]:
    """Ask the daemon whose control socket is at `path`; blocks for at most `REPLY_LIMIT_S` between two reads.

    Raises TidegateError when no daemon answers, or with the daemon's own words when it refuses.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel, short_path(path) as address:
            channel.settimeout(REPLY_LIMIT_S)
            channel.connect(address)
            channel.sendall(_line({"command": command, **arguments}))
            reply = _read_line(channel)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise TidegateError(f"the daemon is not running (no {path})") from None
    except PermissionError:
        raise TidegateError(f"{path}: permission denied; ask as root or as the daemon's user") from None
    except TimeoutError:
        raise TidegateError(f"{path}: the daemon does not answer") from None
    except OSError as error:
        raise TidegateError(f"{path}: {error.strerror}") from None
    if not isinstance(reply, dict):
        raise TidegateError(f"{path}: the daemon's reply is cut off or no JSON object")
    if isinstance(message := reply.get("error"), str):
        raise TidegateError(message)
    return reply


def _read_line(channel: socket.socket) -> Any:
    received = bytearray()
    while not received.endswith(b"\n") and len(received) <= REPLY_BYTES_MAX:
        chunk = channel.recv(1 << 16)
        if not chunk:
            return None
        received += chunk
    with contextlib.suppress(orjson.JSONDecodeError):
        return orjson.loads(received)
    return None


def _line(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
