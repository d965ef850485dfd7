"""One daemon's doors as a whole: what a reload and a registry in trouble change, and what they do not."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from core.config import HostPort, Listener, Tls
from core.errors import ConfigurationError, StorageError
from core.mqtt.broker import Broker
from core.mqtt.listener import Listeners
from core.telemetry import Counters
from devices import gatekeeper as module
from devices.config import DevicesSection
from devices.gatekeeper import Gatekeeper
from devices.registry import FILE, Registry
from tests.gates import Company
from tests.mqtt_peers import until

EVERYTHING = 'Version: "2012-10-17"\nStatement: [{Effect: Allow, Action: "*", Resource: "*"}]\n'


class Watched(Broker):
    """Counts how often it was asked to look at everybody again."""

    looks = 0

    def recheck(self) -> None:
        """Look at every connection."""
        self.looks += 1
        super().recheck()


class Site:
    """A gatekeeper with a listener for devices of the box, and one for those of a company."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "data" / "devices"
        self.policies = directory / "policies"
        self.policies.mkdir()
        company = Company.make(directory, "company")
        server = company.issue(directory, "server")
        own = Tls(certificate=server.certificate, key=server.key, client_ca=company.certificate)
        self.sections = [Listener(address=HostPort("127.0.0.1", 0), tls=tls) for tls in (Tls(), own)]
        self.counters = Counters()
        self.gatekeeper = Gatekeeper(DevicesSection(policies=self.policies), directory / "data", self.counters)
        self.broker = Watched(self.gatekeeper.access, lambda *_: None, self.counters)
        self.open = Listeners(self.broker)
        self.gatekeeper.guard(self.broker, self.open)

    @property
    def things(self) -> list[str]:
        return list(self.gatekeeper.access.registry.things)

    def enrol(self, name: str) -> None:
        """A command that does not tell the daemon."""
        with Registry(self.home / FILE) as registry:
            registry.put_thing(name)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A thread of the daemon itself writes meanwhile, and takes its time."""
        inside, done = threading.Event(), threading.Event()
        registry = self.gatekeeper.access.registry
        assert isinstance(registry, Registry)

        def write() -> None:
            with registry.transaction():
                inside.set()
                assert done.wait(20)

        thread = threading.Thread(target=write)
        thread.start()
        assert inside.wait(20)
        try:
            yield
        finally:
            done.set()
            thread.join()


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Site]:
    """A site whose tasks run; a task that ends is an error."""
    site = Site(directory)
    for section, context in zip(site.sections, site.gatekeeper.contexts(site.sections), strict=True):
        await site.open.open(section, context)
    tasks = [asyncio.create_task(work, name=name) for name, work in site.gatekeeper.tasks()]
    try:
        yield site
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        await site.open.close()
        site.gatekeeper.close()


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFRESH_SECONDS", 0.01)
    monkeypatch.setattr(module, "RECHECK_SECONDS", 0.01)


async def test_a_reload_that_fails_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        access = site.gatekeeper.access
        before = (access.local_issuer, access.policies)
        for name in ("ca.pem", "ca.key"):  # the next authority has another name
            (site.home / name).rename(tmp_path / name)
        (site.policies / "mine.yaml").write_text(EVERYTHING)
        (tmp_path / "server.pem").write_text("no certificate")
        with pytest.raises(ConfigurationError, match=r"server\.pem"):
            site.gatekeeper.reload()
        assert (access.local_issuer, access.policies) == before
        assert site.broker.looks == 0


async def test_a_reload_waits_for_nobody_who_writes_the_registry_and_does_without_it(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        for name, trouble in (("first", site.writing()), ("second", damaged(site))):
            (site.policies / f"{name}.yaml").write_text(EVERYTHING)
            with trouble:
                looks = site.broker.looks
                site.gatekeeper.reload()
                assert site.broker.looks == looks + 1
                assert name in site.gatekeeper.access.policies


async def test_the_loop_goes_on_while_a_thread_writes_the_registry(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        turns = 0
        with site.writing():
            told = asyncio.create_task(site.gatekeeper.recheck({}))
            for turns in range(50):  # noqa: B007 - `_follow` comes round several times, and both of them wait
                await asyncio.sleep(0.002)
            assert not told.done()
        assert await told == {"changed": False}
        assert turns == 49


async def test_a_change_that_the_daemon_is_told_of_holds_when_it_answers(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        site.gatekeeper._recheck_soon()
        site.enrol("press")
        await site.gatekeeper.recheck({})
        assert site.things == ["press"]
        assert site.broker.looks >= 1


async def test_a_change_that_the_daemon_is_not_told_of_is_found(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        site.enrol("press")
        await until(lambda: site.broker.looks == 1)
        assert site.things == ["press"]


async def test_devices_that_are_made_at_once_cost_one_look_at_everybody(tmp_path: Path) -> None:
    async with running(tmp_path) as site:
        for _ in range(100):
            site.gatekeeper._recheck_soon()
        assert site.broker.looks == 0
        await until(lambda: site.broker.looks > 0)
        site.gatekeeper._recheck_soon()
        await until(lambda: site.broker.looks == 2)


@contextmanager
def damaged(site: Site) -> Iterator[None]:
    """The registry has a row that cannot be read meanwhile."""
    database = sqlite3.connect(site.home / FILE, isolation_level=None)
    row = ("x", "GOOD", "", 0, 0)
    try:
        database.execute(
            "INSERT INTO certificate (id, status, pem, created_at, expires_at) VALUES (?, ?, ?, ?, ?)", row
        )
        yield
        database.execute("DELETE FROM certificate WHERE id = 'x'")
    finally:
        database.close()


async def test_a_registry_that_cannot_be_read_for_a_while_ends_nothing_and_what_it_said_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as site:
        site.enrol("press")
        await until(lambda: site.things == ["press"])
        with damaged(site):
            await until(lambda: "cannot be read" in caplog.text)
            with pytest.raises(StorageError, match="GOOD"):
                await site.gatekeeper.recheck({})
            await asyncio.sleep(0.05)  # several more attempts, which say nothing new
            assert site.things == ["press"]
        site.enrol("lathe")
        await until(lambda: site.things == ["press", "lathe"])
        assert caplog.text.count("cannot be read") == 1
