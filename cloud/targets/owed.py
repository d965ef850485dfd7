"""What each subscription of a topic is owed: kept until it is delivered, or given up and counted.

Decides when a delivery is tried again and when no more, in SNS's terms: 50 attempts over 6 hours. The
notifications themselves are kept by `alerts`, which owes them here; `notifier` sends them.

Invariants:
1. Every delivery ends as delivered or as failed, both counted; a failed one stays visible with its reason as
   long as its notification does.
2. Only after an attempt that failed is anything given up for its age, so a subscription that works gets also
   what waited long.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

ATTEMPTS_MAX = 50  # what SNS gives an endpoint that its customer runs: 50 attempts
AGE_MAX_MS = 6 * 3_600_000  # over 6 hours
RETRY_MS = 500  # the ceiling after the first failure; it doubles with every further one
RETRY_MS_MAX = 600_000  # and stays at ten minutes, which makes 50 attempts last 6 hours

SCHEMA = """
CREATE TABLE IF NOT EXISTS alert_deliveries (
    topic TEXT NOT NULL,
    subscription TEXT NOT NULL,
    number INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_ms INTEGER NOT NULL,
    failed INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    PRIMARY KEY (topic, subscription, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS alert_deliveries_due
    ON alert_deliveries (topic, subscription, next_ms) WHERE NOT failed;
CREATE INDEX IF NOT EXISTS alert_deliveries_age
    ON alert_deliveries (topic, subscription, at_ms) WHERE NOT failed;
CREATE INDEX IF NOT EXISTS alert_deliveries_number ON alert_deliveries (number);
CREATE TABLE IF NOT EXISTS alert_counts (
    topic TEXT NOT NULL,
    subscription TEXT NOT NULL,
    delivered INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, subscription)
) WITHOUT ROWID;
"""


class Due(NamedTuple):
    """A notification that one subscription is owed now."""

    number: int
    attempts: int
    message_id: str
    at_ms: int
    subject: str | None
    message: str
    structured: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: delivered (no error), to be tried again, or `final`."""

    number: int
    attempts: int
    error: str | None = None
    final: bool = False

    @property
    def again(self) -> bool:
        """Whether it should be tried again."""
        return self.error is not None and not self.final and self.attempts < ATTEMPTS_MAX


class Failed(NamedTuple):
    """A notification that one subscription never got, and why."""

    message_id: str
    topic: str
    subscription: str
    at_ms: int
    attempts: int
    error: str


class Tally(NamedTuple):
    """What became of what one subscription was owed, since its first day."""

    waiting: int
    delivered: int
    failed: int


def retry_ms(failures: int, random: float) -> int:
    """How long to wait after so many failures: between half and all of a ceiling that doubles; `random` in [0, 1)."""
    ceiling = min(RETRY_MS_MAX, RETRY_MS << min(failures - 1, 16))
    return round(ceiling * (1 + random) / 2)


def owe(connection: sqlite3.Connection, subscription: str, after: int) -> None:
    """A subscription is owed every notification with a number greater than `after`, from now on."""
    connection.execute(
        """INSERT INTO alert_deliveries (topic, subscription, number, at_ms, next_ms)
        SELECT topic, ?, number, at_ms, at_ms FROM alert_notifications WHERE number > ?""",
        (subscription, after),
    )


def due(
    connection: sqlite3.Connection, topic: str, subscription: str, now_ms: int, limit: int
) -> tuple[list[Due], int | None]:
    """What one subscription is owed now, up to `limit`, and in how many milliseconds more may be (None:
    nothing waits).

    What would wait longer than any back-off, because the clock jumped back, is due.
    """
    rows = connection.execute(
        """SELECT number, attempts, message_id, n.at_ms, subject, message, structured
        FROM alert_deliveries d JOIN alert_notifications n USING (number)
        WHERE d.topic = ? AND subscription = ? AND NOT failed AND (next_ms <= ? OR next_ms > ?)
        ORDER BY next_ms, number LIMIT ?""",
        (topic, subscription, now_ms, now_ms + RETRY_MS_MAX, limit),
    ).fetchall()
    if rows:
        return [Due(*row) for row in rows], 0
    soonest = connection.execute(
        "SELECT min(next_ms) FROM alert_deliveries WHERE topic = ? AND subscription = ? AND NOT failed",
        (topic, subscription),
    ).fetchone()[0]
    return [], None if soonest is None else soonest - now_ms


def settle(
    connection: sqlite3.Connection,
    topic: str,
    subscription: str,
    outcomes: Iterable[Outcome],
    now_ms: int,
    random: float,
) -> None:
    """Record how attempts ended. After one that failed, everything over 6 hours old is given up."""
    for outcome in outcomes:
        here = (topic, subscription, outcome.number)
        if outcome.error is None:
            connection.execute("DELETE FROM alert_deliveries WHERE topic = ? AND subscription = ? AND number = ?", here)
            _count(connection, topic, subscription, delivered=1)
            continue
        connection.execute(
            """UPDATE alert_deliveries SET attempts = ?, next_ms = ?, error = ?
            WHERE topic = ? AND subscription = ? AND number = ?""",
            (outcome.attempts, now_ms + retry_ms(outcome.attempts, random), outcome.error, *here),
        )
        if outcome.again:
            reason = f"given up after 6 hours: {outcome.error}"
            give_up(connection, topic, subscription, reason, "at_ms < ?", now_ms - AGE_MAX_MS)
        else:
            give_up(connection, topic, subscription, outcome.error, "number = ?", outcome.number)


def give_up(
    connection: sqlite3.Connection, topic: str, subscription: str, error: str, which: str, *values: int
) -> None:
    """What a subscription still waits for, as far as the SQL condition `which` holds, has failed for good."""
    given_up = connection.execute(
        f"""UPDATE alert_deliveries SET failed = 1, error = ?
        WHERE topic = ? AND subscription = ? AND NOT failed AND {which}""",
        (error, topic, subscription, *values),
    )
    _count(connection, topic, subscription, failed=given_up.rowcount)


def _count(
    connection: sqlite3.Connection, topic: str, subscription: str, *, delivered: int = 0, failed: int = 0
) -> None:
    connection.execute(
        """INSERT INTO alert_counts VALUES (?, ?, ?, ?) ON CONFLICT (topic, subscription)
        DO UPDATE SET delivered = delivered + excluded.delivered, failed = failed + excluded.failed""",
        (topic, subscription, delivered, failed),
    )


def forget(connection: sqlite3.Connection, last: int) -> None:
    """Drop the deliveries of notifications up to number `last`; those still waiting count as failed."""
    for topic, subscription, waiting in connection.execute(
        """SELECT topic, subscription, count(*) FROM alert_deliveries WHERE number <= ? AND NOT failed
        GROUP BY topic, subscription""",
        (last,),
    ).fetchall():
        _count(connection, topic, subscription, failed=waiting)
    connection.execute("DELETE FROM alert_deliveries WHERE number <= ?", (last,))


def failures(connection: sqlite3.Connection, topic: str, limit: int) -> list[Failed]:
    """The newest failed deliveries of a topic, up to `limit`, oldest first; they stay as long as the notification."""
    rows = connection.execute(
        """SELECT message_id, d.topic, subscription, d.at_ms, attempts, error
        FROM alert_deliveries d JOIN alert_notifications n USING (number) WHERE d.topic = ? AND failed
        ORDER BY number DESC LIMIT ?""",
        (topic, limit),
    )
    return [Failed(*row) for row in rows][::-1]


def tally(connection: sqlite3.Connection, topic: str, subscription: str) -> Tally:
    """The counts of one subscription."""
    place = (topic, subscription)
    waiting = connection.execute(
        "SELECT count(*) FROM alert_deliveries WHERE topic = ? AND subscription = ? AND NOT failed", place
    ).fetchone()[0]
    counts = connection.execute(
        "SELECT delivered, failed FROM alert_counts WHERE topic = ? AND subscription = ?", place
    ).fetchone()
    return Tally(waiting, *(counts or (0, 0)))
