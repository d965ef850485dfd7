"""Cgroups, on directories that look like the kernel's: what is taken, what is left alone, what is written."""

import os
from pathlib import Path

import pytest

from functions.launcher import cgroups
from functions.launcher.cgroups import Cgroups

UNIT = "system.slice/tidegate-functions.service"


def hierarchy(
    root: Path, *, controllers: str = "cpu memory pids", delegated: bool = True, inside: str = UNIT
) -> tuple[Cgroups, Path]:
    """A tree as systemd makes it for a unit with Delegate=, and what a launcher in `inside` makes of it."""
    unit = root / UNIT
    (root / inside).mkdir(parents=True, exist_ok=True)
    (root / "cgroup.controllers").write_text("cpu memory pids")
    (unit / "cgroup.controllers").write_text(controllers)
    (unit / "cgroup.subtree_control").write_text("")
    membership = root / "membership"
    membership.write_text(f"0::/{inside}\n")
    if delegated:
        os.setxattr(unit, "user.delegate", b"1")
    return Cgroups(str(root), str(membership)), unit


def test_a_delegated_cgroup_is_shared_out(tmp_path: Path) -> None:
    taken, unit = hierarchy(tmp_path)
    assert taken.why_not == ""
    assert (unit / "launcher/cgroup.procs").read_text() == str(os.getpid())
    assert (unit / "cgroup.subtree_control").read_text() == "+memory +pids"
    worker = Path(taken.make("worker-1", 64 << 20, 16))
    assert worker.parent == unit
    assert int((worker / "memory.max").read_text()) == (64 << 20) + cgroups.SHIM_BYTES
    assert int((worker / "pids.max").read_text()) == 16 + cgroups.OURS


def test_a_launcher_that_systemd_put_into_its_leaf_uses_the_cgroup_above(tmp_path: Path) -> None:
    taken, unit = hierarchy(tmp_path, inside=f"{UNIT}/launcher")
    assert (taken.why_not, taken.path) == ("", str(unit))


def test_what_nobody_delegated_is_not_touched(tmp_path: Path) -> None:
    taken, unit = hierarchy(tmp_path, delegated=False)
    assert "not delegated" in taken.why_not
    assert (unit / "cgroup.subtree_control").read_text() == ""
    assert not (unit / "launcher").exists()


def test_a_machine_that_boots_without_the_memory_controller_says_so(tmp_path: Path) -> None:
    taken, _ = hierarchy(tmp_path, controllers="cpu pids")  # Raspberry Pi OS
    assert "no memory controller" in taken.why_not


@pytest.mark.parametrize("membership", ["4:memory:/x\n1:cpu:/\n", "", "0::/absent\n"])
def test_a_machine_without_the_unified_hierarchy_says_so(tmp_path: Path, membership: str) -> None:
    hierarchy(tmp_path)
    (tmp_path / "membership").write_text(membership)
    assert Cgroups(str(tmp_path), str(tmp_path / "membership")).why_not != ""
    assert Cgroups(str(tmp_path), str(tmp_path / "nothing")).why_not != ""


def test_a_worker_joins_is_killed_and_leaves(tmp_path: Path) -> None:
    taken, _ = hierarchy(tmp_path)
    worker = taken.make("worker-1", 1, 1)
    cgroups.join(worker)
    assert Path(worker, "cgroup.procs").read_text() == "0"
    cgroups.kill(worker)
    assert Path(worker, "cgroup.kill").read_text() == "1"
    assert cgroups.peak(worker) == 0
    Path(worker, "memory.peak").write_text("123\n")
    assert cgroups.peak(worker) == 123
    assert cgroups.remove(worker) is False  # something is in it
    for file in Path(worker).iterdir():
        file.unlink()
    assert cgroups.remove(worker) is True
    assert cgroups.remove(worker) is True
