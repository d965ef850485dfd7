"""What a connection comes in through before it is a Channel: the TLS handshake, and the file of a Unix socket.

Keeps no connection and knows no MQTT; `listener` does. Certificates are verified by OpenSSL during the handshake.

Invariants:
1. A TLS context is replaced as a whole and at once: a handshake sees the old files or the new ones, and connections
   that are open never notice.
2. A handshake that may not begin ends before a byte of it is read.
3. The file of a Unix socket never has more rights than asked for, and does not outlive its listener.
4. A certificate is `vouched` for by signatures alone, whatever names are in it and above it.
"""

import _ssl
import errno
import hashlib
import os
import socket
import ssl
from asyncio import BaseTransport
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from core.config import ServerContext
from core.files import short_path
from core.mqtt.access import Certificate

# As many sessions as OpenSSL remembers for a context. A client with a certificate that is not registered, and with an
# older ticket, is refused until it shakes hands anew, two hours later at most. Takes some 4 MB.
CHAINS_MAX = 20_480


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
    key = hashlib.sha256(der).hexdigest()
    chain = _authorities_above(key, tls)
    subject, issuer = _names(fields["subject"]), _names(fields["issuer"])
    return Certificate(key, subject, issuer, fields["serialNumber"].upper(), der, chain, _vouched(chain, tls.context))


def _names(parts: tuple[tuple[tuple[str, str], ...], ...]) -> dict[str, str]:
    """By long name; of several alike the first counts."""
    return {key: value for part in reversed(parts) for key, value in reversed(part)}


def _authorities_above(key: str, tls: ssl.SSLObject) -> tuple[str, ...]:
    """The chain that OpenSSL has verified above a certificate; one that is trusted itself is its own authority.

    A resumed session has no chain (RFC 8446 section 2.2), but its ticket is of this context, which saw one.
    """
    context = tls.context
    seen = context.chains if isinstance(context, ServerContext) else {}
    if tls.session_reused:
        return seen.get(key, ())
    ders = _verified_chain(tls)
    chain = tuple(map(_id, ders[1:] or ders))
    seen.pop(key, None)
    if len(seen) >= CHAINS_MAX:
        del seen[next(iter(seen))]
    seen[key] = chain
    return chain


def _verified_chain(tls: Any) -> list[bytes]:
    if hasattr(tls, "get_verified_chain"):
        return list(tls.get_verified_chain())
    return [each.public_bytes(_ssl.ENCODING_DER) for each in tls._sslobj.get_verified_chain() or ()]  # before 3.13


@lru_cache(64)  # there are few authorities, and as many chains in memory as there are clients
def _id(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()


def _vouched(chain: tuple[str, ...], context: ssl.SSLContext) -> bool:
    if not chain or not isinstance(context, ServerContext):
        return False
    return chain[-1] in context.vouching and context.added.isdisjoint(chain)


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
