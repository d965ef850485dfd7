"""TLS between two contexts in memory: what two sides make of each other's certificates, without a socket."""

import ssl
from typing import Any


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, server_name: str) -> dict[str, Any]:
    """The client's certificate as the server sees it. Raises ssl.SSLError when one of them refuses the other."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname=server_name),
    ]
    waiting = list(sides)
    for _ in range(10):  # flights of a handshake, with room to spare
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass
    assert not waiting
    return sides[0].getpeercert() or {}
