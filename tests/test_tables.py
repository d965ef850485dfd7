"""Tables keep one item per key, as DynamoDB's PutItem does."""

import sqlite3
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.targets import UnknownTarget
from cloud.targets.config import TableConfig
from cloud.targets.tables import ITEM_BYTES_MAX, SCHEMA, Tables, count, get, query, scan
from core.errors import ConfigurationError

TABLES = Tables({"latest": TableConfig(keys=("machine",)), "readings": TableConfig(keys=("machine", "at"))})


def memory() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCHEMA)
    return connection


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = memory()
    yield connection
    connection.close()


def contents(db: sqlite3.Connection, table: str) -> list[Any]:
    return [orjson.loads(item.json) for item in scan(db, table, 1_000)]


def test_an_item_replaces_the_one_with_the_same_key(db: sqlite3.Connection) -> None:
    TABLES.put(db, "latest", [{"machine": "press", "t": 1, "old": True}, {"machine": "mill", "t": 5}])
    TABLES.put(db, "latest", [{"machine": "press", "t": 2}])
    assert contents(db, "latest") == [{"machine": "mill", "t": 5}, {"machine": "press", "t": 2}]


def test_the_last_valid_item_of_a_batch_wins(db: sqlite3.Connection) -> None:
    too_large = {"machine": "press", "t": 3, "x": "y" * ITEM_BYTES_MAX}
    rejected = TABLES.put(db, "latest", [{"machine": "press", "t": 1}, {"machine": "press", "t": 2}, too_large])
    assert contents(db, "latest") == [{"machine": "press", "t": 2}]
    assert [each.index for each in rejected] == [2]


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ([{"machine": "press"}], "not a JSON object"),
        ("press", "not a JSON object"),
        (None, "not a JSON object"),
        ({}, "no key member 'machine'"),
        ({"machine": None, "at": 1}, "no key member 'machine'"),
        ({"Machine": "press", "at": 1}, "no key member 'machine'"),
        ({"machine": "press"}, "no key member 'at'"),
        ({"machine": True, "at": 1}, "boolean"),
        ({"machine": ["press"], "at": 1}, "a list"),
        ({"machine": {"S": "press"}, "at": 1}, "a dict"),
        ({"machine": "", "at": 1}, "0 bytes"),
        ({"machine": "p" * 2_049, "at": 1}, "2,049 bytes"),
        ({"machine": "press", "at": "ü" * 513}, "1,026 bytes"),
        ({"machine": "press", "at": 2**63}, "beyond 64 bits"),
        ({"machine": "press", "at": float("nan")}, "beyond 64 bits"),
        ({"machine": "press", "at": float("inf")}, "beyond 64 bits"),
        ({"machine": "press", "at": 10**400}, "beyond 64 bits"),
        ({"machine": "\ud800", "at": 1}, "not valid Unicode"),
        ({"machine": "press", "at": 1, "note": "\ud800"}, "not a JSON value"),
        ({"machine": "press", "at": 1, "x": {1, 2}}, "not a JSON value"),
        ({"machine": "press", "at": 1, 7: "x"}, "not a JSON value"),
        ({"machine": "press", "at": 1, "x": "y" * ITEM_BYTES_MAX}, "more than 409,600"),
    ],
)
def test_a_bad_item_is_refused_with_its_reason_and_costs_the_others_nothing(
    db: sqlite3.Connection, item: Any, reason: str
) -> None:
    good = [{"machine": "press", "at": 100}, {"machine": "press", "at": 200}]
    rejected = TABLES.put(db, "readings", [good[0], item, good[1]])
    assert [each.index for each in rejected] == [1]
    assert reason in rejected[0].reason
    assert contents(db, "readings") == good


def test_an_item_of_exactly_the_largest_size_is_stored(db: sqlite3.Connection) -> None:
    frame = len(orjson.dumps({"machine": "press", "x": ""}))
    assert TABLES.put(db, "latest", [{"machine": "press", "x": "y" * (ITEM_BYTES_MAX - frame)}]) == []
    assert count(db, "latest") == 1


def test_numbers_sort_by_value_and_before_strings(db: sqlite3.Connection) -> None:
    keys: list[Any] = ["10", 10, 9, 1.5, -2, "9", 2**62, 2**62 + 1, 1e300, "a"]
    assert TABLES.put(db, "readings", [{"machine": "press", "at": key} for key in keys]) == []
    found = [orjson.loads(item.json)["at"] for item in query(db, "readings", "press", 100)]
    assert found == [-2, 1.5, 9, 10, 2**62, 2**62 + 1, 1e300, "10", "9", "a"]


def test_one_and_one_point_zero_are_the_same_number_but_not_the_string(db: sqlite3.Connection) -> None:
    TABLES.put(db, "latest", [{"machine": 1, "v": "int"}, {"machine": 1.0, "v": "float"}])
    TABLES.put(db, "latest", [{"machine": "1", "v": "string"}])
    assert contents(db, "latest") == [{"machine": 1.0, "v": "float"}, {"machine": "1", "v": "string"}]
    TABLES.put(db, "latest", [{"machine": 1, "v": "int"}])
    assert count(db, "latest") == 2
    found = get(db, "latest", 1.0)
    assert found is not None
    assert orjson.loads(found.json) == {"machine": 1, "v": "int"}


def test_a_binary_key_is_kept_apart_from_text_and_shown_as_base64(db: sqlite3.Connection) -> None:
    TABLES.put(db, "latest", [{"machine": b"\x00\xff"}, {"machine": "AP8="}])
    assert contents(db, "latest") == [{"machine": "AP8="}, {"machine": "AP8="}]
    assert get(db, "latest", b"\x00\xff") != get(db, "latest", "AP8=")


def test_a_scan_goes_on_behind_the_last_key_seen(db: sqlite3.Connection) -> None:
    everything = [{"machine": machine, "at": at} for machine in ("a", "b") for at in (1, 2, "x")]
    TABLES.put(db, "readings", everything)
    TABLES.put(db, "latest", [{"machine": "other table"}])
    seen: list[Any] = []
    after = None
    while page := list(scan(db, "readings", 4, after)):
        seen += [orjson.loads(item.json) for item in page]
        after = (page[-1].pk, page[-1].sk)
    assert seen == everything


def test_a_query_sees_one_partition_only(db: sqlite3.Connection) -> None:
    TABLES.put(db, "readings", [{"machine": machine, "at": at} for machine in "ab" for at in (2, 1)])
    assert [(item.pk, item.sk) for item in query(db, "readings", "b", 10)] == [("b", 1), ("b", 2)]
    assert [item.sk for item in query(db, "readings", "b", 1)] == [1]


def test_a_table_that_is_not_configured_is_named_with_those_that_are() -> None:
    with pytest.raises(UnknownTarget, match=r"no table 'typo'.*configured: latest, readings"):
        TABLES.check("typo")
    TABLES.check("latest")


def test_a_table_with_items_keeps_its_keys_and_an_empty_one_may_change_them(db: sqlite3.Connection) -> None:
    TABLES.open(db)
    TABLES.open(db)
    changed = Tables({"latest": TableConfig(keys=("device",))})
    changed.open(db)
    changed.put(db, "latest", [{"device": "d1"}])
    with pytest.raises(ConfigurationError, match=r"targets\.tables\.latest\.keys: .*device"):
        TABLES.open(db)


KEYS = st.one_of(
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4),
    st.binary(min_size=1, max_size=4),
)


@given(st.lists(st.lists(st.tuples(KEYS, st.integers(0, 9)), max_size=8), max_size=5))
def test_a_table_holds_what_a_dict_would(batches: list[list[tuple[Any, int]]]) -> None:
    # Python's == on keys is DynamoDB's: 1 == 1.0, 1 != "1", "a" != b"a".
    model: dict[Any, int] = {}
    db = memory()
    for batch in batches:
        assert TABLES.put(db, "latest", [{"machine": key, "v": value} for key, value in batch]) == []
        model.update(batch)
    stored = {item.pk: orjson.loads(item.json)["v"] for item in scan(db, "latest", 1_000)}
    assert stored == model
    numbers = [item.pk for item in scan(db, "latest", 1_000) if isinstance(item.pk, int | float)]
    assert numbers == sorted(numbers)
    db.close()
