"""Before a version is deployed, whoever deploys is told what keeps it from running here, and what to do about it."""

import os
import platform
import struct
from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigurationError
from functions import runtimes
from functions.manifest import Manifest
from functions.runtimes import RESERVED, check


def manifest(runtime: str, **more: Any) -> Manifest:
    return Manifest(name="press", version=1, runtime=runtime, handler="app.handler", **more)


def refused(place: Path, runtime: str, **more: Any) -> list[str]:
    """Every reason."""
    (place / "layers").mkdir(exist_ok=True)
    with pytest.raises(ConfigurationError) as caught:
        check(manifest(runtime, **more), place, place / "layers")
    return caught.value.problems


def passes(place: Path, runtime: str, **more: Any) -> list[str]:
    """The warnings."""
    return check(manifest(runtime, **more), place, place / "layers")


def bootstrap(place: Path, content: bytes, mode: int = 0o755) -> None:
    place.mkdir(exist_ok=True)
    (place / "bootstrap").write_bytes(content)
    (place / "bootstrap").chmod(mode)


def program(machine: int, *, big: bool = False) -> bytes:
    """The first bytes of an ELF file."""
    return b"\x7fELF\x02" + (b"\x02" if big else b"\x01") + bytes(10) + struct.pack(">HH" if big else "<HH", 2, machine)


def node_of(place: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    node = place / "bin" / name
    node.parent.mkdir(exist_ok=True)
    node.write_text(f"#!/bin/sh\n{script}\n")
    node.chmod(0o755)
    monkeypatch.setenv("PATH", f"{node.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize("runtime", [*(f"python3.{minor}" for minor in range(9, 15)), "python3.7"])
def test_python_runs(tmp_path: Path, runtime: str) -> None:
    assert passes(tmp_path, runtime) == []
    assert runtimes.python_version(runtime) == runtime.removeprefix("python")


@pytest.mark.parametrize(
    ("runtime", "way"),
    [
        ("java21", "a native image"),
        ("dotnet8", "PublishAot"),
        ("ruby3.3", "aws_lambda_ric"),
        ("go1.x", "GOOS=linux go build -o bootstrap"),
        ("python2.7", "port it to Python 3.11"),
        ("nodejs", "write nodejs20.x"),
        ("cobol", "provided.al2023"),
        ("", "provided.al2023"),
    ],
)
def test_other_runtimes_are_refused_with_the_way_that_leads_on(tmp_path: Path, runtime: str, way: str) -> None:
    (problem,) = refused(tmp_path, runtime)
    assert problem.startswith(f"Runtime {runtime or '(none)'}: is not run here; ")
    assert way in problem


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    problems = refused(tmp_path, "java21", environment={"_HANDLER": "x", "AWS_REGION": "y"})
    assert len(problems) == 3


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_lambdas_own_variables_are_refused(tmp_path: Path, name: str) -> None:
    assert (
        f"Environment {name}: this variable is Lambda's own"
        in refused(tmp_path, "python3.12", environment={name: "x"})[0]
    )
    assert refused(tmp_path, "python3.12", environment_secrets={name: "secret"})


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A=B", "A B", "A\n", "É", "A"])
def test_names_that_lambda_would_not_take_are_refused(tmp_path: Path, name: str) -> None:
    assert len(refused(tmp_path, "python3.12", environment={name: "x"})) == 1


def test_variables_that_lambda_lets_one_configure_pass(tmp_path: Path) -> None:
    free = ("LANG", "PATH", "LD_LIBRARY_PATH", "NODE_PATH", "PYTHONPATH", "TZ", "AWS_XRAY_CONTEXT_MISSING", "TABLE_1")
    assert passes(tmp_path, "python3.12", environment=dict.fromkeys(free, "x")) == []


def test_compiled_modules_for_another_machine_are_worth_a_warning(tmp_path: Path) -> None:
    other = "arm64" if platform.machine() == "x86_64" else "x86_64"
    (warning,) = passes(tmp_path, "python3.12", architecture=other)
    assert f"this machine is {platform.machine()}" in warning


# -- Node


def test_node_of_the_wanted_version_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node_of(tmp_path, monkeypatch, "node", "echo v20.20.2")
    assert passes(tmp_path, "nodejs20.x") == []


def test_another_node_is_worth_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node_of(tmp_path, monkeypatch, "node", "echo v20.20.2")
    (warning,) = passes(tmp_path, "nodejs24.x")
    assert warning.startswith("Runtime nodejs24.x: runs with Node 20, ")


def test_a_node_that_is_named_for_its_version_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node_of(tmp_path, monkeypatch, "node", "echo v18.0.0")
    node_of(tmp_path, monkeypatch, "node20", "echo v20.0.0")
    assert passes(tmp_path, "nodejs20.x") == []
    found = runtimes.find_node(20)
    assert found is not None
    assert found.name == "node20"


@pytest.mark.parametrize("script", ["echo v16.20.0", "exit 1", "echo nonsense"])
def test_a_node_that_is_too_old_or_does_not_start_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    node_of(tmp_path, monkeypatch, "node", script)
    (problem,) = refused(tmp_path, "nodejs20.x")
    assert "is older than Node 18, or does not start" in problem


def test_no_node_at_all_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(runtimes, "_DIRECTORIES", ())
    assert refused(tmp_path, "nodejs22.x") == [
        "Runtime nodejs22.x: there is no node on this machine; install Node 22 or later"
    ]


def test_memory_in_which_node_cannot_start_is_worth_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node_of(tmp_path, monkeypatch, "node", "echo v20.20.2")
    assert passes(tmp_path, "nodejs20.x", memory_mb=32) == ["MemorySize 32: Node needs 64 MB to start"]


# -- bootstrap


@pytest.mark.parametrize("runtime", ["provided", "provided.al2", "provided.al2023"])
def test_a_script_runs(tmp_path: Path, runtime: str) -> None:
    bootstrap(tmp_path, b"#!/bin/sh\nexit\n")
    assert passes(tmp_path, runtime) == []


def test_a_bootstrap_of_a_layer_runs(tmp_path: Path) -> None:
    bootstrap(tmp_path / "layers", b"#!/bin/sh\n")
    assert passes(tmp_path, "provided.al2023") == []


def test_a_script_may_bring_its_interpreter(tmp_path: Path) -> None:
    bootstrap(tmp_path, b"#!/opt/bin/ruby\n")
    assert passes(tmp_path, "provided.al2023") == []


def test_a_program_for_this_machine_runs(tmp_path: Path) -> None:
    bootstrap(tmp_path, Path("/proc/self/exe").read_bytes()[:4_096])
    assert passes(tmp_path, "provided.al2023") == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (program(243), "is built for riscv64"),
        (program(8, big=True), "is built for machine 8"),
        (b"MZ\x90\x00", "is neither a program for Linux nor a script"),
        (b"", "is neither a program for Linux nor a script"),
        (b"\x7fELF", "is neither a program for Linux nor a script"),
        (b"#!/bin/sh\r\nexit\r\n", "its lines end as on Windows"),
        (b"#!/usr/bin/no-such-shell -e\n", "#! names /usr/bin/no-such-shell, which this machine does not have"),
        (b"#!\n", "#! names no interpreter"),
    ],
)
def test_a_bootstrap_that_cannot_start_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    bootstrap(tmp_path, content)
    (problem,) = refused(tmp_path, "provided.al2023")
    assert why in problem


def test_a_program_for_the_other_architecture_of_lambda_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for machine, foreign in (("x86_64", 183), ("aarch64", 62), ("armv7l", 183)):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        bootstrap(tmp_path, program(foreign))
        assert f"this machine is {machine}" in refused(tmp_path, "provided.al2023")[0]


def test_a_machine_runs_its_own_programs_and_those_of_its_smaller_kin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for machine, own in (("x86_64", 62), ("x86_64", 3), ("aarch64", 183), ("aarch64", 40), ("armv7l", 40)):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        bootstrap(tmp_path, program(own))
        assert passes(tmp_path, "provided.al2023") == []


def test_a_bootstrap_that_is_not_executable_is_refused(tmp_path: Path) -> None:
    bootstrap(tmp_path, b"#!/bin/sh\n", 0o644)
    assert "chmod +x bootstrap" in refused(tmp_path, "provided.al2023")[0]


def test_a_custom_runtime_without_a_bootstrap_is_refused(tmp_path: Path) -> None:
    assert "needs an executable of this name" in refused(tmp_path, "provided.al2023")[0]
