"""The values of IoT SQL, how they convert into each other, and what the operators make of them.

    Int → int · Decimal → float or decimal.Decimal (`rules.sql.decimals` says when) · Boolean → bool · String → str
    Array → list · Object → dict · Null → None · a payload that is not JSON → bytes

Undefined, the absence of a value, is `UNDEFINED`. Every function here is total: a wrong type, a division by
zero or a number beyond 9.99E999 gives UNDEFINED, as the language says; only a text or a nesting beyond its
bound raises EvaluationError. Values are never changed in place, because the rules of one message share its
parsed payload.

Invariants: an int has at most 34 digits (a larger result becomes a Decimal); a float is finite; no list or
dict holds UNDEFINED.

Python's `True == 1`, and that a decimal.Decimal is no neighbour of a float, stay in this module: callers compare
with `equal`, never with `==`.
"""

import math
import re
from collections.abc import Callable
from decimal import ROUND_DOWN, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Any

from rules.errors import EvaluationError
from rules.sql.decimals import CONTEXT, INT_MAX, WIDE, Number, exact, numeral, rounded, settled
from rules.sql.payloads import check_size, json_bytes

TEXT_CHARS_MAX = 1_048_576  # eight times the largest AWS payload; keeps `a + a + a …` within bounds

NUMBERS = frozenset((int, float))  # two of these compare as Python compares them
ALL_NUMBERS: frozenset[Any] = NUMBERS | {Decimal}
PLAIN = frozenset((str, int, bool, type(None)))  # what `whole` never changes
NUMERAL = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE]-?[0-9]+)?")  # AWS's pattern: no '+', no '.5', no '5.', no spaces
EXACT_MAX = 2**53  # up to here a double is the whole number that its text says


class SqlVersion(StrEnum):
    """`awsIotSqlVersion`. Under the newer ones a Decimal whose value is whole is an Int."""

    V2015 = "2015-10-08"
    V2016 = "2016-03-23"
    BETA = "beta"

    @property
    def newer(self) -> bool:
        """Whether this is 2016-03-23 or what comes after it."""
        return self is not SqlVersion.V2015


class Undefined:
    """The type of UNDEFINED, the one value that stands for no value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Undefined"


UNDEFINED = Undefined()


# ── numbers ─────────────────────────────────────────────────────────────────────────────────────────────────


def settle(number: Number) -> Any:
    """A computed number as Int or Decimal: too many digits make a Decimal, too large a one or NaN Undefined."""
    if isinstance(number, int):
        if -INT_MAX <= number <= INT_MAX:
            return number
        number = Decimal(number)
    elif isinstance(number, float):
        return number + 0.0 if math.isfinite(number) else UNDEFINED  # -0.0 becomes 0.0: AWS computes one zero
    try:
        return settled(number)
    except OverflowError:
        return UNDEFINED


def number(value: Any) -> Any:
    """`value` as an Int or Decimal, from a number or from a String that matches NUMERAL; else Undefined."""
    if value.__class__ in ALL_NUMBERS:
        return value
    if value.__class__ is not str or (shape := NUMERAL.fullmatch(value)) is None:
        return UNDEFINED
    said = CONTEXT.create_decimal(value)  # in time that grows with the text, which int() does not keep to
    has_fraction_or_exponent = shape.lastindex is not None
    return settle(said) if has_fraction_or_exponent or not -INT_MAX <= said <= INT_MAX else int(said)


def index(value: Any) -> Any:
    """A number or numeric String rounded down, as an int of up to 1,000 digits; else Undefined."""
    return _integral(value, ROUND_FLOOR)


def nearest(value: Any) -> Any:
    """The same rounded to the nearest Int, halves away from zero: the standard conversion of a Decimal."""
    return _integral(value, ROUND_HALF_UP)


def truncated(value: Any) -> Any:
    """The same without its fraction: the standard conversion of a String."""
    return _integral(value, ROUND_DOWN)


def _integral(value: Any, rounding: str) -> Any:
    if value.__class__ is int:
        return value
    converted = number(value)
    return UNDEFINED if converted is UNDEFINED else rounded(converted, rounding)


def whole(value: Any) -> Any:
    """`value` under the 2016 number rule: every Decimal in it that is whole, in up to 34 digits, becomes an Int.

    Raises EvaluationError for nesting beyond some 450 levels.
    """
    kind = value.__class__
    if kind is float:
        if -EXACT_MAX <= value <= EXACT_MAX:
            return int(value) if value.is_integer() else value
        return _whole_decimal(value)
    try:
        if kind is dict:
            return {key: item if item.__class__ in PLAIN else whole(item) for key, item in value.items()}
        if kind is list:
            return [item if item.__class__ in PLAIN else whole(item) for item in value]
    except RecursionError:
        raise EvaluationError("the value is nested too deeply") from None
    return _whole_decimal(value) if kind is Decimal else value


def _whole_decimal(value: Number) -> Number:
    integral = rounded(value, ROUND_DOWN)
    return integral if -INT_MAX <= integral <= INT_MAX and integral == exact(value) else value


def cast(value: Any, wanted: str) -> Any:
    """cast(value AS wanted), where `wanted` is String, Int, Decimal, Double or Boolean; else Undefined."""
    if wanted == "String":
        return text(value)
    if wanted == "Boolean":
        return value != 0 if value.__class__ in ALL_NUMBERS else truth(value)
    if value.__class__ is bool:
        return int(value) if wanted == "Int" else float(value)
    converted = number(value)
    if wanted == "Int":
        return settle(index(converted)) if converted is not UNDEFINED else UNDEFINED
    return settle(float(converted)) if wanted == "Double" and converted.__class__ is Decimal else converted


# ── text and members ────────────────────────────────────────────────────────────────────────────────────────


def text(value: Any) -> Any:
    """`value` as a String (`true`, `0.5`, compact JSON for Arrays and Objects); Null is Undefined here."""
    if value.__class__ is str:
        return value
    if value is None or value is UNDEFINED or value.__class__ is bytes:
        return UNDEFINED
    if value.__class__ in ALL_NUMBERS:
        return numeral(value)
    if value.__class__ is bool:
        return "true" if value else "false"
    check_size(value, TEXT_CHARS_MAX)
    return joined([json_bytes(value).decode()])


def joined(parts: list[str]) -> str:
    """The parts as one String; raises EvaluationError beyond TEXT_CHARS_MAX."""
    if sum(map(len, parts)) > TEXT_CHARS_MAX:
        raise EvaluationError(f"a String grew beyond {TEXT_CHARS_MAX:,} characters")
    return "".join(parts)


def member(value: Any, name: str) -> Any:
    """`value.name`: Undefined where there is no such member, or `value` is no Object."""
    return value.get(name, UNDEFINED) if value.__class__ is dict else UNDEFINED


# ── truth ───────────────────────────────────────────────────────────────────────────────────────────────────


def truth(value: Any) -> Any:
    """`value` as a Boolean: Booleans, and the Strings "true" and "false" in any case; else Undefined."""
    if value.__class__ is bool:
        return value
    if value.__class__ is str and len(value) <= len("false"):
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


# ── comparison ──────────────────────────────────────────────────────────────────────────────────────────────


def same(left: Any, right: Any) -> bool:
    """Whether two defined values are equal. Int and Decimal are one type here. Raises EvaluationError for
    nesting beyond some 400 levels."""
    if left.__class__ in ALL_NUMBERS:
        return right.__class__ in ALL_NUMBERS and _equal_numbers(left, right)
    if left.__class__ is not right.__class__:
        return False
    try:
        if left.__class__ is list:
            return len(left) == len(right) and all(map(same, left, right))
        if left.__class__ is dict:
            return left.keys() == right.keys() and all(same(item, right[key]) for key, item in left.items())
    except RecursionError:
        raise EvaluationError("the values are nested too deeply to be compared") from None
    return bool(left == right)


def _equal_numbers(left: Number, right: Number) -> bool:
    return left == right if _comparable(left, right) else exact(left) == exact(right)


def _comparable(left: Number, right: Number) -> bool:
    """Whether Python compares the two as decimals compare: not where a double is only the neighbour of an int."""
    if left.__class__ is right.__class__:
        return True
    return left.__class__ is not Decimal and right.__class__ is not Decimal and -EXACT_MAX <= left <= EXACT_MAX


def equal(left: Any, right: Any) -> Any:
    """`=`: Undefined when either side is, false for different types."""
    return UNDEFINED if left is UNDEFINED or right is UNDEFINED else same(left, right)


def unequal(left: Any, right: Any) -> Any:
    """`<>`: Undefined when either side is, true for different types."""
    return UNDEFINED if left is UNDEFINED or right is UNDEFINED else not same(left, right)


def contains(left: Any, right: Any) -> Any:
    """`left IN right`: whether an item of the Array `right` equals `left`; Undefined for anything but an Array."""
    if left is UNDEFINED or right.__class__ is not list:
        return UNDEFINED
    return any(same(left, item) for item in right)


def _comparison(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], Any]:
    def operator(left: Any, right: Any) -> Any:
        left, right = number(left), number(right)
        if left is UNDEFINED or right is UNDEFINED:
            return UNDEFINED
        return compare(left, right) if _comparable(left, right) else compare(exact(left), exact(right))

    return operator


less = _comparison(lambda left, right: left < right)
less_or_equal = _comparison(lambda left, right: left <= right)
greater = _comparison(lambda left, right: left > right)
greater_or_equal = _comparison(lambda left, right: left >= right)


# ── arithmetic ──────────────────────────────────────────────────────────────────────────────────────────────


def _arithmetic(
    of_ints: Callable[[int, int], Number], of_decimals: Callable[[Decimal, Decimal], Decimal]
) -> Callable[[Any, Any], Any]:
    def operator(left: Any, right: Any) -> Any:
        if left.__class__ is not int or right.__class__ is not int:
            left, right = number(left), number(right)
            if left is UNDEFINED or right is UNDEFINED:
                return UNDEFINED
            if left.__class__ is not int or right.__class__ is not int:
                return settle(of_decimals(exact(left), exact(right)))
        return settle(of_ints(left, right))

    return operator


def _quotient(left: int, right: int) -> Number:
    if right == 0 or left % right:
        return CONTEXT.divide(Decimal(left), Decimal(right))
    return left // right


def _int_remainder(left: int, right: int) -> Number:
    return abs(left) % abs(right) * (-1 if left < 0 else 1) if right else math.nan


subtract = _arithmetic(lambda left, right: left - right, CONTEXT.subtract)
multiply = _arithmetic(lambda left, right: left * right, CONTEXT.multiply)
divide = _arithmetic(_quotient, CONTEXT.divide)
remainder = _arithmetic(_int_remainder, WIDE.remainder)
_sum = _arithmetic(lambda left, right: left + right, CONTEXT.add)


def add(left: Any, right: Any) -> Any:
    """`+`: joins when either side is a String, adds two numbers, else Undefined."""
    if left.__class__ is not str and right.__class__ is not str:
        return _sum(left, right)
    left, right = text(left), text(right)
    return UNDEFINED if left is UNDEFINED or right is UNDEFINED else joined([left, right])
