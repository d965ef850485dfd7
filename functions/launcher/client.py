"""The daemon's way to the launcher: ask for a worker, be told when it ended.

With `[functions] launcher` the launcher is the unit that listens there; without, it is started here and lives as long
as this object. Either way it holds the other end of one connection: when that closes, every worker of it is killed.

Will not decide when a worker is wanted, nor speak with it: `functions.workers` does.

Invariants:
1. `exited` of every worker is done, whatever happens to the launcher: a worker does not outlive it.
2. A connection that was lost is made again by the next `start`, after a back-off of at most `RETRY_S_MAX`.
3. `start` takes at most `START_LIMIT_S` once the launcher is reached; what it opened is closed when it fails.
"""

import array
import asyncio
import contextlib
import errno
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from core.backoff import Backoff
from core.files import short_path
from core.telemetry import Log, get_logger
from functions.config import FunctionsSection
from functions.errors import FunctionsError, SandboxUnavailable
from functions.launcher import protocol

START_LIMIT_S = 30.0  # from the request until the worker is in its sandbox: 20 ms, on a card that reads slowly seconds
RETRY_S_MAX = 5.0
STOP_LIMIT_S = 5.0  # a launcher that lost its connection has only to kill
HANDSHAKE_BYTES = 1_024  # functions/worker/entering.py
STDERR_BYTES_MAX = 2_048  # of what a worker says that cannot start
MAIN = Path(__file__).with_name("__main__.py")


@dataclass(frozen=True, slots=True)
class Bind:
    """A directory of the machine that a worker sees, read-only, at `target`, below /var/task, /var/lang or /opt."""

    source: Path
    target: str


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """A worker to be: what it runs, what it sees, what it may take.

    An empty `argv` means the Python loop in the process of the first steps; else it is the command that takes the
    process over. `interpreter` is the Python of those first steps, and of a command that starts with the same path.
    """

    name: str
    argv: tuple[str, ...]
    interpreter: str
    environment: Mapping[str, str]
    binds: tuple[Bind, ...]
    memory_bytes: int
    tmp_bytes: int
    processes: int
    files: int = 1024
    network: bool = False


@dataclass(slots=True, eq=False)
class Launched:
    """A worker that is in its sandbox. What is open here belongs to the caller, who closes it.

    `exited` is what Popen.returncode would be: -9 for SIGKILL. `peak_bytes` is known afterwards, 0 where it is not.
    """

    pid: int
    channel: socket.socket
    stdout: int
    stderr: int
    runtime_api: socket.socket
    endpoint: socket.socket
    layers: frozenset[str]
    exited: asyncio.Future[int]
    peak_bytes: int = 0
    _kill: Callable[[], None] = field(default=lambda: None, repr=False)

    def kill(self) -> None:
        """SIGKILL for everything in the sandbox; `exited` follows. Harmless when it has ended."""
        if not self.exited.done():
            self._kill()


class Launcher:
    """The daemon's launcher: one connection, made when it is first needed. For one event loop."""

    def __init__(self, section: FunctionsSection, *, log: Log | None = None, arguments: tuple[str, ...] = ()) -> None:
        """`arguments` are further options for a launcher that is started here, see `functions.launcher.server`."""
        self._section = section
        self._log = log or get_logger("functions.launcher")
        self._arguments = arguments
        self._backoff = Backoff(base=0.1, limit=RETRY_S_MAX)
        self._not_before = 0.0
        self._connecting = asyncio.Lock()
        self._connection: _Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    async def start(self, spec: WorkerSpec) -> Launched:
        """Start a worker and wait until it is in its sandbox.

        Raises SandboxUnavailable when the operator's `sandbox` cannot be had, FunctionsError for anything else.
        """
        connection = await self._connected()
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            channel, far_channel = socket.socketpair()
            ours.callback(channel.close)
            theirs.callback(far_channel.close)
            (stdout, far_stdout), (stderr, far_stderr) = _pipe(ours, theirs), _pipe(ours, theirs)
            channel.setblocking(False)
            document: dict[str, object] = {"do": "start", "sandbox": self._section.sandbox, "spec": _document(spec)}
            worker = connection.expect()
            ours.callback(worker.give_up)
            try:
                async with asyncio.timeout(START_LIMIT_S):
                    await connection.send(document | {"id": worker.id}, (far_channel.fileno(), far_stdout, far_stderr))
                    theirs.close()
                    reply = await worker.answered
                    if isinstance(refused := reply.get("refused"), str):
                        raise (SandboxUnavailable if reply.get("sandbox") else FunctionsError)(refused)
                    layers, sockets = await _handshake(channel, worker.exited, stderr)
            except TimeoutError:
                raise FunctionsError(f"a worker was not in its sandbox after {START_LIMIT_S:g} s") from None
            ours.pop_all()
        layers |= set(_texts(reply.get("layers")))
        pid = reply.get("started")
        worker.launched = launched = Launched(
            pid=pid if isinstance(pid, int) else 0,
            channel=channel, stdout=stdout, stderr=stderr, runtime_api=sockets[0], endpoint=sockets[1],
            layers=frozenset(layers), exited=worker.exited, peak_bytes=worker.peak, _kill=worker.kill,
        )  # fmt: skip
        return launched

    async def layers(self) -> dict[str, str]:
        """What keeps workers in: each layer, and "holds" or why it does not. Raises FunctionsError."""
        connection = await self._connected()
        try:
            async with asyncio.timeout(START_LIMIT_S):
                return await connection.layers()
        except TimeoutError:
            raise FunctionsError(f"the launcher did not answer within {START_LIMIT_S:g} s") from None

    async def close(self) -> None:
        """Kill every worker, and end a launcher that was started here."""
        self._closed = True
        if self._connection is not None:
            self._connection.close("")
        await self._end_process()

    async def _connected(self) -> "_Connection":
        async with self._connecting:
            while self._connection is None or self._connection.is_lost:
                if self._closed:
                    raise FunctionsError("the daemon is stopping")
                await self._end_process()
                now = time.monotonic()
                if self._connection is not None:  # it was lost; if it was good for a while, that is forgiven
                    self._not_before = now + self._backoff.failed(now, random.random())
                    self._connection = None
                await asyncio.sleep(max(0.0, self._not_before - now))
                try:
                    self._connection = _Connection(self._reach(), self._log)
                except OSError as error:
                    self._not_before = time.monotonic() + self._backoff.failed(time.monotonic(), random.random())
                    raise FunctionsError(f"{self._where()}: no launcher there: {error.strerror or error}") from None
                self._backoff.connected(time.monotonic())
            return self._connection

    def _where(self) -> str:
        return str(self._section.launcher or sys.executable)

    def _reach(self) -> socket.socket:
        """Connect to the launcher's unit, or start a launcher. Raises OSError."""
        if self._section.launcher is not None:
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                with short_path(Path(self._section.launcher)) as address:
                    channel.connect(address)
            except OSError:
                channel.close()
                raise
            return channel
        channel, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            command = [sys.executable, "-I", "-S", str(MAIN.parent), f"--fd={far.fileno()}"]
            command += [f"--sandbox={self._section.sandbox}", *self._arguments]
            try:
                self._process = subprocess.Popen(
                    command, pass_fds=[far.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
                )
            except OSError:
                channel.close()
                raise
        return channel

    async def _end_process(self) -> None:
        """Wait for a launcher whose connection is closed: it kills and goes."""
        if self._process is None:
            return
        process, self._process = self._process, None
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await _readable(os.pidfd_open(process.pid))
        except TimeoutError:
            self._log.warning("launcher does not end by itself", pid=process.pid)
            process.kill()
        process.wait()


class _Worker:
    """A worker as the connection knows it, from the request on."""

    def __init__(self, connection: "_Connection", number: int) -> None:
        loop = asyncio.get_running_loop()
        self.id = number
        self.answered: asyncio.Future[dict[str, object]] = loop.create_future()
        self.exited: asyncio.Future[int] = loop.create_future()
        self.launched: Launched | None = None
        self.peak = 0
        self._connection = connection

    def kill(self) -> None:
        self._connection.kill(self.id)

    def give_up(self) -> None:
        """Nobody waits for it: it may be under way, or never asked for."""
        self.answered.cancel()
        self.kill()

    def end(self, code: int, peak: int) -> None:
        self.peak = peak
        if self.launched is not None:
            self.launched.peak_bytes = peak
        if not self.answered.done():
            self.answered.set_result({"refused": "the launcher went away"})
        if not self.exited.done():
            self.exited.set_result(code)


class _Connection:
    """One connection to a launcher: what is expected of it, and what it says."""

    def __init__(self, channel: socket.socket, log: Log) -> None:
        channel.setblocking(False)
        self.is_lost = False
        self._channel, self._log = channel, log
        self._loop = asyncio.get_running_loop()
        self._workers: dict[int, _Worker] = {}
        self._layers: list[asyncio.Future[dict[str, str]]] = []
        self._number = 0
        self._sending = asyncio.Lock()
        self._room = asyncio.Event()  # to send
        self._loop.add_reader(channel.fileno(), self._hear)

    def expect(self) -> _Worker:
        """A worker that is about to be asked for."""
        self._number += 1
        worker = self._workers[self._number] = _Worker(self, self._number)
        return worker

    async def send(self, document: dict[str, object], descriptors: tuple[int, ...] = ()) -> None:
        """Say something. Raises FunctionsError when nobody hears it any more."""
        async with self._sending:
            while True:
                if self.is_lost:
                    raise FunctionsError("the launcher went away")
                try:
                    return protocol.send(self._channel, document, descriptors)
                except BlockingIOError:
                    await self._writable()
                except OSError as error:
                    if error.errno == errno.EMSGSIZE:
                        raise FunctionsError("the worker's environment and command are too large") from None
                    self.close(str(error.strerror))

    async def layers(self) -> dict[str, str]:
        """Ask for the layers."""
        answer: asyncio.Future[dict[str, str]] = self._loop.create_future()
        self._layers.append(answer)
        await self.send({"do": "layers"})
        return await answer

    async def _writable(self) -> None:
        self._room.clear()
        self._loop.add_writer(self._channel.fileno(), self._room.set)
        try:
            await self._room.wait()
        finally:
            if not self.is_lost:
                self._loop.remove_writer(self._channel.fileno())

    def kill(self, number: int) -> None:
        """Say so at once; when the launcher is so far behind that it cannot be told, all that it has goes."""
        if self.is_lost or number not in self._workers:
            return
        try:
            protocol.send(self._channel, {"do": "kill", "id": number})
        except OSError:
            self.close("it does not read")

    def close(self, reason: str) -> None:
        """End it: every worker is killed by the other side, or has been."""
        if self.is_lost:
            return
        self.is_lost = True
        self._loop.remove_reader(self._channel.fileno())
        self._loop.remove_writer(self._channel.fileno())
        self._channel.close()
        self._room.set()
        if self._workers and reason:
            self._log.warning("launcher lost", reason=reason, workers=len(self._workers))
        for worker in self._workers.values():
            worker.end(-9, 0)
        self._workers.clear()
        for answer in self._layers:
            if not answer.done():
                answer.set_exception(FunctionsError("the launcher went away"))
        self._layers.clear()

    def _hear(self) -> None:
        while not self.is_lost:
            try:
                document, descriptors = protocol.receive(self._channel)
            except BlockingIOError:
                return
            except (EOFError, OSError, protocol.BadRequest) as error:
                self.close(str(error) or "it closed the connection")
                return
            for descriptor in descriptors:
                os.close(descriptor)
            self._heard(document)

    def _heard(self, document: dict[str, object]) -> None:
        match document:
            case {"layers": dict(layers), **rest} if "id" not in rest:
                for answer in self._layers:
                    if not answer.done():
                        answer.set_result({str(name): str(text) for name, text in layers.items()})
                self._layers.clear()
            case {"id": int(number), "exited": int(code), "peak": int(peak)} if number in self._workers:
                self._workers.pop(number).end(code, peak)
            case {"id": int(number)} if number in self._workers:
                worker = self._workers[number]
                if not worker.answered.done():
                    worker.answered.set_result(document)
                if "refused" in document:
                    del self._workers[number]


async def _handshake(
    channel: socket.socket, exited: asyncio.Future[int], stderr: int
) -> tuple[set[str], list[socket.socket]]:
    """Read exactly what the worker's first steps say: its layers, and its two listening sockets."""
    said, descriptors = bytearray(), array.array("i")
    try:
        while len(said) < HANDSHAKE_BYTES:
            try:
                space = socket.CMSG_SPACE(2 * descriptors.itemsize)
                data, ancillary, _, _ = channel.recvmsg(HANDSHAKE_BYTES - len(said), space, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                if not exited.done():
                    await _readable(os.dup(channel.fileno()), exited)
                    continue
                data, ancillary = b"", []
            except ConnectionResetError:
                data, ancillary = b"", []
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    descriptors.frombytes(content)
            if not data:
                raise FunctionsError(f"a worker ended before it was in its sandbox: {_last_words(stderr)}")
            said += data
        if len(descriptors) != 2:
            raise FunctionsError("a worker did not send its sockets")
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    for listening in sockets:
        listening.setblocking(False)
    lines = (line.partition("=") for line in said.decode(errors="replace").splitlines())
    return {layer for layer, separator, why_not in lines if separator and not why_not}, sockets


async def _readable(descriptor: int, unless: asyncio.Future[int] | None = None) -> None:
    """Wait for a descriptor, which is closed afterwards, or until the future is done."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake(*_: object) -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(descriptor, wake)
    if unless is not None:
        unless.add_done_callback(wake)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        if unless is not None:
            unless.remove_done_callback(wake)


def _pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    ours.callback(os.close, reading)
    theirs.callback(os.close, writing)
    os.set_blocking(reading, False)
    return reading, writing


def _last_words(stderr: int) -> str:
    with contextlib.suppress(OSError):
        if said := os.read(stderr, STDERR_BYTES_MAX).decode(errors="replace").strip():
            return said
    return "it said nothing"


def _document(spec: WorkerSpec) -> dict[str, object]:
    return {
        "name": spec.name, "argv": list(spec.argv), "interpreter": spec.interpreter,
        "environment": dict(spec.environment), "network": spec.network,
        "binds": [[str(bind.source), bind.target] for bind in spec.binds],
        "memory": spec.memory_bytes, "tmp": spec.tmp_bytes, "processes": spec.processes, "files": spec.files,
    }  # fmt: skip


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []
