"""Revocation lists of an operator's own authority are read from the files that openssl writes."""

import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from core.errors import ConfigurationError
from core.mqtt.access import Certificate
from devices import revocations
from devices.revocations import read
from tests.gates import Company, Credentials

CONFIG = """
[ca]
default_ca = here
[here]
database = {directory}/index
certificate = {directory}/ca.pem
private_key = {directory}/ca.key
default_md = sha256
default_crl_days = 1
crlnumber = {directory}/crlnumber
policy = any
new_certs_dir = {directory}
default_days = 1
serial = {directory}/serial
[any]
commonName = supplied
"""


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def certificate(path: Path) -> Certificate:
    """As a listener reports it."""
    der = ssl.PEM_cert_to_DER_cert(path.read_text()[path.read_text().index("-----BEGIN") :])
    parsed = x509.load_der_x509_certificate(der)
    return Certificate("id", {}, {}, f"{parsed.serial_number:X}", der)


def files(*devices: Credentials) -> list[Path]:
    return [device.certificate for device in devices if device.certificate is not None]


def revoked(lists: list[Path], *certificates: Path) -> list[bool]:
    found = read(lists)
    return [found.revoke(certificate(path)) for path in certificates]


@pytest.fixture
def crl(tmp_path: Path) -> Path:
    """The list of an authority that has issued certificates 0A, 0B and 0C and revoked two of them."""
    (tmp_path / "openssl.cnf").write_text(CONFIG.format(directory=tmp_path))
    for name, content in (("index", ""), ("crlnumber", "01\n"), ("serial", "0A\n")):
        (tmp_path / name).write_text(content)
    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(*new, "-x509", "-subj", "/O=Acme/CN=Acme CA", "-keyout", tmp_path / "ca.key", "-out", tmp_path / "ca.pem")
    act = ("ca", "-batch", "-config", tmp_path / "openssl.cnf")
    for number, name in enumerate("abc", start=10):
        openssl(*new, "-subj", f"/CN={name}", "-keyout", tmp_path / "k", "-out", tmp_path / "csr")
        openssl(*act, "-in", tmp_path / "csr", "-out", tmp_path / f"{name}.pem")
        if name != "b":
            openssl(*act, "-revoke", tmp_path / f"{number:02X}.pem")
    openssl(*act, "-gencrl", "-out", tmp_path / "list.pem")
    return tmp_path / "list.pem"


def test_a_list_revokes_what_is_on_it_as_pem_and_as_der(crl: Path) -> None:
    der = crl.with_suffix(".der")
    openssl("crl", "-in", crl, "-outform", "DER", "-out", der)
    for paths in ([crl], [der], [crl, der]):
        assert revoked(paths, *(crl.parent / f"{name}.pem" for name in "abc")) == [True, False, True]


def test_without_lists_nothing_is_revoked(crl: Path) -> None:
    assert revoked([], crl.parent / "a.pem") == [False]


def test_every_list_in_a_file_counts(tmp_path: Path) -> None:
    root, issuing = (Company.make(tmp_path, name) for name in ("root", "issuing"))
    ours, theirs = root.issue(tmp_path, "ours"), issuing.issue(tmp_path, "theirs")
    root.revoke(tmp_path / "1", ours)
    issuing.revoke(tmp_path / "2", theirs)
    both = tmp_path / "both.crl"
    both.write_bytes((tmp_path / "1").read_bytes() + b"\n" + (tmp_path / "2").read_bytes())
    assert revoked([both], *files(ours, theirs)) == [True, True]
    assert revoked([tmp_path / "1"], *files(ours, theirs)) == [True, False]


def test_a_list_is_about_the_certificates_of_its_issuer_by_its_whole_name(tmp_path: Path) -> None:
    oid = x509.NameOID
    for number, fields in enumerate(
        [
            [(oid.COMMON_NAME, "first"), (oid.COMMON_NAME, "second")],
            [(oid.ORGANIZATION_NAME, "without a common name")],
            [(oid.ORGANIZATION_NAME, "Acme"), (oid.COMMON_NAME, "CA")],
        ]
    ):
        subject = x509.Name([x509.NameAttribute(*field) for field in fields])
        company = Company.make(tmp_path, f"ca{number}", subject)
        gone, here = (company.issue(tmp_path, name) for name in ("gone", "here"))
        company.revoke(tmp_path / "crl", gone)
        assert revoked([tmp_path / "crl"], *files(gone, here)) == [True, False]
        namesake = Company.make(tmp_path, "CA").issue(tmp_path, "namesake")
        assert namesake.certificate is not None
        other = replace(certificate(namesake.certificate), serial=certificate(files(gone)[0]).serial)
        assert not read([tmp_path / "crl"]).revoke(other)


def test_a_certificate_with_a_revoked_number_that_cannot_be_read_is_revoked(tmp_path: Path) -> None:
    company = Company.make(tmp_path, "ca")
    gone = company.issue(tmp_path, "gone")
    company.revoke(tmp_path / "crl", gone)
    assert read([tmp_path / "crl"]).revoke(replace(certificate(files(gone)[0]), der=b"?"))


def test_a_file_with_something_else_beside_its_lists_is_refused(crl: Path) -> None:
    pem = crl.read_bytes()
    certificate = (crl.parent / "ca.pem").read_bytes()
    broken = pem.replace(b"-----END X509 CRL-----\n", b"")
    for content in (pem + certificate, certificate + pem, broken + pem, pem + broken, b"text\n" + pem, pem + b"text"):
        crl.write_bytes(content)
        with pytest.raises(ConfigurationError, match=r"list\.pem"):
            read([crl])


def test_a_list_about_the_certificates_of_other_issuers_is_refused(tmp_path: Path) -> None:
    company = Company.make(tmp_path, "ca")
    gone = company.issue(tmp_path, "gone")
    other = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "other")])
    company.revoke(tmp_path / "crl", gone, extension=x509.CertificateIssuer([x509.DirectoryName(other)]))
    with pytest.raises(ConfigurationError, match="indirect"):
        read([tmp_path / "crl"])


def test_every_file_that_cannot_be_used_is_named(crl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (crl.parent / "text").write_text("hello")
    with pytest.raises(ConfigurationError) as caught:
        read([crl, crl.parent / "gone", crl.parent / "text", crl.parent / "ca.pem"])
    assert len(caught.value.problems) == 3
    assert "gone: cannot be read: No such file" in caught.value.problems[0]
    assert "text: no X.509 revocation list" in caught.value.problems[1]
    assert "ca.pem: no X.509 revocation list" in caught.value.problems[2]
    monkeypatch.setattr(revocations, "LIST_BYTES_MAX", 100)
    with pytest.raises(ConfigurationError, match="larger than"):
        read([crl])
