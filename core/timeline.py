"""A clock for ages and waits, on disk: it never goes back, and a wrong wall clock adds nothing to it.

While the process lives it runs as the monotonic clock does. Over a restart it takes what it last wrote down and adds
the time that the box was off, as the wall clock tells it: nothing if that went back, and nothing if it stood before
CLOCK_PLAUSIBLE_MS at either end, as on boxes without a battery clock. So an NTP step of years makes nothing older, and
a clock that is put back keeps nothing waiting.

Whoever has something to commit writes a mark beside it; `has_jumped` says when the wall clock has moved since the last
mark, which makes a new one worth a commit of its own. Will not tell the time of day.
"""

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass

from core.message import CLOCK_PLAUSIBLE_MS

JUMP_MS = 5_000  # more than drift and NTP slewing between two marks: what may be invented by a restart

SCHEMA = """
CREATE TABLE IF NOT EXISTS timeline(
    one INTEGER PRIMARY KEY CHECK (one = 1), now INTEGER, wall INTEGER);
"""


@dataclass(frozen=True, slots=True)
class Mark:
    """What the timeline and the wall clock showed at one moment, in milliseconds."""

    now: int = 0
    wall: int = 0


class Timeline:
    """Milliseconds since the store was new. `monotonic()` is seconds, `wall()` milliseconds since the Unix epoch."""

    def __init__(
        self,
        last: Mark | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self.start(last or Mark())

    def start(self, last: Mark) -> None:
        """Go on from what the last run wrote down."""
        wall = self._wall()
        believed = last.wall >= CLOCK_PLAUSIBLE_MS and wall > last.wall
        self._began = last.now + (wall - last.wall if believed else 0) - int(self._monotonic() * 1_000)
        self._ahead = wall - self.now  # of the wall clock, when it was last written down

    @property
    def now(self) -> int:
        """The time, which never goes back."""
        return self._began + int(self._monotonic() * 1_000)

    @property
    def wall(self) -> int:
        """What the wall clock shows, for people."""
        return self._wall()

    @property
    def has_jumped(self) -> bool:
        """Whether the wall clock has moved since the last mark."""
        return abs(self._wall() - self.now - self._ahead) > JUMP_MS

    def mark(self) -> Mark:
        """Both clocks now, to be written."""
        mark = Mark(self.now, self._wall())
        self._ahead = mark.wall - mark.now
        return mark


def write(connection: sqlite3.Connection, mark: Mark) -> None:
    """Keep a mark, in a transaction of the caller."""
    connection.execute("INSERT OR REPLACE INTO timeline VALUES (1,?,?)", (mark.now, mark.wall))


def load(connection: sqlite3.Connection) -> Mark:
    """The last mark that was written."""
    row = connection.execute("SELECT now, wall FROM timeline").fetchone()
    return Mark() if row is None else Mark(*row)
