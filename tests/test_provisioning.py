"""Provisioning by claim: AWS's requests and replies, over a real registry and a real authority."""

import asyncio
import hashlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from core.message import Message
from core.mqtt.access import Certificate
from core.telemetry import Counters
from devices import cbor, provisioning
from devices.authority import Authority
from devices.provisioning import PENDING_MAX, PENDING_PER_CLIENT, REQUESTS_MAX, TOKEN_SECONDS, Provisioning, Reply
from devices.registry import Registry, Status
from devices.template_files import parse
from devices.templates import Template
from tests.mqtt_peers import until
from tidegate.processes import Daemon, free_port

CREATE = "$aws/certificates/create/json"
FROM_CSR = "$aws/certificates/create-from-csr/json"
PROVISION = "$aws/provisioning-templates/sensor/provision/json"
CLAIM = Certificate("c1a1", {"commonName": "claim"}, {"commonName": "ca"}, "01", b"der")

SENSOR = """
Parameters:
  Serial: { Type: String }
  Site: { Type: String, Default: hall }
Resources:
  thing:
    Type: AWS::IoT::Thing
    Properties:
      ThingName: { "Fn::Sub": "sensor-${Serial}" }
      AttributePayload: { site: { Ref: Site } }
  certificate:
    Type: AWS::IoT::Certificate
    Properties: { CertificateId: { Ref: "AWS::IoT::Certificate::Id" } }
  policy:
    Type: AWS::IoT::Policy
    Properties: { PolicyName: sensor }
DeviceConfiguration: { topic: { "Fn::Sub": "plant/${Site}" }, rate: 10 }
"""


class Service:
    """The service over a directory, and a client of it."""

    def __init__(self, directory: Path, registry: Registry, templates: Mapping[str, Template]) -> None:
        self.directory = directory
        self.registry = registry
        self.counters = Counters()
        self.now = 0.0
        self.allowed = True
        self.certificate = CLAIM
        self.policies = {"sensor"}
        self.service = Provisioning(
            registry, lambda: Authority.open(directory), templates, lambda: self.policies, self.counters,
            clock=lambda: self.now,
        )  # fmt: skip

    async def reply(self, topic: str, payload: bytes, client: str = "c", claim: str = "claim") -> Reply | None:
        return await self.service.answer(client, claim, self.certificate, Message(topic, payload), lambda: self.allowed)

    async def accepted(self, topic: str, request: object, client: str = "c") -> dict[str, Any]:
        reply = await self.reply(topic, orjson.dumps(request), client)
        assert reply is not None
        assert reply.topic == f"{topic}/accepted", reply.payload
        result = orjson.loads(reply.payload)
        assert isinstance(result, dict)
        return result

    async def rejected(self, topic: str, request: object, client: str = "c") -> tuple[int, str]:
        """Status and code of the error. Nothing has changed."""
        before = (dict(self.registry.things), dict(self.registry.certificates))
        payload = request if isinstance(request, bytes) else orjson.dumps(request)
        reply = await self.reply(topic, payload, client)
        assert (self.registry.things, self.registry.certificates) == before
        assert reply is not None
        assert reply.topic == f"{topic}/rejected", reply.payload
        assert not reply.changed
        error = orjson.loads(reply.payload)
        assert set(error) == {"statusCode", "errorCode", "errorMessage"}
        assert str(self.directory) not in error["errorMessage"]
        return error["statusCode"], error["errorCode"]

    async def token(self, client: str = "c") -> str:
        return str((await self.accepted(CREATE, {}, client))["certificateOwnershipToken"])


def asks(token: str, **parameters: str) -> dict[str, Any]:
    return {"certificateOwnershipToken": token, "parameters": {"Serial": "7"} | parameters}


@asynccontextmanager
async def service(directory: Path, template: str = SENSOR) -> AsyncIterator[Service]:
    with Registry(directory / "devices.db") as registry:
        yield Service(directory, registry, {"sensor": parse(str(directory / "sensor.yaml"), template)})


def csr(key: ec.EllipticCurvePrivateKey, name: str = "admin") -> str:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


async def test_a_claim_leaves_with_a_key_a_certificate_and_a_thing(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        made = await s.accepted(CREATE, {})
        assert set(made) == {"certificateId", "certificatePem", "privateKey", "certificateOwnershipToken"}
        der = ssl.PEM_cert_to_DER_cert(made["certificatePem"])
        assert made["certificateId"] == hashlib.sha256(der).hexdigest()
        told = await s.accepted(PROVISION, asks(made["certificateOwnershipToken"]))
        assert told == {"thingName": "sensor-7", "deviceConfiguration": {"topic": "plant/hall", "rate": 10}}
        thing = s.registry.things["sensor-7"]
        assert (thing.attributes, thing.policies) == ({"site": "hall"}, ("sensor",))
        certificate = s.registry.certificates[made["certificateId"]]
        assert (certificate.thing, certificate.status) == ("sensor-7", Status.ACTIVE)
        assert s.counters.value("provisioning_accepted_total") == 2
    (tmp_path / "device.pem").write_text(made["certificatePem"])
    (tmp_path / "device.key").write_text(made["privateKey"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(tmp_path / "device.pem", tmp_path / "device.key")
    authority = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    x509.load_pem_x509_certificate(made["certificatePem"].encode()).verify_directly_issued_by(authority)


async def test_a_device_may_keep_its_own_key_and_cannot_choose_its_name(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    async with service(tmp_path) as s:
        made = await s.accepted(FROM_CSR, {"certificateSigningRequest": csr(key)})
        assert "privateKey" not in made
        certificate = x509.load_pem_x509_certificate(made["certificatePem"].encode())
        assert certificate.public_key() == key.public_key()
        (name,) = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        assert name.value == provisioning.COMMON_NAME
        assert (await s.accepted(PROVISION, asks(made["certificateOwnershipToken"])))["thingName"] == "sensor-7"


async def test_before_it_has_a_thing_a_certificate_is_not_registered(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        await s.token()
        assert s.registry.certificates == {}


async def test_only_what_changed_the_registry_says_so(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        created = await s.reply(CREATE, b"")
        assert created is not None
        assert not created.changed
        token = orjson.loads(created.payload)["certificateOwnershipToken"]
        provisioned = await s.reply(PROVISION, orjson.dumps(asks(token)))
        assert provisioned is not None
        assert provisioned.changed
        again = await s.reply(PROVISION, orjson.dumps(asks(token)))
        assert again is not None
        assert again == replace(provisioned, changed=False)


async def test_a_new_certificate_for_a_thing_that_stays_as_it_was_changes_nobodys_rights(tmp_path: Path) -> None:
    merge = SENSOR.replace("  certificate:", "    OverrideSettings: { AttributePayload: MERGE }\n  certificate:")
    async with service(tmp_path, merge) as s:
        changes = []
        for site in ("hall", "hall", "yard"):
            reply = await s.reply(PROVISION, orjson.dumps(asks(await s.token(), Site=site)))
            assert reply is not None
            changes.append(reply.changed)
        assert changes == [True, False, True]
        assert len(s.registry.certificates_of("sensor-7")) == 3


@pytest.mark.parametrize(
    "topic",
    [
        "$aws/certificates/create/json/accepted",
        "$aws/certificates/create/json/rejected",
        "$aws/certificates/create",
        "$aws/certificates/create/json\n",
        "$aws/certificates/revoke/json",
        "$aws/provisioning-templates/sensor/provision/json/accepted",
        "$aws/provisioning-templates/a/b/provision/json",
        "$aws/provisioning-templates//provision/json",
    ],
)
async def test_what_is_no_request_is_not_answered(tmp_path: Path, topic: str) -> None:
    async with service(tmp_path) as s:
        assert await s.reply(topic, b"{}") is None


@pytest.mark.parametrize("payload", [b"{", b"[]", b"1", b'"x"', b"\xff", b"[" * 1_000, b"{}" + b" " * 32_768])
async def test_a_payload_that_is_no_request_is_rejected(tmp_path: Path, payload: bytes) -> None:
    async with service(tmp_path) as s:
        for topic in (CREATE, FROM_CSR, PROVISION):
            assert (await s.rejected(topic, payload))[1] == "InvalidRequest"


@pytest.mark.parametrize("request_", [{}, {"certificateSigningRequest": 1}, {"certificateSigningRequest": None}])
async def test_a_missing_signing_request_is_rejected(tmp_path: Path, request_: object) -> None:
    async with service(tmp_path) as s:
        assert await s.rejected(FROM_CSR, request_) == (400, "InvalidRequest")


async def test_a_bad_signing_request_is_rejected(tmp_path: Path) -> None:
    weak = csr(ec.generate_private_key(ec.SECP192R1()))
    good = csr(ec.generate_private_key(ec.SECP256R1()))
    async with service(tmp_path) as s:
        for text in ("", "x", weak, good.replace("M", "N", 1), good[:-80]):
            request = {"certificateSigningRequest": text}
            assert await s.rejected(FROM_CSR, request) == (400, "InvalidCertificateSigningRequest")


async def test_devices_may_speak_cbor(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        created = await s.reply(CREATE.replace("json", "cbor"), b"\xa0")
        assert created is not None
        assert created.topic == "$aws/certificates/create/cbor/accepted"
        topic, token = PROVISION.replace("json", "cbor"), cbor.loads(created.payload)["certificateOwnershipToken"]
        for request, ending in ((asks("guess"), "rejected"), (asks(token), "accepted")):
            reply = await s.reply(topic, cbor.dumps(request))
            assert reply is not None
            assert reply.topic == f"{topic}/{ending}"
        assert cbor.loads(reply.payload)["thingName"] == "sensor-7"
        bad = await s.reply(topic, b"{}")
        assert bad is not None
        assert cbor.loads(bad.payload)["errorCode"] == "InvalidRequest"


# -- tokens -----------------------------------------------------------------------------------------------------------

BAD_TOKEN = (400, "InvalidCertificateOwnershipToken")


@pytest.mark.parametrize("token", ["", "guess", None, 1, ["x"], {}])
async def test_a_token_cannot_be_guessed(tmp_path: Path, token: Any) -> None:
    async with service(tmp_path) as s:
        await s.token()
        assert await s.rejected(PROVISION, asks(token)) == BAD_TOKEN


async def test_a_token_serves_nobody_but_the_client_that_got_it(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        request = orjson.dumps(asks(await s.token("c")))
        assert await s.rejected(PROVISION, request, "d") == BAD_TOKEN
        other = Certificate("0123", {}, {}, "02", b"")
        for principal, certificate in (("other", CLAIM), (None, CLAIM), ("claim", other), ("claim", None)):
            reply = await s.service.answer("c", principal, certificate, Message(PROVISION, request), lambda: True)
            assert reply is not None
            assert reply.topic.endswith("/rejected")
        await s.accepted(PROVISION, orjson.loads(request), "c")


async def test_a_token_serves_for_an_hour(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        early, late = await s.token(), await s.token()
        s.now += TOKEN_SECONDS - 1
        await s.accepted(PROVISION, asks(early))
        s.now += 1
        assert await s.rejected(PROVISION, asks(late, Serial="8")) == BAD_TOKEN


async def test_a_token_serves_once_but_a_lost_reply_can_be_asked_for_again(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        request = asks(await s.token())
        told = await s.accepted(PROVISION, request)
        assert await s.accepted(PROVISION, request) == told
        assert len(s.registry.certificates) == 1
        assert await s.rejected(PROVISION, request | {"parameters": {"Serial": "8"}}) == BAD_TOKEN


async def test_two_requests_with_one_token_make_one_device(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        token = await s.token()
        async with asyncio.TaskGroup() as group:
            requests = [asks(token, Serial=str(serial)) for serial in range(3)]
            tasks = [group.create_task(s.reply(PROVISION, orjson.dumps(request))) for request in requests]
        replies = [task.result() for task in tasks]
        assert [reply.topic.rsplit("/", 1)[1] for reply in replies if reply].count("accepted") == 1
        assert len(s.registry.things) == 1


async def test_after_a_mistake_the_token_still_serves(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        token = await s.token()
        assert await s.rejected(PROVISION, asks(token, Serial="a/b")) == (400, "InvalidParameters")
        await s.accepted(PROVISION, asks(token))


async def test_a_client_that_only_creates_pushes_out_its_own_certificates(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        other, *own = [await s.token("other"), *[await s.token() for _ in range(PENDING_PER_CLIENT + 1)]]
        assert await s.rejected(PROVISION, asks(own[0])) == BAD_TOKEN
        await s.accepted(PROVISION, asks(own[1]))
        await s.accepted(PROVISION, asks(other, Serial="8"), "other")


async def test_certificates_that_wait_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PENDING_MAX <= 1_000
    monkeypatch.setattr(provisioning, "PENDING_MAX", 3)
    async with service(tmp_path) as s:
        tokens = {client: await s.token(client) for client in "abcd"}
        assert await s.rejected(PROVISION, asks(tokens["a"]), "a") == BAD_TOKEN
        for client in "bcd":
            await s.accepted(PROVISION, asks(tokens[client], Serial=client), client)


async def test_a_claim_that_only_creates_pushes_out_no_other_claims_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provisioning, "PENDING_MAX", 5)
    async with service(tmp_path) as s:
        tokens = {client: await s.token(client) for client in "ab"}
        for number in range(10):
            flood = await s.reply(CREATE, b"{}", f"c{number}", "stolen")
            assert flood is not None
            assert flood.topic.endswith("/accepted")
        for client, token in tokens.items():
            await s.accepted(PROVISION, asks(token, Serial=client), client)


async def test_too_many_requests_at_once_are_turned_away(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        async with asyncio.TaskGroup() as group:
            clients = [f"c{number}" for number in range(REQUESTS_MAX + 5)]
            tasks = [group.create_task(s.reply(CREATE, b"{}", client)) for client in clients]
        replies = [reply for task in tasks if (reply := task.result())]
        assert [reply.topic == f"{CREATE}/accepted" for reply in replies].count(True) == REQUESTS_MAX
        assert s.counters.value("provisioning_rejected_total", error="Throttling") == 5
        await s.accepted(CREATE, {})


# -- templates --------------------------------------------------------------------------------------------------------


async def test_an_unknown_template_is_rejected(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        topic = PROVISION.replace("sensor", "motor")
        assert await s.rejected(topic, asks(await s.token())) == (404, "ResourceNotFound")


@pytest.mark.parametrize(
    "parameters",
    [{}, {"Site": "x"}, {"Serial": 7}, {"Serial": None}, "7", [1], {"Serial": "x" * 3_000}, {"Serial": "#"},
     {"Serial": "7", "Site": "a b"}, {"Serial": "7", "Site": "\u0000"},
     {"Serial": "7"} | {str(n): "" for n in range(100)}],
)  # fmt: skip
async def test_parameters_that_cannot_be_used_are_rejected(tmp_path: Path, parameters: Any) -> None:
    async with service(tmp_path) as s:
        request = {"certificateOwnershipToken": await s.token(), "parameters": parameters}
        assert await s.rejected(PROVISION, request) == (400, "InvalidParameters")


async def test_a_device_that_exists_is_not_taken_over(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        s.registry.put_thing("sensor-7", policies=("sensor",))
        assert await s.rejected(PROVISION, asks(await s.token())) == (409, "ResourceConflict")


async def test_a_policy_that_is_not_there_is_the_operators_to_mend(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        s.policies = set()
        token = await s.token()
        assert await s.rejected(PROVISION, asks(token)) == (500, "InternalFailure")
        s.policies = {"sensor"}
        await s.accepted(PROVISION, asks(token))


async def test_an_authority_without_its_key_is_the_operators_to_mend(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        Authority.open(tmp_path)
        (tmp_path / "ca.key").unlink()
        assert await s.rejected(CREATE, {}) == (500, "InternalFailure")
        request = {"certificateSigningRequest": csr(ec.generate_private_key(ec.SECP256R1()))}
        assert await s.rejected(FROM_CSR, request) == (500, "InternalFailure")


async def test_a_fault_of_ours_is_told_and_does_not_end_the_daemon(tmp_path: Path) -> None:
    def broken() -> Authority:
        raise ZeroDivisionError

    async with service(tmp_path) as s:
        s.service = Provisioning(s.registry, broken, {}, lambda: (), s.counters)
        assert await s.rejected(CREATE, {}) == (500, "InternalFailure")


async def test_a_disk_that_refuses_is_told_as_such_and_the_token_still_serves(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        token = await s.token()
        s.registry._connection.execute("PRAGMA query_only=1")
        assert await s.rejected(PROVISION, asks(token)) == (503, "ServiceUnavailable")
        s.registry._connection.execute("PRAGMA query_only=0")
        await s.accepted(PROVISION, asks(token))


# -- hooks ------------------------------------------------------------------------------------------------------------

HOOKED = SENSOR + "Metadata: { Tidegate: { PreProvisioningHook: hook } }\n"


def is_refused(reply: Reply | None, status: int, code: str) -> bool:
    assert reply is not None
    error = orjson.loads(reply.payload)
    return reply.topic.endswith("/rejected") and (error["statusCode"], error["errorCode"]) == (status, code)


def hook(directory: Path, *lines: str) -> None:
    (directory / "hook").write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    (directory / "hook").chmod(0o755)


async def test_the_hook_is_asked_in_the_words_of_aws(tmp_path: Path) -> None:
    hook(tmp_path, "cat > heard", """echo '{"allowProvisioning": true, "parameterOverrides": {"Site": "yard"}}'""")
    async with service(tmp_path, HOOKED) as s:
        made = await s.accepted(CREATE, {})
        told = await s.accepted(PROVISION, asks(made["certificateOwnershipToken"], Proof="secret"))
        assert told["deviceConfiguration"]["topic"] == "plant/yard"
        assert s.registry.things["sensor-7"].attributes == {"site": "yard"}
    assert orjson.loads((tmp_path / "heard").read_bytes()) == {
        "claimCertificateId": CLAIM.id,
        "certificateId": made["certificateId"],
        "certificatePem": made["certificatePem"],
        "templateArn": "arn:aws:iot:::provisioningtemplate/sensor",
        "clientId": "c",
        "parameters": {"Serial": "7", "Proof": "secret"},
    }


async def test_a_hook_that_says_no_keeps_the_device_out(tmp_path: Path) -> None:
    hook(tmp_path, """echo '{"allowProvisioning": false}'""")
    async with service(tmp_path, HOOKED) as s:
        assert await s.rejected(PROVISION, asks(await s.token())) == (403, "AccessDenied")


async def test_a_hook_that_fails_keeps_the_device_out(tmp_path: Path) -> None:
    hook(tmp_path, "exit 1")
    async with service(tmp_path, HOOKED) as s:
        assert await s.rejected(PROVISION, asks(await s.token())) == (500, "InternalFailure")


THINKS = ("touch asked; while ! test -e go; do sleep 0.01; done", """echo '{"allowProvisioning": true}'""")


@pytest.mark.parametrize(
    "end",
    [
        lambda registry, claim: registry.set_status(claim, Status.REVOKED),
        lambda registry, claim: registry.set_status(claim, Status.INACTIVE),
        lambda registry, claim: registry.remove_certificate(claim),
        lambda registry, _: registry.remove_thing("claim"),
    ],
    ids=["revoked", "inactive", "removed", "removed with its thing"],
)
async def test_a_claim_that_ends_while_its_hook_is_thinking_makes_no_device(
    tmp_path: Path, end: Callable[[Registry, str], None]
) -> None:
    hook(tmp_path, *THINKS)
    certificate, _ = Authority.open(tmp_path).issue("claim")
    async with service(tmp_path, HOOKED) as s:
        s.registry.put_thing("claim")
        s.certificate = replace(CLAIM, id=s.registry.put_certificate(certificate, "claim").id)
        token = await s.token()
        async with asyncio.TaskGroup() as group:
            thinking = group.create_task(s.reply(PROVISION, orjson.dumps(asks(token))))
            await until((tmp_path / "asked").exists)
            with Registry(tmp_path / "devices.db") as beside:  # a command, of which nobody has told us yet
                end(beside, s.certificate.id)
            (tmp_path / "go").touch()
        assert is_refused(thinking.result(), 403, "AccessDenied")
        assert "sensor-7" not in s.registry.things


async def test_who_may_not_ask_any_more_when_the_hook_has_answered_gets_no_device(tmp_path: Path) -> None:
    hook(tmp_path, *THINKS)
    async with service(tmp_path, HOOKED) as s:
        token = await s.token()
        async with asyncio.TaskGroup() as group:
            thinking = group.create_task(s.reply(PROVISION, orjson.dumps(asks(token))))
            await until((tmp_path / "asked").exists)
            s.allowed = False
            (tmp_path / "go").touch()
        assert is_refused(thinking.result(), 403, "AccessDenied")
        assert s.registry.things == {}
        s.allowed = True
        await s.accepted(PROVISION, asks(token))


async def test_while_a_hook_is_thinking_others_get_their_certificates(tmp_path: Path) -> None:
    hook(tmp_path, "while ! test -e go; do sleep 0.01; done", """echo '{"allowProvisioning": true}'""")
    async with service(tmp_path, HOOKED) as s:
        request = asks(await s.token())
        async with asyncio.TaskGroup() as group:
            thinking = group.create_task(s.accepted(PROVISION, request))
            await s.token("other")
            assert not thinking.done()
            (tmp_path / "go").touch()
        assert thinking.result()["thingName"] == "sensor-7"


# -- the real thing ---------------------------------------------------------------------------------------------------

EXAMPLES = Path(__file__).parent.parent / "examples" / "provisioning"


def mosquitto(tool: str, port: int, client: str, credentials: tuple[Path, Path], *arguments: str) -> str:
    """What a tool of Mosquitto prints; fails when it fails."""
    certificate, key = credentials
    identity = ["-i", client, "--cafile", str(certificate.parent / "ca.pem"), "--cert", str(certificate)]
    command = [f"mosquitto_{tool}", "-h", "localhost", "-p", str(port), *identity, "--key", str(key), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.processes
def test_the_example_provisions_a_sensor_that_is_known_after_a_kill(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "edge.toml").write_text(
        f"""
        edge = {{ name = "press-hall", data_dir = "data" }}
        listeners = [{{ address = "127.0.0.1:{port}", tls = {{}} }}]
        devices = {{ directory = "home", provisioning = "{EXAMPLES}", policies = "{EXAMPLES}/policies" }}
        """
    )
    home = tmp_path / "home"
    credentials = (home / "claim.pem", home / "claim.key")
    claim, key = Authority.open(home).issue("claim")
    with Registry(home / "devices.db") as registry:
        registry.put_thing("claim", policies=("claim",))
        registry.put_certificate(claim, "claim")
    for path, text in zip(credentials, (claim, key), strict=True):
        path.write_text(text)

    def request(topic: str, payload: str) -> dict[str, Any]:
        arguments = ("-t", topic, "-e", f"{topic}/accepted", "-m", payload, "-W", "30")
        result = orjson.loads(mosquitto("rr", port, "box-7", credentials, *arguments))
        assert isinstance(result, dict)
        return result

    edge = Daemon("edge", tmp_path / "edge.toml", tmp_path / "data")
    try:
        edge.start()
        made = request(CREATE, "{}")
        parameters = {"SerialNumber": "A-1001"}
        asked = {"certificateOwnershipToken": made["certificateOwnershipToken"], "parameters": parameters}
        told = request(PROVISION, orjson.dumps(asked).decode())
        edge.kill()
        edge.start()
        own = (home / "own.pem", home / "own.key")
        for path, member in zip(own, ("certificatePem", "privateKey"), strict=True):
            path.write_text(made[member])
        topic = told["deviceConfiguration"]["topic"]
        said = mosquitto("pub", port, told["thingName"], own, "-d", "-q", "1", "-t", topic, "-m", "1")
        assert "received PUBACK" in said
    finally:
        edge.kill()
