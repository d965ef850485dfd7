"""A statement with GROUP BY and TUMBLING, compiled: what is taken from each message, and the row that is made of a
window.

    SELECT machine, avg(temperature) AS mean, max(temperature) - min(temperature) AS swing, window_start() AS since
    FROM 'plant/+/+/telemetry' WHERE temperature > 0 GROUP BY machine, TUMBLING('60 seconds', 'time')

becomes two functions. The first looks at one message: WHERE, the keys of GROUP BY, the arguments of the aggregates, all
with the statement's SET variables. The second looks at what a window has gathered: the same SELECT list with every key
and every aggregate replaced by a name for its value. So everything around them (arithmetic, CASE, functions, dotted
aliases, SELECT VALUE) is the compiler's as anywhere else.

Decides which statements make sense, and what time a message has. Keeps nothing: `rules.windows` does.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from hashlib import sha256
from typing import Any, NamedTuple, cast

from core.message import CLOCK_PLAUSIBLE_MS
from rules.errors import EvaluationError, SqlError
from rules.event import Event
from rules.sql.compiler import NOTHING, Compiled, compile_statement
from rules.sql.decimals import Number
from rules.sql.functions import FUNCTIONS, REFUSED
from rules.sql.payloads import json_bytes, read
from rules.sql.syntax import (
    ArrayLiteral,
    Binary,
    Call,
    Case,
    Cast,
    Exists,
    Expression,
    In,
    Item,
    Literal,
    Logical,
    Member,
    Not,
    ObjectLiteral,
    Path,
    Star,
    Statement,
    Subquery,
    Variable,
    Window,
    walk,
)
from rules.sql.values import ALL_NUMBERS, UNDEFINED, SqlVersion, index, number, whole
from rules.windows.aggregates import AGGREGATES, Accumulator, Aggregate, value_bytes

SIZE_MIN_MS = 1_000  # a shorter window is a message or two
SIZE_MAX_MS = 86_400_000  # a day: what gathers is kept in memory
LATE_MAX_MS = 86_400_000
LATE_DEFAULT_MS = 60_000  # or the window's size if that is less
AHEAD_MAX_MS = 86_400_000  # event time may be so far ahead of arrival: a wrong time zone is not yet a broken clock
TIME_MIN_MS = 100_000_000_000  # March 1973; seconds, taken for milliseconds, stay below it until the year 5138
TIME_MAX_MS = 253_402_300_799_999  # the last of the year 9999
KEYS_MAX = 16  # expressions in one GROUP BY
AGGREGATES_MAX = 64  # in one statement
KEY_BYTES_MAX = 1_024  # of the keys of one group as JSON
VALUE_BYTES_MAX = 4_096  # of a value that first() or last() keeps, as JSON
FORMAT = 2  # of what is kept on disk; a new one makes every window start afresh

_BOUNDS = ("window_start", "window_end")


class Entry(NamedTuple):
    """What a window needs of one message: the aggregates' arguments, the group's keys as JSON, the time (epoch ms), the
    topic, and the stream that the message came in (`rules.windows` says what that is). `size`: about how many bytes
    first() and last() would keep of it."""

    source: str
    topic: str
    group: str
    time: int
    values: tuple[Any, ...]
    size: int = 0


class Slot(NamedTuple):
    """An accumulator of every window: what kind, and which of an entry's values it takes, None for all messages."""

    kind: type[Accumulator]
    argument: int | None


class Result(NamedTuple):
    """A value of the SELECT list: the slot that it comes from, how, and with which parameter."""

    slot: int
    aggregate: Aggregate
    parameter: Number


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """A compiled windowed statement. `identity` names it with its version: what another one has kept is worth nothing.

    `size_ms`, `late_ms`: how long a window is, and how long it waits for messages that are late.
    """

    identity: str
    size_ms: int
    late_ms: int
    time_field: tuple[str, ...] | None
    slots: tuple[Slot, ...]
    keys: int
    _raw: tuple[int, ...]  # for each argument, how many slots want it as it is
    _results: tuple[Result, ...]
    _extract: Compiled
    _select: Compiled

    def entry(self, event: Event, source: str = "") -> Entry | None:
        """What a window takes of a message; None when WHERE is not true. Raises EvaluationError."""
        found = self._extract(event)
        if found is NOTHING:
            return None
        names = map(str, range(self.keys, self.keys + len(self._raw)))
        values = tuple(
            _argument(found.get(name, UNDEFINED), raw) for name, raw in zip(names, self._raw, strict=True)
        )
        group = _group([found.get(str(key), UNDEFINED) for key in range(self.keys)])
        size = sum(raw * value_bytes(value) for raw, value in zip(self._raw, values, strict=True) if raw)
        return Entry(source, event.topic, group, self._time(event), values, size)

    def accumulators(self) -> list[Accumulator]:
        """One for each slot, with nothing in it."""
        return [slot.kind() for slot in self.slots]

    def output(self, group: str, start: int, found: list[Accumulator]) -> Any:
        """The row of a window that began at `start` (epoch ms). Raises EvaluationError."""
        computed = {f"key {at}": key[0] for at, key in enumerate(read(group.encode())) if key}
        for at, result in enumerate(self._results):
            value = result.aggregate.result(found[result.slot], result.parameter)
            if value is not UNDEFINED:
                computed[f"result {at}"] = value
        if self.time_field is not None or start >= CLOCK_PLAUSIBLE_MS:  # else the clock was wrong, and says nothing
            computed |= {"window_start": start, "window_end": start + self.size_ms}
        return self._select(cast(Event, _Computed(computed)))

    def _time(self, event: Event) -> int:
        heard = event.message.received_at
        # An edge whose clock is years ahead must not close what it shares with others.
        arrival = heard if CLOCK_PLAUSIBLE_MS <= heard <= event.now_ms + AHEAD_MAX_MS else event.now_ms
        if self.time_field is None:
            return arrival
        value: Any = event.members
        for name in self.time_field:
            value = value.get(name, UNDEFINED) if value.__class__ is dict else UNDEFINED
        field = ".".join(self.time_field)
        time = _milliseconds(value)
        if time is None:
            raise EvaluationError(f"{field} tells no time: it is {_shown(value)}")
        if not TIME_MIN_MS <= time <= TIME_MAX_MS:
            raise EvaluationError(f"{field} is to be in milliseconds since 1970, and later than 1973: it is {time}")
        if arrival >= CLOCK_PLAUSIBLE_MS and time > arrival + AHEAD_MAX_MS:
            raise EvaluationError(f"{field} is more than a day ahead of the clock here: it is {time}")
        return time


class _Computed:
    """What the second function sees in place of a message."""

    __slots__ = ("members",)

    def __init__(self, members: dict[str, Any]) -> None:
        self.members = members


def _milliseconds(value: Any) -> int | None:
    if number(value) is not UNDEFINED:
        return int(index(value))
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return int(time.timestamp() * 1_000_000) // 1_000


def _shown(value: Any) -> str:
    return "Undefined" if value is UNDEFINED else json_bytes(value).decode()[:40]


def _argument(value: Any, raw: int) -> Any:
    if value is UNDEFINED or value is None:
        return None
    if not raw:
        converted = number(value)
        return True if converted is UNDEFINED else converted
    if value_bytes(value) > VALUE_BYTES_MAX:
        raise EvaluationError(f"first() and last() keep values of at most {VALUE_BYTES_MAX:,} bytes")
    return value


def _group(keys: list[Any]) -> str:
    """Each key in a list of its own, which is empty for Undefined: so that Null is something else."""
    for key in keys:
        if key.__class__ in (dict, list, bytes):
            raise EvaluationError("a key of GROUP BY is an Array or Object; name a member of it")
    encoded = json_bytes([[] if key is UNDEFINED else [whole(key)] for key in keys])  # 1.0 is the group of 1
    if len(encoded) > KEY_BYTES_MAX:
        raise EvaluationError(f"the keys of GROUP BY have more than {KEY_BYTES_MAX:,} bytes")
    return encoded.decode()


# ── compiling ───────────────────────────────────────────────────────────────────────────────────────────────────────


def compile_window(
    statement: Statement, version: SqlVersion, calls: frozenset[str] | None = None
) -> WindowPlan:
    """The plan of a statement that has a window. `calls`: as for compile_statement. Raises SqlError."""
    window = statement.window
    assert window is not None, "a statement without GROUP BY is compiled by compile_statement"
    try:
        late_ms = _checked(statement, window)
        selection = _Selection(statement.text, window.keys)
        items = tuple(replace(item, expression=selection.rebuilt(item.expression)) for item in statement.items)
    except RecursionError:
        raise SqlError.at(statement.text, window.span[0], "the statement is nested too deeply") from None
    asked = (*window.keys, *selection.arguments)
    taken = tuple(Item(expression, (str(at),)) for at, expression in enumerate(asked))
    return WindowPlan(
        sha256(f"{FORMAT}\n{version}\n{statement.text}".encode()).hexdigest()[:32],
        window.size_ms,
        late_ms,
        window.time_field,
        tuple(selection.slots),
        len(window.keys),
        tuple(sum(slot.argument == at and slot.kind.raw for slot in selection.slots)
              for at in range(len(selection.arguments))),
        tuple(selection.results),
        compile_statement(replace(statement, items=taken, value=False, window=None), version, calls),
        compile_statement(replace(statement, items=items, where=None, variables=(), window=None), version, calls),
    )  # fmt: skip


def is_aggregate(expression: Expression) -> bool:
    """Whether it is a call that only SELECT beside a GROUP BY knows."""
    return isinstance(expression, Call) and (expression.name in AGGREGATES or expression.name in _BOUNDS)


def _checked(statement: Statement, window: Window) -> int:
    """The lateness; raises SqlError for what no window can be."""
    text, at = statement.text, window.span[0]
    if not SIZE_MIN_MS <= window.size_ms <= SIZE_MAX_MS:
        raise SqlError.at(text, at, "a window is from one second to one day long")
    if window.late_ms is not None and window.late_ms > LATE_MAX_MS:
        raise SqlError.at(text, at, "a window waits at most one day for late messages")
    if len(window.keys) > KEYS_MAX:
        raise SqlError.at(text, at, f"GROUP BY has more than {KEYS_MAX} keys")
    of_messages = [value for _, value in statement.variables] + list(window.keys)
    for expression in of_messages if statement.where is None else [*of_messages, statement.where]:
        for part in walk(expression):
            if is_aggregate(part) and isinstance(part, Call):
                message = f"{part.name}() is known when a window ends: it stands in SELECT, and here is one message"
                raise SqlError.at(text, part.span[0], message)
    for key in window.keys:
        if isinstance(key, Star):
            raise SqlError.at(text, key.span[0], "GROUP BY needs members, not *")
    if window.late_ms is not None:
        return window.late_ms
    return min(window.size_ms, LATE_DEFAULT_MS)


class _Selection:
    """The SELECT list as it is rebuilt: what it needs to be computed of a window."""

    def __init__(self, text: str, keys: tuple[Expression, ...]) -> None:
        self.arguments: list[Expression] = []
        self.slots: list[Slot] = []
        self.results: list[Result] = []
        self._text = text
        self._keys = keys

    def rebuilt(self, expression: Expression) -> Expression:
        """The same with names for what is computed. Raises SqlError for what a window has no value of."""
        if expression in self._keys:
            return Path((f"key {self._keys.index(expression)}",), expression.span)
        match expression:
            case Literal():
                return expression
            case Call(name, arguments):
                return self._call(expression, name, arguments)
            case Binary():
                return self._chain(expression)
            case Not(operand) | Cast(operand):
                return replace(expression, operand=self.rebuilt(operand))
            case Member(base):
                return replace(expression, base=self.rebuilt(base))
            case Logical(_, operands):
                return replace(expression, operands=self._all(operands))
            case In(left, right):
                return replace(expression, left=self.rebuilt(left), right=self.rebuilt(right))
            case ArrayLiteral(elements):
                return replace(expression, elements=self._all(elements))
            case ObjectLiteral(members):
                return replace(expression, members=tuple((key, self.rebuilt(value)) for key, value in members))
            case Case(subject, branches, otherwise):
                return replace(
                    expression,
                    subject=self.rebuilt(subject),
                    branches=tuple((self.rebuilt(when), self.rebuilt(then)) for when, then in branches),
                    otherwise=None if otherwise is None else self.rebuilt(otherwise),
                )
            case Path() | Variable() | Star() | Subquery() | Exists():
                raise self._of_one_message(expression)

    def _all(self, expressions: tuple[Expression, ...]) -> tuple[Expression, ...]:
        return tuple(self.rebuilt(expression) for expression in expressions)

    def _chain(self, expression: Expression) -> Expression:
        chain: list[Binary] = []
        while isinstance(expression, Binary) and expression not in self._keys:
            chain.append(expression)
            expression = expression.left
        left = self.rebuilt(expression)
        for binary in reversed(chain):
            left = replace(binary, left=left, right=self.rebuilt(binary.right))
        return left

    def _call(self, call: Call, name: str, arguments: tuple[Expression, ...]) -> Expression:
        if name in _BOUNDS:
            if arguments:
                raise self._wrong(call, f"{name}() takes nothing")
            return Path((name,), call.span)
        if name in AGGREGATES:
            return self._aggregate(call, AGGREGATES[name])
        function = FUNCTIONS.get(name)
        if function is None and name not in REFUSED:
            near = get_close_matches(name[:40], [*AGGREGATES, *_BOUNDS, *FUNCTIONS], 1)
            hint = f"; did you mean {near[0]}()?" if near else ""
            raise self._wrong(call, f"there is no function {name[:40]}(){hint}")
        if function is not None and function.of_event and name != "sql_version":
            raise self._of_one_message(call)
        return replace(call, arguments=self._all(arguments))

    def _aggregate(self, call: Call, aggregate: Aggregate) -> Expression:
        self._check_arguments(call, aggregate)
        parameter: Number = call.arguments[1].value if aggregate.parameter else 0  # type: ignore[union-attr, assignment]
        counts_all = call.name == "count" and isinstance(call.arguments[0], Star)
        slot = Slot(aggregate.accumulator, None if counts_all else _place(self.arguments, call.arguments[0]))
        at = _place(self.results, Result(_place(self.slots, slot), aggregate, parameter))
        if at >= AGGREGATES_MAX:
            raise self._wrong(call, f"more than {AGGREGATES_MAX} different aggregates")
        return Path((f"result {at}",), call.span)

    def _check_arguments(self, call: Call, aggregate: Aggregate) -> None:
        name, arguments = call.name, call.arguments
        if len(arguments) != (2 if aggregate.parameter else 1):
            wanted = f"{name}(value, 95)" if aggregate.parameter else f"{name}(value)"
            raise self._wrong(call, f"write {wanted}")
        if isinstance(arguments[0], Star) and name not in ("count", "first", "last"):
            raise self._wrong(call, f"{name}() needs a number, not the whole payload")
        for part in walk(arguments[0]):
            if is_aggregate(part):
                raise self._wrong(part, f"{name}() is over messages, and inside it is one message")
        if aggregate.parameter:
            self._check_percentage(arguments[1])

    def _check_percentage(self, wanted: Expression) -> None:
        known = isinstance(wanted, Literal) and wanted.value.__class__ in ALL_NUMBERS
        if not known or not 0 <= wanted.value <= 100:  # type: ignore[union-attr, operator]
            raise self._wrong(wanted, "a percentile is a constant from 0 to 100: percentile(value, 95)")
        if 0 < wanted.value < 1:  # type: ignore[union-attr, operator]
            raise self._wrong(wanted, "percentiles count from 0 to 100: write 95 for 0.95")

    def _of_one_message(self, expression: Expression) -> SqlError:
        start, end = expression.span
        written = self._text[start:end]
        written = written if len(written) <= 40 else f"{written[:37]}…"
        if isinstance(expression, Star):
            return self._wrong(expression, "a window has no payload of its own; write last(*) AS name")
        hint = f"write last({written}), or another aggregate of it, or add it to GROUP BY"
        return self._wrong(expression, f"{written} has a value for each message of a window: {hint}")

    def _wrong(self, expression: Expression, message: str) -> SqlError:
        return SqlError.at(self._text, expression.span[0], message)


def _place(listed: list[Any], item: Any) -> int:
    """Where `item` is in the list, to which it is added if it is not there."""
    if item not in listed:
        listed.append(item)
    return listed.index(item)
