"""What rules cost: in process beside the same decision by hand, and end to end beside Mosquitto with a paho script.

    python -m bench.rules [--runs 5] [--seconds 3] [--window 1000] [--dir DIR] [--json]

prints, for 100-byte JSON payloads:

1. how many messages per second one core takes through one rule with a WHERE and three fields, from bytes to the
   output and to the output as JSON, and what the same costs written by hand with orjson and with json; the engine's
   ratio to each;
2. the same for sets of 1 to 10,000 rules of which one or three hear a message: what the others cost;
3. what each step takes for one message, in nanoseconds and in bytes allocated, and how many messages per second a
   rule hears whose WHERE fails;
4. how many messages per second come out when a rule republishes what ten machines publish at QoS 0, through an edge,
   and through Mosquitto with a script in its place, by turns.

Every message that comes out is compared with what it must be, and those that do not come are counted.
"""

import argparse
import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import engine, republish
from bench.engine import Growth
from bench.republish import Run
from bench.turns import compare, summary, turns
from core.errors import TidegateError

SIZES = (1, 10, 100, 1_000, 10_000)
MATCHING = (1, 3)
KINDS = ("output", "as JSON")


def in_process(runs: int) -> dict[str, Any]:
    """The first three measurements; rates are medians of `runs`, by turns."""
    given = engine.messages()
    ways = engine.contenders(given)
    rates: dict[str, dict[str, list[float]]] = {name: {kind: [] for kind in KINDS} for name in ways}
    for _ in range(runs):
        for name, works in ways.items():
            for kind, work in zip(KINDS, works, strict=True):
                rates[name][kind].append(engine.per_second(work, len(given)))
    sizes = [(count, matching) for count in SIZES for matching in MATCHING if matching <= count]
    return {
        "one_rule": {
            name: {kind: {"median": statistics.median(some), "best": max(some)} for kind, some in kinds.items()}
            for name, kinds in rates.items()
        },
        "growth": [asdict(engine.growth(*size, given, runs)) for size in sizes],
        "failing": engine.failing(given, runs),
        "steps": [asdict(cost) for cost in engine.costs(given)],
    }


def end_to_end(options: argparse.Namespace) -> list[Run]:
    """The fourth measurement."""
    runs = []
    for start in turns(options.runs, republish.edge, republish.Scripted):
        runs.append(republish.measure(start, options.seconds, options.dir, options.window))
        if not options.json:
            _print_run(runs[-1])
    return runs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each measurement")
    parser.add_argument("--seconds", type=float, default=3.0, help="of messages per run end to end")
    parser.add_argument("--window", type=int, default=republish.WINDOW, help="messages under way end to end")
    parser.add_argument("--dir", type=Path, default=Path(), help="a directory in it is made and removed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        facts = in_process(options.runs)
        if not options.json:
            _print_one_rule(facts["one_rule"])
            _print_growth([Growth(**row) for row in facts["growth"]])
            _print_steps(facts["steps"])
            print(f"one rule whose WHERE fails: {facts['failing']:,.0f} messages/s\n")
        runs = end_to_end(options)
    except (TidegateError, OSError) as error:
        raise SystemExit(f"bench.rules: {error}") from None
    row = compare(runs)
    if options.json:
        ran = {"runs": [asdict(run) for run in runs], "result": row}
        print(json.dumps({**facts, "end_to_end": ran}, indent=2))
        return
    print(summary("end to end", row))


def _print_one_rule(rates: dict[str, dict[str, dict[str, float]]]) -> None:
    print(f"{'one rule, three fields':<24}" + "".join(f"{kind:>14}{'ratio':>8}{'best':>14}" for kind in KINDS))
    for name, kinds in rates.items():
        line = f"{name:<24}"
        for kind in KINDS:
            ratio = rates["engine"][kind]["median"] / kinds[kind]["median"]
            line += f"{kinds[kind]['median']:>12,.0f}/s{ratio:>8.2f}{kinds[kind]['best']:>12,.0f}/s"
        print(line)


def _print_growth(rows: list[Growth]) -> None:
    print(f"\n{'rules':>8}{'that hear':>12}{'messages':>14}{'a new topic':>16}{'to compile':>14}")
    for row in rows:
        print(
            f"{row.rules:>8,}{row.matching:>12}{row.per_second:>12,.0f}/s"
            f"{row.first_us:>13.1f} us{row.compile_seconds * 1e3:>11,.1f} ms"
        )


def _print_steps(rows: list[dict[str, Any]]) -> None:
    print(f"\n{'for one message':<24}{'takes':>11}{'allocates':>14}")
    for row in rows:
        print(f"{row['step']:<24}{row['ns']:>8.0f} ns{row['allocated']:>8.0f} bytes")


def _print_run(run: Run) -> None:
    print(
        f"{run.broker:>10} {run.per_second:>10,.0f}/s {run.broker_us:>6.2f} us in the broker and the script,"
        f" {run.generator_us:.2f} us in the generator; {run.alarms:,} came, {run.lost:,} lost",
        flush=True,
    )


if __name__ == "__main__":
    main()
