"""Which rules hear a message, and what they count."""

import pytest

from core.message import Message
from rules.engine import NOTHING, EvaluationError, Event, Rule, RuleSet, filter_hears, output_bytes
from rules.parser import parse_statement
from rules.values import SqlVersion


def rule(name: str, source: str, where: str = "", *, disabled: bool = False) -> Rule:
    sql = f"SELECT *, topic() AS t FROM '{source}' {where}"
    return Rule(name, parse_statement(sql), SqlVersion.V2016, disabled=disabled)


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
    with pytest.raises(EvaluationError, match="rule hot: the payload is nested too deeply"):
        hot.evaluate(Event(Message("t", deep), 0))
    counters = hot.counters
    assert (counters.matched, counters.passed, counters.failed) == (3, 1, 1)
    assert counters.last_error == "the payload is nested too deeply"
    assert hot.evaluate(Event(Message("t", b'{"a":9}'), 0)) is not NOTHING


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
