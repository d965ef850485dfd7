"""The HTTP server on real sockets: requests in every legal form, bounds that hold, and clients that come and go."""

import asyncio
import os
import socket
import stat
import uuid
from pathlib import Path

import pytest

from core.config import HostPort, UnixSocket
from core.errors import ConfigurationError
from core.http import server as server_module
from core.http.limits import Bodies, HttpLimits
from core.http.messages import HttpError, Request, Response
from core.http.server import HttpServer
from tests.certificates import Authority
from tests.http_clients import ANYWHERE, PATIENCE_SECONDS, ask, echo, serving, wire
from tests.mqtt_peers import on_both_loops, until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
SMALL = HttpLimits(body_bytes=1_000, bodies_bytes=1_500, head_bytes=2_000)
HASTY = HttpLimits(request=0.1, idle=0.1)


def post(body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST /x HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Waiting:
    """A handler that holds requests until it is told to answer."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.go = asyncio.Event()

    async def __call__(self, request: Request) -> Response:
        self.begun += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Response(200, b"done")


# -- what a request may look like -------------------------------------------------------------------------------------


@on_both_loops
async def test_requests_of_a_connection_are_answered_one_after_the_other() -> None:
    async with serving(echo) as (_, address), wire(address) as peer:
        for number in range(3):
            peer.send(post(b"%d" % number))
            answer = await peer.answer()
            assert (answer.status, answer.body) == (200, b"%d" % number)
            assert "date" in answer.headers


async def test_every_answer_has_a_request_id_of_its_own_also_a_refusal() -> None:
    async def answer(request: Request) -> Response:
        if request.path == "/refused":
            raise HttpError(404, "ResourceNotFoundException", "nothing")
        return Response(200, b"", {"x-amzn-requestid": "given"} if request.path == "/given" else {})

    seen = []
    async with serving(answer, SMALL) as (_, address), wire(address) as peer:
        for path in (b"/", b"/", b"/refused", b"/given"):
            peer.send(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            seen.append((await peer.answer()).headers["x-amzn-requestid"])
        peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n")  # refused before any handler
        seen.append((await peer.answer()).headers["x-amzn-requestid"])
    assert len(set(seen)) == 5
    assert seen[3] == "given"
    assert all(str(uuid.UUID(each)) == each for each in (*seen[:3], seen[4]))


@on_both_loops
async def test_requests_that_are_sent_ahead_are_answered_in_their_order() -> None:
    async with serving(echo) as (_, address), wire(address) as peer:
        peer.send(b"".join(post(b"%d" % number) for number in range(50)))
        assert [(await peer.answer()).body for _ in range(50)] == [b"%d" % number for number in range(50)]


@on_both_loops
async def test_a_body_may_come_in_pieces() -> None:
    async with serving(echo) as (_, address), wire(address) as peer:
        for piece in post(b"whole")[:-3], b"o", b"l", b"e":
            peer.send(piece)
            await asyncio.sleep(0)
        assert (await peer.answer()).body == b"whole"
        peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        peer.send(b"2;x=y\r\nde\r\n0\r\nTrailer: t\r\n\r\n")
        assert (await peer.answer()).body == b"abcde"
        peer.send(GET)
        assert (await peer.answer()).status == 200


@on_both_loops
async def test_a_client_that_waits_for_100_is_told_to_continue_and_one_that_would_send_too_much_is_not() -> None:
    async with serving(echo, SMALL) as (_, address):
        async with wire(address) as peer:
            peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
            assert (await peer.answer()).status == 100
            peer.send(b"body")
            assert (await peer.answer()).body == b"body"
        async with wire(address) as peer:
            peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\nExpect: 100-continue\r\n\r\n")
            assert (await peer.answer()).status == 413


@on_both_loops
async def test_head_is_answered_without_a_body_and_with_its_length() -> None:
    async def page(_: Request) -> Response:
        return Response(200, b"12345")

    async with serving(page) as (_, address), wire(address) as peer:
        peer.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await peer.answer(head=True)).headers["content-length"] == "5"
        peer.send(GET)
        assert (await peer.answer()).body == b"12345"


async def test_a_response_without_content_has_no_length_and_the_connection_stays() -> None:
    async def empty(_: Request) -> Response:
        return Response(204)

    async with serving(empty) as (_, address), wire(address) as peer:
        for _ in range(2):
            peer.send(GET)
            answer = await peer.answer()
            assert answer.status == 204
            assert "content-length" not in answer.headers


async def test_an_old_client_and_one_that_says_close_are_answered_and_hung_up_on() -> None:
    async with serving(echo) as (_, address):
        for request in (b"GET /a HTTP/1.0\r\n\r\n", b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"):
            async with wire(address) as peer:
                peer.send(request)
                assert (await peer.answer()).headers["x-target"] == "/a"
                assert await peer.is_closed()


async def test_a_handler_sees_what_was_sent_and_what_it_means() -> None:
    seen: list[Request] = []

    async def note(request: Request) -> Response:
        seen.append(request)
        return Response()

    async with serving(note) as (_, address), wire(address) as peer:
        peer.send(
            b"PUT http://x/a%2Fb/c%20d?q=1+2&q=%C3%A9&e HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a:  2 \r\n"
            b"Content-Length: 0\r\n\r\n"
        )
        await peer.answer()
    (request,) = seen
    assert (request.method, request.raw_path, request.path) == ("PUT", "/a%2Fb/c%20d", "/a/b/c d")
    assert request.query == {"q": "é", "e": ""}
    assert request.headers["x-a"] == "1,2"
    assert (request.peer, request.certificate, request.encrypted) == ("127.0.0.1", None, False)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"BAD\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 4_000, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 1_000 + b"\r\n", 431),
        (post(b"x" * 1_001), 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3E9\r\n" + b"x" * 1_001, 413),
    ],
)
async def test_what_is_no_request_or_too_large_is_told_why_and_hung_up_on(request_bytes: bytes, status: int) -> None:
    handled = []

    async def never(request: Request) -> Response:
        handled.append(request)
        return Response()

    async with serving(never, SMALL) as (server, address), wire(address) as peer:
        peer.send(request_bytes)
        answer = await peer.answer()
        assert answer.status == status
        assert answer.json["message"]
        assert answer.headers["x-amzn-errortype"]
        peer.writer.write_eof()
        assert await peer.is_closed()
        assert handled == []
        assert server.held == 0


@on_both_loops
async def test_a_body_in_tiny_pieces_is_refused_before_it_has_cost_much() -> None:
    async with serving(echo) as (_, address), wire(address) as peer:
        peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 2_000)
        assert (await peer.answer()).status == 400


@on_both_loops
async def test_others_have_their_turn_between_requests_that_were_sent_ahead() -> None:
    answered, turns = [], []

    async def count(request: Request) -> Response:
        answered.append(len(turns))
        return Response()

    async def turn() -> None:
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    async with serving(count) as (_, address), wire(address) as peer:
        peer.send(GET * 500)
        other = asyncio.create_task(turn())
        for _ in range(500):
            await peer.answer()
        other.cancel()
    assert answered == sorted(set(answered))  # at least one turn between any two


async def test_a_client_that_is_still_sending_too_much_reads_why() -> None:
    """Closing the socket at once would reset it, and the answer would be lost on the way."""
    async with serving(echo, SMALL) as (_, address):
        answer = await ask(address, "POST", "/", b"x" * (8 << 20))
        assert answer.status == 413


async def test_all_bodies_together_are_bounded_and_the_bound_is_given_back() -> None:
    async with serving(echo, SMALL) as (server, address):
        async with wire(address) as first, wire(address) as second:
            first.send(post(b"x" * 900)[:-1])
            await until(lambda: server.held == 899)
            second.send(post(b"x" * 900)[:-1])
            assert (await second.answer()).status == 503
            first.send(b"x")
            assert (await first.answer()).status == 200
        await until(lambda: server.held == 0)


async def test_servers_that_share_bodies_have_one_bound_for_all_of_them() -> None:
    bodies = Bodies()
    servers = [HttpServer(echo, SMALL, bodies) for _ in range(2)]
    addresses = [await server.open(ANYWHERE) for server in servers]
    async with wire(addresses[0]) as first, wire(addresses[1]) as second:
        first.send(post(b"x" * 900)[:-1])
        await until(lambda: bodies.held == 899)
        second.send(post(b"x" * 900)[:-1])
        assert (await second.answer()).status == 503
    await until(lambda: bodies.held == 0)
    for server in servers:
        await server.close()


async def test_one_connection_too_many_is_turned_away_and_the_others_are_not() -> None:
    async with serving(echo, HttpLimits(connections=1)) as (_, address), wire(address) as first:
        first.send(GET)
        assert (await first.answer()).status == 200
        async with wire(address) as second:
            answer = await second.answer()
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert await second.is_closed()
        first.send(GET)
        assert (await first.answer()).status == 200


# -- time -------------------------------------------------------------------------------------------------------------


async def test_a_request_that_does_not_come_to_an_end_is_answered_with_a_time_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server_module, "TICK_SECONDS", 0.02)
    async with serving(echo, HASTY) as (_, address):
        for beginning in (b"GET / HT", post(b"x" * 100)[:-1]):
            async with wire(address) as peer:
                peer.send(beginning)
                assert (await peer.answer()).status == 408
                assert await peer.is_closed()


async def test_an_idle_connection_is_closed_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "TICK_SECONDS", 0.02)
    async with serving(echo, HASTY) as (_, address):
        async with wire(address) as peer:
            assert await peer.is_closed()
        async with wire(address) as peer:
            peer.send(GET)
            assert (await peer.answer()).status == 200
            assert await peer.is_closed()


async def test_a_handler_may_take_longer_than_any_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "TICK_SECONDS", 0.02)

    async def slow(_: Request) -> Response:
        await asyncio.sleep(0.5)
        return Response(200, b"at last")

    async with serving(slow, HASTY) as (_, address), wire(address) as peer:
        peer.send(GET)
        assert (await peer.answer()).body == b"at last"


async def test_a_client_that_does_not_read_its_answer_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "TICK_SECONDS", 0.02)

    async def large(_: Request) -> Response:
        return Response(200, b"x" * (32 << 20))

    async with serving(large, HASTY) as (server, address):
        lazy = socket.create_connection(address)
        try:
            lazy.sendall(GET)
            await until(lambda: server.connections == 1)
            await until(lambda: server.connections == 0)
        finally:
            lazy.close()


# -- handlers and those who wait for them -----------------------------------------------------------------------------


async def test_a_handler_that_raises_costs_its_own_response(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request) -> Response:
        if request.path == "/fault":
            raise RuntimeError("no such luck")
        if request.path == "/refuse":
            raise HttpError(418, "TeapotException", "short and stout", {"x-spout": "here"})
        return Response(200, b"fine")

    async with serving(handler) as (_, address), wire(address) as peer:
        peer.send(GET.replace(b"/ ", b"/fault "))
        answer = await peer.answer()
        assert answer.status == 500
        assert "no such luck" not in answer.json["message"]
        peer.send(GET.replace(b"/ ", b"/refuse "))
        answer = await peer.answer()
        assert (answer.status, answer.headers["x-amzn-errortype"]) == (418, "TeapotException")
        assert (answer.headers["x-spout"], answer.json["Message"]) == ("here", "short and stout")
        peer.send(GET)
        assert (await peer.answer()).body == b"fine"
    assert "an HTTP request failed" in caplog.text


async def test_a_response_that_is_no_http_is_a_fault_in_the_log_and_ends_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def splitting(_: Request) -> Response:
        return Response(200, b"", {"x-a": "1\r\nx-b: 2"})

    async with serving(splitting) as (_, address), wire(address) as peer:
        peer.send(GET)
        assert await peer.is_closed()
    assert "is no HTTP" in caplog.text


@on_both_loops
async def test_a_client_that_goes_away_has_its_handler_cancelled() -> None:
    handler = Waiting()
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    async with serving(handler) as (server, address):
        async with wire(address) as peer:
            peer.send(GET)
            await until(lambda: handler.begun == 1)
        await until(lambda: handler.cancelled == 1)
        async with wire(address) as peer:
            peer.send(GET)
            await until(lambda: handler.begun == 2)
            peer.writer.write_eof()
            assert await peer.is_closed()
        await until(lambda: handler.cancelled == 2)
        await until(lambda: server.connections == 0)
    assert faults == []


@on_both_loops
async def test_closing_gives_handlers_the_time_they_are_given_and_no_more() -> None:
    handler = Waiting()
    async with serving(handler) as (server, address), wire(address) as peer, wire(address) as idle:
        peer.send(GET)
        await until(lambda: handler.begun == 1)
        closing = asyncio.ensure_future(server.close(PATIENCE_SECONDS))
        assert await idle.is_closed()
        handler.go.set()
        answer = await peer.answer()
        assert (answer.body, answer.headers["connection"]) == (b"done", "close")
        await closing
    handler = Waiting()
    async with serving(handler) as (server, address), wire(address) as peer:
        peer.send(GET)
        await until(lambda: handler.begun == 1)
        await server.close()
        assert handler.cancelled == 1
        assert server.connections == 0
        assert await peer.is_closed()


# -- kinds of sockets -------------------------------------------------------------------------------------------------


@on_both_loops
async def test_a_unix_socket_is_for_its_user_and_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / ("d" * 100) / "http.sock"
    path.parent.mkdir()
    server = HttpServer(echo)
    await server.open(UnixSocket(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    descriptor = os.open(path.parent, os.O_PATH)
    async with wire(UnixSocket(Path(f"/proc/self/fd/{descriptor}/http.sock"))) as peer:
        peer.send(GET)
        assert (await peer.answer()).status == 200
    os.close(descriptor)
    await server.close()
    assert not path.exists()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
async def test_a_socket_that_somebody_else_made_is_served(tmp_path: Path, family: int) -> None:
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(tmp_path / "s"))
    listening.listen()
    listening.setblocking(False)
    name = listening.getsockname()
    server = HttpServer(echo)
    assert await server.open(listening) is None
    async with wire(HostPort(*name) if family == socket.AF_INET else UnixSocket(Path(name))) as peer:
        peer.send(GET)
        assert (await peer.answer()).status == 200
    await server.close()
    assert listening.fileno() == -1


@on_both_loops
async def test_over_tls_the_handler_sees_the_certificate_and_a_new_context_holds_from_then_on(tmp_path: Path) -> None:
    certificates = []

    async def note(request: Request) -> Response:
        certificates.append(request.certificate)
        assert request.encrypted
        return Response()

    authority, other = Authority(tmp_path), Authority(_made(tmp_path / "other"))
    server = HttpServer(note)
    address = await server.open(ANYWHERE, authority.server())
    assert isinstance(address, HostPort)
    for trusted in (authority, other):
        reader, writer = await asyncio.open_connection(
            address.host, address.port, ssl=trusted.client("press"), server_hostname="localhost"
        )
        writer.write(GET)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.transport.abort()
        server.renew(other.server())
    assert [c and c.subject["commonName"] for c in certificates] == ["press", "press"]
    await server.close()


async def test_an_address_in_use_is_a_configuration_error() -> None:
    async with serving(echo) as (_, address):
        with pytest.raises(ConfigurationError, match="in use"):
            await HttpServer(echo).open(address)


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
