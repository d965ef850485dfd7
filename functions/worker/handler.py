"""Finding the handler and calling it: Lambda's rules for its name, its errors, and their words and types.

What a handler raises becomes Lambda's error object, without the runtime's own frames; it is also written to stdout, as
Lambda's log shows it. SystemExit, KeyboardInterrupt and the like are not caught: they end the worker.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import sys
import traceback

TYPE_CHECKING = False  # without the cost of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from functions.worker import context, logs, marshalling, wire

    Handler = Callable[[object, "context.LambdaContext"], object]
else:
    import context
    import logs
    import marshalling
    import wire

ERROR_BYTES_MAX = 256 << 10  # of an error object; Lambda cuts longer ones too
_TOO_LARGE = f"Response payload size exceeded maximum allowed payload size ({wire.RESULT_BYTES_MAX} bytes)."


def load(name: str) -> Handler:
    """The function that `package.module.function` names. Raises marshalling.Fault, or what its module raises."""
    module_name, dot, function = name.rpartition(".")
    if not dot:
        words = "not enough values to unpack (expected 2, got 1)"
        raise marshalling.Fault("Runtime.MalformedHandlerName", f"Bad handler '{name}': {words}")
    if module_name.split(".")[0] in sys.builtin_module_names:
        raise marshalling.Fault(
            "Runtime.BuiltInModuleConflict", f"Cannot use built-in module {module_name} as a handler module"
        )
    try:
        module = importlib.import_module(module_name.replace("/", "."))
    except ImportError as error:
        raise marshalling.Fault(
            "Runtime.ImportModuleError", f"Unable to import module '{module_name}': {error}"
        ) from None
    except SyntaxError as error:
        raise marshalling.Fault(
            "Runtime.UserCodeSyntaxError",
            f"Syntax error in module '{module_name}': {error}",
            [f'  File "{error.filename}" Line {error.lineno}\n    {error.text}'],
        ) from None
    try:
        found: Handler = getattr(module, function)
        return found
    except AttributeError:
        raise marshalling.Fault(
            "Runtime.HandlerNotFound", f"Handler '{function}' missing on module '{module_name}'"
        ) from None


class Calls:
    """The calls of one handler. `binary` gives it the payload as bytes."""

    def __init__(self, handler: Handler, *, binary: bool) -> None:
        self._handler = handler
        self._read = bytes if binary else marshalling.read
        self._trace_id = b""
        self._arn = (b"", "")

    def __call__(
        self, request_id: bytes, arn: bytes, trace_id: bytes, client_context: bytes, payload: bytes
    ) -> tuple[int, bytes]:
        """What becomes of one event: wire.RESULT or wire.ERROR, and the payload."""
        logs.request_id = name = str(request_id, "utf-8")
        if trace_id != self._trace_id:
            self._trace_id = trace_id
            _set_trace_id(trace_id)
        if arn != self._arn[0]:
            self._arn = arn, str(arn, "utf-8")
        try:
            said = _client_context(client_context) if client_context else None
            about = context.LambdaContext(name, said, self._arn[1])
            answer = marshalling.write(self._handler(self._read(payload), about))
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is its result
            return wire.ERROR, failure(error, name)
        if len(answer) > wire.RESULT_BYTES_MAX:
            return wire.ERROR, failure(marshalling.Fault("Function.ResponseSizeTooLarge", _TOO_LARGE), name)
        return wire.RESULT, answer


def failure(error: BaseException, request_id: str = "") -> bytes:
    """Lambda's error object for an exception, which is written to the log too."""
    if isinstance(error, marshalling.Fault):
        kind, message, trace = error.kind, error.message, error.trace
    else:
        kind, message, trace = type(error).__name__, _message(error), _trace(error.__traceback__)
    document: dict[str, object] = {
        "errorMessage": message,
        "errorType": kind,
        "requestId": request_id,
        "stackTrace": trace,
    }
    logs.write_error(document)
    encoded = marshalling.write(document)
    if len(encoded) > ERROR_BYTES_MAX:
        cut = message.encode("utf-8", "backslashreplace")[: ERROR_BYTES_MAX // 8].decode("utf-8", "ignore")
        encoded = marshalling.write({**document, "errorMessage": cut, "stackTrace": []})
    return encoded


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a class of the user's may have a bad __str__
        return f"<unprintable {type(error).__name__} object>"


def _trace(trace: TracebackType | None) -> list[str]:
    """The lines of a traceback without columns, as Lambda shows it, from the first frame that is not ours."""
    frames = [(frame.filename, frame.lineno or 0, frame.name, frame.line) for frame in traceback.extract_tb(trace)]
    ours = os.path.dirname(__file__) + os.sep
    return traceback.format_list(itertools.dropwhile(lambda frame: frame[0].startswith(ours), frames))


def _client_context(text: bytes) -> dict[str, object]:
    try:
        said: dict[str, object] = json.loads(text)
        return said
    except Exception as error:  # noqa: BLE001 - RecursionError too
        raise marshalling.Fault(
            "Runtime.LambdaContextUnmarshalError", f"Unable to parse Client Context JSON: {error}"
        ) from None


def _set_trace_id(trace_id: bytes) -> None:
    if trace_id:
        os.environ["_X_AMZN_TRACE_ID"] = str(trace_id, "utf-8")
    else:
        os.environ.pop("_X_AMZN_TRACE_ID", None)
