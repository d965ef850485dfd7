"""CBOR: the examples of RFC 8949, everything that JSON can say and back, and no bytes that do harm."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.cbor import NotCbor, dumps, loads

LEAVES = st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
JSON = st.recursive(LEAVES, lambda below: st.lists(below) | st.dictionaries(st.text(), below), max_leaves=20)

# RFC 8949 appendix A: bytes and value, and whether these bytes are what we write.
RFC = [
    ("00", 0, True), ("17", 23, True), ("1818", 24, True), ("1903e8", 1000, True), ("1a000f4240", 1000000, True),
    ("1bffffffffffffffff", 18446744073709551615, True), ("3bffffffffffffffff", -18446744073709551616, True),
    ("20", -1, True), ("3863", -100, True), ("f4", False, True), ("f5", True, True), ("f6", None, True),
    ("f93c00", 1.0, False), ("fa47c35000", 100000.0, False), ("fb3ff199999999999a", 1.1, True),
    ("60", "", True), ("6449455446", "IETF", True), ("62c3bc", "\u00fc", True), ("64f0908591", "\U00010151", True),
    ("80", [], True), ("83010203", [1, 2, 3], True), ("8301820203820405", [1, [2, 3], [4, 5]], True),
    ("a0", {}, True), ("a26161016162820203", {"a": 1, "b": [2, 3]}, True),
    ("7f657374726561646d696e67ff", "streaming", False), ("9fff", [], False),
    ("9f018202039f0405ffff", [1, [2, 3], [4, 5]], False), ("bf61610161629f0203ffff", {"a": 1, "b": [2, 3]}, False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value", "is_ours"), RFC)
def test_the_examples_of_the_specification(text: str, value: Any, is_ours: bool) -> None:
    assert loads(bytes.fromhex(text)) == value
    assert type(loads(bytes.fromhex(text))) is type(value)
    if is_ours:
        assert dumps(value).hex() == text


@given(JSON)
def test_what_json_can_say_comes_back(value: Any) -> None:
    assert loads(dumps(value)) == value


@given(JSON)
def test_every_part_of_a_value_is_refused(value: Any) -> None:
    data = dumps(value)
    for size in range(len(data)):
        with pytest.raises(NotCbor):
            loads(data[:size])


@given(st.binary(max_size=64))
def test_any_bytes_are_a_value_or_refused(data: bytes) -> None:
    with suppress(NotCbor):
        assert loads(dumps(loads(data))) == loads(data) or "nan" in repr(loads(data))


@pytest.mark.parametrize(
    "text",
    ["", "0000", "4101", "c101", "f7", "f818", "1c", "3f", "ff", "61ff", "7f4161ff", "7f7f6161ffff", "a10101",
     "a2616101616102", "9bffffffffffffffff", "7bffffffffffffffff", "bf6161ff", "81" * 100 + "00", "9f" * 30_000],
)  # fmt: skip
def test_what_is_no_cbor_or_no_json_is_refused(text: str) -> None:
    with pytest.raises(NotCbor):
        loads(bytes.fromhex(text))


@pytest.mark.parametrize("value", [b"x", 2**64, {1, 2}])
def test_what_cannot_be_said_is_not_written(value: Any) -> None:
    with pytest.raises(TypeError):
        dumps(value)
