"""A session sends what the client may have now, keeps a bounded line for later, and counts what it gives up."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mqtt5 import PublishPacket, QoS

from core.message import Message, Properties
from core.mqtt import session as session_module
from core.mqtt.session import INFLIGHT_MAX, WAITING_MAX, WAITING_MAX_BYTES, Session, SlowConsumer, outgoing_packet


class Client:
    """A session and its other end."""

    def __init__(self, receive_max: int = 65_535, largest: int = 1 << 30) -> None:
        self.sent: list[PublishPacket] = []
        self.dropped: list[str] = []
        self.congested = False
        self._largest = largest
        self.session = Session("c", self._send, lambda: self.congested, self.dropped.append, receive_max)

    def _send(self, packet: PublishPacket) -> bool:
        if len(packet.write()) > self._largest:
            return False
        self.sent.append(packet)
        return True

    def deliver(self, payload: bytes, qos: int = 1, **more: Any) -> None:
        self.session.deliver(Message("t", payload, **more), qos, False)

    @property
    def payloads(self) -> list[bytes]:
        return [packet.payload for packet in self.sent]


def numbered(number: int) -> bytes:
    return b"%d" % number


def test_what_may_be_sent_is_sent_at_once() -> None:
    client = Client()
    client.session.deliver(Message("t", b"0"), 0, False)
    client.session.deliver(Message("t", b"1"), 1, True)
    assert client.sent == [
        PublishPacket("t", b"0"),
        PublishPacket("t", b"1", qos=QoS.AT_LEAST_ONCE, retain=True, packet_id=1),
    ]


def test_a_message_keeps_what_its_publisher_said_beside_the_payload() -> None:
    properties = Properties(1, 60, "text/plain", "r", b"c", (("k", "v"), ("k", "w")))
    packet = outgoing_packet(Message("t", b"x", properties=properties), 0, False, None)
    assert packet == PublishPacket(
        "t", b"x", payload_format_indicator=1, message_expiry_interval=60, content_type="text/plain",
        response_topic="r", correlation_data=b"c", user_properties=[("k", "v"), ("k", "w")],
    )  # fmt: skip


@pytest.mark.parametrize(("receive_max", "window"), [(1, 1), (5, 5), (65_535, INFLIGHT_MAX)])
def test_no_more_than_the_window_is_unacknowledged(receive_max: int, window: int) -> None:
    client = Client(receive_max)
    for number in range(window + 3):
        client.deliver(numbered(number))
    assert client.payloads == [numbered(n) for n in range(window)]
    assert client.session.acknowledge(client.sent[0].packet_id or 0)
    assert client.payloads == [numbered(n) for n in range(window + 1)]


def test_an_acknowledgement_counts_once_and_only_for_what_was_sent() -> None:
    client = Client(receive_max=1)
    client.deliver(b"a")
    client.deliver(b"b")
    client.deliver(b"c")
    assert not client.session.acknowledge(9)
    assert client.payloads == [b"a"]
    assert client.session.acknowledge(1)
    assert not client.session.acknowledge(1)
    assert client.payloads == [b"a", b"b"]


def test_qos_0_does_not_overtake_what_waits() -> None:
    client = Client(receive_max=1)
    client.deliver(b"1")
    client.deliver(b"2")
    client.deliver(b"3", qos=0)
    client.deliver(b"4")
    assert client.payloads == [b"1"]
    client.session.acknowledge(1)
    assert client.payloads == [b"1", b"2", b"3"]
    client.session.acknowledge(2)
    assert client.payloads == [b"1", b"2", b"3", b"4"]


def test_a_full_window_does_not_hold_back_qos_0_when_nothing_waits() -> None:
    client = Client(receive_max=1)
    client.deliver(b"1")
    client.deliver(b"2", qos=0)
    assert client.payloads == [b"1", b"2"]


def test_a_congested_connection_gets_nothing_until_it_reads_again() -> None:
    client = Client()
    client.congested = True
    client.deliver(b"1", qos=0)
    client.deliver(b"2")
    client.session.resume()
    assert client.payloads == []
    client.congested = False
    client.session.resume()
    assert client.payloads == [b"1", b"2"]


def test_a_full_line_takes_no_more_qos_0() -> None:
    client = Client()
    client.congested = True
    for number in range(WAITING_MAX + 5):
        client.deliver(numbered(number), qos=0)
    client.congested = False
    client.session.resume()
    assert client.payloads == [numbered(n) for n in range(WAITING_MAX)]
    assert client.dropped == ["slow subscriber"] * 5


def test_a_full_line_gives_up_its_oldest_qos_0_for_qos_1() -> None:
    client = Client()
    client.congested = True
    client.deliver(b"one")
    for number in range(WAITING_MAX - 1):
        client.deliver(numbered(number), qos=0)
    client.deliver(b"two")
    client.congested = False
    client.session.resume()
    assert client.payloads == [b"one", *[numbered(n) for n in range(1, WAITING_MAX - 1)], b"two"]
    assert client.dropped == ["slow subscriber"]


def test_a_line_full_of_qos_1_means_that_the_client_cannot_keep_up() -> None:
    client = Client()
    client.congested = True
    for number in range(WAITING_MAX):
        client.deliver(numbered(number))
    client.deliver(b"", qos=0)
    assert client.dropped == ["slow subscriber"]
    with pytest.raises(SlowConsumer):
        client.deliver(b"")


def test_the_line_is_bounded_in_bytes_too() -> None:
    client, large = Client(), bytes(WAITING_MAX_BYTES // 4)
    client.congested = True
    for _ in range(4):
        client.deliver(large)
    with pytest.raises(SlowConsumer):
        client.deliver(b"x")
    client.congested = False
    client.session.resume()
    client.congested = True
    for _ in range(4):  # what was sent no longer counts
        client.deliver(large)


def test_large_qos_1_messages_push_out_as_many_small_ones_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "WAITING_MAX_BYTES", 1_000)
    client = Client()
    client.congested = True
    for _ in range(100):
        client.deliver(bytes(10), qos=0)
    for _ in range(9):
        client.deliver(bytes(101))
    client.congested = False
    client.session.resume()
    # Before each message is added the line is below its bound, so it is never more than one message above it.
    assert sum(map(len, client.payloads)) < 1_000 + 101
    assert len(client.dropped) + len(client.sent) == 109
    assert [p.payload for p in client.sent if p.packet_id] == [bytes(101)] * 9


def test_what_is_too_large_for_the_client_counts_as_sent() -> None:
    client = Client(receive_max=2, largest=100)
    for _ in range(5):
        client.deliver(bytes(200))
    client.deliver(b"a")
    client.deliver(b"b")
    assert client.payloads == [b"a", b"b"]


def test_identifiers_in_use_are_not_given_again() -> None:
    client = Client(receive_max=2)
    client.deliver(b"stays")
    for _ in range(70_000):
        client.deliver(b"")
        assert client.session.acknowledge(client.sent[-1].packet_id or 0)
    identifiers = {packet.packet_id for packet in client.sent[1:]}
    assert client.sent[0].packet_id == 1
    assert identifiers == set(range(2, 65_536))


@given(st.lists(st.sampled_from(["qos 0", "qos 1", "ack", "block", "unblock"]), max_size=80), st.integers(1, 4))
@settings(max_examples=150)
def test_order_holds_and_nothing_is_lost_whatever_happens(steps: list[str], receive_max: int) -> None:
    client, given_out, unacknowledged = Client(receive_max), 0, list[int]()
    for step in steps:
        before = len(client.sent)
        if step in ("qos 0", "qos 1"):
            client.deliver(numbered(given_out), qos=int(step[-1]))
            given_out += 1
        elif step == "ack" and unacknowledged:
            assert client.session.acknowledge(unacknowledged.pop(0))
        elif step == "block":
            client.congested = True
        elif step == "unblock":
            client.congested = False
            client.session.resume()
        if client.congested:
            assert len(client.sent) == before
        unacknowledged += [packet.packet_id for packet in client.sent[before:] if packet.packet_id]
        assert len(unacknowledged) <= receive_max
    client.congested = False
    client.session.resume()
    unacknowledged = [packet.packet_id for packet in client.sent if packet.packet_id]
    for packet_id in unacknowledged:  # grows while it is walked
        if client.session.acknowledge(packet_id):
            unacknowledged += [p.packet_id for p in client.sent if p.packet_id and p.packet_id not in unacknowledged]
    assert client.payloads == [numbered(n) for n in range(given_out)]
