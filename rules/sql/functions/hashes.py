"""Hashes of Strings: the lower-case hexadecimal digest of their UTF-8.

All but MD2 come from OpenSSL, which has dropped that one: it is here, after RFC 1319. It is a thousand times
slower than the others, so what it takes is bounded. None of this protects anything; rules use it to make keys.
"""

import hashlib
from collections.abc import Callable

from rules.errors import EvaluationError
from rules.sql.functions.function import Function, of_texts

MD2_BYTES_MAX = 1_024  # 3 ms of work; keys are made of less

_BLOCK = 16
_ROUNDS = 18
_PI = bytes.fromhex(  # RFC 1319, section 3.2: a permutation of the bytes, made of the digits of pi
    "292e43c9a2d87c013d3654a1ecf0061362a705f3c0c7738c98932bd9bc4c82ca"
    "1e9b573cfdd4e01667426f188a17e512be4ec4d6da9ede49a0fbf58ebb2fee7a"
    "a968799115b2073f94c210890b225f21807f5d9a5a903227353ecce7bff79703"
    "ff1930b348a5b5d1d75e922aac56aac64fb838d296a47db676fc6be29c7404f1"
    "459d705964718720865bcf65e62da8021b6025adaeb0b9f61c46616934407e0f"
    "5547a323dd51af3ac35cf9cebac5ea262c530d6e85288409d3dfcdf441814d52"
    "6adc37c86cc1abfa24e17b080cbdb14a7888958be363e86de9cbd5fe3b001d39"
    "f2efb70e6658d0e4a67772f8eb754b0a314450b48fed1f1adb998d339f118314"
)


def md2(message: bytes) -> bytes:
    """The MD2 digest of `message`, 16 bytes (RFC 1319)."""
    padding = _BLOCK - len(message) % _BLOCK
    message += bytes([padding]) * padding
    message += _checksum(message)
    state = bytearray(3 * _BLOCK)
    for start in range(0, len(message), _BLOCK):
        block = message[start : start + _BLOCK]
        state[_BLOCK:] = block + bytes(known ^ new for known, new in zip(state, block, strict=False))
        before = 0
        for step in range(_ROUNDS):
            for at, value in enumerate(state):
                before = state[at] = value ^ _PI[before]
            before = (before + step) & 0xFF
    return bytes(state[:_BLOCK])


def _checksum(message: bytes) -> bytes:
    checksum = bytearray(_BLOCK)
    before = 0
    for start in range(0, len(message), _BLOCK):
        for at in range(_BLOCK):
            checksum[at] ^= _PI[message[start + at] ^ before]
            before = checksum[at]
    return bytes(checksum)


def _md2_hex(message: bytes) -> str:
    if len(message) > MD2_BYTES_MAX:
        raise EvaluationError(f"md2() takes at most {MD2_BYTES_MAX:,} bytes; sha256() has no such bound")
    return md2(message).hex()


def _of_utf8(digest: Callable[[bytes], str]) -> Function:
    return Function(of_texts(lambda value: digest(value.encode())), 1, 1)


def _standard(name: str) -> Function:
    return _of_utf8(lambda message: hashlib.new(name, message, usedforsecurity=False).hexdigest())


FUNCTIONS = {
    "md2": _of_utf8(_md2_hex),
    **{name: _standard(name) for name in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")},
}
