"""Carries streams to their directories: asks what is due, writes the object, settles it, and starts again.

The shell around `streams` (which decides) and `objects` (which writes). A stream whose directory refuses is
logged, counted and tried again later and later; nothing is lost, its records wait in the database, and the
other streams go on. Will not flush when the daemon stops: what is pending stays pending.

Invariants:
1. One object at a time is being written, in a thread, and passes through memory in pieces of a stream's
   batch.
2. A stream is looked at within `GAP_SECONDS` of a wake, within its own deadline otherwise.
"""

import asyncio
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from cloud.targets import objects
from cloud.targets.config import StreamConfig
from cloud.targets.streams import Object, Streams, contents, left_ms, newest_id
from core.errors import StorageError
from core.reader import reading
from core.store import Store
from core.telemetry import Counters, get_logger

GAP_SECONDS = 0.5  # a busy inbox commits hundreds of times a second; looking twice a second is enough
RETRY_MS = 1_000  # after the first failure, then twice as long each time
RETRY_MS_MAX = 60_000  # a disk that was cleared is found within a minute
GZIP_LEVEL = 6
_GZIP_WBITS = 31  # gzip in zlib's words; the header has no name and no time: a repeat gives the same bytes

log = get_logger("cloud.targets.delivery")


class Delivery:
    """Delivers the configured streams from a store; `clock` gives milliseconds since the epoch.

    `directory` is for streams that have none of their own.
    """

    def __init__(
        self,
        store: Store,
        config: Mapping[str, StreamConfig],
        directory: Path,
        clock: Callable[[], int],
        counters: Counters,
    ) -> None:
        self._store = store
        self._streams = Streams(config)
        self._directories = {stream: settings.directory or directory for stream, settings in config.items()}
        self._clock = clock
        self._counters = counters
        self._wake = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._failures: dict[str, tuple[int, int]] = {}  # stream → failures in a row, when the last one was

    def wake(self) -> None:
        """Say that records were committed."""
        self._wake.set()

    async def run(self) -> None:
        """Deliver until cancelled; cancelling waits for the object that is being written."""
        while True:
            wait = await self.deliver_due()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            await asyncio.sleep(GAP_SECONDS)
            self._wake.clear()

    async def deliver_due(self) -> float:
        """Deliver everything that is due now; return the seconds until something may be due again."""
        async with self._one_at_a_time:
            waits_ms = [await self._deliver_or_back_off(stream) for stream in self._directories]
        return min(waits_ms, default=RETRY_MS_MAX) / 1000

    async def flush(self, stream: str | None = None) -> int:
        """Deliver all that is pending, of one stream or of all, due or not; return the number of objects
        written.

        Raises UnknownTarget, and StorageError when the disk refuses.
        """
        if stream is not None:
            self._streams.check(stream)
        async with self._one_at_a_time:
            return sum([await self._flush(name) for name in self._directories if stream in (None, name)])

    async def _flush(self, stream: str) -> int:
        newest = await self._store.run(lambda connection: newest_id(connection, stream))
        written = 0
        while newest and isinstance(await self._deliver_one(stream, flush_to=newest), Object):
            written += 1
        return written

    async def _deliver_or_back_off(self, stream: str) -> int:
        failures, failed_ms = self._failures.get(stream, (0, 0))
        if failures and (rest_ms := left_ms(failed_ms, _retry_ms(failures), self._clock())):
            return rest_ms
        try:
            while isinstance(wait_ms := await self._deliver_one(stream), Object):
                pass
        except StorageError as error:
            self._failures[stream] = (failures + 1, self._clock())
            self._counters.add("stream_failures_total", stream=stream)
            log.error("object not written", stream=stream, reason=error, retry_in_ms=_retry_ms(failures + 1))
            return _retry_ms(failures + 1)
        self._failures.pop(stream, None)
        return wait_ms

    async def _deliver_one(self, stream: str, flush_to: int = 0) -> Object | int:
        now_ms, uuid = self._clock(), str(uuid4())
        decided = await self._store.run(
            lambda connection: self._streams.decide(connection, stream, now_ms, uuid, flush_to=flush_to)
        )
        if isinstance(decided, Object):
            await _in_thread_to_its_end(write_object, self._store.path, self._directories[stream], decided)
            await self._store.run(lambda connection: self._streams.settle(connection, decided))
            self._counters.add("stream_objects_total", stream=stream)
            self._counters.add("stream_records_total", decided.records, stream=stream)
            log.debug("object written", stream=stream, key=decided.key, records=decided.records)
        return decided


def write_object(database: Path, directory: Path, decided: Object) -> None:
    """Write a decided object durably from the batches in the database; may be repeated. Raises StorageError."""
    with reading(database) as connection:
        pieces: Iterable[bytes] = contents(connection, decided)
        objects.write(directory, decided.key, _gzipped(pieces) if decided.compression == "GZIP" else pieces)


def _gzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    gzip = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP_WBITS)
    for piece in pieces:
        yield gzip.compress(piece)
    yield gzip.flush()


def _retry_ms(failures: int) -> int:
    return min(RETRY_MS_MAX, RETRY_MS << min(failures - 1, 16))


async def _in_thread_to_its_end(function: Callable[..., None], *arguments: object) -> None:
    # A thread cannot be cancelled: going on while it writes would let a second one write the same file.
    running = asyncio.get_running_loop().run_in_executor(None, function, *arguments)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
