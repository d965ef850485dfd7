"""Requests to the worker's endpoint, AWS_ENDPOINT_URL, with AWS Signature Version 4, by the standard library alone.

A connection per thread is kept. One that the endpoint closed meanwhile is opened again, before anything was answered
on it; else nothing is sent twice.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import threading
import time
from urllib.parse import quote, urlencode, urlsplit

TIMEOUT = 910.0  # seconds; the longest function, and what is around it; the caller's own timeout comes first

TYPE_CHECKING = False  # without the cost of importing typing
if TYPE_CHECKING:
    from email.message import Message

_kept = threading.local()


class Unreachable(Exception):
    """The endpoint did not answer."""


class Answer:
    """An answer, whole."""

    def __init__(self, status: int, headers: Message, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


def call(
    service: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, **query: str
) -> Answer:
    """One request; its answer, whatever the status. `path` is quoted already. Raises Unreachable."""
    url = urlsplit(os.environ.get("AWS_ENDPOINT_URL", ""))
    if not url.netloc:
        raise Unreachable("AWS_ENDPOINT_URL is not set: this is no worker of Tidegate")
    target = path + (f"?{urlencode(query)}" if query else "")
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    signed = {**(headers or {}), "Host": url.netloc, "X-Amz-Date": moment}
    signed["Authorization"] = authorization(service, method, path, query, signed, body)
    try:
        return _exchange(url.netloc, method, target, body, signed)
    except (OSError, http.client.HTTPException) as error:
        _drop()
        raise Unreachable(f"{method} {target}: {type(error).__name__}: {error}") from error


def authorization(
    service: str, method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes
) -> str:
    """The header Authorization, over the given headers, of which X-Amz-Date is one; keys come from the environment."""
    lowered = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    names = ";".join(sorted(lowered))
    canonical = "\n".join([
        method, quote(path, safe="/-_.~"), urlencode(sorted(query.items()), quote_via=quote),
        *(f"{name}:{lowered[name]}" for name in sorted(lowered)), "", names, hashlib.sha256(body).hexdigest(),
    ])  # fmt: skip
    moment = lowered["x-amz-date"]
    scope = f"{moment[:8]}/{os.environ.get('AWS_REGION', 'us-east-1')}/{service}/aws4_request"
    key = b"AWS4" + os.environ.get("AWS_SECRET_ACCESS_KEY", "").encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    credential = f"{os.environ.get('AWS_ACCESS_KEY_ID', '')}/{scope}"
    return f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"


def _exchange(address: str, method: str, target: str, body: bytes, headers: dict[str, str]) -> Answer:
    connection = _kept.connection if getattr(_kept, "process", None) == os.getpid() else None
    if connection is not None:
        try:
            return _answer(connection, method, target, body, headers)
        except (ConnectionError, http.client.RemoteDisconnected):  # closed while it was idle
            _drop()
    _kept.connection = connection = http.client.HTTPConnection(address, timeout=TIMEOUT)
    _kept.process = os.getpid()  # a fork must not speak on its parent's
    return _answer(connection, method, target, body, headers)


def _answer(
    connection: http.client.HTTPConnection, method: str, target: str, body: bytes, headers: dict[str, str]
) -> Answer:
    connection.request(method, target, body, headers)
    response = connection.getresponse()
    return Answer(response.status, response.headers, response.read())


def _drop() -> None:
    connection = getattr(_kept, "connection", None)
    _kept.connection = None
    if connection is not None:
        connection.close()
