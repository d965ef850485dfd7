"""What the rules at the edge make of messages: each rule is run, and what it republishes handed back.

One rule's failure costs only itself: it is counted, logged, and for an action that failed for good, the rule's error
action is run. A rule with a window hears messages, and acts on its rows when they are due. Decides nothing about where
messages go (`gateway` does), nor when a function runs (`functions` does).
"""

import time
from collections.abc import Callable

from core.chance import Randomness
from core.errors import TidegateError
from core.message import OURSELVES, Message, Origin
from core.telemetry import Counters, get_logger
from core.topics import BASIC_INGEST
from edge.windows import EdgeWindows
from rules.actions import Action, Lambda, Republish
from rules.engine import Event, Rule, RuleSet, output_bytes
from rules.errors import ActionFailed, EvaluationError
from rules.event import NO_ACCOUNT, Calls, Context
from rules.failures import Perform, act
from rules.republishing import republished
from rules.windows.aggregation import Due

log = get_logger("edge.reactions")


class Reactions:
    """Runs `rules`, which `replace` exchanges, in the name of `account`; `windows` are theirs.

    `call(function, event)` gives a function an event, and raises TidegateError when that cannot be.
    """

    def __init__(
        self,
        rules: RuleSet,
        counters: Counters,
        calls: Calls | None = None,
        account: str = NO_ACCOUNT,
        windows: EdgeWindows | None = None,
    ) -> None:
        self.rules = rules
        self.windows = windows
        self.call: Callable[[str, bytes], object] = _no_functions
        self.unheard: list[Message] = []  # of Basic Ingest, for rules that are not here; whoever asks takes them out
        self._counters = counters
        self._calls = calls
        self._account = account
        self._chance = Randomness()

    def replace(self, rules: RuleSet) -> None:
        """Use other rules from the next message on; those that have not changed go on counting."""
        rules.continue_from(self.rules)
        self.rules = rules
        if self.windows is not None:
            self.windows.replace(rules)

    def react(self, messages: list[Message], origin: Origin) -> list[Message]:
        """Run the rules that hear `messages`, which have one origin; returns what they republish."""
        made: list[Message] = []
        match, clock, perform = self.rules.match, time.perf_counter_ns, self._into(made)
        context: Context | None = None
        now, topic = 0, ""
        found: tuple[Rule, ...] = ()
        for message in messages:
            if message.topic is not topic:
                topic = message.topic
                found = match(topic)
            if found:
                if context is None:
                    context, now = Context.of(origin, self._account), time.time_ns() // 1_000_000
                event = self._event(message, now, context)
                began = clock()
                for rule in found:
                    self._run(rule, event, perform)
                    ended = clock()
                    rule.counters.spent_ns += ended - began
                    began = ended
            elif topic.startswith(BASIC_INGEST):
                self.unheard.append(message)
        return made

    def emit(self, rule: Rule, event: Event, output: object) -> list[Message]:
        """Run a rule's actions on an output that no message has just given; returns what they republish."""
        made: list[Message] = []
        try:
            self._act(rule, event, output, output_bytes(output), self._into(made))
        except EvaluationError as error:
            self._failed(rule, error)
        return made

    def fire(self, rows: list[Due]) -> list[Message]:
        """Run the actions of rules with windows on rows that are due; returns what they republish."""
        assert self.windows is not None
        made: list[Message] = []
        now, context = time.time_ns() // 1_000_000, Context.of(OURSELVES, self._account)
        for due in rows:
            began = time.perf_counter_ns()
            try:
                output, payload = self.windows.aggregation.output(due)
            except EvaluationError as error:
                self._failed(due.rule, error)
            else:
                message = Message(due.row.topic, payload, received_at=now)
                event = self._event(message, now, context)
                made += self.emit(due.rule, event, output)
            due.rule.counters.spent_ns += time.perf_counter_ns() - began
        self.windows.aggregation.acted(rows)
        return made

    def _event(self, message: Message, now_ms: int, context: Context) -> Event:
        watch = time.thread_time
        return Event(message, now_ms, context=context, calls=self._calls, chance=self._chance, watch=watch)

    def _run(self, rule: Rule, event: Event, perform: Perform) -> None:
        try:
            if rule.plan is None:
                given = rule.run(event)
            else:
                given = None
                if self.windows is not None:
                    self.windows.hear(rule, event)
        except EvaluationError as error:
            self._failed(rule, error)
            return
        if given is not None:
            self._act(rule, event, *given, perform)

    def _act(self, rule: Rule, event: Event, output: object, payload: bytes, perform: Perform) -> None:
        for failure in act(rule, event, output, payload, perform):
            name = "rules_error_actions_failed_total" if failure.of_error_action else "rules_failed_total"
            self._counters.add(name, rule=rule.name)
            log.warning("an action failed", rule=rule.name, action=failure.action, error=failure.message)

    def _failed(self, rule: Rule, error: EvaluationError) -> None:
        self._counters.add("rules_failed_total", rule=rule.name)
        log.warning("a rule failed", rule=rule.name, error=error)

    def _into(self, made: list[Message]) -> Perform:
        """How an edge performs an action: what is republished gathers in `made`."""

        def perform(action: Action, event: Event, _output: object, payload: bytes, _place: int) -> None:
            match action:
                case Republish():
                    made.append(republished(action, event, payload))
                case Lambda():
                    self._call(action.function_arn.render(event), payload)

        return perform

    def _call(self, function: str, payload: bytes) -> None:
        try:
            self.call(function, payload)
        except TidegateError as error:
            raise ActionFailed(str(error)) from None


def _no_functions(function: str, _payload: bytes) -> None:
    raise ActionFailed(f"{function[:80]} cannot be called: there is no [functions] here")
