"""Actions that hand the output to somebody: a topic, a queue, a function, a state machine, a web server, Kafka."""

import base64
import binascii
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from core.topics import InvalidTopic, check_name
from rules.actions import kafka
from rules.actions.fields import (
    NO_TEMPLATE,
    Action,
    AnyText,
    Begins,
    Count,
    Name,
    OneOf,
    Parameters,
    Plain,
    RoleAction,
    Several,
    Text,
    at_most,
    numeric,
    when_constant,
)

# AWS's bounds
HEADER_CHARS_MAX = 1_024
KAFKA_HEADER_CHARS_MAX = 16_384
URL_CHARS_MAX = 2_000

_SALESFORCE = r"^https://ingestion-[a-zA-Z0-9]{1,12}\.[a-zA-Z0-9]+\.(sfdc-matrix\.net|sfdcnow\.com)/streams/\w{1,20}/\w{1,20}/event$"


def _no_wildcards(topic: str) -> str | None:
    try:
        check_name(topic)
    except InvalidTopic as error:
        return str(error)
    return None


def _base64(text: str) -> str | None:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return "must be base64, or a template"
    return None


def _not_an_arn(name: str) -> str | None:
    return f"is a name, not an ARN: write {name.rsplit(':')[-1]!r}" if name.startswith("arn:") else None


Header = Annotated[AnyText, at_most(HEADER_CHARS_MAX)]
Url = Annotated[Text, at_most(URL_CHARS_MAX), Begins("https://")]


# ── MQTT ────────────────────────────────────────────────────────────────────────────────────────────────────


class UserProperty(Parameters):
    """One user property of an MQTT 5 message."""

    key: Header
    value: Header


class MqttHeaders(Parameters):
    """Properties of the MQTT 5 message that `republish` publishes; `messageExpiry` in seconds."""

    payload_format_indicator: Annotated[Text, OneOf("UNSPECIFIED_BYTES", "UTF8_DATA")] | None = None
    content_type: Header | None = None
    response_topic: Annotated[Header, when_constant(_no_wildcards)] | None = None
    correlation_data: Annotated[Header, when_constant(_base64)] | None = None
    message_expiry: Annotated[Text, numeric(0, 2**32 - 1, whole=True)] | None = None
    user_properties: Annotated[Several[UserProperty], Count(1, 100)] | None = None


class Republish(RoleAction):
    """Publish the output to another topic. A rule that hears what it republishes loops."""

    name: ClassVar[str] = "republish"
    topic: Text
    qos: Annotated[int, Field(ge=0, le=1)] = 0
    headers: MqttHeaders | None = None


# ── notifications, queues, functions ────────────────────────────────────────────────────────────────────────


class Sns(RoleAction):
    """Send the output as a notification; `JSON` means that it holds one text per protocol and a `default`."""

    name: ClassVar[str] = "sns"
    target_arn: Name
    message_format: Literal["RAW", "JSON"] = "RAW"


class Sqs(RoleAction):
    """Send the output to a queue, with `useBase64` in base64."""

    name: ClassVar[str] = "sqs"
    queue_url: Text
    use_base64: bool = False


class Lambda(Action):
    """Call a function with the output as its event, without waiting for what it returns."""

    name: ClassVar[str] = "lambda"
    function_arn: Text


class StepFunctions(RoleAction):
    """Start a state machine with the output as its input; the execution's name is the prefix and a UUID."""

    name: ClassVar[str] = "stepFunctions"
    state_machine_name: Annotated[Text, when_constant(_not_an_arn)]
    execution_name_prefix: Text | None = None


class IotEvents(RoleAction):
    """Send the output to an input of IoT Events; with `batchMode`, each element of an Array (at most 10)."""

    name: ClassVar[str] = "iotEvents"
    input_name: Annotated[Text, at_most(128)]
    message_id: Annotated[Text, at_most(128)] | None = None
    batch_mode: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.batch_mode and self.message_id is not None:
            raise ValueError("messageId cannot stand beside batchMode: true")
        return self


class Salesforce(Action):
    """Send the output to a stream of Salesforce IoT Cloud."""

    name: ClassVar[str] = "salesforce"
    token: Annotated[str, StringConstraints(min_length=40), NO_TEMPLATE]
    url: Annotated[str, StringConstraints(max_length=URL_CHARS_MAX, pattern=_SALESFORCE)]


# ── HTTP ────────────────────────────────────────────────────────────────────────────────────────────────────


class HttpHeader(Parameters):
    """One header of the request."""

    key: Annotated[str, StringConstraints(min_length=1, max_length=256), NO_TEMPLATE]
    value: AnyText


class Sigv4(Parameters):
    """The request is signed with AWS Signature Version 4."""

    signing_region: Plain
    service_name: Plain
    role_arn: Plain | None = None


class HttpAuth(Parameters):
    """How the request says who sends it."""

    sigv4: Sigv4 | None = None


class HttpBatch(Parameters):
    """When a batch of messages is sent: `maxBatchOpenMs` after its first, or when it is full."""

    max_batch_open_ms: Annotated[int, Field(ge=5, le=200)] = 20
    max_batch_size: Annotated[int, Field(ge=2, le=10)] = 10
    max_batch_size_bytes: Annotated[int, Field(ge=100, le=131_072)] = 5_120
    batch_across_topics: bool = False


class Http(Action):
    """POST the output to a web server that has confirmed that it wants it."""

    name: ClassVar[str] = "http"
    url: Url
    confirmation_url: Url | None = None
    headers: Annotated[Several[HttpHeader], Count(0, 100)] = ()
    auth: HttpAuth | None = None
    enable_batching: bool = False
    batch_config: HttpBatch | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.confirmation_url is None:
            if self.url.constant is None:
                raise ValueError("confirmationUrl is missing: a url with a template needs it")
        elif not self.url.source.startswith(self.confirmation_url.source):
            raise ValueError("url must begin with what confirmationUrl says")
        return self


# ── Kafka ───────────────────────────────────────────────────────────────────────────────────────────────────


class KafkaHeader(Parameters):
    """One header of a record."""

    key: Annotated[AnyText, at_most(KAFKA_HEADER_CHARS_MAX)]
    value: Annotated[AnyText, at_most(KAFKA_HEADER_CHARS_MAX)]


class Kafka(Action):
    """Write the output as a record of a Kafka topic."""

    name: ClassVar[str] = "kafka"
    destination_arn: Plain
    topic: Text
    key: Text | None = None
    partition: Annotated[Text, numeric(0, 2**31 - 1, whole=True)] | None = None
    headers: Annotated[Several[KafkaHeader], Count(1, 100)] | None = None
    client_properties: Annotated[dict[str, Text], AfterValidator(kafka.checked)]
