"""functions.worker.marshalling: what AWS's own marshaller makes of the same values, byte for byte."""

import json
import subprocess
import sys
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Callable
from decimal import Decimal
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from awslambdaric.lambda_runtime_exception import FaultException
from awslambdaric.lambda_runtime_marshaller import LambdaMarshaller
from hypothesis import given
from hypothesis import strategies as st

from functions.worker import marshalling

Point = namedtuple("Point", "x y")
ROOT = Path(__file__).parent.parent


class Colour(IntEnum):
    RED = 3


class Loud(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "LOUD"


class Odd:
    def _asdict(self) -> list[int]:
        return [1]


class Fielded:
    def _asdict(self) -> dict[str, int]:
        return {"a": 1}


CIRCLE: list[object] = []
CIRCLE.append({"in": CIRCLE})

RESULTS = [
    None, True, 0, -1, 10**30, 1.0, 1e16, 1e-7, -0.0, float("nan"), float("inf"), float("-inf"), "", "text",
    "é\u2028\x7f/\N{GRINNING FACE}", b"raw \xff", {}, [], (), {"a": (1, [2, {"b": None}])}, Decimal("1.10"),
    Decimal("1E+3"), Decimal("NaN"), Decimal("sNaN"), Decimal("-0"), Decimal("Infinity"),
    {"d": [Decimal("0.1"), Decimal(3)]}, Point(1, 2), [Point(1, {"x": Point(3, 4)})], (Point(1, 2),), {"a": b"bytes"},
    {"a": b"\xff"}, {b"key": 1}, {b"\xff": 1}, {1: 2}, {1.5: 1, True: 2, None: 3}, {float("nan"): 1}, {Decimal(1): 1},
    {(1, 2): 3}, {Point(1, 2): 3}, {1}, {"s": {1}}, object, Odd(), Fielded(), [Fielded()], Point, Colour.RED,
    {"c": Colour.RED}, {Colour.RED: 1}, Loud("quiet"), [Loud("quiet")], {Loud("quiet"): 1}, OrderedDict(b=1, a=2),
    defaultdict(list, a=[1]), UserDict(a=1), CIRCLE, bytearray(b"x"), memoryview(b"x"), range(3), iter([1]), 1j,
    "x" * 100, [[]] * 3, {"a": {}, "b": []}, OSError(),
]  # fmt: skip


def ours(value: object) -> tuple[object, ...]:
    try:
        return ("result", marshalling.write(value))
    except marshalling.Fault as fault:
        return (fault.kind, fault.message)


def aws(marshaller: LambdaMarshaller, value: object) -> tuple[object, ...]:
    try:
        result, _ = marshaller.marshal_response(value)
    except FaultException as fault:
        return (fault.exception_type, fault.msg)
    return ("result", result if isinstance(result, bytes) else result.encode())


@pytest.fixture(scope="module")
def marshaller() -> LambdaMarshaller:
    return LambdaMarshaller()  # with the defaults of this process, in which there is no AWS_EXECUTION_ENV


@pytest.mark.parametrize("value", RESULTS, ids=lambda value: repr(value)[:30])
def test_a_result_is_the_bytes_that_aws_makes_of_it(value: object, marshaller: LambdaMarshaller) -> None:
    assert ours(value) == aws(marshaller, value)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.decimals(), st.binary(max_size=8),
    st.builds(Loud, st.text()), st.just(Colour.RED),
)  # fmt: skip
KEYS = st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.binary(max_size=4))
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(KEYS, inner), st.dictionaries(st.text(), inner),
        st.builds(Point, inner, inner),
    ),
)  # fmt: skip


@given(VALUES)
def test_any_result_is_the_bytes_that_aws_makes_of_it(value: object) -> None:
    assert ours(value) == aws(LambdaMarshaller(), value)


def test_half_a_surrogate_pair_does_not_end_the_worker() -> None:
    assert json.loads(marshalling.write({"a": "\ud800"})) == {"a": "\ud800"}


def test_a_long_result_is_the_same_as_a_short_one() -> None:
    value = [{"n": [number]} for number in range(60_000)]
    assert json.loads(marshalling.write(value)) == value


@pytest.mark.parametrize("runtime", ["AWS_Lambda_python3.11", "AWS_Lambda_python3.12", "AWS_Lambda_python3.13", ""])
def test_results_are_escaped_where_aws_escapes_them(runtime: str) -> None:
    script = (
        "from functions.worker import marshalling as m; from awslambdaric import lambda_runtime_marshaller as a\n"
        "v = ['é\\u2028\\x1f\"', {'ü': 'x', 1: 'ä'}, (b'\\xc3\\xa9',)]\n"
        "assert m.write(v) == a.LambdaMarshaller().marshal_response(v)[0].encode(), m.write(v)\n"
        "print(m.write('é'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={"AWS_EXECUTION_ENV": runtime}, capture_output=True, check=False
    )
    assert done.stderr == b""
    assert (b"u00e9" in done.stdout) == (runtime not in {"AWS_Lambda_python3.12", "AWS_Lambda_python3.13"})


EVENTS = [
    b"", b" ", b"{}", b"null", b"1e5", b"1e999", b"-0", b'"\\ud800"', b"[1, 2.50]", b"\xef\xbb\xbf{}", b"\xff",
    '{"ü": "é"}'.encode(), '"é"'.encode("utf-16"), b"NaN", b"[-Infinity]", b'{"a": NaN}', b"{}{}", b"{", b"[1,]",
    b'"a\nb"', b"nope", b"1" * 5000, b'{"a": 1, "a": 2}', b"[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("payload", EVENTS, ids=lambda payload: repr(payload)[:30])
def test_an_event_is_what_aws_makes_of_it(payload: bytes, marshaller: LambdaMarshaller) -> None:
    def outcome(read: Callable[[bytes], object]) -> tuple[str, ...]:
        try:
            return ("event", repr(read(payload)))
        except FaultException as fault:
            return (fault.exception_type, str(fault.msg)[:27])
        except marshalling.Fault as fault:
            return (fault.kind, fault.message[:27])

    assert outcome(marshalling.read) == outcome(marshaller.unmarshal_request)
