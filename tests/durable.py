"""A broker on a disk, for tests: commits happen when a test lets them, and it can be killed between any two.

What a broker would leave behind when it is killed is the database and its log at that moment; a new one starts from a
copy of them in a directory of its own.
"""

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from mqtt5 import (
    ConnectPacket,
    Packet,
    PubAckPacket,
    PubCompPacket,
    PublishPacket,
    PubRecPacket,
    PubRelPacket,
    QoS,
)

from core.commits import Commits
from core.mqtt import records
from core.mqtt.broker import Broker
from core.mqtt.journal import Journal
from core.mqtt.limits import Limits
from core.store import Done, Job, Store
from devices.access import OpenAccess
from tests.mqtt_peers import NOON_MS, Bench, Peer

DATABASE = "broker.db"
HOUR = 3_600


class Disk(Store):
    """A store that gives every job a transaction of its own, and while `held` begins none that it is not told to."""

    def __init__(self, path: Path, schema: str = records.SCHEMA) -> None:
        self.outstanding = 0
        self.done = 0
        self.held = False
        self._gate = threading.Semaphore(0)
        super().__init__(path, schema)

    def submit(self, job: Job, done: Done) -> None:
        self.outstanding += 1

        def counted(result: Any, error: Exception | None) -> None:
            self.outstanding -= 1
            self.done += 1
            done(result, error)

        super().submit(job, counted)

    def hold(self) -> None:
        """Begin no more transactions; none may be under way."""
        assert not self.outstanding
        self._gate = threading.Semaphore(0)
        self.held = True

    def let_go(self) -> None:
        """Go on by itself."""
        self.held = False
        self._gate.release()

    async def step(self) -> None:
        """Let the next transaction happen, and tell who waits for it."""
        before = self.done
        assert self.held
        assert self.outstanding
        self._gate.release()
        await turn_until(lambda: self.done > before)

    def _commit(self, group: list[tuple[Job, Done]]) -> list[tuple[Any, Exception | None]]:
        for entry in group:
            super()._report([entry], super()._commit([entry]))
        return []

    def _report(self, group: list[tuple[Job, Done]], outcomes: list[tuple[Any, Exception | None]]) -> None:
        if outcomes:
            super()._report(group, outcomes)

    def _transaction(self, jobs: list[Job]) -> list[Any]:
        if self.held:
            self._gate.acquire()
        return super()._transaction(jobs)


class Durable(Bench):
    """A bench whose broker keeps what it promises in `directory`; `clock` is ms since the epoch when `now` was 0."""

    clock = NOON_MS - 1_000_000

    def __init__(self, directory: Path, limits: Limits | None = None) -> None:
        super().__init__(limits)
        self._directory = directory
        self._limits = limits
        self._lives = 0
        self._former: list[tuple[Commits, Disk]] = []

    async def start(self) -> None:
        """Start from what is on the disk."""
        self.disk = Disk(self.path)
        self.commits = Commits(self.disk)
        self.journal = Journal(self.commits)
        self.broker = Broker(OpenAccess(), self._accept, self.counters, self._limits, self.journal)
        self.broker.restore(await self.disk.run(records.load), self.now, self.at)
        self.wait(0)
        await self.sync()

    @property
    def at(self) -> int:
        return self.clock + round(self.now * 1_000)

    @property
    def path(self) -> Path:
        return self._directory / str(self._lives) / DATABASE

    async def sync(self) -> None:
        """Commit everything that has gathered, and tell everyone who waits."""
        self.commits.soon()
        quiet = 0
        while quiet < 2:  # what is told may make others want another commit
            await turn()
            quiet = 0 if self.disk.outstanding else quiet + 1
            if self.disk.outstanding and self.disk.held:
                await self.disk.step()

    async def sync_at_most(self, transactions: int) -> None:
        """Let so many transactions happen of those that come by themselves, or fewer if there are no more."""
        await turn()
        for _ in range(transactions):
            if self.disk.outstanding:
                await self.disk.step()
                await turn()

    async def crash(self, damage: Callable[[Path], None] = lambda _: None) -> None:
        """Be killed now, between two transactions, and start again; `damage` is done to the file in between."""
        assert self.disk.held or not self.disk.outstanding
        self._former.append((self.commits, self.disk))
        copy = self._directory / str(self._lives + 1)
        copy.mkdir(parents=True)
        for file in self.path.parent.iterdir():
            if not file.name.endswith("-shm"):
                shutil.copy(file, copy)
        self._lives += 1
        damage(self.path)
        self.batches.clear()
        await self.start()

    async def close(self) -> None:
        """End this life and all former ones."""
        for commits, disk in [*self._former, (self.commits, self.disk)]:
            disk.let_go()
            await commits.drain()
            await disk.close()

    def knock(self, client_id: str, version: int = 5, **options: Any) -> Peer:
        """Say CONNECT, for a session that lasts an hour."""
        peer = self.open(version)
        peer.send(ConnectPacket(client_id, **{"clean_start": False, "session_expiry_interval": HOUR, **options}))
        return peer

    async def arrive(self, client_id: str, version: int = 5, **options: Any) -> Peer:
        """Connect and be admitted; `welcome` is the CONNACK."""
        peer = self.knock(client_id, version, **options)
        await self.sync()
        return peer.admitted()

    async def ask(self, peer: Peer, *packets: Packet) -> list[Packet]:
        """Send packets, and hear what comes until everything is on disk."""
        peer.send(*packets)
        await self.sync()
        return peer.heard()

    async def take_all(self, peer: Peer) -> list[PublishPacket]:
        """Take and acknowledge messages, as a client ought to, until there are no more."""
        taken: list[PublishPacket] = []
        packets = peer.heard()
        while packets:
            for packet in packets:
                if isinstance(packet, PublishPacket):
                    taken.append(packet)
                    if packet.packet_id is not None:
                        exactly_once = packet.qos is QoS.EXACTLY_ONCE
                        peer.send(PubRecPacket(packet.packet_id) if exactly_once else PubAckPacket(packet.packet_id))
                elif isinstance(packet, PubRelPacket):
                    peer.send(PubCompPacket(packet.packet_id))
            await self.sync()
            packets = peer.heard()
        return taken

    def queued_bytes_on_disk(self) -> int:
        """What queued messages take on disk."""
        with closing(look_into(self.path)) as connection:
            return int(connection.execute("SELECT total(length(block)) FROM mqtt_queued").fetchone()[0])

    def rows(self, table: str) -> int:
        """How many rows a table has on disk."""
        with closing(look_into(self.path)) as connection:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def look_into(path: Path) -> sqlite3.Connection:
    """Look into a database from outside."""
    return sqlite3.connect(path, isolation_level=None)


async def turn() -> None:
    """Let everything happen that needs no disk."""
    for _ in range(4):
        await asyncio.sleep(0)


async def turn_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in code that knows nothing of tests
            await asyncio.sleep(0.0005)


@asynccontextmanager
async def durable(directory: Path, limits: Limits | None = None) -> AsyncIterator[Durable]:
    """A durable bench that runs."""
    (directory / "0").mkdir(parents=True)
    bench = Durable(directory, limits)
    await bench.start()
    try:
        yield bench
    finally:
        await bench.close()
