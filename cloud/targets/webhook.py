"""One notification as one HTTP request: SNS's headers and body, posted once, answered with a status or an
error.

Decides what an answer means, as SNS does: 2xx is delivered; 429, 5xx and no answer are worth another attempt;
anything else, a redirect included, is final. Will not retry (`alerts` decides that) nor sign: a receiver that
checks SNS signatures must be told not to. No subscription is confirmed first: the operator's configuration is
the consent.
"""

import asyncio
import socket
import ssl
from concurrent.futures import Executor
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

import orjson

ANSWER_SECONDS = 5.0  # from the connection to the status line; a receiver should queue, not work
ARN_PREFIX = "arn:aws:sns:local:000000000000:"  # embedded topics belong to no region and no account


class NotDelivered(Exception):
    """The request brought no 2xx; `final` when another attempt would bring none either."""

    def __init__(self, reason: str, *, final: bool) -> None:
        super().__init__(reason)
        self.final = final


def notification_body(topic: str, message_id: str, at_ms: int, subject: str | None, message: str) -> bytes:
    """The JSON document that SNS posts, without the members that belong to its signature."""
    stamp = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    body = {"Type": "Notification", "MessageId": message_id, "TopicArn": ARN_PREFIX + topic}
    if subject is not None:
        body["Subject"] = subject
    return orjson.dumps(body | {"Message": message, "Timestamp": stamp})


def notification_headers(topic: str, message_id: str) -> dict[str, str]:
    """The headers that SNS sends with it."""
    return {
        "content-type": "application/json; charset=UTF-8",
        "user-agent": "tidegate",
        "x-amz-sns-message-type": "Notification",
        "x-amz-sns-message-id": message_id,
        "x-amz-sns-topic-arn": ARN_PREFIX + topic,
    }


async def post(
    url: str, headers: dict[str, str], body: bytes, threads: Executor, answer_seconds: float = ANSWER_SECONDS
) -> None:
    """Post `body`; raise NotDelivered unless the answer is 2xx. Leaves no thread busy behind an endpoint that hangs."""
    connection = _connection(url, answer_seconds)
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    asked = asyncio.get_running_loop().run_in_executor(threads, _ask, connection, path, headers, body)
    try:
        async with asyncio.timeout(answer_seconds):
            status = await asked
    except TimeoutError:
        raise NotDelivered(f"no answer within {answer_seconds:g} s", final=False) from None
    except (OSError, HTTPException, UnicodeError) as error:
        raise NotDelivered(f"{type(error).__name__}: {error}", final=False) from None
    finally:
        _abort(connection)
    if not 200 <= status < 300:
        raise NotDelivered(f"HTTP status {status}", final=status != 429 and status < 500)


def _connection(url: str, seconds: float) -> HTTPConnection:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https":
        return HTTPSConnection(host, parts.port, timeout=seconds, context=_tls())
    return HTTPConnection(host, parts.port, timeout=seconds)


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _ask(connection: HTTPConnection, path: str, headers: dict[str, str], body: bytes) -> int:
    try:
        connection.request("POST", path, body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def _abort(connection: HTTPConnection) -> None:
    # The socket's own timeout is per read: a peer that sends one byte a second would keep the thread for
    # ever.
    with suppress(OSError):
        if isinstance(connection.sock, socket.socket):
            connection.sock.shutdown(socket.SHUT_RDWR)
