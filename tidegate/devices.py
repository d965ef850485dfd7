"""`tidegate devices`: who a site's devices are, and what they prove it with.

Writes to the registry beside a running daemon and asks it to look at once, so that a revocation ends live connections;
without a daemon the change waits for its start. Run as root it writes as the daemon's user, and what it hands out
belongs to the owner of the directory that it goes into.

Private keys and passwords are never printed, and no password is taken from a command line, where others could read it.
"""

import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

import cloud.config
import devices.certificates  # noqa: F401 - while we are root: the daemon's user may be unable to read this code
import edge.config
from core import frames
from core.cli import Json, err, errors_to_exit_codes, out, print_json
from core.config import Listener
from core.control import request
from core.errors import TidegateError
from devices import cli as sensors
from devices import directory, passwords
from devices.authority import Authority
from devices.config import DevicesSection
from devices.errors import RegistryError
from devices.registry import FILE, Registered, Registry, certificate_id, check_thing_name
from tidegate import instructions, inventory
from tidegate.credentials import Credentials, Issued, handed_out

DEFAULT_CONFIG = Path("/etc/tidegate/edge.toml")
CONTROL_FILE = "control.sock"
TEXT_BYTES_MAX = 1 << 16  # of a signing request or a password: far beyond either

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, help="The devices of a site, and sensors that stand in for them.")


def _printable(value: T) -> T:
    """What will be printed when the device is registered; a file's name, as Linux has them, may be no text."""
    try:
        str(value).encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("must be UTF-8 text, to be printed") from None
    return value


Config = Annotated[Path, typer.Option("--config", help="Path of edge.toml or cloud.toml.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the device.")]
NameOrId = Annotated[str, typer.Argument(metavar="NAME|CERTIFICATE", help="A device, or the id of one certificate.")]
Attributes = Annotated[
    list[str] | None, typer.Option("--attribute", metavar="KEY=VALUE", help="May be repeated; KEY= takes one away.")
]
Policies = Annotated[list[str] | None, typer.Option("--policy", help="Of its own, instead of the default ones.")]
Out = Annotated[
    Path | None, typer.Option("--out", help="Directory for the files; made if need be.", callback=_printable)
]
Csr = Annotated[
    Path | None, typer.Option("--csr", help="Sign the device's own request; no key is made.", callback=_printable)
]
Host = Annotated[
    str | None, typer.Option("--host", help="The name by which devices reach this box.", callback=_printable)
]
Ask = Annotated[bool, typer.Option("--password", help="Ask for a password, or read it from a pipe.")]
PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", help="Read the password from a file.", callback=_printable)
]


# -- the site ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Site:
    """What these commands need of an edge's or a cloud's configuration; a cloud takes frames under `frames_under`."""

    data_dir: Path
    devices: DevicesSection
    listeners: Sequence[Listener]
    frames_under: str | None = None

    @property
    def home(self) -> Path:
        """Where identities are kept."""
        return self.devices.home(self.data_dir)

    @property
    def names(self) -> list[str]:
        """What the listeners' certificate by the local authority must have beside the box's own names."""
        return [name for listener in self.listeners if listener.tls is not None for name in listener.tls.names]

    @contextmanager
    def registry(self) -> Iterator[Registry]:
        """The registry, as its owner; what is changed in the block becomes durable together."""
        with directory.as_owner(self.home), Registry(self.home / FILE) as registry, registry.transaction():
            yield registry

    def issue(self, name: str, csr: str | None) -> Issued:
        """A certificate of the local authority for a new key, or for the one in a signing request."""
        with directory.as_owner(self.home):
            authority = Authority.open(self.home, self.devices.certificate_days)
            authority.server(self.names)  # so that a daemon that starts next finds it
            ca = authority.path.read_text()
            return Issued(ca, authority.sign(csr, name)) if csr is not None else Issued(ca, *authority.issue(name))

    def authority(self) -> Issued:
        """The local authority's certificate alone, for who logs in with a password."""
        with directory.as_owner(self.home):
            return Issued(Authority.open(self.home).path.read_text())

    def tell(self) -> str:
        """Make a running daemon look at what has changed; "told", or why it was not."""
        try:
            request(self.data_dir / CONTROL_FILE, "recheck")
        except (TidegateError, OSError) as error:
            return str(error)
        return "told"


def load_site(config: Path) -> Site:
    """Read edge.toml or cloud.toml, whichever the file is by its tables. Raises ConfigurationError."""
    tables: Mapping[str, Any] = {}
    with suppress(OSError, ValueError):  # `load` says better what is wrong
        tables = tomllib.loads(config.read_text())
    if "cloud" in tables:
        of_cloud = cloud.config.load(config)
        return Site(of_cloud.cloud.data_dir, of_cloud.devices, of_cloud.listeners, frames.TOPIC_ROOT)
    of_edge = edge.config.load(config)
    return Site(of_edge.edge.data_dir, of_edge.devices, of_edge.listeners)


# -- handing out ------------------------------------------------------------------------------------------------------


@app.command("add")
def add_device(
    name: Name, attribute: Attributes = None, policy: Policies = None, out_dir: Out = None, csr: Csr = None,
    password: Ask = False, password_file: PasswordFile = None, host: Host = None,
    config: Config = DEFAULT_CONFIG, as_json: Json = False,
) -> None:  # fmt: skip
    """Register a device and write its key and certificate; with a password, let it log in under its name instead."""
    with errors_to_exit_codes():
        check_thing_name(name)
        site, attributes = load_site(config), _pairs(attribute or [])
        phc = _hashed(password, password_file)
        if phc and csr:
            raise typer.BadParameter("choose a certificate or a password; `rotate` and `set` add the other one")
        with site.registry() as registry:
            _check_new(registry, name)
        issued = site.authority() if phc else site.issue(name, _text(csr) if csr else None)
        files = _files(out_dir or Path(name), name, issued, csr, password_file)
        with handed_out(files, issued), site.registry() as registry:
            _check_new(registry, name)
            registry.put_thing(name, attributes={k: v for k, v in attributes.items() if v}, policies=policy or ())
            registry.set_password(name, phc)
            registered = registry.put_certificate(issued.certificate, name) if issued.certificate else None
        _print_credentials(site, files, registered, host, as_json)


@app.command("rotate")
def rotate_certificate(
    name: Name, out_dir: Out = None, csr: Csr = None, host: Host = None,
    revoke_old: Annotated[bool, typer.Option("--revoke-old", help="Revoke its other certificates at once.")] = False,
    config: Config = DEFAULT_CONFIG, as_json: Json = False,
) -> None:  # fmt: skip
    """Issue a new certificate. The old ones are valid until they are revoked, so that the device can change over."""
    with errors_to_exit_codes():
        site = load_site(config)
        with site.registry() as registry:
            inventory.known(registry, name)
        issued = site.issue(name, _text(csr) if csr else None)
        assert issued.certificate is not None
        beside = Path(f"{name}-{certificate_id(issued.certificate)[:8]}")
        files = _files(out_dir or beside, name, issued, csr, None)
        with handed_out(files, issued), site.registry() as registry:
            if revoke_old:
                inventory.revoke(registry, registry.certificates_of(name))
            registered = registry.put_certificate(issued.certificate, name)
        _print_credentials(site, files, registered, host, as_json)


def _check_new(registry: Registry, name: str) -> None:
    if name in registry.things:
        raise RegistryError(f"{name} is there already: `rotate` issues a new certificate, `set` changes the rest")


def _files(out_dir: Path, name: str, issued: Issued, csr: Path | None, password: Path | None) -> Credentials:
    key = csr.with_suffix(".key") if csr else out_dir / f"{name}.key"
    if issued.certificate is None:
        return Credentials(name, out_dir / "ca.pem", password=password)
    return Credentials(name, out_dir / "ca.pem", out_dir / f"{name}.pem", key)


def _print_credentials(
    site: Site, files: Credentials, registered: Registered | None, host: str | None, as_json: bool
) -> None:
    broker = instructions.broker(site.listeners, passwords=registered is None, host=host)
    told = site.tell()
    facts = {
        "name": files.name,
        "certificate": inventory.certificate_facts(registered) if registered else None,
        "files": {
            part: str(path)
            for part in ("ca", "certificate", "key", "password")
            if (path := getattr(files, part)) is not None
        },
        "address": str(broker.address),
        "mosquitto_pub": instructions.mosquitto_pub(broker.address, files),
        "paho": instructions.paho(broker.address, files),
        "notes": list(broker.notes),
        "daemon": told,
    }
    if as_json:
        print_json(facts)
        return
    out.print(instructions.page(facts), soft_wrap=True)
    _say_told(told)


# -- changing ---------------------------------------------------------------------------------------------------------


@app.command("set")
def set_device(
    name: Name, attribute: Attributes = None, policy: Policies = None,
    default_policies: Annotated[
        bool, typer.Option("--default-policies", help="No policies of its own any more.")
    ] = False,
    password: Ask = False, password_file: PasswordFile = None,
    no_password: Annotated[bool, typer.Option("--no-password", help="Take the password away.")] = False,
    config: Config = DEFAULT_CONFIG, as_json: Json = False,
) -> None:  # fmt: skip
    """Change a device's attributes, policies or password; what is not named stays."""
    with errors_to_exit_codes():
        site, changes, phc = load_site(config), _pairs(attribute or []), _hashed(password, password_file)
        if (policy and default_policies) or (phc and no_password):
            raise typer.BadParameter("set it or take it away, not both")
        with site.registry() as registry:
            attributes = {**inventory.known(registry, name).attributes, **changes}
            kept = {key: value for key, value in attributes.items() if value}
            policies = () if default_policies else policy or None
            registry.put_thing(name, attributes=kept, policies=policies)
            if phc or no_password:
                registry.set_password(name, phc)
        _report(site, as_json, f"{name} is changed", name=name)


@app.command("revoke")
def revoke_device(name: NameOrId, config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Lock a device out for good, with all its certificates and its password; or revoke one certificate."""
    with errors_to_exit_codes():
        site = load_site(config)
        with site.registry() as registry:
            revoked = inventory.lock_out(registry, name)
        _report(site, as_json, f"revoked: {', '.join(revoked)}", revoked=revoked)


@app.command("activate")
def activate_certificate(
    certificate: Annotated[str, typer.Argument(metavar="CERTIFICATE", help="Its id, or how that begins.")],
    name: Annotated[str | None, typer.Option("--name", help="Of which device; made if need be.")] = None,
    config: Config = DEFAULT_CONFIG, as_json: Json = False,
) -> None:  # fmt: skip
    """Let in a certificate that waits for it, such as one that was registered when it was first seen."""
    with errors_to_exit_codes():
        site = load_site(config)
        with site.registry() as registry:
            thing = inventory.activate(registry, certificate, name)
        _report(site, as_json, f"the certificate is active, and {thing}'s", name=thing)


@app.command("remove")
def remove_device(name: Name, config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Forget a device, its certificates and its password."""
    with errors_to_exit_codes():
        site = load_site(config)
        with site.registry() as registry:
            registry.remove_thing(name)
        _report(site, as_json, f"{name} is removed", name=name)


# -- looking ----------------------------------------------------------------------------------------------------------


@app.command("list")
def list_devices(config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Every device with its certificates, one line each; then the certificates that belong to none."""
    with errors_to_exit_codes():
        with load_site(config).registry() as registry:
            found = inventory.everything(registry)
        if as_json:
            print_json(found)
        else:
            inventory.print_table(found)


@app.command("show")
def show_device(name: Name, config: Config = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """All that is known of a device."""
    with errors_to_exit_codes():
        with load_site(config).registry() as registry:
            facts = inventory.device_facts(registry, inventory.known(registry, name))
        if as_json:
            print_json(facts)
        else:
            inventory.print_device(facts)


app.command("simulate")(sensors.simulate_command)


# -- common -----------------------------------------------------------------------------------------------------------


def _report(site: Site, as_json: bool, words: str, **facts: Any) -> None:
    told = site.tell()
    if as_json:
        print_json({**facts, "daemon": told})
        return
    out.print(words, soft_wrap=True)
    _say_told(told)


def _say_told(told: str) -> None:
    if told != "told":
        err.print(f"tidegate: stored, but no daemon was told: {told}", soft_wrap=True)


def _pairs(attributes: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in attributes:
        key, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--attribute")
        pairs[key] = value
    return pairs


def _hashed(asked: bool, file: Path | None) -> str | None:
    """The hash of the password that the options ask for, if they do; a line's end is no part of it."""
    if file is None and not asked:
        return None
    try:
        secret = _text(file) if file is not None else _typed()
        return passwords.hash(secret.removesuffix("\n").removesuffix("\r").encode())
    except UnicodeError:  # from reading or from encoding, as the locale has it
        raise TidegateError("the password is not UTF-8 text") from None


def _typed() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    return sys.stdin.read(TEXT_BYTES_MAX)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(TEXT_BYTES_MAX).decode()
    except UnicodeDecodeError:
        raise TidegateError(f"{path} is not UTF-8 text") from None
