"""SAM templates as they are written for AWS: what becomes of every part, and where a fault is said to be."""

import json
from pathlib import Path
from typing import Any

import pytest

from functions.manifest import QueueSettings, QueueSource, Schedule
from rules.actions import EDGE_ACTIONS
from rules.files import parse
from rules.files.arns import Account
from tidegate.functions import template
from tidegate.functions.described import Described
from tidegate.functions.faults import TemplateError

EXAMPLES = Path(__file__).parent.parent / "examples" / "functions"
ACCOUNT = Account(region="eu-west-1", account_id="123456789012")
ARN = "arn:aws:{}:eu-west-1:123456789012:{}"
PROPERTIES = {"CodeUri": "src/", "Handler": "app.handler", "Runtime": "python3.12"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with code and a layer, for a template to lie in."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "app.py").write_text("def handler(event, context):\n    return event\n")
    (tmp_path / "layer").mkdir()
    return tmp_path / "template.yaml"


def read(path: Path, text: str, **how: Any) -> template.Template:
    return template.read(path, text, ACCOUNT, **how)


def one(path: Path, properties: dict[str, Any], **more: Any) -> Described:
    """The only function of a template whose properties are those that every one needs, and these."""
    warnings = more.pop("warnings", [])
    resource = {"Type": "AWS::Serverless::Function", "Properties": PROPERTIES | properties, **more.pop("resource", {})}
    document = {"Resources": {"Press": resource, **more.pop("resources", {})}, **more}
    found = read(path, json.dumps(document))
    assert [problem.message for problem in found.warnings] == warnings
    return found.functions[0]


def faults(path: Path, text: str, **how: Any) -> list[str]:
    """Every fault of a template as `line:column: message`."""
    with pytest.raises(TemplateError) as raised:
        read(path, text, **how)
    return [str(problem).removeprefix(f"{path}:") for problem in raised.value.found if problem.severity == "error"]


def fault(path: Path, properties: dict[str, Any], **more: Any) -> str:
    """The only fault of a template with one function."""
    resource = {"Type": "AWS::Serverless::Function", "Properties": PROPERTIES | properties, **more}
    [said] = faults(path, json.dumps({"Resources": {"Press": resource}}, indent=1))
    return said.split(" ", 1)[1]


# ── what becomes of a function ──────────────────────────────────────────────────────────────────────────────


def test_a_function_has_lambdas_defaults_and_its_logical_id_as_its_name(place: Path) -> None:
    found = one(place, {})
    manifest = found.manifest()
    assert (found.logical_id, found.name, found.code) == ("Press", "Press", place.parent / "src")
    assert (manifest.timeout, manifest.memory_mb, manifest.tmp_mb) == (3, 128, 512)
    assert (manifest.retries, manifest.max_age, manifest.alias) == (2, 21_600, None)
    assert (manifest.pinned, manifest.network, manifest.encoding, manifest.topics) == (False, False, "json", ())
    assert found.rules is None


def test_what_a_template_says_stands_in_the_manifest(place: Path) -> None:
    found = one(
        place,
        {
            "FunctionName": "press-alarm", "Description": "d", "Timeout": "30", "MemorySize": "256",
            "EphemeralStorage": {"Size": 1024}, "Environment": {"Variables": {"LIMIT": 105, "ON": True}},
            "ReservedConcurrentExecutions": 4, "AutoPublishAlias": "live",
            "DeadLetterQueue": {"Type": "SQS", "TargetArn": ARN.format("sqs", "dead")},
            "EventInvokeConfig": {"MaximumRetryAttempts": 1, "MaximumEventAgeInSeconds": 60, "DestinationConfig": {
                "OnSuccess": {"Type": "Lambda", "Destination": "next"}, "OnFailure": {"Type": "SNS"}}},
        },
    )  # fmt: skip
    manifest = found.manifest()
    assert (found.name, manifest.description, manifest.timeout, manifest.memory_mb) == ("press-alarm", "d", 30, 256)
    assert (manifest.tmp_mb, manifest.environment, manifest.alias) == (1_024, {"LIMIT": "105", "ON": "true"}, "live")
    assert (manifest.concurrency, manifest.retries, manifest.max_age) == (4, 1, 60)
    assert manifest.dead_letter == ARN.format("sqs", "dead")
    assert manifest.on_success == ARN.format("lambda", "function:next")
    assert manifest.on_failure == ARN.format("sns", "PressOnFailureTopic")


def test_metadata_says_what_lambda_has_no_word_for(place: Path) -> None:
    ours = {
        "Pinned": True, "Topics": ["plant/+/telemetry"], "Encoding": "binary", "Network": True, "QueueEvents": 50,
        "EnvironmentSecrets": {"TOKEN": "press/token"}, "MemorySize": 32, "OnFailureTopic": "plant/failed",
    }  # fmt: skip
    manifest = one(place, {}, resource={"Metadata": {"Tidegate": ours, "BuildMethod": "makefile"}}).manifest()
    assert (manifest.pinned, manifest.network, manifest.encoding, manifest.memory_mb) == (True, True, "binary", 32)
    assert (manifest.topics, manifest.queue_events) == (("plant/+/telemetry",), 50)
    assert manifest.environment_secrets == {"TOKEN": "press/token"}
    assert manifest.on_failure == ARN.format("iot", "topic/plant/failed")
    assert manifest.concurrency == 1  # of a pinned one, as in Greengrass


def test_how_a_handler_logs_is_told_to_its_runtime_as_lambda_does(place: Path) -> None:
    chosen = {"LogFormat": "JSON", "ApplicationLogLevel": "WARN", "SystemLogLevel": "WARN", "LogGroup": "/mine"}
    told = one(place, {"LoggingConfig": chosen, "Environment": {"Variables": {"KEY": "b"}}}).manifest().environment
    assert told == {"KEY": "b", "AWS_LAMBDA_LOG_FORMAT": "JSON", "AWS_LAMBDA_LOG_LEVEL": "WARN"}
    text = one(place, {"LoggingConfig": {"LogFormat": "Text"}}).manifest().environment
    assert text == {"AWS_LAMBDA_LOG_FORMAT": "Text"}
    assert one(place, {"LoggingConfig": {}}).manifest().environment == {}
    assert "LoggingConfig.ApplicationLogLevel" in fault(place, {"LoggingConfig": {"ApplicationLogLevel": "LOUD"}})


def test_defaults_of_the_template_count_for_each_function(place: Path) -> None:
    text = """
    Globals:
      Function:
        Runtime: python3.12
        Timeout: 10
        Layers: [layer]
        Environment: { Variables: { STAGE: prod, LIMIT: "105" } }
    Resources:
      A: { Type: AWS::Serverless::Function, Properties: { CodeUri: src, Handler: app.handler } }
      B:
        Type: AWS::Serverless::Function
        Properties:
          CodeUri: src
          Handler: app.other
          Timeout: 20
          Layers: [layer/]
          Environment: { Variables: { STAGE: test } }
    """
    first, second = read(place, text).functions
    assert (first.manifest().timeout, second.manifest().timeout) == (10, 20)
    assert first.manifest().environment == {"STAGE": "prod", "LIMIT": "105"}
    assert second.manifest().environment == {"STAGE": "test", "LIMIT": "105"}
    assert (first.layers, second.layers) == ([place.parent / "layer"], [place.parent / "layer"] * 2)


def test_a_layer_of_the_template_is_its_directory(place: Path) -> None:
    layer = {"Type": "AWS::Serverless::LayerVersion", "Properties": {"ContentUri": "layer", "LayerName": "common"}}
    assert one(place, {"Layers": [{"Ref": "Common"}]}, resources={"Common": layer}).layers == [place.parent / "layer"]


def test_names_and_arns_of_the_templates_resources_are_resolved(place: Path) -> None:
    resources = {
        "Dead": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": {"Fn::Sub": "${AWS::StackName}-dead"}}},
        "Alerts": {"Type": "AWS::SNS::Topic"},
    }
    properties = {
        "FunctionName": {"Fn::Join": ["-", ["press", {"Ref": "Stage"}]]},
        "Environment": {"Variables": {"QUEUE": {"Fn::GetAtt": ["Dead", "Arn"]}, "TOPIC": {"Ref": "Alerts"}}},
        "DeadLetterQueue": {"Type": "SNS", "TargetArn": {"Ref": "Alerts"}},
    }
    stage = {"Stage": {"Type": "String", "Default": "test"}}
    found = one(place, properties, resources=resources, Parameters=stage)
    manifest = found.manifest()
    assert manifest.name == "press-test"
    assert manifest.environment == {"QUEUE": ARN.format("sqs", "template-dead"), "TOPIC": "Alerts"}
    assert manifest.dead_letter == ARN.format("sns", "Alerts")


def test_code_may_stand_in_the_template_or_lie_beside_it(place: Path) -> None:
    text = """
    Resources:
      Inline:
        Type: AWS::Serverless::Function
        Properties: { InlineCode: "exports.handler = 1", Handler: index.handler, Runtime: nodejs20.x }
      Beside: { Type: AWS::Serverless::Function, Properties: { Handler: app.handler, Runtime: python3.12 } }
    """
    inline, beside = read(place, text).functions
    assert (inline.code, beside.code) == ("exports.handler = 1", place.parent)


def test_what_means_nothing_here_is_passed_over_even_where_it_cannot_be_resolved(place: Path) -> None:
    unknown = {"Fn::ImportValue": "elsewhere"}
    one(place, {"Role": unknown, "Policies": [unknown], "Tags": {"a": unknown}, "Tracing": "Active"})


def test_what_a_handler_would_miss_is_warned_of(place: Path) -> None:
    words = "VpcConfig means nothing here: there is no VPC; `Metadata: {Tidegate: {Network: true}}` gives it this"
    one(place, {"VpcConfig": {"SubnetIds": []}}, warnings=[f"{words} machine's network"])


# ── events ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_schedules_and_queues_are_events(place: Path) -> None:
    ignored = {"Fn::If": ["a", "b", "c"]}
    events = {
        "Tick": {"Type": "Schedule", "Properties": {"Schedule": "rate(5 minutes)", "RetryPolicy": ignored}},
        "Off": {"Type": "Schedule", "Properties": {
            "Schedule": "cron(0 6 * * ? *)", "Name": "morning", "Enabled": "false", "Input": '{"a": 1}'}},
        "Tock": {"Type": "ScheduleV2", "Properties": {
            "ScheduleExpression": "cron(0 6 ? * MON *)", "ScheduleExpressionTimezone": "Europe/Berlin",
            "State": "DISABLED", "FlexibleTimeWindow": {"Mode": "OFF"}}},
        "Jobs": {"Type": "SQS", "Properties": {
            "Queue": ARN.format("sqs", "jobs"), "BatchSize": 100, "MaximumBatchingWindowInSeconds": 5,
            "FunctionResponseTypes": ["ReportBatchItemFailures"], "Enabled": True}},
    }  # fmt: skip
    manifest = one(place, {"Events": events}).manifest()
    assert manifest.schedules == (
        Schedule(name="PressTick", expression="rate(5 minutes)"),
        Schedule(name="morning", expression="cron(0 6 * * ? *)", input='{"a": 1}', enabled=False),
        Schedule(name="PressTock", expression="cron(0 6 ? * MON *)", timezone="Europe/Berlin", enabled=False),
    )
    [queue] = manifest.queues
    assert queue == QueueSource(queue=ARN.format("sqs", "jobs"), batch_size=100, window=5.0, report_failures=True)


def test_events_that_only_aws_has_are_warned_of(place: Path) -> None:
    events = {"Web": {"Type": "Api", "Properties": {"Path": "/"}}, "Put": {"Type": "S3", "Properties": {}}}
    api = "Events.Web: Api events do not come here; call the function over HTTP with Lambda's Invoke API (docs/http.md)"
    one(place, {"Events": events}, warnings=[api, "Events.Put: S3 events do not come here"])


def test_an_iot_rule_is_a_rule_that_is_installed_with_the_function(place: Path) -> None:
    event = {"Type": "IoTRule", "Properties": {"Sql": "SELECT a FROM 'x'", "AwsIotSqlVersion": "2016-03-23"}}
    found = one(place, {"FunctionName": "press", "AutoPublishAlias": "live", "Events": {"Hot": event}})
    assert found.rules is not None
    assert json.loads(found.rules) == [
        {
            "ruleName": "PressHot",
            "topicRulePayload": {
                "sql": "SELECT a FROM 'x'",
                "awsIotSqlVersion": "2016-03-23",
                "actions": [{"lambda": {"functionArn": "press:live"}}],
            },
        }
    ]
    [rule] = parse({"rules.json": found.rules}, supported=frozenset({"lambda"}))
    assert rule.name == "PressHot"


RULE = """
Resources:
  Press: {{ Type: AWS::Serverless::Function, Properties: {{ CodeUri: src, Handler: a.b, Runtime: python3.12 }} }}
  Hot:
    Type: AWS::IoT::TopicRule
    Properties: {{ TopicRulePayload: {{ Sql: SELECT * FROM 'x', Actions: [{}] }} }}
"""


def test_a_rule_of_the_template_goes_with_the_function_that_it_calls(place: Path) -> None:
    found = read(place, RULE.format("Lambda: { FunctionArn: !GetAtt Press.Arn }"), supported=frozenset({"lambda"}))
    assert found.warnings == []
    assert '"ruleName": "Hot"' in (found.functions[0].rules or "")


def test_a_rule_that_calls_none_of_the_functions_is_left_out_and_that_is_said(place: Path) -> None:
    found = read(place, RULE.format("Sns: { TargetArn: !ImportValue alerts, RoleArn: x }"))
    [warning] = found.warnings
    assert "Hot is not deployed, being a rule that calls no function of this template" in warning.message
    assert found.functions[0].rules is None


def test_a_rule_with_an_action_that_this_side_cannot_run_is_a_fault(place: Path) -> None:
    actions = "{ Lambda: { FunctionArn: !GetAtt Press.Arn } }, { Sns: { TargetArn: alerts, RoleArn: x } }"
    [said] = faults(place, RULE.format(actions), supported=EDGE_ACTIONS | {"lambda"})
    assert "this side cannot run 'sns' yet" in said


def test_only_the_named_functions_are_read(place: Path) -> None:
    text = """
    Resources:
      A: { Type: AWS::Serverless::Function, Properties: { CodeUri: nowhere } }
      B:
        Type: AWS::Serverless::Function
        Properties: { FunctionName: b, CodeUri: src, Handler: app.handler, Runtime: python3.12 }
    """
    assert [each.name for each in read(place, text, only=frozenset({"B"})).functions] == ["b"]
    assert [each.name for each in read(place, text, only=frozenset({"b"})).functions] == ["b"]
    [said] = faults(place, text, only=frozenset({"C"}))
    assert "there is no function C in this template" in said


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.iterdir()))
def test_the_examples_are_read_without_a_warning(example: str) -> None:
    path = EXAMPLES / example / "template.yaml"
    found = read(path, path.read_text(), supported=EDGE_ACTIONS | {"lambda"})
    assert len(found.functions) == 1
    assert found.warnings == []


# ── faults ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_fault_is_told_at_once_with_its_line(place: Path) -> None:
    text = """Resources:
  A:
    Type: AWS::Serverless::Function
    Metadata: { Tidegate: { Pined: true, Topics: ["a/#/b"] } }
    Properties:
      CodeUri: nowhere/
      Handler: app.handler
      Timout: 3
      Timeout: 1000
      Runtime: python2.7
      MemorySize: lots
      Layers: ["arn:aws:lambda:eu-west-1:1:layer:x:1"]
      EventInvokeConfig: { DestinationConfig: { OnFailure: { Type: EventBridge } } }
      Environment: { Variables: { AWS_REGION: x, OTHER: !ImportValue b } }
      Events:
        T: { Type: Schedule, Properties: { Schedule: every day } }
        U: { Type: Shedule, Properties: {} }
        V: { Type: IoTRule, Properties: { Sql: "SELECT FROM 'x'" } }
        W: { Type: SQS, Properties: { Queue: q, FilterCriteria: {} } }
  B: { Type: AWS::Serverless::Function, Properties: { PackageType: Image, ImageUri: x } }
  C: { Type: AWS::Serverless::Function, Condition: Prod, Properties: { Handler: a.b, Runtime: java21, CodeUri: src } }
"""
    said = faults(place, text)
    expected = [
        ("4:", "Metadata.Tidegate has no Pined; did you mean 'Pinned'?"),
        ("4:", "'#' must stand alone and last"),
        ("6:", f"Properties.CodeUri: there is no {place.parent}/nowhere"),
        ("8:", "Properties has no Timout; did you mean 'Timeout'?"),
        ("9:", "Properties.Timeout: must be less than or equal to 900"),
        ("10:", "'python2.7' does not run here"),
        ("11:", "Properties.MemorySize: must be a whole number"),
        ("12:", "a layer of an account is not fetched"),
        ("13:", "there is no 'EventBridge' here"),
        ("14:", "AWS_REGION: Lambda sets it itself"),
        ("14:", "Fn::ImportValue is not resolved here"),
        ("16:", "Events.T.Schedule: "),
        ("17:", "there is no event of the type 'Shedule'; did you mean 'Schedule'?"),
        ("18:", "Sql: expected a value"),
        ("19:", "Events.W.FilterCriteria is not there"),
        ("20:", "container images do not run here"),
        ("21:", "whether a function with a Condition exists is known when a stack is created"),
        ("21:", "'java21' does not run here"),
    ]
    assert len(said) == len(expected), "\n".join(said)
    for line, (start, words) in zip(said, expected, strict=True):
        assert line.startswith(start), (line, words)
        assert words in line


def test_nothing_but_a_template_is_a_template(place: Path) -> None:
    [said] = faults(place, "Overheat: { sql: SELECT * FROM 'a', actions: [] }")
    assert "this is no SAM template" in said
    [said] = faults(place, "Resources: { A: { Type: AWS::SQS::Queue } }")
    assert "there is no AWS::Serverless::Function in this template" in said
    [said] = faults(place, "a: [")
    assert "not YAML" in said


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({"CodeUri": {"Bucket": "b", "Key": "k"}}, "Properties.CodeUri: write the path of a directory or a zip"),
        ({"CodeUri": "s3://bucket/key"}, "s3://bucket/key is not fetched"),
        ({"InlineCode": "x"}, "Properties: CodeUri and InlineCode; write one of them"),
        ({"Handler": "x" * 129}, "Properties.Handler: must have at most 128 characters"),
        ({"Architectures": ["arm64", "x86_64"]}, "Properties.Architectures: must have at most 1 entries"),
        ({"Environment": {"Variables": {"1A": "x"}}}, "'1A': a variable's name is a letter"),
        ({"Environment": {"Variables": {"LONG": "x" * 5_000}}}, "Lambda takes 4,096"),
        ({"AutoPublishAlias": "7"}, "Properties.AutoPublishAlias: does not have the form"),
        ({"Events": {"A": {"Type": "SQS"}}}, "Events.A: Properties is missing"),
        ({"Events": {"A": {"Properties": {}}}}, "Events.A: Type is missing"),
        ({"Events": {"A": {"Type": "SQS", "Properties": {"Queue": "q", "BatchSize": 11}}}}, "more than 10 need"),
        ({"Layers": ["nowhere"]}, "Properties.Layers: there is no"),
        ({"Timeout": None}, "Properties.Timeout: is empty"),
        (
            {"Events": {"A": {"Type": "ScheduleV2", "Properties": {
                "ScheduleExpression": "rate(1 day)", "ScheduleExpressionTimezone": "Berlin"}}}},
            "Events.A.ScheduleExpressionTimezone: 'Berlin' is no time zone",
        ),
        (
            {"Events": {"A": {"Type": "Schedule", "Properties": {"Schedule": "rate(1 day)", "Input": "{"}}}},
            "Events.A.Input: must be JSON, as text",
        ),
    ],
)
def test_a_fault_says_what_to_write_instead(place: Path, properties: dict[str, Any], words: str) -> None:
    assert words in fault(place, properties)


def test_a_topic_and_a_destination_for_the_same_thing_are_one_too_many(place: Path) -> None:
    config = {"DestinationConfig": {"OnFailure": {"Type": "SQS"}}}
    metadata = {"Tidegate": {"OnFailureTopic": "failed"}}
    assert "choose one" in fault(place, {"EventInvokeConfig": config}, Metadata=metadata)


def test_more_workers_than_there_can_be_are_warned_of(place: Path) -> None:
    words = "Properties.ReservedConcurrentExecutions: 64 workers at most; 100 become 64"
    assert one(place, {"ReservedConcurrentExecutions": 100}, warnings=[words]).manifest().concurrency == 64
    assert one(place, {"ReservedConcurrentExecutions": 0}).manifest().concurrency == 0


def test_a_queue_of_the_template_has_its_visibility_and_its_dead_letter_queue(place: Path) -> None:
    redrive = {"deadLetterTargetArn": {"Fn::GetAtt": ["Dead", "Arn"]}, "maxReceiveCount": "5"}
    resources = {
        "Dead": {"Type": "AWS::SQS::Queue"},
        "Jobs": {"Type": "AWS::SQS::Queue", "Properties": {
            "QueueName": "jobs", "VisibilityTimeout": 90, "KmsMasterKeyId": "k", "RedrivePolicy": redrive}},
    }  # fmt: skip
    events = {
        "Ours": {"Type": "SQS", "Properties": {"Queue": {"Fn::GetAtt": ["Jobs", "Arn"]}}},
        "Another": {"Type": "SQS", "Properties": {"Queue": ARN.format("sqs", "elsewhere")}},
    }
    ours, another = one(place, {"Events": events}, resources=resources).manifest().queues
    assert ours.settings == QueueSettings(visibility=90, max_receives=5, dead_letter=ARN.format("sqs", "Dead"))
    assert another.settings is None
