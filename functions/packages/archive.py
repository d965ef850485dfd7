"""A directory, a zip, or the text of InlineCode, opened as a zip that is fit to be unpacked.

A directory is packed into a zip without a name, so what refuses a zip refuses a directory. What tools leave behind in
one (`LEFT_BEHIND`, virtual environments) stays behind. Symbolic links are packed as links, not followed.

Will not write anything: `functions.packages.tree` unpacks, and checks each entry.

Invariants:
1. A zip of more than `ZIP_BYTES_MAX`, or with a list of contents of more than `CONTENTS_BYTES_MAX`, is never read.
2. Nothing that a directory holds is read but regular files, each at most once, `UNPACKED_BYTES_MAX` of them in all.
"""

import os
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from functions.packages.errors import BadPackage

ZIP_BYTES_MAX = 50 << 20  # a zip given to Lambda directly (Lambda quotas)
UNPACKED_BYTES_MAX = 250 << 20  # code and layers together (Lambda quotas)
ENTRIES_MAX = 20_000  # the node_modules of a large function have half of it; each costs an SD card a write
CONTENTS_BYTES_MAX = 8 << 20  # of a zip's list of contents: 400 bytes for each entry
SPOOLED_BYTES = 16 << 20  # a packed directory up to this stays in memory
LEFT_BEHIND = frozenset(
    (
        *("__pycache__", ".git", ".hg", ".svn", ".aws-sam", ".tox", ".nox", ".venv", ".idea", ".vscode", ".DS_Store"),
        *(".mypy_cache", ".pytest_cache", ".ruff_cache"),
    )
)
INLINE_NAMES = {"python": "index.py", "nodejs": "index.js"}  # CloudFormation's, for the text of Code.ZipFile
CHUNK = 1 << 18
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error)

_UNIX = 3
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # that a zip can say
_END = struct.Struct("<4s4H2LH")  # the end of the list of contents (APPNOTE 4.3.16)
_END_MAGIC, _ZIP64_MAGIC, _ZIP64_BYTES = b"PK\x05\x06", b"PK\x06\x07", 20
_COMMENT_BYTES_MAX = 0xFFFF


@contextmanager
def opened(source: Path | str, runtime: str = "") -> Iterator[zipfile.ZipFile]:
    """The contents of a directory, of a zip file, or (text) of InlineCode for `runtime`. Raises BadPackage."""
    with ExitStack() as stack:
        try:
            if isinstance(source, str):
                archive = stack.enter_context(_packed({_inline_name(runtime): source.encode()}))
            elif source.is_dir():
                archive = stack.enter_context(_packed(_found(source)))
            else:
                archive = stack.enter_context(_zip(source))
        except OSError as error:
            raise BadPackage(f"{error.filename or source}: {error.strerror or error}") from None
        yield archive


def text_of(archive: zipfile.ZipFile, name: str, limit: int = 1 << 20) -> str:
    """The text of one file; "" where there is none, it is longer than `limit` bytes, or it cannot be read."""
    try:
        with archive.open(name) as file:
            content = file.read(limit + 1)
    except (KeyError, *BROKEN):
        return ""
    return content.decode(errors="replace") if len(content) <= limit else ""


@contextmanager
def _zip(path: Path) -> Iterator[zipfile.ZipFile]:
    if not path.exists():
        raise BadPackage(f"{path}: there is no such file or directory")
    if not path.is_file():
        raise BadPackage(f"{path}: neither a file nor a directory")
    with path.open("rb") as file:
        _check_contents(file, path)
        try:
            archive = zipfile.ZipFile(file)
        except (*BROKEN, OSError) as error:
            raise BadPackage(f"{path}: no zip that can be read: {error}") from None
        with archive:
            yield archive


def _check_contents(file: BinaryIO, path: Path) -> None:
    """Refuse what would fill the memory before a single entry is looked at."""
    size = file.seek(0, os.SEEK_END)
    if size > ZIP_BYTES_MAX:
        raise BadPackage(f"{path}: more than {ZIP_BYTES_MAX >> 20} MB")
    file.seek(max(0, size - _END.size - _COMMENT_BYTES_MAX - _ZIP64_BYTES))
    tail = file.read()
    at = tail.rfind(_END_MAGIC)
    if at < 0 or len(tail) - at < _END.size:
        raise BadPackage(f"{path}: no zip: there is no list of contents at its end")
    if tail[max(0, at - _ZIP64_BYTES) : at].startswith(_ZIP64_MAGIC):
        raise BadPackage(f"{path}: in the zip64 format, which nothing below 4 GB and 65,535 files needs")
    _, _, _, _, entries, contents, _, _ = _END.unpack_from(tail, at)
    if entries > ENTRIES_MAX:
        raise BadPackage(f"{path}: more than {ENTRIES_MAX:,} files and directories")
    if contents > CONTENTS_BYTES_MAX:
        raise BadPackage(f"{path}: a list of contents of more than {CONTENTS_BYTES_MAX >> 20} MB")
    file.seek(0)


def _inline_name(runtime: str) -> str:
    for start, name in INLINE_NAMES.items():
        if runtime.startswith(start):
            return name
    raise BadPackage(f"InlineCode is for Python and Node, not for the runtime {runtime!r}")


@contextmanager
def _packed(files: Mapping[str, bytes] | Iterable["_Found"]) -> Iterator[zipfile.ZipFile]:
    """A zip, not compressed, that nobody else can open."""
    with tempfile.SpooledTemporaryFile(SPOOLED_BYTES) as spool:
        with zipfile.ZipFile(spool, "w") as packing:
            if isinstance(files, Mapping):
                for name, content in files.items():
                    packing.writestr(_info(name, stat.S_IFREG | 0o644), content)
            else:
                _pack(packing, files)
        with zipfile.ZipFile(spool) as archive:
            yield archive


class _Found(NamedTuple):
    path: Path
    name: str  # below the directory that is packed
    mode: int


def _found(directory: Path) -> Iterator[_Found]:
    """Everything below a directory that belongs to a package, in order of names, directories before what they hold."""
    entries = ENTRIES_MAX
    waiting = [("", directory)]
    while waiting:
        below, place = waiting.pop()
        for path in sorted(place.iterdir()):
            if path.name in LEFT_BEHIND or path.suffix == ".pyc":
                continue
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode) and (path / "pyvenv.cfg").exists():
                continue
            entries -= 1
            if entries < 0:
                raise BadPackage(f"{directory}: more than {ENTRIES_MAX:,} files and directories")
            yield _Found(path, f"{below}{path.name}", mode)
            if stat.S_ISDIR(mode):
                waiting.append((f"{below}{path.name}/", path))


def _pack(packing: zipfile.ZipFile, files: Iterable[_Found]) -> None:
    left = UNPACKED_BYTES_MAX
    for path, name, mode in files:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise BadPackage(f"{name!r}: its name is not UTF-8") from None
        if stat.S_ISDIR(mode):
            packing.writestr(_info(f"{name}/", mode), b"")
        elif stat.S_ISLNK(mode):
            packing.writestr(_info(name, mode), os.readlink(path).encode(errors="surrogateescape"))
        elif stat.S_ISREG(mode):
            left -= _pack_file(packing, path, _info(name, mode), left)
        else:
            raise BadPackage(f"{path}: neither a file, a directory nor a symbolic link")


def _pack_file(packing: zipfile.ZipFile, path: Path, info: zipfile.ZipInfo, left: int) -> int:
    size = 0
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file, packing.open(info, "w") as packed:
        while chunk := file.read(CHUNK):
            size += len(chunk)
            if size > left:
                raise BadPackage(f"{path}: more than {UNPACKED_BYTES_MAX >> 20} MB in all")
            packed.write(chunk)
    return size


def _info(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EARLIEST)
    info.create_system = _UNIX
    info.external_attr = mode << 16
    return info
