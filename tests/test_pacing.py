"""How much a worker is given, and what is worth a worker, as values."""

import pytest

from functions.workers.pacing import Pace


def known(seconds: float) -> Pace:
    pace = Pace()
    pace.learn(seconds)
    return pace


@pytest.mark.parametrize(("seconds", "window"), [(0.00002, 1_000), (0.001, 20), (0.02, 1), (3.0, 1), (0.0, 20_000)])
def test_a_worker_has_what_it_does_in_a_fiftieth_of_a_second(seconds: float, window: int) -> None:
    assert known(seconds).window() == pytest.approx(window, abs=1)


def test_before_anything_is_known_a_worker_has_one_event() -> None:
    assert Pace().window() == 1


def test_before_anything_is_known_every_event_is_worth_a_worker() -> None:
    assert Pace().worth(3, 0.0) == 3


@pytest.mark.parametrize(
    ("seconds", "waiting", "in_hand", "workers"),
    [
        (0.00002, 1_000, 0.0, 0),  # 20 ms of work: done before a worker has started
        (0.00002, 10_000, 0.0, 2),
        (1.0, 1, 0.0, 1),
        (1.0, 5, 0.0, 5),  # never more than there are events
        (0.03, 2, 0.0, 0),
        (0.035, 10, 0.0, 3),
        (0.00002, 1, 0.2, 1),  # quick as a rule, but not the one in hand
        (0.00002, 0, 9.0, 0),
    ],
)
def test_another_worker_is_started_for_a_tenth_of_a_second_of_work(
    seconds: float, waiting: int, in_hand: float, workers: int
) -> None:
    assert known(seconds).worth(waiting, in_hand) == workers


def test_what_is_new_counts_for_most_after_some_events() -> None:
    pace = known(1.0)
    pace.learn(0.001)
    assert pace.seconds is not None
    assert 0.5 < pace.seconds < 1.0  # one quick event may be an exception
    pace.learn(0.001, events=8)
    assert pace.seconds == pytest.approx(0.001)
