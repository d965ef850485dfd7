"""The rules at work: which of them hear a topic, and what each makes of a message.

The caller brings an `Event` per message, asks `RuleSet.match(topic)`, evaluates each rule, and runs the actions of
those whose output is not NOTHING. Actions, error actions and everything that takes time are the caller's, and so is the
clock: what a rule took is added to `Counters.spent_ns` by whoever ran it and its actions.

Under Basic Ingest a topic names the one rule that hears it (`core.topics`), whatever that one's FROM says, unless it
listens to topics of the server.

Invariants:
1. A payload is parsed at most once, whatever the number of rules.
2. `evaluate` raises nothing but EvaluationError, and counts every outcome: matched = passed + failed + those
   whose WHERE was not true.
3. Outputs may share parts of the payload with each other; they are for reading.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from core.topics import BASIC_INGEST, TopicTree
from rules.actions import Action
from rules.errors import EvaluationError, failure
from rules.event import Event
from rules.sql import patterns
from rules.sql.compiler import NOTHING, Compiled, compile_statement
from rules.sql.payloads import json_bytes
from rules.sql.syntax import Statement
from rules.sql.values import SqlVersion
from rules.windows.grouping import WindowPlan, compile_window

__all__ = [
    "NOTHING",
    "Counters",
    "EvaluationError",
    "Event",
    "Rule",
    "RuleSet",
    "filter_hears",
    "output_bytes",
]


@dataclass(slots=True)
class Counters:
    """What one rule has done since it was loaded, or last changed: messages heard, outputs given, evaluations that
    failed, and the nanoseconds that evaluating and acting took.

    `actions_failed` are actions that failed for good. `last_error` is of an evaluation or an action.
    """

    matched: int = 0
    passed: int = 0
    failed: int = 0
    actions_failed: int = 0
    spent_ns: int = 0
    last_error: str = ""


def _no_single_message(_: Event) -> Any:
    raise EvaluationError("a rule with a window has rows, and no output for a single message")


@dataclass(slots=True, eq=False)
class Rule:
    """One rule, ready to run. `evaluate` counts in `counters`; everything else stays as it was made.

    `error_action` is for an action that failed for good. A `disabled` rule is checked but never matched. `calls`: the
    functions that call out which this side runs, None for all.

    `plan` is that of a statement with a window, whose rule is not evaluated for a single message:
    `rules.windows.aggregation` keeps its windows. None for the others.
    """

    name: str
    statement: Statement
    version: SqlVersion
    actions: tuple[Action, ...] = ()
    error_action: Action | None = None
    description: str = ""
    disabled: bool = False
    calls: frozenset[str] | None = None
    counters: Counters = field(default_factory=Counters)
    plan: WindowPlan | None = field(init=False, repr=False, default=None)
    _run: Compiled = field(init=False, repr=False, default=_no_single_message)

    def __post_init__(self) -> None:
        """Compile the statement; raises SqlError."""
        if self.statement.window is not None:
            self.plan = compile_window(self.statement, self.version, self.calls)
        else:
            self._run = compile_statement(self.statement, self.version, self.calls)

    @property
    def sql(self) -> str:
        """The statement as it was written."""
        return self.statement.text

    def is_same(self, other: "Rule") -> bool:
        """Whether both say the same, though one may be disabled."""
        return (
            (self.name, self.sql, self.version) == (other.name, other.sql, other.version)
            and (self.actions, self.error_action) == (other.actions, other.error_action)
        )  # fmt: skip

    def evaluate(self, event: Event) -> Any:
        """The output for one message that the rule hears: an object, another JSON value, bytes, or NOTHING.

        Raises EvaluationError.
        """
        counters = self.counters
        counters.matched += 1
        try:
            output = self._run(event)
        except Exception as error:  # one message must never stop the rules for the next one
            raise self._failed(error) from error
        if output is not NOTHING:
            counters.passed += 1
        return output

    def run(self, event: Event) -> tuple[Any, bytes] | None:
        """What the actions are given for one message: the output and how it is written; None when WHERE is not true.

        Raises EvaluationError, also for an output that cannot be written.
        """
        output = self.evaluate(event)
        if output is NOTHING:
            return None
        try:
            return output, output_bytes(output)
        except EvaluationError as error:
            self.counters.passed -= 1
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> EvaluationError:
        self.counters.failed += 1
        self.counters.last_error = failure(error)
        return EvaluationError(f"rule {self.name}: {self.counters.last_error}")

    def status(self) -> dict[str, Any]:
        """What an operator is shown of the rule."""
        counters = self.counters
        return {
            "rule": self.name,
            "enabled": not self.disabled,
            "matched": counters.matched,
            "passed": counters.passed,
            "failed": counters.failed,
            "actions_failed": counters.actions_failed,
            "spent_ms": round(counters.spent_ns / 1e6, 1),
            "last_error": counters.last_error,
        }


class RuleSet:
    """Rules, found by topic or by name. AWS's filters, not MQTT's: `sensor/#` does not hear `sensor`.

    A rule without FROM is heard of by Basic Ingest only.
    """

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules = {rule.name: rule for rule in rules}
        self._by_topic: TopicTree[Rule] = TopicTree(parent_of_hash=False)
        for rule in self:
            if rule.statement.source is not None and not rule.disabled:
                self._by_topic.add(rule.statement.source, rule)

    def __len__(self) -> int:
        return len(self._rules)

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules.values())

    def match(self, topic: str) -> tuple[Rule, ...]:
        """The enabled rules that hear `topic`, in no promised order; at most one under Basic Ingest."""
        return self._named(topic) if topic.startswith(BASIC_INGEST) else self._by_topic.match(topic)

    def _named(self, topic: str) -> tuple[Rule, ...]:
        name, _, rest = topic[len(BASIC_INGEST) :].partition("/")
        rule = self._rules.get(name)
        if rule is None or rule.disabled:
            return ()
        source = rule.statement.source
        # Who listens to topics of the server believes what stands there, and anybody may write behind a rule's name.
        if source is not None and source.startswith("$") and not filter_hears(source, rest):
            return ()
        return (rule,)

    def continue_from(self, former: "RuleSet") -> None:
        """Take over the counters of rules that are the same in `former`; being switched on or off is no change.

        Patterns that took too long have their whole time again.
        """
        patterns.forget()
        for rule in self:
            old = former._rules.get(rule.name)
            if old is not None and old.is_same(rule):
                rule.counters = old.counters


def filter_hears(source: str | None, topic: str) -> bool:
    """Whether a statement's FROM hears `topic`; one without FROM is asked directly and hears everything."""
    if source is None:
        return True
    tree: TopicTree[None] = TopicTree(parent_of_hash=False)
    tree.add(source, None)
    return bool(tree.match(topic))


def output_bytes(output: Any) -> bytes:
    """An output as a payload: bytes as they are, the rest as compact JSON. Raises EvaluationError."""
    return output if isinstance(output, bytes) else json_bytes(output)
