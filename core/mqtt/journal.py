"""What of the broker's state must outlive the process: gathered during a turn of the loop, committed together.

Kept: sessions that outlive their connections, their subscriptions and what they are owed, QoS 2 identifiers, retained
messages. Whoever tells a client that something is so asks for a `Barrier` and waits for it. What a client acknowledges
is written later (`Commits.later`): after a crash it is sent that once more, with DUP.

When the disk refuses, changes stay gathered and are tried with the next commit; whoever waited is told.

Without a store (`Journal()`) nothing is kept: sessions live as long as the process.
"""

import sqlite3
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from core.commits import Barrier, Commits, Work
from core.message import Message
from core.mqtt import records
from core.mqtt.parcels import Parcel
from core.mqtt.records import Changes, Delivery, QueuedRecord, Ranges, SessionRecord, SubscriptionRecord
from core.mqtt.session import Kept, Session, Subscription
from core.store import ensure_room
from core.telemetry import get_logger

log = get_logger("core.mqtt.journal")

ROW_MAX_BYTES = 1 << 20  # of messages in a row, so that one slow client does not keep more than that from going
ROW_MAX_MESSAGES = 2_048
SPARSE_BYTES = 16 << 10  # a row of this size of which a quarter is owed is written anew, so that the rest can go
KEPT = Barrier(kept=True)


class Row:
    """Messages that are owed: `live` counts the deliveries that are, `stored` is whether it is on disk."""

    __slots__ = ("deliveries", "id", "live", "messages", "size", "stored", "waiting", "whole")

    def __init__(self, identity: int) -> None:
        self.id = identity
        self.live = 0
        self.whole = 0  # deliveries that it was written with
        self.stored = False
        self.size = 0
        self.messages: list[Message] = []
        self.deliveries: list[Delivery] = []
        self.waiting: list[Session] = []  # those that may go on when it is stored

    @property
    def is_full(self) -> bool:
        """Whether the next message belongs in a new one."""
        return self.size >= ROW_MAX_BYTES or len(self.messages) >= ROW_MAX_MESSAGES

    @property
    def is_sparse(self) -> bool:
        """Whether most of what it holds on disk is not owed any more."""
        return self.stored and self.size >= SPARSE_BYTES and 0 < self.live * 4 <= self.whole

    def add(self, session: Session, number: int, parcel: Parcel) -> None:
        """A message is owed to a session."""
        if not self.messages or self.messages[-1] is not parcel.message:
            self.messages.append(parcel.message)
            self.size += parcel.message.size
        self.live += 1
        self.whole += 1
        index = len(self.messages) - 1
        self.deliveries.append(
            Delivery(index, session.key, number, parcel.qos, parcel.retain, parcel.group, parcel.ids)
        )
        if parcel.qos == 2:
            self.waiting.append(session)


class Journal:
    """The gathered changes of one broker; a part of the daemon's commits. `promises` counts what somebody waits for."""

    def __init__(self, commits: Commits | None = None) -> None:
        self.promises = 0
        self._commits = commits
        self._barrier = Barrier()
        self._last_key = 0
        self._last_row = 0
        self._flying = KEPT  # the commit that is on its way
        self._rows: list[Row] = []
        self._ended: list[int] = []
        self._unforgotten: dict[str, int] = {}  # sessions whose end is not on disk yet: client and key
        self._changed: dict[Session, None] = {}
        self._progressed: dict[Session, None] = {}
        self._subscriptions: dict[tuple[int, str], Subscription | None] = {}
        self._retained: dict[str, Message | None] = {}
        self._retained_flying: dict[str, Message | None] = {}
        self._finished: list[int] = []
        self._sparse: dict[int, Kept] = {}
        if commits is not None:
            commits.join(self)

    @property
    def keeps(self) -> bool:
        """Whether there is a disk to keep anything on."""
        return self._commits is not None

    @property
    def barrier(self) -> Barrier:
        """Settled when everything gathered so far is on disk."""
        return self._barrier if self._commits is not None else KEPT

    @property
    def caught_up(self) -> Barrier:
        """Settled when everything that it was told before is on disk: for an answer that memory alone could give."""
        if self._commits is not None and self._has_gathered():
            self._commits.soon()
            return self._barrier
        return self._flying

    def still_has(self, client_id: str) -> bool:
        """Whether the disk may have a session of a client that has ended."""
        return client_id in self._unforgotten

    def still_retains(self, topic: str) -> bool:
        """Whether the disk may have a retained message that was cleared."""
        return topic in self._retained or topic in self._retained_flying

    @property
    def retained_changes(self) -> int:
        """How many retained messages it has to write."""
        return len(self._retained)

    # -- what the broker tells ----------------------------------------------------------------------------------------

    def begin(self, session: Session) -> Barrier:
        """A session is to outlive its connection from now on; what it subscribed to before is kept as well."""
        if self._commits is None:
            return KEPT
        if not session.key:
            self._last_key += 1
            session.key = self._last_key
            for subscription in session.subscriptions.values():
                self._subscriptions[session.key, subscription.pattern] = subscription
        return self.promise(session)

    def end(self, session: Session) -> None:
        """A session has ended, and with it everything that it was owed."""
        owed = list(session.kept.values())
        session.kept.clear()
        session.end()
        if not session.key or self._commits is None:
            return
        self._changed.pop(session, None)
        self._progressed.pop(session, None)
        self._ended.append(session.key)
        self._unforgotten[session.client_id] = session.key
        session.key, session.stored_expiry = 0, -1
        self._commits.soon()
        # Other members of its shared subscriptions may be owed the same from this commit on, and not before.
        self._barrier.then(partial(self._drop_all, owed))

    def promise(self, session: Session) -> Barrier:
        """The session itself has changed: its client came or went, or QoS 2 identifiers did."""
        if not session.key:
            return KEPT
        self._changed[session] = None
        return self._promised()

    def subscribed(self, subscription: Subscription) -> Barrier:
        """A subscription was made or changed."""
        return self._keep_subscription(subscription.session, subscription.pattern, subscription)

    def unsubscribed(self, session: Session, pattern: str) -> Barrier:
        """A subscription has ended."""
        return self._keep_subscription(session, pattern, None)

    def retained(self, topic: str, message: Message | None) -> None:
        """The retained message of a topic was set or cleared."""
        if self._commits is not None:
            self._retained[topic] = message
            self._promised()

    def enqueue(self, session: Session, number: int, parcel: Parcel) -> Row:
        """A message is owed to a session; it is on disk when the barrier of now is settled."""
        row = self._rows[-1] if self._rows else None
        if row is None or (row.is_full and row.messages[-1] is not parcel.message):
            self._last_row += 1
            row = Row(self._last_row)
            self._rows.append(row)
        row.add(session, number, parcel)
        self._promised()
        return row

    def done(self, session: Session, kept: Kept) -> None:
        """A message is not owed any more."""
        self._progressed[session] = None
        self.drop(kept)

    def drop(self, kept: Kept) -> None:
        """One delivery less is owed of a row; the last one takes it away."""
        kept.live -= 1
        if not kept.live:
            self._finished.append(kept.id)
        elif kept.is_sparse:
            self._sparse[kept.id] = kept
        if self._commits is not None:
            self._commits.later()

    def _drop_all(self, owed: list[Kept], kept: bool) -> None:
        if kept:
            for row in owed:
                self.drop(row)
        else:
            self.barrier.then(partial(self._drop_all, owed))

    def _keep_subscription(self, session: Session, pattern: str, subscription: Subscription | None) -> Barrier:
        if not session.key:
            return KEPT
        self._subscriptions[session.key, pattern] = subscription
        return self._promised()

    def _promised(self) -> Barrier:
        assert self._commits is not None
        self.promises += 1
        self._commits.soon()
        return self._barrier

    # -- commits ------------------------------------------------------------------------------------------------------

    def gather(self) -> Work | None:
        """This turn's promises; what nobody waits for is submitted beside them, where a full disk does not stop it."""
        self._submit_progress()
        if not self._has_gathered():
            return None
        assert self._commits is not None
        barrier, self._barrier = self._barrier, Barrier()
        self._flying = barrier
        rows, self._rows = [row for row in self._rows if row.live], []
        gathered = (rows, self._ended, self._changed, self._subscriptions, self._retained)
        self._retained_flying = self._retained
        self._ended, self._changed, self._subscriptions, self._retained = [], {}, {}, {}
        changes, path = _changes(*gathered), self._commits.store.path
        ended, expiries = set(gathered[1]), [record.expiry for record in changes.sessions]

        def written(_: object, error: Exception | None) -> None:
            self._flying, self._retained_flying = KEPT, {}
            if error is None:
                self._stored(rows)
                self._unforgotten = {name: key for name, key in self._unforgotten.items() if key not in ended}
                for session, expiry in zip(gathered[2], expiries, strict=True):
                    if session.key:
                        session.stored_expiry = expiry
            else:
                log.error("sessions cannot be stored; clients are not acknowledged", error=error)
                self._gather_again(*gathered)
            barrier.settle(kept=error is None)

        return Work(lambda connection: _write(connection, changes, path), written)

    def _has_gathered(self) -> bool:
        return bool(self._rows or self._changed or self._ended or self._subscriptions or self._retained)

    def _submit_progress(self) -> None:
        commits, progressed, finished = self._commits, self._progressed, self._finished
        sparse = [row for row in self._sparse.values() if row.is_sparse]
        self._progressed, self._finished, self._sparse = {}, [], {}
        if commits is None or not (progressed or finished):
            return
        sessions = [_record(session) for session in progressed if session.key]
        for row in sparse:
            row.whole = row.live

        def write(connection: sqlite3.Connection) -> None:
            records.progress(connection, sessions, finished)
            records.shrink(connection, [row.id for row in sparse])

        def written(_: object, error: Exception | None) -> None:
            if error is not None:
                log.warning("acknowledgements cannot be stored; a crash would have them asked for again", error=error)
                self._progressed = {**progressed, **self._progressed}
                self._finished = finished + self._finished
                commits.refused(error)
                commits.later()

        commits.store.submit(write, written)

    def _stored(self, rows: Iterable[Row]) -> None:
        for row in rows:
            row.stored = True
            row.messages, row.deliveries = [], []
            waiting, row.waiting = row.waiting, []
            for session in dict.fromkeys(waiting):
                session.resume()
            if not row.live and self._commits is not None:
                self._finished.append(row.id)  # its end came before it was there
                self._commits.later()

    def _gather_again(
        self, rows: list[Row], ended: list[int], changed: dict[Session, None],
        subscriptions: dict[tuple[int, str], Subscription | None], retained: dict[str, Message | None],
    ) -> None:  # fmt: skip
        self._rows = rows + self._rows
        self._ended = ended + self._ended
        self._changed = {session: None for session in (*changed, *self._changed) if session.key}
        self._subscriptions = {**subscriptions, **self._subscriptions}
        self._retained = {**retained, **self._retained}

    def continue_from(self, stored: records.Stored) -> None:
        """Give out keys and row numbers beyond those on disk, also those of sessions that have left something there."""
        owed = (delivery.session for record in stored.queued for delivery in record.deliveries)
        subscribed = (record.session for record in stored.subscriptions)
        self._last_key = max(*(record.key for record in stored.sessions), *owed, *subscribed, 0, 0)
        self._last_row = stored.last_row


def _changes(
    rows: Iterable[Row], ended: list[int], changed: Iterable[Session],
    subscriptions: dict[tuple[int, str], Subscription | None], retained: dict[str, Message | None],
) -> Changes:  # fmt: skip
    gone = set(ended)  # what they subscribed to just before their end may have gathered with it
    subscriptions = {key: s for key, s in subscriptions.items() if key[0] not in gone}
    return Changes(
        ended=list(ended),
        sessions=[_record(session) for session in changed],
        unsubscribed=[key for key, subscription in subscriptions.items() if subscription is None],
        subscribed=[
            SubscriptionRecord(key[0], s.pattern, s.qos, s.no_local, s.retain_as_published, s.identifier)
            for key, s in subscriptions.items()
            if s is not None
        ],
        queued=[QueuedRecord(row.id, list(row.messages), list(row.deliveries)) for row in rows],
        retained=[message for message in retained.values() if message is not None],
        cleared=[topic for topic, message in retained.items() if message is None],
    )


def _record(session: Session) -> SessionRecord:
    kept = session.kept
    last = session.last_number
    floor = next(iter(kept), last + 1)
    done: Ranges = []
    following = floor
    for number in kept:
        if number > session.highest_done:
            break
        if number > following:
            done.append((following, number - 1))
        following = number + 1
    if following <= session.highest_done:
        done.append((following, session.highest_done))
    return SessionRecord(
        session.key, session.client_id, session.owner, session.expiry, session.away_since, last, floor, done,
        list(session.released.values()), sorted(session.received),
    )  # fmt: skip


def _write(connection: sqlite3.Connection, changes: Changes, path: Path) -> None:
    if changes.grows:
        ensure_room(connection, path)
    records.write(connection, changes)
