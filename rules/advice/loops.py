"""Rules that republish what they, or rules before them, hear: a message that goes round.

A template's topic is held against filters level by level. `${topic(2)}` is one level of what the rule's own FROM
hears, `${topic()}` all of it; any other `${…}` may be any text, with slashes in it. So it is known whether a filter
hears such a topic always, sometimes or never. Whether a WHERE ends the round, nobody knows;
it is said where there is one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from core.topics import BASIC_INGEST
from rules.actions import Republish
from rules.advice.finding import Finding
from rules.advice.names import embedded
from rules.engine import Rule
from rules.sql.syntax import Call, Expression, Literal


class Hears(IntEnum):
    """How often a filter hears the topics of a template."""

    NEVER = 0
    SOMETIMES = 1
    ALWAYS = 2


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a topic, or several where nobody knows: `prefix`, perhaps something unknown, and `suffix`.

    `rest`: the unknown may have slashes in it.
    """

    prefix: str
    suffix: str = ""
    unknown: bool = False
    rest: bool = False


class _Heard(NamedTuple):
    """A rule that hears what another one's action, the one at `position`, republishes."""

    rule: Rule
    position: int
    hears: Hears


class _Round(NamedTuple):
    """A way of rules from the first back to itself, which its action at `position` begins."""

    path: list[Rule]
    position: int
    hears: Hears


ANY_LEVEL = Level("", unknown=True)


def advise(rules: Sequence[Rule]) -> Iterator[Finding]:
    """Rounds that messages can go: for each rule the shortest, unless a rule before it was found in the same."""
    enabled = [rule for rule in rules if not rule.disabled]
    after = {rule.name: list(_heard_by(rule, enabled)) for rule in enabled}
    told: set[str] = set()
    for rule in enabled:
        if rule.name not in told and (found := _round(rule, after)) is not None:
            told |= {one.name for one in found.path}
            yield _finding(found)


def _finding(found: _Round) -> Finding:
    first = found.path[0]
    may = "goes round" if found.hears is Hears.ALWAYS else "may go round"
    if len(found.path) == 1:
        message = f"a message {may}: the rule's own FROM '{first.statement.source}' hears what it republishes"
    else:
        way = " → ".join(one.name for one in (*found.path, first))
        message = f"a message {may}, {way}: each hears what the one before it republishes"
    conditions = [one.name for one in found.path if one.statement.where is not None]
    if conditions:
        message += f", unless the WHERE of {' or '.join(conditions)} ends it"
    place = ("actions", found.position, "republish", "topic")
    return Finding(first.name, "loop", place, message, "republish to topics that no FROM hears")


def _round(start: Rule, after: dict[str, list[_Heard]]) -> _Round | None:
    """The shortest way from a rule to itself, a certain one if there is one."""
    for wanted in (Hears.ALWAYS, Hears.SOMETIMES):
        ways = [([start], one.position, one.rule) for one in after[start.name] if one.hears >= wanted]
        seen: set[str] = set()
        while ways:
            longer = []
            for path, position, here in ways:
                if here is start:
                    return _Round(path, position, wanted)
                if here.name not in seen:
                    seen.add(here.name)
                    longer += [([*path, here], position, one.rule) for one in after[here.name] if one.hears >= wanted]
            ways = longer
    return None


def _heard_by(rule: Rule, others: Sequence[Rule]) -> Iterator[_Heard]:
    """The rules that hear what a rule republishes."""
    for position, action in enumerate(rule.actions):
        if isinstance(action, Republish):
            levels = topic_levels(action.topic.source, rule.statement.source)
            for other in others:
                if (how := _rule_hears(other, levels)) is not Hears.NEVER:
                    yield _Heard(other, position, how)


def _rule_hears(rule: Rule, levels: Sequence[Level]) -> Hears:
    ingest = BASIC_INGEST.strip("/").split("/")
    if [level.prefix for level in levels[:2]] == ingest and not any(level.unknown for level in levels[:2]):
        named = levels[2] if len(levels) > 2 else Level("")
        if not named.unknown:
            return Hears.ALWAYS if named.prefix == rule.name else Hears.NEVER
        return Hears.SOMETIMES if _can_be(named, rule.name) else Hears.NEVER
    return Hears.NEVER if rule.statement.source is None else hears(rule.statement.source.split("/"), levels)


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


def hears(pattern: Sequence[str], levels: Sequence[Level]) -> Hears:
    """How often a filter hears the topics that have these levels."""
    if levels[0].prefix.startswith("$") and pattern[0] in ("+", "#"):
        return Hears.NEVER
    if not _sometimes(pattern, levels):
        return Hears.NEVER
    return Hears.ALWAYS if _always(pattern, levels) else Hears.SOMETIMES


def _sometimes(pattern: Sequence[str], levels: Sequence[Level]) -> bool:
    """Whether the filter hears one of the topics."""
    # The levels that may come next; and whether of one with slashes in it some levels are behind us.
    states = {(0, False)}
    for wanted in pattern:
        if wanted == "#":
            return any(position < len(levels) for position, _ in states)
        following = set()
        for position, begun in states:
            if position == len(levels):
                continue
            level = levels[position]
            prefix = "" if begun else level.prefix
            if _fits(wanted, Level(prefix, level.suffix, unknown=level.unknown)):
                following.add((position + 1, False))
            if level.rest and _fits(wanted, Level(prefix, unknown=True)):
                following.add((position, True))
        states = following
    return (len(levels), False) in states


def _fits(filter_level: str, level: Level) -> bool:
    return filter_level == "+" or _can_be(level, filter_level)


def _can_be(level: Level, text: str) -> bool:
    if not level.unknown:
        return level.prefix == text
    long_enough = len(text) >= len(level.prefix) + len(level.suffix)
    return long_enough and text.startswith(level.prefix) and text.endswith(level.suffix)


def _always(pattern: Sequence[str], levels: Sequence[Level]) -> bool:
    if pattern[0] in ("+", "#") and levels[0].unknown and not levels[0].prefix:
        return False  # it may begin with $
    for position, filter_level in enumerate(pattern):
        if filter_level == "#":
            return position < len(levels)
        if position >= len(levels) or levels[position].rest:
            return False
        level = levels[position]
        if filter_level != "+" and (level.unknown or level.prefix != filter_level):
            return False
    return len(pattern) == len(levels)
