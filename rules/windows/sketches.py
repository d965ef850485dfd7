"""Percentiles of a stream of numbers in bounded memory: exact for few, within one per cent for many.

The percentile `p` of n numbers is the smallest of them that at least p per cent do not exceed (the nearest rank), so
it is a number that came and no mean of two. Up to SAMPLES_MAX numbers are kept as they are. Then each goes into a bin
whose bounds are two per cent apart, and the middle of a bin is within ERROR of every number in it (DDSketch: Masson,
Rim, Lee, VLDB 2019). Neither the order of the numbers nor a restart in between changes the result.

Bound: BINS_MAX bins, enough for magnitudes from 1 to 200,000,000, or 15,000 where both signs come. When a stream is
wider, its smallest magnitudes are taken for zero. The least and the greatest number are always exact.
"""

import math
from collections.abc import Iterable
from decimal import ROUND_CEILING, Decimal
from typing import Any

from rules.sql.decimals import CONTEXT, Number, exact, rounded

SAMPLES_MAX = 256  # a minute of four readings per second; a state of two kilobytes
BINS_MAX = 1_024
COLLAPSED = 64  # bins given up at once when there are too many, so that this is rare
ERROR = 0.01  # of a percentile, relative to the number that it should be

_GAMMA = (1 + ERROR) / (1 - ERROR)
_LOG_GAMMA = math.log(_GAMMA)


class Sketch:
    """The numbers that were added."""

    __slots__ = ("_above", "_below", "_greatest", "_least", "_samples", "_zeros", "count")

    def __init__(self) -> None:
        self.count = 0
        self._samples: list[Number] | None = []
        self._least: Number = 0
        self._greatest: Number = 0
        self._zeros = 0
        self._above: dict[int, int] = {}  # bin of the magnitude → how many numbers above zero
        self._below: dict[int, int] = {}

    @property
    def size(self) -> int:
        """How many numbers and bins it keeps."""
        return len(self._samples) if self._samples is not None else len(self._above) + len(self._below)

    def add(self, number: Number) -> None:
        """Take one more number; one that no double can hold is left out."""
        if not math.isfinite(float(number)):
            return
        self.count += 1
        if self._samples is not None:
            self._samples.append(number)
            if len(self._samples) > SAMPLES_MAX:
                self._sort_into_bins(self._samples)
            return
        self._least, self._greatest = min(self._least, number, key=exact), max(self._greatest, number, key=exact)
        self._put(float(number))

    def percentile(self, percent: Number) -> Number | None:
        """The number that at least `percent` (0 to 100) of all do not exceed; None when there are none."""
        if not self.count:
            return None
        share = CONTEXT.divide(CONTEXT.multiply(exact(percent), exact(self.count)), exact(100))
        rank = max(1, rounded(share, ROUND_CEILING))
        if self._samples is not None:
            return sorted(self._samples, key=exact)[rank - 1]
        if rank == 1:
            return self._least
        return self._greatest if rank == self.count else self._near(rank)

    # -- bins ---------------------------------------------------------------------------------------------------------

    def _sort_into_bins(self, samples: list[Number]) -> None:
        self._samples = None
        self._least, self._greatest = min(samples, key=exact), max(samples, key=exact)
        for number in samples:
            self._put(float(number))

    def _put(self, number: float) -> None:
        if number == 0:
            self._zeros += 1
            return
        bins = self._above if number > 0 else self._below
        index = math.ceil(math.log(abs(number)) / _LOG_GAMMA)
        bins[index] = bins.get(index, 0) + 1
        if len(self._above) + len(self._below) > BINS_MAX:
            self._collapse()

    def _collapse(self) -> None:
        for index in sorted([*self._above, *self._below])[:COLLAPSED]:
            self._zeros += self._above.pop(index, 0) + self._below.pop(index, 0)

    def _near(self, rank: int) -> float:
        value = 0.0
        for value, count in self._ascending():  # noqa: B007 - the last one looked at
            rank -= count
            if rank <= 0:
                break
        return min(max(value, float(self._least)), float(self._greatest))

    def _ascending(self) -> Iterable[tuple[float, int]]:
        yield from ((-_middle(index), self._below[index]) for index in sorted(self._below, reverse=True))
        yield 0.0, self._zeros
        yield from ((_middle(index), self._above[index]) for index in sorted(self._above))

    # -- on disk ------------------------------------------------------------------------------------------------------

    def state(self) -> Any:
        """All that this holds, as a JSON value."""
        if self._samples is not None:
            return [list(map(_written, self._samples))]
        bins = [number for bins in (self._above, self._below) for item in bins.items() for number in item]
        return [_written(self._least), _written(self._greatest), self._zeros, len(self._above), bins]

    @classmethod
    def of(cls, state: Any) -> "Sketch":
        """The sketch with this `state()`."""
        sketch = cls()
        if len(state) == 1:
            sketch._samples = list(map(_read, state[0]))
            sketch.count = len(state[0])
            return sketch
        sketch._samples = None
        least, greatest, sketch._zeros, above, bins = state
        sketch._least, sketch._greatest = _read(least), _read(greatest)
        indices, counts = bins[::2], bins[1::2]
        sketch._above = dict(zip(indices[:above], counts[:above], strict=True))
        sketch._below = dict(zip(indices[above:], counts[above:], strict=True))
        sketch.count = sketch._zeros + sum(counts)
        return sketch


def _written(number: Number) -> Number | str:
    """Decimals as text: a snapshot may have hundreds of thousands, and as numbers they take ten times as long."""
    return str(number) if isinstance(number, Decimal) else number


def _read(written: Any) -> Any:
    return Decimal(written) if written.__class__ is str else written


def _middle(index: int) -> float:
    try:
        return 2 * _GAMMA**index / (_GAMMA + 1)
    except OverflowError:  # the last bin of a double
        return math.inf

