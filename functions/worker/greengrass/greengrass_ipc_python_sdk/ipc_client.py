"""Greengrass V1's calls to its core, made of calls of the APIs that AWS has for the same: the worker's endpoint.

What the SDK sends to the router is an IoT Publish, to the shadow service a classic shadow call, to the secrets manager
a GetSecretValue, and to any other function an Invoke. All go to AWS_ENDPOINT_URL, signed with the worker's keys.

`post_work` makes the call and waits for its answer, which `get_work_result` gives out once. A refusal by a service that
a V1 core would have answered in the payload is a payload here too; that of the transport, of Publish and of Invoke is
an IPCException.
"""

from __future__ import annotations

import base64
import json
import threading
import uuid
from urllib.parse import quote

TYPE_CHECKING = False  # without the cost of importing typing
if TYPE_CHECKING:
    from typing import IO

    from functions.worker.greengrass.greengrass_common import env_vars
    from functions.worker.greengrass.greengrass_common.function_arn_fields import FunctionArnFields
    from functions.worker.greengrass.greengrass_ipc_python_sdk import endpoint

    Payload = bytes | bytearray | str | IO[bytes] | IO[str]
else:
    from greengrass_common import env_vars
    from greengrass_common.function_arn_fields import FunctionArnFields

    from greengrass_ipc_python_sdk import endpoint

RESULTS_MAX = 1_000  # answers that nobody has asked for yet; a caller asks at once
_SHADOW_METHODS = {"get": "GET", "update": "POST", "delete": "DELETE"}


class IPCException(Exception):
    """The work could not be posted, or its result not be had."""


class WorkResult:
    """What became of posted work: `payload` bytes; `func_err` is "" or "Unhandled"."""

    def __init__(self, payload: bytes, func_err: str = "") -> None:
        self.payload = payload
        self.func_err = func_err


class IPCClient:
    """The client, as the SDK makes it; the address is that of the worker's endpoint, whatever is given."""

    def __init__(self, endpoint: str = "localhost", port: int | None = None) -> None:
        self._results: dict[str, WorkResult] = {}
        self._lock = threading.Lock()

    def post_work(
        self,
        function_arn: str,
        input_bytes: Payload,
        client_context: bytes | str,
        invocation_type: str = "RequestResponse",
    ) -> str:
        """Have a function or a service work on `input_bytes`; the id to ask for the result by. Raises IPCException."""
        context = client_context.decode() if isinstance(client_context, bytes) else client_context or ""
        try:
            result = _call(function_arn, _bytes(input_bytes), context, invocation_type)
        except endpoint.Unreachable as error:
            raise IPCException(str(error)) from error
        invocation_id = str(uuid.uuid4())
        if invocation_type != "Event":
            with self._lock:
                if len(self._results) >= RESULTS_MAX:
                    del self._results[next(iter(self._results))]
                self._results[invocation_id] = result
        return invocation_id

    def get_work_result(self, function_arn: str, invocation_id: str) -> WorkResult:
        """The result of posted work, once. Raises IPCException when there is none under that id."""
        with self._lock:
            result = self._results.pop(invocation_id, None)
        if result is None:
            raise IPCException(f"there is no result of invocation {invocation_id}")
        return result


def _call(function_arn: str, payload: bytes, context: str, invocation_type: str) -> WorkResult:
    arn = FunctionArnFields(function_arn).unqualified_arn
    if arn == env_vars.ROUTER_FUNCTION_ARN:
        return _publish(payload, _custom(context))
    if arn == env_vars.SHADOW_FUNCTION_ARN:
        return _shadow(payload, str(_custom(context).get("subject")))
    if arn == env_vars.SECRETS_MANAGER_FUNCTION_ARN:
        return _secret(payload)
    return _invoke(function_arn, payload, context, invocation_type)


def _publish(payload: bytes, custom: dict[str, object]) -> WorkResult:
    answer = endpoint.call("iotdata", "POST", f"/topics/{quote(str(custom.get('subject')), safe='')}", payload, qos="0")
    is_full = answer.status in (429, 503)
    if answer.status >= 400 and not (is_full and custom.get("queueFullPolicy") != "AllOrError"):
        raise IPCException(_refusal("publish", answer))
    return WorkResult(b"")


def _shadow(payload: bytes, subject: str) -> WorkResult:
    parts = subject.split("/")
    if len(parts) != 5 or subject[:11] != "$aws/things" or parts[3] != "shadow" or parts[4] not in _SHADOW_METHODS:
        raise IPCException(f"{subject!r} is no call of a classic shadow")
    path = f"/things/{quote(parts[2], safe='')}/shadow"
    answer = endpoint.call("iotdata", _SHADOW_METHODS[parts[4]], path, payload)
    if answer.status >= 400:
        return WorkResult(json.dumps({"code": answer.status, "message": _message(answer)}).encode())
    return WorkResult(answer.body)


def _secret(payload: bytes) -> WorkResult:
    answer = endpoint.call("secretsmanager", "POST", "/", payload, {
        "Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "secretsmanager.GetSecretValue",
    })  # fmt: skip
    if answer.status >= 400:
        return WorkResult(json.dumps({"Status": answer.status, "Message": _message(answer)}).encode())
    document = json.loads(answer.body)
    document["CreatedDate"] = int(float(document.get("CreatedDate", 0)) * 1000)  # V1 has milliseconds, the API seconds
    return WorkResult(json.dumps(document).encode())


def _invoke(function_arn: str, payload: bytes, context: str, invocation_type: str) -> WorkResult:
    headers = {"X-Amz-Invocation-Type": invocation_type}
    if context:
        headers["X-Amz-Client-Context"] = context
    path = f"/2015-03-31/functions/{quote(function_arn, safe='')}/invocations"
    answer = endpoint.call("lambda", "POST", path, payload, headers)
    if answer.status >= 400:
        raise IPCException(_refusal(f"invoke {function_arn}", answer))
    return WorkResult(answer.body, answer.headers.get("X-Amz-Function-Error", ""))


def _bytes(payload: Payload) -> bytes:
    """The payload as the SDK's users give it: bytes, a text, or a file that can be read."""
    content = payload if isinstance(payload, (bytes, bytearray, str)) else payload.read()
    return content.encode() if isinstance(content, str) else bytes(content)


def _custom(context: str) -> dict[str, object]:
    custom: dict[str, object] = json.loads(base64.b64decode(context)).get("custom", {}) if context else {}
    return custom


def _message(answer: endpoint.Answer) -> str:
    try:
        document = json.loads(answer.body)
        return str(document.get("message") or document.get("Message") or document.get("__type") or "")
    except (ValueError, AttributeError):
        return answer.body[:200].decode("utf-8", "replace")


def _refusal(what: str, answer: endpoint.Answer) -> str:
    return f"{what}: {answer.status} {_message(answer)}".rstrip()
