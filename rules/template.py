"""Substitution templates, `plant/${topic(2)}/alarm`: text with expressions, compiled once and rendered per
message.

Expressions see the original message, never the output of the SELECT. A value stands in the text as its String
form; Undefined and Null leave nothing. A `$` that does not begin `${` is text, and `$$` at the beginning is
one `$`: so AWS has reserved topics written (`$$aws/…`).
"""

from rules.compiler import Compiled, compile_expression
from rules.errors import EvaluationError, SqlError, failure
from rules.event import Event
from rules.lexer import SQL_CHARS_MAX
from rules.parser import parse_embedded
from rules.values import UNDEFINED, SqlVersion, joined, text


class Template:
    """A compiled template; two are equal when their texts are. Raises SqlError, placed inside `source`."""

    __slots__ = ("_parts", "source")

    def __init__(self, source: str, version: SqlVersion = SqlVersion.V2016) -> None:
        if len(source) > SQL_CHARS_MAX:
            raise SqlError(f"the template has more than {SQL_CHARS_MAX:,} characters", 1, 1)
        self.source = source
        self._parts: list[str | Compiled] = []
        at = 1 if source.startswith("$$") and not source.startswith("$${") else 0
        while (opening := source.find("${", at)) >= 0:
            self._parts.append(source[at:opening])
            expression, at = parse_embedded(source, opening + 2)
            self._parts.append(compile_expression(expression, source, version))
        self._parts.append(source[at:])

    def render(self, event: Event) -> str:
        """The text for one message. Raises EvaluationError, for a text beyond its bound."""
        try:
            return joined([part if isinstance(part, str) else _shown(part(event)) for part in self._parts])
        except Exception as error:  # as for rules: one message must never stop the next one
            raise EvaluationError(f"template {self.source[:80]!r}: {failure(error)}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and self.source == other.source

    def __hash__(self) -> int:
        return hash(self.source)

    def __repr__(self) -> str:
        return f"Template({self.source!r})"


def _shown(value: object) -> str:
    written = text(value)
    return "" if written is UNDEFINED else str(written)
