"""Reading what an operator wrote: which files of a directory count, and what is said of those that cannot be read."""

from pathlib import Path

import pytest

from core import files
from core.errors import ConfigurationError
from core.files import FILE_BYTES_MAX, read_texts


def test_a_directory_gives_its_yaml_and_json_files_in_order(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "c.json", "notes.txt", ".hidden.yaml", "d.yaml~"):
        (tmp_path / name).write_text(name)
    (tmp_path / "below.yaml").mkdir()
    (tmp_path / "below.yaml" / "e.yaml").write_text("not seen")
    texts = read_texts(tmp_path)
    assert texts == {str(tmp_path / name): name for name in ("a.yml", "b.yaml", "c.json")}
    assert list(texts) == sorted(texts)


def test_named_files_are_read_whatever_they_are_called(tmp_path: Path) -> None:
    file = tmp_path / "rules.txt"
    file.write_bytes(b"\xef\xbb\xbfna\xc3\xafve\r\n")
    assert read_texts([file]) == {str(file): "naïve\r\n"}
    assert read_texts([]) == {}


def test_an_empty_directory_has_no_texts(tmp_path: Path) -> None:
    assert read_texts(tmp_path) == {}


def test_a_link_to_nothing_is_told_and_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "b.yaml").symlink_to("b.yaml")
    (tmp_path / ".#c.yaml").symlink_to("editor@host")  # as an editor locks a file
    (tmp_path / "d.yaml").symlink_to(tmp_path / "there")
    (tmp_path / "there").write_text("read")
    with pytest.raises(ConfigurationError) as caught:
        read_texts(tmp_path)
    assert caught.value.problems == [f"{tmp_path}/{name}: a symbolic link to nothing" for name in ("a.yaml", "b.yaml")]
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).unlink()
    assert read_texts(tmp_path) == {f"{tmp_path}/d.yaml": "read"}


def test_everything_that_cannot_be_read_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("good")
    (tmp_path / "latin.yaml").write_bytes(b"na\xefve")
    (tmp_path / "large.yaml").write_bytes(b"x" * (FILE_BYTES_MAX + 1))
    with pytest.raises(ConfigurationError) as caught:
        read_texts([tmp_path, tmp_path / "missing", Path("/dev/null")])
    assert caught.value.problems == [
        f"{tmp_path}/missing: there is no such file or directory",
        "/dev/null: neither a file nor a directory",
        f"{tmp_path}/large.yaml: larger than 1,048,576 bytes",
        f"{tmp_path}/latin.yaml: not UTF-8 text: invalid continuation byte at byte 2",
    ]


def test_the_number_of_files_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FILES_MAX", 2)
    for name in ("a.yaml", "b.yaml", "c.yaml"):
        (tmp_path / name).write_text("")
    with pytest.raises(ConfigurationError, match="3 of them; at most 2 are read"):
        read_texts(tmp_path)
