"""Takes messages out of the inbox, applies the rules, and commits the effects together with having done so.

One step: read some entries, evaluate, write all effects and delete the entries in one transaction. A crash before the
commit repeats the step from the start, one after it does not repeat it: the embedded targets see each message exactly
once. Rows of windows that are due are a step of their own, in the same manner.

Clients that subscribe at the cloud hear the messages after the commit, but for those that clients published here,
which they heard at once.

When the disk refuses, the step is tried again; the inbox keeps what it has.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable

from cloud import inbox
from cloud.effects import THROUGH_AN_EDGE, Effects, Key, Surroundings, count_refused
from cloud.inbox import Entry
from cloud.windows import source
from core import frames
from core.errors import StorageError
from core.message import Message
from core.mqtt.listener import now_ms
from core.store import Store
from core.telemetry import Counters, get_logger
from rules.engine import RuleSet

log = get_logger("cloud.worker")

STEP_MESSAGES_MAX = 1_000  # about 10 ms of evaluation between two looks at the sockets
RETRY_SECONDS = 1.0  # after a commit that failed


class Worker:
    """Applies `rules`, which `replace` exchanges, to the inbox of `store`.

    `publish(messages)` gives messages to the cloud's own subscribers; `wake_targets()` says that there are effects.
    """

    def __init__(
        self,
        store: Store,
        rules: RuleSet,
        surroundings: Surroundings,
        publish: Callable[[list[Message]], None],
        wake_targets: Callable[[], None],
        counters: Counters,
    ) -> None:
        self.rules = rules
        self._store = store
        self._surroundings = surroundings
        self._windows = surroundings.windows
        self._publish = publish
        self._wake_targets = wake_targets
        self._counters = counters
        self._wake = asyncio.Event()

    def replace(self, rules: RuleSet) -> None:
        """Use other rules from the next frame on; those that have not changed go on counting."""
        rules.continue_from(self.rules)
        self.rules = rules
        if self._windows is not None:
            self._windows.replace(rules)

    def wake(self) -> None:
        """There is more in the inbox."""
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._wake.clear()
            try:
                more = await self.step()
            except StorageError as error:
                log.error("the rules' effects cannot be stored; trying again", error=error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if not more:
                await self._wake.wait()

    async def step(self) -> bool:
        """Act on rows that are due, and apply the rules to some entries; False when there is nothing of either.

        Raises StorageError.
        """
        rows = self._windows.due() if self._windows is not None else []
        if rows:
            effects = Effects(self._surroundings)
            at = now_ms()
            effects.gather_rows(self.rules, rows, at)
            await self._commit(effects, [], {}, at)
        entries = await self._store.run(lambda connection: inbox.read(connection, STEP_MESSAGES_MAX))
        if not entries:
            return bool(rows)
        at = now_ms()
        effects = Effects(self._surroundings)
        damaged = 0
        heard: dict[str, int] = {}
        for entry in entries:
            try:
                fresh = _fresh(entry)
            except frames.MalformedFrame as error:
                damaged += sum(last - first + 1 for first, last in entry.fresh)
                log.error("a frame in the inbox is damaged; its messages are lost", reason=error)
            else:
                direct = entry.origin is not None
                effects.gather(self.rules, fresh, at, entry.origin or THROUGH_AN_EDGE, published=direct)
                message, (edge, lane, *_) = fresh[-1]
                heard[source(str(edge), str(lane))] = message.received_at
            await asyncio.sleep(0)
        await self._commit(effects, entries, heard, at)
        if damaged:
            self._counters.dropped("damaged on disk", damaged)
        return True

    async def _commit(self, effects: Effects, entries: list[Entry], heard: dict[str, int], at: int) -> None:
        """Write what a step made. Raises StorageError; then it is as if the step had not been."""
        writes = self._windows.gather() if self._windows is not None else None

        def commit(connection: sqlite3.Connection) -> list[tuple[str, str]]:
            refused = effects.apply(connection, at)
            inbox.done(connection, entries)
            if self._windows is not None:
                self._windows.write(connection, writes)
            return refused

        try:
            refused = await self._store.run(commit)
        except BaseException:
            if self._windows is not None:
                self._windows.refused(writes)
            effects.settle(kept=False)
            raise
        effects.settle(kept=True)
        if self._windows is not None:
            self._windows.written(writes, heard, time.monotonic())
        count_refused(refused, self._counters)
        self._count(effects)
        self._publish(effects.heard)
        self._wake_targets()

    def _count(self, effects: Effects) -> None:
        self._counters.add("messages_applied_total", effects.applied)
        for rule, count in effects.failed.items():
            self._counters.add("rules_failed_total", count, rule=rule)
        for rule, count in effects.error_actions_failed.items():
            self._counters.add("rules_error_actions_failed_total", count, rule=rule)
        if effects.not_found:
            self._counters.add("rules_not_found_total", effects.not_found)
        if effects.loops:
            self._counters.add("rules_loops_total", effects.loops)


def _fresh(entry: Entry) -> list[tuple[Message, Key]]:
    """The new messages of an entry, each with the key that names it for ever; raises MalformedFrame."""
    header, messages = frames.decode(entry.frame)
    return [
        (messages[number - header.first], (header.edge, header.lane, header.epoch, number))
        for first, last in entry.fresh
        for number in range(first, last + 1)
    ]
