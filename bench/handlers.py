"""The functions that `bench.functions` measures, and how they are deployed: as `tidegate functions deploy` would.

All of them are in one library, each behind a rule of its own, so that one edge runs all and a rule calls one. What a
handler publishes is what `bench.paho_script` publishes, byte for byte, so that both can be compared.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from functions.manifest import Manifest
from functions.packages.errors import BadPackage
from functions.packages.library import Draft, Library

RUNTIME = f"python3.{sys.version_info.minor}"  # this program's, so that nothing is compared across versions
TELEMETRY, ALARM = "floor/line/{}/telemetry", "floor/alarm/{}"  # in no lane of the edge: no message is stored
EVENTS_MAX = 1_000_000  # that wait for one function

OUTPUT = '{"reading": event["reading"], "time": event["time"], "value": event["temperature"]}'
SENT = f'topic="floor/alarm/" + event["machine"], payload=json.dumps({OUTPUT}, separators=(",", ":"))'
RETURNING = f"""
def handler(event, context):
    return {OUTPUT}
"""
PUBLISHING = f"""
import json
import MODULE
iot = MODULE.client("iot-data")
def handler(event, context):
    iot.publish({SENT})
"""
TRIVIAL = """
def handler(event, context):
    return event["reading"]
"""
IMPORTS = "datetime, decimal, json, logging"
STANDARD_LIBRARY = f"""
import {IMPORTS}
def handler(event, context):
    return {{"value": str(decimal.Decimal(str(event["temperature"])))}}
"""


@dataclass(frozen=True, slots=True)
class Handler:
    """A function: `hears` is the topic filter of its rule, empty where only requests call it."""

    name: str
    code: str
    hears: str = ""
    requirements: tuple[str, ...] = ()
    on_success: str | None = None
    variables: tuple[tuple[str, str], ...] = ()

    def manifest(self) -> Manifest:
        """One worker, as the comparison wants it."""
        return Manifest(
            name=self.name,
            version=1,
            runtime=RUNTIME,
            handler="app.handler",
            concurrency=1,
            queue_events=EVENTS_MAX,
            on_success=self.on_success,
            environment=dict(self.variables),
        )

    def rules(self) -> str | None:
        """Its rule, as a rules file."""
        if not self.hears:
            return None
        sql = f"SELECT *, topic(3) AS machine FROM '{self.hears}' WHERE temperature > 0"
        rule = {"awsIotSqlVersion": "2016-03-23", "sql": sql, "actions": [{"lambda": {"functionArn": self.name}}]}
        return json.dumps({f"Bench{self.name}": rule})


def _publishing(name: str, module: str, requirement: str) -> Handler:
    return Handler(name, PUBLISHING.replace("MODULE", module), TELEMETRY.format(name), (requirement,))


REACTING = (
    Handler(
        "destination",
        RETURNING,
        TELEMETRY.format("destination"),
        on_success=f"arn:aws:iot:us-east-1:000000000000:topic/{ALARM.format('destination')}",
    ),
    _publishing("greengrasssdk", "greengrasssdk", "greengrasssdk==1.6.1"),
    _publishing("boto3", "boto3", "boto3"),
)
BURSTS = (
    Handler("fast", TRIVIAL, "floor/fast/+/telemetry"),
    Handler(
        "aws", TRIVIAL, "floor/aws/+/telemetry", ("awslambdaric",), variables=(("TIDEGATE_RUNTIME_CLIENT", "aws"),)
    ),
)
STARTING = Handler("cold", STANDARD_LIBRARY)


def topics(handler: Handler) -> str:
    """The topics that its rule hears, for a client by its name."""
    return handler.hears.replace("+", "{}")


def deploy(directory: Path, handlers: tuple[Handler, ...], skipped: Callable[[str], None]) -> list[Handler]:
    """Deploy what can be deployed; `skipped` is told of a handler whose packages cannot be installed, and why."""
    library, deployed = Library(directory), []
    for handler in handlers:
        source = directory.with_name("source") / handler.name
        source.mkdir(parents=True, exist_ok=True)
        (source / "app.py").write_text(handler.code)
        draft = Draft(handler.manifest(), source, requirements=handler.requirements, rules=handler.rules())
        try:
            library.install(draft)
        except BadPackage as error:
            skipped(f"{handler.name} is left out: {str(error).splitlines()[-1]}")
            continue
        deployed.append(handler)
    return deployed
