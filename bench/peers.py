"""The daemons that are compared, each a real process on a free loopback port with a directory of its own.

Mosquitto gets what lets it do its best: no persistence, no limits on what is in flight or queued, no log. The edge
gets what it has in service: its buffer on disk, and an uplink that leads to the given port, or nowhere. Given
identities, both take MQTT over TLS only, from clients with a certificate, and check what these publish.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import load
from bench.identities import Identities
from bench.load import HOST, Credentials
from core.control import request
from core.errors import TidegateError
from tidegate.processes import CONTROL_FILE, free_port

READY_SECONDS = 60.0  # a start with a million messages in the buffer takes far less
STOP_SECONDS = 30.0
CONTROL_SECONDS = 5.0
POLL_SECONDS = 0.002  # how finely the time to the first CONNACK is seen
NOWHERE = 1  # a port on which nothing listens
EDGE_NAME, LANE = "bench", "telemetry"
PROBE = "probe"  # the client that asks whether a broker is ready; identities must have it


class PeerFailed(TidegateError):
    """A daemon did not start or did not stop."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one process: resident, and its fair share of pages it has in common with others."""

    rss: int
    pss: int


class Peer:
    """A running daemon. `ready_seconds` is the time from the start of the process to its first CONNACK."""

    def __init__(
        self, name: str, command: list[str], port: int, directory: Path, identities: Identities | None = None
    ) -> None:
        self.name = name
        self.port = port
        self.directory = directory
        self.credentials: Credentials | None = identities.context if identities else None
        started = time.perf_counter()
        with (directory / f"{name}.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self._wait_ready(started + READY_SECONDS)
        except BaseException:
            self._process.kill()
            raise
        self.ready_seconds = time.perf_counter() - started

    def _wait_ready(self, deadline: float) -> None:
        while not _answers(self.port, self.credentials):
            if self._process.poll() is not None or time.perf_counter() > deadline:
                raise PeerFailed(f"{self.name} did not start; see {self.directory / self.name}.log")
            time.sleep(POLL_SECONDS)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def memory(self) -> Memory:
        """What the process holds now."""
        kib = {}
        for line in Path(f"/proc/{self._process.pid}/smaps_rollup").read_text().splitlines()[1:]:
            key, value, *_ = line.split()
            kib[key] = int(value)
        return Memory(kib["Rss:"] * 1_024, kib["Pss:"] * 1_024)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a command to the control socket, which is there soon after the first CONNACK. Raises TidegateError."""
        path, end = self.directory / self.name / CONTROL_FILE, time.perf_counter() + CONTROL_SECONDS
        while not path.exists() and time.perf_counter() < end:
            time.sleep(POLL_SECONDS)
        return request(path, command, **arguments)

    def cpu_seconds(self) -> float:
        """Processor time of all threads since the start."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """SIGTERM, and wait. Raises PeerFailed when the process does not heed it."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise PeerFailed(f"{self.name} did not stop within {STOP_SECONDS:.0f} s") from None

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.stop()


def _answers(port: int, credentials: Credentials | None) -> bool:
    try:
        connection, _ = load.connect(port, PROBE, 311, credentials)
        with connection:
            connection.sendall(b"\xe0\x00")
    except (OSError, TidegateError):
        return False
    return True


def mosquitto(directory: Path, identities: Identities | None = None) -> Peer:
    """Start Mosquitto."""
    port = free_port()
    config = directory / "mosquitto.conf"
    settings = [
        f"listener {port} {HOST}",
        *(_mosquitto_tls(identities) if identities else ["allow_anonymous true"]),
        "persistence false",
        "max_inflight_messages 0",
        "max_queued_messages 0",
        "log_type none",
    ]
    config.write_text("\n".join(settings) + "\n")
    return Peer("mosquitto", ["mosquitto", "-c", str(config)], port, directory, identities)


def _mosquitto_tls(identities: Identities) -> list[str]:
    return [
        f"cafile {identities.ca}",
        f"certfile {identities.certificate}",
        f"keyfile {identities.key}",
        "require_certificate true",
        "use_identity_as_username true",
        f"acl_file {identities.acl}",
        *(["user root"] if os.geteuid() == 0 else []),  # or it gives up root, and then cannot read the files
    ]


def edge(
    directory: Path,
    uplink_port: int = NOWHERE,
    identities: Identities | None = None,
    rules: Path | None = None,
    tables: str = "",
) -> Peer:
    """Start `tidegate edge run`; what an earlier one has buffered in `directory` is still there.

    `tables` are further ones of edge.toml, as text.
    """
    port = free_port()
    config = directory / "edge.toml"
    config.write_text(f"""
[edge]
name = "{EDGE_NAME}"
data_dir = "{directory / "edge"}"
{_edge_devices(identities) if identities else ""}
{_edge_rules(rules) if rules else ""}
{tables}
[[listeners]]
address = "{HOST}:{port}"
{_edge_tls(identities) if identities else "anonymous = true"}

[uplink]
url = "mqtt://{HOST}:{uplink_port}"

[[uplink.lanes]]
name = "{LANE}"
topics = ["plant/#"]
max_bytes = "8GB"
""")
    return Peer("edge", _tidegate("edge", "run", "--config", str(config)), port, directory, identities)


def _edge_devices(identities: Identities) -> str:
    return f"""
[devices]
directory = "{identities.home}"
policies = "{identities.policies}"
"""


def _edge_rules(directory: Path) -> str:
    return f"""
[rules]
directory = "{directory}"
"""


def functions(directory: Path, options: str = "") -> str:
    """The table of an edge with the functions that are deployed in `directory`."""
    return f"""
[functions]
directory = "{directory}"
{options}
"""


def _edge_tls(identities: Identities) -> str:
    return f"""
[listeners.tls]
certificate = "{identities.certificate}"
key = "{identities.key}"
client_ca = "{identities.ca}"
"""


def cloud(directory: Path) -> Peer:
    """Start `tidegate cloud run` without rules, so that messages end in its inbox."""
    port = free_port()
    config = directory / "cloud.toml"
    config.write_text(f"""
[cloud]
data_dir = "{directory / "cloud"}"

[[listeners]]
address = "{HOST}:{port}"
anonymous = true
""")
    return Peer("cloud", _tidegate("cloud", "run", "--config", str(config)), port, directory)


def _tidegate(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tidegate.main", *arguments]


def filesystem(directory: Path) -> str:
    """The type of the file system that holds `directory`, as /proc/mounts names it. Raises PeerFailed on tmpfs."""
    place = directory.resolve()
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    _, kind = max((len(point), kind) for point, kind in mounts if place.is_relative_to(point))
    if kind in ("tmpfs", "ramfs"):
        raise PeerFailed(f"{directory} is in memory ({kind}); choose a --dir on a disk, for the edge writes to it")
    return kind


def disk_bytes(directory: Path) -> int:
    """What the files below `directory` take on disk."""
    return sum(path.lstat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())
