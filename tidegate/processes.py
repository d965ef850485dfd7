"""Real daemons as child processes: started, waited for, asked, stopped and killed; for the demo and for tests."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from core.control import request
from core.errors import TidegateError

START_SECONDS = 20.0  # far more than a start takes, also on a busy box
STOP_SECONDS = 15.0  # the daemon's own limit is 10
POLL_SECONDS = 0.02
CONTROL_FILE = "control.sock"


class DaemonFailed(TidegateError):
    """A daemon ended or hung when it should have started; the message says where its log is."""


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Daemon:
    """One daemon (`side` is "edge" or "cloud") with its configuration file; its log is written beside that."""

    def __init__(self, side: str, config: Path, data_dir: Path) -> None:
        self.side = side
        self.config = config
        self.log = config.with_suffix(".log")
        self._control = data_dir / CONTROL_FILE
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the running daemon."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the daemon and wait until its listeners accept. Raises DaemonFailed."""
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "tidegate.main", self.side, "run", "--config", str(self.config)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None:
                raise DaemonFailed(f"the {self.side} ended with {self._process.returncode}; its log is {self.log}")
            if time.monotonic() > deadline:
                self.kill()
                raise DaemonFailed(f"the {self.side} did not start within {START_SECONDS:.0f} s; see {self.log}")
            time.sleep(POLL_SECONDS)

    def _answers(self) -> bool:
        try:
            return bool(self.ask("status")["listeners"])
        except (TidegateError, OSError):
            return False

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a command to the daemon's control socket. Raises TidegateError when it does not run."""
        return request(self._control, command, **arguments)

    def kill(self) -> None:
        """SIGKILL: no goodbye, no flush."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """SIGTERM, and wait; returns the exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._process.returncode
