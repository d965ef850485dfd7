"""The rules of a template that go with its functions: `IoTRule` events, and `AWS::IoT::TopicRule`s that call one.

A version's rules are installed with it, and leave with it: they are the file `rules.json` beside its code, which is a
rules file like any other. A rule of the template that calls none of its functions is left out, with a warning.
"""

from collections.abc import Mapping
from typing import Any

import orjson
from yaml.nodes import Node

from functions.errors import InvalidParameter
from functions.names import FunctionName
from rules.actions import Lambda, parameters
from rules.engine import Rule
from rules.files.cloudformation import FUNCTION, RULE
from rules.files.document import Unreadable, member
from rules.files.forms import Entry
from rules.files.intrinsics import kind
from rules.files.reader import RuleReader
from tidegate.functions.faults import Complaints


class Attached:
    """Gathers the rules of one template for a side that runs the `supported` actions (None: all of them)."""

    def __init__(self, complaints: Complaints, supported: frozenset[str] | None) -> None:
        self._complaints = complaints
        self._supported = supported
        self._seen: dict[str, str] = {}
        self._rules: dict[str, list[Rule]] = {}  # by the name of the function

    def read(self, names: Mapping[str, str]) -> None:
        """Read the rules of the functions `names`, name by logical id."""
        for logical_id, resource in self._complaints.reader.resources.items():
            if kind(resource) == FUNCTION and logical_id in names and member(resource, "Condition") is None:
                self._events(logical_id, resource, names[logical_id])
            elif kind(resource) == RULE:
                self._resource(logical_id, resource, set(names.values()))

    def text(self, name: str) -> str | None:
        """The rules file of a function; None when it has no rules."""
        listed = [document(rule) for rule in self._rules.get(name, ())]
        return orjson.dumps(listed, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode() if listed else None

    def _events(self, logical_id: str, resource: Node, name: str) -> None:
        try:
            entries = list(self._complaints.reader.events(logical_id, resource))
        except Unreadable as error:
            self._complaints.reader.complain(error)
            return
        for entry in entries:
            self._add(self._reader(entry), name)

    def _resource(self, logical_id: str, resource: Node, names: set[str]) -> None:
        problems = self._complaints.reader.problems
        before = len(problems)
        try:
            reader: RuleReader | None = self._reader(self._complaints.reader.rule(logical_id, resource))
        except Unreadable:
            reader = None
        rule = reader.read() if reader is not None and len(problems) == before else None
        called = _called(rule) & names if rule is not None else set()
        if rule is None or not called:
            del problems[before:]
            reason = f"{logical_id} is not deployed, being a rule that calls no function of this template; "
            self._complaints.warning(f"{reason}a template in the directory of [rules] is a rules file", resource)
            return
        assert reader is not None
        reader.problems.clear()
        self._add(self._reader(self._complaints.reader.rule(logical_id, resource)), min(called))

    def _reader(self, entry: Entry) -> RuleReader:
        return RuleReader(self._complaints.document, entry, self._supported, None)

    def _add(self, reader: RuleReader, name: str) -> None:
        reader.check_name(self._seen)
        rule = reader.read()
        self._complaints.problems += reader.problems
        if rule is not None:
            self._rules.setdefault(name, []).append(rule)


def document(rule: Rule) -> dict[str, Any]:
    """A rule as a document of a rules file, as `aws iot create-topic-rule --cli-input-json` takes it."""
    payload: dict[str, Any] = {"sql": rule.sql, "awsIotSqlVersion": str(rule.version)}
    if rule.description:
        payload["description"] = rule.description
    payload["actions"] = [{action.name: parameters(action)} for action in rule.actions]
    if rule.error_action is not None:
        payload["errorAction"] = {rule.error_action.name: parameters(rule.error_action)}
    if rule.disabled:
        payload["ruleDisabled"] = True
    return {"ruleName": rule.name, "topicRulePayload": payload}


def _called(rule: Rule) -> set[str]:
    """The functions that a rule's `lambda` actions name."""
    found = set()
    for action in rule.actions:
        if isinstance(action, Lambda) and action.function_arn.constant is not None:
            try:
                found.add(FunctionName.parse(action.function_arn.constant).name)
            except InvalidParameter:
                continue
    return found
