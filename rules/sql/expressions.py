"""Expressions as straight-line code over temporaries, one line or two per operator:

    temperature > 105                 t1 = members.get(c1, UNDEFINED)
                                      t2 = t1 > c2 if t1.__class__ in NUMBERS else greater(t1, c2)

The common case (numbers, equal types) is inline, everything else is a call into `rules.sql.values`, which knows the
whole truth. AND, OR, CASE and get_or_default skip what cannot change the outcome. What depends on no message is
computed here, once. A nested SELECT is a closure over the element, which `rules.sql.queries` calls.
"""

import difflib
from collections.abc import Callable, Sequence
from typing import Any

from rules.errors import EvaluationError, SqlError
from rules.sql import queries, values
from rules.sql.emitter import Emitter, Operand
from rules.sql.functions import FUNCTIONS, REFUSED
from rules.sql.functions.function import Function
from rules.sql.queries import NOTHING
from rules.sql.syntax import (
    ArrayLiteral,
    Binary,
    Call,
    Case,
    Cast,
    Exists,
    Expression,
    In,
    Item,
    Literal,
    Logical,
    Member,
    Not,
    ObjectLiteral,
    Path,
    Star,
    Subquery,
    Variable,
    walk,
)
from rules.sql.values import NUMBERS, UNDEFINED, SqlVersion
from rules.windows.aggregates import AGGREGATES

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
_ONCE = frozenset(("get_dynamodb", "get_registry_data"))  # AWS: in one statement
FOLDED_MAX = 256  # characters or members of a constant
_NEWER_CASTS = frozenset(("Decimal", "Boolean"))


def place(output: dict[str, Any], key: tuple[str, ...], value: Any) -> None:
    """Set a member of a member (`AS a.b`), changing no dict but `output`: others may be the payload's."""
    inner = output.get(key[0])
    copy = dict(inner) if isinstance(inner, dict) else {}
    if len(key) == 2:
        copy[key[1]] = value
    else:
        place(copy, key[1:], value)
    output[key[0]] = copy


def attempt(evaluate: Callable[[], Any]) -> Any:
    """The value, or Undefined when evaluating it fails."""
    try:
        return evaluate()
    except (EvaluationError, RecursionError):
        return UNDEFINED


def _is_small(value: Any) -> bool:
    """Whether computing with a constant takes no time to speak of, so that it can be done beforehand."""
    return not isinstance(value, str | list | dict) or len(value) <= FOLDED_MAX


class ExpressionEmitter(Emitter):
    """An emitter that knows expressions; `calls` are the functions that go out which this side runs, None: all."""

    def __init__(self, text: str, version: SqlVersion, calls: frozenset[str] | None) -> None:
        super().__init__(text, version)
        self._calls = calls
        self._called: set[str] = set()
        self.namespace |= {
            "NOTHING": NOTHING,
            "NUMBERS": NUMBERS,
            "Budget": queries.Budget,
            "attempt": attempt,
            "exists": queries.exists,
            "place": place,
            "rows": queries.rows,
        }

    def emit(self, expression: Expression) -> Operand:
        """The lines that compute `expression`, and where they leave its value."""
        self.place = expression.span[0]
        match expression:
            case Literal(value):
                return self.constant(value)
            case Path():
                return self.path(expression)
            case Variable():
                return self._set_variable(expression)
            case Member(base, names):
                return self.steps(self.emit(base), names)
            case Star():
                return self._star()
            case Not(operand):
                return self._apply(values.negate, [self.emit(operand)])
            case Binary():
                return self._binary(expression)
            case Logical(operator, operands):
                return self._logical(operator, operands)
            case In(left, right):
                return self._apply(values.contains, [self.emit(left), self.emit(right)], as_is=True)
            case Call():
                return self._call(expression)
            case Cast():
                return self._cast(expression)
            case Case():
                return self._case(expression)
            case ObjectLiteral() | ArrayLiteral():
                return self._literal(expression)
            case Subquery():
                return self._subquery("rows", expression)
            case Exists(query):
                return self._subquery("exists", query)

    def wrong(self, expression: Expression, message: str) -> SqlError:
        """The error for `expression`, at its first character."""
        return SqlError.at(self.text, expression.span[0], message)

    def _newer(self, expression: Expression, what: str) -> None:
        if not self.version.newer:
            needed = f"{what} needs awsIotSqlVersion {SqlVersion.V2016}, this rule has {self.version}"
            raise self.wrong(expression, needed)

    # ── names ───────────────────────────────────────────────────────────────────────────────────────────────

    def _set_variable(self, variable: Variable) -> Operand:
        name = self.variables.get(variable.name)
        if name is None:
            near = difflib.get_close_matches(variable.name[:40], self.variables, 1)
            hint = f"; did you mean @{near[0]}?" if near else "; SET gives it one before SELECT"
            raise self.wrong(variable, f"@{variable.name[:40]} has no value here{hint}")
        return Operand(name)

    def _star(self) -> Operand:
        if self.scope:
            return Operand(self.scope.element)
        self.line("payload = event.value")
        return self.variable("UNDEFINED if payload.__class__ is bytes else payload")  # only a lone `*` gives bytes

    # ── operators ───────────────────────────────────────────────────────────────────────────────────────────

    def _binary(self, expression: Expression) -> Operand:
        chain: list[Binary] = []
        while isinstance(expression, Binary):  # down the left in a loop: `a + b + …` may be thousands long
            chain.append(expression)
            expression = expression.left
        left = self.emit(expression)
        for binary in reversed(chain):
            left = self._operation(binary.operator, left, self.emit(binary.right))
        return left

    def _operation(self, operator: str, left: Operand, right: Operand) -> Operand:
        slow = _SLOW[operator]
        if operator not in _INLINE or (left.constant and right.constant):
            return self._apply(slow, [left, right])
        if any(isinstance(side.value, int | float) and abs(side.value) > values.EXACT_MAX for side in (left, right)):
            return self._apply(slow, [left, right])  # Python sees digits of a double that its text does not have
        unsure = [side for side in (left, right) if not (side.constant and side.value.__class__ in NUMBERS)]
        compared = f"{left.name} {_INLINE[operator]} {right.name}"
        fast = [f"{unsure[0].name}.__class__ in NUMBERS"]
        if len(unsure) == 2:  # of one class, for the same reason
            fast.append(f"{left.name}.__class__ is {right.name}.__class__")
        if operator in ("=", "<>"):  # two Strings compare like two numbers
            for constant, other in ((left, right), (right, left)):
                if constant.constant and constant.value.__class__ is str:
                    fast = [f"{other.name}.__class__ is str"]
        otherwise = f"{self.held(slow).name}({left.name}, {right.name})"
        return self.variable(f"{compared} if {' and '.join(fast)} else {otherwise}")

    def _logical(self, operator: str, operands: tuple[Expression, ...]) -> Operand:
        combine, decided = (values.both, False) if operator == "AND" else (values.either, True)
        result = self.variable(self._truth(self.emit(operands[0])))
        for expression in operands[1:]:
            with self.block(f"if {result.name} is not {decided}:"):
                operand = self.emit(expression)
                self.line(f"{result.name} = {self.held(combine).name}({result.name}, {operand.name})")
        return result

    def _truth(self, operand: Operand) -> str:
        truth = self.held(values.truth).name
        return f"{operand.name} if {operand.name}.__class__ is bool else {truth}({operand.name})"

    def _cast(self, cast: Cast) -> Operand:
        if cast.type in _NEWER_CASTS:
            self._newer(cast, f"cast(… AS {cast.type})")
        return self._apply(values.cast, [self.emit(cast.operand), self.held(cast.type)])

    def _case(self, case: Case) -> Operand:
        subject = self.emit(case.subject)
        equal = self.held(values.equal).name
        result, open_ = self.variable("UNDEFINED"), self.variable(f"{subject.name} is not UNDEFINED")
        for when, then in case.branches:
            with self.block(f"if {open_.name}:"):
                matched = self.emit(when)
                with self.block(f"if {equal}({subject.name}, {matched.name}) is True:"):
                    self.line(f"{result.name} = {self.emit(then).name}")
                    self.line(f"{open_.name} = False")
        if case.otherwise is not None:
            with self.block(f"if {open_.name}:"):
                self.line(f"{result.name} = {self.emit(case.otherwise).name}")
        return result

    # ── calls ───────────────────────────────────────────────────────────────────────────────────────────────

    def _call(self, call: Call) -> Operand:
        function = self._function(call)
        if len(call.arguments) < function.least or (function.most is not None and len(call.arguments) > function.most):
            with self.discarded():
                for argument in call.arguments:
                    self.emit(argument)
            return self.constant(UNDEFINED)
        if call.name == "get_or_default":
            return self._get_or_default(call)
        if call.name == "sql_version":
            return self.constant(str(self.version))
        arguments = [self._argument(argument, function) for argument in call.arguments]
        if function.of_event:
            names = ", ".join(["event", *(self.settled(argument) for argument in arguments)])
            return self.variable(f"{self.held(function.call).name}({names})")
        return self._apply(function.call, arguments, as_is=function.as_is)

    def _argument(self, argument: Expression, function: Function) -> Operand:
        if function.takes_payload and isinstance(argument, Star) and self.scope is None:
            return self.variable("event.message.payload")
        return self.emit(argument)

    def _function(self, call: Call) -> Function:
        function = FUNCTIONS.get(call.name)
        if function is None:
            if call.name in AGGREGATES or call.name.startswith("window_"):
                raise self.wrong(call, f"{call.name}() needs GROUP BY … TUMBLING('60 seconds') in the statement")
            near = difflib.get_close_matches(call.name[:40], FUNCTIONS, 1)
            hint = f"; did you mean {near[0]}()?" if near else ""
            raise self.wrong(call, REFUSED.get(call.name) or f"there is no function {call.name[:40]}(){hint}")
        if function.since is not SqlVersion.V2015:
            self._newer(call, f"{call.name}()")
        if call.name == "decode" and any(part == Literal("proto", (0, 0)) for part in call.arguments[1:2]):
            raise self.wrong(call, REFUSED[call.name])
        if call.name == "transform" and call.arguments and not isinstance(call.arguments[0], Literal):
            raise self.wrong(call, "the first argument of transform() is a constant: 'enrichArray'")
        if function.calls_out:
            if self._calls is not None and call.name not in self._calls:
                raise self.wrong(call, f"this side cannot run {call.name}()")
            if call.name in _ONCE and call.name in self._called:
                raise self.wrong(call, f"{call.name}() may stand only once in a statement")
            self._called.add(call.name)
        return function

    def _get_or_default(self, call: Call) -> Operand:
        wanted, *default = call.arguments
        closure = self.fresh("g")
        with self.block(f"def {closure}():"):
            self.line(f"return {self.emit(wanted).name}")
        result = self.variable(f"attempt({closure})")
        with self.block(f"if {result.name} is UNDEFINED or {result.name} is None:"):
            for part in walk(default[0]) if default else ():
                if isinstance(part, Call) and (known := FUNCTIONS.get(part.name)) and known.calls_out:
                    raise self.wrong(part, f"the default of get_or_default() may not call {part.name}()")
            self.line(f"{result.name} = {self.emit(default[0]).name if default else 'UNDEFINED'}")
        return result

    def _apply(self, function: Callable[..., Any], operands: Sequence[Operand], *, as_is: bool = False) -> Operand:
        if all(operand.constant and _is_small(operand.value) for operand in operands):
            try:
                return self.constant(function(*(operand.value for operand in operands)))
            except EvaluationError:
                pass  # too large: it fails when a message comes, unless get_or_default() stands around it
        names = ", ".join(operand.name if as_is else self.settled(operand) for operand in operands)
        return self.variable(f"{self.held(function).name}({names})")

    # ── objects and arrays ──────────────────────────────────────────────────────────────────────────────────

    def _literal(self, literal: ObjectLiteral | ArrayLiteral) -> Operand:
        array = isinstance(literal, ArrayLiteral)
        self._newer(literal, "an array literal" if array else "an object literal")
        result = self.variable("[]" if array else "{}")
        members = [(None, e) for e in literal.elements] if isinstance(literal, ArrayLiteral) else literal.members
        for key, expression in members:
            value = self.settled(self.emit(expression))
            with self.block(f"if {value} is not UNDEFINED:"):
                if key is None:
                    self.line(f"{result.name}.append({value})")
                else:
                    self.line(f"{result.name}[{self.held(key).name}] = {value}")
        return self.is_settled(result)

    def object(self, items: Sequence[Item]) -> str:
        """The lines that build the output of a SELECT list; a later item replaces an earlier one of its name."""
        output = self.fresh("o")
        self.line(f"{output} = {{}}")
        for item in items:
            if item.key:
                self._member(output, item)
            elif isinstance(item.expression, Star) and self.scope is None:
                self.first("members = event.members")
                self.line(f"{output}.update({'whole(members)' if self.version.newer else 'members'})")
            else:
                merged = self.emit(item.expression)
                with self.block(f"if {merged.name}.__class__ is dict:"):
                    self.line(f"{output}.update({self.settled(merged)})")
        return output

    def _member(self, output: str, item: Item) -> None:
        value = self.settled(self.emit(item.expression))
        with self.block(f"if {value} is not UNDEFINED:"):
            if len(item.key) == 1:
                self.line(f"{output}[{self.held(item.key[0]).name}] = {value}")
            else:
                self.line(f"place({output}, {self.held(item.key).name}, {value})")

    # ── nested SELECT ───────────────────────────────────────────────────────────────────────────────────────

    def _subquery(self, gives: str, query: Subquery) -> Operand:
        self._newer(query, "a nested SELECT")
        self.first("budget = Budget(event.watch)")
        source = self.emit(query.source)
        with self.element(query.alias) as closure:
            self.passing(query.where)
            alone = query.value or query.items == (Item(Star(), ()),)
            row = self.settled(self.emit(query.items[0].expression)) if alone else self.object(query.items)
            self.line(f"return {row}")
        return self.is_settled(self.variable(f"{gives}(budget, {source.name}, {closure})"))

    def passing(self, where: Expression | None) -> None:
        """The line that gives up unless `where` is true."""
        if where is not None:
            self.line(f"if {self.emit(where).name} is not True: return NOTHING")
