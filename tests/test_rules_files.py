"""Rules files: what becomes of good ones, and that bad ones are refused whole, with every fault and its place."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigurationError
from core.files import read_texts
from core.message import Message
from rules.actions import DynamoDBv2, Firehose, Republish, Sns
from rules.engine import Event, RuleSet, output_bytes
from rules.errors import PROBLEMS_MAX, Problem, RulesError
from rules.files import document, parse
from rules.sql.values import SqlVersion

EXAMPLES = Path(__file__).parent.parent / "examples" / "rules"
EDGE = frozenset({"republish"})
CLOUD = frozenset({"republish", "dynamoDBv2", "firehose", "sns"})
GOOD = "Good: { sql: SELECT * FROM 'a', actions: [] }\n"


def problems(text: str, *, name: str = "rules.yaml", supported: frozenset[str] = CLOUD) -> list[Problem]:
    with pytest.raises(RulesError) as caught:
        parse({name: text}, supported=supported)
    return list(caught.value.found)


def only_problem(text: str, *, name: str = "rules.yaml", supported: frozenset[str] = CLOUD) -> Problem:
    [problem] = problems(text, name=name, supported=supported)
    return problem


def marked(problem: Problem) -> str:
    """What stands above the caret and after it."""
    line, caret = problem.excerpt.split("\n")
    return line[len(caret) - 1 :]


# ── good files ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_rule_has_all_that_its_file_says() -> None:
    text = """
    Overheat:
      description: Hot.
      awsIotSqlVersion: 2016-03-23
      ruleDisabled: false
      sql: SELECT * FROM 'plant/+'
      actions:
        - republish: { topic: "alarm/${topic(2)}", qos: 1, roleArn: "arn:aws:iam::1:role/x" }
        - dynamoDBv2: { putItem: { tableName: readings } }
        - firehose: { deliveryStreamName: telemetry, separator: "\\n", batchMode: true }
        - sns: { targetArn: alerts }
      errorAction:
        sns: { targetArn: errors, messageFormat: JSON }
    """
    [rule] = parse({"a.yaml": text}, supported=CLOUD)
    assert (rule.name, rule.description, rule.disabled) == ("Overheat", "Hot.", False)
    assert (rule.sql, rule.version) == ("SELECT * FROM 'plant/+'", SqlVersion.V2016)
    republish, table, stream, topic = rule.actions
    assert isinstance(republish, Republish)
    assert republish.qos == 1
    assert republish.topic.render(Event(Message("plant/7", b""), 0)) == "alarm/7"
    assert isinstance(table, DynamoDBv2)
    assert table.put_item.table_name == "readings"
    assert isinstance(stream, Firehose)
    assert (stream.delivery_stream_name, stream.separator, stream.batch_mode) == ("telemetry", "\n", True)
    assert isinstance(topic, Sns)
    assert (topic.target_arn, topic.message_format) == ("alerts", "RAW")
    assert rule.error_action == Sns.model_validate({"targetArn": "errors", "messageFormat": "JSON"})


def test_what_a_file_leaves_out_has_the_defaults_of_aws() -> None:
    text = "R: { sql: SELECT a FROM 'a', actions: [republish: { topic: b }, firehose: { deliveryStreamName: s }] }"
    [rule] = parse({"a.yaml": text}, supported=CLOUD)
    assert rule.version is SqlVersion.V2015
    assert (rule.description, rule.disabled, rule.error_action) == ("", False, None)
    republish, firehose = rule.actions
    assert isinstance(republish, Republish)
    assert isinstance(firehose, Firehose)
    assert (republish.qos, firehose.separator, firehose.batch_mode) == (0, None, False)


def test_rules_come_from_all_files_and_disabled_ones_are_not_matched() -> None:
    disabled = "Off: { sql: SELECT * FROM 'a', actions: [], ruleDisabled: true }"
    rules = parse({"a.yaml": GOOD, "b.yaml": disabled, "c.yaml": "# nothing\n", "d.yaml": ""}, supported=EDGE)
    assert [rule.name for rule in rules] == ["Good", "Off"]
    assert [rule.name for rule in rules.match("a")] == ["Good"]
    assert len(parse({}, supported=EDGE)) == 0


def test_a_json_file_is_read_with_tabs_and_all_escapes() -> None:
    body = {"Smile_1": {"sql": "SELECT '😀\t\"' AS a FROM 'ä/+'", "actions": [], "description": "a/b"}}
    for text in (json.dumps(body, indent="\t"), json.dumps(body), json.dumps(body, ensure_ascii=False)):
        [rule] = parse({"a.json": text.replace("a/b", "a\\/b")}, supported=EDGE)
        assert rule.sql == "SELECT '😀\t\"' AS a FROM 'ä/+'"
        assert rule.description == "a/b"


def test_a_key_may_hold_every_character_that_json_can_write() -> None:
    smile = '"\\ud83d\\ude00"'
    body = '{"R": {"sql": "SELECT 1 FROM \'a\'", "actions": [%s], "description": "x"%s}}'
    problem = only_problem(body % ("", f", {smile}: 1"), name="a.json")
    assert problem.message.startswith("😀: no such key here")
    properties = f'{{"destinationArn": "arn:x", "topic": "t", "clientProperties": {{{smile}: "1"}}}}'
    kafka = f'{{"kafka": {properties}}}'
    problem = only_problem(body % (kafka, ""), name="a.json", supported=frozenset({"kafka"}))
    assert "there is no client property '😀'" in problem.message


@pytest.mark.parametrize("key", ['"R": {"sql": "x", "actions": [], "\\ud800": 1}', '"\\ude00\\ud83d": 1'])
def test_half_a_character_in_a_key_is_an_error_at_the_key(key: str) -> None:
    problem = only_problem(f"{{{key}}}", name="a.json")
    assert "half a character" in problem.message
    assert marked(problem).startswith('"\\ud')


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ('{"A": 1, "B":\n [],}', 2, 5),
        ('{"A": 1} // it', 1, 10),
        ("A: 1", 1, 1),
        ("{'A': 1}", 1, 2),
        ('{"A": [1, NaN]}', 1, 11),
        ('{"A": "\t"}', 1, 8),
        ('{"A": 1}\n{"B": 2}', 2, 1),
    ],
)
def test_a_json_file_is_json_and_not_only_yaml(text: str, line: int, column: int) -> None:
    problem = only_problem(text, name="a.json")
    assert problem.message.startswith("not JSON: ")
    assert problem.line == line
    assert abs(problem.column - column) <= 1  # Python's parsers differ over which end of a comma is wrong


def test_a_json_file_may_hold_characters_that_yaml_may_not() -> None:
    body = {"R": {"sql": "SELECT '\x7f\x80\ufffe' AS a FROM 'b'", "actions": []}}
    [rule] = parse({"a.json": json.dumps(body, ensure_ascii=False)}, supported=EDGE)
    assert rule.sql == body["R"]["sql"]
    assert rule.evaluate(Event(Message("b", b"{}"), 0)) == {"a": "\x7f\x80\ufffe"}


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029"])
def test_a_json_file_cannot_hold_what_yaml_takes_for_the_end_of_a_line(character: str) -> None:
    body = '{"R": {"sql": "SELECT 1 FROM \'a\'", "actions": [], "description": "¶"}}'
    problem = only_problem(body.replace("¶", character), name="a.json")
    assert problem.message == f"write this character as \\u{ord(character):04x}"
    assert problem.column == body.index("¶") + 1
    [rule] = parse({"a.json": body.replace("¶", f"\\u{ord(character):04x}")}, supported=EDGE)
    assert rule.description == character


def test_the_examples_do_what_the_demo_needs() -> None:
    edge = parse(read_texts(EXAMPLES / "edge"), supported=EDGE)
    cloud = parse(read_texts(EXAMPLES / "cloud"), supported=CLOUD)
    assert [rule.name for rule in edge] == ["Overheat"]
    assert [rule.name for rule in cloud] == ["Readings", "Alarms"]

    def outputs(rules: RuleSet, machine: str, temperature: float) -> dict[str, bytes]:
        payload = b'{"reading": 17, "time": "2013-12-02T21:15:00", "temperature": %a}' % temperature
        event = Event(Message(f"plant/l1/{machine}/telemetry", payload), 1_700)
        found = {rule.name: rule.evaluate(event) for rule in rules.match(event.message.topic)}
        return {name: output_bytes(output) for name, output in found.items() if isinstance(output, dict)}

    kept = b'{"reading":17,"time":"2013-12-02T21:15:00","temperature":73.96732207,"machine":"machine","stored_at":1700}'
    assert outputs(cloud, "machine", 73.96732207) == {"Readings": kept}
    assert outputs(edge, "machine", 73.96732207) == {}
    assert outputs(cloud, "machine", 105.5).keys() == {"Readings", "Alarms"}
    assert outputs(cloud, "ambient", 19.5).keys() == {"Readings"}
    assert outputs(edge, "machine", 19.5).keys() == {"Overheat"}
    assert outputs(edge, "ambient", 19.5) == {}
    [action] = next(iter(edge)).actions
    assert isinstance(action, Republish)
    assert action.topic.render(Event(Message("plant/l1/machine/telemetry", b""), 0)) == "plant/l1/machine/alarm"
    assert action.qos == 1


# ── places inside SQL ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        "R:\n  actions: []\n  sql: SELECT a, b FROM 'x' WHERE ¶frob(a)\n",
        "R:\n  actions: []\n  sql: SELECT a,\n    b FROM 'x'\n    WHERE\n      ¶frob(a)\n",
        "R:\n  actions: []\n  sql: 'SELECT ''it''''s'' FROM ''x'' WHERE ¶frob(a)'\n",
        'R:\n  actions: []\n  sql: "SELECT \\"a\\u0022, b\\tFROM \'x\'\\n  \\x57HERE ¶frob(a)"\n',
        'R:\n  actions: []\n  sql: "SELECT \\"\\ud83d\\ude00\\U0001F600\\"\n    FROM \'x\' \\\n     WHERE ¶frob(a)"\n',
        "R:\n  actions: []\n  sql: |\n    SELECT a,\n           b\n    FROM 'x'\n      WHERE ¶frob(a)\n",
        "R:\n  actions: []\n  sql: |2-  # a comment, 'quoted'\n\n    SELECT a FROM 'x'\n    WHERE ¶frob(a)\n\n",
        "R:\n  actions: []\n  sql: >-\n    SELECT a\n    FROM 'x'\n\n    WHERE\n    ¶frob(a)\n",
        "R:\n  actions: []\n  sql: !!str 'SELECT a FROM ''x'' WHERE ¶frob(a)'\n",
        "R:\r\n  actions: []\r\n  sql: |\r\n    SELECT a FROM 'x'\r\n    WHERE ¶frob(a)\r\n",
        "R: {actions: [], sql: SELECT a FROM 'x' WHERE ¶frob(a)}\n",
        '{"R": {"actions": [],\n"sql": "SELECT \\"a\\" FROM \'x\' WHERE ¶frob(a)"}}',
    ],
)
def test_a_fault_in_sql_is_found_in_every_way_to_write_a_text(text: str) -> None:
    before, after = text.split("¶")
    problem = only_problem(before + after)
    assert problem.message == "sql: there is no function frob()"
    assert problem.line == before.count("\n") + 1
    assert problem.column == len(before.rsplit("\n", 1)[-1]) + 1
    assert marked(problem).startswith("frob(a)")


def test_a_statement_that_ends_too_early_is_marked_after_its_last_word() -> None:
    problem = only_problem("R:\n  sql: |\n    SELECT a\n    FROM 'x' WHERE\n\n  actions: []\n")
    assert problem.message == "sql: expected a value, found the end"
    assert (problem.line, problem.column) == (4, 19)


def test_a_fault_in_a_template_is_found_in_its_file() -> None:
    text = "R:\n  sql: SELECT * FROM 'a'\n  actions:\n    - republish:\n        topic: a/${topic(1)}/${frob()}\n"
    problem = only_problem(text)
    assert problem.message == "actions[0].republish.topic: there is no function frob()"
    assert marked(problem) == "frob()}"


# ── everything else that can be wrong ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("- a\n", 1, 3, "a rules file maps rule names to rules"),
        ("just text", 1, 1, "a rules file maps rule names to rules"),
        ("A: {\n", 2, 1, "not YAML"),
        ("A:\n\t- b\n", 2, 1, "not YAML"),
        ("A: 1\n---\nB: 2\n", 2, 1, "not YAML: but found another document"),
        ("A: &a {}\nB: *a\n", 2, 4, "aliases (*name) are not allowed"),
        ("A: b\x01\n", 1, 5, "YAML does not allow the character '\\x01'"),
        ('A: "\\UFFFFFFFF"', 1, 1, "not YAML"),
        ('A: {sql: "\\ud800", actions: []}', 1, 10, "cannot be read"),
        ("A: !!int x", 1, 4, "cannot be read"),
        ("A: !!int", 1, 4, "cannot be read"),
        ("A: !Sub x", 1, 4, "the tag !Sub is not understood here"),
        ("A: !!python/object/apply:os.system [id]", 1, 4, "is a mapping"),
        ("A: {? [a] : b}", 1, 7, "a key must be plain text"),
        ("A: {a: 1, a: 2}", 1, 11, "the key 'a' stands here twice"),
        ("A: 5", 1, 4, "a rule is a mapping"),
        ("A:", 1, 3, "a rule is a mapping"),
        ("A-b: {sql: SELECT * FROM 'a', actions: []}", 1, 1, "a rule name is 1 to 128 letters"),
        (f"{'x' * 129}: {{sql: SELECT * FROM 'a', actions: []}}", 1, 1, "a rule name is 1 to 128 letters"),
        ("A: {actions: []}", 1, 4, "sql: is missing"),
        ("A: {sql: SELECT * FROM 'a'}", 1, 4, "actions: is missing"),
        ("A: {sql: 5, actions: []}", 1, 10, "sql: must be text in quotes"),
        ("A: {sql: \"SELECT * FROM 'a/#/b'\", actions: []}", 1, 25, "'#' must stand alone and last"),
    ],
)
def test_a_fault_in_a_file_is_named_with_its_place(text: str, line: int, column: int, message: str) -> None:
    problem = only_problem(text)
    assert message in problem.message
    assert (problem.line, problem.column) == (line, column)


@pytest.mark.parametrize(
    ("keys", "column", "message"),
    [
        ("actions: [], sqk: 1", 14, "sqk: no such key here; did you mean 'sql'?"),
        (
            "actions: [], awsIotSqlVersion: 2016-03-32",
            32,
            "must be '2015-10-08', '2016-03-23' or 'beta'; did you mean '2016-03-23'?",
        ),
        ("actions: [], ruleDisabled: 1", 28, "ruleDisabled: must be true or false"),
        ("actions: [], errorAction: {s3: {}}", 28, "errorAction: this side cannot run 's3' yet; it runs: dyn"),
        ("actions: [], errorAction:", 26, "errorAction: is empty: write a value, or leave the key out"),
        ("actions: {}", 10, "actions: must be a list"),
        ("actions: [sqs: {queueUrl: q}]", 11, "actions[0]: this side cannot run 'sqs' yet; it runs: dyn"),
        ("actions: [lamda: {}]", 11, "actions[0]: there is no action 'lamda'; did you mean 'lambda'?"),
        ("actions: [sns]", 11, "actions[0]: write one action"),
        ("actions: [{sns: {targetArn: a}, x: {}}]", 11, "actions[0]: write one action"),
        ("actions: [sns: {}]", 16, "actions[0].sns.targetArn: is missing"),
        ("actions: [sns: 5]", 16, "actions[0].sns: must be a mapping of keys to values"),
        ("actions: [sns: {targetArn: 5}]", 28, "targetArn: must be text in quotes"),
        ("actions: [sns: {targetArn: ''}]", 28, "at least 1 character"),
        (
            "actions: [sns: {targetArn: '${a}'}]",
            28,
            "targetArn: is looked up when rules are loaded, so it cannot be a template",
        ),
        ("actions: [sns: {targetArn: a, TargetArn: b}]", 31, "TargetArn: no such key here; did you mean 'targetArn'?"),
        (
            "actions: [sns: {targetArn: a, message_format: RAW}]",
            31,
            "message_format: no such key here; did you mean 'messageFormat'?",
        ),
        ("actions: [republish: {topic: a, qos: 2}]", 38, "qos: must be less than or equal to 1"),
        ("actions: [republish: {topic: 5}]", 30, "republish.topic: must be text in quotes"),
        ("actions: [dynamoDBv2: {putItem: {}}]", 33, "putItem.tableName: is missing"),
        ("actions: [firehose: {deliveryStreamName: a, separator: ;}]", 56, "separator: must be"),
    ],
)
def test_a_fault_in_a_rule_is_named_with_its_place(keys: str, column: int, message: str) -> None:
    problem = only_problem(f"A:\n  {{sql: SELECT * FROM 'a',\n{keys}}}")
    assert message in problem.message
    assert (problem.line, problem.column) == (3, column)


def test_an_action_of_the_other_side_is_refused() -> None:
    text = "A: {sql: SELECT * FROM 'a', actions: [sns: {targetArn: a}]}"
    assert len(parse({"a": text}, supported=CLOUD)) == 1
    [problem] = problems(text, supported=EDGE)
    assert problem.message == "actions[0]: this side cannot run 'sns' yet; it runs: republish"


def test_more_than_ten_actions_are_refused() -> None:
    actions = ", ".join(["republish: {topic: b}"] * 11)
    assert (
        "actions: must have at most 10 entries"
        in only_problem(f"A: {{sql: SELECT * FROM 'a', actions: [{actions}]}}").message
    )


def test_all_faults_of_all_files_are_reported_at_once() -> None:
    first = "A: {sql: SELECT FROM, actions: [sns: {}, nope: {}]}\nB: 5\n"
    with pytest.raises(RulesError) as caught:
        parse({"a.yaml": first, "b.yaml": "{", "c.yaml": GOOD, "d.yaml": "Good: {sql: x}"}, supported=CLOUD)
    places = [f"{problem.file}:{problem.line}" for problem in caught.value.found]
    assert places == ["a.yaml:1", "a.yaml:1", "a.yaml:1", "a.yaml:2", "b.yaml:1", *["d.yaml:1"] * 3]
    assert "there is a rule Good already, in c.yaml:1" in caught.value.problems[5]
    assert isinstance(caught.value, ConfigurationError)
    assert "rules: a.yaml:2:4: a rule is a mapping" in str(caught.value)


def test_problems_are_counted_no_further_than_anyone_reads() -> None:
    found = problems("".join(f"A{number}: 1\n" for number in range(5 * PROBLEMS_MAX)))
    assert len(found) == PROBLEMS_MAX + 1
    assert "the rest is not read" in found[-1].message


def test_warnings_are_no_reason_to_stop() -> None:
    text = "".join(f"A{number}: {{ sql: SELECT 1 AS a, actions: [] }}\n" for number in range(2 * PROBLEMS_MAX))
    assert len(parse({"a.yaml": text}, supported=EDGE)) == 2 * PROBLEMS_MAX


@pytest.mark.parametrize(
    "text",
    [
        "A: {" + "".join(f"k{number}: 1, " for number in range(10_000)) + "}",
        "A: {sql: SELECT 1, actions: [" + "{x: {}}, " * 10_000 + "]}",
        "A: {sql: SELECT 1, actions: [s3: {" + "".join(f"k{number}: 1, " for number in range(10_000)) + "}]}",
        "Resources: {R: {Type: AWS::IoT::TopicRule, Properties: {"
        + "".join(f"K{number}: 1, " for number in range(10_000))
        + "}}}",
        "Resources: {R: {Type: AWS::IoT::TopicRule, Properties: {TopicRulePayload: {"
        + "".join(f"K{number}: !Ref X, " for number in range(10_000))
        + "}}}}",
    ],
)
def test_one_rule_with_thousands_of_faults_is_told_some_of_them(text: str) -> None:
    assert 1 <= len(problems(text)) <= PROBLEMS_MAX + 10


def test_a_long_line_is_cut_around_the_fault() -> None:
    problem = only_problem("A: {actions: [], description: '" + "x" * 500 + "', sql: SELECT * FROM}")
    assert len(problem.excerpt.split("\n")[0]) <= 100
    assert marked(problem) == "}"


@pytest.mark.parametrize(
    "bomb",
    [
        "[" * 200_000,
        "{a: " * 100_000,
        "- " * 100_000,
        "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]\n",
        "? " * 50_000,
        "A: {sql: SELECT * FROM 'a', actions: [" + "[" * 50_000,
        "x" * (document.TEXT_BYTES_MAX + 1),
        "é" * (document.TEXT_BYTES_MAX // 2 + 1),
        "A: " + "9" * 10_000,
    ],
)
def test_a_bomb_is_refused(bomb: str) -> None:
    assert len(problems(bomb)) == 1


MARKS = [
    "A",
    "B",
    ": ",
    "\n",
    "  ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "'",
    '"',
    "|",
    ">",
    "&a ",
    "*a",
    "#",
    "? ",
    "\\",
    "%",
]
WORDS = ["sql", "actions", "SELECT * FROM 'a'", "republish", "topic", "${", "5", "!!int ", "<<", "2016-03-23", "---\n"]
FRAGMENTS = st.sampled_from(MARKS + WORDS)


@given(st.text() | st.lists(FRAGMENTS, max_size=40).map("".join), st.sampled_from(["a.yaml", "a.json"]))
def test_any_text_gives_rules_or_problems_that_have_places(text: str, name: str) -> None:
    found: tuple[Problem, ...] = ()
    try:
        parse({name: text}, supported=EDGE)
    except RulesError as error:
        found = error.found
    for problem in found:
        assert 1 <= problem.line <= text.count("\n") + 1
        assert 1 <= problem.column <= len(text.split("\n")[problem.line - 1]) + 1
