"""What functions cost: how soon a handler reacts, how many events a worker takes, and what a start and a worker take.

    python -m bench.functions [--runs 3] [--quick] [--dir DIR] [--json]

prints, through `tidegate edge run` with the sandbox that this machine gives:

1. milliseconds from a reading's publish to its alarm, one at a time, warm, by way of a rule and a Python handler that
   returns the alarm to an OnSuccess destination, publishes it with greengrasssdk, or with boto3; beside a rule that
   does the same alone, and Mosquitto with a paho script;
2. how many asynchronous events per second one worker of a trivial Python handler takes, from MQTT publishes by way of a
   rule and the durable queue, beside the same handler under AWS's unmodified runtime client (awslambdaric);
3. the cold start of a handler that imports only the standard library, beside a bare start of Python;
4. the memory of a warm worker, beside a Python that has imported the same.

The packages come from PyPI; a way whose packages cannot be installed is left out, and said. --quick is a tenth of
everything, once, to see whether it runs.
"""

import argparse
import json
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import burst, handlers, peers, reacting, starting
from bench.burst import Burst
from bench.handlers import BURSTS, REACTING, STARTING, Handler
from bench.processes import Own
from bench.reacting import Latency
from bench.starting import Cost, Start
from bench.turns import scratch
from core.errors import TidegateError
from functions.names import FunctionName
from functions.packages.library import Library

QUICK = 10  # how much less
AWS_SHARE = 10  # AWS's client gets a tenth of the events, which takes it as long


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def latencies(functions: Path, deployed: list[Handler], options: argparse.Namespace) -> list[Latency]:
    """The first measurement."""
    runs = list[Latency]()

    def told(run: Latency) -> None:
        runs.append(run)
        if not options.json:
            _print_latency(run)

    chosen = [each for each in REACTING if each in deployed]
    for _ in range(options.runs):
        reacting.measure(functions, chosen, options.readings, options.dir, told)
    return runs


def bursts(functions: Path, deployed: list[Handler], options: argparse.Namespace) -> list[Burst]:
    """The second."""
    runs = list[Burst]()
    for number in range(options.runs):
        found = [each for each in BURSTS if each in deployed]
        for handler in found if number % 2 == 0 else reversed(found):
            events = options.events if handler is BURSTS[0] else options.events // AWS_SHARE
            with (
                scratch(options.dir) as name,
                peers.edge(Path(name), tables=peers.functions(functions)) as peer,
            ):
                runs.append(burst.burst(peer, handler.name, handlers.topics(handler), events))
            if not options.json:
                _print_burst(runs[-1])
    return runs


def memory(functions: Path, deployed: list[Handler], python: str, base: Path) -> tuple[list[Cost], Own] | None:
    """The fourth; None when the kernel does not show it to us."""
    try:
        chosen = [STARTING, *(each for each in REACTING if each in deployed)]
        return starting.costs(functions, chosen, base), starting.bare_cost(python)
    except PermissionError:
        _say("only root sees the memory of a worker, which nobody may look into")
        return None


def measure(functions: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All of it, printed on the way unless it is wanted as JSON."""
    deployed = handlers.deploy(functions, (*REACTING, *BURSTS, STARTING), _say)
    python = Library(functions).find(FunctionName(STARTING.name)).manifest.python
    assert python is not None
    reactions = latencies(functions, deployed, options)
    if not options.json:
        print()
        for row in reacting.summary(reactions):
            _print_latency(row)
        print()
    taken = bursts(functions, deployed, options)
    if not options.json:
        _print_ratio(taken)
    started = starting.starts(functions, python, options.starts, options.dir)
    if not options.json:
        _print_starts(started)
    held = memory(functions, deployed, python, options.dir)
    if held and not options.json:
        _print_memory(*held)
    return {
        "latencies": [asdict(run) for run in reactions],
        "latency": [asdict(row) for row in reacting.summary(reactions)],
        "bursts": [asdict(run) for run in taken],
        "starts": [asdict(row) for row in started],
        "memory": {"workers": [asdict(cost) for cost in held[0]], "python": asdict(held[1])} if held else None,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="of the first two measurements")
    parser.add_argument("--readings", type=int, default=2_000, help="one at a time, in each run")
    parser.add_argument("--events", type=int, default=100_000, help="at once, in each run")
    parser.add_argument("--starts", type=int, default=20, help="of a worker")
    parser.add_argument("--quick", action="store_true", help="a tenth, once")
    parser.add_argument("--dir", type=Path, default=Path(), help="on a disk; a directory in it is made and removed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.runs, options.readings = 1, options.readings // QUICK
        options.events, options.starts = options.events // QUICK, max(3, options.starts // QUICK)
    try:
        peers.filesystem(options.dir)
        with scratch(options.dir) as name:
            facts = measure(Path(name) / "functions", options)
    except (TidegateError, OSError) as error:
        raise SystemExit(f"bench.functions: {error}") from None
    if options.json:
        print(json.dumps(facts, indent=2))


def _print_latency(row: Latency) -> None:
    print(
        f"{row.way:<22} p50 {row.p50:>7.3f} ms   p99 {row.p99:>7.3f} ms   max {row.most:>7.3f} ms"
        f"   PUBACK {row.acknowledged:>7.3f} ms",
        flush=True,
    )


def _print_burst(run: Burst) -> None:
    print(
        f"{run.function:>6} {run.per_second:>10,.0f} events/s, acknowledged {run.acknowledged_per_second:,.0f}/s;"
        f" {run.edge_us:.1f} us in the edge, {run.worker_us:.1f} us in the worker",
        flush=True,
    )


def _print_ratio(runs: list[Burst]) -> None:
    rates = {one.name: [run.per_second for run in runs if run.function == one.name] for one in BURSTS}
    ours, aws = (rates[one.name] for one in BURSTS)
    print(f"\none worker{f', ratio {statistics.median(ours) / statistics.median(aws):.1f}' if aws else ''}:")
    for label, some in (("fast path", ours), ("awslambdaric", aws)):
        if some:
            print(f"  {label:<13}{statistics.median(some):>9,.0f} events/s, best {max(some):,.0f}")


def _print_starts(rows: list[Start]) -> None:
    print(f"\n{'cold start':<54}{'p50':>11}{'max':>12}")
    for row in rows:
        print(f"{row.way:<54}{row.p50:>8.1f} ms{row.most:>9.1f} ms")


def _print_memory(rows: list[Cost], bare: Own) -> None:
    print(f"\n{'memory, warm':<54}{'USS':>11}{'PSS':>12}")
    shown = [(f"worker, {row.handler}", row.own) for row in rows]
    shown += [("sandbox around it", rows[0].around), ("launcher", rows[0].launcher)]
    for label, own in (*shown, ("python3, the same imports", bare)):
        print(f"{label:<54}{own.uss / 1e6:>8.1f} MB{own.pss / 1e6:>9.1f} MB")


if __name__ == "__main__":
    main()
