"""The Lambda Runtime API for one worker: how a runtime of any language asks for events and answers them.

Serves version 2018-06-01 (Lambda developer guide, "Using the Lambda runtime API") on the listening socket that was made
inside the worker's own network namespace, where nobody but the worker can reach it. A worker with `network = true` has
no namespace of its own: there the socket is on the machine's loopback, and any process of the machine can ask.

Will not start or kill anything, nor watch the timeout: the pool does. Knows nothing of the Extensions API, the Logs API
and SnapStart: their paths are answered with 404.

Invariants:
1. One event is in hand at most. A runtime that asks for the next while it has one is given the same again, so an event
   whose connection broke is not lost (AWS's own emulator does so); after `DELIVERIES_MAX` times the event has failed.
2. Only the event in hand can be answered, and once: another id gets 400 InvalidRequestID, a second answer gets 403
   InvalidStateTransition.
3. A result beyond 6 MB gets 413 and fails the event as Function.ResponseSizeTooLarge.
"""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Sequence

import orjson

from core.http.limits import HttpLimits
from core.http.messages import Request, Response, json_response
from core.http.server import HttpServer
from functions.invocations import EVENT_BYTES_MAX, Invocation
from functions.workers.channel import Listener

DELIVERIES_MAX = 3  # of one event to one runtime: a bootstrap that cannot answer must not go round until the timeout
CONNECTIONS_MAX = 16  # a runtime has one or two; curl opens one for each request
BODY_BYTES_MAX = 2 * EVENT_BYTES_MAX  # read, so that a result that is too large is refused by its name
ANSWER_SECONDS = 60.0  # to send a body, beside the timeout of the function, which may be streaming it
CLOSE_SECONDS = 1.0  # for the last responses
IDLE_SECONDS = 86_400.0  # a kept connection; clients open another when it has ended

NOT_ALLOWED = "State transition is not allowed"
_ERROR_TYPE = "lambda-runtime-function-error-type"
_MODE = "lambda-runtime-function-response-mode"


class RuntimeApiChannel:
    """The way to a worker that speaks the Runtime API; a `functions.workers.channel.Channel`.

    `arn_of` gives the ARN by which an event's function was called, `timeout` is the function's in seconds, `encoding`
    "binary" hands events over as bytes that are no JSON. `serve` is the life of the channel; the parent of its task is
    whoever has the worker.
    """

    capacity = 1

    def __init__(
        self,
        sock: socket.socket,
        listener: Listener,
        arn_of: Callable[[Invocation], str],
        timeout: int,
        *,
        encoding: str = "json",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sock = sock
        self._listener = listener
        self._arn_of = arn_of
        self._timeout = timeout
        self._content_type = "application/json" if encoding == "json" else "application/octet-stream"
        self._clock = clock
        self._state = "Started"  # in the words of Lambda's state machine, which stand in its errors
        self._in_hand: Invocation | None = None
        self._deliveries = 0
        self._deadline_ms = 0
        self._answered = ""
        self._arrived = asyncio.Event()
        self._ending = asyncio.Event()

    async def serve(self) -> None:
        """Answer the worker until `close`, or until cancelled; tells `closed` at the end."""
        limits = HttpLimits(
            connections=CONNECTIONS_MAX,
            body_bytes=BODY_BYTES_MAX,
            bodies_bytes=BODY_BYTES_MAX,
            request=self._timeout + ANSWER_SECONDS,
            idle=IDLE_SECONDS,
        )
        server = HttpServer(self.answer, limits)
        try:
            await server.open(self._sock)
            await self._ending.wait()
        finally:
            self._state = "Closed"
            self._arrived.set()  # whoever waits for an event is told so, and not cut off
            await server.close(CLOSE_SECONDS)
            self._sock.close()
            self._listener.closed("the Runtime API was closed")

    def send(self, work: Sequence[Invocation]) -> None:
        """Give the worker one event: to the runtime if it waits for one, else when it asks. Its timeout begins now."""
        if self._in_hand is not None or len(work) != 1 or self._state in {"Started", "InitError", "Closed"}:
            raise ValueError(f"a runtime that is {self._state} cannot take {len(work)} events")
        self._in_hand = work[0]
        self._deliveries = 0
        self._deadline_ms = int(self._clock() * 1_000) + self._timeout * 1_000
        self._arrived.set()

    def close(self) -> None:
        """End it: connections are dropped, and `closed` follows."""
        self._ending.set()

    async def answer(self, request: Request) -> Response:
        """One request of the runtime."""
        match [request.method, *request.path.split("/")[1:]]:
            case ["GET", "2018-06-01", "runtime", "invocation", "next"]:
                return await self._next()
            case ["POST", "2018-06-01", "runtime", "invocation", request_id, "response"]:
                return self._misplaced(request_id, "InvocationResponse") or self._take_result(request)
            case ["POST", "2018-06-01", "runtime", "invocation", request_id, "error"]:
                return self._misplaced(request_id, "InvocationErrorResponse") or self._take_error(request)
            case ["POST", "2018-06-01", "runtime", "init", "error"]:
                return self._take_init_error(request)
        return _refusal(404, "NotFound", f"the Runtime API has no {request.method} {request.path[:200]}")

    async def _next(self) -> Response:
        if self._state == "InitError":
            return self._forbidden("Ready")
        if self._state == "Started":
            self._state = "Ready"
            self._listener.ready()
        elif self._in_hand is not None and self._deliveries >= DELIVERIES_MAX:
            words = f"the runtime asked for the next event {DELIVERIES_MAX} times and never answered this one"
            self._finish(_error_object("Runtime.NoResponse", words), error=True)
        while (invocation := self._in_hand) is None:
            if self._state == "Closed":
                return _refusal(503, "Closed", "the runtime is being stopped")
            await self._arrived.wait()
        self._state = "Ready"
        self._deliveries += 1
        return Response(200, invocation.payload, self._headers(invocation))

    def _headers(self, invocation: Invocation) -> dict[str, str]:
        headers = {
            "content-type": self._content_type,
            "lambda-runtime-aws-request-id": invocation.id,
            "lambda-runtime-deadline-ms": str(self._deadline_ms),
            "lambda-runtime-invoked-function-arn": self._arn_of(invocation),
            "lambda-runtime-trace-id": invocation.trace_id or _trace_id(invocation),
        }
        if (context := _header_json(invocation.client_context)) is not None:
            headers["lambda-runtime-client-context"] = context
        return headers

    def _misplaced(self, request_id: str, state: str) -> Response | None:
        """The refusal of an answer that is not for the event in hand."""
        if self._in_hand is not None and request_id == self._in_hand.id:
            return None
        if request_id and request_id == self._answered:
            return self._forbidden(state)
        return _refusal(400, "InvalidRequestID", "Invalid request ID")

    def _forbidden(self, state: str) -> Response:
        words = f"State transition from {self._state} to {state} failed for runtime. Error: {NOT_ALLOWED}"
        return _refusal(403, "InvalidStateTransition", words)

    def _take_result(self, request: Request) -> Response:
        if request.headers.get(_MODE, "streaming") != "streaming":
            words = f"{_MODE}: {request.headers[_MODE][:100]} is not known, only streaming is"
            self._finish(_error_object("Runtime.InvalidResponseModeHeader", words), error=True)
            return _refusal(400, "InvalidFunctionResponseMode", "Invalid function response mode")
        size = len(request.body)
        if size > EVENT_BYTES_MAX:
            limit = f"maximum allowed payload size ({EVENT_BYTES_MAX} bytes)."
            words = f"Response payload size ({size} bytes) exceeded {limit}"
            self._finish(_error_object("Function.ResponseSizeTooLarge", words), error=True)
            return _refusal(413, "RequestEntityTooLarge", f"Exceeded {limit}")
        self._finish(request.body, error=False)
        return _accepted()

    def _take_error(self, request: Request) -> Response:
        self._finish(_error_of(request), error=True)
        return _accepted()

    def _take_init_error(self, request: Request) -> Response:
        if self._state != "Started":
            return self._forbidden("InitError")
        self._state = "InitError"
        self._listener.init_failed(_error_of(request))
        return _accepted()

    def _finish(self, payload: bytes, *, error: bool) -> None:
        """The event in hand has ended; the listener may send another from within `done`."""
        assert self._in_hand is not None
        self._answered, self._in_hand = self._in_hand.id, None
        self._arrived.clear()
        self._state = "ResponseSent"
        self._listener.done(self._answered, payload, error=error)


def _accepted() -> Response:
    return json_response({"status": "OK"}, 202)


def _refusal(status: int, kind: str, words: str) -> Response:
    return json_response({"errorMessage": words, "errorType": kind}, status)


def _error_object(kind: str, words: str) -> bytes:
    return orjson.dumps({"errorType": kind, "errorMessage": words})


def _error_of(request: Request) -> bytes:
    """Lambda's error object as the runtime wrote it, or made of what it said in other words, or only in the header."""
    try:
        if len(request.body) <= EVENT_BYTES_MAX and isinstance(orjson.loads(request.body), dict):
            return request.body
    except orjson.JSONDecodeError:
        pass
    words = request.body[:EVENT_BYTES_MAX].decode(errors="replace")
    return _error_object(request.headers.get(_ERROR_TYPE) or "Runtime.Unknown", words)


def _header_json(text: bytes) -> str | None:
    """JSON in the characters that a header may have; None for what is no JSON."""
    try:
        return json.dumps(orjson.loads(text), separators=(",", ":"))
    except orjson.JSONDecodeError:
        return None


def _trace_id(invocation: Invocation) -> str:
    """An X-Ray trace that nobody samples: some runtimes insist on the header."""
    digits = invocation.id.replace("-", "")[:24]
    return f"Root=1-{invocation.enqueued_ms // 1_000 & 0xFFFFFFFF:08x}-{digits};Sampled=0"
