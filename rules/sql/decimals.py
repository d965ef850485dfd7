"""Decimal numbers of IoT SQL: 34 digits, magnitudes from 1E-999 to 9.99…E999, and no binary surprises.

A Decimal is a float where the shortest text of a double says exactly that number (`0.1` is one tenth), and a
`decimal.Decimal` where none does. So most values are plain floats, quick to compare and to write, and arithmetic
still comes out as people expect: `0.1 + 0.2` is `0.3`.

Arithmetic goes through CONTEXT's methods, never through the operators of `decimal.Decimal`, which round as the
thread's own context says.
"""

import math
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import TypeAlias

DIGITS_MAX = 34  # AWS: "up to 34 digits", for Int and Decimal
INT_MAX = 10**DIGITS_MAX - 1
EXPONENT_MAX = 999

Number: TypeAlias = int | float | Decimal

CONTEXT = Context(DIGITS_MAX, ROUND_HALF_EVEN, Emin=-EXPONENT_MAX, Emax=EXPONENT_MAX, capitals=1, clamp=0, traps=[])

# Digits enough for the whole quotient of the largest by the smallest number: what `%` needs on its way.
WIDE = Context(2 * EXPONENT_MAX + 2 * DIGITS_MAX, ROUND_HALF_EVEN, capitals=1, clamp=0, traps=[])

# Any decimal of up to 15 digits comes back from a double unchanged.
_SURELY_EXACT_CHARS = 15


def exact(number: Number) -> Decimal:
    """The number that `number` stands for, all its digits."""
    kind = number.__class__
    if kind is float:
        return Decimal(repr(number))
    return Decimal(number) if kind is int else number  # type: ignore[return-value]


def settled(number: Decimal) -> float | Decimal:
    """`number` rounded to 34 digits, as a float if one says exactly that; below 1E-999 it is 0.

    Raises OverflowError beyond 9.99…E999 and for what is no number.
    """
    number = CONTEXT.plus(number)  # rounds, and makes -0 a 0
    if not number.is_finite():
        raise OverflowError("a Decimal beyond 9.99E999")
    numeral = str(number)
    double = float(numeral)
    if len(numeral) <= _SURELY_EXACT_CHARS and "E" not in numeral:
        return double
    if math.isfinite(double) and Decimal(repr(double)) == number:
        return double
    return number if number.adjusted() >= -EXPONENT_MAX else 0.0


def rounded(number: Number, rounding: str) -> int:
    """`number` as an int of up to 1,000 digits; `rounding` is one of decimal's, ROUND_FLOOR for one."""
    return number if isinstance(number, int) else int(exact(number).to_integral_value(rounding))


def numeral(number: Number) -> str:
    """`number` as Java's BigDecimal writes it: `10.0`, `0.00001`, `1E-7`, `1E+22`. It is valid JSON.

    A Decimal keeps a point or an exponent, so that it is read as a Decimal again.
    """
    if isinstance(number, int):
        return str(number)
    written = repr(number + 0.0) if isinstance(number, float) else str(number)  # + 0.0: there is one zero
    if "e" in written:
        written = str(Decimal(written))
    return written if "." in written or "E" in written else f"{written}.0"
