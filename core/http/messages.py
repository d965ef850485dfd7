"""Requests and responses as handlers see them, and errors in the words of AWS's APIs.

An error is a header `x-amzn-ErrorType` and a JSON body with the type and a message, in all the spellings that AWS's
services use, so that every SDK raises what it raises at AWS.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

import orjson

from core.errors import TidegateError
from core.mqtt.access import Certificate

JSON = "application/json"


class HttpError(TidegateError):
    """A request that gets this status instead of an answer; `code` is the error's name at AWS."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers or {}


@dataclass(slots=True)
class Request:
    """One request, read whole; made by the server, then only read.

    `target` is the path and query as they were sent. Names of headers are lower-case; values of a header that came
    several times are joined with a comma. `peer` is the address without port, "" on a Unix socket.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""
    peer: str = ""
    certificate: Certificate | None = field(default=None, repr=False)
    encrypted: bool = False

    @property
    def raw_path(self) -> str:
        """The path as it was sent."""
        return self.target.partition("?")[0]

    @property
    def path(self) -> str:
        """The path, decoded; `%2F` is a slash like any other."""
        return unquote(self.raw_path)

    @property
    def raw_query(self) -> str:
        """The query as it was sent."""
        return self.target.partition("?")[2]

    @property
    def query(self) -> Mapping[str, str]:
        """The query, decoded; of a name that came several times the last."""
        raw = self.raw_query
        return dict(parse_qsl(raw, keep_blank_values=True)) if raw else {}


@dataclass(slots=True)
class Response:
    """One answer. The server adds Content-Length, Date, and a request id where there is none."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def json_response(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A document as JSON."""
    return Response(status, orjson.dumps(document), {"content-type": JSON, **(headers or {})})


def refusal(error: HttpError) -> Response:
    """An error in AWS's words."""
    return problem(error.status, error.code, str(error), error.headers)


def problem(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error in AWS's words: `Type` says whose fault it is, as Lambda's API does."""
    kind = "User" if status < 500 else "Service"
    document = {"Type": kind, "message": message, "Message": message, "__type": code}
    return json_response(document, status, {"x-amzn-errortype": code, **(headers or {})})
