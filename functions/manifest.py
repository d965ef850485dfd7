"""What is known of one version of a function: `manifest.json` beside its code, written at deploy and never changed.

Names are ours, values are Lambda's (seconds, MB). Everything a daemon needs to run the version stands here or in the
directories beside; no template is read again.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from core.config import Section

TIMEOUT_MAX = 900  # seconds (Lambda quotas)
MEMORY_MB = 128
MEMORY_MB_MIN, MEMORY_MB_MAX = 16, 10_240  # Greengrass V1's default, Lambda's maximum
CONCURRENCY_MAX = 64  # processes; a box of four cores gains nothing beyond
QUEUE_EVENTS, QUEUE_EVENTS_MAX = 10_000, 1_000_000
MAX_AGE_MIN, MAX_AGE_MAX = 60, 21_600  # seconds (Lambda)
RETRIES = 2
ENVIRONMENT_BYTES_MAX = 4_096  # of all variables (Lambda quotas)

NameText = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
AliasText = Annotated[  # as functions.names.is_alias: not digits alone, which would be a version
    str, StringConstraints(pattern=r"^[0-9]*[a-zA-Z_-][a-zA-Z0-9_-]*$", max_length=128)
]
Arn = Annotated[str, StringConstraints(min_length=1, max_length=2_048)]


class Schedule(Section):
    """An event at certain times; `input` is the event as JSON text, else EventBridge's scheduled event."""

    name: str
    expression: str  # rate(…), cron(…) or at(…), see functions.schedules
    timezone: str = "UTC"
    input: str | None = None
    enabled: bool = True


class QueueSettings(Section):
    """What a template says of a queue: seconds of `visibility`, and the `dead_letter` queue after `max_receives`."""

    visibility: Annotated[int, Field(ge=0, le=43_200)] = 30
    max_receives: Annotated[int, Field(ge=0, le=1_000)] = 0
    dead_letter: str = ""


class QueueSource(Section):
    """A queue whose messages the function is given, as an event source mapping does; `window` is seconds."""

    queue: Arn
    batch_size: Annotated[int, Field(ge=1, le=10_000)] = 10
    window: Annotated[float, Field(ge=0, le=300)] = 0.0
    report_failures: bool = False  # FunctionResponseTypes: [ReportBatchItemFailures]
    enabled: bool = True
    settings: QueueSettings | None = None  # as they were; a queue that the template does not have keeps its own


class Manifest(Section):
    """One version. `topics` are MQTT topic filters whose messages are events, as Greengrass V1's subscriptions are.

    `environment_secrets` maps variables to names of secrets, read when a worker starts. `network` gives workers the
    machine's network. `encoding` "binary" gives the handler bytes where "json" gives it the parsed payload.
    `on_success`, `on_failure` and `dead_letter` are ARNs: of a function, a queue, an SNS topic, or of an MQTT topic
    (arn:aws:iot:REGION:ACCOUNT:topic/NAME). `python` is the interpreter of a Python runtime, `site_packages` whether
    `site-packages` beside the code has what requirements.txt named.
    """

    name: NameText
    version: Annotated[int, Field(ge=1, le=999_999_999)]
    runtime: str
    handler: str
    description: str = ""
    architecture: str = ""
    timeout: Annotated[int, Field(ge=1, le=TIMEOUT_MAX)] = 3
    memory_mb: Annotated[int, Field(ge=MEMORY_MB_MIN, le=MEMORY_MB_MAX)] = MEMORY_MB
    tmp_mb: Annotated[int, Field(ge=1, le=10_240)] = 512
    environment: dict[str, str] = Field(default_factory=dict)
    environment_secrets: dict[str, str] = Field(default_factory=dict)
    encoding: Literal["json", "binary"] = "json"
    pinned: bool = False
    network: bool = False
    concurrency: Annotated[int, Field(ge=0, le=CONCURRENCY_MAX)] = 2
    queue_events: Annotated[int, Field(ge=1, le=QUEUE_EVENTS_MAX)] = QUEUE_EVENTS
    retries: Annotated[int, Field(ge=0, le=2)] = RETRIES
    max_age: Annotated[int, Field(ge=MAX_AGE_MIN, le=MAX_AGE_MAX)] = MAX_AGE_MAX
    on_success: Arn | None = None
    on_failure: Arn | None = None
    dead_letter: Arn | None = None
    topics: tuple[str, ...] = ()
    schedules: tuple[Schedule, ...] = ()
    queues: tuple[QueueSource, ...] = ()
    alias: AliasText | None = None  # AutoPublishAlias: moved to this version when it is deployed
    layers: int = 0
    python: str | None = None
    site_packages: bool = False
    code_sha256: str = ""
    code_bytes: int = 0
    created_ms: int = 0

    @model_validator(mode="after")
    def _bounded_environment(self) -> "Manifest":
        size = sum(len(name.encode()) + len(value.encode()) for name, value in self.environment.items())
        if size > ENVIRONMENT_BYTES_MAX:
            raise ValueError(f"environment: {size:,} bytes; Lambda takes {ENVIRONMENT_BYTES_MAX:,}")
        return self
