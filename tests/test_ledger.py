"""Logs in a database: in order, checked, and out of a damaged file as a whole or not at all."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from core import ledger
from core.store import connect


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(tmp_path / "a.db", ledger.SCHEMA)) as opened:
        yield opened


def test_pieces_come_back_in_order(connection: sqlite3.Connection) -> None:
    ledger.write(connection, [], [("a", "x", b"1"), ("b", "y", b"2")])
    ledger.write(connection, [], [("a", "x", b"3")])
    assert ledger.load(connection) == [("a", "x", b"1"), ("b", "y", b"2"), ("a", "x", b"3")]


def test_an_owner_is_deleted_before_its_new_pieces_are_appended(connection: sqlite3.Connection) -> None:
    ledger.write(connection, [], [("a", "x", b"1"), ("b", "y", b"2")])
    ledger.write(connection, ["a", "nobody"], [("a", "x", b"3")])
    assert ledger.load(connection) == [("b", "y", b"2"), ("a", "x", b"3")]


def test_a_piece_that_is_not_what_was_written_is_told(connection: sqlite3.Connection) -> None:
    ledger.write(connection, [], [("a", "x", b"1"), ("a", "x", b"2")])
    connection.execute("UPDATE ledger SET data = ? WHERE id = 1", (b"0",))
    assert ledger.load(connection) == [("a", "x", None), ("a", "x", b"2")]


def test_what_can_be_read_of_a_damaged_database_is_copied_whole(connection: sqlite3.Connection, tmp_path: Path) -> None:
    pieces = [("a", "x", bytes([n]) * 3_000) for n in range(50)]
    ledger.write(connection, [], pieces)
    with closing(connect(tmp_path / "b.db", ledger.SCHEMA)) as target:
        assert ledger.salvage(connection, target)
        assert ledger.load(target) == pieces


def test_a_log_with_a_gap_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(connect(path, ledger.SCHEMA)) as opened:
        ledger.write(opened, [], [("a", "x", bytes([n]) * 3_000) for n in range(50)])
    data = bytearray(path.read_bytes())
    middle = data.index(bytes([25]) * 2_000)
    page = middle // 4_096 * 4_096
    data[page : page + 4_096] = b"\xff" * 4_096
    path.write_bytes(data)
    with closing(sqlite3.connect(path)) as source, closing(connect(tmp_path / "b.db", ledger.SCHEMA)) as target:
        assert not ledger.salvage(source, target)
        assert ledger.load(target) == []
