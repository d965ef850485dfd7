"""Why WHERE is or is not true: its parts, what the engine skips, and the one that is to blame."""

from typing import Any

import orjson
import pytest

from core.message import Message
from rules.engine import NOTHING, Rule
from rules.event import Event
from rules.rehearsal.explanations import PARTS_MAX, Part, again, blamed, condition, type_of, variables
from rules.sql.parser import parse_statement
from rules.sql.values import UNDEFINED, SqlVersion


def rule(where: str, version: SqlVersion = SqlVersion.V2016) -> Rule:
    return Rule("A", parse_statement(f"SELECT * FROM 't' WHERE {where}"), version)


def explained(where: str, payload: Any = None) -> Part:
    found = condition(rule(where), Event(Message("t/x", orjson.dumps(payload)), 0))
    assert found is not None
    return found


def lines(where: str, payload: Any = None) -> list[str]:
    """`expression: value`, indented; ~ stands before what is skipped."""
    said = []
    for part in explained(where, payload).walk():
        value = part.error or ("" if part.value is UNDEFINED else orjson.dumps(part.value).decode())
        mark = "~" if part.skipped else ""
        said.append("  " * part.depth + mark + " ".join(filter(None, [f"{part.text}:", part.type, value])))
    return said


@pytest.mark.parametrize(
    ("where", "payload", "found"),
    [
        ("a > 5", {"a": 7.0}, ["a > 5: Boolean true", "  a: Int 7"]),
        ("a.b = 'x'", {}, ["a.b = 'x': Undefined", "  a.b: Undefined"]),
        ("a AND b AND c", {"a": True, "b": False}, [
            "a AND b AND c: Boolean false", "  a: Boolean true", "  b: Boolean false", "  ~c:",
        ]),
        ("a OR b OR c", {"a": True}, ["a OR b OR c: Boolean true", "  a: Boolean true", "  ~b:", "  ~c:"]),
        ("a AND (b OR c > d)", {"a": False}, [
            "a AND (b OR c > d): Boolean false", "  a: Boolean false", "  ~b OR c > d:",
        ]),
        ("a OR b", {"b": True}, ["a OR b: Boolean true", "  a: Undefined", "  b: Boolean true"]),
        ("CASE a WHEN 1 THEN b WHEN c THEN d ELSE e END", {"a": 2, "c": 2, "d": "x"}, [
            'CASE a WHEN 1 THEN b WHEN c THEN d ELSE e END: String "x"',
            "  a: Int 2", "  ~b:", "  c: Int 2", '  d: String "x"', "  ~e:",
        ]),
        ("CASE a WHEN b THEN c ELSE d END", {}, [
            "CASE a WHEN b THEN c ELSE d END: Undefined", "  a: Undefined", "  ~b:", "  ~c:", "  ~d:",
        ]),
        ("get_or_default(a, b) = 1", {"a": 1}, [
            "get_or_default(a, b) = 1: Boolean true", "  get_or_default(a, b): Int 1", "    a: Int 1", "    ~b:",
        ]),
        ("get_or_default(a, b) = 1", {"a": None, "b": 1}, [
            "get_or_default(a, b) = 1: Boolean true", "  get_or_default(a, b): Int 1", "    a: Null null",
            "    b: Int 1",
        ]),
        ("EXISTS (SELECT * FROM a WHERE b = 1)", {"a": [{"b": 1}]}, [
            "EXISTS (SELECT * FROM a WHERE b = 1): Boolean true",
        ]),
        ("get((SELECT VALUE b FROM a), 0)", {"a": [{"b": True}]}, [
            "get((SELECT VALUE b FROM a), 0): Boolean true", "  (SELECT VALUE b FROM a): Array [true]",
        ]),
        ("get_secret('x', 'SecretString', '') = a", {}, [
            "get_secret('x', 'SecretString', '') = a: nobody answers calls here",
            "  get_secret('x', 'SecretString', ''): nobody answers calls here", "  a: Undefined",
        ]),
        ("true", {}, []),
    ],
)  # fmt: skip
def test_every_part_of_where_has_its_value_and_type(where: str, payload: Any, found: list[str]) -> None:
    assert lines(where, payload) == found


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "Null"), (True, "Boolean"), (1, "Int"), (1.5, "Decimal"), ("", "String"), ([], "Array"), ({}, "Object"),
        (b"", "bytes"), (UNDEFINED, "Undefined"),
    ],
)  # fmt: skip
def test_types_have_the_names_of_iot_sql(value: Any, kind: str) -> None:
    assert type_of(value) == kind


@pytest.mark.parametrize(
    ("where", "payload", "why"),
    [
        ("a > 5", {"a": 7}, ""),
        ("a > 5", {"a": 3}, "a > 5 is false"),
        ("a > 5", {}, "a is Undefined"),
        ("a > 5", {"a": "x"}, "a > 5 is Undefined"),
        ("a > 1 AND b > 1 AND c", {"a": 2, "b": 0}, "b > 1 is false"),
        ("a > 1 AND (b = 1 OR c)", {"a": 2, "b": 0}, "c is Undefined"),
        ("a > 1 AND (b = 1 OR c = 1)", {"a": 2, "b": 0, "c": 0}, "b = 1 OR c = 1 is false"),
        ("a", {"a": 5}, "a is Int, and not true"),
        ("a", {"a": "true"}, "a is String, and not true"),
        ("a", {"a": None}, "a is Null"),
        ("NOT a", {"a": True}, "NOT a is false"),
        ("a AND 1 = 2", {"a": True}, "1 = 2 is false"),
        ("get_secret('x', 'SecretString', '') = 1", {}, "get_secret('x', 'SecretString', '') = 1 failed: nobody"),
        ("false", {}, "false is false"),
    ],
)
def test_the_part_that_is_to_blame_is_named(where: str, payload: Any, why: str) -> None:
    found = blamed(explained(where, payload))
    assert found.startswith(why)
    assert bool(found) is bool(why)


def test_what_the_engine_makes_of_where_is_what_is_shown() -> None:
    for payload in ({"a": 1}, {"a": 0}, {}, {"a": None}, {"a": "1"}):
        shown = explained("a = 1 OR a = '1'", payload).value is True
        event = Event(Message("t", orjson.dumps(payload)), 0)
        assert shown == (repr(rule("a = 1 OR a = '1'").evaluate(event)) != "NOTHING")


def test_variables_are_explained_in_order() -> None:
    statement = parse_statement("SET @a = x * 2, @b = @a + 1, @c = y SELECT * FROM 't' WHERE @b > 1")
    event = Event(Message("t", b'{"x": 2}'), 0)
    found = variables(Rule("A", statement, SqlVersion.V2016), event)
    assert [(part.text, part.type, part.value) for part in found] == [
        ("@a", "Int", 4), ("@b", "Int", 5), ("@c", "Undefined", UNDEFINED),
    ]  # fmt: skip


def test_a_rule_without_where_has_nothing_to_explain() -> None:
    statement = parse_statement("SELECT * FROM 't'")
    assert condition(Rule("A", statement, SqlVersion.V2016), Event(Message("t", b""), 0)) is None


def test_a_huge_where_is_explained_as_far_as_anyone_reads() -> None:
    found = explained(" + ".join(["a"] * 1_500) + " > 1", {"a": 1})
    assert (found.value, len(list(found.walk())) <= PARTS_MAX) == (True, True)
    assert len(list(explained(" OR ".join(["a = 2"] * 600), {"a": 1}).walk())) <= PARTS_MAX


class Sure:
    """Chance that gives these numbers, one after the other."""

    def __init__(self, *numbers: float) -> None:
        self._numbers = list(numbers)

    def random(self) -> float:
        return self._numbers.pop(0)

    def uuid(self) -> str:
        return "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("sql", "numbers", "values", "why"),
    [
        ("SELECT a FROM 't' WHERE rand() < 0.5 AND a = 1", (0.7, 0.1, 0.1), ["false", "false", "0.7", ""],
         "rand() < 0.5 is false"),
        ("SELECT a FROM 't' WHERE rand() < 0.5 AND a = 1", (0.1, 0.7, 0.7), ["true", "true", "0.1", "true", "1"], ""),
        ("SELECT a FROM 't' WHERE rand() < 0.5 AND rand() > 0.5", (0.1, 0.2, 0.9, 0.9),
         ["false", "true", "0.1", "false", "0.2"], "rand() > 0.5 is false"),
        ("SELECT a FROM 't' WHERE rand() < 0.5 OR (traceid() <> '' AND rand() > 0.5)", (0.9, 0.8, 0.1, 0.1),
         ["true", "false", "0.9", "true", "true", '"00000000-0000-4000-8000-000000000000"', "true", "0.8"], ""),
        ("SET @r = rand() SELECT a FROM 't' WHERE rand() < 0.5 AND @r > 0.5", (0.9, 0.2, 0.1, 0.1),
         ["true", "true", "0.2", "true", "0.9"], ""),
    ],
)  # fmt: skip
def test_what_is_random_falls_once_for_the_whole_and_its_parts(
    sql: str, numbers: tuple[float, ...], values: list[str], why: str
) -> None:
    chosen = Rule("A", parse_statement(sql), SqlVersion.V2016)
    event = Event(Message("t", b'{"a": 1}'), 0, chance=Sure(*numbers))
    found = condition(chosen, event)
    assert found is not None
    shown = ["" if part.skipped else orjson.dumps(part.value).decode() for part in found.walk()]
    assert (shown, blamed(found)) == (values, why)
    again(event)
    assert (chosen.evaluate(event) is NOTHING) is bool(why)


def test_the_part_that_is_to_blame_is_found_among_any_number_of_parts() -> None:
    payload = {f"m{n}": 1 for n in range(1_000)} | {"m900": 2}
    where = " AND ".join(f"m{n} = 1" for n in range(1_000))
    assert blamed(explained(where, payload)) == "m900 = 1 is false"
    assert blamed(explained(where, {**payload, "m900": 1})) == ""
    few = " AND ".join(f"m{n} = 1" for n in range(400))
    nested = f"({few}) AND (m900 = 1 OR (m1 = 1 AND m2 = 2))"
    assert blamed(explained(nested, payload)) == "m900 = 1 OR (m1 = 1 AND m2 = 2) is false"
