"""The output of a worker, read as fast as a daemon can bear."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator

import pytest

from functions.workers.pipes import BURST_BYTES, READ_BYTES, Pipe
from tests.functions_site import until


class Heard:
    """A pipe and what came out of it."""

    def __init__(self) -> None:
        self.data = bytearray()
        read, self.write = os.pipe()
        os.set_blocking(read, False)
        self.read = read
        self.pipe = Pipe(read, self.data.extend, asyncio.get_running_loop())


@pytest.fixture
async def heard() -> AsyncIterator[Heard]:
    made = Heard()
    yield made
    made.pipe.close()
    os.close(made.write)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


async def test_what_is_written_is_heard_whole(heard: Heard) -> None:
    os.write(heard.write, b"one")
    await until(lambda: heard.data == b"one")
    os.write(heard.write, b" two")
    await until(lambda: heard.data == b"one two")


async def test_what_is_there_can_be_heard_at_once(heard: Heard) -> None:
    heard.pipe.drain()
    os.write(heard.write, b"now")
    heard.pipe.drain()
    assert heard.data == b"now"


async def test_closing_hears_the_rest_once_and_closes() -> None:
    heard = Heard()
    os.write(heard.write, b"the last words")
    heard.pipe.close()
    heard.pipe.close()
    heard.pipe.drain()
    assert heard.data == b"the last words"
    assert not is_open(heard.read)
    os.close(heard.write)


async def test_the_end_of_the_other_side_closes_it() -> None:
    heard = Heard()
    os.close(heard.write)
    await until(lambda: not is_open(heard.read))
    heard.pipe.close()


async def test_a_flood_arrives_whole_and_in_order_with_the_loop_turning(heard: Heard) -> None:
    flood = os.urandom(3 * BURST_BYTES)
    sizes: list[int] = []
    extend = heard.data.extend
    heard.pipe._said = lambda data: (sizes.append(len(data)), extend(data))[1]

    def write() -> None:
        view = memoryview(flood)
        while view:
            view = view[os.write(heard.write, view) :]

    writer = threading.Thread(target=write)
    writer.start()
    paused = False
    while len(heard.data) < len(flood):
        paused = paused or heard.pipe._resume is not None
        heard.pipe.drain()  # does not read past a pause
        await asyncio.sleep(0)
    writer.join()
    assert heard.data == flood
    assert max(sizes) <= READ_BYTES
    assert paused


async def test_a_pipe_that_is_closed_in_a_pause_stays_closed() -> None:
    heard = Heard()
    heard.pipe._read = BURST_BYTES
    os.write(heard.write, b"x")
    await until(lambda: heard.pipe._resume is not None)
    os.write(heard.write, b"y")
    heard.pipe.close()
    await asyncio.sleep(0.12)
    assert heard.data == b"xy"
    os.close(heard.write)
