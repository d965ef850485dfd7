"""The local authority makes itself once, signs for ever, and keeps its keys to itself."""

import importlib
import json
import os
import signal
import ssl
import stat
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from core.config import ClientTls, Tls, client_context, server_context
from devices import addresses, directory
from devices.authority import Authority
from devices.errors import CertificateError
from devices.registry import certificate_id
from tests.handshakes import shake_hands
from tests.killing import Countdown

ROOT = Path(__file__).parent.parent


def files(home: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()}


def client_of(authority: Authority, tmp_path: Path, name: str = "press-7") -> ssl.SSLContext:
    certificate, key = authority.issue(name)
    (tmp_path / "client.pem").write_text(certificate)
    (tmp_path / "client.key").write_text(key)
    paths = ClientTls(ca=authority.path, certificate=tmp_path / "client.pem", key=tmp_path / "client.key")
    return client_context(paths)


def server_of(authority: Authority, *names: str) -> ssl.SSLContext:
    certificate, key = authority.server(names)
    return server_context(Tls(certificate=certificate, key=key, client_ca=authority.path))


def subject(common_name: str) -> tuple[tuple[tuple[str, str]]]:
    return ((("commonName", common_name),),)


# -- made once ---------------------------------------------------------------------------------------------------------


def test_it_is_made_on_first_use_and_found_after_that(tmp_path: Path) -> None:
    first = Authority.open(tmp_path / "data" / "devices")
    again = Authority.open(tmp_path / "data" / "devices")
    assert files(tmp_path / "data" / "devices") == {"ca.key": 0o600, "ca.pem": 0o644}
    assert (again.id, again.common_name) == (first.id, first.common_name)
    assert again.id == certificate_id(again.path.read_text())


def test_keys_are_closed_to_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Authority.open(tmp_path / "devices").server()
    finally:
        os.umask(before)
    assert files(tmp_path / "devices") == {
        "ca.key": 0o600, "ca.pem": 0o644, "server.key": 0o600, "server.pem": 0o644
    }  # fmt: skip
    assert stat.S_IMODE((tmp_path / "devices").stat().st_mode) == 0o700


def test_two_boxes_never_have_the_same_authority(tmp_path: Path) -> None:
    one, other = Authority.open(tmp_path / "one"), Authority.open(tmp_path / "other")
    assert one.common_name != other.common_name
    with pytest.raises(ssl.SSLError):
        shake_hands(server_of(one, "localhost"), client_of(other, tmp_path), "localhost")


def program(name: str, *arguments: object) -> list[str]:
    """The command line of a function below, run in a process of its own."""
    script = f"import sys; from tests.test_authority import {name}; {name}(*sys.argv[1:])"
    return [sys.executable, "-c", script, *map(str, arguments)]


def open_when_told(home: str) -> None:
    """Runs in a process of its own: make everything once a line comes in, and print what was made."""
    print("ready", flush=True)
    input()
    authority = Authority.open(Path(home))
    authority.server()
    print(json.dumps([authority.id, authority.issue("press-7")[0]]), flush=True)


def test_processes_that_race_for_the_first_one_share_it(tmp_path: Path) -> None:
    command, pipe = program("open_when_told", tmp_path / "devices"), subprocess.PIPE
    with ExitStack() as racing:
        racers = [
            racing.enter_context(subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True))
            for _ in range(4)
        ]
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        told = [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]
    authority = Authority.open(tmp_path / "devices")
    assert {each for each, _ in told} == {authority.id}
    for _, pem in told:
        (tmp_path / "device.pem").write_text(pem)
        assert verified_by_openssl(authority.path, tmp_path / "device.pem", "sslclient")
    assert set(files(tmp_path / "devices")) == {"ca.pem", "ca.key", "server.pem", "server.key"}


def open_until_killed(home: str, fatal: str) -> None:
    """Runs in a process of its own: make everything, until killed before the `fatal`-th change of the directory."""
    importlib.import_module("devices.certificates")  # which opens many files
    countdown, events = Countdown(int(fatal)), {"open", "os.rename", "os.mkdir"}
    sys.addaudithook(lambda event, about: countdown() if event in events and str(about[0]).startswith(home) else None)
    Authority.open(Path(home)).server()


def test_a_kill_while_it_is_made_leaves_a_usable_directory(tmp_path: Path) -> None:
    kills = 0
    for fatal in range(1, 60):
        home = tmp_path / str(fatal)
        child = subprocess.run(program("open_until_killed", home, fatal), cwd=ROOT, check=False)
        authority = Authority.open(home)
        client = client_of(authority, tmp_path)
        assert shake_hands(server_of(authority), client, "localhost")["subject"] == subject("press-7")
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL
        kills += 1
    assert 10 < kills < 59


def test_its_certificate_is_made_again_from_its_key_and_still_verifies(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "devices")
    client = client_of(authority, tmp_path)
    authority.path.unlink()
    again = Authority.open(tmp_path / "devices")
    assert again.common_name == authority.common_name
    assert shake_hands(server_of(again), client, "localhost")["subject"] == subject("press-7")


def test_without_its_key_it_vouches_for_what_it_signed_and_signs_nothing_more(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "devices")
    server, client = server_of(authority), client_of(authority, tmp_path)
    (tmp_path / "devices" / "ca.key").unlink()
    again = Authority.open(tmp_path / "devices")
    with pytest.raises(CertificateError, match=r"ca\.key is missing; nothing is signed without it"):
        again.issue("press-8")
    again.server()
    assert shake_hands(server, client, "localhost")["subject"] == subject("press-7")


def test_a_key_of_another_authority_is_refused(tmp_path: Path) -> None:
    one, other = Authority.open(tmp_path / "one"), Authority.open(tmp_path / "other")
    (tmp_path / "one" / "ca.key").write_text((tmp_path / "other" / "ca.key").read_text())
    with pytest.raises(CertificateError, match="does not belong to its certificate"):
        one.issue("press-7")
    assert other.issue("press-7")


@pytest.mark.parametrize("content", ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_file_that_is_no_certificate_gives_a_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "ca.pem").write_text(content)
    with pytest.raises(CertificateError, match=r"ca\.pem: no PEM certificate of an authority"):
        Authority.open(tmp_path)


# -- what it signs -----------------------------------------------------------------------------------------------------


def verified_by_openssl(ca: Path, certificate: Path, purpose: str, *more: str) -> bool:
    command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", str(ca), *more, str(certificate)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_openssl_accepts_what_it_issues_for_its_purpose_and_no_other(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "devices")
    (tmp_path / "device.pem").write_text(authority.issue("press-7")[0])
    server, _ = authority.server()
    assert verified_by_openssl(authority.path, tmp_path / "device.pem", "sslclient")
    assert not verified_by_openssl(authority.path, tmp_path / "device.pem", "sslserver")
    assert verified_by_openssl(authority.path, server, "sslserver", "-verify_hostname", "localhost")
    assert verified_by_openssl(authority.path, server, "sslserver", "-verify_ip", "::1")
    assert not verified_by_openssl(authority.path, server, "sslclient")


@pytest.mark.parametrize("moment", [1, 253_402_300_000])  # 1970 and 9999
def test_what_it_issues_holds_whatever_the_clock_says(tmp_path: Path, moment: int) -> None:
    authority = Authority.open(tmp_path / "devices")
    (tmp_path / "device.pem").write_text(authority.issue("press-7")[0])
    server, _ = authority.server()
    at = ("-attime", str(moment))
    assert verified_by_openssl(authority.path, tmp_path / "device.pem", "sslclient", *at)
    assert verified_by_openssl(authority.path, server, "sslserver", *at)


def test_a_configured_validity_ends_a_device_certificate_and_no_server_one(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "devices", certificate_days=30)
    (tmp_path / "device.pem").write_text(authority.issue("press-7")[0])
    now, day = int(time.time()), 86_400
    ends = {days: ("-attime", str(now + days * day)) for days in (29, 31)}
    assert verified_by_openssl(authority.path, tmp_path / "device.pem", "sslclient", *ends[29])
    assert not verified_by_openssl(authority.path, tmp_path / "device.pem", "sslclient", *ends[31])
    assert verified_by_openssl(authority.path, authority.server()[0], "sslserver", *ends[31])


def test_a_validity_in_days_is_not_counted_from_a_clock_that_was_never_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority.open(tmp_path / "devices", certificate_days=30)
    monkeypatch.setattr("devices.authority.time.time", lambda: 120.0)
    with pytest.raises(CertificateError, match="the clock says 1970-01-01"):
        authority.issue("press-7")
    assert Authority.open(tmp_path / "devices").issue("press-7")


def test_both_versions_of_tls_let_a_device_in_by_its_certificate(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "devices")
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        client = client_of(authority, tmp_path)
        client.minimum_version = client.maximum_version = version
        seen = shake_hands(server_of(authority), client, "localhost")
        assert seen["subject"] == subject("press-7")
        assert seen["issuer"] == subject(authority.common_name)


@pytest.mark.parametrize("name", ["x" * 64, "press:7_A-b", "a"])
def test_a_name_that_fits_is_the_common_name(tmp_path: Path, name: str) -> None:
    authority = Authority.open(tmp_path / "devices")
    seen = shake_hands(server_of(authority), client_of(authority, tmp_path, name), "localhost")
    assert seen["subject"] == subject(name)


def test_longer_names_are_shortened_and_stay_different(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "devices")
    seen = set()
    for name in ("x" * 65, "x" * 127, "x" * 127 + "y"):
        peer = shake_hands(server_of(authority), client_of(authority, tmp_path, name), "localhost")
        ((_, common_name),) = peer["subject"][0]
        assert len(common_name) == 64
        assert common_name.startswith("x" * 47 + "~")
        seen.add(common_name)
    assert len(seen) == 3


@pytest.mark.parametrize("name", ["", "a\nb", "\x00"])
def test_what_cannot_be_a_common_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CertificateError, match="cannot be a common name"):
        Authority.open(tmp_path / "devices").issue(name)


def test_a_device_signs_with_a_key_that_never_left_it(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "devices")
    key, csr, pem = tmp_path / "own.key", tmp_path / "own.csr", tmp_path / "own.pem"
    make = ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    make += ["-subj", "/O=Acme/CN=its-own-idea", "-keyout", str(key), "-out", str(csr)]
    subprocess.run(make, check=True, capture_output=True)
    for wanted, expected in (("press-7", "press-7"), (None, "its-own-idea")):
        pem.write_text(authority.sign(csr.read_text(), wanted))
        client = client_context(ClientTls(ca=authority.path, certificate=pem, key=key))
        assert shake_hands(server_of(authority), client, "localhost")["subject"] == subject(expected)
    with pytest.raises(CertificateError, match="no PEM signing request"):
        authority.sign("hello", "press-7")


# -- the server certificate --------------------------------------------------------------------------------------------


def test_a_server_certificate_is_kept_while_it_has_the_names(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "devices")
    certificate, key = authority.server(["edge.example"])
    first = certificate.read_text(), key.read_text()
    assert (certificate.name, key.name) == ("server.pem", "server.key")
    authority.server(["edge.example"])
    authority.server()
    assert (certificate.read_text(), key.read_text()) == first


def test_a_new_name_makes_it_again_for_the_same_key_and_forgets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority.open(tmp_path / "devices")
    key_before = authority.server(["edge.example"])[1].read_text()
    monkeypatch.setattr(addresses, "own_names", lambda: ["localhost"])  # no network yet
    certificate, key = authority.server(["*.plant.example", "192.0.2.7", "2001:db8::7"])
    assert key.read_text() == key_before
    for name in ("edge.example", "press.plant.example", "localhost"):
        assert verified_by_openssl(authority.path, certificate, "sslserver", "-verify_hostname", name), name
    for address in ("127.0.0.1", "192.0.2.7", "2001:db8::7"):
        assert verified_by_openssl(authority.path, certificate, "sslserver", "-verify_ip", address), address


@pytest.mark.parametrize("lost", ["server.pem", "server.key", "ca.pem"])
def test_it_is_made_again_when_it_does_not_serve_any_more(tmp_path: Path, lost: str) -> None:
    authority = Authority.open(tmp_path / "devices")
    authority.server(["edge.example"])
    (tmp_path / "devices" / lost).unlink()
    again = Authority.open(tmp_path / "devices")
    server = server_of(again, "edge.example")
    assert shake_hands(server, client_of(again, tmp_path), "edge.example")["subject"] == subject("press-7")


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "..", "x" * 64 + ".example", "a/b"])
def test_what_is_no_host_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CertificateError, match="neither a DNS name nor an IP address"):
        Authority.open(tmp_path / "devices").server([name])


def test_the_number_of_names_is_bounded(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "devices")
    with pytest.raises(CertificateError, match="65 names for one server; at most 64"):
        authority.server([f"edge-{number}.example" for number in range(65)])
    for start in range(0, 320, 64):  # what it had before is forgotten before what is asked for
        certificate, _ = authority.server([f"edge-{start + number}.example" for number in range(64)])
    assert verified_by_openssl(authority.path, certificate, "sslserver", "-verify_hostname", "edge-319.example")
    assert len(certificate.read_text().splitlines()[1].split()) <= 257


def test_a_daemon_that_signs_nothing_does_not_carry_the_library(tmp_path: Path) -> None:
    Authority.open(tmp_path / "devices").server()
    script = f"""import sys
from pathlib import Path
from devices.authority import Authority
from devices.registry import Registry
Authority.open(Path({str(tmp_path / "devices")!r})).server()
Registry(Path({str(tmp_path / "devices" / "devices.db")!r})).close()
print("cryptography" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    directory.write(tmp_path / "a.pem", "before", directory.PUBLIC)
    (tmp_path / ".a.pem.new").mkdir()  # nothing can be written aside
    with pytest.raises(directory.StorageError, match="Is a directory"):
        directory.write(tmp_path / "a.pem", "after", directory.PUBLIC)
    assert (tmp_path / "a.pem").read_text() == "before"
