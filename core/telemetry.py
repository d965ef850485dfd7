"""What a process tells about itself: counters for machines, one log line per event for people.

Counters are plain integers under one grammar of names, cheap enough to touch once per batch. Log lines are
`time level event key=value …`; under systemd the journal adds the time, and the line starts with its priority
instead (sd-daemon(3)). Nothing here is exported: `status` and the HTTP side read the snapshot.

Will not decide what is worth counting, nor sample, nor keep history.

Invariants:
1. A counter never falls, and at most `SERIES_MAX` exist: labels are our words (a listener, a reason), never a
   client's.
2. One event writes at most `LINES_PER_MINUTE` lines a minute, whatever a client does; the next line says how
   many it stands for.
3. A value from outside cannot start a new line or move a terminal's cursor.
"""

import json
import logging
import os
import re
import sys
import time
from typing import TextIO

SERIES_MAX = 2_000  # about 0.5 MB; a site has tens of listeners, lanes and targets with tens of reasons each
LINES_PER_MINUTE = 20  # enough to see a pattern, too few to push older news out of a small journal
EVENTS_MAX = 1_000  # event names are constants in the code; the bound is for libraries that build theirs
VALUE_CHARS_MAX = 500  # a topic or an error fits; a payload does not belong in a log

_COUNTER_NAME = re.compile(r"[a-z][a-z0-9_]*_total")
_PLAIN = re.compile(r"[^\s\"'=\\]+")
_REFUSED = "counters_refused_total"
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Counters:
    """Everything one process counts. For the event loop's thread only: no locks.

    Names are `snake_case` and end in `_total`; a series is written as Prometheus does: `name{label="value"}`.
    """

    def __init__(self) -> None:
        self._values: dict[str | tuple[str, ...], int] = {}

    def add(self, name: str, n: int = 1, /, **labels: str) -> None:
        """Add `n` to a counter. Raises ValueError for a name outside the grammar or a negative `n`."""
        key = (name, *(part for pair in sorted(labels.items()) for part in pair)) if labels else name
        if n < 0:
            raise ValueError(f"counter {name}: {n} is negative; a counter never falls")
        if key not in self._values:
            if not _COUNTER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no counter's name: snake_case, ending in _total")
            if len(self._values) >= SERIES_MAX:
                key = _REFUSED
            self._values.setdefault(key, 0)
        self._values[key] += n

    def dropped(self, reason: str, n: int = 1, /, **labels: str) -> None:
        """Count `n` messages that are lost for good, under `dropped_total`; every loss comes through here."""
        self.add("dropped_total", n, reason=reason, **labels)

    def value(self, name: str, /, **labels: str) -> int:
        """The sum of every series of `name` that carries these labels; 0 when there is none."""
        wanted = labels.items()
        series = [(_labels(key), n) for key, n in self._values.items() if _name(key) == name]
        return sum(n for labels, n in series if wanted <= labels.items())

    def snapshot(self) -> dict[str, int]:
        """Every series and its value, sorted by name: `{'dropped_total{reason="lane full"}': 3, …}`."""
        return dict(sorted((_series(key), n) for key, n in self._values.items()))


def _name(key: str | tuple[str, ...]) -> str:
    return key if isinstance(key, str) else key[0]


def _labels(key: str | tuple[str, ...]) -> dict[str, str]:
    return {} if isinstance(key, str) else dict(zip(key[1::2], key[2::2], strict=True))


def _series(key: str | tuple[str, ...]) -> str:
    labels = [f"{label}={json.dumps(value, ensure_ascii=False)}" for label, value in _labels(key).items()]
    return f"{_name(key)}{{{','.join(labels)}}}" if labels else _name(key)


class Log:
    """A part's log: `log.warning("client refused", client=client_id, reason="no certificate")`.

    The event is a constant that can be searched for; what varies is a fact. Facts keep the order given.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, /, **facts: object) -> None:
        """For the one who looks for a fault; never limited, off unless asked for."""
        self._write(logging.DEBUG, event, facts)

    def info(self, event: str, /, **facts: object) -> None:
        """Something an operator wants to find afterwards."""
        self._write(logging.INFO, event, facts)

    def warning(self, event: str, /, **facts: object) -> None:
        """Something was refused, lost or retried; the process copes."""
        self._write(logging.WARNING, event, facts)

    def error(self, event: str, /, **facts: object) -> None:
        """Something does not work until a person acts."""
        self._write(logging.ERROR, event, facts)

    def fault(self, event: str, error: BaseException, /, **facts: object) -> None:
        """A fault of ours: an error with its traceback."""
        self._write(logging.ERROR, event, facts, error)

    def _write(
        self, level: int, event: str, facts: dict[str, object], error: BaseException | None = None
    ) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, exc_info=error, extra={"facts": facts})


def get_logger(name: str) -> Log:
    """The log of one part, named after its module: `edge.uplink`."""
    return Log(name)


def configure_logging(level: str = "info", stream: TextIO | None = None) -> None:
    """Send every log line at or above `level` (debug, info, warning, error) to `stream`, else standard error.

    Libraries that use `logging` come out in the same form. Calling it again replaces what was there before.
    """
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Line(journal=_is_journal(stream)))
    handler.addFilter(_Limit())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(_LEVELS[level])


def _is_journal(stream: TextIO) -> bool:
    """Whether the journal reads this stream: JOURNAL_STREAM names its device and inode (systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # a stream without a file behind it
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class RateLimit:
    """At most `LINES_PER_MINUTE` lines per event and minute. Pure: `now` is seconds on a monotonic clock."""

    def __init__(self) -> None:
        self._windows: dict[str, tuple[float, int]] = {}  # event → start of its minute, lines asked for since

    def admit(self, event: str, now: float) -> tuple[bool, dict[str, object]]:
        """Whether to write this line, and the facts to add: that a gap begins, or how many lines it held."""
        start, asked = self._windows.get(event, (now, 0))
        suppressed = 0
        if now - start >= 60:
            start, asked, suppressed = now, 0, max(0, asked - LINES_PER_MINUTE)
        if len(self._windows) >= EVENTS_MAX and event not in self._windows:
            self._windows.clear()
        self._windows[event] = (start, asked + 1)
        facts: dict[str, object] = {"suppressed": suppressed} if suppressed else {}
        if asked + 1 == LINES_PER_MINUTE:
            facts["further"] = "suppressed"
        return asked < LINES_PER_MINUTE, facts


class _Limit(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._limit = RateLimit()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno <= logging.DEBUG:
            return True
        admitted, more = self._limit.admit(f"{record.name} {record.msg}", time.monotonic())
        if more:
            record.__dict__["facts"] = {**getattr(record, "facts", {}), **more}
        return admitted


class _Line(logging.Formatter):
    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        facts = {**getattr(record, "facts", {}), "part": record.name}
        event = _printable(record.getMessage().replace("\n", " "))
        line = " ".join([record.levelname.lower(), event, *(f"{key}={_value(facts[key])}" for key in facts)])
        if record.exc_info and record.exc_info[0] is not None:
            trace = self.formatException(record.exc_info)
            line += "".join(f"\n    {_printable(text)}" for text in trace.splitlines())
        if self._journal:  # every line of a traceback needs the priority, or the journal gives it another
            return "\n".join(f"<{_PRIORITIES.get(record.levelno, 6)}>{text}" for text in line.split("\n"))
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{stamp}.{int(record.msecs):03}Z {line}"


def _printable(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)[1:-1].replace("\x7f", "\\u007f")


def _value(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:.6g}"
        case bytes():
            text = value.decode("utf-8", "backslashreplace")
        case _:
            text = str(value)
    if len(text) > VALUE_CHARS_MAX:
        text = text[:VALUE_CHARS_MAX] + "…"
    if _PLAIN.fullmatch(text) and text.isprintable():
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable()).replace("\x7f", "\\u007f")
