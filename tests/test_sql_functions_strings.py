"""The functions of Strings, with AWS's own examples."""

import base64
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rules.errors import EvaluationError
from rules.sql.functions.strings import FUNCTIONS, ITEMS_MAX
from rules.sql.payloads import json_bytes
from rules.sql.values import TEXT_CHARS_MAX, UNDEFINED, SqlVersion
from tests.iot_values import ANY, DEFINED, is_canonical

U = UNDEFINED
LONG = "é" * TEXT_CHARS_MAX
OF_STRINGS = {  # how many of the arguments are Strings
    "endswith": 2, "indexof": 2, "length": 1, "lower": 1, "ltrim": 1, "numbytes": 1, "replace": 3, "rtrim": 1,
    "startswith": 2, "trim": 1, "upper": 1,
}  # fmt: skip


def call(name: str, *arguments: Any) -> Any:
    function = FUNCTIONS[name]
    assert function.least <= len(arguments)
    assert function.most is None or len(arguments) <= function.most
    return function.call(*arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("concat", [], U),
        ("concat", [1], "1"),
        ("concat", ["a"], "a"),
        ("concat", [[1]], [1]),
        ("concat", ["a", "b", "c"], "abc"),
        ("concat", ["a", 1, True], "a1true"),
        ("concat", ["a", 2.5], "a2.5"),
        ("concat", [1, 2], "12"),
        ("concat", ["hello", {"a": 1}], 'hello{"a":1}'),
        ("concat", [[1, 2], 3], [1, 2, 3]),
        ("concat", [[1], [2, [3]], "x"], [1, 2, [3], "x"]),
        ("concat", [1, "2", [3]], [1, "2", 3]),
        ("concat", [[1], None], [1, None]),
        ("concat", ["a", None], U),
        ("concat", ["a", U], U),
        ("concat", [[1], U], U),
        ("chr", [65], "A"),
        ("chr", [49], "1"),
        ("chr", [65.9], "A"),
        ("chr", ["65"], "A"),
        ("chr", ["65.9"], "A"),
        ("chr", [127], "\x7f"),
        *[("chr", [value], U) for value in (128, -1, 10**30, -1e300, "A", True, None, [65], {}, U)],
        ("endswith", ["cat", "at"], True),
        ("endswith", ["cat", "ca"], False),
        ("endswith", [12345, 45], True),
        ("endswith", [True, "ue"], True),
        ("startswith", ["ranger", "ran"], True),
        ("startswith", ["ranger", "range"], True),
        ("startswith", ["ranger", "anger"], False),
        ("startswith", [[1, 2], "[1,"], True),
        ("startswith", ["", ""], True),
        ("indexof", ["abcd", "bc"], 1),
        ("indexof", ["abab", "b"], 1),
        ("indexof", ["abcd", "x"], -1),
        ("indexof", [1234, 3], 2),
        ("indexof", ["€€a", "a"], 2),
        ("indexof", [["a"], "a"], U),
        ("indexof", [{"a": 1}, "a"], U),
        ("length", ["hi"], 2),
        ("length", [False], 5),
        ("length", [""], 0),
        ("length", ["€"], 1),
        ("length", [[1, 2]], 5),
        ("numbytes", ["hi"], 2),
        ("numbytes", ["€"], 3),
        ("numbytes", [True], 4),
        ("lower", ["HeLLo"], "hello"),
        ("lower", [["HELLO"]], '["hello"]'),
        ("lower", [5], "5"),
        ("upper", ["hello"], "HELLO"),
        ("upper", [["hello"]], '["HELLO"]'),
        ("upper", ["straße"], "STRASSE"),
        ("upper", [True], "TRUE"),
        ("lpad", ["hello", 2], "  hello"),
        ("lpad", [1, 3], "   1"),
        ("lpad", ["x", 1.9], " x"),
        ("lpad", ["x", "2"], "  x"),
        ("lpad", ["x", -5], "x"),
        ("lpad", ["x", 0], "x"),
        ("lpad", ["x", 5000], " " * 1000 + "x"),
        ("rpad", ["hello", 2], "hello  "),
        ("rpad", [1, 3], "1   "),
        ("rpad", ["x", 1e300], "x" + " " * 1000),
        ("rpad", ["x", "2.9"], "x  "),
        *[(name, ["x", count], U) for name in ("lpad", "rpad") for count in (True, None, [1], {}, U, "two")],
        *[(name, [value, 1], U) for name in ("lpad", "rpad") for value in (None, U)],
        ("ltrim", [" h i "], "h i "),
        ("ltrim", ["\t h"], "h"),
        ("ltrim", ["\n h"], "\n h"),
        ("rtrim", [" h i "], " h i"),
        ("rtrim", ["h \t"], "h"),
        ("rtrim", [5], "5"),
        ("trim", [" h i "], "h i"),
        ("trim", ["\r\n\t h \n"], "h"),
        ("replace", ["banana", "a", "o"], "bonono"),
        ("replace", ["a.b.c", ".", ""], "abc"),
        ("replace", [True, "true", 1], "1"),
        ("replace", ["abc", "x", "y"], "abc"),
        ("substring", ["012345", 0], "012345"),
        ("substring", ["012345", 2], "2345"),
        ("substring", ["012345", 2.745], "2345"),
        ("substring", [123, 2], "3"),
        ("substring", ["012345", -1], "012345"),
        ("substring", [True, 1.2], "rue"),
        ("substring", [False, -2.411e247], "false"),
        ("substring", ["012345", 1, 3], "12"),
        ("substring", ["012345", -50, 50], "012345"),
        ("substring", ["012345", 3, 1], ""),
        ("substring", ["012345", 3, 3], ""),
        ("substring", ["012345", 99], ""),
        ("substring", ["012345", "1", "2.9"], "1"),
        *[("substring", ["012345", bad], U) for bad in (True, None, [1], U, "x")],
        *[("substring", ["012345", 1, bad], U) for bad in (True, None, [1], U, "x")],
        *[("substring", [value, 1], U) for value in (None, U)],
    ],
)
def test_a_function_gives(name: str, arguments: list[Any], result: Any) -> None:
    found = call(name, *arguments)
    assert found == result
    assert type(found) is type(result)


@pytest.mark.parametrize("nothing", [None, U, b"raw"])
@pytest.mark.parametrize("name", OF_STRINGS)
def test_null_and_undefined_have_no_text(name: str, nothing: Any) -> None:
    for position in range(OF_STRINGS[name]):
        arguments: list[Any] = ["a"] * OF_STRINGS[name]
        arguments[position] = nothing
        assert call(name, *arguments) is U


# ── base64 ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ("hello", "aGVsbG8="),
        ("", ""),
        (b"\x00\xff", "AP8="),
        (b'{"a":1}', "eyJhIjoxfQ=="),
        ({"a": 1}, "eyJhIjoxfQ=="),
        (True, "dHJ1ZQ=="),
        (15, "MTU="),
        ("€", "4oKs"),
        (None, U),
        (U, U),
    ],
)
def test_encode(value: Any, encoded: Any) -> None:
    assert call("encode", value, "base64") == encoded


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        ("aGVsbG8=", "hello"),
        ("aGVsbG8", "hello"),
        ("eyJhIjogWzEsIDIuNV19", {"a": [1, 2.5]}),
        ("ODA=", 80),
        ("InRleHQi", "text"),
        ("bnVsbA==", None),
        ("MUU1MDA=", Decimal("1E500")),
        ("", ""),
        (b"aGVsbG8=", "hello"),
        ("not base64!", None),
        ("aGVs bG8=", None),
        ("aGVsbG8===", None),
        ("a", None),
        ("/w==", None),
        ("é", None),
        (b"\xff", None),
        ([1], None),
        (True, None),  # "true" decodes to bytes that are no UTF-8
        (None, U),
        (U, U),
    ],
)
def test_decode(encoded: Any, value: Any) -> None:
    assert call("decode", encoded, "base64") == value


@pytest.mark.parametrize("scheme", ["base32", "", None, U, 64, ["base64"], "BASE64"])
@pytest.mark.parametrize("name", ["encode", "decode"])
def test_base64_is_the_only_scheme(name: str, scheme: Any) -> None:
    assert call(name, "aGVsbG8=", scheme) is U


@given(DEFINED)
def test_decode_gives_back_what_encode_was_given(value: Any) -> None:
    assert call("decode", base64.b64encode(json_bytes(value)).decode(), "base64") == value


def test_both_ask_for_the_payload_as_it_came() -> None:
    assert FUNCTIONS["encode"].takes_payload
    assert FUNCTIONS["decode"].takes_payload


# ── bounds ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("concat", [LONG, "x"]),
        ("lpad", [LONG, 1]),
        ("rpad", [LONG, 1]),
        ("replace", [LONG, "é", "xx"]),
        ("replace", ["x" * 1000, "x", "y" * 2000]),
        ("upper", ["ß" * (TEXT_CHARS_MAX // 2 + 1)]),
        ("encode", [LONG, "base64"]),
        ("encode", [b"x" * TEXT_CHARS_MAX, "base64"]),
        ("decode", [base64.b64encode(b"x" * (TEXT_CHARS_MAX + 1)), "base64"]),
    ],
)
def test_a_string_beyond_its_bound_is_an_evaluation_error(name: str, arguments: list[Any]) -> None:
    with pytest.raises(EvaluationError, match="1,048,576 characters"):
        call(name, *arguments)


def test_an_array_beyond_its_bound_is_an_evaluation_error() -> None:
    half = [0] * (ITEMS_MAX // 2)
    assert len(call("concat", half, half)) == ITEMS_MAX
    with pytest.raises(EvaluationError, match="200,000 elements"):
        call("concat", half, half, 0)


@pytest.mark.parametrize("value", [LONG, "ß" * TEXT_CHARS_MAX, " " * TEXT_CHARS_MAX, ["x" * TEXT_CHARS_MAX]])
@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_no_function_makes_a_string_beyond_its_bound(name: str, value: Any) -> None:
    count = FUNCTIONS[name].most or 5
    for others in (["1"] * 4, ["base64"] * 4, [value] * 4, ["", value, value, value]):
        try:
            found = call(name, *[value, *others][:count])
        except EvaluationError:
            continue
        assert not isinstance(found, str) or len(found) <= TEXT_CHARS_MAX


def test_a_string_at_its_bound_is_fine() -> None:
    assert call("replace", LONG, "é", "x") == "x" * TEXT_CHARS_MAX
    assert len(call("encode", b"x" * (TEXT_CHARS_MAX // 4 * 3), "base64")) == TEXT_CHARS_MAX
    assert call("lower", LONG) == LONG


@given(st.sampled_from(sorted(FUNCTIONS)), st.lists(ANY, min_size=3, max_size=3))
@example("concat", [[], [None], {}])
@example("replace", ["", "", "x"])
def test_every_function_answers_for_all_values_with_a_value(name: str, arguments: list[Any]) -> None:
    found = call(name, *arguments[: FUNCTIONS[name].most])
    assert is_canonical(found) or (name == "concat" and any(isinstance(argument, list) for argument in arguments))


def test_the_functions_of_2016_are_not_in_2015() -> None:
    newer = {name for name, function in FUNCTIONS.items() if function.since is not SqlVersion.V2015}
    assert newer == {"decode", "encode", "indexof", "length", "numbytes"}
