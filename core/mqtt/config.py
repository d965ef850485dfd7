"""The [mqtt] table, the same in edge.toml and cloud.toml: bounds of clients and sessions that an operator may move.

See docs/configuration.md; every other bound is in `core.mqtt.limits`.
"""

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from core.config import Duration, Section, Size
from core.mqtt.limits import Limits

KEEP_ALIVE_MAX = 65_535  # what MQTT can say
DEFAULTS = Limits()


class MqttSection(Section):
    """[mqtt]: `keep_alive` caps MQTT 5 clients, `session_expiry` everybody; queues are per client."""

    keep_alive: Annotated[Duration, Field(ge=1, le=KEEP_ALIVE_MAX)] = float(DEFAULTS.keep_alive)
    session_expiry: Annotated[Duration, Field(le=2**32 - 1)] = float(DEFAULTS.session_expiry)
    sessions: Annotated[int, Field(ge=1)] = DEFAULTS.sessions
    queue_messages: Annotated[int, Field(ge=1)] = DEFAULTS.queue_messages
    queue_bytes: Size = DEFAULTS.queue_bytes

    def limits(self, base: Limits = DEFAULTS) -> Limits:
        """`base` with what the operator has set."""
        return replace(
            base,
            keep_alive=int(self.keep_alive),
            session_expiry=int(self.session_expiry),
            sessions=self.sessions,
            queue_messages=self.queue_messages,
            queue_bytes=self.queue_bytes,
        )
