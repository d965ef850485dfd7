"""What Python code imports that nothing in its package provides, because AWS's runtime or Greengrass's core brings it.

Reads the source, never runs it; what does not parse, or is beyond the bounds, is passed over: the handler will say.
Only top-level names count, wherever the import stands. The deploy command adds what is missing to the requirements.

Will not look for anything else that is missing: on AWS it would be missing too.

Invariant: at most `SOURCES_MAX` files and `SOURCE_BYTES_MAX` bytes of them are parsed, the shallowest first.
"""

import ast
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from functions.packages.archive import BROKEN, opened, text_of

SOURCES_MAX = 2_000
SOURCE_BYTES_MAX = 16 << 20  # of all; parsing it takes a PC some seconds
FILE_BYTES_MAX = 1 << 20  # beyond it, a table that a program wrote

# What Lambda's Python runtimes have beside the standard library, and Greengrass V1's core; by the module's name.
PROVIDED = {
    "boto3": "boto3",
    "botocore": "botocore",
    "dateutil": "python-dateutil",
    "greengrasssdk": "greengrasssdk==1.6.1",
    "jmespath": "jmespath",
    "s3transfer": "s3transfer",
    "six": "six",
    "urllib3": "urllib3",
}
WITH_BOTO3 = frozenset(("botocore", "dateutil", "jmespath", "s3transfer", "six", "urllib3"))
WITH_BOTOCORE = frozenset(("dateutil", "jmespath", "six", "urllib3"))

_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_DIST_INFO = re.compile(r"([^/]+?)-[^/-]+\.(?:dist|egg)-info/")
_PYTHON_ROOTS = re.compile(r"python/(?:lib/python3\.\d+/site-packages/)?", re.ASCII)  # of a layer


def missing(code: Path | str, layers: Sequence[Path] = (), requirements: Iterable[str] = ()) -> list[str]:
    """Requirements for what the code imports and only AWS's runtime brings, sorted.

    `code` is a directory, a zip, or the text of InlineCode for Python. Raises BadPackage for what cannot be opened.
    """
    with ExitStack() as stack:
        archive = stack.enter_context(opened(code, "python"))
        beside = [stack.enter_context(opened(layer)) for layer in layers]
        imported = {module for source in _sources(archive) for module in imports(source)}
        there = _modules(archive.namelist())
        for layer in beside:
            there |= _modules(_PYTHON_ROOTS.sub("", name, count=1) for name in layer.namelist())
    asked = {normal_name(line) for line in requirements}
    there |= {module for module, requirement in PROVIDED.items() if normal_name(requirement) in asked}
    wanted = (imported & PROVIDED.keys()) - there
    wanted -= WITH_BOTO3 if "boto3" in wanted | there else frozenset()
    wanted -= WITH_BOTOCORE if "botocore" in wanted | there else frozenset()
    return sorted(PROVIDED[module] for module in wanted)


def requirements(code: Path) -> list[str]:
    """The lines of the package's requirements.txt, without those whose package lies unpacked in it already.

    `sam build` and `pip install --target` leave both in one place. Raises BadPackage for what cannot be opened.
    """
    with opened(code) as archive:
        bundled = {normal_name(found[1]) for name in archive.namelist() if (found := _DIST_INFO.match(name))}
        lines = _logical_lines(text_of(archive, "requirements.txt"))
        return [line for line in lines if normal_name(line) not in bundled]


def imports(source: bytes) -> set[str]:
    """The top-level modules that a source names in imports; none when it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the compiler thinks of it is not for the one who deploys
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return found


def normal_name(requirement: str) -> str:
    """The name in a line of requirements, as the index compares names (PEP 503); "" for an option."""
    found = _NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", found[1]).lower() if found else ""


def _sources(archive: zipfile.ZipFile) -> Iterator[bytes]:
    names = [name for name in archive.namelist() if name.endswith(".py")]
    left = SOURCE_BYTES_MAX
    for name in sorted(names, key=lambda name: (name.count("/"), name))[:SOURCES_MAX]:
        try:
            with archive.open(name) as file:
                source = file.read(min(left, FILE_BYTES_MAX) + 1)
        except BROKEN:
            continue
        if len(source) <= min(left, FILE_BYTES_MAX):
            left -= len(source)
            yield source


def _modules(names: Iterable[str]) -> set[str]:
    """The top-level modules and packages among names of files."""
    tops = {name.partition("/")[0] if "/" in name else name.partition(".")[0] for name in names}
    return tops - {""}


def _logical_lines(text: str) -> list[str]:
    """The lines of a requirements.txt, continued ones joined, without comments."""
    joined = re.sub(r"\\\r?\n", " ", text)
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line]
