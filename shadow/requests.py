"""What a client may ask of a shadow, read from the bytes it sent: everything that can be refused without the document.

Bounds, which are AWS's (quotas of the Device Shadow service): PAYLOAD_BYTES_MAX, DEPTH_MAX levels in a section,
TOKEN_BYTES_MAX of a client token.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from shadow.errors import ShadowError
from shadow.merge import Tree

PAYLOAD_BYTES_MAX = 30 << 10  # what the largest document may need, with both sections in one request
DEPTH_MAX = 6  # levels of nesting in a section; the section itself is the first
TOKEN_BYTES_MAX = 64
SECTIONS = ("desired", "reported")

_THING = re.compile(r"[a-zA-Z0-9:_-]{1,128}", re.ASCII)
_SHADOW = re.compile(r"[$a-zA-Z0-9:_-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Update:
    """An update: `changes` has the sections that it names, None for one that it removes; `emptied` is `state: null`."""

    changes: dict[str, Tree | None]
    emptied: bool = False
    version: int | None = None
    token: str | None = None


def check_name(thing: str, shadow: str | None) -> None:
    """Raise ShadowError unless both are names that AWS IoT would take."""
    if not _THING.fullmatch(thing):
        raise ShadowError(400, f"Invalid thing name: {thing[:128]!r}")
    if shadow is not None and not _SHADOW.fullmatch(shadow):
        raise ShadowError(400, f"Invalid shadow name: {shadow[:64]!r}")


def read(payload: bytes) -> Update:
    """Read an update. Raises ShadowError."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise ShadowError(413, "The payload exceeds the maximum size allowed")
    document = _parsed(payload)
    if not isinstance(document, dict):
        raise ShadowError(400, "Invalid JSON")
    if "state" not in document:
        raise ShadowError(400, "Missing required node: state")
    version, token = document.get("version"), token_of(document)
    if version is not None and (not isinstance(version, int) or isinstance(version, bool) or version < 0):
        raise ShadowError(400, "Invalid version")
    state = document["state"]
    if state is None:
        return Update({}, emptied=True, version=version, token=token)
    if not isinstance(state, dict):
        raise ShadowError(400, "State node must be an object")
    for name, section in state.items():
        if name not in SECTIONS:
            raise ShadowError(400, f"State contains an invalid node: '{name[:64]}'")
        if section is not None and not isinstance(section, dict):
            raise ShadowError(400, f"{name.capitalize()} node must be an object")
        _check(section, 1)
    return Update(dict(state), version=version, token=token)


def token_of(document: Any) -> str | None:
    """The client token of a request. Raises ShadowError for one that is none."""
    token = document.get("clientToken") if isinstance(document, dict) else None
    if token is not None and (not isinstance(token, str) or len(token.encode(errors="replace")) > TOKEN_BYTES_MAX):
        raise ShadowError(400, "Invalid clientToken")
    return token


def echo(payload: bytes) -> str | None:
    """The client token of a request that is refused, where one can be read."""
    try:
        return token_of(_parsed(payload)) if len(payload) <= PAYLOAD_BYTES_MAX else None
    except ShadowError:
        return None


def _parsed(payload: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        return json.loads(payload.decode(), parse_constant=refuse)
    except UnicodeDecodeError:
        raise ShadowError(415, "Unsupported documented encoding; supported encoding is UTF-8") from None
    except (ValueError, RecursionError):
        raise ShadowError(400, "Invalid JSON") from None


def _check(value: Any, depth: int, *, in_array: bool = False) -> None:
    if depth > DEPTH_MAX + 1 or (depth > DEPTH_MAX and isinstance(value, dict | list)):
        raise ShadowError(400, f"JSON contains too many levels of nesting; maximum is {DEPTH_MAX}")
    if isinstance(value, dict):
        for member in value.values():
            _check(member, depth + 1, in_array=in_array)
    elif isinstance(value, list):
        for element in value:
            if element is None:
                raise ShadowError(400, "State contains an invalid node: arrays must not contain null")
            _check(element, depth + 1, in_array=True)
    elif value is None and in_array:
        raise ShadowError(400, "State contains an invalid node: arrays must not contain null")
