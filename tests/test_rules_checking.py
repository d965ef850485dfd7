"""`tidegate rules check`: everything that is wrong, each with its place; exit codes for those who only want to know."""

import json
import re
import shlex
import string
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rules_command import EXAMPLES, ROOT, rules


def test_good_files_check_with_exit_code_0() -> None:
    done = rules("check", EXAMPLES / "edge", EXAMPLES / "cloud" / "readings.yaml")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"no problems; files: 2, rules: 3\n"
    as_json = rules("check", EXAMPLES / "cloud", "--side", "cloud", "--json")
    assert json.loads(as_json.stdout)["rules"] == ["Readings", "Alarms"]


def test_every_error_is_printed_with_its_place_and_a_caret_and_the_exit_code_is_78(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("Bad:\n  sql: SELECT a FROM 'x' WHERE a = = 1\n  actions: [sns: {targetArn: x}]\n")
    done = rules("check", file, "--side", "edge")
    assert (done.returncode, done.stdout) == (78, b"")
    assert done.stderr.decode().split("\n") == [
        f"{file}:2:36: sql: expected a value, found '=': write a = b, with one =",
        "  sql: SELECT a FROM 'x' WHERE a = = 1",
        "                                   ^",
        f"{file}:3:13: actions[0]: this side cannot run 'sns' yet; it runs: lambda, republish",
        "  actions: [sns: {targetArn: x}]",
        "            ^",
        "2 errors; files: 1, rules: 0",
        "",
    ]


DOUBTFUL = """\
Round:
  awsIotSqlVersion: "2016-03-23"
  sql: |
    SELECT *, topic(2) AS line
    FROM 'plant/#'
    WHERE colour > 'red'
  actions:
    - republish: { topic: "plant/${line}/alarm" }
"""


def test_a_warning_is_printed_too_and_the_exit_code_is_0(tmp_path: Path) -> None:
    file = tmp_path / "doubtful.yaml"
    file.write_text(DOUBTFUL)
    done = rules("check", file)
    assert (done.returncode, done.stdout) == (0, b"3 warnings; files: 1, rules: 1\n")
    assert (
        done.stderr.decode()
        == f"""\
{file}:6:20: warning: sql: WHERE is never true: 'red' is no number, and < and > compare numbers only
    WHERE colour > 'red'
                   ^
{file}:8:27: warning: actions[0].republish.topic: a message goes round: the rule's own FROM 'plant/#' hears what it \
republishes, unless the WHERE of Round ends it; republish to topics that no FROM hears
    - republish: {{ topic: "plant/${{line}}/alarm" }}
                          ^
{file}:8:36: warning: actions[0].republish.topic: a template sees the message and not the output, so line is a member \
of the message; for what SELECT calls line, write topic(2)
    - republish: {{ topic: "plant/${{line}}/alarm" }}
                                   ^
"""
    )
    assert rules("check", file, "--strict").returncode == 1


def test_errors_and_warnings_stand_in_the_order_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(DOUBTFUL + "\nWrong: { sql: SELEKT }\n")
    (tmp_path / "b.yaml").write_text("Empty: { sql: SELECT a FROM 'plant/', actions: [] }\n")
    done = rules("check", tmp_path, "--json")
    assert done.returncode == 78
    document = json.loads(done.stdout)
    assert (document["errors"], document["warnings"], document["rules"]) == (2, 5, ["Round", "Empty"])
    found = document["problems"]
    places = [(Path(problem["file"]).name, problem["line"], problem["severity"]) for problem in found]
    assert places == [
        ("a.yaml", 6, "warning"), ("a.yaml", 8, "warning"), ("a.yaml", 8, "warning"), ("a.yaml", 10, "error"),
        ("a.yaml", 10, "error"), ("b.yaml", 1, "warning"), ("b.yaml", 1, "warning"),
    ]  # fmt: skip
    codes = [problem["code"] for problem in found]
    assert codes == ["never-true", "loop", "alias", "", "", "empty-level", "no-action"]
    assert found[1]["suggestion"] == "republish to topics that no FROM hears"


def test_problems_can_be_had_as_json(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("Bad: 1\n")
    done = rules("check", file, "--json")
    assert done.returncode == 78
    [problem] = json.loads(done.stdout)["problems"]
    assert problem == {
        "file": str(file), "line": 1, "column": 6, "message": "a rule is a mapping of keys to values",
        "excerpt": "Bad: 1\n     ^", "severity": "error", "code": "", "suggestion": "",
    }  # fmt: skip


def test_a_missing_directory_is_said_with_exit_code_78(tmp_path: Path) -> None:
    done = rules("check", tmp_path / "nowhere")
    assert done.returncode == 78
    assert done.stderr.decode() == f"cannot read: {tmp_path}/nowhere: there is no such file or directory\n"


@pytest.mark.parametrize("page", ["files", "actions"])
def test_every_file_of_the_documentation_passes(tmp_path: Path, page: str) -> None:
    text = (ROOT / "docs" / "rules" / f"{page}.md").read_text()
    blocks = re.findall(r"```(yaml|json)\n(.*?)```", text, re.DOTALL)
    assert blocks
    for number, (kind, block) in enumerate(blocks):
        file = tmp_path / f"{page}{number}.{kind}"
        file.write_text(block)
        done = rules("check", file)
        assert done.returncode == 0, done.stderr.decode()


def test_without_a_side_every_action_of_aws_is_known(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("R: { sql: SELECT * FROM 'a', actions: [sqs: { queueUrl: triage }] }")
    assert rules("check", file).returncode == 0
    done = rules("check", file, "--side", "cloud")
    assert done.returncode == 78
    told = done.stderr.decode()
    assert "this side cannot run 'sqs' yet; it runs: dynamoDBv2, firehose, lambda, republish, sns" in told


EMPTY = {"none.yaml": "", "list.json": "[]", "mapping.json": "{}", "comment.yaml": "# R:\n"}


def test_a_path_without_any_rule_is_warned_about(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "rule.yaml").write_text("R: { sql: SELECT * FROM 'a', actions: [republish: { topic: b }] }")
    (tmp_path / "template.yaml").write_text("Resources: { T: { Type: AWS::SNS::Topic } }")
    for name, text in EMPTY.items():
        (tmp_path / name).write_text(text)
        (tmp_path / "some" / name).write_text(text)
    named = [tmp_path / name for name in ("nothing", "some", "template.yaml", *EMPTY)]
    done = rules("check", *named, "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)["problems"]
    assert [problem["file"] for problem in found] == [str(path) for path in named if path.name != "some"]
    assert {(problem["message"], problem["severity"], problem["code"]) for problem in found} == {
        ("there is no rule here", "warning", "no-rule"),
    }  # fmt: skip
    assert rules("check", tmp_path / "nothing", "--strict").returncode == 1


def test_tests_among_named_files_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "hot.yaml").write_text("R: { sql: SELECT * FROM 'a', actions: [republish: { topic: b }] }")
    (tmp_path / "hot.test.yaml").write_text("tests: []")
    named = sorted(tmp_path.glob("*.yaml"))
    sentence = f"left out, being for `tidegate rules test`: {tmp_path}/hot.test.yaml\n"
    done = rules("check", *named)
    assert (done.returncode, done.stdout) == (0, b"no problems; files: 1, rules: 1\n")
    assert done.stderr.decode() == sentence
    exported = rules("export", *named, "--format", "cloudformation")
    assert (exported.returncode, exported.stderr.decode()) == (0, sentence)


def test_a_link_to_nothing_among_rules_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("nowhere.yaml")
    done = rules("check", tmp_path)
    assert done.returncode == 78
    assert done.stderr.decode() == f"cannot read: {tmp_path}/a.yaml: a symbolic link to nothing\n"


def test_a_caret_stands_under_its_character_on_a_terminal_that_obeys_nothing(tmp_path: Path) -> None:
    file = tmp_path / "wide.yaml"
    file.write_text("R: {actions: [], sql: \"SELECT 'e\u0301日本\u202e' AS FROM 'a'\"}")
    done = rules("check", file)
    assert done.returncode == 78
    _, line, caret, _, _ = done.stderr.decode().split("\n")
    assert line == "R: {actions: [], sql: \"SELECT 'e\u0301日本\\u202e' AS FROM 'a'\"}"
    before = line[: line.index("'a'\"")]
    assert len(caret) - 1 == len(before) + len("日本") - len("\u0301")  # in cells: wide, and without a cell of its own


@pytest.mark.parametrize(("options", "text", "code"), [((), "Bad: 1", 78), (("--json",), "Bad: 1", 78), ((), "", 0)])
def test_a_closed_standard_output_changes_no_exit_code(
    tmp_path: Path, options: tuple[str, ...], text: str, code: int
) -> None:
    (tmp_path / "a.yaml").write_text(text)
    command = shlex.join([sys.executable, "-m", "tidegate.main", "rules", "check", str(tmp_path / "a.yaml"), *options])
    done = subprocess.run(["sh", "-c", f"{command} >&-"], stderr=subprocess.PIPE, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == code
    assert b"Traceback" not in done.stderr


# ── with a cloud's configuration ────────────────────────────────────────────────────────────────────────────

CLOUD = """
[cloud]
data_dir = "cloud"
[[listeners]]
address = "127.0.0.1:1883"
anonymous = true
[targets.tables.readings]
keys = ["machine", "reading"]
[targets.streams.telemetry]
[targets.topics.alerts]
subscriptions = [{ log = true }]
"""
TARGETS = """
Kept:
  sql: SELECT reading FROM 'a'
  actions:
    - dynamoDBv2: { putItem: { tableName: readings } }
    - dynamoDBv2: { putItem: { tableName: other } }
    - firehose: { deliveryStreamName: readings }
    - sns: { targetArn: alerts }
  errorAction: { sns: { targetArn: nobody } }
"""


def test_tables_streams_and_topics_are_held_against_the_clouds(tmp_path: Path) -> None:
    (tmp_path / "cloud.toml").write_text(CLOUD)
    (tmp_path / "kept.yaml").write_text(TARGETS)
    assert rules("check", tmp_path / "kept.yaml").returncode == 0
    done = rules("check", tmp_path / "kept.yaml", "--config", tmp_path / "cloud.toml", "--json")
    assert done.returncode == 78
    problems = json.loads(done.stdout)["problems"]
    assert [(problem["line"], problem["severity"], problem["code"]) for problem in problems] == [
        (5, "warning", "no-member"), (6, "error", "unknown-target"), (7, "error", "unknown-target"),
        (9, "error", "unknown-target"),
    ]  # fmt: skip
    assert "the key of the table readings has 'machine'" in problems[0]["message"]
    assert "no table 'other'; add [targets.tables.other] (configured: readings)" in problems[1]["message"]


def test_a_topic_may_be_named_by_its_arn_as_in_the_cloud(tmp_path: Path) -> None:
    (tmp_path / "cloud.toml").write_text(CLOUD)
    rule = "R: {{ sql: SELECT * FROM 'a', actions: [sns: {{ targetArn: 'arn:aws:sns:eu-west-1:123456789012:{}' }}] }}"
    (tmp_path / "right.yaml").write_text(rule.format("alerts"))
    (tmp_path / "wrong.yaml").write_text(rule.format("alarms"))
    assert rules("check", tmp_path / "right.yaml", "--config", tmp_path / "cloud.toml").returncode == 0
    done = rules("check", tmp_path / "wrong.yaml", "--config", tmp_path / "cloud.toml")
    assert done.returncode == 78
    assert "no topic 'alarms'; add [targets.topics.alarms] (configured: alerts)" in done.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--config", "{}/cloud.toml", "--side", "edge"], 2, "tables, streams and topics are a cloud's"),
        (["--config", "{}/nowhere.toml"], 78, "nowhere.toml"),
        (["--config", "{}/broken.toml"], 78, "broken.toml"),
        (["--side", "moon"], 2, "moon"),
    ],
)
def test_options_that_make_no_sense_are_told(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    (tmp_path / "cloud.toml").write_text(CLOUD)
    (tmp_path / "broken.toml").write_text("[cloud")
    (tmp_path / "kept.yaml").write_text(TARGETS)
    done = rules("check", tmp_path / "kept.yaml", *(argument.format(tmp_path) for argument in arguments))
    assert (done.returncode, done.stdout) == (code, b"")
    assert message in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_the_demos_rules_fit_the_demos_cloud(tmp_path: Path) -> None:
    words = {"CLOUD_PORT": "1883", "RULES": str(EXAMPLES)}
    config = string.Template((ROOT / "examples" / "demo" / "cloud.toml").read_text()).substitute(words)
    (tmp_path / "cloud.toml").write_text(config)
    done = rules("check", EXAMPLES / "cloud", "--config", tmp_path / "cloud.toml", "--strict")
    assert (done.returncode, done.stdout) == (0, b"no problems; files: 1, rules: 2\n")
    assert rules("check", EXAMPLES / "edge", "--side", "edge", "--strict").returncode == 0


def test_warnings_of_one_kind_can_be_allowed(tmp_path: Path) -> None:
    file = tmp_path / "loop.yaml"
    file.write_text("Loop:\n  sql: SELECT * FROM 'a/b' WHERE n > 1\n  actions: [republish: { topic: a/b }]\n")
    assert rules("check", str(file), "--strict").returncode == 1
    assert rules("check", str(file), "--strict", "--allow", "loop").returncode == 0
