"""The standard output or error of a worker, read without blocking, and never faster than a daemon can bear.

Invariant: `BURST_BYTES` are read in `PAUSE_SECONDS` at most; a worker that writes more waits at its own pipe, as any
program does whose reader is slow.
"""

import asyncio
import os
from collections.abc import Callable

READ_BYTES = 64 << 10  # what a pipe holds
BURST_BYTES = 1 << 20  # between two pauses
PAUSE_SECONDS = 0.1  # 10 MB/s, a few per cent of a core


class Pipe:
    """The read end of a pipe, which is closed here; `said(data)` is called on the loop."""

    __slots__ = ("_fd", "_loop", "_read", "_resume", "_said", "_window")

    def __init__(self, fd: int, said: Callable[[bytes], None], loop: asyncio.AbstractEventLoop) -> None:
        self._fd = fd
        self._said = said
        self._loop = loop
        self._read = 0  # bytes in this window
        self._window = loop.time()
        self._resume: asyncio.TimerHandle | None = None
        loop.add_reader(fd, self._readable)

    def drain(self) -> None:
        """Read what is there now, at most what a pipe holds."""
        if self._fd >= 0 and self._resume is None:
            self._readable()

    def close(self) -> None:
        """Read the rest and close; harmless when repeated."""
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        if self._fd >= 0:
            self._readable()
        if self._fd >= 0:
            self._end()

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        self._said(data)
        self._read += len(data)
        if self._read >= BURST_BYTES:
            self._pause()

    def _pause(self) -> None:
        now = self._loop.time()
        wait = self._window + PAUSE_SECONDS - now
        self._read = 0
        if wait > 0 and self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._resume = self._loop.call_later(wait, self._go_on)
        self._window = now + max(0.0, wait)

    def _go_on(self) -> None:
        self._resume = None
        self._loop.add_reader(self._fd, self._readable)

    def _end(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
