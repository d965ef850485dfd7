"""Configuration is strict, reports every fault at once, and says what to write instead."""

import contextlib
import datetime
import os
import ssl
import stat
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError

from core import config
from core.config import (
    ClientTls,
    ConfigPath,
    Duration,
    HostPort,
    Listener,
    Name,
    Section,
    Size,
    Tls,
    UnixSocket,
    client_context,
    load,
    open_data_dir,
    server_context,
)
from core.errors import ConfigurationError

UNITS_OF_SIZE = 'write bytes, or a unit as in "2GB", "1.5MB" or "128 KiB"'


class Lane(Section):
    name: Name
    topics: tuple[str, ...] = ("#",)
    max_bytes: Size = 0
    max_age: Duration = 0.0
    when_full: Literal["drop-oldest", "reject"] = "reject"
    priority: int = Field(default=1, ge=0, le=9)


class Http(Section):
    address: HostPort
    anonymous: bool = False


class Example(Section):
    listeners: tuple[Listener, ...] = ()
    lanes: list[Lane] = Field(default_factory=list)
    http: Http | None = None
    by_name: dict[Name, Lane] = Field(default_factory=dict)
    directory: ConfigPath | None = None
    ratio: float = 0.5


def problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "edge.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load(path, Example)
    assert caught.value.source == str(path)
    assert str(caught.value) == "\n".join(f"{path}: {problem}" for problem in caught.value.problems)
    return caught.value.problems


def loaded(tmp_path: Path, text: str) -> Example:
    path = tmp_path / "edge.toml"
    path.write_text(text)
    return load(path, Example)


def test_a_good_file_becomes_a_model_that_cannot_change(tmp_path: Path) -> None:
    example = loaded(
        tmp_path,
        """
        ratio = 1
        http = { address = "[::1]:0" }
        by_name.fresh = { name = "fresh" }
        [[listeners]]
        address = "127.0.0.1:1883"
        anonymous = true
        [[lanes]]
        name = "alarms"
        topics = ["plant/+/alarm", "plant/#"]
        max_bytes = "2GB"
        max_age = "7d"
        when_full = "drop-oldest"
        """,
    )
    assert example.listeners == (Listener(address=HostPort("127.0.0.1", 1883), anonymous=True),)
    assert example.lanes[0].topics == ("plant/+/alarm", "plant/#")
    assert (example.lanes[0].max_bytes, example.lanes[0].max_age) == (2_000_000_000, 604_800.0)
    assert example.http == Http(address=HostPort("::1", 0))
    assert (example.by_name["fresh"].name, example.ratio) == ("fresh", 1.0)
    with pytest.raises(ValidationError):
        example.ratio = 2.0


def test_every_fault_is_reported_at_once_with_its_path(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """
        rato = 0.5
        ratio = "half"
        http = { adress = "127.0.0.1:80" }
        by_name.x = { name = "x", prioritty = 3 }
        [[listeners]]
        address = "127.0.0.1:1883"
        anonymous = true
        [[listeners]]
        address = 1883
        tls = { certificate = "c.pem", keys = "k.pem" }
        [[lanes]]
        name = "two words"
        topics = "plant/#"
        max_bytes = "2 gigabytes"
        max_age = true
        when_full = "explode"
        priority = 10
        [[lanes]]
        priority = 1.5
        """,
    )
    assert sorted(found) == sorted(
        [
            "rato: unknown key; did you mean 'ratio'?",
            "ratio: must be a number, not text",
            "http.address: is missing",
            "http.adress: unknown key; did you mean 'address'?",
            "by_name.x.prioritty: unknown key; did you mean 'priority'?",
            'listeners[1].address: 1883 is no address: write "host:port", "0.0.0.0:8883" or "[::1]:1883"',
            "listeners[1].tls.keys: unknown key; did you mean 'key'?",
            "lanes[0].name: 'two words' does not match ^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
            "lanes[0].topics: must be a list, in [ ], not text",
            "lanes[0].max_bytes: '2 gigabytes' is no size: " + UNITS_OF_SIZE,
            'lanes[0].max_age: True is no duration: write seconds, or a unit as in "250ms", "5s" or "7d"',
            "lanes[0].when_full: must be 'drop-oldest' or 'reject'",
            "lanes[0].priority: must be less than or equal to 9",
            "lanes[1].name: is missing",
            "lanes[1].priority: must be a whole number, not a decimal number",
        ]
    )


def test_an_unknown_key_that_resembles_nothing_lists_what_is_known(tmp_path: Path) -> None:
    assert problems(tmp_path, 'http = { address = "localhost:80", zzz = 1 }') == [
        "http.zzz: unknown key; known here: address, anonymous"
    ]


def test_values_of_the_wrong_kind_are_not_echoed(tmp_path: Path) -> None:
    assert "hunter2" not in "".join(problems(tmp_path, 'ratio = "hunter2"\nhttp = "hunter2"'))


def test_a_syntax_error_says_line_and_column(tmp_path: Path) -> None:
    assert problems(tmp_path, "[http]\naddress == 1\n") == ["is not TOML: Invalid value (at line 2, column 10)"]


def test_a_key_given_twice_is_an_error(tmp_path: Path) -> None:
    assert "line 2" in problems(tmp_path, "ratio = 1\nratio = 2\n")[0]


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_numbers_that_are_none_are_refused(tmp_path: Path, number: str) -> None:
    assert problems(tmp_path, f"ratio = {number}")[0].startswith("ratio: must be a finite number")


def test_what_is_no_configuration_file_is_refused(tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(ConfigurationError) as caught:
            load(path, Example)
        return str(caught.value)

    (tmp_path / "latin").write_bytes(b'a = "\xe9"')
    (tmp_path / "large").write_bytes(b"#" * (config.CONFIG_BYTES_MAX + 1))
    (tmp_path / "deep").write_text("a = " + "[" * 100_000)
    assert refusal(tmp_path / "no.toml") == f"{tmp_path}/no.toml: cannot be read: No such file or directory"
    assert refusal(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"
    assert "is not UTF-8 text (at byte 5)" in refusal(tmp_path / "latin")
    assert "is larger than 1,048,576 bytes" in refusal(tmp_path / "large")
    assert "is nested too deeply" in refusal(tmp_path / "deep")


def test_a_relative_path_starts_at_the_files_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "edge.toml").write_text('directory = "rules"')
    monkeypatch.chdir(tmp_path)
    assert load(Path("etc/edge.toml"), Example).directory == tmp_path / "etc" / "rules"
    assert loaded(tmp_path, 'directory = "/srv/rules"').directory == Path("/srv/rules")


def test_a_systemd_credential_is_found_where_systemd_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = 'directory = "$CREDENTIALS_DIRECTORY/edge.key"'
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert "LoadCredential=" in problems(tmp_path, text)[0]
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/tidegate-edge.service")
    assert loaded(tmp_path, text).directory == Path("/run/credentials/tidegate-edge.service/edge.key")


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (0, 0),
        (123, 123),
        ("123B", 123),
        ("2GB", 2_000_000_000),
        ("1.5MB", 1_500_000),
        ("1 kB", 1_000),
        ("1KB", 1_000),
        ("128 KiB", 131_072),
        ("2GiB", 2 << 30),
        ("1TiB", 1 << 40),
        ("0.1GB", 100_000_000),
    ],
)
def test_sizes_are_read_in_bytes_and_in_units(written: object, size: int) -> None:
    assert TypeAdapter(Size).validate_python(written) == size


@pytest.mark.parametrize("written", [-1, 1.5, True, "2", "2G", "GB", "-1GB", "1e9B", "1mb", "", "9999999TB", 2**63])
def test_what_is_no_size_is_refused(written: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Size).validate_python(written)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [(5, 5), (0.5, 0.5), ("250ms", 0.25), ("5s", 5), ("1.5 h", 5_400), ("10m", 600), ("6h", 21_600), ("7d", 604_800)],
)
def test_durations_are_read_in_seconds_and_in_units(written: object, seconds: float) -> None:
    read = TypeAdapter(Duration).validate_python(written)
    assert (read, type(read)) == (seconds, float)


@pytest.mark.parametrize("written", [-1, True, "5", "5 sec", "s", "-5s", "1h30m", "", float("nan"), 1e300, "99999999d"])
def test_what_is_no_duration_is_refused(written: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Duration).validate_python(written)


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("0.0.0.0:8883", HostPort("0.0.0.0", 8883)),
        ("[::1]:1883", HostPort("::1", 1883)),
        ("[fe80::1%eth0]:1883", HostPort("fe80::1%eth0", 1883)),
        ("localhost:0", HostPort("localhost", 0)),
        ("gateway-7.example.com:65535", HostPort("gateway-7.example.com", 65_535)),
    ],
)
def test_an_address_is_read_and_written_the_same(written: str, address: HostPort) -> None:
    assert HostPort.parse(written) == address
    assert str(address) == written


@pytest.mark.parametrize(
    "written",
    ["", "localhost", ":1883", "localhost:", "localhost:65536", "localhost:-1", "::1:1883", "[::g]:1", "[]:1",
     "mqtt://localhost:1883", "a b:1", "localhost:١٨٨٣", "localhost:1883\n"],
)  # fmt: skip
def test_what_is_no_address_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="address"):
        HostPort.parse(written)


@given(st.text())
def test_no_text_breaks_the_readers_of_sizes_durations_and_addresses(text: str) -> None:
    for kind in (Size, Duration, HostPort):
        with contextlib.suppress(ValidationError):  # any other exception would be a traceback for the operator
            TypeAdapter(kind).validate_python(text)


@pytest.mark.parametrize("name", ["", ".hidden", "-x", "a/b", "a b", "ä", "x" * 129, "name\n"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python(name)


def listener_problem(tmp_path: Path, text: str) -> str:
    (problem,) = problems(tmp_path, f"[[listeners]]\n{text}")
    return problem


@pytest.mark.parametrize("address", ["0.0.0.0:1883", "127.0.0.1:1883", "unix:mqtt.sock"])
def test_a_listener_that_nobody_could_use_is_refused(tmp_path: Path, address: str) -> None:
    problem = listener_problem(tmp_path, f'address = "{address}"')
    assert problem.startswith("listeners[0]: nobody could connect: set tls, ")
    assert problem.endswith("passwords = true, or anonymous = true")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "[::]", "edge.example", "[::ffff:192.0.2.7]"])
def test_passwords_never_cross_a_network_in_clear(tmp_path: Path, host: str) -> None:
    problem = listener_problem(tmp_path, f'address = "{host}:1883"\npasswords = true')
    assert problem.startswith("listeners[0]: passwords would cross the network in clear: set tls")
    loaded(tmp_path, f'[[listeners]]\naddress = "{host}:1883"\npasswords = true\ntls = {{}}')


@pytest.mark.parametrize("address", ["127.0.0.1:1883", "[::1]:1883", "localhost:0", "[::ffff:127.0.0.1]:1", "unix:x"])
def test_passwords_without_tls_are_taken_where_no_network_is(tmp_path: Path, address: str) -> None:
    (listener,) = loaded(tmp_path, f'[[listeners]]\naddress = "{address}"\npasswords = true').listeners
    assert listener.passwords


@pytest.mark.parametrize(
    ("text", "exposed"),
    [
        ('address = "0.0.0.0:1883"\nanonymous = true', True),
        ('address = "edge.example:8883"\nanonymous = true\ntls = {}', True),
        ('address = "127.0.0.2:1883"\nanonymous = true', False),
        ('address = "unix:s"\nanonymous = true', False),
        ('address = "0.0.0.0:8883"\npasswords = true\ntls = {}', False),
    ],
)
def test_a_listener_knows_whether_strangers_on_other_machines_get_in(tmp_path: Path, text: str, exposed: bool) -> None:
    (listener,) = loaded(tmp_path, f"[[listeners]]\n{text}").listeners
    assert listener.exposed is exposed


def test_a_unix_socket_lies_beside_the_file_unless_its_path_is_absolute(tmp_path: Path) -> None:
    text = '[[listeners]]\naddress = "unix:{}"\nanonymous = true\nmode = "{}"\n'
    one, two = loaded(tmp_path, text.format("run/s", "0600") + text.format("/run/edge/s", "666")).listeners
    assert (one.address, one.mode) == (UnixSocket(tmp_path / "run/s"), 0o600)
    assert (two.address, two.mode) == (UnixSocket(Path("/run/edge/s")), 0o666)
    assert str(two.address) == "unix:/run/edge/s"
    assert Listener(address=UnixSocket(Path("s")), anonymous=True).mode == 0o660


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('address = "unix:s"\nanonymous = true\ntls = {}', "listeners[0]: tls is not spoken on a Unix socket"),
        ('address = "unix:s"\nanonymous = true\nmode = 660', "listeners[0].mode: 660 is no mode of a file: "),
        ('address = "unix:s"\nanonymous = true\nmode = "rw"', "listeners[0].mode: 'rw' is no mode of a file: write"),
        ('address = "unix:"\nanonymous = true', "listeners[0].address: "),
        (f'address = "unix:{"x" * 65}"\nanonymous = true', "listeners[0].address: "),
        ('address = "[::1]:1"\nanonymous = true\nmode = "0660"', "listeners[0]: mode is for the file of a Unix socket"),
        ('address = "[::1]:1"\nanonymous = true\norigins = ["http://x"]', "listeners[0]: origins are for protocol = "),
        ('address = "[::1]:1"\nanonymous = true\nprotocol = "http"', "listeners[0].protocol: "),
        ('address = "[::1]:1"\ntls = { certificate = "c" }', "listeners[0].tls: key is missing; certificate and key "),
        ('address = "[::1]:1"\ntls = { key = "k" }', "listeners[0].tls: certificate is missing; certificate and key "),
        ('address = "[::1]:1"\ntls = { names = ["a b"] }', "listeners[0].tls.names[0]: 'a b' is no name of a machine"),
        (
            'address = "[::1]:1"\ntls = { certificate = "c", key = "k", names = ["a"] }',
            "listeners[0].tls: names are for a certificate that the local authority issues",
        ),
        (
            'address = "[::1]:1"\nprotocol = "websocket"\nanonymous = true\norigins = ["example.com"]',
            "listeners[0].origins[0]: 'example.com' is no origin: write \"https://example.com\"",
        ),
    ],
)
def test_keys_of_a_listener_that_do_not_fit_are_explained(tmp_path: Path, text: str, words: str) -> None:
    assert listener_problem(tmp_path, text).startswith(words)


def test_the_names_of_a_machine_and_the_origins_of_pages_are_read(tmp_path: Path) -> None:
    (listener,) = loaded(
        tmp_path,
        """
        [[listeners]]
        address = "0.0.0.0:443"
        protocol = "websocket"
        origins = ["https://Pages.example", "http://192.0.2.7:8080", "http://[::1]:80"]
        tls = { names = ["edge.example", "192.0.2.7", "2001:DB8::1", "press_hall"] }
        """,
    ).listeners
    assert listener.tls is not None
    assert listener.tls.names == ("edge.example", "192.0.2.7", "2001:db8::1", "press_hall")
    assert listener.origins == ("https://pages.example", "http://192.0.2.7:8080", "http://[::1]:80")


def test_a_client_certificate_needs_its_key() -> None:
    with pytest.raises(ValidationError, match="belong together"):
        ClientTls(certificate=Path("c.pem"))


# TLS: contexts are judged by the handshakes they allow.


def make_pair(directory: Path, name: str, issuer: str = "") -> tuple[Path, Path]:
    """A certificate and its key as PEM files, signed by the pair `issuer` or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    signer, signer_name = key, subject
    if issuer:
        loaded_key = serialization.load_pem_private_key((directory / f"{issuer}.key").read_bytes(), None)
        assert isinstance(loaded_key, ec.EllipticCurvePrivateKey)
        signer = loaded_key
        signer_name = x509.load_pem_x509_certificate((directory / f"{issuer}.pem").read_bytes()).subject
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(signer_name, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=not issuer, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    paths = directory / f"{name}.pem", directory / f"{name}.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> str:
    """The TLS version agreed on. Raises ssl.SSLError when one side refuses the other."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return sides[1].version() or ""


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    make_pair(tmp_path, "ca")
    make_pair(tmp_path, "other-ca")
    make_pair(tmp_path, "server", "ca")
    make_pair(tmp_path, "device", "ca")
    make_pair(tmp_path, "stranger", "other-ca")
    return tmp_path


def server_tls(pki: Path) -> Tls:
    return Tls(certificate=pki / "server.pem", key=pki / "server.key", client_ca=pki / "ca.pem")


def client_tls(pki: Path, name: str, ca: str = "ca") -> ClientTls:
    return ClientTls(ca=pki / f"{ca}.pem", certificate=pki / f"{name}.pem", key=pki / f"{name}.key")


def test_a_client_with_a_certificate_of_the_authority_is_let_in(pki: Path) -> None:
    assert handshake(server_context(server_tls(pki)), client_context(client_tls(pki, "device"))) == "TLSv1.3"


@pytest.mark.parametrize("who", ["stranger", "nobody"])
def test_a_client_without_one_is_refused(pki: Path, who: str) -> None:
    tls = ClientTls(ca=pki / "ca.pem") if who == "nobody" else client_tls(pki, who)
    with pytest.raises(ssl.SSLError):
        handshake(server_context(server_tls(pki)), client_context(tls))


def test_an_anonymous_listener_takes_clients_with_and_without_a_certificate(pki: Path) -> None:
    server = server_context(server_tls(pki), anonymous=True)
    assert handshake(server, client_context(ClientTls(ca=pki / "ca.pem"))) == "TLSv1.3"
    assert handshake(server, client_context(client_tls(pki, "device"))) == "TLSv1.3"


def test_a_listener_with_passwords_takes_a_good_certificate_none_and_no_bad_one(pki: Path) -> None:
    server = server_context(server_tls(pki), passwords=True)
    assert handshake(server, client_context(ClientTls(ca=pki / "ca.pem"))) == "TLSv1.3"
    assert handshake(server, client_context(client_tls(pki, "device"))) == "TLSv1.3"
    with pytest.raises(ssl.SSLError):
        handshake(server, client_context(client_tls(pki, "stranger")))


def test_the_authorities_that_the_daemon_adds_count_as_much_as_the_configured_one(pki: Path) -> None:
    own = Tls(certificate=pki / "server.pem", key=pki / "server.key")
    for tls in (server_tls(pki), own):
        server = server_context(tls, [pki / "other-ca.pem"])
        assert handshake(server, client_context(client_tls(pki, "stranger"))) == "TLSv1.3"
    with pytest.raises(ssl.SSLError):
        handshake(server_context(own, [pki / "other-ca.pem"]), client_context(client_tls(pki, "device")))


def test_without_any_authority_nobody_is_let_in_who_must_show_a_certificate(pki: Path) -> None:
    own = Tls(certificate=pki / "server.pem", key=pki / "server.key")
    for client in (client_tls(pki, "device"), ClientTls(ca=pki / "ca.pem")):
        with pytest.raises(ssl.SSLError):
            handshake(server_context(own), client_context(client))
    assert handshake(server_context(own, passwords=True), client_context(ClientTls(ca=pki / "ca.pem"))) == "TLSv1.3"


def test_a_listener_whose_certificate_was_never_issued_is_explained() -> None:
    with pytest.raises(ConfigurationError, match="no local authority has issued them"):
        server_context(Tls())


def test_a_server_of_another_authority_is_refused(pki: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server_context(server_tls(pki)), client_context(client_tls(pki, "device", "other-ca")))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_no_tls_before_1_2_is_spoken(pki: Path) -> None:
    old = client_context(client_tls(pki, "device"))
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        handshake(server_context(server_tls(pki)), old)


@pytest.mark.parametrize(
    ("certificate", "key", "client_ca", "words"),
    [
        ("no.pem", "server.key", "ca.pem", "no.pem: cannot be read: No such file or directory"),
        ("server.pem", "no.key", "ca.pem", "no.key: cannot be read: No such file or directory"),
        ("server.pem", "server.key", "no.pem", "no.pem: cannot be read: No such file or directory"),
        ("server.pem", "device.key", "ca.pem", "device.key: is not the key of "),
        ("junk", "server.key", "ca.pem", "junk: is no PEM certificate, or "),
        ("server.pem", "junk", "ca.pem", "junk is no PEM key"),
        ("server.pem", "server.key", "junk", "junk: holds no PEM certificates"),
        ("server.pem", "encrypted.key", "ca.pem", "encrypted.key: is encrypted"),
    ],
)
def test_a_bad_certificate_file_is_named(
    pki: Path, certificate: str, key: str, client_ca: str, words: str
) -> None:
    (pki / "junk").write_text("not PEM")
    server_key = serialization.load_pem_private_key((pki / "server.key").read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    form = serialization.PrivateFormat.PKCS8
    (pki / "encrypted.key").write_bytes(
        server_key.private_bytes(serialization.Encoding.PEM, form, encryption)
    )
    with pytest.raises(ConfigurationError) as caught:
        server_context(Tls(certificate=pki / certificate, key=pki / key, client_ca=pki / client_ca))
    assert words in str(caught.value)


# The data directory


HOLDER = """
import sys
from pathlib import Path
from core.config import open_data_dir
with open_data_dir(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(path: Path) -> subprocess.Popen[str]:
    """Another process that holds the data directory until its standard input ends."""
    root = str(Path(__file__).parent.parent)
    command = [sys.executable, "-c", HOLDER, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_data_directory_is_made_for_its_owner_and_group(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with open_data_dir(tmp_path / "var" / "data") as path:
            assert stat.S_IMODE(path.stat().st_mode) == 0o750
    finally:
        os.umask(old)


def test_two_processes_cannot_share_a_data_directory(tmp_path: Path) -> None:
    with hold(tmp_path) as other:
        with pytest.raises(ConfigurationError, match=f"in use by process {other.pid}$"), open_data_dir(tmp_path):
            pass
        other.communicate()
    with open_data_dir(tmp_path):
        pass


def test_a_killed_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    with hold(tmp_path) as other:
        other.kill()
    with open_data_dir(tmp_path):
        pass


def test_a_lock_can_be_taken_again_in_the_same_process(tmp_path: Path) -> None:
    for _ in range(3):
        with open_data_dir(tmp_path):
            assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_data_directory_that_cannot_be_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigurationError, match="cannot be the data directory"), open_data_dir(path):
            pass
