"""Just-in-time registration: a device with a certificate of its vendor's authority becomes known when it connects.

As at AWS IoT Core, by the authority that signed the certificate ("Just-in-time provisioning", "just-in-time
registration"). With a template the device is made of the fields of its certificate, and let in on this very connection;
at AWS it is sent away once, so devices that know AWS connect again and are in as well. Without a template the
certificate waits as PENDING_ACTIVATION for an operator, nobody is let in, and a message that rules can hear says so.

TLS has verified the certificate up to an authority of the listener before anyone asks here; what its holder may do,
`devices.access` decides. What a vendor's authority has not signed itself, but one below it has, is not registered.

Invariants:
1. What is registered, revoked or waiting is never registered again, nor changed.
2. The thing and the certificate are on the disk, together, before anybody is let in.
3. Registrations run in threads, at most `WAITING_MAX` of them wait; whoever comes then is refused, and comes again.
"""

import asyncio
import hashlib
import ssl
import time
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import orjson

from core.errors import ConfigurationError, TidegateError
from core.message import Message
from core.mqtt.access import Certificate, Peer
from core.telemetry import Counters, get_logger
from devices.config import RegistrationAuthority
from devices.enrolment import enrol
from devices.registry import Registered, Registry, Status
from devices.templates import CERTIFICATE_ID, SUBJECT_PARAMETERS, Template

EVENTS = "$aws/events/certificates/registered/"  # and the ID of the authority's certificate, as at AWS
WAITING_MAX = 64  # a site that is switched on; a registration takes some milliseconds

Done: TypeAlias = Callable[[], None]

log = get_logger("devices.registration")


@dataclass(frozen=True, slots=True)
class Vendor:
    """An authority whose certificates are registered when they come: `id` is the SHA-256 of its certificate's DER."""

    id: str
    template: Template | None


def read_vendors(authorities: Sequence[RegistrationAuthority], templates: Mapping[str, Template]) -> list[Vendor]:
    """The authorities of a configuration. Raises ConfigurationError with everything that is wrong with them."""
    vendors: list[Vendor] = []
    problems: list[str] = []
    for index, each in enumerate(authorities):
        path = f"devices.registration_authorities[{index}]"
        template = templates.get(each.template) if each.template else None
        if each.template and template is None:
            known = ", ".join(sorted(templates)) or "none"
            problems.append(f"{path}.template: there is no template {each.template!r}; there are: {known}")
        elif template is not None:
            problems += [f"{path}.template: {words}" for words in _unfit(template)]
        try:
            vendors += [Vendor(key, template) for key in _certificates(each.ca)]
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            problems.append(f"{path}.ca: {each.ca} holds no PEM certificate of an authority: {error}")
    if problems:
        raise ConfigurationError("configuration", problems)
    return vendors


class Registration:
    """The service of one daemon; for the event loop's thread. `vendors` may be replaced at any time.

    `policies` gives the names of the policies that exist now, `publish` takes messages for rules and subscribers.
    """

    def __init__(
        self,
        registry: Registry,
        vendors: Sequence[Vendor],
        policies: Callable[[], Container[str]],
        publish: Callable[[Message], None],
        counters: Counters,
    ) -> None:
        self.vendors = vendors
        self._registry = registry
        self._policies = policies
        self._publish = publish
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[Certificate, Vendor, Done]] = deque()  # the first is being worked on

    def vendor(self, certificate: Certificate) -> Vendor | None:
        """The authority here that has itself signed a certificate, by the chain that TLS has verified, as at AWS."""
        signer = certificate.authorities[:1]
        return next((vendor for vendor in self.vendors if (vendor.id,) == signer), None)

    def register(self, peer: Peer, done: Done) -> bool:
        """Whether the certificate, which is not registered, is one of these authorities; then `done` is called once.

        The registry says what came of it. A certificate that is still not in it is refused: what a vendor's
        certificate says of itself must not be believed without registration.
        """
        certificate = peer.certificate
        vendor = self.vendor(certificate) if certificate is not None else None
        if certificate is None or vendor is None:
            return False
        if len(self._waiting) >= WAITING_MAX:
            self._counters.add("registrations_refused_total", reason="too many at once")
            done()
            return True
        self._waiting.append((certificate, vendor, done))
        if len(self._waiting) == 1:
            self._work()
        return True

    def _work(self) -> None:
        certificate, vendor, _ = self._waiting[0]
        self._loop.run_in_executor(None, self._register, certificate, vendor).add_done_callback(self._worked)

    def _worked(self, future: "asyncio.Future[Registered | None]") -> None:
        certificate, vendor, done = self._waiting.popleft()
        if self._waiting:
            self._work()
        try:
            self._tell(future.result(), vendor)
        except TidegateError as error:
            self._counters.add("registrations_refused_total", reason=type(error).__name__)
            log.warning("a certificate is not registered", certificate=certificate.id, error=error)
        except Exception as error:  # noqa: BLE001 - whoever waits for the answer must get one
            log.fault("a registration failed", error, certificate=certificate.id)
        done()

    def _register(self, certificate: Certificate, vendor: Vendor) -> Registered | None:
        """The certificate if it was registered just now; runs in a thread."""
        if certificate.id in self._registry.certificates:  # on another connection, while this one waited
            return None
        pem = ssl.DER_cert_to_PEM_cert(certificate.der)
        if vendor.template is None:
            return self._registry.put_certificate(pem, None, Status.PENDING_ACTIVATION)
        subject = certificate.subject
        provided = {name: subject[field] for name, field in SUBJECT_PARAMETERS.items() if field in subject}
        plan = vendor.template.plan({}, {**provided, CERTIFICATE_ID: certificate.id})
        return enrol(self._registry, plan, pem, self._policies())[1]

    def _tell(self, new: Registered | None, vendor: Vendor) -> None:
        if new is None:
            return
        self._counters.add("registrations_total", status=new.status)
        log.info("a certificate was registered", certificate=new.id, thing=new.thing, status=new.status)
        if new.status is Status.PENDING_ACTIVATION:
            self._publish(_event(new, vendor))


def _event(registered: Registered, vendor: Vendor) -> Message:
    """What AWS IoT publishes of a certificate that waits for activation; there is no account here."""
    now = time.time_ns() // 1_000_000
    payload = {
        "certificateId": registered.id,
        "caCertificateId": vendor.id,
        "timestamp": now,
        "certificateStatus": registered.status,
        "awsAccountId": "",
        "certificateRegistrationTimestamp": str(registered.created_at),
    }
    return Message(EVENTS + vendor.id, orjson.dumps(payload), qos=1, received_at=now)


def _unfit(template: Template) -> Iterator[str]:
    """What a template must not have to be used without anybody who could be asked."""
    if template.hook is not None:
        yield f"{template.name} has a hook, which is for provisioning by claim only, as at AWS"
    for name, default in template.parameters.items():
        if default is None and name not in SUBJECT_PARAMETERS and name != CERTIFICATE_ID:
            known = ", ".join(part.removeprefix("AWS::IoT::Certificate::") for part in SUBJECT_PARAMETERS)
            yield f"{template.name} has the parameter {name}; a certificate provides AWS::IoT::Certificate:: {known}"


def _certificates(path: Path) -> list[str]:
    """The ID of each authority in a PEM file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(path)
    found = context.get_ca_certs(binary_form=True)
    if not found:
        raise ValueError("its basic constraints do not say that it is one")
    return [hashlib.sha256(der).hexdigest() for der in found]
