"""Workers' first steps: what of the function's has a say before the sandbox holds, and what has after."""

import asyncio
import sys

from functions.launcher.client import Launched
from functions.launcher.protocol import Spec
from functions.launcher.sandbox import bare, wrapped
from tests.sandboxes import LIMIT_S, Sandboxes, both, read_all, sandboxes

HANDLER = """
import os, time
os.write(1, f"{os.environ.get('LD_PRELOAD')} {os.environ['PATH']} {time.tzname[0]}".encode())
os._exit(0)
"""


def _variables(script: list[str]) -> list[str]:
    return sorted(script[at + 1] for at, word in enumerate(script) if word == "--setenv")


def test_no_variable_of_the_function_has_its_name_while_the_sandbox_is_built() -> None:
    document: dict[str, object] = {
        "name": "w", "interpreter": sys.executable, "argv": [], "binds": [], "network": False,
        "environment": {"LD_PRELOAD": "/var/task/x.so", "LANG": "de_DE", "PATH": "/bin"},
        "memory": 1 << 27, "tmp": 1 << 20, "processes": 8, "files": 64,
    }  # fmt: skip
    alone = bare(Spec(document), "/tmp", None, True, 8).environment
    inside = _variables(wrapped(Spec(document), "/usr/bin/bwrap", None).script)
    assert inside == ["+LANG", "+LD_PRELOAD", "+PATH", "LANG"]
    assert sorted(alone) == ["+LANG", "+LD_PRELOAD", "+PATH", "+TMPDIR", "LANG"]


async def _says(workers: Sandboxes, **environment: str) -> str:
    """What a Python worker writes that has come into its sandbox."""
    (workers.task / "h.py").write_text(HANDLER)
    chosen = {"_HANDLER": "h.handler", "LAMBDA_TASK_ROOT": "/var/task", "PATH": "/bin", **environment}
    async with workers.running("", argv=(), environment=chosen) as worker, asyncio.timeout(LIMIT_S):
        return await _output(worker)


async def _output(worker: Launched) -> str:
    said = await read_all(worker.stdout)
    await worker.exited
    return said


@both
async def test_libraries_of_the_function_are_not_loaded_before_the_sandbox_holds(wrapped: bool) -> None:
    async with sandboxes(wrapped=wrapped) as workers:
        for name in ("libc.so.6", "libm.so.6"):  # a process that loads one of them ends at once
            (workers.task / name).write_text("no library")
        assert await _says(workers, LD_LIBRARY_PATH="/var/task:/opt/lib") == ""


@both
async def test_a_handler_has_its_variables_and_the_linker_has_them_too(wrapped: bool) -> None:
    async with sandboxes(wrapped=wrapped) as workers:
        assert await _says(workers, TZ="XYZ5") == "None /bin XYZ"
        assert await _says(workers, TZ=":UTC", LD_PRELOAD="libm.so.6") == "libm.so.6 /bin UTC"
