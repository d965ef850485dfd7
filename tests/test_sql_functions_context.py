"""What a statement learns about the message itself: a row for every function and every thing that may not be known."""

from typing import Any

import pytest

from core.message import Message, Properties
from rules.errors import SqlError
from rules.event import Context, Event
from rules.sql.compiler import compile_statement
from rules.sql.parser import parse_statement
from rules.sql.values import UNDEFINED, SqlVersion
from tests.test_rules_event import Dice

PROPERTIES = Properties(
    1, 60, "application/json", "answers/1", b"\x00\xff", (("k", "1"), ("other", "2"), ("k", "3"), ("", "4"))
)


def value(expression: str, event: Event, version: SqlVersion = SqlVersion.V2016) -> Any:
    output = compile_statement(parse_statement(f"SELECT {expression} AS x"), version)(event)
    return output.get("x", UNDEFINED)


def event(topic: str = "plant/l1/press", *, client_id: str = "press", **more: Any) -> Event:
    properties = more.pop("properties", None)
    message = Message(topic, b'{"n":2}', client_id=client_id, properties=properties)
    return Event(message, 1_700_000_000_123, **{"chance": Dice(), **more})


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("topic()", "plant/l1/press"), ("topic(1)", "plant"), ("topic(3)", "press"), ("topic(n)", "l1"),
        ("topic(0)", UNDEFINED), ("topic(4)", UNDEFINED), ("topic(-1)", UNDEFINED), ("topic(1E300)", UNDEFINED),
        ("topic(2.9)", "l1"), ("topic('2')", "l1"), ("topic('two')", UNDEFINED), ("topic(null)", UNDEFINED),
        ("topic(true)", UNDEFINED), ("topic(1, 2)", UNDEFINED), ("topic(missing)", UNDEFINED),
        ("timestamp()", 1_700_000_000_123), ("timestamp(1)", UNDEFINED),
        ("clientid()", "press"), ("clientid(1)", UNDEFINED),
        ("newuuid()", "uuid 1"), ("newuuid(1)", UNDEFINED), ("rand()", 0.25), ("rand(1)", UNDEFINED),
        ("traceid()", "uuid 1"), ("accountid()", "000000000000"), ("principal()", UNDEFINED), ("sourceip()", UNDEFINED),
    ],
)  # fmt: skip
def test_the_message_and_its_moment(expression: str, expected: Any) -> None:
    assert value(expression, event()) == expected


def test_where_a_message_comes_from() -> None:
    found = event(context=Context("ab" * 32, "2001:db8::1", "mqtt", "123456789012"), trace_id="t-1")
    assert value("principal()", found) == "ab" * 32
    assert value("sourceip()", found) == "2001:db8::1"
    assert value("sourceip(1)", found) is UNDEFINED
    assert value("accountid()", found) == "123456789012"
    assert value("traceid()", found) == "t-1"


@pytest.mark.parametrize("protocol", ["http", ""])
def test_what_did_not_come_by_mqtt_has_no_trace_and_no_client(protocol: str) -> None:
    found = event(client_id="", context=Context(protocol=protocol))
    assert value("traceid()", found) is UNDEFINED
    assert value("clientid()", found) == "n/a"


def test_a_message_has_one_trace_id_and_each_newuuid_is_another() -> None:
    found = event()
    assert value("traceid() = traceid()", found) is True
    assert value("newuuid() = newuuid()", found) is False


def test_under_basic_ingest_the_topic_is_what_follows_the_rule() -> None:
    found = event("$aws/rules/Hot/plant/l1")
    assert value("topic()", found) == "plant/l1"
    assert value("topic(1)", found) == "plant"
    assert value("topic(3)", found) is UNDEFINED


@pytest.mark.parametrize(
    ("expression", "expected", "without"),
    [
        ("get_mqtt_property('content_type')", "application/json", UNDEFINED),
        ("get_mqtt_property('response_topic')", "answers/1", UNDEFINED),
        ("get_mqtt_property('correlation_data')", "AP8=", UNDEFINED),
        ("get_mqtt_property('format_indicator')", "UTF8_DATA", "UNSPECIFIED_BYTES"),
        ("get_mqtt_property('message_expiry')", UNDEFINED, UNDEFINED),
        ("get_mqtt_property(n)", UNDEFINED, UNDEFINED),
        ("get_mqtt_property(missing)", UNDEFINED, UNDEFINED),
        ("get_mqtt_property()", UNDEFINED, UNDEFINED),
        ("get_user_properties('k')", ["1", "3"], UNDEFINED),
        ("get_user_properties('other')", ["2"], UNDEFINED),
        ("get_user_properties('')", ["4"], UNDEFINED),
        ("get_user_properties('gone')", UNDEFINED, UNDEFINED),
        ("get_user_properties(n)", UNDEFINED, UNDEFINED),
        ("get_user_properties()", [{"k": "1"}, {"other": "2"}, {"k": "3"}, {"": "4"}], UNDEFINED),
        ("get_user_properties('a', 'b')", UNDEFINED, UNDEFINED),
    ],
)
def test_properties_of_mqtt_5(expression: str, expected: Any, without: Any) -> None:
    assert value(expression, event(properties=PROPERTIES)) == expected
    assert value(expression, event()) == without
    assert value(expression, event(properties=Properties())) == without


def test_empty_properties_are_there() -> None:
    found = event(properties=Properties(content_type="", correlation_data=b""))
    assert value("get_mqtt_property('content_type')", found) == ""
    assert value("get_mqtt_property('correlation_data')", found) == ""


def test_only_sourceip_needs_the_newer_version() -> None:
    found, old = event(context=Context("press", "10.0.0.7")), SqlVersion.V2015
    for expression in ("topic()", "timestamp()", "clientid()", "principal()", "traceid()", "accountid()", "newuuid()"):
        assert value(expression, found, old) is not UNDEFINED
    with pytest.raises(SqlError, match="needs awsIotSqlVersion 2016-03-23"):
        value("sourceip()", found, old)
