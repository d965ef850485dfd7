"""Who gets in at a real edge or cloud, and who does not: certificates, passwords, and what an operator changes.

Everybody here speaks real TLS to a real daemon whose devices real commands have made. `test_intruders` has what those
may do who are in, and what others try.
"""

import json
import re
import ssl
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mqtt5 import ConnAckPacket, ConnAckReasonCode, ConnectPacket, PublishPacket
from pydantic import ValidationError

from core.config import HostPort, Listener
from tests import gates
from tests.gates import EVERYTHING, NOT_AUTHORIZED, TLS_VERSIONS, Credentials, Gate, SecureWire, endings, named, refusal
from tests.site import wait_until
from tests.wire import PATIENCE_SECONDS, Device, Wire
from tidegate.processes import Daemon, free_port

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parent.parent
both_versions = pytest.mark.parametrize("version", [5, 4])
both_tls = pytest.mark.parametrize("tls", TLS_VERSIONS, ids=lambda tls: tls.name)
TOOL_VERSION = {4: "mqttv311", 5: "mqttv5"}
GUESSERS = 40  # more than may wait from one host
CLOSED_IN_TLS = (ssl.SSLError, EOFError, ConnectionResetError)  # who gets further hears CONNACK, which is Refused
DOORS = ("mutual", "passwords", "company")  # with TLS
BUSY, WRONG = int(ConnAckReasonCode.SERVER_BUSY), int(ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    with gates.running(tmp_path_factory.mktemp("gate")) as gate:
        yield gate


@pytest.fixture
def gate(started: Gate) -> Iterator[Gate]:
    yield started
    started.disconnect_all()


def command(*words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """`tidegate …`, in a process of its own."""
    line = [sys.executable, "-m", "tidegate.main", *words]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE_SECONDS)


@contextmanager
def neighbours(gate: Gate) -> Iterator[None]:
    """Devices that are connected to every listener meanwhile, and notice nothing."""
    device = gate.add()
    colleague = gate.company.issue(gate.directory, gate.new_name("colleague"))
    wires = [
        device.connect(), device.connect(f"{device.name}-4", 4), device.connect(f"{device.name}-p", door="passwords"),
        gate.open("company", context=colleague.context()).connect(colleague.certificate.stem),
        gate.open("open").connect(gate.new_name("anonymous")),
    ]  # fmt: skip
    topic = f"{device.name}/t"
    for wire in wires:
        wire.subscribe(topic)
    yield
    for number, wire in enumerate(wires):
        wire.publish(topic, b"%d" % number)
    for wire in wires:
        assert [message.payload for message in wire.exactly(len(wires))] == [b"%d" % n for n in range(len(wires))]


# -- devices of the box ------------------------------------------------------------------------------------------------


def test_one_command_and_the_line_that_it_prints_publish_over_mutual_tls(gate: Gate) -> None:
    watching = gate.add().connect()
    watching.subscribe("press-7/#")
    added = command("devices", "add", "press-7", "--config", "edge.toml", cwd=gate.directory)
    assert added.returncode == 0, added.stderr
    line = next(line for line in added.stdout.splitlines() if line.startswith("mosquitto_pub"))
    printed = subprocess.run(["bash", "-c", line], cwd=gate.directory, capture_output=True, text=True)
    assert (printed.returncode, printed.stderr) == (0, "")
    (message,) = watching.exactly(1)
    assert (message.topic, message.payload) == ("press-7/telemetry", b'{"temperature": 21.5}')


@both_tls
@both_versions
def test_a_certificate_of_the_box_opens_every_tls_listener(gate: Gate, version: int, tls: ssl.TLSVersion) -> None:
    device = gate.add()
    for door in ("mutual", "passwords", "company"):
        ca = gate.company.certificate if door == "company" else device.credentials.ca
        mine = Credentials(device.credentials.certificate, device.credentials.key, ca)
        wire = gate.open(door, version, mine.context(tls)).connect(device.name)
        assert isinstance(wire, SecureWire)
        assert wire.tls.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[tls.name]
        wire.subscribe(f"{device.name}/t")
        wire.publish(f"{device.name}/t", b"in")
        assert [message.payload for message in wire.exactly(1)] == [b"in"]


@both_tls
@both_versions
def test_mosquitto_and_paho_come_in_with_the_files_that_were_handed_out(
    gate: Gate, version: int, tls: ssl.TLSVersion
) -> None:
    added = gate.add()
    name, files = added.name, added.credentials
    words = ["-h", "localhost", "-p", str(gate.address["mutual"].port), "-V", TOOL_VERSION[version], "-t", f"{name}/t"]
    words += ["--tls-version", tls.name.lower().replace("_", "."), "--cafile", str(files.ca)]
    words += ["--cert", str(files.certificate), "--key", str(files.key)]
    subprocess.run(["mosquitto_pub", *words, "-i", f"{name}-pub", "-q", "1", "-m", "kept", "-r"], check=True)
    heard = subprocess.run(["mosquitto_sub", *words, "-i", f"{name}-sub", "-C", "1"], capture_output=True, check=True)
    assert heard.stdout == b"kept\n"
    device = Device(gate.address["mutual"], added.name, version, clean=True, expiry=0)
    device.client.tls_set_context(files.context(tls))
    device.connect()
    try:
        assert device.subscribe((f"{name}/t", 1)) == [1]
        device.publish(f"{name}/t", b"new")
        assert [message.payload for message in device.take(2)] == [b"kept", b"new"]
    finally:
        device.disconnect()


@both_versions
def test_revoking_a_device_ends_its_connection_at_once_and_it_cannot_come_back(gate: Gate, version: int) -> None:
    device = gate.add()
    with neighbours(gate):
        live = device.connect(version=version)
        gate.change("revoke", device.name)
        assert endings(live) == ([NOT_AUTHORIZED] if version == 5 else [])
        assert refusal(lambda: device.connect(version=version)) == NOT_AUTHORIZED


@both_tls
def test_a_resumption_ticket_is_no_way_around_a_revocation(gate: Gate, tls: ssl.TLSVersion) -> None:
    device = gate.add()
    context = device.credentials.context(tls)
    first = gate.open("mutual", context=context).connect(device.name)
    assert isinstance(first, SecureWire)
    ticket = first.tls.session
    again = gate.open("mutual", context=context, session=ticket).connect(device.name)
    assert isinstance(again, SecureWire)
    assert again.tls.session_reused
    ticket = again.tls.session
    gate.change("revoke", device.name)
    assert endings(again) == [NOT_AUTHORIZED]
    assert refusal(lambda: gate.open("mutual", context=context, session=ticket).connect(device.name)) == NOT_AUTHORIZED


def test_one_certificate_of_two_is_revoked_alone(gate: Gate) -> None:
    old = gate.add()
    new = gate.handed_out(old.name, gate.change("rotate", old.name))
    before, after = old.connect(f"{old.name}-old"), new.connect()
    gate.change("revoke", old.id)
    assert endings(before) == [NOT_AUTHORIZED]
    assert after.heard() == []
    assert refusal(old.connect) == NOT_AUTHORIZED
    newest = gate.handed_out(old.name, gate.change("rotate", old.name, "--revoke-old"))
    assert endings(after) == [NOT_AUTHORIZED]
    assert newest.connect().heard() == []


def test_a_removed_device_is_out_and_a_new_one_of_its_name_does_not_bring_its_certificate_back(gate: Gate) -> None:
    removed = gate.add()
    live = removed.connect()
    gate.change("remove", removed.name)
    assert endings(live) == [NOT_AUTHORIZED]
    assert refusal(removed.connect) == NOT_AUTHORIZED
    heir = gate.add(name=removed.name, options=("--out", gate.new_name("out")))
    assert refusal(removed.connect) == NOT_AUTHORIZED
    assert heir.connect().heard() == []


def test_the_next_run_knows_who_was_added_rotated_revoked_and_removed(gate: Gate) -> None:
    (gate.directory / "word").write_text("open sesame\n")
    added, revoked, removed, old = (gate.add() for _ in range(4))
    clerk = gate.add(options=("--password-file", "word"))
    new = gate.handed_out(old.name, gate.change("rotate", old.name, "--revoke-old"))
    gate.change("revoke", revoked.name)
    gate.change("remove", removed.name)
    gate.restart()
    for device in (added, new):
        assert device.connect().heard() == []
    for device in (revoked, removed, old):
        assert refusal(device.connect) == NOT_AUTHORIZED
    mine = {"username": clerk.name, "password": b"open sesame"}
    assert gate.open("passwords", context=gate.stranger()).connect(clerk.name, **mine).heard() == []


# -- certificates that are not good enough -----------------------------------------------------------------------------


@both_tls
@pytest.mark.parametrize("kind", ["expired", "not valid yet", "another authority's", "self-signed", "none"])
def test_a_bad_certificate_ends_in_tls_and_nobody_notices(
    gate: Gate, kind: str, tls: ssl.TLSVersion, tmp_path: Path
) -> None:
    name, ca = gate.add().name, gate.local.certificate
    credentials = {
        "expired": lambda: gate.local.issue(tmp_path, name, days=(-2, -1)),
        "not valid yet": lambda: gate.local.issue(tmp_path, name, days=(1, 2)),
        "another authority's": lambda: gates.Company.make(tmp_path, "other").issue(tmp_path, name, ca),
        "self-signed": lambda: gates.issue(tmp_path, name, None, ca=ca),
        "none": lambda: Credentials(None, None, ca),
    }[kind]()
    with neighbours(gate), pytest.raises(CLOSED_IN_TLS):
        gate.open("mutual", context=credentials.context(tls)).connect(name)


def test_a_certificate_that_the_box_could_have_signed_but_has_not_registered_lets_nobody_in(gate: Gate) -> None:
    device = gate.add()
    forged = gate.local.issue(gate.directory, f"{device.name}-forged")
    for door, ca in (("mutual", forged.ca), ("passwords", forged.ca), ("company", gate.company.certificate)):
        context = Credentials(forged.certificate, forged.key, ca).context()
        assert refusal(lambda d=door, c=context: gate.open(d, context=c).connect("x")) == NOT_AUTHORIZED


@both_tls
def test_a_vendor_makes_nobody_a_device_by_its_name(gate: Gate, tls: ssl.TLSVersion, tmp_path: Path) -> None:
    """Neither itself nor by an authority below it, which may call itself like the operator's."""
    victim = gate.add(gate.policy(EVERYTHING))
    colleague = gate.new_name("colleague")
    for signer in (gate.vendor, gate.vendor.below(tmp_path, "issuing"), gate.vendor.below(tmp_path, "company")):
        for name in (victim.name, colleague):
            forged = signer.issue(tmp_path, f"{name}-forged", subject=named(name))
            for door, ca in (
                (d, gate.company.certificate if d == "company" else gate.local.certificate) for d in DOORS
            ):
                context = Credentials(forged.certificate, forged.key, ca).context(tls)
                for _ in range(2):
                    assert (
                        refusal(lambda d=door, c=context, n=name: gate.open(d, context=c).connect(n)) == NOT_AUTHORIZED
                    )
    assert victim.connect().heard() == []


@both_tls
def test_an_authority_below_the_operators_vouches_too_on_a_resumed_session_as_well(
    gate: Gate, tls: ssl.TLSVersion, tmp_path: Path
) -> None:
    name = gate.new_name("worker")
    context = gate.company.below(tmp_path, "hall").issue(tmp_path, name, gate.company.certificate).context(tls)
    first = gate.open("company", context=context).connect(name)
    assert isinstance(first, SecureWire)
    again = gate.open("company", context=context, session=first.tls.session).connect(name)
    assert isinstance(again, SecureWire)
    assert again.tls.session_reused
    assert again.heard() == []


def test_a_refused_certificate_is_not_let_in_with_a_password_instead(gate: Gate) -> None:
    (gate.directory / "word").write_text("open sesame\n")
    clerk, revoked = gate.add(options=("--password-file", "word")), gate.add()
    gate.change("revoke", revoked.name)
    login = {"username": clerk.name, "password": b"open sesame"}
    assert refusal(lambda: revoked.connect(clerk.name, door="passwords", **login)) == NOT_AUTHORIZED


@both_versions
def test_a_certificate_is_for_its_own_name_only(gate: Gate, version: int) -> None:
    one, other = gate.add(), gate.add()
    assert refusal(lambda: one.connect(other.name, version)) == NOT_AUTHORIZED
    assert other.connect(version=version).heard() == []


# -- passwords, and nothing at all -------------------------------------------------------------------------------------


@both_versions
def test_a_password_opens_the_door_that_takes_passwords_to_its_user_only(gate: Gate, version: int) -> None:
    (gate.directory / "word").write_text("open sesame\n")
    user = gate.add(options=("--password-file", "word")).name
    without_one = gate.add().name

    def log_in(door: str = "passwords", client_id: str = user, **login: Any) -> Wire:
        return gate.open(door, version, gate.stranger() if door != "open" else None).connect(client_id, **login)

    live = log_in(username=user, password=b"open sesame")
    for login in (
        {"username": user, "password": b"open says me"}, {"username": user, "password": b""}, {"username": user},
        {"username": "nobody", "password": b"open sesame"}, {"username": "", "password": b"open sesame"},
        {"username": without_one, "password": b"open sesame"}, {"username": user, "password": b"x" * 2_000},
    ):  # fmt: skip
        assert refusal(lambda login=login: log_in(**login)) == WRONG
    assert refusal(log_in) == NOT_AUTHORIZED
    with pytest.raises(CLOSED_IN_TLS):
        log_in("mutual", username=user, password=b"open sesame")
    assert refusal(lambda: log_in("open", username=user, password=b"open sesame")) == NOT_AUTHORIZED
    assert live.heard() == []
    gate.change("set", user, "--no-password")
    assert endings(live) == ([NOT_AUTHORIZED] if version == 5 else [])
    assert refusal(lambda: log_in(username=user, password=b"open sesame")) == WRONG


def test_40_wrong_passwords_at_once_stop_nobody_who_is_known(gate: Gate) -> None:
    (gate.directory / "word").write_text("open sesame\n")
    clerk, device = gate.add(options=("--password-file", "word")).name, gate.add()
    right = {"username": clerk, "password": b"open sesame"}
    gate.open("passwords", context=gate.stranger()).connect(clerk, **right).disconnect()
    guessers = [gate.open("passwords", context=gate.stranger()) for _ in range(GUESSERS)]
    for number, guesser in enumerate(guessers):
        guesser.send(ConnectPacket(clerk, clean_start=True, username=clerk, password=b"guess %d" % number))
    assert device.connect(door="passwords").heard() == []
    assert device.connect(f"{device.name}-2").heard() == []
    assert gate.open("passwords", context=gate.stranger()).connect(clerk, **right).heard() == []
    answers = {int(guesser.expect(ConnAckPacket).reason_code) for guesser in guessers}
    assert answers == {WRONG, BUSY}


def test_a_listener_that_takes_passwords_in_clear_from_the_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "edge.toml").write_text(
        """
        edge = { name = "e", data_dir = "data" }
        listeners = [{ address = "0.0.0.0:1883", passwords = true }]
        """
    )
    for verb in ("check", "run"):
        refused = command("edge", verb, "--config", "edge.toml", cwd=tmp_path)
        assert refused.returncode == 78
        assert "passwords would cross the network in clear" in refused.stderr
        assert "Traceback" not in refused.stderr
    assert not (tmp_path / "data").exists()


@both_versions
def test_whoever_does_not_say_who_they_are_gets_in_only_where_the_listener_says_so(gate: Gate, version: int) -> None:
    assert gate.open("open", version).connect(gate.new_name("anyone")).heard() == []
    assert refusal(lambda: gate.open("passwords", version, gate.stranger()).connect("anyone")) == NOT_AUTHORIZED
    for door in ("mutual", "company"):
        ca = gate.company.certificate if door == "company" else gate.local.certificate
        with pytest.raises(CLOSED_IN_TLS):
            gate.open(door, version, Credentials(None, None, ca).context()).connect("anyone")
        plain = gate.open(door, version)
        plain.send(ConnectPacket("anyone", clean_start=True).write())
        assert b"\x20" not in plain.rest_bytes()[:1]  # a TLS alert or nothing, and no CONNACK


def examples() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every configuration that the project shows anybody."""
    for path in sorted((ROOT / "examples").rglob("*.toml")):
        yield path.name, tomllib.loads(re.sub(r"\$[A-Z_]+PORT", "1883", path.read_text()))
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for block in re.findall(r"```toml\n(.*?)```", path.read_text(), re.DOTALL):
            yield path.name, tomllib.loads(block)
        for line in re.findall(r"printf '(.*?)' >", path.read_text()):
            yield path.name, tomllib.loads(line.replace("\\n", "\n"))


def test_no_configuration_that_we_show_lets_strangers_in_from_the_network() -> None:
    shown = [(name, listener) for name, document in examples() for listener in document.get("listeners", [])]
    assert {name for name, _ in shown} >= {"edge.toml", "cloud.toml", "configuration.md", "devices.md"}
    for name, listener in shown:
        assert not Listener.model_validate_json(json.dumps(listener)).exposed, (name, listener)
    with pytest.raises(ValidationError, match="nobody could connect"):  # and nothing is open that does not say so
        Listener.model_validate({"address": HostPort("0.0.0.0", 1883)})


# -- what an operator changes while it runs ----------------------------------------------------------------------------


def shown_by(gate: Gate, client: Credentials) -> bytes:
    wire = gate.open("company", context=client.context())
    assert isinstance(wire, SecureWire)
    return wire.tls.getpeercert(binary_form=True) or b""


def test_a_renewed_server_certificate_is_shown_from_the_next_handshake_on(gate: Gate) -> None:
    client = gate.company.issue(gate.directory, gate.new_name("client"))
    live = gate.open("company", context=client.context()).connect(client.certificate.stem)
    before = shown_by(gate, client)
    gate.company.issue(gate.directory, "server")
    assert shown_by(gate, client) == before
    assert gate.reload() == ""
    renewed = shown_by(gate, client)
    assert renewed == ssl.PEM_cert_to_DER_cert(gate.server.certificate.read_text()) != before
    assert live.heard() == []
    gate.server.certificate.write_text("half a certif")
    assert "server.pem" in gate.reload()
    assert shown_by(gate, client) == renewed
    assert live.heard() == []
    gate.company.issue(gate.directory, "server")
    assert gate.reload() == ""


@both_tls
def test_a_revocation_list_ends_the_connection_of_whom_it_names(gate: Gate, tls: ssl.TLSVersion) -> None:
    names = [gate.new_name("worker") for _ in range(2)]
    dismissed, working = (gate.company.issue(gate.directory, name) for name in names)
    context = dismissed.context(tls)
    with neighbours(gate):
        live = gate.open("company", context=context).connect(names[0])
        assert isinstance(live, SecureWire)
        ticket = live.tls.session
        other = gate.open("company", context=working.context(tls)).connect(names[1])
        gate.company.revoke(gate.directory / "company.crl", dismissed)
        assert live.heard() == []  # a list counts from the reload on
        assert gate.reload() == ""
        assert endings(live) == [NOT_AUTHORIZED]
        assert other.heard() == []
        assert refusal(lambda: gate.open("company", context=context).connect(names[0])) == NOT_AUTHORIZED
        assert (
            refusal(lambda: gate.open("company", context=context, session=ticket).connect(names[0])) == NOT_AUTHORIZED
        )
    (gate.directory / "company.crl").write_text("no list")
    assert "company.crl" in gate.reload()
    assert refusal(lambda: gate.open("company", context=context).connect(names[0])) == NOT_AUTHORIZED
    gate.company.revoke(gate.directory / "company.crl", dismissed)


# -- an edge at its cloud ----------------------------------------------------------------------------------------------


def known_edges(cloud: Daemon) -> set[str]:
    return {each["edge"] for each in cloud.ask("status")["edges"]} - {"(direct)"}


def test_an_edge_sends_its_frames_to_the_cloud_under_its_own_name_only(tmp_path: Path) -> None:
    port, edge_port = free_port(), free_port()
    (tmp_path / "cloud.toml").write_text(
        f"""
        cloud.data_dir = "cloud"
        [[listeners]]
        address = "127.0.0.1:{port}"
        tls = {{}}
        """
    )
    (tmp_path / "edge.toml").write_text(
        f"""
        edge = {{ name = "press-hall", data_dir = "edge" }}
        [[listeners]]
        address = "127.0.0.1:{edge_port}"
        anonymous = true
        [uplink]
        url = "mqtts://localhost:{port}"
        retry_limit = "1s"
        linger = 0
        [uplink.tls]
        ca = "press-hall/ca.pem"
        certificate = "press-hall/press-hall.pem"
        key = "press-hall/press-hall.key"
        """
    )
    for name in ("press-hall", "other-hall"):
        assert command("devices", "add", name, "--config", "cloud.toml", cwd=tmp_path).returncode == 0
    cloud, edge = (Daemon(side, tmp_path / f"{side}.toml", tmp_path / side) for side in ("cloud", "edge"))
    try:
        cloud.start()
        edge.start()
        with Wire(HostPort("127.0.0.1", edge_port)).connect("sensor") as sensor:
            assert sensor.publish("plant/press", b"1") == 0
        wait_until(lambda: edge.ask("status")["buffered_messages"] == 0)
        assert known_edges(cloud) == {"press-hall"}
        files = (tmp_path / "other-hall" / name for name in ("other-hall.pem", "other-hall.key", "ca.pem"))
        context = Credentials(*files).context()
        with SecureWire(HostPort("127.0.0.1", port), 5, context).connect("tidegate-edge-other-hall") as other:
            assert other.publish("$tidegate/frames/press-hall/all", b"forged") == NOT_AUTHORIZED
            assert other.publish("$tidegate/frames/other-hall", b"no lane") == NOT_AUTHORIZED
        assert known_edges(cloud) == {"press-hall"}
        for thief in ("press-hall", "tidegate-edge-press-hall"):
            with SecureWire(HostPort("127.0.0.1", port), 5, context) as wire:
                assert refusal(lambda w=wire, t=thief: w.connect(t)) == NOT_AUTHORIZED
        assert command("devices", "revoke", "press-hall", "--config", "cloud.toml", cwd=tmp_path).returncode == 0
        wait_until(lambda: edge.ask("status")["uplink"] == "down")
        with Wire(HostPort("127.0.0.1", edge_port)).connect("sensor") as sensor:
            assert sensor.publish("plant/press", b"2") == 0
        assert edge.ask("status")["buffered_messages"] == 1
    finally:
        edge.kill()
        cloud.kill()


# -- devices that provision themselves ---------------------------------------------------------------------------------

OWN_DOOR = """
edge = {{ name = "press-hall", data_dir = "edge" }}
devices = {{ policies = "policies", provisioning = "templates" }}
listeners = [
    {{ address = "{company}", tls = {{ certificate = "server.pem", key = "server.key", client_ca = "company.pem" }} }}
]
"""
TEMPLATE = """
Parameters: { Serial: { Type: String } }
Resources:
  thing: { Type: "AWS::IoT::Thing", Properties: { ThingName: { "Fn::Sub": "sensor-${Serial}" } } }
  certificate: { Type: "AWS::IoT::Certificate", Properties: { CertificateId: { Ref: "AWS::IoT::Certificate::Id" } } }
  policy: { Type: "AWS::IoT::Policy", Properties: { PolicyName: everything } }
"""


def test_the_first_certificate_that_is_issued_here_is_trusted_at_once_where_listeners_had_their_own(
    tmp_path: Path,
) -> None:
    gate = Gate(tmp_path)
    gate.config.write_text(OWN_DOOR.format(**gate.address))
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "sensor.yaml").write_text(TEMPLATE)
    for name in ("everything", "default"):
        policy = {"Version": "2012-10-17", "Statement": [EVERYTHING]}
        (tmp_path / "policies" / f"{name}.json").write_text(json.dumps(policy))
    create, provision = "$aws/certificates/create/json", "$aws/provisioning-templates/sensor/provision/json"
    try:
        gate.start()
        claim = gate.company.issue(tmp_path, "claim")
        wire = gate.open("company", 5, claim.context()).connect("box")
        wire.subscribe(f"{create}/accepted", f"{provision}/accepted")
        wire.send(PublishPacket(create, b"{}"))
        made = json.loads(wire.take(1)[0].payload)
        asked = {"certificateOwnershipToken": made["certificateOwnershipToken"], "parameters": {"Serial": "1"}}
        wire.send(PublishPacket(provision, json.dumps(asked).encode()))
        assert json.loads(wire.take(1)[0].payload)["thingName"] == "sensor-1"
        (tmp_path / "sensor.pem").write_text(made["certificatePem"])
        (tmp_path / "sensor.key").write_text(made["privateKey"])
        own = Credentials(tmp_path / "sensor.pem", tmp_path / "sensor.key", claim.ca)
        gate.open("company", 5, own.context()).connect("sensor-1")
    finally:
        gate.end()
