"""`tidegate devices explain`, as an operator types it."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from devices.authority import Authority
from devices.registry import FILE, Registry, Status
from tidegate.explain import explain

app = typer.Typer()
app.command()(explain)

POLICY = """\
Version: "2012-10-17"
Statement:
  - {Effect: Allow, Action: "*", Resource: "*"}
  - Sid: NoAlarms
    Effect: Deny
    Action: iot:Publish
    Resource: topic/plant/${iot:Certificate.Subject.CommonName}/alarm
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """An edge with the thing `press`, its certificate, and the policy `strict` in a directory."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "strict.yaml").write_text(POLICY)
    home = tmp_path / "data" / "devices"
    authority = Authority.open(home)
    with Registry(home / FILE) as registry:
        for name, policies in (("press", ["strict"]), ("lathe", ()), ("saw", ["gone"])):
            registry.put_thing(name, policies=policies)
        registry.put_certificate(authority.issue("press")[0], "press")
    path = tmp_path / "edge.toml"
    path.write_text(
        '[edge]\nname = "hall"\ndata_dir = "data"\n'
        '[[listeners]]\naddress = "127.0.0.1:0"\nanonymous = true\n'
        '[devices]\npolicies = "policies"\n'
    )
    return path


def run(*arguments: str, config: Path) -> Any:
    return CliRunner().invoke(app, [*arguments, "--config", str(config)])


def facts(*arguments: str, config: Path) -> dict[str, Any]:
    result = run(*arguments, "--json", config=config)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_statement_that_decides_is_named(config: Path) -> None:
    found = facts("press", "publish", "plant/press/alarm", config=config)
    assert (found["allowed"], found["policy"], found["sid"], found["effect"]) == (False, "strict", "NoAlarms", "Deny")
    assert (found["line"], found["statement"], found["may_connect"]) == (4, 1, True)
    assert found["file"].endswith("policies/strict.yaml")
    assert facts("press", "publish", "plant/lathe/alarm", config=config)["allowed"]
    assert facts("press", "subscribe", "plant/#", config=config)["allowed"]


def test_a_table_says_the_same(config: Path) -> None:
    result = run("press", "publish", "plant/press/alarm", config=config)
    assert result.exit_code == 0
    assert "NoAlarms" in result.stdout
    assert "strict.yaml" in result.stdout


def test_the_client_identifier_counts(config: Path) -> None:
    assert facts("lathe", "connect", config=config)["allowed"]
    assert facts("lathe", "connect", "--client-id", "lathe-2", config=config)["allowed"]
    other = facts("lathe", "connect", "--client-id", "press", config=config)
    assert (other["allowed"], other["reason"], other["sid"]) == (False, "no statement allows it", None)


def test_topics_of_the_server_are_told_apart_from_policies(config: Path) -> None:
    found = facts("press", "publish", "$SYS/x", config=config)
    assert (found["allowed"], found["reason"]) == (False, "the topic is reserved for the server")
    assert facts("lathe", "receive", "$aws/things/lathe/shadow/update", config=config)["sid"] == "ItsOwnShadows"
    assert not facts("lathe", "receive", "$aws/things/press/shadow/update", config=config)["allowed"]


def test_publishing_where_the_daemon_serves_nothing_is_refused_as_the_daemon_does(config: Path) -> None:
    for topic in ("$aws/things/press/shadow/update", "$aws/certificates", "$tidegate/frames/press/x"):
        found = facts("press", "publish", topic, config=config)
        assert (found["allowed"], found["reason"]) == (False, "the topic is reserved for the server"), topic
    for topic in ("$aws/certificates/create/json", "$aws/provisioning-templates/sensor/provision/json"):
        assert facts("press", "publish", topic, config=config)["allowed"]


def test_an_edges_frames_are_for_a_cloud_under_its_own_name_only(config: Path) -> None:
    cloud = config.with_name("cloud.toml")
    cloud.write_text(config.read_text().replace('[edge]\nname = "hall"', "[cloud]"))
    assert facts("press", "publish", "$tidegate/frames/press/x", config=cloud)["reason"] == "frames of this edge"
    for topic in ("$tidegate/frames/lathe/x", "$tidegate/x"):
        assert not facts("press", "publish", topic, config=cloud)["allowed"]


def test_what_a_device_could_connect_with_is_told(config: Path) -> None:
    assert "1 active of 1" in facts("press", "publish", "a", config=config)["credentials"]
    assert "no certificate, no password" in facts("lathe", "publish", "a", config=config)["credentials"]
    unknown = facts("unknown", "publish", "a", config=config)
    assert (unknown["registered"], unknown["allowed"]) == (False, True)
    assert "client_ca" in unknown["credentials"]
    with Registry(config.parent / "data" / "devices" / FILE) as registry:
        for certificate in registry.certificates_of("press"):
            registry.set_status(certificate.id, Status.REVOKED)
    revoked = facts("press", "publish", "plant/press/alarm", config=config)
    assert "0 active of 1" in revoked["credentials"]


def test_a_missing_policy_is_named(config: Path) -> None:
    found = facts("saw", "publish", "a", config=config)
    assert (found["allowed"], found["policy"], found["file"]) == (False, "gone", None)
    assert "there is no policy 'gone'" in found["reason"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("press", "publish", "a/#"), 1, "wildcard"),
        (("press", "publish"), 1, "must not be empty"),
        (("press", "subscribe", "a#"), 1, "'#' must stand alone"),
        (("press", "connect", "a"), 2, "--client-id"),
        (("press", "steal", "a"), 2, "steal"),
        (("#", "publish", "a"), 1, "no name of a thing"),
    ],
)
def test_what_cannot_be_asked_is_told(config: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    result = run(*arguments, config=config)
    assert result.exit_code == code
    assert said in result.output


def test_a_fault_in_a_policy_file_is_told_with_its_place(config: Path) -> None:
    (config.parent / "policies" / "bad.yaml").write_text("Statement: x")
    result = run("press", "publish", "a", config=config)
    assert result.exit_code == 78
    assert "bad.yaml:1:" in result.output
