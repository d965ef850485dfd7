"""What an edge costs a small box, beside Mosquitto: memory, time to start, disk, with an empty and a full buffer.

    python -m bench.footprint [--messages 1000000] [--cloud] [--dir DIR] [--json]

prints, for both brokers, the seconds from the start of the process to its first CONNACK, and resident (RSS) and
proportional (PSS) memory when idle and after 200,000 publishes, each with its ratio, edge to Mosquitto. Then, for
the edge alone, its buffer filled with a million messages over MQTT: bytes on disk, and what a restart with them
takes in seconds and memory, and how much more that is than with an empty buffer. With --cloud, a Tidegate cloud
takes them all in: messages per second, bytes on the uplink, and bytes on the edge's disk 10 seconds later. The cloud
must have counted each message once, or the program fails.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import load, peers
from bench.ingest import buffered
from bench.peers import Memory, Peer
from core.control import request
from core.errors import TidegateError
from tidegate.processes import CONTROL_FILE

WARM_MESSAGES = 200_000
DRAIN_STALL_SECONDS = 30.0  # without progress for so long, the cloud will not get the rest
POLL_SECONDS = 0.1
STARTS = 5
SETTLE_SECONDS = 1.0  # after the first CONNACK a daemon may still be at its start
RECLAIM_SECONDS = 10.0  # the edge gives space back when it has nothing better to do


@dataclass(frozen=True, slots=True)
class Footprint:
    """One broker with an empty start, the median of STARTS; `loaded` is its memory after WARM_MESSAGES."""

    broker: str
    start_seconds: float
    idle: Memory
    loaded: Memory


@dataclass(frozen=True, slots=True)
class Full:
    """An edge that starts with so many messages in its buffer."""

    messages: int
    disk_bytes: int
    start_seconds: float
    idle: Memory


@dataclass(frozen=True, slots=True)
class Drained:
    """The same edge when a cloud has taken everything in."""

    messages: int
    seconds: float
    uplink_bytes: int
    disk_bytes: int


def footprint(start: Callable[[Path], Peer], directory: Path) -> Footprint:
    """Start a few times, then look, load, and look again."""
    times = []
    for _ in range(STARTS - 1):
        with start(directory) as peer:
            times.append(peer.ready_seconds)
    with start(directory) as peer:
        times.append(peer.ready_seconds)
        time.sleep(SETTLE_SECONDS)
        idle = peer.memory()
        load.run(peer.port, messages=WARM_MESSAGES)
        return Footprint(peer.name, statistics.median(times), idle, peer.memory())


def full(directory: Path, messages: int) -> Full:
    """Fill the buffer of the edge in `directory` over MQTT up to `messages`, and start it again."""
    with peers.edge(directory) as edge:
        load.run(edge.port, messages=messages - buffered(directory))
    held, size = buffered(directory), peers.disk_bytes(directory / "edge")
    with peers.edge(directory) as edge:
        time.sleep(SETTLE_SECONDS)
        return Full(held, size, edge.ready_seconds, edge.memory())


def drain(directory: Path) -> Drained:
    """Let a cloud take in what the edge in `directory` holds.

    Raises TidegateError when that stands still, or the cloud counts other messages than the edge had.
    """
    held = buffered(directory)
    with peers.cloud(directory) as cloud, peers.edge(directory, cloud.port):
        started = progressed = time.perf_counter()
        left = held
        while left:
            time.sleep(POLL_SECONDS)
            now, before, left = time.perf_counter(), left, buffered(directory)
            progressed = now if left < before else progressed
            if now > progressed + DRAIN_STALL_SECONDS:
                raise TidegateError(f"the cloud took nothing for {DRAIN_STALL_SECONDS:.0f} s; {left:,} are left")
        took = time.perf_counter() - started
        edges = request(directory / "cloud" / CONTROL_FILE, "status")["edges"]
        [entry] = [entry for entry in edges if entry["edge"] == peers.EDGE_NAME]
        if (entry["messages"], entry["repeated"]) != (held, 0):
            raise TidegateError(f"the edge had {held:,} messages; the cloud says {entry}")
        sent = request(directory / "edge" / CONTROL_FILE, "status")["counters"]["uplink_bytes_total"]
        time.sleep(RECLAIM_SECONDS)
        return Drained(held, took, sent, peers.disk_bytes(directory / "edge"))


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000, help="in the buffer of the full edge")
    parser.add_argument("--cloud", action="store_true", help="then drain it into a Tidegate cloud")
    parser.add_argument("--dir", type=Path, default=Path(), help="on a disk; a directory in it is made and removed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        peers.filesystem(options.dir)
        with tempfile.TemporaryDirectory(prefix="bench-", dir=options.dir.resolve()) as name:
            directory = Path(name)
            both = [footprint(peers.mosquitto, directory), footprint(peers.edge, directory)]
            filled = full(directory, options.messages)
            drained = drain(directory) if options.cloud else None
    except (TidegateError, OSError) as error:
        raise SystemExit(f"bench.footprint: {error}") from None
    if options.json:
        facts = {"brokers": [asdict(one) for one in both], "full": asdict(filled)}
        print(json.dumps({**facts, "drained": asdict(drained) if drained else None}, indent=2))
        return
    _print_both(*both)
    _print_full(filled, both[1])
    if drained:
        _print_drained(drained)


def _print_both(mosquitto: Footprint, edge: Footprint) -> None:
    rows = [
        ("seconds to the first CONNACK", mosquitto.start_seconds, edge.start_seconds),
        ("idle RSS, MB", mosquitto.idle.rss / 1e6, edge.idle.rss / 1e6),
        ("idle PSS, MB", mosquitto.idle.pss / 1e6, edge.idle.pss / 1e6),
        ("loaded RSS, MB", mosquitto.loaded.rss / 1e6, edge.loaded.rss / 1e6),
        ("loaded PSS, MB", mosquitto.loaded.pss / 1e6, edge.loaded.pss / 1e6),
    ]
    print(f"{'':<30}{'mosquitto':>12}{'edge':>12}{'ratio':>8}")
    for label, theirs, ours in rows:
        print(f"{label:<30}{theirs:>12.3f}{ours:>12.3f}{ours / theirs:>8.1f}")


def _print_full(full_edge: Full, empty: Footprint) -> None:
    each = full_edge.disk_bytes / full_edge.messages
    seconds, rss = full_edge.start_seconds, full_edge.idle.rss
    print(f"\nedge with {full_edge.messages:,} messages in its buffer")
    print(f"  on disk       {full_edge.disk_bytes / 1e6:10.1f} MB, {each:.1f} bytes per message")
    print(f"  first CONNACK {seconds:10.3f} s, {seconds - empty.start_seconds:+.3f} s more than empty")
    print(f"  idle RSS      {rss / 1e6:10.1f} MB, {(rss - empty.idle.rss) / 1e6:+.1f} MB more than empty")


def _print_drained(drained: Drained) -> None:
    rate, each = drained.messages / drained.seconds, drained.uplink_bytes / drained.messages
    print(f"\ndrained into a cloud in {drained.seconds:.1f} s, {rate:,.0f} messages per second")
    print(f"  on the uplink {drained.uplink_bytes / 1e6:10.1f} MB, {each:.1f} bytes per message")
    print(f"  edge on disk  {drained.disk_bytes / 1e6:10.1f} MB, {RECLAIM_SECONDS:.0f} s later")


if __name__ == "__main__":
    main()
