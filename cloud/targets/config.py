"""`[targets]` of cloud.toml: which tables, streams and topics the rules may write to.

Decides what is accepted; every limit that AWS has and a file could break is checked here, before the daemon
starts.

    [targets]
    backend = "local"

    [targets.tables.readings]
    keys = ["machine", "reading"]              # partition key, sort key

    [targets.streams.telemetry]
    size = "5MB"
    interval = "300s"

    [targets.topics.alerts]
    subscriptions = [{ webhook = "https://…" }, { mqtt = "alerts/shift-lead" }, { log = true }]
"""

from typing import Annotated, Literal
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from cloud.targets.names import DEFAULT_PREFIX, Prefix, object_name
from cloud.targets.objects import InvalidKey, check_key
from core.config import ConfigPath, Duration, Name, Section, Size
from core.topics import check_name

STREAM_SIZE_MIN = 1_024  # below this an object costs more than it carries
STREAM_SIZE_MAX = 128 * 1024 * 1024  # Firehose's limit
INTERVAL_SECONDS_MAX = 86_400  # Firehose allows 900, but a directory may well get one object a day
SUBSCRIPTIONS_MAX = 64  # over all topics: each has a task, each webhook a thread of its own

KeyName = Annotated[str, StringConstraints(min_length=1, max_length=255)]


class TableConfig(Section):
    """A table: the members of an item that are its key, the partition key and perhaps a sort key."""

    keys: Annotated[tuple[KeyName, ...], Field(min_length=1, max_length=2)]

    @field_validator("keys")
    @classmethod
    def _distinct(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(keys)) != len(keys):
            raise ValueError("partition key and sort key must be two different members")
        return keys


def _stream_size(size: int) -> int:
    if not STREAM_SIZE_MIN <= size <= STREAM_SIZE_MAX:
        raise ValueError(f"{size} bytes is outside {STREAM_SIZE_MIN:,} to {STREAM_SIZE_MAX:,} (128 MiB)")
    return size


def _interval(seconds: float) -> float:
    if seconds > INTERVAL_SECONDS_MAX:
        raise ValueError(f"{seconds:.0f} seconds is more than {INTERVAL_SECONDS_MAX:,} (a day)")
    return seconds


def _prefix(template: str) -> str:
    Prefix(template)
    return template


class StreamConfig(Section):
    """A stream: an object is written when `size` bytes are pending (before compression) or the oldest are
    `interval` old.

    `directory` is the stream's bucket, by default `streams` in the data directory.
    """

    size: Annotated[Size, AfterValidator(_stream_size)] = 5 * 1024 * 1024
    interval: Annotated[Duration, AfterValidator(_interval)] = 300.0
    compression: Literal["GZIP", "UNCOMPRESSED"] = "GZIP"
    prefix: Annotated[str, AfterValidator(_prefix)] = DEFAULT_PREFIX
    directory: ConfigPath | None = None

    @property
    def interval_ms(self) -> int:
        """`interval` in milliseconds."""
        return round(self.interval * 1000)


def _webhook(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no webhook: write http://host/path or https://host/path")
    if parts.username is not None:
        raise ValueError("a webhook's URL must not hold a user name or password")
    if parts.port == 0 or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"{url!r} is no webhook: the port is 0, or a character must be percent-encoded")
    return url


def _mqtt_topic(topic: str) -> str:
    check_name(topic)
    return topic


class Subscription(Section):
    """Where a topic's notifications go: exactly one of `webhook` (a URL), `mqtt` (a topic name) and `log` (true)."""

    webhook: Annotated[str, AfterValidator(_webhook)] | None = None
    mqtt: Annotated[str, AfterValidator(_mqtt_topic)] | None = None
    log: Literal[True] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "Subscription":
        if sum(value is not None for value in (self.webhook, self.mqtt, self.log)) != 1:
            raise ValueError('write one of { webhook = "https://…" }, { mqtt = "topic" } and { log = true }')
        return self

    @property
    def label(self) -> str:
        """What this subscription is called in the database and in lists; stays the same over restarts."""
        if self.webhook is not None:
            return f"webhook {self.webhook}"
        return "log" if self.mqtt is None else f"mqtt {self.mqtt}"

    @property
    def protocol(self) -> str:
        """The member of a JSON-format message that is meant for this subscription: http, https, mqtt or log."""
        if self.webhook is not None:
            return urlsplit(self.webhook).scheme
        return "log" if self.mqtt is None else "mqtt"


class TopicConfig(Section):
    """A topic: who is told."""

    subscriptions: tuple[Subscription, ...] = ()

    @field_validator("subscriptions")
    @classmethod
    def _distinct(cls, subscriptions: tuple[Subscription, ...]) -> tuple[Subscription, ...]:
        labels = [subscription.label for subscription in subscriptions]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"{label} is subscribed twice")
        return subscriptions


class TargetsConfig(Section):
    """All of `[targets]`."""

    backend: str = "local"
    tables: dict[Name, TableConfig] = Field(default_factory=dict)
    streams: dict[Name, StreamConfig] = Field(default_factory=dict)
    topics: dict[Name, TopicConfig] = Field(default_factory=dict)

    @field_validator("backend")
    @classmethod
    def _known_backend(cls, backend: str) -> str:
        if backend != "local":
            raise ValueError(f'{backend!r} is not supported yet; write "local" or leave it out')
        return backend

    @field_validator("streams")
    @classmethod
    def _possible_keys(cls, streams: dict[str, StreamConfig]) -> dict[str, StreamConfig]:
        for name, stream in streams.items():
            try:
                check_key(object_name(Prefix(stream.prefix), name, 1_000_000, 0, str(NAMESPACE_URL), ".gz"))
            except InvalidKey as error:
                raise ValueError(f"{name}.prefix: {error}") from None
        return streams

    @field_validator("topics")
    @classmethod
    def _few_subscriptions(cls, topics: dict[str, TopicConfig]) -> dict[str, TopicConfig]:
        total = sum(len(topic.subscriptions) for topic in topics.values())
        if total > SUBSCRIPTIONS_MAX:
            raise ValueError(f"{total} subscriptions are more than {SUBSCRIPTIONS_MAX}")
        return topics
