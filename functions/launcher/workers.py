"""The workers of a launcher: which layers this machine has, which a worker must have, its user and its directories.

Layers are found out once, by starting a trivial worker in them. What a worker gets is then decided by
`sandbox.refusal`, with a user and a temporary directory of its own where it needs them.
"""

import os
import select
import socket

from functions.launcher import cgroups, memory, process, sandbox
from functions.launcher.process import Process
from functions.launcher.protocol import Spec
from functions.launcher.users import Users

PROBE_LIMIT_S = 20.0  # 30 ms, and on a busy card that reads slowly perhaps seconds
HANDSHAKE_BYTES = 1_024  # functions/worker/entering.py
STDERR_BYTES_MAX = 1_000
HOLDS = "holds"
PROBE = {
    "name": "probe", "interpreter": "", "argv": ["/bin/true"], "binds": [], "environment": {}, "network": False,
    "memory": 64 << 20, "tmp": 1 << 20, "processes": 8, "files": 64,
}  # fmt: skip


class Refused(Exception):
    """A worker may not or cannot start; `sandbox` when it is for the want of layers."""

    def __init__(self, message: str, for_want_of_layers: bool = False) -> None:
        super().__init__(message)
        self.sandbox = for_want_of_layers


class Workers:
    """What workers need from the machine. `bubblewrap` is the path of bwrap, empty where there is none."""

    def __init__(self, bubblewrap: str, interpreter: str) -> None:
        self._bubblewrap, self._interpreter = bubblewrap, interpreter
        self._why_not: dict[str, str] | None = None
        self._cgroups = cgroups.Cgroups()
        self.watch = memory.Watch()  # of those that have no cgroup
        self._number = 0
        self._users = Users()
        self._scratch = ""
        self._left: list[str] = []  # cgroups that were not empty yet

    def layers(self, daemon: int) -> dict[str, str]:
        """Each layer, and "holds" or why not, for a daemon that runs as this user."""
        why_not = dict(self._probed())
        why_not["cgroup"] = self._cgroups.why_not
        why_not["user"] = self._no_user(daemon)
        return {layer: text or HOLDS for layer, text in sorted(why_not.items())}

    def start(self, spec: Spec, mode: str, ends: list[int], daemon: int) -> tuple[Process, list[str]]:
        """Start a worker; returns it and those of its layers that it does not report itself. Raises Refused."""
        why_not = self._probed()
        no_user = self._no_user(daemon)
        wrap = mode != "off" and not why_not["bubblewrap"]
        try:
            shared = no_user or ("" if os.geteuid() == 0 else "it is the same for all workers of this launcher")
            if refusal := sandbox.refusal(mode, why_not["bubblewrap"], why_not["landlock"], shared):
                raise Refused(refusal, for_want_of_layers=True)
            own_user = os.geteuid() == 0 and mode != "off"
            if own_user and not wrap and (place := sandbox.unreachable(spec)):
                text = f"without bubblewrap a worker of root becomes another user, and that may not read {place}"
                raise Refused(text, for_want_of_layers=True)
            started = self._start(spec, wrap, own_user, mode != "off" and not why_not["landlock"], ends)
        except sandbox.Unusable as error:
            raise Refused(str(error)) from None
        except OSError as error:
            raise Refused(f"a worker cannot be started: {error}") from None
        if not started.cgroup:
            self.watch.add(started, memory.limit(spec))
        held = {"bubblewrap": wrap, "cgroup": bool(started.cgroup), "user": mode != "off" and not no_user}
        return started, [layer for layer, holds in held.items() if holds]

    def ended(self, worker: Process) -> tuple[int, int]:
        """Clear up after a worker that has ended: its exit code and its peak memory."""
        code, peak = worker.reap()
        peak = max(peak, self.watch.remove(worker))
        if worker.user is not None:
            self._users.give_back(worker.user)
        _remove(worker.temporary)
        if worker.cgroup:
            self._left.append(worker.cgroup)
        self._left = [path for path in self._left if not cgroups.remove(path)]
        return code, peak

    def close(self) -> None:
        """Remove what is left of the last worker."""
        _remove(self._scratch)

    def _start(self, spec: Spec, wrap: bool, own_user: bool, landlock: bool, ends: list[int]) -> Process:
        self._number += 1
        user = self._users.take() if own_user else None
        cgroup = temporary = ""
        try:
            if not self._cgroups.why_not:
                cgroup = self._cgroups.make(f"worker-{self._number}", spec.memory, spec.processes)
            if wrap:
                plan = sandbox.wrapped(spec, self._bubblewrap, user)
            else:
                temporary = self._temporary(user)
                alone = user is not None
                bound = spec.processes + (0 if alone else threads_of(os.geteuid()))
                plan = sandbox.bare(spec, temporary, user, landlock, bound)
            worker = process.start(plan, ends, cgroup)
        except BaseException:
            _remove(temporary)
            if cgroup:
                cgroups.remove(cgroup)
            if user is not None:
                self._users.give_back(user)
            raise
        worker.user, worker.temporary = user, temporary
        return worker

    def _temporary(self, user: int | None) -> str:
        if not self._scratch:
            scratch = f"{os.environ.get('TMPDIR', '/tmp')}/tidegate-{os.getpid()}-{os.urandom(8).hex()}"
            os.mkdir(scratch, 0o711)
            self._scratch = scratch
        path = f"{self._scratch}/{self._number}"
        os.mkdir(path, 0o700)
        if user is not None:
            os.chown(path, user, user)
        return path

    def _no_user(self, daemon: int) -> str:
        if os.geteuid() == 0 or daemon != os.geteuid():
            return ""
        return "the launcher was started by the daemon, and has its user"

    def _probed(self) -> dict[str, str]:
        if self._why_not is None:
            missing = "it is not installed (apt install bubblewrap)"
            said, failed = self._try(wrap=True) if self._bubblewrap else ({}, missing)
            if not said:
                said, _ = self._try(wrap=False)
            self._why_not = {"rlimits": "", "seccomp": "", "landlock": "unknown", "bubblewrap": failed, **said}
        return self._why_not

    def _try(self, wrap: bool) -> tuple[dict[str, str], str]:
        """Start a trivial worker: what it says of its layers, and why it did not come so far."""
        spec = Spec({**PROBE, "interpreter": self._interpreter})
        ours, theirs = socket.socketpair()
        told, telling = os.pipe2(os.O_CLOEXEC)
        with ours, theirs:
            try:
                worker = self._start(spec, wrap, wrap and os.geteuid() == 0, True, [theirs.fileno(), telling, telling])
            except (OSError, sandbox.Unusable) as error:
                os.close(told)
                os.close(telling)
                return {}, str(error)
            theirs.close()
            os.close(telling)
            ours.settimeout(PROBE_LIMIT_S)
            try:
                said = ours.recv(HANDSHAKE_BYTES, socket.MSG_WAITALL).decode(errors="replace").split("\n")
            except OSError:
                said = []
            if not select.select([worker.pidfd], [], [], PROBE_LIMIT_S)[0]:
                if worker.info >= 0:
                    while not worker.learn():
                        pass
                    worker.told()
                worker.kill()
            failed = os.read(told, STDERR_BYTES_MAX).decode(errors="replace").strip()
            os.close(told)
            self.ended(worker)
        layers = dict(line.split("=", 1) for line in said if "=" in line)
        return layers, "" if layers else explained(failed)


def _remove(directory: str) -> None:
    if directory:
        import shutil  # a megabyte that only machines without bubblewrap need

        shutil.rmtree(directory, ignore_errors=True)


def explained(failed: str) -> str:
    """What bubblewrap said, and what usually helps."""
    if "Unknown option" in failed:
        return f"{failed}: version 0.8 or newer is needed"
    if "No permissions" in failed or "Permission denied" in failed or "not permitted" in failed:
        return (
            f"{failed}: the kernel refuses user namespaces to this user; allow them with sysctl "
            "kernel.unprivileged_userns_clone=1, or kernel.apparmor_restrict_unprivileged_userns=0, or a profile of "
            "AppArmor for bwrap. In a unit of systemd use tidegate-functions.socket, and [functions] launcher"
        )
    return failed or "the trivial sandbox did not start"


def threads_of(user: int) -> int:
    """How many threads a user has on this machine: what RLIMIT_NPROC counts where workers have no user of their own."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == user:
                    count += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                continue
    return count
