"""Functions on a real edge, from the deploy to what handlers say: by messages, HTTP, requests, queues and clocks."""

import json
import os
import signal
import sys
import threading
from base64 import b64decode, b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from functions.manifest import QueueSource, Schedule
from tests.aws_clients import KEY_ID, SECRET, aws
from tests.functions_boxes import BOTO3, NOWHERE, Box, bring, descendants, running
from tests.site import wait_until
from tests.wire import Wire

pytestmark = pytest.mark.processes
PATIENCE_SECONDS = 30.0
TOPIC, QUEUE = "arn:aws:iot:us-east-1:000000000000:topic/", "arn:aws:sqs:us-east-1:000000000000:"
VERSIONS = 10

# A function as one writes it for AWS, with a rule and nothing of ours.
TEMPLATE = """
AWSTemplateFormatVersion: "2010-09-09"
Transform: AWS::Serverless-2016-10-31
Globals:
  Function: { Runtime: python3.12, Timeout: 20 }
Resources:
  PressAlarm:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: src/
      Handler: app.handler
      AutoPublishAlias: live
      Environment: { Variables: { HOT: "105" } }
      Policies: [ { Statement: [ { Effect: Allow, Action: "iot:Publish", Resource: "*" } ] } ]
      Events:
        Telemetry:
          Type: IoTRule
          Properties:
            AwsIotSqlVersion: "2016-03-23"
            Sql: SELECT *, topic(3) AS machine FROM 'plant/+/+/telemetry' WHERE temperature > 100
"""
ALARM = """
import json
import os

import boto3

iot = boto3.client("iot-data")


def handler(event, context):
    if event["temperature"] > float(os.environ["HOT"]):
        alarm = {"machine": event["machine"], "version": context.function_version}
        iot.publish(topic="plant/warning", qos=1, payload=json.dumps(alarm))
"""
ECHO = """
def handler(event, context):
    if event == "fail":
        raise ValueError("as asked")
    custom = context.client_context.custom if context.client_context else None
    return {"event": event, "custom": custom, "version": context.function_version}
"""
INSIDE = """
import json

import boto3

iot, functions = boto3.client("iot-data"), boto3.client("lambda")


def handler(event, context):
    iot.update_thing_shadow(thingName="press", payload=json.dumps({"state": {"reported": {"seen": event}}}))
    shadow = json.loads(iot.get_thing_shadow(thingName="press")["payload"].read())
    answer = functions.invoke(FunctionName="echo", Payload=json.dumps(shadow["state"]))
    iot.publish(topic="inside", qos=1, payload=answer["Payload"].read())
"""
RECEIVER = """
import json

import greengrasssdk

client = greengrasssdk.client("iot-data")


def handler(event, context):
    for record in event["Records"]:
        client.publish(topic="received", payload=json.dumps([record["eventSourceARN"], json.loads(record["body"])]))
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    directory = tmp_path_factory.mktemp("box")
    keys = directory / "keys"
    keys.write_text(f"[operator]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n")
    keys.chmod(0o600)
    with running(directory, http='anonymous = true, credentials = "keys"') as box:
        box.deploy("echo", ECHO, alias="live", topics=("for/echo/#",), on_success=f"{TOPIC}done", retries=0)
        yield box


def ask(box: Box, event: Any, name: str = "echo", **more: Any) -> Any:
    """What boto3's client is told of a synchronous invocation, and the document that it was given."""
    with aws("lambda", box.url) as client:
        answer = client.invoke(FunctionName=name, Payload=json.dumps(event), **more)
        return answer | {"document": json.loads(answer["Payload"].read())}


def rules(box: Box) -> list[str]:
    return [rule["rule"] for rule in box.daemon.ask("status")["rules"]]


# -- deploying --------------------------------------------------------------------------------------------------------


def test_a_template_written_for_aws_is_deployed_with_one_command_and_reacts_while_the_cloud_is_unreachable(
    tmp_path: Path,
) -> None:
    source = tmp_path / "aws" / "src"
    source.mkdir(parents=True)
    (source / "app.py").write_text(ALARM)
    for package in BOTO3:
        bring(package, source)
    template = source.parent / "template.yaml"
    template.write_text(TEMPLATE)
    with running(tmp_path, more=f'[uplink]\nurl = "{NOWHERE}"') as box, box.wire("panel", "plant/#") as panel:
        assert "PressAlarm:1" in box.command("deploy", template)
        for temperature in (110, 101, 120):
            panel.publish("plant/hall/m1/telemetry", b'{"temperature": %d}' % temperature)
        heard = [json.loads(message.payload) for message in panel.take(5) if message.topic == "plant/warning"]
        assert heard == 2 * [{"machine": "m1", "version": "1"}]
        assert box.daemon.ask("status")["uplink"] == "down"
        assert rules(box) == ["PressAlarmTelemetry"]
        box.command("remove", "PressAlarm")
        assert rules(box) == []


def test_a_rollback_takes_the_rules_of_its_version_along(box: Box) -> None:
    for version in (1, 2):
        rule = {"sql": f"SELECT * FROM 'rolled/{version}'", "actions": [{"lambda": {"functionArn": "rolled"}}]}
        listed = json.dumps([{"ruleName": f"Rolled{version}", "topicRulePayload": rule}])
        box.deploy("rolled", ECHO, rules=listed, on_success=f"{TOPIC}rolled/done")
    assert [name for name in rules(box) if name.startswith("Rolled")] == ["Rolled2"]
    box.command("rollback", "rolled")
    assert [name for name in rules(box) if name.startswith("Rolled")] == ["Rolled1"]
    with box.wire("rolled", "rolled/done") as wire:
        wire.publish("rolled/1", b"1")
        [message] = wire.take(1)
    assert json.loads(message.payload)["responsePayload"]["version"] == "1"
    box.command("remove", "rolled")
    assert [name for name in rules(box) if name.startswith("Rolled")] == []
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        ask(box, 1, "rolled")


def test_a_broken_manifest_costs_only_its_own_function_until_it_is_deployed_again(box: Box) -> None:
    box.deploy("broken", ECHO)
    path = box.functions / "broken" / "versions" / "1" / "manifest.json"
    path.write_text("{")
    box.deploy("other", ECHO)
    [problem] = box.daemon.ask("functions-status")["problems"]
    assert str(path) in problem
    assert ask(box, 1)["document"]["event"] == 1
    with pytest.raises(ClientError, match="ServiceException"):
        ask(box, 1, "broken")
    box.deploy("broken", ECHO)
    assert box.daemon.ask("functions-status")["problems"] == []
    assert ask(box, 1, "broken")["ExecutedVersion"] == "2"
    box.library.remove("broken")
    box.library.remove("other")
    box.daemon.ask("functions-changed")


NUMBERED = """
import os
import time

NUMBER = {number}

def handler(event, context):
    time.sleep(0.001)
    return [NUMBER, int(os.environ["NUMBER"]), int(context.function_version)]
"""


def deploy_under_load(box: Box, versions: int) -> None:
    """Every event is handled by a whole version, and what is called after a deploy by that one or a later one."""
    records: list[dict[str, Any]] = []
    stop, sent, wanted = threading.Event(), [0], [sys.maxsize]

    def publish() -> None:
        with Wire(box.address).connect("load") as wire:
            while not stop.is_set() or sent[0] < versions * 20:
                wire.publish(f"load/{sent[0]}", b"%d" % sent[0])
                sent[0] += 1
            wanted[0] = sent[0] + 1
            wire.publish("load/last", b"%d" % sent[0])

    def take(wire: Wire) -> None:
        while len(records) < wanted[0]:
            records.extend(json.loads(message.payload) for message in wire.take(1))

    def deploy(number: int) -> int:
        return box.deploy(
            "numbered", NUMBERED.format(number=number), environment={"NUMBER": str(number)}, topics=("load/+",),
            on_success=f"{TOPIC}numbered", retries=0, queue_events=100_000,
        )  # fmt: skip

    assert deploy(1) == 1
    with box.wire("load-taker", "numbered") as wire:
        load, taker = threading.Thread(target=publish), threading.Thread(target=take, args=(wire,))
        load.start()
        taker.start()
        try:
            for number in range(2, versions + 1):
                assert deploy(number) == number
                assert ask(box, None, "numbered")["document"] == [number] * 3
        finally:
            stop.set()
            load.join()
            taker.join()
    found = sorted(record["requestPayload"] for record in records)
    assert found == list(range(wanted[0]))
    for record in records:
        version = int(record["responseContext"]["executedVersion"])
        assert record["responsePayload"] == [version] * 3
    executed = [int(record["responseContext"]["executedVersion"]) for record in records]
    assert executed[-1] == versions
    assert box.dead("numbered") == []
    wait_until(lambda: [pool["version"] for pool in box.pools("numbered")] == [versions], PATIENCE_SECONDS)
    box.command("rollback", "numbered")
    assert ask(box, None, "numbered")["document"] == [versions - 1] * 3
    box.command("remove", "numbered")


def test_versions_deployed_under_load_lose_no_event_and_mix_nothing(box: Box) -> None:
    deploy_under_load(box, VERSIONS)


@pytest.mark.soak
def test_a_hundred_versions_deployed_under_load_lose_no_event_and_mix_nothing(box: Box) -> None:
    deploy_under_load(box, 100)


# -- Lambda's API over HTTP -------------------------------------------------------------------------------------------


def test_boto3_invokes_a_function_and_is_given_its_result_version_and_log(box: Box) -> None:
    context = b64encode(json.dumps({"custom": {"a": "b"}}).encode()).decode()
    answer = ask(box, {"n": 1}, LogType="Tail", ClientContext=context)
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "1")
    assert "FunctionError" not in answer
    assert answer["document"] == {"event": {"n": 1}, "custom": {"a": "b"}, "version": "1"}
    log = b64decode(answer["LogResult"]).decode()
    assert log.startswith("START RequestId: ")
    assert "REPORT RequestId: " in log


@pytest.mark.parametrize("name", ["echo:1", "echo:live", "arn:aws:lambda:eu-west-1:000000000000:function:echo:live"])
def test_boto3_names_versions_and_aliases(box: Box, name: str) -> None:
    assert ask(box, 1, name)["ExecutedVersion"] == "1"
    assert ask(box, 1, "echo", Qualifier=name.rpartition(":")[2])["ExecutedVersion"] == "1"


def test_boto3_puts_an_event_into_the_queue_and_tries_one_dry(box: Box) -> None:
    with aws("lambda", box.url) as client, box.wire("events", "done") as wire:
        answer = client.invoke(FunctionName="echo", InvocationType="DryRun", Payload=b'"dry"')
        assert answer["StatusCode"] == 204
        answer = client.invoke(FunctionName="echo", InvocationType="Event", Payload=b'"later"')
        assert (answer["StatusCode"], answer["Payload"].read()) == (202, b"")
        [message] = wire.exactly(1)
    record = json.loads(message.payload)
    assert record["requestContext"] == {
        "requestId": answer["ResponseMetadata"]["RequestId"], "condition": "Success", "approximateInvokeCount": 1,
        "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:echo:$LATEST",
    }  # fmt: skip
    assert (record["requestPayload"], record["responsePayload"]["event"]) == ("later", "later")


def test_a_handler_that_raises_is_a_function_error_and_no_error_of_the_service(box: Box) -> None:
    answer = ask(box, "fail")
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    assert (answer["document"]["errorType"], answer["document"]["errorMessage"]) == ("ValueError", "as asked")
    assert "line 4, in handler" in answer["document"]["stackTrace"][0]


def test_boto3_knows_the_errors_by_their_own_classes(box: Box) -> None:
    box.deploy("off", ECHO, concurrency=0)
    with aws("lambda", box.url) as client:
        errors = client.exceptions
        for expected, wanted in (
            (errors.ResourceNotFoundException, {"FunctionName": "nobody"}),
            (errors.ResourceNotFoundException, {"FunctionName": "echo", "Qualifier": "9"}),
            (errors.InvalidRequestContentException, {"FunctionName": "echo", "Payload": b"{"}),
            (errors.RequestTooLargeException, {"FunctionName": "echo", "Payload": b"1" * ((6 << 20) + 1)}),
            (errors.TooManyRequestsException, {"FunctionName": "off"}),
            (errors.InvalidParameterValueException, {"FunctionName": "echo:1", "Qualifier": "2"}),
        ):
            with pytest.raises(expected):
                client.invoke(**wanted)


def test_boto3_publishes_and_keeps_shadows_at_the_edge(box: Box) -> None:
    with aws("iot-data", box.url) as client, box.wire("iot", "said/#", "done") as wire:
        client.publish(topic="said/1", qos=1, payload=b"hello")
        client.publish(topic="for/echo/7", qos=1, payload=b'"by http"')
        said, done = wire.exactly(2)
        assert (said.topic, said.payload) == ("said/1", b"hello")
        assert json.loads(done.payload)["responsePayload"]["custom"] == {"subject": "for/echo/7"}
        client.update_thing_shadow(thingName="lathe", payload=b'{"state": {"desired": {"on": true}}}')
        shadow = json.loads(client.get_thing_shadow(thingName="lathe")["payload"].read())
        assert (shadow["state"]["desired"], shadow["version"]) == ({"on": True}, 1)
        client.delete_thing_shadow(thingName="lathe")
        with pytest.raises(client.exceptions.ResourceNotFoundException):
            client.get_thing_shadow(thingName="lathe")


def test_a_signature_that_is_wrong_is_refused_even_where_nobody_needs_one(box: Box) -> None:
    with aws("lambda", box.url, secret="x" * 40) as client, pytest.raises(ClientError) as refused:
        client.invoke(FunctionName="echo")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_a_handler_reaches_the_broker_shadows_and_other_functions_by_boto3_as_it_is(box: Box) -> None:
    box.deploy("inside", INSIDE, *BOTO3, timeout=20)
    with box.wire("inside", "inside", "$aws/things/press/shadow/update/accepted") as wire:
        assert "FunctionError" not in ask(box, 42, "inside")
        accepted, published = wire.exactly(2)
    assert json.loads(accepted.payload)["state"] == {"reported": {"seen": 42}}
    assert json.loads(published.payload)["event"] == {"reported": {"seen": 42}}


# -- MQTT -------------------------------------------------------------------------------------------------------------


def test_a_request_over_mqtt_5_is_answered_where_it_says_to_who_asked_and_nobody_else(box: Box) -> None:
    with box.wire("asker", "answers/1") as asker, box.wire("spy", "answers/#", "$tidegate/functions/#") as spy:
        asker.publish(
            "$tidegate/functions/echo/invoke", b'{"n": 1}', response_topic="answers/1", correlation_data=b"\x07"
        )
        [answer] = asker.exactly(1)
        asker.publish(
            "$tidegate/functions/echo/invoke", b'"fail"', response_topic="answers/1", correlation_data=b"\x08"
        )
        [failure] = asker.exactly(1)
        assert all(message.topic.endswith("/invoke") for message in spy.drained())
    assert (answer.correlation_data, failure.correlation_data) == (b"\x07", b"\x08")
    assert json.loads(answer.payload)["event"] == {"n": 1}
    assert json.loads(answer.payload)["custom"] == {"subject": "$tidegate/functions/echo/invoke"}
    assert answer.user_properties == [("executedVersion", "1")]
    assert json.loads(failure.payload)["errorMessage"] == "as asked"
    assert ("functionError", "Unhandled") in failure.user_properties


def test_a_request_over_mqtt_3_is_answered_beside_it(box: Box) -> None:
    topic = "$tidegate/functions/echo:live/invoke"
    with box.wire("old", f"{topic}/accepted", f"{topic}/rejected", version=4) as wire:
        for event in (b"1", b'"fail"'):
            wire.publish(topic, event)
        accepted, rejected = wire.exactly(2)
        assert (accepted.topic, json.loads(accepted.payload)["event"]) == (f"{topic}/accepted", 1)
        assert (rejected.topic, json.loads(rejected.payload)["errorType"]) == (f"{topic}/rejected", "ValueError")
    topic = "$tidegate/functions/nobody/invoke"
    with box.wire("old", f"{topic}/+", version=4) as wire:
        wire.publish(topic, b"1")
        [refused] = wire.exactly(1)
    assert (refused.topic, json.loads(refused.payload)["errorType"]) == (
        f"{topic}/rejected", "ResourceNotFoundException",
    )  # fmt: skip


def test_the_events_of_one_device_keep_their_topics_and_payloads_in_great_number(box: Box) -> None:
    with box.wire("many", "done") as wire, box.wire("many-sender") as sender:
        for number in range(500):
            sender.publish(f"for/echo/{number}", b"%d" % number)
        records = [json.loads(message.payload) for message in wire.take(500)]
    assert sorted(record["requestPayload"] for record in records) == list(range(500))
    for record in records:
        assert record["responsePayload"]["custom"] == {"subject": f"for/echo/{record['requestPayload']}"}


# -- clocks and queues ------------------------------------------------------------------------------------------------


def test_a_schedule_fires_once_at_its_time(box: Box) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=2)
    expression = moment.strftime("at(%Y-%m-%dT%H:%M:%S)")
    with box.wire("clock", "clock") as wire:
        once = Schedule(name="once", expression=expression, input='{"from": "a schedule"}')
        box.deploy("clock", ECHO, schedules=(once,), on_success=f"{TOPIC}clock")
        [message] = wire.exactly(1)
    assert json.loads(message.payload)["responsePayload"]["event"] == {"from": "a schedule"}


def test_what_a_destination_sends_to_a_queue_is_given_to_the_function_that_polls_it(box: Box) -> None:
    box.deploy("sender", ECHO, on_success=f"{QUEUE}results", on_failure=f"{QUEUE}failures", retries=0)
    sources = tuple(QueueSource(queue=f"{QUEUE}{name}") for name in ("results", "failures"))
    box.deploy("receiver", RECEIVER, "greengrasssdk", queues=sources)
    with box.wire("queues", "received") as wire, aws("lambda", box.url) as client:
        for event in (b'"well"', b'"fail"'):
            client.invoke(FunctionName="sender", InvocationType="Event", Payload=event)
        received = dict(json.loads(message.payload) for message in wire.exactly(2))
    assert received[f"{QUEUE}results"]["responsePayload"]["event"] == "well"
    failed = received[f"{QUEUE}failures"]
    assert (failed["requestPayload"], failed["requestContext"]["condition"]) == ("fail", "RetriesExhausted")
    assert failed["responseContext"] == {"statusCode": 200, "executedVersion": "1", "functionError": "Unhandled"}
    assert failed["responsePayload"]["errorMessage"] == "as asked"


# -- failures ---------------------------------------------------------------------------------------------------------


def test_an_event_that_failed_is_tried_again_in_a_minute(box: Box) -> None:
    box.deploy("tried", ECHO, retries=1, topics=("for/tried",))
    with box.wire("tried") as wire:
        wire.publish("for/tried", b'"fail"')
    wait_until(lambda: box.counter("functions_retries_total", function="tried") == 1, PATIENCE_SECONDS)
    [lane] = box.daemon.ask("functions-status", function="tried")["queues"]
    assert (lane["held"], lane["retrying"], lane["in_flight"]) == (1, 1, 0)
    assert box.dead("tried") == []


def test_a_failure_is_told_to_its_topic_or_kept_as_a_dead_letter_that_can_be_replayed_and_dropped(box: Box) -> None:
    box.deploy("told", ECHO, retries=0, on_failure=f"{TOPIC}failed", topics=("for/told",))
    box.deploy("kept", ECHO, retries=0, topics=("for/kept",))
    with box.wire("failures", "failed", "kept/done") as wire:
        wire.publish("for/told", b'"fail"')
        [told] = wire.exactly(1)
        assert json.loads(told.payload)["requestContext"]["condition"] == "RetriesExhausted"
        assert box.dead("told") == []
        for _ in range(3):
            wire.publish("for/kept", b'"fail"')
        wait_until(lambda: len(box.dead("kept")) == 3, PATIENCE_SECONDS)
        first, second, _ = box.dead("kept")
        assert (first["payload"], first["attempts"], first["condition"]) == ('"fail"', 1, "RetriesExhausted")
        assert json.loads(first["response"])["errorMessage"] == "as asked"
        box.deploy("kept", ECHO.replace('"fail"', '"never"'), on_success=f"{TOPIC}kept/done")
        box.command("dead", "drop", first["id"])
        box.command("dead", "replay", second["id"])
        [done] = wire.exactly(1)
        assert json.loads(done.payload)["responsePayload"] == {
            "event": "fail", "custom": {"subject": "for/kept"}, "version": "2",
        }  # fmt: skip
        box.command("dead", "replay", "--all", "--function", "kept")
        wire.exactly(1)
    assert box.dead("kept") == []


BAD = """
import os
import time

def handler(event, context):
    if event == "hang":
        while True:
            pass
    if event == "exit":
        os._exit(3)
    if event == "memory":
        return len(bytearray(1 << 30))
    if event == "forks":
        while True:
            try:
                os.fork()
            except OSError:
                time.sleep(0.1)
    if event == "output":
        while True:
            print("x" * 1000)
    return event
"""


def test_a_function_that_misbehaves_costs_only_its_own_events(box: Box) -> None:
    box.deploy("bad", BAD, timeout=1, memory_mb=64)
    errors = {}
    for event in ("exit", "memory", "hang", "output", "forks"):
        answer = ask(box, event, "bad")
        assert answer["FunctionError"] == "Unhandled", event
        errors[event] = answer["document"]
        assert ask(box, event)["document"]["event"] == event
    assert errors["exit"]["errorType"] == "Runtime.ExitError"
    assert errors["memory"]["errorType"] == "MemoryError"
    for event in ("hang", "output"):
        assert "Task timed out after 1.00 seconds" in errors[event]["errorMessage"], event
    assert errors["forks"]["errorType"] != "OSError"  # its time was over, or its memory, which all processes share
    [status] = box.pools("bad")
    assert status["timeouts"] + status["crashes"] == 4
    wait_until(lambda: ask(box, "well", "bad")["document"] == "well", PATIENCE_SECONDS)  # starts wait for a second
    before = len(box.workers())
    assert before <= len(descendants(box.daemon.pid)) < 100  # nothing is left of the forks


def test_a_launcher_that_is_killed_takes_its_workers_along_and_another_one_takes_its_place(box: Box) -> None:
    ask(box, 1)
    before = box.workers()
    os.kill(descendants(box.daemon.pid)[0], signal.SIGKILL)  # the daemon's only child
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before), PATIENCE_SECONDS)

    def is_answered() -> bool:
        try:
            return "FunctionError" not in ask(box, 1)
        except ClientError:  # until there is one
            return False

    wait_until(is_answered, PATIENCE_SECONDS)


def test_events_of_a_function_that_is_removed_are_dead_letters(box: Box) -> None:
    box.deploy("gone", BAD, timeout=1, retries=0, topics=("for/gone",))
    with box.wire("gone") as wire:
        for _ in range(3):
            wire.publish("for/gone", b'"hang"')
    box.library.remove("gone")
    box.daemon.ask("functions-changed")
    wait_until(lambda: len(box.letters("gone")) == 3, PATIENCE_SECONDS)
    assert box.held("gone") == 0


BAD_INIT = """
raise RuntimeError("no init")
"""


def test_a_function_that_cannot_be_loaded_says_why_and_is_mended_by_a_deploy(box: Box) -> None:
    box.deploy("unloadable", BAD_INIT)
    for _ in range(3):  # starts wait longer and longer; who asks is told at once
        answer = ask(box, 1, "unloadable")
        assert (answer["FunctionError"], answer["document"]["errorMessage"]) == ("Unhandled", "no init")
    assert ask(box, 1)["document"]["event"] == 1
    box.deploy("unloadable", ECHO)
    assert ask(box, 1, "unloadable")["document"]["event"] == 1


CURIOUS = """
import os
import socket

def handler(event, context):
    seen = []
    for path in event["paths"]:
        try:
            seen.append(os.listdir(path) if os.path.isdir(path) else open(path).read())
        except OSError:
            pass
    try:
        socket.create_connection(("127.0.0.1", event["port"]), 1)
        seen.append("broker")
    except OSError:
        pass
    return [seen, os.listdir(os.environ["LAMBDA_TASK_ROOT"])]
"""


def test_a_handler_sees_its_code_and_nothing_of_the_daemon_or_of_other_functions(box: Box) -> None:
    box.deploy("curious", CURIOUS)
    paths = [str(path) for path in (box.directory, box.config, box.functions / "echo", box.directory / "edge")]
    seen, code = ask(box, {"paths": paths, "port": box.address.port}, "curious")["document"]
    assert seen == []
    assert "app.py" in code


def test_secrets_come_as_variables_of_the_function_that_names_them(box: Box) -> None:
    (box.directory / "secrets" / "api").write_text("sesame")
    code = 'import os\n\ndef handler(event, context):\n    return os.environ.get("API")\n'
    box.deploy("trusted", code, environment_secrets={"API": "api"})
    box.deploy("stranger", code)
    assert ask(box, 1, "trusted")["document"] == "sesame"
    assert ask(box, 1, "stranger")["document"] is None


# -- in the cloud -----------------------------------------------------------------------------------------------------


def test_the_same_function_hears_rules_topics_requests_and_http_in_the_cloud(tmp_path: Path) -> None:
    rule = {"sql": "SELECT n FROM 'plant/+'", "actions": [{"lambda": {"functionArn": "echo"}}]}
    with running(tmp_path, "cloud") as cloud:
        listed = json.dumps([{"ruleName": "Echo", "topicRulePayload": rule}])
        cloud.deploy("echo", ECHO, topics=("for/echo",), on_success=f"{TOPIC}done", rules=listed)
        with cloud.wire("device", "done", "$tidegate/functions/echo/invoke/+") as wire:
            wire.publish("plant/1", b'{"n": 1, "m": 2}')
            wire.publish("for/echo", b"2")
            events = [json.loads(message.payload)["responsePayload"] for message in wire.exactly(2)]
            assert [(event["event"], event["custom"]) for event in events] == [
                ({"n": 1}, None), (2, {"subject": "for/echo"}),
            ]  # fmt: skip
            wire.publish("$tidegate/functions/echo/invoke", b"3")
            [answer] = wire.exactly(1)
            assert json.loads(answer.payload)["event"] == 3
        assert ask(cloud, 4)["document"]["event"] == 4
        assert cloud.held() == 0
