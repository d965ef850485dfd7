"""What is owed to one client: its subscriptions, and the messages on their way to it.

Decides what may be sent now (the client's Receive Maximum, a congested connection) and what must wait; the waiting line
is bounded: QoS 0 is dropped first, then the client is disconnected with "quota exceeded" (0x97). A session lives as
long as its connection for now; what survives a connection would be kept here and nowhere else.

No I/O: packets to send are handed to `send`, given with each connection.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from mqtt5 import PublishPacket, QoS

from core.message import Message
from core.mqtt.properties import arguments

WAITING_MAX = 1_000  # messages in line for one slow client, as Mosquitto's max_queued_messages
WAITING_MAX_BYTES = 16 << 20  # and their payloads: a client that never reads must not take the box's memory
SUBSCRIPTIONS_MAX = 1_000  # filters of one client; AWS IoT allows 50
INFLIGHT_MAX = 64  # unacknowledged QoS 1 publishes to one client, when it allows more


class SlowConsumer(Exception):
    """The line for this client is full: it must be disconnected with quota exceeded."""


@dataclass(slots=True, eq=False)
class Subscription:
    """One filter of one session, with the options that MQTT 5 section 3.8.3.1 gives it."""

    session: "Session"
    pattern: str
    qos: int
    no_local: bool = False
    retain_as_published: bool = False


def outgoing_packet(message: Message, qos: int, retain: bool, packet_id: int | None) -> PublishPacket:
    """The PUBLISH that carries `message` to a subscriber."""
    level = QoS.AT_LEAST_ONCE if qos else QoS.AT_MOST_ONCE
    return PublishPacket(
        message.topic,
        message.payload,
        qos=level,
        retain=retain,
        packet_id=packet_id,
        **arguments(message.properties),
    )


class Session:
    """The state of one client identifier.

    `send(packet)` queues a packet on the client's connection, and is False for one larger than the client takes;
    `congested()` says that the connection's own buffer is full, so that nothing more should be added to it now;
    `dropped(reason)` counts a message that is given up.
    """

    def __init__(
        self,
        client_id: str,
        send: Callable[[PublishPacket], bool],
        congested: Callable[[], bool],
        dropped: Callable[[str], None],
        receive_max: int,
    ) -> None:
        self.client_id = client_id
        self.subscriptions: dict[str, Subscription] = {}
        self._send = send
        self._congested = congested
        self._dropped = dropped
        self._window = min(receive_max, INFLIGHT_MAX)
        self._inflight: dict[int, PublishPacket] = {}
        self._waiting: deque[tuple[Message, int, bool]] = deque()
        self._waiting_bytes = 0
        self._last_packet_id = 0

    def deliver(self, message: Message, qos: int, retain: bool, *, bounded: bool = True) -> None:
        """Send or queue one message; raise SlowConsumer when the line is full.

        The answer to a subscription is not `bounded`: the router holds the retained messages anyway, and bounds them.
        """
        if self._waiting or self._congested() or (qos and len(self._inflight) >= self._window):
            self._wait(message, qos, retain, bounded)
        else:
            self._transmit(message, qos, retain)

    def acknowledge(self, packet_id: int) -> bool:
        """A PUBACK came; False when nothing was outstanding under that identifier."""
        if self._inflight.pop(packet_id, None) is None:
            return False
        self.resume()
        return True

    def resume(self) -> None:
        """Send what waits, as far as the window and the connection allow."""
        while self._waiting and not self._congested():
            message, qos, retain = self._waiting[0]
            if qos and len(self._inflight) >= self._window:
                return
            self._waiting.popleft()
            self._waiting_bytes -= len(message.payload)
            self._transmit(message, qos, retain)

    def _wait(self, message: Message, qos: int, retain: bool, bounded: bool) -> None:
        while bounded and (len(self._waiting) >= WAITING_MAX or self._waiting_bytes >= WAITING_MAX_BYTES):
            if qos == 0:
                self._dropped("slow subscriber")
                return
            if not self._drop_one_qos0():
                raise SlowConsumer
        self._waiting.append((message, qos, retain))
        self._waiting_bytes += len(message.payload)

    def _drop_one_qos0(self) -> bool:
        for index, (message, qos, _) in enumerate(self._waiting):
            if qos == 0:
                del self._waiting[index]
                self._waiting_bytes -= len(message.payload)
                self._dropped("slow subscriber")
                return True
        return False

    def _transmit(self, message: Message, qos: int, retain: bool) -> None:
        packet_id = None
        if qos:
            packet_id = self._next_packet_id()
        packet = outgoing_packet(message, qos, retain, packet_id)
        if self._send(packet) and packet_id is not None:
            self._inflight[packet_id] = packet

    def _next_packet_id(self) -> int:
        # The window is far smaller than the number of identifiers, so this ends after at most `window` steps.
        while True:
            self._last_packet_id = self._last_packet_id % 65_535 + 1
            if self._last_packet_id not in self._inflight:
                return self._last_packet_id
