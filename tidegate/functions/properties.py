"""What may stand in a SAM template's function: `AWS::Serverless::Function`'s properties and `Metadata: Tidegate:`.

Shapes only, with SAM's names, ranges and defaults (AWS SAM developer guide); what they mean for a version here decides
`tidegate.functions.template`. CloudFormation takes `"3"` for 3 and `"true"` for true, so these models do too.

Three kinds of properties: those that are read (fields), those that say nothing on a box of one's own (IGNORED: roles,
tags, tracing), and those that a handler would miss (NOTED: each has a warning). Any other is an error.
"""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator
from pydantic.alias_generators import to_pascal

from core.topics import check_filter, check_name
from functions.manifest import CONCURRENCY_MAX, MAX_AGE_MAX, MAX_AGE_MIN, QUEUE_EVENTS_MAX, RETRIES, TIMEOUT_MAX
from functions.runtimes import RESERVED, is_provided, node_version, python_version

HANDLER_CHARS_MAX = 128  # Lambda's quota
LAYERS_MAX = 5  # Lambda's quota
VARIABLE = re.compile(r"[a-zA-Z][a-zA-Z0-9_]+", re.ASCII)  # Lambda's API
TOPICS_MAX = 50  # AWS IoT takes as many subscriptions from one connection

NOTED = {
    "DurableConfig": "durable execution is not there; each attempt starts afresh",
    "FileSystemConfigs": "no file system is mounted; put what the handler reads into the package or a layer",
    "FunctionUrlConfig": "there is no function URL; call it over HTTP with Lambda's Invoke API (docs/http.md)",
    "VpcConfig": "there is no VPC; `Metadata: {Tidegate: {Network: true}}` gives it this machine's network",
}
EVENT_TYPES = (
    "AlexaSkill", "Api", "CloudWatchEvent", "CloudWatchLogs", "Cognito", "DocumentDB", "DynamoDB", "EventBridgeRule",
    "HttpApi", "IoTRule", "Kinesis", "MQ", "MSK", "S3", "SNS", "SQS", "Schedule", "ScheduleV2", "SelfManagedKafka",
    "WebSocket",
)  # fmt: skip


class Properties(BaseModel):
    """A mapping of SAM: its names, nothing else; what is IGNORED below is taken out before it is read."""

    IGNORED: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_pascal, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _not_null(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("is empty: write a value, or leave the key out")
        return value


class Environment(Properties):
    """Variables of the handler's environment, by name."""

    variables: dict[str, str] = Field(default_factory=dict)

    @field_validator("variables")
    @classmethod
    def _free(cls, variables: dict[str, str]) -> dict[str, str]:
        return free(variables)


class EphemeralStorage(Properties):
    """The size of /tmp in MB."""

    size: Annotated[int, Field(ge=512, le=10_240)] = 512


class LoggingConfig(Properties):
    """How the handler's logging writes; a log group is not chosen here, and platform lines are always there."""

    log_format: Literal["JSON", "Text"] = "Text"
    application_log_level: Literal["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"] | None = None
    system_log_level: Any = None  # neither of these two is looked at
    log_group: Any = None

    @property
    def variables(self) -> dict[str, str]:
        """What Lambda tells a runtime of it; nothing when nothing was chosen."""
        said: dict[str, str] = {}
        if "log_format" in self.model_fields_set:
            said["AWS_LAMBDA_LOG_FORMAT"] = self.log_format
        if self.application_log_level is not None:
            said["AWS_LAMBDA_LOG_LEVEL"] = self.application_log_level
        return said


class RedrivePolicy(Properties):
    """Where messages go that were received too often; its keys begin with small letters (AWS::SQS::Queue)."""

    dead_letter_target_arn: Annotated[str, Field(alias="deadLetterTargetArn")]
    max_receive_count: Annotated[int, Field(alias="maxReceiveCount", ge=1, le=1_000)]


class Queue(Properties):
    """What is read of an `AWS::SQS::Queue` that a function is given."""

    visibility_timeout: Annotated[int, Field(ge=0, le=43_200)] = 30
    redrive_policy: RedrivePolicy | None = None


class DeadLetterQueue(Properties):
    """Where an event goes, unchanged, that no attempt could handle."""

    type: Literal["SQS", "SNS"]
    target_arn: str


class Destination(Properties):
    """Where the record of an invocation goes; without `destination`, SAM makes one, and so is one named here."""

    type: str
    destination: str | None = None

    @field_validator("type")
    @classmethod
    def _there(cls, kind: str) -> str:
        if kind not in ("SQS", "SNS", "Lambda"):
            more = "; a topic of MQTT goes into Metadata.Tidegate (OnSuccessTopic, OnFailureTopic)"
            raise ValueError(f"there is no {kind[:40]!r} here; write SQS, SNS or Lambda{more}")
        return kind


class DestinationConfig(Properties):
    """By how the invocation ended."""

    on_success: Destination | None = None
    on_failure: Destination | None = None


class EventInvokeConfig(Properties):
    """What asynchronous invocations may take, and who is told of their end."""

    maximum_event_age_in_seconds: Annotated[int, Field(ge=MAX_AGE_MIN, le=MAX_AGE_MAX)] = MAX_AGE_MAX
    maximum_retry_attempts: Annotated[int, Field(ge=0, le=2)] = RETRIES
    destination_config: DestinationConfig = DestinationConfig()


class Function(Properties):
    """The properties of a function that are read."""

    IGNORED = frozenset((
        "AssumeRolePolicyDocument", "AutoPublishAliasAllProperties", "AutoPublishCodeSha256", "CapacityProviderConfig",
        "CodeSigningConfigArn", "DeploymentPreference", "KmsKeyArn", "PermissionsBoundary", "Policies",
        "PropagateTags", "ProvisionedConcurrencyConfig", "PublishToLatestPublished", "RecursiveLoop", "Role",
        "RolePath", "RuntimeManagementConfig", "SnapStart", "SourceKMSKeyArn", "Tags", "Tracing",
        "VersionDeletionPolicy", "VersionDescription",
    ))  # fmt: skip

    function_name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")] | None = None
    description: Annotated[str, StringConstraints(max_length=256)] = ""
    package_type: Literal["Zip"] = "Zip"
    inline_code: Annotated[str, StringConstraints(min_length=1)] | None = None
    handler: Annotated[str, StringConstraints(min_length=1, max_length=HANDLER_CHARS_MAX)]
    runtime: str
    timeout: Annotated[int, Field(ge=1, le=TIMEOUT_MAX)] = 3
    memory_size: Annotated[int, Field(ge=128, le=10_240)] = 128
    ephemeral_storage: EphemeralStorage = EphemeralStorage()
    environment: Environment = Environment()
    logging_config: LoggingConfig = LoggingConfig()
    architectures: Annotated[tuple[Literal["x86_64", "arm64"], ...], Field(min_length=1, max_length=1)] | None = None
    reserved_concurrent_executions: Annotated[int, Field(ge=0)] | None = None
    auto_publish_alias: Annotated[str, StringConstraints(pattern=r"^(?:[0-9]*[a-zA-Z_-]+[0-9]*)+$")] | None = None
    dead_letter_queue: DeadLetterQueue | None = None
    event_invoke_config: EventInvokeConfig = EventInvokeConfig()

    @field_validator("runtime")
    @classmethod
    def _runs(cls, runtime: str) -> str:
        return known_runtime(runtime)


class Tidegate(Properties):
    """`Metadata: Tidegate:` of a function: what Lambda has no word for. See docs/functions.md."""

    KEY: ClassVar[str] = "Tidegate"

    pinned: bool = False
    concurrency: Annotated[int, Field(ge=0, le=CONCURRENCY_MAX)] | None = None
    queue_events: Annotated[int, Field(ge=1, le=QUEUE_EVENTS_MAX)] | None = None
    environment_secrets: dict[str, str] = Field(default_factory=dict)
    network: bool = False
    topics: Annotated[tuple[str, ...], Field(max_length=TOPICS_MAX)] = ()
    encoding: Literal["json", "binary"] = "json"
    memory_size: Annotated[int, Field(ge=16, le=10_240)] | None = None
    requirements: str | None = None
    on_success_topic: str | None = None
    on_failure_topic: str | None = None

    @field_validator("topics")
    @classmethod
    def _filters(cls, topics: tuple[str, ...]) -> tuple[str, ...]:
        for topic in topics:
            check_filter(topic)
            if topic.startswith("$share/"):
                raise ValueError(f"{topic!r} is a shared subscription; write the topic filter itself")
        return topics

    @field_validator("on_success_topic", "on_failure_topic")
    @classmethod
    def _topic(cls, topic: str | None) -> str | None:
        if topic is not None:
            check_name(topic)
        return topic

    @field_validator("environment_secrets")
    @classmethod
    def _free(cls, secrets: dict[str, str]) -> dict[str, str]:
        return free(secrets)


class Schedule(Properties):
    """An event of EventBridge's rules: `rate(5 minutes)`, `cron(0 6 * * ? *)`, in UTC."""

    IGNORED = frozenset(("DeadLetterConfig", "RetryPolicy", "RoleArn"))

    schedule: str
    name: str | None = None
    description: str = ""
    enabled: bool | None = None
    state: Literal["ENABLED", "DISABLED"] | None = None
    input: str | None = None

    @model_validator(mode="after")
    def _one_state(self) -> "Schedule":
        if self.enabled is not None and self.state is not None:
            raise ValueError("has Enabled and State; write one of them")
        return self


class ScheduleV2(Properties):
    """An event of EventBridge Scheduler, which knows time zones and `at(…)` too; flexible ones come on time."""

    IGNORED = Schedule.IGNORED | {
        *("FlexibleTimeWindow", "GroupName", "KmsKeyArn", "OmitName", "PermissionsBoundary", "PhysicalResourceId"),
    }

    schedule_expression: str
    schedule_expression_timezone: str = "UTC"
    name: str | None = None
    description: str = ""
    state: Literal["ENABLED", "DISABLED"] = "ENABLED"
    input: str | None = None


class SqsEvent(Properties):
    """An event source mapping: the messages of a queue, in batches, one batch at a time."""

    IGNORED = frozenset(("KmsKeyArn", "MetricsConfig", "ProvisionedPollerConfig", "ScalingConfig"))

    queue: str
    batch_size: Annotated[int, Field(ge=1, le=10_000)] = 10
    enabled: bool = True
    maximum_batching_window_in_seconds: Annotated[int, Field(ge=0, le=300)] = 0
    function_response_types: tuple[Literal["ReportBatchItemFailures"], ...] = ()


def known_runtime(runtime: str) -> str:
    """The runtime, when it runs here. Raises ValueError."""
    if python_version(runtime) or node_version(runtime) or is_provided(runtime):
        return runtime
    reason = f"{runtime[:40]!r} does not run here; there are python3.x, nodejsNN.x, and provided.al2023 for any program"
    if runtime.startswith("python2"):
        reason += "; Python 2 has ended: write python3.11, and in the handler what that changes"
    raise ValueError(reason)


def free(variables: dict[str, str]) -> dict[str, str]:
    """The variables, when a function may have them. Raises ValueError."""
    for name in variables:
        if not VARIABLE.fullmatch(name):
            reason = "a variable's name is a letter and then letters, digits and _, at least one, as in Lambda"
            raise ValueError(f"{name[:40]!r}: {reason}")
    if taken := sorted(variables.keys() & RESERVED):
        raise ValueError(f"{', '.join(taken)}: Lambda sets it itself; choose another name")
    return variables
