"""Revocation lists (X.509 CRLs, RFC 5280 section 5) of an operator's own authority, read whole.

They revoke what the registry does not know; what the local authority has issued is revoked in the registry. A list is
taken at its word, also after the time for its next update: the operator put the file there, and a box that is off-line
for a month must not forget whom it locks out.
"""

from collections.abc import Sequence
from pathlib import Path

from core.errors import ConfigurationError

LIST_BYTES_MAX = 16 << 20  # some 400,000 entries; public authorities split theirs before that

Revoked = frozenset[tuple[str, str]]
"""Common names of issuers with serial numbers in upper-case hexadecimal, as in `core.mqtt.access.Certificate`."""


def read(paths: Sequence[Path]) -> Revoked:
    """What the lists revoke, PEM or DER. Raises ConfigurationError with every file that cannot be used."""
    found: set[tuple[str, str]] = set()
    problems = []
    for path in paths:
        try:
            with path.open("rb") as file:
                found |= _entries(file.read(LIST_BYTES_MAX + 1))
        except OSError as error:
            problems.append(f"{path}: cannot be read: {error.strerror}")
        except ValueError as error:
            problems.append(f"{path}: {error}")
    if problems:
        raise ConfigurationError("devices.revocation_lists", problems)
    return frozenset(found)


def _entries(content: bytes) -> set[tuple[str, str]]:
    from cryptography import x509  # late: a daemon without lists does not carry the library

    if len(content) > LIST_BYTES_MAX:
        raise ValueError(f"larger than {LIST_BYTES_MAX >> 20} MiB")
    try:
        is_pem = content.lstrip().startswith(b"-----BEGIN")
        revoked = x509.load_pem_x509_crl(content) if is_pem else x509.load_der_x509_crl(content)
        names = revoked.issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        numbers = [f"{entry.serial_number:X}" for entry in revoked]
    except ValueError as error:
        raise ValueError(f"no X.509 revocation list, neither PEM nor DER: {error}") from None
    if not names:
        raise ValueError("its issuer has no common name, so nothing tells whose certificates it revokes")
    return {(str(names[-1].value), number) for number in numbers}
