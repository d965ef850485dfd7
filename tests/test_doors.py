"""What a listener reports of a client's certificate: who has signed it, and whose word about its name counts.

Handshakes here are real, in memory. What else comes in through a door is tested where it is used: `test_listener` has
files of Unix sockets and handshakes that may not begin, `test_entrance` contexts that are replaced.
"""

import hashlib
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from core.config import ServerContext, Tls, server_context
from core.mqtt import doors
from core.mqtt.access import Certificate
from tests.gates import TLS_VERSIONS, Company, Credentials, issue, shown

OURS = "plant"  # what both the operator's authority is named and whoever would like to be taken for it
both_tls = pytest.mark.parametrize("tls", TLS_VERSIONS, ids=lambda tls: tls.name)


@pytest.fixture
def plant(tmp_path: Path) -> Company:
    (tmp_path / "ours").mkdir()
    return Company.make(tmp_path / "ours", OURS)


@pytest.fixture
def vendor(tmp_path: Path) -> Company:
    return Company.make(tmp_path, "vendor")


def listener(directory: Path, client_ca: Path | None, *added: Path) -> ServerContext:
    server = issue(directory, "server", None)
    return server_context(Tls(certificate=server.certificate, key=server.key, client_ca=client_ca), added)


def client(device: Credentials, directory: Path, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    return Credentials(device.certificate, device.key, directory / "server.pem").context(version)


def entered(server: ServerContext, device: Credentials, directory: Path) -> Certificate:
    return shown(server, client(device, directory))[0]


def id_of(company: Company) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(company.certificate.read_text())).hexdigest()


def test_the_client_ca_of_a_listener_vouches_for_what_it_has_signed_directly_or_not(
    tmp_path: Path, plant: Company, vendor: Company
) -> None:
    server = listener(tmp_path, plant.certificate, vendor.certificate)
    hall = plant.below(tmp_path, "hall")
    direct = entered(server, plant.issue(tmp_path, "press"), tmp_path)
    assert (direct.vouched, direct.authorities) == (True, (id_of(plant),))
    indirect = entered(server, hall.issue(tmp_path, "press"), tmp_path)
    assert (indirect.vouched, indirect.authorities) == (True, (id_of(hall), id_of(plant)))


@pytest.mark.parametrize("name", ["issuing", OURS])
def test_an_authority_that_the_daemon_adds_vouches_for_nobody_whatever_it_calls_its_own(
    tmp_path: Path, plant: Company, vendor: Company, name: str
) -> None:
    issuing = vendor.below(tmp_path, name)
    for client_ca in (plant.certificate, None, vendor.certificate):  # the last is for both purposes
        server = listener(tmp_path, client_ca, vendor.certificate)
        for company, chain in ((vendor, (vendor,)), (issuing, (issuing, vendor))):
            certificate = entered(server, company.issue(tmp_path, "press"), tmp_path)
            assert certificate.authorities == tuple(map(id_of, chain))
            assert not certificate.vouched


def test_what_passes_an_authority_that_the_daemon_adds_is_not_vouched_for_from_above(
    tmp_path: Path, plant: Company
) -> None:
    supplier = plant.below(tmp_path, "supplier")
    server = listener(tmp_path, plant.certificate, supplier.certificate)
    certificate = entered(server, supplier.below(tmp_path, "its own").issue(tmp_path, "press"), tmp_path)
    assert certificate.authorities[1:] == (id_of(supplier), id_of(plant))
    assert not certificate.vouched


def test_a_certificate_that_is_itself_the_client_ca_vouches_for_itself(tmp_path: Path) -> None:
    device = issue(tmp_path, "press", None, authority=True)
    certificate = entered(listener(tmp_path, device.certificate), device, tmp_path)
    assert (certificate.vouched, certificate.authorities) == (True, (certificate.id,))


@both_tls
def test_a_resumed_session_is_what_it_was_at_first(
    tmp_path: Path, plant: Company, vendor: Company, tls: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = listener(tmp_path, plant.certificate, vendor.certificate)
    ours, theirs = plant.below(tmp_path, "hall"), vendor.below(tmp_path, "issuing")
    for company, vouched in ((ours, True), (theirs, False)):
        context = client(company.issue(tmp_path, "press"), tmp_path, tls)
        first, end = shown(server, context)
        again, resumed = shown(server, context, end.session)
        assert resumed.session_reused
        assert again == first
        assert (again.vouched, len(again.authorities)) == (vouched, 2)


@both_tls
def test_nobody_vouches_for_a_resumed_session_whose_chain_was_forgotten(
    tmp_path: Path, plant: Company, tls: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "CHAINS_MAX", 1)
    server = listener(tmp_path, plant.certificate)
    context = client(plant.issue(tmp_path, "press"), tmp_path, tls)
    _, end = shown(server, context)
    assert shown(server, context, end.session)[0].vouched
    assert entered(server, plant.issue(tmp_path, "lathe"), tmp_path).vouched
    forgotten, resumed = shown(server, context, end.session)
    assert resumed.session_reused
    assert (forgotten.vouched, forgotten.authorities) == (False, ())
    assert shown(server, context)[0].vouched


def test_of_several_fields_alike_in_a_name_the_first_counts(tmp_path: Path, plant: Company) -> None:
    oid = x509.NameOID
    names = [(oid.DOMAIN_COMPONENT, "com"), (oid.COMMON_NAME, "press"), (oid.COMMON_NAME, "boss")]
    subject = x509.Name([x509.NameAttribute(*name) for name in names])
    device = plant.issue(tmp_path, "press", subject=subject)
    certificate = entered(listener(tmp_path, plant.certificate), device, tmp_path)
    assert certificate.subject == {"domainComponent": "com", "commonName": "press"}
    assert certificate.issuer == {"commonName": OURS}
