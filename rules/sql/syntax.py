"""The syntax tree of a statement: what the parser understood, before anything is known about values.

Every node keeps the span of text it came from, so that errors and explanations can show it; spans do not take
part in comparison. Trees are immutable. A chain `a AND b AND c` is one node with three operands; a chain of
arithmetic leans to the left, so whoever walks one goes down `left` in a loop rather than by recursion.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]  # first character and the one after the last


@dataclass(frozen=True, slots=True)
class Literal:
    """A string, number, Boolean or NULL as written."""

    value: str | int | float | Decimal | bool | None
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Path:
    """`a.b.c`: a name of the nearest scope that knows it, and members of what it stands for, outermost first."""

    names: tuple[str, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Variable:
    """`@name`, which SET has given a value; `name` without the @."""

    name: str
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Member:
    """`base.a.b`, where `base` is anything but a name."""

    base: "Expression"
    names: tuple[str, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Star:
    """`*`: the whole payload, or inside a nested SELECT the whole element."""

    span: Span = field(compare=False, default=(0, 0))


@dataclass(frozen=True, slots=True)
class Not:
    """`NOT operand`."""

    operand: "Expression"
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Binary:
    """Arithmetic or comparison; `operator` is one of + - * / % = <> < <= > >=."""

    operator: str
    left: "Expression"
    right: "Expression"
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Logical:
    """A chain of AND or of OR; two operands or more."""

    operator: str
    operands: "tuple[Expression, ...]"
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Call:
    """`name(arguments)`; `name` in lower case, since function names know no case."""

    name: str
    arguments: "tuple[Expression, ...]"
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Cast:
    """`cast(operand AS type)`; `type` is one of the values of CAST_TYPES."""

    operand: "Expression"
    type: str
    span: Span = field(compare=False)


CAST_TYPES = {  # what may be written after AS, in lower case → the type meant
    **dict.fromkeys(("string", "nvarchar", "text", "ntext", "varchar"), "String"),
    **dict.fromkeys(("int", "integer"), "Int"),
    "double": "Double",
    "decimal": "Decimal",
    **dict.fromkeys(("bool", "boolean"), "Boolean"),
}


@dataclass(frozen=True, slots=True)
class Case:
    """`CASE subject WHEN … THEN … [ELSE otherwise] END`; each branch is (when, then)."""

    subject: "Expression"
    branches: "tuple[tuple[Expression, Expression], ...]"
    otherwise: "Expression | None"
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class In:
    """`left IN right`."""

    left: "Expression"
    right: "Expression"
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class ObjectLiteral:
    """`{"key": expression, …}`."""

    members: "tuple[tuple[str, Expression], ...]"
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class ArrayLiteral:
    """`[expression, …]`."""

    elements: "tuple[Expression, ...]"
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Item:
    """`expression AS key`; `key` has several names when the alias is dotted, and none where none is needed.

    No key: a bare `*`, the operand of SELECT VALUE, and an object literal without alias, which is merged.
    """

    expression: "Expression"
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Subquery:
    """`(SELECT … FROM source [AS alias] [WHERE …])`; `value` when it is SELECT VALUE, then of one item."""

    value: bool
    items: tuple[Item, ...]
    source: "Expression"
    alias: str | None
    where: "Expression | None"
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Exists:
    """`EXISTS (SELECT …)`."""

    query: Subquery
    span: Span = field(compare=False)


Expression: TypeAlias = (
    Literal | Path | Variable | Member | Star | Not | Binary | Logical | Call | Cast | Case | In | ObjectLiteral
    | ArrayLiteral | Subquery | Exists
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Window:
    """`GROUP BY keys, TUMBLING('60 seconds' [, 'event_time_field' [, 'lateness']])`; sizes in milliseconds.

    `time_field`: the dotted path of the payload's member that tells the time, None for the time of arrival.
    """

    keys: tuple[Expression, ...]
    size_ms: int
    time_field: tuple[str, ...] | None
    late_ms: int | None
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Statement:
    """One whole statement. `source` is None when it has no FROM, `where` when it has no WHERE.

    `variables` are those of SET, in order; `value` says SELECT VALUE, which has one item without a key.
    """

    text: str
    items: tuple[Item, ...]
    source: str | None
    where: Expression | None
    value: bool = False
    variables: tuple[tuple[str, Expression], ...] = ()
    window: Window | None = None
    source_span: Span = field(compare=False, default=(0, 0))


def operands(expression: Expression) -> tuple[Expression, ...]:
    """The expressions that `expression` is made of, from left to right."""
    match expression:
        case Literal() | Path() | Variable() | Star():
            return ()
        case Not(one) | Cast(one) | Member(one) | Exists(one):
            return (one,)
        case Binary(_, left, right) | In(left, right):
            return (left, right)
        case Logical(_, several) | Call(_, several) | ArrayLiteral(several):
            return several
        case ObjectLiteral(members):
            return tuple(value for _, value in members)
        case Case(subject, branches, otherwise):
            last = () if otherwise is None else (otherwise,)
            return (subject, *(part for branch in branches for part in branch), *last)
        case Subquery():
            last = () if expression.where is None else (expression.where,)
            return (expression.source, *last, *(item.expression for item in expression.items))


def walk(expression: Expression) -> Iterator[Expression]:
    """`expression` and everything in it, the whole before its parts, from left to right."""
    waiting = [expression]
    while waiting:
        found = waiting.pop()
        yield found
        waiting += reversed(operands(found))


def expressions(statement: Statement) -> Iterator[Expression]:
    """The outermost expressions of a statement, in the order in which they are evaluated."""
    yield from (value for _, value in statement.variables)
    if statement.where is not None:
        yield statement.where
    if statement.window is not None:
        yield from statement.window.keys
    yield from (item.expression for item in statement.items)
