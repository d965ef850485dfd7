"""Landlock: the trees that a worker may read and write, held by the kernel for it and for all that it starts.

A second lock on the same door where bubblewrap holds, and the only one on files where it does not. What is not named
cannot be opened, whatever its mode says. Newer kernels hold more, and each is used as far as it goes: TCP ports (ABI
4), abstract sockets and signals to processes outside (ABI 6). Numbers and structures are those of linux/landlock.h.
"""

import ctypes
import os
import struct

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every architecture
RULESET_VERSION = 1  # the flag that asks for the ABI
PATH_BENEATH, NET_PORT = 1, 2  # types of rules

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REFER, TRUNCATE, IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15
READING = EXECUTE | READ_FILE | READ_DIR
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE  # the rights that a rule on a file may give
CONNECT_TCP = 1 << 1
SCOPE_ABSTRACT_SOCKETS, SCOPE_SIGNALS = 1 << 0, 1 << 1
RIGHTS = (13, 14, 15, 15, 16)  # how many rights on files ABI 1, 2, … knows; the last stands for all later ones


def restrict(readable: list[str], writable: list[str], ports: "list[int] | None" = None) -> str:
    """Allow reading and writing below these paths only, and with `ports` connecting to those alone.

    Paths that do not exist are left out. PR_SET_NO_NEW_PRIVS must be set. Returns why it does not hold, else "".
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if (abi := version()) < 1:
        return "the kernel has no Landlock, or boots without it (lsm=landlock,…)"
    handled = (1 << RIGHTS[min(abi, len(RIGHTS)) - 1]) - 1
    attributes = struct.pack("=Q", handled)
    if abi >= 4:
        attributes += struct.pack("=Q", 0 if ports is None else CONNECT_TCP)
    if abi >= 6:
        attributes += struct.pack("=Q", SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS)
    ruleset = _checked(libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    try:
        for path in readable:
            _allow(libc, ruleset, path, handled & READING)
        for path in writable:
            _allow(libc, ruleset, path, handled)
        if ports is not None and abi >= 4:
            for port in ports:
                rule = struct.pack("=QQ", CONNECT_TCP, port)
                _checked(libc.syscall(ADD_RULE, ruleset, NET_PORT, rule, 0))
        _checked(libc.syscall(RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return ""


def version() -> int:
    """The ABI of the kernel's Landlock, less than 1 where there is none."""
    return int(ctypes.CDLL(None).syscall(CREATE_RULESET, None, ctypes.c_size_t(0), RULESET_VERSION))


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(path):
            rights &= OF_FILES
        _checked(libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, struct.pack("=Qi", rights, place), 0))
    finally:
        os.close(place)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result
