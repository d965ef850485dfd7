"""The edge daemon: builds its parts in the order in which a message meets them from behind, then opens the doors.

Start: configuration, rules, identities, buffer (recovered if it is damaged), gateway and broker with its sessions,
functions, listeners, HTTP, control socket, uplink. Ready means that the listeners accept. Stop: listeners first, so
that nothing new comes in; workers end; what was accepted is committed and acknowledged; then the uplink and the buffer
are closed. Nothing waits for the cloud at either end.
"""

import asyncio
import ssl
import time
from collections.abc import Coroutine, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.config import client_context, open_data_dir
from core.control import ControlServer, Handler
from core.errors import DamagedStore, StorageError
from core.files import read_texts
from core.mqtt import records
from core.mqtt.broker import Broker
from core.mqtt.journal import Journal
from core.mqtt.listener import Listeners, now_ms
from core.service import Life, end
from core.telemetry import Counters, get_logger
from devices.gatekeeper import Gatekeeper
from edge import functions, recovery
from edge.buffer import Buffer
from edge.calls import EdgeCalls
from edge.config import EdgeConfig, UplinkSection, load
from edge.gateway import Gateway
from edge.http import Http
from edge.lanes import Lane, LaneIndex
from edge.reactions import Reactions
from edge.shadows import Shadows
from edge.uplink import Uplink
from edge.windows import EdgeWindows
from functions import controls
from functions.api import LambdaApi
from functions.packages.library import Library
from rules import files
from rules.actions import EDGE_ACTIONS
from rules.engine import RuleSet
from rules.event import NO_ACCOUNT
from rules.files.arns import Account

log = get_logger("edge.daemon")

ACTIONS = EDGE_ACTIONS
TIDY_SECONDS = 5.0  # how often ages are checked and disk space is given back
BUFFER_FILE = "buffer.db"
CONTROL_FILE = "control.sock"


def load_rules(config: EdgeConfig) -> RuleSet:
    """The rules that the configuration names; raises ConfigurationError with every fault in every file."""
    texts = read_texts(config.rules.directory) if config.rules is not None else {}
    if config.functions is not None:
        texts |= Library(config.functions.directory).rules()
    account = Account(account_id=config.rules.account if config.rules is not None else NO_ACCOUNT)
    calls = EdgeCalls(config.rules, dict).names if config.rules is not None else frozenset()
    return files.parse(texts, supported=ACTIONS, calls=calls, account=account)


class Edge:
    """The parts of a running edge."""

    def __init__(
        self, config: EdgeConfig, rules: RuleSet, buffer: Buffer, gatekeeper: Gatekeeper, counters: Counters
    ) -> None:
        self.config = config
        self.counters = counters
        self.buffer = buffer
        self.gatekeeper = gatekeeper
        section = config.rules
        self.calls = EdgeCalls(section, lambda: gatekeeper.things) if section is not None else None
        account = section.account if section is not None else NO_ACCOUNT
        self.windows = EdgeWindows(buffer.commits, counters)
        self.reactions = Reactions(rules, counters, self.calls, account, self.windows)
        self.gateway = Gateway(self.reactions, LaneIndex(_lanes(config.uplink)), buffer, counters)
        self.windows.fire = self.gateway.emit
        journal, limits = Journal(buffer.commits), config.mqtt.limits()
        self.broker = Broker(gatekeeper.access, self.gateway.accept, counters, limits, journal)
        self.gateway.broker = self.broker
        self.listeners = Listeners(self.broker)
        gatekeeper.guard(self.broker, self.listeners)
        shadows = Shadows(buffer.commits.store, self.gateway.tell)
        self.functions = functions.make(config, self.gateway, self.broker, buffer, shadows, counters)
        api = LambdaApi(self.functions, self.functions.library) if self.functions is not None else None
        self.http = Http(config, gatekeeper, self.broker, counters, api, shadows)
        self.uplink: Uplink | None = None
        self.started = time.monotonic()

    async def open(self, contexts: Sequence[ssl.SSLContext | None]) -> None:
        """Take over the sessions and the windows that are on disk, and begin to listen."""
        stored = await self.buffer.commits.store.run(records.load)
        self.broker.restore(stored, time.monotonic(), now_ms())
        await self.windows.load(self.reactions.rules)
        if self.functions is not None:
            await self.functions.open()
            self.functions.changed = self._reload_rules
        for section, context in zip(self.config.listeners, contexts, strict=True):
            await self.listeners.open(section, context)
            if section.exposed:
                log.warning("everyone on the network may connect without saying who they are", address=section.address)
        await self.http.open()

    async def close(self) -> None:
        """Hear nobody any more, and let functions end what they have in hand."""
        await self.listeners.close()
        await self.http.close()
        if self.functions is not None:
            await self.functions.close()

    async def reload(self) -> None:
        """Read rules, policies and certificates again; a fault in them raises, and what is in force stays."""
        if self.functions is not None:
            await self.functions.reload()
        await self._reload_rules()
        self.gatekeeper.reload()
        self.http.reload()

    async def _reload_rules(self) -> None:
        rules = await asyncio.to_thread(load_rules, self.config)  # a second for a thousand rules; devices do not wait
        self.reactions.replace(rules)
        if self.calls is not None:
            self.calls.forget()
        log.info("reloaded", rules=len(rules))

    def background(self, context: ssl.SSLContext | None) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """What runs beside the listeners, by name."""
        path = self.config.edge.data_dir / BUFFER_FILE
        always = [
            *self.gatekeeper.tasks(),
            ("windows", self.windows.run()),
            ("buffer tidy", _tidy(self.buffer)),
            ("buffer damage", _end_on_damage(self.buffer, path)),
            *(self.functions.tasks() if self.functions is not None else []),
        ]
        if self.config.uplink is None:
            return always
        self.uplink = Uplink(self.config.edge.name, self.config.uplink, context, self.buffer, self.counters)
        self.buffer.changed = self.uplink.wake
        return [("uplink", self.uplink.run()), *always]

    async def clients(self, _: dict[str, Any]) -> dict[str, Any]:
        """Who is connected."""
        return {"clients": [asdict(presence) for presence in self.broker.clients()]}

    async def status(self, _: dict[str, Any]) -> dict[str, Any]:
        """What `tidegate edge status` shows."""
        uplink, windows = self.uplink, self.windows.status()
        return {
            "name": self.config.edge.name,
            "uptime_seconds": round(time.monotonic() - self.started, 1),
            "listeners": [str(address) for address in self.listeners.addresses],
            "http": [str(address) for address in self.http.addresses],
            "clients": len(self.broker.clients()),
            "sessions": self.broker.sessions,
            "subscriptions": self.broker.router.subscriptions,
            "retained": self.broker.retained.published,
            "uplink": "none" if uplink is None else "up" if uplink.connected_since else "down",
            "uplink_error": uplink.last_error if uplink else "",
            "buffered_messages": sum(s.count for s in self.buffer.lanes.values()),
            "buffered_bytes": sum(s.bytes for s in self.buffer.lanes.values()),
            "lanes": [
                {"lane": s.lane.name, "messages": s.count, "bytes": s.bytes, "next_sequence": s.next}
                for s in self.buffer.lanes.values()
            ],
            "rules": [rule.status() | windows.get(rule.name, {}) for rule in self.reactions.rules],
            "counters": self.counters.snapshot(),
        }  # fmt: skip


async def serve(config_path: Path, life: Life) -> None:
    """Run an edge until `life` ends it; raises ConfigurationError for anything the operator must change."""
    config = load(config_path)
    rules = load_rules(config)
    uplink_context = client_context(config.uplink.tls) if config.uplink and config.uplink.secure else None
    with open_data_dir(config.edge.data_dir) as directory:
        counters = Counters()
        gatekeeper = Gatekeeper(config.devices, directory, counters)
        contexts = gatekeeper.contexts(config.listeners)
        buffer = await _open_buffer(directory / BUFFER_FILE, config.uplink, counters)
        edge = Edge(config, rules, buffer, gatekeeper, counters)
        commands: dict[str, Handler] = {"status": edge.status, "clients": edge.clients, "recheck": gatekeeper.recheck}
        if edge.functions is not None:
            commands |= controls.handlers(edge.functions)
        await edge.open(contexts)
        async with ControlServer(directory / CONTROL_FILE, commands), asyncio.TaskGroup() as group:
            tasks = [group.create_task(work, name=name) for name, work in edge.background(uplink_context)]
            life.on_reload(edge.reload)
            life.watch("buffer", lambda: buffer.alive)
            life.ready(f"{len(rules)} rules, listening on {', '.join(map(str, edge.listeners.addresses))}")
            await life.stop_requested()
            await edge.close()
            await end(tasks)
            if edge.functions is not None:
                await edge.functions.closed()
        await buffer.close()
        gatekeeper.close()


def _lanes(uplink: UplinkSection | None) -> list[Lane]:
    return [section.lane() for section in uplink.lanes] if uplink is not None else []


async def _open_buffer(path: Path, uplink: UplinkSection | None, counters: Counters) -> Buffer:
    lanes = _lanes(uplink)
    if not recovery.is_marked(path):
        try:
            return await Buffer.open(path, lanes, counters)
        except DamagedStore as error:
            log.error("the buffer file is damaged", error=error)
    salvage = await asyncio.to_thread(recovery.recover, path)
    lost = "unknown" if salvage.lost is None else salvage.lost
    log.error(
        "buffer recovered",
        messages_saved=salvage.saved,
        messages_lost=lost,
        windows_saved=salvage.windows,
        damaged_file=salvage.aside,
    )
    counters.add("buffer_recoveries_total")
    counters.dropped("damaged on disk", salvage.lost or 0)
    return await Buffer.open(path, lanes, counters)


async def _tidy(buffer: Buffer) -> None:
    while True:
        await asyncio.sleep(TIDY_SECONDS)
        try:
            await buffer.tidy(now_ms())
        except StorageError as error:
            log.warning("the buffer could not be tidied", error=error)


async def _end_on_damage(buffer: Buffer, path: Path) -> None:
    try:
        await buffer.damaged
    except DamagedStore:
        recovery.mark_damaged(path)
        raise
