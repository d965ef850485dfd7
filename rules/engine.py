"""The rules at work: which of them hear a topic, and what each makes of a message.

The caller brings an `Event` per message, asks `RuleSet.match(topic)`, evaluates each rule, and runs the
actions of those whose output is not NOTHING. Actions, error actions and everything that takes time are the
caller's.

Invariants:
1. A payload is parsed at most once, whatever the number of rules.
2. `evaluate` raises nothing but EvaluationError, and counts every outcome: matched = passed + failed + those
   whose WHERE was not true.
3. Outputs may share parts of the payload with each other; they are for reading.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from core.topics import TopicTree
from rules.actions import Action
from rules.compiler import NOTHING, Compiled, compile_statement
from rules.errors import EvaluationError, failure
from rules.event import Event
from rules.syntax import Statement
from rules.values import SqlVersion, json_bytes

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
    """What one rule has done since it was loaded: messages heard, outputs given, evaluations that failed."""

    matched: int = 0
    passed: int = 0
    failed: int = 0
    last_error: str = ""


@dataclass(slots=True, eq=False)
class Rule:
    """One rule, ready to run. `evaluate` counts in `counters`; everything else stays as it was made.

    `error_action` is for an action that failed for good. A `disabled` rule is checked but never matched.
    """

    name: str
    statement: Statement
    version: SqlVersion
    actions: tuple[Action, ...] = ()
    error_action: Action | None = None
    description: str = ""
    disabled: bool = False
    counters: Counters = field(default_factory=Counters)
    _run: Compiled = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Compile the statement; raises SqlError."""
        self._run = compile_statement(self.statement, self.version)

    @property
    def sql(self) -> str:
        """The statement as it was written."""
        return self.statement.text

    def evaluate(self, event: Event) -> Any:
        """The output for one message that the rule hears: an object, another JSON value, bytes, or NOTHING.

        Raises EvaluationError.
        """
        counters = self.counters
        counters.matched += 1
        try:
            output = self._run(event)
        except Exception as error:  # one message must never stop the rules for the next one
            counters.failed += 1
            counters.last_error = failure(error)
            raise EvaluationError(f"rule {self.name}: {counters.last_error}") from error
        if output is not NOTHING:
            counters.passed += 1
        return output


class RuleSet:
    """Rules, found by topic. AWS's filters, not MQTT's: `sensor/#` does not hear `sensor`."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules = tuple(rules)
        self._by_topic: TopicTree[Rule] = TopicTree(parent_of_hash=False)
        for rule in self._rules:
            if rule.statement.source is not None and not rule.disabled:
                self._by_topic.add(rule.statement.source, rule)

    def __len__(self) -> int:
        return len(self._rules)

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules)

    def match(self, topic: str) -> tuple[Rule, ...]:
        """The enabled rules that hear `topic`, in no promised order."""
        return self._by_topic.match(topic)


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
