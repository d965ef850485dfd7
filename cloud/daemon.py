"""The cloud daemon: builds its parts from the targets backwards to the doors.

Start: configuration, rules, database (inbox and embedded targets), deliveries, worker, broker, functions,
listeners, HTTP, control socket. Ready means that the listeners accept. Stop: listeners first; what was accepted is
committed and acknowledged; the rest of the inbox and of the deliveries stays in the database for the next start.
"""

import asyncio
import sqlite3
import ssl
import time
import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cloud import functions, inbox
from cloud.calls import CloudCalls
from cloud.config import CloudConfig, load
from cloud.effects import Surroundings, Targets
from cloud.functions import Calling
from cloud.http import Http
from cloud.ingest import Ingest
from cloud.targets import alerts, streams, tables
from cloud.targets.alerts import InvalidMessage, Notification
from cloud.targets.delivery import Delivery
from cloud.targets.notifier import Notifier
from cloud.windows import CloudWindows
from cloud.worker import Worker
from core import frames, ledger
from core.commits import Commits
from core.config import open_data_dir
from core.control import ControlServer, Handler
from core.errors import ConfigurationError
from core.files import read_texts
from core.message import Message
from core.mqtt import records
from core.mqtt.broker import Broker
from core.mqtt.journal import Journal
from core.mqtt.limits import Limits
from core.mqtt.listener import Listeners, now_ms
from core.receipts import Batch
from core.service import Life, end
from core.store import Store
from core.telemetry import Counters, get_logger
from devices.gatekeeper import Gatekeeper
from functions import controls, stored
from functions.api import LambdaApi
from functions.packages.library import Library
from functions.records import Attributes
from rules import files
from rules.actions import CLOUD_ACTIONS
from rules.engine import RuleSet
from rules.event import NO_ACCOUNT
from rules.files.arns import Account

log = get_logger("cloud.daemon")

ACTIONS = CLOUD_ACTIONS
DATABASE_FILE = "cloud.db"
CONTROL_FILE = "control.sock"
STREAMS_DIRECTORY = "streams"
LIMITS = Limits(packet_bytes=256 << 10, unsettled_bytes=4 << 20)  # a frame with one large message; a window of frames
SCHEMA = inbox.SCHEMA + tables.SCHEMA + streams.SCHEMA + alerts.SCHEMA + records.SCHEMA + ledger.SCHEMA + stored.SCHEMA


def make_targets(config: CloudConfig) -> Targets:
    """The embedded targets that the configuration names."""
    section = config.targets
    return Targets(tables.Tables(section.tables), streams.Streams(section.streams), alerts.Topics(section.topics))


def load_rules(config: CloudConfig) -> RuleSet:
    """The rules that the configuration names; raises ConfigurationError with every fault in every file."""
    texts = read_texts(config.rules.directory) if config.rules is not None else {}
    if config.functions is not None:
        texts |= Library(config.functions.directory).rules()
    targets = make_targets(config)
    account, calls = Account(), frozenset[str]()
    if config.rules is not None:
        account = Account(account_id=config.rules.account)
        calls = CloudCalls(config.rules, dict, targets.tables, config.cloud.data_dir / DATABASE_FILE).names
    rules = files.parse(texts, supported=ACTIONS, calls=calls, account=account)
    problems = list(targets.check(rules))
    if problems:
        raise ConfigurationError("rules", problems)
    return rules


class Cloud:
    """The parts of a running cloud."""

    def __init__(
        self, config: CloudConfig, rules: RuleSet, store: Store, gatekeeper: Gatekeeper, counters: Counters
    ) -> None:
        section, directory = config.targets, config.cloud.data_dir
        self.config = config
        self.counters = counters
        self.store = store
        self.gatekeeper = gatekeeper
        self.commits = Commits(store)
        self.targets = make_targets(config)
        self.delivery = Delivery(store, section.streams, directory / STREAMS_DIRECTORY, now_ms, counters)
        self.notifier = Notifier(store, section.topics, now_ms, self._publish_alert, counters)
        self.calls: CloudCalls | None = None
        self.windows = CloudWindows(counters)
        journal, limits = Journal(self.commits), config.mqtt.limits(LIMITS)
        self.broker = Broker(gatekeeper.access, self._accept, counters, limits, journal)
        self.listeners = Listeners(self.broker)
        made = functions.make(config, self.broker, self._accept, self.commits, self._notify, counters)
        self.functions = made[0] if made is not None else None
        self.subscriptions = made[1] if made is not None else None
        account = NO_ACCOUNT
        if config.rules is not None:
            self.calls = CloudCalls(config.rules, lambda: gatekeeper.things, self.targets.tables, store.path)
            account = config.rules.account
        calling = Calling(*made, counters) if made is not None else None
        surroundings = Surroundings(self.targets, self.calls, account, windows=self.windows, calling=calling)
        self.worker = Worker(store, rules, surroundings, self._publish, self._wake_targets, counters)
        self.ingest = Ingest(store, counters, self.worker.wake)
        api = LambdaApi(self.functions, self.functions.library) if self.functions is not None else None
        self.http = Http(config, gatekeeper, self.broker, counters, api)
        gatekeeper.guard(self.broker, self.listeners)
        self.started = time.monotonic()

    async def open(self, contexts: Sequence[ssl.SSLContext | None]) -> None:
        """Take over the sessions and the windows that are on disk, and begin to listen."""
        await self.windows.load(self.store, self.worker.rules)
        if self.functions is not None:
            await self.functions.open()
            self.functions.changed = self._reload_rules
        self.broker.restore(await self.store.run(records.load), time.monotonic(), now_ms())
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

    def background(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """What runs beside the listeners, by name."""
        return [
            *self.gatekeeper.tasks(),
            ("rules", self.worker.run()),
            ("windows", self.windows.run(self._client_ids, self.worker.wake)),
            ("streams", self.delivery.run()),
            ("alerts", self.notifier.run()),
            *(self.functions.tasks() if self.functions is not None else []),
        ]

    async def reload(self) -> None:
        """Read rules, policies and certificates again; a fault in them raises, and what is in force stays."""
        if self.functions is not None:
            await self.functions.reload()
        await self._reload_rules()
        self.gatekeeper.reload()
        self.http.reload()

    async def _reload_rules(self) -> None:
        rules = await asyncio.to_thread(load_rules, self.config)  # a second for a thousand rules; devices do not wait
        self.worker.replace(rules)
        if self.calls is not None:
            self.calls.forget()
        log.info("reloaded", rules=len(rules))

    def _accept(self, batch: Batch) -> None:
        """What clients publish here themselves goes to subscribers at once, and like frames into the inbox."""
        direct = [message for message in batch.messages if not message.topic.startswith(frames.TOPIC_ROOT)]
        if direct:
            self.broker.publish(direct)
            if self.subscriptions is not None:
                self.subscriptions.serve(direct)
        self.ingest.accept(batch)

    def _publish(self, messages: list[Message]) -> None:
        self.broker.publish(messages)

    def _publish_alert(self, topic: str, payload: bytes) -> None:
        self.broker.publish([Message(topic, payload, 1, received_at=now_ms())])

    def _notify(self, connection: sqlite3.Connection, arn: str, body: bytes, _: Attributes) -> None:
        """Write to a topic in a transaction. Raises UnknownTarget, InvalidMessage."""
        found = self.targets.topics.publish(connection, arn, [Notification(str(uuid.uuid4()), body, now_ms())])
        if found:
            raise InvalidMessage(found[0].reason)

    def _client_ids(self) -> set[str]:
        return {client.client_id for client in self.broker.clients()}

    def _wake_targets(self) -> None:
        self.delivery.wake()
        self.notifier.wake()

    # -- the control socket -------------------------------------------------------------------------------------------

    async def clients(self, _: dict[str, Any]) -> dict[str, Any]:
        """Who is connected."""
        return {"clients": [asdict(presence) for presence in self.broker.clients()]}

    async def flush(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Write out what streams hold, due or not."""
        return {"objects": await self.delivery.flush(arguments.get("stream"))}

    async def status(self, _: dict[str, Any]) -> dict[str, Any]:
        """What `tidegate cloud status` shows."""
        waiting_frames, waiting_messages = await self.store.run(inbox.waiting)
        edges = await self.store.run(inbox.edges)
        windows = self.windows.status()
        return {
            "uptime_seconds": round(time.monotonic() - self.started, 1),
            "listeners": [str(address) for address in self.listeners.addresses],
            "http": [str(address) for address in self.http.addresses],
            "clients": len(self.broker.clients()),
            "sessions": self.broker.sessions,
            "inbox_frames": waiting_frames,
            "inbox_messages": waiting_messages,
            "edges": edges,
            "rules": [rule.status() | windows.get(rule.name, {}) for rule in self.worker.rules],
            "counters": self.counters.snapshot(),
        }


async def serve(config_path: Path, life: Life) -> None:
    """Run a cloud until `life` ends it; raises ConfigurationError for anything the operator must change."""
    config = load(config_path)
    rules = load_rules(config)
    with open_data_dir(config.cloud.data_dir) as directory:
        counters = Counters()
        gatekeeper = Gatekeeper(config.devices, directory, counters, frames.TOPIC_ROOT)
        contexts = gatekeeper.contexts(config.listeners)
        store = Store(directory / DATABASE_FILE, SCHEMA)
        cloud = Cloud(config, rules, store, gatekeeper, counters)
        await store.run(cloud.targets.open)
        commands: dict[str, Handler] = {"status": cloud.status, "clients": cloud.clients, "flush": cloud.flush}
        commands["recheck"] = gatekeeper.recheck
        if cloud.functions is not None:
            commands |= controls.handlers(cloud.functions)
        await cloud.open(contexts)
        async with ControlServer(directory / CONTROL_FILE, commands), asyncio.TaskGroup() as group:
            tasks = [group.create_task(work, name=name) for name, work in cloud.background()]
            life.on_reload(cloud.reload)
            life.watch("store", lambda: store.alive)
            life.ready(f"{len(rules)} rules, listening on {', '.join(map(str, cloud.listeners.addresses))}")
            await life.stop_requested()
            await cloud.close()
            await end(tasks)
            if cloud.functions is not None:
                await cloud.functions.closed()
        if cloud.calls is not None:
            cloud.calls.close()
        await cloud.commits.drain()
        await store.close()
        gatekeeper.close()
