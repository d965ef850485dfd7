"""The filter: what it says of calls on every architecture, by a small machine of our own, and what the kernel does."""

import errno
import struct

import pytest

from functions.worker import seccomp
from tests.sandboxes import both, sandboxes

ALLOWED, KILLED = seccomp.ALLOW, seccomp.KILL
EPERM, ENOSYS = seccomp.REFUSE | errno.EPERM, seccomp.REFUSE | errno.ENOSYS
GETPID = {"x86_64": 39, "aarch64": 172, "riscv64": 172, "arm": 20}
READ = {"x86_64": 0, "aarch64": 63, "riscv64": 63, "arm": 3}
machines = pytest.mark.parametrize("machine", list(seccomp.ARCHITECTURES))


def verdict(
    machine: str, number: int, *arguments: int, architecture: int | None = None, stream_only: bool = False
) -> int:
    """What the filter returns for a call, by the definition of classic BPF."""
    own = seccomp.ARCHITECTURES[machine][0]
    data = struct.pack("=iIQ", number, own if architecture is None else architecture, 0)
    data += struct.pack("=6Q", *arguments, *[0] * (6 - len(arguments)))
    program = list(struct.iter_unpack("=HBBI", seccomp.program(machine, stream_only)))
    at = accumulator = 0
    while True:
        code, when_true, when_false, constant = program[at]
        at += 1
        if code == seccomp.LOAD:
            [accumulator] = struct.unpack_from("=I", data, constant)
        elif code == seccomp.AND:
            accumulator &= constant
        elif code == seccomp.RETURN:
            return int(constant)
        else:
            holds = {
                seccomp.EQUAL: accumulator == constant,
                seccomp.AT_LEAST: accumulator >= constant,
                seccomp.ANY_BIT: accumulator & constant != 0,
            }[code]
            at += when_true if holds else when_false


def number(call: tuple[int, int, int], machine: str) -> int:
    return call[seccomp.ARCHITECTURES[machine][1]]


@machines
def test_what_every_program_does_is_allowed(machine: str) -> None:
    for call in (GETPID[machine], READ[machine]):
        assert verdict(machine, call) == ALLOWED


@machines
def test_every_call_of_the_list_is_refused(machine: str) -> None:
    numbers = {name: number(call, machine) for name, call in seccomp.REFUSED.items()}
    assert {name for name, call in numbers.items() if call and verdict(machine, call) != EPERM} == set()
    assert len(set(numbers.values()) - {0}) == len([call for call in numbers.values() if call])


@machines
def test_calls_by_another_architectures_rules_kill(machine: str) -> None:
    for architecture, _ in seccomp.ARCHITECTURES.values():
        killed = architecture != seccomp.ARCHITECTURES[machine][0]
        assert verdict(machine, GETPID[machine], architecture=architecture) == (KILLED if killed else ALLOWED)
    assert verdict(machine, GETPID[machine], architecture=0x4000_0003) == KILLED  # i386


def test_calls_of_x32_kill() -> None:
    assert verdict("x86_64", seccomp.X32 | 39) == KILLED
    assert verdict("x86_64", -1) == KILLED


@machines
def test_a_clone_makes_threads_and_processes_and_no_namespaces(machine: str) -> None:
    clone = number(seccomp.CLONE, machine)
    assert verdict(machine, clone, 0x11) == ALLOWED  # fork
    assert verdict(machine, clone, 0x3D0F00) == ALLOWED  # a thread, by glibc
    for bit in (17, 25, 26, 27, 28, 29, 30):  # mount, cgroup, UTS, IPC, user, process, network
        assert verdict(machine, clone, 0x11 | 1 << bit) == EPERM
    assert verdict(machine, number(seccomp.CLONE3, machine)) == ENOSYS


@machines
def test_sockets_are_local_or_of_the_internet_or_ask_for_routes(machine: str) -> None:
    call = number(seccomp.SOCKET, machine)
    stream, datagram, raw, cloexec = 1, 2, 3, 0o2000000
    for family in range(50):
        allowed = ALLOWED if family in (1, 2, 10, 16) else EPERM
        assert verdict(machine, call, family, stream) == allowed
        assert verdict(machine, call, family, datagram | cloexec) == allowed
    assert verdict(machine, call, 16, raw, 0) == ALLOWED
    assert verdict(machine, call, 16, raw, 9) == EPERM  # audit
    assert verdict(machine, call, 2, stream | cloexec, stream_only=True) == ALLOWED
    assert verdict(machine, call, 10, stream, stream_only=True) == ALLOWED
    assert verdict(machine, call, 1, datagram, stream_only=True) == ALLOWED
    for family, kind in ((2, datagram), (10, datagram | cloexec), (2, raw), (16, raw), (17, raw)):
        assert verdict(machine, call, family, kind, stream_only=True) == EPERM


@machines
def test_a_personality_can_be_asked_for_and_input_cannot_be_injected(machine: str) -> None:
    personality, ioctl = number(seccomp.PERSONALITY, machine), number(seccomp.IOCTL, machine)
    assert verdict(machine, personality, 0xFFFF_FFFF) == ALLOWED
    assert verdict(machine, personality, 0) == ALLOWED
    assert verdict(machine, personality, 0x40000) == EPERM  # no address randomization
    assert verdict(machine, ioctl, 0, 0x5401) == ALLOWED  # TCGETS
    assert verdict(machine, ioctl, 0, 0x5412) == EPERM
    assert verdict(machine, ioctl, 0, (7 << 32) | 0x5412) == EPERM  # the kernel looks at the low word alone


@machines
def test_the_filter_fits_and_every_jump_lands_in_it(machine: str) -> None:
    program = list(struct.iter_unpack("=HBBI", seccomp.program(machine)))
    assert len(program) < 4_096  # BPF_MAXINSNS
    for at, (code, when_true, when_false, _) in enumerate(program):
        if code in (seccomp.EQUAL, seccomp.AT_LEAST, seccomp.ANY_BIT):
            assert at + 1 + max(when_true, when_false) < len(program)
    assert program[-1][0] == seccomp.RETURN


CALLS = """
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
for word in sys.argv[1:]:
    number, *arguments = (int(part) for part in word.split(","))
    result = libc.syscall(*(ctypes.c_long(part) for part in (number, *arguments)))
    print(errno.errorcode[ctypes.get_errno()] if result < 0 else "ok")
"""


@both
async def test_the_kernel_refuses_what_the_filter_says(wrapped: bool) -> None:
    machine = seccomp.own_machine()
    calls = [number(seccomp.REFUSED[name], machine) for name in ("mount", "ptrace", "bpf", "keyctl", "io_uring_setup")]
    words = [f"{call},0,0,0,0" for call in calls]
    words += [f"{number(seccomp.CLONE, machine)},{0x1000_0000 | 17},0,0,0", f"{number(seccomp.CLONE3, machine)},0,0"]
    words += [f"{number(seccomp.SOCKET, machine)},40,1,0", f"{GETPID[machine]}"]  # vsock
    async with sandboxes(wrapped=wrapped) as boxes:
        told = await boxes.says(CALLS, *words)
    assert told.split() == ["EPERM"] * 6 + ["ENOSYS", "EPERM", "ok"]


@both
async def test_a_killing_call_ends_the_worker(wrapped: bool) -> None:
    sigsys = 31
    foreign = {"x86_64": seccomp.X32 | 39}.get(seccomp.own_machine())
    async with sandboxes(wrapped=wrapped) as boxes:
        code = CALLS if foreign else "import os; os.kill(os.getpid(), 31)"
        assert (await boxes.run(code, *([str(foreign)] if foreign else []))).code == -sigsys


def test_a_machine_without_a_table_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(seccomp.ARCHITECTURES, "x86_64", (0, 0))
    for machine in list(seccomp.ARCHITECTURES):
        monkeypatch.delitem(seccomp.ARCHITECTURES, machine)
    assert "no table of system calls" in seccomp.install(stream_only=False)


async def test_process_1_of_a_sandbox_has_the_filter_too() -> None:
    """As the worker's own user it could be written into, where no Landlock keeps it apart."""
    async with sandboxes() as boxes:
        told = await boxes.says("print(*(l.split()[1] for l in open('/proc/1/status') if l.startswith('Seccomp:')))")
        assert told == "2"
