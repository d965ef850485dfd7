"""Messages that go round through republish: found for certain, perhaps, or not at all."""

from rules.advice import Finding, advise
from rules.files import survey


def loops(*written: tuple[str, str, str]) -> list[Finding]:
    """What is said about rules of (FROM, topic that is republished to, WHERE), named A, B, C …"""
    text = "".join(
        f"""{name}: {{ sql: "SELECT x FROM '{source}' {where}", actions: [republish: {{ topic: '{topic}' }}] }}\n"""
        for name, (source, topic, where) in zip("ABCDEF", written, strict=False)
    )
    found = survey({"a.yaml": text})
    assert found.problems == []
    return [finding for finding in advise(found.rules) if finding.code == "loop"]


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


def many(count: int, source: str, topic: str) -> list[Finding]:
    """What is said of `count` rules; {i} is the number of a rule, {next} that of the one after it."""
    text = "".join(
        f"R{i}: {{ sql: \"SELECT x FROM '{source.format(i=i)}'\", actions: [republish: {{ topic: '{written}' }}] }}\n"
        for i in range(count)
        for written in (topic.format(i=i, next=(i + 1) % count),)
    )
    return [finding for finding in advise(survey({"a.yaml": text}).rules) if finding.code == "loop"]


def test_a_thousand_rules_that_hear_each_other_are_told_each_of_itself() -> None:
    findings = many(1_000, "x/#", "x/${{b}}/{i}")
    assert len(findings) == 1_000
    assert {finding.message for finding in findings} == {
        "a message goes round: the rule's own FROM 'x/#' hears what it republishes"
    }


def test_of_a_round_through_a_thousand_rules_the_first_few_are_named() -> None:
    [finding] = many(1_000, "x/{i}", "x/{next}")
    assert finding.message == (
        "a message goes round, R0 → R1 → R2 → R3 → R4 → R5 → R6 → … (993 more) → R0: "
        "each hears what the one before it republishes"
    )


def on_error(*written: tuple[str, str, str]) -> list[Finding]:
    """What is said about rules of (FROM, topic of the action, topic of the error action)."""
    text = "".join(
        f"{name}: {{ sql: \"SELECT x FROM '{source}'\", actions: [republish: {{ topic: '{topic}' }}], "
        f"errorAction: {{ republish: {{ topic: '{failed}' }} }} }}\n"
        for name, (source, topic, failed) in zip("ABC", written, strict=False)
    )
    return [finding for finding in advise(survey({"a.yaml": text}).rules) if finding.code == "loop"]


def test_an_error_action_that_the_rule_itself_hears_may_go_round_when_an_action_fails() -> None:
    [finding] = on_error(("a/b", "x", "a/b"))
    assert finding.place == ("errorAction", "republish", "topic")
    assert finding.message == (
        "a message may go round, when an action of A fails: the rule's own FROM 'a/b' hears what it republishes"
    )


def test_a_round_through_an_error_action_says_which_rule_fails() -> None:
    [finding] = on_error(("a", "b", "x"), ("b", "x", "a"))
    assert finding.place == ("actions", 0, "republish", "topic")
    assert finding.message.startswith("a message may go round, when an action of B fails, A → B → A: ")


def test_a_round_without_a_failure_is_told_rather_than_one_with() -> None:
    [finding] = on_error(("a", "a", "a"))
    assert (finding.place[0], "fails" in finding.message) == ("actions", False)
