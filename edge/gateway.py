"""The way of a message through the edge: react first, acknowledge last.

A batch from a device goes to local subscribers and rules at once; what rules republish goes the same way. Then every
message that a lane wants is added to the buffer, and the receipt is settled by its commit. A batch that no lane wants
is settled as delivered, unless a rule's window has heard it. What a device sent before a crash and sends again is
recognised, acknowledged and not taken twice. The rows of windows go the way of what rules republish, in a commit of
their own. What functions are given by the way is committed with the messages that it was made of.

Will not touch the disk (`buffer` does) or the cloud (`uplink` does).
"""

from collections.abc import Callable

from core.message import OURSELVES, Message, Origin
from core.mqtt.broker import Broker
from core.receipts import DELIVERED, STORED, Batch, Kind, Outcome, Receipt
from core.telemetry import Counters, get_logger
from edge.buffer import Buffer
from edge.lanes import LaneIndex
from edge.reactions import Reactions
from rules.republishing import REPUBLISH_DEPTH_MAX, REPUBLISHED_MAX
from rules.windows.aggregation import Due

log = get_logger("edge.gateway")


class Gateway:
    """Joins broker, rules, functions and buffer; `broker` is set once that exists, because each needs the other.

    `hear(messages)` gives functions what they subscribed to; `called()` is whether they were given anything that is not
    on disk.
    """

    broker: Broker

    def __init__(self, reactions: Reactions, lanes: LaneIndex, buffer: Buffer | None, counters: Counters) -> None:
        self.reactions = reactions
        self._lanes = lanes
        self._buffer = buffer
        self._counters = counters
        self.hear: Callable[[list[Message]], None] | None = None
        self.called: Callable[[], bool] = lambda: False

    def accept(self, batch: Batch) -> None:
        """Take what a device published; settles the batch's receipt now or after the commit."""
        known = self._recognise(batch)
        messages = [m for i, m in enumerate(batch.messages) if i not in known] if known else batch.messages
        republished = self._react(messages, batch.origin)
        if self._buffer is None:
            batch.receipt.settle(DELIVERED)
            return
        wanted = self._keep(self._buffer, batch, republished, known)
        heard = self._windows_heard(batch, known)
        if wanted or heard or known or self.called():
            self._buffer.commit(batch, known)
        else:
            batch.receipt.settle(DELIVERED)

    def tell(self, messages: list[Message]) -> None:
        """Take what this edge has to say itself; nobody waits for it."""
        self.accept(Batch(messages, Receipt()))

    def emit(self, rows: list[Due]) -> None:
        """Take what rules make of the rows of their windows."""
        made = self.reactions.fire(rows)
        republished = made + self._react(made, OURSELVES) if made else made
        if self._buffer is not None:
            nobodys = Batch([], Receipt())
            self._keep(self._buffer, nobodys, republished, {})
            self._buffer.commit(nobodys, {})

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

    def _tell_unheard(self) -> None:
        """Count the messages for a rule by name that no rule hears, here or, by way of a lane, in the cloud."""
        for message in self.reactions.unheard:
            if self._lanes.find(message.topic) is None:
                self._counters.add("rules_not_found_total")
                log.warning("no rule of this name hears it", topic=message.topic, client=message.client_id)
        self.reactions.unheard.clear()

    def _windows_heard(self, batch: Batch, outcomes: dict[int, Outcome]) -> bool:
        """Whether windows wait for a commit; they forget the messages that the sender is told are not kept."""
        windows = self.reactions.windows
        if windows is None:
            return False
        rejected = [batch.messages[index] for index, outcome in outcomes.items() if outcome.kind is Kind.REJECTED]
        if rejected:
            windows.aggregation.withdraw(rejected)
        return windows.aggregation.has_gathered

    def _react(self, messages: list[Message], origin: Origin) -> list[Message]:
        """Deliver to local subscribers and run the rules; returns everything that rules republished."""
        republished: list[Message] = []
        most = REPUBLISHED_MAX * len(messages)
        for _ in range(REPUBLISH_DEPTH_MAX):
            self.broker.publish(messages)
            if self.hear is not None:
                self.hear(messages)
            messages = self.reactions.react(messages, origin)
            if self.reactions.unheard:
                self._tell_unheard()
            origin = OURSELVES
            if not messages:
                return republished
            republished += messages
            if len(republished) > most:
                break
        self.broker.publish(messages)
        self._counters.add("rules_loops_total")
        log.warning("rules republish in a loop; stopped", topic=messages[0].topic, republished=len(republished))
        return republished
