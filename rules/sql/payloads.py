"""Payloads as values and values as payloads: JSON with every digit of its numbers.

orjson reads and writes nearly everything. It knows 64-bit integers and doubles only, so two cases go a slower
way: a text with a numeral that may have more digits than a double holds, or an exponent that a double has not,
is read by the json module with decimals; a value that holds such a number is written with these as fragments.

A payload must be JSON by RFC 8259: UTF-8 without a byte order mark, no NaN, no lone surrogates, at most 1,024
levels (less on the slower way). The last of several equal keys wins. Integers of more than 34 digits become
Decimals, more than 34 digits are rounded, a number beyond 9.99E999 makes the payload no JSON.
"""

import json
import re
from decimal import Decimal
from typing import Any, NoReturn

import orjson

from rules.errors import EvaluationError
from rules.sql.decimals import CONTEXT, DIGITS_MAX, numeral, settled

# What the payload is looked at through: every digit and point a 0, every E small. A numeral that a double may not
# hold has 17 of these zeros (16 digits and a point; or an integer beyond 64 bits), or 16 and an exponent, or an
# exponent below e-99.
_OUTLINE = bytes(48 if byte in b"0123456789." else 101 if byte in b"Ee" else byte for byte in range(256))
_MANY_DIGITS = "0" * 17
_MANY_DIGITS_AND_EXPONENT = "0" * 16 + "e"
_TINY_EXPONENT = "e-000"
_RUN = re.compile("0+")
_QUOTE, _MINUS = b'"-'

# A double overflows only with an exponent of two digits or more, or with some 300 digits before the point.
_LARGE_EXPONENT = re.compile(rb"[0-9][eE]\+?[0-9]{2}")
_OVERFLOWING_DIGITS = b"0" * 200

# Strings, to be left alone (one that never ends goes to the end, so that no text is scanned twice), and numerals.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"?|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?', re.DOTALL)
_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1  # what orjson writes


def read(payload: bytes) -> Any:
    """The value that `payload` says in JSON. Raises ValueError if it is not JSON, and only that."""
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError:
        if not _may_overflow(payload):
            raise
        orjson.loads(_TOKEN.sub(_without_digits, payload))  # as strict as ever about everything but the numbers
        return _read_exactly(payload)
    outline = payload.translate(_OUTLINE).decode("latin-1")  # a str, because searching one is twice as quick
    if (
        (_MANY_DIGITS in outline and _is_rounded(payload, outline))
        or _MANY_DIGITS_AND_EXPONENT in outline
        or _TINY_EXPONENT in outline
    ):
        return _read_exactly(payload)
    return value


def _is_rounded(payload: bytes, outline: str) -> bool:
    """Whether one of the long runs of digits and points may be a numeral of which orjson has lost digits.

    A string that begins with a run (an ICCID) is none. An integer of up to 18 digits, or 19 without a sign (nanoseconds
    since 1970), is exact, and so is a double as Python and JavaScript write it; one with an exponent is `read`'s. A
    string with a run further behind costs the slower way, and nothing else.
    """
    at = outline.find(_MANY_DIGITS)
    while at >= 0:
        found = _RUN.match(outline, at)
        assert found is not None
        end, before = found.end(), payload[at - 1]
        if before != _QUOTE and not _is_exact(payload[at:end], 18 if before == _MINUS else 19):
            return True
        at = outline.find(_MANY_DIGITS, end)
    return False


def _is_exact(run: bytes, digits_max: int) -> bool:
    if len(run) > 19:
        return False
    return len(run) <= digits_max if run.isdigit() else run.count(b".") == 1 and repr(float(run)).encode() == run


def _may_overflow(payload: bytes) -> bool:
    return bool(_LARGE_EXPONENT.search(payload)) or payload.translate(_OUTLINE).find(_OVERFLOWING_DIGITS) >= 0


def _without_digits(token: re.Match[bytes]) -> bytes:
    return token[0] if token[0].startswith(b'"') else b"0"


def _read_exactly(payload: bytes) -> Any:
    try:
        return _EXACT.decode(payload.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except OverflowError as error:
        raise ValueError(str(error)) from None


def _int(digits: str) -> Any:
    return int(digits) if len(digits.removeprefix("-")) <= DIGITS_MAX else _decimal(digits)


def _decimal(digits: str) -> Any:
    return settled(CONTEXT.create_decimal(digits))


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_EXACT = json.JSONDecoder(parse_int=_int, parse_float=_decimal, parse_constant=_refuse)


def check_size(value: Any, most: int) -> int:
    """How many bytes `value` has as JSON, give or take escapes. Raises EvaluationError when they are more than `most`.

    Looks at no more than that, so that what a rule has multiplied is refused before it is written out.
    """
    left, waiting = most, [value]
    while waiting:
        found = waiting.pop()
        kind = found.__class__
        if kind is dict:
            left -= sum(map(len, found)) + 4 * len(found)
            waiting += found.values()
        elif kind is list:
            left -= len(found)
            waiting += found
        else:
            left -= len(found) if kind is str else 1
        if left < 0:
            raise EvaluationError(f"a value has more than {most:,} bytes")
    return most - left


def json_bytes(value: Any) -> bytes:
    """Compact JSON, UTF-8. Raises EvaluationError for nesting beyond 254 levels, which is what orjson writes,
    and for what is no value of JSON: bytes."""
    try:
        return orjson.dumps(value)
    except TypeError:  # perhaps only for a number
        pass
    try:
        return orjson.dumps(_with_fragments(value))
    except (TypeError, RecursionError) as error:
        if "ecursion" in str(error):
            raise EvaluationError("the result is nested too deeply to be written as JSON") from None
        raise EvaluationError(f"the result cannot be written as JSON: {error}") from None


def _with_fragments(value: Any) -> Any:
    kind = value.__class__
    if kind is dict:
        return {key: _with_fragments(item) for key, item in value.items()}
    if kind is list:
        return [_with_fragments(item) for item in value]
    if kind is Decimal or (kind is int and not _INT64_MIN <= value <= _UINT64_MAX):
        return orjson.Fragment(numeral(value).encode())
    return value
