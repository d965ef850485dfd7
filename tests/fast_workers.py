"""A worker of the fast path without launcher and sandbox: a child process on a socket pair, and a listener's notes."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from functions.invocations import Invocation
from functions.names import FunctionName
from functions.workers.fast import FastChannel

RUNTIME = Path(__file__).parent.parent / "functions" / "worker"
SHIM = "import socket, sys; sys.path.insert(0, sys.argv[1]); from loop import serve; serve(socket.socket(fileno=3))"


class Notes:
    """A Listener that writes everything down, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.output = {"stdout": b"", "stderr": b""}
        self._changed = asyncio.Event()

    def _note(self, *news: object) -> None:
        self.told.append(news)
        self._changed.set()

    def ready(self) -> None:
        self._note("ready")

    def init_failed(self, error: bytes) -> None:
        self._note("init_failed", error)

    def done(self, request_id: str, payload: bytes, *, error: bool) -> None:
        self._note("error" if error else "done", request_id, payload)

    def said(self, stream: str, data: bytes) -> None:
        self.output[stream] += data
        self._note("said", stream, data)

    def closed(self, reason: str) -> None:
        self._note("closed", reason)

    def news(self, *kinds: str) -> list[tuple[object, ...]]:
        return [news for news in self.told if news[0] in kinds]

    async def until(self, kind: str, count: int = 1) -> list[tuple[object, ...]]:
        """Wait for so many news of a kind, and give them."""
        async with asyncio.timeout(20):
            while len(found := self.news(*kind.split("|"))) < count:
                self._changed.clear()
                await self._changed.wait()
        return found


class Running:
    """One worker and what it told."""

    def __init__(self, channel: FastChannel, notes: Notes, process: "subprocess.Popen[bytes]") -> None:
        self.channel = channel
        self.notes = notes
        self.process = process
        self._count = 0

    def send(self, *payloads: bytes, client_context: bytes = b"", trace_id: str = "") -> list[str]:
        work = []
        for payload in payloads:
            self._count += 1
            request_id = f"00000000-0000-4000-8000-{self._count:012}"
            work.append(
                Invocation(request_id, FunctionName("press"), payload, client_context=client_context, trace_id=trace_id)
            )
        self.channel.send(work)
        return [invocation.id for invocation in work]

    async def call(self, payload: bytes = b"{}", client_context: bytes = b"") -> tuple[str, bytes]:
        """What becomes of one event: "done" or "error", and the payload."""
        self.send(payload, client_context=client_context)
        kind, _, answer = (await self.notes.until("done|error", self._count))[-1]
        return str(kind), bytes(answer)  # type: ignore[call-overload]


def environment(code: Path, handler: str, **more: str) -> dict[str, str]:
    settings = {
        "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TZ": ":UTC", "PYTHONPATH": str(code), "_HANDLER": handler,
        "LAMBDA_TASK_ROOT": str(code), "AWS_EXECUTION_ENV": "AWS_Lambda_python3.12", "AWS_REGION": "eu-west-1",
        "AWS_LAMBDA_FUNCTION_NAME": "press", "AWS_LAMBDA_FUNCTION_VERSION": "7",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128", "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/press",
        "AWS_LAMBDA_LOG_STREAM_NAME": "2026/03/01/[7]0123456789abcdef", "TIDEGATE_TIMEOUT": "3",
    }  # fmt: skip
    return {**settings, **more}


def spawn(code: Path, variables: Mapping[str, str]) -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    """A worker process, and our end of its channel; descriptor 3 is its own end."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-B", "-c", SHIM, str(RUNTIME)],
            cwd=code, env=dict(variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[3],
            preexec_fn=lambda: os.dup2(theirs.fileno(), 3),
        )  # fmt: skip
    return ours, process


@asynccontextmanager
async def worker(code: Path, handler: str = "app.handler", **variables: str) -> AsyncIterator[Running]:
    """A worker for the code in a directory."""
    ours, process = spawn(code, environment(code, handler, **variables))
    notes = Notes()
    channel = FastChannel(ours, notes, asyncio.get_running_loop())
    try:
        yield Running(channel, notes, process)
    finally:
        channel.close()
        await notes.until("closed")
        process.kill()
        process.communicate()
