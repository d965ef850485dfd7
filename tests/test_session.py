"""A session sends what the client may have now, keeps a bounded line for later, and counts what it gives up."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mqtt5 import PublishPacket, QoS

from core.message import Message, Properties
from core.mqtt import session as session_module
from core.mqtt.limits import Limits
from core.mqtt.parcels import Parcel
from core.mqtt.session import ENTRY_BYTES, SlowConsumer, packet_id_of
from tests.mqtt_peers import Guard, GuardedGrant, Home, Reader

LIMITS = Limits(queue_messages=100, queue_bytes=4_000 + 100 * ENTRY_BYTES)


def numbered(number: int) -> bytes:
    return b"%d" % number


def slow(limits: Limits = LIMITS) -> Reader:
    """A client that is there and takes nothing."""
    reader = Reader(home=Home(limits))
    reader.congested = True
    return reader


def read_on(reader: Reader) -> list[bytes]:
    """What comes when the client takes everything again."""
    reader.congested = False
    reader.session.resume()
    return reader.payloads


def dropped(reader: Reader, reason: str) -> int:
    return reader.home.counters.value("dropped_total", reason=reason)


# -- what is sent now --------------------------------------------------------------------------------------------------


def test_what_may_be_sent_is_sent_at_once() -> None:
    reader = Reader()
    for qos in (0, 1, 2):
        reader.session.deliver(Parcel(Message("t", numbered(qos)), qos, retain=qos == 1))
    assert reader.sent == [
        PublishPacket("t", b"0"),
        PublishPacket("t", b"1", qos=QoS.AT_LEAST_ONCE, retain=True, packet_id=1),
        PublishPacket("t", b"2", qos=QoS.EXACTLY_ONCE, packet_id=2),
    ]


@pytest.mark.parametrize("window", [1, 5])
@pytest.mark.parametrize("qos", [1, 2])
def test_no_more_than_the_window_is_unacknowledged(qos: int, window: int) -> None:
    reader = Reader(window=window)
    for number in range(window + 3):
        reader.deliver(numbered(number), qos)
    assert reader.payloads == [numbered(n) for n in range(window)]
    if qos == 1:
        assert reader.session.acknowledge(1)
    else:
        assert reader.session.take_received(1, failed=False)
        assert len(reader.sent) == window  # a PUBREC is half of it (MQTT 5 section 4.9)
        assert reader.session.take_completed(1)
    assert reader.payloads == [numbered(n) for n in range(window + 1)]


def test_an_acknowledgement_counts_once_and_only_for_what_was_sent() -> None:
    reader = Reader(window=1)
    for payload in (b"a", b"b", b"c"):
        reader.deliver(payload)
    assert not reader.session.acknowledge(9)
    assert reader.payloads == [b"a"]
    assert reader.session.acknowledge(1)
    assert not reader.session.acknowledge(1)
    assert reader.payloads == [b"a", b"b"]


def test_an_acknowledgement_of_the_wrong_kind_counts_for_nothing() -> None:
    reader = Reader()
    reader.deliver(b"1", 1)
    reader.deliver(b"2", 2)
    session = reader.session
    assert not session.acknowledge(2)
    assert not session.take_received(1, failed=False)
    assert not session.take_received(1, failed=True)
    assert not session.take_completed(2)
    assert session.waiting == 2
    assert reader.released == []
    assert session.acknowledge(1)
    assert session.take_received(2, failed=False)
    assert not session.acknowledge(2)
    assert session.take_completed(2)
    assert session.waiting == 0


def test_qos_0_does_not_overtake_what_waits() -> None:
    reader = Reader(window=1)
    for payload, qos in [(b"1", 1), (b"2", 1), (b"3", 0), (b"4", 1)]:
        reader.deliver(payload, qos)
    assert reader.payloads == [b"1"]
    reader.session.acknowledge(1)
    assert reader.payloads == [b"1", b"2", b"3"]
    reader.session.acknowledge(2)
    assert reader.payloads == [b"1", b"2", b"3", b"4"]


def test_a_full_window_does_not_hold_back_qos_0_when_nothing_waits() -> None:
    reader = Reader(window=1)
    reader.deliver(b"1")
    reader.deliver(b"2", 0)
    assert reader.payloads == [b"1", b"2"]


def test_a_congested_connection_gets_nothing_until_it_reads_again() -> None:
    reader = slow()
    for qos in (0, 1, 2):
        reader.deliver(numbered(qos), qos)
    reader.session.resume()
    assert reader.payloads == []
    assert not reader.session.ready
    assert read_on(reader) == [b"0", b"1", b"2"]
    assert reader.session.ready


def test_what_is_too_large_for_the_client_counts_as_done() -> None:
    reader = Reader(window=2, largest=100)
    for qos in (0, 1, 2, 1, 2):
        reader.deliver(bytes(200), qos)
    reader.deliver(b"a")
    reader.deliver(b"b")
    assert reader.payloads == [b"a", b"b"]
    assert reader.session.waiting == 2


def test_what_expired_while_it_waited_is_not_sent_and_counted() -> None:
    """MQTT 5 section 3.3.2.3.3."""
    reader = slow()
    for seconds, qos in [(10, 0), (10, 1), (11, 2), (None, 1)]:
        reader.deliver(numbered(seconds or 0), qos, properties=Properties(message_expiry_interval=seconds))
    reader.home.at += 10_000
    assert read_on(reader) == [b"11", b"0"]
    assert reader.sent[0].message_expiry_interval == 1
    assert dropped(reader, "expired") == 2
    assert reader.session.waiting == 2
    assert reader.home.queued_bytes == 0


@pytest.mark.parametrize("number", [1, 2, 65_535])
def test_packet_identifiers_follow_from_numbers_and_are_never_0(number: int) -> None:
    assert packet_id_of(number) == packet_id_of(number + 65_535) == packet_id_of(number + 655_350) == number


def test_an_identifier_in_use_is_waited_for() -> None:
    """It is not given to another message (MQTT 5 section 2.2.1), nor are numbers left out."""
    reader = Reader(window=10)
    reader.deliver(b"stays")
    for _ in range(65_534):
        reader.deliver()
        assert reader.session.acknowledge(reader.hear()[-1].packet_id or 0)
    reader.deliver(b"waits")
    assert reader.hear() == []
    assert reader.session.acknowledge(1)
    assert [(packet.packet_id, packet.payload) for packet in reader.hear()] == [(1, b"waits")]


# -- the bounded line --------------------------------------------------------------------------------------------------


def test_a_full_line_takes_no_more_qos_0() -> None:
    reader = slow()
    for number in range(LIMITS.queue_messages + 5):
        reader.deliver(numbered(number), 0)
    assert read_on(reader) == [numbered(n) for n in range(LIMITS.queue_messages)]
    assert dropped(reader, "slow subscriber") == 5


def test_a_full_line_gives_up_its_oldest_qos_0_for_qos_1_and_2() -> None:
    reader = slow()
    reader.deliver(b"one")
    for number in range(LIMITS.queue_messages - 1):
        reader.deliver(numbered(number), 0)
    reader.deliver(b"two")
    reader.deliver(b"three", 2)
    rest = [numbered(n) for n in range(2, LIMITS.queue_messages - 1)]
    assert read_on(reader) == [b"one", *rest, b"two", b"three"]
    assert dropped(reader, "slow subscriber") == 2


@pytest.mark.parametrize("qos", [1, 2])
def test_a_line_full_of_qos_1_and_2_means_that_the_client_cannot_keep_up(qos: int) -> None:
    reader = slow()
    for number in range(LIMITS.queue_messages):
        reader.deliver(numbered(number), 1 + number % 2)
    reader.deliver(b"", 0)
    assert dropped(reader, "slow subscriber") == 1
    with pytest.raises(SlowConsumer):
        reader.deliver(b"", qos)
    assert dropped(reader, "slow subscriber") == 2


def test_the_line_is_bounded_in_bytes_too() -> None:
    reader, large = slow(), bytes(LIMITS.queue_bytes // 4)
    for _ in range(4):
        reader.deliver(large)
    with pytest.raises(SlowConsumer):
        reader.deliver(b"x")
    read_on(reader)
    reader.congested = True
    for _ in range(4):  # what was sent no longer counts
        reader.deliver(large)


def test_large_qos_1_messages_push_out_as_many_small_ones_as_it_takes() -> None:
    reader = slow(Limits(queue_bytes=1_000 + 95 * ENTRY_BYTES))
    for _ in range(95):
        reader.deliver(bytes(9), 0)
    for _ in range(9):
        reader.deliver(bytes(101))
    read_on(reader)
    # Before each message is added the line is below its bound, so it is never more than one message above it.
    held = sum(len(payload) + 1 + ENTRY_BYTES for payload in reader.payloads)
    assert held < 1_000 + 95 * ENTRY_BYTES + 102 + ENTRY_BYTES
    assert dropped(reader, "slow subscriber") + len(reader.sent) == 104
    assert [p.payload for p in reader.sent if p.packet_id] == [bytes(101)] * 9


def test_all_lines_together_are_bounded_for_those_who_are_away_before_those_who_read() -> None:
    home = Home(Limits(queues_bytes=10 * (100 + ENTRY_BYTES)))
    away, here = Reader("away", home), Reader("here", home)
    away.leave()
    here.congested = True
    for number in range(20):
        away.session.deliver(Parcel(Message("t", bytes(99)), 1))
        assert len(away.session._waiting) == min(number + 1, 10)
    assert dropped(away, "session queue full") == 10
    here.deliver(b"x")
    assert read_on(here) == [b"x"]


def test_whoever_has_more_than_a_fair_share_pays_when_all_lines_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "FAIR_BYTES", 500 + 2 * ENTRY_BYTES)
    home = Home(Limits(queues_bytes=10 * (100 + ENTRY_BYTES)))
    greedy, modest = Reader("greedy", home), Reader("modest", home)
    greedy.congested = modest.congested = True
    for _ in range(10):
        greedy.deliver(bytes(99))
    modest.deliver(bytes(99))
    with pytest.raises(SlowConsumer):
        greedy.deliver(b"")
    modest.deliver(bytes(399))
    with pytest.raises(SlowConsumer):
        modest.deliver(b"")


def test_a_message_that_many_wait_for_is_held_once() -> None:
    home = Home()
    readers = [Reader(f"c{n}", home) for n in range(10)]
    parcel = Parcel(Message("t", bytes(99)), 1)
    for reader in readers:
        reader.congested = True
        reader.session.deliver(parcel)
    assert home.queued_bytes == 100 + 10 * ENTRY_BYTES
    for reader in readers[1:]:
        assert read_on(reader) == [bytes(99)]
    assert home.queued_bytes == 100 + ENTRY_BYTES
    readers[0].session.end()
    assert home.queued_bytes == 0


def test_the_answer_to_a_subscription_is_not_bounded() -> None:
    reader = slow(Limits(queue_messages=1))
    for number in range(5):
        reader.session.deliver(Parcel(Message("t", numbered(number)), 1), bounded=False)
    assert read_on(reader) == [numbered(n) for n in range(5)]


# -- a client that comes and goes --------------------------------------------------------------------------------------


def test_for_a_client_that_is_away_qos_1_and_2_wait_in_order_and_qos_0_does_not() -> None:
    reader = Reader()
    reader.leave()
    for number in range(9):
        reader.deliver(numbered(number), number % 3)
    assert reader.payloads == []
    reader.come()
    assert reader.payloads == [numbered(n) for n in range(9) if n % 3]
    assert not any(packet.duplicate for packet in reader.sent)


def test_qos_0_that_waited_goes_with_the_connection_and_is_counted() -> None:
    reader = slow()
    reader.deliver(b"0", 0)
    reader.deliver(b"1", 1)
    reader.leave()
    assert dropped(reader, "subscriber gone") == 1
    reader.congested = False
    reader.come()
    assert reader.payloads == [b"1"]


def test_what_was_not_acknowledged_comes_again_in_order_before_what_is_new() -> None:
    """With DUP and the same identifiers (MQTT 5 sections 3.3.1.1 and 4.4)."""
    reader = Reader(window=3)
    for number in range(1, 6):
        reader.deliver(numbered(number), 1 + number % 2)
    reader.session.acknowledge(2)
    reader.leave()
    reader.deliver(b"6")
    assert [(p.packet_id, p.duplicate) for p in reader.hear()] == [(1, False), (2, False), (3, False), (4, False)]
    reader.window = 10
    reader.come()
    again = [(packet.packet_id, packet.payload, packet.duplicate) for packet in reader.hear()]
    assert again == [(1, b"1", True), (3, b"3", True), (4, b"4", True), (5, b"5", False), (6, b"6", False)]


def test_what_was_sent_and_cut_off_several_times_keeps_its_order_and_its_mark() -> None:
    reader = Reader(window=3)
    for number in range(1, 6):
        reader.deliver(numbered(number))
    for window in (1, 2, 1):
        reader.leave()
        reader.window = window
        reader.hear()
        reader.come()
        assert [p.packet_id for p in reader.sent] == [1, 2][:window]
    for number in range(1, 5):
        reader.session.acknowledge(number)
    assert [(p.packet_id, p.duplicate) for p in reader.sent] == [
        (1, True), (2, True), (3, True), (4, False), (5, False),
    ]  # fmt: skip


def test_a_pubrel_comes_again_before_any_message_and_the_message_does_not() -> None:
    """MQTT 5 section 4.4: what PUBREC came for is not published again."""
    reader = Reader()
    for number in range(1, 5):
        reader.deliver(numbered(number), 2)
    for packet_id in (2, 1):
        assert reader.session.take_received(packet_id, failed=False)
    assert reader.released == [2, 1]
    reader.leave()
    reader.hear()
    reader.released.clear()
    reader.come()
    assert reader.released == [2, 1]
    assert [packet.packet_id for packet in reader.hear()] == [3, 4]
    assert reader.session.take_received(2, failed=False)  # sent again by a client that lost the PUBREL
    assert reader.released == [2, 1, 2]
    assert reader.session.take_completed(2)
    assert not reader.session.take_completed(2)


def test_a_pubrec_with_an_error_ends_the_exchange_and_makes_room() -> None:
    """MQTT 5 section 4.3.3: no PUBREL follows it."""
    reader = Reader(window=1)
    reader.deliver(b"1", 2)
    reader.deliver(b"2", 2)
    assert reader.session.take_received(1, failed=True)
    assert reader.released == []
    assert reader.payloads == [b"1", b"2"]
    assert not reader.session.take_received(1, failed=False)


def test_a_client_that_is_away_loses_what_its_line_has_no_room_for_and_that_is_counted() -> None:
    reader = Reader(home=Home(LIMITS))
    reader.leave()
    for number in range(LIMITS.queue_messages + 5):
        reader.deliver(numbered(number), 1 + number % 2)
    reader.window = 1_000
    reader.come()
    assert reader.payloads == [numbered(n) for n in range(LIMITS.queue_messages)]
    assert dropped(reader, "session queue full") == 5


def test_what_a_client_may_not_receive_any_more_is_dropped_when_it_comes() -> None:
    reader, guard = Reader(), Guard()
    for topic in ("open", "shut"):
        reader.session.deliver(Parcel(Message(topic, b"in flight"), 1))
    reader.leave()
    for topic in ("open", "shut"):
        reader.session.deliver(Parcel(Message(topic, b"waiting"), 2))
    reader.hear()
    guard.forbid("receive", "shut")
    reader.come(GuardedGrant(guard, "c", None))
    assert [packet.topic for packet in reader.sent] == ["open", "open"]
    assert dropped(reader, "not authorized") == 2


def test_an_ended_session_owes_nothing_and_holds_nothing() -> None:
    reader = Reader(window=2)
    for number in range(6):
        reader.deliver(numbered(number), 2)
    reader.session.take_received(1, failed=False)
    reader.leave()
    reader.session.end()
    assert reader.session.waiting == 0
    assert reader.home.queued_bytes == 0


def test_what_was_not_sent_or_not_acknowledged_with_qos_1_may_be_another_members() -> None:
    """MQTT 5 section 4.8.2: what was sent with QoS 2 stays with the session that has it."""
    reader = Reader(window=2)
    shared = [Parcel(Message("t", numbered(n)), qos, group="$share/g/t") for n, qos in enumerate([1, 2, 1, 2])]
    own = Parcel(Message("t", b"own"), 1)
    for parcel in (*shared, own):
        reader.session.deliver(parcel)
    assert reader.payloads == [b"0", b"1"]
    reader.leave()
    reader.come()
    reader.leave()  # what is sent for the second time is in the line, and was sent all the same
    assert [parcel.message.payload for parcel in reader.session.give_up_shared(lambda _: True)] == [b"0", b"2", b"3"]
    reader.hear()
    reader.come()
    assert [(p.payload, p.duplicate) for p in reader.sent] == [(b"1", True), (b"own", False)]


# -- whatever happens --------------------------------------------------------------------------------------------------

STEPS = ["qos 0", "qos 1", "qos 2", "answer", "block", "unblock", "leave", "come"]


@given(st.lists(st.sampled_from(STEPS), max_size=120), st.integers(1, 4))
@settings(max_examples=300)
def test_order_holds_and_nothing_is_lost_whatever_happens(steps: list[str], window: int) -> None:
    reader, home = Reader(window=window), Home()
    reader.session._house = reader.home = home
    client = _Client(reader)
    given_out, certain, here = 0, list[bytes](), True
    for step in steps:
        if step.startswith("qos"):
            qos = int(step[-1])
            certain += [numbered(given_out)] if qos else []
            reader.deliver(numbered(given_out), qos)
            given_out += 1
        elif step == "answer" and here:
            client.answer_one()
        elif step in ("block", "unblock"):
            reader.congested = step == "block"
            reader.session.resume()
        elif step == "leave" and here:
            here = False
            reader.leave()
        elif step == "come" and not here:
            here = True
            client.reconnect()
        client.read()
        assert len(client.open) + len(client.releases) <= window
    reader.congested = False
    if not here:
        client.reconnect()
    reader.session.resume()
    while client.read() or client.open or client.releases:
        client.answer_one()
    assert client.taken == certain
    assert reader.session.waiting == 0
    assert home.queued_bytes == 0


class _Client:
    """Reads as MQTT says: QoS 1 again and again, QoS 2 once; `taken` is the first of each, in order."""

    def __init__(self, reader: Reader) -> None:
        self.taken: list[bytes] = []
        self.open: dict[int, int] = {}  # packet identifier → QoS, of what this connection brought
        self.releases: list[int] = []
        self._reader = reader
        self._known: set[int] = set()

    def reconnect(self) -> None:
        self.open.clear()
        self.releases.clear()
        self._reader.hear()
        self._reader.released.clear()
        self._reader.come()

    def read(self) -> bool:
        packets = self._reader.hear()
        for packet in packets:
            qos, packet_id = int(packet.qos), packet.packet_id or 0
            if not qos:
                continue
            assert packet_id not in self.open
            self.open[packet_id] = qos
            if qos == 2 and packet_id in self._known:
                assert packet.payload in self.taken  # what it knows is the message that it knows
                continue
            if packet.payload not in self.taken:
                self.taken.append(packet.payload)
            else:
                assert qos == 1
            if qos == 2:
                self._known.add(packet_id)
        self.releases += self._reader.released
        self._reader.released.clear()
        return bool(packets)

    def answer_one(self) -> None:
        session = self._reader.session
        if self.releases:
            packet_id = self.releases.pop(0)
            self._known.discard(packet_id)
            assert session.take_completed(packet_id)
            return
        for packet_id, qos in list(self.open.items()):
            del self.open[packet_id]
            assert session.acknowledge(packet_id) if qos == 1 else session.take_received(packet_id, failed=False)
            return
