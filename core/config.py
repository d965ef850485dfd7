"""Configuration files: strict TOML, every fault reported at once, in words that say what to write instead.

Keeps what all configuration shares: sizes, durations, names, addresses, paths, TLS, listeners, data
directories. `edge.config` and `cloud.config` say what an edge and a cloud have. Nothing here guesses: an
unknown key is an error, and so is text where a number belongs.

Will not watch files, nor read the environment except `$CREDENTIALS_DIRECTORY` (systemd.exec(5)).

Invariants:
1. `load` returns a whole, frozen model or raises one ConfigurationError with all faults, their paths first.
2. A relative path in a file is relative to that file's directory, wherever the process was started.
3. Two processes never share a data directory.
"""

import errno
import fcntl
import hashlib
import ipaddress
import json
import os
import re
import ssl
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import core_schema

from core.errors import ConfigurationError, StorageError
from core.faults import describe

CONFIG_BYTES_MAX = 1 << 20  # a real file has a few kilobytes; this is somebody's log, or a device
SIZE_MAX = 2**63 - 1  # what SQLite's integers hold
DURATION_MAX_S = 100 * 365 * 86_400  # a hundred years; beyond it timers overflow
CREDENTIALS = "$CREDENTIALS_DIRECTORY/"
UNIX = "unix:"
SOCKET_NAME_BYTES_MAX = 64  # of the file's own name; with the longest way to its directory it fits into sun_path
NAMES_MAX = 64  # of one listener: names in its certificate, or web pages
TOGETHER = "certificate and key belong together"

_SIZE = re.compile(r"(\d{1,19}(?:\.\d{1,9})?) ?(B|[kKMGT]i?B)")
_SIZE_UNITS = {"B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}
_SIZE_UNITS |= {"kiB": 1024, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,9})?) ?(ms|s|m|h|d)")
_DURATION_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_HOST_PORT = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^\s:/\[\]@]+)):(?P<port>\d{1,5})", re.ASCII)
_MODE = re.compile(r"0?[0-7]{3}", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9_*]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?", re.ASCII)
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]{1,253})(:\d{1,5})?", re.ASCII | re.IGNORECASE)

M = TypeVar("M", bound=BaseModel)


class Section(BaseModel):
    """The base of every table in a configuration file: no unknown keys, no conversions, no later changes."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


def _number(value: object, pattern: re.Pattern[str], units: Mapping[str, float]) -> float | None:
    """A number as it is, or text as number times unit; None when it is neither."""
    if isinstance(value, str) and (match := pattern.fullmatch(value)):
        return float(match[1]) * units[match[2]]
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _size(value: object) -> int:
    number = _number(value, _SIZE, _SIZE_UNITS)
    if number is None or isinstance(value, float):
        raise ValueError(f'{value!r} is no size: write bytes, or a unit as in "2GB", "1.5MB" or "128 KiB"')
    if not 0 <= number <= SIZE_MAX:
        raise ValueError(f"{value!r} is outside 0 to {SIZE_MAX} bytes")
    return round(number)


def _duration(value: object) -> float:
    number = _number(value, _DURATION, _DURATION_UNITS)
    if number is None:
        raise ValueError(f'{value!r} is no duration: write seconds, or a unit as in "250ms", "5s" or "7d"')
    if not 0 <= number <= DURATION_MAX_S:  # refuses NaN too
        raise ValueError(f"{value!r} is outside 0 to {DURATION_MAX_S} seconds")
    return float(number)


def _path(value: object, info: ValidationInfo) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{value!r} is no path")
    if value.startswith(CREDENTIALS):
        directory = os.environ.get(CREDENTIALS[1:-1])
        if directory is None:
            raise ValueError(f"{value!r}: no credentials were passed; the unit needs LoadCredential=")
        return Path(directory, value.removeprefix(CREDENTIALS))
    base = info.context.get("directory") if info.context else None
    return Path(value) if base is None else Path(base, value)


Size = Annotated[int, PlainValidator(_size)]
"""Bytes: 123, "2GB", "1.5MB" (decimal), "128 KiB" (binary)."""

Duration = Annotated[float, PlainValidator(_duration)]
"""Seconds: 5, 0.5, "250ms", "5s", "10m", "6h", "7d"."""

ConfigPath = Annotated[Path, PlainValidator(_path)]
"""A path, relative to the file it stands in; `$CREDENTIALS_DIRECTORY/name` is a systemd credential."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
"""What a person calls a thing of theirs; fit for a file name, a topic level and a URL."""


class RulesSection(Section):
    """[rules]: the directory of rules files, whose account they are, and where get_secret() looks."""

    directory: ConfigPath
    account: Annotated[str, StringConstraints(pattern=r"^[0-9]{12}$")] = "000000000000"
    secrets: ConfigPath | None = None


class HostPort(NamedTuple):
    """Where to listen or connect: "0.0.0.0:8883", "[::1]:1883", "localhost:0" (0 is any free port)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: object) -> "HostPort":
        """Read "host:port". Raises ValueError that says what to write."""
        if isinstance(text, HostPort):
            return text
        match = _HOST_PORT.fullmatch(text) if isinstance(text, str) else None
        if match is None or int(match["port"]) > 65_535:
            raise ValueError(f'{text!r} is no address: write "host:port", "0.0.0.0:8883" or "[::1]:1883"')
        if match["v6"]:
            try:
                ipaddress.IPv6Address(match["v6"])
            except ValueError:
                raise ValueError(f"{text!r}: {match['v6']!r} is no IPv6 address") from None
        return cls(match["v6"] or match["host"], int(match["port"]))

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(cls.parse)


class UnixSocket(NamedTuple):
    """Where to listen for programs on this machine: "unix:/run/tidegate-edge/mqtt.sock"."""

    path: Path

    def __str__(self) -> str:
        return f"{UNIX}{self.path}"


def _address(value: object, info: ValidationInfo) -> HostPort | UnixSocket:
    if isinstance(value, UnixSocket):
        return value
    if isinstance(value, str) and value.startswith(UNIX):
        path = _path(value.removeprefix(UNIX), info)
        if not path.name or len(os.fsencode(path.name)) > SOCKET_NAME_BYTES_MAX:
            raise ValueError(f'{value!r}: the name of the socket file must have 1 to {SOCKET_NAME_BYTES_MAX} bytes')
        return UnixSocket(path)
    return HostPort.parse(value)


def _mode(value: object, info: ValidationInfo) -> int:
    if info.mode == "python" and isinstance(value, int) and 0 <= value <= 0o777:
        return value
    if not isinstance(value, str) or not _MODE.fullmatch(value):  # a number in a file would be read as decimal
        raise ValueError(f'{value!r} is no mode of a file: write it in octal, as text: "0660"')
    return int(value, 8)


def _dns_name(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        if len(name) > 253 or not all(map(_LABEL.fullmatch, name.split("."))):
            raise ValueError(f'{name!r} is no name of a machine: write "edge.example.com" or "192.0.2.7"') from None
        return name


def _origin(origin: str) -> str:
    if not _ORIGIN.fullmatch(origin):
        raise ValueError(f'{origin!r} is no origin: write "https://example.com" or "http://192.0.2.7:8080"')
    return origin.lower()


def is_loopback(host: str) -> bool:
    """Whether a host reaches nothing but this machine: localhost, 127.0.0.0/8 or ::1."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


class Tls(Section):
    """A server's side of TLS.

    Without `certificate` and `key` the local authority issues them, with `names` (DNS names and addresses) in the
    certificate beside those of the machine. `client_ca` signs the certificates of clients.
    """

    certificate: ConfigPath | None = None
    key: ConfigPath | None = None
    client_ca: ConfigPath | None = None
    names: Annotated[tuple[Annotated[str, AfterValidator(_dns_name)], ...], Field(max_length=NAMES_MAX)] = ()

    @model_validator(mode="after")
    def _certificate_with_key(self) -> "Tls":
        if (self.certificate is None) != (self.key is None):
            raise ValueError(f"{'key' if self.key is None else 'certificate'} is missing; {TOGETHER}")
        if self.names and self.certificate is not None:
            raise ValueError("names are for a certificate that the local authority issues; this one has its own")
        return self


class ClientTls(Section):
    """A client's side of TLS; without `ca` the system's certificate authorities are trusted."""

    ca: ConfigPath | None = None
    certificate: ConfigPath | None = None
    key: ConfigPath | None = None

    @model_validator(mode="after")
    def _certificate_with_key(self) -> "ClientTls":
        if (self.certificate is None) != (self.key is None):
            raise ValueError(f"{TOGETHER}; one of them is missing")
        return self


class Listener(Section):
    """One address to accept clients at, and how they may say who they are.

    By certificate wherever there is TLS; by user name and password, or not at all, only where `passwords` or
    `anonymous` says so. `mode` is that of a Unix socket's file. `origins` are the web pages that may use a WebSocket.
    """

    address: Annotated[HostPort | UnixSocket, PlainValidator(_address)]
    protocol: Literal["mqtt", "websocket"] = "mqtt"
    anonymous: bool = False
    passwords: bool = False
    tls: Tls | None = None
    mode: Annotated[int, PlainValidator(_mode)] = 0o660
    origins: Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], Field(max_length=NAMES_MAX)] = ()

    @model_validator(mode="after")
    def _keys_that_fit(self) -> "Listener":
        local = isinstance(self.address, UnixSocket)
        if local and self.tls is not None:
            raise ValueError("tls is not spoken on a Unix socket, whose bytes never leave this machine; take it out")
        if not local and "mode" in self.model_fields_set:
            raise ValueError("mode is for the file of a Unix socket; take it out")
        if self.origins and self.protocol != "websocket":
            raise ValueError('origins are for protocol = "websocket"; take them out')
        return self

    @model_validator(mode="after")
    def _somebody_can_connect(self) -> "Listener":
        if self.tls is None and not (self.anonymous or self.passwords):
            raise ValueError(
                "nobody could connect: set tls, so that certificates say who a client is, passwords = true, "
                "or anonymous = true"
            )
        if self.passwords and self.tls is None and not self._is_local:
            raise ValueError(
                "passwords would cross the network in clear: set tls = {}, or listen on 127.0.0.1 or a Unix socket"
            )
        return self

    @property
    def _is_local(self) -> bool:
        return isinstance(self.address, UnixSocket) or is_loopback(self.address.host)

    @property
    def exposed(self) -> bool:
        """Whether clients on other machines may connect without saying who they are; worth a warning."""
        return self.anonymous and not self._is_local


def load(path: Path, model: type[M]) -> M:
    """Read a TOML file into `model`. Raises ConfigurationError with every fault in it."""
    document = _read(path)
    try:
        # By way of JSON, because there pydantic's strict mode takes an array for a tuple or a set.
        text = json.dumps(document, default=str)
        return model.model_validate_json(text, context={"directory": path.absolute().parent})
    except ValidationError as error:
        raise ConfigurationError(str(path), describe(error, document, model)) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(CONFIG_BYTES_MAX + 1)
        if len(raw) <= CONFIG_BYTES_MAX:
            return tomllib.loads(raw.decode())
        problem = f"is larger than {CONFIG_BYTES_MAX:,} bytes; that is no configuration file"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 text (at byte {error.start})"
    except tomllib.TOMLDecodeError as error:
        problem = f"is not TOML: {error}"
    except RecursionError:
        problem = "is nested too deeply"
    raise ConfigurationError(str(path), [problem])


class ServerContext(ssl.SSLContext):
    """A listener's side of TLS, and by which authorities, each the SHA-256 of its certificate's DER.

    `vouching` are those of the listener's own `client_ca`, but for the `added`, which the daemon trusts for reasons of
    its own. `chains` is the notebook of `core.mqtt.doors`: what a resumed session does not show again.
    """

    vouching: frozenset[str]
    added: frozenset[str]
    chains: dict[str, tuple[str, ...]]


def server_context(
    tls: Tls, client_cas: Sequence[Path] = (), *, anonymous: bool = False, passwords: bool = False
) -> ServerContext:
    """TLS 1.2 or later for a listener whose `tls` has a certificate and key, configured or issued.

    Clients must show a certificate that `tls.client_ca` or one of `client_cas` has signed; where they may be
    `anonymous` or give `passwords` they need not, but one that they show must be good. Raises ConfigurationError that
    names the file that is missing or bad.
    """
    if tls.certificate is None or tls.key is None:
        raise ConfigurationError("tls", ["certificate and key are missing, and no local authority has issued them"])
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.chains = {}
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_certificate(context, tls.certificate, tls.key)
    authorities = [*([tls.client_ca] if tls.client_ca else []), *client_cas]
    for authority in authorities:
        _load_authorities(context, authority)
    context.added = frozenset().union(*map(_authorities_in, client_cas))
    context.vouching = _authorities_in(tls.client_ca) - context.added if tls.client_ca else frozenset()
    if not (anonymous or passwords):
        context.verify_mode = ssl.CERT_REQUIRED  # without any authority too: then nobody gets in
    elif authorities:
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def client_context(tls: ClientTls) -> ssl.SSLContext:
    """TLS 1.2 or later towards a server whose name and certificate are checked; raises alike."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.ca is None:
        context.load_default_certs()
    else:
        _load_authorities(context, tls.ca)
    if tls.certificate is not None and tls.key is not None:
        _load_certificate(context, tls.certificate, tls.key)
    return context


def _load_certificate(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    def no_password() -> str:  # without this OpenSSL asks on the terminal, and a daemon would wait forever
        raise ConfigurationError(str(key), ["is encrypted; a daemon needs it without a passphrase"])

    _check_readable(certificate)
    _check_readable(key)
    try:
        context.load_cert_chain(certificate, key, password=no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigurationError(str(key), [f"is not the key of {certificate}"]) from None
        words = f"is no PEM certificate, or {key} is no PEM key ({_reason(error)})"
        raise ConfigurationError(str(certificate), [words]) from None


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    _check_readable(path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigurationError(str(path), [f"holds no PEM certificates ({_reason(error)})"]) from None


def _authorities_in(path: Path) -> frozenset[str]:
    alone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load_authorities(alone, path)
    return frozenset(hashlib.sha256(der).hexdigest() for der in alone.get_ca_certs(binary_form=True))


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")


def _check_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigurationError(str(path), [f"cannot be read: {error.strerror}"]) from None


@contextmanager
def open_data_dir(path: Path) -> Iterator[Path]:
    """Create the data directory (mode 0750) if need be and hold its lock while the block runs.

    The lock is the kernel's, so it ends with the process, however that ends. Raises ConfigurationError when
    another process holds it or the directory cannot be used, StorageError when the disk refuses.
    """
    try:
        path.mkdir(mode=0o750, parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
            raise StorageError(f"{path}: {error.strerror}") from error
        raise ConfigurationError(str(path), [f"cannot be the data directory: {error.strerror}"]) from None
    try:
        _lock(lock, path)
        yield path
    finally:
        os.close(lock)


def _lock(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 20).decode(errors="replace").strip() or "unknown"
        raise ConfigurationError(str(path), [f"in use by process {holder}"]) from None
    except OSError as error:
        raise ConfigurationError(str(path), [f"cannot be locked: {error.strerror}"]) from None
    with suppress(OSError):  # the number only serves the message above; a full disk must not prevent a start
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
