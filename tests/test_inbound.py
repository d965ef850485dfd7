"""What a client publishes is acknowledged when it is kept, in order, and refused in the words of its version."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mqtt5 import (
    ConnectPacket,
    DisconnectPacket,
    DisconnectReasonCode,
    PingReqPacket,
    PingRespPacket,
    PubAckPacket,
    PubAckReasonCode,
    PublishPacket,
    QoS,
    SubAckPacket,
    SubscribePacket,
)

from core.message import Message, Properties
from core.mqtt import inbound as inbound_module
from core.mqtt.access import Identity
from core.receipts import DELIVERED, STORED, Outcome, dropped, rejected
from devices.access import OpenAccess
from tests.mqtt_peers import Bench, Peer, forged, only, publish, wanted

both_versions = pytest.mark.parametrize("version", [5, 4])
FULL = rejected("disk full", 0x97)


def acknowledged(peer: Peer) -> list[int]:
    """The identifiers in what the peer has heard, which must be good PUBACKs only."""
    packets = peer.heard()
    assert all(packet == PubAckPacket(packet.packet_id) for packet in only(packets, PubAckPacket))
    assert len(only(packets, PubAckPacket)) == len(packets)
    return [packet.packet_id for packet in only(packets, PubAckPacket)]


def assert_ended(peer: Peer, reason: DisconnectReasonCode) -> None:
    assert peer.closed
    heard = peer.heard()
    if peer.connection.version == 5:
        (farewell,) = heard
        assert isinstance(farewell, DisconnectPacket)
        assert farewell.reason_code == reason
    else:
        assert heard == []


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
    assert_ended(peer, DisconnectReasonCode.QUOTA_EXCEEDED)
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
    assert_ended(peer, DisconnectReasonCode.TOPIC_NAME_INVALID)
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


@both_versions
def test_qos_2_ends_the_connection_on_a_known_topic_too(version: int) -> None:
    bench = Bench()
    peer = bench.connect("a", version)
    peer.send(publish("t", b"", 1))
    peer.heard()
    peer.send(publish("t", b"", 2, qos=QoS.EXACTLY_ONCE))
    assert_ended(peer, DisconnectReasonCode.QOS_NOT_SUPPORTED)
    assert len(bench.accepted) == 1


def test_a_topic_alias_was_not_offered() -> None:
    for topic in ("t", ""):
        bench = Bench()
        peer = bench.connect("a")
        peer.send(publish(topic, b"", topic_alias=1))
        assert_ended(peer, DisconnectReasonCode.TOPIC_ALIAS_INVALID)
        assert bench.batches == []


def test_qos_1_with_packet_identifier_0_is_malformed_on_a_known_topic_too() -> None:
    bench = Bench()
    peer = bench.connect("a")
    peer.send(publish("t"))
    peer.feed(b"\x32\x06\x00\x01t\x00\x00\x00")
    assert_ended(peer, DisconnectReasonCode.MALFORMED_PACKET)
    assert len(bench.accepted) == 1


def test_topics_are_checked_once_and_a_flood_of_them_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbound_module, "TOPICS_REMEMBERED", 10)
    asked: list[str] = []

    class Asked(OpenAccess):
        def publish(self, identity: Identity, topic: str) -> bool:
            asked.append(topic)
            return super().publish(identity, topic)

    bench = Bench(access=Asked())
    peer = bench.connect("a")
    peer.send(*[publish("t")] * 5)
    assert asked == ["t"]
    peer.send(*[publish(f"flood/{number}") for number in range(100)], publish("long/" + "x" * 1_000))
    assert peer.connection.inbound is not None
    assert len(peer.connection.inbound._allowed) <= 10
    assert max(map(len, peer.connection.inbound._allowed)) < 20
    assert len(bench.accepted) == 106


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
