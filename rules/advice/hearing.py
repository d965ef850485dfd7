"""Which rules hear the topics that a template gives: always, sometimes, or never.

A template's topic is held against filters level by level. `${topic(2)}` is one level of what the rule's own FROM
hears, `${topic()}` all of it; any other `${…}` may be any text, with slashes in it.

The filters of all rules stand in one tree, and sets of rules are the bits of a number (bit n is the n-th rule): so a
topic is held against thousands of rules in about a millisecond, also where every rule hears it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from core.topics import BASIC_INGEST
from rules.advice.names import embedded
from rules.engine import Rule
from rules.sql.syntax import Call, Expression, Literal

Bits: TypeAlias = int  # a set of rules by their positions

_INGEST = BASIC_INGEST.strip("/").split("/")


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a topic, or several where nobody knows: `prefix`, perhaps something unknown, and `suffix`.

    `rest`: the unknown may have slashes in it.
    """

    prefix: str
    suffix: str = ""
    unknown: bool = False
    rest: bool = False

    def can_be(self, text: str) -> bool:
        """Whether it is this text in some message."""
        if not self.unknown:
            return self.prefix == text
        long_enough = len(text) >= len(self.prefix) + len(self.suffix)
        return long_enough and text.startswith(self.prefix) and text.endswith(self.suffix)


ANY_LEVEL = Level("", unknown=True)


# ── topics of templates ─────────────────────────────────────────────────────────────────────────────────────


def topic_levels(template: str, source: str | None) -> list[Level]:
    """The topics that a template gives, level by level, for a rule with this FROM."""
    text = template[1:] if template.startswith("$$") and not template.startswith("$${") else template
    levels = [Level("")]
    at = 0
    for opening, expression, end in embedded(text):
        _append_text(levels, text[at:opening])
        _append_unknown(levels, _levels_of(expression, source))
        at = end
    _append_text(levels, text[at:])
    return levels


def _append_text(levels: list[Level], text: str) -> None:
    first, *more = text.split("/")
    last = levels[-1]
    if last.unknown:
        levels[-1] = Level(last.prefix, last.suffix + first, unknown=True, rest=last.rest)
    else:
        levels[-1] = Level(last.prefix + first)
    levels += [Level(level) for level in more]


def _append_unknown(levels: list[Level], inserted: Sequence[Level]) -> None:
    last, first = levels[-1], inserted[0]
    if last.unknown or first.unknown:
        prefix = last.prefix if last.unknown else last.prefix + first.prefix
        levels[-1] = Level(prefix, first.suffix if first.unknown else "", unknown=True, rest=last.rest or first.rest)
    else:
        levels[-1] = Level(last.prefix + first.prefix)
    levels += inserted[1:]


def _levels_of(expression: Expression, source: str | None) -> Sequence[Level]:
    """What stands in the place of `${expression}`."""
    filters = [] if source is None else source.split("/")
    if isinstance(expression, Literal) and isinstance(expression.value, str | int):
        return [Level(level) for level in str(expression.value).split("/")]
    if isinstance(expression, Call) and expression.name == "topic" and source is not None:
        if not expression.arguments:
            return [_of_filter(level) for level in filters]
        [position] = expression.arguments[:1]
        if isinstance(position, Literal) and isinstance(position.value, int) and position.value >= 1:
            level = filters[position.value - 1] if position.value <= len(filters) else "+"
            return [ANY_LEVEL if level == "#" else _of_filter(level)]
    return [Level("", unknown=True, rest=True)]


def _of_filter(level: str) -> Level:
    return ANY_LEVEL if level == "+" else Level("", unknown=True, rest=True) if level == "#" else Level(level)


# ── filters ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class _Node:
    """What filters have in common up to a level; `ends` are the rules whose filter ends here, `all` those below too."""

    children: "dict[str, _Node]" = field(default_factory=dict)
    ends: Bits = 0
    all: Bits = 0

    def fitting(self, prefix: str, suffix: str, *, unknown: bool) -> "Iterator[tuple[_Node, bool]]":
        """The nodes whose level can be this one, each with whether it always is."""
        if (plus := self.children.get("+")) is not None:
            yield plus, True
        if not unknown:
            if prefix not in ("+", "#") and (child := self.children.get(prefix)) is not None:
                yield child, True
            return
        level = Level(prefix, suffix, unknown=True)
        anything = not prefix and not suffix
        for text, child in self.children.items():
            if text not in ("+", "#") and (anything or level.can_be(text)):
                yield child, False


@dataclass(slots=True)
class Hearers:
    """The rules that hear a topic `always`, and those that hear it at least `sometimes`."""

    always: Bits = 0
    sometimes: Bits = 0

    def add(self, rules: Bits, *, sure: bool) -> None:
        """Add rules."""
        self.sometimes |= rules
        if sure:
            self.always |= rules


class Filters:
    """The FROM of rules, and their names for Basic Ingest; asked for the rules that hear a topic."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._root = _Node()
        self._names: dict[str, Bits] = {}
        self._known: dict[tuple[Level, ...], Hearers] = {}
        for position, rule in enumerate(rules):
            self._names[rule.name] = 1 << position
            if rule.statement.source is not None:
                self._add(rule.statement.source, 1 << position)

    def _add(self, source: str, rule: Bits) -> None:
        node = self._root
        for level in source.split("/"):
            node.all |= rule
            node = node.children.setdefault(level, _Node())
        node.all |= rule
        node.ends |= rule

    def hearers(self, levels: Sequence[Level]) -> Hearers:
        """The rules that hear a topic with these levels."""
        key = tuple(levels)
        if key not in self._known:
            ingest = len(levels) > 1 and not levels[0].unknown and not levels[1].unknown
            named = ingest and [level.prefix for level in levels[:2]] == _INGEST
            self._known[key] = self._named(levels) if named else self._walked(levels)
        return self._known[key]

    def _named(self, levels: Sequence[Level]) -> Hearers:
        """The rules that Basic Ingest names, whatever their FROM says."""
        found = Hearers()
        name = levels[2] if len(levels) > 2 else Level("")
        if not name.unknown:
            found.add(self._names.get(name.prefix, 0), sure=True)
            return found
        for known, rule in self._names.items():
            if name.can_be(known):
                found.add(rule, sure=False)
        return found

    def _walked(self, levels: Sequence[Level]) -> Hearers:
        """Down the tree, in every way that the levels allow."""
        found = Hearers()
        # Nodes, with the level that is next; whether some of it is behind us, where it has slashes in it; and whether
        # the topic always comes this far.
        waiting = [(self._root, 0, False, True)]
        seen: set[tuple[int, int, bool]] = set()
        while waiting:
            node, at, begun, sure = waiting.pop()
            if (id(node), at, begun) in seen:
                continue
            seen.add((id(node), at, begun))
            level, last = levels[at], at + 1 == len(levels)
            children = node.children
            if at == 0 and not begun and level.prefix.startswith("$"):
                children = {text: child for text, child in children.items() if text not in ("+", "#")}
                node = _Node(children)
            wild = sure and not (at == 0 and level.unknown and not level.prefix)  # which may begin with $
            if (rest := children.get("#")) is not None:
                found.add(rest.ends, sure=wild)
            prefix = "" if begun else level.prefix
            if level.rest and last and not prefix and not level.suffix:
                found.sometimes |= node.all & ~node.ends
                continue
            for child, fits in node.fitting(prefix, level.suffix, unknown=level.unknown):
                always = wild and fits and not level.rest
                if last:
                    found.add(child.ends, sure=always)
                elif child.children:
                    waiting.append((child, at + 1, False, always))
            if level.rest:
                further = (child for child, _ in node.fitting(prefix, "", unknown=True) if child.children)
                waiting += [(child, at, True, False) for child in further]
        return found
