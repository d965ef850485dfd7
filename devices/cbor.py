"""CBOR (RFC 8949), as much of it as says the same as JSON: what AWS's SDKs for microcontrollers speak to provisioning.

Texts, whole numbers, floats, true, false, null, arrays, and maps whose keys are texts; of known and unknown length.
Byte strings and tags have no counterpart in JSON and are refused. Values in, values out.
"""

import struct
from collections.abc import Iterator
from typing import Any

from core.errors import TidegateError

NESTING_MAX = 16  # a provisioning request has two levels

_FLOATS = {25: ">e", 26: ">f", 27: ">d"}
_SIMPLE = {20: False, 21: True, 22: None}
_BREAK = 0xFF


class NotCbor(TidegateError):
    """Bytes that are no CBOR, or more of it than is spoken here."""


def dumps(value: Any) -> bytes:
    """The shortest form, maps in their order. Raises TypeError for what JSON could not say either."""
    match value:
        case None | bool():
            return bytes([0xF6 if value is None else 0xF5 if value else 0xF4])
        case int():
            return _head(0, value) if value >= 0 else _head(1, -1 - value)
        case float():
            return b"\xfb" + struct.pack(">d", value)
        case str():
            text = value.encode()
            return _head(3, len(text)) + text
        case list() | tuple():
            return _head(4, len(value)) + b"".join(map(dumps, value))
        case dict():
            return _head(5, len(value)) + b"".join(dumps(key) + dumps(each) for key, each in value.items())
    raise TypeError(f"{type(value).__name__} cannot be said in CBOR here")


def loads(data: bytes) -> Any:
    """The one value that the bytes are. Raises NotCbor."""
    reader = _Reader(data)
    value = reader.value(0)
    if reader.at != len(data):
        raise NotCbor("there is more after the value")
    return value


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    for more, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * size:
            return bytes([major << 5 | more]) + number.to_bytes(size)
    raise TypeError("a whole number of more than 64 bits cannot be said in CBOR here")


class _Reader:
    """Reads values one after the other; `at` is the place in the bytes."""

    def __init__(self, data: bytes) -> None:
        self.at = 0
        self._data = data

    def value(self, depth: int) -> Any:
        if depth > NESTING_MAX:
            raise NotCbor(f"more than {NESTING_MAX} levels")
        first = self._take(1)[0]
        major, more = first >> 5, first & 31
        if major == 7:
            return self._simple(more)
        number = self._number(more)
        if major == 3:
            return self._text(number)
        if number is not None and major == 0:
            return number
        if number is not None and major == 1:
            return -1 - number
        if major == 4:
            return [self.value(depth + 1) for _ in self._items(number)]
        if major == 5:
            return self._map(number, depth)
        raise NotCbor("byte strings and tags are not spoken here")

    def _map(self, number: int | None, depth: int) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for _ in self._items(number):
            key = self.value(depth + 1)
            if not isinstance(key, str) or key in members:
                raise NotCbor("the keys of a map must be texts, each once")
            members[key] = self.value(depth + 1)
        return members

    def _text(self, size: int | None) -> str:
        if size is None:  # in parts, each a text of known length
            parts = []
            for _ in self._items(None):
                first = self._take(1)[0]
                number = self._number(first & 31)
                if first >> 5 != 3 or number is None:
                    raise NotCbor("a part of a text must be a text")
                parts.append(self._text(number))
            return "".join(parts)
        try:
            return self._take(size).decode()
        except UnicodeDecodeError:
            raise NotCbor("a text is not UTF-8") from None

    def _simple(self, more: int) -> Any:
        if more in _FLOATS:
            form = _FLOATS[more]
            return struct.unpack(form, self._take(struct.calcsize(form)))[0]
        if more not in _SIMPLE:
            raise NotCbor("a simple value that JSON does not have")
        return _SIMPLE[more]

    def _number(self, more: int) -> int | None:
        """The number in a head; None when it says that a break ends the item."""
        if more < 24:
            return more
        if more < 28:
            return int.from_bytes(self._take(1 << (more - 24)))
        if more == 31:
            return None
        raise NotCbor("a head that no version of CBOR has")

    def _items(self, number: int | None) -> Iterator[None]:
        """Turns once per item: as often as `number` says, else until the break."""
        if number is not None:
            if number > len(self._data) - self.at:
                raise NotCbor("it ends too early")
            yield from [None] * number
            return
        while self._data[self.at : self.at + 1] != bytes([_BREAK]):
            yield
        self.at += 1

    def _take(self, size: int) -> bytes:
        part = self._data[self.at : self.at + size]
        if len(part) < size:
            raise NotCbor("it ends too early")
        self.at += size
        return part
