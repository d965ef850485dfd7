"""What stands in for a process namespace: the parent of a worker that leaves nothing of it behind.

Forked from the launcher where there is no bubblewrap. It is the subreaper of the worker: what loses its parent in
there becomes a child of the guard, however often it forked and whatever session it made. When the worker ends, the
launcher dies or says SIGTERM, the guard stops all that is below it until nothing new appears, kills it, and ends.

A worker under the launcher's own user, on a kernel without Landlock's scopes (before 6.12), could kill its guard;
that is one of the reasons why bubblewrap is the layer that counts.
"""

import contextlib
import os
import signal
from collections.abc import Callable

from functions.launcher import cgroups
from functions.launcher.sandbox import Plan

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
KILLED = 128 + signal.SIGKILL
LOOK_AGAIN_S = 0.02  # what was killed may take a moment to be gone
AWAITED = frozenset((signal.SIGTERM, signal.SIGCHLD))


def run(plan: Plan, arrange: Callable[[], None], cgroup: str) -> None:
    """Start the worker of a plan and stay until nothing of it is left; exits with its code, or 128 and the signal."""
    import ctypes  # here, for the launcher itself needs none of it

    launcher = os.getppid()
    os.setsid()
    if cgroup:
        cgroups.join(cgroup)
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != launcher:
        os._exit(KILLED)
    worker = os.fork()
    if worker == 0:
        try:
            arrange()
            os.chdir(plan.directory)
            os.execve(plan.command[0], plan.command, plan.environment)
        except OSError as error:
            os.write(2, f"{plan.command[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(127)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    code = _await(worker)
    _sweep()
    os._exit(code)


def _await(worker: int) -> int:
    while True:
        if signal.sigwait(AWAITED) == signal.SIGTERM:
            return KILLED
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == worker:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            if pid == 0:
                break


def _sweep() -> None:
    """Kill everything below this process, until it has no children any more."""
    while True:
        seen: set[int] = set()
        while new := descendants(os.getpid()) - seen:
            for pid in new:
                _send(pid, signal.SIGSTOP)  # so that nothing forks while the rest is found
            seen |= new
        for pid in seen:
            _send(pid, signal.SIGKILL)
        signal.sigtimedwait((signal.SIGCHLD,), LOOK_AGAIN_S)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def descendants(root: int) -> set[int]:
    """The processes below one, without it."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    parent = int(stat.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(name))
    found: set[int] = set()
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting += below
    return found


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # ended since it was seen
        os.kill(pid, number)
