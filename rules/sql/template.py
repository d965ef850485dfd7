"""Substitution templates, `plant/${topic(2)}/alarm`: text with expressions, compiled once and rendered per
message.

Expressions see the original message and the statement's variables, never the output of the SELECT. A value stands
in the text as its String form; Undefined and Null leave nothing. A `$` that does not begin `${` is text, and `$$`
at the beginning is one `$`: so AWS has reserved topics written (`$$aws/…`).
"""

from rules.errors import EvaluationError, SqlError, failure
from rules.event import Event
from rules.sql.compiler import Variables, compile_expressions
from rules.sql.grammar import OPERANDS_MAX
from rules.sql.lexer import SQL_CHARS_MAX
from rules.sql.parser import parse_embedded
from rules.sql.syntax import Call, Expression, Literal, Statement, walk
from rules.sql.values import UNDEFINED, SqlVersion, joined, text

TOPICS_MAX = 4_096  # whose texts a template remembers; a site has a few thousand, a flood of names must not grow memory
TOPIC_CHARS_MAX = 256  # longer ones are rendered each time


class Template:
    """A compiled template; two are equal when their texts are. Raises SqlError, placed inside `source`.

    `statement`: the one whose SET variables may stand in it. `is_secret`: a secret may be in what it becomes, which is
    then not for logs.
    """

    __slots__ = ("_by_topic", "_texts", "_values", "is_secret", "source")

    def __init__(
        self,
        source: str,
        version: SqlVersion = SqlVersion.V2016,
        statement: Statement | None = None,
        calls: frozenset[str] | None = None,
    ) -> None:
        if len(source) > SQL_CHARS_MAX:
            raise SqlError(f"the template has more than {SQL_CHARS_MAX:,} characters", 1, 1)
        self.source = source
        self._texts, expressions = _taken_apart(source)
        variables: Variables = statement.variables if statement else ()
        self._values = compile_expressions(expressions, source, version, variables, calls) if expressions else None
        self.is_secret = any(map(_asks_for_a_secret, [*expressions, *(value for _, value in variables)]))
        # What it renders to, where only the topic decides that.
        self._by_topic: dict[str, str] | None = {} if all(map(_is_of_topic, expressions)) else None

    @property
    def constant(self) -> str | None:
        """The text for every message, when no expression stands in it."""
        return self._texts[0] if self._values is None else None

    def render(self, event: Event) -> str:
        """The text for one message. Raises EvaluationError, for a text beyond its bound or a call that failed."""
        known, topic = self._by_topic, event.message.topic
        if known is None or len(topic) > TOPIC_CHARS_MAX:
            return self._rendered(event)
        found = known.get(topic)
        if found is None:
            found = self._rendered(event)
            if len(known) >= TOPICS_MAX:
                known.clear()
            known[topic] = found
        return found

    def _rendered(self, event: Event) -> str:
        try:
            values = self._values(event) if self._values is not None else ()
            between = [part for text, value in zip(self._texts, values, strict=False) for part in (text, _shown(value))]
            return joined([*between, self._texts[-1]])
        except Exception as error:  # as for rules: one message must never stop the next one
            raise EvaluationError(f"template {self.source[:80]!r}: {failure(error)}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and self.source == other.source

    def __hash__(self) -> int:
        return hash(self.source)

    def __repr__(self) -> str:
        return f"Template({self.source!r})"


def _taken_apart(source: str) -> tuple[list[str], list[Expression]]:
    """The texts of a template and the expressions between them, of which there is one fewer."""
    texts: list[str] = []
    expressions: list[Expression] = []
    size = 0
    at = 1 if source.startswith("$$") and not source.startswith("$${") else 0
    while (opening := source.find("${", at)) >= 0:
        texts.append(source[at:opening])
        expression, at = parse_embedded(source, opening + 2)
        expressions.append(expression)
        size += sum(1 for _ in walk(expression))
        if size > OPERANDS_MAX:
            raise SqlError.at(source, opening, f"more than {OPERANDS_MAX:,} values in one template")
    return [*texts, source[at:]], expressions


def _is_of_topic(expression: Expression) -> bool:
    """Whether the topic alone decides the value: `topic()`, `topic(2)`."""
    match expression:
        case Call("topic", arguments):
            return all(isinstance(argument, Literal) for argument in arguments)
    return False


def _asks_for_a_secret(expression: Expression) -> bool:
    return any(isinstance(part, Call) and part.name == "get_secret" for part in walk(expression))


def _shown(value: object) -> str:
    written = text(value)
    return "" if written is UNDEFINED else str(written)
