"""The fields of one packet's body, read in order: what MQTT 5 and 3.1.1 write alike (section 1.5 of both)."""

from core.mqtt.errors import MalformedPacket

MALFORMED = 0x81


class Body:
    """A packet without its fixed header, and how far it has been read; every read may raise MalformedPacket."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        start = self._at
        self._at += count
        if self._at > len(self._data):
            raise MalformedPacket(MALFORMED, "a field reaches beyond the end of its packet")
        return self._data[start : self._at]

    def byte(self) -> int:
        """A byte as a number."""
        return self.take(1)[0]

    def short(self) -> int:
        """A number of two bytes."""
        return int.from_bytes(self.take(2), "big")

    def variable(self) -> int:
        """A number of one to four bytes, seven bits in each."""
        value = 0
        for position in range(4):
            byte = self.byte()
            value |= (byte & 0x7F) << (7 * position)
            if byte < 0x80:
                return value
        raise MalformedPacket(MALFORMED, "a variable byte integer takes more than four bytes")

    def binary(self) -> bytes:
        """Bytes behind their length."""
        return self.take(self.short())

    def text(self) -> str:
        """A string behind its length."""
        return utf8(self.binary())

    def packet_id(self) -> int:
        """A packet identifier, which is never 0 (section 2.2.1; in MQTT 3.1.1 section 2.3.1)."""
        if packet_id := self.short():
            return packet_id
        raise MalformedPacket(MALFORMED, "packet identifier 0")

    def left(self) -> int:
        """How many bytes have not been read."""
        return len(self._data) - self._at

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.left())

    def done(self) -> None:
        """Nothing may be left."""
        if self.left():
            raise MalformedPacket(MALFORMED, f"{self.left()} bytes behind the end of the packet's fields")


def utf8(data: bytes) -> str:
    """The string that `data` spells; Python's decoder refuses surrogates and overlong forms as section 1.5 demands."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise MalformedPacket(MALFORMED, "a string is not UTF-8") from None
