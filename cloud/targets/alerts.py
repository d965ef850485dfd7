"""SNS-shaped topics: each notification is kept once, and goes to every subscription of its topic.

Decides who is owed what, when it is tried again, and when that is given up, in SNS's terms: 50 attempts over
6 hours. Will not send anything: `notifier` does. Delivery is at least once; the MessageId stays the same over
repeats.

Invariants:
1. A notification whose id is in the history is not stored, nor sent, again.
2. Every delivery ends as delivered or as failed, both counted; a failed one stays visible with its reason.
3. The newest `HISTORY_MAX` notifications are kept, whoever reads them; with an older one its deliveries go,
   counted.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID, uuid5

import orjson

from cloud.targets import Rejected, UnknownTarget
from cloud.targets.config import TopicConfig

MESSAGE_BYTES_MAX = 262_144  # SNS's limit (256 KiB)
SUBJECT_CHARACTERS_MAX = 100  # SNS's limit
HISTORY_MAX = 100_000  # about 50 MB of usual alerts: weeks, and long enough to recognise any repeat
ATTEMPTS_MAX = 50  # what SNS gives an endpoint that its customer runs: 50 attempts
AGE_MAX_MS = 6 * 3_600_000  # over 6 hours
RETRY_MS = 500  # the ceiling after the first failure; it doubles with every further one
RETRY_MS_MAX = 600_000  # and stays at ten minutes, which makes 50 attempts last 6 hours

_IDS = UUID("6c1f9c1e-3f0b-5f1c-9d0e-74696465676e")  # the namespace of our message ids, any constant would do

SCHEMA = """
CREATE TABLE IF NOT EXISTS alert_notifications (
    number INTEGER PRIMARY KEY,
    message_id TEXT NOT NULL UNIQUE,
    topic TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    subject TEXT,
    message TEXT NOT NULL,
    structured INTEGER NOT NULL     -- messageFormat JSON: an object with one text per protocol
);
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


@dataclass(frozen=True, slots=True)
class Notification:
    """What a rule publishes: text as UTF-8; `structured` is messageFormat JSON. `at_ms` is milliseconds since
    the epoch."""

    message_id: str
    payload: bytes
    at_ms: int
    structured: bool = False
    subject: str | None = None


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


class InvalidMessage(ValueError):
    """Why a message cannot be published; becomes the reason of a Rejected."""


def message_id(*parts: str | int) -> str:
    """SNS's MessageId (a UUID) for the action that these name: edge, lane, epoch, sequence, rule, index of
    the action."""
    return str(uuid5(_IDS, orjson.dumps(parts).decode()))


def topic_name(target: str) -> str:
    """The topic that an action's `targetArn` names: `alerts`, or
    `arn:aws:sns:eu-west-1:123456789012:alerts`."""
    return target.rpartition(":")[2]


def message_for(protocol: str, message: str, structured: bool) -> str:
    """The text that a subscription gets: of a structured message its protocol's own member, else
    `default`."""
    if not structured:
        return message
    by_protocol = orjson.loads(message)
    text = by_protocol.get(protocol)
    return text if isinstance(text, str) else str(by_protocol["default"])


def retry_ms(failures: int, random: float) -> int:
    """How long to wait after so many failures: between half and all of a ceiling that doubles; `random` in
    [0, 1)."""
    ceiling = min(RETRY_MS_MAX, RETRY_MS << min(failures - 1, 16))
    return round(ceiling * (1 + random) / 2)


class Topics:
    """The configured topics; holds no connection, every method is given one, inside a transaction."""

    def __init__(self, config: Mapping[str, TopicConfig]) -> None:
        self._config = dict(config)

    def check(self, target: str) -> None:
        """Raise UnknownTarget unless `target`, a name or an ARN, is configured."""
        if topic_name(target) not in self._config:
            raise UnknownTarget("topic", topic_name(target), self._config)

    def open(self, connection: sqlite3.Connection) -> None:
        """Give up what is owed to subscriptions that are no longer configured."""
        statement = "SELECT DISTINCT topic, subscription FROM alert_deliveries WHERE NOT failed"
        owed = connection.execute(statement).fetchall()
        for topic, subscription in set(owed) - set(self.subscriptions()):
            _give_up(connection, topic, subscription, "no longer subscribed", "TRUE")

    def subscriptions(self) -> Iterator[tuple[str, str]]:
        """Every subscription, as (topic, label)."""
        return (
            (topic, each.label) for topic, config in self._config.items() for each in config.subscriptions
        )

    def publish(
        self, connection: sqlite3.Connection, target: str, notifications: Sequence[Notification]
    ) -> list[Rejected]:
        """Keep notifications and what each subscription is owed; one whose id is known already changes
        nothing."""
        self.check(target)
        topic = topic_name(target)
        rejected: list[Rejected] = []
        rows: list[tuple[str, str, int, str | None, str, bool]] = []
        for index, each in enumerate(notifications):
            try:
                rows.append((each.message_id, topic, each.at_ms, each.subject, _text(each), each.structured))
            except InvalidMessage as error:
                rejected.append(Rejected(index, str(error)))
        last = connection.execute("SELECT coalesce(max(number), 0) FROM alert_notifications").fetchone()[0]
        connection.executemany(
            """INSERT OR IGNORE INTO alert_notifications (message_id, topic, at_ms, subject, message,
            structured) VALUES (?, ?, ?, ?, ?, ?)""",
            rows,
        )
        for subscription in self._config[topic].subscriptions:
            connection.execute(
                """INSERT INTO alert_deliveries (topic, subscription, number, at_ms, next_ms)
                SELECT topic, ?, number, at_ms, at_ms FROM alert_notifications WHERE number > ?""",
                (subscription.label, last),
            )
        _forget_old(connection)
        return rejected


def _text(notification: Notification) -> str:
    size = len(notification.payload)
    if size > MESSAGE_BYTES_MAX:
        raise InvalidMessage(f"the message has {size:,} bytes, more than {MESSAGE_BYTES_MAX:,}")
    if notification.subject is not None and len(notification.subject) > SUBJECT_CHARACTERS_MAX:
        raise InvalidMessage(f"the subject has more than {SUBJECT_CHARACTERS_MAX} characters")
    try:
        text = notification.payload.decode()
    except UnicodeDecodeError:
        raise InvalidMessage("the message is not UTF-8 text; write encode(*, 'base64') in the SQL") from None
    if not text:
        raise InvalidMessage("the message is empty")
    if notification.structured:
        _check_structured(notification.payload)
    return text


def _check_structured(payload: bytes) -> None:
    try:
        document = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise InvalidMessage(f"messageFormat JSON: not JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("default"), str):
        raise InvalidMessage(
            "messageFormat JSON: the message must be an object with the text member 'default'"
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
    """Record how attempts ended. After one that failed, give up all that the subscription is owed since over
    6 hours."""
    for outcome in outcomes:
        here = (topic, subscription, outcome.number)
        if outcome.error is None:
            connection.execute(
                "DELETE FROM alert_deliveries WHERE topic = ? AND subscription = ? AND number = ?", here
            )
            _count(connection, topic, subscription, delivered=1)
            continue
        connection.execute(
            """UPDATE alert_deliveries SET attempts = ?, next_ms = ?, error = ?
            WHERE topic = ? AND subscription = ? AND number = ?""",
            (outcome.attempts, now_ms + retry_ms(outcome.attempts, random), outcome.error, *here),
        )
        if outcome.again:
            reason = f"given up after 6 hours: {outcome.error}"
            _give_up(connection, topic, subscription, reason, "at_ms < ?", now_ms - AGE_MAX_MS)
        else:
            _give_up(connection, topic, subscription, outcome.error, "number = ?", outcome.number)


def _give_up(
    connection: sqlite3.Connection, topic: str, subscription: str, error: str, which: str, *values: int
) -> None:
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


def _forget_old(connection: sqlite3.Connection) -> None:
    oldest_kept = connection.execute("SELECT max(number) FROM alert_notifications").fetchone()[0]
    if oldest_kept is None or (last := oldest_kept - HISTORY_MAX) <= 0:
        return
    for topic, subscription, waiting in connection.execute(
        """SELECT topic, subscription, count(*) FROM alert_deliveries WHERE number <= ? AND NOT failed
        GROUP BY topic, subscription""",
        (last,),
    ).fetchall():
        _count(connection, topic, subscription, failed=waiting)
    connection.execute("DELETE FROM alert_deliveries WHERE number <= ?", (last,))
    connection.execute("DELETE FROM alert_notifications WHERE number <= ?", (last,))


class Told(NamedTuple):
    """A notification in the history."""

    message_id: str
    topic: str
    at_ms: int
    subject: str | None
    message: str


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


def newest(connection: sqlite3.Connection, topic: str, limit: int) -> list[Told]:
    """The newest notifications of a topic, up to `limit`, oldest first."""
    rows = connection.execute(
        """SELECT message_id, topic, at_ms, subject, message FROM alert_notifications WHERE topic = ?
        ORDER BY number DESC LIMIT ?""",
        (topic, limit),
    )
    return [Told(*row) for row in rows][::-1]


def failures(connection: sqlite3.Connection, topic: str, limit: int) -> list[Failed]:
    """The newest failed deliveries of a topic, up to `limit`, oldest first; they stay as long as the
    notification."""
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
