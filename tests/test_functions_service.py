"""The functions of one daemon, in this process: a real library, queue, launcher and workers, and no broker."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from core.commits import Barrier, Commits
from core.message import Message, Origin
from core.store import Store
from core.telemetry import Counters
from functions import service, stored
from functions.config import FunctionsSection
from functions.errors import FunctionNotFound, RecursiveInvocation, Throttled, TooLarge
from functions.invocations import EVENT_BYTES_MAX, Ending
from functions.manifest import Manifest
from functions.names import FunctionName
from functions.packages.library import Draft, Library
from functions.queue import KEPT
from functions.retries import DEPTH_MAX
from functions.service import Functions, Site
from tests.functions_boxes import RUNTIME, public_directory

pytestmark = pytest.mark.processes
PATIENCE_SECONDS = 30.0
ECHO = """
import os
import time

def handler(event, context):
    if event == "stuck":
        time.sleep(600)
    if event == "slow":
        time.sleep(0.5)
    return [event, context.function_version, os.environ.get("SECRET")]
"""
ONE = FunctionName("one")


class House:
    """Functions without a daemon around them; `published` is what they gave to the broker."""

    def __init__(self, directory: Path, functions: Path) -> None:
        self.directory = directory
        self.section = FunctionsSection(directory=functions, secrets=directory / "secrets")
        (directory / "secrets").mkdir(exist_ok=True)
        self.library = Library(self.section.directory)
        self.published: list[tuple[str, bytes]] = []
        self.exchanged: list[list[tuple[str, int]]] = []
        self.changes = 0

    def deploy(self, name: str, code: str = ECHO, **manifest: Any) -> int:
        """A new version, of which nobody is told."""
        source = self.directory / "code"
        source.mkdir(exist_ok=True)
        (source / f"{name}.py").write_text(code)
        known = {"name": name, "version": 1, "runtime": RUNTIME, "handler": f"{name}.handler", **manifest}
        return self.library.install(Draft(Manifest(**known), source)).manifest.version

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Functions]:
        """From start to stop, as a daemon does it."""
        store = Store(self.directory / "store.db", stored.SCHEMA)
        commits = Commits(store)
        functions = Functions(self.section, self.directory, commits, Counters(), Site(self._publish, self._answer))
        functions.exchange = self._exchange
        functions.changed = self._changed
        await functions.open()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work, name=name) for name, work in functions.tasks()]
            try:
                yield functions
            finally:
                await functions.close()
                for task in tasks:
                    task.cancel()
        await functions.closed()
        await commits.drain()
        await store.close()

    def _publish(self, topic: str, payload: bytes) -> Barrier:
        self.published.append((topic, payload))
        return KEPT

    async def _answer(self, message: Message, origin: Origin) -> None:
        self.published.append((message.topic, message.payload))

    def _exchange(self, manifests: list[Manifest]) -> None:
        self.exchanged.append([(manifest.name, manifest.version) for manifest in manifests])

    async def _changed(self) -> None:
        self.changes += 1


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until a condition, perhaps one that has to be asked for, is true."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.01)


async def answer(functions: Functions, name: FunctionName = ONE, event: object = 1) -> Any:
    """What a function makes of an event."""
    result = await functions.invoke(name, json.dumps(event).encode())
    assert result.ending is Ending.SUCCESS, result
    return json.loads(result.payload)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with public_directory() as functions:
        yield House(tmp_path, functions)


# -- calling ----------------------------------------------------------------------------------------------------------


async def test_a_name_means_the_current_version_an_alias_what_it_names_and_a_number_that_version(house: House) -> None:
    house.deploy("one", alias="live")
    house.deploy("one", alias="other")
    async with house.running() as functions:
        for qualifier, version in (("$LATEST", "2"), ("live", "1"), ("other", "2"), ("1", "1"), ("2", "2")):
            assert (await answer(functions, FunctionName("one", qualifier)))[1] == version
        for unknown in (FunctionName("nobody"), FunctionName("one", "3"), FunctionName("one", "gone")):
            with pytest.raises(FunctionNotFound):
                await functions.invoke(unknown, b"1")
            with pytest.raises(FunctionNotFound):
                functions.call(unknown, b"1")


async def test_what_is_too_large_or_called_too_deep_is_refused_at_once(house: House) -> None:
    house.deploy("one")
    async with house.running() as functions:
        with pytest.raises(TooLarge):
            await functions.invoke(ONE, b"1" * (EVENT_BYTES_MAX + 1))
        with pytest.raises(RecursiveInvocation):
            await functions.invoke(ONE, b"1", depth=DEPTH_MAX + 1)
        with pytest.raises(RecursiveInvocation):
            await functions.accept(ONE, b"1", depth=DEPTH_MAX + 1)
        assert functions.queue.count == 0


async def test_a_full_queue_refuses_what_comes_and_keeps_what_it_has(house: House) -> None:
    house.deploy("one", queue_events=2, concurrency=1, timeout=900)
    async with house.running() as functions:
        for _ in range(2):
            await functions.accept(ONE, b'"stuck"')
        with pytest.raises(Throttled, match="the queue of one is full: 2 events"):
            functions.call(ONE, b"1")
        assert functions.queue.count == 2


async def test_what_was_not_finished_when_it_stopped_is_done_by_the_next_run(house: House) -> None:
    house.deploy("one", timeout=900, concurrency=1, on_success="arn:aws:iot:us-east-1:000000000000:topic/done")
    async with house.running() as functions:
        for event in ("stuck", 1, 2):
            await functions.accept(ONE, json.dumps(event).encode())
        await until(lambda: functions.asynchronous.status()[0].in_flight == 3)
    house.deploy("one", ECHO.replace("sleep(600)", "sleep(0)"), on_success="arn:aws:iot:us-east-1:0:topic/done")
    async with house.running() as functions:
        await until(lambda: len(house.published) == 3)
        await until(lambda: functions.queue.count == 0)
    documents = [json.loads(payload) for _, payload in house.published]
    assert sorted(str(document["responsePayload"]) for document in documents) == [
        "['stuck', '2', None]", "[1, '2', None]", "[2, '2', None]",
    ]  # fmt: skip


# -- deploying --------------------------------------------------------------------------------------------------------


async def test_a_reload_tells_everybody_of_the_new_versions_once(house: House) -> None:
    house.deploy("one")
    async with house.running() as functions:
        assert house.exchanged == [[("one", 1)]]
        await functions.reload()
        assert (house.exchanged, house.changes) == ([[("one", 1)]], 0)
        house.deploy("two")
        house.deploy("one")
        await functions.reload()
        assert (house.exchanged[1:], house.changes) == ([[("one", 2), ("two", 1)]], 1)
        house.library.remove("one")
        await functions.reload()
        assert house.exchanged[2:] == [[("two", 1)]]
        with pytest.raises(FunctionNotFound):
            functions.call(ONE, b"1")


async def test_a_deploy_of_which_nobody_told_is_seen_after_a_while(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "FOLLOW_SECONDS", 0.05)
    house.deploy("one")
    async with house.running() as functions:
        assert (await answer(functions))[1] == "1"
        house.deploy("one")
        await until(lambda: house.changes == 1)
        assert (await answer(functions))[1] == "2"


async def test_a_version_finishes_what_it_has_before_its_workers_end(house: House) -> None:
    house.deploy("one")
    async with house.running() as functions:
        slow = asyncio.create_task(answer(functions, event="slow"))

        async def is_begun() -> bool:
            return [pool["in_flight"] for pool in (await functions.status())["functions"]] == [1]

        await until(is_begun)
        house.deploy("one")
        await functions.reload()
        assert (await answer(functions))[1] == "2"
        assert await slow == ["slow", "1", None]


async def test_events_that_wait_go_to_the_version_that_is_deployed_meanwhile(house: House) -> None:
    house.deploy("one", concurrency=1, on_success="arn:aws:iot:us-east-1:000000000000:topic/done")
    async with house.running() as functions:
        for _ in range(100):
            await functions.accept(ONE, b'"slow"')
        asked = asyncio.create_task(answer(functions, event="slow"))
        await until(lambda: len(house.published) == 1)
        house.deploy("one", ECHO.replace("0.5", "0"), on_success="arn:aws:iot:us-east-1:000000000000:topic/done")
        await functions.reload()
        assert (await asked)[1] == "2"
        await until(lambda: functions.queue.count == 0)
    versions = [json.loads(payload)["responseContext"]["executedVersion"] for _, payload in house.published]
    assert len(versions) == 100
    assert versions.count("1") <= 2  # the first, and what was in hand


async def test_events_that_wait_for_a_function_that_is_removed_are_dead_letters_at_once(house: House) -> None:
    house.deploy("one", concurrency=1, timeout=900)
    async with house.running() as functions:
        for _ in range(10):
            await functions.accept(ONE, b'"stuck"')
        house.library.remove("one")
        await functions.reload()

        async def are_buried() -> bool:
            return len(await functions.asynchronous.dead_letters("one")) >= 9

        await until(are_buried)


async def test_versions_that_an_alias_names_keep_their_workers_when_others_are_deployed(house: House) -> None:
    house.deploy("one", alias="live")
    async with house.running() as functions:
        await answer(functions, FunctionName("one", "live"))
        house.deploy("one")
        await functions.reload()
        await answer(functions, FunctionName("one", "live"))
        [pool] = (await functions.status("one"))["functions"]
        assert (pool["version"], pool["cold_starts"]) == (1, 1)


async def test_of_two_reloads_at_a_time_the_later_look_wins(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.deploy("one")
    async with house.running() as functions:
        look, looking, gate = functions.library.problems, threading.Event(), threading.Event()

        def slow_look() -> list[str]:
            if not looking.is_set():
                looking.set()
                gate.wait(PATIENCE_SECONDS)
            return look()

        monkeypatch.setattr(functions.library, "problems", slow_look)
        house.deploy("one")
        earlier = asyncio.create_task(functions.reload())
        await until(looking.is_set)
        house.deploy("one")
        later = asyncio.create_task(functions.reload())
        await asyncio.wait([later], timeout=0.2)  # it may be done, or wait for the other
        gate.set()
        await earlier
        await later
        assert house.exchanged[-1] == [("one", 3)]
        assert (await answer(functions))[1] == "3"


async def test_a_damaged_version_costs_only_its_own_function(house: House) -> None:
    house.deploy("one")
    house.deploy("two")
    (house.section.directory / "two" / "versions" / "1" / "manifest.json").write_text("{")
    async with house.running() as functions:
        assert (await answer(functions))[0] == 1
        [problem] = (await functions.status())["problems"]
        assert "two/versions/1/manifest.json" in problem


# -- workers ----------------------------------------------------------------------------------------------------------


async def test_a_pinned_function_has_a_worker_without_being_called(house: House) -> None:
    house.deploy("one", pinned=True)
    house.deploy("two")
    async with house.running() as functions:

        async def is_ready() -> bool:
            return [pool["ready"] for pool in (await functions.status())["functions"]] == [1]

        await until(is_ready)
        house.deploy("two", pinned=True)
        await functions.reload()
        assert sorted(pool["function"] for pool in (await functions.status())["functions"]) == ["one", "two"]


async def test_a_secret_is_a_variable_and_one_that_is_missing_keeps_a_worker_from_starting(house: House) -> None:
    house.deploy("one", environment_secrets={"SECRET": "token"})
    async with house.running() as functions:
        result = await functions.invoke(ONE, b"1")
        assert result.ending is Ending.THROTTLED
        assert b"token" in result.payload
        (house.directory / "secrets" / "token").write_text("sesame")

        async def is_started() -> bool:
            return (await functions.invoke(ONE, b"1")).ending is Ending.SUCCESS

        await until(is_started)
        assert (await answer(functions))[2] == "sesame"


async def test_workers_have_keys_of_their_own(house: House) -> None:
    code = "import os\n\ndef handler(event, context):\n    return os.environ['AWS_ACCESS_KEY_ID']\n"
    for name in ("one", "two"):
        house.deploy(name, code)
    async with house.running() as functions:
        keys = [await answer(functions, FunctionName(name)) for name in ("one", "two", "one")]
    assert keys[0] != keys[1]
    assert keys[0] == keys[2]  # the same worker


async def test_the_status_tells_of_layers_workers_and_queues_of_one_function_or_of_all(house: House) -> None:
    for name in ("one", "two"):
        house.deploy(name)
    async with house.running() as functions:
        for name in ("one", "two"):
            await functions.accept(FunctionName(name), b"1")
        await until(lambda: functions.queue.count == 0)
        status = await functions.status()
        assert status["sandbox"]["mode"] == "default"
        assert status["sandbox"]["seccomp"] == "holds"
        assert [pool["function"] for pool in status["functions"]] == ["one", "two"]
        assert [lane["function"] for lane in status["queues"]] == ["one", "two"]
        assert (status["queued_events"], status["queued_bytes"], status["problems"]) == (0, 0, [])
        of_two = await functions.status("two")
        assert [pool["function"] for pool in of_two["functions"]] == ["two"]
        assert [lane["function"] for lane in of_two["queues"]] == ["two"]
