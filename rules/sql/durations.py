"""Spans of time as people write them: `60 seconds`, `5 minutes`, `1 day`."""

import re

SIZES_MS = {"millisecond": 1, "second": 1_000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000}
MILLISECONDS_MAX = 366 * 86_400_000  # a year: nobody waits longer for a window, and it fits any clock

_DURATION = re.compile(r"\s*([0-9]{1,12})\s+([a-z]+?)s?\s*", re.IGNORECASE)


def milliseconds(text: str) -> int:
    """How many milliseconds `text` says. Raises ValueError, with what to write."""
    written = _DURATION.fullmatch(text)
    if written is None or written[2].lower() not in SIZES_MS:
        raise ValueError(f"{text[:40]!r} is no span of time: write '60 seconds', '5 minutes', '1 hour' or '1 day'")
    total = int(written[1]) * SIZES_MS[written[2].lower()]
    if not 0 < total <= MILLISECONDS_MAX:
        raise ValueError(f"{text[:40]!r} is not between a millisecond and a year")
    return total
