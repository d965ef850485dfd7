"""Nested SELECTs at work: what the code that the compiler writes calls for them.

`each` is the compiled rest of the query: it takes an element and gives the row, or NOTHING where its WHERE is not
true. Over an Array the rows become an Array; over an Object there is one element, itself, and one row. Anything
else has no elements, and the result is Undefined, as for an Object that does not pass.

Invariant: however its queries nest, one evaluation of a statement looks at no more than ELEMENTS_MAX elements, keeps no
more than ROWS_BYTES_MAX of rows, and computes no longer than SECONDS_MAX and a few rows.
"""

from collections.abc import Callable, Iterator
from typing import Any

from rules.errors import EvaluationError
from rules.sql.payloads import check_size
from rules.sql.values import UNDEFINED

ELEMENTS_MAX = 200_000  # three of the largest payload's arrays
ROWS_BYTES_MAX = 4_194_304  # of JSON, of all rows of one evaluation; 30 of the largest payloads
SECONDS_MAX = 0.1  # of the processor, where 100,000 simple rows take half of that; a gateway has other messages
WATCHED_ROWS = 8  # looking at the time costs as much as a simple row


class Nothing:
    """The type of NOTHING, what a statement gives when its WHERE is not true."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING = Nothing()


class Budget:
    """What one evaluation may still look at, keep and compute; `watch` tells the processor time, in seconds."""

    __slots__ = ("_bytes", "_elements", "_until", "_watch")

    def __init__(self, watch: Callable[[], float]) -> None:
        self._bytes = ROWS_BYTES_MAX
        self._elements = ELEMENTS_MAX
        self._watch = watch
        self._until = watch() + SECONDS_MAX

    def look_at(self, elements: int) -> None:
        """So many elements come. Raises EvaluationError when they are too many."""
        self._elements -= elements
        if self._elements < 0:
            raise EvaluationError(f"nested SELECTs look at more than {ELEMENTS_MAX:,} elements")

    def keep(self, row: Any) -> None:
        """A row is kept. Raises EvaluationError when all of them are too large."""
        try:
            self._bytes -= check_size(row, self._bytes)
        except EvaluationError:
            raise EvaluationError(f"the rows of nested SELECTs have more than {ROWS_BYTES_MAX:,} bytes") from None

    def go_on(self) -> None:
        """Raise EvaluationError when the time is over."""
        if self._watch() > self._until:
            raise EvaluationError(f"nested SELECTs take longer than {SECONDS_MAX} seconds")


def rows(budget: Budget, source: Any, each: Callable[[Any], Any]) -> Any:
    """The result of `(SELECT … FROM source …)`."""
    found = _rows(budget, source, each)
    return list(found) if source.__class__ is list else next(found, UNDEFINED)


def exists(budget: Budget, source: Any, each: Callable[[Any], Any]) -> bool:
    """The result of `EXISTS (SELECT … FROM source …)`."""
    return next(_rows(budget, source, each), UNDEFINED) is not UNDEFINED


def _rows(budget: Budget, source: Any, each: Callable[[Any], Any]) -> Iterator[Any]:
    if source.__class__ is dict:
        source = [source]
    elif source.__class__ is not list:
        return
    budget.look_at(len(source))
    for count, element in enumerate(source):
        if not count % WATCHED_ROWS:
            budget.go_on()
        row = each(element)
        if row is not NOTHING and row is not UNDEFINED:
            budget.keep(row)
            yield row
