"""A YAML or JSON text as nodes that know where they stand, read without trust.

YAML nodes instead of plain values, because every complaint about a rules file names a line and a column, also
for a fault in the middle of a quoted or folded SQL text. A JSON text must be JSON, and is then read as the YAML that it
nearly is.

Bounds: TEXT_BYTES_MAX per text, NESTING_MAX levels, no aliases (so no text can unfold into more than it is).
Only YAML's own plain tags have values here; what `!Sub` and its like stand for, `rules.files.intrinsics` decides, and
gives `Made` nodes for it. Knows nothing about rules.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from rules.errors import Severity

TEXT_BYTES_MAX = 1_048_576  # thousands of rules, three seconds to read; a file beyond it is no rules file
NESTING_MAX = 32  # a rules file needs six

_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null"))
_PROPERTIES = re.compile(r"(?:[!&]\S*\s+)*")  # `!!str` and `&name` before a scalar belong to its node
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|\r\n|(?s:.))")
_BREAKS = re.compile("[\x85\u2028\u2029]")  # in a JSON text these are characters, for YAML they end a line
_BLANK_ESCAPES = frozenset("ntrvf_NLP \t\r\n")  # after a backslash, these stand for white space


class Unreadable(Exception):
    """A text, or a part of it, that cannot be used: for `reason`, at its character `at`. A warning only tells so."""

    def __init__(self, reason: str, at: int, severity: Severity = "error") -> None:
        super().__init__(reason)
        self.reason = reason
        self.at = at
        self.severity: Severity = severity


@dataclass(frozen=True, slots=True)
class Piece:
    """From its character `start` on, a made text is what `origin` says from its character `offset` on.

    Not `copied`: the whole piece stands for what begins at that one character.
    """

    start: int
    origin: ScalarNode
    offset: int = 0
    copied: bool = True


class Made(ScalarNode):
    """A text that is not in the file as it is, but was made of `pieces` of other nodes; it stands where `at` does."""

    def __init__(self, value: str, pieces: Sequence[Piece], at: Node) -> None:
        super().__init__(_TAG + "str", value, at.start_mark, at.end_mark)
        self.pieces = tuple(pieces)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, bounded, without dates: `awsIotSqlVersion: 2016-03-23` is a text.

    JSON writes some characters as two escapes, which YAML reads as two halves; here every text has whole ones.
    """

    depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        at = self.peek_event().start_mark.index  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise Unreadable("aliases (*name) are not allowed here; write the value again", at)
        self.depth += 1
        if self.depth > NESTING_MAX:
            raise Unreadable(f"more than {NESTING_MAX} levels inside each other", at)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_scalar_node(self, anchor: dict[Any, Node]) -> ScalarNode:
        node: ScalarNode = super().compose_scalar_node(anchor)
        try:
            node.value = _whole_characters(node.value)
        except UnicodeDecodeError:
            reason = r"cannot be read: half a character; an escape from \ud800 to \udfff needs another beside it"
            raise Unreadable(reason, node.start_mark.index) from None
        return node


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TAG + "timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _JsonLoader(_Loader):
    """The same for a text that is known to be JSON, which allows more characters."""

    def check_printable(self, data: str) -> None:
        """Accept all characters."""


class Document:
    """One text and its `root` node, None when there is nothing but comments. Raises Unreadable.

    `name` is what problems call it; one that ends in `.json` must be JSON, and may be indented with tabs, which
    YAML forbids.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        if len(text) > TEXT_BYTES_MAX or len(text.encode(errors="replace")) > TEXT_BYTES_MAX:
            raise Unreadable(f"the file has more than {TEXT_BYTES_MAX:,} bytes", 0)
        try:
            self._loader = _json_loader(text) if name.endswith(".json") else _Loader(text)
            self.root: Node | None = self._loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise Unreadable(f"not YAML: {error.problem or error.context}", mark.index if mark else 0) from error
        except ReaderError as error:
            reason = f"YAML does not allow the character {text[error.position]!a}"
            raise Unreadable(reason, error.position) from error
        except (ValueError, OverflowError) as error:  # PyYAML: an escape beyond Unicode
            raise Unreadable(f"not YAML: {error}", 0) from error

    def entries(self, node: MappingNode) -> list[tuple[str, Node]]:
        """Key and value node of each entry. Raises Unreadable for a key that stands twice."""
        seen: set[str] = set()
        entries: list[tuple[str, Node]] = []
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                raise Unreadable("a key must be plain text", key.start_mark.index)
            if key.value in seen:
                raise Unreadable(f"the key {key.value[:40]!r} stands here twice", key.start_mark.index)
            seen.add(key.value)
            entries.append((key.value, value))
        return entries

    def value(self, node: Node) -> Any:
        """The node as dict, list, str, int, float, bool or None. Raises Unreadable."""
        if isinstance(node, MappingNode):
            return {key: self.value(value) for key, value in self.entries(node)}
        if isinstance(node, SequenceNode):
            return [self.value(item) for item in node.value]
        if node.tag not in _PLAIN_TAGS:
            raise Unreadable(f"the tag {node.tag[:40]} is not understood here", node.start_mark.index)
        try:
            return self._loader.construct_object(node)
        except (ValueError, LookupError) as error:  # an int of 5,000 digits, `!!int x`, `!!int`
            raise Unreadable(f"this value cannot be read: {error}", node.start_mark.index) from error

    def find(self, node: Node, location: Sequence[str | int], *, key: bool = False) -> Node:
        """The node at `location` below `node`, or the deepest one on the way that is there.

        `key`: the node of the location's last key, instead of its value's.
        """
        for step in location:
            below = _child(node, step)
            if below is None:
                return node
            name, node = below
        return name if key and location else node

    def inside(self, node: ScalarNode, offset: int) -> int:
        """Which character of the text became character `offset` of the scalar `node`, at a word or the end.

        White space is what quoting and folding change, so characters are counted without it.
        """
        if isinstance(node, Made):
            piece = next((piece for piece in reversed(node.pieces) if piece.start <= offset), None)
            if piece is None:
                return int(node.start_mark.index)
            return self.inside(piece.origin, piece.offset + (offset - piece.start if piece.copied else 0))
        wanted = sum(not character.isspace() for character in node.value[:offset])
        start = node.start_mark.index
        after = start
        for count, (first, last) in enumerate(_units(self.text[start : node.end_mark.index], node.style)):
            if count == wanted:
                return int(start + first)
            after = start + last
        return int(after)


def member(node: Node | None, key: str) -> Node | None:
    """The value of one key of a mapping; None without it, and for what is no mapping."""
    below = _child(node, key) if node is not None else None
    return below[1] if below else None


def _json_loader(text: str) -> _Loader:
    """A loader for a text that is JSON (RFC 8259), or blank. Raises Unreadable for another."""

    def refuse(word: str) -> None:
        raise json.JSONDecodeError(f"{word} is no number", text, text.find(word))

    try:
        if text.strip():
            json.loads(text, parse_int=str, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise Unreadable(f"not JSON: {error.msg}", error.pos) from None
    except RecursionError:
        pass  # the loader counts levels, and says where they are too many
    if found := _BREAKS.search(text):
        raise Unreadable(f"write this character as \\u{ord(found.group()):04x}", found.start())
    # A tab inside a JSON string is written \t, so every real one is white space between tokens.
    return _JsonLoader(text.replace("\t", " "))


def _whole_characters(text: str) -> str:
    """The text with the halves of characters (UTF-16's surrogates) put together. Raises ValueError for a single one."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16")


def _child(node: Node, step: str | int) -> tuple[Node, Node] | None:
    """Key node (for a list, the item again) and value node of one entry; None when there is none."""
    if isinstance(node, MappingNode):
        return next(((key, value) for key, value in node.value if key.value == step), None)
    if isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step]
    return None


def _units(raw: str, style: str | None) -> Iterator[tuple[int, int]]:
    """First and past-last character, in `raw`, of each character of a scalar that is not white space."""
    properties = _PROPERTIES.match(raw)
    at = properties.end() if properties else 0
    if style in ("|", ">"):
        at = raw.find("\n", at) + 1
    elif style is not None:
        at, raw = at + 1, raw[:-1]
    while at < len(raw):
        length, blank = 1, raw[at].isspace()
        if style == '"' and (escape := _ESCAPE.match(raw, at)):
            length, blank = len(escape.group()), _is_blank(escape)
        elif style == "'" and raw[at] == "'":
            length = 2
        if not blank:
            yield at, at + length
        at += length


def _is_blank(escape: re.Match[str]) -> bool:
    digits = escape.group(1) or escape.group(2) or escape.group(3)
    if digits is None:
        return escape.group()[1] in _BLANK_ESCAPES
    code = int(digits, 16)
    return chr(code).isspace() or 0xDC00 <= code <= 0xDFFF  # the second half of a pair counts with the first
