"""The windows of all rules of one side, and what of them is written down.

Between the messages and `rules.windows` stands the disk: what was heard, and which rows are done, is gathered for the
next commit (`gather`) and takes effect when that is `written`, or is taken back when it is `refused`. For each rule
there is a log: a snapshot, which is of nothing at first, and records after it. When the records have outgrown it a new
one takes the place of both, so that a start reads little, and writing costs about half as much again as what was heard.
A commit has at most one of these, and none after one that was refused: it is to fit on a disk that is nearly full.

A rule whose statement has changed begins afresh. Its open windows are gone, which `load` and `replace` tell.

Will not write (`core.ledger` does), nor run actions: the side that runs the rules does.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from core.message import Message
from rules.engine import Rule, output_bytes
from rules.errors import EvaluationError, failure
from rules.event import Chance, Event
from rules.windows.grouping import Entry, WindowPlan
from rules.windows.state import Ended, Row, Windows

RECORDS_MIN_BYTES = 262_144  # before a snapshot is worth its while
ROWS_MAX = 500  # of a rule at a time: ten thousand groups end their day in one moment, and others want the loop too


class Piece(NamedTuple):
    """A part of a rule's log: whose, by which plan it was written (`WindowPlan.identity`), and what.

    `data` is None when it cannot be read any more.
    """

    rule: str
    plan: str
    data: bytes | None


@dataclass(slots=True, eq=False)
class _Kept:
    """What is known of one rule, and what gathers for the next commit."""

    rule: Rule
    plan: WindowPlan
    windows: Windows
    snapshot_bytes: int = 0
    record_bytes: int = 0
    heard: list[tuple[Message, Entry]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    told: Counter[str] = field(default_factory=Counter)  # of `windows.lost`

    @property
    def has_gathered(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.heard or self.rows or self.windows.ended)

    @property
    def is_new(self) -> bool:
        """Whether its log does not exist yet."""
        return not self.snapshot_bytes

    @property
    def has_outgrown(self) -> bool:
        """Whether a snapshot is worth its while."""
        return self.record_bytes > max(RECORDS_MIN_BYTES, 2 * self.snapshot_bytes)


@dataclass(slots=True, eq=False)
class _Part:
    """What one commit writes for one rule."""

    kept: _Kept
    entries: list[Entry]
    rows: list[Row]
    ended: Ended
    snapshot: bytes | None
    record: bytes


@dataclass(slots=True, eq=False)
class Writes:
    """What one commit is to do: delete the logs of rules, then append to logs (rule, plan, data)."""

    delete: list[str]
    append: list[tuple[str, str, bytes]]
    _obsolete: list[str]
    _parts: list[_Part]


@dataclass(slots=True, eq=False)
class Due:
    """A row, and the rule that it is of."""

    row: Row
    _kept: _Kept

    @property
    def rule(self) -> Rule:
        """As it is now."""
        return self._kept.rule

    @property
    def name(self) -> tuple[str, int]:
        """No other row has it, and this one whenever it is handed out."""
        return self._kept.windows.log, self.row.number


class Aggregation:
    """The windows of the rules that have them; `own_clock` as `rules.windows` says: true at an edge.

    `chance` gives each log a name that no other ever has, which makes the names of its rows.
    """

    def __init__(self, *, own_clock: bool, chance: Chance) -> None:
        self._own_clock = own_clock
        self._chance = chance
        self._kept: dict[str, _Kept] = {}
        self._obsolete: list[str] = []  # rules whose logs are to be deleted
        self._refused = False  # what was to be written last

    # -- rules --------------------------------------------------------------------------------------------------------

    def load(self, rules: Iterable[Rule], pieces: Iterable[Piece]) -> list[str]:
        """Take up what was written, in that order; a line for every rule that begins afresh nevertheless."""
        logs: dict[str, list[Piece]] = {}
        for piece in pieces:
            logs.setdefault(piece.rule, []).append(piece)
        self.replace(rules)
        told = [self._restore(self._kept[name], log) for name, log in logs.items() if name in self._kept]
        gone = [name for name in logs if name not in self._kept]
        self._obsolete += gone
        return [line for line in told if line] + [f"rule {name} is gone, and its windows with it" for name in gone]

    def _restore(self, kept: _Kept, log: list[Piece]) -> str:
        name = kept.rule.name
        written = [piece.data for piece in log if piece.data is not None]
        why = ""
        if any(piece.plan != kept.plan.identity for piece in log):
            why = "its statement has changed"
        elif len(written) < len(log):
            why = "what was written of them is damaged"
        else:
            try:
                kept.windows.restore(written)
            except ValueError as error:
                why = str(error)
                kept.windows = self._afresh(kept.plan)
        if why:
            self._obsolete.append(name)
            return f"the open windows of rule {name} are dropped: {why}"
        kept.snapshot_bytes = len(written[0])
        kept.record_bytes = sum(map(len, written[1:]))
        return ""

    def _afresh(self, plan: WindowPlan) -> Windows:
        return Windows(plan, log=self._chance.uuid(), own_clock=self._own_clock)

    def replace(self, rules: Iterable[Rule]) -> list[str]:
        """Use other rules from the next message on; a line for every rule whose open windows are gone."""
        before, self._kept = self._kept, {}
        for rule in rules:
            plan = None if rule.disabled else rule.plan
            if plan is None:
                continue
            old = before.get(rule.name)
            if old is not None and old.plan.identity == plan.identity:
                old.rule = rule
                self._kept[rule.name] = before.pop(rule.name)
            else:
                self._kept[rule.name] = _Kept(rule, plan, self._afresh(plan))
        self._obsolete += before
        return [
            f"rule {name} is gone, or another now; its {old.windows.open} open windows are dropped"
            for name, old in before.items()
            if old.windows.open
        ]

    def status(self) -> dict[str, dict[str, Any]]:
        """By rule: groups and open windows, and messages that were left out, by reason."""
        return {
            name: {"groups": kept.windows.groups, "windows": kept.windows.open, "lost": dict(kept.windows.lost)}
            for name, kept in self._kept.items()
        }

    def losses(self) -> Iterator[tuple[str, str, int]]:
        """Rule, reason and number of the messages that were left out since the last call."""
        for name, kept in self._kept.items():
            for reason, number in (kept.windows.lost - kept.told).items():
                yield name, reason, number
            kept.told = kept.windows.lost.copy()

    # -- messages and rows --------------------------------------------------------------------------------------------

    def hear(self, rule: Rule, event: Event, source: str = "") -> None:
        """Gather what a windowed rule needs of a message. Raises EvaluationError; counts in the rule's counters."""
        kept = self._kept[rule.name]
        rule.counters.matched += 1
        try:
            entry = kept.windows.hear(event, source)
        except Exception as error:  # as for other rules: one message must never stop the rules for the next one
            raise _failed(rule, error) from error
        if entry is not None:
            kept.heard.append((event.message, entry))

    def withdraw(self, messages: Sequence[Message]) -> None:
        """Forget what was gathered of these: whoever sent them is told that they are not kept."""
        refused = {id(message) for message in messages}
        for kept in self._kept.values():
            kept.windows.discard(entry for message, entry in kept.heard if id(message) in refused)
            kept.heard = [heard for heard in kept.heard if id(heard[0]) not in refused]

    def elapse(self, ms: int, source: str = "") -> None:
        """So many milliseconds have passed where `source` comes from."""
        for kept in self._kept.values():
            kept.windows.elapse(ms, source)

    def wait(self, source: str = "") -> int | None:
        """After how many more milliseconds of `source` something may be due; None when nothing waits."""
        waits = [wait for kept in self._kept.values() if (wait := kept.windows.wait(source)) is not None]
        return min(waits, default=None)

    @property
    def sources(self) -> set[str]:
        """The streams whose time something may wait for."""
        return {source for kept in self._kept.values() for source in kept.windows.sources}

    def due(self) -> list[Due]:
        """Rows that are complete, for each rule at most ROWS_MAX; the rest are due at once when these are acted on.

        Each is handed out once, until a commit with it is refused.
        """
        return [Due(row, kept) for kept in self._kept.values() for row in kept.windows.due(ROWS_MAX)]

    def output(self, due: Due) -> tuple[Any, bytes]:
        """What a rule's actions are given for a row: the output, and how it is written.

        Raises EvaluationError; counts in the rule's counters.
        """
        try:
            output = due._kept.windows.output(due.row)
            written = output_bytes(output)
        except Exception as error:
            raise _failed(due.rule, error) from error
        due.rule.counters.passed += 1
        return output, written

    def acted(self, done: Iterable[Due]) -> None:
        """What the actions made of these rows is gathered, and written with the next commit or not at all."""
        for due in done:
            due._kept.rows.append(due.row)

    # -- commits ------------------------------------------------------------------------------------------------------

    @property
    def has_gathered(self) -> bool:
        """Whether there is anything to write."""
        return bool(self._obsolete) or any(kept.has_gathered for kept in self._kept.values())

    def gather(self) -> Writes | None:
        """What is to be written now, None when nothing is; answered by `written` or `refused` before the next call."""
        obsolete, self._obsolete = self._obsolete, []
        gathered = [kept for kept in self._kept.values() if kept.has_gathered]
        outgrown = None if self._refused else next((kept for kept in gathered if kept.has_outgrown), None)
        parts = [_part(kept, snapshot=kept is outgrown or kept.is_new) for kept in gathered]
        if not obsolete and not parts:
            return None
        delete = list(obsolete)
        append: list[tuple[str, str, bytes]] = []
        for part in parts:
            name, identity = part.kept.rule.name, part.kept.plan.identity
            if part.snapshot is not None:
                delete.append(name)
                append.append((name, identity, part.snapshot))
            append.append((name, identity, part.record))
        return Writes(delete, append, obsolete, parts)

    def written(self, writes: Writes) -> None:
        """It is on disk."""
        self._refused = False
        for part in writes._parts:
            kept = part.kept
            if part.snapshot is not None:
                kept.snapshot_bytes, kept.record_bytes = len(part.snapshot), 0
            kept.record_bytes += len(part.record)
            kept.windows.apply(part.entries)
            kept.windows.done(part.rows)

    def refused(self, writes: Writes) -> None:
        """It could not be written: messages are forgotten, rows are due again."""
        self._refused = True
        self._obsolete += writes._obsolete
        for part in writes._parts:
            part.kept.windows.discard(part.entries)
            part.kept.windows.again(part.rows)
            part.kept.windows.return_ended(part.ended)


def _part(kept: _Kept, *, snapshot: bool) -> _Part:
    entries, rows, windows = [entry for _, entry in kept.heard], kept.rows, kept.windows
    kept.heard, kept.rows, ended = [], [], windows.take_ended()
    image = windows.snapshot() if snapshot else None
    return _Part(kept, entries, rows, ended, image, windows.record(entries, rows, ended))


def _failed(rule: Rule, error: Exception) -> EvaluationError:
    rule.counters.failed += 1
    rule.counters.last_error = failure(error)
    return EvaluationError(f"rule {rule.name}: {rule.counters.last_error}")
