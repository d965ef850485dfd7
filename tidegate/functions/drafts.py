"""What `tidegate functions deploy` was given, as drafts of versions: a template's functions, or one bare package.

Adds to the requirements what AWS's runtime brings and the package lacks, and says so. Reads packages, changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from core.cli import err, print_fault
from core.errors import ConfigurationError, TidegateError
from core.files import SUFFIXES, read_texts
from core.topics import check_filter
from functions.packages import scanning
from functions.packages.staging import Draft
from tidegate.functions import template
from tidegate.functions.described import Described
from tidegate.functions.options import Site
from tidegate.functions.properties import known_runtime

TEMPLATES = ("template.yaml", "template.yml", "template.json")  # what `sam deploy` looks for


@dataclass(frozen=True, slots=True)
class Options:
    """What a package without a template says of itself on the command line."""

    name: str = ""
    runtime: str = ""
    handler: str = ""
    timeout: int = 3
    memory: int = 128
    environment: Sequence[str] = ()
    topics: Sequence[str] = ()
    pinned: bool = False
    alias: str = ""


def described_in(path: Path, site: Site, options: Options, only: frozenset[str]) -> list[Described]:
    """The functions of a template, or the one that the options describe; warnings are told."""
    if not path.exists():
        raise TidegateError(f"{path}: there is no such file or directory")
    found = _template(path)
    if found is None or options.name:
        return [_of_options(path, options)]
    if options.handler or options.runtime:
        raise typer.BadParameter("with a template, runtime and handler stand there; --name deploys a bare package")
    [(file, text)] = read_texts([found]).items()
    read = template.read(Path(file), text, site.account, supported=site.actions, only=only)
    for warning in read.warnings:
        print_fault(warning, "yellow")
    return read.functions


def _template(path: Path) -> Path | None:
    """The template that a path means, if it means one."""
    if path.is_dir():
        return next((file for name in TEMPLATES if (file := path / name).is_file()), None)
    return path if path.suffix in SUFFIXES else None


def _of_options(path: Path, options: Options) -> Described:
    if not options.name or not options.runtime or not options.handler:
        expected = f"{path} has no template (template.yaml)" if path.is_dir() else f"{path} is no template"
        raise typer.BadParameter(f"{expected}: say --name, --runtime and --handler")
    pairs = [text.partition("=") for text in options.environment]
    if missing := next((key for key, equals, _ in pairs if not key or not equals), None):
        raise typer.BadParameter(f"{missing!r}: write KEY=VALUE")
    try:
        known_runtime(options.runtime)
        for topic in options.topics:
            check_filter(topic)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    facts: dict[str, Any] = {
        "runtime": options.runtime, "handler": options.handler, "timeout": options.timeout,
        "memory_mb": options.memory, "environment": {key: value for key, _, value in pairs},
        "topics": tuple(options.topics), "pinned": options.pinned, "alias": options.alias or None,
    }  # fmt: skip
    if options.pinned:
        facts["concurrency"] = 1
    return Described(options.name, options.name, facts, code=path)


def draft(described: Described, wheels: Path | None, *, install: bool) -> Draft:
    """What becomes a version; what the package lacks, but AWS's runtime brings, is added and said."""
    assert described.code is not None
    manifest, layers = described.manifest(), tuple(described.layers)
    requirements: list[str] = []
    if install and manifest.runtime.startswith("python"):
        if described.requirements is not None:
            requirements = _lines(described.requirements)
        elif isinstance(described.code, Path):
            requirements = scanning.requirements(described.code)
        added = scanning.missing(described.code, layers, requirements)
        if added:
            err.print(f"{manifest.name}: adds {', '.join(added)}, which AWS's runtime brings", soft_wrap=True)
        requirements += added
    return Draft(manifest, described.code, layers, tuple(requirements), wheels, rules=described.rules)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError("requirements", [f"{path}: {error}"]) from None
