"""What code in a worker cannot do, tried from inside, with bubblewrap and with the layers that are left without it."""

import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from functions.errors import FunctionsError, SandboxUnavailable
from functions.launcher import client, sandbox
from functions.launcher.protocol import Spec
from functions.launcher.sandbox import Unusable
from functions.worker import landlock
from tests.sandboxes import NEEDS_LANDLOCK, Sandboxes, both, eventually, processes_with, read_some, sandboxes

ROOT = Path(__file__).parent.parent
ROOTS = {
    *("bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "tmp", "usr", "var"),
    os.path.realpath(sys.executable).split("/")[1],  # where this Python is
}

TRY = """
import os, sys
def attempt(what, *arguments):
    try:
        return repr(what(*arguments))
    except OSError as error:
        return type(error).__name__
"""


async def test_a_worker_sees_the_system_its_code_and_nothing_else_of_the_machine() -> None:
    async with sandboxes() as boxes:
        (boxes.task / "handler.py").write_text("x = 1")
        roots = await boxes.says("import os; print(*sorted(os.listdir('/')))")
        assert set(roots.split()) <= ROOTS
        assert await boxes.says("import os; print(*os.listdir('/var/task'), os.getcwd())") == "handler.py /var/task"
        etc = await boxes.says("import os; print(*sorted(os.listdir('/etc')))")
        assert not set(etc.split()) & {"shadow", "tidegate", "ssh", "hosts", "resolv.conf", "machine-id"}
        assert len((await boxes.says("print(open('/etc/passwd').read())")).splitlines()) == 2


@both
async def test_a_worker_cannot_read_files_of_the_daemon(wrapped: bool) -> None:
    async with sandboxes(wrapped=wrapped) as boxes:
        key = boxes.public / "daemon.key"  # its mode forbids nothing: the sandbox has to
        key.write_text("the private key")
        key.chmod(0o644)
        code = TRY + "print(attempt(open, sys.argv[1]), attempt(os.listdir, os.path.dirname(sys.argv[1])))"
        assert await boxes.says(code, str(key)) in {
            "FileNotFoundError FileNotFoundError", "PermissionError PermissionError",
        }  # fmt: skip


SECRETS = """
import os, sys
found, secret = [], "of-the" + "-other"
for process in [*range(1, 100), *sys.argv[1:]]:
    for name in ("environ", "mem", "cmdline", "root/tmp", "cwd"):
        try:
            place = f"/proc/{process}/{name}"
            content = os.listdir(place) if os.path.isdir(place) else open(place, "rb").read(100_000)
            if secret in str(content):
                found.append(place)
        except OSError:
            pass
for top in ("/tmp", "/dev/shm", "/var/tmp"):
    for place, names, files in os.walk(top):
        found += [f for f in files if secret in f]
print(found)
"""


@both
async def test_a_worker_cannot_read_anothers_environment_or_files(wrapped: bool) -> None:
    other = "import os, tempfile; open(tempfile.gettempdir() + '/file-of-the-other', 'w'); print('up', flush=True);"
    async with sandboxes(wrapped=wrapped) as boxes:
        environment = {"SECRET": "of-the-other"}
        async with boxes.running(other + "import signal; signal.pause()", environment=environment) as first:
            assert await read_some(first.stdout) == b"up\n"
            assert await boxes.says(SECRETS, *map(str, processes_with("/file-of-the-other"))) == "[]"
            assert not first.exited.done()


async def test_a_worker_sees_no_process_of_the_machine() -> None:
    async with sandboxes() as boxes:
        numbers = await boxes.says("import os; print(*filter(str.isdigit, os.listdir('/proc')))")
        assert len(numbers.split()) <= 3  # process 1, the worker


async def test_a_worker_cannot_signal_a_process_of_the_machine() -> None:
    victim = started("sleep", "60")
    try:
        async with sandboxes() as boxes:
            assert await boxes.says(TRY + f"print(attempt(os.kill, {victim.pid}, 9))") == "ProcessLookupError"
            assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


async def test_secrets_are_in_no_command_line_and_not_in_bubblewraps_environment() -> None:
    secret = uuid.uuid4().hex
    async with sandboxes() as boxes:
        code = "print('up', flush=True); import signal; signal.pause()"
        async with boxes.running(code, environment={"SECRET": secret}) as launched:
            assert await read_some(launched.stdout) == b"up\n"
            assert processes_with(secret) == []
            assert secret not in content(f"/proc/{launched.pid}/environ")
        assert await boxes.says("import os; print(os.environ['SECRET'])", environment={"SECRET": secret}) == secret


async def test_the_environment_is_what_was_asked_for_and_where_the_daemon_listens() -> None:
    async with sandboxes() as boxes:
        environment = {"LANG": "C.UTF-8", "KEY": "a=b\nc ü"}
        told = await boxes.says("import os; print(dict(os.environ))", environment=environment)
        ports = {"AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001", "AWS_ENDPOINT_URL": "http://127.0.0.1:9002"}
        assert eval(told) == environment | ports | {"PWD": "/var/task"}


@both
async def test_memory_is_bounded(wrapped: bool) -> None:
    async with sandboxes(wrapped=wrapped) as boxes:
        code = "x = bytearray({} << 20); x[::4096] = x[::4096].replace(b'\\0', b'1'); print('had it')"
        assert await boxes.says(code.format(60), memory=64 << 20) == "had it"
        outcome = await boxes.run(code.format(1_000), memory=64 << 20)
        assert (outcome.code, "MemoryError" in outcome.errors) == (1, True)
        assert outcome.peak < 600 << 20


BOMB = """
import os, sys, time
children = 0
for _ in range(500):  # not for ever, in case nothing stops it
    try:
        pid = os.fork()
    except OSError:
        break
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    children += 1
print(children, flush=True)
time.sleep(60)
"""


@both
async def test_a_fork_bomb_is_bounded_and_leaves_room_for_others(wrapped: bool) -> None:
    mark = uuid.uuid4().hex
    async with sandboxes(wrapped=wrapped) as boxes:
        async with boxes.running(BOMB, mark, processes=16) as launched:
            assert int(await read_some(launched.stdout)) <= 16
            assert await boxes.says("import os; os.fork() or os._exit(0); print('fine')") == "fine"
        await eventually(lambda: not processes_with(mark))


FILL = TRY + """
def fill(place, megabytes):
    written = 0
    try:
        for index in range(megabytes):
            with open(f"{place}/{index}", "wb") as file:
                file.write(bytes(1 << 20))
            written += 1
    except OSError:
        pass
    return written
"""


async def test_the_disk_cannot_be_filled() -> None:
    async with sandboxes() as boxes:
        places = ("/tmp", "/dev/shm", "/dev", "/", "/var/task", "/var", "/proc")
        told = await boxes.says(FILL + "print(*(fill(place, 40) for place in sys.argv[1:]))", *places, tmp=4 << 20)
        tmp, shared, *others = (int(word) for word in told.split())
        assert 2 <= tmp <= 4
        assert shared <= 16
        assert others == [0] * 5
        assert list(boxes.task.iterdir()) == []


@NEEDS_LANDLOCK
async def test_without_bubblewrap_only_the_workers_own_directory_can_be_written() -> None:
    async with sandboxes(wrapped=False) as boxes:
        places = (boxes.public, boxes.task, "/tmp", "/dev/shm", "/var/tmp")
        code = FILL + "own = os.environ['TMPDIR']; print(own, *(fill(place, 3) for place in [own, *sys.argv[1:]]))"
        own, *written = (await boxes.says(code, *map(str, places))).split()
        assert written == ["3", *["0"] * len(places)]
        assert own not in map(str, boxes.temporary())  # it goes with the worker
        code = TRY + "import tempfile; print(attempt(open(tempfile.gettempdir() + '/x', 'wb').write, bytes(2 << 20)))"
        assert await boxes.says(code, tmp=1 << 20) in {"OSError", str(1 << 20)}


DAEMONS = """
import os, sys, time
for _ in range(3):
    if os.fork() == 0:  # a daemon: its parent is gone, its session its own
        os.setsid()
        if os.fork():
            os._exit(0)
        time.sleep(600)
print("up", flush=True)
"""
STAYS, LEAVES = DAEMONS + "time.sleep(600)", DAEMONS + "sys.exit(7)"


@both
async def test_killing_a_worker_kills_what_it_has_left_running(wrapped: bool) -> None:
    mark = uuid.uuid4().hex
    async with sandboxes(wrapped=wrapped) as boxes:
        async with boxes.running(STAYS, mark) as launched:
            assert await read_some(launched.stdout) == b"up\n"
            await eventually(lambda: len(processes_with(mark)) >= 4)
        assert launched.exited.result() == -9
        assert processes_with(mark) == []


@both
async def test_a_worker_that_ends_takes_what_it_has_left_running_with_it(wrapped: bool) -> None:
    mark = uuid.uuid4().hex
    async with sandboxes(wrapped=wrapped) as boxes:
        outcome = await boxes.run(LEAVES, mark)
        assert (outcome.code, outcome.output) == (7, "up\n")
        await eventually(lambda: not processes_with(mark))


@both
async def test_no_worker_outlives_the_launcher(wrapped: bool) -> None:
    mark = uuid.uuid4().hex
    async with sandboxes(wrapped=wrapped) as boxes, boxes.running(STAYS, mark) as launched:
        assert await read_some(launched.stdout) == b"up\n"
        [launcher] = [pid for pid in processes_with("--fd=") if parent(pid) == os.getpid()]
        os.kill(launcher, 9)
        assert await launched.exited == -9
        await eventually(lambda: not processes_with(mark))


DAEMON = """
import asyncio, sys
from pathlib import Path
from functions.launcher import client
from functions.launcher.client import Launcher, WorkerSpec
from functions.config import FunctionsSection
async def main():
    main_module, directory, interpreter, code, mark, *arguments = sys.argv[1:]
    client.MAIN = Path(main_module)
    launcher = Launcher(FunctionsSection(directory=directory), arguments=tuple(arguments))
    spec = WorkerSpec("x", (interpreter, "-I", "-S", "-c", code, mark), interpreter, {}, (), 64 << 20, 1 << 20, 16)
    launched = await launcher.start(spec)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@both
async def test_no_worker_outlives_the_daemon(wrapped: bool) -> None:
    mark = uuid.uuid4().hex
    async with sandboxes(wrapped=wrapped) as boxes:
        words = [client.MAIN, boxes.public, boxes.interpreter, STAYS, mark, *([] if wrapped else ["--bubblewrap="])]
        daemon = started(sys.executable, "-c", DAEMON, *map(str, words))
        try:
            await eventually(lambda: len(processes_with(mark)) >= 5)
        finally:
            daemon.kill()
            daemon.wait()
        await eventually(lambda: not processes_with(mark))


@both
async def test_nothing_gives_a_worker_privileges(wrapped: bool) -> None:
    async with sandboxes(wrapped=wrapped) as boxes:
        program = boxes.task / "id"
        shutil.copy("/usr/bin/id", program)
        program.chmod(0o4755)
        path = "/var/task/id" if wrapped else str(program)
        assert await boxes.says("", argv=(path, "-u")) != "0"  # what it would be of a setuid program of root
        code = TRY + "print(attempt(os.setuid, 0), attempt(os.setgid, 0), attempt(os.chroot, '/'))"
        assert "None" not in await boxes.says(code)
        if wrapped:
            status = await boxes.says("print(open('/proc/self/status').read())")
            facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            assert {facts[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {""}
            assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[int, str]]:
    """Something of the machine that listens on TCP's loopback, and on an abstract socket."""
    name = uuid.uuid4().hex
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0{name}")
        abstract.listen()
        yield tcp.getsockname()[1], name


CONNECT = TRY + """
import _socket as s
port, name = int(sys.argv[1]), sys.argv[2]
tcp, udp = attempt(s.socket, s.AF_INET, s.SOCK_STREAM), attempt(s.socket, s.AF_INET, s.SOCK_DGRAM)
print(attempt(s.socket(s.AF_INET, s.SOCK_STREAM).connect, ("127.0.0.1", port)))
print(attempt(lambda: s.socket(s.AF_INET, s.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port))))
print(attempt(lambda: s.socket(s.AF_UNIX, s.SOCK_STREAM).connect(chr(0) + name)))
print(attempt(lambda: s.socket(s.AF_INET, s.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 9))))
"""


async def test_a_worker_without_network_reaches_nothing_of_the_machine() -> None:
    async with sandboxes() as boxes, listening() as (port, name):
        told = (await boxes.says(CONNECT, str(port), name)).split("\n")
        assert told == ["ConnectionRefusedError", "1", "ConnectionRefusedError", "OSError"]  # a loopback of its own


async def test_a_worker_with_network_reaches_the_machines() -> None:
    async with sandboxes() as boxes, listening() as (port, name):
        told = (await boxes.says(CONNECT, str(port), name, network=True)).split("\n")
        assert told[:3] == ["None", "1", "None" if landlock.version() < 6 else "PermissionError"]


@NEEDS_LANDLOCK
async def test_without_bubblewrap_a_worker_without_network_has_no_datagrams() -> None:
    async with sandboxes(wrapped=False) as boxes, listening() as (port, name):
        told = (await boxes.says(CONNECT, str(port), name)).split("\n")
        assert (told[1], told[3]) == ("PermissionError", "PermissionError")
        assert told[0] == ("None" if landlock.version() < 4 else "PermissionError")


def started(*command: str) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})


def content(path: str) -> str:
    return Path(path).read_text()


async def held(boxes: Sandboxes) -> frozenset[str]:
    return (await boxes.run("")).layers


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def test_required_means_bubblewrap() -> None:
    async with sandboxes(wrapped=False, mode="required") as boxes:
        with pytest.raises(SandboxUnavailable, match="apt install bubblewrap"):
            await boxes.run("")
    async with sandboxes(mode="required") as boxes:
        assert {"bubblewrap", "rlimits", "seccomp"} <= await held(boxes)


async def test_off_means_limits_and_seccomp_alone() -> None:
    async with sandboxes(mode="off") as boxes:
        assert await held(boxes) == {"rlimits", "seccomp"}
        assert await boxes.says("import os; print(os.getcwd())") == str(boxes.task)


@NEEDS_LANDLOCK
async def test_paths_mean_the_same_without_bubblewrap() -> None:
    async with sandboxes(wrapped=False) as boxes:
        (boxes.task / "data.txt").write_text("found")
        environment = {"WHERE": "/var/task/data.txt", "LIST": "/var/task:/elsewhere:/var/taskforce"}
        code = "import os; print(open(os.environ['WHERE']).read(), os.environ['LIST'])"
        assert await boxes.says(code, environment=environment) == f"found {boxes.task}:/elsewhere:/var/taskforce"


async def test_a_worker_whose_code_is_not_there_is_no_worker() -> None:
    async with sandboxes() as boxes:
        boxes.task.rmdir()
        with pytest.raises(FunctionsError, match="task"):
            await boxes.run("")
    async with sandboxes() as boxes:
        boxes.interpreter = "/usr/bin/env"
        with pytest.raises(FunctionsError, match="/usr/bin/env is no Python interpreter"):
            await boxes.run("")


@pytest.mark.parametrize(
    ("mode", "bubblewrap", "landlock", "user", "refused"),
    [
        ("off", "x", "x", "x", False),
        ("default", "", "x", "x", False),
        ("default", "x", "", "x", False),
        ("default", "x", "x", "", False),
        ("default", "x", "x", "x", True),
        ("required", "", "x", "x", False),
        ("required", "x", "", "", True),
    ],
)
def test_what_may_start_with_which_layers(mode: str, bubblewrap: str, landlock: str, user: str, refused: bool) -> None:
    assert bool(sandbox.refusal(mode, bubblewrap, landlock, user)) is refused


def test_the_stricter_of_two_wishes_counts() -> None:
    assert sandbox.strictest("off", "default") == "default"
    assert sandbox.strictest("required", "off") == "required"
    assert sandbox.strictest("default", "something else") == "required"


def test_a_prefix_that_is_no_pythons_is_never_shown_to_a_worker(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to("/bin/sh")
    for path in ("/etc/shadow", "/bin/sh", str(tmp_path / "bin/python3"), str(tmp_path / "absent/python3")):
        with pytest.raises(Unusable):
            sandbox.interpreter_of(path)
    (tmp_path / "python3.11").write_bytes(b"")
    (tmp_path / "python3.11").chmod(0o755)
    with pytest.raises(Unusable):
        sandbox.interpreter_of(str(tmp_path / "python3.11"))


def test_a_path_that_others_cannot_pass_through_is_found(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir(mode=0o755)
    tmp_path.chmod(0o700)
    spec = Spec(
        {"name": "x", "interpreter": "/usr/bin/python3", "argv": [], "binds": [[str(tmp_path / "code"), "/var/task"]],
         "environment": {}, "memory": 1, "tmp": 1, "processes": 1, "files": 1}
    )  # fmt: skip
    assert sandbox.unreachable(spec) != ""


@NEEDS_LANDLOCK
@pytest.mark.parametrize("network", [False, True])
async def test_without_bubblewrap_a_worker_reaches_no_socket_and_no_limits_of_the_daemon(network: bool) -> None:
    """Landlock keeps nobody from connecting to a socket's file, and prlimit asks only whose process it is."""
    code = """
import os, resource, socket, sys
def refused(call, *arguments):
    try:
        call(*arguments)
    except PermissionError as error:
        return error.errno
with_daemon = refused(lambda: socket.socket(socket.AF_UNIX).connect(sys.argv[1]))
print(with_daemon, refused(resource.prlimit, int(sys.argv[2]), resource.RLIMIT_NOFILE), len(socket.socketpair()),
      resource.prlimit(0, resource.RLIMIT_CORE))
"""
    async with sandboxes(wrapped=False) as workers:
        with socket.socket(socket.AF_UNIX) as listening:
            path = workers.public / "http.sock"
            listening.bind(str(path))
            listening.listen()
            path.chmod(0o666)  # a worker of root's is another user
            assert await workers.says(code, str(path), str(os.getpid()), network=network) == "1 1 2 (0, 0)"
