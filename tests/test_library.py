"""Versions and aliases on disk: whole or not at all, whoever reads, deploys at once, is killed or pulls the plug."""

import hashlib
import itertools
import json
import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

import pytest

from core.errors import ConfigurationError, StorageError
from functions.errors import FunctionNotFound, InvalidParameter
from functions.names import LATEST, FunctionName
from functions.packages.errors import BadPackage, DamagedPackage, InUse
from functions.packages.library import VERSIONS_KEPT, Draft, Library
from functions.packages.staging import SYNCED_ONE_BY_ONE
from functions.packages.tree import Allowance
from tests.packages import NAME, bootstrap, install, killed_at_every_step, manifest, text_of, zipped

ROOT = Path(__file__).parent.parent
IS_ROOT = os.geteuid() == 0
DAEMON = 65_534


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "library")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


def home(tmp_path: Path) -> Path:
    return tmp_path / "library" / NAME


def test_a_library_that_is_not_there_yet_is_empty(library: Library) -> None:
    assert (library.names(), library.current(), library.rules(), library.problems()) == ([], [], {}, [])
    with pytest.raises(FunctionNotFound, match=rf"Function not found: arn:aws:lambda:us-east-1:\d+:function:{NAME}"):
        library.find(FunctionName(NAME))


def test_a_draft_becomes_the_next_version_and_latest_names_it(library: Library, source: Path, tmp_path: Path) -> None:
    layer = zipped(tmp_path / "layer.zip", ("lib/x", b"1"))
    draft = Draft(manifest(version=99, description="hi"), bootstrap(source, "hi"), (layer, layer), rules='{"a": 1}')
    package = library.install(draft)
    assert package == library.find(FunctionName(NAME)) == library.find(FunctionName(NAME, "1"))
    assert package.function == FunctionName(NAME, "1")
    assert (package.manifest.layers, package.manifest.python, package.site_packages) == (2, None, None)
    assert package.manifest.code_bytes == len("#!/bin/sh\n# hi\nhi")
    assert len(package.manifest.code_sha256) == 44
    assert package.manifest.created_ms > 1_700_000_000_000
    assert (package.layers / "lib" / "x").read_bytes() == b"1"
    assert library.rules() == {str(package.path / "rules.json"): '{"a": 1}'}
    assert install(library, source, "again") == 2
    assert (text_of(library), text_of(library, "1"), text_of(library, "2")) == ("again", "hi", "again")
    assert [package.manifest.version for package in library.versions(NAME)] == [1, 2]


def test_another_user_can_read_it_whatever_the_umask(library: Library, source: Path, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        install(library, source, "x")
    finally:
        os.umask(before)
    for path in [tmp_path / "library", *(tmp_path / "library").rglob("*")]:
        wanted = 0o755 if path.is_dir() or path.name == "bootstrap" else 0o644
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_an_alias_of_the_manifest_moves_with_a_deployment_and_others_stay(library: Library, source: Path) -> None:
    install(library, source, "1", alias="live")
    library.point(NAME, "old", 1)
    install(library, source, "2", alias="live")
    assert library.aliases(NAME) == {LATEST: 2, "live": 2, "old": 1}
    assert (text_of(library, "live"), text_of(library, "old")) == ("2", "1")


def test_a_rollback_is_one_step_and_the_next_deployment_is_the_latest_again(library: Library, source: Path) -> None:
    for text in "123":
        install(library, source, text)
    library.point(NAME, LATEST, 2)
    assert text_of(library) == "2"
    assert install(library, source, "4") == 4
    assert text_of(library) == "4"


def test_events_go_to_the_alias_of_the_latest_manifest(library: Library, source: Path) -> None:
    install(library, source, "1", alias="live")
    install(library, source, "2", alias="live")
    assert [package.manifest.version for package in library.current()] == [2]
    library.point(NAME, "live", 1)
    assert [package.manifest.version for package in library.current()] == [1]
    library.unalias(NAME, "live")
    assert [package.manifest.version for package in library.current()] == [2]
    install(library, source, "3")
    library.point(NAME, "live", 1)
    assert [package.manifest.version for package in library.current()] == [3]


@pytest.mark.parametrize(
    ("alias", "version", "error"),
    [("7", 1, InvalidParameter), ("a b", 1, InvalidParameter), ("", 1, InvalidParameter),
     ("$OTHER", 1, InvalidParameter), ("live", 2, FunctionNotFound), (LATEST, 2, FunctionNotFound)],
)  # fmt: skip
def test_an_alias_that_cannot_be_is_refused(
    library: Library, source: Path, alias: str, version: int, error: type[Exception]
) -> None:
    install(library, source, "1")
    with pytest.raises(error):
        library.point(NAME, alias, version)
    assert library.aliases(NAME) == {LATEST: 1}


def test_latest_is_never_forgotten_nor_an_alias_that_is_not_there(library: Library, source: Path) -> None:
    install(library, source, "1")
    with pytest.raises(InvalidParameter):
        library.unalias(NAME, LATEST)
    with pytest.raises(FunctionNotFound):
        library.unalias(NAME, "live")


def test_a_version_that_an_alias_names_is_not_removed(library: Library, source: Path) -> None:
    for text in "123":
        install(library, source, text)
    library.point(NAME, "live", 2)
    for version, naming in ((2, "live"), (3, r"\$LATEST")):
        with pytest.raises(InUse, match=f"{NAME}:{version} is what {naming} names"):
            library.remove(NAME, version)
    library.remove(NAME, 1)
    assert [package.manifest.version for package in library.versions(NAME)] == [2, 3]
    for version in (1, 4):
        with pytest.raises(FunctionNotFound):
            library.remove(NAME, version)


def test_numbers_are_never_given_again(library: Library, source: Path, tmp_path: Path) -> None:
    for text in "12":
        install(library, source, text)
    library.point(NAME, LATEST, 1)
    library.remove(NAME, 2)
    assert install(library, source, "3") == 3
    library.remove(NAME)
    assert library.names() == []
    assert sorted(path.name for path in home(tmp_path).iterdir()) == ["next", "versions"]
    with pytest.raises(FunctionNotFound):
        library.find(FunctionName(NAME, "3"))
    with pytest.raises(FunctionNotFound):
        library.remove(NAME)
    assert install(library, source, "4") == 4
    assert [package.manifest.version for package in library.versions(NAME)] == [4]


def test_old_versions_go_except_those_that_aliases_name(library: Library, source: Path) -> None:
    install(library, source, "first", alias="stable")
    for number in range(2, VERSIONS_KEPT + 5):
        install(library, source, str(number))
    kept = [package.manifest.version for package in library.versions(NAME)]
    assert kept == [1, *range(5, VERSIONS_KEPT + 5)]


def test_what_fails_leaves_no_version_and_takes_no_number(library: Library, source: Path, tmp_path: Path) -> None:
    install(library, source, "1")
    bad = zipped(tmp_path / "bad.zip", ("bootstrap", b"#!/bin/sh"), ("../x", b""))
    drafts = [
        (BadPackage, Draft(manifest(), bad)), (BadPackage, Draft(manifest(), tmp_path / "none")),
        (BadPackage, Draft(manifest(), source, tuple([source] * 6))),
        (BadPackage, Draft(manifest(), source, requirements=("six",))),
        (BadPackage, Draft(manifest(), source, rules="x" * (1 << 20) + "x")),
        (ConfigurationError, Draft(manifest(runtime="java17"), source)),
    ]  # fmt: skip
    for error, draft in drafts:
        with pytest.raises(error):
            library.install(draft)
    assert sorted(path.name for path in home(tmp_path).iterdir()) == ["aliases.json", "next", "versions"]
    assert install(library, source, "2") == 2


def test_code_and_layers_together_are_bounded(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = zipped(tmp_path / "code.zip", ("index.py", b"x=1" * 100))
    layer = zipped(tmp_path / "layer.zip", ("python/a.py", b"x=1" * 100))
    monkeypatch.setattr("functions.packages.staging.Allowance", lambda: Allowance(650))
    fitting = manifest(runtime="python3.11", handler="index.handler")
    with pytest.raises(BadPackage, match="layers included"):
        library.install(Draft(fitting, code, (layer, layer), python=sys.executable))
    assert library.install(Draft(fitting, code, (layer,), python=sys.executable)).manifest.layers == 1


@pytest.mark.parametrize(
    ("file", "text"),
    [("aliases.json", ""), ("aliases.json", "[]"), ("aliases.json", '{"live": 1}'),
     ("aliases.json", '{"$LATEST": "1"}'), ("aliases.json", '{"$LATEST": true}'),
     ("aliases.json", '{"$LATEST": 1, "7": 1}'), ("aliases.json", '{"$LATEST": 9}'),
     ("aliases.json", "\udcff"), ("aliases.json", " " * (1 << 20) + "{}"),
     ("versions/1/manifest.json", ""), ("versions/1/manifest.json", "{}"), ("versions/1/manifest.json", '{"name": 1}'),
     ("versions/1/rules.json", "\udcff")],
)  # fmt: skip
def test_a_damaged_file_is_named_and_costs_its_function_only(
    library: Library, source: Path, tmp_path: Path, file: str, text: str
) -> None:
    install(library, source, "1")
    library.install(Draft(manifest(name="other"), source))
    (home(tmp_path) / file).write_bytes(text.encode(errors="surrogateescape"))
    assert [package.manifest.name for package in library.current()] == ["other"]
    (problem,) = library.problems()
    assert f"/{NAME}/" in problem
    assert Path(file).name in problem
    assert "\n" not in problem
    if not file.endswith("rules.json"):
        with pytest.raises(DamagedPackage, match=Path(file).name):
            library.find(FunctionName(NAME))
    assert install(library, source, "2") == 2
    assert text_of(library) == "2"
    assert library.problems() == []


def test_a_manifest_of_another_version_is_damage(library: Library, source: Path, tmp_path: Path) -> None:
    install(library, source, "1")
    install(library, source, "2")
    path = home(tmp_path) / "versions" / "1" / "manifest.json"
    path.write_bytes((path.parent.parent / "2" / "manifest.json").read_bytes())
    with pytest.raises(DamagedPackage, match=f"is of {NAME}:2"):
        library.find(FunctionName(NAME, "1"))


def test_a_damaged_counter_is_not_guessed(library: Library, source: Path, tmp_path: Path) -> None:
    install(library, source, "1")
    (home(tmp_path) / "next").write_text("many")
    with pytest.raises(DamagedPackage, match="next: no number; write a number into it that no version has had"):
        install(library, source, "2")
    (home(tmp_path) / "next").write_text("7\n")
    assert install(library, source, "2") == 7


def test_what_changes_on_disk_is_seen_and_told_by_the_stamp(library: Library, source: Path, tmp_path: Path) -> None:
    other = Library(tmp_path / "library")
    stamps = [library.stamp()]
    for change in (
        lambda: install(other, source, "1"), lambda: install(other, source, "2"),
        lambda: other.point(NAME, LATEST, 1), lambda: other.remove(NAME),
    ):  # fmt: skip
        change()
        stamps.append(library.stamp())
        assert library.stamp() == stamps[-1]
        assert [p.manifest.version for p in library.current()] == [p.manifest.version for p in other.current()]
    assert all(before != after for before, after in itertools.pairwise(stamps))


def test_other_things_in_the_directory_are_no_functions(library: Library, source: Path, tmp_path: Path) -> None:
    install(library, source, "1")
    (tmp_path / "library" / "notes.txt").write_text("x")
    (tmp_path / "library" / "empty").mkdir()
    (tmp_path / "library" / "a b").mkdir()
    assert library.names() == [NAME]
    for name in ("../library/press-alarm", "a b", "", ".", ".."):
        with pytest.raises(FunctionNotFound):
            library.find(FunctionName(name))


def test_a_library_holds_so_many_functions_and_no_more(
    library: Library, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("functions.packages.library.FUNCTIONS_MAX", 1)
    install(library, source, "1")
    install(library, source, "2")
    with pytest.raises(InvalidParameter, match="has 1 functions; no more are kept"):
        library.install(Draft(manifest(name="other"), source))


def test_a_disk_that_refuses_is_a_storage_error(tmp_path: Path, source: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(StorageError, match="file"):
        install(Library(tmp_path / "file" / "library"), source, "x")


@pytest.mark.parametrize("action", ["install", "prune", "point", "remove", "remove-version"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new_and_the_next_deployment_mends_all(
    tmp_path: Path, action: str
) -> None:
    states = killed_at_every_step(action, tmp_path)
    after = {"install": "new", "prune": "new", "point": "oldest", "remove": "nothing", "remove-version": "old"}[action]
    found = [state.found for state in states]
    turn = found.index(after)
    assert set(found[:turn]) <= {"old"}
    assert set(found[turn:]) == {after}
    assert len(states) > (30 if action in ("install", "prune") else 10)
    for state in states:
        assert state.problems == []
        assert state.next == "next"
        assert state.left == ["aliases.json", "next", "versions"]
    numbers = [state.number for state in states]  # of the deployment after it: what was killed may have taken one
    assert set(numbers) == ({3, 4} if after == "new" else {3})
    assert numbers == sorted(numbers)
    assert set(numbers[turn:]) == ({4} if after == "new" else {3})


def test_everything_of_a_version_is_on_the_disk_before_anything_names_it(
    library: Library, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(library, source, "1")
    for number in range(SYNCED_ONE_BY_ONE + 1):  # more than are synced one by one
        (source / f"{number}.txt").write_text("x")
    synced: dict[int, str] = {}
    named: list[str] = []
    fsync, rename = os.fsync, os.rename

    def synced_now(descriptor: int) -> None:
        fsync(descriptor)
        synced[os.fstat(descriptor).st_ino] = state(f"/proc/self/fd/{descriptor}")

    def state(path: str | Path) -> str:
        if os.path.isdir(path):
            return json.dumps(sorted(os.listdir(path)))
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()

    def renamed(before: Path, after: Path) -> None:
        for path in [Path(before), *Path(before).rglob("*")]:
            assert synced.get(path.stat().st_ino) == state(path), path
        if Path(after).name == "aliases.json":
            versions = Path(after).parent / "versions"
            assert synced[versions.stat().st_ino] == state(versions)
        rename(before, after)
        named.append(Path(after).name)

    monkeypatch.setattr(os, "fsync", synced_now)
    monkeypatch.setattr(os, "rename", renamed)
    package = library.install(Draft(manifest(), source))
    assert named == ["next", "2", "aliases.json"]
    top = package.path.parent.parent
    assert synced[top.stat().st_ino] == state(top)


def test_who_reads_while_a_hundred_versions_are_deployed_always_sees_a_whole_one(
    library: Library, source: Path, tmp_path: Path
) -> None:
    install(library, source, "0", alias="live")
    ended = threading.Event()
    seen: Counter[str] = Counter()
    failures: list[BaseException] = []

    def read() -> None:
        reader = Library(tmp_path / "library")
        try:
            while not ended.is_set():
                seen[text_of(reader)] += 1
                assert len(reader.current()) == 1
                assert reader.problems() == []
        except BaseException as error:  # noqa: BLE001 - told to the test
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(1, 101):
        install(library, source, str(number), alias="live")
    ended.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(seen) > 1
    assert text_of(library) == "100"


def test_two_who_deploy_at_once_get_numbers_of_their_own(library: Library, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.packages", "deploy", str(tmp_path / "library")]
    running = [
        subprocess.Popen([*command, str(tmp_path / f"source{n}"), "8"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for n in range(3)
    ]
    numbers = [int(line) for process in running for line in process.communicate()[0].splitlines()]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert sorted(numbers) == list(range(1, 25))
    assert library.aliases(NAME) == {LATEST: 24}
    assert library.problems() == []


def test_a_rollback_does_not_wait_for_a_deployment_that_is_under_way(library: Library, source: Path) -> None:
    install(library, source, "1")
    install(library, source, "2")
    runtime = manifest(runtime="python3.11", handler="bad.handler", description="3")
    (bootstrap(source, "3") / "bad.py").write_text("1 +")  # which the progress says, in the midst of it

    def roll_back(line: str) -> None:
        library.point(NAME, LATEST, 1)
        told.append((line, text_of(library)))

    told: list[tuple[str, str]] = []
    library.install(Draft(runtime, source, python=sys.executable), roll_back)
    assert ["not all of the Python code compiles" in line for line, _ in told] == [True]
    assert [text for _, text in told] == ["1"]
    assert text_of(library) == "3"


def test_what_root_deploys_for_a_daemon_is_the_daemons_though_only_root_can_read_the_source(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        data = Path(name, "data")
        data.mkdir()
        owner = DAEMON if IS_ROOT else os.geteuid()
        os.chown(data, owner, -1)
        source = bootstrap(tmp_path / "source", "x")
        source.chmod(0o700)
        library = Library(data / "functions")
        install(library, source, "x")
        assert {path.stat().st_uid for path in data.rglob("*")} == {owner}
        library.point(NAME, "live", 1)
        assert (data / "functions" / NAME / "aliases.json").stat().st_uid == owner
        assert os.geteuid() == (0 if IS_ROOT else owner)
