"""Fleet provisioning by claim over MQTT: a device that comes with a claim leaves with an identity of its own.

The requests and replies of AWS IoT Core ("Device provisioning MQTT API"), in JSON, or in CBOR where a topic ends so:

    $aws/certificates/create/json                        a new key and certificate
    $aws/certificates/create-from-csr/json               a certificate for the device's own key
    $aws/provisioning-templates/NAME/provision/json      a thing for it, by a template

each answered on its topic with /accepted or /rejected. A reply may hold a private key: whoever calls gives it to the
client that asked and to nobody else.

A claim is a registered device whose policy allows these topics. Policies decide who may ask (`devices.access`),
templates what a device becomes (`devices.templates`), a hook whether it may (`devices.hooks`).

Invariants:
1. A certificate is registered together with its thing, on the disk, before `accepted` is said. Until then it is in
   memory only and lets nobody in: after a crash there is all of the device or nothing.
2. An ownership token serves the client that got it, for `TOKEN_SECONDS`, for one device. Asking the same again, because
   the reply was lost, gives the same reply again.
3. Keys, signatures and the disk are worked on one at a time, in threads; at most `HOOKS_MAX` hooks run and
   `REQUESTS_MAX` requests wait. At most `PENDING_MAX` certificates wait for their things, `PENDING_PER_CLIENT` of one
   client; the oldest of that client, or of the claim that has the most, makes room.
4. A claim that ends, or loses the right to ask, while its request waits or its hook thinks makes no device.
"""

import asyncio
import hashlib
import re
import secrets
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from core.errors import StorageError, TidegateError
from core.message import Message
from core.mqtt.access import Certificate
from core.telemetry import Counters, get_logger
from devices import cbor, hooks
from devices.authority import Authority
from devices.enrolment import Conflict, enrol
from devices.errors import CertificateError, RegistryError
from devices.intrinsics import UnusableParameter
from devices.registry import Registry, Status
from devices.templates import CERTIFICATE_ID, Plan, Template

PREFIXES = ("$aws/certificates/", "$aws/provisioning-templates/")  # what clients may publish to, for this service

TOKEN_SECONDS = 3_600.0  # AWS
TOKEN_BYTES = 32  # of randomness; AWS's tokens are longer, none can be guessed
PENDING_MAX = 1_000  # about 1.5 MB, and as many devices per hour as a line of factory workers unpacks
PENDING_PER_CLIENT = 4  # a client that never gets further than certificates must not push out everybody else's
REQUESTS_MAX = 32  # a certificate takes 5 ms of a small box, so the last of them waits a fraction of a second
HOOKS_MAX = 2  # interpreters of 10 MB and more, beside a daemon on 1 GB
PAYLOAD_BYTES_MAX = 32_768  # a signing request of 16,384 characters, or parameters, in JSON
PARAMETERS_MAX = 100
PARAMETER_CHARS_MAX = 2_048  # the longest attribute value has 800; a device may send a proof to the hook

COMMON_NAME = "Tidegate provisioned device"  # a client must not choose it: others may take it for who that is

_TOPIC = re.compile(
    r"\$aws/(?:certificates/(?P<create>create|create-from-csr)"
    r"|provisioning-templates/(?P<template>[^/]+)/provision)/(?P<format>json|cbor)"
)
_OPERATIONS = {"create": "CreateKeysAndCertificate", "create-from-csr": "CreateCertificateFromCsr"}

Result: TypeAlias = dict[str, Any]
Outcome: TypeAlias = tuple[Result, bool]  # and whether a thing was made or changed

log = get_logger("devices.provisioning")


@dataclass(frozen=True, slots=True)
class Reply:
    """What to tell the client that asked; `changed`: a thing did, so live connections' rights may have, too."""

    topic: str
    payload: bytes
    changed: bool = False


class Refused(TidegateError):
    """What a `rejected` reply says: an HTTP status, AWS's name for the error, words."""

    def __init__(self, status: int, code: str, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class _Claimant:
    """Who asks: a token serves nobody else."""

    client_id: str
    principal: str | None
    certificate_id: str
    registered: bool  # by the authority of the box, or just in time


@dataclass(slots=True)
class _Pending:
    """A certificate that waits for its thing, and, when it has one, what was asked and answered."""

    claimant: _Claimant
    certificate_id: str
    pem: str
    until: float
    asked: tuple[str, Mapping[str, str]] | None = None
    result: Result | None = None


class Provisioning:
    """The service of one daemon; for the event loop's thread. `templates` may be replaced at any time.

    `authority` is opened when it is first needed, `policies` gives the names of the policies that exist now.
    """

    def __init__(
        self,
        registry: Registry,
        authority: Callable[[], Authority],
        templates: Mapping[str, Template],
        policies: Callable[[], Container[str]],
        counters: Counters,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.templates = templates
        self._registry = registry
        self._authority = authority
        self._policies = policies
        self._counters = counters
        self._clock = clock
        self._pending: dict[str, _Pending] = {}  # by token, the oldest first
        self._requests = 0
        self._turn = asyncio.Lock()
        self._hooks = asyncio.Semaphore(HOOKS_MAX)

    async def answer(
        self, client_id: str, principal: str | None, certificate: Certificate | None, message: Message,
        still_allowed: Callable[[], bool],
    ) -> Reply | None:  # fmt: skip
        """The reply to what a client published below PREFIXES; None when that is no request.

        `still_allowed` is asked before a device is made: whether the client might publish the request now, too.
        """
        topic = _TOPIC.fullmatch(message.topic)
        if topic is None:
            return None
        id_ = certificate.id if certificate else ""
        claimant = _Claimant(client_id, principal, id_, id_ in self._registry.certificates)
        operation = _OPERATIONS.get(topic["create"], "RegisterThing")
        dumps = cbor.dumps if topic["format"] == "cbor" else orjson.dumps
        try:
            result, changed = await self._admit(topic, claimant, message.payload, still_allowed)
        except Refused as refused:
            self._counters.add("provisioning_rejected_total", operation=operation, error=refused.code)
            log.warning("provisioning refused", operation=operation, client=client_id, error=refused)
            body = {"statusCode": refused.status, "errorCode": refused.code, "errorMessage": str(refused)}
            return Reply(f"{message.topic}/rejected", dumps(body))
        self._counters.add("provisioning_accepted_total", operation=operation)
        return Reply(f"{message.topic}/accepted", dumps(result), changed)

    async def _admit(
        self, topic: re.Match[str], claimant: _Claimant, payload: bytes, still_allowed: Callable[[], bool]
    ) -> Outcome:
        if self._requests >= REQUESTS_MAX:
            raise Refused(429, "Throttling", "too many requests at once; try again later")
        self._requests += 1
        try:
            request = _request(payload, topic["format"])
            if topic["template"]:
                work = self._register_thing(topic["template"], claimant, request, still_allowed)
                return await self._explained(work)
            return await self._explained(self._create(topic["create"], claimant, request))
        finally:
            self._requests -= 1

    async def _explained(self, work: Awaitable[Outcome]) -> Outcome:
        """The outcome, or Refused for everything that is somebody's mistake. Paths and policies are not for devices."""
        try:
            return await work
        except (UnusableParameter, RegistryError) as error:
            raise Refused(400, "InvalidParameters", str(error)) from None
        except Conflict as error:
            raise Refused(409, "ResourceConflict", str(error)) from None
        except StorageError as error:
            log.error("provisioning cannot write", error=error)
            raise Refused(503, "ServiceUnavailable", "nothing was stored; try again later") from None
        except Refused:
            raise
        except TidegateError as error:
            log.error("provisioning is not set up as it should be", error=error)
        except Exception as error:  # noqa: BLE001 - whoever may ask must not be able to end the daemon
            log.fault("provisioning failed", error)
        raise Refused(500, "InternalFailure", "the gateway's operator finds the reason in its log")

    # -- certificates -------------------------------------------------------------------------------------------------

    async def _create(self, operation: str, claimant: _Claimant, request: Mapping[str, Any]) -> Outcome:
        csr = request.get("certificateSigningRequest") if operation == "create-from-csr" else None
        if operation == "create-from-csr" and not isinstance(csr, str):
            raise Refused(400, "InvalidRequest", "certificateSigningRequest is missing, a PEM text")
        async with self._turn:
            pem, key = await asyncio.to_thread(self._issue, csr)
        certificate_id = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
        token = secrets.token_urlsafe(TOKEN_BYTES)
        self._remember(token, _Pending(claimant, certificate_id, pem, self._clock() + TOKEN_SECONDS))
        result = {"certificateId": certificate_id, "certificatePem": pem, "certificateOwnershipToken": token}
        return result | ({"privateKey": key} if key else {}), False

    def _issue(self, csr: str | None) -> tuple[str, str]:
        """Certificate and key, the key empty when the device keeps its own; runs in a thread."""
        if csr is None:
            return self._authority().issue(COMMON_NAME)
        from devices import certificates  # late: a daemon that provisions nothing does not carry the library

        try:
            certificates.requested(csr)
        except CertificateError as error:
            raise Refused(400, "InvalidCertificateSigningRequest", str(error)) from None
        return self._authority().sign(csr, COMMON_NAME), ""

    def _remember(self, token: str, pending: _Pending) -> None:
        own = [old for old, each in self._pending.items() if each.claimant == pending.claimant]
        if len(own) >= PENDING_PER_CLIENT:
            del self._pending[own[0]]
        elif len(self._pending) >= PENDING_MAX:
            ((most, _),) = Counter(each.claimant.principal for each in self._pending.values()).most_common(1)
            del self._pending[next(old for old, each in self._pending.items() if each.claimant.principal == most)]
        self._pending[token] = pending

    # -- things -------------------------------------------------------------------------------------------------------

    async def _register_thing(
        self, name: str, claimant: _Claimant, request: Mapping[str, Any], still_allowed: Callable[[], bool]
    ) -> Outcome:
        template = self.templates.get(name)
        if template is None:
            raise Refused(404, "ResourceNotFound", f"there is no provisioning template {name[:80]!r}")
        parameters = _parameters(request)
        pending = self._owned(request.get("certificateOwnershipToken"), claimant)
        if pending.asked == (name, parameters) and pending.result is not None:
            return pending.result, False
        if pending.asked is not None:
            raise Refused(400, "InvalidCertificateOwnershipToken", "the certificate ownership token was used already")
        pending.asked = (name, parameters)
        try:
            pending.result, changed = await self._provision(template, claimant, pending, parameters, still_allowed)
        finally:
            if pending.result is None:
                pending.asked = None  # nothing was made: the device may try again with the certificate it has
        return pending.result, changed

    async def _provision(
        self, template: Template, claimant: _Claimant, pending: _Pending, parameters: Mapping[str, str],
        still_allowed: Callable[[], bool],
    ) -> Outcome:  # fmt: skip
        if template.hook is not None:
            async with self._hooks:
                parameters = await _approved(template, claimant, pending, parameters)
        plan = template.plan(parameters, {CERTIFICATE_ID: pending.certificate_id})
        async with self._turn:
            if not still_allowed():
                raise _ended()
            changed = await asyncio.to_thread(self._enrol, plan, claimant, pending.pem, self._policies())
        log.info(
            "a device was provisioned", thing=plan.thing, template=template.name,
            claim=claimant.principal, client=claimant.client_id, certificate=pending.certificate_id,
        )  # fmt: skip
        return {"deviceConfiguration": plan.configuration, "thingName": plan.thing}, changed

    def _enrol(self, plan: Plan, claimant: _Claimant, pem: str, policies: Container[str]) -> bool:
        """Carry the plan out, in a thread; whether a thing was made or changed. Raises Refused if the claim ended."""
        with self._registry.transaction():  # which begins with what commands beside us have written
            claim = self._registry.certificates.get(claimant.certificate_id)
            if claimant.registered and (claim is None or claim.status is not Status.ACTIVE):
                raise _ended()
            before = self._registry.things.get(plan.thing)
            after, _ = enrol(self._registry, plan, pem, policies)
        return before != after

    def _owned(self, token: object, claimant: _Claimant) -> _Pending:
        pending = self._pending.get(token) if isinstance(token, str) else None
        if pending is None or pending.claimant != claimant or pending.until <= self._clock():
            words = "the certificate ownership token is not, or no longer, valid for this client; create a certificate"
            raise Refused(400, "InvalidCertificateOwnershipToken", words)
        return pending


def _ended() -> Refused:
    return Refused(403, "AccessDenied", "the claim may not ask for this any more")


async def _approved(
    template: Template, claimant: _Claimant, pending: _Pending, parameters: Mapping[str, str]
) -> Mapping[str, str]:
    """The parameters after the hook has seen them. Raises Refused when it forbids, HookFailed when it fails."""
    assert template.hook is not None
    question = {
        "claimCertificateId": claimant.certificate_id,
        "certificateId": pending.certificate_id,
        "certificatePem": pending.pem,
        "templateArn": f"arn:aws:iot:::provisioningtemplate/{template.name}",
        "clientId": claimant.client_id,
        "parameters": parameters,
    }
    answer = await hooks.ask(template.hook, question)
    if not answer.allow:
        raise Refused(403, "AccessDenied", "the pre-provisioning hook does not allow it")
    return {**parameters, **answer.overrides}


def _request(payload: bytes, form: str) -> Mapping[str, Any]:
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise Refused(413, "InvalidRequest", f"the payload has more than {PAYLOAD_BYTES_MAX:,} bytes")
    request: object = {}
    try:
        if payload:
            request = cbor.loads(payload) if form == "cbor" else orjson.loads(payload)
    except (orjson.JSONDecodeError, cbor.NotCbor) as error:
        raise Refused(400, "InvalidRequest", f"the payload is not {form.upper()}: {error}") from None
    if not isinstance(request, dict):
        raise Refused(400, "InvalidRequest", "the payload must be an object")
    return request


def _parameters(request: Mapping[str, Any]) -> Mapping[str, str]:
    parameters = request.get("parameters") or {}
    if not isinstance(parameters, dict) or not all(isinstance(value, str) for value in parameters.values()):
        raise Refused(400, "InvalidParameters", "parameters must be an object of texts")
    if len(parameters) > PARAMETERS_MAX or any(len(text) > PARAMETER_CHARS_MAX for text in parameters.values()):
        limits = f"at most {PARAMETERS_MAX} parameters of at most {PARAMETER_CHARS_MAX:,} characters are taken"
        raise Refused(400, "InvalidParameters", limits)
    return parameters
