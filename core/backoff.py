"""How long to wait before the next attempt to connect: exponential, jittered, and slow to forgive.

Decides delays only; the caller holds the clock, the randomness and the connection. Full jitter (a uniform
choice between nothing and the current ceiling) keeps a thousand gateways from returning in step.

Invariants:
1. The ceiling doubles with every failure from `base` up to `limit`, and never passes it.
2. Only a connection that stayed up for `good_after` resets the ceiling; one that is accepted and dropped
   at once counts as a failure like any other.
"""

from dataclasses import dataclass, field

DOUBLINGS_MAX = 32  # any `limit` worth having is reached long before; keeps the power of two small


@dataclass(slots=True)
class Backoff:
    """The back-off of one connection. All times are seconds on one monotonic clock.

    An attempt failed: wait `failed(now, random)`. It succeeded: call `connected(now)`. The connection ended:
    call `lost(now)`, then wait `failed(now, random)` as after any failure.
    """

    base: float = 0.5
    limit: float = 60.0
    good_after: float = 30.0
    _failures: int = field(default=0, init=False)
    _up_since: float | None = field(default=None, init=False)

    def failed(self, now: float, random: float) -> float:
        """Seconds to wait before the next attempt; `random` is uniform in [0, 1)."""
        self.lost(now)
        ceiling = min(self.limit, self.base * (1 << self._failures))
        self._failures = min(self._failures + 1, DOUBLINGS_MAX)
        return ceiling * random

    def connected(self, now: float) -> None:
        """The connection is up; whether it is good, time will tell."""
        self._up_since = now

    def lost(self, now: float) -> None:
        """The connection is gone; forgive what went before it if it had been good. Harmless when repeated."""
        if self._up_since is not None and now - self._up_since >= self.good_after:
            self._failures = 0
        self._up_since = None
