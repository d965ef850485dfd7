"""The units: systemd accepts them, calls them well confined, and what they promise agrees with the code."""

import configparser
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from core import service

ROOT = Path(__file__).parent.parent
UNITS = ROOT / "systemd"
EXPOSURE_MAX = 1.5  # of 10, where systemd calls 10 a service that may do everything
PR_SET_MDWE = 65  # what MemoryDenyWriteExecute= does on Linux 6.3 and later, see prctl(2)
LAUNCHER_EXPOSURE_MAX = 3.1  # it makes namespaces and mounts, and starts what it does not know
both = pytest.mark.parametrize("side", ["edge", "cloud"])
every = pytest.mark.parametrize("side", ["edge", "cloud", "functions"])


def verifiable(side: str, directory: Path) -> Path:
    """A copy of the unit that differs only in the program, for that need not be installed here."""
    text = (UNITS / f"tidegate-{side}.service").read_text()
    program = "/usr/bin/tidegate-launcher" if side == "functions" else "/usr/bin/tidegate"
    assert text.count(f"ExecStart={program} ") == 1
    copy = directory / f"tidegate-{side}.service"
    copy.write_text(text.replace(f"ExecStart={program} ", "ExecStart=/bin/true "))
    for socket in UNITS.glob("*.socket"):
        shutil.copy(socket, directory)
    return copy


def settings(side: str, kind: str = "service") -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / f"tidegate-{side}.{kind}")
    return parser[kind.capitalize()]


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)


@every
def test_systemd_accepts_the_unit(side: str, tmp_path: Path) -> None:
    done = analyze("verify", "--man=no", str(verifiable(side, tmp_path)))
    about_ours = [line for line in done.stderr.splitlines() if "tidegate" in line]
    assert (done.returncode, about_ours) == (0, [])


def test_systemd_would_have_refused_a_misspelt_setting(tmp_path: Path) -> None:
    unit = verifiable("edge", tmp_path)
    unit.write_text(unit.read_text().replace("NoNewPrivileges=", "NoNewPriviledges="))
    assert "NoNewPriviledges" in analyze("verify", "--man=no", str(unit)).stderr


@every
def test_the_unit_is_confined(side: str, tmp_path: Path) -> None:
    done = analyze("security", "--offline=true", "--no-pager", str(verifiable(side, tmp_path)))
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert exposure is not None, done.stdout + done.stderr
    assert float(exposure[1]) <= (LAUNCHER_EXPOSURE_MAX if side == "functions" else EXPOSURE_MAX), done.stdout


@both
def test_what_the_unit_counts_on_is_what_the_daemon_does(side: str) -> None:
    unit = settings(side)
    assert unit["Type"] == "notify"
    assert unit["ExecStart"] == f"/usr/bin/tidegate {side} run --config /etc/tidegate/{side}.toml"
    assert int(unit["RestartPreventExitStatus"]) == service.EXIT_CONFIGURATION
    assert float(unit["TimeoutStopSec"]) > service.STOP_LIMIT_S
    assert unit["StateDirectory"] == f"tidegate-{side}"


def test_the_launchers_socket_is_of_the_kind_and_for_the_group_that_the_code_expects() -> None:
    socket, service_ = settings("functions", "socket"), settings("functions")
    assert socket["ListenSequentialPacket"] == "/run/tidegate-functions/launcher.sock"
    assert (socket["SocketUser"], socket["SocketMode"]) == ("root", "0660")
    assert service_["User"] == service_["Group"] == "tidegate-functions"
    assert socket["SocketGroup"] not in {service_["Group"], service_["User"]}  # a worker may not ask for workers


def test_the_launchers_program_is_installed() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    program = settings("functions")["ExecStart"].split()[0]
    assert scripts[Path(program).name] == "functions.launcher.server:main"


def test_bubblewrap_can_mount_a_proc_under_the_launchers_unit() -> None:
    unit = settings("functions")  # mount_too_revealing() of the kernel: nothing of /proc may be covered
    for setting in ("ProtectKernelTunables", "ProtectKernelLogs", "ProtectProc", "ProcSubset", "ProtectControlGroups"):
        assert setting not in unit
    assert {"user", "mnt", "pid", "net", "ipc", "uts"} <= set(unit["RestrictNamespaces"].split())
    assert "AF_NETLINK" in unit["RestrictAddressFamilies"]
    assert "MemoryDenyWriteExecute" not in unit


def test_the_two_units_confine_alike() -> None:
    edge, cloud = dict(settings("edge")), dict(settings("cloud"))
    assert {key: value.replace("edge", "cloud") for key, value in edge.items()} == cloud


@both
def test_the_units_user_is_created_by_sysusers(side: str, tmp_path: Path) -> None:
    users = (UNITS / "tidegate.sysusers").read_text()
    assert re.search(rf"^u\s+{settings(side)['User']}\s.*/var/lib/tidegate-{side}$", users, re.MULTILINE)
    assert settings(side)["Group"] == settings(side)["User"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to the users that it creates")
def test_systemd_reads_the_sysusers_and_tmpfiles(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for program, kind in (("systemd-sysusers", "sysusers"), ("systemd-tmpfiles", "tmpfiles")):
        mode = ["--create"] if kind == "tmpfiles" else []
        command = [program, *mode, f"--root={tmp_path}", str(UNITS / f"tidegate.{kind}")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    users = re.findall(r"^tidegate-(\w+):", (tmp_path / "etc/passwd").read_text(), re.MULTILINE)
    assert users == ["edge", "cloud", "functions"]
    [members] = re.findall(r"^tidegate:[^:]*:[^:]*:(.*)$", (tmp_path / "etc/group").read_text(), re.MULTILINE)
    assert set(members.split(",")) == {"tidegate-edge", "tidegate-cloud"}
    assert (tmp_path / "etc/tidegate/rules").is_dir()


UNDER_MDWE = f"""
import ctypes, json, mmap
refused = ctypes.CDLL(None).prctl({PR_SET_MDWE}, 1, 0, 0, 0) != 0
import core.config, core.service, core.control, core.store, edge.daemon, cloud.daemon
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    writable_code = True
except PermissionError:
    writable_code = False
async def serve(life):
    life.ready("up")
print(json.dumps([refused, writable_code, core.service.run(serve)]))
"""


@pytest.mark.skipif(
    ctypes.CDLL(None).prctl(PR_SET_MDWE + 1, 0, 0, 0, 0) < 0, reason="needs Linux 6.3 for PR_SET_MDWE"
)
def test_everything_a_daemon_loads_works_without_writable_code() -> None:
    done = subprocess.run([sys.executable, "-c", UNDER_MDWE], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [False, False, 0]
