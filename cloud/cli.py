"""`tidegate cloud`: check a configuration, ask a running cloud how it is."""

from pathlib import Path
from typing import Annotated

import typer

from cloud.config import load
from cloud.daemon import CONTROL_FILE, load_rules
from core.cli import Json, errors_to_exit_codes, print_facts, print_rows, print_status
from core.control import request
from devices import gatekeeper, reception

app = typer.Typer(no_args_is_help=True, help="The service that the boxes sync to.")

Config = Annotated[Path, typer.Option("--config", help="Path of cloud.toml.")]
DEFAULT_CONFIG = Path("/etc/tidegate/cloud.toml")


@app.command()
def check(config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Check the configuration, its certificates, policies and rules, and change nothing."""
    with errors_to_exit_codes():
        loaded = load(config)
        rules = load_rules(loaded)
        doors = [loaded.http.listener] if loaded.http is not None and loaded.http.listener is not None else []
        gatekeeper.check(loaded.devices, [*loaded.listeners, *doors])
        reception.check(loaded.http)
    found = [*gatekeeper.warnings(loaded.listeners), *reception.warnings(loaded.http)]
    warnings = {"warnings": found} if found else {}
    facts = {"config": str(config), "rules": len(rules), "ok": True}
    print_facts(facts | warnings, as_json=as_json)


@app.command()
def status(config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """What the running cloud does: clients, inbox, edges, rules, counters."""
    with errors_to_exit_codes():
        facts = request(load(config).cloud.data_dir / CONTROL_FILE, "status")
    print_status(facts, ("edges", "rules"), as_json)


@app.command()
def clients(config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Who is connected to the running cloud now."""
    with errors_to_exit_codes():
        found = request(load(config).cloud.data_dir / CONTROL_FILE, "clients")["clients"]
    print_rows(found, as_json=as_json)
