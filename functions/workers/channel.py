"""How the daemon talks with one worker, whichever way: a fast socket for Python, the Runtime API for everything else.

Invariants of both kinds:
1. What was sent is done in the order of sending, one at a time; `done` is told as soon as each has ended, so the
   first that is not done is the one that the handler has in hand.
2. Nothing is sent before `ready`, and never more than `capacity` that are not done.
3. `closed` is told once, last, however the channel ended.
"""

from collections.abc import Sequence
from typing import Protocol

from functions.invocations import Invocation


class Listener(Protocol):
    """Whoever has a channel is told, on the event loop."""

    def ready(self) -> None:
        """The handler is loaded."""

    def init_failed(self, error: bytes) -> None:
        """The handler could not be loaded: Lambda's error object."""

    def done(self, request_id: str, payload: bytes, *, error: bool) -> None:
        """The handler has ended, with a result (any bytes) or with Lambda's error object."""

    def said(self, stream: str, data: bytes) -> None:
        """The worker wrote to "stdout" or "stderr": any bytes, not whole lines."""

    def closed(self, reason: str) -> None:
        """The worker cannot be reached any more."""


class Channel(Protocol):
    """The way to one worker."""

    capacity: int

    def send(self, work: Sequence[Invocation]) -> None:
        """Give the worker events."""

    def close(self) -> None:
        """End it; the worker ends too, when it has no other reason to live."""
