"""The functions that ask somebody else: what they may be given, what they are answered, and what fails the rule."""

from typing import Any

import pytest

from core.message import Message
from rules.errors import CallFailed, SqlError
from rules.event import Calls, Event
from rules.sql.compiler import compile_statement
from rules.sql.functions.calls import CALLING, Stubs, Unanswered
from rules.sql.parser import parse_statement
from rules.sql.values import UNDEFINED, SqlVersion

ROLE = "'arn:aws:iam::123456789012:role/r'"
STUBS = {
    "shadows": {"press": {"state": {"reported": {"x": 1}}}, "press/settings": {"state": {"desired": {"y": 2}}}},
    "dynamodb": {"machines": [{"id": "a", "n": 1}, {"id": "b", "n": 1, "hall": 2}, {"id": "b", "n": 2, "hall": 3}]},
    "lambda": {"arn:double": {"doubled": 4}},
    "registry": {"DescribeThing": {"press": {"attributes": {"hall": "1"}}},
                 "ListThingGroupsForThing": {"press": {"thingGroups": []}}},
    "secrets": {"text": {"SecretString": "sesame"}, "json": {"SecretString": '{"user":"u","n":1.50}'},
                "list": {"SecretString": "[1]"}, "binary": {"SecretBinary": "AP8="}},
}  # fmt: skip


class Counting(Stubs):
    """Stubs that say how often they were asked."""

    def __init__(self) -> None:
        super().__init__(STUBS)
        self.asked = 0

    def aws_lambda(self, arn: str, payload: Any) -> Any:
        self.asked += 1
        self.payload = payload
        return super().aws_lambda(arn, payload)


def value(expression: str, calls: Calls | None = None) -> Any:
    run = compile_statement(parse_statement(f"SELECT {expression} AS x"), SqlVersion.V2016)
    payload = b'{"id":"b","n":2,"thing":"press","whole":2.0}'
    return run(Event(Message("t", payload), 0, calls=calls or Stubs(STUBS))).get("x", UNDEFINED)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (f"get_thing_shadow('press', {ROLE}).state.reported.x", 1),
        (f"get_thing_shadow(thing, 'settings', {ROLE}).state.desired.y", 2),
        ("get_thing_shadow('press').state.reported.x", 1),
        (f"get_thing_shadow(n, {ROLE})", UNDEFINED),
        (f"get_thing_shadow('press', n, {ROLE})", UNDEFINED),
        (f"get_thing_shadow(missing, {ROLE})", UNDEFINED),
        ("get_thing_shadow()", UNDEFINED),
        (f"get_dynamodb('machines', 'id', 'a', {ROLE}).n", 1),
        (f"get_dynamodb('machines', 'id', id, 'n', n, {ROLE}).hall", 3),
        (f"get_dynamodb('machines', 'id', 'b', 'n', whole, {ROLE}).hall", 3),
        ("get_dynamodb('machines', 'id', 'a').n", 1),
        ("get_dynamodb('machines', 'id', 'b', 'n', 1).hall", 2),
        (f"get_dynamodb('machines', 'id', 'gone', {ROLE})", UNDEFINED),
        (f"get_dynamodb('machines', 'id', 1, {ROLE})", UNDEFINED),
        (f"get_dynamodb('machines', 'id', missing, {ROLE})", UNDEFINED),
        (f"get_dynamodb('machines', 'id', null, {ROLE})", UNDEFINED),
        (f"get_dynamodb('machines', 'id', true, {ROLE})", UNDEFINED),
        (f"get_dynamodb(n, 'id', 'a', {ROLE})", UNDEFINED),
        ("get_dynamodb('machines', 'id')", UNDEFINED),
        ("aws_lambda('arn:double', *).doubled", 4),
        ("aws_lambda('arn:double', {'n': n}).doubled", 4),
        ("aws_lambda('arn:double', missing)", UNDEFINED),
        ("aws_lambda(n, *)", UNDEFINED),
        ("aws_lambda('arn:double')", UNDEFINED),
        (f"get_registry_data('DescribeThing', thing, {ROLE}).attributes.hall", "1"),
        (f"get_registry_data('ListThingGroupsForThing', 'press', {ROLE}).thingGroups", []),
        ("get_registry_data('DescribeThing', 'press').attributes.hall", "1"),
        (f"get_registry_data('DescribeThing', n, {ROLE})", UNDEFINED),
        (f"get_secret('text', 'SecretString', {ROLE})", "sesame"),
        ("get_secret('text', 'SecretString')", "sesame"),
        (f"get_secret('json', 'SecretString', 'user', {ROLE})", "u"),
        (f"get_secret('json', 'SecretString', 'n', {ROLE})", 1.5),
        (f"get_secret('json', 'SecretString', 'gone', {ROLE})", UNDEFINED),
        (f"get_secret('json', 'SecretString', {ROLE})", '{"user":"u","n":1.50}'),
        (f"get_secret('binary', 'SecretBinary', {ROLE})", "AP8="),
        (f"get_secret('binary', 'SecretString', {ROLE})", UNDEFINED),
        (f"get_secret('text', 'Other', {ROLE})", UNDEFINED),
        (f"get_secret(n, 'SecretString', {ROLE})", UNDEFINED),
        (f"get_secret('text', 'SecretString', n, {ROLE})", UNDEFINED),
        ("get_secret('text')", UNDEFINED),
    ],
)
def test_an_answer_is_a_value_of_the_language(expression: str, expected: Any) -> None:
    assert value(expression) == expected


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (f"get_thing_shadow('lathe', {ROLE})", "no shadow 'lathe'"),
        (f"get_thing_shadow('press', 'other', {ROLE})", "no shadow 'press/other'"),
        (f"get_dynamodb('gone', 'id', 'a', {ROLE})", "no table 'gone'"),
        ("aws_lambda('arn:gone', *)", "no function 'arn:gone'"),
        (f"get_registry_data('DescribeThing', 'lathe', {ROLE})", "no DescribeThing of thing 'lathe'"),
        (f"get_registry_data('ListThings', 'press', {ROLE})", "DescribeThing and ListThingGroupsForThing"),
        (f"get_secret('gone', 'SecretString', {ROLE})", "no secret 'gone'"),
        (f"get_secret('text', 'SecretString', 'user', {ROLE})", "'text' is no JSON object"),
        (f"get_secret('list', 'SecretString', 'user', {ROLE})", "'list' is no JSON object"),
        (f"get_secret('binary', 'SecretString', 'user', {ROLE})", "'binary' is no JSON object"),
        (f"get_secret('binary', 'SecretBinary', 'user', {ROLE})", "not a SecretBinary"),
    ],
)
def test_what_is_refused_fails_the_rule_unless_it_has_a_default(expression: str, message: str) -> None:
    with pytest.raises(CallFailed, match=message):
        value(expression)
    assert value(f"get_or_default({expression}, 'default')") == "default"


def test_a_secret_is_no_part_of_an_error() -> None:
    for expression in (
        "get_secret('text', 'SecretString', 'user', 'r')",
        "get_secret('binary', 'SecretBinary', 'k', 'r')",
    ):
        with pytest.raises(CallFailed) as caught:
            value(expression)
        assert "sesame" not in str(caught.value)
        assert "AP8=" not in str(caught.value)


def test_a_request_is_made_once_per_message_and_another_is_another() -> None:
    calls = Counting()
    value("aws_lambda('arn:double', {'a': n}).doubled + aws_lambda('arn:double', {'a': n}).doubled", calls)
    assert calls.asked == 1
    assert calls.payload == {"a": 2}
    value(
        "[aws_lambda('arn:double', {'a': n}), aws_lambda('arn:double', {'a': 3}), aws_lambda('arn:double', n)]", calls
    )
    assert calls.asked == 4


@pytest.mark.parametrize("name", sorted(CALLING))
def test_a_side_that_cannot_run_a_function_refuses_the_statement(name: str) -> None:
    statement = parse_statement(f"SELECT {name}('a', 'b', 'c', 'd') AS x")
    with pytest.raises(SqlError, match=name):
        compile_statement(statement, SqlVersion.V2016, CALLING - {name})
    compile_statement(statement, SqlVersion.V2016, frozenset({name}))


def test_a_side_that_runs_none_says_so() -> None:
    calls = Unanswered()
    assert calls.names == frozenset()
    asks = [
        lambda: calls.get_thing_shadow("t", None),
        lambda: calls.get_dynamodb("t", {}),
        lambda: calls.aws_lambda("a", 1),
        lambda: calls.get_registry_data("DescribeThing", "t"),
        lambda: calls.get_secret("s"),
    ]
    for ask in asks:
        with pytest.raises(CallFailed, match="cannot be run here"):
            ask()
