"""Firehose-shaped streams: records gather in SQLite until they are many or old, then become one object.

Decides which pending records make an object, when, and what it is called. Delivery is exactly once across a
crash, by three steps of which each may be repeated:

    decide   transaction: the object's name and the range of records it takes are written down
    write    durably, under that name; the same range gives the same bytes (`delivery`, `objects`)
    settle   transaction: those records and the decision are deleted

After a crash `decide` finds the decision that was written down and gives it again. Will not separate records
(the rule's `separator` does) nor touch files.

Invariants:
1. A record is pending, or in exactly one object that is complete.
2. A stream has at most one decision; an object takes records in the order they came, all of one stream.
3. An object holds less than the stream's size plus `BATCH_BYTES_MAX`, before compression.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cloud.targets import Rejected, UnknownTarget
from cloud.targets.config import StreamConfig
from cloud.targets.names import Prefix, object_name

RECORD_BYTES_MAX = 1_024_000  # Firehose's limit (1000 KiB), so that a record taken here is taken there
BATCH_BYTES_MAX = 1_048_576  # a row of the database, and the step in which an object passes through memory

SCHEMA = """
CREATE TABLE IF NOT EXISTS stream_batches (
    id INTEGER PRIMARY KEY,
    stream TEXT NOT NULL,
    arrived_ms INTEGER NOT NULL,
    records INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    data BLOB NOT NULL          -- the records, concatenated
);
CREATE INDEX IF NOT EXISTS stream_batches_pending ON stream_batches (stream, id, arrived_ms, records, bytes);
CREATE TABLE IF NOT EXISTS stream_objects (
    stream TEXT PRIMARY KEY,
    key TEXT NOT NULL,
    compression TEXT NOT NULL,
    last_id INTEGER NOT NULL,
    records INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stream_state (
    stream TEXT PRIMARY KEY,
    version INTEGER NOT NULL,   -- in object names: grows when the configuration changes
    config TEXT NOT NULL,
    objects INTEGER NOT NULL DEFAULT 0,
    records INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
"""

_EXTENSIONS = {"GZIP": ".gz", "UNCOMPRESSED": ""}


class InvalidRecord(ValueError):
    """Why a record cannot be kept; becomes the reason of a Rejected."""


@dataclass(frozen=True, slots=True)
class Object:
    """A decision: the stream's batches up to row `last_id` go under `key`; `bytes` is before compression."""

    stream: str
    key: str
    compression: str
    last_id: int
    records: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Pending:
    """The oldest batches of a stream, enough for one object or all there are."""

    last_id: int
    oldest_ms: int
    records: int
    bytes: int


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """What a stream holds and has delivered; bytes are before compression, `oldest_ms` is None when nothing waits."""

    pending_records: int
    pending_bytes: int
    oldest_ms: int | None
    delivered_objects: int
    delivered_records: int
    delivered_bytes: int


def left_ms(since_ms: int, span_ms: int, now_ms: int) -> int:
    """Milliseconds until `span_ms` have passed since `since_ms`; 0 also when the clock jumped back by more."""
    return max(0, span_ms - abs(now_ms - since_ms))


class Streams:
    """The configured streams; holds no connection, every method is given one, inside a transaction."""

    def __init__(self, config: Mapping[str, StreamConfig]) -> None:
        self._config = dict(config)
        self._prefixes = {stream: Prefix(settings.prefix) for stream, settings in config.items()}

    def check(self, stream: str) -> None:
        """Raise UnknownTarget unless `stream` is configured."""
        if stream not in self._config:
            raise UnknownTarget("stream", stream, self._config)

    def open(self, connection: sqlite3.Connection) -> None:
        """Give each stream the version of its configuration: 1 at first, one more after every change."""
        for stream, config in self._config.items():
            connection.execute(
                """INSERT INTO stream_state (stream, version, config) VALUES (?, 1, ?)
                ON CONFLICT (stream) DO UPDATE SET version = version + 1, config = excluded.config
                WHERE config != excluded.config""",
                (stream, config.model_dump_json()),
            )

    def append(
        self, connection: sqlite3.Connection, stream: str, records: Sequence[bytes], now_ms: int
    ) -> list[Rejected]:
        """Keep records, in order, until they are delivered; returns those too large to be one."""
        self.check(stream)
        rejected: list[Rejected] = []
        for index, record in enumerate(records):
            try:
                checked(record)
            except InvalidRecord as error:
                rejected.append(Rejected(index, str(error)))
        connection.executemany(
            "INSERT INTO stream_batches (stream, arrived_ms, records, bytes, data) VALUES (?, ?, ?, ?, ?)",
            ((stream, now_ms, len(batch), size, b"".join(batch)) for batch, size in _batches(records)),
        )
        return rejected

    def decide(
        self, connection: sqlite3.Connection, stream: str, now_ms: int, uuid: str, *, flush_to: int = 0
    ) -> Object | int:
        """The object to write now, written down; or in how many milliseconds to ask again.

        `uuid` goes into the name of a new object. Batches up to row `flush_to` are taken whether they are due
        or not.
        """
        decided = _decided(connection, stream)
        if decided:
            return decided
        config = self._config[stream]
        pending = _pending(connection, stream, config.size, flush_to)
        wait_ms = due_in_ms(config, pending, now_ms)
        if pending is None or (wait_ms > 0 and not flush_to):
            return wait_ms
        extension = _EXTENSIONS[config.compression]
        key = object_name(
            self._prefixes[stream], stream, _version(connection, stream), pending.oldest_ms, uuid, extension
        )
        decision = Object(stream, key, config.compression, pending.last_id, pending.records, pending.bytes)
        connection.execute(
            "INSERT INTO stream_objects VALUES (?, ?, ?, ?, ?, ?)",
            (stream, key, decision.compression, decision.last_id, decision.records, decision.bytes),
        )
        return decision

    def settle(self, connection: sqlite3.Connection, written: Object) -> None:
        """Forget the records of an object that is durably written."""
        connection.execute("DELETE FROM stream_batches WHERE stream = ? AND id <= ?", (written.stream, written.last_id))
        connection.execute("DELETE FROM stream_objects WHERE stream = ?", (written.stream,))
        connection.execute(
            """UPDATE stream_state SET objects = objects + 1, records = records + ?, bytes = bytes + ?
            WHERE stream = ?""",
            (written.records, written.bytes, written.stream),
        )


def checked(record: bytes) -> bytes:
    """The record, when it can be one. Raises InvalidRecord."""
    if len(record) > RECORD_BYTES_MAX:
        raise InvalidRecord(f"the record has {len(record):,} bytes, more than {RECORD_BYTES_MAX:,}")
    return record


def due_in_ms(config: StreamConfig, pending: Pending | None, now_ms: int) -> int:
    """In how many milliseconds the pending records are due: at once when they reach the size, else by their age."""
    if pending is None:
        return config.interval_ms
    if pending.bytes >= config.size:
        return 0
    return left_ms(pending.oldest_ms, config.interval_ms, now_ms)


def newest_id(connection: sqlite3.Connection, stream: str) -> int:
    """The row of the newest pending batch, 0 when nothing is pending: how far a flush goes."""
    newest: int = connection.execute(
        "SELECT coalesce(max(id), 0) FROM stream_batches WHERE stream = ?", (stream,)
    ).fetchone()[0]
    return newest


def contents(connection: sqlite3.Connection, decided: Object) -> Iterator[bytes]:
    """The batches of an object, in order, each at most BATCH_BYTES_MAX."""
    rows = connection.execute(
        "SELECT data FROM stream_batches WHERE stream = ? AND id <= ? ORDER BY id",
        (decided.stream, decided.last_id),
    )
    return (data for (data,) in rows)


def status(connection: sqlite3.Connection, stream: str) -> StreamStatus:
    """What a stream holds and has delivered since its first day."""
    pending = connection.execute(
        """SELECT coalesce(sum(records), 0), coalesce(sum(bytes), 0), min(arrived_ms)
        FROM stream_batches WHERE stream = ?""",
        (stream,),
    ).fetchone()
    delivered = connection.execute(
        "SELECT objects, records, bytes FROM stream_state WHERE stream = ?", (stream,)
    ).fetchone()
    return StreamStatus(*pending, *(delivered or (0, 0, 0)))


def _decided(connection: sqlite3.Connection, stream: str) -> Object | None:
    row = connection.execute(
        "SELECT stream, key, compression, last_id, records, bytes FROM stream_objects WHERE stream = ?",
        (stream,),
    ).fetchone()
    return Object(*row) if row else None


def _version(connection: sqlite3.Connection, stream: str) -> int:
    row = connection.execute("SELECT version FROM stream_state WHERE stream = ?", (stream,)).fetchone()
    version: int = row[0]
    return version


def _pending(connection: sqlite3.Connection, stream: str, size: int, flush_to: int) -> Pending | None:
    rows = connection.execute(
        "SELECT id, arrived_ms, records, bytes FROM stream_batches WHERE stream = ? AND id <= ? ORDER BY id",
        (stream, flush_to or 2**63 - 1),
    )
    last_id = oldest_ms = records = total = 0
    for last_id, arrived_ms, count, length in rows:  # noqa: B007 - the last one is used
        oldest_ms = min(oldest_ms or arrived_ms, arrived_ms)
        records += count
        total += length
        if total >= size:
            break
    return Pending(last_id, oldest_ms, records, total) if records else None


def _batches(records: Sequence[bytes]) -> Iterator[tuple[list[bytes], int]]:
    batch: list[bytes] = []
    size = 0
    for record in records:
        if len(record) > RECORD_BYTES_MAX:
            continue
        if size + len(record) > BATCH_BYTES_MAX:
            yield batch, size
            batch, size = [], 0
        batch.append(record)
        size += len(record)
    if batch:
        yield batch, size
