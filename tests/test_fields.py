"""The fields that both versions of MQTT write alike are read in order, and never beyond the packet."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.mqtt.errors import MalformedPacket
from core.mqtt.fields import Body, utf8

READS: list[Callable[[Body], object]] = [
    Body.byte, Body.short, Body.variable, Body.binary, Body.text, Body.packet_id, Body.rest, lambda body: body.take(3),
]  # fmt: skip


def test_fields_are_read_in_order() -> None:
    body = Body(b"\x07\x01\x02\x80\x01\x00\x02\x00\xff\x00\x02\xc3\xbc\x00\x09abcd")
    assert (body.byte(), body.short(), body.variable(), body.binary()) == (7, 258, 128, b"\x00\xff")
    assert (body.text(), body.packet_id(), body.take(1), body.left()) == ("ü", 9, b"a", 3)
    assert body.rest() == b"bcd"
    body.done()


@given(st.binary(max_size=12), st.lists(st.sampled_from(READS), max_size=6))
def test_nothing_is_read_beyond_the_end_and_no_other_error_leaves(
    data: bytes, reads: list[Callable[[Body], object]]
) -> None:
    body = Body(data)
    with suppress(MalformedPacket):
        for read in reads:
            read(body)
            assert 0 <= body.left() <= len(data)


@pytest.mark.parametrize(
    ("number", "data"), [(0, b"\x00"), (127, b"\x7f"), (128, b"\x80\x01"), (268_435_455, b"\xff\xff\xff\x7f")]
)
def test_a_variable_byte_integer_has_up_to_four_bytes(number: int, data: bytes) -> None:
    assert Body(data).variable() == number
    with pytest.raises(MalformedPacket):
        Body(b"\xff\xff\xff\xff\x01").variable()


def test_packet_identifier_0_is_malformed() -> None:
    with pytest.raises(MalformedPacket, match="identifier 0"):
        Body(b"\x00\x00").packet_id()


def test_what_is_left_behind_the_last_field_is_malformed() -> None:
    with pytest.raises(MalformedPacket, match="1 bytes behind"):
        Body(b"x").done()


@pytest.mark.parametrize("data", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"a\xe2\x82"])
def test_a_string_that_is_not_utf_8_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedPacket, match="UTF-8"):
        utf8(data)
