"""The Python of a version: which interpreter runs it, what its requirements.txt asks for, and bytecode for all of it.

Packages are installed into a plain directory (`pip install --target`), not into a virtual environment: a directory has
no paths of its own inside, so a worker finds it on `sys.path` wherever the sandbox shows it, read-only. pip is the
interpreter's, else the one beside Tidegate told to install for the interpreter (`pip --python`).

Bytecode is compiled once, at deploy (PEP 552, unchecked-hash): a version never changes, and its workers cannot write.

Will not decide what is required: the package says so, and `functions.packages.scanning` what it forgot.

Invariants:
1. A program is ended after `PIP_SECONDS_MAX` or `COMPILE_SECONDS_MAX`, with all that it started.
2. An interpreter other than the runtime's is never chosen without a `warning`.
3. What root runs for another user (`core.directory.as_owner`) runs as that user for good.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from functions.packages.errors import BadPackage

PIP_SECONDS_MAX = 1_800.0  # compiling a C extension on a Raspberry Pi takes minutes
COMPILE_SECONDS_MAX = 600.0  # 250 MB of Python, on a Raspberry Pi
PROBE_SECONDS_MAX = 10.0
OLDEST = (3, 9)  # that the workers' own code runs on
LINES_KEPT, LINE_CHARACTERS_MAX = 20, 2_000  # of a program's output, for the error message
REQUIREMENTS_MAX = 1_000  # lines
SYSTEM_PATH = "/usr/bin:/usr/local/bin"  # first, because a sandbox shows these to workers

Progress = Callable[[str], None]

_RUNTIME = re.compile(r"python(\d)\.(\d{1,2})", re.ASCII)
_PROBE = """
import json, os, sys, importlib.util
executable = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
print(json.dumps([executable, sys.version_info[:2], importlib.util.find_spec("pip") is not None]))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python of this machine: `warning` says why it is another one than the runtime names, "" when it is not."""

    path: str
    version: tuple[int, int]
    has_pip: bool
    warning: str = ""


def silent(line: str) -> None:
    """For who wants no progress."""


def find_interpreter(runtime: str) -> Interpreter:
    """The interpreter for a runtime such as python3.12: that version, or with a warning this machine's own Python.

    Looked for in `SYSTEM_PATH`, then on $PATH. Raises BadPackage when there is none of at least `OLDEST`.
    """
    found = _RUNTIME.fullmatch(runtime)
    if found is None:
        raise BadPackage(f"{runtime!r} is no Python runtime; python3.12 is one")
    wanted = int(found[1]), int(found[2])
    for candidate in _candidates(runtime):
        interpreter = probe(candidate)
        if interpreter is not None and interpreter.version == wanted:
            return interpreter
    for candidate in (*_candidates("python3"), sys.executable):
        other = probe(candidate)
        if other is not None and other.version >= OLDEST:
            has = ".".join(map(str, other.version))
            warning = f"{runtime} is not installed here; the function runs on Python {has} ({other.path})"
            return Interpreter(other.path, other.version, other.has_pip, warning)
    raise BadPackage(f"{runtime} is not installed here, nor any Python from {OLDEST[0]}.{OLDEST[1]} on")


def probe(path: str) -> Interpreter | None:
    """What an interpreter is; None for a program that does not answer as one. A virtual environment gives its base."""
    user, group = _identity()
    try:
        done = subprocess.run(
            [path, "-I", "-c", _PROBE], capture_output=True, timeout=PROBE_SECONDS_MAX, check=True,
            stdin=subprocess.DEVNULL, cwd="/", user=user, group=group,
        )  # fmt: skip
        executable, (major, minor), has_pip = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError, TypeError):
        return None
    return Interpreter(executable, (major, minor), has_pip)


def build(
    directory: Path,
    requirements: Sequence[str],
    interpreter: str,
    wheels: Path | None = None,
    *,
    base: Path | None = None,
    progress: Progress = silent,
) -> None:
    """Install the lines of a requirements.txt into a new `directory`; with `wheels`, from that directory alone.

    Lines that name files mean those below `base`. Raises BadPackage with the end of pip's output.
    """
    if len(requirements) > REQUIREMENTS_MAX:
        raise BadPackage(f"more than {REQUIREMENTS_MAX:,} requirements")
    pip = _pip(interpreter)
    source = ["--no-index", "--find-links", str(wheels.absolute())] if wheels else []
    base = base or directory.parent
    with tempfile.NamedTemporaryFile("w", suffix=".txt", prefix=".requirements-", dir=base, encoding="utf-8") as file:
        file.write("\n".join(requirements))
        file.flush()
        options = ["--target", str(directory.absolute()), "--no-compile", "--no-warn-script-location", "--no-input"]
        command = [*pip, "install", "--disable-pip-version-check", *options, *source, "-r", file.name]
        code, lines = _run(command, PIP_SECONDS_MAX, base, progress)
    if code:
        raise BadPackage("\n".join(["the requirements cannot be installed; pip says:", *lines]))
    directory.mkdir(exist_ok=True)  # pip makes none when there is nothing to install


def compile_all(directories: Iterable[Path], interpreter: str, progress: Progress = silent) -> None:
    """Write bytecode beside every Python file. What does not compile is left, and said: the handler may not need it."""
    command = [interpreter, "-I", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash"]
    places = [directory for directory in directories if directory.is_dir()]
    code, lines = _run([*command, *map(str, places)], COMPILE_SECONDS_MAX, Path("/"), silent)
    if code:
        progress("\n".join(["not all of the Python code compiles:", *lines]))


def _candidates(name: str) -> Iterator[str]:
    for path in (SYSTEM_PATH, os.environ.get("PATH", os.defpath)):
        if candidate := shutil.which(name, path=path):
            yield candidate


def _pip(interpreter: str) -> list[str]:
    """How to run pip for an interpreter."""
    found = probe(interpreter)
    if found is None:
        raise BadPackage(f"{interpreter} cannot be run as Python by user {os.geteuid()}")
    if found.has_pip:
        return [interpreter, "-I", "-m", "pip"]
    if _has_pip(sys.executable):
        return [sys.executable, "-I", "-m", "pip", "--python", interpreter]
    raise BadPackage(f"requirements need pip: install it for {interpreter} (Debian: apt install python3-pip)")


def _has_pip(path: str) -> bool:
    found = probe(path)
    return found is not None and found.has_pip


def _identity() -> tuple[int | None, int | None]:
    """User and group of a program: when root acts as somebody else, theirs for good; else None, ours."""
    return (os.geteuid(), os.getegid()) if os.geteuid() != os.getuid() else (None, None)


def _environment() -> dict[str, str]:
    """Ours, without what would bend a Python, and without the home of another user."""
    bent = {"PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS", "PIP_TARGET", "PIP_USER", "PIP_PREFIX"}
    theirs = {"HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"} if os.geteuid() != os.getuid() else set()
    kept = {name: value for name, value in os.environ.items() if name not in bent | theirs}
    return kept | {"PIP_ROOT_USER_ACTION": "ignore"}


def _run(command: Sequence[str], limit: float, where: Path, progress: Progress) -> tuple[int, list[str]]:
    """Run a program to its end, or to `limit` seconds; its exit code and the last lines that it wrote."""
    tail: deque[str] = deque(maxlen=LINES_KEPT)
    user, group = _identity()
    with subprocess.Popen(
        command, cwd=where, env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True, user=user, group=group,
        umask=0o022,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        late = threading.Timer(limit, _end, [process])
        late.start()
        try:
            while line := process.stdout.readline(LINE_CHARACTERS_MAX):
                tail.append(line.rstrip())
                progress(tail[-1])
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            if late.finished.is_set():
                tail.append(f"it was ended after {limit:,.0f} seconds")
        finally:
            late.cancel()
            late.join()
            _end(process)  # not waited for yet, so its number is still its own
        return process.wait(), list(tail)


def _end(process: "subprocess.Popen[str]") -> None:
    """Kill a program and all that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
