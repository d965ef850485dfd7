"""`tidegate rules explain`: what one rule makes of one message, and why."""

import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from core.cli import Json, errors_to_exit_codes, out, print_rows, write
from core.errors import ConfigurationError, TidegateError
from core.files import read_texts
from core.topics import BASIC_INGEST, check_name
from rules.actions.fields import did_you_mean
from rules.engine import NOTHING, Rule, RuleSet, filter_hears
from rules.errors import EvaluationError
from rules.event import Event
from rules.files import parse
from rules.rehearsal.explanations import Part, again, blamed, condition, variables
from rules.rehearsal.firings import Resolved, resolved
from rules.rehearsal.scenarios import Moment
from rules.sql import payloads
from rules.sql.payloads import json_bytes
from rules.windows.grouping import WindowPlan
from tidegate.rules.evaluating import faults
from tidegate.rules.options import (
    DEFAULT_RULES,
    Dice,
    Files,
    payload_from_stdin,
    plain,
    rules_texts,
    shown,
    supported,
)

EXPRESSION_CHARS_MAX = 72  # of a line in a table, with its value beside it; its parts are in the lines below

NAMES_MAX = 20  # of rules that could be meant

ContextFile = Annotated[
    Path | None, typer.Option("--context", metavar="FILE.json", help="What the message carries: as `context` of eval.")
]


def explain(
    name: Annotated[str, typer.Argument(metavar="RULE", help="The name of the rule.")],
    topic: Annotated[str, typer.Option(help="The topic that the message came on.")],
    files: Files = None,
    client_id: Annotated[str | None, typer.Option("--client-id", help="Who published it.")] = None,
    context: ContextFile = None,
    as_json: Json = False,
) -> None:
    """Show what a rule makes of the message whose payload stands on standard input, and why."""
    with errors_to_exit_codes():
        check_name(topic)
        rule = _rule(parse(rules_texts(files or [DEFAULT_RULES]), supported=supported(None)), name)
        moment = Moment() if context is None else _moment(context)
        if sys.stdin is None:  # the shell closed it
            raise TidegateError("standard input is closed; the message's payload stands there")
        if client_id is not None:
            moment = moment.model_copy(update={"clientid": client_id})
        now_ms = int(time.time() * 1000) if moment.timestamp is None else moment.timestamp
        facts = _explanation(rule, moment.event(topic, payload_from_stdin(), now_ms, Dice()))
        if as_json:
            write(json_bytes(facts) + b"\n")
        else:
            _print(facts)


def _rule(rules: RuleSet, name: str) -> Rule:
    for rule in rules:
        if rule.name == name:
            return rule
    known = [rule.name for rule in rules]
    raise TidegateError(f"there is no rule {name}{did_you_mean(name, known) or _all(known)}")


def _all(known: list[str]) -> str:
    more = f" and {len(known) - NAMES_MAX:,} more" if len(known) > NAMES_MAX else ""
    return f"; there are: {', '.join(known[:NAMES_MAX]) or 'none'}{more}"


def _moment(file: Path) -> Moment:
    if file.is_dir():
        raise ConfigurationError("cannot read", [f"{file}: is a directory; name one JSON file"])
    [text] = read_texts(file).values()
    try:
        written = payloads.read(text.encode())
    except ValueError as error:
        raise ConfigurationError(str(file), [f"not JSON: {error}"]) from None
    try:
        return Moment.model_validate(written)
    except ValidationError as error:
        raise ConfigurationError(str(file), faults(error, written, Moment)) from None


# ── facts ───────────────────────────────────────────────────────────────────────────────────────────────────


def _explanation(rule: Rule, event: Event) -> dict[str, Any]:
    where = condition(rule, event)
    given = variables(rule, event)
    again(event)  # what is random falls for the output as it did for WHERE
    passed = where is None or (where.value is True and not where.error)
    heard = _hears(rule, event.message.topic)
    facts = {
        "rule": rule.name,
        "disabled": rule.disabled,
        "filter": rule.statement.source,
        "topic": event.message.topic,
        "filter_matches": heard,
        "payload_is_json": not isinstance(event.value, bytes),
        "variables": [_said(part) for part in given],
        "where": [_said(part) for part in (where.walk() if where is not None else ())],
        "where_is_true": passed,
        "why_not": "" if where is None else blamed(where),
        "acts": heard and passed and not rule.disabled,
    }
    if passed:
        facts |= _output(rule, event)
        facts["acts"] = facts["acts"] and "error" not in facts
    return facts


def _hears(rule: Rule, topic: str) -> bool:
    if topic.startswith(BASIC_INGEST):
        return topic[len(BASIC_INGEST) :].partition("/")[0] == rule.name
    return rule.statement.source is not None and filter_hears(rule.statement.source, topic)


def _output(rule: Rule, event: Event) -> dict[str, Any]:
    try:
        if rule.plan is not None:
            return {"window": _window(rule, rule.plan, event)}
        output = rule.evaluate(event)
    except EvaluationError as error:
        return {"error": str(error)}
    if output is NOTHING:
        return {"error": "the rule gave nothing"}
    actions = {"actions": [_action(resolved(action, event)) for action in rule.actions]}
    if rule.error_action is not None:
        actions["error_action"] = [_action(resolved(rule.error_action, event))]
    return {**shown("output", output), **actions}


def _window(rule: Rule, plan: WindowPlan, event: Event) -> dict[str, Any]:
    """The window that the message counts for, by its group and its bounds."""
    entry = plan.entry(event)
    if entry is None or rule.statement.window is None:
        return {}
    texts = [rule.sql[slice(*key.span)] for key in rule.statement.window.keys]
    values = [key[0] if key else None for key in payloads.read(entry.group.encode())]
    start = entry.time - entry.time % plan.size_ms
    return {"group": dict(zip(texts, values, strict=False)), "from": start, "to": start + plan.size_ms}


def _action(action: Resolved) -> dict[str, Any]:
    said = {"action": action.name, "parameters": action.parameters}
    return {**said, "error": action.error} if action.error else said


def _said(part: Part) -> dict[str, Any]:
    said: dict[str, Any] = {"expression": part.text, "depth": part.depth, "type": part.type}
    if part.skipped:
        return {**said, "skipped": True}
    if part.error:
        return {**said, "error": part.error}
    return said if part.type == "Undefined" else {**said, **shown("value", part.value)}


# ── for people ──────────────────────────────────────────────────────────────────────────────────────────────


def _print(facts: dict[str, Any]) -> None:
    _say(_from(facts))
    if not facts["payload_is_json"]:
        _say("the payload is not JSON, so every member of it is Undefined")
    if facts["variables"]:
        print_rows(_rows("variable", facts["variables"]))
    if facts["where"]:
        print_rows(_rows("expression", facts["where"]))
    why = f": {facts['why_not']}" if facts["why_not"] else ""
    has_where = facts["where"] or not facts["where_is_true"]
    _say(f"WHERE is {'true' if facts['where_is_true'] else 'not true'}{why}" if has_where else "there is no WHERE")
    if facts["disabled"]:
        _say("the rule is disabled")
    if "error" in facts:
        _say(f"the rule fails: {facts['error']}")
    if not facts["acts"]:
        _say("so nothing happens")
        return
    if "window" in facts:
        window = facts["window"]
        since, until = (datetime.fromtimestamp(window[at] / 1_000, UTC).isoformat() for at in ("from", "to"))
        _say(f"it counts for the window of {_json(window['group'])} from {since} to {until}")
        return
    _say(f"output: {facts['output_b64'] if 'output_b64' in facts else _json(facts['output'])}")
    _print_actions("action", facts["actions"])
    _print_actions("error action, if one fails", facts.get("error_action", ()))


def _from(facts: dict[str, Any]) -> str:
    if facts["topic"].startswith(BASIC_INGEST):
        named = "names" if facts["filter_matches"] else "does not name"
        return f"{facts['topic']} {named} {facts['rule']} (Basic Ingest)"
    if facts["filter"] is None:
        return "there is no FROM: the rule hears Basic Ingest only"
    return f"FROM '{facts['filter']}' {'hears' if facts['filter_matches'] else 'does not hear'} {facts['topic']}"


def _rows(head: str, parts: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    for part in parts:
        text = " ".join(part["expression"].split())
        cut = f"{text[: EXPRESSION_CHARS_MAX - 1]}…" if len(text) > EXPRESSION_CHARS_MAX else text
        yield {head: "  " * part["depth"] + cut, "type": part["type"], "value": _value(part)}


def _value(part: dict[str, Any]) -> str:
    if part.get("skipped"):
        return "(not evaluated: what is before it decides)"
    if "error" in part:
        return f"failed: {part['error']}"
    if "value_b64" in part:
        return str(part["value_b64"])
    return _json(part["value"]) if "value" in part else ""


def _print_actions(title: str, actions: Iterable[dict[str, Any]]) -> None:
    for action in actions:
        _say(f"{title}: {action['action']} {action.get('error') or _json(action['parameters'])}")


def _json(value: Any) -> str:
    return json_bytes(value).decode()


def _say(text: str) -> None:
    out.print(plain(text), soft_wrap=True)
