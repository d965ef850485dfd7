"""Real daemons, real sockets, real SIGKILLs: what a device was told is stored, is stored, exactly once."""

import random
import time
from pathlib import Path

import pytest

from devices import recordings
from devices.simulate import Simulator, at_rate
from tests.site import Site, running, wait_until
from tidegate.evidence import Evidence, examine

pytestmark = pytest.mark.processes

SECONDS_PER_KILL = 0.35  # how long a kill and a start take, so that devices publish through all of them


def _examine(site: Site, simulators: list[Simulator]) -> Evidence:
    site.drain()
    names = [(s.recording.machine, number) for s in simulators for number, seen in enumerate(s.acknowledged) if seen]
    return examine(site.tmp / "cloud", "readings", "alerts", names)


def _kill_edge(site: Site, kills: int, readings: int, version: int, seed: int) -> None:
    """Kill the edge at random moments while two sensors publish as fast as they are acknowledged."""
    chance = random.Random(seed)
    loaded = [recordings.load(name).head(readings) for name in recordings.NAMES]
    pace = [at_rate(r, len(r.readings) / (kills * SECONDS_PER_KILL)) for r in loaded]
    simulators = [
        Simulator(r, "127.0.0.1", site.edge_port, version=version, due=due)  # type: ignore[arg-type]
        for r, due in zip(loaded, pace, strict=True)
    ]
    for simulator in simulators:
        simulator.start()
    for _ in range(kills):
        time.sleep(chance.uniform(0.02, 0.25))
        site.edge.kill()
        site.edge.start()
    wait_until(lambda: all(s.done for s in simulators), 60 + kills * SECONDS_PER_KILL)
    found = _examine(site, simulators)
    total = sum(len(r.readings) for r in loaded)
    assert (found.lost, found.duplicates, found.stored) == (0, 0, total), f"seed {seed}"


def test_an_edge_killed_twenty_times_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as site:
        _kill_edge(site, 20, 4_000, 5, seed=random.randrange(1 << 30))


def test_an_edge_killed_under_mqtt_311_clients_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as site:
        _kill_edge(site, 5, 2_000, 311, seed=random.randrange(1 << 30))


@pytest.mark.soak
def test_an_edge_killed_a_thousand_times_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as site:
        _kill_edge(site, 1_000, 22_695, 5, seed=random.randrange(1 << 30))


def test_a_cloud_killed_while_frames_come_in_stores_each_message_once(tmp_path: Path) -> None:
    machine = recordings.load("machine").head(6_000)
    with running(tmp_path) as site:
        simulator = Simulator(machine, "127.0.0.1", site.edge_port, due=at_rate(machine, 1_500))
        simulator.start()
        chance = random.Random(7)
        for _ in range(5):
            time.sleep(chance.uniform(0.05, 0.4))
            site.cloud.kill()
            site.cloud.start()
        wait_until(lambda: simulator.done, 60)
        found = _examine(site, [simulator])
        assert (found.lost, found.duplicates, found.stored) == (0, 0, 6_000)


def test_a_cut_link_delays_and_never_loses(tmp_path: Path) -> None:
    machine = recordings.load("machine").head(5_000)
    with running(tmp_path) as site:
        simulator = Simulator(machine, "127.0.0.1", site.edge_port, due=at_rate(machine, 2_500))
        simulator.start()
        for _ in range(3):
            wait_until(lambda: site.counter("cloud", "messages_stored_total") > 0)
            site.link.cut()
            time.sleep(0.2)
            site.link.restore()
        wait_until(lambda: simulator.done, 60)
        found = _examine(site, [simulator])
        assert (found.lost, found.duplicates, found.stored) == (0, 0, 5_000)


def test_an_edge_starts_and_takes_messages_without_any_cloud(tmp_path: Path) -> None:
    machine = recordings.load("machine").head(500)
    site = Site(tmp_path)
    try:
        site.link.cut()
        site.edge.start()
        simulator = Simulator(machine, "127.0.0.1", site.edge_port)
        simulator.start()
        wait_until(lambda: simulator.done)
        assert site.buffered() == 500
        assert site.edge.ask("status")["uplink"] == "down"
        site.cloud.start()
        site.link.restore()
        assert _examine(site, [simulator]).stored == 500
    finally:
        site.edge.kill()
        site.cloud.kill()
        site.link.close()


def test_a_stopped_edge_keeps_its_backlog_and_exits_cleanly(tmp_path: Path) -> None:
    machine = recordings.load("machine").head(2_000)
    with running(tmp_path) as site:
        site.link.cut()
        simulator = Simulator(machine, "127.0.0.1", site.edge_port)
        simulator.start()
        wait_until(lambda: simulator.done)
        assert site.edge.stop() == 0
        site.edge.start()
        assert site.buffered() == 2_000
        assert site.cloud.stop() == 0
        site.cloud.start()
        site.link.restore()
        found = _examine(site, [simulator])
        assert (found.lost, found.duplicates, found.stored) == (0, 0, 2_000)
