"""Signing requests are trusted for nothing but a key, and only for a good one."""

import subprocess
from pathlib import Path

import pytest

from devices import certificates
from devices.certificates import requested
from devices.errors import CertificateError


def request(directory: Path, *key_options: str, subject: str = "/CN=press-7") -> str:
    command = ["openssl", "req", "-new", "-nodes", "-subj", subject, *key_options]
    files = ["-keyout", str(directory / "key"), "-out", str(directory / "csr")]
    subprocess.run([*command, *files], check=True, capture_output=True)
    return (directory / "csr").read_text()


def elliptic(curve: str) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", f"ec_paramgen_curve:{curve}"]


@pytest.mark.parametrize(
    "key",
    [elliptic("prime256v1"), elliptic("secp384r1"), elliptic("secp521r1"), ["-newkey", "rsa:2048"],
     ["-newkey", "rsa:3072"], ["-newkey", "ed25519"]],
    ids=str,
)  # fmt: skip
def test_good_keys_are_signed_and_openssl_agrees(tmp_path: Path, key: list[str]) -> None:
    ca_key = certificates.new_key()
    ca = certificates.authority(ca_key)
    public, common_name = requested(request(tmp_path, *key))
    assert common_name == "press-7"
    (tmp_path / "ca").write_text(ca)
    (tmp_path / "pem").write_text(certificates.device(ca, ca_key, public, "other"))
    verify = ["openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile"]
    assert subprocess.run([*verify, tmp_path / "ca", tmp_path / "pem"], check=False).returncode == 0
    of_key = subprocess.check_output(["openssl", "pkey", "-in", tmp_path / "key", "-pubout"])
    of_certificate = subprocess.check_output(["openssl", "x509", "-in", tmp_path / "pem", "-pubkey", "-noout"])
    assert of_key == of_certificate


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (["-newkey", "rsa:1024"], "RSA key of 1,024 bits; it must have 2,048 to 8,192"),
        (elliptic("secp256k1"), "the curve secp256k1; use P-256"),
        (elliptic("secp224r1"), "the curve secp224r1; use P-256"),
        (["-newkey", "ed448"], "of a kind that TLS does not use here"),
    ],
)
def test_weak_and_unusual_keys_are_refused(tmp_path: Path, key: list[str], words: str) -> None:
    text = request(tmp_path, *key)
    with pytest.raises(CertificateError, match=words):
        requested(text)


def test_a_request_for_somebody_elses_key_is_refused(tmp_path: Path) -> None:
    text = request(tmp_path, *elliptic("prime256v1"))
    public = subprocess.check_output(["openssl", "pkey", "-in", tmp_path / "key", "-pubout", "-outform", "DER"])
    other = tmp_path / "other"
    other.mkdir()
    request(other, *elliptic("prime256v1"))
    stolen = subprocess.check_output(["openssl", "pkey", "-in", other / "key", "-pubout", "-outform", "DER"])
    der = subprocess.run(["openssl", "req", "-outform", "DER"], input=text.encode(), capture_output=True, check=True)
    assert public in der.stdout
    forged = der.stdout.replace(public, stolen)
    pem = subprocess.run(["openssl", "req", "-inform", "DER"], input=forged, capture_output=True, check=True)
    with pytest.raises(CertificateError, match="not signed with its own key"):
        requested(pem.stdout.decode())


def test_a_request_without_a_name_has_none(tmp_path: Path) -> None:
    assert requested(request(tmp_path, *elliptic("prime256v1"), subject="/O=Acme"))[1] is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no PEM signing request"),
        ("hello", "no PEM signing request"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "no PEM signing request"),
        ("\x00" * 100, "no PEM signing request"),
        ("ü", "no PEM signing request"),
        ("x" * 16_385, "16,385 characters; at most 16,384"),
    ],
)
def test_what_is_no_request_gives_a_sentence(text: str, words: str) -> None:
    with pytest.raises(CertificateError, match=words):
        requested(text)


def test_a_certificate_instead_of_a_request_is_refused() -> None:
    with pytest.raises(CertificateError, match="no PEM signing request"):
        requested(certificates.authority(certificates.new_key()))


@pytest.mark.parametrize("pem", ["", "no key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_private_key_gives_a_sentence(pem: str) -> None:
    with pytest.raises(CertificateError, match="private key"):
        certificates.public_key(pem)


def test_when_a_certificate_ends_is_read_from_it() -> None:
    assert certificates.expires_at(certificates.authority(certificates.new_key())) == 253_402_300_799_000
    with pytest.raises(CertificateError, match="no PEM certificate"):
        certificates.expires_at("hello")
