"""Users for the workers of a launcher that is root: a number each, that no other launcher of the machine gives out.

Two launchers of root, an edge's and a cloud's, know nothing of each other. Each number is a byte of one file, and who
has a number has the kernel's lock on that byte, which ends with the process. Where the file cannot be had, numbers are
told apart within this launcher only.
"""

import contextlib
import fcntl
import os

from functions.launcher import sandbox

FILE = "/run/tidegate-workers.lock"


class Users:
    """The numbers of `sandbox.USERS`."""

    def __init__(self, file: str = FILE) -> None:
        self._path, self._file = file, -1
        self._taken: set[int] = set()
        self._next = 0

    def take(self) -> int:
        """A number that was not used for the longest time, in case something of its last user is still about.

        Raises sandbox.Unusable when there is none.
        """
        if self._file < 0:
            with contextlib.suppress(OSError):
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        for _ in sandbox.USERS:
            place = self._next
            self._next = (self._next + 1) % len(sandbox.USERS)
            user = sandbox.USERS[place]
            if user not in self._taken and self._lock(place):
                self._taken.add(user)
                return user
        raise sandbox.Unusable(f"all {len(sandbox.USERS)} users for workers are taken")

    def give_back(self, user: int) -> None:
        """Nothing runs as this user any more."""
        self._taken.discard(user)
        if self._file >= 0:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, sandbox.USERS.index(user))

    def _lock(self, place: int) -> bool:
        if self._file < 0:
            return True
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except BlockingIOError:
            return False
        except PermissionError:  # what some kernels say instead (fcntl(2))
            return False
        except OSError:  # a file system without locks
            return True
        return True
