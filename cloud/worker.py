"""Takes messages out of the inbox, applies the rules, and commits the effects together with having done so.

One step: read some entries, evaluate, write all effects and delete the entries in one transaction. A crash before the
commit repeats the step from the start, one after it does not repeat it: the embedded targets see each message exactly
once. Clients that subscribe at the cloud hear the messages after the commit.

When the disk refuses, the step is tried again; the inbox keeps what it has.
"""

import asyncio
import sqlite3
from collections.abc import Callable

from cloud import inbox
from cloud.effects import Effects, Targets, count_refused
from cloud.inbox import Entry
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
    """Applies `rules` (replaceable at any time) to the inbox of `store`.

    `publish(messages)` gives messages to the cloud's own subscribers; `wake_targets()` says that there are effects.
    """

    def __init__(
        self,
        store: Store,
        rules: RuleSet,
        targets: Targets,
        publish: Callable[[list[Message]], None],
        wake_targets: Callable[[], None],
        counters: Counters,
    ) -> None:
        self.rules = rules
        self._store = store
        self._targets = targets
        self._publish = publish
        self._wake_targets = wake_targets
        self._counters = counters
        self._wake = asyncio.Event()

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
        """Apply the rules to some entries; False when the inbox is empty. Raises StorageError."""
        entries = await self._store.run(lambda connection: inbox.read(connection, STEP_MESSAGES_MAX))
        if not entries:
            return False
        at = now_ms()
        effects = Effects()
        damaged = 0
        for entry in entries:
            try:
                fresh = _fresh(entry)
            except frames.MalformedFrame as error:
                damaged += sum(last - first + 1 for first, last in entry.fresh)
                log.error("a frame in the inbox is damaged; its messages are lost", reason=error)
            else:
                effects.gather(self.rules, fresh, at)
            await asyncio.sleep(0)

        def commit(connection: sqlite3.Connection) -> list[tuple[str, str]]:
            refused = effects.apply(connection, self._targets, at)
            inbox.done(connection, entries)
            return refused

        count_refused(await self._store.run(commit), self._counters)
        self._count(effects, damaged)
        self._publish(effects.heard)
        self._wake_targets()
        return True

    def _count(self, effects: Effects, damaged: int) -> None:
        self._counters.add("messages_applied_total", len(effects.heard))
        for rule, count in effects.failed.items():
            self._counters.add("rules_failed_total", count, rule=rule)
        if effects.loops:
            self._counters.add("rules_loops_total", effects.loops)
        if damaged:
            self._counters.dropped("damaged on disk", damaged)


def _fresh(entry: Entry) -> list[tuple[Message, tuple[str | int, ...]]]:
    """The new messages of an entry, each with the key that names it for ever; raises MalformedFrame."""
    header, messages = frames.decode(entry.frame)
    return [
        (messages[number - header.first], (header.edge, header.lane, header.epoch, number))
        for first, last in entry.fresh
        for number in range(first, last + 1)
    ]
