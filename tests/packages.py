"""Packages for tests: zips of exactly the entries that a test wants, drafts, and a program that deploys until it dies.

Run as a program (`python -m tests.packages deploy|kill …`) it does what must happen in a process of its own.
"""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from functions import packages
from functions.manifest import Manifest
from functions.names import LATEST, FunctionName
from functions.packages.library import Draft, Library
from tests.killing import Countdown

NAME = "press-alarm"
STEPS = {
    *("open", "os.chmod", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.listdir", "os.scandir"),
    *("shutil.rmtree", "fcntl.flock", "tempfile.mkdtemp", "tempfile.mkstemp"),
}  # audit events of everything that a deployment does on disk


def manifest(**fields: Any) -> Manifest:
    """The manifest of a function that needs no interpreter."""
    return Manifest(**{"name": NAME, "version": 1, "runtime": "provided.al2023", "handler": "h", **fields})


def bootstrap(directory: Path, text: str = "") -> Path:
    """A directory with a function in it, for a runtime of its own; `text` tells one from another."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "bootstrap").write_text(f"#!/bin/sh\n# {text}\n")
    (directory / "bootstrap").chmod(0o755)
    (directory / "lib").mkdir(exist_ok=True)
    (directory / "lib" / "words.txt").write_text(text)
    return directory


def entry(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    """An entry of a zip with the name as it is, which `ZipInfo` would tidy."""
    info = zipfile.ZipInfo("x")
    info.filename = info.orig_filename = name
    info.create_system = 3
    info.external_attr = mode << 16
    return info


def zipped(path: Path, *entries: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    """A zip of exactly these entries."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, content in entries:
            archive.writestr(entry(info) if isinstance(info, str) else info, content, zipfile.ZIP_DEFLATED)
    return path


def text_of(library: Library, qualifier: str = LATEST) -> str:
    """What tells the version apart that a reader is given, having looked that it is whole."""
    package = library.find(FunctionName(NAME, qualifier))
    words = (package.code / "lib" / "words.txt").read_text()
    assert (package.code / "bootstrap").read_text() == f"#!/bin/sh\n# {words}\n"
    assert package.manifest.description == words
    assert os.access(package.code / "bootstrap", os.X_OK)
    assert package.layers.is_dir()
    return words


def install(library: Library, source: Path, text: str, **fields: Any) -> int:
    """Deploy a version that says `text`; its number."""
    draft = Draft(manifest(description=text, **fields), bootstrap(source, text))
    return library.install(draft).manifest.version


class State(NamedTuple):
    """What there is after a kill, and after the next deployment."""

    found: str  # what $LATEST says; "nothing" without a function
    number: int  # that the next deployment was given
    next: str  # what $LATEST says then
    problems: list[str]
    left: list[str]  # in the function's directory


def _dies_at(step: int, act: Callable[[], object]) -> bool:
    """Whether a child was killed before the `step`-th thing that it did; if not, it has done them all."""
    child = os.fork()
    if child == 0:
        countdown, fsync, sync = Countdown(step), os.fsync, os.sync

        def heard(event: str, _: tuple[Any, ...]) -> None:
            if event in STEPS:
                countdown()

        os.fsync = lambda descriptor: (countdown(), fsync(descriptor))[1]  # type: ignore[func-returns-value]
        os.sync = lambda: (countdown(), sync())[1]  # type: ignore[func-returns-value]
        sys.addaudithook(heard)
        act()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
    return status != 0


def kill(action: str, directory: Path) -> None:
    """Do something to a library again and again, each time killed one step later; print what readers see then."""
    before, after = directory / "before", directory / "after"
    source = bootstrap(directory / "source", "new")
    library = Library(before)
    for text in ("oldest", "old"):
        install(library, directory / "made", text, alias="live")
    acts: dict[str, Callable[[Library], object]] = {
        "install": lambda library: library.install(Draft(manifest(description="new", alias="live"), source)),
        "point": lambda library: library.point(NAME, LATEST, 1),
        "remove": lambda library: library.remove(NAME),
        "remove-version": lambda library: library.remove(NAME, 1),
    }
    if action == "prune":
        action, packages.library.VERSIONS_KEPT = "install", 1
    step, killed = 0, True
    while killed:
        step += 1
        shutil.rmtree(after, ignore_errors=True)
        shutil.copytree(before, after)
        killed = _dies_at(step, lambda: acts[action](Library(after)))
        library = Library(after)
        found = text_of(library) if library.names() else "nothing"
        problems = library.problems()
        number = install(library, directory / "made", "next")
        left = sorted(path.name for path in (after / NAME).iterdir())
        state = State(found, number, text_of(library), problems + library.problems(), left)
        print(json.dumps(state._asdict()), flush=True)


def killed_at_every_step(action: str, directory: Path) -> list[State]:
    """Run `kill` as a program; what it saw after each."""
    command = [sys.executable, "-m", "tests.packages", "kill", action, str(directory)]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [State(**json.loads(line)) for line in done.stdout.splitlines()]


def deploy(directory: Path, source: Path, times: int) -> None:
    """Deploy so many versions; print their numbers."""
    for time in range(times):
        print(install(Library(directory), source, str(time)), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "kill":
        kill(sys.argv[2], Path(sys.argv[3]))
    else:
        deploy(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
