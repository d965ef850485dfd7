"""cloud.toml: what is accepted, and every fault at once with its place."""

from pathlib import Path

import pytest

from cloud.config import CloudConfig, load
from cloud.daemon import load_rules
from core.errors import ConfigurationError

BASE = """
[cloud]
data_dir = "data"

[[listeners]]
address = "0.0.0.0:8883"
tls = { certificate = "cloud.pem", key = "cloud.key", client_ca = "ca.pem" }
"""
TARGETS = """
[targets]
backend = "local"

[targets.tables.readings]
keys = ["machine", "reading"]

[targets.streams.telemetry]
size = "5MB"
interval = "300s"

[targets.topics.alerts]
subscriptions = [{ webhook = "https://example.com/hook" }, { mqtt = "alerts/shift-lead" }, { log = true }]
"""


def parse(directory: Path, text: str) -> CloudConfig:
    path = directory / "cloud.toml"
    path.write_text(text)
    return load(path)


def problems(directory: Path, text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse(directory, text)
    return caught.value.problems


def test_the_example_of_the_manual_means_what_it_says(tmp_path: Path) -> None:
    config = parse(tmp_path, BASE + '[rules]\ndirectory = "rules"\n' + TARGETS)
    assert config.cloud.data_dir == tmp_path / "data"
    assert config.listeners[0].tls is not None
    assert config.listeners[0].tls.client_ca == tmp_path / "ca.pem"
    assert config.rules is not None
    assert config.rules.directory == tmp_path / "rules"
    assert config.targets.tables["readings"].keys == ("machine", "reading")
    assert config.targets.streams["telemetry"].interval_ms == 300_000
    assert [each.protocol for each in config.targets.topics["alerts"].subscriptions] == ["https", "mqtt", "log"]


def test_rules_and_targets_may_be_left_out(tmp_path: Path) -> None:
    config = parse(tmp_path, BASE)
    assert config.rules is None
    assert not config.targets.tables
    assert len(load_rules(config)) == 0


def test_every_fault_is_reported_at_once_with_its_place(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """
        [cloud]
        data_dri = "data"

        [[listeners]]
        address = "8883"
        anonymous = "yes"

        [[listeners]]
        address = "0.0.0.0:1883"

        [rules]
        dir = "rules"

        [targets]
        backend = "gcp"
        tabels = {}

        [targets.tables.readings]
        keys = []

        [targets.topics.alerts]
        subscriptions = [{ webhook = "ftp://example.com" }, { log = false }, {}]
        """,
    )
    expected = {
        "cloud.data_dir",
        "cloud.data_dri",
        "listeners[0].address",
        "listeners[0].anonymous",
        "listeners[1]",
        "rules.directory",
        "rules.dir",
        "targets.backend",
        "targets.tabels",
        "targets.tables.readings.keys",
        "targets.topics.alerts.subscriptions[0].webhook",
        "targets.topics.alerts.subscriptions[1].log",
        "targets.topics.alerts.subscriptions[2]",
    }
    assert expected <= {problem.partition(":")[0] for problem in found}
    assert "targets.tabels: unknown key; did you mean 'tables'?" in found


def test_an_empty_file_lacks_its_sections(tmp_path: Path) -> None:
    assert problems(tmp_path, "") == ["cloud: is missing", "listeners: is missing"]


def test_rules_that_name_targets_which_are_not_configured_are_refused_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "one.yaml").write_text(
        "One:\n  sql: SELECT * FROM 'a'\n  actions:\n"
        "    - dynamoDBv2: { putItem: { tableName: readngs } }\n"
        "    - firehose: { deliveryStreamName: telemetry }\n"
        "    - sns: { targetArn: alarm }\n"
    )
    config = parse(tmp_path, BASE + '[rules]\ndirectory = "rules"\n' + TARGETS)
    with pytest.raises(ConfigurationError) as caught:
        load_rules(config)
    assert caught.value.problems == [
        "rule One: no table 'readngs'; add [targets.tables.readngs] (configured: readings)",
        "rule One: no topic 'alarm'; add [targets.topics.alarm] (configured: alerts)",
    ]


def test_actions_that_the_cloud_cannot_run_are_refused_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(
        "One:\n  sql: SELECT * FROM 'a'\n  actions:\n    - timestream: { databaseName: x }\n"
    )
    config = parse(tmp_path, BASE + '[rules]\ndirectory = "rules.yaml"\n')
    with pytest.raises(ConfigurationError, match="cannot run 'timestream' yet"):
        load_rules(config)


def test_a_directory_of_rules_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    config = parse(tmp_path, BASE + '[rules]\ndirectory = "rules"\n')
    with pytest.raises(ConfigurationError, match="no such file or directory"):
        load_rules(config)
