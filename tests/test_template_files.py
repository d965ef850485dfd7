"""Template files: the examples, and that bad ones are refused whole, each fault with its place."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from core.errors import ConfigurationError
from devices.policies import Policy
from devices.policy_files import read as read_policies
from devices.template_files import TEMPLATE_BYTES_MAX, load, parse
from devices.templates import CERTIFICATE_ID

EXAMPLES = Path(__file__).parent.parent / "examples" / "provisioning"

GOOD: dict[str, Any] = {
    "Parameters": {"Serial": {"Type": "String"}},
    "Resources": {
        "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "Serial"}}},
        "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": CERTIFICATE_ID}}},
    },
}


def problems(text: str, name: str = "sensor.yaml") -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse(name, text)
    return caught.value.problems


def changed(path: str, value: Any) -> str:
    """GOOD with another value at a dotted path."""
    body = yaml.safe_load(yaml.safe_dump(GOOD))
    *parents, last = path.split(".")
    place = body
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return str(yaml.safe_dump(body))


def test_the_examples_are_read_and_their_policies_are_there() -> None:
    templates = load(EXAMPLES)
    assert set(templates) == {"sensor", "vendor"}
    policies = read_policies(EXAMPLES / "policies")
    plan = templates["sensor"].plan({"SerialNumber": "A-1001"}, {CERTIFICATE_ID: "c"})
    assert plan.thing == "sensor-A-1001"
    assert plan.configuration == {"topic": "plant/hall-1/sensor-A-1001/telemetry", "intervalSeconds": "10"}
    assert all(isinstance(policies[name], Policy) for name in (*plan.policies, "claim"))
    hook = templates["sensor"].hook
    assert hook is not None
    assert hook.name == "known-serials"


def test_without_a_directory_there_are_no_templates() -> None:
    assert load(None) == {}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("Resource", {}, "did you mean 'Resources'"),
        ("Parameters.Serial.Type", "Number", "Parameters.Serial.Type"),
        ("Parameters.Serial.Default", 1, "Parameters.Serial.Default: must be text"),
        ("Resources.thing.Type", "AWS::S3::Bucket", "Resources.thing"),
        ("Resources.thing.Properties.Name", "x", "Resources.thing.Properties.Name: unknown key"),
        ("Resources.thing.Properties.ThingName", {"Ref": "Nothing"}, "Resources.thing.Properties.ThingName.Ref"),
        ("Resources.thing.Properties.ThingName", 5, "Resources.thing.Properties.ThingName"),
        ("Resources.thing.Properties.AttributePayload", {"a": 1}, "AttributePayload.a"),
        ("Resources.thing.OverrideSettings", {"AttributePayload": "KEEP"}, "OverrideSettings.AttributePayload"),
        ("Resources.certificate.Properties.CertificatePem", "x", "CertificatePem: the certificate is there already"),
        ("Resources.certificate.Properties.CertificateId", "c0ffee", "CertificateId: the certificate is there already"),
        ("Resources.policy", {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": "{}"}}, "PolicyName"),
        ("Resources.policy", {"Type": "AWS::IoT::Policy", "Properties": {}}, "Resources.policy.Properties.PolicyName"),
        ("Resources.second", GOOD["Resources"]["thing"], "needs one AWS::IoT::Thing"),
        ("Mappings", {"a": {"b": {"c": 1}}}, "Mappings.a.b.c: must be text"),
        ("DeviceConfiguration", {"a": {"Fn::Nothing": 1}}, "DeviceConfiguration.a: there is no function Fn::Nothing"),
        ("DeviceConfiguration", {"a": 2**70}, "JSON"),
        ("Metadata.Tidegate.Hook", "x", "Metadata.Tidegate.Hook: unknown key"),
    ],
)
def test_a_fault_is_told_with_its_place(path: str, value: Any, words: str) -> None:
    (problem,) = problems(changed(path, value))
    assert words in problem


def test_a_good_template_has_no_fault() -> None:
    assert parse("sensor.yaml", yaml.safe_dump(GOOD)).name == "sensor"
    assert parse("sensor.yaml", changed("Metadata", {"Other": {"tool": 1}})).hook is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a template is a mapping"),
        ("[1]", "a template is a mapping"),
        ("{", "line 1, column 2"),
        ("a: &x 1\nb: *x\n", "line 2, column 4"),
        ("Parameters: {}\nParameters: {}\n", "twice"),
        ("Resources: !Ref x\n", "line 1, column 12"),
        ("[" * 100, "more than 32 levels"),
        ("x: 1_000\u0000", "not YAML or JSON"),
        ("#" * (TEMPLATE_BYTES_MAX + 1), "larger than"),
        ("{1: 2}", "JSON"),
        ("? [a]\n: b\n", "line 1"),
    ],
)
def test_a_text_that_is_no_template_is_refused(text: str, words: str) -> None:
    assert words in problems(text)[0]


@pytest.mark.parametrize("name", ["a b.yaml", "x" * 37 + ".json", "a.b.yaml"])
def test_a_template_needs_a_name_that_aws_would_take(name: str) -> None:
    assert "1 to 36 letters" in problems(yaml.safe_dump(GOOD), name)[0]


def test_every_fault_of_every_file_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(changed("Resources.thing.Properties.ThingName", {"Ref": "X"}))
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(GOOD))
    (tmp_path / "c.yml").write_text(yaml.safe_dump(GOOD))
    (tmp_path / "d.yaml").write_text(changed("Metadata.Tidegate.PreProvisioningHook", "nowhere"))
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path)
    told = "\n".join(caught.value.problems)
    assert [f"{tmp_path}/{name}" in told for name in ("a.yaml", "b.json", "c.yml", "d.yaml")] == [True] * 4
    assert "no executable file" in told
