"""What a function did, counted once, and told apart for as many functions as there is room for."""

from core.telemetry import Counters
from functions.invocations import Ending, Result
from functions.workers.numbers import FUNCTIONS_MAX, OTHERS, Numbers


def test_counters_are_told_once_of_everything() -> None:
    counters = Counters()
    numbers = Numbers("alarm", counters, set())
    for _ in range(3):
        numbers.count(Result(Ending.SUCCESS))
    numbers.count(Result(Ending.TIMEOUT))
    assert counters.snapshot() == {}
    numbers.tell()
    numbers.tell()
    numbers.count(Result(Ending.SUCCESS))
    numbers.tell()
    assert counters.snapshot() == {
        'function_invocations_total{ending="success",function="alarm"}': 4,
        'function_invocations_total{ending="timeout",function="alarm"}': 1,
    }


def test_the_status_tells_what_ran_from_what_was_refused() -> None:
    numbers = Numbers("alarm", Counters(), set())
    for ending in Ending:
        numbers.count(Result(ending))
    numbers.started(0.05)
    status = numbers.status()
    told = {name: status[name] for name in ("invocations", "errors", "timeouts", "crashes", "throttles", "cold_starts")}
    assert told == {"invocations": len(Ending) - 2, "errors": 1, "timeouts": 1, "crashes": 1, "throttles": 1,
                    "cold_starts": 1}  # fmt: skip


def test_so_many_functions_are_told_apart_and_the_others_counted_together() -> None:
    counters, labels = Counters(), set[str]()
    for number in range(FUNCTIONS_MAX + 50):
        numbers = Numbers(f"function-{number}", counters, labels)
        numbers.count(Result(Ending.SUCCESS))
        numbers.tell()
    assert len(counters.snapshot()) == FUNCTIONS_MAX + 1
    assert counters.value("function_invocations_total", function=OTHERS) == 50
    again = Numbers("function-0", counters, labels)  # its next version
    again.count(Result(Ending.SUCCESS))
    again.tell()
    assert counters.value("function_invocations_total", function="function-0") == 2
