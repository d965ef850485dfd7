"""What can be opened as a package: directories, zips, the text of InlineCode; and what is refused before it is read."""

import os
import struct
import zipfile
from pathlib import Path

import pytest

from functions.packages import archive
from functions.packages.archive import opened, text_of
from functions.packages.errors import BadPackage
from tests.packages import zipped


def names(source: Path | str, runtime: str = "") -> list[str]:
    with opened(source, runtime) as found:
        return found.namelist()


def refused(source: Path | str, runtime: str = "") -> str:
    with pytest.raises(BadPackage) as error, opened(source, runtime):
        raise AssertionError
    return str(error.value)


def test_a_directory_is_packed_without_what_tools_leave_behind(tmp_path: Path) -> None:
    for name in (
        ".git/config",
        "__pycache__/app.cpython-311.pyc",
        ".aws-sam/build.toml",
        "env/pyvenv.cfg",
        "env/bin/x",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("left behind")
    for name in ("app.py", "a/b/c.txt", ".env", "node_modules/x/index.js"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(name)
    assert sorted(names(tmp_path)) == [
        ".env", "a/", "a/b/", "a/b/c.txt", "app.py", "node_modules/", "node_modules/x/", "node_modules/x/index.js",
    ]  # fmt: skip


def test_a_text_is_named_as_cloudformation_names_it() -> None:
    assert names("def handler(event, context): ...", "python3.12") == ["index.py"]
    assert names("exports.handler = async () => 1", "nodejs20.x") == ["index.js"]
    assert "InlineCode is for Python and Node" in refused("x", "provided.al2023")


def test_a_text_in_a_package_is_read_and_one_that_is_not_there_is_empty(tmp_path: Path) -> None:
    path = zipped(tmp_path / "f.zip", ("requirements.txt", b"six\n"), ("big", b"x" * 11))
    with opened(path) as found:
        assert (text_of(found, "requirements.txt"), text_of(found, "none")) == ("six\n", "")
        assert (text_of(found, "big", 10), text_of(found, "big", 11)) == ("", "x" * 11)


def test_what_is_not_there_and_what_is_no_package_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("no zip")
    (tmp_path / "empty").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "none") == f"{tmp_path / 'none'}: there is no such file or directory"
    assert "no zip" in refused(tmp_path / "f.txt")
    assert "no zip" in refused(tmp_path / "empty")
    assert "neither a file nor a directory" in refused(tmp_path / "pipe")


def test_a_pipe_or_a_socket_in_a_directory_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "pipe: neither a file, a directory nor a symbolic link" in refused(tmp_path)


def test_a_directory_with_too_much_in_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        (tmp_path / name).write_text("four")
    monkeypatch.setattr(archive, "ENTRIES_MAX", 2)
    assert "more than 2 files" in refused(tmp_path)
    monkeypatch.setattr(archive, "ENTRIES_MAX", 3)
    monkeypatch.setattr(archive, "UNPACKED_BYTES_MAX", 11)
    assert "more than" in refused(tmp_path)
    monkeypatch.setattr(archive, "UNPACKED_BYTES_MAX", 12)
    assert names(tmp_path) == ["a", "b", "c"]


def test_a_zip_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "f.zip"
    with path.open("wb") as file:
        file.truncate(archive.ZIP_BYTES_MAX + 1)
    assert "more than 50 MB" in refused(path)


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [(10, 20_001, "more than 20,000 files"), (12, (8 << 20) + 1, "list of contents")],
)
def test_a_zip_that_promises_too_much_is_refused(tmp_path: Path, offset: int, value: int, words: str) -> None:
    path = zipped(tmp_path / "f.zip", ("a", b"x"))
    content = bytearray(path.read_bytes())
    form = "<H" if offset == 10 else "<L"
    struct.pack_into(form, content, content.rfind(b"PK\5\6") + offset, value)
    path.write_bytes(content)
    assert words in refused(path)


def test_zip64_is_refused_because_its_list_of_contents_may_have_any_size(tmp_path: Path) -> None:
    path = tmp_path / "f.zip"
    with zipfile.ZipFile(path, "w") as packing:
        for number in range(65_536):
            packing.writestr(f"{number}", b"")
    assert "zip64" in refused(path)


def test_a_comment_at_the_end_does_not_hide_the_list_of_contents(tmp_path: Path) -> None:
    path = zipped(tmp_path / "f.zip", ("a", b"x"))
    with zipfile.ZipFile(path, "a") as packing:
        packing.comment = b"made by a tool" * 4_000
    assert names(path) == ["a"]
