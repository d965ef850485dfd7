"""`tidegate functions logs`: what functions wrote, with the START, END and REPORT lines of their invocations.

Reads the files of `functions.logs` beside the daemon, or without it.
"""

import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import Annotated, Any

import orjson
import typer

from core.cli import errors_to_exit_codes, out, plain, write
from core.errors import TidegateError
from functions import logs
from functions.config import LOGS
from functions.names import LATEST, FunctionName, is_version
from tidegate.functions.options import DEFAULT_CONFIG, Config, Name, Site, load_site

LINES = 100

_AGE = re.compile(r"(\d{1,9})(s|m|h|d)", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_STYLES = {"ERROR": "red", "CRITICAL": "red", "FATAL": "red", "WARN": "yellow", "WARNING": "yellow"}


def show_logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
    number: Annotated[int, typer.Option("--lines", "-n", min=0, max=1_000_000, help="The newest lines.")] = LINES,
    since: Annotated[str, typer.Option(help="Only younger ones: 10m, 2h, 3d, or a time in ISO 8601.")] = "",
    request: Annotated[str, typer.Option(help="Only those of this request id, or of ids that begin so.")] = "",
    config: Config = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines as they are kept: JSON, one each.")] = False,
) -> None:
    """What a function wrote, oldest first; NAME:7 for one version of it."""
    with errors_to_exit_codes():
        site, asked = load_site(config), FunctionName.parse(name)
        function, version = asked.name, _version(site, asked)
        directory, begin = site.data_dir / LOGS, _since(since)
        newest: Iterable[dict[str, Any]] = ()
        try:
            found = logs.read(directory, function, since=begin, request_id=request, version=version)
            newest = deque(found, maxlen=number)
        except TidegateError:
            if not follow:
                site.library.aliases(function)  # says better that there is no such function
        for line in newest:
            _print(line, as_json)
        if follow:
            follower = partial(logs.read, directory, function, request_id=request, version=version, follow=True)
            _follow(follower, list(newest), as_json)


def _version(site: Site, asked: FunctionName) -> str:
    """The number of the version whose lines are wanted; "" for those of all. Raises FunctionNotFound for an alias."""
    if asked.qualifier == LATEST:
        return ""
    return asked.qualifier if is_version(asked.qualifier) else str(site.library.find(asked).manifest.version)


def _follow(
    follower: Callable[..., Iterator[dict[str, Any]]], shown: list[dict[str, Any]], as_json: bool
) -> None:
    """Print what comes after the lines that were shown, until somebody presses Ctrl-C."""
    after = shown[-1]["time"] if shown else ""
    known = [line for line in shown if line["time"] == after]  # of the last millisecond, which may have more
    begin = _seconds(after) if after else time.time()
    try:
        for line in follower(since=begin):
            if line in known:
                known.remove(line)
            else:
                _print(line, as_json)
    except KeyboardInterrupt:
        return


def _since(text: str) -> float:
    """Seconds since the epoch; 0 for everything. Raises BadParameter."""
    if not text:
        return 0.0
    if age := _AGE.fullmatch(text):
        return time.time() - int(age[1]) * _UNITS[age[2]]
    try:
        return _seconds(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r}: write 10m, 2h, 3d, or a time such as 2026-05-09T07:00:00Z") from None


def _seconds(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return moment.timestamp()  # without a zone: this machine's


def _print(line: dict[str, Any], as_json: bool) -> None:
    if as_json:
        write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        return
    request = f" {str(line.get('requestId', ''))[:8]}" if line.get("requestId") else ""
    style = _STYLES.get(str(line.get("level", "")), "dim" if line.get("stream") == "platform" else "")
    message = str(line.get("message", ""))
    for text in message.split("\r"):  # a traceback is one message, as in Lambda
        out.print(f"{line.get('time', '')}{request} {readable(text)}", style=style, soft_wrap=True)


def readable(text: str) -> str:
    """A line of a log for a terminal: Lambda indents a traceback by NO-BREAK SPACE, and parts of a line by tabs."""
    return plain(text.replace("\t", "  ").replace("\u00a0", " "))
