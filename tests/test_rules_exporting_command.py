"""`tidegate rules export` and `tidegate rules schema`, as a user types them."""

import json
from pathlib import Path

import yaml

from rules.files import read
from rules.files.schema import schema
from tests.rules_command import EXAMPLES, rules

ACCOUNT = ("--region", "eu-west-1", "--account", "123456789012", "--role", "arn:aws:iam::123456789012:role/rules")


def test_the_examples_become_a_template_that_is_a_rules_file_too() -> None:
    done = rules("export", EXAMPLES / "cloud", EXAMPLES / "edge", "--format", "cloudformation")
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    assert "Sql: |\n" in text
    assert list(yaml.safe_load(text)) == ["AWSTemplateFormatVersion", "Description", "Parameters", "Resources"]
    found, problems = read({"t.yaml": text})
    assert [rule.name for rule in found] == ["Readings", "Alarms", "Overheat"]
    assert problems == []


def test_the_examples_become_documents_for_the_aws_cli() -> None:
    done = rules("export", EXAMPLES / "cloud", "--format", "json", *ACCOUNT)
    assert (done.returncode, done.stderr) == (0, b"")
    documents = json.loads(done.stdout)
    assert [document["ruleName"] for document in documents] == ["Readings", "Alarms"]
    [sns] = documents[1]["topicRulePayload"]["actions"]
    assert sns["sns"]["targetArn"] == "arn:aws:sns:eu-west-1:123456789012:alerts"


def test_a_template_says_again_what_stands_in_it_twice(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("R: { sql: SELECT * FROM 'a', actions: [lambda: { functionArn: triage }] }")
    text = rules("export", file, "--format", "cloudformation").stdout.decode()
    assert text.count("function:triage") == 2
    assert "*" not in text.replace("SELECT *", "")


def test_what_is_not_exported_is_told_and_the_exit_code_is_1() -> None:
    done = rules("export", EXAMPLES / "cloud", "--format", "json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == []
    assert done.stderr.decode().splitlines() == [
        "not exported: Readings: actions[0].dynamoDBv2: AWS wants a role that may do it; say which",
        "not exported: Alarms: actions[0].sns: AWS wants more than the name 'alerts'; say for which region and account",
    ]


def test_wrong_files_are_not_exported(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("Bad: 1\n")
    done = rules("export", file, "--format", "cloudformation")
    assert (done.returncode, done.stdout) == (78, b"")
    assert done.stderr.decode() == f"rules: {file}:1:6: a rule is a mapping of keys to values\n"


def test_wrong_options_are_told() -> None:
    both = rules("export", EXAMPLES, "--format", "cloudformation", "--role", "arn:aws:iam::1:role/r")
    assert both.returncode == 2
    half = rules("export", EXAMPLES, "--format", "json", "--region", "eu-west-1")
    assert half.returncode == 2
    short = rules("export", EXAMPLES, "--format", "json", "--region", "eu-west-1", "--account", "1")
    assert (short.returncode, short.stderr) == (1, b"tidegate: an account has 12 digits, not '1'\n")


def test_the_schema_is_printed_as_json() -> None:
    done = rules("schema")
    assert done.returncode == 0
    assert json.loads(done.stdout) == schema()
