"""User names and passwords: who waits for a check, what was checked before, and how much of it at a time.

A check takes about 50 ms of a core and 20 MB (`devices.passwords`), so it runs in a thread, WORKERS at a time, and what
waits is bounded: strangers who try passwords make devices wait, not the daemon grow. A password that was right before
is known again by its keyed digest, so that a site of devices that connect again costs nothing.

Will not look anybody up (`devices.access`); a user who does not exist takes as long as a wrong password.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from hmac import compare_digest

WORKERS = 2  # checks at a time: 40 MB, and a box of four cores keeps two for everything else
WAITING_MAX = 64  # about three seconds of work
WAITING_PER_HOST_MAX = 16  # so that one host that tries passwords does not lock out the others
REMEMBERED_MAX = 20_000  # as many as a large site has devices; about 5 MB

Answer = Callable[[bool | None], None]


def _verify(phc: str, password: bytes) -> bool:
    from devices import passwords  # late: a daemon without passwords does not carry the library

    return passwords.verify(phc, password)


def _hash(password: bytes) -> str:
    from devices import passwords

    return passwords.hash(password)


class Logins:
    """Checks passwords while `run` runs. For the event loop's thread only."""

    def __init__(
        self, verify: Callable[[str, bytes], bool] = _verify, make_hash: Callable[[bytes], str] = _hash
    ) -> None:
        self._verify = verify
        self._make_hash = make_hash
        self._decoy = ""
        self._key = secrets.token_bytes(32)
        self._right: dict[str, tuple[str, bytes]] = {}  # user → the hash that was satisfied, and by what
        self._waiting: asyncio.Queue[tuple[str, str | None, bytes, str, Answer]] = asyncio.Queue(WAITING_MAX)
        self._hosts: dict[str, int] = {}

    def check(self, user: str, phc: str | None, password: bytes, host: str, answer: Answer) -> None:
        """Call `answer` once, now or later: whether it is the password that was hashed; None when too many wait.

        `phc` is None for a user who does not exist, `host` is where the attempt comes from.
        """
        remembered = self._right.get(user)
        if remembered is not None and remembered[0] == phc and compare_digest(remembered[1], self._digest(password)):
            answer(True)
        elif self._waiting.full() or self._hosts.get(host, 0) >= WAITING_PER_HOST_MAX:
            answer(None)
        else:
            self._hosts[host] = self._hosts.get(host, 0) + 1
            self._waiting.put_nowait((user, phc, password, host, answer))

    async def run(self) -> None:
        """Work until cancelled."""
        self._decoy = await asyncio.to_thread(self._make_hash, secrets.token_bytes(16))
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(self._work(), name=f"passwords {number}")

    async def _work(self) -> None:
        while True:
            user, phc, password, host, answer = await self._waiting.get()
            right = await asyncio.to_thread(self._verify, phc or self._decoy, password) and phc is not None
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]
            if right and phc is not None:
                self._remember(user, phc, password)
            answer(right)

    def _remember(self, user: str, phc: str, password: bytes) -> None:
        self._right.pop(user, None)
        if len(self._right) >= REMEMBERED_MAX:
            del self._right[next(iter(self._right))]  # the one that was checked longest ago
        self._right[user] = (phc, self._digest(password))

    def _digest(self, password: bytes) -> bytes:
        return hashlib.blake2b(password, key=self._key, digest_size=32).digest()
