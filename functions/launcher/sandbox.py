"""What a worker's sandbox consists of, as command lines: values in, values out, but for looks at the file system.

With bubblewrap, `wrapped`: the worker's own namespaces, a root directory that has nothing but the system read-only,
a few files of /etc, what the daemon asked to bind, and temporary directories of bounded size. Without it, `bare`:
the same process on the machine's own files, with Landlock to keep it to the same trees, so that names below /var/task,
/var/lang and /opt in the environment are written as where those directories really are.

Either way the process that is started is the first half of functions/worker, which sets limits, user, Landlock and
seccomp from inside, and bubblewrap is given everything that could be secret through a descriptor, not as arguments.

Invariant: until all of that holds, no variable of the function's has its name. Whoever deploys chooses variables and
files, and LD_PRELOAD, or a libc in a directory of LD_LIBRARY_PATH, would have the linker run their code there.
"""

import os
from collections.abc import Mapping

from functions.launcher.protocol import Spec
from functions.worker import seccomp

WORKER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "worker")
RUNTIME = "/var/runtime"  # where it is in a sandbox; Lambda's place for it
TASK = "/var/task"
MODES = ("off", "default", "required")  # from the loosest to the strictest

LATER = "+"  # before the name of each variable of the function's; functions/worker takes it away
ENVIRONMENT = {"LANG": "C.UTF-8"}  # what the first steps have under its own name

# Descriptors that only the first steps know: by one they see whether the launcher is still there. The other is the
# reading end of what bubblewrap says about itself: were there no reader, because the launcher died, it would give up
# half-way and leave behind a child that waits for it for ever.
LIFELINE, INFO_READER = 4, 5

WORKER_ID = 1000  # the user and group that a worker in a user namespace takes itself for
# Users of workers when the launcher is root: numbers that systemd leaves unused (systemd.io/UIDS-GIDS). One for each
# worker, so that what the kernel counts by user, processes above all, is counted for each worker.
USERS = range(60_578, 61_184)

# What its first steps need of root; bubblewrap leaves it everything else too, unless told.
CAPABILITIES = [word for name in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{name}")]

SHARED_MEMORY_BYTES = 16 << 20  # /dev/shm: semaphores and queues of multiprocessing
ETC = (
    *("alternatives", "ca-certificates", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types"),
    *("pki/ca-trust", "pki/tls/certs", "ssl/certs", "ssl/openssl.cnf", "timezone"),
)
ETC_NETWORK = ("gai.conf", "host.conf", "hosts", "nsswitch.conf", "protocols", "resolv.conf", "services")
PROC = ("cpuinfo", "loadavg", "meminfo", "self", "stat", "sys/kernel/random", "uptime", "version")
DEVICES = ("full", "null", "random", "urandom", "zero")

# What a process may have as data beyond what the function was promised: its interpreter, and stacks of threads, which
# count whole (8 MiB each). Measured: Python 8 MB; Node 20 needs 64 MB before the first line, and as much for code.
PYTHON_EXTRA, COMMAND_EXTRA = 64 << 20, 192 << 20


class Unusable(Exception):
    """This worker cannot be given a sandbox; the message says why."""


class Plan:
    """One worker as processes: `command` to run, with `environment`, in `directory`; `script` is for bwrap's --args.

    `files` are small files for the sandbox by their path in it, and `filter` is the seccomp filter of process 1, which
    is bubblewrap: in a user namespace it has the worker's user, who could write into its memory.
    """

    __slots__ = ("command", "directory", "environment", "files", "filter", "script")

    def __init__(self, command: list[str], environment: dict[str, str], directory: str = "/") -> None:
        self.command, self.environment, self.directory = command, environment, directory
        self.script: list[str] = []
        self.files: dict[str, str] = {}
        self.filter = b""


def strictest(*modes: str) -> str:
    """The strictest of some modes; a word that is none of them counts as the strictest."""
    return MODES[max(MODES.index(mode) if mode in MODES else len(MODES) - 1 for mode in modes)]


def refusal(mode: str, bubblewrap: str, landlock: str, user: str) -> str:
    """Why a worker may not start by these rules, else ""; the others say why a layer does not hold, or are empty.

    Of users only one for each worker counts: with one for all, a worker reads the secrets of the others in /proc, and
    writes into the launcher's memory.
    """
    if mode == "off" or not bubblewrap:
        return ""
    if mode == "required":
        return f'sandbox = "required", and bubblewrap does not hold: {bubblewrap}'
    if landlock and user:
        return (
            "nothing would keep a worker from the daemon's files or from other workers. "
            f"bubblewrap: {bubblewrap}. Landlock: {landlock}. user: {user}. "
            'Make one of them hold, or set sandbox = "off" for development'
        )
    return ""


def wrapped(spec: Spec, bubblewrap: str, user: int | None) -> Plan:
    """A worker in bubblewrap. `user` is a number for it when the launcher is root; else it gets a user namespace."""
    interpreter, prefix = interpreter_of(spec.interpreter)
    if user is None:
        script = ["--unshare-user", "--uid", str(WORKER_ID), "--gid", str(WORKER_ID)]
    else:  # the first steps become that user, which needs no user namespace
        script = ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    script += ["--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
    script += [] if spec.network else ["--unshare-net"]
    script += ["--die-with-parent", "--new-session", *_parents(prefix), *_system(), *_etc(spec.network)]
    if prefix:
        script += ["--ro-bind", prefix, prefix]
    script += ["--ro-bind", WORKER, RUNTIME]
    for source, target in spec.binds:
        script += ["--ro-bind", source, target]
    if all(target != TASK for _, target in spec.binds):
        script += ["--dir", TASK]
    script += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    for size, place in ((SHARED_MEMORY_BYTES, "/dev/shm"), (spec.tmp, "/tmp")):
        script += ["--perms", "1777", "--size", str(size), "--tmpfs", place]
    script += ["--chdir", TASK]
    for name, value in _held_back(spec.environment).items():
        script += ["--setenv", name, value]
    words = [*_limits(spec, spec.processes), "read=/", "write=/dev", "write=/proc", "write=/tmp"]
    words += [f"lifeline={LIFELINE}", f"unused={INFO_READER}", "ports=shared" if spec.network else "ports=own"]
    words += [] if user is None else [f"user={user}"]
    argv = [interpreter if word == spec.interpreter and not at else word for at, word in enumerate(spec.argv)]
    plan = Plan([bubblewrap], {})
    plan.script = script
    plan.files = {"/etc/passwd": _passwd(user), "/etc/group": _group(user)}
    plan.filter = seccomp.program(machine) if (machine := seccomp.own_machine()) in seccomp.ARCHITECTURES else b""
    plan.command += ["--", interpreter, "-I", "-S", "-B", RUNTIME, *words, "--", *argv]
    return plan


def bare(spec: Spec, temporary: str, user: int | None, landlock: bool, processes: int) -> Plan:
    """A worker without bubblewrap. `temporary` is a directory of its own, `processes` the bound of its user."""
    interpreter, prefix = interpreter_of(spec.interpreter)
    places = {target: source for source, target in spec.binds} | {RUNTIME: WORKER}
    environment = {name: _translated(value, places) for name, value in spec.environment.items()}
    words = [*_limits(spec, processes), "root=shared", "ports=shared" if spec.network else "ports=lent"]
    words += [] if user is None else [f"user={user}"]
    if landlock:
        etc = (*ETC, "passwd", "group", *(ETC_NETWORK if spec.network else ()))
        readable = ["/usr", *_roots(), *(f"/etc/{name}" for name in etc), *(f"/proc/{name}" for name in PROC)]
        readable += [prefix or "/usr", WORKER, *(source for source, _ in spec.binds)]
        writable = [temporary, *(f"/dev/{name}" for name in DEVICES)]
        words += [f"read={path}" for path in readable] + [f"write={path}" for path in writable]
    argv = [_translated(word, places) for word in spec.argv]
    if argv and argv[0] == spec.interpreter:
        argv[0] = interpreter
    command = [interpreter, "-I", "-S", "-B", WORKER, *words, "--", *argv]
    return Plan(command, _held_back(environment | {"TMPDIR": temporary}), places.get(TASK, temporary))


def interpreter_of(path: str) -> tuple[str, str]:
    """The interpreter behind a path, which may be that of a virtual environment, and its prefix unless that is /usr.

    Raises Unusable for what is no Python: the directory above it is what a worker would get to see.
    """
    real = os.path.realpath(path)
    prefix = os.path.dirname(os.path.dirname(real))
    version = os.path.basename(real)
    if not version.startswith("python3") or not os.access(real, os.X_OK):
        raise Unusable(f"{path} is no Python interpreter")
    if prefix == "/usr" or prefix.startswith("/usr/") or prefix == "/":
        return real, ""
    if not os.path.isdir(os.path.join(prefix, "lib", version)):
        raise Unusable(f"{path} is no Python interpreter: there is no {prefix}/lib/{version}")
    return real, prefix


def unreachable(spec: Spec) -> str:
    """The first path that other users may not read or pass through, or ""."""
    interpreter, prefix = interpreter_of(spec.interpreter)
    for path in (interpreter, prefix or "/usr", WORKER, *(source for source, _ in spec.binds)):
        parts = os.path.realpath(path).split("/")
        for depth in range(1, len(parts) + 1):
            place = "/".join(parts[:depth]) or "/"
            needed = 0o001 if depth < len(parts) else 0o005  # to pass through, to read
            if not os.path.exists(place) or os.stat(place).st_mode & needed != needed:
                return place
    return ""


def _system() -> list[str]:
    script = ["--ro-bind", "/usr", "/usr"]
    for path in _roots():
        if os.path.islink(path):
            script += ["--symlink", os.readlink(path), path]
        else:
            script += ["--ro-bind", path, path]
    return script


def _parents(prefix: str) -> list[str]:
    """The directories above what is bound, which bubblewrap would make for its own user alone."""
    wanted = ["/etc", "/etc/pki", "/etc/pki/tls", "/etc/ssl", "/var", "/var/lang"]
    parts = prefix.split("/")
    wanted += ["/".join(parts[:depth]) for depth in range(2, len(parts))]
    return [word for path in wanted for word in ("--perms", "0755", "--dir", path)]


def _roots() -> list[str]:
    return [path for path in ("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin") if os.path.isdir(path)]


def _etc(network: bool) -> list[str]:
    script = []
    for name in (*ETC, *(ETC_NETWORK if network else ())):
        script += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return script


def _held_back(environment: Mapping[str, str]) -> dict[str, str]:
    return ENVIRONMENT | {f"{LATER}{name}": value for name, value in environment.items()}


def _limits(spec: Spec, processes: int) -> list[str]:
    data = spec.memory + (COMMAND_EXTRA if spec.argv else PYTHON_EXTRA)
    return [f"data={data}", f"file={spec.tmp}", f"processes={processes}", f"files={spec.files}"]


def _passwd(user: int | None) -> str:
    number = WORKER_ID if user is None else user
    return f"root:x:0:0:root:/:/usr/sbin/nologin\nworker:x:{number}:{number}::/tmp:/usr/sbin/nologin\n"


def _group(user: int | None) -> str:
    return f"root:x:0:\nworker:x:{WORKER_ID if user is None else user}:\n"


def _translated(text: str, places: dict[str, str]) -> str:
    """A text, which may be a list of paths, with paths in the sandbox written as those outside."""
    words = text.split(":")
    for index, word in enumerate(words):
        for target in sorted(places, key=len, reverse=True):
            if word == target or word.startswith(f"{target}/"):
                words[index] = places[target] + word[len(target) :]
                break
    return ":".join(words)
