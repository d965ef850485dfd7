"""[functions]: where deployed functions are, and what all of them together may take. See docs/functions.md."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from core.config import ConfigPath, Duration, Section, Size

LOGS = Path("functions", "logs")  # below the daemon's data directory


class FunctionsSection(Section):
    """The table, shared by edge.toml and cloud.toml.

    `launcher` is the socket of the launcher unit; without it the daemon starts a launcher itself. `sandbox` says what
    happens where layers are missing: "required" refuses to run without bubblewrap, "default" needs something that
    keeps the daemon's files away (bubblewrap, Landlock or another user), "off" is for development. `secrets` is a
    directory of secrets for `environment_secrets` and for handlers that ask. `idle` is how long a worker is kept warm.
    """

    directory: ConfigPath
    launcher: ConfigPath | None = None
    sandbox: Literal["required", "default", "off"] = "default"
    secrets: ConfigPath | None = None
    idle: Duration = 300.0
    max_workers: Annotated[int, Field(ge=1, le=256)] = 32
    queue_bytes: Size = 64 << 20  # queued events are in memory too, and a small box has 1 GB
    log_bytes: Size = 4 << 20  # of each function, in two files
