"""The control socket answers its own user, quickly, whatever a client sends."""

import asyncio
import contextlib
import os
import select
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvloop

from core import control
from core.control import ControlServer, request
from core.errors import TidegateError


async def echo(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"got": arguments}


async def fail(arguments: dict[str, Any]) -> dict[str, Any]:
    raise TidegateError("lane 'x' does not exist")


async def crash(arguments: dict[str, Any]) -> dict[str, Any]:
    raise ValueError("a secret detail")


async def hang(arguments: dict[str, Any]) -> dict[str, Any]:
    await asyncio.Event().wait()
    return {}


async def flood(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"text": "x" * 4_000_000}


HANDLERS = {"echo": echo, "fail": fail, "crash": crash, "hang": hang, "flood": flood}


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    server = ControlServer(tmp_path / "control.sock", HANDLERS)
    await server.start()
    yield server.path
    await server.close()


async def ask(path: Path, command: str, **arguments: Any) -> dict[str, Any]:
    return await asyncio.to_thread(request, path, command, **arguments)


async def send(path: Path, raw: bytes) -> dict[str, Any]:
    reader, writer = await asyncio.open_unix_connection(str(path), limit=1 << 24)
    writer.write(raw)
    with contextlib.suppress(ConnectionError):
        await writer.drain()
    reply = orjson.loads(await reader.readline())
    writer.close()
    assert isinstance(reply, dict)
    return reply


async def test_a_command_reaches_its_handler_with_its_arguments(path: Path) -> None:
    assert await ask(path, "echo", lane="alarms", limit=5) == {"got": {"lane": "alarms", "limit": 5}}


async def test_a_reply_of_megabytes_arrives_whole(path: Path) -> None:
    assert len((await ask(path, "flood"))["text"]) == 4_000_000


async def test_an_unknown_command_names_those_that_exist(path: Path) -> None:
    with pytest.raises(TidegateError, match="unknown command 'stat'; known are crash, echo"):
        await ask(path, "stat")


async def test_a_refusal_arrives_in_the_daemons_words(path: Path) -> None:
    with pytest.raises(TidegateError, match=r"^lane 'x' does not exist$"):
        await ask(path, "fail")


async def test_a_handler_that_crashes_costs_its_reply_only(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TidegateError, match="failed inside the daemon") as caught:
        await ask(path, "crash")
    assert "a secret detail" not in str(caught.value)
    assert "a secret detail" in caplog.text
    assert await ask(path, "echo") == {"got": {}}


@pytest.mark.parametrize("raw", [b"\n", b"nonsense\n", b"[1]\n", b'{"a":1}\n', b'{"command":7}\n', b"\xff\n"])
async def test_a_malformed_request_gets_an_error(path: Path, raw: bytes) -> None:
    assert "request" in (await send(path, raw))["error"]


async def test_a_request_beyond_the_limit_gets_an_error(path: Path) -> None:
    assert "longer than 65536 bytes" in (await send(path, b"x" * 100_000))["error"]


async def test_a_handler_that_hangs_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "CONNECTION_LIMIT_S", 0.05)
    assert await send(path, b'{"command":"hang"}\n') == {"error": "no answer within 0.05 s"}


async def test_a_client_that_says_nothing_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "CONNECTION_LIMIT_S", 0.05)
    assert await send(path, b"") == {"error": "no answer within 0.05 s"}


async def test_a_client_that_does_not_read_is_cut_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "CONNECTION_LIMIT_S", 0.3)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b'{"command":"flood"}\n')
        hung_up = select.poll()
        hung_up.register(client, select.POLLRDHUP)
        assert await asyncio.to_thread(hung_up.poll, 10_000), "the server still waits for this client"
        received = 0
        while chunk := client.recv(1 << 20):
            received += len(chunk)
    assert 0 < received < 4_000_000


async def test_more_connections_than_the_limit_are_turned_away(path: Path) -> None:
    writers = []
    for _ in range(control.CONNECTIONS_MAX):
        _, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b'{"command":"hang"}\n')
        writers.append(writer)
    assert "busy" in (await send(path, b'{"command":"echo"}\n'))["error"]
    for writer in writers:
        writer.close()


async def test_only_the_owner_may_open_the_socket(path: Path) -> None:
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


async def test_closing_removes_the_socket_and_ends_what_is_open(tmp_path: Path) -> None:
    server = ControlServer(tmp_path / "control.sock", HANDLERS)
    await server.start()
    reader, writer = await asyncio.open_unix_connection(str(server.path))
    writer.write(b'{"command":"hang"}\n')
    await ask(server.path, "echo")  # connections are accepted in order: the first one is being served by now
    await server.close()
    await server.close()
    assert await reader.read() == b""
    assert not server.path.exists()
    writer.close()


async def test_the_socket_of_a_dead_daemon_is_replaced(tmp_path: Path) -> None:
    dead = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(dead))
    server = ControlServer(dead, HANDLERS)
    await server.start()
    assert await ask(dead, "echo") == {"got": {}}
    await server.close()


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "control.sock").write_text("mine")
    with pytest.raises(TidegateError, match="cannot be the control socket"):
        await ControlServer(tmp_path / "control.sock", HANDLERS).start()
    assert (tmp_path / "control.sock").read_text() == "mine"


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_path_longer_than_a_socket_address_works(
    tmp_path: Path, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def round_trip() -> None:
        directory = tmp_path / ("d" * 120) / ("e" * 120)
        directory.mkdir(parents=True)
        server = ControlServer(directory / "control.sock", HANDLERS)
        await server.start()
        assert await ask(server.path, "echo", a=1) == {"got": {"a": 1}}
        await server.close()
        assert not server.path.exists()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(round_trip())


@pytest.mark.parametrize("place", ["control.sock", "no/such/directory/control.sock"])
def test_without_a_daemon_the_client_says_so(tmp_path: Path, place: str) -> None:
    with pytest.raises(TidegateError, match=rf"the daemon is not running \(no {tmp_path / place}\)"):
        request(tmp_path / place, "status")


def test_a_dead_daemons_socket_means_not_running(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(tmp_path / "control.sock"))
    with pytest.raises(TidegateError, match="the daemon is not running"):
        request(tmp_path / "control.sock", "status")


@pytest.mark.parametrize("reply", [b"", b'{"cut', b"[1]\n"])
async def test_a_reply_that_is_cut_off_is_an_error(tmp_path: Path, reply: bytes) -> None:
    async def half_a_daemon(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(reply)
        writer.close()

    server = await asyncio.start_unix_server(half_a_daemon, str(tmp_path / "control.sock"))
    with pytest.raises(TidegateError, match="cut off or no JSON object"):
        await ask(tmp_path / "control.sock", "status")
    server.close()
