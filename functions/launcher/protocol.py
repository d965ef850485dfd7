"""What a daemon and the launcher say to each other: one JSON object a packet, over a Unix SOCK_SEQPACKET socket.

A packet arrives whole or not at all, with the descriptors that were sent with it, so there is no framing and no
question of whose descriptors they are. To the launcher:

    {"do": "start", "id": 7, "sandbox": "default", "spec": {…}}    with three descriptors: channel, stdout, stderr
    {"do": "kill", "id": 7}
    {"do": "layers"}

From it, in any order: {"id": 7, "started": PID, "layers": […]}, {"id": 7, "refused": WHY, "sandbox": whether the
operator's wish for a sandbox is what stands in the way}, {"id": 7, "exited": CODE, "peak": BYTES}, {"layers": {…}}.

Invariants:
1. A packet has at most `PACKET_BYTES_MAX`; a longer one cannot be sent and is not received.
2. What cannot be understood raises BadRequest, with its descriptors closed, and costs nothing else.
"""

import array
import json
import os
import socket
from collections.abc import Sequence

PACKET_BYTES_MAX = 128 << 10  # an environment of 4 KiB, paths of 4 KiB; half of what a socket buffers by default
DESCRIPTORS_MAX = 3
TEXT_MAX = 4_096  # PATH_MAX, and more than any word of ours
BINDS_MAX, ARGUMENTS_MAX, VARIABLES_MAX = 32, 64, 512
BINDABLE = ("/var/task", "/var/lang", "/opt")  # where a daemon may have its directories appear in a sandbox
NUMBERS = {"memory": 1 << 44, "tmp": 1 << 44, "processes": 32_768, "files": 1 << 20}  # the largest of each that is read


class BadRequest(Exception):
    """The other side said something that this protocol does not have; `id` is that of the worker, or 0."""

    def __init__(self, message: str, worker: int = 0) -> None:
        super().__init__(message)
        self.id = worker


class Spec:
    """A worker as it is asked for; see `functions.launcher.client.WorkerSpec` for what the fields mean."""

    __slots__ = ("argv", "binds", "environment", "interpreter", "name", "network", *NUMBERS)
    memory: int
    tmp: int
    processes: int
    files: int

    def __init__(self, document: object) -> None:
        """Read one. Raises BadRequest."""
        if not isinstance(document, dict):
            raise BadRequest("the spec is no object")
        self.name = _text(document.get("name"))
        self.interpreter = _path(document.get("interpreter"))
        self.argv = [_text(word) for word in _list(document.get("argv"), ARGUMENTS_MAX)]
        self.binds = [_bind(pair) for pair in _list(document.get("binds"), BINDS_MAX)]
        self.environment = _environment(document.get("environment"))
        self.network = document.get("network") is True
        self.memory, self.tmp, self.processes, self.files = (_number(document, name) for name in NUMBERS)


def send(channel: socket.socket, document: dict[str, object], descriptors: Sequence[int] = ()) -> None:
    """Send one packet. Raises BlockingIOError when the other side does not take it now, OSError when it is gone."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    channel.sendmsg([json.dumps(document, separators=(",", ":")).encode()], ancillary)


def receive(channel: socket.socket) -> tuple[dict[str, object], list[int]]:
    """Take one packet, with its descriptors, which are the caller's to close. Raises BadRequest, EOFError, OSError."""
    space = socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize)
    data, ancillary, flags, _ = channel.recvmsg(PACKET_BYTES_MAX, space, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    try:
        if not data:
            raise EOFError
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise BadRequest(f"a packet has more than {PACKET_BYTES_MAX:,} bytes or {DESCRIPTORS_MAX} descriptors")
        document = json.loads(data)
        if not isinstance(document, dict):
            raise BadRequest("a packet is no object")
    except (ValueError, RecursionError) as error:
        _close(descriptors)
        raise BadRequest(f"a packet is no JSON: {error}") from None
    except (EOFError, BadRequest):
        _close(descriptors)
        raise
    return document, list(descriptors)


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > TEXT_MAX or "\0" in value:
        raise BadRequest(f"{str(value)[:100]!r} is no text of at most {TEXT_MAX:,} characters")
    return value


def _path(value: object) -> str:
    text = _text(value)
    if not text.startswith("/") or "\n" in text or ".." in text.split("/"):
        raise BadRequest(f"{text[:100]!r} is no absolute path")
    return text


def _list(value: object, most: int) -> list[object]:
    if not isinstance(value, list) or len(value) > most:
        raise BadRequest(f"expected a list of at most {most}")
    return value


def _bind(value: object) -> tuple[str, str]:
    if not isinstance(value, list) or len(value) != 2:
        raise BadRequest("a bind is a pair of paths")
    source, target = _path(value[0]), _path(value[1])
    if not any(target == place or target.startswith(f"{place}/") for place in BINDABLE):
        raise BadRequest(f"{target[:100]!r} is not below {', '.join(BINDABLE)}")
    return source, target


def _environment(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > VARIABLES_MAX:
        raise BadRequest(f"the environment is no object of at most {VARIABLES_MAX} variables")
    if any(not name or "=" in name for name in value):
        raise BadRequest("the environment has a name that no variable can have")
    return {_text(name): _environment_text(text) for name, text in value.items()}


def _environment_text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:  # a secret may be long; the packet bounds it
        raise BadRequest("the environment has a value that no variable can have")
    return value


def _number(document: dict[str, object], name: str) -> int:
    value = document.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= NUMBERS[name]:
        raise BadRequest(f"{name}: expected a whole number of at most {NUMBERS[name]:,}")
    return value
