"""`tidegate rules explain`: why a rule did or did not fire for a message."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.rules_command import EXAMPLES, ROOT, rules

ALARMS = ("explain", "Alarms", "--file", EXAMPLES / "edge", "--file", EXAMPLES / "cloud", "--topic")
HEARD = "plant/l1/machine/telemetry"
HOT = """\
Hot:
  awsIotSqlVersion: "2016-03-23"
  sql: |
    SET @limit = get_thing_shadow(clientid()).state.desired.limit
    SELECT temperature, @limit AS max
    FROM 'plant/+/telemetry'
    WHERE temperature > @limit OR colour = 'red'
  actions:
    - republish: { topic: "alarm/${topic(2)}/${@limit}" }
    - sns: { targetArn: alerts }
  errorAction:
    republish: { topic: "errors/${topic(2)}" }
"""
STUBS = {"stubs": {"shadows": {"m1": {"state": {"desired": {"limit": 100}}}}}, "timestamp": 5}


def explain(temperature: Any, topic: str = HEARD, *more: str) -> subprocess.CompletedProcess[bytes]:
    return rules(*ALARMS, topic, *more, stdin=json.dumps({"temperature": temperature}).encode())


@pytest.fixture
def hot(tmp_path: Path) -> tuple[str | Path, ...]:
    (tmp_path / "hot.yaml").write_text(HOT)
    (tmp_path / "context.json").write_text(json.dumps(STUBS))
    return ("explain", "Hot", "--file", tmp_path / "hot.yaml", "--context", tmp_path / "context.json", "--topic")


def test_explain_shows_the_value_and_type_of_every_part_of_where() -> None:
    facts = json.loads(explain(110.0, HEARD, "--json").stdout)
    assert facts["filter"] == "plant/+/machine/telemetry"
    assert [facts[key] for key in ("filter_matches", "payload_is_json", "where_is_true", "acts")] == [True] * 4
    assert facts["where"] == [
        {"expression": "temperature > 105 OR temperature < 20", "depth": 0, "type": "Boolean", "value": True},
        {"expression": "temperature > 105", "depth": 1, "type": "Boolean", "value": True},
        {"expression": "temperature", "depth": 2, "type": "Int", "value": 110},
        {"expression": "temperature < 20", "depth": 1, "type": "", "skipped": True},
    ]
    assert facts["output"] == {"temperature": 110, "machine": "machine"}
    assert facts["actions"] == [{"action": "sns", "parameters": {"targetArn": "alerts", "messageFormat": "RAW"}}]


def test_explain_is_written_for_people() -> None:
    done = explain(110.0)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [line.rstrip() for line in done.stdout.decode().splitlines()] == [
        "FROM 'plant/+/machine/telemetry' hears plant/l1/machine/telemetry",
        "expression                             type     value",
        "temperature > 105 OR temperature < 20  Boolean  true",
        "  temperature > 105                    Boolean  true",
        "    temperature                        Int      110",
        "  temperature < 20                              (not evaluated: what is before it decides)",
        "WHERE is true",
        'output: {"temperature":110,"machine":"machine"}',
        'action: sns {"targetArn":"alerts","messageFormat":"RAW"}',
    ]


def test_explain_says_why_nothing_happens() -> None:
    cool = explain(70).stdout.decode()
    assert "WHERE is not true: temperature > 105 OR temperature < 20 is false\nso nothing happens" in cool
    elsewhere = explain(110, "plant/l1/ambient/telemetry").stdout.decode()
    assert "FROM 'plant/+/machine/telemetry' does not hear plant/l1/ambient/telemetry" in elsewhere
    assert "so nothing happens" in elsewhere
    strange = json.loads(explain("hot", HEARD, "--json").stdout)
    whole = {"expression": "temperature > 105 OR temperature < 20", "depth": 0, "type": "Undefined"}
    assert (strange["where"][0], strange["why_not"]) == (whole, "temperature > 105 is Undefined")
    assert "output" not in strange


def test_a_payload_that_is_no_json_is_said_to_be_none() -> None:
    done = rules(*ALARMS, HEARD, stdin=b"\xff\x00")
    assert b"the payload is not JSON, so every member of it is Undefined" in done.stdout
    assert b"WHERE is not true: temperature is Undefined" in done.stdout


def test_variables_templates_and_the_error_action_are_resolved(hot: tuple[str | Path, ...]) -> None:
    done = rules(*hot, "plant/l1/telemetry", "--client-id", "m1", stdin=b'{"temperature": 110}')
    assert [line.rstrip() for line in done.stdout.decode().splitlines()] == [
        "FROM 'plant/+/telemetry' hears plant/l1/telemetry",
        "variable  type  value",
        "@limit    Int   100",
        "expression                              type     value",
        "temperature > @limit OR colour = 'red'  Boolean  true",
        "  temperature > @limit                  Boolean  true",
        "    temperature                         Int      110",
        "    @limit                              Int      100",
        "  colour = 'red'                                 (not evaluated: what is before it decides)",
        "WHERE is true",
        'output: {"temperature":110,"max":100}',
        'action: republish {"topic":"alarm/l1/100"}',
        'action: sns {"targetArn":"alerts"}',
        'error action, if one fails: republish {"topic":"errors/l1"}',
    ]
    facts = json.loads(rules(*hot, "plant/l1/telemetry", "--client-id", "m1", "--json", stdin=b"{}").stdout)
    assert facts["variables"] == [{"expression": "@limit", "depth": 0, "type": "Int", "value": 100}]


def test_what_fails_is_said_to_fail(hot: tuple[str | Path, ...]) -> None:
    done = rules(*hot, "plant/l1/telemetry", "--client-id", "m2", stdin=b'{"colour": "red"}')
    assert done.returncode == 0
    said = done.stdout.decode()
    assert "WHERE is not true: temperature > @limit OR colour = 'red' failed: there is no shadow 'm2'" in said
    assert "so nothing happens" in said


MEAN = """\
Mean:
  awsIotSqlVersion: "2016-03-23"
  sql: SELECT line, avg(t) AS mean FROM 'p/+' WHERE t > 0 GROUP BY line, TUMBLING('1 minute')
  actions: [republish: { topic: "mean/${line}" }]
"""


def test_a_rule_with_a_window_tells_which_one_the_message_counts_for(tmp_path: Path) -> None:
    (tmp_path / "mean.yaml").write_text(MEAN)
    (tmp_path / "context.json").write_text('{"timestamp": 1767225601000}')
    files = ("--file", tmp_path / "mean.yaml", "--context", tmp_path / "context.json")
    command = ("explain", "Mean", *files, "--topic", "p/x")
    said = rules(*command, stdin=b'{"line": "a", "t": 5}').stdout.decode()
    assert said.endswith(
        "WHERE is true\n"
        'it counts for the window of {"line":"a"} from 2026-01-01T00:00:00+00:00 to 2026-01-01T00:01:00+00:00\n'
    )
    facts = json.loads(rules(*command, "--json", stdin=b'{"line": "a", "t": 5}').stdout)
    assert facts["window"] == {"group": {"line": "a"}, "from": 1767225600000, "to": 1767225660000}
    assert "so nothing happens" in rules(*command, stdin=b'{"line": "a", "t": -5}').stdout.decode()
    failed = rules(*command, stdin=b'{"line": [1], "t": 5}').stdout.decode()
    assert "the rule fails: a key of GROUP BY is an Array or Object" in failed


def test_basic_ingest_asks_for_a_rule_by_name(hot: tuple[str | Path, ...]) -> None:
    payload = b'{"temperature": 110}'
    named = rules(*hot, "$aws/rules/Hot/any/where", "--client-id", "m1", stdin=payload).stdout.decode()
    assert named.startswith("$aws/rules/Hot/any/where names Hot (Basic Ingest)\n")
    assert '"topic":"alarm/where/100"' in named
    other = rules(*hot, "$aws/rules/Cold/any/where", "--client-id", "m1", stdin=payload).stdout.decode()
    assert other.startswith("$aws/rules/Cold/any/where does not name Hot (Basic Ingest)\n")
    assert "so nothing happens" in other


def test_a_disabled_rule_is_said_to_be_disabled(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("A: { sql: SELECT a FROM 't', actions: [], ruleDisabled: true }")
    done = rules("explain", "A", "--file", tmp_path, "--topic", "t", stdin=b"{}")
    assert done.stdout.decode().splitlines() == [
        "FROM 't' hears t", "there is no WHERE", "the rule is disabled", "so nothing happens",
    ]  # fmt: skip


def test_explain_knows_which_rules_there_are() -> None:
    for name, said in {"alarms": "did you mean 'Alarms'?", "Fire": "there are: Readings, Alarms"}.items():
        done = rules("explain", name, "--topic", "a", "--file", EXAMPLES / "cloud")
        assert done.returncode == 1
        assert done.stderr.decode() == f"tidegate: there is no rule {name}; {said}\n"


def test_what_is_random_falls_for_the_output_as_it_did_for_where(tmp_path: Path) -> None:
    sql = "SELECT a FROM 't' WHERE rand() < 0.5 AND a = 1"
    (tmp_path / "a.yaml").write_text(f"A: {{ sql: {sql}, actions: [] }}")
    outcomes = set()
    for _ in range(40):
        done = rules("explain", "A", "--file", tmp_path, "--topic", "t", "--json", stdin=b'{"a": 1}')
        facts = json.loads(done.stdout)
        assert facts["acts"] is facts["where_is_true"] is ("output" in facts)
        assert facts["why_not"] == ("" if facts["acts"] else "rand() < 0.5 is false")
        outcomes.add(facts["acts"])
        if len(outcomes) == 2:
            break
    assert outcomes == {True, False}


def test_explain_without_a_standard_input_says_what_stands_there(hot: tuple[str | Path, ...]) -> None:
    command = [sys.executable, "-m", "tidegate.main", "rules", *map(str, hot), "plant/l1/telemetry"]
    done = subprocess.run(["sh", "-c", '"$@" <&-', "sh", *command], capture_output=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"tidegate: standard input is closed; the message's payload stands there\n"


def test_a_context_that_is_a_directory_is_told(tmp_path: Path) -> None:
    done = rules(*ALARMS, HEARD, "--context", tmp_path, stdin=b"{}")
    assert (done.returncode, done.stdout) == (78, b"")
    assert done.stderr.decode() == f"cannot read: {tmp_path}: is a directory; name one JSON file\n"


@pytest.mark.parametrize(
    ("context", "code", "message"),
    [
        ("{", 78, "not JSON"),
        ("[]", 78, "must be an object, not a list"),
        ('{"client": 1}', 78, "client: unknown key; did you mean 'clientid'?"),
        ('{"timestamp": "now"}', 78, "timestamp: must be a whole number"),
        (None, 78, "there is no such file"),
    ],
)
def test_a_context_that_is_none_is_told_what_is_wrong(
    tmp_path: Path, context: str | None, code: int, message: str
) -> None:
    file = tmp_path / "context.json"
    if context is not None:
        file.write_text(context)
    done = rules(*ALARMS, HEARD, "--context", file, stdin=b"{}")
    assert (done.returncode, done.stdout) == (code, b"")
    assert message in done.stderr.decode()


@pytest.mark.parametrize(
    ("topic", "payload", "message"),
    [("a/#", b"{}", "holds a wildcard"), (HEARD, b"x" * 1_048_577, "more than 1,048,576 bytes")],
)
def test_a_message_that_cannot_be_is_refused(topic: str, payload: bytes, message: str) -> None:
    done = rules(*ALARMS, topic, stdin=payload)
    assert (done.returncode, done.stdout) == (1, b"")
    assert message in done.stderr.decode()
