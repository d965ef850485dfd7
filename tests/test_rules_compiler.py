"""What compiled statements make of messages: members, WHERE, numbers of either version, payloads of every kind."""

from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.message import Message
from rules import values
from rules.compiler import compile_expression
from rules.engine import NOTHING, EvaluationError, Event, Rule, output_bytes
from rules.errors import SqlError
from rules.parser import parse_embedded, parse_statement
from rules.values import SqlVersion


def run(sql: str, payload: Any, version: SqlVersion = SqlVersion.V2016, topic: str = "plant/press/oven") -> Any:
    content = payload if isinstance(payload, bytes) else orjson.dumps(payload)
    event = Event(Message(topic, content, client_id="device-7"), now_ms=1_700_000_000_000)
    return Rule("test", parse_statement(sql), version).evaluate(event)


def as_json(sql: str, payload: Any, version: SqlVersion = SqlVersion.V2016) -> str:
    return output_bytes(run(sql, payload, version)).decode()


# ── SELECT ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("select", "payload", "output"),
    [
        ("a", {"a": 1, "b": 2}, {"a": 1}),
        ("a AS x, b", {"a": 1, "b": 2}, {"x": 1, "b": 2}),
        ("a.b.c AS x", {"a": {"b": {"c": 5}}}, {"x": 5}),
        ("a.b", {"a": {"b": 5}}, {"b": 5}),
        ("foo.bar AS bar.baz", {"foo": {"bar": 5}}, {"bar": {"baz": 5}}),
        ("a AS x.y, b AS x.z, a AS x.w.v", {"a": 1, "b": 2}, {"x": {"y": 1, "z": 2, "w": {"v": 1}}}),
        ("a AS x, b AS x.y", {"a": 1, "b": 2}, {"x": {"y": 2}}),
        ("missing, a", {"a": 1}, {"a": 1}),
        ("missing", {"a": 1}, {}),
        ("a.b.c", {"a": {"b": "text"}}, {}),
        ("a", {"a": None}, {"a": None}),
        ("NULL AS n", {}, {"n": None}),
        ("*", {"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}),
        ("*, topic(2) AS line", {"a": 1}, {"a": 1, "line": "press"}),
        ("*, a + 1 AS a", {"a": 1}, {"a": 2}),
        ("a + 1 AS a, *", {"a": 1}, {"a": 1}),
        ("*, missing AS a", {"a": 1}, {"a": 1}),
        ("*, b AS a.c", {"a": {"x": 1}, "b": 2}, {"a": {"x": 1, "c": 2}, "b": 2}),
        ("a + b", {"a": 1, "b": 2}, {"a + b": 3}),
        ("1 = 1 AS yes, 'x' AS text, -2.5 AS number", {}, {"yes": True, "text": "x", "number": -2.5}),
        ("a, A, température", {"a": 1, "A": 2, "température": 3}, {"a": 1, "A": 2, "température": 3}),
    ],
)
def test_the_members_of_the_output(select: str, payload: Any, output: Any) -> None:
    assert run(f"SELECT {select} FROM 'plant/#'", payload) == output


@pytest.mark.parametrize("payload", [b"80", b'"text"', b"[1,2]", b"null", b"true"])
def test_a_payload_that_is_json_but_no_object_passes_through_a_lone_star_only(payload: bytes) -> None:
    assert output_bytes(run("SELECT *", payload)) == payload
    assert run("SELECT *, a, topic(1) AS t", payload) == {"t": "plant"}


@pytest.mark.parametrize("payload", [b"", b"\xff\x00", b"{not json", b"NaN", b"1e999", b"[" * 5000 + b"]" * 5000])
def test_a_payload_that_is_not_json_passes_through_a_lone_star_as_bytes(payload: bytes) -> None:
    assert run("SELECT *", payload) == payload
    assert run("SELECT *, a, topic(1) AS t", payload) == {"t": "plant"}
    assert run("SELECT * WHERE a = 1", payload) is NOTHING
    assert run("SELECT * WHERE a <> 1", payload) is NOTHING


def test_no_statement_changes_the_payload_that_the_next_rule_sees() -> None:
    event = Event(Message("t", b'{"a":{"x":1.0},"b":2.0}'), 0)
    for sql in ("SELECT *, b AS a.c", "SELECT a AS a, b AS a.x", "SELECT *"):
        Rule("r", parse_statement(sql), SqlVersion.V2016).evaluate(event)
    assert repr(event.members) == "{'a': {'x': 1.0}, 'b': 2.0}"


# ── WHERE ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("where", "passes"),
    [
        ("n = 7", True),
        ("n = 7.0", True),
        ("7 = n", True),
        ("n <> 7", False),
        ("n > 6 AND n < 8", True),
        ("n >= 7 AND n <= 7", True),
        ("n > '6'", True),
        ("numeral > n", True),
        ("text = 'red'", True),
        ("'red' = text", True),
        ("text <> 'red'", False),
        ("text = 'Red'", False),
        ("n = 'red'", False),
        ("n <> 'red'", True),
        ("text > 'a'", False),
        ("text = other", False),
        ("text = text", True),
        ("n = n", True),
        ("flag", True),
        ("flag = true", True),
        ("flag = 1", False),
        ("NOT flag", False),
        ("NOT off", True),
        ("word", False),
        ("word AND flag", True),
        ("n", False),
        ("null", False),
        ("nothing = NULL", True),
        ("nothing = null AND text <> null", True),
        ("list = list", True),
        ("object.n = n", True),
        ("missing = 1", False),
        ("missing <> 1", False),
        ("NOT missing = 1", False),
        ("missing = 1 OR n = 7", True),
        ("n = 7 OR missing = 1", True),
        ("missing = 1 AND n = 7", False),
        ("NOT (missing = 1 AND n = 8)", True),
        ("n = 1 OR n = 2 OR n = 7", True),
        ("n = 1 OR n = 2 AND n = 7", False),
        ("flag AND (off OR (n = 7 AND (text = 'blue' OR text = 'red')))", True),
        ("isUndefined(missing) AND NOT isUndefined(nothing)", True),
        ("topic(2) = 'press' AND topic() = 'plant/press/oven'", True),
        ("1 = 1", True),
        ("2 * 3 = 6.0 AND 'a' + 1 = 'a1'", True),
        ("true", True),
        ("'true'", False),
    ],
)
def test_only_true_passes_where(where: str, passes: bool) -> None:
    payload = {
        "n": 7, "numeral": "8", "text": "red", "other": "blue", "flag": True, "off": False, "word": "TRUE",
        "nothing": None, "list": [1, "a"], "object": {"n": 7},
    }  # fmt: skip
    output = run(f"SELECT n FROM 'plant/#' WHERE {where}", payload)
    assert output == ({"n": 7} if passes else NOTHING)


# ── the number rule of each version ─────────────────────────────────────────────────────────────────────────


def test_under_2016_a_whole_decimal_is_written_as_an_int_everywhere() -> None:
    payload = b'{"a":10.0,"b":[1.0,{"c":2.50}],"d":0.5}'
    v2016 = SqlVersion.V2016
    assert as_json("SELECT *", payload, v2016) == '{"a":10,"b":[1,{"c":2.5}],"d":0.5}'
    assert as_json("SELECT *, a AS x.y", payload, v2016) == '{"a":10,"b":[1,{"c":2.5}],"d":0.5,"x":{"y":10}}'
    assert as_json("SELECT a, b", payload, v2016) == '{"a":10,"b":[1,{"c":2.5}]}'
    assert as_json("SELECT d * 2 AS x, 10.0 AS y, 5 * 0.4 AS z", payload, v2016) == '{"x":1,"y":10,"z":2}'
    assert as_json("SELECT a + '' AS x, b + '' AS y", payload, v2016) == '{"x":"10","y":"[1,{\\"c\\":2.5}]"}'
    assert as_json("SELECT lower(a) AS x, concat(a, 'b', 1E2) AS y", payload, v2016) == '{"x":"10","y":"10b100"}'


def test_under_2015_a_decimal_stays_one() -> None:
    payload = b'{"a":10.0,"b":[1.0]}'
    v2015 = SqlVersion.V2015
    assert as_json("SELECT *", payload, v2015) == '{"a":10.0,"b":[1.0]}'
    assert as_json("SELECT a, a + '' AS x, 10.0 AS y", payload, v2015) == '{"a":10.0,"x":"10.0","y":10.0}'
    assert as_json("SELECT '5' - 3 AS x, 4 / 2 AS y", payload, v2015) == '{"x":2,"y":2}'


def test_numbers_that_json_cannot_hold_in_64_bits_are_still_written() -> None:
    assert as_json("SELECT a * 1000 AS x", b'{"a":9223372036854775807}') == '{"x":9223372036854775807000}'
    assert as_json("SELECT a * a * a AS x", b'{"a":9223372036854775807}') == '{"x":7.846377169233351e+56}'
    assert as_json("SELECT a * a AS x", b'{"a":1e200}') == "{}"


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sql", "column", "message"),
    [
        ("SELECT encode(a, 'base64') AS x", 8, "the function encode() is not supported yet"),
        ("SELECT a WHERE Get_Or_Default(a, 1) = 1", 16, "the function get_or_default() is not supported yet"),
        ("SELECT lowr(a) AS x", 8, "there is no function lowr(); did you mean lower()?"),
        ("SELECT zzzzzz(a) AS x", 8, "there is no function zzzzzz()"),
        ("SELECT 1 AS x WHERE false AND frob()", 31, "there is no function frob()"),
    ],
)
def test_a_function_that_is_not_there_is_refused_when_compiled(sql: str, column: int, message: str) -> None:
    with pytest.raises(SqlError) as caught:
        run(sql, {})
    assert caught.value.message == message
    assert caught.value.column == column


def test_a_function_of_2016_is_refused_under_2015() -> None:
    with pytest.raises(SqlError, match=r"isundefined\(\) needs awsIotSqlVersion 2016-03-23, this rule has 2015-10-08"):
        run("SELECT isUndefined(a) AS x", {}, SqlVersion.V2015)


def test_what_a_user_writes_never_becomes_code() -> None:
    hostile = "'); import os; os.abort(); ('"
    payload = {"__class__": 1, "c1": 2, "event": 3, "output": 4}
    assert run('SELECT __class__, c1, event, output, "' + hostile + '" AS text', payload) == {
        **payload,
        "text": hostile,
    }


def test_a_payload_nested_too_deeply_is_an_evaluation_error() -> None:
    deep = b'{"a":' * 1000 + b"1" + b"}" * 1000
    for sql in ("SELECT *", "SELECT a", "SELECT a = a AS x", "SELECT a + '' AS x"):
        with pytest.raises(EvaluationError, match=r"nested too deeply|written as JSON"):
            output_bytes(run(sql, deep))


# ── against a model ─────────────────────────────────────────────────────────────────────────────────────────

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5) | st.sampled_from(["true", "FALSE", "5", "-1.5E3"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip
ATOMS = st.sampled_from(
    ["a", "b.c", "d", "1", "2.0", "0", "'5'", "'x'", "true", "null", "topic()", "topic(2)", "timestamp()", "-1E300"]
)
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([*"+-*/%=<>", "<>", "<=", ">=", "AND", "OR"]), inner).map(
            lambda parts: f"({' '.join(parts)})"
        ),
        inner.map(lambda part: f"(NOT {part})"),
        st.tuples(st.sampled_from(["abs", "round", "ceil", "lower", "isNull", "isUndefined", "concat"]), inner).map(
            lambda parts: f"{parts[0]}({parts[1]})"
        ),
        st.tuples(inner, inner).map(lambda parts: f"concat({parts[0]}, {parts[1]})"),
    ),
    max_leaves=6,
)


@given(EXPRESSIONS, EXPRESSIONS, JSON, st.sampled_from(SqlVersion))
@example("b.c = d", "a + '5'", {"b": {"c": 1}}, SqlVersion.V2016)
def test_every_statement_answers_for_every_json_payload(
    where: str, selected: str, payload: Any, version: SqlVersion
) -> None:
    sql = f"SELECT *, {selected} AS x, a AS y.z WHERE {where}"
    if version is SqlVersion.V2015:
        sql = sql.replace("isUndefined", "isNull")
    rule = Rule("fuzz", parse_statement(sql), version)
    event = Event(Message("a/b", orjson.dumps(payload)), 5)
    output = rule.evaluate(event)
    assert rule.counters.failed == 0
    if output is not NOTHING:
        orjson.loads(output_bytes(output))


@given(st.binary(max_size=50))
def test_every_payload_gets_an_answer(payload: bytes) -> None:
    output = run("SELECT *, a + 1 AS b FROM 'x' WHERE isUndefined(a) OR a > 0", payload)
    assert output is NOTHING or isinstance(output, dict)


OPERATORS = {
    "=": values.equal, "<>": values.unequal, "<": values.less, ">=": values.greater_or_equal, "+": values.add,
    "/": values.divide, "AND": values.both, "OR": values.either,
}  # fmt: skip


def value_of(expression: str, event: Event) -> Any:
    tree, _ = parse_embedded(f"{expression}}}", 0)
    return compile_expression(tree, expression, SqlVersion.V2016)(event)


@given(EXPRESSIONS, st.sampled_from(sorted(OPERATORS)), EXPRESSIONS, JSON)
def test_compiled_operators_agree_with_the_tables(left: str, operator: str, right: str, payload: Any) -> None:
    event = Event(Message("a/b", orjson.dumps(payload)), 5)
    compiled = value_of(f"({left}) {operator} ({right})", event)
    expected = OPERATORS[operator](value_of(left, event), value_of(right, event))
    assert compiled is expected or values.same(compiled, expected)
    assert repr(compiled) == repr(values.whole(expected))
