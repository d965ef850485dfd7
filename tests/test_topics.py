"""Topic names and filters follow MQTT 5 section 4.7, and the tree finds what a naive matcher finds, within bounds."""

import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import topics
from core.topics import InvalidTopic, TopicTree, check_filter, check_name, footprint, matches

LEVELS = ["", "a", "b", "$x", "ü"]
names = st.lists(st.sampled_from(LEVELS), min_size=1, max_size=4).map("/".join).filter(bool)
filters = st.builds(
    lambda levels, rest: "/".join(levels + rest),
    st.lists(st.sampled_from([*LEVELS, "+"]), max_size=4),
    st.sampled_from([[], ["#"]]),
).filter(bool)


def naive(pattern: str, topic: str, parent_of_hash: bool) -> bool:
    """The standard's words, one after the other."""
    if pattern[0] in "+#" and topic[0] == "$":
        return False
    wanted, levels = pattern.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted.pop()
        if len(levels) < len(wanted) or (len(levels) == len(wanted) and not parent_of_hash):
            return False
        levels = levels[: len(wanted)]
    return len(wanted) == len(levels) and all(w in ("+", level) for w, level in zip(wanted, levels, strict=True))


@given(st.lists(filters, max_size=8), st.lists(names, min_size=1, max_size=6), st.booleans())
@settings(max_examples=300)
def test_the_tree_finds_what_a_naive_matcher_finds(patterns: list[str], some: list[str], parent_of_hash: bool) -> None:
    tree: TopicTree[int] = TopicTree(parent_of_hash=parent_of_hash)
    for number, pattern in enumerate(patterns):
        tree.add(pattern, number)
    assert len(tree) == len(patterns)
    for topic in some + some:  # the second time from the cache
        expected = [n for n, pattern in enumerate(patterns) if naive(pattern, topic, parent_of_hash)]
        assert sorted(tree.match(topic)) == expected


@given(st.lists(st.tuples(filters, st.integers(0, 2)), max_size=10), st.data())
@settings(max_examples=200)
def test_removing_leaves_exactly_the_others(pairs: list[tuple[str, int]], data: st.DataObject) -> None:
    tree: TopicTree[int] = TopicTree()
    for pattern, value in pairs:
        tree.add(pattern, value)
    left = list(pairs)
    while left:
        pattern, value = left.pop(data.draw(st.integers(0, len(left) - 1)))
        tree.remove(pattern, value)
        topic = data.draw(names)
        assert Counter(tree.match(topic)) == Counter(v for p, v in left if naive(p, topic, True))
        assert len(tree) == len(left)


def test_a_tree_that_was_emptied_holds_no_nodes() -> None:
    tree: TopicTree[int] = TopicTree()
    for pattern in ("a/b/c", "a/+/c", "a/#", "#"):
        tree.add(pattern, 1)
    for pattern in ("a/#", "a/b/c", "#", "a/+/c"):
        tree.remove(pattern, 1)
    assert not tree._root.children


@pytest.mark.parametrize(("pattern", "value"), [("a/c", 1), ("a", 1), ("a/b", 2), ("a/b/c", 1)])
def test_removing_what_is_not_there_is_a_key_error_and_changes_nothing(pattern: str, value: int) -> None:
    tree: TopicTree[int] = TopicTree()
    tree.add("a/b", 1)
    with pytest.raises(KeyError):
        tree.remove(pattern, value)
    assert tree.match("a/b") == (1,)
    assert len(tree) == 1


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [  # the examples of MQTT 5 sections 4.7.1 and 4.7.2
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/#", "sport", True),
        ("#", "a/b/c", True),
        ("sport/tennis/+", "sport/tennis/player1", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "$SYS/uptime", False),
        ("+/monitor/Clients", "$SYS/monitor/Clients", False),
        ("$SYS/#", "$SYS/uptime", True),
        ("$SYS/#", "$SYS", True),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", True),
        ("a/+", "a/$b", True),
        ("ACCOUNTS", "Accounts", False),
        ("/", "a/b", False),
        ("+//#", "a//", True),
    ],
)
def test_the_examples_of_the_standard(pattern: str, topic: str, expected: bool) -> None:
    assert matches(pattern, topic) is expected


def test_aws_rules_do_not_see_the_parent_of_a_hash() -> None:
    tree: TopicTree[int] = TopicTree(parent_of_hash=False)
    tree.add("a/#", 1)
    assert tree.match("a") == ()
    assert tree.match("a/") == (1,)


@pytest.mark.parametrize("topic", ["a", "/", "a b", "a//b", "$SYS/x", "ü/€", "\ufeff", "a" * 65_535, "/" * 127])
def test_valid_names(topic: str) -> None:
    check_name(topic)
    check_filter(topic)


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("", "empty"),
        ("a/+/b", "wildcard"),
        ("#", "wildcard"),
        ("a#", "wildcard"),
        ("a\0b", "NUL"),
        ("ü" * 32_768, "65,535 bytes"),
        ("/" * 128, "128 levels"),
        ("a/\ud800", "surrogate"),
    ],
)
def test_an_invalid_name_says_which_rule_it_breaks(topic: str, reason: str) -> None:
    with pytest.raises(InvalidTopic, match=reason):
        check_name(topic)


@pytest.mark.parametrize("pattern", ["#", "+", "/#", "+/+", "a/+/b/#", "+/#", "$SYS/#", "a//+", "$share/g/a"])
def test_valid_filters(pattern: str) -> None:
    check_filter(pattern)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("", "empty"),
        ("a\0", "NUL"),
        ("a/#/b", "alone and last"),
        ("a#", "alone and last"),
        ("#/", "alone and last"),
        ("##", "alone and last"),
        ("+#", "alone and last"),
        ("a+", "fill its level"),
        ("a/++/b", "fill its level"),
        ("a/+b", "fill its level"),
        ("+/" * 128, "128 levels"),
        ("a" * 65_536, "65,535 bytes"),
        ("+/\udfff", "surrogate"),
    ],
)
def test_an_invalid_filter_says_which_rule_it_breaks(pattern: str, reason: str) -> None:
    with pytest.raises(InvalidTopic, match=reason):
        check_filter(pattern)


def test_an_error_about_a_huge_topic_is_short() -> None:
    with pytest.raises(InvalidTopic) as caught:
        check_name("#" * 60_000)
    assert len(str(caught.value)) < 200


def test_a_flood_of_topics_does_not_grow_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "CACHED_TOPICS_MAX", 100)
    tree: TopicTree[int] = TopicTree()
    tree.add("flood/+", 1)
    for number in range(1_000):
        assert tree.match(f"flood/{number}") == (1,)
        assert len(tree._cache) <= 100


def test_filters_that_overlap_do_not_grow_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "CACHED_VALUES_MAX", 1_000)
    tree: TopicTree[int] = TopicTree()
    for number in range(200):
        tree.add("flood/#", number)
    for number in range(50):
        assert len(tree.match(f"flood/{number}")) == 200
        assert sum(map(len, tree._cache.values())) <= 1_000
    assert tree._cache


@pytest.mark.parametrize("levels", [1, 5, 128])
def test_a_filter_costs_no_more_memory_than_its_footprint(levels: int) -> None:
    patterns = ["/".join(f"{n}-{level}" for level in range(levels)) for n in range(200)]
    tree: TopicTree[int] = TopicTree()
    tracemalloc.start()
    try:
        for pattern in patterns:
            tree.add(pattern, 1)
        cost, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cost <= sum(map(footprint, patterns))


def test_very_long_topics_are_matched_but_not_remembered() -> None:
    tree: TopicTree[int] = TopicTree()
    tree.add("a/#", 1)
    for number in range(50):
        assert tree.match(f"a/{'x' * 60_000}{number}") == (1,)
    assert sum(map(len, tree._cache)) == 0


def test_a_topic_seen_before_a_change_is_matched_anew() -> None:
    tree: TopicTree[int] = TopicTree()
    assert tree.match("a") == ()
    tree.add("a", 1)
    assert tree.match("a") == (1,)
    tree.remove("a", 1)
    assert tree.match("a") == ()
