"""What a connection comes in through before it is a Channel: the TLS handshake, and the file of a Unix socket.

Keeps no connection and knows no MQTT; `listener` does. Certificates are verified by OpenSSL during the handshake.

Invariants:
1. A TLS context is replaced as a whole and at once: a handshake sees the old files or the new ones, and connections
   that are open never notice.
2. A handshake that may not begin ends before a byte of it is read.
3. The file of a Unix socket never has more rights than asked for, and does not outlive its listener.
"""

import errno
import hashlib
import os
import socket
import ssl
from asyncio import BaseTransport
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from core.files import short_path
from core.mqtt.access import Certificate


class Door(ssl.SSLContext):
    """The context that an event loop is given for a listener; each handshake is one of `current`."""

    current: ssl.SSLContext
    may_enter: Callable[[], bool]

    @classmethod
    def around(cls, context: ssl.SSLContext, may_enter: Callable[[], bool]) -> "Door":
        """Handshakes of `context`, as long as `may_enter()` when they begin."""
        door = cls(ssl.PROTOCOL_TLS_SERVER)
        door.current, door.may_enter = context, may_enter
        return door

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        """Begin a handshake; event loops call this once for each connection."""
        return (self.current if self.may_enter() else _shut()).wrap_bio(*arguments, **named)


class _Refusal(ssl.SSLObject):
    def do_handshake(self) -> None:
        raise ssl.SSLError("too many handshakes")  # an OSError, which event loops take for a peer that went away


def _shut() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _Refusal
    return context


def certificate_of(transport: BaseTransport) -> Certificate | None:
    """The verified certificate that the peer has shown; None without TLS, and where it has shown none."""
    tls = transport.get_extra_info("ssl_object")
    fields = tls.getpeercert() if tls is not None else None
    if not fields:
        return None
    der = tls.getpeercert(binary_form=True)
    subject, issuer = _names(fields["subject"]), _names(fields["issuer"])
    return Certificate(hashlib.sha256(der).hexdigest(), subject, issuer, fields["serialNumber"].upper(), der)


def _names(parts: tuple[tuple[tuple[str, str], ...], ...]) -> dict[str, str]:
    """By long name; of several alike the first counts."""
    return {key: value for part in reversed(parts) for key, value in reversed(part)}


@contextmanager
def unix_socket(path: Path, mode: int) -> Iterator[socket.socket]:
    """A bound Unix socket with a file of that mode, which is removed at the end. Raises OSError.

    The file of a daemon that was killed is taken over, that of one that still answers is not. Paths of any length work.
    """
    kind = socket.SOCK_STREAM | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_UNIX, kind) as listening, short_path(path) as address:
        if path.is_socket():
            if _answers(address):
                raise OSError(errno.EADDRINUSE, "another process listens there")
            path.unlink()
        elif path.exists():
            raise OSError(errno.EEXIST, "there is a file that is no socket; remove it or choose another path")
        os.fchmod(listening.fileno(), mode)  # before bind: the file begins with these bits, less the umask
        listening.bind(address)
        path.chmod(mode)
        try:
            yield listening
        finally:
            with suppress(OSError):  # its directory may have gone first
                path.unlink()


def _answers(address: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
        client.setblocking(False)
        try:
            client.connect(address)
        except BlockingIOError:  # its backlog is full
            return True
        except OSError:
            return False
        return True
