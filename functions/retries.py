"""Whether an asynchronous invocation is tried again after an attempt, and when: Lambda's rules.

A function error (an exception, a time-out, a process that ended) is tried again `retries` times, a minute later and
then two. An attempt that never reached a handler counts as none: such events wait, all those of the function together,
1 s at first and 5 min at most, until they are too old. A function with concurrency 0 is switched off, and an event that
can never be given to a handler is not tried again.

Values in, values out. Ages and waits are milliseconds of a clock that does not jump (core.timeline).
"""

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from functions.invocations import Ending
from functions.manifest import Manifest

ERROR_WAIT_MS = 60_000  # doubled for the second retry (Lambda developer guide, asynchronous invocation)
THROTTLE_WAIT_MS = 1_000
THROTTLE_WAIT_MAX_MS = 300_000
DOUBLINGS_MAX = 16  # the longest wait is reached long before
DEPTH_MAX = 16  # functions that call each other: Lambda stops a loop after that many


class Condition(Enum):
    """Why an event has ended, in the words of a destination's record."""

    SUCCESS = "Success"
    RETRIES_EXHAUSTED = "RetriesExhausted"
    AGE_EXCEEDED = "EventAgeExceeded"


class Verdict(Enum):
    """What needs no number."""

    FINISHED = "finished"
    THROTTLED = "throttled"  # back to where it came from; the function waits


@dataclass(frozen=True, slots=True)
class Retry:
    """Try it again, that many milliseconds from now."""

    wait: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Never try it again."""

    condition: Condition


Decision: TypeAlias = Verdict | Retry | GiveUp


def decide(ending: Ending, attempts: int, age: int, manifest: Manifest) -> Decision:
    """What becomes of an event after an attempt; `attempts` that reached a handler, this one among them."""
    if ending is Ending.SUCCESS:
        return Verdict.FINISHED
    if ending is Ending.REFUSED:
        return GiveUp(Condition.RETRIES_EXHAUSTED)
    if ending is Ending.THROTTLED:
        if manifest.concurrency == 0:
            return GiveUp(Condition.RETRIES_EXHAUSTED)
        return GiveUp(Condition.AGE_EXCEEDED) if is_too_old(age, manifest) else Verdict.THROTTLED
    if attempts > manifest.retries:
        return GiveUp(Condition.RETRIES_EXHAUSTED)
    wait = ERROR_WAIT_MS << (attempts - 1)
    return GiveUp(Condition.AGE_EXCEEDED) if is_too_old(age + wait, manifest) else Retry(wait)


def is_too_old(age: int, manifest: Manifest) -> bool:
    """Whether an event of this age is not to be tried any more."""
    return age > manifest.max_age * 1_000


def throttled_wait(throttles: int, random: float) -> int:
    """How long a function waits whose last `throttles` attempts reached no handler; `random` is uniform in [0, 1)."""
    wait = min(THROTTLE_WAIT_MAX_MS, THROTTLE_WAIT_MS << min(max(throttles, 1) - 1, DOUBLINGS_MAX))
    return wait - int(wait * random / 4)  # not all in step
