"""The registry: which devices there are, which certificates and passwords speak for them, and in which state.

Keeps things and certificates, with the names that AWS IoT has for them, in one SQLite file. Whatever a daemon asks is
answered from memory; a write is on the disk when it returns. Commands write beside a running daemon, which takes their
changes over with `refresh`.

Will not decide who may connect or do what (`devices.access`, `devices.policies`), nor make certificates
(`devices.authority`) or hash passwords (`devices.passwords`).

Invariants:
1. A change, or all changes of a `transaction`, is committed with `synchronous=FULL`: a crash leaves the state before it
   or the state after it.
2. `things` and `certificates` are never changed once given out; what comes next is a new mapping.
3. A revoked certificate stays revoked, and one that is registered cannot be registered again.
4. At most `THINGS_MAX` things, `CERTIFICATES_MAX` certificates, `USABLE_MAX` that are not revoked per thing.
"""

import hashlib
import re
import sqlite3
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import orjson

from core.errors import DamagedStore
from core.store import connect, translate
from devices import directory
from devices.config import POLICIES_MAX
from devices.errors import RegistryError

FILE = "devices.db"
THINGS_MAX = 100_000  # ten times the devices of the largest site; all of them are in memory
CERTIFICATES_MAX = 200_000
USABLE_MAX = 10  # certificates of a thing that are not revoked: the current one, and what rotations left valid
PEM_CHARS_MAX = 16_384  # a certificate has about 700
ATTRIBUTES_MAX = 50  # as at AWS
PASSWORD_CHARS_MAX = 256  # of the hash, which has about 100
UPLINK = "tidegate-edge-"  # an edge's name follows, in the client identifier of its connection to a cloud

_THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,128}")
_POLICY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ATTRIBUTE_NAME = re.compile(r"[a-zA-Z0-9_.,@/:#-]{1,128}")
_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_ATTRIBUTE_VALUE = re.compile(r"[a-zA-Z0-9_.,@/:#=\[\]-]{0,800}")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS thing (
    name TEXT PRIMARY KEY, attributes BLOB NOT NULL, policies BLOB NOT NULL, password TEXT, created_at INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS certificate (
    id TEXT PRIMARY KEY, thing TEXT, status TEXT NOT NULL, pem TEXT NOT NULL,
    created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL
) STRICT;
"""


class Status(StrEnum):
    """What AWS IoT calls the state of a certificate; only an active one lets anybody in."""

    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"
    REVOKED = "REVOKED"
    PENDING_ACTIVATION = "PENDING_ACTIVATION"


@dataclass(frozen=True, slots=True)
class Thing:
    """A device; without policies of its own it has the default ones. `password` is a PHC string, times are in ms."""

    name: str
    attributes: Mapping[str, str]
    policies: tuple[str, ...]
    password: str | None
    created_at: int


@dataclass(frozen=True, slots=True)
class Registered:
    """A certificate: `id` is the SHA-256 of its DER bytes in lower-case hexadecimal; times in ms."""

    id: str
    thing: str | None
    status: Status
    pem: str
    created_at: int
    expires_at: int


@dataclass(slots=True)
class _State:
    things: dict[str, Thing]
    certificates: dict[str, Registered]


class Registry:
    """The registry in one file; its methods may be called from any thread. Close it, or use it as a context manager.

    Every method that writes raises RegistryError for what is refused and StorageError when the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises StorageError; DamagedStore when it is no registry (any more)."""
        self.path = path
        self._lock = threading.RLock()
        self._working: _State | None = None  # what the transaction under way has made of the state
        self._unseen = False  # another process's changes were read on the way to a write
        directory.make(path.parent)
        try:
            path.touch(mode=directory.SECRET)
        except OSError as error:
            raise directory.refused(path, error) from None
        self._connection = connect(path, _SCHEMA)
        try:
            self._version = self._data_version()
            self._state = self._load()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> "Registry":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    # -- asking -------------------------------------------------------------------------------------------------------

    @property
    def things(self) -> Mapping[str, Thing]:
        """Every thing by its name."""
        return self._state.things

    @property
    def certificates(self) -> Mapping[str, Registered]:
        """Every certificate by its id."""
        return self._state.certificates

    def certificates_of(self, thing: str) -> list[Registered]:
        """The certificates of a thing, oldest first."""
        found = [certificate for certificate in self.certificates.values() if certificate.thing == thing]
        return sorted(found, key=lambda certificate: certificate.created_at)

    def refresh(self) -> bool:
        """Read what other processes have changed; whether they had changed anything since the last call.

        Costs microseconds when they have not, and waits for a thread that writes here: on an event loop, call it in a
        thread. Raises StorageError; what was known stays then.
        """
        with self._lock:
            try:
                self._catch_up()
            except sqlite3.Error as error:
                raise translate(error, self.path) from error
            unseen, self._unseen = self._unseen, False
            return unseen

    # -- changing -----------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes in the block become durable and visible together at its end, or not at all when it raises."""
        with self._lock:
            if self._working is not None:  # within another one, whose end counts
                yield
                return
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self._catch_up()
                self._working = _State(dict(self._state.things), dict(self._state.certificates))
                yield
                self._connection.execute("COMMIT")
                self._state = self._working
            except sqlite3.Error as error:
                raise translate(error, self.path) from error
            finally:
                self._working = None
                with suppress(sqlite3.Error):  # the error that brought us here is the one to tell
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")

    def put_thing(
        self, name: str, *, attributes: Mapping[str, str] | None = None, policies: Sequence[str] | None = None
    ) -> Thing:
        """Make a thing, or change one: what is None stays as it is."""
        check_thing_name(name)
        with self._changing() as state:
            before = state.things.get(name)
            if before is None and name.startswith(UPLINK):
                raise RegistryError(f"{name!r}: names that begin with {UPLINK} are those of edges at their cloud")
            if before is None and len(state.things) >= THINGS_MAX:
                raise RegistryError(f"there are {THINGS_MAX:,} devices already, which is the most")
            thing = before or Thing(name, {}, (), None, _now_ms())
            if attributes is not None:
                thing = replace(thing, attributes=_checked_attributes(attributes))
            if policies is not None:
                thing = replace(thing, policies=_checked_policies(policies))
            self._write_thing(state, thing)
        return thing

    def set_password(self, name: str, phc: str | None) -> None:
        """Give a thing the hash of its password, or take it away."""
        if phc is not None and len(phc) > PASSWORD_CHARS_MAX:
            raise RegistryError(f"a password's hash has at most {PASSWORD_CHARS_MAX} characters")
        with self._changing() as state:
            self._write_thing(state, replace(_known(state, name), password=phc))

    def remove_thing(self, name: str) -> None:
        """Forget a thing and every certificate of it."""
        with self._changing() as state:
            del state.things[_known(state, name).name]
            for certificate in [each for each in state.certificates.values() if each.thing == name]:
                self._delete_certificate(state, certificate.id)
            self._connection.execute("DELETE FROM thing WHERE name = ?", (name,))

    def put_certificate(self, pem: str, thing: str | None = None, status: Status = Status.ACTIVE) -> Registered:
        """Register a certificate, of a thing that is there or of none yet."""
        der = _der(pem)
        stored = ssl.DER_cert_to_PEM_cert(der)  # nothing but the certificate, however it was given
        digest = hashlib.sha256(der).hexdigest()
        certificate = Registered(digest, thing, status, stored, _now_ms(), _expires_at(stored))
        with self._changing() as state:
            if certificate.id in state.certificates:
                raise RegistryError(f"certificate {certificate.id} is registered already")
            if len(state.certificates) >= CERTIFICATES_MAX:
                raise RegistryError(f"there are {CERTIFICATES_MAX:,} certificates already, which is the most")
            _check_room(state, thing)
            self._write_certificate(state, certificate)
        return certificate

    def remove_certificate(self, certificate_id: str) -> None:
        """Forget a certificate. Of the local authority's, one that is not registered lets nobody in."""
        with self._changing() as state:
            self._delete_certificate(state, _known_certificate(state, certificate_id).id)

    def attach(self, certificate_id: str, thing: str | None) -> None:
        """Make a certificate speak for a thing, or for none."""
        with self._changing() as state:
            certificate = _known_certificate(state, certificate_id)
            if thing != certificate.thing:
                _check_room(state, thing)
                self._write_certificate(state, replace(certificate, thing=thing))

    def set_status(self, certificate_id: str, status: Status) -> None:
        """Change a certificate's state; out of REVOKED no way leads."""
        with self._changing() as state:
            certificate = _known_certificate(state, certificate_id)
            if certificate.status is Status.REVOKED and status is not Status.REVOKED:
                raise RegistryError(f"certificate {certificate_id} is revoked and stays so; issue a new one")
            self._write_certificate(state, replace(certificate, status=status))

    # -- the file -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _changing(self) -> Iterator[_State]:
        with self.transaction():
            assert self._working is not None
            yield self._working

    def _write_thing(self, state: _State, thing: Thing) -> None:
        row = (thing.name, orjson.dumps(thing.attributes), orjson.dumps(thing.policies), thing.password)
        self._connection.execute("INSERT OR REPLACE INTO thing VALUES (?, ?, ?, ?, ?)", (*row, thing.created_at))
        state.things[thing.name] = thing

    def _write_certificate(self, state: _State, certificate: Registered) -> None:
        c = certificate
        row = (c.id, c.thing, c.status, c.pem, c.created_at, c.expires_at)
        self._connection.execute("INSERT OR REPLACE INTO certificate VALUES (?, ?, ?, ?, ?, ?)", row)
        state.certificates[c.id] = c

    def _delete_certificate(self, state: _State, certificate_id: str) -> None:
        self._connection.execute("DELETE FROM certificate WHERE id = ?", (certificate_id,))
        del state.certificates[certificate_id]

    def _catch_up(self) -> None:
        # Outside a transaction the number is read first: a commit between the two is then read again, never missed.
        if (version := self._data_version()) != self._version:
            self._state, self._version, self._unseen = self._load(), version, True

    def _data_version(self) -> int:
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(version)

    def _load(self) -> _State:
        began = not self._connection.in_transaction
        try:
            if began:
                self._connection.execute("BEGIN")  # both tables as of one commit
            things = self._connection.execute("SELECT name, attributes, policies, password, created_at FROM thing")
            named = {row[0]: _thing(row) for row in things}
            columns = "id, thing, status, pem, created_at, expires_at"
            rows = self._connection.execute(f"SELECT {columns} FROM certificate")
            return _State(named, {row[0]: Registered(row[0], row[1], Status(row[2]), *row[3:]) for row in rows})
        except sqlite3.Error as error:
            raise translate(error, self.path) from error
        except (ValueError, TypeError) as error:
            raise DamagedStore(f"{self.path}: {error}") from error
        finally:
            if began and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def certificate_id(pem: str) -> str:
    """What AWS IoT calls a certificate's id: the SHA-256 of its DER bytes. Raises RegistryError when it is none."""
    return hashlib.sha256(_der(pem)).hexdigest()


def check_thing_name(name: str) -> None:
    """Raise RegistryError unless AWS IoT would allow the name for a thing."""
    if not _THING_NAME.fullmatch(name):
        raise RegistryError(f"{name!r} is no device name: 1 to 128 of the letters a-z A-Z, digits, ':', '_' and '-'")


def _checked_attributes(attributes: Mapping[str, str]) -> dict[str, str]:
    if len(attributes) > ATTRIBUTES_MAX:
        raise RegistryError(f"a device has at most {ATTRIBUTES_MAX} attributes, not {len(attributes):,}")
    for name, value in attributes.items():
        if not _ATTRIBUTE_NAME.fullmatch(name):
            raise RegistryError(f"{name!r} is no attribute name: 1 to 128 letters, digits and _ . , @ / : # -")
        if not _ATTRIBUTE_VALUE.fullmatch(value):
            raise RegistryError(f"{value!r} is no value: at most 800 letters, digits and _ . , @ / : # = [ ] -")
    return dict(attributes)


def _checked_policies(policies: Sequence[str]) -> tuple[str, ...]:
    for policy in policies:
        if not _POLICY_NAME.fullmatch(policy):
            raise RegistryError(f"{policy!r} is no policy name: letters, digits, '.', '_', '-'; at most 128")
    unique = tuple(dict.fromkeys(policies))
    if len(unique) > POLICIES_MAX:
        raise RegistryError(f"a device has at most {POLICIES_MAX} policies, not {len(unique)}")
    return unique


def _check_room(state: _State, thing: str | None) -> None:
    if thing is None:
        return
    _known(state, thing)
    usable = sum(c.thing == thing and c.status is not Status.REVOKED for c in state.certificates.values())
    if usable >= USABLE_MAX:
        raise RegistryError(f"{thing} has {usable} certificates that are not revoked; revoke some first")


def _known(state: _State, name: str) -> Thing:
    if (thing := state.things.get(name)) is None:
        raise RegistryError(f"there is no device {name!r}")
    return thing


def _known_certificate(state: _State, certificate_id: str) -> Registered:
    if (certificate := state.certificates.get(certificate_id)) is None:
        raise RegistryError(f"there is no certificate {certificate_id!r}")
    return certificate


def _thing(row: tuple[str, bytes, bytes, str | None, int]) -> Thing:
    name, attributes, policies, password, created_at = row
    return Thing(name, orjson.loads(attributes), tuple(orjson.loads(policies)), password, created_at)


def _der(pem: str) -> bytes:
    if len(pem) > PEM_CHARS_MAX:
        raise RegistryError(f"a certificate of {len(pem):,} characters; at most {PEM_CHARS_MAX:,} are taken")
    if (found := _CERTIFICATE.search(pem)) is None:
        raise RegistryError("no PEM certificate")
    try:
        return ssl.PEM_cert_to_DER_cert(found[0])
    except ValueError as error:
        raise RegistryError(f"no PEM certificate: {error}") from None


def _expires_at(pem: str) -> int:
    from devices.certificates import expires_at  # late: a daemon that registers nothing does not carry the library

    return expires_at(pem)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
