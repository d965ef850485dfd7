"""Frames between the daemon and a Python worker, on a Unix stream socket; both ends share this module.

    u32 size of what follows, little-endian · u8 kind · body

To the worker goes EVENT: u8 u16 u16 u32, the lengths of request id, ARN, trace id and client context, then these four
and the payload to the end. From the worker come READY (empty) or INIT_ERROR (Lambda's error object), then per event
any number of STDOUT and STDERR (bytes of the stream) and one RESULT or ERROR: u8 length of the request id, the id, the
result or the error object. FATAL (a text) comes before a worker ends by itself. Texts are UTF-8.

Invariants: a frame has at most FRAME_BYTES_MAX after its size; whoever announces more, or nothing, is not believed.
Imports nothing of ours, for it is loaded under two names.
"""

from __future__ import annotations

import struct

RESULT_BYTES_MAX = 6_291_556  # what Lambda takes as a result: 6 MiB and a little
OUTPUT_BYTES_MAX = 64 << 10  # of one STDOUT or STDERR frame
FRAME_BYTES_MAX = RESULT_BYTES_MAX + (128 << 10)  # the largest payload, with a client context and names

EVENT = 1
READY, INIT_ERROR, STDOUT, STDERR, RESULT, ERROR, FATAL = range(16, 23)

_HEAD = struct.Struct("<IB")
_EVENT = struct.Struct("<BHHI")
_ANSWER = struct.Struct("<IBB")


def frame(kind: int, body: bytes = b"") -> bytes:
    """One frame."""
    return _HEAD.pack(1 + len(body), kind) + body


def event(request_id: bytes, arn: bytes, trace_id: bytes, client_context: bytes, payload: bytes) -> bytes:
    """An EVENT frame."""
    lengths = _EVENT.pack(len(request_id), len(arn), len(trace_id), len(client_context))
    size = 1 + len(lengths) + len(request_id) + len(arn) + len(trace_id) + len(client_context) + len(payload)
    return b"".join((_HEAD.pack(size, EVENT), lengths, request_id, arn, trace_id, client_context, payload))


def split_event(body: bytes) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """Request id, ARN, trace id, client context and payload of an EVENT; the daemon is believed."""
    a, b, c, d = _EVENT.unpack_from(body)
    a += _EVENT.size
    b += a
    c += b
    d += c
    return body[_EVENT.size : a], body[a:b], body[b:c], body[c:d], body[d:]


def answer(kind: int, request_id: bytes, payload: bytes) -> bytes:
    """A RESULT or ERROR frame."""
    return _ANSWER.pack(2 + len(request_id) + len(payload), kind, len(request_id)) + request_id + payload


class Splitter:
    """Cuts a stream of bytes into frames. After a frame of a wrong size `fault` says so, and nothing more comes."""

    __slots__ = ("_need", "_rest", "fault")

    def __init__(self) -> None:
        self.fault = ""
        self._rest = bytearray()
        self._need = _HEAD.size

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames (kind, body) that are complete with these bytes."""
        if self.fault:
            return []
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need:  # a large frame is copied once, not with every read
                return []
            data = bytes(self._rest)
            self._rest.clear()
        frames: list[tuple[int, bytes]] = []
        position, end, unpack, need = 0, len(data), _HEAD.unpack_from, _HEAD.size
        while end - position >= _HEAD.size:
            size, kind = unpack(data, position)
            if not 0 < size <= FRAME_BYTES_MAX:
                self.fault = f"a frame of {size:,} bytes"
                return frames
            if end - position < size + 4:
                need = size + 4
                break
            frames.append((kind, data[position + 5 : position + 4 + size]))
            position += size + 4
        self._need = need
        self._rest += data[position:]
        return frames
