"""The conversions and operators of IoT SQL, row by row as AWS's tables have them."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.errors import EvaluationError
from rules.sql import values
from rules.sql.decimals import INT_MAX, exact
from rules.sql.payloads import json_bytes
from rules.sql.values import UNDEFINED, SqlVersion
from tests.iot_values import ANY, NUMBERS, is_canonical

U = UNDEFINED
TENTHS_34 = Decimal("123456789012345678901234567890123.4")  # more digits than a double has


def test_the_newer_versions_are_all_but_the_first() -> None:
    assert [version.newer for version in (SqlVersion.V2015, SqlVersion.V2016, SqlVersion.BETA)] == [False, True, True]
    assert SqlVersion("beta") is SqlVersion.BETA


# ── conversions ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("numeral", "number"),
    [
        ("0", 0),
        ("-1.2", -1.2),
        ("5E-12", 5e-12),
        ("1e3", 1000.0),
        ("007", 7),
        ("0" * 40 + "1", 1),
        ("-" + "0" * 40, 0),
        ("0" * 2_000 + "9" * 34, 10**34 - 1),
        ("5.0", 5.0),
        ("-0", 0),
        ("-0.0", 0.0),
        ("9" * 34, 10**34 - 1),
        ("-" + "9" * 34, 1 - 10**34),
        ("1" + "0" * 34, 1e34),
        ("1E500", Decimal("1E500")),
        ("0.3000000000000000444", Decimal("0.3000000000000000444")),
        ("1E-1000", 0.0),
        ("1E1000", U),
        ("1e" + "9" * 60, U),
        ("1e-" + "9" * 60, 0.0),
        ("1" * 2000, U),
    ],
)
def test_a_string_that_matches_the_pattern_is_a_number(numeral: str, number: Any) -> None:
    found = values.number(numeral)
    assert found == number
    assert type(found) is type(number)


@pytest.mark.parametrize("other", ["+5", ".5", "5.", "5E+3", " 5", "5 ", "0x10", "", "1e", "٣", "1_000", "inf", "NaN"])
def test_any_other_string_is_no_number(other: str) -> None:
    assert values.number(other) is U


@pytest.mark.parametrize("value", [True, None, [], [1], {}, {"a": 1}, U, b"5"])
def test_only_numbers_and_strings_convert_to_numbers(value: Any) -> None:
    assert values.number(value) is U


@pytest.mark.parametrize("value", [5, -5, 2.5, 1e300, TENTHS_34])
def test_a_number_is_a_number(value: Any) -> None:
    assert values.number(value) is value


@pytest.mark.parametrize(
    ("value", "floor", "nearest", "truncated"),
    [
        (7, 7, 7, 7),
        (2.745, 2, 3, 2),
        (2.5, 2, 3, 2),
        (-1.2, -2, -1, -1),
        (-1.5, -2, -2, -1),
        ("2.745", 2, 3, 2),
        ("-1.5", -2, -2, -1),
        ("12", 12, 12, 12),
        (TENTHS_34, *[123456789012345678901234567890123] * 3),
        (-2.411e247, *[-2411 * 10**244] * 3),
        *[(value, U, U, U) for value in (True, None, U, "x", "", [1], {"a": 1})],
    ],
)
def test_there_are_three_ways_to_an_int(value: Any, floor: Any, nearest: Any, truncated: Any) -> None:
    assert values.index(value) == floor
    assert values.nearest(value) == nearest
    assert values.truncated(value) == truncated


CASTS = [  # value, AS Decimal, AS Int, AS Boolean, AS String
    (5, 5, 5, True, "5"),
    (0, 0, 0, False, "0"),
    (2.7, 2.7, 2, True, "2.7"),
    (-1.2, -1.2, -2, True, "-1.2"),
    (0.0, 0.0, 0, False, "0.0"),
    (1e22, 1e22, 10**22, True, "1E+22"),
    (TENTHS_34, TENTHS_34, 123456789012345678901234567890123, True, "123456789012345678901234567890123.4"),
    (Decimal("1E500"), Decimal("1E500"), Decimal("1E500"), True, "1E+500"),
    (True, 1.0, 1, True, "true"),
    (False, 0.0, 0, False, "false"),
    ("-1.2", -1.2, -2, U, "-1.2"),
    ("7", 7, 7, U, "7"),
    ("1e3", 1000.0, 1000, U, "1e3"),
    ("+5", U, U, U, "+5"),
    ("TRUE", U, U, True, "TRUE"),
    ("false", U, U, False, "false"),
    ("0", 0, 0, U, "0"),
    ("", U, U, U, ""),
    ([1, "a"], U, U, U, '[1,"a"]'),
    ({"a": 1}, U, U, U, '{"a":1}'),
    (None, U, U, U, U),
    (U, U, U, U, U),
    (b"raw", U, U, U, U),
]


@pytest.mark.parametrize(("value", "decimal", "integer", "boolean", "string"), CASTS)
def test_cast(value: Any, decimal: Any, integer: Any, boolean: Any, string: Any) -> None:
    expected = {"Decimal": decimal, "Int": integer, "Boolean": boolean, "String": string}
    found = {wanted: values.cast(value, wanted) for wanted in expected}
    assert found == expected
    assert [type(item) for item in found.values()] == [type(item) for item in expected.values()]


@pytest.mark.parametrize(
    ("value", "double"),
    [(5, 5), (2.5, 2.5), (True, 1.0), ("1e3", 1000.0), (Decimal("1E500"), U), (Decimal("1E-500"), 0.0), (None, U),
     (Decimal("0.3000000000000000444"), 0.30000000000000004)],
)  # fmt: skip
def test_cast_as_double_keeps_the_digits_of_a_double(value: Any, double: Any) -> None:
    assert values.cast(value, "Double") == double


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        (-1.5, "-1.5"),
        (10.0, "10.0"),
        (1e22, "1E+22"),
        (1e-7, "1E-7"),
        (Decimal("1E400"), "1E+400"),
        ([10.0, 1e-7], "[10.0,1e-7]"),
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
        (2.0**53 + 2, "9007199254740994"),
        (1.152921504606847e18, "1152921504606847000"),
        (1e33, "1" + "0" * 33),
        (1e34, "1e+34"),
        (Decimal("12345678901234567890.0"), "12345678901234567890"),
        (TENTHS_34, repr(TENTHS_34)),
        (Decimal("1E500"), "Decimal('1E+500')"),
        ([Decimal("12345678901234567890.0")], "[12345678901234567890]"),
        ([1.0, [2.0, "3.0"]], "[1, [2, '3.0']]"),
        ({"a": {"b": 4.0}}, "{'a': {'b': 4}}"),
    ],
)
def test_whole_decimals_become_ints_at_every_depth(value: Any, whole: str) -> None:
    assert repr(values.whole(value)) == whole


@given(NUMBERS)
def test_the_number_rule_changes_no_number_and_leaves_no_whole_decimal_of_34_digits(number: Any) -> None:
    found = values.whole(number)
    assert exact(found) == exact(number)
    is_whole = exact(number) == exact(number).to_integral_value() and -INT_MAX <= exact(number) <= INT_MAX
    assert isinstance(found, int) == is_whole
    assert values.whole([number, {"a": number}]) == [found, {"a": found}]


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
    (10**33, 1e33, True),  # the double is a neighbour of 10^33 only; its text says 1e33
    (2**53 + 1, 2.0**53, False),
    (2**60, 2.0**60, False),  # as its text is 1.152921504606847e18
    (TENTHS_34, TENTHS_34, True),
    (Decimal(12345678901234567890), 12345678901234567890, True),
    (Decimal("12345678901234567890.5"), 12345678901234567890, False),
    (Decimal(12345678901234567890), 12345678901234567890.0, False),
    (Decimal("1E500"), "1E500", False),
    ([{"a": [1.0]}], [{"a": [1]}], True),
    ([1, 2], [1], False),
    ("1", True, False),
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
    ("left", "right", "contained"),
    [
        (3, [1, "a", 3.0], True),
        (2.5, [2.5], True),
        ("a", ["b", "a"], True),
        ("a", ["A"], False),
        ([1, 2], [1, 2, [1, 2]], True),
        ({"a": 1}, [{"a": 1.0}], True),
        (1, ["1"], False),
        (1, [True], False),
        (None, [None], True),
        (True, [1], False),
        (True, [True], True),
        (1, [], False),
        (1, [[1]], False),
        (U, [1], U),
        *[(1, other, U) for other in (1, "1", {"a": 1}, None, True, U)],
    ],
)
def test_in(left: Any, right: Any, contained: Any) -> None:
    assert values.contains(left, right) is contained


@pytest.mark.parametrize(
    ("value", "name", "member"),
    [
        ({"a": None}, "a", None),
        ({"a": 1}, "b", U),
        ({}, "a", U),
        *[(other, "a", U) for other in ([1], "a", 1, None, U, True, b"a")],
    ],
)
def test_members_are_of_objects(value: Any, name: str, member: Any) -> None:
    assert values.member(value, name) is member


@pytest.mark.parametrize(
    ("left", "right", "greater"),
    [
        (2, 1, True),
        (1, 2.5, False),
        ("10", "9", True),
        ("10", 9, True),
        (9.5, "9", True),
        ("1E2", "99.5", True),
        (Decimal("1E500"), 1e300, True),
        (10**23, 1e23, False),
        (1e23, 10**23 - 1, True),
        (Decimal("-1E500"), 10**33, False),
        (Decimal("12345678901234567890.5"), 12345678901234567890, True),
        ("0.3000000000000000445", "0.3000000000000000444", True),
        (Decimal("0.3000000000000000445"), 0.3, True),
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
        (values.add, 0.1, 0.2, 0.3),
        (values.add, 1, 2.0, 3.0),
        (values.add, 1e16, 0.5, Decimal("10000000000000000.5")),
        (values.add, 10**34 - 1, 1, 1e34),
        (values.add, "x", 10.0, "x10.0"),
        (values.add, {"a": 1}, "!", '{"a":1}!'),
        (values.add, "x", b"raw", U),
        (values.add, {}, 1, U),
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
        (values.subtract, 5, 7, -2),
        (values.subtract, 0.3, 0.1, 0.2),
        (values.subtract, 1.5, 1.5, 0.0),
        (values.subtract, "1e3", "1", 999.0),
        (values.subtract, "a", 1, U),
        (values.subtract, True, 1, U),
        (values.multiply, "2", "2.5", 5.0),
        (values.multiply, 3, 4, 12),
        (values.multiply, 1.1, 1.1, 1.21),
        (values.multiply, -1, 0.0, 0.0),
        (values.multiply, 1e200, 1e200, Decimal("1E400")),
        (values.multiply, Decimal("1E-600"), Decimal("1E-600"), 0.0),
        (values.multiply, Decimal("1E600"), Decimal("1E600"), U),
        (values.multiply, 10**20, 10**13, 10**33),
        (values.multiply, 10**20, 10**20, 1e40),
        (values.multiply, 1234567890123456789, 1234567890123456789, Decimal("1.524157875323883675019051998750191E36")),
        (values.multiply, None, 1, U),
        (values.divide, 10, 5, 2),
        (values.divide, 5, 2, 2.5),
        (values.divide, 1, 3, Decimal("0." + "3" * 34)),
        (values.divide, 2, 3, Decimal("0." + "6" * 33 + "7")),
        (values.divide, -7, 2, -3.5),
        (values.divide, 4.0, 2, 2.0),
        (values.divide, 0.3, 0.1, 3.0),
        (values.divide, 0, 0, U),
        (values.divide, Decimal("1E999"), 0.1, U),
        (values.divide, [1], 1, U),
        (values.divide, "7", 2, 3.5),
        (values.divide, 1, 0, U),
        (values.divide, 1.0, 0.0, U),
        (values.remainder, 8, 3, 2),
        (values.remainder, -8, 3, -2),
        (values.remainder, 8, -3, 2),
        (values.remainder, 5.5, 2, 1.5),
        (values.remainder, -5.5, 2, -1.5),
        (values.remainder, 0.3, 0.1, 0.0),
        (values.remainder, Decimal("1E999"), 7, 6.0),
        (values.remainder, Decimal("1E999"), Decimal("7E-999"), Decimal("1E-999")),
        (values.remainder, 1.5, 0, U),
        (values.remainder, None, 2, U),
        (values.remainder, "8", "3", 2),
        (values.remainder, 1, 0, U),
    ],
)
def test_arithmetic(operator: Any, left: Any, right: Any, result: Any) -> None:
    computed = operator(left, right)
    assert computed == result
    assert type(computed) is type(result)


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
        ("true", "true", T, T),
        (F, [T], F, U),
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
    with pytest.raises(EvaluationError, match=r"1,048,576 (characters|bytes)"):
        values.add(half, half + "x")


OPERATORS = [
    values.add, values.subtract, values.multiply, values.divide, values.remainder, values.equal, values.unequal,
    values.less, values.less_or_equal, values.greater, values.greater_or_equal, values.both, values.either,
]  # fmt: skip


@given(st.sampled_from(OPERATORS), ANY, ANY)
def test_every_operator_answers_for_every_pair_of_values(operator: Any, left: Any, right: Any) -> None:
    assert is_canonical(operator(left, right))


@given(st.sampled_from(["String", "Int", "Decimal", "Double", "Boolean"]), ANY)
def test_every_cast_answers_for_every_value(wanted: str, value: Any) -> None:
    assert is_canonical(values.cast(value, wanted))


@given(ANY)
def test_every_value_has_a_text_or_none_and_every_defined_value_equals_itself(value: Any) -> None:
    assert isinstance(values.text(value), str) or value is U or value is None or isinstance(value, bytes)
    assert values.equal(value, value) is (U if value is U else True)


def nested(depth: int) -> Any:
    value: Any = 1.0
    for _ in range(depth):
        value = [{"a": value}]
    return value


@pytest.mark.parametrize("function", [values.whole, values.text, lambda value: values.equal(value, nested(20_000))])
def test_nesting_beyond_its_bound_is_an_evaluation_error(function: Any) -> None:
    with pytest.raises(EvaluationError, match="nested too deeply"):
        function(nested(20_000))
    assert function(nested(50)) is not U


def test_the_text_of_an_array_has_the_bound_of_every_text() -> None:
    with pytest.raises(EvaluationError, match=r"1,048,576 (characters|bytes)"):
        values.text(["x" * values.TEXT_CHARS_MAX])
    assert len(json_bytes(["x" * values.TEXT_CHARS_MAX])) > values.TEXT_CHARS_MAX


def test_there_is_one_zero_in_texts_and_results() -> None:
    assert values.text(-0.0) == "0.0"
    assert values.add(-0.0, "") == "0.0"
    assert str(values.multiply(-0.0, 1)) == "0.0"
