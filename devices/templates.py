"""Provisioning templates: what a new device becomes, as AWS IoT Core's templates say it.

A template names parameters, and resources that are made of them: one thing, its certificate, the policies that it gets
(AWS IoT Core Developer Guide, "Provisioning templates"). `Template.plan` decides what the parameters of one device come
to. Values in, values out: `devices.template_files` reads templates, `devices.enrolment` carries a plan out,
`devices.provisioning` and `devices.registration` say for whom.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from devices.intrinsics import Text, UnusableParameter, Value

CERTIFICATE = "AWS::IoT::Certificate::"  # the parameters that the certificate itself provides
CERTIFICATE_ID = f"{CERTIFICATE}Id"
SUBJECT_PARAMETERS = {  # of just-in-time registration, from the certificate's subject by OpenSSL's long names
    f"{CERTIFICATE}Country": "countryName",
    f"{CERTIFICATE}Organization": "organizationName",
    f"{CERTIFICATE}OrganizationalUnit": "organizationalUnitName",
    f"{CERTIFICATE}DistinguishedNameQualifier": "dnQualifier",
    f"{CERTIFICATE}StateName": "stateOrProvinceName",
    f"{CERTIFICATE}CommonName": "commonName",
    f"{CERTIFICATE}SerialNumber": "serialNumber",
}


class Override(StrEnum):
    """What becomes of a thing that exists already (`OverrideSettings`); without the setting, FAIL."""

    DO_NOTHING = "DO_NOTHING"
    REPLACE = "REPLACE"
    MERGE = "MERGE"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Plan:
    """What one device is to become: `configuration` is the DeviceConfiguration that it is told."""

    thing: str
    attributes: Mapping[str, str]
    policies: tuple[str, ...]
    active: bool
    override: Override
    configuration: Mapping[str, Any]


class _Scope(dict[str, str]):
    """Parameters by name; one that is missing says so."""

    def __missing__(self, name: str) -> str:
        raise UnusableParameter(_missing([name]))


@dataclass(frozen=True, slots=True)
class Template:
    """One template, compiled; `parameters` are those that it declares, with their defaults.

    `hook` is the program that is asked before a device of this template is made.
    """

    name: str
    parameters: Mapping[str, str | None]
    hook: Path | None
    thing: Text
    attributes: Mapping[str, Text]
    override: Override
    status: Text
    policies: tuple[Text, ...]
    configuration: Value

    def plan(self, given: Mapping[str, str], provided: Mapping[str, str]) -> Plan:
        """What a device comes to that gives these parameters, with those that the certificate provides.

        Given parameters that the template does not declare, or that only a certificate provides, are of no effect.
        Raises UnusableParameter.
        """
        scope = _Scope({name: default for name, default in self.parameters.items() if default is not None})
        known = [name for name in given if name in self.parameters and not name.startswith(CERTIFICATE)]
        scope |= {name: given[name] for name in known}
        scope |= provided
        if missing := [name for name in self.parameters if name not in scope]:
            raise UnusableParameter(_missing(missing))
        status = self.status(scope).upper()
        if status not in ("ACTIVE", "INACTIVE"):
            raise UnusableParameter(f"the certificate's Status comes to {status[:40]!r}; it must be ACTIVE or INACTIVE")
        attributes = {name: value(scope) for name, value in self.attributes.items()}
        policies = tuple(dict.fromkeys(policy(scope) for policy in self.policies))
        thing, configuration = self.thing(scope), self.configuration(scope)
        return Plan(thing, attributes, policies, status == "ACTIVE", self.override, configuration)


def _missing(names: list[str]) -> str:
    return f"no value for the parameter {', '.join(names)}"
