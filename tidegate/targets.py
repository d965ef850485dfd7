"""`tidegate tables`, `tidegate streams`, `tidegate alerts`: what the cloud's embedded targets hold.

Reads the cloud's database beside the daemon, or without it; changes nothing. Only `streams flush` asks the daemon.
"""

import gzip
import os
import shutil
import sqlite3
import sys
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from cloud.config import CloudConfig, load
from cloud.targets import alerts as topics
from cloud.targets import owed
from cloud.targets import streams as pending
from cloud.targets import tables as items
from cloud.targets.names import Prefix, is_object_of
from cloud.targets.objects import check_key
from core import control
from core.cli import Json, errors_to_exit_codes, print_facts, print_json, print_rows
from core.errors import TidegateError
from core.reader import reading

DATABASE = "cloud.db"

tables = typer.Typer(no_args_is_help=True, help="What the tables hold (dynamoDB, dynamoDBv2).")
streams = typer.Typer(no_args_is_help=True, help="What the streams hold and have delivered (firehose).")
alerts = typer.Typer(no_args_is_help=True, help="What the topics were told, and who was not reached (sns).")

Config = Annotated[Path, typer.Option("--config", help="The cloud's configuration file.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most so many.")]
DEFAULT_CONFIG = Path("cloud.toml")


@tables.command("list")
def list_tables(config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """The configured tables and their keys."""
    with errors_to_exit_codes():
        tables = load(config).targets.tables
        rows = [{"table": name, "keys": list(table.keys)} for name, table in tables.items()]
        print_rows(rows, as_json=as_json)


@tables.command("count")
def count_items(
    table: str | None = typer.Argument(None), config: Config = DEFAULT_CONFIG, as_json: Json = False
) -> None:
    """How many items each table holds, or one of them."""
    with errors_to_exit_codes():
        cloud = load(config)
        names = list(cloud.targets.tables) if table is None else [table]
        _check_table(cloud, table)
        with reading(_database(cloud)) as connection:
            counts = {name: items.count(connection, name) for name in names}
        print_facts(counts, as_json=as_json)


@tables.command("scan")
def scan_table(table: str, limit: Limit = 100, config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """The items of a table, in the order of their keys."""
    with errors_to_exit_codes():
        cloud = load(config)
        _check_table(cloud, table)
        with reading(_database(cloud)) as connection:
            _print_items(list(items.scan(connection, table, limit)), as_json)


@tables.command("get")
def get_item(
    table: str, key: str, sort_key: str | None = typer.Argument(None), limit: Limit = 100,
    config: Config = DEFAULT_CONFIG, as_json: Json = False,
) -> None:  # fmt: skip
    """One item by its key; without the sort key all items of the partition key."""
    with errors_to_exit_codes():
        cloud = load(config)
        _check_table(cloud, table)
        with reading(_database(cloud)) as connection:
            if sort_key is None:
                found = [item for pk in _as_keys(key) for item in items.query(connection, table, pk, limit)]
            else:
                each = (items.get(connection, table, *both) for both in product(_as_keys(key), _as_keys(sort_key)))
                found = [item for item in each if item]
        if not found:
            raise TidegateError(f"table {table} has no item with the key {' '.join(filter(None, (key, sort_key)))}")
        _print_items(found[:limit], as_json)


def _as_keys(text: str) -> list[items.Key]:
    # On a command line the number 7 and the string "7" look alike; a table usually has one of them.
    try:
        number = orjson.loads(text)
    except orjson.JSONDecodeError:
        return [text]
    return [text, number] if isinstance(number, int | float) and not isinstance(number, bool) else [text]


def _print_items(found: list[items.Item], as_json: bool) -> None:
    if as_json:
        print_json([orjson.loads(item.json) for item in found])
    else:
        print_rows({"key": _key_shown(item), "item": item.json.decode()} for item in found)


def _key_shown(item: items.Item) -> str:
    return " ".join(str(key) for key in (item.pk, item.sk) if key != items.NO_SORT_KEY)


def _check_table(cloud: CloudConfig, table: str | None) -> None:
    if table is not None:
        items.Tables(cloud.targets.tables).check(table)


@streams.command("list")
def list_streams(config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """What each stream has delivered and what is pending; bytes are before compression."""
    with errors_to_exit_codes():
        cloud = load(config)
        with reading(_database(cloud)) as connection:
            rows = [_stream_row(connection, name) for name in cloud.targets.streams]
        print_rows(rows, as_json=as_json)


def _stream_row(connection: sqlite3.Connection, stream: str) -> dict[str, Any]:
    status = pending.status(connection, stream)
    return {
        "stream": stream,
        "pending_records": status.pending_records,
        "pending_bytes": status.pending_bytes,
        "oldest": None if status.oldest_ms is None else _time(status.oldest_ms),
        "objects": status.delivered_objects,
        "records": status.delivered_records,
        "bytes": status.delivered_bytes,
    }


@streams.command("ls")
def list_objects(stream: str, config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """The objects of a stream, oldest first."""
    with errors_to_exit_codes():
        cloud = load(config)
        directory = _directory(cloud, stream)
        sizes = {str(path.relative_to(directory)): path.stat().st_size for path in _objects(cloud, stream)}
        if as_json:
            print_json([{"object": key, "bytes": size} for key, size in sizes.items()])
            return
        for key in sizes:  # one line each, whatever the terminal's width, for other commands to read
            print(key)


@streams.command("cat")
def print_objects(
    name: Annotated[str, typer.Argument(metavar="STREAM|OBJECT")], config: Config = DEFAULT_CONFIG
) -> None:
    """The records of an object, or of all objects of a stream, as they were sent."""
    with errors_to_exit_codes():
        cloud = load(config)
        try:
            for path in _objects(cloud, name) if name in cloud.targets.streams else [_object(cloud, name)]:
                with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                    shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except BrokenPipeError:  # whoever reads has seen enough, as in `… | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@streams.command("flush")
def flush_streams(
    stream: str | None = typer.Argument(None), config: Config = DEFAULT_CONFIG, as_json: Json = False
) -> None:
    """Make the daemon deliver what is pending now, of one stream or of all."""
    with errors_to_exit_codes():
        cloud = load(config)
        if stream is not None:
            pending.Streams(cloud.targets.streams).check(stream)
        answer = control.request(cloud.cloud.data_dir / "control.sock", "flush", stream=stream)
        print_facts(answer, as_json=as_json)


def _directory(cloud: CloudConfig, stream: str) -> Path:
    pending.Streams(cloud.targets.streams).check(stream)
    return cloud.targets.streams[stream].directory or cloud.cloud.data_dir / "streams"


def _objects(cloud: CloudConfig, stream: str) -> list[Path]:
    directory, prefix = _directory(cloud, stream), Prefix(cloud.targets.streams[stream].prefix)
    found = (path for path in directory.rglob("*") if is_object_of(prefix, stream, path.name))
    # The name has the time to the second; within one, the order in which they were written.
    return sorted(found, key=lambda path: (path.name.rsplit("-", 5)[0], path.stat().st_mtime_ns))


def _object(cloud: CloudConfig, key: str) -> Path:
    check_key(key)
    for stream in cloud.targets.streams:
        path = _directory(cloud, stream) / key
        if path.is_file():
            return path
    raise TidegateError(f"there is no stream and no object {key!r}; see `tidegate streams list` and `ls`")


@alerts.command("list")
def list_topics(config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Every subscription and what became of what it was owed."""
    with errors_to_exit_codes():
        cloud = load(config)
        with reading(_database(cloud)) as connection:
            rows = [
                {"topic": topic, "subscription": label, **owed.tally(connection, topic, label)._asdict()}
                for topic, label in topics.Topics(cloud.targets.topics).subscriptions()
            ]
        print_rows(rows, as_json=as_json)


@alerts.command("tail")
def tail_topic(topic: str, limit: Limit = 20, config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """The newest notifications of a topic."""
    with errors_to_exit_codes():
        cloud = load(config)
        topics.Topics(cloud.targets.topics).check(topic)
        with reading(_database(cloud)) as connection:
            told = topics.newest(connection, topics.topic_name(topic), limit)
        if as_json:
            print_json([each._asdict() for each in told])
        else:
            print_rows({"time": _time(t.at_ms), "subject": t.subject, "message": t.message} for t in told)


@alerts.command("failed")
def failed_deliveries(topic: str, limit: Limit = 20, config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """The newest notifications that a subscription never got, and why."""
    with errors_to_exit_codes():
        cloud = load(config)
        topics.Topics(cloud.targets.topics).check(topic)
        with reading(_database(cloud)) as connection:
            found = owed.failures(connection, topics.topic_name(topic), limit)
        if as_json:
            print_json([each._asdict() for each in found])
        else:
            print_rows(
                {"time": _time(f.at_ms), "subscription": f.subscription, "attempts": f.attempts, "error": f.error}
                for f in found
            )


def _database(cloud: CloudConfig) -> Path:
    return cloud.cloud.data_dir / DATABASE


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
