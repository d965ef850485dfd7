"""cloud.toml: what a cloud daemon is told.

Decides what is accepted and the defaults; `core.config` has the shared pieces, `cloud.targets.config` the targets. See
docs/configuration.md.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from cloud.targets.config import TargetsConfig
from core import config
from core.config import ConfigPath, Listener, RulesSection, Section
from core.http.config import HttpSection
from core.mqtt.config import MqttSection
from devices.config import DevicesSection
from functions.config import FunctionsSection


class CloudSection(Section):
    """[cloud]."""

    data_dir: ConfigPath


class CloudConfig(Section):
    """The whole file."""

    cloud: CloudSection
    listeners: Annotated[tuple[Listener, ...], Field(min_length=1)]
    rules: RulesSection | None = None
    targets: TargetsConfig = TargetsConfig()
    mqtt: MqttSection = MqttSection()
    devices: DevicesSection = DevicesSection()
    http: HttpSection | None = None
    functions: FunctionsSection | None = None


def load(path: Path) -> CloudConfig:
    """Read cloud.toml; raises ConfigurationError with every fault in it."""
    return config.load(path, CloudConfig)
