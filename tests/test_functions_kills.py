"""SIGKILL of daemons and workers under a full queue: every event that was accepted is handled, and few of them twice.

What a device was told is kept is the reference: publishers resume their sessions after a kill, as devices do, and send
again what was not acknowledged. What has become of events is told by their destinations, which share the commit of
their end, or by the dead-letter store.
"""

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

from core.config import HostPort
from functions.asynchronous import IN_FLIGHT_MAX
from functions.dead_letters import LETTERS_MAX
from functions.manifest import QueueSource
from tests.aws_clients import aws
from tests.functions_boxes import Box, Taker, descendants, running
from tests.site import wait_until
from tests.test_kills import Publisher
from tests.wire import Wire
from tidegate.processes import Daemon, free_port

pytestmark = pytest.mark.processes
PATIENCE_SECONDS = 60.0
QUEUED = 500  # events that wait before the first kill
DONE = "arn:aws:iot:us-east-1:000000000000:topic/done"
SLOW = """
import time

def handler(event, context):
    time.sleep(0.001)
    return [context.client_context.custom["subject"], event]
"""
STUCK = """
import time

def handler(event, context):
    time.sleep(600)
"""
FAILING = """
def handler(event, context):
    raise ValueError(event)
"""


@contextmanager
def taking(address: HostPort, *topics: str) -> Iterator[Taker]:
    """Somebody who takes everything on some topics, in a session that outlives the daemon."""
    taker = Taker(address, "taker", *topics)
    taker.start()
    try:
        yield taker
    finally:
        taker.stop()


@contextmanager
def publishing(address: HostPort, *topics: str) -> Iterator[list[Publisher]]:
    """Devices that publish 0, 1, 2, … to a topic each, in either version of MQTT, until they are to finish."""
    publishers = [Publisher(address, topic, 1, 4 + place % 2) for place, topic in enumerate(topics)]
    for publisher in publishers:
        publisher.start()
    try:
        yield publishers
    finally:
        for publisher in publishers:
            publisher.stopping.set()
            publisher.finish.set()
        for publisher in publishers:
            publisher.stop()


def acknowledged(publishers: list[Publisher]) -> int:
    return sum(publisher.acknowledged for publisher in publishers)


def finish(publishers: list[Publisher]) -> int:
    """Have devices end what they have begun; how many messages they published."""
    for publisher in publishers:
        publisher.finish.set()
    wait_until(lambda: all(publisher.done for publisher in publishers), PATIENCE_SECONDS)
    return sum(publisher.sent for publisher in publishers)


def kill_at_random_moments(daemon: Daemon, publishers: list[Publisher], kills: int, randomness: random.Random) -> None:
    """Each time after some work, so that every kill finds something under way."""
    for _ in range(kills):
        wanted = acknowledged(publishers) + randomness.randrange(1, 300)
        wait_until(lambda wanted=wanted: acknowledged(publishers) >= wanted, PATIENCE_SECONDS)  # type: ignore[misc]
        time.sleep(randomness.uniform(0, 0.02))  # not always right behind an acknowledgement
        daemon.kill()
        daemon.start()


# -- the edge ---------------------------------------------------------------------------------------------------------


def test_whatever_was_acknowledged_is_there_after_a_kill_whichever_way_it_came(tmp_path: Path) -> None:
    rule = {"sql": "SELECT * FROM 'ruled'", "actions": [{"lambda": {"functionArn": "stuck"}}]}
    with running(tmp_path) as box:
        listed = json.dumps([{"ruleName": "Ruled", "topicRulePayload": rule}])
        box.deploy("stuck", STUCK, topics=("heard/#",), timeout=900, rules=listed)

        def publish(topic: str, version: int, qos: int) -> None:
            with box.wire("device", version=version) as wire:
                assert wire.publish(topic, b"{}", qos) == 0

        def invoke() -> None:
            with aws("lambda", box.url) as client:
                client.invoke(FunctionName="stuck", InvocationType="Event", Payload=b"{}")

        ways = [
            lambda: publish("heard/1", 5, 1), lambda: publish("ruled", 4, 1), lambda: publish("heard/2", 4, 2),
            invoke,
        ]  # fmt: skip
        for number, way in enumerate(ways):
            way()
            box.daemon.kill()
            box.daemon.start()
            assert box.held("stuck") == number + 1


def test_a_kill_finds_events_in_every_state_and_the_next_run_goes_on_with_each(tmp_path: Path) -> None:
    queue = "arn:aws:sqs:us-east-1:000000000000:work"
    sources = (QueueSource(queue=queue),)
    with running(tmp_path) as box:
        box.deploy("stuck", STUCK, topics=("stuck",), timeout=900)
        box.deploy("failing", FAILING, topics=("failing",), retries=2)
        box.deploy("dead", FAILING, topics=("dead",), retries=0)
        box.deploy("sender", SLOW, topics=("sender",), on_success=queue)
        box.deploy("poller", STUCK, queues=sources, timeout=900)
        with box.wire("device") as device:
            for topic in ("stuck", "failing", "dead", "sender"):
                device.publish(topic, b"1")
        wait_until(lambda: len(box.letters("dead")) == 1 and box.counter("functions_retries_total") == 1)
        wait_until(lambda: [pool["in_flight"] for pool in box.pools("poller") + box.pools("stuck")] == [1, 1])
        processes = descendants(box.daemon.pid)
        with taking(box.address, "done") as taker:
            box.daemon.kill()
            wait_until(lambda: not any(Path(f"/proc/{process}").exists() for process in processes))
            box.install("stuck", SLOW, topics=("stuck",), on_success=DONE)
            box.install("poller", SLOW, queues=sources)
            box.daemon.start()
            wait_until(lambda: len(taker.documents) == 1)
            assert taker.documents[0]["responsePayload"] == ["stuck", 1]
            wait_until(lambda: box.counter("function_invocations_total", function="poller") == 1)
            [lane] = box.daemon.ask("functions-status", function="failing")["queues"]
            assert (lane["held"], lane["retrying"]) == (1, 1)
            assert [letter["function"] for letter in box.letters()] == ["dead"]
            box.daemon.kill()


@contextmanager
def loaded(box: Box, **manifest: Any) -> Iterator[tuple[list[Publisher], Taker]]:
    """A slow function with a long queue, who fills it, and who takes the records of its events."""
    with ExitStack() as stack:
        box.deploy("slow", SLOW, topics=("load/#",), on_success=DONE, queue_events=200_000, **manifest)
        taker = stack.enter_context(taking(box.address, "done"))
        publishers = stack.enter_context(publishing(box.address, "load/4", "load/5"))
        stack.callback(box.daemon.kill)  # so that clients which wait for it end
        wait_until(lambda: box.held("slow") > QUEUED, PATIENCE_SECONDS)
        yield publishers, taker


def check(box: Box, publishers: list[Publisher], taker: Taker, repeated_at_most: int) -> None:
    """Everything that was published was handled; what was handled twice is within a bound."""
    finish(publishers)
    wanted = {(publisher.topic, number) for publisher in publishers for number in range(publisher.sent)}
    wait_until(lambda: box.held("slow") == 0, PATIENCE_SECONDS)

    def handled() -> set[tuple[str, int]]:
        return {(record["responsePayload"][0], record["responsePayload"][1]) for record in list(taker.documents)}

    wait_until(lambda: len(taker.documents) >= len(wanted) and handled() >= wanted, PATIENCE_SECONDS)
    assert handled() == wanted
    assert len(taker.documents) - len(wanted) <= repeated_at_most


def edge_campaign(tmp_path: Path, kills: int, seed: int) -> None:
    """Devices publish faster than a function works, and the edge is killed again and again."""
    with running(tmp_path) as box, loaded(box) as (publishers, taker):
        kill_at_random_moments(box.daemon, publishers, kills, random.Random(seed))
        check(box, publishers, taker, kills * IN_FLIGHT_MAX)
        assert box.dead() == []


def test_no_event_is_lost_when_the_edge_is_killed_with_a_full_queue(tmp_path: Path) -> None:
    edge_campaign(tmp_path, 3, 1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_no_event_is_lost_in_a_hundred_kills_of_the_edge(tmp_path: Path, seed: int) -> None:
    edge_campaign(tmp_path, 100, seed)


def worker_campaign(tmp_path: Path, kills: int) -> None:
    """A worker that is killed costs the event in hand, which is a failed attempt, and no other."""
    with running(tmp_path) as box, loaded(box, retries=0) as (publishers, taker):
        for _ in range(kills):
            before = len(taker.documents)
            wait_until(lambda before=before: len(taker.documents) > before + 50, PATIENCE_SECONDS)  # type: ignore[misc]
            os.kill(box.workers()[0], signal.SIGKILL)
        finish(publishers)
        wait_until(lambda: box.held("slow") == 0, PATIENCE_SECONDS)
        dead = box.dead("slow")
        assert 0 < len(dead) <= kills
        assert {letter["condition"] for letter in dead} == {"RetriesExhausted"}
        assert all("signal: killed" in letter["response"] for letter in dead)
        box.command("dead", "replay", "--all")
        check(box, publishers, taker, 0)


def test_a_killed_worker_costs_one_attempt_at_one_event(tmp_path: Path) -> None:
    worker_campaign(tmp_path, 3)


@pytest.mark.soak
def test_a_hundred_killed_workers_cost_a_hundred_attempts_at_most(tmp_path: Path) -> None:
    worker_campaign(tmp_path, 100)


# -- the cloud --------------------------------------------------------------------------------------------------------


@contextmanager
def edge_below(cloud: Box) -> Iterator[tuple[Daemon, HostPort]]:
    """An edge without functions that sends everything to a cloud, and the address of its broker."""
    address = HostPort("127.0.0.1", free_port())
    config = cloud.directory / "edge.toml"
    config.write_text(
        f"""
        edge = {{ name = "press-hall", data_dir = "edge" }}
        uplink = {{ url = "mqtt://{cloud.address.host}:{cloud.address.port}", retry_limit = "1s", linger = "0s" }}
        [[listeners]]
        address = "{address.host}:{address.port}"
        anonymous = true
        """
    )
    daemon = Daemon("edge", config, cloud.directory / "edge")
    try:
        daemon.start()
        yield daemon, address
    finally:
        daemon.kill()


def cloud_campaign(tmp_path: Path, kills: int, seed: int) -> None:
    """A rule of the cloud gives a function each message that came through an edge, as one event.

    The function fails, and is not tried again: its dead letters, written in the commit of an event's end, count events.
    """
    with running(tmp_path, "cloud") as cloud, edge_below(cloud) as (edge, address):
        rule = {"sql": "SELECT * FROM 'plant/#'", "actions": [{"lambda": {"functionArn": "failing"}}]}
        listed = json.dumps([{"ruleName": "Failing", "topicRulePayload": rule}])
        cloud.deploy("failing", FAILING, rules=listed, retries=0, queue_events=200_000)
        numbers, randomness = count(), random.Random(seed)
        for _ in range(kills):
            wait_until(lambda: edge.ask("status")["uplink"] == "up", PATIENCE_SECONDS)
            with Wire(address).connect("device") as device:
                for number in islice(numbers, 250):
                    device.publish(f"plant/{number % 2}", b"%d" % number)
            time.sleep(randomness.uniform(0, 0.1))  # somewhere on the way from the edge to the dead letters
            cloud.daemon.kill()
            cloud.daemon.start()
        sent = next(numbers)
        assert sent < LETTERS_MAX
        wait_until(lambda: len(cloud.letters()) >= sent, PATIENCE_SECONDS)
        wait_until(lambda: cloud.daemon.ask("status")["inbox_messages"] == cloud.held() == 0, PATIENCE_SECONDS)
        assert Counter(letter["payload"] for letter in cloud.dead()) == Counter(map(str, range(sent)))


def test_each_message_is_one_event_of_a_rule_s_function_when_the_cloud_is_killed(tmp_path: Path) -> None:
    cloud_campaign(tmp_path, 2, 1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [2, 3])
def test_each_message_is_one_event_in_thirty_kills_of_the_cloud(tmp_path: Path, seed: int) -> None:
    cloud_campaign(tmp_path, 30, seed)
