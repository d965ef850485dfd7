"""One action that fails leaves the others alone, and all failures of a message reach the error action together."""

from collections.abc import Callable
from typing import Any

import pytest

from core.message import Message
from rules.actions import ACTIONS, Action, DynamoDBv2, Firehose, Republish, Sns
from rules.engine import Rule
from rules.errors import ActionFailed, EvaluationError
from rules.event import Event
from rules.failures import ERROR_ACTION, Failure, act, error_document, resource
from rules.sql.parser import parse_statement
from rules.sql.values import SqlVersion
from tests.test_rules_event import Dice

Performed = list[tuple[Action, Any, bytes, int]]


def rule(*topics: str, error: str = "") -> Rule:
    statement = parse_statement("SELECT a FROM 't'")
    actions = tuple(Republish(topic=topic) for topic in topics)
    return Rule("Hot", statement, SqlVersion.V2016, actions, Republish(topic=error) if error else None)


def event() -> Event:
    return Event(Message("$aws/rules/Hot/plant/1", b'{"a":1}', client_id="press"), 0, chance=Dice())


def refusing(*topics: str) -> tuple[Performed, Callable[[Action, Event, Any, bytes, int], None]]:
    performed: Performed = []

    def perform(action: Action, event: Event, output: Any, payload: bytes, place: int) -> None:
        assert isinstance(action, Republish)
        if action.topic.source in topics:
            raise ActionFailed(f"{action.topic.source} refuses")
        performed.append((action, output, payload, place))

    return performed, perform


def run(rule: Rule, perform: Callable[[Action, Event, Any, bytes, int], None]) -> list[Failure]:
    return list(act(rule, event(), {"a": 1}, b'{"a":1}', perform))


def test_every_action_is_given_the_output_and_its_place() -> None:
    performed, perform = refusing()
    hot = rule("x", "y", error="bad")
    assert run(hot, perform) == []
    assert performed == [(hot.actions[0], {"a": 1}, b'{"a":1}', 0), (hot.actions[1], {"a": 1}, b'{"a":1}', 1)]
    assert (hot.counters.actions_failed, hot.counters.last_error) == (0, "")


def test_the_error_action_is_run_once_with_every_failure() -> None:
    performed, perform = refusing("x", "z")
    hot = rule("x", "y", "z", error="bad")
    failures = run(hot, perform)
    assert failures == [Failure("Republish", "x", "x refuses"), Failure("Republish", "z", "z refuses")]
    assert [(given.topic.source, place) for given, _, _, place in performed if isinstance(given, Republish)] == [
        ("y", 1), ("bad", ERROR_ACTION),
    ]  # fmt: skip
    _, document, payload, _ = performed[1]
    assert document == {
        "ruleName": "Hot",
        "topic": "plant/1",
        "cloudwatchTraceId": "uuid 1",
        "clientId": "press",
        "base64OriginalPayload": "eyJhIjoxfQ==",
        "failures": [
            {"failedAction": "RepublishAction", "failedResource": "x", "errorMessage": "x refuses"},
            {"failedAction": "RepublishAction", "failedResource": "z", "errorMessage": "z refuses"},
        ],
    }
    assert payload.startswith(b'{"ruleName":"Hot","topic":"plant/1","cloudwatchTraceId":"uuid 1",')
    assert (hot.counters.actions_failed, hot.counters.last_error) == (2, "z refuses")


def test_without_an_error_action_failures_are_told_all_the_same() -> None:
    performed, perform = refusing("x")
    hot = rule("x", "y")
    assert run(hot, perform) == [Failure("Republish", "x", "x refuses")]
    assert len(performed) == 1
    assert hot.counters.actions_failed == 1


def test_an_error_action_that_fails_is_told_and_sets_off_nothing() -> None:
    performed, perform = refusing("x", "bad")
    hot = rule("x", error="bad")
    failures = run(hot, perform)
    assert failures == [Failure("Republish", "x", "x refuses"), Failure("Republish", "bad", "bad refuses", True)]
    assert performed == []
    assert (hot.counters.actions_failed, hot.counters.last_error) == (2, "bad refuses")


def test_a_fault_of_ours_costs_that_action_only() -> None:
    def perform(action: Action, event: Event, output: Any, payload: bytes, place: int) -> None:
        if place == 0:
            raise ZeroDivisionError("by us")
        performed.append(place)

    performed: list[int] = []
    assert run(rule("x", "y", error="bad"), perform) == [Failure("Republish", "x", "ZeroDivisionError: by us")]
    assert performed == [1, ERROR_ACTION]


def test_what_nobody_published_is_reported_like_everything() -> None:
    found = error_document("Hot", Event(Message("t", b"\xff"), 0, trace_id="t-1"), [])
    assert (found["clientId"], found["base64OriginalPayload"], found["failures"]) == ("n/a", "/w==", [])


@pytest.mark.parametrize(
    ("name", "parameters", "kind", "expected"),
    [
        ("republish", {"topic": "a/${topic(2)}"}, Republish, "a/${topic(2)}"),
        ("dynamoDBv2", {"putItem": {"tableName": "readings"}}, DynamoDBv2, "readings"),
        ("firehose", {"deliveryStreamName": "telemetry"}, Firehose, "telemetry"),
        ("sns", {"targetArn": "alerts"}, Sns, "alerts"),
    ],
)
def test_a_failure_names_what_was_acted_on(name: str, parameters: Any, kind: type, expected: str) -> None:
    made = ACTIONS[name].model_validate(parameters)
    assert isinstance(made, kind)
    assert resource(made) == expected


def test_an_action_that_failed_is_an_evaluation_that_failed() -> None:
    assert issubclass(ActionFailed, EvaluationError)
