"""Revocation lists (X.509 CRLs, RFC 5280 section 5) of an operator's own authority, read whole.

They revoke what the registry does not know; what the local authority has issued is revoked in the registry. A list is
taken at its word, also after the time for its next update: the operator put the file there, and a box that is off-line
for a month must not forget whom it locks out. What is not understood whole is refused whole: nobody would notice a list
that revokes nothing.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import ConfigurationError
from core.mqtt.access import Certificate

if TYPE_CHECKING:
    from cryptography import x509

LIST_BYTES_MAX = 16 << 20  # some 400,000 entries; public authorities split theirs before that

_PEM = re.compile(b"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)
_CERTIFICATE_ISSUER = bytes.fromhex("0603551d1d")  # the extension of an entry, RFC 5280 section 5.3.3, in DER


class Revocations:
    """What lists revoke: serial numbers, each with the issuers whose certificate of that number is revoked."""

    def __init__(self) -> None:
        self._issuers: dict[int, frozenset[x509.Name]] = {}

    def __len__(self) -> int:
        return len(self._issuers)

    def add(self, revoked: "x509.CertificateRevocationList") -> None:
        """What one more list revokes. Raises ValueError when it cannot be told of whom its entries are."""
        if _CERTIFICATE_ISSUER in revoked.tbs_certlist_bytes:
            raise ValueError("an indirect list, with certificates of other issuers on it; each must make its own")
        issuer = frozenset((revoked.issuer,))
        for entry in revoked:
            known = self._issuers.get(entry.serial_number)
            self._issuers[entry.serial_number] = known | issuer if known else issuer

    def revoke(self, certificate: Certificate) -> bool:
        """Whether a certificate is revoked; one whose number is, and whose issuer cannot be read, is."""
        issuers = self._issuers.get(int(certificate.serial, 16))
        if issuers is None:
            return False
        from cryptography import x509

        try:
            return x509.load_der_x509_certificate(certificate.der).issuer in issuers
        except ValueError:
            return True


def read(paths: Sequence[Path]) -> Revocations:
    """What the lists revoke, PEM or DER. Raises ConfigurationError with every file that cannot be used."""
    found = Revocations()
    problems = []
    for path in paths:
        try:
            with path.open("rb") as file:
                for revoked in _lists(file.read(LIST_BYTES_MAX + 1)):
                    found.add(revoked)
        except OSError as error:
            problems.append(f"{path}: cannot be read: {error.strerror}")
        except ValueError as error:
            problems.append(f"{path}: {error}")
    if problems:
        raise ConfigurationError("devices.revocation_lists", problems)
    return found


def _lists(content: bytes) -> "list[x509.CertificateRevocationList]":
    from cryptography import x509  # late: a daemon without lists does not carry the library

    if len(content) > LIST_BYTES_MAX:
        raise ValueError(f"larger than {LIST_BYTES_MAX >> 20} MiB")
    blocks = _PEM.findall(content)
    if blocks and (rest := _PEM.sub(b"", content).strip()):
        raise ValueError(f"has {rest[:30]!r}… beside its {len(blocks)} revocation lists; take that out")
    try:
        return [x509.load_pem_x509_crl(block) for block in blocks] or [x509.load_der_x509_crl(content)]
    except ValueError as error:
        raise ValueError(f"no X.509 revocation list, neither PEM nor DER: {error}") from None
