"""A runtime without launcher and sandbox: a child process, or this test itself, at a channel of the Runtime API."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from functions.invocations import Invocation
from functions.names import FunctionName
from functions.workers.runtime_api import RuntimeApiChannel
from tests.fast_workers import Notes, environment

CLOCK = 1_700_000_000.5  # seconds
PATH = "/2018-06-01/runtime/"
Answer = tuple[int, dict[str, str], bytes]


class Runtime:
    """A channel, what it told, and requests to it as a runtime makes them, each on a connection of its own."""

    def __init__(self, channel: RuntimeApiChannel, notes: Notes, address: tuple[str, int]) -> None:
        self.channel = channel
        self.notes = notes
        self.host, self.port = address
        self.process: asyncio.subprocess.Process | None = None
        self._count = 0

    def send(self, payload: bytes = b"{}", **more: object) -> str:
        self._count += 1
        request_id = f"00000000-0000-4000-8000-{self._count:012}"
        self.channel.send([Invocation(request_id, FunctionName("press", "7"), payload, **more)])  # type: ignore[arg-type]
        return request_id

    async def call(self, payload: bytes = b"{}", **more: object) -> tuple[str, bytes]:
        """What becomes of one event: "done" or "error", and the payload."""
        await self.notes.until("ready|closed")
        self.send(payload, **more)
        return await self.answer()

    async def answer(self) -> tuple[str, bytes]:
        """The end of the last event that was sent."""
        kind, _, answer = (await self.notes.until("done|error", self._count))[-1]
        return str(kind), bytes(answer)  # type: ignore[call-overload]

    async def request(
        self, method: str, name: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        fields = {"content-length": str(len(body)), **(headers or {})}
        return await self.raw(method, PATH + name, body, fields)

    async def raw(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            lines = [f"{method} {target} HTTP/1.1", "host: runtime", *(f"{name}: {headers[name]}" for name in headers)]
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            return await read_response(reader)
        finally:
            writer.close()


async def read_response(reader: asyncio.StreamReader) -> Answer:
    async with asyncio.timeout(20):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) if ": " in line else (line, "") for line in head[1:-2])
        original = {line.split(":")[0].lower(): line.split(": ", 1)[1] for line in head[1:-2] if ": " in line}
        return int(head[0].split()[1]), original, await reader.readexactly(int(fields["content-length"]))


@asynccontextmanager
async def channel(seconds: int = 3, encoding: str = "json") -> AsyncIterator[Runtime]:
    """A channel whose runtime is the test itself."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    address, notes = sock.getsockname(), Notes()
    served = RuntimeApiChannel(
        sock, notes, lambda invocation: invocation.function.arn(), seconds, encoding=encoding,
        **({} if seconds > 60 else {"clock": lambda: CLOCK}),
    )  # fmt: skip
    async with asyncio.TaskGroup() as group:
        group.create_task(served.serve())
        try:
            yield Runtime(served, notes, address)
        finally:
            served.close()
    assert notes.told[-1][0] == "closed"


@asynccontextmanager
async def runtime(
    code: Path, argv: Sequence[str | Path], handler: str = "app.handler", encoding: str = "json", **variables: str
) -> AsyncIterator[Runtime]:
    """A real runtime; time-outs are far away."""
    async with channel(900, encoding) as running:
        settings = environment(code, handler, AWS_LAMBDA_RUNTIME_API=f"{running.host}:{running.port}", **variables)
        process = running.process = await asyncio.create_subprocess_exec(
            *argv, cwd=code, env=settings,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            yield running
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what a shell has started too
            await process.communicate()
