"""What rules at the edge make of messages: what they are told of a message, what they republish, and what fails."""

from pathlib import Path
from typing import Any

import orjson

from core.chance import Randomness
from core.config import RulesSection
from core.message import OURSELVES, Message, Origin
from core.telemetry import Counters
from devices.registry import Thing
from edge.calls import EdgeCalls
from edge.daemon import ACTIONS
from edge.reactions import Reactions
from rules import files
from rules.engine import Event, RuleSet

ORIGIN = Origin("ab" * 32, "10.0.0.7", "mqtt")
Body = dict[str, Any]


def republish(topic: str, **more: Any) -> Body:
    return {"republish": {"topic": topic, **more}}


def rule(sql: str, *actions: Body, **more: Any) -> Body:
    return {"awsIotSqlVersion": "2016-03-23", "sql": sql, "actions": list(actions), **more}


def ruleset(**rules: Body) -> RuleSet:
    return files.parse({"rules.json": orjson.dumps(rules).decode()}, supported=ACTIONS)


class Edge:
    """Reactions and what they counted."""

    def __init__(self, *, calls: EdgeCalls | None = None, account: str = "123456789012", **rules: Body) -> None:
        self.counters = Counters()
        self.reactions = Reactions(ruleset(**rules), self.counters, calls, account)

    def hears(self, *messages: Message, origin: Origin = ORIGIN) -> list[Message]:
        return self.reactions.react(list(messages), origin)

    def status(self, name: str) -> Body:
        [found] = [rule.status() for rule in self.reactions.rules if rule.name == name]
        return found


def said(topic: str, payload: bytes = b"{}") -> Message:
    return Message(topic, payload, 1, client_id="press")


def told(messages: list[Message]) -> list[tuple[str, bytes]]:
    return [(message.topic, message.payload) for message in messages]


# -- what a rule is told -----------------------------------------------------------------------------------------------


def test_a_rule_knows_where_a_message_comes_from() -> None:
    names = "principal() AS p, sourceip() AS ip, clientid() AS c, accountid() AS a, traceid() = traceid() AS t"
    edge = Edge(Where=rule(f"SELECT {names} FROM '#'", republish("x")))
    [made] = edge.hears(said("t"))
    assert orjson.loads(made.payload) == {
        "p": "ab" * 32, "ip": "10.0.0.7", "c": "press", "a": "123456789012", "t": True,
    }  # fmt: skip
    [made] = edge.hears(Message("t", b"{}"), origin=OURSELVES)
    assert orjson.loads(made.payload) == {"c": "n/a", "a": "123456789012"}


def test_what_is_random_differs_from_message_to_message_and_a_trace_is_one_per_message() -> None:
    sql = "SELECT VALUE [newuuid(), newuuid(), traceid(), traceid(), rand()] FROM '#'"
    edge = Edge(One=rule(sql, republish("x")))
    first, second = (orjson.loads(made.payload) for made in edge.hears(said("t"), said("t")))
    assert len({first[0], first[1], first[2], second[0], second[1], second[2]}) == 6
    assert first[2] == first[3]
    assert 0.0 <= first[4] <= 1.0


def test_an_edge_answers_what_is_in_its_registry_and_its_files(tmp_path: Path) -> None:
    (tmp_path / "word").write_text('{"key":"sesame"}\n')
    things = {"press": Thing("press", {"hall": "1"}, (), None, 0)}
    calls = EdgeCalls(RulesSection(directory=tmp_path, secrets=tmp_path), lambda: things)
    sql = "SELECT get_registry_data('DescribeThing', clientid(), 'role').attributes.hall AS hall FROM '#'"
    edge = Edge(calls=calls, Hall=rule(sql, republish("${get_secret('word', 'SecretString', 'key', 'role')}/x")))
    assert told(edge.hears(said("t"))) == [("sesame/x", b'{"hall":"1"}')]
    assert edge.hears(Message("t", b"{}", client_id="stranger")) == []
    assert edge.status("Hall")["failed"] == 1
    assert "there is no thing 'stranger'" in edge.status("Hall")["last_error"]


# -- Basic Ingest ------------------------------------------------------------------------------------------------------


def test_by_basic_ingest_only_the_rule_that_is_named_hears_a_message() -> None:
    edge = Edge(
        Hot=rule("SELECT topic() AS t, topic(1) AS first FROM 'plant/#'", republish("${topic()}/hot")),
        All=rule("SELECT * FROM '#'", republish("all")),
        Server=rule("SELECT * FROM '$aws/#'", republish("server")),
        Named=rule("SELECT topic() AS t", republish("named")),
    )
    assert told(edge.hears(said("$aws/rules/Hot/office/1"))) == [("office/1/hot", b'{"t":"office/1","first":"office"}')]
    assert told(edge.hears(said("$aws/rules/Named/x"))) == [("named", b'{"t":"x"}')]
    assert told(edge.hears(said("x"))) == [("all", b"{}")]
    assert edge.reactions.unheard == []


def test_messages_for_a_rule_that_is_not_there_are_handed_to_who_asks_for_them() -> None:
    edge = Edge(
        Hot=rule("SELECT * FROM 'plant/#'", republish("x")),
        Off=rule("SELECT * FROM 'plant/#'", republish("x"), ruleDisabled=True),
    )
    topic = "$aws/rules/Cold/x"
    assert edge.hears(said(topic), said(topic), said("$aws/rules/Off/x"), said("$aws/rules/Hot/x"), said("other")) != []
    assert [message.topic for message in edge.reactions.unheard] == [topic, topic, "$aws/rules/Off/x"]


# -- what fails --------------------------------------------------------------------------------------------------------


def test_an_action_that_fails_sets_off_the_error_action_once_with_the_whole_message() -> None:
    edge = Edge(
        Many=rule(
            "SELECT n FROM 'plant/#'",
            republish("${n}"), republish("fine"), republish("x", headers={"messageExpiry": "${n}"}),
            errorAction=republish("errors/${topic(2)}", qos=1),
        )
    )  # fmt: skip
    first, error = edge.hears(said("plant/1", b'{"n":"#"}'))
    assert told([first]) == [("fine", b'{"n":"#"}')]
    assert (error.topic, error.qos, error.client_id) == ("errors/1", 1, "")
    document = orjson.loads(error.payload)
    assert len(document.pop("cloudwatchTraceId")) == 36
    assert document == {
        "ruleName": "Many",
        "topic": "plant/1",
        "clientId": "press",
        "base64OriginalPayload": "eyJuIjoiIyJ9",
        "failures": [
            {"failedAction": "RepublishAction", "failedResource": "${n}",
             "errorMessage": "topic '#' holds a wildcard"},
            {"failedAction": "RepublishAction", "failedResource": "x",
             "errorMessage": "headers.messageExpiry cannot be '#'"},
        ],
    }  # fmt: skip
    assert edge.counters.value("rules_failed_total", rule="Many") == 2
    status = edge.status("Many")
    assert (status["passed"], status["failed"], status["actions_failed"]) == (1, 0, 2)
    assert status["last_error"] == "headers.messageExpiry cannot be '#'"


def test_an_error_action_that_fails_is_counted_and_nothing_else() -> None:
    edge = Edge(Bad=rule("SELECT * FROM '#'", republish("${n}"), errorAction=republish("${n}")))
    assert edge.hears(said("t", b'{"n":"#"}')) == []
    assert edge.counters.value("rules_failed_total", rule="Bad") == 1
    assert edge.counters.value("rules_error_actions_failed_total", rule="Bad") == 1


def test_an_evaluation_that_fails_sets_off_no_error_action_and_harms_no_other_rule() -> None:
    edge = Edge(
        Fails=rule("SELECT get_thing_shadow('x', 'r') AS s FROM '#'", republish("y"), errorAction=republish("errors")),
        Fine=rule("SELECT a FROM '#'", republish("fine")),
    )
    assert told(edge.hears(said("t", b'{"a":1}'), said("t", b'{"a":2}'))) == [
        ("fine", b'{"a":1}'),
        ("fine", b'{"a":2}'),
    ]
    assert edge.counters.value("rules_failed_total", rule="Fails") == 2
    assert edge.status("Fails")["failed"] == 2
    assert edge.counters.value("rules_error_actions_failed_total") == 0


def test_an_output_that_no_message_gave_is_acted_on_the_same_way() -> None:
    edge = Edge(
        Hot=rule("SELECT * FROM 't'", republish("x/${topic(2)}"), republish("${n}"), errorAction=republish("errors"))
    )
    [hot] = edge.reactions.rules
    event = Event(said("t/7", b'{"n":"#"}'), 0, chance=Randomness())
    first, error = edge.reactions.emit(hot, event, {"count": 3})
    assert told([first]) == [("x/7", b'{"count":3}')]
    assert error.topic == "errors"
    assert edge.reactions.emit(hot, event, {"bad": "\ud800"}) == []
    assert edge.counters.value("rules_failed_total", rule="Hot") == 2


# -- what an operator sees ---------------------------------------------------------------------------------------------


def test_the_time_that_a_rule_takes_is_its_own() -> None:
    edge = Edge(
        Slow=rule("SELECT * FROM 't' WHERE length(concat(" + ", ".join(["a"] * 60) + ")) > 1", republish("x")),
        Idle=rule("SELECT * FROM 'elsewhere'", republish("x")),
    )
    edge.hears(*[said("t", b'{"a":"%s"}' % (b"x" * 10_000))] * 20)
    spent = {rule.name: rule.counters.spent_ns for rule in edge.reactions.rules}
    assert spent["Slow"] > 0
    assert spent["Idle"] == 0


def test_other_rules_take_over_between_two_messages_and_go_on_counting() -> None:
    same = rule("SELECT * FROM 't'", republish("same"))
    edge = Edge(Same=same, Old=rule("SELECT * FROM 't'", republish("old")))
    edge.hears(said("t"))
    edge.reactions.replace(ruleset(Same=same, New=rule("SELECT * FROM 't'", republish("new"))))
    assert sorted(told(edge.hears(said("t")))) == [("new", b"{}"), ("same", b"{}")]
    assert [(each.name, each.counters.matched) for each in edge.reactions.rules] == [("Same", 2), ("New", 1)]
