"""`tidegate rules`, as a process: what it prints, where, and with which exit code."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tidegate.rules import LINE_BYTES_MAX, RUNS, Side

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples" / "rules"
DEEP = base64.b64encode(b"[" * 900 + b"]" * 900).decode()


def rules(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tidegate.rules", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, cwd=ROOT, check=False, timeout=60)


def evaluate(*requests: Any) -> list[Any]:
    lines = [request if isinstance(request, bytes) else json.dumps(request).encode() for request in requests]
    done = rules("eval", "--jsonl", stdin=b"\n".join(lines))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_each_side_runs_what_its_daemon_says() -> None:
    import cloud.daemon
    import edge.daemon

    assert RUNS == {Side.EDGE: edge.daemon.ACTIONS, Side.CLOUD: cloud.daemon.ACTIONS}


# ── check ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_good_files_check_with_exit_code_0() -> None:
    done = rules("check", EXAMPLES / "edge", EXAMPLES / "cloud" / "readings.yaml")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"no problems; files: 2, rules: 3\n"
    as_json = rules("check", EXAMPLES / "cloud", "--side", "cloud", "--json")
    assert json.loads(as_json.stdout)["rules"] == ["Readings", "Alarms"]


def test_every_problem_is_printed_with_its_place_and_a_caret_and_the_exit_code_is_78(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("Bad:\n  sql: SELECT a FROM 'x' WHERE a = = 1\n  actions: [sns: {targetArn: x}]\n")
    done = rules("check", file, "--side", "edge")
    assert (done.returncode, done.stdout) == (78, b"")
    assert done.stderr.decode().split("\n") == [
        f"{file}:2:36: sql: expected a value, found '='",
        "  sql: SELECT a FROM 'x' WHERE a = = 1",
        "                                   ^",
        f"{file}:3:13: actions[0]: this side cannot run 'sns' yet; it runs: republish",
        "  actions: [sns: {targetArn: x}]",
        "            ^",
        "",
    ]


def test_problems_can_be_had_as_json(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("Bad: 1\n")
    done = rules("check", file, "--json")
    assert done.returncode == 78
    [problem] = json.loads(done.stdout)["problems"]
    assert problem == {
        "file": str(file), "line": 1, "column": 6, "message": "a rule is a mapping of keys to values",
        "excerpt": "Bad: 1\n     ^",
    }  # fmt: skip


def test_a_missing_directory_is_said_with_exit_code_78(tmp_path: Path) -> None:
    done = rules("check", tmp_path / "nowhere")
    assert done.returncode == 78
    assert done.stderr.decode() == f"cannot read: {tmp_path}/nowhere: there is no such file or directory\n"


# ── eval ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def answers() -> dict[Any, Any]:
    binary = base64.b64encode(b"\xff\x00").decode()
    requests: list[Any] = [
        {"id": 1, "sql": "SELECT a AS x FROM 't/+' WHERE a > 1", "topic": "t/1", "payload": {"a": 2.0}},
        {"id": 2, "sql": "SELECT a AS x FROM 't/+' WHERE a > 1", "topic": "t/1", "payload": {"a": 1}},
        {"id": 3, "sql": "SELECT a FROM 't/#'", "topic": "t", "payload": {"a": 1}},
        {"id": "no from", "sql": "SELECT *", "topic": "x", "payload": [1, None]},
        {"id": "bytes", "sql": "SELECT * FROM 'x'", "topic": "x", "payload_b64": binary},
        {"id": "empty", "sql": "SELECT * FROM 'x'", "topic": "x"},
        {"id": "2015", "sql": "SELECT a", "topic": "x", "payload": {"a": 2.0}, "sql_version": "2015-10-08"},
        {
            "id": "context", "sql": "SELECT clientid() AS c, timestamp() AS t", "topic": "x", "payload": {},
            "context": {"clientid": "oven", "timestamp": 1700, "sourceip": "::1"},
            "templates": ["a/${topic()}/${missing}", "${timestamp() + 1}"],
        },
        {"id": "named", "sql": "SELECT 1 AS a", "topic": "x", "templates": {"key": "${clientid()}"}},
        {"id": "sql", "sql": "SELECT a\nFROM 'x'\nWHERE CASE", "topic": "x", "payload": {}},
        {"id": "template", "sql": "SELECT a", "topic": "x", "payload": {}, "templates": ["${a", "b"]},
        {"id": "topic", "sql": "SELECT a", "payload": {}},
        {"id": "wildcard", "sql": "SELECT a", "topic": "a/#"},
        {"id": "version", "sql": "SELECT a", "topic": "a", "sql_version": "beta"},
        {"id": "base64", "sql": "SELECT a", "topic": "a", "payload_b64": "!"},
        {"id": "unknown", "sql": "SELECT a", "topic": "a", "qos": 1},
        {"id": "deep", "sql": "SELECT *", "topic": "a", "payload_b64": DEEP},
        b"  ",
        b"not json",
        b'["a list"]',
        b'{"id": "long", "sql": "' + b"x" * LINE_BYTES_MAX + b'"}',
        {"id": "last", "sql": "SELECT 9223372036854775807 * 2 AS x", "topic": "a"},
    ]  # fmt: skip
    found = evaluate(*requests)
    assert len(found) == len(requests) - 1  # a blank line has no answer
    nameless = [answer for answer in found if answer["id"] is None]
    return {answer["id"]: answer for answer in found if answer["id"] is not None} | {None: nameless}


@pytest.mark.parametrize(
    ("identity", "answer"),
    [
        (1, {"matched": True, "payload": {"x": 2}}),
        (2, {"matched": False}),
        (3, {"matched": False}),
        ("no from", {"matched": True, "payload": [1, None]}),
        ("bytes", {"matched": True, "payload_b64": "/wA="}),
        ("empty", {"matched": True, "payload_b64": ""}),
        ("2015", {"matched": True, "payload": {"a": 2.0}}),
        ("context", {"matched": True, "payload": {"c": "oven", "t": 1700}, "templates": ["a/x/", "1701"]}),
        ("named", {"matched": True, "payload": {"a": 1}, "templates": {"key": "n/a"}}),
        ("last", {"matched": True, "payload": {"x": 18446744073709551614}}),
    ],
)
def test_a_request_is_answered(answers: dict[Any, Any], identity: Any, answer: dict[str, Any]) -> None:
    assert answers[identity] == {"id": identity, **answer}
    assert json.dumps(answers[identity]) == json.dumps({"id": identity, **answer})


@pytest.mark.parametrize(
    ("identity", "message", "line", "column"),
    [
        ("sql", "CASE is not supported yet", 3, 7),
        ("template", "expected the } that ends ${…}, found the end", 1, 4),
        ("topic", "topic: Field required", None, None),
        ("wildcard", "topic 'a/#' holds a wildcard", None, None),
        ("version", "sql_version is 2015-10-08 or 2016-03-23, not 'beta'", None, None),
        ("base64", "payload_b64: ", None, None),
        ("unknown", "qos: Extra inputs are not permitted", None, None),
        ("deep", "nested too deeply", None, None),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    answers: dict[Any, Any], identity: str, message: str, line: int | None, column: int | None
) -> None:
    assert answers[identity].keys() == {"id", "error"}
    error = answers[identity]["error"]
    assert message in error["message"]
    assert (error["line"], error["column"]) == (line, column)


def test_a_line_that_is_no_request_is_answered_and_the_next_one_too(answers: dict[Any, Any]) -> None:
    messages = [answer["error"]["message"] for answer in answers[None]]
    assert len(messages) == 3
    assert "4,194,304 bytes" in messages[2]
    assert "last" in answers


def test_eval_without_jsonl_says_how_to_use_it() -> None:
    done = rules("eval")
    assert done.returncode == 2
    assert b"--jsonl" in done.stderr


# ── explain ─────────────────────────────────────────────────────────────────────────────────────────────────


def explain(
    temperature: Any, topic: str = "plant/l1/machine/telemetry", *more: str
) -> subprocess.CompletedProcess[bytes]:
    payload = json.dumps({"temperature": temperature}).encode()
    return rules(
        "explain", "Alarms", "--topic", topic, "--file", EXAMPLES, "--file", EXAMPLES / "cloud", *more, stdin=payload
    )


def test_explain_shows_the_value_of_every_part_of_where() -> None:
    facts = json.loads(explain(110.0, "plant/l1/machine/telemetry", "--json").stdout)
    assert facts["filter"] == "plant/+/machine/telemetry"
    assert [facts[key] for key in ("filter_matches", "payload_is_json", "where_is_true", "acts")] == [True] * 4
    assert facts["where"] == [
        {"expression": "temperature > 105 OR temperature < 20", "value": True},
        {"expression": "temperature > 105", "value": True},
        {"expression": "temperature", "value": 110},
        {"expression": "temperature < 20", "value": False},
        {"expression": "temperature", "value": 110},
    ]
    assert facts["output"] == {"temperature": 110, "machine": "machine"}


def test_explain_says_why_nothing_happens() -> None:
    cool = explain(70).stdout.decode()
    assert "WHERE is not true" in cool
    assert "so nothing happens" in cool
    elsewhere = explain(110, "plant/l1/ambient/telemetry").stdout.decode()
    assert "FROM 'plant/+/machine/telemetry' does not hear plant/l1/ambient/telemetry" in elsewhere
    assert "so nothing happens" in elsewhere
    strange = json.loads(explain("hot", "plant/l1/machine/telemetry", "--json").stdout)
    assert strange["where"][0] == {"expression": "temperature > 105 OR temperature < 20"}  # no value: Undefined
    assert "output" not in strange


def test_explain_knows_which_rules_there_are() -> None:
    done = rules("explain", "Alarm", "--topic", "a", "--file", EXAMPLES / "cloud")
    assert done.returncode == 1
    assert done.stderr == b"tidegate: there is no rule Alarm; there are: Readings, Alarms\n"
