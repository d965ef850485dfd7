"""What functions keep in a daemon's database, for whoever opens it and for whoever mends it.

The tables of functions do without NOT NULL: the schema of an edge's database has to fit its first page, which is the
one that recovery can replace (`edge.recovery`).
"""

import sqlite3

from core import queues
from functions import dead_letters, queue, scheduler

SCHEMA = queue.SCHEMA + dead_letters.SCHEMA + queues.SCHEMA + scheduler.SCHEMA


def salvage(source: sqlite3.Connection, target: sqlite3.Connection) -> int:
    """Copy what can be read out of a damaged database; returns how many events, letters and messages that are."""
    scheduler.salvage(source, target)
    return sum(part.salvage(source, target) for part in (queue, dead_letters, queues))
