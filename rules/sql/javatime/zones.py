"""Time zones by name (`Europe/Berlin`, `+02:00`) and the English names of zones.

Zones come from the system's time zone data, or where there is none from the package `tzdata`. `zoneinfo` is imported
with the first zone that is not a fixed offset: a daemon whose rules name none does not carry it.

Short names are those of the time zone data. Where it has none any more but an offset (Sao Paulo, Dubai), the offset is
the name; Java still has names of its own there.
"""

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)

KEPT = 256  # zones; there are some 600, of which a site has a few
NAME_CHARS_MAX = 64  # the longest is America/Argentina/ComodRivadavia
NOT_ZONES = {"Factory", "localtime", "posix", "posixrules", "right"}  # beside the zones in their directory

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+/-]*")
_OFFSET = re.compile(r"([+-])([01][0-9]|2[0-3])(?::?([0-5][0-9])(?::?([0-5][0-9])(?:[.,]([0-9]{3}))?)?)?")


# Short name, minutes east of Greenwich, long name, and the zone that the names mean when they are read: none where
# several parts of the world use the short one.
NAMES = [
    ("UTC", 0, "Coordinated Universal Time", "UTC"),
    ("GMT", 0, "Greenwich Mean Time", "GMT"),
    ("WET", 0, "Western European Standard Time", "WET"),
    ("WEST", 60, "Western European Summer Time", "WET"),
    ("CET", 60, "Central European Standard Time", "Europe/Paris"),
    ("CEST", 120, "Central European Summer Time", "Europe/Paris"),
    ("EET", 120, "Eastern European Standard Time", "EET"),
    ("EEST", 180, "Eastern European Summer Time", "EET"),
    ("MSK", 180, "Moscow Standard Time", "Europe/Moscow"),
    ("BST", 60, "British Summer Time", ""),
    ("IST", 60, "Irish Standard Time", ""),
    ("IST", 120, "Israel Standard Time", ""),
    ("IDT", 180, "Israel Daylight Time", "Asia/Jerusalem"),
    ("SAST", 120, "South Africa Standard Time", "Africa/Johannesburg"),
    ("EAT", 180, "East Africa Time", "Africa/Nairobi"),
    ("CAT", 120, "Central Africa Time", "Africa/Maputo"),
    ("WAT", 60, "West Africa Standard Time", "Africa/Lagos"),
    ("PKT", 300, "Pakistan Standard Time", "Asia/Karachi"),
    ("IST", 330, "India Standard Time", ""),
    ("WIB", 420, "Western Indonesia Time", "Asia/Jakarta"),
    ("CST", 480, "China Standard Time", ""),
    ("HKT", 480, "Hong Kong Standard Time", "Asia/Hong_Kong"),
    ("PST", 480, "Philippine Standard Time", ""),
    ("WITA", 480, "Central Indonesia Time", "Asia/Makassar"),
    ("JST", 540, "Japan Standard Time", "Asia/Tokyo"),
    ("KST", 540, "Korean Standard Time", "Asia/Seoul"),
    ("WIT", 540, "Eastern Indonesia Time", "Asia/Jayapura"),
    ("AWST", 480, "Australian Western Standard Time", "Australia/Perth"),
    ("ACST", 570, "Australian Central Standard Time", "Australia/Adelaide"),
    ("ACDT", 630, "Australian Central Daylight Time", "Australia/Adelaide"),
    ("AEST", 600, "Australian Eastern Standard Time", "Australia/Sydney"),
    ("AEDT", 660, "Australian Eastern Daylight Time", "Australia/Sydney"),
    ("NZST", 720, "New Zealand Standard Time", "Pacific/Auckland"),
    ("NZDT", 780, "New Zealand Daylight Time", "Pacific/Auckland"),
    ("SST", -660, "Samoa Standard Time", "Pacific/Pago_Pago"),
    ("HST", -600, "Hawaii-Aleutian Standard Time", "Pacific/Honolulu"),
    ("AKST", -540, "Alaska Standard Time", "America/Anchorage"),
    ("AKDT", -480, "Alaska Daylight Time", "America/Anchorage"),
    ("PST", -480, "Pacific Standard Time", "America/Los_Angeles"),
    ("PDT", -420, "Pacific Daylight Time", "America/Los_Angeles"),
    ("MST", -420, "Mountain Standard Time", "America/Denver"),
    ("MDT", -360, "Mountain Daylight Time", "America/Denver"),
    ("CST", -360, "Central Standard Time", "America/Chicago"),
    ("CDT", -300, "Central Daylight Time", "America/Chicago"),
    ("CST", -300, "Cuba Standard Time", ""),
    ("EST", -300, "Eastern Standard Time", "America/New_York"),
    ("EDT", -240, "Eastern Daylight Time", "America/New_York"),
    ("CDT", -240, "Cuba Daylight Time", ""),
    ("AST", -240, "Atlantic Standard Time", "America/Halifax"),
    ("ADT", -180, "Atlantic Daylight Time", "America/Halifax"),
    ("NST", -210, "Newfoundland Standard Time", "America/St_Johns"),
    ("NDT", -150, "Newfoundland Daylight Time", "America/St_Johns"),
]  # fmt: skip
LONG_NAMES = {(short, minutes): long for short, minutes, long, _ in NAMES}
MEANT = {name: zone for short, _, long, zone in NAMES if zone for name in (long, short)}


def region(name: str) -> tzinfo | None:
    """The zone that the time zone data knows by this name, in this case."""
    return None if len(name) > NAME_CHARS_MAX else _region(name)


@lru_cache(maxsize=KEPT)
def _region(name: str) -> tzinfo | None:
    if not _NAME.fullmatch(name) or name.split("/")[0] in NOT_ZONES:
        return None
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # not found, the name of a directory, or of a file that holds no zone
        return None


def joda_zone(name: str) -> tzinfo | None:
    """The zone of `DateTimeZone.forID(name)`: a region, or an offset such as +02:00, +0200 or UTC+02:00."""
    if name in {"UTC", "UT", "Z"}:
        return UTC
    offset = _OFFSET.fullmatch(re.sub(r"^(UTC?|GMT)(?=[+-])", "", name))
    if offset is None:
        return region(name)
    sign, *numbers, millis = offset.groups(default="0")
    hours, minutes, seconds = map(int, numbers)
    return fixed((-1 if sign == "-" else 1) * timedelta(0, hours * 3600 + minutes * 60 + seconds, 0, int(millis)))


def fixed(offset: timedelta) -> tzinfo:
    """The zone that is always this far east of Greenwich."""
    return timezone(offset) if offset else UTC


def identity(moment: datetime) -> str:
    """The name by which the moment's zone is asked for; of a fixed offset, the offset."""
    key: str | None = getattr(moment.tzinfo, "key", None)
    return key or (shown(moment.utcoffset() or timedelta()) if moment.utcoffset() else "UTC")


def shown(offset: timedelta) -> str:
    """`+02:00`, with seconds and milliseconds where there are any."""
    sign, size = ("-", -offset) if offset < timedelta() else ("+", offset)
    minutes, seconds = divmod(size.seconds, 60)
    text = f"{sign}{minutes // 60:02}:{minutes % 60:02}"
    if seconds or size.microseconds:
        text += f":{seconds:02}"
    return f"{text}.{size.microseconds // 1000:03}" if size.microseconds else text


def short_name(moment: datetime) -> str:
    """`CET` or `CEST`; an offset where the zone has no letters for it."""
    name = moment.tzname() or ""
    return name if name.isalpha() else shown(moment.utcoffset() or timedelta())


def long_name(moment: datetime) -> str:
    """`Central European Summer Time`; the short name where no long one is known."""
    offset = moment.utcoffset() or timedelta()
    short = short_name(moment)
    return LONG_NAMES.get((short, offset // timedelta(minutes=1)), short)
