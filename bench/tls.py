"""TLS for the load generator, cheaper than a broker's.

Mosquitto sends each PUBACK in a TLS record of its own, and an `ssl.SSLSocket` asks the kernel twice for each record, so
that the generator would be slower than the broker. Here a read takes all that the kernel has and opens the records in
memory.
"""

import socket
import ssl
from contextlib import suppress

RECORD_BYTES = 1 << 14  # the most that a TLS record holds (RFC 8446 section 5.1)
HANDSHAKE_READ_BYTES = 1 << 16


class TlsSocket:
    """The few methods of a socket that the generator needs, over one that is connected and has a timeout.

    `send` waits until the kernel has taken everything, `recv` for a whole record: call it when a selector says so.
    Raises ssl.SSLError and OSError as sockets do.
    """

    def __init__(self, connection: socket.socket, context: ssl.SSLContext, server_name: str) -> None:
        self._connection = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
        while not self._shake_hands():
            self._incoming.write(self._read(HANDSHAKE_READ_BYTES))

    def _shake_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self._connection.sendall(self._outgoing.read())
        return True

    def _read(self, size: int) -> bytes:
        data = self._connection.recv(size)
        if not data:
            raise ConnectionResetError("closed by the broker")
        return data

    def recv(self, size: int) -> bytes:
        """What a read of `size` bytes holds, opened; more is read when that is no whole record, or TLS's own."""
        records = list[bytes]()
        while not records:
            self._incoming.write(self._read(size))
            with suppress(ssl.SSLWantReadError):
                while True:
                    records.append(self._tls.read(RECORD_BYTES))
        return b"".join(records)

    def sendall(self, data: bytes | bytearray | memoryview) -> None:
        """Send it in as few records as possible."""
        for start in range(0, len(data), RECORD_BYTES):
            self._tls.write(data[start : start + RECORD_BYTES])
        self._connection.sendall(self._outgoing.read())

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """The same; how much was sent, which is all."""
        self.sendall(data)
        return len(data)

    def fileno(self) -> int:
        """The descriptor, for a selector."""
        return self._connection.fileno()

    def close(self) -> None:
        """Close the socket, without a word of TLS."""
        self._connection.close()

    def __enter__(self) -> "TlsSocket":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
