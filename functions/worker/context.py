"""The `context` that a handler is given: Lambda's attributes by Lambda's names, from the worker's environment.

The remaining time is measured on the monotonic clock from the moment the worker takes the event into its hand: a box
that learns the time after its start does not cut a handler short.
"""

from __future__ import annotations

import os
import sys
import time

_W3C_FIELDS = ("traceparent", "tracestate", "baggage")
_TIMEOUT = float(os.environ.get("TIDEGATE_TIMEOUT") or 3)  # seconds
_ENVIRONMENT = {
    "log_group_name": "AWS_LAMBDA_LOG_GROUP_NAME",
    "log_stream_name": "AWS_LAMBDA_LOG_STREAM_NAME",
    "function_name": "AWS_LAMBDA_FUNCTION_NAME",
    "memory_limit_in_mb": "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "function_version": "AWS_LAMBDA_FUNCTION_VERSION",
}
_SETTLED: dict[str, str | None] = {name: os.environ.get(variable) for name, variable in _ENVIRONMENT.items()}


class _Record:
    """Attributes from a JSON object: those of the slots, None where it has no such member."""

    __slots__: tuple[str, ...] = ()

    def __init__(self, values: dict[str, object]) -> None:
        for name in self.__slots__:
            setattr(self, name, values.get(name))

    def __repr__(self) -> str:
        return _shown(self, self.__slots__)


class CognitoIdentity(_Record):
    """Who called by way of Amazon Cognito: nobody, here."""

    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")


class Client(_Record):
    """The application that a mobile SDK describes."""

    __slots__ = ("installation_id", "app_title", "app_version_name", "app_version_code", "app_package_name")  # noqa: RUF023 - as printed


class ClientContext(_Record):
    """What the caller said of itself; `custom` has Greengrass V1's subject."""

    __slots__ = ("custom", "env", "client")  # noqa: RUF023 - as printed

    custom: object
    env: object
    client: object


class LambdaContext:
    """One invocation, as the handler sees it. `client_context` is the JSON object that came with the event, or None."""

    def __init__(self, request_id: str, client_context: dict[str, object] | None, function_arn: str) -> None:
        self._deadline = time.monotonic() + _TIMEOUT
        self.aws_request_id = request_id
        self.__dict__.update(_SETTLED)
        self.invoked_function_arn = function_arn
        self.tenant_id = None
        self._w3c: dict[str, str] = {}
        self.client_context = None
        if client_context is not None:
            self._w3c = _take_w3c(client_context)
            self.client_context = ClientContext(client_context)
            if self.client_context.client is not None:
                self.client_context.client = Client(self.client_context.client)  # type: ignore[arg-type]
        self.identity = CognitoIdentity({})

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the worker is killed; 0 when they are over."""
        return max(0, int((self._deadline - time.monotonic()) * 1000))

    def w3c(self) -> dict[str, str]:
        """The W3C trace context that came with the event."""
        return dict(self._w3c)

    def log(self, message: object) -> None:
        """Write to the function's log, as it is: without a line's end, if it has none."""
        sys.stdout.write(str(message))
        sys.stdout.flush()

    def __repr__(self) -> str:
        names = ("aws_request_id", *_SETTLED, "invoked_function_arn", "client_context", "identity", "tenant_id")
        return _shown(self, names)


def _shown(thing: object, names: tuple[str, ...]) -> str:
    return f"{type(thing).__name__}([{','.join(f'{name}={getattr(thing, name)}' for name in names)}])"


def _take_w3c(client_context: dict[str, object]) -> dict[str, str]:
    found = client_context.pop("w3c", None) if isinstance(client_context, dict) else None
    if not isinstance(found, dict):
        return {}
    return {name: value for name in _W3C_FIELDS if isinstance(value := found.get(name), str)}
