"""The memory of a worker with all its processes, looked at from outside, and the end of one that takes too much.

RLIMIT_DATA bounds the private memory of one process, at once. What is shared, or spread over many processes, is bounded
here, a moment late, unless the worker has a cgroup: then the kernel counts better. A look is made in three steps, so
that it costs next to nothing while nobody grows: the machine's available memory, every TICK_S; one pass over /proc when
that has fallen or LOOK_S have passed; and only for a worker that may be above its limit, its mappings one by one, in
which a page that its processes share counts once.

What counts is what a limit of memory can mean: anonymous memory, shared or not, in RAM or swapped. Not a program and
its libraries, nor files that are mapped, those of the worker's own /tmp included, which has a bound of its own.

Invariants:
1. A process is counted for the worker that it descends from, whoever its parent was; the outer process is not counted.
2. While no worker runs without a cgroup there is nothing to do, and `pause` says so.
"""

import mmap
import time
from collections.abc import Iterable

from functions.launcher import tree
from functions.launcher.process import Process
from functions.launcher.protocol import Spec
from functions.launcher.sandbox import COMMAND_EXTRA, PYTHON_EXTRA

TICK_S = 0.25  # a Raspberry Pi 4 fills some 250 MB in that time
LOOK_S = 2.0  # at the latest; what one worker took may have been given back by another
STEP_BYTES = 16 << 20  # the least fall that is worth a look: what a worker may be above its limit unseen
PAGE = mmap.PAGESIZE
COUNTED = (b"RssAnon", b"RssShmem", b"VmSwap")


class Watched:
    """One worker: its limit, the most that it was seen with, and what it had when last looked at, in bytes."""

    __slots__ = ("limit", "now", "peak")

    def __init__(self, limit: int) -> None:
        self.limit, self.now, self.peak = limit, 0, 0


class Watch:
    """Watches the workers that it is told of."""

    def __init__(self) -> None:
        self._workers: dict[Process, Watched] = {}
        self._tick_at = self._look_at = 0.0  # monotonic: not before
        self._available = 0  # at the last look
        self._shared = ""  # the device that shared anonymous memory and memfds are on, as /proc/*/smaps names it

    def add(self, worker: Process, limit: int) -> None:
        """Watch a worker until `remove`."""
        if not self._workers:
            self._look_at = 0.0
        self._workers[worker] = Watched(limit)

    def remove(self, worker: Process) -> int:
        """It has ended: the most that it was seen with, 0 if it was not."""
        watched = self._workers.pop(worker, None)
        return watched.peak if watched else 0

    def pause(self) -> float | None:
        """Seconds until `look` has something to do; None while nobody is watched."""
        return max(0.0, self._tick_at - time.monotonic()) if self._workers else None

    def look(self) -> None:
        """Kill whoever is above its limit, if it is time to look again."""
        now = time.monotonic()
        if not self._workers or now < self._tick_at:
            return
        self._tick_at = now + TICK_S
        room = min(watched.limit - watched.now for watched in self._workers.values())
        if now >= self._look_at or self._available - available() >= max(room // 2, STEP_BYTES):
            self._look_at = now + LOOK_S
            self._pass()
            self._available = available()

    def _pass(self) -> None:
        below, resident = tree.processes()
        for worker, watched in self._workers.items():
            pids = tree.descendants(worker.pid, below)
            watched.now = sum(resident[pid] for pid in pids)
            if watched.now > min(watched.peak, watched.limit):  # each step is dearer, and says less than the one before
                watched.now = sum(map(counted, pids))
            if watched.now > watched.limit:
                watched.now = sum(self._counted_once(pid) for pid in pids)
            watched.peak = max(watched.peak, watched.now)
            if watched.now > watched.limit and not worker.doomed:
                worker.kill()

    def _counted_once(self, pid: int) -> int:
        """What `counted` says, without files of /tmp, and of a page that n processes share the nth part."""
        self._shared = self._shared or shared_device()
        try:
            with open(f"/proc/{pid}/smaps", "rb") as lines:
                return _parts(lines, self._shared.encode())
        except OSError:  # not ours to read: it has made itself unreadable, and nothing else holds it
            return counted(pid)


def limit(spec: Spec) -> int:
    """What a worker may have in all: as much as RLIMIT_DATA gives one process of it."""
    return spec.memory + (COMMAND_EXTRA if spec.argv else PYTHON_EXTRA)


def available() -> int:
    """What the machine could still give without swapping; falls by what any process takes."""
    try:
        with open("/proc/meminfo", "rb") as file:
            return int(file.read(256).partition(b"MemAvailable:")[2].split(None, 1)[0]) << 10
    except (OSError, ValueError, IndexError):
        return 0  # then every look waits for its time


def counted(pid: int) -> int:
    """Anonymous and shared memory of a process, whole, in RAM or swapped; 0 when it has ended."""
    try:
        with open(f"/proc/{pid}/status", "rb") as lines:
            return sum(int(line.split()[1]) for line in lines if line.partition(b":")[0] in COUNTED) << 10
    except OSError:
        return 0


def shared_device() -> str:
    """The device of the kernel's own tmpfs, on which everything is that is shared and has no file."""
    with mmap.mmap(-1, PAGE), open("/proc/self/maps", encoding="ascii", errors="replace") as lines:
        return next((words[3] for words in map(str.split, lines) if words[5:6] == ["/dev/zero"]), "")


def _parts(smaps: Iterable[bytes], shared: bytes) -> int:
    total = part = 0
    whole = False  # a mapping without a file, or of shared memory: counts with all that it has
    for line in smaps:
        words = line.split(None, 5)
        if not words[0].endswith(b":"):
            whole = words[4] == b"0" or words[3] == shared
        elif words[0] == b"Pss:":
            part = int(words[1])
            total += part if whole else 0
        elif words[0] == b"Anonymous:":
            total += 0 if whole else min(part, int(words[1]))  # pages of a file that were written to privately
        elif words[0] == b"SwapPss:":
            total += int(words[1])
    return total << 10
