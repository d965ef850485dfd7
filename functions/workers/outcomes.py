"""What a caller is told when a handler could not say it itself: Lambda's error objects, as JSON bytes. Pure."""

from signal import Signals
from typing import NamedTuple

import orjson

from functions.invocations import Ending, Result
from functions.logs import stamp

TIMED_OUT = "Sandbox.Timedout"
EXITED = "Runtime.ExitError"
OUT_OF_MEMORY = "Runtime.OutOfMemory"
TOO_LARGE = "Function.ResponseSizeTooLarge"
NEAR = 0.95  # of its limit: a process that was killed there was killed for its memory


class Failure(NamedTuple):
    """What went wrong, in Lambda's words."""

    kind: str
    message: str

    @property
    def payload(self) -> bytes:
        """The error object."""
        return orjson.dumps({"errorType": self.kind, "errorMessage": self.message})


def unavailable(reason: str) -> Result:
    """No worker can be started."""
    return Result(Ending.THROTTLED, Failure("ServiceException", reason).payload)


def timed_out(request_id: str, timeout: float, now: float) -> Failure:
    """The handler took longer than it may; `now` is seconds since the epoch."""
    return Failure(TIMED_OUT, f"{stamp(now)} {request_id} Task timed out after {timeout:.2f} seconds")


def init_timed_out(seconds: float) -> Failure:
    """The handler was not loaded in time."""
    return Failure(TIMED_OUT, f"Init timed out after {seconds:.2f} seconds")


def exited(request_id: str, code: int, peak_bytes: int, memory_bytes: int) -> Failure:
    """The process ended with `code` (as Popen.returncode) while it had the event in hand, or before it could."""
    out_of_memory = code != 0 and peak_bytes >= NEAR * memory_bytes
    how = f"Runtime exited with error: {_status(code)}" if code else "Runtime exited without providing a reason"
    words = f"RequestId: {request_id} Error: {how}" if request_id else f"Error: {how}"
    return Failure(OUT_OF_MEMORY if out_of_memory else EXITED, words)


def too_large(size: int, limit: int) -> Failure:
    """The result is more than a caller may be given."""
    words = f"Response payload size ({size} bytes) exceeded maximum allowed payload size ({limit} bytes)."
    return Failure(TOO_LARGE, words)


def _status(code: int) -> str:
    if code > 0:
        return f"exit status {code}"
    try:
        name = {"SIGKILL": "killed", "SIGTERM": "terminated", "SIGABRT": "aborted", "SIGSEGV": "segmentation fault"}
        return f"signal: {name.get(Signals(-code).name, Signals(-code).name)}"
    except ValueError:
        return f"signal: {-code}"
