"""Lambda's API as boto3's own client speaks it, over real sockets and a real library of functions."""

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.response import StreamingBody

from core.config import HostPort
from core.errors import StorageError
from core.http.entrance import LOCAL, Caller, Kind
from core.http.messages import Request
from core.http.routes import Routes
from functions.api import LambdaApi
from functions.errors import FunctionNotFound, Throttled
from functions.invocations import ASYNC_EVENT_BYTES_MAX, EVENT_BYTES_MAX, Ending, Result
from functions.manifest import Manifest
from functions.names import FunctionName
from functions.packages.library import Library
from functions.packages.staging import Draft
from tests.aws_clients import aws
from tests.http_clients import Answer, ask, serving

REQUEST_ID = "79104EXAMPLE"
ARN = "arn:aws:lambda:eu-west-1:000000000000:function:press-alarm"


class Runner:
    """Writes down what is asked of it, and answers as it is told."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.asked: list[tuple[str, str, bytes, bytes, bool]] = []
        self.depths: list[int] = []
        log = b"x" * 5_000 + b"END of the log"
        self.result = Result(Ending.SUCCESS, b'{"alarm": true}', "2", log, request_id=REQUEST_ID)
        self.fault: Exception | None = None

    async def accept(self, name: FunctionName, payload: bytes, client_context: bytes = b"", *, depth: int = 0) -> str:
        self.depths.append(depth)
        self._note("accept", name, payload, client_context, wants_tail=False)
        return REQUEST_ID

    async def invoke(
        self,
        name: FunctionName,
        payload: bytes,
        client_context: bytes = b"",
        *,
        wants_tail: bool = False,
        depth: int = 0,
    ) -> Result:
        self.depths.append(depth)
        self._note("invoke", name, payload, client_context, wants_tail=wants_tail)
        return self.result

    def _note(self, how: str, name: FunctionName, payload: bytes, context: bytes, *, wants_tail: bool) -> None:
        self.library.find(name)
        if self.fault is not None:
            raise self.fault
        self.asked.append((how, str(name), payload, context, wants_tail))


def deploy(library: Library, directory: Path, name: str, **more: Any) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "bootstrap").write_text("#!/bin/sh\n")
    (directory / "bootstrap").chmod(0o755)
    manifest = Manifest(name=name, version=1, runtime="provided.al2023", handler="app.handler", **more)
    library.install(Draft(manifest, directory))


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    library = Library(tmp_path / "functions")
    for _ in range(3):
        deploy(library, tmp_path / "code", "press-alarm", description="Tells", timeout=7, environment={"KEY": "secret"})
    deploy(library, tmp_path / "code", "raw", encoding="binary")
    library.point("press-alarm", "live", 2)
    return Runner(library)


@asynccontextmanager
async def api(runner: Runner) -> AsyncIterator[HostPort]:
    routes = Routes()
    LambdaApi(runner, runner.library).add_to(routes)

    async def answer(request: Request) -> Any:
        return await routes.answer(LOCAL, request)

    async with serving(answer) as (_, address):
        yield address


async def call(address: HostPort, operation: str, **arguments: Any) -> Any:
    """What boto3 returns, with streams read; in a thread."""

    def run() -> Any:
        with aws("lambda", f"http://{address}") as client:
            answer = getattr(client, operation)(**arguments)
            return {k: v.read() if isinstance(v, StreamingBody) else v for k, v in answer.items()}

    return await asyncio.to_thread(run)


async def refusal(address: HostPort, operation: str, **arguments: Any) -> ClientError:
    with pytest.raises(ClientError) as caught:
        await call(address, operation, **arguments)
    return caught.value


# -- invoking ---------------------------------------------------------------------------------------------------------


async def test_an_event_is_handled_and_its_result_is_the_answer(runner: Runner) -> None:
    async with api(runner) as address:
        answer = await call(address, "invoke", FunctionName="press-alarm", Payload=b'{"t": 96}')
    assert answer["Payload"] == b'{"alarm": true}'
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "2")
    assert answer["ResponseMetadata"]["RequestId"] == REQUEST_ID
    assert "FunctionError" not in answer
    assert "LogResult" not in answer
    assert runner.asked == [("invoke", "press-alarm", b'{"t": 96}', b"", False)]


async def test_a_handler_that_failed_is_no_error_of_the_service(runner: Runner) -> None:
    runner.result = Result(Ending.ERROR, b'{"errorMessage": "no"}', "2")
    async with api(runner) as address:
        answer = await call(address, "invoke", FunctionName="press-alarm", Payload=b"{}")
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    assert json.loads(answer["Payload"]) == {"errorMessage": "no"}


async def test_the_end_of_the_log_comes_with_the_answer_when_it_is_asked_for(runner: Runner) -> None:
    async with api(runner) as address:
        answer = await call(address, "invoke", FunctionName="press-alarm", LogType="Tail")
    tail = b64decode(answer["LogResult"])
    assert len(tail) == 4_096
    assert tail.endswith(b"xEND of the log")
    assert runner.asked[0][-1]


async def test_an_event_for_later_is_accepted_with_its_request_id(runner: Runner) -> None:
    async with api(runner) as address:
        answer = await call(address, "invoke", FunctionName="press-alarm", InvocationType="Event", Payload=b"[1]")
        assert (answer["StatusCode"], answer["Payload"]) == (202, b"")
        assert answer["ResponseMetadata"]["RequestId"] == REQUEST_ID
        answer = await call(address, "invoke_async", FunctionName="press-alarm", InvokeArgs=b"[2]")
        assert answer["Status"] == 202
    assert [(how, payload) for how, _, payload, _, _ in runner.asked] == [("accept", b"[1]"), ("accept", b"[2]")]


async def test_a_dry_run_runs_nothing(runner: Runner) -> None:
    async with api(runner) as address:
        answer = await call(address, "invoke", FunctionName="press-alarm", InvocationType="DryRun")
        assert answer["StatusCode"] == 204
        assert (await refusal(address, "invoke", FunctionName="no", InvocationType="DryRun")).response["Error"][
            "Code"
        ] == "ResourceNotFoundException"
    assert runner.asked == []


@pytest.mark.parametrize(
    ("name", "qualifier", "meant"),
    [
        ("press-alarm", None, "press-alarm"),
        ("press-alarm:live", None, "press-alarm:live"),
        ("press-alarm", "live", "press-alarm:live"),
        ("press-alarm", "2", "press-alarm:2"),
        ("press-alarm:$LATEST", None, "press-alarm"),
        (ARN, None, "press-alarm"),
        (f"{ARN}:1", None, "press-alarm:1"),
        (f"{ARN}:live", "live", "press-alarm:live"),
        ("000000000000:function:press-alarm", None, "press-alarm"),
    ],
)
async def test_a_function_has_all_the_names_it_has_at_lambda(
    runner: Runner, name: str, qualifier: str | None, meant: str
) -> None:
    more = {} if qualifier is None else {"Qualifier": qualifier}
    async with api(runner) as address:
        await call(address, "invoke", FunctionName=name, **more)
    assert runner.asked[0][1] == meant


async def test_no_body_is_an_empty_event_and_bytes_are_for_those_that_take_bytes(runner: Runner) -> None:
    async with api(runner) as address:
        await call(address, "invoke", FunctionName="press-alarm")
        await call(address, "invoke", FunctionName="raw", Payload=b"\x00\xff")
        await call(address, "invoke", FunctionName="raw")
    assert [payload for _, _, payload, _, _ in runner.asked] == [b"{}", b"\x00\xff", b""]


@pytest.mark.parametrize("kind", ["RequestResponse", "Event"])
async def test_the_client_context_is_handed_on(runner: Runner, kind: str) -> None:
    context = {"custom": {"subject": "plant/é"}}
    encoded = b64encode(json.dumps(context).encode()).decode()
    async with api(runner) as address:
        await call(address, "invoke", FunctionName="press-alarm", InvocationType=kind, ClientContext=encoded)
    assert json.loads(runner.asked[0][3]) == context


@pytest.mark.parametrize("kind", ["RequestResponse", "Event"])
async def test_the_largest_event_is_taken_and_one_byte_more_is_not(runner: Runner, kind: str) -> None:
    limit = EVENT_BYTES_MAX if kind == "RequestResponse" else ASYNC_EVENT_BYTES_MAX
    invoke: Callable[..., Any] = partial(call, operation="invoke", FunctionName="press-alarm", InvocationType=kind)
    async with api(runner) as address:
        await invoke(address, Payload=b'"' + b"x" * (limit - 2) + b'"')
        for size in (limit + 1, 2 * limit, 10 << 20):
            with pytest.raises(ClientError) as caught:
                await invoke(address, Payload=b'"' + b"x" * (size - 2) + b'"')
            assert type(caught.value).__name__ == "RequestTooLargeException"
    assert len(runner.asked) == 1


@pytest.mark.parametrize(
    ("arguments", "fault", "status", "code"),
    [
        ({"FunctionName": "absent"}, None, 404, "ResourceNotFoundException"),
        ({"FunctionName": "press-alarm:99"}, None, 404, "ResourceNotFoundException"),
        ({"FunctionName": "press-alarm:1", "Qualifier": "2"}, None, 400, "InvalidParameterValueException"),
        ({"FunctionName": "press-alarm", "Payload": b"{"}, None, 400, "InvalidRequestContentException"),
        ({"FunctionName": "press-alarm", "Payload": b"NaN"}, None, 400, "InvalidRequestContentException"),
        (
            {"FunctionName": "press-alarm", "Payload": b"{", "InvocationType": "Event"}, None, 400,
            "InvalidRequestContentException",
        ),
        ({"FunctionName": "press-alarm", "ClientContext": "{}"}, None, 400, "InvalidRequestContentException"),
        ({"FunctionName": "press-alarm", "ClientContext": "WzFd"}, None, 400, "InvalidRequestContentException"),
        ({"FunctionName": "press-alarm", "ClientContext": "e30=" * 1_000}, None, 400, "InvalidRequestContentException"),
        ({"FunctionName": "press-alarm", "InvocationType": "Later"}, None, 400, "InvalidParameterValueException"),
        ({"FunctionName": "press-alarm", "LogType": "All"}, None, 400, "InvalidParameterValueException"),
        ({"FunctionName": "press-alarm"}, Throttled("all workers are busy"), 429, "TooManyRequestsException"),
        ({"FunctionName": "press-alarm"}, FunctionNotFound("gone meanwhile"), 404, "ResourceNotFoundException"),
        ({"FunctionName": "press-alarm"}, StorageError("the disk is full"), 500, "ServiceException"),
    ],
)  # fmt: skip
async def test_boto3_raises_what_it_raises_at_aws(
    runner: Runner, arguments: dict[str, Any], fault: Exception | None, status: int, code: str
) -> None:
    runner.fault = fault
    async with api(runner) as address:
        error = await refusal(address, "invoke", **arguments)
    assert type(error).__name__ == code
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert error.response["Error"]["Message"]
    if fault is not None:
        assert error.response["Error"]["Message"] == str(fault)


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (Result(Ending.THROTTLED, b'{"errorMessage": "switched off"}'), "TooManyRequestsException"),
        (Result(Ending.REFUSED, b'{"errorMessage": "switched off"}'), "InvalidRequestContentException"),
        (Result(Ending.THROTTLED), "TooManyRequestsException"),
    ],
)
async def test_an_event_that_no_handler_has_seen_is_an_error_of_the_service(
    runner: Runner, result: Result, code: str
) -> None:
    runner.result = result
    async with api(runner) as address:
        error = await refusal(address, "invoke", FunctionName="press-alarm")
    assert type(error).__name__ == code
    assert not result.payload or error.response["Error"]["Message"] == "switched off"


async def test_a_device_has_no_business_with_functions(runner: Runner) -> None:
    routes = Routes()
    LambdaApi(runner, runner.library).add_to(routes)

    async def answer(request: Request) -> Any:
        return await routes.answer(Caller(Kind.CERTIFICATE, "press"), request)

    async with serving(answer) as (_, address):
        found: Answer = await ask(address, "POST", "/2015-03-31/functions/press-alarm/invocations", b"{}")
        assert (found.status, found.headers["x-amzn-errortype"]) == (403, "AccessDeniedException")
        assert (await ask(address, "GET", "/2015-03-31/functions")).status == 403
    assert runner.asked == []


# -- asking -----------------------------------------------------------------------------------------------------------


async def test_what_is_known_of_a_function_can_be_asked_but_for_its_secrets(runner: Runner) -> None:
    async with api(runner) as address:
        latest = await call(address, "get_function_configuration", FunctionName="press-alarm")
        second = (await call(address, "get_function", FunctionName="press-alarm", Qualifier="live"))["Configuration"]
    assert (latest["FunctionName"], latest["Version"], latest["Timeout"]) == ("press-alarm", "$LATEST", 7)
    assert latest["FunctionArn"].endswith(":function:press-alarm")
    assert (second["Version"], second["Description"]) == ("2", "Tells")
    assert "secret" not in json.dumps(second, default=str)


async def test_functions_versions_and_aliases_are_listed_page_by_page(runner: Runner) -> None:
    def pages(address: HostPort, operation: str, key: str, **arguments: Any) -> list[Any]:
        with aws("lambda", f"http://{address}") as client:
            found = client.get_paginator(operation).paginate(**arguments, PaginationConfig={"PageSize": 1})
            return [each for page in found for each in page[key]]

    ask_for = partial(asyncio.to_thread, pages)
    async with api(runner) as address:
        functions = await ask_for(address, "list_functions", "Functions")
        everything = await ask_for(address, "list_functions", "Functions", FunctionVersion="ALL")
        versions = await ask_for(address, "list_versions_by_function", "Versions", FunctionName="press-alarm")
        aliases = await ask_for(address, "list_aliases", "Aliases", FunctionName="press-alarm")
        alias = await call(address, "get_alias", FunctionName="press-alarm", Name="live")
        missing = await refusal(address, "get_alias", FunctionName="press-alarm", Name="dead")
    assert [each["FunctionName"] for each in functions] == ["press-alarm", "raw"]
    assert len(everything) == 4 + 2
    assert [each["Version"] for each in versions] == ["$LATEST", "1", "2", "3"]
    assert [(each["Name"], each["FunctionVersion"]) for each in aliases] == [("live", "2")]
    assert alias["AliasArn"].endswith(":function:press-alarm:live")
    assert type(missing).__name__ == "ResourceNotFoundException"
