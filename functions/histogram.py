"""How long events took, as counts in fixed buckets: one increment for each event, or for
many that took the same; a few hundred integers per function.

Bucket edges double every eight buckets from a microsecond to Lambda's longest timeout, so a quantile is at most 9 %
above the truth whatever the scale. Two histograms can be added. Will not keep times of its own, nor forget: whoever
wants the last hour subtracts two snapshots.
"""

from collections.abc import Sequence
from math import log2

STEPS = 8  # buckets per doubling
DOUBLINGS = 30  # 2**30 microseconds are 1,074 s, beyond the 900 s that Lambda allows
QUANTILES = (0.5, 0.9, 0.99)

_LAST = STEPS * DOUBLINGS


class Histogram:
    """Counts of durations in seconds."""

    __slots__ = ("_buckets", "count", "max", "sum")

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0  # seconds
        self.max = 0.0  # seconds
        self._buckets = [0] * (_LAST + 1)

    def add(self, seconds: float, events: int = 1) -> None:
        """Count events that took so long each; what is below a microsecond, or negative, is in the first bucket."""
        us = seconds * 1e6
        index = 0 if us < 1 else int(log2(us) * STEPS) + 1
        self._buckets[min(_LAST, index)] += events
        self.count += events
        self.sum += seconds * events
        if seconds > self.max:
            self.max = seconds

    def merge(self, other: "Histogram") -> None:
        """Count everything that another counted too."""
        self._buckets = [mine + theirs for mine, theirs in zip(self._buckets, other._buckets, strict=True)]
        self.count += other.count
        self.sum += other.sum
        self.max = max(self.max, other.max)

    def quantile(self, share: float) -> float:
        """Seconds within which `share` (0 to 1) of the events ended; 0 when there was none."""
        wanted = share * self.count
        seen = 0
        for index, count in enumerate(self._buckets):
            seen += count
            if count and seen >= wanted:
                return min(2 ** (index / STEPS) / 1e6, self.max)
        return self.max

    def status(self, quantiles: Sequence[float] = QUANTILES) -> dict[str, float]:
        """Milliseconds for an operator: `{"mean": 0.21, "p50": 0.19, "p90": …, "p99": …, "max": 3.2}`."""
        mean = self.sum / self.count if self.count else 0.0
        values = {f"p{share * 100:g}": self.quantile(share) for share in quantiles}
        return {name: round(seconds * 1e3, 3) for name, seconds in {"mean": mean, **values, "max": self.max}.items()}
