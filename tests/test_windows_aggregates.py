"""What each aggregate makes of values, and that it can be written down at any moment."""

import statistics
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.sql.decimals import exact
from rules.sql.functions import FUNCTIONS
from rules.sql.payloads import json_bytes, read
from rules.sql.values import UNDEFINED, divide, same
from rules.windows.aggregates import AGGREGATES
from rules.windows.sketches import ERROR

LONG = Decimal("0.1000000000000000000000000000000001")
VALUES = st.lists(
    st.integers(-(10**34) + 1, 10**34 - 1)
    | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e200, max_value=1e200).map(lambda x: x + 0.0)
    | st.sampled_from([True, "text", "12.5", LONG, [1], {"a": 1}])
)


def result(name: str, values: list[Any], parameter: Any = 0, *, restart_at: int | None = None) -> Any:
    """The aggregate of these values, heard one millisecond after the other, perhaps with a restart."""
    aggregate = AGGREGATES[name]
    found = aggregate.accumulator()
    for at, value in enumerate(values):
        if at == restart_at:
            found = aggregate.accumulator.of(read(json_bytes(found.state())))
        found.add(value, at)
    return aggregate.result(found, parameter)


def test_the_aggregates_of_readings() -> None:
    readings = [21.5, 22, 20.25, 22]
    assert result("count", readings) == 4
    assert result("sum", readings) == 85.75
    assert result("avg", readings) == 21.4375
    assert result("min", readings) == 20.25
    assert result("max", readings) == 22
    assert result("first", readings) == 21.5
    assert result("last", readings) == 22
    assert result("percentile", readings, 50) == 21.5
    assert result("stddev", readings) == pytest.approx(statistics.stdev(readings))


def test_nothing_counted_is_undefined_and_a_count_of_zero() -> None:
    assert result("count", []) == 0
    for name in AGGREGATES.keys() - {"count"}:
        assert result(name, [], 50) is UNDEFINED


def test_what_is_no_number_counts_only_where_no_number_is_needed() -> None:
    values = ["red", True, [1], 5, "7"]
    assert result("sum", values) == 12  # the text of a number is a number, as everywhere in the language
    assert result("avg", values) == 6
    assert result("min", values) == 5
    assert result("percentile", values, 100) == 7
    assert result("count", values) == 5
    assert result("last", values) == "7"
    assert result("first", values) == "red"


def test_sums_are_exact() -> None:
    assert result("sum", [0.1] * 10) == 1.0
    assert result("avg", [0.1, 0.2]) == 0.15
    assert result("avg", [1, 1, 2]) == 1.3333333333333333
    assert result("avg", [10, 10]) == 10
    large = 10**33
    total = result("sum", [large, 1, -large])
    assert total == 1
    assert type(total) is int
    assert result("sum", [10**34 - 1, 2]) == 1e34  # 34 digits
    assert result("sum", [Decimal("9E999"), Decimal("9E999")]) is UNDEFINED


def test_first_and_last_go_by_time_and_not_by_arrival() -> None:
    first, last = AGGREGATES["first"].accumulator(), AGGREGATES["last"].accumulator()
    for value, at in (("b", 20), ("c", 30), ("a", 10), ("c2", 30)):
        first.add(value, at)
        last.add(value, at)
    assert AGGREGATES["first"].result(first, 0) == "a"
    assert AGGREGATES["last"].result(last, 0) == "c2"


def test_one_number_has_no_deviation() -> None:
    assert result("stddev", [5]) is UNDEFINED
    assert result("stddev", [5, 5]) == 0


def test_a_deviation_keeps_its_digits_beside_a_large_mean() -> None:
    assert result("stddev", [1e9 + 4, 1e9 + 7, 1e9 + 13, 1e9 + 16]) == pytest.approx(30**0.5)


def test_a_deviation_beyond_a_double_is_undefined() -> None:
    values = [1e200, -1e200, 1e200]
    assert result("stddev", values) is UNDEFINED
    assert result("stddev", values, restart_at=2) is UNDEFINED


@given(VALUES, st.data())
def test_a_restart_changes_no_result(values: list[Any], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(values)))
    for name in AGGREGATES:
        unbroken, resumed = result(name, values, 95), result(name, values, 95, restart_at=at)
        assert (unbroken is UNDEFINED) == (resumed is UNDEFINED)
        assert unbroken is UNDEFINED or (same(unbroken, resumed) and type(unbroken) is type(resumed)), name


@given(st.lists(st.integers(-(10**6), 10**6) | st.decimals(-1000, 1000, places=3).map(float), min_size=2))
def test_each_aggregate_is_what_it_says(values: list[float]) -> None:
    assert exact(result("sum", values)) == sum(map(exact, values))
    assert result("avg", values) == float(divide(result("sum", values), len(values)))
    assert result("min", values) == min(values)
    assert result("max", values) == max(values)
    assert result("stddev", values) == pytest.approx(statistics.stdev(values), abs=1e-6)
    assert result("percentile", values, 100) == pytest.approx(max(values), rel=ERROR)


def test_no_aggregate_has_the_name_of_a_function() -> None:
    assert not AGGREGATES.keys() & FUNCTIONS.keys()
