"""Publishing one message from a request: it goes the way of a device's, and the answer waits for what keeps it.

A message of QoS 1 is answered when its receipt is settled and the journal has on disk what sessions are owed of it,
as a PUBACK is (`core.mqtt.inbound`); one of QoS 0 at once, unless it is refused at once.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from core.http.messages import HttpError
from core.message import Message, Origin
from core.mqtt.journal import KEPT, Journal
from core.mqtt.retained import Retained
from core.receipts import Batch, Kind, Receipt
from core.telemetry import Counters

QUOTA_EXCEEDED = 0x97  # MQTT 5: a lane is full, or the disk; what AWS calls throttling


class Receiver(Protocol):
    """What takes the message: the broker."""

    accept: Callable[[Batch], None]
    journal: Journal
    retained: Retained
    counters: Counters


class Publisher:
    """Publishes by way of one broker."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    async def publish(self, message: Message, origin: Origin) -> None:
        """Return when the message is kept as its QoS promises. Raises HttpError when it is not."""
        receiver, journal = self._receiver, self._receiver.journal
        if message.retain and not receiver.retained.has_room(message):
            raise HttpError(429, "ThrottlingException", "the retained store is full")
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        receipt = Receipt()
        receiver.counters.add("messages_received_total")
        promises = journal.promises
        receiver.accept(Batch([message], receipt, message.client_id, origin=origin))
        barrier = journal.barrier if journal.promises != promises else KEPT
        if message.qos and receipt.outcome is None:
            receipt.on_settled = lambda _: None if done.done() else done.set_result(True)
            await done
        await asyncio.sleep(0)  # what was published goes out first: the one who asks waits gladly, a machine does not
        outcome = receipt.exceptions.get(0, receipt.outcome) if receipt.outcome is not None else None
        if outcome is not None and outcome.kind is Kind.REJECTED:
            if outcome.code == QUOTA_EXCEEDED:
                raise HttpError(429, "ThrottlingException", f"not stored: {outcome.reason}", {"retry-after": "1"})
            raise HttpError(500, "InternalFailureException", f"not stored: {outcome.reason}")
        if message.qos and barrier.kept is not True:
            kept: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            barrier.then(lambda result: None if kept.done() else kept.set_result(result))
            if not await kept:
                raise HttpError(503, "ServiceUnavailableException", "the disk refuses", {"retry-after": "1"})
