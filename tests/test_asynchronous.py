"""An accepted event is run, tried again in time, and ends where its version says: nothing is lost on the way."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from core import queues
from core.commits import Barrier
from core.errors import StorageError
from functions.asynchronous import IN_FLIGHT_BYTES_MAX, IN_FLIGHT_LOW, IN_FLIGHT_MAX
from functions.errors import FunctionNotFound, InvalidParameter, RecursiveInvocation, Throttled, TooLarge
from functions.invocations import ASYNC_EVENT_BYTES_MAX, Ending, Invocation, Result
from functions.names import FunctionName
from functions.retries import DEPTH_MAX
from tests.invoking import ERROR, NOON_MS, Box, F, G, box, manifest

G_ARN = "arn:aws:lambda:us-east-1:000000000000:function:g"
QUEUE_ARN = "arn:aws:sqs:us-east-1:000000000000:failed"
TOPIC_ARN = "arn:aws:iot:us-east-1:000000000000:topic/plant/failures"
SNS_ARN = "arn:aws:sns:us-east-1:000000000000:alerts"


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Box]:
    async with box(tmp_path / "x.db") as made:
        yield made


async def buried(here: Box) -> list[tuple[str, str, str]]:
    """Function, condition and reason of every dead letter."""
    await here.commit()
    return [(each.function, each.condition, each.reason) for each in await here.functions.dead_letters()]


async def queued(here: Box, name: str = "failed") -> list[queues.Message]:
    await here.commit()
    return await here.store.run(lambda connection: queues.peek(connection, name, 1_000))


# -- accepting ---------------------------------------------------------------------------------------------------------


async def test_a_worker_has_an_event_in_the_turn_in_which_it_is_accepted(here: Box) -> None:
    told = here.call(b"1", client_context=b"{}", trace_id="Root=1")
    invocation = here.given[0][0]
    assert (invocation.id, invocation.payload, invocation.client_context) == (told, b"1", b"{}")
    assert (invocation.function, invocation.enqueued_ms, invocation.trace_id) == (F, NOON_MS, "Root=1")


async def test_what_is_not_accepted_leaves_nothing_behind(here: Box) -> None:
    with pytest.raises(FunctionNotFound):
        here.call(function=FunctionName("nobody"))
    with pytest.raises(TooLarge):
        here.call(b"x" * (ASYNC_EVENT_BYTES_MAX + 1))
    with pytest.raises(RecursiveInvocation):
        here.call(depth=DEPTH_MAX + 1)
    assert (here.given, here.queue.count, here.queue.bytes, here.queue.has_gathered) == ([], 0, 0, False)
    here.call(b"x" * ASYNC_EVENT_BYTES_MAX, depth=DEPTH_MAX)


async def test_a_worker_has_a_bounded_part_of_a_long_queue_and_gets_more_in_order(here: Box) -> None:
    payloads = [str(n).encode() for n in range(2 * IN_FLIGHT_MAX)]
    for payload in payloads:
        here.call(payload)
    assert here.in_hand == payloads[:IN_FLIGHT_MAX]
    done: list[bytes] = []
    while here.given:
        assert len(here.given) <= IN_FLIGHT_MAX
        done.append(here.answer().payload)
        if len(done) < len(payloads) - IN_FLIGHT_MAX:
            assert len(here.given) >= IN_FLIGHT_LOW
    assert done == payloads


async def test_a_worker_has_a_bounded_part_in_bytes_too_but_always_something(here: Box) -> None:
    payload = b"x" * ASYNC_EVENT_BYTES_MAX
    for _ in range(20):
        here.call(payload)
    done = 0
    while here.given:
        assert sum(map(len, here.in_hand)) <= IN_FLIGHT_BYTES_MAX
        here.answer()
        done += 1
    assert done == 20


async def test_one_function_that_does_not_answer_keeps_no_other_waiting(here: Box) -> None:
    for _ in range(IN_FLIGHT_MAX + 1):
        here.call()
    here.call(b"g", G)
    assert here.in_hand[-1] == b"g"


async def test_workers_that_answer_at_once_are_no_recursion(here: Box) -> None:
    for _ in range(5_000):
        here.call()
    taken: list[Invocation] = []

    def at_once(invocation: Invocation, done: Any) -> None:
        taken.append(invocation)
        done(Result(Ending.REFUSED, ERROR))

    here.functions._submit = at_once
    while here.given:
        here.answer()
    async with asyncio.timeout(20):
        while len(taken) < 5_000 - IN_FLIGHT_MAX:
            await here.commit()
    assert here.functions.status()[0].in_flight == 0


# -- trying again ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [Ending.ERROR, Ending.TIMEOUT, Ending.CRASH])
async def test_a_failure_is_tried_twice_more_after_one_and_two_minutes(here: Box, ending: Ending) -> None:
    told = here.call()
    here.fail(ending)
    here.look(59)
    assert here.given == []
    here.look(2)
    assert here.given[0][0].attempts == 1
    here.fail(ending)
    here.look(119)
    assert here.given == []
    here.look(2)
    assert here.fail(ending).id == told
    assert here.given == []
    assert await buried(here) == [("f", "RetriesExhausted", "")]
    assert here.queue.count == 0


async def test_retries_that_are_due_together_come_in_their_order(here: Box) -> None:
    payloads = [str(n).encode() for n in range(3 * IN_FLIGHT_MAX)]
    for payload in payloads:
        here.call(payload)
    for _ in payloads:
        here.fail()
    here.look(61)
    done: list[bytes] = []
    while here.given:
        done.append(here.answer().payload)
    assert done == payloads


async def test_a_retry_comes_by_itself(here: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("functions.retries.ERROR_WAIT_MS", 1)
    here.call()
    here.fail()
    here.clock.go(1)
    async with asyncio.timeout(20):
        while not here.given:  # noqa: ASYNC110 - the timer knows nothing of tests
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("step", [-20 * 365 * 86_400_000, 20 * 365 * 86_400_000])
async def test_a_clock_that_is_set_makes_no_event_old_and_no_retry_late(here: Box, step: int) -> None:
    here.call()
    here.fail()
    here.clock.step(step)
    here.look(61)
    assert len(here.given) == 1
    here.fail()
    await here.commit()
    here.clock.step(-step)
    await here.commit()
    here.look(121)
    here.answer()
    assert await buried(here) == []


async def test_an_event_does_not_become_too_old_by_a_box_that_boots_in_1970(here: Box) -> None:
    here.call()
    await here.commit()
    here.clock.wall_ms = 60_000
    await here.restart(boot=True)
    here.clock.step(NOON_MS)  # NTP
    assert here.fail(Ending.THROTTLED).attempts == 0
    here.look(2)
    assert len(here.given) == 1


async def test_while_the_box_was_off_an_event_became_older(here: Box) -> None:
    here.call()
    await here.commit()
    here.clock.go(7 * 3_600)
    await here.restart(boot=True)
    assert here.given == []
    assert await buried(here) == [("f", "EventAgeExceeded", "")]


async def test_a_function_without_workers_waits_in_order_and_counts_no_attempts(here: Box) -> None:
    for n in range(4):
        here.call(str(n).encode())
    for _ in range(4):
        here.fail(Ending.THROTTLED)
    here.call(b"4")
    assert here.given == []
    assert here.functions.status()[0].paused
    here.look(1.01)
    assert here.in_hand == [b"0", b"1", b"2", b"3", b"4"]
    assert {invocation.attempts for invocation, _ in here.given} == {0}
    while here.given:
        here.fail(Ending.THROTTLED)
    here.look(1.01)
    assert here.given == []
    here.look(1)
    assert len(here.given) == 5


async def test_a_deploy_wakes_what_waits(here: Box) -> None:
    here.call(b"1")
    for _ in range(12):
        here.fail(Ending.THROTTLED)
        here.functions.wake()
    assert here.in_hand == [b"1"]


async def test_events_that_waited_too_long_go_where_failures_go(here: Box) -> None:
    here.manifests["f"] = manifest(max_age=60, on_failure=QUEUE_ARN)
    here.call(b"1")
    here.fail(Ending.THROTTLED)
    for _ in range(10):
        here.look(10)
        if here.given:
            here.fail(Ending.THROTTLED)
    assert here.given == []
    (message,) = await queued(here)
    told = orjson.loads(message.body)
    assert told["requestContext"]["condition"] == "EventAgeExceeded"
    assert told["requestContext"]["approximateInvokeCount"] == 0


async def test_a_function_that_is_switched_off_fails_at_once(here: Box) -> None:
    here.manifests["f"] = manifest(concurrency=0, dead_letter=QUEUE_ARN)
    here.call(b"1")
    here.fail(Ending.THROTTLED)
    (message,) = await queued(here)
    assert (message.body, message.attributes["ErrorCode"]) == (b"1", ("Number", "429"))


async def test_events_go_to_the_version_that_is_current_when_they_are_taken(here: Box) -> None:
    here.manifests["f"] = manifest(on_success=G_ARN)
    here.call()
    here.manifests["f"] = manifest(on_success=TOPIC_ARN)
    here.answer(payload=b"7")
    assert [(topic, told["responsePayload"]) for topic, told in here.published] == [("plant/failures", 7)]


async def test_a_full_queue_that_ends_leaves_turns_to_others(here: Box) -> None:
    for _ in range(4_000):
        here.call()
    while here.given:
        here.given.pop()[1](Result(Ending.THROTTLED))
    here.manifests["f"] = manifest(on_failure=TOPIC_ARN, max_age=60)
    here.clock.go(61)
    here.functions.wake()
    turns = [len(here.published)]
    async with asyncio.timeout(20):
        while len(here.published) < 4_000:
            await asyncio.sleep(0)
            turns.append(len(here.published))
    assert max(after - before for before, after in itertools.pairwise([0, *turns])) <= IN_FLIGHT_MAX


async def test_events_of_a_function_that_was_removed_are_dead_letters(here: Box) -> None:
    here.call(b"1")
    here.call(b"2")
    del here.manifests["f"]
    here.fail(Ending.REFUSED)
    here.answer()
    assert await buried(here) == [("f", "RetriesExhausted", "")]


async def test_when_the_daemon_ends_what_its_workers_leave_unfinished_is_no_attempt(here: Box) -> None:
    here.call(b"1")
    here.call(b"2")
    await here.commit()
    here.functions.close()
    here.fail(Ending.CRASH)
    here.answer()
    await here.commit()
    await here.restart()
    assert [(invocation.payload, invocation.attempts) for invocation, _ in here.given] == [(b"1", 0)]


async def test_a_pool_that_has_lost_the_function_or_its_sandbox_loses_no_event(here: Box) -> None:
    def gone(invocation: Invocation, done: Any) -> None:
        raise FunctionNotFound("version 7 is gone")

    def closed(invocation: Invocation, done: Any) -> None:
        raise Throttled("no sandbox")

    here.functions._submit = closed
    here.call(b"1")
    here.functions._submit = gone
    here.look(2)
    assert [row[:2] for row in await buried(here)] == [("f", "RetriesExhausted")]


async def test_a_version_that_cannot_be_read_for_a_moment_costs_no_event(
    here: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.manifests["f"] = manifest(on_success=QUEUE_ARN)
    here.call(b"1")
    here.call(b"2")

    def unreadable(name: FunctionName) -> Any:
        raise StorageError("the card is gone")

    here.answer()
    monkeypatch.setattr(here.functions, "_manifest", unreadable)
    here.answer()
    assert len(await queued(here)) == 2
    with pytest.raises(StorageError):
        here.call(b"3")
    assert here.queue.count == 0


# -- destinations ------------------------------------------------------------------------------------------------------


def told_by(message: bytes) -> Any:
    made = orjson.loads(message)
    return made["requestContext"]["condition"], made["requestPayload"], made["responsePayload"]


@pytest.mark.parametrize("ending", [Ending.SUCCESS, Ending.ERROR])
@pytest.mark.parametrize("target", [G_ARN, QUEUE_ARN, TOPIC_ARN])
async def test_a_destination_is_told_in_the_commit_in_which_the_event_ends(
    here: Box, ending: Ending, target: str
) -> None:
    here.manifests["f"] = manifest(retries=0, on_success=target, on_failure=target)
    here.call(b'{"t":1}')
    await here.commit()
    here.answer(ending, b'{"r":2}')
    if target == G_ARN:
        assert told_by(here.in_hand[0])[1:] == ({"t": 1}, {"r": 2})
        await here.commit()
        await here.restart()
        (payload,) = here.in_hand
    elif target == QUEUE_ARN:
        (message,) = await queued(here)
        payload = message.body
    else:
        payload = orjson.dumps(here.published[0][1])
        await here.commit()
    expected = "Success" if ending is Ending.SUCCESS else "RetriesExhausted"
    assert told_by(payload) == (expected, {"t": 1}, {"r": 2})
    assert await buried(here) == []
    await here.restart()
    assert here.given == [] or here.given[0][0].function == G


async def test_before_that_commit_a_crash_finds_the_event_as_it_was(here: Box) -> None:
    here.manifests["f"] = manifest(retries=0, on_failure=G_ARN, dead_letter=QUEUE_ARN)
    here.call(b"1")
    await here.commit()
    here.fail()
    await here.restart()
    assert here.in_hand == [b"1"]
    assert await queued(here) == []


async def test_a_version_may_have_a_dead_letter_queue_and_a_destination(here: Box) -> None:
    here.manifests["f"] = manifest(retries=0, on_failure=TOPIC_ARN, dead_letter=QUEUE_ARN)
    told = here.call(b"\xff not JSON")
    here.fail()
    (message,) = await queued(here)
    assert message.body == b"\xff not JSON"
    assert message.attributes == {
        "RequestID": ("String", told), "ErrorCode": ("Number", "200"), "ErrorMessage": ("String", "no"),
    }  # fmt: skip
    assert len(here.published) == 1
    assert await buried(here) == []


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("arn:aws:lambda:us-east-1:000000000000:function:nobody", "nobody"),
        ("arn:aws:events:us-east-1:000000000000:event-bus/default", "no event bus"),
        (SNS_ARN, "no SNS topics"),
        ("arn:aws:s3:::bucket", "no destination"),
        ("arn:aws:sqs:us-east-1:000000000000:???", "names no queue"),
        ("what is this", "no name"),
    ],
)
async def test_what_cannot_be_delivered_is_a_dead_letter_with_the_reason(here: Box, target: str, reason: str) -> None:
    here.manifests["f"] = manifest(retries=0, on_failure=target, on_success=target)
    here.call(b"1")
    here.call(b"2")
    here.fail()
    here.answer()
    found = await buried(here)
    assert [row[:2] for row in found] == [("f", "RetriesExhausted"), ("f", "Success")]
    assert all(target in row[2] and reason in row[2] for row in found)
    assert here.counters.value("functions_dead_letters_total", function="f") == 2


async def test_a_full_destination_loses_nothing(here: Box) -> None:
    here.manifests |= {"f": manifest(retries=0, on_failure=QUEUE_ARN), "g": manifest("g", queue_events=1)}
    settings = queues.Settings(messages_max=1)
    await here.store.run(lambda connection: queues.configure(connection, "failed", settings))
    for n in (b"1", b"2"):
        here.call(n)
        here.fail()
    assert len(await queued(here)) == 1
    here.manifests["f"] = manifest(on_success=G_ARN)
    for n in (b"3", b"4"):
        here.call(n)
        here.answer(place=len(here.given) - 1)
    reasons = [row[2] for row in await buried(here)]
    assert [("failed is full" in reason, "g is full" in reason) for reason in reasons] == [(True, False), (False, True)]


async def test_a_record_that_is_too_large_is_kept_with_its_event(here: Box) -> None:
    here.manifests["f"] = manifest(retries=0, on_success=QUEUE_ARN)
    here.call(b'"1"')
    here.answer(payload=b'"' + b"x" * (1 << 20) + b'"')
    ((_, _, reason),) = await buried(here)
    assert "takes 1,048,576" in reason
    assert (await here.functions.dead_letter(1)).payload == b'"1"'


async def test_functions_that_call_each_other_for_ever_are_stopped(here: Box) -> None:
    here.manifests |= {"f": manifest(on_success=G_ARN), "g": manifest("g", on_success=G_ARN.replace(":g", ":f"))}
    here.call(b"1")
    turns = 0
    while here.given:
        here.answer()
        turns += 1
    assert turns == DEPTH_MAX + 1
    ((_, _, reason),) = await buried(here)
    assert f"called each other {DEPTH_MAX} times" in reason


async def test_the_depth_of_a_chain_survives_a_crash(here: Box) -> None:
    here.manifests["f"] = manifest(on_success=G_ARN)
    here.call(b"1", depth=DEPTH_MAX)
    await here.commit()
    await here.restart()
    here.answer()
    assert "called each other" in (await buried(here))[0][2]


async def test_an_sns_topic_is_written_in_the_same_transaction_where_there_are_any(tmp_path: Path) -> None:
    def notify(connection: Any, arn: str, body: bytes, attributes: Any) -> None:
        connection.execute("INSERT INTO told VALUES (?, ?)", (arn, body))
        if b'"bad"' in body:
            raise InvalidParameter("no such topic")

    async with box(tmp_path / "x.db", notify=notify) as here:
        await here.execute("CREATE TABLE told(arn, body)")
        here.manifests["f"] = manifest(retries=0, on_success=SNS_ARN, dead_letter=SNS_ARN)
        here.call(b"1")
        here.call(b'"bad"')
        here.call(b'"dead"')
        here.answer()
        here.answer()
        here.fail()
        await here.commit()
        rows = await here.store.run(lambda c: c.execute("SELECT arn, body FROM told").fetchall())
        assert [arn for arn, _ in rows] == [SNS_ARN] * 2
        assert told_by(rows[0][1]) == ("Success", 1, None)
        assert rows[1][1] == b'"dead"'
        ((_, condition, reason),) = await buried(here)
        assert (condition, "no such topic" in reason) == ("Success", True)


async def test_a_fault_in_publishing_loses_no_event(tmp_path: Path) -> None:
    async with box(tmp_path / "x.db", fault=RuntimeError("a bug")) as here:
        here.manifests["f"] = manifest(on_success=TOPIC_ARN)
        here.call()
        here.answer()
        assert "a bug" in (await buried(here))[0][2]


@pytest.mark.parametrize("kept", [True, False])
async def test_an_event_ends_when_the_message_about_it_is_kept_and_not_before(tmp_path: Path, kept: bool) -> None:
    async with box(tmp_path / "x.db", kept=Barrier()) as here:
        assert here.kept is not None
        here.manifests["f"] = manifest(retries=0, on_failure=TOPIC_ARN, dead_letter=QUEUE_ARN)
        here.call(b"1")
        here.fail()
        await here.commit()
        assert (here.queue.count, await queued(here)) == (1, [])
        here.kept.settle(kept=kept)
        assert len(await queued(here)) == 1
        lost = [] if kept else [f"{TOPIC_ARN}: nobody keeps the message"]
        assert [reason for _, _, reason in await buried(here)] == lost
        assert here.queue.count == 0


async def test_a_message_that_nobody_has_kept_yet_costs_no_event_in_a_crash(tmp_path: Path) -> None:
    async with box(tmp_path / "x.db", kept=Barrier()) as here:
        here.manifests["f"] = manifest(on_success=TOPIC_ARN)
        here.call(b"1")
        await here.commit()
        here.answer()
        await here.commit()
        await here.restart()
        assert here.in_hand == [b"1"]


# -- dead letters ------------------------------------------------------------------------------------------------------


async def test_a_dead_letter_is_tried_again_as_a_new_event_and_is_none_any_more(here: Box) -> None:
    here.manifests["f"] = manifest(retries=0)
    first = here.call(b"1", client_context=b"{}")
    here.fail()
    await here.commit()
    (letter,) = await here.functions.dead_letters("f")
    assert (letter.request, letter.attempts, letter.at, letter.bytes) == (first, 1, NOON_MS, 1)
    contents = await here.functions.dead_letter(letter.id)
    assert (contents.payload, contents.response) == (b"1", ERROR)
    second = await here.functions.replay(letter.id)
    assert second != first
    assert await here.functions.dead_letters() == []
    await here.restart()
    assert [(i.id, i.payload, i.client_context, i.attempts) for i, _ in here.given] == [(second, b"1", b"{}", 0)]


async def test_a_dead_letter_that_cannot_be_tried_again_stays(here: Box) -> None:
    here.call(b"1")
    here.fail(Ending.REFUSED)
    await here.commit()
    del here.manifests["f"]
    with pytest.raises(FunctionNotFound):
        await here.functions.replay(1)
    assert len(await here.functions.dead_letters()) == 1
    await here.functions.drop(1)
    for refused in (here.functions.drop(1), here.functions.replay(1), here.functions.dead_letter(1)):
        with pytest.raises(InvalidParameter, match="no dead letter 1"):
            await refused


async def test_status_tells_what_each_function_holds(here: Box) -> None:
    here.call(b"1")
    here.call(b"2")
    here.fail()
    (status,) = here.functions.status()
    assert (status.function, status.held, status.in_flight, status.waiting, status.retrying) == ("f", 2, 1, 0, 1)
    here.clock.go(5)
    here.fail(Ending.THROTTLED)
    (status,) = here.functions.status()
    assert (status.paused, status.waiting, status.oldest_ms) == (True, 1, 5_000)


async def test_an_idle_function_is_forgotten(here: Box) -> None:
    here.call()
    here.answer()
    here.functions.wake()
    assert here.functions.status() == []
