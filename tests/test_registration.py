"""Just-in-time registration: real certificates of a vendor, as a TLS handshake shows them, enter the registry."""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from mqtt5 import ConnAckReasonCode, ConnectPacket

from core.config import Tls, server_context
from core.errors import ConfigurationError
from core.message import Message
from core.mqtt.access import Certificate, Grant, Peer
from core.telemetry import Counters
from devices.access import DeviceAccess
from devices.config import RegistrationAuthority
from devices.policy_files import read as read_policies
from devices.registration import EVENTS, WAITING_MAX, Registration, read_vendors
from devices.registry import Registry, Status
from devices.template_files import load, parse
from devices.templates import Template
from tests.certificates import Authority
from tests.gates import Company, Credentials, issue, shown
from tests.mqtt_peers import until

EXAMPLES = Path(__file__).parent.parent / "examples" / "provisioning"
METER = {NameOID.COMMON_NAME: "4711", NameOID.ORGANIZATION_NAME: "Meters_Ltd", NameOID.COUNTRY_NAME: "NO"}


class Vendor:
    """A vendor's authority, with its certificate in a file."""

    def __init__(self, directory: Path, name: str = "Meters CA", organization: str = "Meters") -> None:
        fields = {NameOID.DOMAIN_COMPONENT: "com", NameOID.ORGANIZATION_NAME: organization, NameOID.COMMON_NAME: name}
        repeated = x509.NameAttribute(NameOID.DOMAIN_COMPONENT, "example")  # as directories of Microsoft name theirs
        self.company = Company.make(directory, name, x509.Name([repeated, *named(fields)]))
        self.path = self.company.certificate
        self.id = hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.path.read_text())).hexdigest()

    def meter(
        self, directory: Path, fields: dict[x509.ObjectIdentifier, str] = METER, by: Company | None = None
    ) -> Certificate:
        """A device's certificate as the listener gets it."""
        device = (by or self.company).issue(directory, "meter", subject=named(fields))
        server = issue(directory, "server", None)
        listener = server_context(Tls(certificate=server.certificate, key=server.key), [self.path])
        return shown(listener, Credentials(device.certificate, device.key, server.ca).context())[0]


def named(fields: dict[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(field, value) for field, value in fields.items()])


class Site:
    """The service over a registry; `published` is what it told rules."""

    def __init__(self, registry: Registry, authorities: Iterable[RegistrationAuthority],
                 templates: dict[str, Template]) -> None:  # fmt: skip
        self.registry = registry
        self.published: list[Message] = []
        self.counters = Counters()
        vendors = read_vendors(tuple(authorities), templates)
        self.service = Registration(registry, vendors, lambda: {"sensor"}, self.published.append, self.counters)

    async def connect(self, certificate: Certificate | None) -> bool:
        """Whether it was taken; what came of it is in the registry."""
        done = asyncio.Event()
        taken = self.service.register(Peer("192.0.2.1:5", certificate), done.set)
        if taken:
            async with asyncio.timeout(10):
                await done.wait()
        return taken


@asynccontextmanager
async def site(
    directory: Path, vendor: Vendor, template: str | None = "vendor", text: str | None = None
) -> AsyncIterator[Site]:
    templates = {"own": parse("own.yaml", text)} if text else load(EXAMPLES)
    with Registry(directory / "devices.db") as registry:
        yield Site(registry, [RegistrationAuthority(ca=vendor.path, template="own" if text else template)], templates)


async def test_with_a_template_a_device_is_made_of_its_certificate(tmp_path: Path) -> None:
    vendor = Vendor(tmp_path)
    meter = vendor.meter(tmp_path)
    async with site(tmp_path, vendor) as s:
        assert await s.connect(meter)
        thing, certificate = s.registry.things["meter-4711"], s.registry.certificates[meter.id]
        assert (thing.attributes, thing.policies) == ({"vendor": "Meters_Ltd"}, ("sensor",))
        assert (certificate.thing, certificate.status) == ("meter-4711", Status.ACTIVE)
        assert ssl.PEM_cert_to_DER_cert(certificate.pem) == meter.der
        assert s.published == []


async def test_every_field_of_aws_is_there(tmp_path: Path) -> None:
    fields = {
        NameOID.COUNTRY_NAME: "NO", NameOID.ORGANIZATION_NAME: "Org", NameOID.ORGANIZATIONAL_UNIT_NAME: "Unit",
        NameOID.DN_QUALIFIER: "Dnq", NameOID.STATE_OR_PROVINCE_NAME: "State", NameOID.COMMON_NAME: "Cn",
        NameOID.SERIAL_NUMBER: "Sn",
    }  # fmt: skip
    names = ("Country", "Organization", "OrganizationalUnit", "DistinguishedNameQualifier", "StateName", "CommonName",
             "SerialNumber")  # fmt: skip
    attributes = {name: {"Ref": f"AWS::IoT::Certificate::{name}"} for name in names}
    text = orjson.dumps(
        {
            "Parameters": {f"AWS::IoT::Certificate::{name}": {"Type": "String"} for name in names},
            "Resources": {
                "t": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": "t", "AttributePayload": attributes}},
                "c": {
                    "Type": "AWS::IoT::Certificate",
                    "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}},
                },
            },
        }
    ).decode()
    vendor = Vendor(tmp_path)
    async with site(tmp_path, vendor, text=text) as s:
        assert await s.connect(vendor.meter(tmp_path, fields))
        assert s.registry.things["t"].attributes == dict(
            zip(names, ("NO", "Org", "Unit", "Dnq", "State", "Cn", "Sn"), strict=True)
        )


async def test_without_a_template_a_certificate_waits_and_rules_hear_of_it(tmp_path: Path) -> None:
    vendor = Vendor(tmp_path)
    meter = vendor.meter(tmp_path)
    async with site(tmp_path, vendor, template=None) as s:
        assert await s.connect(meter)
        certificate = s.registry.certificates[meter.id]
        assert (certificate.thing, certificate.status) == (None, Status.PENDING_ACTIVATION)
        assert s.registry.things == {}
        (message,) = s.published
        assert message.topic == f"{EVENTS}{vendor.id}"
        event = orjson.loads(message.payload)
        assert event.pop("timestamp") >= certificate.created_at
        assert event == {
            "certificateId": meter.id,
            "caCertificateId": vendor.id,
            "certificateStatus": "PENDING_ACTIVATION",
            "awsAccountId": "",
            "certificateRegistrationTimestamp": str(certificate.created_at),
        }


async def test_certificates_of_others_are_not_taken(tmp_path: Path) -> None:
    vendor, other = Vendor(tmp_path), Vendor(tmp_path, "Meters CB")
    async with site(tmp_path, vendor) as s:
        assert not await s.connect(other.meter(tmp_path))
        assert not await s.connect(None)
        assert (s.registry.things, s.registry.certificates) == ({}, {})


async def test_what_a_vendor_lets_others_sign_is_not_taken_nor_believed(tmp_path: Path) -> None:
    vendor = Vendor(tmp_path)
    for name in ("issuing", "Meters CA"):
        (tmp_path / "below").mkdir(exist_ok=True)
        meter = vendor.meter(tmp_path, by=vendor.company.below(tmp_path / "below", name))
        async with site(tmp_path, vendor) as s:
            s.registry.put_thing("4711")
            assert not await s.connect(meter)
            assert await admission(s, meter) == ConnAckReasonCode.NOT_AUTHORIZED
            assert s.registry.certificates == {}


async def test_a_device_on_two_connections_at_once_is_registered_once(tmp_path: Path) -> None:
    vendor = Vendor(tmp_path)
    meter = vendor.meter(tmp_path)
    async with site(tmp_path, vendor, template=None) as s:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(s.connect(meter)) for _ in range(3)]
        assert [task.result() for task in tasks] == [True] * 3
        assert len(s.published) == len(s.registry.certificates) == 1
        assert s.counters.value("registrations_refused_total") == 0


@pytest.mark.parametrize("status", [Status.REVOKED, Status.INACTIVE, Status.PENDING_ACTIVATION])
async def test_what_is_registered_stays_as_it_is(tmp_path: Path, status: Status) -> None:
    vendor = Vendor(tmp_path)
    meter = vendor.meter(tmp_path)
    async with site(tmp_path, vendor) as s:
        s.registry.put_certificate(ssl.DER_cert_to_PEM_cert(meter.der), None, status)
        await s.connect(meter)
        assert s.registry.certificates[meter.id].status is status
        assert s.registry.things == {}


@pytest.mark.parametrize(
    "fields",
    [
        {NameOID.ORGANIZATION_NAME: "Meters_Ltd"},
        {NameOID.COMMON_NAME: "../../etc"},
        {NameOID.COMMON_NAME: "x" * 64, NameOID.ORGANIZATION_NAME: "Meters Ltd"},
        {NameOID.COMMON_NAME: "#"},
    ],
)
async def test_a_certificate_that_the_template_cannot_use_is_not_registered(
    tmp_path: Path, fields: dict[x509.ObjectIdentifier, str]
) -> None:
    vendor = Vendor(tmp_path)
    async with site(tmp_path, vendor) as s:
        assert await s.connect(vendor.meter(tmp_path, fields))
        assert (s.registry.things, s.registry.certificates) == ({}, {})
        assert s.counters.value("registrations_refused_total") == 1


async def test_a_vendor_cannot_make_a_certificate_for_a_device_that_exists(tmp_path: Path) -> None:
    vendor = Vendor(tmp_path)
    async with site(tmp_path, vendor) as s:
        s.registry.put_thing("meter-4711", policies=("sensor",))
        assert await s.connect(vendor.meter(tmp_path))
        assert s.registry.certificates == {}


async def test_a_crowd_is_served_up_to_the_bound_and_the_rest_comes_again(tmp_path: Path) -> None:
    vendor = Vendor(tmp_path)
    meter = vendor.meter(tmp_path)
    async with site(tmp_path, vendor) as s:
        answers: list[bool] = []
        for _ in range(WAITING_MAX + 3):
            assert s.service.register(Peer("192.0.2.1:5", meter), lambda: answers.append(True))
        assert len(answers) == 3
        await until(lambda: len(answers) == WAITING_MAX + 3)
        assert len(s.registry.certificates) == 1


# -- together with access ---------------------------------------------------------------------------------------------


async def admission(s: Site, meter: Certificate) -> object:
    """What a device is told that connects: who it is, or the reason code of the refusal."""
    access = DeviceAccess(s.registry, read_policies(EXAMPLES / "policies"), s.counters, register=s.service.register)
    answers: list[Grant | ConnAckReasonCode] = []
    packet = ConnectPacket("meter-4711")
    access.connect(Peer("192.0.2.1:5", meter), "meter-4711", packet, answers.append)
    await until(lambda: len(answers) == 1)
    return answers[0] if isinstance(answers[0], ConnAckReasonCode) else answers[0].principal


async def test_a_device_is_let_in_on_its_first_connection_and_on_the_next(tmp_path: Path) -> None:
    vendor = Vendor(tmp_path)
    meter = vendor.meter(tmp_path)
    async with site(tmp_path, vendor) as s:
        assert [await admission(s, meter) for _ in range(2)] == ["meter-4711"] * 2


async def test_a_device_without_a_template_is_let_in_once_it_was_activated(tmp_path: Path) -> None:
    vendor = Vendor(tmp_path)
    meter = vendor.meter(tmp_path)
    async with site(tmp_path, vendor, template=None) as s:
        assert [await admission(s, meter) for _ in range(2)] == [ConnAckReasonCode.NOT_AUTHORIZED] * 2
        assert len(s.published) == 1
        s.registry.put_thing("meter-4711", policies=("sensor",))
        s.registry.attach(meter.id, "meter-4711")
        s.registry.set_status(meter.id, Status.ACTIVE)
        assert await admission(s, meter) == "meter-4711"


async def test_no_common_name_is_believed_that_could_not_be_registered(tmp_path: Path) -> None:
    vendor = Vendor(tmp_path)
    meter = vendor.meter(tmp_path, {NameOID.COMMON_NAME: "4711", NameOID.ORGANIZATION_NAME: "not an attribute"})
    async with site(tmp_path, vendor) as s:
        s.registry.put_thing("4711", policies=())
        assert await admission(s, meter) == ConnAckReasonCode.NOT_AUTHORIZED


# -- the configuration ------------------------------------------------------------------------------------------------


def test_what_is_wrong_with_the_configuration_is_told_at_once(tmp_path: Path) -> None:
    vendor = Vendor(tmp_path)
    (tmp_path / "text.pem").write_text("no certificate")
    leaf = Authority(tmp_path).sign("leaf")[0]
    wanted = [
        (tmp_path / "nothing.pem", None), (tmp_path / "text.pem", None), (leaf, None),
        (vendor.path, "absent"), (vendor.path, "sensor"),
    ]  # fmt: skip
    with pytest.raises(ConfigurationError) as caught:
        read_vendors([RegistrationAuthority(ca=ca, template=template) for ca, template in wanted], load(EXAMPLES))
    told = "\n".join(caught.value.problems)
    for index in range(len(wanted)):
        assert f"devices.registration_authorities[{index}]." in told
    assert "has a hook" in told
    assert "SerialNumber; a certificate provides" in told


def test_a_file_may_hold_several_authorities(tmp_path: Path) -> None:
    vendors = [Vendor(tmp_path, name) for name in ("Meters CA", "Meters CB")]
    both = tmp_path / "both.pem"
    both.write_text("".join(vendor.path.read_text() for vendor in vendors))
    read = read_vendors([RegistrationAuthority(ca=both)], {})
    assert {each.id for each in read} == {vendor.id for vendor in vendors}
