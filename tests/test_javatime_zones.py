"""Time zones: every name that Joda-Time takes, with or without the system's time zone data."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.sql.javatime.zones import (
    MEANT,
    NAME_CHARS_MAX,
    NAMES,
    _region,
    identity,
    joda_zone,
    long_name,
    region,
    short_name,
    shown,
)

ROOT = Path(__file__).parent.parent
WINTER, SUMMER = datetime(2023, 11, 14, tzinfo=UTC), datetime(2023, 7, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "known_as", "minutes"),
    [
        ("UTC", "UTC", 0),
        ("UT", "UTC", 0),
        ("Z", "UTC", 0),
        ("+00:00", "UTC", 0),
        ("-00:00", "UTC", 0),
        ("GMT", "GMT", 0),
        ("Europe/Berlin", "Europe/Berlin", 60),
        ("America/Argentina/Buenos_Aires", "America/Argentina/Buenos_Aires", -180),
        ("Asia/Kathmandu", "Asia/Kathmandu", 345),
        ("Etc/GMT+5", "Etc/GMT+5", -300),
        ("PST8PDT", "PST8PDT", -480),
        ("+02:00", "+02:00", 120),
        ("+02", "+02:00", 120),
        ("-0230", "-02:30", -150),
        ("+23:59", "+23:59", 1439),
        ("UTC+02:00", "+02:00", 120),
        ("GMT-02:00", "-02:00", -120),
        ("UT+02:00", "+02:00", 120),
    ],
)
def test_a_zone_has_its_name_and_its_offset(name: str, known_as: str, minutes: int) -> None:
    zone = joda_zone(name)
    assert zone is not None
    local = WINTER.astimezone(zone)
    assert identity(local) == known_as
    assert local.utcoffset() == timedelta(minutes=minutes)


@pytest.mark.parametrize(
    "name",
    ["", "utc", "europe/berlin", "Europe", "PST", "+2", "+2:00", "02:00", "+24:00", "+02:60", "UTC+2", "UTCZ",
     "No/Where", "../../etc/passwd", "/etc/localtime", "localtime", "posix/UTC", "Europe/Berlin ", "a" * 9_999, "\0"],
)  # fmt: skip
def test_what_is_no_zone_is_none(name: str) -> None:
    assert joda_zone(name) is None


@given(st.text(alphabet=st.characters() | st.sampled_from("UTCGM+-:0123/")))
def test_any_text_is_a_zone_or_none(name: str) -> None:
    zone = joda_zone(name)
    assert zone is None or WINTER.astimezone(zone).utcoffset() is not None


@pytest.mark.parametrize(
    ("name", "moment", "short", "long"),
    [
        ("UTC", WINTER, "UTC", "Coordinated Universal Time"),
        ("Europe/Berlin", WINTER, "CET", "Central European Standard Time"),
        ("Europe/Berlin", SUMMER, "CEST", "Central European Summer Time"),
        ("America/Belize", WINTER, "CST", "Central Standard Time"),
        ("Asia/Shanghai", WINTER, "CST", "China Standard Time"),
        ("America/New_York", SUMMER, "EDT", "Eastern Daylight Time"),
        ("Asia/Kolkata", SUMMER, "IST", "India Standard Time"),
        ("Europe/Dublin", SUMMER, "IST", "Irish Standard Time"),
        ("Australia/Sydney", WINTER, "AEDT", "Australian Eastern Daylight Time"),
        ("America/Sao_Paulo", WINTER, "-03:00", "-03:00"),
        ("+02:00", WINTER, "+02:00", "+02:00"),
        ("+02:30:15.123", WINTER, "+02:30:15.123", "+02:30:15.123"),
    ],
)
def test_a_zone_has_english_names(name: str, moment: datetime, short: str, long: str) -> None:
    zone = joda_zone(name)
    assert zone is not None
    local = moment.astimezone(zone)
    assert short_name(local) == short
    assert long_name(local) == long


def test_every_name_that_can_be_read_means_a_zone_that_has_it() -> None:
    for short, minutes, _, name in NAMES:
        if name:
            zone = region(name)
            assert zone is not None, name
            offsets = {moment.astimezone(zone).utcoffset() for moment in (WINTER, SUMMER)}
            assert timedelta(minutes=minutes) in offsets, name
            assert MEANT[short] == name


def test_an_offset_is_shown_as_far_as_it_goes() -> None:
    assert shown(timedelta(hours=-3, minutes=-30)) == "-03:30"
    assert shown(timedelta(hours=1, seconds=5)) == "+01:00:05"


def test_zones_are_known_without_time_zone_data_of_the_system() -> None:
    script = "from rules.sql.javatime.zones import region; print(region('Europe/Berlin') is not None)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={"PYTHONTZPATH": ""}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\n"


def test_what_is_too_long_for_a_zone_is_not_kept() -> None:
    before = _region.cache_info().currsize
    for number in range(3):
        assert joda_zone(f"A{number}" * NAME_CHARS_MAX) is None
    assert _region.cache_info().currsize == before
