"""What a statement's output can be, as far as that shows without a message: its types, and its top-level members.

Errs on the side of "it can": a type or a member is left out only when no message brings it about.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from rules.sql.syntax import (
    ArrayLiteral,
    Binary,
    Call,
    Case,
    Cast,
    Exists,
    Expression,
    In,
    Literal,
    Logical,
    Not,
    ObjectLiteral,
    Star,
    Statement,
    Variable,
)

NUMBER, STRING, BOOLEAN, NULL = "a number", "a text", "true or false", "null"
ARRAY, OBJECT, BYTES, UNDEFINED = "an array", "an object", "bytes", "Undefined"

Kinds = frozenset[str]
ANYTHING: Kinds = frozenset((NUMBER, STRING, BOOLEAN, NULL, ARRAY, OBJECT, BYTES, UNDEFINED))
SCALARS: Kinds = frozenset((NUMBER, STRING, BOOLEAN, NULL))

_NUMERIC = (
    "abs acos asin atan atan2 bitand bitor bitxor ceil cos cosh exp floor indexof length ln log mod numbytes power rand"
    " remainder round sign sin sinh sqrt tan tanh time_to_epoch timestamp trunc"
)
_TEXTS = (
    "accountid chr clientid encode get_mqtt_property lower lpad ltrim md2 md5 newuuid parse_time principal"
    " regexp_replace regexp_substr replace rpad rtrim sha1 sha224 sha256 sha384 sha512 sourceip sql_version substring"
    " topic traceid trim upper"
)
_TRUTHS = "endswith isnull isundefined regexp_matches startswith"
_GIVES: dict[str, str] = {
    **dict.fromkeys(_NUMERIC.split(), NUMBER),
    **dict.fromkeys(_TEXTS.split(), STRING),
    **dict.fromkeys(_TRUTHS.split(), BOOLEAN),
    "get_user_properties": ARRAY,
    "transform": ARRAY,
}
_CASTS = {"String": STRING, "Int": NUMBER, "Double": NUMBER, "Decimal": NUMBER, "Boolean": BOOLEAN}
_ARITHMETIC = frozenset("-*/%")


@dataclass(frozen=True, slots=True)
class Shape:
    """The types that an output can have; `members` are all that an object can have, None when nobody can tell."""

    kinds: Kinds
    members: frozenset[str] | None = None

    def can_be(self, *kinds: str) -> bool:
        """Whether the output can have one of these types."""
        return bool(self.kinds.intersection(kinds))

    def can_have(self, member: str) -> bool:
        """Whether the output can be an object with this member."""
        return OBJECT in self.kinds and (self.members is None or member in self.members)


def shape(statement: Statement) -> Shape:
    """What the statement can give when its WHERE is true."""
    variables = dict(statement.variables)
    if statement.value:
        [item] = statement.items
        expression = item.expression
        members = [key for key, _ in expression.members] if isinstance(expression, ObjectLiteral) else None
        return Shape(kinds(expression, variables), None if members is None else frozenset(members))
    stars = [item for item in statement.items if isinstance(item.expression, Star) and not item.key]
    if stars:
        return Shape(ANYTHING if len(statement.items) == 1 else frozenset((OBJECT,)))
    found: set[str] = set()
    for item in statement.items:
        if item.key:
            found.add(item.key[0])
        elif isinstance(item.expression, ObjectLiteral):
            found |= {key for key, _ in item.expression.members}
    return Shape(frozenset((OBJECT,)), frozenset(found))


def kinds(expression: Expression, variables: Mapping[str, Expression]) -> Kinds:
    """The types that an expression's value can have."""
    match expression:
        case Literal(value):
            return frozenset((_kind(value),))
        case ObjectLiteral():
            return frozenset((OBJECT,))
        case ArrayLiteral():
            return frozenset((ARRAY,))
        case Logical() | Not() | In() | Exists():
            return frozenset((BOOLEAN, UNDEFINED))
        case Binary(operator):
            return _of_operator(operator)
        case Cast(_, kind):
            return frozenset((_CASTS[kind], UNDEFINED))
        case Call(name):
            return frozenset((_GIVES[name], UNDEFINED)) if name in _GIVES else ANYTHING
        case Case(_, branches, otherwise):
            results = [then for _, then in branches] + ([] if otherwise is None else [otherwise])
            return frozenset((UNDEFINED,)).union(*(kinds(result, variables) for result in results))
        case Variable(name) if name in variables:
            return kinds(variables[name], variables)
        case _:
            return ANYTHING


def _of_operator(operator: str) -> Kinds:
    if operator == "+":
        return frozenset((NUMBER, STRING, UNDEFINED))
    return frozenset((NUMBER if operator in _ARITHMETIC else BOOLEAN, UNDEFINED))


def _kind(value: str | float | Decimal | bool | None) -> str:
    if value is None:
        return NULL
    if isinstance(value, bool):
        return BOOLEAN
    return STRING if isinstance(value, str) else NUMBER
