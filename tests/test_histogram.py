"""Durations in buckets: what a quantile may be wrong by, and what it costs."""

import random

import pytest

from functions.histogram import Histogram


def test_a_quantile_is_at_most_nine_percent_too_high_at_any_scale() -> None:
    rng = random.Random(5)
    for scale in (1e-5, 1e-3, 1.0, 300.0):
        values = sorted(rng.uniform(0.1, 2.9) * scale for _ in range(1_000))
        histogram = Histogram()
        for value in values:
            histogram.add(value)
        for share in (0.01, 0.5, 0.9, 0.99, 1.0):
            truth = values[max(0, round(share * 1_000) - 1)]
            assert truth <= histogram.quantile(share) * (1 + 1e-9) <= truth * 1.0906


def test_what_is_too_short_or_too_long_is_counted_at_the_ends() -> None:
    histogram = Histogram()
    for value in (-1.0, 0.0, 1e-9):
        histogram.add(value)
    assert histogram.quantile(1.0) <= 1e-6
    histogram.add(1e9)
    assert histogram.count == 4
    assert histogram.max == 1e9
    assert histogram.quantile(0.5) <= 1e-6
    assert histogram.quantile(1.0) >= 900  # the last bucket: longer than any event may take


def test_many_events_that_took_the_same_are_counted_at_once() -> None:
    one, many = Histogram(), Histogram()
    for _ in range(100):
        one.add(0.002)
    many.add(0.002, 100)
    assert one.status() == pytest.approx(many.status())
    assert one.count == many.count == 100


def test_two_histograms_can_be_added() -> None:
    fast, slow = Histogram(), Histogram()
    fast.add(0.001, 90)
    slow.add(1.0, 10)
    fast.merge(slow)
    assert fast.count == 100
    assert fast.quantile(0.5) < 0.0011
    assert fast.quantile(0.99) == pytest.approx(1.0)
    assert fast.status()["max"] == 1000


def test_nothing_counted_is_nothing_told() -> None:
    assert Histogram().status() == {"mean": 0, "p50": 0, "p90": 0, "p99": 0, "max": 0}
