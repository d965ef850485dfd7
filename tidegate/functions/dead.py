"""`tidegate functions dead`: events that no attempt could handle, and what becomes of them.

The daemon owns them; these commands ask it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from core.cli import Json, errors_to_exit_codes, out, print_facts, print_rows
from core.errors import TidegateError
from tidegate.functions.listing import time_of
from tidegate.functions.options import DEFAULT_CONFIG, Config, load_site

LISTED = 100

app = typer.Typer(no_args_is_help=True, help="Events that could not be handled: look at them, replay or drop them.")

Function = Annotated[str, typer.Option("--function", help="Only those of this function.")]
Ids = Annotated[list[int] | None, typer.Argument(metavar="ID…", help="Numbers, as `list` shows them.")]
All = Annotated[bool, typer.Option("--all", help="All of them, or with --function all of one function.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many, the oldest first.")]


@app.command("list")
def list_dead(
    function: Function = "", limit: Limit = LISTED, config: Config = DEFAULT_CONFIG, as_json: Json = False
) -> None:
    """The events that were given up, and why."""
    with errors_to_exit_codes():
        found = load_site(config).ask("functions-dead-list", function=function or None, limit=limit)["dead"]
    print_rows(found if as_json else map(_told, found), as_json=as_json)


@app.command("show")
def show_dead(
    number: Annotated[int, typer.Argument(metavar="ID")], config: Config = DEFAULT_CONFIG, as_json: Json = False
) -> None:
    """One event with its payload and the error that ended it."""
    with errors_to_exit_codes():
        found = load_site(config).ask("functions-dead-show", id=number)
    print_facts(found if as_json else _told(found), as_json=as_json)


@app.command("replay")
def replay_dead(
    ids: Ids = None, every: All = False, function: Function = "", config: Config = DEFAULT_CONFIG, as_json: Json = False
) -> None:
    """Put events back into the queue of their function, with all their attempts before them."""
    _change("replay", ids, every, function, config, as_json)


@app.command("drop")
def drop_dead(
    ids: Ids = None, every: All = False, function: Function = "", config: Config = DEFAULT_CONFIG, as_json: Json = False
) -> None:
    """Delete events for good."""
    _change("drop", ids, every, function, config, as_json)


def _told(letter: dict[str, Any]) -> dict[str, Any]:
    """A dead letter for people: times as such."""
    return {**letter, "at": time_of(letter["at"]), "enqueued": time_of(letter["enqueued"])}


def _change(verb: str, ids: list[int] | None, every: bool, function: str, config: Path, as_json: bool) -> None:
    with errors_to_exit_codes():
        if bool(ids) == every:
            raise typer.BadParameter("name ids, as `list` shows them, or say --all")
        answer = load_site(config).ask(f"functions-dead-{verb}", ids=ids, function=function or None)
        missing = answer["missing"] if ids else ()  # with --all, somebody else was quicker
        if as_json:
            print_facts(answer, as_json=True)
        elif answer["count"] or not ids:
            done = "back in the queue" if verb == "replay" else "deleted"
            out.print(f"{_those(sorted(set(ids or ()) - set(missing)), answer['count'])} {done}", soft_wrap=True)
        if missing:
            raise TidegateError(f"{_those(missing, len(missing))} not among the dead events; `dead list` shows them")


def _those(ids: Sequence[int], count: int) -> str:
    """The subject of a sentence: the ids that were named, or how many there were."""
    return f"{', '.join(map(str, ids)) or f'{count:,} events'} {'is' if len(ids) == 1 else 'are'}"
