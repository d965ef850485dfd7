"""A link between an edge and a cloud that can be cut: a TCP relay on loopback, for the demo and for tests.

Cutting resets what is connected and refuses what comes, as a dead modem does; restoring lets the next attempt through.
Bytes from the edge are counted. Runs on a thread with an event loop of its own, so that it works beside blocking code.
"""

import asyncio
import threading

from core.config import HostPort

PIECE_BYTES = 64 << 10


class Link:
    """Relays from `port` on 127.0.0.1 to `target`. Use as a context manager, or call `close`."""

    def __init__(self, target: HostPort) -> None:
        self.port = 0
        self.bytes_up = 0
        self.cuts = 0
        self._target = target
        self._up = True
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        started = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(started),), daemon=True)
        self._thread.start()
        started.wait()

    def __enter__(self) -> "Link":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        self.cuts += 1
        self._up = False
        self._loop.call_soon_threadsafe(self._reset)

    def restore(self) -> None:
        """Let the next attempt to connect through."""
        self._up = True

    def close(self) -> None:
        """End the relay and its thread."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _run(self, started: threading.Event) -> None:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stop.wait()
        server.close()
        self._reset()
        await server.wait_closed()

    def _reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            far_writer = None
        if far_writer is not None and self._up:
            self._writers.add(far_writer)
            await self._exchange(reader, writer, far_reader, far_writer)
        for each in filter(None, (writer, far_writer)):
            self._writers.discard(each)
            each.transport.abort()

    async def _exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer, up=True))
                group.create_task(self._pump(far_reader, writer, up=False))
        except* OSError:
            pass  # one side is gone, or the link was cut

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        while piece := await reader.read(PIECE_BYTES):
            if up:
                self.bytes_up += len(piece)
            writer.write(piece)
            await writer.drain()
        raise ConnectionResetError  # one side is gone; take the other along
