"""What is known of a connection, by the names that AWS IoT has for it, and the conditions that policies set on it.

The names serve as policy variables and as condition keys, in any case (AWS IoT Core Developer Guide, "AWS IoT Core
policy variables"; IAM User Guide, "Condition operators"). Will not decide anything: `devices.policies` does.

A key without a value fails a condition, and satisfies a negated one, as at AWS. A condition that compares with a
variable without a value is unknown (None), and whoever asks must choose the safe side.
"""

import difflib
import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from core.mqtt.access import Certificate
from devices.patterns import Pattern

TOPIC_KEY = "tidegate:topic"  # known per question, not per connection


@dataclass(frozen=True, slots=True)
class Context:
    """Who asks. `thing` is a device's name, `attached` whether it stands in the registry with what it showed.

    `address` is "host:port" or "local"; `client_is_thing` says that the client identifier is the name of a registered
    thing; `topic` is the topic or filter that is asked about, None for what has none.
    """

    client_id: str
    thing: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    certificate: Certificate | None = None
    address: str = "local"
    attached: bool = False
    client_is_thing: bool = False
    topic: str | None = None


Key = Callable[[Context], str | None]

# AWS's names for the parts of a distinguished name, and OpenSSL's.
NAME_PARTS = {
    "CommonName": "commonName",
    "Organization": "organizationName",
    "OrganizationalUnit": "organizationalUnitName",
    "Country": "countryName",
    "State": "stateOrProvinceName",
    "SerialNumber": "serialNumber",
    "DistinguishedNameQualifier": "dnQualifier",
    "Title": "title",
    "Surname": "surname",
    "GivenName": "givenName",
    "Initials": "initials",
    "Pseudonym": "pseudonym",
    "GenerationQualifier": "generationQualifier",
}

_ATTRIBUTE = re.compile(r"iot:connection\.thing\.attributes\[([^\[\]]{1,128})\]", re.IGNORECASE)


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _subject(part: str, context: Context) -> str | None:
    return context.certificate.subject.get(part) if context.certificate else None


def _issuer(part: str, context: Context) -> str | None:
    return context.certificate.issuer.get(part) if context.certificate else None


def _attribute(name: str, context: Context) -> str | None:
    return context.attributes.get(name)


def _source_ip(context: Context) -> str | None:
    found = _address(context.address.rpartition(":")[0].strip("[]"))
    return None if found is None else str(found)


_KEYS: dict[str, Key] = {
    "iot:ClientId": lambda context: context.client_id,
    "iot:Connection.Thing.ThingName": lambda context: context.thing,
    "iot:Connection.Thing.IsAttached": lambda context: _truth(context.attached),
    "iot:CertificateId": lambda context: context.certificate.id if context.certificate else None,
    "iot:Certificate.SerialNumber": lambda context: context.certificate.serial if context.certificate else None,
    **{f"iot:Certificate.Subject.{name}": partial(_subject, part) for name, part in NAME_PARTS.items()},
    **{f"iot:Certificate.Issuer.{name}": partial(_issuer, part) for name, part in NAME_PARTS.items()},
    "aws:SourceIp": _source_ip,
    "tidegate:ClientIdIsThing": lambda context: _truth(context.client_is_thing),
    "tidegate:Topic": lambda context: context.topic,
}
_BY_LOWER = {name.lower(): key for name, key in _KEYS.items()}


def key_named(name: str) -> Key:
    """What gives the value of a variable or key. Raises ValueError when there is none of that name."""
    if match := _ATTRIBUTE.fullmatch(name):
        return partial(_attribute, match[1])
    found = _BY_LOWER.get(name.lower())
    if found is not None:
        return found
    near = difflib.get_close_matches(name, [*_KEYS, "iot:Connection.Thing.Attributes[name]"], n=1)
    raise ValueError(f"{name[:80]!r} is not known here" + (f"; did you mean {near[0]!r}?" if near else ""))


def variable_named(name: str) -> Key:
    """The same for a variable: what is only known per question cannot be one."""
    if name.lower() == TOPIC_KEY:
        raise ValueError(f"{name!r} is a condition key, not a variable")
    return key_named(name)


# -- operators --------------------------------------------------------------------------------------------------------


class Condition:
    """One operator on one key: true when any of the values, or for a negated operator none of them, matches.

    Raises ValueError that says what is wrong with the operator, the key or a value.
    """

    __slots__ = ("_if_exists", "_key", "_negated", "_tests", "of_topic")

    def __init__(self, operator: str, key: str, values: list[str]) -> None:
        plain = operator.removesuffix("IfExists")
        if plain not in _OPERATORS:
            raise ValueError(f"operator {_why_not(operator)}")
        make, self._negated = _OPERATORS[plain]
        self._if_exists = plain != operator
        self._key = key_named(key)
        self.of_topic = key.lower() == TOPIC_KEY
        if make is _in_network and key.lower() != "aws:sourceip":
            raise ValueError(f"{operator} is for aws:SourceIp")
        self._tests = [make(value) for value in values]

    def holds(self, context: Context) -> bool | None:
        """Whether it holds; None when that depends on a variable without a value."""
        actual = self._key(context)
        if actual is None:
            return self._negated or self._if_exists
        results = [test(actual, context) for test in self._tests]
        if True in results:
            return not self._negated
        return None if None in results else self._negated


Test = Callable[[str, Context], bool | None]


def _matches(pattern: str, *, wildcards: bool) -> Test:
    wanted = Pattern(pattern, wildcards=wildcards)
    keys = {name: variable_named(name) for name in wanted.variables}

    def test(actual: str, context: Context) -> bool | None:
        glob = wanted.bind(lambda name: keys[name](context))
        return None if glob is None else glob.matches(actual)

    return test


def _is_truth(wanted: str) -> Test:
    if wanted.lower() not in ("true", "false"):
        raise ValueError(f'{wanted[:40]!r} is neither "true" nor "false"')
    return lambda actual, _: actual.lower() == wanted.lower()


def _compares(compare: Callable[[float, float], bool], wanted: str) -> Test:
    limit = _number(wanted)
    if limit is None:
        raise ValueError(f"{wanted[:40]!r} is no number")

    def test(actual: str, _: Context) -> bool:
        number = _number(actual)
        return number is not None and compare(number, limit)

    return test


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _in_network(wanted: str) -> Test:
    try:
        network = ipaddress.ip_network(wanted, strict=False)
    except ValueError:
        raise ValueError(f'{wanted[:60]!r} is no address or range; write "192.0.2.0/24" or "2001:db8::/32"') from None

    def test(actual: str, _: Context) -> bool:
        address = _address(actual)
        return address is not None and address in network

    return test


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address as it would be written in a policy: an IPv4 client of a dual-stack socket is an IPv4 address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


# Operator → what makes a test of a value, and whether it is negated.
_OPERATORS: dict[str, tuple[Callable[[str], Test], bool]] = {
    "StringEquals": (partial(_matches, wildcards=False), False),
    "StringNotEquals": (partial(_matches, wildcards=False), True),
    "StringLike": (partial(_matches, wildcards=True), False),
    "StringNotLike": (partial(_matches, wildcards=True), True),
    "Bool": (_is_truth, False),
    "NumericEquals": (partial(_compares, float.__eq__), False),
    "NumericNotEquals": (partial(_compares, float.__eq__), True),
    "NumericLessThan": (partial(_compares, float.__lt__), False),
    "NumericLessThanEquals": (partial(_compares, float.__le__), False),
    "NumericGreaterThan": (partial(_compares, float.__gt__), False),
    "NumericGreaterThanEquals": (partial(_compares, float.__ge__), False),
    "IpAddress": (_in_network, False),
    "NotIpAddress": (_in_network, True),
}


def _why_not(operator: str) -> str:
    if operator.startswith(("ForAllValues:", "ForAnyValue:")):
        return f"{operator[:60]!r}: there are no keys with several values here; leave out the part before the ':'"
    near = difflib.get_close_matches(operator, list(_OPERATORS), n=1)
    return f"{operator[:60]!r} is not known here; " + (
        f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_OPERATORS)}, each also with IfExists"
    )
