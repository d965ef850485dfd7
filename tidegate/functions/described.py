"""One function of a SAM template: its properties as the manifest of a version, and where its code is.

Decides what SAM's words mean on a box: names become ARNs, paths become files that are there, what cannot be done here
is refused with what to write instead. `tidegate.functions.properties` has the shapes.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from yaml.nodes import MappingNode, Node, SequenceNode

from core.errors import ConfigurationError
from core.faults import describe
from functions.manifest import CONCURRENCY_MAX, Manifest
from rules.files import arns
from rules.files.arns import Account, is_bare
from rules.files.document import member
from rules.files.intrinsics import function, is_no_value, kind
from tidegate.functions import properties
from tidegate.functions.events import Events, taken, without
from tidegate.functions.faults import Complaints

INLINE = ("python", "nodejs")  # runtimes whose code may stand in the template
MQTT_TOPIC = "arn:{partition}:iot:{region}:{account_id}:topic/{name}"

_LAYER = "AWS::Serverless::LayerVersion"
_DESTINATIONS = {"SQS": arns.QUEUE, "SNS": arns.TOPIC, "Lambda": arns.FUNCTION}
_SKIPPED = frozenset(("CodeUri", "Events", "Layers"))  # read apart


@dataclass(slots=True)
class Described:
    """One function as its template says: what goes into its manifest, and where its code is.

    `code` is a directory, a zip, or the text of InlineCode; None when it could not be found.
    """

    logical_id: str
    name: str
    facts: dict[str, Any] = field(default_factory=dict)  # of functions.manifest.Manifest
    code: Path | str | None = None
    layers: list[Path] = field(default_factory=list)
    requirements: Path | None = None
    rules: str | None = None

    def manifest(self) -> Manifest:
        """The manifest, with a version that is still to be given. Raises ConfigurationError."""
        facts = {**self.facts, "name": self.name, "version": 1}
        try:
            return Manifest.model_validate(facts)
        except ValidationError as error:
            raise ConfigurationError(self.name, describe(error, facts, Manifest)) from None


class FunctionReader:
    """Reads one function of a template that lies in `directory`."""

    def __init__(
        self, complaints: Complaints, directory: Path, account: Account, logical_id: str, name: str
    ) -> None:
        self._complaints = complaints
        self._directory = directory
        self._account = account
        self._found = Described(logical_id, name)

    def read(self, resource: Node, merged: MappingNode) -> Described:
        """The function whose properties, with the template's defaults, are `merged`; complains about what is wrong."""
        condition, written = member(resource, "Condition"), member(resource, "Properties")
        if condition is not None:
            reason = "whether a function with a Condition exists is known when a stack is created; take it away"
            self._complaints.error(reason, condition)
        if not isinstance(written, MappingNode):
            self._complaints.error(f"{self._found.logical_id}: Properties is missing", written or resource)
            return self._found
        if member(merged, "CodeUri") is not None and (code := member(merged, "InlineCode")) is not None:
            self._complaints.error("Properties: CodeUri and InlineCode; write one of them", code)
        if self._is_image(merged):
            return self._found
        for key, value in taken(merged):
            if key in properties.NOTED:
                self._complaints.warning(f"{key} means nothing here: {properties.NOTED[key]}", value)
        self._layers(member(merged, "Layers"))
        self._code(merged)
        plain = without(merged, _SKIPPED | properties.NOTED.keys())
        sam = self._complaints.validated(properties.Function, plain, "Properties", *_SKIPPED, *properties.NOTED)
        ours = self._metadata(resource)
        events = Events(self._complaints, self._account, self._found.logical_id)
        if (listed := member(merged, "Events")) is not None:
            events.read(listed)
        if sam is not None and ours is not None:
            self._inline(sam, merged)
            self._fill(sam, ours, events, merged)
        return self._found

    def _is_image(self, merged: Node) -> bool:
        image = next((value for key, value in taken(merged) if key in ("ImageUri", "ImageConfig")), None)
        package = member(merged, "PackageType")
        if image is None and getattr(package, "value", "Zip") != "Image":
            return False
        reason = "container images do not run here; write CodeUri, Handler and Runtime (provided.al2023: any program)"
        self._complaints.error(reason, package or image)
        return True

    def _metadata(self, resource: Node) -> properties.Tidegate | None:
        written = member(member(resource, "Metadata"), properties.Tidegate.KEY)
        if written is None:
            return properties.Tidegate()
        return self._complaints.validated(properties.Tidegate, written, "Metadata.Tidegate")

    # ── code ────────────────────────────────────────────────────────────────────────────────────────────────

    def _code(self, merged: Node) -> None:
        written = member(merged, "CodeUri")
        if written is None or is_no_value(written):
            if member(merged, "InlineCode") is None:
                self._found.code = self._directory  # as `sam build` takes it
        elif isinstance(written, MappingNode) and function(written) is None:
            reason = "write the path of a directory or a zip; S3 is not read"
            self._complaints.error(f"Properties.CodeUri: {reason}", written)
        elif function(resolved := self._complaints.reader.resolved(written)) is None:
            self._found.code = self._path(str(resolved.value), "Properties.CodeUri", written)

    def _inline(self, sam: properties.Function, merged: Node) -> None:
        if sam.inline_code is None:
            return
        if not sam.runtime.startswith(INLINE):
            reason = f"Properties.InlineCode: is for Python and Node; a runtime {sam.runtime} needs CodeUri"
            self._complaints.error(reason, member(merged, "InlineCode"))
        self._found.code = sam.inline_code

    def _path(self, text: str, place: str, at: Node | None) -> Path | None:
        if re.match(r"[a-z][a-z0-9+.-]+://", text):
            self._complaints.error(f"{place}: write the path of a directory or a zip; {text[:80]} is not fetched", at)
            return None
        path = self._directory / text
        if not path.is_dir() and not path.is_file():
            self._complaints.error(f"{place}: there is no {path}", at)
            return None
        return path

    def _layers(self, listed: Node | None) -> None:
        for node in listed.value if isinstance(listed, SequenceNode) else ():
            if is_no_value(node):
                continue
            resolved = self._complaints.reader.resolved(node)
            text = resolved.value if isinstance(resolved.value, str) else ""
            if function(resolved) is not None or not text:
                continue  # complained about
            layer = self._complaints.reader.resources.get(text)
            place, at = "Properties.Layers", node
            if layer is not None and kind(layer) == _LAYER:
                uri = member(member(layer, "Properties"), "ContentUri")
                resolved = self._complaints.reader.resolved(uri) if uri is not None else resolved
                text = resolved.value if isinstance(resolved.value, str) else ""
                place, at = f"{self._found.logical_id}: ContentUri of the layer", uri or layer
            elif text.startswith("arn:"):
                reason = "a layer of an account is not fetched; write the path of a directory or a zip"
                self._complaints.error(f"Properties.Layers: {reason}, or list what it holds in requirements.txt", node)
                continue
            if (path := self._path(text, place, at)) is not None:
                self._found.layers.append(path)
        if isinstance(listed, SequenceNode) and len(listed.value) > properties.LAYERS_MAX:
            self._complaints.error(f"Properties.Layers: at most {properties.LAYERS_MAX}, as in Lambda", listed)

    # ── the manifest ────────────────────────────────────────────────────────────────────────────────────────

    def _fill(self, sam: properties.Function, ours: properties.Tidegate, events: Events, merged: Node) -> None:
        invoke = sam.event_invoke_config
        found = self._found
        if ours.requirements is not None:
            found.requirements = self._path(ours.requirements, "Metadata.Tidegate.Requirements", merged)
        facts: dict[str, Any] = {
            "runtime": sam.runtime, "handler": sam.handler, "description": sam.description,
            "architecture": sam.architectures[0] if sam.architectures else "",
            "timeout": sam.timeout, "memory_mb": ours.memory_size or sam.memory_size,
            "tmp_mb": sam.ephemeral_storage.size,
            "environment": sam.environment.variables | sam.logging_config.variables,
            "environment_secrets": ours.environment_secrets,
            "encoding": ours.encoding, "pinned": ours.pinned, "network": ours.network, "topics": ours.topics,
            "retries": invoke.maximum_retry_attempts, "max_age": invoke.maximum_event_age_in_seconds,
            "schedules": tuple(events.schedules), "queues": tuple(events.queues), "alias": sam.auto_publish_alias,
            "on_success": self._destination("OnSuccess", sam, ours.on_success_topic, merged),
            "on_failure": self._destination("OnFailure", sam, ours.on_failure_topic, merged),
        }  # fmt: skip
        if sam.dead_letter_queue is not None:
            queue = sam.dead_letter_queue
            facts["dead_letter"] = self._arn(_DESTINATIONS[queue.type], queue.target_arn)
        if ours.queue_events is not None:
            facts["queue_events"] = ours.queue_events
        if (concurrency := self._concurrency(sam, ours, merged)) is not None:
            facts["concurrency"] = concurrency
        found.facts = facts
        try:
            found.manifest()
        except ConfigurationError as error:
            self._complaints.error(f"{found.logical_id}: {'; '.join(error.problems)}", merged)

    def _concurrency(self, sam: properties.Function, ours: properties.Tidegate, merged: Node) -> int | None:
        if ours.concurrency is not None:
            return ours.concurrency
        wanted = sam.reserved_concurrent_executions
        if wanted is not None and wanted > CONCURRENCY_MAX:
            reason = f"{CONCURRENCY_MAX} workers at most; {wanted} become {CONCURRENCY_MAX}"
            at = member(merged, "ReservedConcurrentExecutions") or merged
            self._complaints.warning(f"Properties.ReservedConcurrentExecutions: {reason}", at)
            return CONCURRENCY_MAX
        return 1 if ours.pinned and wanted is None else wanted

    def _destination(
        self, when: str, sam: properties.Function, topic: str | None, merged: Node
    ) -> str | None:
        config = sam.event_invoke_config.destination_config
        written = config.on_success if when == "OnSuccess" else config.on_failure
        at = member(member(member(merged, "EventInvokeConfig"), "DestinationConfig"), when) or merged
        place = f"Properties.EventInvokeConfig.DestinationConfig.{when}"
        if written is None:
            return self._account.fill(MQTT_TOPIC, topic) if topic is not None else None
        if topic is not None:
            self._complaints.error(f"{place}: Metadata.Tidegate names a topic for it; choose one", at)
        # Where none is named SAM makes one, and calls it something like this.
        name = written.destination or f"{self._found.logical_id}{when}{'Queue' if written.type == 'SQS' else 'Topic'}"
        return self._arn(_DESTINATIONS[written.type], name)

    def _arn(self, form: str, text: str) -> str:
        return self._account.fill(form, text) if is_bare(text) else text

