"""Lambda's error objects for what a handler could not say itself."""

import json

import pytest

from functions.workers import outcomes


def test_a_time_out_says_when_and_after_how_long() -> None:
    document = json.loads(outcomes.timed_out("5f0c", 3, 1_778_311_773.186).payload)
    assert document == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": "2026-05-09T07:29:33.186Z 5f0c Task timed out after 3.00 seconds",
    }


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "Runtime exited with error: exit status 1"),
        (137, "Runtime exited with error: exit status 137"),
        (-9, "Runtime exited with error: signal: killed"),
        (-11, "Runtime exited with error: signal: segmentation fault"),
        (-200, "Runtime exited with error: signal: 200"),
        (0, "Runtime exited without providing a reason"),
    ],
)
def test_an_exit_says_how(code: int, words: str) -> None:
    document = json.loads(outcomes.exited("5f0c", code, 0, 1 << 20).payload)
    assert document == {"errorType": "Runtime.ExitError", "errorMessage": f"RequestId: 5f0c Error: {words}"}


@pytest.mark.parametrize(
    ("code", "peak", "kind"),
    [
        (-9, 128 << 20, "Runtime.OutOfMemory"),
        (1, 127 << 20, "Runtime.OutOfMemory"),
        (-9, 64 << 20, "Runtime.ExitError"),
        (0, 128 << 20, "Runtime.ExitError"),
    ],
)
def test_who_died_near_its_limit_died_of_it(code: int, peak: int, kind: str) -> None:
    assert outcomes.exited("5f0c", code, peak, 128 << 20).kind == kind


def test_before_an_event_there_is_no_request_to_name() -> None:
    assert outcomes.exited("", 1, 0, 1).message == "Error: Runtime exited with error: exit status 1"


def test_a_result_that_is_too_large_has_lambdas_words() -> None:
    assert json.loads(outcomes.too_large(7_000_000, 6_291_556).payload) == {
        "errorType": "Function.ResponseSizeTooLarge",
        "errorMessage": "Response payload size (7000000 bytes) exceeded maximum allowed payload size (6291556 bytes).",
    }
