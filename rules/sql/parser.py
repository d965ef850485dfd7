"""From text to syntax tree: what stands around the expressions of a statement.

    statement := [SET @name = expression {, …}] SELECT items [FROM 'topic/filter'] [WHERE expression]
                 [GROUP BY expression {, expression}]           one of them TUMBLING('60 seconds', …)

The rest of the grammar is in `rules.sql.grammar`.
"""

from core.topics import InvalidTopic, check_filter
from rules.errors import SqlError
from rules.sql.durations import milliseconds
from rules.sql.grammar import ExpressionParser
from rules.sql.lexer import SQL_CHARS_MAX
from rules.sql.syntax import Call, Expression, Literal, Statement, Window

VARIABLES_MAX = 10  # AWS
VARIABLE_CHARS_MAX = 64  # AWS


def parse_statement(text: str) -> Statement:
    """The tree of one statement. Raises SqlError at the first thing that does not fit."""
    if len(text) > SQL_CHARS_MAX:
        raise SqlError(f"the statement has more than {SQL_CHARS_MAX:,} characters", 1, 1)
    return _Parser(text, 0).statement()


def parse_embedded(text: str, offset: int) -> tuple[Expression, int]:
    """The expression that begins at `offset` and ends at a `}`, and the offset after that `}`."""
    parser = _Parser(text, offset)
    expression = parser.expression()
    return expression, parser.expect("}", "the } that ends ${…}").end


class _Parser(ExpressionParser):
    """The parser of whole statements."""

    def statement(self) -> Statement:
        """The whole text as one statement."""
        variables = self._set() if self.sees_word("SET") else ()
        self.keyword("SELECT", "a statement begins with SELECT or SET" if not variables else "SELECT comes after SET")
        value, items = self.items()
        start = self.next.start
        source = self._source() if self.sees_word("FROM") else None
        span = (start, self.end)
        where = self.where()
        window = self._window() if self.sees_word("GROUP") else None
        if self.next.kind != "end":
            raise self.wrong(f"expected {self._expected(source, where)}, found {self.found()}")
        return Statement(self.text, items, source, where, value, variables, window, span)

    def _expected(self, source: str | None, where: Expression | None) -> str:
        if where is not None:
            return "an operator, GROUP BY or the end"
        return "WHERE, GROUP BY or the end" if source is not None else "a comma, FROM, WHERE or the end"

    def _set(self) -> tuple[tuple[str, Expression], ...]:
        self.take()
        variables: dict[str, Expression] = {}
        while True:
            seen = self.next
            if seen.kind != "variable":
                raise self.wrong(f"SET needs @name = value, found {self.found()}")
            name = seen.text[1:]
            if len(name) > VARIABLE_CHARS_MAX:
                raise self.wrong(f"a variable's name has at most {VARIABLE_CHARS_MAX} characters")
            if name in variables:
                raise self.wrong(f"@{name} has a value already; a variable is set once")
            if len(variables) == VARIABLES_MAX:
                raise self.wrong(f"more than {VARIABLES_MAX} variables in one statement")
            self.take()
            self.mark("=", f"= after @{name}")
            variables[name] = self.expression()
            if not self.sees(","):
                return tuple(variables.items())
            self.take()

    def _source(self) -> str:
        self.take()
        if self.next.kind != "string" or not self.next.text.startswith("'"):
            raise self.wrong(f"FROM needs a topic filter in single quotes, found {self.found()}")
        source = str(self.next.value)
        try:
            check_filter(source)
        except InvalidTopic as error:
            raise self.wrong(str(error)) from error
        self.take()
        return source

    # ── windows ─────────────────────────────────────────────────────────────────────────────────────────────

    def _window(self) -> Window:
        start = self.take().start
        self.keyword("BY", "GROUP needs BY")
        keys = [self.expression()]
        while self.sees(","):
            self.take()
            keys.append(self.expression())
        sizes = [key for key in keys if isinstance(key, Call) and key.name == "tumbling"]
        if len(sizes) != 1:
            raise self.wrong("GROUP BY needs one TUMBLING('60 seconds') to say when a group is complete", start)
        arguments = [self._window_text(argument) for argument in sizes[0].arguments]
        if not 1 <= len(arguments) <= 3:
            raise self.wrong("TUMBLING takes 'size', 'event_time_field' and 'lateness'", sizes[0].span[0])
        field = tuple(arguments[1][0].split(".")) if len(arguments) > 1 else None
        if field is not None and not all(field):
            raise self.wrong("the field of the time is a name, or names with dots between them", arguments[1][1])
        late_ms = self._milliseconds(*arguments[2]) if len(arguments) > 2 else None
        keys.remove(sizes[0])
        return Window(tuple(keys), self._milliseconds(*arguments[0]), field, late_ms, (start, self.end))

    def _window_text(self, argument: Expression) -> tuple[str, int]:
        if not isinstance(argument, Literal) or not isinstance(argument.value, str):
            raise self.wrong("TUMBLING takes texts, like '60 seconds'", argument.span[0])
        return argument.value, argument.span[0]

    def _milliseconds(self, written: str, at: int) -> int:
        try:
            return milliseconds(written)
        except ValueError as error:
            raise self.wrong(str(error), at) from error
