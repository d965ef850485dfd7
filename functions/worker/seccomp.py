"""The system calls that no handler needs: a filter in classic BPF, assembled here, that refuses them with EPERM.

A list of what is refused, not of what is allowed, because runtimes that nobody has seen yet must work. It holds what
changes the machine, reaches into other processes, or opens the parts of the kernel where most faults were found:
mounts, namespaces, tracing, modules, BPF, keys, io_uring, clocks, NUMA, handles; and memory that can be held without
being mapped, which no limit counts: memfds, segments and queues of System V. Of calls with arguments: sockets are
UNIX, IPv4, IPv6 and routing information; a clone makes no namespace; terminals take no injected input; limits are
one's own.

A call by another architecture's rules (32-bit calls of a 64-bit process, x32) kills: the numbers mean other calls
there. Numbers are those of the kernel's tables; a machine that is not in `ARCHITECTURES` has no filter and says so.
"""

import ctypes
import os
import struct
import sys

EPERM, ENOSYS = 1, 38
KILL, REFUSE, ALLOW = 0x8000_0000, 0x0005_0000, 0x7FFF_0000  # seccomp(2): KILL_PROCESS, ERRNO and a number, ALLOW
LOAD, AND, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06  # ld [k], and, jeq, jge, jset, ret
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16  # in struct seccomp_data; an argument has 8 bytes, low word first
X32 = 0x4000_0000
NEW_NAMESPACES = 0x7E02_0000  # the CLONE_NEW* flags that clone(2) takes
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, NETLINK_ROUTE = 1, 2, 10, 16, 0
SOCK_STREAM, SOCK_TYPE_MASK = 1, 0xF
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
PERSONALITY_QUERY, PERSONALITY_LINUX = 0xFFFF_FFFF, 0
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2

# machine → AUDIT_ARCH_* of linux/audit.h, and the column of the tables
ARCHITECTURES = {
    "x86_64": (0xC000_003E, 0),
    "aarch64": (0xC000_00B7, 1),
    "riscv64": (0xC000_00F3, 1),
    "arm": (0x4000_0028, 2),
}

# Numbers on x86-64, on 64-bit ARM and RISC-V, and on 32-bit ARM; 0 where there is no such call.
REFUSED = {
    "acct": (163, 89, 51),
    "add_key": (248, 217, 309),
    "adjtimex": (159, 171, 124),
    "bpf": (321, 280, 386),
    "chroot": (161, 51, 61),
    "clock_adjtime": (305, 266, 372),
    "clock_adjtime64": (0, 0, 405),
    "clock_settime": (227, 112, 262),
    "clock_settime64": (0, 0, 404),
    "create_module": (174, 0, 0),
    "delete_module": (176, 106, 129),
    "fanotify_init": (300, 262, 367),
    "finit_module": (313, 273, 379),
    "fsconfig": (431, 431, 431),
    "fsmount": (432, 432, 432),
    "fsopen": (430, 430, 430),
    "fspick": (433, 433, 433),
    "get_kernel_syms": (177, 0, 0),
    "init_module": (175, 105, 128),
    "io_uring_enter": (426, 426, 426),
    "io_uring_register": (427, 427, 427),
    "io_uring_setup": (425, 425, 425),
    "ioperm": (173, 0, 0),
    "iopl": (172, 0, 0),
    "kcmp": (312, 272, 378),
    "kexec_file_load": (320, 294, 401),
    "kexec_load": (246, 104, 347),
    "keyctl": (250, 219, 311),
    "listmount": (458, 458, 458),
    "lookup_dcookie": (212, 18, 249),
    "mbind": (237, 235, 319),
    "memfd_create": (319, 279, 385),
    "memfd_secret": (447, 447, 0),
    "migrate_pages": (256, 238, 400),
    "modify_ldt": (154, 0, 0),
    "mount": (165, 40, 21),
    "mount_setattr": (442, 442, 442),
    "move_mount": (429, 429, 429),
    "move_pages": (279, 239, 344),
    "msgget": (68, 186, 303),
    "name_to_handle_at": (303, 264, 370),
    "nfsservctl": (180, 42, 169),
    "open_by_handle_at": (304, 265, 371),
    "open_tree": (428, 428, 428),
    "open_tree_attr": (467, 467, 467),
    "perf_event_open": (298, 241, 364),
    "pidfd_getfd": (438, 438, 438),
    "pivot_root": (155, 41, 218),
    "process_madvise": (440, 440, 440),
    "process_vm_readv": (310, 270, 376),
    "process_vm_writev": (311, 271, 377),
    "ptrace": (101, 117, 26),
    "query_module": (178, 0, 0),
    "quotactl": (179, 60, 131),
    "quotactl_fd": (443, 443, 443),
    "reboot": (169, 142, 88),
    "request_key": (249, 218, 310),
    "set_mempolicy": (238, 237, 321),
    "set_mempolicy_home_node": (450, 450, 450),
    "setdomainname": (171, 162, 121),
    "sethostname": (170, 161, 74),
    "setns": (308, 268, 375),
    "settimeofday": (164, 170, 79),
    "shmget": (29, 194, 307),
    "statmount": (457, 457, 457),
    "swapoff": (168, 225, 115),
    "swapon": (167, 224, 87),
    "sysctl": (156, 0, 149),
    "sysfs": (139, 0, 135),
    "syslog": (103, 116, 103),
    "umount2": (166, 39, 52),
    "unshare": (272, 97, 337),
    "uselib": (134, 0, 86),
    "userfaultfd": (323, 282, 388),
    "ustat": (136, 0, 62),
    "vhangup": (153, 58, 111),
}
CLONE, CLONE3, PERSONALITY = (56, 220, 120), (435, 435, 435), (135, 92, 136)
SOCKET, IOCTL, PRLIMIT = (41, 198, 281), (16, 29, 54), (302, 261, 369)


def install(stream_only: bool, files_shared: bool = False) -> str:
    """Put the filter on this process and all that it starts. Returns why there is none, else "".

    `stream_only` refuses datagrams and routing information too: for a worker that is to have no network and has no
    network namespace of its own either. `files_shared` refuses UNIX sockets but pairs: for one that sees the machine's
    own files, the daemon's sockets among them, which Landlock does not keep anybody from connecting to.
    """
    if (machine := own_machine()) not in ARCHITECTURES:
        return f"no table of system calls for {machine}"
    code = ctypes.create_string_buffer(program(machine, stream_only, files_shared))
    length = (len(code) - 1) // 8
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, struct.pack("HP", length, ctypes.addressof(code)), 0, 0):
        return f"the kernel takes no filter: {os.strerror(ctypes.get_errno())}"
    return ""


def own_machine() -> str:
    """The machine that this process is built for: 32-bit ARM may well run on a 64-bit kernel."""
    machine = os.uname().machine
    return "arm" if machine.startswith("arm") or (machine == "aarch64" and sys.maxsize < 1 << 32) else machine


def program(machine: str, stream_only: bool = False, files_shared: bool = False) -> bytes:
    """The filter for a machine of `ARCHITECTURES`, as the kernel takes it: struct sock_filter, 8 bytes each."""
    architecture, column = ARCHITECTURES[machine]
    refuse = _return(REFUSE | EPERM)
    code = [_load(ARCHITECTURE_AT), _jump(EQUAL, architecture, 1, 0), _return(KILL), _load(NUMBER_AT)]
    if machine == "x86_64":
        code += [_jump(AT_LEAST, X32, 0, 1), _return(KILL)]
    for numbers in REFUSED.values():
        if numbers[column]:
            code += [_jump(EQUAL, numbers[column], 0, 1), refuse]
    code += [_jump(EQUAL, CLONE3[column], 0, 1), _return(REFUSE | ENOSYS)]  # the C library falls back to clone
    code += _call(CLONE[column], [_argument(0), _jump(ANY_BIT, NEW_NAMESPACES, 0, 1), refuse])
    code += _call(IOCTL[column], [_argument(1), _jump(EQUAL, TIOCSTI, 1, 0), _jump(EQUAL, TIOCLINUX, 0, 1), refuse])
    code += _call(PERSONALITY[column], [_argument(0), *_allow(PERSONALITY_QUERY, PERSONALITY_LINUX), refuse])
    code += _call(PRLIMIT[column], [_argument(0), *_allow(0), refuse])
    unix = () if files_shared else (AF_UNIX,)
    code += _call(SOCKET[column], [*(_stream_sockets(unix) if stream_only else _sockets(unix)), refuse])
    return b"".join([*code, _return(ALLOW)])


def _sockets(unix: tuple[int, ...]) -> list[bytes]:
    return [
        _argument(0),
        *_allow(*unix, AF_INET, AF_INET6),
        _jump(EQUAL, AF_NETLINK, 0, 3),
        _argument(2),
        *_allow(NETLINK_ROUTE),
    ]


def _stream_sockets(unix: tuple[int, ...]) -> list[bytes]:
    of_internet = [_argument(1), _instruction(AND, SOCK_TYPE_MASK), *_allow(SOCK_STREAM)]
    return [
        _argument(0),
        *_allow(*unix),
        _jump(EQUAL, AF_INET, 1, 0),
        _jump(EQUAL, AF_INET6, 0, len(of_internet)),
        *of_internet,
    ]


def _call(number: int, block: list[bytes]) -> list[bytes]:
    """A block for one call, which is allowed when the block comes to its end without a return."""
    return [_jump(EQUAL, number, 0, len(block) + 1), *block, _return(ALLOW)]


def _allow(*values: int) -> list[bytes]:
    return [part for value in values for part in (_jump(EQUAL, value, 0, 1), _return(ALLOW))]


def _argument(index: int) -> bytes:
    """Load the low word of an argument; the kernel itself looks at no more of those that are compared here."""
    return _load(ARGUMENTS_AT + 8 * index)


def _load(offset: int) -> bytes:
    return _instruction(LOAD, offset)


def _return(verdict: int) -> bytes:
    return _instruction(RETURN, verdict)


def _jump(code: int, constant: int, when_true: int, when_false: int) -> bytes:
    """Skip so many instructions when the comparison holds, and so many when not."""
    return _instruction(code, constant, when_true, when_false)


def _instruction(code: int, constant: int, when_true: int = 0, when_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, when_true, when_false, constant)
