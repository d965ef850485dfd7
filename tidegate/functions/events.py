"""The events of a SAM function that are no rules: schedules and queues, as a version's manifest has them.

`IoTRule` events are rules (`tidegate.functions.attached`). A type that only AWS has (Api, S3, …) does nothing here, and
is warned of; a type that nobody has is an error.
"""

from collections.abc import Iterator

import orjson
from yaml.nodes import MappingNode, Node

from functions import schedules
from functions.errors import InvalidParameter
from functions.manifest import QueueSettings, QueueSource
from functions.manifest import Schedule as Timed
from functions.schedules import ScheduleError
from rules.actions.fields import did_you_mean
from rules.files import arns
from rules.files.arns import Account, is_bare
from rules.files.document import member
from rules.files.intrinsics import kind
from tidegate.functions import properties
from tidegate.functions.faults import Complaints

_ABROAD = {
    "Api": "call the function over HTTP with Lambda's Invoke API (docs/http.md)",
    "HttpApi": "call the function over HTTP with Lambda's Invoke API (docs/http.md)",
    "SNS": "write an IoTRule or SQS event",
}

_QUEUE = "AWS::SQS::Queue"
_SETTINGS = ("RedrivePolicy", "VisibilityTimeout")


class Events:
    """Reads the events of one function, named `whose` in its template; complaints go to `complaints`."""

    def __init__(self, complaints: Complaints, account: Account, whose: str) -> None:
        self.schedules: list[Timed] = []
        self.queues: list[QueueSource] = []
        self._complaints = complaints
        self._account = account
        self._whose = whose

    def read(self, events: Node) -> None:
        """Read the mapping of events."""
        for event_id, event in self._complaints.entries(events):
            name = kind(event)
            written = member(event, "Properties")
            if written is None and name != "":
                self._complaints.error(f"Events.{event_id}: Properties is missing", event)
            elif name in ("Schedule", "ScheduleV2"):
                self._schedule(event_id, name, written)
            elif name == "SQS":
                self._queue(event_id, written)
            elif name != "IoTRule":
                self._other(event_id, name, event)

    def _other(self, event_id: str, name: str, event: Node) -> None:
        if name in properties.EVENT_TYPES:
            more = f"; {_ABROAD[name]}" if name in _ABROAD else ""
            self._complaints.warning(f"Events.{event_id}: {name} events do not come here{more}", event)
        elif not name:
            self._complaints.error(f"Events.{event_id}: Type is missing", event)
        else:
            near = did_you_mean(name, properties.EVENT_TYPES)
            at = member(event, "Type")
            assert at is not None
            self._complaints.error(f"Events.{event_id}: there is no event of the type {name[:40]!r}{near}", at)

    def _schedule(self, event_id: str, name: str, written: Node | None) -> None:
        assert written is not None
        place = f"Events.{event_id}"
        if name == "Schedule":
            first = self._complaints.validated(properties.Schedule, written, place)
            if first is None:
                return
            called, expression, timezone, text = first.name, first.schedule, "UTC", first.input
            enabled = first.state != "DISABLED" and first.enabled is not False
        else:
            second = self._complaints.validated(properties.ScheduleV2, written, place)
            if second is None:
                return
            called, expression, timezone, text = (
                second.name, second.schedule_expression, second.schedule_expression_timezone, second.input,
            )  # fmt: skip
            enabled = second.state == "ENABLED"
        key = "Schedule" if name == "Schedule" else "ScheduleExpression"
        self._check(f"{place}.{key}", member(written, key) or written, expression)
        try:
            schedules.zone(timezone)
        except InvalidParameter as error:
            at = member(written, "ScheduleExpressionTimezone")
            self._complaints.error(f"{place}.ScheduleExpressionTimezone: {error}", at)
        if text is not None and not _is_json(text):
            self._complaints.error(f"{place}.Input: must be JSON, as text", member(written, "Input") or written)
        self.schedules.append(
            Timed(
                name=called or f"{self._whose}{event_id}", expression=expression, timezone=timezone, input=text,
                enabled=enabled,
            )
        )  # fmt: skip

    def _check(self, place: str, at: Node, expression: str) -> None:
        try:
            schedules.parse(expression)
        except ScheduleError as error:
            self._complaints.error(f"{place}: {error}", at, error.position)

    def _queue(self, event_id: str, written: Node | None) -> None:
        assert written is not None
        place = f"Events.{event_id}"
        if member(written, "FilterCriteria") is not None:
            at = member(written, "FilterCriteria")
            reason = "is not there: the function would get every message; filter in a rule, or in the handler"
            self._complaints.error(f"{place}.FilterCriteria {reason}", at)
            written = without(written, {"FilterCriteria"})
        found = self._complaints.validated(properties.SqsEvent, written, place)
        if found is None:
            return
        queue = self._account.fill(arns.QUEUE, found.queue) if is_bare(found.queue) else found.queue
        if found.batch_size > 10 and found.maximum_batching_window_in_seconds == 0:
            reason = "more than 10 need MaximumBatchingWindowInSeconds, as in Lambda"
            self._complaints.error(f"{place}.BatchSize: {reason}", member(written, "BatchSize") or written)
            return
        self.queues.append(
            QueueSource(
                queue=queue, batch_size=found.batch_size, window=float(found.maximum_batching_window_in_seconds),
                report_failures=bool(found.function_response_types), enabled=found.enabled,
                settings=self._settings(queue),
            )
        )  # fmt: skip

    def _settings(self, queue: str) -> QueueSettings | None:
        """What the template says of a queue; None when it has no such."""
        reader = self._complaints.reader
        for logical_id, resource in reader.resources.items():
            if kind(resource) != _QUEUE or self._account.fill(arns.QUEUE, reader.name(logical_id)) != queue:
                continue
            written = member(resource, "Properties")
            kept = [] if not isinstance(written, MappingNode) else [x for x in written.value if x[0].value in _SETTINGS]
            node = MappingNode(resource.tag, kept, resource.start_mark, resource.end_mark)
            found = self._complaints.validated(properties.Queue, node, logical_id)
            if found is None:
                return None
            redrive = found.redrive_policy
            if redrive is None:
                return QueueSettings(visibility=found.visibility_timeout)
            return QueueSettings(
                visibility=found.visibility_timeout, max_receives=redrive.max_receive_count,
                dead_letter=redrive.dead_letter_target_arn,
            )  # fmt: skip
        return None


def without(node: Node, keys: set[str] | frozenset[str]) -> Node:
    """A mapping without some of its keys."""
    if not isinstance(node, MappingNode):
        return node
    kept = [(key, value) for key, value in node.value if key.value not in keys]
    return MappingNode(node.tag, kept, node.start_mark, node.end_mark)


def taken(node: Node) -> Iterator[tuple[str, Node]]:
    """Key and value of each entry of a mapping with plain keys."""
    if isinstance(node, MappingNode):
        yield from ((key.value, value) for key, value in node.value if isinstance(key.value, str))


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
