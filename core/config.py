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
import ipaddress
import json
import os
import re
import ssl
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
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

_SIZE = re.compile(r"(\d{1,19}(?:\.\d{1,9})?) ?(B|[kKMGT]i?B)")
_SIZE_UNITS = {"B": 1, "kB": 1000, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}
_SIZE_UNITS |= {"kiB": 1024, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,9})?) ?(ms|s|m|h|d)")
_DURATION_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_HOST_PORT = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^\s:/\[\]@]+)):(?P<port>\d{1,5})", re.ASCII)

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


class Tls(Section):
    """A server's side of TLS; `client_ca` signs the certificates that clients must show."""

    certificate: ConfigPath
    key: ConfigPath
    client_ca: ConfigPath | None = None


class ClientTls(Section):
    """A client's side of TLS; without `ca` the system's certificate authorities are trusted."""

    ca: ConfigPath | None = None
    certificate: ConfigPath | None = None
    key: ConfigPath | None = None

    @model_validator(mode="after")
    def _certificate_with_key(self) -> "ClientTls":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together; one of them is missing")
        return self


class Listener(Section):
    """One address to accept clients at; their certificates say who they are, unless it is `anonymous`."""

    address: HostPort
    anonymous: bool = False
    tls: Tls | None = None

    @model_validator(mode="after")
    def _somebody_can_connect(self) -> "Listener":
        if not self.anonymous and (self.tls is None or self.tls.client_ca is None):
            raise ValueError(
                "nobody could connect: set tls.client_ca, so that certificates say who a client is, "
                "or anonymous = true"
            )
        return self


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


def server_context(tls: Tls, *, anonymous: bool = False) -> ssl.SSLContext:
    """TLS 1.2 or later for a listener; with `client_ca`, clients must show a certificate unless `anonymous`.

    Raises ConfigurationError that names the file that is missing or bad.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_certificate(context, tls.certificate, tls.key)
    if tls.client_ca is not None:
        _load_authorities(context, tls.client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL if anonymous else ssl.CERT_REQUIRED
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
