"""Test cases run: what the rules made of a case's messages, held against what the case expects.

Each case has the rules to itself, from the start. Time is what the case says, and what is random comes from the chance
that the caller gives. Pure, like everything in this package; files and colours are the caller's.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from rules.engine import RuleSet
from rules.errors import EvaluationError
from rules.event import Chance
from rules.rehearsal.firings import Firing, Rehearsal, Resolved
from rules.rehearsal.trials import Case, Expected, Step
from rules.sql.payloads import json_bytes
from rules.sql.values import same


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as expected; `expected` and `found` are texts to be compared line by line, or empty."""

    rule: str
    message: str
    expected: str = ""
    found: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one case. It passed when there are no differences; `fired` are the rules that did."""

    case: str
    differences: tuple[Difference, ...]
    fired: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether everything was as expected."""
        return not self.differences


def judge(case: Case, rules: RuleSet, chance: Chance) -> Verdict:
    """Run one case."""
    known = {rule.name for rule in rules}
    unknown = [expected.rule for expected in case.expect if expected.rule not in known]
    differences = [Difference(name, f"is no rule{_near(name, known)}") for name in dict.fromkeys(unknown)]
    found: list[Firing] = []
    rehearsal = Rehearsal(rules, chance)
    rehearsal.now_ms = case.now
    for step in case.messages:
        found += rehearsal.elapse(step.after)
        try:
            found += _heard(step, rehearsal, chance)
        except EvaluationError as error:  # a payload that no JSON can say
            differences.append(Difference("", f"the payload cannot be sent: {error}"))
    names = dict.fromkeys([*(e.rule for e in case.expect if e.rule in known), *(f.rule for f in found)])
    for name in names:
        wanted = [expected for expected in case.expect if expected.rule == name]
        given = [firing for firing in found if firing.rule == name]
        why_not = _why_not(case, rules, name, len(given)) if len(given) < len(wanted) else ""
        differences += _compared(name, wanted, given, why_not)
    return Verdict(case.name, tuple(differences), tuple(dict.fromkeys(firing.rule for firing in found)))


def _heard(step: Step, rehearsal: Rehearsal, chance: Chance) -> list[Firing]:
    if step.topic is None:
        return []
    event = step.context.event(step.topic, step.content, rehearsal.now_ms, chance)
    return list(rehearsal.hear(event))


def _near(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name[:128], sorted(known), 1)
    return f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(sorted(known)) or 'none'}"


def _why_not(case: Case, rules: RuleSet, name: str, fired: int) -> str:
    """Why a rule did not fire, or not once more: as much of it as is certain."""
    rule = next(rule for rule in rules if rule.name == name)
    if rule.disabled:
        return "it is disabled"
    topics = [step.topic for step in case.messages if step.topic is not None]
    if not any(rule in rules.match(topic) for topic in topics):
        return f"its FROM '{rule.statement.source}' does not hear {', '.join(dict.fromkeys(topics))}"
    if rule.plan is not None:
        return "no other window of it has ended; let time pass with `after`"
    heard = sum(rule in rules.match(topic) for topic in topics)
    if fired >= heard:
        return "it has fired for each message it heard"
    return "its WHERE is not true for the others" if fired else "its WHERE is not true"


# ── comparison ──────────────────────────────────────────────────────────────────────────────────────────────


def _compared(name: str, wanted: Sequence[Expected], given: Sequence[Firing], why_not: str) -> Iterator[Difference]:
    for expected, firing in zip_longest(wanted, given):
        if firing is None:
            yield Difference(name, _missing(len(given), len(wanted), why_not), expected=_expected_text(expected))
        elif expected is None:
            was = f"failed, and was not expected to: {firing.failure}" if firing.failure else "fired, and was not to"
            yield Difference(name, was, found=_found_text(firing))
        else:
            yield from _differences(name, expected, firing)


def _missing(fired: int, wanted: int, why_not: str) -> str:
    if not fired:
        return f"did not fire: {why_not}"
    return f"fired {fired} {'time' if fired == 1 else 'times'}, {wanted} expected: {why_not}"


def _differences(name: str, expected: Expected, firing: Firing) -> Iterator[Difference]:
    if expected.fails is not None:
        if expected.fails not in firing.failure or not firing.failure:
            otherwise = f"failed with {firing.failure!r}" if firing.failure else "did not"
            yield Difference(name, f"was to fail with {expected.fails!r}, and {otherwise}")
        return
    if firing.failure:
        yield Difference(name, f"failed: {firing.failure}")
        return
    if not _is_output(expected, firing):
        texts = _expected_text(expected), _found_text(firing, expected.payload_includes)
        yield Difference(name, "gave another payload", *texts)
    if expected.actions is not None:
        yield from _other_actions(name, expected.actions, firing.actions)


def _is_output(expected: Expected, firing: Firing) -> bool:
    if expected.payload_includes is not None:
        return _includes(firing.output, expected.payload_includes)
    if "payload" in expected.model_fields_set:
        return same(firing.output, expected.payload)
    return firing.payload == expected.content


def _other_actions(
    name: str, wanted: Sequence[tuple[str, dict[str, Any]]], given: Sequence[Resolved]
) -> Iterator[Difference]:
    if [action for action, _ in wanted] != [action.name for action in given]:
        texts = "\n".join(action for action, _ in wanted), "\n".join(action.name for action in given)
        yield Difference(name, "has other actions", *texts)
        return
    for (action, parameters), found in zip(wanted, given, strict=True):
        if not _includes(found.parameters, parameters):
            texts = pretty(parameters), pretty(_restricted(found.parameters, parameters))
            yield Difference(name, f"gave other parameters to {action}", *texts)


def _includes(found: Any, wanted: Any) -> bool:
    """Whether `found` has everything that stands in `wanted`; only objects may have more."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return all(key in found and _includes(found[key], value) for key, value in wanted.items())
    return same(found, wanted)


# ── texts ───────────────────────────────────────────────────────────────────────────────────────────────────


def _expected_text(expected: Expected) -> str:
    if expected.fails is not None:
        return f"failure: {expected.fails}"
    if expected.payload_includes is not None:
        return pretty(expected.payload_includes)
    return pretty(expected.payload) if "payload" in expected.model_fields_set else _text(expected.content)


def _found_text(firing: Firing, only: dict[str, Any] | None = None) -> str:
    if firing.failure:
        return f"failure: {firing.failure}"
    if isinstance(firing.output, bytes):
        return _text(firing.output)
    return pretty(firing.output if only is None else _restricted(firing.output, only))


def _text(payload: bytes) -> str:
    """The payload as a text, escaped where it is none."""
    text = payload.decode(errors="backslashreplace")
    return text if text.replace("\n", "").isprintable() else repr(text)


def _restricted(found: Any, wanted: Any) -> Any:
    """`found` without the members that `wanted` says nothing about."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return {key: _restricted(value, wanted[key]) for key, value in found.items() if key in wanted}
    return found


def pretty(value: Any, indent: str = "") -> str:
    """JSON with a member on each line, sorted, for people to read and compare; every number with all its digits."""
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        members = [f"{deeper}{_scalar(key)}: {pretty(value[key], deeper)}" for key in sorted(value)]
        return "{\n" + ",\n".join(members) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return "[\n" + ",\n".join(f"{deeper}{pretty(item, deeper)}" for item in value) + f"\n{indent}]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    return json_bytes(value).decode()
