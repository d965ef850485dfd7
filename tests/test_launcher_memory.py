"""What all processes of a worker have together, as the launcher sees it: through real workers."""

import asyncio
import mmap
import os
from pathlib import Path

import pytest

from functions.launcher import memory
from functions.launcher.client import Launched
from tests.functions_site import error, site, value
from tests.sandboxes import LIMIT_S, Sandboxes, both, read_some, sandboxes

LIMIT = (64 << 20) + memory.COMMAND_EXTRA
FILL = """
import mmap, os, sys, time

def fill(megabytes, shared=True, file=-1):
    area = mmap.mmap(file, megabytes << 20, mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE)
    for place in range(0, len(area), mmap.PAGESIZE):
        area[place] = 1
    return area
"""
STAY = "\nprint('filled', flush=True); time.sleep(600)\n"
SHARED = FILL + "kept = fill(600)" + STAY
CHILDREN = FILL + "kept = fill(40, shared=False) if [os.fork() for _ in range(4)] else 0" + STAY  # in each of 16
ORPHAN = FILL + """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        kept = fill(600)
    else:
        os._exit(0)
""" + STAY  # fmt: skip
NEAR = FILL + "kept = fill(150), fill(80, shared=False)" + STAY
COMMON = FILL + "kept = fill(60), fill(60, shared=False); [os.fork() for _ in range(3)]" + STAY  # of 8
FILE = FILL + """
with open(f"{os.environ.get('TMPDIR', '/tmp')}/file", "w+b") as file:
    file.truncate(400 << 20)
    kept = fill(400, file=file.fileno())
""" + STAY  # fmt: skip


async def filled(launched: Launched, processes: int = 1) -> None:
    said = b""
    async with asyncio.timeout(LIMIT_S):
        while said.count(b"filled") < processes:
            said += await read_some(launched.stdout)


async def outlives_looks(boxes: Sandboxes, *workers: Launched) -> None:
    """Another worker that is killed for its memory shows that looks were made; two of them, that these were whole."""
    for _ in range(2):
        assert (await boxes.run(SHARED)).code == -9
    assert [worker.exited.done() for worker in workers] == [False] * len(workers)


@both
@pytest.mark.parametrize("code", [SHARED, CHILDREN, ORPHAN], ids=["shared", "children", "orphan"])
async def test_a_worker_that_takes_too_much_in_any_way_is_killed_and_no_other(code: str, wrapped: bool) -> None:
    async with sandboxes(wrapped=wrapped) as boxes, boxes.running(FILL + "kept = fill(20)" + STAY) as neighbour:
        await filled(neighbour)
        outcome = await boxes.run(code, processes=32)
        assert (outcome.code, outcome.peak > LIMIT) == (-9, True)
        assert not neighbour.exited.done()


@both
@pytest.mark.parametrize(
    ("code", "processes"), [(NEAR, 1), (COMMON, 8), (FILE, 1)], ids=["near the limit", "pages in common", "file in tmp"]
)
async def test_a_worker_that_takes_no_more_than_it_may_lives(code: str, processes: int, wrapped: bool) -> None:
    async with sandboxes(wrapped=wrapped) as boxes, boxes.running(code, tmp=500 << 20) as launched:
        await filled(launched, processes)
        await outlives_looks(boxes, launched)


@both
async def test_memory_cannot_be_held_out_of_sight(wrapped: bool) -> None:
    code = "import os\ntry: os.memfd_create('x')\nexcept PermissionError: print('refused')"
    async with sandboxes(wrapped=wrapped) as boxes:
        async with boxes.running("") as launched:
            held = launched.layers
        if "seccomp" in held:
            assert await boxes.says(code) == "refused"


@both
async def test_the_peak_of_a_worker_is_that_of_all_its_processes(wrapped: bool) -> None:
    code = FILL + "kept = fill(60, shared=False) if [os.fork()] else 0" + STAY  # in each of 2
    async with sandboxes(wrapped=wrapped) as boxes, boxes.running(code) as launched:
        await filled(launched, 2)
        await outlives_looks(boxes, launched)
        launched.kill()
        await launched.exited
        assert 120 << 20 < launched.peak_bytes < 200 << 20


@pytest.mark.processes
async def test_a_function_is_told_that_it_had_too_much(tmp_path: Path) -> None:
    source = FILL + "def handler(event, context):\n  kept = event and fill(event), time.sleep(event and 30)\n  return 7"
    async with site(tmp_path) as here:
        pool = here.pool(source, name="hungry", concurrency=1, memory_mb=64, timeout=60)
        assert value(await here.call(pool, 0)) == 7
        result = await here.call(pool, 600)
        assert error(result)["errorType"] == "Runtime.OutOfMemory"
        assert result.memory > 128 << 20
        assert value(await here.call(pool, 0)) == 7


@pytest.mark.processes
async def test_a_function_that_is_too_large_to_be_loaded_is_told_so(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(FILL + "kept = fill(600)\ntime.sleep(60)", name="huge", memory_mb=64, timeout=60)
        assert error(await here.call(pool, 0))["errorType"] == "Runtime.OutOfMemory"


def test_nothing_wakes_the_launcher_while_no_worker_runs() -> None:
    assert memory.Watch().pause() is None


def test_shared_memory_is_known_by_its_device() -> None:
    descriptor = os.memfd_create("x")
    try:
        os.truncate(descriptor, mmap.PAGESIZE)
        with mmap.mmap(descriptor, mmap.PAGESIZE):
            [line] = [line for line in Path("/proc/self/maps").read_text().splitlines() if "/memfd:x " in line]
        assert line.split()[3] == memory.shared_device() != ""
    finally:
        os.close(descriptor)


def test_mappings_count_by_what_they_are() -> None:
    def mapping(device: str, inode: int, pss: int, anonymous: int) -> list[bytes]:
        text = f"7f00-7f01 rw-s 00000000 {device} {inode} /a name\nRss: 900 kB\nPss: {pss} kB\nPss_Dirty: 7 kB\n"
        return [*(text + f"Anonymous: {anonymous} kB\nSwapPss: 1 kB\nVmFlags: rd wr\n").encode().splitlines(True)]

    heap, library = mapping("00:00", 0, 10, 10), mapping("fe:00", 5, 1_000, 100)
    shared, file = mapping("00:01", 6, 20, 0), mapping("00:42", 7, 5_000, 0)
    total = memory._parts([*heap, *library, *shared, *file], b"00:01")
    assert total == (10 + 100 + 20 + 4) << 10
