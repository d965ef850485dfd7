"""What a rule does with its output: the parameters of each action that AWS IoT Core has, checked and typed.

Names are AWS's (`targetArn`, `deliveryStreamName`), so files move to and from AWS IoT Core unchanged; `roleArn`,
which AWS requires, is accepted and means nothing here. Models are strict and frozen. Nothing is run here: the
edge and the cloud each run the actions they support, and refuse files that need others.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from rules.actions.fields import Action, Setting
from rules.actions.measuring import CloudwatchAlarm, CloudwatchLogs, CloudwatchMetric, IotSiteWise, Location
from rules.actions.messaging import Http, IotEvents, Kafka, Lambda, Republish, Salesforce, Sns, Sqs, StepFunctions
from rules.actions.storing import (
    S3,
    DynamoDB,
    DynamoDBv2,
    Elasticsearch,
    Firehose,
    InfluxDB,
    IotAnalytics,
    Kinesis,
    OpenSearch,
    Timestream,
)
from rules.sql.template import Template

__all__ = [
    "ACTIONS",
    "CLOUD_ACTIONS",
    "EDGE_ACTIONS",
    "S3",
    "Action",
    "CloudwatchAlarm",
    "CloudwatchLogs",
    "CloudwatchMetric",
    "DynamoDB",
    "DynamoDBv2",
    "Elasticsearch",
    "Firehose",
    "Http",
    "InfluxDB",
    "IotAnalytics",
    "IotEvents",
    "IotSiteWise",
    "Kafka",
    "Kinesis",
    "Lambda",
    "Location",
    "OpenSearch",
    "Republish",
    "Salesforce",
    "Setting",
    "Sns",
    "Sqs",
    "StepFunctions",
    "Timestream",
    "action",
    "parameters",
    "templates",
]

_CLASSES: tuple[type[Action], ...] = (
    *(Republish, Lambda, DynamoDB, DynamoDBv2, S3, Sns, Sqs, Kinesis, Firehose, Http, Kafka, Timestream, InfluxDB),
    *(CloudwatchMetric, CloudwatchAlarm, CloudwatchLogs, StepFunctions, OpenSearch, Elasticsearch),
    *(IotEvents, IotAnalytics, IotSiteWise, Location, Salesforce),
)
ACTIONS: dict[str, type[Action]] = {action.name: action for action in _CLASSES}

# What each side can do for a rule.
EDGE_ACTIONS = frozenset({"republish", "lambda"})
CLOUD_ACTIONS = frozenset({"republish", "lambda", "dynamoDBv2", "firehose", "sns"})


def action(name: str, written: Any, setting: Setting, *, strict: bool | None = None) -> Action:
    """The action `name`, one of ACTIONS, from what the file says. Raises pydantic.ValidationError.

    `strict` False: numbers, true and false may be written as texts.
    """
    return ACTIONS[name].model_validate(written, strict=strict, context=setting)


def parameters(action: Action) -> dict[str, Any]:
    """What a file has to say for this action: JSON values, nothing that the file left out."""
    return action.model_dump(mode="json", by_alias=True, exclude_unset=True)


def templates(action: Action) -> dict[str, Template]:
    """Every template of an action by where it stands: `topic`, `headers.userProperties[0].value`."""
    return dict(_templates(action, ""))


def _templates(value: Any, place: str) -> Iterator[tuple[str, Template]]:
    if isinstance(value, Template):
        yield place, value
    elif isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            yield from _templates(getattr(value, name), f"{place}.{field.alias}" if place else str(field.alias))
    elif isinstance(value, dict):
        for key, below in value.items():
            yield from _templates(below, f"{place}.{key}")
    elif isinstance(value, tuple):
        for position, below in enumerate(value):
            yield from _templates(below, f"{place}[{position}]")
