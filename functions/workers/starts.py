"""When a function's next worker may be started, after some could not be or came to nothing. Values in, values out.

Starts wait after a worker that could not be started or could not load its handler, and after the second in a row that
ended, or was killed, before it had done anything: 1 s, doubling to a minute. Whoever waits for an answer is told why
at once. Workers that fail in one wait were started together, and count as one; those that are killed together, as when
the launcher ends, are forgiven together. A worker that is ready ends all that; only one that stays for GOOD_SECONDS, or
ends an event well, makes the next wait short.
"""

from dataclasses import replace
from typing import Any

from core.backoff import Backoff
from functions.invocations import Result

RETRY_SECONDS, RETRY_SECONDS_MAX = 1.0, 60.0
GOOD_SECONDS = 30.0


class Starts:
    """The starts of one pool; times are seconds on one monotonic clock."""

    def __init__(self) -> None:
        self.not_before = 0.0
        self.problem: Result | None = None  # what went wrong, until a worker is ready
        self._backoff = Backoff(RETRY_SECONDS, RETRY_SECONDS_MAX, GOOD_SECONDS)
        self._forgiven = float("-inf")  # when the first of those that may be killed was
        self._fruitless = 0  # workers in a row that ended unasked and had done nothing well

    def ready(self, now: float) -> None:
        """A worker is ready."""
        self.not_before, self.problem = 0.0, None
        self._backoff.connected(now)

    def failed(self, problem: Result, now: float) -> None:
        """A worker could not be started, or could not load its handler."""
        self.problem = problem
        if now >= self.not_before:  # else it was started before the last one failed
            self.not_before = now + self._backoff.failed(now, 1.0)  # not jittered: nobody else starts at this moment

    def ended(self, problem: Result, now: float, *, fruitful: bool) -> None:
        """A worker that had been ready ended unasked; `fruitful` when it had ended an event well."""
        if fruitful:
            self._fruitless = 0
            self._backoff = Backoff(RETRY_SECONDS, RETRY_SECONDS_MAX, GOOD_SECONDS)
            return
        self._fruitless += 1
        if self._fruitless > 1:  # the first time may be an accident
            self.failed(problem, now)
        else:
            self._backoff.lost(now)

    def forgives(self, now: float) -> bool:
        """Whether a worker that was killed before it was ready may be followed by another as if nothing had been."""
        if now < self._forgiven + RETRY_SECONDS:
            return True
        self._fruitless += 1
        if self._fruitless == 1:
            self._forgiven = now
        return self._fruitless == 1

    def refusal(self, now: float) -> Result | None:
        """What somebody who waits is told while starts wait."""
        return replace(self.problem) if self.problem is not None and now < self.not_before else None

    def status(self, now: float) -> dict[str, Any]:
        """For an operator: in how many seconds the next start may be, and what went wrong."""
        wait = round(self.not_before - now, 1)
        problem = self.problem.payload.decode("utf-8", "replace") if self.problem is not None else None
        return {"starts_again_in": wait if wait > 0 else None, "problem": problem}
