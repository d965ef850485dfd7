"""The daemon's end of a Python worker's channel: many events in a write, many answers in a read.

Decides when a worker is not to be believed: a frame of a wrong size or kind, an answer to what it was not asked next.
Then the channel is closed; what such a worker answered before stands, for that concerns its own function alone. Will
not judge results (any bytes), nor end the process: its owner does, when told `closed`.

Invariants, beside those of `functions.workers.channel`:
1. At most `CAPACITY` events and about `WINDOW_BYTES` of them are in the worker's hands or on the way there; what is
   beyond the window waits here, as it is. A single larger event goes alone.
2. A turn of the loop reads at most `READ_BYTES` from one worker, however much it says.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from itertools import groupby

from core.telemetry import get_logger
from functions.invocations import Invocation
from functions.worker import wire
from functions.workers.channel import Listener

CAPACITY = 256  # events; at 20,000 a second a worker is busy with them for 13 ms
WINDOW_BYTES = 1 << 20
READ_BYTES = 64 << 10  # a thousand small answers, a few milliseconds of the loop's time
REASON_BYTES_MAX = 200  # of a worker's own last words

_STREAMS = {wire.STDOUT: "stdout", wire.STDERR: "stderr"}

log = get_logger("functions.workers.fast")


class FastChannel:
    """A Channel (`functions.workers.channel`) over a connected socket, which it owns; not thread-safe."""

    capacity = CAPACITY

    def __init__(
        self,
        channel: socket.socket,
        listener: Listener,
        loop: asyncio.AbstractEventLoop,
        arn_of: Callable[[Invocation], str] = lambda invocation: invocation.function.arn(),
    ) -> None:
        channel.setblocking(False)
        self._socket = channel
        self._listener = listener
        self._loop = loop
        self._arn_of = arn_of
        self._splitter = wire.Splitter()
        self._ready = False
        self._closed = False
        self._sent: deque[tuple[str, bytes, int]] = deque()  # request id, as the worker says it, bytes of the event
        self._sent_bytes = 0
        self._held: deque[Invocation] = deque()
        self._unwritten = bytearray()
        loop.add_reader(channel, self._read)

    def send(self, work: Sequence[Invocation]) -> None:
        """Give the worker events; nothing happens on a channel that has ended."""
        if not self._closed:
            self._held.extend(work)
            self._write()

    def close(self) -> None:
        """End it. `closed` is told in the loop's next turn, and nothing else any more."""
        self._end("closed")

    def _write(self) -> None:
        """Send what fits into the window, in one write."""
        if not self._held or (self._sent and self._sent_bytes >= WINDOW_BYTES):
            return
        frames = []
        while self._held and (not self._sent or self._sent_bytes < WINDOW_BYTES):
            invocation = self._held.popleft()
            name = invocation.id.encode()
            arn = self._arn_of(invocation).encode()
            trace_id = invocation.trace_id.encode()
            frames.append(wire.event(name, arn, trace_id, invocation.client_context, invocation.payload))
            size = len(frames[-1])
            self._sent.append((invocation.id, name, size))
            self._sent_bytes += size
        data = b"".join(frames)
        if self._unwritten:
            self._unwritten += data
        elif (sent := self._put(data)) < len(data):
            self._unwritten += memoryview(data)[sent:]
            self._loop.add_writer(self._socket, self._write_on)

    def _write_on(self) -> None:
        del self._unwritten[: self._put(self._unwritten)]
        if not self._unwritten:
            self._loop.remove_writer(self._socket)

    def _put(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:  # it has gone; what it had to say is still to be read
            return len(data)

    def _read(self) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(f"the connection to the worker failed: {error.strerror}")
            return
        if not data:
            self._end("the worker ended the connection")
            return
        self._take(self._splitter.feed(data))
        if self._splitter.fault:
            self._distrust(self._splitter.fault)
        self._write()

    def _take(self, frames: list[tuple[int, bytes]]) -> None:
        """What the worker says, in its order; consecutive pieces of output are told as one."""
        for kind, group in groupby(frames, key=_kind):
            bodies = [body for _, body in group]
            if kind in _STREAMS:
                self._listener.said(_STREAMS[kind], b"".join(bodies))
                fault = ""
            else:
                fault = next(filter(None, (self._told(kind, body) for body in bodies if not self._closed)), "")
            if fault and not self._closed:
                self._distrust(fault)
            if self._closed:
                return

    def _told(self, kind: int, body: bytes) -> str:
        """One frame that is no output; what is wrong with it."""
        if kind in (wire.RESULT, wire.ERROR):
            return self._answered(body, error=kind == wire.ERROR)
        if kind == wire.FATAL:
            self._end(f"the handler ended its process: {str(body[:REASON_BYTES_MAX], 'utf-8', 'replace')}")
        elif self._ready:
            return f"a frame of kind {kind} after it was ready"
        elif kind == wire.READY:
            self._ready = True
            self._listener.ready()
        elif kind == wire.INIT_ERROR:
            self._listener.init_failed(body)
        else:
            return f"a frame of kind {kind}"
        return ""

    def _answered(self, body: bytes, *, error: bool) -> str:
        if not self._sent:
            return "an answer without an event"
        request_id, name, size = self._sent[0]
        end = 1 + len(name)
        if not body or body[0] != len(name) or body[1:end] != name:
            return "an answer to another event than the next one"
        self._sent.popleft()
        self._sent_bytes -= size
        self._listener.done(request_id, body[end:], error=error)
        return ""

    def _distrust(self, fault: str) -> None:
        log.warning("a worker is not to be believed", fault=fault)
        self._end(f"the worker sent {fault}")

    def _end(self, reason: str) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._held.clear()
        self._unwritten.clear()
        self._loop.call_soon(self._listener.closed, reason)  # never from within close(), nor among other news


def _kind(frame: tuple[int, bytes]) -> int:
    return frame[0]
