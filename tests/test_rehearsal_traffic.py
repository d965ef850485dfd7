"""Recorded messages: our own form, and what mosquitto_sub writes."""

import json
from typing import Any

import pytest

from core.message import Properties
from rules.event import Event
from rules.rehearsal.traffic import NotRecorded, message
from tidegate.rules.options import Dice


def read(line: bytes | dict[str, Any]) -> Event:
    return message(line if isinstance(line, bytes) else json.dumps(line).encode(), 77, Dice(0))


def test_our_own_form_has_any_payload_and_what_is_known_beside_it() -> None:
    event = read({"topic": "a/b", "payload": {"x": [1, 2.50]}, "clientid": "m1", "timestamp": 5})
    assert (event.message.topic, event.message.payload) == ("a/b", b'{"x":[1,2.5]}')
    assert (event.message.client_id, event.now_ms) == ("m1", 5)
    assert read({"topic": "a", "payload": "text"}).message.payload == b'"text"'
    assert read({"topic": "a", "payload_text": "text"}).message.payload == b"text"
    assert read({"topic": "a", "payload_b64": "/wA="}).message.payload == b"\xff\x00"
    assert read({"topic": "a", "payload": None}).message.payload == b"null"
    bare = read({"topic": "a", "context": {"clientid": "m2", "sourceip": "::1"}})
    assert (bare.message.payload, bare.now_ms, bare.message.client_id, bare.context.source_ip) == (b"", 77, "m2", "::1")


# As mosquitto_sub 2.0 wrote them.
MOSQUITTO = rb'{"tst":"2026-11-21T18:59:46.622914Z+0000","topic":"a/b","qos":0,"retain":0,"payloadlen":'


@pytest.mark.parametrize(
    ("rest", "payload"),
    [
        (rb'23,"payload":"{\"t\": 1.50, \"s\":\"x\\\"y\"}"}', b'{"t": 1.50, "s":"x\\"y"}'),
        ('8,"payload":"hello é"}'.encode(), "hello é".encode()),
        (b'0,"payload":null}', b""),
        (b'1,"payload":"5"}', b"5"),
        (rb'23,"payload":{"t":1.5,"s":"x\"y"}}', b'{"t":1.5,"s":"x\\"y"}'),  # %J
        (b'4,"payload":null}', b"null"),
        (b'7,"payload":"hello"}', b'"hello"'),
        (b'1,"payload":5}', b"5"),
    ],
)
def test_what_mosquitto_sub_writes_is_read(rest: bytes, payload: bytes) -> None:
    event = read(MOSQUITTO + rest)
    assert (event.message.topic, event.message.payload, event.now_ms) == ("a/b", payload, 1795287586623)


def test_the_properties_that_mosquitto_sub_writes_are_read() -> None:
    line = {"topic": "a", "payloadlen": 1, "payload": 5, "properties": {
        "content-type": "text/plain", "response-topic": "r", "payload-format-indicator": 1, "user-properties":
        {"k": "v"}, "message-expiry-interval": 5,
    }}  # fmt: skip
    assert read(line).message.properties == Properties(
        payload_format_indicator=1, content_type="text/plain", response_topic="r", user_properties=(("k", "v"),)
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "JSON|line"),
        (b"nonsense", "JSON|line"),
        (b"\xff", "JSON|line"),
        (b"[]", "the line: must be an object"),
        (b'"text"', "the line: must be an object"),
        (b"{}", "topic: is missing"),
        (b'{"topic": "a", "clientId": "c"}', "clientId: no such key here; did you mean 'clientid'"),
        (b'{"topic": 5}', "topic: "),
        (b'{"topic": "a/+"}', "holds a wildcard"),
        (b'{"topic": ""}', "must not be empty"),
        (b'{"topic": "a", "qos": 1}', "qos: "),
        (b'{"topic": "a", "timestamp": -5}', "timestamp: "),
        (b'{"topic": "a", "payload": 1, "payload_b64": ""}', "write one of payload"),
        (b'{"topic": "a", "payload_b64": "!"}', "is not base64"),
        (b'{"tst": "yesterday", "topic": "a", "payload": 1, "payloadlen": 1}', "no time of mosquitto_sub"),
        (b'{"topic": "a", "payload": "ab", "payloadlen": 9}', "9 bytes"),
        (b'{"payload": "ab", "payloadlen": 2}', "topic: "),
        (b'{"topic": "a", "payload": 5, "payloadlen": 1, "properties": {"content-type": 5}}', "content_type"),
        (b'{"topic": "a", "payload": 5, "payloadlen": 1, "properties": {"user-properties": {"a": 5}}}', "user_prop"),
    ],
)
def test_a_line_that_is_no_message_is_refused_with_the_reason(line: bytes, reason: str) -> None:
    with pytest.raises(NotRecorded, match=reason):
        read(line)
