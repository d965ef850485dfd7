"""The Python of a version: the interpreter it gets, the packages beside its code, and its bytecode."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from functions.packages import environments
from functions.packages.environments import build, compile_all, find_interpreter, probe
from functions.packages.errors import BadPackage
from functions.packages.library import Draft, Library
from functions.packages.tree import Allowance
from tests.packages import manifest

PYTHON = probe(sys.executable)
assert PYTHON is not None
MINE = "python" + ".".join(map(str, PYTHON.version))
OTHER = "python3.6"  # nobody has it


def wheel(directory: Path, name: str, source: str, requires: str = "") -> None:
    """The smallest wheel that pip installs."""
    directory.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    metadata += f"Requires-Dist: {requires}\n" if requires else ""
    with zipfile.ZipFile(directory / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", source)
        archive.writestr(f"{name}-1.0.dist-info/METADATA", metadata)
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def said(path: Path, source: str) -> str:
    """What a Python prints that has the directory `path` beside its standard library, and nothing else."""
    script = f"import sys; sys.path.insert(0, {str(path)!r}); {source}"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory in which programs are looked for."""
    monkeypatch.setattr(environments, "SYSTEM_PATH", str(tmp_path / "system"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def test_the_runtimes_own_interpreter_is_found_without_a_warning(path: Path) -> None:
    program(path / MINE, f'exec {sys.executable} "$@"')
    found = find_interpreter(MINE)
    assert (found.version, found.warning) == (PYTHON.version, "")
    assert not Path(found.path).is_symlink()
    assert probe(found.path) == found


def test_a_virtual_environment_gives_the_interpreter_that_it_was_made_of(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    found = probe(str(tmp_path / "venv" / "bin" / "python"))
    assert found is not None
    assert not Path(found.path).is_relative_to(tmp_path)


@pytest.mark.parametrize("text", ["echo no such version >&2; exit 127", "echo not what was asked", "echo '[1]'"])
def test_what_only_has_the_name_of_an_interpreter_is_passed_over(path: Path, text: str) -> None:
    program(path / MINE, text)
    program(path / "python3", f'exec {sys.executable} "$@"')
    assert find_interpreter(MINE).version == PYTHON.version


def test_another_interpreter_comes_with_a_warning(path: Path) -> None:
    found = find_interpreter(OTHER)
    has = ".".join(map(str, PYTHON.version))
    assert found.version == PYTHON.version
    assert found.warning == f"{OTHER} is not installed here; the function runs on Python {has} ({found.path})"


def test_an_interpreter_that_is_too_old_is_not_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(path / "python3", "echo '[\"/usr/bin/python3\", [3, 8], true]'")
    monkeypatch.setattr(sys, "executable", str(path / "none"))
    with pytest.raises(BadPackage, match=r"python3.6 is not installed here, nor any Python from 3.9 on"):
        find_interpreter(OTHER)
    with pytest.raises(BadPackage, match="no Python runtime"):
        find_interpreter("nodejs20.x")


def test_requirements_are_installed_into_a_directory_that_works_wherever_it_is_moved(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "alpha", "import beta; WORD = beta.WORD", "beta")
    wheel(tmp_path / "wheels", "beta", "WORD = 'found'")
    lines: list[str] = []
    build(tmp_path / "made", ["# ours", "alpha==1.0"], sys.executable, tmp_path / "wheels", progress=lines.append)
    (tmp_path / "made").rename(tmp_path / "elsewhere")
    assert said(tmp_path / "elsewhere", "import alpha; print(alpha.WORD)") == "found"
    assert any("Successfully installed alpha-1.0 beta-1.0" in line for line in lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "wheels"]


def test_requirements_that_name_files_mean_those_of_the_package(tmp_path: Path) -> None:
    wheel(tmp_path / "code", "alpha", "WORD = 1")
    wheel(tmp_path / "code", "beta", "WORD = 2")
    (tmp_path / "code" / "more.txt").write_text("./beta-1.0-py3-none-any.whl")
    lines = ["./alpha-1.0-py3-none-any.whl", "-r more.txt"]
    build(tmp_path / "made", lines, sys.executable, tmp_path / "code", base=tmp_path / "code")
    assert said(tmp_path / "made", "import alpha, beta; print(alpha.WORD + beta.WORD)") == "3"


def test_an_interpreter_without_pip_is_served_by_ours(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "alpha", "WORD = 1")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    build(tmp_path / "made", ["alpha"], python, tmp_path / "wheels")
    assert said(tmp_path / "made", "import alpha; print(alpha.WORD)") == "1"


def test_modules_of_the_package_do_not_get_in_the_way_of_pip(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "alpha", "WORD = 1")
    (tmp_path / "code").mkdir()
    for name in ("pip.py", "json.py", "typing.py"):
        (tmp_path / "code" / name).write_text("raise SystemExit('ran')")
    build(tmp_path / "made", ["alpha"], sys.executable, tmp_path / "wheels", base=tmp_path / "code")
    assert said(tmp_path / "made", "import alpha; print(alpha.WORD)") == "1"


def test_what_pip_says_is_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    with pytest.raises(BadPackage, match="the requirements cannot be installed") as error:
        build(tmp_path / "made", ["not-there"], sys.executable, tmp_path / "wheels")
    assert "No matching distribution found for not-there" in str(error.value)
    with pytest.raises(BadPackage, match="more than 1,000 requirements"):
        build(tmp_path / "made", ["x"] * 1_001, sys.executable)
    with pytest.raises(BadPackage, match="cannot be run as Python"):
        build(tmp_path / "made", ["x"], "/bin/false")


def test_a_pip_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "PIP_SECONDS_MAX", 0.5)
    os.mkfifo(tmp_path / "alive")  # whoever has it open for writing lives
    python = program(
        tmp_path / "python",
        'case "$*" in *find_spec*) echo \'["x", [3, 11], true]\'; exit;; esac\n'
        f"sleep 600 > {tmp_path / 'alive'} &\necho waiting\nsleep 600",
    )
    reader = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(BadPackage, match="waiting\nit was ended after"):
            build(tmp_path / "made", ["x"], str(python))
        os.set_blocking(reader, True)
        assert os.read(reader, 1) == b""  # the end: nobody holds it any more
    finally:
        os.close(reader)


def test_bytecode_is_there_for_all_code_and_is_never_checked_against_it(tmp_path: Path) -> None:
    for name in ("app.py", "pkg/__init__.py", "pkg/deep/mod.py"):
        (tmp_path / "code" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "code" / name).write_text("WORD = 'compiled'")
    (tmp_path / "code" / "broken.py").write_text("1 +")
    told: list[str] = []
    compile_all([tmp_path / "code", tmp_path / "none"], sys.executable, told.append)
    assert len(told) == 1
    assert "broken.py" in told[0]
    for name in ("app.py", "pkg/__init__.py", "pkg/deep/mod.py"):
        compiled = Path(importlib.util.cache_from_source(str(tmp_path / "code" / name)))
        assert compiled.read_bytes()[4:8] == b"\1\0\0\0"  # PEP 552: by hash, not checked
    (tmp_path / "code" / "app.py").write_text("WORD = 'not compiled'")
    assert said(tmp_path / "code", "import app; print(app.WORD)") == "compiled"


def test_a_version_has_its_packages_beside_its_code_and_says_which_python_runs_it(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "alpha", "WORD = 'from a wheel'")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "app.py").write_text("import alpha\n")
    library = Library(tmp_path / "library")
    function = manifest(runtime=OTHER, handler="app.handler")
    told: list[str] = []
    draft = Draft(function, tmp_path / "source", requirements=("alpha",), wheels=tmp_path / "wheels")
    package = library.install(draft, told.append)
    assert told[0].startswith(f"{OTHER} is not installed here")
    assert package.manifest.python is not None
    assert probe(package.manifest.python) is not None
    assert package.site_packages == package.path / "site-packages"
    assert said(package.site_packages, "import alpha; print(alpha.WORD)") == "from a wheel"
    assert (package.code / "__pycache__").is_dir()
    assert not [path for path in package.path.rglob("*") if path.stat().st_mode & 0o022]
    inline = function.model_copy(update={"handler": "index.handler"})
    without = library.install(Draft(inline, "def handler(event, context): return event", python=sys.executable))
    assert (without.site_packages, without.manifest.python) == (None, sys.executable)
    assert (without.code / "index.py").is_file()


def test_what_pip_installs_counts_with_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel(tmp_path / "wheels", "alpha", "#" * 10_000)
    monkeypatch.setattr("functions.packages.staging.Allowance", lambda: Allowance(9_000))
    draft = Draft(manifest(runtime=MINE), "x = 1", requirements=("alpha",), wheels=tmp_path / "wheels")
    with pytest.raises(BadPackage, match="MB unpacked"):
        Library(tmp_path / "library").install(draft)
