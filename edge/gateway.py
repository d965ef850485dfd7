"""The way of a message through the edge: react first, acknowledge last.

A batch from a device goes to local subscribers and rules at once; what rules republish goes the same way. Then every
message that a lane wants is added to the buffer, and the receipt is settled by its commit. A batch that no lane wants
is settled as delivered. What a device sent before a crash and sends again is recognised, acknowledged and not taken
twice.

Will not touch the disk (`buffer` does) or the cloud (`uplink` does).
"""

import time

from core.errors import TidegateError
from core.message import Message
from core.mqtt.broker import Broker
from core.receipts import DELIVERED, STORED, Batch, Kind, Outcome
from core.telemetry import Counters, get_logger
from core.topics import InvalidTopic, check_name
from edge.buffer import Buffer
from edge.lanes import LaneIndex
from rules.actions import Republish
from rules.engine import NOTHING, Event, Rule, RuleSet, output_bytes
from rules.errors import EvaluationError

log = get_logger("edge.gateway")

REPUBLISH_DEPTH_MAX = 8  # how often what a rule republished may set off another rule; more is a loop
REPUBLISHED_MAX = 100  # for one message of a device; rules that set off each other ten at a time reach 10^8 otherwise


class Gateway:
    """Joins broker, rules and buffer; `broker` is set once that exists, because each needs the other."""

    broker: Broker

    def __init__(self, rules: RuleSet, lanes: LaneIndex, buffer: Buffer | None, counters: Counters) -> None:
        self.rules = rules
        self._lanes = lanes
        self._buffer = buffer
        self._counters = counters

    def accept(self, batch: Batch) -> None:
        """Take what a device published; settles the batch's receipt now or after the commit."""
        known = self._recognise(batch)
        messages = [m for i, m in enumerate(batch.messages) if i not in known] if known else batch.messages
        republished = self._react(messages)
        if self._buffer is None:
            batch.receipt.settle(DELIVERED)
        elif self._keep(self._buffer, batch, republished, known) or known:
            self._buffer.commit(batch, known)
        else:
            batch.receipt.settle(DELIVERED)

    def _recognise(self, batch: Batch) -> dict[int, Outcome]:
        """The messages of a batch that were stored before the last crash, as exceptions for its receipt."""
        if not batch.resent or self._buffer is None or batch.packet_ids is None or not self._buffer.resends:
            return {}
        recognise = self._buffer.resends.recognise
        known = {
            index: STORED
            for index in batch.resent
            if batch.packet_ids[index]
            and recognise(batch.client_id, batch.packet_ids[index], batch.messages[index])
        }
        if known:
            self._counters.add("messages_resent_total", len(known))
        return known

    def _keep(self, buffer: Buffer, batch: Batch, republished: list[Message], outcomes: dict[int, Outcome]) -> bool:
        """Add to the buffer what lanes want, and to `outcomes` what they refuse; whether they want any of it."""
        find, add = self._lanes.find, buffer.add
        wanted, known = False, outcomes.copy()
        topic, lane = "", None
        for index, message in enumerate(batch.messages):
            if message.topic is not topic:  # one sensor's batch has one topic
                topic = message.topic
                lane = find(topic)
            if lane is None or index in known:
                continue
            wanted = True
            outcome = add(lane, message)
            if outcome is not None:
                outcomes[index] = outcome
        for message in republished:
            lane = find(message.topic)
            if lane is None:
                continue
            wanted = True
            outcome = add(lane, message)
            if outcome is not None and outcome.kind is Kind.REJECTED:
                self._counters.dropped("lane full", lane=lane.name)  # nobody sends again what a rule made
        return wanted

    def _react(self, messages: list[Message]) -> list[Message]:
        """Deliver to local subscribers and run the rules; returns everything that rules republished."""
        republished: list[Message] = []
        most = REPUBLISHED_MAX * len(messages)
        for _ in range(REPUBLISH_DEPTH_MAX):
            self.broker.publish(messages)
            messages = self._apply_rules(messages)
            if not messages:
                return republished
            republished += messages
            if len(republished) > most:
                break
        self.broker.publish(messages)
        self._counters.add("rules_loops_total")
        log.warning("rules republish in a loop; stopped", topic=messages[0].topic, republished=len(republished))
        return republished

    def _apply_rules(self, messages: list[Message]) -> list[Message]:
        made: list[Message] = []
        match = self.rules.match
        now, topic = 0, ""
        found: tuple[Rule, ...] = ()
        for message in messages:
            if message.topic is not topic:
                topic = message.topic
                found = match(topic)
            if found:
                now = now or time.time_ns() // 1_000_000
                event = Event(message, now)
                for rule in found:
                    self._apply(rule, event, now, made)
        return made

    def _apply(self, rule: Rule, event: Event, now: int, made: list[Message]) -> None:
        """Evaluate one rule and run its actions; one that fails costs only itself."""
        try:
            output = rule.evaluate(event)
            payload = b"" if output is NOTHING else output_bytes(output)
        except EvaluationError as error:
            self._failed(rule, error)
            return
        for action in () if output is NOTHING else rule.actions:
            assert isinstance(action, Republish)
            try:
                topic = action.topic.render(event)
                check_name(topic)
            except (EvaluationError, InvalidTopic) as error:
                self._failed(rule, error)
            else:
                made.append(Message(topic, payload, action.qos, received_at=now))

    def _failed(self, rule: Rule, error: TidegateError) -> None:
        self._counters.add("rules_failed_total", rule=rule.name)
        log.warning("a rule failed", rule=rule.name, error=error)
