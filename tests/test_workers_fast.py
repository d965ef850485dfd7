"""functions.workers.fast: the daemon's end of a Python worker's channel, against real workers and hostile ones."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functions.invocations import Invocation
from functions.names import FunctionName
from functions.worker import wire
from functions.workers.fast import WINDOW_BYTES, FastChannel
from tests.fast_workers import Notes, worker

PRESS = FunctionName("press")


def write_app(code: Path, text: str) -> Path:
    (code / "app.py").write_text(text)
    return code


def event(number: int, payload: bytes = b"{}") -> Invocation:
    return Invocation(f"id-{number}", PRESS, payload)


class Hostile:
    """Our end of a channel whose other end the test plays."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        self.notes = Notes()
        self.channel = FastChannel(ours, self.notes, asyncio.get_running_loop())

    async def read(self, until: int) -> bytes:
        """So many bytes of what the daemon sent."""
        loop, data = asyncio.get_running_loop(), b""
        self.peer.setblocking(False)
        while len(data) < until:
            data += await asyncio.wait_for(loop.sock_recv(self.peer, 1 << 20), 20)
        return data


@pytest.fixture
async def hostile() -> AsyncIterator[Hostile]:
    worker = Hostile()
    yield worker
    worker.peer.close()
    worker.channel.close()
    await worker.notes.until("closed")


async def test_events_are_done_in_order_each_with_its_own_answer(tmp_path: Path) -> None:
    write_app(tmp_path, "def handler(e, c):\n    if not e % 3: raise ValueError(e)\n    return [e, c.aws_request_id]\n")
    async with worker(tmp_path) as running:
        await running.notes.until("ready")
        ids = running.send(*[str(number).encode() for number in range(250)])
        answers = await running.notes.until("done|error", 250)
        assert [news[1] for news in answers] == ids
        for number, (kind, request_id, payload) in enumerate(answers):
            assert kind == ("done" if number % 3 else "error")
            if number % 3:
                assert json.loads(bytes(payload)) == [number, request_id]  # type: ignore[call-overload]


async def test_an_answer_is_told_while_the_next_event_is_in_hand(tmp_path: Path) -> None:
    write_app(
        tmp_path,
        "import os\ndef handler(e, c):\n    if e == 2: os.mkfifo('f'); open('f').read()\n    return e\n",
    )
    async with worker(tmp_path) as running:
        await running.notes.until("ready")
        ids = running.send(b"1", b"2", b"3")
        assert (await running.notes.until("done"))[0] == ("done", ids[0], b"1")
        running.process.send_signal(signal.SIGKILL)
        await running.notes.until("closed")
        assert [news[0] for news in running.notes.told] == ["ready", "done", "closed"]


async def test_payloads_of_six_megabytes_go_both_ways(tmp_path: Path) -> None:
    write_app(tmp_path, "def handler(e, c): return e\n")
    payload = json.dumps("x" * 6_291_454).encode()
    async with worker(tmp_path) as running:
        await running.notes.until("ready")
        running.send(*[payload] * 3)
        assert {news[2] for news in await running.notes.until("done", 3)} == {payload}


async def test_what_was_said_before_an_answer_is_told_before_it(tmp_path: Path) -> None:
    write_app(tmp_path, "def handler(e, c):\n    print('event', e)\n    return e\n")
    async with worker(tmp_path) as running:
        await running.notes.until("ready")
        running.send(*[str(number).encode() for number in range(100)])
        await running.notes.until("done", 100)
        told: list[object] = []
        for news in running.notes.told[1:]:
            if news[0] == "said":
                told += bytes(news[2]).decode().splitlines()  # type: ignore[call-overload]
            else:
                told.append(news[0])
        assert told == [line for number in range(100) for line in (f"event {number}", "done")]


async def test_closing_ends_the_worker_and_tells_closed_once_and_last(tmp_path: Path) -> None:
    write_app(tmp_path, "import atexit\natexit.register(lambda: open('ended', 'w'))\ndef handler(e, c): return e\n")
    async with worker(tmp_path) as running:
        await running.notes.until("ready")
        running.send(b"1")
        running.channel.close()
        running.channel.close()
        running.send(b"2")
        assert await running.notes.until("closed") == [("closed", "closed")]
        assert await asyncio.to_thread(running.process.wait, 20) == 0
        assert (tmp_path / "ended").exists()
        assert [news[0] for news in running.notes.told] == ["ready", "closed"]


async def test_a_listener_may_close_the_channel_in_the_middle_of_its_news(hostile: Hostile) -> None:
    def done(request_id: str, payload: bytes, *, error: bool) -> None:
        hostile.notes._note("done", request_id, payload)
        hostile.channel.close()

    hostile.notes.done = done  # type: ignore[method-assign]
    hostile.channel.send([event(1), event(2)])
    hostile.peer.sendall(wire.answer(wire.RESULT, b"id-1", b"1") + wire.answer(wire.RESULT, b"id-2", b"2"))
    await hostile.notes.until("closed")
    assert [news[0] for news in hostile.notes.told] == ["done", "closed"]


async def test_at_most_a_window_of_bytes_is_on_its_way(hostile: Hostile) -> None:
    frame = wire.event(b"id-10", PRESS.arn().encode(), b"", b"", bytes(100 << 10))
    fitting = WINDOW_BYTES // len(frame) + 1  # the last one begins within the window
    hostile.channel.send([event(number, bytes(100 << 10)) for number in range(10, 40)])
    await hostile.read(fitting * len(frame))
    for number in range(10, 40):
        for _ in range(5):  # turns of the loop, in which nothing more may come
            await asyncio.sleep(0)
        with pytest.raises(BlockingIOError):
            hostile.peer.recv(1)
        hostile.peer.sendall(wire.answer(wire.RESULT, f"id-{number}".encode(), b"null"))
        if number + fitting < 40:
            assert f"id-{number + fitting}".encode() in await hostile.read(len(frame))
    assert len(await hostile.notes.until("done", 30)) == 30


async def test_an_event_larger_than_the_window_goes_alone(hostile: Hostile) -> None:
    hostile.channel.send([event(1, bytes(2 * WINDOW_BYTES)), event(2)])
    frame = wire.event(b"id-1", PRESS.arn().encode(), b"", b"", bytes(2 * WINDOW_BYTES))
    assert await hostile.read(len(frame)) == frame
    hostile.peer.setblocking(True)
    hostile.peer.sendall(wire.answer(wire.RESULT, b"id-1", b"null"))
    assert b"id-2" in await hostile.read(1)


ANSWER = wire.answer(wire.RESULT, b"id-1", b"1")
GARBAGE = {
    "too large": b"\xff\xff\xff\xff\x14",
    "empty": b"\x00\x00\x00\x00\x14",
    "unknown kind": wire.frame(99, b"x"),
    "an event": wire.frame(wire.EVENT, b"x"),
    "ready again": wire.frame(wire.READY),
    "init error after ready": wire.frame(wire.INIT_ERROR, b"{}"),
    "another id": wire.answer(wire.RESULT, b"id-2", b"1"),
    "a longer id": wire.answer(wire.RESULT, b"id-11", b"1"),
    "no id": wire.frame(wire.RESULT),
    "a cut id": wire.frame(wire.RESULT, b"\x04id"),
    "twice": ANSWER + wire.answer(wire.RESULT, b"id-2", b"2") + wire.answer(wire.RESULT, b"id-2", b"2"),
    "text": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_a_worker_that_sends_garbage_is_closed_and_what_it_did_before_stands(
    garbage: str, hostile: Hostile
) -> None:
    before = wire.frame(wire.READY) + wire.frame(wire.STDOUT, b"hello ") + wire.frame(wire.STDOUT, b"world\n")
    hostile.channel.send([event(0), event(1), event(2)])
    hostile.peer.sendall(before + wire.answer(wire.ERROR, b"id-0", b"{}") + GARBAGE[garbage] + ANSWER)
    ((_, reason),) = await hostile.notes.until("closed")
    assert "the worker sent" in str(reason)
    expected: list[tuple[object, ...]] = [("ready",), ("said", "stdout", b"hello world\n"), ("error", "id-0", b"{}")]
    if garbage == "twice":
        expected += [("done", "id-1", b"1"), ("done", "id-2", b"2")]
    assert hostile.notes.told == [*expected, ("closed", reason)]


PIECES = st.one_of(
    st.binary(max_size=40),
    st.builds(wire.frame, st.integers(0, 30), st.binary(max_size=20)),
    st.builds(
        wire.answer,
        st.sampled_from([wire.RESULT, wire.ERROR]),
        st.sampled_from([b"id-0", b"id-1", b""]),
        st.binary(),
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(PIECES, max_size=12))
def test_no_bytes_whatever_make_more_than_the_events_that_were_sent(pieces: list[bytes]) -> None:
    async def play() -> None:
        hostile = Hostile()
        hostile.channel.send([event(0), event(1)])
        for piece in pieces:
            try:
                hostile.peer.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
            await asyncio.sleep(0)
        hostile.peer.close()
        await hostile.notes.until("closed")
        done = [news[1] for news in hostile.notes.news("done", "error")]
        assert done == ["id-0", "id-1"][: len(done)]
        assert len(hostile.notes.news("ready")) <= 1
        assert hostile.notes.told[-1][0] == "closed"
        assert len(hostile.notes.news("closed")) == 1

    asyncio.run(play())


async def test_answers_that_a_dying_worker_left_behind_are_told(hostile: Hostile) -> None:
    hostile.channel.send([event(number, bytes(1000)) for number in range(100)])
    hostile.peer.sendall(b"".join(wire.answer(wire.RESULT, f"id-{number}".encode(), b"1") for number in range(50)))
    hostile.peer.close()  # with our events unread in it
    await hostile.notes.until("closed")
    assert [news[1] for news in hostile.notes.news("done")] == [f"id-{number}" for number in range(50)]


async def test_sending_to_a_worker_that_has_gone_is_no_error(hostile: Hostile) -> None:
    hostile.peer.close()
    hostile.channel.send([event(number, bytes(100_000)) for number in range(20)])
    ((_, reason),) = await hostile.notes.until("closed")
    assert "worker" in str(reason)


async def test_a_handler_that_writes_to_the_channel_itself_costs_its_own_worker_alone(tmp_path: Path) -> None:
    write_app(tmp_path, "import os\ndef handler(e, c):\n    os.write(3, b'\\xff' * 100)\n    return e\n")
    async with worker(tmp_path) as running:
        await running.notes.until("ready")
        running.send(b"1")
        ((_, reason),) = await running.notes.until("closed")
        assert "bytes" in str(reason)
        assert running.notes.news("done", "error") == []


@pytest.mark.parametrize(
    ("code", "said", "status"),
    [
        ("import sys; sys.exit(3)", "SystemExit: 3", 3),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", 1),
        ("raise GeneratorExit", "GeneratorExit", 1),
        ("import os; os._exit(5)", "the worker ended the connection", 5),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the worker ended the connection", -9),
        ("import ctypes; ctypes.string_at(0)", "the worker ended the connection", -11),
    ],
)
async def test_a_handler_that_ends_its_process_is_a_crash(code: str, said: str, status: int, tmp_path: Path) -> None:
    write_app(tmp_path, f"def handler(e, c):\n    print('before')\n    {code}\n")
    async with worker(tmp_path) as running:
        await running.notes.until("ready")
        running.send(b"1", b"2")
        ((_, reason),) = await running.notes.until("closed")
        assert said in str(reason)
        assert running.notes.news("done", "error") == []
        assert running.notes.output["stdout"] == b"before\n"
        assert await asyncio.to_thread(running.process.wait, 20) == status


async def test_a_file_descriptor_is_not_left_behind(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    write_app(tmp_path, "def handler(e, c): return e\n")
    for _ in range(3):
        async with worker(tmp_path) as running:
            await running.notes.until("ready")
            await running.call(b"1")
    assert set(os.listdir("/proc/self/fd")) == before
