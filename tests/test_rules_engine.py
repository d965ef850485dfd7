"""Which rules hear a message, and what they count."""

import pytest

from core.message import Message
from rules.actions import Republish
from rules.engine import NOTHING, EvaluationError, Event, Rule, RuleSet, filter_hears, output_bytes
from rules.sql.parser import parse_statement
from rules.sql.values import SqlVersion


def rule(name: str, source: str, where: str = "", *, disabled: bool = False, topic: str = "") -> Rule:
    sql = f"SELECT *, topic() AS t FROM '{source}' {where}" if source else f"SELECT *, topic() AS t {where}"
    actions = (Republish(topic=topic),) if topic else ()
    return Rule(name, parse_statement(sql), SqlVersion.V2016, actions, disabled=disabled)


def names(rules: RuleSet, topic: str) -> list[str]:
    return sorted(found.name for found in rules.match(topic))


def test_every_rule_whose_filter_matches_hears_a_topic() -> None:
    rules = RuleSet(
        [rule("exact", "a/b"), rule("plus", "a/+"), rule("hash", "a/#"), rule("all", "#"), rule("no", "b/+")]
    )
    assert names(rules, "a/b") == ["all", "exact", "hash", "plus"]
    assert names(rules, "a/b/c") == ["all", "hash"]
    assert names(rules, "b/x") == ["all", "no"]
    assert len(rules) == 5


def test_a_hash_does_not_hear_its_parent_as_in_aws() -> None:
    rules = RuleSet([rule("hash", "sensor/#")])
    assert names(rules, "sensor") == []
    assert names(rules, "sensor/") == ["hash"]
    assert not filter_hears("sensor/#", "sensor")
    assert filter_hears("sensor/#", "sensor/1")
    assert filter_hears(None, "anything")


def test_reserved_topics_are_heard_by_name_only() -> None:
    rules = RuleSet([rule("all", "#"), rule("shadow", "$aws/things/+/shadow/update")])
    assert names(rules, "$aws/things/oven/shadow/update") == ["shadow"]


def test_a_disabled_rule_is_listed_but_hears_nothing() -> None:
    rules = RuleSet([rule("off", "a/b", disabled=True)])
    assert names(rules, "a/b") == []
    assert [found.name for found in rules] == ["off"]


def test_several_rules_may_share_a_filter() -> None:
    rules = RuleSet([rule("one", "a/+"), rule("two", "a/+")])
    assert names(rules, "a/b") == ["one", "two"]


def test_a_rule_counts_what_it_heard_passed_and_failed() -> None:
    hot = rule("hot", "t", "WHERE a > 5")
    deep = b'{"a":9,"b":' + b"[" * 1000 + b"]" * 1000 + b"}"
    assert hot.evaluate(Event(Message("t", b'{"a":9}'), 0)) == {"a": 9, "t": "t"}
    assert hot.evaluate(Event(Message("t", b'{"a":1}'), 0)) is NOTHING
    with pytest.raises(EvaluationError, match="rule hot: the value is nested too deeply"):
        hot.evaluate(Event(Message("t", deep), 0))
    counters = hot.counters
    assert (counters.matched, counters.passed, counters.failed) == (3, 1, 1)
    assert counters.last_error == "the value is nested too deeply"
    assert hot.evaluate(Event(Message("t", b'{"a":9}'), 0)) is not NOTHING


def test_an_output_that_cannot_be_written_is_a_failure_of_the_rule() -> None:
    deep = Rule("deep", parse_statement("SELECT VALUE [[a]] FROM 't'"), SqlVersion.V2016)
    payload = b'{"a":' + b"[" * 253 + b"]" * 253 + b"}"
    assert deep.run(Event(Message("t", b'{"a":1}'), 0)) == ([[1]], b"[[1]]")
    with pytest.raises(EvaluationError, match="rule deep: the result is nested too deeply"):
        deep.run(Event(Message("t", payload), 0))
    counters = deep.counters
    assert (counters.matched, counters.passed, counters.failed) == (2, 1, 1)


def test_what_the_actions_are_given_is_the_output_and_how_it_is_written() -> None:
    hot = rule("hot", "t", "WHERE a > 5")
    assert hot.run(Event(Message("t", b'{"a":9.0}'), 0)) == ({"a": 9, "t": "t"}, b'{"a":9,"t":"t"}')
    assert hot.run(Event(Message("t", b'{"a":1}'), 0)) is None
    raw = Rule("raw", parse_statement("SELECT * FROM 't'"), SqlVersion.V2016)
    assert raw.run(Event(Message("t", b"\xff"), 0)) == (b"\xff", b"\xff")
    assert (hot.counters.matched, hot.counters.passed, hot.counters.failed) == (2, 1, 0)


def test_an_operator_is_shown_what_a_rule_has_done() -> None:
    hot = rule("hot", "t", "WHERE a > 5")
    hot.evaluate(Event(Message("t", b'{"a":9}'), 0))
    hot.counters.spent_ns += 1_260_000
    assert hot.status() == {
        "rule": "hot", "enabled": True, "matched": 1, "passed": 1, "failed": 0, "actions_failed": 0, "spent_ms": 1.3,
        "last_error": "",
    }  # fmt: skip
    assert rule("off", "t", disabled=True).status()["enabled"] is False


# -- Basic Ingest ------------------------------------------------------------------------------------------------------


def test_a_rule_is_reached_by_its_name_whatever_its_filter_says() -> None:
    rules = RuleSet([rule("Hot", "plant/#"), rule("All", "#"), rule("Named", "")])
    assert names(rules, "$aws/rules/Hot/plant/1") == ["Hot"]
    assert names(rules, "$aws/rules/Hot/office/1") == ["Hot"]
    assert names(rules, "$aws/rules/Hot") == ["Hot"]
    assert names(rules, "$aws/rules/Named/x") == ["Named"]
    assert names(rules, "x") == ["All"]


def test_a_rule_that_is_not_there_or_disabled_is_not_reached() -> None:
    rules = RuleSet([rule("Hot", "plant/#"), rule("Off", "plant/#", disabled=True), rule("Ingest", "$aws/rules/#")])
    for topic in ("$aws/rules/hot/x", "$aws/rules/Cold/x", "$aws/rules/Off/x", "$aws/rules/", "$aws/rules//Hot/x"):
        assert names(rules, topic) == [], topic
    assert names(rules, "$aws/rules/Ingest/$aws/rules/x") == ["Ingest"]
    assert names(rules, "$aws/rules") == []


def test_a_rule_that_believes_the_server_is_not_told_its_words_by_anybody() -> None:
    rules = RuleSet([rule("Offline", "$aws/events/presence/disconnected/+"), rule("Named", "")])
    assert names(rules, "$aws/events/presence/disconnected/press") == ["Offline"]
    assert names(rules, "$aws/rules/Offline/press") == []
    assert names(rules, "$aws/rules/Offline/$aws/events/presence/connected/press") == []
    assert names(rules, "$aws/rules/Offline/$aws/events/presence/disconnected/press") == ["Offline"]  # policies decide


# -- other rules in their place ----------------------------------------------------------------------------------------


def counted(*rules: Rule) -> RuleSet:
    for each in rules:
        each.counters.matched = 7
    return RuleSet(rules)


def test_a_rule_that_has_not_changed_goes_on_counting() -> None:
    former = counted(rule("a", "t", topic="x"), rule("b", "t"), rule("off", "t"))
    new = RuleSet([rule("a", "t", topic="x"), rule("c", "t"), rule("off", "t", disabled=True)])
    new.continue_from(former)
    assert {each.name: each.counters.matched for each in new} == {"a": 7, "c": 0, "off": 7}
    next(iter(new)).evaluate(Event(Message("t", b"{}"), 0))
    assert [each.counters.matched for each in former if each.name == "a"] == [8]  # one and the same


@pytest.mark.parametrize(
    "changed",
    [rule("a", "t", topic="y"), rule("a", "u", topic="x"), rule("a", "t", "WHERE a > 1", topic="x"), rule("a", "t")],
)
def test_a_rule_that_has_changed_counts_anew(changed: Rule) -> None:
    new = RuleSet([changed])
    new.continue_from(counted(rule("a", "t", topic="x")))
    assert changed.counters.matched == 0


def test_a_rule_with_another_version_or_error_action_counts_anew() -> None:
    statement = parse_statement("SELECT * FROM 't'")
    for other in (
        Rule("a", statement, SqlVersion.V2015),
        Rule("a", statement, SqlVersion.V2016, error_action=Republish(topic="x")),
    ):
        new = RuleSet([other])
        new.continue_from(counted(Rule("a", statement, SqlVersion.V2016)))
        assert other.counters.matched == 0


def test_a_payload_is_parsed_once_for_all_rules() -> None:
    event = Event(Message("t", b'{"a":[1]}'), 0)
    assert event.value is event.value
    assert event.members is event.value
    first = rule("first", "t").evaluate(event)
    second = rule("second", "t").evaluate(event)
    assert first == second == {"a": [1], "t": "t"}


def test_an_output_is_compact_json_or_the_bytes_themselves() -> None:
    assert output_bytes({"a": [1, "ü", None]}) == '{"a":[1,"ü",null]}'.encode()
    assert output_bytes(b"\xff") == b"\xff"
    assert output_bytes({"a": 2**70}) == b'{"a":1180591620717411303424}'
    with pytest.raises(EvaluationError, match="written as JSON"):
        output_bytes({"a": "\ud800"})
