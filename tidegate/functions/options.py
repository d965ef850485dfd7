"""What the commands of `tidegate functions` share: whose functions are meant, and how its daemon is asked."""

import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import cloud.config
import edge.config
from core import control
from core.config import RulesSection
from core.errors import ConfigurationError, TidegateError
from functions.config import FunctionsSection
from functions.names import LATEST, FunctionName
from functions.packages.library import Library
from rules.files.arns import Account
from tidegate.rules.options import RUNS, Side

DEFAULT_CONFIG = Path("/etc/tidegate/edge.toml")
CONTROL_FILE = "control.sock"
HTTP_FILE = "http.sock"

Config = Annotated[Path, typer.Option("--config", help="Path of edge.toml or cloud.toml.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A function, or NAME:7, NAME:live.")]
Whole = Annotated[str, typer.Argument(metavar="NAME", help="A function.")]


@dataclass(frozen=True, slots=True)
class Site:
    """What these commands need of an edge's or a cloud's configuration."""

    side: Side
    data_dir: Path
    functions: FunctionsSection
    rules: RulesSection | None

    @property
    def library(self) -> Library:
        """What is deployed."""
        return Library(self.functions.directory)

    @property
    def account(self) -> Account:
        """Whose names and ARNs are meant."""
        return Account(account_id=self.rules.account) if self.rules is not None else Account()

    @property
    def actions(self) -> frozenset[str]:
        """The rule actions that this side runs."""
        return RUNS[self.side]

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Ask the daemon. Raises TidegateError when it does not run, or refuses."""
        return control.request(self.data_dir / CONTROL_FILE, command, **arguments)

    def tell(self) -> str:
        """Make a running daemon look at what has changed; what people are told of that."""
        try:
            self.ask("functions-changed")
        except (TidegateError, OSError) as error:
            return f"the daemon was not told, so its next start will see it: {error}"
        return "the daemon knows"


def whole(name: str, instead: str) -> str:
    """The name of a function with all its versions; with a version or an alias, says what to write `instead`.

    Raises InvalidParameter, BadParameter.
    """
    function = FunctionName.parse(name)
    if function.qualifier != LATEST or name.endswith(LATEST):
        raise typer.BadParameter(f"{name!r} is one version of {function.name}; write {instead.format(function.name)}")
    return function.name


def load_site(config: Path) -> Site:
    """Read edge.toml or cloud.toml, whichever the file is by its tables. Raises ConfigurationError."""
    tables: Mapping[str, Any] = {}
    with suppress(OSError, ValueError):  # `load` says better what is wrong
        tables = tomllib.loads(config.read_text())
    if "cloud" in tables:
        of_cloud = cloud.config.load(config)
        return Site(Side.CLOUD, of_cloud.cloud.data_dir, _section(of_cloud.functions, config), of_cloud.rules)
    of_edge = edge.config.load(config)
    return Site(Side.EDGE, of_edge.edge.data_dir, _section(of_edge.functions, config), of_edge.rules)


def _section(section: FunctionsSection | None, config: Path) -> FunctionsSection:
    if section is None:
        wanted = 'write [functions] and directory = "/var/lib/tidegate-functions", see docs/functions.md'
        raise ConfigurationError(str(config), [f"has no functions; {wanted}"])
    return section
