"""The Runtime API gives a runtime its events and takes its answers as Lambda does, for clients that nobody changed."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from functions.invocations import EVENT_BYTES_MAX, Invocation
from functions.names import FunctionName
from functions.workers import runtime_api
from tests.runtime_workers import CLOCK, PATH, Runtime, channel, read_response, runtime

ARN = "arn:aws:lambda:us-east-1:000000000000:function:press:7"
OK = b'{"status":"OK"}'


@pytest.fixture
async def api() -> AsyncIterator[Runtime]:
    async with channel() as running:
        yield running


async def take(api: Runtime, payload: bytes = b"{}") -> str:
    """Have an event in hand."""
    asked = asyncio.create_task(api.request("GET", "invocation/next"))
    await api.notes.until("ready")
    request_id = api.send(payload)
    assert (await asked)[2] == payload
    return request_id


def error_type(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, str]:
    document = json.loads(answer[2])
    assert isinstance(document["errorMessage"], str)
    return answer[0], document["errorType"]


async def test_the_first_request_for_an_event_says_that_the_handler_is_loaded(api: Runtime) -> None:
    assert api.notes.told == []
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(api.request("GET", "invocation/next"))
        await api.notes.until("ready")
        assert not asked.done()
        api.send(b'{"pressure": 7}')
    status, headers, body = asked.result()
    assert (status, body, headers["content-type"]) == (200, b'{"pressure": 7}', "application/json")


async def test_an_event_comes_with_everything_that_the_context_is_made_of(api: Runtime) -> None:
    asked = asyncio.create_task(api.request("GET", "invocation/next"))
    await api.notes.until("ready")
    request_id = api.send(client_context='{\n "custom": {"subject": "höhe/1"}}'.encode(), trace_id="Root=1-2-3")
    headers = (await asked)[1]
    assert headers["lambda-runtime-aws-request-id"] == request_id
    assert headers["lambda-runtime-deadline-ms"] == str(int(CLOCK * 1_000) + 3_000)
    assert headers["lambda-runtime-invoked-function-arn"] == ARN
    assert headers["lambda-runtime-trace-id"] == "Root=1-2-3"
    assert json.loads(headers["lambda-runtime-client-context"]) == {"custom": {"subject": "höhe/1"}}


async def test_without_a_client_context_there_is_no_header_of_it_and_always_a_trace(api: Runtime) -> None:
    asked = asyncio.create_task(api.request("GET", "invocation/next"))
    await api.notes.until("ready")
    api.send(client_context=b"no json", enqueued_ms=1_700_000_000_000)
    headers = (await asked)[1]
    assert "lambda-runtime-client-context" not in headers
    assert headers["lambda-runtime-trace-id"] == "Root=1-6553f100-000000000000400080000000;Sampled=0"


async def test_binary_events_are_not_called_json() -> None:
    async with channel(encoding="binary") as api:
        asked = asyncio.create_task(api.request("GET", "invocation/next"))
        await api.notes.until("ready")
        api.send(b"\x00\xff")
        _, headers, body = await asked
        assert (headers["content-type"], body) == ("application/octet-stream", b"\x00\xff")


async def test_a_result_is_any_bytes(api: Runtime) -> None:
    request_id = await take(api)
    status, headers, body = await api.request("POST", f"invocation/{request_id}/response", b"\xff no json")
    assert (status, headers["content-type"], body) == (202, "application/json", OK)
    assert api.notes.told[-1] == ("done", request_id, b"\xff no json")


async def test_an_event_that_comes_before_it_is_asked_for_waits(api: Runtime) -> None:
    request_id = await take(api)
    await api.request("POST", f"invocation/{request_id}/response", b"1")
    second = api.send(b'"second"')
    assert (await api.request("GET", "invocation/next"))[1]["lambda-runtime-aws-request-id"] == second


async def test_an_error_is_lambdas_error_object_as_the_runtime_wrote_it(api: Runtime) -> None:
    request_id = await take(api)
    body = b'{"errorMessage": "no", "errorType": "Valve", "stackTrace": []}'
    assert (await api.request("POST", f"invocation/{request_id}/error", body))[0] == 202
    assert api.notes.told[-1] == ("error", request_id, body)


@pytest.mark.parametrize(
    ("body", "headers", "made"),
    [
        (
            b"",
            {"lambda-runtime-function-error-type": "Shell.Failed"},
            {"errorType": "Shell.Failed", "errorMessage": ""},
        ),
        (b"", {}, {"errorType": "Runtime.Unknown", "errorMessage": ""}),
        (b"it broke", {}, {"errorType": "Runtime.Unknown", "errorMessage": "it broke"}),
        (b'"text"', {}, {"errorType": "Runtime.Unknown", "errorMessage": '"text"'}),
    ],
)
async def test_an_error_in_other_words_becomes_an_error_object(
    api: Runtime, body: bytes, headers: dict[str, str], made: dict[str, str]
) -> None:
    request_id = await take(api)
    assert (await api.request("POST", f"invocation/{request_id}/error", body, headers))[0] == 202
    kind, _, payload = api.notes.told[-1]
    assert (kind, json.loads(payload)) == ("error", made)  # type: ignore[arg-type]


async def test_an_error_of_init_is_told_and_nothing_can_follow(api: Runtime) -> None:
    body = b'{"errorMessage": "no module", "errorType": "Runtime.ImportModuleError"}'
    assert (await api.request("POST", "init/error", body))[0] == 202
    assert api.notes.told == [("init_failed", body)]
    assert error_type(await api.request("GET", "invocation/next")) == (403, "InvalidStateTransition")
    assert error_type(await api.request("POST", "init/error", body)) == (403, "InvalidStateTransition")
    assert api.notes.told == [("init_failed", body)]


async def test_after_the_first_request_for_an_event_there_is_no_error_of_init(api: Runtime) -> None:
    await take(api)
    assert error_type(await api.request("POST", "init/error", b"{}")) == (403, "InvalidStateTransition")


@pytest.mark.parametrize("end", ["response", "error"])
async def test_only_the_event_in_hand_can_be_answered(api: Runtime, end: str) -> None:
    other = f"invocation/00000000-0000-4000-8000-000000000009/{end}"
    assert error_type(await api.request("POST", other, b"1")) == (400, "InvalidRequestID")
    request_id = await take(api)
    assert error_type(await api.request("POST", other, b"1")) == (400, "InvalidRequestID")
    assert error_type(await api.request("POST", f"invocation//{end}", b"1")) == (400, "InvalidRequestID")
    assert (await api.request("POST", f"invocation/{request_id}/{end}", b"1"))[0] == 202


@pytest.mark.parametrize("end", ["response", "error"])
async def test_an_event_is_answered_once(api: Runtime, end: str) -> None:
    request_id = await take(api)
    await api.request("POST", f"invocation/{request_id}/response", b"1")
    again = await api.request("POST", f"invocation/{request_id}/{end}", b"2")
    assert error_type(again) == (403, "InvalidStateTransition")
    assert len(api.notes.news("done", "error")) == 1


async def test_a_result_beyond_the_limit_fails_by_its_name(api: Runtime) -> None:
    request_id = await take(api)
    answer = await api.request("POST", f"invocation/{request_id}/response", b"x" * (EVENT_BYTES_MAX + 1))
    assert error_type(answer) == (413, "RequestEntityTooLarge")
    kind, _, payload = api.notes.told[-1]
    assert (kind, json.loads(payload)["errorType"]) == ("error", "Function.ResponseSizeTooLarge")  # type: ignore[arg-type]
    second = api.send()
    assert (await api.request("GET", "invocation/next"))[1]["lambda-runtime-aws-request-id"] == second


async def test_a_result_at_the_limit_is_a_result(api: Runtime) -> None:
    request_id = await take(api)
    body = b"x" * EVENT_BYTES_MAX
    assert (await api.request("POST", f"invocation/{request_id}/response", body))[0] == 202
    assert api.notes.told[-1] == ("done", request_id, body)


async def test_a_streamed_result_is_put_together(api: Runtime) -> None:
    request_id = await take(api)
    headers = {
        "transfer-encoding": "chunked", "lambda-runtime-function-response-mode": "streaming",
        "trailer": "Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body",
    }  # fmt: skip
    pieces = b"3\r\nabc\r\n2\r\nde\r\n0\r\nLambda-Runtime-Function-Error-Type: \r\n\r\n"
    assert (await api.raw("POST", f"{PATH}invocation/{request_id}/response", pieces, headers))[0] == 202
    assert api.notes.told[-1] == ("done", request_id, b"abcde")


async def test_an_unknown_response_mode_fails_the_event(api: Runtime) -> None:
    request_id = await take(api)
    headers = {"lambda-runtime-function-response-mode": "telepathy"}
    answer = await api.request("POST", f"invocation/{request_id}/response", b"1", headers)
    assert error_type(answer) == (400, "InvalidFunctionResponseMode")
    assert json.loads(api.notes.told[-1][2])["errorType"] == "Runtime.InvalidResponseModeHeader"  # type: ignore[arg-type]


async def test_an_event_whose_connection_broke_is_given_again(api: Runtime) -> None:
    first = asyncio.create_task(api.request("GET", "invocation/next"))
    await api.notes.until("ready")
    request_id = api.send(b'"once"')
    await first
    again = await api.request("GET", "invocation/next")
    assert (again[1]["lambda-runtime-aws-request-id"], again[2]) == (request_id, b'"once"')


async def test_a_runtime_that_never_answers_does_not_go_round_for_ever(api: Runtime) -> None:
    request_id = await take(api)
    for _ in range(runtime_api.DELIVERIES_MAX - 1):
        assert (await api.request("GET", "invocation/next"))[1]["lambda-runtime-aws-request-id"] == request_id
    waiting = asyncio.create_task(api.request("GET", "invocation/next"))
    _, failed, payload = (await api.notes.until("error"))[0]
    assert (failed, json.loads(payload)["errorType"]) == (request_id, "Runtime.NoResponse")  # type: ignore[arg-type]
    second = api.send()
    assert (await waiting)[1]["lambda-runtime-aws-request-id"] == second


async def test_a_runtime_that_went_away_while_it_waited_takes_no_event_with_it(api: Runtime) -> None:
    _, writer = await asyncio.open_connection(api.host, api.port)
    writer.write(f"GET {PATH}invocation/next HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    await api.notes.until("ready")
    writer.close()
    request_id = api.send()
    assert (await api.request("GET", "invocation/next"))[1]["lambda-runtime-aws-request-id"] == request_id


async def test_one_connection_serves_for_everything(api: Runtime) -> None:
    reader, writer = await asyncio.open_connection(api.host, api.port)
    for number in range(3):
        writer.write(f"GET {PATH}invocation/next HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        await api.notes.until("ready")
        request_id = api.send(b"%d" % number)
        assert (await read_response(reader))[2] == b"%d" % number
        writer.write(f"POST {PATH}invocation/{request_id}/response HTTP/1.1\r\nhost: x\r\n".encode())
        writer.write(b"content-length: 1\r\n\r\n%d" % number)
        assert (await read_response(reader))[0] == 202
    assert [news[2] for news in api.notes.news("done")] == [b"0", b"1", b"2"]
    writer.close()


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", f"{PATH}invocation/next"),
        ("GET", f"{PATH}init/error"),
        ("GET", f"{PATH}restore/next"),
        ("POST", "/2020-01-01/extension/register"),
        ("GET", "/"),
        ("GET", f"{PATH}invocation/next/"),
    ],
)
async def test_what_is_not_in_the_api_is_not_found(api: Runtime, method: str, target: str) -> None:
    assert error_type(await api.raw(method, target, b"", {"content-length": "0"})) == (404, "NotFound")
    assert api.notes.told == []


async def test_closing_tells_a_runtime_that_waits(api: Runtime) -> None:
    asked = asyncio.create_task(api.request("GET", "invocation/next"))
    await api.notes.until("ready")
    api.channel.close()
    assert (await asked)[0] == 503
    assert (await api.notes.until("closed"))[0][0] == "closed"


async def test_nothing_can_be_sent_beyond_the_capacity(api: Runtime) -> None:
    work = [Invocation("1", FunctionName("press"), b"{}"), Invocation("2", FunctionName("press"), b"{}")]
    with pytest.raises(ValueError, match="Started"):
        api.channel.send(work[:1])
    await take(api)
    with pytest.raises(ValueError, match="Ready"):
        api.channel.send(work[:1])
    assert api.channel.capacity == 1


# Clients that nobody changed.


PYTHON_HANDLER = """
import os
count = 0

def handler(event, context):
    global count
    count += 1
    if event == "fail":
        raise KeyError("pressure")
    print("seen", event)
    return {
        "event": event, "count": count, "id": context.aws_request_id, "arn": context.invoked_function_arn,
        "subject": context.client_context.custom["subject"], "left": context.get_remaining_time_in_millis() > 800_000,
        "trace": os.environ["_X_AMZN_TRACE_ID"], "memory": context.memory_limit_in_mb,
    }
"""
SUBJECT = b'{"custom": {"subject": "h\xc3\xb6he"}}'
AWS_CLIENT = [sys.executable, "-m", "awslambdaric"]


async def test_awslambdaric_runs_a_python_handler(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PYTHON_HANDLER)
    async with runtime(tmp_path, [*AWS_CLIENT, "app.handler"]) as running:
        for count in (1, 2):
            kind, payload = await running.call(b'{"k": 1}', client_context=SUBJECT, trace_id="Root=1-2-3")
            assert (kind, json.loads(payload)) == (
                "done",
                {
                    "event": {"k": 1}, "count": count, "id": f"00000000-0000-4000-8000-{count:012}", "arn": ARN,
                    "subject": "höhe", "left": True, "trace": "Root=1-2-3", "memory": "128",
                },
            )  # fmt: skip
        kind, payload = await running.call(b'"fail"', client_context=SUBJECT)
        failure = json.loads(payload)
        assert (kind, failure["errorType"], failure["errorMessage"]) == ("error", "KeyError", "'pressure'")
        assert (await running.call(b"3", client_context=SUBJECT))[0] == "done"


async def test_awslambdaric_says_why_a_handler_cannot_be_loaded(tmp_path: Path) -> None:
    async with runtime(tmp_path, [*AWS_CLIENT, "missing.handler"]) as running:
        error = json.loads((await running.notes.until("init_failed"))[0][1])  # type: ignore[arg-type]
        assert error["errorType"] == "Runtime.ImportModuleError"


async def test_awslambdaric_gives_a_handler_bytes_when_events_are_binary(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("def handler(event, context):\n    return event.hex()\n")
    async with runtime(tmp_path, [*AWS_CLIENT, "app.handler"], encoding="binary") as running:
        assert await running.call(b"\x00\xff") == ("done", b'"00ff"')


BOOTSTRAP = """#!/bin/sh
set -eu
api="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime"
while true; do
    event=$(curl -sS -D headers "$api/invocation/next")
    id=$(grep -i '^lambda-runtime-aws-request-id:' headers | tr -d '\\r' | cut -d' ' -f2)
    case $event in
        *fail*) curl -sS -H 'Lambda-Runtime-Function-Error-Type: Shell.Failed' -d '' "$api/invocation/$id/error" ;;
        *) printf '{"handler":"%s","event":%s}' "$_HANDLER" "$event" |
            curl -sS --data-binary @- "$api/invocation/$id/response" ;;
    esac > /dev/null
done
"""


async def test_a_shell_script_with_curl_is_a_runtime(tmp_path: Path) -> None:
    assert shutil.which("curl")
    bootstrap = tmp_path / "bootstrap"
    bootstrap.write_text(BOOTSTRAP)
    bootstrap.chmod(0o755)
    async with runtime(tmp_path, [bootstrap], "shell.main") as running:
        assert await running.call(b'{"k":1}') == ("done", b'{"handler":"shell.main","event":{"k":1}}')
        kind, payload = await running.call(b'"fail"')
        assert (kind, json.loads(payload)) == ("error", {"errorType": "Shell.Failed", "errorMessage": ""})
        large = b'"' + b"x" * 100_000 + b'"'
        assert json.loads((await running.call(large))[1])["event"] == json.loads(large)
