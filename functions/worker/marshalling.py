"""Events from JSON and results to JSON, as AWS's Python runtime does it, which is `simplejson` with a few settings.

What differs from the standard library's `json`: NaN and Infinity are refused in an event; a Decimal becomes a number
of the same digits; a named tuple becomes an object; bytes within a result are read as UTF-8 text; and from Python 3.12
on, results are not escaped to ASCII. Words of errors about broken JSON are the standard library's.

A result made of plain values takes the C encoder. Whatever else is in it takes the encoder below.
"""

from __future__ import annotations

import json
import math
import os
from decimal import Decimal

TYPE_CHECKING = False  # without the cost of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterable

_UNESCAPED = {f"AWS_Lambda_python3.{minor}" for minor in range(12, 30)}
_WALK_MAX = 100_000  # containers of a result that are looked at before it goes to the careful encoder
_LEAVES = {str, int, float, bool, type(None)}


class Fault(Exception):
    """An error of the runtime and not of the handler's code; `kind` is the error type that Lambda shows."""

    def __init__(self, kind: str, message: str, trace: list[str] | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.trace = trace or []


def _refuse(constant: str) -> object:
    raise ValueError(f"Out of range float values are not JSON compliant: {constant}")


_decode = json.JSONDecoder(parse_constant=_refuse).decode
_ascii = os.environ.get("AWS_EXECUTION_ENV") not in _UNESCAPED
_encode = json.JSONEncoder(ensure_ascii=_ascii).encode
_quote = json.encoder.encode_basestring_ascii if _ascii else json.encoder.encode_basestring


def read(payload: bytes) -> object:
    """The event of a JSON payload. Raises Fault Runtime.UnmarshalError."""
    try:
        text = str(payload, "utf-8")
        return _decode(text[1:] if text[:1] == "\ufeff" else text)
    except Exception as error:  # noqa: BLE001 - RecursionError too
        raise Fault("Runtime.UnmarshalError", f"Unable to unmarshal input: {error}") from None


def write(result: object) -> bytes:
    """The payload of a handler's result: bytes as they are, else JSON. Raises Fault Runtime.MarshalError."""
    if isinstance(result, bytes):
        return result
    try:
        text = _encode(result) if type(result) in _LEAVES or _is_plain(result) else _text(result, set())
    except Exception as error:  # noqa: BLE001 - from any object of the handler's
        raise Fault("Runtime.MarshalError", f"Unable to marshal response: {error}") from None
    return text.encode("utf-8", "backslashreplace")  # \udc80, half of a character, is an escape of JSON too


def _is_plain(value: object) -> bool:
    """Whether the standard encoder does the same as `simplejson` with this value, and it is no endless circle."""
    waiting = [value]
    for _ in range(_WALK_MAX):
        if not waiting:
            return True
        value = waiting.pop()
        inner: Iterable[object]
        if type(value) is dict:
            if value and set(map(type, value)) != {str}:
                return False
            inner = value.values()
        elif type(value) is list or type(value) is tuple:
            inner = value
        else:
            return False
        if not _LEAVES.issuperset(map(type, inner)):
            waiting.extend(item for item in inner if type(item) not in _LEAVES)
    return False


def _text(value: object, around: set[int]) -> str:
    """JSON of anything; `around` holds the identities of the values that this one is in."""
    if isinstance(value, (str, bytes)):
        return _quote(value if isinstance(value, str) else str(value, "utf-8"))
    if value is None or isinstance(value, (int, float)):
        return _atom(value)
    if id(value) in around:
        raise ValueError("Circular reference detected")
    around.add(id(value))
    try:
        fields = _fields(value)
        if fields is not None:
            pairs = [f"{_quote(_key(key))}: {_text(item, around)}" for key, item in fields.items()]
            return "{" + ", ".join(pairs) + "}"
        if isinstance(value, (list, tuple)):
            return "[" + ", ".join([_text(item, around) for item in value]) + "]"
        if isinstance(value, Decimal):
            return "NaN" if value.is_nan() else str(value)
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
    finally:
        around.discard(id(value))


def _atom(value: float | None) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isfinite(value):
            return float.__repr__(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return int.__repr__(value)


def _key(key: object) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, bytes):
        return str(key, "utf-8")
    if key is None or isinstance(key, (int, float)):
        return _atom(key)
    raise TypeError(f"keys must be str, int, float, bool or None, not {type(key).__name__}")


def _fields(value: object) -> dict[object, object] | None:
    """What becomes an object: a dict, or whatever has `_asdict()`, as named tuples have."""
    as_dict = getattr(value, "_asdict", None)
    if callable(as_dict):
        try:
            fields = as_dict()
        except TypeError:
            pass
        else:
            if not isinstance(fields, dict):
                raise TypeError(f"_asdict() must return a dict, not {type(fields).__name__}")
            return fields
    return value if isinstance(value, dict) else None
