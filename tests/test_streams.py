"""Streams deliver every record exactly once, in Firehose's objects, whatever kills the process."""

import asyncio
import gzip
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud.targets import UnknownTarget, delivery
from cloud.targets.config import StreamConfig, TargetsConfig
from cloud.targets.delivery import Delivery, write_object
from cloud.targets.names import Prefix, is_object_of, object_name
from cloud.targets.objects import TEMPORARY_PREFIX, temporary_name
from cloud.targets.streams import (
    BATCH_BYTES_MAX,
    RECORD_BYTES_MAX,
    SCHEMA,
    Object,
    Pending,
    Streams,
    due_in_ms,
    left_ms,
    status,
)
from core.errors import StorageError
from core.store import Store, connect
from core.telemetry import Counters

UUIDS = (str(UUID(int=number)) for number in range(10**9))
ROOT = Path(__file__).parent.parent
T0 = 1_735_689_599_000  # 2024-12-31T23:59:59Z
SMALL = StreamConfig(size=1_024, interval=60.0)


class Clock:
    def __init__(self) -> None:
        self.ms = T0

    def __call__(self) -> int:
        return self.ms


def objects_in(directory: Path) -> list[Path]:
    """All files below; oldest first by name, and nothing may be left unfinished."""
    found = sorted((path for path in directory.rglob("*") if path.is_file()), key=lambda path: path.name)
    assert not [path for path in found if path.name.startswith(TEMPORARY_PREFIX)]
    return found


def records_in(path: Path) -> list[bytes]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    assert data.endswith(b"\n")
    return data.splitlines()


def delivered(directory: Path) -> list[bytes]:
    return [record for path in objects_in(directory) for record in records_in(path)]


# Names


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("!{timestamp:yyyy/MM/dd/HH/}", "2024/03/05/07/"),
        ("", "2024/03/05/07/"),
        ("logs/", "logs/2024/03/05/07/"),
        ("logs", "logs2024/03/05/07/"),
        ("year=!{timestamp:yyyy}/day=!{timestamp:DDD}/", "year=2024/day=065/"),
        ("!{timestamp:uuuu-MM-dd'T'HH:mm:ss}-", "2024-03-05T07:08:09-"),
        ("!{timestamp:yy'year 'yyyy''MM}/", "24year 2024'03/"),
        ("!{timestamp:'it''s 'HH}/", "it's 07/"),
        ("$!{timestamp:yyyy}{x}", "$2024{x}"),
    ],
)
def test_a_prefix_is_rendered_as_firehose_does(template: str, rendered: str) -> None:
    assert Prefix(template).render(datetime(2024, 3, 5, 7, 8, 9, tzinfo=UTC)) == rendered


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("!{firehose:random-string}/", "!{firehose:random-string} is not supported"),
        ("!{partitionKeyFromQuery:customer}/!{timestamp:yyyy}/", "is not supported"),
        ("!{timestamp:YYYY}/", "week-based year, write yyyy"),
        ("!{timestamp:yyyy/QQ}/", "'QQ' is not supported"),
        ("!{timestamp:yyyy'/}", "unmatched quote"),
        ("a!{timestamp:yyyy", "without its '}'"),
        ("x" * 1_025, "longer than 1,024"),
        ("x" * 500, "more than 512"),
    ],
)
def test_a_prefix_that_cannot_be_rendered_is_refused_with_the_reason(template: str, words: str) -> None:
    with pytest.raises(ValueError) as refused:
        Prefix(template)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "prefix", ["/rooted/", "a//b/", "../!{timestamp:yyyy}/", "a\0/", "!{timestamp:yyyy}/" + "x" * 190, "€/" * 245]
)
def test_a_prefix_that_gives_impossible_keys_is_refused_with_the_configuration(prefix: str) -> None:
    good = StreamConfig(prefix="a-b/!{timestamp:yyyy}/" + "x" * 150)
    TargetsConfig(streams={"telemetry": good})
    with pytest.raises(ValueError, match=r"telemetry\.prefix: object key"):
        TargetsConfig(streams={"fine": good, "telemetry": StreamConfig(prefix=prefix)})


def test_an_object_is_named_after_its_stream_version_and_oldest_record() -> None:
    uuid = "5f1c9d0e-0000-4000-8000-000000000001"
    key = object_name(Prefix("raw/"), "telemetry", 3, T0 + 999, uuid, ".gz")
    assert key == f"raw/2024/12/31/23/telemetry-3-2024-12-31-23-59-59-{uuid}.gz"


@pytest.mark.parametrize("prefix", [Prefix(""), Prefix("a/!{timestamp:yyyy}-x-")])
def test_an_object_is_recognised_by_its_own_stream_only(prefix: Prefix) -> None:
    name = object_name(prefix, "raw-telemetry", 1, T0, next(UUIDS), "").rpartition("/")[2]
    assert is_object_of(prefix, "raw-telemetry", name)
    for other in ("telemetry", "raw", "raw-telemetry-1"):
        assert not is_object_of(prefix, other, name)
    assert not is_object_of(prefix, "raw-telemetry", name + ".part")
    assert not is_object_of(prefix, "raw-telemetry", name.replace("-12-31-", "-13-31-"))


# Decisions


@pytest.mark.parametrize(
    ("pending", "now_ms", "expected"),
    [
        (None, T0, 60_000),
        (Pending(1, T0, 1, 10), T0, 60_000),
        (Pending(1, T0, 1, 10), T0 + 59_999, 1),
        (Pending(1, T0, 1, 10), T0 + 60_000, 0),
        (Pending(1, T0, 9, 1_024), T0, 0),
        (Pending(1, T0, 9, 1_023), T0 + 1, 59_999),
        (Pending(1, T0, 1, 10), T0 - 3_600_000, 0),  # the clock jumped back an hour: nobody waits that long
    ],
)
def test_records_are_due_by_size_or_by_age(pending: Pending | None, now_ms: int, expected: int) -> None:
    assert due_in_ms(SMALL, pending, now_ms) == expected


@given(st.integers(0, 10**13), st.integers(0, 10**6), st.integers(0, 10**13))
def test_a_wait_is_never_longer_than_its_span(since: int, span: int, now: int) -> None:
    assert 0 <= left_ms(since, span, now) <= span


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = connect(tmp_path / "cloud.db", SCHEMA)
    yield connection
    connection.close()


def test_an_object_takes_the_oldest_records_up_to_the_size(db: sqlite3.Connection) -> None:
    streams = Streams({"s": SMALL, "other": SMALL})
    streams.open(db)
    for number in range(5):
        streams.append(db, "s", [bytes(400)], T0 + number)
        streams.append(db, "other", [b"x"], T0)
    first = streams.decide(db, "s", T0 + 5, next(UUIDS))
    assert isinstance(first, Object)
    assert (first.records, first.bytes) == (3, 1_200)
    assert streams.decide(db, "s", T0 + 5, next(UUIDS)) == first  # until it is settled
    streams.settle(db, first)
    assert streams.decide(db, "s", T0 + 5, next(UUIDS)) == 60_000 - 2  # the oldest is now the fourth
    assert status(db, "s").pending_records == 2
    assert status(db, "other").pending_records == 5


def test_records_are_cut_into_batches_and_one_that_is_too_large_is_refused(db: sqlite3.Connection) -> None:
    streams = Streams({"s": SMALL})
    records = [b"a" * RECORD_BYTES_MAX, b"b" * (RECORD_BYTES_MAX + 1), b"c" * RECORD_BYTES_MAX, b"", b"d"]
    rejected = streams.append(db, "s", records, T0)
    assert [each.index for each in rejected] == [1]
    assert "1,024,001 bytes" in rejected[0].reason
    batches = [data for (data,) in db.execute("SELECT data FROM stream_batches ORDER BY id")]
    assert b"".join(batches) == records[0] + records[2] + b"d"
    assert max(map(len, batches)) <= BATCH_BYTES_MAX
    assert status(db, "s").pending_records == 4


def test_appending_nothing_leaves_nothing(db: sqlite3.Connection) -> None:
    Streams({"s": SMALL}).append(db, "s", [], T0)
    assert db.execute("SELECT count(*) FROM stream_batches").fetchone() == (0,)


def test_the_version_in_names_grows_with_each_change_of_the_configuration(db: sqlite3.Connection) -> None:
    def version(config: StreamConfig) -> str:
        streams = Streams({"s": config})
        streams.open(db)
        streams.append(db, "s", [b"x"], T0)
        decided = streams.decide(db, "s", T0, next(UUIDS), flush_to=2**62)
        assert isinstance(decided, Object)
        streams.settle(db, decided)
        return decided.key.split("s-")[1].split("-")[0]

    other = SMALL.model_copy(update={"compression": "UNCOMPRESSED"})
    assert [version(config) for config in (SMALL, SMALL, other, other, SMALL)] == ["1", "1", "2", "2", "3"]


def test_a_stream_that_is_not_configured_is_refused() -> None:
    with pytest.raises(UnknownTarget, match=r"add \[targets.streams.typo\]"):
        Streams({"s": SMALL}).check("typo")


# Delivery


async def open_store(directory: Path, config: dict[str, StreamConfig]) -> Store:
    store = Store(directory / "cloud.db", SCHEMA)
    await store.run(Streams(config).open)
    return store


async def append(store: Store, config: dict[str, StreamConfig], stream: str, *records: bytes) -> None:
    lines = [record + b"\n" for record in records]
    await store.run(lambda connection: Streams(config).append(connection, stream, lines, T0))


async def test_pending_records_are_delivered_when_they_are_old_enough_not_before(tmp_path: Path) -> None:
    config, clock = {"s": SMALL, "plain": SMALL.model_copy(update={"compression": "UNCOMPRESSED"})}, Clock()
    store = await open_store(tmp_path, config)
    carrier = Delivery(store, config, tmp_path / "out", clock, counters := Counters())
    await append(store, config, "s", b"1", b"2")
    await append(store, config, "plain", b"3")
    clock.ms += 59_000
    assert await carrier.deliver_due() == 1.0
    assert not (tmp_path / "out").exists()
    clock.ms += 1_000
    assert await carrier.deliver_due() == 60.0
    assert [records_in(path) for path in objects_in(tmp_path / "out")] == [[b"3"], [b"1", b"2"]]
    assert [path.suffix for path in objects_in(tmp_path / "out")] == ["", ".gz"]
    assert counters.value("stream_records_total") == 3
    await store.close()


async def test_a_flush_delivers_one_stream_or_all(tmp_path: Path) -> None:
    config = {"a": SMALL, "b": SMALL}
    store = await open_store(tmp_path, config)
    carrier = Delivery(store, config, tmp_path / "out", Clock(), Counters())
    await append(store, config, "a", b"1")
    await append(store, config, "b", *(b"%0500d" % number for number in range(7)))
    assert await carrier.flush("a") == 1
    assert await carrier.flush("a") == 0
    assert delivered(tmp_path / "out") == [b"1"]
    assert await carrier.flush() >= 1
    assert sorted(delivered(tmp_path / "out")) == sorted([b"1", *(b"%0500d" % number for number in range(7))])
    with pytest.raises(UnknownTarget):
        await carrier.flush("typo")
    await store.close()


async def test_a_directory_that_refuses_is_tried_again_and_costs_neither_records_nor_other_streams(
    tmp_path: Path,
) -> None:
    bad = SMALL.model_copy(update={"directory": tmp_path / "unmounted" / "bad"})
    config, clock = {"bad": bad, "good": SMALL}, Clock()
    store = await open_store(tmp_path, config)
    carrier = Delivery(store, config, tmp_path / "good", clock, counters := Counters())
    await append(store, config, "bad", b"kept")
    await append(store, config, "good", b"delivered")
    clock.ms += 60_000
    assert await carrier.deliver_due() == 1.0
    assert delivered(tmp_path / "good") == [b"delivered"]
    clock.ms += 999
    assert await carrier.deliver_due() == 0.001  # it rests: nothing was tried
    assert counters.value("stream_failures_total", stream="bad") == 1
    clock.ms += 1
    assert await carrier.deliver_due() == 2.0
    with pytest.raises(StorageError, match="unmounted"):
        await carrier.flush("bad")
    (tmp_path / "unmounted").mkdir()
    clock.ms += 2_000
    await carrier.deliver_due()
    assert delivered(tmp_path / "unmounted") == [b"kept"]
    assert counters.value("stream_failures_total", stream="bad") == 2
    await store.close()


async def test_the_running_delivery_wakes_for_a_full_object(tmp_path: Path) -> None:
    config = {"s": SMALL}
    store = await open_store(tmp_path, config)
    carrier = Delivery(store, config, tmp_path / "out", Clock(), counters := Counters())
    running = asyncio.create_task(carrier.run())
    await append(store, config, "s", bytes(1_024))
    carrier.wake()
    for _ in range(1_000):
        if counters.value("stream_objects_total"):
            break
        await asyncio.sleep(0.01)
    assert delivered(tmp_path / "out") == [bytes(1_024)]
    running.cancel()
    await asyncio.wait([running])
    await store.close()


async def test_cancelling_waits_for_the_object_that_is_being_written() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        entered.set()
        go_on.wait()

    writing = asyncio.create_task(delivery._in_thread_to_its_end(slow))
    await asyncio.to_thread(entered.wait)
    writing.cancel()
    try:
        done, _ = await asyncio.wait([writing], timeout=0.05)
        assert not done
    finally:
        go_on.set()
    await asyncio.wait([writing])
    assert writing.cancelled()


# Crashes

STEPS = ("append", "append many", "wait", "decide", "half write", "write", "settle", "reopen", "reconfigure")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(STEPS), max_size=25))
def test_every_record_is_delivered_once_in_order_wherever_the_work_stops(steps: list[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))
        for step in steps:
            world.step(step)
        world.finish()


class World:
    """One stream worked step by step, as `Delivery` does, with a stop possible after each step."""

    def __init__(self, directory: Path) -> None:
        self.database, self.out = directory / "cloud.db", directory / "out"
        self.config = SMALL
        self.now = T0
        self.written: list[bytes] = []
        self.keys: list[str] = []
        self.reopen()

    def reopen(self) -> None:
        self.db = connect(self.database, SCHEMA)
        self.streams = Streams({"s": self.config})
        self.streams.open(self.db)

    def step(self, step: str) -> None:
        match step:
            case "append" | "append many":
                count = 1 if step == "append" else 40
                records = [b"%030d\n" % (len(self.written) + number) for number in range(count)]
                self.streams.append(self.db, "s", records, self.now)
                self.written += records
            case "wait":
                self.now += 60_000
            case "half write":
                if decided := self.decide():
                    path = self.out / decided.key
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.with_name(temporary_name(decided.key)).write_bytes(b"torn")
            case "decide":
                self.decide()
            case "write" | "settle":
                if decided := self.decide():
                    write_object(self.database, self.out, decided)
                    if step == "settle":
                        self.streams.settle(self.db, decided)
            case "reopen" | "reconfigure":
                self.db.close()
                if step == "reconfigure":
                    other = "UNCOMPRESSED" if self.config.compression == "GZIP" else "GZIP"
                    self.config = self.config.model_copy(update={"compression": other})
                self.reopen()

    def decide(self, flush_to: int = 0) -> Object | None:
        decided = self.streams.decide(self.db, "s", self.now, next(UUIDS), flush_to=flush_to)
        if not isinstance(decided, Object):
            return None
        if decided.key not in self.keys:
            self.keys.append(decided.key)
        return decided

    def finish(self) -> None:
        while decided := self.decide(flush_to=2**62):
            write_object(self.database, self.out, decided)
            self.streams.settle(self.db, decided)
        assert {str(path.relative_to(self.out)) for path in objects_in(self.out)} == set(self.keys)
        found = [record for key in self.keys for record in records_in(self.out / key)]
        assert found == [record.rstrip() for record in self.written]
        assert status(self.db, "s").delivered_records == len(self.written)
        self.db.close()


CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
from cloud.targets import delivery, objects, streams
from cloud.targets.config import StreamConfig
from core.store import Store
from core.telemetry import Counters

directory, mode = Path(sys.argv[1]), sys.argv[2]
config = {"s": StreamConfig(size=1024, interval=60.0)}

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

def before(owner, name):
    setattr(owner, name, die)

def after(owner, name):
    really = getattr(owner, name)
    def wrapped(*arguments, **options):
        really(*arguments, **options)
        die()
    setattr(owner, name, wrapped)

def half(decided_contents):
    def wrapped(connection, decided):
        yield next(decided_contents(connection, decided))
        die()
    return wrapped

async def main():
    store = Store(directory / "cloud.db", streams.SCHEMA)
    the_streams = streams.Streams(config)
    await store.run(the_streams.open)
    carrier = delivery.Delivery(store, config, directory / "out", lambda: 1_735_689_599_000, Counters())
    if mode == "busy":
        start = int(sys.argv[3])
        async def work():
            for batch in range(start, 10**9, 10):
                lines = [b"%08d\\n" % number for number in range(batch, batch + 10)]
                await store.run(lambda c: the_streams.append(c, "s", lines, 1_735_689_599_000))
                print(batch + 10, flush=True)
        async def deliver():
            while True:
                await carrier.deliver_due()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(work())
            tasks.create_task(deliver())
    for batch in range(5):
        lines = [b"%08d\\n" % (batch * 100 + number) for number in range(100)]
        await store.run(lambda c: the_streams.append(c, "s", lines, 1_735_689_599_000))
    match mode:
        case "while deciding": after(streams.Streams, "decide")
        case "decided": before(delivery, "write_object")
        case "half written": delivery.contents = half(delivery.contents)
        case "written, not synced": before(os, "fsync")
        case "synced, not named": before(Path, "replace")
        case "named, not synced": after(Path, "replace")
        case "written": after(delivery, "write_object")
        case "while settling": after(streams.Streams, "settle")
    await carrier.flush()
    die()

asyncio.run(main())
"""


def child(directory: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", CHILD, str(directory), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


async def recover(directory: Path) -> None:
    """What the daemon does after a start, and then a flush."""
    config = {"s": SMALL}
    store = await open_store(directory, config)
    await Delivery(store, config, directory / "out", Clock(), Counters()).flush()
    await store.close()


# Moment of death → what is there then: decisions, unfinished files, objects.
MOMENTS = {
    "while deciding": (0, 0, 0),
    "decided": (1, 0, 0),
    "half written": (1, 1, 0),
    "written, not synced": (1, 1, 0),
    "synced, not named": (1, 1, 0),
    "named, not synced": (1, 0, 1),
    "written": (1, 0, 1),
    "while settling": (1, 0, 1),
    "all settled": (0, 0, 3),
}


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_kill_at_any_step_loses_nothing_and_repeats_nothing(tmp_path: Path, moment: str) -> None:
    process = child(tmp_path, moment)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert what_is_there(tmp_path) == MOMENTS[moment]
    await recover(tmp_path)
    assert sorted(delivered(tmp_path / "out")) == [b"%08d" % number for number in range(500)]


def what_is_there(directory: Path) -> tuple[int, int, int]:
    db = sqlite3.connect(directory / "cloud.db")
    decisions = db.execute("SELECT count(*) FROM stream_objects").fetchone()[0]
    db.close()
    files = [path.name for path in (directory / "out").rglob("*") if path.is_file()]
    unfinished = sum(name.startswith(TEMPORARY_PREFIX) for name in files)
    return decisions, unfinished, len(files) - unfinished


async def test_a_kill_at_any_time_loses_nothing_that_was_committed_and_repeats_nothing(
    tmp_path: Path,
) -> None:
    start = 0
    for kill_after in (1, 37, 150):
        process = child(tmp_path, "busy", str(start))
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(kill_after)][-1]
        os.kill(process.pid, signal.SIGKILL)
        rest = process.communicate()[0].split()
        acknowledged = max([acknowledged, *(int(line) for line in rest)])
        await recover(tmp_path)
        found = sorted(delivered(tmp_path / "out"))
        assert found == [b"%08d" % number for number in range(len(found))]
        assert len(found) >= acknowledged
        start = len(found)
