"""A receipt is what the sender of a batch of messages waits for: the word of whoever promised to keep it.

A batch handed on takes its receipt along, and with it the duty to settle it exactly once. The outcome holds for the
whole batch, with exceptions for single messages by their index. Nothing is dropped without an outcome that says why.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from core.message import OURSELVES, Message, Origin


class Kind(Enum):
    """What became of a message."""

    STORED = "stored"  # committed to disk by everything that promised to keep it
    DELIVERED = "delivered"  # handed to whoever subscribed now; nobody promised to keep it
    DROPPED = "dropped"  # left out on purpose, by a policy the operator chose; the sender may forget it
    REJECTED = "rejected"  # not kept; the sender must try again or give up


@dataclass(frozen=True, slots=True)
class Outcome:
    """A kind and, for losses, the reason that is counted and shown; `code` is the MQTT 5 reason for a rejection."""

    kind: Kind
    reason: str = ""
    code: int = 0


STORED = Outcome(Kind.STORED)
DELIVERED = Outcome(Kind.DELIVERED)


def dropped(reason: str) -> Outcome:
    """Left out by policy."""
    return Outcome(Kind.DROPPED, reason)


def rejected(reason: str, code: int = 0x80) -> Outcome:
    """Not kept, and the sender is told so with MQTT 5 reason `code`."""
    return Outcome(Kind.REJECTED, reason, code)


class Receipt:
    """Settled exactly once, then calls `on_settled(receipt)`; settling again is a programming error."""

    __slots__ = ("exceptions", "on_settled", "outcome")

    def __init__(self, on_settled: "Callable[[Receipt], None] | None" = None) -> None:
        self.outcome: Outcome | None = None
        self.exceptions: Mapping[int, Outcome] = {}
        self.on_settled = on_settled

    def settle(self, outcome: Outcome, exceptions: Mapping[int, Outcome] | None = None) -> None:
        """Give the outcome of the batch, and of single messages by index where theirs differs."""
        assert self.outcome is None, "a receipt is settled once"
        self.outcome = outcome
        if exceptions:
            self.exceptions = exceptions
        if self.on_settled is not None:
            self.on_settled(self)


@dataclass(slots=True)
class Batch:
    """Messages that arrived together from one publisher, in order, and the receipt for them.

    `packet_ids` has an entry per message: the MQTT packet identifier of a QoS 1 publish, 0 for QoS 0.
    `resent` holds the indexes of messages that came with the DUP flag.
    """

    messages: list[Message]
    receipt: Receipt
    client_id: str = ""
    packet_ids: list[int] | None = None
    resent: list[int] | None = None
    origin: Origin = OURSELVES
