"""What compiled statements make of messages: members, WHERE, numbers of either version, payloads of every kind."""

from typing import Any

import orjson
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from core.message import Message
from rules.engine import NOTHING, EvaluationError, Event, Rule, output_bytes
from rules.errors import SqlError
from rules.sql import values
from rules.sql.compiler import compile_expression, compile_statement
from rules.sql.functions.calls import Stubs
from rules.sql.parser import parse_embedded, parse_statement
from rules.sql.template import Template
from rules.sql.values import SqlVersion


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


@pytest.mark.parametrize("payload", [b"", b"\xff\x00", b"{not json", b"NaN", b"1e1000", b"[" * 5000 + b"]" * 5000])
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
    cube = as_json("SELECT a * a * a AS x", b'{"a":9223372036854775807}')
    assert cube == '{"x":7.846377169233350952242619027102544E+56}'
    assert as_json("SELECT a * a AS x", b'{"a":1e200}') == '{"x":1E+400}'
    assert as_json("SELECT a * a AS x", b'{"a":1e500}') == "{}"


# ── SELECT VALUE, literals, CASE, IN ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("select", "output"),
    [
        ("VALUE a.b", 5),
        ("VALUE list", [1, 2, 3]),
        ("VALUE a", {"b": 5}),
        ("VALUE nothing", None),
        ("VALUE missing", b""),
        ("VALUE {'k-1': n, 'gone': missing, 'in': [n, missing, 'x']}", {"k-1": 7, "in": [7, "x"]}),
        ("{'k-1': n}, n AS m, {'m': 2}", {"k-1": 7, "m": 2}),
        ("{'k-1': n} AS o", {"o": {"k-1": 7}}),
        ("[n, [list]] AS l", {"l": [7, [[1, 2, 3]]]}),
        ("{'a': {'b': n}}.a.b AS x", {"x": 7}),
        ("CASE n WHEN 1 THEN 'one' WHEN 7 THEN 'seven' WHEN 7 THEN 'again' ELSE 'more' END AS x", {"x": "seven"}),
        ("CASE n WHEN 1 THEN 'one' ELSE 'more' END AS x", {"x": "more"}),
        ("CASE n WHEN 1 THEN 'one' END AS x", {}),
        ("CASE missing WHEN 1 THEN 'one' ELSE 'more' END AS x", {}),
        ("CASE nothing WHEN null THEN 'null' ELSE 'more' END AS x", {"x": "null"}),
        ("CASE n WHEN missing THEN 1 WHEN '7' THEN 2 WHEN a.b + 2 THEN a.b END AS x", {"x": 5}),
        ("n IN [1, 7] AS x, '7' IN [1, 7] AS y, [7] IN [[7]] AS z", {"x": True, "y": False, "z": True}),
        ("a IN [{'b': 5}] AS x, 2 IN list AS y, 2 IN n AS z", {"x": True, "y": True}),
        ("* AS whole, n", {"whole": {"n": 7, "a": {"b": 5}, "list": [1, 2, 3], "nothing": None}, "n": 7}),
        ("cast(n AS String) AS s, cast('2.9' AS Int) AS i, cast(1 AS bool) AS b", {"s": "7", "i": 2, "b": True}),
        ("get_or_default(missing, n) AS x, get_or_default(nothing) AS y, get_or_default(n, 1) AS z", {"x": 7, "z": 7}),
        ("sql_version() AS v", {"v": "2016-03-23"}),
    ],
)
def test_values_literals_and_choices(select: str, output: Any) -> None:
    payload = {"n": 7, "a": {"b": 5}, "list": [1, 2, 3], "nothing": None}
    assert run(f"SELECT {select} FROM 'plant/#'", payload) == output


def test_a_case_of_hundreds_of_branches_compiles() -> None:
    branches = " ".join(f"WHEN {n} THEN '{n}'" for n in range(500))
    assert run(f"SELECT CASE n {branches} END AS x", {"n": 444}) == {"x": "444"}


# ── SET ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sql", "output"),
    [
        ("SET @c = (f - 32) * 5 / 9 SELECT @c AS celsius WHERE @c > 20", {"celsius": 25}),
        ("SET @c = (f - 32) * 5 / 9 SELECT @c AS celsius WHERE @c > 30", NOTHING),
        ("SET @a = o, @b = @a.p SELECT @b.q AS x, @a AS y", {"x": 1, "y": {"p": {"q": 1}}}),
        ("SET @a = 1, @b = @a + 1, @c = @b + 1 SELECT @a AS a WHERE @c = 3", {"a": 1}),
        ("SET @a = missing SELECT @a AS a, isUndefined(@a) AS b", {"b": True}),
        ("SET @n = 2 SELECT (SELECT VALUE v FROM list WHERE v >= @n) AS x", {"x": [2, 3]}),
        ("SET @s = (SELECT VALUE v FROM list) SELECT get(@s, 0) AS x", {"x": 1}),
        ("SET @A = 1, @a = 2 SELECT @A AS x, @a AS y", {"x": 1, "y": 2}),
    ],
)
def test_variables_are_set_once_and_seen_everywhere(sql: str, output: Any) -> None:
    payload = {"f": 77, "o": {"p": {"q": 1}}, "list": [{"v": 1}, {"v": 2}, {"v": 3}]}
    assert run(sql, payload) == output


def test_a_variable_that_where_does_not_need_costs_nothing_when_where_fails() -> None:
    sql = "SET @big = text + text, @n = n SELECT @big AS x WHERE @n = 1"
    assert run(sql, {"n": 0, "text": "x" * 100_000}) is NOTHING
    with pytest.raises(EvaluationError, match="more than 131,072 bytes"):
        run(sql, {"n": 1, "text": "x" * 100_000})
    with pytest.raises(EvaluationError, match="variables of SET"):
        run("SET @a = text, @b = text SELECT @a AS a", {"text": "x" * 70_000})


# ── nested SELECT ───────────────────────────────────────────────────────────────────────────────────────────

NESTED = {
    "foo": 4,
    "arr": [{"foo": 2, "v": 1}, {"foo": 3.5}, {"v": None}, 3, [1], "text"],
    "e": [{"n": "t", "v": 21.5}, {"n": "h", "v": 40}],
    "o": {"a": 1, "b": {"c": [5, 6]}},
    "rows": [{"id": "x", "cells": [1, 2]}, {"id": "y", "cells": [3]}],
}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("(SELECT v FROM arr WHERE foo = 2)", [{"v": 1}]),
        ("(SELECT VALUE foo FROM arr WHERE foo > 3 AND foo < 4)", [3.5]),
        ("(SELECT VALUE v FROM e)", [21.5, 40]),
        ("(SELECT VALUE v FROM arr)", [1, None]),
        ("(SELECT * FROM arr AS a WHERE a = 3)", [3]),
        ("(SELECT VALUE a FROM arr AS a WHERE a = 'text')", ["text"]),
        ("(SELECT *, n AS m FROM e WHERE n = 't')", [{"n": "t", "v": 21.5, "m": "t"}]),
        ("(SELECT a, b FROM o)", {"a": 1, "b": {"c": [5, 6]}}),
        ("(SELECT VALUE c FROM o.b)", [5, 6]),
        ("(SELECT a FROM o WHERE a = 2)", None),
        ("(SELECT a FROM foo)", None),
        ("(SELECT a FROM missing)", None),
        ("(SELECT a FROM [])", []),
        ("get((SELECT v FROM e WHERE n = 't'), 0).v", 21.5),
        ("(SELECT id, (SELECT VALUE c * foo FROM cells AS c) AS cells FROM rows)",
         [{"id": "x", "cells": [4, 8]}, {"id": "y", "cells": [12]}]),
        ("(SELECT VALUE r.id + c FROM (SELECT VALUE cells FROM rows) AS c)", []),
        ("(SELECT VALUE (SELECT VALUE r.id + c FROM r.cells AS c) FROM rows AS r)", [["x1", "x2"], ["y3"]]),
        ("(SELECT VALUE v FROM (SELECT * FROM e WHERE v > 30))", [40]),
        ("(SELECT v AS a.b FROM e WHERE v > 30)", [{"a": {"b": 40}}]),
        ("EXISTS (SELECT * FROM e WHERE v > 30)", True),
        ("EXISTS (SELECT * FROM e WHERE v > 50)", False),
        ("EXISTS (SELECT * FROM missing)", False),
        ("EXISTS (SELECT a FROM o WHERE a = 1)", True),
    ],
)  # fmt: skip
def test_a_nested_select_goes_over_arrays_and_into_objects(expression: str, value: Any) -> None:
    assert run(f"SELECT {expression} AS x", NESTED) == ({} if value is None else {"x": value})


def test_names_of_the_element_come_before_those_around_it() -> None:
    payload = {"n": 1, "list": [{"n": 2}, {}, {"n": None}]}
    assert run("SELECT (SELECT n FROM list) AS x", payload) == {"x": [{"n": 2}, {"n": 1}, {"n": None}]}


def test_nested_queries_look_at_a_bounded_number_of_elements() -> None:
    payload = {"list": list(range(1000))}
    assert len(run("SELECT VALUE (SELECT VALUE n FROM list AS n)", payload)) == 1000
    with pytest.raises(EvaluationError, match="more than 200,000 elements"):
        run("SELECT VALUE (SELECT VALUE (SELECT VALUE m FROM list AS m) FROM list AS n)", payload)


@pytest.mark.parametrize(
    "select",
    ["(SELECT *, big FROM list) AS x", "(SELECT VALUE [big, big] FROM list) AS x",
     "{'x': [" + ", ".join(["big"] * 100) + "]}", "(SELECT VALUE big + '' FROM list) AS x",
     ", ".join(f"big AS b{n}" for n in range(100)),
     "(SELECT * FROM list) + (SELECT *, big FROM list) AS x"],
)  # fmt: skip
def test_what_a_rule_multiplies_is_refused_before_it_fills_the_memory(select: str) -> None:
    payload = {"big": [{"text": "x" * 50, "n": n} for n in range(1000)], "list": [{"n": n} for n in range(5000)]}
    with pytest.raises(EvaluationError, match=r"more than [0-9,]+ (elements|bytes)"):
        run(f"SELECT {select}", payload)


# ── failures that get_or_default catches ────────────────────────────────────────────────────────────────────


def test_get_or_default_gives_the_default_for_what_fails_and_evaluates_it_only_then() -> None:
    payload = {"text": "x" * 700_000, "n": 1}
    assert run("SELECT get_or_default(text + text, 'too long') AS x", payload) == {"x": "too long"}
    assert run("SELECT get_or_default(n, text + text) AS x", payload) == {"x": 1}
    with pytest.raises(EvaluationError):
        run("SELECT text + text AS x", payload)


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sql", "column", "message"),
    [
        ("SELECT @a AS x", 8, "@a has no value here; SET gives it one before SELECT"),
        ("SET @temp = 1 SELECT @tmp AS x", 22, "@tmp has no value here; did you mean @temp?"),
        ("SET @a = @a + 1 SELECT @a AS x", 10, "@a has no value here; SET gives it one before SELECT"),
        ("SET @a = @b, @b = 1 SELECT @a AS x", 10, "@b has no value here; SET gives it one before SELECT"),
        ("SELECT machinelearning_predict('m', 'r', a) AS x", 8, "Amazon Machine Learning does not exist any more"),
        ("SELECT decode(*, 'proto', 'b', 'k', 'p', 'm') AS x", 8,
         "Protocol Buffers need a descriptor from S3, which is not read here"),
        ("SELECT transform(mode, a, b) AS x", 8, "the first argument of transform() is a constant: 'enrichArray'"),
        ("SELECT get_or_default(a, get_thing_shadow('t', 'r')) AS x", 26,
         "the default of get_or_default() may not call get_thing_shadow()"),
        ("SELECT get_dynamodb('t','k','v','r') AS x, get_dynamodb('t','k','w','r') AS y", 44,
         "get_dynamodb() may stand only once in a statement"),
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


@pytest.mark.parametrize("expression", ["[1]", "{'a': 1}", "(SELECT a FROM b)", "EXISTS (SELECT a FROM b)",
                                        "cast(a AS Decimal)", "cast(a AS Bool)"])  # fmt: skip
def test_the_newer_grammar_is_refused_under_2015(expression: str) -> None:
    with pytest.raises(SqlError, match="needs awsIotSqlVersion 2016-03-23, this rule has 2015-10-08"):
        run(f"SELECT {expression} AS x", {}, SqlVersion.V2015)
    run(f"SELECT {expression} AS x", {}, SqlVersion.BETA)


def test_under_2015_a_value_is_no_array() -> None:
    assert run("SELECT VALUE a", {"a": "x"}, SqlVersion.V2015) == "x"
    with pytest.raises(EvaluationError, match="SELECT VALUE gave an array"):
        run("SELECT VALUE a", {"a": [1]}, SqlVersion.V2015)


def test_a_function_that_this_side_does_not_run_is_refused() -> None:
    statement = parse_statement("SELECT get_secret('a', 'SecretString', 'r') AS x")
    compile_statement(statement, SqlVersion.V2016, frozenset({"get_secret"}))
    with pytest.raises(SqlError, match=r"this side cannot run get_secret\(\)"):
        compile_statement(statement, SqlVersion.V2016, frozenset())


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
        st.tuples(inner, inner).map(lambda parts: f"({parts[0]} IN [{parts[1]}, {parts[0]}])"),
        st.tuples(inner, inner, inner).map(lambda p: f"CASE {p[0]} WHEN {p[1]} THEN {p[2]} ELSE {p[0]} END"),
        st.tuples(inner, inner, inner).map(lambda p: f"(SELECT a, {p[0]} AS b FROM [{p[1]}] AS c WHERE {p[2]})"),
        st.tuples(inner, inner).map(lambda p: f"EXISTS (SELECT VALUE {p[0]} FROM {{'a': {p[1]}}} AS a)"),
        st.tuples(st.sampled_from(["String", "Int", "Double", "Decimal", "Bool"]), inner).map(
            lambda parts: f"cast({parts[1]} AS {parts[0]})"
        ),
        inner.map(lambda part: f"get_or_default(({part}).b, {part})"),
    ),
    max_leaves=6,
)


@given(EXPRESSIONS, EXPRESSIONS, JSON, st.sampled_from(SqlVersion))
@example("b.c = d", "a + '5'", {"b": {"c": 1}}, SqlVersion.V2016)
def test_every_statement_answers_for_every_json_payload(
    where: str, selected: str, payload: Any, version: SqlVersion
) -> None:
    sql = f"SET @v = {selected} SELECT *, @v AS x, a AS y.z WHERE {where}"
    try:
        rule = Rule("fuzz", parse_statement(sql), version)
    except SqlError as error:  # the rest of the test is for what the version has
        assume("needs awsIotSqlVersion" not in error.message)
        raise
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


# ── what a review found ─────────────────────────────────────────────────────────────────────────────────────


def test_variables_have_one_value_for_the_statement_and_its_templates() -> None:
    statement = parse_statement("SET @id = newuuid(), @n = n SELECT @id AS id FROM 't'")
    template = Template("k/${@id}/${@id}/${@n}", statement=statement)
    event = Event(Message("t", b'{"n": 1}'), 0, chance=CountingChance())
    output = Rule("r", statement, SqlVersion.V2016).evaluate(event)
    assert output == {"id": "1"}
    assert template.render(event) == "k/1/1/1"
    assert template.render(Event(Message("t", b"{}"), 0, chance=CountingChance())) == "k/1/1/"  # nobody evaluated it


class CountingChance:
    """Another text each time."""

    def __init__(self) -> None:
        self.asked = 0

    def random(self) -> float:
        return 0.5

    def uuid(self) -> str:
        self.asked += 1
        return str(self.asked)


@pytest.mark.parametrize("where", ["@w = 1", "true"])
def test_a_variable_must_have_its_value_before_it_is_used_whatever_where_says(where: str) -> None:
    with pytest.raises(SqlError, match="@w has no value here"):
        run(f"SET @v = @w, @w = 1 SELECT @v AS v WHERE {where}", {})


def test_what_may_stand_once_may_stand_in_set() -> None:
    statement = parse_statement("SET @item = get_dynamodb('t', 'k', id, 'r') SELECT @item.v AS v FROM 't'")
    event = Event(Message("t", b'{"id": 5}'), 0, calls=Stubs({"dynamodb": {"t": [{"k": 5, "v": "hit"}]}}))
    assert Rule("r", statement, SqlVersion.V2016).evaluate(event) == {"v": "hit"}
    assert Template("${@item.v}", statement=statement).render(event) == "hit"
    with pytest.raises(SqlError, match="only once"):
        run("SET @a = get_dynamodb('t', 'k', 1, 'r'), @b = get_dynamodb('t', 'k', 2, 'r') SELECT @b AS b", {})


def test_a_call_with_too_many_arguments_hides_no_fault_in_them() -> None:
    with pytest.raises(SqlError, match=r"no function nosuch\(\)"):
        run("SELECT abs(1, nosuch()) AS x", {})
    with pytest.raises(SqlError, match="@nope has no value"):
        run("SELECT abs(@nope, 1) AS x", {})
    assert run("SELECT abs(1, a.b, 2) AS x, a.b AS y", {"a": {"b": 1}}) == {"y": 1}


def test_a_huge_number_is_equal_to_itself_however_it_is_written() -> None:
    payload = b'{"a": 100000000000000000000000, "b": 1e23}'
    assert run("SELECT a = b AS w, a <> b AS x, a > b AS y, a <= 1E23 AS z", payload) == {
        "w": True, "x": False, "y": False, "z": True,
    }  # fmt: skip
    assert run("SELECT a = 1E23 AS x, b = 1E23 AS y", payload, SqlVersion.V2015) == {"x": True, "y": True}


def test_functions_that_hand_on_what_they_are_given_do_not_copy_it() -> None:
    event = Event(Message("t", b'{"a-b": {"list": [1.0]}}'), 0)
    statement = parse_statement("SELECT get(*, 'a-b') AS x WHERE isUndefined(get(*, 'c')) AND 1 IN [1]")
    assert Rule("r", statement, SqlVersion.V2016).evaluate(event) == {"x": {"list": [1]}}
    assert repr(event.value) == "{'a-b': {'list': [1.0]}}"
    limits = {"r": [{"v": n} for n in range(460)], "limits": list(range(460))}
    assert len(run("SELECT (SELECT v FROM r WHERE v IN limits) AS x", limits)["x"]) == 460


def test_a_query_that_takes_too_long_is_given_up() -> None:
    statement = parse_statement("SELECT (SELECT VALUE 1 FROM l WHERE b = c) AS x")
    payload = orjson.dumps({"l": [0] * 1_000, "b": [0], "c": [0]})
    ticks = iter(n / 100 for n in range(1_000))
    rule = Rule("r", statement, SqlVersion.V2016)
    with pytest.raises(EvaluationError, match=r"take longer than 0\.1 seconds"):
        rule.evaluate(Event(Message("t", payload), 0, watch=lambda: next(ticks)))
    assert next(ticks) < 0.2
    assert len(rule.evaluate(Event(Message("t", payload), 0))["x"]) == 1_000


def test_names_in_many_nested_queries_cost_what_they_cost_in_one() -> None:
    names = " + ".join(f"n{n}" for n in range(300))
    inner = f"(SELECT VALUE {names} FROM list)"
    for _ in range(25):
        inner = f"(SELECT VALUE {inner} FROM list)"
    assert len(str(Rule("r", parse_statement(f"SELECT {inner} AS x"), SqlVersion.V2016).sql)) > 2_000


def test_a_constant_that_takes_long_to_compute_is_not_computed_when_the_statement_is_compiled() -> None:
    folded = ", ".join(f"length(replace(lpad('', 1000), ' ', lpad('{n}', 900))) AS x{n}" for n in range(200))
    statement = parse_statement(f"SELECT {folded}")
    rule = Rule("r", statement, SqlVersion.V2016)
    assert rule.evaluate(Event(Message("t", b"{}"), 0))["x7"] == 901_000


def test_nesting_beyond_the_bound_is_told_with_its_place() -> None:
    deep = "CASE a WHEN 1 THEN " * 50 + "1" + " END" * 50
    with pytest.raises(SqlError, match="nested too deeply here") as caught:
        run(f"SELECT {deep} AS x", {})
    assert caught.value.column > 100
