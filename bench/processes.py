"""The processes below a daemon, as /proc shows them: who they are, what they take of processor and memory.

An edge has one child, the launcher, and below that each worker with what keeps it in its sandbox.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from bench.peers import PeerFailed


@dataclass(frozen=True, slots=True)
class Own:
    """Bytes of one process or several: pages that nobody else has (USS), and with its share of all others (PSS)."""

    uss: int
    pss: int

    def __add__(self, other: "Own") -> "Own":
        return Own(self.uss + other.uss, self.pss + other.pss)


def children(pid: int) -> list[int]:
    """Of all threads of a process; none for one that has ended."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(one) for one in task.read_text().split()]
        except OSError:
            continue
    return found


def below(pid: int) -> list[int]:
    """Every process below one, parents first."""
    found = []
    for child in children(pid):
        found += [child, *below(child)]
    return found


def launcher(edge: int) -> int:
    """The launcher of an edge that has started a worker. Raises PeerFailed."""
    found = children(edge)
    if len(found) != 1:
        raise PeerFailed(f"the edge has {len(found)} children; one of them should be the launcher")
    return found[0]


def sandboxed(edge: int) -> list[int]:
    """The processes of the only worker, outermost first: what keeps it in its place, and last the worker itself.

    Raises PeerFailed when there is none, or more than one.
    """
    found = below(launcher(edge))
    if len([one for one in found if not children(one)]) != 1:
        raise PeerFailed(f"there are {len(found)} processes below the launcher; they should be one worker's")
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads since the start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own(pid: int) -> Own:
    """What a process has now. Raises PermissionError for a worker's unless we are root."""
    kib = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, value, *_ = line.split()
        kib[key] = int(value)
    private = kib["Private_Clean:"] + kib["Private_Dirty:"] + kib.get("Private_Hugetlb:", 0)
    return Own(private * 1_024, kib["Pss:"] * 1_024)
