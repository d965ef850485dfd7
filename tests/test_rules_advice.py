"""Advice about rules that can run: what is said, where, and above all when nothing is."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as some

from core.message import Message
from rules.advice import Finding, advise
from rules.advice.shapes import ARRAY, BOOLEAN, BYTES, NULL, NUMBER, OBJECT, STRING, UNDEFINED, shape
from rules.engine import NOTHING, Rule, RuleSet
from rules.event import Event
from rules.files import survey
from rules.sql.parser import parse_statement
from rules.sql.values import SqlVersion

SNS = "sns: { targetArn: alerts }"


def rules(text: str) -> list[Rule]:
    found = survey({"a.yaml": text})
    assert found.problems == []
    return found.rules


def one(sql: str, action: str = SNS, version: str = "2016-03-23") -> list[Finding]:
    written = sql.replace("\\", "\\\\").replace('"', '\\"')
    text = f'A: {{ awsIotSqlVersion: "{version}", sql: "{written}", actions: [{action}] }}'
    return advise(rules(text), {"readings": ("machine", "reading")})


def said(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.code, str(finding)) for finding in findings]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM 'plant/+/machine/#' WHERE temperature > 105 OR temperature < 20",
        "SELECT *, topic(3) AS machine FROM 'plant/+/+/telemetry' WHERE state = 'on' AND state <> 'off'",
        "SELECT temperature * 9 / 5 + 32 AS temperature FROM 't' WHERE temperature > 5",  # the member of that name
        "SELECT a, b AS c, {'k-1': a} FROM 't' WHERE a > 5 AND a < 10 AND a <> 7",
        "SELECT a FROM 't' WHERE a = 5 OR a = 6",
        "SELECT a FROM 't' WHERE a > '5' AND a = '7'",
        "SELECT a FROM 't' WHERE true",
        "SELECT a FROM 't' WHERE 'true' AND a > 1",
        "SELECT a FROM 't' WHERE 1 + 1 = 2",
        "SELECT a FROM 't' WHERE timestamp() % 12 = 0",
        "SELECT a FROM 't' WHERE a",
        "SELECT a FROM 't' WHERE a + '' OR b",
        "SELECT a FROM 't' WHERE NOT isNull(a)",
        "SELECT a FROM 't' WHERE rand() > 0.9 AND rand() < 0.1",
        "SELECT a FROM 't' WHERE EXISTS (SELECT x FROM list WHERE x = 1)",
        "SELECT (SELECT line FROM list) AS lines, topic(1) AS line FROM 't'",
        "SELECT a FROM '$aws/things/+/shadow/update/delta'",
        "SELECT a FROM '+/things'",
        "SELECT regexp_matches(a, '^(a|b)+$') AS m FROM 't'",
    ],
)
def test_a_rule_that_does_what_it_says_needs_no_advice(sql: str) -> None:
    assert said(one(sql)) == []


# ── FROM ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        ("$aws/rules/A/x", "never-hears", "no rule hears topics of Basic Ingest"),
        ("+/things/x/shadow/update", "not-reserved", "if that is meant, write '$aws/things/x/shadow/update'"),
        ("+/events/+", "not-reserved", "does not hear topics that begin with $, so no $aws/events/+"),
        ("#", None, ""),
        ("plant/*/telemetry", "literal-star", "write 'plant/+/telemetry'"),
        ("plant/a*", None, ""),
        (" plant/a", "blank", "begins or ends with a blank"),
        ("plant//a", "empty-level", "has // in it: it hears topics with an empty level only; is 'plant/a' meant?"),
        ("/plant/a", "empty-level", "begins with /"),
        ("plant/a/", "empty-level", "ends with /"),
        ("a/b/c/d/e/f/g/h/i/j", None, ""),
    ],
)
def test_a_filter_that_hears_nothing_or_something_else_is_told(source: str, code: str | None, message: str) -> None:
    findings = one(f"SELECT a FROM '{source}'")
    assert [finding.code for finding in findings] == ([] if code is None else [code])
    for finding in findings:
        assert message in str(finding)
        assert (finding.place, finding.offset) == (("sql",), 14)


# ── WHERE ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("where", "part", "why"),
    [
        ("false", "false", "false is not true, whatever the message"),
        ("1 > 2", "1 > 2", "1 > 2 is not true, whatever the message"),
        ("'true'", "'true'", "is not true"),  # at the top a text is not true
        ("NULL", "NULL", "is not true"),
        ("upper('a') = 'a'", "upper('a') = 'a'", "is not true"),
        ("a > 1 AND 1 = 2", "1 = 2", "is not true"),
        ("a > 1 AND (b OR 1) AND 'x'", "'x'", "is not true"),
        ("1 = 2 OR 'b' > 'a'", "1 = 2", "is not true"),
        ("a + 1", "a + 1", "a + 1 is a number or a text, and never true or false"),
        ("a * 1 AND b", "a * 1", "a * 1 is a number, and never true or false"),
        ("topic(1)", "topic(1)", "topic(1) is a text, and never true or false"),
        ("[a]", "[a]", "[a] is an array, and never true or false"),
        ("colour > 'red'", "'red'", "'red' is no number, and < and > compare numbers only"),
        ("a < true", "true", "true is no number"),
        ("NULL >= a", "NULL", "NULL is no number"),
        ("a > 5 AND a < 3", "a < 3", "what is said of a here contradicts"),
        ("a > 5 AND b AND 5 >= a", "5 >= a", "what is said of a here contradicts"),
        ("a >= 5 AND a < 5", "a < 5", "contradicts"),
        ("a = 1 AND a = 2", "a = 2", "contradicts"),
        ("a = true AND a = 1", "a = 1", "contradicts"),
        ("a = 'x' AND a = 'y'", "a = 'y'", "contradicts"),
        ("a.b = 7 AND a.b < 7", "a.b < 7", "what is said of a.b here contradicts"),
        ("topic(2) = 'a' AND topic(2) = 'b'", "topic(2) = 'b'", "what is said of topic(2) here contradicts"),
    ],
)
def test_a_where_that_is_never_true_is_told_with_the_part_that_is_to_blame(where: str, part: str, why: str) -> None:
    sql = f"SELECT a FROM 't' WHERE {where}"
    [finding] = one(sql)
    assert finding.code == "never-true"
    assert finding.message.startswith("WHERE is never true: ")
    assert why in finding.message
    assert finding.offset is not None
    assert sql[finding.offset :].startswith(part)


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("a = 5 AND a >= 5 AND a <= 5", []),
        ("a = NULL", ["AWS does not document what `= NULL` gives; write isNull(a)"]),
        ("NULL <> a.b", ["AWS does not document what `<> NULL` gives; write NOT isNull(a.b)"]),
        ("isNull(a)", []),
    ],
)
def test_a_comparison_with_null_is_told(where: str, found: list[str]) -> None:
    assert [str(finding) for finding in one(f"SELECT a FROM 't' WHERE {where}")] == found


def test_a_variable_is_looked_into() -> None:
    [finding] = one("SET @x = a * 2 SELECT a FROM 't' WHERE @x")
    assert finding.message == "WHERE is never true: @x is a number, and never true or false"


# ── actions ─────────────────────────────────────────────────────────────────────────────────────────────────

TABLE = "dynamoDBv2: { putItem: { tableName: readings } }"
JSON = "sns: { targetArn: x, messageFormat: JSON }"
BATCH = "firehose: { deliveryStreamName: s, batchMode: true }"
LAMBDA = "lambda: { functionArn: f }"


@pytest.mark.parametrize(
    ("sql", "action", "found"),
    [
        ("SELECT * FROM 't'", TABLE, []),
        ("SELECT *, 1 AS x FROM 't'", TABLE, []),
        ("SELECT machine, reading FROM 't'", TABLE, []),
        ("SELECT topic(2) AS machine, {'reading': r} FROM 't'", TABLE, []),
        ("SELECT VALUE a FROM 't'", TABLE, []),
        ("SELECT VALUE {'machine': 1, 'reading': 2} FROM 't'", TABLE, []),
        ("SELECT machine FROM 't'", "dynamoDBv2: { putItem: { tableName: other } }", []),
        ("SELECT machine FROM 't'", TABLE,
         ["the key of the table readings has 'reading', which the statement never gives; add reading to the SELECT"]),
        ("SELECT VALUE {'machine': 1} FROM 't'", TABLE,
         ["the key of the table readings has 'reading', which the statement never gives; add reading to the SELECT"]),
        ("SELECT a AS x.machine FROM 't'", TABLE,
         ["the key of the table readings has 'machine', which the statement never gives; add machine to the SELECT",
          "the key of the table readings has 'reading', which the statement never gives; add reading to the SELECT"]),
        ("SELECT VALUE a - 1 FROM 't'", TABLE,
         ["dynamoDBv2 needs an object, and the statement gives a number; write SELECT … AS … and not SELECT VALUE"]),
        ("SELECT VALUE 5 FROM 't'", LAMBDA,
         ["lambda needs an object, and the statement gives a number; write SELECT … AS … and not SELECT VALUE"]),
        ("SELECT VALUE upper(a) FROM 't'", "republish: { topic: x }", []),
        ("SELECT a AS default FROM 't'", JSON, []),
        ("SELECT * FROM 't'", JSON, []),
        ("SELECT a FROM 't'", JSON,
         ["messageFormat JSON needs the member 'default', which the statement never gives; add default to the SELECT"]),
        ("SELECT VALUE a FROM 't'", BATCH, []),
        ("SELECT * FROM 't'", BATCH, []),
        ("SELECT a FROM 't'", BATCH,
         ["batchMode is for arrays, and the statement never gives one; write SELECT VALUE of an array"]),
        ("SELECT VALUE [a] FROM 't'", BATCH, []),
    ],
)  # fmt: skip
def test_an_output_that_an_action_cannot_use_is_told(sql: str, action: str, found: list[str]) -> None:
    assert [str(finding) for finding in one(sql, action)] == found


def test_it_is_told_at_the_parameter_that_is_to_blame() -> None:
    places = [one("SELECT a FROM 't'", action)[0].place for action in (TABLE, JSON, BATCH)]
    assert places == [
        ("actions", 0, "dynamoDBv2", "putItem", "tableName"),
        ("actions", 0, "sns", "messageFormat"),
        ("actions", 0, "firehose", "batchMode"),
    ]


def test_a_rule_without_an_action_is_told() -> None:
    [finding] = advise(rules("A: { sql: SELECT a FROM 't', actions: [] }"))
    assert (finding.code, finding.place) == ("no-action", ("actions",))


# ── names ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("items", "found"),
    [
        ("a + 1", ["a + 1"]), ("a.b", ["a.b"]), ("topic(2)", ["topic(2)"]), ("(a + 1)", ["a + 1"]), ("'x'", ["'x'"]),
        ("a + 1 AS b", []), ("(a + 1) AS b", []), ("((a.b))  as c", []), ("a.b AS b", []), ("a", []), ("*", []),
        ("* AS message", []), ("{'a': b}", []), ("VALUE a + 1", []), ("a.b, c.d AS e, f.g", ["a.b", "f.g"]),
    ],
)  # fmt: skip
def test_a_key_that_aws_does_not_document_is_told(items: str, found: list[str]) -> None:
    sql = f"SELECT {items} FROM 't'"
    findings = one(sql)
    assert {finding.code for finding in findings} <= {"unnamed"}
    assert [sql[finding.offset :][: len(text)] for finding, text in zip(findings, found, strict=True)] == found
    assert all(finding.suggestion == "write AS and a name" for finding in findings)


@pytest.mark.parametrize(
    ("sql", "action", "place", "written"),
    [
        ("SELECT topic(2) AS line FROM 't' WHERE line = 'x'", SNS, ("sql",), "line = 'x'"),
        ("SELECT a, b + 1 AS c FROM 't' WHERE a > 1 AND (a < 5 OR c.d > 2)", SNS, ("sql",), "c.d"),
        ("SELECT topic(2) AS line FROM 't'", "republish: { topic: 'a/${line}' }",
         ("actions", 0, "republish", "topic"), "line}"),
        ("SELECT topic(2) AS line FROM 't'", "s3: { bucketName: b, key: '${a}/${upper(line)}' }",
         ("actions", 0, "s3", "key"), "line)"),
    ],
)  # fmt: skip
def test_an_alias_where_only_the_message_is_seen_is_told(
    sql: str, action: str, place: tuple[str | int, ...], written: str
) -> None:
    [finding] = one(sql, action)
    assert (finding.code, finding.place) == ("alias", place)
    text = sql if place == ("sql",) else action.split("'")[1]
    assert text[finding.offset :].startswith(written)
    assert "for what SELECT calls" in finding.suggestion


def test_the_templates_of_a_rule_with_a_window_see_its_row() -> None:
    sql = "SELECT topic(2) AS line, count(*) AS n FROM 't/+' GROUP BY topic(2), TUMBLING('1 minute')"
    assert said(one(sql, "republish: { topic: 'a/${line}/${n}' }")) == []


def test_the_templates_of_the_error_action_are_looked_at_too() -> None:
    on_error = "errorAction: { republish: { topic: 'x/${l}' } }"
    text = f"A: {{ sql: SELECT topic(2) AS l FROM 't', actions: [sns: {{ targetArn: x }}], {on_error} }}"
    [finding] = advise(rules(text))
    assert finding.place == ("errorAction", "republish", "topic")


@pytest.mark.parametrize(
    ("sql", "code", "part"),
    [
        ("SELECT a FROM 't' WHERE regexp_matches(a, '(a')", "bad-pattern", "'(a'"),
        (r"SELECT regexp_substr(a, '(a)\1') AS b FROM 't'", "slow-pattern", r"'(a)\1'"),
        (r"SELECT a FROM 't' WHERE regexp_replace(a, '(?=b)c', '') = 'x'", "slow-pattern", "'(?=b)c'"),
        ("SELECT regexp_substr(a, b) AS c FROM 't'", None, ""),
    ],
)
def test_a_regular_expression_that_is_invalid_or_slow_is_told(sql: str, code: str | None, part: str) -> None:
    findings = one(sql)
    assert [finding.code for finding in findings] == ([] if code is None else [code])
    for finding in findings:
        assert sql[finding.offset :].startswith(part)


# ── several rules ───────────────────────────────────────────────────────────────────────────────────────────


def test_two_rules_that_do_the_same_are_told_once() -> None:
    text = """
A: { sql: "SELECT a FROM 't'", actions: [sns: { targetArn: x }] }
B: { sql: "SELECT  a\\n FROM 't'", actions: [sns: { targetArn: x }] }
C: { sql: "SELECT a FROM 't'", actions: [sns: { targetArn: y }] }
D: { sql: "SELECT a FROM 't'", actions: [sns: { targetArn: x }], awsIotSqlVersion: "2016-03-23" }
E: { sql: "SELECT a FROM 't'", actions: [sns: { targetArn: x }], ruleDisabled: true }
"""
    [finding] = advise(rules(text))
    assert (finding.rule, finding.code) == ("B", "twin")
    assert "A does" in finding.message


def test_rules_that_differ_in_the_blanks_of_a_text_are_no_twins() -> None:
    text = """
A: { sql: "SELECT a FROM 't' WHERE b = 'x y'", actions: [sns: { targetArn: x }] }
B: { sql: "SELECT a FROM 't' WHERE b = 'x  y'", actions: [sns: { targetArn: x }] }
C: { sql: "SELECT a FROM 't' WHERE b = 1", actions: [sns: { targetArn: x }] }
D: { sql: "SELECT a FROM 't' WHERE b = true", actions: [sns: { targetArn: x }] }
E: { sql: "SELECT a FROM 't' WHERE b='x y'", actions: [sns: { targetArn: x }] }
"""
    assert [(finding.rule, finding.message.split()[4]) for finding in advise(rules(text))] == [("E", "A")]


def test_what_is_allowed_is_not_said() -> None:
    several = rules("A: { sql: SELECT a + 1 FROM '/t', actions: [] }")
    assert [finding.code for finding in advise(several)] == ["empty-level", "unnamed", "no-action"]
    assert [finding.code for finding in advise(several, allow={"unnamed", "no-action"})] == ["empty-level"]


def test_no_rules_need_no_advice() -> None:
    assert advise([]) == []
    assert advise(list(RuleSet())) == []


# ── shapes ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sql", "kinds"),
    [
        ("SELECT VALUE 1.5", {NUMBER}), ("SELECT VALUE NULL", {NULL}), ("SELECT VALUE 'a'", {STRING}),
        ("SELECT VALUE [1]", {ARRAY}), ("SELECT VALUE {'a': 1}", {OBJECT}), ("SELECT VALUE true", {BOOLEAN}),
        ("SELECT VALUE a = 1", {BOOLEAN, UNDEFINED}), ("SELECT VALUE a + 1", {NUMBER, STRING, UNDEFINED}),
        ("SELECT VALUE upper(a)", {STRING, UNDEFINED}), ("SELECT VALUE cast(a AS Int)", {NUMBER, UNDEFINED}),
        ("SELECT VALUE CASE a WHEN 1 THEN 'x' ELSE 2 END", {STRING, NUMBER, UNDEFINED}),
        ("SELECT a", {OBJECT}), ("SELECT *, 1 AS b", {OBJECT}),
        ("SELECT *", {NUMBER, STRING, BOOLEAN, NULL, ARRAY, OBJECT, BYTES, UNDEFINED}),
        ("SELECT VALUE (SELECT a FROM b)", {NUMBER, STRING, BOOLEAN, NULL, ARRAY, OBJECT, BYTES, UNDEFINED}),
    ],
)  # fmt: skip
def test_the_types_of_an_output_are_known_as_far_as_they_can_be(sql: str, kinds: set[str]) -> None:
    assert shape(parse_statement(sql)).kinds == kinds


def test_every_version_gets_advice() -> None:
    for version in SqlVersion:
        assert [finding.code for finding in one("SELECT a FROM 't' WHERE 1 = 2", version=version)] == ["never-true"]


# ── what is said is true ────────────────────────────────────────────────────────────────────────────────────

LITERALS = some.sampled_from(("1", "2", "'1'", "'x'", "'true'", "true", "false", "NULL"))
MEMBERS = some.sampled_from(("a", "b", "a.c"))
OPERATORS = some.sampled_from(("=", "<>", "<", "<=", ">", ">=", "+", "-"))
COMPARED = some.builds("{} {} {}".format, MEMBERS | LITERALS, OPERATORS, MEMBERS | LITERALS)
CONDITIONS = some.recursive(
    MEMBERS | LITERALS | COMPARED,
    lambda inner: some.builds("({}) AND ({})".format, inner, inner)
    | some.builds("({}) AND ({}) AND ({})".format, COMPARED, COMPARED, inner)
    | some.builds("({}) OR ({})".format, inner, inner)
    | some.builds("NOT ({})".format, inner),
    max_leaves=6,
)
VALUES = some.sampled_from((1, 1.5, 2, 3, "1", "2", "x", "true", True, False, None, [], {"c": 1}))
PAYLOADS = some.dictionaries(some.sampled_from("ab"), VALUES)


@given(CONDITIONS, some.lists(PAYLOADS, min_size=1, max_size=8))
def test_a_where_that_is_said_to_be_never_true_is_never_true(where: str, payloads: list[Any]) -> None:
    rule = Rule("A", parse_statement(f"SELECT 1 AS x FROM 't' WHERE {where}"), SqlVersion.V2016)
    if any(finding.code == "never-true" for finding in advise([rule])):
        for payload in payloads:
            assert rule.evaluate(Event(Message("t", orjson.dumps(payload)), 0)) is NOTHING
