"""Fires the schedules of functions: once for each time that comes, and once for all that went by unseen.

What fired last is on disk in the same commit as the event that it made. So neither a restart nor a clock that goes back
fires a time again. Times that went by while the box was off, or that its clock jumped over, make one event together,
with the last of them as its time; the others are counted as missed.

`cron` and `at` follow the wall clock, and wait while it stands before CLOCK_PLAUSIBLE_MS, as on a box without a battery
clock until NTP has set it. A clock that is BACK_MS and more behind what fired last was wrong then, and is believed now.
`rate` follows the queue's timeline, on which no clock ever jumps.

A schedule that is new, changed or enabled again begins at that moment. Will not say when times are (`schedules` does).
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

import orjson

from core import timeline
from core.commits import Commits, Work
from core.message import CLOCK_PLAUSIBLE_MS
from core.telemetry import Counters, get_logger
from core.timeline import Timeline
from functions import schedules
from functions.errors import FunctionsError, InvalidParameter, Throttled
from functions.manifest import Schedule
from functions.names import ACCOUNT_ID, REGION, FunctionName
from functions.schedules import Expression, Rate

log = get_logger("functions.scheduler")

LOOK_SECONDS = 5.0  # between two looks at the clock, which may have been set
SOON_SECONDS = 0.01  # a timer may fire a little early
MARK_MS = 300_000  # between two marks of the timeline: what a rate may lose by a crash, where no clock can be believed
BACK_MS = 86_400_000  # a day: time zones and leap seconds move no clock so far
MISSED_MAX = 1_000  # counted one by one; what is beyond is told as this many
_SPANS_MS = (3_600_000, 86_400_000, 31 * 86_400_000, 366 * 86_400_000)
_IDS = UUID("0d0c5f5e-6f2a-5f8e-9d57-74696465676e")  # the namespace of event ids; any constant would do

SCHEMA = """
CREATE TABLE IF NOT EXISTS function_schedules(
    function TEXT, name TEXT, said TEXT, last INTEGER, fired INTEGER,
    missed INTEGER, PRIMARY KEY(function, name)) WITHOUT ROWID;
"""
Key = tuple[str, str]  # function, schedule
Call = Callable[[FunctionName, bytes], object]


@dataclass(frozen=True, slots=True)
class Firing:
    """One event: for which time, and how many times before it are not fired."""

    at: int
    missed: int


@dataclass(slots=True)
class Entry:
    """A schedule that is watched. `last` fired, or else where it began; None until the clock can be believed.

    `last` and `next` are of the wall clock, or for a rate of the timeline.
    """

    function: FunctionName
    schedule: Schedule
    expression: Expression
    zone: ZoneInfo
    last: int | None = None
    next: int | None = None
    fired: int = 0
    missed: int = 0

    @property
    def key(self) -> Key:
        """Its key on disk."""
        return self.function.name, self.schedule.name

    @property
    def said(self) -> str:
        """What was written; when that changes, it begins anew."""
        return f"{self.schedule.expression} {self.schedule.timezone}"

    def begin(self, last: int | None) -> None:
        """Wait for the first time after `last`."""
        self.last = last
        self.next = None if last is None else schedules.next_after(self.expression, last, self.zone, last)


def due(entry: Entry, now: int) -> Firing | None:
    """What an entry owes at `now`, None when nothing."""
    if entry.next is None or entry.next > now:
        return None
    assert entry.last is not None
    if isinstance(entry.expression, Rate):
        times = (now - entry.last) // entry.expression.interval
        return Firing(entry.last + times * entry.expression.interval, times - 1)
    latest, count = entry.next, 1
    while count <= MISSED_MAX:
        following = schedules.next_after(entry.expression, latest, entry.zone)
        if following is None or following > now:
            return Firing(latest, count - 1)
        latest, count = following, count + 1
    return Firing(_latest(entry, latest, now), MISSED_MAX)


def _latest(entry: Entry, known: int, now: int) -> int:
    """The last time up to `now`, `known` being one of those."""
    for span in (*_SPANS_MS, now - known):
        found, following = None, schedules.next_after(entry.expression, max(known, now - span), entry.zone)
        while following is not None and following <= now:
            found, following = following, schedules.next_after(entry.expression, following, entry.zone)
        if found is not None:
            return found
    return known


def scheduled_event(entry: Entry, at: int) -> bytes:
    """What a function is given: the schedule's own input, else EventBridge's scheduled event."""
    if entry.schedule.input is not None:
        return entry.schedule.input.encode()
    name = entry.schedule.name
    return orjson.dumps(
        {
            "version": "0",
            "id": str(uuid5(_IDS, orjson.dumps([entry.function.name, name, at]).decode())),
            "detail-type": "Scheduled Event",
            "source": "aws.events",
            "account": ACCOUNT_ID,
            "time": datetime.fromtimestamp(at // 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "region": REGION,
            "resources": [f"arn:aws:events:{REGION}:{ACCOUNT_ID}:rule/{name}"],
            "detail": {},
        }
    )


class Scheduler:
    """A part of the daemon's commits, made on a running loop. `call(function, payload)` accepts an event for the next
    commit and raises FunctionsError (`asynchronous.Asynchronous.call`); `clock` is the queue's timeline, which
    `InvocationQueue.load` has set before `load` here."""

    def __init__(self, commits: Commits, call: Call, counters: Counters, clock: Timeline) -> None:
        self._commits = commits
        self._call = call
        self._counters = counters
        self._clock = clock
        self._entries: dict[Key, Entry] = {}
        self._stored: dict[Key, tuple[str, int | None, int, int]] = {}
        self._changed: dict[Key, None] = {}
        self._marked = clock.now
        self._wants_mark = False
        self._wake = asyncio.Event()
        commits.join(self)

    async def load(self, wanted: Iterable[tuple[FunctionName, Schedule]]) -> None:
        """Take up what the last run wrote, for the schedules that there are now. Raises StorageError."""

        def load(connection: sqlite3.Connection) -> list[Any]:
            return connection.execute("SELECT * FROM function_schedules").fetchall()

        rows = await self._commits.store.run(load)
        self._stored = {(function, name): tuple(rest) for function, name, *rest in rows}
        self._changed = dict.fromkeys(self._stored)  # whoever is not among them any more is deleted
        self.replace(wanted)
        self._stored = {}

    def replace(self, wanted: Iterable[tuple[FunctionName, Schedule]]) -> None:
        """Watch these schedules from now on; those that have not changed go on. One that cannot be read is logged."""
        before, self._entries = self._entries, {}
        for function, schedule in wanted:
            if not schedule.enabled:
                continue
            try:
                expression, zone = schedules.parse(schedule.expression), schedules.zone(schedule.timezone)
            except InvalidParameter as error:
                log.error("a schedule cannot be read", function=str(function), schedule=schedule.name, error=error)
                continue
            entry = Entry(function, schedule, expression, zone)
            self._entries[entry.key] = entry
            self._continue(entry, before.get(entry.key))
        self._changed |= dict.fromkeys(before.keys() - self._entries.keys())
        if self._changed:
            self._commits.later()
        self._wake.set()

    def _continue(self, entry: Entry, former: Entry | None) -> None:
        said, last, fired, missed = self._stored.get(entry.key, ("", None, 0, 0))
        if former is not None:
            said, last, fired, missed = former.said, former.last, former.fired, former.missed
        if said == entry.said:
            entry.fired, entry.missed = fired, missed
            entry.begin(last)
        else:
            self._changed[entry.key] = None

    def status(self) -> list[Entry]:
        """Every schedule that is watched, by function and name."""
        return [self._entries[key] for key in sorted(self._entries)]

    def close(self) -> None:
        """Write down how far the timeline is, with the last commit."""
        self._wants_mark = True

    async def run(self) -> None:
        """Fire in time, until cancelled."""
        while True:
            self._wake.clear()
            wait = self.look()
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def look(self) -> float:
        """Fire what is due; returns the seconds until the next look."""
        wall, now = self._clock.wall, self._clock.now
        rates = any(isinstance(entry.expression, Rate) for entry in self._entries.values())
        if self._clock.has_jumped or (rates and now - self._marked >= MARK_MS):  # or a restart mistakes what went by
            self._marked = now
            self._wants_mark = True
            self._commits.later()
        wait = LOOK_SECONDS
        for entry in self._entries.values():
            is_rate = isinstance(entry.expression, Rate)
            if not is_rate and wall < CLOCK_PLAUSIBLE_MS:
                continue
            at = now if is_rate else wall
            self._begin(entry, at)
            firing = due(entry, at)
            if firing is not None:
                self._fire(entry, firing, wall if is_rate else firing.at)
            if entry.next is not None:
                wait = min(wait, (entry.next - at) / 1_000)
        return max(wait, SOON_SECONDS)

    def _begin(self, entry: Entry, now: int) -> None:
        if entry.last is not None and entry.last - now < BACK_MS:
            return
        if entry.last is not None:
            log.warning("the clock was put back far; a schedule begins anew", schedule=entry.schedule.name)
        entry.begin(now)
        self._changed[entry.key] = None
        self._commits.later()

    def _fire(self, entry: Entry, firing: Firing, at: int) -> None:
        function, name = entry.function, entry.schedule.name
        missed = firing.missed
        try:
            self._call(function, scheduled_event(entry, at))
        except Throttled as error:
            log.warning("a schedule's event must wait", function=str(function), schedule=name, error=error)
            return  # it is still due at the next look
        except FunctionsError as error:
            log.error("a schedule cannot fire", function=str(function), schedule=name, error=error)
            missed += 1
        else:
            entry.fired += 1
            self._counters.add("functions_schedules_fired_total", function=function.name)
        if missed:
            entry.missed += missed
            self._counters.add("functions_schedules_missed_total", missed, function=function.name)
            log.warning("times of a schedule went by", function=str(function), schedule=name, missed=missed)
        entry.begin(firing.at)
        self._changed[entry.key] = None
        self._commits.soon()

    def gather(self) -> Work | None:
        """What fired, and which schedules there are no more."""
        if not self._changed and not self._wants_mark:
            return None
        changed, self._changed = self._changed, {}
        mark, self._wants_mark = self._clock.mark(), False
        entries = [entry for key in changed if (entry := self._entries.get(key)) is not None]
        rows = [(*entry.key, entry.said, entry.last, entry.fired, entry.missed) for entry in entries]
        gone = [key for key in changed if key not in self._entries]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM function_schedules WHERE function = ? AND name = ?", gone)
            connection.executemany("INSERT OR REPLACE INTO function_schedules VALUES (?,?,?,?,?,?)", rows)
            timeline.write(connection, mark)

        def written(_: object, error: Exception | None) -> None:
            if error is not None:
                self._changed = changed | self._changed
                self._wants_mark = True

        return Work(write, written)


def salvage(source: sqlite3.Connection, target: sqlite3.Connection) -> bool:
    """Copy what fired last out of a damaged database; whether it could be read."""
    try:
        rows = source.execute("SELECT * FROM function_schedules").fetchall()
    except sqlite3.Error:
        return False
    target.executemany("INSERT OR REPLACE INTO function_schedules VALUES (?,?,?,?,?,?)", rows)
    return True
