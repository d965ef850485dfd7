"""A message and its circumstances as people and programs write them down: in requests to `rules eval`, in test files.

Keeps the words for a payload (`payload`, `payload_text`, `payload_b64`) and for what a message carries beside it
(`clientid`, `sourceip`, `mqtt5` …), and makes the `Event` of it that a daemon would have made. What is not written has
the value that a device over MQTT has; time and chance are the caller's.
"""

import base64
import binascii
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from core.message import Message, Properties
from rules.event import Chance, Context, Event
from rules.sql.functions.calls import Stubs as Answers
from rules.sql.payloads import json_bytes

TIMESTAMP_MAX = 253_402_300_799_999  # the last millisecond of the year 9999, with which dates in rules end

_CONTENT = ("payload", "payload_text", "payload_b64")


def from_base64(text: object) -> object:
    """The bytes that `text` means; raises ValueError, and leaves what is no text to others."""
    if not isinstance(text, str):
        return text
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"is not base64: {error}") from None


Base64 = Annotated[bytes, BeforeValidator(from_base64)]
Milliseconds = Annotated[int, Field(ge=0, le=TIMESTAMP_MAX)]
UserProperty = Annotated[list[str], Field(min_length=2, max_length=2)]


class Written(BaseModel):
    """The base of everything that is written down: no unknown keys, no conversions, no later changes."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Content(Written):
    """A payload: a JSON value, a text, or any bytes in base64. Without one of them it is empty."""

    payload: Any = None
    payload_text: str | None = None
    payload_b64: Base64 | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if len(self.model_fields_set.intersection(_CONTENT)) > 1:
            raise ValueError(f"write one of {', '.join(_CONTENT)}")
        return self

    @property
    def content(self) -> bytes:
        """The payload as a device would have sent it. Raises EvaluationError for a value that JSON cannot hold."""
        if self.payload_b64 is not None:
            return self.payload_b64
        if self.payload_text is not None:
            return self.payload_text.encode()
        return json_bytes(self.payload) if "payload" in self.model_fields_set else b""


class Mqtt5(Written):
    """The properties of an MQTT 5 message that functions can see."""

    content_type: str | None = None
    response_topic: str | None = None
    correlation_data_b64: Base64 | None = None
    format_indicator: Literal["UNSPECIFIED_BYTES", "UTF8_DATA", 0, 1] | None = None  # in AWS's words or MQTT's numbers
    user_properties: list[UserProperty] | None = None

    def properties(self) -> Properties:
        """The same as a connection brings them."""
        return Properties(
            payload_format_indicator=int(self.format_indicator in ("UTF8_DATA", 1)),
            content_type=self.content_type,
            response_topic=self.response_topic,
            correlation_data=self.correlation_data_b64,
            user_properties=tuple((key, value) for key, value in self.user_properties or ()),
        )


class Stubs(Written):
    """What the functions that call out are answered: documents by the name that is asked for.

    `shadows` by "thing" or "thing/shadow", `dynamodb` items by table, `lambda` replies by ARN, `registry` replies by
    API and thing, `secrets` by id, each with `SecretString` or `SecretBinary`.
    """

    shadows: dict[str, Any] | None = None
    dynamodb: dict[str, list[dict[str, Any]]] | None = None
    lambda_: Annotated[dict[str, Any] | None, Field(alias="lambda")] = None
    registry: dict[str, dict[str, Any]] | None = None
    secrets: dict[str, dict[str, str]] | None = None


class Circumstances(Written):
    """What a message carries beside topic and payload, by the names of the functions that tell it."""

    clientid: str | None = None
    principal: str | None = None
    accountid: str | None = None
    traceid: str | None = None
    sourceip: str | None = None
    protocol: Literal["mqtt", "http"] | None = None
    mqtt5: Mqtt5 | None = None
    stubs: Stubs | None = None

    def event(self, topic: str, payload: bytes, now_ms: int, chance: Chance) -> Event:
        """The message as rules see it at `now_ms`."""
        properties = self.mqtt5.properties() if self.mqtt5 else None
        message = Message(topic, payload, client_id=self.clientid or "", received_at=now_ms, properties=properties)
        said = {
            "principal": self.principal,
            "source_ip": self.sourceip,
            "protocol": self.protocol,
            "account_id": self.accountid,
        }
        return Event(
            message,
            now_ms,
            context=Context(**{key: value for key, value in said.items() if value is not None}),
            calls=Answers(self.stubs.model_dump(by_alias=True, exclude_none=True) if self.stubs else {}),
            chance=chance,
            trace_id=self.traceid,
        )


class Moment(Circumstances):
    """Circumstances with the time of the message, `timestamp` in milliseconds since 1970, and the rule that hears it:
    `rule_name`, by which a topic of Basic Ingest names it.
    """

    timestamp: Milliseconds | None = None
    rule_name: str | None = None
