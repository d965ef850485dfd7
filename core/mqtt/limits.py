"""The bounds of every connection."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one peer may make us hold, in bytes, messages and seconds."""

    packet_bytes: int = 132 << 10  # a payload of 128 KiB (what AWS IoT allows), its topic and properties
    connect_bytes: int = 20 << 10  # before CONNECT a stranger may make us hold this much
    connect_seconds: float = 10.0  # and this long
    receive_max: int = 1_024  # unacknowledged publishes a client may have; MQTT 5 clients are told
    unsettled_bytes: int = 1 << 20  # read but not yet stored; beyond it we stop reading from this peer
