"""Handlers of Greengrass V1 on a real edge, with greengrasssdk 1.6.1 as it is on PyPI."""

import json
from collections.abc import Iterator
from pathlib import Path

import greengrasssdk
import pytest

from tests.functions_boxes import Box, running
from tests.site import wait_until

pytestmark = pytest.mark.processes

HANDLER = """
import json
import logging

import greengrasssdk

iot = greengrasssdk.client("iot-data")
functions = greengrasssdk.client("lambda")
secrets = greengrasssdk.client("secretsmanager")
started = []
logging.getLogger().setLevel(logging.INFO)


def shadow(event, context):
    changed = iot.update_thing_shadow(thingName="press", payload=json.dumps({"state": {"reported": event}}))
    found = iot.get_thing_shadow(thingName="press")
    gone = iot.delete_thing_shadow(thingName="press")
    try:
        iot.get_thing_shadow(thingName="press")
        missing = "nothing"
    except Exception as error:
        missing = type(error).__name__
    documents = [json.loads(answer["payload"]) for answer in (changed, found, gone)]
    return [documents[0]["state"], documents[1]["state"]["reported"], sorted(documents[2]), missing]


def invoke(event, context):
    answer = functions.invoke(FunctionName="helper:live", Payload=json.dumps(event))
    failed = functions.invoke(FunctionName="helper:live", Payload=json.dumps("fail"))
    functions.invoke(FunctionName="helper:live", InvocationType="Event", Payload=json.dumps("later"))
    return [json.loads(answer["Payload"].read()), answer["FunctionError"], failed["FunctionError"]]


def secret(event, context):
    return secrets.get_secret_value(SecretId="v1/token")["SecretString"]


def function_handler(event, context):
    started.append(event)
    subject = context.client_context.custom["subject"]
    call = {"shadow": shadow, "invoke": invoke, "secret": secret}.get(subject.rpartition("/")[2])
    answer = call(event, context) if call else len(started)
    logging.info("heard %s", subject)
    iot.publish(topic="v1/told", queueFullPolicy="AllOrException", payload=json.dumps([subject, answer]))
"""
HELPER = """
import greengrasssdk

iot = greengrasssdk.client("iot-data")


def handler(event, context):
    if event == "fail":
        raise ValueError("as asked")
    if event == "later":
        iot.publish(topic="v1/later", payload=context.function_version)
    return {"helped": event}
"""
BINARY = """
import greengrasssdk

iot = greengrasssdk.client("iot-data")


def function_handler(event, context):
    assert type(event) is bytes
    iot.publish(topic="v1/reversed", payload=event[::-1])
"""
TEMPLATE = """
AWSTemplateFormatVersion: "2010-09-09"
Transform: AWS::Serverless-2016-10-31
Resources:
  Counter:
    Type: AWS::Serverless::Function
    Metadata: { Tidegate: { Pinned: true, Topics: [deployed/+] } }
    Properties: { FunctionName: counter, Handler: app.function_handler, Runtime: python3.12, CodeUri: code/v1 }
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with running(tmp_path_factory.mktemp("box")) as box:
        (box.directory / "secrets" / "v1").mkdir()
        (box.directory / "secrets" / "v1" / "token").write_text("sesame")
        box.deploy("helper", HELPER, "greengrasssdk", alias="live")
        box.deploy(
            "v1", HANDLER, "greengrasssdk", handler="app.function_handler", pinned=True, topics=("v1/ask/#",), retries=0
        )
        yield box


def tell(box: Box, topic: str, event: object) -> object:
    """What a long-lived handler makes of a message that it subscribed to."""
    with box.wire("device", "v1/told") as wire:
        wire.publish(topic, json.dumps(event).encode())
        [told] = wire.exactly(1)
    subject, answer = json.loads(told.payload)
    assert subject == topic
    return answer


def wait_for_worker(box: Box) -> list[int]:
    wait_until(lambda: any(pool["ready"] for pool in box.pools("v1")))
    return box.workers()


def test_the_sdk_is_the_one_on_pypi() -> None:
    assert greengrasssdk.__version__ == "1.6.1"


def test_a_shadow_is_updated_read_and_deleted(box: Box) -> None:
    state = {"reported": {"temperature": 20}}
    assert tell(box, "v1/ask/shadow", {"temperature": 20}) == [
        state, state["reported"], ["timestamp", "version"], "ShadowError",
    ]  # fmt: skip


def test_another_function_is_invoked_and_waited_for_or_not(box: Box) -> None:
    with box.wire("later", "v1/later") as wire:
        assert tell(box, "v1/ask/invoke", [1, 2]) == [{"helped": [1, 2]}, "", "Unhandled"]
        [later] = wire.exactly(1)
    assert later.payload == b"1"


def test_a_secret_below_the_name_of_the_function_is_read(box: Box) -> None:
    assert tell(box, "v1/ask/secret", None) == "sesame"


def test_a_long_lived_function_runs_before_it_is_called_and_keeps_what_is_in_its_module(tmp_path: Path) -> None:
    with running(tmp_path) as box:
        box.deploy("v1", HANDLER, "greengrasssdk", handler="app.function_handler", pinned=True, topics=("v1/ask/#",))
        [worker] = wait_for_worker(box)
        assert [tell(box, "v1/ask/count", None) for _ in range(3)] == [1, 2, 3]
        assert box.workers() == [worker]
        box.daemon.stop()
        box.daemon.start()
        wait_for_worker(box)
        assert tell(box, "v1/ask/count", None) == 1


def test_a_binary_function_is_given_the_bytes_of_the_message(box: Box) -> None:
    box.deploy(
        "binary", BINARY, "greengrasssdk", handler="app.function_handler", encoding="binary", topics=("v1/bytes",)
    )
    with box.wire("bytes", "v1/reversed") as wire:
        wire.publish("v1/bytes", b"\x00\xff{\x80")
        [message] = wire.exactly(1)
    assert message.payload == b"\x80{\xff\x00"


def test_a_handler_of_v1_is_deployed_with_one_command_and_what_its_group_said_about_it(box: Box) -> None:
    (box.directory / "template.yaml").write_text(TEMPLATE)
    box.command("deploy", box.directory / "template.yaml")
    assert tell(box, "deployed/1", None) == 1
    assert tell(box, "deployed/2", None) == 2
    lines = box.command("logs", "counter")
    assert "heard deployed/1" in lines
    box.command("remove", "counter")
