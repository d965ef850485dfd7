"""Real sockets and real clients on the broker: one write per turn, back-pressure, deadlines, TLS, and a clean end."""

import asyncio
import datetime
import hashlib
import os
import re
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from mqtt5 import (
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

from core.config import ClientTls, HostPort, Listener, Tls, UnixSocket, client_context, server_context
from core.errors import ConfigurationError
from core.message import Message
from core.mqtt import listener as listener_module
from core.mqtt.access import Answer, Peer
from core.mqtt.limits import Limits
from core.mqtt.listener import Channel, Listeners
from core.receipts import STORED, rejected
from devices.access import OpenAccess
from tests.certificates import Authority
from tests.mqtt_peers import PATIENCE_SECONDS, Bench, RawPeer, listening, on_both_loops, only, publish, until, wanted

both_versions = pytest.mark.parametrize("version", [5, 4])
ANYONE = Listener(address=HostPort("127.0.0.1", 0), anonymous=True)
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

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


def plugged_in(bench: Bench, client_id: str = "a") -> tuple[Channel, Socket]:
    """A channel of an admitted MQTT 5 client, and its socket."""
    channel, plug = Channel(Listeners(bench.broker), ANYONE), Socket()
    channel.connection_made(plug)
    channel.data_received(ConnectPacket(client_id).write())
    plug.writes.clear()
    return channel, plug


def accepted(bench: Bench) -> list[Message]:
    """What clients have published, without what the broker says about them."""
    return [message for message in bench.accepted if not message.topic.startswith("$")]


def said(bench: Bench) -> list[str]:
    """Its topics."""
    return [message.topic for message in accepted(bench)]


async def test_a_burst_of_one_turn_reaches_a_subscriber_that_reads() -> None:
    bench = Bench()
    channel, plug = plugged_in(bench)
    channel.data_received(SubscribePacket(1, [wanted("t/#", 0)]).write())
    bench.broker.publish([Message("t/x", b"payload-%0150d" % number) for number in range(20_000)])
    await asyncio.sleep(0)
    assert b"".join(plug.writes).count(b"payload-") == 20_000


async def test_what_waited_for_a_peer_that_reads_again_reaches_it_once_and_in_order() -> None:
    bench = Bench()
    channel, plug = plugged_in(bench)
    channel.data_received(SubscribePacket(1, [wanted("t/#", 1)]).write())
    await asyncio.sleep(0)
    plug.writes.clear()
    channel.pause_writing()
    numbers = range(900)
    bench.broker.publish([Message("t/x", b"<%03d>" % number + b"." * 1000, int(number >= 800)) for number in numbers])
    channel.resume_writing()
    for _ in range(20):  # QoS 1 goes on as it is acknowledged
        await asyncio.sleep(0)
        for packet_id in range(1, 500):
            channel.data_received(PubAckPacket(packet_id).write())
    found = re.findall(rb"<(\d{3})>", b"".join(plug.writes))
    assert sorted(map(int, found)) == list(numbers)
    assert [n for n in map(int, found) if n >= 800] == list(range(800, 900))


def at(address: HostPort | UnixSocket, **more: Any) -> Listener:
    """A listener for everyone."""
    return Listener(address=address, anonymous=True, **more)


async def gone(peer: RawPeer) -> bool:
    """Whether the broker ends this connection without a word that MQTT knows."""
    with suppress(ConnectionError):
        assert await peer.rest() == []
    return True


async def persistent(address: HostPort, context: ssl.SSLContext | None = None) -> RawPeer:
    """A device that tries until it is admitted, as devices do."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                return await RawPeer.connect(address, "device", context=context)
            except (OSError, EOFError):
                await asyncio.sleep(0.005)


def turned_away(bench: Bench, reason: str) -> float:
    return bench.counters.value("mqtt_connections_turned_away_total", reason=reason)


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
        peer = await RawPeer.connect(address, "a", 4)
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
        assert len(accepted(bench)) == total
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
        limits = bench.broker.limits
        assert limits.queue_messages * size > limits.queue_bytes  # so it was the bound in bytes that held
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
        await until(lambda: said(bench) == ["gone"])
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
    assert len(accepted(bench)) == 1


@on_both_loops
async def test_settling_for_clients_that_are_gone_is_harmless() -> None:
    bench = Bench(settle=False)
    async with listening(bench) as address:
        peer = await RawPeer.connect(address, "a")
        for number in range(1, 21):
            peer.send(publish("t", b"", number))
            await until(lambda expected=number: len(accepted(bench)) == expected)  # type: ignore[misc]
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
    address = await listeners.open(ANYONE)
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
    address = await listeners.open(ANYONE)
    peer = await RawPeer.connect(address, "a")
    peer.send(publish("t", b"", 1))
    await until(lambda: said(bench) == ["t"])
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
    assert len(accepted(bench)) == 1


@on_both_loops
async def test_an_address_that_cannot_be_bound_is_a_configuration_error() -> None:
    bench = Bench()
    async with listening(bench) as address:
        for bad, reason in [(address, "in use"), (HostPort("203.0.113.9", 0), "203.0.113.9")]:
            with pytest.raises(ConfigurationError, match=reason) as caught:
                await Listeners(bench.broker).open(at(bad))
            assert str(caught.value).startswith(f"listener {bad}: ")


async def test_one_broker_listens_on_several_addresses_ipv6_too() -> None:
    bench = Bench()
    listeners = Listeners(bench.broker)
    hosts = ["127.0.0.1", *(["::1"] if socket.has_dualstack_ipv6() else [])]
    for host in hosts:
        peer = await RawPeer.connect(cast(HostPort, await listeners.open(at(HostPort(host, 0)))), host)
        await peer.close()
    assert [cast(HostPort, address).host for address in listeners.addresses] == hosts
    await listeners.close()


# -- who may come ------------------------------------------------------------------------------------------------------


class Undecided(OpenAccess):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.decide: list[Callable[[], None]] = []

    def connect(self, peer: Peer, client_id: str, packet: ConnectPacket, answer: Answer) -> None:
        self.decide.append(partial(super().connect, peer, client_id, packet, answer))


async def test_nothing_is_read_while_a_connect_is_being_decided() -> None:
    access = Undecided()
    bench = Bench(access=access)
    channel, plug = plugged_in(bench)
    assert not plug.reading
    channel.data_received(publish("t", b"", 1).write())
    assert said(bench) == []
    assert not plug.reading
    access.decide.pop()()
    await asyncio.sleep(0)
    assert plug.reading
    assert b"".join(plug.writes).endswith(PubAckPacket(1).write())
    assert said(bench) == ["t"]


@on_both_loops
async def test_the_connection_beyond_the_limit_is_closed_at_once_and_counted() -> None:
    bench = Bench()
    listeners = Listeners(bench.broker, connections_max=2)
    address = await listeners.open(ANYONE)
    first, second = await RawPeer.connect(address, "1"), await RawPeer.connect(address, "2")
    third = await RawPeer.open(address)
    assert await gone(third)
    assert turned_away(bench, "too many connections") == 1
    assert [presence.client_id for presence in bench.broker.clients()] == ["1", "2"]
    await first.close()
    await until(lambda: len(listeners.channels) == 1)
    fourth = await RawPeer.connect(address, "4")
    for peer in (second, third, fourth):
        await peer.close()
    await listeners.close()


@on_both_loops
async def test_half_open_connections_make_room_for_devices_the_oldest_first() -> None:
    bench = Bench()
    listeners = Listeners(bench.broker, connections_max=30)  # three may be strangers
    address = await listeners.open(ANYONE)
    silent = []
    for count in range(1, 6):
        silent.append(await RawPeer.open(address))
        await until(lambda expected=count: bench.counters.value("mqtt_connections_total") == expected)  # type: ignore[misc]
    devices = [await RawPeer.connect(address, str(number)) for number in range(20)]
    assert len(bench.broker.clients()) == 20
    for peer in silent[:3]:
        assert await gone(peer)
    assert turned_away(bench, "too many before CONNECT") == 3
    for peer in [*silent, *devices]:
        await peer.close()
    await listeners.close()


def test_handshakes_that_never_end_are_bounded_and_those_that_fail_make_room_at_once(tmp_path: Path) -> None:
    # As daemons do; asyncio's own loop leaves a handshake that has failed to the garbage collector.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(handshakes_that_fail_and_that_never_end(tmp_path))


async def handshakes_that_fail_and_that_never_end(tmp_path: Path) -> None:
    authority, bench = Authority(tmp_path), Bench()
    listeners = Listeners(bench.broker, connections_max=30)
    address = await listeners.open(ANYONE, authority.server())
    for _ in range(10):  # would be too many at once
        talker = await RawPeer.open(address)
        talker.writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await gone(talker)
        await talker.close()
    silent = [await RawPeer.open(address) for _ in range(3)]
    more = await RawPeer.open(address)
    assert await gone(more)
    assert turned_away(bench, "too many handshakes") == 1
    for peer in [*silent, more]:
        await peer.close()

    device = await persistent(HostPort("localhost", address.port), authority.client("x"))
    await device.close()
    await listeners.close()


async def test_the_time_for_a_handshake_is_taken_from_the_time_for_connect() -> None:
    bench = Bench(Limits(connect_seconds=1_000))
    channel, accepted = Channel(Listeners(bench.broker), ANYONE), time.monotonic()
    while time.monotonic() <= accepted:  # the handshake
        pass
    channel.connection_made(Socket())
    bench.broker.expire(accepted + 1_000, 0)
    channel.data_received(ConnectPacket("late").write())
    assert bench.broker.clients() == []


FEW_DESCRIPTORS = """
import asyncio, resource, sys
import uvloop
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from tests.mqtt_peers import Bench
from tests.test_listener import ANYONE
from core.mqtt.listener import Listeners

async def main():
    listeners = Listeners(Bench().broker)
    listeners._connections_max = listeners._strangers_max = 1_000  # so that the kernel is the first to refuse
    print((await listeners.open(ANYONE)).port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await listeners.close()

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""


async def test_a_daemon_that_has_no_descriptor_left_lets_devices_in_again_when_it_has() -> None:
    root, pipe = Path(__file__).parent.parent, asyncio.subprocess.PIPE
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FEW_DESCRIPTORS, cwd=root, stdin=pipe, stdout=pipe, stderr=pipe
    )
    assert daemon.stdin is not None
    assert daemon.stdout is not None
    address = HostPort("127.0.0.1", int(await daemon.stdout.readline()))
    flood = [await RawPeer.open(address) for _ in range(100)]
    assert await gone(flood[-1])
    for peer in flood:
        await peer.close()
    device = await persistent(address)
    await device.close()
    daemon.stdin.close()
    assert await ended(daemon) == (0, "")


def test_a_process_may_open_as_many_files_as_it_needs_or_as_it_is_allowed() -> None:
    script = """
import resource
from core.mqtt.listener import raise_descriptor_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 512))
print(raise_descriptor_limit(32), raise_descriptor_limit(300), raise_descriptor_limit(10_000))
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.stdout == "64 300 512\n512 512\n", done.stderr


# -- Unix sockets ------------------------------------------------------------------------------------------------------


async def test_mosquittos_client_comes_in_by_a_unix_socket(tmp_path: Path) -> None:
    access = Remembering()
    bench, path = Bench(access=access), tmp_path / "mqtt.sock"
    listeners = Listeners(bench.broker)
    address = await listeners.open(at(UnixSocket(path)))
    assert str(address) == f"unix:{path}"
    publisher = await asyncio.create_subprocess_exec(
        "mosquitto_pub", "--unix", str(path), "-q", "1", "-i", "local", "-t", "t", "-m", "x",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert await ended(publisher) == (0, "")
    assert access.seen == [("local", Peer("local", anonymous=True))]
    assert said(bench) == ["t"]
    await listeners.close()


@on_both_loops
async def test_a_unix_socket_has_its_mode_whatever_the_umask_and_goes_with_its_listener(tmp_path: Path) -> None:
    for mode, umask in [(0o660, 0o077), (0o600, 0), (0o666, 0o022)]:
        listeners, path = Listeners(Bench().broker), tmp_path / "mqtt.sock"
        old = os.umask(umask)
        try:
            await listeners.open(at(UnixSocket(path), mode=mode))
        finally:
            os.umask(old)
        assert stat.S_IMODE(path.stat().st_mode) == mode
        await listeners.close()
        assert not path.exists()


@on_both_loops
async def test_the_file_of_a_dead_daemon_is_taken_over_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listeners, others = Listeners(Bench().broker), Listeners(Bench().broker)
    await listeners.open(at(UnixSocket(path)))
    with pytest.raises(ConfigurationError, match="another process listens there"):
        await others.open(at(UnixSocket(path)))
    with pytest.raises(ConfigurationError, match="No such file or directory"):
        await others.open(at(UnixSocket(tmp_path / "none" / "mqtt.sock")))
    (tmp_path / "text").write_text("mine")
    with pytest.raises(ConfigurationError, match="a file that is no socket"):
        await others.open(at(UnixSocket(tmp_path / "text")))
    await others.close()
    assert path.is_socket()
    assert (tmp_path / "text").read_text() == "mine"
    await listeners.close()


@on_both_loops
async def test_a_unix_socket_may_lie_as_deep_as_a_file_may(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 200)
    deep.mkdir()
    bench, path = Bench(), deep / "mqtt.sock"
    listeners = Listeners(bench.broker)
    await listeners.open(at(UnixSocket(path)))
    link = tmp_path / "s"
    link.symlink_to(path)
    reader, writer = await asyncio.open_unix_connection(link)
    peer = RawPeer(reader, writer, 5)
    peer.send(ConnectPacket("deep"))
    await peer.next()
    assert [presence.client_id for presence in bench.broker.clients()] == ["deep"]
    await peer.close()
    await listeners.close()


# -- TLS ---------------------------------------------------------------------------------------------------------------


class Remembering(OpenAccess):
    """Keeps who connected."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, Peer]] = []

    def connect(self, peer: Peer, client_id: str, packet: ConnectPacket, answer: Answer) -> None:
        self.seen.append((client_id, peer))
        super().connect(peer, client_id, packet, answer)

    @property
    def names(self) -> list[tuple[str, str | None]]:
        """The client identifiers and the common names."""
        return [(who, peer.certificate.subject["commonName"] if peer.certificate else None) for who, peer in self.seen]


@on_both_loops
async def test_the_common_name_of_a_clients_certificate_is_who_it_is(tmp_path: Path) -> None:
    authority, access = Authority(tmp_path), Remembering()
    async with listening(Bench(access=access), authority.server(anonymous=True)) as (_, port):
        for name in ("press-1", None):
            peer = await RawPeer.connect(HostPort("localhost", port), "x", context=authority.client(name))
            peer.send(publish("t", bytes(100_000), 1))
            assert await peer.next() == PubAckPacket(1)
            await peer.close()
    assert access.names == [("x", "press-1"), ("x", None)]


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


@on_both_loops
async def test_what_a_listener_lets_in_and_what_a_certificate_says_is_told_of_a_peer(tmp_path: Path) -> None:
    authority, access = Authority(tmp_path), Remembering()
    listeners = Listeners(Bench(access=access).broker)
    tls = Tls(certificate=tmp_path / "localhost.pem", key=tmp_path / "localhost.key", client_ca=authority.path)
    section = Listener(address=HostPort("127.0.0.1", 0), passwords=True, tls=tls)
    bound = await listeners.open(section, authority.server(anonymous=True))
    peer = await RawPeer.connect(HostPort("localhost", bound.port), "x", context=authority.client("press-1"))
    ((_, seen),) = access.seen
    name = peer.writer.get_extra_info("sockname")
    assert (seen.address, seen.anonymous, seen.passwords) == (f"{name[0]}:{name[1]}", False, True)
    der = ssl.PEM_cert_to_DER_cert((tmp_path / "press-1.pem").read_text())
    assert seen.certificate is not None
    assert (seen.certificate.der, seen.certificate.id) == (der, hashlib.sha256(der).hexdigest())
    assert seen.certificate.subject == {"commonName": "press-1"}
    assert seen.certificate.issuer == {"commonName": "ca of the tests"}
    assert int(seen.certificate.serial, 16) == x509.load_der_x509_certificate(der).serial_number
    assert seen.certificate.serial == seen.certificate.serial.upper()
    await peer.close()
    await listeners.close()


def shown(peer: RawPeer) -> bytes:
    """The certificate that the server showed."""
    return cast(bytes, peer.writer.get_extra_info("ssl_object").getpeercert(binary_form=True))


@on_both_loops
async def test_renewed_certificates_are_shown_to_who_comes_and_nobody_is_disconnected(tmp_path: Path) -> None:
    authority, bench = Authority(tmp_path), Bench()
    listeners = Listeners(bench.broker)
    await listeners.open(ANYONE)
    address = HostPort("localhost", (await listeners.open(ANYONE, authority.server())).port)
    before = await RawPeer.connect(address, "before", context=authority.client("device"))
    listeners.renew([None, authority.server()])
    after = await RawPeer.connect(address, "after", context=authority.client("device"))
    assert shown(before) != shown(after)
    before.send(publish("t", bytes(100_000), 1))
    assert await before.next() == PubAckPacket(1)
    for peer in (before, after):
        await peer.close()
    await listeners.close()


@on_both_loops
async def test_with_renewed_authorities_the_former_ones_devices_stay_but_cannot_come_again(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    old, new = Authority(tmp_path), Authority(tmp_path / "new")
    bench = Bench()
    listeners = Listeners(bench.broker)
    server = old.server()
    address = HostPort("localhost", (await listeners.open(ANYONE, server)).port)
    resuming = old.client("device")
    before = await RawPeer.connect(address, "before", context=resuming)
    certificate, key = old.sign("localhost")
    listeners.renew([server_context(Tls(certificate=certificate, key=key, client_ca=new.path))])
    with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
        await RawPeer.connect(address, "x", context=resuming)
    certificate, key = new.sign("device")
    device = client_context(ClientTls(ca=old.path, certificate=certificate, key=key))
    after = await RawPeer.connect(address, "after", context=device)
    before.send(publish("t", b"", 1))
    assert await before.next() == PubAckPacket(1)
    for peer in (before, after):
        await peer.close()
    await listeners.close()


@pytest.mark.parametrize("days", [(-3, -1), (1, 3)])
@on_both_loops
async def test_a_certificate_out_of_its_time_is_refused(tmp_path: Path, days: tuple[int, int]) -> None:
    authority, bench = Authority(tmp_path), Bench()
    authority.sign("device")
    old = x509.load_pem_x509_certificate((tmp_path / "device.pem").read_bytes())
    now = datetime.datetime.now(datetime.UTC)
    begin, end = (now + datetime.timedelta(days=day) for day in days)
    builder = x509.CertificateBuilder(old.issuer, old.subject, old.public_key(), old.serial_number, begin, end)
    signed = builder.sign(authority._key, hashes.SHA256())
    (tmp_path / "device.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    context = client_context(
        ClientTls(ca=authority.path, certificate=tmp_path / "device.pem", key=tmp_path / "device.key")
    )
    async with listening(bench, authority.server()) as (_, port):
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
            await RawPeer.connect(HostPort("localhost", port), "x", context=context)
        peer = await RawPeer.connect(HostPort("localhost", port), "y", context=authority.client("other"))
        await peer.close()


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
        for line in ("-t kept/1 -r -m first", "-t kept/2 -r -n", "-t other -m x"):
            assert await ended(await mosquitto("mosquitto_pub", address, *v, *qos, *line.split())) == (0, "")
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
    assert said(bench) == ["kept/1", "kept/2", "other", "kept/3", "gone"]
    assert [message.qos for message in accepted(bench)] == [1, 1, 1, 1, 0]


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
    assert [int(message.payload) for message in accepted(bench)] == list(range(2_000))


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
    assert access.names == [("p7", "press-7")]
    assert said(bench) == ["t"]


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
