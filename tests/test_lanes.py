"""Lanes decide which part of the buffer keeps a message, what gives way when one is full, and what is too old."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.lanes import CLOCK_PLAUSIBLE_MS, Lane, LaneIndex, overflow

ALARMS = Lane("alarms", ("plant/+/alarm", "fire/#"))
PLANT = Lane("plant", ("plant/#",))
REST = Lane("rest", ("#",))


@pytest.mark.parametrize(
    ("topic", "lane"),
    [
        ("plant/1/alarm", ALARMS),
        ("fire", ALARMS),
        ("fire/hall/2", ALARMS),
        ("plant/1/telemetry", PLANT),
        ("plant", PLANT),
        ("office/1", REST),
    ],
)
def test_the_first_configured_lane_with_a_filter_that_matches_takes_a_message(topic: str, lane: Lane) -> None:
    assert LaneIndex([ALARMS, PLANT, REST]).find(topic) == lane


def test_the_order_of_the_configuration_decides_and_not_how_exact_a_filter_is() -> None:
    assert LaneIndex([REST, PLANT, ALARMS]).find("plant/1/alarm") == REST
    assert LaneIndex([PLANT, ALARMS, REST]).find("plant/1/alarm") == PLANT


def test_two_filters_of_one_lane_that_both_match_are_one_lane() -> None:
    twice = Lane("twice", ("a/#", "a/+"))
    assert LaneIndex([REST, twice]).find("a/b") == REST
    assert LaneIndex([twice, REST]).find("a/b") == twice


def test_a_topic_that_no_lane_wants_is_in_none() -> None:
    index = LaneIndex([ALARMS, PLANT])
    assert index.find("office/1") is None
    assert LaneIndex([]).find("plant/1") is None


def test_topics_of_the_server_are_in_no_lane_that_did_not_name_them() -> None:
    assert LaneIndex([REST]).find("$SYS/uptime") is None
    named = Lane("named", ("$SYS/#",))
    assert LaneIndex([REST, named]).find("$SYS/uptime") == named


# -- what gives way ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("excess", "gone"),
    [(0, []), (-5, []), (1, [7]), (10, [7]), (11, [7, 8]), (30, [7, 8]), (31, [7, 8, 9]), (10_000, [7, 8, 9])],
)
def test_just_enough_of_the_oldest_chunks_give_way(excess: int, gone: list[int]) -> None:
    stored = [(7, 2, 10), (8, 3, 20), (9, 4, 5)]
    lost = [entry for entry in stored if entry[0] in gone]
    assert overflow(stored, excess) == (gone, sum(entry[1] for entry in lost), sum(entry[2] for entry in lost))


@given(
    st.lists(st.tuples(st.integers(1, 2_048), st.integers(1, 70_000)), max_size=30), st.integers(0, 1_000_000)
)
def test_one_chunk_less_would_not_have_been_enough(sizes: list[tuple[int, int]], excess: int) -> None:
    stored = [(number, count, size) for number, (count, size) in enumerate(sizes)]
    gone, messages, size = overflow(stored, excess)
    assert gone == [number for number, _, _ in stored[: len(gone)]]
    assert (messages, size) == (sum(s[1] for s in stored[: len(gone)]), sum(s[2] for s in stored[: len(gone)]))
    assert size >= excess or len(gone) == len(stored)
    if gone:
        assert size - stored[len(gone) - 1][2] < excess


def test_no_more_than_necessary_is_read_of_what_is_stored() -> None:
    stored = iter([(1, 1, 10), (2, 1, 10), (3, 1, 10), (4, 1, 10)])
    overflow(stored, 15)
    assert (4, 1, 10) in list(stored)


# -- what is too old ---------------------------------------------------------------------------------------------------


def test_a_message_is_too_old_when_it_was_heard_longer_ago_than_the_lane_allows() -> None:
    lane = replace(PLANT, max_age=2.5)
    assert lane.expired_before(CLOCK_PLAUSIBLE_MS + 10_000) == CLOCK_PLAUSIBLE_MS + 7_500


def test_a_lane_without_an_age_keeps_everything() -> None:
    assert PLANT.expired_before(CLOCK_PLAUSIBLE_MS * 2) is None


@pytest.mark.parametrize("now", [0, 3_600_000, CLOCK_PLAUSIBLE_MS - 1])
def test_nothing_is_too_old_by_a_clock_that_has_not_been_set(now: int) -> None:
    assert replace(PLANT, max_age=1.0).expired_before(now) is None


def test_an_age_of_nothing_lets_only_the_present_stay() -> None:
    assert replace(PLANT, max_age=0.0).expired_before(CLOCK_PLAUSIBLE_MS) == CLOCK_PLAUSIBLE_MS
