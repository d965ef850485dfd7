"""A sensor that replays a recording over real MQTT: one client, QoS 1, and no reading forgotten.

Keeps every reading until the broker has acknowledged it: the connection is made again for ever, what was on
its way is sent again under its packet identifier with DUP (paho does that), and a reading whose PUBACK reports
a failure is published again. Will not give up; a caller that has waited long enough calls `stop`.

Invariants:
1. At most `in_flight` publishes wait for their PUBACK, fewer where a broker announces a Receive Maximum.
2. Readings are first published in their order, none before its time.
3. All of paho runs on the simulator's one thread; the public attributes may be read from any other.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Literal

import orjson
from paho.mqtt.client import Client, ConnectFlags, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from core.backoff import Backoff
from core.topics import check_name
from devices.recordings import Reading, Recording

Version = Literal[5, 311]

IN_FLIGHT = 100  # enough to hide a slow disk's commit, far below the 65,535 packet identifiers
KEEP_ALIVE_SECONDS = 10  # a broker that hangs is left after this
SESSION_EXPIRY_SECONDS = 3_600  # longer than any outage of a demo or a test
RECONNECT_SECONDS = 1.0  # the longest pause between two attempts: a person is watching
CONNECT_SECONDS = 5.0  # one attempt at a TCP connection
RETRY_SECONDS = 0.5  # before a refused reading is published again
WAKE_SECONDS = 0.05  # the longest that `stop` goes unnoticed


def at_speed(recording: Recording, speed: float) -> list[float]:
    """When each reading is due, in seconds from the start, at `speed` times real time."""
    # The hour that the recorder's clock was set back by costs no time.
    times = [datetime.fromisoformat(reading.time) for reading in recording.readings]
    due = [0.0]
    for earlier, later in pairwise(times):
        due.append(due[-1] + max(0.0, (later - earlier).total_seconds()) / speed)
    return due[: len(times)]


def at_rate(recording: Recording, rate: float) -> list[float]:
    """When each reading is due, in seconds from the start, at `rate` readings per second."""
    return [index / rate for index in range(len(recording.readings))]


def payload(reading: Reading) -> bytes:
    """What the sensor publishes for one reading: compact JSON."""
    return orjson.dumps({"reading": reading.number, "time": reading.time, "temperature": reading.value})


class Simulator:
    """One sensor, publishing to `plant/{line}/{machine}/telemetry` from a thread of its own.

    `due` says when each reading may go, in seconds from the first connection; without it, each goes as soon
    as the broker's acknowledgements let it. `on_acknowledged` is called on the simulator's thread, once per
    reading.

    `acknowledged[number]` is 1 for each reading that the broker has promised to keep (index 0 is unused);
    `published` counts the readings sent at least once, `payload_bytes` and `topic_bytes` what those took;
    `refusals` counts PUBACKs that reported a failure, `connections` the CONNACKs that reported none.

    Raises InvalidTopic for a `line` that cannot be a level of a topic.
    """

    def __init__(
        self,
        recording: Recording,
        host: str,
        port: int,
        *,
        line: str = "press-hall",
        client_id: str = "",
        version: Version = 5,
        in_flight: int = IN_FLIGHT,
        due: Sequence[float] | None = None,
        on_acknowledged: Callable[[Reading], None] | None = None,
    ) -> None:
        self.recording = recording
        self.topic = f"plant/{line}/{recording.machine}/telemetry"
        check_name(self.topic)
        self.acknowledged = bytearray(len(recording.readings) + 1)
        self.acknowledged_count = self.published = self.refusals = self.connections = 0
        self.payload_bytes = self.topic_bytes = 0
        self.last_error = ""
        self._on_acknowledged = on_acknowledged
        self._window = in_flight
        self._due = due
        self._started = 0.0
        self._outstanding: dict[int, int] = {}  # packet identifier -> index of the reading
        self._again: deque[tuple[float, int]] = deque()  # when, index of the reading
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        client_id = client_id or f"simulator-{line}-{recording.machine}"
        self._client = self._make_client(host, port, client_id, version)
        self._thread = threading.Thread(target=self._live, name=f"simulator {recording.name}", daemon=True)

    def _make_client(self, host: str, port: int, client_id: str, version: Version) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=None if version == 5 else False,
            protocol=MQTTv5 if version == 5 else MQTTv311,
            reconnect_on_failure=False,  # `_live` does, in the same way after every kind of failure
        )
        client.connect_timeout = CONNECT_SECONDS
        client.max_inflight_messages_set(0)  # `_window` is the limit
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish
        if version == 5:
            session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            session.SessionExpiryInterval = SESSION_EXPIRY_SECONDS
            client.connect_async(host, port, KEEP_ALIVE_SECONDS, clean_start=False, properties=session)
        else:
            client.connect_async(host, port, KEEP_ALIVE_SECONDS)
        return client

    # -- for other threads -----------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether every reading is acknowledged."""
        return self.acknowledged_count == len(self.recording.readings)

    def start(self) -> None:
        """Begin to connect and publish."""
        self._thread.start()

    def stop(self) -> None:
        """Publish nothing more, and disconnect; `join` waits for that."""
        self._stop.set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the simulator is done or stopped, and gone; False when `timeout` seconds were too few.

        Raises what `on_acknowledged` raised.
        """
        self._thread.join(timeout)
        if self._failure is not None:
            raise self._failure
        return not self._thread.is_alive()

    # -- on the simulator's thread ---------------------------------------------------------------------------

    def _live(self) -> None:
        backoff = Backoff(RECONNECT_SECONDS / 10, RECONNECT_SECONDS, RECONNECT_SECONDS)
        try:
            while not (self.done or self._stop.is_set()):
                self._converse(backoff)
                if not self.done:
                    self._stop.wait(backoff.failed(time.monotonic(), random.random()))
        except Exception as error:  # noqa: BLE001 - whatever the callback raised is raised again by `join`
            self._failure = error
        finally:
            self._client.disconnect()

    def _converse(self, backoff: Backoff) -> None:
        """Connect and publish until the connection is lost or nothing is left to do."""
        try:
            self._client.reconnect()
        except OSError as error:
            self.last_error = str(error)
            return
        connections = self.connections
        while self._client.loop(self._until_next()) is MQTTErrorCode.MQTT_ERR_SUCCESS:
            if self.done or self._stop.is_set():
                return
            if self.connections > connections:
                connections = self.connections
                backoff.connected(time.monotonic())
            if self._client.is_connected():
                self._publish_what_is_due()

    def _until_next(self) -> float:
        """Seconds for which there will be nothing to publish."""
        if len(self._outstanding) >= self._window or not self._client.is_connected():
            return WAKE_SECONDS
        times = [self._again[0][0]] if self._again else []
        if self.published < len(self.recording.readings):
            times.append(self._started + self._due[self.published] if self._due else 0.0)
        return min(WAKE_SECONDS, max(0.0, min(times, default=WAKE_SECONDS) - time.monotonic()))

    def _publish_what_is_due(self) -> None:
        now = time.monotonic()
        while self._again and self._again[0][0] <= now and len(self._outstanding) < self._window:
            self._publish(self._again.popleft()[1])
        while self.published < len(self.recording.readings) and len(self._outstanding) < self._window:
            if self._due and self._started + self._due[self.published] > now:
                break
            self.published += 1
            size = self._publish(self.published - 1)
            self.payload_bytes += size
            self.topic_bytes += len(self.topic)

    def _publish(self, index: int) -> int:
        data = payload(self.recording.readings[index])
        sent = self._client.publish(self.topic, data, qos=1)
        if sent.rc is MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:  # the identifiers went round to one still in use
            self._again.append((time.monotonic(), index))
        else:
            self._outstanding[sent.mid] = index
        return len(data)

    def _on_connect(
        self,
        _client: Client,
        _data: Any,
        _flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self.last_error = f"the broker refuses the connection: {reason}"
            return
        self.connections += 1
        self._started = self._started or time.monotonic()
        self._window = min(self._window, getattr(properties, "ReceiveMaximum", self._window))

    def _on_publish(
        self, _client: Client, _data: Any, packet_id: int, reason: ReasonCode, _properties: Properties
    ) -> None:
        index = self._outstanding.pop(packet_id)
        if reason.is_failure:
            self.refusals += 1
            self.last_error = f"the broker refuses a reading: {reason}"
            self._again.append((time.monotonic() + RETRY_SECONDS, index))
            return
        reading = self.recording.readings[index]
        self.acknowledged[reading.number] = 1
        self.acknowledged_count += 1
        if self._on_acknowledged is not None:
            self._on_acknowledged(reading)
