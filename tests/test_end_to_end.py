"""Rules in real daemons, spoken to by mosquitto's tools: Basic Ingest, error actions, answers to calls, other rules.

What each part decides is tested with that part; here they are the processes that an operator starts.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.site import Site, wait_until
from tests.wire import PATIENCE_SECONDS
from tidegate.processes import DaemonFailed

pytestmark = pytest.mark.processes

EDGE_RULES = """
Hot:
  awsIotSqlVersion: "2016-03-23"
  sql: SELECT t, topic() AS topic, clientid() AS client, sourceip() AS ip FROM 'plant/#' WHERE t > 100
  actions:
    - republish: { topic: "alarm/${topic(2)}${suffix}", qos: 1, headers: { contentType: application/json } }
  errorAction:
    republish: { topic: errors/hot }
Secret:
  awsIotSqlVersion: "2016-03-23"
  sql: >-
    SELECT get_secret('word', 'SecretString', 'key', 'role') AS word, accountid() AS account,
    get_registry_data('DescribeThing', thing, 'role').attributes.hall AS hall FROM 'ask/#'
  actions: [{ republish: { topic: told } }]
"""
CLOUD_RULES = """
Keep:
  awsIotSqlVersion: "2016-03-23"
  sql: SELECT *, topic() AS topic, principal() AS principal, sourceip() AS ip
  actions: [{ dynamoDBv2: { putItem: { tableName: readings } } }]
  errorAction: { republish: { topic: errors/keep } }
"""


@contextmanager
def running(tmp: Path, edge_rules: str = EDGE_RULES) -> Iterator[Site]:
    """A site with rules on both sides, whose uplink carries what is published for rules of the cloud."""
    site = Site(tmp, lane='[[uplink.lanes]]\nname = "ingest"\ntopics = ["$aws/rules/Keep/#"]')
    (tmp / "rules" / "cloud.yaml").write_text(CLOUD_RULES)
    for name in ("edge-rules", "secrets"):
        (tmp / name).mkdir()
    (tmp / "edge-rules" / "edge.yaml").write_text(edge_rules)
    (tmp / "secrets" / "word").write_text('{"key": "sesame"}\n')
    section = '[rules]\ndirectory = "edge-rules"\nsecrets = "secrets"\naccount = "123456789012"\n'
    (tmp / "edge.toml").write_text((tmp / "edge.toml").read_text() + section)
    with ExitStack() as stack:
        stack.callback(site.link.close)
        for daemon in (site.cloud, site.edge):
            daemon.start()
            stack.callback(daemon.kill)
        yield site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("site")) as started:
        yield started


def publish(port: int, topic: str, payload: str, *more: str) -> None:
    """With QoS 1, so that it has been taken when this returns."""
    command = ["mosquitto_pub", "-p", str(port), "-i", "press", "-q", "1", "-t", topic, "-m", payload, *more]
    subprocess.run(command, check=True, timeout=PATIENCE_SECONDS)


class Listener:
    """What mosquitto_sub prints."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        self._lines = process.stdout

    def line(self) -> tuple[str, str, str]:
        """Topic, content type and payload of the next message."""
        topic, kind, payload = self._lines.readline().rstrip("\n").split(" ", 2)
        return topic, kind, payload


@contextmanager
def listening(port: int, *topics: str) -> Iterator[Listener]:
    """mosquitto_sub, from when it has subscribed: the retained message comes after that."""
    publish(port, "ready", "-", "-r")
    filters = [word for topic in (*topics, "ready") for word in ("-t", topic)]
    command = ["mosquitto_sub", "-p", str(port), "-V", "mqttv5", "-q", "1", "-F", "%t %C %p", *filters]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            listener = Listener(process)
            assert listener.line() == ("ready", "", "-")
            yield listener
        finally:
            process.kill()


def rule_status(site: Site, side: str, name: str) -> dict[str, Any]:
    daemon = site.edge if side == "edge" else site.cloud
    [found] = [rule for rule in daemon.ask("status")["rules"] if rule["rule"] == name]
    return dict(found)


def tidegate(*words: str) -> Any:
    command = [sys.executable, "-m", "tidegate.main", *words, "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def readings(site: Site) -> list[dict[str, Any]]:
    """What the cloud's table holds."""
    found = tidegate("tables", "scan", "readings", "--config", str(site.tmp / "cloud.toml"))
    return list(found)


@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
def test_a_rule_is_reached_by_basic_ingest_and_nobody_else_hears_the_message(site: Site, version: str) -> None:
    with listening(site.edge_port, "alarm/#", "office/#", "end") as heard:
        publish(site.edge_port, "$aws/rules/Hot/office/7", '{"t": 101}', "-V", version)
        publish(site.edge_port, "$aws/rules/Gone/office/7", '{"t": 101}', "-V", version)
        publish(site.edge_port, "end", "", "-V", version)
        said = '{"t":101,"topic":"office/7","client":"press","ip":"127.0.0.1"}'
        assert [heard.line(), heard.line()] == [("alarm/7", "application/json", said), ("end", "", "")]
    assert site.counter("edge", "rules_not_found_total") >= 1


def test_nobody_can_subscribe_to_what_is_for_a_rule(site: Site) -> None:
    command = ["mosquitto_sub", "-p", str(site.edge_port), "-t", "$aws/rules/#", "-E"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.stderr == "All subscription requests were denied.\n"


def test_an_action_that_cannot_be_run_sets_off_the_error_action(site: Site) -> None:
    before = rule_status(site, "edge", "Hot")["actions_failed"]
    with listening(site.edge_port, "alarm/#", "errors/#") as heard:
        publish(site.edge_port, "plant/1", '{"t": 102, "suffix": "/#"}')
        topic, _, payload = heard.line()
    document = json.loads(payload)
    assert (topic, document["ruleName"], document["topic"], document["clientId"]) == (
        "errors/hot", "Hot", "plant/1", "press",
    )  # fmt: skip
    assert document["failures"] == [
        {
            "failedAction": "RepublishAction",
            "failedResource": "alarm/${topic(2)}${suffix}",
            "errorMessage": "topic 'alarm/1/#' holds a wildcard",
        }
    ]
    status = rule_status(site, "edge", "Hot")
    assert (status["actions_failed"], status["last_error"]) == (before + 1, "topic 'alarm/1/#' holds a wildcard")
    assert status["spent_ms"] > 0


def test_functions_are_answered_from_files_and_the_registry(site: Site) -> None:
    config = ("--config", str(site.tmp / "edge.toml"))
    tidegate("devices", "add", "lathe", "--attribute", "hall=2", "--out", str(site.tmp / "out"), *config)
    with listening(site.edge_port, "told") as heard:
        publish(site.edge_port, "ask/1", '{"thing": "lathe"}')
        assert heard.line()[2] == '{"word":"sesame","account":"123456789012","hall":"2"}'
        publish(site.edge_port, "ask/1", '{"thing": "nobody"}')
        wait_until(lambda: rule_status(site, "edge", "Secret")["failed"] == 1)
    assert "no thing 'nobody'" in rule_status(site, "edge", "Secret")["last_error"]
    assert "sesame" not in site.edge.log.read_text()


def test_rules_of_the_cloud_are_reached_by_basic_ingest_directly_and_through_an_edge(site: Site) -> None:
    publish(site.edge_port, "$aws/rules/Keep/hall/1", '{"machine": "far", "reading": 1}')
    publish(site.cloud_port, "$aws/rules/Keep/hall/2", '{"machine": "near", "reading": 1}')
    publish(site.edge_port, "$aws/rules/Keep/hall/3", '{"reading": 1}')  # without the key of the table
    with listening(site.cloud_port, "errors/keep") as heard:
        publish(site.cloud_port, "$aws/rules/Keep/hall/4", '{"reading": 2}')
        while json.loads(payload := heard.line()[2])["topic"] != "hall/4":
            pass
    failure = {"failedAction": "DynamoDBv2Action", "failedResource": "readings",
               "errorMessage": "no key member 'machine' at the top level"}  # fmt: skip
    assert json.loads(payload)["failures"] == [failure]
    wait_until(lambda: rule_status(site, "cloud", "Keep")["actions_failed"] == 2)
    site.drain()
    assert readings(site) == [
        {"machine": "far", "reading": 1, "topic": "hall/1"},
        {"machine": "near", "reading": 1, "topic": "hall/2", "ip": "127.0.0.1"},
    ]


def test_what_is_published_at_the_cloud_is_heard_there_once(site: Site) -> None:
    with listening(site.cloud_port, "t/#") as heard:
        for number in range(3):
            publish(site.cloud_port, "t/1", str(number))
        wait_until(lambda: site.cloud.ask("status")["inbox_messages"] == 0)
        publish(site.cloud_port, "t/end", "")
        assert [heard.line()[2] for _ in range(4)] == ["0", "1", "2", ""]


def test_changed_rules_are_read_again_and_those_that_are_the_same_go_on_counting(tmp_path: Path) -> None:
    with running(tmp_path) as site:
        publish(site.edge_port, "plant/1", '{"t": 101}')
        assert rule_status(site, "edge", "Hot")["passed"] == 1
        rules = tmp_path / "edge-rules" / "edge.yaml"
        rules.write_text(EDGE_RULES.replace("topic: told", "topic: told/again").replace("Secret:", "Renamed:"))
        os.kill(site.edge.pid, signal.SIGHUP)
        wait_until(lambda: [each["rule"] for each in site.edge.ask("status")["rules"]] == ["Hot", "Renamed"])
        assert rule_status(site, "edge", "Hot")["passed"] == 1
        rules.write_text(EDGE_RULES.replace("t > 100", "t >"))
        os.kill(site.edge.pid, signal.SIGHUP)
        wait_until(lambda: "reload failed" in site.edge.log.read_text())
        publish(site.edge_port, "plant/1", '{"t": 101}')
        assert rule_status(site, "edge", "Hot")["passed"] == 2
        rules.write_text(EDGE_RULES.replace("  errorAction:", "  ruleDisabled: true\n  errorAction:"))
        os.kill(site.edge.pid, signal.SIGHUP)
        wait_until(lambda: not rule_status(site, "edge", "Hot")["enabled"])
        publish(site.edge_port, "plant/1", '{"t": 101}')
        assert rule_status(site, "edge", "Hot")["matched"] == 2


def test_a_statement_that_this_side_cannot_run_is_refused_at_the_start_with_its_place(tmp_path: Path) -> None:
    rules = "Shadow:\n  awsIotSqlVersion: '2016-03-23'\n  sql: SELECT get_thing_shadow('a', 'r') AS s FROM 't'\n"
    with pytest.raises(DaemonFailed, match="ended with 78"), running(tmp_path, rules + "  actions: []\n"):
        pass
    assert "edge.yaml:3:15: sql: " in (tmp_path / "edge.log").read_text()
