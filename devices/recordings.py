"""Recordings of real sensors, for simulators, the demo and tests.

Keeps two series of the Numenta Anomaly Benchmark in degrees Fahrenheit: an industrial machine every five
minutes (22,695 readings) and an office every hour (7,267), with the times in which something was known to be
wrong. Will not replay them; `devices.simulate` does. `recordings/SOURCE.md` says where they come from.

Invariant: a reading is named by its number, which counts from 1 without gaps. Times repeat: the machine's
clock ran through the hour from 2014-01-07 02:00 twice.
"""

import gzip
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from core.errors import TidegateError

NAMES = ("machine", "ambient")

_DIRECTORY = Path(__file__).with_name("recordings")


class UnknownRecording(TidegateError):
    """There is no recording of that name."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One value that a sensor gave; `time` is ISO 8601 without a zone, `value` degrees Fahrenheit."""

    number: int
    time: str
    value: float
    in_labelled_failure: bool


@dataclass(frozen=True, slots=True)
class Recording:
    """A sensor's readings in the order it gave them; `machine` is its level in a topic."""

    name: str
    machine: str
    readings: tuple[Reading, ...]

    def head(self, count: int) -> "Recording":
        """The first `count` readings."""
        return replace(self, readings=self.readings[:count])


def load(name: str) -> Recording:
    """Read one of `NAMES`; raise UnknownRecording for another."""
    if name not in NAMES:
        raise UnknownRecording(f"there is no recording {name!r}; there are {', '.join(NAMES)}")
    series = f"{name}_temperature_system_failure.csv"
    labels: dict[str, list[list[str]]] = orjson.loads((_DIRECTORY / "labels.json").read_bytes())
    failures = [(_iso(start), _iso(end)) for start, end in labels[series]]
    lines = gzip.decompress((_DIRECTORY / f"{series}.gz").read_bytes()).decode().splitlines()[1:]
    readings = []
    for number, line in enumerate(lines, 1):
        stamp, value = line.split(",")
        time = _iso(stamp)
        failing = any(start <= time <= end for start, end in failures)
        readings.append(Reading(number, time, float(value), failing))
    return Recording(name, name, tuple(readings))


def _iso(stamp: str) -> str:
    """`2013-12-10T06:25:00` for `2013-12-10 06:25:00.000000`; such texts sort by time."""
    return stamp[:19].replace(" ", "T")
