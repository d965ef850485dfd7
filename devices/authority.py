"""The box's own certificate authority: its files, and what it signs.

Made on first use, it needs no network and never ends. `ca.key` is the authority; `ca.pem` follows from it and is made
again when it is missing. `server.key` and `server.pem` are what listeners without a certificate of their own show.

Will not decide what certificates look like (`devices.certificates`), nor remember what it has issued: whoever has a
certificate issued registers it (`devices.registry`), and one that is not registered lets nobody in.

Invariants:
1. Every file appears whole, and keys are never readable for others; a crash at any moment leaves a usable directory.
2. However many processes open a new directory at once, they get the same authority.
3. Opening an authority, and asking for a server certificate that still serves, loads no library for certificates.
"""

import hashlib
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from devices import addresses, directory
from devices.errors import CertificateError

CA, CA_KEY = "ca.pem", "ca.key"
SERVER, SERVER_KEY = "server.pem", "server.key"

COMMON_NAME_MAX = 64  # X.520's bound
_DIGEST_CHARS = 16  # of a longer name, after a "~", which no device name has: none is taken for another

NAMES_GIVEN_MAX = 64  # as many as a listener may have
NAMES_MAX = 256  # of a server certificate: those of several listeners, and the addresses of a box with many networks
FILE_CHARS_MAX = 1 << 16  # our files have a few kilobytes

# Before this the clock has certainly not been set, and a certificate that ends so many days from now has ended already.
CLOCK_SET = datetime(2024, 1, 1, tzinfo=UTC)


class Authority:
    """The authority in a directory; get it with `open`. Its methods may be called from any thread.

    `path` is the file of its own certificate, `common_name` and `id` are that one's subject and SHA-256 of the DER.
    """

    def __init__(self, home: Path, certificate_days: int | None = None) -> None:
        self.path = home / CA
        self._home = home
        self._days = certificate_days
        pem = self._read(CA)
        try:
            self.id = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
            self.common_name = _subject(pem)
        except (ValueError, ssl.SSLError) as error:
            raise CertificateError(f"{self.path}: no PEM certificate of an authority: {error}") from None

    @classmethod
    def open(cls, home: Path, certificate_days: int | None = None) -> "Authority":
        """The authority that the directory keeps, made now if there is none yet.

        What it issues for devices ends after so many days, or never. Raises CertificateError or StorageError.
        """
        if not (home / CA).exists():
            directory.make(home)
            with directory.locked(home):
                if not (home / CA).exists():  # else another process was faster
                    _make(home)
        return cls(home, certificate_days)

    def issue(self, common_name: str) -> tuple[str, str]:
        """A new P-256 key and a client certificate for it, both PEM, the certificate first.

        Of a name of more than 64 characters, X.520's bound, the certificate has 47, "~" and 16 digits of its SHA-256.
        Raises CertificateError or StorageError.
        """
        certificates = _library()
        key = certificates.new_key()
        return self._device(certificates.public_key(key), common_name), key

    def sign(self, csr_pem: str, common_name: str | None = None) -> str:
        """A client certificate for the key of a signing request, PEM.

        Nothing but the key is taken from the request; without `common_name`, its common name too. Raises
        CertificateError for requests that `devices.certificates.requested` refuses, or StorageError.
        """
        key, requested = _library().requested(csr_pem)
        name = common_name or requested
        if not name:
            raise CertificateError("the signing request has no common name, and none was given")
        return self._device(key, name)

    def server(self, names: Sequence[str] = ()) -> tuple[Path, Path]:
        """The files of a server certificate and its key for these DNS names and IP addresses and the box's own.

        Made again when it lacks one, with what it had before: an address that is away for now (no network yet) stays.
        Raises CertificateError or StorageError.
        """
        if len(names) > NAMES_GIVEN_MAX:
            raise CertificateError(f"{len(names)} names for one server; at most {NAMES_GIVEN_MAX} are taken")
        wanted = list(dict.fromkeys([*names, *addresses.own_names()]))[:NAMES_MAX]
        if not self._serves(wanted):
            with directory.locked(self._home):
                before = self._served() if self._serves([]) else []
                self._make_server([*wanted, *(name for name in before if name not in wanted)][:NAMES_MAX])
        return self._home / SERVER, self._home / SERVER_KEY

    # -- the server certificate ---------------------------------------------------------------------------------------

    def _make_server(self, names: list[str]) -> None:
        certificates = _library()
        if not (self._home / SERVER_KEY).exists():
            directory.write(self._home / SERVER_KEY, certificates.new_key(), directory.SECRET)
        key = certificates.public_key(self._read(SERVER_KEY))
        pem = certificates.server(self._read(CA), self._read(CA_KEY), key, names)
        # Text before the certificate is a comment to every reader of PEM (RFC 7468 section 2); ours saves parsing it.
        comment = f"issuer: {self.id}\nnames: {' '.join(names)}\n"
        directory.write(self._home / SERVER, comment + pem, directory.PUBLIC)

    def _serves(self, names: list[str]) -> bool:
        """Whether the files are there, of this authority, match, and have all the names."""
        with suppress(OSError, ssl.SSLError, CertificateError):
            if not self._read(SERVER).startswith(f"issuer: {self.id}\n"):
                return False
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._home / SERVER, self._home / SERVER_KEY)
            return set(names) <= set(self._served())
        return False

    def _served(self) -> list[str]:
        lines = self._read(SERVER).splitlines()
        return lines[1].removeprefix("names: ").split() if len(lines) > 1 else []

    # -- signing ------------------------------------------------------------------------------------------------------

    def _device(self, public_key: Any, name: str) -> str:
        not_after = _end(self._days) if self._days else _library().NEVER
        return str(_library().device(self._read(CA), self._read(CA_KEY), public_key, _fitting(name), not_after))

    def _read(self, name: str) -> str:
        path = self._home / name
        try:
            with path.open(encoding="utf-8") as file:
                return file.read(FILE_CHARS_MAX)
        except FileNotFoundError:
            advice = "; nothing is signed without it: put it back, or remove ca.pem too, which begins a new authority"
            raise CertificateError(f"{path} is missing{advice if name == CA_KEY else ''}") from None
        except OSError as error:
            raise directory.refused(path, error) from None
        except UnicodeDecodeError:
            raise CertificateError(f"{path} is no PEM file") from None


def _make(home: Path) -> None:
    certificates = _library()
    if not (home / CA_KEY).exists():
        directory.write(home / CA_KEY, certificates.new_key(), directory.SECRET)
    key = (home / CA_KEY).read_text()
    directory.write(home / CA, certificates.authority(key), directory.PUBLIC)


def _library() -> Any:
    from devices import certificates  # late: invariant 3

    return certificates


def _fitting(name: str) -> str:
    if len(name) <= COMMON_NAME_MAX:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{name[: COMMON_NAME_MAX - _DIGEST_CHARS - 1]}~{digest}"


def _end(days: int) -> datetime:
    now = datetime.fromtimestamp(time.time(), UTC)
    if now < CLOCK_SET:
        raise CertificateError(
            f"the clock says {now:%Y-%m-%d}, so a certificate of {days} days would end too early: set the clock first"
        )
    return (now + timedelta(days=days)).replace(microsecond=0)


def _subject(pem: str) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem)
    for certificate in context.get_ca_certs():
        subject: Any = certificate.get("subject", ())
        names = dict(pair for part in subject for pair in part)
        if "commonName" in names:
            return str(names["commonName"])
    raise ValueError("it has no common name")
