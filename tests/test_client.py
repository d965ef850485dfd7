"""The uplink's side of a connection: every publish has one answer, and every end a reason."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mqtt5 import (
    ConnAckPacket,
    ConnectPacket,
    DisconnectPacket,
    DisconnectReasonCode,
    Packet,
    PingRespPacket,
    PubAckPacket,
    PubAckReasonCode,
    PublishPacket,
    QoS,
    Will,
)

from core.config import HostPort
from core.message import Message
from core.mqtt import client as client_module
from core.mqtt import v5
from core.mqtt.client import Client, ConnectionFailed, PublishRefused, connect
from core.receipts import STORED, rejected
from tests.certificates import Authority
from tests.mqtt_peers import PATIENCE_SECONDS, Bench, listening, on_both_loops, until

HELLO = ConnectPacket("edge", clean_start=True, keep_alive=60)


async def connected(address: HostPort, hello: ConnectPacket = HELLO, context: ssl.SSLContext | None = None) -> Client:
    return await connect(address.host, address.port, hello, context)


async def reason(client: Client) -> str:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await client.lost


@asynccontextmanager
async def server(answer: Callable[[Packet], bytes | None]) -> AsyncIterator[HostPort]:
    """A server that says to each packet what `answer` says, and closes the connection at None."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while data := await reader.read(1 << 16):
            packets: list[Packet] = []
            v5.decode(data, packets, 1 << 20)
            for packet in packets:
                said = answer(packet)
                if said is None:
                    writer.close()
                    return
                writer.write(said)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield HostPort("127.0.0.1", listening.sockets[0].getsockname()[1])
    finally:
        listening.close()
        for writer in writers:
            writer.close()


def welcoming(packet: Packet) -> bytes:
    """Accepts the client, and nothing more."""
    return ConnAckPacket().write() if isinstance(packet, ConnectPacket) else b""


@on_both_loops
async def test_a_publish_is_done_with_its_puback() -> None:
    bench = Bench(settle=False)
    async with listening(bench) as address:
        client = await connected(address)
        before = client.bytes_sent
        future = client.publish("t", b"x")
        await until(lambda: bool(bench.batches))
        assert not future.done()
        assert client.bytes_sent - before == len(PublishPacket("t", b"x", qos=QoS.AT_LEAST_ONCE, packet_id=1).write())
        (message,) = bench.accepted
        assert message == Message("t", b"x", 1, False, "edge", message.received_at)
        bench.batches[0].receipt.settle(STORED)
        await future
        client.close()


@on_both_loops
async def test_many_publishes_in_flight_are_each_answered() -> None:
    bench = Bench()
    async with listening(bench) as address:
        client = await connected(address)
        futures = [client.publish("t", b"%d" % number) for number in range(1_000)]
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await asyncio.gather(*futures) == [None] * 1_000
        assert [int(message.payload) for message in bench.accepted] == list(range(1_000))
        client.close()


async def test_a_negative_puback_fails_that_publish_with_its_code_and_no_other() -> None:
    bench = Bench(settle=False)
    async with listening(bench) as address:
        client = await connected(address)
        futures = [client.publish("t", b"%d" % number) for number in range(3)]
        await until(lambda: len(bench.accepted) == 3)
        for batch in bench.batches:  # however the three were read
            refusals = {i: rejected("full", 0x97) for i, m in enumerate(batch.messages) if m.payload == b"1"}
            batch.receipt.settle(STORED, refusals)
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert results[0] is None
        assert results[2] is None
        assert isinstance(results[1], PublishRefused)
        assert (results[1].code, str(results[1])) == (0x97, "quota_exceeded")
        assert not client.lost.done()
        client.close()


async def test_the_servers_own_words_are_in_the_refusal() -> None:
    def answer(packet: Packet) -> bytes:
        if isinstance(packet, PublishPacket):
            code = PubAckReasonCode.PAYLOAD_FORMAT_INVALID
            return PubAckPacket(packet.packet_id or 0, reason_code=code, reason_str="no frame").write()
        return welcoming(packet)

    async with server(answer) as address:
        client = await connected(address)
        with pytest.raises(PublishRefused, match="no frame"):
            await client.publish("t", b"")
        client.close()


@on_both_loops
async def test_a_lost_connection_fails_everything_in_flight_and_whatever_comes_later() -> None:
    bench = Bench(settle=False)
    async with listening(bench) as address:
        client = await connected(address)
        futures = [client.publish("t", b"") for _ in range(3)]
        await until(lambda: len(bench.accepted) == 3)
        bench.broker.shut_down()
        assert await reason(client) == "disconnected by the server: server_shutting_down"
        for future in (*futures, client.publish("t", b"")):
            with pytest.raises(ConnectionFailed):
                await future
        for batch in bench.batches:
            batch.receipt.settle(STORED)


async def test_closing_says_goodbye_so_that_no_will_is_published() -> None:
    bench = Bench()
    async with listening(bench) as address:
        client = await connected(address, ConnectPacket("edge", will=Will("gone"), keep_alive=60))
        client.close()
        client.close()
        assert await reason(client) == "closed"
        await until(lambda: bench.broker.clients() == [])
        assert bench.batches == []
        with pytest.raises(ConnectionFailed, match="not connected"):
            await client.publish("t", b"")


@on_both_loops
async def test_a_port_that_nobody_listens_on_is_a_failed_connection() -> None:
    async with listening(Bench()) as address:
        pass
    with pytest.raises(ConnectionFailed, match=r"[Rr]efused|Connect call failed"):
        await connected(address)


async def test_a_server_that_refuses_is_quoted() -> None:
    async with listening(Bench()) as address:
        with pytest.raises(ConnectionFailed, match="bad_authentication_method"):
            await connected(address, ConnectPacket("edge", authentication_method="x"))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, "the server closed the connection"),
        (b"\x20\x00", "malformed"),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n" + b"X-Padding: x\r\n" * 8, "malformed"),
        (PingRespPacket().write() + PublishPacket("t", b"").write(), "unexpected PublishPacket"),
        (DisconnectPacket(reason_code=DisconnectReasonCode.SERVER_BUSY, reason_str="later").write(), "later"),
        (b"\x40\xff\xff\x7f", "the limit is 65,536"),
    ],
)
async def test_whatever_a_server_says_instead_of_connack_is_a_failed_connection(
    answer: bytes | None, expected: str
) -> None:
    async with server(lambda packet: answer) as address:
        with pytest.raises(ConnectionFailed, match=expected):
            await connected(address)


async def test_a_server_that_says_nothing_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "CONNECT_SECONDS", 0.05)
    async with server(lambda packet: b"") as address:
        with pytest.raises(ConnectionFailed, match="no answer within"):
            await connected(address)


async def test_an_attempt_that_is_cancelled_leaves_no_connection_open() -> None:
    heard: list[Packet] = []

    def answer(packet: Packet) -> bytes:
        heard.append(packet)
        return b""

    async with server(answer) as address:
        attempt = asyncio.create_task(connected(address))
        await until(lambda: len(heard) == 1)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        await until(lambda: heard == [HELLO, DisconnectPacket()])


@on_both_loops
async def test_a_server_that_goes_silent_is_noticed_by_keep_alive() -> None:
    async with server(welcoming) as address:
        client = await connected(address, ConnectPacket("edge", keep_alive=1))
        future = client.publish("t", b"")
        assert await reason(client) == "the server went silent"
        with pytest.raises(ConnectionFailed, match="silent"):
            await future


async def test_the_servers_keep_alive_counts_and_an_answering_server_is_kept() -> None:
    pings = 0

    def answer(packet: Packet) -> bytes:
        nonlocal pings
        if isinstance(packet, ConnectPacket):
            return ConnAckPacket(server_keep_alive=1).write()
        pings += 1
        return PingRespPacket().write()

    async with server(answer) as address:
        client = await connected(address, ConnectPacket("edge", keep_alive=1_000))
        await until(lambda: pings == 3)
        assert not client.lost.done()
        client.close()


async def test_keep_alive_0_means_no_pings_and_no_suspicion() -> None:
    async with listening(Bench()) as address:
        client = await connected(address, ConnectPacket("edge", keep_alive=0))
        for _ in range(20):
            await client.publish("t", b"")
        assert not client.lost.done()
        client.close()


async def test_an_acknowledgement_of_nothing_is_ignored() -> None:
    def answer(packet: Packet) -> bytes:
        if isinstance(packet, PublishPacket):
            return PubAckPacket(999).write() + PubAckPacket(packet.packet_id or 0).write() * 2
        return welcoming(packet)

    async with server(answer) as address:
        client = await connected(address)
        for _ in range(3):
            await client.publish("t", b"")
        assert not client.lost.done()
        client.close()


@on_both_loops
async def test_publishes_travel_over_tls_and_both_sides_know_each_other(tmp_path: Path) -> None:
    authority, bench = Authority(tmp_path), Bench()
    async with listening(bench, authority.server()) as (_, port):
        client = await connected(HostPort("localhost", port), context=authority.client("hall"))
        await asyncio.gather(*[client.publish("t", bytes(100_000)) for _ in range(20)])
        (connection,) = bench.broker._clients.values()
        assert connection.grant is not None
        assert connection.grant.principal == "hall"
        client.close()
        await reason(client)
        await until(lambda: bench.broker.clients() == [])


@on_both_loops
async def test_a_server_of_another_authority_or_name_is_not_spoken_to(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    authority, other, bench = Authority(tmp_path), Authority(tmp_path / "other"), Bench()
    async with listening(bench, authority.server()) as (host, port):
        for name, context in [("localhost", other.client("hall")), (host, authority.client("hall"))]:
            with pytest.raises(ConnectionFailed, match=r"certificate verify failed|CERTIFICATE_VERIFY"):
                await connected(HostPort(name, port), context=context)
    assert bench.counters.snapshot() == {}


@on_both_loops
async def test_a_server_that_wants_a_certificate_is_a_failed_connection_without_one(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with listening(Bench(), authority.server()) as (_, port):
        with pytest.raises(ConnectionFailed):
            await connected(HostPort("localhost", port), context=authority.client())
