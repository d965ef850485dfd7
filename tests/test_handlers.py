"""Which handlers a package has, by the rules of the runtimes that will look for them."""

import zipfile
from pathlib import Path

import pytest

from core.errors import ConfigurationError
from functions.manifest import Manifest
from functions.packages import handlers

PYTHON = [
    ("app.handler", "app.py"), ("a/b/app.handler", "a/b/app.py"), ("a.b.app.handler", "a/b/app.py"),
    ("package.handler", "package/__init__.py"), ("fast.handler", "fast.cpython-311-x86_64-linux-gnu.so"),
    ("old.handler", "old.pyc"),
]  # fmt: skip
NODE = [
    ("index.handler", "index.mjs"), ("src/index.handler", "src/index.js"), ("index.handler.inner", "index.cjs"),
    ("module/main.handler", "node_modules/module/main.js"), ("directory.handler", "directory/index.js"),
]  # fmt: skip
ABSENT = [
    ("app.handler", "app.txt"), ("app.handler", "apps.py"), ("app.handler", "sub/app.py"), ("app.handler", "app/x.py"),
]  # fmt: skip


def manifest(handler: str, runtime: str = "python3.11", **more: object) -> Manifest:
    return Manifest.model_validate({"name": "press", "version": 1, "runtime": runtime, "handler": handler, **more})


def check_both(tmp_path: Path, about: Manifest, *files: str) -> None:
    """A package with these files, as a zip and unpacked."""
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        for file in files:
            archive.writestr(file, "")
            path = tmp_path / "code" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        nothing = handlers.of_directory(tmp_path / "nothing")
        refusals = []
        for listing in (handlers.of_archive(archive), handlers.of_directory(tmp_path / "code")):
            try:
                handlers.check(about, listing, nothing)
            except ConfigurationError as error:
                refusals.append(str(error))
    assert len(set(refusals)) <= 1
    if refusals:
        assert len(refusals) == 2
        raise ConfigurationError("press", [refusals[0]])


@pytest.mark.parametrize(("handler", "file"), PYTHON)
def test_python_finds_its_handlers_module(tmp_path: Path, handler: str, file: str) -> None:
    check_both(tmp_path, manifest(handler), file)


@pytest.mark.parametrize(("handler", "file"), NODE)
def test_node_finds_its_handlers_file(tmp_path: Path, handler: str, file: str) -> None:
    check_both(tmp_path, manifest(handler, "nodejs20.x"), file)


@pytest.mark.parametrize(("handler", "file"), ABSENT)
def test_a_module_that_is_not_there_is_missed(tmp_path: Path, handler: str, file: str) -> None:
    with pytest.raises(ConfigurationError, match=r"has no app\.py"):
        check_both(tmp_path, manifest(handler), file)


def test_who_brings_a_runtime_or_a_path_of_their_own_decides_where_the_handler_is(tmp_path: Path) -> None:
    check_both(tmp_path, manifest("anything", "provided.al2023"), "bootstrap")
    check_both(tmp_path, manifest("app.handler", environment={"PYTHONPATH": "/opt/mine"}), "x.py")


@pytest.mark.parametrize("handler", ["app", "app.", ".handler", "dir/app"])
def test_a_handler_without_file_or_function_is_told_how_to_write_it(tmp_path: Path, handler: str) -> None:
    with pytest.raises(ConfigurationError, match=r"write FILE\.FUNCTION"):
        check_both(tmp_path, manifest(handler), "app.py")
