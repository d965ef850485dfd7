"""The shadows at an edge: on disk before they are told, one after the other, and there after a restart."""

import asyncio
from pathlib import Path

import orjson
import pytest

from core.message import Message
from core.store import Store
from edge.shadows import SCHEMA, Shadows
from shadow.errors import ShadowError


async def test_an_update_is_told_on_awss_topics_and_read_after_a_restart(tmp_path: Path) -> None:
    told: list[Message] = []
    store = Store(tmp_path / "shadows.db", SCHEMA)
    shadows = Shadows(store, told.extend)
    await shadows.update("pump", None, b'{"state": {"desired": {"on": true}}, "clientToken": "t"}')
    await shadows.update("pump", "config", b'{"state": {"reported": {"v": 1}}}')
    await store.close()
    topics = [message.topic for message in told]
    assert topics == [
        "$aws/things/pump/shadow/update/delta",
        "$aws/things/pump/shadow/update/documents",
        "$aws/things/pump/shadow/update/accepted",
        "$aws/things/pump/shadow/name/config/update/documents",
        "$aws/things/pump/shadow/name/config/update/accepted",
    ]
    assert orjson.loads(told[2].payload)["clientToken"] == "t"
    store = Store(tmp_path / "shadows.db", SCHEMA)
    shadows = Shadows(store, told.extend)
    assert orjson.loads(await shadows.get("pump", None))["state"] == {"desired": {"on": True}, "delta": {"on": True}}
    assert orjson.loads(await shadows.get("pump", "config"))["state"] == {"reported": {"v": 1}}
    await store.close()


async def test_a_hundred_updates_at_once_lose_none(tmp_path: Path) -> None:
    store = Store(tmp_path / "shadows.db", SCHEMA)
    shadows = Shadows(store, lambda _: None)
    requests = [f'{{"state": {{"reported": {{"k{n}": {n}}}}}}}'.encode() for n in range(100)]
    await asyncio.gather(*(shadows.update("pump", None, request) for request in requests))
    document = orjson.loads(await shadows.get("pump", None))
    assert document["version"] == 100
    assert document["state"]["reported"] == {f"k{n}": n for n in range(100)}
    await store.close()


async def test_what_was_deleted_is_gone_and_its_version_goes_on(tmp_path: Path) -> None:
    told: list[Message] = []
    store = Store(tmp_path / "shadows.db", SCHEMA)
    shadows = Shadows(store, told.extend)
    await shadows.update("pump", None, b'{"state": {"reported": {"v": 1}}}')
    await shadows.delete("pump", None)
    assert told[-1].topic == "$aws/things/pump/shadow/delete/accepted"
    with pytest.raises(ShadowError):
        await shadows.get("pump", None)
    answer = orjson.loads(await shadows.update("pump", None, b'{"state": {"reported": {"v": 2}}}'))
    assert answer["version"] > 1
    await store.close()


async def test_a_refused_update_changes_nothing_and_tells_nobody(tmp_path: Path) -> None:
    told: list[Message] = []
    store = Store(tmp_path / "shadows.db", SCHEMA)
    shadows = Shadows(store, told.extend)
    for payload in (b"{", b'{"state": {"other": {}}}', b'{"state": {}, "version": 7}'):
        with pytest.raises(ShadowError):
            await shadows.update("pump", None, payload)
    with pytest.raises(ShadowError):
        await shadows.get("pump", None)
    assert told == []
    await store.close()
