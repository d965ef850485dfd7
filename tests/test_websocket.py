"""MQTT over WebSocket: other people's clients, frames cut anywhere, bounds, and who may come from a web page."""

import asyncio
import json
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from mqtt5 import ConnAckPacket, ConnectPacket, DisconnectPacket, PubAckPacket, Will
from paho.mqtt.client import Client as Paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from core.config import HostPort, Listener, UnixSocket
from core.message import Message
from core.mqtt.limits import Limits
from core.mqtt.listener import Listeners
from core.mqtt.websocket import HEAD_BYTES_MAX
from tests.certificates import Authority
from tests.mqtt_peers import CODECS, PATIENCE_SECONDS, Bench, on_both_loops, publish, until

MQTT = Subprotocol("mqtt")


def accepted(bench: Bench) -> list[Message]:
    """What clients have published, without what the broker says about them."""
    return [message for message in bench.accepted if not message.topic.startswith("$")]


def said(bench: Bench) -> list[str]:
    """Its topics."""
    return [message.topic for message in accepted(bench)]


@asynccontextmanager
async def serving(bench: Bench, context: ssl.SSLContext | None = None, **more: Any) -> AsyncIterator[int]:
    """A WebSocket listener on this machine; its port."""
    listeners = Listeners(bench.broker)
    section = {"address": HostPort("127.0.0.1", 0), "protocol": "websocket", "anonymous": True, **more}
    try:
        yield cast(HostPort, await listeners.open(Listener(**section), context)).port
    finally:
        await listeners.close()


def dial(port: int, host: str = "127.0.0.1", **more: Any) -> connect:
    options = {"subprotocols": [MQTT], "compression": None, "open_timeout": PATIENCE_SECONDS, "proxy": None, **more}
    return connect(f"ws://{host}:{port}/mqtt", **options)


async def hear(client: ClientConnection, count: int) -> list[Any]:
    """The next packets, however they are framed."""
    packets: list[Any] = []
    data = b""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(packets) < count:
            data += cast(bytes, await client.recv(decode=False))
            data = data[CODECS[5].decode(data, packets, 1 << 20) :]
    return packets


async def closing_code(client: ClientConnection) -> int | None:
    """The code of the close frame with which the listener ends the connection; what it says before is left unread."""
    with suppress(ConnectionClosed):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                await client.recv()
    return client.close_code


async def speak(port: int, said: bytes) -> bytes:
    """Send bytes over a plain socket, and what comes back until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    heard = b""
    async with asyncio.timeout(PATIENCE_SECONDS):
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                heard += data
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return heard


# -- MQTT in frames ----------------------------------------------------------------------------------------------------


@on_both_loops
async def test_packets_may_share_frames_and_span_them_and_messages_may_be_fragmented() -> None:
    bench = Bench()
    packets = [ConnectPacket("w"), *(publish(f"t/{n}", bytes(n), n) for n in range(1, 60))]
    stream = b"".join(packet.write() for packet in packets)
    whole, bytewise = [stream], [stream[n : n + 1] for n in range(len(stream))]
    fragmented = [iter([stream[:7], stream[7:900], stream[900:]])]
    async with serving(bench) as port:
        for frames in (whole, bytewise, fragmented):
            async with dial(port) as client:
                for frame in frames:
                    await client.send(frame)
                admitted, *acknowledged = await hear(client, 60)
                assert isinstance(admitted, ConnAckPacket)
                assert acknowledged == [PubAckPacket(n) for n in range(1, 60)]
    assert said(bench) == [f"t/{n}" for n in range(1, 60)] * 3


@on_both_loops
async def test_large_messages_come_through_both_ways_over_tls_too(tmp_path: Path) -> None:
    bench, authority = Bench(), Authority(tmp_path)
    async with serving(bench, authority.server()) as port:
        context = authority.client("page-1")
        async with connect(f"wss://localhost:{port}/", ssl=context, subprotocols=[MQTT], proxy=None) as client:
            await client.send(ConnectPacket("w").write())
            await hear(client, 1)
            for number in range(1, 11):
                await client.send(publish("t", bytes(128 << 10), number).write())
            assert await hear(client, 10) == [PubAckPacket(n) for n in range(1, 11)]
    assert [len(message.payload) for message in accepted(bench)] == [128 << 10] * 10


@on_both_loops
async def test_the_first_subprotocol_known_is_chosen_and_compression_is_not() -> None:
    async with serving(Bench()) as port:
        for offered, chosen in [(["x", "mqtt"], "mqtt"), (["mqttv3.1"], "mqttv3.1"), (["mqttv3.1", "mqtt"], "mqtt")]:
            async with dial(port, subprotocols=offered, compression="deflate") as client:
                assert client.subprotocol == chosen
                assert client.protocol.extensions == []


@on_both_loops
async def test_a_ping_is_answered_and_a_goodbye_too() -> None:
    bench = Bench()
    async with serving(bench) as port:
        async with dial(port) as client:
            await client.send(ConnectPacket("w", will=Will("gone", payload=b"x")).write())
            await hear(client, 1)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await (await client.ping(b"there?"))
            await client.close(1000)
            assert client.close_code == 1000
        await until(lambda: said(bench) == ["gone"])
        assert bench.broker.clients() == []


@on_both_loops
async def test_closing_says_why_in_mqtt_and_then_in_websocket() -> None:
    bench = Bench()
    listeners = Listeners(bench.broker)
    section = Listener(address=HostPort("127.0.0.1", 0), protocol="websocket", anonymous=True)
    port = cast(HostPort, await listeners.open(section)).port
    async with dial(port) as client, asyncio.TaskGroup() as group:
        await client.send(ConnectPacket("w").write())
        await hear(client, 1)
        group.create_task(listeners.close())
        (farewell,) = await hear(client, 1)
        assert isinstance(farewell, DisconnectPacket)
        assert await closing_code(client) == 1000
    assert listeners.channels == set()


@on_both_loops
async def test_a_client_may_come_by_a_unix_socket_behind_a_proxy(tmp_path: Path) -> None:
    bench, path = Bench(), tmp_path / "ws.sock"
    async with serving_unix(bench, path):
        plug = socket.socket(socket.AF_UNIX)
        plug.connect(str(path))
        async with connect("ws://localhost/", sock=plug, subprotocols=[MQTT], proxy=None) as client:
            await client.send(ConnectPacket("w").write())
            await hear(client, 1)
            assert [(who.client_id, who.address) for who in bench.broker.clients()] == [("w", "local")]


@asynccontextmanager
async def serving_unix(bench: Bench, path: Path) -> AsyncIterator[None]:
    listeners = Listeners(bench.broker)
    await listeners.open(Listener(address=UnixSocket(path), protocol="websocket", anonymous=True))
    try:
        yield
    finally:
        await listeners.close()


# -- what is refused ---------------------------------------------------------------------------------------------------


@on_both_loops
async def test_text_frames_are_refused_and_so_is_what_is_no_websocket() -> None:
    async with serving(Bench()) as port:
        async with dial(port) as client:
            await client.send(json.dumps({"hello": "?"}))
            assert await closing_code(client) == 1003
        upgrade = b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        keyed = upgrade + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        for said, status, words in [
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"426", b"WebSocket"),
            (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", b"400", b"MQTT over WebSocket"),
            (ConnectPacket("w").write() + b"\r\n\r\n", b"400", b"MQTT over WebSocket"),
            (upgrade + b"\r\n", b"400", b"Sec-WebSocket-Key"),
            (keyed + b"\r\n", b"400", b"missing subprotocol"),
            (keyed + b"Sec-WebSocket-Protocol: chat\r\n\r\n", b"400", b"mqtt"),
        ]:
            heard = await speak(port, said)
            assert heard.startswith(b"HTTP/1.1 " + status), heard
            assert words in heard.partition(b"\r\n\r\n")[2], heard


@on_both_loops
async def test_a_head_of_any_size_costs_its_connection_only() -> None:
    bench = Bench()
    async with serving(bench) as port:
        for head in (b"GET /" + b"x" * 100_000, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200, b"\x00" * 100_000):
            heard = await speak(port, head)
            assert heard.startswith(b"HTTP/1.1 4") or not heard
        assert await speak(port, b"GET / HTTP/1.1\r\nx: " + b"y" * HEAD_BYTES_MAX) != b""
        async with dial(port) as client:
            await client.send(ConnectPacket("w").write())
            await hear(client, 1)
    await until(lambda: bench.broker.clients() == [])


@on_both_loops
async def test_a_stranger_may_not_send_more_than_others_may_in_frames_of_any_size() -> None:
    bench = Bench()
    connect_bytes = bench.broker.limits.connect_bytes
    async with serving(bench) as port:
        for size in (1, 100, connect_bytes * 2):
            async with dial(port) as client:
                with suppress(ConnectionClosed):
                    await client.send(b"\x10\xff\xff\x7f\x00\x04MQTT\x05"[:9])
                    for _ in range(connect_bytes * 2 // size):
                        await client.send(bytes(size))
                code = await closing_code(client)
                assert code in {1000, 1006, 1009}
        assert bench.broker.clients() == []
        assert accepted(bench) == []


@on_both_loops
async def test_a_frame_larger_than_any_packet_is_refused_before_it_is_read() -> None:
    bench = Bench(Limits(packet_bytes=10_000))
    async with serving(bench) as port, dial(port) as client:
        await client.send(ConnectPacket("w").write())
        await hear(client, 1)
        client.transport.write(b"\x82\xff" + (1 << 40).to_bytes(8, "big") + bytes(4))
        assert await closing_code(client) == 1009


@on_both_loops
async def test_who_does_not_finish_is_closed_at_the_deadline() -> None:
    async with serving(Bench(Limits(connect_seconds=0.1))) as port:
        assert (await speak(port, b"GET / HTTP/1.1\r\n")).startswith(b"HTTP/1.1 408")
        async with dial(port) as client:
            assert await closing_code(client) == 1000


async def test_the_library_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(Bench()) as port:
        with suppress(InvalidStatus):
            async with dial(port, subprotocols=None):
                pass
        with caplog.at_level(logging.CRITICAL, "websockets.client"):
            async with dial(port):
                pass
    assert [record for record in caplog.records if "websocket" in record.name] == []


# -- web pages ---------------------------------------------------------------------------------------------------------


HERE = "http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("origin", "host", "more", "admitted"),
    [
        (None, None, {}, True),  # a program
        (HERE, None, {}, True),  # a page of this address; paho says so too
        ("http://LOCALHOST:{port}", "localhost:{port}", {}, True),
        ("http://[::1]:{port}", "[::1]:{port}", {}, True),
        ("https://evil.example", None, {}, False),
        ("null", None, {}, False),
        ("http://127.0.0.1:1", None, {}, False),
        ("http://127.0.0.1:99999999", None, {}, False),
        ("http://[::1", "[::1", {}, False),
        ("http://evil.example:{port}", "evil.example:{port}", {}, False),  # a name that was pointed here
        ("http://edge.example:{port}", "edge.example:{port}", {"anonymous": False, "passwords": True}, True),
        ("https://pages.example", None, {"origins": ("https://Pages.example",)}, True),
        ("http://pages.example", None, {"origins": ("https://pages.example",)}, False),
    ],
)
async def test_a_web_page_comes_in_only_from_here_or_from_where_the_configuration_says(
    origin: str | None, host: str | None, more: dict[str, Any], admitted: bool
) -> None:
    async with serving(Bench(), **more) as port:
        lines = [
            "GET /mqtt HTTP/1.1",
            f"Host: {(host or '127.0.0.1:{port}').format(port=port)}",
            *([f"Origin: {origin.format(port=port)}"] if origin else []),
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt",
        ]
        close = b"\x88\x80\x00\x00\x00\x00"
        heard = await speak(port, ("\r\n".join(lines) + "\r\n\r\n").encode() + close)
        assert heard.startswith(b"HTTP/1.1 101" if admitted else b"HTTP/1.1 403"), heard


async def test_a_page_behind_tls_proves_its_host_by_the_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with serving(Bench(), authority.server(anonymous=True)) as port:
        for origin, status in [(f"https://localhost:{port}", None), ("https://evil.example", 403)]:
            url, context = f"wss://localhost:{port}/", authority.client()
            dialled = connect(url, ssl=context, subprotocols=[MQTT], origin=Origin(origin), proxy=None)
            if status is None:
                async with dialled as client:
                    assert client.subprotocol == "mqtt"
            else:
                with pytest.raises(InvalidStatus) as caught:
                    await dialled
                assert caught.value.response.status_code == status


# -- paho --------------------------------------------------------------------------------------------------------------


def paho_over_websocket(port: int, version: MQTTProtocolVersion, context: ssl.SSLContext | None) -> list[bytes]:
    """What a paho client hears of what it publishes, on a thread of its own."""
    heard: list[bytes] = []
    client = Paho(CallbackAPIVersion.VERSION2, "paho", protocol=version, transport="websockets")
    if context is not None:
        client.tls_set_context(context)
    client.on_message = lambda _, __, message: heard.append(bytes(message.payload))
    client.on_connect = lambda *_: client.subscribe("t", 1)
    client.on_subscribe = lambda *_: [client.publish("t", b"%d" % n * n * 100, qos=1) for n in range(20)]
    client.connect("localhost", port, keepalive=30)
    while len(heard) < 20 and client.loop(timeout=PATIENCE_SECONDS) == 0:
        pass
    client.disconnect()
    while client.loop() == 0:
        pass
    return heard


@pytest.mark.parametrize("version", [MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311])
@pytest.mark.parametrize("encrypted", [False, True])
async def test_paho_publishes_and_subscribes_over_websocket(
    tmp_path: Path, version: MQTTProtocolVersion, encrypted: bool
) -> None:
    bench = Bench()
    authority = Authority(tmp_path)
    server, client = (authority.server(), authority.client("p")) if encrypted else (None, None)
    async with serving(bench, server) as port:
        heard = await asyncio.to_thread(paho_over_websocket, port, version, client)
        assert heard == [b"%d" % n * n * 100 for n in range(20)]
        await until(lambda: bench.broker.clients() == [])
