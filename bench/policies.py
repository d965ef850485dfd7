"""What the edge pays to ask whether a device may publish, subscribe or be sent something, beside a look-up in a dict.

    python -m bench.policies [--topics 100] [--json]

admits one device by its certificate, under the policy that devices have by default and under the one of
`bench.identities`, and asks for as many topics: at first, when the policy has to be looked at, and again, when the
answer is remembered. Prints the nanoseconds of one question, the best of `REPEATS` rounds.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mqtt5 import ConnAckReasonCode, ConnectPacket

from bench import identities
from core.errors import TidegateError
from core.mqtt.access import Certificate, Grant, Peer
from core.telemetry import Counters
from devices import policy_files
from devices.access import CHECKS_MAX, DeviceAccess
from devices.policies import PolicySet
from devices.registry import FILE, Registry

REPEATS = 7
ROUNDS = 1_000  # through all topics, when the answer is remembered
DEVICE = "press-7"


@dataclass(frozen=True, slots=True)
class Cost:
    """Nanoseconds of one question, when it is new and when it has been asked before."""

    policy: str
    question: str
    first: float
    again: float


def best(ask: Callable[[str], object], topics: Sequence[str], rounds: int, begin: Callable[[], object]) -> float:
    """Nanoseconds per call of `ask`; `begin` is called before each round of `REPEATS`, and not counted."""
    times = []
    for _ in range(REPEATS):
        begin()
        started = time.perf_counter_ns()
        for _ in range(rounds):
            for topic in topics:
                ask(topic)
        times.append(time.perf_counter_ns() - started)
    return min(times) / (rounds * len(topics))


def grant(policies: PolicySet, registry: Registry) -> Grant:
    """The device, connected. Raises TidegateError when it is refused."""
    [registered] = registry.certificates_of(DEVICE)
    certificate = Certificate(registered.id, {"commonName": DEVICE}, {"commonName": "bench"}, "01", b"")
    given: list[Grant | ConnAckReasonCode] = []
    access = DeviceAccess(registry, policies, Counters())
    access.connect(Peer("127.0.0.1:50000", certificate), DEVICE, ConnectPacket(DEVICE), given.append)
    if isinstance(given[0], ConnAckReasonCode):
        raise TidegateError(f"the device is refused: {given[0]}")
    return given[0]


def costs(name: str, client: Grant, topics: Sequence[str], questions: Sequence[str]) -> list[Cost]:
    """What each question costs about all topics."""
    ask: dict[str, Callable[[str], bool]] = {
        "publish": lambda topic: client.publish(topic, retain=False),
        "subscribe": client.subscribe,
        "receive": client.receive,
    }
    return [
        Cost(
            name,
            question,
            best(ask[question], topics, 1, client.refresh),
            best(ask[question], topics, ROUNDS, lambda: None),
        )
        for question in questions
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topics", type=int, default=100, help=f"by turns; at most {CHECKS_MAX:,} are remembered")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    topics = [f"{identities.TOPIC.format(DEVICE)}/{number}" for number in range(options.topics)]
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as directory:
            enrolled = identities.enrol(Path(directory), [DEVICE])
            with Registry(enrolled.home / FILE) as registry:
                plain, named = policy_files.read(None), policy_files.read(enrolled.policies)
                found = costs("default", grant(plain, registry), topics, ["publish", "subscribe", "receive"])
                found += costs("bench", grant(named, registry), topics, ["publish"])
    except (TidegateError, OSError) as error:
        raise SystemExit(f"bench.policies: {error}") from None
    known = dict.fromkeys(topics, True)
    look_up = best(known.get, topics, ROUNDS, lambda: None)
    if options.json:
        print(json.dumps({"look_up": look_up, "costs": [asdict(cost) for cost in found]}, indent=2))
        return
    print(f"{'policy':<10}{'question':<12}{'new':>10}{'asked before':>15}{'look-ups':>10}")
    for cost in found:
        times = cost.again / look_up
        print(f"{cost.policy:<10}{cost.question:<12}{cost.first:>7,.0f} ns{cost.again:>12,.0f} ns{times:>10.1f}")
    print(f"a look-up in a dict: {look_up:.0f} ns")


if __name__ == "__main__":
    main()
