"""The dead-letter store keeps the newest failures, whole, and tells what it had to let go."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from functions import dead_letters
from functions.invocations import Invocation
from functions.names import FunctionName


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(dead_letters.SCHEMA)
        yield connection


def add(db: sqlite3.Connection, payload: bytes = b"1", function: str = "f", response: bytes = b"") -> int:
    given = Invocation("id", FunctionName.parse(function), payload, b"{}", 5, 3)
    return dead_letters.add(db, given, "RetriesExhausted", "why", response, 7)


def test_a_letter_is_read_as_it_was_written(db: sqlite3.Connection) -> None:
    add(db, b"\x00payload", "f:live", b"error")
    contents = dead_letters.get(db, 1)
    assert contents is not None
    assert contents.letter == dead_letters.Letter(1, "id", "f:live", 7, 5, 3, "RetriesExhausted", "why", 8)
    assert (contents.payload, contents.client_context, contents.response) == (b"\x00payload", b"{}", b"error")
    assert contents.function == FunctionName("f", "live")


def test_letters_are_listed_oldest_first_by_function_and_page(db: sqlite3.Connection) -> None:
    for function in ("f", "g", "f:live", "f2", "f"):
        add(db, function=function)
    assert [letter.id for letter in dead_letters.letters(db)] == [1, 2, 3, 4, 5]
    assert [letter.id for letter in dead_letters.letters(db, "f")] == [1, 3, 5]
    assert [letter.id for letter in dead_letters.letters(db, "f:live")] == [3]
    assert [letter.id for letter in dead_letters.letters(db, after=2, most=2)] == [3, 4]
    assert dead_letters.count(db) == 5


def test_a_damaged_event_is_named_so_and_can_be_dropped(db: sqlite3.Connection) -> None:
    add(db)
    db.execute("UPDATE function_dead_letters SET payload = x'32'")
    contents = dead_letters.get(db, 1)
    assert contents is not None
    assert contents.payload is None
    assert dead_letters.drop(db, 1)
    assert not dead_letters.drop(db, 1)
    assert dead_letters.get(db, 1) is None


def test_the_newest_stay_and_those_that_go_are_counted(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "LETTERS_MAX", 100)
    gone = sum(add(db) for _ in range(1_000))
    left = [letter.id for letter in dead_letters.letters(db, most=10_000)]
    assert len(left) + gone == 1_000
    assert 100 <= len(left) <= 100 + dead_letters.LOOK_EVERY
    assert left == list(range(1_001 - len(left), 1_001))


def test_they_are_bounded_in_bytes_too(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "LETTERS_BYTES_MAX", 100_000)
    for _ in range(3 * dead_letters.LOOK_EVERY):
        add(db, b"x" * 10_000)
    assert dead_letters.count(db) == 10


def test_of_a_long_answer_the_beginning_is_kept(db: sqlite3.Connection) -> None:
    add(db, response=b"x" * 1_000_000)
    contents = dead_letters.get(db, 1)
    assert contents is not None
    assert len(contents.response) == dead_letters.RESPONSE_BYTES_MAX


def test_they_are_saved_from_a_damaged_file(db: sqlite3.Connection) -> None:
    add(db, b"1")
    add(db, b"2")
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as target:
        target.executescript(dead_letters.SCHEMA)
        assert dead_letters.salvage(db, target) == 2
        assert dead_letters.letters(target) == dead_letters.letters(db)
    with closing(sqlite3.connect(":memory:")) as empty:
        assert dead_letters.salvage(empty, db) == 0


def test_a_damaged_page_costs_the_letters_on_it_and_none_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path)) as source:
        source.executescript(dead_letters.SCHEMA)
        for number in range(100):
            add(source, b"%03d" % number + b"x" * 900)
        source.commit()
    place = path.read_bytes().index(b"050xxx")
    with path.open("r+b") as file:
        file.seek(place // 4_096 * 4_096)
        file.write(b"\xff" * 4_096)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(":memory:")) as target:
        target.executescript(dead_letters.SCHEMA)
        assert 90 <= dead_letters.salvage(source, target) < 100
        assert dead_letters.get(target, 100) is not None
