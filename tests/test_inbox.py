"""Every message of every frame enters the inbox exactly once, however often and in whatever pieces it comes."""

import sqlite3
from collections.abc import Iterator

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud import inbox
from cloud.inbox import RANGES_MAX, SCHEMA, TooManyGaps
from core import frames
from core.message import Message, Origin

T = 1_800_000_000_000


def memory() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(SCHEMA)
    return connection


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = memory()
    yield connection
    connection.close()


def put(
    db: sqlite3.Connection,
    first: int,
    last: int,
    *,
    floor: int = 1,
    edge: str = "hall",
    lane: str = "all",
    epoch: int = 5,
) -> int:
    """Put a frame whose messages say their own numbers."""
    messages = [Message("t", b"%d" % number, received_at=T) for number in range(first, last + 1)]
    frame = frames.encode(edge, lane, epoch, first, floor, messages)
    return inbox.put(db, frames.read_header(frame), frame, T)


def fresh_numbers(db: sqlite3.Connection) -> list[int]:
    """What the rules will be given, in order, by what the messages say."""
    found = []
    for entry in inbox.read(db, 10**9):
        header, messages = frames.decode(entry.frame)
        for first, last in entry.fresh:
            found += [int(messages[number - header.first].payload) for number in range(first, last + 1)]
    return found


def seen(db: sqlite3.Connection) -> list[list[int]]:
    [(ranges,)] = db.execute("SELECT ranges FROM seen").fetchall()
    found: list[list[int]] = orjson.loads(ranges)
    return found


def test_a_repeated_frame_adds_nothing(db: sqlite3.Connection) -> None:
    assert put(db, 1, 10) == 10
    assert put(db, 1, 10) == 0
    assert put(db, 3, 4) == 0
    assert fresh_numbers(db) == list(range(1, 11))
    assert inbox.waiting(db) == (1, 10)


def test_of_a_frame_that_overlaps_only_the_rest_is_new(db: sqlite3.Connection) -> None:
    put(db, 5, 8)
    put(db, 11, 12)
    assert put(db, 1, 15) == 9
    assert fresh_numbers(db) == [5, 6, 7, 8, 11, 12, 1, 2, 3, 4, 9, 10, 13, 14, 15]
    assert seen(db) == [[1, 15]]


def test_a_lane_may_come_newest_first(db: sqlite3.Connection) -> None:
    for first in range(91, 0, -10):
        assert put(db, first, first + 9) == 10
    assert sorted(fresh_numbers(db)) == list(range(1, 101))
    assert seen(db) == [[1, 100]]


def test_gaps_below_the_floor_are_forgotten(db: sqlite3.Connection) -> None:
    for first in (1, 5, 9, 13):
        put(db, first, first + 1)
    assert len(seen(db)) == 4
    assert put(db, 20, 21, floor=11) == 2
    assert seen(db) == [[1, 10], [13, 14], [20, 21]]
    assert put(db, 22, 22, floor=22) == 1
    assert seen(db) == [[1, 22]]


def test_edges_lanes_and_epochs_do_not_interfere(db: sqlite3.Connection) -> None:
    assert put(db, 1, 10) == 10
    assert put(db, 1, 10, edge="yard") == 10
    assert put(db, 1, 10, lane="alarms") == 10
    assert put(db, 1, 10, epoch=2**63 - 1) == 10
    assert put(db, 1, 10, epoch=2**63 - 1) == 0
    assert put(db, 1, 10) == 0
    assert inbox.waiting(db) == (4, 40)


def test_what_is_seen_is_remembered_when_the_inbox_is_empty_again(db: sqlite3.Connection) -> None:
    put(db, 1, 10)
    inbox.done(db, inbox.read(db, 100))
    assert inbox.waiting(db) == (0, 0)
    assert put(db, 1, 10) == 0
    assert inbox.waiting(db) == (0, 0)


def test_entries_come_oldest_first_up_to_a_number_of_messages_but_at_least_one(db: sqlite3.Connection) -> None:
    for first in (1, 11, 21):
        put(db, first, first + 9)
    assert [entry.fresh for entry in inbox.read(db, 1)] == [[(1, 10)]]
    assert [entry.fresh for entry in inbox.read(db, 19)] == [[(1, 10)]]
    assert [entry.fresh for entry in inbox.read(db, 20)] == [[(1, 10)], [(11, 20)]]
    inbox.done(db, inbox.read(db, 20))
    assert [entry.fresh for entry in inbox.read(db, 100)] == [[(21, 30)]]


def test_a_lane_with_too_many_gaps_is_refused_and_nothing_of_it_changes(db: sqlite3.Connection) -> None:
    gaps = [[number * 2 + 1, number * 2 + 1] for number in range(RANGES_MAX)]
    db.execute("INSERT INTO seen VALUES ('hall', 'all', 5, ?)", (orjson.dumps(gaps).decode(),))
    with pytest.raises(TooManyGaps):
        put(db, 10**6, 10**6)
    assert (seen(db), inbox.waiting(db), inbox.edges(db)) == (gaps, (0, 0), [])
    assert put(db, 2, 2) == 1  # one that closes a gap is welcome
    assert put(db, 10**6, 10**6) == 1
    assert put(db, 10**7, 10**7, floor=10**7) == 1
    assert seen(db) == [[1, 10**7]]


def test_people_see_what_each_edge_has_sent(db: sqlite3.Connection) -> None:
    put(db, 1, 10)
    put(db, 5, 14)
    put(db, 1, 3, edge="")
    assert inbox.edges(db) == [
        {"edge": "(direct)", "messages": 3, "repeated": 0, "last_heard": "2027-01-15T08:00:00+00:00"},
        {"edge": "hall", "messages": 14, "repeated": 6, "last_heard": "2027-01-15T08:00:00+00:00"},
    ]


FRAMES = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 12), st.integers(0, 20)), max_size=15)


@given(FRAMES)
@settings(max_examples=60, deadline=None)
def test_the_rules_are_given_each_number_once(frames_: list[tuple[int, int, int]]) -> None:
    """Any frames in any order, with a floor that only ever rises, and the worker in between."""
    db = memory()
    given_: list[int] = []
    sent: set[int] = set()
    floor = 1
    for first, more, rise in frames_:
        floor = min(max(floor, rise), first)
        sent |= set(range(first, first + more + 1))
        put(db, first, first + more, floor=floor)
        if rise % 3 == 0:
            given_ += fresh_numbers(db)
            inbox.done(db, inbox.read(db, 10**9))
    given_ += fresh_numbers(db)
    assert len(given_) == len(set(given_))
    assert set(given_) <= sent
    db.close()


# -- who sent it -------------------------------------------------------------------------------------------------------


def test_what_a_client_published_here_keeps_its_origin_until_the_rules_have_had_it(db: sqlite3.Connection) -> None:
    frame = frames.encode("", "direct", 5, 1, 1, [Message("t", b"1", received_at=T)])
    origin = Origin("ab" * 32, "2001:db8::7", "mqtt")
    assert inbox.put(db, frames.read_header(frame), frame, T, origin) == 1
    assert inbox.put(db, frames.read_header(frame), frame, T, origin) == 0  # a repeat adds nothing
    put(db, 1, 2)
    direct, relayed = inbox.read(db, 10)
    assert (direct.origin, relayed.origin) == (origin, None)
    inbox.done(db, [direct, relayed])
    assert db.execute("SELECT count(*) FROM origins").fetchone() == (0,)


def test_an_inbox_of_an_earlier_release_is_read_on(db: sqlite3.Connection) -> None:
    put(db, 1, 3)
    db.execute("DROP TABLE origins")
    db.executescript(SCHEMA)  # as every start does
    [entry] = inbox.read(db, 10)
    assert (entry.fresh, entry.origin) == ([(1, 3)], None)
