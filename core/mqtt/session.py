"""What is owed to one client: its subscriptions, and the messages on their way to it.

Decides what may be sent now (the client's Receive Maximum, a congested connection) and what must wait. The waiting line
is bounded: QoS 0 is dropped first; then a client that is there but too slow is disconnected with "quota exceeded"
(0x97), and for one that is away the message is dropped and counted. A session that outlives its connection (`key`
is not 0) is kept on disk by `journal`, which is told of every message that begins or ends to be owed.

A QoS 1 or 2 message to a client has a number, which never repeats in its session; its packet identifier follows from
it, so a message that is sent again after a crash has the identifier it had before.

Invariants:
1. At most `window` publishes are unacknowledged; they are sent in the order of their numbers, and again in that order.
2. To a session on disk, QoS 2 is sent when its delivery is on disk, and PUBREL when its PUBREC is: the client may have
   forgotten a message only if we cannot send it again under the same identifier.

No I/O: packets go to the `Outlet` of the client's connection.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from core.commits import Barrier
from core.mqtt.access import Grant
from core.mqtt.limits import Limits
from core.mqtt.parcels import Parcel
from core.receipts import Receipt
from core.telemetry import Counters

SPAN_MAX = 4_096  # numbers between the oldest and the newest in flight, so that what is done needs few words on disk
PACKET_IDS = 65_535
FAIR_BYTES = 256 << 10  # in line for a client that is there, however much waits for others
ENTRY_BYTES = 200  # what an entry of a line costs beside its message, which others may share; those on disk included


class SlowConsumer(Exception):
    """The line for this client is full: it must be disconnected with quota exceeded."""


@dataclass(slots=True, eq=False)
class Subscription:
    """One filter of one session, as the client wrote it, with the options of MQTT 5 section 3.8.3.1.

    `identifier` is 0 when the client gave none.
    """

    session: "Session"
    pattern: str
    qos: int
    no_local: bool = False
    retain_as_published: bool = False
    identifier: int = 0


class Outlet(Protocol):
    """The connection of a session's client; `window` is how many publishes it takes without acknowledging them."""

    window: int

    def put(self, parcel: Parcel, packet_id: int, *, duplicate: bool) -> bool:
        """Send a PUBLISH; False when it is larger than the client takes (MQTT 5 section 3.1.2-24)."""
        ...

    def release(self, packet_id: int) -> None:
        """Send a PUBREL."""
        ...

    def is_congested(self) -> bool:
        """Whether nothing more should be added to the connection's buffers now."""
        ...

    def disk_refuses(self) -> None:
        """Close the connection, because what the client must be told cannot be stored."""
        ...


class Kept(Protocol):
    """Where deliveries are kept on disk: `whole` of them, of which `live` are still owed, `stored` once committed."""

    id: int
    live: int
    stored: bool
    whole: int

    @property
    def is_sparse(self) -> bool:
        """Whether most of what is there is not owed any more."""
        ...


class Keeper(Protocol):
    """What keeps sessions on disk; `barrier` is settled when everything that it was told so far is there."""

    @property
    def barrier(self) -> Barrier:
        """The next commit."""
        ...

    def enqueue(self, session: "Session", number: int, parcel: Parcel) -> Kept:
        """A message is owed from now on."""
        ...

    def done(self, session: "Session", kept: Kept) -> None:
        """It is not owed any more."""
        ...

    def drop(self, kept: Kept) -> None:
        """One delivery less is owed of what is kept there."""
        ...

    def promise(self, session: "Session") -> Barrier:
        """The session has changed in a way that its client will be told of when the barrier is settled."""
        ...


class House(Protocol):
    """What all sessions of a broker share; `at` is now in ms since the epoch, `queued_bytes` what all lines hold."""

    at: int
    queued_bytes: int
    limits: Limits
    counters: Counters

    @property
    def journal(self) -> Keeper:
        """What keeps sessions on disk."""
        ...


class Session:
    """The state of one client identifier; `key` is its number on disk, 0 when it ends with its connection."""

    __slots__ = (
        "_house", "_inflight", "_restored", "_waiting", "_waiting_bytes", "_zeros", "arriving", "away_since",
        "client_id", "expires", "expiry", "grant", "highest_done", "kept", "key", "last_number", "outlet", "owner",
        "received", "released", "stored_expiry", "subscriptions", "unsaved",
    )  # fmt: skip

    def __init__(self, client_id: str, owner: str | None, house: House) -> None:
        self.client_id = client_id
        self.owner = owner  # the principal that began it
        self.key = 0
        self.expiry = 0  # seconds that it outlives its connection
        self.stored_expiry = -1  # as it is on disk, -1 while it is not there
        self.expires: float | None = None  # monotonic seconds, while its client is away
        self.away_since: int | None = None  # ms since the epoch
        self.grant: Grant | None = None
        self.outlet: Outlet | None = None
        self.subscriptions: dict[str, Subscription] = {}
        self.received: set[int] = set()  # packet identifiers of QoS 2 publishes from the client, until it releases them
        self.arriving: dict[int, tuple[Receipt, int, Barrier]] = {}  # those of `received` that are not kept yet
        self.released: dict[int, int] = {}  # packet identifiers that PUBREC came for, until PUBCOMP; and their numbers
        self.unsaved: set[int] = set()  # those of `released` whose PUBREC is not on disk yet
        self.last_number = 0
        self.highest_done = 0  # the highest number that was on disk and is not owed any more
        self.kept: dict[int, Kept] = {}  # by number, ascending: what is owed and on disk
        self._house = house
        self._inflight: dict[int, tuple[Parcel, int]] = {}
        self._waiting: deque[tuple[Parcel, int, bool]] = deque()  # with number (0 for QoS 0), and whether sent before
        self._waiting_bytes = 0
        self._zeros = 0  # how many in `_waiting` have QoS 0
        self._restored = 0  # the last number that was on disk at the start

    @property
    def ready(self) -> bool:
        """Whether its client is there and takes what it is sent."""
        return self.outlet is not None and not self._waiting and not self.outlet.is_congested()

    @property
    def in_line(self) -> int:
        """How many messages wait to be sent."""
        return len(self._waiting)

    @property
    def waiting(self) -> int:
        """How many messages are owed."""
        return len(self._waiting) + len(self._inflight) + len(self.released)

    # -- messages to the client ---------------------------------------------------------------------------------------

    def deliver(self, parcel: Parcel, *, bounded: bool = True) -> None:
        """Send or queue one message; raise SlowConsumer when the line is full and the client is there.

        The answer to a subscription is not `bounded`: the router holds the retained messages anyway, and bounds them.
        """
        qos = parcel.qos
        if self.outlet is None and not qos:
            return
        number = self.last_number + 1 if qos else 0
        direct = not self._waiting and not (qos == 2 and self.key) and not self._is_blocked(parcel, number)
        if not direct and bounded and not self._has_room(parcel):
            return
        if qos:
            self.last_number = number
            if self.key:
                self.kept[number] = self._house.journal.enqueue(self, number, parcel)
        if direct:
            self._transmit(parcel, number, duplicate=False)
        else:
            self._wait(parcel, number)

    def restore(self, number: int, parcel: Parcel, kept: Kept) -> None:
        """Owe again what was on disk at the start; called in the order of the numbers."""
        self.kept[number] = kept
        # Nobody knows what was sent before the crash; MQTT lets DUP say "perhaps" (5.0 section 3.3.1.1).
        self._restored = number
        self._wait(parcel, number, duplicate=True)

    def acknowledge(self, *packet_ids: int) -> int:
        """PUBACKs came, of one read; returns for how many of them something was outstanding."""
        inflight, known = self._inflight, len(packet_ids)
        for packet_id in packet_ids:
            found = inflight.get(packet_id)
            if found is None or found[0].qos == 2:
                known -= 1
                continue
            del inflight[packet_id]
            if self.kept:
                self._finish(found[1])
        if self._waiting:
            self.resume()
        return known

    def take_received(self, packet_id: int, *, failed: bool) -> bool:
        """A PUBREC came, with a reason that ends the exchange or not; False for an unknown identifier."""
        assert self.outlet is not None
        if packet_id in self.released:
            self._release(packet_id)
            return True
        found = self._inflight.get(packet_id)
        if found is None or found[0].qos != 2:
            return False
        del self._inflight[packet_id]
        if failed:
            self._finish(found[1])
            self.resume()
            return True
        self.released[packet_id] = found[1]
        if self.key:
            self.unsaved.add(packet_id)
        self._release(packet_id)
        return True

    def take_completed(self, packet_id: int) -> bool:
        """A PUBCOMP came; False for an unknown identifier."""
        number = self.released.pop(packet_id, None)
        if number is None:
            return False
        self.unsaved.discard(packet_id)
        self._finish(number)
        self.resume()
        return True

    def resume(self) -> None:
        """Send what waits, as far as the window and the connection allow."""
        waiting = self._waiting
        while waiting:
            parcel, number, duplicate = waiting[0]
            if self._is_blocked(parcel, number):
                return
            waiting.popleft()
            self._leave(parcel)
            self._transmit(parcel, number, duplicate=duplicate)

    # -- the life of the connection -----------------------------------------------------------------------------------

    def attach(self, outlet: Outlet, grant: Grant) -> None:
        """The client is there: send again what it has not acknowledged, in order, then what waits."""
        self.outlet, self.grant, self.expires, self.away_since = outlet, grant, None, None
        for parcel, number in reversed(self._inflight.values()):
            self._enter(parcel)
            self._waiting.appendleft((parcel, number, True))
        self._inflight.clear()
        self.drop_forbidden()

    def drop_forbidden(self) -> None:
        """Leave out what waits and may not be received any more."""
        grant = self.grant
        if grant is not None:
            self._drop_waiting(lambda parcel: not grant.receive(parcel.message.topic), "not authorized")

    def send_again(self) -> None:
        """Go on where the last connection ended; when CONNACK is on its way."""
        assert self.outlet is not None
        for packet_id in self.released:
            self._release(packet_id)
        self.resume()

    def detach(self) -> None:
        """The client is gone; QoS 0 does not wait for it."""
        self.outlet = None
        self._drop_waiting(lambda parcel: not parcel.qos, "subscriber gone")

    def end(self) -> None:
        """Nothing is owed any more."""
        for parcel, _, _ in self._waiting:
            self._leave(parcel)
        for number in list(self.kept):
            self._finish(number)
        self._waiting.clear()
        self._inflight.clear()
        self.released.clear()

    def give_up_shared(self, has_taker: Callable[[Parcel], bool]) -> list[Parcel]:
        """Take out what other members of shared subscriptions can be sent instead: what was not sent, or not
        acknowledged with QoS 1. What was sent with QoS 2 is this client's for ever (MQTT 5 section 4.8.2).
        """
        given = [(p, number) for p, number in self._inflight.values() if p.group and p.qos == 1 and has_taker(p)]
        for _, number in given:
            del self._inflight[packet_id_of(number)]
        staying: deque[tuple[Parcel, int, bool]] = deque()
        for parcel, number, duplicate in self._waiting:
            if parcel.group and not (duplicate and parcel.qos == 2) and has_taker(parcel):
                self._leave(parcel)
                given.append((parcel, number))
            else:
                staying.append((parcel, number, duplicate))
        self._waiting = staying
        if self.kept:
            self._finish_given([number for _, number in given], kept=False)
        return [parcel for parcel, _ in given]

    # -- inside -------------------------------------------------------------------------------------------------------

    def _is_blocked(self, parcel: Parcel, number: int) -> bool:
        outlet = self.outlet
        if outlet is None or outlet.is_congested():
            return True
        if not number:
            return False
        if len(self._inflight) + len(self.released) >= outlet.window:
            return True
        packet_id = packet_id_of(number)
        if packet_id in self._inflight or packet_id in self.released:
            return True
        if not self.kept:
            return False
        kept = self.kept.get(number)
        return number - next(iter(self.kept)) >= SPAN_MAX or (kept is not None and parcel.qos == 2 and not kept.stored)

    def _transmit(self, parcel: Parcel, number: int, *, duplicate: bool) -> None:
        assert self.outlet is not None
        if self._has_expired(parcel, number, duplicate=duplicate):
            self._house.counters.dropped("expired")
            self._finish(number)
        elif not number:
            self.outlet.put(parcel, 0, duplicate=False)
        else:
            packet_id = packet_id_of(number)
            if self.outlet.put(parcel, packet_id, duplicate=duplicate):
                self._inflight[packet_id] = parcel, number
            else:
                self._finish(number)

    def _has_expired(self, parcel: Parcel, number: int, *, duplicate: bool) -> bool:
        """Whether it must not be sent (any more). What was sent already must be sent again (MQTT 5 section 4.4)."""
        if parcel.expires_at is None or parcel.expires_at > self._house.at:
            return False
        # Of QoS 2 the client may have kept the identifier; of QoS 1 that only a crash marks as sent, most was not.
        return not duplicate or (parcel.qos == 1 and number <= self._restored)

    def _release(self, packet_id: int) -> None:
        """Send PUBREL, when the PUBREC that it answers is on disk."""
        assert self.outlet is not None
        if packet_id in self.unsaved:
            self._house.journal.promise(self).then(partial(self._saved, packet_id, self.outlet))
        else:
            self.outlet.release(packet_id)

    def _saved(self, packet_id: int, outlet: Outlet, kept: bool) -> None:
        if kept:
            self.unsaved.discard(packet_id)
        if self.outlet is not outlet or packet_id not in self.released:
            return
        if kept:
            outlet.release(packet_id)
        else:
            outlet.disk_refuses()

    def _finish_given(self, numbers: list[int], kept: bool) -> None:
        """Owe what others were given until they are owed it on disk: a crash must find it with one of them."""
        if kept:
            for number in numbers:
                self._finish(number)
        else:
            self._house.journal.barrier.then(partial(self._finish_given, numbers))

    def _finish(self, number: int) -> None:
        kept = self.kept.pop(number, None)
        if kept is not None:
            self.highest_done = max(number, self.highest_done)
            self._house.journal.done(self, kept)

    def _wait(self, parcel: Parcel, number: int, *, duplicate: bool = False) -> None:
        self._enter(parcel)
        self._waiting.append((parcel, number, duplicate))

    def _enter(self, parcel: Parcel) -> None:
        size = parcel.message.size
        self._waiting_bytes += size + ENTRY_BYTES
        self._zeros += not parcel.qos
        parcel.holders += 1
        self._house.queued_bytes += ENTRY_BYTES + (size if parcel.holders == 1 else 0)

    def _leave(self, parcel: Parcel) -> None:
        size = parcel.message.size
        self._waiting_bytes -= size + ENTRY_BYTES
        self._zeros -= not parcel.qos
        parcel.holders -= 1
        self._house.queued_bytes -= ENTRY_BYTES + (0 if parcel.holders else size)

    def _has_room(self, parcel: Parcel) -> bool:
        """Whether a message may join the line, after dropping QoS 0 for it; it is counted when it may not."""
        limits, house = self._house.limits, self._house
        # All lines together are bounded as well, but those who are away must not cost the place of one who reads.
        share = FAIR_BYTES if self.outlet is not None else 0
        while (
            len(self._waiting) >= limits.queue_messages
            or self._waiting_bytes >= limits.queue_bytes
            or (house.queued_bytes >= limits.queues_bytes and self._waiting_bytes >= share)
        ):
            if not parcel.qos:
                house.counters.dropped("slow subscriber")
                return False
            if self._drop_one_qos0():
                continue
            house.counters.dropped("slow subscriber" if self.outlet is not None else "session queue full")
            if self.outlet is not None:
                raise SlowConsumer
            return False
        return True

    def _drop_one_qos0(self) -> bool:
        if not self._zeros:
            return False
        for index, (parcel, number, _) in enumerate(self._waiting):
            if not number:
                del self._waiting[index]
                self._leave(parcel)
                self._house.counters.dropped("slow subscriber")
                return True
        return False

    def _drop_waiting(self, unwanted: Callable[[Parcel], bool], reason: str) -> None:
        staying: deque[tuple[Parcel, int, bool]] = deque()
        for entry in self._waiting:
            if unwanted(entry[0]):
                self._leave(entry[0])
                self._finish(entry[1])
                self._house.counters.dropped(reason)
            else:
                staying.append(entry)
        self._waiting = staying


def packet_id_of(number: int) -> int:
    """The packet identifier, 1 to 65,535, of the message with a number."""
    return (number - 1) % PACKET_IDS + 1
