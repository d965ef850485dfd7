"""The launcher as its client sees it: workers, their ends, a launcher that dies, and requests that are wrong."""

import array
import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from functions.config import FunctionsSection
from functions.errors import FunctionsError, SandboxUnavailable
from functions.launcher import client, protocol, server
from functions.launcher.client import Launcher
from functions.launcher.protocol import Spec
from functions.launcher.workers import Refused, Workers
from tests.sandboxes import LIMIT_S, Sandboxes, both, close, eventually, processes_with, read_some, sandboxes

SLEEPS = "print('up', flush=True); import time; time.sleep(600)"
MAIN = str(client.MAIN.parent)


@both
async def test_a_worker_ends_with_its_own_code_or_its_signal(wrapped: bool) -> None:
    async with sandboxes(wrapped=wrapped) as boxes:
        assert (await boxes.run("raise SystemExit(3)")).code == 3
        assert (await boxes.run("import os; os.kill(os.getpid(), 15)")).code == -15
        assert (await boxes.run("import os; os.abort()")).code == -6
        outcome = await boxes.run("import sys; print('out'); print('err', file=sys.stderr)")
        assert (outcome.code, outcome.output, outcome.errors) == (0, "out\n", "err\n")
        assert outcome.peak > 1 << 20


@both
async def test_the_daemon_holds_the_workers_listening_sockets(wrapped: bool) -> None:
    code = """
import os, _socket
for address in (os.environ["AWS_LAMBDA_RUNTIME_API"], os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")):
    host, port = address.split(":")
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    sock.connect((host, int(port)))
    sock.send(address.encode())
"""
    async with sandboxes(wrapped=wrapped) as boxes, boxes.running(code) as launched:
        loop = asyncio.get_running_loop()
        for listening in (launched.runtime_api, launched.endpoint):
            connection, _ = await loop.sock_accept(listening)
            with connection:
                host, port = listening.getsockname()
                assert (await loop.sock_recv(connection, 100)).decode() == f"{host}:{port}"
        assert await launched.exited == 0


async def test_a_command_has_neither_the_channel_nor_anything_else_of_ours() -> None:
    code = "import os; print(os.listdir('/proc/self/fd')); input()"
    async with sandboxes() as boxes, boxes.running(code) as launched:
        assert await asyncio.get_running_loop().sock_recv(launched.channel, 1) == b""
        assert eval(await read_some(launched.stdout)) == ["0", "1", "2", "3"]  # 3 is the directory's


async def test_workers_are_told_apart() -> None:
    async with sandboxes() as boxes:
        outcomes = await asyncio.gather(*(boxes.run(f"print({n}); raise SystemExit({n})") for n in range(12)))
        assert [(outcome.output, outcome.code) for outcome in outcomes] == [(f"{n}\n", n) for n in range(12)]


async def test_a_worker_that_cannot_be_started_says_why_and_costs_nothing() -> None:
    async with sandboxes() as boxes:
        with pytest.raises(FunctionsError, match="processes"):
            await boxes.run("", processes=0)
        with pytest.raises(FunctionsError, match="too large"):
            await boxes.run("", environment={"X": "x" * 300_000})
        with pytest.raises(FunctionsError, match="no text of at most"):
            await boxes.run("x" * 5_000)
        outcome = await boxes.run("", argv=("/var/task/bootstrap",))
        assert (outcome.code, outcome.errors) == (1, "/var/task/bootstrap: cannot be run: No such file or directory\n")


async def test_nothing_stays_open_of_a_start_that_failed() -> None:
    async with sandboxes() as boxes:
        await boxes.run("")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with pytest.raises(FunctionsError):
                await boxes.run("", processes=0)
        assert len(os.listdir("/proc/self/fd")) == before


async def test_a_start_that_is_cancelled_leaves_no_worker() -> None:
    async with sandboxes() as boxes:
        await boxes.run("")
        for delay in (0.0, 0.001, 0.005, 0.01, 0.02, 0.04):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    launched = await boxes.launcher.start(boxes.spec(SLEEPS, "cancelled-worker"))
                    launched.kill()
                    close(launched)
        await eventually(lambda: not processes_with("cancelled-worker"))


async def test_a_launcher_that_died_is_followed_by_another() -> None:
    async with sandboxes() as boxes:
        async with boxes.running(SLEEPS) as launched:
            [launcher] = own_launchers()
            os.kill(launcher, 9)
            assert await launched.exited == -9
            launched.kill()
        assert await boxes.says("print('again')") == "again"
        assert own_launchers() != [launcher]


@both
async def test_workers_that_start_while_others_end_are_not_taken_for_each_other(wrapped: bool) -> None:
    async with sandboxes(wrapped=wrapped) as boxes:

        async def start_and_end(pause: float) -> None:
            for _ in range(10):
                async with boxes.running(SLEEPS) as launched:
                    await asyncio.sleep(pause)
                assert await launched.exited == -9

        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(start_and_end(number % 2 * number * 0.005))


@both
@pytest.mark.parametrize("killed", ["launcher", "keeper"])
async def test_whoever_is_killed_at_any_moment_of_a_start_nothing_is_left(wrapped: bool, killed: str) -> None:
    mark = uuid.uuid4().hex

    async def start(boxes: Sandboxes) -> None:
        with contextlib.suppress(FunctionsError):
            close(await boxes.launcher.start(boxes.spec(SLEEPS, mark)))

    for step in range(15):
        async with sandboxes(wrapped=wrapped) as boxes, asyncio.TaskGroup() as group:
            await boxes.launcher.layers()
            [keeper] = own_launchers()
            [launcher] = children(keeper)
            for _ in range(3):
                group.create_task(start(boxes))
            await asyncio.sleep(step * 0.003)  # a start takes 30 ms
            os.kill(launcher if killed == "launcher" else keeper, 9)
    await eventually(lambda: not processes_with(mark))


async def test_a_launcher_that_ends_by_itself_clears_up() -> None:
    async with sandboxes(wrapped=False, mode="off") as boxes, boxes.running(SLEEPS) as launched:
        assert await read_some(launched.stdout) == b"up\n"
        assert len(boxes.temporary()) >= 1
        [launcher] = own_launchers()
        os.kill(launcher, 15)
        assert await launched.exited == -9
        await eventually(lambda: not any(f"-{launcher}-" in str(path) for path in boxes.temporary()))


async def test_closing_kills_every_worker() -> None:
    async with sandboxes() as boxes:
        started = [await boxes.launcher.start(boxes.spec(SLEEPS, "worker-to-close")) for _ in range(3)]
        await boxes.launcher.close()
        assert [await launched.exited for launched in started] == [-9] * 3
        for launched in started:
            close(launched)
        assert processes_with("worker-to-close") == []
        with pytest.raises(FunctionsError, match="stopping"):
            await boxes.launcher.start(boxes.spec(""))


async def test_layers_are_told_with_their_reasons() -> None:
    async with sandboxes() as boxes:
        layers = await boxes.launcher.layers()
        assert set(layers) == {"bubblewrap", "cgroup", "landlock", "rlimits", "seccomp", "user"}
        assert (layers["bubblewrap"], layers["rlimits"], layers["seccomp"]) == ("holds", "holds", "holds")
    async with sandboxes(wrapped=False) as boxes:
        assert "apt install bubblewrap" in (await boxes.launcher.layers())["bubblewrap"]


async def test_a_bubblewrap_that_does_not_work_is_not_trusted(tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2; exit 1\n")
    broken.chmod(0o755)
    section = FunctionsSection(directory=tmp_path, sandbox="required")
    launcher = Launcher(section, arguments=(f"--bubblewrap={broken}",))
    try:
        assert "unprivileged_userns" in (await launcher.layers())["bubblewrap"]
        async with sandboxes() as boxes:
            with pytest.raises(SandboxUnavailable, match="uid map: Permission denied"):
                await launcher.start(boxes.spec(""))
    finally:
        await launcher.close()


async def test_a_launcher_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    launcher = Launcher(FunctionsSection(directory=tmp_path, launcher=tmp_path / "launcher.sock"))
    with pytest.raises(FunctionsError, match=r"launcher\.sock: no launcher there"):
        await launcher.layers()
    await launcher.close()


def own_launchers() -> list[int]:
    return [pid for pid in processes_with("--fd=") if stat(pid)[1] == str(os.getpid())]


def children(parent: int) -> list[int]:
    return [pid for pid in processes_with("--fd=") if stat(pid)[1] == str(parent)]


def stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


# What a daemon that is not ours could say.


@contextmanager
def unit(tmp_path: Path, *options: str) -> Iterator[Path]:
    """A launcher that listens, as the unit's does."""
    path = tmp_path / "launcher.sock"
    process = subprocess.Popen([sys.executable, "-I", "-S", MAIN, f"--listen={path}", *options])
    try:
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        yield path
    finally:
        process.terminate()
        process.wait()


@contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.settimeout(30)
        deadline = time.monotonic() + 20
        while True:
            try:
                channel.connect(str(path))
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
        yield channel


def answer(channel: socket.socket) -> dict[str, object]:
    document, descriptors = protocol.receive(channel)
    assert descriptors == []
    return document


BAD = [
    b"{", b"[]", b"[" * 50_000, b'{"do": "dance"}', b'{"do": "kill"}', b'{"do": "start", "id": 1}',
    b'{"do": "start", "id": 1, "spec": {}}', b'{"do": "start", "id": "x", "spec": {}}', b"\xff\xfe",
    b'{"do":"start","id":1,"spec":{"name":"x","interpreter":"/usr/bin/python3","argv":[],"binds":[["/","/"]]}}',
]  # fmt: skip


@pytest.mark.parametrize("request_", BAD)
def test_a_bad_request_costs_only_its_reply(request_: bytes, tmp_path: Path) -> None:
    with unit(tmp_path) as path, connected(path) as channel, connected(path) as other:
        channel.send(request_)
        assert "bad request" in str(answer(channel)["refused"])
        for asked in (channel, other):
            protocol.send(asked, {"do": "layers"})
            assert "layers" in answer(asked)


def test_descriptors_that_nobody_asked_for_are_closed(tmp_path: Path) -> None:
    with unit(tmp_path) as path, connected(path) as channel:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for count in (1, 3, 20):
                fds = array.array("i", [theirs.fileno()] * count)
                channel.sendmsg([b'{"do": "dance"}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
                assert "bad request" in str(answer(channel)["refused"])
            theirs.close()
            ours.settimeout(20)
            assert ours.recv(1) == b""


def test_a_request_cannot_ask_for_less_than_the_launcher_demands(tmp_path: Path) -> None:
    spec = {
        "name": "x", "interpreter": sys.executable, "argv": ["/bin/true"], "binds": [], "environment": {},
        "memory": 64 << 20, "tmp": 1 << 20, "processes": 8, "files": 64,
    }  # fmt: skip
    with unit(tmp_path, "--sandbox=required", "--bubblewrap=") as path, connected(path) as channel:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            start = {"do": "start", "id": 1, "sandbox": "off", "spec": spec}
            protocol.send(channel, start, [theirs.fileno()] * 3)
            refused = answer(channel)
        assert (refused["sandbox"], "required" in str(refused["refused"])) == (True, True)


def test_a_user_that_all_workers_share_is_no_layer_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit's launcher is no root: its workers could read each other's secrets in /proc, and its own memory."""
    spec = Spec(
        {
            "name": "x", "interpreter": sys.executable, "argv": ["/bin/true"], "binds": [], "environment": {},
            "memory": 64 << 20, "tmp": 1 << 20, "processes": 8, "files": 64,
        }
    )  # fmt: skip
    workers = Workers("", sys.executable)
    monkeypatch.setattr(workers, "_why_not", {"bubblewrap": "not installed", "landlock": "not in the kernel"})
    monkeypatch.setattr(os, "geteuid", lambda: 1_234)
    with pytest.raises(Refused, match="the same for all workers") as refused:
        workers.start(spec, "default", [0, 1, 2], daemon=4_321)
    assert refused.value.sandbox


def test_the_file_of_the_socket_says_who_may_connect(tmp_path: Path) -> None:
    with unit(tmp_path) as path, connected(path) as channel:
        path.chmod(0o777)
        assert server.allowed_user(channel, str(path)) == os.geteuid()


STRANGER = """
import os, socket, sys
os.setgroups([int(group) for group in sys.argv[2:]])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
channel.connect(sys.argv[1])
try:
    channel.send(b'{"do": "layers"}')
    print(len(channel.recv(100_000)) > 0)
except OSError:
    print(False)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become others")
def test_strangers_are_turned_away_and_members_of_the_sockets_group_are_not(tmp_path: Path) -> None:
    for place in (tmp_path, *tmp_path.parents):
        if place.stat().st_mode & 1 == 0:
            place.chmod(0o755)
    with unit(tmp_path) as path, connected(path):
        os.chown(path, 0, 12_345)
        path.chmod(0o777)
        told = {}
        for groups in ((), ("12345",), ("12346",)):
            done = subprocess.run([sys.executable, "-c", STRANGER, str(path), *groups], capture_output=True, text=True)
            told[groups] = done.stdout.strip()
        assert told == {(): "False", ("12345",): "True", ("12346",): "False"}


async def test_a_listening_launcher_serves_a_client_and_forgets_it(tmp_path: Path) -> None:
    with unit(tmp_path) as path:
        launcher = Launcher(FunctionsSection(directory=tmp_path, launcher=path))
        async with sandboxes() as boxes:
            launched = await launcher.start(boxes.spec(SLEEPS, "worker-of-the-unit"))
            assert await read_some(launched.stdout) == b"up\n"
            await launcher.close()
            close(launched)
            await eventually(lambda: not processes_with("worker-of-the-unit"))
        with connected(path) as channel:
            protocol.send(channel, {"do": "layers"})
            assert "layers" in answer(channel)


SYSTEMD = """
import os, socket, sys
listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listening.bind(sys.argv[1])
listening.listen()
os.dup2(listening.fileno(), 3)
os.set_inheritable(3, True)
environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execve(sys.executable, [sys.executable, "-I", "-S", sys.argv[2]], environment)
"""


def test_the_socket_that_systemd_listens_on_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "launcher.sock"
    process = subprocess.Popen([sys.executable, "-c", SYSTEMD, str(path), MAIN])
    try:
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        with connected(path) as channel:
            protocol.send(channel, {"do": "layers"})
            assert "layers" in answer(channel)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("words", [["--sandbox=none", "--fd=0"], ["--wish=x"], []])
def test_a_wrong_command_line_is_said_so(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-I", "-S", MAIN, *words], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_the_launcher_is_standard_library_only() -> None:
    code = "import sys; sys.path.append(sys.argv[1]); import functions.launcher.server; print(*sys.modules)"
    root = str(Path(__file__).parent.parent)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, root], capture_output=True, text=True, check=True)
    tops = {name.split(".")[0] for name in done.stdout.split()}
    assert tops - sys.stdlib_module_names <= {"functions", "__main__", "sitecustomize"}
