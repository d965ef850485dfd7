"""When workers may be started again, as values."""

from functions.invocations import Ending, Result
from functions.workers.starts import GOOD_SECONDS, RETRY_SECONDS_MAX, Starts

BROKEN = Result(Ending.CRASH, b'{"errorType":"Runtime.ImportModuleError"}')


def test_the_wait_doubles_to_a_minute() -> None:
    starts, now, waits = Starts(), 100.0, []
    for _ in range(9):
        starts.failed(BROKEN, now)
        waits.append(starts.not_before - now)
        now = starts.not_before
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert RETRY_SECONDS_MAX == 60


def test_who_waits_is_told_why_until_the_next_start() -> None:
    starts = Starts()
    assert starts.refusal(100.0) is None
    starts.failed(BROKEN, 100.0)
    told = starts.refusal(100.5)
    assert told == BROKEN
    assert told is not BROKEN
    assert starts.refusal(101.0) is None
    assert starts.problem == BROKEN


def test_a_worker_that_is_ready_ends_the_wait() -> None:
    starts = Starts()
    starts.failed(BROKEN, 100.0)
    starts.ready(100.1)
    assert (starts.not_before, starts.problem) == (0.0, None)


def test_a_first_end_may_be_an_accident_and_a_second_in_a_row_is_none() -> None:
    starts = Starts()
    starts.ready(100.0)
    starts.ended(BROKEN, 101.0, fruitful=False)
    assert starts.not_before == 0.0
    starts.ready(101.0)
    starts.ended(BROKEN, 102.0, fruitful=False)
    assert starts.not_before == 103.0
    starts.ready(103.0)
    starts.ended(BROKEN, 104.0, fruitful=False)
    assert starts.not_before == 106.0


def test_a_worker_that_did_something_well_may_end_as_it_likes() -> None:
    starts = Starts()
    for now in range(100, 110):
        starts.ready(now)
        starts.ended(BROKEN, now, fruitful=True)
        assert starts.not_before == 0.0


def test_one_worker_may_be_killed_before_it_is_ready() -> None:
    starts = Starts()
    assert starts.forgives(100.0)
    assert not starts.forgives(110.0)
    starts.ready(110.0)
    starts.ended(BROKEN, 111.0, fruitful=True)
    assert starts.forgives(120.0)


def test_workers_that_are_killed_together_are_one_accident() -> None:
    starts = Starts()
    assert all(starts.forgives(100.0 + n / 100) for n in range(8))
    assert not starts.forgives(102.0)


def test_workers_that_were_started_together_and_failed_count_as_one() -> None:
    starts = Starts()
    for n in range(8):
        starts.failed(BROKEN, 100.0 + n / 100)
    assert starts.not_before == 101.0
    starts.failed(BROKEN, 101.0)
    assert starts.not_before == 103.0


def test_a_worker_that_stayed_makes_the_next_wait_short_and_readiness_alone_does_not() -> None:
    starts, now = Starts(), 100.0
    for _ in range(5):
        starts.failed(BROKEN, now)
        now = starts.not_before
    starts.ready(now)
    starts.failed(BROKEN, now + 1)
    assert starts.not_before == now + 1 + 32
    starts.ready(200.0)
    starts.failed(BROKEN, 200.0 + GOOD_SECONDS)
    assert starts.not_before == 200.0 + GOOD_SECONDS + 1
