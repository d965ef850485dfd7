"""Messages that go round through republish: found for certain, perhaps, or not at all."""

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as some

from core.message import Message
from rules.advice import Finding, advise
from rules.advice.loops import Hears, hears, topic_levels
from rules.engine import filter_hears
from rules.event import Event
from rules.files import survey
from rules.sql.template import Template


def loops(*written: tuple[str, str, str]) -> list[Finding]:
    """What is said about rules of (FROM, topic that is republished to, WHERE), named A, B, C …"""
    text = "".join(
        f"""{name}: {{ sql: "SELECT x FROM '{source}' {where}", actions: [republish: {{ topic: '{topic}' }}] }}\n"""
        for name, (source, topic, where) in zip("ABCDEF", written, strict=False)
    )
    found = survey({"a.yaml": text})
    assert found.problems == []
    return [finding for finding in advise(found.rules) if finding.code == "loop"]


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
    assert hears(source.split("/"), topic_levels(template, source)) is how


def test_a_rule_that_hears_itself_is_told() -> None:
    [finding] = loops(("plant/#", "plant/alarm", ""))
    assert (finding.rule, finding.place) == ("A", ("actions", 0, "republish", "topic"))
    assert str(finding) == (
        "a message goes round: the rule's own FROM 'plant/#' hears what it republishes; "
        "republish to topics that no FROM hears"
    )


def test_a_where_may_end_the_round() -> None:
    [finding] = loops(("plant/#", "plant/alarm", "WHERE x > 1"))
    assert finding.message.endswith(", unless the WHERE of A ends it")


def test_what_nobody_can_know_is_said_to_be_possible() -> None:
    [finding] = loops(("plant/+", "${x}", ""))
    assert finding.message.startswith("a message may go round: ")


def test_a_round_through_several_rules_is_told_once_and_in_its_order() -> None:
    [finding] = loops(("a", "b", ""), ("b", "c", ""), ("c", "a", "WHERE x"), ("d", "a", ""))
    assert finding.rule == "A"
    assert finding.message == (
        "a message goes round, A → B → C → A: each hears what the one before it republishes, "
        "unless the WHERE of C ends it"
    )


def test_the_shortest_and_the_surest_round_is_told() -> None:
    [finding] = loops(("a", "b", ""), ("b", "a", ""), ("+", "x/y", ""))
    assert "A → B → A" in finding.message
    [finding] = loops(("a/+", "a/${x}", ""), ("a/b", "c", ""), ("c", "a/b", ""))[:1]
    assert finding.message.startswith("a message may go round: ")


def test_rules_that_do_not_hear_each_other_make_no_round() -> None:
    assert loops(("a", "b", ""), ("b", "c", ""), ("c", "d", "")) == []


def test_a_message_can_go_round_through_basic_ingest() -> None:
    [finding] = loops(("a", "$$aws/rules/B/x", ""), ("never/published", "a", ""))
    assert "A → B → A" in finding.message
    assert loops(("a", "$$aws/rules/C/x", ""), ("never/published", "a", "")) == []


def test_a_disabled_rule_hears_nothing() -> None:
    text = "A: { sql: SELECT x FROM 'a', actions: [republish: { topic: a }], ruleDisabled: true }"
    assert advise(survey({"a.yaml": text}).rules) == []


# ── what is said is true ────────────────────────────────────────────────────────────────────────────────────

FILTERS = some.lists(some.sampled_from(("a", "b", "x", "xa", "", "+", "$x")), min_size=1, max_size=4).flatmap(
    lambda levels: some.sampled_from(("/".join(levels), "/".join([*levels, "#"]), "#"))
)
TEXTS = some.sampled_from(("a", "b", "", "a/b", "b/a", "$x", "/"))
LEVELS = some.sampled_from(("a", "b", "", "x"))
EXPRESSIONS = ("${m}", "${n}", "${topic()}", "${topic(1)}", "${topic(2)}", "${'a/b'}")
PIECES = some.sampled_from(("a", "b", "/", "$x", *EXPRESSIONS))
TEMPLATES = some.lists(PIECES, min_size=1, max_size=6).map("".join)


@given(FILTERS, FILTERS, TEMPLATES, TEXTS, TEXTS, TEXTS, some.lists(LEVELS, min_size=5, max_size=5))
def test_what_is_said_of_a_topic_is_so_for_every_message(
    own: str, other: str, template: str, m: str, n: str, rest: str, levels: list[str]
) -> None:
    wild = {"+": levels, "#": [rest]}
    topic = "/".join(wild[level].pop() if level in wild else level for level in own.split("/"))
    assume(filter_hears(own, topic))  # unless a wildcard stands for $x
    published = Template(template).render(Event(Message(topic, orjson.dumps({"m": m, "n": n})), 0))
    assume(published)
    said = hears(other.split("/"), topic_levels(template, own))
    if filter_hears(other, published):
        assert said is not Hears.NEVER
    else:
        assert said is not Hears.ALWAYS
