"""From the texts of rules files to a RuleSet, or to every fault in all of them at once.

A file maps rule names to what AWS calls a topic rule payload:

    Overheat:
      sql: SELECT * FROM 'plant/+/+/telemetry' WHERE temperature > 105
      actions:
        - republish: { topic: "plant/${topic(2)}/alarm", qos: 1 }

Will not open files (`core.files` does). All or nothing: one fault anywhere and no rule of the set runs, so
that nobody runs half of what was meant.
"""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from yaml.nodes import MappingNode, Node, ScalarNode

from rules.actions import ACTIONS, ACTIONS_OF_AWS, Action, action
from rules.document import Document, Unreadable
from rules.engine import Rule, RuleSet
from rules.errors import Problem, RulesError, SqlError
from rules.parser import parse_statement
from rules.syntax import Statement
from rules.values import SqlVersion

T = TypeVar("T")
Place: TypeAlias = tuple[str | int, ...]  # keys and positions from the rule's node down

ACTIONS_MAX = 10  # AWS
PROBLEMS_MAX = 200  # more than anyone reads at once
DESCRIPTION_CHARS_MAX = 4_096  # enough for what a description is

_RULE_NAME = re.compile(r"[a-zA-Z0-9_]{1,128}")  # AWS


class _RulePayload(BaseModel):
    """The shape of one rule; what is inside `sql` and the actions is checked on its own."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    description: Annotated[str, Field(max_length=DESCRIPTION_CHARS_MAX)] = ""
    version: Literal["2015-10-08", "2016-03-23"] = Field("2015-10-08", alias="awsIotSqlVersion")  # AWS's default
    sql: str
    actions: Annotated[list[Any], Field(max_length=ACTIONS_MAX)]
    error_action: Any = Field(None, alias="errorAction")
    disabled: bool = Field(False, alias="ruleDisabled")


def parse(texts: Mapping[str, str], *, supported: frozenset[str]) -> RuleSet:
    """The rules of all `texts` (file name → YAML or JSON), for a side that can run the `supported` actions.

    Raises RulesError with every fault, each with its file, line and column.
    """
    rules: list[Rule] = []
    problems: list[Problem] = []
    seen: dict[str, str] = {}  # rule name → file and line
    for file, text in texts.items():
        try:
            document = Document(file, text)
            entries = _entries(document)
        except Unreadable as error:
            problems.append(Problem.at(file, text, error.at, error.reason))
            continue
        for key, node in entries:
            if len(problems) >= PROBLEMS_MAX:
                problems.append(Problem.at(file, text, key.start_mark.index, "too many problems: the rest is not read"))
                raise RulesError(problems)
            reader = _RuleReader(document, node, supported)
            reader.check_name(key, seen)
            rule = reader.read(str(key.value))
            problems += sorted(reader.problems, key=lambda problem: (problem.line, problem.column))
            if rule is not None:
                rules.append(rule)
    if problems:
        raise RulesError(problems)
    return RuleSet(rules)


def _entries(document: Document) -> list[tuple[Node, Node]]:
    if document.root is None:
        return []
    if not isinstance(document.root, MappingNode):
        raise Unreadable("a rules file maps rule names to rules", document.root.start_mark.index)
    return list(document.root.value)


class _RuleReader:
    """Reads the rule at one node; `problems` is what is wrong with it."""

    def __init__(self, document: Document, node: Node, supported: frozenset[str]) -> None:
        self.problems: list[Problem] = []
        self._document = document
        self._node = node
        self._supported = supported

    # ── the rule ────────────────────────────────────────────────────────────────────────────────────────────

    def check_name(self, key: Node, seen: dict[str, str]) -> None:
        """Complain about a name that AWS would refuse or that is in `seen`; add it there."""
        if not isinstance(key, ScalarNode) or not _RULE_NAME.fullmatch(key.value):
            self._complain("a rule name is 1 to 128 letters, digits and _", key.start_mark.index)
        elif key.value in seen:
            self._complain(f"there is a rule {key.value} already, in {seen[key.value]}", key.start_mark.index)
        else:
            seen[key.value] = f"{self._document.name}:{key.start_mark.line + 1}"

    def read(self, name: str) -> Rule | None:
        """The rule, or None when it cannot be made."""
        try:
            written = self._document.value(self._node)
        except Unreadable as error:
            self._complain(error.reason, error.at)
            return None
        payload = self._validated(_RulePayload.model_validate, written, ())
        if not isinstance(written, dict):
            return None
        # With a fault in the payload, look on as if the newest version stood there: it allows the most.
        version = SqlVersion(payload.version) if payload else SqlVersion.V2016
        statement = self._statement(written.get("sql"))
        actions = self._actions(written.get("actions"), version)
        on_error = written.get("errorAction")
        error_action = None if on_error is None else self._action(on_error, ("errorAction",), version)
        rule = self._compiled(name, statement, version) if statement else None
        if rule is None or payload is None:
            return None
        rule.actions, rule.error_action = actions, error_action
        rule.description, rule.disabled = payload.description, payload.disabled
        return rule

    def _statement(self, sql: Any) -> Statement | None:
        if not isinstance(sql, str):
            return None
        try:
            statement = parse_statement(sql)
        except SqlError as error:
            self._complain_inside(error, ("sql",))
            return None
        if statement.source is None:
            self._complain_at("sql: the statement has no FROM 'topic/filter'", ("sql",))
            return None
        return statement

    def _compiled(self, name: str, statement: Statement, version: SqlVersion) -> Rule | None:
        try:
            return Rule(name, statement, version)
        except SqlError as error:
            self._complain_inside(error, ("sql",))
            return None

    # ── actions ─────────────────────────────────────────────────────────────────────────────────────────────

    def _actions(self, listed: Any, version: SqlVersion) -> tuple[Action, ...]:
        entries = enumerate(listed) if isinstance(listed, list) else ()
        actions = [self._action(entry, ("actions", position), version) for position, entry in entries]
        return tuple(action for action in actions if action is not None)

    def _action(self, entry: Any, place: Place, version: SqlVersion) -> Action | None:
        if not isinstance(entry, dict) or len(entry) != 1:
            self._complain_at(f"{_dotted(place)}: write one action, `name: {{ parameters }}`", place)
            return None
        [(name, parameters)] = entry.items()
        if name in self._supported and name in ACTIONS:
            return self._validated(lambda written: action(name, written, version), parameters, (*place, name))
        reason = f"this side cannot run {name!r} yet" if name in ACTIONS_OF_AWS else f"there is no action {name[:40]!r}"
        runs = ", ".join(sorted(self._supported)) or "none"
        self._complain_at(f"{_dotted(place)}: {reason}; it runs: {runs}", (*place, name), key=True)
        return None

    # ── complaints ──────────────────────────────────────────────────────────────────────────────────────────

    def _validated(self, validate: Callable[[Any], T], written: Any, place: Place) -> T | None:
        try:
            return validate(written)
        except ValidationError as error:
            for details in error.errors():
                self._explain(details, (*place, *details["loc"]))
            return None

    def _explain(self, details: ErrorDetails, place: Place) -> None:
        cause = details.get("ctx", {}).get("error")
        if isinstance(cause, SqlError):
            self._complain_inside(cause, place)
        elif details["type"] == "extra_forbidden":
            self._complain_at(f"{_dotted(place)}: no such key here", place, key=True)
        elif details["type"] == "missing":
            self._complain_at(f"{_dotted(place)} is missing", place)
        elif details["type"] == "model_type":
            self._complain_at(f"{_dotted(place) or 'a rule'} is a mapping of keys to values", place)
        else:
            self._complain_at(f"{_dotted(place)}: {cause or details['msg']}", place)

    def _complain_inside(self, error: SqlError, place: Place) -> None:
        node = self._document.find(self._node, place)
        offset = error.offset_in(self._document.value(node))
        self._complain(f"{_dotted(place)}: {error.message}", self._document.inside(node, offset))

    def _complain_at(self, message: str, place: Place, *, key: bool = False) -> None:
        self._complain(message, self._document.find(self._node, place, key=key).start_mark.index)

    def _complain(self, message: str, at: int) -> None:
        self.problems.append(Problem.at(self._document.name, self._document.text, at, message))


def _dotted(place: Place) -> str:
    """`actions[0].sns.targetArn`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).lstrip(".")
