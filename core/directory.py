"""A directory that a daemon lives on: locked for makers, and written to so that a power cut is safe.

What root writes for a daemon belongs to the owner of the place where it is written (`as_owner`), or the daemon, which
has a user of its own, could not read it; and root follows nothing that the daemon's user has put there. Will not decide
what is kept, nor who may read it: `devices.directory` keeps identities, `functions.packages.library` keeps functions.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import StorageError


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory against other makers; the kernel lets go of it however this process ends."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise refused(directory, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write(path: Path, text: str, mode: int) -> None:
    """Put a file in place whole or not at all, on the disk when this returns; the caller holds `locked`.

    Raises StorageError.
    """
    aside = path.with_name(f".{path.name}.new")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, mode)  # what a crash left behind keeps its own
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        aside.rename(path)
        sync(path.parent)
    except OSError as error:
        raise refused(path, error) from None


def sync(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def as_owner(path: Path) -> Iterator[None]:
    """When root runs this: act as the user to whom `path` belongs, or what is nearest above it; else nothing changes.

    What lies anywhere below a user's directory is that user's, or root would follow what they have put there. Raises
    StorageError for a symbolic link on the way that is not root's. For commands only: it is the whole process.
    """
    owner = _owner(path.absolute()) if os.geteuid() == 0 else None
    if owner is None:
        yield
        return
    group, groups = os.getegid(), os.getgroups()
    os.setgroups([])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def _owner(path: Path) -> os.stat_result | None:
    """The last directory on the way that is not root's; None when all are."""
    owner = None
    for place in (*reversed(path.parents), path):
        try:
            found = place.lstat()
            if stat.S_ISLNK(found.st_mode):
                if found.st_uid:
                    words = "is a symbolic link that root does not follow; name the directory itself"
                    raise StorageError(f"{place} {words}")
                found = place.stat()
        except FileNotFoundError:
            break
        except OSError as error:
            raise refused(place, error) from None
        owner = found if found.st_uid else owner
    return owner


def refused(path: Path, error: OSError) -> StorageError:
    """Our error for the system's, which says whom to be when rights are missing."""
    advice = "; run this as root or as the daemon's user" if isinstance(error, PermissionError) else ""
    return StorageError(f"{path}: {error.strerror}{advice}")
