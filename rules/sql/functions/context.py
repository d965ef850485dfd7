"""What a statement can ask about the message itself: its topic, its moment, who sent it, its MQTT 5 properties.

Everything is in the `Event`. What is not known is Undefined, but for clientid(), which AWS has say "n/a".
"""

from base64 import b64encode
from typing import Any

from rules.event import Event
from rules.sql.functions.function import Function
from rules.sql.values import UNDEFINED, SqlVersion, index


def _topic(event: Event, *position: Any) -> Any:
    if not position:
        return event.topic
    at = index(position[0])
    return event.levels[at - 1] if at is not UNDEFINED and 1 <= at <= len(event.levels) else UNDEFINED


def _timestamp(event: Event) -> int:
    return event.now_ms


def _clientid(event: Event) -> str:
    return event.message.client_id or "n/a"


def _principal(event: Event) -> Any:
    return event.context.principal or UNDEFINED


def _accountid(event: Event) -> str:
    return event.context.account_id


def _sourceip(event: Event) -> Any:
    return event.context.source_ip or UNDEFINED


def _traceid(event: Event) -> Any:
    return event.trace_id if event.context.protocol == "mqtt" else UNDEFINED


def _newuuid(event: Event) -> str:
    return event.chance.uuid()


def _rand(event: Event) -> float:
    return event.chance.random()


def _mqtt_property(event: Event, name: Any) -> Any:
    properties = event.message.properties
    match name:
        case "format_indicator":
            return "UTF8_DATA" if properties and properties.payload_format_indicator else "UNSPECIFIED_BYTES"
        case "content_type" if properties and properties.content_type is not None:
            return properties.content_type
        case "response_topic" if properties and properties.response_topic is not None:
            return properties.response_topic
        case "correlation_data" if properties and properties.correlation_data is not None:
            return b64encode(properties.correlation_data).decode()
    return UNDEFINED


def _user_properties(event: Event, *key: Any) -> Any:
    pairs = event.message.properties.user_properties if event.message.properties else ()
    found: list[Any] = [value for name, value in pairs if name == key[0]] if key else [{k: v} for k, v in pairs]
    return found or UNDEFINED


FUNCTIONS = {
    "accountid": Function(_accountid, 0, 0, of_event=True),
    "clientid": Function(_clientid, 0, 0, of_event=True),
    "get_mqtt_property": Function(_mqtt_property, 1, 1, of_event=True),
    "get_user_properties": Function(_user_properties, 0, 1, of_event=True),
    "newuuid": Function(_newuuid, 0, 0, of_event=True),
    "principal": Function(_principal, 0, 0, of_event=True),
    "rand": Function(_rand, 0, 0, of_event=True),
    "sql_version": Function(lambda: UNDEFINED, 0, 0),  # the compiler knows
    "sourceip": Function(_sourceip, 0, 0, of_event=True, since=SqlVersion.V2016),
    "timestamp": Function(_timestamp, 0, 0, of_event=True),
    "topic": Function(_topic, 0, 1, of_event=True),
    "traceid": Function(_traceid, 0, 0, of_event=True),
}
