"""A function is given a queue's messages as Lambda gives those of SQS, and what it did not do stays in the queue."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core import queues
from core.queues import Message, Settings
from functions.errors import FunctionNotFound
from functions.invocations import EVENT_BYTES_MAX, Ending, Invocation, Result
from functions.manifest import QueueSettings, QueueSource
from functions.polling import Polling, Source, event, failures, sources
from tests.invoking import NOON_MS, Box, F, box, manifest

ARN = "arn:aws:sqs:eu-west-1:123456789012:orders"


def message(n: int, body: bytes = b"x") -> Message:
    return Message(n, "orders", f"id-{n}", NOON_MS, 2, NOON_MS + 1, body, {})


def succeeded(payload: bytes) -> Result:
    return Result(Ending.SUCCESS, payload)


# -- documents ---------------------------------------------------------------------------------------------------------


def test_the_event_is_the_one_of_the_developer_guide() -> None:
    given = Message(7, "orders", "059f36b4", NOON_MS, 1, NOON_MS + 1, b"Test message.", {
        "colour": ("String", "red"), "raw": ("Binary", "AAE="),
    })  # fmt: skip
    assert json.loads(event([given], ARN)) == {
        "Records": [
            {
                "messageId": "059f36b4",
                "receiptHandle": "7-1",
                "body": "Test message.",
                "attributes": {
                    "ApproximateReceiveCount": "1",
                    "SentTimestamp": str(NOON_MS),
                    "SenderId": "000000000000",
                    "ApproximateFirstReceiveTimestamp": str(NOON_MS + 1),
                },
                "messageAttributes": {
                    "colour": {"stringValue": "red", "stringListValues": [], "binaryListValues": [],
                               "dataType": "String"},
                    "raw": {"binaryValue": "AAE=", "stringListValues": [], "binaryListValues": [],
                            "dataType": "Binary"},
                },
                "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
                "eventSource": "aws:sqs",
                "eventSourceARN": ARN,
                "awsRegion": "eu-west-1",
            }
        ]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("payload", "failed"),
    [
        (b'{"batchItemFailures": [{"itemIdentifier": "id-2"}]}', {"id-2"}),
        (b'{"batchItemFailures": []}', set()),
        (b'{"batchItemFailures": null}', set()),
        (b"{}", set()),
        (b"null", set()),
        (b"", set()),
        (b'{"batchItemFailures": [{"itemIdentifier": ""}]}', {"id-1", "id-2"}),
        (b'{"batchItemFailures": [{"itemIdentifier": null}]}', {"id-1", "id-2"}),
        (b'{"batchItemFailures": [{"itemIdentifier": "another"}]}', {"id-1", "id-2"}),
        (b'{"batchItemFailures": [{"id": "id-1"}]}', {"id-1", "id-2"}),
        (b'{"batchItemFailures": 7}', {"id-1", "id-2"}),
        (b'"a text"', {"id-1", "id-2"}),
        (b"no JSON", {"id-1", "id-2"}),
    ],
)
def test_a_handler_says_which_messages_failed_and_if_it_speaks_unclearly_all_did(
    payload: bytes, failed: set[str]
) -> None:
    assert failures([message(1), message(2)], succeeded(payload), reported=True) == failed
    assert failures([message(1), message(2)], succeeded(payload), reported=False) == set()


@pytest.mark.parametrize("ending", [ending for ending in Ending if ending is not Ending.SUCCESS])
@pytest.mark.parametrize("reported", [True, False])
def test_when_a_handler_fails_all_messages_did(ending: Ending, reported: bool) -> None:
    result = Result(ending, b'{"batchItemFailures": []}')
    assert failures([message(1)], result, reported=reported) == {"id-1"}


@pytest.mark.parametrize(
    ("size", "window", "batch"), [(10, 0.0, 10), (100, 0.0, 10), (100, 0.5, 10), (100, 1.0, 100), (3, 300.0, 3)]
)
def test_a_large_batch_needs_a_window(size: int, window: float, batch: int) -> None:
    assert Source(F, manifest(), QueueSource(queue=ARN, batch_size=size, window=window)).batch == batch


@pytest.mark.parametrize("queue", [ARN, "orders", "https://sqs.eu-west-1.amazonaws.com/123456789012/orders"])
def test_a_queue_may_be_an_arn_a_url_or_a_name(queue: str) -> None:
    source = Source(F, manifest(), QueueSource(queue=queue))
    assert source.queue == "orders"
    assert source.arn == (ARN if queue == ARN else "arn:aws:sqs:us-east-1:000000000000:orders")


# -- polling -----------------------------------------------------------------------------------------------------------


@dataclass
class Line:
    """A box whose function polls `orders`; the test is the worker."""

    box: Box
    polling: Polling
    submit: Callable[[Invocation, Callable[[Result], None]], None]

    async def send(self, *bodies: bytes) -> None:
        def write(connection: Any) -> None:
            for body in bodies:
                queues.send(connection, "orders", body, self.box.queue.timeline.now, NOON_MS)

        await self.box.store.run(write)
        self.polling.sent("orders")

    async def configure(self, **options: Any) -> None:
        await self.box.store.run(lambda c: queues.configure(c, "orders", Settings(**options)))

    async def batch(self) -> list[str]:
        """The bodies of the next batch that a worker is given."""
        async with asyncio.timeout(20):
            while not self.box.given:  # noqa: ASYNC110 - a poller knows nothing of tests
                await asyncio.sleep(0.001)
        return [record["body"] for record in json.loads(self.box.in_hand[0])["Records"]]

    async def left(self, count: int) -> None:
        """Wait until the queue holds so many messages."""
        async with asyncio.timeout(20):
            while await self.held() != count:  # noqa: ASYNC110 - it happens on the disk
                await asyncio.sleep(0.001)

    async def held(self) -> int:
        return sum(t.messages for t in await self.box.store.run(lambda c: queues.totals(c, 0)) if t.queue == "orders")

    async def pass_time(self, seconds: float) -> None:
        """Time passes, and pollers look."""
        await asyncio.sleep(0.01)  # they are waiting by then, or look later and see it all the same
        self.box.clock.go(seconds)
        self.polling.sent("orders")

    def poll(self, **options: Any) -> None:
        version = self.box.manifests["f"]
        self.polling.replace([Source(F, version, QueueSource(**{"queue": ARN, **options}))])


@asynccontextmanager
async def line(path: Path, **options: Any) -> AsyncIterator[Line]:
    async with box(path) as made:
        made.manifests["f"] = manifest(concurrency=options.pop("concurrency", 1), timeout=options.pop("timeout", 3))
        polling = Polling(made.commits, made._submit, made.counters, made.queue.timeline)
        here = Line(made, polling, made._submit)
        here.poll(**options)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(polling.run())
            yield here
            task.cancel()


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Line]:
    async with line(tmp_path / "x.db") as made:
        yield made


async def test_messages_are_given_in_batches_and_deleted_when_the_handler_is_content(here: Line) -> None:
    await here.send(*[str(n).encode() for n in range(12)])
    assert await here.batch() == [str(n) for n in range(10)]
    assert here.box.given[0][0].function == F
    here.box.answer()
    await here.left(2)
    assert await here.batch() == ["10", "11"]
    here.box.answer()
    await here.left(0)


async def test_messages_of_a_batch_that_failed_come_again_after_the_visibility_time_out(here: Line) -> None:
    await here.send(b"1", b"2")
    await here.batch()
    here.box.fail()
    await here.pass_time(29)
    await here.send(b"3")
    assert await here.batch() == ["3"]
    here.box.answer()
    await here.left(2)
    await here.pass_time(1.1)
    assert await here.batch() == ["1", "2"]
    records = json.loads(here.box.in_hand[0])["Records"]
    assert {record["attributes"]["ApproximateReceiveCount"] for record in records} == {"2"}


async def test_a_handler_may_report_the_messages_that_failed(tmp_path: Path) -> None:
    async with line(tmp_path / "x.db", report_failures=True) as here:
        await here.send(b"1", b"2", b"3")
        await here.batch()
        failed = json.loads(here.box.in_hand[0])["Records"][1]["messageId"]
        here.box.answer(payload=json.dumps({"batchItemFailures": [{"itemIdentifier": failed}]}).encode())
        await here.left(1)
        assert here.box.counters.value("functions_messages_failed_total", function="f") == 1
        await here.pass_time(31)
        assert await here.batch() == ["2"]


async def test_a_message_that_fails_too_often_goes_to_the_dead_letter_queue(here: Line) -> None:
    await here.configure(max_receives=2, dead_letter="dead")
    await here.send(b"poison")
    for _ in range(2):
        await here.batch()
        here.box.fail(Ending.CRASH)
        await here.pass_time(31)
    await here.left(0)
    dead = await here.box.store.run(lambda c: queues.peek(c, "dead"))
    assert [message.body for message in dead] == [b"poison"]


async def test_when_no_worker_is_to_be_had_messages_are_visible_again_at_once(
    here: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("functions.polling.RETRY_SECONDS", 0.001)
    await here.send(b"1")
    for _ in range(3):
        assert await here.batch() == ["1"]
        here.box.fail(Ending.THROTTLED)
    assert await here.batch() == ["1"]
    here.box.answer()
    await here.left(0)


async def test_a_function_that_is_gone_takes_no_message_with_it(
    here: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("functions.polling.RETRY_SECONDS", 0.001)

    def gone(invocation: Invocation, done: Any) -> None:
        raise FunctionNotFound("gone")

    here.polling._submit = gone
    await here.send(b"1")
    await asyncio.sleep(0.05)
    assert await here.held() == 1
    here.polling._submit = here.submit
    assert await here.batch() == ["1"]


async def test_a_window_gathers_until_the_batch_is_full(tmp_path: Path) -> None:
    async with line(tmp_path / "x.db", batch_size=3, window=300.0) as here:
        await here.send(b"1")
        await here.send(b"2")
        assert here.box.given == []
        await here.send(b"3", b"4")
        assert await here.batch() == ["1", "2", "3"]


async def test_a_window_ends_in_time(tmp_path: Path) -> None:
    async with line(tmp_path / "x.db", batch_size=3, window=0.02) as here:
        await here.send(b"1")
        assert await here.batch() == ["1"]


async def test_several_workers_have_several_batches(tmp_path: Path) -> None:
    async with line(tmp_path / "x.db", concurrency=3, batch_size=1) as here:
        await here.send(b"1", b"2", b"3", b"4")
        async with asyncio.timeout(20):
            while len(here.box.given) < 3:  # noqa: ASYNC110 - a poller knows nothing of tests
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        assert len(here.box.given) == 3


async def test_a_slow_function_is_not_given_a_message_twice_at_a_time(tmp_path: Path) -> None:
    async with line(tmp_path / "x.db", concurrency=2, timeout=100) as here:
        await here.send(b"1")
        await here.batch()
        await here.pass_time(599)
        await here.send(b"2")
        async with asyncio.timeout(20):
            while len(here.box.given) < 2:  # noqa: ASYNC110 - a poller knows nothing of tests
                await asyncio.sleep(0.001)
        assert b'"body":"2"' in here.box.in_hand[1]
        assert b'"body":"1"' not in here.box.in_hand[1]


async def test_a_batch_that_would_be_too_large_an_event_is_given_in_parts(here: Line) -> None:
    body = b"\x01" * 700_000  # six characters each, in JSON
    await here.send(body, body, b"small")
    assert len((await here.batch())[0]) == 700_000
    assert len(here.box.in_hand[0]) <= EVENT_BYTES_MAX
    here.box.answer()
    await here.left(2)
    assert (await here.batch())[1] == "small"
    here.box.answer()
    await here.left(0)


async def test_after_a_restart_messages_that_nobody_finished_come_at_once(tmp_path: Path) -> None:
    async with line(tmp_path / "x.db") as here:
        await here.send(b"1")
        await here.batch()
    async with line(tmp_path / "x.db") as here:
        assert await here.batch() == ["1"]


async def test_a_reload_changes_the_sources_and_finishes_what_is_in_hand(here: Line) -> None:
    await here.send(b"1")
    await here.batch()
    here.polling.replace([])
    here.box.answer()
    await here.left(0)
    await here.send(b"2")
    await asyncio.sleep(0.02)
    assert here.box.given == []
    here.poll(batch_size=1)
    assert await here.batch() == ["2"]


async def test_a_source_that_cannot_be_used_harms_no_other(here: Line) -> None:
    version = here.box.manifests["f"]
    bad = Source(F, version, QueueSource(queue="no queue!"))
    here.polling.replace([bad, Source(F, version, QueueSource(queue=ARN))])
    await here.send(b"1")
    assert await here.batch() == ["1"]


def test_disabled_sources_are_not_polled() -> None:
    on, off = QueueSource(queue="a"), QueueSource(queue="b", enabled=False)
    assert [source.source for source in sources(F, manifest(queues=(on, off)))] == [on]


async def test_a_queue_gets_the_settings_that_its_template_has(here: Line) -> None:
    await here.configure(messages_max=7)
    here.poll(settings=QueueSettings(visibility=90, max_receives=5, dead_letter="arn:aws:sqs:us-east-1:0:dead"))
    found = await here.box.store.run(lambda connection: queues.settings(connection, "orders"))
    assert found == Settings(visibility=90_000, max_receives=5, dead_letter="dead", messages_max=7)
