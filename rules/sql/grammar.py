"""The expressions of IoT SQL, and the SELECT lists that may stand inside them, by recursive descent with
precedence climbing.

    items := VALUE expression | item {, item}
    item  := * [AS name] | expression [AS name {. name}]

Tightest first: `.` and calls, `* / %`, `+ -`, comparisons and IN, NOT, AND, OR; the same level goes from left to
right. Words are keywords in any case; after AS and after a dot every word is a name, so a member called `end`
can still be reached.

What other dialects of SQL have and AWS's has not is refused by name, with what to write instead. Which functions
exist, and which names and variables are known, is the compiler's business.
"""

from rules.sql.syntax import (
    CAST_TYPES,
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
)
from rules.sql.tokens import Tokens
from rules.sql.values import number

OPERANDS_MAX = 2_000  # compiled in a quarter of a second; people write ten
NESTING_MAX = 64  # far above what people write, far below Python's limits for its stack and its blocks

_OR, _AND, _NOT, _COMPARISON, _SUM, _PRODUCT = range(1, 7)
_STRENGTH = {
    "OR": _OR,
    "AND": _AND,
    **dict.fromkeys(("=", "<>", "<", "<=", ">", ">=", "IN"), _COMPARISON),
    **dict.fromkeys("+-", _SUM),
    **dict.fromkeys("*/%", _PRODUCT),
}
_CONSTANTS = {"TRUE": True, "FALSE": False, "NULL": None}
_AFTER_VALUE = ("FROM", "WHERE", "GROUP", ")", "")  # what may follow the whole operand of SELECT VALUE
_RESERVED = frozenset(
    ("SELECT", "FROM", "WHERE", "AS", "AND", "OR", "NOT", "IN", "CASE", "WHEN", "THEN", "ELSE", "END", "SET")
)
_ELSEWHERE = {  # words of other dialects → what to write here
    "LIKE": "write regexp_matches(text, 'pattern'), startswith or endswith",
    "BETWEEN": "write a >= low AND a <= high",
    "IS": "write isNull(a) or isUndefined(a)",
    "NOT": "write NOT (a IN b)",
}


class ExpressionParser(Tokens):
    """One pass over one text, one token of look-ahead (two where a name might be a call)."""

    def __init__(self, text: str, offset: int) -> None:
        super().__init__(text, offset)
        self._depth = 0
        self._operands = 0

    # ── SELECT lists ────────────────────────────────────────────────────────────────────────────────────────

    def items(self) -> tuple[bool, tuple[Item, ...]]:
        """What stands after SELECT, and whether it is VALUE."""
        if self._value_is_keyword():
            self.take()
            if self.sees("*"):  # the same as without VALUE
                return False, (Item(self._star(), ()),)
            operand = self.expression()
            if self.sees_word("AS") or self.sees(","):
                raise self.wrong("SELECT VALUE gives one value, without a name")
            return True, (Item(operand, ()),)
        items = [self._item()]
        while self.sees(","):
            self.take()
            items.append(self._item())
        return False, tuple(items)

    def _value_is_keyword(self) -> bool:
        # Half of all sensors call their reading `value`: it is the keyword only before an expression.
        if not self.sees_word("VALUE"):
            return False
        after = self.after_next()
        if after.text == "-" and self.after(after).kind == "number":  # -5, and not what is left of value - 5 …
            after = self.after(after)
            return self.after(after).word in _AFTER_VALUE
        if after.text == "*":
            return self.after(after).word in _AFTER_VALUE
        if after.kind == "name":
            return after.word not in ("AS", "FROM", "WHERE", "GROUP", "AND", "OR", "IN")
        return after.kind in ("number", "string", "variable") or after.text in ("(", "{", "[")

    def _item(self) -> Item:
        if self.sees("*"):
            star = self._star()
            return Item(star, self._alias() if self.sees_word("AS") else ())
        start = self.next.start
        expression = self.expression()
        if self.sees_word("AS"):
            return Item(expression, self._alias())
        match expression:
            case ObjectLiteral():
                return Item(expression, ())
            case Path(names) | Member(_, names):
                return Item(expression, (names[-1],))
            case _:  # AWS documents no key here: the text as it is written
                return Item(expression, (self.text[start : self.end],))

    def _star(self) -> Star:
        star = self.take()
        return Star((star.start, star.end))

    def _alias(self) -> tuple[str, ...]:
        self.take()
        return tuple(self._dotted(self.name("AS needs a name")))

    def where(self) -> Expression | None:
        """What stands after WHERE, if it is there."""
        if not self.sees_word("WHERE"):
            return None
        self.take()
        return self.expression()

    # ── expressions ─────────────────────────────────────────────────────────────────────────────────────────

    def expression(self, strength: int = _OR) -> Expression:
        """An expression whose operators bind at least as tightly as `strength`."""
        start = self.next.start
        self._depth += 1
        if self._depth > NESTING_MAX:
            raise self.wrong(f"more than {NESTING_MAX} parentheses, NOTs or calls inside each other")
        left = self._operand()
        while (operator := self._operator()) and _STRENGTH[operator] >= strength:
            if operator in ("AND", "OR"):
                left = self._chain(operator, left, start)
                continue
            self.take()
            right = self.expression(_STRENGTH[operator] + 1)
            span = (start, self.end)
            left = In(left, right, span) if operator == "IN" else Binary(operator, left, right, span)
        self._depth -= 1
        return left

    def _operator(self) -> str | None:
        if self.next.kind not in ("mark", "name"):
            return None
        word = self.next.word
        if word in _ELSEWHERE:
            raise self.wrong(f"there is no {word} here: {_ELSEWHERE[word]}")
        if word == "[":
            raise self.wrong("there is no [index]: write get(array, 0)")
        return word if word in _STRENGTH else None

    def _chain(self, operator: str, first: Expression, start: int) -> Logical:
        operands = [first]
        while self._operator() == operator:
            self.take()
            operands.append(self.expression(_STRENGTH[operator] + 1))
        return Logical(operator, tuple(operands), (start, self.end))

    def _operand(self) -> Expression:
        self._operands += 1
        if self._operands > OPERANDS_MAX:
            raise self.wrong(f"more than {OPERANDS_MAX:,} values in one statement")
        start = self.next.start
        operand = self._bare_operand()
        if not self.sees("."):
            return operand
        self.take()  # a path has taken its own dots
        names = self._dotted(self.name("a dot needs a name after it; for others write get(object, 'a-b')"))
        return Member(operand, tuple(names), (start, self.end))

    def _bare_operand(self) -> Expression:
        seen = self.next
        if seen.kind in ("string", "number"):
            self.take()
            return Literal(seen.value, (seen.start, seen.end))
        if seen.kind == "variable":
            self.take()
            return Variable(seen.text[1:], (seen.start, seen.end))
        if seen.kind == "name":
            return self._word(seen.word)
        match seen.text:
            case "-":
                return self._negative()
            case "(":
                return self._parenthesis()
            case "{":
                return self._object()
            case "[":
                self.take()
                elements = self._list("]", "the ] of this array")
                return ArrayLiteral(tuple(elements), (seen.start, self.end))
        hint = ": write a = b, with one =" if seen.text == "=" else ""
        raise self.wrong(f"expected a value, found {self.found()}{hint}")

    def _negative(self) -> Literal:
        minus = self.take()
        if self.next.kind != "number":
            raise self.wrong("a minus sign here needs a number after it; write 0 - x for the rest", minus.start)
        digits = self.take()
        return Literal(number("-" + digits.text.replace("+", "")), (minus.start, digits.end))

    def _parenthesis(self) -> Expression:
        start = self.take().start
        if self.sees_word("SELECT"):
            return self._subquery(start)
        inside = self.expression()
        self.mark(")", "the ) for this (")
        return inside

    def _object(self) -> ObjectLiteral:
        start = self.take().start
        members: dict[str, Expression] = {}
        while not self.sees("}"):
            if members:
                self.mark(",", "a comma or the } of this object")
            key = self.next
            if key.kind != "string":
                raise self.wrong(f"a key is a text in quotes, found {self.found()}")
            if key.value in members:
                raise self.wrong(f"the key {key.text} stands here twice")
            self.take()
            self.mark(":", f": after {key.text[:40]}")
            members[str(key.value)] = self.expression()
        self.take()
        return ObjectLiteral(tuple(members.items()), (start, self.end))

    def _word(self, word: str) -> Expression:
        seen = self.next
        call = self.after_next().text == "("
        if word in _CONSTANTS:
            self.take()
            return Literal(_CONSTANTS[word], (seen.start, seen.end))
        if word == "NOT":
            self.take()
            return Not(self.expression(_NOT), (seen.start, self.end))
        if word == "CASE":
            return self._case()
        if call and word == "EXISTS":
            return self._exists()
        if call and word == "CAST":
            return self._cast()
        if word in _RESERVED:
            hint = f"; for a member of that name write get(*, '{seen.text}')"
            raise self.wrong(f"expected a value, found the keyword {seen.text}{hint}")
        self.take()
        if call:
            self.take()
            arguments = self._list(")", "the ) for this (", star=True)
            return Call(seen.text.lower(), tuple(arguments), (seen.start, self.end))
        return Path(tuple(self._dotted(seen.text)), (seen.start, self.end))

    def _case(self) -> Case:
        start = self.take().start
        if self.sees_word("WHEN"):
            raise self.wrong("CASE needs a value to compare: CASE value WHEN 1 THEN 'one' ELSE 'other' END")
        subject = self.expression()
        branches: list[tuple[Expression, Expression]] = []
        while self.sees_word("WHEN"):
            self.take()
            when = self.expression()
            self.keyword("THEN", "WHEN needs THEN")
            branches.append((when, self.expression()))
        if not branches:
            raise self.wrong(f"CASE needs at least one WHEN, found {self.found()}")
        otherwise = None
        if self.sees_word("ELSE"):
            self.take()
            otherwise = self.expression()
        self.keyword("END", "CASE needs END")
        return Case(subject, tuple(branches), otherwise, (start, self.end))

    def _cast(self) -> Cast:
        start = self.take().start
        self.take()
        operand = self.expression()
        self.keyword("AS", "cast needs AS and a type: cast(a AS Int)")
        name = self.name("cast needs a type after AS")
        if name.lower() not in CAST_TYPES:
            raise self.wrong(f"cast knows no type {name[:40]}; it knows: {', '.join(CAST_TYPES)}", self.end - len(name))
        self.mark(")", "the ) of this cast")
        return Cast(operand, CAST_TYPES[name.lower()], (start, self.end))

    def _exists(self) -> Exists:
        start = self.take().start
        opened = self.take().start
        if not self.sees_word("SELECT"):
            raise self.wrong(f"EXISTS needs a nested SELECT, found {self.found()}")
        query = self._subquery(opened)
        return Exists(query, (start, self.end))

    def _subquery(self, start: int) -> Subquery:
        self._depth += 1
        self.take()
        value, items = self.items()
        self.keyword("FROM", "a nested SELECT needs FROM and an array or object")
        if self.next.kind == "string":
            raise self.wrong("a nested SELECT takes an array or object after FROM; topics belong to the outermost one")
        source = self.expression()
        alias = None
        if self.sees_word("AS"):
            self.take()
            alias = self.name("AS needs a name")
        where = self.where()
        self.mark(")", "the ) of this nested SELECT")
        self._depth -= 1
        return Subquery(value, items, source, alias, where, (start, self.end))

    # ── lists and names ─────────────────────────────────────────────────────────────────────────────────────

    def _list(self, closing: str, what: str, *, star: bool = False) -> list[Expression]:
        listed: list[Expression] = []
        while not self.sees(closing):
            if listed:
                self.mark(",", what)
            listed.append(self._star() if star and self.sees("*") else self.expression())
        self.take()
        return listed

    def _dotted(self, first: str) -> list[str]:
        names = [first]
        while self.sees("."):
            self.take()
            names.append(self.name("a dot needs a name after it; for others write get(object, 'a-b')"))
            if len(names) > NESTING_MAX:
                raise self.wrong(f"more than {NESTING_MAX} names in one path", self.end)
        return names
