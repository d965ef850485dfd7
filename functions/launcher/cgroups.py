"""Control groups: what all processes of a worker take together, where systemd has delegated the counting of it.

A layer beside the limits of single processes. It holds when this process is in a cgroup (v2) that is delegated to it
(Delegate=) and has the memory and pids controllers; Raspberry Pi OS boots with memory switched off. The launcher moves
itself to a leaf, for a cgroup with processes in it can hand on no controllers, and gives each worker a sibling.

Will not touch a cgroup that nobody delegated: there, systemd is the only writer (systemd.io/CGROUP_DELEGATION).
"""

import contextlib
import os

LEAF = "launcher"
CONTROLLERS = ("memory", "pids")
OURS = 3  # processes of a sandbox that are not the worker's: bubblewrap twice, or what stands in for it
SHIM_BYTES = 32 << 20  # what an interpreter takes before the function's own memory begins


class Cgroups:
    """The cgroup of this process. `why_not` is empty when workers can have their own below it."""

    def __init__(self, root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> None:
        self.path = ""
        self.why_not = self._take(root, membership)

    def _take(self, root: str, membership: str) -> str:
        try:
            with open(membership, encoding="ascii", errors="surrogateescape") as lines:
                path = next((line[3:].rstrip("\n") for line in lines if line.startswith("0::/")), None)
            if path is None or not os.path.isfile(f"{root}/cgroup.controllers"):
                return "the machine boots without the unified hierarchy (cgroup v2)"
            self.path = root + path.rstrip("/").removesuffix(f"/{LEAF}")  # DelegateSubgroup= has moved us
            here = set(_read(f"{self.path}/cgroup.controllers").split())
            missing = [name for name in CONTROLLERS if name not in here]
            if missing:
                return f"{self.path} has no {' and no '.join(missing)} controller (cgroup_enable=memory, Delegate=)"
            if not os.access(f"{self.path}/cgroup.subtree_control", os.W_OK) or not _is_delegated(self.path):
                return f"{self.path} is not delegated (Delegate= of the unit)"
            os.makedirs(f"{self.path}/{LEAF}", exist_ok=True)
            _write(f"{self.path}/{LEAF}/cgroup.procs", str(os.getpid()))
            _write(f"{self.path}/cgroup.subtree_control", " ".join(f"+{name}" for name in CONTROLLERS))
        except OSError as error:
            return f"{self.path or membership}: {error.strerror}"
        return ""

    def make(self, name: str, memory: int, processes: int) -> str:
        """A cgroup for one worker; returns its path. Raises OSError."""
        path = f"{self.path}/{name}"
        os.makedirs(path, exist_ok=True)
        _write(f"{path}/memory.max", str(memory + SHIM_BYTES))
        _write(f"{path}/pids.max", str(processes + OURS))
        for file, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
            if os.path.exists(f"{path}/{file}"):
                _write(f"{path}/{file}", value)
        return path


def join(path: str) -> None:
    """Move this process, and what it will start, into a worker's cgroup. Raises OSError."""
    _write(f"{path}/cgroup.procs", "0")


def peak(path: str) -> int:
    """The most memory that a worker's cgroup held, in bytes; 0 where the kernel does not say."""
    try:
        return int(_read(f"{path}/memory.peak"))
    except (OSError, ValueError):
        return 0


def kill(path: str) -> None:
    """SIGKILL for everything in it, where the kernel can (Linux 5.14)."""
    with contextlib.suppress(OSError):  # the other ways to kill remain
        _write(f"{path}/cgroup.kill", "1")


def remove(path: str) -> bool:
    """Remove a worker's cgroup; false while something is still in it."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _is_delegated(path: str) -> bool:
    for name in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(path, name) == b"1":
                return True
        except OSError:
            continue
    return False


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
