"""Objects in a directory are there whole or not at all, and stay."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.targets.objects import InvalidKey, check_key, temporary_name, write
from core.errors import StorageError


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_an_object_is_written_under_its_key_and_nothing_else_stays(tmp_path: Path) -> None:
    bucket = tmp_path / "bucket"
    assert write(bucket, "2024/12/31/one.txt", [b"ab", b"", b"c"]) == 3
    assert files(tmp_path) == {"bucket/2024/12/31/one.txt": b"abc"}


def test_writing_a_key_again_replaces_the_object(tmp_path: Path) -> None:
    write(tmp_path, "a", [b"a longer object"])
    write(tmp_path, "a", [b"short"])
    assert files(tmp_path) == {"a": b"short"}


def test_an_object_that_breaks_off_leaves_the_older_one_untouched(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise KeyError("the source ended early")

    write(tmp_path, "a/b", [b"old"])
    with pytest.raises(KeyError):
        write(tmp_path, "a/b", chunks())
    assert files(tmp_path) == {"a/b": b"old"}


def test_what_a_crash_left_behind_is_taken_up_by_the_next_attempt(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / temporary_name("a/b")).write_bytes(b"torn, and longer than the object will be")
    write(tmp_path, "a/b", [b"whole"])
    assert files(tmp_path) == {"a/b": b"whole"}


def test_the_file_is_synced_before_it_gets_its_name_and_every_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, synced = tmp_path / "bucket", []
    really_sync = os.fsync

    def fsync(descriptor: int) -> None:
        named = (bucket / "x/y/z").exists()
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), named))
        really_sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for _ in range(2):  # the second time the directories are there, but nobody knows whether they are on the disk
        synced.clear()
        (bucket / "x/y/z").unlink(missing_ok=True)
        write(bucket, "x/y/z", [b"data"])
        assert synced == [
            (str(bucket / "x/y" / temporary_name("x/y/z")), False),
            (str(bucket / "x/y"), True),
            (str(bucket / "x"), True),
            (str(bucket), True),
            (str(tmp_path), True),
        ]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("", "must be a name"),
        ("/etc/passwd", "must be a name"),
        ("../outside", "must be a name, not '..'"),
        ("a/../../b", "must be a name, not '..'"),
        ("a/./b", "must be a name, not '.'"),
        ("a//b", "must be a name, not ''"),
        ("a/", "must be a name"),
        ("a\0b", "NUL"),
        ("a/" + "ü" * 128, "part longer than 255 bytes"),
        ("a/" * 512 + "b", "longer than 1,024 bytes"),
        ("\ud800", "not valid Unicode"),
        (".tidegate-0123", "kept for unfinished files"),
    ],
)
def test_a_key_that_a_directory_cannot_hold_is_refused(tmp_path: Path, key: str, words: str) -> None:
    with pytest.raises(InvalidKey) as refused:
        write(tmp_path, key, [b"x"])
    assert words in str(refused.value)
    assert files(tmp_path) == {}


@pytest.mark.parametrize("key", ["a", "a b/ü", "..a/...", ".hidden", "-rf", "a\\b", "x" * 255])
def test_an_unusual_key_that_stays_inside_is_fine(tmp_path: Path, key: str) -> None:
    check_key(key)
    write(tmp_path, key, [b"x"])
    assert files(tmp_path) == {key: b"x"}


def test_a_write_that_stops_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, hard))  # the kernel refuses as it does on a full disk
    try:
        with pytest.raises(StorageError, match="one: File too large"):
            write(tmp_path, "a/one", [bytes(3_000)] * 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) == {}


def test_a_disk_that_refuses_is_a_storage_error_that_names_the_object(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"missing/bucket/a: No such file or directory"):
        write(tmp_path / "missing" / "bucket", "a", [b"x"])
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file/below: File exists"):
        write(tmp_path, "file/below", [b"x"])
    assert files(tmp_path) == {"file": b""}
