"""Rules for AWS IoT Core: they come back as they were, complete; what AWS cannot run or say is told, rule by rule."""

import json
from typing import Any

import pytest
import yaml

from rules.actions import ACTIONS, parameters
from rules.engine import Rule
from rules.files import parse
from rules.files.arns import Account, is_bare
from rules.files.export import Json, documents, template
from tests.aws_actions import LEAST, MORE
from tests.rules_texts import read

ACCOUNT = Account("eu-west-1", "123456789012")
ROLE = "arn:aws:iam::123456789012:role/rules"

OVERHEAT = """
Over_heat:
  description: Hot.
  awsIotSqlVersion: "2016-03-23"
  sql: |
    SELECT *, topic(3) AS machine
    FROM 'plant/+/+/telemetry' WHERE temperature > 95
  actions:
    - sns: { targetArn: alerts }
    - lambda: { functionArn: triage }
    - lambda: { functionArn: "arn:aws:lambda:eu-west-1:1:function:other" }
    - sqs: { queueUrl: todo, roleArn: queues }
    - republish: { topic: "$$aws/${topic(2)}/${AWS}", qos: 1, roleArn: "arn:aws:iam::1:role/r" }
    - dynamoDBv2: { putItem: { tableName: readings } }
    - http: { url: "https://e", auth: { sigv4: { signingRegion: r, serviceName: s } } }
  errorAction:
    s3: { bucketName: rejected, key: "${topic()}/${timestamp()}" }
Off: { sql: SELECT a FROM 'b', actions: [lambda: { functionArn: triage }], ruleDisabled: true }
"""


def parsed(text: str) -> list[Rule]:
    return list(parse({"rules.yaml": text}, supported=frozenset(ACTIONS)))


def said(rules: list[Rule]) -> list[Any]:
    """All that rules say, to compare them."""
    return [
        (
            rule.name, rule.sql, rule.version, rule.description, rule.disabled,
            [(action.name, parameters(action)) for action in (*rule.actions, rule.error_action) if action],
        )
        for rule in rules
    ]  # fmt: skip


def one_of_each() -> str:
    """A rule for each action, with all its parameters, and nothing that must be completed."""
    rules = {}
    for name in LEAST:
        written = {**LEAST[name], **MORE.get(name, {}), "roleArn": ROLE}
        written |= {"functionArn": "arn:aws:lambda:eu-west-1:1:function:f"} if name == "lambda" else {}
        written |= {"targetArn": "arn:aws:sns:eu-west-1:1:t"} if name == "sns" else {}
        written |= {"queueUrl": "https://sqs.eu-west-1.amazonaws.com/1/q"} if name == "sqs" else {}
        if "roleArn" not in {field.alias for field in ACTIONS[name].model_fields.values()}:
            del written["roleArn"]
        version = {"awsIotSqlVersion": "2015-10-08"}
        rules[f"R_{name}"] = {"sql": "SELECT * FROM 'a'", "actions": [{name: written}], **version}
    return json.dumps(rules)


# ── there and back ──────────────────────────────────────────────────────────────────────────────────────────


def test_rules_that_lack_nothing_come_back_from_documents_as_they_were() -> None:
    rules = parsed(one_of_each())
    exported, obstacles = documents(rules, None, "")
    assert obstacles == []
    assert len(exported) == len(ACTIONS)
    again, problems = read({"exported.json": json.dumps(exported)})
    assert problems == []
    assert said(again) == said(rules)


def test_rules_that_lack_nothing_come_back_from_a_template_as_they_were() -> None:
    rules = [rule for rule in parsed(one_of_each()) if rule.name not in ("R_salesforce", "R_dynamoDB")]
    made, obstacles = template(rules)
    assert obstacles == []
    assert "Parameters" not in made
    for file, text in (("t.yaml", yaml.safe_dump(made)), ("t.json", json.dumps(made))):
        again, problems = read({file: text})
        assert problems == []
        assert said(again) == said(rules)


def test_what_a_rule_lacks_is_the_same_whether_it_comes_from_documents_or_from_a_template() -> None:
    rules = parsed(OVERHEAT)
    exported, _ = documents(rules, ACCOUNT, ROLE)
    made, _ = template(rules)
    made["Parameters"]["RoleArn"]["Default"] = ROLE
    [*from_documents], problems = read({"exported.json": json.dumps(exported)})
    assert problems == []
    [*from_template], problems = read({"t.json": json.dumps(made)}, account=ACCOUNT)
    assert problems == []
    assert said(from_template) == said(from_documents)
    assert documents(from_documents, None, "") == (exported, [])


def test_names_are_completed_and_roles_added() -> None:
    [overheat, off], obstacles = documents(parsed(OVERHEAT), ACCOUNT, ROLE)
    assert obstacles == []
    assert overheat == {
        "ruleName": "Over_heat",
        "topicRulePayload": {
            "sql": "SELECT *, topic(3) AS machine\nFROM 'plant/+/+/telemetry' WHERE temperature > 95\n",
            "awsIotSqlVersion": "2016-03-23",
            "description": "Hot.",
            "actions": [
                {"sns": {"targetArn": "arn:aws:sns:eu-west-1:123456789012:alerts", "roleArn": ROLE}},
                {"lambda": {"functionArn": "arn:aws:lambda:eu-west-1:123456789012:function:triage"}},
                {"lambda": {"functionArn": "arn:aws:lambda:eu-west-1:1:function:other"}},
                {
                    "sqs": {
                        "queueUrl": "https://sqs.eu-west-1.amazonaws.com/123456789012/todo",
                        "roleArn": "arn:aws:iam::123456789012:role/queues",
                    }
                },
                {"republish": {"topic": "$$aws/${topic(2)}/${AWS}", "qos": 1, "roleArn": "arn:aws:iam::1:role/r"}},
                {"dynamoDBv2": {"putItem": {"tableName": "readings"}, "roleArn": ROLE}},
                {
                    "http": {
                        "url": "https://e",
                        "auth": {"sigv4": {"signingRegion": "r", "serviceName": "s", "roleArn": ROLE}},
                    }
                },
            ],
            "errorAction": {"s3": {"bucketName": "rejected", "key": "${topic()}/${timestamp()}", "roleArn": ROLE}},
        },
    }
    assert off["topicRulePayload"]["ruleDisabled"] is True
    assert off["topicRulePayload"]["awsIotSqlVersion"] == "2015-10-08"


def test_a_template_leaves_region_account_and_role_to_cloudformation() -> None:
    made, obstacles = template(parsed(OVERHEAT))
    assert obstacles == []
    assert made["Parameters"].keys() == {"RoleArn"}
    resources = made["Resources"]
    assert list(resources) == ["Overheat", "OverheatCalls", "OverheatCalls2", "Off", "OffCalls"]
    properties = resources["Overheat"]["Properties"]
    assert properties["RuleName"] == "Over_heat"
    actions = properties["TopicRulePayload"]["Actions"]
    topic = "arn:${AWS::Partition}:sns:${AWS::Region}:${AWS::AccountId}:alerts"
    assert actions[0] == {"Sns": {"TargetArn": {"Fn::Sub": topic}, "RoleArn": {"Ref": "RoleArn"}}}
    url = "https://sqs.${AWS::Region}.${AWS::URLSuffix}/${AWS::AccountId}/todo"
    role = "arn:${AWS::Partition}:iam::${AWS::AccountId}:role/queues"
    assert actions[3] == {"Sqs": {"QueueUrl": {"Fn::Sub": url}, "RoleArn": {"Fn::Sub": role}}}
    assert actions[4]["Republish"]["Topic"] == "$$aws/${topic(2)}/${AWS}"  # outside of Fn::Sub, nothing is replaced
    assert properties["TopicRulePayload"]["ErrorAction"]["S3"]["Key"] == "${topic()}/${timestamp()}"
    function = "arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:function:triage"
    assert resources["OffCalls"] == {
        "Type": "AWS::Lambda::Permission",
        "Properties": {
            "Action": "lambda:InvokeFunction",
            "FunctionName": {"Fn::Sub": function},
            "Principal": "iot.amazonaws.com",
            "SourceAccount": {"Ref": "AWS::AccountId"},
            "SourceArn": {"Fn::GetAtt": ["Off", "Arn"]},
        },
    }


def test_logical_ids_are_letters_and_digits_and_each_stands_once() -> None:
    names = ["A_B", "AB", "A_B_", "RoleArn", "___"]
    text = "\n".join(f"{name}: {{ sql: SELECT 1 FROM 'a', actions: [sns: {{ targetArn: t }}] }}" for name in names)
    made, _ = template(parsed(text))
    assert list(made["Resources"]) == ["AB", "AB2", "AB3", "RoleArn2", "Rule"]
    assert [rule["Properties"]["RuleName"] for rule in made["Resources"].values()] == names


# ── what is left out ────────────────────────────────────────────────────────────────────────────────────────


def rule(action: Json, sql: str = "SELECT 1 FROM 'a'") -> list[Rule]:
    both = {"R": {"sql": sql, "actions": [action]}, "Good": {"sql": "SELECT 1 FROM 'a'", "actions": []}}
    return parsed(json.dumps(both))


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ({"dynamoDB": {**LEAST["dynamoDB"], "operation": "INSERT"}}, "CloudFormation has no operation for dynamoDB"),
        ({"iotAnalytics": {"channelArn": "c"}}, "CloudFormation has no channelArn"),
        ({"salesforce": LEAST["salesforce"]}, "CloudFormation has no salesforce"),
        ({"lambda": {"functionArn": "arn:aws:lambda:eu-west-1:1:function:${topic(2)}"}}, "a template in functionArn"),
        ({"kafka": {**LEAST["kafka"], "destinationArn": "d"}}, "actions[0].kafka: destinationArn: AWS wants the ARN"),
    ],
)
def test_what_cloudformation_cannot_say_is_left_out_and_told(action: Json, reason: str) -> None:
    made, [obstacle] = template(rule(action))
    assert list(made["Resources"]) == ["Good"]
    assert str(obstacle).startswith(f"R: {reason}")


def test_names_and_roles_that_nobody_completes_are_told() -> None:
    exported, [obstacle] = documents(rule({"lambda": {"functionArn": "f"}}), None, ROLE)
    assert [document["ruleName"] for document in exported] == ["Good"]
    assert obstacle.reason == "actions[0].lambda: AWS wants more than the name 'f'; say for which region and account"
    _, [obstacle] = documents(rule({"kinesis": {"streamName": "f"}}), ACCOUNT, "")
    assert obstacle.reason == "actions[0].kinesis: AWS wants a role that may do it; say which"


def test_a_window_runs_nowhere_but_here() -> None:
    sql = "SELECT machine FROM 'a' GROUP BY machine, TUMBLING('60 seconds')"
    for exported, obstacles in (documents(rule(LAMBDA, sql), ACCOUNT, ROLE), template(rule(LAMBDA, sql))):
        assert "R" not in json.dumps(exported).replace("Rule", "").replace("AWS", "").split('"')
        assert [found.rule for found in obstacles] == ["R"]
        assert "AWS has no windows" in obstacles[0].reason


LAMBDA = {"lambda": {"functionArn": "triage"}}


# ── names ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_arns_urls_and_templates_are_no_bare_names() -> None:
    assert is_bare("alerts")
    others = ["arn:aws:sns:eu-west-1:1:alerts", "https://sqs.eu-west-1.amazonaws.com/1/todo", "todo-${topic(2)}"]
    assert not any(map(is_bare, others))


def test_the_region_says_which_part_of_aws_a_name_belongs_to() -> None:
    assert [Account(region).partition for region in ("eu-west-1", "cn-north-1", "us-gov-west-1")] == [
        "aws", "aws-cn", "aws-us-gov",
    ]  # fmt: skip
