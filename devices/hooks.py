"""The pre-provisioning hook: a program of the operator's that says whether a device may be provisioned.

What a Lambda function is for AWS IoT Core ("Pre-provisioning hooks"), with the same question and answer as JSON: the
question on standard input, the answer on standard output, an exit code of 0. What it writes to standard error ends up
where the daemon's goes. Runs beside the event loop, in a session of its own that does not outlive its time.

Will not decide what follows from an answer (`devices.provisioning`).
"""

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from core.errors import TidegateError

TIME_LIMIT_S = 5.0  # AWS
DRAIN_LIMIT_S = 0.5  # for what a killed hook left in the pipe, unless it has put a child out of our reach
ANSWER_BYTES_MAX = 65_536  # a hundred parameters of 600 bytes


class HookFailed(TidegateError):
    """The hook gave no answer that can be used; the message is for the operator's log, not for the device."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether to go on, and the parameters that take the place of the device's."""

    allow: bool
    overrides: Mapping[str, str]


async def ask(program: Path, question: Mapping[str, Any], time_limit_s: float = TIME_LIMIT_S) -> Answer:
    """Run the hook. Raises HookFailed when it cannot run, fails, takes too long or says something else."""
    try:
        # A file in memory and no pipe: a hook that does not read it, or ends at once, leaves nobody writing.
        with os.fdopen(os.memfd_create("question"), "wb", buffering=0) as file:
            file.write(orjson.dumps(question))
            file.seek(0)
            process = await _start(program, file.fileno())
    except OSError as error:
        raise HookFailed(f"{program} cannot be run: {error.strerror}") from None
    done = False
    try:
        async with asyncio.timeout(time_limit_s):
            text = await _hear(process)
            code = await process.wait()
            done = True
    except TimeoutError:
        raise HookFailed(f"{program} gave no answer in {time_limit_s:g} s") from None
    finally:
        if not done:
            await _end(process)
    if code:
        raise HookFailed(f"{program} ended with exit code {code}")
    return _read(program, text)


async def _start(program: Path, stdin: int) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        program, stdin=stdin, stdout=pipe, cwd=program.parent, start_new_session=True
    )


async def _hear(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    text = b""
    while part := await process.stdout.read(ANSWER_BYTES_MAX):
        text += part
        if len(text) > ANSWER_BYTES_MAX:
            raise HookFailed(f"the hook wrote more than {ANSWER_BYTES_MAX:,} bytes")
    return text


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    with suppress(ProcessLookupError):  # the group: a shell that hangs in a command, and the command
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    with suppress(TimeoutError):  # to the end, because only that closes our end of the pipe
        async with asyncio.timeout(DRAIN_LIMIT_S):
            while await process.stdout.read(ANSWER_BYTES_MAX):
                pass


def _read(program: Path, text: bytes) -> Answer:
    with suppress(orjson.JSONDecodeError):
        match orjson.loads(text):
            case {"allowProvisioning": bool(allow), **rest}:
                overrides = rest.get("parameterOverrides") or {}
                if isinstance(overrides, dict) and all(isinstance(value, str) for value in overrides.values()):
                    return Answer(allow, overrides)
    expected = '{"allowProvisioning": true, "parameterOverrides": {"name": "text"}}'
    raise HookFailed(f"{program} answered something else than {expected}: {text[:80]!r}")
