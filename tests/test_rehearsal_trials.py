"""Test files of rules: what may stand in one, and where it is wrong."""

from decimal import Decimal
from typing import Any

import pytest

from rules.errors import RulesError
from rules.rehearsal.trials import NOW_MS, Trials, read

WHOLE = """
rules: [a.yaml, more]
tests:
  - name: one message
    topic: a/b
    payload: { x: 1, y: [null, 2.50, "3", 1e3, -0.1E-2] }
    context: { clientid: m1, protocol: http, mqtt5: { user_properties: [[k, v]] }, stubs: { lambda: { f: 1 } } }
    now: 2026-03-01T06:00:00+01:00
    expect: []
  - name: several
    now: 1700000000123
    messages:
      - { topic: a, payload_text: "{" }
      - { topic: a, payload_b64: "/wA=", after: 5 seconds }
      - { after: 1 minute }
    expect:
      - { rule: A, payload: null, actions: [sns, republish: { topic: x }] }
      - { rule: A, payload_includes: { x: 1 } }
      - { rule: B, payload_text: "" }
      - { rule: B, fails: too large }
"""


def test_everything_that_may_stand_in_a_file_is_read() -> None:
    trials = read("a.test.yaml", WHOLE)
    assert trials.rules == ["a.yaml", "more"]
    one, several = trials.tests
    [step] = one.messages
    assert (one.now, step.topic, step.content) == (1772341200000, "a/b", b'{"x":1,"y":[null,2.5,"3",1000.0,-0.001]}')
    assert step.context.clientid == "m1"
    assert several.now == 1700000000123
    assert [step.after for step in several.messages] == [0, 5_000, 60_000]
    assert [step.content for step in several.messages] == [b"{", b"\xff\x00", b""]
    assert several.expect[0].actions == [("sns", {}), ("republish", {"topic": "x"})]
    assert [expected.fails for expected in several.expect] == [None, None, None, "too large"]


def test_a_test_that_names_no_time_has_the_same_one_in_every_run() -> None:
    [case] = read("a", "tests: [{name: a, topic: b, expect: []}]").tests
    assert case.now == NOW_MS
    assert case.messages[0].content == b""


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e3", 1000.0), ("12345678901234567890123456789", 12345678901234567890123456789), ("1.0", 1.0), ("-0", 0),
        ("0.1234567890123456789012345678901", Decimal("0.1234567890123456789012345678901")), ('"1e3"', "1e3"),
        ("1e400", Decimal("1e400")), ("true", True), ("null", None), ('"abc"', "abc"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("file", ["a.yaml", "a.json"])
def test_a_number_is_what_json_says_it_is(file: str, written: str, value: Any) -> None:
    [case] = read(file, f'{{"tests": [{{"name": "a", "topic": "b", "payload": {written}, "expect": []}}]}}').tests
    found = case.messages[0].payload
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("written", ["12:30", "1_10", "0310", ".inf", "-.INF", ".nan", "+5", "0x1F", "0b1", "1.", ".5"])
def test_what_only_yaml_takes_for_a_number_is_refused(written: str) -> None:
    with pytest.raises(RulesError, match=r"write it in quotes, or as JSON writes it") as raised:
        read("a.yaml", f"tests: [{{name: a, topic: b, payload: {{ t: {written} }}, expect: []}}]")
    [problem] = raised.value.found
    assert (problem.column, problem.message.split()[0]) == (43, written)
    [case] = read("a.yaml", f"tests: [{{name: a, topic: b, payload: '{written}', expect: []}}]").tests
    assert case.messages[0].payload == written


def test_plain_words_and_dates_are_texts_in_yaml() -> None:
    [case] = read("a.yaml", "tests: [{name: a, topic: b, payload: [abc, 2026-03-01, ~, 1.2.3], expect: []}]").tests
    assert case.messages[0].payload == ["abc", "2026-03-01", None, "1.2.3"]


def test_a_json_file_is_a_test_file_too() -> None:
    text = '{\n\t"tests": [\n\t\t{"name": "a", "topic": "b", "payload": {"x": 1.5e2}, "expect": []}\n\t]\n}'
    assert read("a.test.json", text).tests[0].messages[0].payload == {"x": 150.0}


ONE = "tests:\n  - name: a\n    topic: t\n    {}\n"
EXPECTED = "tests:\n  - name: a\n    topic: t\n    expect:\n      - {}\n"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("", ["1:1: tests is missing"]),
        ("[]", ["1:1: must be a mapping of keys to values"]),
        ("tests: 1", ["1:8: tests: must be a list"]),
        ("tests: []\ntest: []", ["2:1: test: no such key here"]),
        ("tests: [", ["1:9: not YAML: "]),
        ("rules: []\ntests: []", ["1:8: rules: must have at least 1 item"]),
        ("tests: [&a {}, *a]", ["1:16: aliases"]),
        (ONE.format("payload: 1"), ["2:5: tests[0]: expect is missing"]),
        ("tests:\n  - name: a\n    expect: []", ["2:5: tests[0]: topic is missing, or messages, a list of them"]),
        (ONE.format("expect: []\n    messages: []"), ["3:5: tests[0].topic: no such key here",
                                                       "5:15: tests[0].messages: must have at least 1 item"]),
        (ONE.format("topik: x\n    expect: []"), ["4:5: tests[0].topik: no such key here"]),
        (ONE.format("expect: []\n    now: yesterday"), ["5:10: tests[0].now: 'yesterday' is no moment: write milli"]),
        (ONE.format("expect: []\n    now: 2026-03-01T06:00:00"), ["5:10: tests[0].now: '2026-03-01T06:00:00' is no"]),
        (ONE.format("expect: []\n    now: -5"), ["5:10: tests[0].now: must be greater than or equal to 0"]),
        (ONE.format("expect: []\n    payload_b64: '!'"), ["5:18: tests[0].payload_b64: is not base64"]),
        (ONE.format("expect: []\n    payload_b64: ''\n    payload: 1"), ["2:5: tests[0]: write one of payload, payl"]),
        (ONE.format("expect: []\n    context: { clientID: x }"), ["5:16: tests[0].context.clientID: no such key"]),
        (ONE.format("expect: []\n    context: { timestamp: 5 }"), ["5:16: tests[0].context.timestamp: no such key h"]),
        ("tests: [{name: a, topic: a/#, expect: []}]", ["1:26: tests[0].topic: topic 'a/#' holds a wildcard"]),
        ("tests: [{name: a, messages: [{payload: 1}], expect: []}]", ["1:30: tests[0].messages[0]: topic is missing"]),
        ("tests: [{name: a, messages: [{topic: a, after: soon}], expect: []}]",
         ["1:48: tests[0].messages[0].after: 'soon' is no span of time"]),
        (EXPECTED.format("{ payload: 1 }"), ["5:9: tests[0].expect[0]: rule is missing"]),
        (EXPECTED.format("{ rule: A }"), ["5:9: tests[0].expect[0]: write one of payload, payload_text, payload_b"]),
        (EXPECTED.format("{ rule: A, payload: 1, fails: x }"), ["5:9: tests[0].expect[0]: write one of payload"]),
        (EXPECTED.format("{ rule: A, payload: 1, actions: [5] }"),
         ["5:42: tests[0].expect[0].actions[0]: write an action's name, or name: { parameters }"]),
        (EXPECTED.format("{ rule: A, payload_includes: 5 }"),
         ["5:38: tests[0].expect[0].payload_includes: must be a mapping of keys to values"]),
        (ONE.format("expect: []\n    payload: !!binary x"), ["5:14: the tag tag:yaml.org,2002:binary is not under"]),
        (ONE.format("expect: []\n    payload: {a: 1, a: 2}"), ["5:21: the key 'a' stands here twice"]),
    ],
)  # fmt: skip
def test_everything_wrong_in_a_file_is_said_with_its_place(text: str, problems: list[str]) -> None:
    with pytest.raises(RulesError) as raised:
        read("a.test.yaml", text)
    found = [str(problem).removeprefix("a.test.yaml:") for problem in raised.value.found]
    assert len(found) == len(problems)
    assert [line[: len(start)] for line, start in zip(found, problems, strict=True)] == problems


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tests:\n  - { nam: a, topic: t, expect: [] }", "tests[0].nam: no such key here; did you mean 'name'?"),
        ("test: []\ntests: []", "test: no such key here; did you mean 'tests'?"),
        (ONE.format("expect: []\n    paylod: 1"), "tests[0].paylod: no such key here; did you mean 'payload'?"),
        (ONE.format("expect: Hot"), "tests[0].expect: must be a list"),
        (EXPECTED.format("{ rule: A, payload: 1, action: [] }"),
         "tests[0].expect[0].action: no such key here; did you mean 'actions'?"),
    ],
)  # fmt: skip
def test_a_key_that_is_misspelled_is_told_with_the_right_one(text: str, said: str) -> None:
    with pytest.raises(RulesError) as raised:
        read("a.test.yaml", text)
    assert said in [problem.message for problem in raised.value.found]


def test_what_was_read_does_not_change() -> None:
    trials = read("a", "tests: []")
    assert trials == Trials(tests=[])
    with pytest.raises(ValueError):
        trials.rules = ["x"]  # type: ignore[misc]
