"""User names and passwords: who waits for a check, what was checked before, and how much of it at a time.

A check takes about 50 ms of a core and 20 MB (`devices.passwords`), so it runs in a thread, WORKERS at a time, and what
waits is bounded: strangers who try passwords make devices wait, not the daemon grow. Hosts take turns, and where all
places are taken, the host that has the most gives one to who has fewer. A password that was right before is known again
by its keyed digest, so that a site of devices that connect again costs nothing.

Will not look anybody up (`devices.access`); a user who does not exist takes as long as a wrong password.
"""

import asyncio
import hashlib
import ipaddress
import secrets
from collections import deque
from collections.abc import Callable
from hmac import compare_digest
from typing import NamedTuple

from core.telemetry import get_logger

WORKERS = 2  # checks at a time: 40 MB, and a box of four cores keeps two for everything else
WAITING_MAX = 64  # about three seconds of work
WAITING_PER_HOST_MAX = 16  # so that one host that tries passwords does not lock out the others
REMEMBERED_MAX = 20_000  # as many as a large site has devices; about 5 MB

Answer = Callable[[bool | None], None]

log = get_logger("devices.logins")


class _Attempt(NamedTuple):
    user: str
    phc: str | None
    password: bytes
    answer: Answer


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
        self._lines: dict[str, deque[_Attempt]] = {}  # by host, the one whose turn it is first; none is empty
        self._arrived = asyncio.Event()

    def check(self, user: str, phc: str | None, password: bytes, host: str, answer: Answer) -> None:
        """Call `answer` once, now or later: whether it is the password that was hashed; None when too many wait.

        `phc` is None for a user who does not exist, `host` is where the attempt comes from.
        """
        remembered = self._right.get(user)
        if remembered is not None and remembered[0] == phc and compare_digest(remembered[1], self._digest(password)):
            answer(True)
        elif self._has_room(network := _network(host)):
            self._lines.setdefault(network, deque()).append(_Attempt(user, phc, password, answer))
            self._arrived.set()
        else:
            answer(None)

    def _has_room(self, network: str) -> bool:
        """Whether there is a place for one more from there, perhaps because somebody has to give theirs up."""
        own = len(self._lines.get(network, ()))
        if own >= WAITING_PER_HOST_MAX or sum(map(len, self._lines.values())) < WAITING_MAX:
            return own < WAITING_PER_HOST_MAX
        longest = max(self._lines.values(), key=len)
        if len(longest) <= own + 1:
            return False
        longest.pop().answer(None)
        return True

    async def run(self) -> None:
        """Work until cancelled."""
        self._decoy = await asyncio.to_thread(self._make_hash, secrets.token_bytes(16))
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(self._work(), name=f"passwords {number}")

    async def _work(self) -> None:
        while True:
            while not self._lines:
                self._arrived.clear()
                await self._arrived.wait()
            attempt = self._next()
            right = await asyncio.to_thread(self._is_right, attempt)
            if right and attempt.phc is not None:
                self._remember(attempt.user, attempt.phc, attempt.password)
            attempt.answer(right)

    def _next(self) -> _Attempt:
        network, line = next(iter(self._lines.items()))
        attempt = line.popleft()
        del self._lines[network]
        if line:
            self._lines[network] = line  # behind the others
        return attempt

    def _is_right(self, attempt: _Attempt) -> bool:
        """Whether it is; runs in a thread. A user who does not exist costs as much as one who does."""
        try:
            return self._verify(attempt.phc or self._decoy, attempt.password) and attempt.phc is not None
        except Exception as error:  # noqa: BLE001 - a hash that somebody else wrote must not end the daemon
            log.error("a password cannot be checked; set it anew", user=attempt.user, error=error)
            return False

    def _remember(self, user: str, phc: str, password: bytes) -> None:
        self._right.pop(user, None)
        if len(self._right) >= REMEMBERED_MAX:
            del self._right[next(iter(self._right))]  # the one that was checked longest ago
        self._right[user] = (phc, self._digest(password))

    def _digest(self, password: bytes) -> bytes:
        return hashlib.blake2b(password, key=self._key, digest_size=32).digest()


def _network(host: str) -> str:
    """What counts as one host: an IPv6 address with all that its network gives to one customer (RFC 6177), a /64."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host
    if address.version == 4 or address.ipv4_mapped:
        return host
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
