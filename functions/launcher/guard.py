"""Processes that leave nothing behind: the keeper above a launcher, and a guard above each worker without bubblewrap.

Both are forks of the launcher that wait and do nothing else. They are subreapers: what loses its parent below them
becomes their child, however often it forked and whatever session it made. When what they watch has ended, they stop
all that is below until nothing new appears, kill it, and end.

bubblewrap takes its worker along when the launcher dies, but for a moment in the middle of its start in which its
own child is left waiting for ever. The keeper is for that moment. If the keeper is killed instead, the launcher is
told by the kernel and ends its workers itself.

A worker under the launcher's own user, on a kernel without Landlock's scopes (before 6.12), could kill its guard;
that is one of the reasons why bubblewrap is the layer that counts.
"""

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable

from functions.launcher import cgroups, tree
from functions.launcher.sandbox import Plan

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
KILLED = 128 + signal.SIGKILL
LOOK_AGAIN_S = 0.02  # what was killed may take a moment to be gone
AWAITED = frozenset((signal.SIGTERM, signal.SIGCHLD))

libc = ctypes.CDLL(None)


def keep() -> None:
    """Divide in two: the keeper stays in here and ends with the launcher, which returns and goes on."""
    keeper = os.getpid()
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    launcher = os.fork()
    if launcher == 0:
        _end_with(keeper)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED)
        return
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    code = _await(launcher, at_sigterm=lambda: os.kill(launcher, signal.SIGTERM))
    _sweep()
    os._exit(code)


def run(plan: Plan, arrange: Callable[[], None], cgroup: str, launcher: int) -> None:
    """Start the worker of a plan and stay until nothing of it is left; exits with its code, or 128 and the signal.

    `launcher` is the process that this one was forked from: it may be gone already. At its end, and at SIGTERM, the
    worker is killed.
    """
    os.setsid()
    if cgroup:
        cgroups.join(cgroup)
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _end_with(launcher)
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


def _end_with(parent: int) -> None:
    """Have SIGTERM sent to this process when its parent ends; if it has ended already, so does this process."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(KILLED)


def _await(child: int, at_sigterm: Callable[[], None] | None = None) -> int:
    """The child's code when it has ended, or KILLED at SIGTERM, unless there is something else to do at SIGTERM."""
    while True:
        if signal.sigwait(AWAITED) == signal.SIGTERM:
            if at_sigterm is None:
                return KILLED
            at_sigterm()
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == child:
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
    return set(tree.descendants(root, tree.processes()[0]))


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # ended since it was seen
        os.kill(pid, number)
