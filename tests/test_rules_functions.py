"""The functions of IoT SQL, with AWS's own examples where it has any."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.message import Message
from rules.engine import Event
from rules.functions import FUNCTIONS, NOT_YET
from rules.values import UNDEFINED

U = UNDEFINED
NO_NUMBERS: list[Any] = [True, None, [1], {}, U, "x"]
EVENT = Event(Message("plant/press/oven", b"{}", client_id="device-7"), now_ms=1_700_000_000_123)


def call(name: str, *arguments: Any) -> Any:
    function = FUNCTIONS[name]
    return function.call(EVENT, *arguments) if function.of_event else function.call(*arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("abs", [-5], 5),
        ("abs", ["-5.123"], 5.123),
        ("ceil", [1.2], 2),
        ("ceil", [-1.2], -1),
        ("ceil", ["1.1"], 2),
        ("floor", [1.2], 1),
        ("floor", [-1.2], -2),
        ("round", [1.2], 1),
        ("round", [1.5], 2),
        ("round", [1.7], 2),
        ("round", [2.5], 3),
        ("round", [-1.1], -1),
        ("round", [-1.5], -2),
        ("round", [0.49999999999999994], 0),
        ("round", ["7"], 7),
        ("floor", [1e300], 1e300),
        *[(name, [value], U) for name in ("abs", "ceil", "floor", "round") for value in NO_NUMBERS],
        ("lower", ["HeLLo"], "hello"),
        ("upper", ["straße"], "STRASSE"),
        ("lower", [["HELLO"]], '["hello"]'),
        ("lower", [5], "5"),
        ("upper", [True], "TRUE"),
        ("lower", [None], U),
        ("upper", [U], U),
        ("concat", [], U),
        ("concat", [1], "1"),
        ("concat", ["a", "b", "c"], "abc"),
        ("concat", ["a", 1, True], "a1true"),
        ("concat", [1, 2], "12"),
        ("concat", [[1, 2], 3], [1, 2, 3]),
        ("concat", [[1], [2, [3]], "x"], [1, 2, [3], "x"]),
        ("concat", ["a", None], U),
        ("concat", ["a", U], U),
        ("concat", [[1], U], U),
        ("isnull", [None], True),
        ("isnull", [U], False),
        ("isnull", [0], False),
        ("isundefined", [U], True),
        ("isundefined", [None], False),
        ("topic", [], "plant/press/oven"),
        ("topic", [1], "plant"),
        ("topic", [3], "oven"),
        ("topic", ["2"], "press"),
        ("topic", [2.9], "press"),
        *[("topic", [value], U) for value in (0, 4, -1, *NO_NUMBERS)],
        ("timestamp", [], 1_700_000_000_123),
        ("clientid", [], "device-7"),
    ],
)
def test_a_function_gives(name: str, arguments: list[Any], result: Any) -> None:
    given_back = call(name, *arguments)
    assert given_back == result
    assert type(given_back) is type(result)


def test_a_message_of_tidegate_itself_has_no_client() -> None:
    assert FUNCTIONS["clientid"].call(Event(Message("a", b""), 0)) == "n/a"


def test_no_function_is_both_there_and_not_there_yet() -> None:
    assert not FUNCTIONS.keys() & NOT_YET
    assert all(name == name.lower() for name in FUNCTIONS.keys() | NOT_YET)


SCALARS = st.none() | st.booleans() | st.integers(-(10**34), 10**34) | st.text() | st.floats(allow_nan=False)
VALUES: st.SearchStrategy[Any] = st.one_of(
    SCALARS.filter(lambda value: value not in (math.inf, -math.inf)), st.lists(st.integers()), st.just(UNDEFINED)
)


@given(st.sampled_from(sorted(FUNCTIONS)), st.lists(VALUES, max_size=4))
def test_every_function_answers_for_all_values(name: str, values: list[Any]) -> None:
    function = FUNCTIONS[name]
    arguments = values[: function.most] if function.most is not None else values
    if len(arguments) >= function.least:
        call(name, *arguments)
