"""What a client publishes is acknowledged when it is kept, in order, and refused in the words of its version."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mqtt5 import (
    ConnectPacket,
    DisconnectReasonCode,
    PingReqPacket,
    PingRespPacket,
    PubAckPacket,
    PubAckReasonCode,
    PubCompPacket,
    PublishPacket,
    PubRecPacket,
    PubRelPacket,
    SubAckPacket,
    SubscribePacket,
)

from core.message import Message, Origin, Properties
from core.mqtt import inbound as inbound_module
from core.mqtt import retained as retained_module
from core.mqtt.inbound import USER_PROPERTIES_MAX
from core.mqtt.limits import Limits
from core.receipts import DELIVERED, STORED, Outcome, dropped, rejected
from devices.access import OpenAccess
from tests.mqtt_peers import Bench, Guard, Peer, forged, only, publish, publish_2, wanted

both_versions = pytest.mark.parametrize("version", [5, 4])
FULL = rejected("disk full", 0x97)


def acknowledged(peer: Peer) -> list[int]:
    """The identifiers in what the peer has heard, which must be good PUBACKs only."""
    packets = peer.heard()
    assert all(packet == PubAckPacket(packet.packet_id) for packet in only(packets, PubAckPacket))
    assert len(only(packets, PubAckPacket)) == len(packets)
    return [packet.packet_id for packet in only(packets, PubAckPacket)]


# -- acknowledgements --------------------------------------------------------------------------------------------------


@both_versions
def test_no_puback_leaves_before_the_receipt_is_settled(version: int) -> None:
    bench = Bench(settle=False)
    peer = bench.connect("a", version)
    peer.send(publish("t", b"1", 1), publish("t", b"0"), publish("t", b"2", 7))
    assert peer.heard() == []
    (batch,) = bench.batches
    assert [m.payload for m in batch.messages] == [b"1", b"0", b"2"]
    assert batch.packet_ids == [1, 0, 7]
    batch.receipt.settle(STORED)
    assert acknowledged(peer) == [1, 7]


@both_versions
@pytest.mark.parametrize("outcome", [STORED, DELIVERED, dropped("lane full")], ids=lambda outcome: outcome.kind.value)
def test_whatever_the_sender_may_forget_is_acknowledged(version: int, outcome: Outcome) -> None:
    bench = Bench(settle=False)
    peer = bench.connect("a", version)
    peer.send(publish("t", b"1", 1))
    bench.batches[0].receipt.settle(outcome)
    assert acknowledged(peer) == [1]


@given(st.permutations(range(5)), st.sampled_from([4, 5]))
@settings(max_examples=60)
def test_acknowledgements_leave_in_the_order_of_the_messages_however_batches_are_settled(
    order: list[int], version: int
) -> None:
    bench = Bench(settle=False)
    peer = bench.connect("a", version)
    for number in range(5):
        peer.send(publish("t", b"", 10 * number + 1), publish("t", b"", 10 * number + 2))
    settled: set[int] = set()
    acknowledgements: list[int] = []
    for number in order:
        bench.batches[number].receipt.settle(STORED)
        settled.add(number)
        acknowledgements += acknowledged(peer)
        ready = next((n for n in range(5) if n not in settled), 5)
        assert acknowledgements == [10 * n + k for n in range(ready) for k in (1, 2)]


def test_a_rejected_message_is_answered_with_its_reason_and_stays_the_clients() -> None:
    bench = Bench(settle=False)
    peer = bench.connect("a")
    peer.send(publish("t", b"1", 1), publish("t", b"2", 2))
    bench.batches[0].receipt.settle(FULL)
    assert peer.heard() == [PubAckPacket(n, reason_code=PubAckReasonCode.QUOTA_EXCEEDED) for n in (1, 2)]
    assert not peer.closed


def test_a_rejection_ends_a_3_1_1_connection_without_a_puback() -> None:
    bench = Bench(settle=False)
    peer = bench.connect("a", 4)
    peer.send(publish("t", b"1", 1), publish("t", b"2", 2))
    bench.batches[0].receipt.settle(FULL)
    peer.assert_ended(DisconnectReasonCode.QUOTA_EXCEEDED)
    assert bench.counters.value("mqtt_refused_total", reason="0x97") == 1


def test_exceptions_are_for_single_messages_of_a_batch() -> None:
    bench = Bench(settle=False)
    peer = bench.connect("a")
    peer.send(*[publish("t", b"", n if n != 3 else None) for n in range(1, 7)])
    bench.batches[0].receipt.settle(STORED, {1: FULL, 2: FULL, 4: dropped("too old")})
    assert peer.heard() == [
        PubAckPacket(1),
        PubAckPacket(2, reason_code=PubAckReasonCode.QUOTA_EXCEEDED),
        PubAckPacket(4),
        PubAckPacket(5),
        PubAckPacket(6),
    ]


def test_exceptions_from_a_rejection_are_what_was_kept() -> None:
    bench = Bench(settle=False)
    peer = bench.connect("a")
    peer.send(publish("t", b"", 1), publish("t", b"", 2))
    bench.batches[0].receipt.settle(FULL, {1: STORED})
    assert peer.heard() == [PubAckPacket(1, reason_code=PubAckReasonCode.QUOTA_EXCEEDED), PubAckPacket(2)]


def test_a_3_1_1_client_hears_the_acknowledgements_up_to_the_first_rejection() -> None:
    bench = Bench(settle=False)
    peer = bench.connect("a", 4)
    peer.send(*[publish("t", b"", n) for n in range(1, 5)])
    bench.batches[0].receipt.settle(STORED, {2: FULL})
    assert peer.closed
    assert acknowledged(peer) == [1, 2]


@both_versions
def test_nothing_is_sent_after_the_end_and_the_books_still_balance(version: int) -> None:
    bench = Bench(settle=False)
    peer = bench.connect("a", version)
    peer.send(publish("t", b"1", 1))
    peer.send(publish("t", b"2", 2))
    peer.cut()
    for batch in bench.batches:
        batch.receipt.settle(STORED)
    assert peer.heard() == []
    assert (peer.connection.unsettled, bench.broker.unsettled) == (0, 0)


def test_a_large_message_among_small_packets_counts_as_what_it_is_until_it_is_settled() -> None:
    bench = Bench(settle=False)
    peer = bench.connect("a")
    peer.send(*[PingReqPacket()] * 1_000, publish("t", bytes(50_000), 1), PingReqPacket())
    assert bench.broker.unsettled >= 50_000


def test_a_subscription_identifier_is_refused_on_a_topic_that_was_used_before() -> None:
    bench = Bench()
    peer = bench.connect("a")
    peer.send(publish("t", b"1", 1))
    peer.heard()
    peer.send(publish("t", b"2", 2, subscription_ids=[1]))
    peer.assert_ended(DisconnectReasonCode.PROTOCOL_ERROR)


# -- batches -----------------------------------------------------------------------------------------------------------


@both_versions
def test_one_read_is_one_batch_per_run_of_publishes_and_everything_keeps_its_order(version: int) -> None:
    bench = Bench()
    peer = bench.connect("a", version)
    peer.send(
        publish("t", b"1", 1),
        publish("t", b"2", 2),
        SubscribePacket(3, [wanted("t")]),
        publish("t", b"4", 4),
        publish("t", b"5"),
        PingReqPacket(),
        publish("t", b"6", 6),
    )
    assert [[m.payload for m in batch.messages] for batch in bench.batches] == [[b"1", b"2"], [b"4", b"5"], [b"6"]]
    heard = peer.heard()
    assert [type(packet) for packet in heard] == [
        PubAckPacket, PubAckPacket, SubAckPacket,
        PublishPacket, PublishPacket, PubAckPacket, PingRespPacket,
        PublishPacket, PubAckPacket,
    ]  # fmt: skip
    assert [p.packet_id for p in only(heard, PubAckPacket)] == [1, 2, 4, 6]
    assert [p.payload for p in only(heard, PublishPacket)] == [b"4", b"5", b"6"]


@both_versions
def test_a_message_says_who_published_it_when_and_how(version: int) -> None:
    bench = Bench()
    peer = bench.connect("press", version)
    bench.wait(5)
    peer.send(publish("t", b"\0\xff", 1, retain=True), publish("u", b""))
    assert bench.accepted == [
        Message("t", b"\0\xff", 1, True, "press", bench.at),
        Message("u", b"", 0, False, "press", bench.at),
    ]


def test_what_mqtt_5_says_beside_the_payload_is_kept() -> None:
    bench = Bench()
    said: dict[str, Any] = {
        "payload_format_indicator": 1,
        "message_expiry_interval": 60,
        "content_type": "text/plain",
        "response_topic": "r",
        "correlation_data": b"c",
    }
    bench.connect("a").send(
        publish("t", **said, user_properties=[("k", "v"), ("k", "w")]),
        *[publish("t", **{name: value}) for name, value in said.items()],
        publish("t"),
    )
    everything, *singles, nothing = bench.accepted
    assert everything.properties == Properties(**said, user_properties=(("k", "v"), ("k", "w")))
    assert [message.properties for message in singles] == [Properties(**{k: v}) for k, v in said.items()]
    assert nothing.properties is None


@both_versions
def test_messages_sent_again_are_named_by_their_index(version: int) -> None:
    bench = Bench()
    bench.connect("a", version).send(
        publish("t", b"", 1), publish("t", b"", 2, duplicate=True), publish("t", b"", 3, duplicate=True)
    )
    assert bench.batches[0].resent == [1, 2]
    assert bench.counters.value("messages_received_total") == 3


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_reserved_topic_costs_an_mqtt_5_client_only_that_message_and_acknowledgements_keep_their_order() -> None:
    bench = Bench(settle=False)
    peer = bench.connect("a")
    peer.send(publish("t", b"", 1), publish("$SYS/x", b"", 2), publish("$SYS/x"), publish("t", b"", 3))
    assert [len(batch.messages) for batch in bench.batches] == [1, 1]
    bench.batches[1].receipt.settle(STORED)
    assert peer.heard() == []
    bench.batches[0].receipt.settle(STORED)
    assert peer.heard() == [
        PubAckPacket(1),
        PubAckPacket(2, reason_code=PubAckReasonCode.NOT_AUTHORIZED),
        PubAckPacket(3),
    ]
    assert not peer.closed
    assert bench.counters.value("dropped_total", reason="not authorized") == 2


@pytest.mark.parametrize("packet_id", [None, 2])
def test_a_reserved_topic_ends_a_3_1_1_connection_after_what_came_before(packet_id: int | None) -> None:
    bench = Bench()
    peer = bench.connect("a", 4)
    peer.send(publish("t", b"", 1), publish("$SYS/x", b"", packet_id), publish("t", b"", 3))
    assert peer.closed
    assert acknowledged(peer) == [1]
    assert bench.topics == ["t"]
    assert bench.counters.value("dropped_total", reason="not authorized") == 1


@pytest.mark.parametrize(("principal", "allowed"), [("hall", True), ("other", False), ("hal", False), (None, True)])
def test_frames_are_taken_where_they_are_expected_from_the_edge_they_name(principal: str | None, allowed: bool) -> None:
    for root, expected in [("$tidegate/frames/", allowed), (None, False)]:
        bench = Bench(access=OpenAccess(root))
        peer = bench.open(5, principal)
        peer.send(ConnectPacket("a"), publish("$tidegate/frames/hall/lane", b"", 1), publish("$tidegate/x", b"", 2))
        codes = [packet.reason_code for packet in only(peer.heard(), PubAckPacket)]
        no, yes = PubAckReasonCode.NOT_AUTHORIZED, PubAckReasonCode.SUCCESS
        assert codes == [yes if expected else no, no]
        assert len(bench.accepted) == expected


@both_versions
@pytest.mark.parametrize("topic", ["a/+", "#", "a\0b", "/" * 200])
def test_a_topic_that_no_message_may_have_ends_the_connection(version: int, topic: str) -> None:
    bench = Bench()
    peer = bench.connect("a", version)
    peer.send(publish("t", b"", 1))
    assert acknowledged(peer) == [1]
    peer.feed(forged(version, lambda topic: publish(topic, b"", 2), topic) + peer.codec.encode(publish("t", b"", 3)))
    peer.assert_ended(DisconnectReasonCode.TOPIC_NAME_INVALID)
    assert bench.topics == ["t"]
    refused = {"0x90": 1} if version == 5 or topic != "a\0b" else {"0x81": 1}
    assert {r: bench.counters.value("mqtt_refused_total", reason=r) for r in refused} == refused


@pytest.mark.parametrize(
    ("version", "data", "reason"),
    [(5, b"\x30\x04\x00\x00\x00x", "0x81"), (4, b"\x30\x03\x00\x00x", "0x90")],
)
def test_an_empty_topic_ends_the_connection(version: int, data: bytes, reason: str) -> None:
    bench = Bench()
    peer = bench.connect("a", version)
    peer.feed(data)
    assert peer.closed
    assert bench.batches == []
    assert bench.counters.value("mqtt_refused_total", reason=reason) == 1


def test_qos_1_with_packet_identifier_0_is_malformed_on_a_known_topic_too() -> None:
    bench = Bench()
    peer = bench.connect("a")
    peer.send(publish("t"))
    peer.feed(b"\x32\x06\x00\x01t\x00\x00\x00")
    peer.assert_ended(DisconnectReasonCode.MALFORMED_PACKET)
    assert len(bench.accepted) == 1


def test_a_client_may_not_say_subscription_identifiers() -> None:
    """MQTT 5 section 3.3.4."""
    bench = Bench()
    peer = bench.connect("a")
    peer.send(publish("t", subscription_ids=[4]))
    peer.assert_ended(DisconnectReasonCode.PROTOCOL_ERROR)
    assert bench.batches == []


def test_topics_are_checked_once_and_a_flood_of_them_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbound_module, "TOPICS_REMEMBERED", 10)
    guard = Guard()
    bench = Bench(access=guard)
    peer = bench.connect("a")
    peer.send(*[publish("t")] * 5)
    assert guard.asked == [("publish", "t")]
    peer.send(*[publish(f"flood/{number}") for number in range(100)], publish("long/" + "x" * 1_000))
    assert peer.connection.inbound is not None
    assert len(peer.connection.inbound._allowed) <= 10
    assert max(map(len, peer.connection.inbound._allowed)) < 20
    assert len(bench.accepted) == 106


def test_to_publish_and_to_retain_are_two_permissions() -> None:
    guard = Guard()
    guard.forbid("retain", "t")
    bench = Bench(access=guard)
    peer = bench.connect("a")
    peer.send(publish("t", b"", 1), publish("t", b"", 2, retain=True), publish("t", b"", 3), publish("u", retain=True))
    codes = [int(packet.reason_code) for packet in only(peer.heard(), PubAckPacket)]
    assert codes == [0, 0x87, 0]
    assert bench.topics == ["t", "t", "u"]


def test_permissions_that_changed_count_from_a_recheck_on() -> None:
    guard = Guard()
    bench = Bench(access=guard)
    peer = bench.connect("a")
    peer.send(publish("t", b"", 1))
    guard.forbid("publish", "t")
    bench.broker.recheck()
    peer.send(publish("t", b"", 2))
    assert [int(packet.reason_code) for packet in only(peer.heard(), PubAckPacket)] == [0, 0x87]


@pytest.mark.parametrize("qos", [0, 1])
def test_user_properties_are_bounded_and_the_connection_goes_on(qos: int) -> None:
    bench = Bench()
    peer = bench.connect("a")
    for number, count in enumerate([USER_PROPERTIES_MAX, USER_PROPERTIES_MAX + 1], 1):
        peer.send(publish("t", b"", number if qos else None, user_properties=[("k", "v")] * count))
    assert [int(packet.reason_code) for packet in only(peer.heard(), PubAckPacket)] == [0, 0x97][: 2 * qos]
    assert len(bench.accepted) == 1
    assert bench.dropped("too many user properties") == 1
    assert not peer.closed


def test_a_response_topic_that_nobody_could_publish_to_is_refused_alone() -> None:
    """MQTT 5 section 3.3.2.3.5."""
    bench = Bench()
    peer = bench.connect("a")
    data = publish("t", b"", 1, response_topic="ok").write().replace(b"\x00\x02ok", b"\x00\x02a#")
    peer.feed(data + publish("t", b"", 2).write())
    assert [int(packet.reason_code) for packet in only(peer.heard(), PubAckPacket)] == [0x90, 0]
    assert bench.dropped("response topic invalid") == 1


def test_who_finds_no_room_for_a_retained_message_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    monkeypatch.setattr(retained_module, "RETAINED_MAX", len(bench.broker.retained) + 1)
    new, old = bench.connect("new"), bench.connect("old", 4)
    for n, topic in enumerate(["kept", "too many", "kept"], 1):
        new.send(publish(topic, b"1", n, retain=True))
    assert [int(packet.reason_code) for packet in only(new.heard(), PubAckPacket)] == [0, 0x97, 0]
    old.send(publish("too many", b"2", 1, retain=True))  # has no word for it, so it is delivered and not retained
    assert acknowledged(old) == [1]
    assert bench.topics == ["kept", "kept", "too many"]
    assert bench.dropped("retained store full") == 2
    assert bench.broker.retained.get("too many") is None


# -- topic aliases (MQTT 5 section 3.3.2.3.4) --------------------------------------------------------------------------


def test_an_alias_stands_for_the_topic_that_it_was_last_given() -> None:
    bench = Bench()
    peer = bench.connect("a")
    peer.send(
        publish("x", b"1", topic_alias=1),
        publish("y", b"2", topic_alias=64),
        publish("", b"3", topic_alias=1),
        publish("", b"4", 4, topic_alias=64),
        publish("z", b"5", topic_alias=1),
        publish_2("", b"6", 6, topic_alias=1),
        publish("", b"7", topic_alias=64, retain=True),
    )
    assert bench.topics == ["x", "y", "x", "y", "z", "z", "y"]
    assert not peer.closed


@pytest.mark.parametrize("packet_id", [None, 1])
@pytest.mark.parametrize("topic", ["t", ""])
def test_an_alias_beyond_the_maximum_ends_the_connection(topic: str, packet_id: int | None) -> None:
    bench = Bench(Limits(topic_aliases=5))
    peer = bench.connect("a")
    peer.send(publish("t", b"", topic_alias=5), publish(topic, b"", packet_id, topic_alias=6), publish("t"))
    peer.assert_ended(DisconnectReasonCode.TOPIC_ALIAS_INVALID)
    assert len(bench.accepted) == 1


def test_alias_0_is_malformed() -> None:
    bench = Bench()
    peer = bench.connect("a")
    peer.feed(publish("t", b"", topic_alias=1).write().replace(b"\x23\x00\x01", b"\x23\x00\x00"))
    assert peer.closed
    assert bench.batches == []


def test_an_alias_that_was_not_set_on_this_connection_is_a_protocol_error() -> None:
    bench = Bench()
    bench.resume("a").send(publish("t", b"1", topic_alias=1))
    peer = bench.resume("a")
    peer.send(publish("", b"2", topic_alias=1))
    peer.assert_ended(DisconnectReasonCode.PROTOCOL_ERROR)
    assert len(bench.accepted) == 1


def test_an_alias_is_set_by_a_message_that_is_refused_too() -> None:
    guard = Guard()
    guard.forbid("publish", "secret")
    bench = Bench(access=guard)
    peer = bench.connect("a")
    peer.send(publish("secret", b"", 1, topic_alias=1), publish("", b"", 2, topic_alias=1))
    assert [int(packet.reason_code) for packet in only(peer.heard(), PubAckPacket)] == [0x87, 0x87]
    assert not peer.closed


# -- requests to the daemon --------------------------------------------------------------------------------------------


@both_versions
def test_what_is_published_below_aws_is_a_request_in_its_turn_and_no_message(version: int) -> None:
    bench = Bench(access=Guard())
    turns: list[tuple[str, str, bytes]] = []
    bench.broker.serve = lambda client_id, message: turns.append((client_id, message.topic, message.payload))
    accept = bench.broker.accept
    bench.broker.accept = lambda batch: (turns.extend(("", m.topic, m.payload) for m in batch.messages), accept(batch))
    witness = bench.connect("w")
    witness.subscribe("#", "$aws/things/#")
    turns.clear()
    peer = bench.connect("a", version)
    turns.clear()
    peer.send(publish("t", b"1", 1), publish("$aws/things/a/x", b"2", 2), publish("t", b"3", 3),
              publish("$aws/things/a/y", b"4"))  # fmt: skip
    assert turns == [("", "t", b"1"), ("a", "$aws/things/a/x", b"2"), ("", "t", b"3"), ("a", "$aws/things/a/y", b"4")]
    assert acknowledged(peer) == [1, 2, 3]
    assert witness.payloads() == [b"1", b"3"]


def test_a_request_carries_its_properties_and_is_refused_like_a_message() -> None:
    guard = Guard()
    guard.forbid("publish", "$aws/things/b")
    bench, served = Bench(access=guard), list[Message]()
    bench.broker.serve = lambda client_id, message: served.append(message)
    peer = bench.connect("a")
    peer.send(publish("$aws/things/a/x", b"1", 1, response_topic="r", correlation_data=b"c"),
              publish("$aws/things/b/x", b"2", 2))  # fmt: skip
    assert [int(packet.reason_code) for packet in only(peer.heard(), PubAckPacket)] == [0, 0x87]
    (request,) = served
    assert request.properties == Properties(response_topic="r", correlation_data=b"c")


def test_a_request_with_qos_2_is_served_once() -> None:
    bench, served = Bench(access=Guard()), list[bytes]()
    bench.broker.serve = lambda client_id, message: served.append(message.payload)
    peer = bench.connect("a")
    request = publish_2("$aws/things/a/x", b"1", 7)
    peer.send(request)
    peer.send(publish_2("$aws/things/a/x", b"1", 7, duplicate=True))
    assert peer.heard() == [PubRecPacket(7), PubRecPacket(7)]
    peer.send(PubRelPacket(7))
    assert peer.heard() == [PubCompPacket(7)]
    peer.send(request)
    assert served == [b"1", b"1"]


# -- what is not settled yet -------------------------------------------------------------------------------------------


@both_versions
def test_what_was_read_counts_until_it_is_settled_the_empty_messages_too(version: int) -> None:
    bench = Bench(settle=False)
    peer, other = bench.connect("a", version), bench.connect("b")
    for payload in (bytes(1_000), b""):
        packet = publish("t" * 50, payload, 1)
        size = len(peer.codec.encode(packet))
        before = peer.connection.unsettled
        peer.send(packet, packet)
        assert 2 * size <= peer.connection.unsettled - before <= 2 * size + 2
    other.send(publish("t"))
    assert bench.broker.unsettled == peer.connection.unsettled + other.connection.unsettled
    for batch in reversed(bench.batches):
        assert bench.broker.unsettled > 0
        batch.receipt.settle(STORED)
    assert (peer.connection.unsettled, other.connection.unsettled, bench.broker.unsettled) == (0, 0, 0)


def test_an_mqtt_5_client_with_more_unacknowledged_than_it_was_told_is_disconnected() -> None:
    """MQTT 5 section 3.2.2.3.3; the run that goes beyond it is not taken, what came before is."""
    bench = Bench(Limits(receive_max=3), settle=False)
    peer = bench.connect("a")
    assert peer.welcome.receive_max == 3
    peer.send(publish("t", b"1", 1), publish("t", b"0"), publish_2("t", b"2", 2), publish("t", b"3", 3), publish("t"))
    peer.send(publish("t", b"4"))
    assert not peer.closed
    peer.send(publish("t", b"5", 5))
    peer.assert_ended(DisconnectReasonCode.RECEIVE_MAX_EXCEEDED)
    assert len(bench.accepted) == 6


def test_what_is_acknowledged_makes_room_for_as_many_again() -> None:
    bench = Bench(Limits(receive_max=3))
    peer = bench.connect("a")
    for start in (1, 4, 1):
        peer.send(*[publish("t", b"", n) for n in range(start, start + 3)])
        assert acknowledged(peer) == list(range(start, start + 3))


def test_a_3_1_1_client_may_have_any_number_of_qos_1_unacknowledged() -> None:
    """It cannot be told of a maximum; where the disk is slow the listener stops reading from it."""
    bench = Bench(Limits(incomplete_max=3), settle=False)
    peer = bench.connect("a", 4)
    peer.send(*[publish("t", b"", n) for n in range(1, 101)])
    assert not peer.closed
    bench.batches[0].receipt.settle(STORED)
    assert acknowledged(peer) == list(range(1, 101))


@both_versions
@pytest.mark.parametrize("outcome", [STORED, FULL, dropped("x")], ids=lambda outcome: outcome.kind.value)
def test_the_shell_is_woken_by_a_settlement_that_has_nothing_to_acknowledge(version: int, outcome: Outcome) -> None:
    bench = Bench(settle=False)
    peer = bench.connect("a", version)
    peer.send(publish("t"))
    woken = peer.woken
    bench.batches[0].receipt.settle(outcome)
    assert peer.woken > woken
    assert peer.heard() == []
    assert not peer.closed


# -- where it comes from -----------------------------------------------------------------------------------------------


@both_versions
def test_a_batch_says_who_brought_it_and_from_where(version: int) -> None:
    bench = Bench()
    bench.connect("a", version, principal="press").send(publish("t", b"1", 1), publish("t", b"2"))
    bench.connect("b", version).send(publish("t"))
    named, anonymous = bench.batches
    assert named.origin == Origin("00" * 32, "10.0.0.7", "mqtt")  # the certificate's id, not its name
    assert anonymous.origin == Origin("", "10.0.0.7", "mqtt")
    bench.connect("c", version).send(publish("t"))
    assert bench.batches[-1].origin is not anonymous.origin


def test_all_batches_of_a_connection_share_one_origin() -> None:
    bench = Bench()
    peer = bench.connect("a")
    peer.send(publish("t"))
    peer.send(publish("t"))
    first, second = bench.batches
    assert first.origin is second.origin


# -- Basic Ingest ------------------------------------------------------------------------------------------------------


@both_versions
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_what_is_published_for_a_rule_is_taken_and_no_subscriber_hears_it(version: int, qos: int) -> None:
    bench = Bench()
    watch, device = bench.connect("watch"), bench.connect("a", version)
    assert watch.subscribe("#", "$aws/#", "$aws/+/Hot/#", "$share/g/$aws/#") == [1] * 4
    packets = {0: publish("$aws/rules/Hot/t", b"x"), 1: publish("$aws/rules/Hot/t", b"x", 7),
               2: publish_2("$aws/rules/Hot/t", b"x", 7)}  # fmt: skip
    device.send(packets[qos], publish("t", b"others"))
    assert [(m.topic, m.qos) for m in bench.accepted] == [("$aws/rules/Hot/t", qos), ("t", 0)]
    assert [type(packet) for packet in device.heard()] == [[], [PubAckPacket], [PubRecPacket]][qos]
    assert [payload for payload in watch.payloads() if b"eventType" not in payload] == [b"others"]


@both_versions
def test_what_is_published_for_a_rule_is_asked_about_once_and_not_retained(version: int) -> None:
    guard = Guard()
    bench = Bench(access=guard)
    peer = bench.connect("a", version)
    for _ in range(3):
        peer.send(publish("$aws/rules/Hot/t", b"x", retain=True), publish("$aws/rules/Hot/t", b"y"))
    assert len(bench.accepted) == 6
    assert guard.asked.count(("publish", "$aws/rules/Hot/t")) == 2  # retained, and not
    assert bench.broker.retained.published == 0
    guard.forbid("publish", "$aws/rules/Other")
    peer = bench.connect("b", 5)
    peer.send(publish("$aws/rules/Other/t", b"x", 1), publish("$aws/rules/Hot/t", b"x", 2))
    codes = [packet.reason_code for packet in only(peer.heard(), PubAckPacket)]
    assert codes == [PubAckReasonCode.NOT_AUTHORIZED, PubAckReasonCode.SUCCESS]


def test_requests_to_the_daemon_are_still_served_and_are_no_messages() -> None:
    bench, served = Bench(), []
    bench.broker.serve = lambda client_id, message: served.append((client_id, message.topic))
    bench.broker.access = Guard()
    bench.connect("a").send(publish("$aws/certificates/create/json"), publish("$aws/rulesets/x"))
    assert served == [("a", "$aws/certificates/create/json"), ("a", "$aws/rulesets/x")]
    assert bench.accepted == []
