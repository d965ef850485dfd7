"""A local queue keeps a message until somebody who received it says that it is done with it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from core import queues
from core.queues import QueueError, QueueFull, Settings

WALL = 1_795_262_400_000


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with closing(opened()) as connection:
        yield connection


def opened() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(queues.SCHEMA)
    return connection


def send(db: sqlite3.Connection, body: bytes = b"1", queue: str = "q", now: int = 0, **options: Any) -> str:
    return queues.send(db, queue, body, now, WALL, **options)


def take(db: sqlite3.Connection, now: int = 0, queue: str = "q", **options: Any) -> list[queues.Message]:
    return queues.receive(db, queue, now, WALL + now, **options)[0]


def bodies(messages: list[queues.Message]) -> list[bytes]:
    return [message.body for message in messages]


def test_messages_are_received_in_the_order_of_sending_with_all_that_was_said(db: sqlite3.Connection) -> None:
    attributes = {"ErrorCode": ("Number", "200"), "b": ("Binary", "AA==")}
    first = send(db, b"1", attributes=attributes)
    send(db, b"2")
    send(db, b"3", "other")
    found = take(db, 5)
    assert bodies(found) == [b"1", b"2"]
    assert (found[0].id, found[0].attributes, found[0].sent_ms, found[0].receives, found[0].first_received_ms) == (
        first, attributes, WALL, 1, WALL + 5,
    )  # fmt: skip
    assert found[0].md5 == "c4ca4238a0b923820dcc509a6f75849b"


def test_a_received_message_is_invisible_until_its_time_out_and_then_in_its_old_place(db: sqlite3.Connection) -> None:
    send(db, b"1")
    assert bodies(take(db, 100)) == [b"1"]
    send(db, b"2", now=200)
    assert bodies(take(db, 100 + queues.VISIBILITY_MS - 1)) == [b"2"]
    assert take(db, 100 + queues.VISIBILITY_MS - 1) == []
    (again,) = take(db, 100 + queues.VISIBILITY_MS)
    assert (again.body, again.receives, again.first_received_ms) == (b"1", 2, WALL + 100)


def test_a_deleted_message_is_gone_and_only_the_last_receipt_deletes(db: sqlite3.Connection) -> None:
    send(db)
    (first,) = take(db, 0, visibility=10)
    (second,) = take(db, 10)
    assert queues.delete(db, "q", [first.receipt]) == 0
    assert queues.delete(db, "other", [second.receipt]) == 0
    assert queues.delete(db, "q", [second.receipt, "x", "1-", "-1", "9" * 50 + "-1", "٣-1"]) == 1
    assert take(db, 10**9) == []
    assert queues.totals(db, 0) == [queues.Totals("q", 0, 0, 0)]


def test_visibility_can_be_changed_by_whoever_received(db: sqlite3.Connection) -> None:
    send(db)
    (message,) = take(db, 0)
    assert queues.change_visibility(db, "q", [message.receipt], 5, 0) == 1
    assert bodies(take(db, 5)) == [b"1"]
    assert queues.change_visibility(db, "q", [message.receipt], 5, 0) == 0


def test_a_delayed_message_comes_late_and_a_restart_does_not_hurry_it(db: sqlite3.Connection) -> None:
    send(db, b"late", delay=500)
    send(db, b"taken")
    take(db, 0)
    queues.forget_receptions(db, 10)
    assert bodies(take(db, 10)) == [b"taken"]
    assert bodies(take(db, 499)) == []
    assert bodies(take(db, 500)) == [b"late"]


def test_it_tells_when_to_look_again(db: sqlite3.Connection) -> None:
    assert queues.next_visible(db, "q") is None
    send(db, delay=500)
    send(db, now=7)
    assert queues.next_visible(db, "q") == 7
    take(db, 10, visibility=1_000)
    assert queues.next_visible(db, "q") == 500


def test_a_message_received_too_often_goes_to_the_dead_letter_queue(db: sqlite3.Connection) -> None:
    queues.configure(db, "q", Settings(visibility=0, max_receives=2, dead_letter="dead"))
    told = send(db, b"poison", attributes={"a": ("String", "b")})
    send(db, b"good")
    assert bodies(take(db)) == bodies(take(db)) == [b"poison", b"good"]
    assert bodies(take(db)) == []
    dead = take(db, queue="dead")[0]
    assert (dead.id, dead.body, dead.attributes, dead.receives) == (told, b"poison", {"a": ("String", "b")}, 1)
    assert [(t.queue, t.messages) for t in queues.totals(db, 0)] == [("dead", 2), ("q", 0)]


@pytest.mark.parametrize("dead_letter", ["", "q", "full", "not a name!"])
def test_without_a_dead_letter_queue_that_takes_it_a_message_stays(db: sqlite3.Connection, dead_letter: str) -> None:
    queues.configure(db, "full", Settings(messages_max=0))
    queues.configure(db, "q", Settings(visibility=0, max_receives=1, dead_letter=dead_letter))
    send(db)
    assert [m.receives for _ in range(3) for m in take(db)] == [1, 2, 3]


def test_a_batch_is_bounded_in_messages_and_bytes_but_never_empty(db: sqlite3.Connection) -> None:
    for _ in range(5):
        send(db, b"x" * 1_000)
    assert len(take(db, most=2)) == 2
    assert len(take(db, bytes_max=10)) == 1
    assert len(take(db, bytes_max=2_000)) == 2


def test_a_queue_is_bounded(db: sqlite3.Connection) -> None:
    queues.configure(db, "few", Settings(messages_max=2))
    queues.configure(db, "small", Settings(bytes_max=10))
    send(db, queue="few")
    send(db, queue="few")
    send(db, b"x" * 10, "small")
    for queue in ("few", "small"):
        with pytest.raises(QueueFull, match=f"{queue} is full"):
            send(db, queue=queue)
    queues.purge(db, "few")
    send(db, queue="few")


def test_a_message_is_bounded(db: sqlite3.Connection) -> None:
    send(db, b"x" * queues.MESSAGE_BYTES_MAX)
    with pytest.raises(QueueError, match="bytes"):
        send(db, b"x" * queues.MESSAGE_BYTES_MAX, attributes={"a": ("String", "b")})
    with pytest.raises(QueueError, match="11 attributes"):
        send(db, attributes={str(n): ("String", "b") for n in range(11)})


def test_the_number_of_queues_is_bounded(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "QUEUES_MAX", 2)
    send(db, queue="a")
    send(db, queue="b")
    send(db, queue="a")
    with pytest.raises(QueueError, match="no c"):
        send(db, queue="c")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("q", "q"), ("a_b-1", "a_b-1"), ("orders.fifo", "orders.fifo"), ("arn:aws:sqs:eu-west-1:123456789012:q", "q"),
        ("https://sqs.eu-west-1.amazonaws.com/123456789012/q", "q"), ("http://localhost:4566/0/q/", "q"),
        ("x" * 80, "x" * 80),
    ],
)  # fmt: skip
def test_a_queue_is_named_by_its_arn_its_url_or_itself(text: str, name: str) -> None:
    assert queues.queue_name(text) == name


@pytest.mark.parametrize("text", ["", "a b", "ä", "x" * 81, "arn:aws:sqs:eu-west-1:1:", "https://", "---", "a.b"])
def test_what_is_no_name_of_a_queue_is_refused(text: str) -> None:
    with pytest.raises(QueueError):
        queues.queue_name(text)


def test_a_damaged_message_is_counted_and_the_others_are_received(db: sqlite3.Connection) -> None:
    for body in (b"1", b"2", b"3"):
        send(db, body)
    db.execute("UPDATE local_messages SET body = x'00' WHERE number = 2")
    found, damaged = queues.receive(db, "q", 0, WALL)
    assert (bodies(found), damaged) == ([b"1", b"3"], 1)
    assert queues.totals(db, 0)[0].messages == 2


def test_people_may_look_without_taking(db: sqlite3.Connection) -> None:
    for body in (b"1", b"2", b"3"):
        send(db, body, attributes={"a": ("String", body.decode())})
    assert bodies(queues.peek(db, "q", 2)) == [b"1", b"2"]
    assert [m.attributes["a"][1] for m in queues.peek(db, "q", after=2)] == ["3"]
    assert len(take(db)) == 3
    assert queues.totals(db, 0) == [queues.Totals("q", 3, 3, 27)]


def test_what_can_be_read_of_a_damaged_file_is_saved(db: sqlite3.Connection) -> None:
    queues.configure(db, "q", Settings(visibility=7, max_receives=3, dead_letter="dead"))
    send(db, b"1", attributes={"a": ("String", "b")})
    send(db, b"2", "other")
    with closing(opened()) as target:
        assert queues.salvage(db, target) == 2
        assert queues.settings(target, "q") == Settings(visibility=7, max_receives=3, dead_letter="dead")
        assert queues.totals(target, 0) == queues.totals(db, 0)
        assert bodies(take(target)) == [b"1"]


def test_a_damaged_page_costs_the_messages_on_it_and_none_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with closing(sqlite3.connect(path)) as source:
        source.executescript(queues.SCHEMA)
        for number in range(100):
            send(source, b"%03d" % number + b"x" * 900)
        source.commit()
    place = path.read_bytes().index(b"050xxx")
    with path.open("r+b") as file:
        file.seek(place // 4_096 * 4_096)
        file.write(b"\xff" * 4_096)
    with closing(sqlite3.connect(path)) as source, closing(opened()) as target:
        saved = queues.salvage(source, target)
        assert 90 <= saved < 100
        assert queues.totals(target, 0)[0].messages == saved
        assert bodies(take(target, most=100))[-1].startswith(b"099")


class Against(RuleBasedStateMachine):
    """A queue beside a list, by the same steps."""

    def __init__(self) -> None:
        super().__init__()
        self.db = opened()
        self.now = 0
        self.sent: dict[str, int] = {}  # by id: when it is visible
        self.receipts: dict[str, str] = {}
        queues.configure(self.db, "q", Settings(visibility=50))

    @rule(body=st.binary(max_size=20), delay=st.integers(0, 60))
    def send(self, body: bytes, delay: int) -> None:
        told = queues.send(self.db, "q", body, self.now, WALL, delay=delay)
        self.sent[told] = self.now + delay

    @rule(ms=st.integers(1, 40))
    def go(self, ms: int) -> None:
        self.now += ms

    @rule(most=st.integers(1, 4))
    def receive(self, most: int) -> None:
        expected = [identity for identity, at in self.sent.items() if at <= self.now][:most]
        found = take(self.db, self.now, most=most)
        assert [message.id for message in found] == expected
        for message in found:
            self.sent[message.id] = self.now + 50
            self.receipts[message.id] = message.receipt

    @precondition(lambda self: self.receipts)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        identity = data.draw(st.sampled_from(sorted(self.receipts)))
        receipt = self.receipts.pop(identity)
        assert queues.delete(self.db, "q", [receipt]) == 1
        assert queues.delete(self.db, "q", [receipt]) == 0
        del self.sent[identity]

    @invariant()
    def the_totals_are_right(self) -> None:
        (total,) = queues.totals(self.db, self.now)
        held = self.db.execute("SELECT total(bytes) FROM local_messages").fetchone()[0]
        invisible = sum(at > self.now for at in self.sent.values())
        assert (total.messages, total.invisible, total.bytes) == (len(self.sent), invisible, held)
        assert queues.next_visible(self.db, "q") == min(self.sent.values(), default=None)

    def teardown(self) -> None:
        self.db.close()


TestAgainst = Against.TestCase
TestAgainst.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
