"""What was accepted is on disk until it has ended: after a crash, with a full disk, with damage."""

import asyncio
import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

import core.commits
import core.store
from core.errors import StorageError
from core.store import connect
from functions import queue as functions_queue
from functions.errors import Throttled
from functions.events import SPARSE_BYTES
from functions.invocations import Ending
from tests.invoking import ERROR, SCHEMA, Box, F, G, box, manifest
from tests.killing import Countdown, before_every_statement


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Box]:
    async with box(tmp_path / "x.db") as made:
        yield made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry a refused commit at once."""
    monkeypatch.setattr(core.commits, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(core.commits, "LATER_SECONDS", 0.01)


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [f'{{"n":{n}}}'.encode() for n in range(start, start + count)]


# -- on disk -----------------------------------------------------------------------------------------------------------


async def test_what_was_accepted_and_committed_survives_a_crash_in_its_order(here: Box) -> None:
    for payload in numbered(20):
        here.call(payload, G if payload[-2:-1] in b"37" else F, trace_id="Root=1")
        await here.commit()
    await here.restart()
    assert [p for p in here.in_hand if p[-2:-1] not in b"37"] == [p for p in numbered(20) if p[-2:-1] not in b"37"]
    assert sorted(here.in_hand) == sorted(numbered(20))
    assert {invocation.trace_id for invocation, _ in here.given} == {"Root=1"}


async def test_after_a_crash_an_event_has_the_id_that_its_caller_was_told(here: Box) -> None:
    told = here.call(client_context=b'{"custom":{"subject":"a"}}')
    await here.commit()
    await here.restart()
    assert (here.given[0][0].id, here.given[0][0].client_context) == (told, b'{"custom":{"subject":"a"}}')


async def test_what_ended_before_the_commit_began_never_touches_the_disk(here: Box) -> None:
    here.call()
    assert here.queue.has_gathered
    here.answer()
    assert not here.queue.has_gathered
    await here.commit()
    assert await here.store.run(lambda c: c.execute("SELECT seq FROM sqlite_sequence").fetchall()) == []


async def test_what_ended_while_its_commit_was_on_its_way_leaves_the_disk(here: Box) -> None:
    here.call()
    here.call()
    here.commits.soon()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    here.answer()
    await here.commit()
    await here.restart()
    assert len(here.given) == 1
    here.answer()
    await here.commit()
    assert await here.rows("function_events") == await here.rows("function_progress") == 0


async def test_events_of_one_block_that_have_ended_are_not_run_again(here: Box) -> None:
    for payload in numbered(10):
        here.call(payload)
    await here.commit()
    for _ in range(4):
        here.answer(place=2)
    await here.commit()
    await here.restart()
    assert here.in_hand == [numbered(10)[n] for n in (0, 1, 6, 7, 8, 9)]
    while here.given:
        here.answer()
    await here.commit()
    assert await here.rows("function_events") == await here.rows("function_progress") == 0
    assert (here.queue.count, here.queue.bytes) == (0, 0)


async def test_a_retry_goes_on_counting_and_waiting_after_a_crash(here: Box) -> None:
    here.call()
    await here.commit()
    here.fail()
    here.look(61)
    here.fail()
    await here.commit()
    here.clock.go(30)
    await here.restart()
    assert here.given == []
    here.look(88)
    assert here.given == []
    here.look(3)
    assert here.fail().attempts == 3
    await here.commit()
    assert [letter.attempts for letter in await here.functions.dead_letters()] == [3]


async def test_an_event_that_failed_before_it_was_written_is_written_with_its_attempts(here: Box) -> None:
    here.call()
    here.fail()
    await here.commit()
    await here.restart()
    assert here.given == []
    here.look(61)
    assert here.given[0][0].attempts == 1


async def test_an_event_that_failed_while_it_was_being_written_keeps_its_attempts(here: Box) -> None:
    here.call()
    here.commits.soon()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    here.fail()
    await here.commit()
    await here.restart()
    assert here.given == []


async def test_a_large_row_does_not_stay_for_one_event_that_waits(here: Box) -> None:
    for payload in (b"x" * SPARSE_BYTES, *numbered(7)):
        here.call(payload)
    await here.commit()
    before = await size_on_disk(here)
    for _ in range(7):
        here.answer()
    await here.commit()
    assert await size_on_disk(here) < before / 10
    await here.restart()
    assert here.in_hand == numbered(7)[-1:]
    here.answer()
    await here.commit()
    assert await here.rows("function_events") == 0


async def test_rows_that_are_written_anew_keep_their_place(here: Box) -> None:
    payloads = [payload + b" " * (SPARSE_BYTES // 4) for payload in numbered(24)]
    for block in (payloads[:8], payloads[8:16], payloads[16:]):
        for payload in block:
            here.call(payload)
        await here.commit()
    before = await size_on_disk(here)
    for _ in range(7):
        here.answer()
    await here.commit()
    assert await size_on_disk(here) < before * 3 / 4
    await here.restart()
    assert here.in_hand == payloads[7:]


async def test_an_event_may_end_while_its_row_is_written_anew(here: Box) -> None:
    for payload in (b"x" * SPARSE_BYTES, *numbered(7)):
        here.call(payload)
    await here.commit()
    for _ in range(6):
        here.answer()
    here.commits.soon()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    here.answer()
    here.fail(Ending.REFUSED)
    await here.commit()
    assert await here.rows("function_events") == await here.rows("function_progress") == 0
    assert await here.rows("function_dead_letters") == 1
    await here.restart()
    assert here.given == []


async def size_on_disk(here: Box) -> int:
    return await here.store.run(lambda c: c.execute("SELECT total(length(block)) FROM function_events").fetchone()[0])


# -- somebody else's transaction ---------------------------------------------------------------------------------------


async def test_events_of_a_transaction_are_there_with_it_and_run_after_it(here: Box) -> None:
    reserved = [here.functions.reserve(F, payload) for payload in numbered(3)]
    assert here.given == []
    await here.store.run(lambda connection: here.functions.insert(connection, reserved))
    here.functions.inserted(reserved)
    assert here.in_hand == numbered(3)
    here.answer()
    await here.commit()
    await here.restart()
    assert here.in_hand == numbered(3)[1:]


async def test_events_of_a_transaction_that_failed_were_never_there(here: Box) -> None:
    reserved = [here.functions.reserve(F, payload) for payload in numbered(3)]

    def write(connection: sqlite3.Connection) -> None:
        here.functions.insert(connection, reserved)
        raise StorageError("no")

    with pytest.raises(StorageError):
        await here.store.run(write)
    here.functions.dropped(reserved)
    assert (here.queue.count, here.queue.bytes) == (0, 0)
    await here.restart()
    assert here.given == []


# -- bounds ------------------------------------------------------------------------------------------------------------


async def test_a_function_holds_no_more_events_than_its_version_says(here: Box) -> None:
    here.manifests["f"] = manifest(queue_events=2)
    here.call()
    here.call()
    with pytest.raises(Throttled, match="f is full"):
        here.call()
    here.call(function=G)
    here.answer()
    here.call()


async def test_all_functions_together_hold_no_more_bytes_than_configured(tmp_path: Path) -> None:
    async with box(tmp_path / "x.db", bytes_max=10_000) as here:
        here.call(b"x" * 9_000)
        with pytest.raises(Throttled, match="10,000 bytes"):
            here.call(b"x" * 1_000, G)
        await here.restart()
        here.call(b"x" * 9_000)
        await here.commit()
        await here.restart()
        with pytest.raises(Throttled):
            here.call(b"x" * 1_000)
        here.answer()
        here.call(b"x" * 9_000)


# -- a disk that refuses -----------------------------------------------------------------------------------------------


async def test_small_events_cost_no_more_memory_than_they_are_counted(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        async with box(tmp_path / "x.db", manifests={"f": manifest(queue_events=100_000)}) as here:
            before, _ = tracemalloc.get_traced_memory()
            for payload in numbered(20_000):
                here.call(payload)
            await here.commit()
            after, _ = tracemalloc.get_traced_memory()
            counted = here.queue.bytes
    finally:
        tracemalloc.stop()
    assert after - before <= counted


async def test_while_the_disk_refuses_events_are_run_and_whoever_waits_is_told(
    here: Box, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    monkeypatch.setattr(core.store, "DISK_RESERVE_BYTES", 1 << 62)
    here.call(b"1")
    with pytest.raises(StorageError):
        await here.queue.kept()
    assert here.in_hand == [b"1"]
    assert here.queue.has_gathered
    monkeypatch.setattr(core.store, "DISK_RESERVE_BYTES", 0)
    await here.queue.kept()
    await here.restart()
    assert here.in_hand == [b"1"]


async def test_on_a_full_disk_what_ended_makes_room(here: Box, monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    for payload in numbered(3):
        here.call(payload)
        await here.commit()
    monkeypatch.setattr(core.store, "DISK_RESERVE_BYTES", 1 << 62)
    here.call(b"new")
    here.answer()
    here.answer()
    here.commits.soon()
    await until_async(here, "function_events", 1)


async def test_on_a_full_disk_a_failure_stays_in_the_queue_until_its_destination_has_it(
    here: Box, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    here.call(b"1")
    here.call(b"2")
    await here.commit()
    monkeypatch.setattr(core.store, "DISK_RESERVE_BYTES", 1 << 62)
    here.fail(Ending.REFUSED)
    await here.commit()
    held = here.queue.count
    await here.restart()
    assert (held, here.in_hand) == (2, [b"1", b"2"])
    here.fail(Ending.REFUSED)
    await here.commit()
    monkeypatch.setattr(core.store, "DISK_RESERVE_BYTES", 0)
    await until_async(here, "function_dead_letters", 1)
    await here.commit()
    assert here.queue.count == 1
    await here.restart()
    assert here.in_hand == [b"2"]


async def until_async(here: Box, table: str, rows: int) -> None:
    async with asyncio.timeout(20):
        while await here.rows(table) != rows:  # noqa: ASYNC110 - what is waited for happens on the disk
            await asyncio.sleep(0.005)


async def test_when_ends_cannot_be_written_they_are_written_later(here: Box, quick: None) -> None:
    here.call()
    await here.commit()
    await here.execute(
        "CREATE TRIGGER full BEFORE DELETE ON function_events BEGIN SELECT raise(ABORT, 'disk full'); END"
    )
    here.answer()
    await here.commit()
    assert await here.rows("function_events") == 1
    await here.execute("DROP TRIGGER full")
    await until_async(here, "function_events", 0)


# -- damage ------------------------------------------------------------------------------------------------------------


async def test_a_damaged_row_is_counted_and_the_others_are_run(here: Box) -> None:
    for payload in numbered(3):
        here.call(payload)
        here.call(payload)
        await here.commit()
    await here.execute("UPDATE function_events SET block = zeroblob(length(block)) WHERE id = 2")
    await here.restart()
    assert here.in_hand == [p for p in (numbered(3)[0], numbered(3)[2]) for _ in range(2)]
    assert here.counters.value("dropped_total", reason="damaged on disk") == 2
    await here.restart()
    assert here.counters.value("dropped_total") == 0


async def test_damage_to_what_is_known_of_a_row_loses_no_event(here: Box) -> None:
    for payload in numbered(3):
        here.call(payload)
    await here.commit()
    here.answer()
    await here.commit()
    await here.execute("UPDATE function_progress SET state = x'00000000'")
    await here.restart()
    assert here.in_hand == numbered(3)


async def test_what_can_be_read_of_a_damaged_file_is_saved(here: Box, tmp_path: Path) -> None:
    for payload in numbered(6):
        here.call(payload)
    await here.commit()
    here.answer()
    await here.commit()
    with closing(connect(here.path, SCHEMA)) as source, closing(connect(tmp_path / "new.db", SCHEMA)) as target:
        assert functions_queue.salvage(source, target) == 6
    async with box(tmp_path / "new.db") as there:
        assert there.in_hand == numbered(6)[1:]
        there.call(b"new")
        await there.commit()
        assert await there.rows("function_events") == 2


async def test_of_a_file_with_a_damaged_page_everything_else_is_saved(here: Box, tmp_path: Path) -> None:
    payloads = [f'{{"n":"{n:03}{"x" * 900}"}}'.encode() for n in range(60)]
    for payload in payloads:
        here.call(payload)
        await here.commit()
    await here.restart()
    await here.store.checkpoint()
    place = here.path.read_bytes().index(payloads[30])
    with here.path.open("r+b") as file:
        file.seek(place // 4_096 * 4_096)
        file.write(b"\xff" * 4_096)
    with closing(connect(tmp_path / "new.db", SCHEMA)) as target:
        with closing(sqlite3.connect(f"{here.path.absolute().as_uri()}?mode=ro", uri=True)) as source:
            saved = functions_queue.salvage(source, target)
        assert len(payloads) - 5 <= saved < len(payloads)
    async with box(tmp_path / "new.db") as there:
        assert len(there.in_hand) == saved
        assert there.in_hand == [payload for payload in payloads if payload in there.in_hand]
        assert payloads[-1] in there.in_hand


# -- kill -9 -----------------------------------------------------------------------------------------------------------


async def crash(path: Path, round_: int, fatal: int) -> None:
    """Runs in a process of its own: accept, run, fail, and tell, until killed before the `fatal`-th SQL statement."""
    draw = random.Random(round_)

    def tell(kind: str, what: object) -> None:
        os.write(1, f"{json.dumps([kind, what])}\n".encode())

    before_every_statement(Countdown(fatal))
    here = Box(path, {"f": manifest(retries=0, on_failure="arn:aws:lambda:us-east-1:000000000000:function:g"),
                      "g": manifest("g", retries=0)})  # fmt: skip
    await here.start()
    serial = 0
    while True:
        names = [f"{round_}.{serial + n}" for n in range(draw.randrange(1, 30))]
        serial += len(names)
        for name in names:
            here.call(json.dumps(name).encode())
        here.queue.barrier.then(lambda kept, names=names: tell("kept", names) if kept else None)  # type: ignore[misc]
        for _ in range(draw.randrange(0, 30)):
            if here.given:
                place = draw.randrange(min(3, len(here.given)))
                event = json.loads(here.given[place][0].payload)
                if isinstance(event, str) and draw.random() < 0.3:
                    here.answer(Ending.ERROR, ERROR, place)  # and g is told, in whose event the name stands
                else:
                    tell("run", event if isinstance(event, str) else event["requestPayload"])
                    here.answer(place=place)
            if draw.random() < 0.2:
                await asyncio.sleep(0)
        await here.queue.kept()


async def test_what_was_promised_is_run_whenever_the_daemon_is_killed(tmp_path: Path) -> None:
    kept: list[str] = []
    run: Counter[str] = Counter()
    draw = random.Random(20_24)
    path = tmp_path / "x.db"
    early = [1, 5, 14]  # while the file is created
    for round_, fatal in enumerate([*early, *(draw.randrange(20, 400) for _ in range(12))]):
        child = run_here("crash", path, round_, fatal)
        assert child.returncode == -signal.SIGKILL, child.stderr
        for line in child.stdout.splitlines():
            kind, what = json.loads(line)
            if kind == "kept":
                kept += what
            else:
                run[what] += 1
    async with box(path) as here:
        while here.given:
            event = json.loads(here.in_hand[0])
            run[event if isinstance(event, str) else event["requestPayload"]] += 1
            here.answer()
    assert len(kept) > 500
    assert [name for name in kept if not run[name]] == []
    assert sum(run.values()) < 1.5 * len(run)  # at least once, and not much more often


async def disk_full(path: Path) -> None:
    """Runs in a process of its own: accept events with hardly any room in the files, then with room again."""
    core.commits.RETRY_SECONDS = 0.01
    here = Box(path)
    await here.start()
    told: list[str] = []

    async def send(phase: str, count: int) -> None:
        for number in range(count):
            here.call(f'"{phase} {number} {"x" * 20_000}"'.encode())
            try:
                await here.queue.kept()
                told.append(f"{phase} {number}")
            except StorageError:
                told.append("refused")

    await send("before", 10)
    used = max(entry.stat().st_size for entry in os.scandir(path.parent))
    resource.setrlimit(resource.RLIMIT_FSIZE, (used + 100_000, resource.RLIM_INFINITY))
    await send("full", 30)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await send("after", 10)
    print(json.dumps(told), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


async def test_a_full_disk_loses_nothing_that_was_promised(tmp_path: Path) -> None:
    child = run_here("disk_full", tmp_path / "x.db")
    assert child.returncode == -signal.SIGKILL, child.stderr
    told = json.loads(child.stdout)
    assert "refused" in told
    async with box(tmp_path / "x.db") as here:
        found = [" ".join(json.loads(payload).split()[:2]) for payload in here.in_hand]
    assert [name for name in told if name != "refused" and name not in found] == []
    assert found == sorted(found, key=lambda name: (["before", "full", "after"].index(name.split()[0]),
                                                    int(name.split()[1])))  # fmt: skip


def run_here(child: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run one of the functions above in a process that may be killed or limited."""
    command = [sys.executable, __file__, child, *map(str, arguments)]
    path = {"PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=os.environ | path)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["disk_full", path_]:
            asyncio.run(disk_full(Path(path_)))
        case ["crash", path_, number_, fatal_]:
            asyncio.run(crash(Path(path_), int(number_), int(fatal_)))
