"""Nested SELECTs at work: what the code that the compiler writes calls for them.

`each` is the compiled rest of the query: it takes an element and gives the row, or NOTHING where its WHERE is not
true. Over an Array the rows become an Array; over an Object there is one element, itself, and one row. Anything
else has no elements, and the result is Undefined, as for an Object that does not pass.

Invariant: one evaluation of a statement looks at no more than ELEMENTS_MAX elements, and copies no more, however its
queries nest.
"""

from collections.abc import Callable, Iterator
from typing import Any

from rules.errors import EvaluationError
from rules.sql.values import UNDEFINED, whole

ELEMENTS_MAX = 200_000  # three of the largest payload's arrays; less than a tenth of a second


class Nothing:
    """The type of NOTHING, what a statement gives when its WHERE is not true."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING = Nothing()


class Budget:
    """What one evaluation may still look at."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = ELEMENTS_MAX

    def spend(self, elements: int) -> None:
        """Take that many; raises EvaluationError when they are not left."""
        self.left -= elements
        if self.left < 0:
            raise EvaluationError(f"nested SELECTs look at more than {ELEMENTS_MAX:,} elements")

    def whole(self, value: Any) -> Any:
        """`values.whole`, which copies Arrays and Objects, for what each row may hold again."""
        waiting = [value]
        while waiting:
            found = waiting.pop()
            if found.__class__ is dict or found.__class__ is list:
                self.spend(len(found))
                waiting += found.values() if found.__class__ is dict else found
        return whole(value)


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
    budget.spend(len(source))
    for element in source:
        row = each(element)
        if row is not NOTHING and row is not UNDEFINED:
            yield row
