"""One event on its way to a handler, and what became of one attempt at it: values that every part here knows."""

from dataclasses import dataclass
from enum import Enum

import orjson

from functions.errors import FunctionsError
from functions.names import FunctionName

EVENT_BYTES_MAX = 6 << 20  # of a synchronous invocation, each way (Lambda quotas)
ASYNC_EVENT_BYTES_MAX = 1 << 20  # of an asynchronous one


@dataclass(slots=True)
class Invocation:
    """An event for a function; `client_context` is JSON, as `context.client_context` is made of.

    `id` is the AWS request id, a UUID, the same in every attempt. Times are milliseconds since the Unix epoch.
    `attempts` counts those that ended; only an asynchronous invocation has more than one.
    `depth` counts the functions whose results or calls led to it.
    """

    id: str
    function: FunctionName
    payload: bytes
    client_context: bytes = b""
    enqueued_ms: int = 0
    attempts: int = 0
    trace_id: str = ""
    depth: int = 0


class Ending(Enum):
    """How an attempt ended."""

    SUCCESS = "success"
    ERROR = "error"  # the handler raised, or its runtime reported an error
    TIMEOUT = "timeout"
    CRASH = "crash"  # the process ended, in init or in the handler
    THROTTLED = "throttled"  # it was never given to a handler: no worker, or the function is switched off
    REFUSED = "refused"  # it can never be given to one: no such version, or an event that is no JSON


@dataclass(slots=True)
class Result:
    """What became of one attempt. `payload` is the handler's result, or the error object of Lambda, as JSON bytes.

    `version` is the number of the version that ran ("" when none did). Durations are seconds; `init` is 0 unless this
    attempt waited for a cold start. `memory` is the worker's peak in bytes, 0 when nobody knows. `request_id` is the
    invocation's, where somebody waits for the result.
    """

    ending: Ending
    payload: bytes = b""
    version: str = ""
    log_tail: bytes = b""
    duration: float = 0.0
    init: float = 0.0
    memory: int = 0
    request_id: str = ""

    @property
    def function_error(self) -> str:
        """The header X-Amz-Function-Error: empty for a success."""
        return "" if self.ending is Ending.SUCCESS else "Unhandled"


def refused(error: FunctionsError) -> Result:
    """What becomes of an event that no handler can ever be given."""
    return Result(Ending.REFUSED, orjson.dumps({"errorMessage": str(error), "errorType": error.code}))
