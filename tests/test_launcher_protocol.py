"""Packets: whole or not at all, with their descriptors, and specs read strictly."""

import array
import contextlib
import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.launcher import protocol
from functions.launcher.protocol import BadRequest, Spec

SPEC: dict[str, object] = {
    "name": "press-alarm-7", "interpreter": "/usr/bin/python3", "argv": ["/bin/true"],
    "binds": [["/srv/code", "/var/task"]], "environment": {"A": "1"}, "memory": 1 << 27, "tmp": 1 << 20,
    "processes": 16, "files": 1_024, "network": True,
}  # fmt: skip


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with first, second:
        yield first, second


def test_a_packet_arrives_with_its_descriptors(pair: tuple[socket.socket, socket.socket]) -> None:
    first, second = pair
    protocol.send(first, {"do": "start"}, [0, 1, 2])
    protocol.send(first, {"do": "layers"})
    document, descriptors = protocol.receive(second)
    assert (document, len(descriptors)) == ({"do": "start"}, 3)
    assert not any(os.get_inheritable(descriptor) for descriptor in descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    assert protocol.receive(second) == ({"do": "layers"}, [])
    first.close()
    with pytest.raises(EOFError):
        protocol.receive(second)


TOO_LONG = b"{" + b" " * protocol.PACKET_BYTES_MAX + b"}"


@pytest.mark.parametrize("data", [TOO_LONG, b"nothing", b"7", b"\xff", b"[" * 9_999])
def test_what_is_no_packet_is_refused_and_its_descriptors_closed(
    pair: tuple[socket.socket, socket.socket], data: bytes
) -> None:
    first, second = pair
    reading, writing = os.pipe()
    first.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writing]))])
    os.close(writing)
    with pytest.raises(BadRequest):
        protocol.receive(second)
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_a_spec_is_read() -> None:
    spec = Spec(SPEC)
    assert (spec.name, spec.argv, spec.network, spec.memory) == ("press-alarm-7", ["/bin/true"], True, 1 << 27)
    assert spec.binds == [("/srv/code", "/var/task")]


@pytest.mark.parametrize(
    "change",
    [
        {"binds": [["/srv", "/etc"]]}, {"binds": [["/srv", "/var/runtime"]]}, {"binds": [["srv", "/var/task"]]},
        {"binds": [["/srv", "/var/task/../../etc"]]}, {"binds": [["/srv", "/var/taskforce"]]}, {"binds": [["/srv"]]},
        {"binds": [["/srv", "/opt"]] * 33}, {"interpreter": "python3"}, {"interpreter": "/usr\0/bin/python3"},
        {"argv": "true"}, {"argv": [1]}, {"argv": ["x"] * 65}, {"environment": {"A=B": "1"}},
        {"environment": {"": "1"}}, {"environment": {"A": "\0"}},
        {"environment": {"A": 1}}, {"environment": []}, {"memory": 0}, {"memory": True},
        {"memory": "1"}, {"tmp": -1}, {"processes": 1 << 20}, {"files": None}, {"name": None},
    ],
)  # fmt: skip
def test_a_wrong_spec_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        Spec(SPEC | change)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(_json, st.sampled_from([*SPEC, None]))
def test_a_spec_is_read_or_refused_whatever_it_holds(value: object, key: str | None) -> None:
    with contextlib.suppress(BadRequest):
        Spec(value if key is None else SPEC | {key: value})
