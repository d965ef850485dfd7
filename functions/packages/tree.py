"""Zips unpacked into a directory, safely, whoever packed them; over one another where they are layers.

Nothing is written outside of the directory: no name leads out of it, symbolic links point to places inside, and nothing
is written through one. Files have mode 0644, or 0755 where the zip says executable; there are no devices, owners or
set-user-id bits. What AWS's tools make is taken as it is, Info-ZIP's symbolic links included.

Will not open zips (`functions.packages.archive`) nor make a tree durable (`functions.packages.library`).

Invariants:
1. At most `UNPACKED_BYTES_MAX` bytes and `ENTRIES_MAX` entries come out of all zips that share an `Allowance`, counted
   as they are inflated, whatever their headers say.
2. The same files with the same modes have the same `Tree.sha256`, however and when they were packed.
3. Every symbolic link in a tree resolves to a place in the tree, or to nothing.
"""

import base64
import hashlib
import os
import stat
import unicodedata
import zipfile
from pathlib import Path
from typing import IO

from functions.packages.archive import BROKEN, CHUNK, ENTRIES_MAX, UNPACKED_BYTES_MAX
from functions.packages.errors import BadPackage

RATIO_MAX, RATIO_FREE_BYTES = 100, 16 << 20  # code shrinks to a fifth; a small package may hold a file of zeros
NAME_BYTES_MAX, PATH_BYTES_MAX = 255, 1_024  # of ext4; a quarter of PATH_MAX
DEPTH_MAX = 64  # node_modules in node_modules, thirty times
FILE_MODE, PROGRAM_MODE, DIRECTORY_MODE = 0o644, 0o755, 0o755

DIRECTORY, FILE, PROGRAM, LINK = "directory", "file", "program", "link"

_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what Lambda takes; others inflate without a bound
_DRIVE = ":"

Parts = tuple[str, ...]


class Allowance:
    """What may still be written, shared by the trees of one version."""

    def __init__(self, size: int = UNPACKED_BYTES_MAX, entries: int = ENTRIES_MAX) -> None:
        self._size, self._entries = size, entries

    def take_entry(self) -> None:
        """Raises BadPackage when there were too many."""
        self._entries -= 1
        if self._entries < 0:
            raise BadPackage(f"more than {ENTRIES_MAX:,} files and directories")

    def take(self, size: int) -> None:
        """Raises BadPackage when there were too many bytes."""
        self._size -= size
        if self._size < 0:
            raise BadPackage(f"more than {UNPACKED_BYTES_MAX >> 20} MB unpacked, layers included")


class Tree:
    """A new directory that zips are unpacked into."""

    def __init__(self, destination: Path, allowance: Allowance) -> None:
        self.destination = destination
        self._allowance = allowance
        self._known: dict[Parts, tuple[str, int, bytes]] = {}  # what is there → kind, size, digest of the content
        destination.mkdir()
        destination.chmod(DIRECTORY_MODE)

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(size for _, size, _ in self._known.values())

    @property
    def sha256(self) -> str:
        """The digest of names, modes and contents, in base64, that GetFunction calls CodeSha256."""
        whole = hashlib.sha256()
        for name, (kind, _, digest) in sorted(("/".join(parts), found) for parts, found in self._known.items()):
            whole.update(b"%b\0%b\0%b" % (name.encode(), kind.encode(), digest))
        return base64.b64encode(whole.digest()).decode()

    def add(self, archive: zipfile.ZipFile, name: str) -> None:
        """Unpack a zip over what is there; `name` is what errors call it. Raises BadPackage, and OSError of the disk.

        A file replaces a file of an earlier zip, as layers do; a file never replaces a directory, nor the reverse.
        """
        unpacking = _Unpacking(archive)
        for info in archive.infolist():
            try:
                self._add(unpacking, info)
            except BadPackage as error:
                raise BadPackage(f"{name}: {shown(info.orig_filename)}: {error}") from None
            except BROKEN as error:
                raise BadPackage(f"{name}: {shown(info.orig_filename)}: damaged: {error}") from None

    def _add(self, unpacking: "_Unpacking", info: zipfile.ZipInfo) -> None:
        parts, kind = split_name(info.orig_filename), _kind(info)
        if not parts and kind != DIRECTORY:
            raise BadPackage("has no name")
        unpacking.check_alone(parts, kind)
        for length in range(1, len(parts)):
            self._make_directory(parts[:length])
        if not parts:
            return
        if kind == DIRECTORY:
            self._make_directory(parts)
            return
        place = self._make_way(parts)
        content = hashlib.sha256()
        size = 0
        if kind == LINK:
            target = _target(unpacking.read(info), parts)
            content.update(target.encode())
            place.symlink_to(target)
        else:
            size = self._write(unpacking, info, place, PROGRAM_MODE if kind == PROGRAM else FILE_MODE, content)
        self._known[parts] = kind, size, content.digest()

    def _make_directory(self, parts: Parts) -> None:
        kind, _, _ = self._known.get(parts, ("", 0, b""))
        if kind == DIRECTORY:
            return
        if kind:
            raise BadPackage(f"{shown('/'.join(parts))} is a {kind} and a directory")
        self._allowance.take_entry()
        place = self.destination.joinpath(*parts)
        place.mkdir()
        place.chmod(DIRECTORY_MODE)
        self._known[parts] = DIRECTORY, 0, b""

    def _make_way(self, parts: Parts) -> Path:
        """Where a file comes, with nothing there any more."""
        kind, _, _ = self._known.get(parts, ("", 0, b""))
        if kind == DIRECTORY:
            raise BadPackage("is a directory and a file")
        self._allowance.take_entry()
        place = self.destination.joinpath(*parts)
        if kind:
            place.unlink()
            del self._known[parts]
        return place

    def _write(
        self, unpacking: "_Unpacking", info: zipfile.ZipInfo, place: Path, mode: int, content: "hashlib._Hash"
    ) -> int:
        size = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with unpacking.open(info) as source, os.fdopen(os.open(place, flags, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask is
            while chunk := source.read(CHUNK):
                self._allowance.take(len(chunk))
                unpacking.take(len(chunk))
                content.update(chunk)
                file.write(chunk)
                size += len(chunk)
        return size


class _Unpacking:
    """One zip under way: what it has named, and what may still come out of it."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._files: set[Parts] = set()
        self._folded: dict[str, str] = {}  # a name where case makes no difference → as it was written
        self._left = _inflated_max(archive)

    def check_alone(self, parts: Parts, kind: str) -> None:
        """Refuse a name that comes twice, and two that differ in case only: on other disks they are one file."""
        if kind != DIRECTORY and parts in self._files:
            raise BadPackage("is there twice")
        if kind != DIRECTORY:
            self._files.add(parts)
        for length in range(1, len(parts) + 1):
            name = "/".join(parts[:length])
            before = self._folded.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
            if before != name:
                raise BadPackage(f"differs only in case from {shown(before)}")

    def open(self, info: zipfile.ZipInfo) -> IO[bytes]:
        """Read an entry."""
        try:
            return self._archive.open(info)
        except OSError as error:  # a place before the beginning of the file
            raise BadPackage(f"damaged: {error.strerror}") from None

    def read(self, info: zipfile.ZipInfo) -> bytes:
        """The target of a symbolic link."""
        with self.open(info) as source:
            return source.read(PATH_BYTES_MAX + 1)

    def take(self, size: int) -> None:
        """Raises BadPackage when too much comes out of too little."""
        self._left -= size
        if self._left < 0:
            raise BadPackage(f"the zip unpacks to more than {RATIO_MAX} times its size")


def split_name(name: str) -> Parts:
    """The parts of an entry's name, none for the directory itself. Raises BadPackage for what could lead elsewhere."""
    if name.startswith("/") or name[1:2] == _DRIVE:
        raise BadPackage("an absolute name")
    if "\\" in name:
        raise BadPackage("a backslash in the name; pack it with forward slashes")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise BadPackage("a control character in the name")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise BadPackage("a name that leads out of the package")
    if len(parts) > DEPTH_MAX:
        raise BadPackage(f"more than {DEPTH_MAX} directories deep")
    if len(name.encode()) > PATH_BYTES_MAX or any(len(part.encode()) > NAME_BYTES_MAX for part in parts):
        raise BadPackage(f"a name of more than {NAME_BYTES_MAX} bytes, or {PATH_BYTES_MAX:,} with its directories")
    return parts


def shown(name: str) -> str:
    """A name as errors show it."""
    return repr(name if len(name) <= 120 else f"{name[:117]}...")


def _kind(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & _ENCRYPTED:
        raise BadPackage("encrypted")
    if info.compress_type not in _METHODS:
        raise BadPackage("compressed with another method than deflate")
    mode = info.external_attr >> 16  # 0 where the packer knows of no modes
    if info.orig_filename.endswith("/"):
        return DIRECTORY
    if stat.S_ISLNK(mode):
        return LINK
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise BadPackage("neither a file, a directory nor a symbolic link")
    return PROGRAM if mode & 0o111 else FILE


def _target(content: bytes, parts: Parts) -> str:
    """Where a symbolic link leads: any number of `..` first, fewer than would lead out, and none after that.

    The link itself lies in real directories, so these `..` are what they seem; what follows goes down only, and a link
    on that way is such a link again.
    """
    try:
        target = content.decode()
    except UnicodeDecodeError:
        raise BadPackage("a symbolic link to a name that is not UTF-8") from None
    steps = target.split("/")
    up = next((index for index, step in enumerate(steps) if step != ".."), len(steps))
    if "" in steps[:-1] or not target or up > len(parts) - 1 or ".." in steps[up:]:
        raise BadPackage(f"a symbolic link that leads out of the package: {shown(target)}")
    if len(content) > PATH_BYTES_MAX or "\0" in target:
        raise BadPackage("a symbolic link to a name that cannot be")
    return target


def _inflated_max(archive: zipfile.ZipFile) -> int:
    """How much may come out of a zip."""
    assert archive.fp is not None
    return max(RATIO_FREE_BYTES, RATIO_MAX * archive.fp.seek(0, os.SEEK_END))
