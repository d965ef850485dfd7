"""The uplink against a cloud of the test's own: the real broker on a real socket, and an answer for each frame."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from core import frames
from core.config import HostPort, Listener
from core.message import Message
from core.mqtt.broker import Broker
from core.mqtt.limits import Limits
from core.mqtt.listener import Listeners
from core.receipts import STORED, Batch, Outcome, Receipt, rejected
from core.service import end
from core.telemetry import Counters
from devices.access import OpenAccess
from edge.buffer import Buffer
from edge.config import LaneSection, UplinkSection
from edge.lanes import Order
from edge.uplink import FRAME_BLOCK_BYTES, Uplink


class FarEnd:
    """A cloud that answers each frame with what `decide(number of the frame)` says; by default that it is stored."""

    def __init__(self) -> None:
        self.frames: list[tuple[frames.Header, list[Message]]] = []
        self.decide: Callable[[int], Outcome | None] = lambda _: STORED
        self.held: list[Receipt] = []
        self.listeners = Listeners(Broker(OpenAccess(frames.TOPIC_ROOT), self._accept, Counters(), Limits(256 << 10)))

    async def open(self, port: int = 0) -> int:
        bound = await self.listeners.open(Listener(address=HostPort("127.0.0.1", port), anonymous=True))
        assert isinstance(bound, HostPort)
        return bound.port

    def _accept(self, batch: Batch) -> None:
        outcomes: dict[int, Outcome] = {}
        for index, message in enumerate(batch.messages):
            if not message.topic.startswith(frames.TOPIC_ROOT):
                continue  # the broker's own events
            assert len(message.payload) <= frames.FRAME_MAX_BYTES
            outcome = self.decide(len(self.frames))
            self.frames.append(frames.decode(message.payload))
            if outcome is None:
                self.held.append(batch.receipt)
                return
            outcomes[index] = outcome
        batch.receipt.settle(STORED, outcomes)

    def numbers(self, lane: str = "telemetry") -> list[int]:
        """The sequence numbers that came, in order."""
        return [n for header, _ in self.frames if header.lane == lane for n in range(header.first, header.last + 1)]


LANES = (
    LaneSection(name="alarms", topics=("alarm/#",), priority=0),
    LaneSection(name="telemetry", topics=("#",)),
)


@asynccontextmanager
async def draining(
    tmp: Path, port: int, *, linger: float = 0.01, lanes: tuple[LaneSection, ...] = LANES
) -> AsyncIterator[tuple[Buffer, Uplink]]:
    """A buffer and its uplink to `port`, running."""
    config = UplinkSection(url=f"mqtt://127.0.0.1:{port}", linger=linger, lanes=lanes)
    buffer = await Buffer.open(tmp / "buffer.db", [lane.lane() for lane in lanes], Counters())
    uplink = Uplink("box", config, None, buffer, Counters())
    buffer.changed = uplink.wake
    async with asyncio.TaskGroup() as group:
        task = group.create_task(uplink.run())
        yield buffer, uplink
        await end([task])
    await buffer.close()


async def store(buffer: Buffer, count: int, lane: str = "telemetry", payload: bytes = b"{}") -> None:
    """Put messages into a lane and wait for the commit."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    messages = [Message(f"{lane}/x", payload, 1, received_at=1) for _ in range(count)]
    for message in messages:
        assert buffer.add(buffer.lanes[lane].lane, message) is None
    buffer.commit(Batch(messages, Receipt(lambda _: done.set_result(None))), {})
    await done


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def test_what_the_cloud_has_acknowledged_leaves_the_buffer_in_order(tmp_path: Path) -> None:
    far = FarEnd()
    async with draining(tmp_path, await far.open()) as (buffer, _):
        for _ in range(20):
            await store(buffer, 100)
        await until(lambda: buffer.lanes["telemetry"].count == 0)
    assert far.numbers() == list(range(1, 2_001))
    await far.listeners.close()


async def test_what_the_cloud_refuses_for_now_stays_and_is_sent_again(tmp_path: Path) -> None:
    far = FarEnd()
    far.decide = lambda number: STORED if number else rejected("disk full", 0x97)
    async with draining(tmp_path, await far.open()) as (buffer, _):
        await store(buffer, 10)
        await until(lambda: buffer.lanes["telemetry"].count == 0)
    assert far.numbers() == [*range(1, 11), *range(1, 11)]
    await far.listeners.close()


async def test_a_frame_that_the_cloud_cannot_read_holds_up_nothing_and_is_not_deleted(tmp_path: Path) -> None:
    far = FarEnd()
    far.decide = lambda number: STORED if number else rejected("format", 0x99)
    async with draining(tmp_path, await far.open()) as (buffer, _):
        await store(buffer, 1)
        await until(lambda: len(far.frames) == 1)
        await store(buffer, 5)
        await until(lambda: buffer.lanes["telemetry"].count == 1)
    assert far.numbers() == [1, 2, 3, 4, 5, 6]
    await far.listeners.close()


async def test_messages_that_nobody_can_read_again_are_counted_as_lost_and_take_no_others_with_them(
    tmp_path: Path,
) -> None:
    far = FarEnd()
    buffer = await Buffer.open(tmp_path / "buffer.db", [lane.lane() for lane in LANES], Counters())
    await store(buffer, 10)
    buffer.lanes["telemetry"].pending += [Message("/" * 130, b"", 1, received_at=1)] * 3  # no topic has so many levels
    await store(buffer, 0)
    await store(buffer, 10)
    await buffer.close()
    async with draining(tmp_path, await far.open()) as (reopened, _):
        await until(lambda: reopened.lanes["telemetry"].count == 0)
        await store(reopened, 1)
        await until(lambda: reopened.lanes["telemetry"].count == 0)
        assert reopened._counters.value("dropped_total", reason="damaged on disk") == 3
    assert sorted(far.numbers()) == [*range(1, 11), *range(14, 25)]
    await far.listeners.close()


async def test_nothing_is_deleted_before_it_is_acknowledged(tmp_path: Path) -> None:
    far = FarEnd()
    far.decide = lambda _: None
    async with draining(tmp_path, await far.open()) as (buffer, _):
        await store(buffer, 50)
        await until(lambda: bool(far.held))
        assert buffer.lanes["telemetry"].count == 50
        far.held[0].settle(STORED)
        await until(lambda: buffer.lanes["telemetry"].count == 0)
    await far.listeners.close()


async def test_several_frames_are_under_way_at_once_and_no_more_than_the_window(tmp_path: Path) -> None:
    far = FarEnd()
    far.decide = lambda _: None
    async with draining(tmp_path, await far.open()) as (buffer, _):
        for _ in range(12):
            await store(buffer, 1, payload=bytes(range(256)) * 400)
            await asyncio.sleep(0.02)
        await until(lambda: len(far.frames) == 8)
        await asyncio.sleep(0.1)
        assert len(far.frames) == 8
        far.decide = lambda _: STORED
        for receipt in far.held:
            receipt.settle(STORED)
        await until(lambda: buffer.lanes["telemetry"].count == 0)
    await far.listeners.close()


async def test_a_lost_connection_sends_again_what_was_not_acknowledged(tmp_path: Path) -> None:
    first = FarEnd()
    first.decide = lambda _: None
    port = await first.open()
    async with draining(tmp_path, port) as (buffer, _):
        await store(buffer, 300)
        await until(lambda: sum(header.count for header, _ in first.frames) == 300)
        for channel in list(first.listeners.channels):
            channel._transport.abort()
        first.decide = lambda _: STORED
        await until(lambda: buffer.lanes["telemetry"].count == 0)
    assert first.numbers() == [*range(1, 301), *range(1, 301)]
    await first.listeners.close()


async def test_the_urgent_lane_is_sent_before_a_backlog(tmp_path: Path) -> None:
    far = FarEnd()
    buffer = await Buffer.open(tmp_path / "buffer.db", [lane.lane() for lane in LANES], Counters())
    await store(buffer, 1_000)
    buffer.lanes["alarms"].pending.append(Message("alarm/x", b"!", 1, received_at=1))
    await store(buffer, 1_000)
    await buffer.close()
    async with draining(tmp_path, await far.open()) as (reopened, _):
        await until(lambda: not any(lane.count for lane in reopened.lanes.values()))
    assert far.frames[0][0].lane == "alarms"
    await far.listeners.close()


async def test_a_few_messages_wait_for_company_and_share_a_frame(tmp_path: Path) -> None:
    far = FarEnd()
    async with draining(tmp_path, await far.open(), linger=0.5) as (buffer, _):
        for _ in range(5):
            await store(buffer, 1)
        await until(lambda: buffer.lanes["telemetry"].count == 0)
    assert [header.count for header, _ in far.frames] == [5]
    await far.listeners.close()


async def test_a_few_messages_that_fill_a_frame_do_not_wait_for_company(tmp_path: Path) -> None:
    far = FarEnd()
    async with draining(tmp_path, await far.open(), linger=600) as (buffer, _):
        for _ in range(12):
            await store(buffer, 1, payload=bytes(60_000))
        await until(lambda: buffer.lanes["telemetry"].bytes < FRAME_BLOCK_BYTES)
    assert len(far.frames) >= 2
    await far.listeners.close()


async def test_a_frame_tells_the_lowest_number_that_may_still_come(tmp_path: Path) -> None:
    far = FarEnd()
    async with draining(tmp_path, await far.open()) as (buffer, _):
        for _ in range(3):
            await store(buffer, 10)
            await until(lambda: buffer.lanes["telemetry"].count == 0)
    assert [header.floor for header, _ in far.frames] == [1, 11, 21]
    await far.listeners.close()


async def test_newest_first_sends_the_newest_even_when_a_frame_cannot_hold_all_that_was_read(tmp_path: Path) -> None:
    far = FarEnd()
    lanes = (LaneSection(name="telemetry", topics=("#",), order=Order.NEWEST_FIRST),)
    buffer = await Buffer.open(tmp_path / "buffer.db", [lane.lane() for lane in lanes], Counters())
    for seed in range(4):
        await store(buffer, 1, payload=random.Random(seed).randbytes(60_000))  # noise does not compress
    await buffer.close()
    async with draining(tmp_path, await far.open(), lanes=lanes) as (reopened, _):
        await until(lambda: reopened.lanes["telemetry"].count == 0)
    assert far.frames[0][0].last == 4
    assert sorted(far.numbers()) == [1, 2, 3, 4]
    await far.listeners.close()
