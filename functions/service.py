"""The functions of one daemon: what is deployed, who runs it, and every way to call it.

Holds the library, the durable queue, the pools of workers and the schedules together, and exchanges what has changed
when something was deployed: events that wait go to the version that is current when they are taken, and a version that
no alias names any more ends when it has finished what it has.

Will not decide anything about one event (`asynchronous`, `workers` do), nor know the broker: the side gives `Site`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from socket import socket
from typing import Any

from core.chance import Randomness
from core.commits import Commits
from core.errors import TidegateError
from core.http.iotdata import Publish, Shadows
from core.secret_files import SecretFiles
from core.telemetry import Counters, get_logger
from functions import destinations
from functions.asynchronous import Asynchronous
from functions.config import LOGS, FunctionsSection
from functions.destinations import Notify
from functions.endpoint import Endpoint, KeyPair, Services
from functions.errors import FunctionNotFound, FunctionsError, RecursiveInvocation, TooLarge
from functions.invocations import EVENT_BYTES_MAX, Ending, Invocation, Result, refused
from functions.launcher.client import Launcher
from functions.logs import Logs
from functions.manifest import Manifest, Schedule
from functions.names import FunctionName
from functions.packages.library import Library, Package
from functions.polling import Polling, sources
from functions.queue import InvocationQueue
from functions.retries import DEPTH_MAX
from functions.scheduler import Scheduler
from functions.subscriptions import target
from functions.workers.budget import Budget
from functions.workers.pool import Pool, PoolSurroundings
from functions.workers.worker import Work

log = get_logger("functions.service")

FOLLOW_SECONDS = 30.0  # how often the library is looked at: a deploy tells us, and sometimes cannot
DRAIN_LOOK_SECONDS = 0.25
DRAIN_GRACE_SECONDS = 10.0  # beyond the time-out of the event in hand, for those that wait behind it

Closer = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Site:
    """What a side gives its functions.

    `publish(topic, payload)` gives a message to the broker, the rules and the lanes, and says when it is kept; `answer`
    does that for handlers, and returns when the message is kept as its QoS promises; `notify` writes to an SNS topic,
    where there are such. `account` is the number in ARNs, `name` what a Greengrass core would be called.
    """

    publish: destinations.Publish
    answer: Publish
    shadows: Shadows | None = None
    notify: Notify | None = None
    account: str = "000000000000"
    name: str = ""


@dataclass(slots=True)
class Deployed:
    """The library as it was last read: by what each name means, and which versions events go to."""

    current: list[Package] = field(default_factory=list)
    known: dict[FunctionName, Package] = field(default_factory=dict)
    stamp: object = None


class Functions:
    """Made on a running loop; `open` before `tasks`, `close` after them.

    Raises ConfigurationError for a directory of secrets that is not there.
    """

    def __init__(
        self, section: FunctionsSection, data_dir: Path, commits: Commits, counters: Counters, site: Site
    ) -> None:
        self.library = Library(section.directory)
        self.logs = data_dir / LOGS
        self.changed: Callable[[], Awaitable[None]] = _nothing  # called when other versions are current than before
        self.exchange: Callable[[list[Manifest]], None] = lambda _: None  # the same, before events go to them
        self.queue = InvocationQueue(commits, counters, section.queue_bytes)
        self._section = section
        self._counters = counters
        self._site = site
        self._uuid = Randomness().uuid
        self._secrets = SecretFiles(section.secrets) if section.secrets is not None else None
        self._launcher = Launcher(section)
        self._written = Logs(self.logs, section.log_bytes, counters)
        self._surroundings = PoolSurroundings(
            self._environment, self._serve_endpoint, Budget(section.max_workers), self._written, section.idle
        )
        self.asynchronous = Asynchronous(
            self.queue, commits, self._submit, self._manifest, site.publish, counters, site.notify
        )
        self.scheduler = Scheduler(commits, self.call, counters, self.queue.timeline)
        self.polling = Polling(commits, self._submit, counters, self.queue.timeline)
        self.asynchronous.destinations.sent = self.polling.sent
        self._services = Services(self, self.library, site.answer, site.shadows, self._secrets)
        self._deployed = Deployed()
        self._reading = asyncio.Lock()
        self._pools: dict[FunctionName, Pool] = {}
        self._fresh: asyncio.Queue[Coroutine[Any, Any, None]] = asyncio.Queue()

    async def open(self) -> None:
        """Read what is deployed, and take up the events that the last run left. Raises StorageError."""
        await self._read()
        await self.asynchronous.load()
        await self.scheduler.load(self._schedules())
        self._exchange()

    def tasks(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """What runs beside the daemon's other parts, by name."""
        return [
            ("functions", self._run()),
            ("functions library", self._follow()),
            ("schedules", self.scheduler.run()),
            ("queues", self.polling.run()),
        ]

    async def close(self) -> None:
        """Start nothing more, let events in hand end for a moment, and end every worker; before the last commit."""
        self.asynchronous.close()
        self.scheduler.close()
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))

    async def closed(self) -> None:
        """End what remains, after the tasks."""
        await self._launcher.close()
        await self._written.close()

    # -- calling ------------------------------------------------------------------------------------------------------

    def call(self, name: FunctionName, payload: bytes, client_context: bytes = b"") -> str:
        """Take an event for later; returns the request id.

        It is kept by the next commit, which whoever made a promise asks for. Raises FunctionsError.
        """
        return self.asynchronous.call(name, payload, client_context)

    async def accept(self, name: FunctionName, payload: bytes, client_context: bytes = b"", *, depth: int = 0) -> str:
        """Take an event for later; its request id, when it is on disk. Raises FunctionsError, StorageError."""
        request_id = self.asynchronous.call(name, payload, client_context, depth=depth)
        await self.queue.kept()
        return request_id

    async def invoke(
        self,
        name: FunctionName,
        payload: bytes,
        client_context: bytes = b"",
        *,
        wants_tail: bool = False,
        depth: int = 0,
    ) -> Result:
        """Have an event handled now, and wait for its end. Raises FunctionsError."""
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def ended(result: Result) -> None:
            if not done.done():
                done.set_result(result)

        self.request(name, payload, client_context, ended, wants_tail=wants_tail, depth=depth)
        return await done

    def request(
        self,
        name: FunctionName,
        payload: bytes,
        client_context: bytes,
        done: Callable[[Result], None],
        *,
        wants_tail: bool = False,
        depth: int = 0,
    ) -> None:
        """Have an event handled now; `done` is called on the loop. `depth` is as in `Asynchronous.call`.

        Raises FunctionsError.
        """
        if depth > DEPTH_MAX:
            raise RecursiveInvocation(f"{name}: functions have called each other {DEPTH_MAX} times")
        if len(payload) > EVENT_BYTES_MAX:
            raise TooLarge(f"an event of {len(payload):,} bytes; {EVENT_BYTES_MAX:,} are taken")
        invocation = Invocation(self._uuid(), name, payload, client_context, depth=depth)

        def ended(result: Result) -> None:
            result.request_id = invocation.id
            done(result)

        self._pool(self._find(name)).submit(invocation, ended, wants_tail=wants_tail, urgent=True)

    def _submit(self, invocation: Invocation, done: Callable[[Result], None]) -> None:
        self._pool(self._find(invocation.function)).submit(invocation, done)

    def _submit_again(self, work: Work) -> None:
        """Give an event that waited for another version's workers to the version that its name means now."""
        if work.done is not None:
            try:
                pool = self._pool(self._find(work.invocation.function))
                pool.submit(work.invocation, work.done, wants_tail=work.wants_tail, urgent=work.urgent)
            except FunctionNotFound as error:
                work.done(refused(error))
            except TidegateError as error:
                log.warning("events wait for workers", function=str(work.invocation.function), error=error)
                work.done(Result(Ending.THROTTLED))

    def _manifest(self, name: FunctionName) -> Manifest:
        return self._find(name).manifest

    def _find(self, name: FunctionName) -> Package:
        found = self._deployed.known.get(name)
        if found is None:
            found = self._deployed.known[name] = self.library.find(name)
        return found

    # -- what is deployed ---------------------------------------------------------------------------------------------

    @property
    def current(self) -> list[Package]:
        """The versions that events go to."""
        return self._deployed.current

    async def reload(self) -> None:
        """Read the library again, and exchange what has changed; one after the other, so that no older look wins."""
        async with self._reading:
            if await asyncio.to_thread(self.library.stamp) != self._deployed.stamp:
                await self._read()
                self._exchange()
                self.asynchronous.wake()
                await self.changed()

    async def _read(self) -> None:
        stamp = await asyncio.to_thread(self.library.stamp)  # before the rest, which may be newer
        current = await asyncio.to_thread(self.library.current)
        for problem in await asyncio.to_thread(self.library.problems):
            log.error("a function is left out", reason=problem)
        self._deployed = Deployed(current, {}, stamp)

    def _exchange(self) -> None:
        """Let everything that knows versions know the current ones."""
        current = self._deployed.current
        named = {package.function for package in current} | self._aliased()
        for old in [function for function in self._pools if function not in named]:
            pool = self._pools.pop(old)
            self._fresh.put_nowait(_drained(pool))
            for work in pool.withdraw():
                self._submit_again(work)
        for package in current:
            if package.manifest.pinned:
                self._pool(package)
        manifests = [package.manifest for package in current]
        self.exchange(manifests)
        self.scheduler.replace(self._schedules())
        self.polling.replace([each for manifest in manifests for each in sources(target(manifest), manifest)])

    def _schedules(self) -> list[tuple[FunctionName, Schedule]]:
        manifests = [package.manifest for package in self._deployed.current]
        return [(target(manifest), schedule) for manifest in manifests for schedule in manifest.schedules]

    def _aliased(self) -> set[FunctionName]:
        """Every version that some alias names."""
        named = set()
        for package in self._deployed.current:
            name = package.manifest.name
            try:
                named |= {FunctionName(name, str(version)) for version in self.library.aliases(name).values()}
            except TidegateError as error:
                log.warning("the aliases of a function cannot be read", function=name, error=error)
        return named

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            try:
                await self.reload()
            except (TidegateError, OSError) as error:
                log.error("the functions cannot be read again", error=error)

    # -- workers ------------------------------------------------------------------------------------------------------

    def _pool(self, package: Package) -> Pool:
        pool = self._pools.get(package.function)
        if pool is None:
            pool = self._pools[package.function] = Pool(package, self._launcher, self._surroundings, self._counters)
            self._fresh.put_nowait(pool.run())
        return pool

    async def _run(self) -> None:
        """Be the parent of every pool's task."""
        try:
            async with asyncio.TaskGroup() as group:
                if self._deployed.current:
                    group.create_task(self._reach_launcher(), name="launcher")
                while True:
                    group.create_task(await self._fresh.get())
        finally:
            while not self._fresh.empty():
                self._fresh.get_nowait().close()

    async def _reach_launcher(self) -> None:
        """Have it ready, so that the first event waits for a worker only."""
        with suppress(TidegateError):
            await self._launcher.layers()

    def _environment(self, package: Package) -> Mapping[str, str]:
        """What only a running daemon knows of a worker's variables. Raises TidegateError where a secret is missing."""
        secrets: dict[str, str] = {}
        for variable, name in package.manifest.environment_secrets.items():
            if self._secrets is None:
                raise FunctionsError(f"{package.manifest.name}: [functions] names no directory of secrets")
            value = self._secrets.get(name, asyncio.get_running_loop().time())
            if "SecretString" not in value:
                raise FunctionsError(f"{package.manifest.name}: the secret {name} is no text, as variables are")
            secrets[variable] = value["SecretString"]
        core = {"AWS_IOT_THING_NAME": self._site.name, "AWS_GREENGRASS_GROUP_NAME": self._site.name}
        return {**secrets, **(core if self._site.name else {}), **KeyPair().environment}

    async def _serve_endpoint(
        self, listening: socket, package: Package, environment: Mapping[str, str], depth: Callable[[], int]
    ) -> Closer:
        keys = KeyPair(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])
        endpoint = Endpoint(package.manifest, keys, self._services, depth)
        await endpoint.open(listening)
        return endpoint.close

    # -- for people ---------------------------------------------------------------------------------------------------

    async def status(self, name: str = "") -> dict[str, Any]:
        """What `tidegate functions status` shows, of one function or of all."""
        pools = [pool for pool in self._pools.values() if name in ("", pool.package.manifest.name)]
        lanes = [lane for lane in self.asynchronous.status() if name in ("", lane.function.partition(":")[0])]
        return {
            "sandbox": {"mode": self._section.sandbox, **await self._launcher.layers()},
            "functions": [pool.status() for pool in pools],
            "queues": [asdict(lane) for lane in lanes],
            "queued_events": self.queue.count,
            "queued_bytes": self.queue.bytes,
            "problems": await asyncio.to_thread(self.library.problems),
        }


async def _nothing() -> None:
    return


async def _drained(pool: Pool) -> None:
    """Close a pool that gets nothing more, when it has finished what it has."""
    loop = asyncio.get_running_loop()
    end = loop.time() + pool.package.manifest.timeout + DRAIN_GRACE_SECONDS
    while (pool.in_flight or pool.waiting) and loop.time() < end:  # noqa: ASYNC110 - it is told to nobody else
        await asyncio.sleep(DRAIN_LOOK_SECONDS)
    await pool.close()
