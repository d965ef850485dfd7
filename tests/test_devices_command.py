"""`tidegate devices`, as an operator types it, and what devices then do with what they were given."""

import asyncio
import os
import pty
import select
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from core.control import ControlServer
from devices import passwords
from devices.registry import Registry, Status
from tidegate.devices import app
from tidegate.processes import free_port

ROOT = Path(__file__).parent.parent
PATIENCE_SECONDS = 20.0
EDGE = """
[edge]
name = "press-hall"
data_dir = "data"
[[listeners]]
address = "127.0.0.1:1883"
anonymous = true
[[listeners]]
address = "127.0.0.1:{port}"
passwords = true
tls = {{}}
"""


class Site:
    """A directory with an edge.toml, in which `tidegate devices` is run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        (directory / "edge.toml").write_text(EDGE.format(port=self.port))

    def run(self, *arguments: str, config: str = "edge.toml", **more: Any) -> "subprocess.CompletedProcess[str]":
        program = "import sys; sys.argv[0] = 'tidegate devices'; from tidegate.devices import app; app()"
        command = [sys.executable, "-c", program, *arguments, "--config", config]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "200"}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": PATIENCE_SECONDS, **more}
        return subprocess.run(command, cwd=self.directory, env=environment, text=True, check=False, **streams)

    def json(self, *arguments: str, config: str = "edge.toml", typed: str | None = None) -> Any:
        with chdir(self.directory):
            done = CliRunner().invoke(app, [*arguments, "--config", config, "--json"], input=typed)
        assert done.exit_code == 0, (done.stderr, done.exception)
        return orjson.loads(done.stdout)

    def fails(self, *arguments: str, code: int = 1, **more: Any) -> str:
        done = self.run(*arguments, **more)
        assert done.returncode == code, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stderr

    def registry(self) -> Registry:
        return Registry(self.directory / "data" / "devices" / "devices.db")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@contextmanager
def mosquitto(site: Site, *settings: str) -> Iterator[Path]:
    """A Mosquitto at the site's TLS address, with the site's own files; gives its log."""
    home, log = site.directory / "data" / "devices", site.directory / "mosquitto.log"
    lines = [
        "user root", f"log_dest file {log}", f"listener {site.port} 127.0.0.1", f"cafile {home / 'ca.pem'}",
        f"certfile {home / 'server.pem'}", f"keyfile {home / 'server.key'}", *settings,
    ]  # fmt: skip
    (site.directory / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None
    command = [program, "-c", str(site.directory / "mosquitto.conf")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
        try:
            wait_for_port(site.port)
            yield log
        finally:
            running.terminate()


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


# -- what a device is given works --------------------------------------------------------------------------------------


def test_the_printed_lines_publish_over_mutual_tls_as_they_stand(site: Site) -> None:
    added = site.json("add", "press-7")
    assert added["address"] == f"127.0.0.1:{site.port}"
    assert added["notes"] == []
    with mosquitto(site, "require_certificate true", "use_identity_as_username true") as log:
        shell = subprocess.run(["bash", "-c", added["mosquitto_pub"]], cwd=site.directory, check=False)
        assert shell.returncode == 0
        paho = subprocess.run(
            [sys.executable, "-c", added["paho"]], cwd=site.directory, capture_output=True, text=True, check=False
        )
        assert (paho.stdout, paho.stderr) == ("acknowledged\n", "")
        assert log.read_text().count("as press-7 (") == log.read_text().count("u'press-7'") == 2


def test_a_device_signs_its_own_request_and_its_key_stays_with_it(site: Site) -> None:
    make = ["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=whatever"]
    make += ["-keyout", "own.key", "-out", "own.csr"]
    subprocess.run(make, cwd=site.directory, check=True, capture_output=True)
    added = site.json("add", "press-7", "--csr", "own.csr")
    assert added["files"] == {"ca": "press-7/ca.pem", "certificate": "press-7/press-7.pem", "key": "own.key"}
    assert sorted(os.listdir(site.directory / "press-7")) == ["ca.pem", "press-7.pem"]
    with mosquitto(site, "require_certificate true", "use_identity_as_username true") as log:
        assert subprocess.run(["bash", "-c", added["mosquitto_pub"]], cwd=site.directory, check=False).returncode == 0
        assert "u'press-7'" in log.read_text()


def test_a_password_logs_in_by_the_printed_lines(site: Site) -> None:
    (site.directory / "secret").write_text("it's $HOME\n")
    added = site.json("add", "press-7", "--password-file", "secret")
    assert (added["certificate"], added["files"]) == (None, {"ca": "press-7/ca.pem", "password": "secret"})
    site.json("add", "helper")  # makes the server's certificate too
    accounts = site.directory / "accounts"
    subprocess.run(["mosquitto_passwd", "-b", "-c", accounts, "press-7", "it's $HOME"], check=True, capture_output=True)
    with mosquitto(site, "allow_anonymous false", f"password_file {accounts}") as log:
        shell = subprocess.run(["bash", "-c", added["mosquitto_pub"]], cwd=site.directory, check=False)
        assert shell.returncode == 0
        paho = subprocess.run(
            [sys.executable, "-c", added["paho"]], cwd=site.directory, capture_output=True, text=True, check=False
        )
        assert (paho.stdout, paho.stderr) == ("acknowledged\n", "")
        assert log.read_text().count("u'press-7'") == 2


def test_the_files_are_the_devices_own_and_are_said_once(site: Site) -> None:
    said = site.run("add", "press-7").stdout
    files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (site.directory / "press-7").iterdir()}
    assert files == {"ca.pem": 0o644, "press-7.pem": 0o644, "press-7.key": 0o600}
    key = (site.directory / "press-7" / "press-7.key").read_text().splitlines()[1]
    assert key not in said
    with site.registry() as registry:
        (certificate,) = registry.certificates_of("press-7")
    assert certificate.id in said
    assert certificate.pem == (site.directory / "press-7" / "press-7.pem").read_text()
    for words in ("valid for ever", "mosquitto_pub -h 127.0.0.1", "import paho.mqtt.client", "the only copy"):
        assert words in said


def test_devices_may_share_a_directory_but_nothing_is_overwritten(site: Site) -> None:
    site.json("add", "press-7", "--out", "all/devices")
    site.json("add", "press-8", "--out", "all/devices")
    assert len(os.listdir(site.directory / "all" / "devices")) == 5
    key = (site.directory / "all" / "devices" / "press-7.key").read_text()
    site.json("remove", "press-7")
    assert "press-7.key is there already" in site.fails("add", "press-7", "--out", "all/devices")
    assert (site.directory / "all" / "devices" / "press-7.key").read_text() == key
    (site.directory / "all" / "devices" / "press-7.key").unlink()
    assert "press-7.pem is there already" in site.fails("add", "press-7", "--out", "all/devices")
    assert not (site.directory / "all" / "devices" / "press-7.key").exists()  # taken back
    assert [each["name"] for each in site.json("list")] == ["press-8"]


def test_without_a_listener_for_tls_add_says_what_to_write(site: Site) -> None:
    text = (site.directory / "edge.toml").read_text()
    (site.directory / "plain.toml").write_text("[[listeners]]".join(text.split("[[listeners]]")[:2]))
    added = site.json("add", "press-7", "--host", "edge.example", config="plain.toml")
    assert added["address"] == "edge.example:8883"
    (note,) = added["notes"]
    assert "No listener speaks TLS yet" in note
    assert '[[listeners]]\naddress = "0.0.0.0:8883"\ntls = {}\n' in note
    assert note in site.run("add", "press-8", "--host", "edge.example", config="plain.toml").stdout


def test_the_lines_name_a_listener_that_a_device_can_use(site: Site) -> None:
    (site.directory / "other.toml").write_text("""
[edge]
name = "press-hall"
data_dir = "data"
[[listeners]]
address = "unix:mqtt.sock"
passwords = true
[[listeners]]
address = "0.0.0.0:443"
protocol = "websocket"
tls = {}
[[listeners]]
address = "0.0.0.0:8884"
tls = { names = ["edge.example"] }
[[listeners]]
address = "[::]:8885"
passwords = true
tls = { certificate = "own.pem", key = "own.key" }
""")
    added = site.json("add", "press-7", config="other.toml")
    assert (added["address"], added["notes"]) == ("edge.example:8884", [])
    assert "DNS:edge.example" in subprocess.check_output(
        ["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", site.directory / "data/devices/server.pem"],
        text=True,
    )
    added = site.json("add", "press-8", "--password", config="other.toml", typed="secret")
    assert added["address"] == f"{socket.gethostname()}:8885"
    assert "put the certificate of the authority" in added["notes"][0]
    text = (site.directory / "other.toml").read_text().replace("passwords = true", "anonymous = true")
    (site.directory / "other.toml").write_text(text)
    added = site.json("add", "press-9", "--password", config="other.toml", typed="secret")
    assert added["address"] == "edge.example:8884"
    assert "takes no passwords yet" in added["notes"][0]


def test_a_cloud_has_devices_too(site: Site) -> None:
    text = (site.directory / "edge.toml").read_text().replace('[edge]\nname = "press-hall"', "[cloud]")
    (site.directory / "cloud.toml").write_text(f'{text}[devices]\ndirectory = "identities"\ncertificate_days = 30\n')
    added = site.json("add", "press-hall", config="cloud.toml")
    assert added["certificate"]["expires"] is not None
    assert (site.directory / "identities" / "devices.db").exists()
    assert not (site.directory / "data").exists()


# -- looking and changing ----------------------------------------------------------------------------------------------


def test_what_was_added_is_listed_and_shown(site: Site) -> None:
    site.json("add", "press-7", "--attribute", "site=hall", "--attribute", "line=a=b", "--policy", "press")
    site.json("add", "a-1")
    with site.registry() as registry:
        pem = registry.certificates_of("a-1")[0].pem
        registry.remove_thing("a-1")
        registry.put_thing("a-1")
        loose = registry.put_certificate(pem, None, Status.PENDING_ACTIVATION)
    first, second, third = site.json("list")
    assert (first["name"], first["certificates"], first["policies"], first["attributes"]) == ("a-1", [], [], {})
    assert (second["name"], second["policies"], second["password"]) == ("press-7", ["press"], False)
    assert second["attributes"] == {"site": "hall", "line": "a=b"}
    (certificate,) = second["certificates"]
    assert (certificate["status"], certificate["expires"]) == ("ACTIVE", None)
    assert (third["name"], third["certificates"][0]["id"]) == (None, loose.id)
    assert site.json("show", "press-7") == second
    table = site.run("list").stdout
    assert len(table.splitlines()) == 4
    for words in ("press-7", certificate["id"][:16], "PENDING_ACTIVATION", "never", "(default)"):
        assert words in table
    assert certificate["id"] in site.run("show", "press-7").stdout


def test_an_empty_registry_lists_nothing(site: Site) -> None:
    assert site.json("list") == []
    assert "nothing to show" in site.run("list").stdout


def test_a_device_is_changed_only_where_it_is_told(site: Site) -> None:
    site.json("add", "press-7", "--attribute", "site=hall", "--attribute", "line=3", "--policy", "press")
    site.json("set", "press-7", "--attribute", "line=", "--attribute", "shift=early")
    shown = site.json("show", "press-7")
    assert (shown["attributes"], shown["policies"]) == ({"site": "hall", "shift": "early"}, ["press"])
    site.json("set", "press-7", "--policy", "a", "--policy", "b")
    site.json("set", "press-7", "--password", typed="secret\n")
    shown = site.json("show", "press-7")
    assert (shown["policies"], shown["password"], shown["attributes"]["site"]) == (["a", "b"], True, "hall")
    site.json("set", "press-7", "--default-policies", "--no-password")
    shown = site.json("show", "press-7")
    assert (shown["policies"], shown["password"], len(shown["certificates"])) == ([], False, 1)


def test_rotation_leaves_the_old_certificate_until_it_is_revoked(site: Site) -> None:
    first = site.json("add", "press-7")["certificate"]["id"]
    rotated = site.json("rotate", "press-7")
    second = rotated["certificate"]["id"]
    assert rotated["files"]["key"] == f"press-7-{second[:8]}/press-7.key"
    assert statuses(site) == {first: "ACTIVE", second: "ACTIVE"}
    third = site.json("rotate", "press-7", "--revoke-old", "--out", "third")["certificate"]["id"]
    assert statuses(site) == {first: "REVOKED", second: "REVOKED", third: "ACTIVE"}
    assert (site.directory / "third" / "press-7.key").exists()


def statuses(site: Site) -> dict[str, str]:
    return {each["id"]: each["status"] for each in site.json("show", "press-7")["certificates"]}


def test_revoking_a_device_takes_everything_that_lets_it_in(site: Site) -> None:
    first = site.json("add", "press-7")["certificate"]["id"]
    second = site.json("rotate", "press-7")["certificate"]["id"]
    site.json("set", "press-7", "--password", typed="secret")
    assert site.json("revoke", "press-7")["revoked"] == [first, second, "password"]
    assert statuses(site) == {first: "REVOKED", second: "REVOKED"}
    assert not site.json("show", "press-7")["password"]
    assert "no certificate or password here" in site.fails("revoke", "press-7")
    assert "revoked and stays so" in site.fails("activate", first)


def test_one_certificate_is_revoked_by_its_id_or_its_beginning(site: Site) -> None:
    first = site.json("add", "press-7")["certificate"]["id"]
    second = site.json("rotate", "press-7")["certificate"]["id"]
    assert site.json("revoke", first[:8].upper())["revoked"] == [first]
    assert statuses(site) == {first: "REVOKED", second: "ACTIVE"}
    assert site.json("revoke", second)["revoked"] == [second]


def test_a_certificate_that_waits_is_activated_for_a_device(site: Site) -> None:
    site.json("add", "press-7")
    with site.registry() as registry:
        pem = registry.certificates_of("press-7")[0].pem
        registry.remove_thing("press-7")
        waiting = registry.put_certificate(pem, None, Status.PENDING_ACTIVATION).id
    assert "say whose it is with --name" in site.fails("activate", waiting)
    assert site.json("activate", waiting[:10], "--name", "press-9")["name"] == "press-9"
    assert site.json("show", "press-9")["certificates"][0]["status"] == "ACTIVE"


def test_a_removed_device_is_forgotten_and_may_come_again(site: Site) -> None:
    first = site.json("add", "press-7")["certificate"]["id"]
    site.json("remove", "press-7")
    assert site.json("list") == []
    shutil.rmtree(site.directory / "press-7")
    assert site.json("add", "press-7")["certificate"]["id"] != first


# -- passwords ---------------------------------------------------------------------------------------------------------


def test_a_password_is_read_from_a_pipe_without_its_lines_end(site: Site) -> None:
    for name, text in (("a", "secret\n"), ("b", "secret\r\n"), ("c", "secret"), ("d", " pässwörd ")):
        assert site.json("add", name, "--password", typed=text)["certificate"] is None
        with site.registry() as registry:
            phc = registry.things[name].password
        assert phc is not None
        assert passwords.verify(phc, text.rstrip("\r\n").encode())
    assert "1 to 1,024 bytes" in site.fails("add", "e", "--password", input="\n")
    assert "1 to 1,024 bytes" in site.fails("add", "e", "--password", input="x" * 100_000)


def test_a_password_that_is_no_text_gives_a_sentence_and_no_device(site: Site) -> None:
    (site.directory / "secret").write_bytes(b"\xff\xfe")
    with (site.directory / "secret").open("rb") as typed:
        assert "the password is not UTF-8 text" in site.fails("add", "a", "--password", stdin=typed)
    assert "secret is not UTF-8 text" in site.fails("add", "a", "--password-file", "secret")
    assert site.json("list") == []


def test_a_password_typed_on_a_terminal_is_asked_twice_and_never_shown(site: Site) -> None:
    terminal, end = pty.openpty()
    with ThreadPoolExecutor() as beside, os.fdopen(end, "wb", closefd=False) as screen:
        # Without a terminal of the session, the prompt comes where the input comes from.
        streams = {"stdin": end, "stderr": screen, "start_new_session": True}
        running = beside.submit(site.run, "add", "press-7", "--password", **streams)
        shown = answer(terminal, b"Password: ", b"secret\n") + answer(terminal, b"confirmation: ", b"secret\n")
        done = running.result(timeout=PATIENCE_SECONDS)
    os.close(end)
    os.close(terminal)
    assert done.returncode == 0, shown
    with site.registry() as registry:
        phc = registry.things["press-7"].password
    assert phc is not None
    assert passwords.verify(phc, b"secret")
    assert "secret" not in shown + done.stdout
    assert phc not in done.stdout


def answer(terminal: int, prompt: bytes, typed: bytes) -> str:
    """Type once a prompt stands there; what stood there until then."""
    shown = b""
    while prompt not in shown:
        ready, _, _ = select.select([terminal], [], [], PATIENCE_SECONDS)
        assert ready, shown
        shown += os.read(terminal, 4_096)
    os.write(terminal, typed)
    return shown.decode()


# -- the daemon --------------------------------------------------------------------------------------------------------


async def test_a_running_daemon_is_told_of_every_change(site: Site) -> None:
    told: list[str] = []

    async def recheck(_: dict[str, Any]) -> dict[str, Any]:
        with site.registry() as registry:
            told.append(",".join(f"{each.thing}={each.status}" for each in registry.certificates.values()))
        return {}

    (site.directory / "data").mkdir()
    async with ControlServer(site.directory / "data" / "control.sock", {"recheck": recheck}):
        for arguments in (("add", "press-7"), ("set", "press-7"), ("revoke", "press-7"), ("remove", "press-7")):
            assert (await asyncio.to_thread(site.json, *arguments))["daemon"] == "told"
    assert told == ["press-7=ACTIVE", "press-7=ACTIVE", "press-7=REVOKED", ""]


def test_without_a_daemon_the_change_is_stored_and_that_is_said(site: Site) -> None:
    assert "the daemon is not running" in site.json("add", "press-7")["daemon"]
    done = site.run("revoke", "press-7")
    assert done.returncode == 0
    assert "stored, but no daemon was told: the daemon is not running" in done.stderr


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["#", "+", "../..", "a/b", "x" * 200, "a b", "a\nb", "\x1b[31m", ""])
def test_a_bad_name_gives_a_sentence_and_leaves_nothing(site: Site, name: str) -> None:
    before = sorted(os.listdir(site.directory))
    message = site.fails("add", "--", name) if name.startswith("-") else site.fails("add", name)
    assert "is no device name" in message
    assert "\x1b[31m" not in message
    assert sorted(os.listdir(site.directory)) == before


def test_mistakes_give_a_sentence_and_change_nothing(site: Site) -> None:
    site.json("add", "press-7")
    (site.directory / "bad.csr").write_text("hello")
    before = site.json("list")
    assert "press-7 is there already" in site.fails("add", "press-7", "--out", "other")
    assert "no PEM signing request" in site.fails("add", "press-8", "--csr", "bad.csr")
    assert "No such file" in site.fails("add", "press-8", "--csr", "gone.csr")
    assert "is no attribute name" in site.fails("add", "press-8", "--attribute", "a b=1")
    assert "is not KEY=VALUE" in site.fails("add", "press-8", "--attribute", "a", code=2)
    assert "is no policy name" in site.fails("add", "press-8", "--policy", "../x")
    assert "choose a certificate or a password" in site.fails(
        "add", "press-8", "--csr", "bad.csr", "--password", code=2, input="secret"
    )
    for command in ("show", "revoke", "rotate", "remove", "set"):
        assert "there is no device 'nobody'" in site.fails(command, "nobody")
    assert "there is no certificate 'deadbeef'" in site.fails("revoke", "deadbeef")
    assert "is not there" not in site.fails("list", config="gone.toml", code=78)
    assert site.json("list") == before
    for name in ("press-8", "other"):
        assert not (site.directory / name).exists()


@pytest.mark.parametrize("option", ["--out", "--csr", "--password-file", "--host"])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_what_could_not_be_printed_is_refused_before_anything_is_registered(
    site: Site, option: str, form: tuple[str, ...]
) -> None:
    name = os.fsdecode(b"oo\xff")
    (site.directory / name).write_text("secret")
    assert "UTF-8" in site.fails("add", "press-7", option, name, *form, code=2)
    assert site.json("list") == []
    site.json("add", "press-7")
    if option in ("--out", "--csr", "--host"):
        assert "UTF-8" in site.fails("rotate", "press-7", option, name, *form, code=2)
        assert len(site.json("show", "press-7")["certificates"]) == 1


def test_a_ca_file_of_another_form_is_not_overwritten(site: Site) -> None:
    (site.directory / "press-7").mkdir()
    (site.directory / "press-7" / "ca.pem").write_bytes(b"\x30\x82\xff")
    assert "ca.pem is there already" in site.fails("add", "press-7")
    assert site.json("list") == []


# -- whose files -------------------------------------------------------------------------------------------------------


def test_what_root_writes_for_a_daemon_and_for_a_user_is_theirs() -> None:
    """Tests run by somebody else see that nothing needs root."""
    daemon, user = (65_534, 65_533) if os.geteuid() == 0 else (os.getuid(), os.getuid())
    with tempfile.TemporaryDirectory() as top:
        site = Site(Path(top))
        Path(top).chmod(0o755)
        for name, owner in (("data", daemon), ("home", user)):
            (Path(top) / name).mkdir(mode=0o700)
            os.chown(Path(top) / name, owner, owner)
        added = site.json("add", "press-7", "--out", "home/press-7")
        site.json("add", "press-8", "--out", "home/press-8", "--password", typed="secret")
        site.json("revoke", "press-7")
        owners = {path: path.stat().st_uid for path in Path(top).rglob("*") if path.parent != Path(top)}
        assert {path.name for path in owners} >= {"devices", "ca.key", "server.key", "devices.db", "press-7.key"}
        for path, owner in owners.items():
            assert owner == (daemon if "data" in path.parts else user), path
        assert shlex.split(added["mosquitto_pub"])[0] == "mosquitto_pub"
