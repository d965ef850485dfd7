"""The uplink: takes what the buffer holds to the cloud, in numbered frames, several of them in flight.

A frame is deleted from the buffer only when the cloud's PUBACK says that it is committed there. When the connection
ends, everything unacknowledged is sent again after a back-off; the cloud drops what it has seen. Lanes with a lower
priority number are sent first. A few messages wait up to `linger` for company, because a frame of one costs ten times
the bytes per message; lanes of priority 0 do not wait.

Nothing at the edge waits for this: no network at boot, or ever, only means that the buffer grows.
"""

import asyncio
import random
import ssl
import time
from collections import defaultdict
from dataclasses import dataclass, field

import mqtt5

from core import blocks, frames
from core.backoff import Backoff
from core.errors import StorageError, TidegateError
from core.message import Message
from core.mqtt.client import Client, ConnectionFailed, PublishRefused, connect
from core.telemetry import Counters, get_logger
from edge.buffer import Buffer, LaneState
from edge.chunks import Chunk
from edge.config import UplinkSection
from edge.lanes import Lane, Order

log = get_logger("edge.uplink")

WINDOW_FRAMES = 8  # in flight: fills a link of 10 Mbit/s at 800 ms round trip; unacknowledged frames are sent again
FRAME_BLOCK_BYTES = 256 << 10  # what goes into a frame before compression; telemetry shrinks eightfold and more
COMPANY_MESSAGES = 200  # from here on a frame is as small per message as it gets, so it need not wait for more
KEEP_ALIVE_SECONDS = 30
GOOD_AFTER_SECONDS = 2.0  # a link that held for so long begins anew with short pauses; one that drops at once does not
PAYLOAD_FORMAT_INVALID = 0x99


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame and the chunks it was made of."""

    lane: str
    chunks: list[int]
    count: int
    size: int  # of the chunks' blocks
    data: bytes


@dataclass(slots=True)
class InFlight:
    """What of a lane is on its way: chunks by id, messages, bytes of blocks."""

    chunks: set[int] = field(default_factory=set)
    count: int = 0
    bytes: int = 0

    def add(self, frame: Frame) -> None:
        """It has been sent."""
        self.chunks.update(frame.chunks)
        self.count += frame.count
        self.bytes += frame.size

    def remove(self, frame: Frame) -> None:
        """It has arrived, and is not in the buffer any more."""
        self.chunks.difference_update(frame.chunks)
        self.count -= frame.count
        self.bytes -= frame.size


class LinkLost(TidegateError):
    """The connection ended, or the cloud cannot take frames now."""


class Uplink:
    """Drains a buffer to one cloud; `run` never returns. `wake` must be called when the buffer has more."""

    def __init__(
        self, edge: str, config: UplinkSection, context: ssl.SSLContext | None, buffer: Buffer, counters: Counters
    ) -> None:
        self.connected_since: float | None = None
        self.last_error = ""
        self._edge = edge
        self._config = config
        self._context = context
        self._buffer = buffer
        self._counters = counters
        self._more = asyncio.Event()
        self._inflight: dict[str, InFlight] = defaultdict(InFlight)

    def wake(self) -> None:
        """There is more to send."""
        self._more.set()

    async def run(self) -> None:
        """Connect, drain, and begin again after a back-off, for ever."""
        backoff = Backoff(limit=self._config.retry_limit, good_after=GOOD_AFTER_SECONDS)
        while True:
            reason = await self._session(backoff)
            delay = backoff.failed(time.monotonic(), random.random())
            if reason != self.last_error:
                log.warning("no link to the cloud", url=self._config.url, reason=reason, next_attempt_s=round(delay, 2))
            self.last_error = reason
            await asyncio.sleep(delay)

    async def _session(self, backoff: Backoff) -> str:
        """One connection, from the attempt to its end; returns why it ended."""
        hello = mqtt5.ConnectPacket(frames.client_id(self._edge), clean_start=True, keep_alive=KEEP_ALIVE_SECONDS)
        try:
            client = await connect(*self._config.address, hello, self._context)
        except ConnectionFailed as error:
            return str(error)
        backoff.connected(time.monotonic())
        self.connected_since = time.monotonic()
        self.last_error = ""
        self._counters.add("uplink_connections_total")
        reason = ""
        log.info("link to the cloud is up", url=self._config.url)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(client), name="uplink watch")
                group.create_task(self._drain(client, group), name="uplink drain")
        except* (LinkLost, StorageError) as errors:
            reason = str(errors.exceptions[0])
        finally:
            client.close()
            self.connected_since = None
            self._inflight.clear()
        return reason

    async def _watch(self, client: Client) -> None:
        raise LinkLost(await asyncio.shield(client.lost))

    async def _drain(self, client: Client, group: asyncio.TaskGroup) -> None:
        window = asyncio.Semaphore(min(WINDOW_FRAMES, client.receive_max))
        while True:
            await window.acquire()
            frame = await self._next_frame()
            self._inflight[frame.lane].add(frame)
            group.create_task(self._deliver(client, frame, window), name="uplink frame")

    async def _deliver(self, client: Client, frame: Frame, window: asyncio.Semaphore) -> None:
        self._counters.add("uplink_frames_total")
        self._counters.add("uplink_bytes_total", len(frame.data))
        try:
            await client.publish(frames.topic(self._edge, frame.lane), frame.data)
        except ConnectionFailed as error:
            raise LinkLost(str(error)) from None
        except PublishRefused as error:
            if error.code != PAYLOAD_FORMAT_INVALID:
                raise LinkLost(f"the cloud cannot take frames: {error}") from None
            # It stays in the buffer, counts as in flight until the next connection, and holds up nothing else.
            self._counters.add("uplink_frames_refused_total")
            log.error("the cloud cannot read a frame; it stays in the buffer", lane=frame.lane, reason=error)
        else:
            self._counters.add("uplink_messages_total", frame.count)
            await self._buffer.remove(frame.lane, frame.chunks)
            self._inflight[frame.lane].remove(frame)
        window.release()
        self._more.set()

    # -- choosing -----------------------------------------------------------------------------------------------------

    async def _next_frame(self) -> Frame:
        """Wait until a frame is worth sending, and make it."""
        while True:
            state = await self._next_lane()
            inflight = self._inflight[state.lane.name].chunks
            chunks, floor = await self._buffer.read(state.lane, inflight, FRAME_BLOCK_BYTES)
            read = [(chunk, _messages(chunk)) for chunk in chunks]
            if bad := [chunk.id for chunk, messages in read if not messages]:
                await self._buffer.remove(state.lane.name, bad, "damaged on disk")
            elif read:
                return self._frame(state.lane, read, floor)

    async def _next_lane(self) -> LaneState:
        since: float | None = None
        while True:
            self._more.clear()
            ready = [(state.lane.priority, state) for state in self._buffer.lanes.values() if self._unsent(state) > 0]
            if not ready:
                await self._more.wait()
                continue
            priority, state = min(ready, key=lambda entry: entry[0])
            since = since or time.monotonic()
            wait = since + self._config.linger - time.monotonic()
            if priority == 0 or wait <= 0 or self._fills_a_frame([state for _, state in ready]):
                return state
            try:
                async with asyncio.timeout(wait):
                    await self._more.wait()
            except TimeoutError:
                pass

    def _unsent(self, state: LaneState) -> int:
        return state.count - self._inflight[state.lane.name].count

    def _fills_a_frame(self, states: list[LaneState]) -> bool:
        """Whether waiting for more would make no frame smaller per message."""
        size = sum(state.bytes - self._inflight[state.lane.name].bytes for state in states)
        return size >= FRAME_BLOCK_BYTES or sum(self._unsent(state) for state in states) >= COMPANY_MESSAGES

    def _frame(self, lane: Lane, read: list[tuple[Chunk, list[Message]]], floor: int) -> Frame:
        """One frame of consecutive chunks; when they compress badly, of the half that the lane's order sends first."""
        while True:
            messages = [message for _, some in read for message in some]
            first = read[0][0]
            data = frames.encode(self._edge, lane.name, first.epoch, first.first, floor, messages)
            if len(data) <= frames.FRAME_MAX_BYTES or len(read) == 1:
                size = sum(len(chunk.block) for chunk, _ in read)
                return Frame(lane.name, [chunk.id for chunk, _ in read], len(messages), size, data)
            half = len(read) // 2
            read = read[:half] if lane.order is Order.OLDEST_FIRST else read[half:]


def _messages(chunk: Chunk) -> list[Message]:
    """What a chunk holds; nothing when nobody can read it, though it may be what was once written."""
    try:
        return blocks.decode(chunk.block)
    except blocks.MalformedBlock as error:
        log.error("a chunk cannot be read", lane=chunk.lane, first=chunk.first, messages=chunk.count, reason=error)
        return []
