"""What a worker can ask for on its own socket: with its own keys, in its own name, and nothing with any others."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from core.config import HostPort
from core.message import Message, Origin
from core.secret_files import SecretFiles
from functions.endpoint import Endpoint, KeyPair, Services
from functions.manifest import Manifest
from functions.packages.library import Library
from tests.aws_clients import aws
from tests.http_clients import ask
from tests.test_functions_api import Runner, deploy

KEYS = KeyPair()


class House:
    """A machine with some functions and secrets."""

    def __init__(self, directory: Path) -> None:
        library = Library(directory / "functions")
        deploy(library, directory / "code", "press-alarm")
        deploy(library, directory / "code", "siren")
        secrets = directory / "secrets"
        for name in ("db/password", "press-alarm/token", "siren/token", "binary"):
            (secrets / name).parent.mkdir(parents=True, exist_ok=True)
            (secrets / name).write_bytes(b"\xff" if name == "binary" else f"{name} it is\n".encode())
        self.runner = Runner(library)
        self.published: list[Message] = []
        self.origins: list[Origin] = []
        self.services = Services(self.runner, library, self.publish, None, SecretFiles(secrets))

    async def publish(self, message: Message, origin: Origin) -> None:
        self.published.append(message)
        self.origins.append(origin)

    @asynccontextmanager
    async def endpoint(self, keys: KeyPair = KEYS) -> AsyncIterator[HostPort]:
        """That of a worker of press-alarm, on a socket that somebody else made."""
        variables = {"DB_PASSWORD": "db/password", "BINARY": "binary"}
        manifest = Manifest(
            name="press-alarm", version=1, runtime="python3.11", handler="a.b", environment_secrets=variables
        )
        endpoint = Endpoint(manifest, keys, self.services, lambda: 5)
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        address = HostPort(*listening.getsockname())
        await endpoint.open(listening)
        try:
            yield address
        finally:
            await endpoint.close()


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def call(address: HostPort, service: str, operation: str, keys: KeyPair = KEYS, **arguments: Any) -> Any:
    def run() -> Any:
        with aws(service, f"http://{address}", keys.key_id, keys.secret) as client:
            return getattr(client, operation)(**arguments)

    return await asyncio.to_thread(run)


async def refusal(address: HostPort, service: str, operation: str, keys: KeyPair = KEYS, **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        await call(address, service, operation, keys, **arguments)
    return str(caught.value.response["Error"]["Code"])


async def test_a_function_publishes_in_its_own_name(house: House) -> None:
    async with house.endpoint() as address:
        await call(address, "iot-data", "publish", topic="alarms/press", payload=b"hot", qos=1)
    (message,), (origin,) = house.published, house.origins
    assert (message.topic, message.payload, message.client_id) == ("alarms/press", b"hot", "press-alarm")
    assert (origin.principal, origin.protocol) == ("press-alarm", "http")


async def test_a_function_invokes_another(house: House) -> None:
    async with house.endpoint() as address:
        answer = await call(address, "lambda", "invoke", FunctionName="siren", Payload=b'{"on": true}')
        assert json.loads(await asyncio.to_thread(answer["Payload"].read)) == {"alarm": True}
        await call(address, "lambda", "invoke", FunctionName="siren", InvocationType="Event")
    assert [how for how, *_ in house.runner.asked] == ["invoke", "accept"]
    assert house.runner.depths == [6, 6], "one more than the event in hand, so that a loop of functions ends"


async def test_a_function_reads_its_own_secrets_and_no_others(house: House) -> None:
    async with house.endpoint() as address:

        async def secret(name: str) -> Any:
            return await call(address, "secretsmanager", "get_secret_value", SecretId=name)

        async def refused(name: str) -> str:
            return await refusal(address, "secretsmanager", "get_secret_value", SecretId=name)

        answer = await secret("db/password")
        assert (answer["Name"], answer["SecretString"]) == ("db/password", "db/password it is")
        assert (await secret("press-alarm/token"))["SecretString"] == "press-alarm/token it is"
        assert (await secret("binary"))["SecretBinary"] == b"\xff"
        arn = "arn:aws:secretsmanager:eu-west-1:000000000000:secret:db/password"
        for each in (arn, f"{arn}-a1B2c3"):
            assert (await secret(each))["SecretString"] == "db/password it is"
        assert await refused("siren/token") == "AccessDeniedException"
        assert await refused(arn.replace("db/password", "siren/token")) == "AccessDeniedException"
        assert await refused("press-alarm/../siren/token") == "ResourceNotFoundException"
        assert await refused("press-alarm/absent") == "ResourceNotFoundException"
        assert await refusal(address, "secretsmanager", "list_secrets") == "UnknownOperationException"


async def test_no_key_but_the_workers_own_opens_its_endpoint(house: House) -> None:
    others = [KeyPair(), KeyPair(KEYS.key_id, KeyPair().secret), KeyPair(KeyPair().key_id, KEYS.secret)]
    async with house.endpoint() as address:
        for keys in others:
            code = await refusal(address, "iot-data", "publish", keys, topic="a", payload=b"x")
            assert code in {"UnrecognizedClientException", "InvalidSignatureException"}
        assert (await ask(address, "POST", "/topics/a", b"x")).status == 403
        assert (await ask(address, "POST", "/topics/a", b"x", {"Authorization": "Bearer x"})).status == 401
    assert house.published == []


def test_every_worker_has_keys_of_its_own_that_no_log_shows() -> None:
    first, second = KeyPair(), KeyPair()
    assert first.key_id != second.key_id
    assert first.secret != second.secret
    assert first.secret not in repr(first)
    assert first.environment == {"AWS_ACCESS_KEY_ID": first.key_id, "AWS_SECRET_ACCESS_KEY": first.secret}


async def test_without_a_directory_of_secrets_there_are_none(house: House) -> None:
    house.services = Services(house.runner, house.runner.library, house.publish)
    async with house.endpoint() as address:
        code = await refusal(address, "secretsmanager", "get_secret_value", SecretId="db/password")
    assert code == "ResourceNotFoundException"
