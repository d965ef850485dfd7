"""functions.worker.wire: frames between the daemon and a Python worker."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.worker import wire

WORKER = Path(wire.__file__).parent
OURS = sorted(path for path in WORKER.rglob("*.py") if "node" not in path.parts)


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300))), st.lists(st.integers(1, 40), min_size=1))
def test_frames_cut_anywhere_are_the_same_frames(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    stream = b"".join(wire.frame(kind, body) for kind, body in frames)
    splitter, found, place = wire.Splitter(), [], 0
    while stream:
        piece, stream = stream[: cuts[place % len(cuts)]], stream[cuts[place % len(cuts)] :]
        place += 1
        found += splitter.feed(piece)
    assert found == frames
    assert not splitter.fault


@given(st.lists(st.binary(max_size=200)))
def test_no_bytes_break_the_splitter(pieces: list[bytes]) -> None:
    splitter = wire.Splitter()
    for piece in pieces:
        splitter.feed(piece)


@pytest.mark.parametrize("size", [0, wire.FRAME_BYTES_MAX + 1, 2**32 - 1])
def test_a_frame_of_a_wrong_size_is_a_fault_and_what_was_before_it_stands(size: int) -> None:
    splitter = wire.Splitter()
    stream = wire.frame(wire.READY) + size.to_bytes(4, "little") + b"\x10" + wire.frame(wire.READY)
    assert splitter.feed(stream) == [(wire.READY, b"")]
    assert f"{size:,} bytes" in splitter.fault
    assert splitter.feed(wire.frame(wire.READY)) == []


@given(*[st.binary(max_size=n) for n in (255, 300, 300, 300, 300)])
def test_an_event_is_its_parts_again(a: bytes, b: bytes, c: bytes, d: bytes, e: bytes) -> None:
    ((kind, body),) = wire.Splitter().feed(wire.event(a, b, c, d, e))
    assert kind == wire.EVENT
    assert wire.split_event(body) == (a, b, c, d, e)


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_what_runs_in_a_worker_is_python_3_9(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 9))
