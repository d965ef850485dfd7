"""What the parameters of one device come to by a template."""

from typing import Any

import orjson
import pytest

from devices.intrinsics import UnusableParameter
from devices.template_files import parse
from devices.templates import CERTIFICATE_ID, Override, Template

ID = {CERTIFICATE_ID: "c0ffee"}


def template(**changed: Any) -> Template:
    body: dict[str, Any] = {
        "Parameters": {"Serial": {"Type": "String"}, "Site": {"Type": "String", "Default": "hall"}},
        "Resources": {
            "thing": {
                "Type": "AWS::IoT::Thing",
                "Properties": {
                    "ThingName": {"Fn::Join": ["-", ["sensor", {"Ref": "Serial"}]]},
                    "AttributePayload": {"site": {"Ref": "Site"}, "made": "2026"},
                },
            },
            "certificate": {
                "Type": "AWS::IoT::Certificate",
                "Properties": {"CertificateId": {"Ref": CERTIFICATE_ID}, "Status": "Active"},
            },
            "first": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "sensor"}},
            "second": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": {"Ref": "Site"}}},
        },
        "DeviceConfiguration": {"rate": 10, "site": {"Ref": "Site"}},
    }
    return parse("sensor.json", orjson.dumps(body | changed).decode())


def test_a_plan_holds_everything_that_the_template_says() -> None:
    plan = template().plan({"Serial": "7"}, ID)
    assert plan.thing == "sensor-7"
    assert plan.attributes == {"site": "hall", "made": "2026"}
    assert plan.policies == ("sensor", "hall")
    assert plan.active
    assert plan.override is Override.FAIL
    assert plan.configuration == {"rate": 10, "site": "hall"}


def test_what_the_device_gives_takes_the_place_of_a_default() -> None:
    assert template().plan({"Serial": "7", "Site": "yard"}, ID).attributes["site"] == "yard"


def test_parameters_that_are_not_declared_are_of_no_effect() -> None:
    assert template().plan({"Serial": "7", "Colour": "red"}, ID) == template().plan({"Serial": "7"}, ID)


def test_a_parameter_without_value_is_named() -> None:
    with pytest.raises(UnusableParameter, match="Serial"):
        template().plan({}, ID)


def test_a_device_cannot_give_what_only_its_certificate_provides() -> None:
    name = "AWS::IoT::Certificate::CommonName"
    by_certificate = template(Parameters={name: {"Type": "String"}, "Serial": {"Type": "String", "Default": "1"},
                                          "Site": {"Type": "String", "Default": "x"}})  # fmt: skip
    with pytest.raises(UnusableParameter, match="CommonName"):
        by_certificate.plan({name: "forged"}, ID)
    by_certificate.plan({CERTIFICATE_ID: "forged"}, ID | {name: "real"})


def test_a_field_that_a_certificate_lacks_is_named_also_when_it_was_not_declared() -> None:
    resources = {
        "t": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "AWS::IoT::Certificate::Country"}}},
        "c": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": CERTIFICATE_ID}}},
    }
    with pytest.raises(UnusableParameter, match="Country"):
        template(Resources=resources).plan({"Serial": "7"}, ID)


def test_a_template_may_leave_a_device_inactive_but_not_in_an_unknown_state() -> None:
    def with_status(status: Any) -> Template:
        certificate = {"CertificateId": {"Ref": CERTIFICATE_ID}, "Status": status}
        resources = {
            "t": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": "x"}},
            "c": {"Type": "AWS::IoT::Certificate", "Properties": certificate},
        }
        return template(Resources=resources)

    assert not with_status("INACTIVE").plan({"Serial": "1"}, ID).active
    with pytest.raises(UnusableParameter, match="Status"):
        with_status({"Ref": "Site"}).plan({"Serial": "1"}, ID)
