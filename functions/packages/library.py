"""The functions of a machine, on disk: immutable numbered versions, and the aliases that say which of them runs.

    DIRECTORY/NAME/versions/7/manifest.json     what is known of the version (`functions.manifest`)
                             /code/             → /var/task
                             /layers/           → /opt; empty when there are none
                             /site-packages/    what requirements.txt asked for; not there when it asked for nothing
                             /rules.json        rules of its template, if it has any
    DIRECTORY/NAME/aliases.json                 {"$LATEST": 7, "live": 7}: a function is there when this is
    DIRECTORY/NAME/next                         the number of the next version

A version is made in a hidden directory beside, synced file by file, renamed, and then named by the aliases, whose file
is replaced whole. So a kill or a power cut leaves what was or what is meant, and readers need no lock.

Will not make versions (`functions.packages.staging`), nor read templates. What root changes belongs to the owner of the
directory (`core.directory.as_owner`); who can reach it may read it.

Invariants:
1. A version that has a number never changes, and no number is given twice, not after `remove` either.
2. `aliases.json` names only versions that are whole; `$LATEST` is always among them.
3. The newest `VERSIONS_KEPT` versions are kept, and every one that an alias names.
4. A damaged file costs its own function only; `problems` names it.
"""

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from core import directory as disk
from core.faults import describe
from functions.errors import FunctionNotFound, InvalidParameter
from functions.manifest import Manifest
from functions.names import LATEST, FunctionName, is_alias, is_version
from functions.packages.environments import Progress, silent
from functions.packages.errors import DamagedPackage, InUse
from functions.packages.staging import (
    CODE,
    LAYERS,
    RULES,
    SITE_PACKAGES,
    TEXT_BYTES_MAX,
    Draft,
    open_sources,
    stage,
    sync,
    write,
)
from functions.packages.tree import DIRECTORY_MODE, FILE_MODE

VERSIONS_KEPT = 20  # beside those that aliases name
ALIASES_MAX = 100  # of one function; people name them
FUNCTIONS_MAX = 1_000  # a box runs dozens
CACHED_MAX = 4_096  # files whose content is remembered

MANIFEST, ALIASES, NEXT, VERSIONS = "manifest.json", "aliases.json", "next", "versions"

T = TypeVar("T")
_STAGING, _REMOVED = ".staging-", ".removed-"
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Package:
    """A version on disk."""

    manifest: Manifest
    path: Path

    @property
    def function(self) -> FunctionName:
        """Its name, with the number as qualifier."""
        return FunctionName(self.manifest.name, str(self.manifest.version))

    @property
    def code(self) -> Path:
        """What a worker sees as /var/task."""
        return self.path / CODE

    @property
    def layers(self) -> Path:
        """What a worker sees as /opt; an empty directory without layers."""
        return self.path / LAYERS

    @property
    def site_packages(self) -> Path | None:
        """What requirements.txt asked for; None when it asked for nothing."""
        return self.path / SITE_PACKAGES if self.manifest.site_packages else None


class Library:
    """The functions below `directory`, which need not be there yet."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._cache: dict[Path, tuple[tuple[int, ...], Any]] = {}  # file → its signature, what it says

    # Reading, for everybody, without a lock.

    def names(self) -> list[str]:
        """Every function that is there, sorted. Raises DamagedPackage when the directory cannot be read."""
        try:
            found = [name for name in os.listdir(self._directory) if _NAME.fullmatch(name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DamagedPackage(f"{self._directory}: {error.strerror}") from None
        return sorted(name for name in found if (self._directory / name / ALIASES).exists())

    def aliases(self, name: str) -> dict[str, int]:
        """Which version each alias names, $LATEST included. Raises FunctionNotFound, DamagedPackage."""
        try:
            return dict(self._read(self._home(name) / ALIASES, _parse_aliases))
        except FileNotFoundError:
            raise _not_found(FunctionName(name)) from None

    def versions(self, name: str) -> list[Package]:
        """Every version, the oldest first. Raises FunctionNotFound, DamagedPackage."""
        self.aliases(name)
        packages = []
        for number in self._numbers(name):
            with suppress(FileNotFoundError):  # removed meanwhile
                packages.append(self._package(name, number))
        return packages

    def find(self, name: FunctionName) -> Package:
        """The version that a qualified name means. Raises FunctionNotFound, DamagedPackage."""
        before: dict[str, int] = {}
        while True:
            aliases = self.aliases(name.name)
            number = int(name.qualifier) if is_version(name.qualifier) else aliases.get(name.qualifier)
            if number is None:
                raise _not_found(name)
            try:
                return self._package(name.name, number)
            except FileNotFoundError:
                if is_version(name.qualifier):
                    raise _not_found(name) from None
            if aliases == before:
                raise DamagedPackage(f"{self._home(name.name) / ALIASES}: there is no version {number}")
            before = aliases  # it may have been removed since we read of it

    def current(self) -> list[Package]:
        """For each function the version that events go to; damaged ones are left out, see `problems`.

        That is the one which the alias of the $LATEST manifest names (AutoPublishAlias), else $LATEST.
        """
        return [package for package, _ in self._survey()[0]]

    def rules(self) -> dict[str, str]:
        """The rules of the current versions: the text of each `rules.json` by its path."""
        return {str(package.path / RULES): text for package, text in self._survey()[0] if text is not None}

    def problems(self) -> list[str]:
        """Why functions are left out of `current`, one line each."""
        return self._survey()[1]

    def stamp(self) -> frozenset[tuple[Any, ...]]:
        """Differs from the one before when something was deployed, pointed elsewhere or removed."""
        found: set[tuple[Any, ...]] = set()
        for name in self.names():
            with suppress(OSError):
                found.add((name, *_signature(os.stat(self._home(name) / ALIASES))))
        return frozenset(found)

    # Changing, by commands; one at a time for each function.

    def install(self, draft: Draft, progress: Progress = silent) -> Package:
        """Make a version of the draft, and let $LATEST and the alias of its manifest name it.

        Raises BadPackage, ConfigurationError for what cannot run on this machine, and StorageError when the disk
        refuses; then the aliases are as they were.
        """
        name = draft.manifest.name
        with open_sources(draft) as sources, self._making(name) as home:
            place = Path(tempfile.mkdtemp(prefix=_STAGING, dir=home))
            try:
                place.chmod(DIRECTORY_MODE)
                manifest = stage(draft, sources, place, progress)
                numbered = {"version": self._take_number(name), "created_ms": time.time_ns() // 1_000_000}
                manifest = manifest.model_copy(update=numbered)
                write(place / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
                sync(place)
                self._publish(manifest, place, progress)
            finally:
                _delete(place)
        return Package(manifest, home / VERSIONS / str(manifest.version))

    def point(self, name: str, alias: str, version: int) -> None:
        """Let an alias, or $LATEST, name a version.

        Raises FunctionNotFound, InvalidParameter, DamagedPackage, StorageError.
        """
        if alias != LATEST and not is_alias(alias):
            raise InvalidParameter(f"{alias[:200]!r} can be no alias: letters, digits, _ and -, and not digits alone")
        with self._changing(name) as aliases:
            self.find(FunctionName(name, str(version)))
            if len(aliases | {alias: version}) > ALIASES_MAX:
                raise InvalidParameter(f"{name} has {ALIASES_MAX} aliases; no more are kept")
            self._write_aliases(name, aliases | {alias: version})

    def unalias(self, name: str, alias: str) -> None:
        """Forget an alias. Raises FunctionNotFound, InvalidParameter for $LATEST, DamagedPackage, StorageError."""
        if alias == LATEST:
            raise InvalidParameter(f"{LATEST} is always there; remove the function instead")
        with self._changing(name) as aliases:
            if aliases.pop(alias, None) is None:
                raise _not_found(FunctionName(name, alias))
            self._write_aliases(name, aliases)

    def remove(self, name: str, version: int | None = None) -> None:
        """Remove a version that no alias names, or the function whole; its numbers are not given again.

        Raises FunctionNotFound, InUse, DamagedPackage (of a version's aliases only), StorageError.
        """
        if version is None:
            self._remove_whole(name)
            return
        with self._changing(name) as aliases:
            if version not in self._numbers(name):
                raise _not_found(FunctionName(name, str(version)))
            if naming := [alias for alias, number in aliases.items() if number == version]:
                raise InUse(f"{name}:{version} is what {', '.join(sorted(naming))} names")
            self._retire(name, version)

    # How it is read.

    def _home(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise _not_found(FunctionName(name[:200]))
        return self._directory / name

    def _numbers(self, name: str) -> list[int]:
        try:
            return sorted(int(entry) for entry in os.listdir(self._home(name) / VERSIONS) if is_version(entry))
        except FileNotFoundError:
            return []

    def _package(self, name: str, number: int) -> Package:
        """Raises FileNotFoundError when there is no such version."""
        path = self._home(name) / VERSIONS / str(number)
        manifest = self._read(path / MANIFEST, _parse_manifest)
        if (manifest.name, manifest.version) != (name, number):
            raise DamagedPackage(f"{path / MANIFEST}: is of {manifest.name}:{manifest.version}")
        return Package(manifest, path)

    def _survey(self) -> tuple[list[tuple[Package, str | None]], list[str]]:
        """Every function's current version with its rules, and what is wrong with the others."""
        found: list[tuple[Package, str | None]] = []
        problems: list[str] = []
        try:
            names = self.names()
        except DamagedPackage as error:
            return [], [str(error)]
        for name in names:
            try:
                package = self._current(name)
                rules = None
                with suppress(FileNotFoundError):
                    rules = self._read(package.path / RULES, str)
                found.append((package, rules))
            except DamagedPackage as error:
                problems.append(str(error))
            except FunctionNotFound:  # removed meanwhile
                continue
        return found, problems

    def _current(self, name: str) -> Package:
        latest = self.find(FunctionName(name))
        alias = latest.manifest.alias
        if alias is None or alias not in self.aliases(name):
            return latest
        return self.find(FunctionName(name, alias))

    def _read(self, path: Path, parse: Callable[[str], T]) -> T:
        """What a file says, as remembered while it is the same file. Raises DamagedPackage and FileNotFoundError."""
        try:
            signature, known = self._cache.get(path, ((), None))
            if signature and signature == _signature(os.stat(path)):
                return cast(T, known)
            with path.open("rb") as file:
                signature = _signature(os.fstat(file.fileno()))
                content = file.read(TEXT_BYTES_MAX + 1)
            if len(content) > TEXT_BYTES_MAX:
                raise ValueError(f"more than {TEXT_BYTES_MAX:,} bytes")
            meaning = parse(content.decode())
        except FileNotFoundError:
            self._cache.pop(path, None)
            raise
        except (OSError, ValueError) as error:
            raise DamagedPackage(f"{path}: {error.strerror if isinstance(error, OSError) else error}") from None
        if len(self._cache) >= CACHED_MAX:
            self._cache.clear()
        self._cache[path] = signature, meaning
        return meaning

    # How it is changed.

    @contextmanager
    def _owned(self, name: str) -> Iterator[Path]:
        """Act as the owner of the directory, and call what the disk refuses by our names."""
        home = self._home(name)
        with disk.as_owner(self._directory):
            try:
                yield home
            except OSError as error:
                raise disk.refused(Path(error.filename or home), error) from None

    @contextmanager
    def _making(self, name: str) -> Iterator[Path]:
        """Be the only one who makes versions of a function, with nothing left over of those who were killed."""
        with self._owned(name) as home:
            self._directory.parent.mkdir(parents=True, exist_ok=True)
            for directory in (self._directory, home, home / VERSIONS):
                if directory == home and not home.exists() and len(self.names()) >= FUNCTIONS_MAX:
                    raise InvalidParameter(f"{self._directory} has {FUNCTIONS_MAX:,} functions; no more are kept")
                if not directory.exists():
                    directory.mkdir(exist_ok=True)
                    directory.chmod(DIRECTORY_MODE)
                    disk.sync(directory.parent)
            with disk.locked(home / VERSIONS):
                self._sweep(home)
                yield home

    @contextmanager
    def _changing(self, name: str) -> Iterator[dict[str, int]]:
        """Be the only one who changes aliases of a function; a deployment that takes minutes is not waited for."""
        self.aliases(name)
        with self._owned(name) as home, disk.locked(home):
            yield self.aliases(name)

    def _take_number(self, name: str) -> int:
        """The next number, which is nobody else's from now on, whatever becomes of the version."""
        path = self._home(name) / NEXT
        number = max((1, *(number + 1 for number in self._numbers(name))))
        with suppress(FileNotFoundError):
            number = max(number, self._read(path, _parse_next))
        disk.write(path, f"{number + 1}\n", FILE_MODE)
        return number

    def _publish(self, manifest: Manifest, place: Path, progress: Progress) -> None:
        name, number = manifest.name, manifest.version
        home = self._home(name)
        with disk.locked(home):
            aliases: dict[str, int] = {}
            try:
                aliases = self.aliases(name)
            except FunctionNotFound:
                pass
            except DamagedPackage as error:
                progress(f"{error}; it is written anew, with {LATEST} only")
            place.rename(home / VERSIONS / str(number))
            disk.sync(home / VERSIONS)
            aliases |= {LATEST: number} | ({manifest.alias: number} if manifest.alias else {})
            self._write_aliases(name, aliases)
            kept = {*self._numbers(name)[-VERSIONS_KEPT:], *aliases.values()}
            for old in self._numbers(name):
                if old not in kept:
                    self._retire(name, old)

    def _write_aliases(self, name: str, aliases: Mapping[str, int]) -> None:
        disk.write(self._home(name) / ALIASES, json.dumps(aliases, sort_keys=True) + "\n", FILE_MODE)

    def _retire(self, name: str, number: int) -> None:
        """Take a version away, all of it at once."""
        home = self._home(name)
        removed = home / f"{_REMOVED}{number}"
        (home / VERSIONS / str(number)).rename(removed)
        disk.sync(home / VERSIONS)
        _delete(removed)

    def _remove_whole(self, name: str) -> None:
        if not (self._home(name) / ALIASES).exists():
            raise _not_found(FunctionName(name))
        with self._owned(name) as home, disk.locked(home / VERSIONS), disk.locked(home):
            (home / ALIASES).unlink(missing_ok=True)  # from here on there is no such function
            disk.sync(home)
            self._sweep(home)

    def _sweep(self, home: Path) -> None:
        """Delete what was left half made or half removed; and without aliases, every version."""
        for path in home.iterdir():
            if path.name.startswith((_STAGING, _REMOVED)):
                _delete(path)
        if not (home / ALIASES).exists():
            for number in self._numbers(home.name):
                self._retire(home.name, number)


def _parse_manifest(text: str) -> Manifest:
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise ValueError("; ".join(describe(error, json.loads(text), Manifest))) from None


def _parse_aliases(text: str) -> dict[str, int]:
    found = json.loads(text)
    if not isinstance(found, dict) or LATEST not in found:
        raise ValueError(f"no JSON object with {LATEST}")
    for alias, number in found.items():
        if (alias != LATEST and not is_alias(alias)) or type(number) is not int or number < 1:
            raise ValueError(f"{alias[:200]!r}: {number!r} is no alias with its version")
    return found


def _parse_next(text: str) -> int:
    if not is_version(text.strip()):
        raise ValueError("no number; write a number into it that no version has had")
    return int(text)


def _signature(found: os.stat_result) -> tuple[int, ...]:
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _not_found(name: FunctionName) -> FunctionNotFound:
    return FunctionNotFound(f"Function not found: {name.arn()}")


def _delete(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
