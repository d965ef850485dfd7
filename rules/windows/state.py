"""The windows of one rule: what gathers per group, when it is complete, and what survives a restart.

Every group has a clock of its own, since each device has. It is the latest time that a message of the group told, and
it runs on with the stopwatch of the stream that the message came in: so a sensor that falls silent closes its last
window as if it had not. A window is closed when that clock is `late_ms` past its end. A message for a window that is
closed is late: it is counted and left out. What one device says of the time closes no other group's windows.

A stream (`source`) is what has an order: at an edge everything, in a cloud a lane of an edge. The side that runs the
rules tells how its time goes on (`elapse`), in milliseconds that passed and not as a clock's reading. So no jump of a
clock closes a window, a stream that is cut off stands still, and after a restart silence counts from zero.

Windows by time of arrival, at a place whose clock also says when a message arrived (`own_clock`), wait for nothing that
is late. There a clock that is set back by less than BACK_MAX_MS stands still until it has caught up; one that is set
back further closes what is open, and begins again.

The way of a message: `hear` says what is to be kept of it, the caller writes that down (`record`) in the transaction
that acknowledges the message, and `apply` counts it once it is written, or `discard` forgets it. The way of a row:
`due` hands it out, the caller writes what its actions made in one transaction with a `record` of it, then says `done`,
or `again` when it could not be written. `restore` takes up what was written: a snapshot and the records after it.

Invariants:
1. A message that was applied is in exactly one row, or counted in `lost`, whatever restarts lie between.
2. A row is handed out again, the same, until it is done; rows of one group come in the order of their windows.
3. At most GROUPS_MAX groups and OPEN_MAX open windows: a message that needs one more is refused by `hear`.
"""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, TypeAlias

from rules.errors import EvaluationError
from rules.event import Event
from rules.sql.payloads import json_bytes, read
from rules.windows.aggregates import Accumulator
from rules.windows.grouping import Entry, WindowPlan

GROUPS_MAX = 10_000  # of a rule, with those that are remembered to tell what is late
OPEN_MAX = 20_000  # of a rule, all groups together
BACK_MAX_MS = 60_000  # a correction of a clock that runs; beyond it, the clock was wrong
FORGET_MS = 86_400_000  # a group without windows, and the one with a device that was once a day ahead, begin again

ALARMS_SPARE = 64  # those that were overtaken by an earlier one and not swept out yet

LATE = "late"


@dataclass(slots=True, eq=False)
class Row:
    """A window that is closed: what it gathered, and the topic of the last message in it."""

    group: str
    start: int
    topic: str
    found: list[Accumulator]


@dataclass(slots=True, eq=False)
class _Group:
    name: str
    mark: int = 0  # the latest time told
    closed: int = 0  # windows that began before are closed
    source: str = ""
    heard: int = 0  # what the stopwatch of the source showed
    alarm: tuple[str, int] | None = None  # at which stopwatch, and when, to look at it
    open: dict[int, Row] = field(default_factory=dict)


_Heap: TypeAlias = list[tuple[int, int, _Group]]


class Windows:
    """The windows of the rule with this plan."""

    def __init__(
        self, plan: WindowPlan, *, own_clock: bool = False, groups_max: int = GROUPS_MAX, open_max: int = OPEN_MAX
    ) -> None:
        self.plan = plan
        self.lost: Counter[str] = Counter()  # messages that were left out, by reason
        self.open = 0  # windows
        self.forgotten: list[str] = []  # groups of which no record says so yet
        self._by_arrival = own_clock and plan.time_field is None
        self._late_ms = 0 if self._by_arrival else plan.late_ms
        self._groups_max, self._open_max = groups_max, open_max
        self._groups: dict[str, _Group] = {}
        self._quiet: dict[_Group, int] = {}  # those without open windows, and since when by their stopwatch
        self._coming: Counter[str] = Counter()  # messages of a group that were heard and not applied
        self._opening: Counter[tuple[str, int]] = Counter()  # of windows that were not there then
        self._restoring = False
        self._ready: deque[Row] = deque()
        self._out: dict[Row, None] = {}
        self._stopwatches: Counter[str] = Counter()
        self._alarms: dict[str, _Heap] = {}  # for each source: when to look at a group
        self._serial = count()

    @property
    def groups(self) -> int:
        """How many groups are known."""
        return len(self._groups)

    @property
    def sources(self) -> set[str]:
        """The streams whose time something may wait for."""
        return {source for source, alarms in self._alarms.items() if alarms}

    # -- messages -----------------------------------------------------------------------------------------------------

    def hear(self, event: Event, source: str = "") -> Entry | None:
        """What is to be kept of a message; None when WHERE is not true. Raises EvaluationError."""
        entry = self.plan.entry(event, source)
        if entry is None:
            return None
        group = self._groups.get(entry.group)
        busy = len(self._groups) - len(self._quiet) + len(self._coming)
        if busy >= self._groups_max and group is None and entry.group not in self._coming:
            raise EvaluationError(f"more than {self._groups_max:,} groups have open windows")
        start = self._start(entry.time)
        if group is None or start not in group.open:
            window = (entry.group, start)
            if window not in self._opening and self.open + len(self._opening) >= self._open_max:
                raise EvaluationError(f"more than {self._open_max:,} windows are open")
            self._opening[window] += 1
        self._coming[entry.group] += 1
        return entry

    def discard(self, entries: Iterable[Entry]) -> None:
        """These could not be written down."""
        for entry in entries:
            self._arrived(entry)

    def apply(self, entries: Iterable[Entry]) -> None:
        """These are written down."""
        for entry in entries:
            self._arrived(entry)
            self._add(entry)

    def _arrived(self, entry: Entry) -> None:
        _take_one(self._coming, entry.group)
        _take_one(self._opening, (entry.group, self._start(entry.time)))

    def _start(self, time: int) -> int:
        return time - time % self.plan.size_ms

    def _add(self, entry: Entry) -> None:
        group = self._groups.get(entry.group) or self._found(entry.group)
        time = self._by_own_clock(group, entry.time) if self._by_arrival else entry.time
        start = self._start(time)
        if start < group.closed or start + self.plan.size_ms + self._late_ms <= group.mark:
            self.lost[LATE] += 1
            return
        window = group.open.get(start)
        if window is None:
            window = group.open[start] = Row(group.name, start, entry.topic, self.plan.accumulators())
            self.open += 1
            self._quiet.pop(group, None)
        for slot, accumulator in zip(self.plan.slots, window.found, strict=True):
            value = True if slot.argument is None else entry.values[slot.argument]
            if value is not None:
                accumulator.add(value, time)
        window.topic = entry.topic
        group.mark = max(group.mark, time)
        group.source, group.heard = entry.source, self._stopwatches[entry.source]
        if len(group.open) > 1:
            self._close(group, group.mark)
        self._watch(group)

    def _found(self, name: str) -> _Group:
        if len(self._groups) >= self._groups_max and not self._restoring:  # what went then is in a later record
            unheard = next((group for group in self._quiet if group.name not in self._coming), None)
            if unheard is not None:
                self._forget(unheard)
        group = self._groups[name] = _Group(name)
        self._quiet[group] = 0
        return group

    def _by_own_clock(self, group: _Group, time: int) -> int:
        if time < group.mark - BACK_MAX_MS:
            self._close_all(group)
            group.mark = group.closed = 0
        return max(time, group.mark, group.closed)

    # -- time ---------------------------------------------------------------------------------------------------------

    def elapse(self, ms: int, source: str = "") -> None:
        """So much time has passed where `source` comes from."""
        self._stopwatches[source] += ms

    def wait(self, source: str = "") -> int | None:
        """After how many more milliseconds of `source` something may be due; None when nothing waits."""
        if self._ready:
            return 0
        alarms = self._alarms.get(source)
        return max(0, alarms[0][0] - self._stopwatches[source]) if alarms else None

    def _watch(self, group: _Group) -> None:
        """Look at the group again when, in silence, its oldest window is complete."""
        if not group.open:
            group.alarm = None
            return
        at = group.heard + min(group.open) + self.plan.size_ms + self._late_ms - group.mark
        if group.alarm is None or group.alarm[0] != group.source or at < group.alarm[1]:  # a later one looks in vain
            self._alarm(group, at)

    def _alarm(self, group: _Group, at: int) -> None:
        group.alarm = group.source, at
        alarms = self._alarms.setdefault(group.source, [])
        heappush(alarms, (at, next(self._serial), group))
        if len(alarms) > 2 * len(self._groups) + ALARMS_SPARE:
            alarms[:] = [alarm for alarm in alarms if alarm[2].alarm == (group.source, alarm[0])]
            heapify(alarms)

    def _close_silent(self) -> None:
        for source, alarms in self._alarms.items():
            now = self._stopwatches[source]
            while alarms and alarms[0][0] <= now:
                at, _, group = heappop(alarms)
                if group.alarm != (source, at):
                    continue
                if group.name in self._coming:  # not silent: what it said is being written down
                    self._alarm(group, now + 1)
                else:
                    group.alarm = None
                    self._close(group, group.mark + now - group.heard)
                    self._watch(group)

    def _close(self, group: _Group, clock: int) -> None:
        """Close what ended `late_ms` before `clock`, which is the group's."""
        last = clock - self._late_ms - self.plan.size_ms
        for start in sorted(start for start in group.open if start <= last):
            self._ready.append(group.open.pop(start))
            self._closed(group, start)

    def _close_all(self, group: _Group) -> None:
        if group.open:
            self._close(group, max(group.open) + self.plan.size_ms + self._late_ms)

    def _closed(self, group: _Group, start: int) -> None:
        self.open -= 1
        group.closed = max(group.closed, start + self.plan.size_ms)
        if not group.open:
            self._quiet[group] = self._stopwatches[group.source]

    def _forget_quiet(self) -> None:
        while self._quiet:
            group, since = next(iter(self._quiet.items()))
            if self._stopwatches[group.source] - since < FORGET_MS or group.name in self._coming:
                break
            self._forget(group)

    def _forget(self, group: _Group) -> None:
        del self._groups[group.name], self._quiet[group]
        self.forgotten.append(group.name)

    # -- rows ---------------------------------------------------------------------------------------------------------

    def due(self, most: int = OPEN_MAX) -> list[Row]:
        """The rows that are complete and were not handed out, the oldest `most` of them."""
        self._close_silent()
        self._forget_quiet()
        rows = [self._ready.popleft() for _ in range(min(most, len(self._ready)))]
        self._out |= dict.fromkeys(rows)
        return rows

    def finish(self) -> list[Row]:
        """The rows of all windows, complete or not: nothing more will come."""
        for group in self._groups.values():
            self._close_all(group)
        return self.due()

    def output(self, row: Row) -> Any:
        """What SELECT makes of a row. Raises EvaluationError."""
        return self.plan.output(row.group, row.start, row.found)

    def done(self, rows: Iterable[Row]) -> None:
        """What these rows made is written, with the record of them."""
        for row in rows:
            del self._out[row]

    def again(self, rows: Iterable[Row]) -> None:
        """It could not be written; they are due again."""
        returned = list(rows)
        self.done(returned)
        self._ready.extendleft(reversed(returned))

    # -- on disk ------------------------------------------------------------------------------------------------------

    def record(self, entries: Iterable[Entry], rows: Iterable[Row], forgotten: Iterable[str] = ()) -> bytes:
        """What is to be written down of messages that were heard, of rows, and of groups that were `forgotten`."""
        closed = [[row.group, row.start] for row in rows]
        return json_bytes({"closed": closed, "forgotten": list(forgotten), "heard": _packed(entries)})

    def snapshot(self) -> bytes:
        """All that was applied, in place of all records so far."""
        groups = [
            [group.name, group.mark, group.closed, group.source, [_state(row) for row in group.open.values()]]
            for group in self._groups.values()
        ]
        return json_bytes({"groups": groups, "rows": [_state(row) for row in (*self._out, *self._ready)]})

    def restore(self, written: Iterable[bytes]) -> None:
        """Take up what was written, in that order; only when nothing was heard yet. Raises ValueError."""
        self._restoring = True
        try:
            for data in written:
                self._replay(read(data))
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not written by this version: {error!r}") from error
        self._restoring = False
        self.lost.clear()
        self.forgotten.clear()

    def _replay(self, record: Any) -> None:
        for name, mark, closed, source, states in record.get("groups", ()):
            group = self._groups[name] = _Group(name, mark, closed, source)
            group.open = {row.start: row for row in map(self._row, states)}
            self.open += len(group.open)
            if not group.open:
                self._quiet[group] = 0
            self._watch(group)
        self._ready.extend(map(self._row, record.get("rows", ())))
        for name, start in record.get("closed", ()):
            self._close_again(name, start)
        for name in record.get("forgotten", ()):
            if name in self._groups and not self._groups[name].open:
                self._forget(self._groups[name])
        for entry in _unpacked(record.get("heard", ())):
            self._add(entry)

    def _close_again(self, name: str, start: int) -> None:
        for row in self._ready:
            if (row.group, row.start) == (name, start):
                self._ready.remove(row)
                return
        group = self._groups[name]
        del group.open[start]
        self._closed(group, start)

    def _row(self, state: Any) -> Row:
        name, start, topic, states = state
        found = [slot.kind.of(known) for slot, known in zip(self.plan.slots, states, strict=True)]
        return Row(name, start, topic, found)


def _take_one(counter: Counter[Any], key: Any) -> None:
    if counter[key] > 1:
        counter[key] -= 1
    else:
        del counter[key]


def _state(row: Row) -> list[Any]:
    return [row.group, row.start, row.topic, [accumulator.state() for accumulator in row.found]]


def _packed(entries: Iterable[Entry]) -> list[list[Any]]:
    """Source, topic and group are often those of the message before, and then 0."""
    packed = []
    before: tuple[Any, ...] = ("", "", "")
    for source, topic, group, time, values in entries:
        now = (source, topic, group)
        packed.append([*(0 if new == old else new for new, old in zip(now, before, strict=True)), time, *values])
        before = now
    return packed


def _unpacked(packed: Iterable[list[Any]]) -> Iterable[Entry]:
    before = ["", "", ""]
    for source, topic, group, time, *values in packed:
        before = [old if new == 0 else new for new, old in zip((source, topic, group), before, strict=True)]
        yield Entry(before[0], before[1], before[2], time, tuple(values))
