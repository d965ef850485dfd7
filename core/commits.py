"""What several parts of a daemon want on disk, written in one transaction: all of it, or none.

A part is asked what it has gathered when a commit begins (`Part.gather`), and told when that is on disk or refused. So
a message that a device sends is in the buffer, in the queue of every session that waits for it and in the list of
acknowledged identifiers at the same moment, and a crash finds either all of them or none.

Invariant: one commit is in flight at a time; what comes meanwhile gathers for the next.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from core.store import Store
from core.telemetry import get_logger

log = get_logger("core.commits")

LATER_SECONDS = 0.2  # how long what nobody waits for may gather: after a crash that much is done again, not lost
RETRY_SECONDS = 1.0  # until a commit that the disk refused is tried again, if nobody comes sooner


@dataclass(frozen=True, slots=True)
class Work:
    """`write(connection)` in the transaction of this commit, then `written(result, error)` on the loop."""

    write: Callable[[sqlite3.Connection], Any]
    written: Callable[[Any, Exception | None], None]


class Barrier:
    """The commit that something waits for; settled once, with whether it is on disk."""

    __slots__ = ("_calls", "kept")

    def __init__(self, kept: bool | None = None) -> None:
        self.kept = kept
        self._calls: list[Callable[[bool], None]] = []

    def then(self, call: Callable[[bool], None]) -> None:
        """Call `call(kept)` when that is known, which may be now."""
        if self.kept is None:
            self._calls.append(call)
        else:
            call(self.kept)

    def settle(self, *, kept: bool) -> None:
        """Tell everyone who waits, in the order in which they came."""
        self.kept = kept
        calls, self._calls = self._calls, []
        for call in calls:
            try:
                call(kept)
            except Exception as fault:  # noqa: BLE001 - of one client; the others wait for the same commit
                log.fault("what a client waited for failed", fault)


class Part(Protocol):
    """Something that gathers between commits."""

    def gather(self) -> Work | None:
        """Hand over what gathered since the last call, None when nothing did."""
        ...


class Commits:
    """The commits of one store; made and used on a running event loop. `refused(error)` is told of each that failed."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.refused: Callable[[Exception], None] = lambda _: None
        self._loop = asyncio.get_running_loop()
        self._parts: list[Part] = []
        self._wanted = False
        self._committing = False
        self._refused = False  # the last commit
        self._ending = False
        self._timer: asyncio.TimerHandle | None = None

    def join(self, part: Part) -> None:
        """Ask `part` too, from the next commit on; parts are written in the order in which they joined."""
        self._parts.append(part)

    def soon(self) -> None:
        """Somebody waits: commit at the end of this turn of the loop, or right after the commit in flight."""
        if not self._wanted:
            self._wanted = True
            if not self._committing:
                self._loop.call_soon(self._flush)

    def later(self) -> None:
        """Nobody waits: commit with the next that somebody waits for, or after LATER_SECONDS."""
        if self._timer is None and not self._ending:
            self._timer = self._loop.call_later(RETRY_SECONDS if self._refused else LATER_SECONDS, self._due)

    async def drain(self) -> None:
        """Commit until nothing is left, or the disk refuses; before the store is closed."""
        self._refused, self._ending = False, True
        while self._gathers():  # noqa: ASYNC110 - it ends with a commit, and another may follow
            await asyncio.sleep(0.001)
        if self._timer is not None:
            self._timer.cancel()

    def _due(self) -> None:
        self._timer = None
        self.soon()

    def _gathers(self) -> bool:
        if not self._committing and not self._refused:
            self._flush()
        return self._committing

    def _flush(self) -> None:
        if self._committing:
            return
        self._wanted = False
        works = [work for part in self._parts if (work := part.gather()) is not None]
        if not works:
            return
        self._committing = True
        self.store.submit(
            lambda connection: [work.write(connection) for work in works],
            lambda results, error: self._flushed(works, results, error),
        )

    def _flushed(self, works: list[Work], results: list[Any] | None, error: Exception | None) -> None:
        self._committing = False
        self._refused = error is not None
        for work, result in zip(works, results or [None] * len(works), strict=True):
            try:
                work.written(result, error)
            except Exception as fault:  # noqa: BLE001 - of one part; the others wait for the same commit
                log.fault("what follows a commit failed", fault)
        if error is not None:
            self.refused(error)
            self.later()  # what could not be written is gathered again
        if self._wanted:
            self._flush()
