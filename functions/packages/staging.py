"""A version being made: everything of it but its number, in a directory that is nobody's yet.

Code and layers are unpacked (`functions.packages.tree`), what cannot run here is refused (`functions.runtimes`),
requirements are installed and bytecode is compiled (`functions.packages.environments`). All together stays within
Lambda's 250 MB, bytecode not counted.

Will not name the version, nor keep anything when it fails: `functions.packages.library` does.
"""

import os
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from core import directory as disk
from functions import runtimes
from functions.manifest import Manifest
from functions.packages import environments, handlers
from functions.packages.archive import opened
from functions.packages.environments import Progress, silent
from functions.packages.errors import BadPackage
from functions.packages.tree import DIRECTORY_MODE, FILE_MODE, PROGRAM_MODE, Allowance, Tree

LAYERS_MAX = 5  # Lambda quotas
TEXT_BYTES_MAX = 1 << 20  # of a manifest, and of rules
SYNCED_ONE_BY_ONE = 50  # more files are written out together first, which spares an SD card a write for each

CODE, LAYERS, SITE_PACKAGES, RULES = "code", "layers", "site-packages", "rules.json"


@dataclass(frozen=True, slots=True)
class Draft:
    """What becomes a version.

    Of the manifest `version`, `python`, `site_packages`, `layers`, `code_sha256`, `code_bytes` and `created_ms` are
    filled in; `version` may be any number. `code` is a directory, a zip, or the text of InlineCode. `requirements` are
    the lines of a requirements.txt, installed from the directory `wheels` alone where there is one. `python` is the
    interpreter, by default the one that `environments.find_interpreter` finds, whose warning is told as progress.
    """

    manifest: Manifest
    code: Path | str
    layers: tuple[Path, ...] = ()
    requirements: tuple[str, ...] = ()
    wheels: Path | None = None
    python: str | None = None
    rules: str | None = None


@dataclass(frozen=True, slots=True)
class Sources:
    """The draft's files, opened by whoever deploys, who may be allowed to read more than who owns the library."""

    code: zipfile.ZipFile
    layers: tuple[zipfile.ZipFile, ...]


@contextmanager
def open_sources(draft: Draft) -> Iterator[Sources]:
    """Open what the draft names. Raises BadPackage."""
    if len(draft.layers) > LAYERS_MAX:
        raise BadPackage(f"{len(draft.layers)} layers; at most {LAYERS_MAX}")
    if len((draft.rules or "").encode()) > TEXT_BYTES_MAX:
        raise BadPackage(f"rules of more than {TEXT_BYTES_MAX:,} bytes")
    with ExitStack() as stack:
        code = stack.enter_context(opened(draft.code, draft.manifest.runtime))
        yield Sources(code, tuple(stack.enter_context(opened(layer)) for layer in draft.layers))


def rehearse(draft: Draft) -> list[str]:
    """Refuse what could not run here, before anything of it is in the library; returns what is worth a warning.

    A handler that requirements may bring is looked for when they are installed. Raises BadPackage, ConfigurationError.
    """
    with open_sources(draft) as sources, tempfile.TemporaryDirectory(prefix="tidegate-") as place:
        code, layers = Tree(Path(place, CODE), Allowance()), Tree(Path(place, LAYERS), Allowance())
        if runtimes.is_provided(draft.manifest.runtime):  # of the others the files need not be read
            _unpack(draft, sources, code, layers)
        warnings = runtimes.check(draft.manifest, code.destination, layers.destination)
        if not draft.requirements:
            beside = [handlers.of_archive(archive) for archive in sources.layers]

            def layered(directory: str) -> set[str]:
                return {name for listing in beside for name in listing(directory)}

            handlers.check(draft.manifest, handlers.of_archive(sources.code), layered)
        return warnings


def stage(draft: Draft, sources: Sources, place: Path, progress: Progress = silent) -> Manifest:
    """Fill the directory `place`; the manifest with all that is known now.

    Raises BadPackage, ConfigurationError for what cannot run on this machine, and OSError of the disk.
    """
    allowance = Allowance()
    code, layers = Tree(place / CODE, allowance), Tree(place / LAYERS, allowance)
    _unpack(draft, sources, code, layers)
    for warning in runtimes.check(draft.manifest, code.destination, layers.destination):
        progress(warning)
    if draft.rules is not None:
        write(place / RULES, draft.rules)
    python = _prepare(draft, place, allowance, progress)
    listed = (handlers.of_directory(place / name) for name in (CODE, LAYERS, SITE_PACKAGES))
    handlers.check(draft.manifest, *listed)
    return draft.manifest.model_copy(
        update={
            "python": python,
            "site_packages": bool(draft.requirements),
            "layers": len(draft.layers),
            "code_sha256": code.sha256,
            "code_bytes": code.bytes,
        }
    )


def write(path: Path, text: str) -> None:
    """A new file that everybody may read."""
    path.write_text(text, encoding="utf-8")
    path.chmod(FILE_MODE)


def sync(place: Path) -> None:
    """Have every file and directory of a tree on the disk. Raises OSError."""
    found = [(Path(directory), names) for directory, _, names in os.walk(place, topdown=False)]
    if sum(len(names) for _, names in found) > SYNCED_ONE_BY_ONE:
        os.sync()
    for directory, names in found:
        for path in (directory / name for name in names):
            if path.is_symlink():  # part of its directory
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        disk.sync(directory)


def _unpack(draft: Draft, sources: Sources, code: Tree, layers: Tree) -> None:
    code.add(sources.code, "InlineCode" if isinstance(draft.code, str) else str(draft.code))
    for path, archive in zip(draft.layers, sources.layers, strict=True):
        layers.add(archive, str(path))


def _prepare(draft: Draft, place: Path, allowance: Allowance, progress: Progress) -> str | None:
    """Install and compile for a Python runtime; its interpreter."""
    if not draft.manifest.runtime.startswith("python"):
        if draft.requirements:
            raise BadPackage(f"requirements are for Python, not for the runtime {draft.manifest.runtime!r}")
        return None
    python = draft.python
    if python is None:
        found = environments.find_interpreter(draft.manifest.runtime)
        python = found.path
        if found.warning:
            progress(found.warning)
    if draft.requirements:
        environments.build(
            place / SITE_PACKAGES, draft.requirements, python, draft.wheels, base=place / CODE, progress=progress
        )
        _make_readable(place / SITE_PACKAGES, allowance)
    environments.compile_all([place / name for name in (CODE, LAYERS, SITE_PACKAGES)], python, progress)
    return python


def _make_readable(directory: Path, allowance: Allowance) -> None:
    """Give what pip installed our modes, whatever its packages say, and count it."""
    directory.chmod(DIRECTORY_MODE)
    for below, directories, names in os.walk(directory):
        for name in directories + names:
            path = Path(below, name)
            found = path.lstat()
            if stat.S_ISDIR(found.st_mode):
                path.chmod(DIRECTORY_MODE)
            elif stat.S_ISREG(found.st_mode):
                allowance.take(found.st_size)
                path.chmod(PROGRAM_MODE if found.st_mode & 0o111 else FILE_MODE)
