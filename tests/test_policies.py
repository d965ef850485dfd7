"""What policies allow: IAM's logic, AWS IoT's names, and no way for a client's own words to widen them."""

import json
from typing import Any

import pytest

from core.mqtt.access import Certificate
from devices.conditions import Context
from devices.patterns import PATTERN_CHARS_MAX, Pattern
from devices.policies import Decision, Policy, Resource, decide, select
from devices.policy_files import parse

CERTIFICATE = Certificate(
    "ab12", {"commonName": "press.example", "organizationName": "Plant"}, {"commonName": "authority"}, "0A", b""
)
ATTRIBUTES = {"site": "hall-1", "path": "a/b", "empty": "", "limit": "7"}
PRESS = Context("press", "press", ATTRIBUTES, CERTIFICATE, "192.0.2.7:5")
NOBODY = Context("someone")


def policy(*statements: dict[str, Any], name: str = "p") -> Policy:
    """A policy of statements as JSON would hold them; without an effect they allow."""
    lines = [{"Effect": "Allow", "Action": "*", "Resource": "*", **statement} for statement in statements]
    return parse(name, json.dumps({"Version": "2012-10-17", "Statement": lines}))


def asked(resource: str, asked_for: str, context: Context = PRESS, **more: Any) -> bool:
    """Whether one statement with this resource allows it."""
    return decide([policy({"Resource": resource, **more})], "iot:Publish", asked_for, context).allowed


def denied(resource: str, asked_for: str, context: Context = PRESS, **more: Any) -> bool:
    """Whether one Deny with this resource forbids what is allowed otherwise."""
    both = policy({}, {"Effect": "Deny", "Resource": resource, **more})
    return not decide([both], "iot:Publish", asked_for, context).allowed


def client(client_id: str, **more: Any) -> Context:
    return Context(client_id, "press", **more)


# -- effects ----------------------------------------------------------------------------------------------------------


def test_nothing_is_allowed_that_no_statement_allows() -> None:
    assert not decide([], "iot:Publish", "topic/a", PRESS).allowed
    assert not decide([parse("p", "")], "iot:Publish", "topic/a", PRESS).allowed
    assert not decide([policy({"Action": "iot:Receive"})], "iot:Publish", "topic/a", PRESS).allowed


def test_a_deny_wins_over_every_allow_wherever_it_stands() -> None:
    allow, deny = policy({}, {}, name="allow"), policy({"Effect": "Deny", "Resource": "topic/a"}, name="deny")
    for policies in ([allow, deny], [deny, allow]):
        assert not decide(policies, "iot:Publish", "topic/a", PRESS).allowed
        assert decide(policies, "iot:Publish", "topic/b", PRESS).allowed


def test_a_policy_that_does_not_exist_lets_nothing_happen() -> None:
    known = {"p": policy({})}
    assert decide(select(known, ["p"]), "iot:Publish", "topic/a", PRESS).allowed
    decision = decide(select(known, ["p", "gone"]), "iot:Publish", "topic/a", PRESS)
    assert not decision.allowed
    assert "'gone'" in decision.reason


def test_a_decision_names_its_statement() -> None:
    text = """
Version: "2012-10-17"
Statement:
  - {Effect: Allow, Action: iot:Publish, Resource: "*"}
  - Sid: NotHere
    Effect: Deny
    Action: iot:Publish
    Resource: topic/a
"""
    decision: Decision = decide([parse("p", text, "p.yaml")], "iot:Publish", "topic/a", PRESS)
    assert decision.statement is not None
    assert decision.policy is not None
    found = decision.statement
    assert (found.index, found.sid, found.effect, found.line) == (1, "NotHere", "Deny", 5)
    assert (decision.policy.name, decision.policy.file) == ("p", "p.yaml")


@pytest.mark.parametrize(
    ("action", "allowed"),
    [("iot:Publish", True), ("IOT:publish", True), ("iot:Pub*", True), ("iot:*", True), ("*", True),
     ("iot:?ublish", True), ("iot:RetainPublish", False), ("iot:GetRetainedMessage", False), ("iotjobsdata:*", False)],
)  # fmt: skip
def test_actions_may_hold_wildcards_and_any_case(action: str, allowed: bool) -> None:
    assert asked("*", "topic/a", Action=["iot:Receive", action]) is allowed


# -- resources --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "arn:aws:iot:eu-west-1:123456789012:", "arn:aws-cn:iot:*:*:", "arn:aws:iot:::"])
def test_a_resource_is_an_arn_or_its_last_part(prefix: str) -> None:
    assert asked(f"{prefix}topic/plant/1", "topic/plant/1")
    assert not asked(f"{prefix}topic/plant/1", "topic/plant/10")
    assert asked(f"{prefix}*", "topic/plant/1")


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("topic/plant/*", "topic/plant/1/x", True),
        ("topic/plant/*", "topic/plant/", True),
        ("topic/plant/*", "topic/plant", False),
        ("topic/*/alarm", "topic/plant/1/2/alarm", True),
        ("topic/*/alarm", "topic/plant/alarm/off", False),
        ("topic/a?c", "topic/abc", True),
        ("topic/a?c", "topic/a/c", True),
        ("topic/a?c", "topic/ac", False),
        ("topic/*a?c*", "topic/xxabcyy", True),
        ("topic/*a?c*d?", "topic/aac-abc-dd", True),
        ("topic/*a?c*d?", "topic/abd-dd", False),
        ("topic/*ab*ab", "topic/ab", False),
        ("topic/*ab*ab", "topic/abab", True),
        ("topic/**", "topic/", True),
        ("topic/${*}", "topic/*", True),
        ("topic/${*}", "topic/a", False),
        ("topic/${?}${$}", "topic/?$", True),
        ("topic/$aws/x", "topic/$aws/x", True),
        ("topic/A", "topic/a", False),
        ("topic/a.c", "topic/abc", False),
        ("topic/[ab]", "topic/a", False),
        ("topicfilter/a/+/#", "topicfilter/a/+/#", True),
        ("topicfilter/a/+/#", "topicfilter/a/b/#", False),
        ("topicfilter/a/#", "topicfilter/a/b", False),
        ("topicfilter/a/*", "topicfilter/a/#", True),
        ("topic/*", "topicfilter/a", False),
        ("topic*", "topicfilter/a", True),
        ("?opic/a", "topic/a", True),
        ("topic/a\nb", "topic/a\nb", True),
        ("topic/?", "topic/\U0001f600", True),
    ],
)
def test_wildcards_of_resources(pattern: str, text: str, matches: bool) -> None:
    assert asked(pattern, text) is matches
    assert denied(pattern, text) is matches


@pytest.mark.parametrize(
    "text",
    ["", "topics/x", "topic", "Topic/x", "arn:aws:s3:::bucket", "arn:aws:iot:eu-west-1:topic/x", "arn:*", "cert/x",
     "x*", "arn:aws:iot:eu-west-1:123456789012:rule/x", "${iot:ClientId}/x", "arn:aws:iot:${iot:ClientId}::topic/x",
     "topic/${", "topic/${iot:ClientId", "topic/${iot:Nonsense}", "topic/${tidegate:Topic}", "topic/${}",
     "topic/" + "x" * PATTERN_CHARS_MAX, "topic/" + "${iot:ClientId}" * 17],
)  # fmt: skip
def test_a_resource_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Resource(text)


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [("*a" * 500, False), ("*a" * 500 + "*", True), ("*a?" * 300 + "b", False), ("*" + "a?" * 500 + "b*", False),
     ("?*" * 500, True), ("*" + "?a" * 500 + "*c", True)],
)  # fmt: skip
def test_a_pattern_of_many_wildcards_comes_to_an_end(pattern: str, matches: bool) -> None:
    glob = Pattern(pattern).bind(lambda _: None)  # going back for another try, it would take for ever
    assert glob is not None
    assert glob.matches("a" * 65_000 + "c") is matches


# -- variables --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("iot:ClientId", "press"),
        ("IOT:clientid", "press"),
        ("iot:Connection.Thing.ThingName", "press"),
        ("iot:Connection.Thing.Attributes[site]", "hall-1"),
        ("iot:CertificateId", "ab12"),
        ("iot:Certificate.Subject.CommonName", "press.example"),
        ("iot:Certificate.Subject.Organization", "Plant"),
        ("iot:Certificate.Issuer.CommonName", "authority"),
        ("aws:SourceIp", "192.0.2.7"),
    ],
)
def test_variables_have_the_values_of_the_connection(variable: str, value: str) -> None:
    assert asked(f"topic/x/${{{variable}}}/y", f"topic/x/{value}/y")
    assert not asked(f"topic/x/${{{variable}}}/y", "topic/x/other/y")


@pytest.mark.parametrize("client_id", ["*", "?", "**", "*?", "a*", "?ress", "[a-z]*", "${*}", "${iot:ClientId}"])
def test_a_value_is_never_a_wildcard(client_id: str) -> None:
    for text in ("press", "a", "ab", "presses"):
        assert not asked("client/${iot:ClientId}", f"client/{text}", client(client_id))
        assert not asked("topic/${iot:ClientId}/x", f"topic/{text}/x", client(client_id))
    assert asked("client/${iot:ClientId}", f"client/{client_id}", client(client_id))


@pytest.mark.parametrize("client_id", ["#", "+", "a/b", "/", "..//", "../..", "a/#", "$aws", "$SYS/x"])
def test_a_value_never_reaches_beyond_its_level(client_id: str) -> None:
    for kind in ("topicfilter", "topic", "thing"):
        assert not asked(f"{kind}/my/${{iot:ClientId}}/x", f"{kind}/my/{client_id}/x", client(client_id))
        assert not asked(f"{kind}/${{iot:ClientId}}", f"{kind}/{client_id}", client(client_id))
        assert not asked("*/${iot:ClientId}", f"{kind}/{client_id}", client(client_id))
    assert asked("client/${iot:ClientId}", f"client/{client_id}", client(client_id))


def test_a_value_may_look_like_a_part_of_python() -> None:
    for client_id in ("__class__", "{0.__class__}", "%s", "\\1"):
        assert asked("topic/${iot:ClientId}", f"topic/{client_id}", client(client_id))
        assert not asked("topic/${iot:ClientId}", "topic/str", client(client_id))


@pytest.mark.parametrize(
    ("variable", "context"),
    [
        ("iot:Connection.Thing.ThingName", NOBODY),
        ("iot:Connection.Thing.Attributes[other]", PRESS),
        ("iot:Connection.Thing.Attributes[Site]", PRESS),
        ("iot:Connection.Thing.Attributes[empty]", PRESS),
        ("iot:Connection.Thing.Attributes[path]", PRESS),
        ("iot:Certificate.Subject.CommonName", NOBODY),
        ("iot:Certificate.Subject.Title", PRESS),
        ("aws:SourceIp", NOBODY),
        ("iot:ClientId", client("")),
        ("iot:ClientId", client("#")),
        ("iot:ClientId", client("x" * 2_000)),
    ],
)
def test_a_variable_without_a_usable_value_allows_nothing_and_denies_anything(variable: str, context: Context) -> None:
    resource = f"topic/x/${{{variable}}}/y"
    for text in ("topic/x//y", "topic/x/a/y", f"topic/x/${{{variable}}}/y", "topic/x/*/y", "topic/x/a/b/y"):
        assert not asked(resource, text, context)
        assert denied(resource, text, context)
    assert not denied(resource, "topic/z/a/y", context)


def test_other_resources_of_a_statement_stay() -> None:
    both: Any = ["topic/${iot:Connection.Thing.ThingName}", "topic/a"]
    assert asked(both, "topic/a", NOBODY)


# -- conditions -------------------------------------------------------------------------------------------------------


def when(condition: dict[str, Any], context: Context = PRESS, topic: str = "topic/plant/1") -> bool:
    return asked("*", topic, context, Condition=condition)


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({"StringEquals": {"iot:ClientId": "press"}}, True),
        ({"StringEquals": {"iot:clientid": ["x", "press"]}}, True),
        ({"StringEquals": {"iot:ClientId": "pres*"}}, False),
        ({"StringEquals": {"iot:ClientId": "Press"}}, False),
        ({"StringEquals": {"iot:ClientId": "${iot:Connection.Thing.ThingName}"}}, True),
        ({"StringNotEquals": {"iot:ClientId": ["x", "press"]}}, False),
        ({"StringNotEquals": {"iot:ClientId": ["x", "y"]}}, True),
        ({"StringLike": {"iot:Certificate.Subject.CommonName": "*.example"}}, True),
        ({"StringLike": {"iot:Certificate.Subject.CommonName": "?.example"}}, False),
        ({"StringLike": {"iot:Certificate.Subject.CommonName": "${iot:ClientId}.*"}}, True),
        ({"StringNotLike": {"iot:Certificate.Issuer.CommonName": "auth*"}}, False),
        ({"Bool": {"iot:Connection.Thing.IsAttached": "true"}}, False),
        ({"Bool": {"iot:Connection.Thing.IsAttached": False}}, True),
        ({"NumericLessThan": {"iot:Connection.Thing.Attributes[limit]": "7"}}, False),
        ({"NumericLessThanEquals": {"iot:Connection.Thing.Attributes[limit]": 7}}, True),
        ({"NumericGreaterThan": {"iot:Connection.Thing.Attributes[limit]": 6.5}}, True),
        ({"NumericGreaterThanEquals": {"iot:Connection.Thing.Attributes[limit]": "8"}}, False),
        ({"NumericEquals": {"iot:Connection.Thing.Attributes[limit]": ["1", "7.0"]}}, True),
        ({"NumericNotEquals": {"iot:Connection.Thing.Attributes[limit]": "7"}}, False),
        ({"NumericLessThan": {"iot:Connection.Thing.Attributes[site]": "7"}}, False),
        ({"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}, True),
        ({"IpAddress": {"aws:SourceIp": ["192.0.3.0/24", "2001:db8::/32"]}}, False),
        ({"NotIpAddress": {"aws:SourceIp": "192.0.2.7"}}, False),
        ({"NotIpAddress": {"aws:SourceIp": "192.0.2.8"}}, True),
        # A key without a value fails, negated it holds, and IfExists lets it pass.
        ({"StringEquals": {"iot:Connection.Thing.Attributes[other]": ""}}, False),
        ({"StringLike": {"iot:Connection.Thing.Attributes[other]": "*"}}, False),
        ({"StringNotEquals": {"iot:Connection.Thing.Attributes[other]": "x"}}, True),
        ({"StringEqualsIfExists": {"iot:Connection.Thing.Attributes[other]": "x"}}, True),
        ({"StringEqualsIfExists": {"iot:ClientId": "x"}}, False),
        # Several operators and keys must all hold.
        ({"StringEquals": {"iot:ClientId": "press", "iot:CertificateId": "x"}}, False),
        ({"StringEquals": {"iot:ClientId": "press"}, "Bool": {"iot:Connection.Thing.IsAttached": "true"}}, False),
        # A value is no wildcard here either.
        ({"StringLike": {"iot:CertificateId": "${iot:ClientId}"}}, False),
    ],
)
def test_conditions(condition: dict[str, Any], holds: bool) -> None:
    assert when(condition) is holds
    assert denied("*", "topic/plant/1", Condition=condition) is holds


def test_a_clients_own_words_are_no_wildcards_in_conditions() -> None:
    condition = {"StringLike": {"iot:CertificateId": "${iot:ClientId}"}}
    assert not when(condition, Context("*", certificate=CERTIFICATE))
    assert not when(condition, Context("??1?", certificate=CERTIFICATE))
    assert when(condition, Context("ab12", certificate=CERTIFICATE))


@pytest.mark.parametrize("operator", ["StringEquals", "StringNotEquals", "StringLike", "StringNotLike"])
def test_a_condition_that_cannot_be_told_counts_against_the_client(operator: str) -> None:
    condition = {operator: {"iot:ClientId": "${iot:Connection.Thing.ThingName}"}}
    assert not when(condition, NOBODY)
    assert denied("*", "topic/a", NOBODY, Condition=condition)


@pytest.mark.parametrize("address", ["[::ffff:192.0.2.7]:5", "192.0.2.7:5"])
def test_an_address_is_the_same_on_a_dual_stack_socket(address: str) -> None:
    assert when({"IpAddress": {"aws:SourceIp": "192.0.2.7"}}, Context("x", address=address))


def test_a_local_client_has_no_address() -> None:
    assert not when({"IpAddress": {"aws:SourceIp": "0.0.0.0/0"}}, NOBODY)
    assert when({"IpAddress": {"aws:SourceIp": "2001:db8::/32"}}, Context("x", address="[2001:db8::1]:5"))


def test_a_condition_may_look_at_the_topic() -> None:
    ordinary = {"StringNotLike": {"tidegate:Topic": "$*"}}
    assert when(ordinary, topic="topic/a/$b")
    assert not when(ordinary, topic="topic/$SYS/x")
    assert not when(ordinary, topic="topicfilter/$SYS/#")
    assert when(ordinary, topic="client/$x")  # which is no topic
    assert denied("*", "topic/$SYS/x", Condition={"StringLike": {"tidegate:Topic": "$SYS/*"}})
    assert not denied("*", "topic/a", Condition={"StringLike": {"tidegate:Topic": "$SYS/*"}})
