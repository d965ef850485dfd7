"""What rules would do about messages: their outputs, and their actions with every template resolved. Nothing is done.

For people who look: `rules test`, `rules explain` and recorded traffic. The daemons run actions themselves, each in its
own way, and never come here. Windows gather as they do at an edge, except that nothing is written down.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from core.message import Message
from rules.actions import Action, Republish
from rules.engine import Rule, RuleSet, output_bytes
from rules.errors import EvaluationError, failure
from rules.event import Chance, Context, Event
from rules.republishing import republished
from rules.sql.template import Template
from rules.windows.state import Row, Windows

Parameters = dict[str, Any]

_OURSELVES = Context(protocol="")  # who sent a row, to its templates


@dataclass(frozen=True, slots=True)
class Resolved:
    """An action by AWS's name, and its written parameters with the texts that templates gave; or why they gave none."""

    name: str
    parameters: Parameters
    error: str = ""


@dataclass(frozen=True, slots=True)
class Firing:
    """An output of one rule: `output` as the engine gave it, `payload` as it leaves.

    With an `error` the evaluation failed, and there is neither output nor action.
    """

    rule: str
    output: Any = None
    payload: bytes = b""
    actions: tuple[Resolved, ...] = field(default=())
    error: str = ""

    @property
    def failure(self) -> str:
        """What went wrong, in the evaluation or in an action; empty when nothing did."""
        return self.error or next((f"{action.name}: {action.error}" for action in self.actions if action.error), "")


class Rehearsal:
    """Rules that hear messages one after the other, all from one stream, and time that passes in between.

    What fires comes in the order in which the rules stand in their files. `now_ms` is the time that was told last.
    """

    def __init__(self, rules: RuleSet, chance: Chance) -> None:
        self.rules = rules
        self.now_ms = 0
        self._chance = chance
        enabled = [rule for rule in rules if not rule.disabled and rule.plan is not None]
        self._windows = {rule.name: Windows(rule.plan, own_clock=True) for rule in enabled if rule.plan is not None}

    @property
    def late(self) -> dict[str, int]:
        """By rule: messages that came too late for their window."""
        return {name: windows.lost.total() for name, windows in self._windows.items() if windows.lost}

    def hear(self, event: Event) -> Iterator[Firing]:
        """What the enabled rules that hear the message make of it, and the windows that it closes."""
        self.now_ms = event.now_ms
        heard = set(map(id, self.rules.match(event.message.topic)))
        for rule in self.rules if heard else ():
            if id(rule) in heard and (firing := self._fired(rule, event)) is not None:
                yield firing
        yield from self._rows()

    def elapse(self, ms: int) -> Iterator[Firing]:
        """Time passes, which closes windows."""
        self.now_ms += ms
        for windows in self._windows.values():
            windows.elapse(ms)
        yield from self._rows()

    def finish(self) -> Iterator[Firing]:
        """Nothing more will come: all windows are closed."""
        for rule in self.rules:
            if (windows := self._windows.get(rule.name)) is not None:
                yield from self._of_rows(rule, windows, windows.finish())

    def _fired(self, rule: Rule, event: Event) -> Firing | None:
        windows = self._windows.get(rule.name)
        if windows is None:
            return fired(rule, event)
        rule.counters.matched += 1
        try:
            entry = windows.hear(event)
        except (EvaluationError, RecursionError) as error:
            return _failed(rule, error)
        if entry is not None:
            windows.apply([entry])
        return None

    def _rows(self) -> Iterator[Firing]:
        for rule in self.rules if self._windows else ():
            if (windows := self._windows.get(rule.name)) is not None:
                yield from self._of_rows(rule, windows, windows.due())

    def _of_rows(self, rule: Rule, windows: Windows, rows: list[Row]) -> Iterator[Firing]:
        for row in rows:
            try:
                output = windows.output(row)
                payload = output_bytes(output)
            except (EvaluationError, RecursionError) as error:
                yield _failed(rule, error)
                continue
            message = Message(row.topic, payload, received_at=self.now_ms)
            event = Event(message, self.now_ms, context=_OURSELVES, chance=self._chance)
            rule.counters.passed += 1
            yield _given(rule, event, output, payload)
        windows.done(rows)


def fired(rule: Rule, event: Event) -> Firing | None:
    """What a rule without a window makes of a message that it hears; None when its WHERE is not true."""
    try:
        given = rule.run(event)
    except EvaluationError as error:
        return Firing(rule.name, error=str(error))
    return None if given is None else _given(rule, event, *given)


def _failed(rule: Rule, error: Exception) -> Firing:
    rule.counters.failed += 1
    rule.counters.last_error = failure(error)
    return Firing(rule.name, error=f"rule {rule.name}: {rule.counters.last_error}")


def _given(rule: Rule, event: Event, output: Any, payload: bytes) -> Firing:
    return Firing(rule.name, output, payload, tuple(resolved(action, event) for action in rule.actions))


def resolved(action: Action, event: Event) -> Resolved:
    """The action with its templates resolved for one message."""
    try:
        if isinstance(action, Republish):
            republished(action, event, b"")  # whether it is something to publish
        return Resolved(action.name, _filled(action, event))
    except EvaluationError as error:
        return Resolved(action.name, {}, str(error))


def _filled(written: Any, event: Event) -> Any:
    if isinstance(written, Template):
        return written.render(event)
    if isinstance(written, BaseModel):
        fields = type(written).model_fields
        # Only what the file says: defaults are nobody's expectation.
        return {
            fields[name].alias or name: _filled(getattr(written, name), event)
            for name in fields
            if name in written.model_fields_set
        }
    if isinstance(written, list | tuple):
        return [_filled(item, event) for item in written]
    if isinstance(written, dict):
        return {key: _filled(value, event) for key, value in written.items()}
    return written
