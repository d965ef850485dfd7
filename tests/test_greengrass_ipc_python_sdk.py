"""Greengrass V1's SDK for Python, as it is on PyPI, in a worker: its calls arrive at the worker's endpoint."""

import asyncio
import json
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core.errors import RequestRefused
from core.http.messages import HttpError
from core.message import Message, Origin
from core.secret_files import SecretFiles
from functions.api import Version
from functions.endpoint import Endpoint, KeyPair, Services
from functions.errors import FunctionNotFound
from functions.invocations import Ending, Invocation, Result
from functions.manifest import Manifest
from functions.names import FunctionName
from tests.fast_workers import RUNTIME, Running, worker

CALLED = Manifest(name="called", version=3, runtime="python3.11", handler="app.handler")
CONTEXT = {"custom": {"subject": "a/b"}}


@dataclass
class Installed:
    manifest: Manifest


class Box:
    """What is behind the endpoint: a broker, shadows and one function, that remember what they were asked."""

    def __init__(self) -> None:
        self.published: list[Message] = []
        self.shadows: dict[str, bytes] = {}
        self.invoked: list[Invocation] = []
        self.result = Result(Ending.SUCCESS, b'{"answer": 42}', "3")
        self.refusal: HttpError | None = None

    async def publish(self, message: Message, origin: Origin) -> None:
        if self.refusal:
            raise self.refusal
        self.published.append(message)

    async def get(self, thing: str, name: str | None) -> bytes:
        if thing not in self.shadows:
            raise RequestRefused(404, f"No shadow exists with name: '{thing}'")
        return self.shadows[thing]

    async def update(self, thing: str, name: str | None, payload: bytes) -> bytes:
        self.shadows[thing] = payload
        return payload

    async def delete(self, thing: str, name: str | None) -> bytes:
        await self.get(thing, name)
        del self.shadows[thing]
        return b'{"version": 1}'

    async def names(self, thing: str) -> list[str]:
        return []

    async def accept(self, name: FunctionName, payload: bytes, client_context: bytes = b"", *, depth: int = 0) -> str:
        self.invoked.append(Invocation("later", name, payload, client_context))
        return "later"

    async def invoke(
        self,
        name: FunctionName,
        payload: bytes,
        client_context: bytes = b"",
        *,
        wants_tail: bool = False,
        depth: int = 0,
    ) -> Result:
        self.invoked.append(Invocation("now", name, payload, client_context))
        return self.result

    def find(self, name: FunctionName) -> Version:
        if name.name != "called":
            raise FunctionNotFound(f"Function not found: {name.arn()}")
        return Installed(CALLED)

    def aliases(self, name: str) -> dict[str, int]:
        return {"$LATEST": 3}

    def versions(self, name: str) -> Sequence[Version]:
        return [Installed(CALLED)]


SECRETS = {"press/token": "opensesame\n", "other/token": "hidden\n"}


@asynccontextmanager
async def handler(code: Path, text: str, box: Box, **more: str) -> AsyncIterator[Running]:
    """A worker whose handler is this text, with an endpoint in front of a box."""
    (code / "app.py").write_text(text)
    for name, value in SECRETS.items():
        (code / "secrets" / name).parent.mkdir(parents=True)
        (code / "secrets" / name).write_text(value)
    manifest = Manifest(name="press", version=7, runtime="python3.11", handler="app.handler")
    keys = KeyPair()
    listening = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    services = Services(box, box, box.publish, box, SecretFiles(code / "secrets"))  # type: ignore[arg-type]
    endpoint = Endpoint(manifest, keys, services)
    await endpoint.open(listening)
    variables = {
        **keys.environment, "AWS_ENDPOINT_URL": address, "PYTHONPATH": f"{code}:{RUNTIME / 'greengrass'}", **more,
    }  # fmt: skip
    try:
        async with worker(code, "app.handler", **variables) as running:
            await running.notes.until("ready")
            yield running
    finally:
        await endpoint.close()


async def result(running: Running, payload: object = None) -> Any:
    kind, answer = await running.call(json.dumps(payload).encode(), json.dumps(CONTEXT).encode())
    assert kind == "done", answer
    return json.loads(answer)


SDK = "import json, greengrasssdk\niot = greengrasssdk.client('iot-data')\nlam = greengrasssdk.client('lambda')\n"


async def test_publish_reaches_the_broker_with_topic_and_payload_as_they_were(tmp_path: Path) -> None:
    box = Box()
    payloads = ["json.dumps({'a': 'é'})", "b'\\x00\\xff'", "bytearray(b'x')", "open(__file__)", "''"]
    calls = "".join(f"    iot.publish(topic=c.client_context.custom['subject'], payload={each})\n" for each in payloads)
    text = f"{SDK}def handler(e, c):\n{calls}    iot.publish(topic='sensors/ü b/%2F?&=', payload='x')\n"
    async with handler(tmp_path, text, box) as running:
        assert await result(running) is None
    assert [message.payload for message in box.published] == [
        b'{"a": "\\u00e9"}', b"\x00\xff", b"x", (tmp_path / "app.py").read_bytes(), b"", b"x",
    ]  # fmt: skip
    assert [message.topic for message in box.published] == ["a/b"] * 5 + ["sensors/ü b/%2F?&="]
    assert {(message.qos, message.client_id) for message in box.published} == {(0, "press")}


@pytest.mark.parametrize(("policy", "status", "raised"), [
    ("AllOrException", 429, True), ("BestEffort", 429, False), ("BestEffort", 403, True), ("AllOrException", 503, True),
])  # fmt: skip
async def test_a_full_queue_is_an_error_only_for_those_who_ask_for_all(
    policy: str, status: int, raised: bool, tmp_path: Path
) -> None:
    box = Box()
    box.refusal = HttpError(status, "Refused", "not now")
    text = (
        f"{SDK}from greengrasssdk.Lambda import InvocationException\n"
        f"def handler(e, c):\n    try:\n        iot.publish(topic='t', payload='x', queueFullPolicy='{policy}')\n"
        "    except InvocationException as error:\n        return str(error)\n"
    )
    async with handler(tmp_path, text, box) as running:
        said = await result(running)
    assert (said is not None) == raised
    if raised:
        assert f"{status} not now" in said


async def test_classic_shadows_are_read_written_and_removed(tmp_path: Path) -> None:
    text = (
        f"{SDK}from greengrasssdk.IoTDataPlane import ShadowError\n"
        "def attempt(call, **about):\n    try:\n        return call(thingName='press 7', **about)['payload'].decode()\n"
        "    except ShadowError as error:\n        return str(error)\n"
        "def handler(e, c):\n"
        "    get, update, delete = iot.get_thing_shadow, iot.update_thing_shadow, iot.delete_thing_shadow\n"
        "    return [attempt(get), attempt(update, payload=json.dumps({'state': 1})), attempt(get),\n"
        "            attempt(delete), attempt(delete)]\n"
    )
    async with handler(tmp_path, text, Box()) as running:
        missing, updated, found, deleted, again = await result(running)
    assert updated == found == '{"state": 1}'
    assert deleted == '{"version": 1}'
    assert missing == again
    assert "404" in missing
    assert "No shadow exists with name: 'press 7'" in missing


async def test_functions_are_invoked_now_or_later(tmp_path: Path) -> None:
    box = Box()
    arn = "arn:aws:lambda:eu-west-1:000000000000:function:called"
    context = b64encode(json.dumps({"custom": {"a": 1}}).encode()).decode()
    text = (
        f"{SDK}def handler(e, c):\n"
        f"    now = lam.invoke(FunctionName='{arn}:3', Payload=json.dumps(e), ClientContext=b'{context}')\n"
        f"    named = lam.invoke(FunctionName='{arn}', Qualifier='live', Payload=b'1')\n"
        f"    later = lam.invoke(FunctionName='{arn}:3', InvocationType='Event', Payload=b'2')\n"
        "    errors = now['FunctionError'] + named['FunctionError']\n"
        "    return [now['Payload'].read().decode(), errors, len(later['Payload'])]\n"
    )
    async with handler(tmp_path, text, box) as running:
        assert await result(running, {"x": 1}) == ['{"answer": 42}', "", 0]
    assert [(each.id, str(each.function), each.payload) for each in box.invoked] == [
        ("now", "called:3", b'{"x": 1}'), ("now", "called:live", b"1"), ("later", "called:3", b"2"),
    ]  # fmt: skip
    assert json.loads(box.invoked[0].client_context) == {"custom": {"a": 1}}


async def test_an_error_of_an_invoked_function_is_told_as_one(tmp_path: Path) -> None:
    box = Box()
    box.result = Result(Ending.ERROR, b'{"errorMessage": "boom"}', "3")
    text = (
        f"{SDK}def handler(e, c):\n    answer = lam.invoke(FunctionName='called', Payload=b'1')\n"
        "    return [answer['FunctionError'], answer['Payload'].decode()]\n"
    )
    async with handler(tmp_path, text, box) as running:
        assert await result(running) == ["Unhandled", '{"errorMessage": "boom"}']


@pytest.mark.parametrize(("name", "error"), [
    ("nobody", "404 Function not found"), ("arn:aws:s3:::bucket", "ValueError"), ("called:1:2", "ValueError"),
])  # fmt: skip
async def test_a_function_that_is_not_there_is_an_exception(name: str, error: str, tmp_path: Path) -> None:
    text = (
        f"{SDK}def handler(e, c):\n    try:\n        lam.invoke(FunctionName='{name}', Payload=b'1')\n"
        "    except Exception as error:\n        return f'{type(error).__name__}: {error}'\n"
    )
    async with handler(tmp_path, text, Box()) as running:
        assert error in await result(running)


async def test_secrets_of_its_own_are_read_and_others_are_not(tmp_path: Path) -> None:
    text = (
        "import greengrasssdk\nfrom greengrasssdk.SecretsManager import SecretsManagerError\n"
        "secrets = greengrasssdk.client('secretsmanager')\n"
        "def handler(e, c):\n    try:\n        return secrets.get_secret_value(SecretId=e)['SecretString']\n"
        "    except SecretsManagerError as error:\n        return str(error)\n"
    )
    async with handler(tmp_path, text, Box()) as running:
        assert await result(running, "press/token") == "opensesame"
        assert "400" in await result(running, "other/token")


async def test_what_is_called_from_threads_forks_and_after_a_silence_arrives_once(tmp_path: Path) -> None:
    box = Box()
    text = (
        f"{SDK}import multiprocessing, threading\n"
        "def say(n): iot.publish(topic='t', payload=str(n))\n"
        "def handler(e, c):\n"
        "    say(0)\n"
        "    threads = [threading.Thread(target=say, args=(n,)) for n in range(1, 9)]\n"
        "    for each in threads: each.start()\n"
        "    for each in threads: each.join()\n"
        "    child = multiprocessing.get_context('fork').Process(target=say, args=(9,))\n"
        "    child.start(); child.join()\n    say(10)\n"
        "    return child.exitcode\n"
    )
    async with handler(tmp_path, text, box) as running:
        assert await result(running) == 0
    assert sorted(int(message.payload) for message in box.published) == list(range(11))


async def test_a_connection_that_was_closed_meanwhile_is_opened_again(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(f"{SDK}def handler(e, c):\n    iot.publish(topic='t', payload=str(e))\n")
    seen: list[bytes] = []

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        seen.append(await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")  # says nothing of closing, and closes
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    path = f"{tmp_path}:{RUNTIME / 'greengrass'}"
    async with server, worker(tmp_path, AWS_ENDPOINT_URL=address, PYTHONPATH=path) as running:
        await running.notes.until("ready")
        for number in range(3):
            assert (await running.call(str(number).encode()))[0] == "done"
    assert seen == [b"0", b"1", b"2"]


async def test_without_an_endpoint_the_error_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(f"{SDK}def handler(e, c):\n    iot.publish(topic='t', payload='x')\n")
    path = f"{tmp_path}:{RUNTIME / 'greengrass'}"
    async with worker(tmp_path, PYTHONPATH=path) as running:
        await running.notes.until("ready")
        kind, answer = await running.call()
        assert kind == "error"
        assert "AWS_ENDPOINT_URL is not set" in json.loads(answer)["errorMessage"]


ARN = "arn:aws:lambda:eu-west-1:123456789012:function:called"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ARN, ["eu-west-1", "123456789012", "called", None, ARN]),
        (f"{ARN}:7", ["eu-west-1", "123456789012", "called", "7", ARN]),
        (f"{ARN}:$LATEST", ["eu-west-1", "123456789012", "called", "$LATEST", ARN]),
        ("arn:aws-cn:lambda:cn-north-1:123456789012:function:called:live",
         ["cn-north-1", "123456789012", "called", "live", "arn:aws-cn:lambda:cn-north-1:123456789012:function:called"]),
        ("arn:aws:lambda:::function:GGRouter", ["", "", "GGRouter", None, "arn:aws:lambda:::function:GGRouter"]),
        ("called:live", ["", "", "called", "live", "called"]),
    ],
)  # fmt: skip
async def test_an_arn_has_the_fields_that_the_sdk_asks_for(text: str, expected: list[object], tmp_path: Path) -> None:
    code = (
        "from greengrass_common.function_arn_fields import FunctionArnFields as F\n"
        "def handler(e, c):\n    f = F(e)\n"
        "    assert F.build_function_arn(f.unqualified_arn, f.qualifier) == e\n"
        "    return [f.region, f.account_id, f.name, f.qualifier, f.unqualified_arn]\n"
    )
    async with handler(tmp_path, code, Box()) as running:
        assert await result(running, text) == expected


async def test_the_environment_is_told_by_the_names_of_greengrass(tmp_path: Path) -> None:
    code = (
        "from greengrass_common import env_vars as v\n"
        "def handler(e, c):\n    return [v.MY_FUNCTION_ARN, v.ROUTER_FUNCTION_ARN, v.SHADOW_FUNCTION_ARN,\n"
        "        v.SECRETS_MANAGER_FUNCTION_ARN, v.AUTH_TOKEN]\n"
    )
    async with handler(tmp_path, code, Box()) as running:
        mine, *others, token = await result(running)
    assert mine == "arn:aws:lambda:eu-west-1:000000000000:function:press"
    assert len(set(others)) == 3
    assert token is None
