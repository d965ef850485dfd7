"""Everything about who may come in, put together for one daemon: registry, authority, policies, provisioning.

Builds the parts that the [devices] table names, and only those that are needed: no authority where no listener asks for
one, no library for certificates where nothing is issued. Reading again is all or nothing: with a fault in any file,
what was in force stays in force. The registry is read in a thread, which may have to wait for one that writes. Requests
for provisioning are answered here, on the connection that asked.

Will not decide about anybody: `access`, `provisioning` and `registration` do.
"""

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.config import Listener, server_context
from core.errors import StorageError, TidegateError
from core.message import Message
from core.mqtt.broker import Broker
from core.mqtt.connection import Connection
from core.mqtt.listener import Listeners
from core.telemetry import Counters, get_logger
from core.topics import BASIC_INGEST, FUNCTION_REQUESTS
from devices import directory, policy_files, provisioning, revocations, template_files
from devices.access import DeviceAccess, Reserved
from devices.authority import CA, Authority
from devices.config import DevicesSection
from devices.policies import PolicySet
from devices.provisioning import Provisioning
from devices.registration import Registration, Vendor, read_vendors
from devices.registry import FILE, Registry, Thing
from devices.revocations import Revocations
from devices.templates import Template

log = get_logger("devices.gatekeeper")

REFRESH_SECONDS = 1.0  # how often the registry is looked at for changes by commands that could not tell us
RECHECK_SECONDS = 0.2  # how long a device that was made by another waits, so that a crowd costs one look at everybody
REQUESTS_MAX = 256  # for provisioning, of one turn of the loop; how many are worked on `provisioning` bounds


class Rules:
    """What files say, read together: policies, revocation lists, templates, vendors' authorities.

    Raises ConfigurationError with the faults of the first kind of file that has any.
    """

    def __init__(self, section: DevicesSection) -> None:
        self.policies: PolicySet = policy_files.read(section.policies)
        self.revoked: Revocations = revocations.read(section.revocation_lists)
        self.templates: dict[str, Template] = template_files.load(section.provisioning)
        self.vendors: Sequence[Vendor] = read_vendors(section.registration_authorities, self.templates)


def check(section: DevicesSection, listeners: Sequence[Listener]) -> None:
    """Raise ConfigurationError for what a daemon would not start with, and make nothing that is not there yet."""
    Rules(section)
    clients = [authority.ca for authority in section.registration_authorities]
    for listener in listeners:
        if listener.tls is not None and listener.tls.certificate is not None:
            server_context(listener.tls, clients, anonymous=listener.anonymous, passwords=listener.passwords)


def warnings(listeners: Sequence[Listener]) -> list[str]:
    """What an operator should know of listeners."""
    return [f"{x.address}: everyone on the network may connect unnamed" for x in listeners if x.exposed]


class Gatekeeper:
    """The identities of one daemon; made on a running loop. `close` it after the listeners.

    `frames_under` is where uplink frames are published, at a cloud. Raises ConfigurationError or StorageError.
    """

    def __init__(
        self, section: DevicesSection, data_dir: Path, counters: Counters, frames_under: str | None = None
    ) -> None:
        self._section = section
        self._home = section.home(data_dir)
        rules = Rules(section)
        directory.make(self._home)
        self._registry = Registry(self._home / FILE)
        self._policies = rules.policies
        self._broker: Broker | None = None
        self._listeners: Listeners | None = None
        self._sections: Sequence[Listener] = ()
        self._doors: list[tuple[Listener, Callable[[ssl.SSLContext], None]]] = []  # of what speaks no MQTT
        self._passwords = False  # whether a listener takes them
        self._due: asyncio.TimerHandle | None = None  # the next look at every connection
        self._requests: asyncio.Queue[tuple[Connection, Message]] = asyncio.Queue(REQUESTS_MAX)
        self._counters = counters
        self._provisioning = Provisioning(
            self._registry, self._authority, rules.templates, lambda: self._policies, counters
        )
        self._registration = Registration(
            self._registry, rules.vendors, lambda: self._policies, self._publish, counters
        )
        self.access = DeviceAccess(
            self._registry,
            rules.policies,
            counters,
            default_policies=section.default_policies,
            reserved=Reserved((*provisioning.PREFIXES, BASIC_INGEST, FUNCTION_REQUESTS), frames_under),
            local_issuer=self._local_issuer(),
            register=self._registration.register,
            revoked=rules.revoked.revoke,
        )

    @property
    def things(self) -> Mapping[str, Thing]:
        """Every device of the registry by its name, as of now."""
        return self._registry.things

    def guard(self, broker: Broker, listeners: Listeners) -> None:
        """Answer this broker's clients; before its listeners open."""
        self._broker = broker
        self._listeners = listeners
        broker.serve = self._take

    def tasks(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """What runs beside the listeners, by name."""
        always = [("provisioning", self._serve()), ("registry", self._follow())]
        return [("passwords", self.access.logins.run()), *always] if self._passwords else always

    def contexts(self, listeners: Sequence[Listener]) -> list[ssl.SSLContext | None]:
        """The TLS side of each listener, its certificate issued here where it has none of its own.

        Raises ConfigurationError that names the file that is missing or bad, and then changes nothing.
        """
        contexts = [self._context(listener) for listener in listeners]
        issuer = self._local_issuer()
        self._sections = listeners
        self._passwords = any(listener.passwords for listener in listeners)
        self.access.local_issuer = issuer
        return contexts

    def door(self, listener: Listener, renew: Callable[[ssl.SSLContext], None]) -> ssl.SSLContext | None:
        """The TLS side of a server that is no listener of MQTT; `renew` is given each later one.

        Raises ConfigurationError that names the file that is missing or bad.
        """
        context = self._context(listener)
        self._doors.append((listener, renew))
        return context

    def reload(self) -> None:
        """Read policies, revocation lists, templates and certificates again.

        Raises ConfigurationError or StorageError, and then changes nothing that was in force. Connections that lose no
        right to be here stay.
        """
        rules = Rules(self._section)
        self._renew()
        self._policies = rules.policies
        self._provisioning.templates = rules.templates
        self._registration.vendors = rules.vendors
        self.access.replace(rules.policies, rules.revoked.revoke)
        self._recheck()

    async def recheck(self, _: dict[str, Any]) -> dict[str, Any]:
        """A command has changed the registry: let it hold for live connections at once."""
        changed = await asyncio.to_thread(self._registry.refresh)
        self._recheck()
        self._try_to_renew()  # the first device makes the authority, which listeners trust from then on
        return {"changed": changed}

    def close(self) -> None:
        """Close the registry."""
        if self._due is not None:
            self._due.cancel()
        self._registry.close()

    # -- certificates -------------------------------------------------------------------------------------------------

    def _authority(self) -> Authority:
        return Authority.open(self._home, self._section.certificate_days)

    def _local_issuer(self) -> str | None:
        return self._authority().common_name if (self._home / CA).exists() else None

    def _renew(self) -> None:
        doors = [(renew, self._context(listener)) for listener, renew in self._doors]
        contexts = self.contexts(self._sections)
        for renew, context in doors:
            if context is not None:
                renew(context)
        if self._listeners is not None:
            self._listeners.renew(contexts)

    def _try_to_renew(self) -> None:
        try:
            self._renew()
        except TidegateError as error:
            log.warning("the listeners' certificates cannot be read again", error=error)

    def _context(self, listener: Listener) -> ssl.SSLContext | None:
        tls = listener.tls
        if tls is None:
            return None
        if tls.certificate is None:
            certificate, key = self._authority().server(tls.names)
            tls = tls.model_copy(update={"certificate": certificate, "key": key})
        clients = [authority.ca for authority in self._section.registration_authorities]
        if tls.client_ca is None or (self._home / CA).exists():
            clients.append(self._authority().path)
        return server_context(tls, clients, anonymous=listener.anonymous, passwords=listener.passwords)

    # -- provisioning -------------------------------------------------------------------------------------------------

    def _publish(self, message: Message) -> None:
        if self._broker is not None:
            self._broker.announce(message)

    def _take(self, client_id: str, message: Message) -> None:
        """A client published to a topic that is served here."""
        connection = self._broker.connection(client_id) if self._broker is not None else None
        if connection is None:
            return
        try:
            self._requests.put_nowait((connection, message))
        except asyncio.QueueFull:
            self._counters.dropped("too many requests for provisioning")

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                connection, message = await self._requests.get()
                group.create_task(self._answer(connection, message), name="provisioning request")

    async def _answer(self, connection: Connection, message: Message) -> None:
        broker, session, grant = self._broker, connection.session, connection.grant
        if broker is None or session is None or grant is None:
            return
        client_id, certificate = session.client_id, connection.peer.certificate

        def still_allowed() -> bool:
            return grant.refresh() and grant.publish(message.topic, retain=message.retain)

        reply = await self._provisioning.answer(client_id, grant.principal, certificate, message, still_allowed)
        if reply is None:
            return
        if reply.changed:
            if self.access.local_issuer is None:
                self._try_to_renew()
            self._recheck_soon()
        # It may hold a private key: for the connection that asked, and not for who has its identifier by now.
        broker.reply(connection, Message(reply.topic, reply.payload, received_at=broker.at))

    # -- changes ------------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        readable = True
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                changed = await asyncio.to_thread(self._registry.refresh)
            except StorageError as error:
                if readable:
                    log.error("the registry cannot be read; what it said before holds", error=error)
                readable = False
                continue
            readable = True
            if changed:
                self._recheck()

    def _recheck_soon(self) -> None:
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(RECHECK_SECONDS, self._recheck)

    def _recheck(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._broker is not None:
            self._broker.recheck()
