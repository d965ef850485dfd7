"""The functions of numbers, with AWS's own examples."""

import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rules.sql.functions.numeric import FUNCTIONS
from rules.sql.values import UNDEFINED
from tests.iot_values import ANY, NUMBERS, is_canonical

U = UNDEFINED
NO_NUMBERS: list[Any] = [True, None, [1], {}, {"a": 1}, U, "x", "", "+5", ".5", b"5"]
LONG = Decimal("123456789012345678901234567890123.4")
ONE_ARGUMENT = [name for name, function in FUNCTIONS.items() if function.most == 1]
TWO_NUMBERS = ["atan2", "bitand", "bitor", "bitxor", "mod", "power", "remainder"]


def call(name: str, *arguments: Any) -> Any:
    function = FUNCTIONS[name]
    assert function.least <= len(arguments) <= (function.most or 0)
    return function.call(*arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("abs", [-5], 5),
        ("abs", ["-5.123"], 5.123),
        ("abs", [-2.5], 2.5),
        ("abs", [LONG.copy_negate()], LONG),
        ("abs", [1 - 10**34], 10**34 - 1),
        ("ceil", [1.2], 2),
        ("ceil", [-1.2], -1),
        ("ceil", ["1.1"], 2),
        ("ceil", [5], 5),
        ("ceil", [LONG], 123456789012345678901234567890124),
        ("floor", [1.2], 1),
        ("floor", [-1.2], -2),
        ("floor", ["-1.1"], -2),
        ("floor", [1e300], 1e300),
        ("floor", [Decimal("1E500")], Decimal("1E500")),
        ("floor", [LONG], 123456789012345678901234567890123),
        ("round", [1.2], 1),
        ("round", [1.5], 2),
        ("round", [1.7], 2),
        ("round", [2.5], 3),
        ("round", [-1.1], -1),
        ("round", [-1.5], -2),
        ("round", [-1.7], -2),
        ("round", [0.49999999999999994], 0),
        ("round", ["7"], 7),
        ("round", ["1.5"], 2),
        ("trunc", [2.3, 0], 2),
        ("trunc", [2.3123, 2], 2.31),
        ("trunc", [2.888, 2], 2.88),
        ("trunc", [2.00, 5], 2),
        ("trunc", ["2.888", 2], 2.88),
        ("trunc", [-2.888, 2], -2.88),
        ("trunc", [2.888, 1.9], 2.8),
        ("trunc", [2.888, -3], 2),
        ("trunc", [2.888, 99], 2.888),
        ("trunc", [LONG, 1], LONG),
        ("trunc", [LONG, 0], 123456789012345678901234567890123),
        ("trunc", [Decimal("1E500"), 34], Decimal("1E500")),
        ("trunc", [Decimal("1E-500"), 34], 0),
        ("trunc", [7, 2], 7),
        ("trunc", [2.888, "2"], U),
        ("trunc", [2.888, None], U),
        ("trunc", [2.888, True], U),
        ("trunc", [None, 2], U),
        ("trunc", ["x", 2], U),
        ("sign", [-7], -1),
        ("sign", [0], 0),
        ("sign", [0.1], 1),
        ("sign", ["-1E-500"], -1),
        ("mod", [8, 3], 2),
        ("remainder", [8, 3], 2),
        ("mod", [-8, 3], -2),
        ("mod", ["8", 3], 2),
        ("mod", [5.5, 2], 1.5),
        ("mod", [8, 0], U),
        ("power", [2, 5], 32.0),
        ("power", ["2", "0.5"], 1.4142135623730951),
        ("power", [10, 400], U),
        ("power", [10**33, 10**33], U),
        ("power", [-1, 0.5], U),
        ("power", [0, -1], U),
        ("power", [2, -5000], 0.0),
        ("sqrt", [9], 3.0),
        ("sqrt", ["2"], 1.4142135623730951),
        ("sqrt", [-1], U),
        ("exp", [1], 2.718281828459045),
        ("exp", [0], 1.0),
        ("exp", [1000], U),
        ("exp", [-5000], 0.0),
        ("ln", [1], 0.0),
        ("ln", [math.e], 1.0),
        ("ln", [0], U),
        ("ln", [-1], U),
        ("log", [100], 2.0),
        ("log", [0], U),
        ("log", [Decimal("1E500")], U),
        ("sin", [0], 0.0),
        ("sin", [2.3], math.sin(2.3)),
        ("cos", [0], 1.0),
        ("tan", [3], -0.1425465430742778),
        ("sinh", [2.3], 4.936961805545957),
        ("cosh", [2.3], 5.037220649268761),
        ("tanh", [2.3], 0.9800963962661914),
        ("cosh", [1000], U),
        ("asin", [1], 1.5707963267948966),
        ("asin", [1.1], U),
        ("acos", [0], 1.5707963267948966),
        ("acos", [-2], U),
        ("atan", [0.0], 0.0),
        ("atan2", [1, 0], 1.5707963267948966),
        ("atan2", [0, 0], 0.0),
        ("bitand", [13, 5], 5),
        ("bitor", [8, 5], 13),
        ("bitxor", [13, 5], 8),
        ("bitand", [13.9, "5.9"], 5),
        ("bitand", [-1, 255], 255),
        ("bitand", [1e40, 1], U),
        ("bitnot", [13], -14),
        ("bitnot", [13.7], -14),
        ("bitnot", ["13"], -14),
        ("nanvl", [8, 3], 8),
        ("nanvl", [None, 3], 3),
        ("nanvl", [U, 3], 3),
        ("nanvl", ["x", 3], "x"),
        ("nanvl", [False, 3], False),
        ("nanvl", [U, None], None),
        ("nanvl", [U, U], U),
    ],
)
def test_a_function_gives(name: str, arguments: list[Any], result: Any) -> None:
    found = call(name, *arguments)
    assert found == result
    assert type(found) is type(result)


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("name", ONE_ARGUMENT)
def test_what_is_no_number_is_undefined(name: str, value: Any) -> None:
    assert call(name, value) is U


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("name", TWO_NUMBERS)
def test_what_is_no_number_is_undefined_on_either_side(name: str, value: Any) -> None:
    assert call(name, value, 2) is U
    assert call(name, 2, value) is U


@given(st.sampled_from(sorted(FUNCTIONS)), st.lists(ANY | NUMBERS, min_size=2, max_size=2))
@example("power", [10**34 - 1, 10**34 - 1])
@example("mod", [Decimal("9E999"), Decimal("7E-999")])
@example("trunc", [Decimal("9E999"), 34])
@example("trunc", [Decimal("1E-999"), Decimal("1E999")])
@example("bitxor", [10**34 - 1, 1 - 10**34])
@example("bitand", [Decimal("9E999"), -1])
def test_every_function_answers_for_all_values_with_a_value(name: str, arguments: list[Any]) -> None:
    assert is_canonical(call(name, *arguments[: FUNCTIONS[name].most]))


def test_there_is_one_zero_and_no_angle_turns_with_its_sign() -> None:
    assert FUNCTIONS["atan2"].call(0, -0.0) == 0
    assert FUNCTIONS["atan2"].call(-0.0, -1) == math.pi
