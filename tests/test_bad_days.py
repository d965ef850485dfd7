"""Bad input and bad days, against real daemons: each costs what it must and nothing else."""

import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mqtt5
import pytest

from core.reader import reading
from devices import recordings
from devices.simulate import Simulator
from tests.site import Site, running, wait_until
from tidegate.evidence import examine

pytestmark = pytest.mark.processes


CONNECTED: list["RawClient"] = []


@pytest.fixture(autouse=True)
def _hang_up() -> Iterator[None]:
    yield
    while CONNECTED:
        CONNECTED.pop().socket.close()


class RawClient:
    """An MQTT 5 client that sends exactly what it is told to."""

    def __init__(self, port: int, client_id: str = "raw") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._buffer = b""
        CONNECTED.append(self)
        self.send(mqtt5.ConnectPacket(client_id, clean_start=True).write())
        assert isinstance(self.read(), mqtt5.ConnAckPacket)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def publish(self, packet_id: int, payload: bytes, topic: str = "plant/a/raw/telemetry") -> None:
        self.send(mqtt5.PublishPacket(topic, payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=packet_id).write())

    def read(self) -> mqtt5.Packet | None:
        """The next packet, or None when the server has closed."""
        while True:
            try:
                packet, size = mqtt5.read(memoryview(self._buffer))
            except IndexError:
                data = self.socket.recv(65_536)
                if not data:
                    return None
                self._buffer += data
            else:
                self._buffer = self._buffer[size:]
                return packet


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One site for the tests that leave it as it was."""
    with running(tmp_path_factory.mktemp("site")) as running_site:
        yield running_site


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tidegate.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


# -- the disk -------------------------------------------------------------------------------------------------


def test_a_full_disk_refuses_and_recovers_and_loses_nothing_acknowledged(tmp_path: Path) -> None:
    machine = recordings.load("machine").head(3_000)
    with running(tmp_path) as site:
        site.link.cut()
        client = RawClient(site.edge_port)
        client.publish(1, b'{"reading":1}')
        assert client.read().reason_code is mqtt5.PubAckReasonCode.SUCCESS  # type: ignore[union-attr]
        # Every write beyond this fails, as on a disk without space, for this one process.
        resource.prlimit(site.edge.pid, resource.RLIMIT_FSIZE, (4_096, resource.RLIM_INFINITY))
        client.publish(2, b'{"reading":2}')
        answer = client.read()
        assert isinstance(answer, mqtt5.PubAckPacket)
        assert int(answer.reason_code) == 0x97
        simulator = Simulator(machine, "127.0.0.1", site.edge_port, version=311)
        simulator.start()
        # Its session could not be kept, so it is not even connected.
        wait_until(lambda: site.counter("edge", "mqtt_connects_refused_total") > 1)
        assert simulator.acknowledged_count == 0
        assert site.edge.ask("status")["listeners"]
        resource.prlimit(site.edge.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        wait_until(lambda: simulator.done)
        client.publish(3, b'{"reading":3}')
        assert client.read().reason_code is mqtt5.PubAckReasonCode.SUCCESS  # type: ignore[union-attr]
        site.link.restore()
        site.drain()
        names = [("machine", number) for number in range(1, 3_001)] + [("raw", 1), ("raw", 3)]
        found = examine(site.tmp / "cloud", "readings", "alerts", names)
        assert (found.lost, found.duplicates, found.stored) == (0, 0, 3_002)


def test_a_drained_edge_gives_its_disk_space_back(tmp_path: Path) -> None:
    with running(tmp_path) as site:
        site.link.cut()
        client = RawClient(site.edge_port)
        for packet_id in range(1, 401):
            client.publish(packet_id, bytes(f'{{"reading":{packet_id},"x":"', "ascii") + b"x" * 60_000 + b'"}')
        for _ in range(400):
            client.read()
        buffer = tmp_path / "edge" / "buffer.db"

        def disk() -> int:
            return sum(path.stat().st_size for path in buffer.parent.glob("buffer.db*"))

        assert disk() > 20_000_000
        site.link.restore()
        site.drain()
        wait_until(lambda: disk() < 1_000_000, 30)


def test_a_damaged_buffer_is_set_aside_and_saved_as_far_as_it_can_be_read(tmp_path: Path) -> None:
    machine = recordings.load("machine").head(8_000)
    with running(tmp_path) as site:
        site.link.cut()
        simulator = Simulator(machine, "127.0.0.1", site.edge_port)
        simulator.start()
        wait_until(lambda: simulator.done)
        site.edge.stop()
        buffer = tmp_path / "edge" / "buffer.db"
        raw = bytearray(buffer.read_bytes())
        middle = len(raw) // 2 // 4_096 * 4_096
        raw[middle : middle + 3 * 4_096] = b"\xff" * (3 * 4_096)
        raw[0:100] = bytes(100)
        buffer.write_bytes(raw)
        site.edge.start()
        lost = site.counter("edge", "dropped_total")
        saved = site.buffered()
        assert saved + lost == 8_000
        assert 0 < lost < 4_000
        assert list(buffer.parent.glob("buffer.db.damaged-*"))
        assert "buffer recovered" in site.edge.log.read_text()
        site.link.restore()
        site.drain()
        assert examine(tmp_path / "cloud", "readings", "alerts", []).stored == saved


# -- packets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x32\x07\x00\x03a\xff\xfe\x00\x01", 0x81),  # a topic that is not UTF-8
        (b"\xf7\x00", 0x81),  # flags that no packet has
        (b"\x30\x05\x00\x02a#\x00", 0x90),
        (b"\x30\x05\x00\x02a\x00\x00", 0x90),
        (b"\x30\xff\xff\xff\x7f", 0x95),  # says that it is 256 MB long
        (b"\x36\x07\x00\x01a\x00\x01\x00x", 0x81),  # QoS 3
        (mqtt5.ConnectPacket("again").write(), 0x82),
    ],
)
def test_a_bad_packet_closes_that_one_connection_with_its_reason(site: Site, data: bytes, reason: int) -> None:
    other = RawClient(site.edge_port, "other")
    before = site.counter("edge", "mqtt_refused_total")
    client = RawClient(site.edge_port, "bad")
    client.publish(1, b"{}")
    assert isinstance(client.read(), mqtt5.PubAckPacket)
    client.send(data)
    answer = client.read()
    assert isinstance(answer, mqtt5.DisconnectPacket)
    assert int(answer.reason_code) == reason
    assert client.read() is None
    assert site.counter("edge", "mqtt_refused_total") == before + 1
    other.publish(1, b"{}")
    assert isinstance(other.read(), mqtt5.PubAckPacket)


def test_a_payload_beyond_the_limit_is_refused_and_the_largest_one_arrives(site: Site) -> None:
    largest = b"x" * (128 << 10)
    client = RawClient(site.edge_port, "large")
    client.publish(1, largest)
    assert isinstance(client.read(), mqtt5.PubAckPacket)
    client.publish(2, largest + b"x" * 8_192)
    answer = client.read()
    assert isinstance(answer, mqtt5.DisconnectPacket)
    assert int(answer.reason_code) == 0x95
    wait_until(lambda: site.buffered() == 0)  # incompressible or not, what was acknowledged reaches the cloud


def test_a_reserved_topic_is_refused_to_a_device_which_stays_connected(site: Site) -> None:
    client = RawClient(site.edge_port, "reserved")
    client.publish(1, b"{}", "$tidegate/frames/press-hall/telemetry")
    answer = client.read()
    assert isinstance(answer, mqtt5.PubAckPacket)
    assert int(answer.reason_code) == 0x87
    client.publish(2, b"{}")
    assert isinstance(client.read(), mqtt5.PubAckPacket)


def test_a_frame_that_cannot_be_read_is_refused_by_the_cloud_and_the_rest_stored(site: Site) -> None:
    client = RawClient(site.cloud_port, "forger")
    client.publish(1, b"not a frame", "$tidegate/frames/forger/telemetry")
    answer = client.read()
    assert isinstance(answer, mqtt5.PubAckPacket)
    assert int(answer.reason_code) == 0x99
    client.publish(2, b'{"reading": 1}', "plant/a/direct/telemetry")
    assert isinstance(client.read(), mqtt5.PubAckPacket)
    wait_until(lambda: ("direct", 1) in table_keys(site))


def table_keys(site: Site) -> set[tuple[str, int]]:
    with reading(site.tmp / "cloud" / "cloud.db") as connection:
        return set(connection.execute("SELECT pk, sk FROM table_items"))


# -- configuration and rules ----------------------------------------------------------------------------------


def test_a_wrong_configuration_ends_with_78_and_every_fault_at_once(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(
        """
        [edge]
        name = "press hall"
        data_dir = "data"
        colour = "red"
        [[listeners]]
        address = "127.0.0.1"
        [uplink]
        url = "http://example.com"
        [[uplink.lanes]]
        name = "all"
        topics = ["a/#/b"]
        """
    )
    for command in ("run", "check"):
        ended = _run("edge", command, "--config", str(path))
        assert ended.returncode == 78
        for fault in ("edge.name", "edge.colour", "listeners[0].address", "uplink.url", "uplink.lanes[0].topics[0]"):
            assert fault in ended.stderr, fault
        assert "Traceback" not in ended.stderr


def test_a_rules_file_with_an_error_is_named_with_line_and_column_and_stops_the_start(tmp_path: Path) -> None:
    site = Site(tmp_path)
    broken = "Broken:\n  sql: SELECT * FROM 'a/#' WHERE x = = 1\n  actions: []\n"
    (tmp_path / "rules" / "broken.yaml").write_text(broken)
    try:
        ended = _run("cloud", "run", "--config", str(tmp_path / "cloud.toml"))
        assert ended.returncode == 78
        assert "broken.yaml:2:38" in ended.stderr
    finally:
        site.link.close()


def test_a_reload_keeps_the_last_good_rules(tmp_path: Path) -> None:
    with running(tmp_path) as site:
        rules = tmp_path / "rules" / "more.yaml"
        rules.write_text(
            "More:\n  awsIotSqlVersion: '2016-03-23'\n  sql: SELECT * FROM 'more'\n"
            "  actions:\n    - republish: { topic: heard }\n"
        )
        _reload(site)
        wait_until(lambda: len(site.cloud.ask("status")["rules"]) == 3)
        rules.write_text("More: [")
        _reload(site)
        wait_until(lambda: "reload failed" in site.cloud.log.read_text())
        assert len(site.cloud.ask("status")["rules"]) == 3
        rules.unlink()
        _reload(site)
        wait_until(lambda: len(site.cloud.ask("status")["rules"]) == 2)


def _reload(site: Site) -> None:
    subprocess.run(["kill", f"-{int(signal.SIGHUP)}", str(site.cloud.pid)], check=True)
