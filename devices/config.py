"""The [devices] table, the same in edge.toml and cloud.toml: where identities are kept and what they may do by default.

Decides what is accepted and the defaults; see docs/configuration.md.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from core.config import ConfigPath, Name, Section

DEFAULT_POLICY = "default"
POLICIES_MAX = 10  # attached to one device, as at AWS
AUTHORITIES_MAX = 10  # vendors whose devices come with certificates
REVOCATION_LISTS_MAX = 100
CERTIFICATE_DAYS_MAX = 36_500  # a hundred years; without the key certificates do not expire at all


class RegistrationAuthority(Section):
    """One of `registration_authorities`: whose certificates are registered when they are first seen.

    `template` is the provisioning template that makes the device; without it a certificate waits for
    `tidegate devices activate`.
    """

    ca: ConfigPath
    template: Name | None = None


class DevicesSection(Section):
    """[devices]: `directory` is `devices` in the data directory unless it is set."""

    directory: ConfigPath | None = None
    policies: ConfigPath | None = None
    default_policies: Annotated[tuple[Name, ...], Field(max_length=POLICIES_MAX)] = (DEFAULT_POLICY,)
    revocation_lists: Annotated[tuple[ConfigPath, ...], Field(max_length=REVOCATION_LISTS_MAX)] = ()
    provisioning: ConfigPath | None = None
    registration_authorities: Annotated[tuple[RegistrationAuthority, ...], Field(max_length=AUTHORITIES_MAX)] = ()
    certificate_days: Annotated[int, Field(ge=1, le=CERTIFICATE_DAYS_MAX)] | None = None

    def home(self, data_dir: Path) -> Path:
        """The directory that keeps ca.pem, ca.key, server.pem, server.key and devices.db."""
        return self.directory or data_dir / "devices"
