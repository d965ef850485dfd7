"""The command line: one typer application, put together from those of the parts."""

import sys

import typer

from cloud import cli as cloud_cli
from edge import cli as edge_cli
from tidegate import daemons, demo, devices, explain, rules, targets

app = typer.Typer(
    name="tidegate",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="An edge-to-cloud gateway for MQTT devices, with its cloud side included.",
)
app.command("demo")(demo.demo)
app.add_typer(edge_cli.app, name="edge")
app.add_typer(cloud_cli.app, name="cloud")
app.add_typer(rules.app, name="rules")
app.add_typer(devices.app, name="devices")
devices.app.command("explain")(explain.explain)
app.add_typer(edge_cli.buffer_app, name="buffer")
app.add_typer(targets.tables, name="tables")
app.add_typer(targets.streams, name="streams")
app.add_typer(targets.alerts, name="alerts")

_DAEMON = {"ignore_unknown_options": True, "allow_extra_args": True}


@edge_cli.app.command("run", context_settings=_DAEMON)
def run_edge() -> None:
    """Run the edge daemon in the foreground: --config PATH, --log-level LEVEL."""
    raise typer.Exit(daemons.run("edge", sys.argv[3:]))


@cloud_cli.app.command("run", context_settings=_DAEMON)
def run_cloud() -> None:
    """Run the cloud daemon in the foreground: --config PATH, --log-level LEVEL."""
    raise typer.Exit(daemons.run("cloud", sys.argv[3:]))
