"""Which rules hear the topics that a template gives."""

from enum import StrEnum

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as some

from core.message import Message
from rules.advice.hearing import Filters, topic_levels
from rules.engine import Rule, filter_hears
from rules.event import Event
from rules.sql.parser import parse_statement
from rules.sql.template import Template
from rules.sql.values import SqlVersion


class Hears(StrEnum):
    NEVER = "never"
    SOMETIMES = "sometimes"
    ALWAYS = "always"


def rule(name: str, source: str) -> Rule:
    return Rule(name, parse_statement(f"SELECT a FROM '{source}'"), SqlVersion.V2016)


def heard(sources: list[str], template: str, own: str) -> list[Hears]:
    """How often each of several filters hears a topic."""
    found = Filters(rule(f"R{n}", source) for n, source in enumerate(sources)).hearers(topic_levels(template, own))
    assert found.always & ~found.sometimes == 0
    return [
        Hears.ALWAYS if found.always >> n & 1 else Hears.SOMETIMES if found.sometimes >> n & 1 else Hears.NEVER
        for n in range(len(sources))
    ]


@pytest.mark.parametrize(
    ("source", "template", "how"),
    [
        ("a/+", "a/b", Hears.ALWAYS), ("a/+", "b/a", Hears.NEVER), ("a/#", "a", Hears.NEVER),
        ("a/#", "a/", Hears.ALWAYS), ("#", "x", Hears.ALWAYS), ("#", "$$x", Hears.NEVER),
        ("+/a", "$$x/a", Hears.NEVER), ("$x/a", "$$x/a", Hears.ALWAYS), ("a/b", "a/b/c", Hears.NEVER),
        ("a/b/c", "a/b", Hears.NEVER),
        # one level of what the rule hears
        ("plant/+/machine/telemetry", "plant/${topic(2)}/${topic(3)}/alarm", Hears.NEVER),
        ("plant/+/machine/telemetry", "plant/${topic(2)}/${topic(3)}/telemetry", Hears.ALWAYS),
        ("plant/+/machine/telemetry", "plant/x/${topic(2)}/telemetry", Hears.SOMETIMES),
        ("plant/a/+", "plant/${topic(2)}/x", Hears.ALWAYS), ("plant/a/+", "plant/${topic(3)}/x", Hears.SOMETIMES),
        ("plant/#", "plant/${topic(9)}", Hears.ALWAYS), ("plant/#", "${topic(2)}/x", Hears.SOMETIMES),
        # all of it
        ("a/+", "${topic()}", Hears.ALWAYS), ("a/+", "${topic()}/x", Hears.NEVER),
        ("a/#", "${topic()}/x", Hears.ALWAYS), ("a/#", "x/${topic()}", Hears.NEVER),
        # anything
        ("a/+", "${x}", Hears.SOMETIMES), ("a/+", "a/${x}", Hears.SOMETIMES), ("a/#", "a/${x}", Hears.ALWAYS),
        ("a/+/c", "a/${x}/c", Hears.SOMETIMES), ("a/b/c/d", "a/${x}/d", Hears.SOMETIMES),
        ("a/b", "a/${x}/c", Hears.NEVER), ("a/b-7-c", "a/b-${x}-c", Hears.SOMETIMES),
        ("a/b-7-d", "a/b-${x}-c", Hears.NEVER), ("a/bc", "a/b${x}b", Hears.NEVER),
        ("a/b-1/2-c", "a/b-${x}-c", Hears.SOMETIMES), ("a/bb", "a/${x}b${y}", Hears.SOMETIMES),
        ("a/b-x", "a/b-${topic(2)}", Hears.NEVER), ("a/b/c", "a/${1}/c", Hears.NEVER),
        ("a/1/c", "a/${1}/c", Hears.ALWAYS), ("a/b/c", "a/${'b/c'}", Hears.ALWAYS),
        ("a/x}y", "a/${'x}y'}", Hears.ALWAYS),
        ("+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/x", "${a}/${b}/${c}/${d}/${e}/${f}/${g}/${h}/y", Hears.NEVER),
    ],
)  # fmt: skip
def test_how_often_a_filter_hears_what_a_template_gives(source: str, template: str, how: Hears) -> None:
    assert heard([source], template, source) == [how]


# ── what is said is true ────────────────────────────────────────────────────────────────────────────────────

FILTERS = some.lists(some.sampled_from(("a", "b", "x", "xa", "", "+", "$x")), min_size=1, max_size=4).flatmap(
    lambda levels: some.sampled_from(("/".join(levels), "/".join([*levels, "#"]), "#"))
).filter(bool)
SEVERAL = some.lists(FILTERS, min_size=1, max_size=6)
TEXTS = some.sampled_from(("a", "b", "", "a/b", "b/a", "$x", "/"))
LEVELS = some.sampled_from(("a", "b", "", "x"))
EXPRESSIONS = ("${m}", "${n}", "${topic()}", "${topic(1)}", "${topic(2)}", "${'a/b'}")
PIECES = some.sampled_from(("a", "b", "/", "$x", *EXPRESSIONS))
TEMPLATES = some.lists(PIECES, min_size=1, max_size=6).map("".join)


@given(FILTERS, SEVERAL, TEMPLATES, TEXTS, TEXTS, TEXTS, some.lists(LEVELS, min_size=5, max_size=5))
def test_what_is_said_of_a_topic_is_so_for_every_message(
    own: str, others: list[str], template: str, m: str, n: str, rest: str, levels: list[str]
) -> None:
    wild = {"+": levels, "#": [rest]}
    topic = "/".join(wild[level].pop() if level in wild else level for level in own.split("/"))
    assume(filter_hears(own, topic))  # unless a wildcard stands for $x
    published = Template(template).render(Event(Message(topic, orjson.dumps({"m": m, "n": n})), 0))
    assume(published)
    for other, said in zip(others, heard(others, template, own), strict=True):
        assert said is not (Hears.NEVER if filter_hears(other, published) else Hears.ALWAYS)
