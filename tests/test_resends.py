"""A publish that a device sends again, because a crash swallowed our PUBACK, is told from a new message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.message import Message
from core.receipts import Batch, Receipt
from edge.resends import FRESH_IDS, PER_CLIENT_MAX, Records, Resends, digest


def said(payload: bytes = b"21.5", topic: str = "plant/1") -> Message:
    return Message(topic, payload, 1)


def written(*uses: tuple[str, int, Message]) -> bytes:
    """The blob of a commit that acknowledged these (client, packet identifier, message)."""
    records = Records()
    for client, packet_id, message in uses:
        records.add(Batch([message], Receipt(), client, [packet_id]), ())
    return records.encode()


def test_what_was_committed_before_the_start_is_recognised_once() -> None:
    resends = Resends([written(("pump", 70, said()))])
    assert resends.recognise("pump", 70, said())
    assert not resends.recognise("pump", 70, said())


@pytest.mark.parametrize(
    ("client", "packet_id", "message"),
    [
        ("valve", 70, said()),
        ("pump", 80, said()),
        ("pump", 70, said(b"21.6")),
        ("pump", 70, said(topic="plant/2")),
        ("", 70, said()),
    ],
)
def test_another_client_identifier_topic_or_payload_is_a_new_message(
    client: str, packet_id: int, message: Message
) -> None:
    resends = Resends([written(("pump", 70, said()))])
    assert not resends.recognise(client, packet_id, message)
    assert resends.recognise("pump", 70, said())  # and the record was not used up by the other


@pytest.mark.parametrize("second", [said(), said(b"another")])
@pytest.mark.parametrize("commits", [1, 2])
def test_an_identifier_that_was_used_twice_is_nobodys(second: Message, commits: int) -> None:
    uses = [("pump", 70, said()), ("pump", 70, second), ("pump", 80, said())]
    blobs = [written(*uses)] if commits == 1 else [written(uses[0]), written(*uses[1:])]
    resends = Resends(blobs)
    assert not resends.recognise("pump", 70, said())
    assert not resends.recognise("pump", 70, second)
    assert resends.recognise("pump", 80, said())


def test_a_client_that_begins_anew_for_each_message_is_never_matched() -> None:
    for packet_id in (1, 2, FRESH_IDS):
        assert not Resends([written(("pump", packet_id, said()))])
    assert Resends([written(("pump", 1, said()), ("pump", 2, said(b"22")))]).recognise("pump", 1, said())


def test_the_same_identifier_of_two_clients_is_not_ambiguous() -> None:
    resends = Resends([written(("pump", 70, said()), ("valve", 70, said()))])
    assert resends.recognise("pump", 70, said())
    assert resends.recognise("valve", 70, said())


def test_what_was_left_out_of_the_buffer_is_not_recorded() -> None:
    records = Records()
    batch = Batch([said(b"a"), said(b"b"), said(b"c")], Receipt(), "pump", [1, 2, 3])
    records.add(batch, {1})
    resends = Resends([records.encode()])
    assert [resends.recognise("pump", n, m) for n, m in enumerate(batch.messages, 1)] == [True, False, True]


def test_messages_without_a_packet_identifier_leave_no_record() -> None:
    records = Records()
    records.add(Batch([said(), said()], Receipt(), "pump", [0, 0]), ())
    records.add(Batch([said()], Receipt(), "pump"), ())
    assert not records
    records.add(Batch([said(), said(b"b")], Receipt(), "pump", [0, 50]), ())
    resends = Resends([records.encode()])
    assert not resends.recognise("pump", 0, said())
    assert resends.recognise("pump", 50, said(b"b"))


def test_a_client_is_remembered_by_its_last_publishes_only() -> None:
    uses = [("pump", number, said(b"%d" % number)) for number in range(1, PER_CLIENT_MAX + 2)]
    blobs = [written(*uses[:500]), written(*uses[500:], ("valve", 100, said()))]
    resends = Resends(blobs)
    assert not resends.recognise("pump", 1, said(b"1"))
    assert all(resends.recognise(client, number, message) for client, number, message in uses[1:])
    assert resends.recognise("valve", 100, said())


def test_there_is_nothing_to_recognise_without_records() -> None:
    assert not Resends(())
    assert not Resends([b""])
    resends = Resends([written(("pump", 70, said()))])
    assert resends
    resends.recognise("pump", 70, said())
    assert not resends


def test_the_digest_sees_topic_and_payload() -> None:
    assert len({digest(said(b"a", "t")), digest(said(b"b", "t")), digest(said(b"a", "u")), digest(said(b"", "t"))}) == 4


USES = st.lists(
    st.tuples(st.sampled_from(["", "pump", "Pümpe/1"]), st.integers(1, 12), st.binary(max_size=2)), max_size=30
)


@given(st.lists(USES, max_size=4), USES)
def test_exactly_the_unambiguous_records_are_recognised(
    commits: list[list[tuple[str, int, bytes]]], sent_again: list[tuple[str, int, bytes]]
) -> None:
    blobs = [written(*((c, n, said(p)) for c, n, p in commit)) for commit in commits]
    resends = Resends(blobs)
    flat = [use for commit in commits for use in commit]
    counting = {client for client, _, _ in flat if len({n for c, n, _ in flat if c == client}) > 1}
    known = {use for use in flat if use[0] in counting and sum(use[:2] == other[:2] for other in flat) == 1}
    for client, packet_id, payload in sent_again:
        expected = (client, packet_id, payload) in known
        assert resends.recognise(client, packet_id, said(payload)) == expected
        known.discard((client, packet_id, payload))
