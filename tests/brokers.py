"""A broker as a real process, for tests by real clients: an edge without an uplink, which delivers locally."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.config import HostPort
from tests.certificates import Authority
from tidegate.processes import Daemon, free_port


class Edge:
    """An edge in a directory of its own, listening on `address`; with an authority, over mutual TLS on `tls` too."""

    def __init__(self, directory: Path, authority: Authority | None = None) -> None:
        self.address = HostPort("127.0.0.1", free_port())
        self.tls = HostPort("127.0.0.1", free_port())
        config = f"""
            edge.name = "press-hall"
            edge.data_dir = "edge"
            [[listeners]]
            address = "{self.address.host}:{self.address.port}"
            anonymous = true
            """
        if authority is not None:
            certificate, key = authority.sign("localhost")
            config += f"""
            [[listeners]]
            address = "{self.tls.host}:{self.tls.port}"
            tls = {{ certificate = "{certificate}", key = "{key}", client_ca = "{authority.path}" }}
            """
        (directory / "edge.toml").write_text(config)
        self._daemon = Daemon("edge", directory / "edge.toml", directory / "edge")

    def start(self) -> None:
        """Start it and wait until its listeners accept."""
        self._daemon.start()

    def stop(self) -> int:
        """SIGTERM, and wait; returns the exit code."""
        return self._daemon.stop()

    def kill(self) -> None:
        """SIGKILL."""
        self._daemon.kill()

    @property
    def resident_bytes(self) -> int:
        """The memory that its process holds now."""
        found = re.search(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{self._daemon.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024

    @property
    def faults(self) -> list[str]:
        """What it logged that points to a mistake of ours."""
        return [line for line in self._daemon.log.read_text().splitlines() if "Traceback" in line or "nobody" in line]


@contextmanager
def running(directory: Path, authority: Authority | None = None) -> Iterator[Edge]:
    """An edge that runs, and is killed at the end, whatever happened; nothing may go wrong inside it meanwhile."""
    edge = Edge(directory, authority)
    try:
        edge.start()
        yield edge
    finally:
        edge.kill()
    assert edge.faults == []
