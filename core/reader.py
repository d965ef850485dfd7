"""A second connection to a daemon's database that only reads: for threads beside the writer, and for commands.

WAL lets it read beside the one writer, from a committed state. Works while the daemon runs and when it does not.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from core.errors import StorageError
from core.store import translate

WAIT_SECONDS = 5  # for the writer to let go, which it does after each commit


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection to the database at `path`; raises StorageError when it cannot be opened or read."""
    if not path.exists():
        raise StorageError(f"{path} does not exist; has the daemon run with this configuration?")
    # Without a log nobody has the file open: SQLite must not make one, which needs a right to write that we
    # may lack.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
    try:
        connection = sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True, timeout=WAIT_SECONDS)
        try:
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translate(error, path) from error
