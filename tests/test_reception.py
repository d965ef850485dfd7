"""The HTTP side of a daemon as a whole: its socket for the operator, its address for keys, tokens and devices."""

import asyncio
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from core.config import HostPort, UnixSocket
from core.errors import ConfigurationError
from core.http.config import HttpSection
from core.http.entrance import Caller
from core.http.iotdata import IotData
from core.http.messages import Request, Response, json_response
from core.http.publishing import Publisher
from core.http.routes import Labels, Routes
from core.mqtt.broker import Broker
from core.mqtt.listener import Listeners
from core.receipts import DELIVERED, Batch
from core.telemetry import Counters
from devices.config import DevicesSection
from devices.gatekeeper import Gatekeeper
from devices.reception import SOCKET_FILE, Reception, check
from tests.aws_clients import KEY_ID, SECRET, aws
from tests.gates import Company, Credentials
from tests.http_clients import Answer, wire

DEVICES = DevicesSection()
TOKEN = "3f6b0c1e9d4a4b7e"
POST = b"POST /topics/%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n%s\r\n1"


class WhoAmI:
    """An API that says who asks."""

    def add_to(self, routes: Routes) -> None:
        routes.add("GET", "/me", self.tell)

    async def tell(self, caller: Caller, request: Request, labels: Labels) -> Response:
        return json_response({"kind": caller.kind.value, "name": caller.name, "free": caller.grant is None})


class Site:
    """A daemon's gatekeeper, broker and HTTP side."""

    def __init__(self, directory: Path, devices: DevicesSection, **section: Any) -> None:
        self.data = directory / "data"
        self.counters = Counters()
        self.gatekeeper = Gatekeeper(devices, self.data, self.counters)
        self.batches: list[Batch] = []
        self.broker = Broker(self.gatekeeper.access, self._accept, self.counters)
        self.listeners = Listeners(self.broker)
        self.gatekeeper.guard(self.broker, self.listeners)
        self.gatekeeper.contexts([])
        self.section = HttpSection(address=HostPort("127.0.0.1", 0), **section) if section else None
        messages = IotData(Publisher(self.broker).publish, None, lambda: 1)
        self.reception = Reception(self.section, self.data, self.gatekeeper, self.counters, [WhoAmI(), messages])

    def _accept(self, batch: Batch) -> None:
        self.batches.append(batch)
        batch.receipt.settle(DELIVERED)

    @property
    def address(self) -> HostPort:
        (address,) = self.reception.addresses
        assert isinstance(address, HostPort)
        return address

    @property
    def topics(self) -> list[str]:
        return [batch.messages[0].topic for batch in self.batches]

    async def ask(self, request: bytes, context: ssl.SSLContext | None = None) -> Answer:
        async with wire(self.address, context) as peer:
            peer.send(request)
            return await peer.answer()


@asynccontextmanager
async def running(directory: Path, devices: DevicesSection = DEVICES, **section: Any) -> AsyncIterator[Site]:
    site = Site(directory, devices, **section)
    try:
        await site.reception.open()
        yield site
    finally:
        await site.reception.close()
        site.gatekeeper.close()


def secret_file(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text)
    path.chmod(0o600)
    return path


def keys(directory: Path, name: str = "operator", secret: str = SECRET) -> Path:
    text = f"[{name}]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {secret}\n"
    return secret_file(directory, "keys", text)


def get(path: bytes = b"/me", *headers: bytes) -> bytes:
    return b"\r\n".join([b"GET %s HTTP/1.1" % path, b"Host: localhost", *headers]) + b"\r\n\r\n"


async def test_the_daemons_user_may_do_everything_by_the_socket_with_or_without_an_address(tmp_path: Path) -> None:
    for section in ({}, {"credentials": keys(tmp_path)}):
        async with running(tmp_path, **section) as site:
            path = site.data / SOCKET_FILE
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            async with wire(UnixSocket(path)) as peer:
                peer.send(get())
                assert (await peer.answer()).json == {"kind": "local", "name": "", "free": True}
                peer.send(POST % (b"plant/a?qos=1", b""))
                assert (await peer.answer()).status == 200
            assert site.topics == ["plant/a"]
        assert not path.exists()


async def test_keys_and_tokens_open_the_address_and_nothing_else_does(tmp_path: Path) -> None:
    tokens = secret_file(tmp_path, "tokens", f"[grafana]\ntoken = {TOKEN}\n")
    async with running(tmp_path, credentials=keys(tmp_path), tokens=tokens) as site:
        answer = await site.ask(get(b"/me", b"Authorization: Bearer " + TOKEN.encode()))
        assert answer.json == {"kind": "bearer token", "name": "grafana", "free": True}
        assert (await site.ask(get())).status == 403

        def publish() -> None:
            with aws("iot-data", f"http://{site.address}") as client:
                client.publish(topic="plant/a", qos=1, payload=b"1")

        await asyncio.to_thread(publish)
        (batch,) = site.batches
        assert (batch.origin.principal, batch.origin.protocol) == ("operator", "http")
        assert site.counters.value("http_requests_refused_total", status="403") == 1


async def test_new_keys_hold_after_a_reload_and_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    tokens = secret_file(tmp_path, "tokens", f"[grafana]\ntoken = {TOKEN}\n")
    async with running(tmp_path, tokens=tokens) as site:

        async def status(token: str) -> int:
            return (await site.ask(get(b"/me", b"Authorization: Bearer " + token.encode()))).status

        secret_file(tmp_path, "tokens", "[grafana]\ntoken = short\n")
        with pytest.raises(ConfigurationError, match="token"):
            site.reception.reload()
        assert await status(TOKEN) == 200
        secret_file(tmp_path, "tokens", f"[grafana]\ntoken = {TOKEN[::-1]}\n")
        site.reception.reload()
        assert (await status(TOKEN), await status(TOKEN[::-1])) == (401, 200)


async def test_anybody_may_come_in_where_that_is_said_and_publish_what_the_policy_anonymous_allows(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, anonymous=True) as site:
        assert (await site.ask(get())).json == {"kind": "anonymous", "name": "", "free": False}
        assert (await site.ask(POST % (b"plant/a", b""))).status == 200
        assert (await site.ask(POST % (b"%24aws%2Fthings%2Fa%2Fx", b""))).status == 403
        assert (await site.ask(get(b"/things/pump/shadow"))).status == 403
        assert (await site.ask(POST % (b"plant/a", b"Origin: http://evil.example\r\n"))).status == 403
    assert site.topics == ["plant/a"]


async def test_a_device_comes_with_its_certificate_and_does_what_its_policies_allow(tmp_path: Path) -> None:
    company = Company.make(tmp_path, "company")
    server = company.issue(tmp_path, "localhost")
    press = company.issue(tmp_path, "press")
    tls = {"certificate": server.certificate, "key": server.key, "client_ca": company.certificate}
    async with running(tmp_path, tls=tls) as site:
        context = press.context()
        answer = await site.ask(get(), context)
        assert (answer.json["kind"], answer.json["free"]) == ("certificate", False)
        assert (await site.ask(POST % (b"plant/a?qos=1", b""), context)).status == 200
        assert (await site.ask(POST % (b"%24aws%2Fx", b""), context)).status == 403
        assert (await site.ask(get(b"/things/press/shadow"), context)).status == 501  # there is no service for it
        assert (await site.ask(get(b"/things/pump/shadow"), context)).status == 403
        (batch,) = site.batches
        assert (batch.messages[0].topic, batch.messages[0].client_id) == ("plant/a", "")
        assert len(batch.origin.principal) == 64
        stranger = Credentials(None, None, company.certificate).context()
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await site.ask(get(), stranger)


async def test_a_certificate_that_is_on_a_revocation_list_is_refused_after_a_reload(tmp_path: Path) -> None:
    company = Company.make(tmp_path, "company")
    server, press = company.issue(tmp_path, "localhost"), company.issue(tmp_path, "press")
    tls = {"certificate": server.certificate, "key": server.key, "client_ca": company.certificate}
    revoked = tmp_path / "company.crl"
    company.revoke(revoked)
    async with running(tmp_path, DevicesSection(revocation_lists=(revoked,)), tls=tls) as site:
        assert (await site.ask(get(), press.context())).status == 200
        company.revoke(revoked, press)
        site.gatekeeper.reload()
        answer = await site.ask(get(), press.context())
        assert (answer.status, answer.json["message"]) == (403, "certificate on a revocation list")


async def test_a_reload_takes_a_new_certificate_for_the_address_and_disconnects_nobody(tmp_path: Path) -> None:
    async with running(tmp_path, tls={}, anonymous=True) as site:
        home = site.data / "devices"
        context = Credentials(None, None, home / "ca.pem").context()
        async with wire(site.address, context) as before:
            for name in ("server.pem", "server.key"):
                (home / name).unlink()
            site.gatekeeper.reload()
            async with wire(site.address, context) as after:
                certificates = [
                    peer.writer.get_extra_info("ssl_object").getpeercert(binary_form=True) for peer in (before, after)
                ]
                assert certificates[0] != certificates[1]
                for peer in (before, after):
                    peer.send(get())
                    assert (await peer.answer()).status == 200


def test_a_bad_file_is_found_before_the_daemon_starts(tmp_path: Path) -> None:
    check(None)
    check(HttpSection(address=HostPort("127.0.0.1", 0), credentials=keys(tmp_path)))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        check(HttpSection(address=HostPort("127.0.0.1", 0), credentials=tmp_path / "absent"))
