"""edge.toml: what an edge daemon is told.

Decides what is accepted and the defaults; `core.config` has the shared pieces. See docs/configuration.md.
"""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from core import config
from core.config import ClientTls, ConfigPath, Duration, HostPort, Listener, Name, RulesSection, Section, Size
from core.http.config import HttpSection
from core.mqtt.config import MqttSection
from core.topics import check_filter
from devices.config import DevicesSection
from edge.lanes import Lane, Order, WhenFull
from functions.config import FunctionsSection

LANES_MAX = 64  # each has its own numbers and window; a site tells apart a handful of urgencies
LANE_BYTES_MIN = 1 << 20  # less than a few chunks is no buffer
RETRY_LIMIT_MIN = 1.0  # a fleet that tries more often than this keeps a cloud from coming back
DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}


class EdgeSection(Section):
    """[edge]: `name` tells this box from all others at the cloud."""

    name: Name
    data_dir: ConfigPath


def _filter(pattern: str) -> str:
    check_filter(pattern)
    if pattern.startswith("$share/"):
        raise ValueError(f"{pattern!r} is a shared subscription; a lane takes topic filters")
    return pattern


class LaneSection(Section):
    """[[uplink.lanes]]: see `edge.lanes` for what the words mean."""

    name: Name
    topics: Annotated[tuple[Annotated[str, AfterValidator(_filter)], ...], Field(min_length=1)]
    priority: Annotated[int, Field(ge=0, le=9)] = 1
    order: Order = Order.OLDEST_FIRST
    max_bytes: Size = 1 << 30
    max_age: Duration | None = None
    when_full: WhenFull = WhenFull.REJECT

    @field_validator("max_bytes")
    @classmethod
    def _room(cls, size: int) -> int:
        if size < LANE_BYTES_MIN:
            raise ValueError(f"{size:,} bytes is less than a lane needs ({LANE_BYTES_MIN:,})")
        return size

    def lane(self) -> Lane:
        """The lane that this table describes."""
        return Lane(
            self.name, self.topics, self.priority, self.order, self.max_bytes, self.max_age, self.when_full
        )


class UplinkSection(Section):
    """[uplink]: where messages go, and what waits how long for company on the way.

    `linger` is how long a few messages may wait for more to share a frame with; lanes of priority 0 never wait.
    `retry_limit` is the longest pause between two attempts to connect.
    """

    url: str
    tls: ClientTls = ClientTls()
    linger: Duration = 1.0
    retry_limit: Annotated[Duration, Field(ge=RETRY_LIMIT_MIN)] = 60.0
    lanes: Annotated[tuple[LaneSection, ...], Field(max_length=LANES_MAX)] = (
        LaneSection(name="all", topics=("#",)),
    )

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.username is not None:
            raise ValueError("a url holds no user name or password here; a certificate in tls says who this edge is")
        more = parts.path.strip("/") or parts.query or parts.fragment or any(map(str.isspace, url))
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname or more:
            raise ValueError(f'{url!r} is no uplink: write "mqtts://host:8883" or "mqtt://host:1883"')
        if parts.port == 0:
            raise ValueError(f"{url!r}: port 0 cannot be connected to")
        return url

    @model_validator(mode="after")
    def _distinct_lanes(self) -> "UplinkSection":
        names = [lane.name for lane in self.lanes]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"lanes need names of their own; used twice: {', '.join(doubled)}")
        if not self.secure and self.tls != ClientTls():
            raise ValueError("tls is set, but the url says mqtt://; write mqtts://")
        return self

    @property
    def secure(self) -> bool:
        """Whether the connection uses TLS."""
        return urlsplit(self.url).scheme == "mqtts"

    @property
    def address(self) -> HostPort:
        """Where to connect to."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        return HostPort(parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme])


class EdgeConfig(Section):
    """The whole file."""

    edge: EdgeSection
    listeners: Annotated[tuple[Listener, ...], Field(min_length=1)]
    rules: RulesSection | None = None
    uplink: UplinkSection | None = None
    mqtt: MqttSection = MqttSection()
    devices: DevicesSection = DevicesSection()
    http: HttpSection | None = None
    functions: FunctionsSection | None = None


def load(path: Path) -> EdgeConfig:
    """Read edge.toml; raises ConfigurationError with every fault in it."""
    return config.load(path, EdgeConfig)
