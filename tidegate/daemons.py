"""`tidegate edge run` and `tidegate cloud run`: arguments, logging, and the life of a daemon."""

import argparse
import gc
import os
from pathlib import Path

from core import service
from core.telemetry import configure_logging


def run(side: str, arguments: list[str]) -> int:
    """Run the daemon of one side ("edge" or "cloud") and return its exit code: 0, 1, or 78 for its configuration."""
    parser = argparse.ArgumentParser(prog=f"tidegate {side} run", description=f"Run the {side} daemon.")
    parser.add_argument("--config", type=Path, default=Path(f"/etc/tidegate/{side}.toml"), help="path of the TOML file")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    options = parser.parse_args(arguments)
    configure_logging(options.log_level)
    os.environ["RUST_BACKTRACE"] = "0"  # the MQTT 5 codec panics at strings that are not UTF-8; one line says enough
    if side == "edge":
        from edge.daemon import serve
    else:
        from cloud.daemon import serve
    gc.freeze()  # modules stay; walking their 41,000 objects would cost every full collection 17 ms
    return service.run(lambda life: serve(options.config, life))
