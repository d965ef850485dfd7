"""The windows of the rules in the cloud, and how time goes on in the lanes of the edges that feed them.

What a message changes is written in the transaction that takes it out of the inbox; that a row is done, in the one that
holds what its actions made. So each message is in exactly one row, and the embedded targets have each row exactly once.

A lane tells with each frame how late it is there. An edge that is cut off for days tells nothing, and its windows wait
for it. Only where an edge is connected, has sent what it had, and a lane of it is silent for QUIET_SECONDS, its time
goes on by our own clock; and for one that nobody has heard of for ABANDONED_SECONDS. What clients publish here
themselves is a lane too, which is never cut off.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from core import frames, ledger
from core.chance import Randomness
from core.message import CLOCK_PLAUSIBLE_MS
from core.mqtt.listener import now_ms
from core.store import Store
from core.telemetry import Counters, get_logger
from rules.engine import RuleSet
from rules.windows.aggregation import Aggregation, Due, Piece, Writes

log = get_logger("cloud.windows")

LOOK_SECONDS = 1.0  # the shortest window
QUIET_SECONDS = 120.0  # longer than it takes to notice that a connection is dead (1.5 times the keep-alive)
ABANDONED_SECONDS = 7 * 86_400.0
LANES_MAX = 20_000  # remembered for which no window waits: ten of each of two thousand edges


def source(edge: str, lane: str) -> str:
    """The name of a lane of an edge among the streams of `rules.windows`."""
    return f"{edge}/{lane}"


@dataclass(slots=True)
class _Lane:
    """When its last message arrived at the edge (epoch ms) and here, and how its time went on since then."""

    received_ms: int
    heard_at: float
    ran_until: float
    ran_ms: int = 0


class CloudWindows:
    """Keeps `aggregation`. Times `at` are readings of the monotonic clock in seconds."""

    def __init__(self, counters: Counters, at: float | None = None) -> None:
        self.aggregation = Aggregation(own_clock=False, chance=Randomness())
        self._counters = counters
        self._started = time.monotonic() if at is None else at
        self._lanes: dict[str, _Lane] = {}  # in the order in which they were heard last
        self._connected: dict[str, float] = {}  # edges, and since when

    async def load(self, store: Store, rules: RuleSet) -> None:
        """Take up what the last run wrote. Raises StorageError."""
        pieces = await store.run(ledger.load)
        _tell(self.aggregation.load(rules, (Piece(*piece) for piece in pieces)))

    def replace(self, rules: RuleSet) -> None:
        """Use other rules from the next message on."""
        _tell(self.aggregation.replace(rules))

    async def run(self, clients: Callable[[], set[str]], wake: Callable[[], None]) -> None:
        """Look every second where time goes on by our clock, until cancelled; `wake()` when rows may be due.

        `clients()`: the MQTT client identifiers that are connected.
        """
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            connected = clients() if self.aggregation.sources else set()
            if self.run_on(time.monotonic(), now_ms(), partial(_is_among, connected)):
                wake()

    def due(self) -> list[Due]:
        """Rows that are complete, not too many at a time; each is handed out once, until a step with it is refused."""
        return self.aggregation.due()

    def gather(self) -> Writes | None:
        """What this step is to write; answered by `written` or `refused`."""
        return self.aggregation.gather()

    def status(self) -> dict[str, dict[str, Any]]:
        """What an operator is shown of the windows, by rule."""
        return self.aggregation.status()

    def write(self, connection: sqlite3.Connection, writes: Writes | None) -> None:
        """What was gathered, in the transaction of the step that gathered it."""
        if writes is not None:
            ledger.write(connection, writes.delete, writes.append)

    def written(self, writes: Writes | None, heard: dict[str, int], at: float) -> None:
        """The step is on disk.

        `heard`: for each lane that the step had messages of (`source`), when the last of them arrived at the edge.
        """
        for lane, received_ms in heard.items():
            self._heard(lane, received_ms, at)
        if writes is not None:
            self.aggregation.written(writes)
        for rule, reason, count in self.aggregation.losses():
            self._counters.dropped(reason, count, rule=rule)

    def refused(self, writes: Writes | None) -> None:
        """The step could not be written."""
        if writes is not None:
            self.aggregation.refused(writes)

    def _heard(self, name: str, received_ms: int, at: float) -> None:
        self._connected.setdefault(name.partition("/")[0], at)
        lane = self._lanes.pop(name, None)  # and to the end, where those are that were heard last
        self._lanes[name] = _Lane(received_ms, at, at)
        if lane is None:
            return
        passed = received_ms - lane.received_ms - lane.ran_ms
        if min(received_ms, lane.received_ms) >= CLOCK_PLAUSIBLE_MS and passed > 0:
            self.aggregation.elapse(passed, name)

    def run_on(self, at: float, wall_ms: int, connected: Callable[[str], bool]) -> bool:
        """Let time go on where nothing else tells it; whether there may be rows. To be called about every second."""
        names = self.aggregation.sources
        self._forget(names, at)
        for name in names - self._lanes.keys():
            self._lanes[name] = _Lane(0, self._started, self._started)
        self._notice(at, connected)
        latest = self._latest()
        for name in names:
            lane = self._lanes[name]
            since = self._silent_since(name, lane, latest, at, wall_ms)
            if since is not None:
                passed = int((at - max(since, lane.ran_until)) * 1_000)
                self.aggregation.elapse(passed, name)
                lane.ran_ms += passed
                lane.ran_until = max(since, lane.ran_until) + passed / 1_000
        return any(self.aggregation.wait(name) == 0 for name in names)

    def _forget(self, names: set[str], at: float) -> None:
        """Forget lanes that nothing waits for and nobody hears of, or that are too many."""
        idle = [name for name in self._lanes if name not in names]
        for place, name in enumerate(idle):
            if len(idle) - place > LANES_MAX or at - self._lanes[name].heard_at >= ABANDONED_SECONDS:
                del self._lanes[name]

    def _latest(self) -> dict[str, _Lane]:
        """For each edge the lane that was heard last."""
        by_age = sorted(self._lanes.items(), key=lambda item: item[1].heard_at)
        return {name.partition("/")[0]: lane for name, lane in by_age}

    def _notice(self, at: float, connected: Callable[[str], bool]) -> None:
        edges = {name.partition("/")[0] for name in self._lanes} - {""}
        self._connected = {edge: self._connected.get(edge, at) for edge in edges if connected(edge)}

    def _silent_since(
        self, name: str, lane: _Lane, latest: dict[str, _Lane], at: float, wall_ms: int
    ) -> float | None:
        """Since when the lane's time goes on by our clock, None when it stands still."""
        edge = name.partition("/")[0]
        if not edge or at - lane.heard_at >= ABANDONED_SECONDS:
            return lane.heard_at
        if edge not in self._connected:
            return None
        since = max(lane.heard_at, self._connected[edge])
        return since if at - since >= QUIET_SECONDS and _has_caught_up(latest[edge], at, wall_ms) else None


def _has_caught_up(last: _Lane, at: float, wall_ms: int) -> bool:
    """Whether what an edge sends in its other lanes, if anything, is of the present."""
    if at - last.heard_at >= QUIET_SECONDS or last.received_ms < CLOCK_PLAUSIBLE_MS:
        return True
    return last.received_ms >= wall_ms - QUIET_SECONDS * 1_000


def _is_among(clients: set[str], edge: str) -> bool:
    return frames.client_id(edge) in clients


def _tell(lines: list[str]) -> None:
    for line in lines:
        log.warning("windows were dropped", reason=line)
