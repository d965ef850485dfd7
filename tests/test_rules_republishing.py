"""What `republish` publishes: topic and MQTT 5 headers by templates, nothing else of the original message."""

from typing import Any

import orjson
import pytest

from core.message import Message, Properties
from rules.actions import Republish
from rules.errors import EvaluationError
from rules.event import Context, Event
from rules.republishing import EXPIRY_MAX, HEADER_CHARS_MAX, republished
from rules.sql.functions.calls import Stubs
from rules.sql.parser import parse_statement
from rules.sql.template import Template

ORIGINAL = Properties(1, 60, "text/x", "answers/1", b"c1", (("k", "v"),))


def published(
    payload: bytes = b"{}", output: bytes = b"out", properties: Properties | None = ORIGINAL, **parameters: Any
) -> Message:
    made = Republish.model_validate({"topic": "x/y", **parameters})
    message = Message("plant/1", payload, 1, True, "press", 5, properties)
    return republished(made, Event(message, 1_700, context=Context("p", "10.0.0.7")), output)


def test_the_output_is_published_with_nothing_of_the_original() -> None:
    assert published() == Message("x/y", b"out", 0, False, "", 1_700, None)
    assert published(qos=1) == Message("x/y", b"out", 1, False, "", 1_700, None)


def test_topics_are_made_of_the_message() -> None:
    assert published(b'{"a":"b"}', topic="alarm/${topic(2)}/${a}").topic == "alarm/1/b"
    assert published(topic="$$aws/things/press/shadow/update").topic == "$aws/things/press/shadow/update"


@pytest.mark.parametrize("name", ["#", "a/+", "\\u0000", "x" * 70_000, "/" * 200])
def test_a_topic_that_mqtt_forbids_fails_the_action(name: str) -> None:
    with pytest.raises(EvaluationError):
        published(f'{{"name":"{name}"}}'.encode(), topic="x/${name}")
    with pytest.raises(EvaluationError, match="empty"):
        published(topic="${missing}")


def test_every_header_is_a_property_of_mqtt_5() -> None:
    headers = {
        "payloadFormatIndicator": "UTF8_DATA",
        "contentType": "application/${kind}",
        "responseTopic": "answers/${topic(2)}",
        "correlationData": "${encode(id, 'base64')}",
        "messageExpiry": "${ttl}",
        "userProperties": [
            {"key": "k", "value": "${get(get_user_properties('k'), 0)}"}, {"key": "${kind}", "value": "2"},
            {"key": "k", "value": ""},
        ],
    }  # fmt: skip
    message = published(b'{"kind":"json","id":"c-1","ttl":30}', headers=headers)
    assert message.properties == Properties(
        1, 30, "application/json", "answers/1", b"c-1", (("k", "v"), ("json", "2"), ("k", ""))
    )


def test_a_header_that_is_undefined_is_left_out() -> None:
    headers = {
        "payloadFormatIndicator": "${missing}", "contentType": "${missing}", "responseTopic": "${missing}",
        "correlationData": "${missing}", "messageExpiry": "${missing}",
    }  # fmt: skip
    assert published(headers=headers).properties == Properties()
    assert published(headers={"payloadFormatIndicator": "UNSPECIFIED_BYTES"}).properties == Properties(0)
    assert published(headers={"messageExpiry": "0"}).properties == Properties(message_expiry_interval=0)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("payloadFormatIndicator", ["utf8_data", "1"]),
        ("messageExpiry", ["-1", "1.5", "1e3", "soon", str(EXPIRY_MAX + 1), "9" * 30, "٣"]),
        ("responseTopic", ["#", "a/+", "\0"]),
        ("correlationData", ["%%%", "a", "ü"]),
        ("contentType", ["x" * (HEADER_CHARS_MAX + 1), "a\0b"]),
    ],
)
def test_a_header_that_cannot_be_fails_the_action_and_says_which(name: str, values: list[str]) -> None:

    for value in values:
        with pytest.raises(EvaluationError, match=rf"headers\.{name}"):
            published(orjson.dumps({"v": value}), headers={name: "${v}"})


def test_a_user_property_has_a_bound() -> None:

    for pair in ({"key": "k", "value": "${v}"}, {"key": "${v}", "value": "v"}):
        with pytest.raises(EvaluationError, match=r"headers\.userProperties"):
            published(b'{"v":"%s"}' % (b"x" * (HEADER_CHARS_MAX + 1)), headers={"userProperties": [pair]})


@pytest.mark.parametrize(
    "parameters",
    [
        {"topic": "a/${get_secret('token', 'SecretString', 'r')}/#"},
        {"headers": {"correlationData": "${get_secret('token', 'SecretString', 'r')}"}},
        {"headers": {"messageExpiry": "${lower(get_secret('token', 'SecretString', 'r'))}"}},
    ],
)
def test_what_a_secret_is_stands_in_no_error(parameters: dict[str, Any]) -> None:
    made = Republish.model_validate({"topic": "x/y", **parameters})
    event = Event(Message("t", b"{}"), 0, calls=Stubs({"secrets": {"token": {"SecretString": "hunter2!"}}}))
    with pytest.raises(EvaluationError) as caught:
        republished(made, event, b"")
    assert "get_secret" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_what_a_variable_that_holds_a_secret_gave_is_not_told_either() -> None:
    statement = parse_statement("SET @s = get_secret('token', 'SecretString', 'r') SELECT * FROM 't'")
    assert Template("x/${@s}", statement=statement).is_secret
    assert not Template("x/${a}").is_secret
