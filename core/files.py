"""Small text files that an operator wrote, read whole; and names for paths that are too long for a socket.

Bounded in size and number, because a wrong path must give an error and not fill the memory. Will not look
into sub-directories, nor at hidden files (editors keep half-written copies there), nor at what the texts say.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import ConfigurationError

FILE_BYTES_MAX = 1_048_576  # thousands of rules; a text beyond it was not written by hand
FILES_MAX = 1_000  # AWS allows 1,000 rules per account, and one rule per file is the finest split
SUFFIXES = frozenset((".yaml", ".yml", ".json"))
TESTS = tuple(f".test{suffix}" for suffix in sorted(SUFFIXES))  # `hot.test.yaml` stands beside the `hot.yaml` it tests


def read_texts(paths: Path | Iterable[Path]) -> dict[str, str]:
    """The texts by path: of files that are named, and of every YAML and JSON file of directories but tests, sorted.

    UTF-8, with or without a byte order mark. Raises ConfigurationError with everything that cannot be read.
    """
    problems: list[str] = []
    files: list[Path] = []
    for path in [paths] if isinstance(paths, Path) else paths:
        try:
            files += _files(path)
        except (OSError, ValueError) as error:
            problems.append(f"{path}: {_reason(error)}")
    if len(files) > FILES_MAX:
        raise ConfigurationError("files", [f"{len(files):,} of them; at most {FILES_MAX:,} are read"])
    texts: dict[str, str] = {}
    for file in files:
        try:
            texts[str(file)] = _text(file)
        except (OSError, ValueError) as error:
            problems.append(f"{file}: {_reason(error)}")
    if problems:
        raise ConfigurationError("cannot read", problems)
    return texts


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = [file for file in path.iterdir() if file.suffix in SUFFIXES and not file.name.startswith(".")]
        # A link to nothing counts, so that reading it says so: a rule of it would be missed by nobody.
        files = [file for file in found if file.is_file() or (file.is_symlink() and not file.exists())]
        return sorted(file for file in files if not file.name.endswith(TESTS))
    if not path.exists():
        raise ValueError("there is no such file or directory")
    if not path.is_file():
        raise ValueError("neither a file nor a directory")
    return [path]


def _text(file: Path) -> str:
    if file.is_symlink() and not file.exists():
        raise ValueError("a symbolic link to nothing")
    with file.open("rb") as stream:
        content = stream.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise ValueError(f"larger than {FILE_BYTES_MAX:,} bytes")
    return content.decode("utf-8-sig")


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text: {error.reason} at byte {error.start:,}"
    return str(error)


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A name for `path` that fits into a socket address, however long `path` is."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
