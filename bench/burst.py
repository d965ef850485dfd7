"""Many events at once for one worker: published at QoS 1, called by a rule, kept in the durable queue until they end.

The generator publishes a fixed number as fast as they are acknowledged. What a worker does not have at once is on disk,
and what is left when all are acknowledged waits there. The rate is that of the whole, from the first publish until the
last event has ended, taken in and handled by the same edge at the same time.
"""

import time
from dataclasses import dataclass

from bench import load, processes
from bench.load import LoadFailed
from bench.peers import Peer

WARM = 500  # events before the others, for which a worker starts
POLL_SECONDS = 0.05
STALL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Burst:
    """What one function did once; microseconds are processor time per event, those of the edge with the publishing."""

    function: str
    events: int
    acknowledged_per_second: float
    per_second: float
    edge_us: float
    worker_us: float
    generator_us: float


def burst(peer: Peer, function: str, topics: str, events: int) -> Burst:
    """Send so many events to a function that is deployed there. Raises LoadFailed unless each is run once."""
    before = ended(peer, function)
    load.run(peer.port, messages=WARM, topics=topics)
    _wait(peer, function, before + WARM)
    worker = processes.sandboxed(peer.pid)[-1]
    cpu, theirs = peer.cpu_seconds(), processes.cpu_seconds(worker)
    sent = load.run(peer.port, messages=events, topics=topics)
    started = time.perf_counter() - sent.seconds  # without what the generator takes to make its packets
    _wait(peer, function, before + WARM + events)
    took = time.perf_counter() - started
    cpu, theirs = peer.cpu_seconds() - cpu, processes.cpu_seconds(worker) - theirs
    each = 1e6 / events
    return Burst(function, events, sent.per_second, events / took, cpu * each, theirs * each, sent.cpu_seconds * each)


def ended(peer: Peer, function: str) -> int:
    """How many events of a function have ended, all of them well. Raises LoadFailed."""
    pools = peer.ask("functions-status", function=function)["functions"]
    if not pools:
        return 0
    [pool] = pools
    if wrong := {name: pool[name] for name in ("errors", "timeouts", "crashes", "throttles") if pool[name]}:
        raise LoadFailed(f"not all events of {function} went well: {wrong}")
    return int(pool["invocations"])


def _wait(peer: Peer, function: str, wanted: int) -> None:
    """Until so many have ended, and no more, and nothing waits."""
    count, progressed = -1, time.perf_counter()
    while True:
        before, count = count, ended(peer, function)
        now = time.perf_counter()
        progressed = now if count > before else progressed
        if count >= wanted:
            break
        if now > progressed + STALL_SECONDS:
            raise LoadFailed(f"{function} has handled nothing for {STALL_SECONDS:.0f} s; {wanted - count:,} are left")
        time.sleep(POLL_SECONDS)
    left = peer.ask("functions-status", function=function)["queued_events"]
    if count > wanted or left:
        raise LoadFailed(f"{function} handled {count:,} events of {wanted:,}, and {left:,} wait")
