"""The windows of all rules between two commits: what is written, what takes effect when, and reloads."""

from typing import Any

import pytest

from core.chance import Randomness
from core.message import Message
from rules.engine import Rule
from rules.errors import EvaluationError
from rules.event import Event
from rules.sql.parser import parse_statement
from rules.sql.payloads import json_bytes
from rules.sql.values import SqlVersion
from rules.windows import aggregation
from rules.windows.aggregation import Aggregation, Piece, Writes
from rules.windows.state import FORGET_MS

NOON = 1_760_011_200_000
MINUTE = 60_000


def windowed(name: str = "mean", select: str = "k, count(*) AS n", *, disabled: bool = False, where: str = "") -> Rule:
    sql = f"SELECT {select} FROM 't' {where} GROUP BY k, TUMBLING('60 seconds', 'at')"
    return Rule(name, parse_statement(sql), SqlVersion.V2016, disabled=disabled)


def plain(name: str = "plain") -> Rule:
    return Rule(name, parse_statement("SELECT * FROM 't'"), SqlVersion.V2016)


def message(at: int = NOON, group: Any = "a") -> Message:
    return Message("t", json_bytes({"k": group, "at": at}), received_at=at)


class Side:
    """An aggregation, and the disk that it writes to."""

    def __init__(self, *rules: Rule, disk: list[tuple[str, str, bytes]] | None = None) -> None:
        self.disk = [] if disk is None else disk
        self.aggregation = Aggregation(own_clock=True, chance=Randomness())
        self.told = self.aggregation.load(rules, [Piece(*piece) for piece in self.disk])

    def hear(self, rule: Rule, at: int = NOON, group: Any = "a") -> Message:
        heard = message(at, group)
        self.aggregation.hear(rule, Event(heard, at))
        return heard

    def write(self, writes: Writes | None) -> None:
        assert writes is not None
        self.disk[:] = [piece for piece in self.disk if piece[0] not in writes.delete] + writes.append

    def commit(self) -> None:
        writes = self.aggregation.gather()
        self.write(writes)
        assert writes is not None
        self.aggregation.written(writes)

    def rows(self) -> list[Any]:
        """The outputs of the rows that are due; they are acted on."""
        due = self.aggregation.due()
        outputs = [self.aggregation.output(each)[0] for each in due]
        self.aggregation.acted(due)
        return outputs


def test_what_was_heard_takes_effect_when_it_is_written() -> None:
    rule = windowed()
    side = Side(rule)
    side.hear(rule)
    side.aggregation.elapse(10 * MINUTE)
    assert side.rows() == []
    side.commit()
    side.aggregation.elapse(10 * MINUTE)
    assert side.rows() == [{"k": "a", "n": 1}]
    assert side.aggregation.gather() is not None
    assert side.aggregation.gather() is None


def test_what_could_not_be_written_is_forgotten_and_its_rows_are_due_again() -> None:
    rule = windowed()
    side = Side(rule)
    side.hear(rule)
    side.commit()
    side.aggregation.elapse(10 * MINUTE)
    assert side.rows() == [{"k": "a", "n": 1}]
    side.hear(rule, NOON + 10 * MINUTE)
    writes = side.aggregation.gather()
    assert writes is not None
    side.aggregation.refused(writes)
    assert side.rows() == [{"k": "a", "n": 1}]
    side.commit()
    assert side.rows() == []
    assert side.aggregation.status()["mean"] == {"groups": 1, "windows": 0, "lost": {}}


def test_that_a_group_is_forgotten_is_written_even_if_the_disk_refuses_once() -> None:
    rule = windowed()
    side = Side(rule)
    side.hear(rule)
    side.commit()
    side.aggregation.elapse(10 * MINUTE)
    side.rows()
    side.commit()
    side.aggregation.elapse(FORGET_MS)
    assert side.rows() == []
    writes = side.aggregation.gather()
    assert writes is not None
    side.aggregation.refused(writes)
    side.commit()
    assert Side(rule, disk=side.disk).aggregation.status()["mean"]["groups"] == 0


def test_a_message_whose_sender_is_refused_is_not_counted() -> None:
    rule = windowed()
    side = Side(rule)
    kept, refused = side.hear(rule), side.hear(rule)
    assert kept == refused  # and yet another message
    side.aggregation.withdraw([refused])
    side.commit()
    side.aggregation.elapse(10 * MINUTE)
    assert side.rows() == [{"k": "a", "n": 1}]


def test_a_start_takes_up_every_rule_where_it_was() -> None:
    rules = windowed("one"), windowed("two", "k, max(at) AS last")
    side = Side(*rules)
    for rule in rules:
        side.hear(rule)
    side.hear(rules[0], NOON + 1)
    side.commit()
    again = Side(*rules, disk=side.disk)
    assert again.told == []
    assert again.aggregation.gather() is None
    again.aggregation.elapse(10 * MINUTE)
    assert again.rows() == [{"k": "a", "n": 2}, {"k": "a", "last": NOON}]


def test_a_rule_that_says_something_else_begins_afresh_and_tells() -> None:
    side = Side(windowed("one"), windowed("two"))
    rule = windowed("one")
    side.hear(rule)
    side.hear(windowed("two"))
    side.commit()
    changed = windowed("one", "k, count(*) AS number")
    again = Side(changed, disk=side.disk)
    assert again.told == ["the open windows of rule one are dropped: its statement has changed",
                          "rule two is gone, and its windows with it"]  # fmt: skip
    again.hear(changed)
    again.commit()
    assert {plan for _, plan, _ in again.disk} == {changed.plan.identity if changed.plan else ""}
    again.aggregation.elapse(10 * MINUTE)
    assert again.rows() == [{"k": "a", "number": 1}]


def test_a_reload_keeps_windows_of_rules_that_say_the_same_and_drops_the_others() -> None:
    side = Side(windowed("same"), windowed("other"), windowed("off"), plain())
    for name in ("same", "other", "off"):
        side.hear(windowed(name))
    side.commit()
    rules = windowed("same"), windowed("other", where="WHERE at > 0"), windowed("off", disabled=True)
    told = side.aggregation.replace(rules)
    assert told == [f"rule {name} is gone, or another now; its 1 open windows are dropped" for name in ("other", "off")]
    side.commit()
    assert {owner for owner, _, _ in side.disk} == {"same"}
    side.aggregation.elapse(10 * MINUTE)
    assert side.rows() == [{"k": "a", "n": 1}]


def test_a_reload_while_a_commit_is_under_way_mixes_nothing() -> None:
    side = Side(windowed())
    side.hear(windowed())
    writes = side.aggregation.gather()
    assert writes is not None
    changed = windowed("mean", "k, count(*) AS number")
    side.aggregation.replace([changed])
    side.write(writes)
    side.aggregation.written(writes)
    side.hear(changed)
    side.commit()
    side.aggregation.elapse(10 * MINUTE)
    assert side.rows() == [{"k": "a", "number": 1}]
    assert Side(changed, disk=side.disk).told == []


def test_a_deletion_that_was_refused_is_tried_again() -> None:
    side = Side(windowed())
    side.hear(windowed())
    side.commit()
    side.aggregation.replace([])
    writes = side.aggregation.gather()
    assert writes is not None
    side.aggregation.refused(writes)
    side.commit()
    assert side.disk == []


@pytest.mark.parametrize("damage", [None, b'{"heard":[["","t","[]","x",1]]}'])
def test_a_log_that_cannot_be_read_is_dropped_and_told(damage: bytes | None) -> None:
    rule = windowed()
    side = Side(rule)
    side.hear(rule)
    side.commit()
    identity = side.disk[0][1]
    again = Aggregation(own_clock=True, chance=Randomness())
    told = again.load([rule], [Piece(*side.disk[0]), Piece("mean", identity, damage)])
    assert [line.partition(":")[0] for line in told] == ["the open windows of rule mean are dropped"]
    writes = again.gather()
    assert writes is not None
    assert writes.delete == ["mean"]
    assert again.status()["mean"]["groups"] == 0


def test_records_that_outgrow_the_snapshot_are_replaced_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregation, "RECORDS_MIN_BYTES", 2_000)
    rule = windowed()
    side = Side(rule)
    for number in range(500):
        side.hear(rule, NOON + number)
        side.commit()
        assert sum(len(data) for _, _, data in side.disk) < 3_000
    again = Side(rule, disk=side.disk)
    again.aggregation.elapse(10 * MINUTE)
    assert again.rows() == [{"k": "a", "n": 500}]


def test_a_commit_has_one_snapshot_at_most_and_none_after_one_that_was_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [windowed(name) for name in ("one", "two")]
    side = Side(*rules)
    for rule in rules:
        side.hear(rule)
    side.commit()
    monkeypatch.setattr(aggregation, "RECORDS_MIN_BYTES", 10)
    for rule in rules:
        side.hear(rule, NOON, "x" * 1_000)
    side.commit()

    def gathered() -> Writes:
        for rule in rules:
            side.hear(rule)
        writes = side.aggregation.gather()
        assert writes is not None
        return writes

    writes = gathered()
    assert writes.delete == ["one"]
    side.aggregation.refused(writes)
    for deleted in ([], ["one"], ["two"]):
        writes = gathered()
        assert writes.delete == deleted
        side.write(writes)
        side.aggregation.written(writes)
    assert Side(*rules, disk=side.disk).aggregation.status() == side.aggregation.status()


def test_a_row_has_the_same_name_after_a_restart_and_another_in_a_log_that_begins_afresh() -> None:
    rule, edited = windowed(), windowed("mean", "k, count(*) AS number")
    side = Side(rule)

    def name(side: Side, rule: Rule) -> tuple[str, int]:
        side.hear(rule)
        side.commit()
        side.aggregation.elapse(10 * MINUTE)
        (due,) = side.aggregation.due()
        return due.name

    first = name(side, rule)
    again = Side(rule, disk=side.disk)
    again.aggregation.elapse(10 * MINUTE)
    assert [due.name for due in again.aggregation.due()] == [first]
    changed = Side(edited, disk=side.disk)
    second = name(changed, edited)
    back = Side(rule, disk=changed.disk)
    assert len({first, second, name(back, rule)}) == 3


def test_more_rows_than_come_at_a_time_cost_nothing_across_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregation, "ROWS_MAX", 1)
    sql = "SELECT k, count(*) AS n FROM 't' GROUP BY k, TUMBLING('60 seconds')"
    rule = Rule("mean", parse_statement(sql), SqlVersion.V2016)
    side = Side(rule)
    for group in ("a", "b"):
        side.hear(rule, NOON, group)
    side.commit()
    side.aggregation.elapse(MINUTE)
    assert side.rows() == [{"k": "a", "n": 1}]
    side.hear(rule, NOON + MINUTE - 1, "b")
    side.commit()
    assert side.rows() == [{"k": "b", "n": 1}]
    side.commit()
    again = Side(rule, disk=side.disk)
    assert again.told == []
    again.aggregation.elapse(2 * MINUTE)
    assert again.rows() == [{"k": "b", "n": 1}]


def test_a_message_that_fails_costs_only_itself_and_is_counted() -> None:
    rule = windowed()
    side = Side(rule)
    with pytest.raises(EvaluationError, match="rule mean: at tells no time"):
        side.aggregation.hear(rule, Event(Message("t", b"{}", received_at=NOON), NOON))
    side.hear(rule)
    side.commit()
    side.aggregation.elapse(10 * MINUTE)
    assert len(side.rows()) == 1
    counters = rule.counters
    assert (counters.matched, counters.passed, counters.failed) == (2, 1, 1)
    assert "at tells no time" in counters.last_error


def test_a_row_that_fails_is_counted_and_does_not_come_again() -> None:
    rule = windowed("mean", f"k, concat({', '.join(['last(long)'] * 300)}) AS longer")
    side = Side(rule)
    payload = json_bytes({"k": "a", "at": NOON, "long": "x" * 4_000})
    side.aggregation.hear(rule, Event(Message("t", payload, received_at=NOON), NOON))
    side.commit()
    side.aggregation.elapse(10 * MINUTE)
    due = side.aggregation.due()
    with pytest.raises(EvaluationError, match="rule mean: a String grew beyond"):
        side.aggregation.output(due[0])
    side.aggregation.acted(due)
    side.commit()
    assert rule.counters.failed == 1
    assert Side(rule, disk=side.disk).rows() == []


def test_rows_of_thousands_of_groups_come_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregation, "ROWS_MAX", 3)
    rule = windowed()
    side = Side(rule)
    for group in range(7):
        side.hear(rule, NOON, group)
    side.commit()
    side.aggregation.elapse(10 * MINUTE)
    found = []
    for most in (3, 3, 1):
        assert side.aggregation.wait() == 0
        found += side.rows()
        side.commit()
        assert len(found) % 3 == most % 3
    assert [output["k"] for output in found] == list(range(7))
    assert side.aggregation.wait() is None


def test_late_messages_are_told_once() -> None:
    rule = windowed()
    side = Side(rule)
    for at in (NOON, NOON + 10 * MINUTE, NOON, NOON + 1):
        side.hear(rule, at)
    side.commit()
    assert list(side.aggregation.losses()) == [("mean", "late", 2)]
    assert list(side.aggregation.losses()) == []
    assert side.aggregation.status()["mean"]["lost"] == {"late": 2}


def test_the_sources_are_those_that_feed_open_windows() -> None:
    rule = windowed()
    side = Side(rule)
    side.aggregation.hear(rule, Event(message(), NOON), "edge/lane")
    side.commit()
    assert side.aggregation.sources == {"edge/lane"}
    assert side.aggregation.wait("edge/lane") == 2 * MINUTE
    assert side.aggregation.wait() is None
    assert Side(rule, disk=side.disk).aggregation.sources == {"edge/lane"}


def test_a_rule_with_a_window_has_no_output_for_a_single_message() -> None:
    with pytest.raises(EvaluationError, match="has rows"):
        windowed().evaluate(Event(message(), NOON))
