"""Devices with certificates of their own, and what each may do, as an edge and as Mosquitto are told.

Both brokers get the same authority, the same server certificate and the same rule: a device publishes the telemetry
that bears its name, and nothing else. The edge has it as a policy and finds the device in its registry; Mosquitto has
it as a pattern in an ACL file and takes the certificate's common name for the user.
"""

import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import orjson

from core.config import ClientTls, client_context
from devices.authority import Authority
from devices.registry import FILE, Registry

TOPIC = "plant/line/{}/telemetry"  # of a device, by its name
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": "client/${iot:Connection.Thing.ThingName}*"},
        {
            "Effect": "Allow",
            "Action": "iot:Publish",
            "Resource": "topic/" + TOPIC.format("${iot:Connection.Thing.ThingName}"),
        },
    ],
}
ACL = f"pattern write {TOPIC.format('%u')}\n"


@dataclass(frozen=True, slots=True)
class Identities:
    """Files: the edge's directory of devices, its policies, Mosquitto's ACL, and what the server shows."""

    home: Path
    policies: Path
    acl: Path
    ca: Path
    certificate: Path
    key: Path

    def context(self, name: str) -> ssl.SSLContext:
        """For a connection of the device of that name."""
        certificate, key = (self.home / f"{name}.{suffix}" for suffix in ("pem", "key"))
        return client_context(ClientTls(ca=self.ca, certificate=certificate, key=key))


def enrol(directory: Path, names: Iterable[str]) -> Identities:
    """Make an authority in `directory`, and register a device with a certificate for each name."""
    home, policies, acl = directory / "devices", directory / "policies", directory / "acl"
    authority = Authority.open(home)
    certificate, key = authority.server()
    policies.mkdir()
    (policies / "default.json").write_bytes(orjson.dumps(POLICY))
    acl.write_text(ACL)
    with Registry(home / FILE) as registry, registry.transaction():
        for name in names:
            pem, private = authority.issue(name)
            registry.put_thing(name)
            registry.put_certificate(pem, name)
            (home / f"{name}.pem").write_text(pem)
            (home / f"{name}.key").write_text(private)
    return Identities(home, policies, acl, authority.path, certificate, key)
