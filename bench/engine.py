"""The rules engine in process, on one core: what it decides per second, beside the same decision written by hand.

Messages are those of `bench.load`: real readings, 100 bytes of JSON, one topic per machine. A rule selects three
fields of them. What is timed is what a daemon does for a message, from bytes: an `Event`, the rules that hear its
topic, and `evaluate` of each. The loop around it counts against the engine.
Times are processor time.
"""

import json
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from bench import load
from core.errors import TidegateError
from core.message import Message
from rules.engine import NOTHING, Event, Rule, RuleSet, output_bytes
from rules.sql.parser import parse_statement
from rules.sql.values import SqlVersion

MACHINES = 10
RING = 2_048  # messages of each machine, so that neither a processor's caches nor a dict of ours has the answer
NOW = 1_767_225_600_000  # ms since the epoch; the rules measured here do not ask
TOPIC = "plant/line/{}/telemetry"
ITEMS = "reading, time, temperature AS value"
ALWAYS, NEVER = "temperature > 0", "temperature > 1000"  # readings are from 2.1 to 108.5
MATCHING = ("plant/line/+/telemetry", "plant/+/+/telemetry", "plant/#")  # the rules that hear a machine

T = TypeVar("T")
Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Growth:
    """A set of `rules` of which `matching` hear each message.

    `first_us` is what finding the rules of a topic takes that is new, in microseconds.
    """

    rules: int
    matching: int
    per_second: float
    first_us: float
    compile_seconds: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What one step takes for one message: nanoseconds, and bytes that it allocates and are there when it ends."""

    step: str
    ns: float
    allocated: float


def messages() -> list[Message]:
    """`RING` messages of each of `MACHINES`, by turns."""
    of_each = []
    for name in load.names(MACHINES):
        topic = TOPIC.format(name)
        packets = load.publishes(topic, 311, 0, RING)
        of_each.append([Message(topic, packet[-load.PAYLOAD_BYTES :], client_id=name) for packet in packets])
    return [message for turn in zip(*of_each, strict=True) for message in turn]


def rule_set(count: int, matching: int, where: str = ALWAYS) -> RuleSet:
    """`count` rules of which `matching` hear every machine of ours, and the others one other machine each."""
    filters = [*MATCHING[:matching], *(f"site/{number}/+/telemetry" for number in range(count - matching))]
    statements = (parse_statement(f"SELECT {ITEMS} FROM '{source}' WHERE {where}") for source in filters)
    return RuleSet(Rule(f"r{number}", one, SqlVersion.V2016) for number, one in enumerate(statements))


# -- what is timed -----------------------------------------------------------------------------------------------------


def decide(rules: RuleSet, given: Sequence[Message]) -> int:
    """What a daemon does with messages, up to the outputs; returns how many there are."""
    passed = 0
    for message in given:
        event = Event(message, NOW)
        for rule in rules.match(message.topic):
            passed += rule.evaluate(event) is not NOTHING
    return passed


def decide_and_write(rules: RuleSet, given: Sequence[Message]) -> int:
    """The same, with each output written as JSON; returns how many bytes that are."""
    written = 0
    for message in given:
        event = Event(message, NOW)
        for rule in rules.match(message.topic):
            output = rule.evaluate(event)
            if output is not NOTHING:
                written += len(output_bytes(output))
    return written


def by_hand(loads: Callable[[bytes], Any], given: Sequence[Message]) -> int:
    """The same decision in plain Python, which trusts that there is a temperature and that it is a number."""
    passed = 0
    for message in given:
        reading = loads(message.payload)
        if reading["temperature"] > 0:
            output = {"reading": reading["reading"], "time": reading["time"], "value": reading["temperature"]}
            passed += output is not None
    return passed


def by_hand_and_write(loads: Callable[[bytes], Any], dumps: Callable[[Any], bytes], given: Sequence[Message]) -> int:
    """The same, with each output written as JSON."""
    written = 0
    for message in given:
        reading = loads(message.payload)
        if reading["temperature"] > 0:
            output = {"reading": reading["reading"], "time": reading["time"], "value": reading["temperature"]}
            written += len(dumps(output))
    return written


def per_second(work: Work, count: int) -> float:
    """How many of the `count` messages that `work` goes through it goes through in a second of processor time."""
    started = time.process_time()
    work()
    return count / (time.process_time() - started)


def contenders(given: Sequence[Message]) -> dict[str, tuple[Work, Work]]:
    """One WHERE and three fields, in each of the ways: up to the output, and with the output written."""
    rules = rule_set(1, 1)

    def json_bytes(value: Any) -> bytes:
        return json.dumps(value, separators=(",", ":")).encode()

    return {
        "engine": (lambda: decide(rules, given), lambda: decide_and_write(rules, given)),
        "by hand, orjson": (
            lambda: by_hand(orjson.loads, given),
            lambda: by_hand_and_write(orjson.loads, orjson.dumps, given),
        ),
        "by hand, json": (
            lambda: by_hand(json.loads, given),
            lambda: by_hand_and_write(json.loads, json_bytes, given),
        ),
    }


# -- how it grows, and what it allocates -------------------------------------------------------------------------------


def growth(count: int, matching: int, given: Sequence[Message], runs: int) -> Growth:
    """What a set of so many rules does; the median of `runs`."""
    started = time.process_time()
    rules = rule_set(count, matching)
    compiled = time.process_time() - started
    first = []
    for name in load.names(MACHINES):
        started = time.process_time()
        rules.match(TOPIC.format(name))
        first.append((time.process_time() - started) * 1e6)
    rates = [per_second(lambda: decide(rules, given), len(given)) for _ in range(runs)]
    passed = sum(rule.counters.passed for rule in rules)
    if passed != runs * matching * len(given):
        raise TidegateError(f"{count:,} rules gave {passed:,} outputs for {runs * len(given):,} messages")
    return Growth(count, matching, statistics.median(rates), statistics.median(first), compiled)


def failing(given: Sequence[Message], runs: int) -> float:
    """Messages per second that one rule hears whose WHERE fails; the median of `runs`."""
    rules = rule_set(1, 1, NEVER)
    return statistics.median(per_second(lambda: decide(rules, given), len(given)) for _ in range(runs))


def costs(given: Sequence[Message]) -> list[Cost]:
    """What the steps take, each alone: reading a payload, and rules that look at it when it has been read."""
    [fails], [holds] = rule_set(1, 1, NEVER), rule_set(1, 1, ALWAYS)
    events = [_read(message) for message in given]
    return [
        _cost("the payload, parsed", _read, given),
        _cost("a rule whose WHERE fails", fails.evaluate, events),
        _cost("a rule whose WHERE holds", holds.evaluate, events),
    ]


def _read(message: Message) -> Event:
    event = Event(message, NOW)
    if not event.members:
        raise TidegateError(f"not an object: {message.payload!r}")
    return event


def _cost(step: str, work: Callable[[T], object], given: Sequence[T]) -> Cost:
    started = time.process_time_ns()
    for one in given:
        work(one)
    took = (time.process_time_ns() - started) / len(given)
    # Results are kept, or what one message gives back would serve the next one, and not be seen.
    results: list[object] = [None] * len(given)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number, one in enumerate(given):
            results[number] = work(one)
        allocated = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    return Cost(step, took, allocated / len(given))
