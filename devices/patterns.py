"""Texts with `*`, `?` and `${variables}`, as policies write them, and whether a text matches one.

A `Pattern` is what stands in a document. Bound to the values of one connection it is a `Glob`, in which a value is
always literal: a client whose identifier is `*` gains nothing. `*` stands for any characters, `/` too, `?` for one;
`${*}`, `${?}` and `${$}` are those characters themselves (IAM User Guide, "Variables and tags").

Matching never goes back: each piece between two `*` is looked for once, from where the one before it ended. The time is
linear in the text, whatever the pattern.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

PATTERN_CHARS_MAX = 1_024  # four times the longest topic of AWS IoT
VARIABLES_MAX = 16  # in one pattern; each may bring a long value

Value = Callable[[str], str | None]
"""Gives the value of a variable, None when it has none."""

_TOKEN = re.compile(r"\$\{([^{}]*)\}|\$\{|[*?]|[^*?$]+|\$", re.DOTALL)


class Wild(Enum):
    """What a wildcard stands for."""

    ANY = "*"
    ONE = "?"


@dataclass(frozen=True, slots=True)
class Variable:
    """`${name}`."""

    name: str


class Pattern:
    """One text of a document, parsed. Raises ValueError that says what is wrong with it.

    Without `wildcards`, `*` and `?` are the characters themselves.
    """

    __slots__ = ("_glob", "_tokens", "text", "variables")

    def __init__(self, text: str, *, wildcards: bool = True) -> None:
        if len(text) > PATTERN_CHARS_MAX:
            raise ValueError(f"longer than {PATTERN_CHARS_MAX:,} characters")
        self.text = text
        self._tokens = [_token(match, wildcards) for match in _TOKEN.finditer(text)]
        self.variables = tuple(token.name for token in self._tokens if isinstance(token, Variable))
        if len(self.variables) > VARIABLES_MAX:
            raise ValueError(f"more than {VARIABLES_MAX} variables")
        self._glob = None if self.variables else _glob(self._tokens)  # most have none; one serves all connections

    def bind(self, value: Value, *, missing: Wild | None = None) -> "Glob | None":
        """The pattern for one connection. A variable without a value becomes `missing`, or makes it None."""
        if self._glob is not None:
            return self._glob
        tokens: list[str | Wild | Variable] = []
        for token in self._tokens:
            bound = value(token.name) if isinstance(token, Variable) else token
            if bound is None:
                bound = missing
            if bound is None:
                return None
            tokens.append(bound)
        return _glob(tokens)


def _token(match: re.Match[str], wildcards: bool) -> str | Wild | Variable:
    text, name = match[0], match[1]
    if text == "${":
        raise ValueError("'${' begins a variable that does not end; a '$' before a '{' is written '${$}'")
    if name is None:
        return Wild(text) if wildcards and text in ("*", "?") else text
    return name if name in ("*", "?", "$") else Variable(name)


def _glob(tokens: list[str | Wild | Variable]) -> "Glob":
    pieces: list[list[str | None]] = [[]]  # between the `*`; None is a `?`
    for token in tokens:
        if token is Wild.ANY:
            pieces.append([])
        elif token is Wild.ONE:
            pieces[-1].append(None)
        else:
            assert isinstance(token, str)
            pieces[-1].append(token)
    return Glob([_Piece(parts) for parts in pieces])


class Glob:
    """A pattern whose every character is known."""

    __slots__ = ("_first", "_last", "_middle")

    def __init__(self, pieces: "list[_Piece]") -> None:
        self._first = pieces[0]
        self._last = pieces[-1] if len(pieces) > 1 else None
        self._middle = [piece for piece in pieces[1:-1] if piece.length]

    def matches(self, text: str) -> bool:
        """Whether it matches the whole of `text`."""
        at = self._first.length
        if self._last is None:
            return len(text) == at and self._first.fits(text, 0)
        end = len(text) - self._last.length
        if end < at or not self._first.fits(text, 0) or not self._last.fits(text, end):
            return False
        for piece in self._middle:
            found = piece.find(text, at, end)
            if found < 0:
                return False
            at = found + piece.length
        return True


class _Piece:
    """Literal characters and `?`, of a fixed length."""

    __slots__ = ("_any", "_literal", "_masks", "_parts", "length")

    def __init__(self, parts: list[str | None]) -> None:
        self.length = sum(1 if part is None else len(part) for part in parts)
        self._parts: list[tuple[int, str]] = []
        self._masks: dict[str, int] | None = None
        at = 0
        for part in parts:
            if part:
                self._parts.append((at, part))
            at += 1 if part is None else len(part)
        self._literal = None if None in parts else "".join(part for _, part in self._parts)

    def fits(self, text: str, at: int) -> bool:
        """Whether it stands at `at`, where there is room for it."""
        return all(text.startswith(part, at + offset) for offset, part in self._parts)

    def find(self, text: str, at: int, end: int) -> int:
        """Where it stands first in text[at:end]; -1 for nowhere."""
        if self._literal is not None:
            return text.find(self._literal, at, end)
        # The Shift-And algorithm: bit n of `state` says that the piece's first n+1 characters end here.
        masks = self._masks_by_character()
        state, whole = 0, 1 << (self.length - 1)
        for position in range(at, end):
            state = (state << 1 | 1) & masks.get(text[position], self._any)
            if state & whole:
                return position - self.length + 1
        return -1

    def _masks_by_character(self) -> dict[str, int]:
        """For each character, the places in the piece where it may stand; `_any` is where every one may."""
        if self._masks is None:
            self._any = (1 << self.length) - 1
            for offset, part in self._parts:
                self._any &= ~(((1 << len(part)) - 1) << offset)
            self._masks = {}
            for offset, part in self._parts:
                for place, character in enumerate(part, offset):
                    self._masks[character] = self._masks.get(character, self._any) | 1 << place
        return self._masks
