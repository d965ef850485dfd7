"""How fast an edge takes publishes with its buffer on disk, beside Mosquitto that keeps nothing.

    python -m bench.ingest [--runs 5] [--seconds 3] [--mqtt 311|5] [--dir DIR] [--json]

runs each broker fresh, alternating, against the same load generator: QoS 1, 100-byte JSON payloads, 100 publishes
in flight per connection, on 10 connections and then on 1. For each run it prints the acknowledged publishes per
second, and the broker's and the generator's processor time per publish; for each number of connections the median
and the best run of both, and the ratio of the medians, edge to Mosquitto. After each run the edge's buffer is read,
and holds every acknowledged message, or the program fails.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import load, peers
from bench.load import Version
from bench.peers import Peer
from core.errors import TidegateError
from core.reader import reading
from edge import chunks
from edge.daemon import BUFFER_FILE

CONNECTIONS = (10, 1)


@dataclass(frozen=True, slots=True)
class Run:
    """One broker under load once; the microseconds are processor time per acknowledged publish."""

    broker: str
    connections: int
    per_second: float
    broker_us: float
    generator_us: float


def measure(start: Callable[[Path], Peer], connections: int, seconds: float, version: Version, base: Path) -> Run:
    """Start a broker in a fresh directory, load it, and check what it kept."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=base.resolve()) as name:
        directory = Path(name)
        with start(directory) as peer:
            before = peer.cpu_seconds()
            result = load.run(peer.port, connections=connections, seconds=seconds, version=version)
            used = peer.cpu_seconds() - before
        if peer.name == "edge":
            _check_kept(directory, result.acknowledged)
    each = 1e6 / result.acknowledged
    return Run(peer.name, connections, result.per_second, used * each, result.cpu_seconds * each)


def _check_kept(directory: Path, acknowledged: int) -> None:
    kept = buffered(directory)
    if kept < acknowledged:
        raise TidegateError(f"the edge acknowledged {acknowledged:,} messages and kept {kept:,}")


def buffered(directory: Path) -> int:
    """How many messages the edge that ran in `directory` holds in its buffer."""
    path = directory / "edge" / BUFFER_FILE
    with reading(path) as connection:
        return sum(int(row["messages"]) for row in chunks.totals(connection))


def compare(runs: list[Run], connections: int) -> dict[str, float]:
    """Median and best run of both brokers on so many connections, and the medians' ratio, edge to Mosquitto."""
    edge, mosquitto = (
        [run.per_second for run in runs if (run.broker, run.connections) == (broker, connections)]
        for broker in ("edge", "mosquitto")
    )
    medians = {"edge": statistics.median(edge), "mosquitto": statistics.median(mosquitto)}
    best = {"edge_best": max(edge), "mosquitto_best": max(mosquitto)}
    return {"connections": connections, **medians, **best, "ratio": medians["edge"] / medians["mosquitto"]}


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each broker, per number of connections")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load per run")
    parser.add_argument("--mqtt", type=int, choices=[311, 5], default=311)
    parser.add_argument("--dir", type=Path, default=Path(), help="on a disk; a directory in it is made and removed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        kind = peers.filesystem(options.dir)
        if not options.json:
            print(f"buffer on {kind}; MQTT {'5' if options.mqtt == 5 else '3.1.1'}; {options.seconds:g} s per run")
        runs = _run_all(options.runs, options.seconds, options.mqtt, options.dir, quiet=options.json)
    except (TidegateError, OSError) as error:
        raise SystemExit(f"bench.ingest: {error}") from None
    results = [compare(runs, connections) for connections in CONNECTIONS]
    if options.json:
        print(json.dumps({"filesystem": kind, "runs": [asdict(run) for run in runs], "results": results}, indent=2))
        return
    for row in results:
        print(
            f"\n{_connections(row['connections'])}, ratio {row['ratio']:.2f}:"
            f"\n  edge, on disk         {row['edge']:>10,.0f}/s, best {row['edge_best']:,.0f}/s"
            f"\n  mosquitto, in memory  {row['mosquitto']:>10,.0f}/s, best {row['mosquitto_best']:,.0f}/s"
        )


def _run_all(count: int, seconds: float, version: Version, base: Path, *, quiet: bool) -> list[Run]:
    runs = []
    for connections in CONNECTIONS:
        for number in range(count):
            pair = (peers.edge, peers.mosquitto) if number % 2 == 0 else (peers.mosquitto, peers.edge)
            for start in pair:
                run = measure(start, connections, seconds, version, base)
                runs.append(run)
                if not quiet:
                    _print(run)
    return runs


def _print(run: Run) -> None:
    print(
        f"{run.broker:>10} {_connections(run.connections):>14} {run.per_second:>10,.0f}/s"
        f" {run.broker_us:>6.2f} us in the broker, {run.generator_us:.2f} us in the generator",
        flush=True,
    )


def _connections(count: float) -> str:
    return f"{count:.0f} connection{'s' if count > 1 else ''}"


if __name__ == "__main__":
    main()
