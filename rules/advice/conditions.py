"""A WHERE that is true for no message at all: what is constant, of a wrong type, or contradicts itself.

Finds only what is certain. A comparison of a member with a literal of some type is not: nobody knows what devices send.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeAlias

from core.message import Message
from rules.advice.finding import SQL, Finding
from rules.advice.shapes import BOOLEAN, STRING, kinds
from rules.engine import Rule
from rules.errors import EvaluationError, SqlError
from rules.event import Event
from rules.sql.compiler import compile_expression
from rules.sql.functions import FUNCTIONS
from rules.sql.syntax import Binary, Call, Exists, Expression, Literal, Logical, Path, Star, Subquery, Variable, walk
from rules.sql.values import UNDEFINED, number

Scalar: TypeAlias = str | float | Decimal | bool

_ORDER = frozenset(("<", "<=", ">", ">="))
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "="}


def advise(rule: Rule) -> Iterator[Finding]:
    """What is wrong with the WHERE of a rule."""
    where = rule.statement.where
    if where is None:
        return
    if (found := _Condition(rule).never(where, top=True)) is not None:
        part, why = found
        yield Finding(rule.name, "never-true", SQL, f"WHERE is never true: {why}", offset=part.span[0])
    for part in walk(where):
        if isinstance(part, Binary) and part.operator in ("=", "<>") and (of := _null_beside(part)) is not None:
            text = rule.sql[slice(*of.span)]
            instead = f"isNull({text})" if part.operator == "=" else f"NOT isNull({text})"
            yield Finding(
                rule.name, "null-comparison", SQL, f"AWS does not document what `{part.operator} NULL` gives",
                f"write {instead}", part.span[0],
            )  # fmt: skip


def _null_beside(comparison: Binary) -> Expression | None:
    """What is compared with NULL, if something is."""
    for one, other in ((comparison.left, comparison.right), (comparison.right, comparison.left)):
        if isinstance(one, Literal) and one.value is None and not isinstance(other, Literal):
            return other
    return None


def constant(expression: Expression) -> bool:
    """Whether the value of an expression is the same for every message."""
    for part in walk(expression):
        if isinstance(part, Path | Star | Variable | Subquery | Exists):
            return False
        if isinstance(part, Call) and (part.name not in FUNCTIONS or FUNCTIONS[part.name].of_event):
            return False
    return True


@dataclass(slots=True)
class _Range:
    """What comparisons joined by AND leave of one expression's values."""

    equals: set[tuple[str, Scalar]] = field(default_factory=set)  # with the type: True and 1 are one to Python
    above: tuple[float | Decimal, bool] | None = None  # the bound, and whether it belongs to the range
    below: tuple[float | Decimal, bool] | None = None

    def add(self, operator: str, value: Scalar) -> None:
        if operator == "=":
            self.equals.add((type(value).__name__ if isinstance(value, bool | str) else "number", value))
        elif isinstance(value, int | float | Decimal):
            bound = (value, operator in ("<=", ">="))
            if operator in (">", ">="):
                self.above = max(filter(None, (self.above, bound)), key=lambda b: (b[0], not b[1]))
            else:
                self.below = min(filter(None, (self.below, bound)), key=lambda b: (b[0], b[1]))

    @property
    def empty(self) -> bool:
        """Whether no value is left."""
        if len(self.equals) > 1:
            return True
        for kind, value in self.equals:
            if kind == "number" and not isinstance(value, str):
                return not (_is_above(value, self.above) and _is_below(value, self.below))
        if self.above is None or self.below is None:
            return False
        (low, with_low), (high, with_high) = self.above, self.below
        return low > high or (low == high and not (with_low and with_high))


def _is_above(value: float | Decimal, bound: tuple[float | Decimal, bool] | None) -> bool:
    return bound is None or value > bound[0] or (bound[1] and value == bound[0])


def _is_below(value: float | Decimal, bound: tuple[float | Decimal, bool] | None) -> bool:
    return bound is None or value < bound[0] or (bound[1] and value == bound[0])


class _Condition:
    """One rule's WHERE."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._variables: Mapping[str, Expression] = dict(rule.statement.variables)

    def never(self, expression: Expression, *, top: bool = False) -> tuple[Expression, str] | None:
        """The part that keeps an expression from ever being true, and why; None when it can be.

        At the `top` the text 'true' is not true; under AND and OR it counts as true.
        """
        text = self._rule.sql[slice(*expression.span)]
        if isinstance(expression, Logical):
            return self._of_chain(expression)
        if constant(expression):
            return None if self._is_true(expression, top) else (expression, f"{text} is not true, whatever the message")
        if not kinds(expression, self._variables) & ({BOOLEAN} if top else {BOOLEAN, STRING}):
            return expression, f"{text} is {' or '.join(sorted(self._named(expression)))}, and never true or false"
        if isinstance(expression, Binary) and expression.operator in _ORDER:
            for side in (expression.left, expression.right):
                if isinstance(side, Literal) and not _is_numeric(side.value):
                    written = self._rule.sql[slice(*side.span)]
                    return side, f"{written} is no number, and < and > compare numbers only"
        return None

    def _named(self, expression: Expression) -> list[str]:
        return [kind for kind in kinds(expression, self._variables) if kind != "Undefined"]

    def _of_chain(self, chain: Logical) -> tuple[Expression, str] | None:
        found = [self.never(operand) for operand in chain.operands]
        if chain.operator == "OR":
            return found[0] if all(one is not None for one in found) else None
        first = next((one for one in found if one is not None), None)
        return first or self._contradiction(chain)

    def _contradiction(self, chain: Logical) -> tuple[Expression, str] | None:
        ranges: dict[Expression, _Range] = {}
        for operand in chain.operands:
            if (said := _said(operand)) is not None:
                about, operator, value = said
                left = ranges.setdefault(about, _Range())
                left.add(operator, value)
                if left.empty:
                    name = self._rule.sql[slice(*about.span)]
                    return operand, f"what is said of {name} here contradicts what is said before"
        return None

    def _is_true(self, expression: Expression, top: bool) -> bool:
        try:
            compiled = compile_expression(expression, self._rule.sql, self._rule.version)
            value = compiled(Event(Message("-", b""), 0))
        except (EvaluationError, SqlError):
            return False
        return value is True or (not top and isinstance(value, str) and value.lower() == "true")


def _said(operand: Expression) -> tuple[Expression, str, Scalar] | None:
    """A comparison of something with a literal, as (what, operator, value)."""
    if not isinstance(operand, Binary) or operand.operator not in _MIRRORED:
        return None
    left, right, operator = operand.left, operand.right, operand.operator
    if isinstance(left, Literal):
        left, right, operator = right, left, _MIRRORED[operator]
    if not isinstance(right, Literal) or isinstance(left, Literal) or right.value is None or _varies(left):
        return None
    return left, operator, right.value


def _varies(expression: Expression) -> bool:
    """Whether two evaluations for one message may differ."""
    return any(isinstance(part, Call) and part.name in ("rand", "newuuid") for part in walk(expression))


def _is_numeric(value: Scalar | None) -> bool:
    return value is not None and number(value) is not UNDEFINED
