"""Revocation lists of an operator's own authority are read from the files that openssl writes."""

import subprocess
from pathlib import Path

import pytest

from core.errors import ConfigurationError
from devices import revocations
from devices.revocations import read

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
    expected = {("Acme CA", "A"), ("Acme CA", "C")}
    assert read([crl]) == read([der]) == read([crl, der]) == expected


def test_without_lists_nothing_is_revoked() -> None:
    assert read([]) == frozenset()


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
