"""From a process that bubblewrap (or the launcher alone) has started to one that may run code of the user's.

In this order, for each step needs what a later one takes away: listening sockets, limits, the user, privileges,
Landlock, seccomp; and only then the function's variables, which come with `LATER` before their names. Then one message
on the channel tells the daemon which layers hold, with the sockets attached.

The words of the command line are `name=value`, none of them secret: `data`, `file`, `processes`, `files` are limits;
`user` is a number to become; `read` and `write` are trees for Landlock, which is left out when there are none;
`lifeline` is a descriptor that comes to its end with the launcher, `unused` one that is closed; `ports` is "own"
where the network namespace is the worker's, "shared" where it is the machine's and the function may use it, and
"lent" where it is the machine's only for want of another; `root` is "shared" where files are the machine's own. `--`
ends them, before the command to run.

Invariants:
1. When `enter` returns, every layer that was asked for holds, or the daemon was told which do not and why.
2. The message has `HANDSHAKE_BYTES`, filled up with spaces: whoever reads so many bytes has read nothing after it.
"""

import _socket
import ctypes
import os
import resource

import landlock  # type: ignore[import-not-found]
import seccomp  # type: ignore[import-not-found]

CHANNEL = 3
HANDSHAKE_BYTES = 1_024
RUNTIME_API_PORT, ENDPOINT_PORT = 9001, 9002  # 9001 is Lambda's
BACKLOG = 16  # connections of one handler that the daemon has not taken yet
CAPABILITIES = 64  # more than any kernel numbers
LATER = "+"  # functions/launcher/sandbox.py
OUT_OF_MEMORY_FIRST = "1000"  # when the machine's memory runs out, a worker goes before anything else

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
SIGKILL = 9
CAPABILITY_VERSION_3 = 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


def enter(words: list[str]) -> tuple[_socket.socket, list[str]]:
    """Put every layer in place; returns the channel and the command, which may be empty.

    Raises OSError when the kernel has a layer and refuses it: nothing of the user's may run then.
    """
    options, command = _read(words)
    channel = _socket.socket(fileno=CHANNEL)
    os.set_inheritable(CHANNEL, False)
    for descriptor in options.get("unused", []):
        os.close(int(descriptor))
    ports = options["ports"][0]
    api, endpoint = _listen(RUNTIME_API_PORT, ports), _listen(ENDPOINT_PORT, ports)
    api_port, endpoint_port = api.getsockname()[1], endpoint.getsockname()[1]
    _limit({name: int(options[name][0]) for name in ("data", "file", "processes", "files")})
    _become(options)
    _give_up_privileges(dumpable=bool(command))
    held = {"rlimits": ""}
    if "read" in options:
        only_to = [api_port, endpoint_port] if ports == "lent" else None
        held["landlock"] = landlock.restrict(options["read"], options.get("write", []), only_to)
    held["seccomp"] = seccomp.install(stream_only=ports == "lent", files_shared="root" in options)
    if "lifeline" in options:
        _end_without_launcher(int(options["lifeline"][0]))
    _take_environment(api_port, endpoint_port)
    _tell(channel, held, api, endpoint)
    return channel, command


def resume() -> _socket.socket:
    """The channel, in a process that has entered and then become an interpreter anew."""
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.set_inheritable(CHANNEL, False)
    return _socket.socket(fileno=CHANNEL)


def _read(words: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    end = words.index("--")
    options: dict[str, list[str]] = {}
    for word in words[:end]:
        name, _, value = word.partition("=")
        options.setdefault(name, []).append(value)
    return options, words[end + 1 :]


def _listen(port: int, ports: str) -> _socket.socket:
    listening = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listening.bind(("127.0.0.1", port if ports == "own" else 0))
    listening.listen(BACKLOG)
    return listening


def _limit(bounds: dict[str, int]) -> None:
    """Memory is RLIMIT_DATA: runtimes with a just-in-time compiler reserve address space that they never use."""
    limits = (
        (resource.RLIMIT_DATA, bounds["data"]),
        (resource.RLIMIT_FSIZE, bounds["file"]),
        (resource.RLIMIT_NPROC, bounds["processes"]),
        (resource.RLIMIT_NOFILE, bounds["files"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    )
    for which, bound in limits:
        hardest = resource.getrlimit(which)[1]
        if hardest != resource.RLIM_INFINITY:
            bound = min(bound, hardest)
        resource.setrlimit(which, (bound, bound))
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
            score.write(OUT_OF_MEMORY_FIRST)
    except OSError:
        pass  # a help to the machine, and no layer


def _become(options: dict[str, list[str]]) -> None:
    if "user" in options:
        user = int(options["user"][0])
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    os.umask(0o077)


def _give_up_privileges(dumpable: bool) -> None:
    """A command's exec makes it dumpable again, so that it is not worth the trouble there."""
    for capability in range(CAPABILITIES):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # as far as it may: setuid programs could not use them anyway
    if libc.capset((ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset failed")
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl failed")
    if not dumpable:
        libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def _end_without_launcher(lifeline: int) -> None:
    """From here on the kernel ends this process with the launcher; if that was too late, nobody would."""
    try:
        if not os.read(lifeline, 1):
            os._exit(1)
    except BlockingIOError:
        os.close(lifeline)


def _take_environment(api_port: int, endpoint_port: int) -> None:
    chosen = {name: text for name, text in os.environ.items() if name == "PWD"}  # bubblewrap's
    chosen |= {name.removeprefix(LATER): text for name, text in os.environ.items() if name.startswith(LATER)}
    os.environ.clear()
    os.environ.update(chosen)
    os.environ["AWS_LAMBDA_RUNTIME_API"] = f"127.0.0.1:{api_port}"
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{endpoint_port}"


def _tell(channel: _socket.socket, held: dict[str, str], *listening: _socket.socket) -> None:
    """One line for each layer: its name, and why it does not hold where it does not."""
    text = "".join(f"{layer}={why_not}\n" for layer, why_not in held.items())
    message = text.encode().ljust(HANDSHAKE_BYTES)[:HANDSHAKE_BYTES]
    descriptors = b"".join(sock.fileno().to_bytes(ctypes.sizeof(ctypes.c_int), "little") for sock in listening)
    sent = channel.sendmsg([message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)])
    if sent != HANDSHAKE_BYTES:
        raise OSError("the daemon does not take the sockets")
    for sock in listening:
        sock.close()
