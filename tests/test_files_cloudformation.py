"""CloudFormation and SAM templates as rules files: what is resolved, what cannot be, and where that is said."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.actions import Lambda, Sns, parameters
from rules.errors import Problem
from rules.files.arns import Account
from rules.files.intrinsics import RESOURCES
from tests.rules_texts import read

TEMPLATE = """
AWSTemplateFormatVersion: 2010-09-09
Parameters:
  Limit: { Type: Number, Default: 95 }
  Hall: { Type: String, Default: press }
  Unknown: { Type: String }
Resources:
  Readings:
    Type: AWS::DynamoDB::Table
    Properties: { TableName: !Sub "${AWS::StackName}-readings" }
  Alerts: { Type: AWS::SNS::Topic }
  Telemetry: { Type: AWS::KinesisFirehose::DeliveryStream, Properties: { DeliveryStreamName: telemetry } }
  Triage: { Type: AWS::Lambda::Function, Properties: { FunctionName: !Join ["-", [!Ref Hall, triage]] } }
  Role: { Type: AWS::IAM::Role, Properties: { AssumeRolePolicyDocument: !Include x } }
  Overheat:
    Type: AWS::IoT::TopicRule
    DependsOn: Role
    Properties:
      RuleName: !Sub "Overheat_${Hall}"
      Tags: [{ Key: a, Value: !If [x, y, z] }]
      TopicRulePayload:
        Description: !Ref Hall
        AwsIotSqlVersion: "2016-03-23"
        RuleDisabled: "false"
        Sql: !Sub >-
          SELECT *, topic(3) AS machine
          FROM 'plant/${Hall}/+'
          WHERE temperature > ${Limit}
        Actions:
          - DynamoDBv2: { PutItem: { TableName: !Ref Readings }, RoleArn: !GetAtt Role.Arn }
          - Sns: { TargetArn: !Ref Alerts, MessageFormat: RAW, RoleArn: !ImportValue role }
          - Firehose:
              DeliveryStreamName: !Ref Telemetry
              BatchMode: "true"
              Separator: "\\n"
              RoleArn: !Ref Unknown
          - Republish: { Topic: !Sub "plant/${Hall}/${!topic(3)}/alarm", Qos: "1" }
          - Lambda: { FunctionArn: !GetAtt Triage.Arn }
          - CloudwatchMetric:
              MetricName: heat
              MetricNamespace: !Ref AWS::StackName
              MetricValue: 5
              MetricUnit: None
              MetricTimestamp: !Ref AWS::NoValue
        ErrorAction:
          S3: { BucketName: rejected, Key: "${topic()}" }
"""
ACCOUNT = Account(region="eu-west-1", account_id="123456789012")


def template(resource: str, *, more: str = "") -> str:
    return f"Resources:\n  {more}\n  R:\n    Type: AWS::IoT::TopicRule\n{resource}"


def payload(keys: str) -> str:
    return template(f"    Properties: {{ TopicRulePayload: {{ Sql: SELECT * FROM 'a', Actions: [], {keys} }} }}\n")


def only_problem(text: str) -> Problem:
    rules, [problem] = read({"t.yaml": text})
    assert rules == []
    return problem


def marked(problem: Problem) -> str:
    """What stands above the caret and after it."""
    line, caret = problem.excerpt.split("\n")
    return line[len(caret) - 1 :]


# ── what is understood ──────────────────────────────────────────────────────────────────────────────────────


def test_a_rule_of_a_template_is_a_rule() -> None:
    [rule], problems = read({"demo.yaml": TEMPLATE}, account=ACCOUNT)
    assert problems == []
    assert rule.name == "Overheat_press"
    assert (rule.description, rule.disabled, rule.version) == ("press", False, "2016-03-23")
    assert rule.sql == "SELECT *, topic(3) AS machine FROM 'plant/press/+' WHERE temperature > 95"
    assert [(action.name, parameters(action)) for action in rule.actions] == [
        (
            "dynamoDBv2",
            {"putItem": {"tableName": "demo-readings"}, "roleArn": "arn:aws:iam::123456789012:role/Role"},
        ),
        ("sns", {"targetArn": "Alerts", "messageFormat": "RAW"}),
        ("firehose", {"deliveryStreamName": "telemetry", "batchMode": True, "separator": "\n"}),
        ("republish", {"topic": "plant/press/${topic(3)}/alarm", "qos": 1}),
        ("lambda", {"functionArn": "arn:aws:lambda:eu-west-1:123456789012:function:press-triage"}),
        (
            "cloudwatchMetric",
            {"metricName": "heat", "metricNamespace": "demo", "metricValue": "5", "metricUnit": "None"},
        ),
    ]
    assert rule.error_action is not None
    assert parameters(rule.error_action) == {"bucketName": "rejected", "key": "${topic()}"}


def test_a_rule_without_a_name_has_its_logical_id_and_a_stack_without_one_the_name_of_the_file() -> None:
    sql = "Sql: !Sub \"SELECT '${AWS::StackName}' AS stack FROM 'a'\", Actions: []"
    text = template(f"    Properties: {{ TopicRulePayload: {{ {sql} }} }}\n")
    [rule], problems = read({"/etc/rules/plant.yaml": text})
    assert problems == []
    assert (rule.name, rule.sql) == ("R", "SELECT 'plant' AS stack FROM 'a'")


def test_a_template_may_be_json_with_the_long_names_of_functions() -> None:
    sql = {"Fn::Sub": ["SELECT ${what} FROM '${AWS::AccountId}/${Table}'", {"what": {"Ref": "What"}}]}
    action = {"Sns": {"TargetArn": {"Fn::GetAtt": ["Topic", "TopicName"]}}}
    resources = {
        "Topic": {"Type": "AWS::SNS::Topic", "Properties": {"TopicName": "alerts"}},
        "Table": {"Type": "AWS::DynamoDB::Table"},
        "R": {"Type": "AWS::IoT::TopicRule", "Properties": {"TopicRulePayload": {"Sql": sql, "Actions": [action]}}},
    }
    document = {"Parameters": {"What": {"Type": "String", "Default": "😀 a"}}, "Resources": resources}
    document["Parameters"]["What"]["Default"] = "'😀' AS a"
    [rule], problems = read({"t.json": json.dumps(document, indent="\t")}, account=ACCOUNT)
    assert problems == []
    assert rule.sql == "SELECT '😀' AS a FROM '123456789012/Table'"
    assert rule.actions == (Sns.model_validate({"targetArn": "alerts"}),)


def test_an_event_of_a_function_is_a_rule_that_calls_it() -> None:
    text = """
    Transform: AWS::Serverless-2016-10-31
    Resources:
      Triage:
        Type: AWS::Serverless::Function
        Properties:
          Handler: triage.handler
          Events:
            Hot: { Type: IoTRule, Properties: { Sql: !Sub "SELECT * FROM '${AWS::Region}/+'" } }
            Cold:
              Type: IoTRule
              Properties: { Sql: SELECT a FROM 'cold', AwsIotSqlVersion: 2016-03-23 }
            Web: { Type: Api, Properties: { Path: /, Method: get } }
      Other: { Type: AWS::Serverless::Function, Properties: { FunctionName: other, Events: {
        E: { Type: IoTRule, Properties: { Sql: SELECT 1 AS a } } } } }
    """
    rules, [warning] = read({"sam.yaml": text}, account=ACCOUNT)
    assert [(rule.name, rule.sql, rule.version) for rule in rules] == [
        ("TriageHot", "SELECT * FROM 'eu-west-1/+'", "2015-10-08"),
        ("TriageCold", "SELECT a FROM 'cold'", "2016-03-23"),
        ("OtherE", "SELECT 1 AS a", "2015-10-08"),
    ]
    [called], _, [other] = [rule.actions for rule in rules]
    assert isinstance(called, Lambda)
    assert isinstance(other, Lambda)
    assert (called.function_arn.source, other.function_arn.source) == ("Triage", "other")
    assert "without FROM" in warning.message


def test_names_of_kafka_stay_as_they_are() -> None:
    kafka = """Actions: [{ Kafka: { DestinationArn: arn, Topic: t, Headers: [{ Key: a, Value: b }], ClientProperties: {
      bootstrap.servers: "h:9092", ssl.keystore: "${a}", ssl.keystore.password: b, acks: 1 } } }]"""
    text = template(f"    Properties: {{ TopicRulePayload: {{ Sql: SELECT * FROM 'a', {kafka} }} }}\n")
    [rule], problems = read({"t.yaml": text})
    assert problems == []
    written = parameters(rule.actions[0])
    assert written["clientProperties"] == {
        "bootstrap.servers": "h:9092", "ssl.keystore": "${a}", "ssl.keystore.password": "b", "acks": "1",
    }  # fmt: skip
    assert written["headers"] == [{"key": "a", "value": "b"}]


@pytest.mark.parametrize("kind", sorted(RESOURCES.keys() - {"AWS::IoT::TopicRule"}))
def test_a_resource_is_its_name_or_else_its_logical_id(kind: str) -> None:
    named_by, _ = RESOURCES[kind]
    for properties, name in ((f"{named_by}: given", "given"), ("", "X")):
        keys = "Sql: !Sub \"SELECT 1 AS ${X} FROM '${X.Arn}'\", Actions: []"
        more = f"X: {{ Type: {kind}, Properties: {{ {properties} }} }}"
        text = template(f"    Properties: {{ TopicRulePayload: {{ {keys} }} }}\n", more=more)
        [rule], problems = read({"t.yaml": text}, account=ACCOUNT)
        assert problems == []
        assert rule.sql.startswith(f"SELECT 1 AS {name} FROM 'arn:aws:")
        assert name in rule.sql.split("FROM")[1]


def test_other_resources_may_hold_whatever_they_like() -> None:
    text = "Resources: { A: { Type: Custom::X, Properties: !Transform { Name: a } }, B: 5, C: [!If [a, b, c]] }"
    assert read({"t.yaml": text}) == ([], [])


# ── what is not ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("keys", "at", "message"),
    [
        ("Description: !If [a, b, c]", "!If", "Fn::If is not resolved here; only Ref, Fn::Sub"),
        ("Description: { Fn::ImportValue: a }", "{ Fn", "Fn::ImportValue is not resolved here"),
        ("Description: !Ref Tabel", "!Ref Tabel", "'Tabel' is no parameter and no resource of this template"),
        ("Description: !Ref Unknown", "!Ref", "the parameter Unknown has no Default"),
        ("Description: !Ref AWS::StackId", "!Ref", "AWS::StackId is known when a stack is created, and not here"),
        ("Description: !Ref [a]", "!Ref", "must be plain text"),
        ("Description: !GetAtt Table.StreamArn", "!GetAtt", "Table.StreamArn is known when a stack is created"),
        ("Description: !GetAtt Tabel.Arn", "!GetAtt", "'Tabel' is no resource of this template; did you mean 'Table'?"),
        ("Description: !GetAtt [Table, [a]]", "[a]", "must be plain text"),
        ("Description: !GetAtt []", "!GetAtt", "must be plain text"),
        ("Description: !Sub 'a ${topic()}'", "${topic", "for a template of the rule write ${!topic()}"),
        ("Description: !Sub 'a ${X} b'", "${X}", "'X' is no parameter and no resource"),
        ("Description: !Sub ['a ${Table}']", "!Sub", "Fn::Sub is a text, or [text, { name: value }]"),
        ("Description: !Sub { a: b }", "!Sub", "must be plain text"),
        ("Description: !Join [a, !Ref Listed]", "!Ref", "a list that a function makes is not resolved here"),
        ("Description: !Join [a, !Split [',', 'b,c']]", "!Split", "a list that a function makes is not resolved here"),
        ("Description: !Join [a, [!Ref Listed]]", "!Ref", "the parameter Listed is a list, and lists are not resolved"),
        ("Description: !Ref Numbers", "!Ref", "the parameter Numbers is a list, and lists are not resolved here"),
        (
            "Description: !Ref Stored",
            "!Ref",
            "the parameter Stored is looked up in Systems Manager: it is known when a",
        ),
        (
            "Description: '${AWS::Region}/x'",
            "${AWS",
            "${AWS::Region} stays as it is in a plain text; write !Sub before",
        ),
        ("Description: !Join [a]", "!Join", "Fn::Join is [delimiter, [texts]]"),
        ("Description: !Join [a, [b, [c]]]", "[c]", "must be text, or a function"),
        ("Description: !Ref Loop", "${Loop}", "is made of itself"),
        ("Description: { a: b }", "a: b", "in a template, names begin with a capital letter: A"),
        ("description: a", "description", "in a template, names begin with a capital letter: Description"),
        ("Descriptoin: a", "Descriptoin", "Descriptoin: no such key here; did you mean 'Description'?"),
        ("RuleDisabled: maybe", "maybe", "RuleDisabled: must be true or false"),
        ("ErrorAction: { Sns: {} }", "{}", "ErrorAction.Sns.TargetArn: is missing"),
        ("ErrorAction: { Lamda: {} }", "Lamda", "ErrorAction: there is no action 'Lamda'; did you mean 'Lambda'?"),
        ("ErrorAction: { S3: { BucketName: a, Key: !Sub 'a/${!frob()}' } }", "frob()", "there is no function frob()"),
        ("ErrorAction: { Sns: { TargetArn: !Sub 'a${!b}' } }", "!Sub", "ErrorAction.Sns.TargetArn: is looked up when"),
    ],
)
def test_what_cannot_be_resolved_or_is_wrong_is_said_at_its_place(keys: str, at: str, message: str) -> None:
    tail = """
  Table: { Type: AWS::DynamoDB::Table }
  Loop: { Type: AWS::SNS::Topic, Properties: { TopicName: !Sub "${Loop}" } }
Parameters:
  Unknown: { Type: String }
  Listed: { Type: CommaDelimitedList, Default: "a,b" }
  Numbers: { Type: List<Number>, Default: "1,2" }
  Stored: { Type: AWS::SSM::Parameter::Value<String>, Default: /plant/topic }
"""
    problem = only_problem(payload(keys) + tail)
    assert message in problem.message
    assert marked(problem).startswith(at)


@pytest.mark.parametrize(
    ("resource", "at", "message"),
    [
        ("    Condition: IsProduction\n    Properties: {}\n", "IsProduction", "a rule with a Condition"),
        ("    Properties: { RuleName: a }\n", "R:", "Properties.TopicRulePayload is missing"),
        ("", "R:", "Properties is missing"),
        ("    Properties: 5\n", "5", "must be a mapping"),
        ("    Properties: { TopicRulePayload: 5 }\n", "5", "a rule is a mapping"),
        ("    Properties: { TopicRulePayload: {} , RulName: a }\n", "RulName", "a rule has no RulName; did"),
        ("    Properties: { TopicRulePayload: {}, RuleName: !If [a] }\n", "!If", "Fn::If is not resolved here"),
        ("    Properties: { TopicRulePayload: !Transform a }\n", "!Transform", "Fn::Transform is not resolved"),
    ],
)
def test_a_rule_that_a_template_only_makes_in_a_stack_is_refused(resource: str, at: str, message: str) -> None:
    problem = only_problem(template(resource))
    assert message in problem.message
    assert marked(problem).startswith(at)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("E: { Type: IoTRule, Properties: { AwsIotSqlVersion: beta } }", "Sql: is missing"),
        ("E: { Type: IoTRule, Properties: { Sql: SELECT * FROM 'a', Description: b } }", "an IoTRule event has no D"),
        ("E_1: { Type: IoTRule }", "Properties is missing"),
        ("E_1: { Type: IoTRule, Properties: { Type: a } }", "an IoTRule event has no Type"),
    ],
)
def test_a_wrong_event_of_a_function_is_told_what_is_wrong(event: str, message: str) -> None:
    function = f"F: {{ Type: AWS::Serverless::Function, Properties: {{ Events: {{ {event} }} }} }}"
    problem = only_problem(f"Resources: {{ {function} }}")
    assert message in problem.message


@pytest.mark.parametrize(
    ("resource", "near"),
    [
        ("R: { Type: AWS::IoT::TopicRules }", "AWS::IoT::TopicRule"),
        ("R: { Type: AWS::Iot::TopicRule }", "AWS::IoT::TopicRule"),
        ("R: { Type: AWS::IoT::TopcRule }", "AWS::IoT::TopicRule"),
        ("R: { Type: AWS::Serverless::Funktion }", "AWS::Serverless::Function"),
        ("F: { Type: AWS::Serverless::Function, Properties: { Events: { E: { Type: IotRule } } } }", "IoTRule"),
    ],
)
def test_what_is_nearly_a_rule_does_not_disappear_silently(resource: str, near: str) -> None:
    rules, [problem] = read({"t.yaml": f"Resources:\n  {resource}\n"})
    assert (rules, problem.severity) == ([], "warning")
    assert problem.message.startswith("this is not read, because its Type is ")
    assert problem.message.endswith(f"did you mean {near!r}?")


def test_types_that_are_really_called_something_like_a_rule_are_no_slips() -> None:
    types = ["AWS::IoT::TopicRuleDestination", "AWS::IoT::Thing", "AWS::IoT::Policy", "AWS::Lambda::Function"]
    listed = "".join(f"  R{number}: {{ Type: {kind} }}\n" for number, kind in enumerate(types))
    assert read({"t.yaml": f"Resources:\n{listed}"}) == ([], [])


def test_resources_that_only_a_stack_makes_do_not_disappear_silently() -> None:
    loop = "Fn::ForEach::Rules: [X, [a, b], { '${X}Rule': { Type: AWS::IoT::TopicRule } }]"
    problem = only_problem(f"Resources:\n  {loop}\n")
    assert "Fn::ForEach makes resources when a stack is created, and not here" in problem.message
    assert marked(problem).startswith("Fn::ForEach")


@pytest.mark.parametrize(
    "sql",
    [
        "!Sub SELECT ${A}, b FROM 'x' WHERE ¶frob(a)",
        "!Sub \"SELECT ${A},\\n b FROM '${A}' \\\n            WHERE ¶frob(a)\"",
        "!Sub\n          - SELECT ${B}, b FROM 'x' WHERE ¶frob(a)\n          - { B: c }",
        "!Join ['', [SELECT a, ' FROM ', \"'x' WHERE ¶frob(a)\"]]",
        "{ 'Fn::Sub': 'SELECT a FROM ''x'' WHERE ¶frob(${A})' }",
        "!Sub\n          - SELECT b FROM 'x' WHERE ¶${C}\n          - { C: frob(a) }",
    ],
)
def test_a_fault_in_a_statement_that_was_put_together_is_found_in_its_file(sql: str) -> None:
    parameters = "Parameters: { A: { Default: alpha } }\n"
    written = template(f"    Properties:\n      TopicRulePayload:\n        Actions: []\n        Sql: {sql}\n")
    before, after = (parameters + written).split("¶")
    problem = only_problem(before + after)
    assert problem.message.startswith("Sql: ")
    assert problem.line == before.count("\n") + 1
    assert problem.column == len(before.rsplit("\n", 1)[-1]) + 1


def test_a_text_that_unfolds_into_more_than_a_rule_may_hold_is_refused() -> None:
    twice = '  N{0}: {{ Type: AWS::SNS::Topic, Properties: {{ TopicName: !Sub "${{N{1}}}${{N{1}}}" }} }}'
    names = "\n".join(twice.format(level, level + 1) for level in range(20))
    bomb = f"Resources:\n{names}\n  N20: {{ Type: AWS::SNS::Topic }}\n  R:\n    Type: AWS::IoT::TopicRule\n"
    found = only_problem(bomb + "    Properties: { TopicRulePayload: { Sql: !Ref N0, Actions: [] } }\n")
    assert "makes a text of more than 131,072 characters" in found.message


def test_names_that_are_made_of_names_without_end_are_refused() -> None:
    longer = "  N{0}: {{ Type: AWS::SNS::Topic, Properties: {{ TopicName: !Ref N{1} }} }}"
    names = "\n".join(longer.format(level, level + 1) for level in range(5_000))
    chain = f"Resources:\n{names}\n  N5000: {{ Type: AWS::SNS::Topic }}\n  R:\n    Type: AWS::IoT::TopicRule\n"
    found = only_problem(chain + "    Properties: { TopicRulePayload: { Sql: !Ref N0, Actions: [] } }\n")
    assert "more than 32 names are made of each other" in found.message


def test_a_name_that_cannot_be_made_is_told_wherever_it_is_used() -> None:
    text = template(
        "    Properties: { TopicRulePayload: { Sql: !Ref A, Description: !Ref A, Actions: [] } }\n",
        more="A: { Type: AWS::SNS::Topic, Properties: { TopicName: !If [a, b, c] } }",
    )
    _, problems = read({"t.yaml": text})
    assert ["Fn::If is not resolved" in problem.message for problem in problems] == [True, True]


def test_every_problem_of_a_template_is_told_at_once() -> None:
    text = template(
        "    Properties: { TopicRulePayload: { Sql: !Ref A, Actions: [Sns: { TargetArn: !Ref B }] } }\n",
        more="Good: { Type: AWS::IoT::TopicRule, Properties: { TopicRulePayload: { Sql: SELECT 1, Actions: [] } } }",
    )
    [good], problems = read({"t.yaml": text})
    assert good.name == "Good"
    found = [problem.message[:7] for problem in problems if problem.severity == "error"]
    assert found == ["'A' is ", "'B' is "]


FUNCTIONS = ["Ref", "Fn::Sub", "Fn::GetAtt", "Fn::Join", "Fn::If"]
PARTS = ["TopicRulePayload", "RuleName", "Events", "Type", "Properties", "Condition", "Default"]
NAMES = ["Sql", "sql", "Actions", "ErrorAction", "Sns", "S3", "TargetArn", "Key", "RoleArn"]
KEYS = st.sampled_from([*FUNCTIONS, *PARTS, *NAMES])
TYPES = ["AWS::IoT::TopicRule", "AWS::SNS::Topic", "IoTRule"]
TEXTS = st.sampled_from([*TYPES, "A", "B", "A.Arn", "AWS::Region", "AWS::NoValue", "true"])
SOURCES = st.sampled_from(["SELECT * FROM 'a'", "${A}", "${!topic()}", "${B.Arn} x", "${", "\ud83d", "a\nb", ""])
TREES = st.recursive(
    TEXTS | SOURCES | st.none() | st.booleans() | st.integers() | st.floats(),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=4),
    max_leaves=30,
)


@given(TREES, TREES, TREES)
def test_any_template_gives_rules_or_problems_that_have_places(rule: object, other: object, parameters: object) -> None:
    payload = {"Sql": rule, "Actions": [{"Sns": other}]}
    event = {"Type": "IoTRule", "Properties": rule}
    resources = {
        "A": {"Type": "AWS::IoT::TopicRule", "Properties": rule},
        "B": other,
        "C": {"Type": "AWS::IoT::TopicRule", "Properties": {"RuleName": other, "TopicRulePayload": payload}},
        "D": {"Type": "AWS::Serverless::Function", "Properties": {"Events": {"E": event}}},
    }
    text = json.dumps({"Resources": resources, "Parameters": parameters}, indent=1)
    _, problems = read({"t.json": text})
    lines = text.split("\n")
    for problem in problems:
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1
