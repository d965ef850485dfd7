"""One worker as the launcher has it: an outer process that is its child, and all that is below that.

With bubblewrap the outer process is bwrap, and the inner one is process 1 of the worker's namespace: when that is
killed, the kernel ends everything else in there before anyone is told. Without, the outer process is a guard
(`functions.launcher.guard`) that does the same with patience.

Invariants:
1. `pid` stays ours until `reap`, and signals go by descriptors: none can reach a process that is not the worker's.
2. The child has the descriptors 0 to 5 and those that bubblewrap reads, whatever else the launcher has open.
"""

import contextlib
import fcntl
import json
import os
import signal
from collections.abc import Callable, Sequence

from functions.launcher import cgroups, guard
from functions.launcher.sandbox import INFO_READER, LIFELINE, Plan

CHANNEL, SCRIPT, INFO, FILES = 3, 6, 7, 8  # descriptors of a child, with LIFELINE and INFO_READER between
PARKED = 64  # descriptors are moved up here before each gets the number that it is to have
INFO_BYTES_MAX = 4_096

# The launcher has the only writing end, so that the reading end comes to its end when the launcher does. bubblewrap
# asks to die with its parent only some way into its work; the first steps inside look here, after it has.
alive, alive_as_long_as_this_is_open = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)


class Process:
    """A worker that was started. `pidfd` is readable when it has ended, `info` when bubblewrap tells of process 1."""

    __slots__ = ("cgroup", "doomed", "guarded", "info", "inner", "pid", "pidfd", "said", "temporary", "user")

    def __init__(self, pid: int, info: int) -> None:
        self.pid, self.info = pid, info
        self.guarded = info < 0
        self.pidfd = os.pidfd_open(pid)
        self.said = b""
        self.inner = -1  # a pidfd
        self.doomed = False  # to be killed as soon as bubblewrap says whom
        self.user: int | None = None
        self.cgroup = self.temporary = ""

    def kill(self) -> None:
        """SIGKILL for all of it; the end shows at `pidfd`."""
        self.doomed = True
        if self.cgroup:
            cgroups.kill(self.cgroup)
        if self.inner >= 0:
            _signal(self.inner, signal.SIGKILL)
        elif self.guarded:
            _signal(self.pidfd, signal.SIGTERM)
        elif self.info < 0:  # bubblewrap came to nothing
            _signal(self.pidfd, signal.SIGKILL)

    def learn(self) -> bool:
        """Read what bubblewrap says about itself, in pieces; whether that was all, and `told` is next."""
        piece = os.read(self.info, INFO_BYTES_MAX)
        self.said += piece
        return not piece

    def told(self) -> None:
        """Close `info`, which is -1 then, and make use of what was said."""
        os.close(self.info)
        self.info = -1
        with contextlib.suppress(ValueError, KeyError, TypeError, OSError):  # it is about to fail, and says why
            self.inner = os.pidfd_open(json.loads(self.said)["child-pid"])
        if self.doomed:
            self.kill()

    def reap(self) -> tuple[int, int]:
        """Forget the process, which has ended: its exit code (negative for a signal) and its peak memory in bytes."""
        _, status, usage = os.wait4(self.pid, 0)
        for descriptor in (self.pidfd, self.inner, self.info):
            if descriptor >= 0:
                os.close(descriptor)
        peak = usage.ru_maxrss << 10
        if self.cgroup:
            peak = cgroups.peak(self.cgroup) or peak
        code = os.waitstatus_to_exitcode(status)
        return (128 - code if code > 128 else code), peak  # the outer process passes a signal on as shells do


def start(plan: Plan, ends: list[int], cgroup: str = "") -> Process:
    """Start a worker; `ends` are its channel, standard output and standard error. Raises OSError."""
    if plan.script:
        return _start_wrapped(plan, ends, cgroup)
    launcher = os.getpid()
    pid = os.fork()
    if pid == 0:
        _child(lambda: guard.run(plan, lambda: _arrange(ends), cgroup, launcher), ends[2])
    return _started(pid, -1, cgroup)


def _start_wrapped(plan: Plan, ends: list[int], cgroup: str) -> Process:
    told, telling = os.pipe2(os.O_CLOEXEC)
    texts = [_text(content) for content in plan.files.values()]
    try:
        script = list(plan.script)
        for number, place in enumerate(plan.files, FILES):
            script += ["--perms", "0444", "--file", str(number), place]
        if plan.filter:
            script += ["--seccomp", str(FILES + len(texts))]
            texts.append(_memory(plan.filter))
        script += ["--remount-ro", "/"]
        texts.append(_text("".join(f"{word}\0" for word in script)))
        numbers = [LIFELINE, INFO_READER, INFO, *range(FILES, FILES + len(texts) - 1), SCRIPT]
        command = [plan.command[0], "--args", str(SCRIPT), "--info-fd", str(INFO), *plan.command[1:]]

        def become() -> None:
            os.close(alive_as_long_as_this_is_open)
            if cgroup:
                cgroups.join(cgroup)
            _arrange([*ends, alive, told, telling, *texts], numbers)
            os.execve(command[0], command, {})

        pid = os.fork()
        if pid == 0:
            _child(become, ends[2])
    except OSError:
        os.close(told)
        raise
    finally:
        for descriptor in (telling, *texts):
            os.close(descriptor)
    return _started(pid, told, cgroup)


def _started(pid: int, info: int, cgroup: str) -> Process:
    process = Process(pid, info)
    process.cgroup = cgroup
    return process


def _child(become: Callable[[], None], stderr: int) -> None:
    """Be the child after a fork: never returns to the launcher's loop, whatever happens."""
    try:
        become()
    except BaseException as error:  # noqa: BLE001 - see above
        os.write(stderr, f"{error}\n".encode(errors="replace"))
    finally:
        os._exit(127)


def _arrange(ends: list[int], numbers: Sequence[int] = ()) -> None:
    """Give channel, standard output and error their numbers, and those that follow theirs; standard input is empty."""
    parked = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, PARKED) for descriptor in ends]
    nothing = fcntl.fcntl(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC), fcntl.F_DUPFD_CLOEXEC, PARKED)
    wanted = [0, CHANNEL, 1, 2, *numbers]
    for descriptor, number in zip([nothing, *parked], wanted, strict=True):
        os.dup2(descriptor, number)
    os.closerange(max(wanted) + 1, os.sysconf("SC_OPEN_MAX"))
    for name in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXFSZ):
        signal.signal(name, signal.SIG_DFL)  # Python ignores some, the launcher others: the worker inherits that
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _text(content: str) -> int:
    return _memory(content.encode(errors="surrogateescape"))


def _memory(data: bytes) -> int:
    descriptor = os.memfd_create("tidegate", os.MFD_CLOEXEC)
    while data:
        data = data[os.write(descriptor, data) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _signal(pidfd: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended, and waits to be reaped
        signal.pidfd_send_signal(pidfd, number)
