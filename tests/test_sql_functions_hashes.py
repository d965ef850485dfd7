"""Hashes of Strings, with the vectors of RFC 1319 and RFC 1321 and of FIPS 180."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.errors import EvaluationError
from rules.sql.functions.hashes import FUNCTIONS, MD2_BYTES_MAX
from rules.sql.values import UNDEFINED, text
from tests.iot_values import ANY

LENGTHS = {"md2": 32, "md5": 32, "sha1": 40, "sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128}
SHA512_OF_ABC = (
    "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
    "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
)


@pytest.mark.parametrize(
    ("message", "digest"),
    [
        ("", "8350e5a3e24c153df2275c9f80692773"),
        ("a", "32ec01ec4a6dac72c0ab96fb34c0b5d1"),
        ("abc", "da853b0d3f88d99b30283a69e6ded6bb"),
        ("message digest", "ab4f496bfb2a530b219ff33031fe06b0"),
        ("abcdefghijklmnopqrstuvwxyz", "4e8ddff3650292ab5a4108c3aa47940b"),
        (
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
            "da33def2a42df13975352846c30338cd",
        ),
        ("1234567890" * 8, "d5976f79d83d3a0dc9806c3c66f3efd8"),
    ],
)
def test_md2_is_that_of_rfc_1319(message: str, digest: str) -> None:
    assert FUNCTIONS["md2"].call(message) == digest


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("md5", "900150983cd24fb0d6963f7d28e17f72"),
        ("sha1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
        ("sha224", "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
        ("sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            "sha384",
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
        ),
        ("sha512", SHA512_OF_ABC),
    ],
)
def test_the_others_are_those_of_the_standards(name: str, digest: str) -> None:
    assert FUNCTIONS[name].call("abc") == digest


@pytest.mark.parametrize("name", LENGTHS)
def test_other_values_are_hashed_as_their_text_and_nothing_is_undefined(name: str) -> None:
    function = FUNCTIONS[name].call
    assert function({"a": [1, 2.5]}) == function('{"a":[1,2.5]}')
    assert function(True) == function("true")
    assert function("€") != function("?")
    assert function(None) is UNDEFINED
    assert function(UNDEFINED) is UNDEFINED


@given(st.sampled_from(sorted(FUNCTIONS)), ANY)
def test_every_hash_answers_for_every_value(name: str, value: Any) -> None:
    digest = FUNCTIONS[name].call(value)
    if text(value) is UNDEFINED:
        assert digest is UNDEFINED
    else:
        assert len(digest) == LENGTHS[name]
        assert set(digest) <= set("0123456789abcdef")
        if name != "md2":
            assert digest == hashlib.new(name, text(value).encode()).hexdigest()


def test_md2_has_a_bound_because_it_is_slow() -> None:
    assert len(FUNCTIONS["md2"].call("x" * MD2_BYTES_MAX)) == 32
    with pytest.raises(EvaluationError, match="at most 1,024 bytes"):
        FUNCTIONS["md2"].call("x" * (MD2_BYTES_MAX + 1))
