"""The command line: one typer application, put together from those of the parts.

A command loads its own part only: the libraries of all of them take half a second here, and four times that on a box.
"""

import sys
from importlib import import_module

import typer

GROUPS = {  # in the order of the help
    "edge": "edge.cli:app",
    "cloud": "cloud.cli:app",
    "rules": "tidegate.rules:app",
    "functions": "tidegate.functions:app",
    "devices": "tidegate.devices:app",
    "buffer": "edge.cli:buffer_app",
    "tables": "tidegate.targets:tables",
    "streams": "tidegate.targets:streams",
    "alerts": "tidegate.targets:alerts",
}

_DAEMON = {"ignore_unknown_options": True, "allow_extra_args": True}


def application(wanted: str) -> typer.Typer:
    """The command line as far as the command `wanted` needs it; all of it when there is no such command."""
    app = typer.Typer(
        name="tidegate",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        help="An edge-to-cloud gateway for MQTT devices, with its cloud side included.",
    )
    app.callback()(lambda: None)  # so that one group alone stays a group
    groups = [wanted] if wanted in GROUPS else list(GROUPS)
    if groups != [wanted]:
        app.command("demo")(import_module("tidegate.demo").demo)
    for name in groups:
        module, attribute = GROUPS[name].split(":")
        group: typer.Typer = getattr(import_module(module), attribute)
        if name == "devices":
            group.command("explain")(import_module("tidegate.explain").explain)
        elif name in ("edge", "cloud"):
            group.command("run", context_settings=_DAEMON)(run_edge if name == "edge" else run_cloud)
        app.add_typer(group, name=name)
    return app


def run_edge() -> None:
    """Run the edge daemon in the foreground: --config PATH, --log-level LEVEL."""
    _run("edge")


def run_cloud() -> None:
    """Run the cloud daemon in the foreground: --config PATH, --log-level LEVEL."""
    _run("cloud")


def _run(side: str) -> None:
    raise typer.Exit(import_module("tidegate.daemons").run(side, sys.argv[3:]))
