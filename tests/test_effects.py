"""What rules make of messages is gathered per target, under names that stay the same when it is done again."""

import sqlite3
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from cloud.effects import Effects, Surroundings, Targets
from cloud.targets import alerts, streams, tables
from cloud.targets.alerts import message_id
from cloud.targets.config import StreamConfig, TableConfig, TopicConfig
from core.message import Message, Origin
from rules import files
from rules.engine import RuleSet
from rules.republishing import REPUBLISH_DEPTH_MAX, REPUBLISHED_MAX

T = 1_800_000_000_000
ACTIONS = frozenset({"republish", "dynamoDBv2", "firehose", "sns"})
TARGETS = Targets(
    tables.Tables({"readings": TableConfig(keys=("machine",))}),
    streams.Streams({"telemetry": StreamConfig()}),
    alerts.Topics({"alerts": TopicConfig()}),
)
Key = tuple[str | int, ...]


def rule(name: str, source: str, *actions: dict[str, Any], select: str = "*", where: str = "") -> dict[str, Any]:
    sql = f"SELECT {select} FROM '{source}'{where}"
    return {name: {"awsIotSqlVersion": "2016-03-23", "sql": sql, "actions": list(actions)}}


def ruleset(*rules: dict[str, Any]) -> RuleSet:
    document = {name: body for one in rules for name, body in one.items()}
    return files.parse({"rules.json": orjson.dumps(document).decode()}, supported=ACTIONS)


TABLE = {"dynamoDBv2": {"putItem": {"tableName": "readings"}}}
STREAM = {"firehose": {"deliveryStreamName": "telemetry", "separator": "\n"}}
ALERT = {"sns": {"targetArn": "alerts", "messageFormat": "RAW"}}


def republish(topic: str) -> dict[str, Any]:
    return {"republish": {"topic": topic, "qos": 1}}


def numbered(*messages: Message) -> list[tuple[Message, Key]]:
    return [(message, ("hall", "all", 5, number)) for number, message in enumerate(messages, 1)]


def said(topic: str, value: Any) -> Message:
    return Message(topic, orjson.dumps(value), 1, False, "press", T - 60_000)


def gather(rules: RuleSet, *messages: Message, **more: Any) -> Effects:
    effects = Effects(Surroundings(TARGETS, account="123456789012"))
    effects.gather(rules, numbered(*messages), T, **more)
    return effects


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(tables.SCHEMA + streams.SCHEMA + alerts.SCHEMA)
    TARGETS.open(connection)
    yield connection
    connection.close()


# -- gathering ---------------------------------------------------------------------------------------------------------


def test_each_action_of_each_rule_that_hears_gets_its_share() -> None:
    rules = ruleset(
        rule("All", "plant/#", TABLE, STREAM),
        rule("Hot", "plant/+/t", ALERT, where=" WHERE t > 100"),
        rule("Else", "office/#", ALERT),
    )
    hot, cool = b'{"machine":"a","t":101}', b'{"machine":"b","t":1}'
    effects = gather(rules, Message("plant/1/t", hot), Message("plant/2/t", cool))
    assert effects.items == {"readings": [tables.Item("a", "", hot), tables.Item("b", "", cool)]}
    assert effects.records == {"telemetry": [hot + b"\n", cool + b"\n"]}
    assert [told.payload for told in effects.notifications["alerts"]] == [hot]
    assert [message.topic for message in effects.heard] == ["plant/1/t", "plant/2/t"]


def test_messages_without_a_rule_are_still_heard() -> None:
    effects = gather(ruleset(), said("a", 1))
    assert [message.topic for message in effects.heard] == ["a"]
    assert not effects.items
    assert not effects.records
    assert not effects.notifications


def test_a_notification_is_named_after_what_caused_it() -> None:
    rules = ruleset(rule("Hot", "plant/#", STREAM, ALERT, ALERT))
    effects = gather(rules, said("plant/1", 1), said("plant/1", 1))
    names = [told.message_id for told in effects.notifications["alerts"]]
    expected = [message_id("hall", "all", 5, number, "Hot", action) for number in (1, 2) for action in (1, 2)]
    assert names == expected
    assert len(set(names)) == 4


def test_doing_it_again_gives_the_same_names() -> None:
    rules = ruleset(rule("There", "plant/#", republish("alarm/1")), rule("Alarm", "alarm/#", ALERT))
    first, again = gather(rules, said("plant/1", 1)), gather(rules, said("plant/1", 1))
    assert first.notifications == again.notifications
    assert first.notifications["alerts"]


def test_one_message_over_two_ways_gives_two_names() -> None:
    rules = ruleset(
        rule("Left", "plant/#", republish("alarm/1")),
        rule("Right", "plant/#", republish("alarm/1")),
        rule("Twice", "plant/#", republish("alarm/1"), republish("alarm/1")),
        rule("Alarm", "alarm/#", ALERT),
    )
    names = [told.message_id for told in gather(rules, said("plant/1", 1)).notifications["alerts"]]
    assert len(names) == len(set(names)) == 4


def test_what_is_republished_is_heard_with_the_time_of_now() -> None:
    rules = ruleset(rule("There", "plant/+", republish("alarm/${topic(2)}"), select="t"))
    effects = gather(rules, said("plant/1", {"t": 5, "u": 6}))
    assert effects.heard[1:] == [Message("alarm/1", b'{"t":5}', 1, False, "", T)]


def test_rules_that_set_themselves_off_are_stopped_and_counted() -> None:
    effects = gather(ruleset(rule("Loop", "a/#", republish("a/b"), STREAM)), said("a/b", 1), said("c", 1))
    assert len(effects.heard) == 1 + REPUBLISH_DEPTH_MAX + 1
    assert len(effects.records["telemetry"]) == 1 + REPUBLISH_DEPTH_MAX
    assert effects.loops == 1


def test_rules_that_multiply_each_other_are_stopped_for_that_message_alone() -> None:
    rules = ruleset(rule("Many", "a/#", *[republish("a/b")] * 10))
    effects = gather(rules, said("a/b", 1), said("a/b", 2), said("c", 3))
    assert len(effects.heard) == 2 * (1 + REPUBLISHED_MAX) + 1
    assert effects.loops


@pytest.mark.parametrize("name", ["#", "a/+/b", "\0", "x" * 70_000])
def test_a_payload_cannot_make_a_rule_publish_to_a_topic_that_mqtt_forbids(name: str) -> None:
    rules = ruleset(rule("Named", "plant/#", republish("alarm/${name}")), rule("Other", "plant/#", STREAM))
    effects = gather(rules, said("plant/1", {"name": name}), said("plant/2", {"name": "fire"}))
    assert [message.topic for message in effects.heard] == ["plant/1", "plant/2", "alarm/fire"]
    assert len(effects.records["telemetry"]) == 2
    assert effects.failed == {"Named": 1}


def test_a_rule_that_fails_for_one_message_is_counted_and_the_next_one_is_evaluated() -> None:
    rules = ruleset(rule("Grow", "plant/#", STREAM, select=" + ".join(["x"] * 9) + " AS y"))
    effects = gather(rules, said("plant/1", {"x": "x" * 130_000}), said("plant/1", {"x": "ab"}))
    assert effects.records["telemetry"] == [b'{"y":"%s"}\n' % (b"ab" * 9)]
    assert effects.failed == {"Grow": 1}


def test_an_action_that_fails_leaves_the_others_of_its_rule_alone() -> None:
    actions = [STREAM, republish("alarm/1"), republish("alarm/${name}"), republish("alarm/2"), ALERT]
    effects = gather(ruleset(rule("Many", "plant/#", *actions)), said("plant/1", {"name": "#"}))
    assert [message.topic for message in effects.heard] == ["plant/1", "alarm/1", "alarm/2"]
    assert len(effects.records["telemetry"]) == len(effects.notifications["alerts"]) == 1
    assert effects.failed == {"Many": 1}


def test_a_batched_action_makes_a_record_of_each_element() -> None:
    batched = {"firehose": {"deliveryStreamName": "telemetry", "separator": "\n", "batchMode": True}}
    rules = ruleset(rule("Batch", "plant/#", batched))
    assert gather(rules, said("plant/1", [1, {"a": 2}])).records["telemetry"] == [b"1\n", b'{"a":2}\n']
    assert gather(rules, said("plant/1", {"a": 2})).records["telemetry"] == [b'{"a":2}\n']


# -- who sent it -------------------------------------------------------------------------------------------------------

WHO = "clientid() AS c, principal() AS p, sourceip() AS ip, accountid() AS a, traceid() = traceid() AS t"


def test_rules_are_told_who_published_here_and_of_clients_of_an_edge_only_the_identifier() -> None:
    rules = ruleset(rule("Who", "plant/#", STREAM, select=WHO))
    [direct] = gather(rules, said("plant/1", 1), origin=Origin("ab", "10.0.0.7")).records["telemetry"]
    assert orjson.loads(direct) == {"c": "press", "p": "ab", "ip": "10.0.0.7", "a": "123456789012", "t": True}
    [relayed] = gather(rules, said("plant/1", 1)).records["telemetry"]
    assert orjson.loads(relayed) == {"c": "press", "a": "123456789012", "t": True}


def test_what_a_rule_made_comes_from_nobody() -> None:
    rules = ruleset(rule("There", "plant/#", republish("alarm/1")), rule("Who", "alarm/#", STREAM, select=WHO))
    [made] = gather(rules, said("plant/1", 1), origin=Origin("ab", "10.0.0.7")).records["telemetry"]
    assert orjson.loads(made) == {"c": "n/a", "a": "123456789012"}


def test_what_subscribers_have_heard_already_they_do_not_hear_again() -> None:
    rules = ruleset(rule("There", "plant/#", republish("alarm/1")))
    effects = gather(rules, said("plant/1", 1), published=True)
    assert [message.topic for message in effects.heard] == ["alarm/1"]
    assert effects.applied == 2


# -- Basic Ingest ------------------------------------------------------------------------------------------------------


def test_by_basic_ingest_only_the_rule_that_is_named_hears_a_message() -> None:
    rules = ruleset(
        rule("Hot", "plant/#", STREAM, select="topic() AS t"),
        rule("All", "#", ALERT),
        rule("Office", "office/#", ALERT),
    )
    effects = gather(rules, said("$aws/rules/Hot/office/1", 1), said("$aws/rules/Gone/office/1", 1))
    assert effects.records == {"telemetry": [b'{"t":"office/1"}\n']}
    assert effects.notifications == {}
    assert (effects.not_found, effects.applied) == (1, 2)


# -- error actions -----------------------------------------------------------------------------------------------------


def failing(name: str, *actions: dict[str, Any], error: dict[str, Any], select: str = "*") -> dict[str, Any]:
    made = rule(name, "plant/#", *actions, select=select)
    made[name]["errorAction"] = error
    return made


def test_what_targets_refuse_reaches_the_error_action_together_and_costs_the_others_nothing() -> None:
    batched = {"firehose": {"deliveryStreamName": "telemetry"}}
    rules = ruleset(failing("All", TABLE, batched, ALERT, republish("a/${'#'}"), error=STREAM))
    effects = gather(rules, Message("plant/1", b"\xff\xfe", 1, client_id="press"))
    raw, document = effects.records["telemetry"]
    assert raw == b"\xff\xfe"
    told = orjson.loads(document)
    assert len(told.pop("cloudwatchTraceId")) == 36
    assert told == {
        "ruleName": "All",
        "topic": "plant/1",
        "clientId": "press",
        "base64OriginalPayload": "//4=",
        "failures": [
            {"failedAction": "DynamoDBv2Action", "failedResource": "readings",
             "errorMessage": "the result is not a JSON object"},
            {"failedAction": "SnsAction", "failedResource": "alerts",
             "errorMessage": "the message is not UTF-8 text; write encode(*, 'base64') in the SQL"},
            {"failedAction": "RepublishAction", "failedResource": "a/${'#'}",
             "errorMessage": "topic 'a/#' holds a wildcard"},
        ],
    }  # fmt: skip
    assert (effects.items, effects.notifications) == ({}, {})
    assert [target for target, _ in effects.refused] == ["table readings", "topic alerts"]
    assert effects.failed == {"All": 3}
    assert effects.error_actions_failed == {}


def test_an_error_action_can_be_any_action(db: sqlite3.Connection) -> None:
    for error in (TABLE, ALERT, republish("errors/${topic(2)}")):
        rules = ruleset(failing("Bad", republish("${'#'}"), error=error), rule("Heard", "errors/#", STREAM))
        effects = gather(rules, said("plant/1", 1))
        assert effects.apply(db, T) == ([] if error is not TABLE else effects.refused)
        assert effects.failed == {"Bad": 1}
        if error is TABLE:  # the document has no member `machine`
            assert effects.error_actions_failed == {"Bad": 1}
            assert effects.refused == [("table readings", "no key member 'machine' at the top level")]
        elif error is ALERT:
            [told] = effects.notifications["alerts"]
            assert orjson.loads(told.payload)["ruleName"] == "Bad"
        else:
            assert [message.topic for message in effects.heard] == ["plant/1", "errors/1"]
            assert orjson.loads(effects.records["telemetry"][0])["ruleName"] == "Bad"


def test_an_error_notification_has_a_name_of_its_own_that_stays_the_same() -> None:
    rules = ruleset(failing("Bad", ALERT, republish("${'#'}"), error=ALERT))
    first, again = (gather(rules, said("plant/1", 1)).notifications["alerts"] for _ in range(2))
    assert [told.message_id for told in first] == [told.message_id for told in again]
    assert len({told.message_id for told in first}) == 2


def test_an_evaluation_that_fails_sets_off_no_error_action() -> None:
    rules = ruleset(failing("Fails", STREAM, error=ALERT, select="get_thing_shadow('x', 'r') AS s"))
    effects = gather(rules, said("plant/1", 1))
    assert effects.failed == {"Fails": 1}
    assert effects.notifications == {}


def test_a_record_too_large_is_refused_before_anything_is_written(db: sqlite3.Connection) -> None:
    rules = ruleset(failing("Large", STREAM, error=republish("errors")))
    effects = gather(rules, Message("plant/1", b"x" * streams.RECORD_BYTES_MAX))
    assert effects.records["telemetry"] == []
    assert [target for target, _ in effects.apply(db, T)] == ["stream telemetry"]
    assert [message.topic for message in effects.heard] == ["plant/1", "errors"]


def test_a_target_of_an_error_action_must_be_configured_too() -> None:
    error = {"dynamoDBv2": {"putItem": {"tableName": "nothing"}}}
    assert list(TARGETS.check(ruleset(failing("One", STREAM, error=error)))) == [
        "rule One: no table 'nothing'; add [targets.tables.nothing] (configured: readings)"
    ]


# -- writing -----------------------------------------------------------------------------------------------------------


def test_everything_is_written_into_its_target(db: sqlite3.Connection) -> None:
    rules = ruleset(rule("All", "plant/#", TABLE, STREAM, ALERT))
    effects = gather(rules, said("plant/1", {"machine": "a", "t": 1}), said("plant/1", {"machine": "b", "t": 2}))
    assert effects.apply(db, T) == []
    assert [orjson.loads(item.json)["t"] for item in tables.scan(db, "readings", 9)] == [1, 2]
    [(data,)] = db.execute("SELECT data FROM stream_batches").fetchall()
    assert data == b'{"machine":"a","t":1}\n{"machine":"b","t":2}\n'
    told = [told.message for told in alerts.newest(db, "alerts", 9)]
    assert told == ['{"machine":"a","t":1}', '{"machine":"b","t":2}']


def test_what_a_target_refuses_is_told_and_costs_the_others_nothing(db: sqlite3.Connection) -> None:
    rules = ruleset(rule("All", "plant/#", TABLE, STREAM, ALERT))
    without_key, binary = said("plant/1", {"t": 1}), Message("plant/1", b"\xff\xfe", 1)
    effects = gather(rules, without_key, binary, said("plant/1", {"machine": "a"}))
    refused = effects.apply(db, T)
    assert [target for target, _ in refused] == ["table readings", "table readings", "topic alerts"]
    assert "no key member 'machine'" in refused[0][1]
    assert tables.count(db, "readings") == 1
    assert len(alerts.newest(db, "alerts", 9)) == 2
    assert db.execute("SELECT sum(records) FROM stream_batches").fetchone() == (3,)


# -- targets that do not exist -----------------------------------------------------------------------------------------


def test_every_target_that_is_not_configured_is_listed_with_its_rule() -> None:
    rules = ruleset(
        rule("One", "a", {"dynamoDBv2": {"putItem": {"tableName": "nothing"}}}, TABLE),
        rule("Two", "b", {"firehose": {"deliveryStreamName": "nowhere"}}),
        rule("Three", "c", STREAM, {"sns": {"targetArn": "arn:aws:sns:eu-west-1:123456789012:nobody"}}),
        rule("Fine", "d", TABLE, STREAM, ALERT, republish("x")),
    )
    assert list(TARGETS.check(rules)) == [
        "rule One: no table 'nothing'; add [targets.tables.nothing] (configured: readings)",
        "rule Two: no stream 'nowhere'; add [targets.streams.nowhere] (configured: telemetry)",
        "rule Three: no topic 'nobody'; add [targets.topics.nobody] (configured: alerts)",
    ]


def test_nothing_is_listed_when_every_target_is_there() -> None:
    assert list(TARGETS.check(ruleset(rule("Fine", "d", TABLE, STREAM, ALERT)))) == []
