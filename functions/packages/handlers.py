"""Whether a version's handler can be found where its runtime will look for it. Looks at names of files, runs nothing.

Python imports the module from the package, from what requirements.txt named, or from a layer; Node loads a file of the
package, or a module of a `node_modules`. Who puts `bootstrap` there decides itself what its handler's name means.

Will not look whether the file has such a function: exports may be made in any way.
"""

import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from core.errors import ConfigurationError
from functions.manifest import Manifest
from functions.runtimes import NODE_MODULES, is_provided, node_version, python_version

Listing = Callable[[str], Iterable[str]]
"""The names in a directory of a package, "" being its top; none where there is no such directory."""

SHOWN_MAX = 5  # files that a complaint names

_PYTHON_FILE = r"(?:\.[\w-]+)?\.(?:py|pyc|so)"  # with the tag of a compiled module
_NODE_FILE = r"(?:\.(?:js|mjs|cjs))?"


def of_archive(archive: zipfile.ZipFile) -> Listing:
    """What a packed directory has."""
    names = [name.removeprefix("./") for name in archive.namelist()]

    def listed(directory: str) -> set[str]:
        start = f"{directory}/" if directory else ""
        return {name[len(start) :].partition("/")[0] for name in names if name.startswith(start)} - {""}

    return listed


def of_directory(root: Path) -> Listing:
    """What a directory has."""

    def listed(directory: str) -> list[str]:
        try:
            return os.listdir(root / directory)
        except OSError:
            return []

    return listed


def check(manifest: Manifest, code: Listing, layers: Listing, required: Listing | None = None) -> None:
    """Raises ConfigurationError when no file can be the handler's. `required` is what requirements.txt brought."""
    runtime, handler = manifest.runtime, manifest.handler
    if is_provided(runtime):
        return
    module, dot, function = handler.rpartition(".")
    if not (module and dot and function):
        near = handler.rpartition("/")[2].strip(".") or "app"
        words = f"write FILE.FUNCTION, as {near}.handler for handler in {near}{_suffix(runtime)}"
        raise ConfigurationError(manifest.name, [f"Handler {handler}: {words}"])
    if manifest.environment.keys() & {"PYTHONPATH", "NODE_PATH"}:
        return  # it may be anywhere
    if (version := python_version(runtime)) is not None:
        found = _has_python(module.replace(".", "/"), _python_places(version, code, layers, required))
    elif (major := node_version(runtime)) is not None:
        directory, _, last = handler.rpartition("/")
        module = "/".join(filter(None, (directory, last.partition(".")[0])))
        found = _has_node(module, major, code, layers)
    else:
        return
    if not found:
        raise ConfigurationError(manifest.name, [_complaint(manifest, module.replace(".", "/"), code)])


def _has_python(path: str, places: Iterator[tuple[Listing, str]]) -> bool:
    directory, _, stem = path.rpartition("/")
    file = re.compile(re.escape(stem) + _PYTHON_FILE)
    for listing, root in places:
        below = "/".join(filter(None, (root, directory)))
        if any(file.fullmatch(name) for name in listing(below)):
            return True
        if any(re.fullmatch(f"__init__{_PYTHON_FILE}", name) for name in listing(f"{below}/{stem}".lstrip("/"))):
            return True
    return False


def _python_places(
    version: str, code: Listing, layers: Listing, required: Listing | None
) -> Iterator[tuple[Listing, str]]:
    """As PYTHONPATH has them."""
    yield code, ""
    if required is not None:
        yield required, ""
    yield layers, f"python/lib/python{version}/site-packages"
    yield layers, "python"


def _has_node(path: str, major: int, code: Listing, layers: Listing) -> bool:
    directory, _, stem = path.rpartition("/")
    if any(re.fullmatch(re.escape(stem) + _NODE_FILE, name) for name in code(directory)):  # or its directory
        return True
    first = path.partition("/")[0]
    modules = (code("node_modules"), layers("nodejs/node_modules"), layers(f"nodejs/node{major}/node_modules"))
    return any(first in names for names in modules) or any(Path(place, first).exists() for place in NODE_MODULES)


def _complaint(manifest: Manifest, path: str, code: Listing) -> str:
    suffix = _suffix(manifest.runtime)
    there = sorted(name for name in code("") if name.endswith((suffix, *(() if suffix == ".py" else (".mjs", ".cjs")))))
    shown = ", ".join(there[:SHOWN_MAX]) + (", …" if len(there) > SHOWN_MAX else "")
    more = f"at its top there is {shown}" if shown else f"at its top there is no {suffix} file at all"
    words = f"the package has no {path}{suffix}; {more}"
    return f"Handler {manifest.handler}: {words}. Correct Handler, or the directory that is packed (CodeUri)"


def _suffix(runtime: str) -> str:
    return ".py" if runtime.startswith("python") else ".js"
