"""What the rules make of a batch of messages: everything to write, gathered per target, before anything is written.

`Effects.gather` evaluates, and asks each target whether it would take what it is given, so that a rule's error action
is a part of the same step; `Effects.apply` writes into the embedded targets inside the transaction that also takes the
messages out of the inbox. What rules republish is evaluated in turn, up to `REPUBLISH_DEPTH_MAX` deep.
"""

import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from cloud.functions import Calling
from cloud.targets import UnknownTarget, alerts, streams, tables
from cloud.targets.alerts import Notification, Topics, message_id
from cloud.targets.streams import Streams
from cloud.targets.tables import Tables
from cloud.windows import CloudWindows, source
from core.chance import Randomness
from core.message import OURSELVES, Message, Origin
from core.telemetry import Counters, get_logger
from core.topics import BASIC_INGEST
from functions.events import Event as Called
from rules.actions import Action, DynamoDBv2, Firehose, Lambda, Republish, Sns
from rules.engine import Event, Rule, RuleSet, output_bytes
from rules.errors import ActionFailed, EvaluationError
from rules.event import NO_ACCOUNT, Calls, Chance, Context
from rules.failures import act, resource
from rules.republishing import REPUBLISH_DEPTH_MAX, REPUBLISHED_MAX, republished
from rules.windows.aggregation import Due

Key: TypeAlias = tuple[str | int, ...]

log = get_logger("cloud.effects")

HERE: Key = ("", "direct")  # what begins the key of a message that came by no edge, and of a row
THROUGH_AN_EDGE = Origin()  # who sent it is known there: saying it for each message would cost bytes of the link
KINDS: dict[type[Action], str] = {DynamoDBv2: "table", Firehose: "stream", Sns: "topic"}


@dataclass(frozen=True, slots=True)
class Targets:
    """The embedded targets of one cloud."""

    tables: Tables
    streams: Streams
    topics: Topics

    def open(self, connection: sqlite3.Connection) -> None:
        """Prepare each kind of target; raises ConfigurationError where the configuration contradicts what is stored."""
        self.tables.open(connection)
        self.streams.open(connection)
        self.topics.open(connection)

    def check(self, rules: RuleSet) -> Iterator[str]:
        """A line for every action that names a target that is not configured."""
        for rule in rules:
            for action in (*rule.actions, *([rule.error_action] if rule.error_action is not None else [])):
                try:
                    match action:
                        case DynamoDBv2():
                            self.tables.check(action.put_item.table_name)
                        case Firehose():
                            self.streams.check(action.delivery_stream_name)
                        case Sns():
                            self.topics.check(action.target_arn)
                except UnknownTarget as error:
                    yield f"rule {rule.name}: {error}"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What rules and their actions find in this cloud: targets, answers to calls, whose account it is, randomness, and
    the windows of rules that have them, and functions."""

    targets: Targets
    calls: Calls | None = None
    account: str = NO_ACCOUNT
    chance: Chance = field(default_factory=Randomness)
    windows: CloudWindows | None = None
    calling: Calling | None = None


@dataclass(slots=True)
class Effects:
    """Everything that one step of the worker writes and publishes."""

    surroundings: Surroundings
    items: dict[str, list[tables.Item]] = field(default_factory=lambda: defaultdict(list))
    records: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    notifications: dict[str, list[Notification]] = field(default_factory=lambda: defaultdict(list))
    calls: list[Called] = field(default_factory=list)  # what functions are given
    heard: list[Message] = field(default_factory=list)  # for subscribers
    refused: list[tuple[str, str]] = field(default_factory=list)  # (target, reason)
    failed: Counter[str] = field(default_factory=Counter)  # evaluations and actions, by rule
    error_actions_failed: Counter[str] = field(default_factory=Counter)  # by rule
    not_found: int = 0  # messages for a rule by name that is not there
    applied: int = 0
    loops: int = 0
    _left: int = 0  # what the message at hand may still set off

    def gather(
        self,
        rules: RuleSet,
        messages: Iterable[tuple[Message, Key]],
        now_ms: int,
        origin: Origin = THROUGH_AN_EDGE,
        *,
        published: bool = False,
    ) -> None:
        """Apply the rules to messages of one origin, each with the key (edge, lane, epoch, sequence) that names it.

        `published`: subscribers have had these messages already.
        """
        context = Context.of(origin, self.surroundings.account)
        for message, key in messages:
            self._left = REPUBLISHED_MAX
            if not published:
                self.heard.append(message)
            if self.surroundings.calling is not None:
                self.calls += self.surroundings.calling.heard(message)
            self._hear(rules, self._event(message, now_ms, context), key, 0)

    def gather_rows(self, rules: RuleSet, rows: list[Due], now_ms: int) -> None:
        """Act on rows of windows that are due."""
        assert self.surroundings.windows is not None
        aggregation = self.surroundings.windows.aggregation
        context = Context.of(OURSELVES, self.surroundings.account)
        for due in rows:
            self._left = REPUBLISHED_MAX
            began = time.perf_counter_ns()
            try:
                output, payload = aggregation.output(due)
            except EvaluationError as error:
                self._fail(due.rule, error)
                due.rule.counters.spent_ns += time.perf_counter_ns() - began
                continue
            event = self._event(Message(due.row.topic, payload, received_at=now_ms), now_ms, context)
            key: Key = (*HERE, "window", *due.name)  # the same when it is acted on again after a crash
            made = self.act(due.rule, event, output, payload, key)
            due.rule.counters.spent_ns += time.perf_counter_ns() - began
            self._hear_again(rules, due.rule, made, now_ms, 0)
        aggregation.acted(rows)

    def _event(self, message: Message, now_ms: int, context: Context) -> Event:
        surroundings = self.surroundings
        calls, chance, watch = surroundings.calls, surroundings.chance, time.thread_time
        return Event(message, now_ms, context=context, calls=calls, chance=chance, watch=watch)

    def _hear(self, rules: RuleSet, event: Event, key: Key, depth: int) -> None:
        self.applied += 1
        topic = event.message.topic
        found = rules.match(topic)
        if not found and topic.startswith(BASIC_INGEST):
            self.not_found += 1
            log.warning("no rule of this name, or it is disabled", topic=topic, client=event.message.client_id)
        for rule in found:
            began = time.perf_counter_ns()
            republished = self._run(rule, event, key)
            rule.counters.spent_ns += time.perf_counter_ns() - began
            self._hear_again(rules, rule, republished, event.now_ms, depth)

    def _hear_again(
        self, rules: RuleSet, rule: Rule, republished: list[tuple[Message, Key]], now_ms: int, depth: int
    ) -> None:
        for made, its_key in republished:
            if depth < REPUBLISH_DEPTH_MAX and self._left:
                self._left -= 1
                self.heard.append(made)
                context = Context.of(OURSELVES, self.surroundings.account)
                self._hear(rules, self._event(made, now_ms, context), its_key, depth + 1)
            else:
                self.loops += 1
                log.warning("rules republish in a loop; stopped", rule=rule.name, topic=made.topic)

    def _run(self, rule: Rule, event: Event, key: Key) -> list[tuple[Message, Key]]:
        """Evaluate one rule and gather its actions' effects, of which one that fails costs only itself."""
        windows = self.surroundings.windows
        try:
            if rule.plan is None:
                given = rule.run(event)
            else:
                given = None
                if windows is not None:
                    windows.aggregation.hear(rule, event, source(str(key[0]), str(key[1])))
        except EvaluationError as error:
            self._fail(rule, error)
            return []
        return [] if given is None else self.act(rule, event, *given, key)

    def _fail(self, rule: Rule, error: EvaluationError) -> None:
        self.failed[rule.name] += 1
        log.warning("a rule failed", rule=rule.name, error=error)

    def act(self, rule: Rule, event: Event, output: object, payload: bytes, key: Key) -> list[tuple[Message, Key]]:
        """Gather what a rule's actions make of an output, or its error action; returns what they republish."""
        made: list[tuple[Message, Key]] = []

        def perform(action: Action, event: Event, output: object, payload: bytes, place: int) -> None:
            its_key = (*key, rule.name, place)
            if isinstance(action, Republish):
                made.append((republished(action, event, payload), its_key))
            elif isinstance(action, Lambda):
                self._call(action.function_arn.render(event), payload)
            else:
                self._give(action, output, payload, message_id(*its_key), event.now_ms)

        for failure in act(rule, event, output, payload, perform):
            (self.error_actions_failed if failure.of_error_action else self.failed)[rule.name] += 1
            log.warning("an action failed", rule=rule.name, action=failure.action, error=failure.message)
        return made

    def _give(self, action: Action, output: object, payload: bytes, name: str, now_ms: int) -> None:
        targets = self.surroundings.targets
        try:
            match action:
                case DynamoDBv2():
                    table = action.put_item.table_name
                    item = targets.tables.item(table, output, payload)
                    self.items[table].append(item)
                case Firehose():
                    self.records[action.delivery_stream_name] += _records(action, output, payload)
                case Sns():
                    notification = Notification(name, payload, now_ms, action.message_format == "JSON")
                    alerts.text_of(notification)
                    self.notifications[action.target_arn].append(notification)
        except (tables.InvalidItem, alerts.InvalidMessage, streams.InvalidRecord) as error:
            self.refused.append((f"{KINDS[type(action)]} {resource(action)}", str(error)))
            raise ActionFailed(str(error)) from None

    def _call(self, function: str, payload: bytes) -> None:
        if self.surroundings.calling is None:
            raise ActionFailed(f"{function[:80]} cannot be called: there is no [functions] here")
        self.calls.append(self.surroundings.calling.reserve(function, payload))

    def settle(self, *, kept: bool) -> None:
        """What was applied is committed, or will never be."""
        if self.surroundings.calling is not None:
            self.surroundings.calling.settle(self.calls, kept=kept)

    def apply(self, connection: sqlite3.Connection, now_ms: int) -> list[tuple[str, str]]:
        """Write everything; returns (target, reason) for each thing that a target refused for good."""
        targets, refused = self.surroundings.targets, list(self.refused)
        if self.surroundings.calling is not None:
            self.surroundings.calling.insert(connection, self.calls)
        for table, items in self.items.items():
            targets.tables.store(connection, table, items)
        for stream, records in self.records.items():
            lost = targets.streams.append(connection, stream, records, now_ms)
            refused += [(f"stream {stream}", each.reason) for each in lost]
        for topic, told in self.notifications.items():
            refused += [(f"topic {topic}", each.reason) for each in targets.topics.publish(connection, topic, told)]
        return refused


def _records(action: Firehose, output: object, payload: bytes) -> list[bytes]:
    separator = (action.separator or "").encode()
    elements = output if action.batch_mode and isinstance(output, list) else None
    records = [payload] if elements is None else [output_bytes(element) for element in elements]
    return [streams.checked(record + separator) for record in records]


def count_refused(refused: list[tuple[str, str]], counters: Counters) -> None:
    """Every message that a target refused is counted and logged with the reason."""
    for target, reason in refused:
        counters.dropped("refused by its target", target=target)
        log.error("a target refused a message for good", target=target, reason=reason)
