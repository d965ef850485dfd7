"""The bounds of every connection and session."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one peer may make us hold, in bytes, messages and seconds."""

    packet_bytes: int = 132 << 10  # a payload of 128 KiB (what AWS IoT allows), its topic and properties
    connect_bytes: int = 20 << 10  # before CONNECT a stranger may make us hold this much
    connect_seconds: float = 10.0  # and this long
    receive_max: int = 1_024  # unacknowledged publishes a client may have; MQTT 5 clients are told
    unsettled_bytes: int = 1 << 20  # read but not yet stored; beyond it we stop reading from this peer
    incomplete_max: int = 8_192  # QoS 2 publishes that an MQTT 3.1.1 client, which cannot be told, may leave open
    topic_aliases: int = 64  # that a client may set; a sensor has a handful of topics
    keep_alive: int = 60  # seconds at most for an MQTT 5 client, so that a dead one is known in one and a half minutes
    session_expiry: int = 30 * 86_400  # seconds at most: a client that never comes back must not be kept for ever
    sessions: int = 10_000  # whose clients are away
    subscriptions: int = 1_000  # filters of one client; AWS IoT allows 50
    queue_messages: int = 10_000  # in line for one client that is slow or away
    queue_bytes: int = 16 << 20  # and their payloads
    queues_bytes: int = 64 << 20  # payloads in all lines together, a sixteenth of the smallest box
    inflight: int = 64  # unacknowledged publishes to one client, when it allows more
