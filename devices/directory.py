"""The directory that keeps identities: closed to others; `core.directory` locks it and writes to it.

Will not decide what is kept: `devices.authority` and `devices.registry` do.
"""

from pathlib import Path

from core.directory import as_owner, locked, refused, sync, write
from core.errors import StorageError

__all__ = ["PUBLIC", "SECRET", "StorageError", "as_owner", "locked", "make", "refused", "sync", "write"]

SECRET = 0o600  # private keys, the registry with its password hashes
PUBLIC = 0o644  # certificates


def make(directory: Path) -> None:
    """Make the directory if need be, mode 0700, and the data directory above it, mode 0750. Raises StorageError."""
    try:
        directory.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise refused(directory, error) from None
