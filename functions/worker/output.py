"""sys.stdout and sys.stderr of a worker: text streams whose lines go to the daemon as frames, in order with results.

A line is sent when it ends, the rest of one when its event ends. The descriptors 1 and 2 stay what they were, pipes:
for libraries in C, for child processes, and for this process's own forks, which may not speak on the channel.
"""

from __future__ import annotations

import io
import os
import sys

TYPE_CHECKING = False  # without the cost of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable

    from functions.worker import wire
else:
    import wire


class Stream(io.RawIOBase):
    """The bytes of one stream: frames on the channel, or the pipe `descriptor` when the channel is not ours."""

    def __init__(self, kind: int, descriptor: int, send: Callable[[bytes], bool]) -> None:
        super().__init__()
        self.kind = kind
        self.send = send
        self.descriptor = descriptor

    def write(self, data: object) -> int:
        """Send all of it."""
        view = memoryview(data)[: wire.OUTPUT_BYTES_MAX]  # type: ignore[arg-type]  # a buffer; the caller comes again
        if not self.send(wire.frame(self.kind, bytes(view))):
            return os.write(self.descriptor, view)
        return len(view)

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """The pipe, for whoever starts a child with `stdout=sys.stdout`."""
        return self.descriptor


class Output:
    """Both streams, put in the place of Python's own; `send` is told of every line."""

    def __init__(self, send: Callable[[bytes], bool]) -> None:
        self._send = send
        self._stdout = self._open("stdout")
        self._stderr = self._open("stderr")

    def settle(self) -> None:
        """At the end of an event: send what has no line end; open again what the handler has closed."""
        if not _flushed(self._stdout):
            self._stdout = self._open("stdout", self._stdout)
        if not _flushed(self._stderr):
            self._stderr = self._open("stderr", self._stderr)

    def _open(self, name: str, closed: io.TextIOWrapper | None = None) -> io.TextIOWrapper:
        kind, descriptor = (wire.STDOUT, 1) if name == "stdout" else (wire.STDERR, 2)
        raw = Stream(kind, descriptor, self._send)
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw, wire.OUTPUT_BYTES_MAX), "utf-8", "backslashreplace", line_buffering=True
        )
        for place in (name, f"__{name}__"):
            if closed is None or getattr(sys, place) is closed:
                setattr(sys, place, stream)
        return stream


def _flushed(stream: io.TextIOWrapper) -> bool:
    """Send what a stream still has; whether it can go on."""
    try:
        stream.flush()
        return True
    except ValueError:  # closed, or without its buffer
        return False
