"""SNS-shaped topics: each notification is kept once, and goes to every subscription of its topic.

Decides what SNS would refuse, what a repeat is, and which text each protocol gets. What each subscription is
owed, and for how long, is decided by `owed`; `notifier` sends it.

Invariants:
1. A notification whose id is in the history is not stored, nor sent, again.
2. The newest `HISTORY_MAX` notifications are kept, whoever reads them; with an older one its deliveries go.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID, uuid5

import orjson

from cloud.targets import Rejected, UnknownTarget, owed
from cloud.targets.config import TopicConfig

MESSAGE_BYTES_MAX = 262_144  # SNS's limit (256 KiB)
SUBJECT_CHARACTERS_MAX = 100  # SNS's limit
HISTORY_MAX = 100_000  # about 50 MB of usual alerts: weeks, and long enough to recognise any repeat

_IDS = UUID("6c1f9c1e-3f0b-5f1c-9d0e-74696465676e")  # the namespace of our message ids, any constant would do

SCHEMA = (
    owed.SCHEMA
    + """
CREATE TABLE IF NOT EXISTS alert_notifications (
    number INTEGER PRIMARY KEY,
    message_id TEXT NOT NULL UNIQUE,
    topic TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    subject TEXT,
    message TEXT NOT NULL,
    structured INTEGER NOT NULL     -- messageFormat JSON: an object with one text per protocol
);
"""
)


@dataclass(frozen=True, slots=True)
class Notification:
    """What a rule publishes: UTF-8 text, when (ms since the epoch), and whether messageFormat is JSON."""

    message_id: str
    payload: bytes
    at_ms: int
    structured: bool = False
    subject: str | None = None


class InvalidMessage(ValueError):
    """Why a message cannot be published; becomes the reason of a Rejected."""


def message_id(*parts: str | int) -> str:
    """SNS's MessageId (a UUID) that follows from what caused it: edge, lane, epoch, sequence, rule, action index."""
    return str(uuid5(_IDS, orjson.dumps(parts).decode()))


def topic_name(target: str) -> str:
    """The topic that an action's `targetArn` names: `alerts`, or `arn:aws:sns:eu-west-1:123456789012:alerts`."""
    return target.rpartition(":")[2]


def message_for(protocol: str, message: str, structured: bool) -> str:
    """The text that a subscription gets: of a structured message its protocol's own member, else `default`."""
    if not structured:
        return message
    by_protocol = orjson.loads(message)
    text = by_protocol.get(protocol)
    return text if isinstance(text, str) else str(by_protocol["default"])


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
        found = connection.execute(statement).fetchall()
        for topic, subscription in set(found) - set(self.subscriptions()):
            owed.give_up(connection, topic, subscription, "no longer subscribed", "TRUE")

    def subscriptions(self) -> Iterator[tuple[str, str]]:
        """Every subscription, as (topic, label)."""
        return ((topic, each.label) for topic, config in self._config.items() for each in config.subscriptions)

    def publish(
        self, connection: sqlite3.Connection, target: str, notifications: Sequence[Notification]
    ) -> list[Rejected]:
        """Keep notifications and what each subscription is owed; one whose id is known already changes nothing."""
        self.check(target)
        topic = topic_name(target)
        rejected: list[Rejected] = []
        rows: list[tuple[str, str, int, str | None, str, bool]] = []
        for index, each in enumerate(notifications):
            try:
                rows.append((each.message_id, topic, each.at_ms, each.subject, text_of(each), each.structured))
            except InvalidMessage as error:
                rejected.append(Rejected(index, str(error)))
        last = connection.execute("SELECT coalesce(max(number), 0) FROM alert_notifications").fetchone()[0]
        connection.executemany(
            """INSERT OR IGNORE INTO alert_notifications (message_id, topic, at_ms, subject, message,
            structured) VALUES (?, ?, ?, ?, ?, ?)""",
            rows,
        )
        for subscription in self._config[topic].subscriptions:
            owed.owe(connection, subscription.label, last)
        _forget_old(connection)
        return rejected


def text_of(notification: Notification) -> str:
    """What is published of a notification. Raises InvalidMessage for what SNS would not take."""
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
        raise InvalidMessage("messageFormat JSON: the message must be an object with the text member 'default'")


def _forget_old(connection: sqlite3.Connection) -> None:
    oldest_kept = connection.execute("SELECT max(number) FROM alert_notifications").fetchone()[0]
    if oldest_kept is None or (last := oldest_kept - HISTORY_MAX) <= 0:
        return
    owed.forget(connection, last)
    connection.execute("DELETE FROM alert_notifications WHERE number <= ?", (last,))


class Told(NamedTuple):
    """A notification in the history."""

    message_id: str
    topic: str
    at_ms: int
    subject: str | None
    message: str


def newest(connection: sqlite3.Connection, topic: str, limit: int) -> list[Told]:
    """The newest notifications of a topic, up to `limit`, oldest first."""
    rows = connection.execute(
        """SELECT message_id, topic, at_ms, subject, message FROM alert_notifications WHERE topic = ?
        ORDER BY number DESC LIMIT ?""",
        (topic, limit),
    )
    return [Told(*row) for row in rows][::-1]
