"""DynamoDB-shaped tables in SQLite: one item per key, replaced by the next item with the same key (PutItem).

Decides whether an item may be stored and under which key. Will not run queries on other attributes, nor
update parts of an item: rules only put. The item is kept as the JSON text of the SQL result, its key beside
it in SQLite's own types, which gives DynamoDB's order for free: numbers by value (1 and 1.0 are one number),
then strings by their UTF-8 bytes, then binary; and the string "1" is never the number 1.

Invariants:
1. Of several items with one key in a batch the last that is valid wins, and only that one is written.
2. A bad item costs itself: it is reported with its index and reason, and the others are stored.
3. A table that holds items keeps the key members it was made with.
"""

import sqlite3
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

import orjson

from cloud.targets import Rejected, UnknownTarget
from cloud.targets.config import TableConfig
from core.errors import ConfigurationError

ITEM_BYTES_MAX = 400 * 1024  # DynamoDB's limit, so that an item stored here can move there
PARTITION_KEY_BYTES_MAX = 2_048  # DynamoDB's limits for string and binary keys
SORT_KEY_BYTES_MAX = 1_024
NUMBER_MAX = 2**63 - 1  # what SQLite keeps exactly; a larger key would be rounded onto its neighbour

SCHEMA = """
CREATE TABLE IF NOT EXISTS table_items (
    table_name TEXT NOT NULL,
    pk NOT NULL,                -- no declared type: numbers, text and blobs stay what they are
    sk NOT NULL,                -- '' in a table without a sort key (DynamoDB forbids the empty key)
    item BLOB NOT NULL,
    PRIMARY KEY (table_name, pk, sk)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS table_keys (table_name TEXT PRIMARY KEY, keys TEXT NOT NULL) WITHOUT ROWID;
"""

Key = str | int | float | bytes
NO_SORT_KEY = ""

_UPSERT = """
INSERT INTO table_items VALUES (?, ?, ?, ?)
ON CONFLICT (table_name, pk, sk) DO UPDATE SET item = excluded.item
"""


class Item(NamedTuple):
    """A stored item: its partition key, its sort key (`""` when the table has none) and its JSON text."""

    pk: Key
    sk: Key
    json: bytes


class InvalidItem(ValueError):
    """Why an item cannot be stored; becomes the reason of a Rejected."""


class Tables:
    """The configured tables; holds no connection, every function is given one."""

    def __init__(self, config: Mapping[str, TableConfig]) -> None:
        self._config = dict(config)

    def check(self, table: str) -> None:
        """Raise UnknownTarget unless `table` is configured."""
        if table not in self._config:
            raise UnknownTarget("table", table, self._config)

    def open(self, connection: sqlite3.Connection) -> None:
        """Remember each table's key members; raise ConfigurationError when a table with items was given others."""
        problems: list[str] = []
        for name, config in self._config.items():
            keys = orjson.dumps(config.keys).decode()
            row = connection.execute("SELECT keys FROM table_keys WHERE table_name = ?", (name,)).fetchone()
            if row and row[0] != keys and next(scan(connection, name, 1), None):
                problems.append(
                    f"targets.tables.{name}.keys: the table holds items with the keys {row[0]}; "
                    f"take those back or use a new table name"
                )
            else:
                connection.execute("INSERT OR REPLACE INTO table_keys VALUES (?, ?)", (name, keys))
        if problems:
            raise ConfigurationError("tables", problems)

    def put(self, connection: sqlite3.Connection, table: str, items: Sequence[object]) -> list[Rejected]:
        """Store each item under its key, in place of the one that is there.

        An item is a JSON object (a dict with string keys; `bytes` are kept as base64 text, as DynamoDB's JSON
        does) with the table's key members at its top level: non-empty strings or binary, or numbers. Returns
        what was refused.
        """
        rejected: list[Rejected] = []
        rows: list[Item] = []
        for index, item in enumerate(items):
            try:
                key_of(item, self._config[table].keys)
                rows.append(self.item(table, item, _encode(item)))
            except InvalidItem as error:
                rejected.append(Rejected(index, str(error)))
        self.store(connection, table, rows)
        return rejected

    def item(self, table: str, item: object, json: bytes) -> Item:
        """What is stored of an item that is written as `json`. Raises InvalidItem, and UnknownTarget."""
        self.check(table)
        pk, sk = key_of(item, self._config[table].keys)
        if len(json) > ITEM_BYTES_MAX:
            raise InvalidItem(f"the item has {len(json):,} bytes, more than {ITEM_BYTES_MAX:,}")
        return Item(pk, sk, json)

    def store(self, connection: sqlite3.Connection, table: str, items: Sequence[Item]) -> None:
        """Store items, each in place of the one that is there under its key."""
        last = {(item.pk, item.sk): item.json for item in items}
        connection.executemany(_UPSERT, ((table, pk, sk, json) for (pk, sk), json in last.items()))

    def find(self, connection: sqlite3.Connection, table: str, key: Mapping[str, Any]) -> Item | None:
        """The item with this key, given by the names of all its members. Raises InvalidItem, and UnknownTarget."""
        self.check(table)
        keys = self._config[table].keys
        if sorted(key) != sorted(keys):
            raise InvalidItem(f"the key of {table!r} is {' and '.join(keys)}, not {' and '.join(key)}")
        return get(connection, table, *key_of(dict(key), keys))


def key_of(item: object, keys: Sequence[str]) -> tuple[Key, Key]:
    """The partition and sort key of an item; raise InvalidItem when it has none that DynamoDB would take."""
    if not isinstance(item, dict):
        raise InvalidItem("the result is not a JSON object")
    pk = _key(item, keys[0], PARTITION_KEY_BYTES_MAX)
    return pk, _key(item, keys[1], SORT_KEY_BYTES_MAX) if len(keys) > 1 else NO_SORT_KEY


def _key(item: Mapping[str, Any], name: str, bytes_max: int) -> Key:
    value = item.get(name)
    match value:
        case None:
            raise InvalidItem(f"no key member {name!r} at the top level")
        case bool():
            raise InvalidItem(f"key {name!r} is a boolean, not a string, number or binary")
        case int() | float():
            if abs(value) > NUMBER_MAX if isinstance(value, int) else not isfinite(value):
                raise InvalidItem(f"key {name!r} is a number beyond 64 bits")
            return value
        case str() | bytes():
            try:
                size = len(value.encode() if isinstance(value, str) else value)
            except UnicodeEncodeError:
                raise InvalidItem(f"key {name!r} is not valid Unicode") from None
            if not 0 < size <= bytes_max:
                raise InvalidItem(f"key {name!r} has {size:,} bytes, allowed are 1 to {bytes_max:,}")
            return value
        case _:
            raise InvalidItem(f"key {name!r} is a {type(value).__name__}, not a string, number or binary")


def _encode(item: object) -> bytes:
    try:
        return orjson.dumps(item, default=_binary)
    except TypeError as error:
        raise InvalidItem(f"not a JSON value: {error}") from None


def _binary(value: object) -> str:
    if isinstance(value, bytes):
        return b64encode(value).decode()
    raise TypeError(f"a {type(value).__name__} cannot be stored")


def get(connection: sqlite3.Connection, table: str, pk: Key, sk: Key = NO_SORT_KEY) -> Item | None:
    """The item with this whole key."""
    row = connection.execute(
        "SELECT pk, sk, item FROM table_items WHERE table_name = ? AND pk = ? AND sk = ?", (table, pk, sk)
    ).fetchone()
    return Item(*row) if row else None


def query(connection: sqlite3.Connection, table: str, pk: Key, limit: int) -> Iterator[Item]:
    """Up to `limit` items of one partition key, by sort key."""
    statement = "SELECT pk, sk, item FROM table_items WHERE table_name = ? AND pk = ? ORDER BY sk LIMIT ?"
    return map(Item._make, connection.execute(statement, (table, pk, limit)))


def scan(
    connection: sqlite3.Connection, table: str, limit: int, after: tuple[Key, Key] | None = None
) -> Iterator[Item]:
    """Up to `limit` items in key order, from the first or from behind the key `after` (the last one seen)."""
    beyond = "" if after is None else "AND (pk, sk) > (?, ?)"
    statement = f"SELECT pk, sk, item FROM table_items WHERE table_name = ? {beyond} ORDER BY pk, sk LIMIT ?"
    return map(Item._make, connection.execute(statement, (table, *(after or ()), limit)))


def count(connection: sqlite3.Connection, table: str) -> int:
    """How many items a table holds; reads the whole table."""
    row = connection.execute("SELECT count(*) FROM table_items WHERE table_name = ?", (table,)).fetchone()
    found: int = row[0]
    return found
