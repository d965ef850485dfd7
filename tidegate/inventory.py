"""What the commands of `tidegate devices` look up in the registry, change in it and show of it.

A certificate may be named by the beginning of its id. Decides which certificates a name means; nothing of it touches
files or daemons.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from core.cli import out, print_facts, print_rows
from devices.errors import RegistryError
from devices.registry import Registered, Registry, Status, Thing

ID_CHARS_MIN = 8  # of the 64; with fewer, two certificates of a large site may begin alike
ID_CHARS_SHOWN = 16
NEVER_MS = 253_402_300_799_000  # 9999-12-31T23:59:59Z, which means no end


def known(registry: Registry, name: str) -> Thing:
    """The device of that name; raises RegistryError."""
    if (thing := registry.things.get(name)) is None:
        raise RegistryError(f"there is no device {name!r}; `tidegate devices list` shows all")
    return thing


def certificate(registry: Registry, beginning: str) -> Registered:
    """The certificate whose id begins so; raises RegistryError unless there is exactly one."""
    text = beginning.lower()
    found = [each for key, each in registry.certificates.items() if len(text) >= ID_CHARS_MIN and key.startswith(text)]
    if len(found) != 1:
        many = f"{len(found)} certificates begin with" if found else "there is no certificate"
        raise RegistryError(f"{many} {beginning!r}; write at least {ID_CHARS_MIN} characters of its id")
    return found[0]


def revoke(registry: Registry, certificates: Sequence[Registered]) -> list[str]:
    """Revoke those that are not yet; their ids."""
    usable = [each.id for each in certificates if each.status is not Status.REVOKED]
    for each in usable:
        registry.set_status(each, Status.REVOKED)
    return usable


def lock_out(registry: Registry, name: str) -> list[str]:
    """Revoke a device's certificates and take its password, or revoke one certificate; what was revoked."""
    thing = registry.things.get(name)
    if thing is None and len(name) < ID_CHARS_MIN:
        raise RegistryError(f"there is no device {name!r}; `tidegate devices list` shows all")
    if thing is None:
        return revoke(registry, [certificate(registry, name)]) or _nothing(name)
    revoked = revoke(registry, registry.certificates_of(name))
    if thing.password is not None:
        registry.set_password(name, None)
        revoked.append("password")
    return revoked or _nothing(name)


def _nothing(name: str) -> list[str]:
    raise RegistryError(
        f"{name} has no certificate or password here that is not revoked; what an authority of your own has issued, "
        "its revocation list revokes"
    )


def activate(registry: Registry, beginning: str, name: str | None) -> str:
    """Let a certificate in, as a device's that it has or is given now; that device's name."""
    found = certificate(registry, beginning)
    name = name or found.thing
    if name is None:
        raise RegistryError("the certificate belongs to no device; say whose it is with --name")
    if name not in registry.things:
        registry.put_thing(name)
    registry.attach(found.id, name)
    registry.set_status(found.id, Status.ACTIVE)
    return name


def everything(registry: Registry) -> list[dict[str, Any]]:
    """Every device by name, then a nameless entry for each certificate that belongs to none."""
    owned: dict[str | None, list[Registered]] = {}
    for each in sorted(registry.certificates.values(), key=lambda each: each.created_at):
        owned.setdefault(each.thing, []).append(each)
    devices = [_facts(thing, owned.get(name, [])) for name, thing in sorted(registry.things.items())]
    return devices + [_facts(None, [each]) for each in owned.get(None, [])]


def device_facts(registry: Registry, thing: Thing) -> dict[str, Any]:
    """One device."""
    return _facts(thing, registry.certificates_of(thing.name))


def _facts(thing: Thing | None, certificates: Sequence[Registered]) -> dict[str, Any]:
    return {
        "name": thing.name if thing else None,
        "policies": list(thing.policies) if thing else [],
        "attributes": dict(thing.attributes) if thing else {},
        "password": thing is not None and thing.password is not None,
        "created": _time(thing.created_at) if thing else None,
        "certificates": [certificate_facts(each) for each in certificates],
    }


def certificate_facts(registered: Registered) -> dict[str, Any]:
    """What there is to say about a certificate; `expires` is None when it never does."""
    ends = registered.expires_at < NEVER_MS
    return {
        "id": registered.id,
        "status": registered.status.value,
        "created": _time(registered.created_at),
        "expires": _time(registered.expires_at) if ends else None,
    }


def print_table(found: Sequence[dict[str, Any]]) -> None:
    """One line per certificate, and one for each device without any."""
    rows = [
        {
            "name": facts["name"],
            "policies": facts["policies"] or "(default)",
            "certificate": each["id"][:ID_CHARS_SHOWN] if each else None,
            "status": each["status"] if each else None,
            "expires": (each["expires"] or "never") if each else None,
            "password": facts["password"],
            "created": each["created"] if each else facts["created"],
        }
        for facts in found
        for each in facts["certificates"] or [None]
    ]
    print_rows(rows)


def print_device(facts: dict[str, Any]) -> None:
    """A device, then its certificates."""
    attributes = [f"{key}={value}" for key, value in facts["attributes"].items()]
    shown = {"policies": facts["policies"] or "(default)", "attributes": attributes or None}
    print_facts({key: shown.get(key, value) for key, value in facts.items() if key != "certificates"})
    if facts["certificates"]:
        out.print()
        print_rows({**each, "expires": each["expires"] or "never"} for each in facts["certificates"])


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
