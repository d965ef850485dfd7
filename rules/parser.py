"""From text to syntax tree, by recursive descent with precedence climbing.

    statement := SELECT item {, item} [FROM 'topic/filter'] [WHERE expression]
    item      := * | expression [AS name {. name}]

Tightest first: `.` and calls, `* / %`, `+ -`, comparisons, NOT, AND, OR; the same level goes from left to
right. Words are keywords in any case; after AS and after a dot every word is a name, so a member called `end`
can still be reached.

Whatever else AWS's grammar has is recognised and refused by name ("not supported yet"); it is never misread
as something else. Which functions exist is the compiler's business.
"""

from core.topics import InvalidTopic, check_filter
from rules.errors import SqlError
from rules.lexer import SQL_CHARS_MAX, Token, token
from rules.syntax import Binary, Call, Expression, Item, Literal, Logical, Not, Path, Star, Statement

OPERANDS_MAX = 2_000  # compiled in a quarter of a second; people write ten
NESTING_MAX = 64  # far above what people write, far below Python's limits for its stack and its blocks

_OR, _AND, _NOT, _COMPARISON, _SUM, _PRODUCT = range(1, 7)
_STRENGTH = {
    "OR": _OR,
    "AND": _AND,
    **dict.fromkeys(("=", "<>", "<", "<=", ">", ">="), _COMPARISON),
    **dict.fromkeys("+-", _SUM),
    **dict.fromkeys("*/%", _PRODUCT),
}
_CONSTANTS = {"TRUE": True, "FALSE": False, "NULL": None}
_RESERVED = frozenset(
    ("SELECT", "FROM", "WHERE", "AS", "AND", "OR", "NOT", "IN", "CASE", "WHEN", "THEN", "ELSE", "END")
)


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


class _Parser:
    """One pass over one text, one token of look-ahead (two where a name might be a call)."""

    def __init__(self, text: str, offset: int) -> None:
        self._text = text
        self._next = token(text, offset)
        self._end = offset  # where the last taken token ended
        self._depth = 0
        self._operands = 0

    # ── tokens ──────────────────────────────────────────────────────────────────────────────────────────────

    def _take(self) -> Token:
        taken = self._next
        self._end = taken.end
        self._next = token(self._text, taken.end)
        return taken

    def _sees(self, mark: str) -> bool:
        return self._next.kind == "mark" and self._next.text == mark

    def _sees_word(self, word: str) -> bool:
        return self._next.kind == "name" and self._next.text.upper() == word

    def _after_next(self) -> Token:
        return token(self._text, self._next.end)

    def expect(self, mark: str, what: str) -> Token:
        """The next token, which must be `mark`. It is not taken, so what follows it need not be SQL."""
        if not self._sees(mark):
            raise self._wrong(f"expected {what}, found {self._found()}")
        return self._next

    def _wrong(self, message: str, at: int | None = None) -> SqlError:
        return SqlError.at(self._text, self._next.start if at is None else at, message)

    def _not_yet(self, construct: str) -> SqlError:
        return self._wrong(f"{construct} is not supported yet")

    def _found(self) -> str:
        return "the end" if self._next.kind == "end" else repr(self._next.text[:40])

    # ── statement ───────────────────────────────────────────────────────────────────────────────────────────

    def statement(self) -> Statement:
        if self._sees_word("SET"):
            raise self._not_yet("SET")
        if not self._sees_word("SELECT"):
            raise self._wrong(f"a statement begins with SELECT, not with {self._found()}")
        self._take()
        if self._value_is_keyword():
            raise self._not_yet("SELECT VALUE")
        items = [self._item()]
        while self._sees(","):
            self._take()
            items.append(self._item())
        source = self._source() if self._sees_word("FROM") else None
        where = None
        if self._sees_word("WHERE"):
            self._take()
            where = self.expression()
        if self._next.kind != "end":
            raise self._wrong(f"expected {self._expected(source, where)}, found {self._found()}")
        return Statement(self._text, tuple(items), source, where)

    def _value_is_keyword(self) -> bool:
        # Half of all sensors call their reading `value`: it is the keyword only before an expression.
        if not self._sees_word("VALUE"):
            return False
        after = self._after_next()
        if after.text == "*":
            return token(self._text, after.end).text.upper() in ("FROM", "WHERE", "")
        if after.kind == "name":
            return after.text.upper() not in ("AS", "FROM", "WHERE", "AND", "OR", "IN")
        return after.kind in ("number", "string") or after.text in ("(", "{", "[", "@")

    def _expected(self, source: str | None, where: Expression | None) -> str:
        if where is not None:
            return "an operator or the end"
        return "WHERE or the end" if source is not None else "a comma, FROM, WHERE or the end"

    def _source(self) -> str:
        self._take()
        if self._next.kind != "string" or not self._next.text.startswith("'"):
            raise self._wrong(f"FROM needs a topic filter in single quotes, found {self._found()}")
        source = str(self._next.value)
        try:
            check_filter(source)
        except InvalidTopic as error:
            raise self._wrong(str(error)) from error
        self._take()
        return source

    def _item(self) -> Star | Item:
        if self._sees("*"):
            self._take()
            if self._sees_word("AS"):
                raise self._not_yet("* AS name")
            return Star()
        start = self._next.start
        expression = self.expression()
        if self._sees_word("AS"):
            self._take()
            return Item(expression, tuple(self._dotted(self._name("AS needs a name"))))
        # AWS documents no key here: a path gives its last name, anything else the text as it is written.
        last = expression.names[-1] if isinstance(expression, Path) else self._text[start : self._end]
        return Item(expression, (last,))

    def _name(self, complaint: str) -> str:
        if self._next.kind != "name":
            raise self._wrong(f"{complaint}, found {self._found()}")
        return self._take().text

    def _dotted(self, first: str) -> list[str]:
        names = [first]
        while self._sees("."):
            self._take()
            names.append(self._name("a dot needs a name after it"))
            if len(names) > NESTING_MAX:
                raise self._wrong(f"more than {NESTING_MAX} names in one path", self._end)
        return names

    # ── expressions ─────────────────────────────────────────────────────────────────────────────────────────

    def expression(self, strength: int = _OR) -> Expression:
        """An expression whose operators bind at least as tightly as `strength`."""
        start = self._next.start
        self._depth += 1
        if self._depth > NESTING_MAX:
            raise self._wrong(f"more than {NESTING_MAX} parentheses, NOTs or calls inside each other")
        left = self._operand()
        while (operator := self._operator()) and _STRENGTH[operator] >= strength:
            if operator in ("AND", "OR"):
                left = self._chain(operator, left, start)
            else:
                self._take()
                right = self.expression(_STRENGTH[operator] + 1)
                left = Binary(operator, left, right, (start, self._end))
        self._depth -= 1
        return left

    def _operator(self) -> str | None:
        if self._next.kind not in ("mark", "name"):
            return None
        if self._sees_word("IN"):
            raise self._not_yet("IN")
        if self._sees("["):
            raise self._not_yet("[index]")
        word = self._next.text.upper()
        return word if word in _STRENGTH else None

    def _chain(self, operator: str, first: Expression, start: int) -> Logical:
        operands = [first]
        while self._operator() == operator:
            self._take()
            operands.append(self.expression(_STRENGTH[operator] + 1))
        return Logical(operator, tuple(operands), (start, self._end))

    def _operand(self) -> Expression:
        self._operands += 1
        if self._operands > OPERANDS_MAX:
            raise self._wrong(f"more than {OPERANDS_MAX:,} values in one statement")
        operand = self._bare_operand()
        if self._sees("."):  # a path has taken its own dots
            raise self._not_yet("a dot after anything but a name")
        return operand

    def _bare_operand(self) -> Expression:
        seen = self._next
        if seen.kind in ("string", "number"):
            self._take()
            return Literal(seen.value, (seen.start, seen.end))
        if seen.kind == "name":
            return self._word(seen)
        if seen.text == "-":
            return self._negative(seen)
        if seen.text == "(":
            self._take()
            if self._sees_word("SELECT"):
                raise self._not_yet("a nested SELECT")
            inside = self.expression()
            self._close("(")
            return inside
        constructs = {
            "{": "an object literal",
            "[": "an array literal",
            "@": "a variable",
            "*": "* inside an expression",
        }
        if seen.text in constructs:
            raise self._not_yet(constructs[seen.text])
        raise self._wrong(f"expected a value, found {self._found()}")

    def _negative(self, minus: Token) -> Literal:
        self._take()
        if self._next.kind != "number":
            raise self._wrong("a minus sign here needs a number after it; write 0 - x for the rest", minus.start)
        number = self._take()
        assert isinstance(number.value, int | float)
        return Literal(-number.value, (minus.start, number.end))

    def _word(self, seen: Token) -> Expression:
        word = seen.text.upper()
        call = self._after_next().text == "("
        if word in _CONSTANTS:
            self._take()
            return Literal(_CONSTANTS[word], (seen.start, seen.end))
        if word == "NOT":
            self._take()
            return Not(self.expression(_NOT), (seen.start, self._end))
        if word == "CASE" or (call and word in ("EXISTS", "CAST")):
            raise self._not_yet(word)
        if word in _RESERVED:
            raise self._wrong(f"expected a value, found the keyword {seen.text}")
        self._take()
        if call:
            return Call(seen.text.lower(), tuple(self._arguments()), (seen.start, self._end))
        return Path(tuple(self._dotted(seen.text)), (seen.start, self._end))

    def _arguments(self) -> list[Expression]:
        self._take()
        arguments: list[Expression] = []
        if not self._sees(")"):
            arguments.append(self.expression())
            while self._sees(","):
                self._take()
                arguments.append(self.expression())
        self._close("(")
        return arguments

    def _close(self, opened: str) -> None:
        self.expect(")", f"the ) for this {opened}")
        self._take()
