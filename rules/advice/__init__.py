"""Advice about rules that can run: what they may not do as they were meant, with a place and what to write instead.

Will not complain about what cannot run (`rules.files` does), nor about taste. What is said is certain, or says that it
is not.

    filters      FROM hears nothing, or something else
    conditions   WHERE is never true
    demands      an action needs of the output what SELECT never gives
    names        keys that AWS does not document, aliases where only the message is seen, regular expressions
    loops        a message goes round through republish (`hearing`: who hears it)
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from rules.actions.fields import Place
from rules.advice import conditions, demands, filters, loops, names
from rules.advice.finding import SQL, Finding
from rules.engine import Rule
from rules.sql.lexer import token

__all__ = ["Finding", "Place", "advise"]


def advise(
    rules: Sequence[Rule],
    tables: Mapping[str, tuple[str, ...]] | None = None,
    allow: AbstractSet[str] = frozenset(),
) -> list[Finding]:
    """Everything there is to say about these rules together, without the codes that somebody allows.

    `tables` are the keys of known tables, by name.
    """
    found: list[Finding] = []
    for rule in rules:
        found += filters.advise(rule)
        found += conditions.advise(rule)
        found += demands.advise(rule, tables or {})
        found += names.advise(rule)
        if not rule.actions:
            message = "the rule has no action, so nothing comes of what it hears"
            found.append(Finding(rule.name, "no-action", ("actions",), message, "give it one"))
    found += loops.advise(rules)
    found += _twins(rules)
    return [finding for finding in found if finding.code not in allow]


def _twins(rules: Sequence[Rule]) -> Iterator[Finding]:
    first: dict[tuple[object, ...], Rule] = {}
    for rule in rules:
        if rule.disabled:
            continue
        other = first.setdefault((_words(rule.sql), rule.version, repr(rule.actions)), rule)
        if other is not rule:
            message = f"the rule does what {other.name} does too: everything happens twice"
            yield Finding(rule.name, "twin", SQL, message, "remove one of them")


def _words(sql: str) -> tuple[str, ...]:
    """A statement without the blanks between its words; those in a text belong to it."""
    words = []
    at = token(sql, 0)
    while at.kind != "end":
        words.append(at.text)
        at = token(sql, at.end)
    return tuple(words)
