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
or `again` when it could not be written. What ends without a message, because time passes or a new group needs room,
has ended at once and is in the next record (`take_ended`). `restore` takes up what was written: a snapshot and the
records after it.

Invariants:
1. A message that was applied is in exactly one row, or counted in `lost`, whatever restarts lie between.
2. A row is handed out again, the same, until it is done; rows of one group come in the order of their windows.
3. At most GROUPS_MAX groups, OPEN_MAX open windows, and about STATE_BYTES_MAX of both: a message that needs more is
   refused by `hear`.
4. No two rows of a log have one number, and a row has the same after every restart.
"""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, NamedTuple, TypeAlias

from rules.errors import EvaluationError
from rules.event import Event
from rules.sql.payloads import json_bytes, read
from rules.windows.aggregates import Accumulator
from rules.windows.grouping import Entry, WindowPlan
from rules.windows.packing import packed, unpacked

GROUPS_MAX = 10_000  # of a rule, with those that are remembered to tell what is late
OPEN_MAX = 20_000  # of a rule, all groups together
STATE_BYTES_MAX = 8 << 20  # of a rule, as JSON: some 0.1 s of encoding; in log and file together DISK_RESERVE_BYTES
BACK_MAX_MS = 60_000  # a correction of a clock that runs; beyond it, the clock was wrong
FORGET_MS = 86_400_000  # a group without windows, and the one with a device that was once a day ahead, begin again

GROUP_BYTES = ROW_BYTES = 40  # as JSON, beside names and what was gathered
ALARMS_SPARE = 64  # those that were overtaken by an earlier one and not swept out yet

LATE = "late"


@dataclass(slots=True, eq=False)
class Row:
    """A window: what it gathered, the topic of the last message in it, and its number in the rule's log."""

    group: str
    start: int
    topic: str
    number: int
    found: list[Accumulator]
    size: int = 0  # about how many bytes that is


class Ended(NamedTuple):
    """What ended without a message: groups whose windows up to a start are closed, and then those forgotten."""

    shut: list[tuple[str, int]]
    forgotten: list[str]

    def __bool__(self) -> bool:
        return bool(self.shut or self.forgotten)


@dataclass(slots=True, eq=False)
class _Group:
    name: str
    mark: int = 0  # the latest time told
    closed: int = 0  # windows that began before are closed
    source: str = ""
    heard: int = 0  # what the stopwatch of the source showed
    alarm: tuple[str, int] | None = None  # at which stopwatch, and when, to look at it
    open: dict[int, Row] = field(default_factory=dict)
    starts: list[int] = field(default_factory=list)  # of those, as a heap
    coming: int = 0  # messages that were heard and not applied
    busy: bool = False  # whether something is open or coming


_Heap: TypeAlias = list[tuple[int, int, _Group]]


class Windows:
    """The windows of the rule with this plan. `log` names what is written, unless `restore` finds another name."""

    def __init__(
        self,
        plan: WindowPlan,
        *,
        log: str = "",
        own_clock: bool = False,
        groups_max: int = GROUPS_MAX,
        open_max: int = OPEN_MAX,
        state_max: int = STATE_BYTES_MAX,
    ) -> None:
        self.plan = plan
        self.lost: Counter[str] = Counter()  # messages that were left out, by reason
        self.log = log
        self.open = 0  # windows
        self.size = 0  # bytes, about
        self.ended = Ended([], [])  # of which no record says so yet
        self._by_arrival = own_clock and plan.time_field is None
        self._late_ms = 0 if self._by_arrival else plan.late_ms
        self._groups_max, self._open_max, self._state_max = groups_max, open_max, state_max
        self._groups: dict[str, _Group] = {}
        self._quiet: dict[_Group, int] = {}  # those without open windows, and since when by their stopwatch
        self._busy = 0  # groups
        self._opening: Counter[tuple[str, int]] = Counter()  # messages on their way to windows that are not there
        self._coming_size = 0  # of all messages on their way
        self._grows = sum(slot.kind.grows for slot in plan.slots)
        self._number = 0  # of the last window
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
        if (group is None or not group.busy) and self._busy >= self._groups_max:
            raise EvaluationError(f"more than {self._groups_max:,} groups have open windows")
        start = self._start(entry.time)
        window = (entry.group, start)
        row = None if group is None else group.open.get(start)
        if row is None and window not in self._opening and self.open + len(self._opening) >= self._open_max:
            raise EvaluationError(f"more than {self._open_max:,} windows are open")
        self._ensure_room(entry, row)
        group = self._groups.get(entry.group) or self._found(entry.group)
        group.coming += 1
        self._count(group)
        self._coming_size += self._alone(entry)
        if row is None:
            self._opening[window] += 1
        return entry

    def _ensure_room(self, entry: Entry, row: Row | None) -> None:
        """Forget quiet groups for it; raise EvaluationError for a message with which too much would be kept still."""
        growth = self._alone(entry)
        if row is not None:
            growth = self._grows + max(0, growth - self._grows - GROUP_BYTES - len(entry.group) - row.size)
        while growth and self.size + self._coming_size + growth > self._state_max:
            unheard = self._unheard(besides=entry.group)
            if unheard is not None:
                self._forget(unheard)
                continue
            raise EvaluationError(f"the windows keep more than {self._state_max:,} bytes of groups, topics and values")

    def _alone(self, entry: Entry) -> int:
        """How many bytes would be kept of a group and a window with only this in it."""
        return GROUP_BYTES + ROW_BYTES + 2 * len(entry.group) + len(entry.topic) + entry.size + self._grows

    def discard(self, entries: Iterable[Entry]) -> None:
        """These could not be written down."""
        for entry in entries:
            self._arrived(entry)

    def apply(self, entries: Iterable[Entry]) -> None:
        """These are written down."""
        for entry in entries:
            self._add(entry)
            self._arrived(entry)

    def _arrived(self, entry: Entry) -> None:
        self._coming_size -= self._alone(entry)
        _take_one(self._opening, (entry.group, self._start(entry.time)))
        group = self._groups[entry.group]
        group.coming -= 1
        self._count(group)
        if not group.busy and not group.mark:  # nothing of it was ever written
            self._drop(group)

    def _count(self, group: _Group) -> None:
        busy = bool(group.open or group.coming)
        self._busy += busy - group.busy
        group.busy = busy

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
            self._number += 1
            window = Row(group.name, start, entry.topic, self._number, self.plan.accumulators())
            self._open(group, window)
        for slot, accumulator in zip(self.plan.slots, window.found, strict=True):
            value = True if slot.argument is None else entry.values[slot.argument]
            if value is not None:
                accumulator.add(value, time)
        window.topic = entry.topic
        self._weigh(window)
        group.mark = max(group.mark, time)
        group.source, group.heard = entry.source, self._stopwatches[entry.source]
        if len(group.open) > 1:
            self._close(group, group.mark)
        self._watch(group)

    def _open(self, group: _Group, row: Row) -> None:
        group.open[row.start] = row
        heappush(group.starts, row.start)
        self.open += 1
        self._quiet.pop(group, None)
        self._count(group)

    def _weigh(self, row: Row) -> None:
        size = ROW_BYTES + len(row.group) + len(row.topic) + sum([each.size for each in row.found])
        self.size += size - row.size
        row.size = size

    def _found(self, name: str) -> _Group:
        if len(self._groups) >= self._groups_max:
            unheard = self._unheard()
            if unheard is not None:
                self._forget(unheard)
        return self._known(_Group(name))

    def _unheard(self, besides: str = "") -> _Group | None:
        """The group that is quiet for the longest time."""
        return next((group for group in self._quiet if not group.coming and group.name != besides), None)

    def _known(self, group: _Group) -> _Group:
        self._groups[group.name] = group
        self._quiet[group] = 0
        self.size += GROUP_BYTES + len(group.name)
        return group

    def _by_own_clock(self, group: _Group, time: int) -> int:
        if time < group.mark - BACK_MAX_MS:
            self._close_all(group)
            group.mark = group.closed = 0  # and the message that comes now is of another time
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
        at = group.heard + group.starts[0] + self.plan.size_ms + self._late_ms - group.mark
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
                if group.coming:  # not silent: what it said is being written down
                    self._alarm(group, now + 1)
                else:
                    group.alarm = None
                    self._tell(group, self._close(group, group.mark + now - group.heard))
                    self._watch(group)

    def _tell(self, group: _Group, last: int | None) -> None:
        """The next record says that windows up to that which began at `last` were closed."""
        if last is not None:
            self.ended.shut.append((group.name, last))

    def _close(self, group: _Group, clock: int) -> int | None:
        """Close what ended `late_ms` before `clock`, which is the group's; as `_shut`."""
        return self._shut(group, clock - self._late_ms - self.plan.size_ms)

    def _close_all(self, group: _Group) -> int | None:
        return self._shut(group, max(group.open, default=0))

    def _shut(self, group: _Group, last: int) -> int | None:
        """Close the windows that began at `last` or before; returns when the last of these began."""
        shut = None
        while group.starts and group.starts[0] <= last:
            shut = heappop(group.starts)
            self._ready.append(group.open.pop(shut))
            self.open -= 1
            group.closed = max(group.closed, shut + self.plan.size_ms)
            if not group.open:
                self._quiet[group] = self._stopwatches[group.source]
                self._count(group)
        return shut

    def _forget_quiet(self) -> None:
        while self._quiet:
            group, since = next(iter(self._quiet.items()))
            if self._stopwatches[group.source] - since < FORGET_MS or group.coming:
                break
            self._forget(group)

    def _forget(self, group: _Group) -> None:
        self._drop(group)
        self.ended.forgotten.append(group.name)

    def _drop(self, group: _Group) -> None:
        del self._groups[group.name], self._quiet[group]
        self.size -= GROUP_BYTES + len(group.name)

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
            self._tell(group, self._close_all(group))
        return self.due()

    def output(self, row: Row) -> Any:
        """What SELECT makes of a row. Raises EvaluationError."""
        return self.plan.output(row.group, row.start, row.found)

    def done(self, rows: Iterable[Row]) -> None:
        """What these rows made is written, with the record of them."""
        for row in rows:
            del self._out[row]
            self.size -= row.size

    def again(self, rows: Iterable[Row]) -> None:
        """It could not be written; they are due again."""
        returned = list(rows)
        for row in returned:
            del self._out[row]
        self._ready.extendleft(reversed(returned))

    # -- on disk ------------------------------------------------------------------------------------------------------

    def take_ended(self) -> Ended:
        """What ended since the last call, for the next record."""
        ended, self.ended = self.ended, Ended([], [])
        return ended

    def return_ended(self, ended: Ended) -> None:
        """It could not be written."""
        self.ended = Ended(ended.shut + self.ended.shut, ended.forgotten + self.ended.forgotten)

    def record(self, entries: Iterable[Entry], rows: Iterable[Row], ended: Ended) -> bytes:
        """What is to be written down of messages that were heard, of rows that are done, and of what `ended`."""
        done = [[row.group, row.start] for row in rows]
        kept = {"shut": ended.shut, "forgotten": ended.forgotten, "done": done, "heard": packed(entries)}
        return json_bytes({name: value for name, value in kept.items() if value})

    def snapshot(self) -> bytes:
        """All that was applied, in place of all records so far."""
        groups = [
            [group.name, group.mark, group.closed, group.source, [_state(row) for row in group.open.values()]]
            for group in self._groups.values()
            if group.mark
        ]
        rows = [_state(row) for row in (*self._out, *self._ready)]
        return json_bytes({"log": self.log, "number": self._number, "groups": groups, "rows": rows})

    def restore(self, written: Iterable[bytes]) -> None:
        """Take up what was written, in that order; only when nothing was heard yet. Raises ValueError."""
        try:
            for data in written:
                self._replay(read(data))
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not written by this version: {error!r}") from error
        self.lost.clear()
        self.take_ended()

    def _replay(self, record: Any) -> None:
        """In the order of time: what ended had done so before the rows were done, and the messages were applied."""
        if "groups" in record:
            self._replay_snapshot(record)
        for name, last in record.get("shut", ()):  # a snapshot of the same commit knows these already
            if name in self._groups:
                self._shut(self._groups[name], last)
                self._watch(self._groups[name])
        for name in record.get("forgotten", ()):
            if name in self._groups:
                self._forget(self._groups[name])
        for name, start in record.get("done", ()):
            self._replay_done(name, start)
        for entry in unpacked(record.get("heard", ())):
            self._add(entry)

    def _replay_snapshot(self, snapshot: Any) -> None:
        self.log, self._number = snapshot["log"], snapshot["number"]
        for name, mark, closed, source, states in snapshot["groups"]:
            group = self._known(_Group(name, mark, closed, source))
            for state in states:
                self._open(group, self._row(state))
            self._watch(group)
        self._ready.extend(map(self._row, snapshot["rows"]))

    def _replay_done(self, name: str, start: int) -> None:
        for row in self._ready:
            if (row.group, row.start) == (name, start):
                self._ready.remove(row)
                self.size -= row.size
                return
        raise KeyError(name)

    def _row(self, state: Any) -> Row:
        name, start, topic, number, states = state
        found = [slot.kind.of(known) for slot, known in zip(self.plan.slots, states, strict=True)]
        row = Row(name, start, topic, number, found)
        self._weigh(row)
        return row


def _take_one(counter: Counter[Any], key: Any) -> None:
    if counter[key] > 1:
        counter[key] -= 1
    else:
        del counter[key]


def _state(row: Row) -> list[Any]:
    return [row.group, row.start, row.topic, row.number, [accumulator.state() for accumulator in row.found]]
