"""Where root writes, and as whom. Run by anybody else, these tests see that nothing changes for them."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import StorageError
from devices.directory import as_owner

IS_ROOT = os.geteuid() == 0
DAEMON, OTHER = (65_534, 65_533) if IS_ROOT else (os.getuid(), os.getuid())


@pytest.fixture
def top() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def made(path: Path, owner: int = 0) -> Path:
    path.mkdir()
    if IS_ROOT:
        os.chown(path, owner, owner)
    return path


def linked(path: Path, target: Path, owner: int = 0) -> Path:
    path.symlink_to(target)
    if IS_ROOT:
        os.chown(path, owner, owner, follow_symlinks=False)
    return path


def writer(path: Path) -> int:
    """As whom one writes there."""
    before = (os.geteuid(), os.getegid(), os.getgroups())
    with as_owner(path):
        found = os.geteuid()
        if IS_ROOT and found:
            assert (os.getegid(), os.getgroups()) == (found, [])
    assert (os.geteuid(), os.getegid(), os.getgroups()) == before
    return found


def test_root_writes_as_whom_the_nearest_directory_belongs_to(top: Path) -> None:
    data = made(top / "data", DAEMON)
    assert {writer(data), writer(data / "devices"), writer(data / "devices" / "more")} == {DAEMON}
    assert writer(made(data / "out", OTHER)) == OTHER
    assert writer(top) == writer(top / "new") == os.geteuid()


def test_what_root_once_made_in_a_daemons_directory_is_the_daemons(top: Path) -> None:
    made(made(top / "data", DAEMON) / "devices")
    assert writer(top / "data" / "devices") == DAEMON


def test_the_groups_of_root_do_not_help_whom_it_acts_for(top: Path) -> None:
    data, before = made(top / "data", DAEMON), os.getgroups()
    if IS_ROOT:
        os.setgroups([0, 4])
    try:
        assert writer(data) == DAEMON
    finally:
        if IS_ROOT:
            os.setgroups(before)


@pytest.mark.parametrize("place", ["devices", "devices/ca", "."])
def test_root_follows_no_link_that_somebody_else_may_have_planted(top: Path, place: str) -> None:
    made(top / "roots")
    made(top / "roots" / "ca")
    if place == ".":
        home = linked(top / "data", top / "roots", DAEMON)
    else:
        linked(made(top / "data", DAEMON) / "devices", top / "roots", DAEMON)
        home = top / "data" / place
    if IS_ROOT:
        with pytest.raises(StorageError, match="symbolic link that root does not follow"), as_owner(home):
            pass
    else:
        assert writer(home) == os.geteuid()


def test_root_follows_its_own_links(top: Path) -> None:
    made(top / "disk", DAEMON)
    assert writer(linked(top / "data", top / "disk") / "devices") == DAEMON
    assert writer(linked(top / "gone", top / "nowhere") / "devices") == os.geteuid()
