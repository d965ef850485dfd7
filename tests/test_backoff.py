"""The back-off doubles, stays bounded, and forgives only a connection that lasted."""

from hypothesis import given
from hypothesis import strategies as st

from core.backoff import Backoff

ALMOST_ONE = 1.0 - 2**-53  # the largest value random.random() returns


def ceilings(backoff: Backoff, count: int, now: float = 0.0) -> list[float]:
    return [backoff.failed(now, 1.0) for _ in range(count)]


def test_the_ceiling_doubles_from_base_to_limit() -> None:
    assert ceilings(Backoff(base=0.5, limit=10), 7) == [0.5, 1, 2, 4, 8, 10, 10]


def test_the_delay_is_the_share_of_the_ceiling_that_the_randomness_says() -> None:
    assert [Backoff(base=8).failed(0, share) for share in (0.0, 0.25, 0.5)] == [0.0, 2.0, 4.0]


def test_a_connection_that_stayed_good_is_forgiven() -> None:
    backoff = Backoff(base=1, good_after=30)
    ceilings(backoff, 5)
    backoff.connected(100.0)
    backoff.lost(130.0)
    assert backoff.failed(130.0, 1.0) == 1


def test_a_connection_that_is_dropped_at_once_counts_as_one_more_failure() -> None:
    backoff = Backoff(base=1, good_after=30)
    ceilings(backoff, 3)
    backoff.connected(100.0)
    backoff.lost(129.9)
    assert backoff.failed(129.9, 1.0) == 8


def test_a_caller_that_forgets_to_say_lost_gets_the_same_answer() -> None:
    told, untold = Backoff(good_after=30), Backoff(good_after=30)
    for backoff in (told, untold):
        ceilings(backoff, 4)
        backoff.connected(0.0)
    told.lost(31.0)
    assert told.failed(31.0, 1.0) == untold.failed(31.0, 1.0) == 0.5


def test_time_without_a_connection_forgives_nothing() -> None:
    backoff = Backoff(base=1, limit=60, good_after=30)
    ceilings(backoff, 3)
    backoff.connected(0.0)
    backoff.lost(1.0)
    backoff.lost(1_000_000.0)
    assert backoff.failed(1_000_000.0, 1.0) == 8


@given(
    base=st.floats(0.001, 10),
    limit=st.floats(0.001, 3600),
    shares=st.lists(st.floats(0, ALMOST_ONE), max_size=100),
)
def test_no_delay_is_ever_negative_or_above_the_limit(base: float, limit: float, shares: list[float]) -> None:
    backoff = Backoff(base=base, limit=limit)
    assert all(0 <= backoff.failed(0.0, share) <= limit for share in shares)


def test_a_year_of_failures_still_answers() -> None:
    assert ceilings(Backoff(), 10_000)[-1] == 60.0
