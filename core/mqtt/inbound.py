"""What one client publishes: batches with receipts, and acknowledgements in the order of the messages.

The PUBLISH packets between two others of a read form one batch with one receipt. Batches may be settled in any order,
but acknowledgements leave in the order in which the messages came (MQTT 5 section 4.6), so they wait in a line of
(packet identifiers, receipt).

Invariant: no PUBACK leaves before the receipt of its batch is settled as kept.
"""

from collections import deque
from collections.abc import Callable
from struct import pack
from typing import Protocol

from mqtt5 import DisconnectReasonCode, Packet, PubAckPacket, PubAckReasonCode, PublishPacket, QoS

from core import topics
from core.message import Message
from core.mqtt.access import Access, Identity
from core.mqtt.properties import properties_of
from core.receipts import Batch, Kind, Receipt, rejected
from core.telemetry import Counters

TOPICS_REMEMBERED = 4_096  # per connection; a sensor has a handful, and a flood of names must not grow memory
TOPIC_CHARS_REMEMBERED = 256  # longer ones are checked each time
_EXACTLY_ONCE = QoS.EXACTLY_ONCE  # the library's enumerations are singletons, and neither ordered nor hashable


class Receiver(Protocol):
    """What takes the messages: the broker."""

    access: Access
    accept: Callable[[Batch], None]
    counters: Counters
    unsettled: int


class Inbound:
    """The publishing side of one connected client.

    `send(bytes)` queues bytes for the client, `refuse(reason, text)` closes its connection; neither is used after
    `ended`.
    """

    def __init__(
        self,
        receiver: Receiver,
        identity: Identity,
        version: int,
        send: Callable[[bytes], None],
        refuse: Callable[[int, str], None],
    ) -> None:
        self.unsettled = 0  # bytes read of batches whose receipts are open
        self.ended = False
        self._receiver = receiver
        self._identity = identity
        self._is_v5 = version == 5
        self._send = send
        self._refuse = refuse
        self._allowed: set[str] = set()
        self._line: deque[tuple[list[int], Receipt]] = deque()

    def take(self, packets: list[Packet], index: int, at: int, packet_bytes: int) -> int:
        """Hand over the run of publishes that begins at `index`; returns the index of the first packet behind it.

        `packet_bytes` is the mean size of a packet of this read: what a message counts for until it is settled.
        """
        messages: list[Message] = []
        packet_ids: list[int] = []
        resent: list[int] = []
        client_id, allowed, is_v5 = self._identity.client_id, self._allowed, self._is_v5
        end = len(packets)
        while index < end:
            packet = packets[index]
            if type(packet) is not PublishPacket:
                break
            topic, packet_id, qos = packet.topic, packet.packet_id, packet.qos
            if (topic not in allowed or packet_id == 0 or qos is _EXACTLY_ONCE) and not self._may_publish(packet):
                break
            if packet.duplicate:
                resent.append(len(messages))
            extra = properties_of(packet) if is_v5 else None
            messages.append(Message(topic, packet.payload, 1 if packet_id else 0, packet.retain, client_id, at, extra))
            packet_ids.append(packet_id or 0)
            index += 1
        if messages:
            self._hand_over(Batch(messages, Receipt(), client_id, packet_ids, resent), len(messages) * packet_bytes)
        if index < end and not self.ended:
            refused = packets[index]
            if type(refused) is PublishPacket:
                self._deny(refused)
                index += 1
        return index

    def _hand_over(self, batch: Batch, size: int) -> None:
        receiver, packet_ids = self._receiver, batch.packet_ids or []
        self.unsettled += size
        receiver.unsettled += size
        receiver.counters.add("messages_received_total", len(packet_ids))

        def settled(_: Receipt) -> None:
            self.unsettled -= size
            receiver.unsettled -= size
            self._advance()

        batch.receipt.on_settled = settled
        self._line.append((packet_ids, batch.receipt))
        receiver.accept(batch)

    # -- what may be published ----------------------------------------------------------------------------------------

    def _may_publish(self, packet: PublishPacket) -> bool:
        """Check a topic not seen before; end the connection when it could never be right."""
        if packet.packet_id == 0:
            return self._end(DisconnectReasonCode.MALFORMED_PACKET, "packet identifier 0")
        if packet.qos is _EXACTLY_ONCE:
            return self._end(DisconnectReasonCode.QOS_NOT_SUPPORTED, "QoS 2 is not supported")
        if packet.topic_alias is not None:
            return self._end(DisconnectReasonCode.TOPIC_ALIAS_INVALID, "topic aliases were not offered")
        try:
            topics.check_name(packet.topic)
        except topics.InvalidTopic as error:
            return self._end(DisconnectReasonCode.TOPIC_NAME_INVALID, str(error))
        if not self._receiver.access.publish(self._identity, packet.topic):
            return False
        if len(packet.topic) <= TOPIC_CHARS_REMEMBERED:
            if len(self._allowed) >= TOPICS_REMEMBERED:
                self._allowed.clear()
            self._allowed.add(packet.topic)
        return True

    def _end(self, reason: DisconnectReasonCode, text: str) -> bool:
        self._refuse(int(reason), text)
        return False

    def _deny(self, packet: PublishPacket) -> None:
        """Not there: MQTT 5 is told, and MQTT 3.1.1 has no word for it but closing (its section 3.3.5)."""
        self._receiver.counters.dropped("not authorized")
        if not self._is_v5:
            self._refuse(0x87, f"not authorized to publish to {packet.topic[:80]!r}")
        elif packet.packet_id is not None:
            receipt = Receipt()
            receipt.settle(rejected("not authorized", int(PubAckReasonCode.NOT_AUTHORIZED)))
            self._line.append(([packet.packet_id], receipt))
            self._advance()

    # -- acknowledgements ---------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        line = self._line
        while line and line[0][1].outcome is not None:
            packet_ids, receipt = line.popleft()
            if not self.ended:
                self._acknowledge(packet_ids, receipt)

    def _acknowledge(self, packet_ids: list[int], receipt: Receipt) -> None:
        assert receipt.outcome is not None
        if receipt.outcome.kind is Kind.REJECTED or receipt.exceptions:
            self._acknowledge_one_by_one(packet_ids, receipt)
        else:
            # A PUBACK that reports success is the same four bytes in both versions. Nothing to say is sent as well: it
            # wakes the shell, which may be waiting to read on.
            words = [0x4002_0000 | packet_id for packet_id in packet_ids if packet_id]
            self._send(pack(f">{len(words)}I", *words))

    def _acknowledge_one_by_one(self, packet_ids: list[int], receipt: Receipt) -> None:
        assert receipt.outcome is not None
        acknowledgements: list[bytes] = []
        refusal = None
        for index, packet_id in enumerate(packet_ids):
            outcome = receipt.exceptions.get(index, receipt.outcome)
            if packet_id == 0:
                continue
            if outcome.kind is not Kind.REJECTED:
                acknowledgements.append(pack(">I", 0x4002_0000 | packet_id))
            elif self._is_v5:
                code = PubAckReasonCode(outcome.code)
                acknowledgements.append(PubAckPacket(packet_id, reason_code=code).write())
            else:
                # MQTT 3.1.1 has no negative PUBACK; a client resends when it connects again, so that is its way out.
                refusal = outcome
                break
        self._send(b"".join(acknowledgements))  # sent even if empty: the shell may wait for this to read on
        if refusal is not None:
            self._refuse(refusal.code, refusal.reason)
