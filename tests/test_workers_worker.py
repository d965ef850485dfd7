"""The end of events in a worker that misbehaves, with real processes."""

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from functions import logs
from functions.invocations import EVENT_BYTES_MAX, Ending
from tests.functions_site import Site, error, is_alive, site, until, value

pytestmark = pytest.mark.processes

# A bootstrap as anybody could write one; the answer to an event is the event itself, byte for byte.
BOOTSTRAP = """#!/usr/bin/python3
import http.client, os, sys, time

api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
base = "/2018-06-01/runtime/invocation/"
while True:
    api.request("GET", base + "next")
    response = api.getresponse()
    event = response.read()
    request_id = response.headers["Lambda-Runtime-Aws-Request-Id"]
    print("working on", event[:20], flush=True)
    if event == b"exit":
        sys.exit(3)
    if event == b"sleep":
        time.sleep(60)
    if event.startswith(b"large"):
        event = b"x" * int(event[5:])
    api.request("POST", base + request_id + "/response", event)
    api.getresponse().read()
"""


async def warm(here: Site, **options: int) -> object:
    pool = here.pool(concurrency=1, **options)
    value(await here.call(pool, {}))
    return pool


async def test_an_event_that_takes_too_long_is_killed_and_those_behind_are_not_touched(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(concurrency=1, timeout=1)
        await here.results([here.submit(pool, {}) for _ in range(500)])
        pid = pool._workers[0].launched.pid  # type: ignore[union-attr]
        late = here.submit(pool, {"do": "sleep", "seconds": 60})
        behind = [here.submit(pool, {"n": n}) for n in range(5)]
        await until(lambda: pool.in_flight == 6)  # in hand of the one that is going to be killed
        result = await here.result(late)
        assert result.ending is Ending.TIMEOUT
        assert error(result)["errorType"] == "Sandbox.Timedout"
        assert error(result)["errorMessage"].endswith(f" {late} Task timed out after 1.00 seconds")
        assert result.duration == 1.0
        messages = [line["message"] for line in await here.written()]
        [report] = [message for message in messages if message.startswith(f"REPORT RequestId: {late}\t")]
        assert "\tDuration: 1000.00 ms\tBilled Duration: 1000 ms\t" in report
        answers = [value(result) for result in await here.results(behind)]
        assert [(answer["n"], answer["seen"]) for answer in answers] == [(n, n + 1) for n in range(5)]
        await until(lambda: not is_alive(pid))
        assert pool.status()["timeouts"] == 1


async def test_time_runs_for_each_event_and_not_for_all_of_them(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(concurrency=1, timeout=1)
        submitted = [here.submit(pool, {"do": "sleep", "seconds": 0.3}) for _ in range(6)]
        assert {result.ending for result in await here.results(submitted)} == {Ending.SUCCESS}


async def test_a_daemon_that_was_held_up_kills_nobody_for_it(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(concurrency=1, timeout=1)
        value(await here.call(pool, {}))
        submitted = here.submit(pool, {"do": "sleep", "seconds": 0.1})
        signal.setitimer(signal.ITIMER_REAL, 0)
        blocked = asyncio.get_running_loop().time() + 1.5
        while asyncio.get_running_loop().time() < blocked:  # the loop turns for nobody
            os.sched_yield()
        assert (await here.result(submitted)).ending is Ending.SUCCESS


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"do": "exit", "code": 3}, "Runtime exited with error: exit status 3"),
        ({"do": "exit", "code": 0}, "Runtime exited without providing a reason"),
        ({"do": "sys.exit", "code": 4}, "Runtime exited with error: exit status 4"),
        ({"do": "kill", "signal": "SIGKILL"}, "Runtime exited with error: signal: killed"),
        ({"do": "kill", "signal": "SIGSEGV"}, "Runtime exited with error: signal: segmentation fault"),
    ],
)
async def test_a_process_that_ends_fails_the_event_in_hand_and_no_other(
    tmp_path: Path, event: dict[str, object], words: str
) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(concurrency=1)
        await here.results([here.submit(pool, {}) for _ in range(500)])
        before, crashing = here.submit(pool, {}), here.submit(pool, event, wants_tail=True)
        behind = [here.submit(pool, {"n": n}) for n in range(50)]
        value(await here.result(before))
        result = await here.result(crashing)
        assert result.ending is Ending.CRASH
        assert error(result) == {"errorType": "Runtime.ExitError",
                                 "errorMessage": f"RequestId: {crashing} Error: {words}"}  # fmt: skip
        assert f"{words}\nEND RequestId: {crashing}\nREPORT RequestId: {crashing}\t" in result.log_tail.decode()
        answers = [value(result) for result in await here.results(behind)]
        assert [(answer["n"], answer["seen"]) for answer in answers] == [(n, n + 1) for n in range(50)]


async def test_a_worker_killed_from_outside_fails_one_event_at_most(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(concurrency=1)
        await here.results([here.submit(pool, {}) for _ in range(500)])
        submitted = [here.submit(pool, {"do": "sleep", "seconds": 0.01, "n": n}) for n in range(20)]
        await until(lambda: submitted[3] in here.answers.results)
        os.kill(pool._workers[0].launched.pid, signal.SIGKILL)  # type: ignore[union-attr]
        endings = [result.ending for result in await here.results(submitted)]
        assert endings.count(Ending.CRASH) == 1
        assert endings.count(Ending.SUCCESS) == 19


async def test_a_worker_that_dies_while_it_idles_costs_no_event(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(concurrency=1)
        value(await here.call(pool, {}))
        os.kill(pool._workers[0].launched.pid, signal.SIGKILL)  # type: ignore[union-attr]
        await until(lambda: pool.workers == 0)
        assert value(await here.call(pool, {}))["seen"] == 1


async def test_a_worker_that_closes_its_channel_is_ended(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(concurrency=1, timeout=60)
        assert (await here.call(pool, {"do": "close everything"})).ending is Ending.CRASH
        assert value(await here.call(pool, {}))["seen"] == 1


async def test_memory_beyond_the_limit_fails_the_event_and_not_the_function(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(concurrency=1, memory_mb=64, timeout=60)
        result = await here.call(pool, {"do": "hold", "mb": 1_000})
        assert result.ending in {Ending.ERROR, Ending.CRASH}
        assert error(result)["errorType"] in {"MemoryError", "Runtime.OutOfMemory"}
        assert value(await here.call(pool, {}))["n"] is None


async def test_a_handler_that_raises_is_an_error_with_its_words(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(concurrency=1)
        result = await here.call(pool, {"do": "raise"})
        assert result.ending is Ending.ERROR
        assert error(result)["errorType"] == "ValueError"
        assert value(await here.call(pool, {}))["seen"] == 2
        assert pool.status()["errors"] == 1


async def test_a_large_result_arrives_and_one_too_large_is_an_error(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(concurrency=1, timeout=30)
        assert len(value(await here.call(pool, {"do": "result", "size": EVENT_BYTES_MAX - 100}))) > 6_000_000
        too_large = await here.call(pool, {"do": "result", "size": EVENT_BYTES_MAX + 1_000})
        assert too_large.ending is Ending.ERROR
        assert error(too_large)["errorType"] == "Function.ResponseSizeTooLarge"
        value(await here.call(pool, {}))


async def test_a_bootstrap_is_a_worker_like_any_other(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(BOOTSTRAP, "strapped", concurrency=1, timeout=2)
        submitted = [here.submit(pool, b"%d" % n) for n in range(50)]
        assert [result.payload for result in await here.results(submitted)] == [b"%d" % n for n in range(50)]
        assert (await here.call(pool, b"\xff\x00 no json")).payload == b"\xff\x00 no json"
        late, behind = here.submit(pool, b"sleep"), here.submit(pool, b"behind")
        assert (await here.result(late)).ending is Ending.TIMEOUT
        assert (await here.result(behind)).payload == b"behind"
        ended = await here.call(pool, b"exit")
        assert ended.ending is Ending.CRASH
        assert error(ended)["errorMessage"].endswith("Runtime exited with error: exit status 3")
        assert error(await here.call(pool, b"large7000000"))["errorType"] == "Function.ResponseSizeTooLarge"
        assert (await here.call(pool, b"still there")).payload == b"still there"


# What they write.


async def test_lines_belong_to_the_event_that_wrote_them_by_whichever_way(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(concurrency=1)
        printed = [here.submit(pool, {"do": "print", "text": f"number {n}"}) for n in range(20)]
        await here.results(printed)
        spoken = await here.call(pool, {"do": "shell", "command": "echo out; echo err >&2"}, wants_tail=True)
        assert b"out\n" in spoken.log_tail
        assert b"err\n" in spoken.log_tail
        strapped = here.pool(BOOTSTRAP, "strapped")
        tail = (await here.call(strapped, b"tail", wants_tail=True)).log_tail
        assert b"\nworking on b'tail'\nEND" in tail
        lines = await here.written()
        said = {line["requestId"]: line["message"] for line in lines if line["message"].startswith("number")}
        assert said == {request_id: f"number {n}" for n, request_id in enumerate(printed)}
        for request_id in printed:
            mine = [line["message"].split()[0] for line in lines if line["requestId"] == request_id]
            assert mine == ["START", "number", "END", "REPORT"]


@pytest.mark.parametrize(
    "event",
    [
        {"do": "shout", "text": "all work and no play\n", "times": 500_000},
        {"do": "shout", "text": "no end to it ", "times": 500_000},
        {"do": "shell", "command": "head -c 20000000 /dev/zero"},
        {"do": "shell", "command": "head -c 20000000 /dev/zero | tr '\\0' '\\n' >&2"},
        {"do": "shell", "command": "head -c 20000000 /dev/urandom"},
    ],
)
async def test_a_flood_of_output_is_bounded_and_counted(tmp_path: Path, event: dict[str, object]) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(concurrency=1, timeout=60)
        result = await here.call(pool, event, wants_tail=True)
        assert result.ending is Ending.SUCCESS
        assert len(result.log_tail) <= logs.TAIL_BYTES
        assert f"REPORT RequestId: {next(iter(here.answers.results))}" in result.log_tail.decode(errors="replace")
        value(await here.call(pool, {}))
        await here.logs.close()
        assert here.counters.value("function_log_lines_dropped_total") > 0
        files = list((tmp_path / "logs").iterdir())
        assert sum(path.stat().st_size for path in files) <= 4 << 20
        for path in files:
            for line in path.read_bytes().splitlines():
                json.loads(line)


async def test_what_a_worker_says_last_is_heard(tmp_path: Path) -> None:
    source = "import sys, os\nos.write(2, b'goodbye, cruel world')\nos._exit(1)\n"
    async with site(tmp_path) as here:
        pool = here.pool(source, "brief")
        assert (await here.call(pool, {})).ending is Ending.CRASH
        await until(lambda: pool.workers == 0)
        assert "goodbye, cruel world" in [line["message"] for line in await here.written("brief")]
