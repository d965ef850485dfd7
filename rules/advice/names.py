"""Names that are not what they look like: keys nobody gave, aliases where only the message is seen, slow patterns."""

import re
from collections.abc import Iterator

from rules.actions import Action, templates
from rules.actions.fields import Place
from rules.advice.finding import SQL, Finding
from rules.engine import Rule
from rules.errors import SqlError
from rules.sql import patterns
from rules.sql.parser import parse_embedded
from rules.sql.syntax import Call, Expression, Literal, Path, Subquery, expressions, walk

_ALIASED = re.compile(r"[\s)]*AS\b", re.IGNORECASE)
_PATTERN_CALLS = frozenset(("regexp_matches", "regexp_replace", "regexp_substr"))


def advise(rule: Rule) -> Iterator[Finding]:
    """What may be misunderstood in a rule's statement and templates."""
    yield from _keys(rule)
    aliases = _aliases(rule)
    if rule.statement.where is not None:
        yield from _hidden(rule, aliases, rule.statement.where, SQL, "WHERE")
    for outer in expressions(rule.statement):
        yield from _slow_patterns(rule, outer, SQL)
    for place, action in _actions(rule):
        for path, template in templates(action).items():
            here = (*place, *_steps(path))
            for _, expression, _ in embedded(template.source):
                if rule.statement.window is None:  # else templates see the window's row
                    yield from _hidden(rule, aliases, expression, here, "a template")
                yield from _slow_patterns(rule, expression, here)


def embedded(source: str) -> Iterator[tuple[int, Expression, int]]:
    """The expressions of a template that was compiled before, each with where its `${` begins and its `}` ends."""
    at = 0
    while (opening := source.find("${", at)) >= 0:
        try:
            expression, at = parse_embedded(source, opening + 2)
        except SqlError:  # it never was a template: `$${` at the beginning
            return
        yield opening, expression, at


def _actions(rule: Rule) -> Iterator[tuple[Place, Action]]:
    for position, action in enumerate(rule.actions):
        yield ("actions", position, action.name), action
    if rule.error_action is not None:
        yield ("errorAction", rule.error_action.name), rule.error_action


def _steps(path: str) -> Place:
    """`headers.userProperties[0].value` as steps."""
    return tuple(int(step) if step.isdigit() else step for step in re.split(r"[.\[\]]+", path) if step)


# ── keys ────────────────────────────────────────────────────────────────────────────────────────────────────


def _keys(rule: Rule) -> Iterator[Finding]:
    for item in () if rule.statement.value else rule.statement.items:
        expression = item.expression
        is_member = isinstance(expression, Path) and len(expression.names) == 1
        if is_member or not item.key or _ALIASED.match(rule.sql, expression.span[1]):
            continue
        text = rule.sql[slice(*expression.span)]
        yield Finding(
            rule.name, "unnamed", SQL,
            f"AWS does not document the name that {_short(text)} has in the output; here it is {item.key[0][:40]!r}",
            "write AS and a name", expression.span[0],
        )  # fmt: skip


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


# ── aliases ─────────────────────────────────────────────────────────────────────────────────────────────────


def _aliases(rule: Rule) -> dict[str, str]:
    """The names that SELECT gives, and what they stand for; without those that it uses as members of the message."""
    named = {
        item.key[0]: rule.sql[slice(*item.expression.span)] for item in rule.statement.items if len(item.key) == 1
    }
    parts = [part for item in rule.statement.items for part in walk(item.expression)]
    members = {part.names[0] for part in parts if isinstance(part, Path)}
    return {name: text for name, text in named.items() if name not in members}


def _hidden(
    rule: Rule, aliases: dict[str, str], outer: Expression, place: Place, where: str
) -> Iterator[Finding]:
    for part in _outside_queries(outer):
        if isinstance(part, Path) and part.names[0] in aliases:
            name, meant = part.names[0], aliases[part.names[0]]
            message = f"{where} sees the message and not the output, so {name} is a member of the message"
            suggestion = f"for what SELECT calls {name}, write {_short(meant)}"
            yield Finding(rule.name, "alias", place, message, suggestion, part.span[0])


def _outside_queries(expression: Expression) -> Iterator[Expression]:
    """The parts of an expression without those of nested SELECTs, whose names are their own."""
    inner = {id(part) for query in walk(expression) if isinstance(query, Subquery) for part in walk(query)}
    return (part for part in walk(expression) if id(part) not in inner)


# ── patterns ────────────────────────────────────────────────────────────────────────────────────────────────


def _slow_patterns(rule: Rule, outer: Expression, place: Place) -> Iterator[Finding]:
    for part in walk(outer):
        if not isinstance(part, Call) or part.name not in _PATTERN_CALLS or len(part.arguments) < 2:
            continue
        pattern = part.arguments[1]
        if not isinstance(pattern, Literal) or not isinstance(pattern.value, str):
            continue
        if (fault := patterns.fault(pattern.value)) is not None:
            message, suggestion = f"the regular expression is invalid, so this is always Undefined: {fault}", ""
            yield Finding(rule.name, "bad-pattern", place, message, suggestion, pattern.span[0])
        elif patterns.slow(pattern.value):
            message = "this regular expression can take long, and is stopped when it does, which fails the rule"
            suggestion = "do without back references, look-around and possessive quantifiers"
            yield Finding(rule.name, "slow-pattern", place, message, suggestion, pattern.span[0])
