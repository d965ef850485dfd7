"""Passwords are checked off the loop, a few at a time; what was right before is known again."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from devices.logins import REMEMBERED_MAX, WAITING_MAX, WAITING_PER_HOST_MAX, WORKERS, Logins


class Verifier:
    """Stands for Argon2: the hash of a password is `hash of …`; slow for as long as a test likes."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.at_once = 0
        self.most_at_once = 0
        self._lock = threading.Lock()

    def hash(self, password: bytes) -> str:
        return f"hash of {password.hex()}"

    def verify(self, phc: str, password: bytes) -> bool:
        with self._lock:
            self.calls.append((phc, password))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.gate.wait(20)
        with self._lock:
            self.at_once -= 1
        return phc == self.hash(password)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in code that knows nothing of tests
            await asyncio.sleep(0.002)


class Bench:
    def __init__(self) -> None:
        self.verifier = Verifier()
        self.logins = Logins(self.verifier.verify, self.verifier.hash)
        self.right = self.verifier.hash(b"right")
        self.answers: list[bool | None] = []

    def start(self, user: str, phc: str | None, password: bytes, host: str = "192.0.2.1") -> None:
        self.logins.check(user, phc, password, host, self.answers.append)

    async def answered(self, count: int) -> list[bool | None]:
        await until(lambda: len(self.answers) >= count)
        return self.answers

    async def ask(self, user: str, phc: str | None, password: bytes) -> bool | None:
        count = len(self.answers) + 1
        self.start(user, phc, password)
        return (await self.answered(count))[-1]


@asynccontextmanager
async def working() -> AsyncIterator[Bench]:
    bench = Bench()
    task = asyncio.get_running_loop().create_task(bench.logins.run())
    try:
        yield bench
    finally:
        bench.verifier.gate.set()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_password_is_right_or_wrong() -> None:
    async with working() as bench:
        assert await bench.ask("press", bench.right, b"right") is True
        assert await bench.ask("press", bench.right, b"wrong") is False


async def test_a_user_who_does_not_exist_costs_a_check_like_any_other_and_is_never_right() -> None:
    async with working() as bench:
        assert await bench.ask("nobody", None, b"x") is False
        [(decoy, password)] = bench.verifier.calls
        assert (decoy.startswith("hash of "), password) == (True, b"x")
        assert await bench.ask("nobody", None, bytes.fromhex(decoy.removeprefix("hash of "))) is False


async def test_a_right_password_is_known_again_without_another_check() -> None:
    async with working() as bench:
        await bench.ask("press", bench.right, b"right")
        bench.start("press", bench.right, b"right")
        assert bench.answers == [True, True]
        assert len(bench.verifier.calls) == 1


async def test_what_was_right_is_forgotten_when_the_hash_changes_and_for_other_users() -> None:
    async with working() as bench:
        await bench.ask("press", bench.right, b"right")
        assert await bench.ask("press", bench.verifier.hash(b"newer"), b"right") is False
        assert await bench.ask("press", None, b"right") is False
        assert await bench.ask("lathe", bench.verifier.hash(b"other"), b"right") is False
        assert await bench.ask("press", bench.right, b"wrong") is False


async def test_few_are_checked_at_a_time_and_the_rest_is_told_to_wait() -> None:
    async with working() as bench:
        bench.verifier.gate.clear()
        for number in range(WORKERS):
            bench.start("press", bench.right, b"wrong", f"busy-{number}")
        await until(lambda: bench.verifier.at_once == WORKERS)
        for number in range(WAITING_MAX + 5):
            bench.start("press", bench.right, b"wrong", f"host-{number}")
        assert bench.answers == [None] * 5
        bench.verifier.gate.set()
        await bench.answered(5 + WORKERS + WAITING_MAX)
        assert bench.answers.count(False) == WORKERS + WAITING_MAX
        assert bench.verifier.most_at_once == WORKERS


async def test_one_host_cannot_take_all_the_places() -> None:
    async with working() as bench:
        bench.verifier.gate.clear()
        for _ in range(WAITING_MAX * 2):
            bench.start("press", bench.right, b"wrong", "198.51.100.1")
        assert len(bench.answers) == WAITING_MAX * 2 - WAITING_PER_HOST_MAX
        bench.start("press", bench.right, b"right", "192.0.2.1")
        bench.verifier.gate.set()
        answers = await bench.answered(WAITING_MAX * 2 + 1)
        assert answers.count(True) == 1
        assert await bench.ask("lathe", bench.right, b"right") is True
        assert bench.logins._lines == {}


async def busy(bench: Bench) -> None:
    """Every worker is at work and stays so."""
    bench.verifier.gate.clear()
    for number in range(WORKERS):
        bench.start("press", bench.right, b"wrong", f"busy-{number}")
    await until(lambda: bench.verifier.at_once == WORKERS)


async def test_hosts_take_turns_so_that_one_who_guesses_delays_nobody_by_more_than_one_check() -> None:
    async with working() as bench:
        await busy(bench)
        for number in range(WAITING_PER_HOST_MAX):
            bench.start("press", bench.right, b"guess %d" % number, "198.51.100.1")
        for number in range(3):
            bench.start("press", bench.right, b"device %d" % number, f"192.0.2.{number}")
        bench.verifier.gate.set()
        await bench.answered(WORKERS + WAITING_PER_HOST_MAX + 3)
        tried = [password for _, password in bench.verifier.calls[WORKERS:]]
        assert {password for password in tried if b"device" in password} <= set(tried[: 3 + 1 + WORKERS])
        assert bench.answers == [False] * len(bench.answers)


async def test_hosts_that_guess_and_have_all_the_places_give_one_to_a_device() -> None:
    async with working() as bench:
        await busy(bench)
        for number in range(WAITING_MAX):
            bench.start("press", bench.right, b"guess", f"198.51.100.{number % 4}")
        assert bench.answers == []
        bench.start("press", bench.right, b"right", "192.0.2.1")
        assert bench.answers == [None]  # a guesser
        bench.verifier.gate.set()
        answers = await bench.answered(WORKERS + WAITING_MAX + 1)
        assert (answers.count(True), answers.count(None), answers.count(False)) == (1, 1, WORKERS + WAITING_MAX - 1)


@pytest.mark.parametrize("form", ["[2001:db8:0:1::{:x}]", "2001:db8:0:1::{:x}", "[2001:db8:0:1:{:x}::1]"])
async def test_the_addresses_of_one_ipv6_network_are_one_host(form: str) -> None:
    async with working() as bench:
        await busy(bench)
        for number in range(WAITING_PER_HOST_MAX + 5):
            bench.start("press", bench.right, b"guess", form.format(number))
        assert bench.answers == [None] * 5
        for other in ("[2001:db8:0:2::1]", "::ffff:192.0.2.1", "::ffff:192.0.2.2", "192.0.2.3"):
            bench.start("press", bench.right, b"guess", other)
        assert bench.answers == [None] * 5


@pytest.mark.parametrize("error", [ValueError("salt"), MemoryError("4 TB")])
async def test_a_hash_that_cannot_be_used_is_a_wrong_password_and_ends_nothing(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async with working() as bench:
        works = bench.logins._verify

        def verify(phc: str, password: bytes) -> bool:
            if phc == "broken":
                raise error
            return works(phc, password)

        bench.logins._verify = verify
        for _ in range(WORKERS + 1):
            assert await bench.ask("press", "broken", b"right") is False
        assert await bench.ask("lathe", bench.right, b"right") is True
        assert "cannot be checked" in caplog.text


async def test_the_hashes_that_the_library_cannot_take_are_wrong_passwords() -> None:
    logins = Logins()
    task = asyncio.get_running_loop().create_task(logins.run())
    answers: list[bool | None] = []
    encoded = "YWJjZGVmZ2hpamtsbW5vcA"
    for phc in (
        "garbage",
        "$argon2id$v=19$m=19456,t=2,p=1$abc$abc",
        f"$argon2id$v=19$m=4294967295,t=2,p=1${encoded}${encoded}",
    ):
        logins.check("press", phc, b"x", "192.0.2.1", answers.append)
    await until(lambda: len(answers) == 3 or task.done())
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert answers == [False] * 3


@pytest.mark.parametrize("users", [REMEMBERED_MAX + 50])
def test_what_is_remembered_is_bounded(users: int) -> None:
    logins = Logins(lambda *_: True, lambda _: "")
    for number in range(users):
        logins._remember(f"user-{number}", "hash", b"right")
    assert len(logins._right) == REMEMBERED_MAX
    assert f"user-{users - 1}" in logins._right
