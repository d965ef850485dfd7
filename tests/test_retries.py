"""An event is tried again as Lambda tries it, and no more often."""

import pytest

from functions.invocations import Ending
from functions.retries import (
    THROTTLE_WAIT_MAX_MS,
    Condition,
    Decision,
    GiveUp,
    Retry,
    Verdict,
    decide,
    throttled_wait,
)
from tests.invoking import manifest

HOUR = 3_600_000
EXHAUSTED, TOO_OLD = GiveUp(Condition.RETRIES_EXHAUSTED), GiveUp(Condition.AGE_EXCEEDED)
FAILURES = [Ending.ERROR, Ending.TIMEOUT, Ending.CRASH]


@pytest.mark.parametrize("ending", FAILURES)
@pytest.mark.parametrize(
    ("attempts", "retries", "decision"),
    [
        (1, 2, Retry(60_000)),
        (2, 2, Retry(120_000)),
        (3, 2, EXHAUSTED),
        (1, 1, Retry(60_000)),
        (2, 1, EXHAUSTED),
        (1, 0, EXHAUSTED),
        (3, 1, EXHAUSTED),  # a new version allows fewer
    ],
)
def test_a_function_error_is_tried_again_after_one_minute_then_after_two(
    ending: Ending, attempts: int, retries: int, decision: Decision
) -> None:
    assert decide(ending, attempts, 0, manifest(retries=retries)) == decision


@pytest.mark.parametrize("age", [0, 1, 100 * HOUR])
def test_a_success_is_the_end_however_old(age: int) -> None:
    assert decide(Ending.SUCCESS, 1, age, manifest()) is Verdict.FINISHED


@pytest.mark.parametrize("retries", [0, 2])
def test_what_can_never_be_given_to_a_handler_is_not_tried_again(retries: int) -> None:
    assert decide(Ending.REFUSED, 0, 0, manifest(retries=retries)) == EXHAUSTED


def test_what_reached_no_handler_waits_until_it_is_too_old_and_that_is_no_attempt() -> None:
    said = manifest(retries=0, max_age=60)
    assert decide(Ending.THROTTLED, 0, 60_000, said) is Verdict.THROTTLED
    assert decide(Ending.THROTTLED, 0, 60_001, said) == TOO_OLD


def test_a_function_that_is_switched_off_lets_nothing_wait() -> None:
    assert decide(Ending.THROTTLED, 0, 0, manifest(concurrency=0)) == EXHAUSTED


def test_a_retry_that_would_come_too_late_is_none() -> None:
    said = manifest(max_age=120)
    assert decide(Ending.ERROR, 1, 60_000, said) == Retry(60_000)
    assert decide(Ending.ERROR, 1, 60_001, said) == TOO_OLD
    assert decide(Ending.ERROR, 3, 60_001, said) == EXHAUSTED  # the reason that came first


def test_a_throttled_function_waits_from_one_second_to_five_minutes() -> None:
    waits = [throttled_wait(throttles, 0.0) for throttles in range(1, 12)]
    assert waits[:4] == [1_000, 2_000, 4_000, 8_000]
    assert waits[-1] == THROTTLE_WAIT_MAX_MS
    assert waits == sorted(waits)
    assert throttled_wait(10**9, 0.0) == THROTTLE_WAIT_MAX_MS
    assert throttled_wait(0, 0.0) == 1_000
    assert all(wait * 3 // 4 <= throttled_wait(n + 1, 0.999999) < wait for n, wait in enumerate(waits))
