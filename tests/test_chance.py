"""What is random differs, has the form it should have, and does not follow anybody's seed."""

import random
import uuid

from core.chance import Randomness


def test_a_uuid_is_of_version_4_and_comes_once() -> None:
    chance = Randomness()
    made = [chance.uuid() for _ in range(2_000)]
    assert len(set(made)) == len(made)
    for text in made:
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 4, uuid.RFC_4122)


def test_numbers_lie_between_0_and_1_and_reach_everywhere() -> None:
    chance = Randomness()
    found = [chance.random() for _ in range(2_000)]
    assert all(0.0 <= number <= 1.0 for number in found)
    assert {int(number * 10) for number in found} == set(range(10))


def test_a_seed_of_somebody_else_changes_nothing() -> None:
    random.seed(1)
    first = Randomness().uuid()
    random.seed(1)
    assert Randomness().uuid() != first
