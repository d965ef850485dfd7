"""The buffer against a model of it that fits on a screen: whatever is done in whatever order, both agree."""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from core import blocks
from core.message import Message
from core.receipts import STORED, Batch, Receipt
from core.telemetry import Counters
from edge.buffer import Buffer
from edge.chunks import Chunk
from edge.lanes import CLOCK_PLAUSIBLE_MS, Lane, Order

T = TypeVar("T")

NOW = CLOCK_PLAUSIBLE_MS + 10**9
OLDEST = Lane("oldest", ("#",))
NEWEST = Lane("newest", ("#",), order=Order.NEWEST_FIRST)
LANES = {lane.name: lane for lane in (OLDEST, NEWEST)}
NAMES = st.sampled_from(sorted(LANES))


class BufferMachine(RuleBasedStateMachine):
    """What each lane holds, as number → payload; and the chunks that an uplink would have in flight."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = Path(tempfile.mkdtemp(prefix="buffer-model-"))
        self.held: dict[str, dict[int, bytes]] = {name: {} for name in LANES}
        self.following = dict.fromkeys(LANES, 1)
        self.in_flight: dict[str, list[Chunk]] = {name: [] for name in LANES}
        self.epochs: dict[str, dict[int, int]] = {name: {} for name in LANES}
        self.buffer: Buffer | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def teardown(self) -> None:
        if self.buffer is not None:
            self.run(self.buffer.close())
        self.runner.close()
        shutil.rmtree(self.directory)

    @initialize()
    def create(self) -> None:
        self.buffer = self.run(Buffer.open(self.directory / "buffer.db", tuple(LANES.values()), Counters()))

    @property
    def live(self) -> Buffer:
        assert self.buffer is not None
        return self.buffer

    # -- what can happen ---------------------------------------------------------------------------------------------

    @rule(batches=st.lists(st.tuples(NAMES, st.lists(st.binary(max_size=40_000), max_size=6)), max_size=4))
    def store(self, batches: list[tuple[str, list[bytes]]]) -> None:
        async def work() -> None:
            waiting = []
            for name, payloads in batches:
                messages = [Message("t", payload, 1, False, "d", NOW) for payload in payloads]
                for message in messages:
                    assert self.live.add(self.live.lanes[name].lane, message) is None
                settled: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
                waiting.append(settled)
                self.live.commit(Batch(messages, Receipt(settled.set_result)), {})
            for settled in waiting:
                assert (await settled).outcome == STORED

        self.run(work())
        for name, payloads in batches:
            for payload in payloads:
                self.held[name][self.following[name]] = payload
                self.epochs[name][self.following[name]] = self.live.lanes[name].epoch
                self.following[name] += 1

    @rule(name=NAMES, bytes_max=st.sampled_from([1, 50_000, 300_000]))
    def take_a_frame(self, name: str, bytes_max: int) -> None:
        lane = self.live.lanes[name].lane
        found, floor = self.run(self.live.read(lane, [c.id for c in self.in_flight[name]], bytes_max))
        taken = {number for chunk in self.in_flight[name] for number in range(chunk.first, chunk.first + chunk.count)}
        waiting = sorted(self.held[name].keys() - taken)
        assert bool(found) == bool(waiting)
        if not found:
            return
        numbers = [number for chunk in found for number in range(chunk.first, chunk.first + chunk.count)]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert (numbers[0] == waiting[0]) if lane.order is Order.OLDEST_FIRST else (numbers[-1] == waiting[-1])
        payloads = [message.payload for chunk in found for message in blocks.decode(chunk.block)]
        assert payloads == [self.held[name][number] for number in numbers]
        assert sum(len(chunk.block) for chunk in found) <= bytes_max or len(found) == 1
        epochs = self.epochs[name]
        assert floor == min(number for number in self.held[name] if epochs[number] == found[0].epoch)
        self.in_flight[name] += found

    @rule(name=NAMES, last=st.booleans())
    def the_cloud_has_a_frame(self, name: str, last: bool) -> None:
        if self.in_flight[name]:
            chunk = self.in_flight[name].pop(-1 if last else 0)
            self.run(self.live.remove(name, [chunk.id]))
            for number in range(chunk.first, chunk.first + chunk.count):
                del self.held[name][number]

    @rule()
    def the_link_is_lost(self) -> None:
        self.in_flight = {name: [] for name in LANES}

    @rule()
    def tidy(self) -> None:
        self.run(self.live.tidy(NOW))

    @rule(configured=st.sets(NAMES))
    def restart(self, configured: set[str]) -> None:
        self.run(self.live.close())
        self.the_link_is_lost()
        lanes = tuple(LANES[name] for name in sorted(configured))
        self.buffer = self.run(Buffer.open(self.directory / "buffer.db", lanes, Counters()))
        for name in LANES.keys() - self.buffer.lanes.keys():
            assert not self.held[name]  # a lane that holds something is there, configured or not
        if self.buffer.lanes.keys() != LANES.keys():
            self.run(self.buffer.close())
            self.create()

    # -- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def counts_agree(self) -> None:
        for name, state in self.live.lanes.items() if self.buffer else ():
            assert state.count == len(self.held[name])
            assert not state.pending
            if self.following[name] > 1:
                assert state.next == self.following[name]


BufferMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestBufferModel = BufferMachine.TestCase
