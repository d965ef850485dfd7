"""How many workers there may be at once, of all functions together, and whose turn it is when there are no more.

A pool that wants a worker and gets no place stands in line. For it, the worker that has idled longest in another pool
is asked to stop; if none idles and the pool in line has no worker at all, the pool with the most is asked to let one go
as soon as that has finished what it has. A pool without a worker that has stood in line for TURN_SECONDS goes to its
head, and has another let go, be it the last: so busy functions take turns. Pinned workers are never asked.

Decides only: pools start and stop processes. Invariant: places taken never exceed `limit`.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

TURN_SECONDS = 5.0  # a hundred times what a start costs


class Holder(Protocol):
    """A pool, as far as places matter."""

    @property
    def places(self) -> int:
        """How many it holds."""

    @property
    def spare(self) -> int:
        """How many of them have workers that are not pinned and not about to leave."""

    @property
    def idle_since(self) -> float | None:
        """Since when its longest idle worker, which may be stopped, has had nothing to do; None when there is none."""

    def stop_idle(self) -> None:
        """Stop that worker."""

    def let_one_go(self) -> None:
        """Stop a worker as soon as it has finished what it has."""

    def has_place(self) -> None:
        """There is a place: take it, or leave it to the next in line."""


class Budget:
    """The places of a daemon."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.taken = 0
        self._holders: list[Holder] = []
        self._line: deque[Holder] = deque()
        self._clock = clock
        self._patience = 0.0  # until when those without a worker wait for somebody's last
        self._coming = 0  # workers that were asked to stop for those in line

    def join(self, holder: Holder) -> None:
        """A pool begins."""
        self._holders.append(holder)

    def leave(self, holder: Holder) -> None:
        """A pool has ended, and has given back its places."""
        self._holders.remove(holder)
        if holder in self._line:
            self._line.remove(holder)

    def take(self, holder: Holder) -> bool:
        """A place, or to stand in line: then `has_place` is called some time, and this is asked again."""
        if self.taken < self.limit and (not self._line or self._line[0] is holder):
            if self._line:
                self._line.popleft()
            self.taken += 1
            return True
        if holder not in self._line:
            if not self._line:
                self._patience = self._clock() + TURN_SECONDS
            self._line.append(holder)
            self._make_room(holder)
        elif holder.places == 0 and self._clock() >= self._patience:
            self._take_turns(holder)
        return False

    def withdraw(self, holder: Holder) -> None:
        """A pool in line needs no place any more."""
        if holder in self._line:
            self._line.remove(holder)
            self._offer()

    def give_back(self) -> None:
        """A worker has ended."""
        self.taken -= 1
        self._coming = max(0, self._coming - 1)
        self._offer()

    def asks_for_room(self, holder: Holder) -> bool:
        """Whether a pool with an idle worker should stop it, for others that are in line; asked before each."""
        if len(self._line) - (holder in self._line) <= self._coming:
            return False
        self._coming += 1
        return True

    def _offer(self) -> None:
        while self._line and self.taken < self.limit:
            first = self._line[0]
            first.has_place()
            if self._line and self._line[0] is first:  # it did not want it
                self._line.popleft()

    def _make_room(self, wanting: Holder) -> None:
        others = [holder for holder in self._holders if holder is not wanting]
        idle = [(since, holder) for holder in others if (since := holder.idle_since) is not None]
        if idle:
            self._coming += 1
            min(idle, key=lambda pair: pair[0])[1].stop_idle()
        elif wanting.places == 0:
            self._let_one_go(others, 2)

    def _let_one_go(self, others: list[Holder], least: int) -> None:
        richest = max(others, key=lambda holder: holder.spare, default=None)
        if richest is not None and richest.spare >= least:
            self._coming += 1
            self._holders.remove(richest)  # the next one to be asked is another
            self._holders.append(richest)
            richest.let_one_go()

    def _take_turns(self, starved: Holder) -> None:
        self._patience = self._clock() + TURN_SECONDS
        self._line.remove(starved)
        self._line.appendleft(starved)
        self._let_one_go([holder for holder in self._holders if holder is not starved], 1)
