"""The syntax tree of a statement: what the parser understood, before anything is known about values.

Every node keeps the span of text it came from, so that errors and explanations can show it; spans do not take
part in comparison. Trees are immutable. A chain `a AND b AND c` is one node with three operands; a chain of
arithmetic leans to the left, so whoever walks one goes down `left` in a loop rather than by recursion.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]  # first character and the one after the last


@dataclass(frozen=True, slots=True)
class Literal:
    """A string, number, Boolean or NULL as written."""

    value: str | int | float | bool | None
    span: Span = field(compare=False)


@dataclass(frozen=True, slots=True)
class Path:
    """`a.b.c`: members of the payload, outermost first."""

    names: tuple[str, ...]
    span: Span = field(compare=False)


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


Expression: TypeAlias = Literal | Path | Not | Binary | Logical | Call


def operands(expression: Expression) -> tuple[Expression, ...]:
    """The expressions that `expression` is made of, from left to right."""
    match expression:
        case Not(operand):
            return (operand,)
        case Binary(_, left, right):
            return (left, right)
        case Logical(_, several) | Call(_, several):
            return several
        case Literal() | Path():
            return ()


@dataclass(frozen=True, slots=True)
class Star:
    """`*` in a SELECT list: the whole payload."""


@dataclass(frozen=True, slots=True)
class Item:
    """`expression AS key`; `key` has several names when the alias is dotted."""

    expression: Expression
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """One whole statement. `source` is None when it has no FROM, `where` when it has no WHERE."""

    text: str
    items: tuple[Star | Item, ...]
    source: str | None
    where: Expression | None
