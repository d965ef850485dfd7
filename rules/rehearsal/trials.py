"""Test files: messages in, what the rules are to make of them out. `overheat.test.yaml` beside `overheat.yaml`:

    tests:
      - name: a hot machine raises an alarm
        topic: plant/press-hall/machine/telemetry
        payload: { temperature: 110 }
        now: 2026-03-01T06:00:00Z
        expect:
          - rule: Overheat
            payload: { temperature: 110, machine: machine, raised_at: 1772344800000 }
            actions:
              - republish: { topic: plant/press-hall/machine/alarm }

Decides what may stand in such a file, and says where one is wrong; `rules.rehearsal.verdicts` runs what it says. Every
rule that fires must be expected, `expect: []` is a test that none does, and payloads are compared whole, except where
the file says `payload_includes`. Of an action those parameters are compared that are written.

Numbers are read as JSON reads them, with all their digits, also in YAML.
"""

import re
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from core.topics import check_name
from rules.errors import Problem, RulesError
from rules.files.document import Document, Unreadable
from rules.files.faults import is_of_key, words
from rules.rehearsal.scenarios import TIMESTAMP_MAX, Circumstances, Content, Milliseconds, Written
from rules.sql import payloads
from rules.sql.durations import milliseconds

NOW_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z, for tests that name no time: the same in every run
TESTS_MAX = 10_000  # in one file of a megabyte there is no room for more

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_NUMERIC_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def _moment(value: object) -> object:
    """Milliseconds since 1970, or a date and time with its zone as ISO 8601 has it."""
    if not isinstance(value, str):
        return value
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(f"{value[:40]!r} is no moment: write milliseconds, or as in 2026-03-01T06:00:00Z")
    return round(moment.timestamp() * 1000)


def _span(value: object) -> object:
    return milliseconds(value) if isinstance(value, str) else value


def _topic(value: object) -> object:
    if isinstance(value, str):
        check_name(value)
    return value


def _action(value: Any) -> Any:
    """`name`, or `name: { parameters }`, as (name, parameters)."""
    if isinstance(value, str):
        return (value, {})
    if isinstance(value, dict) and len(value) == 1:
        [(name, parameters)] = value.items()
        if isinstance(parameters, dict):
            return (name, parameters)
    raise ValueError("write an action's name, or name: { parameters }")


Moment = Annotated[Milliseconds, BeforeValidator(_moment)]
Span = Annotated[int, BeforeValidator(_span), Field(ge=0, le=TIMESTAMP_MAX)]
Topic = Annotated[str, BeforeValidator(_topic)]
ExpectedAction = Annotated[tuple[str, dict[str, Any]], BeforeValidator(_action)]


class Expected(Content):
    """One output of one rule: the whole of it, or in `payload_includes` the members that matter; or that it `fails`
    with an error that has this text in it. `actions`, when they are written, are all of the rule's, in order.
    """

    rule: str
    payload_includes: dict[str, Any] | None = None
    fails: str | None = None
    actions: list[ExpectedAction] | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        ways = ("payload", "payload_text", "payload_b64", "payload_includes", "fails")
        if len(self.model_fields_set.intersection(ways)) != 1:
            raise ValueError(f"write one of {', '.join(ways)}")
        return self


class Step(Content):
    """A message, `after` a span of time; without a topic, only the time that passes."""

    topic: Topic | None = None
    context: Circumstances = Circumstances()
    after: Span = 0

    @model_validator(mode="after")
    def _is_message_or_pause(self) -> Self:
        if self.topic is None and self.model_fields_set - {"after"}:
            raise ValueError("topic is missing")
        return self


class Case(Written):
    """One test: a message, or several `messages` one after the other, and everything that is to come of them.

    The first message comes at `now`.
    """

    name: str
    now: Moment = NOW_MS
    messages: Annotated[list[Step], Field(min_length=1)]
    expect: list[Expected]

    @model_validator(mode="before")
    @classmethod
    def _one_message(cls, written: Any) -> Any:
        """What stands in a case without `messages` is its one message."""
        if not isinstance(written, dict) or "messages" in written:
            return written
        message = {key: value for key, value in written.items() if key in Step.model_fields}
        rest = {key: value for key, value in written.items() if key not in message}
        if "topic" not in message:
            raise ValueError("topic is missing, or messages, a list of them")
        return {**rest, "messages": [message]}


class _OneMessage(Step):
    """The keys of a case whose one message stands in the case itself, to say what an unknown one may mean."""

    name: str
    now: Moment
    messages: list[Step]
    expect: list[Expected]


def _several(value: object) -> object:
    return [value] if isinstance(value, str) else value


class Trials(Written):
    """A whole file. `rules` are paths from it to rules files or directories; without them, its namesake beside it."""

    rules: Annotated[list[str], BeforeValidator(_several), Field(min_length=1)] | None = None
    tests: Annotated[list[Case], Field(max_length=TESTS_MAX)]


def read(file: str, text: str) -> Trials:
    """What a test file says. Raises RulesError with every fault in it, each with its place."""
    try:
        document = Document(file, text)
        written = {} if document.root is None else _value(document, document.root)
    except Unreadable as error:
        raise RulesError([Problem.at(file, text, error.at, error.reason)]) from None
    try:
        return Trials.model_validate(written)
    except ValidationError as error:
        problems = [_problem(document, details) for details in error.errors(include_url=False)]
        raise RulesError(sorted(problems, key=lambda problem: (problem.line, problem.column))) from None


def _value(document: Document, node: Node) -> Any:
    """The node as a JSON value: a plain scalar that is a JSON number is that number, with all its digits.

    What only YAML takes for a number (12:30, 1_10, 0310, .inf) is nothing that a payload should hold unsaid.
    """
    if isinstance(node, MappingNode):
        return {key: _value(document, value) for key, value in document.entries(node)}
    if isinstance(node, SequenceNode):
        return [_value(document, item) for item in node.value]
    if isinstance(node, ScalarNode) and node.style is None:
        if _NUMBER.fullmatch(node.value):
            try:
                return payloads.read(node.value.encode())
            except ValueError as error:
                raise Unreadable(str(error), node.start_mark.index) from None
        if node.tag in _NUMERIC_TAGS:
            reason = f"{node.value[:40]} is a number to YAML and not to JSON; write it in quotes, or as JSON writes it"
            raise Unreadable(reason, node.start_mark.index)
    return document.value(node)


def _problem(document: Document, details: ErrorDetails) -> Problem:
    assert document.root is not None or not details["loc"][1:]
    place, text = details["loc"], _words(document, details)
    if details["type"] == "missing":
        text, place = f"{place[-1]} {text}", place[:-1]
    if document.root is None:
        return Problem.at(document.name, document.text, 0, text)
    place = _as_written(document, document.root, place)
    node = document.find(document.root, place, key=is_of_key(details))
    path = _dotted(place)
    return Problem.at(document.name, document.text, node.start_mark.index, f"{path}: {text}" if path else text)


def _words(document: Document, details: ErrorDetails) -> str:
    place = details["loc"]
    if is_of_key(details) and len(place) == 3 and document.root is not None:
        case = document.find(document.root, place[:2])
        if document.find(case, ("messages",)) is case:
            return words({**details, "loc": place[2:]}, _OneMessage, str)
    return words(details, Trials, str)


def _as_written(document: Document, root: Node, place: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """The place in the file: a case's one message stands in the case itself."""
    if place[:1] == ("tests",) and place[2:4] == ("messages", 0):
        case = document.find(root, place[:2])
        if document.find(case, ("messages",)) is case:
            return (*place[:2], *place[4:])
    return place


def _dotted(place: tuple[str | int, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).lstrip(".")
