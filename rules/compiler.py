"""From syntax tree to one Python function, by writing its source: nothing is interpreted when a message
comes.

Statements become straight-line code over temporaries, one line or two per operator:

    WHERE temperature > 105           t1 = members.get(c1, UNDEFINED)
                                      t2 = t1 > c2 if t1.__class__ in NUMBERS else greater(t1, c2)
                                      if t2 is not True: return NOTHING

The common case (numbers, equal types) is inline, everything else is a call into `rules.values`, which knows
the whole truth. AND and OR skip the operands that cannot change the outcome. What depends on no message is
computed here, once.

Safe because nothing a user wrote is ever in the source: names and literals are constants `c0, c1, …` of the
function's namespace; only operators from fixed tables and names we number ourselves are formatted.
Expressions never nest in the source, so a deep statement meets no limit of Python's parser; the parser's
NESTING_MAX bounds the indentation.
"""

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from rules import values
from rules.errors import SqlError
from rules.event import Event
from rules.functions import FUNCTIONS, NOT_YET, Function
from rules.syntax import Binary, Call, Expression, Item, Literal, Logical, Not, Path, Star, Statement
from rules.values import NUMBERS, PLAIN, UNDEFINED, SqlVersion, whole

Compiled: TypeAlias = Callable[[Event], Any]


class Nothing:
    """The type of NOTHING, what a statement gives when its WHERE is not true."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING = Nothing()

_SLOW = {  # operator → the function that knows every case
    "+": values.add,
    "-": values.subtract,
    "*": values.multiply,
    "/": values.divide,
    "%": values.remainder,
    "=": values.equal,
    "<>": values.unequal,
    "<": values.less,
    "<=": values.less_or_equal,
    ">": values.greater,
    ">=": values.greater_or_equal,
}
_INLINE = {
    "=": "==",
    "<>": "!=",
    "<": "<",
    "<=": "<=",
    ">": ">",
    ">=": ">=",
}  # right as they are, between two numbers


def compile_statement(statement: Statement, version: SqlVersion) -> Compiled:
    """A function from an Event to the statement's output: an object, a value or bytes, or NOTHING.

    Raises SqlError for a function that does not exist, or not in this version.
    """
    emitter = _Emitter(statement.text, version)
    if statement.where is not None:
        emitter.line(f"if {emitter.emit(statement.where).name} is not True: return NOTHING")
    emitter.select(statement)
    return emitter.function()


def compile_expression(expression: Expression, text: str, version: SqlVersion) -> Compiled:
    """A function from an Event to the value of `expression`, a part of `text`. Raises SqlError too."""
    emitter = _Emitter(text, version)
    emitter.line(f"return {emitter.settled(emitter.emit(expression))}")
    return emitter.function()


def place(output: dict[str, Any], key: tuple[str, ...], value: Any) -> None:
    """Set a member of a member (`AS a.b`), changing no dict but `output`: others may be the payload's."""
    inner = output.get(key[0])
    copy = dict(inner) if isinstance(inner, dict) else {}
    if len(key) == 2:
        copy[key[1]] = value
    else:
        place(copy, key[1:], value)
    output[key[0]] = copy


@dataclass(frozen=True, slots=True)
class _Operand:
    """Where a value is: a name in the generated source, and the value itself when it is constant."""

    name: str
    constant: bool = False
    value: Any = None


class _Emitter:
    """The source of one function, line by line, and the constants that it refers to."""

    def __init__(self, text: str, version: SqlVersion) -> None:
        self._text = text
        self._whole = version is SqlVersion.V2016
        self._version = version
        self._lines: list[str] = []
        self._indent = 1
        self._names = 0
        self._reads_members = False
        self._namespace: dict[str, Any] = {
            "NOTHING": NOTHING,
            "NUMBERS": NUMBERS,
            "PLAIN": PLAIN,
            "UNDEFINED": UNDEFINED,
            "place": place,
            "whole": whole,
        }

    def function(self) -> Compiled:
        """The finished function."""
        head = ["def compiled(event):"] + ["    members = event.members"] * self._reads_members
        exec("\n".join(head + self._lines), self._namespace)
        compiled: Compiled = self._namespace["compiled"]
        return compiled

    def line(self, code: str) -> None:
        """Add one line at the present indentation."""
        self._lines.append("    " * self._indent + code)

    def _name(self, prefix: str) -> str:
        self._names += 1
        return f"{prefix}{self._names}"

    def _constant(self, value: Any) -> _Operand:
        name = self._name("c")
        value = self._namespace[name] = whole(value) if self._whole else value
        return _Operand(name, True, value)

    def _variable(self, code: str) -> _Operand:
        name = self._name("t")
        self.line(f"{name} = {code}")
        return _Operand(name)

    @contextmanager
    def _block(self, head: str) -> Iterator[None]:
        self.line(head)
        self._indent += 1
        yield
        self._indent -= 1

    def settled(self, operand: _Operand) -> str:
        """The operand as the version's number rule writes it."""
        if operand.constant or not self._whole:
            return operand.name
        return f"{operand.name} if {operand.name}.__class__ in PLAIN else whole({operand.name})"

    # ── SELECT ──────────────────────────────────────────────────────────────────────────────────────────────

    def select(self, statement: Statement) -> None:
        """The lines that build and return the output; a later item replaces an earlier one of its name."""
        if statement.items == (Star(),):
            self.line("return whole(event.value)" if self._whole else "return event.value")
            return
        self.line("output = {}")
        for item in statement.items:
            if isinstance(item, Item):
                self._member(item)
            else:
                self._reads_members = True
                self.line(f"output.update({'whole(members)' if self._whole else 'members'})")
        self.line("return output")

    def _member(self, item: Item) -> None:
        operand = self.emit(item.expression)
        with self._block(f"if {operand.name} is not UNDEFINED:"):
            if len(item.key) == 1:
                self.line(f"output[{self._constant(item.key[0]).name}] = {self.settled(operand)}")
            else:
                self.line(f"place(output, {self._constant(item.key).name}, {self.settled(operand)})")

    # ── expressions ─────────────────────────────────────────────────────────────────────────────────────────

    def emit(self, expression: Expression) -> _Operand:
        """The lines that compute `expression`, and where they leave its value."""
        match expression:
            case Literal(value):
                return self._constant(value)
            case Path(names):
                return self._path(names)
            case Not(operand):
                return self._apply(values.negate, [self.emit(operand)])
            case Binary():
                return self._binary(expression)
            case Logical(operator, operands):
                return self._logical(operator, operands)
            case Call():
                return self._call(expression)

    def _path(self, names: tuple[str, ...]) -> _Operand:
        self._reads_members = True
        found = self._variable(f"members.get({self._constant(names[0]).name}, UNDEFINED)")
        for name in names[1:]:
            step = f"{found.name}.get({self._constant(name).name}, UNDEFINED)"
            found = self._variable(f"{step} if {found.name}.__class__ is dict else UNDEFINED")
        return found

    def _binary(self, expression: Expression) -> _Operand:
        chain: list[Binary] = []
        while isinstance(expression, Binary):  # down the left in a loop: `a + b + …` may be thousands long
            chain.append(expression)
            expression = expression.left
        left = self.emit(expression)
        for binary in reversed(chain):
            left = self._operation(binary.operator, left, self.emit(binary.right))
        return left

    def _operation(self, operator: str, left: _Operand, right: _Operand) -> _Operand:
        slow = _SLOW[operator]
        if operator not in _INLINE or (left.constant and right.constant):
            return self._apply(slow, [left, right])
        unsure = [side for side in (left, right) if not (side.constant and side.value.__class__ in NUMBERS)]
        fast = [f"{side.name}.__class__ in NUMBERS" for side in unsure]
        compared = f"{left.name} {_INLINE[operator]} {right.name}"
        if operator in ("=", "<>"):
            for constant, other in ((left, right), (right, left)):
                if constant.constant and constant.value.__class__ is str:
                    fast = [f"{other.name}.__class__ is str"]
        otherwise = f"{self._constant(slow).name}({left.name}, {right.name})"
        return self._variable(f"{compared} if {' and '.join(fast)} else {otherwise}")

    def _logical(self, operator: str, operands: tuple[Expression, ...]) -> _Operand:
        combine, decided = (values.both, False) if operator == "AND" else (values.either, True)
        result = self._variable(self._truth(self.emit(operands[0])))
        for expression in operands[1:]:
            with self._block(f"if {result.name} is not {decided}:"):
                operand = self.emit(expression)
                self.line(f"{result.name} = {self._constant(combine).name}({result.name}, {operand.name})")
        return result

    def _truth(self, operand: _Operand) -> str:
        truth = self._constant(values.truth).name
        return f"{operand.name} if {operand.name}.__class__ is bool else {truth}({operand.name})"

    def _call(self, call: Call) -> _Operand:
        function = self._function(call)
        arguments = [self.emit(argument) for argument in call.arguments]
        if len(arguments) < function.least or (function.most is not None and len(arguments) > function.most):
            return self._constant(UNDEFINED)
        if function.of_event:
            names = ", ".join(["event", *(self.settled(argument) for argument in arguments)])
            return self._variable(f"{self._constant(function.call).name}({names})")
        return self._apply(function.call, arguments)

    def _function(self, call: Call) -> Function:
        function = FUNCTIONS.get(call.name)
        if function is not None and (self._whole or function.since is SqlVersion.V2015):
            return function
        if function is not None:
            message = f"{call.name}() needs awsIotSqlVersion {function.since}, this rule has {self._version}"
        elif call.name in NOT_YET:
            message = f"the function {call.name}() is not supported yet"
        else:
            near = difflib.get_close_matches(call.name[:40], FUNCTIONS, 1)
            hint = f"; did you mean {near[0]}()?" if near else ""
            message = f"there is no function {call.name[:40]}(){hint}"
        raise SqlError.at(self._text, call.span[0], message)

    def _apply(self, function: Callable[..., Any], operands: list[_Operand]) -> _Operand:
        if all(operand.constant for operand in operands):
            return self._constant(function(*(operand.value for operand in operands)))
        names = ", ".join(self.settled(operand) for operand in operands)
        return self._variable(f"{self._constant(function).name}({names})")
