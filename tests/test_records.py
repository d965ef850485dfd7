"""What is written of the broker's state is read again; what is damaged is told and left out, and stops nobody."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from mqtt5 import SubscribePacket

from core.message import Message, Properties
from core.mqtt import records
from core.mqtt.records import Changes, Delivery, QueuedRecord, SessionRecord, Stored, SubscriptionRecord
from core.store import connect
from tests.durable import Durable, durable
from tests.mqtt_peers import wanted

SESSION = SessionRecord(1, "reader", "thing", 3_600, 123, 9, 4, [(5, 5), (7, 7)], [6], [1, 65_535])
SUBSCRIPTION = SubscriptionRecord(1, "a/+", 2, True, False, 268_435_455)
MESSAGES = [
    Message("a/1", b"x", 2, True, "writer", 1_750_000_000_000, Properties(message_expiry_interval=60)),
    Message("a/2", b"", 1),
]
OWED = [Delivery(0, 1, 8, 2, True, "", (1, 2)), Delivery(1, 1, 9, 1, False, "$share/g/a", ())]
QUEUED = QueuedRecord(3, MESSAGES, OWED)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(tmp_path / "broker.db", records.SCHEMA)) as connection:
        yield connection


def everything() -> Changes:
    return Changes(sessions=[SESSION], subscribed=[SUBSCRIPTION], queued=[QUEUED], retained=[MESSAGES[0]])


def test_what_is_written_is_read_again(database: sqlite3.Connection) -> None:
    records.write(database, everything())
    assert records.load(database) == Stored([SESSION], [SUBSCRIPTION], [QUEUED], [MESSAGES[0]], 3)


def test_an_anonymous_client_that_is_connected_is_read_again(database: sqlite3.Connection) -> None:
    session = SessionRecord(2, "", None, 0, None, 0, 1, [], [], [])
    records.write(database, Changes(sessions=[session]))
    assert records.load(database).sessions == [session]


def test_the_last_state_replaces_the_one_before(database: sqlite3.Connection) -> None:
    records.write(database, everything())
    session = SessionRecord(1, "reader", None, 60, None, 10, 10, [], [], [])
    other = SubscriptionRecord(1, "a/+", 0, False, True, 0)
    newer = Message("a/1", b"newer", 1, True)
    records.write(database, Changes(sessions=[session], subscribed=[other], retained=[newer]))
    assert records.load(database) == Stored([session], [other], [QUEUED], [newer], 3)


def test_what_has_ended_is_gone(database: sqlite3.Connection) -> None:
    records.write(database, everything())
    records.write(database, Changes(unsubscribed=[(1, "a/+"), (1, "never")], cleared=["a/1", "never"]))
    assert records.load(database) == Stored([SESSION], [], [QUEUED], [], 3)
    records.write(database, Changes(subscribed=[SUBSCRIPTION]))
    records.write(database, Changes(ended=[1]))
    assert records.load(database) == Stored([], [], [QUEUED], [], 3)


def test_progress_moves_sessions_that_are_there_and_deletes_rows(database: sqlite3.Connection) -> None:
    records.write(database, everything())
    further = SessionRecord(1, "ignored", None, 0, None, 8, 9, [(10, 10)], [], [])
    records.progress(database, [further, SessionRecord(2, "not there", None, 0, None, 1, 1, [], [], [])], [3, 4])
    expected = SessionRecord(1, "reader", "thing", 3_600, 123, 9, 9, [(10, 10)], [6], [1, 65_535])
    assert records.load(database) == Stored([expected], [SUBSCRIPTION], [], [MESSAGES[0]], 0)


@pytest.mark.parametrize(
    ("changes", "grows"),
    [
        (Changes(), False),
        (Changes(ended=[1], unsubscribed=[(1, "a")], cleared=["a"]), False),
        (Changes(sessions=[SESSION]), True),
        (Changes(subscribed=[SUBSCRIPTION]), True),
        (Changes(queued=[QUEUED]), True),
        (Changes(retained=MESSAGES[:1]), True),
    ],
)
def test_only_what_takes_room_asks_for_it(changes: Changes, grows: bool) -> None:
    assert changes.grows is grows


DAMAGES = {
    "a session's list": ("UPDATE mqtt_sessions SET done = x'ff00'", 0),
    "a session's list that is none": ("UPDATE mqtt_sessions SET received = 'null'", 0),
    "queued messages": ("UPDATE mqtt_queued SET block = substr(block, 1, 20)", 2),
    "who is owed them": ("UPDATE mqtt_queued SET deliveries = x'5b5b00'", 2),
    "who is owed them, of another shape": ("UPDATE mqtt_queued SET deliveries = '[1, 2]'", 2),
    "a retained message": ("UPDATE mqtt_retained SET block = x'00'", 3),
}


@pytest.mark.parametrize(("statement", "table"), DAMAGES.values(), ids=DAMAGES)
def test_what_is_damaged_is_told_and_left_out(
    database: sqlite3.Connection, statement: str, table: int, caplog: pytest.LogCaptureFixture
) -> None:
    records.write(database, everything())
    database.execute(statement)
    with caplog.at_level(logging.ERROR):
        found = records.load(database)
    left = [len(rows) for rows in (found.sessions, found.subscriptions, found.queued, found.retained)]
    assert left == [0 if index == table else 1 for index in range(4)]
    assert [entry.message for entry in caplog.records] == ["damaged on disk"]


async def test_a_name_that_is_no_text_any_more_does_not_keep_the_others_from_being_read(tmp_path: Path) -> None:
    def damage(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("UPDATE mqtt_sessions SET client_id = CAST(x'61ff62' AS TEXT) WHERE client_id = 'first'")

    async with durable(tmp_path) as bench:
        await both(bench)
        await bench.crash(damage)
        assert (await bench.arrive("second")).welcome.session_present
        assert not (await bench.arrive("first")).welcome.session_present


async def test_a_broker_starts_with_what_can_be_read_and_gives_nobody_what_belonged_to_the_rest(tmp_path: Path) -> None:
    def damage(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("UPDATE mqtt_sessions SET done = x'ff' WHERE client_id = 'second'")

    async with durable(tmp_path) as bench:
        await both(bench)
        await bench.crash(damage)
        for _ in range(2):
            await bench.arrive("newcomer")
            assert bench.broker.sessions == 2
            assert bench.broker.router.subscriptions == 1  # that of the first
            await bench.crash()


async def both(bench: Durable) -> None:
    """Two sessions with a subscription each; the second has the higher key."""
    for name in ("first", "second"):
        (await bench.arrive(name)).send(SubscribePacket(1, [wanted("a")]))
        await bench.sync()
