"""`tidegate rules test`, as people and continuous integration run it."""

import json
from pathlib import Path

import pytest

from tests.rules_command import ROOT, rules

RULES = """
Hot:
  sql: SELECT temperature FROM 't/+' WHERE temperature > 100
  actions: [republish: { topic: "hot/${topic(2)}" }]
Cold: { sql: "SELECT temperature FROM 't/+' WHERE temperature < 0", actions: [] }
"""
GOOD = """
tests:
  - name: heat is told
    topic: t/m1
    payload: { temperature: 110 }
    expect: [{ rule: Hot, payload: { temperature: 110 }, actions: [republish: { topic: hot/m1 }] }]
  - name: frost is told
    topic: t/m1
    payload: { temperature: -1 }
    expect: [{ rule: Cold, payload: { temperature: -1 } }]
"""
BAD = """
tests:
  - name: heat is told
    topic: t/m1
    payload: { temperature: 110 }
    expect: [{ rule: Hot, payload: { temperature: 111, unit: C } }]
  - name: nothing happens
    topic: t/m1
    payload: { temperature: 50 }
    expect: []
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "hot.yaml").write_text(RULES)
    (tmp_path / "hot.test.yaml").write_text(GOOD)
    return tmp_path


def test_the_examples_keep_their_promises() -> None:
    done = rules("test", "examples")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"FAILED" not in done.stdout
    assert b"rules that no test fires" not in done.stdout


def test_tests_that_pass_are_named_and_the_exit_code_is_0(directory: Path) -> None:
    done = rules("test", directory)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == [
        f"{directory}/hot.test.yaml", "  passed  heat is told", "  passed  frost is told", "2 passed",
    ]  # fmt: skip


def test_what_is_not_as_expected_is_shown_as_a_difference_and_the_exit_code_is_1(directory: Path) -> None:
    (directory / "hot.test.yaml").write_text(BAD)
    done = rules("test", directory)
    assert (done.returncode, done.stderr) == (1, b"")
    assert done.stdout.decode() == f"""\
{directory}/hot.test.yaml
  FAILED  heat is told
          Hot gave another payload
           {{
          -  "temperature": 111,
          -  "unit": "C"
          +  "temperature": 110
           }}
  passed  nothing happens
rules that no test fires: Cold
1 passed, 1 failed
"""


def test_the_results_can_be_had_as_json(directory: Path) -> None:
    (directory / "bad.test.yaml").write_text("rules: hot.yaml\n" + BAD)
    done = rules("test", directory, "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert (document["passed"], document["failed"], document["never_fired"]) == (3, 1, [])
    assert [file["file"] for file in document["files"]] == [f"{directory}/bad.test.yaml", f"{directory}/hot.test.yaml"]
    assert document["files"][0]["tests"] == [
        {
            "name": "heat is told", "passed": False,
            "differences": [{
                "rule": "Hot", "message": "gave another payload",
                "expected": '{\n  "temperature": 111,\n  "unit": "C"\n}', "found": '{\n  "temperature": 110\n}',
            }],
        },
        {"name": "nothing happens", "passed": True, "differences": []},
    ]  # fmt: skip


def test_a_file_of_rules_or_of_tests_can_be_named_too(directory: Path) -> None:
    for name in ("hot.yaml", "hot.test.yaml"):
        assert rules("test", directory / name).stdout.endswith(b"2 passed\n")
    both = rules("test", directory / "hot.yaml", directory / "hot.test.yaml", directory)
    assert both.stdout.endswith(b"\n2 passed\n")  # each file once


def test_tests_are_found_below_a_directory_but_not_in_hidden_ones(directory: Path) -> None:
    for name in ("deep/er", ".git", "deep/.hidden"):
        below = directory / name
        below.mkdir(parents=True)
        (below / "hot.yaml").write_text(RULES)
        (below / "hot.test.json").write_text('{"tests": []}')
    found = json.loads(rules("test", directory, "--json").stdout)["files"]
    assert [file["file"] for file in found] == [f"{directory}/deep/er/hot.test.json", f"{directory}/hot.test.yaml"]


def test_a_test_file_may_say_which_rules_it_is_about(directory: Path) -> None:
    (directory / "tests").mkdir()
    (directory / "hot.test.yaml").rename(directory / "tests" / "all.test.yaml")
    file = directory / "tests" / "all.test.yaml"
    for written in ("../hot.yaml", "[..]"):
        file.write_text(f"rules: {written}\n{GOOD}")
        assert rules("test", directory).stdout.endswith(b"2 passed\n")


def test_test_files_are_no_rules_files(directory: Path) -> None:
    assert rules("check", directory).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 78, "cannot read: {0}/nowhere: there is no such file or directory"),
        (["nowhere.test.yaml"], 78, "cannot read: {0}/nowhere.test.yaml: there is no such file or directory"),
        (["untested.yaml"], 1, "{0}/untested.yaml has no tests; they would stand in {0}/untested.test.yaml"),
        (["empty"], 1, "there are no test files (*.test.json, *.test.yaml, *.test.yml) in {0}/empty"),
        (["alone.test.yaml"], 1, "there is no alone.yaml beside it; write `rules:`"),
        (["strange.test.yaml"], 78, "strange.test.yaml:1:8: tests: must be a list"),
        (["lost.test.yaml"], 78, "cannot read: {0}/lost/x.yaml: there is no such file or directory"),
        (["broken.test.yaml"], 78, "broken.yaml:1:4: a rule is a mapping of keys to values"),
        (["binary.test.yaml"], 78, "cannot read: {0}/binary.test.yaml: not UTF-8 text"),
    ],
)
def test_what_cannot_be_run_is_told_what_is_wrong(
    directory: Path, arguments: list[str], code: int, message: str
) -> None:
    (directory / "untested.yaml").write_text(RULES)
    (directory / "empty").mkdir()
    (directory / "alone.test.yaml").write_text(GOOD)
    (directory / "strange.test.yaml").write_text("tests: 1")
    (directory / "lost.test.yaml").write_text("rules: lost/x.yaml\ntests: []")
    (directory / "broken.test.yaml").write_text(GOOD)
    (directory / "broken.yaml").write_text("A: 1")
    (directory / "binary.test.yaml").write_bytes(b"\xff\xfe\x00")
    done = rules("test", *(directory / argument for argument in arguments))
    assert (done.returncode, done.stdout) == (code, b"")
    assert message.format(directory) in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_a_name_that_would_command_the_terminal_is_shown_and_not_obeyed(directory: Path) -> None:
    (directory / "hot.test.yaml").write_text('tests: [{ name: "\\e[31m[bold]", topic: x, expect: [] }]')
    assert "  passed  \\x1b[31m[bold]\n" in rules("test", directory).stdout.decode()


# ── recorded traffic ────────────────────────────────────────────────────────────────────────────────────────

RECORDED = b"""\
{"topic": "t/m1", "payload": {"temperature": 110}, "timestamp": 5, "clientid": "c"}
{"tst":"2026-11-21T18:59:46.622914Z+0000","topic":"t/m2","payloadlen":18,"payload":"{\\"temperature\\": -4}"}

{"topic": "t/m3", "payload": {"temperature": 50}}
{"topic": "elsewhere", "payload_b64": "/wA="}
"""


def test_recorded_traffic_shows_what_would_fire(directory: Path) -> None:
    file = directory / "recorded.jsonl"
    file.write_bytes(RECORDED.replace(b":18,", b":19,"))
    done = rules("test", directory, "--record", file)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == """\
4 messages
rule  heard  fired  failed
Hot       3      1       0
Cold      3      1       0

Hot
  line 1, t/m1
    {"temperature":110}
    republish {"topic":"hot/m1"}

Cold
  line 2, t/m2
    {"temperature":-4}
"""


def test_every_firing_can_be_had_as_json(directory: Path) -> None:
    file = directory / "recorded.jsonl"
    file.write_bytes(RECORDED.replace(b":18,", b":19,") * 100)
    done = rules("test", directory, "--record", file, "--json")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert (document["messages"], document["unread"], document["faults"], len(document["firings"])) == (400, 0, [], 200)
    assert document["firings"][0] == {
        "at": "line 1, t/m1", "rule": "Hot", "payload": {"temperature": 110},
        "actions": [{"action": "republish", "parameters": {"topic": "hot/m1"}}],
    }  # fmt: skip
    assert document["rules"][1] == {"rule": "Cold", "heard": 300, "fired": 100, "failed": 0, "last_error": ""}


MEAN = """\
Mean:
  awsIotSqlVersion: "2016-03-23"
  sql: SELECT max(t) AS most, window_start() AS since FROM 'p/+' GROUP BY TUMBLING('1 minute')
  actions: [republish: { topic: "most/${topic(2)}" }]
"""


def test_windows_of_a_recording_close_with_its_time_and_at_its_end(directory: Path) -> None:
    file, start = directory / "recorded.jsonl", 1_767_225_600_000
    times = {0: 5, 30_000: 7, 61_000: 3}
    lines = [{"topic": "p/x", "payload": {"t": t}, "timestamp": start + after} for after, t in times.items()]
    file.write_text("\n".join(map(json.dumps, lines)))
    (directory / "hot.yaml").write_text(MEAN)
    document = json.loads(rules("test", directory / "hot.yaml", "--record", file, "--json").stdout)
    assert [(firing["at"], firing["payload"]) for firing in document["firings"]] == [
        ("line 3, p/x", {"most": 7, "since": start}),
        ("the end, which closes every window", {"most": 3, "since": start + 60_000}),
    ]
    assert document["firings"][0]["actions"] == [{"action": "republish", "parameters": {"topic": "most/x"}}]
    assert document["rules"] == [{"rule": "Mean", "heard": 3, "fired": 2, "failed": 0, "last_error": ""}]


def test_messages_that_are_too_late_for_their_window_are_counted(directory: Path) -> None:
    file, start = directory / "recorded.jsonl", 1_767_225_600_000
    sql = "SELECT count(*) AS n FROM 'p/+' GROUP BY TUMBLING('1 minute', 'at')"
    (directory / "hot.yaml").write_text(f'Count: {{ sql: "{sql}", actions: [] }}')
    lines = [
        {"topic": "p/x", "payload": {"at": start + at}, "timestamp": start + 600_000} for at in (0, 500_000, 1_000)
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    done = rules("test", directory / "hot.yaml", "--record", file)
    assert b"1 messages too late for the windows of Count\n" in done.stdout
    assert json.loads(rules("test", directory / "hot.yaml", "--record", file, "--json").stdout)["late"] == {"Count": 1}


def test_lines_that_are_no_messages_are_named_and_the_others_run(directory: Path) -> None:
    file = directory / "recorded.jsonl"
    file.write_bytes(RECORDED + b"nonsense\n" * 30 + b'{"topic": "t/m1", "payload": {"temperature": 110}}')
    done = rules("test", directory, "--record", file, "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert (document["messages"], document["unread"], len(document["faults"])) == (4, 31, 20)
    assert document["faults"][0].startswith(f"{file}:2: the payload had 18 bytes")
    assert len(document["firings"]) == 2
    assert done.stderr.decode().splitlines()[20] == "and 11 lines more that are no messages"


def test_a_rule_that_fails_in_the_recording_is_shown(directory: Path) -> None:
    lost = "SELECT get_secret('x', 'SecretString', '') AS a FROM 't/#'"
    (directory / "hot.yaml").write_text(f'Lost: {{ sql: "{lost}", actions: [] }}')
    (directory / "recorded.jsonl").write_bytes(b'{"topic": "t/m1"}\n')
    done = rules("test", directory / "hot.yaml", "--record", directory / "recorded.jsonl")
    assert done.returncode == 1
    assert "failed: rule Lost: there is no secret 'x'" in done.stdout.decode()


def test_an_empty_recording_and_no_recording_are_two_things(directory: Path) -> None:
    (directory / "recorded.jsonl").write_bytes(b"")
    assert rules("test", directory, "--record", directory / "recorded.jsonl").stdout.startswith(b"0 messages\n")
    empty = json.loads(rules("test", directory, "--record", directory / "recorded.jsonl", "--json").stdout)
    assert (empty["firings"], empty["messages"]) == ([], 0)


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_recording_that_cannot_be_read_is_told_before_anything_is_written(
    directory: Path, as_json: list[str]
) -> None:
    for name, why in (("nowhere.jsonl", "No such file or directory"), (".", "Is a directory")):
        done = rules("test", directory / "hot.yaml", "--record", directory / name, *as_json)
        assert (done.returncode, done.stdout) == (78, b"")
        assert done.stderr.decode().strip() == f"cannot read: {directory / name}: {why}"


def test_the_examples_directory_is_where_the_demo_has_its_rules() -> None:
    assert (ROOT / "examples" / "rules" / "edge" / "overheat.test.yaml").is_file()
    assert (ROOT / "tidegate" / "examples" / "rules" / "cloud" / "readings.test.yaml").is_file()
