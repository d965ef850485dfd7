"""The processes of the machine as /proc lists them: who has started whom, and what each has in RAM."""

import mmap
import os


def processes() -> tuple[dict[int, list[int]], dict[int, int]]:
    """The machine's processes: the children of each, and how many bytes each has in RAM."""
    below: dict[int, list[int]] = {}
    resident: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb", buffering=0) as stat:
                    fields = stat.read().rpartition(b")")[2].split(None, 22)
                resident[int(name)] = int(fields[21]) * mmap.PAGESIZE
                below.setdefault(int(fields[1]), []).append(int(name))
            except (OSError, IndexError):  # ended since it was listed
                continue
    return below, resident


def descendants(root: int, below: dict[int, list[int]]) -> list[int]:
    """The processes below one, without it."""
    found: dict[int, None] = {}
    waiting = [root]
    while waiting:
        children = [pid for pid in below.get(waiting.pop(), ()) if pid not in found]  # a number may be used again
        found.update(dict.fromkeys(children))
        waiting += children
    return list(found)
