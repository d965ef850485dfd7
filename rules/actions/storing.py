"""Actions that keep the output: in a table, an object, a stream, a search index, a database of time series."""

import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from rules.actions.fields import (
    NO_TEMPLATE,
    Begins,
    Count,
    Name,
    OneOf,
    OutputText,
    Parameters,
    Plain,
    RoleAction,
    Several,
    Text,
    at_most,
    numeric,
    when_constant,
)

KeyType = Literal["STRING", "NUMBER"]

_DATABASE = r'^[^_"][^"]+$'
_DIMENSIONS_TAKEN = re.compile(r"measure_name|measure_value.*|time|ts_.*|.*:.*", re.DOTALL)


def _dimension(name: str) -> str:
    if _DIMENSIONS_TAKEN.fullmatch(name):
        raise ValueError("cannot be the name of a dimension: Timestream keeps it for itself")
    return name


def _not_hidden(name: str) -> str | None:
    return "must not begin with _" if name.startswith("_") else None


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────


class DynamoDB(RoleAction):
    """Put the output into one column, `payloadField`, of an item whose key the action says."""

    name: ClassVar[str] = "dynamoDB"
    table_name: Text
    hash_key_field: Text
    hash_key_value: Text
    hash_key_type: KeyType = "STRING"
    range_key_field: Text | None = None
    range_key_value: Text | None = None
    range_key_type: KeyType = "STRING"
    payload_field: Text | None = None
    operation: Annotated[Text, OneOf("INSERT", "UPDATE", "DELETE")] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.range_key_field is None) != (self.range_key_value is None):
            raise ValueError("rangeKeyField and rangeKeyValue go together")
        return self


class PutItem(Parameters):
    """Where `dynamoDBv2` puts its item."""

    table_name: Name


class DynamoDBv2(RoleAction):
    """Put the output, an object that holds the table's key, as one item; each member is an attribute."""

    name: ClassVar[str] = "dynamoDBv2"
    put_item: PutItem


# ── objects and streams ─────────────────────────────────────────────────────────────────────────────────────


class S3(RoleAction):
    """Write the output as an object; a key that stays the same overwrites."""

    name: ClassVar[str] = "s3"
    bucket_name: Text
    key: Text
    canned_acl: (
        Literal[
            "private",
            "public-read",
            "public-read-write",
            "aws-exec-read",
            "authenticated-read",
            "bucket-owner-read",
            "bucket-owner-full-control",
            "log-delivery-write",
        ]
        | None
    ) = None


class Firehose(RoleAction):
    """Append the output to a stream; with `batchMode`, each element of an output that is an Array."""

    name: ClassVar[str] = "firehose"
    delivery_stream_name: Name
    separator: Literal["\n", "\t", "\r\n", ","] | None = None
    batch_mode: bool = False


class Kinesis(RoleAction):
    """Put the output as one record of a stream."""

    name: ClassVar[str] = "kinesis"
    stream_name: Text
    partition_key: Text | None = None


class IotAnalytics(RoleAction):
    """Send the output to a channel of IoT Analytics; with `batchMode`, each element of an Array (at most 100)."""

    name: ClassVar[str] = "iotAnalytics"
    channel_name: Text | None = None
    channel_arn: Plain | None = None
    batch_mode: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.channel_name is None) == (self.channel_arn is None):
            raise ValueError("needs channelName (or channelArn, which is its old form, and not both)")
        return self


# ── search ──────────────────────────────────────────────────────────────────────────────────────────────────


class OpenSearch(RoleAction):
    """Index the output as the document `id`."""

    name: ClassVar[str] = "openSearch"
    endpoint: Annotated[Text, Begins("https://", "http://")]
    index: Text
    type: Text
    id: Text


class Elasticsearch(OpenSearch):
    """The old name of `openSearch`."""

    name: ClassVar[str] = "elasticsearch"


# ── time series ─────────────────────────────────────────────────────────────────────────────────────────────


class Dimension(Parameters):
    """What a record of Timestream is about."""

    name: Annotated[Plain, AfterValidator(_dimension)]
    value: Text


class TimestreamTime(Parameters):
    """When a record was measured."""

    value: Annotated[Text, numeric(whole=True)]
    unit: Annotated[Text, OneOf("SECONDS", "MILLISECONDS", "MICROSECONDS", "NANOSECONDS")]


class Timestream(RoleAction):
    """Write one record per member of the output; `timestamp` is the time of processing unless given."""

    name: ClassVar[str] = "timestream"
    database_name: Text
    table_name: Text
    dimensions: Annotated[Several[Dimension], Count(1, 128)]
    timestamp: TimestreamTime | None = None


class InfluxBatch(Parameters):
    """When a batch of points is written."""

    max_batch_size: Annotated[int, Field(ge=1, le=500)] | None = None
    max_batch_open_ms: Annotated[int, Field(ge=5, le=1_000)] | None = None
    max_batch_size_bytes: Annotated[int, Field(ge=100, le=131_072)] | None = None
    batch_across_topics: bool | None = None


TagName = Annotated[str, StringConstraints(max_length=256, pattern="^[^_]")]
TagValue = Annotated[OutputText, at_most(1_024)]


class InfluxDB(RoleAction):
    """Write the output, or each element of an Array, as one point; `@{field}` is a member of that element."""

    name: ClassVar[str] = "influxDB"
    destination_arn: Plain
    database_name: Annotated[str, StringConstraints(min_length=2, max_length=64, pattern=_DATABASE), NO_TEMPLATE]
    table_name: Annotated[OutputText, at_most(1_024), when_constant(_not_hidden)]
    organization: Annotated[str, StringConstraints(min_length=1, max_length=64), NO_TEMPLATE] | None = None
    tags: Annotated[dict[TagName, TagValue], Field(max_length=498)] | None = None
    timestamp_unit: Literal["s", "ms", "us", "ns"] = "ms"
    batch_config: InfluxBatch | None = None
