"""What keys and certificates look like: the one place that knows X.509 (RFC 5280).

Values in, values out, PEM text both ways: makes keys, an authority's own certificate, and certificates for devices and
servers, and reads devices' signing requests. All that `cryptography` is needed for is here and in `devices.passwords`;
importing it costs a process 10 MB, so daemons come here only when something is to be signed.

Will not keep anything, nor read clocks: `devices.authority` does.
"""

import hashlib
import ipaddress
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from devices.errors import CertificateError

NOT_BEFORE = datetime(1970, 1, 1, tzinfo=UTC)  # a box without a battery clock starts in 1970 and must still verify
NEVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280 section 4.1.2.5: no well-defined end

COMMON_NAME_MAX = 64  # X.520's bound, which TLS libraries enforce
CSR_CHARS_MAX = 16_384  # AWS takes 4,096; RSA keys of 8,192 bits with every attribute fit here
RSA_BITS_MIN, RSA_BITS_MAX = 2_048, 8_192  # weaker is broken; stronger would cost a handshake a second of a small box
CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)  # what TLS 1.2 and 1.3 clients have in common

_DNS_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*")
DNS_NAME_MAX = 253  # RFC 1035 section 2.3.4, as text

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


def new_key() -> str:
    """A fresh P-256 private key, PKCS #8 without a passphrase."""
    key = ec.generate_private_key(ec.SECP256R1())
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, plain).decode()


def public_key(key_pem: str) -> PublicKey:
    """The public half of a private key of `new_key`."""
    return _private(key_pem).public_key()


def authority(key_pem: str) -> str:
    """An authority's own certificate.

    Its subject is made of the key: two keys never share it, and the certificate of a key can be made again at any time
    and still verifies whatever the key has signed.
    """
    key = _private(key_pem)
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    digest = hashlib.sha256(key.public_key().public_bytes(serialization.Encoding.DER, spki)).hexdigest()
    name = _name(f"Tidegate authority {digest[:16]}")
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), NOT_BEFORE, NEVER)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pem(certificate)


def device(ca_pem: str, ca_key_pem: str, public: PublicKey, common_name: str, not_after: datetime = NEVER) -> str:
    """A certificate for a TLS client. Raises CertificateError."""
    return _signed(ca_pem, ca_key_pem, public, common_name, ExtendedKeyUsageOID.CLIENT_AUTH, (), not_after)


def server(ca_pem: str, ca_key_pem: str, public: PublicKey, names: Sequence[str]) -> str:
    """A certificate for a TLS server with these DNS names and IP addresses. Raises CertificateError."""
    common_name = next((name for name in names if len(name) <= COMMON_NAME_MAX), "Tidegate")
    return _signed(ca_pem, ca_key_pem, public, common_name, ExtendedKeyUsageOID.SERVER_AUTH, names, NEVER)


def requested(csr_pem: str) -> tuple[PublicKey, str | None]:
    """The key and the common name, if any, of a signing request (PKCS #10).

    Raises CertificateError when it is none, when whoever made it does not hold the key, and for weak or unusual keys.
    """
    if len(csr_pem) > CSR_CHARS_MAX:
        raise CertificateError(f"a signing request of {len(csr_pem):,} characters; at most {CSR_CHARS_MAX:,} are read")
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        is_signed, key = request.is_signature_valid, request.public_key()
        names = [str(each.value) for each in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CertificateError("no PEM signing request (BEGIN CERTIFICATE REQUEST) that can be read") from None
    if not is_signed:
        raise CertificateError("the signing request is not signed with its own key")
    return _acceptable(key), names[0] if names else None


def expires_at(pem: str) -> int:
    """When a certificate ends, in milliseconds since 1970. Raises CertificateError when it cannot be read."""
    try:
        end = x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc
    except ValueError as error:
        raise CertificateError(f"no PEM certificate: {error}") from None
    return int(end.timestamp()) * 1_000


def _acceptable(key: object) -> PublicKey:
    match key:
        case rsa.RSAPublicKey():
            if RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX:
                return key
            raise CertificateError(
                f"an RSA key of {key.key_size:,} bits; it must have {RSA_BITS_MIN:,} to {RSA_BITS_MAX:,}"
            )
        case ec.EllipticCurvePublicKey():
            if isinstance(key.curve, CURVES):
                return key
            raise CertificateError(f"a key on the curve {key.curve.name}; use P-256, P-384 or P-521")
        case ed25519.Ed25519PublicKey():
            return key
        case _:
            raise CertificateError("a key of a kind that TLS does not use here; make a P-256, Ed25519 or RSA key")


def _signed(
    ca_pem: str, ca_key_pem: str, public: PublicKey, common_name: str, use: x509.ObjectIdentifier,
    names: Sequence[str], not_after: datetime,
) -> str:  # fmt: skip
    alternatives = [_general(name) for name in names]
    ca, key = x509.load_pem_x509_certificate(ca_pem.encode()), _private(ca_key_pem)
    if ca.public_key() != key.public_key():
        raise CertificateError("the authority's key does not belong to its certificate")
    issuer = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    serial = x509.random_serial_number()
    builder = (
        x509.CertificateBuilder(ca.subject, _name(common_name), public, serial, NOT_BEFORE, not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
    )
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return _pem(builder.sign(key, hashes.SHA256()))


def _private(pem: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"no PEM private key without a passphrase: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError("the private key is no elliptic-curve key")
    return key


def _name(common_name: str) -> x509.Name:
    if not 0 < len(common_name) <= COMMON_NAME_MAX or not common_name.isprintable():
        raise CertificateError(f"{common_name!r} cannot be a common name: 1 to {COMMON_NAME_MAX} printable characters")
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general(name: str) -> x509.GeneralName:
    with suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    with suppress(UnicodeError):
        plain = name if name.isascii() else name.encode("idna").decode()
        if len(plain) <= DNS_NAME_MAX and _DNS_NAME.fullmatch(plain):
            return x509.DNSName(plain)
    raise CertificateError(f"{name!r} is neither a DNS name nor an IP address")


def _key_usage(**uses: bool) -> x509.KeyUsage:
    kinds = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**dict.fromkeys(kinds, False) | uses)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
