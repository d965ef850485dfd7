"""An edge or a cloud with functions, as a real process in a test's directory; handlers are deployed from their text."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from core.config import HostPort
from functions.manifest import Manifest
from functions.packages.library import Draft, Library
from tests.test_kills import Resuming
from tests.wire import Wire
from tidegate.processes import Daemon, free_port

RUNTIME = f"python{sys.version_info.major}.{sys.version_info.minor}"
COMMAND_SECONDS = 60
NOWHERE = "mqtt://127.0.0.1:9"  # the discard port, where nobody listens
EVERYTHING = """
Version: "2012-10-17"
Statement:
  - { Effect: Allow, Action: "iot:*", Resource: "*" }
"""  # a client that is not named may ask functions over MQTT only where a policy says so
BOTO3 = ("boto3", "botocore", "s3transfer", "jmespath", "urllib3", "dateutil", "six")
BOTO3_DATA = {"endpoints.json", "partitions.json", "sdk-default-configuration.json", "_retry.json"}
BOTO3_SERVICES = {"iot-data", "lambda"}


class Box:
    """A daemon with functions; `address` is its broker, `url` its HTTP, `more` what else its configuration says."""

    def __init__(
        self, directory: Path, functions: Path, side: str = "edge", *, more: str = "", http: str = "anonymous = true"
    ) -> None:
        self.directory, self.functions, self.config = directory, functions, directory / f"{side}.toml"
        self.address, self.http = HostPort("127.0.0.1", free_port()), HostPort("127.0.0.1", free_port())
        self.url = f"http://{self.http.host}:{self.http.port}"
        self.library = Library(functions)
        self.daemon = Daemon(side, self.config, directory / side)
        for name in ("rules", "secrets", "code", "policies"):
            (directory / name).mkdir()
        (directory / "policies" / "anonymous.yaml").write_text(EVERYTHING)
        name = 'edge.name = "press-hall"' if side == "edge" else ""
        self.config.write_text(
            f"""
            {side}.data_dir = "{side}"
            {name}
            rules.directory = "rules"
            devices.policies = "policies"
            functions = {{ directory = "{functions}", secrets = "secrets" }}
            http = {{ address = "{self.http.host}:{self.http.port}", {http} }}
            [[listeners]]
            address = "{self.address.host}:{self.address.port}"
            anonymous = true
            {more}
            """
        )

    # -- deploying ----------------------------------------------------------------------------------------------------

    def install(self, name: str, code: str, *packages: str, rules: str | None = None, **manifest: Any) -> int:
        """A new version of a function of one module, with `packages` of this environment beside it; its number."""
        source = self.directory / "code" / name
        source.mkdir(exist_ok=True)
        (source / "app.py").write_text(code)
        for package in packages:
            bring(package, source)
        known = {"name": name, "version": 1, "runtime": RUNTIME, "handler": "app.handler", **manifest}
        return self.library.install(Draft(Manifest(**known), source, rules=rules)).manifest.version

    def deploy(self, name: str, code: str, *packages: str, **more: Any) -> int:
        """The same, and the daemon is told."""
        version = self.install(name, code, *packages, **more)
        self.daemon.ask("functions-changed")
        return version

    def command(self, *words: object, status: int = 0) -> str:
        """What `tidegate functions …` prints, or says on standard error when it shall fail."""
        command = [sys.executable, "-m", "tidegate.main", "functions", *map(str, words), "--config", str(self.config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
        assert done.returncode == status, (done.stdout, done.stderr)
        return done.stderr if status else done.stdout

    # -- looking ------------------------------------------------------------------------------------------------------

    def pools(self, name: str) -> list[dict[str, Any]]:
        """What `functions status` says of the versions of a function that were called."""
        return list(self.daemon.ask("functions-status", function=name)["functions"])

    def held(self, name: str = "") -> int:
        """Asynchronous events that have not ended, of one function or of all."""
        return sum(lane["held"] for lane in self.daemon.ask("functions-status", function=name)["queues"])

    def letters(self, name: str = "") -> list[dict[str, Any]]:
        """The dead letters of one function or of all."""
        return list(self.daemon.ask("functions-dead-list", function=name, limit=10_000)["dead"])

    def dead(self, name: str = "") -> list[dict[str, Any]]:
        """The same with their events."""
        return [self.daemon.ask("functions-dead-show", id=letter["id"]) for letter in self.letters(name)]

    def counter(self, name: str, **labels: str) -> int:
        """The sum of the counters of that name that have these labels."""
        counters: dict[str, int] = self.daemon.ask("status")["counters"]
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            value
            for key, value in counters.items()
            if key.split("{")[0] == name and all(each in key for each in wanted)
        )

    def workers(self) -> list[int]:
        """The process ids of all workers, as this machine numbers them."""
        return [pid for pid in descendants(self.daemon.pid) if is_worker(pid)]

    @property
    def faults(self) -> list[str]:
        """What it logged that points to a mistake of ours."""
        return [line for line in self.daemon.log.read_text().splitlines() if "Traceback" in line or " nobody " in line]

    @contextmanager
    def wire(self, name: str, *topics: str, version: int = 5) -> Iterator[Wire]:
        """A connection to the broker that has subscribed to these topics."""
        with Wire(self.address, version).connect(name) as wire:
            if topics:
                wire.subscribe(*topics)
            yield wire


@contextmanager
def running(directory: Path, side: str = "edge", **options: Any) -> Iterator[Box]:
    """A box whose daemon runs, and is killed at the end; nothing may go wrong inside it meanwhile."""
    with public_directory() as functions:
        box = Box(directory, functions, side, **options)
        try:
            box.daemon.start()
            yield box
        finally:
            box.daemon.kill()
    assert box.faults == []


@contextmanager
def public_directory() -> Iterator[Path]:
    """A directory that other users may read, as workers of a daemon of root are, and a test's own is not."""
    with TemporaryDirectory(prefix="tidegate-test-") as path:
        Path(path).chmod(0o755)
        yield Path(path) / "functions"


class Taker(Resuming):
    """Takes every message on some topics, across kills of the daemon; `documents` has them as they came."""

    def __init__(self, address: HostPort, name: str, *topics: str) -> None:
        super().__init__(address, name, 5)
        self.documents: list[Any] = []
        with self.connect() as wire:
            wire.subscribe(*topics)

    def run_once(self, wire: Wire) -> None:
        while not self.stopping.is_set():
            self.documents += [json.loads(message.payload) for message in wire.take(1)]


def bring(package: str, directory: Path) -> None:
    """Copy a package of this environment into a function's directory; of botocore's data, what handlers here use."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    origin = Path(spec.origin)
    if origin.name != "__init__.py":
        shutil.copy(origin, directory)
    elif not (directory / package).exists():
        shutil.copytree(origin.parent, directory / package, ignore=_ignored)


def _ignored(path: str, names: list[str]) -> set[str]:
    unused = set(names) - BOTO3_DATA - BOTO3_SERVICES if path.endswith("botocore/data") else set()
    return unused | {"__pycache__", "stream_manager", "cacert.pem", "examples"} & set(names)


def descendants(pid: int) -> list[int]:
    """Every process below one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has just ended
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found[1:]


def is_worker(pid: int) -> bool:
    """Whether a process runs a handler, by the command line of its first steps (`functions.worker`)."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return False
    return "python" in words[0] and any(word.startswith("data=") for word in words)
