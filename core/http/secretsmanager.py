"""AWS Secrets Manager's GetSecretValue, from an operator's files: `POST /` with the operation in `X-Amz-Target`.

Will not list secrets, nor write them; each has one version.
"""

import re
import time
from collections.abc import Callable
from typing import Any

import orjson

from core.http.entrance import Caller
from core.http.messages import HttpError, Request, Response, json_response
from core.http.routes import Labels, Routes
from core.secret_files import NoSecret, SecretFiles

GET = "secretsmanager.GetSecretValue"
STAGES = ["AWSCURRENT"]
ARN = "arn:aws:secretsmanager:us-east-1:000000000000:secret:"
ARN_SUFFIX = re.compile(r"-[A-Za-z0-9]{6}$", re.ASCII)


class SecretsManager:
    """The handler over one directory of secrets, of which callers get those that `may_read(name)`."""

    def __init__(self, secrets: SecretFiles | None, may_read: Callable[[str], bool]) -> None:
        self._secrets = secrets
        self._may_read = may_read

    def add_to(self, routes: Routes) -> None:
        """Take the requests that are for it."""
        routes.add("POST", "/", self.call)

    async def call(self, caller: Caller, request: Request, labels: Labels) -> Response:
        """What X-Amz-Target names. Raises HttpError."""
        target = request.headers.get("x-amz-target", "")
        if target != GET:
            raise HttpError(400, "UnknownOperationException", f"{target[:100]!r} is not answered here; {GET} is")
        if self._secrets is None:
            raise HttpError(400, "ResourceNotFoundException", "no directory of secrets is configured")
        secret_id = _parameters(request).get("SecretId")
        if not isinstance(secret_id, str):
            raise HttpError(400, "InvalidParameterException", "SecretId is missing")
        name = next(filter(self._may_read, _names(secret_id)), None)
        if name is None:
            raise HttpError(400, "AccessDeniedException", f"not allowed to read the secret {secret_id[:80]!r}")
        try:
            value = self._secrets.get(name, time.monotonic())
        except NoSecret as error:
            raise HttpError(400, "ResourceNotFoundException", str(error)) from None
        arn = secret_id if secret_id.startswith("arn:") else f"{ARN}{name}"
        document = {"ARN": arn, "Name": name, "VersionStages": STAGES, **value}
        return json_response(document, headers={"content-type": "application/x-amz-json-1.1"})


def _names(secret_id: str) -> list[str]:
    """What a secret may be called whose name or ARN this is; AWS appends six random characters in ARNs."""
    if not secret_id.startswith("arn:"):
        return [secret_id]
    name = secret_id.partition(":secret:")[2]
    return [name, ARN_SUFFIX.sub("", name)]


def _parameters(request: Request) -> dict[str, Any]:
    try:
        document = orjson.loads(request.body or b"{}")
    except orjson.JSONDecodeError as error:
        raise HttpError(400, "InvalidRequestException", f"the body is no JSON: {error}") from None
    return document if isinstance(document, dict) else {}
