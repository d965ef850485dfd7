"""A damaged buffer file is set aside, what can be read is saved under its old numbers, and the loss is told."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from core import blocks
from core.errors import DamagedStore, StorageError
from core.message import Message
from core.mqtt import records
from core.mqtt.records import Changes, Delivery, QueuedRecord, SessionRecord, SubscriptionRecord
from core.receipts import STORED, Batch, Receipt
from core.store import connect
from core.telemetry import Counters
from edge import buffer
from edge.buffer import Buffer
from edge.chunks import SCHEMA, cut, insert
from edge.lanes import CLOCK_PLAUSIBLE_MS, Lane
from edge.recovery import PAGE_BYTES, Salvage, is_marked, mark_damaged, recover
from tests.killing import Countdown, before_every_statement

Contents = dict[tuple[str, int, int], bytes]  # (lane, epoch, number) → payload

NOW = CLOCK_PLAUSIBLE_MS + 10**9
LANES = (Lane("alarms", ("alarm/#",)), Lane("telemetry", ("#",)))
PER_CHUNK = 40
CHUNKS = 60  # of each lane, of which the first five have been delivered


async def open_buffer(path: Path) -> Buffer:
    return await Buffer.open(path, LANES, Counters())


async def store(buffer: Buffer, lane: Lane, serial: int) -> None:
    noise = random.Random(serial)
    messages = [Message("t", b"%06d " % n + noise.randbytes(400), 1, False, "d", NOW) for n in range(PER_CHUNK)]
    settled: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
    for message in messages:
        buffer.add(lane, message)
    buffer.commit(Batch(messages, Receipt(settled.set_result), "d", list(range(1, PER_CHUNK + 1))), {})
    assert (await settled).outcome == STORED


async def contents(buffer: Buffer) -> Contents:
    """Everything that can be read, and nothing under one number twice."""
    found: Contents = {}
    for state in buffer.lanes.values():
        seen: list[int] = []
        while chunks := (await buffer.read(state.lane, seen, 1 << 18))[0]:
            for chunk in chunks:
                seen.append(chunk.id)
                for number, message in enumerate(blocks.decode(chunk.block), chunk.first):
                    assert found.setdefault((chunk.lane, chunk.epoch, number), message.payload) is message.payload
    return found


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Contents]:
    """The files of a buffer that was closed, those of one that was killed with a log of 4 MB, and what is in both."""
    closed, killed = tmp_path_factory.mktemp("closed"), tmp_path_factory.mktemp("killed")

    async def build() -> Contents:
        buffer = await open_buffer(closed / "buffer.db")
        for serial in range(CHUNKS):
            for lane in LANES:
                await store(buffer, lane, serial)
        for lane in LANES:
            chunks, _ = await buffer.read(lane, [], 5 * PER_CHUNK * 440)
            assert len(chunks) == 5
            await buffer.remove(lane.name, [chunk.id for chunk in chunks])
        held = await contents(buffer)
        for name in ("buffer.db", "buffer.db-wal"):
            shutil.copy(closed / name, killed)
        await buffer.close()
        return held

    return closed, killed, asyncio.run(build())


@pytest.fixture
def closed(images: tuple[Path, Path, Contents], tmp_path: Path) -> Path:
    shutil.copytree(images[0], tmp_path, dirs_exist_ok=True)
    return tmp_path / "buffer.db"


@pytest.fixture
def killed(images: tuple[Path, Path, Contents], tmp_path: Path) -> Path:
    shutil.copytree(images[1], tmp_path, dirs_exist_ok=True)
    return tmp_path / "buffer.db"


@pytest.fixture
def held(images: tuple[Path, Path, Contents]) -> Contents:
    return images[2]


def overwrite(path: Path, first: int, length: int, byte: bytes = b"\0") -> None:
    with path.open("r+b") as file:
        file.seek(first)
        file.write(byte * length)


def size(path: Path) -> int:
    return path.stat().st_size


def content(path: Path) -> bytes:
    return path.read_bytes()


def log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


async def recovered(path: Path, held: Contents) -> tuple[Salvage, Contents]:
    """Recover, and check everything that holds after whatever damage."""
    before = content(path)
    salvage = recover(path)
    assert not is_marked(path)
    assert len(content(salvage.aside)) == len(before)
    buffer = await open_buffer(path)
    saved = await contents(buffer)
    assert saved.items() <= held.items()  # under the numbers they had
    assert salvage.saved == len(saved) == sum(state.count for state in buffer.lanes.values())
    for serial, lane in enumerate(LANES):
        await store(buffer, lane, 1_000 + serial)
    new = (await contents(buffer)).keys() - saved.keys()
    assert len(new) == 2 * PER_CHUNK
    assert {epoch for _, epoch, _ in new}.isdisjoint({epoch for _, epoch, _ in held})
    await buffer.close()
    return salvage, saved


async def opens(path: Path) -> bool:
    """Whether a buffer can be opened and read to its end."""
    try:
        buffer = await open_buffer(path)
    except DamagedStore:
        return False
    try:
        await contents(buffer)
    except DamagedStore:
        with pytest.raises(DamagedStore):
            await buffer.damaged
        return False
    else:
        return True
    finally:
        await buffer.close()


# -- damage, one kind at a time ----------------------------------------------------------------------------------------


async def test_a_buffer_that_is_not_damaged_loses_nothing_by_a_recovery(closed: Path, held: Contents) -> None:
    salvage, saved = await recovered(closed, held)
    assert (saved, salvage.lost) == (held, 0)


@pytest.mark.parametrize("byte", [b"\0", b"\xa5"])
async def test_without_its_first_page_everything_is_saved(closed: Path, held: Contents, byte: bytes) -> None:
    overwrite(closed, 0, PAGE_BYTES, byte)
    assert not await opens(closed)
    salvage, saved = await recovered(closed, held)
    assert (saved, salvage.lost) == (held, 0)
    assert content(salvage.aside.with_name(salvage.aside.name + ".first-page")) == byte * PAGE_BYTES


async def test_a_page_in_the_middle_costs_the_chunk_it_belongs_to(closed: Path, held: Contents) -> None:
    middle = size(closed) // PAGE_BYTES // 2
    overwrite(closed, middle * PAGE_BYTES, PAGE_BYTES)
    salvage, saved = await recovered(closed, held)
    assert salvage.lost == len(held) - len(saved) == PER_CHUNK


async def test_every_single_page_may_go_and_the_loss_is_exact(closed: Path, held: Contents, tmp_path: Path) -> None:
    """Every ninth page one after the other: data, index, numbers, whatever stands there."""
    pages = size(closed) // PAGE_BYTES
    losses = []
    for page in range(8, pages, 9):
        directory = tmp_path / str(page)
        directory.mkdir()
        path = Path(shutil.copy(closed, directory))
        overwrite(path, page * PAGE_BYTES, PAGE_BYTES)
        salvage = recover(path)
        assert salvage.lost == len(held) - salvage.saved
        losses.append(salvage.lost)
        shutil.rmtree(directory)
    assert max(losses) <= 9 * PER_CHUNK  # a page of the tree holds the beginnings of up to nine blocks
    assert losses.count(PER_CHUNK) > 40


async def test_of_a_file_cut_in_half_the_first_half_is_saved(closed: Path, held: Contents) -> None:
    os.truncate(closed, size(closed) // 2)
    assert not await opens(closed)
    salvage, saved = await recovered(closed, held)
    assert salvage.lost == len(held) - len(saved)
    assert 0.4 * len(held) < len(saved) < 0.6 * len(held)


async def test_nothing_is_saved_from_noise_and_the_loss_is_called_unknown(closed: Path, held: Contents) -> None:
    overwrite(closed, 0, size(closed), b"\xa5")
    salvage, saved = await recovered(closed, held)
    assert (saved, salvage.lost) == ({}, None)


async def test_a_file_cut_to_nothing_is_noticed_and_its_log_kept(killed: Path, held: Contents) -> None:
    log_size = size(log_of(killed))
    os.truncate(killed, 0)
    assert is_marked(killed)
    salvage, saved = await recovered(killed, held)
    assert (saved, salvage.lost) == ({}, None)
    assert size(log_of(salvage.aside)) == log_size


# -- with a log --------------------------------------------------------------------------------------------------------


async def test_what_stands_in_the_log_alone_is_saved_too(killed: Path, held: Contents) -> None:
    salvage, saved = await recovered(killed, held)
    assert (saved, salvage.lost) == (held, 0)


async def test_a_first_page_that_the_log_holds_is_no_loss(killed: Path, held: Contents) -> None:
    overwrite(killed, 0, PAGE_BYTES)
    salvage, saved = await recovered(killed, held)
    assert (saved, salvage.lost) == (held, 0)


async def test_what_the_file_should_have_held_is_known_from_the_index_in_the_log(killed: Path, held: Contents) -> None:
    overwrite(killed, 0, size(killed), b"\xa5")
    salvage, saved = await recovered(killed, held)
    assert salvage.lost == len(held) - len(saved)


@pytest.mark.parametrize("garbage", [False, True])
async def test_without_its_log_the_file_has_what_it_had_before(killed: Path, held: Contents, garbage: bool) -> None:
    if garbage:
        overwrite(log_of(killed), 0, size(log_of(killed)), b"\xa5")
    else:
        log_of(killed).unlink()
    salvage = recover(killed)
    buffer = await open_buffer(killed)
    saved = await contents(buffer)
    await buffer.close()
    assert salvage.saved == len(saved)
    for lane in LANES:  # what had been delivered since is there again, what had been stored since is not
        numbers = sorted(number for name, _, number in saved if name == lane.name)
        assert numbers == list(range(1, len(numbers) + 1))
        assert 5 * PER_CHUNK < len(numbers) < CHUNKS * PER_CHUNK


# -- what the broker keeps beside it -----------------------------------------------------------------------------------


async def with_sessions(path: Path, count: int) -> records.Stored:
    """Write sessions, subscriptions, queued and retained messages into a buffer's file; returns what is there."""
    changes = Changes()
    for key in range(1, count + 1):
        message = Message(f"t/{key}", random.Random(key).randbytes(700), 1, True, "d", NOW)
        changes.sessions.append(SessionRecord(key, f"client {key}", None, 3_600, NOW, 1, 1, [], [], []))
        changes.subscribed.append(SubscriptionRecord(key, "t/#", 1, False, False, 0))
        changes.queued.append(QueuedRecord(key, [message], [Delivery(0, key, 1, 1, False, "", ())]))
        changes.retained.append(message)
    buffer = await open_buffer(path)
    await buffer.commits.store.run(lambda connection: records.write(connection, changes))
    stored = await loaded(buffer)
    await buffer.close()
    assert len(stored.sessions) == count
    return stored


async def loaded(buffer: Buffer) -> records.Stored:
    stored = await buffer.commits.store.run(records.load)
    stored.retained.sort(key=lambda message: message.topic)  # they have no order
    return stored


@pytest.mark.parametrize("first_page", [False, True])
async def test_sessions_and_retained_messages_are_saved_with_the_buffer(closed: Path, first_page: bool) -> None:
    stored = await with_sessions(closed, 10)
    if first_page:
        overwrite(closed, 0, PAGE_BYTES)
    recover(closed)
    buffer = await open_buffer(closed)
    assert await loaded(buffer) == stored
    await buffer.close()


async def test_of_damaged_sessions_and_messages_those_that_can_be_read_are_saved(closed: Path) -> None:
    before = size(closed) // PAGE_BYTES
    stored = await with_sessions(closed, 400)
    pages = size(closed) // PAGE_BYTES
    assert pages > before + 50
    for page in range(before + 5, pages, 12):
        overwrite(closed, page * PAGE_BYTES, PAGE_BYTES)
    salvage = recover(closed)
    assert salvage.lost == 0  # nothing of the lanes
    buffer = await open_buffer(closed)
    saved = await loaded(buffer)
    await buffer.close()
    for kind in ("sessions", "subscriptions", "queued", "retained"):
        before_it, after_it = getattr(stored, kind), getattr(saved, kind)
        assert all(record in before_it for record in after_it)
    assert 0 < len(saved.queued) + len(saved.retained) < len(stored.queued) + len(stored.retained)


# -- around it ---------------------------------------------------------------------------------------------------------


async def test_the_damaged_file_is_kept_as_it_was(closed: Path, held: Contents) -> None:
    overwrite(closed, 100 * PAGE_BYTES, PAGE_BYTES)
    before = content(closed)
    salvage, _ = await recovered(closed, held)
    assert content(salvage.aside) == before


async def test_the_log_of_a_damaged_file_is_kept_as_it_was(killed: Path, held: Contents) -> None:
    overwrite(killed, 100 * PAGE_BYTES, PAGE_BYTES)
    before = content(log_of(killed))
    salvage, _ = await recovered(killed, held)
    assert content(log_of(salvage.aside)) == before


async def test_every_damaged_file_gets_a_place_of_its_own(closed: Path, held: Contents) -> None:
    names = [recover(closed).aside.name for _ in range(3)]
    assert names == ["buffer.db.damaged-1", "buffer.db.damaged-2", "buffer.db.damaged-3"]
    buffer = await open_buffer(closed)
    assert await contents(buffer) == held
    await buffer.close()


def test_a_mark_lasts_until_the_recovery(closed: Path) -> None:
    assert not is_marked(closed)
    mark_damaged(closed)
    assert is_marked(closed)
    recover(closed)
    assert not is_marked(closed)


def test_a_mark_without_a_file_ends_in_an_empty_buffer(tmp_path: Path) -> None:
    mark_damaged(tmp_path / "buffer.db")
    salvage = recover(tmp_path / "buffer.db")
    assert (salvage.saved, salvage.lost) == (0, None)
    assert not is_marked(tmp_path / "buffer.db")


def test_a_buffer_that_was_never_made_is_not_damaged(tmp_path: Path) -> None:
    assert not is_marked(tmp_path / "buffer.db")


def test_a_disk_that_refuses_a_recovery_is_told_from_damage(closed: Path) -> None:
    overwrite(closed, 0, PAGE_BYTES)
    (closed.parent / "buffer.db.damaged-1.first-page").mkdir()  # so that nothing can be written there
    with pytest.raises(StorageError, match="cannot be recovered"):
        recover(closed)


DAMAGES: list[Callable[[Path], None]] = [
    lambda path: overwrite(path, 0, PAGE_BYTES),
    lambda path: overwrite(path, 4 * PAGE_BYTES, PAGE_BYTES),  # the root of the chunks
    lambda path: os.truncate(path, size(path) // 3),
    lambda path: os.truncate(path, 5_000),
    lambda path: overwrite(path, 0, size(path), b"\xff"),
]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_after_a_recovery_the_buffer_opens_whatever_happened(
    closed: Path, held: Contents, damage: Callable[[Path], None]
) -> None:
    damage(closed)
    assert not await opens(closed)
    await recovered(closed, held)
    assert await opens(closed)


# -- a recovery that does not come to its end --------------------------------------------------------------------------


def killed_recovery(path: Path, statement: int, move: int) -> None:
    """Runs in a process of its own: recover, until killed before an SQL statement or a rename (counted from 1)."""
    before_every_statement(Countdown(statement))
    count_move, real_replace = Countdown(move), os.replace

    def replace(source: str, target: str) -> None:
        count_move()
        real_replace(source, target)

    os.replace = replace  # type: ignore[assignment]
    recover(path)


def run_killed(path: Path, statement: int = 0, move: int = 0) -> None:
    command = [sys.executable, __file__, str(path), str(statement), str(move)]
    root = {"PYTHONPATH": str(Path(__file__).parent.parent)}
    child = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | root)
    assert child.returncode == -signal.SIGKILL, child.stderr


@pytest.mark.parametrize(
    "moment",
    [{"statement": 5}, {"statement": 20}, {"statement": 100}, *({"move": number} for number in range(1, 6))],
    ids=str,
)
async def test_a_recovery_that_was_killed_is_begun_again_and_loses_nothing(
    killed: Path, held: Contents, moment: dict[str, int]
) -> None:
    run_killed(killed, **moment)
    assert is_marked(killed)  # so the next start recovers
    salvage = recover(killed)
    assert salvage.saved == len(held)
    assert salvage.lost in {0, None}  # None: the damaged file had been moved already
    once_more = moment == {"move": 5}  # everything was in its place but for the mark, so the new file is copied too
    assert salvage.aside.name == ("buffer.db.damaged-2" if once_more else "buffer.db.damaged-1")
    assert log_of(salvage.aside.with_name("buffer.db.damaged-1")).exists()
    assert not is_marked(killed)
    buffer = await open_buffer(killed)
    assert await contents(buffer) == held
    await buffer.close()
    assert sorted(entry.name for entry in os.scandir(killed.parent) if ".recovered" in entry.name) == []


async def test_a_first_page_is_replaced_once_however_often_it_takes(closed: Path, held: Contents) -> None:
    overwrite(closed, 0, PAGE_BYTES, b"\xa5")
    run_killed(closed, statement=60)
    salvage, saved = await recovered(closed, held)
    assert (saved, salvage.lost) == (held, 0)
    assert content(salvage.aside.with_name(salvage.aside.name + ".first-page")) == b"\xa5" * PAGE_BYTES


def test_a_large_file_does_not_pass_through_memory_at_once(tmp_path: Path) -> None:
    path = tmp_path / "buffer.db"
    connection = connect(path, SCHEMA)
    connection.execute("BEGIN")
    for number in range(1, 801):
        insert(connection, cut("telemetry", 1, number, [Message("t", b"x" * 60_000, received_at=NOW)]))
    connection.execute("COMMIT")
    connection.close()
    tracemalloc.start()
    salvage = recover(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (salvage.saved, salvage.lost) == (800, 0)
    assert peak < size(path) / 4


def test_the_schema_fits_the_page_that_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "buffer.db"
    connect(path, buffer.SCHEMA).close()
    page = path.read_bytes()[:PAGE_BYTES]
    assert page[100] == 0x0D, "the table of the schema has grown beyond a leaf page (SQLite file format, section 1.6)"


if __name__ == "__main__":
    killed_recovery(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
