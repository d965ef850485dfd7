"""Chunks: cut without gaps, read as frames need them, counted exactly when they go, and their space given back."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import blocks
from core.message import Message
from core.store import Store, connect
from edge import chunks
from edge.chunks import CHUNK_MAX_BYTES, CHUNK_MAX_MESSAGES, RECLAIM_PAGES, SCHEMA, Chunk, Removed, cut
from edge.lanes import CLOCK_PLAUSIBLE_MS, Order

NOW = CLOCK_PLAUSIBLE_MS + 1_000_000


def said(payload: bytes, at: int = NOW, topic: str = "t") -> Message:
    return Message(topic, payload, 1, False, "device", at)


def messages_of(stored: list[Chunk]) -> list[Message]:
    return [message for chunk in stored for message in blocks.decode(chunk.block)]


def numbers_of(stored: list[Chunk]) -> list[int]:
    return [number for chunk in stored for number in range(chunk.first, chunk.first + chunk.count)]


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(SCHEMA)
    yield connection
    connection.close()


def fill(db: sqlite3.Connection, runs: list[tuple[str, int, int, int]]) -> list[int]:
    """Store one chunk for each (lane, epoch, first, count); returns their ids."""
    stored = []
    for lane, epoch, first, count in runs:
        chunks.insert(db, cut(lane, epoch, first, [said(b"%d" % (first + n)) for n in range(count)]))
        stored.append(db.execute("SELECT max(id) FROM chunks").fetchone()[0])
    return stored


def ids(found: list[Chunk]) -> list[int]:
    return [chunk.id for chunk in found]


# -- cutting -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 40_000), min_size=1, max_size=40), st.integers(1, 2**60))
def test_chunks_hold_every_message_in_order_numbered_without_gaps(sizes: list[int], first: int) -> None:
    messages = [said(b"x" * size, NOW + index) for index, size in enumerate(sizes)]
    made = cut("lane", 9, first, messages)
    assert messages_of(made) == messages
    assert numbers_of(made) == list(range(first, first + len(messages)))
    assert all(chunk.intact and chunk.lane == "lane" and chunk.epoch == 9 for chunk in made)
    assert [chunk.newest for chunk in made] == [blocks.decode(chunk.block)[-1].received_at for chunk in made]


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=30))
def test_a_chunk_ends_only_where_the_next_message_would_be_too_much(sizes: list[int]) -> None:
    made = cut("lane", 1, 1, [said(b"x" * size, topic="abc") for size in sizes])
    contents = [[len(m.payload) + 3 for m in blocks.decode(chunk.block)] for chunk in made]
    for here in contents:
        assert sum(here) <= CHUNK_MAX_BYTES or len(here) == 1
    for here, following in pairwise(contents):
        assert sum(here) + following[0] > CHUNK_MAX_BYTES


@pytest.mark.parametrize(
    ("count", "cuts"), [(1, [1]), (2_048, [2_048]), (2_049, [2_048, 1]), (5_000, [2_048, 2_048, 904])]
)
def test_a_chunk_holds_at_most_2048_messages(count: int, cuts: list[int]) -> None:
    assert CHUNK_MAX_MESSAGES == 2_048
    assert [chunk.count for chunk in cut("lane", 1, 1, [said(b"")] * count)] == cuts


def test_a_message_too_large_for_any_chunk_is_one_alone() -> None:
    huge = b"x" * (CHUNK_MAX_BYTES * 4)
    made = cut("lane", 1, 1, [said(b"a"), said(huge), said(b"b"), said(b"c")])
    assert [chunk.count for chunk in made] == [1, 1, 2]
    assert [chunk.first for chunk in made] == [1, 2, 3]


def test_long_topics_count_as_much_as_payloads() -> None:
    made = cut("lane", 1, 1, [said(b"", topic=f"{number:04}" + "t" * 30_000) for number in range(5)])
    assert [chunk.count for chunk in made] == [2, 2, 1]


def test_a_changed_bit_is_noticed() -> None:
    [chunk] = cut("lane", 1, 1, [said(b"21.5")])
    for position in range(len(chunk.block)):
        flipped = bytearray(chunk.block)
        flipped[position] ^= 1
        assert not replace(chunk, block=bytes(flipped)).intact


# -- storing and reading -----------------------------------------------------------------------------------------------


def test_what_was_stored_is_read_back_whole(db: sqlite3.Connection) -> None:
    made = cut("lane", 2**62, 7, [said(b"x" * 30_000, NOW + n) for n in range(5)])
    chunks.insert(db, made)
    found = chunks.read(db, "lane", Order.OLDEST_FIRST, (), 10**9)
    assert [replace(chunk, id=0) for chunk in found] == made


def test_storing_uses_up_the_numbers(db: sqlite3.Connection) -> None:
    chunks.insert(db, [*cut("a", 5, 1, [said(b"")] * 3_000), *cut("b", 6, 41, [said(b"")] * 2)])
    assert db.execute("SELECT name, epoch, next FROM lanes ORDER BY name").fetchall() == [
        ("a", 5, 3_001),
        ("b", 6, 43),
    ]


def test_oldest_first_begins_at_the_lowest_number_and_newest_first_at_the_highest(db: sqlite3.Connection) -> None:
    stored = fill(db, [("a", 1, 1, 10), ("a", 1, 11, 10), ("a", 1, 21, 10)])
    size = chunks.load(db, stored[0])
    assert size is not None
    two = len(size.block) * 2 + 30  # room for two, not for three
    oldest = chunks.read(db, "a", Order.OLDEST_FIRST, (), two)
    newest = chunks.read(db, "a", Order.NEWEST_FIRST, (), two)
    assert ids(oldest) == stored[:2]
    assert ids(newest) == stored[1:]  # the newest two, still in the order of their numbers
    assert numbers_of(newest) == list(range(11, 31))


def test_a_frame_is_filled_to_its_last_byte_and_no_further(db: sqlite3.Connection) -> None:
    fill(db, [("a", 1, 1, 10), ("a", 1, 11, 10), ("a", 1, 21, 10)])
    sizes = [size for (size,) in db.execute("SELECT bytes FROM chunks ORDER BY id")]
    assert len(chunks.read(db, "a", Order.OLDEST_FIRST, (), sum(sizes))) == 3
    assert len(chunks.read(db, "a", Order.OLDEST_FIRST, (), sum(sizes) - 1)) == 2
    assert len(chunks.read(db, "a", Order.OLDEST_FIRST, (), sum(sizes[:2]))) == 2


def test_a_chunk_larger_than_a_frame_still_comes(db: sqlite3.Connection) -> None:
    chunks.insert(db, cut("a", 1, 1, [said(b"x" * 100_000)]))
    assert len(chunks.read(db, "a", Order.OLDEST_FIRST, (), 1)) == 1


@pytest.mark.parametrize("order", list(Order))
def test_a_frame_ends_where_numbers_are_missing_and_where_the_epoch_changes(
    db: sqlite3.Connection, order: Order
) -> None:
    runs = [("a", 1, 1, 5), ("a", 1, 6, 5), ("a", 1, 12, 5), ("a", 2, 17, 5), ("a", 2, 22, 5)]  # 11 is missing
    stored = fill(db, runs)
    taken: list[list[int]] = []
    for _ in range(len(runs)):
        found = chunks.read(db, "a", order, [one for frame in taken for one in frame], 10**9)
        taken += [ids(found)] if found else []
    frames = [stored[:2], [stored[2]], stored[3:]]
    assert taken == (frames if order is Order.OLDEST_FIRST else frames[::-1])


@pytest.mark.parametrize("order", list(Order))
def test_chunks_in_flight_are_passed_over_and_split_what_they_lie_between(
    db: sqlite3.Connection, order: Order
) -> None:
    stored = fill(db, [("a", 1, 1, 5), ("a", 1, 6, 5), ("a", 1, 11, 5)])
    outer = [stored[0]] if order is Order.OLDEST_FIRST else [stored[2]]
    assert ids(chunks.read(db, "a", order, [stored[1]], 10**9)) == outer
    assert chunks.read(db, "a", order, stored, 10**9) == []


def test_a_frame_never_holds_more_messages_than_a_block_may(db: sqlite3.Connection) -> None:
    chunks.insert(db, cut("a", 1, 1, [said(b"", topic="")] * 70_000))
    found = chunks.read(db, "a", Order.OLDEST_FIRST, (), 10**9)
    assert blocks.MESSAGES_MAX - CHUNK_MAX_MESSAGES < sum(chunk.count for chunk in found) <= blocks.MESSAGES_MAX


def test_lanes_do_not_see_each_other(db: sqlite3.Connection) -> None:
    stored = fill(db, [("a", 1, 1, 5), ("b", 1, 1, 5), ("a", 1, 6, 5), ("b", 1, 6, 5)])
    assert ids(chunks.read(db, "a", Order.OLDEST_FIRST, (), 10**9)) == [stored[0], stored[2]]
    assert chunks.read(db, "c", Order.OLDEST_FIRST, (), 10**9) == []


def test_the_floor_is_the_lowest_number_of_the_epoch_that_is_still_there(db: sqlite3.Connection) -> None:
    stored = fill(db, [("a", 1, 5, 5), ("a", 2, 1, 5), ("b", 2, 3, 5), ("a", 2, 6, 5)])
    assert chunks.floor(db, "a", 1) == 5
    assert chunks.floor(db, "a", 2) == 1
    chunks.delete(db, "a", [stored[1]])
    assert chunks.floor(db, "a", 2) == 6
    chunks.delete(db, "a", [stored[0]])
    assert chunks.floor(db, "a", 1) is None


# -- removing ----------------------------------------------------------------------------------------------------------


def test_deleting_counts_what_was_there_and_nothing_twice(db: sqlite3.Connection) -> None:
    stored = fill(db, [("a", 1, 1, 5), ("a", 1, 6, 7)])
    size = db.execute("SELECT bytes FROM chunks WHERE id = ?", (stored[1],)).fetchone()[0]
    assert chunks.delete(db, "a", [stored[1], 999]) == Removed("a", 7, size)
    assert chunks.delete(db, "a", [stored[1]]) == Removed("a", 0, 0)
    assert chunks.delete(db, "a", []) == Removed("a", 0, 0)
    assert ids(chunks.read(db, "a", Order.OLDEST_FIRST, (), 10**9)) == [stored[0]]


def test_room_is_made_at_the_old_end_of_that_lane_only(db: sqlite3.Connection) -> None:
    stored = fill(db, [("a", 1, 1, 5), ("b", 1, 1, 5), ("a", 1, 6, 7), ("a", 1, 13, 2)])
    sizes = dict(db.execute("SELECT id, bytes FROM chunks"))
    removed = chunks.make_room(db, "a", sizes[stored[0]] + 1)
    assert removed == Removed("a", 12, sizes[stored[0]] + sizes[stored[2]])
    assert [one for (one,) in db.execute("SELECT id FROM chunks ORDER BY id")] == [stored[1], stored[3]]


def test_numbers_stay_used_up_when_their_chunks_are_gone(db: sqlite3.Connection) -> None:
    stored = fill(db, [("a", 1, 1, 5)])
    chunks.delete(db, "a", stored)
    assert db.execute("SELECT next FROM lanes").fetchone() == (6,)


def test_a_chunk_expires_with_its_newest_message(db: sqlite3.Connection) -> None:
    chunks.insert(db, cut("a", 1, 1, [said(b"", NOW), said(b"", NOW + 50)]))
    chunks.insert(db, cut("a", 1, 3, [said(b"", NOW + 100)]))
    chunks.insert(db, cut("b", 1, 1, [said(b"", NOW)]))
    assert chunks.expire(db, "a", NOW + 50).count == 0
    assert chunks.expire(db, "a", NOW + 51).count == 2
    assert [count for (count,) in db.execute("SELECT count FROM chunks ORDER BY id")] == [1, 1]


def test_what_was_heard_before_the_clock_was_set_never_expires(db: sqlite3.Connection) -> None:
    """A box starts in 1970 and hears things; then the time comes from the network. Nobody knows how old they are."""
    chunks.insert(db, cut("a", 1, 1, [said(b"", 3_600_000)]))
    chunks.insert(db, cut("a", 1, 2, [said(b"", CLOCK_PLAUSIBLE_MS)]))
    assert chunks.expire(db, "a", NOW).count == 1
    assert [first for (first,) in db.execute("SELECT first FROM chunks")] == [1]


# -- space -------------------------------------------------------------------------------------------------------------


async def test_disk_space_of_what_is_gone_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "buffer.db"
    store = Store(path, SCHEMA)
    full_lane = [chunk for number in range(1, 201) for chunk in cut("a", 1, number, [said(b"x" * 60_000)])]
    await store.run(lambda c: chunks.insert(c, full_lane))
    await store.checkpoint()
    full = path.stat().st_size
    assert full > 200 * 60_000
    await store.run(lambda c: chunks.delete(c, "a", range(1, 200)))
    while await store.run(lambda c: chunks.reclaim(c, idle=False)):
        pass
    await store.checkpoint()
    assert path.stat().st_size < full / 2
    [left] = await store.run(lambda c: chunks.read(c, "a", Order.OLDEST_FIRST, (), 10**9))
    assert left.intact
    assert left.first == 200
    await store.close()


def test_space_that_will_soon_be_used_again_is_kept(tmp_path: Path) -> None:
    connection = connect(tmp_path / "buffer.db", SCHEMA)
    for number in range(1, 101):
        chunks.insert(connection, cut("a", 1, number, [said(b"x" * 60_000)]))
    chunks.delete(connection, "a", range(1, 41))
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    assert free < RECLAIM_PAGES
    assert not chunks.reclaim(connection, idle=False)
    assert connection.execute("PRAGMA freelist_count").fetchone() == (free,)
    connection.close()


# -- what people look at -----------------------------------------------------------------------------------------------


def test_totals_show_each_lane_with_what_it_holds_and_its_next_number(db: sqlite3.Connection) -> None:
    stored = fill(db, [("b", 1, 1, 5), ("a", 1, 1, 3), ("b", 1, 6, 2)])
    chunks.delete(db, "a", [stored[1]])
    (size,) = db.execute("SELECT sum(bytes) FROM chunks").fetchone()
    assert chunks.totals(db) == [
        {"lane": "a", "messages": 0, "bytes": 0, "next_sequence": 4},
        {"lane": "b", "messages": 7, "bytes": size, "next_sequence": 8},
    ]


def test_peeking_shows_the_oldest_and_takes_nothing(db: sqlite3.Connection) -> None:
    stored = fill(db, [("a", 1, 1, 5), ("b", 1, 1, 9), ("a", 1, 6, 5), ("a", 1, 11, 5)])
    assert ids(chunks.peek(db, "a", 5)) == [stored[0]]
    assert ids(chunks.peek(db, "a", 6)) == [stored[0], stored[2]]
    assert ids(chunks.peek(db, "a", 1_000)) == [stored[0], stored[2], stored[3]]
    assert db.execute("SELECT count(*) FROM chunks").fetchone() == (4,)


def test_totals_show_a_recovered_lane_that_has_no_numbers_of_its_own_yet(db: sqlite3.Connection) -> None:
    fill(db, [("a", 1, 1, 5)])
    db.execute("DELETE FROM lanes")
    [row] = chunks.totals(db)
    assert (row["lane"], row["messages"], row["next_sequence"]) == ("a", 5, 1)


async def test_totals_can_be_read_while_the_daemon_runs(tmp_path: Path) -> None:
    store = Store(tmp_path / "buffer.db", SCHEMA)
    await store.run(lambda c: chunks.insert(c, cut("a", 1, 1, [said(b"x")] * 3)))
    watcher = sqlite3.connect(f"{(tmp_path / 'buffer.db').as_uri()}?mode=ro", uri=True)
    assert [row["messages"] for row in chunks.totals(watcher)] == [3]
    watcher.close()
    await store.close()
