"""`tidegate rules export` and `tidegate rules schema`, as a user types them."""

import json
from pathlib import Path

import pytest
import yaml

from rules.files.schema import schema
from tests.rules_command import EXAMPLES, rules
from tests.rules_texts import read

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
    assert done.stderr.decode() == f"{file}:1:6: a rule is a mapping of keys to values\nBad: 1\n     ^\n"


def test_wrong_options_are_told() -> None:
    both = rules("export", EXAMPLES, "--format", "cloudformation", "--role", "arn:aws:iam::1:role/r")
    assert both.returncode == 2
    half = rules("export", EXAMPLES, "--format", "json", "--region", "eu-west-1")
    assert half.returncode == 2
    short = rules("export", EXAMPLES, "--format", "json", "--region", "eu-west-1", "--account", "1")
    assert (short.returncode, short.stderr) == (1, b"tidegate: an account has 12 digits, not '1'\n")


@pytest.mark.parametrize(
    ("region", "role", "message"),
    [
        ("mars", "arn:aws:iam::123456789012:role/r", "a region is called like eu-west-1, and not 'mars'"),
        ("eu-west-1", "rules", "the ARN of a role is arn:aws:iam::123456789012:role/NAME, and not 'rules'"),
        ("eu-west-1", "arn:aws:iam::1:role/r", "and not 'arn:aws:iam::1:role/r'"),
        ("eu-west-1", "arn:aws:sns:eu-west-1:123456789012:r", "the ARN of a role is"),
        ("us-gov-west-1", "arn:aws-us-gov:iam::123456789012:role/path/to@r", ""),
    ],
)
def test_a_region_and_a_role_must_have_the_form_that_aws_gives_them(region: str, role: str, message: str) -> None:
    options = ("--region", region, "--account", "123456789012", "--role", role)
    done = rules("export", EXAMPLES / "cloud", "--format", "json", *options)
    assert done.returncode == (1 if message else 0)
    assert message in done.stderr.decode()


def test_every_character_of_a_text_survives_a_template(tmp_path: Path) -> None:
    sql = "SELECT '\x85 \u2028 \u2029 \x7f \t😀' AS a\nFROM 'b'"
    rule = {"sql": sql, "actions": [], "description": "a \x85 b"}
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"R": rule}))
    done = rules("export", file, "--format", "cloudformation")
    assert done.returncode == 0
    [found], problems = read({"t.yaml": done.stdout.decode()})
    assert [problem for problem in problems if problem.severity == "error"] == []
    assert (found.sql, found.description) == (sql, rule["description"])


def test_the_schema_is_printed_as_json() -> None:
    done = rules("schema")
    assert done.returncode == 0
    assert json.loads(done.stdout) == schema()


def test_what_a_template_says_of_its_account_is_said_of_the_one_that_is_named(tmp_path: Path) -> None:
    file = tmp_path / "template.yaml"
    file.write_text(
        "Resources:\n"
        "  Role: { Type: AWS::IAM::Role }\n"
        "  Keep:\n"
        "    Type: AWS::IoT::TopicRule\n"
        "    Properties:\n"
        "      TopicRulePayload:\n"
        "        Sql: SELECT * FROM 'a/#'\n"
        "        Actions: [{ S3: { BucketName: b, Key: k, RoleArn: !GetAtt Role.Arn } }]\n"
    )
    done = rules("export", str(file), "--format", "json", "--region", "eu-west-1", "--account", "123456789012")
    [document] = json.loads(done.stdout)
    [action] = document["topicRulePayload"]["actions"]
    assert action["s3"]["roleArn"] == "arn:aws:iam::123456789012:role/Role"
