"""Why a rule fires or does not for one message: WHERE in its parts with their values and types, variables, the output.

For people: each part is compiled and evaluated on its own, which no daemon does. What the engine would skip (the rest
of an AND after something false) is shown as skipped. A nested SELECT is shown as a whole, because what is inside has
another value for each element.

What is random falls once: a part draws the same that the whole drew in its place (`Again`).

Bounds: of a WHERE with more than PARTS_MAX parts the rest is not shown, and of that only what AND and OR join is
evaluated.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from rules.engine import Rule
from rules.errors import EvaluationError, SqlError, failure
from rules.event import Chance, Event
from rules.sql.compiler import compile_expression
from rules.sql.syntax import Binary, Call, Case, Exists, Expression, Literal, Logical, Subquery, Variable, operands
from rules.sql.values import UNDEFINED, equal, truth

PARTS_MAX = 200  # more than anyone reads; a statement may have thousands


class Again:
    """Chance that can be had again: what was drawn before is drawn again from where `at` is set back to."""

    def __init__(self, chance: Chance) -> None:
        self.at = self.first = 0
        self._chance = chance
        self._numbers: dict[int, float] = {}
        self._uuids: dict[int, str] = {}

    def random(self) -> float:
        """The number that was drawn here before, or a new one."""
        self.at += 1
        if self.at not in self._numbers:
            self._numbers[self.at] = self._chance.random()
        return self._numbers[self.at]

    def uuid(self) -> str:
        """The UUID that was drawn here before, or a new one."""
        self.at += 1
        if self.at not in self._uuids:
            self._uuids[self.at] = self._chance.uuid()
        return self._uuids[self.at]


def again(event: Event) -> Again:
    """The chance of an event, which from now on can be had again, set back to its beginning."""
    if not isinstance(event.chance, Again):
        event.chance = Again(event.chance)
        with suppress(EvaluationError):
            len(event.trace_id)  # it is drawn at the first question only, and would shift what is drawn after it
        event.chance.first = event.chance.at
    event.chance.at = event.chance.first
    return event.chance


@dataclass(slots=True)
class Part:
    """An expression in WHERE, as it is written, and what it is for the message: a `value`, an `error`, or `skipped`."""

    text: str
    depth: int = 0
    value: Any = UNDEFINED
    error: str = ""
    skipped: bool = False
    operator: str = ""  # AND or OR
    shown: bool = True  # constants are not, since they say everything themselves
    parts: "list[Part]" = field(default_factory=list)

    @property
    def type(self) -> str:
        """The type of the value, in the words of IoT SQL; empty when there is none."""
        return "" if self.skipped or self.error else type_of(self.value)

    def walk(self) -> "Iterator[Part]":
        """This part and those in it that are to be shown, from left to right."""
        if self.shown:
            yield self
        for part in self.parts:
            yield from part.walk()


def type_of(value: Any) -> str:
    """The type of a value of IoT SQL."""
    match value:
        case None:
            return "Null"
        case bool():
            return "Boolean"
        case int():
            return "Int"
        case float() | Decimal():
            return "Decimal"
        case str():
            return "String"
        case list():
            return "Array"
        case dict():
            return "Object"
        case bytes():
            return "bytes"
    return "Undefined"


def variables(rule: Rule, event: Event) -> list[Part]:
    """The variables of SET, in order."""
    explained = _Explained(rule, event)
    found = []
    for name, expression in rule.statement.variables:
        part = explained.part(expression, 0, whole=True)
        part.text = f"@{name}"
        found.append(part)
    return found


def condition(rule: Rule, event: Event) -> Part | None:
    """WHERE in its parts; None when there is none."""
    where = rule.statement.where
    if where is None:
        return None
    explained = _Explained(rule, event)
    explained.recall_variables()
    return explained.part(where, 0)


def blamed(part: Part) -> str:
    """Why WHERE is not true, in one sentence: the innermost part that keeps it from being so. Empty when it is true."""
    if part.error:
        return f"{part.text} failed: {part.error}"
    if part.value is True:
        return ""
    undefined = next((inner for inner in part.parts if inner.type == "Undefined" and inner.shown), None)
    if part.type == "Undefined" and undefined is not None:
        return blamed(undefined)
    guilty = next((inner for inner in part.parts if truth(inner.value) is not True), None)
    if part.operator == "AND" and guilty is not None:
        return blamed(guilty) or f"{part.text} is {part.type}"
    if part.type == "Boolean":
        return f"{part.text} is false"
    return f"{part.text} is {part.type}" + ("" if part.type in ("Undefined", "Null") else ", and not true")


class _Explained:
    """One rule and one message; counts the parts."""

    def __init__(self, rule: Rule, event: Event) -> None:
        self._rule = rule
        self._event = event
        self._parts = 0
        self._again = again(event)

    def part(self, expression: Expression, depth: int, *, skipped: bool = False, whole: bool = False) -> Part:
        """An expression with everything in it; only itself if `whole`."""
        part = Part(self._rule.sql[slice(*expression.span)], depth, skipped=skipped)
        part.operator = expression.operator if isinstance(expression, Logical) else ""
        self._parts += 1
        part.shown = self._parts <= PARTS_MAX and not isinstance(expression, Literal)
        if not skipped:
            begun = self._again.at
            self._evaluate(expression, part)
            ended = self._again.at
            is_alone = whole or isinstance(expression, Subquery | Exists) or self._parts > PARTS_MAX
            if not is_alone or isinstance(expression, Logical):
                self._again.at = begun
                part.parts = self._inside(expression, depth + 1)
            self._again.at = ended
        return part

    def recall_variables(self) -> None:
        """Give SET its values, before any part draws."""
        for name, _ in self._rule.statement.variables[:1]:
            self._evaluate(Variable(name, (0, 0)), Part(name))

    def _evaluate(self, expression: Expression, part: Part) -> None:
        rule = self._rule
        try:
            part.value = compile_expression(expression, rule.sql, rule.version, rule.statement.variables)(self._event)
        except (EvaluationError, SqlError, RecursionError) as error:
            part.error = failure(error)

    def _inside(self, expression: Expression, depth: int) -> list[Part]:
        """The operands; what the engine skips depends on those before."""
        found: list[Part] = []
        skipped = False
        match expression:
            case Logical(operator, several):
                for operand in several:
                    part = self.part(operand, depth, skipped=skipped)
                    found.append(part)
                    skipped = skipped or (not part.error and truth(part.value) is (operator == "OR"))
            case Case():
                found = self._of_case(expression, depth)
            case Call("get_or_default", (tried, default)):
                part = self.part(tried, depth)
                enough = not part.error and part.value is not None and part.value is not UNDEFINED
                found = [part, self.part(default, depth, skipped=enough)]
            case Binary():
                found = [self.part(operand, depth) for operand in _of_chain(expression)]
            case _:
                found = [self.part(operand, depth) for operand in operands(expression)]
        return found

    def _of_case(self, case: Case, depth: int) -> list[Part]:
        subject = self.part(case.subject, depth)
        found = [subject]
        done = bool(subject.error) or subject.value is UNDEFINED
        for when, then in case.branches:
            tried = self.part(when, depth, skipped=done)
            taken = not done and not tried.error and equal(subject.value, tried.value) is True
            found += [tried, self.part(then, depth, skipped=not taken)]
            done = done or taken
        if case.otherwise is not None:
            found.append(self.part(case.otherwise, depth, skipped=done))
        return found


def _of_chain(binary: Binary) -> list[Expression]:
    """The operands of an operator; of `a + b - c` all three, because the sums on the way say little."""
    later: list[Expression] = []
    while isinstance(binary.left, Binary) and binary.operator in "+-*/%":
        later.append(binary.right)
        binary = binary.left
    return [binary.left, binary.right, *reversed(later)]
