"""The files that a device gets: the authority's certificate, its own, and its private key.

They are written before the certificate is registered and taken back when that fails: one that lets somebody in is
always in somebody's hands. Nothing is overwritten, for it might be the only copy of a key.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from core.errors import TidegateError
from devices import directory


@dataclass(frozen=True, slots=True)
class Issued:
    """PEM texts: the authority's certificate, and what it has signed; no key when the device has its own."""

    ca: str
    certificate: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where a device's credentials are.

    A key may be the device's own, which is not ours to write. `password` is the file with its password, if it
    has one instead of a certificate.
    """

    name: str
    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    password: Path | None = None


@contextmanager
def handed_out(files: Credentials, issued: Issued) -> Iterator[None]:
    """Write the files, as the owner of the directory that they go into; take them back if the block raises.

    Raises TidegateError when one is there already, and what the system says when it refuses.
    """
    written: list[Path] = []
    is_new = not files.ca.parent.exists()
    try:
        with directory.as_owner(files.ca.parent):
            files.ca.parent.mkdir(parents=True, exist_ok=True)
            for path, text in ((files.key, issued.key), (files.certificate, issued.certificate), (files.ca, issued.ca)):
                if path is not None and text is not None and not _is_there(files, path, text):
                    _write(path, text, directory.SECRET if path == files.key else directory.PUBLIC)
                    written.append(path)
            directory.sync(files.ca.parent)
        yield
    except BaseException:
        with directory.as_owner(files.ca.parent):
            for path in written:
                path.unlink(missing_ok=True)
            if is_new:
                with suppress(OSError):  # somebody else has put something there
                    files.ca.parent.rmdir()
        raise


def _is_there(files: Credentials, path: Path, text: str) -> bool:
    if not path.exists():
        return False
    if path == files.ca and path.read_bytes() == text.encode():  # many devices may share a directory
        return True
    raise TidegateError(f"{path} is there already and is not overwritten; give another directory with --out")


def _write(path: Path, text: str, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
