"""The router gives each message to each client once, as its subscriptions say, and remembers how."""

import pytest

from core.message import Message
from core.mqtt import router as router_module
from core.mqtt.limits import Limits
from core.mqtt.router import Router
from tests.mqtt_peers import Guard, GuardedGrant, Home, Reader


def sent(reader: Reader) -> list[tuple[str, int, bool]]:
    """Topic, QoS and RETAIN of what the client was sent since the last call."""
    return [(packet.topic, int(packet.qos), packet.retain) for packet in reader.hear()]


def test_overlapping_filters_give_one_copy_with_the_highest_qos() -> None:
    """MQTT 5 section 3.3.4."""
    router, reader = Router(), Reader()
    for pattern, qos in [("#", 0), ("a/+", 2), ("a/b", 1)]:
        assert router.subscribe(reader.wants(pattern, qos))
    assert router.route([Message("a/b", b"", 2), Message("x", b"", 1)]) == []
    assert sent(reader) == [("a/b", 2, False), ("x", 0, False)]


def test_one_copy_carries_the_identifiers_of_all_filters_that_have_one() -> None:
    router, reader = Router(), Reader()
    for pattern, identifier in [("#", 1), ("a/+", 268_435_455), ("a/b", 0), ("x", 9)]:
        router.subscribe(reader.wants(pattern, identifier=identifier))
    router.route([Message("a/b", b""), Message("x", b"")])
    assert [sorted(packet.subscription_ids) for packet in reader.sent] == [[1, 268_435_455], [1, 9]]


@pytest.mark.parametrize("published", [0, 1, 2])
@pytest.mark.parametrize("granted", [0, 1, 2])
def test_a_copy_has_the_lower_qos_of_publisher_and_subscriber(published: int, granted: int) -> None:
    router, reader = Router(), Reader()
    router.subscribe(reader.wants("t", granted))
    router.route([Message("t", b"", published)])
    assert sent(reader) == [("t", min(published, granted), False)]


def test_each_of_many_clients_gets_a_copy_of_its_own_kind() -> None:
    router, readers = Router(), [Reader(f"c{n}") for n in range(12)]
    for number, reader in enumerate(readers):
        router.subscribe(reader.wants("t", number % 3, retain_as_published=number % 2 == 0, identifier=number // 6))
    router.route([Message("t", b"", 2, retain=True)])
    for number, reader in enumerate(readers):
        (packet,) = reader.sent
        assert (int(packet.qos), packet.retain) == (number % 3, number % 2 == 0)
        assert packet.subscription_ids == [1] * (number // 6)
    assert router.delivered == len(readers)


def test_no_local_spares_only_the_publisher_itself() -> None:
    router, one, other = Router(), Reader("one"), Reader("other")
    router.subscribe(one.wants("t", no_local=True))
    router.subscribe(other.wants("t", no_local=True))
    for publisher in ("one", "other", "", "one"):
        router.route([Message("t", publisher.encode(), client_id=publisher)])
    assert one.payloads == [b"other", b""]
    assert other.payloads == [b"one", b"", b"one"]


def test_no_local_on_one_filter_leaves_another_filter_of_the_client_alone() -> None:
    router, reader = Router(), Reader("one")
    router.subscribe(reader.wants("t", 1, no_local=True, identifier=1))
    router.subscribe(reader.wants("#", 0, identifier=2))
    router.route([Message("t", b"", 1, client_id="one"), Message("t", b"", 1, client_id="two")])
    assert [(int(p.qos), sorted(p.subscription_ids)) for p in reader.sent] == [(0, [2]), (1, [1, 2])]


def test_retain_is_passed_on_only_where_asked_for() -> None:
    router, plain, exact = Router(), Reader("a"), Reader("b")
    router.subscribe(plain.wants("t"))
    router.subscribe(exact.wants("t", retain_as_published=True))
    router.route([Message("t", b"", 0, retain=True), Message("t", b"", 0)])
    assert sent(plain) == [("t", 0, False), ("t", 0, False)]
    assert sent(exact) == [("t", 0, True), ("t", 0, False)]


def test_subscribing_again_replaces() -> None:
    router, reader = Router(), Reader()
    assert router.subscribe(reader.wants("t", 0))
    router.route([Message("t", b"", 1)])
    assert not router.subscribe(reader.wants("t", 1))
    assert router.subscriptions == 1
    router.route([Message("t", b"", 1)])
    assert sent(reader) == [("t", 0, False), ("t", 1, False)]


@pytest.mark.parametrize("pattern", ["t", "$share/g/t"])
def test_unsubscribing_ends_one_filter_of_one_client(pattern: str) -> None:
    router, one, other = Router(), Reader("one"), Reader("other")
    for reader in (one, other):
        router.subscribe(reader.wants(pattern))
    router.route([Message("t", b"")])
    assert router.unsubscribe(one.session, pattern)
    assert not router.unsubscribe(one.session, pattern)
    assert not router.unsubscribe(other.session, "u")
    one.hear(), other.hear()
    router.route([Message("t", b"")])
    assert (sent(one), sent(other)) == ([], [("t", 0, False)])


def test_forgetting_a_session_ends_all_its_filters() -> None:
    router, one, other = Router(), Reader("one"), Reader("other")
    for pattern in ("a", "b", "#", "$share/g/a"):
        router.subscribe(one.wants(pattern))
    router.subscribe(other.wants("a"))
    router.forget(one.session)
    assert router.subscriptions == 1
    assert one.session.subscriptions == {}
    router.route([Message("a", b"")])
    assert (sent(one), sent(other)) == ([], [("a", 0, False)])


def test_who_cannot_keep_up_is_named_and_the_others_get_everything() -> None:
    router, home = Router(), Home(Limits(queue_messages=10))
    slow, quick = Reader("slow", home), Reader("quick", home, window=1_000)
    slow.congested = True
    for reader in (slow, quick):
        router.subscribe(reader.wants("t"))
    messages = [Message("t", b"%d" % number, 1) for number in range(15)]
    assert set(router.route(messages)) == {slow.session}
    assert quick.payloads == [message.payload for message in messages]
    assert slow.sent == []


# -- permissions -------------------------------------------------------------------------------------------------------


def test_nobody_is_sent_what_its_grant_does_not_let_it_receive() -> None:
    router, guard = Router(), Guard()
    free, bound = Reader("free"), Reader("bound")
    bound.come(GuardedGrant(guard, "bound", None))
    guard.forbid("receive", "secret")
    for reader in (free, bound):
        router.subscribe(reader.wants("#"))
    router.route([Message("secret/x", b""), Message("t", b"")])
    assert [packet.topic for packet in free.sent] == ["secret/x", "t"]
    assert [packet.topic for packet in bound.sent] == ["t"]


def test_a_grant_is_asked_once_per_topic_until_permissions_change() -> None:
    router, guard, reader = Router(), Guard(), Reader()
    reader.come(GuardedGrant(guard, "c", None))
    router.subscribe(reader.wants("#"))
    for _ in range(3):
        router.route([Message("t", b"")])
    assert guard.asked == [("receive", "t")]
    guard.forbid("receive", "t")
    router.route([Message("t", b"")])
    assert len(reader.hear()) == 4
    router.forget_plans()
    router.route([Message("t", b"")])
    assert reader.hear() == []


def test_one_clients_own_way_of_getting_a_topic_is_known() -> None:
    router, one, other = Router(), Reader("one"), Reader("other")
    router.subscribe(one.wants("a/+", 1, identifier=4))
    router.subscribe(one.wants("$share/g/a/b", 2))
    router.subscribe(other.wants("#", 2))
    assert router.kind(one.session, "a/b") == (1, False, (4,))
    assert router.kind(one.session, "b") is None
    assert router.kind(other.session, "b") == (2, False, ())
    guard = Guard()
    guard.forbid("receive", "a")
    one.come(GuardedGrant(guard, "one", None))
    assert router.kind(one.session, "a/b") is None


# -- what is remembered ------------------------------------------------------------------------------------------------


def test_a_flood_of_topics_does_not_grow_memory_and_changes_no_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "PLANS_MAX", 10)
    router, reader = Router(), Reader()
    router.subscribe(reader.wants("#"))
    router.route([Message(f"flood/{number}", b"") for number in range(25)] + [Message("long/" * 100, b"")] * 2)
    assert len(router._plans) <= 10
    assert max(map(len, router._plans)) < 20
    assert [packet.topic for packet in reader.sent] == [f"flood/{n}" for n in range(25)] + ["long/" * 100] * 2


def test_plans_are_bounded_by_their_receivers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "PLANNED_MAX", 100)
    router, readers = Router(), [Reader(f"c{n}") for n in range(30)]
    for reader in readers:
        router.subscribe(reader.wants("#", 0))
    router.route([Message(f"t/{number}", b"") for number in range(50)])
    assert len(router._plans) <= 4
    assert all(len(reader.sent) == 50 for reader in readers)


@pytest.mark.parametrize("pattern", ["t", "+", "#", "$share/g/t"])
def test_a_change_of_subscriptions_counts_from_the_next_message_on(pattern: str) -> None:
    router, first, second = Router(), Reader("first"), Reader("second")
    router.subscribe(first.wants("t"))
    router.route([Message("t", b"1")])
    router.subscribe(second.wants(pattern))
    router.route([Message("t", b"2")])
    router.unsubscribe(second.session, pattern)
    router.route([Message("t", b"3")])
    assert (first.payloads, second.payloads) == ([b"1", b"2", b"3"], [b"2"])
