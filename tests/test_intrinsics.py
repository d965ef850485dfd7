"""Ref and the Fn:: functions: what they make, and that nothing wrong gets past the reading of a template."""

from typing import Any

import pytest

from devices.intrinsics import LIST_MAX, TEXT_CHARS_MAX, Compiler, UnusableParameter

SCOPE = {"Serial": "a-b-c", "Site": "hall", "Dollar": "${Serial}"}
MAPPINGS = {"Sites": {"hall": {"url": "mqtts://hall"}}}


def evaluate(node: Any, scope: dict[str, str] | None = None) -> Any:
    compiler = Compiler(frozenset(SCOPE), MAPPINGS)
    value = compiler.value(node, "here")
    assert compiler.problems == []
    return value(SCOPE if scope is None else scope)


@pytest.mark.parametrize(
    ("node", "made"),
    [
        ("text", "text"),
        ({"Ref": "Serial"}, "a-b-c"),
        ({"Fn::Join": ["/", ["plant", {"Ref": "Site"}, "x"]]}, "plant/hall/x"),
        ({"Fn::Join": ["", []]}, ""),
        ({"Fn::Join": ["+", {"Fn::Split": ["-", {"Ref": "Serial"}]}]}, "a+b+c"),
        ({"Fn::Select": [1, ["x", "y"]]}, "y"),
        ({"Fn::Select": ["2", {"Fn::Split": ["-", {"Ref": "Serial"}]}]}, "c"),
        ({"Fn::Split": ["-", {"Ref": "Serial"}]}, ["a", "b", "c"]),
        ({"Fn::Sub": "s-${Serial}@${Site}"}, "s-a-b-c@hall"),
        ({"Fn::Sub": "${!Serial} is ${Serial}"}, "${Serial} is a-b-c"),
        ({"Fn::Sub": ["${first}/${Site}", {"first": {"Fn::Select": [0, {"Fn::Split": ["-", "q-r"]}]}}]}, "q/hall"),
        ({"Fn::FindInMap": ["Sites", {"Ref": "Site"}, "url"]}, "mqtts://hall"),
        ({"a": [1, True, None, {"Ref": "Site"}], "b": {}}, {"a": [1, True, None, "hall"], "b": {}}),
    ],
)
def test_a_function_makes_what_aws_says(node: Any, made: Any) -> None:
    assert evaluate(node) == made


def test_what_a_device_gives_is_never_read_as_a_function() -> None:
    assert evaluate({"Fn::Sub": "${Dollar}"}) == "${Serial}"
    assert evaluate({"Ref": "Serial"}, {"Serial": '{"Ref": "Site"}'}) == '{"Ref": "Site"}'


@pytest.mark.parametrize(
    "node",
    [
        {"Ref": "Unknown"},
        {"Ref": ["Serial"]},
        {"Fn::Nothing": []},
        {"Fn::Join": "x"},
        {"Fn::Join": [1, ["x"]]},
        {"Fn::Join": ["-", "x"]},
        {"Fn::Join": ["-", [1]]},
        {"Fn::Join": ["-", [{"Fn::Split": ["-", "x"]}]]},
        {"Fn::Select": [-1, ["x"]]},
        {"Fn::Select": [True, ["x"]]},
        {"Fn::Split": ["", "x"]},
        {"Fn::Split": ["-"]},
        {"Fn::Sub": "${Unknown}"},
        {"Fn::Sub": ["x"]},
        {"Fn::Sub": ["${a}", {"a": 1}]},
        {"Fn::FindInMap": ["Unknown", "x", "y"]},
        {"Fn::FindInMap": ["Sites", "x"]},
        {"Fn::FindInMap": [{"Ref": "Site"}, "x", "y"]},
        {"Fn::Join": ["-", ["x"]], "and": "more"},
    ],
)
def test_a_wrong_function_is_a_problem_when_it_is_read_and_says_where(node: Any) -> None:
    compiler = Compiler(frozenset(SCOPE), MAPPINGS)
    compiler.value({"deep": [node]}, "here")
    assert len(compiler.problems) == 1
    assert compiler.problems[0].startswith("here.deep[0]")


@pytest.mark.parametrize("node", [1, None, ["x"], {"a": "b"}, {"Fn::Split": ["-", "x"]}])
def test_what_is_no_text_is_a_problem_where_text_is_needed(node: Any) -> None:
    compiler = Compiler(frozenset(SCOPE), MAPPINGS)
    compiler.text(node, "here")
    assert len(compiler.problems) == 1


@pytest.mark.parametrize(
    "node",
    [
        {"Fn::Select": [3, {"Fn::Split": ["-", {"Ref": "Serial"}]}]},
        {"Fn::FindInMap": ["Sites", {"Ref": "Serial"}, "url"]},
        {"Fn::FindInMap": ["Sites", "hall", {"Ref": "Serial"}]},
    ],
)
def test_a_parameter_that_does_not_fit_is_said_to_be_unusable(node: Any) -> None:
    with pytest.raises(UnusableParameter):
        evaluate(node)


def test_nested_functions_cannot_unfold_a_parameter_without_bound() -> None:
    long = {"Serial": "-" * (LIST_MAX - 1)}
    once = {"Fn::Join": ["y" * 60, {"Fn::Split": ["-", {"Ref": "Serial"}]}]}
    assert len(evaluate(once, long)) < TEXT_CHARS_MAX
    with pytest.raises(UnusableParameter, match="more than 1,000 texts"):
        evaluate({"Fn::Split": ["y", once]}, long)
    with pytest.raises(UnusableParameter, match="more than 65,536"):
        evaluate({"Fn::Sub": ["${a}${a}", {"a": once}]}, long)
    with pytest.raises(UnusableParameter, match="more than 65,536"):
        evaluate({"Fn::Join": ["", [once, once]]}, long)
