"""How fast an edge takes publishes with its buffer on disk, beside Mosquitto that keeps nothing.

    python -m bench.ingest [--tls] [--runs 5] [--seconds 3] [--mqtt 311|5] [--dir DIR] [--json]

runs each broker fresh, by turns, against the same load generator: QoS 1, 100-byte JSON payloads, 100 publishes
in flight per connection, on 10 connections and then on 1. For each run it prints the acknowledged publishes per
second, and the broker's and the generator's processor time per publish; for each number of connections the median
and the best run of both, and the ratio of the medians, edge to Mosquitto. After each run the edge's buffer is read,
and holds every acknowledged message, or the program fails.

With --tls there are 10 connections, each of a device with a certificate of its own that may publish to one topic: a
policy says so to the edge, an ACL file to Mosquitto.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from bench import identities, load, peers
from bench.load import Version
from bench.turns import Starter, compare, scratch, summary, turns
from core.errors import TidegateError
from core.reader import reading
from edge import chunks
from edge.daemon import BUFFER_FILE

CONNECTIONS = (10, 1)
TLS_CONNECTIONS = (10,)


@dataclass(frozen=True, slots=True)
class Run:
    """One broker under load once; the microseconds are processor time per acknowledged publish."""

    broker: str
    connections: int
    per_second: float
    broker_us: float
    generator_us: float


def measure(start: Starter, connections: int, seconds: float, version: Version, base: Path) -> Run:
    """Start a broker in a fresh directory, load it, and check what it kept."""
    with scratch(base) as name:
        directory = Path(name)
        with start(directory) as peer:
            before = peer.cpu_seconds()
            result = load.run(
                peer.port,
                connections=connections,
                seconds=seconds,
                version=version,
                credentials=peer.credentials,
            )
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


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tls", action="store_true", help="with certificates and policies")
    parser.add_argument("--runs", type=int, default=5, help="of each broker, per number of connections")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load per run")
    parser.add_argument("--mqtt", type=int, choices=[311, 5], default=311)
    parser.add_argument("--dir", type=Path, default=Path(), help="on a disk; a directory in it is made and removed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        kind = peers.filesystem(options.dir)
        if not options.json:
            how = "TLS, policies" if options.tls else "no TLS"
            print(f"edge's buffer on {kind}; MQTT {'5' if options.mqtt == 5 else '3.1.1'}; {how}")
        runs = _run_all(options)
    except (TidegateError, OSError) as error:
        raise SystemExit(f"bench.ingest: {error}") from None
    results = [
        {"connections": count, **compare([run for run in runs if run.connections == count])}
        for count in dict.fromkeys(run.connections for run in runs)
    ]
    if options.json:
        facts = {"filesystem": kind, "tls": options.tls}
        print(json.dumps({**facts, "runs": [asdict(run) for run in runs], "results": results}, indent=2))
        return
    for row in results:
        print(summary(_connections(row["connections"]), row))


def _run_all(options: argparse.Namespace) -> list[Run]:
    runs = []
    with scratch(options.dir) as name:
        devices = [*load.names(max(TLS_CONNECTIONS)), peers.PROBE]
        enrolled = identities.enrol(Path(name), devices) if options.tls else None
        edge, mosquitto = partial(peers.edge, identities=enrolled), partial(peers.mosquitto, identities=enrolled)
        for connections in TLS_CONNECTIONS if options.tls else CONNECTIONS:
            for start in turns(options.runs, edge, mosquitto):
                runs.append(measure(start, connections, options.seconds, options.mqtt, options.dir))
                if not options.json:
                    _print(runs[-1])
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
