"""The values of IoT SQL, how they convert into each other, and what the operators make of them.

    Int → int · Decimal → float · Boolean → bool · String → str · Array → list · Object → dict · Null → None

Undefined, the absence of a value, is `UNDEFINED`. Every function here is total: a wrong type, a division by
zero or a result beyond what a double holds gives UNDEFINED, as the language says; only a text or a nesting
beyond its bound raises EvaluationError. Values are never changed in place, because the rules of one message
share its parsed payload.

Invariants: an int has at most 34 digits (a larger result becomes a Decimal); a float is finite; no list or
dict holds UNDEFINED.

Python's `True == 1` and `is` subtleties stay in this module: callers compare with `equal`, never with `==`.
"""

import json
import math
import re
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import orjson

from rules.errors import EvaluationError

INT_MAX = 10**34 - 1  # AWS: an Int has up to 34 digits
EXACT_MAX = 2**53  # beyond it a double skips whole numbers, so being whole says nothing
TEXT_CHARS_MAX = 1_048_576  # eight times the largest AWS payload; keeps `a + a + a …` within bounds

NUMBERS = frozenset((int, float))
PLAIN = frozenset((str, int, bool, type(None)))  # what `whole` never changes
NUMERAL = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE]-?[0-9]+)?")  # AWS's pattern: no '+', no '.5', no '5.', no spaces
DIGITS_MAX = 34


class SqlVersion(StrEnum):
    """`awsIotSqlVersion`: under the newer one a Decimal whose value is whole is an Int."""

    V2015 = "2015-10-08"
    V2016 = "2016-03-23"


class Undefined:
    """The type of UNDEFINED, the one value that stands for no value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Undefined"


UNDEFINED = Undefined()


# ── numbers ─────────────────────────────────────────────────────────────────────────────────────────────────


def settle(number: float) -> Any:
    """A computed number as Int or Decimal: too many digits make a Decimal, infinity and NaN Undefined."""
    if number.__class__ is int:
        return number if -INT_MAX <= number <= INT_MAX else settle(_double(number))
    return number if math.isfinite(number) else UNDEFINED


def _double(number: int) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def number(value: Any) -> Any:
    """`value` as an Int or Decimal, from a number or from a String that matches NUMERAL; else Undefined."""
    if value.__class__ in NUMBERS:
        return value
    if value.__class__ is str and NUMERAL.fullmatch(value):
        if len(value) <= DIGITS_MAX and value.lstrip("-").isdigit():
            return int(value)
        return settle(float(value))
    return UNDEFINED


def index(value: Any) -> Any:
    """`value` as an Int for counting: Decimals and numeric Strings are rounded down, else Undefined."""
    converted = number(value)
    return math.floor(converted) if converted.__class__ is float else converted


def whole(value: Any) -> Any:
    """`value` under the 2016 number rule: every Decimal in it that is a whole number becomes an Int."""
    kind = value.__class__
    if kind is float:
        return int(value) if -EXACT_MAX <= value <= EXACT_MAX and value.is_integer() else value
    if kind is dict:
        return {key: item if item.__class__ in PLAIN else whole(item) for key, item in value.items()}
    if kind is list:
        return [item if item.__class__ in PLAIN else whole(item) for item in value]
    return value


# ── text ────────────────────────────────────────────────────────────────────────────────────────────────────


def text(value: Any) -> Any:
    """`value` as a String (`true`, `0.5`, compact JSON for Arrays and Objects); Null is Undefined here."""
    if value.__class__ is str:
        return value
    if value is None or value is UNDEFINED or value.__class__ is bytes:
        return UNDEFINED
    return json_bytes(value).decode()


def joined(parts: list[str]) -> str:
    """The parts as one String; raises EvaluationError beyond TEXT_CHARS_MAX."""
    if sum(map(len, parts)) > TEXT_CHARS_MAX:
        raise EvaluationError(f"a String grew beyond {TEXT_CHARS_MAX:,} characters")
    return "".join(parts)


def json_bytes(value: Any) -> bytes:
    """Compact JSON, UTF-8. Raises EvaluationError for nesting beyond 254 levels, which is what orjson writes."""
    try:
        return orjson.dumps(value)
    except TypeError as error:
        if "ecursion" in str(error):
            raise EvaluationError("the result is nested too deeply to be written as JSON") from None
    try:  # an Int beyond 64 bits: the slow way can do more
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise EvaluationError(f"the result cannot be written as JSON: {error}") from error


# ── operators ───────────────────────────────────────────────────────────────────────────────────────────────


def truth(value: Any) -> Any:
    """`value` as a Boolean: Booleans, and the Strings "true" and "false" in any case; else Undefined."""
    if value.__class__ is bool:
        return value
    if value.__class__ is str:
        return {"true": True, "false": False}.get(value.lower(), UNDEFINED)
    return UNDEFINED


def both(left: Any, right: Any) -> Any:
    """AND. One false decides, whatever the other is; otherwise an Undefined leaves the result Undefined."""
    left, right = truth(left), truth(right)
    if left is False or right is False:
        return False
    return True if left is True and right is True else UNDEFINED


def either(left: Any, right: Any) -> Any:
    """OR. One true decides, whatever the other is; otherwise an Undefined leaves the result Undefined."""
    left, right = truth(left), truth(right)
    if left is True or right is True:
        return True
    return False if left is False and right is False else UNDEFINED


def negate(value: Any) -> Any:
    """NOT."""
    value = truth(value)
    return UNDEFINED if value is UNDEFINED else not value


def same(left: Any, right: Any) -> bool:
    """Whether two defined values are equal. Int and Decimal are one type here."""
    if left.__class__ in NUMBERS:
        return right.__class__ in NUMBERS and bool(left == right)
    if left.__class__ is not right.__class__:
        return False
    if left.__class__ is list:
        return len(left) == len(right) and all(map(same, left, right))
    if left.__class__ is dict:
        return left.keys() == right.keys() and all(same(item, right[key]) for key, item in left.items())
    return bool(left == right)


def equal(left: Any, right: Any) -> Any:
    """`=`: Undefined when either side is, false for different types."""
    return UNDEFINED if left is UNDEFINED or right is UNDEFINED else same(left, right)


def unequal(left: Any, right: Any) -> Any:
    """`<>`: Undefined when either side is, true for different types."""
    return UNDEFINED if left is UNDEFINED or right is UNDEFINED else not same(left, right)


def _of_numbers(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def operator(left: Any, right: Any) -> Any:
        left, right = number(left), number(right)
        return UNDEFINED if left is UNDEFINED or right is UNDEFINED else operation(left, right)

    return operator


def _divided(left: float, right: float) -> Any:
    if right == 0:
        return UNDEFINED
    if left.__class__ is int and right.__class__ is int and left % right == 0:
        return settle(left // right)
    return settle(left / right)


def _remainder(left: float, right: float) -> Any:
    if right == 0:
        return UNDEFINED
    if left.__class__ is int and right.__class__ is int:
        return abs(left) % abs(right) * (-1 if left < 0 else 1)
    return settle(math.fmod(left, right))


less = _of_numbers(lambda left, right: left < right)
less_or_equal = _of_numbers(lambda left, right: left <= right)
greater = _of_numbers(lambda left, right: left > right)
greater_or_equal = _of_numbers(lambda left, right: left >= right)
subtract = _of_numbers(lambda left, right: settle(left - right))
multiply = _of_numbers(lambda left, right: settle(left * right))
_sum = _of_numbers(lambda left, right: settle(left + right))
divide = _of_numbers(_divided)
remainder = _of_numbers(_remainder)


def add(left: Any, right: Any) -> Any:
    """`+`: joins when either side is a String, adds two numbers, else Undefined."""
    if not isinstance(left, str) and not isinstance(right, str):
        return _sum(left, right)
    left, right = text(left), text(right)
    return UNDEFINED if left is UNDEFINED or right is UNDEFINED else joined([left, right])
