"""functions.worker.loop: what handlers do to the process that they run in, and what comes of it."""

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from tests.fast_workers import worker


def write_app(code: Path, text: str) -> Path:
    (code / "app.py").write_text(text)
    return code


async def test_the_module_is_loaded_once_and_ready_is_told_after_what_it_said(tmp_path: Path) -> None:
    write_app(tmp_path, "print('loading')\nN = []\ndef handler(e, c):\n    N.append(e)\n    return len(N)\n")
    async with worker(tmp_path) as running:
        running.notes.output["stdout"] = b""
        await running.notes.until("ready")
        assert running.notes.told == [("said", "stdout", b"loading\n"), ("ready",)]
        assert [await running.call(b"{}") for _ in range(3)] == [("done", b"1"), ("done", b"2"), ("done", b"3")]


async def test_output_without_a_line_end_is_told_with_its_event(tmp_path: Path) -> None:
    write_app(
        tmp_path,
        "import sys\ndef handler(e, c):\n    sys.stdout.buffer.write(b'a\\xff'); sys.stderr.write('b')\n",
    )
    async with worker(tmp_path) as running:
        await running.notes.until("ready")
        await running.call()
        assert running.notes.output == {"stdout": b"a\xff", "stderr": b"b"}
        assert [news[0] for news in running.notes.told] == ["ready", "said", "said", "done"]


async def test_megabytes_of_output_arrive_whole(tmp_path: Path) -> None:
    write_app(
        tmp_path,
        "def handler(e, c):\n    print('x' * 5_000_000)\n    for n in range(20_000): print(n)\n    print('\\ud800é')\n",
    )
    async with worker(tmp_path) as running:
        await running.notes.until("ready")
        await running.call()
        numbers = "".join(f"{n}\n" for n in range(20_000))
        assert running.notes.output["stdout"] == f"{'x' * 5_000_000}\n{numbers}\\ud800é\n".encode()


@pytest.mark.parametrize(
    "spoiling",
    ["sys.stdout.close()", "sys.stdout = None", "sys.stdout = sys.stderr = io.StringIO()", "del sys.stdout",
     "sys.stdout.detach()", "os.close(1); os.close(2)", "sys.stdout.buffer.raw.close()", "sys.stderr.close()"],
)  # fmt: skip
async def test_a_handler_may_spoil_its_streams_and_still_answers(spoiling: str, tmp_path: Path) -> None:
    write_app(
        tmp_path,
        f"import io, os, sys\ndef handler(e, c):\n    if e == 0:\n        {spoiling}\n"
        "    elif e == 1: raise ValueError(1)\n    return e\n",
    )
    async with worker(tmp_path) as running:
        await running.notes.until("ready")
        assert await running.call(b"0") == ("done", b"0")
        kind, payload = await running.call(b"1")
        assert (kind, json.loads(payload)["errorType"]) == ("error", "ValueError")
        assert await running.call(b"2") == ("done", b"2")


async def test_a_closed_stream_is_open_again_for_the_next_event(tmp_path: Path) -> None:
    write_app(
        tmp_path,
        "import sys\ndef handler(e, c):\n    print('event', e); print('error', e, file=sys.stderr)\n"
        "    sys.stdout.close(); sys.stderr.close()\n",
    )
    async with worker(tmp_path) as running:
        await running.notes.until("ready")
        await running.call(b"0")
        await running.call(b"1")
        assert running.notes.output == {"stdout": b"event 0\nevent 1\n", "stderr": b"error 0\nerror 1\n"}


async def test_libraries_in_c_and_children_write_to_the_pipes(tmp_path: Path) -> None:
    write_app(
        tmp_path,
        "import os, subprocess, sys\ndef handler(e, c):\n"
        "    os.write(1, b'direct\\n')\n    subprocess.run(['echo', 'child'], check=True)\n"
        "    subprocess.run(['echo', 'given'], check=True, stdout=sys.stdout)\n    print('ours')\n",
    )
    async with worker(tmp_path) as running:
        await running.notes.until("ready")
        await running.call()
        assert running.notes.output["stdout"] == b"ours\n"
        assert running.process.stdout is not None
        assert await asyncio.to_thread(running.process.stdout.read, 19) == b"direct\nchild\ngiven\n"


async def test_threads_of_the_handler_go_on_between_events(tmp_path: Path) -> None:
    write_app(
        tmp_path,
        "import threading\nGO, GONE = threading.Event(), threading.Event()\n"
        "def work():\n    GO.wait()\n    print('from the background')\n    GONE.set()\n"
        "threading.Thread(target=work, daemon=True).start()\n"
        "def handler(e, c):\n    if e: GO.set()\n    return GONE.is_set() and not e\n",
    )
    async with worker(tmp_path) as running:
        await running.notes.until("ready")
        assert (await running.call(b"1"))[0] == "done"
        assert (await running.notes.until("said"))[0] == ("said", "stdout", b"from the background\n")
        async with asyncio.timeout(20):
            while await running.call(b"0") != ("done", b"true"):  # between its line and what it sets next
                pass


async def test_many_threads_never_mix_their_frames(tmp_path: Path) -> None:
    write_app(
        tmp_path,
        "import sys, threading\n"
        "def work(n):\n    for k in range(300): sys.stdout.write(f'{n}:{k}\\n')\n"
        "def handler(e, c):\n"
        "    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]\n"
        "    for t in threads: t.start()\n    for t in threads: t.join()\n    return e\n",
    )
    async with worker(tmp_path) as running:
        await running.notes.until("ready")
        assert await running.call(b"7") == ("done", b"7")
        lines = running.notes.output["stdout"].decode().split()
        assert sorted(lines) == sorted(f"{n}:{k}" for n in range(8) for k in range(300))


async def test_a_fork_speaks_through_the_pipes_and_never_on_the_channel(tmp_path: Path) -> None:
    write_app(
        tmp_path,
        "import os, multiprocessing, sys\n"
        "def child():\n    print('in the child')\n    sys.stdout.flush()\n"
        "def handler(e, c):\n    print('unended', end=' ')\n"
        "    if e == 'returns':\n        pid = os.fork()\n        if pid: os.waitpid(pid, 0)\n        return pid != 0\n"
        "    p = multiprocessing.get_context('fork').Process(target=child)\n    p.start()\n    p.join()\n"
        "    return p.exitcode\n",
    )
    async with worker(tmp_path) as running:
        await running.notes.until("ready")
        assert await running.call(b'"process"') == ("done", b"0")
        assert await running.call(b'"returns"') == ("done", b"true")
        assert await running.call(b'"returns"') == ("done", b"true")
        assert b"child" not in running.notes.output["stdout"]
        assert running.process.stdout is not None
        assert b"in the child\n" in await asyncio.to_thread(os.read, running.process.stdout.fileno(), 1000)


async def test_a_fork_that_lives_on_does_not_keep_the_channel_open(tmp_path: Path) -> None:
    write_app(
        tmp_path,
        "import os, time\ndef handler(e, c):\n    pid = os.fork()\n    if not pid:\n        time.sleep(60)\n"
        "    open('pid', 'w').write(str(pid))\n    os._exit(9)\n",
    )
    async with worker(tmp_path) as running:
        await running.notes.until("ready")
        running.send(b"1")
        await running.notes.until("closed")
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


async def test_an_alarm_that_raises_in_the_middle_of_output_never_breaks_a_frame(tmp_path: Path) -> None:
    write_app(
        tmp_path,
        "import signal\n"
        "class Late(Exception): pass\n"
        "def ring(*_):\n    print('ringing')\n    raise Late\n"
        "signal.signal(signal.SIGALRM, ring)\n"
        "def handler(e, c):\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0.002)\n"
        "    try:\n        while True: print('x' * 200)\n"
        "    except Late: return e\n",
    )
    async with worker(tmp_path) as running:
        await running.notes.until("ready")
        for number in range(100):
            kind, payload = await running.call(str(number).encode())
            assert kind == "error" or payload == str(number).encode()  # Python may forbid the print within a print
        assert running.notes.news("closed") == []


async def test_a_signal_handler_may_print(tmp_path: Path) -> None:
    write_app(
        tmp_path,
        "import os, signal\nsignal.signal(signal.SIGUSR1, lambda *_: print('signalled'))\n"
        "def handler(e, c):\n    os.kill(os.getpid(), signal.SIGUSR1)\n    return e\n",
    )
    async with worker(tmp_path) as running:
        await running.notes.until("ready")
        assert await running.call(b"1") == ("done", b"1")
        assert running.notes.output["stdout"] == b"signalled\n"


async def test_a_missing_trace_id_is_not_the_last_ones(tmp_path: Path) -> None:
    write_app(tmp_path, "import os\ndef handler(e, c): return os.environ.get('_X_AMZN_TRACE_ID')\n")
    async with worker(tmp_path) as running:
        await running.notes.until("ready")
        running.send(b"1", trace_id="Root=1-a")
        running.send(b"2", b"3", trace_id="Root=1-b")
        running.send(b"4")
        answers = [news[2] for news in await running.notes.until("done", 4)]
        assert answers == [b'"Root=1-a"', b'"Root=1-b"', b'"Root=1-b"', b"null"]


async def test_the_remaining_time_begins_when_the_event_is_taken_up_and_is_never_negative(tmp_path: Path) -> None:
    write_app(
        tmp_path,
        "import time\nNOW = [1000.0]\ntime.monotonic = lambda: NOW[0]\n"
        "def handler(e, c):\n    before = c.get_remaining_time_in_millis()\n    NOW[0] += e\n"
        "    return [before, c.get_remaining_time_in_millis()]\n",
    )
    async with worker(tmp_path, TIDEGATE_TIMEOUT="5") as running:
        await running.notes.until("ready")
        running.send(b"0.5", b"4", b"60")
        answers = [news[2] for news in await running.notes.until("done", 3)]
        assert answers == [b"[5000, 4500]", b"[5000, 1000]", b"[5000, 0]"]


async def test_a_fault_in_init_ends_the_process_and_is_told(tmp_path: Path) -> None:
    write_app(tmp_path, "import sys\nprint('one')\nsys.exit('no way')\n")
    async with worker(tmp_path) as running:
        ((_, reason),) = await running.notes.until("closed")
        assert "SystemExit: no way" in str(reason)
        assert [news[0] for news in running.notes.told] == ["said", "closed"]
        assert await asyncio.to_thread(running.process.wait, 20) == 1
