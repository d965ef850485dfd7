"""The source of one Python function, line by line: names, constants, blocks and closures.

Safe because nothing a user wrote is ever in the source: names and literals are constants `c1, c2, …` of the
function's namespace; only operators from fixed tables and names we number ourselves are formatted. Values never
nest in the source, so a deep statement meets no limit of Python's parser, and INDENT_MAX keeps blocks below the
hundred that Python allows.

Knows nothing about SQL but how its numbers are written (`settled`).
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


class Emitter:
    """The source as it grows; `text` is the SQL, for errors."""

    def __init__(self, text: str, version: SqlVersion) -> None:
        self.text = text
        self.version = version
        self.scope: Scope | None = None
        self.variables: dict[str, str] = {}  # of SET → their names in the source
        self.reads_members = False
        self.namespace: dict[str, Any] = {"PLAIN": PLAIN, "UNDEFINED": UNDEFINED, "whole": whole}
        self._head: list[str] = []
        self._lines: list[str] = []
        self._indent = 1
        self._names = 0
        self._paths: list[dict[tuple[Scope | None, Path], Operand]] = [{}]  # values at hand, a layer for each block

    def function(self) -> Callable[..., Any]:
        """The finished function."""
        head = ["def compiled(event):", *self._head]
        if self.reads_members:
            head.append("    members = event.members")
        exec("\n".join(head + self._lines), self.namespace)
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
        """The operand as the version's number rule writes it."""
        if operand.constant or not self.version.newer:
            return operand.name
        whole = "budget.whole" if self.scope else "whole"
        return f"{operand.name} if {operand.name}.__class__ in PLAIN else {whole}({operand.name})"

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Lines below `head`, which ends with a colon; what they compute is not known after them."""
        if self._indent >= INDENT_MAX:
            raise SqlError("the statement is nested too deeply", 1, 1)
        self.line(head)
        self._indent += 1
        self._paths.append({})
        yield
        self._paths.pop()
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
        for layer in reversed(self._paths):
            if known := layer.get((self.scope, path)):
                return known
        found = self.steps(self._looked_up(self.scope, path.names[0]), path.names[1:])
        self._paths[-1][self.scope, path] = found
        return found

    def _looked_up(self, scope: Scope | None, name: str) -> Operand:
        key = self.held(name).name
        if scope is None:
            self.reads_members = True
            return self.variable(f"members.get({key}, UNDEFINED)")
        if scope.alias == name:
            return Operand(scope.element)
        member = f"{scope.element}.get({key}, UNDEFINED)"
        found = self.variable(f"{member} if {scope.element}.__class__ is dict else UNDEFINED")
        with self.block(f"if {found.name} is UNDEFINED:"):
            self.line(f"{found.name} = {self._looked_up(scope.outer, name).name}")
        return found

    def steps(self, found: Operand, names: tuple[str, ...]) -> Operand:
        """The member of a member of `found`."""
        for name in names:
            step = f"{found.name}.get({self.held(name).name}, UNDEFINED)"
            found = self.variable(f"{step} if {found.name}.__class__ is dict else UNDEFINED")
        return found
