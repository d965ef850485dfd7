"""Functions of numbers: rounding, powers, angles, bits.

They take Ints, Decimals and numeric Strings; anything else, Null too, gives Undefined. Where AWS says "double
precision" the arithmetic is a double's, elsewhere it keeps 34 digits. A result that is no real number (the root of
-1) or no finite one (the logarithm of 0) is Undefined.

`rand` is with the functions of the event (`rules.sql.functions.context`), because chance comes from outside.
"""

import math
import operator
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_DOWN, Decimal
from typing import Any

from rules.sql.decimals import DIGITS_MAX, INT_MAX, WIDE, exact, rounded
from rules.sql.functions.function import Function
from rules.sql.values import UNDEFINED, index, nearest, number, remainder, settle, whole


def _absolute(value: Any) -> Any:
    value = number(value)
    if value is UNDEFINED:
        return UNDEFINED
    return value.copy_abs() if value.__class__ is Decimal else abs(value)


def _sign(value: Any) -> Any:
    value = number(value)
    return UNDEFINED if value is UNDEFINED else (value > 0) - (value < 0)


# ── rounding ────────────────────────────────────────────────────────────────────────────────────────────────


def _ceil(value: Any) -> Any:
    value = number(value)
    return UNDEFINED if value is UNDEFINED else settle(rounded(value, ROUND_CEILING))


def _floor(value: Any) -> Any:
    value = index(value)
    return UNDEFINED if value is UNDEFINED else settle(value)


def _round(value: Any) -> Any:
    value = nearest(value)
    return UNDEFINED if value is UNDEFINED else settle(value)


def _trunc(value: Any, places: Any) -> Any:
    value = number(value)
    places = UNDEFINED if places.__class__ is str else index(places)
    if value is UNDEFINED or places is UNDEFINED:
        return UNDEFINED
    unit = Decimal(1).scaleb(-max(0, min(places, DIGITS_MAX)))
    return whole(settle(exact(value).quantize(unit, ROUND_DOWN, WIDE)))  # whole: `2`, for 2.0 has a zero to strip


# ── double precision ────────────────────────────────────────────────────────────────────────────────────────


def _double(function: Callable[..., float]) -> Callable[..., Any]:
    def call(*values: Any) -> Any:
        numbers = [number(value) for value in values]
        if UNDEFINED in numbers:
            return UNDEFINED
        try:
            return settle(function(*(float(number) + 0.0 for number in numbers)))  # + 0.0: there is one zero
        except (ValueError, OverflowError):  # no real number; too large
            return UNDEFINED

    return call


# ── bits, and a number in the place of none ─────────────────────────────────────────────────────────────────


def _bits(function: Callable[..., int]) -> Callable[..., Any]:
    def call(*values: Any) -> Any:
        numbers = [index(value) for value in values]
        if any(number is UNDEFINED or abs(number) > INT_MAX for number in numbers):
            return UNDEFINED
        return settle(function(*numbers))

    return call


def _nanvl(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None or value is UNDEFINED else value  # NaN is no value here, so it never comes


FUNCTIONS = {
    "abs": Function(_absolute, 1, 1),
    "acos": Function(_double(math.acos), 1, 1),
    "asin": Function(_double(math.asin), 1, 1),
    "atan": Function(_double(math.atan), 1, 1),
    "atan2": Function(_double(math.atan2), 2, 2),
    "bitand": Function(_bits(operator.and_), 2, 2),
    "bitnot": Function(_bits(operator.invert), 1, 1),
    "bitor": Function(_bits(operator.or_), 2, 2),
    "bitxor": Function(_bits(operator.xor), 2, 2),
    "ceil": Function(_ceil, 1, 1),
    "cos": Function(_double(math.cos), 1, 1),
    "cosh": Function(_double(math.cosh), 1, 1),
    "exp": Function(_double(math.exp), 1, 1),
    "floor": Function(_floor, 1, 1),
    "ln": Function(_double(math.log), 1, 1),
    "log": Function(_double(math.log10), 1, 1),
    "mod": Function(remainder, 2, 2),
    "nanvl": Function(_nanvl, 2, 2, as_is=True),
    "power": Function(_double(math.pow), 2, 2),
    "remainder": Function(remainder, 2, 2),
    "round": Function(_round, 1, 1),
    "sign": Function(_sign, 1, 1),
    "sin": Function(_double(math.sin), 1, 1),
    "sinh": Function(_double(math.sinh), 1, 1),
    "sqrt": Function(_double(math.sqrt), 1, 1),
    "tan": Function(_double(math.tan), 1, 1),
    "tanh": Function(_double(math.tanh), 1, 1),
    "trunc": Function(_trunc, 2, 2),
}
