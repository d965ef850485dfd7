"""From syntax tree to one Python function, by writing its source: nothing is interpreted when a message comes.

A statement becomes: the variables that WHERE needs, WHERE, the other variables, SELECT. How expressions are written
is in `rules.sql.expressions`, what keeps the source safe in `rules.sql.emitter`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from rules.errors import EvaluationError
from rules.event import Event
from rules.sql.expressions import ExpressionEmitter
from rules.sql.payloads import check_size, json_bytes
from rules.sql.queries import NOTHING
from rules.sql.syntax import ArrayLiteral, Expression, Item, ObjectLiteral, Star, Statement, Subquery, Variable, walk
from rules.sql.values import UNDEFINED, SqlVersion

__all__ = ["NOTHING", "Compiled", "compile_expression", "compile_expressions", "compile_statement"]

Compiled: TypeAlias = Callable[[Event], Any]
Variables: TypeAlias = tuple[tuple[str, Expression], ...]

OUTPUT_BYTES_MAX = 1_048_576  # eight times the largest AWS payload
_PARTS_PLAIN = 24  # a SELECT list that is no longer gives at most this many payloads
_MULTIPLYING = (ArrayLiteral, ObjectLiteral, Subquery)

VARIABLES_BYTES_MAX = 131_072  # AWS: the value of each variable, and of all of a statement together


def compile_statement(statement: Statement, version: SqlVersion, calls: frozenset[str] | None = None) -> Compiled:
    """A function from an Event to the statement's output: an object, a value or bytes, or NOTHING.

    `calls`: the functions that go out which this side runs, None for all. Raises SqlError for a function that does
    not exist, or not here, or not in this version.
    """
    emitter = _StatementEmitter(statement.text, version, calls)
    emitter.check_order(statement.variables)
    if statement.where is not None:
        emitter.set(statement.variables, [statement.where])
        emitter.passing(statement.where)
    emitter.set(statement.variables)
    emitter.select(statement)
    return emitter.function()


def compile_expression(
    expression: Expression,
    text: str,
    version: SqlVersion,
    variables: Variables = (),
    calls: frozenset[str] | None = None,
) -> Compiled:
    """A function from an Event to the value of `expression`, a part of `text`. Raises SqlError too.

    `variables` of a statement have the values that the statement gave them for the same event, if it was evaluated.
    """
    values = compile_expressions([expression], text, version, variables, calls)
    return lambda event: values(event)[0]


def compile_expressions(
    expressions: Sequence[Expression],
    text: str,
    version: SqlVersion,
    variables: Variables = (),
    calls: frozenset[str] | None = None,
) -> Callable[[Event], tuple[Any, ...]]:
    """The same for several expressions at once."""
    emitter = _StatementEmitter(text, version, calls)
    if variables and any(isinstance(part, Variable) for expression in expressions for part in walk(expression)):
        emitter.recall(variables)
    values = [emitter.settled(emitter.emit(expression)) for expression in expressions]
    emitter.line(f"return ({', '.join(values)},)")
    return emitter.function()


def _bounded(value: Any, size: int) -> int:
    """`size` and that of one more variable's value; raises EvaluationError beyond VARIABLES_BYTES_MAX."""
    if value.__class__ in (str, list, dict):
        check_size(value, VARIABLES_BYTES_MAX)
        size += len(json_bytes(value))
        if size > VARIABLES_BYTES_MAX:
            raise EvaluationError(f"the variables of SET hold more than {VARIABLES_BYTES_MAX:,} bytes")
    return size


class _StatementEmitter(ExpressionEmitter):
    """What a statement has around its expressions."""

    def __init__(self, text: str, version: SqlVersion, calls: frozenset[str] | None) -> None:
        super().__init__(text, version, calls)
        self.namespace |= {"bounded": _bounded, "check_size": check_size, "one_value": _one_value}

    def check_order(self, variables: Variables) -> None:
        """Raise SqlError for a variable that stands in SET before it has a value."""
        for name, expression in variables:
            with self.discarded():
                self.emit(expression)
            self.variables[name] = "UNDEFINED"
        self.variables.clear()
        self._called.clear()

    def set(self, variables: Variables, readers: Iterable[Expression] | None = None) -> None:
        """The lines that compute those variables that `readers` need and that are not there yet; without, all.

        When all are there they are kept for those who ask after the statement: templates.
        """
        needed = {part.name for reader in readers or () for part in walk(reader) if isinstance(part, Variable)}
        for name, expression in reversed(variables):
            if name in needed:
                needed |= {part.name for part in walk(expression) if isinstance(part, Variable)}
        for name, expression in variables:
            if name in self.variables or not (readers is None or name in needed):
                continue
            self.first("size = 0")
            settled = self.settled(self.emit(expression))
            self.line(f"size = bounded({settled}, size)")
            self.variables[name] = settled
        if variables and readers is None:
            values = ", ".join(self.variables[name] for name, _ in variables)
            self.line(f"event.set[{id(variables)}] = ({values},)")
            self.held(variables)  # as long as it is there, no other has its id

    def recall(self, variables: Variables) -> None:
        """The lines that have the variables as the statement left them, or compute them."""
        compute = _StatementEmitter(self.text, self.version, self._calls)
        compute.check_order(variables)
        compute.set(variables)
        known = self.variable(f"event.set.get({id(variables)})")
        with self.block(f"if {known.name} is None:"):
            self.line(f"{self.held(compute.function()).name}(event)")
            self.line(f"{known.name} = event.set[{id(variables)}]")
        for place, (name, _) in enumerate(variables):
            self.variables[name] = self.variable(f"{known.name}[{place}]").name

    def select(self, statement: Statement) -> None:
        """The lines that build and return the output, and look at its size where it may be many payloads large."""
        if statement.items == (Item(Star(), ()),):
            self.line("return whole(event.value)" if self.version.newer else "return event.value")
        elif statement.value:
            value = self.settled(self.emit(statement.items[0].expression))
            output = self.variable(f"one_value({value}, {self.version.newer})").name
            self._returned(statement, output)
        else:
            self._returned(statement, self.object(statement.items))

    def _returned(self, statement: Statement, output: str) -> None:
        parts = [part for item in statement.items for part in walk(item.expression)]
        if len(parts) > _PARTS_PLAIN or any(isinstance(part, _MULTIPLYING) for part in parts):
            self.line(f"check_size({output}, {OUTPUT_BYTES_MAX})")
        self.line(f"return {output}")


def _one_value(value: Any, arrays: bool) -> Any:
    """The output of SELECT VALUE: Undefined alone is written as no bytes at all."""
    if value.__class__ is list and not arrays:
        raise EvaluationError(f"SELECT VALUE gave an array, which needs awsIotSqlVersion {SqlVersion.V2016}")
    return b"" if value is UNDEFINED or value.__class__ is bytes else value
