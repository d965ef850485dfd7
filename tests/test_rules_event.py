"""What the rules know of a message: its payload read once, its topic, its origin, and answers asked for once."""

from typing import Any

import pytest

from core.message import Message, Origin
from rules.errors import CallFailed, EvaluationError
from rules.event import ANSWERS_MAX, NO_ACCOUNT, Context, Event
from rules.sql.functions.calls import Stubs


class Dice:
    """Chance that a test can foretell."""

    def __init__(self) -> None:
        self.thrown = 0

    def random(self) -> float:
        return 0.25

    def uuid(self) -> str:
        self.thrown += 1
        return f"uuid {self.thrown}"


@pytest.mark.parametrize(
    ("payload", "value", "members"),
    [
        (b'{"a":1}', {"a": 1}, {"a": 1}), (b"[1]", [1], {}), (b'"a"', "a", {}), (b" 80 ", 80, {}), (b"null", None, {}),
        (b"", b"", {}), (b"hello", b"hello", {}), (b"\xff\x00", b"\xff\x00", {}), (b'{"a":NaN}', b'{"a":NaN}', {}),
        (b'{"a":1,"a":2}', {"a": 2}, {"a": 2}), (b'{"a":', b'{"a":', {}),
    ],
)  # fmt: skip
def test_a_payload_is_json_or_bytes(payload: bytes, value: Any, members: dict[str, Any]) -> None:
    for first in ("value", "members"):
        event = Event(Message("t", payload), 0)
        getattr(event, first)
        assert (event.value, event.members) == (value, members)
        assert event.value is event.value


@pytest.mark.parametrize(
    ("topic", "seen", "levels"),
    [
        ("plant/1/t", "plant/1/t", ["plant", "1", "t"]),
        ("$aws/rules/Hot/plant/1", "plant/1", ["plant", "1"]),
        ("$aws/rules/Hot//a", "/a", ["", "a"]),
        ("$aws/rules/Hot/", "", [""]),
        ("$aws/rules/Hot", "", [""]),
        ("$aws/rules", "$aws/rules", ["$aws", "rules"]),
        ("$aws/rulesets/a/b", "$aws/rulesets/a/b", ["$aws", "rulesets", "a", "b"]),
        ("x/$aws/rules/Hot/a", "x/$aws/rules/Hot/a", ["x", "$aws", "rules", "Hot", "a"]),
    ],
)
def test_the_prefix_of_basic_ingest_is_invisible(topic: str, seen: str, levels: list[str]) -> None:
    event = Event(Message(topic, b""), 0)
    assert (event.levels, event.topic) == (levels, seen)


def test_a_message_has_one_trace_id_whoever_asks() -> None:
    event = Event(Message("t", b""), 0, chance=Dice())
    assert event.trace_id == event.trace_id == "uuid 1"
    assert Event(Message("t", b""), 0, chance=Dice(), trace_id="given").trace_id == "given"


def test_without_chance_nothing_is_random() -> None:
    event = Event(Message("t", b""), 0)
    for ask in (lambda: event.trace_id, event.chance.random, event.chance.uuid):
        with pytest.raises(EvaluationError):
            ask()


def test_a_context_is_an_origin_for_an_account() -> None:
    context = Context.of(Origin("press", "10.0.0.7", "http"), "123456789012")
    assert context == Context("press", "10.0.0.7", "http", "123456789012")
    assert Context() == Context("", "", "mqtt", NO_ACCOUNT)


def test_a_request_is_made_once_per_message() -> None:
    asked: list[int] = []

    def ask(_: Any) -> dict[str, int]:
        asked.append(1)
        return {"a": 1}

    calls = Stubs({})
    event = Event(Message("t", b""), 0, calls=calls)
    assert event.answer(("x", 1), ask) is event.answer(("x", 1), ask)
    event.answer(("x", 2), ask)
    assert len(asked) == 2
    Event(Message("t", b""), 0, calls=calls).answer(("x", 1), ask)
    assert len(asked) == 3


def test_a_request_that_failed_is_not_made_again_for_the_message() -> None:
    asked: list[int] = []

    def ask(_: Any) -> Any:
        asked.append(1)
        raise CallFailed("no answer")

    event = Event(Message("t", b""), 0, calls=Stubs({}))
    for _ in range(3):
        with pytest.raises(CallFailed, match=r"^no answer$"):
            event.answer("x", ask)
    assert len(asked) == 1


def test_one_message_asks_for_a_bounded_number_of_things() -> None:
    event = Event(Message("t", b""), 0, calls=Stubs({}))
    for number in range(ANSWERS_MAX):
        event.answer(number, lambda _: 1)
    with pytest.raises(CallFailed, match="1,000 different calls"):
        event.answer(ANSWERS_MAX, lambda _: 1)
    assert event.answer(0, lambda _: 2) == 1


def test_where_nobody_answers_a_call_fails() -> None:
    with pytest.raises(CallFailed, match="nobody answers"):
        Event(Message("t", b""), 0).answer("x", lambda _: 1)
