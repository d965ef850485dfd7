"""Payloads are read with every digit, and only if they are JSON; values are written with every digit."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rules.errors import EvaluationError
from rules.sql.decimals import exact
from rules.sql.payloads import json_bytes, read
from tests.iot_values import DEFINED, NUMBERS, is_canonical


@pytest.mark.parametrize(
    ("payload", "value"),
    [
        (b'{"a": [1, 2.5, true, null, "x"]}', {"a": [1, 2.5, True, None, "x"]}),
        (b" 80\n", 80),
        (b"0.1", 0.1),
        (b"10.0", 10.0),
        (b"1e3", 1000.0),
        (b"-0", 0),
        (b'"\\ud83d\\ude00 \\u00e9"', "😀 é"),
        ('"€"'.encode(), "€"),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'{"a":1E500,"a":2E500}', {"a": Decimal("2E500")}),
    ],
)
def test_json_is_read(payload: bytes, value: Any) -> None:
    found = read(payload)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("numeral", "value"),
    [
        ("1700000000123456789", 1700000000123456789),
        ("18446744073709551615", 2**64 - 1),
        ("18446744073709551616", 2**64),
        ("-9223372036854775809", -(2**63) - 1),
        ("9" * 34, 10**34 - 1),
        ("-" + "9" * 34, 1 - 10**34),
        ("1" + "0" * 34, 1e34),
        ("1" * 35, Decimal("1" * 34 + "E1")),
        ("1" * 400, Decimal("1" * 34 + "E366")),
        ("-1E999", Decimal("-1E999")),
        ("1E+999", Decimal("1E999")),
        ("1.7976931348623157e308", 1.7976931348623157e308),
        ("1.7976931348623159e308", Decimal("1.7976931348623159E308")),
        ("1E-400", Decimal("1E-400")),
        ("1e-310", 1e-310),
        ("123456789e-330", Decimal("123456789e-330")),
        ("1E-5000", 0.0),
        ("9007199254740993", 9007199254740993),
        ("9007199254740993.0", Decimal(9007199254740993)),
        ("1234567890123456e-30", 1234567890123456e-30),
        ("9007199254740993e5", 9007199254740993e5),
        ("9007199254740993e1", Decimal(90071992547409930)),
        ("-9007199254740993E1", Decimal(-90071992547409930)),
        ("9999999999999999e-5", Decimal("99999999999.99999")),
        ("9999999999999999E-32", 9.999999999999999e-17),
        ("1234567890123456789e5", Decimal("1234567890123456789E5")),
        ("0.30000000000000004", 0.30000000000000004),
        ("0.3000000000000000444", Decimal("0.3000000000000000444")),
        ("0." + "1234567890" * 4, Decimal("0.1234567890123456789012345678901235")),
        ("1.00000000000000000000", 1.0),
    ],
)
@pytest.mark.parametrize("around", ["{}", ' [{}, "1E999"]', '{{"a": {{"b-": {}}}, "c": "x"}}'])
def test_a_number_keeps_every_digit(numeral: str, value: Any, around: str) -> None:
    found = read(around.format(numeral).encode())
    while isinstance(found, list | dict):
        found = found[0] if isinstance(found, list) else found[next(iter(found))]
    assert found == value
    assert type(found) is type(value)


@given(
    digits=st.integers(0, 10**20),
    places=st.integers(0, 20),
    power=st.none() | st.integers(-400, 400),
    e=st.sampled_from(["e", "E", "e+"]),
)
@example(digits=9007199254740993, places=0, power=1, e="e")
def test_no_mantissa_loses_a_digit_whatever_its_exponent(digits: int, places: int, power: int | None, e: str) -> None:
    whole, fraction = divmod(digits, 10**places)
    numeral = f"{whole}.{fraction:0{places}}" if places else str(whole)
    if power is not None:
        numeral += f"{e.rstrip('+') if power < 0 else e}{power}"
    found = read(b"[%s]" % numeral.encode())[0]
    assert exact(found) == Decimal(numeral)


NOT_JSON = [
    b"", b" ", b"hello", b"NaN", b"[Infinity]", b"-Infinity", b"nul", b"{", b"[1,]", b'{"a":1,}', b"{'a':1}", b"01",
    b"+1", b".5", b"5.", b"1e", b"0x10", b"1 2", b"[1]\x00", b'"\x01"', b'"\\x"', b'"\\ud800"', b'"\\udc00\\ud800"',
    b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\xaf"', b"\xef\xbb\xbf1", "[1]".encode("utf-16"), b'"open', b"[1}", b"//\n1",
    b"[" * 1025 + b"]" * 1025, b"[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("payload", NOT_JSON)
def test_what_is_not_json_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError):
        read(payload)


@pytest.mark.parametrize("payload", [*NOT_JSON, b"01E500", b"1E5E500", b'"1E500', b'"\\"1E500', b"1E500.5", b"--1E500"])
@pytest.mark.parametrize("long", [b"1E500", b"1" * 400, b"12345678901234567890123"])
def test_a_long_numeral_makes_nothing_else_lenient(payload: bytes, long: bytes) -> None:
    for spoilt in (b"[" + long + b"," + payload + b"]", b"[" + payload + b"," + long + b"]"):
        with pytest.raises(ValueError):
            read(spoilt)


@pytest.mark.parametrize("numeral", ["1E1000", "-1E5000", "1" * 1001, "1E" + "9" * 50, "1" * 100_000])
def test_a_number_beyond_all_bounds_makes_a_payload_no_json(numeral: str) -> None:
    with pytest.raises(ValueError):
        read(numeral.encode())


@pytest.mark.parametrize("depth", [100, 1_000, 100_000])
def test_nesting_around_a_long_numeral_is_refused_or_read(depth: int) -> None:
    try:
        value = read(b"[" * depth + b"1E500" + b"]" * depth)
    except ValueError:
        assert depth > 100
    else:
        assert isinstance(value, list)


@given(st.binary() | st.text(alphabet='{}[],:"\\eE+-.0123456789ntu ', max_size=60).map(str.encode))
@example(b"1e500")
@example(b'["a", 1.50000000000000000001e+500]')
def test_only_a_value_error_comes_out_and_python_agrees_on_what_is_json(payload: bytes) -> None:
    try:
        value = read(payload)
    except ValueError:
        with pytest.raises(ValueError):
            json.loads(payload.decode(), parse_float=in_range, parse_int=in_range, parse_constant=in_range)
    else:
        assert is_canonical(value)
        assert read(json_bytes(value)) == value


def in_range(numeral: str) -> Decimal:
    number = Decimal(numeral)
    if not number.is_finite() or number.adjusted() > 999:
        raise ValueError("beyond 9.99E999")
    return number


@given(NUMBERS, st.sampled_from(["{}", "[{}]", '{{"a":{}}}', "[[],{}]"]))
def test_a_number_is_read_as_it_was_written(number: Any, around: str) -> None:
    payload = around.format(json_bytes(number).decode()).encode()
    found = read(payload)
    while isinstance(found, list | dict):
        found = found[-1] if isinstance(found, list) else found["a"]
    assert exact(found) == exact(number)
    assert type(found) is type(number)


@given(DEFINED)
def test_every_value_is_read_as_it_was_written(value: Any) -> None:
    assert read(json_bytes(value)) == value


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"a": [1, 2.5, None, True, "é"]}, '{"a":[1,2.5,null,true,"é"]}'),
        (10.0, "10.0"),
        (10**33, "1" + "0" * 33),
        ([2**64, {"a": -(2**63) - 1}], '[18446744073709551616,{"a":-9223372036854775809}]'),
        ({"a": Decimal("1E+500"), "b": 0.1}, '{"a":1E+500,"b":0.1}'),
        (Decimal(9007199254740993), "9007199254740993.0"),
    ],
)
def test_a_value_is_written_compactly_with_all_its_digits(value: Any, written: str) -> None:
    assert json_bytes(value).decode() == written


def nested(depth: int, inner: Any) -> Any:
    for _ in range(depth):
        inner = [inner]
    return inner


@pytest.mark.parametrize("inner", [1, 2**70, Decimal("1E500")])
@pytest.mark.parametrize("depth", [300, 5_000])
def test_nesting_that_cannot_be_written_is_an_evaluation_error(depth: int, inner: Any) -> None:
    with pytest.raises(EvaluationError, match="nested too deeply"):
        json_bytes(nested(depth, inner))


@pytest.mark.parametrize("value", [b"raw", {"a": b"raw"}, "\ud800", ["\ud800", 2**70]])
def test_what_json_has_no_form_for_is_an_evaluation_error(value: Any) -> None:
    with pytest.raises(EvaluationError, match="cannot be written as JSON"):
        json_bytes(value)
