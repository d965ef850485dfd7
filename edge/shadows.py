"""The shadows at this edge: on disk before anyone is told, and told to whoever subscribed.

An update is decided and written in one job of the store, so two updates of a shadow never meet; jobs that wait together
share a commit. What is told goes out by `publish`, on AWS's topics, after the commit.

Will not decide what becomes of a document (`shadow.document` does).
"""

import sqlite3
import time
from collections.abc import Callable

import orjson

from core.message import Message
from core.store import Store, ensure_room
from shadow import document, requests
from shadow.document import Shadow, Told

SCHEMA = """
CREATE TABLE IF NOT EXISTS shadows(
    thing TEXT, name TEXT, version INTEGER, deleted INTEGER, document BLOB,
    PRIMARY KEY(thing, name)) WITHOUT ROWID;
"""


class Shadows:
    """The shadows in `store`, whose schema has SCHEMA. A classic shadow's name is None."""

    def __init__(self, store: Store, publish: Callable[[list[Message]], None]) -> None:
        self._store = store
        self._publish = publish

    async def get(self, thing: str, name: str | None) -> bytes:
        """The document. Raises ShadowError, StorageError."""
        requests.check_name(thing, name)
        shadow = await self._store.run(lambda connection: _load(connection, thing, name))
        return orjson.dumps(document.get(shadow, name, _now()).accepted)

    async def update(self, thing: str, name: str | None, payload: bytes) -> bytes:
        """Merge an update in; what is told to whoever asked. Raises ShadowError, StorageError."""
        requests.check_name(thing, name)
        request = requests.read(payload)
        path = self._store.path

        def job(connection: sqlite3.Connection) -> Told:
            ensure_room(connection, path)
            shadow, told = document.update(_load(connection, thing, name), request, _now())
            _save(connection, thing, name, shadow)
            return told

        told = await self._store.run(job, lambda told: self._tell(thing, name, "update", told))
        return orjson.dumps(told.accepted)

    async def names(self, thing: str) -> list[str]:
        """The named shadows of a thing, sorted. Raises ShadowError, StorageError."""
        requests.check_name(thing, None)
        found = "SELECT name FROM shadows WHERE thing = ? AND name != '' AND NOT deleted ORDER BY name"
        return await self._store.run(lambda c: [name for (name,) in c.execute(found, (thing,))])

    async def delete(self, thing: str, name: str | None) -> bytes:
        """Take the document away. Raises ShadowError, StorageError."""
        requests.check_name(thing, name)

        def job(connection: sqlite3.Connection) -> Told:
            shadow, told = document.delete(_load(connection, thing, name), name, _now())
            _save(connection, thing, name, shadow)
            return told

        told = await self._store.run(job, lambda told: self._tell(thing, name, "delete", told))
        return orjson.dumps(told.accepted)

    def _tell(self, thing: str, name: str | None, operation: str, told: Told) -> None:
        topic = f"$aws/things/{thing}/shadow{f'/name/{name}' if name is not None else ''}/{operation}"
        parts = (("delta", told.delta), ("documents", told.documents), ("accepted", told.accepted))
        at = time.time_ns() // 1_000_000
        self._publish(
            [
                Message(f"{topic}/{word}", orjson.dumps(content), received_at=at)
                for word, content in parts
                if content is not None
            ]
        )


def salvage(source: sqlite3.Connection, target: sqlite3.Connection) -> int:
    """Copy what can be read out of a damaged database; returns how many shadows that are."""
    copied = 0
    try:
        for row in source.execute("SELECT thing, name, version, deleted, document FROM shadows"):
            target.execute("INSERT OR REPLACE INTO shadows VALUES (?,?,?,?,?)", row)
            copied += 1
    except sqlite3.Error:
        return copied
    return copied


def _now() -> int:
    return int(time.time())


def _load(connection: sqlite3.Connection, thing: str, name: str | None) -> Shadow:
    row = connection.execute(
        "SELECT version, deleted, document FROM shadows WHERE thing = ? AND name = ?", (thing, name or "")
    ).fetchone()
    if row is None:
        return Shadow()
    version, deleted, text = row
    return Shadow(version, bool(deleted), **orjson.loads(text))


def _save(connection: sqlite3.Connection, thing: str, name: str | None, shadow: Shadow) -> None:
    text = orjson.dumps({"state": shadow.state, "metadata": shadow.metadata})
    connection.execute(
        "INSERT OR REPLACE INTO shadows VALUES (?,?,?,?,?)",
        (thing, name or "", shadow.version, shadow.deleted, text),
    )
