"""What functions write, as JSON lines in two files per function: NAME.jsonl, and NAME.1.jsonl with what came before.

    {"time": "2026-05-09T07:29:33.186Z", "requestId": "…", "stream": "stdout", "level": "INFO", "message": "…",
     "version": "7"}

`stream` is stdout, stderr or platform (START, END and REPORT lines); `requestId` is empty for what was written between
events. `functions.workers.transcript` decides which lines there are.

Files are written by a thread, every `FLUSH_SECONDS` at most: on a full SD card's queue a plain write can block for
seconds, which the event loop must not. No write is synced: logs may lose their last seconds in a power cut.

Invariants:
1. Both files of a function together have at most `bytes_max` bytes; a line has at most `LINE_BYTES_MAX` of message.
2. A function writes `BURST_BYTES` at once and `BYTES_PER_SECOND` in the long run; what is beyond is dropped, counted,
   and one line tells how much. Platform lines have `PLATFORM_BURST_BYTES` and `PLATFORM_BYTES_PER_SECOND` more, so that
   what a handler shouts does not hide how its events ended.
3. All functions together have at most `PENDING_BYTES_MAX` in memory, and as much again with the thread.
"""

import asyncio
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from core.telemetry import Counters, get_logger
from functions.errors import FunctionNotFound

log = get_logger("functions.logs")

FLUSH_SECONDS = 0.2  # one small write for many lines; what `logs -f` shows is never older
LINE_BYTES_MAX = 64 << 10  # of one message; longer lines are cut into several
BYTES_PER_SECOND = 128 << 10  # a thousand lines a second; twice as much would wear a small SD card out within a year
BURST_BYTES = 512 << 10  # a traceback storm, or the start of a chatty library
PLATFORM_BYTES_PER_SECOND = 16 << 10  # thirty events' START, END and REPORT, when the handler has used up the rest
PLATFORM_BURST_BYTES = 64 << 10
PENDING_BYTES_MAX = 4 << 20  # while the disk does not take anything
FOLLOW_SECONDS = 0.3  # between two looks at a file that is followed
TAIL_BYTES = 4096  # of X-Amz-Log-Result (Lambda)

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)
# As Python's logging, Node's console and structured loggers begin their lines.
_LEVEL = re.compile(
    rb"""\s*(?:\[|\S+\t\S*\t|\{"level": ?")?(TRACE|DEBUG|INFO|WARN|WARNING|ERROR|CRITICAL|FATAL)[\]\t:" ]"""
)


class Logs:
    """The logs of all functions; made and used on a running event loop."""

    def __init__(self, directory: Path, bytes_max: int, counters: Counters) -> None:
        self._directory = directory
        self._half = max(bytes_max // 2, 2 * LINE_BYTES_MAX)
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._logs: dict[str, FunctionLog] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[None] | None = None
        self._wanted = False
        self._begun: set[str] = set()  # functions whose file this run has written to
        self.pending = 0  # bytes that are not with the thread yet

    def of(self, name: str) -> "FunctionLog":
        """The log of a function, the same for all of its versions."""
        if name not in self._logs:
            self._logs[name] = FunctionLog(self, name)
        return self._logs[name]

    def remove(self, name: str) -> None:
        """Delete the files of a function that was removed."""
        self._logs.pop(name, None)
        for path in _paths(self._directory, name):
            path.unlink(missing_ok=True)

    async def close(self) -> None:
        """Write what is left."""
        for last in (False, True):
            if last:
                self._flush(last=True)
            while self._writing is not None:
                await asyncio.wait([self._writing])
        if self._timer is not None:
            self._timer.cancel()

    def grown(self, size: int) -> None:
        """A log has lines to write, or lost lines to tell of."""
        self.pending += size
        self._wanted = True
        if self._timer is None and self._writing is None:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self._flush)

    def _flush(self, *, last: bool = False) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._writing is not None:  # which will be followed by another
            return
        self._wanted = False
        pieces = {name: piece for name, each in self._logs.items() if (piece := each.take(self._counters, last=last))}
        self.pending = 0
        if pieces:
            self._writing = self._loop.run_in_executor(None, self._write, pieces)
            self._writing.add_done_callback(self._written)

    def _written(self, writing: "asyncio.Future[None]") -> None:
        self._writing = None
        error = writing.exception() if not writing.cancelled() else None
        if error is not None:
            log.warning("logs of functions were lost", error=error)
        if self._wanted and self._timer is None and not self._loop.is_closed():
            self._timer = self._loop.call_later(FLUSH_SECONDS, self._flush)

    def _write(self, pieces: dict[str, bytes]) -> None:
        """In the thread."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        for name, whole in pieces.items():
            piece = whole
            older, path = _paths(self._directory, name)
            size = path.stat().st_size if path.exists() else 0
            if size + len(piece) > self._half:
                if size:
                    path.replace(older)
                if len(piece) > self._half:
                    piece = piece[piece.index(b"\n", len(piece) - self._half - 1) + 1 :]
            with open(path, "a+b", opener=_private) as file:
                if size and name not in self._begun and not _ends_a_line(file):
                    file.write(b"\n")
                file.write(piece)
            self._begun.add(name)


class FunctionLog:
    """The log of one function: lines are admitted or dropped here, and wait here for the thread."""

    __slots__ = ("_allowance", "_at", "_dropped", "_dropped_bytes", "_lines", "_logs", "_name", "_reserve")

    def __init__(self, logs: Logs, name: str) -> None:
        self._logs = logs
        self._name = name
        self._lines: list[bytes] = []
        self._allowance = float(BURST_BYTES)
        self._reserve = float(PLATFORM_BURST_BYTES)  # for platform lines, when there is no allowance
        self._at = time.monotonic()
        self._dropped = 0
        self._dropped_bytes = 0

    def has_room(self) -> bool:
        """Whether a line would be kept now."""
        now = time.monotonic()
        past, self._at = now - self._at, now
        self._allowance = min(BURST_BYTES, self._allowance + past * BYTES_PER_SECOND)
        self._reserve = min(PLATFORM_BURST_BYTES, self._reserve + past * PLATFORM_BYTES_PER_SECOND)
        return self._allowance > 0 and self._logs.pending < PENDING_BYTES_MAX

    def write(self, request_id: str, stream: str, message: bytes, version: str) -> None:
        """Add a line, or count it as dropped."""
        from_reserve = not self.has_room()
        if from_reserve and (stream != "platform" or self._reserve <= 0 or self._logs.pending >= PENDING_BYTES_MAX):
            self.drop(1, len(message))
            return
        line: dict[str, str] = {"time": stamp(time.time()), "requestId": request_id, "stream": stream}
        found = _LEVEL.match(message, 0, 100) if stream != "platform" else None
        if found is not None:
            line["level"] = found[1].decode()
        line["message"] = message[:LINE_BYTES_MAX].decode("utf-8", "replace")
        line["version"] = version
        self._add(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE), from_reserve=from_reserve)

    def drop(self, lines: int, size: int) -> None:
        """Count lines that are not kept."""
        if not self._dropped:
            self._logs.grown(0)  # so that somebody tells of it
        self._dropped += lines
        self._dropped_bytes += size

    def take(self, counters: Counters, *, last: bool = False) -> bytes:
        """What gathered for the files."""
        if self._dropped and not last and not self.has_room():
            self._logs.grown(0)
        elif self._dropped:
            text = f"{self._dropped:,} lines ({self._dropped_bytes:,} bytes) were not kept: too much was written"
            line = {"time": stamp(time.time()), "requestId": "", "stream": "platform", "level": "WARN",
                    "message": text, "version": ""}  # fmt: skip
            counters.add("function_log_lines_dropped_total", self._dropped)
            self._dropped = self._dropped_bytes = 0
            self._add(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        lines, self._lines = self._lines, []
        return b"".join(lines)

    def _add(self, line: bytes, *, from_reserve: bool = False) -> None:
        if from_reserve:
            self._reserve -= len(line)
        else:
            self._allowance -= len(line)
        self._lines.append(line)
        self._logs.grown(len(line))


@dataclass(slots=True)
class _Second:
    """The text of the second that was asked for last: formatting it for each line would cost more than the rest."""

    seconds: int = -1
    text: str = ""


_second = _Second()


def stamp(now: float) -> str:
    """Seconds since the epoch as Lambda writes them: 2026-05-09T07:29:33.186Z."""
    seconds = int(now)
    if seconds != _second.seconds:
        _second.text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        _second.seconds = seconds
    return f"{_second.text}.{int((now - seconds) * 1e3):03}Z"


def read(
    directory: Path, name: str, *, since: float = 0.0, request_id: str = "", version: str = "", follow: bool = False
) -> Iterator[dict[str, Any]]:
    """The lines of a function as written, oldest first; with `follow` what is written from now on too, for ever.

    `since` is seconds since the epoch, `request_id` may be the beginning of one, `version` is a number. For commands:
    it reads files and sleeps. Messages are a function's own words and may hold anything: make them printable before a
    terminal sees them.
    Raises FunctionNotFound where nothing was ever logged, unless it is followed.
    """
    older, path = _paths(directory, name)
    if not follow and not older.exists() and not path.exists():
        raise FunctionNotFound(f"nothing was logged by a function {name!r} in {directory}")
    after = stamp(since) if since else ""
    for raw in _lines(older, path, follow=follow):
        with suppress(orjson.JSONDecodeError):  # a power cut may leave half a line
            line = orjson.loads(raw)
            is_wanted = isinstance(line, dict) and line.get("time", "") >= after
            if is_wanted and version and line.get("version") != version:
                continue
            if is_wanted and str(line.get("requestId", "")).startswith(request_id):
                yield line


def _lines(older: Path, path: Path, *, follow: bool) -> Iterator[bytes]:
    with suppress(FileNotFoundError), older.open("rb") as file:
        yield from file
    while True:
        moved = not follow
        with suppress(FileNotFoundError), path.open("rb") as file:
            rest = b""
            while True:
                for raw in file:
                    rest += raw
                    if rest.endswith(b"\n"):
                        yield rest
                        rest = b""
                if moved:  # looked at before the last reading, so nothing of it is missed
                    break
                moved = _is_moved(file, path)
                if not moved:
                    time.sleep(FOLLOW_SECONDS)
        if not follow:
            return
        time.sleep(FOLLOW_SECONDS)


def _ends_a_line(file: BinaryIO) -> bool:
    """Whether the last run was not cut off in the middle of a write."""
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _is_moved(file: BinaryIO, path: Path) -> bool:
    try:
        return path.stat().st_ino != os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return True


def _paths(directory: Path, name: str) -> tuple[Path, Path]:
    if not _NAME.fullmatch(name):
        raise FunctionNotFound(f"{name[:200]!r} is no name of a function")
    return directory / f"{name}.1.jsonl", directory / f"{name}.jsonl"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o640)
