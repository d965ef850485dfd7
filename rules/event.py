"""One message as the rules see it: its payload parsed at most once, however many rules look at it.

A payload that is not JSON stays bytes: it passes through `SELECT *`, and every path into it is Undefined.
What it holds is shared by all rules of the message and must only be read.
"""

from typing import Any

import orjson

from core.message import Message

_UNREAD: Any = object()
_NO_MEMBERS: dict[str, Any] = {}


class Event:
    """A message and the time at which the rules hear it: `now_ms` is milliseconds since the Unix epoch."""

    __slots__ = ("_levels", "_members", "_value", "message", "now_ms")

    def __init__(self, message: Message, now_ms: int) -> None:
        self.message = message
        self.now_ms = now_ms
        self._value = _UNREAD
        self._members = _NO_MEMBERS
        self._levels: list[str] | None = None

    @property
    def value(self) -> Any:
        """What the payload says in JSON, or its bytes when it is not JSON (RFC 8259)."""
        if self._value is _UNREAD:
            self._read()
        return self._value

    @property
    def members(self) -> dict[str, Any]:
        """The members of a payload that is a JSON object; none for every other payload."""
        if self._value is _UNREAD:
            self._read()
        return self._members

    @property
    def levels(self) -> list[str]:
        """The levels of the topic, the first one at index 0."""
        if self._levels is None:
            self._levels = self.message.topic.split("/")
        return self._levels

    def _read(self) -> None:
        try:
            value = self._value = orjson.loads(self.message.payload)
        except orjson.JSONDecodeError:
            self._value = self.message.payload
        else:
            if value.__class__ is dict:
                self._members = value
