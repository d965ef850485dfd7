"""Destinations and dead-letter queues are told what Lambda would tell them, to the letter."""

import base64
from typing import Any

import orjson
import pytest

from functions import records
from functions.invocations import Ending, Invocation, Result
from functions.names import FunctionName
from functions.records import Outcome
from functions.retries import Condition
from tests.invoking import NOON_MS

ID = "e4b46cbf-b738-xmpl-8880-a18cdf61200e"


def invocation(payload: bytes = b'{"ORDER_IDS": ["9e07af03"]}', qualifier: str = "$LATEST", attempts: int = 3) -> Any:
    return Invocation(ID, FunctionName("my-function", qualifier), payload, enqueued_ms=NOON_MS, attempts=attempts)


def document(given: Invocation, outcome: Outcome) -> Any:
    return orjson.loads(orjson.dumps(records.record(given, outcome, NOON_MS + 7)))


FAILED = Outcome(
    Condition.RETRIES_EXHAUSTED, Result(Ending.ERROR, b'{"errorMessage": "RequestId: e4b4 Process exited"}', "4")
)


def test_a_failure_is_told_as_in_the_developer_guide() -> None:
    assert document(invocation(), FAILED) == {
        "version": "1.0",
        "timestamp": "2026-11-21T12:00:00.007Z",
        "requestContext": {
            "requestId": ID,
            "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:my-function:$LATEST",
            "condition": "RetriesExhausted",
            "approximateInvokeCount": 3,
        },
        "requestPayload": {"ORDER_IDS": ["9e07af03"]},
        "responseContext": {"statusCode": 200, "executedVersion": "4", "functionError": "Unhandled"},
        "responsePayload": {"errorMessage": "RequestId: e4b4 Process exited"},
    }


def test_a_success_has_no_function_error() -> None:
    told = document(invocation(qualifier="live", attempts=1), Outcome(Condition.SUCCESS, Result(Ending.SUCCESS, b"[]")))
    assert told["requestContext"]["condition"] == "Success"
    assert told["requestContext"]["functionArn"].endswith(":my-function:live")
    assert told["responseContext"] == {"statusCode": 200, "executedVersion": "$LATEST"}
    assert told["responsePayload"] == []


def test_an_event_that_became_too_old_has_no_response() -> None:
    told = document(invocation(attempts=0), Outcome(Condition.AGE_EXCEEDED))
    assert told["requestContext"] | {"condition": "EventAgeExceeded", "approximateInvokeCount": 0} == told[
        "requestContext"
    ]
    assert told.keys() == {"version", "timestamp", "requestContext", "requestPayload"}


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (b"null", None), (b"", None), (b' {"a": 1.50} ', {"a": 1.5}), (b"no JSON", "no JSON"),
        ("ümlaut".encode(), "ümlaut"), (b"\xff\x00", base64.b64encode(b"\xff\x00").decode()),
        (b"NaN", "NaN"), (b"12345678901234567890123", 1.2345678901234568e22),
    ],
)  # fmt: skip
def test_whatever_the_event_is_the_record_is_json(payload: bytes, told: object) -> None:
    outcome = Outcome(Condition.SUCCESS, Result(Ending.SUCCESS, payload))
    made = document(invocation(payload), outcome)
    assert (made["requestPayload"], made["responsePayload"]) == (told, told)


def test_an_event_in_a_record_is_the_bytes_that_it_was() -> None:
    payload = b'{"a":1.50,"n":12345678901234567890,"a":2}'
    assert payload in orjson.dumps(records.record(invocation(payload), FAILED, NOON_MS))


def test_a_dead_letter_says_who_what_and_why() -> None:
    assert records.dead_letter_attributes(invocation(), FAILED) == {
        "RequestID": ("String", ID),
        "ErrorCode": ("Number", "200"),
        "ErrorMessage": ("String", "RequestId: e4b4 Process exited"),
    }


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome(Condition.AGE_EXCEEDED), "429"),
        (Outcome(Condition.AGE_EXCEEDED, Result(Ending.THROTTLED)), "429"),
        (Outcome(Condition.RETRIES_EXHAUSTED, Result(Ending.REFUSED)), "404"),
        (Outcome(Condition.RETRIES_EXHAUSTED, Result(Ending.CRASH)), "200"),
    ],
)
def test_the_error_code_is_the_status_of_the_attempt_and_a_message_is_never_empty(outcome: Outcome, code: str) -> None:
    attributes = records.dead_letter_attributes(invocation(), outcome)
    assert attributes["ErrorCode"] == ("Number", code)
    assert attributes["ErrorMessage"] == ("String", outcome.condition.value)


@pytest.mark.parametrize("text", ["x" * 5_000, "ü" * 5_000, "x" + "€" * 2_000])
def test_an_error_message_has_at_most_a_kilobyte_of_whole_characters(text: str) -> None:
    result = Result(Ending.ERROR, orjson.dumps({"errorMessage": text}))
    message = records.error_message(Outcome(Condition.RETRIES_EXHAUSTED, result))
    assert text.startswith(message)
    assert 1_020 < len(message.encode()) <= 1_024


@pytest.mark.parametrize("payload", [b"[1]", b'{"errorMessage": 7}', b"{}"])
def test_an_error_object_of_another_shape_is_no_fault(payload: bytes) -> None:
    outcome = Outcome(Condition.RETRIES_EXHAUSTED, Result(Ending.ERROR, payload))
    assert records.error_message(outcome) == "RetriesExhausted"


def test_an_error_that_is_no_json_is_told_as_it_is() -> None:
    outcome = Outcome(Condition.RETRIES_EXHAUSTED, Result(Ending.CRASH, b"killed \xff"))
    assert records.error_message(outcome) == "killed \ufffd"


@pytest.mark.parametrize(("succeeded", "word"), [(True, "Success"), (False, "Failure")])
def test_an_event_bus_would_be_given_the_record_as_detail(succeeded: bool, word: str) -> None:
    made = records.record(invocation(), FAILED, NOON_MS)
    told = orjson.loads(orjson.dumps(records.bus_event(made, ID, succeeded=succeeded, destination="arn:bus")))
    assert told["detail"]["requestContext"]["requestId"] == ID
    assert told | {
        "version": "0", "id": ID, "detail-type": f"Lambda Function Invocation Result - {word}", "source": "lambda",
        "time": "2026-11-21T12:00:00Z", "region": "us-east-1", "account": "000000000000",
        "resources": ["arn:bus", "arn:aws:lambda:us-east-1:000000000000:function:my-function:$LATEST"],
    } == told  # fmt: skip
