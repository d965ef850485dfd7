"""What a message costs on the uplink: the recordings of two real sensors, from MQTT publish to the cloud's inbox.

    python -m bench.uplink [--limit 2000] [--dir DIR] [--json]

replays the recordings through an edge and a relay that counts bytes to a cloud, once as fast as the edge acknowledges
and then at lower rates, where fewer messages share a frame. For each it prints bytes of topic and payload per message,
bytes that the edge sent per message (frames with their MQTT and TCP payload, connection included; not TCP/IP headers),
messages per frame, and the ratio. The slower runs replay the first --limit readings of each sensor.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import peers
from core.config import HostPort
from core.control import request
from core.errors import TidegateError
from devices import recordings
from devices.simulate import Simulator, at_rate
from tidegate.link import Link
from tidegate.processes import CONTROL_FILE

RATES = (None, 400.0, 100.0, 20.0)  # readings per second and sensor; None: as fast as the edge acknowledges
DRAIN_SECONDS = 60.0
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Cost:
    """One replay: bytes per message before and on the uplink."""

    rate: float | None
    messages: int
    raw_bytes: float
    uplink_bytes: float
    messages_per_frame: float

    @property
    def ratio(self) -> float:
        """How many times smaller a message is on the uplink."""
        return self.raw_bytes / self.uplink_bytes


def measure(rate: float | None, limit: int, base: Path) -> Cost:
    """Replay both recordings at one rate. Raises TidegateError when not everything arrives."""
    loaded = [recordings.load(name) for name in recordings.NAMES]
    if rate is not None:
        loaded = [recording.head(round(limit * min(1.0, rate / 100))) for recording in loaded]
    with tempfile.TemporaryDirectory(prefix="bench-", dir=base.resolve()) as name:
        directory = Path(name)
        with (
            peers.cloud(directory) as cloud,
            Link(HostPort("127.0.0.1", cloud.port)) as link,
            peers.edge(directory, link.port) as edge,
        ):
            simulators = [
                Simulator(r, "127.0.0.1", edge.port, due=None if rate is None else at_rate(r, rate)) for r in loaded
            ]
            for simulator in simulators:
                simulator.start()
            for simulator in simulators:
                simulator.join()
            total = sum(simulator.acknowledged_count for simulator in simulators)
            counters = _arrived(directory / "cloud" / CONTROL_FILE, total)
            raw = sum(simulator.payload_bytes + simulator.topic_bytes for simulator in simulators)
            frames = counters["frames_received_total"]
            return Cost(rate, total, raw / total, link.bytes_up / total, total / frames)


def _arrived(control: Path, total: int) -> dict[str, int]:
    deadline = time.monotonic() + DRAIN_SECONDS
    while True:
        counters: dict[str, int] = request(control, "status")["counters"]
        if counters.get("messages_stored_total", 0) >= total:
            return counters
        if time.monotonic() > deadline:
            raise TidegateError(f"not all of {total:,} messages arrived within {DRAIN_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.uplink", description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=2_000, help="readings per sensor of the slower runs")
    parser.add_argument("--dir", type=Path, default=Path(), help="where the buffers go")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    costs = [measure(rate, options.limit, options.dir) for rate in RATES]
    if options.json:
        print(json.dumps([asdict(cost) | {"ratio": cost.ratio} for cost in costs]))
        return
    print("readings/s per sensor  messages  messages/frame  topic + payload  on the uplink  ratio")
    for cost in costs:
        rate = "as fast as it goes" if cost.rate is None else f"{cost.rate:.0f}"
        print(
            f"{rate:>21}  {cost.messages:8,}  {cost.messages_per_frame:14.1f}  {cost.raw_bytes:12.1f} B"
            f"  {cost.uplink_bytes:11.1f} B  {cost.ratio:5.1f}"
        )


if __name__ == "__main__":
    main()
