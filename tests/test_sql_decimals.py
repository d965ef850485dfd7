"""Decimals of 34 digits that are floats wherever a float says the same."""

import math
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.sql.decimals import exact, numeral, rounded, settled
from tests.iot_values import NUMBERS


@pytest.mark.parametrize(
    ("number", "result"),
    [
        ("0.1", 0.1),
        ("10", 10.0),
        ("10.00", 10.0),
        ("-0", 0.0),
        ("123456789012345", 123456789012345.0),
        ("1E+22", 1e22),
        ("5E-324", 5e-324),
        ("0.30000000000000004", 0.30000000000000004),
        ("0.3000000000000000444", Decimal("0.3000000000000000444")),
        ("9007199254740993", Decimal(9007199254740993)),
        ("1.2345E-320", Decimal("1.2345E-320")),
        ("1E+400", Decimal("1E+400")),
        ("9.99E+999", Decimal("9.99E+999")),
        ("1E-999", Decimal("1E-999")),
        ("9.99E-1000", 0.0),
        ("1E-1032", 0.0),
        ("1E-99999", 0.0),
        ("0." + "3" * 40, Decimal("0." + "3" * 34)),
        ("12345678901234567890123456789012345", Decimal("1.234567890123456789012345678901234E+34")),
    ],
)
def test_a_decimal_is_a_float_where_one_says_exactly_that(number: str, result: float | Decimal) -> None:
    found = settled(Decimal(number))
    assert found == result
    assert type(found) is type(result)
    assert math.copysign(1, found) == math.copysign(1, result)


@pytest.mark.parametrize("number", ["1E+1000", "-1E+1000", "9" * 1001, "Infinity", "-Infinity", "NaN"])
def test_a_decimal_beyond_its_range_is_an_overflow(number: str) -> None:
    with pytest.raises(OverflowError):
        settled(Decimal(number))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_is_its_own_shortest_text(number: float) -> None:
    assert settled(exact(number)) == number
    assert float(numeral(number)) == number


@given(NUMBERS)
def test_a_numeral_is_json_and_says_the_number(number: Any) -> None:
    written = numeral(number)
    assert Decimal(written) == exact(number)
    assert written.lstrip("-").isdigit() == isinstance(number, int)


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (5, "5"),
        (-(10**33), "-1" + "0" * 33),
        (10.0, "10.0"),
        (-2.5, "-2.5"),
        (1e-5, "0.00001"),
        (1e-6, "0.000001"),
        (1e-7, "1E-7"),
        (1.5e-7, "1.5E-7"),
        (1e15, "1000000000000000.0"),
        (1e16, "1E+16"),
        (1e22, "1E+22"),
        (1.7976931348623157e308, "1.7976931348623157E+308"),
        (Decimal("1E+400"), "1E+400"),
        (Decimal("0.3333333333333333333333333333333333"), "0.3333333333333333333333333333333333"),
        (Decimal(9007199254740993), "9007199254740993.0"),
    ],
)
def test_a_numeral_is_written_as_java_writes_it(number: Any, written: str) -> None:
    assert numeral(number) == written


@pytest.mark.parametrize(
    ("number", "floor", "down", "half_up", "ceiling"),
    [
        (7, 7, 7, 7, 7),
        (2.5, 2, 2, 3, 3),
        (-2.5, -3, -2, -3, -2),
        (-0.4, -1, 0, 0, 0),
        (0.49999999999999994, 0, 0, 0, 1),
        (1.152921504606847e18, *[1152921504606847000] * 4),
        (Decimal("12345678901234567890.5"), 12345678901234567890, 12345678901234567890, *[12345678901234567891] * 2),
        (Decimal("1E+999"), *[10**999] * 4),
        (Decimal("-1E-999"), -1, 0, 0, 0),
    ],
)
def test_numbers_are_rounded_exactly(number: Any, floor: int, down: int, half_up: int, ceiling: int) -> None:
    assert rounded(number, ROUND_FLOOR) == floor
    assert rounded(number, ROUND_DOWN) == down
    assert rounded(number, ROUND_HALF_UP) == half_up
    assert rounded(number, ROUND_CEILING) == ceiling
