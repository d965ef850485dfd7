"""Real sockets and real clients on the broker: one write per turn, back-pressure, deadlines, TLS, and a clean end."""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any, cast

import pytest
from mqtt5 import (
    ConnAckReasonCode,
    ConnectPacket,
    DisconnectPacket,
    DisconnectReasonCode,
    PubAckPacket,
    PublishPacket,
    SubAckPacket,
    SubscribePacket,
    Will,
)
from paho.mqtt.client import Client as Paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from core.config import HostPort
from core.errors import ConfigurationError
from core.message import Message
from core.mqtt import listener as listener_module
from core.mqtt.access import Identity
from core.mqtt.limits import Limits
from core.mqtt.listener import Channel, Listeners
from core.mqtt.session import WAITING_MAX
from core.receipts import STORED, rejected
from devices.access import OpenAccess
from tests.certificates import Authority
from tests.mqtt_peers import PATIENCE_SECONDS, Bench, RawPeer, listening, on_both_loops, only, publish, until, wanted

both_versions = pytest.mark.parametrize("version", [5, 4])
READ_BYTES_MAX = 256 << 10  # what asyncio and uvloop take from a socket at once


class Socket(asyncio.Transport):
    """The broker's end of a socket that writes down what is done to it."""

    def __init__(self) -> None:
        super().__init__({"peername": ("10.0.0.7", 50_000)})
        self.writes: list[bytes] = []
        self.reading = True
        self.closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


def plugged_in(bench: Bench, client_id: str = "a") -> tuple[Channel, Socket]:
    """A channel of an admitted MQTT 5 client, and its socket."""
    channel, plug = Channel(Listeners(bench.broker)), Socket()
    channel.connection_made(plug)
    channel.data_received(ConnectPacket(client_id).write())
    plug.writes.clear()
    return channel, plug


def acknowledgements(numbers: range) -> bytes:
    return b"".join(PubAckPacket(number).write() for number in numbers)


# -- how much in one write ---------------------------------------------------------------------------------------------


async def test_the_acknowledgements_of_a_read_leave_in_one_write() -> None:
    channel, plug = plugged_in(Bench())
    await asyncio.sleep(0)
    channel.data_received(b"".join(publish("t", b"x", number).write() for number in range(1, 501)))
    await asyncio.sleep(0)
    assert plug.writes == [acknowledgements(range(1, 501))]


async def test_everything_that_is_settled_in_one_turn_leaves_in_one_write() -> None:
    bench = Bench(settle=False)
    channel, plug = plugged_in(bench)
    for number in range(1, 5):
        channel.data_received(publish("t", b"x", number).write())
    for batch in reversed(bench.batches):
        batch.receipt.settle(STORED)
    assert plug.writes == []
    await asyncio.sleep(0)
    assert plug.writes == [acknowledgements(range(1, 5))]


async def test_reading_pauses_above_the_limit_and_resumes_when_all_is_settled() -> None:
    bench = Bench(Limits(unsettled_bytes=1_000), settle=False)
    channel, plug = plugged_in(bench)
    for number, reading in [(1, True), (2, True), (3, False)]:
        channel.data_received(publish("t", bytes(400), number).write())
        assert plug.reading is reading
    bench.batches[0].receipt.settle(STORED)
    await asyncio.sleep(0)
    assert not plug.reading
    for batch in bench.batches[1:]:
        batch.receipt.settle(STORED)
    await asyncio.sleep(0)
    assert plug.reading


async def test_a_paused_qos_0_client_is_read_again_although_nothing_is_said_to_it() -> None:
    bench = Bench(Limits(unsettled_bytes=1_000), settle=False)
    channel, plug = plugged_in(bench)
    channel.data_received(publish("t", bytes(2_000)).write())
    assert not plug.reading
    bench.batches[0].receipt.settle(rejected("disk full"))
    await asyncio.sleep(0)
    assert plug.reading


async def test_all_peers_together_are_held_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "UNSETTLED_MAX_BYTES", 1_500)
    bench = Bench(settle=False)
    (one, plug_one), (two, plug_two) = plugged_in(bench, "one"), plugged_in(bench, "two")
    one.data_received(publish("t", bytes(1_000)).write())
    two.data_received(publish("t", bytes(1_000)).write())
    assert (plug_one.reading, plug_two.reading) == (True, False)
    one.data_received(publish("t", b"").write())
    assert not plug_one.reading
    for batch in bench.batches[1:]:
        batch.receipt.settle(STORED)
    await asyncio.sleep(0)
    assert (plug_one.reading, plug_two.reading) == (False, True)
    bench.batches[0].receipt.settle(STORED)
    await asyncio.sleep(0)
    assert plug_one.reading


# -- sockets -----------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_every_publish_of_a_large_write_is_acknowledged_in_order() -> None:
    bench = Bench()
    async with listening(bench) as address:
        peer = await RawPeer.connect(address, "a")
        peer.send(*[publish(f"t/{n % 7}", bytes(100), n) for n in range(1, 20_001)])
        packets = await peer.take(20_000)
        assert [packet.packet_id for packet in only(packets, PubAckPacket)] == list(range(1, 20_001))
        assert len(bench.batches) < 200
        await peer.close()


@on_both_loops
async def test_a_peer_whose_messages_are_not_stored_is_held_back_by_tcp_and_others_are_not() -> None:
    bench = Bench(Limits(unsettled_bytes=10_000), settle=False)
    async with listening(bench) as address:
        peer, other = await RawPeer.connect(address, "a"), await RawPeer.connect(address, "b")
        total = 3_000
        peer.send(*[publish("t", bytes(1_000), n) for n in range(1, total + 1)])
        done = answered = 0
        while answered < total:
            await until(lambda handled=done: len(bench.batches) > handled)  # type: ignore[misc]
            assert 0 < bench.broker.unsettled < 10_000 + READ_BYTES_MAX + 2_000
            other.send(SubscribePacket(1, [wanted("u")]))
            assert isinstance(await other.next(), SubAckPacket)
            batches = bench.batches[done:]
            done += len(batches)
            for batch in batches:
                batch.receipt.settle(STORED)
                answered += len(await peer.take(len(batch.messages)))
        assert done > 3
        assert len(bench.accepted) == total
        for client in (peer, other):
            await client.close()


@on_both_loops
async def test_a_client_that_does_not_read_costs_bounded_memory_and_every_loss_is_counted() -> None:
    bench = Bench()
    async with listening(bench) as address:
        peer = await RawPeer.connect(address, "a")
        peer.send(SubscribePacket(1, [wanted("t")]))
        assert isinstance(await peer.next(), SubAckPacket)
        cast(asyncio.ReadTransport, peer.writer.transport).pause_reading()
        total, size = 1_500, 30_000
        for number in range(total):
            bench.broker.publish([Message("t", number.to_bytes(size, "big"))])
            await asyncio.sleep(0)
        dropped = bench.counters.value("dropped_total", reason="slow subscriber")
        assert dropped > 100
        cast(asyncio.ReadTransport, peer.writer.transport).resume_reading()
        packets = only(await peer.take(total - dropped), PublishPacket)
        numbers = [int.from_bytes(packet.payload, "big") for packet in packets]
        assert numbers == sorted(set(numbers))
        assert WAITING_MAX * size > 16 << 20  # so it was the bound in bytes that held
        await peer.close()


@on_both_loops
async def test_who_says_nothing_is_closed_at_the_deadline_with_and_without_tls(tmp_path: Path) -> None:
    bench = Bench(Limits(connect_seconds=0.1))
    async with listening(bench) as plain, listening(bench, Authority(tmp_path).server()) as encrypted:
        peers = [await RawPeer.open(plain), await RawPeer.open(plain), await RawPeer.open(encrypted)]
        peers[1].writer.write(b"\x10\x20\x00\x04MQ")
        for peer in peers:
            assert await peer.rest() == []
            await peer.close()


@on_both_loops
async def test_a_connection_that_breaks_publishes_its_will_and_is_forgotten() -> None:
    bench = Bench()
    async with listening(bench) as address:
        peer = await RawPeer.connect(address, "a", will=Will("gone", payload=b"bye"))
        peer.writer.transport.abort()
        await until(lambda: bench.topics == ["gone"])
        assert bench.broker.clients() == []
        await peer.close()


@on_both_loops
async def test_a_malformed_packet_ends_one_connection_with_the_reason_as_its_last_word() -> None:
    bench = Bench()
    async with listening(bench) as address:
        peer = await RawPeer.connect(address, "a")
        peer.send(publish("t", b"", 1))
        peer.writer.write(b"\xf3\x00")
        acknowledged, farewell = await peer.rest()
        assert acknowledged == PubAckPacket(1)
        assert isinstance(farewell, DisconnectPacket)
        assert farewell.reason_code == DisconnectReasonCode.MALFORMED_PACKET
        await peer.close()


@on_both_loops
async def test_a_client_that_is_cut_off_in_mid_sentence_hears_why() -> None:
    bench = Bench(Limits(packet_bytes=10_000))
    async with listening(bench) as address:
        peer = await RawPeer.connect(address, "a")
        peer.send(publish("t", b"", 1), publish("t", bytes(200_000), 2), *[publish("t", bytes(9_000))] * 400)
        acknowledged, farewell = await peer.rest()  # a reset would be an error here
        assert acknowledged == PubAckPacket(1)
        assert isinstance(farewell, DisconnectPacket)
        assert farewell.reason_code == DisconnectReasonCode.PACKET_TOO_LARGE
        await peer.close()
    assert len(bench.accepted) == 1


@on_both_loops
async def test_settling_for_clients_that_are_gone_is_harmless() -> None:
    bench = Bench(settle=False)
    async with listening(bench) as address:
        peer = await RawPeer.connect(address, "a")
        for number in range(1, 21):
            peer.send(publish("t", b"", number))
            await until(lambda expected=number: len(bench.accepted) == expected)  # type: ignore[misc]
        peer.writer.transport.abort()
        await until(lambda: bench.broker.clients() == [])
        for batch in bench.batches:
            batch.receipt.settle(STORED)
            await asyncio.sleep(0)
        assert bench.broker.unsettled == 0
        await peer.close()


@on_both_loops
async def test_closing_tells_mqtt_5_clients_why_and_closes_everyone() -> None:
    bench = Bench()
    listeners = Listeners(bench.broker)
    address = await listeners.open(HostPort("127.0.0.1", 0))
    assert listeners.addresses == [address]
    new, old = await RawPeer.connect(address, "new", 5), await RawPeer.connect(address, "old", 4)
    stranger = await RawPeer.open(address)
    await until(lambda: len(listeners.channels) == 3)
    closing = asyncio.create_task(listeners.close())
    assert await new.rest() == [DisconnectPacket(reason_code=DisconnectReasonCode.SERVER_SHUTTING_DOWN)]
    assert await old.rest() == await stranger.rest() == []
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await RawPeer.open(address)
    for peer in (new, old, stranger):
        await peer.close()
    await closing
    assert listeners.channels == set()


@on_both_loops
async def test_closing_acknowledges_what_was_read_before_it_says_goodbye() -> None:
    bench = Bench(settle=False)
    listeners = Listeners(bench.broker)
    address = await listeners.open(HostPort("127.0.0.1", 0))
    peer = await RawPeer.connect(address, "a")
    peer.send(publish("t", b"", 1))
    await until(lambda: bench.topics == ["t"])
    closing = asyncio.create_task(listeners.close())
    await asyncio.sleep(0)
    peer.send(publish("t", b"too late", 2))
    assert not closing.done()
    bench.batches[0].receipt.settle(STORED)
    assert await peer.rest() == [
        PubAckPacket(1),
        DisconnectPacket(reason_code=DisconnectReasonCode.SERVER_SHUTTING_DOWN),
    ]
    await peer.close()
    await closing
    assert len(bench.accepted) == 1


@on_both_loops
async def test_an_address_that_cannot_be_bound_is_a_configuration_error() -> None:
    bench = Bench()
    async with listening(bench) as address:
        for bad, reason in [(address, "in use"), (HostPort("203.0.113.9", 0), "203.0.113.9")]:
            with pytest.raises(ConfigurationError, match=reason) as caught:
                await Listeners(bench.broker).open(bad)
            assert str(caught.value).startswith(f"listener {bad}: ")


async def test_one_broker_listens_on_several_addresses_ipv6_too() -> None:
    bench = Bench()
    listeners = Listeners(bench.broker)
    hosts = ["127.0.0.1", *(["::1"] if socket.has_dualstack_ipv6() else [])]
    for host in hosts:
        peer = await RawPeer.connect(await listeners.open(HostPort(host, 0)), host)
        await peer.close()
    assert [address.host for address in listeners.addresses] == hosts
    await listeners.close()


# -- TLS ---------------------------------------------------------------------------------------------------------------


class Remembering(OpenAccess):
    """Keeps who connected."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str | None]] = []

    def connect(self, identity: Identity, packet: ConnectPacket) -> ConnAckReasonCode:
        self.seen.append((identity.client_id, identity.principal))
        return super().connect(identity, packet)


@on_both_loops
async def test_the_common_name_of_a_clients_certificate_is_who_it_is(tmp_path: Path) -> None:
    authority, access = Authority(tmp_path), Remembering()
    async with listening(Bench(access=access), authority.server(anonymous=True)) as (_, port):
        for name in ("press-1", None):
            peer = await RawPeer.connect(HostPort("localhost", port), "x", context=authority.client(name))
            peer.send(publish("t", bytes(100_000), 1))
            assert await peer.next() == PubAckPacket(1)
            await peer.close()
    assert access.seen == [("x", "press-1"), ("x", None)]


@on_both_loops
async def test_a_listener_that_wants_certificates_lets_nobody_in_without_one_of_its_authority(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    authority, other = Authority(tmp_path), Authority(tmp_path / "other")
    stranger = other.client("press-1")
    stranger.load_verify_locations(authority.path)
    bench = Bench()
    async with listening(bench, authority.server()) as (_, port):
        for context in (authority.client(), stranger):
            with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
                await RawPeer.connect(HostPort("localhost", port), "x", context=context)
    assert bench.broker.clients() == []
    assert bench.counters.value("mqtt_connections_total") == 0


# -- real clients ------------------------------------------------------------------------------------------------------


async def mosquitto(program: str, address: HostPort, *arguments: str) -> asyncio.subprocess.Process:
    """Start `mosquitto_pub` or `mosquitto_sub`."""
    return await asyncio.create_subprocess_exec(
        program, "-h", address.host, "-p", str(address.port), *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    """The exit code of a client and what it printed."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        output, _ = await process.communicate()
    return process.returncode, output.decode()


@pytest.mark.parametrize("version", ["5", "311"])
async def test_mosquittos_clients_publish_subscribe_retain_and_leave_a_will(version: str) -> None:
    bench = Bench()
    async with listening(bench) as address:
        v, qos = ("-V", version), ("-q", "1")
        for said in ("-t kept/1 -r -m first", "-t kept/2 -r -n", "-t other -m x"):
            assert await ended(await mosquitto("mosquitto_pub", address, *v, *qos, *said.split())) == (0, "")
        wants = ["-t", "kept/#", "-t", "gone", "-C", "3"]
        subscriber = await mosquitto("mosquitto_sub", address, *v, *qos, *wants, "-F", "%t %r %p")
        await until(lambda: bench.broker.router.subscriptions == 2)
        will = ["-t", "none", "--will-topic", "gone", "--will-payload", "bye"]
        doomed = await mosquitto("mosquitto_sub", address, *v, *will)
        await until(lambda: bench.broker.router.subscriptions == 3)
        now = ["-t", "kept/3", "-m", "now", "-r"]
        assert await ended(await mosquitto("mosquitto_pub", address, *v, *qos, *now)) == (0, "")
        doomed.kill()
        await ended(doomed)
        assert await ended(subscriber) == (0, "kept/1 1 first\nkept/3 0 now\ngone 0 bye\n")
    assert bench.topics == ["kept/1", "kept/2", "other", "kept/3", "gone"]
    assert [message.qos for message in bench.accepted] == [1, 1, 1, 1, 0]


@pytest.mark.parametrize("version", ["5", "311"])
async def test_mosquittos_client_sends_many_lines_and_each_is_acknowledged(version: str) -> None:
    bench = Bench()
    async with listening(bench) as address:
        publisher = await asyncio.create_subprocess_exec(
            "mosquitto_pub", "-h", address.host, "-p", str(address.port), "-V", version, "-q", "1", "-t", "t", "-l",
            stdin=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(PATIENCE_SECONDS):
            await publisher.communicate("".join(f"{n}\n" for n in range(2_000)).encode())
        assert publisher.returncode == 0
    assert [int(message.payload) for message in bench.accepted] == list(range(2_000))


async def test_mosquittos_mqtt_3_1_client_is_told_that_its_version_is_not_spoken() -> None:
    async with listening(Bench()) as address:
        publisher = await mosquitto("mosquitto_pub", address, "-V", "31", "-i", "a", "-t", "t", "-m", "x")
        code, output = await ended(publisher)
    assert code != 0
    assert "protocol version" in output


async def test_mosquittos_client_comes_in_over_tls_with_its_certificate(tmp_path: Path) -> None:
    authority, access = Authority(tmp_path), Remembering()
    certificate, key = authority.sign("press-7")
    bench = Bench(access=access)
    async with listening(bench, authority.server()) as (_, port):
        publisher = await mosquitto(
            "mosquitto_pub", HostPort("localhost", port), "-V", "5", "-i", "p7", "-q", "1", "-t", "t", "-m", "x",
            "--cafile", str(authority.path), "--cert", str(certificate), "--key", str(key),
        )  # fmt: skip
        assert await ended(publisher) == (0, "")
    assert access.seen == [("p7", "press-7")]
    assert bench.topics == ["t"]


def paho_session(address: HostPort, version: MQTTProtocolVersion) -> list[tuple[str, bytes, int, bool]]:
    """Subscribe, publish at both QoS, wait for all, say goodbye; what a paho client heard, on a thread of its own."""
    heard: list[tuple[str, bytes, int, bool]] = []
    client = Paho(CallbackAPIVersion.VERSION2, "paho", protocol=version)
    client.max_inflight_messages_set(100)  # otherwise its QoS 0 overtakes its QoS 1
    client.on_message = lambda _, __, m: heard.append((m.topic, bytes(m.payload), m.qos, m.retain))

    def on_connect(*_: Any) -> None:
        client.subscribe([("t/+", 1), ("kept", 1)])

    def on_subscribe(*_: Any) -> None:
        for number in range(50):
            client.publish(f"t/{number}", b"%d" % number, qos=number % 2)
        client.publish("t/last", b"", qos=1)

    client.on_connect = on_connect
    client.on_subscribe = on_subscribe
    client.connect(address.host, address.port, keepalive=5)
    while len(heard) < 52 and client.loop(timeout=PATIENCE_SECONDS) == 0:
        pass
    client.disconnect()
    while client.loop() == 0:
        pass
    return heard


@pytest.mark.parametrize("version", [MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311])
async def test_paho_hears_what_it_publishes_and_what_was_retained(version: MQTTProtocolVersion) -> None:
    bench = Bench()
    bench.broker.publish([Message("kept", b"old", 1, retain=True)])
    async with listening(bench) as address:
        heard = await asyncio.to_thread(paho_session, address, version)
        assert heard[0] == ("kept", b"old", 1, True)
        assert heard[1:] == [*((f"t/{n}", b"%d" % n, n % 2, False) for n in range(50)), ("t/last", b"", 1, False)]
        await until(lambda: bench.broker.clients() == [])
