"""A block of events is read as it was written, or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions import events
from functions.events import BLOCK_BYTES_MAX, BLOCK_EVENTS_MAX, Block, Event, MalformedEvents
from functions.names import FunctionName

names = st.builds(
    FunctionName, st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True), st.sampled_from(["$LATEST", "live", "7"])
)
times = st.integers(-(2**62), 2**62)
made = st.builds(
    Event, st.uuids().map(str), names, st.binary(max_size=200), st.binary(max_size=20), times,
    st.integers(0, 5), st.text(st.characters(codec="ascii"), max_size=40), st.integers(0, 16), times, times,
)  # fmt: skip


def told(event: Event) -> tuple[object, ...]:
    due = event.due if event.attempts else 0  # what was never tried is not waited for
    return (event.id, event.function, event.payload, event.client_context, event.enqueued_ms, event.attempts,
            event.trace_id, event.depth, event.born, due)  # fmt: skip


def some(count: int, size: int = 10) -> list[Event]:
    return [Event(f"{n}", FunctionName("f"), b"x" * size) for n in range(count)]


@given(st.lists(made, min_size=1, max_size=20))
def test_events_are_read_as_they_were_written(found: list[Event]) -> None:
    data = events.opened(events.sealed(events.encode(found)))
    assert list(map(told, events.decode(data))) == list(map(told, found))


@given(st.data())
def test_a_flipped_bit_is_always_found(data: st.DataObject) -> None:
    sealed = bytearray(events.sealed(events.encode(some(3))))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(MalformedEvents):
        events.opened(bytes(sealed))


@given(st.binary(max_size=100))
def test_what_is_no_block_is_named_so(data: bytes) -> None:
    with pytest.raises(MalformedEvents):
        events.decode(data)


def test_every_prefix_of_a_block_is_none() -> None:
    data = events.encode(some(3))
    for end in range(len(data)):
        with pytest.raises(MalformedEvents):
            events.decode(data[:end])


def test_a_block_of_a_later_version_is_refused() -> None:
    with pytest.raises(MalformedEvents, match="version 2"):
        events.decode(events.encode(some(1)).replace(b'"version":1', b'"version":2'))


def test_blocks_are_bounded_in_events_and_bytes_and_keep_the_order() -> None:
    for found in (some(2 * BLOCK_EVENTS_MAX + 1), some(9, BLOCK_BYTES_MAX // 4), some(2, 2 * BLOCK_BYTES_MAX)):
        blocks = events.cut(found)
        assert [event for block in blocks for event in block.events] == found
        assert all(block.whole <= BLOCK_EVENTS_MAX for block in blocks)
        assert all(block.size <= BLOCK_BYTES_MAX or block.whole == 1 for block in blocks)
    assert events.cut([]) == []


def test_a_state_says_which_events_ended_and_which_were_tried() -> None:
    block = Block(some(5))
    placed = block.place()
    block.end(placed[0])
    block.end(placed[3])
    placed[1].attempts, placed[1].due = 2, 77
    again = Block(some(5))
    again.place()
    again.take_state(block.state())
    assert [event and event.id for event in again.events] == [None, "1", "2", None, "4"]
    assert again.live == 3
    tried = again.events[1]
    assert tried is not None
    assert (tried.attempts, tried.due) == (2, 77)


@given(st.binary(max_size=40))
def test_a_damaged_state_is_named_so(state: bytes) -> None:
    with pytest.raises(MalformedEvents):
        Block(some(2)).take_state(events.sealed(state)[1:] + b"!")


def test_what_could_not_be_written_has_not_ended() -> None:
    block = Block(some(2))
    first, second = block.place()
    block.end(first)
    block.revive(first)
    assert (block.live, block.done, block.events) == (2, 0, [first, second])


def test_a_large_block_with_little_left_is_sparse_and_a_small_or_empty_one_is_not() -> None:
    large, small = Block(some(8, 4_000)), Block(some(8, 10))
    for block in (large, small):
        placed = block.place()
        for event in placed[:5]:
            block.end(event)
        assert not block.is_sparse
        block.end(placed[5])
    assert large.is_sparse
    assert not small.is_sparse
    for event in [event for event in large.events if event is not None]:
        large.end(event)
    assert not large.is_sparse
