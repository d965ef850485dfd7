"""Recorded messages, a JSON object per line: our own form, and that of `mosquitto_sub -F %j` (or `%J`).

    {"topic": "plant/a/m1/telemetry", "payload": {"temperature": 110}, "clientid": "m1", "timestamp": 1772344800000}
    {"tst": "2026-03-01T06:00:00.000000Z+0000", "topic": "plant/a/m1/telemetry", "qos": 0, "retain": 0,
     "payloadlen": 20, "payload": "{\\"temperature\\":110}"}

In our own form `payload` is a JSON value (`payload_text` and `payload_b64` say others), and there may be a `context`.
In Mosquitto's, it is the payload's text, or with `%J` the value; `payloadlen` tells which. A payload that is not UTF-8
cannot be told from Mosquitto's form, and is refused.
"""

from datetime import datetime
from typing import Any

from pydantic import ValidationError

from core.topics import check_name
from rules.errors import EvaluationError
from rules.event import Chance, Event
from rules.files.faults import words
from rules.rehearsal.scenarios import Circumstances, Content, Milliseconds, Mqtt5
from rules.sql import payloads

LINE_BYTES_MAX = 4_194_304  # a payload of a megabyte with every character escaped

_OF_MOSQUITTO = {"tst", "payloadlen"}


class NotRecorded(ValueError):
    """A line that is no recorded message, and why."""


class _Line(Content):
    topic: str
    clientid: str | None = None
    timestamp: Milliseconds | None = None
    context: Circumstances = Circumstances()


def message(line: bytes, now_ms: int, chance: Chance) -> Event:
    """The message of one line, at the time it tells or else at `now_ms`. Raises NotRecorded."""
    try:
        written = payloads.read(line)
        if isinstance(written, dict) and written.keys() & _OF_MOSQUITTO:
            written = _from_mosquitto(written)
        if not isinstance(written, dict):
            raise NotRecorded('the line: must be an object, {"topic": …}')
        recorded = _Line.model_validate(written)
        check_name(recorded.topic)
        content = recorded.content
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise NotRecorded(f"{'.'.join(map(str, first['loc'])) or 'the line'}: {words(first, _Line, str)}") from None
    except (ValueError, EvaluationError) as error:  # InvalidTopic is a ValueError too
        raise NotRecorded(str(error)) from None
    context = recorded.context
    if recorded.clientid is not None:
        context = context.model_copy(update={"clientid": recorded.clientid})
    at = now_ms if recorded.timestamp is None else recorded.timestamp
    return context.event(recorded.topic, content, at, chance)


def _from_mosquitto(written: dict[str, Any]) -> dict[str, Any]:
    """The same line in our own form."""
    ours: dict[str, Any] = {"topic": written.get("topic"), **_payload(written)}
    if isinstance(at := written.get("tst"), str):
        ours["timestamp"] = _milliseconds(at)
    properties = written.get("properties")
    if isinstance(properties, dict):
        ours["context"] = Circumstances(mqtt5=_properties(properties))
    return ours


def _payload(written: dict[str, Any]) -> dict[str, Any]:
    payload, length = written.get("payload"), written.get("payloadlen")
    if payload is None and length == 0:
        return {}
    if not isinstance(payload, str) or length is None:
        return {"payload": payload}
    if len(payload.encode()) == length:
        return {"payload_text": payload}
    if len(payloads.json_bytes(payload)) == length:
        return {"payload": payload}
    raise NotRecorded(f"the payload had {length} bytes that mosquitto_sub could not write into JSON")


def _milliseconds(at: str) -> int:
    try:
        return round(datetime.strptime(at.replace("Z+", "+"), "%Y-%m-%dT%H:%M:%S.%f%z").timestamp() * 1000)
    except ValueError:
        raise NotRecorded(f"tst: {at[:40]!r} is no time of mosquitto_sub") from None


def _properties(written: dict[str, Any]) -> Mqtt5:
    said = {
        "content_type": written.get("content-type"),
        "response_topic": written.get("response-topic"),
        "format_indicator": "UTF8_DATA" if written.get("payload-format-indicator") else None,
    }
    pairs = written.get("user-properties")
    if isinstance(pairs, dict):
        said["user_properties"] = [[key, value] for key, value in pairs.items()]
    return Mqtt5.model_validate(said)
