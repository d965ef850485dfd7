"""The rules' effects on each message happen once: across refusals of the disk, and kills at any moment."""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from cloud import inbox, worker
from cloud.daemon import ACTIONS, SCHEMA
from cloud.effects import Surroundings, Targets
from cloud.ingest import Ingest
from cloud.targets import alerts, streams, tables
from cloud.targets.alerts import message_id
from cloud.targets.config import StreamConfig, Subscription, TableConfig, TopicConfig
from cloud.worker import STEP_MESSAGES_MAX, Worker
from core import frames
from core.errors import StorageError
from core.message import Message, Origin
from core.receipts import STORED, Batch, Receipt
from core.store import Store
from core.telemetry import Counters
from rules import files
from rules.engine import RuleSet
from tests.killing import Countdown, before_every_statement

T = 1_800_000_000_000
RULES = """
Readings:
  sql: SELECT * FROM 'plant/#'
  actions:
    - dynamoDBv2: { putItem: { tableName: readings } }
    - firehose: { deliveryStreamName: telemetry, separator: "\\n" }
Alarms:
  awsIotSqlVersion: "2016-03-23"
  sql: SELECT n FROM 'plant/#' WHERE n > 0
  actions:
    - sns: { targetArn: alerts, messageFormat: RAW }
"""


def ruleset(text: str) -> RuleSet:
    return files.parse({"rules.yaml": text}, supported=ACTIONS)


class Cloud:
    """Ingest, worker and targets over a real database, without sockets."""

    def __init__(self, directory: Path, rules: str = RULES) -> None:
        self.path = directory / "cloud.db"
        self.counters = Counters()
        self.heard: list[Message] = []
        self.woken = 0
        self.store = Store(self.path, SCHEMA)
        self.targets = Targets(
            tables.Tables({"readings": TableConfig(keys=("n",))}),
            streams.Streams({"telemetry": StreamConfig()}),
            alerts.Topics({"alerts": TopicConfig(subscriptions=(Subscription(log=True),))}),
        )
        self.worker = Worker(
            self.store, ruleset(rules), Surroundings(self.targets), self.heard.extend, self._wake_targets, self.counters
        )
        self.ingest = Ingest(self.store, self.counters, self.worker.wake)

    def _wake_targets(self) -> None:
        self.woken += 1

    async def receive(self, *frames_: Message) -> None:
        settled: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.ingest.accept(Batch(list(frames_), Receipt(settled.set_result), "edge"))
        assert (await settled).outcome == STORED

    async def work(self) -> None:
        while await self.worker.step():
            pass

    async def execute(self, sql: str) -> None:
        await self.store.run(lambda connection: connection.execute(sql).fetchall())

    async def waiting(self) -> int:
        return (await self.store.run(inbox.waiting))[1]


def effects(path: Path) -> tuple[list[int], list[int], list[str]]:
    """The numbers in the table and in the stream, in their order, and the names of the notifications."""
    with closing(sqlite3.connect(path)) as connection:
        items = [orjson.loads(item.json)["n"] for item in tables.scan(connection, "readings", 10**6)]
        data = b"".join(row[0] for row in connection.execute("SELECT data FROM stream_batches ORDER BY id"))
        records = [orjson.loads(line)["n"] for line in data.splitlines()]
        told = [row[0] for row in connection.execute("SELECT message_id FROM alert_notifications ORDER BY number")]
    return items, records, told


def framed(first: int, last: int, lane: str = "all", floor: int = 1) -> Message:
    """A frame whose messages say their own numbers."""
    messages = [Message("plant/1", b'{"n":%d}' % n, 1, received_at=T) for n in range(first, last + 1)]
    return Message(frames.topic("hall", lane), frames.encode("hall", lane, 5, first, floor, messages), 1)


def names(*numbers: int, lane: str = "all") -> list[str]:
    return [message_id("hall", lane, 5, number, "Alarms", 0) for number in numbers]


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    cloud = Cloud(tmp_path)
    await cloud.store.run(cloud.targets.open)
    yield cloud
    await cloud.store.close()


# -- once --------------------------------------------------------------------------------------------------------------


async def test_each_message_has_its_effects_once_and_leaves_the_inbox(cloud: Cloud) -> None:
    await cloud.receive(framed(1, 3), framed(4, 5))
    await cloud.work()
    assert effects(cloud.path) == ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], names(1, 2, 3, 4, 5))
    assert await cloud.waiting() == 0
    assert cloud.counters.value("messages_applied_total") == 5
    assert [message.payload for message in cloud.heard] == [b'{"n":%d}' % n for n in range(1, 6)]
    assert cloud.woken >= 1


async def test_of_frames_that_repeat_and_overlap_only_what_is_new_has_effects(cloud: Cloud) -> None:
    await cloud.receive(framed(3, 4), framed(3, 4))
    await cloud.work()
    await cloud.receive(framed(1, 6), framed(4, 8))
    await cloud.work()
    assert effects(cloud.path) == (list(range(1, 9)), [3, 4, 1, 2, 5, 6, 7, 8], names(3, 4, 1, 2, 5, 6, 7, 8))
    assert len(cloud.heard) == 8


async def test_the_same_numbers_of_another_lane_are_other_messages(cloud: Cloud) -> None:
    await cloud.receive(framed(1, 1), framed(1, 1, lane="alarms"))
    await cloud.work()
    assert effects(cloud.path) == ([1], [1, 1], names(1) + names(1, lane="alarms"))


async def test_order_is_kept_over_many_steps(cloud: Cloud) -> None:
    size = STEP_MESSAGES_MAX // 3
    for first in range(1, size * 10, size):
        await cloud.receive(framed(first, first + size - 1))
    await cloud.work()
    _, records, _ = effects(cloud.path)
    assert records == list(range(1, size * 10 + 1))


async def test_rules_can_be_replaced_while_the_inbox_holds_messages(cloud: Cloud) -> None:
    await cloud.receive(framed(1, 2))
    await cloud.work()
    cloud.worker.replace(ruleset(""))
    await cloud.receive(framed(3, 4))
    await cloud.work()
    cloud.worker.replace(ruleset(RULES))
    await cloud.receive(framed(5, 6))
    await cloud.work()
    assert effects(cloud.path) == ([1, 2, 5, 6], [1, 2, 5, 6], names(1, 2, 5, 6))
    assert len(cloud.heard) == 6
    assert await cloud.waiting() == 0


async def test_what_a_target_refuses_is_counted_as_lost_and_does_not_come_again(cloud: Cloud) -> None:
    messages = [Message("plant/1", payload, 1, received_at=T) for payload in (b'{"m":1}', b'{"n":2}')]
    frame = frames.encode("hall", "all", 5, 1, 1, messages)
    await cloud.receive(Message(frames.topic("hall", "all"), frame, 1))
    await cloud.work()
    with closing(sqlite3.connect(cloud.path)) as connection:
        assert tables.count(connection, "readings") == 1
    assert cloud.counters.value("dropped_total", reason="refused by its target") == 1
    assert await cloud.waiting() == 0


async def test_failed_rules_and_loops_are_counted(tmp_path: Path) -> None:
    loop = "Loop: { sql: \"SELECT * FROM 'plant/#'\", actions: [{ republish: { topic: plant/2 } }] }\n"
    bad = "Bad: { sql: \"SELECT * FROM 'plant/1'\", actions: [{ republish: { topic: 'a/${\"#\"}' } }] }\n"
    cloud = Cloud(tmp_path, loop + bad)
    await cloud.receive(framed(1, 1))
    await cloud.work()
    assert cloud.counters.value("rules_failed_total", rule="Bad") == 1
    assert cloud.counters.value("rules_loops_total") == 1
    await cloud.store.close()


async def test_a_frame_that_was_damaged_in_the_inbox_is_counted_and_holds_up_nothing(cloud: Cloud) -> None:
    await cloud.receive(framed(1, 2))
    await cloud.receive(framed(3, 5))
    await cloud.receive(framed(6, 6))
    damaged = "CAST(substr(frame, 1, 90) || x'00' || substr(frame, 92) AS BLOB)"
    await cloud.execute(f"UPDATE inbox SET frame = {damaged} WHERE id = 2")
    await cloud.work()
    assert effects(cloud.path) == ([1, 2, 6], [1, 2, 6], names(1, 2, 6))
    assert cloud.counters.value("dropped_total", reason="damaged on disk") == 3
    assert await cloud.waiting() == 0


# -- who sent it, and for which rule -----------------------------------------------------------------------------------


async def test_what_a_client_publishes_here_reaches_rules_with_its_origin_and_subscribers_no_second_time(
    tmp_path: Path,
) -> None:
    cloud = Cloud(tmp_path, "Who: { awsIotSqlVersion: '2016-03-23', sql: \"SELECT sourceip() AS ip, principal() AS p"
        " FROM 'plant/#'\", actions: [{ republish: { topic: who } }] }\n")  # fmt: skip
    settled: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
    batch = Batch([Message("plant/1", b"{}", 1)], Receipt(settled.set_result), "a", origin=Origin("press", "10.0.0.7"))
    cloud.ingest.accept(batch)
    await settled
    await cloud.work()
    assert [(m.topic, m.payload) for m in cloud.heard] == [("who", b'{"ip":"10.0.0.7","p":"press"}')]
    await cloud.receive(framed(1, 1))
    await cloud.work()
    assert [(m.topic, m.payload) for m in cloud.heard[1:]] == [("plant/1", b'{"n":1}'), ("who", b"{}")]
    assert cloud.counters.value("messages_applied_total") == 4
    await cloud.store.close()


async def test_messages_for_a_rule_that_is_not_there_are_counted_and_leave_the_inbox(cloud: Cloud) -> None:
    made = [Message(f"$aws/rules/{name}/x", b'{"n":7}', 1, received_at=T) for name in ("Gone", "Alarms", "alarms")]
    await cloud.receive(Message(frames.topic("hall", "all"), frames.encode("hall", "all", 5, 1, 1, made), 1))
    await cloud.work()
    assert cloud.counters.value("rules_not_found_total") == 2
    assert effects(cloud.path)[2] == [message_id("hall", "all", 5, 2, "Alarms", 0)]
    assert await cloud.waiting() == 0


async def test_a_refused_item_sets_off_the_error_action_in_the_same_commit(tmp_path: Path) -> None:
    text = RULES + (
        "NoKey:\n  sql: SELECT * FROM 'other/#'\n  actions: [{ dynamoDBv2: { putItem: { tableName: readings } } }]\n"
        "  errorAction: { sns: { targetArn: alerts } }\n"
    )
    cloud = Cloud(tmp_path, text)
    await cloud.store.run(cloud.targets.open)
    message = Message("other/1", b'{"k":1}', 1, received_at=T)
    await cloud.receive(Message(frames.topic("hall", "all"), frames.encode("hall", "all", 5, 1, 1, [message]), 1))
    await cloud.work()
    assert effects(cloud.path) == ([], [], [message_id("hall", "all", 5, 1, "NoKey", -1)])
    assert cloud.counters.value("rules_failed_total", rule="NoKey") == 1
    assert cloud.counters.value("dropped_total", target="table readings") == 1
    assert cloud.counters.value("rules_error_actions_failed_total") == 0
    await cloud.store.close()


# -- when the disk refuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where",
    [
        "INSERT ON table_items",
        "INSERT ON stream_batches",
        "INSERT ON alert_notifications",
        "INSERT ON alert_deliveries",
        "DELETE ON inbox",
    ],
)
async def test_a_commit_that_fails_leaves_nothing_behind_and_is_done_again(cloud: Cloud, where: str) -> None:
    await cloud.receive(framed(1, 3))
    await cloud.execute(f"CREATE TRIGGER full BEFORE {where} BEGIN SELECT raise(ABORT, 'disk full'); END")
    for _ in range(3):
        with pytest.raises(StorageError):
            await cloud.worker.step()
    assert effects(cloud.path) == ([], [], [])
    assert await cloud.waiting() == 3
    assert cloud.heard == []
    await cloud.execute("DROP TRIGGER full")
    await cloud.work()
    assert effects(cloud.path) == ([1, 2, 3], [1, 2, 3], names(1, 2, 3))
    assert len(cloud.heard) == 3


async def test_the_worker_goes_on_by_itself_when_the_disk_takes_again(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "RETRY_SECONDS", 0.01)
    await cloud.execute("CREATE TRIGGER full BEFORE DELETE ON inbox BEGIN SELECT raise(ABORT, 'disk full'); END")
    done = asyncio.Event()
    cloud.worker._wake_targets = done.set
    task = asyncio.create_task(cloud.worker.run())
    await cloud.receive(framed(1, 3))
    await asyncio.wait([task], timeout=0.1)
    assert not task.done()
    await cloud.execute("DROP TRIGGER full")
    await asyncio.wait_for(done.wait(), 20)
    task.cancel()
    await asyncio.wait([task])
    assert effects(cloud.path) == ([1, 2, 3], [1, 2, 3], names(1, 2, 3))


async def test_the_worker_wakes_for_what_arrives(cloud: Cloud) -> None:
    done = asyncio.Event()
    cloud.worker._wake_targets = done.set
    task = asyncio.create_task(cloud.worker.run())
    for first in (1, 2, 3):
        await cloud.receive(framed(first, first))
        await asyncio.wait_for(done.wait(), 20)
        done.clear()
    task.cancel()
    await asyncio.wait([task])
    assert effects(cloud.path)[1] == [1, 2, 3]


# -- kill -9 -----------------------------------------------------------------------------------------------------------

LAST = 240


async def crash(directory: Path, fatal: int) -> None:
    """Runs in a process of its own: an edge sends everything again, until killed before the `fatal`-th SQL statement.

    Frames are cut differently each time, some newest first. With `fatal` 0 it comes to its end.
    """
    before_every_statement(Countdown(fatal))
    cloud = Cloud(directory)
    await cloud.store.run(cloud.targets.open)
    draw = random.Random(fatal)
    firsts = [1, *sorted(draw.sample(range(2, LAST), 20))]
    lasts = [*(first - 1 for first in firsts[1:]), LAST]
    ranges = list(zip(firsts, lasts, strict=True))
    for first, last in reversed(ranges) if fatal % 2 else ranges:
        await cloud.receive(framed(first, last))
        await cloud.worker.step()
    await cloud.work()
    await cloud.store.close()


async def test_after_kills_at_any_moment_every_message_had_its_effects_once(tmp_path: Path) -> None:
    root = {"PYTHONPATH": str(Path(__file__).parent.parent)}

    def run(fatal: int) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, __file__, str(tmp_path), str(fatal)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | root)

    assert run(3).returncode == -signal.SIGKILL  # while the database is made
    for fatal in (30, 41, 47, 52, 58, 63, 70, 81, 95, 120, 160):
        child = run(fatal)
        assert child.returncode == -signal.SIGKILL, child.stderr
        items, records, told = effects(tmp_path / "cloud.db")
        assert sorted(records) == items
        assert len(told) == len(set(told)) == len(items)
    child = run(0)
    assert child.returncode == 0, child.stderr
    items, records, told = effects(tmp_path / "cloud.db")
    assert items == sorted(records) == list(range(1, LAST + 1))
    assert sorted(told) == sorted(names(*range(1, LAST + 1)))


async def test_a_kill_between_commit_and_acknowledgement_costs_nothing_when_the_frame_comes_again(
    tmp_path: Path,
) -> None:
    command = [sys.executable, __file__, str(tmp_path), "unacknowledged"]
    root = {"PYTHONPATH": str(Path(__file__).parent.parent)}
    for _ in range(2):
        killed = await asyncio.create_subprocess_exec(*command, env=os.environ | root)
        assert await killed.wait() == -signal.SIGKILL
    cloud = Cloud(tmp_path)
    await cloud.store.run(cloud.targets.open)
    assert await cloud.waiting() == 10
    await cloud.receive(framed(1, 10))
    assert cloud.counters.value("messages_repeated_total") == 10
    await cloud.work()
    assert effects(cloud.path) == (list(range(1, 11)), list(range(1, 11)), names(*range(1, 11)))
    await cloud.store.close()


async def unacknowledged(directory: Path) -> None:
    """Runs in a process of its own: killed when the frame is committed, before anybody can be told."""
    cloud = Cloud(directory)
    killed = Receipt(lambda _: os.kill(os.getpid(), signal.SIGKILL))
    cloud.ingest.accept(Batch([framed(1, 10)], killed, "edge"))
    await asyncio.Event().wait()


if __name__ == "__main__":
    match sys.argv[1:]:
        case [directory_, "unacknowledged"]:
            asyncio.run(unacknowledged(Path(directory_)))
        case [directory_, fatal_]:
            asyncio.run(crash(Path(directory_), int(fatal_)))
