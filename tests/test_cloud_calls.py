"""What a cloud answers functions that call out: its registry, its files, and its tables as of the last commit."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cloud.calls import CALLS, CloudCalls
from cloud.targets import tables
from cloud.targets.config import TableConfig
from cloud.targets.tables import Tables
from core.config import RulesSection
from core.errors import ConfigurationError
from core.store import connect
from devices.answers import NoAnswer
from devices.registry import Thing
from rules.errors import CallFailed
from rules.sql.values import UNDEFINED

THINGS = {"press": Thing("press", {"hall": "1"}, (), None, 0)}
TABLES = Tables({"machines": TableConfig(keys=("id",)), "readings": TableConfig(keys=("id", "n"))})


@pytest.fixture
def calls(tmp_path: Path) -> Iterator[CloudCalls]:
    made = CloudCalls(RulesSection(directory=tmp_path), lambda: THINGS, TABLES, tmp_path / "cloud.db")
    yield made
    made.close()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(tmp_path / "cloud.db", tables.SCHEMA)) as connection:
        TABLES.open(connection)
        yield connection


def test_an_item_is_found_by_its_whole_key(calls: CloudCalls, db: sqlite3.Connection) -> None:
    TABLES.put(db, "machines", [{"id": "a", "hall": 1, "x": 0.5}, {"id": 7}])
    TABLES.put(db, "readings", [{"id": "a", "n": 1, "t": 10}, {"id": "a", "n": 2, "t": 20}])
    assert calls.get_dynamodb("machines", {"id": "a"}) == {"id": "a", "hall": 1, "x": 0.5}
    assert calls.get_dynamodb("machines", {"id": 7}) == {"id": 7}
    assert calls.get_dynamodb("machines", {"id": "7"}) is UNDEFINED
    assert calls.get_dynamodb("readings", {"id": "a", "n": 2}) == {"id": "a", "n": 2, "t": 20}
    assert calls.get_dynamodb("readings", {"n": 1.0, "id": "a"}) == {"id": "a", "n": 1, "t": 10}
    TABLES.put(db, "machines", [{"id": "a", "hall": 2}])
    assert calls.get_dynamodb("machines", {"id": "a"}) == {"id": "a", "hall": 2}


def test_what_is_not_committed_is_not_seen_and_waits_for_nobody(calls: CloudCalls, db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    TABLES.put(db, "machines", [{"id": "a"}])
    assert calls.get_dynamodb("machines", {"id": "a"}) is UNDEFINED
    db.execute("COMMIT")
    assert calls.get_dynamodb("machines", {"id": "a"}) == {"id": "a"}


@pytest.mark.parametrize(
    ("table", "key", "message"),
    [
        ("gone", {"id": "a"}, "no table 'gone'"),
        ("machines", {"name": "a"}, "the key of 'machines' is id, not name"),
        ("machines", {"id": "a", "n": 1}, "the key of 'machines' is id, not id and n"),
        ("readings", {"id": "a"}, "the key of 'readings' is id and n, not id"),
        ("machines", {"id": ""}, "0 bytes"),
        ("machines", {"id": 2**64}, "beyond 64 bits"),
    ],
)
def test_a_key_that_is_none_of_the_table_fails_the_call(
    calls: CloudCalls, db: sqlite3.Connection, table: str, key: dict[str, object], message: str
) -> None:
    with pytest.raises(CallFailed, match=message):
        calls.get_dynamodb(table, key)


def test_a_database_that_cannot_be_read_fails_the_call(calls: CloudCalls, tmp_path: Path) -> None:
    with pytest.raises(CallFailed, match="does not exist"):
        calls.get_dynamodb("machines", {"id": "a"})
    (tmp_path / "cloud.db").write_bytes(b"no database" * 100)
    with pytest.raises(CallFailed, match="not a database"):
        calls.get_dynamodb("machines", {"id": "a"})


def test_registry_and_secrets_are_as_at_the_edge(calls: CloudCalls, tmp_path: Path) -> None:
    assert calls.names == CALLS - {"get_secret"}
    assert calls.get_registry_data("DescribeThing", "press")["attributes"] == {"hall": "1"}
    with pytest.raises(NoAnswer, match="there is no thing 'lathe'"):
        calls.get_registry_data("DescribeThing", "lathe")
    with pytest.raises(NoAnswer, match="no directory of secrets"):
        calls.get_secret("word")
    (tmp_path / "word").write_text("sesame")
    section = RulesSection(directory=tmp_path, secrets=tmp_path)
    with_secrets = CloudCalls(section, dict, TABLES, tmp_path / "cloud.db")
    assert with_secrets.names == CALLS
    assert with_secrets.get_secret("word") == {"SecretString": "sesame"}
    with pytest.raises(ConfigurationError):
        CloudCalls(RulesSection(directory=tmp_path, secrets=tmp_path / "no"), dict, TABLES, tmp_path / "cloud.db")
