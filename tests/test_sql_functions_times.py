"""The functions of time, with AWS's own examples."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.sql.functions.times import FUNCTIONS
from rules.sql.values import UNDEFINED, SqlVersion

ROOT = Path(__file__).parent.parent
U = UNDEFINED


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        (
            "parse_time",
            ["yyyy.MM.dd G 'at' HH:mm:ss z", 100_000_000, "America/Belize"],
            "1970.01.01 AD at 21:46:40 CST",
        ),
        ("parse_time", ["yyyy.MM.dd G 'at' HH:mm:ss z", 1_469_118_500_000], "2016.07.21 AD at 16:28:20 UTC"),
        ("parse_time", ["yyyy-MM-dd'T'HH:mm:ssZ", 1_700_000_000_000, "+02:00"], "2023-11-15T00:13:20+0200"),
        ("parse_time", ["SSS", "1700000000123"], "123"),
        ("parse_time", ["SSS", 123.9], "123"),
        ("parse_time", ["ss", -1], "59"),
        ("parse_time", [2023, 0], "2023"),
        ("parse_time", ["yyyy", "soon"], U),
        ("parse_time", ["yyyy", True], U),
        ("parse_time", ["yyyy", None], U),
        ("parse_time", [None, 0], U),
        ("parse_time", ["yyyy", 0, None], U),
        ("parse_time", ["yyyy", 0, "Mars/Olympus"], U),
        ("parse_time", ["yyyy", 0, U], U),
        ("parse_time", ["B", 0], U),
        ("parse_time", ["yyyy", 10**30], U),
        ("time_to_epoch", ["2020-04-03 09:45:18 UTC+01:00", "yyyy-MM-dd HH:mm:ss VV"], 1_585_903_518_000),
        ("time_to_epoch", ["18 December 2015", "dd MMMM yyyy"], 1_450_396_800_000),
        ("time_to_epoch", ["2007-12-03 10:15:30.592 PST", "yyyy-MM-dd HH:mm:ss.SSS z"], 1_196_705_730_592),
        ("time_to_epoch", [20151218, "yyyyMMdd"], 1_450_396_800_000),
        ("time_to_epoch", ["soon", "yyyy"], U),
        ("time_to_epoch", ["2015", "yyyy"], U),
        ("time_to_epoch", [None, "yyyy"], U),
        ("time_to_epoch", ["2015-12-18", U], U),
    ],
)
def test_a_function_gives_what_its_documentation_says(name: str, arguments: list[Any], result: Any) -> None:
    found = FUNCTIONS[name].call(*arguments)
    assert found == result
    assert found.__class__ is result.__class__


def test_both_came_with_the_newer_version() -> None:
    assert {function.since for function in FUNCTIONS.values()} == {SqlVersion.V2016}


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.none() | st.booleans() | st.integers() | FLOATS | st.text() | st.just(U)


@given(VALUES, VALUES, VALUES)
def test_any_arguments_give_a_value(first: Any, second: Any, third: Any) -> None:
    assert FUNCTIONS["parse_time"].call(first, second, third).__class__ in {str, U.__class__}
    assert FUNCTIONS["time_to_epoch"].call(first, second).__class__ in {int, U.__class__}


def test_rules_without_zones_do_not_carry_zone_data() -> None:
    script = """
import json, sys
from rules.sql.functions.times import FUNCTIONS
FUNCTIONS["parse_time"].call("yyyy", 0)
FUNCTIONS["time_to_epoch"].call("2015-12-18", "yyyy-MM-dd")
before = "zoneinfo" in sys.modules
FUNCTIONS["parse_time"].call("yyyy", 0, "Europe/Berlin")
print(json.dumps([before, "zoneinfo" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [False, True]
