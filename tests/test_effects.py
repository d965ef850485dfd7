"""What rules make of messages is gathered per target, under names that stay the same when it is done again."""

import sqlite3
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from cloud.effects import REPUBLISH_DEPTH_MAX, REPUBLISHED_MAX, Effects, Targets
from cloud.targets import alerts, streams, tables
from cloud.targets.alerts import message_id
from cloud.targets.config import StreamConfig, TableConfig, TopicConfig
from core.message import Message
from rules import files
from rules.engine import RuleSet

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


def gather(rules: RuleSet, *messages: Message) -> Effects:
    effects = Effects()
    effects.gather(rules, numbered(*messages), T)
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
    effects = gather(rules, said("plant/1/t", {"t": 101}), said("plant/2/t", {"t": 1}))
    assert effects.items == {"readings": [{"t": 101}, {"t": 1}]}
    assert effects.records == {"telemetry": [b'{"t":101}\n', b'{"t":1}\n']}
    assert [told.payload for told in effects.notifications["alerts"]] == [b'{"t":101}']
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


# -- writing -----------------------------------------------------------------------------------------------------------


def test_everything_is_written_into_its_target(db: sqlite3.Connection) -> None:
    rules = ruleset(rule("All", "plant/#", TABLE, STREAM, ALERT))
    effects = gather(rules, said("plant/1", {"machine": "a", "t": 1}), said("plant/1", {"machine": "b", "t": 2}))
    assert effects.apply(db, TARGETS, T) == []
    assert [orjson.loads(item.json)["t"] for item in tables.scan(db, "readings", 9)] == [1, 2]
    [(data,)] = db.execute("SELECT data FROM stream_batches").fetchall()
    assert data == b'{"machine":"a","t":1}\n{"machine":"b","t":2}\n'
    told = [told.message for told in alerts.newest(db, "alerts", 9)]
    assert told == ['{"machine":"a","t":1}', '{"machine":"b","t":2}']


def test_what_a_target_refuses_is_told_and_costs_the_others_nothing(db: sqlite3.Connection) -> None:
    rules = ruleset(rule("All", "plant/#", TABLE, STREAM, ALERT))
    without_key, binary = said("plant/1", {"t": 1}), Message("plant/1", b"\xff\xfe", 1)
    effects = gather(rules, without_key, binary, said("plant/1", {"machine": "a"}))
    refused = effects.apply(db, TARGETS, T)
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
