"""The tree of a pattern. All flags are already in it: each node means the same whatever stands around it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, unique
from typing import TypeAlias

from rules.sql.javaregex.sets import CharSet


@unique
class Edge(Enum):
    """A place between two characters. Lines end with LF, CR, CRLF, NEL, LS or PS; `UNIX` ones with LF only."""

    START = "\\A, and ^ without MULTILINE"
    END = "\\z"
    LAST_LINE = "\\Z, and $ without MULTILINE: the end, or before the line terminator there"
    LAST_LINE_UNIX = "\\Z, and $ without MULTILINE, with UNIX_LINES"
    LINE_START = "^ with MULTILINE: not at the end of the text"
    LINE_START_UNIX = "^ with MULTILINE and UNIX_LINES"
    LINE_END = "$ with MULTILINE"
    LINE_END_UNIX = "$ with MULTILINE and UNIX_LINES"
    WORD = "\\b: one side is a letter, digit or _ of ASCII, the other is not"
    NOT_WORD = "\\B"
    WORD_UNICODE = "\\b with UNICODE_CHARACTER_CLASS"
    NOT_WORD_UNICODE = "\\B with UNICODE_CHARACTER_CLASS"
    LAST_MATCH = "\\G: where the match before this one ended"


class Greed(Enum):
    """How much a repetition takes: first all it can, first as little as it can, all it can and nothing back."""

    GREEDY = ""
    LAZY = "?"
    POSSESSIVE = "+"


@dataclass(frozen=True, slots=True)
class One:
    """One character of a set."""

    of: CharSet


@dataclass(frozen=True, slots=True)
class Sequence:
    """One after the other; none is the empty text."""

    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """The first branch that leads to a match."""

    branches: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Group:
    """`( )`; numbers count from 1, in the order of the opening parentheses."""

    body: "Node"
    number: int


@dataclass(frozen=True, slots=True)
class Repeat:
    """`body` at least `least` and at most `most` times (None: any number)."""

    body: "Node"
    least: int
    most: int | None
    greed: Greed


@dataclass(frozen=True, slots=True)
class Atomic:
    """`(?> )`."""

    body: "Node"


@dataclass(frozen=True, slots=True)
class Look:
    """`(?= )`, `(?! )`, and with `behind` `(?<= )`, `(?<! )`."""

    body: "Node"
    behind: bool
    negative: bool


@dataclass(frozen=True, slots=True)
class Back:
    """What group `number` matched; fails where it has matched nothing."""

    number: int
    any_case: bool


@dataclass(frozen=True, slots=True)
class Grapheme:
    """`\\X`: what a reader takes for one character."""


Node: TypeAlias = One | Sequence | Choice | Group | Repeat | Atomic | Look | Back | Grapheme | Edge


@dataclass(frozen=True, slots=True)
class Tree:
    """A whole pattern: `groups` is how many groups it has, `names` the numbers of those that have one."""

    root: Node
    groups: int
    names: dict[str, int]


def longest(node: Node) -> int | None:
    """The most characters that `node` can match, None where Java sees no bound (what a look-behind must have).

    As in Java, a single character repeated without bound counts as bounded.
    """
    match node:
        case One() | Grapheme():
            return 1
        case Sequence(parts):
            return _all_or_none([longest(part) for part in parts], sum)
        case Choice(branches):
            return _all_or_none([longest(branch) for branch in branches], max)
        case Group(body, _) | Atomic(body):
            return longest(body)
        case Repeat(One(), _, None, _):
            return 1
        case Repeat(body, _, most, _):
            length = longest(body)
            return None if length is None or most is None else length * most
        case Back():
            return None
        case Look() | Edge():
            return 0


def _all_or_none(lengths: list[int | None], total: Callable[[list[int]], int]) -> int | None:
    known = [length for length in lengths if length is not None]
    return None if len(known) < len(lengths) else total(known)


def shortest(node: Node) -> int:
    """The fewest characters that `node` can match, or less."""
    match node:
        case One() | Grapheme():
            return 1
        case Sequence(parts):
            return sum(map(shortest, parts))
        case Choice(branches):
            return min(map(shortest, branches))
        case Group(body, _) | Atomic(body):
            return shortest(body)
        case Repeat(body, least, _, _):
            return shortest(body) * least
        case Back() | Look() | Edge():
            return 0


def unrolled(node: Node) -> int:
    """How many nodes there are when what must be repeated is written out as often as it must be."""
    match node:
        case Sequence(parts) | Choice(parts):
            return 1 + sum(map(unrolled, parts))
        case Group(body, _) | Atomic(body) | Look(body, _, _):
            return 1 + unrolled(body)
        case Repeat(body, least, most, _):
            return 1 + unrolled(body) * (least + (least != most))
        case One() | Back() | Grapheme() | Edge():
            return 1
