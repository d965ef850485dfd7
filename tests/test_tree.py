"""Unpacking: what AWS's tools pack comes out as it was, and nothing comes out anywhere else, whoever packed it."""

import os
import stat
import struct
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.packages import tree
from functions.packages.archive import opened
from functions.packages.errors import BadPackage
from functions.packages.tree import Allowance, Tree
from tests.packages import entry, zipped

LINK = stat.S_IFLNK | 0o777


def unpacked(destination: Path, *sources: Path, allowance: Allowance | None = None) -> Tree:
    made = Tree(destination, allowance or Allowance())
    for source in sources:
        with opened(source) as archive:
            made.add(archive, source.name)
    return made


def refused(tmp_path: Path, *entries: tuple[zipfile.ZipInfo | str, bytes]) -> str:
    with pytest.raises(BadPackage) as error:
        unpacked(tmp_path / "out", zipped(tmp_path / "f.zip", *entries))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.zip", "out"]
    return str(error.value)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_files_come_out_with_modes_of_ours_whatever_the_umask_and_the_zip_say(tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "f.zip",
        (entry("bootstrap", stat.S_IFREG | 0o4711), b"#!/bin/sh"), (entry("a/b.py", stat.S_IFREG | 0o600), b"b"),
        (entry("secret/", stat.S_IFDIR | 0o1700), b""), (entry("dos.txt", 0), b"made on Windows"),
    )  # fmt: skip
    before = os.umask(0o077)
    try:
        made = unpacked(tmp_path / "out", path)
    finally:
        os.umask(before)
    out = tmp_path / "out"
    assert {str(path.relative_to(out)): oct(mode(path)) for path in out.rglob("*")} == {
        "bootstrap": "0o755", "a": "0o755", "a/b.py": "0o644", "secret": "0o755", "dos.txt": "0o644",
    }  # fmt: skip
    assert mode(out) == 0o755
    assert (out / "a/b.py").read_bytes() == b"b"
    assert made.bytes == 9 + 1 + 15


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../x", "leads out"), ("a/../../x", "leads out"), ("a/..", "leads out"), ("..", "leads out"),
        ("/etc/x", "absolute"), ("//x", "absolute"), ("C:/x", "absolute"), ("c:x", "absolute"),
        ("a\\b", "backslash"), ("..\\x", "backslash"), ("\\\\host\\x", "backslash"),
        ("a\nb", "control character"), ("a\0b", "control character"), ("a\x9bb", "control character"),
        ("x" * 256, "more than 255 bytes"), ("é" * 128, "more than 255 bytes"),
        ("/".join(["x" * 200] * 6), "1,024"), ("/".join("x" * 65), "64 directories deep"), (".", "no name"),
    ],
)  # fmt: skip
def test_a_name_that_could_lead_elsewhere_is_refused(tmp_path: Path, name: str, words: str) -> None:
    assert words in refused(tmp_path, (name, b"x"))


@pytest.mark.parametrize(
    ("kind", "words"),
    [(stat.S_IFIFO, "neither a file"), (stat.S_IFCHR, "neither a file"), (stat.S_IFBLK, "neither a file"),
     (stat.S_IFSOCK, "neither a file")],
)  # fmt: skip
def test_what_is_no_file_is_refused(tmp_path: Path, kind: int, words: str) -> None:
    assert words in refused(tmp_path, (entry("x", kind | 0o666), b""))


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("a", "a", "twice"), ("a", "./a", "twice"), ("a/b", "a//b", "twice"), ("a", "A", "only in case"),
        ("lib/x", "Lib/y", "only in case"), ("stra\u00dfe", "STRASSE", "only in case"),
        ("\u00e9", "e\u0301", "only in case"), ("a", "a/b", "a file and a directory"),
        ("a/b", "a", "a directory and a file"), ("a", "a/", "a file and a directory"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_two_names_for_one_place_are_refused(tmp_path: Path, first: str, second: str, words: str) -> None:
    assert words in refused(tmp_path, (first, b"1"), (second, b"2"))


def test_a_symbolic_link_to_a_place_inside_is_kept_as_packed(tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "f.zip", ("lib/libx.so.1", b"elf"), (entry("lib/libx.so", LINK), b"libx.so.1"),
        (entry("a/b/up", LINK), b"../../lib"), ("a/b/c", b""),
    )  # fmt: skip
    unpacked(tmp_path / "out", path)
    assert (tmp_path / "out/lib/libx.so").read_bytes() == b"elf"
    assert os.readlink(tmp_path / "out/a/b/up") == "../../lib"


@pytest.mark.parametrize(
    ("name", "target"),
    [("x", "/etc/passwd"), ("x", ".."), ("x", "../f.zip"), ("a/x", "../../f.zip"), ("a/b/x", "../b/../../../f.zip"),
     ("x", "a/../../f.zip"), ("x", ""), ("x", "./.."),
     ("x", "a//b")],
)  # fmt: skip
def test_a_symbolic_link_that_leads_out_is_refused(tmp_path: Path, name: str, target: str) -> None:
    assert "leads out" in refused(tmp_path, (entry(name, LINK), target.encode()))


def test_nothing_is_written_through_a_symbolic_link(tmp_path: Path) -> None:
    assert "a link and a directory" in refused(tmp_path, ("d/x", b""), (entry("l", LINK), b"d"), ("l/y", b""))


def test_nothing_is_written_through_a_symbolic_link_of_an_earlier_layer(tmp_path: Path) -> None:
    first = zipped(tmp_path / "1.zip", ("d/x", b""), (entry("l", LINK), b"d"))
    second = zipped(tmp_path / "2.zip", ("l/y", b""))
    with pytest.raises(BadPackage, match="a link and a directory"):
        unpacked(tmp_path / "out", first, second)
    replacing = zipped(tmp_path / "3.zip", ("l", b"a file now"))
    unpacked(tmp_path / "other", first, replacing)
    assert not (tmp_path / "other/l").is_symlink()
    assert (tmp_path / "other/d/x").read_bytes() == b""


def test_a_link_in_a_directory_is_treated_as_one_in_a_zip(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (tmp_path / "secret").write_text("secret")
    (source / "inside").symlink_to("file")
    (source / "file").write_text("file")
    unpacked(tmp_path / "out", source)
    assert os.readlink(tmp_path / "out/inside") == "file"
    (source / "outside").symlink_to("../secret")
    with pytest.raises(BadPackage, match="leads out"):
        unpacked(tmp_path / "other", source)


def test_later_layers_replace_files_of_earlier_ones(tmp_path: Path) -> None:
    first = zipped(tmp_path / "1.zip", ("python/a.py", b"1"), ("python/b.py", b"1"))
    second = zipped(tmp_path / "2.zip", ("python/b.py", b"22"), ("bin/c", b"2"))
    made = unpacked(tmp_path / "out", first, second)
    assert (tmp_path / "out/python/a.py").read_bytes() == b"1"
    assert (tmp_path / "out/python/b.py").read_bytes() == b"22"
    assert made.bytes == 4


def test_the_digest_is_of_names_modes_and_contents_and_of_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "d/sub").mkdir(parents=True)
    (tmp_path / "d/a").write_bytes(b"1")
    (tmp_path / "d/sub/b").write_bytes(b"2")
    same = [
        tmp_path / "d",
        zipped(tmp_path / "1.zip", ("a", b"1"), ("sub/b", b"2")),
        zipped(tmp_path / "2.zip", ("sub/b", b"2"), ("./a", b"1"), ("sub/", b"")),
    ]
    others = [
        zipped(tmp_path / "3.zip", ("a", b"2"), ("sub/b", b"1")),
        zipped(tmp_path / "4.zip", ("a", b"1"), ("subb", b"2")),
        zipped(tmp_path / "5.zip", (entry("a", 0o100755), b"1"), ("sub/b", b"2")),
    ]
    digests = [unpacked(tmp_path / f"out{n}", source).sha256 for n, source in enumerate(same + others)]
    assert len(set(digests[:3])) == 1
    assert len(set(digests)) == 4
    assert len(digests[0]) == 44  # as the Lambda API says: base64 of 32 bytes


def test_bytes_and_entries_are_bounded_over_all_trees_of_a_version(tmp_path: Path) -> None:
    path = zipped(tmp_path / "f.zip", ("d/a", b"x" * 100))
    shared = Allowance(size=250, entries=20)
    unpacked(tmp_path / "1", path, allowance=shared)
    unpacked(tmp_path / "2", path, allowance=shared)
    with pytest.raises(BadPackage, match="MB unpacked, layers included"):
        unpacked(tmp_path / "3", path, allowance=shared)
    few = Allowance(size=250, entries=3)
    unpacked(tmp_path / "4", path, allowance=few)
    with pytest.raises(BadPackage, match="files and directories"):
        unpacked(tmp_path / "5", path, allowance=few)


def test_what_a_header_says_of_the_size_does_not_count(tmp_path: Path) -> None:
    path = zipped(tmp_path / "f.zip", ("zeros", bytes(1 << 20)))
    content = bytearray(path.read_bytes())
    struct.pack_into("<L", content, content.rfind(b"PK\1\2") + 24, 10)  # the size, in the list of contents
    path.write_bytes(content)
    with pytest.raises(BadPackage, match="damaged"):
        unpacked(tmp_path / "out", path)
    assert (tmp_path / "out/zeros").stat().st_size <= 10


def test_a_bomb_is_stopped_long_before_it_has_filled_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "RATIO_FREE_BYTES", 1 << 20)
    path = zipped(tmp_path / "f.zip", *((f"{n}", bytes(4 << 20)) for n in range(10)))
    with pytest.raises(BadPackage, match="more than 100 times its size"):
        unpacked(tmp_path / "out", path)
    written = sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    assert written <= 101 * path.stat().st_size + (1 << 20)


def test_an_encrypted_entry_and_other_methods_than_deflate_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "f.zip", ("a", b"x"))
    content = bytearray(path.read_bytes())
    content[content.rfind(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(BadPackage, match="encrypted"):
        unpacked(tmp_path / "1", path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", b"x")
    with pytest.raises(BadPackage, match="another method"):
        unpacked(tmp_path / "2", path)


def test_entries_that_would_stand_before_the_beginning_of_the_file_are_damage(tmp_path: Path) -> None:
    path = zipped(tmp_path / "f.zip", ("a", b"x"))
    content = bytearray(path.read_bytes())
    struct.pack_into("<L", content, content.rfind(b"PK\5\6") + 16, 0xFFFF_FFFF)
    path.write_bytes(content)
    with pytest.raises(BadPackage, match="damaged"):
        unpacked(tmp_path / "out", path)


def sample() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        path = zipped(
            Path(name, "f.zip"), ("app.py", b"print()" * 40), ("d/e/", b""), (entry("l", LINK), b"d"),
            (entry("bin/run", 0o100755), b"#!/bin/sh"), ("d/../x", b""),
        )  # fmt: skip
        return path.read_bytes()


SAMPLE = sample()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), max_size=6), st.integers(0, 40))
def test_a_damaged_zip_gives_an_error_in_words_and_writes_nothing_elsewhere(
    damage: list[tuple[int, int]], cut: int
) -> None:
    content = bytearray(SAMPLE)
    for place, value in damage:
        content[place] = value
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "f.zip")
        path.write_bytes(content[: len(content) - cut] if cut > 20 else content)
        with suppress(BadPackage):
            unpacked(Path(name, "out"), path)
        assert {found.name for found in Path(name).iterdir()} <= {"f.zip", "out"}


PARTS = st.sampled_from(["a", "b", "..", ".", "", "l", "m"])
NAMES = st.lists(PARTS, min_size=1, max_size=5).map("/".join)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(NAMES, st.booleans(), NAMES), max_size=6))
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_whatever_names_and_links_there_are_everything_stays_inside(entries: list[tuple[str, bool, str]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        top = Path(name).resolve()
        (top / "a").write_text("not to be touched")
        out = top / "deep" / "out"
        out.parent.mkdir()
        for number, (named, is_link, target) in enumerate(entries):
            path = zipped(top / f"{number}.zip", (entry(named, LINK if is_link else 0o100644), target.encode()))
            if number == 0:
                made = Tree(out, Allowance())
            try:
                with opened(path) as archive:
                    made.add(archive, path.name)
            except BadPackage:
                continue
        for found in out.rglob("*"):
            try:
                assert found.resolve(strict=False).is_relative_to(out)
            except (OSError, RuntimeError):  # a loop of links leads nowhere
                assert found.is_symlink()
        assert [path.name for path in (top / "deep").iterdir()] in ([], ["out"])
        assert (top / "a").read_text() == "not to be touched"
