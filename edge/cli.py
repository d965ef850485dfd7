"""`tidegate edge` and `tidegate buffer`: check a configuration, ask a running edge how it is, look into its buffer."""

import sqlite3
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import typer

from core import blocks
from core.cli import Json, errors_to_exit_codes, print_facts, print_rows, print_status
from core.config import client_context
from core.control import request
from core.reader import reading
from devices import gatekeeper, reception
from edge import chunks
from edge.config import load
from edge.daemon import BUFFER_FILE, CONTROL_FILE, load_rules

app = typer.Typer(no_args_is_help=True, help="The daemon on the box.")
buffer_app = typer.Typer(no_args_is_help=True, help="What an edge holds for the cloud, running or not.")

Config = Annotated[Path, typer.Option("--config", help="Path of edge.toml.")]
DEFAULT_CONFIG = Path("/etc/tidegate/edge.toml")


@app.command()
def check(config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Check the configuration, its certificates, policies and rules, and change nothing."""
    with errors_to_exit_codes():
        loaded = load(config)
        rules = load_rules(loaded)
        doors = [loaded.http.listener] if loaded.http is not None and loaded.http.listener is not None else []
        gatekeeper.check(loaded.devices, [*loaded.listeners, *doors])
        reception.check(loaded.http)
        if loaded.uplink is not None and loaded.uplink.secure:
            client_context(loaded.uplink.tls)
    found = [*gatekeeper.warnings(loaded.listeners), *reception.warnings(loaded.http)]
    warnings = {"warnings": found} if found else {}
    facts = {"config": str(config), "edge": loaded.edge.name, "rules": len(rules), "ok": True}
    print_facts(facts | warnings, as_json=as_json)


@app.command()
def status(config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """What the running edge does: clients, link, lanes, rules, counters."""
    with errors_to_exit_codes():
        facts = request(load(config).edge.data_dir / CONTROL_FILE, "status")
    print_status(facts, ("lanes", "rules"), as_json)


@app.command()
def clients(config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Who is connected to the running edge now."""
    with errors_to_exit_codes():
        found = request(load(config).edge.data_dir / CONTROL_FILE, "clients")["clients"]
    print_rows(found, as_json=as_json)


# -- tidegate buffer --------------------------------------------------------------------------------------------------


def _buffer(config: Path) -> AbstractContextManager[sqlite3.Connection]:
    return reading(load(config).edge.data_dir / BUFFER_FILE)


@buffer_app.command("status")
def buffer_status(config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """What each lane holds: messages, bytes, and since when."""
    with errors_to_exit_codes(), _buffer(config) as connection:
        rows = chunks.totals(connection)
    print_rows(rows, as_json=as_json)


@buffer_app.command("peek")
def buffer_peek(
    lane: Annotated[str, typer.Argument(help="Name of the lane.")],
    config: Config = DEFAULT_CONFIG,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Messages to show, the oldest first.")] = 20,
    as_json: Json = False,
) -> None:
    """Show messages that wait in a lane, and leave them there."""
    with errors_to_exit_codes(), _buffer(config) as connection:
        found = chunks.peek(connection, lane, limit)
    rows: list[dict[str, Any]] = []
    for chunk in found:
        for offset, message in enumerate(blocks.decode(chunk.block)):
            heard = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(message.received_at / 1_000))
            payload = message.payload.decode("utf-8", "backslashreplace")
            row = {"sequence": chunk.first + offset, "heard": heard, "topic": message.topic, "payload": payload}
            rows.append(row)
    print_rows(rows[:limit], as_json=as_json)
