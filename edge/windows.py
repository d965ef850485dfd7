"""The windows of the rules at the edge: on disk with the messages that feed them, and closed in time.

A part of the buffer's commits. What a message changes is written in the transaction that stores the message, before the
device is acknowledged; that a row is done, in the transaction that stores what its actions republished into lanes. So a
crash at any moment loses no message of a window and counts none twice, and a row reaches the cloud exactly once. Local
subscribers may hear a row again that could not be stored: reacting comes before writing, here as everywhere.

Time is the monotonic clock's, which neither jumps nor runs while the box is off. When the disk refuses, rows wait until
it takes something again.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from core import ledger
from core.chance import Randomness
from core.commits import Commits, Work
from core.errors import StorageError
from core.store import ensure_room
from core.telemetry import Counters, get_logger
from rules.engine import Rule, RuleSet
from rules.event import Event
from rules.windows.aggregation import Aggregation, Due, Piece, Writes

log = get_logger("edge.windows")

LOOK_SECONDS = 1.0  # at most, between two looks at the clock: the shortest window
LOOK_AGAIN_SECONDS = 0.01  # at least


class EdgeWindows:
    """Keeps `aggregation`; made on a running loop, after the buffer.

    `fire(rows)` runs the rules' actions, says `acted` of each row, and asks for a commit.
    """

    def __init__(self, commits: Commits, counters: Counters, clock: Callable[[], float] = time.monotonic) -> None:
        self.aggregation = Aggregation(own_clock=True, chance=Randomness())
        self.fire: Callable[[list[Due]], None] = lambda _: None
        self._commits = commits
        self._counters = counters
        self._refused = False  # what was tried last
        self._clock = clock
        self._looked_at = clock()
        commits.join(self)

    async def load(self, rules: RuleSet) -> None:
        """Take up what the last run wrote. Raises StorageError."""
        pieces = await self._commits.store.run(ledger.load)
        _tell(self.aggregation.load(rules, (Piece(*piece) for piece in pieces)))
        self._looked_at = self._clock()

    def replace(self, rules: RuleSet) -> None:
        """Use other rules from the next message on."""
        _tell(self.aggregation.replace(rules))
        self._commits.later()

    def hear(self, rule: Rule, event: Event) -> None:
        """A windowed rule hears a message. Raises EvaluationError."""
        self.aggregation.hear(rule, event)
        self._commits.later()  # unless the message's receipt is waited for

    def status(self) -> dict[str, dict[str, Any]]:
        """What an operator is shown of the windows, by rule."""
        return self.aggregation.status()

    async def run(self) -> None:
        """Close windows in time, until cancelled."""
        while True:
            self._look()
            wait = self.aggregation.wait()
            seconds = LOOK_SECONDS if wait is None or self._refused else min(wait / 1_000, LOOK_SECONDS)
            await asyncio.sleep(max(seconds, LOOK_AGAIN_SECONDS))

    def gather(self) -> Work | None:
        """What the next commit writes: what was heard, and which rows are done."""
        writes = self.aggregation.gather()
        if writes is None:
            return Work(self._has_room, self._asked) if self._refused else None
        return Work(partial(self._write, writes), partial(self._written, writes))

    def _has_room(self, connection: sqlite3.Connection) -> bool:
        try:
            ensure_room(connection, self._commits.store.path)
        except StorageError:
            return False
        return True

    def _asked(self, room: bool | None, error: Exception | None) -> None:
        self._refused = error is not None or not room
        self._look()

    def _write(self, writes: Writes, connection: sqlite3.Connection) -> bool:
        ensure_room(connection, self._commits.store.path)
        ledger.write(connection, writes.delete, writes.append)
        return True

    def _written(self, writes: Writes, room: bool | None, error: Exception | None) -> None:
        if error is None:
            self._elapse()
            self.aggregation.written(writes)
        else:
            self.aggregation.refused(writes)
        self._asked(room, error)

    def _look(self) -> None:
        self._elapse()
        for rule, reason, count in self.aggregation.losses():
            self._counters.dropped(reason, count, rule=rule)
        if self._refused:
            self._commits.later()  # which asks again
            return
        rows = self.aggregation.due()
        if rows:
            self.fire(rows)

    def _elapse(self) -> None:
        ms = int((self._clock() - self._looked_at) * 1_000)
        self._looked_at += ms / 1_000
        self.aggregation.elapse(ms)


def _tell(lines: list[str]) -> None:
    for line in lines:
        log.warning("windows were dropped", reason=line)
