"""What the rules make of a batch of messages: everything to write, gathered per target, before anything is written.

Pure but for the counters of the rules. `Effects.gather` evaluates; `Effects.apply` writes into the embedded targets
inside the transaction that also takes the messages out of the inbox. What rules republish is evaluated in turn, up to
`REPUBLISH_DEPTH_MAX` deep.
"""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cloud.targets import UnknownTarget
from cloud.targets.alerts import Notification, Topics, message_id
from cloud.targets.streams import Streams
from cloud.targets.tables import Tables
from core.errors import TidegateError
from core.message import Message
from core.telemetry import Counters, get_logger
from core.topics import InvalidTopic, check_name
from rules.actions import Action, DynamoDBv2, Firehose, Republish, Sns
from rules.engine import NOTHING, Event, Rule, RuleSet, output_bytes
from rules.errors import EvaluationError

log = get_logger("cloud.effects")

REPUBLISH_DEPTH_MAX = 8  # how often what a rule republished may set off another rule; more is a loop
REPUBLISHED_MAX = 100  # for one message of the inbox; rules that set off each other ten at a time reach 10^8 otherwise


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
            for action in rule.actions:
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


@dataclass(slots=True)
class Effects:
    """Everything that one step of the worker writes and publishes."""

    items: dict[str, list[object]] = field(default_factory=lambda: defaultdict(list))
    records: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    notifications: dict[str, list[Notification]] = field(default_factory=lambda: defaultdict(list))
    heard: list[Message] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)  # evaluations, by rule
    loops: int = 0
    _left: int = 0  # what the message at hand may still set off

    def gather(self, rules: RuleSet, messages: Iterable[tuple[Message, tuple[str | int, ...]]], now_ms: int) -> None:
        """Apply the rules to messages, each with the key (edge, lane, epoch, sequence) that names it for ever."""
        for message, key in messages:
            self._left = REPUBLISHED_MAX
            self._hear(rules, message, key, now_ms, 0)

    def _hear(self, rules: RuleSet, message: Message, key: tuple[str | int, ...], now_ms: int, depth: int) -> None:
        self.heard.append(message)
        found = rules.match(message.topic)
        if not found:
            return
        event = Event(message, now_ms)
        for rule in found:
            for made, its_key in self._run(rule, event, key, now_ms):
                if depth < REPUBLISH_DEPTH_MAX and self._left:
                    self._left -= 1
                    self._hear(rules, made, its_key, now_ms, depth + 1)
                else:
                    self.loops += 1
                    log.warning("rules republish in a loop; stopped", rule=rule.name, topic=made.topic)

    def _run(
        self, rule: Rule, event: Event, key: tuple[str | int, ...], now_ms: int
    ) -> list[tuple[Message, tuple[str | int, ...]]]:
        """Evaluate one rule and gather its actions' effects, of which one that fails costs only itself."""
        made: list[tuple[Message, tuple[str | int, ...]]] = []
        try:
            output = rule.evaluate(event)
            payload = b"" if output is NOTHING else output_bytes(output)
        except EvaluationError as error:
            self._fail(rule, error)
            return made
        for index, action in enumerate(() if output is NOTHING else rule.actions):
            try:
                republished = self._act(action, event, output, payload, (*key, rule.name, index), now_ms)
            except (EvaluationError, InvalidTopic) as error:
                self._fail(rule, error)
            else:
                made += [republished] if republished else []
        return made

    def _fail(self, rule: Rule, error: TidegateError) -> None:
        self.failed[rule.name] += 1
        log.warning("a rule failed", rule=rule.name, error=error)

    def _act(
        self, action: Action, event: Event, output: object, payload: bytes, key: tuple[str | int, ...], now_ms: int
    ) -> tuple[Message, tuple[str | int, ...]] | None:
        match action:
            case DynamoDBv2():
                self.items[action.put_item.table_name].append(output)
            case Firehose():
                self.records[action.delivery_stream_name] += _records(action, output, payload)
            case Sns():
                structured = action.message_format == "JSON"
                notification = Notification(message_id(*key), payload, now_ms, structured)
                self.notifications[action.target_arn].append(notification)
            case Republish():
                topic = action.topic.render(event)
                check_name(topic)
                return Message(topic, payload, action.qos, received_at=now_ms), key
        return None

    def apply(self, connection: sqlite3.Connection, targets: Targets, now_ms: int) -> list[tuple[str, str]]:
        """Write everything; returns (target, reason) for each thing that a target refused for good."""
        refused: list[tuple[str, str]] = []
        for table, items in self.items.items():
            refused += [(f"table {table}", r.reason) for r in targets.tables.put(connection, table, items)]
        for stream, records in self.records.items():
            refused += [(f"stream {stream}", r.reason) for r in targets.streams.append(connection, stream, records,
            now_ms)]
        for topic, told in self.notifications.items():
            refused += [(f"topic {topic}", r.reason) for r in targets.topics.publish(connection, topic, told)]
        return refused


def _records(action: Firehose, output: object, payload: bytes) -> list[bytes]:
    separator = (action.separator or "").encode()
    if action.batch_mode and isinstance(output, list):
        return [output_bytes(element) + separator for element in output]
    return [payload + separator]


def count_refused(refused: list[tuple[str, str]], counters: Counters) -> None:
    """Every message that a target refused is counted and logged with the reason."""
    for target, reason in refused:
        counters.dropped("refused by its target", target=target)
        log.error("a target refused a message for good", target=target, reason=reason)
