"""What functions keep in a daemon's database, for whoever opens it and for whoever mends it."""

import sqlite3

from core import queues
from functions import dead_letters, queue, scheduler

SCHEMA = queue.SCHEMA + dead_letters.SCHEMA + queues.SCHEMA + scheduler.SCHEMA


def salvage(source: sqlite3.Connection, target: sqlite3.Connection) -> int:
    """Copy what can be read out of a damaged database; returns how many events and dead letters that are."""
    return queue.salvage(source, target) + dead_letters.salvage(source, target)
