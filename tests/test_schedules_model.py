"""The next time of a cron expression is the first minute whose local time it names: looked at one by one."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from functions.schedules import next_after, parse, zone

MINUTE_MS = 60_000
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/St_Johns"]
NAMES = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
SWITCHES = [  # hours around which clocks of these zones are put, and some other days
    datetime(2026, 3, 8, 7), datetime(2026, 3, 29, 1), datetime(2026, 4, 4, 15), datetime(2026, 10, 3, 15),
    datetime(2026, 10, 25, 1), datetime(2026, 11, 1, 6), datetime(2028, 2, 29, 0), datetime(2026, 12, 31, 23),
]  # fmt: skip


def items(low: int, high: int) -> st.SearchStrategy[str]:
    value = st.integers(low, high)
    step = st.integers(1, max(1, (high - low) // 2))
    return st.one_of(
        st.just("*"),
        value.map(str),
        st.builds("{}-{}".format, value, value),
        st.builds("*/{}".format, step),
        st.builds("{}/{}".format, value, step),
    )


def fields(low: int, high: int) -> st.SearchStrategy[str]:
    return st.lists(items(low, high), min_size=1, max_size=3).map(",".join)


def members(field: str, low: int, high: int) -> set[int]:
    """What a field of digits, commas, hyphens and slashes names, the slow way."""
    found: set[int] = set()
    for item in field.split(","):
        base, _, step = item.partition("/")
        first, _, last = (f"{low}-{high}" if base == "*" else base).partition("-")
        end = int(last) if last else high if step else int(first)
        value, count = int(first), 0
        while True:
            if count % int(step or 1) == 0:
                found.add(value)
            if value == end:
                break
            value, count = (low if value == high else value + 1), count + 1
    return found


def names_day(month_day: str, weekday: str, local: datetime) -> bool:
    tomorrow = local + timedelta(days=1)
    is_weekday = local.isoweekday() < 6
    if weekday == "?":
        if month_day == "L":
            return tomorrow.month != local.month
        if month_day.endswith("W"):
            wanted = int(month_day[:-1])
            first = local.replace(day=1)
            month = [first + timedelta(days=n) for n in range(31) if (first + timedelta(days=n)).month == first.month]
            candidates = [day for day in month if day.isoweekday() < 6]
            nearest = min(candidates, key=lambda day: abs(day.day - wanted))
            return wanted <= len(month) and is_weekday and nearest.day == local.day
        return local.day in members(month_day, 1, 31)
    number = local.isoweekday() % 7 + 1
    if weekday.endswith("L"):
        return NAMES[number - 1] == weekday[:-1] and (local + timedelta(days=7)).month != local.month
    if "#" in weekday:
        name, _, nth = weekday.partition("#")
        return NAMES[number - 1] == name and (local.day - 1) // 7 + 1 == int(nth)
    return number in members(weekday, 1, 7)


days = st.one_of(
    st.tuples(fields(1, 31), st.just("?")),
    st.tuples(st.one_of(st.just("L"), st.builds("{}W".format, st.integers(1, 31))), st.just("?")),
    st.tuples(st.just("?"), fields(1, 7)),
    st.tuples(st.just("?"), st.builds("{}L".format, st.sampled_from(NAMES))),
    st.tuples(st.just("?"), st.builds("{}#{}".format, st.sampled_from(NAMES), st.integers(1, 5))),
)


def minutes(start: datetime, where: str, count: int) -> Iterator[tuple[int, datetime]]:
    """Every minute after `start` with the local time that it has, if that is the first time that it comes."""
    for n in range(1, count + 1):
        moment = (start + timedelta(minutes=n)).replace(tzinfo=UTC)
        local = moment.astimezone(zone(where))
        if not local.fold:
            yield int(moment.timestamp() * 1_000), local.replace(tzinfo=None)


@settings(max_examples=150, deadline=None)
@given(
    fields(0, 59), fields(0, 23), days, fields(1, 12), st.sampled_from(ZONES), st.sampled_from(SWITCHES),
    st.integers(-200, 200),
)  # fmt: skip
def test_around_every_switch_of_clocks_it_is_the_first_minute_that_is_named(
    minute: str, hour: str, day: tuple[str, str], month: str, where: str, switch: datetime, shift: int
) -> None:
    start, horizon = switch + timedelta(minutes=shift), 900
    at = int(start.replace(tzinfo=UTC).timestamp() * 1_000)
    sets = members(minute, 0, 59), members(hour, 0, 23), members(month, 1, 12)
    expected = next(
        (
            ms
            for ms, local in minutes(start, where, horizon)
            if local.minute in sets[0] and local.hour in sets[1] and local.month in sets[2] and names_day(*day, local)
        ),
        None,
    )
    found = next_after(parse(f"cron({minute} {hour} {day[0]} {month} {day[1]} *)"), at, zone(where))
    if expected is None:
        assert found is None or found > at + horizon * MINUTE_MS
    else:
        assert found == expected


@settings(max_examples=150, deadline=None)
@given(
    days, fields(1, 12), fields(2026, 2040).filter(lambda text: "-" not in text),
    st.dates(date(2026, 1, 1), date(2041, 1, 1)),
)  # fmt: skip
def test_over_years_it_is_the_first_day_that_is_named(day: tuple[str, str], month: str, year: str, start: date) -> None:
    local = datetime.combine(start, datetime.min.time())
    at = int(local.replace(tzinfo=UTC).timestamp() * 1_000)
    months = members(month, 1, 12)
    years = set().union(*(
        range(1970, 2200) if item == "*" else range(1970, 2200, int(item[2:])) if item[:2] == "*/"
        else range(int(item[:4]), 2200, int(item[5:])) if "/" in item else [int(item)]
        for item in year.split(",")
    ))  # fmt: skip
    following = (local + timedelta(days=n) for n in range(1, 366 * 3))
    expected = next((d for d in following if d.year in years and d.month in months and names_day(*day, d)), None)
    found = next_after(parse(f"cron(0 0 {day[0]} {month} {day[1]} {year})"), at, zone("UTC"))
    if expected is None:
        assert found is None or found >= at + 366 * 3 * 86_400_000
    else:
        assert found == int(expected.replace(tzinfo=UTC).timestamp() * 1_000)
