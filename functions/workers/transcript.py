"""What one worker writes, cut into lines that say which event they belong to; and Lambda's lines around each event.

    START RequestId: 5f0c… Version: 7
    END RequestId: 5f0c…
    REPORT RequestId: 5f0c…\tDuration: 1.23 ms\tBilled Duration: 2 ms\tMemory Size: 128 MB\tMax Memory Used: 14 MB

An event that wrote something, failed, was slow, waited for a cold start, or whose caller asked for the tail of its log
has all three lines. Of the others one each second has them too, so that a quiet function shows every event, and one at
20,000 events a second no more than an SD card can take.

When the handler cannot be loaded, an INIT_REPORT line tells of it, and each event that ends with it has its three lines
around the error object (`unbegun`).

Invariants:
1. A line that never ends is cut at `LINE_BYTES_MAX`; what is not ended when its event ends is a line.
2. Once the log has no room, output is counted and not looked at.
"""

import orjson

from functions.logs import LINE_BYTES_MAX, TAIL_BYTES, FunctionLog
from functions.workers.outcomes import TIMED_OUT

SLOW_SECONDS = 1.0  # from here on an event is worth three lines
SAMPLE_SECONDS = 1.0  # between two unremarkable events that are written down


class Transcript:
    """The output of one worker on its way into its function's log."""

    __slots__ = ("_log", "_loud", "_memory_mb", "_partial", "_request_id", "_sampled_at", "_tail", "_version")

    def __init__(self, log: FunctionLog, version: str, memory_mb: int) -> None:
        self._log = log
        self._version = version
        self._memory_mb = memory_mb
        self._request_id = ""
        self._loud = False  # the event in hand has its START line
        self._tail: bytearray | None = None
        self._partial = {"stdout": bytearray(), "stderr": bytearray()}
        self._sampled_at = 0.0

    def begin(self, request_id: str, *, wants_tail: bool) -> None:
        """An event is in hand now."""
        if self._partial["stdout"] or self._partial["stderr"]:
            self._end_lines()  # of a background thread
        self._request_id = request_id
        if wants_tail:
            self._tail = bytearray()
            self._start()

    def said(self, stream: str, data: bytes) -> None:
        """The worker wrote this: any bytes, any part of a line."""
        if self._tail is not None:
            self._tail += data[-TAIL_BYTES:]
            del self._tail[:-TAIL_BYTES]
        if not self._loud and self._request_id:
            self._start()
        partial = self._partial[stream]
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            if not self._log.has_room():
                partial.clear()
                self._log.drop(data.count(b"\n", start), len(data) - start)
                start = data.rindex(b"\n") + 1
                break
            self._line(stream, bytes(partial) + data[start:end] if partial else data[start:end])
            partial.clear()
            start = end + 1
        partial += data[start:] if start else data
        if len(partial) >= LINE_BYTES_MAX:
            self._line(stream, bytes(partial))
            partial.clear()

    def is_worth_a_report(self, seconds: float, *, remarkable: bool, now: float) -> bool:
        """Whether the event in hand, which took so long, has START, END and REPORT; asked once for each."""
        if self._loud or remarkable or seconds >= SLOW_SECONDS:
            return True
        if now - self._sampled_at < SAMPLE_SECONDS:
            return False
        self._sampled_at = now
        return True

    def end(self) -> None:
        """The event in hand is done, and there is nothing to tell of it."""
        self._request_id = ""

    def report(self, seconds: float, init: float, memory: int, status: str = "", message: str = "") -> bytes:
        """The event in hand is done; returns the tail of its log, if that was asked for.

        `memory` is the worker's peak in bytes; `status` is "error", "timeout" or empty; `message` a line more.
        """
        if not self._loud:
            self._start()
        self._end_lines()
        request_id = self._request_id
        if message:
            self._platform(message)
        self._platform(f"END RequestId: {request_id}")
        self._platform(_report(request_id, seconds, init, self._memory_mb, memory, status))
        tail = bytes(self._tail) if self._tail is not None else b""
        self._tail, self._loud, self._request_id = None, False, ""
        return tail

    def tell(self, error: bytes, seconds: float, *, was_said: bool) -> None:
        """The handler could not be loaded, for this reason: an error object; `was_said` when the runtime wrote it."""
        self._end_lines()
        kind, message = _told(error)
        if message and not was_said:
            self._platform(f"[ERROR] {kind}: {message}")
        status = "timeout" if kind == TIMED_OUT else "error"
        self._platform(
            f"INIT_REPORT Init Duration: {seconds * 1e3:.2f} ms\tPhase: init\tStatus: {status}\tError Type: {kind}"
        )

    def close(self) -> None:
        """The worker has ended."""
        self._end_lines()

    def _start(self) -> None:
        self._loud = True
        self._platform(f"START RequestId: {self._request_id} Version: {self._version}")

    def _platform(self, text: str) -> None:
        line = text.encode()
        if self._tail is not None:
            self._tail += b"\n" * (len(self._tail) > 0 and not self._tail.endswith(b"\n")) + line + b"\n"
            del self._tail[:-TAIL_BYTES]
        self._log.write(self._request_id, "platform", line, self._version)

    def _end_lines(self) -> None:
        for stream, partial in self._partial.items():
            if partial:
                self._line(stream, bytes(partial))
                partial.clear()

    def _line(self, stream: str, line: bytes) -> None:
        line = line.removesuffix(b"\r")
        for start in range(0, len(line) or 1, LINE_BYTES_MAX):
            self._log.write(self._request_id, stream, line[start : start + LINE_BYTES_MAX], self._version)


def unbegun(log: FunctionLog, version: str, memory_mb: int, request_id: str, error: bytes) -> bytes:
    """Write down an event that ends because the handler cannot be loaded; returns the tail of its log.

    `error` is the error object, which stands between START and END as what the function has to say.
    """
    report = _report(request_id, 0.0, 0.0, memory_mb, 0, "error")
    lines = (
        f"START RequestId: {request_id} Version: {version}".encode(),
        error,
        f"END RequestId: {request_id}".encode(),
        f"{report}\tError Type: {_told(error)[0]}".encode(),
    )
    for line in lines:
        log.write(request_id, "platform", line, version)
    return b"".join(line + b"\n" for line in lines)[-TAIL_BYTES:]


def _report(request_id: str, seconds: float, init: float, memory_mb: int, memory: int, status: str) -> str:
    ms = seconds * 1e3
    fields = [
        f"REPORT RequestId: {request_id}",
        f"Duration: {ms:.2f} ms",
        f"Billed Duration: {int(-(-ms // 1))} ms",
        f"Memory Size: {memory_mb} MB",
        f"Max Memory Used: {max(1, round(memory / (1 << 20))) if memory else 0} MB",
    ]
    if init:
        fields.append(f"Init Duration: {init * 1e3:.2f} ms")
    if status:
        fields.append(f"Status: {status}")
    return "\t".join(fields)


def _told(error: bytes) -> tuple[str, str]:
    """The type and the message of an error object, which a runtime of the user's may have written in any way."""
    try:
        found = orjson.loads(error)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        return "Runtime.Unknown", error[:TAIL_BYTES].decode("utf-8", "replace")
    kind = " ".join(str(found.get("errorType") or "Runtime.Unknown")[:200].split())
    return kind, str(found.get("errorMessage") or "")
