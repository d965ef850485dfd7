"""What rules would do about a message, with nothing done."""

from core.message import Message
from rules.engine import RuleSet
from rules.event import Event
from rules.files import parse
from rules.rehearsal.firings import Firing, Rehearsal, Resolved
from tidegate.rules.options import Dice

RULES = """
Second:
  sql: SELECT a FROM 't/#' WHERE a > 1
  actions:
    - republish: { topic: "out/${a}/${topic(2)}" }
    - sns: { targetArn: alerts }
First:
  sql: SELECT * FROM 't/x'
  actions: [firehose: { deliveryStreamName: s, batchMode: false }]
Off: { sql: SELECT 1 AS a FROM 't/x', actions: [], ruleDisabled: true }
Failing: { sql: "SELECT get_secret('x', 'SecretString', 'r') AS s FROM 't/fail'", actions: [sns: { targetArn: b }] }
Wild:
  sql: SELECT 1 AS a FROM 't/wild'
  actions: [republish: { topic: "${b}" }, sns: { targetArn: b }]
Half:
  sql: SELECT 1 AS a FROM 't/half'
  actions:
    - republish: { topic: "${get_secret('x', 'SecretString', 'r')}" }
    - sns: { targetArn: b }
"""


def rules() -> RuleSet:
    return parse({"a.yaml": RULES}, supported=frozenset({"republish", "sns", "firehose"}))


def fire(topic: str, payload: bytes = b"{}") -> list[Firing]:
    return list(Rehearsal(rules(), Dice(0)).hear(Event(Message(topic, payload), 0)))


def test_rules_fire_in_the_order_of_their_file_with_their_actions_resolved() -> None:
    assert fire("t/x", b'{"a": 5.0, "b": null}') == [
        Firing("Second", {"a": 5.0}, b'{"a":5.0}', (
            Resolved("republish", {"topic": "out/5.0/x"}), Resolved("sns", {"targetArn": "alerts"}),
        )),
        Firing("First", {"a": 5.0, "b": None}, b'{"a":5.0,"b":null}', (
            Resolved("firehose", {"deliveryStreamName": "s", "batchMode": False}),
        )),
    ]  # fmt: skip


def test_what_is_no_json_fires_with_its_bytes() -> None:
    [firing] = fire("t/x", b"\xff\x00")
    assert (firing.rule, firing.output, firing.payload) == ("First", b"\xff\x00", b"\xff\x00")


def test_a_rule_that_fails_is_a_firing_with_the_reason_and_no_action() -> None:
    [firing] = fire("t/fail")
    assert firing.actions == ()
    assert "nobody answers calls here" in firing.error
    assert firing.failure == firing.error


def test_an_action_that_cannot_be_resolved_does_not_stop_the_others() -> None:
    [firing] = fire("t/half")
    assert [action.name for action in firing.actions] == ["republish", "sns"]
    assert "nobody answers calls here" in firing.actions[0].error
    assert firing.actions[1].parameters == {"targetArn": "b"}
    assert (firing.error, firing.failure.partition(":")[0]) == ("", "republish")


def test_a_topic_that_nobody_could_publish_on_is_an_error_of_the_action() -> None:
    [firing] = fire("t/wild", b'{"b": "3/#"}')
    assert "wildcard" in firing.actions[0].error
    assert firing.actions[1].error == ""


def test_nothing_fires_for_a_topic_that_nobody_hears() -> None:
    assert fire("elsewhere") == []


def test_basic_ingest_fires_the_rule_that_the_topic_names() -> None:
    assert [firing.rule for firing in fire("$aws/rules/First/anything")] == ["First"]
    assert fire("$aws/rules/Off/t/x") == []


# ── windows ─────────────────────────────────────────────────────────────────────────────────────────────────

MINUTES = """
Mean:
  awsIotSqlVersion: "2016-03-23"
  sql: SELECT line, avg(t) AS mean, window_start() AS since FROM 'p/+' WHERE t > 0 GROUP BY line, TUMBLING('1 minute')
  actions: [republish: { topic: "mean/${line}/${topic(2)}" }]
"""
START = 1_767_225_600_000  # a full minute


def test_a_window_fires_when_its_time_is_over_and_its_templates_see_the_row() -> None:
    rehearsal = Rehearsal(parse({"a.yaml": MINUTES}, supported=frozenset({"republish"})), Dice(0))
    rehearsal.now_ms = START
    for after, payload in ((0, b'{"line": "a", "t": 1}'), (30_000, b'{"line": "a", "t": 2}'), (1, b'{"t": -5}')):
        assert list(rehearsal.elapse(after)) == []
        message = Message("p/x", payload, received_at=rehearsal.now_ms)
        assert list(rehearsal.hear(Event(message, rehearsal.now_ms))) == []
    assert list(rehearsal.elapse(29_000)) == []
    [firing] = rehearsal.elapse(60_000)
    assert firing == Firing(
        "Mean", {"line": "a", "mean": 1.5, "since": START}, b'{"line":"a","mean":1.5,"since":%d}' % START,
        (Resolved("republish", {"topic": "mean/a/x"}),),
    )  # fmt: skip


def test_the_end_closes_every_window() -> None:
    rehearsal = Rehearsal(parse({"a.yaml": MINUTES}, supported=frozenset({"republish"})), Dice(0))
    for line in ("a", "b"):
        payload = b'{"line": "%s", "t": 7}' % line.encode()
        assert list(rehearsal.hear(Event(Message("p/x", payload, received_at=START), START))) == []
    assert [firing.output["line"] for firing in rehearsal.finish()] == ["a", "b"]
    assert rehearsal.late == {}
