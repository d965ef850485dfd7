"""Pattern text to a tree, as java.util.regex.Pattern of JDK 17 reads it.

In one place the newer JDK 19 is followed: `\\b` is about letters of ASCII, as `\\w` is. Not known here: `\\b{g}`. After
an empty match `\\G` is where the next search begins, in Java one character before.

Bounds: groups are nested at most DEPTH_MAX deep. How long a text may be is the caller's concern.
"""

import re
from collections.abc import Callable

from rules.sql.javaregex import properties
from rules.sql.javaregex.classes import read_character, read_class
from rules.sql.javaregex.nodes import (
    Atomic,
    Back,
    Choice,
    Edge,
    Grapheme,
    Greed,
    Group,
    Look,
    Node,
    One,
    Repeat,
    Sequence,
    Tree,
    longest,
)
from rules.sql.javaregex.scanner import FLAGS, PatternFault, Scanner
from rules.sql.javaregex.sets import EVERY, TooManyTerms, complement, letters

DEPTH_MAX = 50  # what people can read has five; both engines follow groups by recursion
TIMES_MAX = 2**31 - 1  # Java's int

ANY_TEXT = complement(letters("\n\r\x85\u2028\u2029"))  # what `.` takes: anything but a line terminator
LINE_BREAK = Choice((Sequence((One(letters("\r")), One(letters("\n")))), One(properties.VERTICAL)))  # \R

OPENINGS: dict[str, Callable[[Node], Node]] = {
    "?:": lambda body: body,
    "?>": Atomic,
    "?=": lambda body: Look(body, behind=False, negative=False),
    "?!": lambda body: Look(body, behind=False, negative=True),
    "?<=": lambda body: Look(body, behind=True, negative=False),
    "?<!": lambda body: Look(body, behind=True, negative=True),
}
EDGES = {"A": Edge.START, "z": Edge.END, "G": Edge.LAST_MATCH}
WORD_EDGES = {"b": (Edge.WORD, Edge.WORD_UNICODE), "B": (Edge.NOT_WORD, Edge.NOT_WORD_UNICODE)}

NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*(?=>)")
TIMES = re.compile(r"([0-9]+)(?:(,)([0-9]*))?\}")


def read(text: str) -> Tree:
    """The tree of a pattern. Raises PatternFault, with the reason, for what Java refuses."""
    try:
        return _Reader(text).whole()
    except TooManyTerms:
        raise PatternFault("a character class of too many parts") from None


class _Reader:
    """A recursive descent over one pattern."""

    def __init__(self, text: str) -> None:
        self._at = Scanner(text)
        self._groups = 0
        self._names: dict[str, int] = {}
        self._depth = 0

    def whole(self) -> Tree:
        root = self._choice()
        if self._at.peek():
            self._at.fail("a ')' without its '('")
        return Tree(root, self._groups, self._names)

    def _choice(self) -> Node:
        branches = [self._sequence()]
        while self._at.take("|"):
            branches.append(self._sequence())
        return branches[0] if len(branches) == 1 else Choice(tuple(branches))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._at.peek() not in {"", "|", ")"}:
            if self._at.take("("):
                if (group := self._group()) is None:  # flags for what follows
                    continue
                parts.append(self._repeated(group))
            else:
                parts.append(self._repeated(self._element()))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _repeated(self, body: Node) -> Node:
        if self._at.take("*"):
            least, most = 0, None
        elif self._at.take("+"):
            least, most = 1, None
        elif self._at.take("?"):
            least, most = 0, 1
        elif self._at.take("{"):
            least, most = self._times()
        else:
            return body
        greed = Greed.LAZY if self._at.take("?") else Greed.POSSESSIVE if self._at.take("+") else Greed.GREEDY
        return Repeat(body, least, most, greed)

    def _times(self) -> tuple[int, int | None]:
        found = TIMES.fullmatch(self._at.match(TIMES) or "")
        if found is None:
            self._at.fail("'{' repeats nothing; as a character it is '\\{'")
        least = int(found[1])
        most = least if found[2] is None else int(found[3]) if found[3] else None
        if max(least, most or 0) > TIMES_MAX or (most is not None and most < least):
            self._at.fail("a repetition out of range")
        return least, most

    def _element(self) -> Node:
        """Anything but a group."""
        char = self._at.peek()
        if char in {"*", "+", "?"}:
            self._at.fail(f"'{char}' repeats nothing")
        if char == "{":  # `a{2}{3}`: to Java the second one repeats the empty text
            return Sequence(())
        if self._at.take("["):
            return One(read_class(self._at))
        flags = self._at.flags
        if self._at.take("."):
            return One(EVERY if "s" in flags else complement(letters("\n")) if "d" in flags else ANY_TEXT)
        if self._at.take("^"):
            return Edge.START if "m" not in flags else Edge.LINE_START_UNIX if "d" in flags else Edge.LINE_START
        if self._at.take("$"):
            return self._line_end() if "m" in flags else self._last_line()
        if self._at.ahead("\\"):
            return self._escape()
        return One(read_character(self._at))

    def _line_end(self) -> Edge:
        return Edge.LINE_END_UNIX if "d" in self._at.flags else Edge.LINE_END

    def _last_line(self) -> Edge:
        return Edge.LAST_LINE_UNIX if "d" in self._at.flags else Edge.LAST_LINE

    # ── escapes that are more than a set of characters ──────────────────────────────────────────────────────

    def _escape(self) -> Node:
        for letter, edge in EDGES.items():
            if self._at.take(f"\\{letter}"):
                return edge
        if self._at.ahead("\\b{g}"):
            self._at.fail("\\b{g} is not supported")
        for letter, (edge, unicode) in WORD_EDGES.items():
            if self._at.take(f"\\{letter}"):
                return unicode if "U" in self._at.flags else edge
        if self._at.take("\\Z"):
            return self._last_line()
        if self._at.take("\\R"):
            return LINE_BREAK
        if self._at.take("\\X"):
            return Grapheme()
        if self._at.take("\\k"):
            return self._back_by_name()
        if digit := self._at.match(re.compile(r"\\[1-9]")):
            return self._back(int(digit[1:]))
        return One(read_character(self._at))

    def _back(self, number: int) -> Node:
        """As many digits as make the number of a group that has begun; the first one in any case."""
        while (digit := self._at.peek()) and digit in "0123456789" and number * 10 + int(digit) <= self._groups:
            number = number * 10 + int(self._at.next())
        return Back(number, "i" in self._at.flags)

    def _back_by_name(self) -> Node:
        name = self._at.match(re.compile(r"<[A-Za-z][A-Za-z0-9]*>"))
        if name is None or name[1:-1] not in self._names:
            self._at.fail("\\k needs the <name> of a group before it")
        return Back(self._names[name[1:-1]], "i" in self._at.flags)

    # ── groups; the '(' has been taken ──────────────────────────────────────────────────────────────────────

    def _group(self) -> Node | None:
        before = self._at.flags
        if not self._at.ahead("?"):
            return self._capturing()
        for opening, wrap in OPENINGS.items():
            if self._at.take(opening):
                node = wrap(self._body(before))
                if isinstance(node, Look) and node.behind and longest(node.body) is None:
                    self._at.fail("a look-behind without an obvious greatest length")
                return node
        if self._at.take("?<"):
            name = self._at.match(NAME) or self._at.fail("a group's name is a letter, then letters and digits")
            if name in self._names:
                self._at.fail(f"two groups are called {name}")
            self._names[name] = self._groups + 1
            self._at.next()
            return self._capturing()
        self._at.next()
        self._set_flags()
        if self._at.take(")"):
            return None
        return self._body(before) if self._at.take(":") else self._at.fail("'(?' is followed by what means nothing")

    def _capturing(self) -> Node:
        self._groups += 1
        number = self._groups
        return Group(self._body(self._at.flags), number)

    def _set_flags(self) -> None:
        on = True
        while (flag := self._at.peek()) and flag in FLAGS | {"-"}:
            self._at.next()
            if flag == "-":
                on = False
            elif on:
                self._at.flags |= {flag}
            else:
                self._at.flags -= {flag}

    def _body(self, flags_after: frozenset[str]) -> Node:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            self._at.fail(f"groups are nested more than {DEPTH_MAX} deep")
        body = self._choice()
        self._at.flags = flags_after
        if not self._at.take(")"):
            self._at.fail("a group without its ')'")
        self._depth -= 1
        return body
