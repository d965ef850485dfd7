"""How many workers a function has and which gets what: real processes, asked for what users would notice."""

import asyncio
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from functions.errors import SandboxUnavailable
from functions.invocations import Ending, Result
from functions.workers import pacing, starts
from functions.workers import pool as pools
from functions.workers.worker import State
from tests.functions_site import error, is_alive, site, until, value

pytestmark = pytest.mark.processes


async def test_the_first_event_waits_for_a_cold_start_and_the_next_does_not(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool()
        first, second = await here.call(pool, {"n": 1}), await here.call(pool, {"n": 2})
        assert value(first)["instance"] == value(second)["instance"]
        assert value(second)["seen"] == 2
        assert first.init > 0
        assert second.init == 0
        assert first.version == "1"
        assert first.memory > 0
        assert pool.status()["cold_starts"] == pool.workers == 1


async def test_an_idle_worker_has_the_event_before_submit_returns(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool()
        await here.call(pool, {})
        submitted = here.submit(pool, {})
        assert (pool.waiting, pool.in_flight) == (0, 1)
        value(await here.result(submitted))


async def test_events_that_wait_are_done_in_order_and_once_by_one_worker(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(concurrency=1)
        submitted = [here.submit(pool, {"n": n}) for n in range(3_000)]
        results = [value(result) for result in await here.results(submitted)]
        assert [result["n"] for result in results] == list(range(3_000))
        assert [result["seen"] for result in results] == list(range(1, 3_001))
        assert list(here.answers.results) == submitted
        status = pool.status()
        assert status["invocations"] == 3_000
        assert status["duration_ms"]["max"] >= status["duration_ms"]["p50"] > 0
        counted = here.counters.value("function_invocations_total", function="obedient", ending="success")
        assert counted == 3_000


async def test_slow_events_have_a_worker_each_up_to_the_concurrency(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(concurrency=3)
        submitted = [here.submit(pool, {"do": "sleep", "seconds": 0.3}) for _ in range(9)]
        await until(lambda: pool.in_flight == 3)
        assert pool.workers == 3
        results = [value(result) for result in await here.results(submitted)]
        assert Counter(result["instance"] for result in results).keys().__len__() == 3
        assert pool.status()["cold_starts"] == 3


async def test_nothing_is_given_to_a_worker_that_has_a_slow_event(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(concurrency=1)
        await here.results([here.submit(pool, {"n": n}) for n in range(500)])  # it is known to be quick
        slow = here.submit(pool, {"do": "sleep", "seconds": 0.5})
        await asyncio.sleep(2 * pacing.WINDOW_SECONDS)
        behind = [here.submit(pool, {}) for _ in range(100)]
        await asyncio.sleep(0.05)
        assert slow not in here.answers.results
        assert (pool.in_flight, pool.waiting) == (1, 100)
        await here.results(behind)


async def test_events_behind_one_that_turns_out_slow_get_another_worker(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(concurrency=2, timeout=60)
        await here.results([here.submit(pool, {"n": n}) for n in range(500)])
        slow = here.submit(pool, {"do": "sleep", "seconds": 30})
        await asyncio.sleep(2 * pacing.WINDOW_SECONDS)
        quick = [here.submit(pool, {}) for _ in range(10)]
        await here.results(quick)
        assert slow not in here.answers.results
        assert pool.workers == 2


async def test_quick_events_start_no_second_worker(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(concurrency=4)
        value(await here.call(pool, {}))
        for _ in range(20):
            await here.results([here.submit(pool, {}) for _ in range(20)])
        assert pool.status()["cold_starts"] == 1


async def test_workers_that_idle_are_stopped(tmp_path: Path) -> None:
    async with site(tmp_path, idle=0.2) as here:
        pool = here.pool(concurrency=2)
        await here.results([here.submit(pool, {"do": "sleep", "seconds": 0.1}) for _ in range(4)])
        pids = [worker.launched.pid for worker in pool._workers if worker.launched is not None]
        await until(lambda: pool.workers == 0)
        await until(lambda: not any(map(is_alive, pids)))
        assert here.budget.taken == 0
        assert value(await here.call(pool, {}))["seen"] == 1


async def test_a_function_that_is_switched_off_refuses_at_once(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        for name, pinned in (("off", False), ("off-and-pinned", True)):
            pool = here.pool(name=name, concurrency=0, pinned=pinned)
            submitted = here.submit(pool, {})
            assert here.answers.results[submitted].ending is Ending.THROTTLED
            assert pool.workers == 0


async def test_what_waits_is_bounded_by_number_and_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "WAITING_EVENTS_MAX", 10)
    async with site(tmp_path) as here:
        pool = here.pool()
        submitted = [here.submit(pool, {"n": n}) for n in range(15)]
        refused = [here.answers.results.get(request_id) for request_id in submitted]
        assert [result.ending if result else None for result in refused] == [None] * 10 + [Ending.THROTTLED] * 5
        await here.results(submitted)
        monkeypatch.setattr(pools, "HELD_BYTES_MAX", 1_000)
        other = here.pool(name="other")
        submitted = [here.submit(other, {"x": "x" * 600}) for n in range(5)]
        assert Counter(result.ending for result in here.answers.results.values())[Ending.THROTTLED] == 5 + 3
        await here.results(submitted)
        assert other._held_bytes == 0


# Pinned functions.


async def test_a_pinned_function_has_one_worker_from_the_start_and_keeps_it(tmp_path: Path) -> None:
    async with site(tmp_path, idle=0.01) as here:
        pool = here.pool(pinned=True, concurrency=4)
        await until(lambda: pool.status()["ready"] == 1)
        submitted = [here.submit(pool, {"do": "sleep", "seconds": 0.05, "n": n}) for n in range(10)]
        results = [value(result) for result in await here.results(submitted)]
        assert [result["seen"] for result in results] == list(range(1, 11))
        assert pool.status()["cold_starts"] == pool.workers == 1


async def test_a_pinned_function_that_dies_is_started_again(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(pinned=True)
        for _ in range(3):
            instance = value(await here.call(pool, {}))["instance"]
            assert (await here.call(pool, {"do": "exit", "code": 1})).ending is Ending.CRASH
            await until(lambda: pool.status()["ready"] == 1)
            assert value(await here.call(pool, {}))["instance"] != instance


async def test_a_pinned_function_that_keeps_dying_is_started_ever_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starts, "RETRY_SECONDS", 0.2)
    source = "import os, threading\nthreading.Timer(0.05, os._exit, [1]).start()\ndef handler(e, c): pass\n"
    async with site(tmp_path) as here:
        pool = here.pool(source, pinned=True)
        delays = []
        for _ in range(4):
            await until(lambda: pool.status()["starts_again_in"])
            delays.append(pool._starts.not_before - time.monotonic())
            await until(lambda: pool.workers == 1)
            await until(lambda: pool.workers == 0)
        assert [round(delay, 1) for delay in delays] == pytest.approx([0.2, 0.4, 0.8, 1.6], abs=0.1)


# Starts that fail.

IMPORT_ERROR = "import nothing_of_that_name\ndef handler(e, c): pass\n"
FIRST_START_FAILS = """
import os
if os.environ["START"] == "1":
    raise RuntimeError("not today")
def handler(event, context):
    return "well"
"""


async def test_who_waits_for_a_handler_that_cannot_be_loaded_gets_its_error(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(IMPORT_ERROR, "broken")
        submitted = [here.submit(pool, {"n": n}) for n in range(20)]
        for result in await here.results(submitted):
            assert result.ending is Ending.CRASH
            assert error(result)["errorType"] == "Runtime.ImportModuleError"
        assert pool.workers <= 2
        await until(lambda: pool.workers == 0)  # and each has written its last line
        lines = await here.written("broken")
        for request_id in submitted:
            mine = [line["message"] for line in lines if line["requestId"] == request_id]
            assert [message.split()[0] for message in mine if not message.startswith("{")] == ["START", "END", "REPORT"]
            assert sum("nothing_of_that_name" in message for message in mine) == 1
        others = [line["message"] for line in lines if not line["requestId"]]
        reports = sum(message.startswith("INIT_REPORT ") for message in others)
        assert reports >= 1
        assert sum("nothing_of_that_name" in message for message in others) == reports  # once for each start


async def test_the_tail_of_a_handler_that_cannot_be_loaded_has_its_error(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(IMPORT_ERROR, "broken")
        first = await here.call(pool, {}, wants_tail=True)
        urgent = await here.call(pool, {}, wants_tail=True, urgent=True)  # is told while starts wait
        for result in (first, urgent):
            assert b"nothing_of_that_name" in result.log_tail
            assert b"\tStatus: error\tError Type: Runtime.ImportModuleError\n" in result.log_tail
        assert (await here.call(pool, {}, urgent=True)).log_tail == b""


async def test_while_starts_wait_callers_are_told_at_once_and_events_wait(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(FIRST_START_FAILS, "moody", concurrency=1)
        assert error(await here.call(pool, {}))["errorMessage"] == "not today"
        assert pool.status()["starts_again_in"] is not None
        patient = here.submit(pool, {})
        urgent = here.submit(pool, {}, urgent=True)
        assert error(here.answers.results[urgent])["errorMessage"] == "not today"
        assert patient not in here.answers.results
        assert value(await here.result(patient)) == "well"
        assert pool.status()["starts_again_in"] is None
        assert pool.status()["problem"] is None


async def test_a_process_that_ends_before_it_is_ready_says_how(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool("import os\nos._exit(7)\n", "broken")
        result = await here.call(pool, {})
        assert result.ending is Ending.CRASH
        assert error(result) == {
            "errorType": "Runtime.ExitError", "errorMessage": "Error: Runtime exited with error: exit status 7",
        }  # fmt: skip


async def test_a_worker_that_is_killed_while_it_starts_fails_no_event_the_first_time(tmp_path: Path) -> None:
    once = 'import os\nif os.environ["START"] == "1":\n    os.kill(os.getpid(), 9)\ndef handler(e, c): return "well"\n'
    async with site(tmp_path) as here:
        assert value(await here.call(here.pool(once, "once", concurrency=1), {})) == "well"
        always = here.pool("import os\nos.kill(os.getpid(), 9)\n", "always", concurrency=1)
        result = await here.call(always, {})
        assert result.ending is Ending.CRASH
        assert error(result)["errorMessage"] == "Error: Runtime exited with error: signal: killed"
        assert always.status()["starts_again_in"] is not None


async def test_a_handler_that_is_never_loaded_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("functions.workers.worker.INIT_SECONDS", 0.5)
    async with site(tmp_path) as here:
        pool = here.pool("import time\ntime.sleep(600)\n", "stuck")
        result = await here.call(pool, {})
        assert error(result)["errorType"] == "Sandbox.Timedout"
        await until(lambda: pool.workers == 0)


async def test_what_keeps_the_machine_from_starting_workers_fails_no_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starts, "RETRY_SECONDS", 0.1)
    async with site(tmp_path) as here:
        here.failing = SandboxUnavailable("no bubblewrap here")
        pool = here.pool()
        patient = here.submit(pool, {})
        refused = await here.call(pool, {}, urgent=True)
        assert refused.ending is Ending.THROTTLED
        assert "no bubblewrap here" in error(refused)["errorMessage"]
        assert "no bubblewrap here" in pool.status()["problem"]
        await until(lambda: here.refused >= 3)
        assert patient not in here.answers.results
        here.failing = None
        assert value(await here.result(patient))["seen"] == 1


# Many functions.


async def test_functions_take_turns_when_there_are_fewer_workers_than_functions(tmp_path: Path) -> None:
    async with site(tmp_path, workers=2) as here:
        some = [here.pool(name=f"function-{n}", concurrency=2) for n in range(5)]
        submitted = [here.submit(pool, {"do": "sleep", "seconds": 0.02}) for _ in range(5) for pool in some]
        most = 0
        while len(here.answers.results) < len(submitted):
            most = max(most, here.budget.taken)
            await asyncio.sleep(0.005)
        assert most == 2
        assert all(result.ending is Ending.SUCCESS for result in here.answers.results.values())


async def test_an_idle_worker_makes_room_for_another_function_and_a_pinned_one_does_not(tmp_path: Path) -> None:
    async with site(tmp_path, workers=2) as here:
        pinned, idle, late = here.pool(name="pinned", pinned=True), here.pool(name="idle"), here.pool(name="late")
        value(await here.call(pinned, {}))
        value(await here.call(idle, {}))
        value(await here.call(late, {}))
        assert (pinned.workers, idle.workers, late.workers) == (1, 0, 1)


async def test_a_function_with_a_backlog_lets_one_without_a_worker_in(tmp_path: Path) -> None:
    async with site(tmp_path, workers=2) as here:
        greedy, poor = here.pool(name="greedy", concurrency=2, timeout=60), here.pool(name="poor")
        backlog = [here.submit(greedy, {"do": "sleep", "seconds": 0.1}) for _ in range(100)]
        await until(lambda: greedy.status()["ready"] == 2)
        value(await here.call(poor, {}))
        assert backlog[-1] not in here.answers.results


# Ends.


async def test_every_event_ends_once_whatever_handlers_do(tmp_path: Path) -> None:
    rng = random.Random(7)
    async with site(tmp_path) as here:
        pool = here.pool(concurrency=3, timeout=1)
        kinds = [{}] * 40 + [{"do": "raise"}] * 4 + [{"do": "sleep", "seconds": 0.02}] * 4 + [
            {"do": "exit", "code": 1}, {"do": "kill", "signal": "SIGKILL"}, {"do": "sys.exit", "code": 0},
            {"do": "close everything"},
        ]  # fmt: skip
        events = [dict(rng.choice(kinds), n=n) for n in range(400)]
        events[200] = {"do": "sleep", "seconds": 30}
        submitted = [here.submit(pool, event) for event in events]
        expected = {None: {Ending.SUCCESS}, "sleep": {Ending.SUCCESS}, "raise": {Ending.ERROR},
                    "close everything": {Ending.CRASH, Ending.TIMEOUT}}  # fmt: skip
        for event, result in zip(events, await here.results(submitted), strict=True):
            wanted = {Ending.TIMEOUT} if event.get("seconds") == 30 else expected.get(event.get("do"), {Ending.CRASH})
            assert result.ending in wanted, (event, result)
        status = pool.status()
        assert status["invocations"] == 400
        assert status["errors"] + status["timeouts"] + status["crashes"] > 10


async def test_events_survive_a_launcher_that_dies(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(concurrency=2, timeout=60)
        value(await here.call(pool, {}))
        submitted = [here.submit(pool, {"do": "sleep", "seconds": 0.05, "n": n}) for n in range(40)]
        await until(lambda: len(here.answers.results) > 5)
        here.kill_launcher()
        endings = Counter(result.ending for result in await here.results(submitted))
        assert endings.keys() <= {Ending.SUCCESS, Ending.CRASH}
        assert endings[Ending.CRASH] <= 2


async def test_a_launcher_that_dies_while_many_workers_start_costs_no_event(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        slow = "import time\ntime.sleep(0.5)\ndef handler(event, context):\n    time.sleep(0.2)\n"
        pool = here.pool(slow, "slow", concurrency=4)
        submitted = [here.submit(pool, {}) for _ in range(8)]
        await until(lambda: pool.workers == 4 and all(worker.launched for worker in pool._workers))
        here.kill_launcher()
        assert {result.ending for result in await here.results(submitted)} == {Ending.SUCCESS}


async def test_closing_lets_the_event_in_hand_end_and_gives_the_others_back(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(concurrency=1)
        value(await here.call(pool, {}))
        submitted = [here.submit(pool, {"do": "sleep", "seconds": 0.3}) for _ in range(5)]
        await until(lambda: pool.in_flight == 1)
        await pool.close()
        endings = [result.ending for result in await here.results(submitted)]
        assert endings == [Ending.SUCCESS] + [Ending.THROTTLED] * 4
        assert (await here.call(pool, {})).ending is Ending.THROTTLED
        await until(lambda: pool.workers == 0)


async def test_closing_does_not_wait_for_an_event_that_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "CLOSE_SECONDS", 0.1)
    async with site(tmp_path) as here:
        pool = here.pool(timeout=600)
        value(await here.call(pool, {}))
        submitted = here.submit(pool, {"do": "sleep", "seconds": 600})
        pids = [worker.launched.pid for worker in pool._workers if worker.launched is not None]
        await pool.close()
        assert (await here.result(submitted)).ending is Ending.THROTTLED
        await until(lambda: not any(map(is_alive, pids)))


async def test_closing_before_a_worker_is_ready_gives_everything_back(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool()
        submitted = [here.submit(pool, {}) for _ in range(3)]
        await until(lambda: pool.workers)
        assert pool._workers[0].state is State.STARTING
        await pool.close()
        assert [result.ending for result in await here.results(submitted)] == [Ending.THROTTLED] * 3


async def test_a_caller_that_fails_costs_no_other_its_result(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        pool = here.pool(concurrency=1)

        def fail(result: Result) -> None:
            raise RuntimeError("the caller's fault")

        here.answers.to = lambda _: fail  # type: ignore[method-assign]
        here.submit(pool, {})
        del here.answers.to
        assert value(await here.call(pool, {}))["seen"] == 2


async def test_a_worker_is_served_the_endpoint_with_its_own_environment(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        here.environment["AWS_ACCESS_KEY_ID"] = "only-for-this-one"
        pool = here.pool()
        value(await here.call(pool, {}))
        ((environment, sock),) = here.endpoints
        assert environment["AWS_ACCESS_KEY_ID"] == "only-for-this-one"
        assert sock.fileno() >= 0
        await pool.close()
        await until(lambda: not here.endpoints)
