"""The registry answers from memory, writes durably, and takes over what others write."""

import hashlib
import json
import os
import random
import signal
import sqlite3
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import DamagedStore, StorageError
from core.store import connect
from devices import registry as module
from devices.authority import Authority
from devices.errors import CertificateError, RegistryError
from devices.registry import UPLINK, Registered, Registry, Status, certificate_id
from tests.killing import Countdown, before_every_statement

ROOT = Path(__file__).parent.parent
NEVER_MS = 253_402_300_799_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "devices" / "devices.db"


@pytest.fixture
def registry(path: Path) -> Iterator[Registry]:
    with Registry(path) as registry:
        yield registry


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    authority = Authority.open(tmp_path_factory.mktemp("authority"))
    return [authority.issue(f"press-{number}")[0] for number in range(12)]


def test_what_was_put_is_there_after_a_restart(path: Path, pems: list[str]) -> None:
    with Registry(path) as registry:
        thing = registry.put_thing("press-7", attributes={"site": "hall"}, policies=["press", "claim"])
        registry.set_password("press-7", "$argon2id$…")
        certificate = registry.put_certificate(pems[0], "press-7")
        pending = registry.put_certificate(pems[1], None, Status.PENDING_ACTIVATION)
    with Registry(path) as registry:
        found = registry.things["press-7"]
        assert (found.attributes, found.policies) == ({"site": "hall"}, ("press", "claim"))
        assert (found.password, found.created_at) == ("$argon2id$…", thing.created_at)
        assert registry.certificates == {certificate.id: certificate, pending.id: pending}


def test_a_certificate_is_known_by_the_hash_of_its_der_bytes(registry: Registry, pems: list[str]) -> None:
    registered = registry.put_certificate(f"a comment\n{pems[0]}\n{pems[1]}")  # a chain, its own one first
    assert registered.id == hashlib.sha256(ssl.PEM_cert_to_DER_cert(pems[0])).hexdigest() == certificate_id(pems[0])
    assert (registered.status, registered.thing) == (Status.ACTIVE, None)
    assert (registered.pem, registered.expires_at) == (pems[0], NEVER_MS)


def test_a_change_touches_nothing_but_what_it_names(registry: Registry, pems: list[str]) -> None:
    made = registry.put_thing("press-7", attributes={"site": "hall"}, policies=["press"])
    registry.set_password("press-7", "phc")
    registry.put_thing("press-7", policies=[])
    thing = registry.things["press-7"]
    assert (thing.attributes, thing.policies, thing.password) == ({"site": "hall"}, (), "phc")
    registry.put_thing("press-7", attributes={})
    registry.set_password("press-7", None)
    thing = registry.things["press-7"]
    assert (thing.attributes, thing.password, thing.created_at) == ({}, None, made.created_at)
    certificate = registry.put_certificate(pems[0], "press-7")
    registry.attach(certificate.id, None)
    assert registry.certificates[certificate.id].thing is None
    registry.attach(certificate.id, "press-7")
    assert registry.certificates_of("press-7") == [certificate]


def test_a_thing_takes_its_certificates_with_it(path: Path, registry: Registry, pems: list[str]) -> None:
    registry.put_thing("press-7")
    registry.put_thing("press-8")
    gone, kept = registry.put_certificate(pems[0], "press-7"), registry.put_certificate(pems[1], "press-8")
    registry.remove_thing("press-7")
    registry.remove_certificate(registry.put_certificate(pems[2]).id)
    with Registry(path) as again:
        assert list(again.things) == ["press-8"]
        assert list(again.certificates) == [kept.id]
    assert registry.put_certificate(pems[0], "press-8").id == gone.id


def test_a_revoked_certificate_stays_revoked(registry: Registry, pems: list[str]) -> None:
    certificate = registry.put_certificate(pems[0])
    registry.set_status(certificate.id, Status.INACTIVE)
    registry.set_status(certificate.id, Status.ACTIVE)
    registry.set_status(certificate.id, Status.REVOKED)
    for status in (Status.ACTIVE, Status.INACTIVE, Status.PENDING_ACTIVATION):
        with pytest.raises(RegistryError, match="revoked and stays so"):
            registry.set_status(certificate.id, status)
    with pytest.raises(RegistryError, match="registered already"):
        registry.put_certificate(pems[0])
    assert registry.certificates[certificate.id].status is Status.REVOKED


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "#", "+", "../..", "..", "a/b", "a b", "a\n", "\x00", "ü", "x" * 129, "a.b", "a'; DROP TABLE thing;"]
)
def test_a_name_that_aws_would_not_take_is_refused(registry: Registry, name: str) -> None:
    with pytest.raises(RegistryError, match="is no device name"):
        registry.put_thing(name)
    assert not registry.things


@pytest.mark.parametrize("name", ["a", "x" * 128, "press:7_A-b", "__class__", "-", "7"])
def test_every_name_that_aws_takes_is_taken(registry: Registry, name: str) -> None:
    registry.put_thing(name)
    assert list(registry.things) == [name]


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"": "x"}, "no attribute name"),
        ({"a b": "x"}, "no attribute name"),
        ({"a" * 129: "x"}, "no attribute name"),
        ({"a": "x" * 801}, "is no value"),
        ({"a": "x\n"}, "is no value"),
        ({f"a{number}": "x" for number in range(51)}, "at most 50 attributes, not 51"),
    ],
)
def test_attributes_beyond_aws_bounds_are_refused(registry: Registry, attributes: dict[str, str], words: str) -> None:
    registry.put_thing("press-7", attributes={"a": "before"})
    with pytest.raises(RegistryError, match=words):
        registry.put_thing("press-7", attributes=attributes)
    assert registry.things["press-7"].attributes == {"a": "before"}


@pytest.mark.parametrize("policies", [["../x"], [""], ["a b"], [".hidden"], [f"p{number}" for number in range(11)]])
def test_policies_that_cannot_be_are_refused(registry: Registry, policies: list[str]) -> None:
    with pytest.raises(RegistryError, match="polic"):
        registry.put_thing("press-7", policies=policies)
    assert not registry.things


def test_what_is_not_there_cannot_be_changed(registry: Registry, pems: list[str]) -> None:
    for change in (
        lambda: registry.remove_thing("press-7"),
        lambda: registry.set_password("press-7", "phc"),
        lambda: registry.put_certificate(pems[0], "press-7"),
        lambda: registry.set_status("0" * 64, Status.ACTIVE),
        lambda: registry.attach("0" * 64, None),
        lambda: registry.remove_certificate("0" * 64),
    ):
        with pytest.raises(RegistryError, match="there is no"):
            change()
    certificate = registry.put_certificate(pems[0])
    with pytest.raises(RegistryError, match="no device 'press-7'"):
        registry.attach(certificate.id, "press-7")


def test_a_device_has_a_bounded_number_of_certificates_that_count(registry: Registry, pems: list[str]) -> None:
    registry.put_thing("press-7")
    given = [registry.put_certificate(pem, "press-7") for pem in pems[: module.USABLE_MAX]]
    with pytest.raises(RegistryError, match="10 certificates that are not revoked"):
        registry.put_certificate(pems[10], "press-7")
    spare = registry.put_certificate(pems[11])
    with pytest.raises(RegistryError, match="revoke some first"):
        registry.attach(spare.id, "press-7")
    registry.set_status(given[0].id, Status.REVOKED)
    registry.attach(spare.id, "press-7")


def test_things_and_certificates_are_bounded(
    registry: Registry, pems: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "THINGS_MAX", 1)
    monkeypatch.setattr(module, "CERTIFICATES_MAX", 1)
    registry.put_thing("press-7")
    registry.put_thing("press-7", policies=["press"])
    registry.put_certificate(pems[0])
    with pytest.raises(RegistryError, match="1 devices already"):
        registry.put_thing("press-8")
    with pytest.raises(RegistryError, match="1 certificates already"):
        registry.put_certificate(pems[1])


@pytest.mark.parametrize("pem", ["", "hello", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "x" * 20_000])
def test_what_is_no_certificate_is_refused(registry: Registry, pem: str) -> None:
    with pytest.raises((RegistryError, CertificateError), match="certificate"):
        registry.put_certificate(pem)
    assert not registry.certificates


# -- transactions and other processes ---------------------------------------------------------------------------------


def test_changes_of_a_transaction_appear_together_or_not_at_all(
    path: Path, registry: Registry, pems: list[str]
) -> None:
    def enrol(owner: str) -> None:
        with registry.transaction():
            registry.put_thing("press-7")
            registry.put_certificate(pems[0], "press-7")
            registry.put_certificate(pems[1], owner)

    with pytest.raises(RegistryError, match="no device"):
        enrol("press-8")
    assert not registry.things
    assert not registry.certificates
    with registry.transaction():
        registry.put_thing("press-7")
        registry.put_certificate(pems[0], "press-7")
        assert not registry.things  # nobody sees what may yet be taken back
    with Registry(path) as other:
        assert list(other.things) == ["press-7"]
        assert len(other.certificates_of("press-7")) == 1


def test_a_snapshot_that_was_given_out_does_not_change(registry: Registry) -> None:
    registry.put_thing("press-7")
    before = registry.things
    registry.put_thing("press-8")
    registry.remove_thing("press-7")
    assert list(before) == ["press-7"]
    assert list(registry.things) == ["press-8"]


def test_what_another_process_changed_is_seen_at_the_next_refresh(path: Path, registry: Registry) -> None:
    assert not registry.refresh()
    with Registry(path) as other:
        other.put_thing("press-7")
    assert not registry.things
    assert registry.refresh()
    assert list(registry.things) == ["press-7"]
    assert not registry.refresh()


def test_a_write_is_decided_on_what_others_wrote_and_hides_nothing_from_refresh(path: Path, registry: Registry) -> None:
    with Registry(path) as other:
        other.put_thing("press-7", attributes={"site": "hall"})
        registry.put_thing("press-7", policies=["press"])
        assert (registry.things["press-7"].attributes, registry.refresh()) == ({"site": "hall"}, True)
        assert not registry.refresh()
        assert other.refresh()
        assert other.things == registry.things


def test_who_asks_need_not_wait_for_a_thread_that_writes(path: Path, registry: Registry) -> None:
    registry.put_thing("press-7")
    inside, done = threading.Event(), threading.Event()

    def write() -> None:
        with registry.transaction():
            registry.put_thing("press-8")
            inside.set()
            done.wait(20)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert inside.wait(20)
        assert (list(registry.things), dict(registry.certificates)) == (["press-7"], {})
    finally:
        done.set()
        thread.join()
    assert list(registry.things) == ["press-7", "press-8"]


def test_no_thing_is_named_like_the_connection_of_an_edge_to_its_cloud(path: Path, registry: Registry) -> None:
    with pytest.raises(RegistryError, match="names that begin with tidegate-edge-"):
        registry.put_thing("tidegate-edge-hall")
    registry.put_thing("tidegate-edge")
    connect(
        path, f"INSERT INTO thing SELECT '{UPLINK}old', attributes, policies, password, created_at FROM thing"
    ).close()
    registry.put_thing("tidegate-edge-old", policies=["press"])  # one from before can be changed


def test_threads_may_write_beside_each_other(registry: Registry) -> None:
    def write(thread: int) -> None:
        for number in range(25):
            registry.put_thing(f"{thread}-{number}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(registry.things) == 100


def test_twenty_thousand_devices_are_loaded_whole(path: Path, registry: Registry) -> None:
    with registry.transaction():
        for number in range(20_000):
            registry.put_thing(f"press-{number}", attributes={"site": "hall"})
    with Registry(path) as again:
        assert again.things == registry.things


# -- the file ----------------------------------------------------------------------------------------------------------


def test_nobody_else_can_read_the_registry(path: Path, registry: Registry) -> None:
    registry.put_thing("press-7")
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o750


def test_a_file_that_is_no_registry_is_said_to_be_damaged(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database " * 1_000)
    with pytest.raises(DamagedStore, match=r"devices\.db"):
        Registry(path)


@pytest.mark.parametrize("change", ["UPDATE certificate SET status = 'GOOD'", "UPDATE thing SET attributes = x'7b'"])
def test_a_row_that_cannot_be_read_is_said_to_be_damaged(path: Path, pems: list[str], change: str) -> None:
    with Registry(path) as registry:
        registry.put_thing("press-7")
        registry.put_certificate(pems[0], "press-7")
    database = connect(path, change)
    database.close()
    with pytest.raises(DamagedStore, match=r"devices\.db"):
        Registry(path)


def test_a_directory_that_cannot_be_made_gives_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="File exists"):
        Registry(tmp_path / "file" / "devices" / "devices.db")


def test_a_change_that_the_disk_refuses_is_not_there(path: Path, registry: Registry) -> None:
    registry.put_thing("press-7")
    blocker = sqlite3.connect(path, isolation_level=None)
    try:
        blocker.execute("PRAGMA journal_mode")
        registry._connection.execute("PRAGMA query_only=ON")  # what SQLite says then is what a full disk leads to
        with pytest.raises(StorageError, match="readonly"):
            registry.put_thing("press-8")
        registry._connection.execute("PRAGMA query_only=OFF")
    finally:
        blocker.close()
    assert list(registry.things) == ["press-7"]
    registry.put_thing("press-9")
    assert list(registry.things) == ["press-7", "press-9"]


# -- kill -9 -----------------------------------------------------------------------------------------------------------


def change_until_killed(path: Path, round_: int, fatal: int) -> None:
    """Runs in a process of its own: replace a device and its certificate by the next, in one transaction each."""
    authority = Authority.open(path.parent)
    prepared = [authority.issue("press")[0] for _ in range(8)]
    before_every_statement(Countdown(fatal))
    with Registry(path) as registry:
        for number, pem in enumerate(prepared):
            with registry.transaction():
                for name in list(registry.things):
                    registry.remove_thing(name)
                registry.put_thing(f"{round_}-{number}")
                certificate: Registered = registry.put_certificate(pem, f"{round_}-{number}")
                registry.set_password(f"{round_}-{number}", certificate.id)
            os.write(1, json.dumps([f"{round_}-{number}", certificate.id]).encode() + b"\n")


def test_a_kill_leaves_the_state_before_a_change_or_after_it(path: Path) -> None:
    draw = random.Random(7)
    told: list[str] = []
    for round_, fatal in enumerate([1, 3, 6, 9, 11, *(draw.randrange(9, 60) for _ in range(9))]):
        program = "import sys; from pathlib import Path; from tests.test_registry import change_until_killed as f; "
        program += "f(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))"
        command = [sys.executable, "-c", program, str(path), str(round_), str(fatal)]
        child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert child.returncode == -signal.SIGKILL, child.stderr
        if lines := child.stdout.splitlines():
            told = json.loads(lines[-1])
        with Registry(path) as registry:
            things, certificates = list(registry.things.values()), list(registry.certificates.values())
            assert len(things) == len(certificates) <= 1
            if told:
                (thing,), (certificate,) = things, certificates
                assert (certificate.thing, thing.password) == (thing.name, certificate.id)
                assert ordinal(thing.name) >= ordinal(told[0])  # the last that was told, or one that was not yet
    assert told


def ordinal(name: str) -> tuple[int, ...]:
    return tuple(map(int, name.split("-")))
