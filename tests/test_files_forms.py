"""The forms of rules files beside our own: what the AWS CLI prints and takes, and what is said about half of one."""

import json
import re
from pathlib import Path

import pytest

from rules.actions import ACTIONS
from rules.errors import Problem, RulesError
from rules.files import parse
from rules.files.reader import PAYLOAD_BYTES_MAX
from tests.rules_texts import read

PAYLOAD = {
    "sql": "SELECT temperature FROM 'plant/+'",
    "description": "Hot.",
    "actions": [{"sns": {"targetArn": "arn:aws:sns:eu-west-1:1:alerts", "roleArn": "arn:aws:iam::1:role/r"}}],
    "ruleDisabled": False,
    "awsIotSqlVersion": "2016-03-23",
    "errorAction": {"republish": {"topic": "errors", "roleArn": "arn:aws:iam::1:role/r", "qos": 1}},
}
GOT = {  # as `aws iot get-topic-rule` prints it
    "ruleArn": "arn:aws:iot:eu-west-1:1:rule/Overheat",
    "rule": {"ruleName": "Overheat", "createdAt": "2026-04-01T10:00:00+02:00", **PAYLOAD},
}
CREATED = {"ruleName": "Overheat", "topicRulePayload": PAYLOAD, "tags": "a=b"}


def problem(text: str, *, file: str = "a.json") -> Problem:
    rules, [found] = read({file: text})
    assert not rules
    return found


@pytest.mark.parametrize(
    ("file", "written"),
    [
        ("a.yaml", {"Overheat": PAYLOAD}),
        ("got.json", GOT),
        ("created.json", CREATED),
        ("rules/of/Overheat.json", PAYLOAD),
        ("list.json", [GOT]),
        ("list.json", [CREATED]),
    ],
)
def test_every_form_gives_the_same_rule(file: str, written: object) -> None:
    [rule], problems = read({file: json.dumps(written, indent=2)})
    [expected] = parse({"x.json": json.dumps({"Overheat": PAYLOAD})}, supported=frozenset({"sns", "republish"}))
    assert problems == []
    assert (rule.name, rule.sql, rule.version) == ("Overheat", expected.sql, expected.version)
    assert (rule.description, rule.disabled) == ("Hot.", False)
    assert rule.actions == expected.actions
    assert rule.error_action == expected.error_action is not None


def test_a_list_holds_several_rules() -> None:
    second = {"ruleName": "Second", "topicRulePayload": PAYLOAD}
    rules, problems = read({"list.json": json.dumps([GOT, second])})
    assert [rule.name for rule in rules] == ["Overheat", "Second"]
    assert problems == []


def test_a_rule_may_be_called_like_a_key_of_another_form() -> None:
    names = ["rule", "sql", "actions", "Resources", "topicRulePayloads", "ruleName"]
    rules, problems = read({"a.json": json.dumps(dict.fromkeys(names, PAYLOAD))})
    assert problems == []
    assert [rule.name for rule in rules] == names


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"topicRulePayload": PAYLOAD}, "ruleName is missing"),
        ({"ruleName": "a-b", "topicRulePayload": PAYLOAD}, "a rule name is 1 to 128"),
        ({**CREATED, "tag": "a"}, "no such key here: 'tag'"),
        ({**GOT, "sql": "SELECT 1"}, "no such key here: 'sql'"),
        ({"ruleName": "A", "topicRulePayload": 5}, "a rule is a mapping"),
        ([PAYLOAD], "a rules file maps rule names to rules, or lists documents with ruleName"),
        ([GOT, GOT], "there is a rule Overheat already, in a.json:1"),
        ({"sql": "SELECT 1 FROM 'a'", "actions": [], "createdAt": 5}, "createdAt: no such key here"),
        ({"sql": "SELECT 1 FROM 'a'"}, "actions: is missing"),
        ({"actions": []}, "sql: is missing"),
    ],
)
def test_what_is_wrong_with_a_document_of_aws_is_said(written: object, message: str) -> None:
    rules, [*_, found] = read({"a.json": json.dumps(written)})
    assert message in found.message
    assert found.severity == "error"
    assert len(rules) == (written == [GOT, GOT])


@pytest.mark.parametrize("cut", [False, True])
def test_whoever_lists_rules_is_told_to_get_them(cut: bool) -> None:
    listed = [{"ruleArn": "arn:aws:iot:eu-west-1:1:rule/A", "ruleName": "A", "topicPattern": "a"}]
    found = problem(json.dumps(listed if cut else {"rules": listed}))
    assert "ask for each rule with `aws iot get-topic-rule`" in found.message


def test_a_file_whose_name_is_no_rule_name_cannot_hold_a_lone_payload() -> None:
    found = problem(json.dumps(PAYLOAD), file="rules/over-heat.json")
    assert (found.line, found.column) == (1, 1)
    assert "a rule name is 1 to 128 letters" in found.message


def test_a_rule_without_from_is_for_basic_ingest_and_warned_about() -> None:
    texts = {"a.yaml": "R: { sql: SELECT a, actions: [] }"}
    [rule], [warning] = read(texts)
    assert rule.statement.source is None
    assert str(warning) == (
        "a.yaml:1:11: warning: sql: without FROM, the rule hears only what is published on $aws/rules/R"
    )
    assert [rule.name for rule in parse(texts, supported=frozenset())] == ["R"]


def test_a_rule_as_large_as_aws_takes_it_is_taken_and_a_larger_one_is_not() -> None:
    def with_bytes(size: int) -> str:
        rule = {"sql": "SELECT a FROM 'b'", "actions": [], "description": ""}
        rule["description"] = "x" * (size - len(json.dumps(rule)))
        return json.dumps({"R": rule})

    assert read({"a.json": with_bytes(PAYLOAD_BYTES_MAX)})[1] == []
    assert "131,073 bytes as JSON" in problem(with_bytes(PAYLOAD_BYTES_MAX + 1)).message


def test_read_knows_every_action_and_keeps_the_good_rules_beside_bad_ones() -> None:
    text = """
    Good: { sql: SELECT * FROM 'a', actions: [lambda: { functionArn: triage }] }
    Bad: { sql: SELECT * FROM 'a', actions: [lambda: {}] }
    """
    rules, [error] = read({"a.yaml": text})
    assert [rule.name for rule in rules] == ["Good"]
    assert error.message == "actions[0].lambda.functionArn: is missing"
    _, unsupported = read({"a.yaml": text}, frozenset({"sns"}))
    messages = [found.message for found in unsupported]
    assert messages == ["actions[0]: this side cannot run 'lambda' yet; it runs: sns"] * 2


def test_what_calls_out_is_refused_in_statements_and_templates_where_nobody_answers() -> None:
    text = """
    R:
      sql: SELECT get_thing_shadow(topic(2), 'role') AS shadow FROM 'a/+'
      awsIotSqlVersion: "2016-03-23"
      actions: [republish: { topic: "${get_thing_shadow(topic(2), 'role').state}" }]
    """
    assert len(parse({"a.yaml": text}, supported=frozenset({"republish"}))) == 1
    with pytest.raises(RulesError) as caught:
        parse({"a.yaml": text}, supported=frozenset({"republish"}), calls=frozenset({"get_secret"}))
    assert [problem.message.split(":")[0] for problem in caught.value.found] == ["sql", "actions[0].republish.topic"]
    assert all("get_thing_shadow()" in problem.message for problem in caught.value.found)


# ── the documentation ───────────────────────────────────────────────────────────────────────────────────────

DOCS = Path(__file__).parent.parent / "docs" / "rules"
BLOCKS = [
    pytest.param(f"{page}-{number}.{kind}", text, id=f"{page}-{number}")
    for page in ("files", "actions")
    for number, (kind, text) in enumerate(
        re.findall(r"```(yaml|json)\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)
    )
]


@pytest.mark.parametrize(("file", "text"), BLOCKS)
def test_a_file_in_the_documentation_is_a_rules_file(file: str, text: str) -> None:
    rules, problems = read({file: text})
    assert rules
    assert problems == []


def test_the_documentation_shows_files_and_names_every_key_of_every_action() -> None:
    assert len(BLOCKS) >= 4
    page = (DOCS / "actions.md").read_text()
    for action in ACTIONS.values():
        keys = {str(field.alias) for field in action.model_fields.values()} - {"roleArn"}
        assert f"`{action.name}`" in page
        assert [key for key in keys if not re.search(rf"[`.]{key}[`.]", page)] == []
