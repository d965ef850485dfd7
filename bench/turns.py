"""Edge and Mosquitto by turns, and what comes of it: medians, best runs, and the ratio of the medians.

Each broker is started fresh, in a directory of its own that is removed with it, and who goes first changes from turn
to turn, so that what warms up or throttles the machine is nobody's advantage.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from bench import peers
from bench.peers import Peer

Starter = Callable[[Path], Peer]


class Run(Protocol):
    """What one broker did once."""

    @property
    def broker(self) -> str:
        """Its name, as the peer's."""
        ...

    @property
    def per_second(self) -> float:
        """How much of what is compared."""
        ...


def turns(count: int, edge: Starter = peers.edge, mosquitto: Starter = peers.mosquitto) -> Iterator[Starter]:
    """Both brokers, `count` times each: edge, mosquitto, mosquitto, edge, edge, ..."""
    for number in range(count):
        yield from (edge, mosquitto) if number % 2 == 0 else (mosquitto, edge)


def scratch(base: Path) -> tempfile.TemporaryDirectory[str]:
    """A directory below `base` for one run."""
    return tempfile.TemporaryDirectory(prefix="bench-", dir=base.resolve())


def compare(runs: Sequence[Run]) -> dict[str, float]:
    """Median and best run of both brokers, and the medians' ratio, edge to Mosquitto."""
    edge, mosquitto = ([run.per_second for run in runs if run.broker == name] for name in ("edge", "mosquitto"))
    medians = {"edge": statistics.median(edge), "mosquitto": statistics.median(mosquitto)}
    best = {"edge_best": max(edge), "mosquitto_best": max(mosquitto)}
    return {**medians, **best, "ratio": medians["edge"] / medians["mosquitto"]}


def summary(label: str, row: dict[str, float]) -> str:
    """A comparison in three lines."""
    return (
        f"\n{label}, ratio {row['ratio']:.2f}:"
        f"\n  edge       {row['edge']:>11,.0f}/s, best {row['edge_best']:,.0f}/s"
        f"\n  mosquitto  {row['mosquitto']:>11,.0f}/s, best {row['mosquitto_best']:,.0f}/s"
    )
