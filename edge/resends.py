"""Tells a publish that a device sends again, because a crash swallowed our PUBACK, from a new message.

Between the commit of a message and its PUBACK lies a moment. When the daemon is killed in it, the device sends the
message again with the DUP flag (MQTT 5 section 4.4), and without this module it would be stored twice. So every
commit records what it acknowledges: client identifier, packet identifier and a digest of topic and payload. After a
start, a publish is taken for a resend when all of this holds:

1. it has the DUP flag, and comes from a client whose records were written before this start;
2. its packet identifier was recorded with the same digest, within `REMEMBERED_MS` before the last commit;
3. that client counts its publishes: its records hold two packet identifiers or one beyond `FRESH_IDS`, and this one
   once. A client that uses identifiers again that soon, or begins anew for each message, cannot be told apart from
   itself, and gets what MQTT promises it, at least once.

What is left is a client that counts to less than what it sends in those ten seconds, repeats topic and payload to the
letter under the same identifier, and meets a crash in between: one of the two is kept.

A record serves once. Nothing is kept about messages of the running process: as long as it lives, it knows which PUBACKs
it has sent, and MQTT forbids it to guess after that (section 4.3.2).
"""

import struct
from collections import Counter
from collections.abc import Container, Iterable
from zlib import crc32

from core.message import Message
from core.receipts import Batch

REMEMBERED_MS = 10_000  # longer than a PUBACK is under way, shorter than a client takes to use 65,535 identifiers
FRESH_IDS = 16  # what a client that connects anew for each message may have used for its subscriptions before it
PER_CLIENT_MAX = 2_048  # twice the publishes that a client may have in flight (Limits.receive_max)
_ENTRY = struct.Struct("<HI")


def digest(message: Message) -> int:
    """CRC-32 of topic and payload; with the packet identifier it tells a client's recent messages apart."""
    return crc32(message.payload, crc32(message.topic.encode()))


class Records:
    """What one commit acknowledges, as it is written with the commit."""

    def __init__(self) -> None:
        self._clients: dict[str, bytearray] = {}

    def __bool__(self) -> bool:
        return bool(self._clients)

    def add(self, batch: Batch, skip: Container[int]) -> None:
        """Record the QoS 1 messages of a batch (those with a packet identifier), but for the indexes in `skip`."""
        if batch.packet_ids is None or not any(batch.packet_ids):
            return
        fields: list[int] = []
        topics: dict[str, int] = {}  # the part of `digest` that a batch's messages share
        for index, (packet_id, message) in enumerate(zip(batch.packet_ids, batch.messages, strict=True)):
            if packet_id and index not in skip:
                topic = topics.get(message.topic)
                if topic is None:
                    topic = topics[message.topic] = crc32(message.topic.encode())
                fields += packet_id, crc32(message.payload, topic)
        entries = self._clients.setdefault(batch.client_id, bytearray())
        entries += struct.pack("<" + "HI" * (len(fields) // 2), *fields)

    def encode(self) -> bytes:
        """One blob: per client u16 length, name, u32 length, entries of (u16 packet id, u32 digest)."""
        parts = []
        for client_id, entries in self._clients.items():
            name = client_id.encode()
            parts += [struct.pack("<H", len(name)), name, struct.pack("<I", len(entries)), bytes(entries)]
        return b"".join(parts)


class Resends:
    """The records of the time before this start."""

    def __init__(self, blobs: Iterable[bytes]) -> None:
        entries: dict[str, bytearray] = {}
        for blob in blobs:
            for client_id, more in _split(blob):
                kept = entries.setdefault(client_id, bytearray())
                kept += more
                del kept[: -PER_CLIENT_MAX * _ENTRY.size]
        known = ((client_id, _unambiguous(bytes(data))) for client_id, data in entries.items())
        self._clients = {client_id: found for client_id, found in known if found}

    def __bool__(self) -> bool:
        return bool(self._clients)

    def recognise(self, client_id: str, packet_id: int, message: Message) -> bool:
        """Whether this publish with the DUP flag was committed before this start; says yes once for each."""
        known = self._clients.get(client_id)
        if known is None or known.get(packet_id) != digest(message):
            return False
        del known[packet_id]
        if not known:
            del self._clients[client_id]
        return True


def _split(blob: bytes) -> Iterable[tuple[str, bytes]]:
    offset = 0
    while offset < len(blob):
        (length,) = struct.unpack_from("<H", blob, offset)
        client_id = blob[offset + 2 : offset + 2 + length].decode()
        offset += 2 + length
        (length,) = struct.unpack_from("<I", blob, offset)
        yield client_id, blob[offset + 4 : offset + 4 + length]
        offset += 4 + length


def _unambiguous(entries: bytes) -> dict[int, int]:
    found = list(_ENTRY.iter_unpack(entries))
    uses = Counter(packet_id for packet_id, _ in found)
    if len(uses) == 1 and max(uses) <= FRESH_IDS:
        return {}
    return {packet_id: value for packet_id, value in found if uses[packet_id] == 1}
