"""Wills that wait for the delay that their clients asked for (MQTT 5 section 3.1.3.2.2), or for the clients."""

from core.message import Message
from core.mqtt.access import Grant

Will = tuple[Message, Grant | None]  # with what its client was allowed


class Wills:
    """At most one will per client identifier, so as many as there are sessions; times are monotonic seconds."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[float, Will]] = {}

    def put(self, client_id: str, message: Message, grant: Grant | None, due: float) -> None:
        """Publish a will at `due` unless it is cancelled."""
        self._waiting[client_id] = due, (message, grant)

    def cancel(self, client_id: str) -> Will | None:
        """The client came back, or its session ended; returns the will that waited."""
        waiting = self._waiting.pop(client_id, None)
        return waiting[1] if waiting is not None else None

    def due(self, now: float) -> list[Will]:
        """Take out what is to be published now."""
        ready = [client_id for client_id, (due, _) in self._waiting.items() if due <= now]
        return [self._waiting.pop(client_id)[1] for client_id in ready]
