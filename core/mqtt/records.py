"""The tables of the broker's state and every statement on them; functions of an open connection, inside a transaction.

A row of `mqtt_queued` holds the messages of one commit as a block, and to whom each is owed; it goes when nothing of
it is owed any more. What a session has got of it follows from the session's row: everything below `floor`, and what is
in `done`. All identifiers are given by `journal`.
"""

import sqlite3
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from core import blocks
from core.message import Message
from core.telemetry import get_logger

log = get_logger("core.mqtt.records")

SCHEMA = """
CREATE TABLE IF NOT EXISTS mqtt_sessions(
    key INTEGER PRIMARY KEY, client_id TEXT NOT NULL, owner TEXT, expiry INTEGER NOT NULL, away_since INTEGER,
    last_number INTEGER NOT NULL, floor INTEGER NOT NULL, done BLOB NOT NULL, released BLOB NOT NULL,
    received BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS mqtt_subscriptions(
    session INTEGER NOT NULL, pattern TEXT NOT NULL, qos INTEGER NOT NULL, no_local INTEGER NOT NULL,
    retain_as_published INTEGER NOT NULL, identifier INTEGER NOT NULL, PRIMARY KEY(session, pattern)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mqtt_queued(id INTEGER PRIMARY KEY, block BLOB NOT NULL, deliveries BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS mqtt_retained(topic TEXT PRIMARY KEY, block BLOB NOT NULL);
"""
Ranges = list[tuple[int, int]]  # of numbers, first and last, ascending
TABLES = ("mqtt_sessions", "mqtt_subscriptions", "mqtt_queued", "mqtt_retained")


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A row of `mqtt_sessions`; `away_since` is ms since the epoch, None while the client is connected.

    `done` are ranges of numbers (first, last) from `floor` on that are not owed any more, `released` numbers that wait
    for PUBCOMP, `received` the packet identifiers of QoS 2 publishes that the client has not released.
    """

    key: int
    client_id: str
    owner: str | None
    expiry: int
    away_since: int | None
    last_number: int
    floor: int
    done: Ranges
    released: list[int]
    received: list[int]

    def row(self) -> tuple[Any, ...]:
        """As the table has it."""
        lists = (orjson.dumps(numbers) for numbers in (self.done, self.released, self.received))
        return (
            self.key, self.client_id, self.owner, self.expiry, self.away_since, self.last_number, self.floor, *lists
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class SubscriptionRecord:
    """A row of `mqtt_subscriptions`."""

    session: int
    pattern: str
    qos: int
    no_local: bool
    retain_as_published: bool
    identifier: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """To whom the message at `index` of its row is owed, under which number, and how."""

    index: int
    session: int
    number: int
    qos: int
    retain: bool
    group: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class QueuedRecord:
    """A row of `mqtt_queued`."""

    id: int
    messages: Sequence[Message]
    deliveries: Sequence[Delivery]


@dataclass(slots=True)
class Changes:
    """One commit's worth; a session, subscription or retained message stands here with its last state."""

    ended: list[int] = field(default_factory=list)
    sessions: list[SessionRecord] = field(default_factory=list)
    unsubscribed: list[tuple[int, str]] = field(default_factory=list)
    subscribed: list[SubscriptionRecord] = field(default_factory=list)
    queued: list[QueuedRecord] = field(default_factory=list)
    retained: list[Message] = field(default_factory=list)
    cleared: list[str] = field(default_factory=list)

    @property
    def grows(self) -> bool:
        """Whether it takes disk space."""
        return bool(self.sessions or self.subscribed or self.queued or self.retained)


@dataclass(frozen=True, slots=True)
class Stored:
    """Everything that is on disk."""

    sessions: list[SessionRecord]
    subscriptions: list[SubscriptionRecord]
    queued: list[QueuedRecord]
    retained: list[Message]
    last_row: int  # of `mqtt_queued`, those that cannot be read included


def write(connection: sqlite3.Connection, changes: Changes) -> None:
    """Store one commit's changes."""
    for key in changes.ended:
        connection.execute("DELETE FROM mqtt_sessions WHERE key = ?", (key,))
        connection.execute("DELETE FROM mqtt_subscriptions WHERE session = ?", (key,))
    _execute_all(
        connection,
        "INSERT OR REPLACE INTO mqtt_sessions VALUES (?,?,?,?,?,?,?,?,?,?)",
        (record.row() for record in changes.sessions),
    )
    _execute_all(
        connection, "DELETE FROM mqtt_subscriptions WHERE session = ? AND pattern = ?", changes.unsubscribed
    )
    _execute_all(
        connection,
        "INSERT OR REPLACE INTO mqtt_subscriptions VALUES (?,?,?,?,?,?)",
        ((s.session, s.pattern, s.qos, s.no_local, s.retain_as_published, s.identifier) for s in changes.subscribed),
    )
    _execute_all(
        connection,
        "INSERT OR REPLACE INTO mqtt_queued VALUES (?,?,?)",
        ((q.id, blocks.encode(q.messages), _encode(q.deliveries)) for q in changes.queued),
    )
    _execute_all(
        connection,
        "INSERT OR REPLACE INTO mqtt_retained VALUES (?,?)",
        ((message.topic, blocks.encode([message])) for message in changes.retained),
    )
    _execute_all(connection, "DELETE FROM mqtt_retained WHERE topic = ?", ((topic,) for topic in changes.cleared))


def progress(connection: sqlite3.Connection, sessions: Iterable[SessionRecord], finished: Iterable[int]) -> None:
    """Store how far sessions have got, where they are on disk, and delete the rows of which nothing is owed."""
    for record in sessions:
        connection.execute(
            "UPDATE mqtt_sessions SET floor = ?, done = ?, last_number = max(last_number, ?) WHERE key = ?",
            (record.floor, orjson.dumps(record.done), record.last_number, record.key),
        )
    _execute_all(connection, "DELETE FROM mqtt_queued WHERE id = ?", ((identity,) for identity in finished))


def shrink(connection: sqlite3.Connection, identities: Iterable[int]) -> None:
    """Write rows anew with what is still owed of them, so that one message does not keep a million bytes on disk."""
    for identity in identities:
        row = connection.execute("SELECT block, deliveries FROM mqtt_queued WHERE id = ?", (identity,)).fetchone()
        if row is None:
            continue
        messages, owed = _messages(row[0], f"queued messages {identity}"), _deliveries(row[1])
        owed = [d for d in owed if d.index < len(messages) and is_owed(_state(connection, d.session), d.number)]
        places = {index: place for place, index in enumerate(dict.fromkeys(d.index for d in owed))}
        if owed:
            connection.execute(
                "UPDATE mqtt_queued SET block = ?, deliveries = ? WHERE id = ?",
                (
                    blocks.encode([messages[index] for index in places]),
                    _encode(replace(d, index=places[d.index]) for d in owed),
                    identity,
                ),
            )


def is_owed(state: tuple[int, Ranges] | None, number: int) -> bool:
    """Whether a session, whose floor and ranges `state` has, is owed a number; None is a session that has ended."""
    if state is None or number < state[0]:
        return False
    place = bisect_right(state[1], number, key=lambda one: one[0]) - 1
    return place < 0 or number > state[1][place][1]


def _state(connection: sqlite3.Connection, session: int) -> tuple[int, Ranges] | None:
    row = connection.execute("SELECT floor, done FROM mqtt_sessions WHERE key = ?", (session,)).fetchone()
    try:
        return (row[0], _ranges(row[1])) if row is not None else None
    except (TypeError, ValueError):
        return 0, []  # damaged: everything


def _ranges(blob: bytes) -> Ranges:
    return [(first, last) for first, last in orjson.loads(blob)]


def load(connection: sqlite3.Connection) -> Stored:
    """Everything, sessions and queued messages in the order of their keys; what cannot be read is logged and left."""
    connection.text_factory = lambda text: text.decode(errors="replace")  # a damaged name must not stop the daemon
    try:
        return _load(connection)
    finally:
        connection.text_factory = str


def _load(connection: sqlite3.Connection) -> Stored:
    rows = connection.execute("SELECT * FROM mqtt_sessions ORDER BY key")
    sessions = [record for row in rows if (record := _session(row)) is not None]
    subscriptions = [
        SubscriptionRecord(session, pattern, qos, bool(no_local), bool(as_published), identifier)
        for session, pattern, qos, no_local, as_published, identifier in connection.execute(
            "SELECT * FROM mqtt_subscriptions"
        )
    ]
    queued = [
        QueuedRecord(identity, messages, owed)
        for identity, block, deliveries in connection.execute("SELECT * FROM mqtt_queued ORDER BY id")
        if (messages := _messages(block, f"queued messages {identity}")) and (owed := _deliveries(deliveries))
    ]
    retained = [
        messages[0]
        for topic, block in connection.execute("SELECT * FROM mqtt_retained")
        if (messages := _messages(block, f"retained message of {topic}"))
    ]
    (last_row,) = connection.execute("SELECT coalesce(max(id), 0) FROM mqtt_queued").fetchone()
    return Stored(sessions, subscriptions, queued, retained, last_row)


def salvage(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """Copy everything that can be read from a damaged database: each table from its front, and from its back."""
    for table in TABLES:
        for direction in ("ASC", "DESC"):
            with suppress(sqlite3.Error):
                for row in source.execute(f"SELECT * FROM {table} ORDER BY 1 {direction}"):
                    marks = ",".join("?" * len(row))
                    target.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", row)


def _execute_all(connection: sqlite3.Connection, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
    connection.executemany(statement, rows)


def _encode(deliveries: Iterable[Delivery]) -> bytes:
    return orjson.dumps([(d.index, d.session, d.number, d.qos, d.retain, d.group, d.ids) for d in deliveries])


def _deliveries(blob: bytes) -> list[Delivery]:
    try:
        return [
            Delivery(index, session, number, qos, retain, group, tuple(ids))
            for index, session, number, qos, retain, group, ids in orjson.loads(blob)
        ]
    except (TypeError, ValueError) as error:
        log.error("damaged on disk", what="who is owed queued messages", error=error)
        return []


def _session(row: tuple[Any, ...]) -> SessionRecord | None:
    try:
        lists: list[Any] = [_ranges(row[7]), *(list(orjson.loads(numbers)) for numbers in row[8:])]
        return SessionRecord(*row[:7], *lists)
    except (TypeError, ValueError) as error:
        log.error("damaged on disk", what=f"the session of {row[1]}", error=error)
        return None


def _messages(block: bytes, what: str) -> list[Message]:
    try:
        return blocks.decode(block)
    except blocks.MalformedBlock as error:
        log.error("damaged on disk", what=what, error=error)
        return []
