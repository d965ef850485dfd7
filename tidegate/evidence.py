"""What a cloud really holds, read back from its table, its stream directory and its alerts, against what devices know.

Counts; believes no counter of the daemons. A reading is named by (machine, reading number). It is stored when the table
and the stream both have it; it is a duplicate for each time beyond the first that the stream has it.
"""

import gzip
import sqlite3
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import orjson

from cloud.daemon import DATABASE_FILE, STREAMS_DIRECTORY
from cloud.targets import alerts, tables
from core.reader import reading

Name = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found: `stored`, `lost` and `duplicates` are numbers of readings."""

    stored: int
    lost: int
    duplicates: int
    alerts: int


def examine(data_dir: Path, table: str, topic: str, acknowledged: Iterable[Name]) -> Evidence:
    """Compare what the cloud in `data_dir` holds with the readings that devices saw acknowledged."""
    in_table, told = _in_table(data_dir / DATABASE_FILE, table, topic)
    in_stream = _in_stream(data_dir / STREAMS_DIRECTORY)
    stored = in_table & in_stream.keys()
    duplicates = sum(count - 1 for count in in_stream.values())
    return Evidence(len(stored), len(set(acknowledged) - stored), duplicates, told)


def named(data_dir: Path, table: str) -> set[Name]:
    """The readings that a table has an item of, such as the alarms that the edge's function made of them.

    One that was raised again after a crash has the name that it had before.
    """
    with reading(data_dir / DATABASE_FILE) as connection:
        return _names(connection, table)


def _in_table(database: Path, table: str, topic: str) -> tuple[set[Name], int]:
    with reading(database) as connection:
        return _names(connection, table), len(alerts.newest(connection, topic, alerts.HISTORY_MAX))


def _names(connection: sqlite3.Connection, table: str) -> set[Name]:
    items = tables.scan(connection, table, limit=tables.count(connection, table))
    return {(str(item.pk), int(item.sk)) for item in items}


def _in_stream(directory: Path) -> Counter[Name]:
    found: Counter[Name] = Counter()
    for path in directory.rglob("*.gz"):
        for line in gzip.decompress(path.read_bytes()).splitlines():
            record = orjson.loads(line)
            found[record["machine"], record["reading"]] += 1
    return found
