"""`tidegate functions invoke`: call a function through the daemon's HTTP API, as the AWS CLI's `lambda invoke` does.

Speaks Lambda's Invoke API (2015-03-31) on the Unix socket in the data directory, which only the daemon's user and root
may open. The result goes to standard output as it is; what people want to know goes to standard error.
"""

import base64
import http.client
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import orjson
import typer

from core.cli import EXIT_FAILED, Json, err, errors_to_exit_codes, plain, print_json, write
from core.errors import TidegateError
from core.files import short_path
from functions.invocations import EVENT_BYTES_MAX
from functions.manifest import TIMEOUT_MAX
from functions.names import FunctionName
from tidegate.functions.logging import readable
from tidegate.functions.options import DEFAULT_CONFIG, HTTP_FILE, Config, Name, load_site

ANSWER_SECONDS = TIMEOUT_MAX + 60.0  # the longest a handler may take, after a wait for a worker
NO_EVENT = b"{}"  # what Lambda gives a handler when there is none

_INVOKE = "/2015-03-31/functions/{}/invocations"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the Invoke API said; `log` is the end of the log, when it was asked for."""

    status: int
    request_id: str
    executed_version: str
    function_error: str
    log: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Asked:
    """How a function is invoked: whether to wait for its result, and for the end of its log."""

    wait: bool = True
    log: bool = False
    client_context: str = ""


SYNCHRONOUS = Asked()


def invoke(
    name: Name,
    payload: Annotated[str | None, typer.Option(help="The event, as JSON; otherwise it is read from a pipe.")] = None,
    qualifier: Annotated[str, typer.Option(help="A version or an alias.")] = "",
    event: Annotated[bool, typer.Option("--event", help="Do not wait: put it into the queue.")] = False,
    log: Annotated[bool, typer.Option("--log", help="Show the end of the log on standard error.")] = False,
    client_context: Annotated[str, typer.Option(help="JSON for context.client_context.")] = "",
    config: Config = DEFAULT_CONFIG,
    as_json: Json = False,
) -> None:
    """Call a function with the event on standard input; exit with 1 when it fails.

    tidegate functions invoke press-alarm < event.json
    """
    with errors_to_exit_codes():
        function = FunctionName.parse(name, qualifier)
        body = _event(payload)
        asked = Asked(wait=not event, log=log, client_context=client_context)
        answer = call(load_site(config).data_dir / HTTP_FILE, function, body, asked)
    if as_json:
        print_json(_document(answer))
    elif event:
        write(f"{answer.request_id}\n".encode())
    else:
        write(answer.payload + b"\n")
    if answer.log:
        err.print("\n".join(map(readable, answer.log.splitlines())), soft_wrap=True)
    if answer.function_error:
        err.print(f"{plain(str(function))} failed: {answer.function_error}", style="red", soft_wrap=True)
        raise typer.Exit(EXIT_FAILED)


def call(path: Path, function: FunctionName, event: bytes, asked: Asked = SYNCHRONOUS) -> Answer:
    """Invoke a function through the socket at `path`.

    Raises TidegateError when the daemon does not answer, or with its words when it refuses.
    """
    headers = {"Content-Type": "application/json"}
    headers["X-Amz-Invocation-Type"] = "RequestResponse" if asked.wait else "Event"
    if asked.log:
        headers["X-Amz-Log-Type"] = "Tail"
    if asked.client_context:
        headers["X-Amz-Client-Context"] = base64.b64encode(asked.client_context.encode()).decode()
    connection = _Connection(path, ANSWER_SECONDS)
    try:
        connection.request("POST", _INVOKE.format(quote(str(function), safe="")), event, headers)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise TidegateError(f"{path}: the daemon does not answer: {error or type(error).__name__}") from None
    finally:
        connection.close()
    if response.status >= 400:
        raise TidegateError(_refusal(response.status, body))
    return Answer(
        status=response.status,
        request_id=response.headers.get("x-amzn-RequestId", ""),
        executed_version=response.headers.get("X-Amz-Executed-Version", ""),
        function_error=response.headers.get("X-Amz-Function-Error", ""),
        log=base64.b64decode(response.headers.get("X-Amz-Log-Result", "")).decode("utf-8", "replace"),
        payload=body,
    )


class _Connection(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path: Path, wait: float) -> None:
        super().__init__("localhost", timeout=wait)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket. Raises TidegateError when nobody listens there."""
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.settimeout(self.timeout)
        try:
            with short_path(self._path) as address:
                channel.connect(address)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            channel.close()
            raise TidegateError(f"the daemon is not running (no {self._path})") from None
        except PermissionError:
            channel.close()
            raise TidegateError(f"{self._path}: permission denied; ask as root or as the daemon's user") from None
        self.sock = channel


def _event(payload: str | None) -> bytes:
    if payload is not None:
        body = payload.encode()
    elif sys.stdin is None or sys.stdin.isatty():
        body = NO_EVENT
    else:
        body = sys.stdin.buffer.read(EVENT_BYTES_MAX + 1) or NO_EVENT
    if len(body) > EVENT_BYTES_MAX:
        raise TidegateError(f"the event has more than {EVENT_BYTES_MAX:,} bytes")
    return body


def _refusal(status: int, body: bytes) -> str:
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        said = None
    words = (said.get("Message") or said.get("message")) if isinstance(said, dict) else None
    return str(words) if words else f"the daemon answers with HTTP status {status}"


def _document(answer: Answer) -> dict[str, Any]:
    try:
        payload = orjson.loads(answer.payload) if answer.payload else None
    except orjson.JSONDecodeError:
        payload = answer.payload.decode("utf-8", "backslashreplace")
    return {
        "status": answer.status,
        "request_id": answer.request_id,
        "executed_version": answer.executed_version,
        "function_error": answer.function_error,
        "log": answer.log,
        "payload": payload,
    }
