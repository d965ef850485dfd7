"""Substitution templates: text with expressions over the original message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.message import Message
from rules.engine import EvaluationError, Event
from rules.errors import SqlError
from rules.sql.template import Template
from rules.sql.values import SqlVersion

EVENT = Event(Message("plant/press/oven", b'{"n": 10.0, "text": "a}b", "nothing": null, "list": [1.0, "x"]}'), 1_700)


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("plain", "plain"),
        ("", ""),
        ("plant/${topic(2)}/${topic(3)}/alarm", "plant/press/oven/alarm"),
        ("${topic()}", "plant/press/oven"),
        ("${ text }", "a}b"),
        ("${text + '}'}${n}", "a}b}10"),
        ("${list}", '[1,"x"]'),
        ("<${missing}${nothing}>", "<>"),
        ("${n > 5} ${timestamp() / 1E3}", "true 1.7"),
        ("costs 5$ or $x or {n}", "costs 5$ or $x or {n}"),
        ("$$aws/things/${topic(3)}/shadow/update", "$aws/things/oven/shadow/update"),
        ("a/$$b", "a/$$b"),
    ],
)
def test_a_template_renders(template: str, rendered: str) -> None:
    assert Template(template).render(EVENT) == rendered


def test_a_template_follows_the_number_rule_of_its_rule() -> None:
    assert Template("${n}", SqlVersion.V2015).render(EVENT) == "10.0"


@pytest.mark.parametrize(
    ("template", "column", "message"),
    [
        ("a/${topic(1}", 12, "expected the ) for this (, found '}'"),
        ("a/${b", 6, "expected the } that ends ${…}, found the end"),
        ("${}", 3, "expected a value, found '}'"),
        ("x${newuid()}", 4, "there is no function newuid(); did you mean newuuid()?"),
        ("${a}${b!}", 8, "write <> for 'not equal'"),
        ("${a b}", 5, "expected the }"),
        ("x" * 200_000, 1, "131,072 characters"),
    ],
)
def test_a_fault_in_a_template_has_its_place(template: str, column: int, message: str) -> None:
    with pytest.raises(SqlError) as caught:
        Template(template)
    assert message in caught.value.message
    assert (caught.value.line, caught.value.column) == (1, column)


def test_a_rendered_text_has_a_bound() -> None:
    event = Event(Message("t", b'{"a":"' + b"x" * 400_000 + b'"}'), 0)
    with pytest.raises(EvaluationError, match="1,048,576 characters"):
        Template("${a}${a}${a}").render(event)


@given(st.text(alphabet="${}a'\"()topic1+ .\n"), st.binary(max_size=20))
def test_any_template_compiles_or_is_refused_and_then_renders(text: str, payload: bytes) -> None:
    try:
        template = Template(text)
    except SqlError as error:
        refused = error
        assert 0 <= refused.offset_in(text) <= len(text)
    else:
        assert isinstance(template.render(Event(Message("a/b", payload), 0)), str)


def test_a_template_has_no_more_values_than_a_statement() -> None:
    assert Template("${a}" * 2_000).render(Event(Message("t", b'{"a": 1}'), 0)) == "1" * 2_000
    with pytest.raises(SqlError, match="more than 2,000 values in one template") as caught:
        Template("${a + b}" * 1_000)
    assert caught.value.column > 1_000
