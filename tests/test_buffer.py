"""The buffer keeps what it said it stored, once, under a number that never comes again; whatever happens to it."""

import asyncio
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

import core.store
from core import blocks
from core.commits import Work
from core.errors import DamagedStore, StorageError
from core.message import Message
from core.receipts import STORED, Batch, Kind, Receipt
from core.telemetry import Counters
from edge.buffer import QUOTA_EXCEEDED, Buffer
from edge.chunks import Chunk
from edge.lanes import CLOCK_PLAUSIBLE_MS, Lane, WhenFull
from edge.resends import REMEMBERED_MS
from tests.killing import Countdown, before_every_statement

NOW = CLOCK_PLAUSIBLE_MS + 10**9
ALARMS = Lane("alarms", ("alarm/#",))
TELEMETRY = Lane("telemetry", ("#",))
LANES = (ALARMS, TELEMETRY)
FRAME = 256 << 10


def said(payload: bytes, at: int = NOW) -> Message:
    return Message("plant/1", payload, 1, False, "device", at)


async def open_buffer(
    directory: Path, lanes: Iterable[Lane] = LANES, counters: Counters | None = None
) -> Buffer:
    return await Buffer.open(directory / "buffer.db", tuple(lanes), counters or Counters())


def offer(
    buffer: Buffer, lane: Lane, *messages: Message, client: str = "device", packet_ids: list[int] | None = None
) -> "asyncio.Future[Receipt]":
    """Add messages as the gateway does; the future holds their receipt when that is settled."""
    settled: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
    batch = Batch(list(messages), Receipt(settled.set_result), client, packet_ids)
    outcomes = {index: buffer.add(lane, message) for index, message in enumerate(messages)}
    buffer.commit(batch, {index: outcome for index, outcome in outcomes.items() if outcome is not None})
    return settled


async def store(buffer: Buffer, lane: Lane, *payloads: bytes) -> None:
    """Store messages, and insist that they are."""
    receipt = await offer(buffer, lane, *[said(payload) for payload in payloads])
    assert receipt.outcome == STORED
    assert not receipt.exceptions


async def everything(buffer: Buffer, lane: Lane) -> list[Chunk]:
    """All chunks of a lane, read as the uplink reads them: with what it has already in flight."""
    found: list[Chunk] = []
    while True:
        more, _ = await buffer.read(lane, [chunk.id for chunk in found], FRAME)
        if not more:
            return found
        found += more
        assert len({chunk.id for chunk in found}) == len(found)


def numbered(found: Iterable[Chunk]) -> dict[tuple[int, int], bytes]:
    """The payload under each (epoch, sequence number), which may not be there twice."""
    pairs = [
        ((chunk.epoch, chunk.first + offset), message.payload)
        for chunk in found
        for offset, message in enumerate(blocks.decode(chunk.block))
    ]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


async def payloads(buffer: Buffer, lane: Lane) -> list[bytes]:
    return list(numbered(await everything(buffer, lane)).values())


def committed(directory: Path) -> int:
    """How many messages somebody else finds in the file."""
    with closing(sqlite3.connect(directory / "buffer.db")) as connection:
        return int(connection.execute("SELECT coalesce(sum(count), 0) FROM chunks").fetchone()[0])


# -- receipts ----------------------------------------------------------------------------------------------------------


async def test_a_receipt_is_settled_when_the_messages_are_in_the_file(tmp_path: Path) -> None:
    buffer = await open_buffer(tmp_path)
    in_the_file: list[int] = []
    for number in range(3):
        settled = asyncio.Event()

        def check(_: Receipt, settled: asyncio.Event = settled) -> None:
            in_the_file.append(committed(tmp_path))
            settled.set()

        buffer.add(TELEMETRY, said(b"%d" % number))
        buffer.commit(Batch([said(b"%d" % number)], receipt := Receipt(check)), {})
        await settled.wait()
        assert receipt.outcome == STORED
    assert in_the_file == [1, 2, 3]
    await buffer.close()


async def test_no_receipt_is_settled_while_the_commit_cannot_happen(tmp_path: Path) -> None:
    buffer = await open_buffer(tmp_path)
    other = sqlite3.connect(tmp_path / "buffer.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # as long as this is open, nobody else can write
    waiting = [offer(buffer, TELEMETRY, said(b"%d" % number)) for number in range(3)]
    await asyncio.wait(waiting, timeout=0.3)
    assert not any(future.done() for future in waiting)
    other.execute("ROLLBACK")
    assert {(await future).outcome for future in waiting} == {STORED}
    assert committed(tmp_path) == 3
    other.close()
    await buffer.close()


async def test_batches_that_come_together_are_committed_together(tmp_path: Path) -> None:
    buffer = await open_buffer(tmp_path)
    futures = [
        offer(buffer, lane, said(b"%d" % n), client=f"device {n}", packet_ids=[1])
        for n, lane in enumerate([ALARMS, TELEMETRY] * 20)
    ]
    await asyncio.gather(*futures)
    with closing(sqlite3.connect(tmp_path / "buffer.db")) as connection:
        assert connection.execute("SELECT count(*) FROM resends").fetchone() == (1,)  # one for each commit
        assert connection.execute("SELECT lane, count FROM chunks ORDER BY lane").fetchall() == [
            ("alarms", 20),
            ("telemetry", 20),
        ]
    await buffer.close()


async def test_what_comes_during_a_commit_shares_the_next_one(tmp_path: Path) -> None:
    buffer = await open_buffer(tmp_path)
    other = sqlite3.connect(tmp_path / "buffer.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    futures = [offer(buffer, TELEMETRY, said(b"first"))]
    for number in range(50):
        await asyncio.sleep(0)
        futures.append(offer(buffer, TELEMETRY, said(b"%d" % number)))
    other.execute("ROLLBACK")
    other.close()
    await asyncio.gather(*futures)
    assert [chunk.count for chunk in await everything(buffer, TELEMETRY)] == [1, 50]
    await buffer.close()


async def test_messages_keep_the_order_in_which_they_were_added(tmp_path: Path) -> None:
    buffer = await open_buffer(tmp_path)
    futures = []
    for number in range(300):
        futures.append(offer(buffer, TELEMETRY, said(b"%d" % number)))
        if number % 7 == 0:
            await asyncio.sleep(0)
    await asyncio.gather(*futures)
    found = await everything(buffer, TELEMETRY)
    assert [int(payload) for payload in numbered(found).values()] == list(range(300))
    assert [number for _, number in numbered(found)] == list(range(1, 301))
    await buffer.close()


async def test_closing_commits_and_settles_what_has_gathered(tmp_path: Path) -> None:
    buffer = await open_buffer(tmp_path)
    futures = [offer(buffer, TELEMETRY, said(b"%d" % number)) for number in range(5)]
    await buffer.close()
    assert [future.result().outcome for future in futures] == [STORED] * 5
    assert committed(tmp_path) == 5


async def test_whoever_drains_the_buffer_is_told_after_the_commit(tmp_path: Path) -> None:
    buffer = await open_buffer(tmp_path)
    seen: list[int] = []
    buffer.changed = lambda: seen.append(committed(tmp_path))
    await store(buffer, TELEMETRY, b"a", b"b")
    await store(buffer, TELEMETRY, b"c")
    assert seen == [2, 3]
    await buffer.close()


# -- numbers -----------------------------------------------------------------------------------------------------------


async def test_numbers_never_come_again_though_the_lane_was_emptied_and_the_file_reopened(tmp_path: Path) -> None:
    used: dict[tuple[int, int], bytes] = {}
    for round_ in range(4):
        buffer = await open_buffer(tmp_path)
        for number in range(3):
            await store(buffer, TELEMETRY, b"%d.%d" % (round_, number), b"and another")
            found = await everything(buffer, TELEMETRY)
            assert not used.keys() & numbered(found).keys()
            used |= numbered(found)
            await buffer.remove("telemetry", [chunk.id for chunk in found])
        await buffer.close()
    assert len(used) == 24
    assert sorted(number for _, number in used) == list(range(1, 25))


async def test_lanes_are_numbered_each_for_itself(tmp_path: Path) -> None:
    buffer = await open_buffer(tmp_path)
    await store(buffer, TELEMETRY, b"t1", b"t2")
    await store(buffer, ALARMS, b"a1")
    await store(buffer, TELEMETRY, b"t3")
    assert [n for _, n in numbered(await everything(buffer, TELEMETRY))] == [1, 2, 3]
    assert [n for _, n in numbered(await everything(buffer, ALARMS))] == [1]
    await buffer.close()


async def test_two_buffers_have_two_epochs(tmp_path: Path) -> None:
    epochs = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        buffer = await open_buffer(tmp_path / name)
        await store(buffer, TELEMETRY, b"x")
        epochs |= {epoch for epoch, _ in numbered(await everything(buffer, TELEMETRY))}
        await buffer.close()
    assert len(epochs) == 2


async def test_what_a_lane_holds_is_known_after_a_restart(tmp_path: Path) -> None:
    buffer = await open_buffer(tmp_path)
    await store(buffer, TELEMETRY, *[b"x" * 10_000] * 40)
    await store(buffer, ALARMS, b"fire")
    before = {name: (state.count, state.bytes, state.next) for name, state in buffer.lanes.items()}
    await buffer.close()
    buffer = await open_buffer(tmp_path)
    after = {name: (state.count, state.bytes, state.next) for name, state in buffer.lanes.items()}
    assert after == before
    assert before["telemetry"][0] == 40
    assert 400_000 < before["telemetry"][1] < 410_000
    await buffer.close()


# -- a full lane -------------------------------------------------------------------------------------------------------


def small(when_full: WhenFull) -> Lane:
    return Lane("small", ("#",), max_bytes=100_000, when_full=when_full)


async def fill(buffer: Buffer, lane: Lane, number: int) -> None:
    for n in range(number):
        await store(buffer, lane, b"%04d" % n + b"x" * 9_996)


async def test_a_full_lane_drops_its_oldest_chunks_and_counts_them(tmp_path: Path) -> None:
    counters, lane = Counters(), small(WhenFull.DROP_OLDEST)
    buffer = await open_buffer(tmp_path, [lane], counters)
    await fill(buffer, lane, 25)
    kept = [int(payload[:4]) for payload in await payloads(buffer, lane)]
    assert kept == list(range(25 - len(kept), 25))
    assert len(kept) == 9  # ten of 10,000 bytes and what a block adds are more than 100,000
    assert counters.value("dropped_total", reason="lane full", lane="small") == 16
    assert buffer.lanes["small"].count == 9
    assert buffer.lanes["small"].bytes <= 100_000
    await buffer.close()


async def test_a_full_lane_that_keeps_the_oldest_acknowledges_and_counts_what_it_leaves_out(tmp_path: Path) -> None:
    counters, lane = Counters(), small(WhenFull.DROP_NEWEST)
    buffer = await open_buffer(tmp_path, [lane], counters)
    await fill(buffer, lane, 10)
    receipt = await offer(buffer, lane, said(b"too much"), said(b"and more"))
    assert receipt.outcome == STORED
    assert {outcome.kind for outcome in receipt.exceptions.values()} == {Kind.DROPPED}
    assert set(receipt.exceptions) == {0, 1}
    assert counters.value("dropped_total", reason="lane full", lane="small") == 2
    assert [int(payload[:4]) for payload in await payloads(buffer, lane)] == list(range(10))
    await buffer.close()


async def test_a_full_lane_that_rejects_says_so_and_takes_again_when_there_is_room(tmp_path: Path) -> None:
    counters, lane = Counters(), small(WhenFull.REJECT)
    buffer = await open_buffer(tmp_path, [lane], counters)
    await fill(buffer, lane, 10)
    receipt = await offer(buffer, lane, said(b"too much"))
    assert [(o.kind, o.code) for o in receipt.exceptions.values()] == [(Kind.REJECTED, QUOTA_EXCEEDED)]
    assert counters.value("messages_rejected_total", lane="small") == 1
    assert counters.value("dropped_total") == 0
    first = (await everything(buffer, lane))[0]
    await buffer.remove("small", [first.id])
    await store(buffer, lane, b"fits again")
    assert (await payloads(buffer, lane))[-1] == b"fits again"
    await buffer.close()


@pytest.mark.parametrize("when_full", [WhenFull.REJECT, WhenFull.DROP_NEWEST])
async def test_one_burst_does_not_overfill_a_lane(tmp_path: Path, when_full: WhenFull) -> None:
    lane = small(when_full)
    buffer = await open_buffer(tmp_path, [lane])
    receipt = await offer(buffer, lane, *[said(b"x" * 10_000) for _ in range(50)])
    assert sorted(receipt.exceptions) == list(range(10, 50))
    assert len(await payloads(buffer, lane)) == 10
    await buffer.close()


async def test_a_full_lane_leaves_the_others_alone(tmp_path: Path) -> None:
    full, free = small(WhenFull.REJECT), Lane("free", ("#",))
    buffer = await open_buffer(tmp_path, [full, free])
    await fill(buffer, full, 10)
    await store(buffer, free, b"x")
    receipt = await offer(buffer, full, said(b"x"))
    assert receipt.exceptions
    await buffer.close()


async def test_numbers_of_what_was_dropped_stay_used(tmp_path: Path) -> None:
    lane = small(WhenFull.DROP_OLDEST)
    buffer = await open_buffer(tmp_path, [lane])
    await fill(buffer, lane, 25)
    found = await everything(buffer, lane)
    assert [number for _, number in numbered(found)] == list(range(17, 26))
    _, floor = await buffer.read(lane, [], FRAME)
    assert floor == 17
    await buffer.close()


async def test_what_was_delivered_is_not_lost_again_when_it_had_to_give_way(tmp_path: Path) -> None:
    """A chunk in flight is dropped because the lane is full; then the cloud's acknowledgement comes."""
    lane = small(WhenFull.DROP_OLDEST)
    buffer = await open_buffer(tmp_path, [lane])
    await fill(buffer, lane, 9)
    found, _ = await buffer.read(lane, [], 20_100)
    await fill(buffer, lane, 2)
    await buffer.remove("small", [chunk.id for chunk in found])
    state = buffer.lanes["small"]
    kept = await everything(buffer, lane)
    assert (state.count, state.bytes) == (len(numbered(kept)), sum(len(chunk.block) for chunk in kept))
    await buffer.close()


# -- age and space -----------------------------------------------------------------------------------------------------


async def test_what_is_too_old_goes_and_is_counted(tmp_path: Path) -> None:
    counters, lane = Counters(), Lane("short", ("#",), max_age=60)
    buffer = await open_buffer(tmp_path, [lane, TELEMETRY], counters)
    await offer(buffer, lane, said(b"old", NOW))
    await offer(buffer, TELEMETRY, said(b"old", NOW))
    await offer(buffer, lane, said(b"new", NOW + 30_000))
    await buffer.tidy(NOW + 60_000)
    assert await payloads(buffer, lane) == [b"old", b"new"]
    await buffer.tidy(NOW + 60_001)
    assert await payloads(buffer, lane) == [b"new"]
    assert await payloads(buffer, TELEMETRY) == [b"old"]
    assert counters.value("dropped_total", reason="too old", lane="short") == 1
    assert buffer.lanes["short"].count == 1
    await buffer.close()


async def test_a_box_without_a_clock_loses_nothing_before_nor_after_its_clock_is_set(tmp_path: Path) -> None:
    lane = Lane("short", ("#",), max_age=60)
    buffer = await open_buffer(tmp_path, [lane])
    await offer(buffer, lane, said(b"in 1970", 5_000))
    await buffer.tidy(10_000_000)
    await buffer.tidy(NOW)
    assert await payloads(buffer, lane) == [b"in 1970"]
    await buffer.close()


async def test_the_file_becomes_small_again_when_the_lanes_are_empty(tmp_path: Path) -> None:
    buffer = await open_buffer(tmp_path)
    await store(buffer, TELEMETRY, *[b"x" * 60_000] * 300)
    await buffer.remove("telemetry", [chunk.id for chunk in await everything(buffer, TELEMETRY)])
    await buffer.tidy(NOW)
    size = sum((tmp_path / name).stat().st_size for name in ("buffer.db", "buffer.db-wal"))
    assert size < 1_000_000
    await store(buffer, TELEMETRY, b"goes on")
    await buffer.close()


# -- lanes that come and go --------------------------------------------------------------------------------------------


async def test_a_lane_that_is_no_longer_configured_is_still_drained(tmp_path: Path) -> None:
    buffer = await open_buffer(tmp_path)
    await store(buffer, ALARMS, b"fire", b"smoke")
    await buffer.close()
    buffer = await open_buffer(tmp_path, [TELEMETRY])
    state = buffer.lanes["alarms"]
    assert (state.count, state.next) == (2, 3)
    found = await everything(buffer, state.lane)
    assert list(numbered(found).values()) == [b"fire", b"smoke"]
    await buffer.remove("alarms", [chunk.id for chunk in found])
    await buffer.close()
    buffer = await open_buffer(tmp_path, [TELEMETRY])
    assert "alarms" not in buffer.lanes
    await buffer.close()
    buffer = await open_buffer(tmp_path)  # configured again: its numbers go on
    await store(buffer, ALARMS, b"fire again")
    assert [chunk.first for chunk in await everything(buffer, ALARMS)] == [3]
    await buffer.close()


# -- resends -----------------------------------------------------------------------------------------------------------


async def test_what_was_committed_is_recognised_after_every_restart_until_then(tmp_path: Path) -> None:
    buffer = await open_buffer(tmp_path)
    receipt = await offer(buffer, TELEMETRY, said(b"a"), said(b"b"), packet_ids=[1, 2])
    assert receipt.outcome == STORED
    assert not buffer.resends  # nothing is known about this run
    for _ in range(3):
        await buffer.close()
        buffer = await open_buffer(tmp_path)
    assert buffer.resends.recognise("device", 1, said(b"a"))
    assert buffer.resends.recognise("device", 2, said(b"b"))
    await buffer.close()


async def test_what_a_full_lane_left_out_is_never_taken_for_known(tmp_path: Path) -> None:
    for when_full in (WhenFull.REJECT, WhenFull.DROP_NEWEST):
        lane = Lane("small", ("#",), max_bytes=10_000, when_full=when_full)
        directory = tmp_path / when_full
        directory.mkdir()
        buffer = await open_buffer(directory, [lane])
        messages = [said(b"fits" * 2_500), said(b"left out")]
        receipt = await offer(buffer, lane, *messages, packet_ids=[101, 102])
        assert set(receipt.exceptions) == {1}
        await buffer.close()
        buffer = await open_buffer(directory, [lane])
        assert buffer.resends.recognise("device", 101, messages[0])
        assert not buffer.resends.recognise("device", 102, messages[1])
        await buffer.close()


def remembered(directory: Path) -> list[int]:
    with closing(sqlite3.connect(directory / "buffer.db")) as connection:
        return [at for (at,) in connection.execute("SELECT at FROM resends ORDER BY id")]


async def test_records_are_forgotten_when_nobody_can_send_those_messages_again(tmp_path: Path) -> None:
    """By their age, and when they seem to be from the future because the clock has jumped back."""
    buffer = await open_buffer(tmp_path)
    await offer(buffer, TELEMETRY, said(b"x"), packet_ids=[1])
    [at] = remembered(tmp_path)
    with closing(sqlite3.connect(tmp_path / "buffer.db", isolation_level=None)) as connection:
        ages = [REMEMBERED_MS * 3, REMEMBERED_MS // 2, -REMEMBERED_MS * 3]
        connection.executemany("INSERT INTO resends(at, records) VALUES (?, x'')", [(at - age,) for age in ages])
    await offer(buffer, TELEMETRY, said(b"x"), packet_ids=[1])
    await buffer.tidy(remembered(tmp_path)[-1])
    ages_left = [remembered(tmp_path)[-1] - one for one in remembered(tmp_path)]
    assert len(ages_left) == 3
    assert all(0 <= age <= REMEMBERED_MS for age in ages_left)
    await buffer.close()


# -- damage ------------------------------------------------------------------------------------------------------------


async def test_what_a_commit_removed_is_accounted_for_although_its_caller_is_gone(tmp_path: Path) -> None:
    # Found by cutting a link: the delivery was cancelled between the delete and its accounting, and the lane never
    # looked empty again.
    buffer = await open_buffer(tmp_path)
    await store(buffer, TELEMETRY, b"a", b"b")
    found = await everything(buffer, TELEMETRY)
    async with asyncio.TaskGroup() as group:
        caller = group.create_task(buffer.remove("telemetry", [chunk.id for chunk in found]))
        await asyncio.sleep(0)
        caller.cancel()
    await everything(buffer, TELEMETRY)  # behind the delete in the line of the writer
    assert (buffer.lanes["telemetry"].count, buffer.lanes["telemetry"].bytes) == (0, 0)
    await buffer.close()


async def test_every_start_numbers_in_an_epoch_of_its_own(tmp_path: Path) -> None:
    # A card that lied about a sync, or was restored from an image, forgets numbers that the cloud has seen.
    for _ in range(3):
        buffer = await open_buffer(tmp_path)
        await store(buffer, TELEMETRY, b"x")
        found = await everything(buffer, TELEMETRY)
        await buffer.close()
    assert len({chunk.epoch for chunk in found}) == 3
    assert [chunk.first for chunk in found] == [1, 2, 3]


async def test_a_damaged_block_is_counted_and_the_others_still_come(tmp_path: Path) -> None:
    counters = Counters()
    buffer = await open_buffer(tmp_path, counters=counters)
    for number in range(5):
        await store(buffer, TELEMETRY, b"%d" % number, b"%d again" % number)
    await buffer.close()
    with closing(sqlite3.connect(tmp_path / "buffer.db", isolation_level=None)) as connection:
        block = bytearray(connection.execute("SELECT block FROM chunks WHERE first = 5").fetchone()[0])
        block[len(block) // 2] ^= 0x10
        connection.execute("UPDATE chunks SET block = ? WHERE first = 5", (bytes(block),))
    buffer = await open_buffer(tmp_path, counters=counters)
    found = numbered(await everything(buffer, TELEMETRY))
    assert sorted(number for _, number in found) == [1, 2, 3, 4, 7, 8, 9, 10]
    assert counters.value("dropped_total", reason="damaged on disk", lane="telemetry") == 2
    assert buffer.lanes["telemetry"].count == 8
    assert not buffer.damaged.done()
    await buffer.close()


async def test_a_file_that_is_no_database_is_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "buffer.db").write_bytes(b"this was an SD card " * 10_000)
    with pytest.raises(DamagedStore):
        await open_buffer(tmp_path)


async def test_damage_that_shows_while_running_asks_for_an_end(tmp_path: Path) -> None:
    buffer = await open_buffer(tmp_path)
    await store(buffer, TELEMETRY, *[b"%04d" % n * 1_000 for n in range(500)])
    await buffer.close()
    path = tmp_path / "buffer.db"
    size = path.stat().st_size
    buffer = await open_buffer(tmp_path)
    with path.open("r+b") as file:  # as when the card forgets half of what it was told
        file.seek(4_096)
        file.write(b"\xa5" * (size - 4_096))
    with pytest.raises(StorageError):
        await everything(buffer, TELEMETRY)
    with pytest.raises(DamagedStore):
        await asyncio.wait_for(buffer.damaged, 10)
    await buffer.close()


async def test_damage_that_shows_in_what_another_part_writes_asks_for_an_end_too(tmp_path: Path) -> None:
    class Part:
        def gather(self) -> Work:
            def write(_: sqlite3.Connection) -> None:
                raise DamagedStore("malformed")

            return Work(write, lambda _, error: None)

    buffer = await open_buffer(tmp_path)
    buffer.commits.join(Part())
    buffer.commits.soon()
    with pytest.raises(DamagedStore):
        await buffer.damaged
    await buffer.close()


# -- a disk that refuses -----------------------------------------------------------------------------------------------


async def test_a_failed_commit_rejects_its_batches_but_what_is_known_of_single_messages_stays_true(
    tmp_path: Path,
) -> None:
    """A resend of what the disk holds already is acknowledged though the disk takes nothing new."""
    counters = Counters()
    buffer = await open_buffer(tmp_path, counters=counters)
    with closing(sqlite3.connect(tmp_path / "buffer.db", isolation_level=None)) as connection:
        connection.execute("CREATE TRIGGER full BEFORE INSERT ON chunks BEGIN SELECT raise(ABORT, 'disk full'); END")
    settled: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
    buffer.add(TELEMETRY, said(b"new"))
    buffer.commit(Batch([said(b"known"), said(b"new")], Receipt(settled.set_result), "device", [1, 2]), {0: STORED})
    receipt = await settled
    assert receipt.outcome is not None
    assert (receipt.outcome.kind, receipt.outcome.code) == (Kind.REJECTED, QUOTA_EXCEEDED)
    assert receipt.exceptions == {0: STORED}
    assert counters.value("messages_rejected_total", reason="the disk refuses") == 1
    await buffer.close()


async def test_a_failed_commit_uses_up_no_numbers_and_leaves_no_records(tmp_path: Path) -> None:
    buffer = await open_buffer(tmp_path)
    await store(buffer, TELEMETRY, b"first")
    with closing(sqlite3.connect(tmp_path / "buffer.db", isolation_level=None)) as connection:
        connection.execute("CREATE TRIGGER full BEFORE INSERT ON chunks BEGIN SELECT raise(ABORT, 'disk full'); END")
        receipt = await offer(buffer, TELEMETRY, said(b"lost"), packet_ids=[7])
        assert receipt.outcome is not None
        assert receipt.outcome.kind is Kind.REJECTED
        connection.execute("DROP TRIGGER full")
    await store(buffer, TELEMETRY, b"second")
    assert [(n, p) for (_, n), p in numbered(await everything(buffer, TELEMETRY)).items()] == [
        (1, b"first"),
        (2, b"second"),
    ]
    await buffer.close()
    buffer = await open_buffer(tmp_path)
    assert not buffer.resends.recognise("device", 7, said(b"lost"))
    await buffer.close()


async def test_a_disk_is_never_filled_so_far_that_it_could_not_be_drained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = await open_buffer(tmp_path)
    await store(buffer, TELEMETRY, *[b"x" * 60_000] * 10)
    free = shutil.disk_usage(tmp_path).free
    monkeypatch.setattr(core.store, "DISK_RESERVE_BYTES", free + (500 << 20))
    receipt = await offer(buffer, TELEMETRY, said(b"more"), packet_ids=[1])
    assert receipt.outcome is not None
    assert (receipt.outcome.kind, receipt.outcome.code) == (Kind.REJECTED, QUOTA_EXCEEDED)
    found = await everything(buffer, TELEMETRY)
    await buffer.remove("telemetry", [chunk.id for chunk in found])
    assert await everything(buffer, TELEMETRY) == []
    monkeypatch.setattr(core.store, "DISK_RESERVE_BYTES", 0)
    await store(buffer, TELEMETRY, b"more")
    await buffer.close()


async def test_room_inside_the_file_counts_as_free(tmp_path: Path) -> None:
    buffer = await open_buffer(tmp_path)
    await store(buffer, TELEMETRY, *[b"x" * 60_000] * 50)
    reusable = partial(buffer._run, core.store.reusable)
    assert await reusable() == 0
    await buffer.remove("telemetry", [chunk.id for chunk in await everything(buffer, TELEMETRY)])
    assert 2_800_000 < await reusable() < 3_300_000
    await buffer.close()


async def disk_full(directory: Path) -> None:
    """Runs in a process of its own: store, then with hardly any room in the files, then with room again."""
    buffer = await open_buffer(directory)
    told: list[tuple[str, str, int]] = []

    async def send(phase: str, count: int) -> None:
        for number in range(count):
            name = f"{phase} {number}"
            receipt = await offer(buffer, TELEMETRY, said(f"{name:20}".encode() + b"x" * 20_000))
            assert receipt.outcome is not None
            told.append((name, receipt.outcome.kind.value, receipt.outcome.code))

    await send("before", 20)
    used = max(entry.stat().st_size for entry in os.scandir(directory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (used + 100_000, resource.RLIM_INFINITY))
    await send("full", 40)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await send("after", 20)
    await buffer.close()
    print(json.dumps(told))


async def test_a_full_disk_rejects_until_there_is_room_and_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    child = run_here("disk_full", tmp_path)
    assert child.returncode == 0, child.stderr
    told = [tuple(entry) for entry in json.loads(child.stdout)]
    kept = [name for name, kind, _ in told if kind == "stored"]
    refused = [(name, kind, code) for name, kind, code in told if kind != "stored"]
    assert [name for name in kept if not name.startswith("full")] == [
        f"{phase} {number}" for phase in ("before", "after") for number in range(20)
    ]
    assert refused
    assert {(kind, code) for _, kind, code in refused} == {("rejected", QUOTA_EXCEEDED)}
    buffer = await open_buffer(tmp_path)
    assert [payload[:20].decode().strip() for payload in await payloads(buffer, TELEMETRY)] == kept
    await buffer.close()


# -- kill -9 -----------------------------------------------------------------------------------------------------------


async def crash(directory: Path, round_: int, fatal: int) -> None:
    """Runs in a process of its own: store and drain, and tell, until killed before the `fatal`-th SQL statement."""
    draw = random.Random(round_)
    def tell(kind: str, what: object) -> None:
        os.write(1, f"{json.dumps([kind, what])}\n".encode())

    before_every_statement(Countdown(fatal))
    buffer = await open_buffer(directory)
    serial = 0
    while True:
        for _ in range(draw.randrange(1, 6)):
            lane = draw.choice(LANES)
            names = [f"{round_}.{serial + n}" for n in range(draw.randrange(1, 40))]
            serial += len(names)
            messages = [said(name.encode()) for name in names]
            for message in messages:
                buffer.add(lane, message)
            receipt = Receipt(lambda receipt, names=names: tell("stored", names))  # type: ignore[misc]
            buffer.commit(Batch(messages, receipt, "device", list(range(1, len(names) + 1))), {})
            await asyncio.sleep(0)
        lane = draw.choice(LANES)
        found, _ = await buffer.read(lane, [], 2_000)
        if found and draw.random() < 0.6:
            tell("sent", [[lane.name, *number, payload.decode()] for number, payload in numbered(found).items()])
            await buffer.remove(lane.name, [chunk.id for chunk in found])


async def test_what_was_acknowledged_survives_a_kill_once_and_no_number_is_used_twice(tmp_path: Path) -> None:
    stored: list[str] = []
    seen: dict[tuple[str, int, int], str] = {}  # what has travelled, or is still there, under each number
    draw = random.Random(20_24)
    early = [1, 4, 8, 13]  # while the file is created
    for round_, fatal in enumerate([*early, *(draw.randrange(20, 250) for _ in range(12))]):
        child = run_here("crash", tmp_path, round_, fatal)
        assert child.returncode == -signal.SIGKILL, child.stderr
        for line in child.stdout.splitlines():
            kind, what = json.loads(line)
            if kind == "stored":
                stored += what
            else:
                for lane, epoch, number, name in what:
                    assert seen.setdefault((lane, epoch, number), name) == name
        buffer = await open_buffer(tmp_path)
        for lane in LANES:
            found = await everything(buffer, lane)
            assert buffer.lanes[lane.name].count == sum(chunk.count for chunk in found)
            for (epoch, number), payload in numbered(found).items():
                assert seen.setdefault((lane.name, epoch, number), payload.decode()) == payload.decode()
        await buffer.close()
    assert len(stored) > 1_000
    times = Counter(seen.values())
    assert [name for name in stored if times[name] != 1] == []
    assert max(times.values()) == 1  # and what was not acknowledged is there once or not at all


def run_here(child: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run one of the functions above in a process that may be killed or limited."""
    command = [sys.executable, __file__, child, *map(str, arguments)]
    path = {"PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | path)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["disk_full", directory_]:
            asyncio.run(disk_full(Path(directory_)))
        case ["crash", directory_, number_, fatal_]:
            asyncio.run(crash(Path(directory_), int(number_), int(fatal_)))
