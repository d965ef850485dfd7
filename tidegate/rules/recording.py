"""`tidegate rules test --record FILE.jsonl`: what rules would make of traffic that was recorded. Nothing is sent.

The file is read line by line and may be of any length; lines that are no message are named and skipped. The forms of a
line are in `rules.rehearsal.traffic`.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import typer

from core.cli import EXIT_FAILED, err, out, print_rows
from core.errors import ConfigurationError
from rules.engine import RuleSet
from rules.event import Event
from rules.rehearsal.firings import Firing, Rehearsal
from rules.rehearsal.traffic import LINE_BYTES_MAX, NotRecorded, message
from rules.sql.payloads import json_bytes
from tidegate.rules.options import Dice, lines, plain, shown

SEED = 0
EXAMPLES_MAX = 3  # for each rule: enough to see what it does
EXAMPLE_CHARS_MAX = 300
FAULTS_MAX = 20  # a file of another kind has as many as it has lines


@dataclass(slots=True)
class Replay:
    """The firings of a recording, one after the other; afterwards what was counted on the way."""

    rules: RuleSet
    messages: int = 0
    unread: int = 0
    late: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def firings(self, file: Path, stream: BinaryIO) -> Iterator[tuple[str, Firing]]:
        """Every firing with where it came about: line and topic of the message, or the end."""
        dice = Dice(SEED)
        rehearsal = Rehearsal(self.rules, dice)
        for number, event in self._events(file, stream, dice):
            self.messages += 1
            passed = event.now_ms - rehearsal.now_ms if self.messages > 1 else 0
            for firing in (*rehearsal.elapse(max(0, passed)), *rehearsal.hear(event)):
                yield f"line {number:,}, {event.message.topic}", firing
        for firing in rehearsal.finish():
            yield "the end, which closes every window", firing
        self.late = rehearsal.late

    def _events(self, file: Path, stream: BinaryIO, dice: Dice) -> Iterator[tuple[int, Event]]:
        now_ms = int(time.time() * 1000)
        for number, line in lines(stream, LINE_BYTES_MAX):
            try:
                if line is None:
                    raise NotRecorded(f"the line has more than {LINE_BYTES_MAX:,} bytes")
                yield number, message(line, now_ms, dice)
            except NotRecorded as error:
                self.unread += 1
                if len(self.faults) < FAULTS_MAX:
                    self.faults.append(f"{file}:{number}: {error}")

    @property
    def counted(self) -> list[dict[str, Any]]:
        """Each rule with its numbers."""
        return [
            {"rule": rule.name, "heard": c.matched, "fired": c.passed, "failed": c.failed, "last_error": c.last_error}
            for rule in self.rules
            for c in (rule.counters,)
        ]


def replay(file: Path, rules: RuleSet, as_json: bool) -> None:
    """Print what the rules make of the recording; exit with 1 when a line is no message or a rule failed.

    Raises ConfigurationError for a file that cannot be read.
    """
    run = Replay(rules)
    with _opened(file) as stream:
        if as_json:
            _write_json(run, run.firings(file, stream))
        else:
            _print(run, run.firings(file, stream))
    for fault in run.faults:
        err.print(plain(fault), style="red", soft_wrap=True)
    if run.unread > len(run.faults):
        err.print(f"and {run.unread - len(run.faults):,} lines more that are no messages", style="red")
    if run.unread or any(rule.counters.failed for rule in rules):
        raise typer.Exit(EXIT_FAILED)


def _opened(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise ConfigurationError("cannot read", [f"{file}: {error.strerror or error}"]) from None


def _write_json(run: Replay, firings: Iterable[tuple[str, Firing]]) -> None:
    """One document, written while the recording is read: a long one has more firings than fit into memory."""
    write = sys.stdout.buffer.write
    write(b'{"firings":[')
    for count, (where, firing) in enumerate(firings):
        write(b",\n" if count else b"\n")
        write(json_bytes({"at": where, **_said(firing)}))
    totals = {
        "rules": run.counted, "messages": run.messages, "late": run.late, "unread": run.unread, "faults": run.faults
    }  # fmt: skip
    write(b"\n]," + json_bytes(totals)[1:] + b"\n")
    sys.stdout.flush()


def _said(firing: Firing) -> dict[str, Any]:
    if firing.error:
        return {"rule": firing.rule, "error": firing.error}
    actions = [
        {"action": action.name, "parameters": action.parameters, **({"error": action.error} if action.error else {})}
        for action in firing.actions
    ]
    return {"rule": firing.rule, **shown("payload", firing.output), "actions": actions}


def _print(run: Replay, firings: Iterable[tuple[str, Firing]]) -> None:
    examples: dict[str, list[str]] = {}
    for where, firing in firings:
        of_rule = examples.setdefault(firing.rule, [])
        if len(of_rule) < EXAMPLES_MAX:
            of_rule.append("\n".join([f"  {where}", *_written(firing)]))
    out.print(f"{run.messages:,} messages")
    for rule, count in run.late.items():
        out.print(f"{count:,} messages too late for the windows of {rule}")
    print_rows({key: value for key, value in counted.items() if key != "last_error"} for counted in run.counted)
    for rule, of_rule in examples.items():
        out.print(f"\n{rule}", style="bold")
        for line in "\n".join(of_rule).split("\n"):
            out.print(plain(line), soft_wrap=True)


def _written(firing: Firing) -> Iterator[str]:
    said = _said(firing)
    if firing.error:
        yield f"    failed: {firing.error}"
        return
    yield "    " + _cut(json_bytes(said["payload"]).decode() if "payload" in said else f"base64 {said['payload_b64']}")
    for action in firing.actions:
        yield f"    {action.name} " + _cut(action.error or json_bytes(action.parameters).decode())


def _cut(text: str) -> str:
    return f"{text[: EXAMPLE_CHARS_MAX - 1]}…" if len(text) > EXAMPLE_CHARS_MAX else text
