"""The HTTP server beside uvicorn, if that is installed: requests per second.

Each server is a process of its own with the same handler, which answers 11 bytes of JSON. The load is raw sockets with
keep-alive: on each connection a GET and a POST of 11 bytes by turns, as a worker on the Runtime API sends for each
event, one request in flight.

    python -m bench.http [--seconds 3] [--connections 1,8]
"""

import argparse
import asyncio
import importlib
import importlib.util
import multiprocessing
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from tidegate.processes import free_port

START_SECONDS = 10.0
BODY = b'{"ok":true}'
GET = b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: 127.0.0.1:9001\r\nUser-Agent: bench\r\n\r\n"
POST = (
    b"POST /2018-06-01/runtime/invocation/8476a536-e9f4-11e8-9739-2dfe598c3fcd/response HTTP/1.1\r\n"
    b"Host: 127.0.0.1:9001\r\nUser-Agent: bench\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)

Server = Callable[[Connection], None]


def tidegate(ready: Connection) -> None:
    """`core.http.server`."""
    import uvloop

    from core.config import HostPort
    from core.http.messages import Request, Response
    from core.http.server import HttpServer

    async def handler(_: Request) -> Response:
        return Response(200, BODY, {"content-type": "application/json"})

    async def main() -> None:
        address = await HttpServer(handler).open(HostPort("127.0.0.1", 0))
        assert isinstance(address, HostPort)
        ready.send(address.port)
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def application(scope: Any, receive: Any, send: Any) -> None:
    """The same handler for uvicorn (ASGI)."""
    assert scope["type"] == "http"
    await receive()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


def uvicorn(http: str, ready: Connection) -> None:
    """Uvicorn with one of its parsers: "h11", in Python, or "httptools", in C."""
    library: Any = importlib.import_module("uvicorn")
    port = free_port()
    ready.send(port)
    library.run(
        application, port=port, http=http, loop="uvloop", lifespan="off", access_log=False, log_level="error"
    )


def servers() -> dict[str, Server]:
    """Those that are installed."""
    found: dict[str, Server] = {"tidegate": tidegate}
    if importlib.util.find_spec("uvicorn"):
        parsers = [http for http in ("h11", "httptools") if importlib.util.find_spec(http)]
        found |= {f"uvicorn, {http}": partial(uvicorn, http) for http in parsers}
    return found


def ask(port: int, end: float, counts: list[int]) -> None:
    """Send requests on one connection until `end`."""
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        count = 0
        while time.perf_counter() < end:
            for request in (GET, POST):
                peer.sendall(request)
                received = b""
                while not received.endswith(BODY):
                    received += peer.recv(4_096)
            count += 2
    counts.append(count)


def load(port: int, seconds: float, connections: int) -> float:
    """Requests per second."""
    counts: list[int] = []
    end = time.perf_counter() + seconds
    threads = [threading.Thread(target=ask, args=(port, end, counts)) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def wait_for(port: int) -> None:
    """Until somebody listens."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def measure(serve: Server, seconds: float, connections: list[int]) -> str:
    """Start a server in a process of its own and put load on it."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there,), daemon=True)
    process.start()
    try:
        port = here.recv()
        wait_for(port)
        return "".join(f"{load(port, seconds, count):>14,.0f}/s" for count in connections)
    finally:
        process.kill()
        process.join()


def main() -> None:
    """Print a row for each server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", default="1,8")
    arguments = parser.parse_args()
    connections = [int(text) for text in arguments.connections.split(",")]
    print(f"{'':<20}" + "".join(f"{f'{count} connections':>16}" for count in connections))
    for name, serve in servers().items():
        print(f"{name:<20}{measure(serve, arguments.seconds, connections)}", flush=True)


if __name__ == "__main__":
    main()
