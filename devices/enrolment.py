"""A device enters the registry: its thing and its certificate, in one transaction, by the plan of a template.

Decides what becomes of a thing that is there already: as `OverrideSettings` says, and only if the template gives it at
least the policies that it has. Policies belong to things here, not to certificates as at AWS; without that rule a
provisioning claim could make itself a certificate for a device that may do more.

Invariant: on return everything is on the disk; after any error or crash nothing is, not even in part.
"""

from collections.abc import Container

from core.errors import TidegateError
from devices.registry import Registered, Registry, Status, Thing
from devices.templates import Override, Plan


class Conflict(TidegateError):
    """The thing exists already, and the template does not allow it to be provisioned again."""


class UnknownPolicy(TidegateError):
    """The template names a policy that there is not: the operator's mistake, not the device's."""


def enrol(registry: Registry, plan: Plan, pem: str, policies: Container[str]) -> tuple[Thing, Registered]:
    """Make or update the thing and register its certificate; `policies` are the names of those that exist.

    Writes to the disk: call it in a thread. Raises Conflict, UnknownPolicy, RegistryError or StorageError.
    """
    if unknown := [name for name in plan.policies if name not in policies]:
        raise UnknownPolicy(f"there is no policy {unknown[0]!r}; add it to the policies directory")
    with registry.transaction():
        before = registry.things.get(plan.thing)
        attributes = dict(plan.attributes)
        if before is not None:
            _check(before, plan)
            if plan.override is Override.DO_NOTHING:
                attributes = dict(before.attributes)
            elif plan.override is Override.MERGE:
                attributes = {**before.attributes, **attributes}
        thing = registry.put_thing(plan.thing, attributes=attributes, policies=plan.policies)
        status = Status.ACTIVE if plan.active else Status.INACTIVE
        return thing, registry.put_certificate(pem, plan.thing, status)


def _check(before: Thing, plan: Plan) -> None:
    """Raise Conflict unless the thing may be provisioned again."""
    if plan.override is Override.FAIL:
        advice = "the template's OverrideSettings would have to allow it"
        raise Conflict(f"the device {before.name!r} exists already; {advice}")
    # Empty means the default policies, in both: they are the same only when both are.
    gives = plan.policies or ("",)
    if any(policy not in gives for policy in before.policies or ("",)):
        raise Conflict(f"the device {before.name!r} has policies that the template does not give")
