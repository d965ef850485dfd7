"""The same rules for AWS IoT Core: as payloads for its API, or as a CloudFormation template.

What a rule says stays as it is; what AWS needs and a rule here does without is added. A bare name (`alerts`) becomes
the ARN or URL that AWS wants, a missing role becomes the one that the caller names. In a template both are left to
CloudFormation: `Fn::Sub` with the pseudo parameters, a parameter `RoleArn`, a permission for each function that is
called. The rule's own `${…}` stand outside of any `Fn::Sub`, so CloudFormation leaves them alone.

A rule that AWS cannot run (it has a window) or its CloudFormation cannot say is not exported, and told as an Obstacle.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from rules.actions import Action, DynamoDB, IotAnalytics, Kafka, Lambda, Salesforce, parameters
from rules.actions.fields import RoleAction
from rules.engine import Rule
from rules.files import arns
from rules.files.arns import Account, is_bare
from rules.files.cloudformation import VERBATIM, spelled

Json: TypeAlias = dict[str, Any]

ROLE_PARAMETER = "RoleArn"

_COMPLETED = {  # action → the field that takes a bare name here, and what AWS wants there
    "sns": ("targetArn", arns.TOPIC),
    "sqs": ("queueUrl", arns.QUEUE_URL),
    "lambda": ("functionArn", arns.FUNCTION),
    "iotAnalytics": ("channelArn", arns.CHANNEL),
}
_PSEUDO = {"partition": "Partition", "region": "Region", "account_id": "AccountId", "suffix": "URLSuffix"}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a rule is not exported."""

    rule: str
    reason: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.reason}"


def documents(rules: Iterable[Rule], account: Account | None, role: str) -> tuple[list[Json], list[Obstacle]]:
    """One document per rule, as for `aws iot create-topic-rule --cli-input-json`, and what is left out.

    `account` completes bare names, the ARN `role` stands where a rule names none; None and "" where nobody said.
    """

    def complete(form: str, name: str) -> Any:
        if account is None:
            raise _Impossible(f"AWS wants more than the name {name!r}; say for which region and account")
        return account.fill(form, name)

    def missing_role() -> Any:
        if not role:
            raise _Impossible("AWS wants a role that may do it; say which")
        return role

    found, obstacles = [], []
    for rule in rules:
        try:
            payload = _payload(rule, complete, missing_role)
        except _Impossible as reason:
            obstacles.append(Obstacle(rule.name, str(reason)))
        else:
            found.append({"ruleName": rule.name, "topicRulePayload": payload})
    return found, obstacles


def template(rules: Iterable[Rule]) -> tuple[Json, list[Obstacle]]:
    """A CloudFormation template with the rules, and what is left out."""
    resources: Json = {}
    obstacles: list[Obstacle] = []
    needs_role = False

    def missing_role() -> Any:
        nonlocal needs_role
        needs_role = True
        return {"Ref": ROLE_PARAMETER}

    for rule in rules:
        try:
            _refuse_unknown(rule)
            payload = _payload(rule, _sub, missing_role)
        except _Impossible as reason:
            obstacles.append(Obstacle(rule.name, str(reason)))
            continue
        logical_id = _logical_id(rule.name, resources)
        properties = {"RuleName": rule.name, "TopicRulePayload": _pascal(payload)}
        resources[logical_id] = {"Type": "AWS::IoT::TopicRule", "Properties": properties}
        for function in _functions(payload):
            resources[_logical_id(f"{logical_id}Calls", resources)] = _permission(logical_id, function)
    head: Json = {"AWSTemplateFormatVersion": "2010-09-09", "Description": "Rules of Tidegate for AWS IoT Core"}
    if needs_role:
        description = "What the rules' actions may do; trusted by iot.amazonaws.com."
        head["Parameters"] = {ROLE_PARAMETER: {"Type": "String", "Description": description}}
    return {**head, "Resources": resources}, obstacles


class _Impossible(Exception):
    """This rule cannot be exported, for the reason that it says."""


# ── a payload ───────────────────────────────────────────────────────────────────────────────────────────────


def _payload(rule: Rule, complete: Callable[[str, str], Any], missing_role: Callable[[], Any]) -> Json:
    """The topic rule payload of a rule, as AWS IoT's API takes it."""
    if rule.statement.window is not None:
        raise _Impossible("AWS has no windows; GROUP BY … TUMBLING(…) runs on a Tidegate edge or cloud only")

    def written(action: Action, place: str) -> Json:
        try:
            return {action.name: _parameters(action, complete, missing_role)}
        except _Impossible as reason:
            raise _Impossible(f"{place}.{action.name}: {reason}") from None

    payload: Json = {"sql": rule.sql, "awsIotSqlVersion": str(rule.version)}
    if rule.description:
        payload["description"] = rule.description
    payload["actions"] = [written(action, f"actions[{index}]") for index, action in enumerate(rule.actions)]
    if rule.error_action is not None:
        payload["errorAction"] = written(rule.error_action, "errorAction")
    if rule.disabled:
        payload["ruleDisabled"] = True
    return payload


def _parameters(action: Action, complete: Callable[[str, str], Any], missing_role: Callable[[], Any]) -> Json:
    found = parameters(action)
    field, form = _COMPLETED.get(action.name, ("", ""))
    if field in found and is_bare(found[field]):
        found[field] = complete(form, found[field])
    if isinstance(action, Kafka) and not action.destination_arn.startswith("arn:"):
        raise _Impossible("destinationArn: AWS wants the ARN of a destination, which it gives when one is created")
    if isinstance(action, RoleAction):
        found["roleArn"] = _role(found, complete, missing_role)
    if signed := found.get("auth", {}).get("sigv4"):
        signed["roleArn"] = _role(signed, complete, missing_role)
    return found


def _role(holder: Json, complete: Callable[[str, str], Any], missing_role: Callable[[], Any]) -> Any:
    role = holder.get("roleArn")
    if role is None:
        return missing_role()
    return complete(arns.ROLE, role) if is_bare(role) else role


# ── CloudFormation ──────────────────────────────────────────────────────────────────────────────────────────


def _refuse_unknown(rule: Rule) -> None:
    """Complain about what CloudFormation's `AWS::IoT::TopicRule` has no words for."""
    for action in (*rule.actions, *([rule.error_action] if rule.error_action else [])):
        if isinstance(action, DynamoDB) and action.operation is not None:
            raise _Impossible("CloudFormation has no operation for dynamoDB; export it as json")
        if isinstance(action, IotAnalytics) and action.channel_arn is not None:
            raise _Impossible("CloudFormation has no channelArn for iotAnalytics; write channelName")
        if isinstance(action, Lambda) and action.function_arn.constant is None:
            raise _Impossible("a template in functionArn names functions that nothing can permit beforehand; use json")
        if isinstance(action, Salesforce):
            raise _Impossible("CloudFormation has no salesforce; export it as json")


def _sub(form: str, name: str) -> Json:
    """A name that CloudFormation completes when a stack is created."""
    return {"Fn::Sub": form.format(name=name, **{key: f"${{AWS::{value}}}" for key, value in _PSEUDO.items()})}


def _pascal(node: Any) -> Any:
    """Names in CloudFormation's spelling; its functions and what is nobody's names but the user's stay."""
    if isinstance(node, list):
        return [_pascal(item) for item in node]
    if not isinstance(node, dict) or node.keys() & {"Ref", "Fn::Sub"}:
        return node
    return {spelled(key): value if spelled(key) in VERBATIM else _pascal(value) for key, value in node.items()}


def _functions(payload: Json) -> list[Any]:
    """The functions that a rule calls, each once."""
    actions = [*payload["actions"], payload.get("errorAction", {})]
    called = [action["lambda"]["functionArn"] for action in actions if "lambda" in action]
    return [function for index, function in enumerate(called) if function not in called[:index]]


def _permission(logical_id: str, function: Any) -> Json:
    """What lets AWS IoT call a function for one rule."""
    return {
        "Type": "AWS::Lambda::Permission",
        "Properties": {
            "Action": "lambda:InvokeFunction",
            "FunctionName": function,
            "Principal": "iot.amazonaws.com",
            "SourceAccount": {"Ref": "AWS::AccountId"},
            "SourceArn": {"Fn::GetAtt": [logical_id, "Arn"]},
        },
    }


def _logical_id(name: str, taken: Json) -> str:
    """A logical id, which has no `_`, that nothing else in the template has."""
    plain = name.replace("_", "") or "Rule"
    candidate, number = plain, 2
    while candidate in taken or candidate == ROLE_PARAMETER:
        candidate, number = f"{plain}{number}", number + 1
    return candidate
