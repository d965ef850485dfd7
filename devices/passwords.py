"""Passwords of devices, kept as Argon2id hashes (RFC 9106) in the PHC string format.

A verification takes about 20 MB and 50 ms of a core: callers run it in a thread, few at a time, and remember a success.
Will not decide who may use a password, nor how often (`devices.access`).
"""

import os

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from core.errors import TidegateError

# The first of the equivalent settings that OWASP's password storage cheat sheet recommends; a 1 GB box affords it.
MEMORY_KIB = 19 * 1024
ITERATIONS = 2
LANES = 1
SALT_BYTES = 16
HASH_BYTES = 32

PASSWORD_BYTES_MAX = 1_024  # MQTT allows 65,535; no person and no generator makes one longer than this


def hash(password: bytes) -> str:  # noqa: A001 - `passwords.hash` and `passwords.verify` are what everyone calls them
    """A salted hash to keep instead of the password. Raises TidegateError for an empty or an overlong one."""
    if not 0 < len(password) <= PASSWORD_BYTES_MAX:
        raise TidegateError(f"a password has 1 to {PASSWORD_BYTES_MAX:,} bytes; this one has {len(password):,}")
    salt = os.urandom(SALT_BYTES)
    kdf = Argon2id(salt=salt, length=HASH_BYTES, iterations=ITERATIONS, lanes=LANES, memory_cost=MEMORY_KIB)
    return kdf.derive_phc_encoded(password)


def verify(phc: str, password: bytes) -> bool:
    """Whether the password is the one that was hashed; False too for a hash that cannot be read."""
    if len(password) > PASSWORD_BYTES_MAX:
        return False
    try:
        Argon2id.verify_phc_encoded(password, phc)
    except InvalidKey:
        return False
    return True
