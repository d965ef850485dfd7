"""Advice about rules that can run: what they may not do as they were meant, with a place and what to write instead.

Will not complain about what cannot run (`rules.files` does), nor about taste. What is said is certain, or says that it
is not.

    filters      FROM hears nothing, or something else
    conditions   WHERE is never true
    demands      an action needs of the output what SELECT never gives
    names        keys that AWS does not document, aliases where only the message is seen, regular expressions
    loops        a message goes round through republish
"""

from collections.abc import Iterator, Mapping, Sequence

from rules.advice import conditions, demands, filters, loops, names
from rules.advice.finding import Finding, Place
from rules.engine import Rule

__all__ = ["Finding", "Place", "advise"]


def advise(rules: Sequence[Rule], tables: Mapping[str, tuple[str, ...]] | None = None) -> list[Finding]:
    """Everything there is to say about these rules together; `tables` are the keys of known tables, by name."""
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
    return found


def _twins(rules: Sequence[Rule]) -> Iterator[Finding]:
    first: dict[tuple[str, str], list[Rule]] = {}
    for rule in rules:
        if rule.disabled:
            continue
        alike = first.setdefault((" ".join(rule.sql.split()), rule.version), [])
        other = next((other for other in alike if other.actions == rule.actions), None)
        if other is not None:
            message = f"the rule does what {other.name} does too: everything happens twice"
            yield Finding(rule.name, "twin", ("sql",), message, "remove one of them")
        alike.append(rule)
