"""The functions with regular expressions, with AWS's own examples."""

from typing import Any

import pytest

from rules.errors import EvaluationError
from rules.sql.functions.regexes import FUNCTIONS
from rules.sql.values import TEXT_CHARS_MAX, UNDEFINED

U = UNDEFINED


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("regexp_matches", ["aaaa", "a{2,}"], True),
        ("regexp_matches", ["aaaa", "b"], False),
        ("regexp_matches", ["xaaaay", "a{2,}"], True),
        ("regexp_matches", [23, "2"], True),
        ("regexp_matches", [True, "rue$"], True),
        ("regexp_matches", [[1, "a"], '^\\[1,"a"\\]$'], True),
        ("regexp_matches", ["52", 5], True),
        ("regexp_matches", ["abc", "(x|b)"], True),
        ("regexp_replace", ["abcd", "bc", "x"], "axd"),
        ("regexp_replace", ["abcd", "b(.*)d", "$1"], "ac"),
        ("regexp_replace", ["abcd", "x", "y"], "abcd"),
        ("regexp_replace", ["a1b22", "\\d+", 0], "a0b0"),
        ("regexp_replace", [1234, "2", ""], "134"),
        ("regexp_replace", ["été", "é", "è"], "ètè"),
        ("regexp_substr", ["hihihello", "hi"], "hi"),
        ("regexp_substr", ["hihihello", "(hi)*"], "hihi"),
        ("regexp_substr", ["sensor-17", "\\d+"], "17"),
        ("regexp_substr", ["hello", "x*"], ""),
        ("regexp_substr", ["hello", "x"], U),
        ("regexp_substr", [True, "r.e"], "rue"),
    ],
)
def test_a_function_gives_what_its_documentation_says(name: str, arguments: list[Any], result: Any) -> None:
    found = FUNCTIONS[name].call(*arguments)
    assert found == result
    assert found.__class__ is result.__class__


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
@pytest.mark.parametrize("bad", [None, U])
def test_an_argument_without_a_text_form_gives_undefined(name: str, bad: Any) -> None:
    function = FUNCTIONS[name]
    good = ["a"] * function.least
    assert function.call(*good) is not U
    for position in range(function.least):
        assert function.call(*[bad if at == position else value for at, value in enumerate(good)]) is U


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
@pytest.mark.parametrize("pattern", ["(", "[a", "a**", "\\y", "a{2,1}", "(?<1>a)"])
def test_a_pattern_that_is_none_gives_undefined(name: str, pattern: str) -> None:
    assert FUNCTIONS[name].call("a", pattern, *["b"] * (FUNCTIONS[name].least - 2)) is U


@pytest.mark.parametrize("replacement", ["$1", "$", "\\", "${x}"])
def test_a_replacement_that_is_none_gives_undefined(replacement: str) -> None:
    assert FUNCTIONS["regexp_replace"].call("a", "a", replacement) is U
    assert FUNCTIONS["regexp_replace"].call("b", "a", replacement) is U  # though nothing would be replaced


def test_a_text_that_grows_too_long_fails_the_rule_for_its_message() -> None:
    with pytest.raises(EvaluationError, match="grew beyond"):
        FUNCTIONS["regexp_replace"].call("aa", "a", "b" * (TEXT_CHARS_MAX // 2 + 1))


def test_a_pattern_that_takes_too_long_fails_the_rule_for_its_message() -> None:
    with pytest.raises(EvaluationError, match="took"):
        FUNCTIONS["regexp_matches"].call("a" * 50_000 + "!", "(?=(a+)+$)")
