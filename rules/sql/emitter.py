"""The source of one Python function, line by line: names, constants, blocks and closures.

Safe because nothing a user wrote is ever in the source: names and literals are constants `c1, c2, …` of the
function's namespace; only operators from fixed tables and names we number ourselves are formatted. Values never
nest in the source, so a deep statement meets no limit of Python's parser, and INDENT_MAX keeps blocks below the
hundred that Python allows.

Of SQL it knows what names stand for (`path`) and how numbers are written (`settled`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rules.errors import SqlError
from rules.sql.syntax import Path
from rules.sql.values import PLAIN, UNDEFINED, SqlVersion, whole

INDENT_MAX = 90  # Python: 100


@dataclass(frozen=True, slots=True)
class Operand:
    """Where a value is: a name in the generated source, and the value itself when it is constant."""

    name: str
    constant: bool = False
    value: Any = None


@dataclass(frozen=True, slots=True)
class Scope:
    """Inside a nested SELECT: the name that holds the element, its alias, and the scope around."""

    element: str
    alias: str | None
    outer: "Scope | None"


def lookup(name: str, elements: tuple[Any, ...], last: Any) -> Any:
    """The member `name` of the first of nested elements that has it, else `last`."""
    for element in elements:
        if element.__class__ is dict and name in element:
            return element[name]
    return last


class Emitter:
    """The source as it grows; `text` is the SQL, for errors."""

    def __init__(self, text: str, version: SqlVersion) -> None:
        self.text = text
        self.version = version
        self.place = 0  # in `text`, of the expression at hand
        self.scope: Scope | None = None
        self.variables: dict[str, str] = {}  # of SET → their names in the source
        self.namespace: dict[str, Any] = {"PLAIN": PLAIN, "UNDEFINED": UNDEFINED, "lookup": lookup, "whole": whole}
        self._head: list[str] = []
        self._lines: list[str] = []
        self._indent = 1
        self._names = 0
        self._known: list[dict[object, Operand]] = [{}]  # values at hand, a layer for each block

    def function(self) -> Callable[..., Any]:
        """The finished function."""
        exec("\n".join(["def compiled(event):", *self._head, *self._lines]), self.namespace)
        compiled: Callable[..., Any] = self.namespace["compiled"]
        return compiled

    def first(self, code: str) -> None:
        """Add a line at the beginning, unless it is there."""
        if (line := f"    {code}") not in self._head:
            self._head.append(line)

    def line(self, code: str) -> None:
        """Add one line at the present indentation."""
        self._lines.append("    " * self._indent + code)

    def fresh(self, prefix: str) -> str:
        """A name that is not in use."""
        self._names += 1
        return f"{prefix}{self._names}"

    def constant(self, value: Any) -> Operand:
        """A constant of the language."""
        return self.held(whole(value) if self.version.newer else value)

    def held(self, value: Any) -> Operand:
        """Anything at all, as it is, under a name in the source."""
        name = self.fresh("c")
        self.namespace[name] = value
        return Operand(name, True, value)

    def variable(self, code: str) -> Operand:
        """The value of `code`, kept under a fresh name."""
        name = self.fresh("t")
        self.line(f"{name} = {code}")
        return Operand(name)

    def settled(self, operand: Operand) -> str:
        """The operand as the version's number rule writes it; done once in each block, for it copies."""
        if operand.constant or not self.version.newer:
            return operand.name
        return self._once(operand.name, lambda: self.variable(
            f"{operand.name} if {operand.name}.__class__ in PLAIN else whole({operand.name})"
        )).name  # fmt: skip

    def is_settled(self, operand: Operand) -> Operand:
        """Note that the operand was made of settled ones."""
        self._known[-1][operand.name] = operand
        return operand

    def _once(self, key: object, emit: Callable[[], Operand]) -> Operand:
        for layer in reversed(self._known):
            if known := layer.get(key):
                return known
        found = self._known[-1][key] = emit()
        return found

    @contextmanager
    def discarded(self) -> Iterator[None]:
        """Lines that are checked like all others, and then left out."""
        lines = len(self._lines)
        self._known.append({})
        yield
        self._known.pop()
        del self._lines[lines:]

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Lines below `head`, which ends with a colon; what they compute is not known after them."""
        if self._indent >= INDENT_MAX:
            raise SqlError.at(self.text, self.place, "the statement is nested too deeply here")
        self.line(head)
        self._indent += 1
        self._known.append({})
        yield
        self._known.pop()
        self._indent -= 1

    @contextmanager
    def element(self, alias: str | None) -> Iterator[str]:
        """The lines of a closure that takes one element of a nested SELECT's source; gives the closure's name."""
        closure, element = self.fresh("q"), self.fresh("e")
        outer = self.scope
        with self.block(f"def {closure}({element}):"):
            self.scope = Scope(element, alias, outer)
            yield closure
        self.scope = outer

    # ── names ───────────────────────────────────────────────────────────────────────────────────────────────

    def path(self, path: Path) -> Operand:
        """What a path stands for where we are; looked up once in each block."""
        return self._once((self.scope, path), lambda: self.steps(self._looked_up(path.names[0]), path.names[1:]))

    def _looked_up(self, name: str) -> Operand:
        self.first("members = event.members")
        key = self.held(name).name
        elements: list[str] = []
        scope = self.scope
        while scope is not None and scope.alias != name:
            elements.append(scope.element)
            scope = scope.outer
        last = scope.element if scope is not None else f"members.get({key}, UNDEFINED)"
        if not elements:
            return Operand(last) if scope is not None else self.variable(last)
        return self.variable(f"lookup({key}, ({', '.join(elements)},), {last})")

    def steps(self, found: Operand, names: tuple[str, ...]) -> Operand:
        """The member of a member of `found`."""
        for name in names:
            step = f"{found.name}.get({self.held(name).name}, UNDEFINED)"
            found = self.variable(f"{step} if {found.name}.__class__ is dict else UNDEFINED")
        return found
