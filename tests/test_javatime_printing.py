"""Joda-Time patterns: each letter, in each length, prints what Joda-Time prints."""

from datetime import UTC, tzinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.sql.javatime.printing import PATTERN_CHARS_MAX, _elements, printed
from rules.sql.javatime.zones import joda_zone

MOMENT = 1_700_000_000_123  # 2023-11-14T22:13:20.123Z, a Tuesday


def zone(name: str) -> tzinfo:
    found = joda_zone(name)
    assert found is not None
    return found


# As Joda-Time 2.12 prints it in Belize, where it is 16:13:20.123.
LETTERS = {
    "G": "AD", "GGG": "AD", "C": "20", "CCC": "020", "Y": "2023", "YY": "23", "YYY": "2023", "YYYYY": "02023",
    "x": "2023", "xx": "23", "xxxx": "2023", "w": "46", "www": "046", "e": "2", "ee": "02", "E": "Tue", "EEE": "Tue",
    "EEEE": "Tuesday", "EEEEE": "Tuesday", "y": "2023", "yy": "23", "yyyy": "2023", "D": "318", "DDDD": "0318",
    "M": "11", "MMM": "Nov", "MMMM": "November", "MMMMM": "November", "d": "14", "ddd": "014", "a": "PM", "aa": "PM",
    "K": "4", "KK": "04", "h": "4", "hh": "04", "H": "16", "HHH": "016", "k": "16", "kk": "16", "m": "13", "mmm": "013",
    "s": "20", "sss": "020", "S": "1", "SS": "12", "SSS": "123", "SSSSSS": "123000", "z": "CST", "zzz": "CST",
    "zzzz": "Central Standard Time", "Z": "-0600", "ZZ": "-06:00", "ZZZ": "America/Belize", "ZZZZ": "America/Belize",
}  # fmt: skip


@pytest.mark.parametrize("pattern", LETTERS)
def test_each_letter_prints_what_joda_time_prints(pattern: str) -> None:
    assert printed(pattern, MOMENT, zone("America/Belize")) == LETTERS[pattern]


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("yyyy.MM.dd G 'at' HH:mm:ss z", "1970.01.02 AD at 03:46:40 UTC"),
        ("yyyy-MM-dd'T'HH:mm:ss.SSSZZ", "1970-01-02T03:46:40.000+00:00"),
        ("''", "'"),
        ("h 'o''clock' a", "3 o'clock AM"),
        ("''yy''", "'70'"),
        ("'''y'", "'y"),
        ("'never closed", "never closed"),
        ("y'", "1970"),
        ("[{#}] é", "[{#}] é"),
        ("", None),
        ("'", None),
        ("yyyy-MM-ddTHH", None),
        ("b", None),
    ],
)
def test_what_is_quoted_or_no_letter_is_printed_as_it_is(pattern: str, text: str | None) -> None:
    assert printed(pattern, 100_000_000, zone("UTC")) == text


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (0, "1970 Thu 1 001 12 24 0 00 AM"),
        (-1, "1969 Wed 1 365 11 23 11 23 PM"),
        (1_704_067_199_999, "2023 Sun 52 365 11 23 11 23 PM"),
        (1_609_459_200_000, "2021 Fri 53 001 12 24 0 00 AM"),
        (951_782_400_000, "2000 Tue 9 060 12 24 0 00 AM"),
        (-62_135_596_800_000, "1 Mon 1 001 12 24 0 00 AM"),
        (253_402_300_799_999, "9999 Fri 52 365 11 23 11 23 PM"),
        (-62_135_596_800_001, None),
        (253_402_300_800_000, None),
        (10**33, None),
        (-(10**33), None),
    ],
)
def test_the_calendar_is_right_at_its_edges(moment: int, text: str | None) -> None:
    assert printed("y EEE w DDD h k K HH a", moment, zone("UTC")) == text


def test_a_zone_may_push_a_moment_out_of_the_calendar() -> None:
    assert printed("y", 253_402_300_799_999, zone("+01:00")) is None
    assert printed("y", -62_135_596_800_000, zone("-01:00")) is None


def test_daylight_saving_time_is_that_of_the_moment() -> None:
    assert printed("HH:mm Z z", 1_690_000_000_000, zone("Europe/Berlin")) == "06:26 +0200 CEST"
    assert printed("HH:mm Z z", 1_700_000_000_000, zone("Europe/Berlin")) == "23:13 +0100 CET"


def test_a_pattern_has_a_greatest_length() -> None:
    assert printed("y" * PATTERN_CHARS_MAX, 0, zone("UTC")) == "1970".rjust(PATTERN_CHARS_MAX, "0")
    assert printed("y" * (PATTERN_CHARS_MAX + 1), 0, zone("UTC")) is None


@given(
    pattern=st.text(alphabet=st.characters() | st.sampled_from("GCYxweEyDMdaKhHkmsSzZ' ")),
    moment=st.integers(-(10**34), 10**34) | st.integers(-(10**14), 10**14),
    name=st.sampled_from(["UTC", "Europe/Berlin", "-23:59", "America/Sao_Paulo"]),
)
def test_any_pattern_and_moment_give_a_text_or_nothing(pattern: str, moment: int, name: str) -> None:
    text = printed(pattern, moment, zone(name))
    assert text is None or pattern


def test_what_is_too_long_for_a_pattern_is_not_kept() -> None:
    before = _elements.cache_info().currsize
    for number in range(3):
        assert printed(f"{number}" * (PATTERN_CHARS_MAX + 1), 0, UTC) is None
    assert _elements.cache_info().currsize == before
