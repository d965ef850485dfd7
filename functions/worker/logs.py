"""Python's logging as Lambda sets it up: one handler on the root logger, with the request id in each line.

    [LEVEL] TAB 2026-03-01T12:00:00.123Z TAB request id TAB message

AWS_LAMBDA_LOG_LEVEL sets the root logger's level, AWS_LAMBDA_LOG_FORMAT=JSON gives an object per line. `request_id` is
the id of the event in hand, or of the last one.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from contextlib import suppress

request_id = ""

_JSON = os.environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON"
_TIME = "%Y-%m-%dT%H:%M:%S"
_INDENT = "\u00a0"  # NO-BREAK SPACE in the place of a space, CR in that of LF: a traceback is one record of the log
_OWN_FIELDS = set(logging.makeLogRecord({}).__dict__) | {"aws_request_id", "taskName", "message", "asctime"}


class Handler(logging.Handler):
    """Records to sys.stdout, whatever that is at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; an error of its formatting is the caller's, as on Lambda."""
        record.aws_request_id = request_id
        sys.stdout.write(self.format(record))


class JsonFormatter(logging.Formatter):
    """One object per record, with Lambda's members; a member without a value is left out."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        kind, error, trace = record.exc_info if isinstance(record.exc_info, tuple) else (None, None, None)
        is_structured = isinstance(record.msg, dict) and not record.args
        members = {
            "timestamp": self.formatTime(record, _TIME + "Z"),
            "level": logging.getLevelName(min(50, max(0, record.levelno)) // 10 * 10),
            "message": record.msg if is_structured else record.getMessage(),
            "logger": record.name,
            "stackTrace": traceback.format_tb(trace) if kind else None,
            "errorType": kind.__name__ if kind else None,
            "errorMessage": str(error) if kind else None,
            "requestId": request_id,
            "location": f"{record.pathname}:{record.funcName}:{record.lineno}" if kind else None,
        }
        for name, value in record.__dict__.items():
            if name not in _OWN_FIELDS:
                members.setdefault(name, value)
        return _line({name: value for name, value in members.items() if value is not None})


def install() -> None:
    """Set the root logger up, before the handler's module is imported."""
    logging.Formatter.converter = time.gmtime
    line = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n"
    to_stdout = Handler()
    to_stdout.setFormatter(JsonFormatter() if _JSON else logging.Formatter(line, _TIME))
    root = logging.getLogger()
    root.addHandler(to_stdout)
    level = os.environ.get("AWS_LAMBDA_LOG_LEVEL", "").upper()
    level = "DEBUG" if level == "TRACE" else level
    if level in ("DEBUG", "INFO", "WARN", "WARNING", "ERROR", "FATAL", "CRITICAL", "NOTSET"):
        root.setLevel(level)


def write_error(document: dict[str, object]) -> None:
    """Show an error object in the log as Lambda does."""
    with suppress(AttributeError, ValueError):  # of a handler that took sys.stdout away or closed it
        sys.stdout.write(_error_text(document))


def _error_text(document: dict[str, object]) -> str:
    if _JSON:
        return _line({"timestamp": time.strftime(_TIME + "Z", time.gmtime()), "level": "ERROR", **document})
    said = ": ".join(str(part) for part in (document["errorType"], document["errorMessage"]) if part)
    lines = [f"[ERROR] {said}", "Traceback (most recent call last):"]
    for entry in document["stackTrace"]:  # type: ignore[attr-defined]  # a list of texts
        for text in entry.splitlines():
            bare = text.lstrip(" ")
            lines.append(_INDENT * (len(text) - len(bare)) + bare)
    return "\r".join(lines) + "\n"


def _line(members: dict[str, object]) -> str:
    return json.dumps(members, ensure_ascii=False, default=str) + "\n"
