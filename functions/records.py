"""What is said of an asynchronous invocation that has ended: destination records and dead-letter attributes, as AWS's.

A destination is told by a record around the event and the result; a dead-letter queue is given the event itself,
unchanged, with three attributes (Lambda developer guide, "Asynchronous invocation"). Whatever is no JSON, as binary
events may be, stands in a record as a text: its own when it is UTF-8, else in base64.

Values in, values out. Will not deliver (`destinations` does).
"""

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from functions.invocations import Ending, Invocation, Result
from functions.names import ACCOUNT_ID, LATEST, REGION
from functions.retries import Condition

ERROR_MESSAGE_BYTES_MAX = 1_024  # of the attribute ErrorMessage (Lambda)
OK, TOO_MANY_REQUESTS, NOT_FOUND = 200, 429, 404

Attributes = dict[str, tuple[str, str]]  # of a message: type ("String", "Number") and value


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an event ended: its last attempt, None when it became too old before there was one."""

    condition: Condition
    result: Result | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the handler was content."""
        return self.condition is Condition.SUCCESS

    @property
    def status(self) -> int:
        """The HTTP status that Lambda would give the attempt."""
        if self.result is None or self.result.ending is Ending.THROTTLED:
            return TOO_MANY_REQUESTS
        return NOT_FOUND if self.result.ending is Ending.REFUSED else OK


def record(invocation: Invocation, outcome: Outcome, now_ms: int, arn: str = "") -> dict[str, Any]:
    """The invocation record; `orjson.dumps` makes it bytes. `arn` is the function's, with its qualifier."""
    result = outcome.result
    made: dict[str, Any] = {
        "version": "1.0",
        "timestamp": timestamp(now_ms),
        "requestContext": {
            "requestId": invocation.id,
            "functionArn": arn or function_arn(invocation),
            "condition": outcome.condition.value,
            "approximateInvokeCount": invocation.attempts,
        },
        "requestPayload": embedded(invocation.payload),
    }
    if result is not None and result.ending not in {Ending.THROTTLED, Ending.REFUSED}:
        context: dict[str, Any] = {"statusCode": OK, "executedVersion": result.version or LATEST}
        if result.function_error:
            context["functionError"] = result.function_error
        made["responseContext"] = context
        made["responsePayload"] = embedded(result.payload)
    elif result is not None:
        made["responseContext"] = {"statusCode": outcome.status, "executedVersion": LATEST}
        made["responsePayload"] = embedded(result.payload)
    return made


def bus_event(made: dict[str, Any], name: str, *, succeeded: bool, destination: str) -> dict[str, Any]:
    """The record as an event bus is given it; `name` is the event's id, a UUID."""
    arn = made["requestContext"]["functionArn"]
    return {
        "version": "0",
        "id": name,
        "detail-type": f"Lambda Function Invocation Result - {'Success' if succeeded else 'Failure'}",
        "source": "lambda",
        "account": ACCOUNT_ID,
        "time": made["timestamp"][:-5] + "Z",
        "region": REGION,
        "resources": [destination, arn],
        "detail": made,
    }


def dead_letter_attributes(invocation: Invocation, outcome: Outcome) -> Attributes:
    """The message attributes of an event in a dead-letter queue."""
    return {
        "RequestID": ("String", invocation.id),
        "ErrorCode": ("Number", str(outcome.status)),
        "ErrorMessage": ("String", error_message(outcome)),
    }


def error_message(outcome: Outcome) -> str:
    """What went wrong in at most 1 KB, never empty: a queue takes no empty attribute."""
    text = ""
    if outcome.result is not None:
        try:
            error = orjson.loads(outcome.result.payload)
        except orjson.JSONDecodeError:
            text = outcome.result.payload.decode(errors="replace")
        else:
            told = error.get("errorMessage") if isinstance(error, dict) else None
            text = told if isinstance(told, str) else ""
    text = text or outcome.condition.value
    return text.encode(errors="replace")[:ERROR_MESSAGE_BYTES_MAX].decode(errors="ignore")


def function_arn(invocation: Invocation) -> str:
    """The ARN as a record has it: always qualified."""
    function = invocation.function
    return function.arn() if function.qualifier != LATEST else f"{function.arn()}:{LATEST}"


def embedded(payload: bytes) -> Any:
    """Bytes as a part of a JSON document, unchanged where they are JSON."""
    if not payload:
        return None
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError:
        try:
            return payload.decode()
        except UnicodeDecodeError:
            return base64.b64encode(payload).decode()
    return orjson.Fragment(payload)


def timestamp(ms: int) -> str:
    """ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(ms / 1_000, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
