"""Lambda's API over HTTP: Invoke, and what SDKs and people ask about functions before they do.

Paths, headers and error names are those of botocore's `lambda` model, so its client works with `endpoint_url`. What
changes functions (CreateFunction, …) is not here: deploying is `tidegate functions deploy`.

Will not run anything (`functions.service` does), nor look into an event beyond whether it is JSON.
"""

import uuid
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import orjson

from core.errors import TidegateError
from core.http.entrance import Caller, Kind
from core.http.messages import JSON, HttpError, Request, Response, json_response
from core.http.routes import Labels, Routed, Routes
from functions.errors import FunctionNotFound, FunctionsError, InvalidContent, InvalidParameter, Throttled, TooLarge
from functions.invocations import ASYNC_EVENT_BYTES_MAX, EVENT_BYTES_MAX, Ending, Result
from functions.manifest import Manifest
from functions.names import LATEST, FunctionName

LOG_TAIL_BYTES = 4 << 10  # Lambda's
CLIENT_CONTEXT_CHARS_MAX = 3_583  # Lambda's, of base64
PAGE_MAX = 50  # Lambda's, of lists
EMPTY_EVENT = b"{}"  # what a handler is given when the body is empty, as at Lambda
INVOCATIONS = "/2015-03-31/functions/{name}/invocations"


class Invoker(Protocol):
    """What is asked of `functions.service.Functions`."""

    async def accept(self, name: FunctionName, payload: bytes, client_context: bytes = b"", *, depth: int = 0) -> str:
        """Take an event for later; the request id, when the event is on disk."""
        ...

    async def invoke(
        self,
        name: FunctionName,
        payload: bytes,
        client_context: bytes = b"",
        *,
        wants_tail: bool = False,
        depth: int = 0,
    ) -> Result:
        """Have an event handled now. `depth` counts the functions whose calls led to it."""
        ...


class Version(Protocol):
    """One installed version."""

    @property
    def manifest(self) -> Manifest:
        """What is known of it."""
        ...


class Catalogue(Protocol):
    """What is asked of `functions.packages.library.Library`."""

    def names(self) -> list[str]:
        """Every function."""
        ...

    def aliases(self, name: str) -> dict[str, int]:
        """Which version each alias stands for, $LATEST among them."""
        ...

    def versions(self, name: str) -> Sequence[Version]:
        """What is installed of a function."""
        ...

    def find(self, name: FunctionName) -> Version:
        """One version. Raises FunctionNotFound."""
        ...


class LambdaApi:
    """The handlers."""

    def __init__(self, invoker: Invoker, catalogue: Catalogue) -> None:
        self._invoker = invoker
        self._catalogue = catalogue

    def add_to(self, routes: Routes, *, invoke_only: bool = False) -> None:
        """Take the requests that are for these."""
        routes.add("POST", INVOCATIONS, _for_operators(self.invoke))
        routes.add("POST", "/2014-11-13/functions/{name}/invoke-async", _for_operators(self.invoke_async))
        if invoke_only:
            return
        routes.add("GET", "/2015-03-31/functions", _for_operators(self.list_functions))
        routes.add("GET", "/2015-03-31/functions/{name}", _for_operators(self.get_function))
        routes.add("GET", "/2015-03-31/functions/{name}/configuration", _for_operators(self.get_configuration))
        routes.add("GET", "/2015-03-31/functions/{name}/versions", _for_operators(self.list_versions))
        routes.add("GET", "/2015-03-31/functions/{name}/aliases", _for_operators(self.list_aliases))
        routes.add("GET", "/2015-03-31/functions/{name}/aliases/{alias}", _for_operators(self.get_alias))

    # -- events -------------------------------------------------------------------------------------------------------

    async def invoke(self, request: Request, labels: Labels) -> Response:
        """Invoke, synchronous or not, or dry."""
        headers = request.headers
        name = FunctionName.parse(labels["name"], request.query.get("Qualifier", ""))
        kind, log_type = headers.get("x-amz-invocation-type", "RequestResponse"), headers.get("x-amz-log-type", "None")
        if log_type not in ("None", "Tail"):
            raise InvalidParameter(f"X-Amz-Log-Type is None or Tail, not {log_type[:40]!r}")
        context = _client_context(headers.get("x-amz-client-context", ""))
        if kind == "RequestResponse":
            event = self._event(name, request.body, EVENT_BYTES_MAX)
            result = await self._invoker.invoke(name, event, context, wants_tail=log_type == "Tail")
            return _answer(result, tail=log_type == "Tail")
        if kind == "Event":
            event = self._event(name, request.body, ASYNC_EVENT_BYTES_MAX)
            return Response(202, b"", {"x-amzn-requestid": await self._invoker.accept(name, event, context)})
        if kind == "DryRun":
            self._catalogue.find(name)
            return Response(204, b"", {"x-amzn-requestid": str(uuid.uuid4())})
        raise InvalidParameter(f"X-Amz-Invocation-Type is RequestResponse, Event or DryRun, not {kind[:40]!r}")

    async def invoke_async(self, request: Request, labels: Labels) -> Response:
        """InvokeAsync, which Invoke has replaced."""
        name = FunctionName.parse(labels["name"])
        request_id = await self._invoker.accept(name, self._event(name, request.body, ASYNC_EVENT_BYTES_MAX))
        return json_response({"Status": 202}, 202, {"x-amzn-requestid": request_id})

    def _event(self, name: FunctionName, body: bytes, limit: int) -> bytes:
        """The event: JSON, or any bytes where the handler takes bytes. Raises FunctionsError."""
        if len(body) > limit:
            raise TooLarge(f"Request must be smaller than {limit} bytes for the InvokeFunction operation")
        if self._catalogue.find(name).manifest.encoding == "binary":
            return body
        if not body:
            return EMPTY_EVENT
        try:
            orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidContent(f"Could not parse request body into json: {error}") from None
        return body

    # -- what there is ------------------------------------------------------------------------------------------------

    async def get_function(self, request: Request, labels: Labels) -> Response:
        """GetFunction; the code itself is not to be had."""
        configuration = self._configuration(request, labels)
        return json_response({"Configuration": configuration, "Code": {"RepositoryType": "Tidegate"}, "Tags": {}})

    async def get_configuration(self, request: Request, labels: Labels) -> Response:
        """GetFunctionConfiguration."""
        return json_response(self._configuration(request, labels))

    def _configuration(self, request: Request, labels: Labels) -> dict[str, Any]:
        name = FunctionName.parse(labels["name"], request.query.get("Qualifier", ""))
        return _describe(self._catalogue.find(name).manifest, name)

    async def list_functions(self, request: Request, labels: Labels) -> Response:
        """ListFunctions: what $LATEST is of each, or all versions."""
        found: list[dict[str, Any]] = []
        page, marker = _page(request, self._catalogue.names())
        for name in page:
            latest = FunctionName(name)
            found.append(_describe(self._catalogue.find(latest).manifest, latest))
            if request.query.get("FunctionVersion") == "ALL":
                found += self._versions(name)
        return json_response({"Functions": found, "NextMarker": marker})

    async def list_versions(self, request: Request, labels: Labels) -> Response:
        """ListVersionsByFunction."""
        name = FunctionName(FunctionName.parse(labels["name"]).name)
        latest = _describe(self._catalogue.find(name).manifest, name)
        described = {each["Version"]: each for each in [latest, *self._versions(name.name)]}
        page, marker = _page(request, list(described))
        return json_response({"Versions": [described[each] for each in page], "NextMarker": marker})

    def _versions(self, name: str) -> list[dict[str, Any]]:
        manifests = sorted((each.manifest for each in self._catalogue.versions(name)), key=lambda m: m.version)
        return [_describe(manifest, FunctionName(name, str(manifest.version))) for manifest in manifests]

    async def list_aliases(self, request: Request, labels: Labels) -> Response:
        """ListAliases."""
        name = FunctionName.parse(labels["name"]).name
        self._catalogue.find(FunctionName(name))
        aliases = self._catalogue.aliases(name)
        page, marker = _page(request, sorted(aliases.keys() - {LATEST}))
        found = [_describe_alias(name, alias, aliases[alias]) for alias in page]
        return json_response({"Aliases": found, "NextMarker": marker})

    async def get_alias(self, request: Request, labels: Labels) -> Response:
        """GetAlias."""
        name, alias = FunctionName.parse(labels["name"]).name, labels["alias"]
        self._catalogue.find(FunctionName(name))
        aliases = self._catalogue.aliases(name)
        if alias not in aliases or alias == LATEST:
            raise FunctionNotFound(f"{name} has no alias {alias[:128]!r}")
        return json_response(_describe_alias(name, alias, aliases[alias]))


def _for_operators(handler: Callable[[Request, Labels], Awaitable[Response]]) -> Routed:
    """Keep devices out: they have no more to do with functions than at AWS."""

    async def handle(caller: Caller, request: Request, labels: Labels) -> Response:
        if caller.kind is Kind.CERTIFICATE:
            raise HttpError(403, "AccessDeniedException", "devices may not ask about functions; use an access key")
        try:
            return await handler(request, labels)
        except HttpError:
            raise
        except FunctionsError as error:
            headers = {"retry-after": "1"} if isinstance(error, Throttled) else None
            raise HttpError(error.status, error.code, str(error), headers) from None
        except TidegateError as error:  # the disk refuses, or a package is damaged; the message says which
            raise HttpError(500, "ServiceException", str(error)) from None

    return handle


def _answer(result: Result, *, tail: bool) -> Response:
    """What became of a synchronous invocation. Raises FunctionsError where no handler has seen it."""
    if result.ending is Ending.THROTTLED:
        raise Throttled(_message(result) or "Rate Exceeded.")
    if result.ending is Ending.REFUSED:
        raise InvalidContent(_message(result) or "the event cannot be given to this function")
    headers = {"content-type": JSON, "x-amzn-requestid": result.request_id or str(uuid.uuid4())}
    if result.version:
        headers["x-amz-executed-version"] = result.version
    if result.function_error:
        headers["x-amz-function-error"] = result.function_error
    if tail:
        headers["x-amz-log-result"] = b64encode(result.log_tail[-LOG_TAIL_BYTES:]).decode()
    return Response(200, result.payload, headers)


def _message(result: Result) -> str:
    try:
        document = orjson.loads(result.payload)
    except orjson.JSONDecodeError:
        return ""
    return str(document.get("errorMessage", "")) if isinstance(document, Mapping) else ""


def _client_context(text: str) -> bytes:
    """X-Amz-Client-Context, decoded: JSON, or nothing."""
    if not text:
        return b""
    try:
        if len(text) > CLIENT_CONTEXT_CHARS_MAX:
            raise ValueError(f"more than {CLIENT_CONTEXT_CHARS_MAX:,} characters")
        decoded = b64decode(text, validate=True)
        is_object = isinstance(orjson.loads(decoded), dict)
    except ValueError as error:
        raise InvalidContent(f"Client context must be a valid Base64-encoded JSON object: {error}") from None
    if not is_object:
        raise InvalidContent("Client context must be a JSON object")
    return decoded


def _page(request: Request, items: list[str]) -> tuple[list[str], str | None]:
    """The items that are asked for, and the marker of those behind them."""
    asked, marker = request.query.get("MaxItems", ""), request.query.get("Marker", "")
    size = min(int(asked[:6]), PAGE_MAX) if asked.isascii() and asked.isdecimal() and int(asked[:6]) else PAGE_MAX
    start = items.index(marker) if marker in items else 0
    rest = items[start + size :]
    return items[start : start + size], rest[0] if rest else None


def _describe(manifest: Manifest, name: FunctionName) -> dict[str, Any]:
    """FunctionConfiguration. Variables are not shown: they are often secrets."""
    is_latest = name.qualifier == LATEST
    return {
        "FunctionName": manifest.name,
        "FunctionArn": name.arn(),
        "Runtime": manifest.runtime,
        "Handler": manifest.handler,
        "CodeSize": manifest.code_bytes,
        "CodeSha256": manifest.code_sha256,
        "Description": manifest.description,
        "Timeout": manifest.timeout,
        "MemorySize": manifest.memory_mb,
        "EphemeralStorage": {"Size": manifest.tmp_mb},
        "LastModified": _moment(manifest.created_ms),
        "Version": LATEST if is_latest else str(manifest.version),
        "State": "Active",
        "LastUpdateStatus": "Successful",
        "PackageType": "Zip",
        **({"Architectures": [manifest.architecture]} if manifest.architecture else {}),
        **({"DeadLetterConfig": {"TargetArn": manifest.dead_letter}} if manifest.dead_letter else {}),
    }


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000"


def _describe_alias(name: str, alias: str, version: int) -> dict[str, Any]:
    return {"AliasArn": FunctionName(name, alias).arn(), "Name": alias, "FunctionVersion": str(version)}
