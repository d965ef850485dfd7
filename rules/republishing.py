"""The message that the action `republish` publishes: topic and MQTT 5 properties from templates, the output as payload.

Nothing of the original message is passed on but what a template names: not its properties, nor where it came from.
"""

from base64 import b64decode
from collections.abc import Callable
from typing import TypeVar

from core.message import Message, Properties
from core.topics import InvalidTopic, check_name
from rules.actions import Republish
from rules.actions.messaging import HEADER_CHARS_MAX, MqttHeaders
from rules.errors import EvaluationError
from rules.event import Event
from rules.sql.template import TOPIC_CHARS_MAX, TOPICS_MAX, Template

T = TypeVar("T")

# Rules that set each other off end here, on either side.
REPUBLISH_DEPTH_MAX = 8  # how often what a rule republished may set off another rule; more is a loop
REPUBLISHED_MAX = 100  # for one message of a device; rules that set off each other ten at a time reach 10^8 otherwise

EXPIRY_MAX = 2**32 - 1  # seconds; the field has four bytes (MQTT 5 section 3.3.2.3.3)
_valid: set[str] = set()
INDICATORS = {"UNSPECIFIED_BYTES": 0, "UTF8_DATA": 1}


def republished(action: Republish, event: Event, payload: bytes) -> Message:
    """What to publish. Raises EvaluationError for a topic or a header that MQTT or AWS would not take."""
    topic = action.topic.render(event)
    if topic not in _valid:
        _check(topic, action.topic)
    properties = _properties(action.headers, event) if action.headers is not None else None
    return Message(topic, payload, action.qos, received_at=event.now_ms, properties=properties)


def _check(topic: str, template: Template) -> None:
    """Raise EvaluationError unless `topic` may be published to; one that may is remembered."""
    try:
        check_name(topic)
    except InvalidTopic as error:
        told = f"what {template.source[:80]!r} gave is no topic" if template.is_secret else str(error)
        raise EvaluationError(told) from None
    if len(topic) <= TOPIC_CHARS_MAX:
        if len(_valid) >= TOPICS_MAX:
            _valid.clear()
        _valid.add(topic)


def _properties(headers: MqttHeaders, event: Event) -> Properties:
    def read(name: str, template: Template | None, convert: Callable[[str], T]) -> T | None:
        """A header; None when it is not there, or has become empty: so Undefined leaves it out."""
        return _converted(name, template, event, convert) if template is not None else None

    pairs = [
        (_converted("userProperties", each.key, event, str), _converted("userProperties", each.value, event, str))
        for each in headers.user_properties or ()
    ]
    return Properties(
        read("payloadFormatIndicator", headers.payload_format_indicator, INDICATORS.__getitem__) or 0,
        read("messageExpiry", headers.message_expiry, _expiry),
        read("contentType", headers.content_type, str),
        read("responseTopic", headers.response_topic, _topic),
        read("correlationData", headers.correlation_data, lambda text: b64decode(text, validate=True)),
        tuple((key or "", value or "") for key, value in pairs),
    )


def _converted(name: str, template: Template, event: Event, convert: Callable[[str], T]) -> T | None:
    """What a template becomes, None for an empty text."""
    text = template.render(event)
    if not text:
        return None
    try:
        if len(text) > HEADER_CHARS_MAX or "\0" in text:
            raise ValueError
        text.encode()  # half of a surrogate pair cannot be said in UTF-8
        return convert(text)
    except (ValueError, KeyError):
        told = f"what {template.source[:80]!r} gave" if template.is_secret else repr(text[:80])
        raise EvaluationError(f"headers.{name} cannot be {told}") from None


def _expiry(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > EXPIRY_MAX:
        raise ValueError
    return int(text)


def _topic(text: str) -> str:
    check_name(text)
    return text
