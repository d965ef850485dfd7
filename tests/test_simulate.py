"""Simulated sensors against a real Mosquitto: nothing is forgotten, whatever happens to the broker."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from core.topics import InvalidTopic
from devices import recordings, simulate
from devices.recordings import Reading, Recording
from devices.simulate import Simulator, Version

HOST = "127.0.0.1"
PATIENCE_SECONDS = 30.0  # how long a test waits for what must happen, before it fails

both_versions = pytest.mark.parametrize("version", [5, 311])
needs_broker = pytest.mark.processes


class Mosquitto:
    """A Mosquitto process on one port, with whatever lines its configuration is given."""

    def __init__(self, directory: Path, *lines: str) -> None:
        with socket.socket() as free:
            free.bind((HOST, 0))
            self.port: int = free.getsockname()[1]
        self._config = directory / "mosquitto.conf"
        settings = [f"listener {self.port} {HOST}", "allow_anonymous true", "user root", *lines]
        self._config.write_text("\n".join(settings) + "\n")
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(["mosquitto", "-c", str(self._config)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                socket.create_connection((HOST, self.port), timeout=1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, "mosquitto does not listen"
                assert self.process.poll() is None, "mosquitto has ended"
                time.sleep(0.01)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    mosquitto = Mosquitto(tmp_path)
    yield mosquitto
    mosquitto.kill()


def finish(simulator: Simulator) -> None:
    assert simulator.join(PATIENCE_SECONDS), f"not finished: {simulator.last_error}"
    assert simulator.done
    assert simulator.acknowledged[0] == 0
    assert all(simulator.acknowledged[1:])


def run_command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    program = "from devices.cli import app; app()"
    command = [sys.executable, "-c", program, "simulate", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS, cwd=Path(__file__).parents[1]
    )


# -- the sensor ----------------------------------------------------------------------------------------------


@needs_broker
@both_versions
def test_every_reading_is_acknowledged_once(broker: Mosquitto, version: Version) -> None:
    heard: list[int] = []
    recording = recordings.load("machine").head(2_000)
    simulator = Simulator(
        recording, HOST, broker.port, version=version, on_acknowledged=lambda reading: heard.append(reading.number)
    )
    simulator.start()
    finish(simulator)
    assert sorted(heard) == list(range(1, 2_001))
    assert simulator.published == simulator.acknowledged_count == 2_000
    assert simulator.payload_bytes == sum(len(simulate.payload(reading)) for reading in recording.readings)
    assert simulator.topic_bytes == 2_000 * len("plant/press-hall/machine/telemetry")


@needs_broker
@both_versions
def test_a_subscriber_hears_the_readings_in_order(broker: Mosquitto, version: Version) -> None:
    recording = recordings.load("ambient").head(200)
    said: list[tuple[str, bytes]] = []
    subscribed, complete = threading.Event(), threading.Event()

    def hear(_client: Client, _data: object, message: MQTTMessage) -> None:
        said.append((message.topic, bytes(message.payload)))
        if len(said) == 200:
            complete.set()

    subscriber = Client(CallbackAPIVersion.VERSION2)
    subscriber.on_subscribe = lambda *_: subscribed.set()
    subscriber.on_message = hear
    subscriber.connect(HOST, broker.port)
    subscriber.subscribe("plant/+/+/telemetry", qos=1)
    subscriber.loop_start()
    assert subscribed.wait(PATIENCE_SECONDS)
    simulator = Simulator(recording, HOST, broker.port, line="cellar", version=version)
    simulator.start()
    finish(simulator)
    assert complete.wait(PATIENCE_SECONDS)
    subscriber.disconnect()
    subscriber.loop_stop()
    assert {topic for topic, _ in said} == {"plant/cellar/ambient/telemetry"}
    assert [json.loads(text) for _, text in said] == [
        {"reading": reading.number, "time": reading.time, "temperature": reading.value}
        for reading in recording.readings
    ]


@needs_broker
@both_versions
def test_a_broker_killed_in_the_middle_costs_no_reading(broker: Mosquitto, version: Version) -> None:
    killed = threading.Event()

    def kill_once(reading: Reading) -> None:
        if reading.number >= 500 and not killed.is_set():
            broker.kill()
            killed.set()

    recording = recordings.load("machine").head(2_000)
    simulator = Simulator(recording, HOST, broker.port, version=version, on_acknowledged=kill_once)
    simulator.start()
    assert killed.wait(PATIENCE_SECONDS)
    assert not simulator.done
    broker.start()
    finish(simulator)
    assert simulator.connections == 2


@needs_broker
def test_a_broker_that_comes_late_is_waited_for(broker: Mosquitto) -> None:
    broker.kill()
    simulator = Simulator(recordings.load("ambient").head(50), HOST, broker.port)
    simulator.start()
    assert not simulator.join(0.3)
    assert "refused" in simulator.last_error
    broker.start()
    finish(simulator)


@needs_broker
def test_a_reading_that_the_broker_refuses_is_published_again(tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic read #\n")
    acl.chmod(0o600)
    mosquitto = Mosquitto(tmp_path, f"acl_file {acl}")
    simulator = Simulator(recordings.load("ambient").head(20), HOST, mosquitto.port)
    try:
        simulator.start()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while simulator.refusals < 20:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert simulator.acknowledged_count == 0
        assert "ot authorized" in simulator.last_error
        acl.write_text("topic readwrite #\n")
        mosquitto.process.send_signal(signal.SIGHUP)
        finish(simulator)
    finally:
        simulator.stop()
        mosquitto.kill()


@needs_broker
def test_no_more_than_the_window_and_the_receive_maximum_are_in_flight(tmp_path: Path) -> None:
    """Mosquitto closes the connection of an MQTT 5 client that goes beyond what it announced."""
    mosquitto = Mosquitto(tmp_path, "max_inflight_messages 3")
    most = 0

    def look(_: Reading) -> None:
        nonlocal most
        most = max(most, simulator.published - simulator.acknowledged_count)

    simulator = Simulator(recordings.load("ambient").head(300), HOST, mosquitto.port, on_acknowledged=look)
    try:
        simulator.start()
        finish(simulator)
    finally:
        mosquitto.kill()
    assert simulator.connections == 1
    assert most <= 3


@needs_broker
def test_a_stopped_sensor_publishes_nothing_more(broker: Mosquitto) -> None:
    recording = recordings.load("machine")
    simulator = Simulator(recording, HOST, broker.port, due=simulate.at_rate(recording, 50.0))
    simulator.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not simulator.published:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    simulator.stop()
    assert simulator.join(PATIENCE_SECONDS)
    assert 0 < simulator.published < len(recording.readings)
    assert not simulator.done


@needs_broker
def test_an_error_in_the_callback_reaches_whoever_joins(broker: Mosquitto) -> None:
    def fail(_: Reading) -> None:
        raise OSError("the ledger's disk is full")

    simulator = Simulator(recordings.load("ambient").head(5), HOST, broker.port, on_acknowledged=fail)
    simulator.start()
    with pytest.raises(OSError, match="disk is full"):
        simulator.join(PATIENCE_SECONDS)


def test_a_line_with_a_wildcard_is_refused() -> None:
    with pytest.raises(InvalidTopic):
        Simulator(recordings.load("ambient"), HOST, 1883, line="hall/#")


# -- when readings are due -----------------------------------------------------------------------------------


def of_times(*times: str) -> Recording:
    return Recording("r", "r", tuple(Reading(i, time, 1.0, False) for i, time in enumerate(times, 1)))


def test_speed_divides_the_recorded_pauses() -> None:
    recording = of_times("2014-01-01T00:00:00", "2014-01-01T00:05:00", "2014-01-01T01:05:00")
    assert simulate.at_speed(recording, 60.0) == [0.0, 5.0, 65.0]


def test_a_recorded_clock_that_was_set_back_costs_no_time() -> None:
    recording = of_times("2014-01-01T02:55:00", "2014-01-01T02:00:00", "2014-01-01T02:05:00")
    assert simulate.at_speed(recording, 300.0) == [0.0, 0.0, 1.0]


def test_rate_spreads_readings_evenly() -> None:
    assert simulate.at_rate(of_times("2014-01-01T00:00:00", "2014-01-01T09:00:00"), 4.0) == [0.0, 0.25]


@needs_broker
def test_no_reading_goes_before_it_is_due(broker: Mosquitto) -> None:
    simulator = Simulator(recordings.load("ambient").head(3), HOST, broker.port, due=[0.0, 0.0, 3_600.0])
    simulator.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while simulator.acknowledged_count < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not simulator.join(0.2)
    assert simulator.published == 2
    simulator.stop()
    assert simulator.join(PATIENCE_SECONDS)


# -- the command ---------------------------------------------------------------------------------------------


@needs_broker
@pytest.mark.parametrize("mqtt", ["5", "311"])
def test_the_command_reports_and_keeps_a_ledger(broker: Mosquitto, tmp_path: Path, mqtt: str) -> None:
    ledger = tmp_path / "ledger"
    options = ["--limit", "100", "--mqtt", mqtt, "--ledger", str(ledger), "--json"]
    result = run_command("--broker", f"{HOST}:{broker.port}", *options)
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert [(row["recording"], row["acknowledged"]) for row in facts] == [("machine", 100), ("ambient", 100)]
    written = [json.loads(line) for line in ledger.read_text().splitlines()]
    for name in recordings.NAMES:
        numbers = [entry["reading"] for entry in written if entry["recording"] == name]
        assert sorted(numbers) == list(range(1, 101))


@needs_broker
def test_an_interrupted_command_says_what_was_done(broker: Mosquitto, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    program = "from devices.cli import app; app()"
    options = ["--broker", f"{HOST}:{broker.port}", "--rate", "20", "--ledger", str(ledger), "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, "simulate", *options],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ledger.exists() or ledger.stat().st_size == 0:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    acknowledged = sum(row["acknowledged"] for row in json.loads(text))
    assert acknowledged == len(ledger.read_text().splitlines()) > 0


def test_a_broker_never_reached_is_one_clear_line() -> None:
    with socket.socket() as closed:
        closed.bind((HOST, 0))
        port = closed.getsockname()[1]
        result = run_command("--broker", f"{HOST}:{port}", "--connect-timeout", "0.3", "--limit", "1")
    assert result.returncode == 1
    assert "cannot connect to the broker" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("options", [["--speed", "fast"], ["--speed", "0"], ["--broker", "here"]])
def test_a_value_that_cannot_be_is_a_usage_error(options: list[str]) -> None:
    result = run_command(*options)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
