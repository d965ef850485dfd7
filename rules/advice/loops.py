"""Rules that republish what they, or rules before them, hear: a message that goes round.

Whether a topic is heard always, sometimes or never, `rules.advice.hearing` knows. Whether a WHERE ends the round,
nobody knows; it is said where there is one. What an error action republishes goes on only when an action fails.

Sets of rules are the bits of a number, so a round among a thousand rules that all hear each other is found at once.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rules.actions import Republish
from rules.actions.fields import Place
from rules.advice.finding import Finding
from rules.advice.hearing import Bits, Filters, topic_levels
from rules.engine import Rule

SHOWN_MAX = 8  # of the rules of a round; who reads more looks into the files


class _Topic(NamedTuple):
    """Where the topic stands that one action republishes to, and who hears it."""

    place: Place
    heard_by: Bits


@dataclass(frozen=True, slots=True)
class _Graph:
    """Who hears whom: by rule, the topics that count, and the rules that hear one of them."""

    topics: list[list[_Topic]] = field(default_factory=list)
    after: list[Bits] = field(default_factory=list)

    def add(self, topics: list[_Topic]) -> None:
        """The topics of the next rule."""
        self.topics.append(topics)
        self.after.append(_union(topic.heard_by for topic in topics))


def advise(rules: Sequence[Rule]) -> Iterator[Finding]:
    """Rounds that messages can go: for each rule the shortest, unless a rule before it was found in the same."""
    enabled = [rule for rule in rules if not rule.disabled]
    graphs = _graphs(enabled)
    in_rounds: list[Bits] = []
    for number, graph in enumerate(graphs):
        is_former = number > 0 and graph.after == graphs[number - 1].after
        in_rounds.append(in_rounds[-1] if is_former else _in_rounds(graph.after))
    told: Bits = 0
    for position in range(len(enabled)):
        for certainty, graph in enumerate(graphs):
            if (told | ~in_rounds[certainty]) >> position & 1:
                continue
            path = _shortest(position, graph.after)
            told |= _union(1 << one for one in path)
            yield _finding(enabled, path, certainty, graphs)
            break


def _graphs(rules: Sequence[Rule]) -> tuple[_Graph, _Graph, _Graph]:
    """Who always hears whom; and who may; and who may when an action fails."""
    filters = Filters(rules)
    always, sometimes, failing = _Graph(), _Graph(), _Graph()
    for rule in rules:
        sure, unsure, failed = [], [], []
        for position, action in enumerate(rule.actions):
            if isinstance(action, Republish):
                hearers = filters.hearers(topic_levels(action.topic.source, rule.statement.source))
                place = ("actions", position, "republish", "topic")
                sure.append(_Topic(place, hearers.always))
                unsure.append(_Topic(place, hearers.sometimes))
        if rule.actions and isinstance(rule.error_action, Republish):
            hearers = filters.hearers(topic_levels(rule.error_action.topic.source, rule.statement.source))
            failed = [_Topic(("errorAction", "republish", "topic"), hearers.sometimes)]
        always.add(sure)
        sometimes.add(unsure)
        failing.add(unsure + failed)
    return always, sometimes, failing


def _in_rounds(after: Sequence[Bits]) -> Bits:
    """The rules from which a way leads back to them: those that reach themselves (Warshall's algorithm)."""
    reached = {rule: heard_by for rule, heard_by in enumerate(after) if heard_by}
    for through in reached:
        bit, further = 1 << through, reached[through]
        for rule, reach in reached.items():
            if reach & bit:
                reached[rule] = reach | further
    return _union(1 << rule for rule, reach in reached.items() if reach >> rule & 1)


def _shortest(start: int, after: Sequence[Bits]) -> list[int]:
    """The shortest way from a rule that is in a round back to it: breadth first, each rule once."""
    before: dict[int, int] = {}
    seen: Bits = 0
    here = [start]
    while here:
        following = []
        for rule in here:
            if after[rule] >> start & 1:
                path = [rule]
                while path[-1] != start:
                    path.append(before[path[-1]])
                return path[::-1]
            fresh = after[rule] & ~seen
            seen |= fresh
            for other in _members(fresh):
                before[other] = rule
                following.append(other)
        here = following
    raise ValueError("the rule is in no round")


def _union(sets: Iterable[Bits]) -> Bits:
    found = 0
    for one in sets:
        found |= one
    return found


def _members(rules: Bits) -> Iterator[int]:
    while rules:
        lowest = rules & -rules
        yield lowest.bit_length() - 1
        rules ^= lowest


# ── words ───────────────────────────────────────────────────────────────────────────────────────────────────


def _finding(rules: Sequence[Rule], path: list[int], certainty: int, graphs: Sequence[_Graph]) -> Finding:
    names = [rules[one].name for one in path]
    following = [*path[1:], path[0]]
    message = "a message goes round" if certainty == 0 else "a message may go round"
    if certainty == 2:
        failing = [
            name for name, one, other in zip(names, path, following, strict=True)
            if not graphs[1].after[one] >> other & 1
        ]  # fmt: skip
        message += f", when an action of {_listed(failing, ' or ')} fails"
    if len(path) == 1:
        message += f": the rule's own FROM '{rules[path[0]].statement.source}' hears what it republishes"
    else:
        message += f", {_listed(names, ' → ')} → {names[0]}: each hears what the one before it republishes"
    conditions = [rules[one].name for one in path if rules[one].statement.where is not None]
    if conditions:
        message += f", unless the WHERE of {_listed(conditions, ' or ')} ends it"
    topics = graphs[certainty].topics[path[0]]
    place = next(topic.place for topic in topics if topic.heard_by >> following[0] & 1)
    return Finding(names[0], "loop", place, message, "republish to topics that no FROM hears")


def _listed(names: Sequence[str], between: str) -> str:
    if len(names) <= SHOWN_MAX:
        return between.join(names)
    shown = names[: SHOWN_MAX - 1]
    return between.join([*shown, f"… ({len(names) - len(shown):,} more)"])
