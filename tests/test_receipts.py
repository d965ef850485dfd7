"""A receipt is settled once and tells whoever waits."""

import pytest

from core.receipts import DELIVERED, STORED, Kind, Outcome, Receipt, dropped, rejected


def test_settling_tells_the_one_who_waits_with_everything_in_place() -> None:
    told: list[tuple[Outcome | None, dict[int, Outcome]]] = []
    receipt = Receipt(lambda settled: told.append((settled.outcome, dict(settled.exceptions))))
    assert receipt.outcome is None
    assert told == []
    receipt.settle(STORED, {2: dropped("too old")})
    assert told == [(STORED, {2: dropped("too old")})]


def test_a_receipt_nobody_waits_on_keeps_its_outcome() -> None:
    receipt = Receipt()
    receipt.settle(DELIVERED)
    assert receipt.outcome is DELIVERED
    assert receipt.exceptions == {}


def test_settling_twice_is_a_programming_error_and_tells_once() -> None:
    told: list[Receipt] = []
    receipt = Receipt(told.append)
    receipt.settle(STORED)
    with pytest.raises(AssertionError, match="once"):
        receipt.settle(rejected("disk full"))
    assert receipt.outcome is STORED
    assert told == [receipt]


def test_only_a_rejection_has_a_code_and_only_losses_have_a_reason() -> None:
    assert rejected("disk full", 0x97) == Outcome(Kind.REJECTED, "disk full", 0x97)
    assert rejected("disk full").code == 0x80
    assert dropped("lane full") == Outcome(Kind.DROPPED, "lane full", 0)
    assert STORED.reason == DELIVERED.reason == ""
