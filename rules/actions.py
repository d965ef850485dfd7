"""What a rule does with its output: the parameters of each action, checked and typed.

Names are AWS's (`targetArn`, `deliveryStreamName`), so files move to and from AWS IoT Core unchanged;
`roleArn`, which AWS requires, is accepted and means nothing here. Models are strict and frozen. Nothing is
run here: the edge and the cloud each run the actions they support.
"""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    InstanceOf,
    StringConstraints,
    ValidationInfo,
)
from pydantic.alias_generators import to_camel

from rules.template import Template
from rules.values import SqlVersion

NAME_CHARS_MAX = 2_048  # AWS: the longest ARN


def _as_template(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str):
        return value  # InstanceOf says what is wrong
    version = info.context["version"] if info.context else SqlVersion.V2016
    return Template(value, version)


def _without_template(value: str) -> str:
    if "${" in value:
        raise ValueError("a template is not supported here yet; write the name itself")
    return value


Name = Annotated[str, StringConstraints(min_length=1, max_length=NAME_CHARS_MAX), AfterValidator(_without_template)]
TopicTemplate = Annotated[InstanceOf[Template], BeforeValidator(_as_template)]


class _Parameters(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, alias_generator=to_camel)


class _Action(_Parameters):
    role_arn: str | None = None


class Republish(_Action):
    """Publish the output to another topic. A rule that hears what it republishes loops."""

    topic: TopicTemplate
    qos: Literal[0, 1] = 0


class PutItem(_Parameters):
    """Where `DynamoDBv2` puts its item."""

    table_name: Name


class DynamoDBv2(_Action):
    """Put the output, an object that holds the table's key, as one item; each member is an attribute."""

    put_item: PutItem


class Firehose(_Action):
    """Append the output to a stream; with `batch_mode`, each element of an output that is an Array."""

    delivery_stream_name: Name
    separator: Literal["\n", "\t", "\r\n", ","] | None = None
    batch_mode: bool = False


class Sns(_Action):
    """Send the output as a notification; `JSON` means that it holds one text per protocol and a `default`."""

    target_arn: Name
    message_format: Literal["RAW", "JSON"] = "RAW"


Action: TypeAlias = Republish | DynamoDBv2 | Firehose | Sns

ACTIONS: dict[str, type[Action]] = {
    "republish": Republish,
    "dynamoDBv2": DynamoDBv2,
    "firehose": Firehose,
    "sns": Sns,
}

ACTIONS_OF_AWS = frozenset(
    (
        "cloudwatchAlarm",
        "cloudwatchLogs",
        "cloudwatchMetric",
        "dynamoDB",
        "dynamoDBv2",
        "elasticsearch",
        "firehose",
        "http",
        "influxDB",
        "iotAnalytics",
        "iotEvents",
        "iotSiteWise",
        "kafka",
        "kinesis",
        "lambda",
        "location",
        "openSearch",
        "republish",
        "s3",
        "salesforce",
        "sns",
        "sqs",
        "stepFunctions",
        "timestream",
    )
)


def action(name: str, parameters: Any, version: SqlVersion) -> Action:
    """The action `name`, one of ACTIONS, from what the file says. Raises pydantic.ValidationError."""
    return ACTIONS[name].model_validate(parameters, context={"version": version})
