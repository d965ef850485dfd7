"""A device enters the registry whole or not at all, and never with more rights than the template gives."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import TidegateError
from devices.authority import Authority
from devices.enrolment import Conflict, UnknownPolicy, enrol
from devices.errors import RegistryError
from devices.registry import Registry, Status
from devices.templates import Override, Plan
from tests.killing import Countdown, before_every_statement

POLICIES = {"sensor", "default", "admin"}
PLAN = Plan("sensor-1", {"site": "hall", "made": "2026"}, ("sensor",), True, Override.FAIL, {})


def pem(directory: Path) -> str:
    return Authority.open(directory).issue("a device")[0]


def test_a_new_device_has_all_that_the_plan_says(tmp_path: Path) -> None:
    with Registry(tmp_path / "devices.db") as registry:
        thing, certificate = enrol(registry, PLAN, pem(tmp_path), POLICIES)
    with Registry(tmp_path / "devices.db") as registry:
        assert registry.things == {"sensor-1": thing}
        assert registry.certificates == {certificate.id: certificate}
    assert (thing.attributes, thing.policies) == (PLAN.attributes, PLAN.policies)
    assert (certificate.thing, certificate.status) == ("sensor-1", Status.ACTIVE)


def test_a_plan_that_is_not_active_makes_an_inactive_certificate(tmp_path: Path) -> None:
    with Registry(tmp_path / "devices.db") as registry:
        assert enrol(registry, replace(PLAN, active=False), pem(tmp_path), POLICIES)[1].status is Status.INACTIVE


@pytest.mark.parametrize(
    ("override", "attributes"),
    [
        (Override.DO_NOTHING, {"site": "yard", "colour": "red"}),
        (Override.REPLACE, {"site": "hall", "made": "2026"}),
        (Override.MERGE, {"site": "hall", "made": "2026", "colour": "red"}),
    ],
)
def test_a_device_that_exists_is_updated_as_the_template_says(
    tmp_path: Path, override: Override, attributes: dict[str, str]
) -> None:
    with Registry(tmp_path / "devices.db") as registry:
        registry.put_thing("sensor-1", attributes={"site": "yard", "colour": "red"}, policies=("sensor",))
        old = registry.put_certificate(pem(tmp_path), "sensor-1")
        thing, certificate = enrol(registry, replace(PLAN, override=override), pem(tmp_path), POLICIES)
        assert thing.attributes == attributes
        assert {each.id for each in registry.certificates_of("sensor-1")} == {old.id, certificate.id}


def refusal(registry: Registry, plan: Plan, certificate: str) -> TidegateError:
    """The error, after which the registry is as it was."""
    before = (dict(registry.things), dict(registry.certificates))
    with pytest.raises(TidegateError) as caught:
        enrol(registry, plan, certificate, POLICIES)
    with Registry(registry.path) as again:
        assert (again.things, again.certificates) == before
    assert (registry.things, registry.certificates) == before
    return caught.value


def test_a_device_that_exists_is_not_taken_over_unless_the_template_allows_it(tmp_path: Path) -> None:
    with Registry(tmp_path / "devices.db") as registry:
        registry.put_thing("sensor-1", policies=("sensor",))
        assert isinstance(refusal(registry, PLAN, pem(tmp_path)), Conflict)


@pytest.mark.parametrize(
    ("has", "gives", "allowed"),
    [
        (("sensor",), ("sensor",), True),
        (("sensor",), ("sensor", "default"), True),
        (("admin",), ("sensor",), False),
        (("sensor", "admin"), ("sensor",), False),
        ((), ("sensor",), False),  # it has the default policies
        (("sensor",), (), False),
        ((), (), True),
    ],
)
def test_no_claim_gains_rights_by_taking_over_a_device(
    tmp_path: Path, has: tuple[str, ...], gives: tuple[str, ...], allowed: bool
) -> None:
    plan = replace(PLAN, override=Override.REPLACE, policies=gives)
    with Registry(tmp_path / "devices.db") as registry:
        registry.put_thing("sensor-1", policies=has)
        if allowed:
            assert enrol(registry, plan, pem(tmp_path), POLICIES)[0].policies == gives
        else:
            assert isinstance(refusal(registry, plan, pem(tmp_path)), Conflict)


def test_what_is_wrong_leaves_nothing_behind(tmp_path: Path) -> None:
    with Registry(tmp_path / "devices.db") as registry:
        good = pem(tmp_path)
        assert isinstance(refusal(registry, replace(PLAN, policies=("nothing",)), good), UnknownPolicy)
        assert isinstance(refusal(registry, replace(PLAN, thing="../.."), good), RegistryError)
        assert isinstance(refusal(registry, replace(PLAN, attributes={"a": "\n"}), good), RegistryError)
        assert isinstance(refusal(registry, PLAN, "no certificate"), RegistryError)
        registry.put_certificate(good)
        assert isinstance(refusal(registry, PLAN, good), RegistryError)


def test_a_kill_at_any_statement_leaves_the_whole_device_or_nothing(tmp_path: Path) -> None:
    outcomes = set()
    for fatal in range(1, 60):
        home = tmp_path / str(fatal)
        with Registry(home / "devices.db"):
            pass
        child = run(home, fatal)
        with Registry(home / "devices.db") as registry:
            things = {name: thing.policies for name, thing in registry.things.items()}
            owners = [(each.thing, each.status) for each in registry.certificates.values()]
        whole = ({"sensor-1": ("sensor",)}, [("sensor-1", Status.ACTIVE)])
        assert (things, owners) in (({}, []), whole)
        outcomes.add(bool(things))
        if child.returncode == 0:
            assert things
            break
        assert child.returncode == -signal.SIGKILL, child.stderr
    else:
        pytest.fail("the program never came to its end")
    assert outcomes == {False, True}


def run(home: Path, fatal: int) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, __file__, str(home), str(fatal)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


def main(home: Path, fatal: int) -> None:
    """What is killed at its `fatal`-th statement."""
    certificate = pem(home)
    before_every_statement(Countdown(fatal))
    with Registry(home / "devices.db") as registry:
        enrol(registry, PLAN, certificate, POLICIES)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
