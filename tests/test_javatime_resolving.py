"""java.time patterns: what a text means as a moment, or that it means none, as OpenJDK says.

Each row is what `DateTimeFormatter.ofPattern(pattern, Locale.US)` makes of the text, given here as ISO 8601 in UTC.
"""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.sql.javatime.patterns import PATTERN_CHARS_MAX, TEXT_CHARS_MAX, _elements, elements
from rules.sql.javatime.resolving import milliseconds
from rules.sql.javatime.zones import EPOCH, MILLISECOND

D18 = "2015-12-18T00:00Z"


def moment(iso: str | None) -> int | None:
    return None if iso is None else (datetime.fromisoformat(iso) - EPOCH) // MILLISECOND


DATES: list[tuple[str, str, str | None]] = [
    ("18 December 2015", "dd MMMM yyyy", D18),
    ("2015-12-18", "yyyy-MM-dd", D18),
    ("2015-12-18", "uuuu-MM-dd", D18),
    ("20151218", "yyyyMMdd", D18),
    ("151218", "yyMMdd", D18),
    ("15-12-18", "yy-MM-dd", D18),
    ("99-12-18", "yy-MM-dd", "2099-12-18T00:00Z"),
    ("1/2/2015", "M/d/yyyy", "2015-01-02T00:00Z"),
    ("01/02/2015", "M/d/yyyy", "2015-01-02T00:00Z"),
    ("1/2/2015", "MM/dd/yyyy", None),
    ("2015-Dec-18", "yyyy-MMM-dd", D18),
    ("2015-dec-18", "yyyy-MMM-dd", None),
    ("2015-December-18", "yyyy-LLLL-dd", D18),
    ("Fri, 18 Dec 2015", "EEE, dd MMM yyyy", D18),
    ("Sat, 18 Dec 2015", "EEE, dd MMM yyyy", None),
    ("Friday 2015-12-18", "EEEE yyyy-MM-dd", D18),
    ("2015-12-18 6", "yyyy-MM-dd e", D18),
    ("2015-12-18 5", "yyyy-MM-dd e", None),
    ("2015-12-18 Fri", "yyyy-MM-dd ccc", D18),
    ("2015-352", "yyyy-DDD", D18),
    ("2015 352", "yyyy D", D18),
    ("2015-366", "yyyy-DDD", None),
    ("2016-366", "yyyy-DDD", "2016-12-31T00:00Z"),
    ("2015-W51-6", "YYYY-'W'ww-e", D18),
    ("2015-51 Friday", "YYYY-ww EEEE", D18),
    ("2015 53 7", "YYYY w e", "2015-12-26T00:00Z"),
    ("2016 53 7", "YYYY w e", "2016-12-31T00:00Z"),
    ("2015-12-18", "YYYY-MM-dd", None),
    ("57374", "g", D18),
    ("2015 4 12 18", "yyyy Q MM dd", D18),
    ("2015Q4 12 18", "yyyyQQQ MM dd", D18),
    ("2015 4th quarter 12 18", "yyyy qqqq MM dd", D18),
    ("2015 3 12 18", "yyyy Q MM dd", None),
    ("2015-12-18 4", "yyyy-MM-dd F", D18),
    ("2015-12-18 3", "yyyy-MM-dd W", D18),
    ("2015-12-18 AD", "yyyy-MM-dd G", D18),
    ("Anno Domini 2015-12-18", "GGGG yyyy-MM-dd", D18),
    ("2015-12-18 BC", "yyyy-MM-dd G", None),
    ("2015-02-31", "yyyy-MM-dd", "2015-02-28T00:00Z"),
    ("2016-02-31", "yyyy-MM-dd", "2016-02-29T00:00Z"),
    ("2015-04-31", "yyyy-MM-dd", "2015-04-30T00:00Z"),
    ("2015-02-32", "yyyy-MM-dd", None),
    ("2015-13-01", "yyyy-MM-dd", None),
    ("2015-00-01", "yyyy-MM-dd", None),
    ("2015-01-00", "yyyy-MM-dd", None),
    ("0001-01-01", "yyyy-MM-dd", "0001-01-01T00:00Z"),
    ("0000-01-01", "yyyy-MM-dd", None),
    ("9999-12-31", "yyyy-MM-dd", "9999-12-31T00:00Z"),
    ("+12015-12-18", "yyyy-MM-dd", None),
    ("+2015-12-18", "yyyy-MM-dd", None),
    ("12015-12-18", "yyyy-MM-dd", None),
    ("5-12-18", "y-MM-dd", "0005-12-18T00:00Z"),
    ("2015-2015-12-18", "yyyy-yyyy-MM-dd", D18),
    ("2015-2016-12-18", "yyyy-yyyy-MM-dd", None),
    ("2015-2016-12-18", "uuuu-yyyy-MM-dd", None),
    ("2015-12", "yyyy-MM", None),
    ("10:30", "HH:mm", None),
    ("2015-12-18 x", "yyyy-MM-dd", None),
    (" 2015-12-18", "yyyy-MM-dd", None),
    ("", "yyyy-MM-dd", None),
    ("2015年12月18日", "yyyy年MM月dd日", D18),
    ("\uff12015-12-18", "yyyy-MM-dd", None),
    ("'2015-12-18", "''yyyy-MM-dd", D18),
    ("a'b2015-12-18", "'a''b'yyyy-MM-dd", D18),
    ("2015 12 18", "yyyy ppMM ppdd", D18),
    ("2015 12  8", "yyyy MM ppd", "2015-12-08T00:00Z"),
    ("2015-1218", "yyyy[-]MM[-]dd", D18),
    ("2015-12-18", "yyyy-MM-dd[", D18),
]

TIMES: list[tuple[str, str, str | None]] = [
    ("20151218103045123", "yyyyMMddHHmmssSSS", "2015-12-18T10:30:45.123Z"),
    ("2015-12-18 10:30", "yyyy-MM-dd HH:mm[:ss]", "2015-12-18T10:30Z"),
    ("2015-12-18 10:30:11", "yyyy-MM-dd HH:mm[:ss]", "2015-12-18T10:30:11Z"),
    ("2015-12-18 10", "yyyy-MM-dd HH", "2015-12-18T10:00Z"),
    ("2015-12-18 10:30:45.5", "yyyy-MM-dd HH:mm:ss.S", "2015-12-18T10:30:45.500Z"),
    ("2015-12-18 10:30:45.123456789", "yyyy-MM-dd HH:mm:ss.SSSSSSSSS", "2015-12-18T10:30:45.123Z"),
    ("2015-12-18 24:00", "yyyy-MM-dd HH:mm", "2015-12-19T00:00Z"),
    ("2015-12-18 24:01", "yyyy-MM-dd HH:mm", None),
    ("2015-12-18 25:00", "yyyy-MM-dd HH:mm", None),
    ("2015-12-18 10:60", "yyyy-MM-dd HH:mm", None),
    ("2015-12-18 10:30:60", "yyyy-MM-dd HH:mm:ss", None),
    ("2015-12-18 24", "yyyy-MM-dd kk", D18),
    ("2015-12-18 10 PM", "yyyy-MM-dd hh a", "2015-12-18T22:00Z"),
    ("2015-12-18 12 AM", "yyyy-MM-dd hh a", D18),
    ("2015-12-18 12 PM", "yyyy-MM-dd hh a", "2015-12-18T12:00Z"),
    ("2015-12-18 0 PM", "yyyy-MM-dd K a", "2015-12-18T12:00Z"),
    ("2015-12-18 13 AM", "yyyy-MM-dd h a", None),
    ("2015-12-18 10 pm", "yyyy-MM-dd h a", None),
    ("2015-12-18 10 30 PM", "yyyy-MM-dd HH mm a", None),
    ("2015-12-18 10:30", "yyyy-MM-dd hh:mm", None),
    ("2015-12-18 10::45", "yyyy-MM-dd HH::ss", None),
    ("2015-12-18 43200000", "yyyy-MM-dd A", "2015-12-18T12:00Z"),
    ("2015-12-18 86400000", "yyyy-MM-dd A", None),
    ("2015-12-18 43200000000000", "yyyy-MM-dd N", "2015-12-18T12:00Z"),
    ("2015-12-18 10:30:45 1000000", "yyyy-MM-dd HH:mm:ss n", "2015-12-18T10:30:45.001Z"),
    ("Dec 18, 2015 10:30:45 AM", "MMM d, yyyy h:mm:ss a", "2015-12-18T10:30:45Z"),
]

ZONES: list[tuple[str, str, str | None]] = [
    ("2015-12-18T10:30:45Z", "yyyy-MM-dd'T'HH:mm:ssX", "2015-12-18T10:30:45Z"),
    ("2015-12-18T10:30:45+02", "yyyy-MM-dd'T'HH:mm:ssX", "2015-12-18T08:30:45Z"),
    ("2015-12-18T10:30:45+0230", "yyyy-MM-dd'T'HH:mm:ssX", "2015-12-18T08:00:45Z"),
    ("2015-12-18T10:30:45+02:00", "yyyy-MM-dd'T'HH:mm:ssXXX", "2015-12-18T08:30:45Z"),
    ("2015-12-18T10:30:45+02:00", "yyyy-MM-dd'T'HH:mm:ssX", None),
    ("2015-12-18T10:30:45Z", "yyyy-MM-dd'T'HH:mm:ssxxx", None),
    ("2015-12-18T10:30:45.123-0700", "yyyy-MM-dd'T'HH:mm:ss.SSSZ", "2015-12-18T17:30:45.123Z"),
    ("2015-12-18T10:30:45.123Z", "yyyy-MM-dd'T'HH:mm:ss.SSS'Z'", "2015-12-18T10:30:45.123Z"),
    ("2015-12-18 18:00 +18:00", "yyyy-MM-dd HH:mm xxx", D18),
    ("2015-12-18 18:00 +18:01", "yyyy-MM-dd HH:mm xxx", None),
    ("2015-12-18 GMT+8 10:00", "yyyy-MM-dd O HH:mm", "2015-12-18T02:00Z"),
    ("2015-12-18 GMT+08:00 10:00", "yyyy-MM-dd OOOO HH:mm", "2015-12-18T02:00Z"),
    ("2015-12-18 GMT 10:00", "yyyy-MM-dd O HH:mm", "2015-12-18T10:00Z"),
    ("2015-12-18 +05:00", "yyyy-MM-dd xxx", "2015-12-17T19:00Z"),
    ("2015-12-18[Europe/Paris]", "yyyy-MM-dd'['VV']'", "2015-12-17T23:00Z"),
    ("2015-12-18 10:30 America/New_York", "yyyy-MM-dd HH:mm VV", "2015-12-18T15:30Z"),
    ("2015-12-18 10:30 PST", "yyyy-MM-dd HH:mm z", "2015-12-18T18:30Z"),
    ("2015-07-18 10:30 Pacific Daylight Time", "yyyy-MM-dd HH:mm zzzz", "2015-07-18T17:30Z"),
    ("Fri Dec 18 10:30:45 UTC 2015", "EEE MMM dd HH:mm:ss z yyyy", "2015-12-18T10:30:45Z"),
    ("2015-12-18 10:30 UTC+01:00", "yyyy-MM-dd HH:mm VV", "2015-12-18T09:30Z"),
    ("2015-12-18 10:30 UTC+1", "yyyy-MM-dd HH:mm VV", None),
    ("2015-12-18 10:30 Z", "yyyy-MM-dd HH:mm VV", "2015-12-18T10:30Z"),
    ("2015-12-18 10:30 Nowhere", "yyyy-MM-dd HH:mm VV", None),
    ("2015-03-29 02:30 Europe/Berlin", "yyyy-MM-dd HH:mm VV", "2015-03-29T01:30Z"),  # there is no such time
    ("2015-10-25 02:30 Europe/Berlin", "yyyy-MM-dd HH:mm VV", "2015-10-25T00:30Z"),  # the first of two
    ("2015-10-25 02:30 +01:00 Europe/Berlin", "yyyy-MM-dd HH:mm xxx VV", "2015-10-25T01:30Z"),  # the second
]

INVALID = ["b", "B", "yyyy{", "#", "'never closed", "]", "yyyy-MM-dd]", "pp", "pp-", "dddd", "HHH", "EEEEE", "MMMMM",
           "MMMMMM", "VVV", "V", "zzzzz", "OO", "XXXXXX", "aa", "SSSSSSSSSS", "v", "y" * 20, "FF", "cc"]  # fmt: skip


@pytest.mark.parametrize(("text", "pattern", "iso"), DATES + TIMES + ZONES)
def test_a_text_means_what_java_time_makes_of_it(text: str, pattern: str, iso: str | None) -> None:
    assert milliseconds(text, pattern) == moment(iso)


@pytest.mark.parametrize("pattern", INVALID)
def test_an_invalid_pattern_reads_nothing(pattern: str) -> None:
    assert elements(pattern) is None
    assert milliseconds("2015-12-18", pattern) is None


def test_a_pattern_has_a_greatest_length() -> None:
    assert elements("-" * PATTERN_CHARS_MAX) is not None
    assert elements("-" * (PATTERN_CHARS_MAX + 1)) is None


MOMENTS = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))


@given(MOMENTS)
def test_what_was_written_is_read_again(when: datetime) -> None:
    when -= timedelta(microseconds=when.microsecond % 1000)
    millis = f"{when.microsecond // 1000:03}"
    in_ms = (when - EPOCH) // MILLISECOND
    year = f"{when.year:04}"
    assert milliseconds(year + when.strftime("%m%d%H%M%S") + millis, "yyyyMMddHHmmssSSS") == in_ms
    in_words = when.strftime(f"%a %d %B {year} %I:%M:%S.{millis} %p")
    assert milliseconds(in_words, "EEE dd MMMM yyyy hh:mm:ss.SSS a") == in_ms
    assert milliseconds(when.strftime(f"{year}/%j %H:%M:%S,{millis} +0000"), "yyyy/DDD HH:mm:ss,SSS Z") == in_ms


LETTERS = "GuyYMLQqwWdDFEecahHkKmsSAnNgVzOXxZ"


@given(
    text=st.text(alphabet="0123456789+-:. TZGMTADPMFriDecUTC/Europe"),
    pattern=st.text(alphabet=st.sampled_from(LETTERS + "p'[]-:. ") | st.characters(), max_size=20),
)
def test_any_text_and_pattern_give_a_moment_or_nothing(text: str, pattern: str) -> None:
    found = milliseconds(text, pattern)
    assert found is None or EPOCH + found * MILLISECOND


def test_what_is_too_long_for_a_pattern_is_not_kept() -> None:
    before = _elements.cache_info().currsize
    for number in range(3):
        assert milliseconds("2020", f"{number}" * (PATTERN_CHARS_MAX + 1)) is None
    assert _elements.cache_info().currsize == before


def test_a_text_longer_than_any_pattern_reads_means_nothing() -> None:
    assert milliseconds("2020-01-01" + " " * TEXT_CHARS_MAX, "yyyy-MM-dd") is None
