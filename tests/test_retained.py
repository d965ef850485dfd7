"""Of each topic the last retained message is kept, within bounds, for as long as it has not expired."""

import pytest

from core.message import Message, Properties
from core.mqtt import retained as retained_module
from core.mqtt.retained import Retained
from core.topics import footprint
from tests.mqtt_peers import NOON_MS


def found(retained: Retained, pattern: str = "#", now: int = NOON_MS) -> list[str]:
    return sorted(message.topic for message in retained.find(pattern, now))


def expiring(topic: str, seconds: int) -> Message:
    properties = Properties(message_expiry_interval=seconds)
    return Message(topic, b"x", retain=True, received_at=NOON_MS, properties=properties)


def test_the_last_retained_message_of_a_topic_is_kept() -> None:
    retained = Retained()
    assert retained.put(Message("t", b"1", retain=True))
    assert retained.put(Message("t", b"2", retain=True))
    assert [message.payload for message in retained.find("t", 0)] == [b"2"]
    assert retained.get("t") == Message("t", b"2", retain=True)
    assert len(retained) == 1


def test_an_empty_payload_clears_a_retained_message() -> None:
    retained = Retained()
    retained.put(Message("t", b"1", retain=True))
    assert retained.put(Message("t", b"", retain=True))
    assert retained.put(Message("never", b"", retain=True))
    assert (len(retained), retained.get("t"), found(retained)) == (0, None, [])


def test_clearing_a_topic_leaves_those_above_and_below_it() -> None:
    retained = Retained()
    for topic in ("a", "a/b", "a/b/c", "a/x"):
        retained.put(Message(topic, b"x"))
    retained.put(Message("a/b", b""))
    assert found(retained) == ["a", "a/b/c", "a/x"]
    retained.put(Message("a/b/c", b""))
    retained.put(Message("a", b""))
    assert found(retained, "a/#") == ["a/x"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("#", ["/a", "a", "a/", "a/b", "a/b/c"]),
        ("a/#", ["a", "a/", "a/b", "a/b/c"]),
        ("a/+", ["a/", "a/b"]),
        ("a/+/#", ["a/", "a/b", "a/b/c"]),
        ("a/b", ["a/b"]),
        ("a/", ["a/"]),
        ("+/+", ["/a", "a/", "a/b"]),
        ("/+", ["/a"]),
        ("+/+/c", ["a/b/c"]),
        ("+", ["a"]),
        ("b", []),
        ("$SYS/#", ["$SYS/a"]),
        ("$SYS/+", ["$SYS/a"]),
        ("+/a", ["/a"]),
        ("+/#", ["/a", "a", "a/", "a/b", "a/b/c"]),
    ],
)
def test_a_filter_finds_the_retained_messages_it_matches(pattern: str, expected: list[str]) -> None:
    """MQTT 5 section 4.7: empty levels count, and wildcards in the first level do not see $-topics."""
    retained = Retained()
    for topic in ("a", "a/", "/a", "a/b", "a/b/c", "$SYS/a"):
        retained.put(Message(topic, b"x", retain=True))
    assert found(retained, pattern) == expected


def test_a_full_store_refuses_new_topics_and_still_replaces_and_clears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retained_module, "RETAINED_MAX", 2)
    retained = Retained()
    assert retained.put(Message("a", b"1"))
    assert retained.put(Message("b", b"1"))
    assert not retained.has_room(Message("c", b"1"))
    assert not retained.put(Message("c", b"1"))
    assert retained.put(Message("c", b""))
    assert retained.put(Message("a", b"2"))
    assert retained.get("a") == Message("a", b"2")
    assert retained.put(Message("b", b""))
    assert retained.put(Message("c", b"1"))
    assert found(retained) == ["a", "c"]


def test_the_store_is_bounded_in_bytes_of_topics_payloads_and_properties(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retained_module, "RETAINED_MAX_BYTES", 12 + 2 * footprint("a"))
    retained = Retained()
    assert retained.put(Message("a", bytes(6)))
    assert not retained.put(Message("b", bytes(5)))
    assert not retained.put(Message("b", bytes(4), properties=Properties(correlation_data=b"x")))
    assert retained.put(Message("b", bytes(4)))
    assert not retained.put(Message("a", bytes(7)))
    assert retained.get("a") == Message("a", bytes(6))  # what did not fit left the former one alone
    assert retained.put(Message("a", bytes(1)))
    assert retained.put(Message("b", bytes(9)))
    assert retained.put(Message("a", b""))
    assert retained.put(Message("c", bytes(1)))


def test_a_topic_of_many_levels_is_charged_for_the_memory_that_they_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retained_module, "RETAINED_MAX_BYTES", 100_000)
    retained = Retained()
    deep = [f"{number}{'/' * 127}" for number in range(3)]
    assert [retained.put(Message(topic, b"x")) for topic in deep] == [True, True, False]
    assert not retained.has_room(Message(deep[2], b"x"))
    assert retained.put(Message(deep[0], b"y"))
    assert retained.put(Message(deep[0], b""))
    assert retained.put(Message(deep[2], b"x"))


def test_a_store_that_was_emptied_holds_and_charges_nothing() -> None:
    retained = Retained()
    for message in (Message("a/b/c", b"x"), Message("a", b"x"), expiring("a/b/d/e", 10)):
        retained.put(message)
    retained.expire(NOON_MS + 10_000)
    retained.put(Message("a/b/c", b""))
    retained.put(Message("a", b""))
    assert retained._root.children == {}
    assert retained._bytes == 0


def test_what_has_expired_is_not_found_and_then_dropped() -> None:
    retained = Retained()
    for message in (expiring("a/1", 10), expiring("a/2", 20), Message("a/3", b"x", received_at=NOON_MS)):
        retained.put(message)
    assert found(retained, "a/+", NOON_MS + 9_999) == ["a/1", "a/2", "a/3"]
    assert found(retained, "a/+", NOON_MS + 10_000) == ["a/2", "a/3"]
    assert len(retained) == 3
    assert retained.expire(NOON_MS + 10_000) == ["a/1"]
    assert len(retained) == 2
    assert retained.expire(NOON_MS + 1_000_000_000) == ["a/2"]
    assert found(retained) == ["a/3"]


def test_dropping_what_expired_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retained_module, "RETAINED_MAX", 1)
    retained = Retained()
    retained.put(expiring("a", 10))
    assert not retained.put(Message("b", b"x"))
    retained.expire(NOON_MS + 10_000)
    assert retained.put(Message("b", b"x"))
