"""QoS 2 both ways: each message once, whatever is sent twice, lost, refused or cut off (MQTT 5 section 4.3.3)."""

import pytest
from mqtt5 import (
    DisconnectPacket,
    DisconnectReasonCode,
    Packet,
    PubAckPacket,
    PubCompPacket,
    PubCompReasonCode,
    PublishPacket,
    PubRecPacket,
    PubRecReasonCode,
    PubRelPacket,
    PubRelReasonCode,
)

from core.mqtt.limits import Limits
from core.receipts import STORED, rejected
from tests.mqtt_peers import Bench, Guard, Peer, only, publish, publish_2, wanted

both_versions = pytest.mark.parametrize("version", [5, 4])
FULL = rejected("disk full", 0x97)


def unknown(bench: Bench) -> int:
    return bench.counters.value("mqtt_unknown_acknowledgements_total")


def answers(peer: Peer, *packets: Packet) -> list[Packet]:
    peer.send(*packets)
    return peer.heard()


def released(peer: Peer) -> list[int]:
    """The identifiers of what the peer has heard, which must be PUBRELs only."""
    packets = peer.heard()
    assert len(only(packets, PubRelPacket)) == len(packets), packets
    return [packet.packet_id for packet in only(packets, PubRelPacket)]


def subscribed(bench: Bench, version: int, *payloads: bytes, **options: int) -> Peer:
    """A client whose session is kept, and that was sent these with QoS 2 and the identifiers 1, 2, …"""
    peer = bench.resume("s", version, **options)
    peer.subscribe(wanted("t", 2))
    bench.connect("p").send(*[publish_2("t", payload, n) for n, payload in enumerate(payloads, 1)])
    return peer


# -- from a client to the broker ---------------------------------------------------------------------------------------


@both_versions
def test_a_message_is_taken_when_it_comes_and_its_identifier_is_free_after_pubcomp(version: int) -> None:
    bench = Bench()
    peer = bench.connect("a", version)
    for payload in (b"1", b"2"):
        assert answers(peer, publish_2("t", payload, 7)) == [PubRecPacket(7)]
        assert answers(peer, PubRelPacket(7)) == [PubCompPacket(7)]
    assert [(message.payload, message.qos) for message in bench.accepted] == [(b"1", 2), (b"2", 2)]
    assert bench.batches[0].packet_ids == [7]


@both_versions
def test_no_pubrec_leaves_before_the_receipt_is_settled(version: int) -> None:
    bench = Bench(settle=False)
    peer = bench.connect("a", version)
    assert answers(peer, publish_2("t", b"1", 1), publish("t", b"2", 2), publish_2("t", b"3", 3)) == []
    (batch,) = bench.batches
    batch.receipt.settle(STORED)
    assert peer.heard() == [PubRecPacket(1), PubAckPacket(2), PubRecPacket(3)]


@both_versions
def test_a_duplicate_is_answered_again_and_not_taken_again_until_it_is_released(version: int) -> None:
    bench = Bench()
    peer = bench.connect("a", version)
    first, again = publish_2("t", b"1", 7), publish_2("t", b"1", 7, duplicate=True)
    assert answers(peer, first, again) == [PubRecPacket(7)]
    assert answers(peer, again) == [PubRecPacket(7)]
    assert answers(peer, PubRelPacket(7), again) == [PubCompPacket(7), PubRecPacket(7)]
    assert len(bench.accepted) == 2


@both_versions
def test_a_duplicate_that_comes_before_the_pubrec_is_answered_once(version: int) -> None:
    bench = Bench(settle=False)
    peer = bench.connect("a", version)
    peer.send(publish_2("t", b"1", 7))
    peer.send(publish("t", b"2", 8), publish_2("t", b"1", 7, duplicate=True), publish("t", b"3", 9))
    assert [message.payload for message in bench.accepted] == [b"1", b"2", b"3"]
    for batch in bench.batches:
        batch.receipt.settle(STORED)
    assert peer.heard() == [PubRecPacket(7), PubAckPacket(8), PubAckPacket(9)]


@both_versions
def test_one_identifier_may_be_in_use_in_both_directions(version: int) -> None:
    """MQTT 5 section 2.2.1: each side has identifiers of its own."""
    bench = Bench()
    peer = bench.connect("a", version)
    peer.subscribe(wanted("t", 2))
    peer.send(publish_2("t", b"x", 1))
    received, rec = peer.heard()
    assert isinstance(received, PublishPacket)
    assert (received.packet_id, rec) == (1, PubRecPacket(1))
    assert answers(peer, PubRecPacket(1), PubRelPacket(1)) == [PubRelPacket(1), PubCompPacket(1)]
    assert answers(peer, PubCompPacket(1)) == []
    assert unknown(bench) == 0


@both_versions
def test_an_unknown_pubrel_is_answered_so_that_the_client_can_forget_it(version: int) -> None:
    """MQTT 5 section 4.3.3; MQTT 3.1.1 has no reason codes."""
    bench = Bench()
    peer = bench.connect("a", version)
    code = PubCompReasonCode.PACKET_ID_NOT_FOUND if version == 5 else PubCompReasonCode.SUCCESS
    assert answers(peer, PubRelPacket(9)) == [PubCompPacket(9, reason_code=code)]
    assert unknown(bench) == 1
    assert not peer.closed


@both_versions
def test_a_message_that_was_taken_stays_taken_over_a_lost_connection(version: int) -> None:
    bench = Bench()
    bench.resume("a", version).send(publish_2("t", b"1", 7), publish_2("t", b"2", 8))
    peer = bench.resume("a", version)
    assert peer.welcome.session_present
    assert answers(peer, publish_2("t", b"1", 7, duplicate=True)) == [PubRecPacket(7)]
    assert answers(peer, PubRelPacket(7), PubRelPacket(8)) == [PubCompPacket(7), PubCompPacket(8)]
    assert [message.payload for message in bench.accepted] == [b"1", b"2"]


@both_versions
@pytest.mark.parametrize("rejected_first", [False, True])
def test_what_an_earlier_connection_brought_is_answered_on_this_one_when_it_is_kept(
    version: int, rejected_first: bool
) -> None:
    bench = Bench(settle=False)
    bench.resume("a", version).send(publish_2("t", b"1", 6), publish_2("t", b"2", 7))
    lost = bench.resume("a", version)
    again = [publish_2("t", b"1", 6, duplicate=True), publish_2("t", b"2", 7, duplicate=True)]
    assert answers(lost, *again) == []
    peer = bench.resume("a", version)
    assert answers(peer, *again, *again) == []
    assert len(bench.accepted) == 2
    bench.batches[0].receipt.settle(STORED, {1: FULL} if rejected_first else None)
    no = [PubRecPacket(7, reason_code=PubRecReasonCode.QUOTA_EXCEEDED)] if version == 5 else []
    assert peer.heard() == [PubRecPacket(6), *(no if rejected_first else [PubRecPacket(7)])]
    assert peer.closed == (rejected_first and version == 4)
    assert lost.heard()[1:] == []
    peer = bench.resume("a", version)
    peer.send(again[1])
    assert len(bench.accepted) == 2 + rejected_first


@both_versions
def test_what_was_kept_while_nobody_was_there_is_answered_at_once(version: int) -> None:
    bench = Bench(settle=False)
    peer = bench.resume("a", version)
    peer.send(publish_2("t", b"1", 6))
    peer.cut()
    bench.batches[0].receipt.settle(STORED)
    assert answers(bench.resume("a", version), publish_2("t", b"1", 6, duplicate=True)) == [PubRecPacket(6)]


@both_versions
def test_a_new_session_knows_nothing_of_identifiers_of_the_old_one(version: int) -> None:
    bench = Bench()
    bench.resume("a", version).send(publish_2("t", b"1", 7))
    peer = bench.connect("a", version)
    assert answers(peer, publish_2("t", b"2", 7)) == [PubRecPacket(7)]
    assert [message.payload for message in bench.accepted] == [b"1", b"2"]


def test_a_rejected_message_ends_the_exchange_and_the_client_may_send_it_as_new() -> None:
    bench = Bench(settle=False)
    peer = bench.connect("a")
    for number in range(2):
        peer.send(publish_2("t", b"1", 7, duplicate=number > 0))
        bench.batches[number].receipt.settle(FULL)
        assert peer.heard() == [PubRecPacket(7, reason_code=PubRecReasonCode.QUOTA_EXCEEDED)]
    peer.send(publish_2("t", b"1", 7, duplicate=True))
    bench.batches[2].receipt.settle(STORED)
    assert peer.heard() == [PubRecPacket(7)]
    assert answers(peer, PubRelPacket(7)) == [PubCompPacket(7)]


def test_a_3_1_1_client_whose_message_was_rejected_may_send_it_again_on_a_new_connection() -> None:
    bench = Bench(settle=False)
    peer = bench.resume("a", 4)
    peer.send(publish_2("t", b"1", 1), publish_2("t", b"2", 2), publish_2("t", b"3", 3))
    bench.batches[0].receipt.settle(STORED, {1: FULL})
    assert peer.closed
    assert peer.heard() == [PubRecPacket(1)]
    peer.cut()
    again = bench.resume("a", 4)
    assert answers(again, publish_2("t", b"2", 2, duplicate=True), publish_2("t", b"3", 3, duplicate=True)) == []
    assert [message.payload for message in bench.batches[1].messages] == [b"2"]
    bench.batches[1].receipt.settle(STORED)
    assert again.heard() == [PubRecPacket(2), PubRecPacket(3)]


def test_a_forbidden_topic_is_refused_with_pubrec_and_leaves_no_identifier_behind() -> None:
    guard = Guard()
    guard.forbid("publish", "secret")
    bench = Bench(access=guard)
    peer = bench.connect("a")
    no = PubRecPacket(7, reason_code=PubRecReasonCode.NOT_AUTHORIZED)
    assert answers(peer, publish_2("secret", b"", 7)) == [no]
    assert answers(peer, publish_2("t", b"", 7)) == [PubRecPacket(7)]
    assert bench.topics == ["t"]


def test_exchanges_that_are_never_completed_are_bounded_by_the_receive_maximum() -> None:
    bench = Bench(Limits(receive_max=3))
    peer = bench.connect("a")
    peer.send(publish_2("t", b"", 1), publish_2("t", b"", 2))
    peer.send(publish_2("t", b"", 3))
    peer.send(publish_2("t", b"", 1, duplicate=True))  # no further one
    peer.send(PubRelPacket(2), publish_2("t", b"", 4))
    assert not peer.closed
    peer.heard()
    peer.send(publish_2("t", b"", 5))
    (farewell,) = peer.heard()
    assert isinstance(farewell, DisconnectPacket)
    assert farewell.reason_code == DisconnectReasonCode.RECEIVE_MAX_EXCEEDED


def test_a_3_1_1_client_has_a_bound_of_its_own() -> None:
    bench = Bench(Limits(receive_max=1, incomplete_max=50))
    peer = bench.connect("a", 4)
    for number in range(1, 51):
        peer.send(publish_2("t", b"", number))
    assert not peer.closed
    peer.send(publish_2("t", b"", 51))
    assert peer.closed
    assert len(bench.accepted) == 50


@both_versions
@pytest.mark.parametrize("topic", ["t", "$aws/things/a/x"])
def test_the_bound_counts_what_an_earlier_connection_left_open(version: int, topic: str) -> None:
    bench = Bench(Limits(receive_max=3, incomplete_max=3), access=Guard())
    bench.resume("a", version).send(publish_2(topic, b"", 1), publish_2(topic, b"", 2))
    peer = bench.resume("a", version)
    peer.send(publish_2(topic, b"", 3))
    assert not peer.closed
    peer.send(publish_2(topic, b"", 4))
    assert peer.closed


# -- from the broker to a client ---------------------------------------------------------------------------------------


@both_versions
def test_a_subscriber_completes_each_message_on_its_own(version: int) -> None:
    bench = Bench()
    peer = subscribed(bench, version, b"1", b"2")
    assert [(p.packet_id, int(p.qos), p.duplicate) for p in peer.published()] == [(1, 2, False), (2, 2, False)]
    assert answers(peer, PubRecPacket(2)) == [PubRelPacket(2)]
    assert answers(peer, PubRecPacket(1), PubCompPacket(2)) == [PubRelPacket(1)]
    assert answers(peer, PubCompPacket(1)) == []
    assert bench.broker.clients()[0].waiting == 0
    assert unknown(bench) == 0


@both_versions
def test_an_unknown_pubrec_is_answered_so_that_the_client_can_forget_it(version: int) -> None:
    bench = Bench()
    peer = bench.connect("a", version)
    code = PubRelReasonCode.PACKET_ID_NOT_FOUND if version == 5 else PubRelReasonCode.SUCCESS
    assert answers(peer, PubRecPacket(9)) == [PubRelPacket(9, reason_code=code)]
    assert answers(peer, PubCompPacket(9)) == []
    assert unknown(bench) == 2
    assert not peer.closed


def test_an_unknown_pubrec_with_an_error_is_not_answered() -> None:
    bench = Bench()
    peer = bench.connect("a")
    assert answers(peer, PubRecPacket(9, reason_code=PubRecReasonCode.UNSPECIFIED_ERROR)) == []
    assert unknown(bench) == 1


def test_a_pubrec_with_an_error_ends_the_exchange_for_ever() -> None:
    bench = Bench()
    peer = subscribed(bench, 5, b"1", b"2", receive_max=1)
    assert peer.payloads() == [b"1"]
    peer.send(PubRecPacket(1, reason_code=PubRecReasonCode.PAYLOAD_FORMAT_INVALID))
    assert peer.payloads() == [b"2"]  # there is room again, and no PUBREL
    peer.cut()
    assert bench.resume("s").payloads() == [b"2"]


@pytest.mark.parametrize("reason", [PubRecReasonCode.SUCCESS, PubRecReasonCode.NO_MATCHING_SUBSCRIBERS])
def test_a_pubrec_that_is_no_error_goes_on(reason: PubRecReasonCode) -> None:
    peer = subscribed(Bench(), 5, b"1")
    peer.heard()
    assert answers(peer, PubRecPacket(1, reason_code=reason)) == [PubRelPacket(1)]


@both_versions
def test_a_message_without_pubrec_comes_again_and_one_with_pubrec_is_released_again(version: int) -> None:
    """MQTT 5 section 4.4: PUBREL and PUBLISH, with their identifiers, in the order of before."""
    bench = Bench()
    peer = subscribed(bench, version, b"1", b"2", b"3", b"4")
    peer.heard()
    peer.send(PubRecPacket(1), PubRecPacket(2), PubCompPacket(1), PubRecPacket(3))
    peer.cut()
    for _ in range(2):
        again = bench.resume("s", version)
        first, second, message = again.heard()
        assert [first, second] == [PubRelPacket(2), PubRelPacket(3)]
        assert isinstance(message, PublishPacket)
        assert (message.packet_id, message.payload, message.duplicate) == (4, b"4", True)
        again.cut()
    again = bench.resume("s", version)
    again.heard()
    again.send(PubCompPacket(2), PubCompPacket(3), PubRecPacket(4))
    assert released(again) == [4]


@both_versions
def test_a_pubrec_that_comes_twice_is_answered_twice(version: int) -> None:
    peer = subscribed(Bench(), version, b"1")
    peer.heard()
    peer.send(PubRecPacket(1), PubRecPacket(1))
    assert released(peer) == [1, 1]
    peer.send(PubCompPacket(1), PubCompPacket(1))
    assert peer.heard() == []


def test_a_puback_for_qos_2_and_a_pubrec_for_qos_1_complete_nothing() -> None:
    bench = Bench()
    peer = bench.resume("s")
    peer.subscribe(wanted("t", 2))
    bench.connect("p").send(publish("t", b"1", 1), publish_2("t", b"2", 2))
    peer.heard()
    peer.send(PubAckPacket(2), PubRecPacket(1))
    assert unknown(bench) == 2
    peer.cut()
    assert bench.resume("s").payloads() == [b"1", b"2"]


@both_versions
def test_exchanges_count_against_the_receive_maximum_until_pubcomp(version: int) -> None:
    """MQTT 5 section 4.9; in MQTT 3.1.1 the bound is ours."""
    bench = Bench(Limits(inflight=2))
    peer = subscribed(bench, version, b"1", b"2", b"3", **({"receive_max": 2} if version == 5 else {}))
    assert peer.payloads() == [b"1", b"2"]
    peer.send(PubRecPacket(1))
    assert released(peer) == [1]
    peer.send(PubCompPacket(1))
    assert peer.payloads() == [b"3"]


def test_a_smaller_receive_maximum_on_the_next_connection_is_honoured() -> None:
    bench = Bench()
    peer = subscribed(bench, 5, b"1", b"2", b"3", b"4")
    peer.heard()
    peer.send(PubRecPacket(1), PubRecPacket(2))
    peer.cut()
    again = bench.resume("s", receive_max=1)
    assert released(again) == [1, 2]
    assert answers(again, PubCompPacket(1)) == []
    again.send(PubCompPacket(2))
    assert again.payloads() == [b"3"]
    again.send(PubRecPacket(3))
    assert released(again) == [3]
    again.send(PubCompPacket(3))
    assert again.payloads() == [b"4"]


def test_a_message_with_qos_2_goes_through_the_broker_once_however_both_sides_are_cut() -> None:
    bench = Bench()
    subscriber = subscribed(bench, 5)
    for _ in range(3):
        publisher = bench.resume("p2")
        publisher.send(publish_2("t", b"once", 5, duplicate=True))
        publisher.cut()
        subscriber.cut()
        subscriber = bench.resume("s")
    assert [(packet.payload, packet.duplicate) for packet in subscriber.published()] == [(b"once", True)]
    assert [message.payload for message in bench.accepted] == [b"once"]
