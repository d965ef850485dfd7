"""What clients of an HTTP server may take of it, and what it calls for each request."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from core.http.messages import Request, Response

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of one server. Times are seconds.

    `bodies_bytes` is for the bodies of all connections together, and of all servers that share `Bodies`. `request` is
    for one request, from its first byte to its last, and for a client to take its response; `idle` is for the time
    between two requests.
    """

    connections: int = 256  # SDKs keep ten each; a site has a handful of programs
    head_bytes: int = 32 << 10  # a client context is at most 5 KB, MQTT 5 user properties 8 KB, a signature 1 KB
    body_bytes: int = (6 << 20) + (64 << 10)  # Lambda's largest event, and whatever its envelope may be
    bodies_bytes: int = 64 << 20  # ten of the largest at a time are what the smallest box can hold
    request: float = 60.0  # the largest body over a link of 1 Mbit/s
    idle: float = 75.0  # longer than clients keep a connection for reuse, so that they are the ones to close it


@dataclass(slots=True)
class Bodies:
    """The bodies that are in memory, of one server or of many that share a bound. `held` is bytes."""

    held: int = 0
