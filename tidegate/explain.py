"""`tidegate devices explain`: whether a device may do something, and which statement of which policy says so.

Asks the same code that the daemons run, about the registry and the policy files as they are on the disk: what a daemon
answers after its next reload. Changes nothing.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID, ObjectIdentifier

from core import topics
from core.cli import Json, errors_to_exit_codes, print_facts
from core.errors import TidegateError
from core.mqtt.access import Certificate, Peer
from core.telemetry import Counters
from devices import directory, policy_files, provisioning
from devices.access import DeviceAccess, Refused, Reserved
from devices.access import explain as decision_about
from devices.policies import Decision
from devices.registry import FILE, Registered, Registry, Status

# OpenSSL's long names, which `core.mqtt.access.Certificate` has.
_LONG_NAMES: Mapping[ObjectIdentifier, str] = {
    NameOID.COMMON_NAME: "commonName",
    NameOID.ORGANIZATION_NAME: "organizationName",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "organizationalUnitName",
    NameOID.COUNTRY_NAME: "countryName",
    NameOID.STATE_OR_PROVINCE_NAME: "stateOrProvinceName",
    NameOID.SERIAL_NUMBER: "serialNumber",
    NameOID.DN_QUALIFIER: "dnQualifier",
    NameOID.TITLE: "title",
    NameOID.SURNAME: "surname",
    NameOID.GIVEN_NAME: "givenName",
    NameOID.INITIALS: "initials",
    NameOID.PSEUDONYM: "pseudonym",
    NameOID.GENERATION_QUALIFIER: "generationQualifier",
}


class Verb(StrEnum):
    """What a device may want to do."""

    CONNECT = "connect"
    PUBLISH = "publish"
    RETAIN = "retain"
    SUBSCRIBE = "subscribe"
    RECEIVE = "receive"


def explain(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the device.")],
    verb: Annotated[Verb, typer.Argument(help="What it wants to do; retain is publishing a retained message.")],
    topic: Annotated[str, typer.Argument(help="The topic, or the filter to subscribe with; none for connect.")] = "",
    client_id: Annotated[
        str | None, typer.Option("--client-id", help="The client identifier it connects with; by default its name.")
    ] = None,
    address: Annotated[str, typer.Option("--address", help="The IP address it connects from.")] = "127.0.0.1",
    config: Annotated[Path, typer.Option("--config", help="Path of edge.toml or cloud.toml.")] = Path(
        "/etc/tidegate/edge.toml"
    ),
    as_json: Json = False,
) -> None:
    """Say whether a device may do something, and which statement decides. Exits with 0 either way."""
    from tidegate.devices import load_site  # late: that module has this one among its commands

    with errors_to_exit_codes():
        _check_topic(verb, topic)
        site = load_site(config)
        policies = policy_files.read(site.devices.policies)
        host = f"[{address}]" if ":" in address else address
        if not (site.home / FILE).is_file():
            raise TidegateError(f"{site.home / FILE}: there is no registry yet; `tidegate devices add` makes one")
        with directory.as_owner(site.home), Registry(site.home / FILE) as registry:
            access = DeviceAccess(
                registry,
                policies,
                Counters(),
                default_policies=site.devices.default_policies,
                reserved=Reserved(provisioning.PREFIXES, site.frames_under),
            )
            registered = name in registry.things
            certificates = registry.certificates_of(name)
            peer = Peer(f"{host}:0", _shown(certificates))
            has_password = registered and registry.things[name].password is not None
        try:
            connect = decision_about(access, name, "connect", "", client_id=client_id, peer=peer)
            decision = decision_about(access, name, verb, topic, client_id=client_id, peer=peer)
        except Refused as refused:
            raise TidegateError(f"{name!r}: {refused}") from None
        facts = {"device": name, "registered": registered, "verb": verb.value, "topic": topic or None}
        facts |= _facts(decision)
        facts["may_connect"] = connect.allowed
        facts["credentials"] = _credentials(registered, certificates, has_password)
    print_facts(facts, as_json=as_json)


def _check_topic(verb: Verb, topic: str) -> None:
    if verb is Verb.CONNECT:
        if topic:
            raise typer.BadParameter("connect has no topic; say --client-id", param_hint="TOPIC")
    elif verb is Verb.SUBSCRIBE:
        topics.check_filter(topic)
    else:
        topics.check_name(topic)


def _facts(decision: Decision) -> dict[str, Any]:
    statement, policy = decision.statement, decision.policy
    place = policy.file or "built in" if policy is not None and policy.exists else None
    return {
        "allowed": decision.allowed,
        "reason": decision.reason,
        "policy": policy.name if policy is not None else None,
        "file": place,
        "line": statement.line if statement is not None else None,
        "statement": statement.index if statement is not None else None,
        "sid": statement.sid or None if statement is not None else None,
        "effect": statement.effect if statement is not None else None,
    }


def _credentials(registered: bool, certificates: list[Registered], has_password: bool) -> str:
    """How this device can prove who it is."""
    if not registered:
        return "not registered: only a certificate of your own authority (client_ca) with this common name"
    active = sum(certificate.status is Status.ACTIVE for certificate in certificates)
    ways = [f"{active} active of {len(certificates)} certificates"] if certificates else ["no certificate"]
    return ", ".join([*ways, "a password" if has_password else "no password"])


def _shown(certificates: list[Registered]) -> Certificate | None:
    """The newest active certificate of a device, as a listener would report it."""
    active = [certificate for certificate in certificates if certificate.status is Status.ACTIVE]
    if not active:
        return None
    newest = x509.load_pem_x509_certificate(active[-1].pem.encode())
    return Certificate(
        newest.fingerprint(hashes.SHA256()).hex(), _names(newest.subject), _names(newest.issuer),
        f"{newest.serial_number:X}", b"",
    )  # fmt: skip


def _names(name: x509.Name) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in name:
        if part.oid in _LONG_NAMES:
            found.setdefault(_LONG_NAMES[part.oid], str(part.value))  # the first of several, as the listener has it
    return found
