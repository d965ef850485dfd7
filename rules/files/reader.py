"""One rule of a file: its payload read, compiled, and every fault in it told with the place where it stands.

The way of a payload: node (`rules.files.document`) ─ value ─ shape checked here ─ statement and actions compiled.
The node may come from any of the forms of `rules.files.forms` or from a template; keys have AWS's names by then.

AWS's bounds: at most ACTIONS_MAX actions, PAYLOAD_BYTES_MAX bytes of JSON, a name as RULE_NAME says.
"""

import json
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from yaml.nodes import ScalarNode

from rules.actions import ACTIONS, Action, Http, Republish, Setting, action
from rules.actions.fields import Place, did_you_mean
from rules.engine import Rule
from rules.errors import PROBLEMS_MAX, Problem, Severity, SqlError, line_and_column
from rules.files import faults
from rules.files.document import Document, Unreadable
from rules.files.forms import Entry
from rules.sql.parser import parse_statement
from rules.sql.syntax import Statement
from rules.sql.values import SqlVersion

T = TypeVar("T")

# AWS
ACTIONS_MAX = 10
PAYLOAD_BYTES_MAX = 131_072
RULE_NAME = re.compile(r"[a-zA-Z0-9_]{1,128}")

_VERBATIM = frozenset(("clientProperties", "tags"))  # below these stand keys that are nobody's names but the user's


class Payload(BaseModel):
    """One rule: what it listens to, what it makes of a message, and what is done with that."""

    # The shape alone: what is inside `sql` and the actions is checked on its own.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    description: Annotated[str, Field(description="For people.")] = ""
    version: Literal["2015-10-08", "2016-03-23", "beta"] = Field(
        "2015-10-08", alias="awsIotSqlVersion", description="The version of SQL; write 2016-03-23."
    )
    sql: Annotated[str, Field(description="The statement: SELECT … FROM 'topic/filter' WHERE …")]
    actions: Annotated[
        list[Any], Field(max_length=ACTIONS_MAX, description="What is done with the output; all of them, in no order.")
    ]
    error_action: Any = Field(
        None, alias="errorAction", description="What is done about a message whose actions failed for good."
    )
    disabled: bool = Field(False, alias="ruleDisabled", description="The rule is checked, but hears nothing.")


class Source:
    """Where a rule stands in its file, for whoever has something to say about it."""

    def __init__(self, document: Document, entry: Entry) -> None:
        self._document = document
        self._entry = entry

    @property
    def file(self) -> str:
        """The file's name, as it was given."""
        return self._document.name

    @property
    def line(self) -> int:
        """The line of the rule's name, from 1."""
        return line_and_column(self._document.text, self._entry.name_at)[0]

    def problem(
        self, message: str, place: Place = (), offset: int | None = None,
        *, key: bool = False, severity: Severity = "error",
    ) -> Problem:  # fmt: skip
        """The problem that `message` tells, at `place` or at the nearest place above it that the file has.

        `offset`: the character of the text there, such as of `("sql",)`. `key`: at the key, not at its value.
        """
        node = self._document.find(self._entry.payload, place, key=key)
        inside = offset is not None and isinstance(node, ScalarNode)
        at = self._document.inside(node, offset) if inside else node.start_mark.index  # type: ignore[arg-type]
        said = f"{self.dotted(place)}: {message}" if place else message
        return self.problem_at(at, said, severity)

    def problem_of_name(self, message: str, severity: Severity = "error") -> Problem:
        """The same, at the rule's name."""
        return self.problem_at(self._entry.name_at, message, severity)

    def problem_at(self, at: int, message: str, severity: Severity = "error") -> Problem:
        """The same, at character `at` of the file."""
        return Problem.at(self._document.name, self._document.text, at, message, severity)

    def dotted(self, place: Place) -> str:
        """`actions[0].sns.targetArn`, as the file spells it."""
        written = ""
        for position, step in enumerate(place):
            if isinstance(step, int):
                written += f"[{step}]"
            else:
                free = position > 0 and place[position - 1] in _VERBATIM
                written += f".{step if free else self._entry.form.spelled(step)}"
        return written.lstrip(".")


class RuleReader:
    """Reads the rule of one entry, for a side that runs the `supported` actions; `problems` is what is wrong.

    `calls`: the functions that call out which it runs. None: all actions, all functions.
    """

    def __init__(
        self, document: Document, entry: Entry, supported: frozenset[str] | None, calls: frozenset[str] | None
    ) -> None:
        self.problems: list[Problem] = []
        self.source = Source(document, entry)
        self._document = document
        self._entry = entry
        self._supported = frozenset(ACTIONS) if supported is None else supported
        self._calls = calls

    # ── the rule ────────────────────────────────────────────────────────────────────────────────────────────

    def check_name(self, seen: dict[str, str]) -> None:
        """Complain about a name that AWS would refuse or that is in `seen`; add it there."""
        name = self._entry.name
        if not RULE_NAME.fullmatch(name):
            self.problems.append(self.source.problem_of_name("a rule name is 1 to 128 letters, digits and _"))
        elif name in seen:
            self.problems.append(self.source.problem_of_name(f"there is a rule {name} already, in {seen[name]}"))
        else:
            seen[name] = f"{self.source.file}:{self.source.line}"

    def read(self) -> Rule | None:
        """The rule, or None when it cannot be made."""
        try:
            written = self._document.value(self._entry.payload)
        except Unreadable as error:
            self.problems.append(self.source.problem_at(error.at, error.reason))
            return None
        if not isinstance(written, dict):
            self._complain("a rule is a mapping of keys to values")
            return None
        written = {key: value for key, value in written.items() if key not in self._entry.form.ignored}
        size = len(json.dumps(written, ensure_ascii=False).encode())
        if size > PAYLOAD_BYTES_MAX:
            self._complain(f"the rule has {size:,} bytes as JSON; at most {PAYLOAD_BYTES_MAX:,} are allowed")
            return None
        payload = self._validated(Payload, lambda: Payload.model_validate(written, strict=self._strict), ())
        # With a fault in the payload, look on as if the newest version stood there: it allows the most.
        version = SqlVersion(payload.version) if payload else SqlVersion.V2016
        statement = self._statement(written.get("sql"))
        setting = Setting(version, statement, self._calls)
        actions = self._actions(written.get("actions"), setting)
        error_action = self._error_action(written["errorAction"], setting) if "errorAction" in written else None
        if statement is None or payload is None:
            return None
        try:
            return Rule(
                self._entry.name, statement, version, actions=actions, error_action=error_action,
                description=payload.description, disabled=payload.disabled, calls=self._calls,
            )  # fmt: skip
        except SqlError as error:
            self._complain_inside(error, ("sql",))
            return None

    def _statement(self, sql: Any) -> Statement | None:
        if not isinstance(sql, str):
            return None
        try:
            statement = parse_statement(sql)
        except SqlError as error:
            self._complain_inside(error, ("sql",))
            return None
        if statement.source is None:
            only = f"without FROM, the rule hears only what is published on $aws/rules/{self._entry.name}"
            self._complain(only, ("sql",), severity="warning")
        return statement

    # ── actions ─────────────────────────────────────────────────────────────────────────────────────────────

    def _actions(self, listed: Any, setting: Setting) -> tuple[Action, ...]:
        entries = enumerate(listed[:ACTIONS_MAX]) if isinstance(listed, list) else ()
        actions = [self._action(entry, ("actions", position), setting) for position, entry in entries]
        return tuple(action for action in actions if action is not None)

    def _error_action(self, entry: Any, setting: Setting) -> Action | None:
        if entry is None:
            self._complain("is empty: write a value, or leave the key out", ("errorAction",))
            return None
        found = self._action(entry, ("errorAction",), setting)
        if isinstance(found, Http) and (found.enable_batching or found.batch_config is not None):
            self._complain("an error action cannot send batches", ("errorAction", "http"))
        return found

    def _action(self, entry: Any, place: Place, setting: Setting) -> Action | None:
        if not isinstance(entry, dict) or len(entry) != 1:
            self._complain("write one action, `name: { parameters }`", place)
            return None
        [(name, written)] = entry.items()
        if name in ACTIONS and name in self._supported:
            place = (*place, name)
            found = self._validated(ACTIONS[name], lambda: action(name, written, setting, strict=self._strict), place)
            self._warn(found, place)
            return found
        spelled = self._entry.form.spelled
        reason = f"there is no action {spelled(name)[:40]!r}{did_you_mean(name, map(spelled, ACTIONS))}"
        if name in ACTIONS:
            runs = ", ".join(sorted(self._supported)) or "none"
            reason = f"this side cannot run {name!r} yet; it runs: {runs}"
        at = self._document.find(self._entry.payload, (*place, name), key=True).start_mark.index
        self.problems.append(self.source.problem_at(at, f"{self.source.dotted(place)}: {reason}"))
        return None

    def _warn(self, found: Action | None, place: Place) -> None:
        if isinstance(found, Republish) and set("#+").intersection(found.topic.constant or ""):
            self._complain("nothing can be published on a topic with a wildcard", (*place, "topic"), severity="warning")

    # ── complaints ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _strict(self) -> bool | None:
        return None if self._entry.form.typed else False

    def _validated(self, model: type[BaseModel], validate: Callable[[], T], place: Place) -> T | None:
        try:
            return validate()
        except ValidationError as error:
            for details in error.errors()[:PROBLEMS_MAX]:
                self._explain(details, model, place)
            return None

    def _explain(self, details: ErrorDetails, model: type[BaseModel], place: Place) -> None:
        loc = tuple(step for step in details["loc"] if step != "[key]")  # pydantic's own mark
        cause = details.get("ctx", {}).get("error")
        if isinstance(cause, SqlError):
            self._complain_inside(cause, (*place, *loc))
        else:
            words = faults.words(details, model, self._entry.form.spelled)
            self._complain(words, (*place, *loc), key=faults.is_of_key(details))

    def _complain_inside(self, error: SqlError, place: Place) -> None:
        text = self._document.value(self._document.find(self._entry.payload, place))
        self._complain(error.message, place, error.offset_in(text))

    def _complain(
        self, message: str, place: Place = (), offset: int | None = None,
        *, key: bool = False, severity: Severity = "error",
    ) -> None:  # fmt: skip
        self.problems.append(self.source.problem(message, place, offset, key=key, severity=severity))
