"""Windows from the device to what is made of a row: at the edge and in the cloud, every message in exactly one row, and
every row stored exactly once, whenever the power goes."""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from mqtt5 import ConnectPacket, QoS, SubscribePacket, TopicFilter

import core.store
from cloud.daemon import ACTIONS, SCHEMA
from cloud.effects import Effects, Surroundings, Targets
from cloud.ingest import Ingest
from cloud.targets import alerts, streams, tables
from cloud.targets.config import StreamConfig, TableConfig, TopicConfig
from cloud.windows import ABANDONED_SECONDS, CloudWindows
from cloud.worker import Worker
from core import blocks, frames
from core.errors import StorageError
from core.message import Message
from core.mqtt.access import Peer
from core.mqtt.broker import Broker
from core.mqtt.journal import Journal
from core.receipts import STORED, Batch, Kind, Receipt
from core.store import Store
from core.telemetry import Counters
from devices.access import OpenAccess
from edge.buffer import Buffer
from edge.chunks import Chunk
from edge.gateway import Gateway
from edge.lanes import Lane, LaneIndex
from edge.reactions import Reactions
from edge.windows import EdgeWindows
from rules import files
from rules.engine import RuleSet
from tests.killing import before_every_statement
from tests.mqtt_peers import until

NOON = 1_760_011_200_000
SUMMARY, PLANT = Lane("summary", ("summary/#",)), Lane("plant", ("plant/#",))
SQL = """SELECT machine, sum(n) AS numbers, count(*) AS messages, window_start() AS start FROM 'plant/#'
    GROUP BY machine, TUMBLING('60 seconds', 'at')"""
EDGE_RULES = f"""
Summary:
  awsIotSqlVersion: "2016-03-23"
  sql: {SQL.replace(chr(10), " ")}
  actions: [{{ republish: {{ topic: "summary/${{machine}}/${{topic(2)}}", qos: 1 }} }}]
Again:
  awsIotSqlVersion: "2016-03-23"
  sql: SELECT messages FROM 'summary/#'
  actions: [{{ republish: {{ topic: "again", qos: 1 }} }}]
"""
CLOUD_RULES = f"""
Summary:
  awsIotSqlVersion: "2016-03-23"
  sql: {SQL.replace(chr(10), " ")}
  actions:
    - dynamoDBv2: {{ putItem: {{ tableName: summaries }} }}
    - firehose: {{ deliveryStreamName: telemetry, separator: "\\n" }}
    - republish: {{ topic: "summary/${{machine}}" }}
"""


def said(number: int, at: int | None = None) -> Message:
    """Numbers are powers of two, so that a sum of them tells which there were; by default one second apart."""
    at = NOON + (number * 1_000 if at is None else at)
    payload = orjson.dumps({"machine": "m1", "n": 2**number, "at": at})
    return Message("plant/m1", payload, 1, client_id="press", received_at=at)


@contextmanager
def images(of: Path, names: tuple[str, ...]) -> Iterator[tuple[list[Path], Callable[[], None], Callable[[], None]]]:
    """Copies of files as a kill before each SQL statement would leave them, between `begin()` and `end()`."""
    taken: list[Path] = []
    recording = False

    def take() -> None:
        if recording:
            taken.append(of / f"image {len(taken)}")
            taken[-1].mkdir()
            for name in names:
                shutil.copy(of / name, taken[-1])

    def begin() -> None:
        nonlocal recording
        recording = True

    def end() -> None:
        nonlocal recording
        recording = False

    connect = sqlite3.connect
    before_every_statement(take)
    try:
        yield taken, begin, end
    finally:
        sqlite3.connect = connect


# -- the edge ----------------------------------------------------------------------------------------------------------


class Site:
    """An edge without sockets, whose clock stands still until it is told."""

    def __init__(self, directory: Path, lanes: tuple[Lane, ...] = (SUMMARY, PLANT), rules: str = EDGE_RULES) -> None:
        self.clock = 0.0
        self.counters = Counters()
        self.path = directory / "buffer.db"
        self.lanes = lanes
        self.rules = files.parse({"rules.yaml": rules}, supported=frozenset({"republish"}))

    async def start(self) -> None:
        self.buffer = await Buffer.open(self.path, self.lanes, self.counters)
        self.windows = EdgeWindows(self.buffer.commits, self.counters, lambda: self.clock)
        reactions = Reactions(self.rules, self.counters, windows=self.windows)
        self.gateway = Gateway(reactions, LaneIndex(self.lanes), self.buffer, self.counters)
        self.windows.fire = self.gateway.emit
        journal = Journal(self.buffer.commits)
        self.broker = Broker(OpenAccess(), self.gateway.accept, self.counters, journal=journal)
        self.gateway.broker = self.broker
        await self.windows.load(self.rules)

    async def offer(self, *messages: Message, first_id: int, resent: bool = False) -> Receipt:
        settled: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        ids = list(range(first_id, first_id + len(messages)))
        again = list(range(len(messages))) if resent else []
        self.gateway.accept(Batch(list(messages), Receipt(settled.set_result), "press", ids, again))
        return await settled

    def pass_time(self, seconds: float) -> None:
        self.clock += seconds
        self.windows._look()

    async def held(self, lane: Lane) -> list[tuple[str, Any]]:
        found: list[Chunk] = []
        while more := (await self.buffer.read(lane, [chunk.id for chunk in found], 1 << 24))[0]:
            found += more
        return [(m.topic, orjson.loads(m.payload)) for chunk in found for m in blocks.decode(chunk.block)]


def summary(numbers: int, messages: int) -> dict[str, Any]:
    return {"machine": "m1", "numbers": numbers, "messages": messages, "start": NOON}


async def test_a_row_reaches_subscribers_rules_and_lanes(tmp_path: Path) -> None:
    site = Site(tmp_path)
    await site.start()
    reader = site.broker.open(Peer("here", None, True), lambda: None, 0.0)
    reader.receive(ConnectPacket("reader").write(), 0.0, NOON)
    reader.receive(SubscribePacket(1, [TopicFilter("#", max_qos=QoS.AT_MOST_ONCE)]).write(), 0.0, NOON)
    assert (await site.offer(said(0), said(1), first_id=1)).outcome == STORED
    site.pass_time(200)
    await site.buffer.commits.drain()
    # The row is what a rule with a window acts on: `${machine}` is its member, topic() that of the last message.
    assert await site.held(SUMMARY) == [("summary/m1/m1", summary(3, 2))]
    sent = reader.take()
    assert b"summary/m1/m1" in sent
    assert b"again" in sent
    await site.buffer.close()


async def test_a_message_that_only_a_window_wants_is_acknowledged_when_it_is_on_disk(tmp_path: Path) -> None:
    site = Site(tmp_path, lanes=(SUMMARY,))
    await site.start()
    assert (await site.offer(said(0), first_id=1)).outcome == STORED
    (pieces,) = await site.buffer.commits.store.run(lambda c: c.execute("SELECT count(*) FROM ledger").fetchone())
    assert pieces == 2  # the beginning of a log, and a record
    assert site.windows.aggregation.status()["Summary"]["windows"] == 1
    await site.buffer.close()


async def test_what_a_lane_rejects_is_in_no_window(tmp_path: Path) -> None:
    site = Site(tmp_path, lanes=(SUMMARY, Lane("plant", ("plant/#",), max_bytes=1)))
    await site.start()
    first = await site.offer(said(0), first_id=1)
    refused = await site.offer(said(1), first_id=2)  # and the device sends it again when there is room
    assert first.outcome == STORED
    assert refused.exceptions[0].kind is Kind.REJECTED
    site.pass_time(200)
    await site.buffer.commits.drain()
    assert await site.held(SUMMARY) == [("summary/m1/m1", summary(1, 1))]
    await site.buffer.close()


async def test_what_a_full_disk_refuses_is_in_no_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path)
    await site.start()
    monkeypatch.setattr(core.store, "DISK_RESERVE_BYTES", 1 << 62)
    refused = await site.offer(said(0), first_id=1)
    assert refused.outcome is not None
    assert refused.outcome.kind is Kind.REJECTED
    monkeypatch.setattr(core.store, "DISK_RESERVE_BYTES", 0)
    assert (await site.offer(said(0), first_id=2)).outcome == STORED
    site.pass_time(200)
    await until(lambda: not site.windows.aggregation.has_gathered)
    await site.buffer.commits.drain()
    assert await site.held(SUMMARY) == [("summary/m1/m1", summary(1, 1))]
    await site.buffer.close()


async def test_whenever_the_power_goes_an_edge_stores_one_row_with_every_message(tmp_path: Path) -> None:
    """A device that goes on where it was told that it is, and an edge that is killed before each of its statements."""
    messages = [said(number) for number in range(5)]
    acknowledged: list[int] = []  # how many were, at each image
    done = 0
    with images(tmp_path, ("buffer.db", "buffer.db-wal")) as (taken, begin, end):
        site = Site(tmp_path)
        await site.start()
        begin()
        for number, message in enumerate(messages):
            assert (await site.offer(message, first_id=101 + number)).outcome == STORED
            done += 1
            acknowledged += [done - 1] * (len(taken) - len(acknowledged))
        site.pass_time(200)
        await site.buffer.commits.drain()
        end()
        acknowledged += [done] * (len(taken) - len(acknowledged))
        await site.buffer.close()
    assert len(taken) > 20
    for image, count in zip(taken, acknowledged, strict=True):
        after = Site(image)
        await after.start()
        for number, message in list(enumerate(messages))[count:]:
            again = number == count
            assert (await after.offer(message, first_id=101 + number, resent=again)).outcome == STORED
        after.pass_time(200)
        await after.buffer.commits.drain()
        assert await after.held(SUMMARY) == [("summary/m1/m1", summary(31, 5))], (image, count)
        await after.buffer.close()


# -- the cloud ---------------------------------------------------------------------------------------------------------


class Cloud:
    """Ingest, worker, windows and targets over a real database, without sockets."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "cloud.db"
        self.counters = Counters()
        self.heard: list[Message] = []
        self.store = Store(self.path, SCHEMA)
        targets = Targets(
            tables.Tables({"summaries": TableConfig(keys=("machine", "start"))}),
            streams.Streams({"telemetry": StreamConfig()}),
            alerts.Topics({"alerts": TopicConfig()}),
        )
        self.targets = targets
        self.windows = CloudWindows(self.counters, 0.0)
        self.rules: RuleSet = files.parse({"rules.yaml": CLOUD_RULES}, supported=ACTIONS)
        self.worker = Worker(
            self.store, self.rules, Surroundings(targets, windows=self.windows), self.heard.extend, lambda: None,
            self.counters,
        )  # fmt: skip
        self.ingest = Ingest(self.store, self.counters, self.worker.wake)

    async def start(self) -> None:
        await self.store.run(self.targets.open)
        await self.windows.load(self.store, self.rules)

    def edit(self, rules: str) -> None:
        self.rules = files.parse({"rules.yaml": rules}, supported=ACTIONS)
        self.worker.replace(self.rules)

    async def receive(self, frame: Message) -> None:
        settled: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.ingest.accept(Batch([frame], Receipt(settled.set_result), "edge"))
        assert (await settled).outcome == STORED

    async def work(self) -> None:
        while await self.worker.step():
            pass

    async def pass_time(self) -> None:
        """So long that no window waits any more."""
        self.windows.run_on(ABANDONED_SECONDS + 1e6, NOON, lambda _: False)
        await self.work()

    def stored(self) -> tuple[list[Any], list[Any]]:
        """The items of the table, and the records of the stream."""
        with closing(sqlite3.connect(self.path)) as connection:
            items = [orjson.loads(item.json) for item in tables.scan(connection, "summaries", 10**6)]
            data = b"".join(row[0] for row in connection.execute("SELECT data FROM stream_batches ORDER BY id"))
        return items, [orjson.loads(line) for line in data.splitlines()]


    def alerts(self) -> list[Any]:
        with closing(sqlite3.connect(self.path)) as connection:
            return [
                orjson.loads(text)
                for (text,) in connection.execute("SELECT message FROM alert_notifications ORDER BY number")
            ]


def framed(first: int, *messages: Message) -> Message:
    return Message(frames.topic("hall", "all"), frames.encode("hall", "all", 5, first, 1, list(messages)), 1)


async def test_a_row_reaches_every_target_of_its_rule_once(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path)
    await cloud.start()
    await cloud.receive(framed(1, said(0), said(1)))
    await cloud.receive(framed(1, said(0), said(1), said(2)))  # of which one is new
    await cloud.work()
    assert cloud.stored() == ([], [])
    await cloud.receive(framed(4, said(40, 130_000)))
    await cloud.work()
    assert cloud.stored() == ([summary(7, 3)], [summary(7, 3)])
    assert [message.topic for message in cloud.heard if message.topic.startswith("summary")] == ["summary/m1"]
    await cloud.store.close()


async def test_the_alert_of_a_window_comes_once_and_again_for_a_rule_that_was_edited(tmp_path: Path) -> None:
    rule = """
Hot:
  awsIotSqlVersion: "2016-03-23"
  sql: SELECT count(*) AS n FROM 'plant/#' GROUP BY TUMBLING('60 seconds', 'at')
  actions: [{ sns: { targetArn: alerts, messageFormat: RAW } }]
"""
    cloud = Cloud(tmp_path)
    await cloud.start()
    first = 1
    for rules in (rule, rule.replace("AS n", "AS edited"), rule):  # and of the same minute
        cloud.edit(rules)
        await cloud.receive(framed(first, said(0), said(1)))
        await cloud.work()
        await cloud.pass_time()
        first += 2
    assert cloud.alerts() == [{"n": 2}, {"edited": 2}, {"n": 2}]
    await cloud.store.close()


async def test_the_alert_of_a_window_that_is_acted_on_again_has_the_same_identity(tmp_path: Path) -> None:
    rule = """
Hot:
  awsIotSqlVersion: "2016-03-23"
  sql: SELECT count(*) AS n FROM 'plant/#' GROUP BY TUMBLING('60 seconds', 'at')
  actions: [{ sns: { targetArn: alerts, messageFormat: RAW } }]
"""
    identities = []
    for _ in range(2):  # and the power goes before the row is stored
        site = Cloud(tmp_path)
        site.edit(rule)
        await site.start()
        if not identities:
            await site.receive(framed(1, said(0), said(1)))
            await site.work()
        site.windows.run_on(ABANDONED_SECONDS + 1e6, NOON, lambda _: False)
        effects = Effects(site.worker._surroundings)
        effects.gather_rows(site.rules, site.windows.due(), NOON)
        identities += [each.message_id for each in effects.notifications["alerts"]]
        await site.store.close()
    assert len(identities) == 2
    assert len(set(identities)) == 1


async def test_a_row_that_fails_counts_the_time_it_took(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path)
    cloud.edit(CLOUD_RULES.replace("sum(n) AS numbers", f"concat({', '.join(['last(long)'] * 300)}) AS numbers"))
    await cloud.start()
    message = Message("plant/m1", orjson.dumps({"at": NOON, "long": "x" * 4_000}), 1, received_at=NOON)
    await cloud.receive(framed(1, message))
    await cloud.work()
    (rule,) = cloud.rules
    before = rule.counters.spent_ns
    cloud.windows.run_on(ABANDONED_SECONDS + 1e6, NOON, lambda _: False)
    effects = Effects(cloud.worker._surroundings)
    effects.gather_rows(cloud.rules, cloud.windows.due(), NOON)
    assert effects.failed == {"Summary": 1}
    assert rule.counters.spent_ns > before
    await cloud.store.close()


async def test_a_step_that_the_disk_refuses_counts_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = Cloud(tmp_path)
    await cloud.start()
    await cloud.receive(framed(1, said(0), said(1)))
    run, broken = cloud.store.run, True

    async def refuse(job: Any, then: Any = None) -> Any:
        def fails(connection: sqlite3.Connection) -> None:
            job(connection)
            raise StorageError("the disk refuses")

        return await run(fails if broken and job.__name__ == "commit" else job, then)

    monkeypatch.setattr(cloud.store, "run", refuse)
    for _ in range(3):
        with pytest.raises(StorageError):
            await cloud.worker.step()
    broken = False
    await cloud.work()
    await cloud.receive(framed(3, said(40, 130_000)))
    assert await cloud.worker.step()
    broken = True
    for _ in range(3):  # now it is the row that cannot be stored
        with pytest.raises(StorageError):
            await cloud.worker.step()
    broken = False
    await cloud.work()
    assert cloud.stored() == ([summary(3, 2)], [summary(3, 2)])
    await cloud.store.close()


async def test_whenever_the_power_goes_a_cloud_stores_one_row_with_every_message(tmp_path: Path) -> None:
    """An edge that sends what was not acknowledged again, and a cloud that is killed before each of its statements."""
    sent = [framed(1, said(0), said(1)), framed(3, said(2)), framed(4, said(40, 130_000))]
    acknowledged: list[int] = []
    done = 0
    with images(tmp_path, ("cloud.db", "cloud.db-wal")) as (taken, begin, end):
        cloud = Cloud(tmp_path)
        await cloud.start()
        begin()
        for frame in sent:
            await cloud.receive(frame)
            done += 1
            acknowledged += [done - 1] * (len(taken) - len(acknowledged))
            await cloud.work()
            acknowledged += [done] * (len(taken) - len(acknowledged))
        end()
        await cloud.store.close()
    assert len(taken) > 30
    for image, count in zip(taken, acknowledged, strict=True):
        after = Cloud(image)
        await after.start()
        for frame in sent[count:]:
            await after.receive(frame)
        await after.work()
        assert after.stored() == ([summary(7, 3)], [summary(7, 3)]), (image, count)
        await after.pass_time()
        assert [item["numbers"] for item in after.stored()[1]] == [7, 2**40]
        await after.store.close()
