"""Objects in a directory, each there whole or not at all, whatever happens: an S3 bucket made of files.

Keeps the rule by which a file survives a power cut: written under another name in the same directory, synced,
renamed, and every directory up to the bucket's own synced. Writing a key again replaces the object. Will not
choose keys nor retry: `delivery` does.

Invariants:
1. A reader sees an object complete or does not see it.
2. When `write` returns, the object outlives a power cut.
3. The temporary name follows from the key, so writing the same key again takes up what a crash left behind.
4. No key leads out of the directory.
"""

import os
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from core.errors import StorageError, TidegateError

KEY_BYTES_MAX = 1_024  # S3's limit
COMPONENT_BYTES_MAX = 255  # of a file name on ext4, XFS, Btrfs
TEMPORARY_PREFIX = ".tidegate-"


class InvalidKey(TidegateError, ValueError):
    """A key that S3 or the file system cannot hold, or that would leave the directory."""


def check_key(key: str) -> None:
    """Raise InvalidKey unless `key` names a file inside the directory it is used in."""
    shown = repr(key[:80])
    if "\0" in key:
        raise InvalidKey(f"object key {shown} holds a NUL character")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidKey(f"object key {shown} is not valid Unicode") from None
    if size > KEY_BYTES_MAX:
        raise InvalidKey(f"object key {shown} is longer than {KEY_BYTES_MAX:,} bytes")
    for component in key.split("/"):
        if component in ("", ".", ".."):
            raise InvalidKey(f"object key {shown}: each part between '/' must be a name, not {component!r}")
        if len(component.encode()) > COMPONENT_BYTES_MAX:
            raise InvalidKey(f"object key {shown} has a part longer than {COMPONENT_BYTES_MAX} bytes")
        if component.startswith(TEMPORARY_PREFIX):
            raise InvalidKey(f"object key {shown}: {TEMPORARY_PREFIX}… is kept for unfinished files")


def write(directory: Path, key: str, chunks: Iterable[bytes]) -> int:
    """Write one object durably, in place of an older one, and return its size in bytes. Blocks: run it in a
    thread.

    `directory` is created when only itself is missing. One writer per key at a time. Raises InvalidKey, and
    StorageError when the disk refuses: no part of an object stays, but a whole one may, not yet synced, so
    write it again.
    """
    check_key(key)
    path = directory / key
    temporary = path.with_name(temporary_name(key))
    try:
        directory.mkdir(exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            size = _write_synced(temporary, chunks)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_directories(directory, path.parent)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    return size


def temporary_name(key: str) -> str:
    """The file name an object has until it is complete."""
    return f"{TEMPORARY_PREFIX}{blake2b(key.encode(), digest_size=8).hexdigest()}"


def _write_synced(path: Path, chunks: Iterable[bytes]) -> int:
    with path.open("wb") as file:
        size = sum(file.write(chunk) for chunk in chunks)
        file.flush()
        os.fsync(file.fileno())
    return size


def _sync_directories(top: Path, leaf: Path) -> None:
    # All of them every time: one that exists may come from an attempt that crashed before it was synced.
    depth = len(leaf.relative_to(top).parts) + 1  # and the entry of `top` itself in its parent
    for directory in (leaf, *leaf.parents[:depth]):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
