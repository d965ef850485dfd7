"""A tree as the two engines spell it.

RE2 has no look-around, back-references, atomic groups and possessive repetition; `linear` answers None for a tree
that needs one. Java's `$`, which looks ahead for a line terminator, it can say where nothing follows: the terminator
is matched too, behind an empty group that marks where the match really ends.

`regex` can say everything. It is never told of flags, so that it means the same by each construct as RE2.
"""

from collections.abc import Callable
from dataclasses import dataclass

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
)
from rules.sql.javaregex.properties import WORD, WORD_UNICODE
from rules.sql.javaregex.sets import EVERY, NONE, AllOf, AnyOf, Chars, CharSet, Property, complement

BREAK = r"(?:\r\n|[\n\r\x{85}\x{2028}\x{2029}])"

LINEAR_EDGES = {
    Edge.START: r"\A",
    Edge.END: r"\z",
    Edge.LINE_END_UNIX: "(?m:$)",
    Edge.WORD: r"\b",
    Edge.NOT_WORD: r"\B",
}
LINEAR_LAST_EDGES = {
    Edge.LAST_LINE: rf"(){BREAK}?\z",
    Edge.LAST_LINE_UNIX: r"()\n?\z",
    Edge.LINE_END: rf"()(?:{BREAK}|\z)",
}


class Unspeakable(Exception):
    """RE2 has no words for it."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A pattern for RE2: the number there of each group, and those of the groups that mark where a match ends."""

    source: str
    groups: tuple[int, ...]
    ends: tuple[int, ...]


def linear(tree: Tree) -> Linear | None:
    """The pattern for RE2; None if it cannot say it."""
    writer = _LinearWriter()
    try:
        source = writer.write(tree.root, last=True)
    except Unspeakable:
        return None
    return Linear(source, tuple(number for _, number in sorted(writer.groups.items())), tuple(writer.ends))


class _LinearWriter:
    def __init__(self) -> None:
        self.groups: dict[int, int] = {0: 0}
        self.ends: list[int] = []

    def write(self, node: Node, last: bool) -> str:
        """`last`: nothing that matches or looks stands behind `node`."""
        match node:
            case One(given):
                return _linear_set(given)
            case Sequence(parts):
                return "".join(self.write(part, last and at == len(parts)) for at, part in enumerate(parts, 1))
            case Choice(branches):
                return f"(?:{'|'.join(self.write(branch, last) for branch in branches)})"
            case Group(body, number):
                self.groups[number] = len(self.groups) + len(self.ends)
                return f"({self.write(body, last)})"
            case Repeat(body, least, most, greed) if greed is not Greed.POSSESSIVE:
                return f"(?:{self.write(body, last=False)}){_times(least, most)}{greed.value}"
            case Edge() if node in LINEAR_EDGES:
                return LINEAR_EDGES[node]
            case Edge() if node in LINEAR_LAST_EDGES and last:
                self.ends.append(len(self.groups) + len(self.ends))
                return LINEAR_LAST_EDGES[node]
        raise Unspeakable


def _times(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"


def _linear_set(given: CharSet) -> str:
    if given == EVERY:
        return "(?s:.)"
    match given:
        case Chars(((first, last),)) if first == last:
            return _linear_char(first)
        case AnyOf(parts) if not all(isinstance(part, Chars | Property) for part in parts):
            return f"(?:{'|'.join(map(_linear_set, parts))})"
        case AnyOf(parts):
            return f"[{''.join(map(_linear_items, parts))}]"
        case AllOf(parts):
            return f"[^{''.join(_linear_items(complement(part)) for part in parts)}]"
        case _:
            return f"[{_linear_items(given)}]" if given != NONE else r"[^\x{0}-\x{10FFFF}]"


def _linear_items(given: CharSet) -> str:
    """What stands for a set between brackets."""
    match given:
        case Chars(ranges):
            return "".join(_span(_linear_char, first, last) for first, last in ranges)
        case Property(str(name), _, negative):
            return f"\\{'P' if negative else 'p'}{{{name}}}"
    raise Unspeakable


def _span(spell: Callable[[int], str], first: int, last: int) -> str:
    return spell(first) if first == last else f"{spell(first)}-{spell(last)}"


def _linear_char(code: int) -> str:
    return chr(code) if chr(code).isalnum() and code < 128 else f"\\x{{{code:X}}}"


# ── the engine that tries every way ─────────────────────────────────────────────────────────────────────────


def backtracking(tree: Tree) -> str:
    """The pattern for `regex`; its groups have the numbers that they have in the tree."""
    return _write(tree.root, tree.groups)


def _write(node: Node, groups: int) -> str:
    match node:
        case One(given):
            return _set(given)
        case Sequence(parts):
            return "".join(_write(part, groups) for part in parts)
        case Choice(branches):
            return f"(?:{'|'.join(_write(branch, groups) for branch in branches)})"
        case Group(body, _):
            return f"({_write(body, groups)})"
        case Repeat(body, least, most, greed):
            return f"(?:{_write(body, groups)}){_times(least, most)}{greed.value}"
        case Atomic(body):
            return f"(?>{_write(body, groups)})"
        case Look(body, behind, negative):
            return f"(?{'<' if behind else ''}{'!' if negative else '='}{_write(body, groups)})"
        case Back(number, any_case):
            return "(?!)" if number > groups else f"(?{'i' if any_case else ''}:\\g<{number}>)"
        case Grapheme():
            return r"\X"
        case Edge():
            return EDGES[node]


def _set(given: CharSet) -> str:
    match given:
        case Chars(ranges) if ranges == EVERY.ranges:
            return "(?s:.)"
        case Chars(()):
            return "(?!)"
        case Chars(((first, last),)) if first == last:
            return _char(first)
        case Chars(ranges):
            return f"[{''.join(_span(_char, first, last) for first, last in ranges)}]"
        case Property(_, name, negative):
            return f"\\{'P' if negative else 'p'}{{{name}}}"
        case AnyOf(parts):
            return f"(?:{'|'.join(map(_set, parts))})"
        case AllOf(parts):
            return f"(?:{''.join(f'(?={_set(part)})' for part in parts[1:])}{_set(parts[0])})"


def _char(code: int) -> str:
    if code < 128 and chr(code).isalnum():
        return chr(code)
    return f"\\x{code:02X}" if code < 256 else f"\\u{code:04X}" if code < 65536 else f"\\U{code:08X}"


def _word_edges(given: CharSet) -> tuple[str, str]:
    word = _set(given)
    behind, ahead, not_behind, not_ahead = f"(?<={word})", f"(?={word})", f"(?<!{word})", f"(?!{word})"
    return f"(?:{behind}{not_ahead}|{not_behind}{ahead})", f"(?:{behind}{ahead}|{not_behind}{not_ahead})"


_BREAKS = r"[\n\r\x85\u2028\u2029]"
_NOT_IN_CRLF = r"(?!(?<=\r)\n)"
EDGES = {
    Edge.START: r"\A",
    Edge.END: r"\Z",
    Edge.LAST_LINE: rf"(?=(?:\r\n|{_BREAKS})?\Z){_NOT_IN_CRLF}",
    Edge.LAST_LINE_UNIX: r"(?=\n?\Z)",
    Edge.LINE_START: rf"(?:\A|(?<={_BREAKS})){_NOT_IN_CRLF}(?!\Z)",
    Edge.LINE_START_UNIX: r"(?:\A|(?<=\n))(?!\Z)",
    Edge.LINE_END: rf"(?={_BREAKS}|\Z){_NOT_IN_CRLF}",
    Edge.LINE_END_UNIX: r"(?=\n|\Z)",
    Edge.LAST_MATCH: r"\G",
}
EDGES[Edge.WORD], EDGES[Edge.NOT_WORD] = _word_edges(WORD)
EDGES[Edge.WORD_UNICODE], EDGES[Edge.NOT_WORD_UNICODE] = _word_edges(WORD_UNICODE)
