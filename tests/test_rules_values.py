"""The conversions and operators of IoT SQL, row by row as AWS's tables have them."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules import values
from rules.errors import EvaluationError
from rules.values import UNDEFINED

U = UNDEFINED
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
) | st.just(UNDEFINED)


@pytest.mark.parametrize("numeral", ["0", "-1.2", "5E-12", "1e3", "007"])
def test_a_string_that_matches_the_pattern_is_a_number(numeral: str) -> None:
    assert values.number(numeral) == float(numeral)


@pytest.mark.parametrize("other", ["+5", ".5", "5.", "5E+3", " 5", "5 ", "0x10", "", "1e", "٣", "1_000", "inf", "NaN"])
def test_any_other_string_is_no_number(other: str) -> None:
    assert values.number(other) is U


@pytest.mark.parametrize("value", [True, None, [], [1], {}, {"a": 1}, U, b"5"])
def test_only_numbers_and_strings_convert_to_numbers(value: Any) -> None:
    assert values.number(value) is U


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        (-1.5, "-1.5"),
        (True, "true"),
        (False, "false"),
        ("x", "x"),
        ([1, "a", None], '[1,"a",null]'),
        ({"a": {"b": [True]}}, '{"a":{"b":[true]}}'),
        (10**30, "1" + "0" * 30),
        (None, U),
        (U, U),
        (b"raw", U),
    ],
)
def test_the_string_form_of_every_type(value: Any, text: Any) -> None:
    assert values.text(value) == text


@pytest.mark.parametrize(
    ("value", "whole"),
    [
        (10.0, "10"),
        (-0.0, "0"),
        (10.5, "10.5"),
        (1e300, "1e+300"),
        (2.0**60, "1.152921504606847e+18"),
        ([1.0, [2.0, "3.0"]], "[1, [2, '3.0']]"),
        ({"a": {"b": 4.0}}, "{'a': {'b': 4}}"),
    ],
)
def test_whole_decimals_become_ints_at_every_depth(value: Any, whole: str) -> None:
    assert repr(values.whole(value)) == whole


def test_the_number_rule_leaves_the_payload_as_it_was() -> None:
    payload = {"a": [1.0, {"b": 2.0}]}
    values.whole(payload)
    assert repr(payload) == "{'a': [1.0, {'b': 2.0}]}"


COMPARISONS = [
    (1, 1, True),
    (1, 1.0, True),
    (1, 2, False),
    ("a", "a", True),
    ("a", "A", False),
    (True, True, True),
    (True, False, False),
    (None, None, True),
    ([1, 2], [1, 2], True),
    ([1, 2], [2, 1], False),
    ([1], [1.0], True),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
    ({"a": 1}, {"a": 2}, False),
    ({"a": 1}, {"b": 1}, False),
    (1, "1", False),
    ("true", True, False),
    (1, True, False),
    (0, False, False),
    ([1], [True], False),
    ({"a": 0}, {"a": False}, False),
    (None, 0, False),
    (None, "", False),
    ([], {}, False),
]


@pytest.mark.parametrize(("left", "right", "same"), COMPARISONS)
def test_equality_knows_types_and_inequality_is_its_opposite(left: Any, right: Any, same: bool) -> None:
    assert values.equal(left, right) is same
    assert values.equal(right, left) is same
    assert values.unequal(left, right) is not same


@pytest.mark.parametrize("other", [1, "x", None, True, [], {}, U])
@pytest.mark.parametrize("operator", [values.equal, values.unequal, values.less, values.add, values.divide])
def test_undefined_on_either_side_makes_the_result_undefined(operator: Any, other: Any) -> None:
    assert operator(U, other) is U
    assert operator(other, U) is U


@pytest.mark.parametrize(
    ("left", "right", "greater"),
    [
        (2, 1, True),
        (1, 2.5, False),
        ("10", "9", True),
        ("10", 9, True),
        (9.5, "9", True),
        ("b", "a", U),
        ("10", "x", U),
        (True, False, U),
        (None, 0, U),
        ([2], [1], U),
    ],
)
def test_order_is_for_numbers_and_numeric_strings_only(left: Any, right: Any, greater: Any) -> None:
    assert values.greater(left, right) is greater
    assert values.less(right, left) is greater
    opposite = U if greater is U else not greater
    assert values.less_or_equal(left, right) is opposite
    assert values.greater_or_equal(right, left) is opposite


@pytest.mark.parametrize(
    ("operator", "left", "right", "result"),
    [
        (values.add, 1, 2, 3),
        (values.add, 1, 2.5, 3.5),
        (values.add, "5", 3, "53"),
        (values.add, 5, "3", "53"),
        (values.add, "a", "b", "ab"),
        (values.add, "is ", True, "is true"),
        (values.add, "", [1, {"a": None}], '[1,{"a":null}]'),
        (values.add, "x", None, U),
        (values.add, True, 1, U),
        (values.add, None, 1, U),
        (values.add, [1], [2], U),
        (values.subtract, "5", 3, 2),
        (values.subtract, 5, 7.5, -2.5),
        (values.subtract, "a", 1, U),
        (values.subtract, True, 1, U),
        (values.multiply, "2", "2.5", 5.0),
        (values.multiply, 3, 4, 12),
        (values.multiply, None, 1, U),
        (values.divide, 10, 5, 2),
        (values.divide, 5, 2, 2.5),
        (values.divide, "7", 2, 3.5),
        (values.divide, 1, 0, U),
        (values.divide, 1.0, 0.0, U),
        (values.remainder, 8, 3, 2),
        (values.remainder, -8, 3, -2),
        (values.remainder, 8, -3, 2),
        (values.remainder, 5.5, 2, 1.5),
        (values.remainder, "8", "3", 2),
        (values.remainder, 1, 0, U),
    ],
)
def test_arithmetic(operator: Any, left: Any, right: Any, result: Any) -> None:
    computed = operator(left, right)
    assert computed == result
    assert type(computed) is type(result)


def test_an_int_beyond_34_digits_becomes_a_decimal_and_a_decimal_beyond_a_double_undefined() -> None:
    assert values.multiply(10**20, 10**13) == 10**33
    assert values.multiply(10**20, 10**20) == 1e40
    assert type(values.multiply(10**20, 10**20)) is float
    assert values.multiply(1e200, 1e200) is U
    assert values.number("1" * 400) is U


T, F = True, False


@pytest.mark.parametrize(
    ("left", "right", "both", "either"),
    [
        (T, T, T, T),
        (T, F, F, T),
        (F, F, F, F),
        ("TRUE", T, T, T),
        ("true", "False", F, T),
        (T, U, U, T),
        (F, U, F, U),
        (U, U, U, U),
        (T, 1, U, T),
        (F, None, F, U),
        (T, "yes", U, T),
    ],
)
def test_and_and_or_are_decided_by_the_operand_that_decides(left: Any, right: Any, both: Any, either: Any) -> None:
    assert values.both(left, right) is both
    assert values.both(right, left) is both
    assert values.either(left, right) is either
    assert values.either(right, left) is either


@pytest.mark.parametrize(
    ("value", "negated"), [(T, F), (F, T), ("True", F), ("false", T), ("x", U), (1, U), (None, U), (U, U)]
)
def test_not(value: Any, negated: Any) -> None:
    assert values.negate(value) is negated


def test_a_string_has_a_bound() -> None:
    half = "x" * (values.TEXT_CHARS_MAX // 2)
    assert len(values.add(half, half)) == values.TEXT_CHARS_MAX
    with pytest.raises(EvaluationError, match="1,048,576 characters"):
        values.add(half, half + "x")


OPERATORS = [
    values.add, values.subtract, values.multiply, values.divide, values.remainder, values.equal, values.unequal,
    values.less, values.less_or_equal, values.greater, values.greater_or_equal, values.both, values.either,
]  # fmt: skip


@given(st.sampled_from(OPERATORS), ANY, ANY)
def test_every_operator_answers_for_every_pair_of_values(operator: Any, left: Any, right: Any) -> None:
    result = operator(left, right)
    if isinstance(result, float):
        assert math.isfinite(result)
    if result is not U:
        values.json_bytes(result)
