"""How commands speak to people: a table or one JSON document on standard output, errors on standard error.

Imports rich, so a running daemon never imports this module.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Protocol

import orjson
import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from core.errors import ConfigurationError, TidegateError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CONFIGURATION = 78  # EX_CONFIG of sysexits.h; the systemd units do not restart on it

PIPE_COLUMNS = 160  # a file or a pipe has no width; wide enough that rows stay on a line


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()  # None: the shell closed it


# No markup and no emoji: what is printed comes from devices, and may hold brackets and colons of its own.
out = Console(highlight=False, markup=False, emoji=False, width=None if _is_terminal() else PIPE_COLUMNS)
err = Console(stderr=True, highlight=False, markup=False, emoji=False)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]


class Placed(Protocol):
    """A fault that says where it stands; `excerpt` is that line and, below it, a caret under the column."""

    @property
    def excerpt(self) -> str: ...


@contextmanager
def errors_to_exit_codes() -> Iterator[None]:
    """Turn a TidegateError into its message on standard error and the documented exit code.

    Of a ConfigurationError that has `found`, faults that say where they stand, each is shown in its line.
    """
    try:
        yield
    except ConfigurationError as error:
        found: Iterable[Placed] = getattr(error, "found", ())
        for fault in found:
            print_fault(fault, "red")
        if not found:
            err.print(_lines(error), style="red", soft_wrap=True)
        raise typer.Exit(EXIT_CONFIGURATION) from None
    except (TidegateError, OSError) as error:
        err.print(f"tidegate: {_lines(error)}", style="red", soft_wrap=True)
        raise typer.Exit(EXIT_FAILED) from None


def print_fault(fault: Placed, style: str) -> None:
    """Print a fault on standard error, with the line that it is in and a caret under its character."""
    err.print(plain(str(fault)), style=style, soft_wrap=True)
    if fault.excerpt:
        line, _, caret = fault.excerpt.partition("\n")
        before = line[: len(caret) - 1].ljust(len(caret) - 1)
        err.print(plain(line), soft_wrap=True)
        err.print(f"{' ' * cell_len(plain(before))}^", soft_wrap=True)


def plain(text: str) -> str:
    """The text without what a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def write(content: bytes) -> None:
    """Write to standard output, if there is one."""
    if sys.stdout is not None:
        sys.stdout.buffer.write(content)
        sys.stdout.flush()


def print_json(document: Any) -> None:
    """Write one JSON document and a newline to standard output."""
    write(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def print_rows(rows: Iterable[Mapping[str, Any]], *, title: str = "", as_json: bool = False) -> None:
    """Print rows that share their keys: as a JSON array, or as a table with the keys as its head."""
    listed = list(rows)
    if as_json:
        print_json(listed)
        return
    table = Table(title=title or None, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for key in listed[0] if listed else ():
        right = isinstance(listed[0][key], int | float)
        table.add_column(key.replace("_", " "), justify="right" if right else "left", overflow="fold")
    for row in listed:
        table.add_row(*(_cell(value) for value in row.values()))
    out.print(table if listed else "nothing to show")


def print_facts(facts: Mapping[str, Any], *, title: str = "", as_json: bool = False) -> None:
    """Print one mapping: as a JSON object, or as a table of two columns."""
    if as_json:
        print_json(facts)
        return
    table = Table(title=title or None, title_justify="left", box=None, show_header=False, pad_edge=False)
    for key, value in facts.items():
        table.add_row(key.replace("_", " "), _cell(value))
    out.print(table)


def print_status(facts: dict[str, Any], tables: tuple[str, ...], as_json: bool) -> None:
    """Print a daemon's status: its facts, those of its facts that are tables, its counters."""
    if as_json:
        print_json(facts)
        return
    print_facts({key: value for key, value in facts.items() if key not in (*tables, "counters")})
    for name in tables:
        if facts[name]:
            out.print()
            print_rows(facts[name], title=name)
    out.print()
    print_facts(facts["counters"], title="counters")


def _cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.2f}"
        case list():
            return ", ".join(map(str, value))
        case dict():
            return ", ".join(f"{key} {_cell(one)}" for key, one in value.items())
        case _:
            return plain(str(value))  # a control character from a device must not reach the terminal


def _lines(error: Exception) -> str:
    return "\n".join(map(plain, str(error).split("\n")))
