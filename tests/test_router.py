"""The router gives each message to each client once, and keeps retained messages within bounds."""

import pytest
from mqtt5 import PublishPacket

from core.message import Message
from core.mqtt import router as router_module
from core.mqtt.router import Router
from core.mqtt.session import WAITING_MAX, Session, Subscription


class Client:
    """A session and what was sent to it, as (topic, QoS, retain)."""

    def __init__(self, name: str) -> None:
        self.sent: list[tuple[str, int, bool]] = []
        self.congested = False
        self.session = Session(name, self._send, lambda: self.congested, lambda reason: None, 100)

    def _send(self, packet: PublishPacket) -> bool:
        self.sent.append((packet.topic, int(packet.qos), packet.retain))
        return True

    def wants(self, pattern: str, qos: int = 1, *, no_local: bool = False, as_published: bool = False) -> Subscription:
        return Subscription(self.session, pattern, qos, no_local, as_published)


def topics(messages: list[Message]) -> list[str]:
    return sorted(message.topic for message in messages)


def test_overlapping_filters_give_one_copy_with_the_highest_qos() -> None:
    router, client = Router(), Client("a")
    for pattern, qos in [("#", 0), ("a/+", 1), ("a/b", 0)]:
        assert router.subscribe(client.wants(pattern, qos))
    assert router.route([Message("a/b", b"", 1), Message("x", b"", 1)]) == []
    assert client.sent == [("a/b", 1, False), ("x", 0, False)]


@pytest.mark.parametrize(("published", "granted", "expected"), [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 1)])
def test_a_copy_has_the_lower_qos_of_publisher_and_subscriber(published: int, granted: int, expected: int) -> None:
    router, client = Router(), Client("a")
    router.subscribe(client.wants("t", granted))
    router.route([Message("t", b"", published)])
    assert client.sent == [("t", expected, False)]


def test_no_local_spares_only_the_publisher_itself() -> None:
    router, one, other = Router(), Client("one"), Client("other")
    router.subscribe(one.wants("t", no_local=True))
    router.subscribe(other.wants("t", no_local=True))
    router.route([Message("t", b"", 0, client_id="one")])
    assert one.sent == []
    assert other.sent == [("t", 0, False)]


def test_no_local_on_one_filter_leaves_another_filter_of_the_client_alone() -> None:
    router, client = Router(), Client("one")
    router.subscribe(client.wants("t", 1, no_local=True))
    router.subscribe(client.wants("#", 0))
    router.route([Message("t", b"", 1, client_id="one")])
    assert client.sent == [("t", 0, False)]


def test_retain_is_passed_on_only_where_asked_for() -> None:
    router, plain, exact = Router(), Client("a"), Client("b")
    router.subscribe(plain.wants("t"))
    router.subscribe(exact.wants("t", as_published=True))
    router.route([Message("t", b"", 0, retain=True), Message("t", b"", 0)])
    assert plain.sent == [("t", 0, False), ("t", 0, False)]
    assert exact.sent == [("t", 0, True), ("t", 0, False)]


def test_subscribing_again_replaces() -> None:
    router, client = Router(), Client("a")
    assert router.subscribe(client.wants("t", 0))
    assert not router.subscribe(client.wants("t", 1))
    assert router.subscriptions == 1
    router.route([Message("t", b"", 1)])
    assert client.sent == [("t", 1, False)]


def test_unsubscribing_ends_one_filter_of_one_client() -> None:
    router, one, other = Router(), Client("one"), Client("other")
    for client in (one, other):
        router.subscribe(client.wants("t"))
    assert router.unsubscribe(one.session, "t")
    assert not router.unsubscribe(one.session, "t")
    assert not router.unsubscribe(other.session, "u")
    router.route([Message("t", b"")])
    assert (one.sent, other.sent) == ([], [("t", 0, False)])


def test_forgetting_a_session_ends_all_its_filters() -> None:
    router, one, other = Router(), Client("one"), Client("other")
    for pattern in ("a", "b", "#"):
        router.subscribe(one.wants(pattern))
    router.subscribe(other.wants("a"))
    router.forget(one.session)
    assert router.subscriptions == 1
    assert one.session.subscriptions == {}
    router.route([Message("a", b"")])
    assert (one.sent, other.sent) == ([], [("a", 0, False)])


def test_who_cannot_keep_up_is_named_once_and_the_others_get_everything() -> None:
    router, slow, quick = Router(), Client("slow"), Client("quick")
    slow.congested = True
    for client in (slow, quick):
        router.subscribe(client.wants("t", 1 if client is slow else 0))
    messages = [Message("t", b"", 1)] * (WAITING_MAX + 10)
    assert router.route(messages) == [slow.session]
    assert len(quick.sent) == len(messages)
    assert slow.sent == []


def test_the_last_retained_message_of_a_topic_is_kept() -> None:
    router = Router()
    assert router.retain(Message("t", b"1", retain=True))
    assert router.retain(Message("t", b"2", retain=True))
    assert [message.payload for message in router.retained_for("t")] == [b"2"]
    assert router.retained == 1


def test_an_empty_payload_clears_a_retained_message() -> None:
    router = Router()
    router.retain(Message("t", b"1", retain=True))
    assert router.retain(Message("t", b"", retain=True))
    assert router.retain(Message("never", b"", retain=True))
    assert router.retained == 0
    assert router.retained_for("#") == []


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("#", ["a", "a/b", "a/b/c"]),
        ("a/#", ["a", "a/b", "a/b/c"]),
        ("a/+", ["a/b"]),
        ("a/b", ["a/b"]),
        ("+/+/c", ["a/b/c"]),
        ("b", []),
        ("$SYS/#", ["$SYS/a"]),
    ],
)
def test_a_filter_finds_the_retained_messages_it_matches(pattern: str, expected: list[str]) -> None:
    router = Router()
    for topic in ("a", "a/b", "a/b/c", "$SYS/a"):
        router.retain(Message(topic, b"x", retain=True))
    assert topics(router.retained_for(pattern)) == expected


def test_a_full_retained_store_refuses_new_topics_and_still_replaces_and_clears(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(router_module, "RETAINED_MAX", 2)
    router = Router()
    assert router.retain(Message("a", b"1"))
    assert router.retain(Message("b", b"1"))
    assert not router.retain(Message("c", b"1"))
    assert router.retain(Message("c", b""))
    assert router.retain(Message("a", b"2"))
    assert [m.payload for m in router.retained_for("a")] == [b"2"]
    assert router.retain(Message("b", b""))
    assert router.retain(Message("c", b"1"))
    assert topics(router.retained_for("#")) == ["a", "c"]


def test_retained_payloads_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "RETAINED_MAX_BYTES", 10)
    router = Router()
    assert router.retain(Message("a", bytes(6)))
    assert not router.retain(Message("b", bytes(5)))
    assert router.retain(Message("b", bytes(4)))
    assert not router.retain(Message("a", bytes(7)))
    assert [len(m.payload) for m in router.retained_for("a")] == [6]  # what did not fit left the former one alone
    assert router.retain(Message("a", bytes(1)))
    assert router.retain(Message("b", bytes(9)))
    assert router.retain(Message("a", b""))
    assert router.retain(Message("c", bytes(1)))
