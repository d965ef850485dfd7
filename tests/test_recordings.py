"""The recordings that ship with Tidegate are the benchmark's, whole and in order."""

import gzip
import hashlib
from pathlib import Path

import pytest

from devices import recordings

DIRECTORY = Path(recordings.__file__).with_name("recordings")

# Of the files as the Numenta Anomaly Benchmark publishes them.
PUBLISHED = {
    "machine": "92bf5b87fc7f9bba8ca0b7ec63ccaac8cb4a1371a258e8c29a10ae9c018d82a4",
    "ambient": "230b68ccca20f59d562afd5d24ad52939c9b784386bed0054018358bf9120581",
}


@pytest.mark.parametrize(("name", "count", "failing"), [("machine", 22_695, 2_268), ("ambient", 7_267, 726)])
def test_every_reading_is_there_and_numbered(name: str, count: int, failing: int) -> None:
    recording = recordings.load(name)
    assert recording.name == recording.machine == name
    assert [reading.number for reading in recording.readings] == list(range(1, count + 1))
    assert sum(reading.in_labelled_failure for reading in recording.readings) == failing


@pytest.mark.parametrize("name", recordings.NAMES)
def test_the_values_are_those_of_the_benchmark(name: str) -> None:
    text = gzip.decompress((DIRECTORY / f"{name}_temperature_system_failure.csv.gz").read_bytes())
    assert hashlib.sha256(text).hexdigest() == PUBLISHED[name]
    rows = ["timestamp,value"]
    rows += [f"{r.time.replace('T', ' ')},{r.value!r}" for r in recordings.load(name).readings]
    assert [row.split(",")[0] for row in rows] == [row.split(",")[0] for row in text.decode().splitlines()]
    assert [float(row.split(",")[1]) for row in rows[1:]] == [
        float(row.split(",")[1]) for row in text.decode().splitlines()[1:]
    ]


def test_compressing_the_recordings_again_gives_the_same_bytes() -> None:
    for path in DIRECTORY.glob("*.gz"):
        data = path.read_bytes()
        assert data[4:8] == bytes(4), "the gzip header holds a time"


def test_times_repeat_so_only_the_number_names_a_reading() -> None:
    times = [reading.time for reading in recordings.load("machine").readings]
    assert len(times) - len(set(times)) == 12
    assert times.count("2014-01-07T02:00:00") == 2


def test_a_labelled_failure_begins_and_ends_where_the_benchmark_says() -> None:
    failing = [reading.time for reading in recordings.load("machine").readings if reading.in_labelled_failure]
    assert failing[0] == "2013-12-10T06:25:00"
    assert failing[-1] == "2014-02-09T14:05:00"
    assert "2013-12-13T00:00:00" not in failing


def test_a_head_is_the_first_readings() -> None:
    recording = recordings.load("ambient")
    assert recording.head(3).readings == recording.readings[:3]


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(recordings.UnknownRecording, match="machine, ambient"):
        recordings.load("kettle")
