"""What edges and clients send is acknowledged when it is in the inbox; what cannot be taken says why."""

import asyncio
import sqlite3
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from cloud import inbox
from cloud.ingest import DIRECT, IMPLEMENTATION_SPECIFIC, PAYLOAD_FORMAT_INVALID, QUOTA_EXCEEDED, Ingest
from core import blocks, frames
from core.message import Message, Origin
from core.receipts import STORED, Batch, Kind, Receipt
from core.store import Store
from core.telemetry import Counters

T = 1_800_000_000_000
PRESS = Origin("ab" * 32, "10.0.0.7")
_HEAD = struct.Struct("<2sBBQQIQqqI")


class Cloud:
    """Ingest over a real database."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counters = Counters()
        self.arrived = 0
        self.store = Store(path, inbox.SCHEMA)
        self.ingest = Ingest(self.store, self.counters, self._wake)

    def _wake(self) -> None:
        self.arrived += 1

    def offer(self, *messages: Message) -> "asyncio.Future[Receipt]":
        settled: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.ingest.accept(Batch(list(messages), Receipt(settled.set_result), "edge"))
        return settled

    async def stored(self) -> list[tuple[str, str, int, bytes]]:
        """Edge, lane, number and payload of everything that is new."""
        entries = await self.store.run(lambda connection: inbox.read(connection, 10**9))
        return [
            (header.edge, header.lane, number, messages[number - header.first].payload)
            for entry in entries
            for header, messages in [frames.decode(entry.frame)]
            for first, last in entry.fresh
            for number in range(first, last + 1)
        ]

    async def execute(self, sql: str) -> None:
        await self.store.run(lambda connection: connection.execute(sql).fetchall())


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    cloud = Cloud(tmp_path / "cloud.db")
    yield cloud
    await cloud.store.close()


def framed(*payloads: bytes, first: int = 1, edge: str = "hall", lane: str = "all", floor: int = 1) -> Message:
    messages = [Message("plant/1", payload, received_at=T) for payload in payloads]
    return Message(frames.topic(edge, lane), frames.encode(edge, lane, 5, first, floor, messages), 1)


def with_numbers(epoch: int, first: int, floor: int) -> Message:
    """A frame of two messages with a right checksum and any numbers."""
    whole = framed(b"a", b"b").payload
    fields = list(_HEAD.unpack_from(whole))
    fields[3], fields[4], fields[6] = epoch, first, floor
    head = _HEAD.pack(*fields)
    rest = whole[_HEAD.size + 4 :]
    return Message(frames.topic("hall", "all"), head + struct.pack("<I", zlib.crc32(rest, zlib.crc32(head))) + rest, 1)


def kinds(receipt: Receipt, count: int) -> list[tuple[Kind, int]]:
    assert receipt.outcome is not None
    outcomes = [receipt.exceptions.get(index, receipt.outcome) for index in range(count)]
    return [(outcome.kind, outcome.code) for outcome in outcomes]


GOOD = (Kind.STORED, 0)
BAD = (Kind.REJECTED, PAYLOAD_FORMAT_INVALID)


async def test_a_frame_is_acknowledged_when_it_is_in_the_file(cloud: Cloud) -> None:
    with closing(sqlite3.connect(cloud.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        future = cloud.offer(framed(b"a", b"b"))
        await asyncio.wait([future], timeout=0.2)
        assert not future.done()
        assert cloud.arrived == 0
        other.execute("ROLLBACK")
    assert kinds(await future, 1) == [GOOD]
    assert cloud.arrived == 1
    assert await cloud.stored() == [("hall", "all", 1, b"a"), ("hall", "all", 2, b"b")]


async def test_a_repeated_frame_is_acknowledged_and_counted_as_one(cloud: Cloud) -> None:
    for _ in range(3):
        assert kinds(await cloud.offer(framed(b"a", b"b")), 1) == [GOOD]
    assert len(await cloud.stored()) == 2
    assert cloud.counters.value("messages_stored_total") == 2
    assert cloud.counters.value("messages_repeated_total") == 4


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"TG",
        b'{"temperature": 21.5}',
        framed(b"a").payload[:-1],
        framed(b"a").payload[:-3] + b"abc",
        framed(b"a").payload.replace(b"TG", b"XX", 1),
        framed(b"a").payload[:2] + b"\x09" + framed(b"a").payload[3:],
    ],
)
async def test_what_is_no_frame_is_refused_while_the_others_are_stored(cloud: Cloud, payload: bytes) -> None:
    bad = Message(frames.topic("hall", "all"), payload, 1)
    receipt = await cloud.offer(framed(b"a"), bad, framed(b"b", first=2))
    assert kinds(receipt, 3) == [GOOD, BAD, GOOD]
    assert [payload for *_, payload in await cloud.stored()] == [b"a", b"b"]
    assert cloud.counters.value("frames_refused_total") == 1


@pytest.mark.parametrize(("edge", "lane"), [("yard", "all"), ("hall", "alarms"), ("hall", "all/x"), ("", "all")])
async def test_a_frame_on_the_topic_of_another_edge_or_lane_is_refused(cloud: Cloud, edge: str, lane: str) -> None:
    frame = framed(b"a").payload
    receipt = await cloud.offer(Message(frames.topic(edge, lane), frame, 1), framed(b"b", first=2))
    assert kinds(receipt, 2) == [BAD, GOOD]
    assert [payload for *_, payload in await cloud.stored()] == [b"b"]


@pytest.mark.parametrize(
    ("epoch", "first", "floor"),
    [(2**63, 1, 1), (2**64 - 1, 1, 1), (5, 2**63 - 1, 1), (5, 2**64 - 1, 1), (5, 7, 8), (5, 1, 2**64 - 1)],
)
async def test_numbers_that_make_no_sense_are_refused_and_cost_the_others_nothing(
    cloud: Cloud, epoch: int, first: int, floor: int
) -> None:
    receipt = await cloud.offer(with_numbers(epoch, first, floor), framed(b"a"))
    assert kinds(receipt, 2) == [BAD, GOOD]
    assert await cloud.stored() == [("hall", "all", 1, b"a")]


async def test_the_largest_numbers_are_taken(cloud: Cloud) -> None:
    receipt = await cloud.offer(with_numbers(2**63 - 1, 2**63 - 2, 2**63 - 2))
    assert kinds(receipt, 1) == [GOOD]
    assert [number for _, _, number, _ in await cloud.stored()] == [2**63 - 2, 2**63 - 1]


async def test_a_batch_of_nothing_but_bad_frames_is_refused(cloud: Cloud) -> None:
    bad = Message(frames.topic("hall", "all"), b"", 1)
    assert kinds(await cloud.offer(bad, bad), 2) == [BAD, BAD]


# -- a disk that refuses -----------------------------------------------------------------------------------------------

REFUSE = "CREATE TRIGGER full BEFORE INSERT ON {} BEGIN SELECT raise(ABORT, 'disk full'); END"


@pytest.mark.parametrize("table", ["inbox", "edges", "seen"])
async def test_when_the_disk_refuses_the_edge_keeps_its_frame_and_can_send_it_again(cloud: Cloud, table: str) -> None:
    await cloud.execute(REFUSE.format(table))
    receipt = await cloud.offer(framed(b"a"), Message(frames.topic("hall", "all"), b"bad", 1))
    assert kinds(receipt, 2) == [(Kind.REJECTED, QUOTA_EXCEEDED), BAD]
    assert await cloud.stored() == []
    assert cloud.arrived == 0
    await cloud.execute("DROP TRIGGER full")
    assert kinds(await cloud.offer(framed(b"a")), 1) == [GOOD]
    assert await cloud.stored() == [("hall", "all", 1, b"a")]
    assert cloud.counters.value("messages_repeated_total") == 0


async def test_an_edge_with_too_many_gaps_is_told_that_this_is_not_about_space(cloud: Cloud) -> None:
    gaps = [[number * 2 + 1, number * 2 + 1] for number in range(inbox.RANGES_MAX)]
    await cloud.execute(f"INSERT INTO seen VALUES ('hall', 'all', 5, '{orjson.dumps(gaps).decode()}')")
    receipt = await cloud.offer(framed(b"a", first=10**6))
    assert kinds(receipt, 1) == [(Kind.REJECTED, IMPLEMENTATION_SPECIFIC)]
    assert kinds(await cloud.offer(framed(b"a", edge="yard")), 1) == [GOOD]


# -- plain messages ----------------------------------------------------------------------------------------------------


async def test_plain_messages_enter_the_inbox_as_they_are(cloud: Cloud) -> None:
    message = Message("office/door", b"open", 1, False, "phone", T)
    assert kinds(await cloud.offer(message), 1) == [GOOD]
    [entry] = await cloud.store.run(lambda connection: inbox.read(connection, 10))
    header, messages = frames.decode(entry.frame)
    assert messages == [message]
    assert (header.edge, header.lane, header.first) == ("", DIRECT, 1)


async def test_plain_messages_are_numbered_on_from_batch_to_batch(cloud: Cloud) -> None:
    for payloads in ([b"a", b"b"], [b"c"], [b"c"]):
        await cloud.offer(*[Message("t", payload, received_at=T) for payload in payloads])
    assert await cloud.stored() == [("", DIRECT, n, payload) for n, payload in enumerate([b"a", b"b", b"c", b"c"], 1)]


async def test_plain_messages_and_frames_may_come_together(cloud: Cloud) -> None:
    receipt = await cloud.offer(
        Message("t", b"plain 1", received_at=T), framed(b"framed"), Message("t", b"plain 2", received_at=T)
    )
    assert kinds(receipt, 3) == [GOOD] * 3
    assert sorted(await cloud.stored()) == [
        ("", DIRECT, 1, b"plain 1"),
        ("", DIRECT, 2, b"plain 2"),
        ("hall", "all", 1, b"framed"),
    ]


async def test_plain_messages_that_could_not_be_stored_leave_no_gaps_behind(cloud: Cloud) -> None:
    for _ in range(3):
        await cloud.execute(REFUSE.format("inbox"))
        receipt = await cloud.offer(Message("t", b"lost", received_at=T))
        assert kinds(receipt, 1) == [(Kind.REJECTED, QUOTA_EXCEEDED)]
        await cloud.execute("DROP TRIGGER full")
        await cloud.offer(Message("t", b"kept", received_at=T))
    assert [payload for *_, payload in await cloud.stored()] == [b"kept"] * 3
    [(ranges,)] = await cloud.store.run(lambda connection: connection.execute("SELECT ranges FROM seen").fetchall())
    assert len(orjson.loads(ranges)) == 1


async def test_a_flood_of_plain_messages_is_cut_into_frames(cloud: Cloud) -> None:
    count = blocks.MESSAGES_MAX + 2
    receipt = await cloud.offer(*[Message("t", b"", received_at=T)] * count)
    assert receipt.outcome == STORED
    assert await cloud.store.run(inbox.waiting) == (2, count)


# -- who sent it -------------------------------------------------------------------------------------------------------


async def test_the_origin_of_a_batch_is_stored_for_what_came_directly_and_not_for_frames(cloud: Cloud) -> None:
    settled: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
    batch = Batch([Message("plant/1", b"mine"), framed(b"a")], Receipt(settled.set_result), "press", origin=PRESS)
    cloud.ingest.accept(batch)
    assert (await settled).outcome == STORED
    entries = await cloud.store.run(lambda connection: inbox.read(connection, 10))
    assert [(frames.read_header(entry.frame).edge, entry.origin) for entry in entries] == [("hall", None), ("", PRESS)]
