"""What an idle client costs an edge, and how fast clients connect, beside Mosquitto.

    python -m bench.connections [--clients 5000] [--tls] [--mqtt 311|5] [--runs 1] [--json]

connects so many clients to each broker, started fresh, from one process with at most `HANDSHAKES` under way at a
time, and prints connects per second, from the first SYN to the last CONNACK, and the broker's memory per client:
what all of them have added to the resident (RSS) and proportional (PSS) memory of a broker that a hundred others
had warmed up and left. Then every client pings, and must be answered, or the program fails.

With --tls every client shows the certificate of one device, and the generator shakes hands in threads: then it is the
memory that says something about a broker, and the connects per second say as much about the generator.

What the kernel keeps for each socket is not in these numbers.
"""

import argparse
import json
import resource
import selectors
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from mqtt5 import ConnectPacket

from bench import identities, load, peers
from bench.load import HOST, LoadFailed, Version
from bench.tls import TlsSocket
from bench.turns import Starter, compare, scratch, turns
from core.errors import TidegateError
from core.mqtt import v5, v311

CLIENTS = 5_000
HANDSHAKES = 64  # without an answer at a time: fewer than the 100 that Mosquitto lets wait in its listen queue
WARM_CLIENTS = 100  # for what a broker allocates once; few, because the memory that they leave is used again
KEEP_ALIVE_SECONDS = 600  # longer than a run, and yet a time that the broker has to watch
SETTLE_SECONDS = 2.0
STALL_SECONDS = 10.0
SPARE_FILES = 100  # beside the clients' sockets, on either side
READ_BYTES = 4_096
DEVICE = "idle"  # whose certificate all show with --tls; their client identifiers begin with its name
PINGREQ, PINGRESP = b"\xc0\x00", b"\xd0\x00"


@dataclass(frozen=True, slots=True)
class Run:
    """One broker with all clients once; bytes and microseconds of processor time are per client."""

    broker: str
    clients: int
    per_second: float
    broker_us: float
    rss: float
    pss: float


def allow_files(count: int) -> None:
    """Raise the limit of open files, for this process and those that it starts. Raises TidegateError."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < count:
        raise TidegateError(f"{count:,} open files are needed, {most:,} allowed (ulimit -Hn): use fewer --clients")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, most))


class Crowd:
    """Many idle clients of one broker."""

    def __init__(self, port: int, version: Version, context: ssl.SSLContext | None = None) -> None:
        self._port = port
        self._version = version
        self._context = context
        self._sockets: list[socket.socket | TlsSocket] = []

    def connect(self, count: int) -> float:
        """Connect so many clients; returns the seconds that took. Raises LoadFailed."""
        return self._connect(count) if self._context is None else self._connect_tls(count, self._context)

    def _connect_tls(self, count: int, context: ssl.SSLContext) -> float:
        started = time.perf_counter()
        with ThreadPoolExecutor(HANDSHAKES) as threads:
            names = (f"{DEVICE}-{n}" for n in range(count))
            for connection, _ in threads.map(
                lambda name: load.connect(self._port, name, self._version, lambda _: context), names
            ):
                self._sockets.append(connection)
        return time.perf_counter() - started

    def _connect(self, count: int) -> float:
        codec = v5 if self._version == 5 else v311
        packets = [codec.encode(ConnectPacket(f"{DEVICE}-{n}", clean_start=True, keep_alive=KEEP_ALIVE_SECONDS))
                   for n in range(count)]  # fmt: skip
        waiting = iter(packets)
        selector = selectors.DefaultSelector()
        started = time.perf_counter()
        for packet, _ in zip(waiting, range(HANDSHAKES), strict=False):
            self._begin(selector, packet)
        while selector.get_map():
            for key, events in _ready(selector):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if events & selectors.EVENT_WRITE:
                    _send(connection, key.data)
                    selector.modify(connection, selectors.EVENT_READ)
                else:
                    _expect_connack(connection)
                    selector.unregister(connection)
                    for packet in _one(waiting):
                        self._begin(selector, packet)
        return time.perf_counter() - started

    def _begin(self, selector: selectors.BaseSelector, packet: bytes) -> None:
        connection = socket.socket()
        self._sockets.append(connection)
        connection.setblocking(False)
        with suppress(BlockingIOError):
            connection.connect((HOST, self._port))
        selector.register(connection, selectors.EVENT_WRITE, packet)

    def ping(self) -> None:
        """Every client asks whether the broker is there. Raises LoadFailed when one gets no answer."""
        with selectors.DefaultSelector() as selector:
            for connection in self._sockets:
                _send(connection, PINGREQ)
                selector.register(connection, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in _ready(selector):
                    assert isinstance(key.fileobj, socket.socket | TlsSocket)
                    if _receive(key.fileobj) != PINGRESP:
                        raise LoadFailed("a client's PINGREQ got another answer than PINGRESP")
                    selector.unregister(key.fileobj)

    def leave(self) -> None:
        """Everyone says goodbye."""
        for connection in self._sockets:
            with suppress(OSError):
                connection.send(b"\xe0\x00")
            connection.close()
        self._sockets.clear()


def _one(packets: Iterator[bytes]) -> Iterator[bytes]:
    with suppress(StopIteration):
        yield next(packets)


def _ready(selector: selectors.BaseSelector) -> list[tuple[selectors.SelectorKey, int]]:
    ready = selector.select(STALL_SECONDS)
    if not ready:
        raise LoadFailed(f"{len(selector.get_map()):,} clients got no answer for {STALL_SECONDS:.0f} s")
    return ready


def _send(connection: socket.socket | TlsSocket, packet: bytes) -> None:
    try:
        connection.send(packet)
    except OSError as error:
        raise LoadFailed(f"a client lost its connection: {error}") from None


def _receive(connection: socket.socket | TlsSocket) -> bytes:
    try:
        data = connection.recv(READ_BYTES)
    except OSError as error:
        raise LoadFailed(f"a client lost its connection: {error}") from None
    if not data:
        raise LoadFailed("the broker closed a client's connection")
    return data


def _expect_connack(connection: socket.socket) -> None:
    answer = _receive(connection)
    # The code stands at the same place in both versions, and every broker writes so short a packet at once.
    if answer[:1] != b"\x20" or answer[3] != 0:
        raise LoadFailed(f"the broker refuses a client: {answer.hex()}")


def measure(start: Starter, clients: int, version: Version, base: Path) -> Run:
    """Start a broker, warm it up, and look before and after so many clients have connected."""
    with scratch(base) as name, start(Path(name)) as peer:
        crowd = Crowd(peer.port, version, peer.credentials(DEVICE) if peer.credentials else None)
        try:
            crowd.connect(WARM_CLIENTS)
            crowd.leave()
            time.sleep(SETTLE_SECONDS)
            before, cpu = peer.memory(), peer.cpu_seconds()
            took = crowd.connect(clients)
            used = peer.cpu_seconds() - cpu
            time.sleep(SETTLE_SECONDS)
            after = peer.memory()
            crowd.ping()
        finally:
            crowd.leave()
    rss, pss = (after.rss - before.rss) / clients, (after.pss - before.pss) / clients
    return Run(peer.name, clients, clients / took, used / clients * 1e6, rss, pss)


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--tls", action="store_true", help="with a certificate")
    parser.add_argument("--runs", type=int, default=1, help="of each broker")
    parser.add_argument("--mqtt", type=int, choices=[311, 5], default=311)
    parser.add_argument("--dir", type=Path, default=Path(), help="a directory in it is made and removed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs = []
    try:
        allow_files(max(options.clients, WARM_CLIENTS) + SPARE_FILES)
        with scratch(options.dir) as name:
            enrolled = identities.enrol(Path(name), [DEVICE, peers.PROBE]) if options.tls else None
            edge, mosquitto = partial(peers.edge, identities=enrolled), partial(peers.mosquitto, identities=enrolled)
            for start in turns(options.runs, edge, mosquitto):
                runs.append(measure(start, options.clients, options.mqtt, options.dir))
                if not options.json:
                    _print(runs[-1])
    except (TidegateError, OSError) as error:
        raise SystemExit(f"bench.connections: {error}") from None
    result = compare(runs)
    if options.json:
        print(json.dumps({"runs": [asdict(run) for run in runs], "result": result}, indent=2))
        return
    print(f"\n{options.clients:,} clients, all answered; connects per second, ratio {result['ratio']:.2f}")


def _print(run: Run) -> None:
    print(
        f"{run.broker:>10} {run.per_second:>10,.0f} connects/s, {run.broker_us:>4.0f} us each in the broker;"
        f" {run.rss / 1e3:6.1f} KB RSS, {run.pss / 1e3:.1f} KB PSS per idle client",
        flush=True,
    )


if __name__ == "__main__":
    main()
