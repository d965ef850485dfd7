"""How soon something is made of a reading, one at a time: by a handler, by a rule alone, by a script beside Mosquitto.

A client publishes a reading of 100 bytes at QoS 1 and waits for the alarm, which has three of its fields, and for the
PUBACK; then comes the next. The edge has an event of each on disk before it acknowledges. Every alarm is compared with
what it must say.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson

from bench import load, peers
from bench.asking import Client, client, quantile
from bench.handlers import ALARM, TELEMETRY, Handler
from bench.load import LoadFailed
from bench.peers import Peer
from bench.republish import Scripted
from bench.turns import scratch

WARM = 200  # readings before those that count: the worker is started by the first, and caches are filled
ALONE = "rule"  # the machine for which a rule does what the handlers do
RULE = f"""
Alone:
  awsIotSqlVersion: "2016-03-23"
  sql: SELECT reading, time, temperature AS value FROM '{TELEMETRY.format(ALONE)}' WHERE temperature > 0
  actions: [republish: {{topic: "{ALARM.format(ALONE)}"}}]
"""

Told = Callable[["Latency"], None]


@dataclass(frozen=True, slots=True)
class Latency:
    """One way in one run; milliseconds from the publish to the alarm, and to the PUBACK."""

    way: str
    readings: int
    p50: float
    p99: float
    most: float
    acknowledged: float  # the median


def measure(functions: Path, handlers: list[Handler], readings: int, base: Path, told: Told) -> None:
    """Measure each way once, the edge's in one process; `told` hears of each. Raises LoadFailed."""
    with scratch(base) as name, Scripted(Path(name)) as peer:
        told(_react(peer, "mosquitto, a script", "script", readings))
    with scratch(base) as name, _edge(Path(name), functions) as peer:
        told(_react(peer, "edge, a rule alone", ALONE, readings))
        for handler in handlers:
            told(_react(peer, f"edge, {handler.name}", handler.name, readings))


def summary(runs: list[Latency]) -> list[Latency]:
    """Of each way the medians of its runs, and the worst of all."""
    ways: dict[str, list[Latency]] = {}
    for run in runs:
        ways.setdefault(run.way, []).append(run)
    return [
        Latency(
            way,
            sum(run.readings for run in some),
            *(statistics.median(values) for values in ([run.p50 for run in some], [run.p99 for run in some])),
            max(run.most for run in some),
            statistics.median(run.acknowledged for run in some),
        )
        for way, some in ways.items()
    ]


def _edge(directory: Path, functions: Path) -> Peer:
    rules = directory / "rules"
    rules.mkdir()
    (rules / "alone.yaml").write_text(RULE)
    return peers.edge(directory, rules=rules, tables=peers.functions(functions))


def _react(peer: Peer, way: str, machine: str, readings: int) -> Latency:
    topic = TELEMETRY.format(machine)
    payloads = [packet[-load.PAYLOAD_BYTES :] for packet in load.publishes(topic, 311, 0, load.RING_PACKETS)]
    with client(peer.port, ALARM.format(machine)) as asking:
        _ask(asking, topic, payloads[:WARM])
        answers = _ask(asking, topic, [payloads[number % len(payloads)] for number in range(readings)])
    told = sorted(seconds * 1e3 for seconds, _ in answers)
    kept = statistics.median(seconds * 1e3 for _, seconds in answers)
    return Latency(way, readings, quantile(told, 0.5), quantile(told, 0.99), told[-1], kept)


def _ask(asking: Client, topic: str, payloads: list[bytes]) -> list[tuple[float, float]]:
    found = []
    for payload in payloads:
        answer = asking.ask(topic, payload)
        reading, alarm = orjson.loads(payload), orjson.loads(answer.payload)
        alarm = alarm.get("responsePayload", alarm)  # a destination gets a record around the result
        if alarm != {"reading": reading["reading"], "time": reading["time"], "value": reading["temperature"]}:
            raise LoadFailed(f"an alarm on {topic} is wrong: {answer.payload!r}")
        found.append((answer.seconds, answer.acknowledged))
    return found
