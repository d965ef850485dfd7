"""The functions over all messages of a window: count, sum, avg, min, max, first, last, stddev, percentile.

An accumulator takes values one at a time, gives its result at any moment, and can be written down and taken up again as
a JSON value, without any difference to its result. Null and Undefined count for nothing, as in SQL; for a function that
needs a number neither does what is no number. A function that nothing counted for is Undefined, but for `count`: 0.

Sums are exact as the language's arithmetic is: Ints stay Ints, Decimals have 34 digits. `avg` and `stddev` are doubles
(the latter by Welford's method, which does not lose its digits to a large mean).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Protocol, Self

from rules.sql.decimals import CONTEXT, INT_MAX, Number, exact
from rules.sql.payloads import json_bytes
from rules.sql.values import ALL_NUMBERS, UNDEFINED, divide, greater, less, number, settle
from rules.windows.sketches import Sketch

NUMBER_BYTES = 20  # of a number as JSON, some digits more or less


def value_bytes(value: Any) -> int:
    """How many bytes a value has as JSON; about how many for a number, which is told without writing it."""
    return NUMBER_BYTES if value.__class__ in ALL_NUMBERS else len(json_bytes(value))


class Accumulator(Protocol):
    """What a window remembers of one argument of one function."""

    raw: ClassVar[bool]  # whether it wants values as they are; otherwise a number, or true for anything else
    grows: ClassVar[int]  # by how many bytes, with one more value whatever it is

    @property
    def size(self) -> int:
        """About how many bytes its state has."""
        ...

    def add(self, value: Any, at: int) -> None:
        """Take a value that is neither Null nor Undefined, of a message of the time `at` (epoch ms)."""
        ...

    def state(self) -> Any:
        """All that it knows, as a JSON value."""
        ...

    @classmethod
    def of(cls, state: Any) -> Self:
        """The accumulator with this `state()`."""
        ...


class Count:
    """How many."""

    __slots__ = ("count",)
    raw: ClassVar[bool] = False
    grows: ClassVar[int] = 0
    size: ClassVar[int] = NUMBER_BYTES

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def add(self, value: Any, at: int) -> None:
        """One more."""
        self.count += 1

    def state(self) -> Any:
        """The number."""
        return self.count

    @classmethod
    def of(cls, state: Any) -> "Count":
        """From that number."""
        return cls(state)


class Total:
    """How many numbers, and their sum: an int as long as all are Ints."""

    __slots__ = ("count", "total")
    raw: ClassVar[bool] = False
    grows: ClassVar[int] = 0
    size: ClassVar[int] = 2 * NUMBER_BYTES

    def __init__(self, count: int = 0, total: int | Decimal = 0) -> None:
        self.count = count
        self.total = total

    def add(self, value: Any, at: int) -> None:
        """Add a number."""
        value = number(value)
        if value is UNDEFINED:
            return
        self.count += 1
        if value.__class__ is int and isinstance(self.total, int):
            self.total += value
            if abs(self.total) > INT_MAX:
                self.total = CONTEXT.create_decimal(self.total)
        else:
            self.total = CONTEXT.add(exact(self.total), exact(value))

    def sum(self) -> Any:
        """The sum; Undefined without numbers, and beyond 9.99E999."""
        return settle(self.total) if self.count else UNDEFINED

    def mean(self) -> Any:
        """The sum by the number of numbers; in the 17 digits of a double where it has more."""
        mean = divide(self.sum(), self.count)
        double = float(mean) if isinstance(mean, Decimal) else math.inf
        return double if math.isfinite(double) else mean

    def state(self) -> Any:
        """Both; Null for a sum that has grown beyond all numbers."""
        total = settle(self.total)
        return [self.count, None if total is UNDEFINED else total]

    @classmethod
    def of(cls, state: Any) -> "Total":
        """From both."""
        count, total = state
        if total is None:
            return cls(count, Decimal("Infinity"))
        return cls(count, total if isinstance(total, int) else exact(total))


class _Extreme:
    """The least number, or the greatest."""

    __slots__ = ("value",)
    raw: ClassVar[bool] = False
    grows: ClassVar[int] = 0
    size: ClassVar[int] = NUMBER_BYTES
    least: ClassVar[bool]

    def __init__(self, value: Any = UNDEFINED) -> None:
        self.value = value

    def add(self, value: Any, at: int) -> None:
        """Compare a number."""
        value = number(value)
        # A comparison with Undefined is Undefined, which is not false: the first number is taken.
        if value is not UNDEFINED and (less if self.least else greater)(value, self.value) is not False:
            self.value = value

    def state(self) -> Any:
        """The number in a list, an empty list without one."""
        return [] if self.value is UNDEFINED else [self.value]

    @classmethod
    def of(cls, state: Any) -> Self:
        """From that list."""
        return cls(*state)


class Least(_Extreme):
    """The least number."""

    __slots__ = ()
    least = True


class Greatest(_Extreme):
    """The greatest number."""

    __slots__ = ()
    least = False


class _Outermost:
    """The value of the first or last message by time; of those of one moment, by arrival."""

    __slots__ = ("at", "size", "value")
    raw: ClassVar[bool] = True
    grows: ClassVar[int] = 0  # as much as the value says

    def __init__(self, at: int = 0, value: Any = UNDEFINED) -> None:
        self.at = at
        self.value = value
        self.size = 0 if value is UNDEFINED else value_bytes(value)

    def _take(self, value: Any, at: int) -> None:
        self.at, self.value, self.size = at, value, value_bytes(value)

    def state(self) -> Any:
        """Time and value, an empty list without one."""
        return [] if self.value is UNDEFINED else [self.at, self.value]

    @classmethod
    def of(cls, state: Any) -> Self:
        """From that list."""
        return cls(*state)


class Earliest(_Outermost):
    """The value of the first message."""

    __slots__ = ()

    def add(self, value: Any, at: int) -> None:
        """Keep it if it is earlier."""
        if self.value is UNDEFINED or at < self.at:
            self._take(value, at)


class Latest(_Outermost):
    """The value of the last message."""

    __slots__ = ()

    def add(self, value: Any, at: int) -> None:
        """Keep it unless it is earlier."""
        if self.value is UNDEFINED or at >= self.at:
            self._take(value, at)


class Spread:
    """Mean and squared differences from it (Welford 1962)."""

    __slots__ = ("count", "mean", "squares")
    raw: ClassVar[bool] = False
    grows: ClassVar[int] = 0
    size: ClassVar[int] = 3 * NUMBER_BYTES

    def __init__(self, count: int = 0, mean: float = 0.0, squares: float = 0.0) -> None:
        self.count = count
        self.mean = mean
        self.squares = squares

    def add(self, value: Any, at: int) -> None:
        """Take a number as a double."""
        value = number(value)
        if value is UNDEFINED:
            return
        self.count += 1
        distance = float(value) - self.mean
        self.mean += distance / self.count
        self.squares += distance * (float(value) - self.mean)

    def deviation(self) -> Any:
        """The standard deviation of a sample (n - 1), as SQL's STDDEV; Undefined for less than two numbers."""
        return settle(math.sqrt(self.squares / (self.count - 1))) if self.count > 1 else UNDEFINED

    def state(self) -> Any:
        """All three; Null for what is beyond a double."""
        known = math.isfinite(self.squares) and math.isfinite(self.mean)
        return [self.count, self.mean, self.squares] if known else [self.count, None, None]

    @classmethod
    def of(cls, state: Any) -> "Spread":
        """From all three."""
        count, mean, squares = state
        return cls(count, math.nan, math.nan) if mean is None else cls(count, float(mean), float(squares))


class Sample:
    """A sketch of the numbers."""

    __slots__ = ("sketch",)
    raw: ClassVar[bool] = False
    grows: ClassVar[int] = NUMBER_BYTES

    def __init__(self, sketch: Sketch | None = None) -> None:
        self.sketch = sketch or Sketch()

    @property
    def size(self) -> int:
        """About how many bytes the sketch has."""
        return NUMBER_BYTES * self.sketch.size

    def add(self, value: Any, at: int) -> None:
        """Take a number."""
        value = number(value)
        if value is not UNDEFINED:
            self.sketch.add(value)

    def percentile(self, percent: Number) -> Any:
        """The percentile; Undefined without numbers."""
        found = self.sketch.percentile(percent)
        return UNDEFINED if found is None else found

    def state(self) -> Any:
        """The sketch's."""
        return self.sketch.state()

    @classmethod
    def of(cls, state: Any) -> "Sample":
        """From the sketch's."""
        return cls(Sketch.of(state))


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A function of SELECT: what it accumulates, and its result from that and its parameter, if it has one."""

    accumulator: type[Accumulator]
    result: Callable[[Any, Any], Any]
    parameter: bool = False


AGGREGATES = {
    "count": Aggregate(Count, lambda found, _: found.count),
    "sum": Aggregate(Total, lambda found, _: found.sum()),
    "avg": Aggregate(Total, lambda found, _: found.mean()),
    "min": Aggregate(Least, lambda found, _: found.value),
    "max": Aggregate(Greatest, lambda found, _: found.value),
    "first": Aggregate(Earliest, lambda found, _: found.value),
    "last": Aggregate(Latest, lambda found, _: found.value),
    "stddev": Aggregate(Spread, lambda found, _: found.deviation()),
    "percentile": Aggregate(Sample, lambda found, percent: found.percentile(percent), parameter=True),
}
