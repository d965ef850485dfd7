"""get, transform, and what stands in for a value that is missing."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.errors import EvaluationError
from rules.sql.functions.structures import FUNCTIONS, TRANSFORM_BYTES_MAX
from rules.sql.payloads import json_bytes
from rules.sql.values import UNDEFINED, SqlVersion
from tests.iot_values import ANY, is_canonical

U = UNDEFINED


def call(name: str, *arguments: Any) -> Any:
    return FUNCTIONS[name].call(*arguments)


@pytest.mark.parametrize(
    ("value", "key", "result"),
    [
        (["a", "b", "c"], 1, "b"),
        (["a", "b", "c"], 0, "a"),
        (["a", "b", "c"], "2", "c"),
        (["a", "b", "c"], 1.5, "c"),
        (["a", "b", "c"], "1.5", "b"),
        (["a", "b", "c"], 3, U),
        (["a", "b", "c"], -1, U),
        (["a", "b", "c"], Decimal("1E500"), U),
        ([None], 0, None),
        ([], 0, U),
        *[(["a"], bad, U) for bad in ("x", "", True, None, [0], {}, U)],
        ("abc", 0, "a"),
        ("abc", 2, "c"),
        ("abc", 3, U),
        ("abc", -1, U),
        ("€b", 1, "b"),
        ("abc", "x", U),
        ({"temp-1": 20}, "temp-1", 20),
        ({"a": None}, "a", None),
        ({"a": 1}, "b", U),
        ({"0": 1}, 0, U),
        ({"true": 1}, True, U),
        *[(other, 0, U) for other in (5, 2.5, True, None, U, b"abc")],
    ],
)
def test_get(value: Any, key: Any, result: Any) -> None:
    assert call("get", value, key) == result


@pytest.mark.parametrize(
    ("name", "value", "result"),
    [
        ("isnull", None, True),
        ("isnull", U, False),
        ("isnull", 0, False),
        ("isnull", "null", False),
        ("isundefined", U, True),
        ("isundefined", None, False),
        ("isundefined", "", False),
    ],
)
def test_isnull_and_isundefined_are_always_boolean(name: str, value: Any, result: bool) -> None:
    assert call(name, value) is result


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        ([1, 2], 1),
        ([None, 2], 2),
        ([U, 2], 2),
        ([False, 2], False),
        (["", 2], ""),
        ([U, None], None),
        ([U, U], U),
        ([U], U),
        ([None], U),
        ([1], 1),
    ],
)
def test_get_or_default_is_for_null_and_undefined(arguments: list[Any], result: Any) -> None:
    assert call("get_or_default", *arguments) is result


@pytest.mark.parametrize(
    ("added", "items", "result"),
    [
        ({"site": "x"}, [{"v": 1}, {"v": 2}], [{"site": "x", "v": 1}, {"site": "x", "v": 2}]),
        ({"v": 9, "w": 9}, [{"v": 1}], [{"v": 1, "w": 9}]),
        ({}, [{"v": 1}], [{"v": 1}]),
        ({"a": {"b": 1}}, [{"a": {"c": 2}}], [{"a": {"c": 2}}]),
        ({"a": 1}, [], []),
        ({"a": 1}, [{}], [{"a": 1}]),
        ({"a": 1}, [1], U),
        ({"a": 1}, [{"b": 1}, "x"], U),
        ({"a": 1}, {"b": 1}, U),
        ([{"a": 1}], [{"b": 1}], U),
        *[(bad, [{"b": 1}], U) for bad in (None, U, "x", 1)],
        *[({"a": 1}, bad, U) for bad in (None, U, "x", 1)],
    ],
)
def test_transform_enriches_every_element(added: Any, items: Any, result: Any) -> None:
    assert call("transform", "enrichArray", added, items) == result


@pytest.mark.parametrize("mode", ["enricharray", "", None, U, 1])
def test_transform_knows_one_mode(mode: Any) -> None:
    assert call("transform", mode, {"a": 1}, [{"b": 1}]) is U


def test_transform_leaves_the_payload_as_it_was() -> None:
    added, items = {"a": 1}, [{"b": 1}]
    call("transform", "enrichArray", added, items)
    assert (added, items) == ({"a": 1}, [{"b": 1}])


def test_the_result_of_transform_has_a_bound() -> None:
    per_item = len(json_bytes({"a": "x" * 1000, "n": 0})) + 1
    fitting = TRANSFORM_BYTES_MAX // per_item - 1
    added = {"a": "x" * 1000}
    assert len(call("transform", "enrichArray", added, [{"n": 0}] * fitting)) == fitting
    with pytest.raises(EvaluationError, match="larger than 131,072 bytes"):
        call("transform", "enrichArray", added, [{"n": 0}] * (fitting + 2))


def test_a_result_of_transform_that_would_fill_the_memory_is_not_built() -> None:
    added = {str(key): key for key in range(20_000)}
    with pytest.raises(EvaluationError, match="larger than 131,072 bytes"):
        call("transform", "enrichArray", added, [{}] * 1_000_000)


@given(st.sampled_from(sorted(FUNCTIONS)), st.lists(ANY, min_size=3, max_size=3))
def test_every_function_answers_for_all_values_with_a_value(name: str, arguments: list[Any]) -> None:
    assert is_canonical(call(name, *arguments[: FUNCTIONS[name].most]))


def test_the_functions_of_2016_are_not_in_2015() -> None:
    newer = {name for name, function in FUNCTIONS.items() if function.since is not SqlVersion.V2015}
    assert newer == {"get_or_default", "isundefined", "transform"}
