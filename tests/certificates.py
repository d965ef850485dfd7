"""A certificate authority for the tests: it signs as many certificates as a test wants, valid for a day."""

import datetime
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from core.config import ClientTls, Tls, client_context, server_context


class Authority:
    """Keeps its certificate in `directory/ca.pem` and what it signs beside it, as `name.pem` and `name.key`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named("ca of the tests")
        self.path = directory / "ca.pem"
        self.path.write_bytes(_pem(self._certificate(self._name, self._key.public_key(), authority=True)))

    def sign(self, common_name: str) -> tuple[Path, Path]:
        """The files of a new certificate for a client, or for a server on this machine, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate, key_file = (self.directory / f"{common_name}.{suffix}" for suffix in ("pem", "key"))
        certificate.write_bytes(_pem(self._certificate(_named(common_name), key.public_key(), authority=False)))
        form, unencrypted = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, unencrypted))
        return certificate, key_file

    def server(self, *, anonymous: bool = False) -> ssl.SSLContext:
        """For a listener that asks its clients for certificates of this authority."""
        certificate, key = self.sign("localhost")
        return server_context(Tls(certificate=certificate, key=key, client_ca=self.path), anonymous=anonymous)

    def client(self, common_name: str | None = None) -> ssl.SSLContext:
        """For a client that trusts this authority, with or without a certificate of its own."""
        certificate, key = self.sign(common_name) if common_name else (None, None)
        return client_context(ClientTls(ca=self.path, certificate=certificate, key=key))

    def _certificate(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, authority: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
