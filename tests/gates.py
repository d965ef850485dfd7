"""A guarded edge as a real process, and who comes to its doors: with certificates, passwords, forgeries, or nothing.

`Gate` has four listeners: `mutual` is `tls = {}` and nothing else, `passwords` and `company` are over TLS too, `open`
is for anonymous clients on loopback. Devices are made and changed by the real commands; those of a vendor are
registered when they come, and wait for their activation.
"""

import datetime
import os
import signal
import socket
import ssl
from asyncio import BaseTransport
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mqtt5 import DisconnectPacket
from typer.testing import CliRunner

from core.config import ClientTls, HostPort, client_context
from core.mqtt.access import Certificate
from core.mqtt.doors import certificate_of
from tests.wire import PATIENCE_SECONDS, Refused, Wire
from tidegate.devices import app
from tidegate.processes import Daemon, free_port

NOT_AUTHORIZED = 0x87
TLS_VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
DOORS = ("mutual", "open", "passwords", "company")
CONFIG = """
edge.name = "press-hall"
edge.data_dir = "edge"
[devices]
policies = "policies"
revocation_lists = ["company.crl"]
registration_authorities = [{{ ca = "vendor.pem" }}]
[[listeners]]
address = "{mutual}"
tls = {{}}
[[listeners]]
address = "{open}"
anonymous = true
[[listeners]]
address = "{passwords}"
passwords = true
tls = {{}}
[[listeners]]
address = "{company}"
tls = {{ certificate = "server.pem", key = "server.key", client_ca = "company.pem" }}
"""


# -- certificates of every kind ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Credentials:
    """Files of a certificate and its key, and of the authority by which whoever has them knows the broker."""

    certificate: Path | None
    key: Path | None
    ca: Path

    def context(self, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """A client's side of TLS; of one version alone when asked for."""
        context = client_context(ClientTls(ca=self.ca, certificate=self.certificate, key=self.key))
        if version is not None:
            context.minimum_version = context.maximum_version = version
        return context


class Company:
    """An authority whose key the tests have: one of their own, or that of a box, to forge with."""

    def __init__(self, certificate: Path, key: Path, chain: tuple[Path, ...] = ()) -> None:
        self.certificate = certificate
        self.chain = chain
        self._issuer = x509.load_pem_x509_certificate(certificate.read_bytes()).subject
        self._key = serialization.load_pem_private_key(key.read_bytes(), None)
        assert isinstance(self._key, ec.EllipticCurvePrivateKey)

    @classmethod
    def make(cls, directory: Path, name: str, subject: x509.Name | None = None) -> "Company":
        """A new one: a self-signed certificate that may sign."""
        made = issue(directory, name, None, authority=True, subject=subject)
        assert made.certificate is not None
        assert made.key is not None
        return cls(made.certificate, made.key)

    def issue(self, directory: Path, name: str, ca: Path | None = None, **more: Any) -> Credentials:
        """A certificate by this authority; `ca` is by which its owner knows the broker."""
        made = issue(directory, name, (self._issuer, self._key), ca=ca or self.certificate, **more)
        assert made.certificate is not None
        with made.certificate.open("ab") as file:
            file.writelines(path.read_bytes() for path in reversed(self.chain))
        return made

    def below(self, directory: Path, name: str) -> "Company":
        """An authority that this one has signed; who has a certificate of it shows that one too."""
        made = self.issue(directory, name, authority=True)
        assert made.certificate is not None
        assert made.key is not None
        return Company(made.certificate, made.key, (*self.chain, made.certificate))

    def revoke(self, file: Path, *revoked: Credentials, extension: x509.ExtensionType | None = None) -> None:
        """Write a revocation list that names exactly these, each with an extension if there is one."""
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateRevocationListBuilder(self._issuer, now, now + datetime.timedelta(days=1))
        for credentials in revoked:
            assert credentials.certificate is not None
            serial = x509.load_pem_x509_certificate(credentials.certificate.read_bytes()).serial_number
            entry = x509.RevokedCertificateBuilder(serial, now)
            entry = entry.add_extension(extension, critical=True) if extension else entry
            builder = builder.add_revoked_certificate(entry.build())
        signed = builder.sign(self._key, hashes.SHA256())
        file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))


def issue(
    directory: Path, name: str, by: tuple[x509.Name, Any] | None, *, ca: Path | None = None, authority: bool = False,
    days: tuple[int, int] = (-1, 1), subject: x509.Name | None = None,
) -> Credentials:  # fmt: skip
    """A new certificate, valid from `days[0]` to `days[1]` from now, signed by an issuer and its key or by itself."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    subject = subject or named(name)
    issuer, issuer_key = by or (subject, key)
    builder = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    signed = builder.sign(issuer_key, hashes.SHA256())
    certificate, key_file = (directory / f"{name}.{suffix}" for suffix in ("pem", "key"))
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    form, unencrypted = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, unencrypted))
    return Credentials(certificate, key_file, ca or certificate)


def named(common_name: str) -> x509.Name:
    """A subject that is a common name alone."""
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


def shown(
    server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[Certificate, ssl.SSLObject]:
    """What a listener makes of a client's certificate, and the client's end. Raises ssl.SSLError when it refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname="localhost", session=session)
    waiting = [theirs, ours]
    while waiting:
        end = waiting.pop(0)
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            waiting.append(end)
    with suppress(ssl.SSLWantReadError):
        theirs.read()  # the tickets of TLS 1.3
    certificate = certificate_of(BaseTransport({"ssl_object": ours}))
    assert certificate is not None
    return certificate, theirs


# -- clients -----------------------------------------------------------------------------------------------------------


class SecureWire(Wire):
    """A connection over TLS. Raises ssl.SSLError, now or at the first packet, when the broker refuses it in TLS."""

    def __init__(
        self, address: HostPort, version: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None
    ) -> None:
        super().__init__(address, version)
        self._socket = self.tls = context.wrap_socket(self._socket, server_hostname="localhost", session=session)


def endings(wire: Wire) -> list[int]:
    """The reasons that the broker gives before it closes, which it must; MQTT 3.1.1 has no words for them."""
    return [int(packet.reason_code) for packet in wire.rest() if isinstance(packet, DisconnectPacket)]


def refusal(attempt: Callable[[], object]) -> int:
    """The reason code that somebody is turned away with, who must be."""
    with pytest.raises(Refused) as caught:
        attempt()
    return int(caught.value.code)


def kept(version: int) -> dict[str, Any]:
    """How a client asks for a session that waits for it."""
    return {"clean_start": False, **({"session_expiry_interval": 3_600} if version == 5 else {})}


def allow(actions: str | list[str], *resources: str, **more: Any) -> dict[str, Any]:
    """A statement of a policy."""
    return {"Effect": "Allow", "Action": actions, "Resource": list(resources), **more}


def deny(actions: str | list[str], *resources: str, **more: Any) -> dict[str, Any]:
    """A statement of a policy."""
    return {**allow(actions, *resources, **more), "Effect": "Deny"}


CONNECT = allow("iot:Connect", "*")
EVERYTHING = allow("iot:*", "*")


@dataclass(frozen=True)
class Device:
    """What `tidegate devices add` has made."""

    gate: "Gate"
    name: str
    id: str
    credentials: Credentials

    def connect(self, client_id: str | None = None, version: int = 5, door: str = "mutual", **options: Any) -> Wire:
        """Be admitted, under its own name unless told otherwise. Raises wire.Refused."""
        wire = self.gate.open(door, version, self.credentials.context())
        return wire.connect(self.name if client_id is None else client_id, **options)


# -- the edge ----------------------------------------------------------------------------------------------------------


class Gate:
    """A guarded edge in a directory of its own; `company` is the authority of its operator, `vendor` of a supplier."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = {door: HostPort("127.0.0.1", free_port()) for door in DOORS}
        self.company = Company.make(directory, "company")
        self.server = self.company.issue(directory, "server")
        self.company.revoke(directory / "company.crl")
        self.vendor = Company.make(directory, "vendor")
        (directory / "policies").mkdir()
        self.config = directory / "edge.toml"
        self.config.write_text(CONFIG.format(**self.address))
        self.daemon = Daemon("edge", self.config, directory / "edge")
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.settimeout(PATIENCE_SECONDS)
        self._manager_name = f"tidegate-{uuid4().hex}"
        self._manager.bind(f"\0{self._manager_name}")
        self._wires: list[Wire] = []
        self._made = 0

    @property
    def local(self) -> Company:
        """The authority of the box itself, in the hands of a forger."""
        return Company(self.directory / "edge/devices/ca.pem", self.directory / "edge/devices/ca.key")

    # -- its life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it and wait until all listeners accept."""
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("NOTIFY_SOCKET", f"@{self._manager_name}")
            self.daemon.start()
        self._told("READY=1")

    def restart(self) -> None:
        """Stop it, and start it again."""
        assert self.daemon.stop() == 0
        self.start()

    def reload(self) -> str:
        """SIGHUP, and wait until it is over; what failed."""
        os.kill(self.daemon.pid, signal.SIGHUP)
        self._told("RELOADING=1")
        return self._told("READY=1").partition("reload failed: ")[2]

    def _told(self, word: str) -> str:
        """Wait, as a service manager, until the daemon says something."""
        while not (said := self._manager.recv(65_536).decode()).startswith(word):
            pass
        return said

    def end(self) -> None:
        """SIGKILL."""
        self.disconnect_all()
        self.daemon.kill()
        self._manager.close()

    def dropped(self, reason: str) -> int:
        """How many messages it has counted as lost for a reason."""
        return int(self.daemon.ask("status")["counters"].get(f'dropped_total{{reason="{reason}"}}', 0))

    # -- who may do what -----------------------------------------------------------------------------------------------

    def policy(self, *statements: Mapping[str, Any], name: str = "") -> str:
        """Put a policy in force, under a name of its own or one that it replaces; returns the name."""
        name = name or self.new_name("policy")
        document = {"Version": "2012-10-17", "Statement": statements}
        (self.directory / "policies" / f"{name}.json").write_bytes(orjson.dumps(document))
        assert self.reload() == ""
        return name

    def devices(self, *arguments: str) -> Any:
        """What `tidegate devices … --json` prints."""
        with chdir(self.directory):
            done = CliRunner().invoke(app, [*arguments, "--config", str(self.config), "--json"])
        assert done.exit_code == 0, (done.stderr, done.exception)
        return orjson.loads(done.stdout)

    def change(self, *arguments: str) -> Any:
        """A command that changes something, of which the daemon is told."""
        facts = self.devices(*arguments)
        assert facts["daemon"] == "told"
        return facts

    def add(self, *policies: str, name: str = "", options: tuple[str, ...] = ()) -> Device:
        """A new device, with the default policies unless some are named."""
        name = name or self.new_name("device")
        more = [word for policy in policies for word in ("--policy", policy)]
        return self.handed_out(name, self.change("add", name, *more, *options))

    def handed_out(self, name: str, facts: Any) -> Device:
        """The device by what a command has printed."""
        files = {part: self.directory / path for part, path in facts["files"].items()}
        credentials = Credentials(files.get("certificate"), files.get("key"), files["ca"])
        return Device(self, name, facts["certificate"]["id"] if facts["certificate"] else "", credentials)

    def allowing(self, *statements: Mapping[str, Any], name: str = "") -> Device:
        """A new device with one policy of its own, made of these statements."""
        return self.add(self.policy(*statements), name=name)

    def new_name(self, kind: str) -> str:
        """A name that no other has."""
        self._made += 1
        return f"{kind}{self._made}"

    # -- who comes -----------------------------------------------------------------------------------------------------

    def open(
        self, door: str, version: int = 5, context: ssl.SSLContext | None = None, session: ssl.SSLSession | None = None
    ) -> Wire:
        """A connection to one of DOORS that has not said CONNECT yet."""
        address = self.address[door]
        wire = SecureWire(address, version, context, session) if context else Wire(address, version)
        self._wires.append(wire)
        return wire

    def stranger(self) -> ssl.SSLContext:
        """Somebody who knows the box's authority and has no certificate."""
        return Credentials(None, None, self.local.certificate).context()

    def disconnect_all(self) -> None:
        """Close every connection of a test."""
        while self._wires:
            self._wires.pop().close()


@contextmanager
def running(directory: Path) -> Iterator[Gate]:
    """A gate that runs; it is killed at the end, whatever happened."""
    gate = Gate(directory)
    try:
        gate.start()
        yield gate
    finally:
        gate.end()
