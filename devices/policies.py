"""AWS IoT policies: whether what a client asks for is allowed, and which statement says so.

The logic is IAM's: nothing is allowed that no statement allows, and a Deny wins over every Allow. Decisions are values
in, values out. Will not read files (`devices.policy_files`), nor know who a client is (`devices.access`).

Invariants:
1. A value that replaces a variable never acts as a wildcard, and never reaches beyond its own level of a topic: one
   with `/`, `+`, `#` or `$` in it is not used in a topic, filter or thing.
2. A variable without a usable value makes the resource of an Allow match nothing; in a Deny it stands for `*`.
3. One of several policies that does not exist allows nothing, whatever the others say: what it denied is not known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from devices.conditions import Condition, Context, Key, variable_named
from devices.patterns import PATTERN_CHARS_MAX, Glob, Pattern, Wild

ACTIONS = (
    "iot:Connect",
    "iot:Publish",
    "iot:Subscribe",
    "iot:Receive",
    "iot:RetainPublish",
    "iot:GetThingShadow",
    "iot:UpdateThingShadow",
    "iot:DeleteThingShadow",
    "iot:ListNamedShadowsForThing",
)
TYPES = ("client/", "topic/", "topicfilter/", "thing/")

VALUE_CHARS_MAX = 1_024  # of what replaces a variable; attributes have up to 800 characters, names 128
_NOT_IN_TOPICS = frozenset("/+#$")


class Resource:
    """`topic/plant/*`: a pattern for what is acted on. Raises ValueError that says what is wrong with it.

    Written as an ARN, its partition, region and account are of no account here.
    """

    __slots__ = ("_keys", "_levels", "_pattern", "kind", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > PATTERN_CHARS_MAX:
            raise ValueError(f"longer than {PATTERN_CHARS_MAX:,} characters")
        self._pattern = Pattern(_without_arn(text))
        self._keys: dict[str, Key] = {name: variable_named(name) for name in self._pattern.variables}
        self.kind = next((kind for kind in TYPES if self._pattern.text.startswith(kind)), "")  # "" may match several
        self._levels = self.kind != "client/"  # an identifier has no levels

    def bind(self, context: Context, missing: Wild | None) -> Glob | None:
        """What it matches for one connection; None when that is nothing."""

        def value(name: str) -> str | None:
            found = self._keys[name](context)
            if not found or len(found) > VALUE_CHARS_MAX or (self._levels and not _NOT_IN_TOPICS.isdisjoint(found)):
                return None
            return found

        return self._pattern.bind(value, missing=missing)


def _without_arn(text: str) -> str:
    """`topic/plant` of `arn:aws:iot:eu-west-1:123456789012:topic/plant`."""
    if text.startswith("arn:"):
        parts = text.split(":", 5)
        if len(parts) < 6 or parts[2] != "iot" or "${" in "".join(parts[:5]):
            raise ValueError("write arn:aws:iot:REGION:ACCOUNT:TYPE/NAME, or TYPE/NAME alone")
        text = parts[5]
    if not text.startswith(TYPES):
        stop = min((at for at in map(text.find, "*?") if at >= 0), default=-1)  # a wildcard within the type
        if stop < 0 or not any(kind.startswith(text[:stop]) for kind in TYPES):
            raise ValueError(f"begins with none of {', '.join(TYPES)}")
    return text


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement: `index` counts from 0 in its document, `line` from 1 in its file."""

    index: int
    sid: str
    allow: bool
    actions: frozenset[str]
    resources: tuple[Resource, ...]
    conditions: tuple[Condition, ...] = ()
    line: int = 0

    @property
    def effect(self) -> str:
        """`Allow` or `Deny`."""
        return "Allow" if self.allow else "Deny"


@dataclass(frozen=True, slots=True)
class Policy:
    """A document by its name. `file` is where it stands, empty when it is built in; `exists` is False for a gap."""

    name: str
    statements: tuple[Statement, ...]
    file: str = ""
    exists: bool = True


PolicySet = Mapping[str, Policy]
"""Every policy by its name."""


def select(policies: PolicySet, names: Sequence[str]) -> list[Policy]:
    """The policies of these names; one that is not there becomes one that allows nothing."""
    return [policies.get(name) or Policy(name, (), exists=False) for name in names]


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to one question: the statement that gives it, its policy, and the reason in words."""

    allowed: bool
    reason: str
    policy: Policy | None = None
    statement: Statement | None = None


class _Bound:
    """A statement for one connection and one action."""

    __slots__ = ("_globs", "_of_topic", "policy", "statement")

    def __init__(self, policy: Policy, statement: Statement, globs: list[Glob], of_topic: list[Condition]) -> None:
        self.policy = policy
        self.statement = statement
        self._globs = globs
        self._of_topic = of_topic

    def matches(self, resource: str, context: Context) -> bool:
        if not any(glob.matches(resource) for glob in self._globs):
            return False
        if not self._of_topic:
            return True
        kind, _, name = resource.partition("/")
        asked = replace(context, topic=name if kind in ("topic", "topicfilter") else None)
        return _satisfied(self._of_topic, asked, self.statement)


class Permissions:
    """What policies let the client of one connection do.

    Statements are prepared once for each action and kind of resource that is asked about.
    """

    __slots__ = ("_bound", "_context", "_policies", "_refusal")

    def __init__(self, policies: Sequence[Policy], context: Context) -> None:
        self._policies = policies
        self._context = context
        self._bound: dict[tuple[str, str], list[_Bound]] = {}
        gap = next((policy for policy in policies if not policy.exists), None)
        self._refusal = (
            None if gap is None else Decision(False, f"there is no policy {gap.name!r}, so nothing is allowed", gap)
        )

    def decide(self, action: str, resource: str) -> Decision:
        """Whether `action`, one of ACTIONS, is allowed on `resource`: "topic/plant/1", "client/press", …"""
        if self._refusal is not None:
            return self._refusal
        kind = resource[: resource.find("/") + 1]
        bound = self._bound.get((action, kind))
        if bound is None:
            bound = sorted(self._prepare(action, kind), key=lambda entry: entry.statement.allow)
            self._bound[action, kind] = bound
        for entry in bound:  # every Deny comes before the first Allow
            if entry.matches(resource, self._context):
                allow, verb = entry.statement.allow, "allowed" if entry.statement.allow else "denied"
                return Decision(allow, f"{verb} by a statement", entry.policy, entry.statement)
        if not self._policies:
            return Decision(False, "no policy applies")
        return Decision(False, "no statement allows it")

    def _prepare(self, action: str, kind: str) -> list[_Bound]:
        found = []
        for policy in self._policies:
            for statement in policy.statements:
                if action not in statement.actions:
                    continue
                fixed = [condition for condition in statement.conditions if not condition.of_topic]
                if not _satisfied(fixed, self._context, statement):
                    continue
                missing = None if statement.allow else Wild.ANY
                bound = [x.bind(self._context, missing) for x in statement.resources if x.kind in ("", kind)]
                globs = [glob for glob in bound if glob is not None]
                if globs:
                    of_topic = [condition for condition in statement.conditions if condition.of_topic]
                    found.append(_Bound(policy, statement, globs, of_topic))
        return found


def _satisfied(conditions: list[Condition], context: Context, statement: Statement) -> bool:
    """Whether all hold; one that cannot be told holds against the client."""
    results = [condition.holds(context) for condition in conditions]
    return False not in results and (not statement.allow or None not in results)


def decide(policies: Sequence[Policy], action: str, resource: str, context: Context) -> Decision:
    """The answer to one question, for who does not ask many."""
    return Permissions(policies, context).decide(action, resource)
