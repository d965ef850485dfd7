"""iot-data over HTTP, spoken by boto3: every option of Publish, and shadows from a real shadow service."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.response import StreamingBody

from core.config import HostPort
from core.http.entrance import LOCAL, Caller, Kind
from core.http.iotdata import PAYLOAD_BYTES_MAX, IotData, Shadows
from core.http.messages import HttpError, Request, Response
from core.http.routes import Routes
from core.message import Message, Origin, Properties
from core.store import Store
from edge import shadows as edge_shadows
from tests.aws_clients import aws
from tests.http_clients import Answer, ask, serving

AT = 1_700_000_000_000


class Site:
    """One side: writes down what is published, and has shadows if it is given some."""

    def __init__(self, caller: Caller = LOCAL, shadows: Shadows | None = None) -> None:
        self.caller = caller
        self.shadows = shadows
        self.published: list[Message] = []
        self.origins: list[Origin] = []
        self.fault: HttpError | None = None

    async def publish(self, message: Message, origin: Origin) -> None:
        if self.fault is not None:
            raise self.fault
        self.published.append(message)
        self.origins.append(origin)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[HostPort]:
        routes = Routes()
        IotData(self.publish, self.shadows, lambda: AT).add_to(routes)

        async def answer(request: Request) -> Response:
            return await routes.answer(self.caller, request)

        async with serving(answer) as (_, address):
            yield address


async def call(address: HostPort, operation: str, **arguments: Any) -> Any:
    def run() -> Any:
        with aws("iot-data", f"http://{address}") as client:
            answer = getattr(client, operation)(**arguments)
            return {k: v.read() if isinstance(v, StreamingBody) else v for k, v in answer.items()}

    return await asyncio.to_thread(run)


async def refusal(address: HostPort, operation: str, **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        await call(address, operation, **arguments)
    return type(caught.value).__name__


class Policy:
    """Allows what it is told to."""

    def __init__(self, *allowed: str) -> None:
        self.allowed = allowed

    def publish(self, topic: str, *, retain: bool) -> bool:
        return f"{'retain' if retain else 'publish'} {topic}" in self.allowed

    def allows(self, action: str, resource: str) -> bool:
        return f"{action} {resource}" in self.allowed


# -- publishing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "topic", ["plant/line 1/press", "a", "é/€", "/leading/and/trailing/", "a//b", "%2F", "$aws/rules/Overheat/x", "a?b"]
)
async def test_any_topic_arrives_as_it_was_said(topic: str) -> None:
    site = Site()
    async with site.serving() as address:
        await call(address, "publish", topic=topic, payload=b"\x00\xff")
    assert site.published == [Message(topic, b"\x00\xff", 0, received_at=AT)]


USER_PROPERTIES = [{"deviceName": "alpha"}, {"deviceName": "é"}]


@pytest.mark.parametrize("user_properties", [USER_PROPERTIES, json.dumps(USER_PROPERTIES)])
async def test_everything_that_mqtt_5_lets_a_publisher_say_is_said(user_properties: Any) -> None:
    site = Site()
    async with site.serving() as address:
        await call(
            address,
            "publish",
            topic="plant/a",
            qos=1,
            retain=True,
            payload=b"{}",
            contentType="application/json; charset=utf-8",
            responseTopic="answers/é",
            messageExpiry=60,
            payloadFormatIndicator="UTF8_DATA",
            correlationData=b64encode(b"\x01\x02").decode(),
            userProperties=user_properties,
        )
    (message,) = site.published
    assert (message.qos, message.retain) == (1, True)
    assert message.properties == Properties(
        1, 60, "application/json; charset=utf-8", "answers/é", b"\x01\x02",
        (("deviceName", "alpha"), ("deviceName", "é")),
    )  # fmt: skip


async def test_a_path_that_was_not_encoded_is_a_topic_too() -> None:
    site = Site()
    async with site.serving() as address:
        assert (await ask(address, "POST", "/topics/plant/a?qos=1", b"1")).json == {"message": "OK"}
    assert site.published == [Message("plant/a", b"1", 1, received_at=AT)]


async def test_the_origin_says_who_published() -> None:
    for caller, client_id in [
        (Caller(Kind.KEY, "operator"), ""),
        (Caller(Kind.FUNCTION, "press-alarm"), "press-alarm"),
        (LOCAL, ""),
    ]:
        site = Site(caller)
        async with site.serving() as address:
            await ask(address, "POST", "/topics/a", b"1")
        assert (site.published[0].client_id, site.origins[0].protocol) == (client_id, "http")
        assert site.origins[0].principal == caller.name


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        ("/topics/a?qos=2", {}, 400),
        ("/topics/a?qos=", {}, 400),
        ("/topics/a?retain=yes", {}, 400),
        ("/topics/a%23", {}, 400),
        ("/topics/a%00", {}, 400),
        ("/topics/" + "a%2F" * 200, {}, 400),
        ("/topics/%24SYS%2Fuptime", {}, 403),
        ("/topics/%24tidegate%2Fframes%2Fa%2Fb", {}, 403),
        ("/topics/%24aws%2Fthings%2Fa%2Fshadow%2Fupdate", {}, 403),
        ("/topics/%24share%2Fa", {}, 403),
        ("/topics/a?messageExpiry=-1", {}, 400),
        ("/topics/a?messageExpiry=4294967296", {}, 400),
        ("/topics/a?messageExpiry=1e3", {}, 400),
        ("/topics/a?responseTopic=a%2F%23", {}, 400),
        ("/topics/a", {"x-amz-mqtt5-payload-format-indicator": "JSON"}, 400),
        ("/topics/a", {"x-amz-mqtt5-correlation-data": "***"}, 400),
        ("/topics/a", {"x-amz-mqtt5-user-properties": "***"}, 400),
        ("/topics/a", {"x-amz-mqtt5-user-properties": b64encode(b"{").decode()}, 400),
        ("/topics/a", {"x-amz-mqtt5-user-properties": b64encode(b'{"a": "b"}').decode()}, 400),
        ("/topics/a", {"x-amz-mqtt5-user-properties": b64encode(b'[{"a": 1}]').decode()}, 400),
        ("/topics/a", {"x-amz-mqtt5-user-properties": b64encode(b"[1]").decode()}, 400),
        ("/topics/a", {"x-amz-mqtt5-user-properties": b64encode(b"[" + b"{}," * 100 + b"{}]").decode()}, 400),
    ],
)
async def test_what_cannot_be_published_is_refused_with_the_reason(
    target: str, headers: dict[str, str], status: int
) -> None:
    site = Site()
    async with site.serving() as address:
        answer: Answer = await ask(address, "POST", target, b"1", headers)
    assert answer.status == status
    assert answer.json["message"]
    assert site.published == []


async def test_the_largest_payload_is_taken_and_one_byte_more_is_not() -> None:
    site = Site()
    async with site.serving() as address:
        await call(address, "publish", topic="a", payload=b"x" * PAYLOAD_BYTES_MAX)
        with pytest.raises(ClientError, match="131,072"):
            await call(address, "publish", topic="a", payload=b"x" * (PAYLOAD_BYTES_MAX + 1))
    assert len(site.published) == 1


async def test_a_message_that_is_not_kept_is_an_error_that_boto3_knows() -> None:
    site = Site()
    site.fault = HttpError(429, "ThrottlingException", "lane full")
    async with site.serving() as address:
        assert await refusal(address, "publish", topic="a", qos=1) == "ThrottlingException"


async def test_a_device_publishes_what_its_policies_allow() -> None:
    site = Site(Caller(Kind.CERTIFICATE, "c", grant=Policy("publish plant/a", "retain plant/b")))
    async with site.serving() as address:
        await call(address, "publish", topic="plant/a")
        await call(address, "publish", topic="plant/b", retain=True)
        for topic, retain in [("plant/b", False), ("plant/a", True), ("plant/c", False)]:
            assert await refusal(address, "publish", topic=topic, retain=retain) == "ForbiddenException"
    assert [message.topic for message in site.published] == ["plant/a", "plant/b"]


# -- shadows ----------------------------------------------------------------------------------------------------------


async def test_shadows_are_read_changed_listed_and_deleted(tmp_path: Path) -> None:
    store = Store(tmp_path / "shadows.db", edge_shadows.SCHEMA)
    site = Site(shadows=edge_shadows.Shadows(store, lambda _: None))
    async with site.serving() as address:
        update = json.dumps({"state": {"desired": {"on": True}}})
        answer = json.loads((await call(address, "update_thing_shadow", thingName="pump", payload=update))["payload"])
        assert answer["version"] == 1
        await call(address, "update_thing_shadow", thingName="pump", shadowName="config", payload=update)
        document = json.loads((await call(address, "get_thing_shadow", thingName="pump"))["payload"])
        assert document["state"]["desired"] == {"on": True}
        assert (await call(address, "list_named_shadows_for_thing", thingName="pump"))["results"] == ["config"]
        await call(address, "delete_thing_shadow", thingName="pump", shadowName="config")
        assert (await call(address, "list_named_shadows_for_thing", thingName="pump"))["results"] == []
        for arguments, code in [
            ({"thingName": "pump", "shadowName": "config"}, "ResourceNotFoundException"),
            ({"thingName": "nobody"}, "ResourceNotFoundException"),
            ({"thingName": "no body"}, "InvalidRequestException"),
        ]:
            assert await refusal(address, "get_thing_shadow", **arguments) == code
        stale = json.dumps({"state": {"desired": {"on": False}}, "version": 7})
        assert await refusal(address, "update_thing_shadow", thingName="pump", payload=stale) == "ConflictException"
        broken = await refusal(address, "update_thing_shadow", thingName="pump", payload=b"{")
        assert broken == "InvalidRequestException"
        large = json.dumps({"state": {"desired": {"x": "y" * 9_000}}})
        large = await refusal(address, "update_thing_shadow", thingName="pump", payload=large)
        assert large == "RequestEntityTooLargeException"
    await store.close()


async def test_a_device_sees_the_shadows_that_its_policies_allow(tmp_path: Path) -> None:
    store = Store(tmp_path / "shadows.db", edge_shadows.SCHEMA)
    grant = Policy("iot:UpdateThingShadow thing/pump", "iot:GetThingShadow thing/pump/config")
    site = Site(Caller(Kind.CERTIFICATE, "c", grant=grant), edge_shadows.Shadows(store, lambda _: None))
    async with site.serving() as address:
        await call(address, "update_thing_shadow", thingName="pump", payload=b'{"state": {"reported": {"v": 1}}}')
        assert await refusal(address, "get_thing_shadow", thingName="pump") == "ForbiddenException"
        absent = await refusal(address, "get_thing_shadow", thingName="pump", shadowName="config")
        assert absent == "ResourceNotFoundException"
        assert await refusal(address, "delete_thing_shadow", thingName="pump") == "ForbiddenException"
    await store.close()


async def test_a_side_without_shadows_says_so() -> None:
    async with Site().serving() as address:
        answer = await ask(address, "GET", "/things/pump/shadow")
    assert (answer.status, "no shadow service" in answer.json["message"]) == (501, True)
