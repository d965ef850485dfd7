"""Percentiles in bounded memory: how close they are, and that a restart changes nothing."""

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.sql.payloads import json_bytes, read
from rules.windows.sketches import BINS_MAX, ERROR, SAMPLES_MAX, Sketch

READINGS = st.lists(st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3) | st.just(0.0) | st.integers(-500, 500), min_size=1)
PERCENTS = st.integers(0, 100) | st.sampled_from([0.5, 2.5, 99.9])


def sketch_of(numbers: list[float]) -> Sketch:
    sketch = Sketch()
    for number in numbers:
        sketch.add(number)
    return sketch


def nearest_rank(numbers: list[float], percent: float) -> float:
    """The smallest number that at least `percent` per cent do not exceed, counted one by one."""
    exact = Decimal(repr(percent)) * len(numbers) / 100
    return next(n for rank, n in enumerate(sorted(numbers), 1) if rank >= exact)


@given(READINGS, PERCENTS)
def test_few_numbers_have_exact_percentiles(numbers: list[float], percent: float) -> None:
    assert sketch_of(numbers).percentile(percent) == nearest_rank(numbers, percent)


@given(READINGS, st.integers(1, 50), PERCENTS)
def test_many_numbers_have_percentiles_within_one_per_cent(numbers: list[float], times: int, percent: float) -> None:
    many = (numbers * (SAMPLES_MAX // len(numbers) + times))[::-1]
    found, expected = sketch_of(many).percentile(percent), nearest_rank(many, percent)
    assert found is not None
    assert abs(float(found) - expected) <= abs(expected) * (ERROR + 1e-9)


@given(st.permutations(range(-400, 400)), PERCENTS)
def test_the_order_of_the_numbers_does_not_matter(numbers: list[int], percent: float) -> None:
    assert sketch_of([*numbers]).percentile(percent) == sketch_of([*range(-400, 400)]).percentile(percent)


@given(READINGS, st.integers(1, 400), PERCENTS)
def test_a_restart_in_between_changes_nothing(numbers: list[float], times: int, percent: float) -> None:
    many = numbers * times
    half = len(many) // 2
    resumed = Sketch.of(read(json_bytes(sketch_of(many[:half]).state())))
    for number in many[half:]:
        resumed.add(number)
    whole = sketch_of(many)
    assert resumed.percentile(percent) == whole.percentile(percent)
    assert resumed.count == whole.count == len(many)
    assert json_bytes(resumed.state()) == json_bytes(whole.state())


def test_the_least_and_the_greatest_are_exact() -> None:
    sketch = sketch_of([1.2345 * step for step in range(1, 2_000)])
    assert sketch.percentile(0) == 1.2345
    assert sketch.percentile(100) == 1.2345 * 1_999


def test_nothing_has_no_percentile() -> None:
    assert Sketch().percentile(50) is None


def test_a_percentage_is_counted_without_binary_surprises() -> None:
    assert sketch_of(list(range(1, 21))).percentile(55) == 11  # as doubles 0.55 * 20 is more than 11
    assert sketch_of(list(range(1, 1_001))).percentile(Decimal("99.9")) == pytest.approx(999, rel=ERROR)


def test_numbers_beyond_a_double_are_left_out() -> None:
    sketch = sketch_of([1, Decimal("1E+500"), 2])  # type: ignore[list-item]
    assert sketch.count == 2


def test_a_stream_of_all_magnitudes_takes_no_more_memory() -> None:
    sketch = sketch_of([(-1) ** step * math.exp(step / 50 - 300) for step in range(30_000)])
    assert sketch.size <= BINS_MAX
    assert len(sketch.state()[-1]) == 2 * sketch.size
    assert sketch.percentile(100) == pytest.approx(math.exp(29_998 / 50 - 300))
    assert sketch.percentile(99) == pytest.approx(math.exp(29_398 / 50 - 300), rel=ERROR + 1e-9)
    assert sketch.percentile(50) == 0  # the smallest magnitudes are taken for zero


def test_decimals_and_doubles_are_one_order() -> None:
    long = Decimal("0.1000000000000000000000000000000001")
    assert sketch_of([long, 0.1, 0.2]).percentile(50) == long  # type: ignore[list-item]
