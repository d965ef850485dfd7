"""Python code in workers of a real launcher, with bubblewrap and without, and what became of it."""

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from functions.config import FunctionsSection
from functions.launcher import client
from functions.launcher.client import Bind, Launched, Launcher, WorkerSpec
from functions.worker import landlock

FUNCTIONS = Path(client.__file__).parent.parent
LIMIT_S = 30.0
WITHOUT_BUBBLEWRAP = "--bubblewrap="
NEEDS_LANDLOCK = pytest.mark.skipif(landlock.version() < 1, reason="without bubblewrap a worker needs Landlock")
both = pytest.mark.parametrize(
    "wrapped", [pytest.param(True, id="bubblewrap"), pytest.param(False, id="without", marks=NEEDS_LANDLOCK)]
)


def readable_interpreter() -> str:
    """A Python that every user can run: this one, or the system's where this one is in somebody's home."""
    real = Path(sys.executable).resolve()
    everybody = all(place.stat().st_mode & 0o1 for place in [real, *real.parents])
    return str(real) if everybody else "/usr/bin/python3"


@contextmanager
def public_directory() -> Iterator[Path]:
    """A directory that other users may read, which a test's own is not."""
    directory = Path(tempfile.mkdtemp(prefix="tidegate-test-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@dataclass(frozen=True)
class Outcome:
    code: int
    output: str
    errors: str
    layers: frozenset[str]
    peak: int


class Sandboxes:
    """Starts workers; `public` is a directory whose `task` they see as /var/task."""

    def __init__(self, launcher: Launcher, public: Path, *, wrapped: bool) -> None:
        self.launcher, self.public, self.wrapped = launcher, public, wrapped
        self.task = public / "task"
        self.task.mkdir(exist_ok=True)
        self.interpreter = sys.executable if wrapped else readable_interpreter()

    def spec(
        self, code: str, *arguments: str, environment: Mapping[str, str] | None = None, memory: int = 64 << 20,
        tmp: int = 4 << 20, processes: int = 16, network: bool = False, argv: tuple[str, ...] | None = None,
    ) -> WorkerSpec:  # fmt: skip
        command = (self.interpreter, "-I", "-S", "-c", code, *arguments) if argv is None else argv
        return WorkerSpec(
            name="test-1", argv=command, interpreter=self.interpreter, environment=environment or {},
            binds=(Bind(self.task, "/var/task"),), memory_bytes=memory, tmp_bytes=tmp, processes=processes,
            network=network,
        )  # fmt: skip

    def temporary(self) -> list[Path]:
        """The directories of workers that have no /tmp of their own."""
        return list(self.public.glob("tidegate-*-*/[0-9]*"))

    @asynccontextmanager
    async def running(self, code: str, *arguments: str, **limits: object) -> AsyncIterator[Launched]:
        """A worker that runs this, killed at the end."""
        launched = await self.launcher.start(self.spec(code, *arguments, **limits))  # type: ignore[arg-type]
        try:
            yield launched
        finally:
            launched.kill()
            async with asyncio.timeout(LIMIT_S):
                await launched.exited
            close(launched)

    async def run(self, code: str, *arguments: str, **limits: object) -> Outcome:
        """A worker that runs this to its end."""
        async with self.running(code, *arguments, **limits) as launched, asyncio.timeout(LIMIT_S):
            output, errors = await asyncio.gather(*(read_all(pipe) for pipe in (launched.stdout, launched.stderr)))
            exit_code = await launched.exited
        return Outcome(exit_code, output, errors, launched.layers, launched.peak_bytes)

    async def says(self, code: str, *arguments: str, **limits: object) -> str:
        """What a worker prints that runs this and ends well."""
        outcome = await self.run(code, *arguments, **limits)
        assert outcome.code == 0, outcome
        return outcome.output.strip()


@asynccontextmanager
async def sandboxes(
    *, wrapped: bool = True, mode: Literal["required", "default", "off"] = "default"
) -> AsyncIterator[Sandboxes]:
    """A launcher of our own, with bubblewrap or told that there is none.

    Without, the launcher and its workers run from a copy that every user can read: root's workers become others.
    """
    with public_directory() as public, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(public))  # for the launcher
        if not wrapped:
            for package in ("launcher", "worker"):
                shutil.copytree(FUNCTIONS / package, public / "functions" / package)
            shutil.copy(FUNCTIONS / "__init__.py", public / "functions")
            patch.setattr(client, "MAIN", public / "functions" / "launcher" / "__main__.py")
        section = FunctionsSection(directory=public, sandbox=mode)
        launcher = Launcher(section, arguments=() if wrapped else (WITHOUT_BUBBLEWRAP,))
        try:
            yield Sandboxes(launcher, public, wrapped=wrapped)
        finally:
            await launcher.close()


def close(launched: Launched) -> None:
    """Close all that a worker left open here."""
    for sock in (launched.channel, launched.runtime_api, launched.endpoint):
        sock.close()
    for descriptor in (launched.stdout, launched.stderr):
        with contextlib.suppress(OSError):
            os.close(descriptor)


async def read_all(descriptor: int) -> str:
    """Everything that comes until the other side closes."""
    said = b""
    while piece := await read_some(descriptor):
        said += piece
    return said.decode()


async def read_some(descriptor: int) -> bytes:
    """The next bytes, none at the end."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return os.read(descriptor, 1 << 16)
        except BlockingIOError:
            ready = asyncio.Event()
            loop.add_reader(descriptor, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(descriptor)


def command_lines() -> dict[int, str]:
    """Of every process of the machine that has not ended."""
    found = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                found[int(place.name)] = (place / "cmdline").read_text(errors="replace").replace("\0", " ")
    return {pid: line for pid, line in found.items() if line}  # a zombie has none


def processes_with(word: str) -> list[int]:
    """Processes with a word in their command line."""
    return [pid for pid, line in command_lines().items() if word in line]


async def eventually(condition: Callable[[], object], limit: float = LIMIT_S) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        await asyncio.sleep(0.01)
