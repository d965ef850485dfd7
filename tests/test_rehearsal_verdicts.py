"""Test cases run against rules: what passes, and what is said of what does not."""

from typing import Any

import pytest

from rules.engine import RuleSet
from rules.files import parse
from rules.rehearsal.trials import Case, read
from rules.rehearsal.verdicts import Difference, judge, pretty
from tidegate.rules.options import Dice

RULES = """
Hot:
  awsIotSqlVersion: "2016-03-23"
  sql: SELECT *, topic(2) AS who FROM 't/+' WHERE temperature > 100
  actions:
    - republish: { topic: "alarm/${topic(2)}", qos: 1 }
    - sns: { targetArn: alerts }
Raw: { sql: SELECT * FROM 'raw', actions: [sns: { targetArn: alerts }] }
Idle: { sql: SELECT * FROM 't/+', actions: [], ruleDisabled: true }
Lost: { sql: "SELECT get_secret('x', 'SecretString', 'r') AS s FROM 'lost'", actions: [] }
Chance: { sql: SELECT newuuid() AS u FROM 'chance', actions: [] }
Mean: { sql: "SELECT max(t) AS m FROM 'p/+' GROUP BY TUMBLING('1 minute')", actions: [] }
Clock: { sql: "SELECT timestamp() AS at, clientid() AS c FROM 'clock'", actions: [] }
"""
HOT = "topic: t/m1, payload: { temperature: 110 }"
STUBS = "context: { stubs: { secrets: { x: { SecretString: hush } } } }"
TICKS = "now: 1, messages: [{ topic: clock }, { after: 2 seconds }, { topic: clock, after: 3 }]"
WINDOW = "messages: [{ topic: p/1, payload: { t: 7 } }, { topic: p/2, payload: { t: 8 }, after: 1 second }"
FIRST_TICK = "{ rule: Clock, payload: { at: 1, c: n/a } }"
IS_HOT = "payload: { temperature: 110, who: m1 }"


def rules() -> RuleSet:
    return parse({"a.yaml": RULES}, supported=frozenset({"republish", "sns"}))


def case(text: str) -> Case:
    [found] = read("a.test.yaml", f"tests: [{{ name: a, {text} }}]").tests
    return found


def differences(text: str) -> list[Difference]:
    return list(judge(case(text), rules(), Dice(0)).differences)


@pytest.mark.parametrize(
    "text",
    [
        f"{HOT}, expect: [{{ rule: Hot, {IS_HOT} }}]",
        f"{HOT}, expect: [{{ rule: Hot, payload: {{ who: m1, temperature: 110.0 }} }}]",
        f"{HOT}, expect: [{{ rule: Hot, payload_includes: {{ who: m1 }} }}]",
        f"{HOT}, expect: [{{ rule: Hot, payload_includes: {{}} }}]",
        f"""{HOT}, expect: [{{ rule: Hot, payload_text: '{{"temperature":110,"who":"m1"}}' }}]""",
        f"{HOT}, expect: [{{ rule: Hot, {IS_HOT}, actions: [republish: {{ topic: alarm/m1 }}, sns] }}]",
        f"{HOT}, expect: [{{ rule: Hot, {IS_HOT}, actions: [republish: {{ qos: 1 }}, sns: {{ targetArn: alerts }}] }}]",
        "topic: t/m1, payload: { temperature: 90 }, expect: []",
        "topic: nowhere, expect: []",
        "topic: raw, payload_b64: /wA=, expect: [{ rule: Raw, payload_b64: /wA= }]",
        "topic: raw, payload_text: hello, expect: [{ rule: Raw, payload_text: hello }]",
        "topic: raw, expect: [{ rule: Raw, payload_text: '' }]",
        "topic: raw, payload: null, expect: [{ rule: Raw, payload: null }]",
        "topic: lost, expect: [{ rule: Lost, fails: no secret }]",
        f"topic: lost, {STUBS}, expect: [{{ rule: Lost, payload: {{ s: hush }} }}]",
        "topic: clock, context: { clientid: c1 }, now: 5, expect: [{ rule: Clock, payload: { at: 5, c: c1 } }]",
        f"{TICKS}, expect: [{FIRST_TICK}, {{ rule: Clock, payload_includes: {{ at: 2004 }} }}]",
        f"{WINDOW}, {{ after: 1 minute }}], expect: [{{ rule: Mean, payload: {{ m: 8 }} }}]",
        f"{WINDOW}], expect: []",
        "topic: $aws/rules/Hot/x/m2, payload: {temperature: 110}, expect: [{ rule: Hot, payload_includes: {who: m2}}]",
    ],
)  # fmt: skip
def test_a_case_passes_when_everything_is_as_it_says(text: str) -> None:
    assert differences(text) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"{HOT}, expect: []", [("Hot", "fired, and was not to", "", '{\n  "temperature": 110,\n  "who": "m1"\n}')]),
        (
            f"{HOT}, expect: [{{ rule: Hot, payload: {{ temperature: 110, who: m2 }} }}]",
            [("Hot", "gave another payload", '{\n  "temperature": 110,\n  "who": "m2"\n}',
              '{\n  "temperature": 110,\n  "who": "m1"\n}')],
        ),
        (f"{HOT}, expect: [{{ rule: Hot, payload: {{ temperature: 110 }} }}]",
         [("Hot", "gave another payload", '{\n  "temperature": 110\n}', '{\n  "temperature": 110,\n  "who": "m1"\n}')]),
        (f"{HOT}, expect: [{{ rule: Hot, payload_includes: {{ who: m2 }} }}]",
         [("Hot", "gave another payload", '{\n  "who": "m2"\n}', '{\n  "who": "m1"\n}')]),
        (f"{HOT}, expect: [{{ rule: Hot, payload_includes: {{ temperature: '110' }} }}]",
         [("Hot", "gave another payload", '{\n  "temperature": "110"\n}', '{\n  "temperature": 110\n}')]),
        (f"{HOT}, expect: [{{ rule: Hot, {IS_HOT}, actions: [sns, republish] }}]",
         [("Hot", "has other actions", "sns\nrepublish", "republish\nsns")]),
        (f"{HOT}, expect: [{{ rule: Hot, {IS_HOT}, actions: [] }}]",
         [("Hot", "has other actions", "", "republish\nsns")]),
        (f"{HOT}, expect: [{{ rule: Hot, {IS_HOT}, actions: [republish: {{ topic: alarm/m2 }}, sns] }}]",
         [("Hot", "gave other parameters to republish", '{\n  "topic": "alarm/m2"\n}', '{\n  "topic": "alarm/m1"\n}')]),
        (f"{HOT}, expect: [{{ rule: Hot, {IS_HOT}, actions: [republish: {{ topik: x }}, sns] }}]",
         [("Hot", "gave other parameters to republish", '{\n  "topik": "x"\n}', "{}")]),
        (f"{HOT}, expect: [{{ rule: Hot, {IS_HOT} }}, {{ rule: Hot, payload: 1 }}]",
         [("Hot", "fired 1 time, 2 expected: it has fired for each message it heard", "1", "")]),
        (f"messages: [topic: t/m1, {{ {HOT} }}], expect: [{{ rule: Hot, {IS_HOT} }}, {{ rule: Hot, payload: 1 }}]",
         [("Hot", "fired 1 time, 2 expected: its WHERE is not true for the others", "1", "")]),
        ("topic: t/m1, payload: { temperature: 90 }, expect: [{ rule: Hot, payload: 1 }]",
         [("Hot", "did not fire: its WHERE is not true", "1", "")]),
        ("topic: t, expect: [{ rule: Hot, payload: 1 }]",
         [("Hot", "did not fire: its FROM 't/+' does not hear t", "1", "")]),
        (f"{WINDOW}], expect: [{{ rule: Mean, payload: 1 }}]",
         [("Mean", "did not fire: no other window of it has ended; let time pass with `after`", "1", "")]),
        ("topic: t/a, expect: [{ rule: Idle, payload: 1 }]", [("Idle", "did not fire: it is disabled", "1", "")]),
        ("topic: raw, expect: [{ rule: Raw, payload: 1 }, { rule: Raw, payload: 1 }]",
         [("Raw", "gave another payload", "1", ""),
          ("Raw", "fired 1 time, 2 expected: it has fired for each message it heard", "1", "")]),
        ("topic: raw, payload_b64: /wAb, expect: [{ rule: Raw, payload_text: a }]",
         [("Raw", "gave another payload", "a", "'\\\\xff\\x00\\x1b'")]),
        ("topic: lost, expect: []",
         [("Lost", "failed, and was not expected to: rule Lost: there is no secret 'x'", "",
           "failure: rule Lost: there is no secret 'x'")]),
        ("topic: lost, expect: [{ rule: Lost, payload: 1 }]",
         [("Lost", "failed: rule Lost: there is no secret 'x'", "", "")]),
        ("topic: lost, expect: [{ rule: Lost, fails: too large }]",
         [("Lost", "was to fail with 'too large', and failed with \"rule Lost: there is no secret 'x'\"", "", "")]),
        (f"{HOT}, expect: [{{ rule: Hot, fails: x }}]", [("Hot", "was to fail with 'x', and did not", "", "")]),
        ("topic: x, expect: [{ rule: Hott, payload: 1 }]",
         [("Hott", "is no rule; did you mean Hot?", "", "")]),
    ],
)  # fmt: skip
def test_every_difference_is_said(text: str, found: list[tuple[str, str, str, str]]) -> None:
    assert differences(text) == [Difference(*parts) for parts in found]


def test_the_same_case_fares_the_same_in_every_run() -> None:
    chance = case("topic: chance, expect: []")
    said = [judge(chance, rules(), Dice(0)).differences[0].found for _ in range(2)]
    assert said[0] == said[1]


def test_a_verdict_tells_which_rules_fired() -> None:
    verdict = judge(case(f"{HOT}, expect: [{{ rule: Hot, {IS_HOT} }}]"), rules(), Dice(0))
    assert (verdict.case, verdict.passed, verdict.fired) == ("a", True, ("Hot",))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, "{}"), ([], "[]"), ([1, "é", None], '[1,"é",null]'), ("\x1b", '"\\u001b"'), (10**33, "1" + "0" * 33),
        ({"b": 1, "a": {"c": []}}, '{\n  "a": {\n    "c": []\n  },\n  "b": 1\n}'),
        ([{"a": 1}], '[\n  {\n    "a": 1\n  }\n]'),
    ],
)  # fmt: skip
def test_json_is_written_for_people(value: Any, text: str) -> None:
    assert pretty(value) == text
