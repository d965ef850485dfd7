"""The launcher's process: one loop over connections and workers, with a bound on each.

    --fd=N            serve one connection, which is open already, and end with it: started by a daemon
    --listen=PATH     listen there; without either, systemd has passed a listening socket (sd_listen_fds(3))
    --sandbox=MODE    the least that is asked of every worker; a request can ask for more, never for less
    --bubblewrap=PATH where bwrap is; empty for "there is none"

A listening launcher serves root, the user who owns the socket's file and members of the group that it belongs to, as
the kernel tells them, and nobody else; above all not its own user, for that is what its workers may be.

Invariants:
1. A connection that closes takes all its workers with it; the process that ends takes all workers with it.
2. At most `WORKERS_MAX` workers and `CONNECTIONS_MAX` connections. Replies that are not read are kept up to
   `UNREAD_MAX`, then the connection is closed.
3. A request that is wrong costs its own reply, never another worker.
"""

import os
import selectors
import signal
import socket
import struct
import sys

from functions.launcher import guard, protocol
from functions.launcher.process import Process
from functions.launcher.protocol import BadRequest, Spec
from functions.launcher.sandbox import MODES, strictest
from functions.launcher.workers import Refused, Workers

CONNECTIONS_MAX = 8  # an edge, a cloud, and somebody who looks
WORKERS_MAX = 512  # twice what one daemon may want (max_workers)
UNREAD_MAX = 2_048  # replies; a daemon gets two for each worker
STOP_LIMIT_S = 5.0  # for workers to end that were killed; the kernel ends what is left with this process
SO_PEERGROUPS, GROUPS_MAX = 59, 256
SYSTEMD_SOCKET = 3  # SD_LISTEN_FDS_START
BUBBLEWRAP = ("/usr/bin/bwrap", "/bin/bwrap", "/usr/local/bin/bwrap")  # not from PATH, which others may set


class Connection:
    """One daemon. `workers` are the ids that it has given."""

    def __init__(self, channel: socket.socket, user: int) -> None:
        channel.setblocking(False)
        self.channel, self.user = channel, user
        self.workers: dict[int, Process] = {}
        self.unread: list[dict[str, object]] = []

    def say(self, document: dict[str, object]) -> None:
        """Send, or keep for later. Raises OSError when the other side is gone or reads nothing."""
        self.unread.append(document)
        self.flush()
        if len(self.unread) > UNREAD_MAX:
            raise OSError("the daemon does not read")

    def flush(self) -> None:
        """Send what was kept, as far as it goes."""
        while self.unread:
            try:
                protocol.send(self.channel, self.unread[0])
            except BlockingIOError:
                return
            del self.unread[0]


class Server:
    """The loop over a listening socket, if there is one, connections, and what the workers are watched by."""

    def __init__(self, workers: Workers, mode: str, listening: socket.socket | None = None) -> None:
        self._selector = selectors.DefaultSelector()
        self._workers, self._mode, self._listening = workers, mode, listening
        self._connections: dict[socket.socket, Connection] = {}
        self._running = 0  # workers, those of lost connections included
        self._is_told = False  # to end
        told, telling = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(told, selectors.EVENT_READ, lambda: self._tell(told))
        signal.set_wakeup_fd(telling)  # a handler that raised could leave anything half done
        signal.signal(signal.SIGTERM, lambda *_: None)
        if listening is not None:
            listening.setblocking(False)
            self._selector.register(listening, selectors.EVENT_READ, self._accept)

    def add(self, channel: socket.socket, user: int) -> None:
        """Serve a connection to a daemon of this user."""
        connection = Connection(channel, user)
        self._connections[channel] = connection
        self._selector.register(channel, selectors.EVENT_READ, lambda: self._hear(connection))

    def run(self) -> None:
        """Serve until SIGTERM, or until nobody is left to be served; then end when every worker has."""
        try:
            while not self._is_told and (self._listening is not None or self._connections or self._running):
                self._turn(self._workers.watch.pause())
                self._workers.watch.look()
        finally:
            for connection in list(self._connections.values()):
                self._lost(connection)
            while self._running and self._turn(STOP_LIMIT_S):
                pass
            self._workers.close()

    def _tell(self, told: int) -> None:
        os.read(told, 64)
        self._is_told = True

    def _turn(self, limit: float | None) -> bool:
        ready = self._selector.select(limit)
        for key, _ in ready:
            if self._selector.get_map().get(key.fd) is key:  # not closed or changed by what came before it
                key.data()
        return bool(ready)

    def _accept(self) -> None:
        assert self._listening is not None
        try:
            channel, _ = self._listening.accept()
        except OSError:
            return
        user = allowed_user(channel, self._listening.getsockname())
        if user is None or len(self._connections) >= CONNECTIONS_MAX:
            channel.close()
            return
        self.add(channel, user)

    def _hear(self, connection: Connection) -> None:
        ends: list[int] = []
        try:
            self._flush(connection)
            document, ends = protocol.receive(connection.channel)
            self._do(connection, document, ends)
        except BlockingIOError:
            return
        except BadRequest as error:
            self._say(connection, {"id": error.id, "refused": f"bad request: {error}"})
        except (EOFError, OSError):
            self._lost(connection)
        finally:
            for descriptor in ends:
                os.close(descriptor)

    def _do(self, connection: Connection, document: dict[str, object], ends: list[int]) -> None:
        match document.get("do"), document.get("id"):
            case "start", int(number):
                self._start(connection, number, document, ends)
            case "kill", int(number):
                if (worker := connection.workers.get(number)) is not None:
                    worker.kill()
            case "layers", _:
                self._say(connection, {"layers": self._workers.layers(connection.user)})
            case do, _:
                raise BadRequest(f"{do!r} is nothing that the launcher does")

    def _start(self, connection: Connection, number: int, document: dict[str, object], ends: list[int]) -> None:
        try:
            spec = Spec(document.get("spec"))
        except BadRequest as error:
            raise BadRequest(str(error), number) from None
        if len(ends) != protocol.DESCRIPTORS_MAX or number in connection.workers or number <= 0:
            raise BadRequest("a start needs three descriptors and a new id", number)
        try:
            if sum(len(other.workers) for other in self._connections.values()) >= WORKERS_MAX:
                raise Refused(f"{WORKERS_MAX} workers run already")
            mode = strictest(self._mode, str(document.get("sandbox")))
            worker, layers = self._workers.start(spec, mode, ends, connection.user)
        except Refused as error:
            self._say(connection, {"id": number, "refused": str(error), "sandbox": error.sandbox})
            return
        connection.workers[number] = worker
        self._running += 1
        self._selector.register(worker.pidfd, selectors.EVENT_READ, lambda: self._ended(connection, number, worker))
        if worker.info >= 0:
            self._selector.register(worker.info, selectors.EVENT_READ, lambda: self._learn(worker))
        self._say(connection, {"id": number, "started": worker.pid, "layers": layers})

    def _learn(self, worker: Process) -> None:
        if worker.learn():
            # Before it is closed: bubblewrap has the pipe too, so epoll would go on telling of this number, which the
            # next descriptor gets.
            self._selector.unregister(worker.info)
            worker.told()

    def _ended(self, connection: Connection, number: int, worker: Process) -> None:
        for descriptor in (worker.pidfd, worker.info):
            if descriptor >= 0 and descriptor in self._selector.get_map():
                self._selector.unregister(descriptor)
        code, peak = self._workers.ended(worker)
        self._running -= 1
        del connection.workers[number]
        if connection.channel in self._connections:
            self._say(connection, {"id": number, "exited": code, "peak": peak})

    def _say(self, connection: Connection, document: dict[str, object]) -> None:
        try:
            connection.say(document)
            self._flush(connection)
        except OSError:
            self._lost(connection)

    def _flush(self, connection: Connection) -> None:
        """Send what was kept, and be told when more can be sent."""
        connection.flush()
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unread else 0)
        key = self._selector.get_key(connection.channel)
        if key.events != events:
            self._selector.modify(connection.channel, events, key.data)

    def _lost(self, connection: Connection) -> None:
        """Kill its workers; they are reaped as they end."""
        if self._connections.pop(connection.channel, None) is None:
            return
        self._selector.unregister(connection.channel)
        connection.channel.close()
        for worker in connection.workers.values():
            worker.kill()


def allowed_user(channel: socket.socket, path: str) -> int | None:
    """The user at the other end, if that is root, the owner of the socket's file, or in the file's group."""
    _, user, group = struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if user == 0:
        return int(user)
    try:
        file = os.stat(path)
        groups = channel.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 4 * GROUPS_MAX)
    except OSError:
        return None
    members = {group, *struct.unpack(f"{len(groups) // 4}I", groups)}
    in_group = file.st_gid in members and file.st_gid != os.getegid()
    return int(user) if user == file.st_uid or in_group else None


def main() -> None:
    """Be the launcher; see the module for the options."""
    options = dict(word.removeprefix("--").partition("=")[::2] for word in sys.argv[1:])
    mode, bubblewrap = options.pop("sandbox", "default"), options.pop("bubblewrap", None)
    if mode not in MODES:
        sys.exit(f"--sandbox={mode}: expected one of {', '.join(MODES)}")
    if bubblewrap is None:
        bubblewrap = next((path for path in BUBBLEWRAP if os.access(path, os.X_OK)), "")
    workers = Workers(bubblewrap, sys.executable)
    channel = listening = None
    if "fd" in options:
        channel = socket.socket(fileno=int(options.pop("fd")))
        channel.set_inheritable(False)
    else:
        listening = _listening(options.pop("listen", ""))
    if options:
        sys.exit(f"--{next(iter(options))}: the launcher has no such option")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the daemon decides when its workers end
    guard.keep()
    server = Server(workers, mode, listening)
    if channel is not None:
        server.add(channel, os.geteuid())
    server.run()


def _listening(path: str) -> socket.socket:
    if path:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listening.bind(path)
        listening.listen(CONNECTIONS_MAX)
        return listening
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        sys.exit("no socket: give --listen=PATH or --fd=N, or let systemd pass one (tidegate-functions.socket)")
    os.set_inheritable(SYSTEMD_SOCKET, False)
    return socket.socket(fileno=SYSTEMD_SOCKET)
