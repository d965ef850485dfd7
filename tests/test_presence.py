"""The broker says who comes and goes, in AWS IoT's lifecycle events, and how it is, in `$SYS` topics."""

from typing import Any

import orjson
import pytest
from mqtt5 import ConnectPacket, DisconnectPacket, PublishPacket, UnsubscribePacket

from core import blocks
from core.mqtt.limits import Limits
from core.mqtt.presence import EVENTS
from tests.mqtt_peers import Bench, Guard, Peer, only, publish, publish_2, wanted

both_versions = pytest.mark.parametrize("version", [5, 4])
CONNECTED = "$aws/events/presence/connected/a"
DISCONNECTED = "$aws/events/presence/disconnected/a"


def events(bench: Bench) -> list[tuple[str, dict[str, Any]]]:
    """Topic and content of the events so far."""
    return [(event.topic, orjson.loads(event.payload)) for event in bench.events]


def reason(bench: Bench) -> str:
    """Why client a was disconnected, in its only such event."""
    (found,) = [content for topic, content in events(bench) if topic == DISCONNECTED]
    assert found["clientInitiatedDisconnect"] is (found["disconnectReason"] == "CLIENT_INITIATED_DISCONNECT")
    return str(found["disconnectReason"])


# -- lifecycle events --------------------------------------------------------------------------------------------------


@both_versions
def test_a_client_that_comes_and_goes_is_announced_in_the_words_of_aws(version: int) -> None:
    bench = Bench()
    bench.connect("first")
    peer = bench.connect("a", version, principal="press-1")
    bench.wait(5)
    peer.send(DisconnectPacket())
    common = {"clientId": "a", "sessionIdentifier": "a-2", "principalIdentifier": "press-1", "versionNumber": 2}
    assert events(bench)[1:] == [
        (CONNECTED, {**common, "timestamp": bench.at - 5_000, "eventType": "connected", "ipAddress": "10.0.0.7"}),
        (
            DISCONNECTED,
            {
                **common,
                "timestamp": bench.at,
                "eventType": "disconnected",
                "clientInitiatedDisconnect": True,
                "disconnectReason": "CLIENT_INITIATED_DISCONNECT",
            },
        ),
    ]


def test_subscriptions_are_announced_as_they_were_granted_and_ended() -> None:
    guard = Guard()
    guard.forbid("subscribe", "secret")
    bench = Bench(access=guard)
    peer = bench.connect("a")
    peer.subscribe("t", "secret", "$share/g/u")
    peer.send(UnsubscribePacket(2, ["t", "never"]))
    peer.heard()
    peer.subscribe("secret")
    assert [(topic, content["topics"]) for topic, content in events(bench)[1:]] == [
        ("$aws/events/subscriptions/subscribed/a", ["t", "$share/g/u"]),
        ("$aws/events/subscriptions/unsubscribed/a", ["t"]),
    ]


def test_a_client_that_is_let_in_without_a_name_has_an_empty_principal() -> None:
    bench = Bench()
    bench.connect("a")
    assert events(bench)[0][1]["principalIdentifier"] == ""


def test_each_connection_of_a_client_has_a_greater_version_number() -> None:
    bench = Bench()
    for _ in range(3):
        bench.connect("a").cut()
    numbers = [content["versionNumber"] for _, content in events(bench)]
    assert numbers == [1, 1, 2, 2, 3, 3]


def test_a_lost_connection_is_told_from_a_goodbye() -> None:
    bench = Bench()
    bench.connect("a").cut()
    assert reason(bench) == "CONNECTION_LOST"


def test_silence_is_told() -> None:
    bench = Bench()
    bench.connect("a", keep_alive=10)
    bench.wait(15)
    assert reason(bench) == "MQTT_KEEP_ALIVE_TIMEOUT"


def test_a_protocol_error_is_told() -> None:
    bench = Bench()
    peer = bench.connect("a")
    peer.send(ConnectPacket("a"))
    peer.cut()
    assert reason(bench) == "CLIENT_ERROR"


def test_a_take_over_is_told_before_the_new_connection_is() -> None:
    bench = Bench()
    former = bench.connect("a")
    bench.connect("a")
    former.cut()
    assert [topic for topic, _ in events(bench)] == [CONNECTED, DISCONNECTED, CONNECTED]
    assert reason(bench) == "DUPLICATE_CLIENTID"


def test_revoked_access_is_told() -> None:
    guard = Guard()
    bench = Bench(access=guard)
    peer = bench.connect("a")
    guard.revoked.add("a")
    bench.broker.recheck()
    peer.cut()
    assert reason(bench) == "FORBIDDEN_ACCESS"


def test_a_shutdown_is_told() -> None:
    bench = Bench()
    peer = bench.connect("a")
    bench.broker.shut_down()
    peer.cut()
    assert reason(bench) == "SERVER_INITIATED_DISCONNECT"


def test_a_slow_consumer_is_told() -> None:
    bench = Bench(Limits(queue_messages=1))
    peer = bench.connect("a", receive_max=1)
    peer.subscribe("t")
    bench.connect("b").send(*[publish("t", b"", n) for n in range(1, 4)])
    peer.cut()
    assert reason(bench) == "THROTTLED"


def test_nobody_is_announced_who_was_not_admitted() -> None:
    guard = Guard(later=True)
    bench = Bench(access=guard)
    for start in ([], [ConnectPacket("a")]):
        peer = bench.open()
        peer.send(*start)
        peer.cut()
    bench.open().send(ConnectPacket("a", authentication_method="x"))
    assert bench.events == []


@pytest.mark.parametrize("client_id", ["a+", "#", "/" * 124, "/" * 130], ids=["+", "#", "129 levels", "135 levels"])
def test_a_client_identifier_that_no_topic_can_hold_has_no_events(client_id: str) -> None:
    bench = Bench()
    peer = bench.connect(client_id)
    peer.subscribe("t")
    peer.cut()
    assert bench.events == []


def test_the_events_of_the_deepest_client_identifier_can_be_stored_and_read_again() -> None:
    bench = Bench()
    peer = bench.connect("/" * 123)
    peer.subscribe("t")
    peer.cut()
    assert len(bench.events) == 3
    assert blocks.decode(blocks.encode(bench.events)) == bench.events


def test_events_reach_whoever_subscribes_to_them_and_no_wildcard_sees_them() -> None:
    bench = Bench()
    witness, other = bench.connect("w"), bench.connect("o")
    witness.subscribe(wanted(f"{EVENTS}presence/+/a", 1))
    other.subscribe("#", "+/#")
    bench.connect("a").cut()
    assert [(packet.topic, int(packet.qos)) for packet in witness.published()] == [(CONNECTED, 1), (DISCONNECTED, 1)]
    assert other.published() == []


# -- $SYS --------------------------------------------------------------------------------------------------------------


def sys_topics(peer: Peer) -> dict[str, bytes]:
    """What the client has heard of `$SYS/broker/` since the last call."""
    found = only(peer.heard(), PublishPacket)
    return {packet.topic.removeprefix("$SYS/broker/"): packet.payload for packet in found}


def test_whoever_subscribes_to_sys_is_told_how_the_broker_is_and_then_what_changed() -> None:
    bench = Bench()
    bench.resume("away").cut()
    bench.connect("a").send(*[publish("t", b"", n) for n in (1, 2)], publish_2("t", b"", 3))
    bench.wait(10)
    peer = bench.connect("w")
    peer.subscribe("$SYS/#")
    said = sys_topics(peer)
    assert {name: said[name] for name in said if name.startswith(("clients", "messages/rec", "conn"))} == {
        "clients/connected": b"1",
        "clients/total": b"2",
        "clients/disconnected": b"1",
        "messages/received": b"3",
        "connections/total": b"2",
        "connections/refused": b"0",
    }
    bench.wait(10)
    changed = sys_topics(peer)
    assert changed["clients/connected"] == b"2"
    assert changed["subscriptions/count"] == b"1"
    assert "clients/disconnected" not in changed


def test_sys_topics_are_retained_and_neither_stored_nor_handed_on() -> None:
    bench = Bench()
    bench.wait(10)
    peer = bench.connect("w")
    peer.subscribe("$SYS/broker/clients/+", "#")
    assert all(packet.retain for packet in peer.published())
    assert bench.batches == []


def test_sys_topics_come_every_ten_seconds() -> None:
    bench = Bench()
    peer = bench.connect("w")
    peer.subscribe("$SYS/broker/messages/received")
    sys_topics(peer)
    for number in (b"1", b"2"):
        peer.send(publish("t"))
        bench.wait(9.5)
        assert sys_topics(peer) == {}
        bench.wait(0.5)
        assert sys_topics(peer) == {"messages/received": number}
