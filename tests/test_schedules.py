"""Every schedule expression that EventBridge takes means the same here; every other is refused, with the place."""

from datetime import UTC, datetime

import pytest

from functions import schedules
from functions.errors import InvalidParameter
from functions.schedules import ScheduleError, next_after, parse, zone


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000)


def times(expression: str, after: str, count: int = 3, where: str = "UTC") -> list[str]:
    """The next times in UTC."""
    found, at = [], ms(after)
    for _ in range(count):
        following = next_after(parse(expression), at, zone(where), ms(after))
        if following is None:
            break
        at = following
        found.append(datetime.fromtimestamp(at / 1_000, UTC).strftime("%Y-%m-%d %H:%M"))
    return found


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        # the examples of the EventBridge user guide
        ("cron(0 10 * * ? *)", ["2026-11-22 10:00", "2026-11-23 10:00", "2026-11-24 10:00"]),
        ("cron(15 12 * * ? *)", ["2026-11-21 12:15", "2026-11-22 12:15", "2026-11-23 12:15"]),
        ("cron(0 18 ? * MON-FRI *)", ["2026-11-23 18:00", "2026-11-24 18:00", "2026-11-25 18:00"]),
        ("cron(0 8 1 * ? *)", ["2026-12-01 08:00", "2027-01-01 08:00", "2027-02-01 08:00"]),
        ("cron(0/15 * * * ? *)", ["2026-11-21 12:15", "2026-11-21 12:30", "2026-11-21 12:45"]),
        ("cron(0/10 * ? * MON-FRI *)", ["2026-11-23 00:00", "2026-11-23 00:10", "2026-11-23 00:20"]),
        ("cron(0/5 8-17 ? * MON-FRI *)", ["2026-11-23 08:00", "2026-11-23 08:05", "2026-11-23 08:10"]),
        ("cron(0/30 20-2 ? * MON-FRI *)", ["2026-11-23 00:00", "2026-11-23 00:30", "2026-11-23 01:00"]),
        ("cron(0 9 ? * 2#1 *)", ["2026-12-07 09:00", "2027-01-04 09:00", "2027-02-01 09:00"]),
        # each wildcard
        ("cron(0 0 L * ? *)", ["2026-11-30 00:00", "2026-12-31 00:00", "2027-01-31 00:00"]),
        ("cron(0 0 L 2 ? *)", ["2027-02-28 00:00", "2028-02-29 00:00", "2029-02-28 00:00"]),
        ("cron(0 0 LW * ? *)", ["2026-11-30 00:00", "2026-12-31 00:00", "2027-01-29 00:00"]),
        ("cron(0 0 ? * L *)", ["2026-11-28 00:00", "2026-12-05 00:00", "2026-12-12 00:00"]),
        ("cron(0 0 ? * 6L *)", ["2026-11-27 00:00", "2026-12-25 00:00", "2027-01-29 00:00"]),
        ("cron(0 0 ? * friL *)", ["2026-11-27 00:00", "2026-12-25 00:00", "2027-01-29 00:00"]),
        ("cron(0 0 ? * SUN#5 *)", ["2026-11-29 00:00", "2027-01-31 00:00", "2027-05-30 00:00"]),
        ("cron(0 0 1W * ? *)", ["2026-12-01 00:00", "2027-01-01 00:00", "2027-02-01 00:00"]),
        ("cron(0 0 1W 5,8 ? *)", ["2027-05-03 00:00", "2027-08-02 00:00", "2028-05-01 00:00"]),  # Saturday, Sunday
        ("cron(0 0 15W * ? 2027)", ["2027-01-15 00:00", "2027-02-15 00:00", "2027-03-15 00:00"]),
        ("cron(0 0 31W * ? *)", ["2026-12-31 00:00", "2027-01-29 00:00", "2027-03-31 00:00"]),
        ("cron(0 0 29 2 ? *)", ["2028-02-29 00:00", "2032-02-29 00:00", "2036-02-29 00:00"]),
        ("cron(5,35,36 14 1,15 JAN,jul ? *)", ["2027-01-01 14:05", "2027-01-01 14:35", "2027-01-01 14:36"]),
        ("cron(0 0 1 1 ? 2030/50)", ["2030-01-01 00:00", "2080-01-01 00:00", "2130-01-01 00:00"]),
        ("cron(0 0 1 11-2/3 ? *)", ["2027-02-01 00:00", "2027-11-01 00:00", "2028-02-01 00:00"]),
        ("cron(0 0 ? * FRI-MON *)", ["2026-11-22 00:00", "2026-11-23 00:00", "2026-11-27 00:00"]),
        ("cron(0 0 ? * 1/3 *)", ["2026-11-22 00:00", "2026-11-25 00:00", "2026-11-28 00:00"]),
        ("cron( 59  23  31  12  ?  2026-2027 )", ["2026-12-31 23:59", "2027-12-31 23:59"]),
        ("cron(0 0 30 2 ? *)", []),
        ("cron(0 0 1 1 ? 2020)", []),
        # rates count from where they began
        ("rate(1 minute)", ["2026-11-21 12:01", "2026-11-21 12:02", "2026-11-21 12:03"]),
        ("rate(5 minutes)", ["2026-11-21 12:05", "2026-11-21 12:10", "2026-11-21 12:15"]),
        ("rate(12 hours)", ["2026-11-22 00:00", "2026-11-22 12:00", "2026-11-23 00:00"]),
        ("rate(7 days)", ["2026-11-28 12:00", "2026-12-05 12:00", "2026-12-12 12:00"]),
        ("at(2026-11-21T12:00:01)", ["2026-11-21 12:00"]),
        ("at(2026-11-21T12:00:00)", []),
    ],
)
def test_the_next_times_are_those_of_eventbridge(expression: str, expected: list[str]) -> None:
    assert times(expression, "2026-11-21 12:00", max(1, len(expected))) == expected


def test_a_time_that_has_come_is_not_the_next_and_a_millisecond_before_it_is() -> None:
    at = ms("2026-11-21 12:00")
    every = parse("cron(0 12 * * ? *)")
    assert next_after(every, at, zone("UTC")) == at + 86_400_000
    assert next_after(every, at - 1, zone("UTC")) == at
    assert next_after(parse("rate(1 hour)"), at + 3_599_999, zone("UTC"), at) == at + 3_600_000
    assert next_after(parse("rate(1 hour)"), at + 3_600_000, zone("UTC"), at) == at + 7_200_000


# -- daylight saving: Berlin goes from 2:00 to 3:00 on 2027-03-28, and from 3:00 to 2:00 on 2026-10-25 -----------------


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        # a local time follows the clock
        ("cron(0 8 * * ? *)", "2027-03-27 00:00", ["2027-03-27 07:00", "2027-03-28 06:00", "2027-03-29 06:00"]),
        ("cron(0 8 * * ? *)", "2026-10-24 00:00", ["2026-10-24 06:00", "2026-10-25 07:00", "2026-10-26 07:00"]),
        # one that does not exist is skipped
        ("cron(30 2 * * ? *)", "2027-03-26 12:00", ["2027-03-27 01:30", "2027-03-29 00:30", "2027-03-30 00:30"]),
        ("cron(0/30 * * * ? *)", "2027-03-28 00:15", ["2027-03-28 00:30", "2027-03-28 01:00", "2027-03-28 01:30"]),
        # one that comes twice fires once
        ("cron(30 2 * * ? *)", "2026-10-24 12:00", ["2026-10-25 00:30", "2026-10-26 01:30", "2026-10-27 01:30"]),
        ("cron(0/30 * * * ? *)", "2026-10-25 00:15", ["2026-10-25 00:30", "2026-10-25 02:00", "2026-10-25 02:30"]),
        ("cron(30 2 * * ? *)", "2026-10-25 01:15", ["2026-10-26 01:30", "2026-10-27 01:30", "2026-10-28 01:30"]),
        # hours that went by, whatever the clock shows
        ("rate(1 day)", "2027-03-27 12:00", ["2027-03-28 12:00", "2027-03-29 12:00", "2027-03-30 12:00"]),
        ("at(2026-10-25T02:30:00)", "2026-10-24 12:00", ["2026-10-25 00:30"]),
        ("at(2027-03-28T02:30:00)", "2027-03-27 12:00", ["2027-03-28 01:30"]),
    ],
)
def test_daylight_saving_is_eventbridge_schedulers(expression: str, after: str, expected: list[str]) -> None:
    assert times(expression, after, len(expected), "Europe/Berlin") == expected


def test_a_schedule_in_utc_knows_no_daylight_saving() -> None:
    assert times("cron(30 2 * * ? *)", "2027-03-27 12:00", 2) == ["2027-03-28 02:30", "2027-03-29 02:30"]


def test_a_day_that_an_island_left_out_is_left_out() -> None:
    found = times("cron(0 12 * * ? 2011)", "2011-12-29 00:00", 3, "Pacific/Apia")
    assert found == ["2011-12-29 22:00", "2011-12-30 22:00"]  # the 29th and the 31st, there


def test_zones_of_half_an_hour_are_no_matter() -> None:
    assert times("cron(0 8 * * ? *)", "2026-11-21 12:00", 1, "Asia/Kolkata") == ["2026-11-22 02:30"]


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "character", "words"),
    [
        ("", 1, "rate"),
        ("0 8 * * ? *", 1, "cron"),
        ("cron(0 8 * * ? *", 17, "parenthesis"),
        ("cron(0 8 * * ?)", 6, "5 fields"),
        ("cron(0 8 * * ? * *)", 6, "7 fields"),
        ("cron()", 6, "0 fields"),
        ("cron(0 8 * * * *)", 14, "must be a ?"),
        ("cron(0 8 ? * ? *)", 14, "only one"),
        ("cron(60 8 * * ? *)", 6, "minutes: '60' is not one of 0-59"),
        ("cron(0 24 * * ? *)", 8, "hours"),
        ("cron(0 8 0 * ? *)", 10, "day of month"),
        ("cron(0 8 32 * ? *)", 10, "1-31"),
        ("cron(0 8 1 13 ? *)", 12, "JAN-DEC"),
        ("cron(0 8 ? * 8 *)", 14, "SUN-SAT"),
        ("cron(0 8 ? * 0 *)", 14, "1-7"),
        ("cron(0 8 * * ? 1969)", 16, "1970-2199"),
        ("cron(0 8 * * ? 2200)", 16, "1970-2199"),
        ("cron(0 8 * * ? 2030-2026)", 16, "ends before it begins"),
        ("cron(1,2,x 8 * * ? *)", 10, "'x'"),
        ("cron(1-x 8 * * ? *)", 8, "'x'"),
        ("cron(1,, 8 * * ? *)", 8, "''"),
        ("cron(0/0 8 * * ? *)", 8, "after a slash"),
        ("cron(0/x 8 * * ? *)", 8, "after a slash"),
        ("cron(0/ 8 * * ? *)", 8, "after a slash"),
        ("cron(/5 8 * * ? *)", 6, "''"),
        ("cron(? 8 * * ? *)", 6, "'?'"),
        ("cron(L 8 * * ? *)", 6, "'L'"),
        ("cron(0 8 32W * ? *)", 10, "'32'"),
        ("cron(0 8 W * ? *)", 10, "''"),
        ("cron(0 8 L,1 * ? *)", 10, "'L'"),
        ("cron(0 8 ? * MON#6 *)", 18, "1 to 5"),
        ("cron(0 8 ? * MON# *)", 18, "1 to 5"),
        ("cron(0 8 ? * 3#1,6#3 *)", 16, "1 to 5"),
        ("cron(0 8 ? * XL *)", 14, "'X'"),
        ("cron(99999999999999999999 8 * * ? *)", 6, "minutes"),
        ("cron(٣ 8 * * ? *)", 6, "minutes"),
        ("rate(5)", 6, "minutes, hours or days"),
        ("rate(5 weeks)", 6, "minutes, hours or days"),
        ("rate(5 minutes", 6, "minutes"),
        ("rate(0 minutes)", 6, "at least one minute"),
        ("rate(-5 minutes)", 6, "a number"),
        ("rate(999999999 days)", 6, "ten years"),
        ("at(2026-11-21)", 4, "at(2026-11-20T13:00:00)"),
        ("at(2026-13-21T00:00:00)", 4, "month"),
        ("at(1969-01-01T00:00:00)", 4, "year"),
        ("at(9999-12-31T23:59:59)", 4, "year"),
        ("cron(" + "0," * 200 + "0 8 * * ? *)", schedules.EXPRESSION_MAX + 1, "256"),
    ],
)
def test_a_fault_is_named_with_its_place(expression: str, character: int, words: str) -> None:
    with pytest.raises(ScheduleError) as refused:
        parse(expression)
    assert f"character {character}:" in str(refused.value)
    assert words in str(refused.value)


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "Europe", "../../etc/passwd", "/etc/localtime", "UTC\0"])
def test_a_zone_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidParameter, match="no time zone"):
        zone(name)


@pytest.mark.parametrize("at", [-(2**62), 2**62, 253_402_300_799_999])
def test_times_beyond_all_calendars_are_no_fault(at: int) -> None:
    assert next_after(parse("cron(0 8 * * ? *)"), at, zone("Europe/Berlin")) is None
