"""Randomness for what needs to differ, and not to be secret: the rules' rand(), newuuid() and traceid().

Seeded by the operating system, then without it: a message may ask a hundred times.
"""

import random


class Randomness:
    """A generator of its own, so that nobody's seed makes it repeat."""

    def __init__(self) -> None:
        self._random = random.Random()
        self.random = self._random.random

    def uuid(self) -> str:
        """A random UUID, version 4 (RFC 9562 section 5.4)."""
        digits = f"{self._random.getrandbits(128):032x}"
        variant = "89ab"[int(digits[16], 16) & 3]
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
