"""A cloud, a cuttable link and an edge as real processes in a test's directory."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.config import HostPort
from tidegate.link import Link
from tidegate.processes import Daemon, free_port

RULES = """
Readings:
  awsIotSqlVersion: "2016-03-23"
  sql: SELECT *, topic(3) AS machine FROM 'plant/+/+/telemetry'
  actions:
    - dynamoDBv2: { putItem: { tableName: readings } }
    - firehose: { deliveryStreamName: telemetry, separator: "\\n" }
Alarms:
  awsIotSqlVersion: "2016-03-23"
  sql: SELECT *, topic(3) AS machine FROM 'plant/+/+/telemetry' WHERE temperature > 105 OR temperature < 20
  actions:
    - sns: { targetArn: alerts, messageFormat: RAW }
"""


class Site:
    """`edge` and `cloud` are daemons, `link` is between them; `tmp` holds their directories, files and logs."""

    def __init__(self, tmp: Path, *, lane: str = "") -> None:
        self.tmp = tmp
        self.edge_port, self.cloud_port = free_port(), free_port()
        self.link = Link(HostPort("127.0.0.1", self.cloud_port))
        (tmp / "rules").mkdir()
        (tmp / "rules" / "cloud.yaml").write_text(RULES)
        (tmp / "cloud.toml").write_text(
            f"""
            cloud.data_dir = "cloud"
            rules.directory = "rules"
            [[listeners]]
            address = "127.0.0.1:{self.cloud_port}"
            anonymous = true
            [targets.tables.readings]
            keys = ["machine", "reading"]
            [targets.streams.telemetry]
            interval = "1s"
            [targets.topics.alerts]
            subscriptions = [{{ log = true }}]
            """
        )
        (tmp / "edge.toml").write_text(
            f"""
            edge.name = "press-hall"
            edge.data_dir = "edge"
            [[listeners]]
            address = "127.0.0.1:{self.edge_port}"
            anonymous = true
            [uplink]
            url = "mqtt://127.0.0.1:{self.link.port}"
            retry_limit = "1s"
            [[uplink.lanes]]
            name = "telemetry"
            topics = ["plant/#"]
            {lane}
            """
        )
        self.cloud = Daemon("cloud", tmp / "cloud.toml", tmp / "cloud")
        self.edge = Daemon("edge", tmp / "edge.toml", tmp / "edge")

    def buffered(self) -> int:
        """Messages in the edge's buffer."""
        return int(self.edge.ask("status")["buffered_messages"])

    def drain(self, seconds: float = 60.0) -> None:
        """Wait until everything has left the edge's buffer and the cloud's inbox, and write the streams out."""
        wait_until(lambda: self.buffered() == 0 and self.cloud.ask("status")["inbox_messages"] == 0, seconds)
        self.cloud.ask("flush")

    def counter(self, side: str, name: str) -> int:
        """The sum of a daemon's counters of one name, whatever their labels."""
        counters: dict[str, Any] = (self.edge if side == "edge" else self.cloud).ask("status")["counters"]
        return sum(value for key, value in counters.items() if key.split("{")[0] == name)


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Poll `condition()` until it is true; fail when that takes longer than `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@contextmanager
def running(tmp: Path, **options: Any) -> Iterator[Site]:
    """A site whose daemons run; they are killed at the end, whatever happened."""
    site = Site(tmp, **options)
    try:
        site.cloud.start()
        site.edge.start()
        yield site
    finally:
        site.edge.kill()
        site.cloud.kill()
        site.link.close()
