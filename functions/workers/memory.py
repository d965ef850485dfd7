"""What a worker has in memory, as /proc shows it: its processes together, without those that only hold its sandbox.

Whoever may not look (another user behind ProtectProc= or hidepid) sees 0. Threads of one process count once; pages that
processes share count in each.
"""

from collections.abc import Iterator

PROCESSES_MAX = 64  # that are looked at; each costs some 50 µs
HOLDERS = {b"bwrap"}


def resident(pid: int) -> int:
    """Bytes in memory now, of the processes below `pid`."""
    return _sum(pid, b"VmRSS:")


def peak(pid: int) -> int:
    """The most that each of those that are there now had at a time, together."""
    return _sum(pid, b"VmHWM:")


def _sum(pid: int, field: bytes) -> int:
    below = list(_below(pid))
    return sum(_field(each, field) for each in below or [pid])


def _below(pid: int) -> Iterator[int]:
    found, looked = _children(pid), 0
    while found and looked < PROCESSES_MAX:
        child = found.pop()
        looked += 1
        found += _children(child)
        yield child


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:  # of its first thread, which is what forks here
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _field(pid: int, field: bytes) -> int:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return 0
    fields = {name: value for name, _, value in (line.partition(b"\t") for line in lines)}
    if fields.get(b"Name:") in HOLDERS:
        return 0
    words = fields.get(field, b"0").split()
    return int(words[0]) << 10 if words else 0
